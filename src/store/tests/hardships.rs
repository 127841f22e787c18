//! The store under what nobody wishes it: clocks that jump, storms of expiries, keys made to collide, sizes from nothing to
//! far too much. Never over the limit, never a long step, a clear refusal.

use super::*;
use crate::hash::KeyHasher;

/// Steps of housekeeping until there is no more to do; answers how many, and the most items that one of them dropped.
fn keep_house(store: &mut Store, now: Mono) -> (u64, u64) {
    let (mut steps, mut most) = (0, 0);
    loop {
        let before = store.len();
        let more = store.tick(now);
        (steps, most) = (steps + 1, most.max(before - store.len()));
        assert!(steps < 1_000_000, "housekeeping ends");
        if !more {
            return (steps, most);
        }
    }
}

/// The most items that one step may drop: `TICK_EFFORT` over `ITEM_EFFORT`, and one.
const DROPPED_PER_STEP_MAX: u64 = 101;

#[test]
fn an_item_larger_than_the_limit_is_refused_and_nobody_leaves_for_it() {
    let limit = 4 * MIB;
    let mut store = Store::new(options(limit));
    for i in 0..1000u64 {
        put(&mut store, at(i), format!("k{i}").as_bytes(), b"value", i, Expiry::Never).expect("room");
    }
    let bytes = vec![3u8; 8 << 20];
    for len in [limit - 100, limit - 1, limit, limit + 1, 2 * limit] {
        let refused = put(&mut store, at(2000), b"k7", &bytes[..len as usize], 9, Expiry::Never);
        assert_eq!(refused, Err(Fault::OutOfMemory), "{len} bytes");
        assert!(store.held_bytes() <= limit);
    }
    assert_eq!(value_of(&mut store, at(2000), b"k7").as_deref(), Some(&b"value"[..]), "the old one stays");
    assert_eq!((store.len(), store.take_departures()), (1000, Departures::default()));
    check_counts(&store);
}

#[test]
#[cfg_attr(miri, ignore = "a gigabyte")]
fn values_of_no_bytes_and_of_512_mib_are_items_like_others() {
    let options = Options { memory_bytes_max: 700 * MIB, item_bytes_max: 512 << 20, hash_secret: [1, 2] };
    let mut store = Store::new(options);
    put(&mut store, at(0), b"empty", b"", 1, Expiry::Never).expect("room");
    put(&mut store, at(0), b"", b"", 2, Expiry::Never).expect("even a key of no bytes, as Redis has it");
    let mut value = vec![0u8; (512 << 20) - 5];
    value.iter_mut().step_by(4093).enumerate().for_each(|(i, byte)| *byte = i as u8);
    put(&mut store, at(1), b"large", &value, 3, Expiry::At(at(60_000))).expect("room for one");
    assert!(store.held_bytes() > 512 * MIB && store.held_bytes() <= 700 * MIB);
    let probe = store.probe(b"large");
    let found = store.find(at(2), probe, b"large", true).expect("just put");
    assert!(found.value.bytes() == value.as_slice(), "every byte as it was");
    assert_eq!(found.expiry, Expiry::At(at(60_000)));
    let longer = vec![0u8; 512 << 20];
    assert_eq!(put(&mut store, at(2), b"large", &longer, 4, Expiry::Never), Err(Fault::TooLarge));
    // One that is as long takes its place, though there is no room for both.
    value[0] = 77;
    put(&mut store, at(3), b"large", &value, 5, Expiry::At(at(60_000))).expect("the old one gives way");
    let found = store.find(at(3), probe, b"large", true).expect("just put");
    assert_eq!((found.value.len(), found.value.bytes()[0], found.version), (value.len(), 77, Version(5)));
    assert!(store.held_bytes() <= 700 * MIB);
    // It goes by and by: no step gives back more than a few pieces of it.
    keep_house(&mut store, at(4));
    let (mut steps, mut most) = (0, 0);
    loop {
        let before = store.held_bytes();
        let more = store.tick(at(61_000));
        (steps, most) = (steps + 1, most.max(before - store.held_bytes()));
        if !more {
            break;
        }
    }
    assert!(steps >= 500 && most <= 2 * MIB, "{steps} steps, {most} bytes in one");
    assert_eq!(value_of(&mut store, at(61_000), b"empty").as_deref(), Some(&b""[..]));
    assert_eq!(value_of(&mut store, at(61_000), b"").as_deref(), Some(&b""[..]));
    assert!(store.len() == 2 && store.held_bytes() < 8 * MIB, "{} held", store.held_bytes());
    check_counts(&store);
}

