//! An origin of many nodes, each of which has a part of the slots: a Redis Cluster.
//!
//! ```text
//!   ask --> slot of the key --> node that has it --> that node's Pool --> Client
//!     |  map not known yet: waits            MOVED: the slot's new node, from now on for all
//!     v                                      ASK:   that node, this once, behind ASKING
//!   CLUSTER SLOTS of one node after the other, the one of the URL last
//! ```
//! 1. The map is learned at the start; soon after a node failed, lost a connection or sent a question elsewhere; and every ten
//!    seconds where we listen, so that a node which is new is listened to though all that is asked of us is held.
//! 2. A question keeps its one deadline, however often it is redirected; that is bounded.
//! 3. Each node has its own pool, so its own circuit: one that fails leaves the others alone. Permits are the origin's.
//! 4. Where commands of clients go, those of one slot stay in order. When a node sends one elsewhere, nothing of its slot goes out
//!    until all that is out is back; then all go on, the oldest first. (A slot that goes away and comes back while a command is on
//!    its way could still have two change places.)
//! 5. A script can word an error as it likes. So what may be one of a script is followed to nodes that the map names and
//!    nowhere else: a connection begins with our password.

use super::pool::{Action, Cause, Failure, Line, Options, Permits, Pool, Tally, Told};
use super::resp_frame::{Part, part};
use super::slot_map::{Place, Range, Redirection, place_of, ranges};
use super::{Ask, Broken, Duty, Reply, Target, Ticket, What, refusal};
use crate::clock::Mono;
use crate::hash::slot_of;
use crate::ids::{SLOT_COUNT, Slot};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Most nodes that are asked.
const NODES_MAX: usize = 256;
/// How often a question may be sent on.
const REDIRECTIONS_MAX: u8 = 5;
/// How often the map is learned again where we listen, and how soon at the earliest for a reason.
const LEARN_MILLIS: u64 = 10_000;
const LEARN_SOON_MILLIS: u64 = 250;
/// First and longest pause after no node told the map.
const PAUSE_MILLIS: u64 = 100;
const PAUSE_MILLIS_MAX: u64 = 5_000;
/// The question for the map. The engine counts its tickets up from 1.
const MAP: Ticket = Ticket(u64::MAX);
const CLUSTER_SLOTS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
/// As Redis says it of keys that it finds in one command.
const CROSSSLOT: &[u8] = b"CROSSSLOT Keys in request don't hash to the same slot";
const NODE_UNKNOWN: &[u8] = b"TRYAGAIN the slot is on its way to a node that is not known yet";
const NO_CLUSTER: &[u8] = b"ERR the origin is no Redis Cluster: leave cluster=on out of its URL";
const NO_SLOTS: &[u8] = b"ERR no node of the origin's cluster has slots: assign them there";
const NO_MAP: &[u8] = b"ERR the origin did not say which of its nodes has which slots";

/// Names a node; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeId(u32);

/// The node at the host and port of the URL: asked for the map when no other is known or answers, and of slots nobody has.
const FIRST: NodeId = NodeId(0);

struct Node {
    id: NodeId,
    place: Place,
    pool: Pool,
    /// It has no slots any more: it goes as soon as all that it was asked is answered.
    leaves: bool,
}

/// A question until it is answered.
struct Question {
    ask: Rc<Ask>,
    cause: Cause,
    slot: Slot,
    until: Mono,
    /// Where it is out.
    node: Option<NodeId>,
    redirections: u8,
}

/// A slot of which commands were out elsewhere than where it is.
#[derive(Default)]
struct Moving {
    /// What goes on when they are back, in the order it was asked in; to which node once, if not to that of the slot.
    held: BTreeMap<Ticket, Option<NodeId>>,
    /// Where it is the map has to say first.
    for_map: bool,
}

/// Why there is no map.
enum Ignorance {
    Failed(Failure),
    Said(Vec<u8>),
}

