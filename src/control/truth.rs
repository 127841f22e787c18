//! What is told of origins and keyspaces: sums of what the cores report, for `/metrics` and `/v1/keyspaces`.

use super::board::OriginReport;
use crate::engine::KeyspaceTally;
use crate::origin::keyspace::{Conflict, Keys, Keyspace, Keyspaces, WritePolicy};
use crate::origin::pool::{LATENCY_MILLIS, Tally};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// Names of what reports only number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Name and address of each origin, without its password.
    pub origins: Vec<(String, String)>,
    /// The keyspaces.
    pub keyspaces: Arc<Keyspaces>,
}

type Field<T> = (&'static str, &'static str, fn(&T) -> u64);

const ORIGIN_TOTALS: &[Field<OriginReport>] = &[
    ("asked_total", "Questions sent.", |it| it.tally.asked),
    ("answered_total", "Answers.", |it| it.tally.answered),
    ("failed_total", "Questions without an answer.", |it| it.tally.failed),
    ("circuit_opened_total", "Times it was left in peace after failures.", |it| it.tally.opened),
    ("connected_total", "Connections made.", |it| it.tally.connected),
    ("redirected_total", "Questions that a node of a cluster sent to another.", |it| it.tally.redirected),
];

const ORIGIN_GAUGES: &[Field<OriginReport>] = &[
    ("connections", "Connections, those being made included.", |it| it.connections),
    ("private_connections", "Of these, connections that are one client's own.", |it| it.private_lines),
    ("blocked", "Commands that wait there for what others do.", |it| it.private_waiting),
    ("waiting", "Questions that wait to be sent.", |it| it.waiting),
    ("circuit_open", "Cores that leave it in peace.", |it| it.circuit_open.into()),
];

const ORIGIN_RATE: &str = "foreshadow_origin_spare_rate";

const KEYSPACE_TOTALS: &[Field<KeyspaceTally>] = &[
    ("demanded_total", "Reads that needed a fetch.", |it| it.demanded),
    ("coalesced_total", "Of those, reads that joined a fetch under way.", |it| it.coalesced),
    ("asked_total", "Questions to the origin, writes included.", |it| it.asked),
    ("negative_total", "Reads of keys known to be absent.", |it| it.negative),
    ("stale_total", "Reads answered out of date while the value was fetched anew.", |it| it.stale),
    ("stale_on_error_total", "Reads answered out of date because the origin failed.", |it| it.stale_on_error),
    ("revalidated_total", "Items found unchanged.", |it| it.revalidated),
    ("filled_total", "Values stored.", |it| it.filled),
    ("voided_total", "Values not stored because the key changed meanwhile.", |it| it.voided),
    ("written_total", "Writes done by the origin.", |it| it.written),
    ("passed_total", "Commands that went to the origin as they were.", |it| it.passed),
    ("retried_total", "Attempts that another took over.", |it| it.retried),
    ("failed_total", "Reads and writes that ended in a fault.", |it| it.failed),
    ("outdated_total", "Answers of the origin that were older than one before.", |it| it.outdated),
    ("over_budget_total", "Reads for which its rate of fetches had nothing left.", |it| it.over_budget),
    ("evicted_total", "Items removed because it held too much.", |it| it.evicted),
    ("unkept_total", "Values fetched and not kept because it held too much.", |it| it.unkept),
];

const KEYSPACE_BYTES: &str = "foreshadow_keyspace_memory_bytes";
const KEYSPACE_FETCHES: &str = "foreshadow_keyspace_fetches";

/// The last reports of each core.
#[derive(Default)]
pub(super) struct Truth {
    names: Names,
    origins: Vec<Vec<OriginReport>>,
    keyspaces: Vec<Vec<KeyspaceTally>>,
}

impl Truth {
    pub fn new(names: Names, cores: usize) -> Truth {
        Truth { names, origins: vec![Vec::new(); cores], keyspaces: vec![Vec::new(); cores] }
    }

    pub fn take(
        &mut self,
        core: usize,
        origins: Vec<OriginReport>,
        keyspaces: Vec<KeyspaceTally>,
        rules: Arc<Keyspaces>,
    ) {
        self.names.keyspaces = rules;
        if core < self.origins.len() {
            (self.origins[core], self.keyspaces[core]) = (origins, keyspaces);
        }
    }

    fn origin(&self, place: usize, field: fn(&OriginReport) -> u64) -> u64 {
        self.origins.iter().filter_map(|core| core.get(place)).map(field).sum()
    }

    fn keyspace(&self, place: usize, field: fn(&KeyspaceTally) -> u64) -> u64 {
        self.keyspaces.iter().filter_map(|core| core.get(place)).map(field).sum()
    }

    fn latency(&self, place: usize) -> Tally {
        let mut sum = Tally::default();
        for report in self.origins.iter().filter_map(|core| core.get(place)) {
            sum.add(&report.tally);
        }
        sum
    }

