//! A core's connections to origins: sockets on the same ring, driven as the pools say.
//!
//! ```text
//!   pool.spare_room --> engine.prefetch
//!   engine.poll_effect --> pool.ask --> pool.poll --> Connect | Send | Close --> ring
//!   completions --> pool.connected | received | closed --> pool.poll --> Tell --> engine.answered | failed
//! ```
//! Once a turn, behind the clients' requests and before their output is sent: so what an origin's answer completes leaves
//! in the same turn.

use super::Core;
use crate::clock::{Mono, Now};
use crate::control::OriginReport;
use crate::engine::{Effect, Waiter};
use crate::hash::slot_of;
use crate::ids::{ConnectionId, CoreId, ShardId};
use crate::io::resolve::Addresses;
use crate::io::ring::{Completion, Ring};
use crate::io::tls::Channel;
use crate::io::trust;
use crate::message::ReturnAddress;
use crate::origin::keyspace::{Keys, Keyspaces};
use crate::origin::pool::{Action, Cause, Line, Permits, Told};
use crate::origin::private::{self, PrivateLines};
use crate::origin::{Connector, Place, Reply, SSL_REQUEST, TLS_FOLLOWS, TLS_REFUSED, Target, Ticket};
use crate::request::{Named, Notice, Outcome, Request, Value, Verb};
use crate::store::shard_of;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An origin that all cores ask.
#[derive(Clone, Debug)]
pub struct OriginOptions {
    /// Its name in metrics.
    pub name: String,
    /// Where and what it is.
    pub target: Arc<Target>,
    /// Bounds of each core's pool.
    pub pool: crate::origin::pool::Options,
    /// Most connections of one core that are clients' own.
    pub private_lines_max: usize,
    /// What may be on the way, all cores.
    pub permits: Arc<Permits>,
    /// Its addresses.
    pub addresses: Arc<Addresses>,
    /// Whom to trust, where it is spoken to by TLS.
    pub tls: Option<OriginTls>,
}

/// TLS to an origin.
#[derive(Clone, Debug)]
pub struct OriginTls {
    /// Whom to trust, and our own certificate.
    pub config: Arc<rustls::ClientConfig>,
    /// The name that its certificate must be for.
    pub name: rustls::pki_types::ServerName<'static>,
    /// How it begins.
    pub opening: Opening,
}

/// How TLS begins on a connection to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With the connection.
    AtOnce,
    /// When the origin has said that it has it, as PostgreSQL is asked.
    Asked {
        /// Whether the connection is used in the clear if it has not.
        clear: bool,
    },
}

/// Origins and the keyspaces that have them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// In the order of their numbers.
    pub origins: Vec<OriginOptions>,
    /// Which keys are whose.
    pub keyspaces: Arc<Keyspaces>,
}

/// A socket to an origin.
///
/// Invariant: while `in_flight`, `sending` is neither changed nor dropped, and while `connecting` neither is `address`,
/// because the kernel reads them; `busy` says whether any operation is out.
struct Link {
    id: ConnectionId,
    origin: usize,
    line: Line,
    socket: Socket,
    /// While connecting.
    address: Option<Box<SockAddr>>,
    connecting: bool,
    receiving: bool,
    in_flight: bool,
    sending: Vec<u8>,
    sent: usize,
    /// What seals, where the origin is spoken to by TLS; and whether the pool knows that it does.
    channel: Option<Box<Channel>>,
    announced: bool,
    /// Asked whether there is TLS, and not answered.
    asked: bool,
    /// Given up; goes when the kernel is done with it.
    dying: bool,
}

impl Link {
    fn busy(&self) -> bool {
        self.connecting || self.receiving || self.in_flight
    }
}

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
}

/// A connection to an origin that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Generations are told apart by as many bits as a completion's tag has room for.
const GENERATION_MASK: u32 = (1 << crate::io::table::GENERATION_BITS) - 1;
/// Capacity that an empty sending buffer keeps.
const KEEP_BYTES: usize = 64 << 10;
/// Slow questions that are logged in a second, and bytes of their keys.
const SLOW_LINES_MAX: u32 = 20;
const SLOW_LINES_MILLIS: u64 = 1000;
const SLOW_KEY_BYTES: usize = 64;
/// Where answers go that nobody waits for.
const NOBODY: ReturnAddress =
    ReturnAddress { connection: ConnectionId { place: u32::MAX, generation: 0 }, ticket: 0 };
