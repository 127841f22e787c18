//! A core's connections to origins: sockets on the same ring, driven as the pools say.
//!
//! ```text
//!   pool.spare_room --> engine.prefetch
//!   engine.poll_effect --> pool.ask --> pool.poll --> Connect | Send | Close --> ring
//!   completions --> pool.connected | received | closed --> pool.poll --> Tell --> engine.answered | failed
//! ```
//! Once a turn, behind the clients' requests and before their output is sent: so what an origin's answer completes leaves
//! in the same turn.

mod links;
mod options;
mod pools;
mod sealing;

use super::Core;
use crate::clock::{Mono, Now};
use crate::control::OriginReport;
use crate::engine::{Effect, Waiter};
use crate::hash::slot_of;
use crate::ids::{ConnectionId, CoreId, ShardId};
use crate::message::ReturnAddress;
use crate::origin::keyspace::{Keys, Keyspaces};
use crate::origin::pool::{Action, Cause, Failure, Told};
use crate::origin::private::{self, PrivateLines};
use crate::origin::{Connector, Reply, Ticket};
use crate::request::{Answer, Fault, Named, Notice, Outcome, Request, UnblockAs, Value, Verb};
use crate::store::shard_of;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use links::Link;
pub use options::{Opening, OriginOptions, OriginTls, Sources};
use pools::PRIVATE;

/// All of a core's pools and sockets to origins.
pub(super) struct Origins {
    sources: Arc<Sources>,
    /// One for each origin, in their order; then for each that clients' commands may go to, one per version of the protocol.
    pools: Vec<Connector>,
    /// Of each pool, the number of its origin.
    origin_of: Vec<usize>,
    /// Of each origin, where its pools for commands begin.
    passing_at: Vec<Option<usize>>,
    /// Of each origin that clients' commands may go to, the connections that are clients' own.
    private: Vec<Option<PrivateLines>>,
    places: Vec<(u32, Option<Box<Link>>)>,
    free: Vec<u32>,
    /// Links with output that is not on its way.
    dirty: Vec<ConnectionId>,
    rearm: Vec<ConnectionId>,
    /// What each origin has room for that nobody waits for, while that is looked at.
    rooms: Vec<usize>,
    /// How often keyspaces were replaced.
    round: u64,
    /// How often each pool's circuit had opened when that was last logged, and why TLS with it does not come about.
    opened: Vec<u64>,
    last_tls: Vec<Option<String>>,
    /// Slow questions that may still be logged until a moment, and those that were not.
    slow_lines_left: u32,
    slow_lines_until: Mono,
    slow_left_out: u64,
    /// Who is to be told what came of having an origin end a client's wait, by the number of that.
    unblocking: BTreeMap<u64, Waiter>,
    last_unblocking: u64,
}

/// Slow questions that are logged in a second, and bytes of their keys.
const SLOW_LINES_MAX: u32 = 20;
const SLOW_LINES_MILLIS: u64 = 1000;
const SLOW_KEY_BYTES: usize = 64;
/// Where answers go that nobody waits for.
const NOBODY: ReturnAddress =
    ReturnAddress { connection: ConnectionId { place: u32::MAX, generation: 0 }, ticket: 0 };
/// The connection of answers for which a command waits that went to an origin; the ticket names it.
pub(super) const PASSAGES: ConnectionId = ConnectionId { place: u32::MAX, generation: 1 };

