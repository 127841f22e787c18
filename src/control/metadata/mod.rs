//! The metadata service as the control plane uses it: one thread, two kinds of it behind the same handle.
//!
//! ```text
//!   control thread, whoever moves shards                      the thread "metadata"
//!     Metadata::txn, list, watch, grant, keep, revoke  --Ask, bounded-->  file: Table + Journal, one sync for many
//!                                                      <--reply---------  etcd: a client (feature `etcd`)
//!     Metadata::swap    until the outcome is known       (metadata::Swap)
//!     follow            a range with what changes in it  (metadata::View)
//!     hold              our entry under a lease          (metadata::Session)
//! ```
//! - `journal`, `lock`: the file and who has it; `file`: the embedded service around it.
//! - `etcd`: the same by a cluster of etcd servers.
//! - `drive`: what keeps the state machines of [`crate::metadata`] going.
//!
//! Rules that hold for both, whatever is asked:
//! 1. An outcome that is told as done lasts: the file's is on the disk, etcd's is agreed upon.
//! 2. Listings are linearizable: they show everything that was done before they were asked for.
//! 3. What cannot be known is told as [`Outcome::Unknown`], never as done or refused.
//! 4. Nobody signals by removing: a watch may lose that. Who has to know lists, every 30 s and whenever a watch broke.
//! 5. Serving never waits for any of this. While the service is away the last map goes on.

mod drive;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod journal;
mod lock;

pub use drive::{Held, follow, hold};
pub use journal::OpenError;

use crate::clock::Mono;
use crate::metadata::{Compacted, Kept, LeaseId, Listing, Outcome, Past, Range, Revision, Txn};
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait for the service; more are not sent.
const ASKS_MAX: usize = 1024;
/// Portions of events that may wait for one who watches.
const TOLD_MAX: usize = 16;
/// Events that begin no further portion.
const EVENTS_MAX: usize = 256;

/// Where the metadata is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file of this node.
    File(PathBuf),
    /// In etcd, at these `host:port` of one cluster.
    #[cfg(feature = "etcd")]
    Etcd(Vec<String>),
}

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the metadata is kept.
    pub place: Place,
    /// The clock of leases: one that goes on while the machine sleeps.
    pub clock: fn() -> Mono,
    /// CPUs that serve, beside which its thread runs where there are others.
    pub data_cpus: Vec<usize>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] OpenError),
    /// An address of etcd is none.
    #[cfg(feature = "etcd")]
    #[error("the addresses of etcd are not of the form host:port,host:port: {0}")]
    Address(String),
    /// The system gives no thread.
    #[error("the metadata service cannot start: {0}")]
    System(#[from] io::Error),
}

/// The running service.
#[derive(Debug)]
pub struct Service {
    metadata: Metadata,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Service {
    /// A handle to ask it by.
    pub fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    /// Ends it. What waits to be answered is [`Outcome::Unknown`]; what was told as done lasts.
    pub fn stop(self) {
        // It is gone already if the receiver is.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Opens the file, if it is one, and starts the thread. An etcd that is away is no error: it is asked until it is there.
///
/// # Errors
/// See [`StartError`].
pub fn start(options: Options) -> Result<Service, StartError> {
    let Options { place, clock, data_cpus } = options;
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let metadata = Metadata { asks, clock };
    let own_cpu = super::cpu_beside(&data_cpus);
    let (stop, thread) = match place {
        Place::File(path) => {
            let (journal, table) = journal::Journal::open(&path, clock())?;
            spawn(own_cpu, move || file::serve(journal, table, asked, clock))?
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(addresses) => {
            let addresses = etcd::check(addresses).map_err(StartError::Address)?;
            spawn(own_cpu, move || etcd::serve(addresses, asked))?
        }
    };
    Ok(Service { metadata, stop, thread })
}

/// A thread with a runtime that runs what `begin` gives until it ends or is stopped.
fn spawn<F: Future<Output = ()>>(
    cpu: Option<core_affinity::CoreId>,
    begin: impl FnOnce() -> F + Send + 'static,
) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("metadata".to_owned()).spawn(move || {
        if let Some(cpu) = cpu {
            core_affinity::set_for_current(cpu);
        }
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            tokio::select! {
                () = begin() => {}
                _ = stopped => {}
            }
        });
    })?;
    Ok((stop, thread))
}

/// Who asks the service. Its futures may be awaited by any runtime, but for [`Metadata::swap`], which needs tokio's timers.
#[derive(Clone, Debug)]
pub struct Metadata {
    asks: mpsc::Sender<Ask>,
    clock: fn() -> Mono,
}

/// The service did not answer: it is away, closed, or has too much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata service does not answer")]
pub struct Away;

/// What a watch tells. When its channel closes the watch broke, and whoever needs to know more lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What happened, in order and without gaps but for those of etcd's own making.
    Events(Past),
    /// It fell too far behind; nothing more comes.
    Compacted(Compacted),
}

/// A question, with where the answer goes.
#[derive(Debug)]
enum Ask {
    Txn(Txn, oneshot::Sender<Outcome>),
    List(Range, oneshot::Sender<Listing>),
    Watch(Range, Revision, mpsc::Sender<Told>),
    Grant(u64, oneshot::Sender<LeaseId>),
    Keep(LeaseId, oneshot::Sender<Kept>),
    Revoke(LeaseId, oneshot::Sender<()>),
}

impl Metadata {
    /// The moment by the clock of leases.
    pub fn now(&self) -> Mono {
        (self.clock)()
    }

    /// Does a transaction. For a decision by one key [`Metadata::swap`] settles what is unknown, too.
    pub async fn txn(&self, txn: Txn) -> Outcome {
        if let Err(invalid) = txn.check() {
            return Outcome::Invalid(invalid);
        }
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(Ask::Txn(txn, reply)).is_err() {
            return Outcome::NotSent;
        }
        answer.await.unwrap_or(Outcome::Unknown)
    }

    /// What stands in a range, with everything that was done before this was asked.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn list(&self, range: Range) -> Result<Listing, Away> {
        self.ask(|reply| Ask::List(range, reply)).await
    }

    /// Tells what happens in a range after a revision, until the receiver is dropped.
    ///
    /// # Errors
    /// [`Away`].
    pub fn watch(&self, range: Range, after: Revision) -> Result<mpsc::Receiver<Told>, Away> {
        let (teller, told) = mpsc::channel(TOLD_MAX);
        self.asks.try_send(Ask::Watch(range, after, teller)).map_err(|_| Away)?;
        Ok(told)
    }

    /// Begins a lease of so many milliseconds; etcd rounds them up to seconds.
    ///
    /// # Errors
    /// [`Away`]. There may be such a lease all the same; it ends by itself.
    pub async fn grant(&self, ttl_millis: u64) -> Result<LeaseId, Away> {
        self.ask(|reply| Ask::Grant(ttl_millis, reply)).await
    }

    /// Lets a lease run for its whole time from now on.
    pub async fn keep(&self, lease: LeaseId) -> Kept {
        self.ask(|reply| Ask::Keep(lease, reply)).await.unwrap_or(Kept::Unknown)
    }

    /// Ends a lease with its keys, if it still runs.
    ///
    /// # Errors
    /// [`Away`]. It may have ended all the same, and will.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Away> {
        self.ask(|reply| Ask::Revoke(lease, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Away> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(ask(reply)).map_err(|_| Away)?;
        answer.await.map_err(|_| Away)
    }
}
