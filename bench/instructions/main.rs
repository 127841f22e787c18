//! Fixed work to count instructions of: requests through Session (codec) and Engine (index and store), no sockets.
//!
//! ```text
//! instructions CASE REQUESTS
//! ```
//! Callgrind counts two runs that differ in the number of requests only; the difference over the number is what one
//! request costs. `tests/instructions.rs` does that and holds it against `expected.txt`. Every reply is checked here.

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{self, Engine, Waiter};
use foreshadow::ids::{ConnectionId, CoreId};
use foreshadow::message::ReturnAddress;
use foreshadow::metrics::Counters;
use foreshadow::origin::OriginId;
use foreshadow::origin::keyspace::{Conflict, Keys, Keyspace, Keyspaces, WritePolicy};
use foreshadow::request::{Answer, Expiry, Outcome, Put, Request, Value, Verb};
use foreshadow::store;
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::{self, Backend, Client, Session, Target};
use std::sync::Arc;

/// Keys that are there; few, because it is instructions that are counted and not misses of the processor's caches.
const KEYS: usize = 1024;
/// Requests that one call of the session gets, as from a pipelined connection.
const BATCH: usize = 16;

/// The case whose keys have an origin; that they are there all the same shows that it is not asked.
const ORIGIN: &str = "origin-get-100";

/// One case: how to ask for the key of a rank, and what must be answered.
struct Case {
    request: fn(usize) -> Vec<u8>,
    reply: fn(usize) -> Vec<u8>,
}

fn case(name: &str) -> Option<Case> {
    Some(match name {
        "resp-get-100" | ORIGIN | "engine-get-100" | "engine-set-100" => {
            Case { request: resp_get::<100>, reply: resp_value::<100> }
        }
        "resp-get-1024" => Case { request: resp_get::<1024>, reply: resp_value::<1024> },
        "resp-miss" => {
            Case { request: |_| resp(&[b"GET", b"nowhere:00000000"]), reply: |_| b"$-1\r\n".to_vec() }
        }
        "resp-set-100" => Case { request: resp_set::<100>, reply: |_| b"+OK\r\n".to_vec() },
        "memcached-get-100" => Case {
            request: |rank| [b"get ", key::<100>(rank).as_slice(), b"\r\n"].concat(),
            reply: |rank| {
                let head = format!("VALUE {} 0 100\r\n", String::from_utf8_lossy(&key::<100>(rank)));
                [head.as_bytes(), &value::<100>(rank), b"\r\nEND\r\n"].concat()
            },
        },
        "memcached-set-100" => Case {
            request: |rank| {
                [b"set ", key::<100>(rank).as_slice(), b" 0 0 100\r\n", &value::<100>(rank), b"\r\n"].concat()
            },
            reply: |_| b"STORED\r\n".to_vec(),
        },
        "native-get-100" => Case { request: native_get::<100>, reply: native_value::<100> },
        "meta-get-100" => Case {
            request: |rank| [b"mg ", key::<100>(rank).as_slice(), b" v\r\n"].concat(),
            reply: |rank| [b"VA 100\r\n", value::<100>(rank).as_slice(), b"\r\n"].concat(),
        },
        _ => return None,
    })
}

fn key<const BYTES: usize>(rank: usize) -> Vec<u8> {
    format!("key{BYTES:04}:{rank:08}").into_bytes()
}

fn value<const BYTES: usize>(rank: usize) -> Vec<u8> {
    format!("{rank:08}").into_bytes().into_iter().cycle().take(BYTES).collect()
}

