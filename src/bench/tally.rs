//! What was asked and what came back, counted.

use super::speech::{Answer, Pending, Verb};
use hdrhistogram::Histogram;
use std::fmt;
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

    /// A latency in nanoseconds at a quantile from 0 to 1; `None` if it would tell about the generator and not about the
    /// server: it was late itself by more than `LAG_NANOS_FREE` and by more than a quarter of that latency.
    pub fn value_at(&self, latency: &Histogram<u64>, quantile: f64) -> Option<u64> {
        let value = latency.value_at_quantile(quantile);
        (!is_late(self.lag.value_at_quantile(quantile), value)).then_some(value)
    }

    /// The mean latency in nanoseconds, with the same exception.
    pub fn mean_of(&self, latency: &Histogram<u64>) -> Option<f64> {
        (!is_late(self.lag.mean() as u64, latency.mean() as u64)).then(|| latency.mean())
    }

    /// In open loop: the lowest of these percentiles at which the generator fell behind its own clock.
    pub fn fell_behind(&self, percentiles: &[f64]) -> Option<Behind> {
        let latency = self.latency();
        let late = percentiles.iter().copied().filter(|at| self.value_at(&latency, at / 100.0).is_none());
        let percentile = late.min_by(f64::total_cmp)?;
        Some(Behind {
            percentile,
            lag_nanos: self.lag.value_at_quantile(percentile / 100.0),
            latency_nanos: latency.value_at_quantile(percentile / 100.0),
        })
    }
}

/// Where the generator fell behind its own clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behind {
    pub percentile: f64,
    pub lag_nanos: u64,
    pub latency_nanos: u64,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Behind { percentile, lag_nanos, latency_nanos } = *self;
        let (lag, latency) = (lag_nanos as f64 / 1e3, latency_nanos as f64 / 1e3);
        write!(
            f,
            "the generator fell behind: at p{percentile} it sent {lag:.0} us late of {latency:.0} us; \
             what tells about it and not about the server is left out"
        )
    }
}

fn is_late(lag: u64, latency: u64) -> bool {
    lag > LAG_NANOS_FREE && lag > latency / 4
}

/// So late the generator may be whatever the latency is: two turns of its own.
const LAG_NANOS_FREE: u64 = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, only p99 was looked at: a generator that stood still for 60 ms printed that as the server's p99.9.
    #[test]
    fn percentiles_that_the_generator_was_late_for_are_refused_one_by_one() {
        let mut tally = Tally::default();
        tally.record(Verb::Get, 200_000, 9_970);
        tally.record(Verb::Get, 50_000_000, 30);
        assert_eq!(tally.fell_behind(&[50.0, 99.0, 99.9]), None, "without lag it is the server's");
        tally.lag.record_n(1_000, 9_970).expect("within bounds");
        tally.lag.record_n(49_000_000, 30).expect("within bounds");
        let latency = tally.latency();
        for quantile in [0.0, 0.5, 0.99] {
            assert!(tally.value_at(&latency, quantile).is_some(), "{quantile}");
        }
        for quantile in [0.999, 0.9999, 1.0] {
            assert_eq!(tally.value_at(&latency, quantile), None, "{quantile}");
        }
        assert_eq!(tally.mean_of(&latency), None, "147 of 350 us of it are lag");
        let behind = tally.fell_behind(&[99.99, 50.0, 99.9]).expect("at two of them");
        assert_eq!(behind.percentile, 99.9);
        assert!(behind.to_string().contains("at p99.9 it sent 49"), "{behind}");
        assert_eq!(tally.fell_behind(&[50.0, 99.0]), None);
    }

    #[test]
    fn a_little_lag_beside_a_long_latency_is_the_servers() {
        let mut tally = Tally::default();
        tally.record(Verb::Set, 400_000, 1000);
        tally.lag.record_n(60_000, 1000).expect("within bounds");
        assert_eq!(tally.fell_behind(&[50.0, 100.0]), None);
        tally.lag.record_n(110_000, 9_000).expect("within bounds");
        assert_eq!(tally.fell_behind(&[0.0, 50.0, 100.0]).expect("a quarter is too much").percentile, 50.0);
    }
}
