//! Whole conversations against a model of the cores.

mod errors;
mod frames;
mod limits;
mod logins;
mod model;
mod moves;
mod server;
mod shell;
mod streams;
mod transactions;
mod values;

use super::*;
use crate::clock::{Mono, Wall};
use crate::hash::slot_of;
use crate::ids::{ConnectionId, CoreId, Version};
use crate::metrics::Counters;
use crate::request::*;
use crate::topology::ShardMap;
use crate::wire::Session;
use crate::wire::denials::Denial;
use crate::wire::journal::Journal;
use crate::wire::users::Users;
use model::{Model, USED_PEAK};
use shell::Shell;
use std::collections::{BTreeMap, VecDeque};

const CORES: u16 = 3;

fn now() -> Now {
    Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000) }
}

fn node(cluster: bool) -> Node {
    Node {
        run_id: "0123456789abcdef0123456789abcdef01234567".into(),
        version: "0.1.0",
        process_id: 42,
        started: Now { mono: Mono(0), wall: Wall(1_699_999_000_000) },
        address: [127, 0, 0, 1].into(),
        port: 7400,
        core_ports: if cluster { vec![7401, 7402, 7403] } else { vec![] },
        cpus: vec![0, 1, 2],
        memory_bytes_max: 1 << 30,
        clients_max: 10_000,
        settings: vec![("maxmemory".into(), "1073741824".into()), ("listen".into(), "here".into())],
        map: ShardMap::on_cores(CORES),
        cluster: None,
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    words.iter().for_each(|word| reply::bulk(&mut out, word));
    out
}

/// The command written as words with spaces between.
fn words(text: &str) -> Vec<u8> {
    command(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

fn converse_with(options: Options, bytes: &[u8]) -> (String, Option<Reason>) {
    let mut shell = Shell::new(CORES, false, options, 1);
    shell.feed(bytes);
    shell.finish();
    (String::from_utf8(shell.output).unwrap(), shell.closed)
}

fn converse(bytes: &[u8]) -> (String, Option<Reason>) {
    converse_with(Options::default(), bytes)
}

/// Checks replies of a fresh session, command by command; `|` in the expectation stands for CRLF,
/// `¦` for the bar.
fn check_on(shell: &mut Shell, dialogue: &[(&str, &str)]) {
    for (sent, expected) in dialogue {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert_eq!(reply, crlf(expected), "{sent}");
    }
}

fn crlf(expected: &str) -> String {
    expected.replace('|', "\r\n").replace('¦', "|")
}

fn check(dialogue: &[(&str, &str)]) {
    for near in [CORES, 1, 0] {
        check_on(&mut Shell::new(near, false, Options::default(), 9), dialogue);
    }
}

/// Two keys of two cores, the first of them owned by `core`.
fn keys_apart(shell: &Shell, core: u16) -> (String, String) {
    let owner = |key: &String| shell.node.map.owner(slot_of(key.as_bytes()).shard());
    let keys = || (0..100).map(|i| format!("k{i}"));
    let one = keys().find(|key| owner(key) == CoreId(core)).unwrap();
    let other = keys().find(|key| owner(key) != CoreId(core)).unwrap();
    (one, other)
}
