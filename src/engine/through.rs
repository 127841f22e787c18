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

use super::budgets::Budgets;
use super::erasures::Erasures;
use super::flights::{Flight, Flights, Passenger, Waiter};
use super::foresight::{End, Foresight};
use super::ledger::{Known, Ledger};
use super::passing::{Passage, Passages};
use super::*;
use crate::hash::KeyHasher;
use crate::ids::ConnectionId;
use crate::origin::keyspace::{Conflict, Keys, Keyspace, KeyspaceId, Keyspaces, WritePolicy};
use crate::origin::pool::{Cause, Failure};
use crate::origin::{Ask, Found as Fetched, OriginId, Reply as Told, Ticket, What, live_millis};
use crate::request::{Count, ExpireOnly, Named, Private, Put, Remove, Step};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// How long a key is left alone whose refresh failed, while the item is served as stale.
const REST_MILLIS: u64 = 1000;
/// Writes on their way and behind them, and their bytes.
const WRITES_MAX: usize = 16 << 10;
const WRITE_BYTES_MAX: usize = 64 << 20;
/// Keys looked at per step of removing what was erased.
const SWEEP_KEYS: usize = 256;
/// Retries that may be made at once, and what each first attempt adds: one retry for ten fetches in the long run.
const RETRIES_MAX: f32 = 10.0;
const RETRIES_PER_FETCH: f32 = 0.1;
/// Reads of a turn that may begin to wait before who has one of them lets others go on: they cost several times a hit.
pub(super) const PARKED_PER_TURN: u64 = 128;

/// What the engine wants of the world.
#[derive(Debug)]
pub enum Effect {
    /// Ask an origin; then [`Engine::answered`] or [`Engine::failed`].
    Ask {
        /// Whom.
        origin: OriginId,
        /// Names the question.
        ticket: Ticket,
        /// Why.
        cause: Cause,
        /// What.
        ask: Ask,
    },
    /// Somebody waits for a question from now on that nobody waited for.
    Hurry {
        /// Who was asked.
        origin: OriginId,
        /// The question.
        ticket: Ticket,
    },
    /// Have an origin do a command as it is, in the order of these; then [`Engine::answered`] or [`Engine::failed`].
    Pass {
        /// Whom.
        origin: OriginId,
        /// Version of the protocol that the reply is to be in.
        protocol: u8,
        /// Names the question.
        ticket: Ticket,
        /// The command.
        ask: Ask,
        /// The client on whose own connection it is to be done, and how; `None`: on the one that all share.
        private: Option<(ConnectionId, Private)>,
    },
    /// Invalidate a key on the core that owns it; then [`Engine::forgotten`].
    Forget {
        /// Names the command that changed it.
        passage: Passage,
        /// The key.
        key: Box<[u8]>,
    },
    /// Hand an outcome to somebody to whom [`Engine::serve`] answered `None`.
    Answer {
        /// Who.
        waiter: Waiter,
        /// The answer.
        answer: Answer,
        /// Its bytes.
        value: Rc<[u8]>,
    },
}

/// What is counted of a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceTally {
    /// Reads that asked for a fetch.
    pub demanded: u64,
    /// Of those, reads that joined one under way.
    pub coalesced: u64,
    /// Questions to the origin: attempts of all causes, writes included.
    pub asked: u64,
    /// Reads answered by the knowledge that there is nothing.
    pub negative: u64,
    /// Reads answered with a value out of date while it was fetched anew.
    pub stale: u64,
    /// Reads answered with a value out of date because the origin could not answer.
    pub stale_on_error: u64,
    /// Items found unchanged by their origin.
    pub revalidated: u64,
    /// Values stored.
    pub filled: u64,
    /// Values that could not be stored because the key was written or invalidated meanwhile.
    pub voided: u64,
    /// Writes done by the origin.
    pub written: u64,
    /// Commands that went to the origin as they were.
    pub passed: u64,
    /// Attempts taken over by another.
    pub retried: u64,
    /// Reads and writes answered with a fault.
    pub failed: u64,
    /// Answers that were older than one before.
    pub outdated: u64,
    /// Reads for which the rate of fetches had nothing left.
    pub over_budget: u64,
    /// Items removed because the keyspace held too much.
    pub evicted: u64,
    /// Values that were not kept because it did.
    pub unkept: u64,
    /// Bytes that it holds, by the census.
    pub bytes: u64,
}

