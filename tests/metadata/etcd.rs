//! A real etcd: the contract, and what only happens there. Each test is done with every etcd on this machine; without one it
//! says loudly that it is skipped.

use super::*;
use crate::contract::PROMISES;
use etcd_client::{Client, CompactionOptions, DeleteOptions};
use foreshadow::control::metadata::{Told, follow, hold};
use foreshadow::metadata::{Change, LeaseId, Outcome, Revision, Session, Settled, Swap};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use tokio::sync::{mpsc, watch};

/// A server that ends with its owner, and its data with it.
struct Etcd {
    child: Child,
    program: PathBuf,
    ports: [u16; 2],
    data: Folder,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// An empty one of each etcd on this machine: that of the peers, and the distribution's. None is said loudly.
    fn each() -> impl Iterator<Item = Etcd> {
        let home = PathBuf::from(std::env::var("HOME").unwrap_or_default());
        let folders = [home.join(".cache/foreshadow-peers/bin"), "/usr/bin".into(), "/usr/local/bin".into()];
        let found: Vec<_> =
            folders.iter().map(|folder| folder.join("etcd")).filter(|path| path.exists()).collect();
        if found.is_empty() {
            // Not by `eprintln`, which a passing test keeps to itself.
            let said = writeln!(
                std::io::stderr(),
                "\nSKIPPED: there is no etcd on this machine; scripts/setup-etcd installs it\n"
            );
            said.expect("standard error is open");
        }
        found.into_iter().map(Etcd::start)
    }

    fn start(program: PathBuf) -> Etcd {
        // Both are held until both are known, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = free.map(|listener| listener.local_addr().expect("bound").port());
        let data = Folder::new();
        let child = Etcd::spawn(&program, ports, &data);
        let mut etcd = Etcd { child, program, ports, data };
        etcd.answers();
        etcd
    }

    fn spawn(program: &PathBuf, [clients, peers]: [u16; 2], data: &Folder) -> Child {
        let mut command = Command::new(program);
        let client_url = format!("http://127.0.0.1:{clients}");
        let peer_url = format!("http://127.0.0.1:{peers}");
        command.arg("--data-dir").arg(&data.0).args(["--name", "only", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("only={peer_url}")]);
        // Leases of a second or two, for tests: a lease is never shorter than an election.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it starts")
    }

    /// Waits until it serves.
    fn answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while run(async { self.client().await.get("/", None).await }).is_err() {
            assert!(Instant::now() < deadline, "etcd does not answer");
            assert!(self.child.try_wait().expect("our child").is_none(), "etcd ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn place(&self) -> Place {
        Place::Etcd(vec![format!("127.0.0.1:{}", self.ports[0])])
    }

    /// A client of its own, for what our interface does not do.
    async fn client(&self) -> Client {
        let addresses = [format!("127.0.0.1:{}", self.ports[0])];
        Client::connect(addresses, None).await.expect("no server is asked")
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }

    fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = Etcd::spawn(&self.program, self.ports, &self.data);
        self.answers();
    }
}

#[test]
fn etcd_keeps_the_contract() {
    for etcd in Etcd::each() {
        for promise in PROMISES {
            let service = open(etcd.place());
            promise(service.metadata());
            service.stop();
            run(async { etcd.client().await.delete("", Some(DeleteOptions::new().with_all_keys())).await })
                .expect("emptied");
        }
    }
}

#[test]
fn a_server_that_is_stopped_in_a_change_leaves_it_unknown_until_it_is_settled() {
    for etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let Outcome::Done(before) = metadata.txn(create("k", "0")).await else { panic!("it serves") };
            etcd.signal("STOP");
            assert_eq!(
                metadata.txn(create("other", "")).await,
                Outcome::Unknown,
                "nobody knows, in bounded time"
            );
            assert!(metadata.list(Range::key(b"k")).await.is_err());
            let change = Swap::new(b"k", Stands::At(before), b"mine", None);
            let asking = metadata.clone();
            let settling = tokio::task::spawn_local(async move { asking.swap(change).await });
            // Long enough for an attempt to be on its way, and to be given up.
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(!settling.is_finished(), "nothing is known while it is stopped");
            etcd.signal("CONT");
            let Settled::Done(at) = settling.await.expect("it settles") else {
                panic!("nobody else changes it")
            };
            let entry = there(&metadata, "k").await.expect("it stands");
            assert_eq!((&entry.value[..], entry.modified), (&b"mine"[..], at));
            let found = etcd.client().await.get("k", None).await.expect("it serves");
            assert_eq!(found.kvs()[0].version(), 2, "it was changed once, however often we asked");
        });
        service.stop();
    }
}

#[test]
fn what_was_done_outlives_a_crash_and_whoever_follows_goes_on() {
    for mut etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        let (changes, mut taken) = mpsc::channel(64);
        let follower = {
            let metadata = metadata.clone();
            std::thread::spawn(move || run(follow(metadata, Range::prefix(b"k/"), changes)))
        };
        let mut next = |wanted: &str| loop {
            match taken.blocking_recv().expect("it follows") {
                Change::Put(entry) if entry.key == wanted.as_bytes() => return,
                Change::Listed(_) => {}
                other => panic!("{other:?} instead of {wanted}"),
            }
        };
        let done = |key: &str| {
            let change = Swap::new(key.as_bytes(), Stands::Absent, b"v", None);
            assert!(matches!(run(metadata.swap(change)), Settled::Done(_)), "{key}");
        };
        done("k/1");
        next("k/1");
        etcd.restart();
        assert!(run(there(&metadata, "k/1")).is_some());
        done("k/2");
        next("k/2");
        drop(taken);
        follower.join().expect("it ends");
        service.stop();
    }
}

