//! The embedded service on a real file, from outside: by handles, restarts and failing writes.

use super::*;
use crate::control::metadata::{Metadata, Options, Place, Service, StartError, follow, hold, start};
use crate::control::metadata::{OpenError, journal};
use crate::metadata::{Change, Damage, Event, LeaseId, Outcome, Session, Settled, Stands, Swap, Txn};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("foreshadow-metadata-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("metadata")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over lies in the folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn now() -> Mono {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Mono(BEGAN.elapsed().as_nanos() as u64)
}

fn open(path: &Path) -> Result<Service, StartError> {
    start(Options { place: Place::File(path.to_owned()), clock: now, data_cpus: Vec::new() })
}

/// Runs what waits, for at most 20 seconds.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("it ends in time")
    })
}

fn put(key: &str, value: &str) -> Txn {
    Txn::swap(key.as_bytes(), Stands::Absent, value.as_bytes(), None)
}

async fn listed(metadata: &Metadata) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let listing = metadata.list(Range::prefix(b"")).await.expect("it answers");
    listing.entries.into_iter().map(|entry| (text(entry.key), text(entry.value))).collect()
}

#[test]
fn what_was_told_as_done_is_there_after_a_restart() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    run(async {
        assert_eq!(metadata.txn(put("a", "1")).await, Outcome::Done(Revision(1)));
        assert!(matches!(metadata.txn(put("a", "2")).await, Outcome::Refused(_)));
        assert_eq!(metadata.txn(put("b", "2")).await, Outcome::Done(Revision(2)));
    });
    service.stop();
    assert_eq!(run(metadata.txn(put("c", "3"))), Outcome::NotSent, "it is closed");
    let service = open(&folder.file()).expect("our file");
    run(async {
        let metadata = service.metadata();
        assert_eq!(listed(&metadata).await, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!(metadata.txn(put("c", "3")).await, Outcome::Done(Revision(3)), "revisions go on");
    });
    service.stop();
}

#[test]
fn one_process_has_the_file() {
    let folder = Folder::new();
    let first = open(&folder.file()).expect("a new file");
    let Err(StartError::File(error @ OpenError::InUse { process, .. })) = open(&folder.file()) else {
        panic!("two have it")
    };
    assert_eq!(process, std::process::id());
    assert!(error.to_string().contains("in use by another process"), "{error}");
    first.stop();
    open(&folder.file()).expect("it was given back").stop();
}

#[test]
fn of_many_who_change_one_key_at_a_time_each_change_has_one_winner() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let rounds = 50;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let metadata = service.metadata();
            std::thread::spawn(move || {
                run(async {
                    let (mut expected, mut won) = (Stands::Absent, 0);
                    while won < rounds {
                        let value = format!("{writer}-{won}");
                        match metadata.swap(Swap::new(b"k", expected, value.as_bytes(), None)).await {
                            Settled::Done(revision) => {
                                won += 1;
                                expected = Stands::At(revision);
                            }
                            Settled::Other(there) => expected = Stands::of(there.as_ref()),
                            Settled::Invalid(invalid) => panic!("{invalid}"),
                        }
                    }
                });
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    let listing = run(service.metadata().list(Range::key(b"k"))).expect("it answers");
    assert_eq!(listing.at, Revision(4 * rounds), "nobody won without a change, and nobody overwrote");
    service.stop();
}

#[test]
fn what_waits_together_is_made_to_last_by_one_sync() {
    let folder = Folder::new();
    let (journal, table) = journal::Journal::open(&folder.file(), now()).expect("a new file");
    let (lasting, _) = watch::channel(table.revision());
    let mut embedded = Embedded { table: Rc::new(RefCell::new(table)), journal, lasting, clock: now };
    let (mut asked, mut answers) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let (reply, answer) = oneshot::channel();
        asked.push(Ask::Txn(put(&n.to_string(), ""), reply));
        answers.push(answer);
    }
    embedded.answer(&mut asked).expect("written");
    assert_eq!(embedded.journal.syncs(), 1);
    for (n, mut answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.try_recv(), Ok(Outcome::Done(Revision(n as u64 + 1))));
    }
    embedded.answer(&mut Vec::new()).expect("nothing to write");
    assert_eq!(embedded.journal.syncs(), 1, "nothing changed");
}

