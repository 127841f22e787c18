//! How much memory the predictor deserves: what it takes the cache has to do without, so it has to bring more hits than that.
//!
//! It begins with an eighth of what it may take. Every [`WINDOW`] requests the part of the misses that it spared is looked at:
//! 1. Two windows in a row with a fiftieth or more, and it gets twice as much; four with less than a hundredth, and it keeps
//!    half, a sixteenth at least, by which it notices structure that comes up.
//! 2. Structure that shows only with more memory is found by a trial of the next size: after a rest, for some windows, of which
//!    the first half fills it. It is kept if it spared so much more as the cache would have by itself with that memory; else
//!    the rest before the next trial is twice as long.
//! 3. Whatever it spares, it does not grow before it is nearly full, and gives half back that it has no use for.

/// Requests between two looks.
const WINDOW: u32 = 4096;
/// Parts of the most that it may take, from which it chooses: one over these.
const DIVISORS: [usize; 5] = [16, 8, 4, 2, 1];
const LEVEL_FIRST: usize = 1;
/// Parts of the misses spared that are worth more memory, and less.
const PART_GOOD: f32 = 0.02;
const PART_POOR: f32 = 0.01;
/// Part in use from which on it may grow, and under which it has too much.
const FULL: f32 = 0.75;
const ROOMY: f32 = 0.35;
/// Looks in a row that decide.
const GOOD_LOOKS: u32 = 2;
const POOR_LOOKS: u32 = 4;
/// Looks of a trial, the first half of which are not counted; least and most looks between two.
const TRIAL_LOOKS: u32 = 12;
const REST_LOOKS_MIN: u32 = 12;
const REST_LOOKS_MAX: u32 = 192;
/// What the most that it may take spares, spent on items: 15 % of the cache, and misses fall by about 0.3 of the part by which
/// a cache grows.
const PART_OF_ALL: f32 = 0.045;
/// What the latest look counts for.
const SMOOTHING: f32 = 0.2;

/// What it deserves so far.
#[derive(Clone, Debug)]
pub struct Size {
    level: usize,
    requests: u32,
    missed: u32,
    spared: u32,
    good: u32,
    poor: u32,
    /// Part spared at this size, smoothed.
    usual: f32,
    rest: u32,
    /// Looks before the next trial.
    rest_left: u32,
    trial: Option<Trial>,
}

/// A trial of the next size.
#[derive(Clone, Copy, Debug)]
struct Trial {
    looks: u32,
    /// Sum of the parts of the looks that count.
    sum: f32,
    /// Part spared before.
    before: f32,
}

impl Size {
    pub fn new() -> Size {
        Size {
            level: LEVEL_FIRST,
            requests: 0,
            missed: 0,
            spared: 0,
            good: 0,
            poor: 0,
            usual: 0.0,
            rest: REST_LOOKS_MIN,
            rest_left: REST_LOOKS_MIN,
            trial: None,
        }
    }

    /// Bytes of so many that it should take. Changes with [`Size::requested`].
    pub fn of(&self, bytes_max: usize) -> usize {
        bytes_max / DIVISORS[self.level]
    }

    /// A request came; whether it is time to look.
    pub fn requested(&mut self, miss: bool) -> bool {
        self.requests += 1;
        self.missed += u32::from(miss);
        self.requests >= WINDOW
    }

    /// A request was found because its key had been fetched ahead.
    pub fn spared(&mut self) {
        self.spared += 1;
    }

    /// Looks at what came of the last requests; `full` is the part of what it has that is in use.
    pub fn look(&mut self, full: f32) {
        let part = self.spared as f32 / (self.missed + self.spared).max(1) as f32;
        (self.requests, self.missed, self.spared) = (0, 0, 0);
        if let Some(trial) = &mut self.trial {
            trial.looks += 1;
            if trial.looks > TRIAL_LOOKS / 2 {
                trial.sum += part;
            }
            if trial.looks == TRIAL_LOOKS {
                self.judge_trial();
            }
            return;
        }
        if full < ROOMY && self.level > 0 {
            return self.settle(self.level - 1, part);
        }
        self.usual += SMOOTHING * (part - self.usual);
        self.good = if part >= PART_GOOD { self.good + 1 } else { 0 };
        self.poor = if part < PART_POOR { self.poor + 1 } else { 0 };
        if self.good >= GOOD_LOOKS && full >= FULL {
            self.settle((self.level + 1).min(DIVISORS.len() - 1), part);
        }
        if self.poor == POOR_LOOKS {
            self.settle(self.level.saturating_sub(1), part);
        }
        self.rest_left = self.rest_left.saturating_sub(1);
        if self.rest_left == 0 && self.level + 1 < DIVISORS.len() && full >= FULL {
            self.trial = Some(Trial { looks: 0, sum: 0.0, before: self.usual });
            self.move_to(self.level + 1);
        }
    }

