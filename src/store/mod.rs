//! The item store of one core: what is held, under which limit, until when.
//!
//! The door is [`Store`]: the engine probes for a key once ([`Store::probe`]) and uses the probe for reading and writing.
//! The store decides what to evict; it knows versions and marks but not what they mean.

use crate::clock::Mono;
use crate::hash::{KeyHasher, slot_of};
use crate::ids::{Slot, Version};
use crate::request::{Expiry, Fault, Value};
use std::collections::BTreeMap;

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

/// Bits that the engine keeps with an item. Their meaning is the engine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The value is out of date.
    pub stale: bool,
    /// Somebody was given the right to refill it.
    pub leased: bool,
    /// There is no value yet: the item stands for a fill under way.
    pub hollow: bool,
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
    /// When it ends.
    pub expiry: Expiry,
    /// The engine's bits.
    pub marks: Marks,
    /// Whether it was found (warm) before.
    pub used: bool,
    /// Seconds since it was last found (warm), as exactly as the store remembers.
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
    /// Items evicted to make room.
    pub evicted: u64,
}

/// The items of one core.
pub struct Store {
    options: Options,
    hasher: KeyHasher,
    items: BTreeMap<(Slot, Vec<u8>), Held>,
    bytes: u64,
    departures: Departures,
}

struct Held {
    value: Vec<u8>,
    flags: u32,
    version: Version,
    expiry: Expiry,
    marks: Marks,
    used: bool,
    touched: Mono,
}

impl Store {
    /// An empty store.
    pub fn new(options: Options) -> Store {
        let hasher = KeyHasher::new(options.hash_secret);
        Store { options, hasher, items: BTreeMap::new(), bytes: 0, departures: Departures::default() }
    }

    /// Where a key belongs. The probe stays good until the store is dropped.
    pub fn probe(&self, key: &[u8]) -> Probe {
        Probe { hash: self.hasher.hash(key), slot: slot_of(key) }
    }

