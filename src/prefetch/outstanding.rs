//! Candidates that were fetched and not asked for yet.
//!
//! Sets of eight by the key's hash, and a queue in the order of fetching. One that is not asked for while so many others came
//! into the cache is overdue: unused, it has left the cache's probation by then. So is one that nobody asked for in a while
//! ([`OVERDUE_MILLIS`]), or a large cache would take hours to notice what it fetches for nothing.

use super::history::EntryId;
use super::{KeyId, Reason};
use crate::clock::Mono;
use std::collections::VecDeque;

const WAYS: usize = 8;
/// Least patience, in others that came in.
const PATIENCE_MIN: u64 = 64;
/// Time after which one is overdue.
pub const OVERDUE_MILLIS: u64 = 15_000;

/// A candidate that was fetched.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub key: KeyId,
    pub reason: Reason,
    /// Whether it is in the cache, or still under way.
    pub landed: bool,
    /// Which fill of the cache it was, as a name.
    number: u64,
    /// When it was fetched.
    at: Mono,
    /// Its place in the history.
    pub entry: EntryId,
}

impl Pending {
    /// One that is nobody's fetch.
    pub fn new(key: KeyId, reason: Reason) -> Pending {
        Pending { key, reason, landed: false, number: 0, at: Mono(0), entry: EntryId::NONE }
    }
}

/// The candidates of a core.
pub struct Outstanding {
    sets: Vec<[Option<Pending>; WAYS]>,
    order: VecDeque<(KeyId, u64)>,
    /// When the one at the front of `order` was fetched, or one before it.
    front: Mono,
    order_max: usize,
    /// Fills of the cache so far, for demand or not.
    fills: u64,
    patience: u64,
}

