//! Values by number, where the lowest free number is known before the value is.

/// A slab; a number is used again after its value was taken.
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// Head of the list of free numbers; as large as `entries` is long if there is none.
    free: u32,
    len: usize,
}

enum Entry<T> {
    Taken(T),
    /// With the next free number.
    Free(u32),
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Slab { entries: Vec::new(), free: 0, len: 0 }
    }

    /// Number of values.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The number that the next value gets. Changes with each insert and take.
    #[inline]
    pub fn next(&self) -> u32 {
        self.free
    }

    pub fn insert(&mut self, value: T) -> u32 {
        let number = self.free;
        match self.entries.get_mut(number as usize) {
            Some(entry) => {
                let Entry::Free(next) = *entry else {
                    unreachable!("the list of free numbers has only free ones")
                };
                self.free = next;
                *entry = Entry::Taken(value);
            }
            None => {
                self.entries.push(Entry::Taken(value));
                self.free += 1;
            }
        }
        self.len += 1;
        number
    }

    pub fn of(&mut self, number: u32) -> Option<&mut T> {
        match self.entries.get_mut(number as usize) {
            Some(Entry::Taken(value)) => Some(value),
            _ => None,
        }
    }

    pub fn take(&mut self, number: u32) -> Option<T> {
        let entry = self.entries.get_mut(number as usize)?;
        if let Entry::Free(_) = entry {
            return None;
        }
        let Entry::Taken(value) = std::mem::replace(entry, Entry::Free(self.free)) else { return None };
        self.free = number;
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_before_and_used_again_after() {
        let mut slab = Slab::new();
        for i in 0..4 {
            assert_eq!(slab.next(), i);
            assert_eq!(slab.insert(i * 10), i);
        }
        assert_eq!((slab.take(1), slab.take(3), slab.take(3)), (Some(10), Some(30), None));
        assert_eq!(slab.len(), 2);
        assert_eq!((slab.next(), slab.insert(7)), (3, 3));
        assert_eq!((slab.next(), slab.insert(8)), (1, 1));
        assert_eq!((slab.next(), slab.of(1).copied(), slab.of(9)), (4, Some(8), None));
    }
}
