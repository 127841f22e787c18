//! Reads that need an origin: a flight begins or is joined, and what the origin answers goes to all who wait.

use super::*;

/// How long a key is left alone whose refresh failed, while the item is served as stale.
const REST_MILLIS: u64 = 1000;

/// Why a flight did not bring an answer.
pub(super) enum Why<'a> {
    Failure(Failure),
    Refused(&'a [u8]),
    Tired,
    /// The keyspace has asked as often as it may.
    Rate,
    /// The origin answered with less than it had before.
    Outdated,
}

impl Engine {
    pub(super) fn read(&mut self, now: Now, waiter: Waiter, key: &[u8], verb: Verb) -> Way {
        let probe = self.store.probe(key);
        let way = self.find_or_fetch(now, waiter, key, verb, probe);
        if self.through.as_ref().is_some_and(|through| through.foresight.is_some()) {
            match way {
                Way::Execute => self.foresee(now.mono, waiter, key, probe, true),
                Way::Wait => self.foresee(now.mono, waiter, key, probe, false),
                // There is nothing to fetch, or no room for it.
                Way::Answer(_) | Way::Full => {}
            }
        }
        way
    }

    /// A read: what is held and fresh is served as ever.
    fn find_or_fetch(&mut self, now: Now, waiter: Waiter, key: &[u8], verb: Verb, probe: Probe) -> Way {
        let through = self.through.as_mut().expect("there are keyspaces or erasures");
        let held = self.store.find(now.mono, probe, key, false).map(|found| Held::of(&found));
        let held = held.filter(|held| !held.marks.hollow);
        if let Some(held) = &held {
            let keep_max = through.keyspaces.keep_millis_max();
            match held.expiry {
                Expiry::At(at) if at <= now.mono.plus_millis(keep_max) && keep_max > 0 => {}
                _ => return Way::Execute,
            }
        }
        let Some(id) = through.keyspaces.of(key) else { return Way::Execute };
        let (keyspace, index) = (through.keyspaces[id].clone(), usize::from(id.0));
        let tally = &mut through.tallies[index];
        if let Some(held) = &held {
            let Expiry::At(at) = held.expiry else { return Way::Execute };
            if now.mono.plus_millis(keyspace.keep_millis()) < at {
                return Way::Execute;
            }
            if now.mono.plus_millis(keyspace.keep_millis() - keyspace.stale_millis) < at {
                tally.stale += 1;
                self.refresh(now.mono, &keyspace, id, key, held.version);
                return Way::Execute;
            }
        } else if through.ledger.is_absent(now.mono, key) {
            tally.negative += 1;
            let vivify = matches!(verb, Verb::Fetch(fetch) if fetch.vivify.is_some());
            return if vivify { Way::Execute } else { Way::Answer(Answer::Miss) };
        }
        self.counters.misses_total += 1;
        tally.demanded += 1;
        if !self.may_wait() || !self.through_mut().flights.has_room() {
            self.through_mut().tally(index).failed += 1;
            return Way::Full;
        }
        let through = self.through.as_mut().expect("there are keyspaces");
        let tally = &mut through.tallies[index];
        let ticket = match through.flights.joinable(key) {
            Some(ticket) => {
                tally.coalesced += 1;
                let flight = through.flights.of(ticket).expect("it is joinable");
                if flight.cause != Cause::Demand {
                    let origin = flight.rules.origin;
                    through.effects.push_back(Effect::Hurry { origin, ticket });
                }
                ticket
            }
            None if !keyspace.budget.spend(now.mono, true) => {
                tally.over_budget += 1;
                let until = now.mono;
                self.disappoint(now, key, index, &keyspace, [Passenger { waiter, verb, until }], &Why::Rate);
                return Way::Wait;
            }
            None => self.take_off(&keyspace, id, key, held.map(|held| held.version), Cause::Demand),
        };
        let until = now.mono.plus_millis(keyspace.wait_millis_max);
        self.through_mut().parked += 1;
        self.strained |= self.has_parked_enough();
        let waits = self.through_mut().flights.wait(ticket, Passenger { waiter, verb, until });
        debug_assert!(waits, "room was looked for above");
        Way::Wait
    }

