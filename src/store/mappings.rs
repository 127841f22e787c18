//! Values with a mapping of their own: those too large for a segment, on their way in, held, and on their way back to the
//! system.
//!
//! ```text
//!   Arrival -- fill, piece by piece -- adopt --> handle -- bury --> buried -- release_buried, piece by piece --> gone
//!        \                                           \--> withheld---^  when its last reader has let go
//!         \-- bury_arrival: it never was a value -------------------/
//! ```
//! Long values are read where they lie, by whoever sends them, for as long as that takes. Memory that is still read when its
//! value is gone stays counted until it comes back.

use super::incoming::{self, Offer};
use super::memory::{Mapping, PAGE_BYTES};
use crate::request::{SHARED_BYTES_MIN, Shared, Value};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What of a buried mapping is released in one step.
const RELEASE_BYTES: usize = 512 << 10;
/// Withheld mappings that are asked at once whether they are still read.
const ASKED_AT_ONCE: usize = 16;

/// A value on its way into a mapping.
#[derive(Debug)]
pub(super) struct Arrival {
    pub mapping: Mapping,
    /// Bytes that are there; only their pages count as held.
    pub filled: usize,
}

/// A mapping that is a value.
#[derive(Debug)]
struct Held {
    mapping: Arc<Mapping>,
    /// Where in it the value begins.
    start: usize,
    /// Bytes that count as held.
    bytes: u64,
    /// For those who read it, if it is long.
    shared: Option<Shared>,
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
    mappings: Vec<Option<Held>>,
    free_handles: Vec<u32>,
    buried: VecDeque<Buried>,
    /// Their values are gone, but somebody still reads them.
    withheld: VecDeque<(Arc<Mapping>, u64)>,
    withheld_bytes: u64,
    /// Of long commands that are being received.
    incoming_bytes: u64,
    /// On their way to other cores, counted here until they have room there.
    sent: VecDeque<Arc<Mapping>>,
    bytes: u64,
}

impl Mappings {
    /// Bytes of all of them: arriving, held, and not yet given back.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// These, and the lists of them.
    pub(super) fn held(&self) -> u64 {
        let lists = self.mappings.capacity() * size_of::<Option<Held>>()
            + self.free_handles.capacity() * size_of::<u32>()
            + self.withheld.capacity() * size_of::<(Arc<Mapping>, u64)>()
            + self.sent.capacity() * size_of::<Arc<Mapping>>()
            + self.buried.capacity() * size_of::<Buried>();
        self.bytes + lists as u64
    }

    /// The value of a handle, which has so many bytes.
    pub(super) fn bytes_of(&self, handle: u32, len: usize) -> &[u8] {
        let held = self.held_of(handle);
        &held.mapping.bytes(held.start + len)[held.start..]
    }

    /// The same, to be kept by its reader if it is long.
    pub(super) fn value_of(&self, handle: u32, len: usize) -> Value<'_> {
        match &self.held_of(handle).shared {
            Some(shared) => Value::Shared(shared),
            None => Value::One(self.bytes_of(handle, len)),
        }
    }

    fn held_of(&self, handle: u32) -> &Held {
        self.mappings[handle as usize].as_ref().expect("a live item's mapping stays")
    }

    /// Bytes of values that are gone, but for readers that have not let go.
    pub(super) fn withheld_bytes(&self) -> u64 {
        self.withheld_bytes
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
        // As `fill` counted them: an empty value has none.
        let bytes = arrival.filled.next_multiple_of(PAGE_BYTES) as u64;
        self.hold(Arc::new(arrival.mapping), 0..arrival.filled, bytes)
    }

    /// Takes over a value in the memory that it was received into.
    pub(super) fn adopt_offered(&mut self, offer: Offer) -> u32 {
        let bytes = incoming::held(&offer.memory);
        self.hold(offer.memory, offer.value, bytes)
    }

    fn hold(&mut self, mapping: Arc<Mapping>, value: Range<usize>, bytes: u64) -> u32 {
        let handle = self.free_handles.pop().unwrap_or_else(|| {
            self.mappings.push(None);
            self.mappings.len() as u32 - 1
        });
        let (start, long) = (value.start, value.len() >= SHARED_BYTES_MIN);
        let shared = long.then(|| Shared::new(mapping.clone()).part(value));
        self.mappings[handle as usize] = Some(Held { mapping, start, bytes, shared });
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
        let held = self.mappings[handle as usize].take().expect("buried once");
        self.free_handles.push(handle);
        self.let_go(held);
    }

    fn let_go(&mut self, held: Held) {
        let Held { mapping, bytes, shared, .. } = held;
        drop(shared);
        self.bury_shared(mapping, bytes);
    }

    /// Buries memory of which so many bytes are held, or waits until nobody reads it.
    pub(super) fn bury_shared(&mut self, mapping: Arc<Mapping>, bytes: u64) {
        match Arc::try_unwrap(mapping) {
            Ok(mapping) => self.buried.push_back(Buried { left: bytes as usize, mapping }),
            Err(read) => {
                read.set_gone();
                self.withheld_bytes += bytes;
                self.withheld.push_back((read, bytes));
            }
        }
    }

    /// Goes on counting memory that was sent to another core, until that one has room for it.
    pub(super) fn send(&mut self, memory: Arc<Mapping>) {
        self.sent.push_back(memory);
    }

    /// Whether memory is on its way to another core.
    pub(super) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Lets go of what other cores have room for now, and buries what came back without a word.
    pub(super) fn collect_sent(&mut self) {
        for _ in 0..self.sent.len() {
            let Some(memory) = self.sent.pop_front() else { break };
            let bytes = incoming::held(&memory);
            if memory.is_adopted() {
                self.bytes -= bytes;
                continue;
            }
            match Arc::try_unwrap(memory) {
                Ok(mapping) => self.buried.push_back(Buried { left: bytes as usize, mapping }),
                Err(waiting) => self.sent.push_back(waiting),
            }
        }
    }

    /// Counts what was received of a long command.
    pub(super) fn count_incoming(&mut self, bytes: u64) {
        self.incoming_bytes += bytes;
        self.bytes += bytes;
    }

    /// From now on so many of these bytes are something else's.
    pub(super) fn take_incoming(&mut self, bytes: u64) {
        self.incoming_bytes -= bytes;
    }

    /// Bytes of long commands that are being received.
    pub(super) fn incoming_bytes(&self) -> u64 {
        self.incoming_bytes
    }

    /// Buries some of those whose readers have let go; answers whether there may be more.
    pub(super) fn collect_withheld(&mut self) -> bool {
        let before = self.buried.len();
        for _ in 0..ASKED_AT_ONCE.min(self.withheld.len()) {
            let Some((mapping, bytes)) = self.withheld.pop_front() else { break };
            self.withheld_bytes -= bytes;
            self.bury_shared(mapping, bytes);
        }
        self.buried.len() > before
    }

    /// Buries all.
    pub(super) fn clear(&mut self) {
        for held in std::mem::take(&mut self.mappings).into_iter().flatten() {
            self.let_go(held);
        }
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
