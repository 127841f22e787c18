//! `INFO`: the counters of all cores, in the sections and fields that monitoring tools read.

use super::commands::COMMANDS;
use super::reply::CALLS;
use crate::clock::{Mono, Now};
use crate::metrics::Counters;
use crate::topology::Node;
use std::fmt::Write;

/// The Redis version whose commands and replies we follow.
pub(super) const REDIS_VERSION: &str = "7.2.4";

/// The counters of all cores together.
pub(super) struct Totals {
    pub counters: Counters,
    calls: [u64; CALLS],
}

impl Default for Totals {
    fn default() -> Self {
        Totals { counters: Counters::default(), calls: [0; CALLS] }
    }
}

impl Totals {
    /// Adds a core's page of [`crate::request::Verb::Counters`]: its counters, then the calls per command.
    pub fn add(&mut self, page: &[u8]) {
        self.counters.add(&Counters::from_bytes(page));
        let calls = page.get(Counters::NAMES.len() * 8..).unwrap_or_default();
        for (sum, chunk) in self.calls.iter_mut().zip(calls.chunks_exact(8)) {
            *sum += u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) gives 8 bytes"));
        }
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
const SECTIONS: [(&str, bool); 11] = [
    ("server", true),
    ("clients", true),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", true),
    ("cpu", true),
    ("commandstats", false),
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
                "blocked_clients" = 0,
                "tracking_clients" = 0,
            );
        }
        "memory" => {
            let used = counters.store_bytes + counters.buffer_bytes;
            fields!(
                out,
                "used_memory" = used,
                "used_memory_human" = human(used),
                "used_memory_rss" = used,
                "used_memory_rss_human" = human(used),
                "used_memory_peak" = used,
                "used_memory_peak_human" = human(used),
                "used_memory_dataset" = counters.payload_bytes,
                "maxmemory" = node.memory_bytes_max,
                "maxmemory_human" = human(node.memory_bytes_max),
                "maxmemory_policy" = "allkeys-lru",
                "mem_fragmentation_ratio" = "1.00",
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
                "total_error_replies" = counters.errors_total,
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
            for (command, calls) in COMMANDS.iter().zip(totals.calls).filter(|(_, calls)| *calls > 0) {
                let _ = write!(
                    out,
                    "cmdstat_{}:calls={calls},usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0\r\n",
                    command.name
                );
            }
        }
        "cluster" => {
            fields!(out, "cluster_enabled" = u8::from(!node.core_ports.is_empty()));
        }
        "keyspace" if counters.items > 0 => {
            let (items, expiring) = (counters.items, counters.items_expiring);
            fields!(out, "db0" = format_args!("keys={items},expires={expiring},avg_ttl=0"));
        }
        // CPU times are the shell's to know; error kinds are not told apart.
        _ => {}
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