    fn refresh(&mut self, now: Mono, keyspace: &Arc<Keyspace>, id: KeyspaceId, key: &[u8], version: Version) {
        let may_wait = self.may_wait();
        let through = self.through_mut();
        let idle = through.flights.joinable(key).is_none()
            && !through.ledger.rests(now, key)
            && may_wait
            && through.flights.has_room()
            && keyspace.budget.may_guess(now);
        if idle {
            self.take_off(keyspace, id, key, Some(version), Cause::Refresh);
        }
    }

    /// Begins a flight and asks.
    pub(in crate::engine) fn take_off(
        &mut self,
        keyspace: &Arc<Keyspace>,
        id: KeyspaceId,
        key: &[u8],
        version: Option<Version>,
        cause: Cause,
    ) -> Ticket {
        let through = self.through_mut();
        let retries = &mut through.retries[usize::from(keyspace.origin.0)];
        *retries = (*retries + RETRIES_PER_FETCH).min(RETRIES_MAX);
        let known = version.and_then(|version| through.ledger.known(key, version)?.validator.clone());
        let ticket = through.ticket();
        through.flights.begin(ticket, key, id, keyspace.clone(), cause);
        through.ask(ticket, keyspace, usize::from(id.0), key, What::Read { known }, cause);
        ticket
    }

    // -- what origins answer -------------------------------------------------------------------------------------------

    /// An origin answered. Tickets that are over are ignored: late answers fill nothing.
    pub fn answered(&mut self, now: Now, ticket: Ticket, reply: Told) {
        if self.through.is_none() {
            return;
        }
        self.through_mut().give_back(ticket);
        if self.through_mut().writing.contains_key(&ticket) {
            return self.written(now, ticket, Some(reply));
        }
        if self.through_mut().passages.is_of(ticket) {
            return self.through_mut().passed(ticket, Ok(reply));
        }
        let through = self.through_mut();
        let Some(flight) = through.flights.of(ticket) else { return };
        let index = usize::from(flight.keyspace.0);
        let keyspace = flight.rules.clone();
        if matches!(reply, Told::Unchanged { .. }) {
            let key = flight.key.clone();
            let probe = self.store.probe(&key);
            if self.look(now.mono, probe, &key, false).is_none_or(|held| held.marks.hollow) {
                // What was unchanged is gone meanwhile: the whole value is needed after all.
                return self.ask_again(&keyspace, index, ticket);
            }
        }
        if let Told::Found(found) = &reply
            && self.is_behind(ticket, found)
        {
            return self.refuse_older(now, ticket);
        }
        let flight = self.through_mut().flights.land(ticket).expect("looked at above");
        let key = flight.key.clone();
        match reply {
            Told::Found(found) => self.arrive(now, &keyspace, flight, found),
            Told::Absent { fresh_millis } => {
                self.came_of(&flight, if flight.storable { End::Absent } else { End::Voided });
                let probe = self.store.probe(&key);
                if flight.storable {
                    if self.store.remove(probe, &key) {
                        self.note_key(&key);
                    }
                    let until = fresh_millis.unwrap_or(u64::MAX).min(keyspace.negative_millis);
                    if until > 0 {
                        self.through_mut().ledger.note_absent(&key, now.mono.plus_millis(until));
                    }
                }
                let none: Rc<[u8]> = Rc::default();
                for passenger in flight.passengers {
                    self.through_mut().answer(passenger.waiter, Answer::Miss, &none);
                }
            }
            Told::Unchanged { fresh_millis } => {
                self.came_of(&flight, End::Voided);
                let probe = self.store.probe(&key);
                let held = self.look(now.mono, probe, &key, false).expect("looked at above");
                if flight.storable {
                    let expiry = end_of(now.mono, &keyspace, fresh_millis);
                    self.store.amend(now.mono, probe, &key, held.version, expiry, held.marks);
                    self.through_mut().tally(index).revalidated += 1;
                }
                self.hand_out_held(now, &key, flight.passengers);
            }
            Told::Refused(text) => {
                self.came_of(&flight, End::Failed);
                if flight.cause != Cause::Demand {
                    self.through_mut().ledger.let_rest(&key, now.mono.plus_millis(REST_MILLIS));
                }
                self.disappoint(now, &key, index, &keyspace, flight.passengers, &Why::Refused(&text));
            }
            Told::Written | Told::NotWritten | Told::Counted(_) | Told::Raw(_) => {
                self.came_of(&flight, End::Failed);
                let why = Why::Failure(Failure::Broken);
                self.disappoint(now, &key, index, &keyspace, flight.passengers, &why);
            }
        }
    }