impl Origins {
    pub(super) fn new(me: CoreId, sources: Arc<Sources>) -> Origins {
        let mut pools: Vec<Connector> = Vec::new();
        pools.extend(sources.origins.iter().map(|origin| {
            // One core listens for changes and tells the others: an origin sends each change once.
            let listen = origin.pool.listen && me == CoreId(0);
            let pool = crate::origin::pool::Options { listen, ..origin.pool };
            Connector::new(origin.target.clone(), pool, origin.permits.clone())
        }));
        let mut origin_of: Vec<usize> = (0..pools.len()).collect();
        let mut passing_at = vec![None; pools.len()];
        let private = sources.origins.iter().map(|origin| {
            let redis = matches!(origin.target.kind, crate::origin::Kind::Redis { .. });
            redis.then(|| {
                let options = private::Options {
                    lines_max: origin.private_lines_max,
                    timeout_millis: origin.pool.timeout_millis,
                    limits: origin.pool.limits,
                };
                PrivateLines::new(origin.target.clone(), options)
            })
        });
        let private = private.collect();
        for (place, origin) in sources.origins.iter().enumerate() {
            if !matches!(origin.target.kind, crate::origin::Kind::Redis { .. }) {
                continue;
            }
            passing_at[place] = Some(pools.len());
            for protocol in [2, 3] {
                // One connection only (to each node): so what leaves in an order arrives in it.
                let duty = crate::origin::Duty::Pass { protocol };
                let pool =
                    crate::origin::pool::Options { connections_max: 1, duty, listen: false, ..origin.pool };
                pools.push(Connector::new(origin.target.clone(), pool, origin.permits.clone()));
                origin_of.push(place);
            }
        }
        Origins {
            opened: vec![0; pools.len()],
            last_tls: vec![None; pools.len()],
            slow_lines_left: SLOW_LINES_MAX,
            slow_lines_until: Mono(0),
            slow_left_out: 0,
            pools,
            origin_of,
            passing_at,
            private,
            sources,
            places: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            rearm: Vec::new(),
            rooms: Vec::new(),
            round: 0,
            unblocking: BTreeMap::new(),
            last_unblocking: 0,
        }
    }

    /// What is to be told of each origin.
    pub(super) fn reports(&self) -> Vec<OriginReport> {
        let mut reports = vec![OriginReport::default(); self.sources.origins.len()];
        for (pool, &origin) in self.pools.iter().zip(&self.origin_of) {
            let report = &mut reports[origin];
            report.tally.add(&pool.tally());
            report.connections += pool.connection_count() as u64;
            report.waiting += pool.waiting_count() as u64;
            report.circuit_open |= pool.circuit_open();
            report.spare_rate = report.spare_rate.max(pool.spare_rate());
        }
        for (report, private) in reports.iter_mut().zip(&self.private) {
            let Some(private) = private else { continue };
            report.tally.add(&private.tally);
            report.connections += private.count() as u64;
            report.private_lines = private.count() as u64;
            report.private_waiting = private.waiting_count() as u64;
        }
        reports
    }

    /// Says what of their spare this core may take from now on.
    pub(super) fn set_spare_share(&mut self, share: f64) {
        self.pools.iter_mut().for_each(|pool| pool.set_spare_share(share));
    }

    /// Commands that wait at origins for what others do.
    pub(super) fn waiting_count(&self) -> usize {
        self.private.iter().flatten().map(PrivateLines::waiting_count).sum()
    }

    /// Whether a command of this client waits at an origin for what others do.
    pub(super) fn waits(&self, client: ConnectionId) -> bool {
        self.private.iter().flatten().any(|private| !private.is_empty() && private.waits(client))
    }

    /// Has the origin end what a command of this client waits for there; false if none does.
    fn unblock(&mut self, now: Mono, client: ConnectionId, how: UnblockAs, asker: Waiter) -> bool {
        self.last_unblocking += 1;
        let number = self.last_unblocking;
        let mut private = self.private.iter_mut().flatten();
        let waits = private.any(|private| private.unblock(now, client, how, number));
        if waits {
            self.unblocking.insert(number, asker);
        }
        waits
    }

    /// A client has gone; says whether anything is to be done because of that.
    pub(super) fn leave(&mut self, client: ConnectionId) -> bool {
        let mut any = false;
        for private in self.private.iter_mut().flatten().filter(|private| !private.is_empty()) {
            any |= private.leave(client);
        }
        any
    }

    /// The keyspaces.
    pub(super) fn rules(&self) -> Arc<Keyspaces> {
        self.sources.keyspaces.clone()
    }

