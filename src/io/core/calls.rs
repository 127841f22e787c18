//! What cores want of each other for the sake of shards that move, of one node or of several: frames, records, news of owners, fences.
//!
//! Each is a request of the mesh ([`ShardCall`]) and has an outcome, which comes to an address that is no connection's.

use super::records;
use super::routes::{BUSY, FENCED, FRAMED, LISTED, LOOKED, NOBODY, NOTHING, RELAYED, SWAPPED};
use super::works::Works;
use crate::clock::Now;
use crate::control::keeper::{Ask, Wish};
use crate::ids::{CoreId, SHARD_COUNT, ShardId};
use crate::message::ReturnAddress;
use crate::migration::record::{Record, Seen};
use crate::migration::{Event, Role, Swapped};
use crate::request::{Answer, Fault, Outcome, Request, ShardCall, Value, Verb};

impl Works {
    /// Does what another core wants for the sake of a shard that moves.
    pub(super) fn shard_call(
        &mut self,
        now: Now,
        from: CoreId,
        address: ReturnAddress,
        call: ShardCall,
        request: &Request<'_>,
    ) {
        let value = request.value;
        self.start_moving();
        match call {
            ShardCall::Frame => {
                self.mesh.answer(from, address, &NOTHING);
                let from = self.site(from);
                self.step(now, Event::Frame { from, bytes: value });
            }
            ShardCall::Swap { .. } | ShardCall::Look { .. } | ShardCall::List
                if self.node.cluster.is_some() =>
            {
                if !self.ask_keeper(from, address, call, value) {
                    self.mesh.answer(from, address, &BUSY);
                }
            }
            // Where there is one node all know where shards were placed.
            ShardCall::List => self.mesh.answer(from, address, &BUSY),
            ShardCall::Swap { shard, expected } => {
                let records = self.moving.as_mut().and_then(|moving| moving.records.as_mut());
                let swapped =
                    records.map(|records| records.swap(now.mono, ShardId::new(shard), expected, value));
                match swapped {
                    Some(Ok(revision)) => {
                        let answer = Answer::Number(revision as i64);
                        self.mesh.answer(from, address, &Outcome { answer, value: Value::EMPTY });
                    }
                    Some(Err(seen)) => {
                        let bytes = records::to_bytes(&seen);
                        let answer = Answer::Refused(crate::request::Refusal::Version);
                        self.mesh.answer(from, address, &Outcome { answer, value: Value::One(&bytes) });
                    }
                    None => self.mesh.answer(from, address, &BUSY),
                }
            }
            ShardCall::Look { shard } => {
                let records = self.moving.as_ref().and_then(|moving| moving.records.as_ref());
                let bytes = records.map(|records| records::to_bytes(&records.look(ShardId::new(shard))));
                let value = Value::One(bytes.as_deref().unwrap_or_default());
                self.mesh.answer(from, address, &Outcome { answer: Answer::Page { cursor: 0 }, value });
            }
            ShardCall::Owner { shard, revision } => {
                self.mesh.answer(from, address, &NOTHING);
                if let Ok(record) = Record::of_bytes(value) {
                    self.learn(now, from, ShardId::new(shard), Seen { record, revision });
                }
            }
            ShardCall::Fence { shard } => {
                let shard = ShardId::new(shard);
                let relayed = self.is_relayed(from, address);
                let Some(moving) = &mut self.moving else { return };
                // One that was relayed says nothing of the core it came from last.
                if !relayed && moving.departed.passed(shard, from) {
                    self.tell_sessions_of(shard);
                }
                let owner = self.owner_elsewhere(shard);
                match owner {
                    Some(owner) => self.relay(from, address, owner, request),
                    // What waits here is not in the new owner's order yet, though somebody knows of him already.
                    None if self.keeps(shard) => self.mesh.answer(from, address, &BUSY),
                    None => self.mesh.answer(from, address, &NOTHING),
                }
                self.be_attentive();
            }
        }
    }

    /// Whether requests for a shard wait here for its being handed over.
    fn keeps(&self, shard: ShardId) -> bool {
        let role = self.moving.as_ref().map(|moving| moving.moves.role(shard));
        matches!(role, Some(Role::Hold | Role::Forward))
    }

    /// The owner of a shard that this core has nothing to do with any more.
    fn owner_elsewhere(&self, shard: ShardId) -> Option<CoreId> {
        let moving = self.moving.as_ref()?;
        let away = moving.moves.role(shard) == Role::Away;
        let owner = moving.moves.seen(shard).map(|seen| moving.core_of(seen.record.owner));
        owner.filter(|owner| away && *owner != self.me)
    }

