//! Links to the cores of other nodes: a connection for each pair of cores, by which batches go as they go by rings between cores of one node.
//!
//! ```text
//!   mesh --Far.to--> carry: frames --> the connection's output ~~~> link_received --Far.from--> mesh, as any core's
//! ```
//! 1. Of two nodes the one with the smaller number connects: each of its cores to the own port of each core of the other, and again
//!    after a pause whenever that breaks. Who is connected to finds LINK as the first frame and takes the connection from its session.
//! 2. Each says who it is, in which life, and of which list of nodes. Who differs is refused.
//! 3. What was asked over a link that breaks is answered here at once: of a write nobody knows whether it was done. While there is no
//!    link, requests are answered without being sent.
//! 4. Each side says something every [`BEAT_MILLIS`]; silence for [`DEAD_MILLIS`] ends the link.

use super::Core;
use super::moving::UNKNOWN;
use super::routes::RELAYED;
use crate::clock::{Mono, Now};
use crate::ids::{ConnectionId, CoreId};
use crate::io::connection::{Connection, Receiving, Stage};
use crate::io::mesh::{Far, Mesh};
use crate::io::ring::Completion;
use crate::message::{Batch, ReturnAddress};
use crate::migration::link::{self, Asked, Greeting, Linked, Refusal, Way, opcode};
use crate::migration::verbs;
use crate::request::{Answer, Fault, Outcome, Value};
use crate::topology::Node;
use crate::wire::native::frame::{Header, LINK_BYTES_MAX, MAGIC_REQUEST, body};
use crate::wire::{Client, Session};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often something is said, and after how long a silence nobody counts as there.
const BEAT_MILLIS: u64 = 1000;
const DEAD_MILLIS: u64 = 3000;
/// How long connecting and greeting may take.
const GREETING_MILLIS: u64 = 3000;
/// Pause before connecting again, the first time and at most.
const RETRY_MILLIS: u64 = 50;
const RETRY_MILLIS_MAX: u64 = 1000;
/// How far two wall clocks may differ.
const SKEW_MILLIS_MAX: u64 = 5000;
/// By which name wrong passwords of nodes are counted: no user has it.
const NODES: &[u8] = b" nodes";
/// Greetings that wait to be looked at.
const GREETINGS_MAX: usize = 64;
/// Batches that a link leaves room for in the ring to the core: of answers to what cannot be sent.
const SLOTS_SPARE: usize = 8;
/// Longest item that goes over a link, if buffers allow it; and the part of those that it may be, one in so many. It is held whole at
/// both ends.
const ITEM_BYTES_MAX: u64 = 16 << 20;
const ITEMS_OF_BUFFERS: u64 = 4;

/// Somebody wants a connection to be a link.
pub(super) struct Wanted {
    pub connection: ConnectionId,
    pub greeting: Box<[u8]>,
}

enum State {
    /// There is none; whoever connects does so at this moment.
    Down {
        retry_at: Mono,
    },
    /// The kernel reads the address meanwhile.
    Connecting {
        socket: Socket,
        _address: Box<SockAddr>,
        until: Mono,
        stopping: bool,
    },
    /// LINK was sent.
    Greeting {
        connection: ConnectionId,
        until: Mono,
    },
    Up {
        connection: ConnectionId,
        incarnation: u64,
        heard: Mono,
        beat_at: Mono,
    },
}

impl State {
    fn connection(&self) -> Option<ConnectionId> {
        match self {
            State::Greeting { connection, .. } | State::Up { connection, .. } => Some(*connection),
            State::Down { .. } | State::Connecting { .. } => None,
        }
    }

    fn due(&self) -> Mono {
        match self {
            State::Down { retry_at } => *retry_at,
            State::Connecting { until, stopping: false, .. } | State::Greeting { until, .. } => *until,
            State::Connecting { .. } => Mono(u64::MAX),
            State::Up { heard, beat_at, .. } => (*beat_at).min(heard.plus_millis(DEAD_MILLIS)),
        }
    }
}