    /// Says which origins are left in peace from now on: once each time, as what follows from it is no news.
    fn log_opened(&mut self) {
        for (place, pool) in self.pools.iter().enumerate() {
            if pool.opened() > self.opened[place] {
                self.opened[place] = pool.opened();
                let last = pool.last_failure().map(|why| why.to_string()).unwrap_or_default();
                let broken = pool.last_broken().map(|why| why.to_string()).unwrap_or_default();
                tracing::warn!(
                    origin = self.sources.origins[self.origin_of[place]].name,
                    failed = pool.tally().failed,
                    last,
                    broken,
                    tls = self.last_tls[place].as_deref().unwrap_or_default(),
                    "an origin fails and is left in peace for a while"
                );
            }
        }
    }

    fn next_due(&self, now: Mono) -> Option<Mono> {
        let private = self.private.iter().flatten().filter_map(PrivateLines::next_due);
        self.pools.iter().filter_map(|pool| pool.next_due(now)).chain(private).min()
    }
}

impl Core {
    /// Carries questions to origins, and what they answer to those who wait.
    pub(super) fn mind_origins(&mut self, now: Now) {
        if self.origins.pools.is_empty() && !self.works.engine.reads_through() {
            return;
        }
        for pool in &mut self.origins.pools {
            if pool.next_due(now.mono).is_some_and(|due| due <= now.mono) {
                pool.tick(now.mono);
            }
        }
        for origin in 0..self.origins.private.len() {
            if let Some(private) = &mut self.origins.private[origin] {
                private.tick(now.mono);
                self.origins.mind_astray(now.mono, PRIVATE + origin);
            }
        }
        let mut due = self.works.engine.attend(now);
        self.prefetch(now);
        loop {
            let mut any = false;
            while let Some(effect) = self.works.engine.poll_effect() {
                any = true;
                self.take_effect(now, effect);
            }
            for origin in 0..self.origins.pools.len() {
                while let Some(action) = self.origins.pools[origin].poll() {
                    any = true;
                    self.take_action(now, origin, action);
                }
            }
            for origin in 0..self.origins.private.len() {
                let next = |private: &mut Option<PrivateLines>| private.as_mut()?.poll();
                while let Some(action) = next(&mut self.origins.private[origin]) {
                    any = true;
                    self.take_action(now, PRIVATE + origin, action);
                }
            }
            if !any {
                break;
            }
            due = self.works.engine.attend(now);
        }
        self.send_to_origins();
        self.origins.log_opened();
        let pools = self.origins.next_due(now.mono);
        self.due.origins = [due, pools].into_iter().flatten().min();
    }

    /// Lets the engine fetch ahead as far as the origins have room.
    fn prefetch(&mut self, now: Now) {
        if !self.works.engine.has_candidates() {
            return;
        }
        let origins = self.origins.sources.origins.len();
        self.origins.rooms.clear();
        let rooms = self.origins.pools[..origins].iter_mut().map(|pool| pool.spare_room(now.mono));
        self.origins.rooms.extend(rooms);
        self.works.engine.prefetch(now, &mut self.origins.rooms);
    }

    /// Has its origin end what a command of a client of ours waits for there, and the asker told what comes of it; false if nothing
    /// waits there.
    pub(super) fn unblock_at_origin(
        &mut self,
        now: Now,
        client: ConnectionId,
        how: UnblockAs,
        asker: Waiter,
    ) -> bool {
        let waits = self.origins.unblock(now.mono, client, how, asker);
        if waits {
            if asker.core != self.works.me {
                self.works.mesh.park(asker.core);
            }
            // What that brings about is seen to in the next turn.
            self.due.origins = Some(Mono(0));
        }
        waits
    }

    fn tell_unblocked(&mut self, now: Now, number: u64, told: Result<Reply, Failure>) {
        let Some(asker) = self.origins.unblocking.remove(&number) else { return };
        let number = match &told {
            Ok(Reply::Raw(frame)) => match frame.as_slice() {
                b":0\r\n" => Some(0),
                b":1\r\n" => Some(1),
                _ => None,
            },
            _ => None,
        };
        let text = match &told {
            Ok(Reply::Raw(frame)) => frame.strip_prefix(b"-").unwrap_or_default().trim_ascii_end().to_vec(),
            Ok(Reply::Refused(text)) => text.clone(),
            Ok(_) => format!("ERR {}", Failure::Broken).into_bytes(),
            Err(why) => format!("ERR {why}").into_bytes(),
        };
        let outcome = match number {
            Some(number) => Outcome { answer: Answer::Number(number), value: Value::EMPTY },
            None => Outcome { answer: Answer::Fault(Fault::Origin), value: Value::One(&text) },
        };
        if asker.core == self.works.me {
            self.complete(now, asker.address, &outcome);
        } else {
            self.works.mesh.answer_late(asker.core, asker.address, &outcome);
        }
    }

