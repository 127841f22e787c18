//! The connections of one core to one origin: which question goes where, what is overdue, and when to leave it in peace.
//!
//! ```text
//!   ask --> lines (demand | refresh | prefetch) --permit--> connection --> Client --> bytes
//!              | queue full, overdue, circuit open               | answer: permit back, told
//!              v                                                 v overdue, broken, closed: all of it fails
//!           Told::Failed                                      Told::Failed for each
//! ```
//! Sans-IO: the shell connects, reads and writes as [`Pool::poll`] says, and tells what came of it. Rules:
//! 1. Demand goes before refresh, refresh before prefetch; within each the oldest first. A question that somebody comes to wait
//!    for is hurried: it goes on as demand.
//! 2. No more questions are on their way, over all cores, than the origin's permits; the rest waits here, bounded.
//! 3. Every question has one deadline for everything: waiting, connecting, sending, the last byte of the answer. The
//!    connection that holds an overdue one is given up, because answers are told apart by their order only.
//! 4. Prefetch takes a quarter of the permits at most, and no more than the origin has to spare (`spare`).
//! 5. After some failures in a row the circuit opens: questions fail at once, then one is let through to try. Each time
//!    that fails the pause doubles.

use super::spare::Spare;
use super::{Ask, Broken, Client, Duty, Heard, Limits, Reply, Target, Ticket};
use crate::clock::Mono;
use crate::ids::ConnectionId;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What may be on the way to an origin, shared by all cores.
#[derive(Debug)]
pub struct Permits {
    taken: AtomicU32,
    max: u32,
    most: AtomicU32,
}

impl Permits {
    /// For so many questions at a time.
    pub fn new(max: u32) -> Permits {
        Permits { taken: AtomicU32::new(0), max: max.max(1), most: AtomicU32::new(0) }
    }

    fn take(&self, cause: Cause) -> bool {
        let max = if cause == Cause::Prefetch { self.max.div_ceil(SPARE_PERMITS) } else { self.max };
        let more = |taken| (taken < max).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more) {
            Ok(before) => {
                self.most.fetch_max(before + 1, Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }

    fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a permit was given back twice");
    }

    /// How many are out.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The most that were out at a time.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }
}

/// One permit in so many may be taken for what nobody waits for, and only while no more are out.
const SPARE_PERMITS: u32 = 4;

/// Bounds of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most connections of one core.
    pub connections_max: usize,
    /// Most questions that wait on one core.
    pub queue_max: usize,
    /// Milliseconds from a question to the end of its answer.
    pub timeout_millis: u64,
    /// Milliseconds from which on a question counts as slow.
    pub slow_millis: u64,
    /// Failures in a row that open the circuit.
    pub failures_max: u32,
    /// Milliseconds that it stays open the first time.
    pub open_millis: u64,
    /// What is taken from the origin.
    pub limits: Limits,
    /// What the connections are for that are asked: [`Duty::Ask`] or [`Duty::Pass`].
    pub duty: Duty,
    /// Whether this core keeps a connection on which the origin tells of changes.
    pub listen: bool,
    /// Whether what it asks ahead follows the shares that cores are told ([`Pool::set_spare_share`]).
    pub spare_by_forecast: bool,
}

/// Why a question is asked; the order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A client waits.
    Demand,
    /// An item is about to be, or is, out of date.
    Refresh,
    /// Somebody may want it.
    Prefetch,
}

impl Cause {
    const ALL: [Cause; 3] = [Cause::Demand, Cause::Refresh, Cause::Prefetch];
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The origin could not be connected to.
    #[error("the origin cannot be reached")]
    Unreachable,
    /// TLS with it did not come about.
    #[error("TLS with the origin did not come about; the log says why")]
    Untrusted,
    /// The nodes of a cluster sent the question from one to another.
    #[error("the origin's nodes send the question from one to another")]
    Astray,
    /// The connection ended before the answer.
    #[error("the origin closed the connection")]
    Closed,
    /// The answer did not come in time.
    #[error("the origin did not answer in time")]
    Overdue,
    /// The origin broke its protocol.
    #[error("the origin broke its protocol")]
    Broken,
    /// It is left in peace after failures.
    #[error("the origin is not asked for a while because it failed")]
    CircuitOpen,
    /// Too many questions wait already.
    #[error("too many questions wait for the origin")]
    QueueFull,
    /// Too many clients have a connection of their own there already.
    #[error("too many clients have a connection of their own to the origin")]
    Crowded,
}

