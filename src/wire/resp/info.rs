//! `INFO`: the counters of all cores, in the sections and fields that monitoring tools read.

use super::commands;
use super::reply::CALLS;
use crate::clock::{Mono, Now};
use crate::metrics::Counters;
use crate::topology::Node;
use crate::wire::journal::{BUCKETS, ERROR_CODES};
use std::fmt::Write;

/// The Redis version whose commands and replies we follow.
pub(super) const REDIS_VERSION: &str = "7.2.4";

/// Facts of the process behind the calls in a page of counters: resident bytes, user and system time in microseconds, and
/// the most bytes that all cores used at a time. One core tells them.
const PROCESS_WORDS: usize = 4;

/// The counters of all cores together.
pub(super) struct Totals {
    pub counters: Counters,
    calls: [u64; CALLS],
    process: [u64; PROCESS_WORDS],
    /// The most bytes that the core used at a time; of several cores, a sum that says nothing.
    core_peak: u64,
    pages: usize,
    errors: [u64; ERROR_CODES.len()],
    /// How often each command was refused, and how often it failed.
    mishaps: [[u64; 2]; CALLS],
    /// Commands that were timed: calls, microseconds, calls by powers of two of microseconds.
    pub timings: Vec<(u8, [u64; 2 + BUCKETS])>,
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            counters: Counters::default(),
            calls: [0; CALLS],
            process: [0; PROCESS_WORDS],
            core_peak: 0,
            pages: 0,
            errors: [0; ERROR_CODES.len()],
            mishaps: [[0; 2]; CALLS],
            timings: Vec::new(),
        }
    }
}

impl Totals {
    /// Adds a core's page of [`crate::request::Verb::Counters`]: its counters, then the calls per command.
    pub fn add(&mut self, page: &[u8]) {
        self.counters.add(&Counters::from_bytes(page));
        let rest = page.get(Counters::NAMES.len() * 8..).unwrap_or_default();
        let mut words = rest
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) gives 8 bytes")));
        let facts = self.process.iter_mut().chain([&mut self.core_peak]);
        for sum in self.calls.iter_mut().chain(facts).chain(&mut self.errors) {
            *sum += words.next().unwrap_or(0);
        }
        self.pages += 1;
        for _ in 0..words.next().unwrap_or(0) {
            let Some(command) = words.next() else { break };
            for sum in &mut self.mishaps[usize::from(command as u8)] {
                *sum += words.next().unwrap_or(0);
            }
        }
        while let Some(command) = words.next() {
            let command = command as u8;
            let place = self.timings.iter().position(|(other, _)| *other == command).unwrap_or_else(|| {
                self.timings.push((command, [0; 2 + BUCKETS]));
                self.timings.len() - 1
            });
            for sum in &mut self.timings[place].1 {
                *sum += words.next().unwrap_or(0);
            }
        }
    }

    /// Bytes that stores and buffers hold.
    pub fn used(&self) -> u64 {
        self.counters.store_bytes + self.counters.buffer_bytes
    }

    /// The most that these were at a time, by the ticks of the cores: of one core, or of all.
    pub fn used_peak(&self) -> u64 {
        let told = if self.pages == 1 { self.core_peak } else { self.process[3] };
        told.max(self.used())
    }
}

/// What the client's `INFO` before showed, for rates; the first one shows the mean since the start.
#[derive(Default)]
pub(super) struct Rate {
    at: Mono,
    commands: u64,
    received: u64,
    sent: u64,
}

/// Sections in the order they are shown, and whether a bare `INFO` shows them.
const SECTIONS: [(&str, bool); 12] = [
    ("server", true),
    ("clients", true),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", true),
    ("cpu", true),
    ("commandstats", false),
    ("latencystats", false),
    ("errorstats", true),
    ("cluster", true),
    ("keyspace", true),
];

