//! Time as values: nobody below the shell reads a clock, `now` is handed in.

/// Nanoseconds of a clock that never jumps and goes on while the machine sleeps (CLOCK_BOOTTIME in the shell).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Nanoseconds in a millisecond.
    pub const NANOS_PER_MILLI: u64 = 1_000_000;
    /// Nanoseconds in a second.
    pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

    /// This moment and `millis` milliseconds more; far futures saturate.
    pub const fn plus_millis(self, millis: u64) -> Mono {
        Mono(self.0.saturating_add(millis.saturating_mul(Self::NANOS_PER_MILLI)))
    }

    /// Milliseconds from `earlier` to this moment, 0 if that lies ahead.
    pub const fn millis_since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0) / Self::NANOS_PER_MILLI
    }
}

/// Milliseconds since 1970 (UTC). May jump; used only where a protocol speaks in absolute times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

/// The moment at which a turn runs: both clocks, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines and durations.
    pub mono: Mono,
    /// For what clients state in absolute time.
    pub wall: Wall,
}

impl Now {
    /// The moment `mono` where the wall clock is that many milliseconds ahead. As the two go together by whole milliseconds,
    /// an absolute time that became a deadline comes back as it was, however much later.
    pub const fn at(mono: Mono, wall_ahead_millis: u64) -> Now {
        Now { mono, wall: Wall((mono.0 / Mono::NANOS_PER_MILLI).saturating_add(wall_ahead_millis)) }
    }

    /// The monotonic deadline of an absolute time; what lies in the past is due now.
    pub const fn deadline(&self, at: Wall) -> Mono {
        if at.0 <= self.wall.0 { self.mono } else { self.millisecond().plus_millis(at.0 - self.wall.0) }
    }

    /// The absolute time of a monotonic deadline, as the wall clock stands now, rounded to the nearest millisecond.
    pub const fn wall_of(&self, deadline: Mono) -> Wall {
        Wall(
            self.wall.0
                + deadline.0.saturating_sub(self.millisecond().0).saturating_add(500_000)
                    / Mono::NANOS_PER_MILLI,
        )
    }

    /// When the millisecond that `wall` names began.
    const fn millisecond(&self) -> Mono {
        Mono(self.mono.0 - self.mono.0 % Mono::NANOS_PER_MILLI)
    }

    /// Milliseconds left until a deadline, rounded up so that what is still alive never shows 0. A quarter of one is forgiven
    /// first: the store keeps deadlines to that, rounded up, and nobody is to see more than was asked for.
    pub const fn millis_until(&self, deadline: Mono) -> u64 {
        let left = deadline.0.saturating_sub(self.mono.0);
        let millis = left.saturating_sub(Mono::NANOS_PER_MILLI / 4).div_ceil(Mono::NANOS_PER_MILLI);
        if millis == 0 && left > 0 { 1 } else { millis }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_times_become_deadlines_and_come_back() {
        let now = Now { mono: Mono(5_000_000_000), wall: Wall(1_700_000_000_000) };
        let deadline = now.deadline(Wall(1_700_000_002_500));
        assert_eq!(deadline, Mono(7_500_000_000));
        assert_eq!(now.wall_of(deadline), Wall(1_700_000_002_500));
        assert_eq!(now.millis_until(deadline), 2500);
        assert_eq!(now.deadline(Wall(1)), now.mono, "the past is due now");
        assert_eq!(now.millis_until(Mono(7_500_250_000)), 2500, "what the store added is not shown");
        assert_eq!(now.millis_until(Mono(5_000_000_001)), 1);
        assert_eq!(now.millis_until(now.mono), 0);
    }
    #[test]
    fn an_absolute_time_reads_the_same_at_every_later_moment() {
        const AHEAD: u64 = 1_700_000_000_000;
        let asked = Wall(AHEAD + 9_999);
        for set_at in [0, 1, 499_999, 500_000, 999_999, 1_000_000, 7_654_321] {
            let deadline = Now::at(Mono(set_at), AHEAD).deadline(asked);
            for read_at in (set_at..set_at + 3_000_000).step_by(99_991) {
                let now = Now::at(Mono(read_at), AHEAD);
                // The store keeps a deadline to a quarter of a millisecond.
                for kept in [deadline, Mono(deadline.0 + Mono::NANOS_PER_MILLI / 4 - 1)] {
                    assert_eq!(now.wall_of(kept), asked, "set at {set_at} ns, read at {read_at} ns");
                }
            }
        }
    }
}
