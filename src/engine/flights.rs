//! Single flight: for each key at most one fetch that readers may join, and who waits for it.
//!
//! ```text
//!   first reader --> begin --> [ flight ] <-- wait -- later readers (answered in this order)
//!                                 |  land: all waiters and whether the answer may be stored
//!   a write or invalidation ------+  part: nobody joins it any more, nothing of it is stored;
//!                                          those who wait since before still get its answer
//! ```
//! A flight is parted when the write is acknowledged, not when it begins: until then either value is right, and what the
//! flight stored goes with the acknowledgement. Bounds: flights, and waiters of all flights; a waiter beyond them is refused.

use crate::clock::Mono;
use crate::hash::KeyHasher;
use crate::ids::CoreId;
use crate::message::ReturnAddress;
use crate::origin::Ticket;
use crate::origin::keyspace::{Keyspace, KeyspaceId};
use crate::origin::pool::Cause;
use crate::request::Verb;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Most flights of one core.
const FLIGHTS_MAX: usize = 64 << 10;
/// Most waiters of all flights of one core.
const WAITERS_MAX: usize = 256 << 10;

/// Somebody who is owed an outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiter {
    /// The core whose connection asked.
    pub core: CoreId,
    /// Where the outcome belongs there.
    pub address: ReturnAddress,
}

/// One who waits for a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passenger {
    pub waiter: Waiter,
    pub verb: Verb,
    pub until: Mono,
}

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub key: Box<[u8]>,
    pub keyspace: KeyspaceId,
    /// The rules it began under: a reload changes them for others.
    pub rules: Arc<Keyspace>,
    /// Why it is asked now: [`Cause::Demand`] as soon as somebody waits.
    pub cause: Cause,
    /// Why it was begun.
    pub begun_for: Cause,
    pub passengers: VecDeque<Passenger>,
    /// Whether what it brings may be stored.
    pub storable: bool,
    /// Whether it is the one of its key that readers join.
    joinable: bool,
    pub attempts: u8,
}

/// All fetches under way of one core.
pub(super) struct Flights {
    flights: HashMap<Ticket, Flight, KeyHasher>,
    by_key: HashMap<Box<[u8]>, Ticket, KeyHasher>,
    /// When the first passenger of a flight is tired of waiting.
    due: BTreeSet<(Mono, Ticket)>,
    passengers: usize,
}

impl Flights {
    pub fn new(secret: [u64; 2]) -> Flights {
        Flights {
            flights: HashMap::with_hasher(KeyHasher::new(secret)),
            by_key: HashMap::with_hasher(KeyHasher::new(secret)),
            due: BTreeSet::new(),
            passengers: 0,
        }
    }

    /// The flight of a key that readers may join.
    pub fn joinable(&self, key: &[u8]) -> Option<Ticket> {
        if self.by_key.is_empty() { None } else { self.by_key.get(key).copied() }
    }

    /// Whether another flight, with a passenger, has room.
    pub fn has_room(&self) -> bool {
        self.flights.len() < FLIGHTS_MAX && self.passengers < WAITERS_MAX
    }

    /// A new flight that readers of its key join from now on.
    pub fn begin(
        &mut self,
        ticket: Ticket,
        key: &[u8],
        keyspace: KeyspaceId,
        rules: Arc<Keyspace>,
        cause: Cause,
    ) {
        let flight = Flight {
            key: key.into(),
            keyspace,
            rules,
            cause,
            begun_for: cause,
            passengers: VecDeque::new(),
            storable: true,
            joinable: true,
            attempts: 1,
        };
        let before = self.by_key.insert(key.into(), ticket);
        debug_assert!(before.is_none(), "one flight of a key is joined, not two");
        self.flights.insert(ticket, flight);
    }

    /// Adds somebody who waits; false if there is no room.
    pub fn wait(&mut self, ticket: Ticket, passenger: Passenger) -> bool {
        if self.passengers >= WAITERS_MAX {
            return false;
        }
        let flight = self.flights.get_mut(&ticket).expect("callers name flights under way");
        if flight.passengers.is_empty() {
            self.due.insert((passenger.until, ticket));
        }
        flight.passengers.push_back(passenger);
        flight.cause = Cause::Demand;
        self.passengers += 1;
        true
    }

    /// A write of the key is acknowledged, or it was invalidated: nobody joins what was in the air before.
    pub fn part(&mut self, key: &[u8]) {
        if self.by_key.is_empty() {
            return;
        }
        if let Some(ticket) = self.by_key.remove(key) {
            let flight = self.flights.get_mut(&ticket).expect("it is in the table");
            (flight.storable, flight.joinable) = (false, false);
        }
    }

    /// As `part`, for all keys that `which` names. Takes time with the number of flights, not with that of items.
    pub fn part_all(&mut self, which: impl Fn(&[u8]) -> bool) {
        let flights = &mut self.flights;
        self.by_key.retain(|key, ticket| {
            let stays = !which(key);
            if !stays {
                let flight = flights.get_mut(ticket).expect("it is in the table");
                (flight.storable, flight.joinable) = (false, false);
            }
            stays
        });
    }

    /// A flight that is over; `None` if it was already.
    pub fn land(&mut self, ticket: Ticket) -> Option<Flight> {
        let flight = self.flights.remove(&ticket)?;
        if flight.joinable {
            self.by_key.remove(&flight.key);
        }
        if let Some(first) = flight.passengers.front() {
            self.due.remove(&(first.until, ticket));
        }
        self.passengers -= flight.passengers.len();
        Some(flight)
    }

    pub fn of(&self, ticket: Ticket) -> Option<&Flight> {
        self.flights.get(&ticket)
    }

    /// Another attempt takes a flight over: who waits goes on waiting, for the new ticket's answer.
    pub fn take_over(&mut self, ticket: Ticket, next: Ticket) {
        let Some(mut flight) = self.flights.remove(&ticket) else { return };
        flight.attempts = flight.attempts.saturating_add(1);
        if flight.joinable {
            self.by_key.insert(flight.key.clone(), next);
        }
        if let Some(first) = flight.passengers.front() {
            self.due.remove(&(first.until, ticket));
            self.due.insert((first.until, next));
        }
        self.flights.insert(next, flight);
    }

    /// The next one who has waited as long as he was to, with the key of his flight.
    pub fn tired(&mut self, now: Mono) -> Option<(Passenger, Ticket)> {
        let &(until, ticket) = self.due.first()?;
        if until > now {
            return None;
        }
        self.due.pop_first();
        let flight = self.flights.get_mut(&ticket).expect("flights with passengers are due");
        let passenger = flight.passengers.pop_front().expect("flights that are due have passengers");
        self.passengers -= 1;
        if let Some(first) = flight.passengers.front() {
            self.due.insert((first.until, ticket));
        }
        Some((passenger, ticket))
    }

    /// When [`Flights::tired`] has somebody next.
    pub fn next_due(&self) -> Option<Mono> {
        self.due.first().map(|(until, _)| *until)
    }

    /// Flights under way.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Who waits, of all flights.
    pub fn waiting(&self) -> usize {
        self.passengers
    }
}
