//! Shards that are followed: a source that is written, and a shadow that is told of it, at the store's level.

use super::*;
use crate::ids::ShardId;

const AHEAD: u64 = 1_700_000_000_000;
/// The shadow's clock began earlier.
const SHADOW_AHEAD: u64 = AHEAD - 50_000;

fn shard() -> ShardId {
    slot_of(b"{one}").shard()
}

fn key_of(i: u64) -> Vec<u8> {
    format!("{{one}}:{i}").into_bytes()
}

/// What a record says, without its frame.
type Told = (Vec<u8>, Option<(Vec<u8>, u32, u64, u64, Marks)>);

fn told(key: &[u8], found: Option<&Found<'_>>) -> Told {
    let item = found.map(|found| {
        let ends = ends_at(found.expiry, AHEAD);
        (found.value.bytes().to_vec(), found.flags, found.version.0, ends, found.marks)
    });
    (key.to_vec(), item)
}

fn land(shadow: &mut Store, now: Mono, (key, item): &Told) {
    match item {
        Some((value, flags, version, ends, marks)) => {
            let item = NewItem {
                value: &[value],
                flags: *flags,
                version: Version(*version),
                expiry: expiry_of(*ends, SHADOW_AHEAD),
                marks: *marks,
            };
            shadow.land_copy(now, shard(), key, &item);
        }
        None => shadow.land_removal(shard(), key),
    }
}

/// A moment of the source, on the shadow's clock.
fn there(now: Mono) -> Mono {
    now.plus_millis(50_000)
}

/// Writes, evicts and ends items while the shard is copied; answers both sides when all is told.
fn copy_under_writes(seed: u64, limits: [u64; 2], skip: bool) -> [Progress; 2] {
    let count = if cfg!(miri) { 30 } else { 800 };
    let (mut source, mut shadow) = (Store::new(options(limits[0])), Store::new(options(limits[1])));
    let mut dice = seed;
    let mut roll = |bound: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % bound
    };
    let (mut version, mut millis) = (1u64 << 20, 10u64);
    let mut write = |store: &mut Store, roll: &mut dyn FnMut(u64) -> u64, now: Mono| {
        let key = key_of(roll(count * 2));
        let probe = store.probe(&key);
        version += 1;
        let ends = match roll(4) {
            0 => Expiry::At(now.plus_millis(roll(3000))),
            _ => Expiry::Never,
        };
        match roll(9) {
            0 | 1 => _ = store.remove(probe, &key),
            2 => _ = store.find(now, probe, &key, true),
            3 => _ = store.amend(now, probe, &key, Version(version), ends, Marks::default()),
            // A client's own version, smaller than the one before.
            4 => _ = put(store, now, &key, b"older", roll(1000), ends),
            _ => {
                let value = vec![version as u8; roll(900) as usize];
                put(store, now, &key, &value, version, ends).expect("room");
            }
        }
    };
    (0..count * 2).for_each(|_| write(&mut source, &mut roll, at(millis)));
    shadow.begin_shadow(shard(), SHADOW_AHEAD);
    // A first copy is given up, and leaves marks.
    source.watch(shard(), AHEAD);
    (0..5).for_each(|_| _ = source.copy_watched(at(millis), shard(), 2048, &mut |_, _| {}));
    source.watch(shard(), AHEAD);
    loop {
        millis += 7;
        let now = at(millis);
        let mut records = Vec::new();
        let more = source.copy_watched(now, shard(), 2048, &mut |key, found| {
            records.push(told(key, Some(found)));
        });
        records.iter().for_each(|record| land(&mut shadow, there(now), record));
        if more {
            (0..roll(20)).for_each(|_| write(&mut source, &mut roll, now));
        }
        let mut left = if more { roll(15) } else { u64::MAX };
        while left > 0 {
            let mut record = None;
            let any = source.take_changed(now, shard(), &mut |key, found| record = Some(told(key, found)));
            let Some(record) = record.filter(|_| any) else { break };
            if !skip || roll(40) > 0 {
                land(&mut shadow, there(now), &record);
            }
            left -= 1;
        }
        assert_eq!(
            source.recount(shard()),
            source.progress(shard()).expect("followed").digest,
            "source {millis}"
        );
        assert_eq!(
            shadow.recount(shard()),
            shadow.progress(shard()).expect("followed").digest,
            "shadow {millis}"
        );
        source.tick(now);
        shadow.tick(there(now));
        assert_eq!(
            source.recount(shard()),
            source.progress(shard()).expect("followed").digest,
            "source ticks {millis}"
        );
        assert_eq!(
            shadow.recount(shard()),
            shadow.progress(shard()).expect("followed").digest,
            "shadow ticks {millis}"
        );
        if !more && !source.has_changed(shard()) {
            break;
        }
    }
    check_counts(&source);
    let [here, beyond] = [&source, &shadow].map(|store| store.progress(shard()).expect("followed"));
    if beyond.lost == 0 && !skip {
        for i in 0..count * 2 {
            let (key, now) = (key_of(i), at(millis));
            let probes = [source.probe(&key), shadow.probe(&key)];
            let one = source.find(now, probes[0], &key, false).map(|found| told(&key, Some(&found)));
            let other = shadow.find(there(now), probes[1], &key, false).map(|found| {
                let expiry = ends_at(found.expiry, SHADOW_AHEAD);
                let (key, item) = told(&key, Some(&found));
                (key, item.map(|(value, flags, version, _, marks)| (value, flags, version, expiry, marks)))
            });
            assert_eq!(one, other, "seed {seed}, {i}");
        }
    }
    [here, beyond]
}

