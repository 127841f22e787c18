//! A cluster in one thread, from a seed: real engines, stores and moves, a virtual clock, links and a metadata service that fail,
//! clients that read and write through it, and checkers that know nothing of how it works.
//!
//! ```text
//!   FORESHADOW_SEED=7 cargo test --test sim one_seed -- --nocapture     plays one seed, and says what happened
//!   FORESHADOW_SEEDS=100000 cargo test --release --test sim seeds_      (make simulate SEEDS=100000)
//! ```

mod check;
mod clients;
mod metadata;
mod plan;
mod world;

use foreshadow::migration::Sabotage;
use plan::Plan;
use std::time::{SystemTime, UNIX_EPOCH};
use world::{Report, World};

/// Seeds played by a plain run: always the same ones, and as many fresh ones as that.
const FIXED_SEEDS: u64 = 600;
const FRESH_SEEDS: u64 = 200;
/// Seeds within which a mistake must be found.
const SABOTAGE_SEEDS: u64 = 600;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn play(seed: u64, sabotage: &'static [Sabotage]) -> Report {
    World::new(Plan::of(seed), sabotage, false).run()
}

fn play_all(seeds: impl Iterator<Item = u64>) -> Total {
    let mut total = Total::default();
    for seed in seeds {
        let report = play(seed, &[]);
        if let Some(violation) = &report.violation {
            panic!(
                "{violation}\nagain: FORESHADOW_SEED={seed} cargo test --test sim one_seed -- --nocapture"
            );
        }
        total.add(&report);
    }
    total
}

/// What happened in many runs: a fault that never came, or an ending that was never reached, would test nothing.
#[derive(Debug, Default)]
struct Total {
    runs: u64,
    moved: u64,
    revoked: u64,
    cancelled: u64,
    resumed: u64,
    deltas: u64,
    held: u64,
    forwarded: u64,
    stale: u64,
    duplicates: u64,
    broken: u64,
    lost_replies: u64,
    crashes: u64,
    operations: u64,
}

impl Total {
    fn add(&mut self, report: &Report) {
        let Report { tally, lost_replies, crashes, operations, .. } = report;
        self.runs += 1;
        self.moved += tally.moved;
        self.revoked += tally.revoked;
        self.cancelled += tally.cancelled;
        self.resumed += tally.resumed;
        self.deltas += tally.deltas;
        self.held += tally.held;
        self.forwarded += tally.forwarded;
        self.stale += tally.stale_frames;
        self.duplicates += tally.duplicate_frames;
        self.broken += tally.broken_streams;
        self.lost_replies += lost_replies;
        self.crashes += crashes;
        self.operations += operations;
    }

    fn reached_everything(&self) {
        println!("{self:?}");
        let counts = [
            self.moved,
            self.revoked,
            self.cancelled,
            self.resumed,
            self.deltas,
            self.held,
            self.forwarded,
            self.stale,
            self.duplicates,
            self.broken,
            self.lost_replies,
            self.crashes,
        ];
        assert!(counts.iter().all(|count| *count > 0), "something was never reached: {self:?}");
    }
}

#[test]
fn seeds_that_are_always_the_same_hold() {
    play_all(1..=number_of("FORESHADOW_SEEDS").unwrap_or(FIXED_SEEDS)).reached_everything();
}

#[test]
fn seeds_that_are_new_hold() {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    let count = number_of("FORESHADOW_SEEDS").unwrap_or(FRESH_SEEDS);
    println!("fresh seeds {first} to {}", first + count - 1);
    let total = play_all(first..first + count);
    assert!(total.moved > total.runs / 4, "{total:?}");
}

#[test]
fn one_seed_says_what_happened() {
    let Some(seed) = number_of("FORESHADOW_SEED") else {
        // Without a seed: that a run says anything at all.
        let report = World::new(Plan::of(1), &[], true).run();
        assert!(report.log.len() > 10);
        return;
    };
    let report = World::new(Plan::of(seed), &[], true).run();
    report.log.iter().for_each(|line| println!("{line}"));
    println!("{:?}", report.tally);
    assert_eq!(report.violation, None);
}

#[test]
fn the_same_seed_plays_the_same_way() {
    let traces: Vec<u64> = (1..=40).map(|seed| play(seed, &[]).trace).collect();
    for (seed, trace) in (1..).zip(&traces) {
        assert_eq!(play(seed, &[]).trace, *trace, "seed {seed}");
    }
    let mut different = traces.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), traces.len(), "other seeds play other ways");
}

#[test]
fn without_faults_every_move_arrives_and_nobody_is_told_to_try_again_for_long() {
    for seed in 1..=100 {
        let plan = Plan::of(seed).without_faults();
        let moves = plan.moves.len() as u64;
        let report = World::new(plan, &[], false).run();
        assert_eq!(report.violation, None, "seed {seed}");
        assert_eq!((report.lost, report.tally.revoked), (0, 0), "seed {seed}");
        assert!(report.tally.moved + report.refused >= moves, "seed {seed}: {:?}", report.tally);
    }
}

/// Finds the first seed at which a mistake shows.
fn found(sabotage: &'static [Sabotage]) -> Option<(u64, String)> {
    (1..=SABOTAGE_SEEDS).find_map(|seed| play(seed, sabotage).violation.map(|violation| (seed, violation)))
}

#[test]
fn every_mistake_made_on_purpose_is_found() {
    let mistakes: &[&'static [Sabotage]] = &[
        &[Sabotage::SkipDelta],
        &[Sabotage::LoseTombstone],
        &[Sabotage::LateImage],
        &[Sabotage::TwoOwners],
        &[Sabotage::ReadAfterGrant],
        &[Sabotage::AckBeforeCommit],
        &[Sabotage::DirectBeforeCommit],
        &[Sabotage::GuessCommit],
        &[Sabotage::GuessRevoke],
        &[Sabotage::ApplyDuplicates],
        &[Sabotage::AcceptStale],
        &[Sabotage::ForgetHeld],
        &[Sabotage::RunHeldTwice],
        &[Sabotage::VersionsBack],
        &[Sabotage::GrantBeforeTail],
        &[Sabotage::ForwardTwice],
        &[Sabotage::ForgetUnacked],
    ];
    let mut missed = Vec::new();
    for sabotage in mistakes {
        match found(sabotage) {
            Some((seed, violation)) => println!("{sabotage:?}: seed {seed}: {violation}"),
            None => missed.push(format!("{sabotage:?}")),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Mistakes that the digest finds before a client does: with the digest ignored the clients find them.
#[test]
fn where_the_digest_is_ignored_the_clients_find_what_it_would_have_found() {
    let mistakes: &[&'static [Sabotage]] = &[
        &[Sabotage::IgnoreDigest, Sabotage::SkipDelta],
        &[Sabotage::IgnoreDigest, Sabotage::LoseTombstone],
        &[Sabotage::IgnoreDigest, Sabotage::LateImage],
        &[Sabotage::IgnoreDigest, Sabotage::ApplyDuplicates],
        &[Sabotage::IgnoreDigest, Sabotage::GrantBeforeTail],
    ];
    for sabotage in mistakes {
        let (seed, violation) = found(sabotage).unwrap_or_else(|| panic!("{sabotage:?} was not found"));
        println!("{sabotage:?}: seed {seed}: {violation}");
        assert!(!violation.contains("digest"), "{violation}");
    }
}