#[test]
fn compaction_tells_a_watch_to_list_and_whoever_follows_misses_nothing() {
    for etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let Outcome::Done(first) = metadata.txn(create("k/0", "")).await else { panic!("it serves") };
            let mut last = first;
            for n in 1..20 {
                let Outcome::Done(at) = metadata.txn(create(&format!("k/{n}"), "")).await else {
                    panic!("it serves")
                };
                last = at;
            }
            let compaction = Some(CompactionOptions::new().with_physical());
            etcd.client().await.compact(last.0 as i64, compaction).await.expect("compacted");
            let mut told = metadata.watch(Range::prefix(b"k/"), first).expect("room");
            let Some(Told::Compacted(compacted)) = told.recv().await else {
                panic!("that part of the past is gone")
            };
            assert_eq!(compacted.to, Revision(last.0 - 1));
            assert_eq!(told.recv().await, None);
            // From where it said on, a watch goes.
            let mut told = metadata.watch(Range::prefix(b"k/"), compacted.to).expect("room");
            let Some(Told::Events(past)) = told.recv().await else { panic!("from there on all is known") };
            assert_eq!(past.events[0].key(), b"k/19");
        });
        service.stop();
    }
}

#[test]
fn whoever_follows_slowly_over_a_compaction_lists_and_has_everything() {
    for etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let (changes, mut taken) = mpsc::channel(1);
            let following = tokio::task::spawn_local(follow(metadata.clone(), Range::prefix(b"k/"), changes));
            assert!(matches!(taken.recv().await, Some(Change::Listed(_))));
            let mut last = Revision::NONE;
            for n in 0..200 {
                let Outcome::Done(at) = metadata.txn(create(&format!("k/{n}"), "")).await else {
                    panic!("it serves")
                };
                last = at;
            }
            etcd.client().await.compact(last.0 as i64, None).await.expect("compacted");
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 200 {
                match taken.recv().await.expect("it follows") {
                    Change::Put(entry) => assert!(seen.insert(entry.key), "nothing is told twice"),
                    Change::Listed(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            drop(taken);
            following.await.expect("it ends");
        });
        service.stop();
    }
}

#[test]
fn leases_lost_all_at_once_are_followed_by_new_ones() {
    for etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let mut nodes = Vec::new();
            for node in 0..5 {
                let (held, seen) = watch::channel(Default::default());
                let session =
                    Session::new(format!("live/{node}").as_bytes(), format!("node {node}").as_bytes(), 3000);
                tokio::task::spawn_local(hold(metadata.clone(), session, held));
                nodes.push(seen);
            }
            for seen in &mut nodes {
                seen.wait_for(|held| held.valid_until.is_some()).await.expect("held");
            }
            let mut client = etcd.client().await;
            let leases = client.leases().await.expect("it serves");
            assert_eq!(leases.leases().len(), 5);
            for lease in leases.leases() {
                client.lease_revoke(lease.id()).await.expect("revoked");
            }
            for seen in &mut nodes {
                let again = |held: &foreshadow::control::metadata::Held| {
                    held.losses == 1 && held.valid_until.is_some()
                };
                seen.wait_for(again).await.expect("held");
            }
            let listing = metadata.list(Range::prefix(b"live/")).await.expect("it answers");
            let values: Vec<_> =
                listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.value)).collect();
            assert_eq!(values, ["node 0", "node 1", "node 2", "node 3", "node 4"]);
        });
        service.stop();
    }
}

#[test]
fn a_session_whose_server_is_stopped_ends_by_its_own_clock_and_comes_back() {
    for etcd in Etcd::each() {
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let (held, mut seen) = watch::channel(Default::default());
            tokio::task::spawn_local(hold(metadata.clone(), Session::new(b"live", b"us", 3000), held));
            let first = seen.wait_for(|held| held.valid_until.is_some()).await.expect("held").clone();
            etcd.signal("STOP");
            tokio::time::sleep(Duration::from_millis(3200)).await;
            let until = seen.borrow_and_update().valid_until.expect("it is registered as far as it knows");
            assert!(until <= now(), "no renewal was answered, so it counts on nothing");
            etcd.signal("CONT");
            seen.wait_for(|held| held.valid_until.is_some_and(|until| until > now())).await.expect("held");
            let entry = there(&metadata, "live").await.expect("it stands");
            assert_eq!(entry.value, b"us");
            assert!(entry.modified >= first.registered_at.expect("registered"));
            assert!(entry.lease.is_some_and(|lease| lease != LeaseId(0)));
        });
        service.stop();
    }
}

#[test]
fn an_etcd_that_is_not_there_is_told_in_bounded_time_and_used_when_it_comes() {
    for mut etcd in Etcd::each() {
        etcd.kill();
        let service = open(etcd.place());
        let metadata = service.metadata();
        run(async {
            let began = Instant::now();
            assert!(!matches!(metadata.txn(create("k", "")).await, Outcome::Done(_)));
            assert!(metadata.list(Range::prefix(b"")).await.is_err());
            assert!(metadata.grant(1000).await.is_err());
            assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        });
        etcd.restart();
        let change = Swap::new(b"later", Stands::Absent, b"", None);
        assert!(matches!(run(metadata.swap(change)), Settled::Done(_)));
        service.stop();
    }
}
