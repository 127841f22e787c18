//! Erasing by prefix in one step: a generation per prefix instead of a walk.
//!
//! 1. Erasing notes the prefix and the last version given so far: items under it with that version or an older one are dead
//!    from this moment, because every request looks at the notes first.
//! 2. A walk of the store in small steps removes them, and a note whose walk is complete is dropped.
//! 3. Notes are few: one too many makes two of them into one with what their prefixes have in common. That erases more than
//!    was asked; a cache may forget.
//!
//! Versions that clients invented (beyond ours) tell no age: under a noted prefix such items are dead, too.

use crate::ids::Version;

/// Most notes at a time.
const NOTES_MAX: usize = 32;

struct Note {
    prefix: Box<[u8]>,
    floor: Version,
    /// The round of the walk at whose end it may go.
    round: u64,
}

/// Prefixes erased whose items are not all removed yet.
#[derive(Default)]
pub(super) struct Erasures {
    notes: Vec<Note>,
    round: u64,
    /// Where the walk is; 0: between rounds.
    pub cursor: u64,
}

impl Erasures {
    #[inline]
    pub fn any(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Everything under `prefix` up to version `floor` is dead.
    pub fn add(&mut self, prefix: &[u8], floor: Version) {
        // A walk under way has passed some of the items; the next one meets all.
        let round = self.round + u64::from(self.cursor != 0);
        let (mut prefix, mut joined) = (prefix.to_vec(), floor);
        if self.notes.len() >= NOTES_MAX && !self.notes.iter().any(|note| prefix.starts_with(&note.prefix)) {
            let common = |note: &Note| note.prefix.iter().zip(&prefix).take_while(|(a, b)| a == b).count();
            let nearest = self.notes.iter().map(common).max().unwrap_or(0);
            prefix.truncate(nearest);
        }
        self.notes.retain(|note| {
            let covered = note.prefix.starts_with(&prefix);
            if covered {
                joined = joined.max(note.floor);
            }
            !covered
        });
        self.notes.push(Note { prefix: prefix.into(), floor: joined, round });
    }

    /// The version up to which the item of a key is dead, if it is under a noted prefix.
    pub fn floor(&self, key: &[u8]) -> Option<Version> {
        self.notes.iter().filter(|note| key.starts_with(&note.prefix)).map(|note| note.floor).max()
    }

    /// The walk has come to its end.
    pub fn walked(&mut self) {
        let round = self.round;
        self.notes.retain(|note| note.round > round);
        self.round += 1;
        self.cursor = 0;
    }

    /// Forgets all notes: there are no items left.
    pub fn clear(&mut self) {
        self.notes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stays_until_a_walk_that_began_after_it_has_ended() {
        let mut erasures = Erasures::default();
        erasures.add(b"a:", Version(5));
        erasures.cursor = 7;
        erasures.add(b"b:", Version(6));
        assert_eq!((erasures.floor(b"a:1"), erasures.floor(b"c:1")), (Some(Version(5)), None));
        erasures.walked();
        assert_eq!((erasures.floor(b"a:1"), erasures.floor(b"b:1")), (None, Some(Version(6))));
        erasures.walked();
        assert!(!erasures.any());
    }

    #[test]
    fn one_note_too_many_erases_more_rather_than_less() {
        let mut erasures = Erasures::default();
        for i in 0..NOTES_MAX as u64 {
            erasures.add(format!("k{i:02}:").as_bytes(), Version(i));
        }
        erasures.add(b"k0999:", Version(99));
        assert!(erasures.notes.len() <= NOTES_MAX);
        assert_eq!(erasures.floor(b"k0999:x"), Some(Version(99)));
        assert!(erasures.floor(b"k31:x") >= Some(Version(31)));
        assert!(
            (0..NOTES_MAX as u64)
                .all(|i| erasures.floor(format!("k{i:02}:x").as_bytes()) >= Some(Version(i)))
        );
        assert_eq!(erasures.floor(b"other"), None);
    }
}
