//! What the engine remembers of keys beside their items: that they are absent, by what the origin recognises them, under
//! which tags they are, and that a refresh just failed. Bounded; the oldest goes first, and what is forgotten costs a
//! question more or (tags) an item, never a wrong answer.

use crate::clock::Mono;
use crate::hash::KeyHasher;
use crate::ids::Version;
use crate::origin::Validator;
use std::collections::{HashMap, HashSet, VecDeque};

/// Most entries of each kind.
const ENTRIES_MAX: usize = 64 << 10;
/// Bytes of keys of each kind; longer keys count for more.
const KEY_BYTES_MAX: usize = 8 << 20;
/// Keys under all tags together.
const TAGGED_MAX: usize = 256 << 10;

/// Entries by key, the oldest leaving first.
struct Recent<V> {
    entries: HashMap<Box<[u8]>, (u64, V), KeyHasher>,
    order: VecDeque<(Box<[u8]>, u64)>,
    next: u64,
    bytes: usize,
}

impl<V> Recent<V> {
    fn new(secret: [u64; 2]) -> Recent<V> {
        let entries = HashMap::with_hasher(KeyHasher::new(secret));
        Recent { entries, order: VecDeque::new(), next: 0, bytes: 0 }
    }

    fn get(&self, key: &[u8]) -> Option<&V> {
        if self.entries.is_empty() { None } else { self.entries.get(key).map(|(_, value)| value) }
    }

