//! The load itself: one thread, one ring, all connections.
//!
//! Closed loop: each connection sends a batch (the pipeline), awaits all of its answers, sends the next. A turn enters the
//! ring once: it submits the sends of every connection that was answered and takes all completions there are.
//!
//! Open loop: requests fall due by a Poisson clock whatever the server does, go to the connections in turn, and their
//! latency counts from when they were due. Between arrivals the thread looks at the ring in user space instead of
//! sleeping, because waking up would be late: open loop keeps its CPU busy.

use super::dice::{Asker, Dice, Keys};
use super::items::Items;
use super::speech::{self, Lie, Pending, Protocol, Reader, Verb};
use super::tally::Tally;
use crate::hash::slot_of;
use crate::ids::ConnectionId;
use crate::io::buffers::Buffers;
use crate::io::ring::{Completion, Kind, Ring};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How often silence and progress are looked at.
const TICK_NANOS: u64 = 100_000_000;
/// Requests in open loop that may be unanswered before the run is given up.
const OUTSTANDING_MAX: usize = 1 << 20;
/// Arrivals that one turn of the open loop takes in before it looks at the ring again.
const ARRIVALS_PER_TURN: u32 = 256;
/// Receive buffers: enough for what one turn brings, few enough to stay in the caches.
const BUFFERS_MIN: usize = 64;
const BUFFERS_MAX: usize = 4096;
const BUFFER_BYTES_MIN: usize = 2 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The first words on a connection went wrong.
    #[error("{0} refused to begin: {1}")]
    Greeting(SocketAddr, String),
    /// The server ended a connection.
    #[error("the server closed connection {lane} to {address} ({cause}) with {pending} requests unanswered")]
    Closed {
        /// Which.
        lane: usize,
        /// To whom.
        address: SocketAddr,
        /// What the kernel said.
        cause: String,
        /// Requests that will not be answered.
        pending: usize,
    },
    /// No whole answer came for too long.
    #[error("no answer for {seconds} s on {lanes} connections, the oldest to a {verb:?} of {address}")]
    Silent {
        /// The bound.
        seconds: f64,
        /// How many connections are silent.
        lanes: usize,
        /// What was asked.
        verb: Verb,
        /// Of whom.
        address: SocketAddr,
    },
    /// The time was over, and the answers did not come to an end.
    #[error("{pending} requests are still unanswered {seconds} s after the time was over")]
    Unfinished {
        /// Requests.
        pending: usize,
        /// The bound.
        seconds: f64,
    },
    /// What no honest server says.
    #[error("connection {0} to {1}: {2}")]
    Lie(usize, SocketAddr, Lie),
    /// The rate is beyond the server.
    #[error("{0} requests are unanswered: the server is far slower than the asked rate")]
    Overrun(usize),
    /// The server's process is not there.
    #[error("the CPU time of process {0}: {1}")]
    Process(u32, io::Error),
    /// Our own ring.
    #[error("io_uring: {0}")]
    Ring(#[from] io::Error),
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The nodes (or per-core ports).
    pub nodes: Vec<SocketAddr>,
    /// In cluster mode: the node of each slot.
    pub node_of_slot: Option<Vec<u16>>,
}

impl Targets {
    /// The node of a key in cluster mode; `key` is room to write it.
    #[inline]
    fn node_of(&self, items: &Items, rank: u64, key: &mut Vec<u8>) -> Option<usize> {
        let node_of_slot = self.node_of_slot.as_ref()?;
        key.clear();
        items.write_key(rank, key);
        Some(usize::from(node_of_slot[usize::from(slot_of(key).number())]))
    }

    /// How many of the first `count` keys belong to each node.
    pub fn count_keys(&self, items: &Items, count: u64) -> Vec<u64> {
        if self.node_of_slot.is_none() {
            return vec![count];
        }
        let mut counts = vec![0; self.nodes.len()];
        let mut key = Vec::new();
        for rank in 0..count {
            counts[self.node_of(items, rank, &mut key).unwrap_or(0)] += 1;
        }
        counts
    }
}

