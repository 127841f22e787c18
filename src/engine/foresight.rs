//! Fetching before anybody asks: what the predictor guesses becomes ordinary fetches of the single-flight table.
//!
//! ```text
//!   read --> foresee: predictor.observe --> candidates --> ring (better first, each for a short while)
//!                        ^                                   | prefetch(room of each origin)
//!                        |                                   v held, absent, under way, resting: dropped
//!   landed, absent, failed, voided <-- answered, failed <-- flight with cause Prefetch <-- a reader may join: late
//! ```
//! 1. Each read of a keyspace that prefetches tells the predictor which key it was, who asked and whether it was found.
//! 2. Candidates wait in the ring until the origin has room for what nobody waits for; the shell knows, and says so once a
//!    turn. A candidate is looked at again then: what is held, known as absent or under way is not fetched.
//! 3. Its flight is like any other. Who wants the key meanwhile joins it, and the question goes on as demand; a write or an
//!    invalidation parts it, and nothing of it is stored. So a prefetch never lies and never overwrites anything newer.
//! 4. What becomes of it goes back to the predictor. One that failed or was parted says nothing about the guess.
//!
//! The context of a guess is the client's: its last few keys, remembered by connection in a table of a fixed size in which who
//! comes later takes the place of who was there. All memory is taken once, and the store gets that much less.
//!
//! Over cores: what a connection reads is learnt on its core, rows stand with their keys' owners, and what must cross goes as
//! hints in the batches that carry requests anyway.
//!
//! ```text
//!   connection's core                    owner of b, read before        owner of x            owner of c, guessed
//!   read x: past [b ..] -- Followed ---> row b: x
//!           |------------ Visited ------------------------------------> row x: c -- Likely --> ring, flight
//!           |-- walks by number ------------------------------------------------ Likely + key -->    |
//!                                                                       row x <---- Rated -----------|
//! ```

use super::flights::{Flight, Waiter};
use super::*;
use crate::ids::{ConnectionId, CoreId, SHARD_COUNT, ShardId};
use crate::message::{HINTS_MAX, Hint};
use crate::origin::pool::Cause;
use crate::prefetch::{
    Candidate, KeyId, NO_KEY, Past, Place, Predictor, Rating, Reason, Ring, Score, Seen, Source, Target,
};
use crate::store::{Probe, shard_of};
use crate::topology::ShardMap;

/// What of the memory for items goes to the predictor, in percent.
const MEMORY_PERCENT: u64 = 8;
/// With less than this for it there is no prefetching.
const MEMORY_BYTES_MIN: u64 = 64 << 10;
/// Least and most clients whose last keys are remembered; between, one for so many bytes of the predictor's.
const CLIENTS_MIN: usize = 64;
const CLIENTS_MAX: usize = 16 << 10;
const BYTES_PER_CLIENT: u64 = 2048;
/// How long a candidate may wait for its turn.
const WAIT_MILLIS: u64 = 200;
/// How soon to look again for room at the origins while candidates wait.
const ROOM_MILLIS: u64 = 1;
/// Milliseconds between two looks at what nobody asked for.
const JUDGE_MILLIS: u64 = 1000;
/// Longest run of digits that is a number.
const DIGITS_MAX: usize = 18;

/// Why candidates were not fetched, or not stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// They waited too long, or gave way to better ones.
    pub waited: u64,
    /// Their origin had no room.
    pub no_room: u64,
    /// Their key was held, known as absent, under way, resting after a failure, or is nobody's any more.
    pub needless: u64,
    /// The origin did not answer.
    pub failed: u64,
    /// The key was written or invalidated while they were under way.
    pub voided: u64,
}

/// What is told of prefetching.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrefetchTally {
    /// What became of candidates, in the order of [`Source::ALL`].
    pub scores: [Score; Source::ALL.len()],
    /// Those stored.
    pub landed: u64,
    /// Why others were not.
    pub drops: Drops,
    /// Candidates that wait for room.
    pub waiting: u64,
    /// Fetches under way.
    pub under_way: u64,
    /// Bytes taken for all this.
    pub bytes: u64,
    /// The least score that is tried.
    pub threshold: f32,
    /// Whether it found that guessing does not pay at present.
    pub resting: bool,
}

/// Which keys are a core's.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    me: CoreId,
    /// A bit for each shard; `None`: all.
    owned: Option<Box<[u64; SHARD_COUNT as usize / 64]>>,
}

impl Shards {
    /// All of them.
    pub const ALL: Shards = Shards { me: CoreId(0), owned: None };

    #[inline]
    fn own(&self, key: KeyId) -> bool {
        let shard = usize::from(shard_of(key));
        self.owned.as_ref().is_none_or(|owned| owned[shard / 64] >> (shard % 64) & 1 == 1)
    }
}

/// The last keys of a client.
#[derive(Clone, Copy, Debug)]
struct Client {
    core: u16,
    connection: ConnectionId,
    past: Past,
}

const NO_CLIENT: Client = Client { core: 0, connection: ConnectionId::NOBODY, past: Past::EMPTY };

/// What an engine needs to fetch ahead.
pub(super) struct Foresight {
    predictor: Predictor,
    ring: Ring,
    /// The most that all of it may take.
    memory_bytes_max: u64,
    clients: Box<[Client]>,
    candidates: Vec<Candidate>,
    /// Which keys are this core's, and what is to be told to the owners of others, with the texts that go along.
    shards: Shards,
    hints: Vec<Hint>,
    hint_bytes: Vec<u8>,
    /// The text of a key while it is looked at.
    text: Vec<u8>,
    judge_at: Mono,
    landed: u64,
    under_way: u64,
    drops: Drops,
}

