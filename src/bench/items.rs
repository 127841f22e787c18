//! The keys and values of the load: both follow from a key's rank alone, so that every hit is checked byte for byte.
//!
//! A value is the head of its key's scrambled rank (up to 8 bytes) and then a piece of one random pattern, cut where the
//! scrambled rank says. Making one is two copies; checking one is two comparisons, wherever the receive buffers cut it.

use super::dice::{Dice, mix};

/// How long values are.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// All the same.
    Fixed(usize),
    /// Evenly from the first to the last.
    Range(usize, usize),
    /// Logarithmically normal.
    Lognormal {
        /// Half are shorter.
        median: f64,
        /// Deviation of the logarithm.
        sigma: f64,
        /// None is longer.
        max: usize,
    },
    /// One of these, each as often as its weight says, to one part in 4096. There is at least one, and no weight is 0.
    Listed(Vec<(usize, u32)>),
}

impl Sizes {
    /// The longest.
    pub fn max(&self) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Range(_, last) => *last,
            Sizes::Lognormal { max, .. } => *max,
            Sizes::Listed(list) => list.iter().map(|&(size, _)| size).max().unwrap_or(0),
        }
    }
}

/// Places in the pattern where a value may begin; few, so that the pattern stays in the first-level cache.
const CUTS: u64 = 4096;
/// Sizes that a drawn distribution is reduced to.
const SIZE_STEPS: usize = 4096;

/// All keys and values.
#[derive(Debug)]
pub struct Items {
    prefix: Vec<u8>,
    /// Digits of a key's number are filled up with zeros to this width.
    width: usize,
    minimum: u64,
    sizes: Sizes,
    /// For drawn distributions: the size of each step.
    size_steps: Vec<usize>,
    pattern: Vec<u8>,
}

impl Items {
    /// Keys `prefix` + number from `minimum` on, filled up to `width` digits; values of these sizes.
    pub fn new(prefix: &[u8], width: usize, minimum: u64, sizes: Sizes) -> Items {
        let mut dice = Dice::new(0x5eed_0f7a_11e5);
        let pattern = (0..sizes.max() + CUTS as usize).map(|_| b'!' + dice.below(90) as u8).collect();
        let size_steps = match &sizes {
            Sizes::Lognormal { median, sigma, max } => (0..SIZE_STEPS)
                .map(|_| (median * (sigma * dice.normal()).exp()).round().clamp(1.0, *max as f64) as usize)
                .collect(),
            Sizes::Listed(list) => spread_out(list),
            Sizes::Fixed(_) | Sizes::Range(..) => Vec::new(),
        };
        Items { prefix: prefix.to_vec(), width, minimum, sizes, size_steps, pattern }
    }

    /// The longest value.
    pub fn value_bytes_max(&self) -> usize {
        self.sizes.max()
    }

    /// Bytes of the key of this rank.
    #[inline]
    pub fn key_bytes(&self, rank: u64) -> usize {
        let number = self.minimum + rank;
        let digits = if number == 0 { 1 } else { number.ilog10() as usize + 1 };
        self.prefix.len() + digits.max(self.width)
    }

