//! The cluster: nodes, links and time. All that happens is in one ordered list of events.

use super::check::Checker;
use super::clients::{self, Kind, Op, PIPELINE_MAX, Stage, TAGS, key_of};
use super::metadata::Metadata;
use super::plan::{Dice, Fault, MICRO, MILLI, Plan};
use foreshadow::clock::{Mono, Now};
use foreshadow::engine::{self, Engine, Waiter};
use foreshadow::hash::slot_of;
use foreshadow::ids::{ConnectionId, CoreId, ShardId};
use foreshadow::message::ReturnAddress;
use foreshadow::migration::record::{Phase, Record, Seen, Site};
use foreshadow::migration::{self, Action, Ending, Event as Input, Moves, Sabotage, Swapped, Tally, Way};
use foreshadow::request::Answer;
use foreshadow::store;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Wall clocks at the beginning, in milliseconds.
const WALL: u64 = 1_700_000_000_000;
/// After the last fault, in this time everything is over.
const END_NANOS: u64 = 8000 * MILLI;
/// A fault may last so long beyond the end of the clients.
const HEAL_NANOS: u64 = 80 * MILLI;

#[derive(Debug)]
enum Event {
    Wake { node: usize, life: u64 },
    Frame { from: Site, to: Site, connection: u64, bytes: Vec<u8>, late: Late },
    LinkDown { node: usize, life: u64, to: Site },
    Swap { node: usize, life: u64, shard: u16, expected: u64, bytes: Vec<u8>, question: u64 },
    Swapped { node: usize, life: u64, shard: u16, question: u64, outcome: Swapped },
    Look { node: usize, life: u64, shard: u16 },
    View { node: usize, life: u64, shard: u16, seen: Seen },
    AllSeen { node: usize, life: u64 },
    Think { client: usize },
    Again { op: u64 },
    Request { node: usize, life: u64, op: u64, ticket: u32 },
    Reply { op: u64, sent: u64, reply: Reply },
    Fault(Fault),
    Restart { node: usize },
    Move { shard: usize, target: usize },
}

/// Whether a frame arrives though its connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Never,
    /// A while afterwards.
    Perhaps,
    /// Whatever there is by then.
    Surely,
}

#[derive(Debug)]
enum Reply {
    Done(Answer, Vec<u8>),
    Moved(usize),
    Busy,
    Lost,
}

struct Node {
    life: u64,
    alive: bool,
    paused_until: u64,
    /// When its clock began.
    origin: u64,
    skew_millis: i64,
    engine: Engine,
    moves: Moves,
    wake_at: u64,
    /// Requests that wait, by ticket.
    waiting: BTreeMap<u32, u64>,
    questions: BTreeSet<u64>,
}

/// One direction of a link.
#[derive(Default)]
struct Direction {
    connection: u64,
    /// Frames arrive in order.
    last_arrival: u64,
    refused_until: u64,
    swallowed_until: u64,
}

pub struct Report {
    pub violation: Option<String>,
    pub trace: u64,
    pub tally: Tally,
    pub lost_replies: u64,
    pub crashes: u64,
    pub operations: u64,
    /// Operations of which nobody knows what became of them.
    pub lost: u64,
    /// Moves that could not begin.
    pub refused: u64,
    pub log: Vec<String>,
}

pub struct World {
    plan: Plan,
    dice: Dice,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Direction>,
    metadata: Metadata,
    check: Checker,
    shards: Vec<ShardId>,
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    next_ticket: u32,
    next_question: u64,
    /// Where each client believes each shard to be.
    maps: Vec<Vec<usize>>,
    sabotage: &'static [Sabotage],
    trace: DefaultHasher,
    log: Option<Vec<String>>,
    report: Report,
    /// Counts of nodes that crashed.
    gone: Vec<Tally>,
    quiet_links: bool,
}

