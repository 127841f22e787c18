//! Fingerprints of items that were evicted before they could prove themselves: who comes back soon was evicted too early
//! and enters the main queue at once.
//!
//! ```text
//! set      32 fingerprints of two bytes, one cache line; a new one enters at the front, the last one drops out
//! print    | age 4 | hash 12 |          age: when it was evicted, by a clock of fifteen hours; 0 is an empty place
//! ```
//! The clock goes by the bytes of items that are remembered, an hour for each 2/17 of `bytes_max`; who is older than eight
//! hours is forgotten. So together they remember the last `bytes_max` bytes that were evicted, whatever the sizes and however
//! the sets are filled. Longer, and everybody who ever comes back counts as evicted too early, until the main queue is full
//! of them. Those forgotten are swept out before the clock has gone round: in a set that a new one enters, and in some others.
//! A fingerprint that fits by chance (1 in 200 or less) costs a place in the main queue, nothing else.
//!
//! It begins with a page of sets and takes twice as many when they get full. Whoever is in a set is then in both halves, where
//! the one too many does no harm until it is forgotten.

use super::memory::{Mapping, PAGE_BYTES};

/// Smallest store with a ghost.
const STORE_BYTES_MIN: u64 = 64 << 10;
/// Bytes of a set.
const SET_BYTES: usize = 64;
/// Fingerprints that a set may have in the mean: with more, some sets have more than there is room for.
const DEPTH_MAX: u64 = 16;
/// Sets that are copied in one go when their number doubles; more begin empty, which costs some misses once.
const COPIED_SETS_MAX: usize = 2048;
/// Most sets swept for one that enters.
const SWEPT_SETS_MAX: u64 = 256;
/// Bits of a fingerprint below its age.
const AGE_SHIFT: u32 = 12;
const HASH_MASK: u16 = (1 << AGE_SHIFT) - 1;
/// Hours of the clock. A fingerprint has one more than it showed, as 0 is an empty place.
const HOURS: u64 = 15;
/// Hours that somebody is remembered, beside the one that is going on.
const HOURS_MAX: u64 = 8;

#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// Nothing if the bytes allowed make no set, or the system refused them.
    memory: Option<Mapping>,
    /// Bytes of items to remember.
    bytes_max: u64,
    /// Sets there are addresses for.
    sets: usize,
    /// Sets in use, from the first.
    used: usize,
    /// Sets that there should be, as soon as there is room for them.
    wanted: usize,
    /// Fingerprints that entered in each hour.
    entered: [u32; HOURS as usize],
    /// The set swept last, and what is left of the bytes that were to be followed by sweeping.
    sweeper: usize,
    swept: u64,
    /// Bytes of items remembered so far.
    clock: u64,
}

impl Ghost {
    /// Remembers about `items_bytes_max` bytes of items, in at most (about) `bytes` and a page at least; in a store where even
    /// that is much it forgets at once.
    pub(super) fn new(bytes: u64, items_bytes_max: u64) -> Ghost {
        // Whole pages, as a mapping has them.
        let least = if items_bytes_max < STORE_BYTES_MIN { 0 } else { PAGE_BYTES };
        let bytes = (bytes as usize / PAGE_BYTES * PAGE_BYTES).max(least);
        let memory = if bytes == 0 { None } else { Mapping::new(bytes) };
        let sets = if memory.is_some() { bytes / SET_BYTES } else { 0 };
        let used = sets.min(PAGE_BYTES / SET_BYTES);
        Ghost { memory, bytes_max: items_bytes_max, sets, used, wanted: used, ..Ghost::default() }
    }

    /// Doubles the number of sets if they are full and there is room for more.
    fn grow(&mut self, hour: u64, room: u64) {
        let hours = (0..=HOURS_MAX).map(|age| self.entered[((hour + HOURS - age) % HOURS) as usize]);
        let known: u64 = hours.map(u64::from).sum();
        let full = known > self.used as u64 * DEPTH_MAX;
        self.wanted = if full { (self.used * 2).min(self.sets) } else { self.used };
        if self.wanted == self.used || bytes_of(self.wanted) - bytes_of(self.used) > room {
            return;
        }
        let before = std::mem::replace(&mut self.used, self.wanted);
        if let Some(memory) = &mut self.memory
            && self.used == 2 * before
            && before <= COPIED_SETS_MAX
        {
            // The set of a hash is found by its highest bits, so the halves of a set are neighbours.
            let bytes = memory.bytes_mut();
            for place in (0..before).rev().map(|set| set * SET_BYTES) {
                bytes.copy_within(place..place + SET_BYTES, 2 * place + SET_BYTES);
                bytes.copy_within(place..place + SET_BYTES, 2 * place);
            }
        }
    }

    /// Sweeps as many sets as to have gone round within the hours between being forgotten and being young again.
    fn sweep(&mut self, size: u64, hour: u64) {
        const ROUNDS: u64 = 2;
        let Some(memory) = self.memory.as_mut() else { return };
        let per_set = (self.bytes_max / ROUNDS).max(1);
        self.swept += size.saturating_mul(self.used as u64).min(SWEPT_SETS_MAX * per_set);
        let bytes = memory.bytes_mut();
        while self.swept >= per_set {
            self.swept -= per_set;
            self.sweeper = if self.sweeper + 1 < self.used { self.sweeper + 1 } else { 0 };
            for known in bytes[self.sweeper * SET_BYTES..][..SET_BYTES].as_chunks_mut::<2>().0 {
                if is_over(u16::from_le_bytes(*known), hour) {
                    *known = [0; 2];
                }
            }
        }
    }

