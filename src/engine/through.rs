//! Keyspaces with an origin: reads that fetch what is not there, writes that go to the origin first.
//!
//! ```text
//!   serve -- fresh ------------------------------------------------> outcome
//!     |----- stale window ----> begin a refresh, --------------------> outcome of what is held
//!     |----- known as absent ----------------------------------------> miss
//!     |----- else: join the flight of the key or begin one (Effect::Ask) --> None, later Effect::Answer
//!   answered -- storable --> store, tags, validator; all who wait are answered in their order
//!   failed ---- somebody waits, attempts and the retry budget allow --> the next attempt, at once
//!           \-- else: what is held and not too old, or a fault
//! ```
//! What must hold, whatever the order of events:
//! 1. No reply is older than a write or invalidation acknowledged before its request: those *part* the flight of the key, so
//!    that who asks afterwards does not join it, and nothing of it is stored.
//! 2. A write through is in the cache, or the cache is empty, before it is acknowledged; what was fetched while it was on
//!    its way goes with that. A key invalidated meanwhile is left empty: the invalidation may be of a later change.
//! 3. Writes of one key go to the origin one after the other, in the order they came.
//! 4. A write of which nobody knows whether the origin did it (no answer) leaves nothing in the cache, and is a fault.

mod effect;
mod fetches;
mod invalidation;
mod tally;
mod writes;

use super::budgets::Budgets;
use super::erasures::Erasures;
use super::flights::{Flight, Flights, Passenger, Waiter};
use super::foresight::{End, Foresight};
use super::ledger::{Known, Ledger};
use super::passing::Passages;
use super::*;
use crate::hash::KeyHasher;
use crate::origin::keyspace::{Conflict, Keys, Keyspace, KeyspaceId, Keyspaces, WritePolicy};
use crate::origin::pool::{Cause, Failure};
use crate::origin::{Ask, Found as Fetched, Reply as Told, Ticket, What, live_millis};
use crate::request::{Count, ExpireOnly, Named, Put, Remove, Step};
use fetches::Why;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use writes::Write;

pub use effect::Effect;
pub use tally::KeyspaceTally;

/// Retries that may be made at once, and what each first attempt adds: one retry for ten fetches in the long run.
const RETRIES_MAX: f32 = 10.0;
const RETRIES_PER_FETCH: f32 = 0.1;
/// Reads of a turn that may begin to wait before who has one of them lets others go on: they cost several times a hit.
pub(super) const PARKED_PER_TURN: u64 = 128;

/// All of an engine that keyspaces need.
pub(super) struct Through {
    pub(super) keyspaces: Arc<Keyspaces>,
    pub(super) passages: Passages,
    pub(super) flights: Flights,
    pub(super) ledger: Ledger,
    /// What fetches before anybody asks; `None` where no keyspace wants it.
    pub(super) foresight: Option<Box<Foresight>>,
    pub(super) erasures: Erasures,
    pub(super) budgets: Budgets,
    pub(super) writes: HashMap<Box<[u8]>, VecDeque<Write>, KeyHasher>,
    /// Keys of writes on their way.
    writing: HashMap<Ticket, Box<[u8]>, KeyHasher>,
    pub(super) write_count: usize,
    write_bytes: usize,
    next_ticket: u64,
    pub(super) effects: VecDeque<Effect>,
    /// Reads that had to wait, and how many that were when this turn began.
    parked: u64,
    parked_before: u64,
    retries: Vec<f32>,
    tallies: Vec<KeyspaceTally>,
    /// Counts of keyspaces that a reload has removed.
    tally_of_gone: KeyspaceTally,
    #[cfg(test)]
    pub(super) sabotage: Option<Sabotage>,
}

/// Mistakes that a test makes on purpose, to show that its checker would find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// What was in the air during a write or invalidation is stored.
    StoreVoided,
    /// Readers join fetches from before a write.
    JoinParted,
    /// A write that was on its way during an invalidation is stored.
    StoreSuspectWrite,
    /// A command that passed is answered before its keys are forgotten.
    AnswerUnforgotten,
    /// Of the keys of a command that passed only the first is forgotten.
    ForgetOneOnly,
}

/// How a request goes on.
pub(super) enum Way {
    /// It is done here and now.
    Execute,
    /// Its outcome comes later.
    Wait,
    /// This is its outcome.
    Answer(Answer),
    /// Too much waits already.
    Full,
}