impl World {
    pub fn new(plan: Plan, sabotage: &'static [Sabotage], log: bool) -> World {
        let shards: Vec<ShardId> =
            TAGS[..plan.shards].iter().map(|tag| slot_of(tag.as_bytes()).shard()).collect();
        assert!(shards.len() < 2 || shards[0] != shards[1], "the tags are of different shards");
        let mut dice = plan.dice.clone();
        let mut world = World {
            now: 0,
            events: BTreeMap::new(),
            order: 0,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            metadata: Metadata::default(),
            check: Checker::new(plan.memory_bytes < 8 << 20),
            shards,
            ops: BTreeMap::new(),
            next_op: 1,
            next_ticket: 1,
            next_question: 1,
            maps: vec![vec![0; plan.shards]; plan.clients],
            sabotage,
            trace: DefaultHasher::new(),
            log: log.then(Vec::new),
            report: Report {
                violation: None,
                trace: 0,
                tally: Tally::default(),
                lost_replies: 0,
                crashes: 0,
                operations: 0,
                lost: 0,
                refused: 0,
                log: Vec::new(),
            },
            gone: Vec::new(),
            quiet_links: false,
            dice: Dice::new(dice.next()),
            plan,
        };
        for number in 0..world.plan.nodes {
            let node = world.make_node(number, 1);
            world.nodes.push(node);
        }
        world.fill();
        for &(at, shard, target) in &world.plan.moves.clone() {
            world.at(at, Event::Move { shard, target });
        }
        for &(at, fault) in &world.plan.faults.clone() {
            world.at(at, Event::Fault(fault));
        }
        for client in 0..world.plan.clients {
            let at = world.dice.below(world.plan.think_nanos);
            world.at(at, Event::Think { client });
        }
        world
    }

    fn make_node(&mut self, number: usize, life: u64) -> Node {
        let plan = &self.plan;
        let store = store::Options {
            memory_bytes_max: plan.memory_bytes,
            item_bytes_max: 64 << 10,
            hash_secret: [plan.seed, number as u64 * 1000 + life],
        };
        let me = Site { node: number as u32, core: 0, incarnation: life };
        let options = migration::Options {
            bytes_per_second: plan.bytes_per_second,
            window_bytes: plan.window_bytes,
            beat_millis: 20,
            dead_millis: 60,
            retry_millis: 3,
            retry_millis_max: 50,
            give_up_millis: 1000,
            frozen_millis: 10,
            grant_millis: plan.grant_millis,
            keep_millis: 200,
            linger_millis: 400,
            held_max: plan.held_max,
            sabotage: self.sabotage,
            ..migration::Options::plain(me, 64 << 10)
        };
        let skew = plan.skew_millis;
        Node {
            life,
            alive: true,
            paused_until: 0,
            origin: self.now / MILLI * MILLI,
            skew_millis: self.dice.between(0, 2 * skew as u64) as i64 - skew,
            engine: Engine::new(engine::Options { store, seed: plan.seed }),
            moves: Moves::new(options),
            wake_at: u64::MAX,
            waiting: BTreeMap::new(),
            questions: BTreeSet::new(),
        }
    }

    /// Gives each shard an owner, and items that clients know of.
    fn fill(&mut self) {
        for (i, shard) in self.shards.clone().into_iter().enumerate() {
            let owner = self.dice.below(self.plan.nodes as u64) as usize;
            let seen = self.metadata.create(shard.number(), Record::stable(self.site(owner), 1));
            for node in 0..self.plan.nodes {
                let now = self.now_of(node);
                if node == owner {
                    self.nodes[node].moves.own(shard, seen.clone());
                    self.nodes[node].engine.raise_version(foreshadow::ids::Version::new(1, 0));
                } else {
                    let Node { moves, engine, .. } = &mut self.nodes[node];
                    moves.step(now, engine, Input::View { shard, seen: seen.clone() });
                }
                let Node { moves, engine, .. } = &mut self.nodes[node];
                moves.step(now, engine, Input::AllSeen);
            }
            for number in clients::COUNTERS..self.plan.items {
                let id = self.next_op | self.plan.value_bytes_max << 40;
                self.next_op += 1;
                let key = number as usize * self.plan.shards + i;
                let mut op = Op {
                    id,
                    client: 0,
                    key,
                    counter: false,
                    kind: Kind::Put { millis: None },
                    start: Default::default(),
                    stage: Stage::Done,
                    at: None,
                    sent: 0,
                    behind: None,
                    told: None,
                };
                op.start = self.check.begin(0, &op, false);
                let now = self.now_of(owner);
                let engine = &mut self.nodes[owner].engine;
                let answer = op.with_request(&self.plan, now, |request| engine.execute(now, request).answer);
                if matches!(answer, Answer::Stored { .. }) {
                    self.check.end(&op, i, &answer, &[]);
                }
            }
            for map in &mut self.maps {
                map[i] = owner;
            }
        }
    }

