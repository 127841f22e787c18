//! What a keyspace may take of its origin and of the memory, all cores together.
//!
//! Fetches are counted by two numbers that the cores share: how many are on their way, and how far the rate is used up. The rate
//! is a bucket that holds a second's worth: `next` is the moment up to which fetches are paid for, so that one more
//! is allowed as long as that lies less than a second ahead. Writes and commands that pass are not counted: they are not the cache's
//! to put off.

use crate::clock::Mono;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bounds of a keyspace, and what is used of them.
#[derive(Debug, Default)]
pub struct Budget {
    /// Bytes of items, with what they cost beside their values; 0: no bound of its own.
    pub memory_bytes_max: u64,
    /// Fetches in a second; 0: no bound.
    pub fetches_per_second: u32,
    /// Fetches on their way; 0: no bound.
    pub fetches_max: u32,
    under_way: AtomicU32,
    /// Nanoseconds up to which fetches are paid for.
    next: AtomicU64,
}

impl PartialEq for Budget {
    /// Two are the same if their bounds are.
    fn eq(&self, other: &Budget) -> bool {
        self.bounds() == other.bounds()
    }
}

impl Eq for Budget {}

const SECOND_NANOS: u64 = 1_000_000_000;
/// What nobody waits for takes one permit in so many at most, and leaves so much of the rate: as at the origin itself.
const SPARE: u32 = 4;

impl Budget {
    /// With these bounds; 0 means none.
    pub fn new(memory_bytes_max: u64, fetches_per_second: u32, fetches_max: u32) -> Budget {
        Budget { memory_bytes_max, fetches_per_second, fetches_max, ..Budget::default() }
    }

    fn bounds(&self) -> (u64, u32, u32) {
        (self.memory_bytes_max, self.fetches_per_second, self.fetches_max)
    }

    /// Takes one fetch of the rate, if there is one left. What nobody waits for leaves a part of it to others.
    pub fn spend(&self, now: Mono, waited_for: bool) -> bool {
        if self.fetches_per_second == 0 {
            return true;
        }
        let price = SECOND_NANOS / u64::from(self.fetches_per_second);
        let ahead = if waited_for { SECOND_NANOS } else { SECOND_NANOS - SECOND_NANOS / u64::from(SPARE) };
        let paid = |next: u64| {
            let next = next.max(now.0) + price;
            (next - now.0 <= ahead.max(price)).then_some(next)
        };
        self.next.fetch_update(Ordering::AcqRel, Ordering::Relaxed, paid).is_ok()
    }

    /// Whether a fetch that nobody waits for may be begun; takes it off the rate then.
    pub fn may_guess(&self, now: Mono) -> bool {
        let room = self.fetches_max == 0 || self.under_way() < self.fetches_max.div_ceil(SPARE);
        room && self.spend(now, false)
    }

    /// Takes a permit for a fetch, if one is left; to be given back when it is answered or failed.
    pub fn take(&self) -> bool {
        let more = |taken| (self.fetches_max == 0 || taken < self.fetches_max).then_some(taken + 1);
        self.under_way.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// Gives a permit back.
    pub fn give_back(&self) {
        let before = self.under_way.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a permit was given back twice");
    }

    /// Fetches on their way.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(1_000_000_000_000).plus_millis(millis)
    }

    #[test]
    fn a_rate_allows_a_seconds_worth_at_once_and_then_what_it_says() {
        let budget = Budget::new(0, 100, 0);
        let spent = |millis| (0..1000).filter(|_| budget.spend(at(millis), true)).count();
        assert_eq!(spent(0), 100);
        assert_eq!(spent(50), 5);
        assert_eq!(spent(1050), 100, "no more is saved up");
        assert_eq!(spent(100_000), 100);
        let slow = Budget::new(0, 1, 0);
        assert!(slow.spend(at(0), true) && !slow.spend(at(999), true) && slow.spend(at(1000), true));
        let none = Budget::default();
        assert!((0..100_000).all(|_| none.spend(at(0), true)));
    }

    #[test]
    fn what_nobody_waits_for_leaves_a_part_to_who_does() {
        let budget = Budget::new(0, 100, 8);
        assert_eq!((0..1000).filter(|_| budget.spend(at(0), false)).count(), 75);
        assert_eq!((0..1000).filter(|_| budget.spend(at(0), true)).count(), 25);
        let later = at(60_000);
        assert!(budget.may_guess(later) && budget.take() && budget.may_guess(later) && budget.take());
        assert!(!budget.may_guess(later), "a quarter of the permits is out");
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 6);
        assert_eq!(budget.under_way(), 8);
        budget.give_back();
        assert!(!budget.may_guess(later) && budget.take() && !budget.take());
    }

    #[test]
    fn two_with_the_same_bounds_are_the_same_whatever_is_used() {
        let (one, other) = (Budget::new(1, 2, 3), Budget::new(1, 2, 3));
        assert!(one.take());
        assert_eq!(one, other);
        assert_ne!(one, Budget::new(1, 2, 4));
    }
}
