//! Fill to the limit, then churn with lengths whose logarithm is normal: what is resident and what is held, throughout.

use crate::dice::{mix, normal};
use crate::flag;
use foreshadow::clock::Mono;
use foreshadow::ids::Version;
use foreshadow::request::{Expiry, LANDING_BYTES_MIN};
use foreshadow::store::{Lander, Marks, NewItem, Options, Store};
use std::io::Write;
use std::time::{Duration, Instant};

/// Longest value; a few of those that are drawn are cut to it.
const VALUE_BYTES_MAX: usize = 4 << 20;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("the second field is resident pages");
    pages * 4096
}

pub fn run(arguments: &[String]) {
    let seconds = flag(arguments, "--seconds", 600);
    let limit = flag(arguments, "--limit", 1 << 30);
    let bytes = vec![0xA5u8; VALUE_BYTES_MAX];
    std::hint::black_box(&bytes);
    let resident_before = resident_bytes();
    let mut store = Store::new(Options {
        memory_bytes_max: limit,
        item_bytes_max: 8 << 20,
        hash_secret: [0x5EED, 0xF00D],
    });
    let started = Instant::now();
    let mut sampled = Instant::now();
    let mut key = Vec::with_capacity(64);
    let mut worst = 0f64;
    println!(
        "seconds\tresident_bytes\theld_bytes\tpayload_bytes\titems\tputs\tlimit_bytes\tmedian_value_bytes"
    );
    for number in 0u64.. {
        // The middle of the lengths wanders, so that what fitted the segments of one minute does not fit those of the next.
        let elapsed = started.elapsed();
        if elapsed >= Duration::from_secs(seconds) {
            break;
        }
        let now = Mono(1_000_000_000 + elapsed.as_nanos() as u64);
        let minutes = elapsed.as_secs_f64() / 60.0;
        let median = 120.0 * 4f64.powf((minutes * std::f64::consts::TAU / 2.5).sin());
        for i in number * 64..(number + 1) * 64 {
            let dice = mix(i);
            let len = (median * (1.3 * normal(i)).exp()) as usize;
            let len = len.min(VALUE_BYTES_MAX);
            let rank = (limit as f64 / 150.0 * (dice >> 40) as f64 / (1u64 << 24) as f64) as u64;
            key.clear();
            write!(key, "key:{rank:016}").expect("a Vec takes all");
            let probe = store.probe(&key);
            match dice % 16 {
                0..10 => {
                    let expiry = match dice >> 4 & 3 {
                        0 => Expiry::At(now.plus_millis(1 + (dice >> 8) % 120_000)),
                        _ => Expiry::Never,
                    };
                    let (value, marks) = (&bytes[..len], Marks::default());
                    let item =
                        NewItem { value: &[value], flags: 0, version: Version::new(1, i), expiry, marks };
                    if len >= LANDING_BYTES_MIN {
                        // As the engine does: long values have room made for them in steps, with others in between.
                        let lander = Lander { from: 1, value, replaces: true };
                        while !store.land(now, probe, &key, &lander) {
                            store.tick(now);
                        }
                    }
                    let stored = store.put(now, probe, &key, &item);
                    assert!(stored.is_ok(), "{stored:?} for {len} bytes, with {} held", store.held_bytes());
                }
                10..15 => {
                    let found = store.find(now, probe, &key, true);
                    assert!(found.is_none_or(|found| found.value.bytes().iter().all(|&byte| byte == 0xA5)));
                }
                _ => {
                    store.remove(probe, &key);
                }
            }
        }
        if number.is_multiple_of(8) {
            store.tick(now);
        }
        if sampled.elapsed() >= Duration::from_millis(500) || number == 0 {
            sampled = Instant::now();
            let resident = resident_bytes().saturating_sub(resident_before);
            worst = worst.max(resident as f64 / limit as f64);
            println!(
                "{:.1}\t{resident}\t{}\t{}\t{}\t{}\t{limit}\t{median:.0}",
                elapsed.as_secs_f64(),
                store.held_bytes(),
                store.payload_bytes(),
                store.len(),
                number * 40,
            );
            assert!(store.held_bytes() <= limit, "{} held of {limit}", store.held_bytes());
        }
    }
    eprintln!("most resident: {worst:.4} of the limit");
}
