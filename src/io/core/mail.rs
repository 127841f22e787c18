//! Other cores' requests, the outcomes of ours, and requests about connections and the core itself.

use super::Core;
use super::origins::PASSAGES;
use super::works::lander;
use crate::clock::Now;
use crate::engine::{Passage, Waiter};
use crate::ids::CoreId;
use crate::io::connection::Stage;
use crate::message::{Arrived, Batch, ReturnAddress};
use crate::request::{Answer, Fault, Notice, Observer, Outcome, Request, Value, Verb};
use crate::store::APPROACH_MAX;

/// Output of fewer bytes need not be counted before its connection is looked at anyway.
const LONG_OUTPUT_BYTES: usize = 64 << 10;
/// Frames of the shard stream from here on are taken one in a turn.
const LONG_FRAME_BYTES: usize = 8 << 10;

/// Values below this never come in memory of their own: they are more than half of a long command.
const LONG_VALUE_BYTES: usize = crate::io::connection::LONG_COMMAND_BYTES / 2;

/// A batch whose requests are not all done: what they bring back is more than its sender has taken so far.
pub(super) struct Waiting {
    from: CoreId,
    batch: Box<Batch>,
    /// Requests done.
    next: usize,
}

impl Core {
    pub(super) fn read_mail(&mut self, now: Now) -> bool {
        let mut any = false;
        let mut held_up: Vec<CoreId> = Vec::new();
        for _ in 0..self.waiting.len() {
            let mut waiting = self.waiting.pop_front().expect("counted");
            let before = waiting.next;
            if !held_up.contains(&waiting.from) && self.do_requests(now, &mut waiting) {
                any = true;
                self.recycle(waiting.batch);
                continue;
            }
            any |= waiting.next > before;
            held_up.push(waiting.from);
            self.waiting.push_back(waiting);
        }
        while let Some((from, batch)) = self.works.mesh.receive() {
            any = true;
            self.works.engine.counters.hops_served_total += batch.request_count() as u64;
            let mut coming = Waiting { from, batch, next: 0 };
            let done = !held_up.contains(&from) && self.do_requests(now, &mut coming);
            for (hint, text) in coming.batch.hints() {
                self.works.engine.hint(now, hint, text);
            }
            for (address, outcome) in coming.batch.returns() {
                self.complete(now, address, &outcome);
            }
            if done {
                self.recycle(coming.batch);
            } else {
                held_up.push(from);
                self.waiting.push_back(coming);
            }
        }
        if any {
            self.works.engine.collect_sent();
            self.lend();
        }
        any
    }

    fn recycle(&mut self, mut batch: Box<Batch>) {
        for (value, became) in batch.take_arrived() {
            // What was never looked at goes back to whoever received it, when nobody else has it any more.
            if became != Arrived::Coming {
                self.works.engine.end_arrived(value, became == Arrived::Taken);
            }
        }
        self.works.mesh.recycle(batch);
    }

