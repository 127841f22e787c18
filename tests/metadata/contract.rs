//! What both services have to do alike. Each promise is a function that takes a handle to an empty service; the embedded
//! table, whose promises are checked against a model, is the measure of random histories.

use super::*;
use foreshadow::control::metadata::{Told, follow, hold};
use foreshadow::metadata::{
    Change, Compare, Event, Invalid, Kept, LeaseId, Outcome, Put, Revision, Session, Settled, Swap, Table,
};
use tokio::sync::{mpsc, watch};

#[test]
fn the_file_keeps_the_contract() {
    for promise in PROMISES {
        let folder = Folder::new();
        let service = open(Place::File(folder.0.join("metadata")));
        promise(service.metadata());
        service.stop();
    }
}

/// All of it, in the order of trust.
pub const PROMISES: &[fn(Metadata)] = &[
    random_histories_end_as_in_the_table,
    of_two_one_wins,
    what_can_never_be_done_is_told_as_such,
    listings_are_of_their_range_and_in_order,
    watches_tell_everything_once_and_in_order,
    a_lease_takes_its_keys_with_it,
    a_view_follows,
    a_session_is_held,
];

/// A generator that is good enough to choose what a test does next.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Transactions with right, stale and wrong compares, on few keys; every outcome and every listing as the table has it.
fn random_histories_end_as_in_the_table(metadata: Metadata) {
    run(async {
        let mut dice = Dice(7);
        let mut table = Table::new();
        // An empty etcd counts from 1.
        let begin = metadata.list(Range::prefix(b"k")).await.expect("it answers").at;
        while table.revision() < begin {
            table.apply(now(), &Txn { puts: vec![put("other", "", None)], ..Txn::default() });
        }
        for step in 0..300 {
            let key = |dice: &mut Dice| format!("k{}", dice.throw(5));
            let compares = (0..dice.throw(3)).map(|_| {
                let key = key(&mut dice).into_bytes();
                let known = table.list(&Range::key(&key)).entries.into_iter().next();
                let stands = match (dice.throw(4), known) {
                    (0, _) => Stands::Absent,
                    (1, Some(entry)) => Stands::At(entry.created),
                    (_, known) => Stands::of(known.as_ref()),
                };
                Compare { key, stands }
            });
            let compares = compares.collect();
            let mut puts: Vec<Put> = Vec::new();
            let mut deletes: Vec<Vec<u8>> = Vec::new();
            for _ in 0..dice.throw(4) {
                let key = key(&mut dice);
                let taken = puts.iter().any(|put| put.key == key.as_bytes())
                    || deletes.iter().any(|other| other == key.as_bytes());
                match dice.throw(3) {
                    _ if taken => {}
                    0 => deletes.push(key.into_bytes()),
                    _ => puts.push(put(&key, &step.to_string(), None)),
                }
            }
            let txn = Txn { compares, puts, deletes };
            let expected = table.apply(now(), &txn);
            assert_eq!(metadata.txn(txn.clone()).await, expected, "step {step}: {txn:?}");
        }
        let range = Range::prefix(b"k");
        assert_eq!(metadata.list(range.clone()).await, Ok(table.list(&range)));
    });
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Put {
    Put { key: key.into(), value: value.into(), lease }
}

/// Two clients, each of which changes a key by its revision as often as it can.
fn of_two_one_wins(metadata: Metadata) {
    let rounds = 100;
    let first = run(metadata.list(Range::key(b"k"))).expect("it answers").at;
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let metadata = metadata.clone();
            std::thread::spawn(move || {
                run(async {
                    let (mut expected, mut won, mut refused) = (Stands::Absent, 0, 0);
                    while won < rounds {
                        let value = format!("{writer}-{won}");
                        match metadata.swap(Swap::new(b"k", expected, value.as_bytes(), None)).await {
                            Settled::Done(revision) => {
                                won += 1;
                                expected = Stands::At(revision);
                            }
                            Settled::Other(there) => {
                                refused += 1;
                                let there = there.expect("it is never removed");
                                assert_ne!(
                                    there.value,
                                    value.as_bytes(),
                                    "what is ours was taken for another's"
                                );
                                expected = Stands::At(there.modified);
                            }
                            Settled::Invalid(invalid) => panic!("{invalid}"),
                        }
                    }
                    refused
                })
            })
        })
        .collect();
    let refused: u64 = writers.into_iter().map(|writer| writer.join().expect("a writer")).sum();
    assert!(refused > 0, "they met");
    let listing = run(metadata.list(Range::key(b"k"))).expect("it answers");
    assert_eq!(listing.at.0 - first.0, 2 * rounds, "each win is one change, and nothing else is");
}