    /// Appends the key of this rank.
    #[inline]
    pub fn write_key(&self, rank: u64, into: &mut Vec<u8>) {
        let start = into.len();
        let len = self.key_bytes(rank);
        into.extend_from_slice(&self.prefix);
        into.resize(start + len, b'0');
        let mut number = self.minimum + rank;
        for place in into[start + self.prefix.len()..].iter_mut().rev() {
            if number == 0 {
                break;
            }
            *place = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// Whether this is the key of this rank.
    #[inline]
    pub fn is_key(&self, rank: u64, key: &[u8]) -> bool {
        let mut number = self.minimum + rank;
        key.len() == self.key_bytes(rank)
            && key.strip_prefix(self.prefix.as_slice()).is_some_and(|digits| {
                digits.iter().rev().all(|&digit| {
                    let right = digit == b'0' + (number % 10) as u8;
                    number /= 10;
                    right
                })
            })
    }

    /// Bytes of the value of this rank.
    #[inline]
    pub fn value_bytes(&self, rank: u64) -> usize {
        match self.sizes {
            Sizes::Fixed(size) => size,
            Sizes::Range(first, last) => first + (mix(!rank) % (last - first + 1) as u64) as usize,
            Sizes::Lognormal { .. } | Sizes::Listed(_) => self.size_steps[mix(!rank) as usize % SIZE_STEPS],
        }
    }

    /// Appends the value of this rank.
    #[inline]
    pub fn write_value(&self, rank: u64, into: &mut Vec<u8>) {
        let size = self.value_bytes(rank);
        let (head, cut) = head_and_cut(rank);
        let head_len = size.min(8);
        into.extend_from_slice(&head[..head_len]);
        into.extend_from_slice(&self.pattern[cut..cut + size - head_len]);
    }

    /// Whether `piece` is what the value of this rank holds from `start` on.
    #[inline]
    pub fn holds(&self, rank: u64, start: usize, piece: &[u8]) -> bool {
        let (head, cut) = head_and_cut(rank);
        let head_len = self.value_bytes(rank).min(8);
        let from_head = head_len.saturating_sub(start).min(piece.len());
        let (first, rest) = piece.split_at(from_head);
        let rest_start = cut + (start + from_head) - head_len;
        let expected = self.pattern.get(rest_start..rest_start + rest.len());
        first == &head[start.min(head_len)..][..from_head] && expected == Some(rest)
    }
}

/// Each size in as many of the steps as its weight says.
fn spread_out(list: &[(usize, u32)]) -> Vec<usize> {
    let all: u64 = list.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let mut steps = Vec::with_capacity(SIZE_STEPS);
    let mut weight_so_far = 0;
    for &(size, weight) in list {
        weight_so_far += u64::from(weight);
        steps.resize((SIZE_STEPS as u64 * weight_so_far).div_ceil(all.max(1)) as usize, size);
    }
    steps
}

/// The first bytes of a value (letters, so that text protocols show them) and where the rest is cut from the pattern.
#[inline]
fn head_and_cut(rank: u64) -> ([u8; 8], usize) {
    let scrambled = mix(rank);
    let letters = (scrambled & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161;
    (letters.to_le_bytes(), ((scrambled >> 20) % CUTS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_recognised_however_it_is_cut_and_no_other_is() {
        for sizes in [
            Sizes::Fixed(0),
            Sizes::Fixed(3),
            Sizes::Fixed(100),
            Sizes::Range(1, 40),
            Sizes::Lognormal { median: 30.0, sigma: 1.0, max: 500 },
            Sizes::Listed(vec![(5, 1), (60, 2)]),
        ] {
            let items = Items::new(b"key:", 12, 0, sizes.clone());
            for rank in 0..50 {
                let mut value = Vec::new();
                items.write_value(rank, &mut value);
                assert_eq!(value.len(), items.value_bytes(rank));
                assert!(value.len() <= items.value_bytes_max());
                for cut in 0..=value.len() {
                    assert!(items.holds(rank, 0, &value[..cut]) && items.holds(rank, cut, &value[cut..]));
                }
                for i in 0..value.len() {
                    let mut wrong = value.clone();
                    wrong[i] ^= 1;
                    assert!(!items.holds(rank, 0, &wrong), "{sizes:?} {i}");
                }
                if value.len() > 8 {
                    assert!(!items.holds(rank + 1, 0, &value));
                }
            }
        }
    }

    #[test]
    fn listed_sizes_come_as_often_as_they_weigh() {
        let items = Items::new(b"key:", 12, 0, Sizes::Listed(vec![(10, 3), (2000, 1)]));
        let mut counts = [0; 2];
        for rank in 0..40_000 {
            match items.value_bytes(rank) {
                10 => counts[0] += 1,
                2000 => counts[1] += 1,
                other => panic!("{other} is not in the list"),
            }
        }
        assert!((29_400..30_600).contains(&counts[0]), "{counts:?}");
        assert_eq!(items.value_bytes_max(), 2000);
    }

    #[test]
    fn keys_are_filled_up_and_counted() {
        let items = Items::new(b"key:", 12, 5, Sizes::Fixed(1));
        let mut key = Vec::new();
        items.write_key(37, &mut key);
        assert_eq!(key, b"key:000000000042");
        let items = Items::new(b"memtier-", 0, 0, Sizes::Fixed(1));
        for (rank, expected) in
            [(0, "memtier-0"), (9, "memtier-9"), (10, "memtier-10"), (12345, "memtier-12345")]
        {
            let mut key = Vec::new();
            items.write_key(rank, &mut key);
            assert_eq!(key, expected.as_bytes());
            assert_eq!(key.len(), items.key_bytes(rank));
            assert!(items.is_key(rank, &key) && !items.is_key(rank + 1, &key));
            key[0] ^= 1;
            assert!(!items.is_key(rank, &key), "another prefix");
        }
    }
}