#[test]
fn a_million_items_that_end_in_one_second_go_in_bounded_steps_beside_traffic() {
    let count = if cfg!(miri) { 300u64 } else { 1_000_000 };
    let limit = 128 * MIB;
    let mut store = Store::new(options(limit));
    for i in 0..count {
        put(
            &mut store,
            at(i / 1000),
            format!("key:{i}").as_bytes(),
            b"value",
            i,
            Expiry::At(at(5000 + i % 1000)),
        )
        .expect("room");
    }
    assert_eq!(store.len(), count, "all of them fit");
    let held_full = store.held_bytes();
    keep_house(&mut store, at(4999));
    assert_eq!(store.len(), count, "nothing ends too early");
    let (mut steps, mut most) = (0u64, 0);
    loop {
        // What is over is not seen, however far housekeeping has come; what is not over is.
        let stays = format!("stays:{}", steps % 100);
        put(&mut store, at(7000), stays.as_bytes(), b"here", steps, Expiry::At(at(90_000))).expect("room");
        assert_eq!(value_of(&mut store, at(7000), stays.as_bytes()).as_deref(), Some(&b"here"[..]));
        let over = format!("key:{}", steps * 7919 % count);
        assert_eq!(value_of(&mut store, at(7000), over.as_bytes()), None);
        assert!(store.held_bytes() <= limit);
        let before = store.len();
        let more = store.tick(at(7000));
        (steps, most) = (steps + 1, most.max(before - store.len()));
        if !more {
            break;
        }
    }
    assert!(most <= DROPPED_PER_STEP_MAX, "{most} in one step");
    assert_eq!(store.len(), steps.min(100), "{steps} steps");
    let departures = store.take_departures();
    assert_eq!((departures.expired, departures.evicted), (count, 0));
    if !cfg!(miri) {
        assert!(store.held_bytes() < held_full / 4, "memory is on its way back");
    }
    check_counts(&store);
}

#[test]
fn a_clock_that_jumps_ahead_ends_what_is_over_in_bounded_steps() {
    const YEAR_MILLIS: u64 = 365 * 86_400_000;
    let count = if cfg!(miri) { 100u64 } else { 100_000 };
    let mut store = Store::new(options(64 * MIB));
    for i in 0..count {
        // Ends spread over a second to ten years, and a tenth that never ends.
        let ttl = 1000 << (i % 29);
        let expiry = if i % 10 == 0 { Expiry::Never } else { Expiry::At(at(i / 100 + ttl)) };
        put(&mut store, at(i / 100), format!("k{i}").as_bytes(), b"value", i, expiry).expect("room");
    }
    let mut moment = count / 100;
    for jump in [10_000, 3_600_000, 30 * 86_400_000, YEAR_MILLIS, 20 * YEAR_MILLIS, 300 * YEAR_MILLIS] {
        moment += jump;
        let left = |i: &u64| i.is_multiple_of(10) || i / 100 + (1000 << (i % 29)) > moment;
        let expected = (0..count).filter(left).count() as u64;
        let (_, most) = keep_house(&mut store, at(moment));
        assert!(most <= DROPPED_PER_STEP_MAX, "{most} in one step");
        // The wheel turns in half seconds.
        let soon = (0..count)
            .filter(|i| left(i) && !i.is_multiple_of(10) && i / 100 + (1000 << (i % 29)) < moment + 520);
        assert!(store.len() >= expected && store.len() <= expected + soon.count() as u64);
        let known = format!("k{}", 10 * (jump % (count / 10)));
        assert!(value_of(&mut store, at(moment), known.as_bytes()).is_some());
    }
    put(&mut store, at(moment), b"new", b"v", 1, Expiry::At(at(moment + 1000))).expect("room");
    assert!(value_of(&mut store, at(moment + 999), b"new").is_some());
    assert_eq!(value_of(&mut store, at(moment + 1001), b"new"), None);
    check_counts(&store);
}