/// What one phase asks.
#[derive(Debug)]
pub struct Phase {
    /// What is asked, in parts of all.
    pub mix: Mix,
    /// Keys of SETs.
    pub set_keys: Keys,
    /// Keys of GETs.
    pub get_keys: Keys,
    /// Seconds that SET items live: first to last, 0 for ever.
    pub expiry: (u32, u32),
    /// Requests of a batch.
    pub pipeline: u32,
    /// When to stop asking.
    pub end: End,
    /// When to ask.
    pub pace: Pace,
    /// Named on stderr once a second, if wanted.
    pub progress: Option<&'static str>,
}

/// Parts of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// SETs and GETs in proportion.
    SetGet(u32, u32),
    /// Nothing but PING.
    Ping,
}

/// When a phase stops asking; what was asked is still awaited.
#[derive(Clone, Debug)]
pub enum End {
    /// After so many requests.
    Requests(u64),
    /// After so many requests to each node.
    RequestsOfNode(Vec<u64>),
    /// After a time.
    After(Duration),
}

/// When requests are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the last batch is answered.
    Closed,
    /// By a Poisson clock, so many per second.
    Open(f64),
}

/// One connection.
struct Lane {
    stream: TcpStream,
    address: SocketAddr,
    node: usize,
    reader: Reader,
    pending: VecDeque<Pending>,
    /// Requests made on it so far.
    asked: u32,
    staged: Vec<u8>,
    /// The kernel reads it while `in_flight`: neither changed nor dropped then.
    sending: Vec<u8>,
    sent: usize,
    in_flight: bool,
    dirty: bool,
    /// When its last batch was handed over.
    since: u64,
    /// Nothing was awaited before what is staged.
    fresh: bool,
    /// When its last whole answer came or, if later, when it was asked after nothing was awaited.
    heard: u64,
}

/// The connections and the ring that drives them.
pub struct Load<'a> {
    // The ring goes first: the kernel lets go of all memory before that is given back.
    ring: Ring,
    buffers: Buffers,
    lanes: Vec<Lane>,
    lanes_of_node: Vec<Vec<usize>>,
    next_lane_of_node: Vec<usize>,
    dirty: Vec<usize>,
    outstanding: usize,
    started: Instant,
    protocol: Protocol,
    items: &'a Items,
    targets: &'a Targets,
    dice: Dice,
    silence_nanos_max: u64,
    busy_poll: bool,
    /// The timer has struck: when everything that came is taken, silence is looked for.
    struck: bool,
    key: Vec<u8>,
}

/// What a load is made with.
#[derive(Debug)]
pub struct Options {
    /// Spoken.
    pub protocol: Protocol,
    /// Whether values are compared byte for byte.
    pub verify: bool,
    /// Requests of a batch, to size buffers.
    pub pipeline: u32,
    /// For all random choices.
    pub seed: u64,
    /// How long an answer may take, and what is unanswered when the time is over.
    pub silence_max: Duration,
    /// Look at the ring without sleeping in closed loop, too.
    pub busy_poll: bool,
}

