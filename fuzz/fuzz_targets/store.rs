//! Any sequence of operations on a small store beside a map: what is found is what was put last, nothing is found after its
//! end or its removal, the limit holds, and a copy of a shard that goes on meanwhile has what the store has.
//!
//! `scripts/fuzz store 60`

#![no_main]

use foreshadow::clock::Mono;
use foreshadow::hash::slot_of;
use foreshadow::ids::Version;
use foreshadow::request::{Expiry, Fault};
use foreshadow::store::{Lander, Marks, NewItem, Options, ShardWalk, Store};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;

const OPERATIONS_MAX: usize = 4000;

struct Expected {
    version: u64,
    len: usize,
    ends: Option<u64>,
}

/// 32 short keys in one shard, 32 anywhere, 8 long ones.
fn key_of(byte: u8) -> Vec<u8> {
    match byte % 72 {
        n @ 0..32 => format!("{{one}}{n}").into_bytes(),
        n @ 32..64 => format!("key:{n}").into_bytes(),
        n => vec![b'k' + n - 64; 1000 * usize::from(n - 63)],
    }
}

fn value_of(version: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (version.wrapping_mul(31) + i * 7) as u8).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.iter().copied();
    let mut limit = 1u64 << 20;
    let options = Options { memory_bytes_max: limit, item_bytes_max: 256 << 10, hash_secret: [3, 5] };
    let mut store = Store::new(options);
    let mut model: HashMap<Vec<u8>, Expected> = HashMap::new();
    let mut copy: HashMap<Vec<u8>, u64> = HashMap::new();
    let shard = slot_of(b"{one}").shard();
    let mut walk = ShardWalk::new(shard);
    let (mut nanos, mut version, mut lowered) = (1_000_000_000u64, 0u64, false);
    for _ in 0..OPERATIONS_MAX {
        let (Some(operation), Some(which), Some(size)) = (bytes.next(), bytes.next(), bytes.next()) else { break };
        let now = Mono(nanos);
        let key = key_of(which);
        let probe = store.probe(&key);
        version += 1;
        let ends = (operation & 16 != 0).then(|| nanos + 1 + u64::from(size) * u64::from(size) * 1_000_000);
        let expiry = ends.map_or(Expiry::Never, |ends| Expiry::At(Mono(ends)));
        // The store keeps deadlines to a quarter of a millisecond, and is late rather than early.
        let over = |expected: &Expected| expected.ends.is_some_and(|ends| ends + 250_000 <= nanos);
        let due = |expected: &Expected| expected.ends.is_some_and(|ends| ends <= nanos);
        let in_shard = slot_of(&key).shard() == shard;
        match operation % 16 {
            0..5 => {
                let len = match operation >> 5 {
                    0..5 => usize::from(size),
                    5 => usize::from(size) * 50,
                    _ => usize::from(size) * 900,
                };
                let value = value_of(version, len);
                let (left, right) = value.split_at(len / 2);
                let item = NewItem {
                    value: &[left, right],
                    flags: u32::from(which) << 24,
                    version: Version(version),
                    expiry,
                    marks: Marks::default(),
                };
                // Large values land first, and now and then somebody else's comes in between, or they are put all the same.
                if len > 8192 && which & 1 == 0 {
                    let whole = value_of(version, len);
                    let lander = Lander { from: u64::from(which & 2), value: &whole, replaces: which & 4 == 0 };
                    for step in 0..100_000 {
                        if store.land(now, probe, &key, &lander) {
                            break;
                        }
                        assert!(step < 99_999, "it lands some time");
                        if store.tick(now) && operation & 64 != 0 && step > 3 {
                            break;
                        }
                        nanos += 1_000_000;
                    }
                }
                let now = Mono(nanos);
                let mut put = store.put(now, probe, &key, &item);
                for _ in 0..100_000 {
                    if put != Err(Fault::Busy) {
                        break;
                    }
                    store.tick(now);
                    put = store.put(now, probe, &key, &item);
                }
                store.stop_landing();
                match put {
                    Ok(()) => {
                        model.insert(key.clone(), Expected { version, len, ends });
                        if in_shard && !walk.will_visit(probe) {
                            copy.insert(key, version);
                        }
                    }
                    Err(_) => assert!(len > 100_000 || lowered, "small items always fit"),
                }
            }
            5..9 => {
                let found = store.find(now, probe, &key, operation & 32 != 0);
                match (found, model.get(&key)) {
                    (Some(found), Some(expected)) => {
                        assert!(!over(expected), "found after its end");
                        assert_eq!(found.version, Version(expected.version));
                        assert!(found.value.bytes() == value_of(found.version.0, expected.len), "another value");
                    }
                    (Some(_), None) => panic!("found what was removed"),
                    (None, _) => {
                        model.remove(&key);
                    }
                }
            }
            9 => {
                let there = store.remove(probe, &key);
                assert!(!there || model.contains_key(&key), "removed what was not there");
                model.remove(&key);
                copy.remove(&key);
            }
            10 => {
                if model.get(&key).is_some_and(due) {
                    continue;
                }
                // The value stays, so its version does.
                let Some(expected) = model.get_mut(&key) else { continue };
                let before = expected.version;
                if store.amend(now, probe, &key, Version(before), expiry, Marks::default()) {
                    expected.ends = ends;
                    if in_shard && !walk.will_visit(probe) {
                        copy.insert(key, before);
                    }
                } else {
                    model.remove(&key);
                }
            }
            11 => nanos += u64::from(which) * u64::from(size) * 100_000,
            12 => {
                if !store.tick(now) {
                    lowered = false;
                }
            }
            13 => {
                store.copy_some(now, &mut walk, usize::from(size) * 16, &mut |key, found| {
                    copy.insert(key.to_vec(), found.version.0);
                });
            }
            14 if which == 0 => {
                store.clear();
                model.clear();
                (copy, walk) = (HashMap::new(), ShardWalk::new(shard));
            }
            14 if which < 8 => {
                limit = (1 + u64::from(size % 4)) << 19;
                lowered |= limit < store.memory_bytes_max();
                store.set_memory_bytes_max(limit);
            }
            _ => {
                let mut cursor = 0;
                for _ in 0..200 {
                    cursor = store.walk(now, None, cursor, usize::from(size), &mut |key| {
                        assert!(model.contains_key(key), "walked over what was removed");
                    });
                    if cursor == 0 {
                        break;
                    }
                }
            }
        }
        assert!(lowered || store.held_bytes() <= limit, "{} held of {limit}", store.held_bytes());
    }
    while store.copy_some(Mono(nanos), &mut walk, 1 << 20, &mut |key, found| {
        copy.insert(key.to_vec(), found.version.0);
    }) {}
    for key in (0..72).map(key_of).filter(|key| slot_of(key).shard() == shard) {
        let probe = store.probe(&key);
        if let Some(found) = store.find(Mono(nanos), probe, &key, false) {
            assert_eq!(copy.get(&key), Some(&found.version.0), "the copy is behind");
        }
    }
});
