//! The order of replies on one connection, when some outcomes are at hand and others are on their way.
//!
//! 1. A request whose outcome is at hand while nothing is awaited is encoded at once; nothing is queued or copied.
//! 2. Otherwise its place in the queue keeps shape, note and (if at hand) outcome.
//! 3. When an outcome arrives, everything from the front that has one is encoded and leaves.
//!
//! ```text
//!   tickets   head                       head + len
//!             | awaited | ready | ready | awaited |
//! ```
//! Bounds: the session stops parsing at `AWAITED_MAX` places, and at `output_soft_bytes` of replies that are written, held
//! here, or expected. How large a reply on its way will be nobody knows, so each counts as the largest of late: the
//! expectation takes a larger one at once and forgets it by an eighth with every smaller one.

use super::journal::Blame;
use super::{Backend, Output, Target};
use crate::clock::Now;
use crate::request::{Answer, Outcome, Request, Shared, Value};
use crate::topology::Node;
use std::collections::VecDeque;

/// Places in one connection's queue; a session that has filled it stops parsing until outcomes come.
pub(crate) const AWAITED_MAX: usize = 4096;
/// Buffers kept for reuse, and the largest that is.
const SPARE_BUFFERS: usize = 64;
const SPARE_BUFFER_BYTES: usize = 4096;
/// What the first replies of a connection are expected to be.
const EXPECTED_BYTES_AT_FIRST: usize = 1 << 20;

/// A codec's writing half: turns an outcome into the bytes of its reply.
pub(crate) trait Encode {
    /// How a reply is written.
    type Shape: Copy;

    /// Appends the reply to `out`. Called in the order of the requests.
    fn encode(
        &mut self,
        now: Now,
        node: &Node,
        shape: Self::Shape,
        note: &[u8],
        outcome: &Outcome<'_>,
        out: &mut Output,
    );

    /// Says for whom an error is counted, if the next reply is one.
    #[inline]
    fn blame(&mut self, _blame: Blame) {}
}

struct Place<S> {
    shape: S,
    blame: Blame,
    answer: Option<Answer>,
    /// The note, then the value if it was copied.
    bytes: Vec<u8>,
    note_len: usize,
    /// The value if it was not.
    shared: Option<Shared>,
}

impl<S> Place<S> {
    /// Keeps the value of an outcome until it is its turn.
    fn keep(&mut self, value: &Value<'_>) {
        match value {
            Value::One(run) => self.bytes.extend_from_slice(run),
            Value::Shared(shared) => self.shared = Some((*shared).clone()),
        }
    }

    fn shared_bytes(&self) -> usize {
        self.shared.as_ref().map_or(0, Shared::len)
    }

    fn value(&self) -> Value<'_> {
        match &self.shared {
            Some(shared) => Value::Shared(shared),
            None => Value::One(&self.bytes[self.note_len..]),
        }
    }
}

