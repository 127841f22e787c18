//! Large values on their way in: room is made and bytes are copied step by step, while the value waits where it came in.
//!
//! ```text
//! land, land, land .. : not yet        each: some segments emptied, some pieces copied, 100 us or so
//! land                : ready    -->   put: takes what has landed, or makes do with the room there is
//! ```
//! One value lands at a time; others wait for it, or until nobody asked for it for a while. What it has taken so far counts as
//! held, and is given back if the put does not follow. Values that fit into a segment are not copied ahead; they only wait
//! until there is a segment for them.

use super::mappings::Arrival;
use super::memory::Mapping;
use super::upkeep::CHUNKS_OF_PUT;
use super::{Probe, Store};
use crate::clock::Mono;

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 64 << 10;
/// What one step may do, and what copying a piece (into memory used for the first time) costs of it, in units of 100 ns.
const STEP_EFFORT: u32 = 800;
const PIECE_EFFORT: u32 = 300;
/// After so long without a step somebody else may land.
const ABANDONED_MILLIS: u64 = 100;

/// A value on its way in.
#[derive(Debug)]
pub(super) struct Landing {
    /// Whose it is.
    from: u64,
    hash: u64,
    len: usize,
    arrival: Arrival,
    stepped: Mono,
}

/// A value that is to land.
#[derive(Clone, Copy, Debug)]
pub struct Lander<'a> {
    /// Whoever brings it, by a number that no other has at the time; the same from step to step.
    pub from: u64,
    /// The value, whole and the same from step to step.
    pub value: &'a [u8],
    /// Whether an item of that key has to go for it in any case.
    pub replaces: bool,
}

impl Store {
    /// Does a bounded step towards storing a value of this key; true when there is nothing more to be done ahead: a put that
    /// follows at once takes the value that landed, and is a bounded step itself. False: ask again soon, after others.
    ///
    /// A put that does not follow is to be told by [`Store::stop_landing`].
    pub fn land(&mut self, now: Mono, probe: Probe, key: &[u8], lander: &Lander<'_>) -> bool {
        let len = lander.value.len();
        let mut effort = STEP_EFFORT;
        if !self.acceptable(key.len(), len) {
            return true;
        }
        if self.log.item_bytes_max(key.len(), len) <= self.log.inline_bytes_max() {
            while self.log.chunks_available(self.log_limit()) < CHUNKS_OF_PUT {
                if effort == 0 {
                    return false;
                }
                if !self.release_some(&mut effort) && !self.empty_some(now, &mut effort, len) {
                    return true;
                }
            }
            return true;
        }
        if self.is_offered(lander.value) {
            return self.make_room_for_offer(now);
        }
        let is_ours = |landing: &Landing| landing.from == lander.from;
        match &self.landing {
            Some(landing) if !is_ours(landing) && now < landing.stepped.plus_millis(ABANDONED_MILLIS) => {
                return false;
            }
            Some(landing) if is_ours(landing) && (landing.hash, landing.len) == (probe.hash, len) => {}
            _ => {
                self.stop_landing();
                if !self.may_ever_fit(len) {
                    return true;
                }
                let Some(mapping) = Mapping::new(len) else { return true };
                let arrival = Arrival { mapping, filled: 0 };
                self.landing =
                    Some(Landing { from: lander.from, hash: probe.hash, len, arrival, stepped: now });
            }
        }
        let Some(mut landing) = self.landing.take() else { unreachable!("made above if it was not there") };
        landing.stepped = now;
        while landing.arrival.filled < len && effort > 0 {
            let at = landing.arrival.filled;
            let piece = &lander.value[at..len.min(at + PIECE_BYTES)];
            if self.has_mapping_room(piece.len()) {
                self.log.mappings.fill(&mut landing.arrival, piece);
                effort = effort.saturating_sub(PIECE_EFFORT);
                continue;
            }
            if lander.replaces && self.drop_large(probe, key) {
                continue;
            }
            if !self.release_some(&mut effort) && !self.empty_some(now, &mut effort, PIECE_BYTES) {
                // Nothing is left to evict: the put will say so.
                self.log.mappings.bury_arrival(landing.arrival);
                return true;
            }
        }
        let done = landing.arrival.filled == len;
        self.landing = Some(landing);
        done
    }

    /// Gives up a value that is landing, or has landed and was not put.
    pub fn stop_landing(&mut self) {
        if let Some(landing) = self.landing.take() {
            self.log.mappings.bury_arrival(landing.arrival);
        }
    }

    /// The value that has landed for this key.
    pub(super) fn take_landed(&mut self, probe: Probe, len: usize) -> Option<Arrival> {
        let landed = |landing: &mut Landing| {
            (landing.hash, landing.len, landing.arrival.filled) == (probe.hash, len, len)
        };
        self.landing.take_if(landed).map(|landing| landing.arrival)
    }

    /// Gives up a value whose bringer has not come back.
    pub(super) fn forget_landing(&mut self, now: Mono) {
        let late = |landing: &Landing| now >= landing.stepped.plus_millis(ABANDONED_MILLIS);
        if self.landing.as_ref().is_some_and(late) {
            self.stop_landing();
        }
    }
}