#[test]
fn a_write_that_fails_ends_the_service_and_nobody_is_told_of_it_as_done() {
    let folder = Folder::new();
    let (mut journal, table) = journal::Journal::open(&folder.file(), now()).expect("a new file");
    journal.fail_from_now_on();
    let (asks, asked) = mpsc::channel(8);
    let metadata = Metadata { asks, clock: now };
    run(async {
        let mut told = metadata.watch(Range::prefix(b""), Revision::NONE).expect("room");
        let service = tokio::task::spawn_local(serve(journal, table, asked, now));
        assert_eq!(metadata.txn(put("a", "1")).await, Outcome::Unknown);
        service.await.expect("it ends");
        assert_eq!(metadata.txn(put("a", "1")).await, Outcome::NotSent);
        assert!(metadata.list(Range::prefix(b"")).await.is_err());
        // The tasks of watches end with the thread's tasks; none has told anything.
        assert!(told.try_recv().is_err());
    });
    let service = open(&folder.file()).expect("the file as it was");
    assert!(run(listed(&service.metadata())).is_empty());
    service.stop();
}

#[test]
fn a_torn_tail_is_cut_off_and_a_damaged_middle_is_refused_and_left_alone() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    for key in ["a", "b", "c"] {
        assert!(matches!(run(metadata.txn(put(key, "v"))), Outcome::Done(_)));
    }
    service.stop();
    let whole = fs::read(folder.file()).expect("the file");
    fs::write(folder.file(), &whole[..whole.len() - 3]).expect("written");
    let service = open(&folder.file()).expect("a torn tail");
    let metadata = service.metadata();
    let torn_away = [("a".into(), "v".into()), ("b".into(), "v".into())];
    assert_eq!(run(listed(&metadata)), torn_away);
    assert_eq!(run(metadata.txn(put("c", "again"))), Outcome::Done(Revision(3)));
    service.stop();
    let mut file = fs::read(folder.file()).expect("the file");
    let middle = whole.len() / 2;
    file[middle] ^= 1;
    fs::write(folder.file(), &file).expect("written");
    let Err(StartError::File(error @ OpenError::Damaged { damage: Damage::Middle { .. }, .. })) =
        open(&folder.file())
    else {
        panic!("it was taken")
    };
    assert!(error.to_string().starts_with(&folder.file().display().to_string()), "{error}");
    assert_eq!(fs::read(folder.file()).expect("the file"), file, "it is left as it was");
}

#[test]
fn a_long_file_is_replaced_by_a_snapshot_and_goes_on() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    let value = "v".repeat(200 << 10);
    run(async {
        let mut expected = Stands::Absent;
        // Some 6 MiB of changes of one key.
        for _ in 0..30 {
            match metadata.swap(Swap::new(b"k", expected, value.as_bytes(), None)).await {
                Settled::Done(revision) => expected = Stands::At(revision),
                other => panic!("{other:?}"),
            }
        }
    });
    service.stop();
    let bytes = fs::metadata(folder.file()).expect("the file").len();
    assert!(((200 << 10)..(4 << 20)).contains(&bytes), "{bytes} bytes");
    assert!(!folder.0.join("metadata.new").exists());
    let service = open(&folder.file()).expect("our file");
    let listing = run(service.metadata().list(Range::key(b"k"))).expect("it answers");
    assert_eq!((listing.at, listing.entries[0].created), (Revision(30), Revision(1)));
    service.stop();
}

#[test]
fn what_is_no_metadata_file_is_refused_by_name() {
    let folder = Folder::new();
    fs::write(folder.file(), "listen = \"127.0.0.1:7400\"\n").expect("written");
    let Err(StartError::File(error)) = open(&folder.file()) else { panic!("it was taken") };
    assert!(error.to_string().contains("no metadata file"), "{error}");
    let nowhere = folder.0.join("missing/metadata");
    let Err(StartError::File(error @ OpenError::System { .. })) = open(&nowhere) else {
        panic!("there is no folder")
    };
    assert!(error.to_string().contains("Its folder has to exist"), "{error}");
}

