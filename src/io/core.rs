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

use super::buffers::Buffers;
use super::connection::{Connection, Receiving, Stage};
use super::idle::{BusyPoll, Idle};
use super::listen;
use super::mesh::{self, Mesh};
use super::ring::{Completion, Kind, Ring};
use super::table::Table;
use super::time;
use crate::clock::{Mono, Now};
use crate::control::{CoreReport, turn_histogram};
use crate::engine::{self, Engine};
use crate::hash::slot_of;
use crate::ids::{ConnectionId, CoreId};
use crate::message::ReturnAddress;
use crate::metrics::Counters;
use crate::request::{Answer, Outcome, Request, Value, Verb};
use crate::topology::Node;
use crate::wire::{self, Backend, Client, Next, Protocol, Reason, Session, Target};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use hdrhistogram::Histogram;
use socket2::Socket;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of a core and what it is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's number of the CPU to run on.
    pub cpu: usize,
    /// The engine's.
    pub engine: engine::Options,
    /// The sessions'.
    pub wire: wire::Options,
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
    /// Milliseconds that a command may take to arrive whole (long ones get more: a second per 64 KiB).
    pub unfinished_millis_max: u64,
    /// Milliseconds that a client may take to authenticate.
    pub unauthenticated_millis_max: u64,
    /// Milliseconds for draining at the end.
    pub drain_millis_max: u64,
}

/// What all cores of a process share; touched when connections come and go, and at the end.
#[derive(Debug)]
pub struct Shared {
    clients: AtomicU64,
    clients_max: AtomicU64,
    next_client: AtomicU64,
    draining: AtomicBool,
    at_once: AtomicBool,
    bells: std::sync::OnceLock<Vec<OwnedFd>>,
}

impl Shared {
    /// For cores that take at most so many connections together.
    pub fn new(clients_max: u64) -> Shared {
        Shared {
            clients: AtomicU64::new(0),
            clients_max: AtomicU64::new(clients_max),
            next_client: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            bells: std::sync::OnceLock::new(),
        }
    }

    /// Changes how many connections all cores take together; those there are stay.
    pub fn set_clients_max(&self, clients: u64) {
        self.clients_max.store(clients, Ordering::Relaxed);
    }

    /// Asks all cores to finish: stop accepting, answer what was asked, close.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.ring_bells();
    }

    /// Asks all cores to stop where they are.
    pub fn stop(&self) {
        self.at_once.store(true, Ordering::Release);
        self.drain();
    }

    fn ring_bells(&self) {
        for bell in self.bells.get().into_iter().flatten() {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes, as an eventfd wants.
            let written = unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            debug_assert!(written == 8, "an eventfd takes a 1 unless it holds u64::MAX - 1");
        }
    }
}

/// The cores while they run.
pub struct Running {
    threads: Vec<glommio::ExecutorJoinHandle<io::Result<()>>>,
}

impl Running {
    /// Waits until all cores have ended.
    ///
    /// # Errors
    /// The first core's that failed.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended =
                thread.join().map_err(|error| io::Error::other(error.to_string())).and_then(|core| core);
            if result.is_ok() {
                result = ended;
            }
        }
        result
    }
}

/// A socket that a core accepts connections on.
#[derive(Debug)]
pub struct Listening {
    /// Bound and listening.
    pub socket: Socket,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Whether it is the core's own port, by which cluster clients see the core as a node.
    pub own: bool,
}

/// A core's listeners.
pub type Listeners = Vec<Listening>;

