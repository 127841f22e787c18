//! What followed what: a row per key with the four keys that most often came within the next few requests of the same client.
//!
//! ```text
//! row  32 bytes   key u32 | visits u8 | heat u8 | - | 4 x (follower u32, weight u8, worth u8)
//! ```
//! `weight` is the smoothed probability that the follower comes within [`LAGS`] requests, in 255ths. `worth` is how often
//! fetching it for this row's sake was of use, smoothed, in 16ths, with the number of tries beside it. Rows stand in sets of
//! four by the hash of their key; in a full set the row with the least heat gives way, and each time one is asked to, the
//! others cool down.

use super::{KeyId, NO_KEY};

/// How far behind a key another still counts as following it.
pub const LAGS: usize = 4;
/// Bytes of a row.
pub const ROW_BYTES: usize = size_of::<Row>();
/// How much less each further lag counts.
const LAG_DECAY: f32 = 0.8;
/// A visit counts for at least so much.
const ALPHA_MIN: f32 = 0.1;
const FOLLOWERS: usize = 4;
const WAYS: usize = 4;
/// Trials that worth remembers; more are not told apart.
const TRIES_MAX: u8 = 15;
/// The latest trial counts for at least so much.
const WORTH_STEP_MIN: f32 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    key: KeyId,
    visits: u8,
    heat: u8,
    followers: [Follower; FOLLOWERS],
}

/// A key that followed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, packed(2))]
struct Follower {
    key: KeyId,
    weight: u8,
    /// Tries in the lower half, use of them in the upper.
    worth: u8,
}

const NOBODY: Follower = Follower { key: NO_KEY, weight: 0, worth: 0 };
const NO_ROW: Row = Row { key: NO_KEY, visits: 0, heat: 0, followers: [NOBODY; FOLLOWERS] };

