//! How much memory the predictor deserves: what it takes the cache has to do without, so it has to bring more hits than that.
//!
//! It begins with a quarter of what it may take. Every [`WINDOW`] requests the part of the misses that it spared is looked at:
//! two windows in a row with a fiftieth or more, and it gets twice as much; four with less than a hundredth, and it keeps half,
//! an eighth at least, by which it notices structure that comes up.

/// Requests between two looks.
const WINDOW: u32 = 4096;
/// Parts of the most that it may take, from which it chooses: one over these.
const DIVISORS: [usize; 4] = [8, 4, 2, 1];
const LEVEL_FIRST: usize = 1;
/// Parts of the misses spared that are worth more memory, and less.
const PART_GOOD: f32 = 0.02;
const PART_POOR: f32 = 0.01;
/// Looks in a row that decide.
const GOOD_LOOKS: u32 = 2;
const POOR_LOOKS: u32 = 4;

/// What it deserves so far.
#[derive(Clone, Debug)]
pub struct Size {
    level: usize,
    requests: u32,
    missed: u32,
    spared: u32,
    good: u32,
    poor: u32,
}

impl Size {
    pub fn new() -> Size {
        Size { level: LEVEL_FIRST, requests: 0, missed: 0, spared: 0, good: 0, poor: 0 }
    }

    /// Bytes of so many that it should take. Changes with [`Size::requested`].
    pub fn of(&self, bytes_max: usize) -> usize {
        bytes_max / DIVISORS[self.level]
    }

    /// A request came.
    pub fn requested(&mut self, miss: bool) {
        self.requests += 1;
        self.missed += u32::from(miss);
        if self.requests == WINDOW {
            self.look();
        }
    }

    /// A request was found because its key had been fetched ahead.
    pub fn spared(&mut self) {
        self.spared += 1;
    }

    fn look(&mut self) {
        let part = self.spared as f32 / (self.missed + self.spared).max(1) as f32;
        self.good = if part >= PART_GOOD { self.good + 1 } else { 0 };
        self.poor = if part < PART_POOR { self.poor + 1 } else { 0 };
        if self.good == GOOD_LOOKS {
            (self.level, self.good) = ((self.level + 1).min(DIVISORS.len() - 1), 0);
        }
        if self.poor == POOR_LOOKS {
            (self.level, self.poor) = (self.level.saturating_sub(1), 0);
        }
        (self.requests, self.missed, self.spared) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(size: &mut Size, windows: usize, every: u32) {
        for _ in 0..windows {
            for i in 0..WINDOW {
                let miss = i % 4 == 0;
                size.requested(miss);
                if !miss && i % every == 1 {
                    size.spared();
                }
            }
        }
    }

    #[test]
    fn who_spares_misses_gets_memory_and_who_does_not_gives_it_back() {
        let mut size = Size::new();
        assert_eq!(size.of(800), 200);
        run(&mut size, 2, 10);
        assert_eq!(size.of(800), 400);
        run(&mut size, 20, 10);
        assert_eq!(size.of(800), 800);
        run(&mut size, 3, 4096);
        assert_eq!(size.of(800), 800, "a short lull decides nothing");
        run(&mut size, 20, 4096);
        assert_eq!(size.of(800), 100, "what is left is to notice by");
        run(&mut size, 2, 10);
        assert_eq!(size.of(800), 200);
    }
}
