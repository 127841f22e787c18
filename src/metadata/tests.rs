//! The table against a model, and its file after every kind of cut and change.

use super::log::{self, Frame, HEAD_BYTES};
use super::table::{LEASES_MAX, LOG_BYTES_MAX, TABLE_BYTES_MAX};
use super::*;
use crate::clock::Mono;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(millis: u64) -> Mono {
    Mono(millis * Mono::NANOS_PER_MILLI)
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Put {
    Put { key: key.into(), value: value.into(), lease }
}

fn write(puts: &[(&str, &str)]) -> Txn {
    Txn { puts: puts.iter().map(|(key, value)| put(key, value, None)).collect(), ..Txn::default() }
}

fn everything() -> Range {
    Range::prefix(b"")
}

fn after(table: &Table, revision: u64) -> Vec<Event> {
    table.after(&everything(), Revision(revision), usize::MAX).expect("it is not forgotten").events
}

#[test]
fn of_two_who_change_the_same_revision_one_wins() {
    let mut table = Table::new();
    assert_eq!(table.apply(at(0), &write(&[("k", "0")])), Outcome::Done(Revision(1)));
    let swap = |value: &str| Txn::swap(b"k", Stands::At(Revision(1)), value.as_bytes(), None);
    assert_eq!(table.apply(at(0), &swap("a")), Outcome::Done(Revision(2)));
    let Outcome::Refused(refused) = table.apply(at(0), &swap("b")) else { panic!("both won") };
    assert_eq!(refused.at, Revision(2));
    let there = refused.there[0].as_ref().expect("something stands there");
    assert_eq!((&there.value[..], there.created, there.modified), (&b"a"[..], Revision(1), Revision(2)));
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let mut table = Table::new();
    table.apply(at(0), &write(&[("a", "1"), ("b", "1")]));
    let mut txn = write(&[("a", "2"), ("c", "2")]);
    txn.deletes = vec![b"b".to_vec()];
    txn.compares = vec![
        Compare { key: b"a".to_vec(), stands: Stands::At(Revision(1)) },
        Compare { key: b"c".to_vec(), stands: Stands::Absent },
        Compare { key: b"b".to_vec(), stands: Stands::Absent },
    ];
    let before = table.clone();
    let Outcome::Refused(refused) = table.apply(at(0), &txn) else { panic!("b stands") };
    assert_eq!(refused.there.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert!(table == before && after(&table, 1).is_empty());
    txn.compares.pop();
    assert_eq!(table.apply(at(0), &txn), Outcome::Done(Revision(2)));
    let entries = table.list(&everything()).entries;
    let seen: Vec<_> =
        entries.iter().map(|e| (&e.key[..], &e.value[..], e.created.0, e.modified.0)).collect();
    assert_eq!(seen, [(&b"a"[..], &b"2"[..], 1, 2), (b"c", b"2", 2, 2)]);
    assert_eq!(after(&table, 1).iter().map(Event::at).collect::<Vec<_>>(), [Revision(2); 3], "one change");
}

#[test]
fn what_changes_nothing_is_no_change() {
    let mut table = Table::new();
    table.apply(at(0), &write(&[("a", "1")]));
    table.take_frame().expect("something changed");
    let nothing = Txn { deletes: vec![b"z".to_vec()], ..Txn::default() };
    assert_eq!(table.apply(at(0), &nothing), Outcome::Done(Revision(1)));
    assert_eq!(table.apply(at(0), &Txn::default()), Outcome::Done(Revision(1)));
    assert_eq!(table.take_frame(), None);
}

#[test]
fn limits_are_refused_by_name_and_change_nothing() {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let large = "v".repeat(VALUE_BYTES_MAX + 1);
    let many: Vec<_> = (0..=TXN_OPERATIONS_MAX).map(|n| put(&n.to_string(), "", None)).collect();
    let bytes: Vec<_> = (0..5).map(|n| put(&n.to_string(), &large[1..], None)).collect();
    let compares = |n| vec![Compare { key: b"k".to_vec(), stands: Stands::Absent }; n];
    let puts = |puts: Vec<Put>| Txn { puts, ..Txn::default() };
    let delete = |keys: &[&str]| Txn {
        puts: vec![put("a", "", None)],
        deletes: keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
        ..Txn::default()
    };
    let cases = [
        (puts(vec![put("", "", None)]), Invalid::Key),
        (puts(vec![put(&long, "", None)]), Invalid::Key),
        (delete(&[&long]), Invalid::Key),
        (puts(vec![put("k", &large, None)]), Invalid::Value),
        (puts(many), Invalid::Operations),
        (Txn { compares: compares(TXN_OPERATIONS_MAX + 1), ..Txn::default() }, Invalid::Operations),
        (puts(bytes), Invalid::Bytes),
        (puts(vec![put("a", "1", None), put("a", "2", None)]), Invalid::Twice),
        (delete(&["b", "a"]), Invalid::Twice),
        (puts(vec![put("a", "1", Some(LeaseId(3)))]), Invalid::Lease),
    ];
    let mut table = Table::new();
    for (txn, invalid) in cases {
        assert_eq!(table.apply(at(0), &txn), Outcome::Invalid(invalid));
    }
    assert!(table == Table::new() && table.take_frame().is_none());
    let longest =
        Txn { compares: compares(TXN_OPERATIONS_MAX), ..puts(vec![put(&long[1..], &large[1..], None)]) };
    assert_eq!(table.apply(at(0), &longest), Outcome::Done(Revision(1)), "the limits themselves are allowed");
}

#[test]
fn a_full_table_refuses_more_and_takes_less() {
    let mut table = Table::new();
    let value = "v".repeat(VALUE_BYTES_MAX);
    let mut n = 0;
    let refused = loop {
        match table.apply(at(0), &write(&[(&format!("k{n}"), &value)])) {
            Outcome::Done(_) => n += 1,
            refused => break refused,
        }
        table.take_frame();
        assert!(n < 1000, "it has a limit");
    };
    assert_eq!(refused, Outcome::Invalid(Invalid::Full));
    assert!((TABLE_BYTES_MAX - VALUE_BYTES_MAX..=TABLE_BYTES_MAX).contains(&table.bytes()));
    let done = |outcome| matches!(outcome, Outcome::Done(_));
    assert!(done(table.apply(at(0), &write(&[("k0", &value)]))), "as much in the place of as much");
    assert!(done(table.apply(at(0), &write(&[("k0", "")]))));
    assert!(done(table.apply(at(0), &write(&[("new", &value[100..])]))));
    let deletes = (0..n).map(|n| format!("k{n}").into_bytes()).collect();
    assert!(done(table.apply(at(0), &Txn { deletes, ..write(&[("new", "")]) })));
    assert!(table.bytes() < 100);
}

#[test]
fn a_lease_takes_its_keys_with_it_and_is_kept_by_renewals() {
    let mut table = Table::new();
    let (short, long) = (table.grant(at(0), 100).unwrap(), table.grant(at(0), 1000).unwrap());
    let puts = vec![
        put("a", "", Some(short)),
        put("b", "", Some(short)),
        put("c", "", Some(long)),
        put("d", "", None),
    ];
    table.apply(at(0), &Txn { puts, ..Txn::default() });
    // Written again without it, `b` no longer goes with the lease.
    table.apply(at(0), &write(&[("b", "stays")]));
    assert_eq!(table.next_expiry(), Some(at(100)));
    assert!(table.keep(at(99), short));
    table.expire(at(198));
    assert_eq!(table.list(&everything()).entries.len(), 4);
    table.expire(at(199));
    let keys: Vec<_> = table.list(&everything()).entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, [b"b", b"c", b"d"]);
    assert_eq!(after(&table, 2), [Event::Gone { key: b"a".to_vec(), at: Revision(3) }]);
    assert!(!table.keep(at(199), short) && !table.revoke(at(199), short), "it is over");
    assert_eq!(table.next_expiry(), Some(at(1000)));
    let late = Txn::swap(b"a", Stands::Absent, b"", Some(short));
    assert_eq!(table.apply(at(200), &late), Outcome::Invalid(Invalid::Lease));
    assert!(table.revoke(at(200), long));
    assert_eq!(table.next_expiry(), None);
    assert!(table.grant(at(200), 1).unwrap() > long, "numbers of leases do not come back");
}

#[test]
fn a_transaction_sees_no_key_whose_lease_is_over() {
    let mut table = Table::new();
    let lease = table.grant(at(0), 100).unwrap();
    table.apply(at(0), &Txn::swap(b"k", Stands::Absent, b"theirs", Some(lease)));
    assert!(matches!(table.apply(at(99), &Txn::swap(b"k", Stands::Absent, b"", None)), Outcome::Refused(_)));
    // Nobody called `expire`.
    assert_eq!(table.apply(at(100), &Txn::swap(b"k", Stands::Absent, b"", None)), Outcome::Done(Revision(3)));
}

#[test]
fn there_are_so_many_leases_and_no_more() {
    let mut table = Table::new();
    for _ in 0..LEASES_MAX {
        table.grant(at(0), 10).unwrap();
    }
    assert_eq!(table.grant(at(9), 10), Err(Invalid::Full));
    assert!(table.grant(at(10), 10).is_ok(), "they ended");
}

#[test]
fn watches_get_whole_changes_and_are_told_when_they_fell_too_far_behind() {
    let mut table = Table::new();
    for _ in 0..4 {
        table.apply(at(0), &write(&[("a", ""), ("b", ""), ("other", "")]));
    }
    let range = Range { from: b"a".to_vec(), to: Some(b"c".to_vec()) };
    let past = table.after(&range, Revision(1), 3).unwrap();
    assert_eq!((past.events.len(), past.at), (4, Revision(3)), "a change is not cut");
    let past = table.after(&range, past.at, 3).unwrap();
    assert_eq!((past.events.len(), past.at), (2, Revision(4)));
    table.apply(at(0), &write(&[("other", "")]));
    assert_eq!(table.after(&range, Revision(4), 3), Ok(Past { events: vec![], at: Revision(5) }));
    assert_eq!(table.after(&range, Revision(9), 3), Ok(Past { events: vec![], at: Revision(9) }));
    for n in 0..10_000 {
        table.apply(at(0), &write(&[("a", &n.to_string())]));
        table.take_frame();
    }
    let Err(Compacted { to }) = table.after(&range, Revision(5), usize::MAX) else {
        panic!("nothing is forgotten")
    };
    let past = table.after(&range, to, usize::MAX).unwrap();
    assert_eq!(past.events.len() as u64, table.revision().0 - to.0, "from there on all is known");
    assert!((1000..10_000).contains(&past.events.len()));
}

#[test]
fn the_past_is_bounded_in_bytes_too() {
    let mut table = Table::new();
    let value = "v".repeat(VALUE_BYTES_MAX);
    for _ in 0..100 {
        table.apply(at(0), &write(&[("a", &value)]));
        table.take_frame();
    }
    assert!(table.after(&everything(), Revision(80), usize::MAX).is_err());
    assert_eq!(after(&table, 90).len(), 10);
}

/// A file with a history of every kind of step, the table after each frame, and where each frame ends.
fn history() -> (Vec<u8>, Vec<(usize, Table)>) {
    let mut table = Table::new();
    table.apply(at(0), &write(&[("before", "snapshot"), ("x", "1")]));
    let old = table.grant(at(0), 1000).unwrap();
    table.apply(at(0), &Txn { puts: vec![put("leased", "1", Some(old))], ..Txn::default() });
    table.take_frame();
    let mut file = table.snapshot();
    let mut states = vec![(file.len(), table.clone())];
    let mut lease = None;
    for step in 0..8 {
        match step {
            0 => drop(table.apply(at(1), &write(&[("a", "1"), ("b", "2")]))),
            1 => lease = table.grant(at(2), 50).ok(),
            2 => drop(table.apply(at(3), &Txn { puts: vec![put("c", "3", lease)], ..Txn::default() })),
            3 => drop(table.apply(at(4), &Txn { deletes: vec![b"a".to_vec()], ..write(&[("b", "4")]) })),
            4 => table.expire(at(60)),
            // Two transactions in one frame, as one write to the file has them.
            5 => {
                table.apply(at(61), &write(&[("d", "5")]));
                table.apply(at(61), &write(&[("d", "6"), ("e", "")]));
            }
            6 => drop(table.revoke(at(62), old)),
            _ => drop(table.apply(at(63), &write(&[("before", "after")]))),
        }
        file.extend(table.take_frame().expect("each step changes something"));
        states.push((file.len(), table.clone()));
    }
    (file, states)
}

#[test]
fn a_file_cut_at_any_byte_is_what_it_was_after_its_last_whole_frame() {
    let (file, states) = history();
    let snapshot_end = states[0].0;
    for len in 0..=file.len() {
        let recovered = recover(at(100), &file[..len]);
        if len < HEAD_BYTES {
            assert_eq!(recovered, Err(Damage::Other), "{len} bytes");
        } else if len < snapshot_end {
            assert_eq!(recovered, Err(Damage::Snapshot), "{len} bytes");
        } else {
            let (whole_bytes, table) =
                states.iter().rev().find(|(end, _)| *end <= len).expect("the first ends before");
            let recovered = recovered.unwrap_or_else(|damage| panic!("{len} bytes: {damage}"));
            assert!(recovered.table == *table, "{len} bytes");
            assert_eq!(recovered.whole_bytes, *whole_bytes, "{len} bytes");
        }
    }
}

#[test]
fn what_a_crash_leaves_of_the_last_write_is_cut_off() {
    let (file, states) = history();
    let (whole, table) = &states[states.len() - 2];
    let last = &file[*whole..];
    // The file had grown and nothing, or only a later page, had reached it.
    let zeros = vec![0; last.len()];
    let torn = [&vec![0; last.len() / 2][..], &last[last.len() / 2..]].concat();
    for tail in [&zeros[..], &zeros[..5], &torn[..], &[0xFF; 5000][..]] {
        let recovered = recover(at(100), &[&file[..*whole], tail].concat()).expect("a torn tail");
        assert!(recovered.table == *table && recovered.whole_bytes == *whole);
    }
}

#[test]
fn a_file_with_any_byte_changed_is_refused_or_ends_before_its_last_frame() {
    let (file, states) = history();
    let (last_whole, before_last) = &states[states.len() - 2];
    for byte in 0..file.len() {
        let mut changed = file.clone();
        changed[byte] ^= 0x41;
        match recover(at(100), &changed) {
            Err(Damage::Other) => assert!(byte < HEAD_BYTES),
            Err(Damage::Snapshot) => assert!((HEAD_BYTES..states[0].0).contains(&byte), "byte {byte}"),
            Err(Damage::Middle { at, whole_again }) => {
                assert!(at <= byte && byte < whole_again && byte < *last_whole, "byte {byte}");
                assert!(
                    states.iter().any(|(end, _)| *end == at)
                        && states.iter().any(|(end, _)| *end == whole_again)
                );
            }
            Err(damage) => panic!("byte {byte}: {damage}"),
            Ok(recovered) => {
                assert!(byte >= *last_whole, "byte {byte} was overlooked");
                assert!(recovered.table == *before_last);
            }
        }
    }
}

#[test]
fn frames_that_are_missing_twice_there_or_of_another_file_are_refused() {
    let (file, states) = history();
    let frame = |n: usize| &file[states[n].0..states[n + 1].0];
    let end = states[0].0;
    let missing = [&file[..end], frame(2), frame(3)].concat();
    let twice = [&file[..end], frame(0), frame(0)].concat();
    // It follows, but what it removes is not there.
    let mut records = Vec::new();
    log::Record::Delete { key: b"never" }.encode(&mut records);
    log::Record::Change.encode(&mut records);
    let strange = [&file[..], &log::frame(states[8].1.revision(), &records)].concat();
    let unknown = [&file[..], &log::frame(states[8].1.revision(), &[77])].concat();
    for (damaged, at_byte) in
        [(missing, end), (twice, end + frame(0).len()), (strange, file.len()), (unknown, file.len())]
    {
        let Err(damage @ Damage::Order { at, .. }) = recover(at(100), &damaged) else {
            panic!("it was taken")
        };
        assert_eq!(at, at_byte);
        assert!(damage.to_string().contains("put back a copy"), "{damage}");
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_by_that_name() {
    let (mut file, _) = history();
    file[8] = 2;
    let crc = crc32fast::hash(&file[..12]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    let damage = recover(at(0), &file).unwrap_err();
    assert_eq!(damage, Damage::Version(2));
    assert!(damage.to_string().contains("newer version"), "{damage}");
}

#[test]
fn after_recovery_leases_run_anew_and_watches_go_on_from_the_snapshot() {
    let (file, states) = history();
    // After the first four steps, with both leases running.
    let mut table = recover(at(5000), &file[..states[4].0]).expect("whole").table;
    assert_eq!(table.next_expiry(), Some(at(5050)));
    table.expire(at(5049));
    assert_eq!(table.list(&Range::key(b"c")).entries.len(), 1);
    let snapshot = states[0].1.revision();
    assert_eq!(table.after(&everything(), snapshot, usize::MAX).unwrap().events.len(), 5);
    assert!(table.after(&everything(), Revision(snapshot.0 - 1), usize::MAX).is_err());
    table.expire(at(5050));
    assert_eq!(table.list(&Range::key(b"c")).entries.len(), 0);
    // It goes on where it was, in the same file.
    let frame = table.take_frame().expect("a lease ended");
    let file = [&file[..states[4].0], &frame].concat();
    assert!(recover(at(6000), &file).expect("whole").table == table);
}

#[test]
fn snapshots_come_due_by_what_was_logged_and_forget_nothing() {
    let mut table = Table::new();
    let value = "v".repeat(VALUE_BYTES_MAX / 2);
    let mut logged = 0;
    let mut file = table.snapshot();
    while !table.snapshot_due() {
        table.apply(at(0), &write(&[("k", &value)]));
        let frame = table.take_frame().expect("a change");
        logged += frame.len();
        file.extend(frame);
        assert!(logged < 2 * LOG_BYTES_MAX);
    }
    assert!(logged >= LOG_BYTES_MAX);
    assert!(
        recover(at(0), &file).expect("whole").table.snapshot_due(),
        "a file that is long is long for its next owner"
    );
    let small = table.snapshot();
    assert!(small.len() < VALUE_BYTES_MAX && !table.snapshot_due());
    let recovered = recover(at(0), &small).expect("whole");
    assert!(recovered.table == table && !recovered.table.snapshot_due());
}

/// What the model does: the same words, the plainest way.
#[derive(Default)]
struct Model {
    revision: u64,
    /// Key: value, created, modified, lease.
    entries: BTreeMap<String, (String, u64, u64, Option<u64>)>,
    /// Lease: time, end.
    leases: BTreeMap<u64, (u64, u64)>,
    granted: u64,
    /// Revision, key, value if it was written.
    events: Vec<(u64, String, Option<String>)>,
}

impl Model {
    fn expire(&mut self, now: u64) {
        let over: Vec<u64> =
            self.leases.iter().filter(|(_, (_, end))| *end <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.end(lease));
    }

    fn end(&mut self, lease: u64) {
        self.leases.remove(&lease);
        let keys: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.3 == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        self.revision += u64::from(!keys.is_empty());
        for key in keys {
            self.entries.remove(&key);
            self.events.push((self.revision, key, None));
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Compare the first key with its revision (right or stale) or absence, put the second under a lease maybe, delete the third.
    Txn {
        compare: (u8, u8),
        put: Option<(u8, u8, Option<u8>)>,
        delete: Option<u8>,
    },
    Grant(u16),
    Keep(u8),
    Revoke(u8),
    Wait(u16),
    /// What is logged is made to last, and a crash follows that tears so many bytes off what was not.
    Crash(u8),
    Snapshot,
}

fn ops() -> impl Strategy<Value = Op> {
    let key = 0..4u8;
    prop_oneof![
        8 => (
            (key.clone(), 0..4u8),
            proptest::option::of((key.clone(), any::<u8>(), proptest::option::of(1..5u8))),
            proptest::option::of(key),
        )
            .prop_map(|(compare, put, delete)| Op::Txn { compare, put, delete }),
        2 => (1..200u16).prop_map(Op::Grant),
        2 => (1..5u8).prop_map(Op::Keep),
        1 => (1..5u8).prop_map(Op::Revoke),
        2 => (0..150u16).prop_map(Op::Wait),
        1 => any::<u8>().prop_map(Op::Crash),
        1 => Just(Op::Snapshot),
    ]
}

proptest! {
    /// Random histories with crashes, compared after each step. A crash tears what was not made to last; leases run anew then.
    #[test]
    fn the_table_does_as_the_model(ops in proptest::collection::vec(ops(), 1..120)) {
        let (mut table, mut model) = (Table::new(), Model::default());
        let mut file = table.snapshot();
        let mut now = 0;
        for op in ops {
            let name = |key: u8| format!("k{key}");
            model.expire(now);
            match op {
                Op::Txn { compare: (compared, how), put: to_put, delete } => {
                    let known = model.entries.get(&name(compared)).map(|entry| entry.2);
                    let stands = match (how, known) {
                        (0, _) => Stands::Absent,
                        (1, Some(modified)) => Stands::At(Revision(modified - 1)),
                        (1, None) => Stands::At(Revision(1)),
                        (_, known) => known.map_or(Stands::Absent, |modified| Stands::At(Revision(modified))),
                    };
                    let delete = delete.filter(|key| to_put.is_none_or(|(put, ..)| put != *key));
                    let txn = Txn {
                        compares: vec![Compare { key: name(compared).into(), stands }],
                        puts: to_put.iter().map(|(key, value, lease)| {
                            put(&name(*key), &value.to_string(), lease.map(|lease| LeaseId(lease.into())))
                        }).collect(),
                        deletes: delete.iter().map(|key| name(*key).into()).collect(),
                    };
                    let holds = match stands {
                        Stands::Absent => known.is_none(),
                        Stands::At(Revision(modified)) => known == Some(modified),
                    };
                    let lease = to_put.and_then(|(.., lease)| lease).map(u64::from);
                    let leased = lease.is_none_or(|lease| model.leases.contains_key(&lease));
                    let outcome = table.apply(at(now), &txn);
                    if holds && leased {
                        let next = model.revision + 1;
                        if let Some((key, value, lease)) = to_put {
                            let created = model.entries.get(&name(key)).map_or(next, |entry| entry.1);
                            let entry = (value.to_string(), created, next, lease.map(u64::from));
                            model.entries.insert(name(key), entry);
                            model.events.push((next, name(key), Some(value.to_string())));
                            model.revision = next;
                        }
                        if let Some(key) = delete.filter(|key| model.entries.remove(&name(*key)).is_some()) {
                            model.events.push((next, name(key), None));
                            model.revision = next;
                        }
                        prop_assert_eq!(outcome, Outcome::Done(Revision(model.revision)));
                    } else if holds {
                        prop_assert_eq!(outcome, Outcome::Invalid(Invalid::Lease));
                    } else {
                        let Outcome::Refused(refused) = outcome else { panic!("{outcome:?}") };
                        prop_assert_eq!(refused.at, Revision(model.revision));
                        prop_assert_eq!(refused.there[0].as_ref().map(|entry| entry.modified.0), known);
                    }
                }
                Op::Grant(ttl) => {
                    model.granted += 1;
                    model.leases.insert(model.granted, (ttl.into(), now + u64::from(ttl)));
                    prop_assert_eq!(table.grant(at(now), ttl.into()), Ok(LeaseId(model.granted)));
                }
                Op::Keep(lease) => {
                    let kept = model.leases.get_mut(&lease.into()).map(|(ttl, end)| *end = now + *ttl).is_some();
                    prop_assert_eq!(table.keep(at(now), LeaseId(lease.into())), kept);
                }
                Op::Revoke(lease) => {
                    let there = model.leases.contains_key(&lease.into());
                    model.end(lease.into());
                    prop_assert_eq!(table.revoke(at(now), LeaseId(lease.into())), there);
                }
                Op::Wait(millis) => {
                    now += u64::from(millis);
                    model.expire(now);
                    table.expire(at(now));
                }
                Op::Crash(torn) => {
                    file.extend(table.take_frame().unwrap_or_default());
                    // Somebody's write, of which nobody was told.
                    let mut lost = table.clone();
                    lost.apply(at(now), &write(&[("lost", "x")]));
                    let frame = lost.take_frame().expect("a write");
                    file.extend(&frame[..usize::from(torn) % frame.len()]);
                    let recovered = recover(at(now), &file).expect("only the tail is torn");
                    prop_assert!(recovered.table == table);
                    file.truncate(recovered.whole_bytes);
                    table = recovered.table;
                    model.leases.values_mut().for_each(|(ttl, end)| *end = now + *ttl);
                }
                Op::Snapshot => {
                    file.extend(table.take_frame().unwrap_or_default());
                    file = table.snapshot();
                }
            }
            let listed: Vec<_> = table.list(&everything()).entries.into_iter().map(|entry| {
                let text = |bytes| String::from_utf8(bytes).expect("text");
                (text(entry.key), (text(entry.value), entry.created.0, entry.modified.0, entry.lease.map(|l| l.0)))
            }).collect();
            prop_assert_eq!(listed, model.entries.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(table.next_expiry(), model.leases.values().map(|(_, end)| at(*end)).min());
            // Whoever watches from any revision that is known sees exactly what happened.
            for from in 0..=model.revision {
                let Ok(past) = table.after(&everything(), Revision(from), usize::MAX) else { continue };
                let told: Vec<_> = past.events.into_iter().map(|event| {
                    let key = String::from_utf8(event.key().to_vec()).expect("text");
                    let value = if let Event::Put(entry) = &event {
                        Some(String::from_utf8(entry.value.clone()).expect("text"))
                    } else {
                        None
                    };
                    (event.at().0, key, value)
                }).collect();
                let happened: Vec<_> = model.events.iter().filter(|event| event.0 > from).cloned().collect();
                prop_assert_eq!(told, happened);
            }
            prop_assert!(table.after(&everything(), Revision(model.revision), usize::MAX).is_ok());
        }
    }
}

#[test]
fn a_frame_is_found_by_whoever_looks_for_damage() {
    let (file, states) = history();
    let end = states[0].0;
    assert_eq!(Frame::find(&file[HEAD_BYTES + 1..], Revision(0)), Some(end - HEAD_BYTES - 1));
}
