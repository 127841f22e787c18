//! Long values on their way in over a connection: received where they will stay.
//!
//! ```text
//!   Incoming: [ command ... | value ........................ | rest of the command ]
//!                             \-- arrived --> offer --> put: the store has that memory, nothing is copied
//!   another core's key:       \-- arrived --> mesh --> take_over, offer, land, put there; end_arrived
//!                                  counted here until it has landed there: by both for a while, by none never
//!   no put took it:           bury, and it is given back step by step
//! ```
//! What has come counts as held from its first byte on, so room is made for it while it comes.

use super::Store;
use super::memory::Mapping;
use crate::clock::Mono;
use crate::request::Shared;
use std::ops::Range;
use std::sync::Arc;

/// What one step towards room for an arrived value may do, in units of 100 ns.
const STEP_EFFORT: u32 = 800;
/// What of a segment is looked at before asking whether that was enough.
const STEP_BYTES: usize = 64 << 10;

/// Memory that a long command is received into.
#[derive(Debug)]
pub struct Incoming {
    memory: Arc<Mapping>,
}

/// An arrived value that the next put may take.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) memory: Arc<Mapping>,
    pub(super) value: Range<usize>,
}

impl Offer {
    fn is_of(&self, value: &[u8]) -> bool {
        std::ptr::eq(&(*self.memory).as_ref()[self.value.clone()], value)
    }
}

impl Incoming {
    /// Room for so many bytes, of which only those that come need memory; nothing if the system refuses.
    pub fn new(capacity: usize) -> Option<Incoming> {
        Some(Incoming { memory: Arc::new(Mapping::new(capacity)?) })
    }

    /// The bytes that have come.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.memory.used())
    }

    /// Number of bytes that have come.
    pub fn len(&self) -> usize {
        self.memory.used()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value that is part of what has come; nothing if it lies elsewhere.
    pub fn part(&self, value: &[u8]) -> Option<Shared> {
        let bytes = self.bytes();
        let start = (value.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
        let inside = start <= bytes.len() && value.len() <= bytes.len() - start;
        inside.then(|| Shared::new(self.memory.clone()).part(start..start + value.len()))
    }
}

/// Bytes of memory that it has.
pub(super) fn held(memory: &Mapping) -> u64 {
    memory.populated() as u64
}

impl Store {
    /// Takes in the next bytes of a long command, as many as there is room for; answers how many.
    ///
    /// # Panics
    /// If somebody was given a part of it.
    pub fn receive(&mut self, incoming: &mut Incoming, bytes: &[u8]) -> usize {
        let place = self.place(incoming, bytes.len());
        let taken = place.len();
        place.copy_from_slice(&bytes[..taken]);
        self.received(incoming, taken);
        taken
    }

    /// Memory for the next bytes of a long command, for the kernel to write to; how many it wrote is to be told by
    /// [`Store::received`].
    ///
    /// # Panics
    /// If somebody was given a part of it.
    pub fn place<'a>(&mut self, incoming: &'a mut Incoming, len: usize) -> &'a mut [u8] {
        let memory = Arc::get_mut(&mut incoming.memory).expect("nobody reads what is not complete");
        let before = held(memory);
        memory.place(len);
        self.log.mappings.count_incoming(held(memory) - before);
        memory.place(len)
    }

    /// Takes in that so many bytes came to the place that was given last.
    ///
    /// # Panics
    /// If somebody was given a part of it, or the place was shorter.
    pub fn received(&mut self, incoming: &mut Incoming, len: usize) {
        Arc::get_mut(&mut incoming.memory).expect("nobody reads what is not complete").advance(len);
    }

    /// Bytes of long commands that were received and not taken by a put.
    pub fn incoming_bytes(&self) -> u64 {
        self.log.mappings.incoming_bytes()
    }

    /// Gives back what no put took.
    pub fn bury_incoming(&mut self, incoming: Incoming) {
        let bytes = held(&incoming.memory);
        self.log.mappings.take_incoming(bytes);
        self.log.mappings.bury_shared(incoming.memory, bytes);
    }

    /// Takes in that what was received here has gone to another core. It counts as held here until that one has room for it;
    /// see [`Store::collect_sent`].
    pub fn send_incoming(&mut self, incoming: Incoming) {
        self.log.mappings.take_incoming(held(&incoming.memory));
        self.log.mappings.send(incoming.memory);
    }

    /// Whether something received here is on its way to another core.
    #[inline]
    pub fn has_sent(&self) -> bool {
        self.log.mappings.has_sent()
    }

    /// Stops counting what other cores have room for by now.
    pub fn collect_sent(&mut self) {
        self.log.mappings.collect_sent();
    }

    /// Takes in that a put has taken what was received here; it counts as that item's.
    pub fn hand_over_incoming(&mut self, incoming: Incoming) {
        self.log.mappings.take_incoming(held(&incoming.memory));
    }

    /// Takes over the memory of a value that comes from another core; it counts as held from here on.
    pub fn take_over(&mut self, value: &Shared) {
        if let Some((memory, _)) = value.memory::<Mapping>() {
            self.log.mappings.count_incoming(held(&memory));
        }
    }

    /// Sees to that memory when its request is done: a put took it, or it is given back.
    pub fn end_arrived(&mut self, value: Shared, taken: bool) {
        let Some((memory, _)) = value.memory::<Mapping>() else { return };
        drop(value);
        memory.set_adopted();
        let bytes = held(&memory);
        self.log.mappings.take_incoming(bytes);
        if !taken {
            self.log.mappings.bury_shared(memory, bytes);
        }
    }

    /// Lets the put that follows take the memory of a value, if it is of that very value.
    pub fn offer(&mut self, value: &Shared) {
        self.offered = value.memory().map(|(memory, value)| Offer { memory, value });
    }

    /// Takes an offer back; false if there is none any more: a put has taken it.
    pub fn revoke_offer(&mut self) -> bool {
        self.offered.take().is_some()
    }

    /// The memory of a value, if it was offered.
    pub(super) fn take_offered(&mut self, value: &[&[u8]]) -> Option<Offer> {
        let &[value] = value else { return None };
        self.offered.take_if(|offer| offer.is_of(value))
    }

    pub(super) fn is_offered(&self, value: &[u8]) -> bool {
        self.offered.as_ref().is_some_and(|offer| offer.is_of(value))
    }

    /// A step towards room for an offered value, which is held already; true when there is, or nothing more can be done.
    pub(super) fn make_room_for_offer(&mut self, now: Mono) -> bool {
        let done = self.has_room_for_offer(now);
        if done && let Some(offer) = &self.offered {
            offer.memory.set_adopted();
        }
        done
    }

    fn has_room_for_offer(&mut self, now: Mono) -> bool {
        let mut effort = STEP_EFFORT;
        while self.log.held() > self.log_limit() {
            if effort == 0 {
                return false;
            }
            if !self.release_some(&mut effort) && !self.empty_some(now, &mut effort, STEP_BYTES) {
                // Readers of what is gone are being closed, if they have so much.
                return self.withheld_bytes() <= self.options.memory_bytes_max / 4;
            }
        }
        true
    }
}
