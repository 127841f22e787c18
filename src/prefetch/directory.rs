//! Which key an id stands for: what is to be fetched must be asked for by its name.
//!
//! ```text
//! log     .. | id u32 | used u1, len u7 [len u16] | key | ..     a ring of bytes; the oldest gives way
//! index   sets of eight places in the log, by the id's hash
//! ```
//! A key whose place comes up goes round again if it was asked for since, else it is forgotten. Nine to ten bytes over the key; a
//! length from 127 on takes two more.

use super::{KeyId, NO_KEY};

/// Bytes before a short key, and before any.
const HEAD_BYTES: usize = 5;
const HEAD_BYTES_MAX: usize = HEAD_BYTES + 2;
const WAYS: usize = 8;
const NOWHERE: u32 = u32::MAX;
/// The id that says: from here to the end of the log there is nothing.
const PADDING: KeyId = NO_KEY;
/// In the byte of the length.
const USED: u8 = 1 << 7;
/// The length that says that the real one comes behind.
const LONG: u8 = 127;
/// Length of keys as long as none is known, and what the latest counts for.
pub const KEY_BYTES_FIRST: f32 = 16.0;
const SMOOTHING: f32 = 1.0 / 64.0;
/// Keys that go round again in favour of one new one, at most.
const ROUNDS_MAX: usize = 8;
/// Longest key that is kept.
pub const KEY_BYTES_MAX: usize = 1024;

/// The directory of a core.
pub struct Directory {
    log: Vec<u8>,
    /// Where the next entry goes, and the oldest one stands; equal only if the log is empty.
    head: usize,
    tail: usize,
    index: Vec<[u32; WAYS]>,
    /// Smoothed length of the keys that came in.
    key_bytes: f32,
    /// Whether any had to go for want of room.
    full: bool,
}

impl Directory {
    /// Bytes that a key of so many takes.
    pub fn bytes_of(key_bytes: f32) -> f32 {
        HEAD_BYTES as f32 + key_bytes + 4.5
    }

    /// A directory in so many bytes, for keys of about that length.
    pub fn with_bytes(bytes: usize, key_bytes: f32) -> Directory {
        // A set is full at random before all are: an eighth more places than entries.
        let sets = (bytes as f32 / Directory::bytes_of(key_bytes) * 9.0 / 8.0) as usize / WAYS;
        let sets = sets.max(1);
        let log = bytes.saturating_sub(sets * WAYS * 4).max(4 * HEAD_BYTES_MAX);
        let index = vec![[NOWHERE; WAYS]; sets];
        Directory { log: vec![0; log], head: 0, tail: 0, index, key_bytes, full: false }
    }

    /// How long keys are on average.
    pub fn key_bytes(&self) -> f32 {
        self.key_bytes
    }

    /// Which part of it is in use.
    pub fn fullness(&self) -> f32 {
        if self.full { 1.0 } else { self.head as f32 / self.log.len() as f32 }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.log.capacity() + self.index.capacity() * WAYS * 4
    }

    /// Takes over what another one knows, from the oldest on; where there is no room for all, the newest.
    pub fn adopt(&mut self, other: &Directory) {
        let mut at = other.tail;
        while at != other.head {
            if other.ends_at(at) {
                at = 0;
                continue;
            }
            let id = other.id_at(at);
            let text = other.text_at(at);
            if other.find(id) == Some(at) {
                self.know(id, &other.log[text.clone()]);
            }
            at = text.end;
        }
    }

    /// The key of an id, if it is known still.
    pub fn key(&self, id: KeyId) -> Option<&[u8]> {
        let at = self.find(id)?;
        Some(&self.log[self.text_at(at)])
    }

    /// Makes a key known, or keeps it known for another round.
    pub fn know(&mut self, id: KeyId, key: &[u8]) {
        if let Some(at) = self.find(id) {
            self.log[at + 4] |= USED;
            return;
        }
        if key.len() > KEY_BYTES_MAX || key.len() + 3 * HEAD_BYTES_MAX > self.log.len() || id == PADDING {
            return;
        }
        self.key_bytes += SMOOTHING * (key.len() as f32 - self.key_bytes);
        self.append(id, key);
    }

    fn append(&mut self, id: KeyId, key: &[u8]) {
        let short = key.len() < usize::from(LONG);
        let head = if short { HEAD_BYTES } else { HEAD_BYTES_MAX };
        let bytes = head + key.len();
        let mut rounds = ROUNDS_MAX;
        loop {
            if self.head == self.tail {
                // Empty: what is long fits from the beginning only.
                (self.head, self.tail) = (0, 0);
            }
            if self.has_room(bytes) {
                break;
            }
            self.forget_oldest(&mut rounds);
        }
        if self.log.len() - self.head < bytes {
            self.pad();
        }
        let at = self.head;
        self.log[at..at + 4].copy_from_slice(&id.to_le_bytes());
        self.log[at + 4] = if short { key.len() as u8 } else { LONG };
        if !short {
            self.log[at + HEAD_BYTES..at + HEAD_BYTES_MAX].copy_from_slice(&(key.len() as u16).to_le_bytes());
        }
        self.log[at + head..at + bytes].copy_from_slice(key);
        self.head = at + bytes;
        let set = self.set_of(id);
        let places = &mut self.index[set];
        // In a full set the one at random gives way; its bytes stay until their turn.
        let place = places.iter().position(|&place| place == NOWHERE).unwrap_or(at % WAYS);
        places[place] = at as u32;
    }