/// A write on its way to the origin, or behind one of the same key.
pub(super) struct Write {
    waiter: Waiter,
    keyspace: Arc<Keyspace>,
    index: usize,
    verb: Verb,
    value: Vec<u8>,
    what: What,
    /// Whether the cache may hold the value afterwards: nothing was invalidated since the origin was asked.
    storable: bool,
}

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

/// Why a flight did not bring an answer.
enum Why<'a> {
    Failure(Failure),
    Refused(&'a [u8]),
    Tired,
    /// The keyspace has asked as often as it may.
    Rate,
    /// The origin answered with less than it had before.
    Outdated,
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

    /// The key was invalidated: what is in the air is of before, a value that a write brings included.
    fn invalidate(&mut self, key: &[u8]) {
        self.part(key);
        if let Some(write) = self.writes.get_mut(key).and_then(VecDeque::front_mut) {
            write.storable = false;
        }
    }

    /// As `invalidate`, for all keys that `which` names.
    fn invalidate_all(&mut self, which: impl Fn(&[u8]) -> bool) {
        self.flights.part_all(&which);
        self.ledger.forget_all(&which);
        let suspect = self.writes.iter_mut().filter(|(key, _)| which(key));
        suspect.filter_map(|(_, queue)| queue.front_mut()).for_each(|write| write.storable = false);
    }

    /// The key changed, by whatever hand: what was in the air is of before.
    fn part(&mut self, key: &[u8]) {
        if !self.sabotaged(Sabotage::JoinParted) {
            self.flights.part(key);
        }
        self.ledger.forget(key);
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

    fn read(&mut self, now: Now, waiter: Waiter, key: &[u8], verb: Verb) -> Way {
        let probe = self.store.probe(key);
        let way = self.find_or_fetch(now, waiter, key, verb, probe);
        if self.through.as_ref().is_some_and(|through| through.foresight.is_some()) {
            match way {
                Way::Execute => self.foresee(now.mono, waiter, key, probe, true),
                Way::Wait => self.foresee(now.mono, waiter, key, probe, false),
                // There is nothing to fetch, or no room for it.
                Way::Answer(_) | Way::Full => {}
            }
        }
        way
    }

    /// A read: what is held and fresh is served as ever.
    fn find_or_fetch(&mut self, now: Now, waiter: Waiter, key: &[u8], verb: Verb, probe: Probe) -> Way {
        let through = self.through.as_mut().expect("there are keyspaces or erasures");
        let held = self.store.find(now.mono, probe, key, false).map(|found| Held::of(&found));
        let held = held.filter(|held| !held.marks.hollow);
        if let Some(held) = &held {
            let keep_max = through.keyspaces.keep_millis_max();
            match held.expiry {
                Expiry::At(at) if at <= now.mono.plus_millis(keep_max) && keep_max > 0 => {}
                _ => return Way::Execute,
            }
        }
        let Some(id) = through.keyspaces.of(key) else { return Way::Execute };
        let (keyspace, index) = (through.keyspaces[id].clone(), usize::from(id.0));
        let tally = &mut through.tallies[index];
        if let Some(held) = &held {
            let Expiry::At(at) = held.expiry else { return Way::Execute };
            if now.mono.plus_millis(keyspace.keep_millis()) < at {
                return Way::Execute;
            }
            if now.mono.plus_millis(keyspace.keep_millis() - keyspace.stale_millis) < at {
                tally.stale += 1;
                self.refresh(now.mono, &keyspace, id, key, held.version);
                return Way::Execute;
            }
        } else if through.ledger.is_absent(now.mono, key) {
            tally.negative += 1;
            let vivify = matches!(verb, Verb::Fetch(fetch) if fetch.vivify.is_some());
            return if vivify { Way::Execute } else { Way::Answer(Answer::Miss) };
        }
        self.counters.misses_total += 1;
        tally.demanded += 1;
        if !self.may_wait() || !self.through_mut().flights.has_room() {
            self.through_mut().tally(index).failed += 1;
            return Way::Full;
        }
        let through = self.through.as_mut().expect("there are keyspaces");
        let tally = &mut through.tallies[index];
        let ticket = match through.flights.joinable(key) {
            Some(ticket) => {
                tally.coalesced += 1;
                let flight = through.flights.of(ticket).expect("it is joinable");
                if flight.cause != Cause::Demand {
                    let origin = flight.rules.origin;
                    through.effects.push_back(Effect::Hurry { origin, ticket });
                }
                ticket
            }
            None if !keyspace.budget.spend(now.mono, true) => {
                tally.over_budget += 1;
                let until = now.mono;
                self.disappoint(now, key, index, &keyspace, [Passenger { waiter, verb, until }], &Why::Rate);
                return Way::Wait;
            }
            None => self.take_off(&keyspace, id, key, held.map(|held| held.version), Cause::Demand),
        };
        let until = now.mono.plus_millis(keyspace.wait_millis_max);
        self.through_mut().parked += 1;
        self.strained |= self.has_parked_enough();
        let waits = self.through_mut().flights.wait(ticket, Passenger { waiter, verb, until });
        debug_assert!(waits, "room was looked for above");
        Way::Wait
    }

    fn refresh(&mut self, now: Mono, keyspace: &Arc<Keyspace>, id: KeyspaceId, key: &[u8], version: Version) {
        let may_wait = self.may_wait();
        let through = self.through_mut();
        let idle = through.flights.joinable(key).is_none()
            && !through.ledger.rests(now, key)
            && may_wait
            && through.flights.has_room()
            && keyspace.budget.may_guess(now);
        if idle {
            self.take_off(keyspace, id, key, Some(version), Cause::Refresh);
        }
    }

    /// Begins a flight and asks.
    pub(super) fn take_off(
        &mut self,
        keyspace: &Arc<Keyspace>,
        id: KeyspaceId,
        key: &[u8],
        version: Option<Version>,
        cause: Cause,
    ) -> Ticket {
        let through = self.through_mut();
        let retries = &mut through.retries[usize::from(keyspace.origin.0)];
        *retries = (*retries + RETRIES_PER_FETCH).min(RETRIES_MAX);
        let known = version.and_then(|version| through.ledger.known(key, version)?.validator.clone());
        let ticket = through.ticket();
        through.flights.begin(ticket, key, id, keyspace.clone(), cause);
        through.ask(ticket, keyspace, usize::from(id.0), key, What::Read { known }, cause);
        ticket
    }

    // -- what origins answer -------------------------------------------------------------------------------------------

    /// An origin answered. Tickets that are over are ignored: late answers fill nothing.
    pub fn answered(&mut self, now: Now, ticket: Ticket, reply: Told) {
        if self.through.is_none() {
            return;
        }
        self.through_mut().give_back(ticket);
        if self.through_mut().writing.contains_key(&ticket) {
            return self.written(now, ticket, Some(reply));
        }
        if self.through_mut().passages.is_of(ticket) {
            return self.through_mut().passed(ticket, Ok(reply));
        }
        let through = self.through_mut();
        let Some(flight) = through.flights.of(ticket) else { return };
        let index = usize::from(flight.keyspace.0);
        let keyspace = flight.rules.clone();
        if matches!(reply, Told::Unchanged { .. }) {
            let key = flight.key.clone();
            let probe = self.store.probe(&key);
            if self.look(now.mono, probe, &key, false).is_none_or(|held| held.marks.hollow) {
                // What was unchanged is gone meanwhile: the whole value is needed after all.
                return self.ask_again(&keyspace, index, ticket);
            }
        }
        if let Told::Found(found) = &reply
            && self.is_behind(ticket, found)
        {
            return self.refuse_older(now, ticket);
        }
        let flight = self.through_mut().flights.land(ticket).expect("looked at above");
        let key = flight.key.clone();
        match reply {
            Told::Found(found) => self.arrive(now, &keyspace, flight, found),
            Told::Absent { fresh_millis } => {
                self.came_of(&flight, if flight.storable { End::Absent } else { End::Voided });
                let probe = self.store.probe(&key);
                if flight.storable {
                    if self.store.remove(probe, &key) {
                        self.note_key(&key);
                    }
                    let until = fresh_millis.unwrap_or(u64::MAX).min(keyspace.negative_millis);
                    if until > 0 {
                        self.through_mut().ledger.note_absent(&key, now.mono.plus_millis(until));
                    }
                }
                let none: Rc<[u8]> = Rc::default();
                for passenger in flight.passengers {
                    self.through_mut().answer(passenger.waiter, Answer::Miss, &none);
                }
            }
            Told::Unchanged { fresh_millis } => {
                self.came_of(&flight, End::Voided);
                let probe = self.store.probe(&key);
                let held = self.look(now.mono, probe, &key, false).expect("looked at above");
                if flight.storable {
                    let expiry = end_of(now.mono, &keyspace, fresh_millis);
                    self.store.amend(now.mono, probe, &key, held.version, expiry, held.marks);
                    self.through_mut().tally(index).revalidated += 1;
                }
                self.hand_out_held(now, &key, flight.passengers);
            }
            Told::Refused(text) => {
                self.came_of(&flight, End::Failed);
                if flight.cause != Cause::Demand {
                    self.through_mut().ledger.let_rest(&key, now.mono.plus_millis(REST_MILLIS));
                }
                self.disappoint(now, &key, index, &keyspace, flight.passengers, &Why::Refused(&text));
            }
            Told::Written | Told::NotWritten | Told::Counted(_) | Told::Raw(_) => {
                self.came_of(&flight, End::Failed);
                let why = Why::Failure(Failure::Broken);
                self.disappoint(now, &key, index, &keyspace, flight.passengers, &why);
            }
        }
    }

    /// Whether an answer is older than what the origin has said of the key before, where its versions count.
    fn is_behind(&mut self, ticket: Ticket, found: &Fetched) -> bool {
        let through = self.through_mut();
        let flight = through.flights.of(ticket).expect("callers look");
        let floor = match flight.rules.conflict {
            Conflict::Source => through.ledger.floor(&flight.key),
            Conflict::Epoch | Conflict::Lww => None,
        };
        floor.is_some_and(|floor| found.version.is_some_and(|version| version < floor))
    }

    /// A part of the origin that lags has answered. Who waits is better served by another, or by what is held.
    fn refuse_older(&mut self, now: Now, ticket: Ticket) {
        let through = self.through_mut();
        let flight = through.flights.of(ticket).expect("callers look");
        let (index, keyspace) = (usize::from(flight.keyspace.0), flight.rules.clone());
        through.tallies.get_mut(index).into_iter().for_each(|tally| tally.outdated += 1);
        let flight = self.through_mut().flights.of(ticket).expect("callers look");
        if !flight.passengers.is_empty() && flight.attempts < keyspace.attempts_max {
            return self.ask_again(&keyspace, index, ticket);
        }
        let flight = self.through_mut().flights.land(ticket).expect("looked at above");
        self.through_mut().ledger.let_rest(&flight.key, now.mono.plus_millis(REST_MILLIS));
        self.came_of(&flight, End::Failed);
        self.disappoint(now, &flight.key, index, &keyspace, flight.passengers, &Why::Outdated);
    }

    /// A value has come.
    fn arrive(&mut self, now: Now, keyspace: &Keyspace, flight: Flight, found: Fetched) {
        let (key, index) = (flight.key.clone(), usize::from(flight.keyspace.0));
        let probe = self.store.probe(&key);
        let held = self.look(now.mono, probe, &key, false);
        let through = self.through.as_mut().expect("flights are of it");
        let newer_held = held.as_ref().is_some_and(|held| {
            let known = through.ledger.known(&key, held.version).and_then(|known| known.origin);
            known.is_some() && found.version.is_some() && known > found.version
        });
        let written_later = keyspace.conflict == Conflict::Lww
            && held.as_ref().is_some_and(|held| !held.marks.hollow)
            && through.ledger.written(&key) > found.written_seconds.or(Some(u64::MAX));
        if let (Conflict::Source, Some(version)) = (keyspace.conflict, found.version) {
            through.ledger.raise_floor(&key, version);
        }
        if written_later {
            // It stays until its own end, and is not asked for again with every read meanwhile.
            through.ledger.let_rest(&key, now.mono.plus_millis(REST_MILLIS));
        }
        if newer_held || written_later {
            // A replica that lags answered: what is held is newer.
            self.came_of(&flight, End::Voided);
            return self.hand_out_held(now, &key, flight.passengers);
        }
        let mut item = Held::fresh(found.flags, found.version.unwrap_or(Version::NONE), Expiry::Never);
        item.len = found.value.len();
        let mut stored = false;
        match flight.storable || through.sabotaged(Sabotage::StoreVoided) {
            true => {
                through.ledger.forget(&key);
                let expiry = end_of(now.mono, keyspace, found.fresh_millis);
                let fits = found.value.len() <= keyspace.value_bytes_max;
                let put = Put {
                    flags: found.flags,
                    expiry: ExpiryChange::Set(expiry),
                    condition: Condition::Always,
                    previous: false,
                    version: found.version,
                    binary_key: false,
                    stale: false,
                };
                self.store.set_unasked(flight.begun_for == Cause::Prefetch && flight.passengers.is_empty());
                let keeps = fits && !found.unstorable && !passed(expiry, now.mono);
                let keeps = keeps && self.has_memory_for(now.mono, index, &key, found.value.len());
                if keeps
                    && let Answer::Stored { version, .. } =
                        self.put(now.mono, &key, &found.value, &put).answer
                {
                    (stored, item.version, item.expiry) = (true, version, expiry);
                }
                self.store.set_unasked(false);
                self.note_key(&key);
                if stored {
                    self.note_fill(probe, &key, item.version, &found, index);
                } else {
                    // What is held is out of date from now on.
                    self.store.remove(probe, &key);
                }
            }
            false => through.tally(index).voided += 1,
        }
        // What may not be kept was fetched for nothing.
        let end = match (stored, flight.storable) {
            (true, _) => End::Landed,
            (false, true) => End::Absent,
            (false, false) => End::Voided,
        };
        self.came_of(&flight, end);
        let value: Rc<[u8]> = found.value.into();
        let answer = Answer::Item(item.item());
        for passenger in flight.passengers {
            match passenger.verb {
                Verb::Fetch(_) if stored => self.answer_by_verb(now, &key, &passenger),
                _ => self.through_mut().answer(passenger.waiter, answer, &value),
            }
        }
    }

    fn note_fill(&mut self, probe: Probe, key: &[u8], item: Version, found: &Fetched, index: usize) {
        let through = self.through.as_mut().expect("fills are of it");
        through.tally(index).filled += 1;
        if found.validator.is_some() || found.version.is_some() {
            let known = Known { item, validator: found.validator.clone(), origin: found.version };
            through.ledger.note_known(key, known);
        }
        let lost: Vec<_> = found.tags.iter().flat_map(|tag| through.ledger.tag(tag, key)).collect();
        for other in lost.iter().filter(|other| ***other != *key) {
            let probe = self.store.probe(other);
            self.store.remove(probe, other);
        }
        if lost.iter().any(|other| **other == *key) {
            self.store.remove(probe, key);
        }
    }

    /// Does what a passenger asked for, now that the item is there.
    fn answer_by_verb(&mut self, now: Now, key: &[u8], passenger: &Passenger) {
        let outcome = self.execute(now, &Request { key, value: b"", verb: passenger.verb });
        let (answer, value) = (outcome.answer, Rc::from(outcome.value.bytes()));
        self.through_mut().answer(passenger.waiter, answer, &value);
    }

    fn hand_out_held(&mut self, now: Now, key: &[u8], passengers: impl IntoIterator<Item = Passenger>) {
        let mut held: Option<(Answer, Rc<[u8]>)> = None;
        for passenger in passengers {
            if passenger.verb != Verb::Get {
                self.answer_by_verb(now, key, &passenger);
                held = None;
                continue;
            }
            let (answer, value) = held.get_or_insert_with(|| {
                let outcome = self.execute(now, &Request { key, value: b"", verb: Verb::Peek });
                (outcome.answer, Rc::from(outcome.value.bytes()))
            });
            let (answer, value) = (*answer, value.clone());
            self.through_mut().answer(passenger.waiter, answer, &value);
        }
    }

    /// An origin did not answer.
    pub fn failed(&mut self, now: Now, ticket: Ticket, why: Failure) {
        if self.through.is_none() {
            return;
        }
        self.through_mut().give_back(ticket);
        if self.through_mut().writing.contains_key(&ticket) {
            return self.written(now, ticket, None);
        }
        if self.through_mut().passages.is_of(ticket) {
            return self.through_mut().passed(ticket, Err(why));
        }
        let through = self.through_mut();
        let Some(flight) = through.flights.of(ticket) else { return };
        let (index, keyspace) = (usize::from(flight.keyspace.0), flight.rules.clone());
        let hopeless = matches!(why, Failure::CircuitOpen | Failure::QueueFull | Failure::Untrusted);
        let wanted = !flight.passengers.is_empty() && flight.attempts < keyspace.attempts_max;
        // An origin that no keyspace has any more has no budget either.
        let budget = through.retries.get_mut(usize::from(keyspace.origin.0));
        if let (true, Some(retries)) = (wanted && !hopeless, budget.filter(|retries| **retries >= 1.0))
            && keyspace.budget.spend(now.mono, true)
        {
            *retries -= 1.0;
            through.tally(index).retried += 1;
            return self.ask_again(&keyspace, index, ticket);
        }
        let flight = through.flights.land(ticket).expect("looked at above");
        through.ledger.let_rest(&flight.key, now.mono.plus_millis(REST_MILLIS));
        self.came_of(&flight, End::Failed);
        self.disappoint(now, &flight.key, index, &keyspace, flight.passengers, &Why::Failure(why));
    }

    /// The next attempt of a flight, unconditional.
    fn ask_again(&mut self, keyspace: &Keyspace, index: usize, ticket: Ticket) {
        let through = self.through_mut();
        let next = through.ticket();
        through.flights.take_over(ticket, next);
        let flight = through.flights.of(next).expect("it was taken over");
        let (key, cause) = (flight.key.clone(), flight.cause);
        through.ask(next, keyspace, index, &key, What::Read { known: None }, cause);
    }

    /// No answer for these: what is held and not too old for that, or a fault.
    fn disappoint(
        &mut self,
        now: Now,
        key: &[u8],
        index: usize,
        keyspace: &Keyspace,
        passengers: impl IntoIterator<Item = Passenger>,
        why: &Why<'_>,
    ) {
        let probe = self.store.probe(key);
        let held = self.look(now.mono, probe, key, false).filter(|held| !held.marks.hollow);
        let through = self.through.as_mut().expect("passengers are of it");
        let serves_held = match held.map(|held| held.expiry) {
            Some(Expiry::At(at)) => {
                now.mono.plus_millis(keyspace.keep_millis() - keyspace.stale_error_millis) < at
            }
            Some(Expiry::Never) => true,
            None => false,
        };
        let mut passengers = passengers.into_iter().peekable();
        if passengers.peek().is_none() {
            return;
        }
        if serves_held {
            let passengers: Vec<_> = passengers.collect();
            through.tally(index).stale_on_error += passengers.len() as u64;
            return self.hand_out_held(now, key, passengers);
        }
        let text: Rc<[u8]> = match why {
            Why::Failure(failure) => format!("ERR {failure}").into_bytes().into(),
            Why::Tired => Rc::from(b"ERR the origin did not answer in time".as_slice()),
            Why::Outdated => {
                Rc::from(b"ERR the origin answered with an older version than before".as_slice())
            }
            Why::Rate => Engine::rate_text(keyspace).into_bytes().into(),
            Why::Refused(text) => Rc::from(*text),
        };
        for passenger in passengers {
            self.counters.faults_total += 1;
            let through = self.through.as_mut().expect("passengers are of it");
            through.tally(index).failed += 1;
            through.answer(passenger.waiter, Answer::Fault(Fault::Origin), &text);
        }
    }

    // -- writes --------------------------------------------------------------------------------------------------------

    fn write_way(&mut self, now: Now, waiter: Waiter, key: &[u8], value: &[u8], verb: Verb) -> Way {
        let through = self.through_mut();
        let id = through.keyspaces.of(key);
        let Some(id) = id.filter(|id| through.keyspaces[*id].write != WritePolicy::CacheOnly) else {
            through.part(key);
            if id.is_some_and(|id| through.keyspaces[id].conflict == Conflict::Lww) {
                through.ledger.note_written(key, now.wall.0 / 1000);
            }
            return Way::Execute;
        };
        let index = usize::from(id.0);
        let Some(what) = what_of(now, &verb, value) else {
            return Way::Answer(Answer::Fault(Fault::Unsupported));
        };
        let full = through.write_count >= WRITES_MAX || through.write_bytes + value.len() > WRITE_BYTES_MAX;
        if full || !self.may_wait() {
            self.through_mut().tally(index).failed += 1;
            return Way::Full;
        }
        let through = self.through_mut();
        through.write_count += 1;
        through.write_bytes += value.len();
        let keyspace = through.keyspaces[id].clone();
        let write = Write { waiter, keyspace, index, verb, value: value.to_vec(), what, storable: true };
        let queue = through.writes.entry(key.into()).or_default();
        queue.push_back(write);
        if queue.len() == 1 {
            through.send_write(key);
        }
        Way::Wait
    }

    /// The write at the front of its key's queue came back: with an answer, or (nobody knows) without.
    fn written(&mut self, now: Now, ticket: Ticket, reply: Option<Told>) {
        let through = self.through.as_mut().expect("writes are of it");
        let Some(key) = through.writing.remove(&ticket) else { return };
        let queue = through.writes.get_mut(&key).expect("a write on its way is at the front");
        let write = queue.pop_front().expect("a write on its way is at the front");
        let more = !queue.is_empty();
        through.write_count -= 1;
        through.write_bytes -= write.value.len();
        if !more {
            through.writes.remove(&key);
        }
        let (answer, text) = self.settle_write(now, &key, &write, reply);
        self.note_key(&key);
        if matches!(answer, Answer::Fault(_)) {
            self.counters.faults_total += 1;
        }
        let through = self.through.as_mut().expect("writes are of it");
        match answer {
            Answer::Fault(_) => through.tally(write.index).failed += 1,
            _ => through.tally(write.index).written += 1,
        }
        through.answer(write.waiter, answer, &text);
        if more {
            through.send_write(&key);
        }
    }

    /// Brings the cache in line with what the origin did, and finds the answer for it.
    fn settle_write(
        &mut self,
        now: Now,
        key: &[u8],
        write: &Write,
        reply: Option<Told>,
    ) -> (Answer, Rc<[u8]>) {
        let none: Rc<[u8]> = Rc::default();
        let probe = self.store.probe(key);
        let done = match reply {
            Some(Told::Written) => None,
            Some(Told::Counted(number)) => Some(number),
            Some(Told::NotWritten) => {
                let answer = match write.verb {
                    Verb::Put(Put { condition: Condition::Absent, .. }) => Answer::Refused(Refusal::Present),
                    Verb::Put(Put { condition: Condition::Present, .. }) => Answer::Refused(Refusal::Absent),
                    Verb::Put(_) => Answer::Refused(Refusal::Version),
                    _ => Answer::Miss,
                };
                // The origin knows better than what we may hold.
                self.through_mut().part(key);
                self.store.remove(probe, key);
                return (answer, none);
            }
            Some(Told::Refused(text)) => return (Answer::Fault(Fault::Origin), text.into()),
            // No answer, or one that fits no write: nobody knows.
            _ => {
                self.through_mut().part(key);
                self.store.remove(probe, key);
                let text = b"ERR the origin did not answer: the write may or may not have happened";
                return (Answer::Fault(Fault::Origin), Rc::from(text.as_slice()));
            }
        };
        self.through_mut().part(key);
        let ledger = &mut self.through_mut().ledger;
        match (write.keyspace.conflict, ledger.floor(key)) {
            (Conflict::Lww, _) => ledger.note_written(key, now.wall.0 / 1000),
            // What it is now is greater than all that was seen.
            (Conflict::Source, Some(floor)) => ledger.raise_floor(key, Version(floor.0 + 1)),
            _ => {}
        }
        let held = self.look(now.mono, probe, key, false).filter(|held| !held.marks.hollow);
        let Verb::Put(put) = write.verb else {
            self.store.remove(probe, key);
            let version = self.next_version(None);
            let item = Held::fresh(0, version, Expiry::Never).item();
            let answer = match (write.verb, done) {
                (_, Some(number)) => Answer::Counted { number: number as u64, item },
                (Verb::Expire(expire), _) => Answer::Touched(Item { expiry: expire.expiry, ..item }),
                _ => {
                    self.counters.removals_total += 1;
                    Answer::Removed { version: held.map_or(version, |held| held.version) }
                }
            };
            return (answer, none);
        };
        let mut answer = Answer::Stored {
            version: self.next_version(None),
            replaced: held.is_some(),
            len: length(write.value.len()),
        };
        let fits = write.value.len() <= write.keyspace.value_bytes_max;
        let mut stored = false;
        let storable = write.storable || self.through_mut().sabotaged(Sabotage::StoreSuspectWrite);
        // Where the origin's versions count, a value of which nobody knows the version is not kept.
        let versioned = write.keyspace.conflict == Conflict::Source;
        if write.keyspace.write == WritePolicy::Through && fits && storable && !versioned {
            let end = end_of(now.mono, &write.keyspace, None);
            let expiry = match put.expiry {
                ExpiryChange::Set(Expiry::At(at)) => Expiry::At(at.min(match end {
                    Expiry::At(end) => end,
                    Expiry::Never => at,
                })),
                _ => end,
            };
            let put = Put { expiry: ExpiryChange::Set(expiry), condition: Condition::Always, ..put };
            let keeps = self.has_memory_for(now.mono, write.index, key, write.value.len());
            let put_answer = match keeps {
                true => self.put(now.mono, key, &write.value, &put).answer,
                false => Answer::Miss,
            };
            stored = matches!(put_answer, Answer::Stored { .. });
            if stored {
                answer = put_answer;
            }
        }
        if !stored {
            self.store.remove(probe, key);
        }
        (answer, none)
    }

    // -- invalidation --------------------------------------------------------------------------------------------------

    /// Forgets what is named; from now on nothing of before is served or stored.
    pub(super) fn invalidate(&mut self, now: Mono, name: &[u8], named: Named) -> Answer {
        let version = self.version;
        match named {
            Named::Key => {
                self.enforce(now, name);
                if let Some(through) = &mut self.through {
                    through.invalidate(name);
                }
                self.remove(now, name, &Remove::PLAIN).answer
            }
            Named::Prefix => {
                let through = self.through_mut();
                through.invalidate_all(|key| key.starts_with(name));
                through.erasures.add(name, version);
                self.note_prefix(name);
                // What comes from now on must be newer than what was erased.
                self.next_version(None);
                Answer::Number(0)
            }
            Named::Tag => {
                let through = self.through_mut();
                // Nobody knows under which tags what is in the air will come.
                through.flights.part_all(|_| true);
                let keys = through.ledger.untag(name);
                let mut removed = 0;
                for key in keys {
                    self.through_mut().invalidate(&key);
                    let probe = self.store.probe(&key);
                    removed += i64::from(self.store.remove(probe, &key));
                    self.note_key(&key);
                }
                self.counters.removals_total += removed as u64;
                Answer::Number(removed)
            }
        }
    }

    /// Everything is forgotten, what is in the air too.
    pub(super) fn forget_everything(&mut self) {
        if let Some(through) = &mut self.through {
            through.invalidate_all(|_| true);
            through.erasures.clear();
        }
    }

    /// Removes the item of a key if it was erased and not removed so far.
    #[inline]
    pub(super) fn enforce(&mut self, now: Mono, key: &[u8]) {
        let Some(through) = &self.through else { return };
        if !through.erasures.any() {
            return;
        }
        let Some(floor) = through.erasures.floor(key) else { return };
        let probe = self.store.probe(key);
        let dead = self
            .look(now, probe, key, false)
            .is_some_and(|held| held.version <= floor || held.version >= FOREIGN_VERSION);
        if dead {
            self.store.remove(probe, key);
            self.counters.removals_total += 1;
        }
    }

    /// A step of the walk that removes what was erased; answers whether there is more to do.
    fn sweep_erased(&mut self, now: Mono) -> bool {
        let through = self.through.as_mut().expect("erasures are of it");
        if !through.erasures.any() {
            return false;
        }
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let erasures = &through.erasures;
        let next = self.store.walk(now, None, erasures.cursor, SWEEP_KEYS, &mut |key| {
            if erasures.floor(key).is_some() {
                keys.push(key.into());
            }
        });
        keys.iter().for_each(|key| self.enforce(now, key));
        let through = self.through_mut();
        through.erasures.cursor = next;
        if next == 0 {
            through.erasures.walked();
        }
        through.erasures.any()
    }
}

impl Through {
    /// Sends the write at the front of a key's queue.
    fn send_write(&mut self, key: &[u8]) {
        let ticket = self.ticket();
        let write = self.writes.get(key).and_then(VecDeque::front).expect("callers look");
        let (keyspace, index, what) = (write.keyspace.clone(), write.index, write.what.clone());
        self.writing.insert(ticket, key.into());
        self.ask(ticket, &keyspace, index, key, what, Cause::Demand);
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

/// When an item that was just fetched ends.
fn end_of(now: Mono, keyspace: &Keyspace, fresh_millis: Option<u64>) -> Expiry {
    let fresh = fresh_millis.unwrap_or(keyspace.fresh_millis);
    Expiry::At(now.plus_millis(fresh.saturating_add(keyspace.keep_millis())))
}

/// A write as an origin may do it; `None` for what only a cache can.
fn what_of(now: Now, verb: &Verb, value: &[u8]) -> Option<What> {
    match *verb {
        Verb::Put(Put {
            flags,
            expiry: ExpiryChange::Set(expiry),
            condition,
            previous: false,
            version: None,
            binary_key: _,
            stale: _,
        }) => {
            Some(What::Put { value: value.to_vec(), flags, live_millis: live_millis(now, expiry), condition })
        }
        Verb::Remove(remove) if remove == Remove::PLAIN => Some(What::Remove),
        Verb::Count(Count {
            by,
            condition: Condition::Always,
            version: None,
            expiry: ExpiryChange::Keep,
            create,
        }) => {
            let by = match (by, create) {
                (Step::Signed(by), _) => by,
                (Step::Up(by), None) => i64::try_from(by).ok()?,
                (Step::Down(by), None) => i64::try_from(by).ok()?.checked_neg()?,
                _ => return None,
            };
            Some(What::Count { by })
        }
        Verb::Expire(crate::request::Expire { expiry, only: ExpireOnly::Any }) => {
            Some(What::Expire { live_millis: live_millis(now, expiry) })
        }
        _ => None,
    }
}
