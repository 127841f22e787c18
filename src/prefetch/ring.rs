//! The prefetch ring: guesses that wait for their turn at the origin, the better first.
//!
//! Eight queues by score; a key waits once; a guess that waited too long is dropped, as its moment has passed; and a guess
//! for which there is no room pushes out the oldest of the lowest queue, if that is lower than its own. Drops are counted.

use super::{Candidate, Target};
use crate::clock::Mono;
use std::collections::VecDeque;

/// Most guesses that wait.
pub const RING_MAX: usize = 256;
const BUCKETS: usize = 8;
/// Classes of targets; so many that most guesses are alone in theirs.
const CLASSES: usize = 1024;

/// The ring of a core.
pub struct Ring {
    buckets: [VecDeque<(Mono, Candidate)>; BUCKETS],
    len: usize,
    /// How many of those that wait have a target of each class: of a class that nobody has, none waits.
    classes: Box<[u16; CLASSES]>,
    /// Guesses that were dropped: full, or too old.
    pub dropped: u64,
}

impl Ring {
    /// An empty ring.
    pub fn new() -> Ring {
        Ring {
            buckets: std::array::from_fn(|_| VecDeque::with_capacity(RING_MAX)),
            len: 0,
            classes: Box::new([0; CLASSES]),
            dropped: 0,
        }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        let buckets = self.buckets.iter().map(VecDeque::capacity).sum::<usize>();
        buckets * size_of::<(Mono, Candidate)>() + size_of_val(&*self.classes)
    }

    /// Number of guesses that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets a guess wait until `deadline`; false if it is there already or there is no room for it.
    pub fn push(&mut self, deadline: Mono, candidate: Candidate) -> bool {
        if self.waits(candidate.target) {
            return false;
        }
        let bucket = bucket_of(candidate.score);
        if self.len == RING_MAX {
            self.dropped += 1;
            let Some(lower) = self.buckets[..bucket].iter_mut().find(|bucket| !bucket.is_empty()) else {
                return false;
            };
            let (_, lost) = lower.pop_front().expect("it is not empty");
            self.leaves(&lost);
        }
        self.buckets[bucket].push_back((deadline, candidate));
        self.len += 1;
        self.classes[class_of(candidate.target)] += 1;
        true
    }

    /// Drops the guesses whose moment has passed, as far as they stand before others: those of a bucket came in the order of
    /// their deadlines.
    pub fn expire(&mut self, now: Mono) {
        for bucket in 0..BUCKETS {
            while self.buckets[bucket].front().is_some_and(|(deadline, _)| *deadline < now) {
                let (_, late) = self.buckets[bucket].pop_front().expect("looked at above");
                self.leaves(&late);
                self.dropped += 1;
            }
        }
    }

    /// The best guess whose moment has not passed. Changes with each push and with time.
    pub fn pop(&mut self, now: Mono) -> Option<Candidate> {
        for bucket in (0..BUCKETS).rev() {
            while let Some((deadline, candidate)) = self.buckets[bucket].pop_front() {
                self.leaves(&candidate);
                if deadline >= now {
                    return Some(candidate);
                }
                self.dropped += 1;
            }
        }
        None
    }

    fn leaves(&mut self, candidate: &Candidate) {
        self.len -= 1;
        self.classes[class_of(candidate.target)] -= 1;
    }

    /// Whether a guess of that target waits.
    pub fn waits(&self, target: Target) -> bool {
        self.classes[class_of(target)] > 0
            && self.buckets.iter().flatten().any(|(_, waiting)| waiting.target == target)
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring::new()
    }
}

fn class_of(target: Target) -> usize {
    let word = match target {
        Target::Key(key) => u64::from(key),
        Target::Place(place) => place.prefix ^ place.number.rotate_left(17),
    };
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

fn bucket_of(score: f32) -> usize {
    ((score * BUCKETS as f32) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::super::{Reason, Source};
    use super::*;

    fn guess(key: u32, score: f32) -> Candidate {
        Candidate { target: Target::Key(key), score, reason: Reason::test(Source::Successor) }
    }

    fn key(candidate: Candidate) -> u32 {
        match candidate.target {
            Target::Key(key) => key,
            Target::Place(_) => panic!("only keys here"),
        }
    }

    #[test]
    fn the_better_goes_first_and_a_key_waits_once() {
        let mut ring = Ring::new();
        assert!(
            ring.push(Mono(9), guess(1, 0.3))
                && ring.push(Mono(9), guess(2, 0.9))
                && ring.push(Mono(9), guess(3, 0.3))
        );
        assert!(!ring.push(Mono(9), guess(2, 0.4)));
        let order: Vec<u32> = std::iter::from_fn(|| ring.pop(Mono(5))).map(key).collect();
        assert_eq!((order, ring.dropped), (vec![2, 1, 3], 0));
    }

    #[test]
    fn guesses_pass_with_their_moment_though_nobody_takes_them() {
        let mut ring = Ring::new();
        for (key, deadline, score) in [(1, 5, 0.3), (2, 9, 0.3), (3, 5, 0.9)] {
            assert!(ring.push(Mono(deadline), guess(key, score)));
        }
        ring.expire(Mono(5));
        assert_eq!((ring.len(), ring.dropped), (3, 0));
        ring.expire(Mono(6));
        assert_eq!((ring.len(), ring.dropped), (1, 2));
        assert!(ring.push(Mono(9), guess(1, 0.3)), "one that passed may come again");
        ring.expire(Mono(10));
        assert!(ring.is_empty());
    }

    #[test]
    fn full_drops_the_lowest_and_old_guesses_are_not_made() {
        let mut ring = Ring::new();
        (0..RING_MAX as u32).for_each(|i| assert!(ring.push(Mono(9), guess(i, 0.3))));
        assert!(!ring.push(Mono(9), guess(1000, 0.2)), "no better than any");
        assert!(ring.push(Mono(20), guess(1001, 0.9)));
        assert_eq!((ring.len(), ring.dropped), (RING_MAX, 2));
        assert_eq!(ring.pop(Mono(10)).map(key), Some(1001));
        assert_eq!(ring.pop(Mono(10)).map(key), None, "the others' moment has passed");
        assert_eq!((ring.len(), ring.dropped), (0, 2 + RING_MAX as u64 - 1));
    }
}
