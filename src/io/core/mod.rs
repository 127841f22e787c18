//! A core: one pinned executor, one ring, one engine, and the turn that drives them.
//!
//! A turn:
//! 1. enter the ring: submit what the last turn queued, take what completed (sleeping first if there was nothing to do);
//! 2. completions: accept, receive (parse and execute straight from the receive buffer), send;
//! 3. mail of other cores: their requests, and outcomes of ours;
//! 4. connections that had more to do than one turn allows;
//! 5. one send per connection that has output, one batch per core that has mail;
//! 6. what is due by the clock.
//!
//! The clock is read once a turn. Nothing in 2 to 5 enters the kernel; it only queues for the next turn's 1.
//!
//! A file per kind of input: `accept`, `receive` and `send` for completions, `mail` for other cores, `timed` for the clock,
//! `links` for the cores of other nodes, `errands` for the admin pages, `ends` for what goes; `moving` for shards that move, `routes` for requests that meet them,
//! `calls` for what cores want of each other meanwhile and `records` for whose they are; `rest` is the waiting, `works` what sessions see, `guests` the other task queues, `start` the process
//! around the cores.

mod accept;
mod calls;
mod ends;
mod errands;
mod guests;
mod limit;
mod links;
mod mail;
mod moving;
mod notices;
mod origins;
mod receive;
mod records;
mod rest;
mod routes;
mod send;
mod start;
mod timed;
mod usage;
mod works;

pub use guests::{Guests, Queue};
pub use limit::{Limits, Wanted};
pub use origins::{Opening, OriginOptions, OriginTls, Sources};
pub use start::{Listeners, Listening, Running, Shared, return_large_buffers, start};

use super::buffers::Buffers;
use super::idle::{BusyPoll, Idle};
use super::listen;
use super::mesh::Mesh;
use super::ring::{Completion, Kind, Ring};
use super::table::Table;
use super::time;
use super::tls;
use crate::clock::{Mono, Now};
use crate::control::keeper::Keeper;
use crate::control::{CoreReport, turn_histogram};
use crate::engine::{self, Engine};
use crate::heat::Heat;
use crate::ids::{ConnectionId, CoreId};
use crate::store::APPROACH_MAX;
use crate::topology::Node;
use crate::wire;
use crate::wire::users::Users;
use glommio::{Latency, Shares};
use hdrhistogram::Histogram;
use links::Links;
use mail::Waiting;
use moving::FarState;
use origins::Origins;
use routes::Routes;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::FromRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use timed::{Due, SWEEP_MILLIS};
use usage::Usage;
use works::Works;

/// Bounds of a core and what it is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's number of the CPU to run on.
    pub cpu: usize,
    /// The engine's.
    pub engine: engine::Options,
    /// The sessions'.
    pub wire: wire::Options,
    /// Whether the name in a client's certificate is its user's.
    pub certificates_name_users: bool,
    /// How long to look before sleeping.
    pub busy_poll: BusyPoll,
    /// Receive buffers, a power of two.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: usize,
    /// Bytes of one connection's output beyond which it is closed.
    pub output_hard_bytes: usize,
    /// Bytes that all buffers of this core's connections may hold; beyond, the largest is closed.
    pub buffer_bytes_max: u64,
    /// What was configured of the limits that follow from the memory.
    pub wanted: Wanted,
    /// Milliseconds that a command may take to arrive whole (long ones get more: a second per 64 KiB).
    pub unfinished_millis_max: u64,
    /// Milliseconds that a client may take to authenticate.
    pub unauthenticated_millis_max: u64,
    /// Milliseconds for draining at the end.
    pub drain_millis_max: u64,
    /// Origins and keyspaces.
    pub sources: Arc<Sources>,
    /// What the nodes of a cluster know each other by, beside their list; empty: nothing.
    pub link_password: Arc<str>,
    /// Who keeps the records of a cluster's shards: at its first core only.
    pub keeper: Option<Keeper>,
}

struct Listener {
    socket: Option<Socket>,
    wire: Arc<wire::Options>,
    /// What its connections begin with, if they are sealed.
    tls: Option<tls::Reader>,
    accepting: bool,
}