/// What a pool has to say.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// An answer.
    Answer(Ticket, Reply),
    /// There will be none.
    Failed(Ticket, Failure),
    /// A key changed at the origin.
    Changed(Vec<u8>),
    /// Any key may have: the origin said so, or could not have told us for a while.
    AllChanged,
    /// Something for the client whose own connection it came by.
    Pushed(ConnectionId, Vec<u8>),
    /// A client's own connection has ended by which things were to come that nobody can make up for.
    Lost(ConnectionId),
    /// What the origin said when it was to end the wait of a client, under the number of that errand.
    Unblocked(u64, Result<Reply, Failure>),
}

/// What a pool wants done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Connect to the origin; then [`Pool::connected`] or [`Pool::closed`].
    Connect(Line),
    /// Send what [`Pool::output`] holds for this connection.
    Send(Line),
    /// Close it; nothing is to be told of it any more.
    Close(Line),
    /// What is told next of this question took this many milliseconds, which is slow.
    Slow(Ticket, u64),
    /// Pass this on.
    Tell(Told),
}

/// Names a connection of a pool; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Line(pub u64);

/// What a pool counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Questions sent.
    pub asked: u64,
    /// Answers.
    pub answered: u64,
    /// Questions without one.
    pub failed: u64,
    /// Times the circuit opened.
    pub opened: u64,
    /// Connections made.
    pub connected: u64,
    /// Answers by how long they took: as many as each of [`LATENCY_MILLIS`] bounds, then those beyond.
    pub latencies: [u64; LATENCY_MILLIS.len() + 1],
    /// Microseconds of all answers together.
    pub latency_micros: u64,
    /// Questions that a node of a cluster sent to another.
    pub redirected: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.failed += other.failed;
        self.opened += other.opened;
        self.connected += other.connected;
        self.latency_micros += other.latency_micros;
        self.redirected += other.redirected;
        for (all, one) in self.latencies.iter_mut().zip(other.latencies) {
            *all += one;
        }
    }
}

/// Upper bounds of the classes that answers are counted in.
pub const LATENCY_MILLIS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

struct Connection {
    line: Line,
    client: Client,
    duty: Duty,
    open: bool,
    /// A listening connection that has said that it listens.
    listening: bool,
    until: Mono,
    asked: VecDeque<(Ticket, Mono)>,
    output: Vec<u8>,
}

struct Waiting {
    ticket: Ticket,
    ask: Rc<Ask>,
    until: Mono,
}

enum Circuit {
    Closed {
        failures: u32,
    },
    Open {
        until: Mono,
        pause_millis: u64,
    },
    /// One question is out to try.
    Trying {
        pause_millis: u64,
    },
}

/// Longest pause of an open circuit, and between tries to listen.
const PAUSE_MILLIS_MAX: u64 = 30_000;
/// How soon to look for permits that other cores gave back, when nothing of this core's is on its way.
const PERMIT_MILLIS: u64 = 1;
/// First pause between tries to listen.
const LISTEN_PAUSE_MILLIS: u64 = 100;

/// One core's connections to one origin.
pub struct Pool {
    target: Arc<Target>,
    options: Options,
    permits: Arc<Permits>,
    lines: [VecDeque<Waiting>; 3],
    connections: Vec<Connection>,
    circuit: Circuit,
    next_line: u64,
    of_node: bool,
    listen_at: Mono,
    listen_pause_millis: u64,
    /// Questions wait for permits that others have: when to look for some again.
    starved: Option<Mono>,
    actions: VecDeque<Action>,
    heard: Vec<Heard>,
    spare: Spare,
    /// What it counts.
    pub tally: Tally,
    last_broken: Option<Broken>,
    last_failure: Option<Failure>,
}

impl Pool {
    /// A pool without connections.
    pub fn new(target: Arc<Target>, options: Options, permits: Arc<Permits>) -> Pool {
        Pool {
            target,
            options,
            permits,
            lines: Default::default(),
            connections: Vec::new(),
            circuit: Circuit::Closed { failures: 0 },
            next_line: 0,
            of_node: false,
            listen_at: Mono(0),
            listen_pause_millis: LISTEN_PAUSE_MILLIS,
            starved: None,
            actions: VecDeque::new(),
            heard: Vec::new(),
            spare: Spare::default(),
            tally: Tally::default(),
            last_broken: None,
            last_failure: None,
        }
    }