fn what_can_never_be_done_is_told_as_such(metadata: Metadata) {
    run(async {
        let invalid = |txn| metadata.txn(txn);
        let nothing = Txn { puts: vec![put("", "", None)], ..Txn::default() };
        assert_eq!(invalid(nothing).await, Outcome::Invalid(Invalid::Key));
        let twice = Txn { puts: vec![put("a", "1", None), put("a", "2", None)], ..Txn::default() };
        assert_eq!(invalid(twice).await, Outcome::Invalid(Invalid::Twice));
        let unleased = Txn { puts: vec![put("a", "1", Some(LeaseId(12345)))], ..Txn::default() };
        assert_eq!(invalid(unleased.clone()).await, Outcome::Invalid(Invalid::Lease));
        assert_eq!(there(&metadata, "a").await, None);
        // A refusal comes before: who loses anyway need not have a lease.
        metadata.txn(create("a", "1")).await;
        let late = Txn { compares: vec![Compare { key: b"a".to_vec(), stands: Stands::Absent }], ..unleased };
        assert!(matches!(invalid(late).await, Outcome::Refused(_)));
        // The most that one may be.
        let value = "v".repeat(foreshadow::metadata::VALUE_BYTES_MAX);
        let most = Txn {
            compares: (0..128)
                .map(|n| Compare { key: format!("c{n}").into(), stands: Stands::Absent })
                .collect(),
            puts: (0..128).map(|n| put(&format!("p{n}"), if n < 3 { &value } else { "" }, None)).collect(),
            ..Txn::default()
        };
        assert!(matches!(metadata.txn(most).await, Outcome::Done(_)));
    });
}

fn listings_are_of_their_range_and_in_order(metadata: Metadata) {
    run(async {
        for key in ["b/2", "a/1", "b/10", "b", "c/1", "b/1", "b0"] {
            assert!(matches!(metadata.txn(create(key, key)).await, Outcome::Done(_)));
        }
        let keys = |range| {
            let metadata = &metadata;
            async move {
                let listing = metadata.list(range).await.expect("it answers");
                listing
                    .entries
                    .into_iter()
                    .map(|entry| String::from_utf8(entry.key).unwrap())
                    .collect::<Vec<_>>()
            }
        };
        assert_eq!(keys(Range::prefix(b"b/")).await, ["b/1", "b/10", "b/2"]);
        assert_eq!(keys(Range::key(b"b")).await, ["b"]);
        assert_eq!(keys(Range::prefix(b"d")).await, [""; 0]);
        assert_eq!(keys(Range { from: b"b0".to_vec(), to: None }).await, ["b0", "c/1"]);
        assert_eq!(keys(Range::prefix(b"")).await.len(), 7);
    });
}

fn watches_tell_everything_once_and_in_order(metadata: Metadata) {
    run(async {
        let Outcome::Done(first) = metadata.txn(create("w/0", "")).await else {
            panic!("nobody else writes")
        };
        let mut told = metadata.watch(Range::prefix(b"w/"), first).expect("room");
        let mut expected = Vec::new();
        for n in 1..40 {
            let mut txn = create(&format!("w/{n}"), "v");
            // With another key of the range, one beside it, and one that goes.
            txn.puts.push(put("w/all", &n.to_string(), None));
            txn.puts.push(put("x", "", None));
            txn.deletes = vec![format!("w/{}", n - 1).into()];
            let Outcome::Done(at) = metadata.txn(txn).await else { panic!("nobody else writes") };
            expected.extend([(at, format!("w/{n}")), (at, "w/all".into()), (at, format!("w/{}", n - 1))]);
        }
        let mut events: Vec<(Revision, String)> = Vec::new();
        while events.len() < expected.len() {
            let Some(Told::Events(past)) = told.recv().await else { panic!("it broke") };
            let gone = past.events.iter().filter(|event| matches!(event, Event::Gone { .. })).count();
            assert!(gone * 3 == past.events.len(), "changes come whole");
            events.extend(past.events.iter().map(|e| (e.at(), String::from_utf8(e.key().to_vec()).unwrap())));
        }
        // In which order the writes of one change are told is not promised.
        expected.sort();
        assert!(events.is_sorted_by_key(|event| event.0));
        events.sort();
        assert_eq!(events, expected);
    });
}

