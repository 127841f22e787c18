//! The engine: the single-threaded owner of a core's items. It says what a request means; the store says where it lies.
//!
//! ```text
//!   execute(now, Request) --> read.rs | write.rs | count.rs | together.rs | scan.rs --> store (probe, find, put, amend, remove)
//!          |
//!          +--> Outcome: an answer and bytes borrowed from the store or from `scratch`
//! ```
//! Rules that hold over all verbs:
//! - A request is done whole, conditions and change in one step; a fault or a refusal changes nothing.
//! - Each change of an item gives it a greater version; changes of its expiry or its lease alone do not (as memcached's
//!   `cas unique`).
//! - Leases are memcached's meta rules. A *hollow* item (left by a miss with the right to fill) is seen by readers who
//!   know leases, by removals and by conditions on versions, by which its filler finds it; for everybody else it is not
//!   there.
//! - What is made from a stale value (appended, overwritten, counted) stays stale; only a put makes an item fresh again.
//!
//! A hit of [`Verb::Get`]: one compare for a due flush, one probe, one find; no copy, no allocation.

mod budgets;
mod count;
mod erasures;
mod extended;
#[cfg(test)]
mod fetch_model;
mod flights;
mod foresight;
mod ledger;
#[cfg(test)]
mod model;
mod moving;
mod passing;
mod read;
mod scan;
#[cfg(test)]
mod tests;
mod through;
mod together;
mod tracking;
mod unfinished;
mod write;

use crate::clock::{Mono, Now};
use crate::ids::{Slot, Version};
use crate::metrics::Counters;
use crate::request::{
    Answer, Condition, Expiry, ExpiryChange, Fault, Item, LANDING_BYTES_MIN, Lease, Outcome, Refusal,
    Request, Shared, Value, Verb,
};
pub use flights::Waiter;
pub use foresight::{Drops, Explained, FetchedAhead, Follower, PrefetchTally};
pub use passing::Passage;
pub use through::{Effect, KeyspaceTally};

use crate::store::{self, Found, Incoming, Lander, Marks, NewItem, Probe, Sight, Store};
use tracking::Tracking;

pub use tracking::Change;

/// Bytes of scratch kept between requests; what a large value needed beyond is given back by [`Engine::tick`].
const SCRATCH_KEEP_BYTES: usize = 64 * 1024;
/// How soon to tick again when the store has work waiting (a tick takes some 30 us, a sixth of that), when something may expire,
/// and when all is quiet.
const TICK_BUSY_MICROS: u64 = 200;
/// The same when what is to be fetched waits.
const TICK_BUSY_MILLIS: u64 = 1;
const TICK_EXPIRING_MILLIS: u64 = 100;
const TICK_QUIET_MILLIS: u64 = 1000;
/// Long commands that are being received may take this share of the memory, one in so many.
const INCOMING_SHARE: u64 = 2;
/// Values that are gone but still being read may take this share of the memory, one in so many.
const WITHHELD_SHARE: u64 = 4;
/// Versions from here on are a client's invention; ours do not grow beyond them, so that none can use the range up.
const FOREIGN_VERSION: Version = Version::new(0xF_FFFF, 0);
/// The moment that never comes.
const NEVER: Mono = Mono(u64::MAX);

/// What became of the memory of a long command that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A put of this core has taken it.
    Stored,
    /// It went to another core.
    Sent,
    /// Nobody wants it.
    Unused,
}

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The store's.
    pub store: store::Options,
    /// Seed of the engine's dice (random keys).
    pub seed: u64,
}

