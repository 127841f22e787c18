//! What a run prints: a table, a line, CSV, JSON, and the latency distribution in HdrHistogram's text format.

use super::flags::{Form, Plan};
use super::server_cpu::CpuTime;
use super::tally::Tally;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt::Write;

/// A measured phase.
#[derive(Debug)]
pub struct Measured {
    /// Name of the test.
    pub name: &'static str,
    /// Asked requests per second in open loop.
    pub rate: Option<f64>,
    /// Counts and latencies.
    pub tally: Tally,
    /// CPU time that the server used.
    pub server_cpu: Option<CpuTime>,
    /// What was wrong, in sentences; nothing if all was well.
    pub complaints: Vec<String>,
}

impl Measured {
    /// CPU time of the server per answered request, in microseconds.
    pub fn cpu_micros_per_request(&self) -> Option<f64> {
        let cpu = self.server_cpu?.total();
        Some(cpu.as_secs_f64() * 1e6 / self.tally.answered().max(1) as f64)
    }
}

/// What goes to stdout.
pub fn print(plan: &Plan, measured: &[Measured]) -> String {
    match plan.output.form {
        Form::Json => format!("{:#}\n", json(plan, measured)),
        Form::Csv => csv(measured),
        Form::Line => measured.iter().map(line).collect(),
        Form::Table => measured.iter().map(|one| table(plan, one)).collect(),
    }
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn line(one: &Measured) -> String {
    let p50 = match one.tally.value_at(&one.tally.latency(), 0.5) {
        None => "no percentiles".to_string(),
        Some(nanos) => format!("p50={:.3} msec", millis(nanos)),
    };
    let cpu = one.cpu_micros_per_request().map_or(String::new(), |cpu| format!(", cpu={cpu:.3} us/request"));
    format!("{}: {:.2} requests per second, {p50}{cpu}\n", one.name, one.tally.rate())
}

fn csv(measured: &[Measured]) -> String {
    let mut text =
        "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n"
            .to_string();
    for one in measured {
        let all = one.tally.latency();
        let cell = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        let at = |quantile| cell(one.tally.value_at(&all, quantile).map(millis));
        let mean = cell(one.tally.mean_of(&all).map(|nanos| nanos / 1e6));
        let cells = [mean, at(0.0), at(0.5), at(0.95), at(0.99), at(1.0)];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\"{}\",\"{:.2}\",\"{}\"", one.name, one.tally.rate(), cells.join("\",\""));
    }
    text
}

fn table(plan: &Plan, one: &Measured) -> String {
    let tally = &one.tally;
    let mut text = String::new();
    let loop_name = match one.rate {
        None => "closed loop".to_string(),
        Some(rate) => format!("open loop at {rate:.0}/s"),
    };
    let mut say = |label: &str, words: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<14}{words}");
    };
    say(
        one.name,
        format!(
            "{} {}, {} connections, pipeline {}, {loop_name}",
            plan.protocol.name(),
            plan.address,
            plan.connections,
            plan.pipeline
        ),
    );
    say(
        "requests",
        format!(
            "{} answered in {:.3} s: {:.0}/s",
            tally.answered(),
            tally.elapsed.as_secs_f64(),
            tally.rate()
        ),
    );
    say(
        "answers",
        format!(
            "{} hits, {} misses, {} stored, {} pongs, {} refused, {} wrong",
            tally.hits, tally.misses, tally.stored, tally.pongs, tally.refused, tally.wrong
        ),
    );
    say("bytes", format!("{} sent, {} received", tally.sent_bytes, tally.received_bytes));
    if let (Some(cpu), Some(each)) = (one.server_cpu, one.cpu_micros_per_request()) {
        say(
            "server CPU",
            format!(
                "{each:.3} us/request ({:.0} ms: user {:.0}, system {:.0}; {:.0} % of the time)",
                cpu.total().as_secs_f64() * 1e3,
                cpu.user.as_secs_f64() * 1e3,
                cpu.system.as_secs_f64() * 1e3,
                cpu.total().as_secs_f64() * 100.0 / tally.elapsed.as_secs_f64().max(1e-9)
            ),
        );
    }
    for (label, histogram) in [("GET ms", &tally.get_latency), ("SET ms", &tally.set_latency)] {
        if histogram.is_empty() {
            continue;
        }
        let mut words = String::new();
        let labels = plan.output.percentiles.iter().map(|&percentile| (format!("p{percentile}"), percentile));
        for (name, percentile) in labels.chain([("max".to_string(), 100.0)]) {
            let value = tally.value_at(histogram, percentile / 100.0);
            let value = value.map_or("-".to_string(), |nanos| format!("{:.3}", millis(nanos)));
            let gap = if words.is_empty() { "" } else { "  " };
            let _ = write!(words, "{gap}{name} {value}");
        }
        say(label, words);
    }
    if let Some(behind) = tally.fell_behind(&told(plan))
        && one.complaints.is_empty()
    {
        say("left out", behind.to_string());
    }
    for complaint in &one.complaints {
        say("WRONG", complaint.clone());
    }
    text
}