    /// Finds a live item. `warm` counts it as a use.
    pub fn find(&mut self, now: Mono, probe: Probe, key: &[u8], warm: bool) -> Option<Found<'_>> {
        let _ = probe.hash;
        let place = (probe.slot, key.to_vec());
        if matches!(self.items.get(&place)?.expiry, Expiry::At(at) if at <= now) {
            self.departures.expired += 1;
            self.remove(probe, key);
            return None;
        }
        let held = self.items.get_mut(&place)?;
        let found = Found {
            value: Value::One(&held.value),
            flags: held.flags,
            version: held.version,
            expiry: held.expiry,
            marks: held.marks,
            used: held.used,
            idle_seconds: (now.millis_since(held.touched) / 1000) as u32,
        };
        if warm {
            held.used = true;
            held.touched = now;
        }
        Some(found)
    }

    /// Stores an item, in place of the one of that key if there is one. On a fault nothing changed,
    /// but for items that were evicted in the attempt.
    pub fn put(&mut self, now: Mono, probe: Probe, key: &[u8], item: &NewItem<'_>) -> Result<(), Fault> {
        let value = item.value.concat();
        if key.len() + value.len() > self.options.item_bytes_max {
            return Err(Fault::TooLarge);
        }
        self.remove(probe, key);
        self.bytes += (key.len() + value.len() + 64) as u64;
        while self.bytes > self.options.memory_bytes_max {
            let Some(((slot, victim), _)) = self.items.first_key_value() else { break };
            let (slot, victim) = (*slot, victim.clone());
            self.remove(Probe { hash: 0, slot }, &victim);
            self.departures.evicted += 1;
        }
        let held = Held {
            value,
            flags: item.flags,
            version: item.version,
            expiry: item.expiry,
            marks: item.marks,
            used: false,
            touched: now,
        };
        self.items.insert((probe.slot, key.to_vec()), held);
        Ok(())
    }

    /// Changes what is known of a live item beside its value; false if there is none.
    pub fn amend(
        &mut self,
        now: Mono,
        probe: Probe,
        key: &[u8],
        version: Version,
        expiry: Expiry,
        marks: Marks,
    ) -> bool {
        if self.find(now, probe, key, false).is_none() {
            return false;
        }
        let held = self.items.get_mut(&(probe.slot, key.to_vec())).expect("found above");
        (held.version, held.expiry, held.marks) = (version, expiry, marks);
        true
    }

    /// Removes an item, live or expired; false if there is none.
    pub fn remove(&mut self, probe: Probe, key: &[u8]) -> bool {
        match self.items.remove(&(probe.slot, key.to_vec())) {
            Some(held) => {
                self.bytes -= (key.len() + held.value.len() + 64) as u64;
                true
            }
            None => false,
        }
    }

    /// Calls `each` with the keys of about `count` live items from `cursor` on (0 begins) and answers the next cursor
    /// (0: the walk is complete). An item that is there from the first call to the last is seen at least once.
    pub fn walk(
        &mut self,
        now: Mono,
        slot: Option<Slot>,
        cursor: u64,
        count: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> u64 {
        let live = |held: &Held| !matches!(held.expiry, Expiry::At(at) if at <= now);
        let wanted = |s: Slot| slot.is_none_or(|only| only == s);
        let mut page = self.items.iter().skip(cursor as usize);
        for ((s, key), held) in page.by_ref().take(count) {
            if wanted(*s) && live(held) {
                each(key);
            }
        }
        if page.next().is_some() { cursor + count as u64 } else { 0 }
    }

    /// Calls `each` with the key of some live item, picked by `dice`; false if there is none.
    pub fn random(&mut self, now: Mono, dice: u64, each: &mut dyn FnMut(&[u8])) -> bool {
        let live = |held: &Held| !matches!(held.expiry, Expiry::At(at) if at <= now);
        let start = if self.items.is_empty() { 0 } else { dice as usize % self.items.len() };
        match self.items.iter().cycle().skip(start).take(self.items.len()).find(|(_, held)| live(held)) {
            Some(((_, key), _)) => {
                each(key);
                true
            }
            None => false,
        }
    }

    /// Forgets everything; answers how many items there were. Memory is given back in bounded steps by `tick`.
    pub fn clear(&mut self) -> u64 {
        let count = self.items.len() as u64;
        self.items.clear();
        self.bytes = 0;
        count
    }

    /// Bounded housekeeping: expiry, compaction, giving back. Answers whether more is waiting to be done.
    pub fn tick(&mut self, now: Mono) -> bool {
        let before = self.items.len();
        self.items.retain(|_, held| !matches!(held.expiry, Expiry::At(at) if at <= now));
        self.departures.expired += (before - self.items.len()) as u64;
        false
    }

    /// What left since this was asked last.
    pub fn take_departures(&mut self) -> Departures {
        std::mem::take(&mut self.departures)
    }

    /// Number of items, expired ones that were not yet noticed included.
    pub fn len(&self) -> u64 {
        self.items.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of items that have an expiry.
    pub fn len_expiring(&self) -> u64 {
        self.items.values().filter(|held| held.expiry != Expiry::Never).count() as u64
    }

    /// Number of items in a slot.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.items.keys().filter(|(s, _)| *s == slot).count() as u64
    }

    /// Bytes held from the system.
    pub fn held_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of keys and values.
    pub fn payload_bytes(&self) -> u64 {
        self.items.iter().map(|((_, key), held)| (key.len() + held.value.len()) as u64).sum()
    }

    /// Most bytes it may hold.
    pub fn memory_bytes_max(&self) -> u64 {
        self.options.memory_bytes_max
    }

    /// Changes the limit; `tick` shrinks to a lower one in bounded steps, `put` never goes over it.
    pub fn set_memory_bytes_max(&mut self, bytes: u64) {
        self.options.memory_bytes_max = bytes;
    }
}
