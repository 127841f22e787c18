//! What a core is to each shard, which requests wait, and how a core takes a shard that its record says is its own.

use super::record::{Record, Seen, Site};
use super::{Action, NEVER, Options, Swapped, Turn};
use crate::clock::Mono;
use crate::engine::Waiter;
use crate::ids::{SHARD_COUNT, ShardId};
use crate::request::{Request, Verb};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a core does with requests for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing: another core owns it, or nobody knows.
    Away,
    /// Executes them.
    Serve,
    /// Executes reads, keeps writes: the shard is about to be granted.
    Hold,
    /// Keeps all, and sends them on: it is granted.
    Forward,
}

/// The roles of a core.
pub(super) struct Roles {
    roles: Box<[Role]>,
    /// Shards whose role has changed since somebody asked.
    changed: BTreeSet<u16>,
    seen: BTreeMap<u16, Seen>,
}

impl Roles {
    pub fn new() -> Roles {
        let roles = vec![Role::Away; SHARD_COUNT.into()].into();
        Roles { roles, changed: BTreeSet::new(), seen: BTreeMap::new() }
    }

    #[inline]
    pub fn of(&self, shard: ShardId) -> Role {
        self.roles[usize::from(shard.number())]
    }

    pub fn set(&mut self, shard: ShardId, role: Role) {
        let before = std::mem::replace(&mut self.roles[usize::from(shard.number())], role);
        if before != role {
            self.changed.insert(shard.number());
        }
    }

    pub fn next_changed(&mut self) -> Option<ShardId> {
        self.changed.pop_first().map(ShardId::new)
    }

    /// The record as it was seen last.
    pub fn seen(&self, shard: ShardId) -> Option<&Seen> {
        self.seen.get(&shard.number())
    }

    /// The owner by the record.
    pub fn owner(&self, shard: ShardId) -> Option<Site> {
        self.seen(shard).map(|seen| seen.record.owner)
    }

    /// The greatest epoch of any shard.
    pub fn epoch_max(&self) -> u32 {
        self.seen.values().map(|seen| seen.record.epoch.max(seen.record.next_epoch)).max().unwrap_or(0)
    }

    /// Keeps the newest of what was seen of a record.
    pub fn see(&mut self, shard: ShardId, seen: Seen) {
        let known = self.seen.get(&shard.number());
        if known.is_none_or(|known| known.revision <= seen.revision) {
            self.seen.insert(shard.number(), seen);
        }
    }
}

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// By which the target knows it; 0: it was not sent.
    pub id: u64,
    pub waiter: Waiter,
    verb: Verb,
    key: Box<[u8]>,
    value: Box<[u8]>,
}

impl Waiting {
    pub fn new(id: u64, waiter: Waiter, request: &Request<'_>) -> Waiting {
        Waiting { id, waiter, verb: request.verb, key: request.key.into(), value: request.value.into() }
    }

    pub fn request(&self) -> Request<'_> {
        Request { key: &self.key, value: &self.value, verb: self.verb }
    }

    fn byte_count(&self) -> usize {
        self.key.len() + self.value.len() + size_of::<Waiting>()
    }
}

/// Requests that wait, in their order.
#[derive(Debug, Default)]
pub(super) struct Held {
    list: VecDeque<Waiting>,
    /// How many wait for each key: each read is looked up here while writes wait.
    keys: BTreeMap<Box<[u8]>, u32>,
    bytes: usize,
}

impl Held {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_key(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    fn forget(&mut self, waiting: &Waiting) {
        self.bytes -= waiting.byte_count();
        if let Some(count) = self.keys.get_mut(&waiting.key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&waiting.key);
            }
        }
    }

    /// Whether a write of the key is among them.
    pub fn has_write(&self, key: &[u8]) -> bool {
        let writes = |waiting: &Waiting| *waiting.key == *key && !super::verbs::only_reads(&waiting.verb);
        self.has_key(key) && self.list.iter().any(writes)
    }

    /// False: there is no room.
    pub fn push(&mut self, options: &Options, waiting: Waiting) -> bool {
        let bytes = self.bytes + waiting.byte_count();
        if self.list.len() >= options.held_max || bytes > options.held_bytes_max {
            return false;
        }
        self.bytes = bytes;
        *self.keys.entry(waiting.key.clone()).or_default() += 1;
        self.list.push_back(waiting);
        true
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.list.pop_front()?;
        self.forget(&waiting);
        Some(waiting)
    }

    /// Takes out the one with this id.
    pub fn take(&mut self, id: u64) -> Option<Waiting> {
        let at = self.list.iter().position(|waiting| waiting.id == id)?;
        let waiting = self.list.remove(at)?;
        self.forget(&waiting);
        Some(waiting)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.list.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.list.iter_mut()
    }

    /// The first id that is not settled.
    pub fn first_id(&self) -> Option<u64> {
        self.list.iter().map(|waiting| waiting.id).find(|id| *id > 0)
    }
}