    /// Whether an answer is older than what the origin has said of the key before, where its versions count.
    fn is_behind(&mut self, ticket: Ticket, found: &Fetched) -> bool {
        let through = self.through_mut();
        let flight = through.flights.of(ticket).expect("callers look");
        let floor = match flight.rules.conflict {
            Conflict::Source => through.ledger.floor(&flight.key),
            Conflict::Epoch | Conflict::Lww => None,
        };
        floor.is_some_and(|floor| found.version.is_some_and(|version| version < floor))
    }

    /// A part of the origin that lags has answered. Who waits is better served by another, or by what is held.
    fn refuse_older(&mut self, now: Now, ticket: Ticket) {
        let through = self.through_mut();
        let flight = through.flights.of(ticket).expect("callers look");
        let (index, keyspace) = (usize::from(flight.keyspace.0), flight.rules.clone());
        through.tallies.get_mut(index).into_iter().for_each(|tally| tally.outdated += 1);
        let flight = self.through_mut().flights.of(ticket).expect("callers look");
        if !flight.passengers.is_empty() && flight.attempts < keyspace.attempts_max {
            return self.ask_again(&keyspace, index, ticket);
        }
        let flight = self.through_mut().flights.land(ticket).expect("looked at above");
        self.through_mut().ledger.let_rest(&flight.key, now.mono.plus_millis(REST_MILLIS));
        self.came_of(&flight, End::Failed);
        self.disappoint(now, &flight.key, index, &keyspace, flight.passengers, &Why::Outdated);
    }

