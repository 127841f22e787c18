//! What followed what: a row per key with the key that most often came next, of those of the same client that were not held.
//!
//! ```text
//! row  10 bytes   key u24 | visits u4, heat u4 | follower u32, weight u8, worth u8
//! ```
//! `weight` is the smoothed probability that the follower comes next, in 255ths. `worth` is how often fetching it for this
//! row's sake was of use, smoothed, in 16ths, with the number of tries beside it. Rows stand in sets of six by the hash of
//! their key, so that a set is about a line of the processor's cache; in a full set the row with the least heat gives way, and
//! each time one is asked to, the others cool down.
//!
//! Of a key a row keeps what its set does not say: sets are ranges of the hash, which can be undone, so that 24 bits beside the
//! set are the whole key, from 257 sets on. In smaller tables they are nearly.

use super::{KeyId, NO_KEY};

/// Bytes of a row.
pub const ROW_BYTES: usize = size_of::<Row>();
/// A visit counts for at least so much.
const ALPHA_MIN: f32 = 0.1;
const FOLLOWERS: usize = 1;
const WAYS: usize = 6;
/// Trials that worth remembers; more are not told apart.
const TRIES_MAX: u8 = 15;
/// The latest trial counts for at least so much.
const WORTH_STEP_MIN: f32 = 0.25;
/// Visits and heat that a row tells apart.
const COUNT_MAX: u8 = 15;
/// An odd number, by which keys are mixed, and the one that undoes it.
const MIX: u32 = 0x9e37_79b1;
const UNMIX: u32 = inverse(MIX);

/// The number whose product with an odd one is 1.
const fn inverse(odd: u32) -> u32 {
    // Each step doubles the bits that are right; an odd number is its own inverse in three.
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    /// What the set does not say of the key, little-endian.
    rest: [u8; 3],
    /// Visits in the lower half, heat in the upper; no visits: nobody's row.
    counts: u8,
    followers: [Follower; FOLLOWERS],
}

/// A key that followed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Follower {
    /// Little-endian, so that rows have no gaps.
    key: [u8; 4],
    weight: u8,
    /// Tries in the lower half, use of them in the upper.
    worth: u8,
}

const NOBODY: Follower = Follower { key: NO_KEY.to_le_bytes(), weight: 0, worth: 0 };
const NO_ROW: Row = Row { rest: [0; 3], counts: 0, followers: [NOBODY; FOLLOWERS] };

impl Row {
    fn is_free(&self) -> bool {
        self.visits() == 0
    }

    fn visits(&self) -> u8 {
        self.counts & 15
    }

    fn heat(&self) -> u8 {
        self.counts >> 4
    }

    fn count(&mut self, visits: u8, heat: u8) {
        self.counts = visits.min(COUNT_MAX) | heat.min(COUNT_MAX) << 4;
    }

    fn guesses(&self) -> impl Iterator<Item = Guess> {
        self.followers.iter().filter(|follower| **follower != NOBODY).map(|follower| Guess {
            key: KeyId::from_le_bytes(follower.key),
            weight: f32::from(follower.weight) / 255.0,
            visits: self.visits(),
            use_part: f32::from(follower.worth >> 4) / 15.0,
            tries: follower.worth & 15,
        })
    }
}

/// What a row knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// The follower.
    pub key: KeyId,
    /// Probability by weight, 0 to 1.
    pub weight: f32,
    /// Visits of the row, up to 15.
    pub visits: u8,
    /// Part of the trials that were of use.
    pub use_part: f32,
    /// Number of trials, up to 15.
    pub tries: u8,
}

/// The rows of a core.
#[derive(Clone)]
pub struct Rows {
    sets: Vec<[Row; WAYS]>,
    /// Rows that are somebody's.
    taken: usize,
}

impl Rows {
    /// As many rows as fit into so many bytes; at least one set.
    pub fn with_bytes(bytes: usize) -> Rows {
        Rows { sets: vec![[NO_ROW; WAYS]; (bytes / (WAYS * ROW_BYTES)).max(1)], taken: 0 }
    }

    /// Takes over the rows of others; where there is no room for all, those with the most heat.
    pub fn adopt(&mut self, others: &Rows) {
        for (set, row) in
            (0..).zip(&others.sets).flat_map(|(set, rows)| rows.iter().map(move |row| (set, row)))
        {
            if row.is_free() {
                continue;
            }
            let (set, rest) = self.place_of(others.key_of(set, row.rest));
            let coldest = self.sets[set].iter_mut().min_by_key(|row| (!row.is_free(), row.heat()));
            let coldest = coldest.expect("there are some");
            self.taken += usize::from(coldest.is_free());
            if coldest.is_free() || coldest.heat() < row.heat() {
                *coldest = Row { rest, ..*row };
            }
        }
    }

    /// Which part of the rows is somebody's.
    pub fn fullness(&self) -> f32 {
        self.taken as f32 / (self.sets.len() * WAYS) as f32
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.sets.capacity() * WAYS * ROW_BYTES
    }

