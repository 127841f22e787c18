//! How much may be guessed: a threshold that follows the waste, and how much the origin bears.
//!
//! Every [`WINDOW`] requests what was fetched in vain is held against what had to be fetched anyhow. Above the budget the
//! threshold rises, below it falls a little, never under the floor: at the floor one guess in four is right, and traffic
//! without structure stays nearly as it was. Now and then a guess under the threshold is tried all the same, so that what
//! has become predictable is noticed.

/// Requests between two judgements.
pub const WINDOW: u32 = 2048;
const THRESHOLD_FIRST: f32 = 0.3;
const THRESHOLD_FLOOR: f32 = 0.25;
const THRESHOLD_MAX: f32 = 0.95;
const RISE: f32 = 0.08;
const FALL: f32 = 0.02;
/// One guess in so many under the threshold is tried; less often while hardly any is right.
const EXPLORE: u32 = 256;
const EXPLORE_POOR: u32 = 1024;
const POOR_PRECISION: f32 = 0.1;
/// Windows that smoothed counts remember, roughly.
const SMOOTHING: f32 = 0.3;

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
