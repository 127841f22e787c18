//! How long a core looks at its ring before it sleeps.
//!
//! Looking costs no system call but CPU, sleeping costs a wake-up of tens of microseconds. Looking pays when the next
//! completion is likely to come within the bound: so the gap between "nothing to do" and the next completion is smoothed,
//! and a core looks for twice that, up to the bound; when the smoothed gap exceeds the bound it does not look at all.
//! Every sleep measures the gap anew, so a core that sleeps learns when looking would pay again.

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
}

const GAP_NANOS_MAX: u64 = 4 * AUTO_MICROS_MAX as u64 * 1000;

impl Idle {
    /// Starts as one who sleeps.
    pub fn new(policy: BusyPoll) -> Idle {
        Idle { policy, gap_nanos: GAP_NANOS_MAX }
    }

    /// Nanoseconds to look before sleeping.
    #[inline]
    pub fn look_nanos(&self) -> u64 {
        match self.policy {
            BusyPoll::Micros(micros) => u64::from(micros) * 1000,
            BusyPoll::Auto => {
                let bound = u64::from(AUTO_MICROS_MAX) * 1000;
                if self.gap_nanos > bound { 0 } else { (2 * self.gap_nanos).min(bound) }
            }
        }
    }

    /// Takes in how long nothing happened.
    #[inline]
    pub fn learn(&mut self, gap_nanos: u64) {
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
            idle.learn(10_000);
        }
        assert!((15_000..=25_000).contains(&idle.look_nanos()), "{}", idle.look_nanos());
        for _ in 0..10 {
            idle.learn(1_000_000_000);
        }
        assert_eq!(idle.look_nanos(), 0);
    }

    #[test]
    fn a_fixed_bound_is_kept() {
        let mut idle = Idle::new(BusyPoll::Micros(30));
        idle.learn(1);
        assert_eq!(idle.look_nanos(), 30_000);
        assert_eq!(Idle::new(BusyPoll::Micros(0)).look_nanos(), 0);
    }
}