impl<'a> Load<'a> {
    /// Takes over connections, each with the number of its node.
    ///
    /// # Errors
    /// Those of making a ring.
    pub fn new(
        options: &Options,
        streams: Vec<(usize, TcpStream)>,
        targets: &'a Targets,
        items: &'a Items,
    ) -> Result<Load<'a>, Failure> {
        let ring = Ring::new()?;
        let batch_bytes = options.pipeline as usize * speech::answer_bytes_max(Verb::Get, items);
        let piece_bytes = batch_bytes.next_power_of_two().clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let per_lane = batch_bytes.div_ceil(piece_bytes);
        let count = (streams.len() * per_lane).next_power_of_two().clamp(BUFFERS_MIN, BUFFERS_MAX);
        let count = u16::try_from(count).expect("BUFFERS_MAX fits");
        let buffers = Buffers::new(ring.inner(), count, piece_bytes)?;
        let mut lanes_of_node = vec![Vec::new(); targets.nodes.len()];
        let lanes: Vec<Lane> = streams
            .into_iter()
            .enumerate()
            .map(|(i, (node, stream))| {
                lanes_of_node[node].push(i);
                Lane {
                    stream,
                    address: targets.nodes[node],
                    node,
                    reader: Reader::new(options.protocol, options.verify),
                    pending: VecDeque::new(),
                    asked: 0,
                    staged: Vec::new(),
                    sending: Vec::new(),
                    sent: 0,
                    in_flight: false,
                    dirty: false,
                    since: 0,
                    fresh: false,
                    heard: 0,
                }
            })
            .collect();
        let mut load = Load {
            ring,
            buffers,
            lanes,
            next_lane_of_node: vec![0; lanes_of_node.len()],
            lanes_of_node,
            dirty: Vec::new(),
            outstanding: 0,
            started: Instant::now(),
            protocol: options.protocol,
            items,
            targets,
            dice: Dice::new(options.seed),
            silence_nanos_max: options.silence_max.as_nanos() as u64,
            busy_poll: options.busy_poll,
            struck: false,
            key: Vec::new(),
        };
        for place in 0..load.lanes.len() {
            load.ring.receive(load.lanes[place].stream.as_raw_fd(), id(place));
        }
        load.ring.timer(TICK_NANOS);
        Ok(load)
    }

    /// Runs a phase to its end and counts into `tally`.
    ///
    /// # Errors
    /// A server that is dead, slow or lies; the load is of no use afterwards, the tally tells how far it came.
    pub fn run(&mut self, phase: &mut Phase, tally: &mut Tally) -> Result<(), Failure> {
        let began = self.now();
        let mut progress = Progress { name: phase.progress, began, printed: began, answered: 0 };
        let ran = match phase.pace {
            Pace::Closed => self.run_closed(phase, tally, &mut progress),
            Pace::Open(rate) => self.run_open(phase, rate, tally, &mut progress),
        };
        progress.finish();
        tally.elapsed = Duration::from_nanos(self.now() - began);
        ran
    }

    fn run_closed(
        &mut self,
        phase: &mut Phase,
        tally: &mut Tally,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut completions = Vec::new();
        let mut budget = Budget::new(&phase.end, self.now());
        for lane in 0..self.lanes.len() {
            self.fill(lane, phase, &mut budget, tally);
        }
        loop {
            let now = self.now();
            self.submit(now);
            if self.outstanding == 0 {
                return Ok(());
            }
            if self.busy_poll {
                while !self.ring.has_news() && !self.ring.has_queued() {
                    std::hint::spin_loop();
                }
            }
            self.ring.enter(!self.busy_poll)?;
            let now = self.now();
            budget.look(now);
            completions.clear();
            self.ring.take(&mut completions);
            for completion in &completions {
                if self.take(completion, Latency::SinceHandedOver, now, tally, progress)? {
                    let lane = completion.id.place as usize;
                    self.fill(lane, phase, &mut budget, tally);
                }
            }
            self.look_for_silence(now, &budget)?;
        }
    }

    fn run_open(
        &mut self,
        phase: &mut Phase,
        rate: f64,
        tally: &mut Tally,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut completions = Vec::new();
        let began = self.now();
        let mut budget = Budget::new(&phase.end, began);
        let gap = 1e9 / rate;
        let mut due = began as f64 + self.dice.exponential(gap);
        loop {
            let now = self.now();
            let mut arrivals = 0;
            while due <= now as f64 && arrivals < ARRIVALS_PER_TURN && !budget.over_at(due as u64) {
                let verb = self.draw_verb(phase.mix);
                let (rank, node) = self.draw_anywhere(verb, phase);
                if !budget.spend(node) {
                    break;
                }
                let turn = &mut self.next_lane_of_node[node];
                let lane = self.lanes_of_node[node][*turn];
                *turn = (*turn + 1) % self.lanes_of_node[node].len();
                self.ask(lane, Pending::new(verb, rank, due as u64), phase.expiry, tally);
                tally.lag.saturating_record(now - due as u64);
                due += self.dice.exponential(gap);
                arrivals += 1;
            }
            self.submit(now);
            if self.outstanding > OUTSTANDING_MAX {
                return Err(Failure::Overrun(self.outstanding));
            }
            if !self.ring.has_queued() && !self.ring.has_news() {
                if self.outstanding == 0 && budget.over_at(due as u64) {
                    return Ok(());
                }
                std::hint::spin_loop();
                continue;
            }
            self.ring.enter(false)?;
            let now = self.now();
            completions.clear();
            self.ring.take(&mut completions);
            for completion in &completions {
                self.take(completion, Latency::SinceDue, now, tally, progress)?;
            }
            self.look_for_silence(now, &budget)?;
        }
    }

    /// Nanoseconds of the run.
    #[inline]
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Stages a connection's next batch, as far as the budget goes.
    fn fill(&mut self, lane: usize, phase: &mut Phase, budget: &mut Budget, tally: &mut Tally) {
        let node = self.lanes[lane].node;
        for _ in 0..phase.pipeline {
            if !budget.spend(node) {
                return;
            }
            let verb = self.draw_verb(phase.mix);
            let Load { dice, key, items, targets, .. } = self;
            let is_own = |rank| targets.node_of(items, rank, key).is_none_or(|owner| owner == node);
            let rank = match phase.keys(verb) {
                Some(keys) => keys.draw_own(dice, Asker { lane, node }, is_own),
                None => 0,
            };
            self.ask(lane, Pending::new(verb, rank, 0), phase.expiry, tally);
        }
    }

    fn draw_verb(&mut self, mix: Mix) -> Verb {
        match mix {
            Mix::Ping => Verb::Ping,
            Mix::SetGet(0, _) => Verb::Get,
            Mix::SetGet(_, 0) => Verb::Set,
            Mix::SetGet(sets, gets) => {
                if self.dice.below(u64::from(sets) + u64::from(gets)) < u64::from(sets) {
                    Verb::Set
                } else {
                    Verb::Get
                }
            }
        }
    }

    /// A key and the node it belongs to.
    fn draw_anywhere(&mut self, verb: Verb, phase: &mut Phase) -> (u64, usize) {
        let lane = self.next_lane_of_node[0] % self.lanes.len();
        let rank = phase.keys(verb).map_or(0, |keys| keys.draw(&mut self.dice, Asker { lane, node: 0 }));
        (rank, self.targets.node_of(self.items, rank, &mut self.key).unwrap_or(0))
    }

    #[inline]
    fn ask(&mut self, place: usize, request: Pending, expiry: (u32, u32), tally: &mut Tally) {
        let seconds = match expiry {
            (first, last) if first == last => first,
            (first, last) => first + self.dice.below(u64::from(last - first) + 1) as u32,
        };
        let lane = &mut self.lanes[place];
        let Pending { verb, rank, .. } = request;
        speech::write(self.protocol, verb, rank, seconds, lane.asked, self.items, &mut lane.staged);
        lane.asked = lane.asked.wrapping_add(1);
        lane.fresh |= lane.pending.is_empty();
        lane.pending.push_back(request);
        tally.asked += 1;
        self.outstanding += 1;
        if !lane.dirty {
            lane.dirty = true;
            self.dirty.push(place);
        }
    }

    /// Queues the sends of all connections that have something to say.
    fn submit(&mut self, now: u64) {
        while let Some(place) = self.dirty.pop() {
            let lane = &mut self.lanes[place];
            lane.dirty = false;
            if lane.in_flight || lane.staged.is_empty() {
                continue;
            }
            std::mem::swap(&mut lane.sending, &mut lane.staged);
            lane.sent = 0;
            lane.in_flight = true;
            lane.since = now;
            if std::mem::take(&mut lane.fresh) {
                lane.heard = now;
            }
            self.ring.send(lane.stream.as_raw_fd(), id(place), &lane.sending);
        }
    }

    /// Takes in a completion; answers whether everything that its connection asked is answered.
    #[inline]
    fn take(
        &mut self,
        completion: &Completion,
        latency: Latency,
        now: u64,
        tally: &mut Tally,
        progress: &mut Progress,
    ) -> Result<bool, Failure> {
        let place = completion.id.place as usize;
        match completion.kind {
            Kind::Receive => {
                let lane = &mut self.lanes[place];
                if let Some(buffer) = completion.buffer() {
                    let piece = self.buffers.piece(buffer, completion.result.max(0) as usize);
                    tally.received_bytes += piece.len() as u64;
                    let since = lane.since;
                    let mut gets = 0;
                    let mut others = 0;
                    let outstanding = self.outstanding;
                    let read = lane.reader.read(piece, &mut lane.pending, self.items, |request, answer| {
                        tally.count(&request, answer);
                        match (latency, request.verb) {
                            (Latency::SinceHandedOver, Verb::Get) => gets += 1,
                            (Latency::SinceHandedOver, _) => others += 1,
                            (Latency::SinceDue, verb) => {
                                tally.record(verb, now.saturating_sub(request.due), 1)
                            }
                        }
                        self.outstanding -= 1;
                    });
                    self.buffers.give_back(buffer);
                    tally.record(Verb::Get, now - since, gets);
                    tally.record(Verb::Set, now - since, others);
                    if tally.first_refusal.is_none() && !lane.reader.refusal.is_empty() {
                        tally.first_refusal = Some(lane.reader.refusal.clone());
                    }
                    if self.outstanding < outstanding {
                        lane.heard = now;
                    }
                    read.map_err(|lie| Failure::Lie(place, lane.address, lie))?;
                }
                match completion.result {
                    0 => return Err(self.closed(place, "end of stream".into())),
                    error if error < 0 && error != -libc::ENOBUFS => {
                        return Err(self.closed(place, io::Error::from_raw_os_error(-error).to_string()));
                    }
                    _ => {}
                }
                if !completion.more() {
                    self.ring.receive(self.lanes[place].stream.as_raw_fd(), id(place));
                }
                return Ok(completion.result > 0 && self.lanes[place].pending.is_empty());
            }
            Kind::Send => {
                if completion.result < 0 {
                    let error = io::Error::from_raw_os_error(-completion.result);
                    return Err(self.closed(place, error.to_string()));
                }
                let lane = &mut self.lanes[place];
                lane.sent += completion.result as usize;
                tally.sent_bytes += completion.result as u64;
                if lane.sent < lane.sending.len() {
                    self.ring.send(lane.stream.as_raw_fd(), id(place), &lane.sending[lane.sent..]);
                } else {
                    lane.sending.clear();
                    lane.in_flight = false;
                    if !lane.staged.is_empty() && !lane.dirty {
                        lane.dirty = true;
                        self.dirty.push(place);
                    }
                }
            }
            Kind::Timer => {
                self.ring.timer(TICK_NANOS);
                progress.show(now, tally.answered());
                self.struck = true;
            }
            Kind::OriginConnect
            | Kind::LinkConnect
            | Kind::OriginReceive
            | Kind::OriginSend
            | Kind::Accept
            | Kind::Wake
            | Kind::Bell
            | Kind::Ignore => {}
        }
        Ok(false)
    }

    fn closed(&self, place: usize, cause: String) -> Failure {
        let lane = &self.lanes[place];
        Failure::Closed { lane: place, address: lane.address, cause, pending: lane.pending.len() }
    }

    /// Whether the server is dead or too slow, as often as the timer strikes.
    ///
    /// Not before all that came is taken in: if this process was stopped for a while, the answers wait in the ring. Bytes
    /// alone are no sign of life, a server could send them one by one for ever: only whole answers are.
    fn look_for_silence(&mut self, now: u64, budget: &Budget) -> Result<(), Failure> {
        if !std::mem::take(&mut self.struck) {
            return Ok(());
        }
        let seconds = self.silence_nanos_max as f64 / 1e9;
        if self.outstanding > 0 && budget.ended().is_some_and(|end| now > end + self.silence_nanos_max) {
            return Err(Failure::Unfinished { pending: self.outstanding, seconds });
        }
        let is_silent = |lane: &&Lane| {
            // What is fresh was not handed over yet.
            !lane.fresh && !lane.pending.is_empty() && now.saturating_sub(lane.heard) > self.silence_nanos_max
        };
        let silent = self.lanes.iter().filter(is_silent);
        let Some(oldest) = silent.clone().min_by_key(|lane| lane.heard) else { return Ok(()) };
        Err(Failure::Silent {
            seconds,
            lanes: silent.count(),
            verb: oldest.pending[0].verb,
            address: oldest.address,
        })
    }
}