/// One core's connections to a cluster.
pub struct Cluster {
    target: Arc<Target>,
    options: Options,
    permits: Arc<Permits>,
    /// The first is [`FIRST`].
    nodes: Vec<Node>,
    next_node: u32,
    /// Which node has each slot.
    slots: Box<[NodeId]>,
    known: bool,
    /// Nodes asked for the map in this round, and when the round began; whether one of them is asked now.
    tried: usize,
    round_at: Mono,
    learning: bool,
    learn_at: Mono,
    pause_millis: u64,
    ignorance: Ignorance,
    /// Where the next round begins.
    turn: usize,
    questions: BTreeMap<Ticket, Question>,
    /// Questions that wait for the map.
    waiting: VecDeque<Ticket>,
    /// Of each slot, how many commands are out; where they are to stay in order.
    out: BTreeMap<Slot, usize>,
    moving: BTreeMap<Slot, Moving>,
    /// How many are held of all that move.
    held: usize,
    actions: VecDeque<Action>,
    /// What nodes counted that are gone, and what no node counts.
    tally: Tally,
}

impl Cluster {
    /// A cluster of which nothing is known but one place.
    pub fn new(target: Arc<Target>, options: Options, permits: Arc<Permits>) -> Cluster {
        let mut cluster = Cluster {
            slots: vec![FIRST; usize::from(SLOT_COUNT)].into(),
            nodes: Vec::new(),
            next_node: 0,
            known: false,
            tried: 0,
            round_at: Mono(0),
            learning: false,
            learn_at: Mono(0),
            pause_millis: 0,
            ignorance: Ignorance::Failed(Failure::Unreachable),
            turn: 0,
            questions: BTreeMap::new(),
            waiting: VecDeque::new(),
            out: BTreeMap::new(),
            moving: BTreeMap::new(),
            held: 0,
            actions: VecDeque::new(),
            tally: Tally::default(),
            target,
            options,
            permits,
        };
        let first = Place { ip: None, port: cluster.target.port, name: None };
        cluster.add(first, false);
        cluster
    }

    /// What to do next; changes with every other call.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Asks, as [`Pool::ask`] does.
    pub fn ask(&mut self, now: Mono, ticket: Ticket, cause: Cause, ask: Ask) {
        let slot = slot_of(&ask.key);
        let until = now.plus_millis(self.options.timeout_millis);
        let ask = Rc::new(ask);
        self.questions.insert(ticket, Question { ask, cause, slot, until, node: None, redirections: 0 });
        let parks = !self.known || self.moving.contains_key(&slot);
        if parks && self.waiting.len() + self.held >= self.options.queue_max {
            self.tell_failed(ticket, Failure::QueueFull);
        } else if self.known {
            self.send(now, ticket);
        } else if !self.learning && now < self.learn_at {
            // Asked just now, in vain.
            self.tell_ignorance(ticket);
        } else {
            self.waiting.push_back(ticket);
            if !self.learning {
                self.learn(now);
            }
        }
        self.settle(now);
    }

    /// As [`Pool::hurry`].
    pub fn hurry(&mut self, now: Mono, ticket: Ticket) {
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.cause = Cause::Demand;
        if let Some(id) = question.node {
            self.pool(id).hurry(now, ticket);
        }
        self.settle(now);
    }

    /// As [`Pool::spare_room`]: what the node has that has least, as nobody knows whose keys will be asked for.
    pub fn spare_room(&mut self, now: Mono) -> usize {
        if !self.known {
            return 0;
        }
        self.nodes[1..].iter_mut().map(|node| node.pool.spare_room(now)).min().unwrap_or(0)
    }

    /// As [`Pool::spare_rate`].
    pub fn spare_rate(&self) -> f64 {
        self.nodes[1..].iter().map(|node| node.pool.spare_rate()).sum()
    }

    /// As [`Pool::set_spare_share`], for all nodes; one that comes later learns it the next time.
    pub fn set_spare_share(&mut self, share: f64) {
        self.nodes.iter_mut().for_each(|node| node.pool.set_spare_share(share));
    }

    /// Where a connection is to lead.
    pub fn place(&self, line: Line) -> Option<&Place> {
        self.nodes.iter().find(|node| node.id == of_line(line)).map(|node| &node.place)
    }

