//! Whole sessions against a model of the world behind: hash maps, one per core, that answer at once or later.

mod escapes;

use super::*;
use crate::clock::{Mono, Wall};
use crate::hash::crc16;
use crate::ids::{ConnectionId, CoreId, Version};
use crate::metrics::Counters;
use crate::request::*;
use crate::topology::ShardMap;
use crate::wire::users::Users;
use escapes::{escape, unescape};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::Index;
use std::collections::{HashMap, VecDeque};

const NOW: Now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000) };

fn node(cores: usize) -> Node {
    Node {
        run_id: "0123456789abcdef0123456789abcdef01234567".into(),
        version: "0.1.0",
        process_id: 4711,
        started: Now { mono: Mono(NOW.mono.0 - 90 * Mono::NANOS_PER_SECOND), wall: Wall(0) },
        address: "127.0.0.1".parse().unwrap(),
        port: 7400,
        core_ports: Vec::new(),
        cpus: (0..cores).collect(),
        memory_bytes_max: 1 << 30,
        clients_max: 10_000,
        settings: Vec::new(),
        map: ShardMap::on_cores(cores as u16),
        cluster: None,
    }
}

#[derive(Clone)]
struct Held {
    value: Vec<u8>,
    flags: u32,
    version: Version,
    expiry: Expiry,
    stale: bool,
    leased: bool,
    used: bool,
    binary_key: bool,
}

/// One core's items, with memcached's rules for versions and leases.
struct Model {
    items: HashMap<Vec<u8>, Held>,
    sequence: u64,
}

impl Default for Model {
    fn default() -> Model {
        // Well above the versions that vectors give.
        Model { items: HashMap::new(), sequence: 100_000 }
    }
}

impl Model {
    fn alive(&mut self, key: &[u8]) -> Option<&mut Held> {
        if matches!(self.items.get(key)?.expiry, Expiry::At(at) if at <= NOW.mono) {
            self.items.remove(key);
        }
        self.items.get_mut(key)
    }

    fn refusal(&mut self, key: &[u8], condition: Condition) -> Option<Refusal> {
        let found = self.alive(key).map(|held| held.version);
        match (condition, found) {
            (Condition::Always, _) | (Condition::Absent, None) => None,
            (Condition::Present | Condition::Held, Some(_)) => None,
            (Condition::Absent, Some(_)) => Some(Refusal::Present),
            (Condition::VersionIs(wanted), Some(found)) if wanted == found => None,
            (Condition::VersionIsOrStale(wanted), Some(found)) if wanted <= found => None,
            (Condition::VersionIs(_) | Condition::VersionIsOrStale(_), Some(_)) => Some(Refusal::Version),
            (_, None) => Some(Refusal::Absent),
        }
    }

    fn new_version(&mut self, given: Option<Version>) -> Version {
        self.sequence += 1;
        given.unwrap_or(Version(self.sequence))
    }

    fn write(&mut self, key: &[u8], held: Held) -> Answer {
        let (version, len) = (held.version, held.value.len() as u32);
        let replaced = self.items.insert(key.to_vec(), held).is_some();
        Answer::Stored { version, replaced, len }
    }

