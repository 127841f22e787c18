//! Commands that an origin does as they are, because we do not do them: they go out in the order in which the asking core has
//! them, and what is held of their keys is forgotten, on whichever core it is, before they are answered.
//!
//! ```text
//!   serve (Verb::Pass) --> Effect::Pass --> passed --> Effect::Forget for each key --> forgotten .. --> Effect::Answer
//!                                              \-- reads only ---------------------------------------> Effect::Answer
//! ```
//! What must hold: a write is answered only when each of its keys was invalidated since the origin did it, whatever the origin
//! answered and even if it did not answer. So whoever asks after the answer does not see what was held before.

use super::through::{Effect, Sabotage, Through, Way};
use super::*;
use crate::hash::KeyHasher;
use crate::origin::pool::Failure;
use crate::origin::{Ask, Reply as Told, Ticket, What};
use crate::request::{Line, Pass};
use std::collections::HashMap;
use std::rc::Rc;

/// Commands on their way, and their bytes.
const PASSAGES_MAX: usize = 16 << 10;
const PASSAGE_BYTES_MAX: usize = 64 << 20;

/// Names a command that passes, for the core that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passage(pub u32);

/// A command on its way.
struct Passing {
    waiter: Waiter,
    keyspace: usize,
    /// Keys to forget when it is done; empty if it only reads.
    keys: Vec<Box<[u8]>>,
    bytes: usize,
    /// What came of it, and keys not known to be forgotten.
    outcome: Option<(Answer, Rc<[u8]>)>,
    left: usize,
}

/// All commands on their way.
pub(super) struct Passages {
    under_way: HashMap<u32, Passing, KeyHasher>,
    by_ticket: HashMap<Ticket, u32, KeyHasher>,
    next: u32,
    bytes: usize,
}

impl Passages {
    pub fn new(secret: [u64; 2]) -> Passages {
        Passages {
            under_way: HashMap::with_hasher(KeyHasher::new(secret)),
            by_ticket: HashMap::with_hasher(KeyHasher::new(secret)),
            next: 0,
            bytes: 0,
        }
    }

    /// How many are on their way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    pub fn is_of(&self, ticket: Ticket) -> bool {
        !self.by_ticket.is_empty() && self.by_ticket.contains_key(&ticket)
    }
}

impl Through {
    pub(super) fn pass(&mut self, waiter: Waiter, key: &[u8], value: &[u8], pass: Pass) -> Way {
        let key = (!key.is_empty()).then_some(key);
        // Keyspaces may have been replaced since the session looked.
        let Some(id) = self.keyspaces.passing(key) else {
            return Way::Answer(Answer::Fault(Fault::Unsupported));
        };
        let (keyspace, index) = (self.keyspaces[id].clone(), usize::from(id.0));
        let full = self.passages.under_way.len() >= PASSAGES_MAX
            || self.passages.bytes + value.len() > PASSAGE_BYTES_MAX;
        if full && pass.line.refusable() {
            self.tally(index).failed += 1;
            return Way::Answer(Answer::Fault(Fault::Busy));
        }
        let (keys, bytes) = value.split_at(pass.key_bytes as usize);
        let keys = if pass.writes { keys_of(keys).map(Box::from).collect() } else { Vec::new() };
        let ticket = self.ticket();
        let passages = &mut self.passages;
        passages.next = passages.next.wrapping_add(1);
        passages.bytes += value.len();
        passages.by_ticket.insert(ticket, passages.next);
        let passing = Passing { waiter, keyspace: index, keys, bytes: value.len(), outcome: None, left: 0 };
        passages.under_way.insert(passages.next, passing);
        self.tally(index).passed += 1;
        self.tally(index).asked += 1;
        let bytes = bytes.to_vec();
        let (what, private) = match pass.line {
            Line::Private(how) if how.confirms => {
                (What::Subscribe { bytes, confirms: pass.replies }, Some((waiter.address.connection, how)))
            }
            Line::Private(how) => {
                (What::Command { bytes, replies: pass.replies }, Some((waiter.address.connection, how)))
            }
            Line::Shared => (What::Command { bytes, replies: pass.replies }, None),
        };
        let ask = Ask { key: key.unwrap_or_default().to_vec(), what };
        let protocol = pass.protocol;
        self.effects.push_back(Effect::Pass { origin: keyspace.origin, protocol, ticket, ask, private });
        Way::Wait
    }

