//! How much is asked of each shard: one request in so many is counted, so that all of them together cost next to nothing.
//!
//! A request costs a decrement. The one that is counted is hashed to its slot once more, which the path of a request would not
//! do for this, and touches one line of 4 KiB. A shard that is asked for often is known exactly enough within a minute; of one
//! that is asked for less than once a second little is known, and nothing depends on it.

use crate::hash::slot_of;
use crate::ids::SHARD_COUNT;

/// One request in so many is counted: a prime, so that of clients who ask in rounds not always the same key is met.
pub const SAMPLE: u32 = 31;

/// What one core counted.
#[derive(Clone, Debug)]
pub struct Heat {
    left: u32,
    counts: Box<[u32; SHARD_COUNT as usize]>,
}

impl Default for Heat {
    fn default() -> Heat {
        Heat { left: SAMPLE, counts: Box::new([0; SHARD_COUNT as usize]) }
    }
}

impl Heat {
    /// A request is done by the owner of its key.
    #[inline]
    pub fn request(&mut self, key: &[u8]) {
        self.left -= 1;
        if self.left == 0 {
            self.count(key);
        }
    }

    #[cold]
    fn count(&mut self, key: &[u8]) {
        self.left = SAMPLE;
        // What is about no key is about no shard.
        if !key.is_empty() {
            let count = &mut self.counts[usize::from(slot_of(key).shard().number())];
            *count = count.wrapping_add(1);
        }
    }

    /// Of each shard how many requests there were since an earlier moment of the same core, about.
    pub fn since<'a>(&'a self, before: &'a Heat) -> impl Iterator<Item = u64> + 'a {
        let counts = self.counts.iter().zip(before.counts.iter());
        counts.map(|(now, before)| u64::from(now.wrapping_sub(*before)) * u64::from(SAMPLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_known_by_its_part_of_the_requests_whatever_rounds_they_come_in() {
        let mut heat = Heat::default();
        let before = heat.clone();
        let shard = |key: &str| usize::from(slot_of(key.as_bytes()).shard().number());
        let (hot, cold) = ("hot", "cold");
        assert_ne!(shard(hot), shard(cold));
        // Rounds of sixteen, one of them for the cold key; and requests that are about no key.
        for i in 0..310_000 {
            heat.request(if i % 16 == 7 { cold.as_bytes() } else { hot.as_bytes() });
        }
        let counted: Vec<u64> = heat.since(&before).collect();
        assert_eq!(counted.iter().sum::<u64>(), 310_000);
        let part = counted[shard(cold)] as f64 / 310_000.0;
        assert!((part * 16.0 - 1.0).abs() < 0.01, "{part}");
        let middle = heat.clone();
        (0..31_000).for_each(|_| heat.request(b""));
        assert_eq!(heat.since(&middle).sum::<u64>(), 0);
    }
}
