//! What `stats` and `version` show. Off the hot path: formatting is allowed here.

use super::writer::{Page, VERSION};
use crate::metrics::Counters;
use crate::topology::Node;
use crate::{clock::Now, wire::Options};
use std::fmt::Display;
use std::io::Write;

/// `VERSION 1.6.45 foreshadow <our own>`
pub(super) fn version(node: &Node, out: &mut Vec<u8>) {
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(VERSION.as_bytes());
    out.extend_from_slice(b" foreshadow ");
    out.extend_from_slice(node.version.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn stat(out: &mut Vec<u8>, name: &str, value: impl Display) {
    write!(out, "STAT {name} {value}\r\n").expect("a Vec takes everything");
}

/// A page under memcached's names, with its `END`. What has no meaning here is left out, but for names that tools insist on.
pub(super) fn page(page: Page, now: Now, node: &Node, options: &Options, sum: &Counters, out: &mut Vec<u8>) {
    match page {
        Page::General => general(now, node, sum, out),
        Page::Settings => settings(node, options, out),
        Page::Items => items(sum, out),
        Page::Slabs => slabs(sum, out),
    }
    out.extend_from_slice(b"END\r\n");
}

fn general(now: Now, node: &Node, sum: &Counters, out: &mut Vec<u8>) {
    stat(out, "pid", node.process_id);
    stat(out, "uptime", now.mono.millis_since(node.started.mono) / 1000);
    stat(out, "time", now.wall.0 / 1000);
    stat(out, "version", VERSION);
    stat(out, "foreshadow_version", node.version);
    stat(out, "pointer_size", usize::BITS);
    stat(out, "max_connections", node.clients_max);
    let counts = sum.incr_hits_total + sum.decr_hits_total;
    let rows = [
        ("curr_connections", sum.connections),
        ("total_connections", sum.connections_accepted_total),
        ("rejected_connections", sum.connections_rejected_total),
        ("connection_structures", sum.connections),
        ("read_buf_bytes", sum.buffer_bytes),
        ("cmd_get", sum.hits_total + sum.misses_total),
        ("cmd_set", sum.writes_total.saturating_sub(counts) + sum.store_refusals_total),
        ("cmd_flush", sum.flushes_total),
        ("cmd_touch", sum.touch_hits_total + sum.touch_misses_total),
        ("cmd_meta", sum.meta_commands_total),
        ("get_hits", sum.hits_total),
        ("get_misses", sum.misses_total),
        ("get_expired", sum.expired_sought_total),
        // What is flushed is gone at once.
        ("get_flushed", 0),
        ("delete_misses", sum.delete_misses_total),
        ("delete_hits", sum.removals_total),
        ("incr_misses", sum.incr_misses_total),
        ("incr_hits", sum.incr_hits_total),
        ("decr_misses", sum.decr_misses_total),
        ("decr_hits", sum.decr_hits_total),
        ("cas_misses", sum.cas_misses_total),
        ("cas_hits", sum.cas_hits_total),
        ("cas_badval", sum.cas_mismatches_total),
        ("touch_hits", sum.touch_hits_total),
        ("touch_misses", sum.touch_misses_total),
        ("store_too_large", sum.store_too_large_total),
        ("store_no_memory", sum.store_no_memory_total),
        ("auth_cmds", sum.auth_attempts_total),
        ("auth_errors", sum.auth_failures_total),
        ("bytes_read", sum.received_bytes_total),
        ("bytes_written", sum.sent_bytes_total),
        ("limit_maxbytes", node.memory_bytes_max),
        ("accepting_conns", 1),
        ("listen_disabled_num", sum.accept_backoffs_total),
        ("threads", u64::from(node.core_count())),
        ("conn_yields", sum.yields_total),
        ("bytes", sum.payload_bytes),
        ("curr_items", sum.items),
        ("total_items", sum.writes_total.saturating_sub(counts)),
        ("expired", sum.expired_total),
        ("expired_unfetched", sum.expired_unused_total),
        ("evicted_unfetched", sum.evicted_unused_total),
        ("evicted_active", sum.evicted_used_total),
        ("evictions", sum.evicted_total),
        // Memory of items that are over comes back by the wheel of deadlines, which is what a crawler is for.
        ("reclaimed", sum.expired_total),
        ("crawler_reclaimed", sum.expired_total.saturating_sub(sum.expired_sought_total)),
        ("noreply_errors", sum.silent_errors_total),
        // Memory is reserved at the start, tables grow by pages.
        ("malloc_fails", 0),
        ("hash_is_expanding", 0),
        ("log_watcher_skipped", sum.watch_lines_skipped_total),
        ("log_watcher_sent", sum.watch_lines_sent_total),
        ("log_watchers", sum.watchers),
    ];
    for (name, value) in rows {
        stat(out, name, value);
    }
}

fn settings(node: &Node, options: &Options, out: &mut Vec<u8>) {
    let yes = |is: bool| if is { "yes" } else { "no" };
    stat(out, "maxbytes", node.memory_bytes_max);
    stat(out, "maxconns", node.clients_max);
    stat(out, "tcpport", node.port);
    stat(out, "udpport", 0);
    stat(out, "inter", node.address);
    stat(out, "verbosity", 0);
    stat(out, "oldest", 0);
    stat(out, "evictions", "on");
    stat(out, "domain_socket", "NULL");
    stat(out, "umask", 700);
    stat(out, "shutdown_command", "no");
    stat(out, "num_threads", node.core_count());
    stat(out, "stat_key_prefix", ":");
    stat(out, "detail_enabled", "no");
    stat(out, "reqs_per_event", options.commands_per_turn);
    stat(out, "cas_enabled", "yes");
    stat(out, "binding_protocol", "ascii");
    stat(out, "auth_enabled_sasl", "no");
    stat(out, "auth_enabled_ascii", yes(options.users.welcome().is_none()));
    stat(out, "item_size_max", options.memcached_value_bytes_max);
    stat(out, "maxconns_fast", "yes");
    stat(out, "slab_reassign", "no");
    stat(out, "slab_automove", 0);
    stat(out, "lru_crawler", "no");
    stat(out, "flush_enabled", "yes");
    stat(out, "dump_enabled", "no");
    stat(out, "hash_algorithm", "ahash");
    stat(out, "lru_maintainer_thread", "no");
    stat(out, "track_sizes", "no");
    stat(out, "client_flags_size", 4);
}

/// There are no slab classes; everything is shown as one, so that tools that add classes up come to the right sums.
fn items(sum: &Counters, out: &mut Vec<u8>) {
    if sum.items == 0 {
        return;
    }
    let rows = [
        ("number", sum.items),
        // Not known here, but tools insist on the names.
        ("age", 0),
        ("evicted_nonzero", 0),
        ("evicted_time", 0),
        ("tailrepairs", 0),
        ("mem_requested", sum.payload_bytes),
        ("evicted", sum.evicted_total),
        ("outofmemory", sum.store_no_memory_total),
        ("reclaimed", sum.expired_total),
        ("expired_unfetched", sum.expired_unused_total),
        ("evicted_unfetched", sum.evicted_unused_total),
        ("evicted_active", sum.evicted_used_total),
        ("crawler_reclaimed", sum.expired_total.saturating_sub(sum.expired_sought_total)),
    ];
    for (name, value) in rows {
        stat(out, &format!("items:1:{name}"), value);
    }
}

/// The one class: its pages are the store's memory, its chunks the items.
fn slabs(sum: &Counters, out: &mut Vec<u8>) {
    if sum.items > 0 {
        let counts = sum.incr_hits_total + sum.decr_hits_total;
        let rows = [
            ("used_chunks", sum.items),
            ("mem_requested", sum.payload_bytes),
            ("get_hits", sum.hits_total),
            ("cmd_set", sum.writes_total.saturating_sub(counts) + sum.store_refusals_total),
            ("delete_hits", sum.removals_total),
            ("incr_hits", sum.incr_hits_total),
            ("decr_hits", sum.decr_hits_total),
            ("cas_hits", sum.cas_hits_total),
            ("cas_badval", sum.cas_mismatches_total),
            ("touch_hits", sum.touch_hits_total),
        ];
        for (name, value) in rows {
            stat(out, &format!("1:{name}"), value);
        }
    }
    stat(out, "active_slabs", u64::from(sum.items > 0));
    stat(out, "total_malloced", sum.store_bytes);
}

/// Lines of `CLIENT LIST` as `stats conns` shows them.
pub(super) fn connections(lines: &[u8], out: &mut Vec<u8>) {
    for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let field = |name: &[u8]| {
            let mut fields = line.split(|&b| b == b' ');
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(b"=")).unwrap_or_default()
        };
        let mut row = |name: &[u8], prefix: &[u8], value: &[u8]| {
            for part in [b"STAT ", field(b"id"), b":", name, b" ", prefix, value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        };
        row(b"addr", b"tcp:", field(b"addr"));
        row(b"listen_addr", b"tcp:", field(b"laddr"));
        row(b"state", b"", b"conn_read");
        row(b"secs_since_last_cmd", b"", field(b"idle"));
    }
}