    /// The same for a node of a cluster: its connections are numbered from `first` on, its redirections answers as others are.
    pub(super) fn of_node(mut self, first: u64) -> Pool {
        (self.next_line, self.of_node) = (first, true);
        self
    }

    /// What to do next; changes with every other call.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How many questions of cause [`Cause::Prefetch`] it has room for now. Changes with time and with every other call.
    pub fn spare_room(&mut self, now: Mono) -> usize {
        let waited_for = !self.lines[Cause::Demand as usize].is_empty();
        if self.circuit_open() || waited_for || !self.lines[Cause::Prefetch as usize].is_empty() {
            return 0;
        }
        let permits = self.permits.max.div_ceil(SPARE_PERMITS).saturating_sub(self.permits.taken());
        self.spare.room(now).min(permits as usize)
    }

    /// Questions of cause [`Cause::Prefetch`] that are let through in a second at present.
    pub fn spare_rate(&self) -> f64 {
        self.spare.rate()
    }

    /// Says what of its spare this core may take from now on, as [`Spare::set_share`] does; nothing changes where its options say
    /// that it follows no forecast.
    pub fn set_spare_share(&mut self, share: f64) {
        if self.options.spare_by_forecast {
            self.spare.set_share(share);
        }
    }

    /// Smoothed microseconds from question to answer; 0: none so far.
    pub fn latency_micros(&self) -> u64 {
        self.spare.latency_micros()
    }

    /// Somebody waits for a question's answer from now on: it goes before those that nobody waits for.
    pub fn hurry(&mut self, now: Mono, ticket: Ticket) {
        for line in Cause::Refresh as usize..self.lines.len() {
            let place = self.lines[line].iter().position(|waiting| waiting.ticket == ticket);
            if let Some(waiting) = place.and_then(|place| self.lines[line].remove(place)) {
                // It was asked before some of those: in the order of their deadlines, which only the first is looked at for.
                let demand = &mut self.lines[Cause::Demand as usize];
                let place = demand.partition_point(|other| other.until <= waiting.until);
                demand.insert(place, waiting);
                return self.pump(now);
            }
        }
    }

    /// Asks. What comes of it is told, exactly once, unless it is cancelled.
    pub fn ask(&mut self, now: Mono, ticket: Ticket, cause: Cause, ask: impl Into<Rc<Ask>>) {
        let until = now.plus_millis(self.options.timeout_millis);
        self.ask_until(now, ticket, cause, ask.into(), until);
    }

    /// As `ask`, of a question whose deadline began to run elsewhere.
    pub(super) fn ask_until(&mut self, now: Mono, ticket: Ticket, cause: Cause, ask: Rc<Ask>, until: Mono) {
        if cause == Cause::Prefetch && !self.spare.take() {
            // The origin has done nothing wrong.
            return self.actions.push_back(Action::Tell(Told::Failed(ticket, Failure::QueueFull)));
        }
        if !self.lets_through(now) {
            return self.fail(ticket, self.why_in_peace());
        }
        if self.lines.iter().map(VecDeque::len).sum::<usize>() >= self.options.queue_max {
            // What nobody waits for gives way to what somebody does.
            let worst = (cause as usize + 1..3).rev().find(|&line| !self.lines[line].is_empty());
            match worst.and_then(|line| self.lines[line].pop_back()) {
                Some(waiting) => self.fail(waiting.ticket, Failure::QueueFull),
                None => return self.fail(ticket, Failure::QueueFull),
            }
        }
        self.lines[cause as usize].push_back(Waiting { ticket, ask, until });
        self.pump(now);
    }

    /// Nobody wants the answer any more. What is on its way is let come, and told.
    pub fn cancel(&mut self, ticket: Ticket) {
        for line in &mut self.lines {
            line.retain(|waiting| waiting.ticket != ticket);
        }
        self.try_again();
    }

    /// A connection is about to stand on which the origin proved who it is by this certificate.
    pub fn proven(&mut self, line: Line, certificate: &[u8]) {
        if let Some(connection) = self.connections.iter_mut().find(|it| it.line == line) {
            connection.client.proven(certificate);
        }
    }

    /// A connection stands.
    pub fn connected(&mut self, now: Mono, line: Line) {
        let Some(connection) = self.connections.iter_mut().find(|it| it.line == line) else { return };
        connection.open = true;
        connection.client.begin(&mut connection.output);
        self.tally.connected += 1;
        if !connection.output.is_empty() {
            self.actions.push_back(Action::Send(line));
        }
        self.pump(now);
    }

