//! Which key an id stands for: what is to be fetched must be asked for by its name.
//!
//! ```text
//! log     .. | id u32 | len u16 | used u8 | key | id | len | used | key | ..     a ring of bytes; the oldest gives way
//! index   sets of eight places in the log, by the id's hash
//! ```
//! A key whose place comes up goes round again if it was asked for since, else it is forgotten. About 13 bytes over the key.

use super::KeyId;

const HEAD_BYTES: usize = 7;
const WAYS: usize = 8;
const NOWHERE: u32 = u32::MAX;
/// Length that says: from here to the end of the log there is nothing.
const PADDING: u16 = u16::MAX;
/// Bytes of an entry with a key of usual length, by which index and log share the memory.
const ENTRY_BYTES_TYPICAL: usize = HEAD_BYTES + 16;
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
}

impl Directory {
    /// A directory in so many bytes.
    pub fn with_bytes(bytes: usize) -> Directory {
        // A set is full at random before all are: a quarter more places than entries.
        let per_entry = ENTRY_BYTES_TYPICAL + 5;
        let sets = (bytes / per_entry * 5 / 4 / WAYS).max(1);
        let log = bytes.saturating_sub(sets * WAYS * 4).max(4 * HEAD_BYTES);
        Directory { log: vec![0; log], head: 0, tail: 0, index: vec![[NOWHERE; WAYS]; sets] }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.log.capacity() + self.index.capacity() * WAYS * 4
    }

    /// Takes over what another one knows, from the oldest on; where there is no room for all, the newest.
    pub fn adopt(&mut self, other: &Directory) {
        let mut at = other.tail;
        while at != other.head {
            if other.log.len() - at < HEAD_BYTES || other.len_at(at) == usize::from(PADDING) {
                at = 0;
                continue;
            }
            let len = other.len_at(at);
            let id = KeyId::from_le_bytes(other.log[at..at + 4].try_into().expect("four bytes"));
            if other.find(id) == Some(at) {
                self.know(id, &other.log[at + HEAD_BYTES..at + HEAD_BYTES + len]);
            }
            at += HEAD_BYTES + len;
        }
    }

    /// The key of an id, if it is known still.
    pub fn key(&self, id: KeyId) -> Option<&[u8]> {
        let at = self.find(id)?;
        Some(&self.log[at + HEAD_BYTES..at + HEAD_BYTES + self.len_at(at)])
    }

    /// Makes a key known, or keeps it known for another round.
    pub fn know(&mut self, id: KeyId, key: &[u8]) {
        if let Some(at) = self.find(id) {
            self.log[at + 6] = 1;
            return;
        }
        if key.len() > KEY_BYTES_MAX || key.len() + 3 * HEAD_BYTES > self.log.len() {
            return;
        }
        self.append(id, key);
    }

    fn append(&mut self, id: KeyId, key: &[u8]) {
        let bytes = HEAD_BYTES + key.len();
        let mut rounds = ROUNDS_MAX;
        while !self.has_room(bytes) {
            self.forget_oldest(&mut rounds);
        }
        if self.log.len() - self.head < bytes {
            self.pad();
        }
        let at = self.head;
        self.log[at..at + 4].copy_from_slice(&id.to_le_bytes());
        self.log[at + 4..at + 6].copy_from_slice(&(key.len() as u16).to_le_bytes());
        self.log[at + 6] = 0;
        self.log[at + HEAD_BYTES..at + bytes].copy_from_slice(key);
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
        if self.log.len() - self.head >= HEAD_BYTES {
            self.log[self.head + 4..self.head + 6].copy_from_slice(&PADDING.to_le_bytes());
        }
        self.head = 0;
    }

    fn forget_oldest(&mut self, rounds: &mut usize) {
        let at = self.tail;
        if self.log.len() - at < HEAD_BYTES || self.len_at(at) == usize::from(PADDING) {
            self.tail = 0;
            return;
        }
        let len = self.len_at(at);
        self.tail = at + HEAD_BYTES + len;
        let id = KeyId::from_le_bytes(self.log[at..at + 4].try_into().expect("four bytes"));
        let used = self.log[at + 6] > 0;
        let set = self.set_of(id);
        let Some(place) = self.index[set].iter().position(|&place| place == at as u32) else { return };
        self.index[set][place] = NOWHERE;
        if used && *rounds > 0 {
            *rounds -= 1;
            let mut key = [0; KEY_BYTES_MAX];
            key[..len].copy_from_slice(&self.log[at + HEAD_BYTES..at + HEAD_BYTES + len]);
            // There is room now where it stood, or a little later.
            if self.has_room(HEAD_BYTES + len) {
                self.append(id, &key[..len]);
            }
        }
    }

    fn find(&self, id: KeyId) -> Option<usize> {
        let places = &self.index[self.set_of(id)];
        places
            .iter()
            .map(|&place| place as usize)
            .find(|&at| at != NOWHERE as usize && self.log[at..at + 4] == id.to_le_bytes())
    }

    fn len_at(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.log[at + 4], self.log[at + 5]]))
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
        let mut directory = Directory::with_bytes(40_000);
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
            let mut old = Directory::with_bytes(40_000);
            (0..count).for_each(|id| old.know(id, &key_of(id)));
            let known = |directory: &Directory| {
                (0..count).filter(|&id| directory.key(id).is_some_and(|key| key == key_of(id))).count()
            };
            let mut large = Directory::with_bytes(80_000);
            large.adopt(&old);
            assert!(known(&large) * 100 >= known(&old) * 99, "{} of {}", known(&large), known(&old));
            let mut small = Directory::with_bytes(10_000);
            small.adopt(&old);
            assert!(known(&small) * 5 > known(&old) && small.key(count - 1).is_some(), "{count}");
        }
    }

    #[test]
    fn tiny_directories_and_long_keys_do_no_harm() {
        for bytes in [0, 50, 100, 500] {
            let mut directory = Directory::with_bytes(bytes);
            for id in 0..300 {
                directory.know(id, &vec![b'k'; id as usize % 120]);
                assert!(directory.key(id).is_none_or(|key| key.len() == id as usize % 120));
            }
            directory.know(1, &[0; KEY_BYTES_MAX + 1]);
        }
    }
}