    fn execute(&mut self, request: &Request<'_>, counters: &Counters) -> (Answer, Vec<u8>) {
        let key = request.key;
        let (empty, changed) = (Vec::new(), |old, change| match change {
            ExpiryChange::Keep => old,
            ExpiryChange::Set(new) => new,
        });
        let item = |held: &Held, lease| Item {
            flags: held.flags,
            len: held.value.len() as u32,
            version: held.version,
            expiry: held.expiry,
            lease,
            used: held.used,
            idle_seconds: 0,
            binary_key: held.binary_key,
        };
        match request.verb {
            Verb::Get | Verb::Peek => match self.alive(key) {
                None => (Answer::Miss, empty),
                Some(held) => {
                    let answer = Answer::Item(item(held, Lease::default()));
                    held.used |= request.verb == Verb::Get;
                    (answer, held.value.clone())
                }
            },
            Verb::Fetch(fetch) => {
                if self.alive(key).is_none() {
                    let Some(expiry) = fetch.vivify else { return (Answer::Miss, empty) };
                    let version = self.new_version(fetch.version);
                    let held = Held {
                        value: vec![],
                        flags: 0,
                        version,
                        expiry,
                        stale: false,
                        leased: true,
                        used: false,
                        binary_key: false,
                    };
                    let answer = Answer::Item(item(&held, Lease { won: true, ..Lease::default() }));
                    self.items.insert(key.to_vec(), held);
                    return (answer, empty);
                }
                let held = self.alive(key).unwrap();
                let ends_soon =
                    matches!((held.expiry, fetch.refill_before), (Expiry::At(end), Some(at)) if end < at);
                let won = !held.leased && (held.stale || ends_soon);
                let lease = Lease { won, stale: held.stale, taken: held.leased };
                held.leased |= won;
                held.expiry = changed(held.expiry, fetch.expiry);
                let answer = Answer::Item(item(held, lease));
                held.used |= fetch.warm;
                (answer, held.value.clone())
            }
            Verb::Put(put) => {
                if let Some(refusal) = self.refusal(key, put.condition) {
                    return (Answer::Refused(refusal), empty);
                }
                let stale = match put.condition {
                    Condition::VersionIsOrStale(wanted) => self.items[key].version > wanted,
                    _ => false,
                };
                let version = self.new_version(put.version);
                let ExpiryChange::Set(expiry) = put.expiry else { panic!("memcached never keeps an expiry") };
                let value = request.value.to_vec();
                let held = Held {
                    value,
                    flags: put.flags,
                    version,
                    expiry,
                    stale,
                    leased: false,
                    used: false,
                    binary_key: put.binary_key,
                };
                (self.write(key, held), empty)
            }
            Verb::Splice(splice) => {
                let Some(old) = self.alive(key).cloned() else {
                    let Some(expiry) = splice.create else {
                        return (Answer::Refused(Refusal::Absent), empty);
                    };
                    let version = self.new_version(splice.version);
                    let value = request.value.to_vec();
                    let held = Held {
                        value,
                        flags: splice.flags,
                        version,
                        expiry,
                        stale: false,
                        leased: false,
                        used: false,
                        binary_key: splice.binary_key,
                    };
                    return (self.write(key, held), empty);
                };
                if let Some(refusal) = self.refusal(key, splice.condition) {
                    return (Answer::Refused(refusal), empty);
                }
                let value = match splice.front {
                    true => [request.value, &old.value].concat(),
                    false => [&old.value, request.value].concat(),
                };
                let version = self.new_version(splice.version);
                (self.write(key, Held { value, version, binary_key: false, ..old }), empty)
            }
            Verb::Count(count) => {
                let Some(old) = self.alive(key).cloned() else {
                    let Some((number, expiry)) = count.create else {
                        return (Answer::Refused(Refusal::Absent), empty);
                    };
                    let version = self.new_version(count.version);
                    let value = number.to_string().into_bytes();
                    let held = Held {
                        value,
                        flags: 0,
                        version,
                        expiry,
                        stale: false,
                        leased: false,
                        used: false,
                        binary_key: false,
                    };
                    let answer = Answer::Counted { number, item: item(&held, Lease::default()) };
                    self.items.insert(key.to_vec(), held);
                    return (answer, empty);
                };
                if let Some(refusal) = self.refusal(key, count.condition) {
                    return (Answer::Refused(refusal), empty);
                }
                let text = String::from_utf8_lossy(&old.value).trim().to_string();
                let Ok(number) = text.parse::<u64>() else {
                    return (Answer::Fault(Fault::NotInteger), empty);
                };
                let number = match count.by {
                    Step::Up(delta) => number.wrapping_add(delta),
                    Step::Down(delta) => number.saturating_sub(delta),
                    Step::Signed(_) => panic!("not memcached's"),
                };
                let version = self.new_version(count.version);
                let value = format!("{number:<0$}", old.value.len()).into_bytes();
                let binary_key = old.binary_key && value.len() <= old.value.len();
                let held =
                    Held { value, version, expiry: changed(old.expiry, count.expiry), binary_key, ..old };
                let answer = Answer::Counted { number, item: item(&held, Lease::default()) };
                self.items.insert(key.to_vec(), held);
                (answer, empty)
            }
            Verb::Remove(remove) => {
                if self.alive(key).is_none() {
                    return (Answer::Miss, empty);
                }
                if let Some(refusal) = self.refusal(key, remove.condition) {
                    return (Answer::Refused(refusal), empty);
                }
                if !remove.stale && !remove.clear {
                    let version = self.items.remove(key).unwrap().version;
                    return (Answer::Removed { version }, empty);
                }
                let version = self.new_version(remove.version);
                let held = self.alive(key).unwrap();
                held.version = version;
                held.expiry = changed(held.expiry, remove.expiry);
                if remove.stale {
                    (held.stale, held.leased) = (true, false);
                }
                if remove.clear {
                    held.value.clear();
                    (held.flags, held.binary_key) = (0, false);
                }
                (Answer::Removed { version }, empty)
            }
            Verb::Expire(expire) => match self.alive(key) {
                None => (Answer::Miss, empty),
                Some(held) => {
                    held.expiry = expire.expiry;
                    (Answer::Touched(item(held, Lease::default())), empty)
                }
            },
            Verb::Flush { at } => {
                if at <= NOW.mono {
                    self.items.clear();
                }
                (Answer::Number(0), empty)
            }
            Verb::Counters => {
                let counters = Counters { items: self.items.len() as u64, ..counters.clone() };
                (Answer::Page { cursor: 0 }, [counters.to_bytes(), b"more behind".to_vec()].concat())
            }
            Verb::Connections => {
                let line = b"id=7 addr=1.2.3.4:5 laddr=127.0.0.1:7400 name= age=3 idle=2 flags=N\n".to_vec();
                (Answer::Page { cursor: 0 }, line)
            }
            Verb::ResetCounters | Verb::Watch { .. } => (Answer::Number(0), empty),
            verb => panic!("memcached does not ask for {verb:?}"),
        }
    }
}

