//! What was fetched ahead of late and what came of it, to be told to who asks. A ring: the oldest gives way.

use super::{KeyId, NO_KEY, Reason, Source};
use crate::clock::Mono;

/// One entry for so many bytes of the predictor's, within these bounds.
const BYTES_PER_ENTRY: usize = 4096;
const ENTRIES_MIN: usize = 32;
const ENTRIES_MAX: usize = 2048;

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is on its way.
    UnderWay,
    /// It is in the cache, and nobody has asked for it.
    Landed,
    /// A request found it.
    Used,
    /// A request came while it was on its way.
    Late,
    /// Nobody asked for it in time, or it was gone by then.
    Wasted,
    /// It was not stored, through no fault of the guess: the origin failed, or the key was written.
    Withdrawn,
}

/// A fetch.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The key.
    pub key: KeyId,
    /// The key whose request led to it.
    pub cause: KeyId,
    /// The probability that it was believed to be of use with.
    pub score: f32,
    /// What guessed it.
    pub source: Source,
    /// What became of it.
    pub ending: Ending,
    /// When it began.
    pub at: Mono,
    /// Microseconds that the fetch took; `u32::MAX` while it is under way.
    pub took_micros: u32,
    /// Bytes of the value.
    pub bytes: u32,
    /// Milliseconds from its beginning to its end; `u32::MAX` as long as it has none.
    pub ended_millis: u32,
}

/// Names an entry; of one that has given way, nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(u32);

impl EntryId {
    /// No entry.
    pub const NONE: EntryId = EntryId(u32::MAX);
}

/// The entries of a core.
pub struct History {
    entries: Box<[Entry]>,
    /// Fetches so far; the next one's number.
    count: u32,
}

const NOTHING: Entry = Entry {
    key: NO_KEY,
    cause: NO_KEY,
    score: 0.0,
    source: Source::Successor,
    ending: Ending::Wasted,
    at: Mono(0),
    took_micros: u32::MAX,
    bytes: 0,
    ended_millis: u32::MAX,
};

impl History {
    /// Entries for a predictor of so many bytes.
    pub fn for_bytes(bytes: usize) -> History {
        let entries = (bytes / BYTES_PER_ENTRY).clamp(ENTRIES_MIN, ENTRIES_MAX);
        History { entries: vec![NOTHING; entries].into_boxed_slice(), count: 0 }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.entries)
    }

    /// A fetch begins.
    pub fn begin(&mut self, at: Mono, key: KeyId, score: f32, reason: Reason) -> EntryId {
        let Reason { source, cause, .. } = reason;
        let id = EntryId(self.count);
        let place = self.place(id);
        self.entries[place] = Entry { key, cause, score, source, ending: Ending::UnderWay, at, ..NOTHING };
        self.count = (self.count + 1) % EntryId::NONE.0;
        id
    }

    /// It is in the cache.
    pub fn landed(&mut self, id: EntryId, key: KeyId, now: Mono, bytes: u32) {
        if let Some(entry) = self.entry(id, key) {
            entry.took_micros = u32::try_from(now.0.saturating_sub(entry.at.0) / 1000).unwrap_or(u32::MAX);
            entry.bytes = bytes;
            entry.ending = Ending::Landed;
        }
    }

    /// It came to its end.
    pub fn ended(&mut self, id: EntryId, key: KeyId, now: Mono, ending: Ending) {
        if let Some(entry) = self.entry(id, key) {
            entry.ending = ending;
            entry.ended_millis = u32::try_from(now.millis_since(entry.at)).unwrap_or(u32::MAX);
        }
    }

    /// The fetches of a key, the latest first.
    pub fn of(&self, key: KeyId) -> impl Iterator<Item = &Entry> {
        let len = self.entries.len();
        let latest = self.count as usize % len;
        let (older, newer) = self.entries.split_at(latest);
        let all = older.iter().rev().chain(newer.iter().rev());
        all.filter(move |entry| entry.key == key && key != NO_KEY)
    }

    fn place(&self, id: EntryId) -> usize {
        id.0 as usize % self.entries.len()
    }

    /// The entry, unless another one has its place.
    fn entry(&mut self, id: EntryId, key: KeyId) -> Option<&mut Entry> {
        let age = self.count.wrapping_sub(id.0) as usize;
        if id == EntryId::NONE || age == 0 || age > self.entries.len() {
            return None;
        }
        let place = self.place(id);
        Some(&mut self.entries[place]).filter(|entry| entry.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_fetches_of_a_key_are_told_and_the_oldest_give_way() {
        let mut history = History::for_bytes(0);
        let reason = Reason::test(Source::Stride);
        let at = |millis| Mono(0).plus_millis(millis);
        let first = history.begin(at(1), 7, 0.5, reason);
        history.landed(first, 7, at(4), 100);
        history.ended(first, 7, at(10), Ending::Used);
        let second = history.begin(at(20), 7, 0.6, reason);
        let told: Vec<_> = history.of(7).map(|entry| (entry.score, entry.ending)).collect();
        assert_eq!(told, [(0.6, Ending::UnderWay), (0.5, Ending::Used)]);
        let old = history.of(7).nth(1).expect("told above");
        assert_eq!((old.took_micros, old.bytes, old.ended_millis), (3000, 100, 9));
        for i in 0..ENTRIES_MIN as u32 - 1 {
            history.begin(at(30), 100 + i, 0.1, reason);
        }
        assert_eq!(history.of(7).count(), 1, "the first has given way");
        history.ended(first, 7, at(40), Ending::Wasted);
        assert!(history.of(7).all(|entry| entry.ending == Ending::UnderWay), "its end changes no other");
        history.begin(at(50), 500, 0.1, reason);
        history.ended(second, 7, at(40), Ending::Wasted);
        history.ended(EntryId::NONE, 500, at(60), Ending::Wasted);
        assert_eq!((history.of(7).count(), history.of(NO_KEY).count()), (0, 0));
        assert!(history.of(500).all(|entry| entry.ending == Ending::UnderWay));
        assert!(History::for_bytes(usize::MAX / 2).heap_bytes() <= ENTRIES_MAX * size_of::<Entry>());
    }
}
