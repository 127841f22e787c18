//! The dice of the generator: which key comes next, and when.

/// A small, fast, seeded generator (wyrand); the same seed gives the same load.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(mix(seed))
    }

    /// 64 even bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    }

    /// Below `bound`, which is not 0, evenly (to within 2^-64).
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// In [0, 1).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The time to the next arrival of a Poisson stream whose mean gap is `mean`.
    #[inline]
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }

    /// Normal with mean 0 and deviation 1 (Marsaglia's polar method).
    pub fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }
}

/// Scrambles a number: neighbours come out far apart (splitmix64's finish).
#[inline]
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How keys are picked from `count` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Each as likely as the other.
    Uniform,
    /// The n-th in proportion to `1 / n^exponent`; the first key is the hottest.
    Zipf {
        /// Above 0.
        exponent: f64,
    },
    /// Around a middle.
    Gaussian {
        /// Rank of the middle; half of the keys if none.
        median: Option<f64>,
        /// A sixth of the keys if none.
        deviation: Option<f64>,
    },
    /// One after the other, all connections together.
    Sequential,
    /// One after the other, each connection within its own part of the keys.
    Parallel,
}

/// A pattern over a number of keys, with where it stands.
#[derive(Clone, Debug)]
pub struct Keys {
    count: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Uniform,
    Zipf(Zipf),
    Gaussian { median: f64, deviation: f64 },
    Sequential { next_of_node: Vec<u64> },
    Parallel { next_of_lane: Vec<u64>, lanes_of_node: usize },
}

/// Who shares the keys.
#[derive(Clone, Copy, Debug)]
pub struct Askers {
    /// Connections to a node; those of a node have neighbouring numbers.
    pub lanes_of_node: usize,
    /// Connections in all.
    pub lanes: usize,
    pub nodes: usize,
}

/// Draws by chance that may miss the asker's own keys before the next of them is taken instead.
const DRAWS_MAX: u64 = 64;

/// Who asks for a key.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its connection.
    pub lane: usize,
    /// The node that its connection goes to.
    pub node: usize,
}

impl Keys {
    /// `pattern` over `count` keys (at least 1).
    pub fn new(pattern: Pattern, count: u64, askers: Askers) -> Keys {
        assert!(count > 0);
        let Askers { lanes_of_node, lanes, nodes } = askers;
        let kind = match pattern {
            Pattern::Uniform => Kind::Uniform,
            Pattern::Zipf { exponent } => Kind::Zipf(Zipf::new(count, exponent)),
            Pattern::Gaussian { median, deviation } => Kind::Gaussian {
                median: median.unwrap_or(count as f64 / 2.0),
                deviation: deviation.unwrap_or(count as f64 / 6.0),
            },
            Pattern::Sequential => Kind::Sequential { next_of_node: vec![0; nodes] },
            Pattern::Parallel => {
                let starts = (0..lanes).map(|lane| share(count, lane, lanes_of_node).0);
                Kind::Parallel { next_of_lane: starts.collect(), lanes_of_node }
            }
        };
        Keys { count, kind }
    }

    /// The rank of the next key, below the count.
    #[inline]
    pub fn draw(&mut self, dice: &mut Dice, asker: Asker) -> u64 {
        match &mut self.kind {
            Kind::Uniform => dice.below(self.count),
            Kind::Zipf(zipf) => zipf.draw(dice) - 1,
            Kind::Gaussian { median, deviation } => loop {
                let rank = *median + *deviation * dice.normal();
                if rank >= 0.0 && rank < self.count as f64 {
                    break rank as u64;
                }
            },
            Kind::Sequential { next_of_node } => advance(&mut next_of_node[asker.node], 0, self.count),
            Kind::Parallel { next_of_lane, lanes_of_node } => {
                let (start, end) = share(self.count, asker.lane, *lanes_of_node);
                advance(&mut next_of_lane[asker.lane], start, end)
            }
        }
    }

    /// The rank of the next key that is the asker's to ask for. There has to be one, or any key comes out.
    ///
    /// Patterns in order are followed until one comes, and within a connection's part once around. A pattern by chance may
    /// never get there: after `DRAWS_MAX` draws the next own key behind the last draw is taken.
    #[inline]
    pub fn draw_own(&mut self, dice: &mut Dice, asker: Asker, mut is_own: impl FnMut(u64) -> bool) -> u64 {
        let mut rank = self.draw(dice, asker);
        if is_own(rank) {
            return rank;
        }
        let draws = match &self.kind {
            Kind::Uniform | Kind::Zipf(_) | Kind::Gaussian { .. } => DRAWS_MAX,
            Kind::Sequential { .. } => self.count,
            Kind::Parallel { lanes_of_node, .. } => {
                let (start, end) = share(self.count, asker.lane, *lanes_of_node);
                end - start
            }
        };
        for _ in 1..draws {
            rank = self.draw(dice, asker);
            if is_own(rank) {
                return rank;
            }
        }
        (rank + 1..self.count).chain(0..=rank).find(|&rank| is_own(rank)).unwrap_or(rank)
    }
}

/// A connection's part of the keys, among those to its node: first and end, at least one key.
#[inline]
fn share(count: u64, lane: usize, lanes_of_node: usize) -> (u64, u64) {
    let (place, parts) = ((lane % lanes_of_node) as u128, lanes_of_node as u128);
    // Both are at most the count.
    let edge = |place: u128| (u128::from(count) * place / parts) as u64;
    let start = edge(place);
    (start, edge(place + 1).max(start + 1))
}

