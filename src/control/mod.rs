//! The control plane's thread: an ordinary thread with a small tokio runtime. Serving never waits for it.
//!
//! ```text
//!   core 0 --CoreReport, once a second--\
//!   core 1 --CoreReport------------------> Board --> /metrics  /v1/node  / (dashboard)
//!                                          ready -->  /readyz   /livez
//! ```
//! - `board`: what the cores reported last and in sum, as metrics and as JSON.
//! - `truth`: what they reported of origins and keyspaces.
//! - `foresight`: what they reported of prefetching; `volume`: how much their shards had to do and will, and what of the
//!   origins' spare is whose.
//! - `errands`: what pages have the cores do; `record`: recordings of live traffic; `why`: why a key was fetched ahead.
//! - `moves`: moves of shards, as they are told; `shards`: the pages about them.
//! - `pages`: the admin HTTP server's routes and who may see them; `query`: what stands behind the question mark.
//! - `listener`: its bounds: few connections, none of them for ever.
//! - [`metadata`]: what the nodes of a cluster agree on, by a thread of its own; [`keeper`]: the records of shards, asked for by cores.
//!
//! The thread runs beside the data cores where the affinity mask leaves it a CPU of its own.

mod board;
mod errands;
mod foresight;
pub mod keeper;
mod listener;
pub mod metadata;
mod moves;
mod pages;
mod query;
mod record;
mod shards;
mod truth;
mod volume;
mod why;

pub use board::{CoreReport, OriginReport, turn_histogram};
pub use errands::{About, Carrier, Errand, Knowledge, Question, Recording};
pub use moves::{MoveEnding, MoveRefusal, MoveReport, MoveTally, ShardReport};
pub use record::{ROWS_MAX, SECONDS_MAX};
pub use truth::Names;

use crate::topology::Node;
use board::Board;
use listener::Bounded;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often reports are taken in when nobody asks for a page.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports that may wait for the control thread: what the channel handed to [`start`] should be bounded by.
pub const REPORTS_MAX: usize = 1024;

/// What the admin server needs.
pub struct Options {
    /// Where it listens; port 0 picks a free one.
    pub address: SocketAddr,
    /// Asked for on every page but `/livez` and `/readyz`, by HTTP Basic authentication (user `default`) or as a bearer token.
    pub password: Option<String>,
    /// Who we are.
    pub node: Arc<Node>,
    /// What the cores report. They must not wait: a full channel drops the report, the next one holds the same sums.
    pub reports: Receiver<CoreReport>,
    /// Whether clients are served; false while starting and draining.
    pub ready: Arc<AtomicBool>,
    /// Names of origins and keyspaces.
    pub names: Names,
    /// How errands get to the cores.
    pub carrier: Carrier,
}