impl Through {
    fn new(secret: [u64; 2]) -> Through {
        Through {
            keyspaces: Arc::default(),
            passages: Passages::new(secret),
            flights: Flights::new(secret),
            ledger: Ledger::new(secret),
            foresight: None,
            erasures: Erasures::default(),
            budgets: Budgets::new(secret),
            writes: HashMap::with_hasher(KeyHasher::new(secret)),
            writing: HashMap::with_hasher(KeyHasher::new(secret)),
            write_count: 0,
            write_bytes: 0,
            next_ticket: 0,
            effects: VecDeque::new(),
            parked: 0,
            parked_before: 0,
            retries: Vec::new(),
            tallies: Vec::new(),
            tally_of_gone: KeyspaceTally::default(),
            #[cfg(test)]
            sabotage: None,
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(super) fn tally(&mut self, index: usize) -> &mut KeyspaceTally {
        match index < self.tallies.len() {
            true => &mut self.tallies[index],
            false => &mut self.tally_of_gone,
        }
    }

    #[cfg(not(test))]
    pub(super) fn sabotaged(&self, _how: Sabotage) -> bool {
        false
    }

    #[cfg(test)]
    pub(super) fn sabotaged(&self, how: Sabotage) -> bool {
        self.sabotage == Some(how)
    }

    fn ask(
        &mut self,
        ticket: Ticket,
        keyspace: &Keyspace,
        index: usize,
        key: &[u8],
        what: What,
        cause: Cause,
    ) {
        self.tally(index).asked += 1;
        let reads = matches!(what, What::Read { .. });
        let ask = Ask { key: keyspace.origin_key(key).to_vec(), what };
        let effect = Effect::Ask { origin: keyspace.origin, ticket, cause, ask };
        match reads {
            true => self.send_fetch(&keyspace.budget, ticket, effect),
            false => self.effects.push_back(effect),
        }
    }

    fn answer(&mut self, waiter: Waiter, answer: Answer, value: &Rc<[u8]>) {
        self.effects.push_back(Effect::Answer { waiter, answer, value: value.clone() });
    }
}

impl Engine {
    /// Gives the engine its keyspaces, or others; fetches under way are finished by the rules they began under and not stored.
    pub fn set_keyspaces(&mut self, keyspaces: Arc<Keyspaces>) {
        let count = keyspaces.list().len();
        let origins = keyspaces.list().iter().map(|keyspace| usize::from(keyspace.origin.0) + 1).max();
        let through = self.through_mut();
        through.invalidate_all(|_| true);
        through.writes.values_mut().flatten().for_each(|write| write.storable = false);
        through.tallies = vec![KeyspaceTally::default(); count];
        through.retries = vec![RETRIES_MAX; origins.unwrap_or(0)];
        let before = std::mem::replace(&mut through.keyspaces, keyspaces);
        let owned = self.shards.count();
        self.through_mut().set_budgets(owned);
        self.set_foresight();
        if before.list().is_empty() || before.list() == self.through_mut().keyspaces.list() {
            return;
        }
        // When freshness ends is reckoned back from the expiry by the keyspace's rules: by other rules it would be another
        // moment, perhaps a later one. What was filled by rules that are gone is forgotten.
        for keyspace in before.list() {
            let prefix = match &keyspace.keys {
                Keys::Prefix(prefix) => prefix.as_slice(),
                Keys::Pattern(pattern) => pattern.split(|&byte| byte == b'*').next().unwrap_or_default(),
            };
            if !self.through_mut().keyspaces.list().iter().any(|other| other.fills_like(keyspace)) {
                self.invalidate(Mono(0), prefix, Named::Prefix);
            }
        }
    }

    fn through_mut(&mut self) -> &mut Through {
        let secret = self.hash_secret;
        self.through.get_or_insert_with(|| Box::new(Through::new(secret)))
    }

    /// What is counted of each keyspace, in the order of the configuration.
    pub fn tallies(&self) -> &[KeyspaceTally] {
        self.through.as_ref().map_or(&[], |through| &through.tallies)
    }

    /// The key that a question is about, while it is not answered; `None` for commands that pass.
    pub fn key_of(&self, ticket: Ticket) -> Option<&[u8]> {
        let through = self.through.as_ref()?;
        let flight = through.flights.of(ticket).map(|flight| &*flight.key);
        flight.or_else(|| through.writing.get(&ticket).map(|key| &**key))
    }

    /// A turn of the core begins, in which [`Engine::strained`] is this until so many reads have to wait for origins that hits
    /// would wait for them.
    #[inline]
    pub fn begin_turn(&mut self, strained: bool) {
        self.strained = strained;
        if let Some(through) = &mut self.through {
            through.parked_before = through.parked;
        }
    }

    /// Reads that had to wait for an origin so far.
    #[inline]
    pub fn parked(&self) -> u64 {
        self.through.as_ref().map_or(0, |through| through.parked)
    }

    /// Whether as many reads of this turn have to wait for origins as may.
    #[inline]
    pub fn has_parked_enough(&self) -> bool {
        let parked = |through: &Through| through.parked - through.parked_before;
        self.through.as_deref().is_some_and(|through| parked(through) >= PARKED_PER_TURN)
    }

    /// Whether there is anything that may wait for origins or be erased.
    #[inline]
    pub fn reads_through(&self) -> bool {
        self.through.is_some()
    }

    /// Fetches under way, and those who wait for them.
    pub(super) fn under_way(&self) -> (u64, u64) {
        let count = |through: &Through| (through.flights.len() as u64, through.flights.waiting() as u64);
        self.through.as_deref().map_or((0, 0), count)
    }

    /// Does a request for somebody who may have to wait: `None` means that [`Effect::Answer`] brings the outcome.
    #[inline]
    pub fn serve(&mut self, now: Now, waiter: Waiter, request: &Request<'_>) -> Option<Outcome<'_>> {
        let Some(through) = &self.through else { return Some(self.execute(now, request)) };
        let get = matches!(request.verb, Verb::Get);
        let watched = through.erasures.any() || through.foresight.is_some();
        if !get || watched || now.mono >= self.attention_at.min(self.flush_at) {
            return self.serve_through(now, waiter, request);
        }
        self.get_through(now, waiter, request)
    }

    /// A read that nothing has to be done before.
    #[inline(never)]
    fn get_through(&mut self, now: Now, waiter: Waiter, request: &Request<'_>) -> Option<Outcome<'_>> {
        let Some(sight) = self.sight_fresh(now.mono, request.key) else {
            return self.serve_through(now, waiter, request);
        };
        self.counters.hits_total += 1;
        let found = self.store.found(now.mono, sight, true);
        Some(Outcome { answer: Answer::Item(Held::of(&found).item()), value: found.value })
    }

    /// An item that is served as it is, whatever keyspace its key is in: most reads, and they look once.
    #[inline]
    fn sight_fresh(&mut self, now: Mono, key: &[u8]) -> Option<Sight> {
        let keep_max = self.through.as_ref()?.keyspaces.keep_millis_max();
        let probe = self.store.probe(key);
        let sight = self.store.sight(now, probe, key, true)?;
        let (hollow, expiry) = self.store.state(&sight);
        let near_its_end = match expiry {
            Expiry::At(at) => keep_max > 0 && at <= now.plus_millis(keep_max),
            Expiry::Never => false,
        };
        (!hollow && !near_its_end).then_some(sight)
    }

    fn serve_through(&mut self, now: Now, waiter: Waiter, request: &Request<'_>) -> Option<Outcome<'_>> {
        if now.mono >= self.flush_at {
            self.flush();
        }
        match self.way(now, waiter, request) {
            Way::Execute => Some(self.execute(now, request)),
            Way::Full => {
                self.counters.unfinished_refused_total += 1;
                self.counters.faults_total += 1;
                let (answer, value) = (Answer::Fault(Fault::Origin), Value::One(unfinished::FULL));
                Some(Outcome { answer, value })
            }
            Way::Wait => {
                // Whose change it is nobody can say when it comes.
                self.disown();
                None
            }
            Way::Answer(answer) => {
                match answer {
                    Answer::Miss => self.counters.misses_total += 1,
                    Answer::Fault(_) => self.counters.faults_total += 1,
                    _ => {}
                }
                Some(Outcome { answer, value: Value::EMPTY })
            }
        }
    }

    /// What the engine wants done; changes with every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.through.as_mut()?.effects.pop_front()
    }

    /// Looks after those who wait and what was erased; answers when to call again at the latest. Earlier after any request.
    pub fn attend(&mut self, now: Now) -> Option<Mono> {
        self.through.as_ref()?;
        while let Some((passenger, ticket)) = self.through_mut().flights.tired(now.mono) {
            let flight = self.through_mut().flights.of(ticket).expect("it was named just now");
            let (key, index, rules) =
                (flight.key.clone(), usize::from(flight.keyspace.0), flight.rules.clone());
            self.disappoint(now, &key, index, &rules, [passenger], &Why::Tired);
        }
        let sweeping = self.sweep_erased(now.mono);
        let through = self.through_mut();
        let due = through.flights.next_due();
        let foresight = self.attend_foresight(now.mono);
        let due = [due, foresight, self.attend_budgets(now.mono)].into_iter().flatten().min();
        if sweeping {
            let soon = now.mono.plus_millis(TICK_BUSY_MILLIS);
            return Some(due.map_or(soon, |due| due.min(soon)));
        }
        due
    }

    // -- which way -----------------------------------------------------------------------------------------------------

    fn way(&mut self, now: Now, waiter: Waiter, request: &Request<'_>) -> Way {
        let Request { key, value, verb } = *request;
        match verb {
            Verb::Get => {
                self.enforce(now.mono, key);
                self.read(now, waiter, key, verb)
            }
            Verb::Fetch(fetch) => {
                self.enforce(now.mono, key);
                let way = self.read(now, waiter, key, verb);
                if matches!(way, Way::Execute) && (fetch.remove || fetch.vivify.is_some()) {
                    self.through_mut().part(key);
                }
                way
            }
            Verb::Peek | Verb::Look | Verb::Track(_) => {
                self.enforce(now.mono, key);
                Way::Execute
            }
            Verb::Put(_)
            | Verb::Splice(_)
            | Verb::Overwrite { .. }
            | Verb::Count(_)
            | Verb::CountFloat
            | Verb::Remove(_)
            | Verb::Expire(_) => {
                self.enforce(now.mono, key);
                self.write_way(now, waiter, key, value, verb)
            }
            Verb::Guard => {
                guarded(value).for_each(|key| self.enforce(now.mono, key));
                Way::Execute
            }
            Verb::PutAllAbsent => self.cache_only_way(now.mono, together::Pairs(value).map(|(key, _)| key)),
            Verb::Pass(pass) if pass.line.refusable() && !self.may_wait() => Way::Full,
            Verb::Pass(pass) => self.through_mut().pass(waiter, key, value, pass),
            Verb::Transfer(_) => self.cache_only_way(now.mono, [key, value].into_iter()),
            // About no key, or about what is held whatever an origin says.
            Verb::Scan(_)
            | Verb::Random
            | Verb::Size
            | Verb::SlotSize { .. }
            | Verb::Flush { .. }
            | Verb::Invalidate(_)
            | Verb::Unguard
            | Verb::Observe(..)
            | Verb::Unobserve(_)
            | Verb::Own(_)
            | Verb::Counters
            | Verb::ResetCounters
            | Verb::Connections
            | Verb::Disconnect { .. }
            | Verb::Unblock { .. }
            | Verb::Notify { .. }
            | Verb::Monitor { .. }
            | Verb::Locate { .. }
            | Verb::Watch { .. }
            | Verb::Limit { .. }
            | Verb::SetUser
            | Verb::Configure { .. }
            | Verb::Shard(_)
            | Verb::Journal(_) => Way::Execute,
        }
    }

    /// What no origin knows how to do: done where the cache alone is written, refused where an origin would have to be.
    fn cache_only_way<'k>(&mut self, now: Mono, keys: impl Iterator<Item = &'k [u8]> + Clone) -> Way {
        let through = self.through_mut();
        let told = |key| {
            let id = through.keyspaces.of(key);
            id.is_some_and(|id| through.keyspaces[id].write != WritePolicy::CacheOnly)
        };
        if keys.clone().any(told) {
            return Way::Answer(Answer::Fault(Fault::Unsupported));
        }
        for key in keys {
            self.through_mut().part(key);
            self.enforce(now, key);
        }
        Way::Execute
    }
}

/// The keys that a guard is about: each behind its length, and before what was seen of it.
fn guarded(mut seen: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = seen.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        seen = rest.get(16..)?;
        Some(key)
    })
}

#[cfg(test)]
mod tests;
