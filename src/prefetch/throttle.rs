//! How much may be guessed: a threshold that follows the waste, and how much the origin bears.
//!
//! Every [`WINDOW`] requests (or two seconds) what was fetched in vain is held against what had to be fetched anyhow. Above the budget the
//! threshold rises, below it falls a little, never under the floor: at the floor one guess in three is right, and traffic
//! without structure stays nearly as it was. Now and then a guess under the threshold is tried all the same, so that what
//! has become predictable is noticed.

use crate::clock::Mono;

/// Requests between two judgements.
pub const WINDOW: u32 = 2048;
const THRESHOLD_FIRST: f32 = 0.3;
const THRESHOLD_FLOOR: f32 = 0.3;
const THRESHOLD_MAX: f32 = 0.95;
const RISE: f32 = 0.08;
const FALL: f32 = 0.02;
/// One guess in so many under the threshold is tried; less often while hardly any is right.
const EXPLORE: u32 = 256;
const EXPLORE_POOR: u32 = 1024;
const POOR_PRECISION: f32 = 0.1;
/// Windows that smoothed counts remember, roughly.
const SMOOTHING: f32 = 0.3;

/// Milliseconds after which judgement is passed on fewer requests, so that who does harm is stopped in time.
const JUDGE_MILLIS: u64 = 2000;

/// The throttle of a core.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// What may be fetched in vain, as a part of what has to be fetched.
    budget: f32,
    threshold: f32,
    requests: u32,
    demand: u32,
    used: u32,
    wasted: u32,
    /// Smoothed over windows: fetches that had to be, and those in vain.
    needed_smooth: f32,
    wasted_smooth: f32,
    precision: f32,
    explored: u32,
    judge_at: Mono,
}

impl Throttle {
    /// A throttle with that budget.
    pub fn new(budget: f32) -> Throttle {
        Throttle {
            budget,
            threshold: THRESHOLD_FIRST,
            requests: 0,
            demand: 0,
            used: 0,
            wasted: 0,
            needed_smooth: 0.0,
            wasted_smooth: 0.0,
            precision: 0.5,
            explored: 0,
            judge_at: Mono(0),
        }
    }

    /// The least score that is let through.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether a guess is tried.
    pub fn admits(&mut self, score: f32) -> bool {
        if score >= self.threshold {
            return true;
        }
        self.explored += 1;
        let every = if self.precision < POOR_PRECISION { EXPLORE_POOR } else { EXPLORE };
        self.explored.is_multiple_of(every)
    }

    /// A request came; `miss` if it had to be fetched.
    pub fn requested(&mut self, miss: bool) {
        self.requests += 1;
        self.demand += u32::from(miss);
        if self.requests == WINDOW {
            self.judge();
        }
    }

    /// Passes judgement if it is time to; where requests alone decide nobody calls it.
    pub fn tick(&mut self, now: Mono) {
        if now >= self.judge_at {
            self.judge_at = now.plus_millis(JUDGE_MILLIS);
            if self.requests > 0 || self.wasted > 0 {
                self.judge();
            }
        }
    }

    /// Whether hardly anything is tried any more: guesses waste as much as they may, and the threshold is as high as it gets.
    pub fn resting(&self) -> bool {
        self.threshold >= THRESHOLD_MAX
    }

    /// A prefetch was of use.
    pub fn used(&mut self) {
        self.used += 1;
    }

    /// A prefetch was in vain.
    pub fn wasted(&mut self) {
        self.wasted += 1;
    }

    fn judge(&mut self) {
        let smooth = |before: f32, now: f32| before + SMOOTHING * (now - before);
        self.needed_smooth = smooth(self.needed_smooth, (self.demand + self.used) as f32);
        self.wasted_smooth = smooth(self.wasted_smooth, self.wasted as f32);
        let resolved = self.used + self.wasted;
        if resolved > 0 {
            self.precision = smooth(self.precision, self.used as f32 / resolved as f32);
        }
        let over = self.wasted_smooth > self.budget * self.needed_smooth;
        let next = self.threshold + if over { RISE } else { -FALL };
        self.threshold = next.clamp(THRESHOLD_FLOOR, THRESHOLD_MAX);
        (self.requests, self.demand, self.used, self.wasted) = (0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(throttle: &mut Throttle, windows: u32, used: u32, wasted: u32) {
        for _ in 0..windows {
            (0..used).for_each(|_| throttle.used());
            (0..wasted).for_each(|_| throttle.wasted());
            (0..WINDOW).for_each(|i| throttle.requested(i % 4 == 0));
        }
    }

    #[test]
    fn waste_over_the_budget_raises_the_threshold_and_thrift_lowers_it_to_the_floor() {
        let mut throttle = Throttle::new(0.1);
        run(&mut throttle, 20, 100, 200);
        assert_eq!(throttle.threshold(), THRESHOLD_MAX);
        run(&mut throttle, 100, 100, 20);
        assert_eq!(throttle.threshold(), THRESHOLD_FLOOR);
    }

    #[test]
    fn few_requests_that_waste_are_stopped_within_half_a_minute_and_tried_again_later() {
        let mut throttle = Throttle::new(0.1);
        let second = |seconds: u64| Mono(0).plus_millis(seconds * 1000);
        for now in 0..30 {
            (0..10).for_each(|_| throttle.requested(true));
            (0..10).for_each(|_| throttle.wasted());
            throttle.tick(second(now));
        }
        assert!(throttle.resting());
        for now in 30..180 {
            (0..10).for_each(|_| throttle.requested(true));
            (0..3).for_each(|_| throttle.used());
            throttle.tick(second(now));
        }
        assert!(!throttle.resting() && throttle.threshold() < 0.5);
    }

    #[test]
    fn under_the_threshold_a_few_are_tried() {
        let mut throttle = Throttle::new(0.1);
        assert!(throttle.admits(0.9));
        let tried = (0..10_240).filter(|_| throttle.admits(0.01)).count();
        assert_eq!(tried, 40);
        run(&mut throttle, 20, 0, 50);
        let tried = (0..10_240).filter(|_| throttle.admits(0.01)).count();
        assert_eq!(tried, 10, "fewer while nothing is right");
    }
}