/// The text; `wanted` are section names in lower case with spaces between.
pub(super) fn text(now: Now, node: &Node, totals: &Totals, rate: &mut Rate, wanted: &[u8]) -> Vec<u8> {
    let mut wanted = wanted.split(|&b| b == b' ').filter(|name| !name.is_empty()).peekable();
    let by_default = wanted.peek().is_none();
    let mut chosen = [false; SECTIONS.len()];
    for (chosen, (_, default)) in chosen.iter_mut().zip(SECTIONS) {
        *chosen = by_default && default;
    }
    for name in wanted {
        for (chosen, (section, default)) in chosen.iter_mut().zip(SECTIONS) {
            *chosen |= match name {
                b"all" | b"everything" => true,
                b"default" => default,
                name => name == section.as_bytes(),
            };
        }
    }
    let mut out = String::new();
    for (section, _) in SECTIONS.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(s, _)| s) {
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let mut title = section.to_string();
        title[..1].make_ascii_uppercase();
        let _ = write!(out, "# {title}\r\n");
        fill(section, now, node, totals, rate, &mut out);
    }
    out.into_bytes()
}

macro_rules! fields {
    ($out:ident, $($name:literal = $value:expr),+ $(,)?) => {
        // Writing to a String cannot fail.
        $( let _ = write!($out, concat!($name, ":{}\r\n"), $value); )+
    };
}