    fn judge_trial(&mut self) {
        let Some(Trial { sum, before, .. }) = self.trial.take() else { return };
        let part = sum / (TRIAL_LOOKS - TRIAL_LOOKS / 2) as f32;
        let share = |level: usize| 1.0 / DIVISORS[level] as f32;
        let cost = PART_OF_ALL * (share(self.level) - share(self.level - 1));
        if part - before >= cost {
            (self.usual, self.rest) = (part, REST_LOOKS_MIN);
        } else {
            self.move_to(self.level - 1);
            self.rest = (2 * self.rest).min(REST_LOOKS_MAX);
        }
        self.rest_left = self.rest;
    }

    /// Takes another size for good; what was usual at the one before says nothing of it.
    fn settle(&mut self, level: usize, part: f32) {
        if level != self.level {
            (self.usual, self.rest_left) = (part, self.rest);
        }
        self.move_to(level);
    }

    fn move_to(&mut self, level: usize) {
        (self.level, self.good, self.poor) = (level, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(size: &mut Size, miss: bool) {
        if size.requested(miss) {
            size.look(1.0);
        }
    }

    fn run(size: &mut Size, windows: usize, every: u32) {
        for _ in 0..windows {
            for i in 0..WINDOW {
                let miss = i % 4 == 0;
                request(size, miss);
                if !miss && i % every == 1 {
                    size.spared();
                }
            }
        }
    }

    #[test]
    fn who_spares_misses_gets_memory_and_who_does_not_gives_it_back() {
        let mut size = Size::new();
        assert_eq!(size.of(1600), 200);
        run(&mut size, 2, 10);
        assert_eq!(size.of(1600), 400);
        run(&mut size, 20, 10);
        assert_eq!(size.of(1600), 1600);
        run(&mut size, 3, 4096);
        assert_eq!(size.of(1600), 1600, "a short lull decides nothing");
        run(&mut size, 17, 4096);
        assert_eq!(size.of(1600), 100, "what is left is to notice by");
        run(&mut size, 2, 10);
        assert_eq!(size.of(1600), 200);
    }

    #[test]
    fn who_has_room_left_gets_no_more_and_gives_up_what_stands_empty() {
        let mut size = Size::new();
        let mut windows = |count: usize, full: f32| {
            for _ in 0..count {
                for i in 0..WINDOW {
                    size.spared();
                    if size.requested(i % 2 == 0) {
                        size.look(full);
                    }
                }
            }
            size.of(1600)
        };
        assert_eq!(windows(40, 0.7), 200);
        assert_eq!(windows(2, 0.8), 400);
        assert_eq!(windows(1, 0.3), 200);
        assert_eq!(windows(40, 0.1), 100);
    }

    /// Windows in which so many of a thousand misses are spared, by the size that it has.
    fn live(size: &mut Size, windows: usize, thousandths: [u32; 5]) {
        for _ in 0..windows {
            let level =
                DIVISORS.iter().position(|divisor| size.of(1600) == 1600 / divisor).expect("one of them");
            for i in 0..WINDOW {
                let spared = i % 1000 < thousandths[level];
                request(size, !spared);
                if spared {
                    size.spared();
                }
            }
        }
    }

    #[test]
    fn what_only_more_memory_brings_is_found_by_trials() {
        let mut size = Size::new();
        live(&mut size, 400, [4, 14, 40, 100, 200]);
        assert_eq!(size.of(1600), 1600);
    }

    #[test]
    fn trials_that_bring_nothing_become_rare() {
        let mut size = Size::new();
        live(&mut size, 10, [0, 0, 0, 0, 0]);
        assert_eq!(size.of(1600), 100);
        let mut larger = 0;
        for _ in 0..1000 {
            live(&mut size, 1, [4, 4, 5, 5, 5]);
            larger += u32::from(size.of(1600) > 100);
        }
        assert!(size.of(1600) <= 200 && (12..120).contains(&larger), "{larger} of 1000 windows");
    }
}