/// Replies that cannot be written yet.
pub(crate) struct Order<S> {
    places: VecDeque<Place<S>>,
    /// Ticket of the place at the front.
    head: u32,
    held_bytes: usize,
    /// Bytes of values that wait here and lie elsewhere.
    shared_bytes: usize,
    /// Bytes that a reply on its way is expected to have.
    expected_bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl<S: Copy> Order<S> {
    pub fn new() -> Self {
        Order {
            places: VecDeque::new(),
            head: 0,
            held_bytes: 0,
            shared_bytes: 0,
            expected_bytes: EXPECTED_BYTES_AT_FIRST,
            spare: Vec::new(),
        }
    }

    /// Number of replies that wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no reply waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes held for replies that wait.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    #[inline]
    fn next_ticket(&self) -> u32 {
        self.head.wrapping_add(self.places.len() as u32)
    }

    fn hold(&mut self, shape: S, blame: Blame, note: &[u8], outcome: Option<&Outcome<'_>>) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(note);
        let answer = outcome.map(|outcome| outcome.answer);
        let mut place = Place { shape, blame, answer, bytes, note_len: note.len(), shared: None };
        if let Some(outcome) = outcome {
            place.keep(&outcome.value);
        }
        self.held_bytes += place.bytes.len();
        self.shared_bytes += place.shared_bytes();
        self.places.push_back(place);
    }

    /// Takes in an awaited outcome and encodes what is ready. A ticket that is not awaited is a bug of ours.
    pub fn complete<W: Encode<Shape = S>>(
        &mut self,
        now: Now,
        node: &Node,
        ticket: u32,
        outcome: &Outcome<'_>,
        writer: &mut W,
        out: &mut Output,
    ) {
        let decayed = self.expected_bytes - self.expected_bytes / 8;
        self.expected_bytes = outcome.value.len().max(decayed);
        let index = ticket.wrapping_sub(self.head) as usize;
        let place = &mut self.places[index];
        assert!(place.answer.is_none(), "the outcome of ticket {ticket} came twice");
        if index == 0 {
            let place = self.places.pop_front().expect("indexed above");
            self.head = self.head.wrapping_add(1);
            writer.blame(place.blame);
            writer.encode(now, node, place.shape, &place.bytes, outcome, out);
            self.held_bytes -= place.bytes.len();
            self.reuse(place.bytes);
        } else {
            place.keep(&outcome.value);
            place.answer = Some(outcome.answer);
            self.held_bytes += place.bytes.len() - place.note_len;
            self.shared_bytes += place.shared_bytes();
        }
        while let Some(Place { answer: Some(answer), .. }) = self.places.front() {
            let answer = *answer;
            let place = self.places.pop_front().expect("looked at above");
            self.head = self.head.wrapping_add(1);
            let outcome = Outcome { answer, value: place.value() };
            writer.blame(place.blame);
            writer.encode(now, node, place.shape, &place.bytes[..place.note_len], &outcome, out);
            self.held_bytes -= place.bytes.len();
            self.shared_bytes -= place.shared_bytes();
            self.reuse(place.bytes);
        }
    }

    /// Writes what is no reply, behind all replies that are awaited. The writer sees `Answer::Number(0)`.
    pub fn say<W: Encode<Shape = S>>(
        &mut self,
        now: Now,
        node: &Node,
        (shape, blame): (S, Blame),
        note: &[u8],
        writer: &mut W,
        out: &mut Output,
    ) {
        let outcome = Outcome { answer: Answer::Number(0), value: Value::EMPTY };
        if self.is_empty() {
            writer.blame(blame);
            writer.encode(now, node, shape, note, &outcome, out);
        } else {
            self.hold(shape, blame, note, Some(&outcome));
        }
    }

    fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && bytes.capacity() <= SPARE_BUFFER_BYTES {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

/// What a codec's parsing half has at hand during one call of `serve`: the world behind, the queue and the output.
pub(crate) struct Exchange<'s, B: Backend, W: Encode> {
    pub now: Now,
    pub node: &'s Node,
    pub backend: &'s mut B,
    pub writer: &'s mut W,
    pub order: &'s mut Order<W::Shape>,
    pub out: &'s mut Output,
    /// For whom errors are counted from here on.
    pub blame: Blame,
}

impl<B: Backend, W: Encode> Exchange<'_, B, W> {
    /// Has a request done, and its reply written in `shape` when its turn has come.
    #[inline]
    pub fn ask(&mut self, target: Target, request: &Request<'_>, shape: W::Shape, note: &[u8]) {
        match self.backend.call(target, request, self.order.next_ticket()) {
            Some(outcome) if self.order.is_empty() => {
                self.writer.blame(self.blame);
                self.writer.encode(self.now, self.node, shape, note, &outcome, self.out);
            }
            outcome => self.order.hold(shape, self.blame, note, outcome.as_ref()),
        }
    }

    /// Writes a reply that needs no request, when its turn has come. The writer sees `Answer::Number(0)`.
    #[inline]
    pub fn say(&mut self, shape: W::Shape, note: &[u8]) {
        self.order.say(self.now, self.node, (shape, self.blame), note, self.writer, self.out);
    }

    /// Whether the next command may be executed: room for its replies, and for requests that are sent on.
    #[inline]
    pub fn has_room(&self, output_soft_bytes: usize) -> bool {
        if !self.backend.ready() {
            return false;
        }
        let written = self.out.total();
        if self.order.is_empty() {
            return written < output_soft_bytes;
        }
        let held = self.order.held_bytes + self.order.shared_bytes;
        let coming = held + self.order.len() * self.order.expected_bytes;
        self.order.len() < AWAITED_MAX && written + coming < output_soft_bytes
    }
}