/// From when latency counts.
#[derive(Clone, Copy)]
enum Latency {
    /// When the batch was handed to the kernel (closed loop).
    SinceHandedOver,
    /// When it was to be sent (open loop).
    SinceDue,
}

impl Phase {
    /// Where the keys of a verb come from, if it has any.
    #[inline]
    fn keys(&mut self, verb: Verb) -> Option<&mut Keys> {
        match verb {
            Verb::Get => Some(&mut self.get_keys),
            Verb::Set => Some(&mut self.set_keys),
            Verb::Ping => None,
        }
    }
}

fn id(place: usize) -> ConnectionId {
    ConnectionId { place: place as u32, generation: 0 }
}

/// What may still be asked.
enum Budget {
    Requests(u64),
    RequestsOfNode(Vec<u64>),
    Until { end: u64, over: bool },
}

impl Budget {
    fn new(end: &End, now: u64) -> Budget {
        match end {
            End::Requests(count) => Budget::Requests(*count),
            End::RequestsOfNode(counts) => Budget::RequestsOfNode(counts.clone()),
            End::After(time) => Budget::Until { end: now + time.as_nanos() as u64, over: false },
        }
    }

    /// Takes one request to a node out, if there is one left.
    #[inline]
    fn spend(&mut self, node: usize) -> bool {
        let left = match self {
            Budget::Requests(left) => left,
            Budget::RequestsOfNode(left) => &mut left[node],
            Budget::Until { over, .. } => return !*over,
        };
        let any = *left > 0;
        *left -= u64::from(any);
        any
    }

