//! A trace through a cache with a prefetcher, in time: fetches take as long as the origin does, and who comes too late waits.
//!
//! | time | requests come | a fetch takes |
//! |---|---|---|
//! | instant | one after the other | nothing: what is guessed is there for the next request |
//! | stamps | when the trace says | the origin's latency |
//! | workers | W clients take the next one as soon as they have an answer; a hit takes 1 | the origin's latency, in hits |
//!
//! 1. What landed by now is put into the cache.
//! 2. The request is a hit; or joins a fetch of its key under way (a miss, but no fetch of its own; if the fetch was a
//!    prefetch it was *late*, and saved the time since it began); or a miss that fetches.
//! 3. The prefetcher sees the request and may have others fetched.
//!
//! Hardships (`hardship`) may come on top: lives that end, storms of invalidations, an origin that is slow for a while and has few places.
//!
//! Each fetch counts once at the origin, whoever wanted it. Only rows before a row have a say in what is done at it.

use super::hardship::{Hardship, Strained};
use super::ours::Ours;
use super::policy::Policy;
use super::prefetcher::{Prefetcher, Wish};
use super::trace::{Trace, mix};
use hdrhistogram::Histogram;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Time {
    /// Fetches take none.
    Instant,
    /// Requests come when the trace says, and a fetch takes so many nanoseconds.
    Stamps {
        /// The origin's latency.
        origin_nanos: u64,
    },
    /// So many clients in turn; a hit takes 1, a fetch so many times that.
    Workers {
        /// Clients.
        count: usize,
        /// The origin's latency, in hits.
        origin_hits: u64,
        /// Deviation of the latency's logarithm; 0 is constant.
        spread: f64,
    },
}

/// How time passes, and what makes it hard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Time.
    pub time: Time,
    /// Hardships; they are for ours.
    pub hardship: Hardship,
}

/// The units of a hit: fine enough for latencies that vary.
const HIT_UNITS: u64 = 1000;
/// A hit is 10 us.
const NANOS_PER_UNIT: u64 = 10;
/// Requests between two words about progress, and to the prefetcher about the cache.
const STEP_REQUESTS: usize = 4096;
/// One observation in so many is timed.
const TIMED_EVERY: usize = 64;