    /// A value has come.
    fn arrive(&mut self, now: Now, keyspace: &Keyspace, flight: Flight, found: Fetched) {
        let (key, index) = (flight.key.clone(), usize::from(flight.keyspace.0));
        let probe = self.store.probe(&key);
        let held = self.look(now.mono, probe, &key, false);
        let through = self.through.as_mut().expect("flights are of it");
        let newer_held = held.as_ref().is_some_and(|held| {
            let known = through.ledger.known(&key, held.version).and_then(|known| known.origin);
            known.is_some() && found.version.is_some() && known > found.version
        });
        let written_later = keyspace.conflict == Conflict::Lww
            && held.as_ref().is_some_and(|held| !held.marks.hollow)
            && through.ledger.written(&key) > found.written_seconds.or(Some(u64::MAX));
        if let (Conflict::Source, Some(version)) = (keyspace.conflict, found.version) {
            through.ledger.raise_floor(&key, version);
        }
        if written_later {
            // It stays until its own end, and is not asked for again with every read meanwhile.
            through.ledger.let_rest(&key, now.mono.plus_millis(REST_MILLIS));
        }
        if newer_held || written_later {
            // A replica that lags answered: what is held is newer.
            self.came_of(&flight, End::Voided);
            return self.hand_out_held(now, &key, flight.passengers);
        }
        let mut item = Held::fresh(found.flags, found.version.unwrap_or(Version::NONE), Expiry::Never);
        item.len = found.value.len();
        let mut stored = false;
        match flight.storable || through.sabotaged(Sabotage::StoreVoided) {
            true => {
                through.ledger.forget(&key);
                let expiry = end_of(now.mono, keyspace, found.fresh_millis);
                let fits = found.value.len() <= keyspace.value_bytes_max;
                let put = Put {
                    flags: found.flags,
                    expiry: ExpiryChange::Set(expiry),
                    condition: Condition::Always,
                    previous: false,
                    version: found.version,
                    binary_key: false,
                    stale: false,
                };
                self.store.set_unasked(flight.begun_for == Cause::Prefetch && flight.passengers.is_empty());
                let keeps = fits && !found.unstorable && !passed(expiry, now.mono);
                let keeps = keeps && self.has_memory_for(now.mono, index, &key, found.value.len());
                if keeps
                    && let Answer::Stored { version, .. } =
                        self.put(now.mono, &key, &found.value, &put).answer
                {
                    (stored, item.version, item.expiry) = (true, version, expiry);
                }
                self.store.set_unasked(false);
                self.note_key(&key);
                if stored {
                    self.note_fill(probe, &key, item.version, &found, index);
                } else {
                    // What is held is out of date from now on.
                    self.store.remove(probe, &key);
                }
            }
            false => through.tally(index).voided += 1,
        }
        // What may not be kept was fetched for nothing.
        let end = match (stored, flight.storable) {
            (true, _) => End::Landed,
            (false, true) => End::Absent,
            (false, false) => End::Voided,
        };
        self.came_of(&flight, end);
        let value: Rc<[u8]> = found.value.into();
        let answer = Answer::Item(item.item());
        for passenger in flight.passengers {
            match passenger.verb {
                Verb::Fetch(_) if stored => self.answer_by_verb(now, &key, &passenger),
                _ => self.through_mut().answer(passenger.waiter, answer, &value),
            }
        }
    }

    fn note_fill(&mut self, probe: Probe, key: &[u8], item: Version, found: &Fetched, index: usize) {
        let through = self.through.as_mut().expect("fills are of it");
        through.tally(index).filled += 1;
        if found.validator.is_some() || found.version.is_some() {
            let known = Known { item, validator: found.validator.clone(), origin: found.version };
            through.ledger.note_known(key, known);
        }
        let lost: Vec<_> = found.tags.iter().flat_map(|tag| through.ledger.tag(tag, key)).collect();
        for other in lost.iter().filter(|other| ***other != *key) {
            let probe = self.store.probe(other);
            self.store.remove(probe, other);
        }
        if lost.iter().any(|other| **other == *key) {
            self.store.remove(probe, key);
        }
    }

    /// Does what a passenger asked for, now that the item is there.
    fn answer_by_verb(&mut self, now: Now, key: &[u8], passenger: &Passenger) {
        let outcome = self.execute(now, &Request { key, value: b"", verb: passenger.verb });
        let (answer, value) = (outcome.answer, Rc::from(outcome.value.bytes()));
        self.through_mut().answer(passenger.waiter, answer, &value);
    }

    fn hand_out_held(&mut self, now: Now, key: &[u8], passengers: impl IntoIterator<Item = Passenger>) {
        let mut held: Option<(Answer, Rc<[u8]>)> = None;
        for passenger in passengers {
            if passenger.verb != Verb::Get {
                self.answer_by_verb(now, key, &passenger);
                held = None;
                continue;
            }
            let (answer, value) = held.get_or_insert_with(|| {
                let outcome = self.execute(now, &Request { key, value: b"", verb: Verb::Peek });
                (outcome.answer, Rc::from(outcome.value.bytes()))
            });
            let (answer, value) = (*answer, value.clone());
            self.through_mut().answer(passenger.waiter, answer, &value);
        }
    }

