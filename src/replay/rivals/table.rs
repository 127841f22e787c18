//! A table of a fixed size: sets of four by the key's hash, in each of which the one that was used longest ago gives way.

use crate::replay::trace::mix;

const WAYS: usize = 4;
const NOBODY: u32 = u32::MAX;

/// What is known of keys.
pub struct Table<T> {
    sets: Vec<[(u32, T); WAYS]>,
}

impl<T: Copy + Default> Table<T> {
    /// As many places as fit; at least four.
    pub fn with_bytes(bytes: usize) -> Table<T> {
        let sets = (bytes / (WAYS * size_of::<(u32, T)>())).max(1);
        Table { sets: vec![[(NOBODY, T::default()); WAYS]; sets] }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.sets.capacity() * WAYS * size_of::<(u32, T)>()
    }

    /// What is known of a key.
    pub fn get(&mut self, key: u32) -> Option<&mut T> {
        let at = self.set_of(key);
        let set = &mut self.sets[at];
        let place = set.iter().position(|(other, _)| *other == key)?;
        set[..=place].rotate_right(1);
        Some(&mut set[0].1)
    }

    /// What is known of a key, made anew if nothing is.
    pub fn get_or_make(&mut self, key: u32) -> &mut T {
        let at = self.set_of(key);
        let set = &mut self.sets[at];
        let place = set.iter().position(|(other, _)| *other == key);
        set[..=place.unwrap_or(WAYS - 1)].rotate_right(1);
        if place.is_none() {
            set[0] = (key, T::default());
        }
        &mut set[0].1
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: u32) {
        let at = self.set_of(key);
        if let Some(place) = self.sets[at].iter_mut().find(|(other, _)| *other == key) {
            place.0 = NOBODY;
        }
    }

    fn set_of(&self, key: u32) -> usize {
        let hash = mix(u64::from(key)) >> 32;
        ((hash * self.sets.len() as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_used_longest_ago_gives_way() {
        let mut table = Table::<u32>::with_bytes(0);
        (0..4).for_each(|key| *table.get_or_make(key) = key + 10);
        assert_eq!(table.get(0), Some(&mut 10));
        assert_eq!(*table.get_or_make(9), 0);
        let held = [1, 0, 3].map(|key| table.get(key).copied());
        assert_eq!(held, [None, Some(10), Some(13)]);
        table.remove(3);
        assert_eq!(table.get(3), None);
        assert_eq!(table.heap_bytes(), 32);
    }
}