/// The single-threaded owner of a core's shard group.
pub struct Engine {
    item_bytes_max: usize,
    /// For items and what is learnt of them.
    memory_bytes_max: u64,
    store: Store,
    /// The greatest version given so far; the next change gets one more.
    version: Version,
    /// When everything stored before is to vanish.
    flush_at: Mono,
    /// From when on requests are done attentively: the due flush, or now while somebody observes.
    attention_at: Mono,
    tracking: Option<Box<Tracking>>,
    dice: u64,
    hash_secret: [u64; 2],
    /// Which keys are this core's, to who learns of others, too.
    shards: foresight::Shards,
    /// Keyspaces with origins, and what was erased by prefix; `None` where there never were any.
    through: Option<Box<through::Through>>,
    /// Whether the store has a value that landed for the next request.
    landed: bool,
    /// Bytes that an outcome or a write needs apart from the store: the value before, a page of keys, a new text.
    scratch: Vec<u8>,
    /// The same, for a long value that is gone from the store.
    kept: Option<Shared>,
    /// Sessions have to look whether they may go on: too much is under way. See [`Engine::begin_turn`].
    pub strained: bool,
    /// What this core counts. The engine adds what comes of requests; the shell and the sessions add the rest.
    pub counters: Counters,
}

/// An outcome before its bytes are borrowed.
struct Reply {
    answer: Answer,
    bytes: Bytes,
}

/// Where the bytes of a reply are.
enum Bytes {
    None,
    Scratch,
    /// What [`Engine::keep`] kept.
    Kept,
    /// The value of the item of the request's key.
    Item(Probe),
}

/// What is known of an item in the store, its value aside.
#[derive(Clone, Copy)]
struct Held {
    len: usize,
    flags: u32,
    version: Version,
    expiry: Expiry,
    marks: Marks,
    used: bool,
    idle_seconds: u32,
}

impl Engine {
    /// An engine that holds nothing.
    pub fn new(mut options: Options) -> Engine {
        // Lengths in answers are 32 bits.
        options.store.item_bytes_max = options.store.item_bytes_max.min(u32::MAX as usize);
        Engine {
            item_bytes_max: options.store.item_bytes_max,
            memory_bytes_max: options.store.memory_bytes_max,
            store: Store::new(options.store),
            version: Version::new(0, 0),
            flush_at: NEVER,
            attention_at: NEVER,
            tracking: None,
            dice: options.seed,
            hash_secret: options.store.hash_secret,
            shards: foresight::Shards::ALL,
            through: None,
            landed: false,
            scratch: Vec::new(),
            kept: None,
            strained: false,
            counters: Counters::default(),
        }
    }