/// The most items that one put may drop, as `PUT_EFFORT` says, and those of a landing step.
const DROPPED_PER_PUT_MAX: u64 = 401;

/// Once, a put of a large value emptied as many segments as it took in one go: 34 to 55 ms for 8 MiB of short items, a quarter
/// of a second when the limit had been lowered before.
#[test]
fn a_large_value_lands_in_bounded_steps_in_a_store_full_of_short_items() {
    if cfg!(miri) {
        return;
    }
    let limit = 64 * MIB;
    let mut store = Store::new(options(limit));
    for i in 0..700_000u64 {
        put_once(&mut store, at(i / 1000), format!("key:{i}").as_bytes(), &[7; 80], i, Expiry::Never)
            .expect("room");
    }
    let mut value = vec![0u8; 8 << 20];
    value.iter_mut().step_by(997).enumerate().for_each(|(i, byte)| *byte = i as u8);
    for (round, limit) in [limit, limit, 32 * MIB].into_iter().enumerate() {
        store.set_memory_bytes_max(limit);
        store.take_departures();
        let (key, now) = (format!("large:{round}"), at(1000 + round as u64));
        let probe = store.probe(key.as_bytes());
        let lander = Lander { from: 7, value: &value, replaces: true };
        let (mut steps, mut evicted, mut lowered) = (0u64, 0, store.held_bytes().max(limit));
        loop {
            let done = store.land(now, probe, key.as_bytes(), &lander);
            let gone = store.take_departures().evicted;
            assert!(gone <= DROPPED_PER_PUT_MAX, "{gone} items dropped by a step");
            // But for lists that get an entry.
            assert!(store.held_bytes() <= lowered + 4096, "{} held, {lowered} before", store.held_bytes());
            (steps, evicted, lowered) = (steps + 1, evicted + gone, store.held_bytes().max(limit));
            assert!(steps < 20_000, "it lands some time");
            // Meanwhile others are served, and stored.
            let other = format!("other:{steps}");
            put_once(&mut store, now, other.as_bytes(), &[1; 80], steps, Expiry::Never)
                .expect("room for short ones");
            store.tick(now);
            store.take_departures();
            lowered = lowered.max(store.held_bytes());
            if done {
                break;
            }
        }
        put_once(&mut store, now, key.as_bytes(), &value, 9, Expiry::Never).expect("it has landed");
        let gone = store.take_departures().evicted;
        assert!(gone <= DROPPED_PER_PUT_MAX, "{gone} items dropped by the put");
        assert_eq!(value_of(&mut store, now, key.as_bytes()).as_deref(), Some(&value[..]));
        assert!(steps > 40, "{steps} steps, {evicted} evicted");
        assert!(store.held_bytes() <= limit, "{} held of {limit}", store.held_bytes());
        check_counts(&store);
    }
}

#[test]
fn one_value_lands_at_a_time_and_who_does_not_come_back_is_forgotten() {
    let mut store = Store::new(options(8 * MIB));
    let (first, second) = (vec![1u8; 1 << 20], vec![2u8; 1 << 20]);
    let probe = store.probe(b"key");
    let step = |store: &mut Store, now: u64, from: u64, value: &[u8]| {
        store.land(at(now), probe, b"key", &Lander { from, value, replaces: false })
    };
    let held = store.held_bytes();
    assert!(!step(&mut store, 0, 1, &first), "a megabyte takes some steps");
    assert!(store.held_bytes() > held, "what has come so far is held");
    for _ in 0..100 {
        assert!(!step(&mut store, 1, 2, &second), "the other one waits");
    }
    assert!(!step(&mut store, 50, 1, &first));
    // The first one does not come back: its memory goes, and the second one lands.
    while store.tick(at(200)) {}
    assert!(store.held_bytes() <= held + (256 << 10), "{} held, {held} before", store.held_bytes());
    while !step(&mut store, 201, 2, &second) {}
    // One of another key, or of another length, does not take what has landed.
    put_once(&mut store, at(202), b"other", &first, 1, Expiry::Never).expect("room");
    put_once(&mut store, at(202), b"key", &first[1..], 2, Expiry::Never).expect("room");
    assert_eq!(value_of(&mut store, at(202), b"key").as_deref(), Some(&first[1..]));
    put_once(&mut store, at(202), b"key", &second, 3, Expiry::Never).expect("landed");
    assert_eq!(value_of(&mut store, at(202), b"key").as_deref(), Some(&second[..]));
    assert_eq!(value_of(&mut store, at(202), b"other").as_deref(), Some(&first[..]));
    // One that landed and is not put is given back when that is said.
    while !step(&mut store, 203, 3, &first) {}
    let full = store.held_bytes();
    store.stop_landing();
    while store.tick(at(203)) {}
    assert!(store.held_bytes() < full - (900 << 10));
    check_counts(&store);
}

