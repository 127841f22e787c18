//! One lease, whichever protocol asks: what a client of one protocol holds, clients of the others see as taken, and a write
//! or removal by any of them loses it.

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{self, Engine};
use foreshadow::metrics::Counters;
use foreshadow::request::{Outcome, Request};
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::native::frame;
use foreshadow::wire::{self, Backend, Client, Protocol, Session, Target};
use foreshadow::{ids::Version, store};
use std::sync::Arc;

struct Alone {
    engine: Engine,
    now: Now,
}

impl Backend for Alone {
    fn call(&mut self, _: Target, request: &Request<'_>, _: u32) -> Option<Outcome<'_>> {
        Some(self.engine.execute(self.now, request))
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.engine.counters
    }

    fn called(&mut self, _: u8) {}
}

/// A core and a client of each protocol.
struct World {
    core: Alone,
    node: Node,
    resp: Session,
    memcached: Session,
    native: Session,
}

/// What a client that knows leases was told.
#[derive(Debug, PartialEq)]
enum Told {
    Hit(&'static str),
    /// The right to fill, and the old value if there is one.
    Won(Option<&'static str>),
    /// Somebody else has it.
    Taken(Option<&'static str>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Via {
    Resp,
    Memcached,
    Native,
}

const ALL: [Via; 3] = [Via::Resp, Via::Memcached, Via::Native];

impl World {
    fn new() -> World {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        let store =
            store::Options { memory_bytes_max: 8 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        let node = Node {
            run_id: "0".repeat(40),
            version: "0",
            process_id: 1,
            started: now,
            address: "127.0.0.1".parse().expect("valid"),
            port: 7400,
            core_ports: Vec::new(),
            cpus: vec![0],
            memory_bytes_max: 8 << 20,
            clients_max: 10,
            settings: Vec::new(),
            map: ShardMap::on_cores(1),
            cluster: None,
        };
        let [resp, memcached, native] =
            [Protocol::Resp, Protocol::Memcached, Protocol::Native].map(|protocol| {
                let options = wire::Options { protocol, ..wire::Options::default() };
                Session::new(Arc::new(options), Client::default())
            });
        let engine = Engine::new(engine::Options { store, seed: 1 });
        World { core: Alone { engine, now }, node, resp, memcached, native }
    }

    fn pass(&mut self, seconds: u64) {
        self.core.now.mono = self.core.now.mono.plus_millis(seconds * 1000);
        self.core.now.wall.0 += seconds * 1000;
        self.core.engine.tick(self.core.now);
    }

    fn say(&mut self, via: Via, bytes: &[u8]) -> Vec<u8> {
        let session = match via {
            Via::Resp => &mut self.resp,
            Via::Memcached => &mut self.memcached,
            Via::Native => &mut self.native,
        };
        let progress = session.serve(self.core.now, &self.node, bytes, &mut self.core);
        assert_eq!(progress.consumed, bytes.len(), "{}", String::from_utf8_lossy(bytes));
        std::mem::take(session.output())
    }

    /// A RESP command in words, the reply with bars for line ends.
    fn redis(&mut self, words: &[&str]) -> String {
        let mut bytes = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        String::from_utf8(self.say(Via::Resp, bytes.as_bytes())).unwrap().replace("\r\n", "|")
    }

    fn memcached(&mut self, line: &str) -> String {
        String::from_utf8(self.say(Via::Memcached, line.as_bytes())).unwrap()
    }

    fn native(&mut self, request: &frame::Request<'_>) -> (frame::Header, Vec<u8>) {
        let mut bytes = Vec::new();
        request.encode(1, false, &mut bytes);
        let reply = self.say(Via::Native, &bytes);
        let header = frame::Header::read(frame::MAGIC_REPLY, &reply).unwrap().unwrap();
        (header, reply[frame::HEADER_BYTES..].to_vec())
    }

    /// Asks for the key `k` as one who knows leases; a token with the right to fill.
    fn ask(&mut self, via: Via) -> (Told, u64) {
        let value = |text: &str| match text {
            "" => None,
            "old" => Some("old"),
            "new" => Some("new"),
            other => panic!("a value that nobody put: {other}"),
        };
        match via {
            Via::Resp => {
                let reply = self.redis(&["LEASEGET", "k", "EX", "10"]);
                let parts: Vec<&str> = reply.strip_prefix("*3|").unwrap().split('|').collect();
                let (state, rest) = (parts[1], &parts[2..]);
                let (token, rest) = match rest {
                    ["$-1", rest @ ..] => (None, rest),
                    [_, token, rest @ ..] => (Some(token.parse().unwrap()), rest),
                    _ => panic!("{reply}"),
                };
                let held = if rest[0] == "$-1" { None } else { value(rest[1]) };
                match (state, token) {
                    ("HIT", None) => (Told::Hit(held.unwrap()), 0),
                    ("MISS" | "STALE", Some(token)) => (Told::Won(held), token),
                    ("MISS" | "STALE", None) => (Told::Taken(held), 0),
                    _ => panic!("{reply}"),
                }
            }
            Via::Memcached => {
                let reply = self.memcached("mg k v c N10\r\n");
                let (line, block) = reply.split_once("\r\n").unwrap();
                let held = value(block.trim_end());
                let flags: Vec<&str> = line.split(' ').collect();
                let version = flags.iter().find_map(|flag| flag.strip_prefix('c')).unwrap().parse().unwrap();
                match (flags.contains(&"W"), flags.contains(&"Z")) {
                    (true, false) => (Told::Won(held), version),
                    (false, true) => (Told::Taken(held), 0),
                    _ => (Told::Hit(held.unwrap()), 0),
                }
            }
            Via::Native => {
                let request = frame::Request::LeaseGet { key: b"k", lease_millis: 10_000 };
                let (header, body) = self.native(&request);
                let version = u64::from_le_bytes(body[8..16].try_into().unwrap());
                let held = value(std::str::from_utf8(&body[frame::META_BYTES..]).unwrap());
                match header.detail {
                    0 => (Told::Hit(held.unwrap()), 0),
                    1 | 3 => (Told::Won(held), version),
                    4 | 6 => (Told::Taken(held), 0),
                    other => panic!("detail {other}"),
                }
            }
        }
    }

    /// Fills `k` by a token; whether it was taken.
    fn fill(&mut self, via: Via, token: u64, value: &str) -> bool {
        match via {
            Via::Resp => match &*self.redis(&["LEASESET", "k", &token.to_string(), value, "EX", "100"]) {
                "+OK|" => true,
                "$-1|" => false,
                other => panic!("{other}"),
            },
            Via::Memcached => {
                match &*self.memcached(&format!("ms k {} C{token} T100\r\n{value}\r\n", value.len())) {
                    "HD\r\n" => true,
                    "EX\r\n" | "NF\r\n" => false,
                    other => panic!("{other}"),
                }
            }
            Via::Native => {
                let meta = frame::Meta { ttl_millis: 100_000, version: Version(token), flags: 0 };
                let put = frame::Put {
                    key: b"k",
                    value: value.as_bytes(),
                    meta,
                    condition: frame::Condition::VersionIs,
                    keep_ttl: false,
                };
                match self.native(&frame::Request::LeasePut(put)).0.key_len_or_status {
                    0 => true,
                    5 => false,
                    other => panic!("status {other}"),
                }
            }
        }
    }

    fn plain_get(&mut self) -> [String; 2] {
        [self.redis(&["GET", "k"]), self.memcached("get k\r\n")]
    }
}

#[test]
fn a_lease_taken_in_one_protocol_is_honoured_in_the_others() {
    for giver in ALL {
        for filler in ALL {
            let mut world = World::new();
            let (told, token) = world.ask(giver);
            assert_eq!(told, Told::Won(None), "{giver:?}");
            for other in ALL {
                assert_eq!(world.ask(other).0, Told::Taken(None), "{other:?} after {giver:?}");
                assert!(!world.fill(other, token + 1, "old"), "a token that nobody was given");
            }
            assert_eq!(world.plain_get(), ["$-1|", "END\r\n"], "a place is no value");
            assert!(world.fill(filler, token, "new"), "{giver:?} gave it, {filler:?} fills");
            for other in ALL {
                assert_eq!(world.ask(other).0, Told::Hit("new"), "{other:?}");
                assert!(!world.fill(other, token, "old"), "a token fills once");
            }
            assert_eq!(world.plain_get(), ["$3|new|", "VALUE k 0 3\r\nnew\r\nEND\r\n"]);
            assert!(matches!(&*world.redis(&["TTL", "k"]), ":100|"));
        }
    }
}

#[test]
fn a_write_or_removal_by_any_protocol_loses_the_lease() {
    let deeds: [fn(&mut World); 8] = [
        |world| assert_eq!(world.redis(&["SET", "k", "new"]), "+OK|"),
        |world| assert_eq!(world.redis(&["DEL", "k"]), ":1|"),
        |world| assert_eq!(world.redis(&["LEASEDEL", "k"]), ":1|"),
        |world| assert_eq!(world.redis(&["LEASEDEL", "k", "STALE"]), ":1|"),
        |world| assert_eq!(world.memcached("set k 0 0 3\r\nnew\r\n"), "STORED\r\n"),
        |world| assert_eq!(world.memcached("delete k\r\n"), "DELETED\r\n"),
        |world| assert_eq!(world.memcached("md k I\r\n"), "HD\r\n"),
        |world| {
            let request = frame::Request::Invalidate { key: b"k", stale: false };
            assert_eq!(world.native(&request).0.key_len_or_status, 0);
        },
    ];
    for giver in ALL {
        for deed in deeds {
            let mut world = World::new();
            let (_, token) = world.ask(giver);
            deed(&mut world);
            let before = world.plain_get();
            for filler in ALL {
                assert!(!world.fill(filler, token, "old"), "{filler:?} fills by a lost lease of {giver:?}");
            }
            assert_eq!(world.plain_get(), before, "what came later stays");
        }
    }
}

#[test]
fn a_lease_that_nobody_uses_ends_by_itself() {
    for giver in ALL {
        let mut world = World::new();
        let (_, token) = world.ask(giver);
        world.pass(9);
        assert_eq!(world.ask(Via::Resp).0, Told::Taken(None));
        world.pass(2);
        for filler in ALL {
            assert!(!world.fill(filler, token, "old"), "{filler:?} after {giver:?}");
        }
        let (told, next) = world.ask(Via::Native);
        assert_eq!(told, Told::Won(None));
        assert!(next > token);
    }
}

#[test]
fn a_stale_item_is_served_while_one_client_refills_it() {
    let marks: [fn(&mut World); 3] = [
        |world| assert_eq!(world.redis(&["LEASEDEL", "k", "STALE"]), ":1|"),
        |world| assert_eq!(world.memcached("md k I\r\n"), "HD\r\n"),
        |world| {
            let request = frame::Request::Invalidate { key: b"k", stale: true };
            assert_eq!(world.native(&request).0.key_len_or_status, 0);
        },
    ];
    for mark in marks {
        for winner in ALL {
            let mut world = World::new();
            assert_eq!(world.redis(&["SET", "k", "old"]), "+OK|");
            mark(&mut world);
            let (told, token) = world.ask(winner);
            assert_eq!(told, Told::Won(Some("old")), "{winner:?}");
            for other in ALL {
                assert_eq!(world.ask(other).0, Told::Taken(Some("old")), "{other:?}");
            }
            assert_eq!(world.plain_get(), ["$3|old|", "VALUE k 0 3\r\nold\r\nEND\r\n"]);
            assert!(world.fill(winner, token, "new"));
            assert_eq!(world.ask(Via::Memcached).0, Told::Hit("new"));
        }
    }
}

#[test]
fn a_lease_is_given_back_by_its_token() {
    let mut world = World::new();
    let (_, token) = world.ask(Via::Resp);
    let given = token.to_string();
    assert_eq!(world.redis(&["LEASEDEL", "k", "TOKEN", &(token + 1).to_string()]), ":0|");
    assert_eq!(world.ask(Via::Native).0, Told::Taken(None), "another token gives nothing back");
    assert_eq!(world.redis(&["LEASEDEL", "k", "TOKEN", &given]), ":1|");
    assert_eq!(world.ask(Via::Memcached).0, Told::Won(None));
    assert_eq!(world.redis(&["LEASEDEL", "k", "TOKEN", &given, "STALE"]), ":0|", "it is another's now");
    assert_eq!(world.redis(&["LEASEDEL", "none"]), ":0|");
}

#[test]
fn leases_by_resp3_and_bad_words() {
    let mut world = World::new();
    assert!(world.redis(&["HELLO", "3"]).starts_with('%'));
    let won = world.redis(&["LEASEGET", "k", "PX", "600000"]);
    assert!(won.starts_with("*3|$4|MISS|$") && won.ends_with("|_|"), "{won}");
    assert_eq!(world.redis(&["LEASEGET", "k"]), "*3|$4|MISS|_|_|");
    assert_eq!(world.redis(&["LEASESET", "k", "999", "x"]), "_|");
    let token = won.split('|').nth(4).unwrap().to_owned();
    // The place's own end is not the value's.
    assert_eq!(world.redis(&["LEASESET", "k", &token, "", "KEEPTTL"]), "+OK|");
    assert_eq!(world.redis(&["TTL", "k"]), ":-1|");
    assert_eq!(world.redis(&["LEASEGET", "k"]), "*3|$3|HIT|_|$0||");
    let refused: [(&[&str], &str); 12] = [
        (&["LEASEGET"], "-ERR wrong number of arguments for 'leaseget' command|"),
        (&["LEASEGET", "k", "EX"], "-ERR syntax error|"),
        (&["LEASEGET", "k", "EXAT", "10"], "-ERR syntax error|"),
        (&["LEASEGET", "k", "EX", "0"], "-ERR invalid expire time in 'leaseget' command|"),
        (&["LEASEGET", "k", "EX", "601"], "-ERR invalid expire time in 'leaseget' command|"),
        (&["LEASEGET", "k", "EX", "x"], "-ERR value is not an integer or out of range|"),
        (&["LEASESET", "k", "x", "v"], "-ERR invalid lease token|"),
        (&["LEASESET", "k", "1", "v", "NX"], "-ERR syntax error|"),
        (&["LEASESET", "k", "1", "v", "EX", "0"], "-ERR invalid expire time in 'leaseset' command|"),
        (&["LEASEDEL", "k", "TOKEN"], "-ERR syntax error|"),
        (&["LEASEDEL", "k", "TOKEN", "-1"], "-ERR invalid lease token|"),
        (&["LEASEDEL", "k", "STALE", "STALE"], "-ERR syntax error|"),
    ];
    for (words, expected) in refused {
        assert_eq!(world.redis(words), expected, "{words:?}");
    }
    assert_eq!(world.redis(&["GET", "k"]), "$0||", "nothing of that changed anything");
}