/// How a flight that began as a prefetch ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Landed,
    Absent,
    Failed,
    Voided,
}

impl Foresight {
    /// One whose part of so many bytes it takes at once; `None` if that would be too little to be of use.
    fn with_part_of(memory_bytes_max: u64, shards: &Shards) -> Option<Box<Foresight>> {
        let bytes = memory_bytes_max / 100 * MEMORY_PERCENT;
        if bytes < MEMORY_BYTES_MIN {
            return None;
        }
        let clients = (bytes / BYTES_PER_CLIENT).clamp(CLIENTS_MIN as u64, CLIENTS_MAX as u64) as usize;
        let clients = vec![NO_CLIENT; clients].into_boxed_slice();
        let ring = Ring::new();
        let rest = bytes as usize - size_of_val(&*clients) - ring.heap_bytes();
        let predictor = Predictor::new(crate::prefetch::Options::with_bytes(rest));
        Some(Box::new(Foresight {
            predictor,
            ring,
            memory_bytes_max: bytes,
            clients,
            candidates: Vec::new(),
            shards: shards.clone(),
            hints: Vec::new(),
            hint_bytes: Vec::new(),
            text: Vec::new(),
            judge_at: Mono(0),
            landed: 0,
            under_way: 0,
            drops: Drops::default(),
        }))
    }

    fn bytes(&self) -> u64 {
        (self.predictor.heap_bytes() + self.ring.heap_bytes() + size_of_val(&*self.clients)) as u64
    }

    fn tally(&self) -> PrefetchTally {
        PrefetchTally {
            scores: Source::ALL.map(|source| self.predictor.score(source)),
            landed: self.landed,
            drops: Drops { waited: self.drops.waited + self.ring.dropped, ..self.drops },
            waiting: self.ring.len() as u64,
            under_way: self.under_way,
            bytes: self.bytes(),
            threshold: self.predictor.threshold(),
            resting: self.predictor.resting(),
        }
    }

    /// The last keys of who asks.
    fn client(&mut self, waiter: Waiter) -> usize {
        let Waiter { core, address } = waiter;
        let name = u64::from(core.0) << 32 ^ u64::from(address.connection.place);
        let hash = name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = ((hash * self.clients.len() as u64) >> 32) as usize;
        let client = &mut self.clients[place];
        if (client.core, client.connection) != (core.0, address.connection) {
            *client = Client { core: core.0, connection: address.connection, past: Past::EMPTY };
        }
        place
    }

    /// A read reached the owner of its key, this core: what was fetched for it is judged.
    fn arrive(&mut self, key: &[u8], id: KeyId, hit: bool) {
        self.predictor.arrive(&Seen { id, key, place: None, hit });
        self.spread_ratings();
    }

    /// A client of this core reads a key, of whatever core: its rows learn that it followed, and what is likely next is guessed.
    fn read_by(&mut self, now: Mono, waiter: Waiter, key: &[u8], id: KeyId, store: &mut Store) {
        let client = self.client(waiter);
        let past = self.clients[client].past;
        // A key asked for twice in a row neither follows itself nor does what is before it come once more.
        if past.last() != id {
            for (lag, before) in past.lags() {
                match self.shards.own(before) {
                    true => self.predictor.learn(before, id, lag),
                    false => self.tell(Hint::Followed { key: before, follower: id, lag: lag as u8 }, 0),
                }
            }
            self.clients[client].past.push(id);
            match self.shards.own(id) {
                true => self.visit(now, id, store),
                false => self.tell(Hint::Visited { key: id }, 0),
            }
        }
        let place = place_of(key);
        self.predictor.step(id, place.map(|(place, _)| place), &mut self.candidates);
        self.sort_out(now, key, place.map_or(0, |(_, digits)| digits), store);
    }

    /// A key of this core was read.
    fn visit(&mut self, now: Mono, id: KeyId, store: &mut Store) {
        let Foresight { predictor, shards, candidates, .. } = self;
        predictor.visit(id, |key| !shards.own(key), candidates);
        self.sort_out(now, b"", 0, store);
    }

    /// Puts candidates into the ring, those of other cores on their way there. `key` is the one that was walked on, and ends
    /// with so many digits.
    fn sort_out(&mut self, now: Mono, key: &[u8], digits: usize, store: &mut Store) {
        for i in 0..self.candidates.len() {
            let Candidate { target, score, reason } = self.candidates[i];
            let id = match target {
                Target::Key(id) => {
                    self.text.clear();
                    id
                }
                Target::Place(target) => {
                    if !write_key(&mut self.text, &key[..key.len() - digits], digits, target.number) {
                        continue;
                    }
                    number_of(store.probe(&self.text))
                }
            };
            if !self.shards.own(id) {
                if let Ok(text_len) = u16::try_from(self.text.len()) {
                    let hint = Hint::Likely { key: id, score, reason: reason.to_bits(), text_len };
                    self.tell(hint, self.text.len());
                }
                continue;
            }
            if !self.text.is_empty() {
                self.predictor.introduce(id, &self.text);
            }
            self.wait(now, id, score, reason, store);
        }
        self.candidates.clear();
    }

    /// Lets a candidate of this core wait for room.
    fn wait(&mut self, now: Mono, id: KeyId, score: f32, reason: Reason, store: &mut Store) {
        // Most guesses are of what is held, and would leave no place for others.
        let known = self.predictor.key(id).filter(|_| !self.predictor.awaits(id));
        if known.is_some_and(|key| store.find(now, store.probe(key), key, false).is_none()) {
            let candidate = Candidate { target: Target::Key(id), score, reason };
            self.ring.push(now.plus_millis(WAIT_MILLIS), candidate);
        }
    }