    /// Appends everything in Prometheus' text format.
    pub fn render(&self, text: &mut String) -> std::fmt::Result {
        let kinds = [(ORIGIN_TOTALS, "counter"), (ORIGIN_GAUGES, "gauge")];
        for (fields, kind) in kinds {
            for (name, help, field) in fields {
                let name = format!("foreshadow_origin_{name}");
                writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} {kind}")?;
                for (place, (origin, _)) in self.names.origins.iter().enumerate() {
                    writeln!(text, "{name}{{origin=\"{origin}\"}} {}", self.origin(place, *field))?;
                }
            }
        }
        writeln!(
            text,
            "\n# HELP {ORIGIN_RATE} Questions a second of one core that nobody waits for.\n# TYPE {ORIGIN_RATE} gauge"
        )?;
        for (place, (origin, _)) in self.names.origins.iter().enumerate() {
            let rates =
                self.origins.iter().filter_map(|core| core.get(place)).map(|report| report.spare_rate);
            writeln!(text, "{ORIGIN_RATE}{{origin=\"{origin}\"}} {:.1}", rates.fold(0.0, f64::max))?;
        }
        let name = "foreshadow_origin_answer_seconds";
        writeln!(text, "\n# HELP {name} From a question to its answer.\n# TYPE {name} histogram")?;
        for (place, (origin, _)) in self.names.origins.iter().enumerate() {
            let tally = self.latency(place);
            let mut count = 0;
            for (bound, here) in LATENCY_MILLIS.iter().zip(tally.latencies) {
                count += here;
                let bound = *bound as f64 / 1000.0;
                writeln!(text, "{name}_bucket{{origin=\"{origin}\",le=\"{bound}\"}} {count}")?;
            }
            count += tally.latencies[LATENCY_MILLIS.len()];
            writeln!(text, "{name}_bucket{{origin=\"{origin}\",le=\"+Inf\"}} {count}")?;
            writeln!(text, "{name}_sum{{origin=\"{origin}\"}} {}", tally.latency_micros as f64 / 1e6)?;
            writeln!(text, "{name}_count{{origin=\"{origin}\"}} {count}")?;
        }
        for (name, help, field) in KEYSPACE_TOTALS {
            let name = format!("foreshadow_keyspace_{name}");
            writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} counter")?;
            for (place, keyspace) in self.names.keyspaces.list().iter().enumerate() {
                let value = self.keyspace(place, *field);
                writeln!(text, "{name}{{keyspace=\"{}\"}} {value}", keyspace.name)?;
            }
        }
        writeln!(
            text,
            "\n# HELP {KEYSPACE_BYTES} Bytes that its items take, by a sample.\n# TYPE {KEYSPACE_BYTES} gauge"
        )?;
        for (place, keyspace) in self.names.keyspaces.list().iter().enumerate() {
            let bytes = self.keyspace(place, |it| it.bytes);
            writeln!(text, "{KEYSPACE_BYTES}{{keyspace=\"{}\"}} {bytes}", keyspace.name)?;
        }
        writeln!(
            text,
            "\n# HELP {KEYSPACE_FETCHES} Fetches on their way, where their number is bounded.\n# TYPE {KEYSPACE_FETCHES} gauge"
        )?;
        for keyspace in self.names.keyspaces.list() {
            let fetches = keyspace.budget.under_way();
            writeln!(text, "{KEYSPACE_FETCHES}{{keyspace=\"{}\"}} {fetches}", keyspace.name)?;
        }
        Ok(())
    }

    /// Rules and numbers of all keyspaces.
    pub fn keyspaces(&self) -> Value {
        let keyspaces = self.names.keyspaces.list().iter().enumerate();
        Value::Array(keyspaces.map(|(place, keyspace)| self.explain(place, keyspace)).collect())
    }

    fn explain(&self, place: usize, keyspace: &Keyspace) -> Value {
        let (kind, keys) = match &keyspace.keys {
            Keys::Prefix(prefix) => ("prefix", prefix),
            Keys::Pattern(pattern) => ("pattern", pattern),
        };
        let origin = usize::from(keyspace.origin.0);
        let numbers = |fields: &[Field<OriginReport>]| -> serde_json::Map<String, Value> {
            fields
                .iter()
                .map(|(name, _, field)| ((*name).to_owned(), self.origin(origin, *field).into()))
                .collect()
        };
        let (name, address) = self.names.origins.get(origin).cloned().unwrap_or_default();
        let mut about = numbers(ORIGIN_TOTALS);
        about.extend(numbers(ORIGIN_GAUGES));
        let tally = self.latency(origin);
        let answers: u64 = tally.latencies.iter().sum();
        let mean = if answers == 0 { 0.0 } else { tally.latency_micros as f64 / 1000.0 / answers as f64 };
        about.insert("name".into(), name.into());
        about.insert("address".into(), address.into());
        about.insert("answer_millis_mean".into(), ((mean * 1000.0).round() / 1000.0).into());
        let counts: serde_json::Map<String, Value> = KEYSPACE_TOTALS
            .iter()
            .map(|(name, _, field)| ((*name).to_owned(), self.keyspace(place, *field).into()))
            .collect();
        json!({
            "name": keyspace.name,
            kind: String::from_utf8_lossy(keys),
            "drop_prefix": keyspace.drop_prefix,
            "passes": keyspace.passes,
            "fresh_millis": keyspace.fresh_millis,
            "stale_millis": keyspace.stale_millis,
            "stale_on_error_millis": keyspace.stale_error_millis,
            "negative_millis": keyspace.negative_millis,
            "write": match keyspace.write {
                WritePolicy::Through => "through",
                WritePolicy::Invalidate => "invalidate",
                WritePolicy::CacheOnly => "cache-only",
            },
            "value_bytes_max": keyspace.value_bytes_max,
            "wait_millis_max": keyspace.wait_millis_max,
            "attempts_max": keyspace.attempts_max,
            "prefetch": keyspace.prefetch,
            "memory_bytes_max": keyspace.budget.memory_bytes_max,
            "fetches_per_second": keyspace.budget.fetches_per_second,
            "concurrency": keyspace.budget.fetches_max,
            "conflict": match keyspace.conflict {
                Conflict::Epoch => "epoch",
                Conflict::Lww => "lww",
                Conflict::Source => "source",
            },
            "memory_bytes": self.keyspace(place, |it| it.bytes),
            "counts": counts,
            "origin": about,
        })
    }
}