    /// A visit of a key that was not held, or would not have been: what its row knows fades a little, and `each` is told about it as
    /// it was.
    pub fn visit(&mut self, key: KeyId, mut each: impl FnMut(Guess)) {
        let Some(row) = self.row_mut(key) else { return };
        row.guesses().for_each(&mut each);
        row.count(row.visits() + 1, row.heat() + 1);
        let kept = 1.0 - alpha(row.visits());
        for follower in &mut row.followers {
            follower.weight = (f32::from(follower.weight) * kept).round() as u8;
        }
    }

    /// What is known of a key's followers, looked at only; how often it was visited, up to 15.
    pub fn look(&self, key: KeyId, each: impl FnMut(Guess)) -> u8 {
        let (set, rest) = self.place_of(key);
        let Some(row) = self.sets[set].iter().find(|row| row.rest == rest && !row.is_free()) else {
            return 0;
        };
        row.guesses().for_each(each);
        row.visits()
    }

    /// `follower` came after `key`; a row is made if there is none.
    pub fn learn(&mut self, key: KeyId, follower: KeyId) {
        let row = match self.row_mut(key) {
            Some(row) => row,
            None => match self.make_row(key) {
                Some(row) => row,
                None => return,
            },
        };
        let gain = 255.0 * alpha(row.visits());
        let follower = follower.to_le_bytes();
        let slot = row.followers.iter_mut().find(|slot| slot.key == follower);
        match slot {
            Some(slot) => slot.weight = (f32::from(slot.weight) + gain).round().min(255.0) as u8,
            None => {
                let least = row.followers.iter_mut().min_by_key(|slot| slot.weight).expect("there are some");
                // Who would come in weaker than all does not push out anybody; a step of the scale is no difference.
                if *least == NOBODY || f32::from(least.weight) <= gain + 1.0 {
                    *least = Follower { key: follower, weight: gain.round().min(255.0) as u8, worth: 0 };
                }
            }
        }
    }

    /// A prefetch of `follower` for `key`'s sake came to its end: 1 of use, 0 of none.
    pub fn rate(&mut self, key: KeyId, follower: KeyId, outcome: f32) {
        let Some(row) = self.row_mut(key) else { return };
        let follower = follower.to_le_bytes();
        let Some(slot) = row.followers.iter_mut().find(|slot| slot.key == follower) else { return };
        let tries = (slot.worth & 15).saturating_add(1).min(TRIES_MAX);
        let before = f32::from(slot.worth >> 4) / 15.0;
        let step = (1.0 / f32::from(tries)).max(WORTH_STEP_MIN);
        let part = before + step * (outcome - before);
        slot.worth = ((part * 15.0).round() as u8) << 4 | tries;
    }

    fn row_mut(&mut self, key: KeyId) -> Option<&mut Row> {
        let (set, rest) = self.place_of(key);
        self.sets[set].iter_mut().find(|row| row.rest == rest && !row.is_free())
    }

    /// A row for a key that has none, unless all in its set are warmer; those cool down then.
    fn make_row(&mut self, key: KeyId) -> Option<&mut Row> {
        let (set, rest) = self.place_of(key);
        let set = &mut self.sets[set];
        let coldest =
            set.iter().enumerate().min_by_key(|(_, row)| (!row.is_free(), row.heat())).map(|(i, _)| i)?;
        let keep = !set[coldest].is_free() && set[coldest].heat() > 1;
        // Those that stay cool down, faster while one is refused for their sake.
        let cooled = if keep { 8 } else { 32 };
        for row in set.iter_mut() {
            row.count(row.visits(), row.heat() - row.heat().div_ceil(cooled));
        }
        if keep {
            return None;
        }
        let row = &mut set[coldest];
        self.taken += usize::from(row.is_free());
        *row = Row { rest, ..NO_ROW };
        row.count(1, 1);
        Some(row)
    }

    /// The set of a key, and what its row there says of it.
    fn place_of(&self, key: KeyId) -> (usize, [u8; 3]) {
        let mixed = key.wrapping_mul(MIX);
        let set = ((u64::from(mixed) * self.sets.len() as u64) >> 32) as usize;
        let [a, b, c, _] = (mixed - self.first_of(set)).to_le_bytes();
        (set, [a, b, c])
    }

    /// The key of a row.
    fn key_of(&self, set: usize, [a, b, c]: [u8; 3]) -> KeyId {
        self.first_of(set).wrapping_add(u32::from_le_bytes([a, b, c, 0])).wrapping_mul(UNMIX)
    }

    /// The first mixed key of a set.
    fn first_of(&self, set: usize) -> u32 {
        ((set as u64) << 32).div_ceil(self.sets.len() as u64) as u32
    }
}