fn a_lease_takes_its_keys_with_it(metadata: Metadata) {
    run(async {
        let (kept, left) = (metadata.grant(2000).await.unwrap(), metadata.grant(2000).await.unwrap());
        let puts =
            vec![put("kept", "", Some(kept)), put("left", "", Some(left)), put("also", "", Some(left))];
        let Outcome::Done(at) = metadata.txn(Txn { puts, ..Txn::default() }).await else {
            panic!("it is done")
        };
        assert_eq!(there(&metadata, "kept").await.and_then(|entry| entry.lease), Some(kept));
        let mut told = metadata.watch(Range::prefix(b""), at).expect("room");
        let mut gone = Vec::new();
        while gone.len() < 2 {
            assert_eq!(metadata.keep(kept).await, Kept::Renewed);
            let wait = Duration::from_millis(200);
            if let Ok(told) = tokio::time::timeout(wait, told.recv()).await {
                let Some(Told::Events(past)) = told else { panic!("it broke") };
                gone.extend(past.events.iter().map(|event| event.key().to_vec()));
            }
        }
        gone.sort();
        assert_eq!(gone, [&b"also"[..], b"left"]);
        assert_eq!(metadata.keep(left).await, Kept::Over);
        assert_eq!(metadata.revoke(left).await, Ok(()), "it is over, which is what was wanted");
        assert!(there(&metadata, "kept").await.is_some());
        assert_eq!(metadata.revoke(kept).await, Ok(()));
        assert_eq!(there(&metadata, "kept").await, None);
    });
}

fn a_view_follows(metadata: Metadata) {
    run(async {
        metadata.txn(create("v/1", "a")).await;
        let (changes, mut taken) = mpsc::channel(4);
        let following = tokio::task::spawn_local(follow(metadata.clone(), Range::prefix(b"v/"), changes));
        assert!(matches!(taken.recv().await, Some(Change::Put(entry)) if entry.key == b"v/1"));
        assert!(matches!(taken.recv().await, Some(Change::Listed(_))));
        metadata.txn(create("v/2", "b")).await;
        assert!(matches!(taken.recv().await, Some(Change::Put(entry)) if entry.key == b"v/2"));
        metadata.txn(Txn { deletes: vec![b"v/1".to_vec()], ..Txn::default() }).await;
        assert!(matches!(taken.recv().await, Some(Change::Gone { key, .. }) if key == b"v/1"));
        drop(taken);
        following.await.expect("it ends when nobody takes the changes");
    });
}

fn a_session_is_held(metadata: Metadata) {
    run(async {
        let session = |value: &str| Session::new(b"live", value.as_bytes(), 2000);
        let (held, mut seen) = watch::channel(Default::default());
        let holding = tokio::task::spawn_local(hold(metadata.clone(), session("us"), held));
        let first = seen.wait_for(|held| held.valid_until.is_some()).await.expect("held").clone();
        let (held, mut other) = watch::channel(Default::default());
        let waiting = tokio::task::spawn_local(hold(metadata.clone(), session("them"), held));
        let until = first.valid_until.expect("valid");
        // Renewed past its first time, while somebody else waits for it.
        let renewed = |now: Mono| now.millis_since(until) >= 2000;
        seen.wait_for(|held| held.valid_until.is_some_and(renewed)).await.expect("held");
        let blocked = other.borrow_and_update().clone();
        assert_eq!(
            (blocked.valid_until, blocked.other.map(|entry| entry.value)),
            (None, Some(b"us".to_vec()))
        );
        assert_eq!(there(&metadata, "live").await.map(|entry| entry.modified), first.registered_at);
        drop(seen);
        holding.await.expect("it ends when nobody looks");
        other.wait_for(|held| held.valid_until.is_some()).await.expect("held");
        assert_eq!(there(&metadata, "live").await.map(|entry| entry.value), Some(b"them".to_vec()));
        drop(other);
        waiting.await.expect("it ends when nobody looks");
    });
}
