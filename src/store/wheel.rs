//! The expiry wheel of one segment: which of its items end soon, without looking at the others.
//!
//! A hierarchical timing wheel with 9 levels of 16 slots; a slot of the lowest level is one tick (512 ms), one of the next 16
//! ticks, and so on for ever. A slot holds the first item of a list that is threaded through the items themselves, so an
//! item with an expiry costs two bytes, and the wheel dies with its segment. An item is filed at the level of the highest
//! digit in which its due tick differs from the wheel's; when that slot comes up, its items are due or are filed at a lower
//! level. Each item is touched at most once per level, and nothing is ever scanned.

/// Time units (1/4 ms) per tick, as a shift: 512 ms.
const TICK_SHIFT: u32 = 11;
const LEVELS: usize = 9;
const SLOTS: usize = 16;
/// Nothing is due.
pub(super) const NEVER: u64 = u64::MAX;

/// The tick that a moment (in units) lies in.
pub(super) fn tick_of(units: u64) -> u64 {
    units >> TICK_SHIFT
}

#[derive(Debug)]
pub(super) struct Wheel {
    /// Everything due up to this tick has been handed out.
    tick: u64,
    /// A bit for each slot that holds items.
    taken: [u16; LEVELS],
    /// The first item of each slot that is taken, in the slots' order: most segments need few of the 144.
    firsts: Vec<u32>,
    /// What is being handed out; 0 is none.
    pending: u32,
}

impl Wheel {
    pub(super) fn new(tick: u64) -> Wheel {
        Wheel { tick, taken: [0; LEVELS], firsts: Vec::new(), pending: 0 }
    }

    /// Files an item that ends at `deadline` (units); answers the item that it must link to (0: none).
    pub(super) fn file(&mut self, deadline: u64, item: u32) -> u32 {
        // Due when its tick is over.
        let due = (tick_of(deadline) + 1).max(self.tick + 1);
        let level = ((63 - (due ^ self.tick).leading_zeros()) / 4).min(LEVELS as u32 - 1) as usize;
        let slot = (due >> (4 * level)) as usize % SLOTS;
        let place = self.place(level, slot);
        if self.taken[level] >> slot & 1 == 1 {
            return std::mem::replace(&mut self.firsts[place], item);
        }
        self.taken[level] |= 1 << slot;
        if self.firsts.len() == self.firsts.capacity() {
            // By few: there is a wheel for every segment.
            self.firsts.reserve_exact(4);
        }
        self.firsts.insert(place, item);
        0
    }

    /// Bytes it takes.
    pub(super) fn heap_bytes(&self) -> u64 {
        (size_of::<Wheel>() + self.firsts.capacity() * 4) as u64
    }

    /// Where the first item of a slot is, or would be.
    fn place(&self, level: usize, slot: usize) -> usize {
        let lower = self.taken[..level].iter().map(|taken| taken.count_ones()).sum::<u32>();
        (lower + (self.taken[level] & ((1 << slot) - 1)).count_ones()) as usize
    }

    /// When something is due next; changes with `file`, `advance` and `set_pending`.
    pub(super) fn next_due(&self) -> u64 {
        if self.pending != 0 { 0 } else { self.next_slot().map_or(NEVER, |(due, ..)| due) }
    }

    /// The first item of those that are due at `tick` (some may turn out to be due later and must be filed anew).
    pub(super) fn advance(&mut self, tick: u64) -> Option<u32> {
        if self.pending == 0 {
            let (due, level, slot) = self.next_slot()?;
            if due > tick {
                return None;
            }
            self.tick = due;
            self.pending = self.firsts.remove(self.place(level, slot));
            self.taken[level] &= !(1 << slot);
        }
        Some(self.pending)
    }

    /// The item handed out has been taken care of; `item` is the one it was linked to (0: none).
    pub(super) fn set_pending(&mut self, item: u32) {
        self.pending = item;
    }

    /// Tick, level and slot of the next slot that is taken. Of two levels the lower one comes up first.
    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        (0..LEVELS).find_map(|level| {
            let shift = 4 * level as u32;
            let digit = (self.tick >> shift) as u32 % SLOTS as u32;
            let ahead = u32::from(self.taken[level]) & (u32::MAX << digit << 1);
            (ahead != 0).then(|| {
                let slot = ahead.trailing_zeros() as usize;
                let upper = self.tick >> shift >> 4 << 4;
                ((upper | slot as u64) << shift, level, slot)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS_PER_TICK: u64 = 1 << TICK_SHIFT;

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_item_comes_up_right_after_its_deadline(
            start in prop_oneof![0u64..100, 0u64..1 << 36],
            delays in prop::collection::vec(prop_oneof![0u64..100_000, 0u64..1 << 30, 0u64..1 << 44], 1..60),
            step in prop_oneof![Just(1u64), 1u64..50, 1u64..100_000],
        ) {
            // Item i + 1 ends at deadlines[i]; links are kept beside the wheel.
            let mut wheel = Wheel::new(tick_of(start));
            let deadlines: Vec<u64> = delays.iter().map(|delay| start + delay).collect();
            let mut links = vec![0u32; deadlines.len() + 1];
            for (i, &deadline) in deadlines.iter().enumerate() {
                links[i + 1] = wheel.file(deadline, i as u32 + 1);
            }
            let mut ended = vec![false; deadlines.len() + 1];
            let mut tick = tick_of(start);
            while wheel.next_due() != NEVER {
                // Jump close to what is next, so that long waits are tested in short time.
                tick = (tick + step).max(wheel.next_due());
                let mut touched = 0;
                while let Some(item) = wheel.advance(tick) {
                    let (deadline, link) = (deadlines[item as usize - 1], links[item as usize]);
                    wheel.set_pending(link);
                    touched += 1;
                    prop_assert!(touched < 20 * deadlines.len());
                    if tick_of(deadline) < tick {
                        prop_assert!(!std::mem::replace(&mut ended[item as usize], true), "came up twice");
                    } else {
                        links[item as usize] = wheel.file(deadline, item);
                    }
                }
                for (i, &deadline) in deadlines.iter().enumerate() {
                    prop_assert_eq!(ended[i + 1], tick_of(deadline) < tick, "item {} at tick {}", i + 1, tick);
                }
            }
        }
    }

    #[test]
    fn what_has_passed_already_is_due_next() {
        let mut wheel = Wheel::new(1000);
        assert_eq!(wheel.next_due(), NEVER);
        assert_eq!(wheel.file(5 * UNITS_PER_TICK, 7), 0);
        assert_eq!(wheel.file(6 * UNITS_PER_TICK, 8), 7);
        assert_eq!(wheel.next_due(), 1001);
        assert_eq!(wheel.advance(1000), None);
        assert_eq!(wheel.advance(1001), Some(8));
        wheel.set_pending(0);
        assert_eq!(wheel.next_due(), NEVER);
    }
}
