//! What sessions see of a core.

use super::errands::Taping;
use super::links::Wanted;
use super::moving::{FarState, Moving};
use super::routes::{DETOUR, Routes, is_of_several};
use super::usage::Usage;
use crate::clock::{Mono, Now};
use crate::control::keeper::Keeper;
use crate::engine::{Engine, Fate, Waiter};
use crate::hash::slot_of;
use crate::heat::Heat;
use crate::ids::{ConnectionId, CoreId};
use crate::io::connection::KEEP_BYTES;
use crate::io::mesh::Mesh;
use crate::io::time;
use crate::message::ReturnAddress;
use crate::metrics::Counters;
use crate::request::{
    Answer, Condition, Expiry, Fault, Observer, Outcome, Put, Request, Shared, Value, Verb,
};
use crate::store::Incoming;
use crate::topology::Node;
use crate::wire::denials::Denial;
use crate::wire::events::{Asker, DELETIONS, Watchers};
use crate::wire::guesses::Guesses;
use crate::wire::journal::{Errors, Journal, Slow, Thresholds};
use crate::wire::{Backend, Target};
use std::rc::Rc;

/// Everything that a request may touch: what sessions see of the core.
pub(super) struct Works {
    pub(super) me: CoreId,
    pub(super) engine: Engine,
    pub(super) mesh: Mesh,
    pub(super) node: Rc<Node>,
    /// Whether there is no other core, of this node or another one.
    pub(super) alone: bool,
    /// Of the cores of other nodes, in their order: whether there is a link to it.
    pub(super) far: Vec<FarState>,
    /// Bytes of the longest key and value that go there.
    pub(super) far_bytes_max: usize,
    /// Connections that are to be links.
    pub(super) wanted_links: Vec<Wanted>,
    /// Who keeps the records of a cluster's shards, if it is here.
    pub(super) keeper: Option<Keeper>,
    /// Where requests of this core's sessions go.
    pub(super) routes: Routes,
    /// Whether other cores' requests, and those of several keys, have to be looked at before they are done.
    pub(super) attentive: bool,
    /// What this core has to do with moves of shards, if it ever had.
    pub(super) moving: Option<Box<Moving>>,
    pub(super) usage: Usage,
    /// How much is asked of each shard here.
    pub(super) heat: Heat,
    /// Whether the name in a client's certificate is its user's.
    pub(super) certificates_name_users: bool,
    /// Calls of each RESP command and subcommand, by its place.
    pub(super) calls: Box<[u64; 256]>,
    /// Requests about connections, done when no session is at work.
    pub(super) chores: Vec<Chore>,
    pub(super) scratch: Vec<u8>,
    /// Who sees the commands of this core's connections, and how many lines may still be shown in this turn's share of time.
    pub(super) monitors: Vec<Observer>,
    pub(super) lines_left: u32,
    pub(super) lines_until: Mono,
    /// Wrong passwords of late.
    pub(super) guesses: Guesses,
    /// Who watches what happens.
    pub(super) watchers: Watchers,
    /// What is remembered of commands.
    pub(super) journal: Journal,
    /// Lines for them, made in this turn.
    pub(super) lines: Vec<Vec<u8>>,
    /// Most bytes of a command beside its longest argument.
    pub(super) query_bytes_max: usize,
    /// Long buffers for output.
    pub(super) spare_buffers: Vec<Vec<u8>>,
    /// Buffers of connections hold a third of what they may: who has replies on the way gets no more until they are taken, others
    /// one at a time.
    pub(super) tight: bool,
    /// The recording, while there is one.
    pub(super) taping: Option<Box<Taping>>,
}

/// Lines that monitors are shown in so many milliseconds, per core: they see a sample.
const MONITOR_LINES_MAX: u32 = 200;
const MONITOR_MILLIS: u64 = 100;

pub(super) struct Chore {
    /// The request's key and value.
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) from: CoreId,
    pub(super) address: ReturnAddress,
    pub(super) verb: Verb,
}

/// Long output buffers kept for whoever needs one next, and the bytes of each.
const SPARE_BUFFERS_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 512 << 10;

impl Works {
    /// Gives a connection that is about to write replies a spare buffer, if it has none of its own and there is one.
    #[inline]
    pub(super) fn lend_buffer(&mut self, output: &mut Vec<u8>) {
        if output.capacity() == 0
            && let Some(spare) = self.spare_buffers.pop()
        {
            *output = spare;
        }
    }