    /// Bytes that have memory.
    pub(super) fn held_bytes(&self) -> u64 {
        bytes_of(self.used)
    }

    /// Bytes that others should leave to it.
    pub(super) fn wanted_bytes(&self) -> u64 {
        bytes_of(self.wanted)
    }

    /// The memory, for whoever gives it back in steps; nothing is remembered any more.
    pub(super) fn into_memory(self) -> Option<Mapping> {
        self.memory
    }

    /// Remembers the key with this hash, whose item of `size` bytes was evicted. It may take `room` bytes more if it has to
    /// remember more items than before.
    pub(super) fn remember(&mut self, hash: u64, size: u64, room: u64) {
        let mut passing = self.hour();
        self.clock += size;
        let hour = self.hour();
        while passing != hour {
            passing = (passing + 1) % HOURS;
            self.entered[passing as usize] = 0;
        }
        self.entered[hour as usize] += 1;
        self.grow(hour, room);
        self.sweep(size, hour);
        let Some((set, print)) = self.place(hash) else { return };
        // Those too old to count leave the set; the one at its end has to if none of them does.
        let mut carried = print | (hour as u16 + 1) << AGE_SHIFT;
        for known in set.as_chunks_mut::<2>().0 {
            let mut word = u16::from_le_bytes(*known);
            if is_over(word, hour) {
                word = 0;
            }
            if carried != 0 {
                std::mem::swap(&mut word, &mut carried);
            }
            *known = word.to_le_bytes();
        }
    }

    /// Whether the key with this hash is remembered; it is not any more afterwards.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        let hour = self.hour();
        let Some((set, print)) = self.place(hash) else { return false };
        let known = |word: &u16| *word != 0 && *word & HASH_MASK == print && !is_over(*word, hour);
        let places = set.as_chunks_mut::<2>().0;
        match places.iter_mut().find(|place| known(&u16::from_le_bytes(**place))) {
            Some(place) => {
                *place = [0; 2];
                true
            }
            None => false,
        }
    }

    /// What the clock shows.
    fn hour(&self) -> u64 {
        let hour_bytes = (self.bytes_max / 17 * 2).max(1);
        self.clock / hour_bytes % HOURS
    }

    /// The set of a hash, and its fingerprint without an age.
    fn place(&mut self, hash: u64) -> Option<(&mut [u8], u16)> {
        // The upper half of the hash places keys in the index and is much the same within a shard's neighbours; the set
        // is chosen by bits that the fingerprint leaves over.
        let set = ((hash.rotate_right(21) as u32 as u64 * self.used as u64) >> 32) as usize;
        let memory = self.memory.as_mut()?.bytes_mut();
        Some((&mut memory[set * SET_BYTES..][..SET_BYTES], (hash >> 5) as u16 & HASH_MASK))
    }
}

/// Bytes of memory that so many sets take.
fn bytes_of(sets: usize) -> u64 {
    (sets * SET_BYTES).next_multiple_of(PAGE_BYTES) as u64
}

/// Whether a fingerprint is too old at an hour.
fn is_over(word: u16, hour: u64) -> bool {
    let entered = u64::from(word >> AGE_SHIFT);
    (hour + HOURS + 1 - entered) % HOURS > HOURS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u64) -> u64 {
        let x = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    const ROOM: u64 = u64::MAX;

    #[test]
    #[cfg_attr(miri, ignore = "no memory of its own, and many steps")]
    fn the_last_evictions_are_remembered_and_older_ones_are_not() {
        let mut ghost = Ghost::new(8192, 2000 * 1000);
        assert_eq!(ghost.held_bytes(), 4096, "what was never in use has no memory");
        (0..20_000).for_each(|i| ghost.remember(hash(i), 1000, ROOM));
        assert_eq!(ghost.held_bytes(), 8192);
        let recent = (18_800..20_000).filter(|&i| ghost.recall(hash(i))).count();
        assert!(recent > 1150, "{recent} of 1200");
        let ancient = (0..10_000).filter(|&i| ghost.recall(hash(i))).count();
        assert!(ancient < 100, "{ancient} of 10000");
        assert!(!ghost.recall(hash(19_999)), "recalled once only");
        assert!(!Ghost::default().recall(7));
    }

    #[test]
    #[cfg_attr(miri, ignore = "no memory of its own, and many steps")]
    fn it_remembers_so_many_bytes_of_items_however_long_they_are() {
        let mut ghost = Ghost::new(131_072, 1_000_000);
        for size in [100, 1000, 3000, 700] {
            let items = 1_000_000 / size;
            (0..40_000).for_each(|i| ghost.remember(hash(i), size, ROOM));
            let first = 40_000 - items * 6 / 10;
            let recent = (first..40_000).filter(|&i| ghost.recall(hash(i))).count() as u64;
            assert!(recent * 100 > items * 6 / 10 * 85, "{recent} of {} of {size}", items * 6 / 10);
            let old = (0..40_000 - items * 2).filter(|&i| ghost.recall(hash(i))).count() as u64;
            assert!(old < 200, "{old} old ones of {size} among some 38,000");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "no memory of its own, and many steps")]
    fn it_grows_only_into_room() {
        let mut ghost = Ghost::new(65_536, 1_000_000);
        (0..5000).for_each(|i| ghost.remember(hash(i), 100, 100));
        assert_eq!((ghost.held_bytes(), ghost.wanted_bytes()), (4096, 8192));
        (5000..15_000).for_each(|i| ghost.remember(hash(i), 100, 60 << 10));
        assert_eq!((ghost.held_bytes(), ghost.wanted_bytes()), (64 << 10, 64 << 10));
    }
}