struct Core {
    options: Options,
    works: Works,
    table: Table,
    origins: Origins,
    links: Links,
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
    guests: Guests,
    idle: Idle,
    /// Completions, those first that the turn before had no room for.
    completions: Vec<Completion>,
    /// Bytes of replies that this turn has begun to send.
    turn_output_bytes: usize,
    /// When other cores were last asked for memory that their clients read, and what of such questions was seen here.
    reclaimed: Mono,
    withheld_round: u64,
    dirty: Vec<ConnectionId>,
    /// Connections whose output waits for what follows it, and until when at the latest.
    held: Vec<ConnectionId>,
    held_until: Mono,
    runnable: Vec<ConnectionId>,
    /// Requests of other cores that wait, in order, for room for what they bring.
    waiting: VecDeque<Waiting>,
    /// Whether a long frame of a shard that comes here was taken in this turn.
    took_frame: bool,
    /// Who may do what, as this core knows it.
    users: Arc<Users>,
    /// How often users were read again.
    users_round: u64,
    /// How often what is recorded changed.
    recording_round: u64,
    /// Connections whose user was removed: to be closed at the end of the turn.
    orphans: Vec<ConnectionId>,
    /// Connections whose receiving ended for want of buffers.
    rearm: Vec<ConnectionId>,
    /// Long commands that wait until those before them have all come, and whose turn it is.
    held_back: Vec<ConnectionId>,
    long_turn: Option<(ConnectionId, usize)>,
    retry: Vec<ConnectionId>,
    buffer_bytes: u64,
    /// What of that the store knows of and leaves room for.
    lent_bytes: u64,
    due: Due,
    draining_until: Option<Mono>,
    /// The limit of descriptors that the armed accepts were made under.
    descriptors_max: u64,
    /// Nanoseconds of turns that did something, since the last report; one turn in eight is measured.
    turns: Histogram<u64>,
    report: Box<dyn Fn(CoreReport)>,
    bell: i32,
    event: Event,
    // Dropped after everything that the kernel may still refer to was cancelled: the ring first, then its buffers.
    ring: Ring,
    buffers: Buffers,
}

/// The eventfd by which completions of our ring reach the executor while it has guests.
struct Event {
    file: glommio::io::BufferedFile,
}

/// Turns between two yields to the executor while guests are there.
const TURNS_PER_YIELD: u64 = 8;
/// Times the ring is entered once more at the end.
const FAREWELL_TURNS: usize = 3;
/// Bytes of replies after which a turn takes no more completions and goes on with no more connections, and begins to send no
/// more long replies: about what a second-level cache holds beside the rest.
const TURN_OUTPUT_BYTES_MAX: usize = 256 << 10;
/// One turn in so many is measured.
const TURNS_PER_MEASUREMENT: u64 = 8;