    /// What another core says.
    fn hear(&mut self, now: Mono, hint: Hint, text: &[u8], store: &mut Store) {
        match hint {
            Hint::Visited { key } => self.visit(now, key, store),
            Hint::Followed { key, follower, lag } => self.predictor.learn(key, follower, lag.into()),
            Hint::Likely { key, score, reason, .. } => {
                if !text.is_empty() {
                    self.predictor.introduce(key, text);
                }
                self.wait(now, key, score, Reason::from_bits(reason), store);
            }
            Hint::Rated { key, follower, worth } => {
                self.predictor.rate(Rating { cause: key, key: follower, worth });
            }
        }
    }

    /// Tells rows of other cores what became of what they guessed.
    fn spread_ratings(&mut self) {
        let Foresight { predictor, shards, hints, .. } = self;
        for Rating { cause, key, worth } in predictor.take_ratings() {
            if !shards.own(cause) && hints.len() < HINTS_MAX {
                hints.push(Hint::Rated { key: cause, follower: key, worth });
            }
        }
    }

    /// Keeps a hint for its core, with the last of `text` as long as it is; too many are lost.
    fn tell(&mut self, hint: Hint, text_len: usize) {
        if self.hints.len() < HINTS_MAX {
            self.hints.push(hint);
            self.hint_bytes.extend_from_slice(&self.text[..text_len]);
        }
    }
}

impl Engine {
    /// Takes up prefetching if any keyspace wants it, or gives it up; the memory for items follows.
    pub(super) fn set_foresight(&mut self) {
        let total = self.memory_bytes_max;
        let through = self.through.as_mut().expect("keyspaces are of it");
        let wanted = through.keyspaces.list().iter().any(|keyspace| keyspace.prefetch);
        match (&through.foresight, wanted) {
            (None, true) => through.foresight = Foresight::with_part_of(total, &self.shards),
            (Some(_), false) => through.foresight = None,
            _ => return,
        }
        self.share_memory();
    }

    /// Gives the store what the predictor leaves of the memory for items. A predictor whose bound is far
    /// from what there is now begins anew.
    pub(super) fn share_memory(&mut self) {
        let total = self.memory_bytes_max;
        let mut taken = 0;
        if let Some(through) = &mut self.through
            && let Some(foresight) = &through.foresight
        {
            let most = foresight.memory_bytes_max;
            if most > total / 100 * (2 * MEMORY_PERCENT) || 2 * most < total / 100 * MEMORY_PERCENT {
                through.foresight = Foresight::with_part_of(total, &self.shards);
            }
            taken = through.foresight.as_ref().map_or(0, |foresight| foresight.bytes());
        }
        self.store.set_memory_bytes_max(total - taken);
    }

    /// Lets the predictor grow or shrink to what it deserves. To grow the store has to give back first, so that both together
    /// never pass the limit, not even while what is known moves from one place to the other.
    fn fit_foresight(&mut self) {
        let total = self.memory_bytes_max;
        let Some(foresight) = self.through.as_mut().and_then(|through| through.foresight.as_mut()) else {
            return;
        };
        if !foresight.predictor.misfits() {
            // It may have wanted more for a while, and the store has made room.
            if self.store.memory_bytes_max() < total - foresight.bytes() {
                self.share_memory();
            }
            return;
        }
        let most = foresight.bytes() + foresight.predictor.wanted_bytes() as u64;
        if most >= total {
            return;
        }
        if self.store.held_bytes() > total - most {
            return self.store.set_memory_bytes_max(total - most);
        }
        foresight.predictor.resize();
        self.share_memory();
    }

    /// What is told of prefetching; `None` where no keyspace wants it.
    pub fn prefetch_tally(&self) -> Option<PrefetchTally> {
        self.through.as_ref()?.foresight.as_ref().map(|foresight| foresight.tally())
    }

    /// Whether candidates wait for room at their origins.
    pub fn has_candidates(&self) -> bool {
        let foresight = self.through.as_ref().and_then(|through| through.foresight.as_ref());
        foresight.is_some_and(|foresight| !foresight.ring.is_empty())
    }

    /// A read of a key, with what came of it.
    pub(super) fn foresee(&mut self, now: Mono, waiter: Waiter, key: &[u8], probe: Probe, hit: bool) {
        let through = self.through.as_mut().expect("reads with keyspaces have it");
        let Some(foresight) = &mut through.foresight else { return };
        if !through.keyspaces.of(key).is_some_and(|id| through.keyspaces[id].prefetch) {
            return;
        }
        let id = number_of(probe);
        foresight.arrive(key, id, hit);
        if waiter.core == foresight.shards.me {
            foresight.read_by(now, waiter, key, id, &mut self.store);
        }
    }

    /// A request of a connection of this core was sent on to the core that owns its key.
    #[inline]
    pub fn sent_on(&mut self, now: Now, waiter: Waiter, request: &Request<'_>) {
        if let Some(through) = &mut self.through
            && let Some(foresight) = &mut through.foresight
            && matches!(request.verb, Verb::Get | Verb::Fetch(_))
            && through.keyspaces.of(request.key).is_some_and(|id| through.keyspaces[id].prefetch)
        {
            let id = number_of(self.store.probe(request.key));
            foresight.read_by(now.mono, waiter, request.key, id, &mut self.store);
        }
    }