    /// The node that has a key's slot, as far as the map is known.
    pub fn home(&self, key: &[u8]) -> Option<Place> {
        let id = self.slots[usize::from(slot_of(key).number())];
        (self.known && id != FIRST).then(|| self.node(id).place.clone())
    }

    /// As [`Pool::connected`].
    pub fn connected(&mut self, now: Mono, line: Line) {
        self.with(now, line, |pool| pool.connected(now, line));
    }

    /// As [`Pool::received`].
    pub fn received(&mut self, now: Mono, line: Line, bytes: &[u8]) {
        self.with(now, line, |pool| pool.received(now, line, bytes));
    }

    /// As [`Pool::closed`].
    pub fn closed(&mut self, now: Mono, line: Line) {
        self.learn_soon(now);
        self.with(now, line, |pool| pool.closed(now, line));
    }

    /// As [`Pool::refused`].
    pub fn refused(&mut self, now: Mono, line: Line) {
        self.learn_soon(now);
        self.with(now, line, |pool| pool.refused(now, line));
    }

    /// As [`Pool::output`].
    pub fn output(&mut self, line: Line) -> Option<&mut Vec<u8>> {
        self.nodes.iter_mut().find(|node| node.id == of_line(line))?.pool.output(line)
    }

    /// As [`Pool::tick`].
    pub fn tick(&mut self, now: Mono) -> Option<Mono> {
        for node in &mut self.nodes {
            if node.pool.next_due(now).is_some_and(|due| due <= now) {
                node.pool.tick(now);
            }
        }
        // In both the first is the oldest.
        while let Some(late) = self.waiting.front().copied().filter(|it| self.until(*it) <= now) {
            self.waiting.pop_front();
            self.tell_failed(late, Failure::Overdue);
        }
        let mut late = Vec::new();
        for moving in self.moving.values_mut() {
            let overdue = |it: &Ticket| self.questions.get(it).is_none_or(|question| question.until <= now);
            while moving.held.first_key_value().is_some_and(|(ticket, _)| overdue(ticket)) {
                late.extend(moving.held.pop_first().map(|(ticket, _)| ticket));
            }
        }
        self.held -= late.len();
        late.into_iter().for_each(|ticket| self.tell_failed(ticket, Failure::Overdue));
        if self.wants_map() && now >= self.learn_at {
            self.learn(now);
        }
        self.settle(now);
        self.next_due(now)
    }

    /// As [`Pool::next_due`].
    pub fn next_due(&self, now: Mono) -> Option<Mono> {
        let nodes = self.nodes.iter().filter_map(|node| node.pool.next_due(now));
        let waiting = self.waiting.front().map(|ticket| self.until(*ticket));
        let held = self.moving.values().filter_map(|moving| moving.held.first_key_value());
        let held = held.map(|(ticket, _)| self.until(*ticket));
        let learn = (self.wants_map() && self.learn_at < Mono(u64::MAX)).then(|| self.learn_at.max(now));
        nodes.chain(waiting).chain(held).chain(learn).min()
    }

    /// Whether the circuit of any node is open.
    pub fn circuit_open(&self) -> bool {
        self.nodes.iter().any(|node| node.pool.circuit_open())
    }

    /// What a node did when it last broke its protocol.
    pub fn last_broken(&self) -> Option<Broken> {
        self.nodes.iter().find_map(|node| node.pool.last_broken())
    }

    /// Why a node's connection was last given up; one whose circuit is open first.
    pub fn last_failure(&self) -> Option<Failure> {
        let failed = |open| {
            let nodes = self.nodes.iter().filter(move |node| node.pool.circuit_open() == open);
            nodes.filter_map(|node| node.pool.last_failure()).next()
        };
        failed(true).or_else(|| failed(false))
    }

    /// As [`Pool::connection_count`].
    pub fn connection_count(&self) -> usize {
        self.nodes.iter().map(|node| node.pool.connection_count()).sum()
    }