/// Percentiles of JSON.
const PERCENTILES: [(&str, f64); 6] =
    [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// The percentiles that are printed in any form.
fn told(plan: &Plan) -> Vec<f64> {
    PERCENTILES.iter().map(|&(_, percentile)| percentile).chain(plan.output.percentiles.clone()).collect()
}

/// The whole run for machines.
pub fn json(plan: &Plan, measured: &[Measured]) -> Value {
    json!({
        "server": plan.address.to_string(),
        "protocol": plan.protocol.name(),
        "connections": plan.connections,
        "pipeline": plan.pipeline,
        "keys": plan.key_count,
        "value_bytes_max": plan.sizes.max(),
        "cluster": plan.cluster,
        "verified": plan.verify,
        "tests": measured.iter().map(|one| one_json(plan, one)).collect::<Vec<_>>(),
    })
}

fn one_json(plan: &Plan, one: &Measured) -> Value {
    let tally = &one.tally;
    let behind = tally.fell_behind(&told(plan)).map(|behind| behind.to_string());
    let latency = |histogram: &Histogram<u64>| -> Value {
        if histogram.is_empty() {
            return Value::Null;
        }
        let at = |quantile| tally.value_at(histogram, quantile).map(|nanos| nanos as f64 / 1e3);
        let mut values = json!({
            "mean": tally.mean_of(histogram).map(|nanos| nanos / 1e3), "min": at(0.0), "max": at(1.0),
        });
        for (name, percentile) in PERCENTILES {
            values[name] = json!(at(percentile / 100.0));
        }
        values
    };
    json!({
        "test": one.name,
        "rate_asked": one.rate,
        "requests": tally.answered(),
        "seconds": tally.elapsed.as_secs_f64(),
        "requests_per_second": tally.rate(),
        "hits": tally.hits, "misses": tally.misses, "stored": tally.stored, "pongs": tally.pongs,
        "refused": tally.refused, "wrong": tally.wrong,
        "sent_bytes": tally.sent_bytes, "received_bytes": tally.received_bytes,
        "server_cpu_micros_per_request": one.cpu_micros_per_request(),
        "server_cpu_seconds": one.server_cpu.map(|cpu| cpu.total().as_secs_f64()),
        "server_user_seconds": one.server_cpu.map(|cpu| cpu.user.as_secs_f64()),
        "server_system_seconds": one.server_cpu.map(|cpu| cpu.system.as_secs_f64()),
        "latency_micros": latency(&tally.latency()),
        "get_latency_micros": latency(&tally.get_latency),
        "set_latency_micros": latency(&tally.set_latency),
        "generator_lag_p99_micros": one.rate.map(|_| tally.lag.value_at_quantile(0.99) as f64 / 1e3),
        "generator_fell_behind": behind,
        "complaints": one.complaints,
    })
}

/// The distribution of all latencies as HdrHistogram's tools read it, in milliseconds, as far as it is the server's.
pub fn distribution(tally: &Tally) -> String {
    let histogram = &tally.latency();
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for step in histogram.iter_quantiles(5) {
        let quantile = step.quantile_iterated_to();
        if tally.value_at(histogram, quantile).is_none() {
            continue;
        }
        let value = millis(step.value_iterated_to());
        let total = histogram.count_between(0, step.value_iterated_to());
        // Writing to a string cannot fail.
        let _ = if quantile < 1.0 {
            writeln!(text, "{value:>12.3} {quantile:>2.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:>12.3} {quantile:>2.12} {total:>10}")
        };
    }
    if let (Some(mean), Some(max)) = (tally.mean_of(histogram), tally.value_at(histogram, 1.0)) {
        let _ = writeln!(
            text,
            "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n#[Max     = {:>12.3}, Total count    = {:>12}]",
            mean / 1e6,
            histogram.stdev() / 1e6,
            millis(max),
            histogram.len()
        );
    }
    text
}