    /// Hands what other cores are to learn to this turn's batches.
    pub(super) fn spread_hints(&mut self) {
        let works = &mut self.works;
        if works.node.cpus.len() == 1 {
            return;
        }
        let (map, mesh) = (&works.node.map, &mut works.mesh);
        works.engine.take_hints(|hint, text| {
            let to = hint.core().unwrap_or_else(|| map.owner(ShardId::new(shard_of(hint.key()))));
            mesh.hint(to, hint, text);
        });
    }

    /// Takes over keyspaces that were read again, if they were.
    pub(super) fn take_keyspaces(&mut self) {
        let round = self.shared.keyspaces_round.load(Ordering::Acquire);
        if round == self.origins.round {
            return;
        }
        let keyspaces = self.shared.keyspaces.read().expect("nobody panics while holding it").clone();
        self.works.engine.set_keyspaces(keyspaces.clone());
        let origins = self.origins.sources.origins.clone();
        (self.origins.sources, self.origins.round) = (Arc::new(Sources { origins, keyspaces }), round);
    }

    fn take_effect(&mut self, now: Now, effect: Effect) {
        match effect {
            Effect::Ask { origin, ticket, cause, ask } => {
                self.origins.pools[usize::from(origin.0)].ask(now.mono, ticket, cause, ask);
            }
            Effect::Hurry { origin, ticket } => {
                self.origins.pools[usize::from(origin.0)].hurry(now.mono, ticket);
            }
            Effect::Pass { origin, protocol, ticket, ask, private: Some((client, how)) } => {
                let origin = usize::from(origin.0);
                let place = self.origins.pools[origin].home(&ask.key);
                let private = self.origins.private_of(PRIVATE + origin);
                private.ask(now.mono, client, protocol, ticket, ask, how, place);
            }
            Effect::Pass { origin, protocol, ticket, ask, private: None } => {
                let first = self.origins.passing_at[usize::from(origin.0)];
                let first = first.expect("keyspaces that pass have an origin with pools for it");
                let pool = &mut self.origins.pools[first + usize::from(protocol == 3)];
                pool.ask(now.mono, ticket, Cause::Demand, ask);
            }
            Effect::Forget { passage, key } => {
                let owner = match self.works.node.cpus.len() {
                    1 => self.works.me,
                    _ => self.works.node.map.owner(slot_of(&key).shard()),
                };
                let address = ReturnAddress { connection: PASSAGES, ticket: passage.0 };
                let request = Request { key: &key, value: b"", verb: Verb::Invalidate(Named::Key) };
                if owner == self.works.me {
                    self.works.engine.serve(now, Waiter { core: owner, address }, &request);
                    self.works.engine.forgotten(passage);
                } else {
                    self.works.mesh.send(owner, address, &request);
                }
            }
            Effect::Answer { waiter, answer, value } => {
                let outcome = Outcome { answer, value: Value::One(&value) };
                if waiter.core == self.works.me {
                    self.complete(now, waiter.address, &outcome);
                } else {
                    self.works.mesh.answer_late(waiter.core, waiter.address, &outcome);
                }
            }
        }
    }