    /// As [`Pool::waiting_count`].
    pub fn waiting_count(&self) -> usize {
        let nodes: usize = self.nodes.iter().map(|node| node.pool.waiting_count()).sum();
        nodes + self.waiting.len() + self.held
    }

    /// What all nodes count.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        self.nodes.iter().for_each(|node| tally.add(&node.pool.tally));
        tally
    }

    /// Of that, how often circuits opened.
    pub fn opened(&self) -> u64 {
        self.tally.opened + self.nodes.iter().map(|node| node.pool.tally.opened).sum::<u64>()
    }

    // -- nodes ---------------------------------------------------------------------------------------------------------

    /// Adds a node, with a pool of its own; `None` if there are too many.
    fn add(&mut self, place: Place, listens: bool) -> Option<NodeId> {
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        let id = NodeId(self.next_node);
        self.next_node += 1;
        let options = Options { listen: self.options.listen && listens, ..self.options };
        let pool = Pool::new(self.target.clone(), options, self.permits.clone());
        let pool = pool.of_node(u64::from(id.0) << LINE_BITS);
        self.nodes.push(Node { id, place, pool, leaves: false });
        Some(id)
    }

    /// The node at a place, one that is new if there was none.
    fn node_at(&mut self, place: &Place) -> Option<NodeId> {
        let known = self.nodes[1..].iter().find(|node| node.place == *place).map(|node| node.id);
        known.or_else(|| self.add(place.clone(), true))
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap_or(&self.nodes[0])
    }

    /// The pool of a node; of one that is gone, the first's.
    fn pool(&mut self, id: NodeId) -> &mut Pool {
        let place = self.nodes.iter().position(|node| node.id == id).unwrap_or(0);
        &mut self.nodes[place].pool
    }

    fn with(&mut self, now: Mono, line: Line, act: impl FnOnce(&mut Pool)) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id == of_line(line)) {
            act(&mut node.pool);
        }
        self.settle(now);
    }

    /// Takes in what the pools have to say, until they have nothing to say any more.
    fn settle(&mut self, now: Mono) {
        let mut place = 0;
        let mut quiet = 0;
        while quiet < self.nodes.len() {
            match self.nodes[place].pool.poll() {
                Some(action) => {
                    let id = self.nodes[place].id;
                    self.take(now, id, action);
                    quiet = 0;
                }
                None => {
                    quiet += 1;
                    place = (place + 1) % self.nodes.len();
                }
            }
        }
        self.part_from_idle();
    }

    /// Closes what is of no more use: nodes without slots, and the first as soon as others are known.
    fn part_from_idle(&mut self) {
        let done = |node: &Node| {
            node.pool.is_quiet()
                && (node.leaves || node.id == FIRST && self.known && node.pool.connection_count() > 0)
        };
        while let Some(place) = self.nodes.iter().position(done) {
            let node = &mut self.nodes[place];
            node.pool.close_all();
            while let Some(action) = node.pool.poll() {
                self.actions.push_back(action);
            }
            if node.id != FIRST {
                self.tally.add(&node.pool.tally);
                self.nodes.remove(place);
            }
        }
    }

    fn take(&mut self, now: Mono, from: NodeId, action: Action) {
        match action {
            Action::Tell(Told::Answer(MAP, reply)) => self.take_map(now, from, reply),
            Action::Tell(Told::Failed(MAP, why)) => self.try_another(now, Ignorance::Failed(why)),
            Action::Slow(MAP, _) => {}
            Action::Tell(Told::Answer(ticket, reply)) => self.answered(now, from, ticket, reply),
            Action::Tell(Told::Failed(ticket, why)) => {
                if why != Failure::QueueFull {
                    self.learn_soon(now);
                }
                self.leave(now, ticket);
                self.actions.push_back(Action::Tell(Told::Failed(ticket, why)));
            }
            other => self.actions.push_back(other),
        }
    }

    // -- the map -------------------------------------------------------------------------------------------------------

    /// Whether the map has to be learned when its time comes: where commands pass, not before there are any.
    fn wants_map(&self) -> bool {
        !self.learning && (self.known || self.options.duty == Duty::Ask || !self.waiting.is_empty())
    }

    /// Has the map learned again, as soon as that may be.
    pub fn learn_soon(&mut self, now: Mono) {
        if self.known && !self.learning {
            let soon = self.round_at.plus_millis(self.pause_millis.max(LEARN_SOON_MILLIS));
            self.learn_at = self.learn_at.min(soon.max(now));
        }
    }

    /// Asks the next node of this round for the map.
    fn learn(&mut self, now: Mono) {
        if self.tried == 0 {
            self.round_at = now;
        }
        self.learning = true;
        self.learn_at = Mono(u64::MAX);
        let others = self.nodes.len() - 1;
        let place = if self.tried < others { 1 + (self.turn + self.tried) % others } else { 0 };
        let what = What::Command { bytes: CLUSTER_SLOTS.to_vec(), replies: 1 };
        self.nodes[place].pool.ask(now, MAP, Cause::Demand, Ask { key: Vec::new(), what });
    }

    /// A node could not tell the map: the next one is asked, or all who wait are told why.
    fn try_another(&mut self, now: Mono, why: Ignorance) {
        self.learning = false;
        self.tried += 1;
        self.ignorance = why;
        if self.tried < self.nodes.len() {
            return self.learn(now);
        }
        self.end_round();
        self.pause_millis = (self.pause_millis * 2).clamp(PAUSE_MILLIS, PAUSE_MILLIS_MAX);
        self.learn_at = now.plus_millis(self.pause_millis);
        for ticket in std::mem::take(&mut self.waiting) {
            self.tell_ignorance(ticket);
        }
        let for_map = self.moving.iter().filter(|(_, moving)| moving.for_map).map(|(slot, _)| *slot);
        for slot in for_map.collect::<Vec<_>>() {
            let moving = self.moving.get_mut(&slot).expect("it was just there");
            moving.for_map = false;
            let held = std::mem::take(&mut moving.held);
            self.held -= held.len();
            held.into_keys().for_each(|ticket| self.tell_ignorance(ticket));
            self.release(now, slot);
        }
    }

    fn end_round(&mut self) {
        (self.tried, self.turn, self.learning) = (0, self.turn.wrapping_add(1), false);
    }

    fn take_map(&mut self, now: Mono, from: NodeId, reply: Reply) {
        let frame = match reply {
            Reply::Raw(frame) => frame,
            Reply::Refused(text) => return self.try_another(now, Ignorance::Said(text)),
            _ => return self.try_another(now, Ignorance::Said(NO_MAP.to_vec())),
        };
        if let Some((Part::Error(text), _)) = part(&frame) {
            let said = match (text.windows(15).any(|words| words == b"cluster support"), refusal(text)) {
                (false, Reply::Refused(text)) => text,
                _ => NO_CLUSTER.to_vec(),
            };
            return self.try_another(now, Ignorance::Said(said));
        }
        match ranges(&frame, &self.node(from).place) {
            None => self.try_another(now, Ignorance::Said(NO_MAP.to_vec())),
            Some(ranges) if ranges.is_empty() => {
                self.try_another(now, Ignorance::Said(NO_SLOTS.to_vec()));
            }
            Some(ranges) => self.apply(now, &ranges),
        }
    }

    fn apply(&mut self, now: Mono, ranges: &[Range]) {
        self.end_round();
        (self.known, self.pause_millis) = (true, 0);
        self.learn_at = if self.options.listen { now.plus_millis(LEARN_MILLIS) } else { Mono(u64::MAX) };
        self.nodes[1..].iter_mut().for_each(|node| node.leaves = true);
        self.slots.fill(FIRST);
        for range in ranges {
            // Slots of nodes beyond the bound are asked of the first, which sends the question on: an error.
            let Some(id) = self.node_at(&range.place) else { continue };
            self.slots[usize::from(range.first)..=usize::from(range.last)].fill(id);
            let node = self.nodes.iter_mut().find(|node| node.id == id).expect("it is there now");
            node.leaves = false;
        }
        self.moving.values_mut().for_each(|moving| moving.for_map = false);
        if self.keeps_order() {
            for question in self.questions.values() {
                let home = self.slots[usize::from(question.slot.number())];
                if question.node.is_some_and(|node| node != home) {
                    self.moving.entry(question.slot).or_default();
                }
            }
        }
        for slot in self.moving.keys().copied().collect::<Vec<_>>() {
            self.release(now, slot);
        }
        for ticket in std::mem::take(&mut self.waiting) {
            self.send(now, ticket);
        }
    }

    // -- questions -----------------------------------------------------------------------------------------------------

    fn keeps_order(&self) -> bool {
        self.options.duty != Duty::Ask
    }

    fn until(&self, ticket: Ticket) -> Mono {
        self.questions.get(&ticket).map_or(Mono(0), |question| question.until)
    }

    /// Sends a question to the node of its slot, or holds it back while that moves.
    fn send(&mut self, now: Mono, ticket: Ticket) {
        let Some(question) = self.questions.get(&ticket) else { return };
        let slot = question.slot;
        match self.moving.contains_key(&slot) {
            true => self.hold(slot, ticket, None),
            false => self.send_to(now, ticket, self.slots[usize::from(slot.number())], false),
        }
    }

    fn hold(&mut self, slot: Slot, ticket: Ticket, once: Option<NodeId>) {
        self.moving.entry(slot).or_default().held.insert(ticket, once);
        self.held += 1;
    }

    /// Sends a question to a node; `once`: behind `ASKING`, as that has not its slot yet.
    fn send_to(&mut self, now: Mono, ticket: Ticket, to: NodeId, once: bool) {
        let orders = self.keeps_order();
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.node = Some(to);
        if orders {
            *self.out.entry(question.slot).or_default() += 1;
        }
        let ask = match once {
            false => question.ask.clone(),
            true => {
                let what = What::Asking(Box::new(question.ask.what.clone()));
                Rc::new(Ask { key: question.ask.key.clone(), what })
            }
        };
        let (cause, until) = (question.cause, question.until);
        self.pool(to).ask_until(now, ticket, cause, ask, until);
    }

    /// A question is not out any more: what is held of its slot may go on when all are back.
    fn came_back(&mut self, now: Mono, ticket: Ticket) {
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        let slot = question.slot;
        if question.node.take().is_none() {
            return;
        }
        if let Some(out) = self.out.get_mut(&slot) {
            *out -= 1;
            if *out == 0 {
                self.out.remove(&slot);
                self.release(now, slot);
            }
        }
    }

    /// Sends what is held of a slot, if nothing of it is out: in order, as far as all go to the same node.
    fn release(&mut self, now: Mono, slot: Slot) {
        let waits = |moving: &Moving| moving.for_map;
        if self.out.contains_key(&slot) || self.moving.get(&slot).is_none_or(waits) {
            return;
        }
        let mut held = self.moving.remove(&slot).expect("looked at above").held;
        self.held -= held.len();
        let Some(once) = held.first_key_value().map(|(_, once)| *once) else { return };
        let home = self.slots[usize::from(slot.number())];
        while held.first_key_value().is_some_and(|(_, it)| *it == once) {
            let (ticket, _) = held.pop_first().expect("looked at above");
            self.send_to(now, ticket, once.unwrap_or(home), once.is_some());
        }
        if once.is_some() || !held.is_empty() {
            // The rest, and what comes now, goes when those are back.
            self.moving.entry(slot).or_default();
            held.into_iter().for_each(|(ticket, once)| self.hold(slot, ticket, once));
        }
    }

    fn answered(&mut self, now: Mono, from: NodeId, ticket: Ticket, reply: Reply) {
        let text = match &reply {
            Reply::Refused(text) => Some(text.as_slice()),
            Reply::Raw(frame) => frame.strip_prefix(b"-"),
            _ => None,
        };
        let Some(redirection) = text.and_then(Redirection::read) else {
            if text.is_some_and(|text| text.starts_with(b"CLUSTERDOWN")) {
                self.learn_soon(now);
            }
            return self.tell(now, ticket, reply);
        };
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.redirections += 1;
        self.tally.redirected += 1;
        let (slot, slot_said) = (question.slot, Slot::new(redirection.slot));
        if slot != slot_said {
            // Of several keys one is elsewhere.
            return self.tell(now, ticket, Reply::Refused(CROSSSLOT.to_vec()));
        }
        if question.redirections > REDIRECTIONS_MAX {
            self.leave(now, ticket);
            return self.actions.push_back(Action::Tell(Told::Failed(ticket, Failure::Astray)));
        }
        let forgeable = forgeable(&question.ask.what);
        let to = self.whereto(from, &redirection, forgeable);
        let once = match (to, redirection.once) {
            (Some(to), true) => Some(to),
            (None, true) => return self.tell(now, ticket, Reply::Refused(NODE_UNKNOWN.to_vec())),
            (Some(to), false) if !forgeable => {
                self.learn_soon(now);
                self.slots[usize::from(slot.number())] = to;
                None
            }
            // The map will say.
            (_, false) => {
                self.learn_soon(now);
                self.moving.entry(slot).or_default().for_map = true;
                None
            }
        };
        if self.keeps_order() || to.is_none() {
            self.hold(slot, ticket, once);
            return self.came_back(now, ticket);
        }
        let home = self.slots[usize::from(slot.number())];
        self.send_to(now, ticket, once.unwrap_or(home), once.is_some());
    }

    /// The node that a redirection names, if it may be gone to.
    fn whereto(&mut self, from: NodeId, to: &Redirection<'_>, forgeable: bool) -> Option<NodeId> {
        let Some(place) = place_of(to.endpoint, to.port, &self.node(from).place) else {
            let named = |node: &&Node| {
                node.place.port == to.port
                    && node.place.name.as_deref().is_some_and(|name| name == to.endpoint)
            };
            return self.nodes[1..].iter().find(named).map(|node| node.id);
        };
        // One that the map names by its name, too, is the same.
        let same = |node: &&Node| (node.place.ip, node.place.port) == (place.ip, place.port);
        let known = self.nodes[1..].iter().find(same).map(|node| node.id);
        known.or_else(|| if forgeable { None } else { self.node_at(&place) })
    }

    /// A question is over.
    fn leave(&mut self, now: Mono, ticket: Ticket) {
        self.came_back(now, ticket);
        self.questions.remove(&ticket);
    }

    fn tell(&mut self, now: Mono, ticket: Ticket, reply: Reply) {
        self.leave(now, ticket);
        self.actions.push_back(Action::Tell(Told::Answer(ticket, reply)));
    }

    /// Of a question that no node has.
    fn tell_failed(&mut self, ticket: Ticket, why: Failure) {
        self.questions.remove(&ticket);
        self.tally.failed += 1;
        self.actions.push_back(Action::Tell(Told::Failed(ticket, why)));
    }

    fn tell_ignorance(&mut self, ticket: Ticket) {
        match &self.ignorance {
            Ignorance::Failed(why) => {
                let why = *why;
                self.tell_failed(ticket, why);
            }
            Ignorance::Said(text) => {
                let reply = Reply::Refused(text.clone());
                self.questions.remove(&ticket);
                self.actions.push_back(Action::Tell(Told::Answer(ticket, reply)));
            }
        }
    }
}

/// Numbers of a node's connections: as many as this many bits tell apart, with the node's above them.
const LINE_BITS: u32 = 32;

fn of_line(line: Line) -> NodeId {
    NodeId((line.0 >> LINE_BITS) as u32)
}

/// Whether an error that answers this may be a script's own words: not if no word of it could be the name of what runs one.
fn forgeable(what: &What) -> bool {
    let What::Command { bytes, .. } = what else { return false };
    let says = |name: &[u8]| bytes.windows(name.len()).any(|word| word.eq_ignore_ascii_case(name));
    says(b"eval") || says(b"fcall")
}

#[cfg(test)]
mod tests;
