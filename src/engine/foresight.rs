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
//! 5. A read of an item in the last part of its life has it fetched anew if it is read often: so what is hot does not end. That
//!    one is a refresh, behind demand and before prefetches.
//!
//! The context of a guess is the client's: its last news, remembered by connection in a table of a fixed size in which who
//! comes later takes the place of who was there. All memory is taken once, and the store gets that much less.
//!
//! Over cores: rows stand with their keys' owners, who also know what is news; a client's last news stands with its connection,
//! whose core sees its walks, too. What must cross goes as hints in the batches that carry requests anyway.
//!
//! ```text
//!   connection's core        owner of x                  owner of b, news before      owner of c, guessed
//!   reads x  --------------> row x: c  ------------------- Likely -------------------> ring, flight
//!     |       <--- Missed -- news?                                                        |
//!     |------------------------------------ Followed --> row b: x                         |
//!     |-- walks by number ------------------------------- Likely + key -----------------> |
//!                            row x  <------------------- Rated ---------------------------|
//! ```

mod explained;

pub use explained::{Explained, FetchedAhead, Follower};

use super::flights::{Flight, Waiter};
use super::*;
use crate::ids::{ConnectionId, CoreId, SHARD_COUNT, ShardId};
use crate::message::{HINTS_MAX, Hint};
use crate::origin::keyspace::KeyspaceId;
use crate::origin::pool::Cause;
use crate::prefetch::{
    Candidate, KeyId, MEMORY_PERCENT, NO_KEY, Past, Place, Predictor, Rating, Reason, Ring, Score, Seen,
    Source, Target,
};
use crate::store::{Probe, shard_of};
use crate::topology::ShardMap;

/// With less than this for the predictor there is no prefetching.
const MEMORY_BYTES_MIN: u64 = 128 << 10;
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
/// The last part of an item's life, one in so many, in which a read has it fetched anew: what that costs the origin more.
const LEAD_PART: u64 = 12;
/// A longer life than the shortest counts for one part in so many.
const LIFE_STEPS: u64 = 64;
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
    /// Items asked for anew because they were about to end.
    pub refreshed: u64,
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

    /// How many there are.
    pub fn count(&self) -> u64 {
        let all = u64::from(SHARD_COUNT);
        self.owned.as_ref().map_or(all, |owned| owned.iter().map(|word| u64::from(word.count_ones())).sum())
    }

    #[inline]
    fn own(&self, key: KeyId) -> bool {
        let shard = usize::from(shard_of(key));
        self.owned.as_ref().is_none_or(|owned| owned[shard / 64] >> (shard % 64) & 1 == 1)
    }
}