    /// Takes a lent buffer back from who has written little: it would hold much memory that nobody counts.
    #[inline]
    pub(super) fn review_buffer(&mut self, output: &mut Vec<u8>) {
        if output.capacity() > KEEP_BYTES && output.len() < output.capacity() / 4 {
            let short = output.as_slice().to_vec();
            self.keep_buffer(std::mem::replace(output, short));
        }
    }

    /// Keeps a long buffer that was sent for the next long output: memory that is new to the process costs a fault for each of
    /// its pages.
    pub(super) fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        if self.spare_buffers.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }

    /// Has the engine begin to fetch from memory what requests about these keys will touch, as far as they are this core's.
    #[inline]
    pub(super) fn expect(&mut self, keys: &[&[u8]]) {
        let Works { alone, me, engine, routes, .. } = self;
        if *alone {
            return engine.approach(keys.iter().copied());
        }
        let mine = |key: &&[u8]| routes.of(slot_of(key).shard()) == *me;
        engine.approach(keys.iter().copied().filter(mine));
    }

    /// Does a request on this core; `None` for those that must wait for the end of the turn.
    #[inline]
    pub(super) fn execute(
        &mut self,
        now: Now,
        from: CoreId,
        address: ReturnAddress,
        request: &Request<'_>,
    ) -> Option<Outcome<'_>> {
        self.heat.request(request.key);
        match request.verb {
            Verb::Connections
            | Verb::Disconnect { .. }
            | Verb::Unblock { .. }
            | Verb::Limit { .. }
            | Verb::Notify { .. }
            | Verb::Monitor { .. }
            | Verb::Locate { .. }
            | Verb::Watch { .. }
            | Verb::SetUser
            | Verb::Configure { .. } => {
                let (key, value) = (request.key.to_vec(), request.value.to_vec());
                self.chores.push(Chore { key, value, from, address, verb: request.verb });
                None
            }
            Verb::Counters => {
                self.scratch.clear();
                self.count_onlookers();
                self.engine.execute(now, request).value.append_to(&mut self.scratch);
                self.scratch.extend(self.calls.iter().flat_map(|calls| calls.to_le_bytes()));
                // Who is told what is held now is not to be told of a lower peak afterwards.
                self.usage.tell(self.engine.held_bytes() + self.engine.counters.buffer_bytes);
                // One core tells what is true of the process.
                let (process, peak) = match self.me.index() {
                    0 => (time::process(), self.usage.peak_of_all()),
                    _ => ([0; 3], 0),
                };
                let facts = process.into_iter().chain([peak, self.usage.peak()]);
                self.scratch.extend(facts.flat_map(u64::to_le_bytes));
                self.journal.append_counts(&mut self.scratch);
                Some(Outcome { answer: Answer::Page { cursor: 0 }, value: Value::One(&self.scratch) })
            }
            Verb::ResetCounters => {
                self.calls.fill(0);
                self.journal.reset_counts();
                Some(self.engine.execute(now, request))
            }
            Verb::Journal(part) => {
                self.scratch.clear();
                let answer = self.journal.answer(part, &mut self.scratch);
                Some(Outcome { answer, value: Value::One(&self.scratch) })
            }
            Verb::Transfer(_) | Verb::PutAllAbsent if self.attentive && !self.is_coherent(request) => {
                Some(Outcome { answer: Answer::Fault(Fault::Busy), value: Value::EMPTY })
            }
            _ if self.is_watched() => self.serve_watched(now, Waiter { core: from, address }, request),
            _ => self.engine.serve(now, Waiter { core: from, address }, request),
        }
    }

    /// Counts who watches and who is told of changes. All cores know the same ones, so one of them tells.
    pub(super) fn count_onlookers(&mut self) {
        if self.me.index() == 0 {
            self.engine.counters.watchers = self.watchers.count() as u64;
            self.engine.counters.observers = self.engine.observers() as u64;
        }
    }

    /// Whether somebody wants to know of each request.
    #[inline]
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.any() || self.taping.is_some()
    }

    /// Does a request while somebody watches or records.
    #[cold]
    pub(super) fn serve_watched(
        &mut self,
        now: Now,
        waiter: Waiter,
        request: &Request<'_>,
    ) -> Option<Outcome<'_>> {
        let mut len = None;
        if matches!(request.verb, Verb::Remove(_)) && self.watchers.want(DELETIONS) {
            // An answer does not tell how long the value was that is gone.
            let look = Request { verb: Verb::Look, ..*request };
            len = match self.engine.execute(now, &look).answer {
                Answer::Item(item) => Some(item.len),
                _ => None,
            };
        }
        let asker = asker(waiter.core, waiter.address.connection, self.node.core_count());
        let outcome = self.engine.serve(now, waiter, request);
        // Who has to wait for an origin has not found it here.
        let answer = outcome.as_ref().map_or(Answer::Miss, |outcome| outcome.answer);
        if self.watchers.any() {
            self.watchers.request(now, asker, request, answer, len);
        }
        if let Some(taping) = &mut self.taping {
            let client = lander(waiter.core, waiter.address.connection);
            taping.recorder.request(now.mono, client, request, outcome.as_ref());
        }
        outcome
    }
}