/// What the latest visit counts for.
fn alpha(visits: u8) -> f32 {
    (1.0 / (f32::from(visits) + 1.0)).max(ALPHA_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets from which on the key of a row can be told from it.
    const WHOLE_SETS: usize = 257;

    fn guesses(rows: &mut Rows, key: KeyId) -> Vec<Guess> {
        let mut all = Vec::new();
        rows.visit(key, |guess| all.push(guess));
        all
    }

    #[test]
    fn a_row_is_10_bytes_and_memory_is_kept_to() {
        assert_eq!(ROW_BYTES, 10);
        assert_eq!(Rows::with_bytes(12_000).heap_bytes(), 12_000);
        assert_eq!(Rows::with_bytes(0).heap_bytes(), 60);
    }

    #[test]
    fn a_row_tells_its_whole_key() {
        for sets in [WHOLE_SETS, 1000, 4096, 99_999] {
            let rows = Rows::with_bytes(sets * WAYS * ROW_BYTES);
            let keys =
                (0..200_000u32).map(|i| i.wrapping_mul(0x85eb_ca6b)).chain([0, 1, u32::MAX, u32::MAX - 1]);
            for key in keys {
                let (set, rest) = rows.place_of(key);
                assert_eq!(rows.key_of(set, rest), key, "in {sets} sets");
            }
        }
    }

    #[test]
    fn weights_become_the_probability_of_following() {
        for (every, part) in [(1, 1.0), (2, 0.5), (4, 0.25)] {
            let mut rows = Rows::with_bytes(1 << 10);
            let mut sum = 0.0;
            for i in 0..400 {
                rows.visit(1, |guess| sum += guess.weight / 300.0 * f32::from(u8::from(i >= 100)));
                if i % every == 0 {
                    rows.learn(1, 7);
                }
            }
            assert!((sum - part).abs() < 0.1, "{sum} for {part}");
        }
    }

    #[test]
    fn the_latest_follower_takes_the_place_of_one_that_comes_no_more() {
        let mut rows = Rows::with_bytes(1 << 10);
        for follower in [10; 5].into_iter().chain([14; 40]) {
            rows.visit(1, |_| ());
            rows.learn(1, follower);
        }
        let keys: Vec<KeyId> = guesses(&mut rows, 1).iter().map(|guess| guess.key).collect();
        assert_eq!(keys, [14]);
        for follower in 20..60 {
            rows.visit(1, |_| ());
            rows.learn(1, follower);
        }
        assert!(guesses(&mut rows, 1)[0].weight < 0.2, "nobody follows it as a rule");
    }

    #[test]
    fn trials_are_remembered_with_their_outcome() {
        let mut rows = Rows::with_bytes(1 << 10);
        rows.learn(1, 2);
        (0..20).for_each(|_| rows.rate(1, 2, 1.0));
        let guess = guesses(&mut rows, 1)[0];
        assert_eq!((guess.use_part, guess.tries), (1.0, 15));
        (0..8).for_each(|_| rows.rate(1, 2, 0.0));
        assert!(guesses(&mut rows, 1)[0].use_part < 0.2);
        rows.rate(1, 77, 1.0);
        rows.rate(99, 2, 1.0);
        assert_eq!(guesses(&mut rows, 1).len(), 1, "who is not known is not made known by a trial");
    }

    #[test]
    fn rows_move_to_other_tables_and_the_hottest_to_smaller_ones() {
        let mut rows = Rows::with_bytes(WHOLE_SETS * WAYS * ROW_BYTES);
        for key in 0..40 {
            rows.learn(key, key + 1);
            (0..key % 8).for_each(|_| rows.visit(key, |_| ()));
        }
        let kept =
            |rows: &mut Rows| (0..40).filter(|&key| !guesses(rows, key).is_empty()).collect::<Vec<_>>();
        let before = kept(&mut rows.clone());
        assert_eq!(before.len(), 40);
        let mut large = Rows::with_bytes(1000 * WAYS * ROW_BYTES);
        large.adopt(&rows);
        assert_eq!(kept(&mut large.clone()), before);
        let mut small = Rows::with_bytes(WAYS * ROW_BYTES);
        small.adopt(&large);
        // Which keys they are so small a table does not tell.
        assert!(small.sets[0].iter().all(|row| row.heat() >= 7), "{:?}", small.sets);
        assert_eq!((small.fullness(), small.taken), (1.0, WAYS));
        assert!(large.fullness() < 0.01);
    }

    #[test]
    fn hot_rows_stay_and_cold_ones_give_way() {
        let mut rows = Rows::with_bytes(WAYS * ROW_BYTES);
        rows.learn(1, 2);
        rows.visit(1, |_| ());
        for i in 0..1000 {
            rows.visit(1, |_| ());
            rows.learn(1000 + i, 5);
        }
        assert_eq!(guesses(&mut rows, 1).len(), 1);
        (0..200).for_each(|i| rows.learn(5000 + i, 5));
        assert!(guesses(&mut rows, 1).is_empty(), "nobody is hot for ever");
    }
}