/// Several cores; those but the first answer later if `defers`.
struct World {
    cores: Vec<Model>,
    counters: Counters,
    defers: bool,
    /// Outcomes on their way, in each core's own order.
    pending: Vec<VecDeque<(u32, Answer, Vec<u8>)>>,
    answered: Vec<u8>,
    calls: usize,
    fault: Option<Fault>,
}

impl World {
    fn new(cores: usize, defers: bool) -> World {
        World {
            cores: (0..cores).map(|_| Model::default()).collect(),
            counters: Counters::default(),
            defers,
            pending: vec![VecDeque::new(); cores],
            answered: Vec::new(),
            calls: 0,
            fault: None,
        }
    }
}

impl Backend for World {
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>> {
        self.calls += 1;
        assert!(request.key.len() <= 250);
        let core = match target {
            Target::Here => 0,
            Target::Core(core) => core.index(),
            Target::Owner => {
                assert!(!request.key.is_empty());
                crc16(request.key) as usize % self.cores.len()
            }
        };
        let (answer, value) = match self.fault {
            Some(fault) => (Answer::Fault(fault), Vec::new()),
            None => self.cores[core].execute(request, &self.counters),
        };
        if self.defers && core > 0 {
            self.pending[core].push_back((ticket, answer, value));
            return None;
        }
        self.answered = value;
        Some(Outcome { answer, value: Value::One(&self.answered) })
    }

    fn ready(&self) -> bool {
        self.pending.iter().map(VecDeque::len).sum::<usize>() < 64
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn called(&mut self, _command: u8) {}

    fn observer(&self) -> Option<Observer> {
        let connection = ConnectionId { place: 4, generation: 1 };
        Some(Observer { core: CoreId(0), connection })
    }
}

/// A session, its world and what came out so far.
struct Talk {
    session: Memcached,
    world: World,
    node: Node,
    /// Bytes sent that are not done with.
    unread: Vec<u8>,
    /// Bytes that calling makes sense with.
    wanted: usize,
    unread_max: usize,
    out: Output,
    closed: Option<Reason>,
    /// Dice for the order in which outcomes come.
    dice: u64,
}

impl Talk {
    fn with(options: Options, world: World) -> Talk {
        let node = node(world.cores.len());
        let session = Memcached::new(Arc::new(options.clone()), Badge::new(options.users, "10.0.0.1:1"));
        let (unread, out) = (Vec::new(), Output::default());
        Talk { session, world, node, unread, wanted: 1, unread_max: 0, out, closed: None, dice: 1 }
    }

    fn new() -> Talk {
        Talk::with(Options::default(), World::new(1, false))
    }

    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dice >> 33
    }

    /// Delivers one outcome of a core picked by dice; false if there is none.
    fn deliver(&mut self) -> bool {
        let busy: Vec<usize> =
            (0..self.world.pending.len()).filter(|&core| !self.world.pending[core].is_empty()).collect();
        if busy.is_empty() {
            return false;
        }
        let core = busy[self.roll() as usize % busy.len()];
        let (ticket, answer, value) = self.world.pending[core].pop_front().unwrap();
        let outcome = Outcome { answer, value: Value::One(&value) };
        self.session.complete(NOW, &self.node, ticket, &outcome, &mut self.out);
        true
    }

    fn send(&mut self, bytes: &[u8]) -> &mut Talk {
        self.unread.extend_from_slice(bytes);
        while self.closed.is_none() && self.unread.len() >= self.wanted {
            let progress = self.session.serve(NOW, &self.node, &self.unread, &mut self.world, &mut self.out);
            assert!(progress.consumed <= self.unread.len());
            self.unread.drain(..progress.consumed);
            self.wanted = 0;
            match progress.next {
                Next::More { at_least } => {
                    assert!(at_least > self.unread.len(), "asked for bytes it has");
                    self.wanted = at_least;
                }
                Next::Yield => assert!(!self.unread.is_empty(), "yields with nothing to do"),
                Next::Blocked => assert!(self.deliver(), "blocked, and nothing is awaited"),
                Next::Close(reason) => self.closed = Some(reason),
            }
        }
        self.unread_max = self.unread_max.max(self.unread.len());
        self
    }

    /// Everything that came out, once nothing is awaited any more.
    fn replies(&mut self) -> Vec<u8> {
        while self.deliver() {}
        assert_eq!((self.session.awaited(), self.session.held_bytes()), (0, 0));
        self.out.take_all()
    }

    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.send(bytes.as_ref());
        escape(&self.replies())
    }
}

/// Sent, answered, closed.
fn vectors() -> Vec<(Vec<u8>, String, bool)> {
    let mut lines = include_str!("vectors.txt").lines().filter(|line| line.starts_with(['>', '<']));
    let mut all = Vec::new();
    while let (Some(sent), Some(got)) = (lines.next(), lines.next()) {
        let got = got.strip_prefix("< ").unwrap();
        let (got, closed) = match got.strip_suffix(" (closed)") {
            Some(got) => (got, true),
            None => (got, false),
        };
        all.push((unescape(sent.strip_prefix("> ").unwrap()), got.to_string(), closed));
    }
    assert!(all.len() > 60);
    all
}

