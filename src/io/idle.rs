//! How long a core looks at its ring before it sleeps.
//!
//! Looking costs no system call but CPU, sleeping costs a wake-up of tens of microseconds. Looking pays when the next
//! completion is likely to come within the bound: so the gap between "nothing to do" and the next completion is smoothed,
//! and a core looks for four times that, up to the bound; when the smoothed gap exceeds the bound it does not look at all.
//!
//! A sleep measures the gap and its own wake-up together, and a client that waits for one reply at a time answers sooner to a
//! core that is awake: so a core that sleeps cannot learn that looking would pay. It finds out by trying: once in a while it
//! looks for the whole bound, and what comes meanwhile counts much. Tries that find nothing are made ever more rarely.

/// The bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyPoll {
    /// Up to 50 microseconds, as the smoothed gap says.
    Auto,
    /// Exactly so long every time; 0 never looks.
    Micros(u32),
}

/// The bound of `Auto`, in microseconds.
pub const AUTO_MICROS_MAX: u32 = 50;

/// The smoothing.
#[derive(Debug)]
pub struct Idle {
    policy: BusyPoll,
    /// Smoothed gap in nanoseconds; gaps count at most `GAP_NANOS_MAX`, so that one long pause is soon forgotten.
    gap_nanos: u64,
    /// Sleeps until the next try.
    sleeps_left: u32,
    /// Sleeps from one try to the next.
    sleeps_between: u32,
    /// Whether the look under way is a try.
    trying: bool,
}

const GAP_NANOS_MAX: u64 = 2 * AUTO_MICROS_MAX as u64 * 1000;
/// Sleeps between two tries, at first and at most. A try costs the bound, a sleep and its wake-up about a tenth of it.
const SLEEPS_BETWEEN: std::ops::RangeInclusive<u32> = 16..=4096;

impl Idle {
    /// Starts as one who sleeps.
    pub fn new(policy: BusyPoll) -> Idle {
        let sleeps = *SLEEPS_BETWEEN.start();
        Idle { policy, gap_nanos: GAP_NANOS_MAX, sleeps_left: sleeps, sleeps_between: sleeps, trying: false }
    }

    /// Nanoseconds to look before sleeping.
    #[inline]
    pub fn look_nanos(&mut self) -> u64 {
        match self.policy {
            BusyPoll::Micros(micros) => u64::from(micros) * 1000,
            BusyPoll::Auto => {
                let bound = u64::from(AUTO_MICROS_MAX) * 1000;
                if self.gap_nanos <= bound {
                    return (4 * self.gap_nanos).min(bound);
                }
                if self.sleeps_left > 0 {
                    self.sleeps_left -= 1;
                    return 0;
                }
                self.trying = true;
                bound
            }
        }
    }

    /// Takes in that looking found something after so long.
    #[inline]
    pub fn found(&mut self, gap_nanos: u64) {
        if std::mem::take(&mut self.trying) {
            self.gap_nanos = self.gap_nanos.min(2 * gap_nanos);
            self.sleeps_between = *SLEEPS_BETWEEN.start();
            self.sleeps_left = self.sleeps_between;
        }
        self.learn(gap_nanos);
    }

    /// Takes in how long nothing happened, a sleep included.
    #[inline]
    pub fn slept(&mut self, gap_nanos: u64) {
        if std::mem::take(&mut self.trying) {
            self.sleeps_between = (2 * self.sleeps_between).min(*SLEEPS_BETWEEN.end());
            self.sleeps_left = self.sleeps_between;
        }
        self.learn(gap_nanos);
    }

    #[inline]
    fn learn(&mut self, gap_nanos: u64) {
        let gap = gap_nanos.min(GAP_NANOS_MAX);
        self.gap_nanos = (self.gap_nanos * 7 + gap) / 8;
    }

    /// Whether gaps are worth measuring.
    #[inline]
    pub fn adapts(&self) -> bool {
        self.policy == BusyPoll::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_gaps_make_it_look_and_long_ones_make_it_sleep() {
        let mut idle = Idle::new(BusyPoll::Auto);
        assert_eq!(idle.look_nanos(), 0);
        for _ in 0..40 {
            idle.slept(10_000);
        }
        assert!((35_000..=45_000).contains(&idle.look_nanos()), "{}", idle.look_nanos());
        for _ in 0..10 {
            idle.slept(1_000_000_000);
        }
        assert_eq!(idle.look_nanos(), 0);
    }

    #[test]
    fn a_sleeper_finds_by_trying_that_looking_pays() {
        let mut idle = Idle::new(BusyPoll::Auto);
        let mut rests = 0;
        // Asleep, a request seems to come after 80 us; awake it would have come after 15.
        while idle.look_nanos() == 0 {
            idle.slept(80_000);
            rests += 1;
            assert!(rests <= 16, "never tried");
        }
        idle.found(15_000);
        for _ in 0..100 {
            assert!(idle.look_nanos() >= 30_000, "{}", idle.look_nanos());
            idle.found(15_000);
        }
    }

    #[test]
    fn tries_that_find_nothing_become_rare() {
        let mut idle = Idle::new(BusyPoll::Auto);
        let tries = (0..100_000).filter(|_| {
            let looks = idle.look_nanos() > 0;
            idle.slept(1_000_000);
            looks
        });
        let tries = tries.count();
        assert!((25..=40).contains(&tries), "{tries}");
    }

    #[test]
    fn a_fixed_bound_is_kept() {
        let mut idle = Idle::new(BusyPoll::Micros(30));
        idle.slept(1);
        assert_eq!(idle.look_nanos(), 30_000);
        assert_eq!(Idle::new(BusyPoll::Micros(0)).look_nanos(), 0);
    }
}
