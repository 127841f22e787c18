//! What a hit costs: nothing from the allocator.
//!
//! The allocator of this binary counts the calls of the thread that asks, so tests may run side by side.

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{Effect, Engine, Options, Waiter};
use foreshadow::ids::Version;
use foreshadow::metrics::Counters;
use foreshadow::origin::keyspace::{Conflict, Keys, Keyspace, Keyspaces, WritePolicy};
use foreshadow::origin::{Found, OriginId, Reply};
use foreshadow::request::{Answer, Expiry, Item, Lease, Outcome, Put, Request, Value, Verb};
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::native::frame;
use foreshadow::wire::{Backend, Client, Session, Target};
use foreshadow::{store, wire};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that is being torn down has nothing left to count in, and nobody who asks.
    CALLS.try_with(|calls| calls.set(calls.get() + 1)).unwrap_or(());
    BYTES.try_with(|all| all.set(all.get() + bytes as u64)).unwrap_or(());
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator that `work` makes for more memory.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = CALLS.with(Cell::get);
    work();
    CALLS.with(Cell::get) - before
}

fn now() -> Now {
    Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) }
}

fn engine_with(keys: &[Vec<u8>]) -> Engine {
    let store = store::Options { memory_bytes_max: 64 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
    let mut engine = Engine::new(Options { store, seed: 1 });
    for key in keys {
        let verb = Verb::Put(Put::plain(Expiry::At(now().mono.plus_millis(60_000))));
        let outcome = engine.execute(now(), &Request { key, value: &[b'v'; 100], verb });
        assert!(matches!(outcome.answer, Answer::Stored { .. }));
    }
    engine
}

#[test]
fn the_allocator_is_counted() {
    let calls = allocations(|| {
        std::hint::black_box(vec![1u8; 100]);
    });
    assert_eq!(calls, 1);
}

#[test]
fn a_hit_and_a_miss_allocate_nothing() {
    let keys: Vec<Vec<u8>> = (0..1000).map(|i| format!("key:{i:06}").into_bytes()).collect();
    let mut engine = engine_with(&keys);
    let mut read = |key: &[u8]| {
        let outcome = engine.execute(now(), &Request { key, value: &[], verb: Verb::Get });
        (matches!(outcome.answer, Answer::Item(_)), outcome.value.len())
    };
    for key in &keys {
        assert_eq!(read(key), (true, 100));
    }
    let calls = allocations(|| {
        for key in &keys {
            assert_eq!(read(key), (true, 100));
            assert_eq!(read(&key[1..]), (false, 0));
        }
    });
    assert_eq!(calls, 0);
}

#[test]
fn the_value_before_is_copied_to_room_that_is_reused() {
    let keys: Vec<Vec<u8>> = (0..100).map(|i| format!("key:{i:06}").into_bytes()).collect();
    let mut engine = engine_with(&keys);
    let verb = Verb::Put(Put {
        previous: true,
        condition: foreshadow::request::Condition::Absent,
        ..Put::plain(Expiry::Never)
    });
    let mut refused = |key: &[u8]| {
        let outcome = engine.execute(now(), &Request { key, value: b"new", verb });
        (matches!(outcome.answer, Answer::Previous { stored: false, .. }), outcome.value.len())
    };
    assert_eq!(refused(&keys[0]), (true, 100));
    let calls = allocations(|| {
        for key in &keys {
            assert_eq!(refused(key), (true, 100));
        }
    });
    assert_eq!(calls, 0);
}

/// A core whose answers are at hand, so that only the session's own work is counted.
struct Canned(Counters);

impl Backend for Canned {
    fn call(&mut self, _: Target, request: &Request<'_>, _: u32) -> Option<Outcome<'_>> {
        let version = Version(5);
        let item = Item {
            flags: 0,
            len: 100,
            version,
            expiry: Expiry::At(now().mono.plus_millis(60_000)),
            lease: Lease::default(),
            used: true,
            idle_seconds: 0,
            binary_key: false,
        };
        Some(match request.verb {
            Verb::Get if request.key.starts_with(b"key:") => {
                Outcome { answer: Answer::Item(item), value: Value::One(&[b'v'; 100]) }
            }
            Verb::Put(_) => {
                Outcome { answer: Answer::Stored { version, replaced: true, len: 100 }, value: Value::EMPTY }
            }
            _ => Outcome { answer: Answer::Miss, value: Value::EMPTY },
        })
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.0
    }

    fn called(&mut self, _: u8) {}
}

#[test]
fn a_native_session_allocates_nothing_for_reads_writes_and_batches() {
    let keys: Vec<Vec<u8>> = (0..100).map(|i| format!("key:{i:06}").into_bytes()).collect();
    let mut backend = Canned(Counters::default());
    let node = Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: now(),
        address: "127.0.0.1".parse().expect("valid"),
        port: 0,
        core_ports: Vec::new(),
        cpus: vec![0],
        memory_bytes_max: 16 << 20,
        clients_max: 10,
        settings: Vec::new(),
        map: ShardMap::on_cores(1),
        cluster: None,
    };
    let mut session = Session::new(Arc::new(wire::Options::default()), Client::default());
    let mut stream = Vec::new();
    for (id, key) in keys.iter().enumerate() {
        frame::Request::Get(key).encode(id as u32, false, &mut stream);
        frame::Request::Get(&key[1..]).encode(id as u32, true, &mut stream);
        frame::Request::Put(frame::Put::plain(key, &[b'w'; 100], 60_000)).encode(
            id as u32,
            false,
            &mut stream,
        );
    }
    let mut batch = frame::BatchWriter::begin(frame::Opcode::GetMany, 7, false, &mut stream);
    keys.iter().for_each(|key| batch.key(key, &mut stream));
    batch.end(&mut stream);
    let mut talk = || {
        let mut at = 0;
        while at < stream.len() {
            at += session.serve(now(), &node, &stream[at..], &mut backend).consumed;
        }
        let bytes = session.output().len();
        session.output().clear();
        bytes
    };
    // The first time makes the buffers.
    let bytes = talk();
    assert_eq!(bytes, 100 * (16 + 20 + 100 + 16 + 4 + 16 + 8 + 16 + 20 + 100));
    assert_eq!(allocations(|| assert_eq!(talk(), bytes)), 0);
}

/// A core of its own: every request is done at once.
struct Alone(Engine);

impl Backend for Alone {
    fn call(&mut self, _target: Target, request: &Request<'_>, _ticket: u32) -> Option<Outcome<'_>> {
        Some(self.0.execute(now(), request))
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.0.counters
    }

    fn called(&mut self, _command: u8) {}
}

fn node() -> Node {
    Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: now(),
        address: "127.0.0.1".parse().expect("valid"),
        port: 7400,
        core_ports: Vec::new(),
        cpus: vec![0],
        memory_bytes_max: 64 << 20,
        clients_max: 10,
        settings: Vec::new(),
        map: ShardMap::on_cores(1),
        cluster: None,
    }
}

#[test]
fn a_hit_in_a_keyspace_that_prefetches_allocates_nothing() {
    let mut engine = engine_with(&[]);
    let keyspace = Keyspace {
        name: "all".into(),
        keys: Keys::Prefix(Vec::new()),
        origin: OriginId(0),
        drop_prefix: false,
        passes: false,
        fresh_millis: 1 << 30,
        stale_millis: 0,
        stale_error_millis: 0,
        negative_millis: 0,
        write: WritePolicy::Through,
        value_bytes_max: 1 << 20,
        wait_millis_max: 1000,
        attempts_max: 1,
        prefetch: true,
        budget: Arc::default(),
        conflict: Conflict::default(),
    };
    engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace])));
    let keys: Vec<Vec<u8>> = (0..200).map(|i| format!("key:{:06}", i * i).into_bytes()).collect();
    let connection = foreshadow::ids::ConnectionId { place: 3, generation: 0 };
    let address = foreshadow::message::ReturnAddress { connection, ticket: 0 };
    let waiter = Waiter { core: foreshadow::ids::CoreId(0), address };
    let mut round = || {
        let mut hits = 0;
        for key in &keys {
            let hit = engine.serve(now(), waiter, &Request { key, value: &[], verb: Verb::Get }).is_some();
            hits += usize::from(hit);
            while let Some(effect) = engine.poll_effect() {
                if let Effect::Ask { ticket, .. } = effect {
                    let found = Found { value: vec![b'v'; 100], ..Found::default() };
                    engine.answered(now(), ticket, Reply::Found(found));
                }
            }
        }
        hits
    };
    assert_eq!(round(), 0);
    for _ in 0..3 {
        assert_eq!(round(), keys.len());
    }
    assert_eq!(allocations(|| assert_eq!(round(), keys.len())), 0);
}