#[test]
fn a_limit_lowered_under_load_is_never_passed_and_no_step_is_long() {
    let count = if cfg!(miri) { 300u64 } else { 300_000 };
    let mut store = Store::new(options(64 * MIB));
    let mut written = 0u64;
    let mut write = |store: &mut Store, now: u64| {
        let key = format!("key:{written}");
        written += 1;
        put_once(store, at(now), key.as_bytes(), &[7; 150], written, Expiry::Never)
            .expect("small items always fit");
        assert!(value_of(store, at(now), key.as_bytes()).is_some(), "the last one is there");
    };
    (0..count).for_each(|i| write(&mut store, i / 1000));
    put(&mut store, at(count), b"large", &vec![1; 3 << 20], 1, Expiry::Never).expect("room");
    for (limit, ticks_every) in
        [(48 * MIB, 10), (8 * MIB, 100), (4 * MIB, 1), (32 * MIB, 1000), (3 * MIB, 100)]
    {
        let before = store.memory_bytes_max();
        store.set_memory_bytes_max(limit);
        // What puts need before room is made was taken under the limit before.
        let above = store.held_bytes().max(limit);
        assert!(above <= before.max(limit));
        let mut floor = above;
        let (mut most, mut long) = (0, 0);
        for i in 0..count / 3 {
            let before = store.take_departures().evicted;
            assert_eq!(before, 0);
            write(&mut store, count + i / 1000);
            // A put drops what it pays for; 4 times some 170 bytes, at some 160 a piece, and a few that a table had no room for.
            let gone = store.take_departures().evicted;
            most = most.max(gone);
            long += u64::from(gone > 16);
            if i % ticks_every == 0 {
                let before = store.len();
                store.tick(at(count + i / 1000));
                assert!(before - store.len() <= DROPPED_PER_STEP_MAX);
                store.take_departures();
            }
            // It takes nothing while it is over the limit (but for lists that get an entry), and once below it stays there.
            let held = store.held_bytes();
            let most = if floor > limit { floor + 4096 } else { limit };
            assert!(held <= most, "{held} held, {floor} before, limit {limit}");
            floor = floor.min(held.max(limit));
        }
        if !cfg!(miri) {
            assert!(store.held_bytes() <= limit, "{} held of {limit}", store.held_bytes());
            assert!(most <= DROPPED_PER_PUT_MAX, "{most} items dropped by one put, limit {limit}");
            assert!(long <= 40, "{long} puts dropped more than they take, limit {limit}");
        }
    }
    keep_house(&mut store, at(count * 2));
    check_counts(&store);
}

/// The clock that the shell hands in never goes back; a store that believed it might would still have to be sane.
#[test]
fn a_clock_that_jumps_back_loses_nothing_and_ends_nothing_early() {
    let count = if cfg!(miri) { 50u64 } else { 20_000 };
    let hour = 3_600_000;
    let mut store = Store::new(options(16 * MIB));
    for i in 0..count {
        // From one o'clock on, every third item is written an hour earlier than the one before it.
        let now = if i % 3 == 2 { at(i) } else { at(hour + i) };
        put(&mut store, now, format!("k{i}").as_bytes(), b"value", i, Expiry::At(at(3 * hour + i)))
            .expect("room");
        store.tick(now);
    }
    keep_house(&mut store, at(hour / 2));
    assert_eq!(store.len(), count);
    for i in 0..count {
        let found = value_of(&mut store, at(i % 7), format!("k{i}").as_bytes());
        assert_eq!(found.as_deref(), Some(&b"value"[..]));
    }
    keep_house(&mut store, at(3 * hour - 1));
    assert_eq!(store.len(), count, "nothing ends early");
    keep_house(&mut store, at(3 * hour + count + 1000));
    assert_eq!(store.len(), 0, "and everything ends");
    let departures = store.take_departures();
    assert_eq!((departures.expired, departures.evicted), (count, 0));
    check_counts(&store);
}

