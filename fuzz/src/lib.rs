//! Any bytes, cut anywhere, to a session over a real engine: it never panics, never answers without bound, and answers the
//! same however the bytes are cut. Shared by the fuzz targets and by `tests/fuzz_seeds.rs`, which plays the seeds without a
//! fuzzer.

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{self, Engine};
use foreshadow::metrics::Counters;
use foreshadow::request::{Answer, Outcome, Request, Value, Verb};
use foreshadow::store;
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::{self, Backend, Client, Next, Protocol, Session, Target};
use std::sync::Arc;

const NOW: Now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
/// Calls of a session for one piece.
const CALLS_MAX: usize = 10_000;
/// Bytes that no stream of a fuzzer's length may be answered with.
const REPLY_BYTES_MAX: usize = 64 << 20;

struct Alone(Engine);

impl Backend for Alone {
    fn call(&mut self, _: Target, request: &Request<'_>, _: u32) -> Option<Outcome<'_>> {
        if request.verb == Verb::Counters {
            // What is counted already depends on how the stream was cut.
            return Some(Outcome { answer: Answer::Page { cursor: 0 }, value: Value::EMPTY });
        }
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

/// What a listener of this protocol answers to the pieces, and whether it closes.
fn talk(protocol: Protocol, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
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
        cluster: None,
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

/// Checks one stream: whole, and cut where the bytes of `cuts` say, in parts of 256.
///
/// Panics where a cut changes what is answered, or where the answers have no bound.
pub fn check(protocol: Protocol, cuts: &[u8], stream: &[u8]) {
    let mut places: Vec<usize> = cuts.iter().map(|cut| stream.len() * usize::from(*cut) / 256).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
    let whole = talk(protocol, &[stream]);
    let cut = talk(protocol, &pieces);
    assert!(
        whole == cut,
        "cut at {places:?} the answer is another one: {:?}",
        String::from_utf8_lossy(&cut.0)
    );
    assert!(whole.0.len() < REPLY_BYTES_MAX, "{} bytes of answers", whole.0.len());
}

/// Checks what a fuzzer made: the first byte says how many cuts there are, they follow, then the stream.
pub fn check_cut(protocol: Protocol, bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (cuts, stream) = rest.split_at(rest.len().min(usize::from(count % 8)));
    check(protocol, cuts, stream);
}