#[test]
fn a_shadow_that_is_told_everything_has_the_same_digest_as_its_source() {
    let seeds = if cfg!(miri) { 1 } else { 12 };
    let mut lost = 0;
    for seed in 0..seeds {
        // The second and third lose items to eviction, on one side.
        for limits in [[64 * MIB, 64 * MIB], [64 * MIB, MIB], [MIB, 64 * MIB]] {
            let [source, shadow] = copy_under_writes(seed, limits, false);
            assert!(source.walked && !source.void && !shadow.void);
            assert_eq!(source.items, source.digest.items, "seed {seed}: all that is here was sent");
            assert_eq!(source.digest.differing(&shadow.digest) & !shadow.inexact, 0, "seed {seed}");
            assert!(shadow.inexact != 0 || source.digest.items == shadow.digest.items, "seed {seed}");
            lost += shadow.lost;
        }
    }
    assert!(lost > 0, "something was evicted from a shadow");
}

#[test]
fn a_change_that_is_not_told_makes_the_digests_differ() {
    for seed in 0..8 {
        let [source, shadow] = copy_under_writes(seed, [64 * MIB, 64 * MIB], true);
        assert_ne!(source.digest, shadow.digest, "seed {seed}");
    }
}

#[test]
fn a_hidden_shard_is_seen_by_nobody_and_goes_in_small_steps() {
    let mut store = Store::new(options(16 * MIB));
    for i in 0..500u64 {
        put(&mut store, at(0), &key_of(i), b"value", i, Expiry::Never).expect("room");
    }
    put(&mut store, at(0), b"seen", b"value", 1, Expiry::Never).expect("room");
    store.hide(shard());
    assert_eq!((store.len(), store.shard_len(shard())), (1, 500));
    assert_eq!(keys_by_walk(&mut store, at(1), None, 10), [b"seen"]);
    assert_eq!(store.slot_len(slot_of(b"{one}")), 0);
    for dice in 0..100u64 {
        let mut keys = Vec::new();
        assert!(
            store.random(at(1), dice.wrapping_mul(0x9E37_79B9_7F4A_7C15), &mut |key| keys.push(key.to_vec()))
        );
        assert_eq!(keys, [b"seen"]);
    }
    let mut steps = 0;
    while store.drop_some(shard(), 64) {
        steps += 1;
        assert!(store.shard_len(shard()) >= 500 - 64 * steps);
    }
    assert!(steps >= 7, "{steps} steps");
    assert_eq!((store.len(), store.shard_len(shard())), (1, 0));
    assert!(value_of(&mut store, at(1), b"seen").is_some());
    store.show(shard());
    put(&mut store, at(1), &key_of(1), b"value", 1, Expiry::Never).expect("room");
    assert_eq!(store.len(), 2);
    check_counts(&store);
}

#[test]
fn what_changes_faster_than_it_is_told_voids_the_copy_and_a_flush_does() {
    let mut store = Store::new(options(64 * MIB));
    store.watch(shard(), AHEAD);
    while store.copy_watched(at(0), shard(), 2048, &mut |_, _| {}) {}
    let long = |i: u64| format!("{{one}}:{i:0>2000}").into_bytes();
    for i in 0..1000u64 {
        put(&mut store, at(0), &long(i), b"value", i, Expiry::Never).expect("room");
        let progress = store.progress(shard()).expect("followed");
        assert!(progress.changed_bytes <= 1 << 20);
    }
    assert!(store.progress(shard()).expect("followed").void);
    store.watch(shard(), AHEAD);
    assert!(!store.has_changed(shard()));
    store.clear();
    let progress = store.progress(shard()).expect("followed");
    assert!(progress.void && progress.digest.items == 0);
}