    fn insert(&mut self, key: &[u8], value: V) {
        self.next += 1;
        self.order.push_back((key.into(), self.next));
        self.bytes += key.len();
        self.entries.insert(key.into(), (self.next, value));
        // What was replaced or removed stays in the order until its turn comes, so the order bounds the entries.
        while self.order.len() > ENTRIES_MAX || self.bytes > KEY_BYTES_MAX {
            let Some((key, number)) = self.order.pop_front() else { break };
            self.bytes -= key.len();
            if self.entries.get(&key).is_some_and(|(of, _)| *of == number) {
                self.entries.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<V> {
        if self.entries.is_empty() { None } else { self.entries.remove(key).map(|(_, value)| value) }
    }

    fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }
}

/// By what an origin recognises an item.
pub(super) struct Known {
    /// The item's version: another item of the same key is not known by this.
    pub item: Version,
    pub validator: Option<Validator>,
    /// The origin's version.
    pub origin: Option<Version>,
}

/// Keys under one tag.
type KeySet = HashSet<Box<[u8]>, KeyHasher>;

/// What is remembered.
pub(super) struct Ledger {
    absent: Recent<Mono>,
    known: Recent<Known>,
    /// Keys whose refresh failed, and until when it is not tried again.
    resting: Recent<Mono>,
    /// The least version that the origin may answer with, where its versions count. Outlives the item.
    floors: Recent<Version>,
    /// Seconds since 1970 at which clients wrote, where the time of writing counts.
    written: Recent<u64>,
    tags: HashMap<Box<[u8]>, KeySet, KeyHasher>,
    tag_order: VecDeque<Box<[u8]>>,
    tagged: usize,
    secret: [u64; 2],
}

impl Ledger {
    pub fn new(secret: [u64; 2]) -> Ledger {
        Ledger {
            absent: Recent::new(secret),
            known: Recent::new(secret),
            resting: Recent::new(secret),
            floors: Recent::new(secret),
            written: Recent::new(secret),
            tags: HashMap::with_hasher(KeyHasher::new(secret)),
            tag_order: VecDeque::new(),
            tagged: 0,
            secret,
        }
    }

    pub fn is_absent(&self, now: Mono, key: &[u8]) -> bool {
        self.absent.get(key).is_some_and(|until| *until > now)
    }

    pub fn note_absent(&mut self, key: &[u8], until: Mono) {
        self.absent.insert(key, until);
    }

    pub fn known(&self, key: &[u8], item: Version) -> Option<&Known> {
        self.known.get(key).filter(|known| known.item == item)
    }

    pub fn note_known(&mut self, key: &[u8], known: Known) {
        self.known.insert(key, known);
    }

    pub fn rests(&self, now: Mono, key: &[u8]) -> bool {
        self.resting.get(key).is_some_and(|until| *until > now)
    }

    pub fn floor(&self, key: &[u8]) -> Option<Version> {
        self.floors.get(key).copied()
    }

    /// Raises the least version of a key; one that is greater stays.
    pub fn raise_floor(&mut self, key: &[u8], version: Version) {
        if self.floor(key).is_none_or(|floor| floor < version) {
            self.floors.insert(key, version);
        }
    }

    pub fn written(&self, key: &[u8]) -> Option<u64> {
        self.written.get(key).copied()
    }

    pub fn note_written(&mut self, key: &[u8], seconds: u64) {
        self.written.insert(key, seconds);
    }

    pub fn let_rest(&mut self, key: &[u8], until: Mono) {
        self.resting.insert(key, until);
    }

    /// The key was written or invalidated.
    pub fn forget(&mut self, key: &[u8]) {
        self.absent.remove(key);
        self.known.remove(key);
        self.resting.remove(key);
    }

    /// All keys that `which` names were invalidated.
    pub fn forget_all(&mut self, which: impl Fn(&[u8]) -> bool) {
        self.absent.retain(|key| !which(key));
        self.known.retain(|key| !which(key));
        self.resting.retain(|key| !which(key));
    }

    /// Puts a key under a tag. Answers keys whose tag is no longer remembered for that: their items must go, as nobody could
    /// invalidate them any more.
    pub fn tag(&mut self, tag: &[u8], key: &[u8]) -> Vec<Box<[u8]>> {
        let keys = match self.tags.get_mut(tag) {
            Some(keys) => keys,
            None => {
                self.tag_order.push_back(tag.into());
                let none = HashSet::with_hasher(KeyHasher::new(self.secret));
                self.tags.entry(tag.into()).or_insert(none)
            }
        };
        self.tagged += usize::from(keys.insert(key.into()));
        let mut lost = Vec::new();
        while self.tagged > TAGGED_MAX {
            let Some(oldest) = self.tag_order.pop_front() else { break };
            lost.extend(self.untag(&oldest));
        }
        lost
    }

    /// Forgets a tag; answers the keys that were under it.
    pub fn untag(&mut self, tag: &[u8]) -> Vec<Box<[u8]>> {
        let Some(keys) = self.tags.remove(tag) else { return Vec::new() };
        self.tagged -= keys.len();
        self.tag_order.retain(|other| &**other != tag);
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_what_was_renewed_is_not_old() {
        let mut recent = Recent::new([1, 2]);
        let key = |i: usize| i.to_le_bytes();
        recent.insert(&key(0), 0);
        recent.insert(&key(1), 1);
        recent.insert(&key(0), 2);
        for i in 2..ENTRIES_MAX {
            recent.insert(&key(i), i);
        }
        assert_eq!((recent.get(&key(0)), recent.get(&key(1))), (Some(&2), Some(&1)));
        recent.insert(&key(ENTRIES_MAX), 0);
        assert_eq!((recent.get(&key(0)), recent.get(&key(1))), (Some(&2), None));
        assert!(recent.entries.len() <= ENTRIES_MAX && recent.order.len() <= ENTRIES_MAX);
    }

    #[test]
    fn long_keys_are_bounded_by_their_bytes() {
        let mut recent = Recent::new([1, 2]);
        for i in 0..300u32 {
            recent.insert(&[&[7; 64 << 10][..], &i.to_le_bytes()].concat(), ());
        }
        assert!(recent.bytes <= KEY_BYTES_MAX && recent.entries.len() < 130);
    }

    #[test]
    fn a_tag_names_its_keys_once_and_the_oldest_tag_gives_way_with_all_of_them() {
        let mut ledger = Ledger::new([1, 2]);
        assert!(ledger.tag(b"old", b"a").is_empty());
        assert!(ledger.tag(b"old", b"a").is_empty());
        for i in 0..TAGGED_MAX as u32 - 1 {
            assert!(ledger.tag(b"new", &i.to_le_bytes()).is_empty());
        }
        assert_eq!(ledger.tag(b"new", b"more"), [b"a".as_slice().into()]);
        assert!(ledger.untag(b"old").is_empty());
        assert_eq!(ledger.untag(b"new").len(), TAGGED_MAX);
        assert_eq!(ledger.tagged, 0);
    }
}