/// Starts a core for each of `cores`, and returns when all of them serve. `visit` is called on each core's thread before
/// its first turn and may leave guests there.
///
/// # Errors
/// What kept a core from starting: the executor, the ring, memory for buffers.
pub fn start(
    cores: Vec<(Options, Listeners)>,
    node: Arc<Node>,
    shared: Arc<Shared>,
    reports: impl Fn(CoreReport) + Send + Clone + 'static,
    visit: impl Fn(CoreId, &Guests) + Send + Clone + 'static,
) -> io::Result<Running> {
    let mut bells = Vec::new();
    let mut bell_descriptors = Vec::new();
    for _ in &cores {
        // SAFETY: eventfd takes no memory of ours; a descriptor it returns is new and ours.
        let bell = unsafe {
            let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        bell_descriptors.push(bell.as_raw_fd());
        bells.push(bell);
    }
    shared.bells.set(bells).map_err(|_| io::Error::other("cores were started twice with one `Shared`"))?;
    let meshes = mesh::weave(cores.len() as u16);
    let (started, outcomes) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for (index, (((options, listeners), mesh), bell)) in
        cores.into_iter().zip(meshes).zip(bell_descriptors).enumerate()
    {
        let me = CoreId(index as u16);
        let (node, shared, reports, started) =
            (node.clone(), shared.clone(), reports.clone(), started.clone());
        let visit = visit.clone();
        let thread = LocalExecutorBuilder::new(Placement::Fixed(options.cpu))
            .name(&format!("core-{index}"))
            .io_memory(EXECUTOR_IO_BYTES)
            .spawn(move || async move {
                let core = Core::new(me, options, listeners, mesh, bell, node, shared, Box::new(reports));
                let core = match core {
                    Ok(core) => core,
                    Err(error) => {
                        let copy = io::Error::new(error.kind(), error.to_string());
                        // The receiver is there until every core has reported.
                        let _ = started.send(Err(error));
                        return Err(copy);
                    }
                };
                visit(me, &core.guests);
                let _ = started.send(Ok(()));
                drop(started);
                core.serve().await
            })
            .map_err(|error| io::Error::other(format!("core {index} could not be started: {error}")))?;
        threads.push(thread);
    }
    drop(started);
    for _ in &threads {
        outcomes.recv().map_err(|_| io::Error::other("a core ended before it served"))??;
    }
    Ok(Running { threads })
}

/// Memory glommio registers for its own file I/O; its default is 10 MiB.
const EXECUTOR_IO_BYTES: usize = 256 << 10;
/// Input that may pile up behind a connection that waits before its receiving is stopped.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Completions of sends that failed for lack of memory are tried again after this.
const RETRY_MILLIS: u64 = 10;
/// Accepting is tried again after this when descriptors or memory had run out.
const ACCEPT_RETRY_MILLIS: u64 = 100;
/// Sweeps over all connections, and reports.
const SWEEP_MILLIS: u64 = 1000;
/// Turns between two yields to the executor while guests are there.
const TURNS_PER_YIELD: u64 = 8;
/// Times the ring is entered once more at the end.
const FAREWELL_TURNS: usize = 3;
/// One turn in so many is measured.
const TURNS_PER_MEASUREMENT: u64 = 8;
/// A command that comes slowly gets another second for each so many bytes.
const UNFINISHED_BYTES_PER_SECOND: u64 = 64 << 10;

/// Work of other task queues of a core's executor. While there is any, the core yields to it between turns and does not
/// sleep in its own ring but by way of the executor.
#[derive(Clone)]
pub struct Guests {
    count: Rc<Cell<usize>>,
    movement: TaskQueueHandle,
    speculation: TaskQueueHandle,
}

/// The queues of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Copying shards: a tenth of the core when it is wanted elsewhere.
    Movement,
    /// Prefetching and learning: a twentieth.
    Speculation,
}

impl Guests {
    fn new() -> Guests {
        let executor = glommio::executor();
        Guests {
            count: Rc::new(Cell::new(0)),
            movement: executor.create_task_queue(Shares::Static(100), Latency::NotImportant, "movement"),
            speculation: executor.create_task_queue(Shares::Static(50), Latency::NotImportant, "speculation"),
        }
    }

    fn any(&self) -> bool {
        self.count.get() > 0
    }

    /// Runs a task in a queue until it ends by itself.
    ///
    /// # Errors
    /// That of the executor, which knows both queues.
    pub fn spawn(&self, queue: Queue, task: impl Future<Output = ()> + 'static) -> io::Result<()> {
        let queue = match queue {
            Queue::Movement => self.movement,
            Queue::Speculation => self.speculation,
        };
        let count = self.count.clone();
        count.set(count.get() + 1);
        let guest = async move {
            task.await;
            count.set(count.get() - 1);
        };
        glommio::spawn_local_into(guest, queue)
            .map_err(|error| io::Error::other(error.to_string()))?
            .detach();
        Ok(())
    }
}

/// Everything that a request may touch: what sessions see of the core.
struct Works {
    me: CoreId,
    engine: Engine,
    mesh: Mesh,
    node: Rc<Node>,
    /// Calls of each RESP command.
    calls: Box<[u64; 256]>,
    /// Requests about connections, done when no session is at work.
    chores: Vec<Chore>,
    scratch: Vec<u8>,
}

struct Chore {
    from: CoreId,
    address: ReturnAddress,
    verb: Verb,
}