/// Takes the number `next` stands at and moves it on within `start..end`.
#[inline]
fn advance(next: &mut u64, start: u64, end: u64) -> u64 {
    let taken = *next;
    *next = if taken + 1 >= end { start } else { taken + 1 };
    taken
}

/// Zipf's law by rejection-inversion, constant time for any exponent and count.
///
/// Source: Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions" (1996).
#[derive(Clone, Debug)]
struct Zipf {
    exponent: f64,
    count: f64,
    first: f64,
    last: f64,
    sure: f64,
}

impl Zipf {
    fn new(count: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { exponent, count: count as f64, first: 0.0, last: 0.0, sure: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.count + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// From 1 to the count.
    #[inline]
    fn draw(&self, dice: &mut Dice) -> u64 {
        loop {
            let u = self.last + dice.unit() * (self.first - self.last);
            let x = self.inverse(u);
            let rank = (x + 0.5).floor().clamp(1.0, self.count);
            if rank - x <= self.sure || u >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the weight from 1 to `x`.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let bend = (1.0 - self.exponent) * log;
        // (e^bend - 1) / bend, which tends to 1 as the exponent tends to 1.
        log * if bend.abs() > 1e-8 { bend.exp_m1() / bend } else { 1.0 + bend / 2.0 }
    }

    #[inline]
    fn inverse(&self, area: f64) -> f64 {
        let bend = (area * (1.0 - self.exponent)).max(-1.0);
        let log = area * if bend.abs() > 1e-8 { bend.ln_1p() / bend } else { 1.0 - bend / 2.0 };
        log.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Asker = Asker { lane: 0, node: 0 };

    fn of(lanes_of_node: usize, nodes: usize) -> Askers {
        Askers { lanes_of_node, lanes: lanes_of_node * nodes, nodes }
    }

    /// Once, a connection whose part had none of its node's keys drew for ever.
    #[test]
    fn every_asker_gets_own_keys_however_few_there_are() {
        for pattern in [
            Pattern::Uniform,
            Pattern::Zipf { exponent: 10.0 },
            Pattern::Gaussian { median: Some(0.5), deviation: Some(1e-9) },
            Pattern::Sequential,
            Pattern::Parallel,
        ] {
            for own in [0, 3, 9] {
                let mut keys = Keys::new(pattern, 10, of(50, 2));
                let mut dice = Dice::new(1);
                for i in 0..300 {
                    let asker = Asker { lane: i % 100, node: i % 100 / 50 };
                    assert_eq!(keys.draw_own(&mut dice, asker, |rank| rank == own), own, "{pattern:?}");
                }
            }
        }
    }

    #[test]
    fn parallel_connections_of_each_node_cover_its_own_keys_once() {
        let mut keys = Keys::new(Pattern::Parallel, 1000, of(4, 2));
        let mut dice = Dice::new(1);
        for node in 0..2 {
            let is_own = |rank: u64| rank % 2 == node as u64;
            let mut seen = Vec::new();
            for lane in 0..4 {
                for _ in 0..125 {
                    let asker = Asker { lane: node * 4 + lane, node };
                    seen.push(keys.draw_own(&mut dice, asker, is_own));
                }
            }
            seen.sort_unstable();
            assert!(seen.into_iter().eq((0..1000).filter(|&rank| is_own(rank))));
        }
    }

    #[test]
    fn zipf_follows_its_law() {
        for exponent in [0.5, 0.99, 1.0, 1.3] {
            let count = 1000;
            let mut keys = Keys::new(Pattern::Zipf { exponent }, count, of(1, 1));
            let mut dice = Dice::new(7);
            let mut seen = vec![0u32; count as usize];
            let draws = 400_000;
            for _ in 0..draws {
                seen[keys.draw(&mut dice, ASKER) as usize] += 1;
            }
            let total: f64 = (1..=count).map(|n| (n as f64).powf(-exponent)).sum();
            for rank in [1usize, 2, 3, 10, 100] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / total;
                let got = f64::from(seen[rank - 1]);
                assert!(
                    (got - expected).abs() < 6.0 * expected.sqrt(),
                    "{exponent} {rank}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn every_pattern_stays_within_its_keys() {
        for pattern in [
            Pattern::Uniform,
            Pattern::Zipf { exponent: 0.99 },
            Pattern::Gaussian { median: None, deviation: None },
            Pattern::Sequential,
            Pattern::Parallel,
        ] {
            for count in [1, 2, 37] {
                let mut keys = Keys::new(pattern, count, of(5, 2));
                let mut dice = Dice::new(1);
                for i in 0..500 {
                    assert!(keys.draw(&mut dice, Asker { lane: i % 10, node: i % 2 }) < count, "{pattern:?}");
                }
            }
        }
    }

    #[test]
    fn parallel_connections_cover_all_keys_without_meeting() {
        let mut keys = Keys::new(Pattern::Parallel, 10, of(3, 1));
        let mut dice = Dice::new(1);
        let mut seen = vec![0; 10];
        for lane in 0..3 {
            let share = 10 * (lane + 1) / 3 - 10 * lane / 3;
            for _ in 0..share {
                seen[keys.draw(&mut dice, Asker { lane, node: 0 }) as usize] += 1;
            }
        }
        assert_eq!(seen, vec![1; 10]);
    }

    #[test]
    fn exponential_gaps_have_the_asked_mean() {
        let mut dice = Dice::new(3);
        let mean = (0..200_000).map(|_| dice.exponential(50.0)).sum::<f64>() / 200_000.0;
        assert!((mean - 50.0).abs() < 0.6, "{mean}");
    }
}
