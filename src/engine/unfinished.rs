//! The one bound of all that is begun on a core and waits for origins: reads that wait, fetches, writes on their way and behind
//! them, commands that pass. Each is counted once for who asked and, as a fetch, once for the question; so what queues before
//! an origin's connections is in it, too.
//!
//! Whoever would be one more is refused at once, with words that say so. What nobody waits for is left for later.

use super::through::Through;
use super::*;

/// One may be unfinished for so many bytes of the core's memory: each takes some hundred bytes beside its value, so that all of
/// them take an eighth or so.
const BYTES_FOR_ONE: u64 = 1 << 10;
/// Never fewer or more than these.
const UNFINISHED_MIN: u64 = 1 << 10;
const UNFINISHED_MAX: u64 = 256 << 10;

/// What one is told who comes beyond the bound.
pub(super) const FULL: &[u8] = b"ERR too many requests wait for origins already; try again later";

impl Through {
    /// All that is begun and not over.
    pub(super) fn unfinished(&self) -> u64 {
        let flights = self.flights.len() + self.flights.waiting();
        (flights + self.write_count + self.passages.len()) as u64
    }
}

impl Engine {
    /// How much may be unfinished at a time.
    pub fn unfinished_max(&self) -> u64 {
        (self.store.memory_bytes_max() / BYTES_FOR_ONE).clamp(UNFINISHED_MIN, UNFINISHED_MAX)
    }

    /// Whether one more thing may begin to wait for an origin.
    pub(super) fn may_wait(&self) -> bool {
        self.through.as_ref().is_none_or(|through| through.unfinished() < self.unfinished_max())
    }

    /// Gauges of the bound.
    pub(super) fn refresh_unfinished(&mut self) {
        self.counters.unfinished = self.through.as_ref().map_or(0, |through| through.unfinished());
        self.counters.unfinished_max = self.unfinished_max();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, CoreId};
    use crate::message::ReturnAddress;
    use crate::origin::keyspace::{Keyspace, Keyspaces};
    use crate::origin::{Found as Fetched, Reply, Ticket};
    use crate::request::{Keeps, Line, Pass, Private, Put};
    use std::sync::Arc;

    const NOW: Now = Now { mono: Mono(1_000_000), wall: crate::clock::Wall(1) };

    fn engine() -> Engine {
        let store =
            store::Options { memory_bytes_max: 1 << 20, item_bytes_max: 1 << 16, hash_secret: [1, 2] };
        let mut engine = Engine::new(Options { store, seed: 3 });
        let rules = Keyspace {
            passes: true,
            fresh_millis: 1000,
            value_bytes_max: 1 << 16,
            attempts_max: 1,
            ..Keyspace::plain()
        };
        engine.set_keyspaces(Arc::new(Keyspaces::new(vec![rules])));
        engine
    }

    /// Serves a request; whether it waits now, after checking that what does not is refused in clear words.
    fn waits(engine: &mut Engine, key: &str, verb: Verb, value: &[u8]) -> bool {
        let connection = ConnectionId { place: 1, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: 7 } };
        match engine.serve(NOW, waiter, &Request { key: key.as_bytes(), value, verb }) {
            None => true,
            Some(outcome) => {
                assert_eq!(outcome.answer, Answer::Fault(Fault::Origin));
                assert_eq!(outcome.value.bytes(), FULL);
                false
            }
        }
    }

    fn asked(engine: &mut Engine) -> Vec<Ticket> {
        let effects = std::iter::from_fn(|| engine.poll_effect());
        let tickets = effects.filter_map(|effect| match effect {
            Effect::Ask { ticket, .. } | Effect::Pass { ticket, .. } => Some(ticket),
            _ => None,
        });
        tickets.collect()
    }

    #[test]
    fn reads_writes_and_commands_that_pass_share_one_bound() {
        let mut engine = engine();
        let max = engine.unfinished_max();
        assert_eq!(max, UNFINISHED_MIN);
        let put = Verb::Put(Put::plain(Expiry::Never));
        let pass =
            Verb::Pass(Pass { protocol: 3, key_bytes: 0, replies: 1, writes: true, line: Line::Shared });
        // A read of its own key counts as who waits and as what is asked; one that joins it only as who waits.
        assert!(waits(&mut engine, "a", Verb::Get, b"") && waits(&mut engine, "a", Verb::Get, b""));
        assert!(waits(&mut engine, "b", put, b"v") && waits(&mut engine, "b", put, b"w"));
        assert!(waits(&mut engine, "c", pass, b"*1\r\n$1\r\nX\r\n"));
        engine.refresh_gauges();
        assert_eq!((engine.counters.unfinished, engine.counters.unfinished_max), (6, max));
        for _ in 6..max {
            assert!(waits(&mut engine, "a", Verb::Get, b""));
        }
        for (verb, value) in [(Verb::Get, b"".as_slice()), (put, b"v"), (pass, b"*1\r\n$1\r\nX\r\n")] {
            assert!(!waits(&mut engine, "d", verb, value), "{verb:?}");
        }
        assert!(!waits(&mut engine, "a", Verb::Get, b""), "who would join is one more, too");
        engine.refresh_gauges();
        assert_eq!((engine.counters.unfinished, engine.counters.unfinished_refused_total), (max, 4));
        // What waits there for others is one more. What begins and ends what is kept there is not: the session counts on it.
        let own = |waits_millis, keeps| {
            let how = Private { waits_millis, keeps, confirms: false, continues: false };
            Verb::Pass(Pass {
                protocol: 3,
                key_bytes: 0,
                replies: 1,
                writes: false,
                line: Line::Private(how),
            })
        };
        assert!(!waits(&mut engine, "d", own(u64::MAX, Keeps::Nothing), b"*1\r\n$1\r\nX\r\n"));
        assert!(waits(&mut engine, "d", own(0, Keeps::Watched), b"*1\r\n$1\r\nX\r\n"));
        engine.refresh_gauges();
        assert_eq!((engine.counters.unfinished, engine.counters.unfinished_refused_total), (max + 1, 5));
        // What is answered makes room, for as many as it was.
        let tickets = asked(&mut engine);
        let found = Fetched { value: b"v".to_vec(), ..Fetched::default() };
        engine.answered(NOW, tickets[0], Reply::Found(found));
        engine.refresh_gauges();
        assert_eq!(engine.counters.unfinished, 4, "two writes and two commands");
        assert!(waits(&mut engine, "d", Verb::Get, b""));
    }

    #[test]
    fn the_bound_goes_with_the_memory() {
        let max = |memory_bytes_max| {
            let store = store::Options { memory_bytes_max, item_bytes_max: 1 << 16, hash_secret: [1, 2] };
            Engine::new(Options { store, seed: 3 }).unfinished_max()
        };
        assert_eq!(max(8 << 20), 8 << 10);
        assert_eq!(max(4 << 30), UNFINISHED_MAX);
    }
}