    /// Does a request. The outcome's bytes stay good until the next call.
    #[inline]
    pub fn execute(&mut self, now: Now, request: &Request<'_>) -> Outcome<'_> {
        let now = now.mono;
        if now >= self.attention_at {
            return self.execute_attentively(now, request);
        }
        match request.verb {
            Verb::Get => self.get(now, request.key),
            _ => self.execute_plainly(now, request),
        }
    }

    /// Does a bounded step towards a request that brings a large value, and answers whether it may be executed now; if not,
    /// it is to be asked again soon, with the same request. `from` tells apart who asks. What lands is for the next request
    /// that is executed, and for no other.
    #[inline]
    pub fn land(&mut self, now: Now, from: u64, request: &Request<'_>) -> bool {
        request.value.len() < LANDING_BYTES_MIN || self.land_value(now.mono, from, request)
    }

    fn land_value(&mut self, now: Mono, from: u64, request: &Request<'_>) -> bool {
        let Verb::Put(put) = request.verb else { return true };
        if self.through.as_ref().is_some_and(|through| through.keyspaces.of(request.key).is_some()) {
            // Such a write may have to wait for the key's origin, and a fill of the key may come before it.
            return true;
        }
        if self.landed {
            self.store.stop_landing();
        }
        let (probe, value) = (self.store.probe(request.key), request.value);
        let lander = Lander { from, value, replaces: matches!(put.condition, Condition::Always) };
        self.landed = self.store.land(now, probe, request.key, &lander);
        if self.landed {
            self.attention_at = Mono(0);
        }
        self.landed
    }

    /// See [`Store::lend`].
    pub fn lend(&mut self, bytes: u64) {
        self.store.lend(bytes);
    }

    /// See [`Store::receive`].
    pub fn receive(&mut self, incoming: &mut Incoming, bytes: &[u8]) -> usize {
        self.store.receive(incoming, bytes)
    }

    /// See [`Store::offer`].
    pub fn offer(&mut self, value: &Shared) {
        self.store.offer(value);
    }

    /// See [`Store::revoke_offer`].
    pub fn revoke_offer(&mut self) -> bool {
        self.store.revoke_offer()
    }

    /// See [`Store::place`].
    pub fn place<'a>(&mut self, incoming: &'a mut Incoming, len: usize) -> &'a mut [u8] {
        self.store.place(incoming, len)
    }

    /// See [`Store::received`].
    pub fn received(&mut self, incoming: &mut Incoming, len: usize) {
        self.store.received(incoming, len);
    }

    /// Takes in what became of a long command that was received here.
    pub fn end_incoming(&mut self, incoming: Incoming, fate: Fate) {
        match fate {
            Fate::Stored => self.store.hand_over_incoming(incoming),
            Fate::Sent => self.store.send_incoming(incoming),
            Fate::Unused => self.store.bury_incoming(incoming),
        }
    }

    /// See [`Store::take_over`].
    pub fn take_over(&mut self, value: &Shared) {
        self.store.take_over(value);
    }

    /// See [`Store::end_arrived`].
    pub fn end_arrived(&mut self, value: Shared, taken: bool) {
        self.store.end_arrived(value, taken);
    }

    /// Takes in what other cores have taken over of what was sent to them.
    #[inline]
    pub fn collect_sent(&mut self) {
        if self.store.has_sent() {
            self.store.collect_sent();
        }
    }

    /// Whether a long command is being received.
    #[inline]
    pub fn receives(&self) -> bool {
        self.store.incoming_bytes() > 0
    }

    /// Whether what is being received takes so much of the memory that those it belongs to go on one by one.
    pub fn receives_plenty(&self) -> bool {
        self.store.incoming_bytes() > self.memory_bytes_max / INCOMING_SHARE / 2
    }

    /// Whether what is being received takes so much of the memory that not all of it may go on.
    pub fn receives_much(&self) -> bool {
        self.store.incoming_bytes() > self.memory_bytes_max / INCOMING_SHARE
    }

    /// See [`Store::set_unasked`].
    pub fn set_unasked(&mut self, unasked: bool) {
        self.store.set_unasked(unasked);
    }

    /// See [`Store::credit`].
    pub fn credit(&mut self, key: &[u8]) {
        let probe = self.store.probe(key);
        self.store.credit(probe, key);
    }

    /// See [`Store::watch_evictions`].
    pub fn watch_evictions(&mut self, on: bool) {
        self.store.watch_evictions(on);
    }

    /// See [`Store::take_victims`].
    pub fn take_victims(&mut self) -> (Vec<store::Victim>, u64) {
        self.store.take_victims()
    }

    /// See [`Store::is_over`].
    pub fn is_over(&self) -> bool {
        self.store.is_over()
    }

    /// Whether values that are gone but are still being read ([`Store::withheld_bytes`]) take so much that it is time to ask
    /// for it back.
    pub fn withholds_much(&self) -> bool {
        self.store.withheld_bytes() > self.memory_bytes_max / WITHHELD_SHARE
    }

    /// Says which keys the next requests are about, see [`Store::approach`]. Changes nothing.
    #[inline]
    pub fn approach<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        self.store.approach(keys);
    }

    fn execute_plainly(&mut self, now: Mono, request: &Request<'_>) -> Outcome<'_> {
        match request.verb {
            Verb::Get => self.get(now, request.key),
            Verb::Peek => self.peek(now, request.key),
            Verb::Look => Outcome { value: Value::EMPTY, ..self.peek(now, request.key) },
            _ => {
                let reply = self.reply_to(now, request);
                self.outcome_of(now, request.key, reply)
            }
        }
    }

    #[inline]
    fn reply_to(&mut self, now: Mono, request: &Request<'_>) -> Reply {
        let Request { key, value, verb } = *request;
        match verb {
            Verb::Get | Verb::Peek | Verb::Look => unreachable!("answered from the store's memory"),
            Verb::Fetch(fetch) => self.fetch(now, key, &fetch),
            Verb::Put(put) => self.put(now, key, value, &put),
            Verb::Splice(splice) => self.splice(now, key, value, &splice),
            Verb::Overwrite { offset } => self.overwrite(now, key, value, offset),
            Verb::Count(count) => self.count(now, key, &count),
            Verb::CountFloat => self.count_float(now, key, value),
            Verb::Remove(remove) => self.remove(now, key, &remove),
            Verb::Transfer(transfer) => self.transfer(now, key, value, transfer),
            Verb::PutAllAbsent => self.put_all_absent(now, value),
            Verb::Guard => self.guard(now, value),
            Verb::Unguard => Reply::number(0),
            Verb::Expire(expire) => self.expire(now, key, &expire),
            Verb::Scan(scan) => self.scan(now, value, scan),
            Verb::Random => self.random(now),
            Verb::Size => Reply::number(self.store.len()),
            Verb::SlotSize { slot } => Reply::number(self.store.slot_len(Slot::new(slot))),
            Verb::Flush { at } if at <= now => Reply::number(self.flush()),
            // A later flush takes the place of one that is pending, as with memcached.
            Verb::Flush { at } => {
                self.flush_at = at;
                self.attention_at = self.attention_at.min(at);
                Reply::number(0)
            }
            Verb::Observe(observer, follow) => self.observe(observer, follow, value),
            Verb::Unobserve(observer) => self.unobserve(observer),
            Verb::Track(observer) => self.track(now, key, observer),
            Verb::Own(observer) => self.own(key, observer),
            Verb::Counters => {
                self.refresh_gauges();
                self.scratch = self.counters.to_bytes();
                Reply { answer: Answer::Page { cursor: 0 }, bytes: Bytes::Scratch }
            }
            Verb::ResetCounters => {
                self.take_departures();
                self.counters.reset_totals();
                Reply::number(0)
            }
            Verb::Invalidate(named) => Reply::plain(self.invalidate(now, key, named)),
            Verb::Connections
            | Verb::Disconnect { .. }
            | Verb::Unblock { .. }
            | Verb::Limit { .. }
            | Verb::Notify { .. }
            | Verb::Monitor { .. }
            | Verb::Locate { .. }
            | Verb::Watch { .. }
            | Verb::Journal(_)
            | Verb::SetUser
            | Verb::Configure { .. }
            | Verb::Shard(_)
            | Verb::Pass(_) => Reply::fault(Fault::Unsupported),
        }
    }

    #[inline]
    fn outcome_of(&mut self, now: Mono, key: &[u8], reply: Reply) -> Outcome<'_> {
        match reply.answer {
            Answer::Refused(_) | Answer::Previous { stored: false, .. } => self.counters.refusals_total += 1,
            Answer::Fault(_) => self.counters.faults_total += 1,
            _ => {}
        }
        let value = match reply.bytes {
            Bytes::None => Value::EMPTY,
            Bytes::Scratch => Value::One(&self.scratch),
            Bytes::Kept => self.kept.as_ref().map_or(Value::One(&self.scratch), Value::Shared),
            Bytes::Item(probe) => match self.store.find(now, probe, key, false) {
                Some(found) => found.value,
                // Forgotten while its expiry or lease was changed: better a miss than a hit without a value.
                None => return Outcome { answer: Answer::Miss, value: Value::EMPTY },
            },
        };
        Outcome { answer: reply.answer, value }
    }

    /// Housekeeping in a bounded step: due flushes, expiry, giving memory back. Answers when to call again at the
    /// latest; a request may change that to an earlier moment only by a delayed flush, which `execute` minds itself.
    pub fn tick(&mut self, now: Now) -> Mono {
        let now = now.mono;
        if now >= self.flush_at {
            self.flush();
        }
        self.note_ends(now);
        self.kept = None;
        self.count_keyspaces(now);
        let more = self.store.tick(now);
        self.take_departures();
        if self.scratch.capacity() > SCRATCH_KEEP_BYTES {
            self.scratch.clear();
            self.scratch.shrink_to(SCRATCH_KEEP_BYTES);
        }
        let again = match more {
            true => Mono(now.0 + TICK_BUSY_MICROS * 1000),
            false if self.store.len_expiring() > 0 => now.plus_millis(TICK_EXPIRING_MILLIS),
            false => now.plus_millis(TICK_QUIET_MILLIS),
        };
        again.min(self.flush_at).min(self.next_tracked_end())
    }

    /// Changes the most bytes that the store may hold, what is learnt for prefetching included. It never grows beyond that from now on; what it holds beyond is given
    /// back by [`Engine::tick`], and is to be asked for soon.
    pub fn set_memory_bytes_max(&mut self, bytes: u64) {
        self.memory_bytes_max = bytes;
        self.share_memory();
    }

    /// Changes the longest that an item may be, key and value together.
    pub fn set_item_bytes_max(&mut self, bytes: usize) {
        self.item_bytes_max = bytes.min(u32::MAX as usize);
        self.store.set_item_bytes_max(self.item_bytes_max);
    }

    /// Bytes that the store holds of memory. Changes with every write and tick.
    pub fn held_bytes(&self) -> u64 {
        self.store.held_bytes()
    }

    /// Writes the gauges that the engine knows into [`Engine::counters`], and the departures noticed so far.
    pub fn refresh_gauges(&mut self) {
        self.take_departures();
        self.counters.items = self.store.len();
        self.counters.items_expiring = self.store.len_expiring();
        self.counters.store_bytes = self.store.held_bytes();
        self.counters.payload_bytes = self.store.payload_bytes();
        self.counters.store_limit_bytes = self.store.memory_bytes_max();
        (self.counters.fetches, self.counters.fetch_waiters) = self.under_way();
        self.refresh_unfinished();
    }

    fn take_departures(&mut self) {
        let departures = self.store.take_departures();
        self.counters.expired_total += departures.expired;
        self.counters.expired_unused_total += departures.expired_unused;
        self.counters.expired_sought_total += departures.expired_sought;
        self.counters.evicted_total += departures.evicted;
        self.counters.evicted_unused_total += departures.evicted_unused;
        self.counters.evicted_used_total += departures.evicted_used;
    }

    #[cold]
    fn flush(&mut self) -> u64 {
        self.flush_at = NEVER;
        self.attention_at = NEVER;
        self.forget_everything();
        if let Some(tracking) = &mut self.tracking {
            tracking.all_changed();
            self.attention_at = Mono(0);
        }
        self.store.clear()
    }

    /// The version of a change: the one given, or one more than all before.
    #[inline]
    fn next_version(&mut self, given: Option<Version>) -> Version {
        match given {
            Some(given) => {
                if given > self.version && given < FOREIGN_VERSION {
                    self.version = given;
                }
                given
            }
            None => {
                self.version = Version(self.version.0 + 1);
                self.version
            }
        }
    }

    /// What is known of an item.
    #[inline]
    fn look(&mut self, now: Mono, probe: Probe, key: &[u8], warm: bool) -> Option<Held> {
        self.store.find(now, probe, key, warm).map(|found| Held::of(&found))
    }

    /// As `look`, and copies the value to `scratch`.
    fn load(&mut self, now: Mono, probe: Probe, key: &[u8]) -> Option<Held> {
        self.scratch.clear();
        let found = self.store.find(now, probe, key, false)?;
        found.value.append_to(&mut self.scratch);
        Some(Held::of(&found))
    }

    /// As `load`, of an item that is about to go: a long value is kept and not copied, for [`Bytes::Kept`].
    fn keep(&mut self, now: Mono, probe: Probe, key: &[u8]) -> Option<Held> {
        self.scratch.clear();
        self.kept = None;
        let found = self.store.find(now, probe, key, false)?;
        match found.value {
            Value::One(run) => self.scratch.extend_from_slice(run),
            Value::Shared(shared) => self.kept = Some(shared.clone()),
        }
        Some(Held::of(&found))
    }

    /// Writes an item, or removes what is there if the item would be over at once.
    #[inline]
    fn write(&mut self, now: Mono, probe: Probe, key: &[u8], item: &NewItem<'_>) -> Result<(), Fault> {
        if passed(item.expiry, now) {
            self.store.remove(probe, key);
        } else {
            self.store.put(now, probe, key, item)?;
        }
        self.counters.writes_total += 1;
        Ok(())
    }

    /// As `write`, with `scratch` as the value.
    fn write_scratch(&mut self, now: Mono, probe: Probe, key: &[u8], like: &Held) -> Result<(), Fault> {
        let scratch = std::mem::take(&mut self.scratch);
        let item = NewItem {
            value: &[&scratch],
            flags: like.flags,
            version: like.version,
            expiry: like.expiry,
            marks: like.marks,
        };
        let written = self.write(now, probe, key, &item);
        self.scratch = scratch;
        written
    }
}