    /// Bytes came.
    pub fn received(&mut self, now: Mono, line: Line, bytes: &[u8]) {
        let Some(connection) = self.connections.iter_mut().find(|it| it.line == line) else { return };
        let before = connection.output.len();
        let mut heard = std::mem::take(&mut self.heard);
        let received = connection.client.receive(bytes, &mut heard, &mut connection.output);
        if connection.output.len() > before {
            self.actions.push_back(Action::Send(line));
        }
        if connection.duty == Duty::Listen && connection.client.ready() && !connection.listening {
            connection.listening = true;
            connection.until = Mono(u64::MAX);
            self.listen_pause_millis = LISTEN_PAUSE_MILLIS;
            // What changed until now nobody could tell us.
            self.actions.push_back(Action::Tell(Told::AllChanged));
        }
        let last = connection.client.last();
        self.hear(now, line, &mut heard);
        self.heard = heard;
        match received {
            Err(broken) => {
                self.last_broken = Some(broken);
                self.give_up(now, line, Failure::Broken);
            }
            Ok(()) if last && self.idle(line) => self.drop_line(now, line, Failure::Closed, false),
            Ok(()) => {}
        }
        self.pump(now);
    }

    /// TLS did not come about on a connection, or broke.
    pub fn refused(&mut self, now: Mono, line: Line) {
        self.lost(now, line, Some(Failure::Untrusted));
    }

    /// A connection ended, or did not come to be.
    pub fn closed(&mut self, now: Mono, line: Line) {
        self.lost(now, line, None);
    }

    fn lost(&mut self, now: Mono, line: Line, why: Option<Failure>) {
        let Some(connection) = self.connections.iter_mut().find(|it| it.line == line) else { return };
        let opened = connection.open;
        let mut heard = std::mem::take(&mut self.heard);
        connection.client.ended(&mut heard);
        self.hear(now, line, &mut heard);
        self.heard = heard;
        // One that nobody was using may be closed: origins close idle ones.
        let fault = !opened || !self.idle(line);
        let usual = if opened { Failure::Closed } else { Failure::Unreachable };
        self.drop_line(now, line, why.unwrap_or(usual), fault);
        self.pump(now);
    }

    /// Bytes to send on a connection; to be taken from the front.
    pub fn output(&mut self, line: Line) -> Option<&mut Vec<u8>> {
        self.connections.iter_mut().find(|it| it.line == line).map(|it| &mut it.output)
    }

    /// Minds deadlines, and answers when to call again at the latest; earlier only after another call.
    pub fn tick(&mut self, now: Mono) -> Option<Mono> {
        for class in 0..3 {
            while self.lines[class].front().is_some_and(|waiting| waiting.until <= now) {
                let waiting = self.lines[class].pop_front().expect("looked at above");
                self.fail(waiting.ticket, Failure::Overdue);
            }
        }
        while let Some(late) = self.connections.iter().find(|it| it.due() <= now) {
            let (line, failure) =
                (late.line, if late.open { Failure::Overdue } else { Failure::Unreachable });
            self.give_up(now, line, failure);
        }
        let listens = || self.connections.iter().any(|it| it.duty == Duty::Listen);
        if self.options.listen && now >= self.listen_at && !listens() {
            self.connect(now, Duty::Listen);
        }
        self.pump(now);
        self.try_again();
        self.next_due(now)
    }

    /// When [`Pool::tick`] has something to do.
    pub fn next_due(&self, now: Mono) -> Option<Mono> {
        let waiting = self.lines.iter().filter_map(|line| line.front()).map(|waiting| waiting.until);
        let connections = self.connections.iter().map(Connection::due);
        let mut due = waiting.chain(connections).min().filter(|due| *due != Mono(u64::MAX));
        let mut by = |moment: Mono| due = Some(due.map_or(moment, |due| due.min(moment)));
        if let Some(again) = self.starved {
            by(again);
        }
        if self.options.listen && !self.connections.iter().any(|it| it.duty == Duty::Listen) {
            by(self.listen_at.max(now));
        }
        due
    }

    /// Whether the circuit is open.
    pub fn circuit_open(&self) -> bool {
        !matches!(self.circuit, Circuit::Closed { .. })
    }

