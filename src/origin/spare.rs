//! What an origin has to spare: how many questions that nobody waits for it is asked now.
//!
//! ```text
//!   tokens   flow in at `rate` times `share`, up to a tenth of a second's worth; one question takes one
//!   rate     every 100 ms: the smoothed latency is over 1.5 times its least of the last ten minutes,
//!            or a question failed: x 0.7; else, if any was taken of late: x 1.05
//! ```
//! So what is spare is found out by asking: an origin that gets slower is asked less by those who can do without, long before
//! who waits has to feel it. Latency is everybody's, demand included. A millisecond more or less is no sign of load.
//!
//! `share` is what this core may take of that, 1 unless somebody says less who knows what all cores have to do.

use crate::clock::Mono;

/// Questions a second at first, at least and at most.
const RATE_FIRST: f64 = 200.0;
const RATE_MIN: f64 = 1.0;
const RATE_MAX: f64 = 20_000.0;
const RISE: f64 = 1.05;
const FALL: f64 = 0.7;
/// Least share.
const SHARE_MIN: f64 = 0.125;
/// Milliseconds between two changes of the rate.
const STEP_MILLIS: u64 = 100;
/// A rate that nobody asked for in so long does not grow.
const TAKEN_MILLIS: u64 = 1000;
/// Latency over the least of late that counts as load.
const STRAIN: f64 = 1.5;
const SLACK_MICROS: f64 = 1000.0;
/// What the latest answer counts for.
const SMOOTHING: f64 = 0.05;
/// The least latency is that of this span and the one before.
const SPAN_MILLIS: u64 = 300_000;

/// What one core may ask of one origin.
#[derive(Clone, Debug)]
pub struct Spare {
    rate: f64,
    share: f64,
    tokens: f64,
    refilled: Mono,
    step_at: Mono,
    /// Smoothed microseconds from question to answer; 0: none so far.
    latency: f64,
    /// Least smoothed latency of the span going on, and of the one before.
    least: [f64; 2],
    span_until: Mono,
    failed: bool,
    /// When a token was taken last.
    taken: Option<Mono>,
}

impl Default for Spare {
    fn default() -> Spare {
        Spare {
            rate: RATE_FIRST,
            share: 1.0,
            tokens: RATE_FIRST / 10.0,
            refilled: Mono(0),
            step_at: Mono(0),
            latency: 0.0,
            least: [f64::INFINITY; 2],
            span_until: Mono(0),
            failed: false,
            taken: None,
        }
    }
}

impl Spare {
    /// How many questions may be asked now.
    pub fn room(&mut self, now: Mono) -> usize {
        if now >= self.step_at {
            self.step_at = now.plus_millis(STEP_MILLIS);
            self.step(now);
        }
        let seconds = now.0.saturating_sub(self.refilled.0) as f64 / Mono::NANOS_PER_SECOND as f64;
        self.refilled = now;
        // One at least fits, or a low rate would be none.
        let rate = self.rate();
        self.tokens = (self.tokens + seconds * rate).min((rate / 10.0).max(1.0));
        self.tokens as usize
    }

    /// A question is asked; false, and none is, if there was no room for it.
    pub fn take(&mut self) -> bool {
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        self.taken = Some(self.refilled);
        true
    }

    /// An answer came.
    pub fn answered(&mut self, now: Mono, micros: u64) {
        let micros = micros as f64;
        self.latency =
            if self.latency == 0.0 { micros } else { self.latency + SMOOTHING * (micros - self.latency) };
        if now >= self.span_until {
            self.span_until = now.plus_millis(SPAN_MILLIS);
            self.least = [f64::INFINITY, self.least[0]];
        }
        self.least[0] = self.least[0].min(self.latency);
    }

    /// A question had no answer.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// Questions a second that are let through at present.
    pub fn rate(&self) -> f64 {
        (self.rate * self.share).max(RATE_MIN)
    }

    /// Says what of the rate may be taken here from now on, from an eighth to all of it.
    pub fn set_share(&mut self, share: f64) {
        self.share = share.clamp(SHARE_MIN, 1.0);
    }