struct Link {
    /// The other core, as this node numbers it; and as its own does.
    core: CoreId,
    place: (u32, u16),
    address: SocketAddr,
    /// Whether this side connects.
    outward: bool,
    state: State,
    far: Far,
    asked: Asked,
    /// Counts links to this core.
    session: u32,
    /// Bytes of the longest key and value that both sides take.
    item_bytes_max: usize,
    retry_millis: u64,
    /// Batches for the core that found no room in its ring.
    late: VecDeque<Box<Batch>>,
    /// Why it is down, as operators have been told.
    told: &'static str,
}

impl Link {
    /// Whether operators are to be told why there is no link: once for each reason.
    fn is_news(&mut self, why: &'static str) -> bool {
        std::mem::replace(&mut self.told, why) != why
    }

    /// Answers requests that are not done there, or of which nobody knows.
    fn give_up(&mut self, mesh: &mut Mesh, requests: impl Iterator<Item = (ReturnAddress, Fault)>) {
        let mut batch = mesh.blank();
        for (address, fault) in requests {
            let value = if fault == Fault::Origin { UNKNOWN } else { b"" };
            batch.push_return(address, &Outcome { answer: Answer::Fault(fault), value: Value::One(value) });
        }
        if !batch.is_empty() {
            self.late.push_back(batch);
        }
    }

    /// Hands late batches to the core as far as there is room; whether all were.
    fn catch_up(&mut self) -> bool {
        while let Some(batch) = self.late.pop_front() {
            if let Err(rtrb::PushError::Full(batch)) = self.far.from.push(batch) {
                self.late.push_front(batch);
                return false;
            }
        }
        true
    }
}

/// The links of a core.
#[derive(Default)]
pub(super) struct Links {
    list: Vec<Link>,
    /// Of those in the table of connections.
    pub open: usize,
    /// Something is left to be done in the next turn.
    pub unread: bool,
    due: Mono,
    password: Arc<str>,
}

