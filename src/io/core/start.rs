//! The cores of a process: what they share, how they are started, how their end is awaited.

use super::{Core, Guests, Options};
use crate::clock::Mono;
use crate::control::keeper::Kept;
use crate::control::{CoreReport, Errand, Question, Recording};
use crate::ids::CoreId;
use crate::io::mesh;
use crate::io::time;
use crate::io::tls::Shelf;
use crate::origin::keyspace::Keyspaces;
use crate::topology::Node;
use crate::wire::Protocol;
use glommio::{LocalExecutorBuilder, Placement};
use socket2::Socket;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Memory glommio registers for its own file I/O; its default is 10 MiB.
const EXECUTOR_IO_BYTES: usize = 256 << 10;

/// Has the allocator give large buffers back to the system when they are freed, whatever came before. By itself it keeps ever
/// larger ones for reuse, and the memory of a few large values would stay resident for good.
pub fn return_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: both only set parameters of the allocator.
    unsafe {
        // What one core frees for another leaves holes in that one's heap, so what is long lies in none.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// What all cores of a process share; touched when connections come and go, and at the end.
#[derive(Debug)]
pub struct Shared {
    pub(super) clients: AtomicU64,
    pub(super) clients_max: AtomicU64,
    /// Limit of memory for items of all cores together; 0 as long as it is the one they were started with.
    pub(super) memory_bytes_max: AtomicU64,
    /// What all cores hold, and the most that was, by [`super::usage::Usage`].
    pub(super) used_bytes: AtomicU64,
    pub(super) used_bytes_peak: AtomicU64,
    pub(super) next_client: AtomicU64,
    pub(super) draining: AtomicBool,
    pub(super) at_once: AtomicBool,
    /// Keyspaces after a reload, and how often they were replaced.
    pub(super) keyspaces: RwLock<Arc<Keyspaces>>,
    pub(super) keyspaces_round: AtomicU64,
    /// Users that a reload changed, the last rules of each with the reload's number; and how many there were.
    pub(super) users: RwLock<Vec<UserChange>>,
    pub(super) users_round: AtomicU64,
    /// What is recorded now, from when on, and how often that changed.
    pub(super) recording: RwLock<Option<(Arc<Recording>, Mono)>>,
    pub(super) recording_round: AtomicU64,
    /// Questions that cores have not looked at.
    pub(super) questions: Mutex<Vec<Question>>,
    /// What each core may take of what origins have to spare; 1 for those that are not named.
    pub(super) spare_shares: RwLock<Vec<f32>>,
    /// What the keeper of records has answered and the first core not looked at.
    pub(super) kept: Mutex<Vec<Kept>>,
    /// How often a core wanted memory back that clients of others still read.
    pub(super) withheld_round: AtomicU64,
    pub(super) bells: std::sync::OnceLock<Vec<OwnedFd>>,
}

/// Most questions that wait; more are not asked.
const QUESTIONS_MAX: usize = 256;

/// A user that a reload changed.
#[derive(Clone, Debug)]
pub(super) struct UserChange {
    pub(super) round: u64,
    pub(super) name: Vec<u8>,
    /// Empty: it is no more.
    pub(super) rules: Vec<u8>,
}

impl Shared {
    /// For cores that take at most so many connections together.
    pub fn new(clients_max: u64) -> Shared {
        Shared {
            clients: AtomicU64::new(0),
            clients_max: AtomicU64::new(clients_max),
            memory_bytes_max: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            used_bytes_peak: AtomicU64::new(0),
            next_client: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            keyspaces: RwLock::default(),
            keyspaces_round: AtomicU64::new(0),
            users: RwLock::default(),
            users_round: AtomicU64::new(0),
            recording: RwLock::default(),
            recording_round: AtomicU64::new(0),
            questions: Mutex::default(),
            spare_shares: RwLock::default(),
            kept: Mutex::default(),
            withheld_round: AtomicU64::new(0),
            bells: std::sync::OnceLock::new(),
        }
    }

    /// Changes how many connections all cores take together; those there are stay.
    pub fn set_clients_max(&self, clients: u64) {
        self.clients_max.store(clients, Ordering::Relaxed);
        self.ring_bells();
    }

    /// Changes the limit of memory for items of all cores together. Each core takes its share ([`super::Options::store_bytes`])
    /// at its next turn; one whose share would be too small stays with what it has.
    pub fn set_memory_bytes_max(&self, bytes: u64) {
        self.memory_bytes_max.store(bytes, Ordering::Relaxed);
        self.ring_bells();
    }

    /// Gives all cores other keyspaces. Their origins must be those that the cores began with.
    pub fn set_keyspaces(&self, keyspaces: Arc<Keyspaces>) {
        *self.keyspaces.write().expect("nobody panics while holding it") = keyspaces;
        self.keyspaces_round.fetch_add(1, Ordering::Release);
        self.ring_bells();
    }

    /// Has all cores make users anew by their rules, or remove those whose rules are empty. All others stay as they are.
    pub fn set_users(&self, changes: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
        let mut users = self.users.write().expect("nobody panics while holding it");
        let round = self.users_round.load(Ordering::Relaxed) + 1;
        for (name, rules) in changes {
            users.retain(|other| other.name != name);
            users.push(UserChange { round, name, rules });
        }
        self.users_round.store(round, Ordering::Release);
        drop(users);
        self.ring_bells();
    }

    /// Takes an errand of the admin pages to the cores.
    pub fn carry(&self, errand: Errand) {
        match errand {
            Errand::Record(recording) => {
                let recording = recording.map(|recording| (recording, time::mono()));
                *self.recording.write().expect("nobody panics while holding it") = recording;
                self.recording_round.fetch_add(1, Ordering::Release);
            }
            Errand::Answer(question) => {
                let mut questions = self.questions.lock().expect("nobody panics while holding it");
                // Those who asked have gone since where a core is too busy to answer.
                questions.retain(Question::is_awaited);
                if questions.len() < QUESTIONS_MAX {
                    questions.push(question);
                }
            }
            Errand::Shares(shares) => {
                *self.spare_shares.write().expect("nobody panics while holding it") = shares;
                // Nobody has to hurry: cores look once a second.
                return;
            }
        }
        self.ring_bells();
    }

    /// Takes an answer of the keeper of records to the first core.
    pub fn give_kept(&self, kept: Kept) {
        self.kept.lock().expect("nobody panics while holding it").push(kept);
        self.ring_bells();
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

    pub(super) fn ring_bells(&self) {
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
    /// What its connections begin with, if they are sealed.
    pub tls: Option<Arc<Shelf>>,
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