    /// Whether an entry fits before the oldest one (or the end, and then the beginning).
    fn has_room(&self, bytes: usize) -> bool {
        match self.head >= self.tail {
            true => self.log.len() - self.head >= bytes || self.tail > bytes,
            false => self.tail - self.head > bytes,
        }
    }

    /// Ends the log here and goes on at the beginning.
    fn pad(&mut self) {
        if self.log.len() - self.head >= 4 {
            self.log[self.head..self.head + 4].copy_from_slice(&PADDING.to_le_bytes());
        }
        self.head = 0;
    }

    fn forget_oldest(&mut self, rounds: &mut usize) {
        self.full = true;
        let at = self.tail;
        if self.ends_at(at) {
            self.tail = 0;
            return;
        }
        let (id, text) = (self.id_at(at), self.text_at(at));
        self.tail = text.end;
        let used = self.log[at + 4] & USED != 0;
        let set = self.set_of(id);
        let Some(place) = self.index[set].iter().position(|&place| place == at as u32) else { return };
        self.index[set][place] = NOWHERE;
        if used && *rounds > 0 {
            *rounds -= 1;
            let (mut key, len) = ([0; KEY_BYTES_MAX], text.len());
            key[..len].copy_from_slice(&self.log[text]);
            // There is room now where it stood, or a little later.
            if self.has_room(HEAD_BYTES_MAX + len) {
                self.append(id, &key[..len]);
            }
        }
    }

    fn find(&self, id: KeyId) -> Option<usize> {
        let places = &self.index[self.set_of(id)];
        places.iter().map(|&place| place as usize).find(|&at| at != NOWHERE as usize && self.id_at(at) == id)
    }

    /// Whether the log ends there for this round.
    fn ends_at(&self, at: usize) -> bool {
        self.log.len() - at < HEAD_BYTES || self.id_at(at) == PADDING
    }

    fn id_at(&self, at: usize) -> KeyId {
        KeyId::from_le_bytes([self.log[at], self.log[at + 1], self.log[at + 2], self.log[at + 3]])
    }

    /// Where the key of the entry there stands.
    fn text_at(&self, at: usize) -> std::ops::Range<usize> {
        let text = at + HEAD_BYTES;
        match self.log[at + 4] & !USED {
            LONG => {
                let len = u16::from_le_bytes([self.log[text], self.log[text + 1]]);
                text + 2..text + 2 + usize::from(len)
            }
            len => text..text + usize::from(len),
        }
    }

    fn set_of(&self, id: KeyId) -> usize {
        let hash = u64::from(id).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32;
        ((hash * self.index.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(id: KeyId) -> Vec<u8> {
        format!("key:{id}:{}", "x".repeat(id as usize % 13)).into_bytes()
    }

    #[test]
    fn what_is_known_is_told_truly_and_the_unused_oldest_is_forgotten() {
        let mut directory = Directory::with_bytes(40_000, KEY_BYTES_FIRST);
        assert!(directory.heap_bytes() <= 40_000);
        for id in 0..20_000 {
            directory.know(id, &key_of(id));
            // The first hundred are asked for again and again.
            directory.know(id % 100, &key_of(id % 100));
            for probe in [id, id.wrapping_mul(7) % 20_000] {
                assert!(directory.key(probe).is_none_or(|key| key == key_of(probe)), "{probe}");
            }
        }
        let known = |range: std::ops::Range<u32>| range.filter(|&id| directory.key(id).is_some()).count();
        assert!(known(0..100) >= 95, "{} of the used", known(0..100));
        assert!(known(19_500..20_000) > 400, "{} of the newest", known(19_500..20_000));
        assert_eq!(known(5000..10_000), 0);
        assert!(known(0..20_000) * 45 > 40_000, "{} in 40000 bytes", known(0..20_000));
    }

    #[test]
    fn what_is_known_moves_to_another_directory_the_newest_to_a_smaller_one() {
        // A few sizes, so that the log ends at every place once.
        for count in (900..1100).chain(4000..4100) {
            let mut old = Directory::with_bytes(40_000, KEY_BYTES_FIRST);
            (0..count).for_each(|id| old.know(id, &key_of(id)));
            let known = |directory: &Directory| {
                (0..count).filter(|&id| directory.key(id).is_some_and(|key| key == key_of(id))).count()
            };
            let mut large = Directory::with_bytes(80_000, KEY_BYTES_FIRST);
            large.adopt(&old);
            assert!(known(&large) * 100 >= known(&old) * 99, "{} of {}", known(&large), known(&old));
            let mut small = Directory::with_bytes(10_000, KEY_BYTES_FIRST);
            small.adopt(&old);
            assert!(known(&small) * 5 > known(&old) && small.key(count - 1).is_some(), "{count}");
        }
    }

    #[test]
    fn tiny_directories_and_long_keys_do_no_harm() {
        for bytes in [0, 50, 100, 500, 5000] {
            let mut directory = Directory::with_bytes(bytes, KEY_BYTES_FIRST);
            for id in 0..600 {
                directory.know(id, &vec![b'k'; id as usize % 300]);
                assert!(directory.key(id).is_none_or(|key| key.len() == id as usize % 300));
            }
            directory.know(1, &[0; KEY_BYTES_MAX + 1]);
        }
    }
}