    /// An origin did not answer.
    pub fn failed(&mut self, now: Now, ticket: Ticket, why: Failure) {
        if self.through.is_none() {
            return;
        }
        self.through_mut().give_back(ticket);
        if self.through_mut().writing.contains_key(&ticket) {
            return self.written(now, ticket, None);
        }
        if self.through_mut().passages.is_of(ticket) {
            return self.through_mut().passed(ticket, Err(why));
        }
        let through = self.through_mut();
        let Some(flight) = through.flights.of(ticket) else { return };
        let (index, keyspace) = (usize::from(flight.keyspace.0), flight.rules.clone());
        let hopeless = matches!(why, Failure::CircuitOpen | Failure::QueueFull | Failure::Untrusted);
        let wanted = !flight.passengers.is_empty() && flight.attempts < keyspace.attempts_max;
        // An origin that no keyspace has any more has no budget either.
        let budget = through.retries.get_mut(usize::from(keyspace.origin.0));
        if let (true, Some(retries)) = (wanted && !hopeless, budget.filter(|retries| **retries >= 1.0))
            && keyspace.budget.spend(now.mono, true)
        {
            *retries -= 1.0;
            through.tally(index).retried += 1;
            return self.ask_again(&keyspace, index, ticket);
        }
        let flight = through.flights.land(ticket).expect("looked at above");
        through.ledger.let_rest(&flight.key, now.mono.plus_millis(REST_MILLIS));
        self.came_of(&flight, End::Failed);
        self.disappoint(now, &flight.key, index, &keyspace, flight.passengers, &Why::Failure(why));
    }

    /// The next attempt of a flight, unconditional.
    fn ask_again(&mut self, keyspace: &Keyspace, index: usize, ticket: Ticket) {
        let through = self.through_mut();
        let next = through.ticket();
        through.flights.take_over(ticket, next);
        let flight = through.flights.of(next).expect("it was taken over");
        let (key, cause) = (flight.key.clone(), flight.cause);
        through.ask(next, keyspace, index, &key, What::Read { known: None }, cause);
    }

    /// No answer for these: what is held and not too old for that, or a fault.
    pub(super) fn disappoint(
        &mut self,
        now: Now,
        key: &[u8],
        index: usize,
        keyspace: &Keyspace,
        passengers: impl IntoIterator<Item = Passenger>,
        why: &Why<'_>,
    ) {
        let probe = self.store.probe(key);
        let held = self.look(now.mono, probe, key, false).filter(|held| !held.marks.hollow);
        let through = self.through.as_mut().expect("passengers are of it");
        let serves_held = match held.map(|held| held.expiry) {
            Some(Expiry::At(at)) => {
                now.mono.plus_millis(keyspace.keep_millis() - keyspace.stale_error_millis) < at
            }
            Some(Expiry::Never) => true,
            None => false,
        };
        let mut passengers = passengers.into_iter().peekable();
        if passengers.peek().is_none() {
            return;
        }
        if serves_held {
            let passengers: Vec<_> = passengers.collect();
            through.tally(index).stale_on_error += passengers.len() as u64;
            return self.hand_out_held(now, key, passengers);
        }
        let text: Rc<[u8]> = match why {
            Why::Failure(failure) => format!("ERR {failure}").into_bytes().into(),
            Why::Tired => Rc::from(b"ERR the origin did not answer in time".as_slice()),
            Why::Outdated => {
                Rc::from(b"ERR the origin answered with an older version than before".as_slice())
            }
            Why::Rate => Engine::rate_text(keyspace).into_bytes().into(),
            Why::Refused(text) => Rc::from(*text),
        };
        for passenger in passengers {
            self.counters.faults_total += 1;
            let through = self.through.as_mut().expect("passengers are of it");
            through.tally(index).failed += 1;
            through.answer(passenger.waiter, Answer::Fault(Fault::Origin), &text);
        }
    }
}

/// When an item that was just fetched ends.
pub(super) fn end_of(now: Mono, keyspace: &Keyspace, fresh_millis: Option<u64>) -> Expiry {
    let fresh = fresh_millis.unwrap_or(keyspace.fresh_millis);
    Expiry::At(now.plus_millis(fresh.saturating_add(keyspace.keep_millis())))
}