/// From here on a number of a pool is that of an origin whose private lines are meant.
const PRIVATE: usize = 1 << 20;
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

    /// A client has gone; says whether anything is to be done because of that.
    pub(super) fn leave(&mut self, client: ConnectionId) -> bool {
        let mut any = false;
        for private in self.private.iter_mut().flatten().filter(|private| !private.is_empty()) {
            any |= private.leave(client);
        }
        any
    }

    fn is_private(pool: usize) -> bool {
        pool >= PRIVATE
    }

    /// The private lines that a number of a pool means.
    fn private_of(&mut self, pool: usize) -> &mut PrivateLines {
        self.private[pool - PRIVATE].as_mut().expect("only origins that have private lines are named so")
    }

    /// The origin of a pool.
    fn origin_of(&self, pool: usize) -> usize {
        if Self::is_private(pool) { pool - PRIVATE } else { self.origin_of[pool] }
    }

    fn tell_connected(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => self.private_of(pool).connected(now, line),
            false => self.pools[pool].connected(now, line),
        }
    }

    /// Private lines ask nothing of a certificate beyond its being the right one: that PostgreSQL's password is bound to it is
    /// the pool's affair.
    fn tell_proven(&mut self, pool: usize, line: Line, certificate: &[u8]) {
        if !Self::is_private(pool) {
            self.pools[pool].proven(line, certificate);
        }
    }

    fn tell_received(&mut self, now: Mono, pool: usize, line: Line, bytes: &[u8]) {
        match Self::is_private(pool) {
            true => {
                self.private_of(pool).received(now, line, bytes);
                self.mind_astray(now, pool);
            }
            false => self.pools[pool].received(now, line, bytes),
        }
    }

    fn tell_closed(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => {
                self.private_of(pool).closed(line);
                self.mind_astray(now, pool);
            }
            false => self.pools[pool].closed(now, line),
        }
    }

    fn tell_refused(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => self.tell_closed(now, pool, line),
            false => self.pools[pool].refused(now, line),
        }
    }

    /// Has the nodes of a cluster learned again when private lines led to a wrong one, or to one that is gone.
    fn mind_astray(&mut self, now: Mono, pool: usize) {
        if self.private_of(pool).take_astray() {
            let origin = self.origin_of(pool);
            self.pools[origin].learn_soon(now);
        }
    }

    /// The pool with which what is noted of a number is kept.
    fn pool_of(&self, pool: usize) -> usize {
        if Self::is_private(pool) { self.origin_of(pool) } else { pool }
    }

    /// Where a connection is to lead; `None`: where the origin's URL does.
    fn place(&self, pool: usize, line: Line) -> Option<&Place> {
        match Self::is_private(pool) {
            true => self.private[pool - PRIVATE].as_ref()?.place(line),
            false => self.pools[pool].place(line),
        }
    }

    /// The keyspaces.
    pub(super) fn rules(&self) -> Arc<Keyspaces> {
        self.sources.keyspaces.clone()
    }

    fn of(&mut self, id: ConnectionId) -> Option<&mut Link> {
        let (generation, link) = self.places.get_mut(id.place as usize)?;
        if *generation == id.generation { link.as_deref_mut() } else { None }
    }

    fn by_line(&mut self, origin: usize, line: Line) -> Option<&mut Link> {
        if Self::is_private(origin) {
            let id = self.private_of(origin).socket(line)?;
            return self.of(id).filter(|link| !link.dying);
        }
        let links = self.places.iter_mut().filter_map(|(_, link)| link.as_deref_mut());
        links.into_iter().find(|link| link.origin == origin && link.line == line && !link.dying)
    }

    /// Makes a socket and has it connected; `None` if it cannot even be made.
    fn connect(&mut self, ring: &mut Ring, origin: usize, line: Line) -> Option<()> {
        let addresses = &self.sources.origins[self.origin_of(origin)].addresses;
        let place = self.place(origin, line);
        let address = match place.and_then(|place| Some(SocketAddr::new(place.ip?, place.port))) {
            Some(address) => address,
            None => {
                let first = addresses.pick(line.0)?;
                SocketAddr::new(first.ip(), place.map_or(first.port(), |place| place.port))
            }
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).ok()?;
        socket.set_tcp_nodelay(true).ok()?;
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE)).ok()?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let id = ConnectionId { place, generation: self.places[place as usize].0 };
        let address = Box::new(SockAddr::from(address));
        ring.connect(socket.as_raw_fd(), id, &address);
        self.places[place as usize].1 = Some(Box::new(Link {
            id,
            origin,
            line,
            socket,
            address: Some(address),
            connecting: true,
            receiving: false,
            in_flight: false,
            sending: Vec::new(),
            sent: 0,
            channel: None,
            announced: false,
            asked: false,
            dying: false,
        }));
        if Self::is_private(origin) {
            self.private_of(origin).bind(line, id);
        }
        Some(())
    }

    /// Gives a link up; it goes when nothing of it is out any more.
    fn drop_link(&mut self, ring: &mut Ring, id: ConnectionId) {
        let Some(link) = self.of(id) else { return };
        if !link.dying {
            link.dying = true;
            if link.connecting {
                ring.stop_connecting(id);
            } else if link.busy() {
                // Completes what is armed. A socket that is closed already has nothing to shut down.
                let _ = link.socket.shutdown(std::net::Shutdown::Both);
            }
        }
        if !link.busy() {
            let (generation, link) = &mut self.places[id.place as usize];
            *generation = (*generation + 1) & GENERATION_MASK;
            *link = None;
            self.free.push(id.place);
        }
    }

    /// Whether the kernel may still read or write memory of a link.
    pub(super) fn busy(&self) -> bool {
        self.places.iter().filter_map(|(_, link)| link.as_deref()).any(Link::busy)
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

    fn send_to_origins(&mut self) {
        for id in std::mem::take(&mut self.origins.dirty) {
            let Some(link) = self.origins.of(id) else { continue };
            if link.dying || link.connecting || link.in_flight {
                continue;
            }
            let (origin, line) = (link.origin, link.line);
            let output = match Origins::is_private(origin) {
                true => self.origins.private_of(origin).output(line),
                false => self.origins.pools[origin].output(line),
            };
            let Some(output) = output.map(std::mem::take) else { continue };
            let link = self.origins.of(id).expect("looked at above");
            link.sent = 0;
            match &mut link.channel {
                None => link.sending = output,
                Some(channel) => {
                    link.sending = std::mem::take(channel.outgoing());
                    // A pool says nothing before it knows of the connection. Keys that are used up end it: the origin sees
                    // no more of us, and the deadline of what was asked brings that to light.
                    if !output.is_empty() && channel.seal(&output, &mut link.sending).is_err() {
                        link.sending.clear();
                    }
                }
            }
            link.in_flight = !link.sending.is_empty();
            if link.in_flight {
                self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending);
            }
        }
        for id in std::mem::take(&mut self.origins.rearm) {
            let Some(link) = self.origins.of(id) else { continue };
            if !link.dying && !link.receiving {
                link.receiving = true;
                self.ring.receive_from_origin(link.socket.as_raw_fd(), id);
            }
        }
    }

    pub(super) fn origin_connected(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else { return };
        (link.connecting, link.address) = (false, None);
        let (origin, line) = (link.origin, link.line);
        if link.dying {
            return self.origins.drop_link(&mut self.ring, id);
        }
        if completion.result < 0 {
            self.origins.drop_link(&mut self.ring, id);
            self.origins.tell_closed(now.mono, origin, line);
            return;
        }
        link.receiving = true;
        self.ring.receive_from_origin(link.socket.as_raw_fd(), id);
        let tls = self.origins.sources.origins[self.origins.origin_of(origin)].tls.clone();
        match tls {
            None => self.origins.tell_connected(now.mono, origin, line),
            Some(tls) if tls.opening == Opening::AtOnce => self.begin_tls(now, id, tls),
            Some(_) => {
                let link = self.origins.of(id).expect("looked at above");
                (link.asked, link.in_flight) = (true, true);
                link.sending = SSL_REQUEST.to_vec();
                self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending);
            }
        }
    }

    fn begin_tls(&mut self, now: Now, id: ConnectionId, tls: OriginTls) {
        let link = self.origins.of(id).expect("callers look");
        let (origin, line) = (link.origin, link.line);
        let own_name = self.origins.place(origin, line).and_then(|place| place.name.clone());
        let own_name =
            own_name.and_then(|name| rustls::pki_types::ServerName::try_from(name.to_string()).ok());
        match Channel::client(tls.config, own_name.unwrap_or(tls.name)) {
            Ok(channel) => {
                let link = self.origins.of(id).expect("looked at above");
                link.channel = Some(Box::new(channel));
                // Its first words are outgoing.
                self.origins.dirty.push(id);
            }
            Err(why) => self.refuse_origin(now, id, why.to_string()),
        }
    }

    /// An origin has answered whether it has TLS.
    fn hear_opening(&mut self, now: Now, id: ConnectionId, buffer: u16, len: usize) {
        let link = self.origins.of(id).expect("callers look");
        link.asked = false;
        let (origin, line) = (link.origin, link.line);
        let tls = self.origins.sources.origins[self.origins.origin_of(origin)].tls.clone();
        let tls = tls.expect("only who has TLS asks");
        let clear = tls.opening == Opening::Asked { clear: true };
        match self.buffers.piece(buffer, len) {
            [TLS_FOLLOWS] => self.begin_tls(now, id, tls),
            [TLS_REFUSED] if clear => self.origins.tell_connected(now.mono, origin, line),
            [TLS_REFUSED] => {
                let why = "the origin has no TLS: turn `ssl` on there, or say sslmode=disable in its url";
                self.refuse_origin(now, id, why.into());
            }
            // What stands behind the answer nobody has sealed: it may be anybody's.
            [TLS_FOLLOWS | TLS_REFUSED, ..] => {
                self.refuse_origin(now, id, "more than an answer came before TLS began".into());
            }
            _ => self.refuse_origin(now, id, "what answered is no PostgreSQL: is the port right?".into()),
        }
    }

    /// Takes in bytes of an origin: sealed ones are opened, and when the handshake is done the pool hears of the connection.
    fn hear_origin(&mut self, now: Now, id: ConnectionId, buffer: u16, len: usize) {
        let link = self.origins.of(id).expect("callers look");
        if link.asked {
            return self.hear_opening(now, id, buffer, len);
        }
        let (origin, line) = (link.origin, link.line);
        let Some(mut channel) = link.channel.take() else {
            return self.origins.tell_received(now.mono, origin, line, self.buffers.piece(buffer, len));
        };
        let mut plain = Vec::new();
        let opened =
            channel.open(self.buffers.piece_mut(buffer, len), |bytes| plain.extend_from_slice(bytes));
        let (ready, says, over) = (channel.ready(), channel.has_outgoing(), channel.peer_ended());
        let link = self.origins.of(id).expect("looked at above");
        let announces = ready && !link.announced;
        if let (true, Some(certificate)) = (announces, channel.peer_certificate()) {
            self.origins.tell_proven(origin, line, certificate);
        }
        let link = self.origins.of(id).expect("looked at above");
        link.channel = Some(channel);
        link.announced |= ready;
        if says {
            self.origins.dirty.push(id);
        }
        if announces {
            self.origins.tell_connected(now.mono, origin, line);
            let pool = self.origins.pool_of(origin);
            self.origins.last_tls[pool] = None;
        }
        if !plain.is_empty() {
            self.origins.tell_received(now.mono, origin, line, &plain);
        }
        match opened {
            Err(why) => self.refuse_origin(now, id, trust::reason(&why)),
            Ok(()) if over => {
                self.origins.tell_closed(now.mono, origin, line);
                self.origins.drop_link(&mut self.ring, id);
            }
            Ok(()) => {}
        }
    }

    /// Gives a connection up on which TLS did not come about, or broke.
    fn refuse_origin(&mut self, now: Now, id: ConnectionId, why: String) {
        let Some(link) = self.origins.of(id) else { return };
        let (origin, line) = (link.origin, link.line);
        // That of a private line is told with those of the pool that asks.
        let pool = self.origins.pool_of(origin);
        // Once for each reason: what follows from it is no news.
        if self.origins.last_tls[pool].as_ref() != Some(&why) {
            let name = &self.origins.sources.origins[self.origins.origin_of(origin)].name;
            tracing::warn!(origin = name, why, "TLS with an origin does not come about");
            self.origins.last_tls[pool] = Some(why);
        }
        self.origins.tell_refused(now.mono, origin, line);
        self.origins.drop_link(&mut self.ring, id);
    }

    pub(super) fn origin_received(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else {
            if let Some(buffer) = completion.buffer() {
                self.buffers.give_back(buffer);
            }
            return;
        };
        link.receiving = completion.more();
        let (origin, line, dying) = (link.origin, link.line, link.dying);
        if completion.result > 0 {
            let buffer = completion.buffer().expect("a receive that brought bytes names its buffer");
            if !dying {
                self.hear_origin(now, id, buffer, completion.result as usize);
            }
            self.buffers.give_back(buffer);
            if !completion.more() {
                self.origins.rearm.push(id);
            }
        } else if -completion.result == libc::ENOBUFS && !dying {
            self.works.engine.counters.buffers_exhausted_total += 1;
            self.origins.rearm.push(id);
        } else if !dying {
            self.origins.tell_closed(now.mono, origin, line);
            self.origins.drop_link(&mut self.ring, id);
        }
        if dying {
            self.origins.drop_link(&mut self.ring, id);
        }
    }

    pub(super) fn origin_sent(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else { return };
        let (origin, line) = (link.origin, link.line);
        if completion.result > 0 {
            link.sent += completion.result as usize;
            if link.sent < link.sending.len() && !link.dying {
                return self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending[link.sent..]);
            }
        }
        link.in_flight = false;
        link.sending.clear();
        link.sending.shrink_to(KEEP_BYTES);
        if link.dying {
            return self.origins.drop_link(&mut self.ring, id);
        }
        if completion.result <= 0 {
            self.origins.tell_closed(now.mono, origin, line);
            return self.origins.drop_link(&mut self.ring, id);
        }
        // What was said meanwhile follows.
        self.origins.dirty.push(id);
    }
}