fn fill(section: &str, now: Now, node: &Node, totals: &Totals, rate: &mut Rate, out: &mut String) {
    let counters = &totals.counters;
    let uptime = now.mono.millis_since(node.started.mono) / 1000;
    let mode = if node.core_ports.is_empty() { "standalone" } else { "cluster" };
    match section {
        "server" => {
            fields!(
                out,
                "redis_version" = REDIS_VERSION,
                "server_name" = "foreshadow",
                "foreshadow_version" = node.version,
                "redis_mode" = mode,
                "server_mode" = mode,
                "os" = "Linux",
                "arch_bits" = usize::BITS,
                "multiplexing_api" = "io_uring",
                "process_id" = node.process_id,
                "run_id" = node.run_id,
                "tcp_port" = node.port,
                "server_time_usec" = now.wall.0 * 1000,
                "uptime_in_seconds" = uptime,
                "uptime_in_days" = uptime / 86_400,
                "cores" = node.core_count(),
                "config_file" = "",
            );
        }
        "clients" => {
            fields!(
                out,
                "connected_clients" = counters.connections,
                "cluster_connections" = 0,
                "maxclients" = node.clients_max,
                "blocked_clients" = counters.blocked_clients,
                "tracking_clients" = counters.observers,
            );
        }
        "memory" => {
            let (used, peak) = (totals.used(), totals.used_peak());
            let resident = if totals.process[0] > 0 { totals.process[0] } else { used };
            fields!(
                out,
                "used_memory" = used,
                "used_memory_human" = human(used),
                "used_memory_rss" = resident,
                "used_memory_rss_human" = human(resident),
                "used_memory_peak" = peak,
                "used_memory_peak_human" = human(peak),
                "used_memory_peak_perc" = format_args!("{}%", Hundredths(used * 10_000 / peak.max(1))),
                "used_memory_dataset" = counters.payload_bytes,
                "maxmemory" = node.memory_bytes_max,
                "maxmemory_human" = human(node.memory_bytes_max),
                "maxmemory_policy" = "allkeys-lru",
                "mem_fragmentation_ratio" = Hundredths(resident * 100 / used.max(1)),
                "mem_clients_normal" = counters.buffer_bytes,
                "mem_allocator" = "segments",
            );
        }
        "persistence" => {
            fields!(
                out,
                "loading" = 0,
                "async_loading" = 0,
                "rdb_changes_since_last_save" = 0,
                "rdb_bgsave_in_progress" = 0,
                "rdb_last_save_time" = node.started.wall.0 / 1000,
                "rdb_last_bgsave_status" = "ok",
                "aof_enabled" = 0,
                "aof_rewrite_in_progress" = 0,
                "aof_last_bgrewrite_status" = "ok",
            );
        }
        "stats" => {
            let since = if rate.at == Mono::default() { node.started.mono } else { rate.at };
            let millis = now.mono.millis_since(since).max(1);
            let per_second = |total: u64, before: u64| total.saturating_sub(before) * 1000 / millis;
            fields!(
                out,
                "total_connections_received" = counters.connections_accepted_total,
                "total_commands_processed" = counters.commands_total,
                "instantaneous_ops_per_sec" = per_second(counters.commands_total, rate.commands),
                "total_net_input_bytes" = counters.received_bytes_total,
                "total_net_output_bytes" = counters.sent_bytes_total,
                "instantaneous_input_kbps" =
                    Hundredths(per_second(counters.received_bytes_total, rate.received) * 100 / 1024),
                "instantaneous_output_kbps" =
                    Hundredths(per_second(counters.sent_bytes_total, rate.sent) * 100 / 1024),
                "rejected_connections" = counters.connections_rejected_total,
                "dropped_connections" = counters.connections_dropped_total,
                "expired_keys" = counters.expired_total,
                "evicted_keys" = counters.evicted_total,
                "keyspace_hits" = counters.hits_total,
                "keyspace_misses" = counters.misses_total,
                "pubsub_channels" = 0,
                "pubsub_patterns" = 0,
                "latest_fork_usec" = 0,
                "total_forks" = 0,
                "total_error_replies" = totals.errors.iter().sum::<u64>(),
                "requests_between_cores" = counters.hops_sent_total,
            );
            *rate = Rate {
                at: now.mono,
                commands: counters.commands_total,
                received: counters.received_bytes_total,
                sent: counters.sent_bytes_total,
            };
        }
        "replication" => {
            fields!(
                out,
                "role" = "master",
                "connected_slaves" = 0,
                "master_failover_state" = "no-failover",
                "master_replid" = node.run_id,
                "master_replid2" = "0000000000000000000000000000000000000000",
                "master_repl_offset" = 0,
                "second_repl_offset" = -1,
                "repl_backlog_active" = 0,
                "repl_backlog_size" = 0,
                "repl_backlog_first_byte_offset" = 0,
                "repl_backlog_histlen" = 0,
            );
        }
        "commandstats" => {
            let counts = totals.calls.iter().zip(totals.mishaps);
            for (place, (calls, [refused, failed])) in counts.enumerate() {
                if calls + refused + failed == 0 {
                    continue;
                }
                let Some(name) = commands::name_at(place) else { continue };
                let timing = totals.timings.iter().find(|(timed, _)| usize::from(*timed) == place);
                let (timed, micros) = timing.map_or((0, 0), |(_, timing)| (timing[0], timing[1]));
                let mean = Hundredths(micros * 100 / timed.max(1));
                let _ = write!(
                    out,
                    "cmdstat_{name}:calls={calls},usec={micros},usec_per_call={mean},rejected_calls={refused},\
                     failed_calls={failed}\r\n"
                );
            }
        }
        "latencystats" => {
            for (place, timing) in &totals.timings {
                let Some(name) = commands::name_at(usize::from(*place)) else { continue };
                let [p50, p99, p999] = [500, 990, 999].map(|thousandths| percentile(timing, thousandths));
                let _ = write!(
                    out,
                    "latency_percentiles_usec_{name}:p50={p50}.000,p99={p99}.000,p99.9={p999}.000\r\n"
                );
            }
        }
        "errorstats" => {
            for (code, count) in ERROR_CODES.iter().zip(totals.errors).filter(|(_, count)| *count > 0) {
                let _ = write!(out, "errorstat_{code}:count={count}\r\n");
            }
        }
        "cpu" => {
            let [_, user, system, _] = totals.process;
            fields!(
                out,
                "used_cpu_sys" = Micros(system),
                "used_cpu_user" = Micros(user),
                "used_cpu_sys_children" = Micros(0),
                "used_cpu_user_children" = Micros(0),
            );
        }
        "cluster" => {
            fields!(out, "cluster_enabled" = u8::from(!node.core_ports.is_empty()));
        }
        "keyspace" if counters.items > 0 => {
            let (items, expiring) = (counters.items, counters.items_expiring);
            fields!(out, "db0" = format_args!("keys={items},expires={expiring},avg_ttl=0"));
        }
        _ => {}
    }
}

/// The upper bound in microseconds of what so many thousandths of the calls took.
fn percentile(timing: &[u64], thousandths: u64) -> u64 {
    let wanted = (timing[0] * thousandths).div_ceil(1000);
    let mut sum = 0;
    let place = timing[2..].iter().position(|count| {
        sum += count;
        sum >= wanted
    });
    2 << place.unwrap_or(0)
}

/// Microseconds as seconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A number of hundredths as a decimal fraction.
struct Hundredths(u64);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// Bytes as people write them: `4.36M`.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let Some(power) = (1..=units.len()).rev().find(|&power| bytes >> (10 * power) > 0) else {
        return format!("{bytes}B");
    };
    format!("{:.2}{}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power - 1])
}