fn resp(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn resp_get<const BYTES: usize>(rank: usize) -> Vec<u8> {
    resp(&[b"GET", &key::<BYTES>(rank)])
}

fn resp_value<const BYTES: usize>(rank: usize) -> Vec<u8> {
    let head = format!("${BYTES}\r\n");
    [head.as_bytes(), &value::<BYTES>(rank), b"\r\n"].concat()
}

fn resp_set<const BYTES: usize>(rank: usize) -> Vec<u8> {
    resp(&[b"SET", &key::<BYTES>(rank), &value::<BYTES>(rank)])
}

/// Magic, version, opcode, flags, id, length of the body and of the key, detail: proto-spec/native.md, sections 2 and 4.
fn native_get<const BYTES: usize>(rank: usize) -> Vec<u8> {
    let key = key::<BYTES>(rank);
    let id = (rank as u32).to_le_bytes();
    let lengths = [(key.len() as u32).to_le_bytes().as_slice(), &(key.len() as u16).to_le_bytes()].concat();
    [&[0xF5, 1, 0x10, 0][..], &id, &lengths, &[0; 2], &key].concat()
}

/// No expiry, a version that is nobody's business here (see `without_versions`), no flags.
fn native_value<const BYTES: usize>(rank: usize) -> Vec<u8> {
    let len = (NATIVE_META_BYTES + BYTES) as u32;
    let head = [&[0xF6, 1, 0x10, 0][..], &(rank as u32).to_le_bytes(), &len.to_le_bytes(), &[0; 4]].concat();
    [head.as_slice(), &[0; NATIVE_META_BYTES], &value::<BYTES>(rank)].concat()
}

const NATIVE_HEAD_BYTES: usize = 16;
const NATIVE_META_BYTES: usize = 20;

/// Native replies to gets of values of `value_bytes`, with their versions blotted out.
fn without_versions(replies: &[u8], value_bytes: usize) -> Vec<u8> {
    let mut replies = replies.to_vec();
    for reply in replies.chunks_mut(NATIVE_HEAD_BYTES + NATIVE_META_BYTES + value_bytes) {
        let version = NATIVE_HEAD_BYTES + 8..NATIVE_HEAD_BYTES + 16;
        reply.get_mut(version).expect("whole replies").fill(0);
    }
    replies
}

/// The engine as the only core's: every request is done at once.
struct Desk {
    engine: Engine,
    now: Now,
}

impl Backend for Desk {
    fn call(&mut self, _: Target, request: &Request<'_>, _: u32) -> Option<Outcome<'_>> {
        let connection = ConnectionId { place: 0, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: 0 } };
        self.engine.serve(self.now, waiter, request)
    }

    fn expect(&mut self, keys: &[&[u8]]) {
        self.engine.approach(keys.iter().copied());
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.engine.counters
    }

    fn called(&mut self, _: u8) {}
}

/// Serves all of `input` and answers whether exactly `expected` came out.
fn serve(session: &mut Session, node: &Node, desk: &mut Desk, input: &[u8], expected: &[u8]) -> bool {
    let mut rest = input;
    while !rest.is_empty() {
        let progress = session.serve(desk.now, node, rest, desk);
        if progress.consumed == 0 {
            break;
        }
        rest = &rest[progress.consumed..];
    }
    let right = rest.is_empty() && session.output().as_slice() == expected;
    session.output().clear();
    right
}

/// What a case without a session asks the engine.
fn direct(name: &str) -> Option<Verb> {
    match name {
        "engine-get-100" => Some(Verb::Get),
        "engine-set-100" => Some(Verb::Put(Put::plain(Expiry::Never))),
        _ => None,
    }
}

/// Engine and store alone, batches approached as a session does.
fn ask_directly(desk: &mut Desk, verb: Verb, requests: usize) {
    let items: Vec<_> =
        (0..KEYS).map(|i| (key::<100>(i * 389 % KEYS), value::<100>(i * 389 % KEYS))).collect();
    for batch in items.chunks(BATCH).cycle().take(requests / BATCH) {
        desk.engine.approach(batch.iter().map(|(key, _)| key.as_slice()));
        for (key, value) in batch {
            let stored: &[u8] = if matches!(verb, Verb::Get) { &[] } else { value };
            let outcome = desk.engine.execute(desk.now, &Request { key, value: stored, verb });
            let right = match outcome.answer {
                Answer::Item(_) => matches!(outcome.value, Value::One(found) if found == value.as_slice()),
                Answer::Stored { replaced, .. } => replaced,
                _ => false,
            };
            assert!(right, "a reply is wrong");
        }
    }
}

/// All keys, of an origin that is never asked: what is stored is fresh for an hour.
fn keyspace() -> Keyspace {
    Keyspace {
        name: "all".into(),
        keys: Keys::Prefix(Vec::new()),
        origin: OriginId(0),
        drop_prefix: false,
        passes: false,
        fresh_millis: 3_600_000,
        stale_millis: 10_000,
        stale_error_millis: 60_000,
        negative_millis: 1000,
        write: WritePolicy::CacheOnly,
        value_bytes_max: 1 << 20,
        wait_millis_max: 1000,
        attempts_max: 2,
        prefetch: false,
        budget: Arc::default(),
        conflict: Conflict::default(),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked = match args.as_slice() {
        [name, requests] => case(name).zip(requests.parse::<usize>().ok()),
        _ => None,
    };
    let Some((case, requests)) = asked else {
        eprintln!("usage: instructions CASE REQUESTS");
        std::process::exit(2);
    };
    let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
    let store =
        store::Options { memory_bytes_max: 64 << 20, item_bytes_max: 1 << 20, hash_secret: [0x5eed, 0xcafe] };
    let mut desk = Desk { engine: Engine::new(engine::Options { store, seed: 1 }), now };
    if args[0] == ORIGIN {
        desk.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace()])));
    }
    let node = Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: now,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 7400,
        core_ports: Vec::new(),
        cpus: vec![0],
        memory_bytes_max: 64 << 20,
        clients_max: 1,
        settings: Vec::new(),
        map: ShardMap::on_cores(1),
        cluster: None,
    };
    let session = |protocol| {
        let options = wire::Options { protocol, ..wire::Options::default() };
        Session::new(Arc::new(options), Client { id: 1, ..Client::default() })
    };

    let mut filler = session(wire::Protocol::Resp);
    for rank in 0..KEYS {
        for set in [resp_set::<100>(rank), resp_set::<1024>(rank)] {
            assert!(serve(&mut filler, &node, &mut desk, &set, b"+OK\r\n"), "key {rank} was not stored");
        }
    }
    // All batches are made before, and the same ones go round, so that the runs differ in serving alone.
    let batches: Vec<(Vec<u8>, Vec<u8>)> = (0..KEYS / BATCH)
        .map(|batch| {
            // Spread over the keys, so that neighbours in the store are not neighbours in time.
            let ranks = (0..BATCH).map(|i| (batch * BATCH + i) * 389 % KEYS);
            let (requests, replies): (Vec<_>, Vec<_>) =
                ranks.map(|rank| ((case.request)(rank), (case.reply)(rank))).unzip();
            (requests.concat(), replies.concat())
        })
        .collect();
    if let Some(verb) = direct(&args[0]) {
        ask_directly(&mut desk, verb, requests);
        return;
    }
    let mut client = session(wire::Protocol::Sniff);
    let batches = if args[0].starts_with("native") {
        // Versions were given by the engine: what is answered first is checked but for them, and expected from then on.
        let learn = |(input, expected): (Vec<u8>, Vec<u8>)| {
            client.serve(desk.now, &node, &input, &mut desk);
            let replies = client.output().take_all();
            assert_eq!(without_versions(&replies, 100), expected, "a first reply is wrong");
            (input, replies)
        };
        batches.into_iter().map(learn).collect()
    } else {
        batches
    };
    for (input, expected) in batches.iter().cycle().take(requests / BATCH) {
        if !serve(&mut client, &node, &mut desk, input, expected) {
            eprintln!("instructions: a reply is wrong");
            std::process::exit(1);
        }
    }
}