    fn site(&self, node: usize) -> Site {
        let incarnation = self.nodes.get(node).map_or(1, |node| node.life);
        Site { node: node as u32, core: 0, incarnation }
    }

    fn now_of(&self, node: usize) -> Now {
        let Node { origin, skew_millis, .. } = self.nodes[node];
        // A second on the clock at its start, so that nothing is before its beginning.
        let mono = self.now - origin + 1000 * MILLI;
        let ahead = WALL as i64 + (origin / MILLI) as i64 - 1000 + skew_millis;
        Now::at(Mono(mono), ahead as u64)
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.events.insert((time, self.order), event);
    }

    fn after(&mut self, nanos: u64, event: Event) {
        self.at(self.now + nanos, event);
    }

    fn say(&mut self, text: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:9.3} ms  {}", self.now as f64 / MILLI as f64, text(self));
            self.log.get_or_insert_default().push(line);
        }
    }

    /// Plays to the end.
    pub fn run(mut self) -> Report {
        let end = self.plan.active_nanos + HEAL_NANOS;
        let mut next_look = end;
        loop {
            let Some(((time, _), event)) = self.events.pop_first() else {
                if !self.is_over() {
                    self.never_ends();
                }
                break;
            };
            self.now = time;
            if time >= end && !self.quiet_links {
                self.quiet_links = true;
                self.list_records();
            }
            if time >= next_look {
                if self.is_over() {
                    break;
                }
                next_look = time + MILLI;
            }
            if time > end + END_NANOS {
                self.never_ends();
                break;
            }
            time.hash(&mut self.trace);
            self.happen(event);
            self.look_at_owners();
            if self.check.violation.is_some() || self.metadata.violation.is_some() {
                break;
            }
        }
        self.finish()
    }

    /// Watches that lost something list all records again, as the shell does every few seconds.
    fn list_records(&mut self) {
        for node in 0..self.nodes.len() {
            for shard in self.shards.clone() {
                let (nanos, life) = (self.metadata_nanos(), self.nodes[node].life);
                let (shard, seen) = (shard.number(), self.metadata.look(shard.number()));
                self.after(nanos, Event::View { node, life, shard, seen });
            }
        }
    }

    fn never_ends(&mut self) {
        let mut state = String::new();
        for node in &self.nodes {
            let _ = write!(state, "{:?} ", node.moves.describe());
        }
        for shard in &self.shards {
            let _ = write!(state, "{:?} ", self.metadata.look(shard.number()).record.phase);
        }
        let open: Vec<_> = self.ops.values().filter(|op| op.stage == Stage::Open).collect();
        self.check.wrong(format!("it does not end: {state}; open {open:?}"));
    }

    fn is_over(&self) -> bool {
        let open = self.ops.values().any(|op| op.stage == Stage::Open);
        let stable = |shard: &ShardId| self.metadata.look(shard.number()).record.phase == Phase::Stable;
        !open
            && self.shards.iter().all(stable)
            && self.nodes.iter().all(|node| node.alive && node.moves.is_quiet() && node.questions.is_empty())
    }

    /// One writer for each shard, whatever else is the matter.
    fn look_at_owners(&mut self) {
        for shard in &self.shards {
            let serving: Vec<_> =
                self.nodes.iter().filter(|node| node.alive && node.moves.serves(*shard)).collect();
            if serving.len() > 1 {
                self.check.wrong(format!("{} nodes serve shard {}", serving.len(), shard.number()));
            }
        }
    }

    /// What must be true when nothing is under way any more.
    fn finish(mut self) -> Report {
        if self.check.violation.is_none() && self.metadata.violation.is_none() {
            self.look_at_the_end();
        }
        let mut report = self.report;
        let tallies = self.nodes.iter().map(|node| node.moves.tally()).chain(&self.gone);
        let mut mismatches = 0;
        for tally in tallies {
            let Tally { moved, revoked, cancelled, resumed, deltas, held, forwarded, .. } = *tally;
            report.tally.moved += moved;
            report.tally.revoked += revoked;
            report.tally.cancelled += cancelled;
            report.tally.resumed += resumed;
            report.tally.deltas += deltas;
            report.tally.held += held;
            report.tally.forwarded += forwarded;
            report.tally.stale_frames += tally.stale_frames;
            report.tally.duplicate_frames += tally.duplicate_frames;
            report.tally.broken_streams += tally.broken_streams;
            mismatches += tally.digest_mismatches;
            if tally.held_max > self.plan.held_max as u64 {
                self.check.wrong(format!("{} requests were held", tally.held_max));
            }
        }
        if mismatches > 0 {
            self.check.wrong(format!("{mismatches} digests differed"));
        }
        report.violation = self.check.violation.or(self.metadata.violation);
        if let Some(violation) = &mut report.violation {
            let _ = write!(violation, " (seed {}, {:.3} ms)", self.plan.seed, self.now as f64 / MILLI as f64);
        }
        report.trace = self.trace.finish();
        report.log = self.log.unwrap_or_default();
        report.lost = self.ops.values().filter(|op| op.stage == Stage::Lost).count() as u64;
        report
    }

    fn look_at_the_end(&mut self) {
        for i in 0..self.shards.len() {
            let shard = self.shards[i];
            let owner = self.metadata.look(shard.number()).record.owner.node as usize;
            for node in 0..self.nodes.len() {
                let left = self.nodes[node].engine.store_mut().shard_len(shard);
                if node != owner && left > 0 {
                    self.check.wrong(format!("{left} items of a shard are left at node {node}"));
                }
            }
            if !self.nodes[owner].moves.serves(shard) {
                self.check.wrong(format!("node {owner} owns shard {} and does not serve it", shard.number()));
            }
            for number in 0..self.plan.items.max(clients::HOT_KEYS) + 20 {
                let counter = number < clients::COUNTERS;
                let key = number as usize * self.plan.shards + i;
                let mut op = Op {
                    id: 0,
                    client: 0,
                    key,
                    counter,
                    kind: Kind::Get,
                    start: Default::default(),
                    stage: Stage::Done,
                    at: None,
                    sent: 0,
                    behind: None,
                    told: None,
                };
                op.start = self.check.begin(self.now, &op, false);
                let now = self.now_of(owner);
                let engine = &mut self.nodes[owner].engine;
                let (answer, value) = op.with_request(&self.plan, now, |request| {
                    let outcome = engine.execute(now, request);
                    (outcome.answer, outcome.value.bytes().to_vec())
                });
                self.check.end(&op, i, &answer, &value);
                if counter {
                    let text = std::str::from_utf8(&value).unwrap_or_default();
                    self.check.count_at_end(key, i, text.parse().unwrap_or(0));
                }
            }
        }
    }

    // -- events --------------------------------------------------------------------------------------------------------

    fn happen(&mut self, event: Event) {
        // A node that is paused does everything later, in the same order.
        let node = match &event {
            Event::Wake { node, .. }
            | Event::LinkDown { node, .. }
            | Event::Swapped { node, .. }
            | Event::View { node, .. }
            | Event::AllSeen { node, .. }
            | Event::Request { node, .. } => Some(*node),
            Event::Frame { to, .. } => Some(to.node as usize),
            _ => None,
        };
        if let Some(node) = node
            && self.nodes[node].paused_until > self.now
        {
            let until = self.nodes[node].paused_until;
            return self.at(until, event);
        }
        match event {
            Event::Wake { node, life } => {
                if self.lives(node, life) && self.nodes[node].wake_at <= self.now {
                    self.nodes[node].wake_at = u64::MAX;
                    let now = self.now_of(node);
                    if self.dice.permille(100) {
                        self.nodes[node].engine.tick(now);
                    }
                    self.step(node, Input::Tick);
                }
            }
            Event::Frame { from, to, connection, bytes, late } => {
                let (from_node, node) = (from.node as usize, to.node as usize);
                let current = self.links.entry((from_node, node)).or_default().connection == connection;
                let known = self.site(node) == to && self.nodes[node].alive;
                if !current && late == Late::Perhaps {
                    let pause = self.dice.below(15 * MILLI);
                    let late = Late::Surely;
                    return self.after(pause, Event::Frame { from, to, connection, bytes, late });
                }
                if known && (current || late == Late::Surely) {
                    bytes.hash(&mut self.trace);
                    self.step(node, Input::Frame { from, bytes: &bytes });
                }
            }
            Event::LinkDown { node, life, to } => {
                if self.lives(node, life) {
                    self.step(node, Input::LinkDown { to });
                }
            }
            Event::Swap { node, life, shard, expected, bytes, question } => {
                self.swap(node, life, shard, expected, &bytes, question);
            }
            Event::Swapped { node, life, shard, question, outcome } => {
                if self.lives(node, life) && self.nodes[node].questions.remove(&question) {
                    self.say(|_| format!("node {node} hears of shard {shard}: {outcome:?}"));
                    self.step(node, Input::Swapped { shard: ShardId::new(shard), outcome });
                }
            }
            Event::Look { node, life, shard } => {
                let seen = self.metadata.look(shard);
                if !self.loses_reply() {
                    let nanos = self.metadata_nanos();
                    self.after(nanos, Event::View { node, life, shard, seen });
                }
            }
            Event::View { node, life, shard, seen } => {
                if self.lives(node, life) {
                    self.step(node, Input::View { shard: ShardId::new(shard), seen });
                }
            }
            Event::AllSeen { node, life } => {
                if self.lives(node, life) {
                    self.step(node, Input::AllSeen);
                }
            }
            Event::Think { client } => self.think(client),
            Event::Again { op } => self.send_op(op),
            Event::Request { node, life, op, ticket } => self.request(node, life, op, ticket),
            Event::Reply { op, sent, reply } => self.reply(op, sent, reply),
            Event::Fault(fault) => self.fault(fault),
            Event::Restart { node } => self.restart(node),
            Event::Move { shard, target } => {
                let shard = self.shards[shard];
                let owner = self.metadata.look(shard.number()).record.owner.node as usize;
                if self.nodes[owner].alive && self.nodes[owner].paused_until <= self.now {
                    let target = self.site(target);
                    self.say(|_| {
                        format!("shard {} is to move from {owner} to {}", shard.number(), target.node)
                    });
                    self.step(owner, Input::Move { shard, target });
                } else {
                    self.report.refused += 1;
                }
            }
        }
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].alive && self.nodes[node].life == life
    }

    fn loses_reply(&mut self) -> bool {
        let lost = !self.quiet_links && self.dice.permille(self.plan.lost_reply_permille);
        self.report.lost_replies += u64::from(lost);
        lost
    }

    fn metadata_nanos(&mut self) -> u64 {
        let nanos = self.dice.between(1, self.plan.metadata_nanos);
        nanos + self.metadata.silent_until.saturating_sub(self.now)
    }

    fn link_nanos(&mut self) -> u64 {
        self.dice.between(MICRO, self.plan.link_nanos)
    }

    /// Lets a node go on, and does what it wants.
    fn step(&mut self, node: usize, input: Input<'_>) {
        let now = self.now_of(node);
        let Node { moves, engine, .. } = &mut self.nodes[node];
        moves.step(now, engine, input);
        self.act(node);
    }

    fn act(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].moves.poll() {
            match action {
                Action::Send { to, frame } => self.send(node, to, frame),
                Action::Close { to } => {
                    self.say(|_| format!("node {node} closes its link to {}", to.node));
                    self.reset(node, to.node as usize);
                }
                Action::Swap { shard, expected, record } => self.ask(node, shard.number(), expected, &record),
                Action::Look { shard } => {
                    let (nanos, life) = (self.metadata_nanos(), self.nodes[node].life);
                    if !self.loses_reply() {
                        self.after(nanos, Event::Look { node, life, shard: shard.number() });
                    }
                }
                Action::Answer { waiter, answer, value } => {
                    self.answer(node, waiter, Reply::Done(answer, value.into_vec()));
                }
                Action::Moved { waiter, owner } => {
                    self.answer(node, waiter, Reply::Moved(owner.node as usize));
                }
                Action::Lost { waiter } => self.answer(node, waiter, Reply::Lost),
                // Clients find out by asking.
                Action::Left { .. } => {}
                Action::Ended { shard, how, .. } => {
                    self.say(|_| format!("node {node}: the move of {} ended: {how:?}", shard.number()));
                    if how == Ending::Cancelled(migration::frame::Reason::Busy) {
                        self.report.refused += 1;
                    }
                }
            }
        }
        if let Some(at) = self.nodes[node].moves.wake_at() {
            let Node { origin, wake_at, life, .. } = self.nodes[node];
            let at = (at.0.saturating_sub(1000 * MILLI) + origin).max(self.now + MICRO);
            if at < wake_at {
                self.nodes[node].wake_at = at;
                self.at(at, Event::Wake { node, life });
            }
        }
    }

    // -- links ---------------------------------------------------------------------------------------------------------

    fn send(&mut self, node: usize, to: Site, mut frame: Vec<u8>) {
        let target = to.node as usize;
        let (from, life) = (self.site(node), self.nodes[node].life);
        let nanos = self.link_nanos();
        let (now, quiet) = (self.now, self.quiet_links);
        let known = self.site(target) == to && self.nodes[target].alive;
        let link = self.links.entry((node, target)).or_default();
        if link.refused_until > now || !known {
            return self.after(nanos, Event::LinkDown { node, life, to });
        }
        if link.swallowed_until > now {
            return;
        }
        link.last_arrival = (now + nanos).max(link.last_arrival + 1);
        let (arrival, connection) = (link.last_arrival, link.connection);
        let plan = &self.plan;
        let (drop, duplicate, corrupt, late) =
            (plan.drop_permille, plan.duplicate_permille, plan.corrupt_permille, plan.late_permille);
        if !quiet && self.dice.permille(drop) {
            return;
        }
        if !quiet && self.dice.permille(duplicate) {
            let again = arrival + self.dice.below(5 * MILLI);
            let event = Event::Frame { from, to, connection, bytes: frame.clone(), late: Late::Surely };
            self.at(again, event);
        }
        if !quiet && self.dice.permille(corrupt) {
            let bit = self.dice.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let late = if !quiet && self.dice.permille(late) { Late::Perhaps } else { Late::Never };
        self.at(arrival, Event::Frame { from, to, connection, bytes: frame, late });
    }

    /// The connection between two nodes ends; both hear of it.
    fn reset(&mut self, a: usize, b: usize) {
        for (node, other) in [(a, b), (b, a)] {
            self.links.entry((node, other)).or_default().connection += 1;
            let (nanos, life, to) = (self.link_nanos(), self.nodes[node].life, self.site(other));
            self.after(nanos, Event::LinkDown { node, life, to });
        }
    }

    // -- metadata ------------------------------------------------------------------------------------------------------

    fn ask(&mut self, node: usize, shard: u16, expected: u64, record: &Record) {
        let question = self.next_question;
        self.next_question += 1;
        let life = self.nodes[node].life;
        self.nodes[node].questions.insert(question);
        self.say(|_| {
            format!(
                "node {node} wants shard {shard} as {:?} of {} from revision {expected}",
                record.phase, record.owner.node
            )
        });
        // Asked, and perhaps done when nobody waits for it any more, or never.
        let lost = self.loses_reply() && self.dice.permille(300);
        if !lost {
            let late = if self.loses_reply() { 8 } else { 1 };
            let nanos = self.metadata_nanos() * late;
            let event = Event::Swap { node, life, shard, expected, bytes: record.to_bytes(), question };
            self.after(nanos, event);
        }
        let patience = 3 * self.plan.metadata_nanos + MILLI;
        let outcome = Swapped::Unknown;
        self.after(patience, Event::Swapped { node, life, shard, question, outcome });
    }

    fn swap(&mut self, node: usize, life: u64, shard: u16, expected: u64, bytes: &[u8], question: u64) {
        let outcome = match self.metadata.swap(shard, expected, bytes) {
            Ok(revision) => {
                self.say(|world| format!("shard {shard} is {:?}", world.metadata.look(shard)));
                for other in 0..self.nodes.len() {
                    if self.quiet_links || !self.dice.permille(self.plan.lost_watch_permille) {
                        let (nanos, life) = (self.metadata_nanos(), self.nodes[other].life);
                        let seen = self.metadata.look(shard);
                        self.after(nanos, Event::View { node: other, life, shard, seen });
                    }
                }
                Swapped::Done(revision)
            }
            Err(seen) => Swapped::Refused(seen),
        };
        if !self.loses_reply() {
            let nanos = self.metadata_nanos();
            self.after(nanos, Event::Swapped { node, life, shard, question, outcome });
        }
    }

    // -- faults --------------------------------------------------------------------------------------------------------

    fn fault(&mut self, fault: Fault) {
        self.say(|_| format!("{fault:?}"));
        let now = self.now;
        match fault {
            Fault::Crash { node, for_nanos } => {
                if self.nodes[node].alive {
                    self.crash(node);
                    self.after(for_nanos, Event::Restart { node });
                }
            }
            Fault::Pause { node, for_nanos } => {
                let until = &mut self.nodes[node].paused_until;
                *until = (*until).max(now + for_nanos);
            }
            Fault::Reset { a, b } => self.reset(a, b),
            Fault::Cut { a, b, for_nanos } => {
                for (from, to) in [(a, b), (b, a)] {
                    self.links.entry((from, to)).or_default().refused_until = now + for_nanos;
                }
                self.reset(a, b);
            }
            Fault::Swallow { a, b, for_nanos } => {
                self.links.entry((a, b)).or_default().swallowed_until = now + for_nanos;
            }
            Fault::Silence { for_nanos } => self.metadata.silent_until = now + for_nanos,
            Fault::Cancel { shard } => {
                let shard = self.shards[shard];
                for node in 0..self.nodes.len() {
                    if self.nodes[node].alive && self.nodes[node].paused_until <= now {
                        self.step(node, Input::Cancel { shard });
                    }
                }
            }
        }
    }

    fn crash(&mut self, node: usize) {
        self.report.crashes += 1;
        for i in 0..self.shards.len() {
            let Record { owner, target, phase, .. } = self.metadata.look(self.shards[i].number()).record;
            let granted =
                phase == Phase::Prepared && target.is_some_and(|target| target.node as usize == node);
            if owner.node as usize == node || granted {
                self.check.crashed(i, self.now);
            }
        }
        let life = self.nodes[node].life;
        self.gone.push(*self.nodes[node].moves.tally());
        self.nodes[node].alive = false;
        self.nodes[node].paused_until = 0;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.reset(node, other);
        }
        let open: Vec<u64> =
            self.ops.values().filter(|op| op.at == Some((node, life))).map(|op| op.id).collect();
        for op in open {
            self.lose(op);
        }
    }

    fn restart(&mut self, node: usize) {
        self.say(|_| format!("node {node} begins anew"));
        let life = self.nodes[node].life + 1;
        self.nodes[node] = self.make_node(node, life);
        let mut last = 0;
        for shard in self.shards.clone() {
            let nanos = self.metadata_nanos();
            let seen = self.metadata.look(shard.number());
            self.after(nanos, Event::View { node, life, shard: shard.number(), seen });
            last = last.max(nanos);
        }
        self.after(last, Event::AllSeen { node, life });
    }

    // -- clients -------------------------------------------------------------------------------------------------------

    fn think(&mut self, client: usize) {
        if self.now > self.plan.active_nanos {
            return;
        }
        let nanos = self.dice.between(MICRO, self.plan.think_nanos);
        self.after(nanos, Event::Think { client });
        let open =
            self.ops.values().rev().take(64).filter(|op| op.client == client && op.stage == Stage::Open);
        if open.count() >= PIPELINE_MAX {
            return;
        }
        let id = self.next_op;
        self.next_op += 1;
        let op = Op::choose(&self.plan, &mut self.dice, id, client);
        self.report.operations += 1;
        let id = op.id;
        self.ops.insert(id, op);
        self.send_op(id);
    }

    fn send_op(&mut self, id: u64) {
        let mut op = self.ops.remove(&id).expect("operations are kept");
        let shard = op.key % self.plan.shards;
        // Now and then one asks somebody who has nothing to do with it.
        let node = match self.dice.permille(self.plan.stray_permille) {
            true => self.dice.below(self.plan.nodes as u64) as usize,
            false => self.maps[op.client][shard],
        };
        op.start = self.check.begin(self.now, &op, op.sent > 0);
        op.sent += 1;
        let life = self.nodes[node].life;
        op.behind = None;
        if op.sent == 1 {
            let before = self.ops.values().rev().take(64).find(|other| {
                let same = other.client == op.client && other.key == op.key && other.stage == Stage::Open;
                same && other.sent == 1 && other.at == Some((node, life))
            });
            op.behind = before.map(|before| before.id);
        }
        op.at = Some((node, life));
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        // A client's requests to one node come in order.
        let nanos = self.plan.client_nanos;
        self.ops.insert(id, op);
        self.after(nanos, Event::Request { node, life, op: id, ticket });
    }

    fn request(&mut self, node: usize, life: u64, id: u64, ticket: u32) {
        if self.ops[&id].stage != Stage::Open {
            return;
        }
        if !self.lives(node, life) {
            return self.lose(id);
        }
        let op = self.ops[&id].clone();
        let shard = self.shards[op.key % self.plan.shards];
        let now = self.now_of(node);
        let connection = ConnectionId { place: op.client as u32, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket } };
        let Node { moves, engine, .. } = &mut self.nodes[node];
        let mut outcome = None;
        let way = op.with_request(&self.plan, now, |request| {
            let way = moves.request(now, shard, waiter, request);
            if way == Way::Execute {
                let done = engine.execute(now, request);
                outcome = Some((done.answer, done.value.bytes().to_vec()));
            }
            way
        });
        let reply = match (way, outcome) {
            (Way::Execute, Some((answer, value))) => Reply::Done(answer, value),
            (Way::Moved(owner), _) => Reply::Moved(owner.node as usize),
            (Way::Wait, _) => {
                self.nodes[node].waiting.insert(ticket, id);
                return self.act(node);
            }
            _ => Reply::Busy,
        };
        self.reply_later(id, reply);
        self.act(node);
    }

    fn reply_later(&mut self, id: u64, reply: Reply) {
        let nanos = self.dice.between(MICRO, self.plan.client_nanos);
        let sent = self.ops[&id].sent;
        self.after(nanos, Event::Reply { op: id, sent, reply });
    }

    fn answer(&mut self, node: usize, waiter: Waiter, reply: Reply) {
        match self.nodes[node].waiting.remove(&waiter.address.ticket) {
            Some(id) => self.reply_later(id, reply),
            None => {
                let why = format!("ticket {} is answered, and does not wait", waiter.address.ticket);
                self.check.wrong(why);
            }
        }
    }

    fn reply(&mut self, id: u64, sent: u64, reply: Reply) {
        let mut op = self.ops.remove(&id).expect("operations are kept");
        if op.stage != Stage::Open || op.sent != sent {
            self.ops.insert(id, op);
            return;
        }
        let shard = op.key % self.plan.shards;
        match reply {
            Reply::Done(Answer::Fault(_), _) if self.check.forgets => op.stage = Stage::Lost,
            Reply::Done(answer, value) => {
                (self.now, id).hash(&mut self.trace);
                op.stage = Stage::Done;
                self.check.end(&op, shard, &answer, &value);
                op.told = match answer {
                    Answer::Item(item) => Some(item.version.0),
                    Answer::Stored { version, .. } => Some(version.0),
                    _ => None,
                };
                self.look_behind(&op);
            }
            Reply::Moved(node) => {
                self.maps[op.client][shard] = node;
                return self.try_again(op);
            }
            Reply::Busy => {
                // Ask the service who has it.
                let owner = self.metadata.look(self.shards[shard].number()).record.owner;
                self.maps[op.client][shard] = owner.node as usize;
                return self.try_again(op);
            }
            Reply::Lost => op.stage = Stage::Lost,
        }
        self.ops.insert(id, op);
    }

    /// A read that was sent behind a write of the same client, on the same connection, sees it.
    fn look_behind(&mut self, op: &Op) {
        let pair = |write: &Op, read: &Op| {
            let plain = matches!(write.kind, Kind::Put { millis: None }) && read.kind.reads();
            let once = write.sent == 1 && read.sent == 1;
            match (write.told, read.told) {
                (Some(write), Some(read)) => plain && once && read < write,
                _ => false,
            }
        };
        let before = op.behind.and_then(|behind| self.ops.get(&behind));
        let behind = self.ops.values().filter(|other| other.behind == Some(op.id));
        let wrong =
            before.is_some_and(|before| pair(before, op)) || behind.into_iter().any(|read| pair(op, read));
        if wrong {
            self.check.wrong(format!("a read came before the write that was sent before it: {op:?}"));
        }
    }

    fn try_again(&mut self, op: Op) {
        let id = op.id;
        self.ops.insert(id, Op { at: None, ..op });
        let pause = 100 * MICRO + self.dice.below(200 * MICRO);
        self.after(pause, Event::Again { op: id });
    }

    /// Its node is gone: a read is of no interest any more, of a write nobody will know.
    fn lose(&mut self, id: u64) {
        let op = self.ops.get_mut(&id).expect("operations are kept");
        if op.stage == Stage::Open {
            op.stage = Stage::Lost;
        }
    }
}

/// The keys of the plan are where they are thought to be.
#[test]
fn keys_are_of_their_shards() {
    let plan = Plan::of(1);
    for number in 0..100 {
        let tag = TAGS[number % plan.shards];
        assert_eq!(slot_of(&key_of(&plan, number)).shard(), slot_of(tag.as_bytes()).shard());
    }
}