#[test]
fn a_watch_tells_what_happens_from_a_revision_on() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    run(async {
        metadata.txn(put("a/1", "")).await;
        metadata.txn(put("b/1", "")).await;
        let mut told = metadata.watch(Range::prefix(b"a/"), Revision::NONE).expect("room");
        let mut keys = Vec::new();
        metadata.txn(put("a/2", "")).await;
        while keys.len() < 2 {
            let Some(Told::Events(past)) = told.recv().await else { panic!("it broke") };
            keys.extend(past.events.iter().map(|event| event.key().to_vec()));
        }
        assert_eq!(keys, [b"a/1", b"a/2"]);
        let lease = metadata.grant(60_000).await.expect("room");
        metadata.txn(Txn::swap(b"a/3", Stands::Absent, b"", Some(lease))).await;
        metadata.revoke(lease).await.expect("it runs");
        let mut events = Vec::new();
        while events.len() < 2 {
            let Some(Told::Events(past)) = told.recv().await else { panic!("it broke") };
            events.extend(past.events);
        }
        assert_eq!(events[1], Event::Gone { key: b"a/3".to_vec(), at: Revision(5) });
    });
    service.stop();
}

#[test]
fn a_watch_that_fell_too_far_behind_is_told_to_list() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    let long = "v".repeat(200 << 10);
    run(async {
        for n in 0..25 {
            assert!(matches!(metadata.txn(put(&n.to_string(), &long)).await, Outcome::Done(_)));
        }
        let mut told = metadata.watch(Range::prefix(b""), Revision::NONE).expect("room");
        assert!(matches!(told.recv().await, Some(Told::Compacted(_))));
        assert_eq!(told.recv().await, None, "nothing more comes");
    });
    service.stop();
}

#[test]
fn whoever_follows_a_range_has_what_stands_there() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    run(async {
        metadata.txn(put("a", "1")).await;
        let (changes, mut taken) = mpsc::channel(4);
        let following = tokio::task::spawn_local(follow(metadata.clone(), Range::prefix(b""), changes));
        assert!(matches!(taken.recv().await, Some(Change::Put(entry)) if entry.value == b"1"));
        assert_eq!(taken.recv().await, Some(Change::Listed(Revision(1))));
        metadata.txn(put("b", "2")).await;
        assert!(matches!(taken.recv().await, Some(Change::Put(entry)) if entry.key == b"b"));
        metadata.txn(Txn { deletes: vec![b"a".to_vec()], ..Txn::default() }).await;
        assert_eq!(taken.recv().await, Some(Change::Gone { key: b"a".to_vec(), at: Revision(3) }));
        drop(taken);
        following.await.expect("it ends when nobody takes the changes");
    });
    service.stop();
}

#[test]
fn an_entry_is_held_under_its_lease_and_goes_when_nobody_holds_it() {
    let folder = Folder::new();
    let service = open(&folder.file()).expect("a new file");
    let metadata = service.metadata();
    run(async {
        let (held, mut seen) = watch::channel(Default::default());
        let holding =
            tokio::task::spawn_local(hold(metadata.clone(), Session::new(b"live", b"us", 300), held));
        let first = seen.wait_for(|held| held.valid_until.is_some()).await.expect("held").clone();
        // Renewed past the end of its first time.
        let until = first.valid_until.expect("valid");
        seen.wait_for(|held| held.valid_until.is_some_and(|now| now.millis_since(until) >= 300))
            .await
            .expect("held");
        assert_eq!(listed(&metadata).await, [("live".into(), "us".into())]);
        assert_eq!(metadata.revoke(LeaseId(1)).await, Ok(()));
        let again =
            seen.wait_for(|held| held.losses == 1 && held.valid_until.is_some()).await.expect("held").clone();
        assert!(again.registered_at > first.registered_at);
        drop(seen);
        holding.await.expect("it ends when nobody looks");
        let mut told =
            metadata.watch(Range::key(b"live"), again.registered_at.expect("registered")).expect("room");
        let Some(Told::Events(past)) = told.recv().await else { panic!("it broke") };
        assert!(matches!(past.events[..], [Event::Gone { .. }]), "its lease ended: {past:?}");
    });
    service.stop();
}
