//! What makes it hard beside the trace: lives that end, invalidation storms, an origin that is slow for a while.

use super::trace::mix;
use crate::clock::Mono;
use crate::origin::spare::Spare;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One key in so many is hit by a storm, another part of them each time.
const STORM_PART: u64 = 10;
/// Prefetches take one place of an origin in so many at most, as in `origin/pool.rs`.
const SPARE_PLACES: usize = 4;

/// Which hardships there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hardship {
    /// Nanoseconds after which what was fetched ends.
    pub life_nanos: Option<u64>,
    /// Every so many rows a tenth of the keys is invalidated.
    pub storm_rows: Option<usize>,
    /// In the middle third of the trace the origin takes so many times as long; it has as many places as there are clients.
    pub brownout: Option<u64>,
}

impl Hardship {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Hardship::default()
    }

    /// The keys that a storm before that row invalidates, by their numbers, if there is one.
    pub fn storm(&self, row: usize) -> Option<impl Fn(u64) -> bool + use<>> {
        let every = self.storm_rows.filter(|every| row > 0 && row.is_multiple_of(*every))?;
        let part = (row / every) as u64 % STORM_PART;
        Some(move |name: u64| (mix(name ^ 0x570a) >> 7) % STORM_PART == part)
    }
}

/// An origin with places, of which each takes one question at a time. Times are in units of which `nanos_per_unit` says the length.
pub struct Strained {
    /// When each place is free again.
    places: BinaryHeap<Reverse<u64>>,
    /// Row from which on it is slow, and from which on not any more.
    slow_rows: std::ops::Range<usize>,
    times: u64,
    spare: Spare,
    nanos_per_unit: u64,
    /// Answers on their way: when they come, and when they were asked for.
    answers: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Strained {
    /// One with so many places, that is so many times slower in the middle of so many rows.
    pub fn new(places: usize, times: u64, rows: usize, nanos_per_unit: u64) -> Strained {
        Strained {
            places: (0..places.max(1)).map(|_| Reverse(0)).collect(),
            slow_rows: rows / 3..rows / 3 * 2,
            times,
            spare: Spare::default(),
            nanos_per_unit,
            answers: BinaryHeap::new(),
        }
    }

    /// Whether it has time for what nobody waits for; takes it if so. The rules are those of the origin's pool.
    pub fn spares(&mut self, now: u64) -> bool {
        while let Some(&Reverse((at, asked))) = self.answers.peek()
            && at <= now
        {
            self.answers.pop();
            self.spare.answered(self.mono(at), (at - asked) * self.nanos_per_unit / 1000);
        }
        let busy = self.places.iter().filter(|Reverse(free)| *free > now).count();
        let room = self.spare.room(self.mono(now));
        room > 0 && busy < self.places.len().div_ceil(SPARE_PLACES) && self.spare.take()
    }

    /// A question that takes so long by itself: how long it takes.
    pub fn ask(&mut self, row: usize, now: u64, latency: u64) -> u64 {
        let latency = if self.slow_rows.contains(&row) { latency * self.times } else { latency };
        let Reverse(free) = self.places.pop().expect("there is one");
        let lands = free.max(now) + latency;
        self.places.push(Reverse(lands));
        self.answers.push(Reverse((lands, now)));
        lands - now
    }

    fn mono(&self, now: u64) -> Mono {
        Mono(now * self.nanos_per_unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storms_come_as_often_as_said_and_reach_every_key_in_turn() {
        let hardship = Hardship { storm_rows: Some(100), ..Hardship::default() };
        let mut hits = vec![0; 1000];
        for row in 0..=1000 {
            let storm = hardship.storm(row);
            assert_eq!(storm.is_some(), row > 0 && row % 100 == 0);
            let reached = storm.map_or(0, |reaches| {
                let reached = (0..1000).filter(|name| reaches(*name));
                reached.inspect(|name| hits[*name as usize] += 1).count()
            });
            assert!(reached == 0 || (60..140).contains(&reached), "{reached} at {row}");
        }
        assert!(hits.iter().all(|hits| *hits == 1), "ten storms, a tenth each");
        assert!(Hardship::default().storm(100).is_none());
    }

    #[test]
    fn who_comes_to_a_full_origin_waits_and_the_middle_is_slow() {
        let mut origin = Strained::new(2, 10, 30, 10);
        assert_eq!([0, 0, 0].map(|now| origin.ask(0, now, 100)), [100, 100, 200]);
        assert_eq!(origin.ask(10, 1000, 100), 1000, "ten times");
        assert_eq!(origin.ask(20, 5000, 100), 100, "it is over");
    }

    #[test]
    fn nothing_is_spared_while_a_quarter_is_taken_or_answers_take_long() {
        // A unit is a microsecond.
        let mut origin = Strained::new(8, 10, 300_000, 1000);
        let mut spared = [0; 3];
        for row in 0..300_000 {
            let now = row as u64 * 1000;
            if origin.spares(now) {
                spared[row / 100_000] += 1;
                origin.ask(row, now, 500);
            }
            // Demand.
            origin.ask(row, now + 1, 500);
        }
        assert!(spared[0] > 50_000, "{spared:?}");
        assert!(spared[1] * 20 < spared[0] && spared[1] > 0, "{spared:?}");
        assert!(spared[2] > spared[1], "{spared:?}");
        let mut full = Strained::new(4, 1, 3, 1000);
        assert!(full.spares(0));
        full.ask(0, 0, 500);
        assert!(!full.spares(1) && full.spares(500_000));
    }
}
