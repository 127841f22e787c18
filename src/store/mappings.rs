//! Values with a mapping of their own: those too large for a segment, on their way in, held, and on their way back to the
//! system.
//!
//! ```text
//!   Arrival -- fill, piece by piece -- adopt --> handle -- bury --> buried -- release_buried, piece by piece --> gone
//!        \-- bury_arrival: it never was a value ---------------------^
//! ```

use super::memory::{Mapping, PAGE_BYTES};
use std::collections::VecDeque;

/// What of a buried mapping is released in one step.
const RELEASE_BYTES: usize = 512 << 10;

/// A value on its way into a mapping.
#[derive(Debug)]
pub(super) struct Arrival {
    pub mapping: Mapping,
    /// Bytes that are there; only their pages count as held.
    pub filled: usize,
}

/// A mapping whose value is gone, on its way back to the system.
#[derive(Debug)]
struct Buried {
    mapping: Mapping,
    left: usize,
}

impl From<Mapping> for Buried {
    fn from(mapping: Mapping) -> Buried {
        Buried { left: mapping.mapped(), mapping }
    }
}

/// All mappings of a log, by handle.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    mappings: Vec<Option<Mapping>>,
    free_handles: Vec<u32>,
    buried: VecDeque<Buried>,
    bytes: u64,
}

impl Mappings {
    /// Bytes of all of them: arriving, held, and not yet given back.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// These, and the lists of them.
    pub(super) fn held(&self) -> u64 {
        let lists = self.mappings.capacity() * size_of::<Option<Mapping>>()
            + self.free_handles.capacity() * size_of::<u32>()
            + self.buried.capacity() * size_of::<Buried>();
        self.bytes + lists as u64
    }

    /// The mapping of a handle.
    pub(super) fn get(&self, handle: u32) -> Option<&Mapping> {
        self.mappings[handle as usize].as_ref()
    }

    /// Copies a value into a mapping; nothing if the system refuses.
    pub(super) fn map(&mut self, parts: &[&[u8]], len: usize) -> Option<u32> {
        let mut arrival = Arrival { mapping: Mapping::new(len)?, filled: 0 };
        parts.iter().for_each(|part| self.fill(&mut arrival, part));
        Some(self.adopt(arrival))
    }

    /// Copies the next bytes of a value.
    pub(super) fn fill(&mut self, arrival: &mut Arrival, bytes: &[u8]) {
        let filled = arrival.filled + bytes.len();
        arrival.mapping.bytes_mut()[arrival.filled..filled].copy_from_slice(bytes);
        self.bytes +=
            (filled.next_multiple_of(PAGE_BYTES) - arrival.filled.next_multiple_of(PAGE_BYTES)) as u64;
        arrival.filled = filled;
    }

    /// Takes over a value that is all there.
    pub(super) fn adopt(&mut self, arrival: Arrival) -> u32 {
        let handle = self.free_handles.pop().unwrap_or_else(|| {
            self.mappings.push(None);
            self.mappings.len() as u32 - 1
        });
        self.mappings[handle as usize] = Some(arrival.mapping);
        handle
    }

    /// Hands what there is of a value to those that are released step by step.
    pub(super) fn bury_arrival(&mut self, arrival: Arrival) {
        if arrival.filled > 0 {
            let left = Mapping::rounded(arrival.filled);
            self.buried.push_back(Buried { left, mapping: arrival.mapping });
        }
    }

    /// Hands a mapping to those that are released step by step.
    pub(super) fn bury(&mut self, handle: u32) {
        let mapping = self.mappings[handle as usize].take().expect("buried once");
        self.free_handles.push(handle);
        self.buried.push_back(mapping.into());
    }

    /// Buries all.
    pub(super) fn clear(&mut self) {
        self.buried.extend(std::mem::take(&mut self.mappings).into_iter().flatten().map(Buried::from));
        self.free_handles = Vec::new();
    }

    /// Takes over memory that was something else's, to be given back step by step.
    pub(super) fn bury_memory(&mut self, memory: Option<Mapping>) {
        let Some(mapping) = memory else { return };
        self.bytes += mapping.mapped() as u64;
        self.buried.push_back(mapping.into());
    }

    /// Whether memory is on its way back.
    pub(super) fn has_buried(&self) -> bool {
        !self.buried.is_empty()
    }

    /// Releases a piece of a buried mapping; false if there is none.
    pub(super) fn release_buried(&mut self) -> bool {
        let Some(first) = self.buried.front_mut() else { return false };
        let piece = first.left.min(RELEASE_BYTES).next_multiple_of(PAGE_BYTES).min(first.left);
        first.left -= piece;
        self.bytes -= piece as u64;
        if first.left == 0 {
            self.buried.pop_front();
        } else {
            first.mapping.release(first.left, piece);
        }
        true
    }
}