impl Works {
    /// Does a request on this core; `None` for those that must wait for the end of the turn.
    #[inline]
    fn execute(
        &mut self,
        now: Now,
        from: CoreId,
        address: ReturnAddress,
        request: &Request<'_>,
    ) -> Option<Outcome<'_>> {
        match request.verb {
            Verb::Connections | Verb::Disconnect { .. } => {
                self.chores.push(Chore { from, address, verb: request.verb });
                None
            }
            Verb::Counters => {
                self.scratch.clear();
                self.engine.execute(now, request).value.append_to(&mut self.scratch);
                self.scratch.extend(self.calls.iter().flat_map(|calls| calls.to_le_bytes()));
                Some(Outcome { answer: Answer::Page { cursor: 0 }, value: Value::One(&self.scratch) })
            }
            Verb::ResetCounters => {
                self.calls.fill(0);
                Some(self.engine.execute(now, request))
            }
            _ => Some(self.engine.execute(now, request)),
        }
    }
}

/// What one connection's session sees of the works.
struct Desk<'a> {
    works: &'a mut Works,
    now: Now,
    connection: ConnectionId,
}

impl Backend for Desk<'_> {
    #[inline]
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>> {
        let works = &mut *self.works;
        let address = ReturnAddress { connection: self.connection, ticket };
        let owner = match target {
            Target::Owner if works.node.cpus.len() == 1 => works.me,
            Target::Owner => works.node.map.owner(slot_of(request.key).shard()),
            Target::Core(core) => core,
        };
        if owner == works.me {
            return works.execute(self.now, works.me, address, request);
        }
        works.mesh.send(owner, address, request);
        works.engine.counters.hops_sent_total += 1;
        None
    }

    #[inline]
    fn ready(&self) -> bool {
        self.works.mesh.ready()
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.works.engine.counters
    }

    #[inline]
    fn called(&mut self, command: u8) {
        self.works.calls[usize::from(command)] += 1;
    }
}

struct Listener {
    socket: Option<Socket>,
    wire: Arc<wire::Options>,
    accepting: bool,
}

