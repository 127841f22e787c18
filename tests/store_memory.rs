//! What the store says it holds against what the process really holds. In a process of its own: resident memory is the
//! process's.

#![cfg(target_os = "linux")]

use foreshadow::clock::Mono;
use foreshadow::ids::Version;
use foreshadow::request::{Expiry, LANDING_BYTES_MIN};
use foreshadow::store::{Lander, Marks, NewItem, Options, Store};

const MIB: u64 = 1 << 20;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("the second field is resident pages");
    pages * 4096
}

/// Numbers without pattern (splitmix64).
fn mix(n: u64) -> u64 {
    let x = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Lengths whose logarithm is about normal: many short values, a few long ones.
fn log_normal_len(dice: u64) -> usize {
    let sum: u32 = (0..4).map(|i| (mix(dice + i) % 1000) as u32).sum();
    (2f64.powf(3.0 + f64::from(sum) / 400.0)) as usize
}

fn put(store: &mut Store, now: Mono, key: u64, value: &[u8], expiry: Expiry) {
    let key = format!("key:{key:016}");
    let probe = store.probe(key.as_bytes());
    let item =
        NewItem { value: &[value], flags: 0, version: Version(now.0 >> 10), expiry, marks: Marks::default() };
    if value.len() >= LANDING_BYTES_MIN {
        // As a core does: step by step, until there is nothing more to be done ahead.
        let lander = Lander { from: 1, value, replaces: true };
        while !store.land(now, probe, key.as_bytes(), &lander) {}
    }
    store.put(now, probe, key.as_bytes(), &item).expect("what has landed fits, and so do small items");
}

/// One test, so that nothing else runs in the process.
#[test]
fn resident_memory_stays_within_three_percent_of_the_limit_and_is_given_back() {
    let bytes = vec![0xA5u8; 4 << 20];
    for limit in [16 * MIB, 192 * MIB] {
        let before = resident_bytes();
        let held = |store: &Store| {
            let (held, resident) = (store.held_bytes(), resident_bytes().saturating_sub(before));
            assert!(held <= limit, "{held} held of {limit}");
            let most = limit + limit * 3 / 100;
            assert!(resident <= most, "{resident} resident of {limit}, {held} held");
            (held, resident)
        };
        let options = Options { memory_bytes_max: limit, item_bytes_max: 8 << 20, hash_secret: [3, 4] };
        let mut store = Store::new(options);
        let mut now = Mono(1);
        // Fill, then churn with other lengths, expiries, removals and now and then a large value.
        let count = limit / 100;
        for i in 0..2 * count {
            now = Mono(now.0 + 20_000);
            let dice = mix(i);
            let value = &bytes[..log_normal_len(dice)];
            let expiry = if dice.is_multiple_of(3) {
                Expiry::At(now.plus_millis(dice % 100_000))
            } else {
                Expiry::Never
            };
            put(&mut store, now, dice % (2 * count), value, expiry);
            if dice % 50_000 == 1 {
                put(
                    &mut store,
                    now,
                    u64::MAX - dice % 7,
                    &bytes[..(dice >> 20) as usize % (2 << 20)],
                    Expiry::Never,
                );
            }
            if dice % 10 == 7 {
                let key = format!("key:{:016}", (dice >> 8) % (2 * count));
                let probe = store.probe(key.as_bytes());
                store.remove(probe, key.as_bytes());
            }
            if i % 100 == 0 {
                store.tick(now);
            }
            if i % 5_000 == 0 {
                held(&store);
            }
        }
        let (held_full, resident_full) = held(&store);
        assert!(store.payload_bytes() > limit * 6 / 10, "{} of {limit} are used", store.payload_bytes());
        assert!(resident_full > held_full * 9 / 10, "what is held is there: {resident_full} of {held_full}");
        // All of it goes when it is cleared, step by step.
        store.clear();
        while store.tick(now) {}
        let (held_empty, resident_empty) = held(&store);
        assert!(held_empty < limit / 8, "{held_empty} held of {limit} after clear");
        assert!(resident_empty < limit / 4, "{resident_empty} resident of {limit} after clear");
    }
}
