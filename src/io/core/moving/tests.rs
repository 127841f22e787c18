//! Three cores in one thread, turned in an order of dice, now and then one of them not for long: so that whatever two of them say to
//! each other may come before or after what the third says. Clients of all three count keys up and read them while shards move.

use super::*;
use crate::hash::slot_of;
use crate::io::core::{Listening, Shared};
use crate::io::{BusyPoll, mesh};
use crate::topology::{Node, ShardMap};
use crate::wire::Protocol;
use crate::{engine, store, wire};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

const CORES: u16 = 3;
const CLIENTS: usize = 6;
/// Replies that a client may wait for before it sends more: some rounds.
const EXPECTED_MAX: usize = 60;
/// Keys that each client counts up, in each of the shards.
const KEYS: usize = 3;
const SHARDS: [u16; 2] = [5, 900];
const MOVES: u64 = 120;
const TURNS_MAX: u64 = 3_000_000;
/// Between two turns, by the clock of the test.
const TURN_NANOS: u64 = 20_000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn core_of(me: u16, listener: TcpListener, mesh: mesh::Mesh, node: Arc<Node>, shared: Arc<Shared>) -> Core {
    let store = store::Options { memory_bytes_max: 16 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
    let options = crate::io::Options {
        cpu: 0,
        engine: engine::Options { store, seed: 1 },
        wire: wire::Options::default(),
        certificates_name_users: false,
        busy_poll: BusyPoll::Micros(0),
        receive_buffers: 16,
        receive_buffer_bytes: 4096,
        output_hard_bytes: 1 << 20,
        buffer_bytes_max: 4 << 20,
        wanted: crate::io::Wanted {
            item_bytes: 1 << 20,
            memcached_item_bytes: 1 << 20,
            output_soft_bytes: 1 << 20,
        },
        unfinished_millis_max: 100_000,
        unauthenticated_millis_max: 100_000,
        drain_millis_max: 1_000,
        sources: Arc::default(),
        link_password: "".into(),
        keeper: None,
    };
    let listeners =
        vec![Listening { socket: listener.into(), protocol: Protocol::Sniff, own: false, tls: None }];
    // SAFETY: eventfd takes no memory of ours; the test keeps the descriptor to its end.
    let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    Core::new(CoreId(me), options, listeners, mesh, bell, node, shared, Box::new(|_| ()))
        .expect("the machine that runs the tests has io_uring")
}

/// What a client expects.
#[derive(Clone, Copy)]
enum Expected {
    Exactly(u64),
    AtLeast(u64),
}

struct Client {
    stream: TcpStream,
    keys: Vec<String>,
    /// The count of its keys, one for all.
    count: u64,
    expected: VecDeque<Expected>,
    got: Vec<u8>,
}

impl Client {
    /// Sends the next round: counts its own keys up and reads each behind that, then reads some of the others'.
    fn send(&mut self, others: &[(String, u64)]) {
        self.count += 1;
        let mut text = String::new();
        for key in &self.keys {
            text += &format!("INCR {key}\r\nGET {key}\r\n");
            self.expected.extend([Expected::Exactly(self.count); 2]);
        }
        for (key, least) in others {
            text += &format!("GET {key}\r\n");
            self.expected.push_back(Expected::AtLeast(*least));
        }
        self.stream.write_all(text.as_bytes()).expect("buffered");
    }

    /// What all its keys were counted up to, as far as it was told.
    fn acknowledged(&self) -> u64 {
        let under_way = self.expected.iter().find_map(|expected| match expected {
            Expected::Exactly(count) => Some(count - 1),
            Expected::AtLeast(_) => None,
        });
        under_way.unwrap_or(self.count)
    }

    /// Takes in what has come.
    fn receive(&mut self) {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(len) => {
                assert!(len > 0, "the server has closed");
                self.got.extend_from_slice(&piece[..len]);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        while let Some(expected) = self.expected.front() {
            let Some((number, len)) = reply(&self.got) else { return };
            match *expected {
                Expected::Exactly(count) => assert_eq!(number, count, "of its own"),
                Expected::AtLeast(least) => assert!(number >= least, "{number} after {least}"),
            }
            self.got.drain(..len);
            self.expected.pop_front();
        }
    }
}

/// The number of the first reply, and the bytes that it has.
fn reply(bytes: &[u8]) -> Option<(u64, usize)> {
    let line = |from: usize| {
        let end = bytes.get(from..)?.windows(2).position(|pair| pair == b"\r\n")? + from;
        Some((std::str::from_utf8(&bytes[from..end]).expect("text"), end + 2))
    };
    let (head, behind) = line(0)?;
    let (sign, rest) = head.split_at(1);
    match (sign, rest) {
        (":", number) => Some((number.parse().expect("a number"), behind)),
        ("$", "-1") => Some((0, behind)),
        ("$", _) => line(behind).map(|(number, behind)| (number.parse().expect("a number"), behind)),
        _ => panic!("{head}"),
    }
}

/// Whether requests for a shard that has left may still come.
fn has_left(core: &Core) -> bool {
    core.works.moving.as_ref().is_some_and(|moving| !moving.departed.is_empty())
}

fn key_of(shard: u16, name: &str) -> String {
    let all = (0..).map(|number| format!("{name}:{number}"));
    all.into_iter().find(|key| slot_of(key.as_bytes()).shard().number() == shard).expect("there are many")
}

fn play(seed: u64) {
    let listeners: Vec<TcpListener> =
        (0..CORES).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback is there")).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
    let begin = time::now();
    let node = Arc::new(Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: begin,
        address: "127.0.0.1".parse().expect("valid"),
        port: 0,
        core_ports: Vec::new(),
        cpus: vec![0; usize::from(CORES)],
        memory_bytes_max: 48 << 20,
        clients_max: 100,
        settings: Vec::new(),
        map: ShardMap::on_cores(CORES),
        cluster: None,
    });
    let shared = Arc::new(Shared::new(100));
    let meshes = mesh::weave(CORES);
    let mut cores: Vec<Core> = (0..CORES)
        .zip(listeners.into_iter().zip(meshes))
        .map(|(me, (listener, mesh))| core_of(me, listener, mesh, node.clone(), shared.clone()))
        .collect();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|i| {
            let stream = TcpStream::connect(addresses[i % addresses.len()]).expect("listens");
            stream.set_nonblocking(true).expect("a socket can");
            let keys =
                SHARDS.iter().flat_map(|shard| (0..KEYS).map(move |k| key_of(*shard, &format!("{i}-{k}"))));
            Client { stream, keys: keys.collect(), count: 0, expected: VecDeque::new(), got: Vec::new() }
        })
        .collect();
    let mut dice = Dice(seed);
    let (mut turns, mut stalled, mut stalled_until) = (0, 0, 0);
    let mut rounds_after = 0;
    let ended = |cores: &[Core]| cores.iter().map(|core| core.works.move_tally().0.ended[0]).sum::<u64>();
    let over = |cores: &[Core]| {
        cores.iter().all(|core| {
            !core.works.attentive && core.works.moving.as_ref().is_none_or(|moving| moving.live.is_empty())
        })
    };
    loop {
        turns += 1;
        assert!(turns < TURNS_MAX, "seed {seed}: it does not end, after {} moves", ended(&cores));
        let now = Now::at(Mono(begin.mono.0 + turns * TURN_NANOS), 1_700_000_000_000);
        if turns > stalled_until && dice.below(2000) == 0 {
            (stalled, stalled_until) = (dice.below(CORES.into()), turns + dice.below(600));
        }
        let chosen = dice.below(CORES.into());
        if !(chosen == stalled && turns < stalled_until) {
            let core = &mut cores[chosen as usize];
            let had_left = has_left(core);
            core.ring.enter(false).expect("enters");
            core.turn(now);
            // Whoever has just handed a shard over may be slow to send on what still comes for it.
            if !had_left && has_left(core) && dice.below(3) == 0 {
                (stalled, stalled_until) = (chosen, turns + dice.below(600));
            }
        }
        let moving = ended(&cores) < MOVES;
        if moving && dice.below(150) == 0 {
            let shard = ShardId::new(SHARDS[dice.below(2) as usize]);
            let to = CoreId(dice.below(CORES.into()) as u16);
            // Most of them have nothing to do with it, and say so.
            let begun = cores.iter_mut().find_map(|core| core.works.begin_move(now, shard, to).ok());
            if let Some(id) = begun.filter(|_| dice.below(10) == 0) {
                assert_eq!(
                    cores.iter_mut().filter_map(|core| core.works.cancel_move(now, id).then_some(())).count(),
                    1
                );
            }
        }
        let i = dice.below(CLIENTS as u64) as usize;
        clients[i].receive();
        if rounds_after > 10 * CLIENTS {
            // Those who still wait for something get it.
            if clients.iter().all(|client| client.expected.is_empty()) {
                break;
            }
        } else if clients[i].expected.len() < EXPECTED_MAX {
            rounds_after += usize::from(!moving && over(&cores));
            let others: Vec<(String, u64)> = (0..3)
                .map(|_| {
                    let other = &clients[dice.below(CLIENTS as u64) as usize];
                    let key = &other.keys[dice.below(other.keys.len() as u64) as usize];
                    (key.clone(), other.acknowledged())
                })
                .collect();
            clients[i].send(&others);
        }
    }
    // Nothing is left of it, and all agree.
    for shard in SHARDS.map(ShardId::new) {
        let roles: Vec<Role> = cores
            .iter()
            .map(|core| core.works.moving.as_ref().expect("they moved").moves.role(shard))
            .collect();
        let owner = roles.iter().position(|role| *role == Role::Serve).expect("one serves");
        assert_eq!(
            roles.iter().filter(|role| **role == Role::Away).count(),
            usize::from(CORES) - 1,
            "{roles:?}"
        );
        for core in &mut cores {
            assert_eq!(core.works.routes.of(shard).index(), owner);
            assert_eq!(core.works.node.map.owner(shard).index(), owner);
            let items = core.works.engine.store_mut().shard_len(shard);
            let expected = if core.works.me.index() == owner { CLIENTS * KEYS } else { 0 };
            assert_eq!(items, expected as u64, "core {}", core.works.me.0);
        }
    }
    for core in &cores {
        let moving = core.works.moving.as_ref().expect("they moved");
        assert!(moving.fences.is_empty() && moving.departed.is_empty() && moving.relays.is_empty());
    }
    let tally = cores.iter().map(|core| *core.works.moving.as_ref().expect("they moved").moves.tally());
    let tally: Vec<_> = tally.collect();
    assert!(tally.iter().map(|tally| tally.forwarded).sum::<u64>() > 0, "no request met a switchover");
    assert_eq!(tally.iter().map(|tally| tally.digest_mismatches + tally.broken_streams).sum::<u64>(), 0);
}

thread_local! {
    /// Whether cores take a new way at once, without a fence.
    static CARELESS: Cell<bool> = const { Cell::new(false) };
}

pub(in crate::io::core) fn careless() -> bool {
    CARELESS.get()
}

#[test]
fn a_core_that_sends_no_fence_is_found_out() {
    let found_out = (1..=8).any(|seed| {
        let played = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            CARELESS.set(true);
            play(seed);
        });
        played.expect("an executor starts").join().is_err()
    });
    assert!(found_out, "clients saw nothing of it");
}

#[test]
fn connections_of_three_cores_see_every_count_in_order_while_shards_move() {
    for seed in [1, 2] {
        let played = glommio::LocalExecutorBuilder::default().spawn(move || async move { play(seed) });
        played.expect("an executor starts").join().expect("the test's own assertions");
    }
}