impl Turn<'_> {
    /// Does a request that had to wait.
    pub fn execute(&mut self, waiting: &Waiting) {
        let outcome = self.engine.execute(self.now, &waiting.request());
        let (answer, value) = (outcome.answer, outcome.value.bytes().to_vec().into_boxed_slice());
        self.actions.push_back(Action::Answer { waiter: waiting.waiter, answer, value });
    }
}

/// How a core takes a shard that its record says is its own, and of which it has nothing: empty, in the next epoch.
///
/// The record names another life of this core, or this one, whose commit came true after it was forgotten. Leftovers of it go first.
pub(super) struct Claim {
    shard: ShardId,
    seen: Seen,
    /// What was asked for last.
    wanted: Option<Record>,
    asking: bool,
    looking: bool,
    ask_at: Mono,
    over: bool,
}

impl Claim {
    pub fn new(shard: ShardId, seen: Seen) -> Claim {
        Claim { shard, seen, wanted: None, asking: false, looking: false, ask_at: Mono(0), over: false }
    }

    pub fn is_asking(&self) -> bool {
        self.asking
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn swapped(&mut self, turn: &mut Turn<'_>, outcome: Swapped) {
        self.asking = false;
        match outcome {
            Swapped::Done(revision) => {
                if let Some(record) = self.wanted.take() {
                    turn.serve(self.shard, &Seen { record, revision });
                    self.over = true;
                }
            }
            Swapped::Refused(seen) => {
                turn.roles.see(self.shard, seen.clone());
                self.judge(turn, &seen);
            }
            Swapped::Unknown => {
                self.looking = true;
                self.ask_at = turn.now.mono;
            }
        }
    }

    pub fn view(&mut self, turn: &mut Turn<'_>, seen: &Seen) {
        if !self.asking && seen.revision >= self.seen.revision {
            self.judge(turn, seen);
        }
    }

    fn judge(&mut self, turn: &mut Turn<'_>, seen: &Seen) {
        self.looking = false;
        if seen.revision == self.seen.revision {
            self.ask_at = self.ask_at.max(turn.now.mono);
        } else if self.wanted.as_ref() == Some(&seen.record) {
            turn.serve(self.shard, seen);
            self.over = true;
        } else if seen.record.owner.is_same_core(&turn.options.me) {
            self.seen = seen.clone();
        } else {
            self.over = true;
        }
    }

    /// `ready`: all records have been seen in this life.
    pub fn tick(&mut self, turn: &mut Turn<'_>, ready: bool) -> Mono {
        if self.over || self.asking || !ready {
            return NEVER;
        }
        let number = self.shard.number();
        if turn.engine.store_mut().shard_len(self.shard) > 0 {
            turn.empty(self.shard);
        }
        if turn.emptying.contains(&number) {
            return turn.now.mono;
        }
        if turn.now.mono < self.ask_at {
            return self.ask_at;
        }
        self.ask_at = turn.after(turn.options.retry_millis);
        if self.looking {
            turn.actions.push_back(Action::Look { shard: self.shard });
            return self.ask_at;
        }
        // The same as before where it may still be on its way.
        let above = turn.roles.epoch_max();
        let again = self.wanted.take().filter(|wanted| wanted.epoch > above).map(Ok);
        match again.unwrap_or_else(|| self.seen.record.restart(turn.options.me, above)) {
            Ok(record) => {
                self.asking = true;
                self.wanted = Some(record.clone());
                let expected = self.seen.revision;
                turn.actions.push_back(Action::Swap { shard: self.shard, expected, record });
                NEVER
            }
            // Its epochs are used up; nobody can own it any more.
            Err(_) => {
                self.over = true;
                NEVER
            }
        }
    }
}