    /// Tells the time to a budget of time.
    #[inline]
    fn look(&mut self, now: u64) {
        if let Budget::Until { end, over } = self {
            *over = now >= *end;
        }
    }

    /// When the time is over, if that is what ends it.
    fn ended(&self) -> Option<u64> {
        match self {
            Budget::Until { end, .. } => Some(*end),
            Budget::Requests(_) | Budget::RequestsOfNode(_) => None,
        }
    }

    /// Whether nothing that is due at this moment may be asked any more.
    #[inline]
    fn over_at(&self, due: u64) -> bool {
        match self {
            Budget::Requests(left) => *left == 0,
            Budget::RequestsOfNode(left) => left.iter().all(|&left| left == 0),
            Budget::Until { end, .. } => due >= *end,
        }
    }
}

/// A line on the terminal once a second.
struct Progress {
    name: Option<&'static str>,
    began: u64,
    printed: u64,
    answered: u64,
}

impl Progress {
    fn show(&mut self, now: u64, answered: u64) {
        let Some(name) = self.name else { return };
        if now - self.printed < 1_000_000_000 {
            return;
        }
        let rate = (answered - self.answered) as f64 * 1e9 / (now - self.printed) as f64;
        eprint!("\r\x1b[K{name} {:3} s  {answered} answers  {rate:.0}/s", (now - self.began) / 1_000_000_000);
        self.printed = now;
        self.answered = answered;
    }

    fn finish(&self) {
        if self.name.is_some() && self.printed > self.began {
            eprint!("\r\x1b[K");
        }
    }
}
