//! Any bytes, cut anywhere, to a session over a real engine: it never panics, never answers without bound, and answers
//! the same however the bytes are cut. The first byte says where the cut is, the second the protocol of the listener.
//!
//! `cargo +nightly fuzz run session`

#![no_main]

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{self, Engine};
use foreshadow::metrics::Counters;
use foreshadow::request::{Outcome, Request};
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::{self, Backend, Client, Next, Protocol, Session, Target};
use foreshadow::store;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

const NOW: Now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
const CALLS_MAX: usize = 10_000;

struct Alone(Engine);

impl Backend for Alone {
    fn call(&mut self, _: Target, request: &Request<'_>, _: u32) -> Option<Outcome<'_>> {
        Some(self.0.execute(NOW, request))
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.0.counters
    }

    fn called(&mut self, _: u8) {}
}

fn talk(protocol: Protocol, pieces: [&[u8]; 2]) -> (Vec<u8>, bool) {
    let store = store::Options { memory_bytes_max: 4 << 20, item_bytes_max: 64 << 10, hash_secret: [1, 2] };
    let mut backend = Alone(Engine::new(engine::Options { store, seed: 1 }));
    let node = Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: NOW,
        address: "127.0.0.1".parse().expect("valid"),
        port: 7400,
        core_ports: Vec::new(),
        cpus: vec![0],
        memory_bytes_max: 4 << 20,
        clients_max: 10,
        settings: Vec::new(),
        map: ShardMap::on_cores(1),
    };
    let options = wire::Options { protocol, value_bytes_max: 64 << 10, ..wire::Options::default() };
    let mut session = Session::new(Arc::new(options), Client::default());
    let (mut input, mut replies, mut closed) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        input.extend_from_slice(piece);
        for _ in 0..CALLS_MAX {
            if closed {
                break;
            }
            let progress = session.serve(NOW, &node, &input, &mut backend);
            input.drain(..progress.consumed);
            replies.append(session.output());
            match progress.next {
                Next::More { .. } => break,
                Next::Yield | Next::Blocked => {}
                Next::Close(_) => closed = true,
            }
        }
    }
    (replies, closed)
}

fuzz_target!(|bytes: &[u8]| {
    let [cut, protocol, rest @ ..] = bytes else { return };
    let protocol = match protocol % 4 {
        0 => Protocol::Sniff,
        1 => Protocol::Resp,
        2 => Protocol::Memcached,
        _ => Protocol::Native,
    };
    let (head, tail) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let whole = talk(protocol, [rest, b""]);
    assert_eq!(whole, talk(protocol, [head, tail]), "a cut changes what is answered");
    assert!(whole.0.len() < 64 << 20);
});
