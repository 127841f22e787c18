//! What cores say to each other: batches of requests and of their outcomes, packed for a ring.
//!
//! ```text
//! Batch  requests: [Hop | Hop | ..]     returns: [Return | Return | ..]     hints: [Hint | Hint | ..]
//!        bytes:    [key value key value .. | value value ..]              [key key ..]
//! ```
//! A batch holds everything that one turn of a core has for one other core; the lengths in the records cut `bytes`.

use crate::ids::{ConnectionId, CoreId};
use crate::request::{Answer, Outcome, Request, Shared, Value, Verb};
use std::cell::Cell;

/// Where an outcome belongs: a connection of the asking core and the place of the reply in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAddress {
    /// The connection.
    pub connection: ConnectionId,
    /// The reply's ticket ([`crate::wire::Session::complete`]).
    pub ticket: u32,
}

/// Most hints of one batch: a core that is slow to take them loses some.
pub const HINTS_MAX: usize = 8192;

/// A request on its way; its key and value are the next bytes of the batch.
#[derive(Clone, Copy, Debug)]
struct Hop {
    address: ReturnAddress,
    verb: Verb,
    key_len: u32,
    value_len: u32,
    /// The value is the next of `arrived` instead.
    arrived: bool,
}

/// An outcome on its way back; its value is the next bytes of the batch.
#[derive(Clone, Copy, Debug)]
struct Return {
    address: ReturnAddress,
    answer: Answer,
    value_len: u32,
    /// The value is the next of `shared` instead.
    shared: bool,
}

/// What a core tells the owner of a key of its part in what clients read, and in what may be fetched ahead. Keys go by their
/// numbers, of which the upper ten bits are the shard. Nobody waits for a hint, and one that is lost costs a guess.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hint {
    /// A client of that core read the key, and it was not held, or only because it had been fetched ahead. For the client's core.
    Missed {
        /// The client's core.
        core: u16,
        /// The client.
        connection: ConnectionId,
        /// The key.
        key: u32,
    },
    /// Another key came behind it.
    Followed {
        /// The key.
        key: u32,
        /// The other one.
        follower: u32,
    },
    /// The key may be worth fetching.
    Likely {
        /// The key.
        key: u32,
        /// How likely.
        score: f32,
        /// Why, as the predictor packs it.
        reason: u64,
        /// Bytes of its text that go with the hint; 0 where its owner knows it.
        text_len: u16,
    },
    /// What became of a key that was fetched for this key's sake.
    Rated {
        /// The key.
        key: u32,
        /// The one that was fetched.
        follower: u32,
        /// From 0, of no use, to 1.
        worth: f32,
    },
}

impl Hint {
    /// The core that it is for, if not the owner of its key.
    pub fn core(&self) -> Option<CoreId> {
        match *self {
            Hint::Missed { core, .. } => Some(CoreId(core)),
            _ => None,
        }
    }

    /// The key that it is about.
    pub fn key(&self) -> u32 {
        match *self {
            Hint::Missed { key, .. }
            | Hint::Followed { key, .. }
            | Hint::Likely { key, .. }
            | Hint::Rated { key, .. } => key,
        }
    }

    /// Bytes of text that go with it.
    pub fn text_len(&self) -> usize {
        match *self {
            Hint::Likely { text_len, .. } => text_len.into(),
            _ => 0,
        }
    }
}

/// What has become of the memory of a long value that another core received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing yet: it counts where it was received.
    Coming,
    /// It counts here.
    Counted,
    /// It is an item's.
    Taken,
}