    /// Takes the outcome of what this core asked another one for the sake of shards, or for others; whether it is one.
    pub(super) fn shard_returned(&mut self, now: Now, address: ReturnAddress, outcome: &Outcome<'_>) {
        let ReturnAddress { connection, ticket } = address;
        let shard = ShardId::new(ticket as u16);
        match connection {
            RELAYED => {
                let back = self.moving.as_mut().and_then(|moving| moving.relays.take(ticket));
                if let Some((core, address)) = back {
                    self.mesh.answer(core, address, outcome);
                }
            }
            SWAPPED => {
                let outcome = match outcome.answer {
                    Answer::Number(revision) => Swapped::Done(revision as u64),
                    _ => match records::of_bytes(outcome.value.bytes()) {
                        Some(seen) => Swapped::Refused(seen),
                        None => Swapped::Unknown,
                    },
                };
                self.step(now, Event::Swapped { shard, outcome });
            }
            LOOKED => {
                let placed = matches!(outcome.answer, Answer::Page { cursor: 1 });
                let seen = match (placed, &self.node.cluster) {
                    (true, Some(cluster)) => Some(records::placed_in(cluster, &cluster.placed(), shard)),
                    _ => records::of_bytes(outcome.value.bytes()),
                };
                if let Some(seen) = seen {
                    self.step(now, Event::View { shard, seen });
                }
            }
            LISTED => {
                if let (Answer::Page { .. }, Some(list)) =
                    (outcome.answer, records::list_of(outcome.value.bytes()))
                {
                    self.take_list(now, list);
                }
            }
            FRAMED if matches!(outcome.answer, Answer::Fault(_)) => {
                let to = self.site(CoreId(ticket as u16));
                self.step(now, Event::LinkDown { to });
            }
            FENCED if matches!(outcome.answer, Answer::Fault(Fault::Busy)) => {
                if let Some(at) = self.moving.as_ref().and_then(|moving| moving.fences.at(shard)) {
                    self.send_fence(at, shard, address);
                }
            }
            FENCED => self.fence_passed(now, shard),
            _ => {}
        }
    }

    /// Asks who keeps the records about one; whether that can be.
    pub(super) fn ask_for_record(&mut self, shard: ShardId, call: ShardCall, record: &[u8]) -> bool {
        let connection = if matches!(call, ShardCall::Look { .. }) { LOOKED } else { SWAPPED };
        let address = ReturnAddress { connection, ticket: shard.number().into() };
        self.ask_for_records(address, call, record)
    }

    /// Asks for all of them.
    pub(super) fn ask_for_list(&mut self) {
        // If it cannot be asked now it is asked again.
        self.ask_for_records(ReturnAddress { connection: LISTED, ticket: 0 }, ShardCall::List, b"");
    }

    fn ask_for_records(&mut self, address: ReturnAddress, call: ShardCall, record: &[u8]) -> bool {
        let keeper = self.node.cluster.as_ref().map_or(CoreId(0), |cluster| cluster.keeper());
        if keeper == self.me {
            return self.ask_keeper(keeper, address, call, record);
        }
        self.mesh.send(keeper, address, &Request { key: b"", value: record, verb: Verb::Shard(call) });
        true
    }

    /// Asks the keeper of records, who is here; whether he takes the question.
    fn ask_keeper(&self, from: CoreId, address: ReturnAddress, call: ShardCall, record: &[u8]) -> bool {
        let wish = match call {
            ShardCall::Swap { shard, expected } => {
                Wish::Swap { shard: ShardId::new(shard), expected, record: record.to_vec() }
            }
            ShardCall::Look { shard } => Wish::Look(ShardId::new(shard)),
            _ => Wish::List,
        };
        self.keeper.as_ref().is_some_and(|keeper| keeper.ask(Ask { from, address, wish }).is_ok())
    }

    /// Sends a frame of the shard stream.
    pub(super) fn send_frame(&mut self, to: CoreId, frame: &[u8]) {
        let address = match self.node.is_far(to) {
            true => ReturnAddress { connection: FRAMED, ticket: to.0.into() },
            false => NOBODY,
        };
        self.mesh.send(to, address, &Request { key: b"", value: frame, verb: Verb::Shard(ShardCall::Frame) });
    }

    /// Tells all others that a shard has left this core.
    pub(super) fn announce(&mut self, shard: ShardId, seen: &Seen) {
        let record = seen.record.to_bytes();
        let call = ShardCall::Owner { shard: shard.number(), revision: seen.revision };
        for core in self.others() {
            self.mesh.send(core, NOBODY, &Request { key: b"", value: &record, verb: Verb::Shard(call) });
        }
    }

    /// All other cores that can be reached.
    pub(super) fn others(&self) -> Vec<CoreId> {
        let all = (0..self.node.all_core_count()).map(CoreId).filter(|core| *core != self.me);
        all.filter(|core| !self.node.is_far(*core) || self.is_linked(*core)).collect()
    }

    /// Tells a core of another node, to which there is a link now, of the shards that this one owns, and of those that have left it.
    pub(super) fn introduce(&mut self, core: CoreId) {
        let Works { moving: Some(moving), mesh, node, me, .. } = self else { return };
        let shards = (0..SHARD_COUNT).map(ShardId::new);
        let known = shards.filter(|shard| match moving.moves.role(*shard) {
            Role::Serve => true,
            Role::Away => node.map.was_of(*shard, *me),
            Role::Hold | Role::Forward => false,
        });
        for shard in known {
            let Some(seen) = moving.moves.seen(shard).filter(|seen| seen.revision > 0) else { continue };
            let record = seen.record.to_bytes();
            let call = ShardCall::Owner { shard: shard.number(), revision: seen.revision };
            mesh.send(core, NOBODY, &Request { key: b"", value: &record, verb: Verb::Shard(call) });
        }
    }

    /// Nothing that a core of another node has asked before comes any more.
    pub(super) fn expect_no_more(&mut self, core: CoreId) {
        let Some(moving) = &mut self.moving else { return };
        for shard in moving.departed.gone(core) {
            self.tell_sessions_of(shard);
        }
        self.be_attentive();
    }
}
