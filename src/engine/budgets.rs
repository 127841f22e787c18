//! Budgets of keyspaces: the memory of each, and what each may ask its origin.
//!
//! Memory is counted by a census, since nothing is kept with an item that says whose it is:
//! 1. A walk in the order of hashes looks at some items at a time, which are a fair sample of all. A round is over when it has seen
//!    [`SAMPLE_ITEMS`], or everything; then the sample, scaled to the number of items, is what each keyspace holds.
//! 2. Between rounds what is filled counts in full, and what the census removes is taken off.
//! 3. Of a keyspace that holds more than its memory the census removes the items that nobody wanted for long, as cold
//!    ones as the round before says that it takes. Each fill of it goes a step of the walk.
//! 4. Where that is not enough, at an eighth more than its memory, what is fetched for it is handed out and not kept.
//!
//! Fetches that a bound on those under way has no permit for wait here, in order, as long as somebody waits for them; beyond the
//! rate they are not begun. A hit knows nothing of all this.

use super::through::{Effect, Through};
use super::*;
use crate::hash::KeyHasher;
use crate::origin::Ticket;
use crate::origin::budget::Budget;
use crate::origin::keyspace::Keyspace;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Items after which a round of the census is over.
const SAMPLE_ITEMS: u64 = 4096;
/// Items that a tick of the engine looks at, and a fill into a keyspace that holds too much.
const TICK_ITEMS: usize = 64;
/// Items that any fill into a keyspace with a memory of its own looks at.
const FILL_ITEMS: usize = 4;
/// How soon the census goes on while a keyspace holds too much.
const BUSY_MILLIS: u64 = 10;
/// How soon to look for permits that other cores gave back.
const PERMIT_MILLIS: u64 = 1;
/// What an item takes beside its key and value.
const ITEM_OVERHEAD_BYTES: u64 = 24;
/// Classes of how long an item was not wanted.
const AGES: usize = 12;

/// What a keyspace holds of this core's memory.
#[derive(Clone, Copy, Default)]
struct Share {
    /// Bytes it may hold here; 0: no bound.
    bytes_max: u64,
    /// By the last round, filled since, removed since.
    counted: u64,
    added: u64,
    removed: u64,
    /// Of the present round, by age.
    seen: [u64; AGES],
    /// From this age on items are removed while it holds too much.
    cut: usize,
}

impl Share {
    fn bytes(&self) -> u64 {
        (self.counted + self.added).saturating_sub(self.removed)
    }

    fn is_over(&self) -> bool {
        self.bytes_max > 0 && self.bytes() > self.bytes_max
    }
}

/// Fetches that wait for a permit of their keyspace.
struct Line {
    budget: Arc<Budget>,
    waiting: VecDeque<(Ticket, Effect)>,
}

/// What an engine keeps of its keyspaces' budgets.
pub(super) struct Budgets {
    shares: Vec<Share>,
    cursor: u64,
    /// Items seen in this round, and whether it began with the first.
    sampled: u64,
    from_start: bool,
    next_step: Mono,
    lines: Vec<Line>,
    permitted: HashMap<Ticket, Arc<Budget>, KeyHasher>,
    keys: Vec<u8>,
}

impl Budgets {
    pub fn new(secret: [u64; 2]) -> Budgets {
        Budgets {
            shares: Vec::new(),
            cursor: 0,
            sampled: 0,
            from_start: true,
            next_step: Mono(0),
            lines: Vec::new(),
            permitted: HashMap::with_hasher(KeyHasher::new(secret)),
            keys: Vec::new(),
        }
    }

    fn any_over(&self) -> bool {
        self.shares.iter().any(Share::is_over)
    }
}

