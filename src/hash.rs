//! Hashes: the stable one that places keys (Redis Cluster's CRC16 with hash tags), and the keyed one of the table.

use crate::ids::{SLOT_COUNT, Slot};
use ahash::RandomState;

/// The slot of a key: CRC16 (XMODEM) of the key, or of its hash tag if it has a non-empty one.
///
/// Source: Redis Cluster specification, "Key distribution model" and "Hash tags".
#[inline]
pub fn slot_of(key: &[u8]) -> Slot {
    Slot::new(crc16(tagged_part(key)) & (SLOT_COUNT - 1))
}

/// What of the key decides its slot: the bytes between the first `{` and the first `}` after it, if there are any.
#[inline]
fn tagged_part(key: &[u8]) -> &[u8] {
    if !may_have_tag(key) {
        return key;
    }
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        Some(len) if len > 0 => &rest[..len],
        _ => key,
    }
}

/// Whether there is a `{` in the key, or (rarely) only a byte that looks like one: keys are short and most have none, so that
/// a few steps of eight bytes cost less than finding out how best to search.
#[inline]
fn may_have_tag(key: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xFF;
    let hit = |bytes: [u8; 8]| {
        let zero_where_open = u64::from_le_bytes(bytes) ^ (ONES * b'{' as u64);
        zero_where_open.wrapping_sub(ONES) & !zero_where_open & (ONES << 7)
    };
    let Some(last) = key.last_chunk() else { return key.contains(&b'{') };
    let (chunks, _) = key.as_chunks();
    // The last eight bytes overlap those before; that changes nothing.
    chunks.iter().fold(hit(*last), |hits, chunk| hits | hit(*chunk)) != 0
}

/// CRC16/XMODEM: polynomial 0x1021, start 0, eight bytes a step by eight tables (4 KiB, stays in the first-level cache).
#[inline]
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc: u16 = 0;
    let mut chunks = bytes.chunks_exact(8);
    for c in &mut chunks {
        crc = CRC_TABLES[7][(c[0] ^ (crc >> 8) as u8) as usize]
            ^ CRC_TABLES[6][(c[1] ^ crc as u8) as usize]
            ^ CRC_TABLES[5][c[2] as usize]
            ^ CRC_TABLES[4][c[3] as usize]
            ^ CRC_TABLES[3][c[4] as usize]
            ^ CRC_TABLES[2][c[5] as usize]
            ^ CRC_TABLES[1][c[6] as usize]
            ^ CRC_TABLES[0][c[7] as usize];
    }
    for &byte in chunks.remainder() {
        crc = (crc << 8) ^ CRC_TABLES[0][((crc >> 8) as u8 ^ byte) as usize];
    }
    crc
}

/// `CRC_TABLES[n][b]` is the CRC of byte `b` followed by `n` zero bytes.
static CRC_TABLES: [[u16; 256]; 8] = {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[n - 1][byte];
            tables[n][byte] = (previous << 8) ^ tables[0][(previous >> 8) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
};

/// The keyed hash of the item table: one secret per process, so that nobody can prepare colliding keys.
#[derive(Clone, Debug)]
pub struct KeyHasher(RandomState);

impl KeyHasher {
    /// A hasher with the process's secret.
    pub fn new(secret: [u64; 2]) -> Self {
        KeyHasher(RandomState::with_seeds(secret[0], secret[1], !secret[0], secret[1].rotate_left(32)))
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }
}

/// For tables of the standard library: hashes with the process's secret, so that nobody can choose keys that collide.
impl std::hash::BuildHasher for KeyHasher {
    type Hasher = ahash::AHasher;

    #[inline]
    fn build_hasher(&self) -> ahash::AHasher {
        self.0.build_hasher()
    }
}

/// Jump consistent hash: the bucket of `key` among `buckets` (at least 1), moving only 1/n of the keys when one is added.
///
/// Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
pub fn jump(mut key: u64, buckets: u32) -> u32 {
    let mut bucket: i64 = -1;
    let mut next: i64 = 0;
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = (((bucket + 1) as f64) * ((1u64 << 31) as f64 / (((key >> 33) + 1) as f64))) as i64;
    }
    bucket.max(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_published_values() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo").number(), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), Slot::new(crc16(b"foo{}{bar}")));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    #[test]
    fn a_tag_is_found_wherever_it_begins() {
        for len in 3..40 {
            let plain: Vec<u8> = (0..len).map(|i| b'a' + i as u8 % 26).collect();
            assert_eq!(tagged_part(&plain), plain);
            for at in 0..len - 2 {
                let mut key = plain.clone();
                (key[at], key[at + 2]) = (b'{', b'}');
                assert_eq!(tagged_part(&key), &plain[at + 1..at + 2], "{key:?}");
            }
        }
    }

    #[test]
    fn eight_bytes_a_step_equal_one_byte_a_step() {
        let bytes: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37)).collect();
        for len in 0..bytes.len() {
            let slow = bytes[..len]
                .iter()
                .fold(0u16, |crc, &b| (crc << 8) ^ CRC_TABLES[0][((crc >> 8) as u8 ^ b) as usize]);
            assert_eq!(crc16(&bytes[..len]), slow, "length {len}");
        }
    }

    #[test]
    fn jump_moves_keys_only_to_the_new_bucket() {
        for key in 0..10_000u64 {
            let (before, after) = (jump(key, 7), jump(key, 8));
            assert!(after == before || after == 7);
        }
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let (a, b) = (KeyHasher::new([1, 2]), KeyHasher::new([1, 3]));
        assert_ne!(a.hash(b"key"), b.hash(b"key"));
        assert_eq!(a.hash(b"key"), a.hash(b"key"));
    }
}