/// From the bytes of a request to the bytes of its reply, by each protocol, a hit of this core allocates nothing.
#[test]
fn a_hit_costs_no_allocation_from_bytes_to_bytes() {
    let keys: Vec<Vec<u8>> = (0..100).map(|i| format!("key:{i:06}").into_bytes()).collect();
    let value = "v".repeat(100);
    let mut requests = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let mut replies = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for key in &keys {
        let key = std::str::from_utf8(key).expect("ASCII");
        let said: [(String, String); 4] = [
            (format!("*2\r\n$3\r\nGET\r\n$10\r\n{key}\r\n"), format!("$100\r\n{value}\r\n")),
            (format!("*3\r\n$3\r\nSET\r\n$10\r\n{key}\r\n$100\r\n{value}\r\n"), "+OK\r\n".into()),
            (format!("get {key}\r\n"), format!("VALUE {key} 0 100\r\n{value}\r\nEND\r\n")),
            (format!("mg {key} v t f\r\n"), format!("VA 100 t60 f0\r\n{value}\r\n")),
        ];
        for (i, (request, reply)) in said.into_iter().enumerate() {
            requests[i].extend_from_slice(request.as_bytes());
            replies[i].extend_from_slice(reply.as_bytes());
        }
    }
    for (request, reply) in requests.iter().zip(&replies) {
        let is_set = reply.starts_with(b"+OK");
        let mut alone = Alone(engine_with(&keys));
        let node = node();
        let mut session = Session::new(Arc::new(wire::Options::default()), Client::default());
        let mut turn = |session: &mut Session| {
            let progress = session.serve(now(), &node, request, &mut alone);
            assert_eq!(progress.consumed, request.len());
            assert!(**session.output() == *reply, "{}", String::from_utf8_lossy(session.output()));
            session.output().clear();
        };
        turn(&mut session);
        turn(&mut session);
        let calls = allocations(|| turn(&mut session));
        // Writing takes a new segment of the store now and then, which is bookkeeping of the store, not of the request.
        let allowed = if is_set { 1 } else { 0 };
        assert!(calls <= allowed, "{calls} allocations for {}", String::from_utf8_lossy(&request[..30]));
    }
}

/// Numbers 2, 3 and 13 of the bad inputs: what a length claims is not believed before it is seen.
#[test]
fn claimed_lengths_allocate_next_to_nothing() {
    let claims: [&[u8]; 6] = [
        b"*2147483648\r\n",
        b"*1048576\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n",
        b"*1\r\n$9999999999\r\n",
        b"set k 0 0 1048576\r\n",
        b"ms k 1048576\r\n",
    ];
    for claim in claims {
        let mut alone = Alone(engine_with(&[]));
        let node = node();
        let mut session = Session::new(Arc::new(wire::Options::default()), Client::default());
        let before = BYTES.with(Cell::get);
        session.serve(now(), &node, claim, &mut alone);
        let bytes = BYTES.with(Cell::get) - before;
        assert!(bytes <= 4096, "{bytes} bytes for {}", String::from_utf8_lossy(claim));
    }
}
