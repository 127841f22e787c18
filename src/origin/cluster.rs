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

mod map;
mod questions;

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
/// The question for the map. The engine counts its tickets up from 1.
const MAP: Ticket = Ticket(u64::MAX);

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
}

/// Numbers of a node's connections: as many as this many bits tell apart, with the node's above them.
const LINE_BITS: u32 = 32;

fn of_line(line: Line) -> NodeId {
    NodeId((line.0 >> LINE_BITS) as u32)
}

#[cfg(test)]
mod tests;
