//! The sum of a set of items, kept as it changes: two copies of a shard that hold the same have the same sum.
//!
//! Each item has a share of 128 bits, made of all that is known of it; shares are added modulo 2^128, so that the order in which
//! items come and go does not matter, and what was added twice does not cancel (as with exclusive or). 64 buckets, by key, tell where two copies
//! differ. It finds mistakes, not malice: who can choose keys and values can make sums equal.

/// Number of sums, one for each part of the keys.
pub const BUCKETS: usize = 64;

/// Odd numbers without a pattern: the fractional parts of the square roots of 2, 3, 5 and 7.
const ODD: [u64; 4] =
    [0x6A09_E667_F3BC_C909, 0xBB67_AE85_84CA_A73B, 0x3C6E_F372_FE94_F82B, 0xA54F_F53A_5F1D_36F1];

/// What of an item counts.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Version.
    pub version: u64,
    /// When it ends, in milliseconds since 1970; `u64::MAX`: never.
    pub ends: u64,
    /// Opaque bits of clients.
    pub flags: u32,
    /// The engine's bits.
    pub marks: u8,
}

/// What an item adds to the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    bucket: u8,
    sum: u128,
}

impl Share {
    /// The share of an item.
    pub fn of(item: &Counted<'_>) -> Share {
        let mut lanes = [ODD[0], ODD[1] ^ item.key.len() as u64];
        let (words, rest) = item.key.as_chunks::<8>();
        words.iter().for_each(|word| absorb(&mut lanes, u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        absorb(&mut lanes, u64::from_le_bytes(last));
        let bucket = (lanes[0] % BUCKETS as u64) as u8;
        absorb(&mut lanes, item.version);
        absorb(&mut lanes, item.ends);
        absorb(&mut lanes, u64::from(item.flags) << 8 | u64::from(item.marks));
        absorb(&mut lanes, (item.value.len() as u64) << 32 | u64::from(crc32fast::hash(item.value)));
        absorb(&mut lanes, ODD[2]);
        Share { bucket, sum: u128::from(lanes[0]) << 64 | u128::from(lanes[1]) }
    }

    /// The bucket that it is in.
    pub fn bucket(&self) -> usize {
        self.bucket.into()
    }
}

#[inline]
fn absorb(lanes: &mut [u64; 2], word: u64) {
    lanes[0] = fold(lanes[0] ^ word, ODD[2]).wrapping_add(lanes[1]);
    lanes[1] = fold(lanes[1] ^ word.rotate_left(32), ODD[3]).wrapping_add(lanes[0].rotate_left(17));
}

/// Both halves of the product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The sum of a set of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// By bucket.
    pub sums: [u128; BUCKETS],
    /// How many items.
    pub items: u64,
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { sums: [0; BUCKETS], items: 0 }
    }
}

impl Digest {
    /// An item has come.
    pub fn add(&mut self, share: Share) {
        let sum = &mut self.sums[share.bucket()];
        *sum = sum.wrapping_add(share.sum);
        self.items = self.items.wrapping_add(1);
    }

    /// An item that was added has gone.
    pub fn subtract(&mut self, share: Share) {
        let sum = &mut self.sums[share.bucket()];
        *sum = sum.wrapping_sub(share.sum);
        self.items = self.items.wrapping_sub(1);
    }

    /// The buckets that differ, as bits.
    pub fn differing(&self, other: &Digest) -> u64 {
        let pairs = self.sums.iter().zip(&other.sums).enumerate();
        pairs.filter(|(_, (a, b))| a != b).fold(0, |bits, (i, _)| bits | 1 << i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &[u8]) -> Counted<'_> {
        Counted { key, value: b"value", version: 1, ends: u64::MAX, flags: 0, marks: 0 }
    }

    #[test]
    fn every_part_of_an_item_counts() {
        let plain = item(b"key");
        let others = [
            Counted { key: b"kez", ..plain },
            Counted { key: b"key\0", ..plain },
            Counted { key: b"", ..plain },
            Counted { value: b"valuf", ..plain },
            Counted { value: b"", ..plain },
            Counted { version: 2, ..plain },
            Counted { ends: 7, ..plain },
            Counted { flags: 1, ..plain },
            Counted { marks: 1, ..plain },
            Counted { key: b"key45678", ..plain },
            Counted { key: b"key456789", ..plain },
        ];
        let mut shares: Vec<_> = others.iter().chain([&plain]).map(|item| Share::of(item).sum).collect();
        shares.sort_unstable();
        shares.dedup();
        assert_eq!(shares.len(), others.len() + 1);
    }

    #[test]
    fn sums_forget_the_order_and_say_where_they_differ() {
        let keys: Vec<_> = (0..1000u32).map(u32::to_le_bytes).collect();
        let (mut there, mut back) = (Digest::default(), Digest::default());
        keys.iter().for_each(|key| there.add(Share::of(&item(key))));
        keys.iter().rev().for_each(|key| back.add(Share::of(&item(key))));
        assert_eq!(there, back);
        let extra = Share::of(&item(b"extra"));
        there.add(extra);
        assert_eq!(there.differing(&back), 1 << extra.bucket());
        there.add(extra);
        assert_eq!(there.differing(&back), 1 << extra.bucket(), "twice is not none");
        there.subtract(extra);
        there.subtract(extra);
        assert_eq!((there.differing(&back), &there), (0, &back));
        let used = there.sums.iter().filter(|sum| **sum != 0).count();
        assert_eq!(used, BUCKETS, "keys spread over all buckets");
    }
}