    /// Does requests of another core as far as there is room for what they bring; answers whether all are done.
    fn do_requests(&mut self, now: Now, waiting: &mut Waiting) -> bool {
        let from = waiting.from;
        let start = waiting.next;
        let mut coming = waiting.batch.requests().skip(start);
        let mut requests = waiting.batch.requests().skip(start).enumerate();
        // A core of another node may believe in an owner of long ago.
        let far = self.works.node.is_far(from);
        // What is guarded is done in one go, whatever it brings.
        let mut guarded = false;
        while let Some((i, (address, request))) = requests.next() {
            let engine = &self.works.engine;
            // What waits for origins costs several times a hit: with so much of it the rest has the next turn.
            let spent = engine.strained && engine.has_parked_enough();
            if !guarded && (spent || !self.works.mesh.has_return_room(from)) {
                return false;
            }
            if i.is_multiple_of(APPROACH_MAX) {
                let keys = coming.by_ref().take(APPROACH_MAX).map(|(_, request)| request.key);
                self.works.engine.approach(keys);
            }
            let call = match request.verb {
                Verb::Shard(call) => Some(call),
                _ => None,
            };
            if call.is_some() && request.value.len() >= LONG_FRAME_BYTES {
                // Each takes about as long as a turn may; those who wait behind it get theirs first.
                if std::mem::replace(&mut self.took_frame, true) {
                    return false;
                }
            }
            if let Some(call) = call {
                waiting.next += 1;
                self.works.shard_call(now, from, address, call, &request);
                continue;
            }
            if (self.works.attentive || far) && !guarded {
                let whole = request.verb != Verb::Guard || {
                    let group = waiting.batch.requests().skip(waiting.next).map(|(_, request)| request);
                    self.works.serves_all(group)
                };
                if !whole {
                    let outcome = Outcome { answer: Answer::Fault(Fault::Busy), value: Value::EMPTY };
                    waiting.next += 1;
                    self.works.mesh.answer(from, address, &outcome);
                    for (_, (address, request)) in requests.by_ref() {
                        waiting.next += 1;
                        self.works.mesh.answer(from, address, &outcome);
                        if request.verb == Verb::Unguard {
                            break;
                        }
                    }
                    continue;
                }
                if self.works.intercept(now, from, address, &request) {
                    waiting.next += 1;
                    continue;
                }
            }
            let arrived = match request.value.len() {
                0..LONG_VALUE_BYTES => None,
                _ => waiting.batch.arrived().find(|(value, _)| value.is(request.value)),
            };
            if let Some((value, became)) = arrived {
                if became.get() == Arrived::Coming {
                    self.works.engine.take_over(value);
                    became.set(Arrived::Counted);
                }
                self.works.engine.offer(value);
            }
            if !guarded && !self.works.engine.land(now, lander(from, address.connection), &request) {
                if self.works.engine.withholds_much() {
                    self.reclaim_withheld(now);
                }
                return false;
            }
            waiting.next += 1;
            let works = &mut self.works;
            match request.verb {
                Verb::Counters
                | Verb::ResetCounters
                | Verb::Connections
                | Verb::Disconnect { .. }
                | Verb::Unblock { .. }
                | Verb::Limit { .. }
                | Verb::Notify { .. }
                | Verb::Monitor { .. }
                | Verb::Locate { .. }
                | Verb::Watch { .. }
                | Verb::SetUser
                | Verb::Configure { .. }
                | Verb::Journal(_) => {
                    if let Some(outcome) = works.execute(now, from, address, &request) {
                        let (answer, value) = (outcome.answer, outcome.value.bytes().to_vec());
                        works.mesh.answer(from, address, &Outcome { answer, value: Value::One(&value) });
                    }
                }
                Verb::Guard => {
                    // A guard waits for no origin.
                    let waiter = Waiter { core: from, address };
                    let outcome = works.engine.serve(now, waiter, &request);
                    let answer = outcome.map_or(Answer::Fault(Fault::Busy), |outcome| outcome.answer);
                    let outcome = Outcome { answer, value: Value::EMPTY };
                    works.mesh.answer(from, address, &outcome);
                    guarded = !matches!(answer, Answer::Refused(_));
                    if !guarded {
                        // Nothing of what is guarded is done; all of it is in this batch, as one turn sent it.
                        for (_, (address, request)) in requests.by_ref() {
                            waiting.next += 1;
                            works.mesh.answer(from, address, &outcome);
                            if request.verb == Verb::Unguard {
                                break;
                            }
                        }
                    }
                }
                _ => {
                    guarded &= request.verb != Verb::Unguard;
                    works.heat.request(request.key);
                    let waiter = Waiter { core: from, address };
                    if works.is_watched() {
                        match works.serve_watched(now, waiter, &request) {
                            Some(outcome) => {
                                let (answer, value) = (outcome.answer, outcome.value.bytes().to_vec());
                                let outcome = Outcome { answer, value: Value::One(&value) };
                                works.mesh.answer(from, address, &outcome);
                            }
                            None => works.mesh.park(from),
                        }
                    } else {
                        // Executing through the works would borrow them whole, and answering needs their mesh.
                        match works.engine.serve(now, waiter, &request) {
                            Some(outcome) => works.mesh.answer(from, address, &outcome),
                            None => works.mesh.park(from),
                        }
                    }
                    if let Some((_, became)) = arrived
                        && !works.engine.revoke_offer()
                    {
                        became.set(Arrived::Taken);
                    }
                }
            }
        }
        true
    }