impl Outstanding {
    pub fn with_bytes(bytes: usize) -> Outstanding {
        let per_set = WAYS * (size_of::<Option<Pending>>() + size_of::<(KeyId, u64)>());
        let sets = (bytes / per_set).max(1);
        Outstanding {
            sets: vec![[None; WAYS]; sets],
            order: VecDeque::with_capacity(sets * WAYS),
            order_max: sets * WAYS,
            front: Mono(0),
            fills: 0,
            patience: PATIENCE_MIN,
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.sets.capacity() * WAYS * size_of::<Option<Pending>>()
            + self.order.capacity() * size_of::<(KeyId, u64)>()
    }

    pub fn set_patience(&mut self, fills: u64) {
        self.patience = fills.max(PATIENCE_MIN);
    }

    pub fn patience(&self) -> u64 {
        self.patience
    }

    pub fn holds(&self, key: KeyId) -> bool {
        self.sets[self.set_of(key)].iter().flatten().any(|pending| pending.key == key)
    }

    /// Adds one; answers those that had to give way.
    pub fn put(&mut self, now: Mono, key: KeyId, reason: Reason, entry: EntryId) -> [Option<Pending>; 2] {
        self.fills += 1;
        if self.order.is_empty() {
            self.front = now;
        }
        let number = self.fills;
        let mut lost = None;
        if self.order.len() == self.order_max
            && let Some((oldest, number)) = self.order.pop_front()
        {
            lost = self.take_if(oldest, |pending| pending.number == number);
        }
        let set = self.set_of(key);
        let set = &mut self.sets[set];
        let age = |place: &Option<Pending>| place.map_or(0, |pending| pending.number);
        let place = set.iter_mut().min_by_key(|place| age(place)).expect("there are eight");
        let replaced = place.replace(Pending { key, reason, landed: false, number, at: now, entry });
        self.order.push_back((key, number));
        [lost, replaced]
    }

    /// One is in the cache; its place in the history, if it is there still.
    pub fn landed(&mut self, key: KeyId) -> Option<EntryId> {
        let set = self.set_of(key);
        let pending = self.sets[set].iter_mut().flatten().find(|pending| pending.key == key)?;
        pending.landed = true;
        Some(pending.entry)
    }

    pub fn take(&mut self, key: KeyId) -> Option<Pending> {
        self.take_if(key, |_| true)
    }

    /// A request filled the cache.
    pub fn filled(&mut self) {
        self.fills += 1;
    }

    /// One that is overdue, if any.
    pub fn take_overdue(&mut self) -> Option<Pending> {
        while let Some(&(key, number)) = self.order.front() {
            if number + self.patience > self.fills {
                return None;
            }
            self.order.pop_front();
            // It may have been taken, and even fetched again, since.
            let taken = self.take_if(key, |pending| pending.number == number);
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    /// One that nobody asked for in a while, if any.
    pub fn take_forgotten(&mut self, now: Mono) -> Option<Pending> {
        while self.front.plus_millis(OVERDUE_MILLIS) <= now
            && let Some(&(key, number)) = self.order.front()
        {
            let set = &self.sets[self.set_of(key)];
            if let Some(pending) = set.iter().flatten().find(|it| it.key == key && it.number == number) {
                self.front = pending.at;
                if pending.at.plus_millis(OVERDUE_MILLIS) > now {
                    return None;
                }
            }
            self.order.pop_front();
            let taken = self.take_if(key, |pending| pending.number == number);
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    fn take_if(&mut self, key: KeyId, is: impl Fn(&Pending) -> bool) -> Option<Pending> {
        let set = self.set_of(key);
        let place =
            self.sets[set].iter_mut().find(|place| place.is_some_and(|pending| pending.key == key))?;
        if place.as_ref().is_some_and(is) { place.take() } else { None }
    }

    fn set_of(&self, key: KeyId) -> usize {
        let hash = u64::from(key).wrapping_mul(0xa076_1d64_78bd_642f) >> 32;
        ((hash * self.sets.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    const WHY: fn() -> Reason = || Reason::test(Source::Successor);

    #[test]
    fn one_is_overdue_after_as_many_fills_as_patience_lasts() {
        let mut outstanding = Outstanding::with_bytes(10_000);
        outstanding.set_patience(100);
        let overdue = |outstanding: &mut Outstanding| {
            outstanding.filled();
            outstanding.take_overdue()
        };
        assert!(
            [7, 8]
                .map(|key| outstanding.put(Mono(0), key, WHY(), EntryId::NONE))
                .iter()
                .flatten()
                .all(Option::is_none)
        );
        outstanding.landed(7);
        assert!(outstanding.holds(7) && !outstanding.holds(9));
        assert!(outstanding.take(8).is_some_and(|pending| !pending.landed));
        assert!((0..98).all(|_| overdue(&mut outstanding).is_none()));
        let first = overdue(&mut outstanding).expect("7 is");
        assert!(first.key == 7 && first.landed);
        assert!((0..200).all(|_| overdue(&mut outstanding).is_none()), "8 was taken before");
    }

    #[test]
    fn one_is_forgotten_after_a_while_whatever_comes_in() {
        let mut outstanding = Outstanding::with_bytes(10_000);
        let at = |millis| Mono(0).plus_millis(millis);
        for (key, millis) in [(1, 0), (2, 10), (3, 5000)] {
            outstanding.put(at(millis), key, WHY(), EntryId::NONE);
        }
        assert!(outstanding.take(1).is_some(), "asked for in time");
        assert!(outstanding.take_forgotten(at(OVERDUE_MILLIS)).is_none());
        let forgotten = |outstanding: &mut Outstanding, millis| {
            outstanding.take_forgotten(at(millis)).map(|pending| pending.key)
        };
        assert_eq!(forgotten(&mut outstanding, OVERDUE_MILLIS + 10), Some(2));
        assert_eq!(forgotten(&mut outstanding, OVERDUE_MILLIS + 4999), None);
        assert_eq!(forgotten(&mut outstanding, OVERDUE_MILLIS + 5000), Some(3));
        assert_eq!(forgotten(&mut outstanding, 10 * OVERDUE_MILLIS), None);
        outstanding.put(at(20 * OVERDUE_MILLIS), 4, WHY(), EntryId::NONE);
        assert_eq!(forgotten(&mut outstanding, 20 * OVERDUE_MILLIS + 1), None, "it is new");
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let mut outstanding = Outstanding::with_bytes(2000);
        let bytes = outstanding.heap_bytes();
        assert!(bytes <= 2000);
        let lost =
            (0..1000).flat_map(|key| outstanding.put(Mono(0), key, WHY(), EntryId::NONE)).flatten().count();
        let held = (0..1000).filter(|&key| outstanding.holds(key)).count();
        assert_eq!(lost + held, 1000, "each is held or was given back");
        assert_eq!(outstanding.heap_bytes(), bytes);
    }
}