    /// What another core says of a key of this one.
    pub fn hint(&mut self, now: Now, hint: Hint, text: &[u8]) {
        if let Some(through) = &mut self.through
            && let Some(foresight) = &mut through.foresight
        {
            foresight.hear(now.mono, hint, text, &mut self.store);
        }
    }

    /// Hands over what the owners of other keys are to be told, with the texts that go along.
    pub fn take_hints(&mut self, mut each: impl FnMut(Hint, &[u8])) {
        let Some(foresight) = self.through.as_mut().and_then(|through| through.foresight.as_mut()) else {
            return;
        };
        let mut rest = foresight.hint_bytes.as_slice();
        for hint in foresight.hints.drain(..) {
            let (text, tail) = rest.split_at(hint.text_len());
            rest = tail;
            each(hint, text);
        }
        foresight.hint_bytes.clear();
    }

    /// Says which shards are this core's. Without, all are.
    pub fn set_shards(&mut self, me: CoreId, map: &ShardMap) {
        let mut owned = [0; SHARD_COUNT as usize / 64];
        for shard in (0..SHARD_COUNT).filter(|&shard| map.owner(ShardId::new(shard)) == me) {
            owned[usize::from(shard) / 64] |= 1 << (shard % 64);
        }
        self.shards = Shards {
            me,
            owned: Some(Box::new(owned)).filter(|owned| owned.iter().any(|word| *word != u64::MAX)),
        };
    }

    /// Begins fetches for the candidates that wait, as far as their origins (by number) have room; `rooms` is what is left.
    pub fn prefetch(&mut self, now: Now, rooms: &mut [usize]) {
        while rooms.iter().any(|&room| room > 0) {
            let Some(through) = &mut self.through else { return };
            let Some(foresight) = &mut through.foresight else { return };
            let Some(candidate) = foresight.ring.pop(now.mono) else { return };
            let Target::Key(id) = candidate.target else { continue };
            let mut text = std::mem::take(&mut foresight.text);
            text.clear();
            text.extend_from_slice(foresight.predictor.key(id).unwrap_or_default());
            if !text.is_empty() {
                self.prefetch_one(now, id, &text, candidate, rooms);
            } else {
                foresight.drops.needless += 1;
            }
            if let Some(foresight) = self.through.as_mut().and_then(|through| through.foresight.as_mut()) {
                foresight.text = text;
            }
        }
    }

    fn prefetch_one(&mut self, now: Now, id: KeyId, key: &[u8], candidate: Candidate, rooms: &mut [usize]) {
        self.enforce(now.mono, key);
        let probe = self.store.probe(key);
        let held = self.look(now.mono, probe, key, false).is_some();
        let through = self.through.as_mut().expect("candidates are of it");
        let foresight = through.foresight.as_mut().expect("candidates are of it");
        let keyspace_id = through.keyspaces.of(key).filter(|id| through.keyspaces[*id].prefetch);
        let needless = held
            || foresight.predictor.awaits(id)
            || through.flights.joinable(key).is_some()
            || through.ledger.is_absent(now.mono, key)
            || through.ledger.rests(now.mono, key)
            || through.writes.contains_key(key)
            || !through.flights.has_room();
        let Some(keyspace_id) = keyspace_id.filter(|_| !needless) else {
            foresight.drops.needless += 1;
            return;
        };
        let keyspace = through.keyspaces[keyspace_id].clone();
        match rooms.get_mut(usize::from(keyspace.origin.0)).filter(|room| **room > 0) {
            Some(room) => *room -= 1,
            None => {
                foresight.drops.no_room += 1;
                return;
            }
        }
        foresight.predictor.issued(now.mono, id, candidate.reason);
        foresight.under_way += 1;
        self.take_off(&keyspace, keyspace_id, key, None, Cause::Prefetch);
    }

    /// A flight that began as a prefetch is over.
    pub(super) fn came_of(&mut self, flight: &Flight, end: End) {
        if flight.begun_for != Cause::Prefetch {
            return;
        }
        let id = number_of(self.store.probe(&flight.key));
        let through = self.through.as_mut().expect("flights are of it");
        let Some(foresight) = &mut through.foresight else { return };
        // One of before prefetching was switched off and on again is not counted.
        foresight.under_way = foresight.under_way.saturating_sub(1);
        match end {
            End::Landed => {
                foresight.landed += 1;
                foresight.predictor.landed(id);
            }
            End::Absent => {
                foresight.predictor.missing(id);
                foresight.spread_ratings();
            }
            End::Failed | End::Voided => {
                foresight.predictor.withdraw(id);
                match end {
                    End::Failed => foresight.drops.failed += 1,
                    _ => foresight.drops.voided += 1,
                }
            }
        }
    }

    /// Passes judgement from time to time; when to attend to candidates again, if any wait.
    pub(super) fn attend_foresight(&mut self, now: Mono) -> Option<Mono> {
        let items = self.store.len();
        let foresight = self.through.as_mut()?.foresight.as_mut()?;
        if now >= foresight.judge_at {
            foresight.judge_at = now.plus_millis(JUDGE_MILLIS);
            foresight.predictor.cache_holds(items);
            foresight.predictor.tick(now);
            foresight.spread_ratings();
            self.fit_foresight();
        }
        let foresight = self.through.as_mut()?.foresight.as_mut()?;
        // An origin without room would keep the core awake for guesses that are too old.
        foresight.ring.expire(now);
        (!foresight.ring.is_empty()).then(|| now.plus_millis(ROOM_MILLIS))
    }
}