impl Row {
    fn guesses(&self) -> impl Iterator<Item = Guess> {
        self.followers.iter().filter(|follower| follower.key != NO_KEY).map(|follower| Guess {
            key: follower.key,
            weight: f32::from(follower.weight) / 255.0,
            visits: self.visits,
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
    /// Visits of the row, up to 255.
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
}

impl Rows {
    /// As many rows as fit into so many bytes; at least one set.
    pub fn with_bytes(bytes: usize) -> Rows {
        Rows { sets: vec![[NO_ROW; WAYS]; (bytes / (WAYS * ROW_BYTES)).max(1)] }
    }

    /// Takes over the rows of others; where there is no room for all, those with the most heat.
    pub fn adopt(&mut self, others: &Rows) {
        for row in others.sets.iter().flatten().filter(|row| row.key != NO_KEY) {
            let set = self.set_of(row.key);
            let coldest = self.sets[set].iter_mut().min_by_key(|row| (row.key != NO_KEY, row.heat));
            let coldest = coldest.expect("there are four");
            if coldest.key == NO_KEY || coldest.heat < row.heat {
                *coldest = *row;
            }
        }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.sets.capacity() * WAYS * ROW_BYTES
    }

    /// A visit of a key: what it knows of its followers fades a little, and `each` is told about them as they were.
    pub fn visit(&mut self, key: KeyId, mut each: impl FnMut(Guess)) {
        let Some(row) = self.row_mut(key) else { return };
        row.heat = row.heat.saturating_add(1);
        row.guesses().for_each(&mut each);
        row.visits = row.visits.saturating_add(1);
        let kept = 1.0 - alpha(row.visits);
        for follower in &mut row.followers {
            follower.weight = (f32::from(follower.weight) * kept).round() as u8;
        }
    }

    /// What is known of a key's followers, looked at only; how often it was visited, up to 255.
    pub fn look(&self, key: KeyId, each: impl FnMut(Guess)) -> u8 {
        let Some(row) = self.sets[self.set_of(key)].iter().find(|row| row.key == key) else { return 0 };
        row.guesses().for_each(each);
        row.visits
    }

    /// `follower` came `lag` (from 1) requests after `key`; a row is made if there is none.
    pub fn learn(&mut self, key: KeyId, follower: KeyId, lag: usize) {
        let row = match self.row_mut(key) {
            Some(row) => row,
            None => match self.make_row(key) {
                Some(row) => row,
                None => return,
            },
        };
        let gain = 255.0 * alpha(row.visits) * LAG_DECAY.powi(lag as i32 - 1);
        let slot = row.followers.iter_mut().find(|slot| slot.key == follower);
        match slot {
            Some(slot) => slot.weight = (f32::from(slot.weight) + gain).round().min(255.0) as u8,
            None => {
                let least = row.followers.iter_mut().min_by_key(|slot| slot.weight).expect("there are four");
                // Who would come in weaker than all does not push out anybody; a step of the scale is no difference.
                if least.key == NO_KEY || f32::from(least.weight) <= gain + 1.0 {
                    *least = Follower { key: follower, weight: gain.round().min(255.0) as u8, worth: 0 };
                }
            }
        }
    }

    /// A prefetch of `follower` for `key`'s sake came to its end: 1 of use, 0 of none.
    pub fn rate(&mut self, key: KeyId, follower: KeyId, outcome: f32) {
        let Some(row) = self.row_mut(key) else { return };
        let Some(slot) = row.followers.iter_mut().find(|slot| slot.key == follower) else { return };
        let tries = (slot.worth & 15).saturating_add(1).min(TRIES_MAX);
        let before = f32::from(slot.worth >> 4) / 15.0;
        let step = (1.0 / f32::from(tries)).max(WORTH_STEP_MIN);
        let part = before + step * (outcome - before);
        slot.worth = ((part * 15.0).round() as u8) << 4 | tries;
    }

    fn row_mut(&mut self, key: KeyId) -> Option<&mut Row> {
        let set = self.set_of(key);
        self.sets[set].iter_mut().find(|row| row.key == key)
    }

    /// A row for a key that has none, unless all in its set are warmer; those cool down then.
    fn make_row(&mut self, key: KeyId) -> Option<&mut Row> {
        let at = self.set_of(key);
        let set = &mut self.sets[at];
        let coldest =
            set.iter().enumerate().min_by_key(|(_, row)| (row.key != NO_KEY, row.heat)).map(|(i, _)| i)?;
        let keep = set[coldest].key != NO_KEY && set[coldest].heat > 1;
        // Those that stay cool down, faster while one is refused for their sake.
        let cooled = if keep { 8 } else { 32 };
        set.iter_mut().for_each(|row| row.heat -= row.heat.div_ceil(cooled).min(row.heat));
        if keep {
            return None;
        }
        set[coldest] = Row { key, visits: 1, heat: 1, followers: [NOBODY; FOLLOWERS] };
        Some(&mut set[coldest])
    }

    fn set_of(&self, key: KeyId) -> usize {
        let hash = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((hash * self.sets.len() as u64) >> 32) as usize
    }
}

/// What the latest visit counts for.
fn alpha(visits: u8) -> f32 {
    (1.0 / (f32::from(visits) + 1.0)).max(ALPHA_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(rows: &mut Rows, key: KeyId) -> Vec<Guess> {
        let mut all = Vec::new();
        rows.visit(key, |guess| all.push(guess));
        all
    }

    #[test]
    fn a_row_is_32_bytes_and_memory_is_kept_to() {
        assert_eq!(ROW_BYTES, 32);
        assert_eq!(Rows::with_bytes(12_800).heap_bytes(), 12_800);
        assert_eq!(Rows::with_bytes(0).heap_bytes(), 128);
    }

    #[test]
    fn weights_become_the_probability_of_following() {
        let mut rows = Rows::with_bytes(1 << 10);
        // 7 follows always, 8 three times out of four, at the same lag.
        for i in 0..400 {
            rows.visit(1, |_| ());
            rows.learn(1, 7, 1);
            if i % 4 != 0 {
                rows.learn(1, 8, 1);
            }
        }
        let found = guesses(&mut rows, 1);
        let weight =
            |key| found.iter().find(|guess| guess.key == key).map(|guess| guess.weight).expect("known");
        assert!(weight(7) > 0.95, "{}", weight(7));
        assert!((weight(8) - 0.75).abs() < 0.15, "{}", weight(8));
    }

    #[test]
    fn farther_followers_count_less_and_the_weakest_gives_way() {
        let mut rows = Rows::with_bytes(1 << 10);
        for follower in 10..15 {
            rows.visit(1, |_| ());
            rows.learn(1, follower, 1);
        }
        let keys: Vec<KeyId> = guesses(&mut rows, 1).iter().map(|guess| guess.key).collect();
        assert!(keys.len() == 4 && keys.contains(&14), "{keys:?}");
        let mut rows = Rows::with_bytes(1 << 10);
        rows.learn(1, 2, 1);
        rows.learn(1, 3, 4);
        let found = guesses(&mut rows, 1);
        assert!(found[0].weight > found[1].weight * 1.5, "{found:?}");
    }

    #[test]
    fn trials_are_remembered_with_their_outcome() {
        let mut rows = Rows::with_bytes(1 << 10);
        rows.learn(1, 2, 1);
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
        let mut rows = Rows::with_bytes(64 * ROW_BYTES);
        for key in 0..40 {
            rows.learn(key, key + 1, 1);
            (0..key % 8).for_each(|_| rows.visit(key, |_| ()));
        }
        let kept =
            |rows: &mut Rows| (0..40).filter(|&key| !guesses(rows, key).is_empty()).collect::<Vec<_>>();
        let before = kept(&mut rows.clone());
        let mut large = Rows::with_bytes(1000 * ROW_BYTES);
        large.adopt(&rows);
        assert_eq!(kept(&mut large.clone()), before);
        let mut small = Rows::with_bytes(4 * ROW_BYTES);
        small.adopt(&large);
        let hottest = kept(&mut small);
        assert_eq!(hottest.len(), 4);
        assert!(hottest.iter().all(|key| key % 8 >= 6), "{hottest:?}");
    }

    #[test]
    fn hot_rows_stay_and_cold_ones_give_way() {
        let mut rows = Rows::with_bytes(4 * ROW_BYTES);
        rows.learn(1, 2, 1);
        for i in 0..1000 {
            rows.visit(1, |_| ());
            rows.learn(1000 + i, 5, 1);
        }
        assert_eq!(guesses(&mut rows, 1).len(), 1);
        (0..200).for_each(|i| rows.learn(5000 + i, 5, 1));
        assert!(guesses(&mut rows, 1).is_empty(), "nobody is hot for ever");
    }
}