impl Through {
    /// Other keyspaces; `owned` of all shards are this core's.
    pub(super) fn set_budgets(&mut self, owned: u64) {
        let shards = u64::from(crate::ids::SHARD_COUNT);
        let share = |keyspace: &Arc<Keyspace>| {
            let bytes_max = keyspace.budget.memory_bytes_max;
            // Of very little each core still has something.
            let here = (u128::from(bytes_max) * u128::from(owned) / u128::from(shards)) as u64;
            Share { bytes_max: if bytes_max > 0 { here.max(1) } else { 0 }, ..Share::default() }
        };
        self.budgets.shares = self.keyspaces.list().iter().map(share).collect();
        (self.budgets.cursor, self.budgets.sampled, self.budgets.from_start) = (0, 0, true);
    }

    /// Sends a question on its way, or has it wait for a permit.
    pub(super) fn send_fetch(&mut self, budget: &Arc<Budget>, ticket: Ticket, effect: Effect) {
        if budget.fetches_max == 0 {
            return self.effects.push_back(effect);
        }
        let lines = &mut self.budgets.lines;
        let line = match lines.iter().position(|line| Arc::ptr_eq(&line.budget, budget)) {
            Some(place) => place,
            None => {
                lines.push(Line { budget: budget.clone(), waiting: VecDeque::new() });
                lines.len() - 1
            }
        };
        lines[line].waiting.push_back((ticket, effect));
        self.pump_lines();
    }

    /// A question came back, with an answer or without.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        if self.budgets.permitted.is_empty() {
            return;
        }
        if let Some(budget) = self.budgets.permitted.remove(&ticket) {
            budget.give_back();
            self.pump_lines();
        }
    }

    fn pump_lines(&mut self) {
        let Budgets { lines, permitted, .. } = &mut self.budgets;
        lines.retain_mut(|line| {
            while let Some((ticket, effect)) = line.waiting.pop_front() {
                if self.flights.of(ticket).is_none() {
                    continue;
                }
                if !line.budget.take() {
                    line.waiting.push_front((ticket, effect));
                    break;
                }
                permitted.insert(ticket, line.budget.clone());
                self.effects.push_back(effect);
            }
            !line.waiting.is_empty()
        });
    }
}

impl Engine {
    /// What a question to the origin says when the rate is used up.
    pub(super) fn rate_text(keyspace: &Keyspace) -> String {
        let rate = keyspace.budget.fetches_per_second;
        format!("ERR the keyspace {} may ask its origin {rate} times a second, and has", keyspace.name)
    }

    /// Goes on with fetches that wait for permits and with a census that has to be quick; answers when to call again.
    pub(super) fn attend_budgets(&mut self, now: Mono) -> Option<Mono> {
        let through = self.through.as_mut()?;
        if !through.budgets.lines.is_empty() {
            through.pump_lines();
        }
        let waits = (!through.budgets.lines.is_empty()).then(|| now.plus_millis(PERMIT_MILLIS));
        if !through.budgets.any_over() {
            return waits;
        }
        if now >= through.budgets.next_step {
            through.budgets.next_step = now.plus_millis(BUSY_MILLIS);
            self.take_census(now, TICK_ITEMS);
        }
        let next = self.through.as_ref()?.budgets.next_step;
        Some(waits.map_or(next, |waits| waits.min(next)))
    }

    /// A step of the census in the engine's own time.
    pub(super) fn count_keyspaces(&mut self, now: Mono) {
        if self.through.as_ref().is_some_and(|through| !through.budgets.shares.is_empty()) {
            self.take_census(now, TICK_ITEMS);
        }
    }

    /// Whether a value that came for a keyspace is to be kept; makes room for it where the keyspace holds too much.
    pub(super) fn has_memory_for(&mut self, now: Mono, index: usize, key: &[u8], value_len: usize) -> bool {
        let bytes = key.len() as u64 + value_len as u64 + ITEM_OVERHEAD_BYTES;
        let Some(share) = self.share_mut(index).filter(|share| share.bytes_max > 0) else { return true };
        let items = if share.bytes() + bytes > share.bytes_max { TICK_ITEMS } else { FILL_ITEMS };
        self.take_census(now, items);
        let Some(share) = self.share_mut(index) else { return true };
        if bytes <= share.bytes_max && share.bytes() + bytes <= share.bytes_max + share.bytes_max / 8 {
            share.added += bytes;
            return true;
        }
        let through = self.through.as_mut().expect("shares are of it");
        through.tally(index).unkept += 1;
        false
    }