/// The number that rows and directory know a key by.
fn number_of(probe: Probe) -> KeyId {
    // One key in four milliards shares its neighbour's.
    probe.number().min(NO_KEY - 1)
}

/// Where a key stands among others that differ in the number at their end, and how many digits that has.
fn place_of(key: &[u8]) -> Option<(Place, usize)> {
    let digits = key.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > DIGITS_MAX {
        return None;
    }
    let (prefix, number) = key.split_at(key.len() - digits);
    let number = number.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    // FNV-1a, then mixed: prefixes are short, and a stream that another one hides costs guesses and no more.
    let hash = prefix.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some((Place { prefix: hash, number }, digits))
}

/// Writes the key with that number; as wide as the one it was guessed from, if that began with a zero. False if the number is
/// none that a key would have.
fn write_key(text: &mut Vec<u8>, prefix: &[u8], digits: usize, number: u64) -> bool {
    let mut reversed = [b'0'; DIGITS_MAX];
    let (mut rest, mut len) = (number, 0);
    while rest > 0 || len == 0 {
        if len == DIGITS_MAX {
            return false;
        }
        reversed[len] = b'0' + (rest % 10) as u8;
        (rest, len) = (rest / 10, len + 1);
    }
    // Fewer digits than before stand for a number that lost one, or for zeros in front: those who count down from 100 to 99
    // are rarer than those who pad.
    let len = len.max(digits);
    text.clear();
    text.extend_from_slice(prefix);
    text.extend(reversed[..len].iter().rev());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;
    use crate::hash::slot_of;
    use crate::message::ReturnAddress;
    use crate::origin::keyspace::{Keys, Keyspace, Keyspaces, WritePolicy};
    use crate::origin::pool::Failure;
    use crate::origin::{Found as Fetched, OriginId, Reply as Told, Ticket};
    use crate::request::{Named, Put};
    use std::collections::HashMap;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    fn keyspace() -> Keyspace {
        Keyspace {
            name: "all".into(),
            keys: Keys::Prefix(Vec::new()),
            origin: OriginId(0),
            drop_prefix: false,
            passes: false,
            fresh_millis: 1_000_000,
            stale_millis: 0,
            stale_error_millis: 0,
            negative_millis: 1000,
            write: WritePolicy::Through,
            value_bytes_max: 1 << 20,
            wait_millis_max: 1000,
            attempts_max: 3,
            prefetch: false,
        }
    }

    /// An engine and an origin whose every value is its key's; time goes by 1 ms with each request.
    struct World {
        engine: Engine,
        millis: u64,
        under_way: Vec<(Ticket, Cause, Vec<u8>)>,
        asked: HashMap<Vec<u8>, usize>,
    }

    impl World {
        fn new(prefetch: bool) -> World {
            World::with(vec![Keyspace { prefetch, ..keyspace() }])
        }

        fn with(keyspaces: Vec<Keyspace>) -> World {
            let store =
                store::Options { memory_bytes_max: 16 * MIB, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
            let mut engine = Engine::new(Options { store, seed: 1 });
            engine.set_keyspaces(Arc::new(Keyspaces::new(keyspaces)));
            World { engine, millis: 1, under_way: Vec::new(), asked: HashMap::new() }
        }

        fn now(&self) -> Now {
            Now { mono: Mono(0).plus_millis(self.millis), wall: Wall(self.millis) }
        }

        fn do_it(&mut self, client: u32, key: &str, value: &str, verb: Verb) -> bool {
            self.millis += 1;
            let (core, connection) = (CoreId(0), ConnectionId { place: client, generation: 0 });
            let waiter = Waiter { core, address: ReturnAddress { connection, ticket: 0 } };
            let request = Request { key: key.as_bytes(), value: value.as_bytes(), verb };
            let hit = self.engine.serve(self.now(), waiter, &request).is_some();
            self.poll();
            hit
        }

        /// Whether it was found at once.
        fn get(&mut self, client: u32, key: &str) -> bool {
            self.do_it(client, key, "", Verb::Get)
        }

        fn poll(&mut self) {
            while let Some(effect) = self.engine.poll_effect() {
                if let Effect::Ask { ticket, cause, ask, .. } = effect {
                    *self.asked.entry(ask.key.clone()).or_default() += 1;
                    self.under_way.push((ticket, cause, ask.key));
                }
            }
        }

        /// Lets candidates take off; how many did.
        fn prefetch(&mut self, room: usize) -> usize {
            let before = self.under_way.len();
            self.engine.prefetch(self.now(), &mut [room]);
            self.poll();
            self.under_way.len() - before
        }

        /// All that is under way comes back.
        fn land(&mut self) {
            for (ticket, _, key) in std::mem::take(&mut self.under_way) {
                let found = Fetched { value: key, ..Fetched::default() };
                self.engine.answered(self.now(), ticket, Told::Found(found));
            }
            self.poll();
        }

        fn forget(&mut self, keys: &[String]) {
            for key in keys {
                self.do_it(9, key, "", Verb::Invalidate(Named::Key));
            }
        }

        fn tally(&self) -> PrefetchTally {
            self.engine.prefetch_tally().expect("it prefetches")
        }

        fn score(&self, source: Source) -> Score {
            self.tally().scores[source as usize]
        }

        /// Walks the keys as often, and leaves none of them in the cache.
        fn teach(&mut self, keys: &[String], times: usize) {
            for _ in 0..times {
                for key in keys {
                    self.get(0, key);
                    self.land();
                }
                self.forget(keys);
                // What was guessed meanwhile is too old.
                self.millis += 1000;
                assert_eq!(self.prefetch(1000), 0);
            }
        }
    }

    fn words() -> Vec<String> {
        ["ape", "bear", "cat", "dog", "eel", "fox"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_sequence_seen_before_is_fetched_ahead_and_found_and_each_key_is_asked_for_once() {
        let mut world = World::new(true);
        world.teach(&words(), 6);
        let asked = world.asked.clone();
        let mut hits = 0;
        for key in words() {
            hits += usize::from(world.get(0, &key));
            world.prefetch(1000);
            world.land();
        }
        assert_eq!(hits, 5, "all but the first; {:?}", world.tally());
        for (key, times) in &world.asked {
            assert_eq!(times - asked[key], 1, "{key:?}");
        }
        let score = world.score(Source::Successor);
        assert_eq!((score.used, score.late), (5, 0), "{:?}", world.tally());
        assert_eq!((world.tally().under_way, world.tally().landed), (0, score.issued));
    }

    #[test]
    fn another_client_in_between_does_not_blur_a_clients_sequence() {
        let mut world = World::new(true);
        let noise = |i: usize| format!("noise-{i:x}-x");
        for round in 0..8 {
            for (i, key) in words().iter().enumerate() {
                world.get(0, key);
                world.get(1, &noise(round * 100 + i));
                world.land();
            }
            world.forget(&words());
            world.millis += 1000;
        }
        world.prefetch(1000);
        let mut hits = 0;
        for (i, key) in words().iter().enumerate() {
            hits += usize::from(world.get(0, key));
            world.get(1, &noise(5000 + i));
            world.prefetch(1000);
            world.land();
        }
        assert_eq!(hits, 5);
        assert!(world.asked.keys().filter(|key| key.starts_with(b"noise")).count() == 8 * 6 + 6);
    }

    #[test]
    fn pages_that_are_walked_are_fetched_ahead_by_their_numbers_as_they_are_written() {
        for (name, first, step) in [("user:7:page:", 1, 1), ("img-0", 10, 3)] {
            let mut world = World::new(true);
            let key = |i: u64| format!("{name}{:03}", first + i * step);
            let hits: usize = (0..40)
                .map(|i| {
                    let hit = world.get(0, &key(i));
                    world.prefetch(1000);
                    world.land();
                    usize::from(hit)
                })
                .sum();
            assert!(hits >= 30, "{hits} of 40 found: {:?}", world.tally());
            let keys: Vec<_> = (0..60).map(|i| key(i).into_bytes()).collect();
            assert!(world.asked.keys().all(|asked| keys.contains(asked)), "{:?}", world.asked.keys());
            assert!(world.asked.values().all(|&times| times == 1));
        }
    }

    #[test]
    fn who_wants_what_is_being_prefetched_joins_it_and_the_origin_is_told_to_hurry() {
        let mut world = World::new(true);
        world.teach(&words(), 6);
        world.get(0, "ape");
        world.land();
        assert!(world.prefetch(1000) > 0);
        let waits: Vec<_> = world.under_way.iter().map(|(_, cause, key)| (*cause, key.clone())).collect();
        assert!(waits.contains(&(Cause::Prefetch, b"bear".to_vec())), "{waits:?}");
        let asked = world.asked[b"bear".as_slice()];
        world.millis += 1;
        let connection = ConnectionId { place: 0, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: 7 } };
        let request = Request { key: b"bear", value: b"", verb: Verb::Get };
        assert!(world.engine.serve(world.now(), waiter, &request).is_none());
        let ticket = world.under_way.iter().find(|(_, _, key)| key == b"bear").expect("under way").0;
        let effects: Vec<_> = std::iter::from_fn(|| world.engine.poll_effect()).collect();
        assert!(
            matches!(effects[..], [Effect::Hurry { ticket: hurried, .. }] if hurried == ticket),
            "{effects:?}"
        );
        let found = Fetched { value: b"bear".to_vec(), ..Fetched::default() };
        world.engine.answered(world.now(), ticket, Told::Found(found));
        let effects: Vec<_> = std::iter::from_fn(|| world.engine.poll_effect()).collect();
        assert!(
            matches!(&effects[..], [Effect::Answer { waiter: who, .. }] if *who == waiter),
            "{effects:?}"
        );
        assert_eq!(world.asked[b"bear".as_slice()], asked, "nothing was asked for twice");
        let score = world.score(Source::Successor);
        assert_eq!((score.late, score.used), (1, 0), "{:?}", world.tally());
    }

    #[test]
    fn what_is_written_or_invalidated_meanwhile_is_not_overwritten_by_a_prefetch() {
        let mut world = World::new(true);
        world.teach(&words(), 6);
        world.get(0, "ape");
        world.land();
        assert!(world.prefetch(1000) > 0);
        // Written by a client, and acknowledged by the origin, before the prefetch comes back.
        let fetches = std::mem::take(&mut world.under_way);
        world.do_it(1, "bear", "new", Verb::Put(Put::plain(Expiry::Never)));
        for (ticket, _, _) in std::mem::take(&mut world.under_way) {
            world.engine.answered(world.now(), ticket, Told::Written);
        }
        world.forget(&["cat".to_owned()]);
        world.under_way = fetches;
        world.land();
        let peek = |world: &mut World, key: &str| {
            let request = Request { key: key.as_bytes(), value: b"", verb: Verb::Peek };
            let now = world.now();
            world.engine.execute(now, &request).value.to_cow().into_owned()
        };
        assert_eq!(peek(&mut world, "bear"), b"new");
        assert_eq!(peek(&mut world, "cat"), b"");
        let tally = world.tally();
        assert!(tally.drops.voided >= 1, "{tally:?}");
        assert_eq!(
            tally.scores.iter().map(|score| score.wasted).sum::<u64>(),
            0,
            "no guess was wrong: {tally:?}"
        );
    }

    #[test]
    fn without_room_nothing_is_asked_and_candidates_pass_with_their_moment() {
        let mut world = World::new(true);
        world.teach(&words(), 6);
        world.get(0, "ape");
        world.land();
        assert!(world.engine.has_candidates());
        assert_eq!(world.prefetch(0), 0);
        assert_eq!(world.prefetch(1), 1);
        assert!(world.engine.attend(world.now()).is_some(), "it is to be looked at again");
        world.millis += WAIT_MILLIS + 1;
        assert!(
            world
                .engine
                .attend(world.now())
                .is_none_or(|due| due > world.now().mono.plus_millis(ROOM_MILLIS))
        );
        assert_eq!(world.prefetch(1000), 0);
        assert!(!world.engine.has_candidates() && world.tally().drops.waited > 0);
    }

    #[test]
    fn an_origin_that_fails_is_no_fault_of_the_guess_and_the_key_rests() {
        let mut world = World::new(true);
        world.teach(&words(), 6);
        world.get(0, "ape");
        world.land();
        let before = world.tally();
        let count = world.prefetch(1000) as u64;
        assert!(count > 0);
        for (ticket, _, _) in std::mem::take(&mut world.under_way) {
            world.engine.failed(world.now(), ticket, Failure::Overdue);
        }
        world.poll();
        let tally = world.tally();
        assert_eq!(tally.drops.failed, count);
        assert_eq!((tally.under_way, tally.landed), (0, before.landed));
        assert!(tally.scores.iter().all(|score| score.wasted == 0));
        assert!(world.under_way.is_empty(), "nobody waits: nobody tries again");
        world.get(5, "ape");
        assert_eq!(world.prefetch(1000), 0, "they rest for a moment: {:?}", world.asked);
    }

    #[test]
    fn a_walk_without_sense_stays_within_its_budget_and_comes_to_rest() {
        let mut world = World::new(true);
        let mut dice = 7u64;
        let (mut fetched_at_rest, mut demanded_at_rest, mut rested) = (0, 0, false);
        for i in 0..40_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let hit = world.get(0, &format!("w{:x}x", dice >> 33 & 0xFFF));
            // Nothing stays: every read needs the origin.
            let fetched = world.prefetch(1000);
            world.land();
            if world.asked.len() > 512 {
                let keys = world.asked.keys().map(|key| String::from_utf8(key.clone()).expect("text"));
                let keys: Vec<String> = keys.collect();
                world.forget(&keys);
                world.asked.clear();
            }
            world.engine.attend(world.now());
            rested |= world.tally().resting;
            if i >= 30_000 {
                (fetched_at_rest, demanded_at_rest) =
                    (fetched_at_rest + fetched, demanded_at_rest + usize::from(!hit));
            }
        }
        assert!(demanded_at_rest > 5000, "{demanded_at_rest}");
        assert!(
            fetched_at_rest * 50 < demanded_at_rest,
            "{fetched_at_rest} for {demanded_at_rest}; rested {rested}"
        );
    }

    #[test]
    fn the_predictors_memory_is_the_stores_and_comes_back() {
        let mut world = World::new(true);
        let bytes = world.tally().bytes;
        assert!(
            (MIB / 5..16 * MIB * MEMORY_PERCENT / 100 / 2).contains(&bytes),
            "{bytes}: it has to earn more"
        );
        let limit = |world: &mut World| {
            world.engine.refresh_gauges();
            world.engine.counters.store_limit_bytes
        };
        assert_eq!(limit(&mut world), 16 * MIB - bytes);
        world.engine.set_memory_bytes_max(4 * MIB);
        let less = world.tally().bytes;
        assert!(less < bytes && limit(&mut world) == 4 * MIB - less, "{less}");
        world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace()])));
        assert_eq!(limit(&mut world), 4 * MIB);
        assert!(world.engine.prefetch_tally().is_none());
        world.engine.set_memory_bytes_max(MIB / 2);
        world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![Keyspace { prefetch: true, ..keyspace() }])));
        assert!(world.engine.prefetch_tally().is_none(), "too little to be of use");
    }

    #[test]
    fn who_spares_misses_gets_more_memory_and_both_stay_under_the_limit() {
        let mut world = World::new(true);
        let first = world.tally().bytes;
        let keys: Vec<String> = (0..3000u64).map(|i| format!("k{:x}x", i * i * 7919)).collect();
        let within = |world: &mut World| {
            world.engine.attend(world.now());
            world.engine.tick(world.now());
            world.engine.refresh_gauges();
            let (held, bytes) = (world.engine.counters.store_bytes, world.tally().bytes);
            assert!(held + bytes <= 16 * MIB, "{held} + {bytes}");
        };
        for _ in 0..8 {
            for key in &keys {
                world.get(0, key);
                world.prefetch(1000);
                world.land();
                within(&mut world);
            }
            world.forget(&keys);
        }
        let most = world.tally().bytes;
        assert!(most > 2 * first, "{first} bytes, then {most}: {:?}", world.tally());
        assert!(most <= 16 * MIB * MEMORY_PERCENT / 100);
        // From now on nothing comes twice.
        for i in 0..80_000 {
            world.get(0, &format!("n{i:x}x"));
            world.land();
            within(&mut world);
        }
        assert!(world.tally().bytes < first, "{first} bytes, then {}", world.tally().bytes);
    }

    #[test]
    fn keyspaces_that_do_not_want_it_are_not_watched() {
        let plain = Keyspace { name: "plain".into(), keys: Keys::Prefix(b"p:".to_vec()), ..keyspace() };
        let mut world = World::with(vec![Keyspace { prefetch: true, ..keyspace() }, plain]);
        let keys: Vec<String> = words().iter().map(|word| format!("p:{word}")).collect();
        world.teach(&keys, 6);
        world.get(0, &keys[0]);
        assert!(!world.engine.has_candidates());
    }

    /// Two cores with one origin: a client of the first, whose reads go to the owners of their keys.
    struct Cores {
        worlds: [World; 2],
        map: ShardMap,
        hints: usize,
    }

    impl Cores {
        fn new() -> Cores {
            let map = ShardMap::on_cores(2);
            let mut worlds = [World::new(true), World::new(true)];
            for (me, world) in worlds.iter_mut().enumerate() {
                world.engine.set_shards(CoreId(me as u16), &map);
                // Prefetching is taken up with the shards that there are then.
                world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace()])));
                world
                    .engine
                    .set_keyspaces(Arc::new(Keyspaces::new(vec![Keyspace { prefetch: true, ..keyspace() }])));
            }
            Cores { worlds, map, hints: 0 }
        }

        fn owner(&self, key: &str) -> usize {
            self.map.owner(slot_of(key.as_bytes()).shard()).index()
        }

        /// Whether it was found at once.
        fn get(&mut self, key: &str) -> bool {
            let owner = self.owner(key);
            if owner != 0 {
                let connection = ConnectionId { place: 0, generation: 0 };
                let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: 0 } };
                let request = Request { key: key.as_bytes(), value: b"", verb: Verb::Get };
                let now = self.worlds[0].now();
                self.worlds[0].engine.sent_on(now, waiter, &request);
            }
            let hit = self.worlds[owner].get(0, key);
            self.spread();
            hit
        }

        fn spread(&mut self) {
            for from in [0, 1, 0] {
                let mut hints = Vec::new();
                self.worlds[from].engine.take_hints(|hint, text| hints.push((hint, text.to_vec())));
                self.hints += hints.len();
                for (hint, text) in hints {
                    let owner = self.map.owner(ShardId::new(shard_of(hint.key()))).index();
                    assert_ne!(owner, from, "nobody tells himself: {hint:?}");
                    let now = self.worlds[owner].now();
                    self.worlds[owner].engine.hint(now, hint, &text);
                }
            }
        }

        fn settle(&mut self) {
            for world in &mut self.worlds {
                world.prefetch(1000);
                world.land();
            }
            self.spread();
        }
    }

    #[test]
    fn a_sequence_over_two_cores_is_learnt_and_fetched_by_the_owners() {
        let mut cores = Cores::new();
        let owners: Vec<usize> = words().iter().map(|word| cores.owner(word)).collect();
        assert!(owners.contains(&0) && owners.contains(&1), "the words tell nothing: {owners:?}");
        for _ in 0..6 {
            for word in words() {
                cores.get(&word);
                cores.worlds.iter_mut().for_each(World::land);
            }
            for world in &mut cores.worlds {
                world.forget(&words());
                world.millis += 1000;
                world.prefetch(1000);
            }
        }
        let mut hits = 0;
        for word in words() {
            hits += usize::from(cores.get(&word));
            cores.settle();
        }
        assert_eq!(hits, 5, "all but the first");
        let used: u64 = cores.worlds.iter().map(|world| world.score(Source::Successor).used).sum();
        assert_eq!(used, 5);
        assert!(cores.hints > 0);
    }

    #[test]
    fn a_walk_by_number_over_two_cores_is_seen_by_the_clients_core() {
        let mut cores = Cores::new();
        let mut hits = 0;
        for i in 0..40 {
            hits += usize::from(cores.get(&format!("user:7:page:{i}")));
            cores.settle();
        }
        assert!(hits >= 30, "{hits} of 40 found");
        let issued = cores.worlds.each_ref().map(|world| world.score(Source::Stride).issued);
        assert!(issued.iter().all(|&issued| issued > 5), "each owner fetches its own: {issued:?}");
    }

    #[test]
    fn a_reason_crosses_cores_as_it_is() {
        for source in Source::ALL {
            let reason = Reason::from_bits(77 << 32 | (source as u64) << 16 | 200);
            let again = Reason::from_bits(reason.to_bits());
            assert_eq!((again.source, again.cause, again.to_bits()), (source, 77, reason.to_bits()));
        }
    }

    #[test]
    fn numbers_at_the_end_of_keys_are_read_and_written() {
        let (place, digits) = place_of(b"user:7:page:012").expect("a number");
        assert_eq!((place.number, digits), (12, 3));
        assert_eq!(place_of(b"user:7:page:9").expect("a number").0.prefix, place.prefix);
        assert_ne!(place_of(b"user:8:page:9").expect("a number").0.prefix, place.prefix);
        assert_eq!(place_of(b"page"), None);
        assert_eq!(place_of(b""), None);
        assert_eq!(place_of(&[b'9'; 30]), None);
        let write = |digits, number| {
            let mut text = Vec::new();
            write_key(&mut text, b"p:", digits, number).then(|| String::from_utf8(text).expect("text"))
        };
        assert_eq!(write(3, 13).as_deref(), Some("p:013"));
        assert_eq!(write(1, 10).as_deref(), Some("p:10"));
        assert_eq!(write(1, 0).as_deref(), Some("p:0"));
        assert_eq!(write(1, u64::MAX), None);
    }
}
