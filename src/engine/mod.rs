//! Placeholder; the engine's door.
use crate::clock::{Mono, Now};
use crate::metrics::Counters;
use crate::request::{Outcome, Request};
use crate::store;

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The store's.
    pub store: store::Options,
    /// Seed of the engine's dice (random keys).
    pub seed: u64,
}

/// The single-threaded owner of a core's shard group.
pub struct Engine {
    _options: Options,
    /// counters
    pub counters: Counters,
}

impl Engine {
    /// An engine that holds nothing.
    pub fn new(options: Options) -> Engine {
        Engine { _options: options, counters: Counters::default() }
    }
    /// Does a request.
    pub fn execute(&mut self, _now: Now, _request: &Request<'_>) -> Outcome<'_> {
        todo!()
    }
    /// Housekeeping; answers when to call again at the latest.
    pub fn tick(&mut self, now: Now) -> Mono {
        now.mono.plus_millis(1000)
    }
}
