//! Growth from nothing to millions of items: how long each single step takes, and what the long ones did.
//!
//! A step is a put, or a tick of housekeeping between puts. On a shared machine a step may lose its CPU in the middle, so the
//! CPU time of the thread is taken, too: the lesser of both is what the step took. `--faults` counts page faults of each step.

use crate::flag;
use foreshadow::clock::Mono;
use foreshadow::ids::Version;
use foreshadow::request::Expiry;
use foreshadow::store::{Marks, NewItem, Options, Store};
use std::io::Write;
use std::time::Instant;

/// Nanoseconds of virtual time from one put to the next: half a million a second.
const NANOS_PER_PUT: u64 = 2_000;
/// Puts between two ticks, as a core ticks at most once a millisecond.
const PUTS_PER_TICK: u64 = 500;
/// Steps from this time on are told one by one.
const LONG_NANOS: u64 = 50_000;

/// CPU time of this thread so far, in nanoseconds.
fn cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the timespec that it is given.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert!(done == 0, "every thread has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Page faults of this thread so far, and how often it was taken off its CPU.
fn usage() -> (i64, i64) {
    // SAFETY: a rusage is plain numbers, for which zeros are valid; the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    (usage.ru_minflt, usage.ru_nivcsw + usage.ru_nvcsw)
}

struct Step {
    nanos: u64,
    number: u64,
    kind: &'static str,
    faults: i64,
    switches: i64,
    grown: i64,
}

/// Memory that the system gives for the first time costs what it costs, here and in a bare loop: `--warm` fills and clears the
/// store before, so that it grows in memory it has touched. Without housekeeping, which would give that back.
fn warm_up(store: &mut Store, items: u64, value: &[u8]) {
    for number in 0..items {
        let key = format!("warm:{number:016}");
        let probe = store.probe(key.as_bytes());
        let (version, marks) = (Version::new(1, number), Marks::default());
        let item = NewItem { value: &[value], flags: 0, version, expiry: Expiry::Never, marks };
        store.put(Mono(1), probe, key.as_bytes(), &item).expect("small items always fit");
    }
    store.clear();
}

/// About what so many items take.
fn store_bytes(items: u64, value_len: usize) -> usize {
    items as usize * (20 + value_len + 18)
}

/// What a bare loop pays for the first use of as much memory, page by page: the longest page and the mean, in nanoseconds.
fn bare_touch(bytes: usize) -> (u64, u64) {
    const PAGE_BYTES: usize = 4096;
    // Zeros come from the system untouched.
    let mut memory = vec![0u8; bytes];
    let (mut most, started) = (0, cpu_nanos());
    for at in (0..bytes).step_by(PAGE_BYTES) {
        let before = cpu_nanos();
        std::hint::black_box(&mut memory)[at] = 1;
        most = most.max(cpu_nanos() - before);
    }
    (most, (cpu_nanos() - started) / (bytes / PAGE_BYTES) as u64)
}

/// The same arithmetic again and again, ten million times: how long it takes at the 9999th of 10,000 and at most says what
/// the machine adds to any step.
fn bare_work() -> (u64, u64) {
    let mut histogram =
        hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
    for number in 0..10_000_000u64 {
        let cpu = cpu_nanos();
        let start = Instant::now();
        std::hint::black_box((number..number + 200).fold(number, |sum, n| sum.rotate_left(5) ^ n));
        let nanos = start.elapsed().as_nanos() as u64;
        histogram.saturating_record(if nanos < 10_000 { nanos.max(1) } else { nanos.min(cpu_nanos() - cpu) });
    }
    (histogram.value_at_quantile(0.9999), histogram.max())
}

pub fn run(arguments: &[String]) {
    let items = flag(arguments, "--items", 10_000_000);
    let value = vec![0xA5u8; flag(arguments, "--value", 32) as usize];
    let limit = flag(arguments, "--limit", 2 << 30);
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let (one_shard, expiring, count_faults) = (has("--one-shard"), has("--expiring"), has("--faults"));
    let mut store = Store::new(Options {
        memory_bytes_max: limit,
        item_bytes_max: 1 << 20,
        hash_secret: [0x5EED, 0xF00D],
    });
    let warm = has("--warm");
    let (usual, most) = bare_work();
    println!("bare_work_p99.99_nanos\t{usual}\nbare_work_max_nanos\t{most}");
    if warm {
        warm_up(&mut store, items, &value);
    } else {
        let (most, mean) = bare_touch(store_bytes(items, value.len()));
        println!("bare_touch_max_nanos\t{most}\nbare_touch_mean_nanos\t{mean}");
    }
    let empty = || hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
    let (mut histogram, mut by_clock) = (empty(), empty());
    let mut long: Vec<Step> = Vec::new();
    let (mut faults_most, mut faults_all) = (0, 0);
    let mut switches_seen = usage().1;
    let mut key = Vec::with_capacity(64);
    for number in 0..items {
        let now = Mono(1_000_000_000 + number * NANOS_PER_PUT);
        key.clear();
        let tag = if one_shard { "{tag}" } else { "key:" };
        write!(key, "{tag}{number:016}").expect("a Vec takes all");
        let expiry =
            if expiring { Expiry::At(now.plus_millis(3_600_000 + number % 1000)) } else { Expiry::Never };
        let item = NewItem {
            value: &[&value],
            flags: 0,
            version: Version::new(1, number),
            expiry,
            marks: Marks::default(),
        };
        let mut step = |kind: &'static str, work: &mut dyn FnMut(&mut Store)| {
            let (before, held) = (if count_faults { usage() } else { (0, 0) }, store.held_bytes() as i64);
            let cpu = cpu_nanos();
            let start = Instant::now();
            work(&mut store);
            let wall_nanos = start.elapsed().as_nanos() as u64;
            by_clock.saturating_record(wall_nanos.max(1));
            let nanos = match wall_nanos {
                // Reading the CPU time takes time itself, which does not matter for long steps.
                0..10_000 => wall_nanos,
                _ => wall_nanos.min(cpu_nanos() - cpu),
            };
            let faults = if count_faults { usage().0 - before.0 } else { 0 };
            faults_most = faults_most.max(faults);
            faults_all += faults;
            if nanos >= LONG_NANOS {
                // A step during which another thread had the CPU says nothing about the store.
                let switches = usage().1 - switches_seen;
                switches_seen += switches;
                let grown = store.held_bytes() as i64 - held;
                long.push(Step { nanos, number, kind, faults, switches, grown });
            }
            histogram.saturating_record(nanos.max(1));
        };
        step("put", &mut |store| {
            let probe = store.probe(&key);
            store.put(now, probe, &key, &item).expect("small items always fit");
        });
        if number.is_multiple_of(PUTS_PER_TICK) && !warm {
            step("tick", &mut |store| {
                store.tick(now);
            });
        }
    }
    println!(
        "items\t{}\nheld_bytes\t{}\npayload_bytes\t{}",
        store.len(),
        store.held_bytes(),
        store.payload_bytes()
    );
    println!("evicted\t{}", store.take_departures().evicted);
    println!("mean_nanos\t{:.0}", histogram.mean());
    for (name, quantile) in
        [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999)]
    {
        println!("{name}_nanos\t{}", histogram.value_at_quantile(quantile));
    }
    println!("max_nanos\t{}", histogram.max());
    println!("p99.99_nanos_by_the_clock\t{}", by_clock.value_at_quantile(0.9999));
    println!("max_nanos_by_the_clock\t{}", by_clock.max());
    if count_faults {
        println!("faults\t{faults_all}\nfaults_in_one_step_max\t{faults_most}");
    }
    println!("steps_over_50_us\t{}", long.len());
    long.sort_by_key(|step| std::cmp::Reverse(step.nanos));
    println!("long\tnanos\tstep\tkind\tfaults\tswitches_since_the_one_before\theld_bytes_more");
    for Step { nanos, number, kind, faults, switches, grown } in
        long.iter().take(flag(arguments, "--show", 20) as usize)
    {
        println!("long\t{nanos}\t{number}\t{kind}\t{faults}\t{switches}\t{grown}");
    }
}
