//! The metadata service from outside: one contract, held to by the file and (with the feature `etcd`) by a real etcd; and what
//! only etcd can do to us.

mod contract;
#[cfg(feature = "etcd")]
mod etcd;

use foreshadow::clock::Mono;
use foreshadow::control::metadata::{Metadata, Options, Place, Service, start};
use foreshadow::metadata::{Entry, Range, Stands, Txn};
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than it needs, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> Mono {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Mono(BEGAN.elapsed().as_nanos() as u64)
}

fn open(place: Place) -> Service {
    start(Options { place, clock: now, data_cpus: Vec::new() }).expect("it starts")
}

/// Runs a future with timers, for as long as patience lasts.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(PATIENCE, future).await.expect("it ends in time") })
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("foreshadow-metadata-contract-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over lies in the folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create(key: &str, value: &str) -> Txn {
    Txn::swap(key.as_bytes(), Stands::Absent, value.as_bytes(), None)
}

async fn there(metadata: &Metadata, key: &str) -> Option<Entry> {
    let listing = metadata.list(Range::key(key.as_bytes())).await.expect("it answers");
    listing.entries.into_iter().next()
}
