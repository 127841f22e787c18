//! The item store of one core: what is held, under which limit, until when.
//!
//! The door is [`Store`]: the engine probes for a key once ([`Store::probe`]) and uses the probe for reading and writing.
//! The store decides what to evict; it knows versions and marks but not what they mean.
//!
//! ```text
//! hit:  hash -> table of the shard -> bucket (one line) -> item (head, key and value in one run)
//!       the frequency goes into the bucket's entry; item memory is not written
//! put:  append to an open segment; the entry points there; the one before is dead (or: overwritten where it lies)
//! ```
//! An item costs 8 bytes of index at 80 to 90 % load, 6 to 8 bytes of head (11 to 14 with an expiry), and its share of what
//! is half full: about five segments of a thousand (of 64 in the smallest stores), and the ghosts, 1/256 of the limit at most.
//!
//! Life of an item (S3-FIFO, with segments for queues):
//! 1. It is appended to the small queue, or to the main one if it was evicted a short while ago or replaces a used item. Until
//!    something has to leave for the first time, what the small queue's tenth has no room for goes to the main one, too.
//! 2. Its segment gets to the front of the small queue when that has more than a tenth of the memory: found twice or more by
//!    then, it moves to the end of the main queue; else it leaves, and its fingerprint is remembered.
//! 3. At the front of the main queue an item that was found goes round again with one use less; one that was not leaves.
//!    Who takes the room of many has to be worth it: from four times the mean size on each of these asks for one use more (in
//!    the main queue from sixteen times on for another one), and nobody of that size is let into the main queue unproved.
//! 4. Its expiry comes up in the wheel of its segment within a second of the deadline.
//! 5. Segments that are dead to a quarter (when memory is short) or a half (else) are compacted: live items move to the end.
//!
//! Nothing is done in one go. A put pays for what it takes by looking at four times as many bytes of the segment that is
//! being emptied, as long as few chunks are free; [`Store::tick`] does the rest, some 50 us at a time. The limit counts all:
//! chunks (free ones too), mappings, tables, wheels, ghosts, lists.
//!
//! Files: `memory` (all `unsafe`), `item` (bytes of an item), `wheel` (expiry in a segment), `log` (segments and the account),
//! `mappings` (values too large for a segment),
//! `index` (tables) and `pages` (their memory), `ghost` (fingerprints), `recent` (probes of keys expected), `upkeep` (eviction, compaction, expiry, giving back),
//! `landing` (large values on their way in), `copy` (walks for moving a shard), `watch` (shards whose changes are followed).

mod copy;
mod ghost;
mod incoming;
mod index;
mod item;
mod landing;
mod log;
mod mappings;
mod memory;
mod pages;
mod recent;
#[cfg(test)]
mod tests;
mod upkeep;
mod victims;
mod watch;
mod wheel;

pub use copy::ShardWalk;
pub use incoming::Incoming;
pub use landing::Lander;
pub use victims::Victim;
pub use watch::{Progress, ends_at, expiry_of};

use crate::clock::Mono;
use crate::hash::{KeyHasher, slot_of};
use crate::ids::{SHARD_COUNT, SLOTS_PER_SHARD, Slot, Version};
use crate::request::{Expiry, Fault, Value};
use ghost::Ghost;
use incoming::Offer;
use index::{Bearing, Entry, FREQUENCY_MAX, Index, Place, Rehash, STAMP_COUNT};
use item::{Base, Facts, HANDLE_BYTES, Head, UNIT_NANOS};
use landing::Landing;
use log::{Body, Item, Log, Queue};
use recent::Recent;
use upkeep::{Emptying, PUT_EFFORT};
use watch::{Gone, Watch};

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes the store may hold from the system: items, index and everything else of its own.
    pub memory_bytes_max: u64,
    /// Longest key and value together, in bytes.
    pub item_bytes_max: usize,
    /// Secret of the keyed hash.
    pub hash_secret: [u64; 2],
}

/// A key on its way to its place: hash and slot, computed once per request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    hash: u64,
    slot: Slot,
}

/// The number of the shard of a key, by the key's own ([`Probe::number`]).
pub fn shard_of(number: u32) -> u16 {
    (number >> 22) as u16
}

impl Probe {
    /// A number for the key, the same on all cores of the process: its shard in the upper ten bits, of its hash the rest.
    pub fn number(self) -> u32 {
        u32::from(self.slot.shard().number()) << 22 | (self.hash >> 42) as u32
    }
}