    /// A command came back: with a reply, or (nobody knows whether it was done) without.
    pub(super) fn passed(&mut self, ticket: Ticket, reply: Result<Told, Failure>) {
        let Some(number) = self.passages.by_ticket.remove(&ticket) else { return };
        let passing = self.passages.under_way.get_mut(&number).expect("it has a ticket");
        let outcome: (Answer, Rc<[u8]>) = match reply {
            Ok(Told::Raw(bytes)) => (Answer::Page { cursor: 0 }, bytes.into()),
            Ok(Told::Refused(text)) => (Answer::Fault(Fault::Origin), text.into()),
            Ok(_) => {
                let text = format!("ERR {}", Failure::Broken);
                (Answer::Fault(Fault::Origin), text.into_bytes().into())
            }
            Err(why) => {
                let done = if passing.keys.is_empty() { "" } else { "; nobody knows whether it did this" };
                (Answer::Fault(Fault::Origin), format!("ERR {why}{done}").into_bytes().into())
            }
        };
        let failed = matches!(outcome.0, Answer::Fault(_));
        passing.outcome = Some(outcome);
        let (mut keys, index) = (std::mem::take(&mut passing.keys), passing.keyspace);
        passing.left = keys.len();
        self.tally(index).failed += u64::from(failed);
        if self.sabotaged(Sabotage::ForgetOneOnly) {
            keys.truncate(1);
            self.passages.under_way.get_mut(&number).expect("it has a ticket").left = keys.len();
        }
        if keys.is_empty() || self.sabotaged(Sabotage::AnswerUnforgotten) {
            self.end_passage(number);
        }
        let passage = Passage(number);
        self.effects.extend(keys.into_iter().map(|key| Effect::Forget { passage, key }));
    }

    fn end_passage(&mut self, number: u32) {
        let passing = self.passages.under_way.remove(&number).expect("callers look");
        self.passages.bytes -= passing.bytes;
        let (answer, value) = passing.outcome.expect("it has come back");
        self.effects.push_back(Effect::Answer { waiter: passing.waiter, answer, value });
    }
}

impl Engine {
    /// Whether there are keys whose origin does commands as they are.
    #[inline]
    pub fn passes(&self) -> bool {
        self.through.as_ref().is_some_and(|through| through.keyspaces.passes())
    }

    /// Which origin does commands on this key as they are; `None` instead of a key: those without keys.
    pub fn passes_to(&self, key: Option<&[u8]>) -> Option<crate::origin::OriginId> {
        let keyspaces = &self.through.as_ref()?.keyspaces;
        keyspaces.passing(key).map(|id| keyspaces[id].origin)
    }

    /// Which origin has all keys and does commands about all of them as they are.
    pub fn passes_all_to(&self) -> Option<crate::origin::OriginId> {
        self.through.as_ref()?.keyspaces.passing_all()
    }

    /// A key of [`Effect::Forget`] was invalidated by the core that owns it.
    pub fn forgotten(&mut self, passage: Passage) {
        let Some(through) = &mut self.through else { return };
        let Some(passing) = through.passages.under_way.get_mut(&passage.0) else { return };
        passing.left = passing.left.saturating_sub(1);
        if passing.left == 0 && passing.outcome.is_some() {
            through.end_passage(passage.0);
        }
    }
}