/// The running admin server.
pub struct AdminHandle {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdminHandle {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; requests under way are cut off.
    pub fn stop(self) {
        // It is gone already if the receiver is.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Binds the address and starts the thread.
///
/// # Errors
/// Those of binding, and of starting a thread with a runtime.
pub fn start(options: Options) -> io::Result<AdminHandle> {
    let listener = std::net::TcpListener::bind(options.address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (stop, stopped) = oneshot::channel();
    let own_cpu = cpu_beside(&options.node.cpus);
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        if let Some(cpu) = own_cpu {
            core_affinity::set_for_current(cpu);
        }
        runtime.block_on(run(listener, options, stopped));
    })?;
    Ok(AdminHandle { address, stop, thread })
}

/// A CPU that we may use and that serves nobody.
fn cpu_beside(data_cpus: &[usize]) -> Option<core_affinity::CoreId> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    allowed.into_iter().rev().find(|cpu| !data_cpus.contains(&cpu.id))
}

async fn run(listener: std::net::TcpListener, options: Options, stopped: oneshot::Receiver<()>) {
    let Options { address: _, password, node, reports, ready, names, carrier } = options;
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Bounded::new(listener),
        Err(error) => {
            tracing::error!(%error, "the admin server cannot listen");
            return;
        }
    };
    let board = Arc::new(Mutex::new(Board::new(node.clone(), reports, ready, names)));
    let router = pages::router(pages::Rooms::new(board.clone(), node, carrier.clone()), password.as_deref());
    let router = router.into_make_service_with_connect_info::<listener::Respite>();
    let collect = async {
        let mut tick = tokio::time::interval(COLLECT_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let shares = {
                let mut board = pages::lock(&board);
                board.collect();
                board.take_shares()
            };
            if let Some(shares) = shares {
                carrier(Errand::Shares(shares));
            }
        }
    };
    tokio::select! {
        served = async { axum::serve(listener, router).await } => {
            if let Err(error) = served {
                tracing::error!(%error, "the admin server ended");
            }
        }
        () = collect => {}
        _ = stopped => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::sync_channel;

    fn started(password: Option<&str>) -> (AdminHandle, Arc<AtomicBool>) {
        let ready = Arc::new(AtomicBool::new(false));
        // The sender is gone: nobody reports, which must not trouble the server.
        let (_, reports) = sync_channel(1);
        let kept = Mutex::new(None);
        let options = Options {
            address: "127.0.0.1:0".parse().unwrap(),
            password: password.map(str::to_owned),
            node: board::tests::node(),
            reports,
            ready: ready.clone(),
            names: Names::default(),
            // Nobody is there to do anything: recordings are kept until they end, questions are dropped.
            carrier: Arc::new(move |errand| {
                if let Errand::Record(recording) = errand {
                    *kept.lock().unwrap() = recording;
                }
            }),
        };
        (start(options).unwrap(), ready)
    }

    fn ask(admin: &AdminHandle, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(admin.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        (answer[9..12].parse().unwrap(), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[test]
    fn pages_are_served_and_readiness_follows_the_flag() {
        let (admin, ready) = started(None);
        assert_eq!(ask(&admin, "/livez", ""), (200, "alive\n".to_owned()));
        assert_eq!(ask(&admin, "/readyz", "").0, 503);
        ready.store(true, Ordering::Relaxed);
        assert_eq!(ask(&admin, "/readyz", "").0, 200);
        assert!(ask(&admin, "/metrics", "").1.contains("foreshadow_ready 1"));
        assert!(ask(&admin, "/", "").1.contains("<title>Foreshadow</title>"));
        let node: serde_json::Value = serde_json::from_str(&ask(&admin, "/v1/node", "").1).unwrap();
        assert_eq!(node["cores"].as_array().unwrap().len(), 2);
        assert_eq!(ask(&admin, "/nothing", "").0, 404);
        let address = admin.address();
        admin.stop();
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }

    #[test]
    fn one_recording_at_a_time_and_only_of_what_can_be_recorded() {
        let (admin, _ready) = started(None);
        assert_eq!(ask(&admin, "/v1/record?seconds=0", "").0, 400);
        let mut first = TcpStream::connect(admin.address()).unwrap();
        write!(first, "GET /v1/record?seconds=60 HTTP/1.0\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(crate::recording::MAGIC) {
            let mut byte = [0];
            first.read_exact(&mut byte).expect("the magic comes at once");
            head.extend(byte);
        }
        assert_eq!(ask(&admin, "/v1/record?seconds=60", "").0, 409);
        drop(first);
        // Its right is given back; the one second is that of this recording, and its last row comes with its end.
        let body = loop {
            let (status, body) = ask(&admin, "/v1/record?seconds=1", "");
            match status {
                200 => break body,
                status => assert_eq!(status, 409),
            }
        };
        assert!(body.contains("FSREC"), "{body:?}");
        admin.stop();
    }

    #[test]
    fn who_answers_nothing_is_not_waited_for_for_ever() {
        let (admin, _ready) = started(None);
        assert_eq!(ask(&admin, "/v1/prefetch?key=a", "").0, 503, "the question was dropped");
        assert_eq!(ask(&admin, "/v1/prefetch", "").0, 200);
        admin.stop();
    }

    #[test]
    fn a_password_closes_every_page_but_the_health_checks() {
        let (admin, _ready) = started(Some("sesame"));
        for page in ["/", "/metrics", "/v1/node", "/v1/prefetch"] {
            assert_eq!(ask(&admin, page, "").0, 401, "{page}");
            // default:sesame and default:Sesame.
            assert_eq!(ask(&admin, page, "Authorization: Basic ZGVmYXVsdDpzZXNhbWU=\r\n").0, 200, "{page}");
            assert_eq!(ask(&admin, page, "Authorization: Basic ZGVmYXVsdDpTZXNhbWU=\r\n").0, 401, "{page}");
            assert_eq!(ask(&admin, page, "Authorization: Bearer sesame\r\n").0, 200, "{page}");
            assert_eq!(ask(&admin, page, "Authorization: Bearer sesam\r\n").0, 401, "{page}");
        }
        assert_eq!((ask(&admin, "/livez", "").0, ask(&admin, "/readyz", "").0), (200, 503));
        assert_eq!(ask(&admin, "/v1/record?seconds=1", "").0, 401);
        assert_eq!(ask(&admin, "/v1/prefetch?key=a", "").0, 401);
        admin.stop();
    }
}