/// Bits that the engine keeps with an item. Their meaning is the engine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The value is out of date.
    pub stale: bool,
    /// Somebody was given the right to refill it.
    pub leased: bool,
    /// There is no value yet: the item stands for a fill under way.
    pub hollow: bool,
    /// Its key was given in base64, and is shown so.
    pub binary_key: bool,
}

/// An item as found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The value.
    pub value: Value<'a>,
    /// Opaque bits of memcached clients.
    pub flags: u32,
    /// Version.
    pub version: Version,
    /// When it ends: as put, rounded up to 1/4 ms.
    pub expiry: Expiry,
    /// The engine's bits.
    pub marks: Marks,
    /// Whether it was found (warm) before, as far as the store remembers: what moves on to the main queue proves itself anew.
    pub used: bool,
    /// Seconds since it was last found (warm), or put, as exactly as the store remembers: in steps of 4 seconds,
    /// and of an item that was used it remembers the last two minutes only.
    pub idle_seconds: u32,
}

/// An item to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewItem<'a> {
    /// The value, in as many parts as it comes in; the parts are joined.
    pub value: &'a [&'a [u8]],
    /// Opaque bits of memcached clients.
    pub flags: u32,
    /// Version.
    pub version: Version,
    /// When it ends.
    pub expiry: Expiry,
    /// The engine's bits.
    pub marks: Marks,
}

/// What the store did since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departures {
    /// Items whose expiry had passed.
    pub expired: u64,
    /// Those of them that were never found.
    pub expired_unused: u64,
    /// Those of them that somebody looked for (warm) before they were noticed otherwise.
    pub expired_sought: u64,
    /// Items evicted to make room.
    pub evicted: u64,
    /// Those of them that were never found.
    pub evicted_unused: u64,
    /// Those of them that were found lately, but not often enough, or there was no place to move on to.
    pub evicted_used: u64,
}

/// Longest key, in stores made with a limit of 8 MiB or more; in smaller ones a key must fit into a segment of 16 KiB.
const KEY_BYTES_MAX: usize = 64 << 10;
/// Seconds that one stamp of an entry stands for.
const STAMP_SECONDS: u64 = 4;
/// What of the limit the ghosts may take.
const GHOST_SHARE: u64 = 256;

/// The items of one core.
pub struct Store {
    options: Options,
    hasher: KeyHasher,
    log: Log,
    index: Index,
    ghost: Ghost,
    /// Whether anybody had to be evicted since it was empty, or its limit was raised.
    filled: bool,
    /// Whether what is put is what nobody asked for.
    unasked: bool,
    emptying: Option<Emptying>,
    landing: Option<Landing>,
    /// The memory of a value that the next put may take.
    offered: Option<Offer>,
    departures: Departures,
    /// Who was evicted, if somebody wants to know.
    victims: Option<Box<victims::Victims>>,
    /// Bytes of the limit that are somebody else's for a while.
    lent: u64,
    recent: Recent,
    /// Entries of a walk's page, kept for its memory.
    page: Vec<(u32, Entry)>,
    /// Shards that are being copied, out or in; nearly always none.
    watches: Vec<Watch>,
    /// Shards that nobody sees: shadows, and what is left of those that have moved away.
    hidden: Vec<u16>,
    /// Items that a walk met and that are over.
    over: Vec<u64>,
}

/// An item seen and not yet used. Good until the store is next changed.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    place: Place,
    entry: Entry,
    head: Head,
    base: Base,
}

/// Keys approached at once; more would push one another out of the processor's first cache.
pub const APPROACH_MAX: usize = 16;

impl Store {
    /// An empty store. Panics if the process may not even have addresses for the limit.
    pub fn new(options: Options) -> Store {
        let log = Log::new(options.memory_bytes_max);
        Store {
            options,
            hasher: KeyHasher::new(options.hash_secret),
            index: Index::new(log.chunk_bytes()),
            log,
            ghost: Ghost::new(options.memory_bytes_max / GHOST_SHARE, options.memory_bytes_max),
            filled: false,
            unasked: false,
            emptying: None,
            landing: None,
            offered: None,
            departures: Departures::default(),
            victims: None,
            lent: 0,
            recent: Recent::new(Probe { hash: 0, slot: Slot::new(0) }),
            page: Vec::new(),
            watches: Vec::new(),
            hidden: Vec::new(),
            over: Vec::new(),
        }
    }

