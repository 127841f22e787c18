//! Long random use of one store far below its limit: nothing may be missing that nobody removed, nothing may come back.
//!
//! A deterministic relative of the soak, without sockets: overwrites of all sizes make segments half dead, expiry empties
//! others, compaction moves what is left, and virtual time passes with its ticks. `FORESHADOW_ENDURANCE_STEPS` makes it longer.

use foreshadow::clock::Mono;
use foreshadow::ids::Version;
use foreshadow::request::Expiry;
use foreshadow::store::{Marks, NewItem, Options, Store};
use std::collections::HashMap;

const KEYS: u64 = 8_000;
const VALUE_BYTES_MAX: u64 = 20_000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }
}

struct Expected {
    seed: u64,
    len: usize,
    ends: Option<u64>,
}

fn value_of(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (seed.wrapping_mul(31).wrapping_add(i * 7) >> 3) as u8).collect()
}

#[test]
fn nothing_is_lost_and_nothing_returns_far_below_the_limit() {
    let steps = std::env::var("FORESHADOW_ENDURANCE_STEPS").map_or(400_000, |n| n.parse().expect("a number"));
    let seed = std::env::var("FORESHADOW_ENDURANCE_SEED").map_or(1, |n| n.parse().expect("a number"));
    let mut dice = Dice(seed);
    let options = Options { memory_bytes_max: 512 << 20, item_bytes_max: 1 << 20, hash_secret: [seed, 2] };
    let mut store = Store::new(options);
    let mut model: HashMap<u64, Expected> = HashMap::new();
    let mut nanos = 1_000_000_000u64;
    for step in 0..steps {
        let now = Mono(nanos);
        let number = dice.below(KEYS);
        let key = format!("soak:{}:{number}", number % 7).into_bytes();
        let probe = store.probe(&key);
        // The store keeps deadlines to a quarter of a millisecond and is late rather than early.
        let close =
            |expected: &Expected| expected.ends.is_some_and(|ends| ends <= nanos && nanos - ends <= 250_000);
        if model.get(&number).is_some_and(close) {
            continue;
        }
        let due = |expected: &Expected| expected.ends.is_some_and(|ends| ends <= nanos);
        if model.get(&number).is_some_and(due) {
            model.remove(&number);
        }
        match dice.below(20) {
            0..8 => {
                let found = store.find(now, probe, &key, true);
                match (found, model.get(&number)) {
                    (None, None) => {}
                    (Some(found), Some(expected)) => {
                        assert!(
                            found.value.bytes() == value_of(expected.seed, expected.len),
                            "step {step}: another value under {number}"
                        );
                    }
                    (found, expected) => panic!(
                        "step {step}, seed {seed}: key {number} is {} at {nanos}, expected {}; {:?}",
                        found.map_or("missing".into(), |found| format!(
                            "there until {:?}, {:?}",
                            found.expiry, found.version
                        )),
                        expected.map_or("nothing".into(), |e| format!(
                            "{} bytes ending {:?} at {nanos}",
                            e.len, e.ends
                        )),
                        store.take_departures(),
                    ),
                }
            }
            kind @ 8..16 => {
                let len = match dice.below(10) {
                    0 => dice.below(VALUE_BYTES_MAX),
                    1..4 => dice.below(1000),
                    _ => dice.below(150),
                } as usize;
                let ends = (kind < 10).then(|| nanos + (1 + dice.below(3000)) * 1_000_000);
                let value = value_of(step, len);
                let item = NewItem {
                    value: &[&value],
                    flags: 0,
                    version: Version::new(0, step + 1),
                    expiry: ends.map_or(Expiry::Never, |ends| Expiry::At(Mono(ends))),
                    marks: Marks::default(),
                };
                store.put(now, probe, &key, &item).expect("far below the limit");
                model.insert(number, Expected { seed: step, len, ends });
            }
            16..18 => {
                let there = store.remove(probe, &key);
                assert!(there || !model.contains_key(&number), "step {step}: key {number} is missing");
                model.remove(&number);
            }
            _ => {
                if let Some(expected) = model.get_mut(&number) {
                    let ends = dice.below(2) == 0;
                    expected.ends = ends.then(|| nanos + (1 + dice.below(3000)) * 1_000_000);
                    let expiry = expected.ends.map_or(Expiry::Never, |ends| Expiry::At(Mono(ends)));
                    let done =
                        store.amend(now, probe, &key, Version::new(0, step + 1), expiry, Marks::default());
                    assert!(done, "step {step}: key {number} is missing");
                }
            }
        }
        nanos += dice.below(40_000);
        if dice.below(50) == 0 {
            while store.tick(Mono(nanos)) && dice.below(4) != 0 {}
        }
    }
    assert_eq!(store.take_departures().evicted, 0, "nothing had to go");
}