impl Core {
    #[expect(
        clippy::too_many_arguments,
        reason = "made in one place, from parts that have nothing else in common"
    )]
    fn new(
        me: CoreId,
        options: Options,
        listeners: Listeners,
        mut mesh: Mesh,
        bell: i32,
        node: Arc<Node>,
        shared: Arc<Shared>,
        report: Box<dyn Fn(CoreReport)>,
    ) -> io::Result<Core> {
        let mut ring = Ring::new()?;
        let buffers = Buffers::new(ring.inner(), options.receive_buffers, options.receive_buffer_bytes)?;
        // SAFETY: eventfd takes no memory of ours; the descriptor is new and owned by the file made of it.
        let event = unsafe {
            let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            ring.register_eventfd(descriptor)?;
            Event { file: glommio::io::BufferedFile::from_raw_fd(descriptor) }
        };
        mesh.open(&ring);
        mesh.set_long_bytes_max(limit::hopping_bytes(options.buffer_bytes_max));
        ring.listen_to_bell(bell);
        let listeners = listeners
            .into_iter()
            .map(|Listening { socket, protocol, own, tls }| Listener {
                socket: Some(socket),
                wire: Arc::new(wire::Options {
                    protocol,
                    only_core: own.then_some(me),
                    ..options.wire.clone()
                }),
                tls: tls.map(|shelf| shelf.reader()),
                accepting: false,
            })
            .collect();
        let users = options.wire.users.clone();
        let now = time::now();
        let mut engine_options = options.engine;
        if options.sources.origins.is_empty() {
            // A shard that comes here comes in the order of its core's hashes. Were it the order of ours as well, the first leaves of its
            // table would be full before the others had any item. Prefetching wants keys to have one number on all cores, and
            // where there are origins no shard moves.
            let secret = &mut engine_options.store.hash_secret[0];
            *secret ^= u64::from(me.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        let mut engine = Engine::new(engine_options);
        engine.counters.connections = 0;
        engine.set_shards(me, &node.map);
        let sources = options.sources.clone();
        if !sources.keyspaces.list().is_empty() {
            engine.set_keyspaces(sources.keyspaces.clone());
        }
        let links = Links::new(&node, &mut mesh, options.link_password.clone());
        let mut works = Works {
            me,
            engine,
            mesh,
            alone: node.all_core_count() == 1,
            far: vec![FarState::default(); usize::from(node.all_core_count() - node.core_count())],
            far_bytes_max: Core::far_bytes_max(options.buffer_bytes_max),
            wanted_links: Vec::new(),
            keeper: options.keeper.clone(),
            routes: Routes::new(&node.map),
            attentive: false,
            moving: None,
            node: Rc::new(Node::clone(&node)),
            usage: Usage::new(shared.clone()),
            heat: Heat::default(),
            certificates_name_users: options.certificates_name_users,
            calls: Box::new([0; 256]),
            chores: Vec::new(),
            scratch: Vec::new(),
            monitors: Vec::new(),
            lines_left: 0,
            lines_until: Mono(0),
            lines: Vec::new(),
            query_bytes_max: options.wire.query_buffer_bytes_max,
            spare_buffers: Vec::new(),
            tight: false,
            guesses: wire::guesses::Guesses::default(),
            journal: wire::journal::Journal::default(),
            watchers: wire::events::Watchers::new(me.0, node.core_count()),
            taping: None,
        };
        if node.cluster.is_some() {
            works.join();
        }
        let due = Due {
            engine: now.mono,
            sweep: now.mono.plus_millis(SWEEP_MILLIS),
            retry: None,
            accept: Some(now.mono),
            origins: None,
            moves: None,
            links: (!links.is_empty()).then_some(now.mono),
            armed: None,
        };
        Ok(Core {
            idle: Idle::new(options.busy_poll),
            options,
            works,
            table: Table::default(),
            origins: Origins::new(me, sources),
            links,
            listeners,
            shared,
            guests: Guests::new(),
            completions: Vec::new(),
            turn_output_bytes: 0,
            reclaimed: Mono(0),
            withheld_round: 0,
            dirty: Vec::new(),
            held: Vec::new(),
            held_until: Mono(0),
            runnable: Vec::new(),
            waiting: VecDeque::new(),
            took_frame: false,
            users,
            users_round: 0,
            recording_round: 0,
            orphans: Vec::new(),
            rearm: Vec::new(),
            held_back: Vec::new(),
            long_turn: None,
            retry: Vec::new(),
            buffer_bytes: 0,
            lent_bytes: 0,
            due,
            draining_until: None,
            descriptors_max: listen::descriptors_max(),
            turns: turn_histogram(),
            report,
            bell,
            event,
            ring,
            buffers,
        })
    }

    /// Makes the executor's queues and runs turns in `serve` until drained.
    async fn serve(self) -> io::Result<()> {
        let executor = glommio::executor();
        let serve = executor.create_task_queue(
            Shares::Static(1000),
            Latency::Matters(Duration::from_micros(500)),
            "serve",
        );

        glommio::spawn_local_into(self.run(), serve)
            .map_err(|error| io::Error::other(error.to_string()))?
            .await
    }

    async fn run(mut self) -> io::Result<()> {
        let mut count = 0u64;
        loop {
            // Sleeping submits what is queued and does not sleep when that completes at once, so a core alone need not enter
            // the ring twice. With others it would be woken for nothing by those who saw it asleep.
            let queued = self.works.mesh.has_peers() && self.ring.has_queued();
            let at_work = !self.runnable.is_empty()
                || !self.dirty.is_empty()
                || !self.rearm.is_empty()
                || !self.waiting.is_empty()
                || !self.completions.is_empty()
                || self.links.unread
                || self.works.mesh.has_backlog();
            if queued || at_work || self.ring.has_news() {
                self.ring.enter(false)?;
            } else {
                self.rest().await?;
            }
            let now = time::now();
            let busy = self.turn(now);
            count += u64::from(busy);
            if busy && count.is_multiple_of(TURNS_PER_MEASUREMENT) {
                self.turns.saturating_record(time::mono().0 - now.mono.0);
            }
            if self.guests.any() && count.is_multiple_of(TURNS_PER_YIELD) {
                glommio::executor().yield_task_queue_now().await;
            }
            if self.drained(now) {
                break;
            }
        }
        // What the last turn queued, the end of accepting above all, is done before the ring goes: what it still holds then
        // the kernel gives up only some time after the process has ended.
        let mut completions = std::mem::take(&mut self.completions);
        for _ in 0..FAREWELL_TURNS {
            self.ring.enter(false)?;
            self.ring.take(&mut completions);
        }
        if self.table.len() > 0 || self.origins.busy() || !self.links.is_empty() {
            // The kernel may still read their sending buffers and write receive buffers; the process is about to end.
            std::mem::forget(self.table);
            std::mem::forget(self.origins);
            std::mem::forget(self.links);
            std::mem::forget(self.buffers);
        }
        Ok(())
    }

    /// One turn; answers whether anything happened.
    fn turn(&mut self, now: Now) -> bool {
        self.works.engine.counters.turns_total += 1;
        self.works.engine.begin_turn(self.works.tight);
        let mut completions = std::mem::take(&mut self.completions);
        let left_over = completions.len();
        self.ring.take(&mut completions);
        let mut busy = !completions.is_empty();
        let received = busy;
        // First what was sent: it frees the buffers that the replies to come are written into.
        for completion in completions[left_over..].iter().filter(|completion| completion.kind == Kind::Send) {
            self.sent(now, completion);
        }
        self.turn_output_bytes = 0;
        self.took_frame = false;
        let mut done = 0;
        for (i, completion) in completions.iter().enumerate() {
            // Long replies leave while they are in the processor's cache; who comes behind them has the next turn.
            if self.turn_output_bytes >= TURN_OUTPUT_BYTES_MAX {
                break;
            }
            if i.is_multiple_of(APPROACH_MAX) {
                self.look_ahead(&completions[i..]);
            }
            done += 1;
            match completion.kind {
                Kind::Receive => self.received(now, completion),
                Kind::Send => {}
                Kind::Accept => self.accepted(now, completion),
                Kind::OriginReceive => self.origin_received(now, completion),
                Kind::OriginSend => self.origin_sent(now, completion),
                Kind::OriginConnect => self.origin_connected(now, completion),
                Kind::LinkConnect => self.link_connected(now, completion),
                Kind::Timer => self.due.armed = None,
                Kind::Bell => {
                    self.ring.listen_to_bell(self.bell);
                    self.take_keyspaces();
                    self.take_users();
                    self.take_errands(now);
                    self.take_kept(now);
                    self.look_for_slow_readers();
                }
                Kind::Wake | Kind::Ignore => {}
            }
        }
        completions.drain(..done);
        completions.retain(|completion| completion.kind != Kind::Send);
        self.completions = completions;
        let commands = self.works.engine.counters.commands_total;
        self.mind_links(now);
        busy |= self.read_mail(now);
        busy |= self.serve_runnable(now);
        if self.works.moving.is_some() {
            let served = received || self.works.engine.counters.commands_total != commands;
            self.drive_moves(now, served);
        }
        self.mind_origins(now);
        self.spread_hints();
        if self.works.engine.has_changes() || !self.works.lines.is_empty() || self.works.watchers.any() {
            self.tell_observers(now);
        }
        if self.works.taping.as_ref().is_some_and(|taping| taping.recorder.is_due()) {
            self.give_rows(now);
        }
        self.do_chores(now);
        for id in std::mem::take(&mut self.orphans) {
            self.settle(now, id);
        }
        self.rearm_receivers(now);
        self.send_outputs(now);
        let handed = self.works.mesh.flush(&mut self.ring);
        self.works.engine.counters.hop_batches_total += handed;
        self.carry();
        // A full ring empties without telling us, so while a batch waits the core keeps turning.
        busy |= self.works.mesh.has_backlog();
        if now.mono >= self.due.next() {
            self.look_at_clock(now);
            if self.works.engine.has_changes() {
                // Items that have ended; after this the core may sleep.
                self.tell_observers(now);
                self.do_chores(now);
                self.send_outputs(now);
                self.works.engine.counters.hop_batches_total += self.works.mesh.flush(&mut self.ring);
                self.carry();
            }
        }
        self.follow_limit(now);
        if self.shared.draining.load(Ordering::Relaxed) && self.draining_until.is_none() {
            self.begin_drain(now);
        }
        busy
    }
}