/// What one turn of a core has for one other core.
#[derive(Debug, Default)]
pub struct Batch {
    requests: Vec<Hop>,
    request_bytes: Vec<u8>,
    /// Long values of requests, in the memory that they were received into.
    arrived: Vec<(Shared, Cell<Arrived>)>,
    returns: Vec<Return>,
    return_bytes: Vec<u8>,
    /// Long values on their way back, which nobody copies.
    shared: Vec<Shared>,
    /// Requests of the receiver that wait for an origin: their returns come late.
    parked: usize,
    /// Returns of requests that were parked before.
    late: usize,
    hints: Vec<Hint>,
    hint_bytes: Vec<u8>,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.returns.is_empty() && self.parked == 0 && self.hints.is_empty()
    }

    /// Number of requests in it.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// Number of returns in it.
    pub fn return_count(&self) -> usize {
        self.returns.len()
    }

    /// Bytes of keys and values in it.
    pub fn byte_count(&self) -> usize {
        self.request_bytes.len() + self.return_bytes.len()
    }

    /// Bytes of values on their way back.
    pub fn return_byte_count(&self) -> usize {
        self.return_bytes.len()
    }

    /// Adds a request.
    pub fn push_request(&mut self, address: ReturnAddress, request: &Request<'_>) {
        self.request_bytes.extend_from_slice(request.key);
        self.request_bytes.extend_from_slice(request.value);
        self.requests.push(Hop {
            address,
            verb: request.verb,
            key_len: request.key.len() as u32,
            value_len: request.value.len() as u32,
            arrived: false,
        });
    }

    /// Adds a request whose value is this one.
    pub fn push_request_of_arrived(
        &mut self,
        address: ReturnAddress,
        request: &Request<'_>,
        arrived: Shared,
    ) {
        debug_assert!(arrived.is(request.value));
        self.push_request(address, &Request { value: b"", ..*request });
        self.requests.last_mut().expect("pushed above").arrived = true;
        self.arrived.push((arrived, Cell::new(Arrived::Coming)));
    }

    /// The memory of values that came so, and what has become of it.
    pub fn arrived(&self) -> impl Iterator<Item = (&Shared, &Cell<Arrived>)> {
        self.arrived.iter().map(|(value, became)| (value, became))
    }

    /// Takes out the memory of such values, when the requests are done.
    pub fn take_arrived(&mut self) -> impl Iterator<Item = (Shared, Arrived)> {
        self.arrived.drain(..).map(|(value, became)| (value, became.get()))
    }

    /// Adds a hint with its text; false, and it is lost, if there are [`HINTS_MAX`] already.
    pub fn push_hint(&mut self, hint: Hint, text: &[u8]) -> bool {
        if self.hints.len() >= HINTS_MAX {
            return false;
        }
        debug_assert_eq!(hint.text_len(), text.len());
        self.hints.push(hint);
        self.hint_bytes.extend_from_slice(text);
        true
    }

    /// The hints, in the order they were added, with their texts.
    pub fn hints(&self) -> impl Iterator<Item = (Hint, &[u8])> {
        let mut rest = self.hint_bytes.as_slice();
        self.hints.iter().map(move |hint| {
            let (text, tail) = rest.split_at(hint.text_len());
            rest = tail;
            (*hint, text)
        })
    }

    /// Adds an outcome.
    pub fn push_return(&mut self, address: ReturnAddress, outcome: &Outcome<'_>) {
        let shared = match outcome.value {
            Value::One(run) => {
                self.return_bytes.extend_from_slice(run);
                false
            }
            Value::Shared(shared) => {
                self.shared.push(shared.clone());
                true
            }
        };
        let value_len = if shared { 0 } else { outcome.value.len() as u32 };
        self.returns.push(Return { address, answer: outcome.answer, value_len, shared });
    }

    /// Adds an outcome of a request that was parked.
    pub fn push_late_return(&mut self, address: ReturnAddress, outcome: &Outcome<'_>) {
        self.push_return(address, outcome);
        self.late += 1;
    }

    /// Notes that a request of the receiver waits for an origin and burdens nobody until its outcome comes.
    pub fn park(&mut self) {
        self.parked += 1;
    }

    /// Requests of the receiver that this batch settles: returned in time, or parked.
    pub fn settled_count(&self) -> usize {
        self.returns.len() - self.late + self.parked
    }

    /// The requests, in the order they were added.
    pub fn requests(&self) -> impl Iterator<Item = (ReturnAddress, Request<'_>)> + Clone {
        let mut rest = self.request_bytes.as_slice();
        let mut arrived = self.arrived.iter();
        self.requests.iter().map(move |hop| {
            let (key, tail) = rest.split_at(hop.key_len as usize);
            let (mut value, tail) = tail.split_at(hop.value_len as usize);
            rest = tail;
            if hop.arrived {
                value = arrived.next().expect("one for each request that says so").0.bytes();
            }
            (hop.address, Request { key, value, verb: hop.verb })
        })
    }

    /// The returns, in the order they were added.
    pub fn returns(&self) -> impl Iterator<Item = (ReturnAddress, Outcome<'_>)> {
        let mut rest = self.return_bytes.as_slice();
        let mut shared = self.shared.iter();
        self.returns.iter().map(move |back| {
            let (value, tail) = rest.split_at(back.value_len as usize);
            rest = tail;
            let value = match back.shared {
                true => Value::Shared(shared.next().expect("one for each return that says so")),
                false => Value::One(value),
            };
            (back.address, Outcome { answer: back.answer, value })
        })
    }

    /// Empties it for another use; memory beyond `keep_bytes` is given back.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.requests.clear();
        self.arrived.clear();
        self.returns.clear();
        self.shared.clear();
        (self.parked, self.late) = (0, 0);
        self.hints.clear();
        self.hint_bytes.clear();
        self.request_bytes.clear();
        self.return_bytes.clear();
        self.request_bytes.shrink_to(keep_bytes);
        self.return_bytes.shrink_to(keep_bytes);
        self.hint_bytes.shrink_to(keep_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Fault;
    use std::sync::Arc;

    #[test]
    fn what_went_in_comes_out_in_order() {
        let address =
            |place, ticket| ReturnAddress { connection: ConnectionId { place, generation: 3 }, ticket };
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        for i in 0..4u32 {
            let key = vec![b'k'; i as usize + 1];
            let value = vec![b'v'; i as usize * 2];
            batch.push_request(address(i, 7), &Request { key: &key, value: &value, verb: Verb::Get });
            let both = [key, value].concat();
            let shared = Shared::new(Arc::new(both.clone()));
            let value = if i % 2 == 0 { Value::One(&both) } else { Value::Shared(&shared) };
            batch.push_return(address(9, i), &Outcome { answer: Answer::Fault(Fault::Busy), value });
            let text_len = i as u16 % 2 * 3;
            let hint = Hint::Likely { key: i, score: 0.5, reason: 7, text_len };
            assert!(batch.push_hint(hint, &b"abc"[..text_len.into()]));
        }
        for (i, (to, request)) in batch.requests().enumerate() {
            assert_eq!(to, address(i as u32, 7));
            assert_eq!((request.key.len(), request.value.len()), (i + 1, i * 2));
        }
        let returns: Vec<_> = batch.returns().collect();
        assert_eq!(returns.len(), 4);
        assert_eq!(returns[3].1.value.bytes(), b"kkkkvvvvvv");
        assert_eq!(returns[2].1.value.bytes(), b"kkkvvvv");
        let hints: Vec<_> = batch.hints().map(|(hint, text)| (hint.key(), text)).collect();
        assert_eq!(hints, [(0, b"".as_slice()), (1, b"abc"), (2, b""), (3, b"abc")]);
        while batch.push_hint(Hint::Followed { key: 1, follower: 2 }, b"") {}
        assert_eq!(batch.hints().count(), HINTS_MAX, "hints are bounded");
        batch.clear(0);
        assert!(batch.is_empty() && batch.byte_count() == 0 && batch.hints().count() == 0);
    }
}