/// A connection as those who watch see it.
pub(super) fn asker(core: CoreId, connection: ConnectionId, cores: u16) -> Asker {
    Asker(u64::from(connection.place) * u64::from(cores) + u64::from(core.0))
}

/// A connection of a core as somebody whose value lands: no two have the same number at a time.
pub(super) fn lander(core: CoreId, connection: ConnectionId) -> u64 {
    u64::from(core.0) << 48 ^ u64::from(connection.place) << 16 ^ u64::from(connection.generation & 0xFFFF)
}

/// What one connection's session sees of the works.
pub(super) struct Desk<'a> {
    /// The memory that the session's input lies in, if it is a long command.
    pub(super) incoming: Option<&'a Incoming>,
    pub(super) fate: Fate,
    pub(super) works: &'a mut Works,
    pub(super) now: Now,
    pub(super) connection: ConnectionId,
    /// Commands done before the session's turn.
    pub(super) commands_before: u64,
    /// Reads that waited for an origin before.
    pub(super) parked_before: u64,
}

impl Desk<'_> {
    /// Whether the session has had its share where there is not enough for all: of buffers, or of reads that wait for origins.
    #[cold]
    fn has_had_enough(&self) -> bool {
        let engine = &self.works.engine;
        self.works.tight && engine.counters.commands_total != self.commands_before
            || engine.has_parked_enough() && engine.parked() != self.parked_before
    }
}

impl Desk<'_> {
    /// A value in the memory that it was received into, if that is worth keeping for its sake. Only one request may have it.
    #[inline]
    fn arrived(&self, value: &[u8]) -> Option<Shared> {
        let incoming = self.incoming.filter(|_| self.fate == Fate::Unused)?;
        if value.len() <= incoming.len() / 2 { None } else { incoming.part(value) }
    }

    fn sent_on(&mut self, request: &Request<'_>) -> Option<Outcome<'static>> {
        let works = &mut *self.works;
        works.engine.sent_on(self.now, request);
        works.engine.counters.hops_sent_total += 1;
        None
    }
}

