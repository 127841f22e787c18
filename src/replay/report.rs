//! What came of it, for people and for machines.

use super::run::Tally;
use super::trace::Trace;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::Path;

/// As JSON: the trace, then an object per cache.
pub fn json(trace: &Trace, bytes_max: u64, tallies: &[(String, Tally)]) -> Value {
    let mut object = Map::new();
    object.insert("requests".into(), json!(trace.len()));
    object.insert("footprint_items".into(), json!(trace.footprint_items()));
    object.insert("footprint_bytes".into(), json!(trace.footprint_bytes()));
    object.insert("memory_bytes".into(), json!(bytes_max));
    for (name, tally) in tallies {
        object.insert(name.clone(), tally_json(tally));
    }
    Value::Object(object)
}

fn tally_json(tally: &Tally) -> Value {
    let mut value = json!({
        "misses": tally.misses,
        "byte_misses": tally.byte_misses,
        "origin_fetches": tally.origin_fetches,
        "ns_per_request": (tally.ns_per_request * 10.0).round() / 10.0,
    });
    if let Some(held) = tally.held_bytes {
        value["held_bytes"] = json!(held);
    }
    if let Some(latency) = tally.latency_mean {
        value["latency_mean"] = json!(latency);
    }
    if let Some(latency) = tally.latency_p99 {
        value["latency_p99"] = json!(latency);
    }
    if let Some(prefetch) = &tally.prefetch {
        value["precision"] = json!(prefetch.precision());
        value["prefetches"] = json!(prefetch.issued);
        value["used"] = json!(prefetch.used);
        value["late"] = json!(prefetch.late);
        value["harmful"] = json!(prefetch.harmful);
        value["metadata_bytes"] = json!(prefetch.metadata_bytes);
        value["predictor_ns_per_request"] = json!((prefetch.ns_per_request * 10.0).round() / 10.0);
    }
    value
}

/// As a table.
pub fn table(path: &Path, trace: &Trace, bytes_max: u64, tallies: &[(String, Tally)]) -> String {
    let mut text = String::new();
    let told =
        [(trace.sized, "sizes"), (!trace.times.is_empty(), "times"), (!trace.clients.is_empty(), "clients")];
    let told: Vec<&str> = told.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    let _ = writeln!(
        text,
        "{}: {} requests for {} items, {}{}\nmemory {}, {:.2} % of the footprint\n",
        path.display(),
        trace.len(),
        trace.footprint_items(),
        bytes(trace.footprint_bytes()),
        if told.is_empty() { String::new() } else { format!(", with {}", told.join(", ")) },
        bytes(bytes_max),
        bytes_max as f64 / trace.footprint_bytes() as f64 * 100.0,
    );
    let _ = writeln!(
        text,
        "{:<12} {:>11} {:>9} {:>10} {:>14} {:>10} {:>9}",
        "", "misses", "hits", "byte hits", "origin fetches", "held", "ns/req"
    );
    for (name, tally) in tallies {
        let part = |missed: u64, all: u64| format!("{:.2} %", 100.0 * (1.0 - missed as f64 / all as f64));
        let _ = writeln!(
            text,
            "{name:<12} {:>11} {:>9} {:>10} {:>14} {:>10} {:>9.0}",
            tally.misses,
            part(tally.misses, trace.len() as u64),
            part(tally.byte_misses, trace.request_bytes()),
            tally.origin_fetches,
            tally.held_bytes.map_or("-".to_owned(), bytes),
            tally.ns_per_request,
        );
    }
    for (name, tally) in tallies {
        if let (Some(mean), Some(p99)) = (tally.latency_mean, tally.latency_p99) {
            let _ = writeln!(text, "{name:<12} mean latency {mean:.2}, p99 {p99:.2}");
        }
        if let Some(prefetch) = &tally.prefetch {
            let _ = writeln!(
                text,
                "\n{name} prefetched {}: {} used, {} late, precision {:.1} %; {} requests harmed; predictor {}, {:.0} ns per request",
                prefetch.issued,
                prefetch.used,
                prefetch.late,
                100.0 * prefetch.precision(),
                prefetch.harmful,
                bytes(prefetch.metadata_bytes),
                prefetch.ns_per_request,
            );
        }
    }
    text
}

fn bytes(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::Format;

    #[test]
    fn people_and_machines_are_told_the_same() {
        let trace = Trace::parse(b"key,size\n1,100\n2,300\n1,100\n1,100\n", Format::Csv).unwrap();
        let tally = Tally {
            misses: 2,
            byte_misses: 400,
            origin_fetches: 2,
            ns_per_request: 12.34,
            ..Tally::default()
        };
        let tallies =
            [("ours".to_owned(), Tally { held_bytes: Some(2048), ..tally }), ("lru".to_owned(), tally)];
        let value = json(&trace, 200, &tallies);
        assert_eq!((&value["requests"], &value["footprint_items"]), (&json!(4), &json!(2)));
        let expected = json!({"misses": 2, "byte_misses": 400, "origin_fetches": 2, "ns_per_request": 12.3});
        assert_eq!(value["lru"], expected);
        assert_eq!(value["ours"]["held_bytes"], 2048);
        let text = table("t.csv".as_ref(), &trace, 200, &tallies);
        assert!(
            text.starts_with("t.csv: 4 requests for 2 items, 400 B, with sizes\nmemory 200 B, 50.00 %"),
            "{text}"
        );
        let row = text.lines().find(|line| line.starts_with("ours")).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["ours", "2", "50.00", "%", "33.33", "%", "2", "2.0", "KiB", "12"]
        );
    }
}