/// A cache.
pub enum Cache<'t> {
    /// The engine and store.
    Ours(Box<Ours<'t>>),
    /// A simulator.
    Policy(Box<Policy<'t>>),
}

impl Cache<'_> {
    fn touch(&mut self, moment: u64, id: u32) -> bool {
        match self {
            Cache::Ours(ours) => ours.touch(moment, id),
            Cache::Policy(policy) => policy.touch(id),
        }
    }

    fn admit(&mut self, moment: u64, id: u32, asked: bool, gone: &mut Vec<u32>) {
        match self {
            Cache::Ours(ours) if asked => ours.admit(moment, id),
            Cache::Ours(ours) => ours.admit_unasked(moment, id),
            Cache::Policy(policy) => policy.admit(id, gone),
        }
    }

    /// An item that nobody had asked for was found.
    fn credit(&mut self, id: u32) {
        if let Cache::Ours(ours) = self {
            ours.credit(id);
        }
    }

    fn holds(&mut self, moment: u64, id: u32) -> bool {
        match self {
            Cache::Ours(ours) => ours.holds(moment, id),
            Cache::Policy(policy) => policy.holds(id),
        }
    }

    fn invalidate(&mut self, moment: u64, id: u32) {
        match self {
            Cache::Ours(ours) => ours.invalidate(moment, id),
            Cache::Policy(_) => unreachable!("hardships are for ours"),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests that were not found; those that came too early for a prefetch are among them.
    pub misses: u64,
    /// Bytes of those.
    pub byte_misses: u64,
    /// Misses in the second half of the trace.
    pub misses_second_half: u64,
    /// Fetches from the origin.
    pub origin_fetches: u64,
    /// Bytes fetched.
    pub origin_bytes: u64,
    /// Prefetches among the fetches.
    pub issued: u64,
    /// Prefetches that a request found.
    pub used: u64,
    /// Prefetches that a request came too early for.
    pub late: u64,
    /// Requests that would have been found without prefetching; known if the hits of a run without were given.
    pub harmful: Option<u64>,
    /// Mean latency in hits (workers), or in nanoseconds (stamps), and what one request in a hundred exceeds.
    pub latency_mean: f64,
    pub latency_p99: f64,
    /// Nanoseconds of this process per request.
    pub ns_per_request: f64,
    /// Of these, the prefetcher's, from a sample.
    pub prefetcher_ns: f64,
    /// Whether each request was a hit.
    pub hits: Vec<bool>,
}

/// A fetch under way.
#[derive(Clone, Copy)]
struct Flight {
    lands: u64,
    began: u64,
    prefetch: bool,
}

/// Runs it, in so many bytes for all of it. `without` has the hits of a run without prefetching, if harm is to be counted.
pub fn simulate<'t>(
    trace: &'t Trace,
    cache: &mut Cache<'t>,
    prefetcher: &mut Prefetcher,
    Conditions { time, hardship }: Conditions,
    without: Option<&[bool]>,
    bytes_max: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Outcome {
    let mut run = Run {
        trace,
        cache,
        time,
        strained: match (time, hardship.brownout) {
            (Time::Workers { count, .. }, Some(times)) => {
                Some(Strained::new(count, times, trace.len(), NANOS_PER_UNIT))
            }
            _ => None,
        },
        flights: HashMap::new(),
        landings: BinaryHeap::new(),
        unused: vec![false; trace.footprint_items()],
        gone: Vec::new(),
        outcome: Outcome { hits: Vec::with_capacity(trace.len()), ..Outcome::default() },
    };
    let mut workers: BinaryHeap<Reverse<u64>> = match time {
        Time::Workers { count, .. } => (0..count).map(|_| Reverse(0)).collect(),
        _ => BinaryHeap::new(),
    };
    if let (Cache::Ours(ours), Some(nanos)) = (&mut *run.cache, hardship.life_nanos) {
        ours.set_life(nanos);
    }
    let (mut harmful, mut latency_sum) = (0, 0.0);
    let mut latencies = Histogram::<u64>::new(3).expect("three digits are allowed");
    let (mut timed, mut timed_nanos) = (0u64, 0);
    let mut wishes = Vec::new();
    let begin = Instant::now();
    for (row, &id) in trace.ids.iter().enumerate() {
        if row % STEP_REQUESTS == 0 {
            progress(row as u64, trace.len() as u64);
            if let Cache::Ours(ours) = &mut *run.cache {
                prefetcher.cache_holds(ours.items());
                if prefetcher.fit() {
                    ours.set_memory_bytes_max(bytes_max.saturating_sub(prefetcher.heap_bytes() as u64));
                }
            } else {
                prefetcher.cache_holds((trace.footprint_items() / 10) as u64);
            }
        }
        let now = match time {
            Time::Instant => row as u64,
            Time::Stamps { .. } => trace.times[row],
            Time::Workers { .. } => workers.pop().map_or(0, |Reverse(free)| free),
        };
        run.land(now, prefetcher);
        let moment = run.moment(row, now);
        if let Some(reaches) = hardship.storm(row) {
            run.invalidate(moment, reaches, prefetcher);
        }
        let (hit, latency) = run.request(row, now, moment, id);
        latency_sum += latency as f64;
        latencies.record(latency).expect("it grows as far as it has to");
        if let Time::Workers { .. } = time {
            workers.push(Reverse(now + latency));
        }
        harmful += u64::from(!hit && without.is_some_and(|without| without[row]));
        let sample = row % TIMED_EVERY == 0;
        let before = sample.then(Instant::now);
        prefetcher.observe(trace, row, hit, &mut wishes);
        if let Some(before) = before {
            timed += 1;
            timed_nanos += before.elapsed().as_nanos();
        }
        for wish in wishes.drain(..) {
            run.wish(row, (now, moment), wish, prefetcher);
        }
        if time == Time::Instant {
            run.land(now, prefetcher);
        }
    }
    let elapsed = begin.elapsed().as_nanos();
    let mut outcome = run.outcome;
    let count = trace.len() as f64;
    let unit = if let Time::Workers { .. } = time { HIT_UNITS as f64 } else { 1.0 };
    outcome.latency_mean = latency_sum / count / unit;
    outcome.latency_p99 = latencies.value_at_quantile(0.99) as f64 / unit;
    outcome.ns_per_request = elapsed as f64 / count;
    outcome.prefetcher_ns = if prefetcher.is_none() { 0.0 } else { timed_nanos as f64 / timed.max(1) as f64 };
    outcome.harmful = without.map(|_| harmful);
    outcome
}

struct Run<'a, 't> {
    trace: &'t Trace,
    cache: &'a mut Cache<'t>,
    time: Time,
    strained: Option<Strained>,
    flights: HashMap<u32, Flight>,
    landings: BinaryHeap<Reverse<(u64, u32)>>,
    /// Whether an item was prefetched and not asked for since.
    unused: Vec<bool>,
    gone: Vec<u32>,
    outcome: Outcome,
}

impl Run<'_, '_> {
    /// The engine's moment: the trace's own time, or the simulation's.
    fn moment(&self, row: usize, now: u64) -> u64 {
        match self.time {
            Time::Instant => 1 + self.trace.times.get(row).copied().unwrap_or(row as u64 * 10_000),
            Time::Stamps { .. } => now + 1,
            Time::Workers { .. } => 1 + now * NANOS_PER_UNIT,
        }
    }

    /// Puts in what landed by now.
    fn land(&mut self, now: u64, prefetcher: &mut Prefetcher) {
        while let Some(&Reverse((lands, id))) = self.landings.peek()
            && lands <= now
        {
            self.landings.pop();
            // One that was invalidated on its way, and may be asked for again since, is not stored.
            let Some(flight) = self.flights.remove(&id) else { continue };
            if flight.lands != lands {
                self.flights.insert(id, flight);
                continue;
            }
            let moment = self.moment(0, lands).max(1);
            let moment = if self.time == Time::Instant { self.moment(now as usize, now) } else { moment };
            self.unused[id as usize] = flight.prefetch;
            self.cache.admit(moment, id, !flight.prefetch, &mut self.gone);
            self.gone.clear();
            if flight.prefetch {
                prefetcher.landed(id);
            }
        }
    }

    /// A request: whether it was a hit, and how long it took.
    fn request(&mut self, row: usize, now: u64, moment: u64, id: u32) -> (bool, u64) {
        let hit = self.cache.touch(moment, id);
        self.outcome.hits.push(hit);
        let hit_time = if let Time::Workers { .. } = self.time { HIT_UNITS } else { 0 };
        if hit {
            if std::mem::take(&mut self.unused[id as usize]) {
                self.outcome.used += 1;
                self.cache.credit(id);
            }
            return (true, hit_time);
        }
        self.unused[id as usize] = false;
        self.outcome.misses += 1;
        self.outcome.byte_misses += u64::from(self.trace.sizes[id as usize]);
        self.outcome.misses_second_half += u64::from(row * 2 >= self.trace.len());
        if let Some(flight) = self.flights.get_mut(&id) {
            let left = flight.lands - now;
            if std::mem::take(&mut flight.prefetch) {
                self.outcome.late += 1;
                debug_assert!(flight.began <= now);
            }
            return (false, left + hit_time);
        }
        let latency = self.latency(row, now);
        self.fetch(now, id, latency, false);
        (false, latency + hit_time)
    }

    /// Keys with these numbers are not what they were: what is held of them goes, and what is under way is not stored.
    fn invalidate(&mut self, moment: u64, reaches: impl Fn(u64) -> bool, prefetcher: &mut Prefetcher) {
        for id in (0..self.trace.names.len()).filter(|&id| reaches(self.trace.names[id])) {
            self.cache.invalidate(moment, id as u32);
            self.unused[id] = false;
            if self.flights.remove(&(id as u32)).is_some_and(|flight| flight.prefetch) {
                prefetcher.voided(id as u32);
            }
        }
    }

    /// Has a key fetched that a prefetcher asks for, unless it is there or under way.
    fn wish(&mut self, row: usize, (now, moment): (u64, u64), wish: Wish, prefetcher: &mut Prefetcher) {
        if let Some(id) = wish.id
            && (self.flights.contains_key(&id) || self.cache.holds(moment, id))
        {
            return;
        }
        if self.strained.as_mut().is_some_and(|origin| !origin.spares(now)) {
            return;
        }
        let latency = self.latency(row, now);
        let Some(id) = wish.id else {
            // The origin says that there is no such key; that was a fetch, too.
            self.outcome.origin_fetches += 1;
            self.outcome.issued += 1;
            prefetcher.absent(wish);
            return;
        };
        prefetcher.issued(id, wish);
        self.outcome.issued += 1;
        self.fetch(now, id, latency, true);
    }

    fn fetch(&mut self, now: u64, id: u32, latency: u64, prefetch: bool) {
        self.outcome.origin_fetches += 1;
        self.outcome.origin_bytes += u64::from(self.trace.sizes[id as usize]);
        let lands = now + latency;
        self.flights.insert(id, Flight { lands, began: now, prefetch });
        self.landings.push(Reverse((lands, id)));
    }

    /// How long the next fetch takes, with what it waits for.
    fn latency(&mut self, row: usize, now: u64) -> u64 {
        let latency = match self.time {
            Time::Instant => 0,
            Time::Stamps { origin_nanos } => origin_nanos,
            Time::Workers { origin_hits, spread, .. } => {
                let mean = (origin_hits * HIT_UNITS) as f64;
                // Log-normal with that mean; the dice are the number of the fetch, so that every cache meets the same origin.
                let dice = mix(self.outcome.origin_fetches ^ 0x0419);
                let units = [dice & 0xffff, dice >> 16 & 0xffff, dice >> 32 & 0xffff, dice >> 48];
                let normal = (units.iter().sum::<u64>() as f64 / 65_536.0 - 2.0) * 3f64.sqrt();
                (mean * (spread * normal - spread * spread / 2.0).exp()) as u64
            }
        };
        self.strained.as_mut().map_or(latency, |origin| origin.ask(row, now, latency))
    }
}