/// Keys, each behind its length.
fn keys_of(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        bytes = rest;
        Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, CoreId};
    use crate::message::ReturnAddress;
    use crate::origin::OriginId;
    use crate::origin::keyspace::{Keys, Keyspace, Keyspaces};
    use crate::request::Put;
    use std::sync::Arc;

    const NOW: Now = Now { mono: Mono(1_000_000), wall: crate::clock::Wall(1) };

    fn engine() -> Engine {
        let store =
            store::Options { memory_bytes_max: 4 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        let mut engine = Engine::new(Options { store, seed: 3 });
        engine.set_keyspaces(Arc::new(Keyspaces::new(vec![Keyspace {
            keys: Keys::Prefix(b"k:".to_vec()),
            origin: OriginId(4),
            passes: true,
            fresh_millis: 1000,
            attempts_max: 1,
            ..Keyspace::plain()
        }])));
        engine
    }

    fn waiter(ticket: u32) -> Waiter {
        let connection = ConnectionId { place: 1, generation: 0 };
        Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket } }
    }

    fn pass(engine: &mut Engine, number: u32, keys: &[&str], writes: bool) -> Ticket {
        let mut value = Vec::new();
        for key in keys {
            value.extend_from_slice(&(key.len() as u32).to_le_bytes());
            value.extend_from_slice(key.as_bytes());
        }
        let verb = Verb::Pass(Pass {
            protocol: 3,
            key_bytes: value.len() as u32,
            replies: 1,
            writes,
            line: Line::Shared,
        });
        value.extend_from_slice(b"*1\r\n$1\r\nX\r\n");
        let key = keys.first().map_or(b"".as_slice(), |key| key.as_bytes());
        assert!(engine.serve(NOW, waiter(number), &Request { key, value: &value, verb }).is_none());
        match engine.poll_effect() {
            Some(Effect::Pass { origin: OriginId(4), protocol: 3, ticket, ask, private: None }) => {
                let bytes = b"*1\r\n$1\r\nX\r\n".to_vec();
                assert_eq!(ask.what, What::Command { bytes, replies: 1 });
                ticket
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_write_is_answered_when_all_its_keys_were_forgotten_and_not_before() {
        let mut engine = engine();
        let ticket = pass(&mut engine, 7, &["k:a", "k:b"], true);
        assert!(engine.poll_effect().is_none());
        engine.answered(NOW, ticket, Told::Raw(b":1\r\n".to_vec()));
        let mut passages = Vec::new();
        for wanted in ["k:a", "k:b"] {
            let Some(Effect::Forget { passage, key }) = engine.poll_effect() else { panic!("{wanted}") };
            assert_eq!(&*key, wanted.as_bytes());
            passages.push(passage);
        }
        engine.forgotten(passages[0]);
        assert!(engine.poll_effect().is_none(), "one key may still be held");
        engine.forgotten(passages[1]);
        let Some(Effect::Answer { waiter: to, answer: Answer::Page { .. }, value }) = engine.poll_effect()
        else {
            panic!("no answer")
        };
        assert_eq!((to, &*value), (waiter(7), b":1\r\n".as_slice()));
        engine.forgotten(passages[1]);
        assert!(engine.poll_effect().is_none(), "once");
    }

    #[test]
    fn a_write_that_fails_has_its_keys_forgotten_all_the_same_and_a_read_forgets_nothing() {
        let mut engine = engine();
        let ticket = pass(&mut engine, 7, &["k:a"], true);
        engine.failed(NOW, ticket, Failure::Overdue);
        let Some(Effect::Forget { passage, .. }) = engine.poll_effect() else { panic!("not forgotten") };
        engine.forgotten(passage);
        let Some(Effect::Answer { answer: Answer::Fault(Fault::Origin), value, .. }) = engine.poll_effect()
        else {
            panic!("no answer")
        };
        assert!(value.ends_with(b"nobody knows whether it did this"), "{}", String::from_utf8_lossy(&value));
        let ticket = pass(&mut engine, 8, &["k:a"], false);
        engine.answered(NOW, ticket, Told::Raw(b"$-1\r\n".to_vec()));
        assert!(matches!(engine.poll_effect(), Some(Effect::Answer { .. })));
        assert!(engine.poll_effect().is_none());
    }

    #[test]
    fn what_no_origin_does_is_refused() {
        let mut engine = engine();
        let line = Line::Shared;
        let verb = Verb::Pass(Pass { protocol: 2, key_bytes: 0, replies: 1, writes: true, line });
        let request = Request { key: b"other", value: b"", verb };
        let outcome = engine.serve(NOW, waiter(1), &request).expect("at once");
        assert_eq!(outcome.answer, Answer::Fault(Fault::Unsupported));
        assert!(engine.poll_effect().is_none());
        // Nothing of it touches what is cached.
        let put = Request { key: b"other", value: b"v", verb: Verb::Put(Put::plain(Expiry::Never)) };
        assert!(engine.serve(NOW, waiter(2), &put).is_some());
    }
}
