//! Copies of a shard while it is used.

use super::*;
use crate::ids::ShardId;

const PIECE_BYTES: usize = 64 << 10;

fn shard_of(key: &[u8]) -> ShardId {
    slot_of(key).shard()
}

fn key_of(i: u64) -> Vec<u8> {
    format!("{{one}}:{i}").into_bytes()
}

fn fill(store: &mut Store, count: u64) {
    for i in 0..count {
        put(store, at(0), &key_of(i), &i.to_le_bytes(), i, Expiry::Never).expect("room");
    }
}

/// A whole copy; answers each key with its uses as the index has them, and the number of pieces.
fn copy_whole(store: &mut Store, now: Mono) -> (Vec<Vec<u8>>, u64) {
    let mut walk = ShardWalk::new(shard_of(b"{one}"));
    let (mut keys, mut pieces) = (Vec::new(), 0);
    loop {
        let mut bytes = 0;
        let more = store.copy_some(now, &mut walk, PIECE_BYTES, &mut |key, found| {
            bytes += key.len() + found.value.len();
            keys.push(key.to_vec());
        });
        pieces += 1;
        // What a leaf has at one position goes together, and so does the item that fills the piece.
        assert!(bytes <= PIECE_BYTES + 8192, "{bytes} in one piece");
        if !more {
            assert!(walk.is_done());
            return (keys, pieces);
        }
    }
}

#[test]
fn a_copy_hands_out_each_item_once_and_the_hottest_first() {
    let count = if cfg!(miri) { 60 } else { 5000 };
    let mut store = Store::new(options(16 * MIB));
    fill(&mut store, count);
    put(&mut store, at(0), b"another shard's", b"value", 1, Expiry::Never).expect("room");
    put(&mut store, at(0), b"{one}:over", b"value", 1, Expiry::At(at(5))).expect("room");
    let uses = |i: u64| i * 7 % 5;
    for i in 0..count {
        (0..uses(i)).for_each(|_| assert!(value_of(&mut store, at(1), &key_of(i)).is_some()));
    }
    // A second copy finds the marks of the first.
    for _ in 0..2 {
        let (keys, _) = copy_whole(&mut store, at(10));
        let heat: Vec<u64> = keys
            .iter()
            .map(|key| {
                let number = std::str::from_utf8(&key[6..]).expect("text").parse().expect("a number");
                uses(number).min(u64::from(FREQUENCY_MAX))
            })
            .collect();
        assert!(heat.is_sorted_by(|a, b| a >= b), "hottest first");
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "none twice");
        assert_eq!(keys.len() as u64, count, "all of the shard, and nobody else");
    }
    check_counts(&store);
}

#[test]
fn a_copy_costs_what_the_shard_holds_whatever_the_others_hold() {
    let (count, others) = if cfg!(miri) { (50, 200u64) } else { (3000, 300_000) };
    let pieces = [0, others].map(|others| {
        let mut store = Store::new(options(64 * MIB));
        (0..others).for_each(|i| {
            put(&mut store, at(0), format!("other:{i}").as_bytes(), b"v", 1, Expiry::Never).expect("room");
        });
        let in_shard =
            (0..others).filter(|i| shard_of(format!("other:{i}").as_bytes()) == shard_of(b"{one}"));
        let in_shard = in_shard.count() as u64;
        fill(&mut store, count);
        let (keys, pieces) = copy_whole(&mut store, at(1));
        assert_eq!(keys.len() as u64, count + in_shard);
        pieces
    });
    assert!(pieces[1] <= pieces[0] * 5 / 4 + 4, "{pieces:?} pieces: alone, and beside {others} items");
}

/// The copy's side: what it was handed and told. In the end it must have what the store has, and nothing that was removed.
#[test]
fn a_copy_of_a_shard_that_is_written_all_the_time_is_complete() {
    for (seed, limit) in [(1u64, 64 * MIB), (2, 64 * MIB), (3, 2 * MIB)] {
        let count = if cfg!(miri) { 40u64 } else { 6000 };
        let mut store = Store::new(options(limit));
        fill(&mut store, count);
        let mut dice = seed;
        let mut roll = |bound: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % bound
        };
        // Twice: the first one is given up half way.
        for give_up in [true, false] {
            let mut walk = ShardWalk::new(shard_of(b"{one}"));
            let mut copy: HashMap<Vec<u8>, (u64, Vec<u8>)> = HashMap::new();
            let (mut version, mut handed) = (1u64 << 20, 0u64);
            let mut more = true;
            while more {
                more = store.copy_some(at(2), &mut walk, 2048, &mut |key, found| {
                    handed += 1;
                    copy.insert(key.to_vec(), (found.version.0, found.value.bytes().to_vec()));
                });
                if give_up && handed > count / 2 {
                    break;
                }
                for _ in 0..roll(30) {
                    version += 1;
                    let key = key_of(roll(count * 2));
                    let probe = store.probe(&key);
                    match roll(8) {
                        0 => {
                            store.remove(probe, &key);
                            copy.remove(&key);
                        }
                        1..4 => {
                            store.find(at(2), probe, &key, true);
                        }
                        4 => {
                            let Some(found) = store.find(at(2), probe, &key, false) else { continue };
                            let value = found.value.bytes().to_vec();
                            let marks = Marks { stale: true, ..Marks::default() };
                            let expiry = Expiry::At(at(1 << 30));
                            if !store.amend(at(2), probe, &key, Version(version), expiry, marks) {
                                copy.remove(&key);
                            } else if !walk.will_visit(probe) {
                                copy.insert(key, (version, value));
                            }
                        }
                        _ => {
                            let value = vec![version as u8; roll(100) as usize];
                            put(&mut store, at(2), &key, &value, version, Expiry::Never).expect("room");
                            if !walk.will_visit(probe) {
                                copy.insert(key, (version, value));
                            }
                        }
                    }
                }
                store.tick(at(2));
            }
            if give_up {
                continue;
            }
            let mut checked = 0;
            for i in 0..count * 2 {
                let key = key_of(i);
                let probe = store.probe(&key);
                match store.find(at(2), probe, &key, false) {
                    Some(found) => {
                        let here = (found.version.0, found.value.bytes().to_vec());
                        assert_eq!(copy.get(&key), Some(&here), "seed {seed}: {i} differs");
                        checked += 1;
                    }
                    // What was evicted here may live on there.
                    None => {
                        assert!(limit < 64 * MIB || !copy.contains_key(&key), "seed {seed}: {i} came back")
                    }
                }
            }
            assert!(checked > count / 2 && handed < count * 6, "{checked} checked, {handed} handed out");
        }
        check_counts(&store);
    }
}
