//! What was asked and what came back, counted.

use super::speech::{Answer, Pending, Verb};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies are kept from 100 ns to two minutes with three digits.
const LATENCY_NANOS: (u64, u64) = (100, 120_000_000_000);

/// Counts and latencies of a phase.
#[derive(Debug)]
pub struct Tally {
    /// Requests made.
    pub asked: u64,
    /// GETs answered with the right value.
    pub hits: u64,
    /// GETs answered with nothing.
    pub misses: u64,
    /// GETs answered with another value than was put.
    pub wrong: u64,
    /// SETs acknowledged.
    pub stored: u64,
    /// PINGs answered.
    pub pongs: u64,
    /// Requests refused.
    pub refused: u64,
    /// Rank of the first key with a wrong value.
    pub first_wrong: Option<u64>,
    /// Words of the first refusal.
    pub first_refusal: Option<String>,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Nanoseconds of GETs.
    pub get_latency: Histogram<u64>,
    /// Nanoseconds of SETs and PINGs.
    pub set_latency: Histogram<u64>,
    /// Open loop: nanoseconds that the generator was late itself.
    pub lag: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        let histogram = || {
            Histogram::new_with_bounds(LATENCY_NANOS.0, LATENCY_NANOS.1, 3)
                .expect("the constants are in order")
        };
        Tally {
            asked: 0,
            hits: 0,
            misses: 0,
            wrong: 0,
            stored: 0,
            pongs: 0,
            refused: 0,
            first_wrong: None,
            first_refusal: None,
            sent_bytes: 0,
            received_bytes: 0,
            elapsed: Duration::ZERO,
            get_latency: histogram(),
            set_latency: histogram(),
            lag: histogram(),
        }
    }
}

impl Tally {
    /// Counts an answer.
    #[inline]
    pub fn count(&mut self, request: &Pending, answer: Answer) {
        match answer {
            Answer::Hit => self.hits += 1,
            Answer::Miss => self.misses += 1,
            Answer::Stored => self.stored += 1,
            Answer::Pong => self.pongs += 1,
            Answer::Refused => self.refused += 1,
            Answer::Wrong => {
                self.wrong += 1;
                self.first_wrong.get_or_insert(request.rank);
            }
        }
    }

    /// Records the latency of so many requests.
    #[inline]
    pub fn record(&mut self, verb: Verb, nanos: u64, count: u64) {
        if count == 0 {
            return;
        }
        let latency = match verb {
            Verb::Get => &mut self.get_latency,
            Verb::Set | Verb::Ping => &mut self.set_latency,
        };
        latency.saturating_record_n(nanos, count);
    }

    /// Requests that got an answer of any kind.
    pub fn answered(&self) -> u64 {
        self.hits + self.misses + self.wrong + self.stored + self.pongs + self.refused
    }

    /// Requests answered per second.
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Latency of all verbs.
    pub fn latency(&self) -> Histogram<u64> {
        let mut all = self.get_latency.clone();
        all.add(&self.set_latency).expect("both have the same bounds");
        all
    }

    /// In open loop, why the percentiles would tell about the generator and not about the server.
    ///
    /// It fell behind if it was late by more than `LAG_NANOS_FREE` and by more than a quarter of the latency itself, at p99.
    pub fn fell_behind(&self) -> Option<String> {
        let lag = self.lag.value_at_quantile(0.99);
        let latency = self.latency().value_at_quantile(0.99);
        (lag > LAG_NANOS_FREE && lag > latency / 4).then(|| {
            format!(
                "the generator fell behind: it sent {:.0} us late at p99 of {:.0} us; no percentiles",
                lag as f64 / 1e3,
                latency as f64 / 1e3
            )
        })
    }
}

/// So late the generator may be whatever the latency is: two turns of its own.
const LAG_NANOS_FREE: u64 = 50_000;
