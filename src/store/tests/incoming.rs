//! Long values that come in and go out without being copied.

use super::*;
use crate::request::Shared;

const LEN: usize = 3 << 20;

/// A command of which the value is the middle.
fn receive(store: &mut Store, fill: u8) -> Incoming {
    let mut incoming = Incoming::new(LEN + 4096).expect("some megabytes");
    for piece in [&b"SET key "[..], &vec![fill; LEN], b" and what is behind"] {
        for piece in piece.chunks(16 << 10) {
            assert_eq!(store.receive(&mut incoming, piece), piece.len());
            assert!(store.held_bytes() >= incoming.len() as u64, "it counts while it comes");
        }
    }
    incoming
}

fn value_in(incoming: &Incoming) -> (Shared, *const u8) {
    let value = &incoming.bytes()[8..8 + LEN];
    (incoming.part(value).expect("it lies there"), value.as_ptr())
}

fn settle(store: &mut Store, now: Mono) -> u64 {
    for _ in 0..1000 {
        store.tick(now);
    }
    store.held_bytes()
}

#[test]
fn a_value_stays_in_the_memory_that_it_was_received_into() {
    let mut store = Store::new(options(64 * MIB));
    let before = settle(&mut store, at(0));
    let incoming = receive(&mut store, 7);
    let (value, place) = value_in(&incoming);
    let held = store.held_bytes();
    store.offer(&value);
    put(&mut store, at(0), b"key", value.bytes(), 1, Expiry::Never).expect("it is there already");
    assert!(!store.revoke_offer(), "it was taken");
    drop(value);
    store.hand_over_incoming(incoming);
    assert!(store.held_bytes().abs_diff(held) < 2 * MIB && store.incoming_bytes() == 0);
    let probe = store.probe(b"key");
    let found = store.find(at(0), probe, b"key", true).expect("stored").value;
    assert!(found.bytes().as_ptr() == place && found.bytes() == vec![7; LEN], "nothing was copied");
    let probe = store.probe(b"key");
    assert!(store.remove(probe, b"key"));
    assert!(settle(&mut store, at(1)) <= before + MIB, "all of it comes back");
}

#[test]
fn what_no_put_takes_is_given_back() {
    let mut store = Store::new(options(64 * MIB));
    let before = settle(&mut store, at(0));
    let incoming = receive(&mut store, 7);
    let (value, _) = value_in(&incoming);
    store.offer(&value);
    // An equal value at another place is not that value.
    put(&mut store, at(0), b"key", &vec![7; LEN], 1, Expiry::Never).expect("room");
    assert!(store.revoke_offer(), "it was not taken");
    assert!(incoming.part(&[7; 16]).is_none(), "it lies elsewhere");
    drop(value);
    store.bury_incoming(incoming);
    assert_eq!(store.incoming_bytes(), 0);
    let probe = store.probe(b"key");
    assert!(store.remove(probe, b"key"));
    assert!(settle(&mut store, at(1)) <= before + MIB);
}

#[test]
fn a_value_that_goes_over_to_another_core_counts_at_one_of_them_always() {
    let (mut here, mut there) = (Store::new(options(64 * MIB)), Store::new(options(8 * MIB)));
    let (before_here, before_there) = (settle(&mut here, at(0)), settle(&mut there, at(0)));
    for round in 0..6 {
        let incoming = receive(&mut here, round);
        let (value, _) = value_in(&incoming);
        here.send_incoming(incoming);
        assert_eq!(here.incoming_bytes(), 0);
        // There has to be room for it, step by step.
        let probe = there.probe(b"key");
        there.take_over(&value);
        assert!(settle(&mut here, at(1)) > before_here + LEN as u64, "it has no room there yet");
        for _ in 0..10_000 {
            there.offer(&value);
            let lander = Lander { from: 1, value: value.bytes(), replaces: false };
            if there.land(at(1), probe, b"key", &lander) {
                break;
            }
            there.tick(at(1));
        }
        assert!(settle(&mut here, at(1)) <= before_here + MIB, "it is the other one's");
        let key = format!("key:{round}");
        put_once(&mut there, at(1), key.as_bytes(), value.bytes(), 1, Expiry::Never).expect("room was made");
        assert!(!there.revoke_offer());
        there.end_arrived(value, true);
        assert_eq!(there.incoming_bytes(), 0);
        assert!(there.held_bytes() <= 8 * MIB, "{} held", there.held_bytes());
    }
    there.clear();
    assert!(settle(&mut there, at(2)) <= before_there + MIB);
    // One that is not wanted there comes back, too.
    let incoming = receive(&mut here, 9);
    let (value, _) = value_in(&incoming);
    here.send_incoming(incoming);
    there.take_over(&value);
    there.end_arrived(value, false);
    assert!(settle(&mut here, at(3)) <= before_here + MIB);
    assert!(settle(&mut there, at(3)) <= before_there + MIB);
    // And so does one that never got there.
    let incoming = receive(&mut here, 10);
    let (value, _) = value_in(&incoming);
    here.send_incoming(incoming);
    assert!(settle(&mut here, at(4)) > before_here + LEN as u64);
    drop(value);
    assert!(settle(&mut here, at(5)) <= before_here + MIB);
}

#[test]
fn memory_that_is_read_counts_until_its_readers_have_let_go() {
    let mut store = Store::new(options(64 * MIB));
    let before = settle(&mut store, at(0));
    put(&mut store, at(0), b"key", &vec![3; LEN], 1, Expiry::Never).expect("room");
    let probe = store.probe(b"key");
    let reader = match store.find(at(0), probe, b"key", true).expect("stored").value {
        Value::Shared(shared) => shared.clone(),
        Value::One(_) => panic!("a long value is not copied"),
    };
    assert!(store.remove(probe, b"key"));
    assert!(settle(&mut store, at(1)) >= LEN as u64 && store.withheld_bytes() >= LEN as u64);
    assert_eq!(reader.bytes(), vec![3; LEN], "whatever became of the item");
    drop(reader);
    assert!(settle(&mut store, at(2)) <= before + MIB);
    assert_eq!(store.withheld_bytes(), 0);
}
