//! Probes of the keys approached last, so that what is served next is not hashed a second time.
//!
//! Keys are compared by all their bytes: what is remembered can only save work, never be another key's.

use super::{APPROACH_MAX, Probe};
use std::cell::Cell;

/// Longest and shortest key that is remembered: four words have to tell all of it.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 8..=32;

/// All bytes of a key of [`KEY_BYTES`]: its length, its first and last words, and those next to them if it has more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Image {
    len: usize,
    ends: [u64; 2],
    middle: [u64; 2],
}

impl Image {
    /// `None` for a key that is longer or shorter.
    #[inline(always)]
    fn of(key: &[u8]) -> Option<Image> {
        if !KEY_BYTES.contains(&key.len()) {
            return None;
        }
        let (first, last) = (key.first_chunk()?, key.last_chunk()?);
        let mut image = Image {
            len: key.len(),
            ends: [u64::from_le_bytes(*first), u64::from_le_bytes(*last)],
            middle: [0; 2],
        };
        if key.len() > 16 {
            let (second, last_but_one) = (key[8..].first_chunk()?, key[..key.len() - 8].last_chunk()?);
            image.middle = [u64::from_le_bytes(*second), u64::from_le_bytes(*last_but_one)];
        }
        Some(image)
    }
}

/// Keys in the order in which they are expected, and how far they were asked for.
#[derive(Debug)]
pub(super) struct Recent {
    keys: [(Image, Probe); APPROACH_MAX],
    count: usize,
    next: Cell<usize>,
}

impl Recent {
    pub(super) fn new(nothing: Probe) -> Recent {
        Recent { keys: [(Image::default(), nothing); APPROACH_MAX], count: 0, next: Cell::new(0) }
    }

    /// Forgets all.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.count = 0;
        self.next.set(0);
    }

    /// Remembers the key that is expected after those remembered.
    #[inline]
    pub(super) fn remember(&mut self, key: &[u8], probe: Probe) {
        if let Some(image) = Image::of(key)
            && let Some(place) = self.keys.get_mut(self.count)
        {
            *place = (image, probe);
            self.count += 1;
        }
    }

    /// The probe of a key, if it is the one expected next or the one before that.
    #[inline]
    pub(super) fn of(&self, key: &[u8]) -> Option<Probe> {
        if self.count == 0 {
            return None;
        }
        let image = Image::of(key)?;
        let next = self.next.get();
        if let Some((known, probe)) = self.keys[..self.count].get(next)
            && *known == image
        {
            self.next.set(next + 1);
            return Some(*probe);
        }
        let (known, probe) = self.keys.get(next.wrapping_sub(1))?;
        (*known == image).then_some(*probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;
    use proptest::prelude::*;

    fn probe(hash: u64) -> Probe {
        Probe { hash, slot: Slot::new(0) }
    }

    #[test]
    fn keys_come_in_their_order_and_again_and_some_are_left_out() {
        let mut recent = Recent::new(probe(0));
        assert!(recent.of(b"").is_none() && recent.of(b"key:0001").is_none());
        let keys = [
            "key:0001",
            "short",
            "key:00000000000002",
            "a key that is longer than is remembered",
            "key:0003",
        ];
        for (i, key) in keys.iter().enumerate() {
            recent.remember(key.as_bytes(), probe(i as u64));
        }
        let known = |key: &str| recent.of(key.as_bytes()).map(|probe| probe.hash);
        assert_eq!(known("key:0001"), Some(0));
        assert_eq!(known("key:0001"), Some(0));
        assert_eq!(known("short"), None);
        assert_eq!(known("key:00000000000002"), Some(2));
        assert_eq!(known("key:0009"), None);
        assert_eq!(known("key:0003"), Some(4));
        assert_eq!(known("key:0001"), None, "it is over");
        recent.begin();
        assert!(recent.of(b"key:0003").is_none());
    }

    #[test]
    fn more_than_can_be_kept_are_not() {
        let mut recent = Recent::new(probe(0));
        for i in 0..APPROACH_MAX as u64 + 4 {
            recent.remember(format!("key:{i:08}").as_bytes(), probe(i));
        }
        for i in 0..APPROACH_MAX as u64 + 4 {
            let known = recent.of(format!("key:{i:08}").as_bytes()).map(|probe| probe.hash);
            assert_eq!(known, (i < APPROACH_MAX as u64).then_some(i));
        }
    }

    proptest! {
        /// Keys of few letters, so that they often are the same but for a byte.
        #[test]
        fn only_the_same_bytes_are_the_same_key(
            a in proptest::collection::vec(0u8..2, 0..40),
            b in proptest::collection::vec(0u8..2, 0..40),
            at in 0usize..40,
        ) {
            let mut changed = a.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 0x80;
            }
            let mut recent = Recent::new(probe(0));
            recent.remember(&a, probe(1));
            let whole = KEY_BYTES.contains(&a.len());
            prop_assert_eq!(recent.of(&a).is_some(), whole);
            prop_assert_eq!(recent.of(&b).is_some(), whole && a == b);
            prop_assert_eq!(recent.of(&changed).is_some(), whole && a == changed);
        }
    }
}