#[test]
fn answers_are_those_of_memcached() {
    let mut wrong = Vec::new();
    for (sent, expected, closed) in vectors() {
        let mut talk = Talk::new();
        let got = talk.ask(&sent);
        if got != expected || talk.closed.is_some() != closed {
            wrong.push(format!("\n sent {}\n memcached {expected}\n us        {got}", escape(&sent)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn where_we_differ_from_memcached() {
    let cases = [
        // A key with control characters is refused: it could not be told from a broken line.
        ("get a\tb\r\nget a\x00b\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("set a\tb 0 0 1\r\nx\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        // Flags that do not fit are refused instead of cut off.
        ("set a 4294967296 0 1\r\nx\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        // The block of a refused command is swallowed, here and whenever its length is known.
        ("ms a 3 !\r\nabc\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        // One error for a get with a key that is too long, without an empty line behind it.
        ("get a %K b\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        // What no client sends is no reason to delete: `memcapable` wants the error of older releases.
        (
            "delete a b c d e\r\nmn\r\n",
            "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
        ),
        // Silence is silence, even if the length is no length.
        ("set a 0 0 -1 noreply\r\nmn\r\n", ""),
        // Bad base64 is an error for every meta command.
        ("me !! b\r\nmn\r\n", "CLIENT_ERROR error decoding key\r\n"),
        // There are no slab classes, watchers, crawlers, and the memory limit stands.
        ("slabs automove 1\r\nmn\r\n", "CLIENT_ERROR slab reassignment disabled\r\n"),
        ("slabs reassign 1 2\r\nmn\r\n", "CLIENT_ERROR slab reassignment disabled\r\n"),
        ("lru_crawler metadump all\r\nmn\r\n", "CLIENT_ERROR lru crawler disabled\r\n"),
        ("watch proxyreqs\r\nmn\r\n", "CLIENT_ERROR there are no events of this kind here\r\n"),
        ("lru mode flat\r\nmn\r\n", "ERROR\r\n"),
        ("stats cachedump a b\r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("stats cachedump 64 0\r\nmn\r\n", "CLIENT_ERROR Illegal slab id\r\n"),
        ("stats sizes_enable\r\nmn\r\n", "ERROR\r\n"),
        ("refresh_certs\r\nmn\r\n", "Error TLS not enabled\r\n"),
        (" \r\nmn\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("  \r\nmn\r\n", "ERROR\r\n"),
        ("cache_memlimit 64\r\nmn\r\n", "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n"),
    ];
    for (sent, expected) in cases {
        let sent = sent.replace("%K", &"K".repeat(251));
        let got = Talk::new().ask(&sent);
        let expected = match sent.matches("get ").count() {
            2 => expected.repeat(2),
            _ => expected.to_string(),
        };
        assert_eq!(got, escape(format!("{expected}MN\r\n").as_bytes()), "{sent}");
    }
}

#[test]
fn who_watches_is_shown_lines_and_told_how_many_it_missed() {
    for defers in [false, true] {
        let mut talk = Talk::with(Options::default(), World::new(3, defers));
        let batch = |dropped: u64, lines: &str| [&dropped.to_le_bytes()[..], lines.as_bytes()].concat();
        let shown = |talk: &mut Talk, batch: &[u8]| {
            let before = talk.out.len();
            talk.session.show(batch, &mut talk.out);
            String::from_utf8(talk.out[before..].to_vec()).unwrap()
        };
        assert_eq!(shown(&mut talk, &batch(0, "early\n")), "", "it does not watch");
        talk.send(b"watch fetchers mutations\r\n");
        assert_eq!(shown(&mut talk, &batch(3, "early\n")), if defers { "" } else { "skipped=3\nearly\n" });
        while talk.deliver() {}
        assert!(talk.session.watches() && !talk.session.midway());
        assert!(talk.out.starts_with(b"OK\r\n"));
        assert_eq!(shown(&mut talk, &batch(0, "a\nb\n")), "a\nb\n");
        // What the client says from now on is not listened to.
        let before = talk.out.len();
        talk.send(b"version\r\nno line");
        assert_eq!((talk.out.len(), talk.unread.len()), (before, 0));
        // It takes nothing: what finds no room is counted, and told when there is room.
        let long = "x\n".repeat(WATCHED_BYTES_MAX / 2 - 100);
        assert_eq!(shown(&mut talk, &batch(0, &long)), long);
        assert_eq!(shown(&mut talk, &batch(5, &"y\n".repeat(200))), "");
        talk.out.clear();
        assert_eq!(shown(&mut talk, &batch(2, "z\n")), "skipped=207\nz\n");
        assert_eq!(shown(&mut talk, &batch(0, "z\n")), "z\n");
        // What was counted while the client was served is there already.
        let mut counters = talk.world.counters.clone();
        talk.session.settle(&mut counters);
        let sent = if defers { 0 } else { 1 } + 2 + long.len() as u64 / 2 + 2;
        let skipped = if defers { 207 } else { 210 };
        assert_eq!((counters.watch_lines_sent_total, counters.watch_lines_skipped_total), (sent, skipped));
    }
}

#[test]
fn one_watcher_too_many_is_told_and_goes_on() {
    for defers in [false, true] {
        let mut world = World::new(3, defers);
        world.fault = Some(Fault::Busy);
        let mut talk = Talk::with(Options::default(), world);
        talk.send(b"watch\r\n");
        talk.send(b"mn\r\n");
        while talk.deliver() {}
        talk.send(b"mn\r\n");
        while talk.deliver() {}
        assert_eq!(escape(&talk.out), escape(b"WATCHER_TOO_MANY log watcher limit reached\r\nMN\r\nMN\r\n"));
        assert!(!talk.session.watches());
        talk.session.show(&[0; 9], &mut talk.out);
        assert!(talk.out.ends_with(b"MN\r\n"));
    }
    let mut talk = Talk::new();
    assert_eq!(talk.ask("watch fetchers bogus\r\nmn\r\n"), escape(b"ERROR\r\nMN\r\n"));
}

/// All vectors that do not end the connection, one after the other.
fn one_long_stream() -> Vec<u8> {
    vectors().into_iter().filter(|(_, _, closed)| !closed).flat_map(|(sent, _, _)| sent).collect()
}

#[test]
fn any_cut_of_a_session_gives_the_same_answers() {
    for (sent, expected, _) in vectors() {
        for cut in 1..sent.len() {
            let mut talk = Talk::new();
            talk.send(&sent[..cut]).send(&sent[cut..]);
            assert_eq!(escape(&talk.replies()), expected, "{} cut at {cut}", escape(&sent));
        }
    }
    let stream = one_long_stream();
    let whole = Talk::new().ask(&stream);
    let mut talk = Talk::new();
    for byte in &stream {
        talk.send(std::slice::from_ref(byte));
    }
    assert_eq!(escape(&talk.replies()), whole);
}

#[test]
fn a_get_of_a_hundred_thousand_keys_is_taken_key_by_key() {
    let mut talk = Talk::new();
    talk.ask(b"set key-00007 3 0 5\r\nseven\r\nset key-99999 0 0 4\r\nlast\r\n");
    let mut line = b"gets".to_vec();
    (0..100_000).for_each(|i| line.extend_from_slice(format!(" key-{i:05}").as_bytes()));
    line.extend_from_slice(b"\r\nmn\r\n");
    for packet in line.chunks(1400) {
        talk.send(packet);
    }
    let expected = "VALUE key-00007 3 5 100001\\r\\nseven\\r\\nVALUE key-99999 0 4 100002\\r\\nlast\\r\\nEND\\r\\nMN\\r\\n";
    assert_eq!(escape(&talk.replies()), expected);
    assert_eq!(talk.world.calls, 100_002);
    assert_eq!(talk.world.counters.commands_total, 100_003);
    assert!(talk.unread_max <= LINE_BYTES_MAX + 2, "{} bytes waited", talk.unread_max);
}

#[test]
fn a_long_get_keeps_to_its_turns_and_to_the_room_for_replies() {
    let options = Options { commands_per_turn: 10, output_soft_bytes: 300, ..Options::default() };
    let mut talk = Talk::with(options, World::new(1, false));
    talk.ask(b"set k 0 0 10\r\n0123456789\r\n");
    let line = [b"get".to_vec(), b" k".repeat(5000), b"\r\n".to_vec()].concat();
    let (mut at, mut replies, mut turns) = (0, 0, 0);
    loop {
        let calls = talk.world.calls;
        let progress = talk.session.serve(NOW, &talk.node, &line[at..], &mut talk.world, &mut talk.out);
        at += progress.consumed;
        turns += 1;
        assert!(talk.world.calls - calls <= 10);
        assert!(talk.out.len() < 300 + 40);
        if progress.next == Next::Blocked {
            assert!(talk.out.len() >= 300);
            replies += talk.out.len();
            talk.out.clear();
        } else if progress.next != Next::Yield {
            break;
        }
    }
    assert_eq!(at, line.len());
    assert_eq!(replies + talk.out.len(), 5000 * "VALUE k 0 10\r\n0123456789\r\n".len() + "END\r\n".len());
    assert!(turns > 500);
}

#[test]
fn gat_may_be_long_and_changes_every_expiry() {
    let mut talk = Talk::new();
    talk.ask(b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\n");
    let line = [b"gat 60 a".to_vec(), b" nope".repeat(1000), b" b\r\n".to_vec()].concat();
    assert_eq!(talk.ask(&line), "VALUE a 0 1\\r\\nx\\r\\nVALUE b 0 1\\r\\ny\\r\\nEND\\r\\n");
    assert_eq!(talk.ask(b"mg a t\r\nmg b t\r\n"), "HD t60\\r\\nHD t60\\r\\n");
    let line = [b"gats soon a".to_vec(), b" nope".repeat(1000), b" b\r\nmn\r\n".to_vec()].concat();
    assert_eq!(talk.ask(&line), "CLIENT_ERROR invalid exptime argument\\r\\nMN\\r\\n");
    assert_eq!(talk.world.counters.touch_hits_total, 2);
    assert_eq!(talk.world.counters.touch_misses_total, 1000);
}

#[test]
fn a_bad_key_in_a_long_get_ends_that_line_only() {
    for bad in ["K".repeat(251), "a\tb".into(), "K".repeat(5000)] {
        let mut talk = Talk::new();
        talk.ask(b"set a 0 0 1\r\nx\r\n");
        let line = format!("get a{} {bad} a{}\r\nmn\r\n", " n".repeat(2000), " a".repeat(2000));
        let got = talk.ask(&line);
        assert_eq!(got, "VALUE a 0 1\\r\\nx\\r\\nCLIENT_ERROR bad command line format\\r\\nMN\\r\\n");
    }
}

#[test]
fn a_long_line_that_is_no_get_closes() {
    for line in [
        vec![b'x'; 5000],
        [b"set ".to_vec(), vec![b'k'; 5000]].concat(),
        [b"mg a".to_vec(), b" k".repeat(2000), b"\r\nmn\r\n".to_vec()].concat(),
    ] {
        let mut talk = Talk::new();
        assert_eq!(talk.ask(&line), "CLIENT_ERROR line too long\\r\\n");
        assert_eq!(talk.closed, Some(Reason::Protocol));
        assert_eq!(talk.world.calls, 0);
    }
}

#[test]
fn a_value_over_the_limit_is_swallowed_and_the_old_one_is_gone() {
    let options = Options { memcached_value_bytes_max: 1000, ..Options::default() };
    let large = [vec![b'v'; 1_000_000], b"\r\n".to_vec()].concat();
    let cases = [
        ("set a 0 0 1000000", "SERVER_ERROR object too large for cache\\r\\n", true),
        ("set a 0 0 1000000 noreply", "", true),
        ("ms a 1000000 q", "SERVER_ERROR object too large for cache\\r\\n", true),
        ("add a 0 0 1000000", "SERVER_ERROR object too large for cache\\r\\n", false),
        ("append a 0 0 1000000 noreply", "", false),
    ];
    for (line, expected, gone) in cases {
        let mut talk = Talk::with(options.clone(), World::new(1, false));
        talk.ask(b"set a 0 0 3\r\nold\r\n");
        talk.send(format!("{line}\r\n").as_bytes());
        large.chunks(1400).for_each(|packet| {
            talk.send(packet);
        });
        let left = if gone { "END\\r\\n" } else { "VALUE a 0 3\\r\\nold\\r\\nEND\\r\\n" };
        assert_eq!(talk.ask(b"get a\r\n"), format!("{expected}{left}"), "{line}");
        assert_eq!(talk.unread_max, 0, "nothing of the block may wait");
        assert_eq!(talk.world.counters.silent_errors_total, u64::from(expected.is_empty()));
    }
    let mut talk = Talk::with(options, World::new(1, false));
    let exact = format!("set a 0 0 1000\r\n{}\r\n", "v".repeat(1000));
    assert_eq!(talk.ask(exact), "STORED\\r\\n");
}

#[test]
fn a_failing_noreply_is_silent_and_counted() {
    let mut talk = Talk::new();
    let bad =
        "incr s x noreply\r\nincr s 1 noreply\r\nset s x 0 1 noreply\r\ny\r\nset s 0 0 1 noreply\r\nyyy\r\n";
    talk.ask(b"set s 0 0 1\r\nx\r\n");
    // The byte behind the bad chunk is a line of its own, and that line did not ask for silence.
    assert_eq!(talk.ask(bad), "CLIENT_ERROR bad command line format\\r\\n");
    assert_eq!(talk.ask(b"get s\r\n"), "VALUE s 0 1\\r\\nx\\r\\nEND\\r\\n");
    assert_eq!(talk.world.counters.silent_errors_total, 4);
    assert_eq!(talk.world.counters.errors_total, 5);
}

#[test]
fn faults_have_words_and_a_get_forgets_instead() {
    let mut talk = Talk::new();
    talk.world.fault = Some(Fault::OutOfMemory);
    assert_eq!(talk.ask(b"set a 0 0 1\r\nx\r\n"), "SERVER_ERROR out of memory storing object\\r\\n");
    assert_eq!(talk.ask(b"get a b\r\n"), "END\\r\\n");
    assert_eq!(talk.ask(b"mg a v q\r\n"), "SERVER_ERROR out of memory storing object\\r\\n");
    assert_eq!(talk.ask(b"flush_all\r\nmn\r\n"), "SERVER_ERROR out of memory storing object\\r\\nMN\\r\\n");
    talk.world.fault = Some(Fault::Busy);
    assert_eq!(
        talk.ask(b"delete a\r\ntouch a 1\r\nincr a 1 noreply\r\n"),
        "SERVER_ERROR busy\\r\\n".repeat(2)
    );
    assert_eq!(talk.ask(b"\r\n"), "CLIENT_ERROR bad command line format\\r\\n");
    assert_eq!(talk.world.counters.errors_total, 9);
}

#[test]
fn nothing_but_the_password_opens_a_guarded_session() {
    let options = Options { users: Arc::new(Users::with_password(Some("sesame"))), ..Options::default() };
    let mut talk = Talk::with(options.clone(), World::new(1, false));
    let cases = [
        ("get a\r\n", "CLIENT_ERROR unauthenticated\\r\\n"),
        ("version\r\n", "CLIENT_ERROR unauthenticated\\r\\n"),
        ("set x 0 0 -1\r\n", "CLIENT_ERROR unauthenticated\\r\\n"),
        ("set x 0 0 14\r\ndefault sesama\r\n", "CLIENT_ERROR authentication failure\\r\\n"),
        ("set x 0 0 15\r\ndefault sesamee\r\n", "CLIENT_ERROR authentication failure\\r\\n"),
        ("set x 0 0 8\r\ndefault \r\n", "CLIENT_ERROR authentication failure\\r\\n"),
        ("set x 0 0 11\r\nroot sesame\r\n", "CLIENT_ERROR authentication failure\\r\\n"),
        ("set x 0 0 6\r\nsesame\r\n", "CLIENT_ERROR bad authentication token format\\r\\n"),
        ("set x 0 0 14\r\ndefault sesamexx", "CLIENT_ERROR bad command line termination\\r\\n"),
    ];
    for (sent, expected) in cases {
        assert_eq!(talk.ask(sent), expected, "{sent}");
        assert!(!talk.session.authenticated());
    }
    assert_eq!(talk.world.calls, 0);
    talk.send(b"set x 0 0 14\r\ndefault ");
    assert_eq!(talk.ask(b"sesame\r\nset a 0 0 1\r\nx\r\n"), "STORED\\r\\nSTORED\\r\\n");
    assert!(talk.session.authenticated());
    assert_eq!(talk.world.counters.auth_attempts_total, 6);
    assert_eq!(talk.world.counters.auth_failures_total, 4);

    let too_much = [
        ("set x 0 0 20000\r\n".to_string(), Reason::Unauthenticated),
        ("get a b c d e f g h i j k\r\n".into(), Reason::Unauthenticated),
        (format!("get {}\r\n", "k ".repeat(3000)), Reason::Protocol),
        ("quit\r\n".into(), Reason::Quit),
        ("get a\r\n".repeat(5000), Reason::Unauthenticated),
    ];
    for (sent, reason) in too_much {
        let mut talk = Talk::with(options.clone(), World::new(1, false));
        talk.send(sent.as_bytes());
        assert_eq!((talk.closed, talk.world.calls), (Some(reason), 0), "{:.40}", sent);
        assert!(talk.out.len() < 64 * 1024 + 100);
    }
}

#[test]
fn version_and_stats_speak_of_all_cores() {
    let mut talk = Talk::with(Options::default(), World::new(3, true));
    assert_eq!(talk.ask(b"version\r\n"), "VERSION 1.6.45 foreshadow 0.1.0\\r\\n");
    for i in 0..50 {
        talk.ask(format!("set key{i} 0 0 1\r\nx\r\n"));
    }
    talk.ask(b"incr nope 1\r\ndelete nope\r\ntouch nope 1\r\ncas nope 0 0 1 1\r\nx\r\nflush_all 10\r\n");
    talk.send(b"stats\r\nmn\r\n");
    let general = String::from_utf8(talk.replies()).unwrap();
    for line in [
        "pid 4711",
        "uptime 90",
        "time 1700000000",
        "curr_items 50",
        "threads 3",
        "limit_maxbytes 1073741824",
    ] {
        assert!(general.contains(&format!("STAT {line}\r\n")), "{line} in {general}");
    }
    for name in ["incr_misses", "delete_misses", "touch_misses", "cas_misses", "cmd_flush"] {
        // The model answers with the same counters for each of three cores.
        assert!(general.contains(&format!("STAT {name} 3\r\n")), "{name} in {general}");
    }
    assert!(general.ends_with("END\r\nMN\r\n"));
    assert!(
        general.lines().rev().skip(2).all(|line| line.split(' ').count() == 3 && line.starts_with("STAT "))
    );
    let settings = talk.ask(b"stats settings\r\n");
    assert!(
        settings.contains("STAT item_size_max 1048576\\r\\n") && settings.contains("STAT tcpport 7400\\r\\n")
    );
    assert!(talk.ask(b"stats items\r\n").contains("STAT items:1:number 50\\r\\n"));
    assert!(talk.ask(b"stats slabs\r\n").contains("STAT active_slabs 1\\r\\n"));
    let connections = talk.ask(b"stats conns\r\n");
    assert_eq!(connections.matches("STAT 7:addr tcp:1.2.3.4:5\\r\\n").count(), 3);
    assert!(connections.contains("STAT 7:secs_since_last_cmd 2\\r\\n") && connections.ends_with("END\\r\\n"));
    assert_eq!(talk.ask(b"stats reset\r\n"), "RESET\\r\\n");
    assert!(talk.ask(b"flush_all\r\nget key1\r\nstats items\r\n").ends_with("OK\\r\\nEND\\r\\nEND\\r\\n"));
}

#[test]
fn outcomes_in_any_order_give_replies_in_the_order_of_the_requests() {
    let stream = one_long_stream();
    // Versions that nobody gave depend on the core that made them; these vectors show none.
    let expected = Talk::with(Options::default(), World::new(4, false)).ask(&stream);
    for dice in 0..50 {
        let mut talk = Talk::with(Options::default(), World::new(4, true));
        talk.dice = dice;
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let len = (1 + talk.roll() as usize % 300).min(rest.len());
            talk.send(&rest[..len]);
            rest = &rest[len..];
            for _ in 0..talk.roll() % 20 {
                talk.deliver();
            }
        }
        assert_eq!(escape(&talk.replies()), expected, "dice {dice}");
    }
}

/// A word that a stream may be made of: often sense, sometimes not.
fn token() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&str] = &[
        "get ",
        "gets ",
        "gat 10 ",
        "set ",
        "cas ",
        "append ",
        "delete ",
        "incr ",
        "touch ",
        "stats",
        "flush_all",
        "mg ",
        "ms ",
        "md ",
        "ma ",
        "me ",
        "mn",
        "quit",
        "a",
        "b ",
        "YQ== b",
        " 0 0 3",
        " 3",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "abc\r\n",
        " noreply",
        " v",
        " k",
        " O1",
        " q",
        " N30",
        " T-1",
        " R10",
        " C1",
        " E5",
        " I",
        " MA",
        " D5",
        " J1",
        " 18446744073709551615",
        " -1",
        " ",
        "\0",
    ];
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    proptest::prop_oneof![
        20 => proptest::sample::select(words),
        1 => proptest::collection::vec(any::<u8>(), 1..20),
        1 => (200usize..3000).prop_map(|len| vec![b'k'; len]),
    ]
}

/// What a session makes of a stream cut into packets, and whether it closed.
fn told(stream: &[u8], cuts: &[Index], defers: bool) -> (String, Option<Reason>) {
    let options = Options { memcached_value_bytes_max: 100, commands_per_turn: 3, ..Options::default() };
    let mut talk = Talk::with(options, World::new(3, defers));
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        talk.send(&stream[pair[0]..pair[1]]);
    }
    // What is awaited when the connection closes is not the session's to wait for.
    let replies = escape(&talk.replies());
    // What is counted already when `stats` is asked for depends on what is still on its way.
    let counted = |line: &str| match line.rsplit_once(' ') {
        Some((name, _)) if name.starts_with("STAT ") => name.to_string(),
        _ => line.to_string(),
    };
    (replies.split("\\r\\n").map(counted).collect::<Vec<_>>().join("\\r\\n"), talk.closed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_of_sense_and_nonsense_are_told_the_same_however_they_are_cut(
        tokens in proptest::collection::vec(token(), 1..60),
        cuts in proptest::collection::vec(any::<Index>(), 0..12),
    ) {
        let stream = tokens.concat();
        let (whole, closed) = told(&stream, &[], false);
        prop_assert_eq!(told(&stream, &cuts, false), (whole.clone(), closed));
        prop_assert_eq!(told(&stream, &cuts, true), (whole.clone(), closed));
        // A page of stats is the longest answer to the shortest command.
        prop_assert!(whole.len() < 4000 + stream.len() * 400, "{} bytes for {}", whole.len(), stream.len());
    }

    #[test]
    fn a_broken_byte_anywhere_breaks_no_session(at in any::<Index>(), byte in any::<u8>(), cuts in proptest::collection::vec(any::<Index>(), 0..5)) {
        let mut stream = one_long_stream();
        let at = at.index(stream.len());
        stream[at] = byte;
        prop_assert_eq!(told(&stream, &cuts, true), told(&stream, &[], false));
    }
}

#[test]
fn a_lower_limit_on_keys_holds_for_every_command() {
    let mut talk = Talk::with(Options { key_bytes_max: 4, ..Options::default() }, World::new(1, false));
    for (sent, refused) in [
        ("get %\r\n", 1),
        ("get a %\r\n", 1),
        ("set % 0 0 1\r\nx\r\n", 1),
        ("delete %\r\nincr % 1\r\ntouch % 1\r\n", 3),
        ("mg %\r\nms % 1\r\nx\r\nmd %\r\nme %\r\n", 4),
    ] {
        let expected = "CLIENT_ERROR bad command line format\\r\\n".repeat(refused);
        assert_eq!(talk.ask(sent.replace('%', "12345")), expected, "{sent}");
    }
    assert_eq!(talk.ask(b"ma 12345\r\n"), "CLIENT_ERROR invalid or duplicate flag\\r\\n");
    assert_eq!(talk.world.calls, 0);
    assert_eq!(
        talk.ask(b"set 1234 0 0 1\r\nx\r\nget 1234\r\n"),
        "STORED\\r\\nVALUE 1234 0 1\\r\\nx\\r\\nEND\\r\\n"
    );
}
