//! The real engine and store on a trace, without sockets: a get per request, and a put of what was missed.

use super::trace::{Trace, mix};
use crate::clock::{Mono, Now, Wall};
use crate::engine::{self, Engine};
use crate::request::{Answer, Expiry, Put, Remove, Request, Verb};
use crate::store;

/// Least memory that a store can be given: below, it is all segments on the way in and out.
pub const MEMORY_BYTES_MIN: u64 = 128 << 10;
/// Virtual time between requests of a trace that does not tell theirs.
const GAP_NANOS: u64 = 10_000;
/// Requests between two ticks, as a core under load would have them in a turn.
const TICK_REQUESTS: u32 = 16;
/// The engine's secret and seed: the same trace gives the same misses.
const SECRET: [u64; 2] = [0x5eed, 0xcafe];

/// An engine that is driven by ids.
pub struct Ours<'t> {
    engine: Engine,
    trace: &'t Trace,
    /// As many bytes as the largest value has.
    value: Vec<u8>,
    since_tick: u32,
    /// Nanoseconds after which what is put ends.
    life_nanos: Option<u64>,
}

impl<'t> Ours<'t> {
    /// An engine with so much memory for everything it keeps, at least [`MEMORY_BYTES_MIN`].
    pub fn new(memory_bytes_max: u64, trace: &'t Trace) -> Ours<'t> {
        let largest = trace.sizes.iter().max().copied().unwrap_or(0) as usize;
        let store = store::Options { memory_bytes_max, item_bytes_max: usize::MAX, hash_secret: SECRET };
        let engine = Engine::new(engine::Options { store, seed: 1 });
        Ours { engine, trace, value: vec![0x5a; largest], since_tick: 0, life_nanos: None }
    }

    /// Changes the most bytes that it may hold.
    pub fn set_memory_bytes_max(&mut self, bytes: u64) {
        self.engine.set_memory_bytes_max(bytes);
    }

    /// What is put from now on ends after so many nanoseconds.
    pub fn set_life(&mut self, nanos: u64) {
        self.life_nanos = Some(nanos);
    }

    /// The moment of a row, for the engine.
    pub fn moment(&self, row: usize) -> u64 {
        1 + self.trace.times.get(row).copied().unwrap_or(row as u64 * GAP_NANOS)
    }

    /// A request: true if the item is held, which counts as a use.
    #[inline]
    pub fn touch(&mut self, nanos: u64, id: u32) -> bool {
        let now = now(nanos);
        self.since_tick += 1;
        if self.since_tick == TICK_REQUESTS {
            self.since_tick = 0;
            self.engine.tick(now);
        }
        let key = self.key(id);
        let request = Request { key: &key, value: &[], verb: Verb::Get };
        let outcome = self.engine.execute(now, &request);
        if let Answer::Item(item) = outcome.answer {
            assert_eq!(item.len, self.trace.sizes[id as usize], "a hit has the value that was put");
            return true;
        }
        false
    }

    /// Takes in an item that was fetched; what does not fit is not held.
    pub fn admit(&mut self, nanos: u64, id: u32) {
        let key = self.key(id);
        let value = &self.value[..self.trace.sizes[id as usize] as usize];
        let end = self.life_nanos.map_or(Expiry::Never, |life| Expiry::At(Mono(nanos.saturating_add(life))));
        let request = Request { key: &key, value, verb: Verb::Put(Put::plain(end)) };
        while !self.engine.land(now(nanos), 0, &request) {}
        self.engine.execute(now(nanos), &request);
    }

    /// As [`Ours::admit`], of an item that nobody asked for.
    pub fn admit_unasked(&mut self, nanos: u64, id: u32) {
        self.engine.set_unasked(true);
        self.admit(nanos, id);
        self.engine.set_unasked(false);
    }

    /// Such an item was asked for.
    pub fn credit(&mut self, id: u32) {
        let key = self.key(id);
        self.engine.credit(&key);
    }

    /// Drops an item, if it is held.
    pub fn invalidate(&mut self, nanos: u64, id: u32) {
        let key = self.key(id);
        let request = Request { key: &key, value: &[], verb: Verb::Remove(Remove::PLAIN) };
        self.engine.execute(now(nanos), &request);
    }

    /// Whether an item is held; no use.
    pub fn holds(&mut self, nanos: u64, id: u32) -> bool {
        let key = self.key(id);
        let request = Request { key: &key, value: &[], verb: Verb::Peek };
        matches!(self.engine.execute(now(nanos), &request).answer, Answer::Item(_))
    }

    /// Items held.
    pub fn items(&mut self) -> u64 {
        self.engine.refresh_gauges();
        self.engine.counters.items
    }

    /// Bytes that the store holds from the system.
    pub fn held_bytes(&mut self) -> u64 {
        self.engine.refresh_gauges();
        self.engine.counters.store_bytes
    }

    /// Keys are eight bytes without order, so that the index sees what it sees with hashed keys.
    fn key(&self, id: u32) -> [u8; 8] {
        mix(self.trace.names[id as usize]).to_le_bytes()
    }
}

fn now(nanos: u64) -> Now {
    Now { mono: Mono(nanos), wall: Wall(nanos / Mono::NANOS_PER_MILLI) }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Name;
    use super::super::policy::tests::{different, misses, skewed, trace_of};
    use super::*;

    fn ours_misses(bytes: u64, trace: &Trace) -> u64 {
        let mut ours = Ours::new(bytes, trace);
        let mut missed = 0;
        for (row, &id) in trace.ids.iter().enumerate() {
            if !ours.touch(ours.moment(row), id) {
                missed += 1;
                ours.admit(ours.moment(row), id);
            }
            assert!(row % 999 != 0 || ours.held_bytes() <= bytes);
        }
        missed
    }

    #[test]
    fn the_store_keeps_its_limit_and_withstands_sweeps_better_than_lru() {
        let trace = trace_of(&skewed(60_000, 6000), |_| 1000);
        let (ours, lru) = (ours_misses(1_200_000, &trace), misses(Name::Lru, 1_200_000, &trace));
        assert!(ours < lru, "{ours} misses, LRU {lru}");
        assert_eq!(
            ours_misses(20_000_000, &trace),
            different(&trace),
            "with room for all nothing is missed twice"
        );
    }
}