impl Reply {
    fn plain(answer: Answer) -> Reply {
        Reply { answer, bytes: Bytes::None }
    }

    fn number(number: u64) -> Reply {
        Reply::plain(Answer::Number(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn refused(why: Refusal) -> Reply {
        Reply::plain(Answer::Refused(why))
    }

    fn fault(why: Fault) -> Reply {
        Reply::plain(Answer::Fault(why))
    }
}

impl Held {
    #[inline]
    fn of(found: &Found<'_>) -> Held {
        Held {
            len: found.value.len(),
            flags: found.flags,
            version: found.version,
            expiry: found.expiry,
            marks: found.marks,
            used: found.used,
            idle_seconds: found.idle_seconds,
        }
    }

    /// An item just made, without a value so far.
    fn fresh(flags: u32, version: Version, expiry: Expiry) -> Held {
        Held { len: 0, flags, version, expiry, marks: Marks::default(), used: false, idle_seconds: 0 }
    }

    /// As a reader sees it who is given nothing.
    #[inline]
    fn item(&self) -> Item {
        Item {
            flags: self.flags,
            len: length(self.len),
            version: self.version,
            expiry: self.expiry,
            lease: Lease { won: false, stale: self.marks.stale, taken: self.marks.leased },
            used: self.used,
            idle_seconds: self.idle_seconds,
            binary_key: self.marks.binary_key,
        }
    }
}

/// Whether a condition lets a write happen: `Ok(true)` if as a stale one.
#[inline]
fn check(condition: Condition, held: Option<&Held>) -> Result<bool, Refusal> {
    match (condition, held) {
        (Condition::Always, _) | (Condition::Absent, None) => Ok(false),
        (Condition::Absent, Some(held)) if held.marks.hollow => Ok(false),
        (Condition::Absent, Some(_)) => Err(Refusal::Present),
        (Condition::Present, Some(held)) if held.marks.hollow => Err(Refusal::Absent),
        (Condition::Present | Condition::Held, Some(_)) => Ok(false),
        (_, None) => Err(Refusal::Absent),
        (Condition::VersionIs(wanted), Some(held)) if wanted == held.version => Ok(false),
        (Condition::VersionIsOrStale(wanted), Some(held)) if wanted <= held.version => {
            Ok(wanted < held.version)
        }
        (Condition::VersionIs(_) | Condition::VersionIsOrStale(_), Some(_)) => Err(Refusal::Version),
    }
}

/// Whether an item with this expiry is over.
#[inline]
fn passed(expiry: Expiry, now: Mono) -> bool {
    matches!(expiry, Expiry::At(at) if at <= now)
}

/// The expiry after a change.
#[inline]
fn changed(old: Expiry, change: ExpiryChange) -> Expiry {
    match change {
        ExpiryChange::Keep => old,
        ExpiryChange::Set(expiry) => expiry,
    }
}

/// A length of a value; [`Engine::new`] bounds items so that it fits.
#[inline]
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