    fn take_action(&mut self, now: Now, origin: usize, action: Action) {
        match action {
            Action::Connect(line) => {
                if self.origins.connect(&mut self.ring, origin, line).is_none() {
                    self.origins.tell_closed(now.mono, origin, line);
                }
            }
            Action::Send(line) => {
                if let Some(link) = self.origins.by_line(origin, line) {
                    let id = link.id;
                    self.origins.dirty.push(id);
                }
            }
            Action::Close(line) => {
                let id = match Origins::is_private(origin) {
                    true => self.origins.private_of(origin).unbind(line),
                    false => self.origins.by_line(origin, line).map(|link| link.id),
                };
                if let Some(id) = id {
                    self.origins.drop_link(&mut self.ring, id);
                }
            }
            Action::Slow(ticket, millis) => self.log_slow(now.mono, origin, ticket, millis),
            Action::Tell(Told::Answer(ticket, reply)) => {
                let works = &mut self.works;
                if let (Some(taping), Reply::Found(found)) = (&mut works.taping, &reply)
                    && let Some(key) = works.engine.key_of(ticket)
                {
                    let bytes = u32::try_from(found.value.len()).unwrap_or(u32::MAX);
                    taping.recorder.told(now.mono, key, bytes);
                }
                works.engine.answered(now, ticket, reply);
            }
            Action::Tell(Told::Failed(ticket, why)) => self.works.engine.failed(now, ticket, why),
            Action::Tell(Told::Unblocked(number, told)) => self.tell_unblocked(now, number, told),
            Action::Tell(Told::Pushed(client, frame)) => self.notify(now, client, Notice::Pushed, &frame),
            Action::Tell(Told::Lost(client)) => {
                if let Some(connection) = self.table.of(client) {
                    connection.closing = true;
                    self.works.engine.counters.connections_dropped_total += 1;
                    self.settle(now, client);
                }
            }
            Action::Tell(Told::Changed(key)) => {
                let sources = self.origins.sources.clone();
                let all = sources.keyspaces.list().iter();
                for keyspace in all.filter(|keyspace| usize::from(keyspace.origin.0) == origin) {
                    let own = keyspace.own_key(&key);
                    if keyspace.fits(&own) {
                        let owner = match self.works.node.cpus.len() {
                            1 => self.works.me,
                            _ => self.works.node.map.owner(slot_of(&own).shard()),
                        };
                        self.invalidate_on(now, owner, &own, Named::Key);
                    }
                }
            }
            Action::Tell(Told::AllChanged) => {
                let sources = self.origins.sources.clone();
                let all = sources.keyspaces.list().iter();
                for keyspace in all.filter(|keyspace| usize::from(keyspace.origin.0) == origin) {
                    let prefix = match &keyspace.keys {
                        Keys::Prefix(prefix) => prefix.as_slice(),
                        Keys::Pattern(pattern) => {
                            pattern.split(|&byte| byte == b'*').next().unwrap_or_default()
                        }
                    };
                    for core in 0..self.works.node.cpus.len() as u16 {
                        self.invalidate_on(now, CoreId(core), prefix, Named::Prefix);
                    }
                }
            }
        }
    }

    /// Logs a question that took long. Its trace id names it: the core, and the ticket, which no other question of that core has.
    fn log_slow(&mut self, now: Mono, pool: usize, ticket: Ticket, millis: u64) {
        let origins = &mut self.origins;
        if now >= origins.slow_lines_until {
            origins.slow_lines_until = now.plus_millis(SLOW_LINES_MILLIS);
            origins.slow_lines_left = SLOW_LINES_MAX;
        }
        if origins.slow_lines_left == 0 {
            origins.slow_left_out += 1;
            return;
        }
        origins.slow_lines_left -= 1;
        let key = self.works.engine.key_of(ticket).unwrap_or_default();
        let key = key[..key.len().min(SLOW_KEY_BYTES)].escape_ascii();
        tracing::warn!(
            trace = format!("{:x}-{:x}", self.works.me.0, ticket.0),
            origin = origins.sources.origins[origins.origin_of[pool]].name,
            millis,
            key = key.to_string(),
            left_out = std::mem::take(&mut origins.slow_left_out),
            "a question to an origin was slow"
        );
    }

    fn invalidate_on(&mut self, now: Now, core: CoreId, name: &[u8], named: Named) {
        let request = Request { key: name, value: b"", verb: Verb::Invalidate(named) };
        self.works.engine.counters.origin_changes_total += 1;
        if core == self.works.me {
            let waiter = Waiter { core, address: NOBODY };
            self.works.engine.serve(now, waiter, &request);
        } else {
            self.works.mesh.send(core, NOBODY, &request);
        }
    }
}