impl Links {
    /// Those to all cores of the other nodes, which become peers of the mesh.
    pub fn new(node: &Node, mesh: &mut Mesh, password: Arc<str>) -> Links {
        let cores =
            node.cluster.iter().flat_map(|cluster| cluster.far_cores().map(|far| (cluster.node, far)));
        let list = cores.map(|(me, (core, far))| Link {
            core,
            place: (far.node, far.core),
            address: far.address,
            outward: me < far.node,
            state: State::Down { retry_at: Mono(0) },
            far: mesh.add_far(),
            asked: Asked::default(),
            session: 0,
            item_bytes_max: 0,
            retry_millis: RETRY_MILLIS,
            late: VecDeque::new(),
            told: "",
        });
        Links { list: list.collect(), password, ..Links::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Links that are there.
    pub fn up_count(&self) -> usize {
        self.list.iter().filter(|link| matches!(link.state, State::Up { .. })).count()
    }
}

impl Core {
    /// Bytes of the longest key and value that go over links of a core with these buffers.
    pub(super) fn far_bytes_max(buffer_bytes_max: u64) -> usize {
        (buffer_bytes_max / ITEMS_OF_BUFFERS).min(ITEM_BYTES_MAX) as usize
    }

    fn link_place(&self, core: CoreId) -> usize {
        core.index() - usize::from(self.works.node.core_count())
    }

    /// Looks after links: new ones, and what is due by the clock. Before mail is read.
    pub(super) fn mind_links(&mut self, now: Now) {
        if self.links.is_empty() {
            return;
        }
        for wanted in std::mem::take(&mut self.works.wanted_links) {
            self.greeted(now, &wanted);
        }
        if std::mem::take(&mut self.links.unread) {
            for place in 0..self.links.list.len() {
                let link = &mut self.links.list[place];
                let caught_up = link.catch_up();
                let connection = link.state.connection();
                self.links.unread |= !caught_up;
                if let Some(id) = connection {
                    self.link_received(now, id);
                }
            }
        }
        if now.mono >= self.links.due {
            (0..self.links.list.len()).for_each(|place| self.mind_link(now, place));
            let due = self.links.list.iter().filter(|link| {
                // Who is connected to waits for that.
                link.outward || !matches!(link.state, State::Down { .. })
            });
            let latest = now.mono.plus_millis(BEAT_MILLIS);
            self.links.due = due.map(|link| link.state.due()).min().unwrap_or(latest).min(latest);
            self.due.links = Some(self.links.due);
        }
    }

    fn mind_link(&mut self, now: Now, place: usize) {
        let link = &mut self.links.list[place];
        match &mut link.state {
            State::Down { retry_at } if link.outward && now.mono >= *retry_at => {
                self.connect_link(now, place)
            }
            State::Connecting { until, stopping, .. } if now.mono >= *until && !*stopping => {
                *stopping = true;
                self.ring.stop_linking(place as u32);
            }
            State::Greeting { connection, until } if now.mono >= *until => {
                let id = *connection;
                self.kill(id);
            }
            State::Up { connection, heard, beat_at, .. } => {
                let id = *connection;
                if now.mono >= heard.plus_millis(DEAD_MILLIS) {
                    tracing::warn!(
                        node = link.place.0,
                        core = link.place.1,
                        "a link is silent and is closed"
                    );
                    self.kill(id);
                } else if now.mono >= *beat_at {
                    *beat_at = now.mono.plus_millis(BEAT_MILLIS);
                    if let Some(connection) = self.table.of(id) {
                        link::write_beat(connection.session.output());
                    }
                    self.send_output(id);
                }
            }
            _ => {}
        }
    }

    fn connect_link(&mut self, now: Now, place: usize) {
        let link = &mut self.links.list[place];
        let address = Box::new(SockAddr::from(link.address));
        let socket = Socket::new(Domain::for_address(link.address), Type::STREAM, Some(Protocol::TCP));
        let Ok(socket) = socket else {
            link.state = State::Down { retry_at: now.mono.plus_millis(RETRY_MILLIS_MAX) };
            return;
        };
        self.ring.connect_link(socket.as_raw_fd(), place as u32, &address);
        let until = now.mono.plus_millis(GREETING_MILLIS);
        link.state = State::Connecting { socket, _address: address, until, stopping: false };
    }

    /// A connection of ours stands, or does not.
    pub(super) fn link_connected(&mut self, now: Now, completion: &Completion) {
        let place = completion.id.place as usize;
        let Some(link) = self.links.list.get_mut(place) else { return };
        let retry_at = now.mono.plus_millis(link.retry_millis);
        let State::Connecting { socket, .. } = std::mem::replace(&mut link.state, State::Down { retry_at })
        else {
            return;
        };
        link.retry_millis = (link.retry_millis * 2).min(RETRY_MILLIS_MAX);
        self.links.due = now.mono;
        if completion.result < 0 {
            if link.is_news("nobody is there") {
                let error = std::io::Error::from_raw_os_error(-completion.result);
                tracing::warn!(node = link.place.0, core = link.place.1, address = %link.address, %error, "no link to another node");
            }
            return;
        }
        let Some(cluster) = self.works.node.cluster.clone() else { return };
        // Without it answers would wait for more to be sent with them.
        let _ = socket.set_tcp_nodelay(true);
        let client = Client {
            id: self.shared.next_client.fetch_add(1, Ordering::Relaxed) + 1,
            peer: link.address.to_string(),
            local: String::new(),
            since: now,
        };
        let session = Session::new(Arc::new(self.options.wire.clone()), client);
        let (core, to) = (link.core, link.place);
        let greeting = Greeting {
            checksum: cluster.checksum(),
            from: (cluster.node, self.works.me.0),
            incarnation: cluster.incarnation,
            to,
            wall: now.wall.0,
            item_bytes_max: self.works.far_bytes_max as u64,
            password: self.links.password.as_bytes(),
        };
        let id = self.table.insert(|id| Connection::new(id, socket, session, None, now.mono));
        let connection = self.table.of(id).expect("inserted above");
        connection.link = Some(core);
        connection.receiving = Receiving::On;
        self.ring.receive(connection.socket.as_raw_fd(), id);
        greeting.write(connection.session.output());
        self.links.open += 1;
        self.links.list[place].state =
            State::Greeting { connection: id, until: now.mono.plus_millis(GREETING_MILLIS) };
        self.send_output(id);
    }

    /// Somebody has connected and wants a link.
    fn greeted(&mut self, now: Now, wanted: &Wanted) {
        let id = wanted.connection;
        if self.table.of(id).is_none_or(|connection| connection.dying || connection.closing) {
            return;
        }
        let Some(cluster) = self.works.node.cluster.clone() else { return self.kill(id) };
        let Ok(greeting) = Greeting::read(&wanted.greeting) else { return self.kill(id) };
        let core =
            cluster.core_of(greeting.from.0, greeting.from.1).filter(|core| cluster.far(*core).is_some());
        let here = (cluster.node, self.works.me.0);
        let place = core.map(|core| self.link_place(core));
        let up = place.and_then(|place| match self.links.list[place].state {
            State::Up { incarnation, .. } => Some(incarnation),
            _ => None,
        });
        let refusal = if !self.knows(now, id, greeting.password) {
            Some(Refusal::Password)
        } else if greeting.checksum != cluster.checksum() {
            Some(Refusal::List)
        } else if greeting.to != here || place.is_none_or(|place| self.links.list[place].outward) {
            Some(Refusal::Place)
        } else if greeting.wall.abs_diff(now.wall.0) > SKEW_MILLIS_MAX {
            Some(Refusal::Clock)
        } else if up.is_some_and(|incarnation| incarnation > greeting.incarnation) {
            Some(Refusal::Past)
        } else {
            None
        };
        let (None, Some(core), Some(place)) = (refusal, core, place) else {
            let why = refusal.unwrap_or(Refusal::Place);
            if place.is_none_or(|place| self.links.list[place].is_news(why.text())) {
                let (node, core) = greeting.from;
                tracing::warn!(node, core, why = why.text(), "a link is refused");
            }
            if let Some(connection) = self.table.of(id) {
                link::write_linked(Err(why), connection.session.output());
                connection.closing = true;
                connection.consume(connection.waiting_bytes());
            }
            return self.settle(now, id);
        };
        if let Some(old) = self.links.list[place].state.connection() {
            self.kill(old);
        }
        let Some(connection) = self.table.of(id) else { return };
        connection.link = Some(core);
        connection.stage = Stage::Reading;
        // Nothing follows the greeting before it is answered.
        connection.consume(connection.waiting_bytes());
        connection.unfinished_since = None;
        // What gathers small packets would hold back the ends of batches.
        let _ = connection.socket.set_tcp_nodelay(true);
        let ours =
            Linked { incarnation: cluster.incarnation, item_bytes_max: self.works.far_bytes_max as u64 };
        link::write_linked(Ok(ours), connection.session.output());
        // It is no client any more.
        self.links.open += 1;
        self.works.engine.counters.connections -= 1;
        self.shared.clients.fetch_sub(1, Ordering::Relaxed);
        let Greeting { incarnation, item_bytes_max, .. } = greeting;
        self.link_stands(now, place, id, Linked { incarnation, item_bytes_max });
        self.send_output(id);
    }

    /// Whether somebody who wants a link has the password of nodes. Who has guessed wrongly often is not listened to for a while, as with
    /// the passwords of users.
    fn knows(&mut self, now: Now, id: ConnectionId, password: &[u8]) -> bool {
        let Some(connection) = self.table.of(id) else { return false };
        let source = connection.session.peer();
        let guesses = &mut self.works.guesses;
        if !guesses.allows(now.mono, source, NODES) {
            return false;
        }
        let right = same(password, self.links.password.as_bytes());
        if !right && guesses.wrong(now.mono, source, NODES) {
            tracing::warn!(
                source,
                "too many wrong passwords of nodes: those that follow are not looked at for a while"
            );
        }
        right
    }

    fn link_stands(&mut self, now: Now, place: usize, connection: ConnectionId, other: Linked) {
        let Linked { incarnation, item_bytes_max } = other;
        let link = &mut self.links.list[place];
        let theirs = usize::try_from(item_bytes_max).unwrap_or(usize::MAX);
        link.item_bytes_max = theirs.min(self.works.far_bytes_max);
        link.session = link.session.wrapping_add(1);
        let beat_at = now.mono.plus_millis(BEAT_MILLIS);
        link.state = State::Up { connection, incarnation, heard: now.mono, beat_at };
        (link.retry_millis, link.told) = (RETRY_MILLIS, "");
        tracing::info!(node = link.place.0, core = link.place.1, "linked to another node");
        let core = link.core;
        self.links.due = now.mono;
        self.works.engine.counters.links = self.links.up_count() as u64;
        self.works.link_stands(now, core, incarnation);
    }

    /// The connection of a link has ended.
    pub(super) fn link_lost(&mut self, now: Now, core: CoreId, id: ConnectionId) {
        let place = self.link_place(core);
        let link = &mut self.links.list[place];
        if link.state.connection() != Some(id) {
            return;
        }
        let retry_at = now.mono.plus_millis(link.retry_millis);
        let before = std::mem::replace(&mut link.state, State::Down { retry_at });
        self.links.due = now.mono;
        self.due.links = Some(now.mono);
        self.links.unread = true;
        let State::Up { incarnation, .. } = before else { return };
        tracing::warn!(node = link.place.0, core = link.place.1, "the link to another node is lost");
        let mut asked = std::mem::take(&mut link.asked);
        // A read that was not answered can be asked again; of a write nobody knows.
        let fault = |reads| if reads { Fault::Away } else { Fault::Origin };
        let lost = asked.take_all().map(|pending| (pending.address, fault(pending.reads)));
        link.give_up(&mut self.works.mesh, lost);
        link.catch_up();
        self.works.engine.counters.links_lost_total += 1;
        self.works.engine.counters.links = self.links.up_count() as u64;
        self.works.link_lost(now, core, incarnation);
    }

    /// Takes in what has come over a link, as far as it is whole and there is room for it.
    pub(super) fn link_received(&mut self, now: Now, id: ConnectionId) {
        let ahead = verbs::ahead_millis(self.works.node.started);
        loop {
            let Some(connection) = self.table.of(id) else { return };
            let Some(core) = connection.link.filter(|_| !connection.dying) else { return };
            let place = core.index() - usize::from(self.works.node.core_count());
            let link = &mut self.links.list[place];
            if link.state.connection() != Some(id) {
                return self.kill(id);
            }
            if link.far.from.slots() <= SLOTS_SPARE || !link.late.is_empty() {
                self.links.unread = true;
                return;
            }
            let input = &connection.input[connection.input_start..];
            let header = match Header::read(MAGIC_REQUEST, input) {
                Ok(Some(header)) if input.len() >= header.frame_len() => header,
                Ok(Some(header))
                    if header.frame_len() <= self.works.far_bytes_max * 2 + FRAME_SLACK_BYTES =>
                {
                    return;
                }
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => return self.kill(id),
            };
            let Ok(body) = body(&header, input) else {
                tracing::error!(
                    node = link.place.0,
                    core = link.place.1,
                    "a frame of a link has a wrong checksum"
                );
                return self.kill(id);
            };
            let mut stands = None;
            let understood = match (header.opcode, &mut link.state) {
                (_, State::Up { heard, .. }) => {
                    *heard = now.mono;
                    match header.opcode {
                        opcode::BEAT => true,
                        opcode::BATCH => {
                            let mut batch = self.works.mesh.blank();
                            let mut way = Way {
                                ahead,
                                session: link.session,
                                asked: &mut link.asked,
                                relays: RELAYED,
                                item_bytes_max: link.item_bytes_max,
                            };
                            let read = link::read_batch(body, &mut way, &mut batch);
                            // What came before the mistake is answered all the same: it is asked no more.
                            link.late.push_back(batch);
                            link.catch_up();
                            read.is_ok()
                        }
                        _ => false,
                    }
                }
                (opcode::LINKED, State::Greeting { .. }) => match link::read_linked(body) {
                    Ok(Ok(linked)) => {
                        stands = Some(linked);
                        true
                    }
                    Ok(Err(why)) => {
                        if link.is_news(why.text()) {
                            let (node, core) = link.place;
                            tracing::error!(node, core, why = why.text(), "another node refuses a link");
                        }
                        return self.kill(id);
                    }
                    Err(_) => false,
                },
                _ => false,
            };
            if !understood {
                tracing::error!(node = link.place.0, core = link.place.1, "a frame of a link makes no sense");
                return self.kill(id);
            }
            connection.consume(header.frame_len());
            connection.unfinished_since = None;
            if let Some(linked) = stands {
                self.link_stands(now, place, id, linked);
            }
        }
    }

    /// Writes what this turn has for cores of other nodes, behind the mesh's flush.
    pub(super) fn carry(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let ahead = verbs::ahead_millis(self.works.node.started);
        for place in 0..self.links.list.len() {
            let link = &mut self.links.list[place];
            let up = match link.state {
                State::Up { connection, .. } => Some(connection),
                _ => None,
            };
            let mut refused = Vec::new();
            let mut wrote = false;
            loop {
                let connection = up.and_then(|id| self.table.of(id));
                if let Some(connection) = &connection
                    && connection.session.output_bytes() > self.works.far_bytes_max
                {
                    // The other side takes its time; what is left waits in the ring, and that pushes back.
                    break;
                }
                let Ok(batch) = link.far.to.pop() else { break };
                match connection {
                    Some(connection) => {
                        let mut way = Way {
                            ahead,
                            session: link.session,
                            asked: &mut link.asked,
                            relays: RELAYED,
                            item_bytes_max: link.item_bytes_max,
                        };
                        link::write_batch(&batch, &mut way, &mut refused, connection.session.output());
                        wrote = true;
                    }
                    None => refused.extend(batch.requests().map(|(address, _)| (address, Fault::Away))),
                }
                self.works.mesh.recycle(batch);
            }
            if !refused.is_empty() {
                link.give_up(&mut self.works.mesh, refused.into_iter());
                self.links.unread |= !link.catch_up();
            }
            if let Some(id) = up.filter(|_| wrote) {
                self.send_output(id);
            }
        }
    }
}

/// What a frame may have beside the longest item: other requests that were there before it.
const FRAME_SLACK_BYTES: usize = 2 << 20;

/// Whether two passwords are the same; the time it takes does not say where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl super::works::Desk<'_> {
    /// See [`crate::wire::Backend::link`].
    pub(super) fn want_link(&mut self, greeting: &[u8]) -> bool {
        let room = self.works.wanted_links.len() < GREETINGS_MAX && greeting.len() <= LINK_BYTES_MAX;
        if room && self.works.node.cluster.is_some() {
            let wanted = Wanted { connection: self.connection, greeting: greeting.into() };
            self.works.wanted_links.push(wanted);
            return true;
        }
        false
    }
}