impl Backend for Desk<'_> {
    #[inline]
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>> {
        let works = &mut *self.works;
        let address = ReturnAddress { connection: self.connection, ticket };
        let owner = match target {
            Target::Owner if works.alone => works.me,
            Target::Owner => works.routes.of(slot_of(request.key).shard()),
            Target::Core(core) => core,
            Target::Here => works.me,
        };
        let me = self.works.me;
        if owner == me {
            if let Some(value) = self.arrived(request.value) {
                self.works.engine.offer(&value);
                self.fate = Fate::Stored;
            }
            return self.works.execute(self.now, me, address, request);
        }
        if owner == DETOUR {
            return self.works.detour(self.now, address, request);
        }
        if self.works.attentive && is_of_several(&request.verb) && !self.works.is_coherent(request) {
            return Some(Outcome { answer: Answer::Fault(Fault::Busy), value: Value::EMPTY });
        }
        if self.works.node.is_far(owner) {
            if let Some(outcome) = self.works.stays_here(owner, request) {
                return Some(outcome);
            }
            self.works.mesh.send(owner, address, request);
            return self.sent_on(request);
        }
        match self.arrived(request.value) {
            Some(value) => {
                self.fate = Fate::Sent;
                self.works.mesh.send_arrived(owner, address, request, value);
            }
            None => self.works.mesh.send(owner, address, request),
        }
        self.sent_on(request)
    }

    fn land(&mut self, key: &[u8], value: &[u8]) -> bool {
        let works = &mut *self.works;
        let mine = works.alone || works.routes.of(slot_of(key).shard()) == works.me;
        if !mine {
            // Its owner sees to it, when it has come there.
            return true;
        }
        let from = lander(works.me, self.connection);
        if let Some(value) = self.arrived(value) {
            self.works.engine.offer(&value);
        }
        let works = &mut *self.works;
        // Whatever the condition is that it comes with: the item that it may replace leaves when it is its turn.
        let put = Put { condition: Condition::Absent, ..Put::plain(Expiry::Never) };
        works.engine.land(self.now, from, &Request { key, value, verb: Verb::Put(put) })
    }

    #[inline]
    fn expect(&mut self, keys: &[&[u8]]) {
        self.works.expect(keys);
    }

    #[inline]
    fn ready(&self) -> bool {
        let works = &*self.works;
        let enough = works.engine.strained && self.has_had_enough();
        let parked = works.moving.as_ref().is_some_and(|moving| moving.fences.is_full());
        works.mesh.ready() && !enough && !parked
    }

    fn link(&mut self, greeting: &[u8]) -> bool {
        self.want_link(greeting)
    }

    fn is_settled(&self, key: &[u8]) -> bool {
        let (works, shard) = (&*self.works, slot_of(key).shard());
        !works.attentive || works.routes.of(shard) == works.node.map.owner(shard)
    }

    fn trusts(&mut self, now: Mono, source: &str, user: &[u8]) -> bool {
        let trusts = self.works.guesses.allows(now, source, user);
        self.works.engine.counters.logins_refused_total += u64::from(!trusts);
        trusts
    }

    fn distrust(&mut self, now: Mono, source: &str, user: &[u8]) {
        if self.works.guesses.wrong(now, source, user) {
            let user = String::from_utf8_lossy(&user[..user.len().min(64)]);
            tracing::warn!(source, %user, "too many wrong passwords: those that follow are not looked at for a while");
        }
    }

    fn denied(&mut self, denial: &Denial<'_>) {
        let place = (self.works.me.0, self.works.node.core_count());
        self.works.journal.denials.add(place, self.now.wall.0, denial);
    }

    fn dice(&mut self, into: &mut [u8]) -> bool {
        rustls::crypto::ring::default_provider().secure_random.fill(into).is_ok()
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.works.engine.counters
    }

    #[inline]
    fn passes(&self) -> bool {
        self.works.engine.passes()
    }

    fn passes_to(&self, key: Option<&[u8]>) -> Option<u16> {
        self.works.engine.passes_to(key).map(|origin| origin.0)
    }

    fn passes_all_to(&self) -> Option<u16> {
        self.works.engine.passes_all_to().map(|origin| origin.0)
    }

    fn observer(&self) -> Option<Observer> {
        Some(Observer { core: self.works.me, connection: self.connection })
    }

    fn monitored(&self) -> bool {
        !self.works.monitors.is_empty()
    }

    fn clock(&self) -> Option<Mono> {
        Some(time::mono())
    }

    fn took(&mut self, command: u8, unix_seconds: u64, micros: u64) -> bool {
        self.works.journal.took(command, unix_seconds, micros);
        self.works.journal.keeps(micros)
    }

    fn keep(&mut self, slow: &Slow<'_>) {
        let (core, cores) = (self.works.me.0, self.works.node.core_count());
        self.works.journal.keep(core, cores, slow);
    }

    fn erred(&mut self, errors: &Errors) {
        self.works.journal.erred(errors);
    }

    fn thresholds(&self) -> Thresholds {
        self.works.journal.thresholds
    }

    fn monitor(&mut self, line: &[u8]) {
        let works = &mut *self.works;
        if self.now.mono >= works.lines_until {
            works.lines_until = self.now.mono.plus_millis(MONITOR_MILLIS);
            works.lines_left = MONITOR_LINES_MAX;
        }
        if works.lines_left == 0 {
            return;
        }
        works.lines_left -= 1;
        let millis = self.now.wall.0;
        let mut text = format!("{}.{:03}000 ", millis / 1000, millis % 1000).into_bytes();
        text.extend_from_slice(line);
        works.lines.push(text);
    }

    #[inline]
    fn called(&mut self, place: u8) {
        self.works.calls[usize::from(place)] += 1;
    }
}