/// Keys that collide as far as somebody can make them who knows the algorithm and a secret: all in one slot, all in one
/// eighth of its table, an eighth of those that share a bucket's number.
fn flood(secret: [u64; 2], count: usize) -> Vec<Vec<u8>> {
    let hasher = KeyHasher::new(secret);
    let keys = (0u64..).map(|i| format!("{{x}}{i:x}").into_bytes());
    let collide = |key: &Vec<u8>| {
        let hash = hasher.hash(key);
        hash >> 61 == 5 && hash & 0x1C == 0x0C
    };
    keys.filter(collide).take(count).collect()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "64 million hashes: cargo test --release --lib hardships")]
fn a_million_keys_made_to_collide_are_found_as_fast_as_any() {
    let keys = flood([1, 2], 1_000_000);
    let looks_of = |secret: [u64; 2]| {
        let options = Options { memory_bytes_max: 256 * MIB, item_bytes_max: 1 << 20, hash_secret: secret };
        let mut store = Store::new(options);
        for (i, key) in keys.iter().enumerate() {
            put(&mut store, at(i as u64 / 1000), key, b"value", i as u64, Expiry::Never).expect("room");
        }
        let (mut most, mut sum, mut found) = (0, 0, 0);
        for key in &keys {
            let probe = store.probe(key);
            let (lines, same) = store.index.cost_of(store.log.region(), bearing(probe));
            most = most.max(lines + same);
            sum += u64::from(lines + same);
            found += u64::from(store.entry_of(probe, key).is_some());
        }
        assert_eq!(store.len(), found, "whoever is counted is found");
        check_counts(&store);
        (most, sum as f64 / keys.len() as f64, found)
    };
    // The secret is another one: they are keys like any others.
    let (most, mean, found) = looks_of([77, 99]);
    assert_eq!(found, 1_000_000, "nobody is lost");
    assert!(mean < 5.0 && most <= 40, "{mean} lines and items looked at in the mean, {most} at most");
    // Even if the secret were known, a search ends at the end of a leaf: what has no room in it is forgotten.
    let (most, _, found) = looks_of([1, 2]);
    assert!(most <= 32 + 256, "{most} lines and items at most");
    assert!(found > 100, "{found} are kept");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "three million items: cargo test --release --lib hardships")]
fn one_shard_that_holds_everything_stays_within_the_limit_and_leaves_the_others_alone() {
    let limit = 64 * MIB;
    let mut store = Store::new(options(limit));
    for i in 0..1000u64 {
        put(&mut store, at(0), format!("other:{i}").as_bytes(), b"value", i, Expiry::Never).expect("room");
    }
    let count = 3_000_000u64;
    for i in 0..count {
        let now = at(1 + i / 100);
        put(&mut store, now, format!("{{one}}{i}").as_bytes(), &i.to_le_bytes(), i, Expiry::Never)
            .expect("room");
        // The others are used now and then, which is what keeps them.
        let other = format!("other:{}", i % 1000);
        assert!(value_of(&mut store, now, other.as_bytes()).is_some(), "{other} after {i} puts");
        assert!(store.held_bytes() <= limit);
        if i % 100 == 0 {
            store.tick(now);
        }
    }
    assert_eq!(
        value_of(&mut store, at(40_000), format!("{{one}}{}", count - 1).as_bytes()).map(|v| v.len()),
        Some(8)
    );
    let one = store.slot_len(slot_of(b"{one}"));
    assert!(one > 1_000_000 && one + 1000 == store.len(), "{one} items in the one shard");
    let over = (store.held_bytes() - store.payload_bytes()) as f64 / store.len() as f64;
    assert!(over < 24.0, "{over:.1} bytes over key and value");
    check_counts(&store);
}