struct Core {
    options: Options,
    works: Works,
    table: Table,
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
    guests: Guests,
    idle: Idle,
    completions: Vec<Completion>,
    dirty: Vec<ConnectionId>,
    runnable: Vec<ConnectionId>,
    /// Connections whose receiving ended for want of buffers.
    rearm: Vec<ConnectionId>,
    retry: Vec<ConnectionId>,
    buffer_bytes: u64,
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

/// Moments at which something has to be looked at.
struct Due {
    engine: Mono,
    sweep: Mono,
    retry: Option<Mono>,
    accept: Option<Mono>,
    /// The timer in the ring, if one is out.
    armed: Option<Mono>,
}

impl Due {
    fn next(&self) -> Mono {
        let mut next = self.engine.min(self.sweep);
        for moment in [self.retry, self.accept].into_iter().flatten() {
            next = next.min(moment);
        }
        next
    }
}

/// The eventfd by which completions of our ring reach the executor while it has guests.
struct Event {
    file: glommio::io::BufferedFile,
}

impl Core {
    #[expect(
        clippy::too_many_arguments,
        reason = "made in one place, from parts that have nothing else in common"
    )]
    fn new(
        me: CoreId,
        options: Options,
        listeners: Listeners,
        mesh: Mesh,
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
        ring.listen_to_bell(bell);
        let listeners = listeners
            .into_iter()
            .map(|Listening { socket, protocol, own }| Listener {
                socket: Some(socket),
                wire: Arc::new(wire::Options {
                    protocol,
                    only_core: own.then_some(me),
                    ..options.wire.clone()
                }),
                accepting: false,
            })
            .collect();
        let now = time::now();
        let mut engine = Engine::new(options.engine);
        engine.counters.connections = 0;
        let works = Works {
            me,
            engine,
            mesh,
            node: Rc::new(Node::clone(&node)),
            calls: Box::new([0; 256]),
            chores: Vec::new(),
            scratch: Vec::new(),
        };
        let due = Due {
            engine: now.mono,
            sweep: now.mono.plus_millis(SWEEP_MILLIS),
            retry: None,
            accept: Some(now.mono),
            armed: None,
        };
        Ok(Core {
            idle: Idle::new(options.busy_poll),
            options,
            works,
            table: Table::default(),
            listeners,
            shared,
            guests: Guests::new(),
            completions: Vec::new(),
            dirty: Vec::new(),
            runnable: Vec::new(),
            rearm: Vec::new(),
            retry: Vec::new(),
            buffer_bytes: 0,
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
        let mut busy = true;
        let mut count = 0u64;
        loop {
            if busy || !self.runnable.is_empty() {
                self.ring.enter(false)?;
            } else {
                self.rest().await?;
            }
            let now = time::now();
            busy = self.turn(now);
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
        if self.table.len() > 0 {
            // The kernel may still read their sending buffers and write receive buffers; the process is about to end.
            std::mem::forget(self.table);
            std::mem::forget(self.buffers);
        }
        Ok(())
    }

    /// Waits until there is something to do: looks for a while, then sleeps.
    async fn rest(&mut self) -> io::Result<()> {
        let look = self.idle.look_nanos();
        let queued = self.ring.has_queued();
        if look > 0 && queued {
            self.ring.enter(false)?;
            if self.ring.has_news() {
                return Ok(());
            }
        }
        let begin = time::mono();
        if look > 0 {
            loop {
                // The clock is looked at once in a while only: it costs as much as a dozen looks at the ring.
                for _ in 0..16 {
                    if self.ring.has_news() || self.works.mesh.has_mail() {
                        self.idle.learn(time::mono().0 - begin.0);
                        return self.ring.enter(false);
                    }
                    std::hint::spin_loop();
                }
                if time::mono().0 - begin.0 >= look {
                    break;
                }
            }
        }
        self.arm_timer(begin);
        if !self.works.mesh.fall_asleep() {
            return self.ring.enter(false);
        }
        self.works.engine.counters.parks_total += 1;
        if self.guests.any() {
            self.ring.notify(true);
            self.ring.enter(false)?;
            if !self.ring.has_news() {
                // What is read is only the number of completions; an error would repeat at the next sleep.
                let _ = self.event.file.read_at(0, 8).await;
            }
            self.ring.notify(false);
            self.ring.enter(false)?;
        } else {
            self.ring.enter(true)?;
        }
        self.works.mesh.wake_up();
        // With sends queued what ended the sleep may be no more than their completion, which teaches nothing.
        if self.idle.adapts() && (look > 0 || !queued) {
            self.idle.learn(time::mono().0 - begin.0);
        }
        Ok(())
    }

    fn arm_timer(&mut self, now: Mono) {
        let next = self.due.next();
        if self.due.armed.is_none_or(|armed| armed > next) {
            self.ring.timer(next.0.saturating_sub(now.0).max(1));
            self.due.armed = Some(next);
        }
    }

    /// One turn; answers whether anything happened.
    fn turn(&mut self, now: Now) -> bool {
        self.works.engine.counters.turns_total += 1;
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.take(&mut completions);
        let mut busy = !completions.is_empty();
        for completion in &completions {
            match completion.kind {
                Kind::Receive => self.received(now, completion),
                Kind::Send => self.sent(now, completion),
                Kind::Accept => self.accepted(now, completion),
                Kind::Timer => self.due.armed = None,
                Kind::Bell => self.ring.listen_to_bell(self.bell),
                Kind::Wake | Kind::Ignore => {}
            }
        }
        self.completions = completions;
        busy |= self.read_mail(now);
        busy |= self.serve_runnable(now);
        self.do_chores(now);
        self.rearm_receivers();
        self.send_outputs();
        let handed = self.works.mesh.flush(&mut self.ring);
        self.works.engine.counters.hop_batches_total += handed;
        // A full ring empties without telling us, so while a batch waits the core keeps turning.
        busy |= self.works.mesh.has_backlog();
        if now.mono >= self.due.next() {
            self.look_at_clock(now);
        }
        if self.shared.draining.load(Ordering::Relaxed) && self.draining_until.is_none() {
            self.begin_drain(now);
        }
        busy
    }

    // -- accepting -------------------------------------------------------------------------------------------------

    fn accepted(&mut self, now: Now, completion: &Completion) {
        let place = completion.id.place as usize;
        if !completion.more() {
            self.listeners[place].accepting = false;
            if self.draining_until.is_none() {
                self.due.accept.get_or_insert(now.mono);
            }
        }
        if completion.result < 0 {
            if matches!(-completion.result, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) {
                self.works.engine.counters.accept_backoffs_total += 1;
                self.due.accept = Some(now.mono.plus_millis(ACCEPT_RETRY_MILLIS));
            }
            return;
        }
        // SAFETY: the completion of an accept hands a new descriptor to us and nobody else.
        let socket = unsafe { Socket::from_raw_fd(completion.result) };
        let counters = &mut self.works.engine.counters;
        if self.shared.clients.fetch_add(1, Ordering::Relaxed)
            >= self.shared.clients_max.load(Ordering::Relaxed)
        {
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            counters.connections_rejected_total += 1;
            let words: &[u8] = match self.listeners[place].wire.protocol {
                Protocol::Memcached => b"ERROR Too many open connections\r\n",
                Protocol::Native => &wire::native::frame::FULL,
                Protocol::Sniff | Protocol::Resp => b"-ERR max number of clients reached\r\n",
            };
            // A socket just accepted has room; if the client is gone already there is nobody to tell.
            let _ = socket.send(words);
            return;
        }
        counters.connections_accepted_total += 1;
        counters.connections += 1;
        let address = |address: io::Result<socket2::SockAddr>| {
            address
                .ok()
                .and_then(|address| address.as_socket())
                .map_or_else(String::new, |address| address.to_string())
        };
        let client = Client {
            id: self.shared.next_client.fetch_add(1, Ordering::Relaxed) + 1,
            peer: address(socket.peer_addr()),
            local: address(socket.local_addr()),
            since: now,
        };
        let session = Session::new(self.listeners[place].wire.clone(), client);
        let id = self.table.insert(|id| Connection::new(id, socket, session, now.mono));
        let connection = self.table.of(id).expect("inserted above");
        connection.receiving = Receiving::On;
        self.ring.receive(connection.socket.as_raw_fd(), id);
    }

    fn arm_listeners(&mut self) {
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            if let (Some(socket), false) = (&listener.socket, listener.accepting) {
                self.ring.accept(socket.as_raw_fd(), place as u32);
                listener.accepting = true;
            }
        }
    }

    // -- receiving and executing -------------------------------------------------------------------------------------

    fn received(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(connection) = self.table.of(id) else {
            if let Some(buffer) = completion.buffer() {
                self.buffers.give_back(buffer);
            }
            return;
        };
        if !completion.more() {
            connection.receiving = Receiving::Off;
        }
        if completion.result > 0 {
            let buffer = completion.buffer().expect("a receive that brought bytes names its buffer");
            let bytes = completion.result as usize;
            let counters = &mut self.works.engine.counters;
            counters.received_bytes_total += bytes as u64;
            if !connection.dying && !connection.closing {
                let piece = self.buffers.piece(buffer, bytes);
                if connection.stage == Stage::Reading && connection.waiting_bytes() == 0 {
                    let consumed = serve_from(&mut self.works, connection, now, Some(piece));
                    connection.input.extend_from_slice(&piece[consumed..]);
                } else {
                    connection.input.extend_from_slice(piece);
                    if connection.unfinished_since.is_some() {
                        connection.unfinished_bytes += bytes as u64;
                    }
                    if connection.stage == Stage::Reading && connection.waiting_bytes() >= connection.needed {
                        serve_from(&mut self.works, connection, now, None);
                    }
                }
            }
            self.buffers.give_back(buffer);
        } else if -completion.result == libc::ENOBUFS {
            self.works.engine.counters.buffers_exhausted_total += 1;
        } else if -completion.result != libc::ECANCELED {
            // 0 is the end of what the client sends, anything else the end of the connection.
            connection.ended = true;
            if completion.result < 0 {
                connection.closing = true;
                self.kill(id);
                return;
            }
        }
        self.settle(now, id);
    }

    /// Sees to everything that may have to change after a connection was served, received or sent.
    fn settle(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.dying {
            self.bury(id);
            return;
        }
        let output = !connection.session.output().is_empty();
        if output && !connection.in_flight && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        if connection.stage == Stage::Yielded && !connection.runnable {
            connection.runnable = true;
            self.runnable.push(id);
        }
        let waiting = connection.waiting_bytes();
        if connection.stage == Stage::Reading && waiting > 0 && !connection.closing {
            connection.unfinished_since.get_or_insert(now.mono);
        }
        let too_far_ahead = connection.stage != Stage::Reading && waiting > READ_AHEAD_BYTES;
        match connection.receiving {
            Receiving::On if too_far_ahead => {
                connection.receiving = Receiving::Stopping;
                self.works.engine.counters.backpressure_total += 1;
                self.ring.stop_receiving(id);
            }
            Receiving::Off if !too_far_ahead && !connection.ended && !connection.closing => {
                // Not at once: when buffers had run out, those of this turn are not all given back yet.
                self.rearm.push(id);
            }
            _ => {}
        }
        if waiting > 0 || connection.counted_bytes > 0 || output {
            let bytes = connection.buffer_bytes();
            self.buffer_bytes =
                (self.buffer_bytes + bytes as u64).saturating_sub(connection.counted_bytes as u64);
            connection.counted_bytes = bytes;
            if connection.session.output_bytes() + connection.sending.len() > self.options.output_hard_bytes {
                self.works.engine.counters.connections_dropped_total += 1;
                self.kill(id);
                return;
            }
        }
        if self.buffer_bytes > self.options.buffer_bytes_max {
            self.drop_largest();
        }
        let Some(connection) = self.table.of(id) else { return };
        if connection.finished() {
            self.kill(id);
        }
    }

    fn rearm_receivers(&mut self) {
        for id in std::mem::take(&mut self.rearm) {
            let Some(connection) = self.table.of(id) else { continue };
            if connection.receiving == Receiving::Off && !connection.dying && !connection.ended {
                connection.receiving = Receiving::On;
                self.ring.receive(connection.socket.as_raw_fd(), id);
            }
        }
    }

    fn serve_runnable(&mut self, now: Now) -> bool {
        if self.runnable.is_empty() {
            return false;
        }
        // Those that yield again are put behind, for the next turn.
        for id in std::mem::take(&mut self.runnable) {
            let Some(connection) = self.table.of(id) else { continue };
            connection.runnable = false;
            if connection.dying || connection.closing {
                continue;
            }
            serve_from(&mut self.works, connection, now, None);
            self.settle(now, id);
        }
        true
    }

    /// A connection that was blocked may go on: its replies were taken, or outcomes came.
    fn unblock(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.of(id)
            && connection.stage == Stage::Blocked
            && !connection.runnable
        {
            connection.runnable = true;
            self.runnable.push(id);
        }
    }

    // -- sending -----------------------------------------------------------------------------------------------------

    fn send_outputs(&mut self) {
        for id in self.dirty.drain(..) {
            let Some(connection) = self.table.of(id) else { continue };
            connection.dirty = false;
            if !connection.dying && connection.stage_output() {
                connection.in_flight = true;
                self.ring.send(connection.socket.as_raw_fd(), id, &connection.sending);
            }
        }
    }

    fn sent(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(connection) = self.table.of(id) else { return };
        if completion.result < 0 {
            match -completion.result {
                libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN if !connection.dying => {
                    self.retry.push(id);
                    self.due.retry.get_or_insert(now.mono.plus_millis(RETRY_MILLIS));
                }
                _ => {
                    connection.in_flight = false;
                    self.kill(id);
                }
            }
            return;
        }
        self.works.engine.counters.sent_bytes_total += completion.result as u64;
        if !connection.was_sent(completion.result as usize) {
            let rest = &connection.sending[connection.sent..];
            if connection.dying {
                connection.in_flight = false;
                self.bury(id);
            } else {
                self.ring.send(connection.socket.as_raw_fd(), id, rest);
            }
            return;
        }
        self.unblock(id);
        self.settle(now, id);
    }

    fn retry_sends(&mut self) {
        for id in std::mem::take(&mut self.retry) {
            let Some(connection) = self.table.of(id) else { continue };
            if connection.dying {
                connection.in_flight = false;
                self.bury(id);
            } else {
                self.ring.send(connection.socket.as_raw_fd(), id, &connection.sending[connection.sent..]);
            }
        }
    }

    // -- ends --------------------------------------------------------------------------------------------------------

    /// Shuts a connection down; it leaves the table when the kernel is done with it.
    fn kill(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if !connection.dying {
            connection.dying = true;
            // Its buffers go as soon as the kernel is done with them; from now on they count against nobody.
            self.buffer_bytes = self.buffer_bytes.saturating_sub(connection.counted_bytes as u64);
            connection.counted_bytes = 0;
            if connection.receiving != Receiving::Off || connection.in_flight {
                // Completes what is armed. A socket that is closed already has nothing to shut down.
                let _ = connection.socket.shutdown(std::net::Shutdown::Both);
            }
        }
        self.bury(id);
    }

    fn bury(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.receiving != Receiving::Off || connection.in_flight {
            return;
        }
        self.table.remove(id);
        self.works.engine.counters.connections -= 1;
        if self.shared.clients.fetch_sub(1, Ordering::Relaxed) == 1 && self.draining_until.is_some() {
            // The other cores may sleep; they end when the last connection of all has.
            self.shared.ring_bells();
        }
    }

    /// Closes the connection with the largest buffers.
    fn drop_largest(&mut self) {
        let largest =
            self.table.iter_mut().filter(|c| !c.dying).max_by_key(|c| c.counted_bytes).map(|c| c.id);
        if let Some(id) = largest {
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
        }
    }

    // -- other cores -------------------------------------------------------------------------------------------------

    fn read_mail(&mut self, now: Now) -> bool {
        let mut any = false;
        while let Some((from, batch)) = self.works.mesh.receive() {
            any = true;
            self.works.engine.counters.hops_served_total += batch.request_count() as u64;
            for (address, request) in batch.requests() {
                // Executing borrows the works whole, answering needs their mesh: so the mesh steps aside meanwhile.
                let works = &mut self.works;
                match request.verb {
                    Verb::Counters | Verb::ResetCounters | Verb::Connections | Verb::Disconnect { .. } => {
                        if let Some(outcome) = works.execute(now, from, address, &request) {
                            let (answer, value) = (outcome.answer, outcome.value.to_cow().into_owned());
                            works.mesh.answer(from, address, &Outcome { answer, value: Value::One(&value) });
                        }
                    }
                    _ => {
                        let outcome = works.engine.execute(now, &request);
                        works.mesh.answer(from, address, &outcome);
                    }
                }
            }
            for (address, outcome) in batch.returns() {
                self.complete(now, address, &outcome);
            }
            self.works.mesh.recycle(batch);
        }
        any
    }

    fn complete(&mut self, now: Now, address: ReturnAddress, outcome: &Outcome<'_>) {
        let id = address.connection;
        let Some(connection) = self.table.of(id) else { return };
        connection.session.complete(now, &self.works.node, address.ticket, outcome);
        if connection.dying {
            return;
        }
        if !connection.session.output().is_empty() && !connection.in_flight && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        if connection.stage == Stage::Blocked && !connection.runnable {
            connection.runnable = true;
            self.runnable.push(id);
        }
        if connection.finished() {
            self.kill(id);
        }
    }

    /// Requests about connections.
    fn do_chores(&mut self, now: Now) {
        for chore in std::mem::take(&mut self.works.chores) {
            let mut bytes = Vec::new();
            let answer = match chore.verb {
                Verb::Connections => {
                    self.table.iter_mut().for_each(|connection| connection.session.describe(now, &mut bytes));
                    Answer::Page { cursor: 0 }
                }
                Verb::Disconnect { client } => {
                    let found = self
                        .table
                        .iter_mut()
                        .find(|c| !c.dying && c.session.client_id() == client)
                        .map(|c| c.id);
                    if let Some(id) = found {
                        if id == chore.address.connection && chore.from == self.works.me {
                            // One who closes himself still gets the answer.
                            self.table.of(id).expect("found above").closing = true;
                        } else {
                            self.kill(id);
                        }
                    }
                    Answer::Number(i64::from(found.is_some()))
                }
                _ => unreachable!("only those two are put off"),
            };
            let outcome = Outcome { answer, value: Value::One(&bytes) };
            if chore.from == self.works.me {
                self.complete(now, chore.address, &outcome);
            } else {
                self.works.mesh.answer(chore.from, chore.address, &outcome);
            }
        }
    }

    // -- by the clock ------------------------------------------------------------------------------------------------

    fn look_at_clock(&mut self, now: Now) {
        if now.mono >= self.due.engine {
            self.due.engine = self.works.engine.tick(now).max(Mono(now.mono.0 + 1));
        }
        if self.due.accept.is_some_and(|at| now.mono >= at) {
            self.due.accept = None;
            if self.draining_until.is_none() {
                self.arm_listeners();
            }
        }
        if self.due.retry.is_some_and(|at| now.mono >= at) {
            self.due.retry = None;
            self.retry_sends();
        }
        if now.mono >= self.due.sweep {
            self.due.sweep = now.mono.plus_millis(SWEEP_MILLIS);
            self.sweep(now);
            self.works.engine.counters.buffer_bytes = self.buffer_bytes + self.buffers.byte_count() as u64;
            let mut counters = Counters::default();
            let request = Request { key: b"", value: b"", verb: Verb::Counters };
            let page = self.works.engine.execute(now, &request);
            counters.add(&Counters::from_bytes(&page.value.to_cow()));
            (self.report)(CoreReport {
                core: self.works.me,
                counters,
                turn: self.turns.clone(),
                cpu: time::thread_cpu(),
            });
            self.turns.reset();
        }
    }

    /// Looks for connections that have overstayed, and for those that are stuck by a bug of ours or the kernel's.
    fn sweep(&mut self, now: Now) {
        let mut overdue = Vec::new();
        for connection in self.table.iter_mut().filter(|connection| !connection.dying) {
            let unfinished = connection.unfinished_since.is_some_and(|since| {
                let allowance = connection.unfinished_bytes / UNFINISHED_BYTES_PER_SECOND * 1000;
                now.mono.millis_since(since) > self.options.unfinished_millis_max + allowance
            });
            let unauthenticated = !connection.session.authenticated()
                && now.mono.millis_since(connection.accepted) > self.options.unauthenticated_millis_max;
            if unfinished || unauthenticated {
                overdue.push(connection.id);
            }
        }
        for id in overdue {
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
        }
        // An accept keeps the limit it was armed under: one that an operator changes takes effect by arming anew.
        let descriptors_max = listen::descriptors_max();
        if descriptors_max != self.descriptors_max {
            self.descriptors_max = descriptors_max;
            (0..self.listeners.len()).for_each(|place| self.ring.stop_accepting(place as u32));
        }
    }

    // -- drain -------------------------------------------------------------------------------------------------------

    fn begin_drain(&mut self, now: Now) {
        self.draining_until = Some(now.mono.plus_millis(self.options.drain_millis_max));
        for place in 0..self.listeners.len() {
            self.ring.stop_accepting(place as u32);
            self.listeners[place].socket = None;
        }
        let ids: Vec<ConnectionId> = self.table.iter_mut().map(|connection| connection.id).collect();
        for id in ids {
            let Some(connection) = self.table.of(id) else { continue };
            // As if the client had sent its last byte: what came is answered, what is incomplete is not waited for.
            connection.ended = true;
            if connection.receiving == Receiving::On {
                connection.receiving = Receiving::Stopping;
                self.ring.stop_receiving(id);
            }
            self.settle(now, id);
        }
    }

    fn drained(&self, now: Now) -> bool {
        let Some(until) = self.draining_until else { return false };
        let done = self.table.len() == 0 && !self.works.mesh.has_mail() && !self.works.mesh.has_backlog();
        // Another core may still want outcomes from this one: a core ends only when all connections of all cores have.
        (done && self.shared.clients.load(Ordering::Relaxed) == 0)
            || now.mono >= until
            || self.shared.at_once.load(Ordering::Relaxed)
    }
}

/// Has a session execute what stands in `piece`, or in the connection's own input without one; answers the bytes of
/// `piece` it consumed.
fn serve_from(works: &mut Works, connection: &mut Connection, now: Now, piece: Option<&[u8]>) -> usize {
    let node = works.node.clone();
    let mut desk = Desk { works, now, connection: connection.id };
    let progress = match piece {
        Some(piece) => connection.session.serve(now, &node, piece, &mut desk),
        None => {
            let input = &connection.input[connection.input_start..];
            let progress = connection.session.serve(now, &node, input, &mut desk);
            connection.consume(progress.consumed);
            progress
        }
    };
    if progress.consumed > 0 {
        connection.unfinished_since = None;
        connection.unfinished_bytes = 0;
    }
    connection.stage = Stage::Reading;
    match progress.next {
        Next::More { at_least } => connection.needed = at_least,
        Next::Yield => connection.stage = Stage::Yielded,
        Next::Blocked => {
            // Blocked by others' requests alone, nothing of its own would ever unblock it: then it asks every turn.
            let own = connection.in_flight
                || connection.session.awaited() > 0
                || !connection.session.output().is_empty();
            connection.stage = if own { Stage::Blocked } else { Stage::Yielded };
        }
        Next::Close(reason) => {
            connection.closing = true;
            if reason != Reason::Quit {
                works.engine.counters.connections_dropped_total += 1;
            }
            match reason {
                Reason::Http => tracing::warn!("closed a connection that spoke HTTP to a data port"),
                Reason::Tls => tracing::warn!("closed a connection that spoke TLS to a plain port"),
                _ => {}
            }
        }
    }
    progress.consumed
}
