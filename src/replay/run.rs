//! One cache over one trace.

use super::hardship::Hardship;
use super::ours::Ours;
use super::policy::{Name, Policy};
use super::prefetcher::Prefetcher;
use super::rivals::{self, Rival};
use super::simulate::{Cache, Conditions, Outcome, Time, simulate};
use super::trace::Trace;
use crate::prefetch;
use std::time::Instant;

/// Requests between two words about progress.
const STEP_REQUESTS: usize = 1 << 16;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Requests that were not found.
    pub misses: u64,
    /// Bytes of the items that were not found.
    pub byte_misses: u64,
    /// Fetches from the origin.
    pub origin_fetches: u64,
    /// Nanoseconds of this process per request, fills included.
    pub ns_per_request: f64,
    /// Bytes held at the end, where that is known: ours counts everything it has from the system.
    pub held_bytes: Option<u64>,
    /// Mean latency where time passes: in hits for workers, else in nanoseconds.
    pub latency_mean: Option<f64>,
    /// What one request in a hundred exceeds.
    pub latency_p99: Option<f64>,
    /// What came of prefetching.
    pub prefetch: Option<Prefetched>,
}

/// What came of prefetching.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prefetched {
    /// Fetched ahead.
    pub issued: u64,
    /// Of those, found by a request.
    pub used: u64,
    /// Of those, asked for while under way.
    pub late: u64,
    /// Requests that are hits without prefetching and were none with it.
    pub harmful: u64,
    /// Bytes that the prefetcher takes, out of the limit.
    pub metadata_bytes: u64,
    /// Nanoseconds that it takes per request.
    pub ns_per_request: f64,
}

impl Prefetched {
    /// The part of what was fetched ahead that was asked for.
    pub fn precision(&self) -> f64 {
        if self.issued == 0 { 1.0 } else { (self.used + self.late) as f64 / self.issued as f64 }
    }
}

/// Runs a policy, or the real engine and store if there is none, over a trace in time, and answers which requests were hits.
pub fn replay_in_time(
    trace: &Trace,
    policy: Option<Name>,
    bytes_max: u64,
    conditions: Conditions,
    progress: &mut dyn FnMut(u64, u64),
) -> (Tally, Vec<bool>) {
    let mut cache = match policy {
        Some(name) => Cache::Policy(Box::new(Policy::new(name, bytes_max, trace))),
        None => Cache::Ours(Box::new(Ours::new(bytes_max, trace))),
    };
    let outcome = simulate(trace, &mut cache, &mut Prefetcher::None, conditions, None, bytes_max, progress);
    let tally = tally_of(&outcome, conditions.time, &mut cache);
    (tally, outcome.hits)
}

/// Runs ours with prefetching. `without` has the hits of a run without, so that harm can be told.
pub fn replay_with_prefetch(
    trace: &Trace,
    bytes_max: u64,
    conditions: Conditions,
    addresses: bool,
    without: &[bool],
    progress: &mut dyn FnMut(u64, u64),
) -> Tally {
    let options = prefetch::Options::with_bytes((bytes_max / 100 * prefetch::MEMORY_PERCENT) as usize);
    let mut prefetcher = Prefetcher::ours(options, trace, addresses);
    let first_bytes = prefetcher.heap_bytes() as u64;
    let mut cache = Cache::Ours(Box::new(Ours::new(bytes_max.saturating_sub(first_bytes), trace)));
    let outcome =
        simulate(trace, &mut cache, &mut prefetcher, conditions, Some(without), bytes_max, progress);
    tally_with(&outcome, conditions.time, &mut cache, prefetcher.heap_bytes() as u64)
}

/// Runs a policy with another's prefetcher in front of it.
pub fn replay_with_rival(
    trace: &Trace,
    policy: Name,
    rival: rivals::Name,
    bytes_max: u64,
    time: Time,
    addresses: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Tally {
    let rival = Rival::new(rival, bytes_max, trace, addresses);
    let conditions = Conditions { time, hardship: Hardship::default() };
    let metadata_bytes = rival.heap_bytes() as u64;
    let policy = Policy::new(policy, bytes_max.saturating_sub(metadata_bytes), trace);
    let mut cache = Cache::Policy(Box::new(policy));
    let mut prefetcher = Prefetcher::Rival(Box::new(rival), Vec::new());
    let outcome = simulate(trace, &mut cache, &mut prefetcher, conditions, None, bytes_max, progress);
    tally_with(&outcome, time, &mut cache, metadata_bytes)
}

fn tally_with(outcome: &Outcome, time: Time, cache: &mut Cache<'_>, metadata_bytes: u64) -> Tally {
    let tally = tally_of(outcome, time, cache);
    Tally {
        prefetch: Some(Prefetched {
            issued: outcome.issued,
            used: outcome.used,
            late: outcome.late,
            harmful: outcome.harmful.unwrap_or(0),
            metadata_bytes,
            ns_per_request: outcome.prefetcher_ns,
        }),
        held_bytes: tally.held_bytes.map(|held| held + metadata_bytes),
        ..tally
    }
}

fn tally_of(outcome: &Outcome, time: Time, cache: &mut Cache<'_>) -> Tally {
    Tally {
        misses: outcome.misses,
        byte_misses: outcome.byte_misses,
        origin_fetches: outcome.origin_fetches,
        ns_per_request: outcome.ns_per_request,
        held_bytes: match cache {
            Cache::Ours(ours) => Some(ours.held_bytes()),
            Cache::Policy(_) => None,
        },
        latency_mean: (time != Time::Instant).then_some(outcome.latency_mean),
        latency_p99: (time != Time::Instant).then_some(outcome.latency_p99),
        prefetch: None,
    }
}

/// Runs a policy, or the real engine and store if there is none, with that limit over a trace. `progress` is told rows done
/// and rows in all.
pub fn replay(
    trace: &Trace,
    policy: Option<Name>,
    bytes_max: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Tally {
    match policy {
        Some(name) => {
            let mut policy = Policy::new(name, bytes_max, trace);
            let mut gone = Vec::new();
            walk(trace, progress, |_, id| {
                let hit = policy.touch(id);
                if !hit {
                    policy.admit(id, &mut gone);
                    gone.clear();
                }
                hit
            })
        }
        None => {
            let mut ours = Ours::new(bytes_max, trace);
            let tally = walk(trace, progress, |row, id| {
                let moment = ours.moment(row);
                let hit = ours.touch(moment, id);
                if !hit {
                    ours.admit(moment, id);
                }
                hit
            });
            Tally { held_bytes: Some(ours.held_bytes()), ..tally }
        }
    }
}

/// Asks for every row; `ask` answers whether it was a hit.
fn walk(trace: &Trace, progress: &mut dyn FnMut(u64, u64), mut ask: impl FnMut(usize, u32) -> bool) -> Tally {
    let mut tally = Tally::default();
    let mut nanos = 0;
    for (step, ids) in trace.ids.chunks(STEP_REQUESTS).enumerate() {
        let first = step * STEP_REQUESTS;
        progress(first as u64, trace.len() as u64);
        let begin = Instant::now();
        for (row, &id) in (first..).zip(ids) {
            if !ask(row, id) {
                tally.misses += 1;
                tally.byte_misses += u64::from(trace.sizes[id as usize]);
            }
        }
        nanos += begin.elapsed().as_nanos();
    }
    tally.origin_fetches = tally.misses;
    tally.ns_per_request = nanos as f64 / trace.len() as f64;
    tally
}