    /// What the origin did when it last broke its protocol.
    pub fn last_broken(&self) -> Option<Broken> {
        self.last_broken
    }

    /// Why it last gave a connection up, or could not make one.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// Connections, those being made included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Questions that wait to be sent.
    pub fn waiting_count(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing is asked, on its way or waiting.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting_count() == 0 && self.connections.iter().all(|it| it.asked.is_empty())
    }

    /// Closes all connections of a pool that is quiet.
    pub(super) fn close_all(&mut self) {
        debug_assert!(self.is_quiet());
        self.actions.extend(self.connections.drain(..).map(|connection| Action::Close(connection.line)));
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    fn idle(&self, line: Line) -> bool {
        self.connections.iter().any(|it| it.line == line && it.asked.is_empty())
    }

    fn hear(&mut self, now: Mono, line: Line, heard: &mut Vec<Heard>) {
        for heard in heard.drain(..) {
            let told = match heard {
                Heard::Changed(key) => Told::Changed(key),
                Heard::AllChanged => Told::AllChanged,
                // Only a connection that is one client's own listens to these.
                Heard::Pushed(_) => continue,
                Heard::Answer(ticket, reply) => {
                    let connection =
                        self.connections.iter_mut().find(|it| it.line == line).expect("it spoke just now");
                    let place = connection.asked.iter().position(|(asked, _)| *asked == ticket);
                    let asked = place.and_then(|place| connection.asked.remove(place));
                    let (_, until) = asked.expect("clients answer what was asked");
                    // Whatever is due then was asked so long before.
                    let begun =
                        Mono(until.0.saturating_sub(Mono(0).plus_millis(self.options.timeout_millis).0));
                    let class = LATENCY_MILLIS.iter().position(|bound| begun.plus_millis(*bound) >= now);
                    self.tally.latencies[class.unwrap_or(LATENCY_MILLIS.len())] += 1;
                    let micros = now.0.saturating_sub(begun.0) / 1000;
                    self.tally.latency_micros += micros;
                    self.spare.answered(now, micros);
                    let millis = now.millis_since(begun);
                    if millis >= self.options.slow_millis {
                        self.actions.push_back(Action::Slow(ticket, millis));
                    }
                    self.permits.give_back();
                    self.tally.answered += 1;
                    self.circuit = Circuit::Closed { failures: 0 };
                    Told::Answer(ticket, reply)
                }
            };
            self.actions.push_back(Action::Tell(told));
        }
    }

    fn fail(&mut self, ticket: Ticket, why: Failure) {
        self.tally.failed += 1;
        self.spare.failed();
        if why == Failure::Overdue {
            self.actions.push_back(Action::Slow(ticket, self.options.timeout_millis));
        }
        self.actions.push_back(Action::Tell(Told::Failed(ticket, why)));
    }

    /// Whether the circuit lets a question through; the first one after the pause is the one to try.
    fn lets_through(&mut self, now: Mono) -> bool {
        match self.circuit {
            Circuit::Closed { .. } => true,
            Circuit::Trying { .. } => false,
            Circuit::Open { until, pause_millis } => {
                if now >= until {
                    self.circuit = Circuit::Trying { pause_millis };
                }
                now >= until
            }
        }
    }

    /// If the question that was to try the circuit went without being asked, the next one is to try.
    fn try_again(&mut self) {
        let out = self.waiting_count() > 0 || self.connections.iter().any(|it| !it.asked.is_empty());
        if let (Circuit::Trying { pause_millis }, false) = (&self.circuit, out) {
            self.circuit = Circuit::Open { until: Mono(0), pause_millis: *pause_millis };
        }
    }

    /// Sends what waits as far as permits and connections go.
    fn pump(&mut self, now: Mono) {
        self.starved = None;
        while let Some(class) = (0..3).find(|&class| !self.lines[class].is_empty()) {
            let usable = |it: &&mut Connection| {
                it.duty != Duty::Listen && it.open && it.client.ready() && it.client.room() > 0
            };
            let free = self.connections.iter_mut().filter(usable).min_by_key(|it| it.asked.len());
            let Some(connection) = free else {
                let asking = || self.connections.iter().filter(|it| it.duty != Duty::Listen);
                let coming = asking().filter(|it| !it.open || !it.client.ready()).count();
                if asking().count() < self.options.connections_max && coming < self.waiting_count() {
                    self.connect(now, self.options.duty);
                    continue;
                }
                return;
            };
            if !self.permits.take(Cause::ALL[class]) {
                // An answer of our own brings us back here; without any on the way only looking does.
                let idle = self.connections.iter().all(|it| it.asked.is_empty());
                self.starved = idle.then(|| now.plus_millis(PERMIT_MILLIS));
                return;
            }
            let Waiting { ticket, ask, until } = self.lines[class].pop_front().expect("found above");
            match connection.client.ask(ticket, &ask, &mut connection.output) {
                Some(reply) => {
                    self.permits.give_back();
                    self.actions.push_back(Action::Tell(Told::Answer(ticket, reply)));
                    self.try_again();
                }
                None => {
                    connection.asked.push_back((ticket, until));
                    self.tally.asked += 1;
                    self.actions.push_back(Action::Send(connection.line));
                }
            }
        }
    }

    fn connect(&mut self, now: Mono, duty: Duty) {
        let line = Line(self.next_line);
        self.next_line += 1;
        let mut client = Client::new(self.target.clone(), self.options.limits, duty);
        if self.of_node {
            client.follow();
        }
        self.connections.push(Connection {
            line,
            client,
            duty,
            open: false,
            listening: false,
            until: now.plus_millis(self.options.timeout_millis),
            asked: VecDeque::new(),
            output: Vec::new(),
        });
        self.actions.push_back(Action::Connect(line));
    }

    /// Closes a connection because of what the origin did or did not do.
    fn give_up(&mut self, now: Mono, line: Line, why: Failure) {
        self.actions.push_back(Action::Close(line));
        self.drop_line(now, line, why, true);
    }

    /// Forgets a connection; what was asked on it fails.
    fn drop_line(&mut self, now: Mono, line: Line, why: Failure, fault: bool) {
        let Some(place) = self.connections.iter().position(|it| it.line == line) else { return };
        let connection = self.connections.swap_remove(place);
        if !fault {
            self.actions.push_back(Action::Close(line));
        }
        for (ticket, until) in connection.asked {
            self.permits.give_back();
            // Behind an overdue answer others may not be overdue themselves.
            let why = if why == Failure::Overdue && until > now { Failure::Closed } else { why };
            self.fail(ticket, why);
        }
        if connection.duty == Duty::Listen {
            self.listen_at = now.plus_millis(self.listen_pause_millis);
            self.listen_pause_millis = (self.listen_pause_millis * 2).min(PAUSE_MILLIS_MAX);
        } else if fault {
            self.last_failure = Some(why);
            self.blame(now);
            // Without any connection there is none that those who wait could be waiting for.
            if !connection.open && self.circuit_open() {
                self.fail_waiting(Failure::Unreachable);
            }
        }
    }

    fn fail_waiting(&mut self, why: Failure) {
        for class in 0..3 {
            while let Some(waiting) = self.lines[class].pop_front() {
                self.fail(waiting.ticket, why);
            }
        }
    }

    fn blame(&mut self, now: Mono) {
        let pause_millis = match self.circuit {
            Circuit::Closed { failures } if failures + 1 < self.options.failures_max => {
                self.circuit = Circuit::Closed { failures: failures + 1 };
                return;
            }
            Circuit::Closed { .. } => self.options.open_millis,
            Circuit::Trying { pause_millis } => (pause_millis * 2).min(PAUSE_MILLIS_MAX),
            Circuit::Open { .. } => return,
        };
        self.tally.opened += 1;
        self.circuit = Circuit::Open { until: now.plus_millis(pause_millis), pause_millis };
        self.fail_waiting(self.why_in_peace());
    }

    /// What those are told who are not let through: that nobody proves who the origin is does not pass by waiting.
    fn why_in_peace(&self) -> Failure {
        match self.last_failure {
            Some(Failure::Untrusted) => Failure::Untrusted,
            _ => Failure::CircuitOpen,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let out: usize = self.connections.iter().map(|connection| connection.asked.len()).sum();
        (0..out).for_each(|_| self.permits.give_back());
    }
}

impl Connection {
    /// When it is overdue: the connecting, the greeting, or the oldest question.
    fn due(&self) -> Mono {
        let asked = self.asked.iter().map(|(_, until)| *until).min();
        match asked {
            Some(asked) => asked,
            None if self.open && (self.listening || self.client.ready()) => Mono(u64::MAX),
            None => self.until,
        }
    }
}