    pub(super) fn complete(&mut self, now: Now, address: ReturnAddress, outcome: &Outcome<'_>) {
        let id = address.connection;
        let Some(connection) = self.table.of(id) else {
            if id == PASSAGES {
                self.works.engine.forgotten(Passage(address.ticket));
            } else if id.place == u32::MAX {
                self.works.shard_returned(now, address, outcome);
            }
            return;
        };
        connection.session.complete(now, &self.works.node, address.ticket, outcome);
        connection.session.settle(&mut self.works.engine.counters, &mut self.works.journal);
        if connection.dying {
            return;
        }
        if connection.has_output() && !connection.in_flight && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        if connection.stage == Stage::Blocked && !connection.runnable {
            connection.runnable = true;
            self.runnable.push(id);
        }
        let long = connection.session.output().len() > LONG_OUTPUT_BYTES;
        self.end_if_finished(id);
        if long {
            self.weigh(id);
        }
    }

    /// Requests about connections and the core itself. What they bring about is done as well: who is told something may have
    /// somebody else told, and hear that he has gone, and that is the end of it.
    pub(super) fn do_chores(&mut self, now: Now) {
        while !self.works.chores.is_empty() {
            self.do_a_round_of_chores(now);
        }
    }

    fn do_a_round_of_chores(&mut self, now: Now) {
        for chore in std::mem::take(&mut self.works.chores) {
            let mut bytes = Vec::new();
            let answer = match chore.verb {
                Verb::Connections => {
                    self.table.iter_mut().for_each(|connection| connection.session.describe(now, &mut bytes));
                    Answer::Page { cursor: 0 }
                }
                Verb::Disconnect { client } => {
                    let found = self
                        .table
                        .iter_mut()
                        .find(|c| !c.dying && c.session.client_id() == client)
                        .map(|c| c.id);
                    if let Some(id) = found {
                        if id == chore.address.connection && chore.from == self.works.me {
                            // One who closes himself still gets the answer.
                            self.table.of(id).expect("found above").closing = true;
                        } else {
                            self.kill(id);
                        }
                    }
                    Answer::Number(i64::from(found.is_some()))
                }
                Verb::Unblock { client, how } => {
                    let found = self.table.iter_mut().find(|c| !c.dying && c.session.client_id() == client);
                    let found = found.map(|connection| connection.id);
                    let asker = Waiter { core: chore.from, address: chore.address };
                    if found.is_some_and(|id| self.unblock_at_origin(now, id, how, asker)) {
                        continue;
                    }
                    Answer::Number(0)
                }
                Verb::Locate { client } => {
                    let found = self.table.iter_mut().find(|c| !c.dying && c.session.client_id() == client);
                    if let Some(connection) = found {
                        let observer = Observer { core: self.works.me, connection: connection.id };
                        bytes.extend_from_slice(&observer.to_bytes());
                    }
                    Answer::Page { cursor: 0 }
                }
                Verb::Watch { observer, kinds } => match self.watch(observer, kinds) {
                    true => Answer::Number(0),
                    false => Answer::Fault(Fault::Busy),
                },
                Verb::Notify { connection, notice } => {
                    let text = match notice {
                        Notice::Line | Notice::Events => &chore.value,
                        _ => &chore.key,
                    };
                    self.notify(now, connection, notice, text);
                    Answer::Number(0)
                }
                Verb::Monitor { observer, on } => {
                    self.monitor(observer, on);
                    Answer::Number(0)
                }
                Verb::Limit { bytes } => self.change_limit(now, bytes),
                Verb::SetUser => {
                    self.set_user(&chore.key, &chore.value);
                    Answer::Number(0)
                }
                Verb::Configure { setting, number } => {
                    self.configure(setting, number);
                    Answer::Number(0)
                }
                // Of what a connection that has gone leaves here: on its own core nothing is sent.
                verb => {
                    let request = Request { key: &chore.key, value: &chore.value, verb };
                    self.works.engine.execute(now, &request).answer
                }
            };
            let outcome = Outcome { answer, value: Value::One(&bytes) };
            if chore.from == self.works.me {
                self.complete(now, chore.address, &outcome);
            } else {
                self.works.mesh.answer(chore.from, chore.address, &outcome);
            }
        }
    }
}