    /// Smoothed microseconds from question to answer; 0: none so far.
    pub fn latency_micros(&self) -> u64 {
        self.latency as u64
    }

    fn step(&mut self, now: Mono) {
        let least = self.least[0].min(self.least[1]);
        let strained = self.latency > STRAIN * least + SLACK_MICROS;
        if strained || self.failed {
            self.rate = (self.rate * FALL).max(RATE_MIN);
        } else if self.taken.is_some_and(|taken| now.millis_since(taken) <= TAKEN_MILLIS) {
            self.rate = (self.rate * RISE).min(RATE_MAX);
        }
        self.failed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(0).plus_millis(millis)
    }

    /// Takes all that there is for so many milliseconds, each answered in `micros`; how many that was.
    fn run(spare: &mut Spare, from: u64, millis: u64, micros: u64) -> u64 {
        let mut taken = 0;
        for now in from..from + millis {
            // Somebody else's, who waits.
            spare.answered(at(now), micros);
            for _ in 0..spare.room(at(now)) {
                assert!(spare.take());
                taken += 1;
                spare.answered(at(now), micros);
            }
        }
        assert!(!spare.take(), "there was no more room than was told");
        taken
    }

    #[test]
    fn an_origin_that_stays_fast_is_asked_more_and_one_that_gets_slow_less() {
        let mut spare = Spare::default();
        let first = run(&mut spare, 0, 1000, 500);
        assert!((200..500).contains(&first), "{first}");
        let rate = spare.rate();
        assert!(rate > 1.4 * RATE_FIRST, "{rate}");
        run(&mut spare, 1000, 5000, 20_000);
        assert!(spare.rate() < rate / 4.0, "{}", spare.rate());
        run(&mut spare, 6000, 60_000, 500);
        assert!(spare.rate() > rate, "{}: it recovers", spare.rate());
        run(&mut spare, 70_000, 60_000, 500);
        assert_eq!(spare.rate(), RATE_MAX);
    }

    #[test]
    fn failures_leave_a_trickle() {
        let mut spare = Spare::default();
        for now in 0..100 {
            spare.failed();
            spare.room(at(now * 100));
        }
        assert_eq!(spare.rate(), RATE_MIN);
        while spare.take() {}
        assert_eq!(spare.room(at(10_500)), 0);
        assert_eq!(spare.room(at(11_000)), 1, "one a second");
    }

    #[test]
    fn a_share_takes_away_in_proportion_and_never_all() {
        let taken = |share: f64| {
            let mut spare = Spare::default();
            spare.set_share(share);
            run(&mut spare, 0, 1000, 500)
        };
        let all = taken(1.0);
        assert!(taken(0.5).abs_diff(all / 2) < all / 20, "{} of {all}", taken(0.5));
        assert_eq!((taken(7.0), taken(0.0)), (all, taken(SHARE_MIN)));
        assert!(taken(0.0) > all / 10);
        // An origin that fails is asked once a second, whatever the share.
        let mut spare = Spare::default();
        spare.set_share(0.0);
        (0..100).for_each(|now| {
            spare.failed();
            spare.room(at(now * 100));
        });
        assert_eq!(spare.rate(), RATE_MIN);
    }

    #[test]
    fn who_asks_nothing_gathers_a_tenth_of_a_second_and_no_higher_rate() {
        let mut spare = Spare::default();
        spare.room(at(0));
        assert!((1..1000).all(|i| spare.room(at(i * 100)) == (RATE_FIRST / 10.0) as usize));
        assert_eq!(spare.rate(), RATE_FIRST);
    }

    #[test]
    fn a_latency_that_changed_for_good_is_the_usual_one_after_ten_minutes() {
        let mut spare = Spare::default();
        run(&mut spare, 0, 1000, 500);
        for second in 1..700 {
            spare.room(at(second * 1000));
            spare.take();
            (0..20).for_each(|_| spare.answered(at(second * 1000), 20_000));
        }
        let rate = spare.rate();
        run(&mut spare, 700_000, 2000, 20_000);
        assert!(spare.rate() > rate, "{} after {rate}", spare.rate());
    }
}