    /// Where a key belongs. The probe stays good until the store is dropped.
    #[inline]
    pub fn probe(&self, key: &[u8]) -> Probe {
        match self.recent.of(key) {
            Some(probe) => probe,
            None => self.new_probe(key),
        }
    }

    #[inline(never)]
    fn new_probe(&self, key: &[u8]) -> Probe {
        Probe { hash: self.hasher.hash(key), slot: slot_of(key) }
    }

    /// Begins to fetch from memory what finding these keys will touch, at most `APPROACH_MAX` of them, so that the waits for
    /// memory of neighbours overlap, and remembers their hashes. Changes nothing that can be seen.
    ///
    /// Each round looks at what the one before began to fetch: tables, their leaves, buckets, and the items that those name. A
    /// find from cold memory waits for one after the other; sixteen keys approached together wait about as long as two alone.
    #[inline]
    pub fn approach<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) {
        self.recent.begin();
        let mut bearings = [Bearing::new(0, Slot::new(0)); APPROACH_MAX];
        let mut count = 0;
        for (key, place) in keys.zip(&mut bearings) {
            let probe = self.new_probe(key);
            self.recent.remember(key, probe);
            *place = bearing(probe);
            self.index.approach_table(*place);
            count += 1;
        }
        let region = self.log.region();
        let bearings = &bearings[..count];
        bearings.iter().for_each(|bearing| self.index.approach_leaf(*bearing));
        let mut lines = [None; APPROACH_MAX];
        for (bearing, line) in bearings.iter().zip(&mut lines) {
            *line = self.index.approach_bucket(region, *bearing);
        }
        for (bearing, line) in bearings.iter().zip(lines) {
            if let Some(location) = line.and_then(|line| self.index.glance(region, *bearing, line)) {
                self.log.approach(location);
            }
        }
    }

    /// Finds a live item. `warm` counts it as a use.
    #[inline]
    pub fn find(&mut self, now: Mono, probe: Probe, key: &[u8], warm: bool) -> Option<Found<'_>> {
        let sight = self.sight(now, probe, key, warm)?;
        Some(self.found(now, sight, warm))
    }

    /// The first half of [`Store::find`], for who has to see what an item is before it is used. `sought` tells whether
    /// somebody misses one that is over.
    #[inline(always)]
    pub fn sight(&mut self, now: Mono, probe: Probe, key: &[u8], sought: bool) -> Option<Sight> {
        let (place, entry, (head, base, over)) =
            self.index.find_with(self.log.region(), bearing(probe), |location| {
                let item = self.log.item(location);
                (item.key() == key).then(|| (item.head, item.base, item.over(units(now))))
            })?;
        if over {
            self.departures.expired_sought += u64::from(sought);
            self.drop_expired(place, entry);
            return None;
        }
        Some(Sight { place, entry, head, base })
    }

    /// Whether the item is hollow, and when it ends.
    #[inline]
    pub fn state(&self, sight: &Sight) -> (bool, Expiry) {
        let bytes = self.log.bytes(sight.entry.location());
        (sight.head.marks(bytes).hollow, sight.head.expiry(bytes, sight.base))
    }

    /// The second half of [`Store::find`].
    #[inline(always)]
    pub fn found(&mut self, now: Mono, sight: Sight, warm: bool) -> Found<'_> {
        let Sight { place, entry, head, base } = sight;
        if warm {
            let used = entry.with_use((entry.frequency() + 1).min(FREQUENCY_MAX), stamp(now));
            if used != entry {
                self.index.set(self.log.region_mut(), place, used);
            }
        }
        let item = Item { head, bytes: self.log.bytes(entry.location()), base };
        Found {
            value: self.log.lend_value(&item),
            flags: item.head.flags(item.bytes),
            version: item.head.version(item.bytes, item.base),
            expiry: item.head.expiry(item.bytes, item.base),
            marks: item.head.marks(item.bytes),
            used: entry.frequency() > 0,
            idle_seconds: self.idle_seconds(now, entry),
        }
    }

    /// Stores an item, in place of the one of that key if there is one. On a fault nothing changed,
    /// but for items that were evicted in the attempt.
    ///
    /// It makes room in a bounded step. Where that may not do, for values of many kilobytes in a store that is full of short
    /// items, [`Store::land`] goes before it; without, the fault may be [`Fault::Busy`], and the next attempt finds more room.
    pub fn put(&mut self, now: Mono, probe: Probe, key: &[u8], item: &NewItem<'_>) -> Result<(), Fault> {
        let value_len = item.value.iter().map(|part| part.len()).sum::<usize>();
        if !self.acceptable(key.len(), value_len) {
            return Err(Fault::TooLarge);
        }
        let facts =
            Facts { flags: item.flags, version: item.version, expiry: item.expiry, marks: item.marks };
        let mut before = self.live_entry(now, probe, key);
        let mut queue = Queue::Small;
        if let Some((place, entry)) = before {
            let location = entry.location();
            // A used item moves to the main queue's end instead, so that it does not leave before its new value is used.
            let old = self.log.item(location).head;
            let same_len = !old.mapped() && old.value_len as usize == value_len;
            if !self.watches.is_empty() {
                self.uncount(probe.slot.shard().number(), location, Gone::Replaced);
            }
            if same_len && entry.frequency() == 0 && self.log.rewrite(location, &facts, Some(item.value)) {
                self.index.set(self.log.region_mut(), place, entry.with_use(0, stamp(now)));
                if !self.watches.is_empty() {
                    self.note_put(probe, key);
                }
                return Ok(());
            }
            queue = if entry.frequency() > 0 { Queue::Main } else { self.log.queue_of(location) };
        }
        let inline = self.log.item_bytes_max(key.len(), value_len) <= self.log.inline_bytes_max();
        let body_len = if inline { value_len } else { HANDLE_BYTES };
        let bytes = self.log.item_bytes_max(key.len(), body_len);
        if bytes > self.log.segment_bytes_max() {
            return Err(Fault::TooLarge);
        }
        if before.is_none() {
            queue = self.queue_for_new(probe, (key.len() + value_len) as u64);
        }
        let mut effort = PUT_EFFORT;
        let mut disturbed = self.pay(now, if inline { bytes } else { 0 }, &mut effort);
        let mut handle = None;
        if !inline {
            let landed = self.take_landed(probe, value_len);
            handle = match (self.take_offered(item.value), landed) {
                (Some(offer), _) => Some(self.log.mappings.adopt_offered(offer)),
                (None, Some(arrival)) => Some(self.log.mappings.adopt(arrival)),
                (None, None) => {
                    disturbed |= self.make_mapping_room(now, probe, key, value_len, &mut effort)?;
                    Some(self.log.mappings.map(item.value, value_len).ok_or(Fault::OutOfMemory)?)
                }
            };
        }
        match self.make_room(now, queue, bytes, before.is_none() || disturbed, &mut effort) {
            Ok((other, room_made)) => (queue, disturbed) = (other, disturbed | room_made),
            Err(fault) => {
                handle.into_iter().for_each(|handle| self.log.mappings.bury(handle));
                return Err(fault);
            }
        }
        if disturbed {
            before = self.entry_of(probe, key);
        }
        let body = match handle {
            Some(handle) => Body::Mapped(handle, value_len),
            None => Body::Parts(item.value, value_len),
        };
        let location = self.log.append(queue, &facts, key, body);
        match before {
            Some((place, entry)) => {
                self.log.kill(entry.location());
                let entry = entry.with_location(location).with_use(0, stamp(now));
                self.index.set(self.log.region_mut(), place, entry);
            }
            None => {
                let rehash = Rehash { hasher: &self.hasher, grain: self.log.grain() };
                let entry = Entry::new(location, 0, stamp(now));
                self.index.insert(self.log.region_mut(), bearing(probe), entry, rehash);
                self.bury_lost();
            }
        }
        if !self.watches.is_empty() {
            self.note_put(probe, key);
        }
        Ok(())
    }

    /// Says whether what is put from now on is what nobody asked for: such new items begin in the small queue, also if they were
    /// evicted a short while ago. That is remembered until somebody asks for them ([`Store::credit`]).
    pub fn set_unasked(&mut self, unasked: bool) {
        self.unasked = unasked;
    }

    /// Somebody asked for an item that was put unasked: if it was evicted a short while before that, it has proved itself.
    pub fn credit(&mut self, probe: Probe, key: &[u8]) {
        let Some((place, entry)) = self.entry_of(probe, key) else { return };
        let small = self.log.queue_of(entry.location()) == Queue::Small;
        if small && self.ghost.recall(probe.hash) {
            let uses = entry.frequency().max(upkeep::PROMOTION_USES);
            self.index.set(self.log.region_mut(), place, entry.with_use(uses, entry.stamp()));
        }
    }

    /// Changes what is known of a live item beside its value; false if there is none. If what is new needs another place and
    /// there is none to be had, the item is evicted.
    pub fn amend(
        &mut self,
        now: Mono,
        probe: Probe,
        key: &[u8],
        version: Version,
        expiry: Expiry,
        marks: Marks,
    ) -> bool {
        let Some((_, entry)) = self.live_entry(now, probe, key) else { return false };
        let location = entry.location();
        let item = self.log.item(location);
        let facts = Facts { flags: item.head.flags(item.bytes), version, expiry, marks };
        let body_len = item.head.item_len() - item.head.value_at();
        if !self.watches.is_empty() {
            self.uncount(probe.slot.shard().number(), location, Gone::Replaced);
            self.note_put(probe, key);
        }
        if self.log.rewrite(location, &facts, None) {
            return true;
        }
        let (queue, bytes) = (self.log.queue_of(location), self.log.item_bytes_max(key.len(), body_len));
        let mut effort = PUT_EFFORT;
        self.pay(now, bytes, &mut effort);
        let Ok((queue, _)) = self.make_room(now, queue, bytes, false, &mut effort) else {
            self.departures.evicted += u64::from(self.remove(probe, key));
            return false;
        };
        // Making room may have moved it, or even evicted it.
        let Some((place, entry)) = self.entry_of(probe, key) else { return false };
        let location = self.log.relocate(entry.location(), queue, &facts);
        self.index.set(self.log.region_mut(), place, entry.with_location(location));
        true
    }

    /// Removes an item, live or expired; false if there is none.
    pub fn remove(&mut self, probe: Probe, key: &[u8]) -> bool {
        let Some((place, entry)) = self.entry_of(probe, key) else { return false };
        self.drop_entry(place, entry.location(), Gone::Removed);
        true
    }

    /// Calls `each` with the keys of about `count` live items from `cursor` on (0 begins) and answers the next cursor
    /// (0: the walk is complete). An item that is there from the first call to the last is seen at least once.
    ///
    /// A cursor is a shard and a position in the order of hashes, which no growth and no move of an item changes. With a slot
    /// only its shard is visited. A call looks at a bounded number of entries, so a page may hold fewer keys, or none.
    pub fn walk(
        &mut self,
        now: Mono,
        slot: Option<Slot>,
        cursor: u64,
        count: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> u64 {
        let (first, last) = match slot {
            Some(slot) => (slot.shard().number(), slot.shard().number()),
            None => (0, SHARD_COUNT - 1),
        };
        let (mut shard, mut position) = match cursor.checked_sub(1) {
            Some(cursor) => ((cursor >> 32) as u16, cursor as u32),
            None => (first, 0),
        };
        let (mut looks, mut wanted) = (4 * count.saturating_add(256), count.max(1));
        let mut page = std::mem::take(&mut self.page);
        let next = loop {
            if shard > last || shard < first {
                break 0;
            }
            if self.hidden.contains(&shard) {
                (shard, position) = (shard + 1, 0);
                continue;
            }
            page.clear();
            let mut next = self.index.entries_from(self.log.region(), shard, position, &mut page);
            page.sort_unstable_by_key(|&(position, _)| position);
            for (i, &(at, entry)) in page.iter().enumerate() {
                if (wanted == 0 || looks == 0) && at != page[i.saturating_sub(1)].0 {
                    next = Some(at);
                    break;
                }
                looks = looks.saturating_sub(1);
                let of_slot =
                    slot.is_none_or(|slot| slot.number() % SLOTS_PER_SHARD == entry.slot_in_shard());
                if !of_slot {
                    continue;
                }
                let item = self.log.item(entry.location());
                if !item.over(units(now)) {
                    each(item.key());
                    wanted = wanted.saturating_sub(1);
                }
            }
            (shard, position) = match next {
                Some(position) => (shard, position),
                None => (shard + 1, 0),
            };
            if (wanted == 0 || looks == 0) && shard <= last {
                break 1 + (u64::from(shard) << 32 | u64::from(position));
            }
        };
        self.page = page;
        next
    }

    /// Calls `each` with the key of some live item, picked by `dice`; false if there is none (or none was met in a
    /// bounded search among items that are all over).
    pub fn random(&mut self, now: Mono, dice: u64, each: &mut dyn FnMut(&[u8])) -> bool {
        const LOOKS: usize = 64;
        if self.is_empty() {
            return false;
        }
        // The shard in proportion to its items, then a position in it, then the first live item from there on.
        let mut nth = dice % self.len();
        let shard = (0..SHARD_COUNT).find(|&shard| {
            let len = if self.hidden.contains(&shard) { 0 } else { u64::from(self.index.shard_len(shard)) };
            let here = nth < len;
            nth = nth.saturating_sub(len);
            here
        });
        let mut shard = shard.unwrap_or_default();
        let mut position = (dice.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
        let mut page = std::mem::take(&mut self.page);
        let mut found = false;
        // Twice round at most, so that the items before the position have their turn; empty shards cost next to nothing.
        let mut looks = LOOKS;
        for _ in 0..2 * SHARD_COUNT as usize + LOOKS {
            page.clear();
            let next = match self.hidden.contains(&shard) {
                true => None,
                false => self.index.entries_from(self.log.region(), shard, position, &mut page),
            };
            page.sort_unstable_by_key(|&(position, _)| position);
            let live = page.iter().map(|&(_, entry)| self.log.item(entry.location()));
            if let Some(item) = live.take(LOOKS).find(|item| !item.over(units(now))) {
                each(item.key());
                found = true;
                break;
            }
            looks = looks.saturating_sub(usize::from(!page.is_empty()));
            if looks == 0 {
                break;
            }
            (shard, position) = match next {
                Some(position) => (shard, position),
                None => ((shard + 1) % SHARD_COUNT, 0),
            };
        }
        self.page = page;
        found
    }

    /// Forgets everything; answers how many items there were. Memory is given back in bounded steps by `tick`.
    pub fn clear(&mut self) -> u64 {
        let count = self.len();
        self.void_watches();
        self.index = Index::new(self.log.chunk_bytes());
        self.stop_landing();
        self.log.clear();
        self.emptying = None;
        self.filled = false;
        count
    }

    /// What left since this was asked last.
    pub fn take_departures(&mut self) -> Departures {
        std::mem::take(&mut self.departures)
    }

    /// Number of items, expired ones that were not yet noticed included, those of hidden shards not.
    pub fn len(&self) -> u64 {
        let hidden = self.hidden.iter().map(|&shard| u64::from(self.index.shard_len(shard)));
        self.index.len() - hidden.sum::<u64>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of items that have an expiry.
    pub fn len_expiring(&self) -> u64 {
        self.log.expiring()
    }

    /// Number of items in a slot.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        match self.hidden.contains(&slot.shard().number()) {
            true => 0,
            false => self.index.slot_len(self.log.region(), slot),
        }
    }

    /// Bytes held from the system.
    pub fn held_bytes(&self) -> u64 {
        self.log.held() + self.overhead() + self.ghost.held_bytes()
    }

    /// Bytes of keys and values.
    pub fn payload_bytes(&self) -> u64 {
        self.log.payload()
    }

    /// Most bytes it may hold.
    pub fn memory_bytes_max(&self) -> u64 {
        self.options.memory_bytes_max
    }

    /// Changes the limit; `tick` shrinks to a lower one in bounded steps, `put` never goes over it.
    pub fn set_memory_bytes_max(&mut self, bytes: u64) {
        if bytes < self.options.memory_bytes_max {
            // Puts that come before housekeeping has made room find some; under the lower limit none could be taken.
            self.log.stock_up(upkeep::STOCK_CHUNKS, self.log_limit());
        }
        self.filled &= bytes <= self.options.memory_bytes_max;
        self.options.memory_bytes_max = bytes;
        self.log.expect_limit(bytes);
        let before = std::mem::take(&mut self.ghost);
        self.ghost = Ghost::new(bytes / GHOST_SHARE, bytes);
        self.log.mappings.bury_memory(before.into_memory());
    }

    /// Changes the longest that an item may be; those that are there stay.
    pub fn set_item_bytes_max(&mut self, bytes: usize) {
        self.options.item_bytes_max = bytes;
    }

    /// Leaves so many bytes of the limit to others, for example to buffers of connections; `tick` and `put` keep to the rest, and
    /// half the limit stays the store's whatever is asked.
    pub fn lend(&mut self, bytes: u64) {
        self.lent = bytes.min(self.options.memory_bytes_max / 2);
    }

    /// Whether it holds more than it may, with what is lent, so that housekeeping is due at once.
    pub fn is_over(&self) -> bool {
        self.log.held() > self.log_limit()
    }

    /// Bytes of values that are gone but are still being read: they count as held, and nothing else can have that memory.
    pub fn withheld_bytes(&self) -> u64 {
        self.log.mappings.withheld_bytes()
    }

    /// What is held beside the log and the ghosts.
    fn overhead(&self) -> u64 {
        let page = self.page.capacity() * size_of::<(u32, Entry)>();
        self.index.heap_bytes() + page as u64
    }

    /// What the log may hold when it takes more: half a chunk less than there is, because tables, wheels and lists grow in
    /// between.
    fn log_limit(&self) -> u64 {
        let spare = self.log.chunk_bytes() as u64 / 2;
        self.options
            .memory_bytes_max
            .saturating_sub(self.overhead() + self.ghost.wanted_bytes() + spare + self.lent)
    }

    /// Whether an item with a key and a value of these lengths may be stored at all.
    fn acceptable(&self, key_len: usize, value_len: usize) -> bool {
        key_len + value_len <= self.options.item_bytes_max
            && key_len <= KEY_BYTES_MAX
            && u32::try_from(value_len).is_ok()
    }

    #[inline]
    fn entry_of(&self, probe: Probe, key: &[u8]) -> Option<(Place, Entry)> {
        self.index.find(self.log.region(), bearing(probe), |location| self.log.has_key(location, key))
    }

    /// As `entry_of`, but an item that is over is dropped.
    fn live_entry(&mut self, now: Mono, probe: Probe, key: &[u8]) -> Option<(Place, Entry)> {
        let (place, entry) = self.entry_of(probe, key)?;
        if self.log.item(entry.location()).over(units(now)) {
            self.drop_expired(place, entry);
            return None;
        }
        Some((place, entry))
    }

    /// Removes an item that is over.
    #[cold]
    fn drop_expired(&mut self, place: Place, entry: Entry) {
        self.departures.expired += 1;
        self.departures.expired_unused += u64::from(self.never_found(entry));
        self.drop_entry(place, entry.location(), Gone::ByItself);
    }

    /// Whether an item was never found (warm). What is in the main queue was, even if that is forgotten by now.
    fn never_found(&self, entry: Entry) -> bool {
        entry.frequency() == 0 && self.log.queue_of(entry.location()) == Queue::Small
    }

    /// Removes an item from the index and the log.
    fn drop_entry(&mut self, place: Place, location: u64, how: Gone) {
        if !self.watches.is_empty() {
            self.uncount(place.shard(), location, how);
        }
        self.log.kill(location);
        let rehash = Rehash { hasher: &self.hasher, grain: self.log.grain() };
        self.index.remove(self.log.region_mut(), place, rehash);
        self.bury_lost();
    }

    /// Buries items whose entries the index had no room for.
    fn bury_lost(&mut self) {
        while let Some(entry) = self.index.take_lost() {
            if !self.watches.is_empty() {
                self.uncount_lost(entry.location());
            }
            self.log.kill(entry.location());
            self.departures.evicted += 1;
        }
    }

    fn idle_seconds(&self, now: Mono, entry: Entry) -> u32 {
        let age = (stamp(now) + STAMP_COUNT - entry.stamp()) % STAMP_COUNT * STAMP_SECONDS;
        // One that was never used has been idle since it was written, and that was before its segment was sealed.
        let sealed = if entry.frequency() == 0 { self.log.written_before(entry.location()) } else { None };
        let round = STAMP_COUNT * STAMP_SECONDS;
        let least = sealed
            .map_or(0, |sealed| units(now).saturating_sub(sealed) * UNIT_NANOS / Mono::NANOS_PER_SECOND);
        let rounds = least.saturating_sub(age + STAMP_SECONDS - 1).div_ceil(round);
        u32::try_from(age + rounds * round).unwrap_or(u32::MAX)
    }
}

#[inline]
fn units(now: Mono) -> u64 {
    now.0 / UNIT_NANOS
}

#[inline]
fn stamp(now: Mono) -> u64 {
    now.0 / (STAMP_SECONDS * Mono::NANOS_PER_SECOND) % STAMP_COUNT
}

#[inline]
fn bearing(probe: Probe) -> Bearing {
    Bearing::new(probe.hash, probe.slot)
}
