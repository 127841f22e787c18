//! Fingerprints of items that were evicted before they could prove themselves: who comes back soon was evicted too early
//! and enters the main queue at once.
//!
//! Sets of 32 fingerprints of two bytes, one cache line each. A new one enters at the front of its set and the last one drops
//! out, so each set is a queue, and together they remember about the last `bytes / 2` evictions. A fingerprint that fits by
//! chance (1 in 2000) costs a place in the main queue, nothing else.

const SET_LEN: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Ghost {
    sets: Vec<[u16; SET_LEN]>,
}

impl Ghost {
    /// Room in (about) this many bytes; none forgets at once.
    pub(super) fn with_bytes(bytes: usize) -> Ghost {
        Ghost { sets: vec![[0; SET_LEN]; bytes / size_of::<[u16; SET_LEN]>()] }
    }

    pub(super) fn heap_bytes(&self) -> u64 {
        (self.sets.capacity() * size_of::<[u16; SET_LEN]>()) as u64
    }

    /// Remembers the key with this hash.
    pub(super) fn remember(&mut self, hash: u64) {
        let Some((set, print)) = self.place(hash) else { return };
        let set = &mut self.sets[set];
        set.copy_within(..SET_LEN - 1, 1);
        set[0] = print;
    }

    /// Whether the key with this hash is remembered; it is not any more afterwards.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        let Some((set, print)) = self.place(hash) else { return false };
        match self.sets[set].iter_mut().find(|known| **known == print) {
            Some(known) => {
                *known = 0;
                true
            }
            None => false,
        }
    }

    fn place(&self, hash: u64) -> Option<(usize, u16)> {
        // The upper half of the hash places keys in the index and is much the same within a shard's neighbours; the set
        // is chosen by bits that the fingerprint leaves over.
        let set = ((hash.rotate_right(21) as u32 as u64 * self.sets.len() as u64) >> 32) as usize;
        (!self.sets.is_empty()).then_some((set, (hash >> 5) as u16 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u64) -> u64 {
        let x = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    #[test]
    #[cfg_attr(miri, ignore = "no memory of its own, and many steps")]
    fn the_last_evictions_are_remembered_and_older_ones_are_not() {
        let mut ghost = Ghost::with_bytes(64 * 100);
        assert_eq!(ghost.heap_bytes(), 6400);
        (0..20_000).for_each(|i| ghost.remember(hash(i)));
        let recent = (18_800..20_000).filter(|&i| ghost.recall(hash(i))).count();
        assert!(recent > 1150, "{recent} of 1200");
        let ancient = (0..10_000).filter(|&i| ghost.recall(hash(i))).count();
        assert!(ancient < 30, "{ancient} of 10000");
        assert!(!ghost.recall(hash(19_999)), "recalled once only");
        assert!(!Ghost::default().recall(7));
    }
}