    fn share_mut(&mut self, index: usize) -> Option<&mut Share> {
        self.through.as_mut()?.budgets.shares.get_mut(index)
    }

    /// Looks at about so many items: counts them, and removes those that are too many.
    fn take_census(&mut self, now: Mono, items: usize) {
        let through = self.through.as_mut().expect("callers look");
        let mut keys = std::mem::take(&mut through.budgets.keys);
        keys.clear();
        let next = self.store.walk(now, None, through.budgets.cursor, items, &mut |key| {
            keys.extend_from_slice(&length(key.len()).to_le_bytes());
            keys.extend_from_slice(key);
        });
        let mut rest = keys.as_slice();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            rest = tail;
            self.count_item(now, key);
        }
        let through = self.through.as_mut().expect("callers look");
        through.budgets.keys = keys;
        through.budgets.cursor = next;
        if next == 0 || through.budgets.sampled >= SAMPLE_ITEMS {
            self.end_round(next == 0);
        }
    }

    fn count_item(&mut self, now: Mono, key: &[u8]) {
        let probe = self.store.probe(key);
        let held = self.look(now, probe, key, false);
        let through = self.through.as_mut().expect("callers look");
        through.budgets.sampled += 1;
        let (Some(held), Some(id)) = (held, through.keyspaces.of(key)) else { return };
        let index = usize::from(id.0);
        let bytes = key.len() as u64 + held.len as u64 + ITEM_OVERHEAD_BYTES;
        let age = age_of(&held);
        let Some(share) = through.budgets.shares.get_mut(index) else { return };
        if share.is_over() && age >= share.cut {
            share.removed += bytes;
            through.tally(index).evicted += 1;
            self.store.remove(probe, key);
        } else {
            share.seen[age] += bytes;
        }
    }

    fn end_round(&mut self, at_end: bool) {
        let len = self.store.len();
        let through = self.through.as_mut().expect("callers look");
        let budgets = &mut through.budgets;
        let whole = budgets.from_start && at_end;
        let scale = |bytes: u64| match budgets.sampled {
            _ if whole => bytes,
            0 => 0,
            sampled => (u128::from(bytes) * u128::from(len) / u128::from(sampled)) as u64,
        };
        for share in &mut budgets.shares {
            let seen: u64 = share.seen.iter().sum();
            let before = share.bytes();
            share.counted = match whole || share.counted == 0 {
                true => scale(seen),
                // A sample errs by some percent; two err less.
                false => before.saturating_sub(share.added / 2).midpoint(scale(seen)),
            };
            // Of what was filled meanwhile about a half was behind the walk already.
            (share.added, share.removed) = (share.added / 2, 0);
            let mut excess = share.bytes().saturating_sub(share.bytes_max - share.bytes_max / 16);
            share.cut = 0;
            for age in (0..AGES).rev() {
                let here = scale(share.seen[age]);
                if here >= excess {
                    share.cut = age;
                    break;
                }
                excess -= here;
            }
            share.seen = [0; AGES];
        }
        (budgets.sampled, budgets.from_start) = (0, at_end);
        for index in 0..through.budgets.shares.len() {
            through.tally(index).bytes = through.budgets.shares[index].bytes();
        }
    }
}

/// How long nobody wanted an item, in classes: each begins at twice the time of the one before. An item that was never used
/// counts as one that was not wanted for eight times as long.
fn age_of(held: &Held) -> usize {
    let steps = (u32::BITS - (held.idle_seconds / 4).leading_zeros()) as usize;
    let unused = if held.used { 0 } else { 3 };
    (steps + unused).min(AGES - 1)
}

#[cfg(test)]
mod tests;