/// The last news of a client.
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
    /// This turn, or the one before.
    now: Mono,
    /// Of each keyspace by its number, the shortest milliseconds of late that an origin's answer was fresh.
    lives: Vec<u64>,
    refreshed: u64,
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
            now: Mono(0),
            lives: Vec::new(),
            refreshed: 0,
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
            refreshed: self.refreshed,
            landed: self.landed,
            drops: Drops { waited: self.drops.waited + self.ring.dropped, ..self.drops },
            waiting: self.ring.len() as u64,
            under_way: self.under_way,
            bytes: self.bytes(),
            threshold: self.predictor.threshold(),
            resting: self.predictor.resting(),
        }
    }

    /// The last news of the client of a connection.
    fn client(&mut self, core: CoreId, connection: ConnectionId) -> &mut Client {
        let name = u64::from(core.0) << 32 ^ u64::from(connection.place);
        let hash = name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = ((hash * self.clients.len() as u64) >> 32) as usize;
        let client = &mut self.clients[place];
        if (client.core, client.connection) != (core.0, connection) {
            *client = Client { core: core.0, connection, past: Past::EMPTY };
        }
        client
    }

    /// A read reached the owner of its key, this core: what was fetched for it is judged, and what is likely next is guessed.
    /// Answers whether it is news.
    fn arrive(&mut self, key: &[u8], id: KeyId, hit: bool, store: &mut Store) -> bool {
        let news = self.predictor.arrive(&Seen { at: self.now, id, key, place: None, hit });
        self.spread_ratings();
        let Foresight { predictor, shards, candidates, .. } = self;
        predictor.visit(id, news, |key| !shards.own(key), candidates);
        self.sort_out(self.now, b"", 0, store);
        news
    }

    /// A key, of whatever core, was news to a client of this core: the row of its news before learns that.
    fn follow(&mut self, connection: ConnectionId, id: KeyId) {
        let Some(before) = self.client(self.shards.me, connection).past.follow(id) else { return };
        match self.shards.own(before) {
            true => self.predictor.learn(before, id),
            false => self.tell(Hint::Followed { key: before, follower: id }, 0),
        }
    }

    /// A client of this core reads a key, of whatever core: where it walks is followed.
    fn walk(&mut self, now: Mono, key: &[u8], id: KeyId, store: &mut Store) {
        let place = place_of(key);
        self.predictor.step(id, place.map(|(place, _)| place), &mut self.candidates);
        self.sort_out(now, key, place.map_or(0, |(_, digits)| digits), store);
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
            Hint::Missed { connection, key, .. } => self.follow(connection, key),
            Hint::Followed { key, follower } => self.predictor.learn(key, follower),
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
            (Some(_), true) => {
                // Their numbers may be others' now.
                through.foresight.iter_mut().for_each(|foresight| foresight.lives.clear());
                return;
            }
            (None, false) => return,
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
        let keyspace = through.keyspaces.of(key).filter(|id| through.keyspaces[*id].prefetch);
        let Some(keyspace) = keyspace else { return };
        let id = number_of(probe);
        foresight.now = now;
        let news = foresight.arrive(key, id, hit, &mut self.store);
        let Waiter { core, address } = waiter;
        match core == foresight.shards.me {
            true => {
                if news {
                    foresight.follow(address.connection, id);
                }
                foresight.walk(now, key, id, &mut self.store);
            }
            false if news => {
                foresight.tell(Hint::Missed { core: core.0, connection: address.connection, key: id }, 0);
            }
            false => {}
        }
        if hit && news {
            self.store.credit(probe, key);
        }
        if hit {
            self.refresh_ahead(now, keyspace, key, probe);
        }
    }

    /// Has an item fetched anew that is about to end, if it is read so often that it would be missed.
    fn refresh_ahead(&mut self, now: Mono, id: KeyspaceId, key: &[u8], probe: Probe) {
        let through = self.through.as_mut().expect("reads with keyspaces have it");
        let foresight = through.foresight.as_mut().expect("who foresees has it");
        let Some(&life) = foresight.lives.get(usize::from(id.0)).filter(|life| **life > 0) else { return };
        let Some(found) = self.store.find(now, probe, key, false) else { return };
        let held = Held::of(&found);
        let Expiry::At(at) = held.expiry else { return };
        let keyspace = &through.keyspaces[id];
        let fresh_until = Mono(at.0.saturating_sub(keyspace.keep_millis() * Mono::NANOS_PER_MILLI));
        let near = now < fresh_until && fresh_until <= now.plus_millis(life / LEAD_PART);
        // Reads come as often as they did: with nine in ten there would be one before it ends once more.
        let often = held.used && u64::from(held.idle_seconds) * 1000 * 23 / 10 <= life;
        let idle = || {
            through.flights.joinable(key).is_none()
                && !through.ledger.rests(now, key)
                && !through.writes.contains_key(key)
                && through.flights.has_room()
        };
        if near && often && !held.marks.hollow && idle() && keyspace.budget.may_guess(now) {
            let foresight = through.foresight.as_mut().expect("looked at above");
            foresight.refreshed += 1;
            let keyspace = keyspace.clone();
            self.take_off(&keyspace, id, key, Some(held.version), Cause::Refresh);
        }
    }

    /// An origin's answer is in the cache, and fresh for a while.
    fn note_life(&mut self, flight: &Flight, probe: Probe) {
        let through = self.through.as_mut().expect("flights are of it");
        let Some(foresight) = &mut through.foresight else { return };
        let Some(found) = self.store.find(foresight.now, probe, &flight.key, false) else { return };
        let Expiry::At(at) = Held::of(&found).expiry else { return };
        let life = at.millis_since(foresight.now).saturating_sub(flight.rules.keep_millis());
        let place = usize::from(flight.keyspace.0);
        if foresight.lives.len() <= place {
            foresight.lives.resize(place + 1, 0);
        }
        let shortest = &mut foresight.lives[place];
        // Down at once, up slowly: what is about to end is told by the shortest life, and too late is better than always.
        *shortest = match *shortest {
            0 => life,
            before if life <= before => life,
            before => before + (life - before).div_ceil(LIFE_STEPS),
        };
    }

    /// A request of a connection of this core was sent on to the core that owns its key.
    #[inline]
    pub fn sent_on(&mut self, now: Now, request: &Request<'_>) {
        if let Some(through) = &mut self.through
            && let Some(foresight) = &mut through.foresight
            && matches!(request.verb, Verb::Get | Verb::Fetch(_))
            && through.keyspaces.of(request.key).is_some_and(|id| through.keyspaces[id].prefetch)
        {
            let id = number_of(self.store.probe(request.key));
            foresight.walk(now.mono, request.key, id, &mut self.store);
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
        if !keyspace.budget.may_guess(now.mono) {
            foresight.drops.no_room += 1;
            return;
        }
        foresight.predictor.issued(now.mono, id, candidate.score, candidate.reason);
        foresight.under_way += 1;
        self.take_off(&keyspace, keyspace_id, key, None, Cause::Prefetch);
    }

    /// A flight that began as a prefetch is over.
    pub(super) fn came_of(&mut self, flight: &Flight, end: End) {
        if self.through.as_ref().is_none_or(|through| through.foresight.is_none()) {
            return;
        }
        let probe = self.store.probe(&flight.key);
        if end == End::Landed && flight.rules.prefetch {
            self.note_life(flight, probe);
        }
        if flight.begun_for != Cause::Prefetch {
            return;
        }
        let id = number_of(probe);
        let through = self.through.as_mut().expect("flights are of it");
        let Some(foresight) = &mut through.foresight else { return };
        let now = foresight.now;
        // One of before prefetching was switched off and on again is not counted.
        foresight.under_way = foresight.under_way.saturating_sub(1);
        match end {
            End::Landed => {
                foresight.landed += 1;
                let found = self.store.find(now, probe, &flight.key, false);
                let bytes = found.map_or(0, |found| found.value.len());
                foresight.predictor.landed(now, id, u32::try_from(bytes).unwrap_or(u32::MAX));
            }
            End::Absent => {
                foresight.predictor.missing(now, id);
                foresight.spread_ratings();
            }
            End::Failed | End::Voided => {
                foresight.predictor.withdraw(now, id);
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
        foresight.now = now;
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
mod tests;
