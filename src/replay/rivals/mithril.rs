//! Mithril: associations of keys that miss seldom. (Yang, Karimi, Sæmundsson, Wildani, Vigfusson: MITHRIL: mining sporadic
//! associations for cache prefetching, SoCC 2017.)
//!
//! 1. Time is the number of misses. A miss writes its time beside its key in the recording table.
//! 2. A key with as many times as [`SUPPORT_MIN`] moves to the mining table; one that gathers more than [`SUPPORT_MAX`] there
//!    is frequent, which is for the cache to know, and leaves.
//! 3. When the mining table is full its rows are laid in the order of their first times. Two rows are associated if they
//!    have as many times and each pair of these is at most [`LOOKAHEAD`] apart, one of them as near as can be or the second row
//!    the first that fits.
//! 4. The prefetch table keeps the last [`PARTNERS`] partners of a key; a request has them fetched.

use super::table::Table;
use std::collections::HashMap;

const SUPPORT_MIN: usize = 2;
const SUPPORT_MAX: usize = 8;
const LOOKAHEAD: u32 = 20;
/// Rows of the mining table.
const MINING_ROWS: usize = 1024;
const PARTNERS: usize = 2;

#[derive(Clone, Copy, Default)]
struct Times {
    len: u8,
    times: [u32; SUPPORT_MIN],
}

struct Row {
    key: u32,
    times: Vec<u32>,
}

/// Mithril at work.
pub struct Mithril {
    clock: u32,
    recording: Table<Times>,
    mining: Vec<Row>,
    /// Where each key stands in the mining table.
    places: HashMap<u32, usize>,
    /// Keys, one more than their ids.
    partners: Table<[u32; PARTNERS]>,
}

impl Mithril {
    pub fn new(bytes: usize) -> Mithril {
        let rest = bytes.saturating_sub(MINING_ROWS * (4 + 4 * SUPPORT_MAX));
        Mithril {
            clock: 0,
            recording: Table::with_bytes(rest / 2),
            mining: Vec::new(),
            places: HashMap::new(),
            partners: Table::with_bytes(rest / 2),
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.recording.heap_bytes() + self.partners.heap_bytes() + MINING_ROWS * (4 + 4 * SUPPORT_MAX)
    }

    pub fn observe(&mut self, id: u32, hit: bool, wishes: &mut Vec<u32>) {
        if !hit {
            self.record(id);
        }
        if let Some(partners) = self.partners.get(id) {
            wishes.extend(partners.iter().filter(|key| **key > 0).map(|key| *key - 1));
        }
    }

    fn record(&mut self, id: u32) {
        self.clock += 1;
        if let Some(&place) = self.places.get(&id) {
            if self.mining[place].times.len() < SUPPORT_MAX {
                self.mining[place].times.push(self.clock);
            } else {
                self.leave(place);
            }
            return;
        }
        let times = self.recording.get_or_make(id);
        times.times[usize::from(times.len)] = self.clock;
        times.len += 1;
        if usize::from(times.len) == SUPPORT_MIN {
            let times = times.times.to_vec();
            self.recording.remove(id);
            self.places.insert(id, self.mining.len());
            self.mining.push(Row { key: id, times });
            if self.mining.len() == MINING_ROWS {
                self.mine();
            }
        }
    }

    fn leave(&mut self, place: usize) {
        let row = self.mining.swap_remove(place);
        self.places.remove(&row.key);
        if let Some(moved) = self.mining.get(place) {
            self.places.insert(moved.key, place);
        }
    }

    fn mine(&mut self) {
        let mut rows = std::mem::take(&mut self.mining);
        self.places.clear();
        rows.sort_unstable_by_key(|row| row.times[0]);
        for (i, row) in rows.iter().enumerate() {
            let mut first = true;
            for other in &rows[i + 1..] {
                if other.times[0] - row.times[0] > LOOKAHEAD {
                    break;
                }
                if other.times.len() != row.times.len() {
                    continue;
                }
                let apart = |(a, b): (&u32, &u32)| a.abs_diff(*b);
                let pairs = || row.times.iter().zip(&other.times).map(apart);
                if pairs().all(|apart| apart <= LOOKAHEAD) && (first || pairs().any(|apart| apart == 1)) {
                    first = false;
                    let partners = self.partners.get_or_make(row.key);
                    if !partners.contains(&(other.key + 1)) {
                        partners.rotate_right(1);
                        partners[0] = other.key + 1;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_miss_as_often_and_at_the_same_times_become_partners() {
        let mut mithril = Mithril::new(1 << 20);
        let mut wishes = Vec::new();
        // 2i and 2i + 1 miss together, twice, far from each other.
        for _ in 0..2 {
            for i in 0..600 {
                mithril.observe(2 * i, false, &mut wishes);
                mithril.observe(2 * i + 1, false, &mut wishes);
            }
        }
        assert!(wishes.is_empty() && mithril.mining.len() < MINING_ROWS, "mined once");
        mithril.observe(20, true, &mut wishes);
        assert!(wishes.contains(&21), "{wishes:?}");
        wishes.clear();
        mithril.observe(5000, true, &mut wishes);
        assert!(wishes.is_empty());
    }

    #[test]
    fn who_misses_often_is_left_to_the_cache() {
        let mut mithril = Mithril::new(1 << 20);
        (0..100).for_each(|_| mithril.observe(7, false, &mut Vec::new()));
        assert!(mithril.mining.len() <= 1 && mithril.places.len() == mithril.mining.len());
    }
}
