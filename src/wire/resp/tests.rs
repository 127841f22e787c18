//! Whole conversations against a model: a map per core behind the [`Backend`] door, which answers at once or later.

use super::*;
use crate::clock::{Mono, Wall};
use crate::hash::slot_of;
use crate::ids::{CoreId, Version};
use crate::metrics::Counters;
use crate::request::*;
use crate::topology::ShardMap;
use crate::wire::Session;
use crate::wire::users::Users;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const CORES: u16 = 3;

struct ModelItem {
    value: Vec<u8>,
    version: Version,
    expiry: Expiry,
}

#[derive(Default)]
struct Store {
    items: BTreeMap<Vec<u8>, ModelItem>,
    sequence: u64,
    room: Option<usize>,
}

impl Store {
    fn item(item: &ModelItem) -> Item {
        Item {
            flags: 0,
            len: item.value.len() as u32,
            version: item.version,
            expiry: item.expiry,
            lease: Lease::default(),
            used: false,
            idle_seconds: 7,
        }
    }

    /// Whether a target is in the way; a source that is not there goes first.
    fn transfer_is_refused(&self, key: &[u8], value: &[u8], verb: Verb) -> bool {
        match verb {
            Verb::Transfer(transfer) => {
                !transfer.replace && self.items.contains_key(key) && self.items.contains_key(value)
            }
            _ => reply::keys(value).step_by(2).any(|key| self.items.contains_key(key)),
        }
    }

    fn execute(&mut self, now: Now, key: &[u8], value: &[u8], verb: Verb) -> (Answer, Vec<u8>) {
        self.items.retain(|_, item| match item.expiry {
            Expiry::Never => true,
            Expiry::At(at) => at > now.mono,
        });
        let none = Vec::new;
        let found = self.items.get(key);
        let refused = |condition: Condition| match (condition, found) {
            (Condition::Absent, Some(_)) => Some(Refusal::Present),
            (Condition::Present | Condition::VersionIs(_), None) => Some(Refusal::Absent),
            (Condition::VersionIs(version), Some(item)) if item.version != version => Some(Refusal::Version),
            _ => None,
        };
        let changed = |change: ExpiryChange| match (change, found) {
            (ExpiryChange::Set(expiry), _) => expiry,
            (ExpiryChange::Keep, Some(item)) => item.expiry,
            (ExpiryChange::Keep, None) => Expiry::Never,
        };
        let mut write = None;
        let (answer, bytes) = match verb {
            Verb::Look => match found {
                Some(item) => (Answer::Item(Self::item(item)), none()),
                None => (Answer::Miss, none()),
            },
            Verb::Unguard
            | Verb::Observe(..)
            | Verb::Unobserve(_)
            | Verb::Track(_)
            | Verb::Own(_)
            | Verb::Notify { .. }
            | Verb::Monitor { .. }
            | Verb::Journal(_)
            | Verb::SetUser
            | Verb::Configure { .. }
            | Verb::Pass(_) => (Answer::Number(0), none()),
            Verb::Guard => {
                let mut rest = value;
                let mut same = true;
                while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                    let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
                    let (seen, tail) = tail.split_at(16);
                    rest = tail;
                    let is = match self.items.get(key) {
                        Some(item) => [item.version.0, item.expiry.to_number()],
                        None => [0, u64::MAX],
                    };
                    same &= seen == is.map(u64::to_le_bytes).concat();
                }
                (if same { Answer::Number(0) } else { Answer::Refused(Refusal::Version) }, none())
            }
            Verb::Transfer(_) | Verb::PutAllAbsent if self.transfer_is_refused(key, value, verb) => {
                (Answer::Refused(Refusal::Present), none())
            }
            Verb::Transfer(transfer) => match self.items.get(key) {
                None => (Answer::Miss, none()),
                Some(item) => {
                    let (item, version) =
                        (ModelItem { value: item.value.clone(), ..*item }, Version(self.sequence + 1));
                    let len = item.value.len() as u32;
                    if key != value {
                        if !transfer.keep {
                            self.items.remove(key);
                        }
                        self.sequence += 1;
                        self.items.insert(value.to_vec(), ModelItem { version, ..item });
                    }
                    (Answer::Stored { version, replaced: false, len }, none())
                }
            },
            Verb::PutAllAbsent => {
                let parts: Vec<&[u8]> = reply::keys(value).collect();
                for pair in parts.chunks(2) {
                    self.sequence += 1;
                    let version = Version(self.sequence);
                    let item = ModelItem { value: pair[1].to_vec(), version, expiry: Expiry::Never };
                    self.items.insert(pair[0].to_vec(), item);
                }
                (Answer::Stored { version: Version(self.sequence), replaced: false, len: 0 }, none())
            }
            Verb::Get | Verb::Peek => match found {
                Some(item) => (Answer::Item(Self::item(item)), item.value.clone()),
                None => (Answer::Miss, none()),
            },
            Verb::Fetch(fetch) => match found {
                Some(item) => {
                    let answer = (Answer::Item(Self::item(item)), item.value.clone());
                    let expiry = changed(fetch.expiry);
                    if fetch.remove {
                        self.items.remove(key);
                    } else {
                        self.items.get_mut(key).unwrap().expiry = expiry;
                    }
                    answer
                }
                None => (Answer::Miss, none()),
            },
            Verb::Put(put) => {
                let refusal = refused(put.condition);
                let full = self.room.is_some_and(|room| self.items.len() >= room);
                if full {
                    (Answer::Fault(Fault::OutOfMemory), none())
                } else {
                    let (existed, before) =
                        (found.is_some(), found.map(|item| item.value.clone()).unwrap_or_default());
                    if refusal.is_none() {
                        write = Some((value.to_vec(), changed(put.expiry)));
                    }
                    match (put.previous, refusal) {
                        (true, _) => {
                            (Answer::Previous { existed, stored: refusal.is_none(), flags: 0 }, before)
                        }
                        (false, Some(refusal)) => (Answer::Refused(refusal), none()),
                        (false, None) => (Answer::Miss, none()),
                    }
                }
            }
            Verb::Splice(_) => {
                let before = found.map(|item| item.value.clone()).unwrap_or_default();
                write = Some(([&before, value].concat(), changed(ExpiryChange::Keep)));
                (Answer::Miss, none())
            }
            Verb::Overwrite { offset } => {
                let mut bytes = found.map(|item| item.value.clone()).unwrap_or_default();
                let end = offset as usize + value.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].copy_from_slice(value);
                write = Some((bytes, changed(ExpiryChange::Keep)));
                (Answer::Miss, none())
            }
            Verb::Count(count) => {
                let Step::Signed(by) = count.by else { panic!("memcached's") };
                let before = match found {
                    None => Some(0),
                    Some(item) => parser::integer(&item.value),
                };
                match before.map(|before| before.checked_add(by)) {
                    None => (Answer::Fault(Fault::NotInteger), none()),
                    Some(None) => (Answer::Fault(Fault::Overflow), none()),
                    Some(Some(sum)) => {
                        write = Some((sum.to_string().into_bytes(), changed(ExpiryChange::Keep)));
                        (Answer::Number(sum), none())
                    }
                }
            }
            Verb::CountFloat => {
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<f64>().ok();
                let before = found.map_or(Some(0.0), |item| text(&item.value));
                match before {
                    None => (Answer::Fault(Fault::NotFloat), none()),
                    Some(_)
                        if text(value).is_none_or(|by| {
                            by.is_nan() || (by.is_infinite() && value.iter().any(u8::is_ascii_digit))
                        }) =>
                    {
                        (Answer::Fault(Fault::NotFloat), none())
                    }
                    Some(before) if !(before + text(value).unwrap()).is_finite() => {
                        (Answer::Fault(Fault::NotFinite), none())
                    }
                    Some(before) => {
                        let sum = (before + text(value).unwrap()).to_string().into_bytes();
                        write = Some((sum.clone(), changed(ExpiryChange::Keep)));
                        (Answer::Miss, sum)
                    }
                }
            }
            Verb::Remove(remove) => match refused(remove.condition) {
                Some(refusal) => (Answer::Refused(refusal), none()),
                None => match self.items.remove(key) {
                    Some(item) => (Answer::Removed { version: item.version }, none()),
                    None => (Answer::Miss, none()),
                },
            },
            Verb::Expire(Expire { expiry, only }) => match found {
                None => (Answer::Miss, none()),
                Some(item) => {
                    let end = |expiry| match expiry {
                        Expiry::Never => u64::MAX,
                        Expiry::At(at) => at.0,
                    };
                    let (old, new, some) = (end(item.expiry), end(expiry), item.expiry != Expiry::Never);
                    let holds = match only {
                        ExpireOnly::Any => true,
                        ExpireOnly::IfNone => !some,
                        ExpireOnly::IfSome => some,
                        ExpireOnly::IfLater => new > old,
                        ExpireOnly::IfEarlier => new < old,
                        ExpireOnly::IfSomeAndLater => some && new > old,
                        ExpireOnly::IfSomeAndEarlier => some && new < old,
                    };
                    if holds {
                        let item = self.items.get_mut(key).unwrap();
                        item.expiry = expiry;
                        (Answer::Touched(Self::item(item)), none())
                    } else {
                        (Answer::Refused(Refusal::Expiry), none())
                    }
                }
            },
            Verb::Scan(scan) => {
                let mut page = none();
                let walk = || {
                    self.items
                        .keys()
                        .filter(|key| scan.slot.is_none_or(|slot| slot_of(key).number() == slot))
                        .skip(scan.cursor as usize)
                };
                let count = scan.count.min(5) as usize;
                for key in walk().take(count).filter(|key| key.starts_with(value)) {
                    page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    page.extend_from_slice(key);
                }
                let more = walk().nth(count).is_some();
                (Answer::Page { cursor: if more { scan.cursor + count as u64 } else { 0 } }, page)
            }
            Verb::Random => {
                let mut page = none();
                if let Some(key) = self.items.keys().next() {
                    page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    page.extend_from_slice(key);
                }
                (Answer::Page { cursor: 0 }, page)
            }
            Verb::Size => (Answer::Number(self.items.len() as i64), none()),
            Verb::Flush { .. } => {
                let count = std::mem::take(&mut self.items).len();
                (Answer::Number(count as i64), none())
            }
            Verb::SlotSize { slot } => {
                let count = self.items.keys().filter(|key| slot_of(key).number() == slot).count();
                (Answer::Number(count as i64), none())
            }
            Verb::Counters => {
                let counters = Counters { items: self.items.len() as u64, ..Counters::default() };
                let calls = (0..reply::CALLS as u64).map(|i| if i == Id::Get as u64 { 5 } else { 0 });
                let page = [counters.to_bytes(), calls.flat_map(u64::to_le_bytes).collect()].concat();
                (Answer::Page { cursor: 0 }, page)
            }
            Verb::Connections => {
                let line = b"id=9 addr=9.9.9.9:9 laddr=1.1.1.1:1 name= age=5 cmd=get\n".to_vec();
                (Answer::Page { cursor: 0 }, line)
            }
            Verb::Invalidate(Named::Key) => match self.items.remove(key) {
                Some(_) => (Answer::Removed { version: Version::NONE }, none()),
                None => (Answer::Miss, none()),
            },
            Verb::Invalidate(_) => (Answer::Number(2), none()),
            Verb::Disconnect { client } => (Answer::Number(i64::from(client == 9)), none()),
            Verb::ResetCounters => (Answer::Number(0), none()),
            Verb::Limit { bytes } => (Answer::Number(bytes as i64), none()),
        };
        let Some((value, expiry)) = write else { return (answer, bytes) };
        self.sequence += 1;
        let item = ModelItem { value, version: Version(self.sequence), expiry };
        let (len, version) = (item.value.len() as u32, item.version);
        let told = Self::item(&item);
        let replaced = self.items.insert(key.to_vec(), item).is_some();
        let answer = match (verb, answer) {
            (_, Answer::Previous { .. }) => answer,
            (Verb::Count(_), Answer::Number(sum)) => Answer::Counted { number: sum as u64, item: told },
            (Verb::CountFloat, _) => Answer::Item(told),
            _ => Answer::Stored { version, replaced, len },
        };
        (answer, bytes)
    }
}

/// A request on its way to a core.
struct Sent {
    key: Vec<u8>,
    value: Vec<u8>,
    verb: Verb,
    ticket: u32,
}

/// The cores, of which the first `near` answer at once and the others when the test delivers.
struct Model {
    now: Now,
    map: ShardMap,
    near: u16,
    stores: Vec<Store>,
    sent: Vec<VecDeque<Sent>>,
    most_sent: usize,
    /// A guard has refused what comes before its end.
    refusing: Vec<bool>,
    answer: Vec<u8>,
    counters: Counters,
    calls: Vec<u8>,
}

impl Model {
    fn new(near: u16) -> Model {
        Model {
            now: now(),
            map: ShardMap::on_cores(CORES),
            near,
            stores: (0..CORES).map(|_| Store::default()).collect(),
            sent: (0..CORES).map(|_| VecDeque::new()).collect(),
            most_sent: 0,
            refusing: vec![false; usize::from(CORES)],
            answer: Vec::new(),
            counters: Counters::default(),
            calls: Vec::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.sent.iter().map(VecDeque::len).sum()
    }
}

impl Backend for Model {
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>> {
        let core = match target {
            Target::Owner => {
                assert!(!request.key.is_empty());
                self.map.owner(slot_of(request.key).shard())
            }
            Target::Here => CoreId(0),
            Target::Core(core) => core,
        };
        if core.0 < self.near {
            let store = &mut self.stores[core.index()];
            let (answer, bytes) = store.execute(self.now, request.key, request.value, request.verb);
            self.answer = bytes;
            return Some(Outcome { answer, value: Value::One(&self.answer) });
        }
        self.sent[core.index()].push_back(Sent {
            key: request.key.to_vec(),
            value: request.value.to_vec(),
            verb: request.verb,
            ticket,
        });
        self.most_sent = self.most_sent.max(self.in_flight());
        None
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn called(&mut self, command: u8) {
        self.calls.push(command);
    }
}

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
    }
}

/// A shell around one session, with virtual sockets.
struct Shell {
    node: Node,
    session: Session,
    model: Model,
    input: Vec<u8>,
    at_least: usize,
    output: Vec<u8>,
    closed: Option<Reason>,
    dice: u64,
    turns: usize,
}

impl Shell {
    fn new(near: u16, cluster: bool, options: Options, seed: u64) -> Shell {
        let client =
            Client { id: 3, peer: "127.0.0.1:5000".into(), local: "127.0.0.1:7402".into(), since: now() };
        let options = Options { protocol: crate::wire::Protocol::Resp, ..options };
        Shell {
            node: node(cluster),
            session: Session::new(Arc::new(options), client),
            model: Model::new(near),
            input: Vec::new(),
            at_least: 1,
            output: Vec::new(),
            closed: None,
            dice: seed | 1,
            turns: 0,
        }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as usize % sides
    }

    /// Has one core do its oldest request, and hands the outcome in.
    fn deliver(&mut self) {
        let busy: Vec<usize> =
            (0..usize::from(CORES)).filter(|&core| !self.model.sent[core].is_empty()).collect();
        if busy.is_empty() {
            return;
        }
        let core = busy[self.roll(busy.len())];
        let sent = self.model.sent[core].pop_front().unwrap();
        let (answer, bytes) = match self.model.refusing[core] {
            true => (Answer::Refused(Refusal::Version), Vec::new()),
            false => self.model.stores[core].execute(self.model.now, &sent.key, &sent.value, sent.verb),
        };
        match (sent.verb, answer) {
            (Verb::Guard, Answer::Refused(_)) => self.model.refusing[core] = true,
            (Verb::Unguard, _) => self.model.refusing[core] = false,
            _ => {}
        }
        let outcome = Outcome { answer, value: Value::One(&bytes) };
        self.session.complete(self.model.now, &self.node, sent.ticket, &outcome);
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        if self.input.len() < self.at_least {
            return;
        }
        for _ in 0..1_000_000 {
            if self.closed.is_some() {
                return;
            }
            self.turns += 1;
            let now = self.model.now;
            let progress = self.session.serve(now, &self.node, &self.input, &mut self.model);
            assert!(progress.consumed <= self.input.len());
            self.input.drain(..progress.consumed);
            self.output.append(self.session.output());
            match progress.next {
                Next::More { at_least } => {
                    assert!(at_least > self.input.len(), "{at_least} are there");
                    self.at_least = at_least;
                    return;
                }
                Next::Yield => {}
                Next::Blocked => {
                    for _ in 0..1 + self.roll(7) {
                        self.deliver();
                    }
                    self.output.append(self.session.output());
                }
                Next::Close(reason) => {
                    assert_eq!(self.session.awaited(), 0);
                    self.closed = Some(reason);
                }
            }
        }
        panic!("no end");
    }

    fn finish(&mut self) {
        while self.model.in_flight() > 0 {
            self.deliver();
        }
        self.output.append(self.session.output());
        if self.closed.is_none() {
            assert_eq!(self.session.awaited(), 0);
        }
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

#[test]
fn strings_are_read_and_written_as_redis_does() {
    check(&[
        ("GET a", "$-1|"),
        ("SET a 5", "+OK|"),
        ("GET a", "$1|5|"),
        ("get a", "$1|5|"),
        ("SET a 6 NX", "$-1|"),
        ("SET a 6 NX GET", "$1|5|"),
        ("SET a 6 XX GET EX 100", "$1|5|"),
        ("TTL a", ":100|"),
        ("PTTL a", ":100000|"),
        ("EXPIRETIME a", ":1700000100|"),
        ("PEXPIRETIME a", ":1700000100000|"),
        ("SET a 7 KEEPTTL", "+OK|"),
        ("TTL a", ":100|"),
        ("PERSIST a", ":1|"),
        ("PERSIST a", ":0|"),
        ("TTL a", ":-1|"),
        ("TTL nokey", ":-2|"),
        ("GETEX a EXAT 1700000050", "$1|7|"),
        ("TTL a", ":50|"),
        ("GETEX a PERSIST", "$1|7|"),
        ("TTL a", ":-1|"),
        ("SETNX a b", ":0|"),
        ("SETNX n 0", ":1|"),
        ("GETSET n 1", "$1|0|"),
        ("GETDEL n", "$1|1|"),
        ("GETDEL n", "$-1|"),
        ("MSET a 1 b 2 c 3", "+OK|"),
        ("MGET a nokey c", "*3|$1|1|$-1|$1|3|"),
        ("DEL a b a", ":2|"),
        ("DEL a", ":0|"),
        ("EXISTS c nokey c", ":2|"),
        ("TOUCH c", ":1|"),
        ("UNLINK c", ":1|"),
        ("INCR n", ":1|"),
        ("INCRBY n 10", ":11|"),
        ("DECRBY n 12", ":-1|"),
        ("DECR n", ":-2|"),
        ("INCRBYFLOAT n 0.5", "$4|-1.5|"),
        ("APPEND s abc", ":3|"),
        ("APPEND s def", ":6|"),
        ("STRLEN s", ":6|"),
        ("STRLEN nokey", ":0|"),
        ("GETRANGE s 0 -1", "$6|abcdef|"),
        ("GETRANGE s -3 -1", "$3|def|"),
        ("GETRANGE s 5 1", "$0||"),
        ("GETRANGE s -1 -3", "$0||"),
        ("GETRANGE s -100 100", "$6|abcdef|"),
        ("SUBSTR s 0 1", "$2|ab|"),
        ("SETRANGE s 1 ZZ", ":6|"),
        ("GET s", "$6|aZZdef|"),
        ("SETEX e 10 v", "+OK|"),
        ("PSETEX e 1500 v", "+OK|"),
        ("PTTL e", ":1500|"),
        ("TTL e", ":2|"),
        ("TYPE e", "+string|"),
        ("TYPE nokey", "+none|"),
        ("EXPIRE s 10 XX", ":0|"),
        ("EXPIRE s 10 NX", ":1|"),
        ("EXPIRE s 5 GT", ":0|"),
        ("EXPIRE s 50 gt", ":1|"),
        ("EXPIRE s 60 LT", ":0|"),
        ("EXPIRE s 40 XX LT", ":1|"),
        ("PEXPIREAT s 1700000001000", ":1|"),
        ("PTTL s", ":1000|"),
        ("EXPIRE s -5", ":1|"),
        ("EXISTS s", ":0|"),
        ("SET a 5 EXAT 1", "+OK|"),
        ("GET a", "$-1|"),
        ("OBJECT ENCODING n", "$6|embstr|"),
        ("SET i 12", "+OK|"),
        ("OBJECT ENCODING i", "$3|int|"),
        ("OBJECT REFCOUNT i", ":1|"),
        ("OBJECT IDLETIME i", ":7|"),
        ("OBJECT ENCODING nokey", "$-1|"),
        ("MEMORY USAGE i", ":27|"),
        ("MEMORY USAGE nokey SAMPLES 5", "$-1|"),
        ("DBSIZE", ":3|"),
        ("FLUSHALL ASYNC", "+OK|"),
        ("DBSIZE", ":0|"),
        ("RANDOMKEY", "$-1|"),
    ]);
}

#[test]
fn errors_are_told_byte_for_byte() {
    let set_time = "-ERR invalid expire time in 'set' command|";
    let not_integer = "-ERR value is not an integer or out of range|";
    let syntax = "-ERR syntax error|";
    check(&[
        ("FOO", "-ERR unknown command 'FOO', with args beginning with: |"),
        ("foo a b\r\nc", "-ERR unknown command 'foo', with args beginning with: 'a' 'b  c' |"),
        ("GET", "-ERR wrong number of arguments for 'get' command|"),
        ("get a b", "-ERR wrong number of arguments for 'get' command|"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command|"),
        ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP.|"),
        ("CLIENT MAINT_NOTIFICATIONS ON", "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.|"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client¦setname' command|"),
        ("SET a 5 EX 0", set_time),
        ("SET a 5 EX -1", set_time),
        ("SET a 5 EX 9223372036854775807", set_time),
        ("SET a 5 PX 9223372036854775807", set_time),
        ("SET a 5 EXAT 0", set_time),
        ("SET a 5 EX a", not_integer),
        ("SET a 5 EX", syntax),
        ("SET a 5 NX XX", syntax),
        ("SET a 5 EX 10 PX 10", syntax),
        ("SET a 5 KEEPTTL EX 10", syntax),
        ("SET a 5 EX 10 KEEPTTL", syntax),
        ("SET a 5 foo", syntax),
        ("SETEX a 0 b", "-ERR invalid expire time in 'setex' command|"),
        ("PSETEX a 0 b", "-ERR invalid expire time in 'psetex' command|"),
        ("GETEX a EX 0", "-ERR invalid expire time in 'getex' command|"),
        ("GETEX a EX 10 PERSIST", syntax),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command|"),
        ("MSETNX a 1 b", "-ERR wrong number of arguments for 'msetnx' command|"),
        ("INCRBY n a", not_integer),
        ("INCRBY n 01", not_integer),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow|"),
        ("SET n 9223372036854775807", "+OK|"),
        ("INCR n", "-ERR increment or decrement would overflow|"),
        ("SET n abc", "+OK|"),
        ("INCR n", not_integer),
        ("INCRBYFLOAT n 1", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f nan", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f 1e5000", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity|"),
        ("GETRANGE s a 1", not_integer),
        ("SETRANGE s -1 x", "-ERR offset is out of range|"),
        ("SETRANGE s 536870911 xx", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)|"),
        ("EXPIRE s 10 foo", "-ERR Unsupported option foo|"),
        ("EXPIRE s 10 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible|"),
        ("EXPIRE s 10 GT LT", "-ERR GT and LT options at the same time are not compatible|"),
        ("EXPIRE s 9223372036854775807", "-ERR invalid expire time in 'expire' command|"),
        ("EXPIRE s -9223372036854775808", "-ERR invalid expire time in 'expire' command|"),
        ("PEXPIRE s 9223372036854775807", "-ERR invalid expire time in 'pexpire' command|"),
        ("SCAN a", "-ERR invalid cursor|"),
        ("SCAN 99999999999999999999", "-ERR invalid cursor|"),
        ("SCAN 0 MATCH", syntax),
        ("SCAN 0 COUNT 0", syntax),
        ("SCAN 0 COUNT a", not_integer),
        ("SCAN 0 TYPE foo", "-ERR unknown type name 'foo'|"),
        ("FLUSHALL foo", syntax),
        ("OBJECT foo a", "-ERR unknown subcommand 'foo'. Try OBJECT HELP.|"),
        ("OBJECT ENCODING", "-ERR wrong number of arguments for 'object¦encoding' command|"),
        ("HELLO 4", "-NOPROTO unsupported protocol version|"),
        ("HELLO a", "-ERR Protocol version is not an integer or out of range|"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'|"),
        ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'|"),
        ("HELLO 3 AUTH x b", "-WRONGPASS invalid username-password pair or user is disabled.|"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?|",
        ),
        ("AUTH default b", "+OK|"),
        ("AUTH a b c", syntax),
        ("SELECT 0", "+OK|"),
        ("SELECT 1", "-ERR DB index is out of range|"),
        ("SELECT a", not_integer),
        ("WAIT 1 -1", "-ERR timeout is negative|"),
        ("WAIT 1 100", ":0|"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0|"),
        ("CLIENT KILL FOO 9", syntax),
        ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'|"),
        ("CLIENT SETINFO foo b", "-ERR Unrecognized option 'foo'|"),
        ("CLUSTER SLOTS", "-ERR This instance has cluster support disabled|"),
        ("CLUSTER KEYSLOT foo", ":12182|"),
        ("ASKING", "-ERR This instance has cluster support disabled|"),
        ("CONFIG SET foo b", "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'|"),
        (
            "CONFIG SET port 1",
            "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config|",
        ),
        ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1|"),
        ("FUNCTION FLUSH x", "-ERR FUNCTION FLUSH only supports SYNC¦ASYNC option|"),
        ("ACL CAT foo", "-ERR Unknown category 'foo'|"),
        ("COMMAND GETKEYS ping", "-ERR The command has no key arguments|"),
        ("COMMAND GETKEYS foo", "-ERR Invalid command specified|"),
        ("COMMAND GETKEYS get", "-ERR Invalid number of arguments specified for command|"),
        ("PING", "+PONG|"),
    ]);
}

#[test]
fn broken_protocol_is_told_and_closes() {
    let vectors: [(&[u8], &str); 24] = [
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*01\r\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$9999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$18446744073709551616\r\n", "invalid bulk length"),
        (b"*1\r\n$abc\r\n", "invalid bulk length"),
        (b"*1\r\n$0x4\r\n", "invalid bulk length"),
        (b"*1\r\n$+4\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n", "invalid bulk length"),
        (b"*2\r\nGET\r\n", "expected '$', got 'G'"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$4\r\nPINGxxPING\r\n", "invalid CRLF in request"),
        (b"SET \"a\r\n", "unbalanced quotes in request"),
        (b"PING \"\\\n", "unbalanced quotes in request"),
        (b"'PING\r\n", "unbalanced quotes in request"),
    ];
    for (bytes, text) in vectors {
        let sent = [b"PING\r\n", bytes, b"PING\r\n"].concat();
        let (reply, closed) = converse(&sent);
        assert_eq!(reply, format!("+PONG\r\n-ERR Protocol error: {text}\r\n"), "{sent:?}");
        assert_eq!(closed, Some(Reason::Protocol));
    }
    let long = vec![b'1'; 70_000];
    for (start, text) in [
        (&b"*"[..], "too big mbulk count string"),
        (b"*1\r\n$", "too big bulk count string"),
        (b"x", "too big inline request"),
    ] {
        let (reply, closed) = converse(&[start, &long].concat());
        assert_eq!((reply, closed), (format!("-ERR Protocol error: {text}\r\n"), Some(Reason::Protocol)));
    }
    let (reply, closed) = converse(b"POST / HTTP/1.1\r\n\r\nPING\r\n");
    assert_eq!((reply.as_str(), closed), ("", Some(Reason::Http)));
}

#[test]
fn empty_frames_mean_nothing_and_inline_commands_may_be_quoted() {
    let (reply, closed) = converse(b"*-1\r\n*0\r\n*-5\r\n\r\n\n  \r\nPING\n PING\r\nPING\rfoo\n");
    assert_eq!((reply.as_str(), closed), ("+PONG\r\n+PONG\r\n$3\r\nfoo\r\n", None));
    let (reply, _) =
        converse(b"ECHO \"\\x41\\n\\r\\t\\b\\a\\\\q\"\r\nECHO 'a\\'b\\n'\r\nECHO \"\"\r\nECHO \"\\xzz\"\r\n");
    let expected = "$8\r\nA\n\r\t\x08\x07\\q\r\n$5\r\na'b\\n\r\n$0\r\n\r\n$3\r\nxzz\r\n";
    assert_eq!(reply, expected);
    let (reply, _) = converse(b"*1\r\n$0\r\n\r\nPING\r\n");
    assert_eq!(reply, "-ERR unknown command '', with args beginning with: \r\n+PONG\r\n");
}

#[test]
fn any_bytes_are_safe_in_keys_and_values() {
    let key: Vec<u8> = (0..=255).collect();
    for (key, value) in [(&b"\0\x01k"[..], &b"\0v\r\n"[..]), (b"\r\n", b"$3\r\nabc\r\n"), (&key, &key)] {
        let sent = [command(&[b"SET", key, value]), command(&[b"GET", key])].concat();
        let mut shell = Shell::new(CORES, false, Options::default(), 1);
        shell.feed(&sent);
        let expected = [format!("+OK\r\n${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        assert_eq!((&shell.output, shell.closed), (&expected, None));
    }
}

#[test]
fn lengths_of_any_wrong_kind_store_nothing() {
    for length in
        ["-1", "-2147483648", "+3", "0x3", "03", "3 ", "18446744073709551616", "18446744073709551619", "3.0"]
    {
        let mut shell = Shell::new(CORES, false, Options::default(), 1);
        shell.feed(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\nabc\r\n").as_bytes());
        assert_eq!(shell.closed, Some(Reason::Protocol), "{length}");
        let fresh = Shell::new(CORES, false, Options::default(), 1);
        let mut next = Shell { model: shell.model, ..fresh };
        check_on(&mut next, &[("DBSIZE", ":0|"), ("GET k", "$-1|")]);
    }
}

#[test]
fn refused_hello_and_repeated_auth_change_nothing() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let mut shell = Shell::new(CORES, false, options, 1);
    check_on(
        &mut shell,
        &[
            ("AUTH sekret", "+OK|"),
            ("HELLO 4", "-NOPROTO unsupported protocol version|"),
            ("GET nothing", "$-1|"),
            ("AUTH sekret", "+OK|"),
            ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.|"),
            ("HELLO 4 SETNAME x", "-NOPROTO unsupported protocol version|"),
            ("CLIENT GETNAME", "$-1|"),
            ("SET k v", "+OK|"),
        ],
    );
}

#[test]
fn echoed_bytes_are_cut_as_redis_cuts_them() {
    let long = "x".repeat(300);
    let (reply, _) = converse(&words(&format!("{long} b")));
    let shown = "x".repeat(128);
    assert_eq!(reply, format!("-ERR unknown command '{shown}', with args beginning with: 'b' \r\n"));
    let (reply, _) = converse(&words(&format!("foo a b {long} {long}")));
    let shown = "x".repeat(120);
    assert_eq!(
        reply,
        format!("-ERR unknown command 'foo', with args beginning with: 'a' 'b' '{shown}' \r\n")
    );
}

#[test]
fn keys_have_a_length_limit() {
    let options = Options { key_bytes_max: 250, ..Options::default() };
    let key = "k".repeat(250);
    let sent = format!("SET {key} v\r\nGET {key}k\r\nGET \"\"\r\nMGET a {key}k\r\nGET {key}\r\n");
    let (reply, closed) = converse_with(options, sent.as_bytes());
    let error = "-ERR keys have 1 to 250 bytes\r\n";
    assert_eq!((reply, closed), (format!("+OK\r\n{error}{error}{error}$1\r\nv\r\n"), None));
}

#[test]
fn a_value_over_the_limit_is_refused_in_step_and_never_held() {
    let options = Options { value_bytes_max: 1000, ..Options::default() };
    let value = vec![b'v'; 100_000];
    let sent = [
        command(&[b"SET", b"a", b"1"]),
        command(&[b"SET", b"a", &value, b"EX", b"10"]),
        command(&[b"GET", b"a"]),
        command(&[b"SET", b"b", &value]),
        command(&[b"GET", b"b"]),
    ]
    .concat();
    for chunk in [1, 7, 4096, sent.len()] {
        let mut shell = Shell::new(CORES, false, options.clone(), 1);
        for part in sent.chunks(chunk) {
            shell.feed(part);
            assert!(shell.input.len() <= 1100 || chunk > 1100, "{} held", shell.input.len());
        }
        let error = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
        assert_eq!(
            String::from_utf8(shell.output).unwrap(),
            format!("+OK\r\n{error}$1\r\n1\r\n{error}$-1\r\n")
        );
    }
}

#[test]
fn many_arguments_may_not_fill_the_query_buffer_beside_one_long_value() {
    let value = vec![b'v'; 20 * 1024 * 1024];
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    shell.feed(&command(&[b"MSET", b"a", &value, b"b", &value]));
    shell.feed(&command(&[b"SET", b"a", &value]));
    shell.feed(&command(&[b"STRLEN", b"a"]));
    assert_eq!(
        String::from_utf8(shell.output).unwrap(),
        "-ERR command exceeds the query buffer limit\r\n+OK\r\n:20971520\r\n"
    );
}

#[test]
fn a_long_value_is_waited_for_whole() {
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    let value = vec![b'v'; 1_000_000];
    let sent = command(&[b"SET", b"a", &value]);
    shell.feed(&sent[..100]);
    assert_eq!(shell.at_least, sent.len());
    let turns = shell.turns;
    sent[100..].chunks(1000).for_each(|part| shell.feed(part));
    assert_eq!((shell.turns, shell.output.as_slice()), (turns + 1, &b"+OK\r\n"[..]));
}

#[test]
fn hello_speaks_resp3_from_its_own_reply_on() {
    let hello3 = "%7|$6|server|$5|redis|$7|version|$5|7.2.4|$5|proto|:3|$2|id|:3|$4|mode|$10|standalone|$4|role|$6|\
                  master|$7|modules|*0|";
    let hello2 = hello3.replace("%7", "*14").replace(":3|$2|id", ":2|$2|id");
    check(&[
        ("HELLO", &hello2),
        ("GET nokey", "$-1|"),
        ("HELLO 3 SETNAME me", hello3),
        ("GET nokey", "_|"),
        ("MGET nokey", "*1|_|"),
        ("CLIENT GETNAME", "$2|me|"),
        ("CONFIG GET save", "%1|$4|save|$0||"),
        ("CONFIG GET nothing", "%0|"),
        ("SUBSCRIBE a", ">3|$9|subscribe|$1|a|:1|"),
        ("GET nokey", "_|"),
        ("PING", "+PONG|"),
        ("UNSUBSCRIBE", ">3|$11|unsubscribe|$1|a|:0|"),
        ("UNSUBSCRIBE", ">3|$11|unsubscribe|_|:0|"),
        ("CLIENT TRACKINGINFO", "%3|$5|flags|~1|$3|off|$8|redirect|:-1|$8|prefixes|*0|"),
        ("LATENCY HISTOGRAM", "%0|"),
        ("RESET", "+RESET|"),
        ("GET nokey", "$-1|"),
        ("CLIENT GETNAME", "$-1|"),
        ("HELLO 2", &hello2),
    ]);
}

#[test]
fn a_subscribed_resp2_connection_only_listens() {
    let context = "only (P¦S)SUBSCRIBE / (P¦S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context|";
    let told = |name: &str| format!("-ERR Can't execute '{name}': {context}");
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    for (sent, expected) in [
        ("SUBSCRIBE a a", "*3|$9|subscribe|$1|a|:1|*3|$9|subscribe|$1|a|:1|".to_string()),
        ("PSUBSCRIBE a", "*3|$10|psubscribe|$1|a|:2|".to_string()),
        ("SSUBSCRIBE a", "*3|$10|ssubscribe|$1|a|:1|".to_string()),
        ("GET b", told("get")),
        ("CLIENT ID", told("client¦id")),
        ("PING", "*2|$4|pong|$0||".to_string()),
        ("PING x", "*2|$4|pong|$1|x|".to_string()),
        ("UNSUBSCRIBE b", "*3|$11|unsubscribe|$1|b|:2|".to_string()),
        ("UNSUBSCRIBE", "*3|$11|unsubscribe|$1|a|:1|".to_string()),
        ("RESET", "+RESET|".to_string()),
        ("GET b", "$-1|".to_string()),
    ] {
        shell.feed(&words(sent));
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert_eq!(reply, crlf(&expected), "{sent}");
    }
}

#[test]
fn client_reply_silences_in_order() {
    let dialogue = |text: &str| text.split(';').flat_map(words).collect::<Vec<u8>>();
    for near in [CORES, 0] {
        for (sent, expected) in [
            ("CLIENT REPLY OFF;PING;GET a;CLIENT REPLY ON;PING", "+OK\r\n+PONG\r\n"),
            ("CLIENT REPLY SKIP;PING;ECHO b", "$1\r\nb\r\n"),
            ("CLIENT REPLY SKIP;GET a;GET b", "$-1\r\n"),
            ("CLIENT REPLY SKIP;CLIENT REPLY SKIP;PING;PING", "+PONG\r\n"),
            ("CLIENT REPLY SKIP;MGET a b;PING", "+PONG\r\n"),
            ("CLIENT REPLY SKIP;FOO;PING", "+PONG\r\n"),
            ("CLIENT REPLY OFF;SET a 1;RESET;GET a", "+RESET\r\n$1\r\n1\r\n"),
        ] {
            let mut shell = Shell::new(near, false, Options::default(), 5);
            shell.feed(&dialogue(sent));
            shell.finish();
            assert_eq!(String::from_utf8(shell.output).unwrap(), expected, "{sent}");
        }
    }
}

#[test]
fn without_the_password_nothing_is_done() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let noauth = "-NOAUTH Authentication required.|";
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.|";
    let mut shell = Shell::new(CORES, false, options.clone(), 1);
    check_on(
        &mut shell,
        &[
            ("GET a", noauth),
            ("FOO", noauth),
            ("GET", noauth),
            ("PING", noauth),
            ("HELLO 4", "-NOPROTO unsupported protocol version|"),
            (
                "HELLO 3",
                "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time|",
            ),
            ("AUTH", "-ERR wrong number of arguments for 'auth' command|"),
            ("AUTH x", wrong),
            ("AUTH sekre", wrong),
            ("AUTH sekretx", wrong),
            ("AUTH other sekret", wrong),
            ("HELLO 3 AUTH default x", wrong),
            ("GET a", noauth),
            ("AUTH sekret", "+OK|"),
            ("AUTH x", wrong),
            ("GET a", "$-1|"),
            ("RESET", "+RESET|"),
            ("GET a", noauth),
            ("QUIT", "+OK|"),
        ],
    );
    assert_eq!(shell.closed, Some(Reason::Quit));
    for (bytes, text) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (b"*2\r\n$16385\r\n", "unauthenticated bulk length"),
    ] {
        let (reply, closed) = converse_with(options.clone(), bytes);
        assert_eq!((reply, closed), (format!("-ERR Protocol error: {text}\r\n"), Some(Reason::Protocol)));
    }
}

#[test]
fn a_stranger_who_never_reads_is_closed() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let client = Client::default();
    let options = Arc::new(Options { protocol: crate::wire::Protocol::Resp, ..options });
    let mut session = Session::new(options.clone(), client);
    let mut model = Model::new(CORES);
    let input = b"PING\r\n".repeat(100_000);
    let mut at = 0;
    let closed = loop {
        let progress = session.serve(now(), &node(false), &input[at..], &mut model);
        at += progress.consumed;
        match progress.next {
            Next::Yield => {}
            other => break other,
        }
    };
    assert_eq!(closed, Next::Close(Reason::Unauthenticated));
    assert!(session.output().len() <= options.unauthenticated_output_bytes_max + 100);
}

#[test]
fn a_client_that_does_not_read_is_not_served_on() {
    let options =
        Options { output_soft_bytes: 1000, protocol: crate::wire::Protocol::Resp, ..Options::default() };
    let mut session = Session::new(Arc::new(options), Client::default());
    let mut model = Model::new(CORES);
    let value = [b'v'; 100];
    let input = [command(&[b"SET", b"a", &value]), command(&[b"GET", b"a"]).repeat(1000)].concat();
    let first = session.serve(now(), &node(false), &input, &mut model);
    assert_eq!(first.next, Next::Blocked);
    assert!(first.consumed < 1000 && session.output().len() < 1200, "{first:?}");
    session.output().clear();
    let second = session.serve(now(), &node(false), &input[first.consumed..], &mut model);
    assert!(second.consumed > 0 && second.next == Next::Blocked);
}

#[test]
fn a_turn_ends_after_so_many_commands() {
    let mut session = Session::new(
        Arc::new(Options { protocol: crate::wire::Protocol::Resp, ..Options::default() }),
        Client::default(),
    );
    let mut model = Model::new(CORES);
    let input = words("GET a").repeat(300);
    let progress = session.serve(now(), &node(false), &input, &mut model);
    assert_eq!((progress.next, progress.consumed), (Next::Yield, words("GET a").len() * 256));
    assert_eq!((model.counters.commands_total, model.calls.len()), (256, 256));
}

#[test]
fn a_hundred_thousand_keys_stay_within_the_bounds() {
    let keys: Vec<String> = (0..100_000).map(|i| format!("key:{i}")).collect();
    let mut parts: Vec<&[u8]> = vec![b"MGET"];
    parts.extend(keys.iter().map(|key| key.as_bytes()));
    let mget = command(&parts);
    parts[0] = b"DEL";
    let del = command(&parts);
    for near in [CORES, 1] {
        let mut shell = Shell::new(near, false, Options::default(), 3);
        shell.feed(&[words("SET key:5 x"), mget.clone(), del.clone(), words("PING")].concat());
        shell.finish();
        let reply = String::from_utf8(shell.output).unwrap();
        let nulls = "$-1\r\n";
        let expected = format!(
            "+OK\r\n*100000\r\n{}$1\r\nx\r\n{}:1\r\n+PONG\r\n",
            nulls.repeat(5),
            nulls.repeat(99_994)
        );
        assert!(reply == expected, "{} bytes", reply.len());
        assert!(shell.model.most_sent <= crate::wire::order::AWAITED_MAX);
        assert!(shell.turns > 100);
    }
}

#[test]
fn scanning_visits_every_core_and_every_key() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        for i in 0..50 {
            shell.feed(&words(&format!("SET key:{i} v")));
        }
        shell.finish();
        shell.output.clear();
        let mut cursor = "0".to_string();
        let mut seen = Vec::new();
        loop {
            shell.feed(&words(&format!("SCAN {cursor} COUNT 4 MATCH * TYPE string")));
            shell.finish();
            let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
            let lines: Vec<&str> = reply.split("\r\n").collect();
            assert_eq!((lines[0], lines[1].starts_with('$')), ("*2", true));
            cursor = lines[2].to_string();
            seen.extend(lines.iter().filter(|line| line.starts_with("key:")).map(|line| line.to_string()));
            if cursor == "0" {
                break;
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 50);
        shell.feed(&[words("KEYS *"), words("KEYS key:4"), words("KEYS nothing"), words("PING")].concat());
        shell.finish();
        shell.feed(b"");
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*50\r\n") && reply.ends_with("*0\r\n+PONG\r\n"), "{reply}");
        assert_eq!(reply.matches("key:4\r\n").count(), 2);
        shell.feed(&[words("SCAN 0 TYPE list"), words("RANDOMKEY"), words("DBSIZE")].concat());
        shell.finish();
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*2\r\n$1\r\n0\r\n*0\r\n$") && reply.ends_with(":50\r\n"), "{reply}");
    }
}

#[test]
fn msetnx_stores_all_or_nothing() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        check_on(
            &mut shell,
            &[
                ("MSETNX {a}1 x {a}2 y", ":1|"),
                ("MGET {a}1 {a}2", "*2|$1|x|$1|y|"),
                ("MSETNX {a}3 x {a}2 z", ":0|"),
                ("MGET {a}2 {a}3", "*2|$1|y|$-1|"),
                ("MSETNX {a}4 x {a}4 z", ":1|"),
                ("GET {a}4", "$1|z|"),
            ],
        );
        let (one, other) = (0..100)
            .map(|i| (format!("k{i}"), format!("k{}", i + 1)))
            .find(|(one, other)| {
                let owner = |key: &String| shell.node.map.owner(slot_of(key.as_bytes()).shard());
                owner(one) != owner(other)
            })
            .unwrap();
        let sent = format!("MSETNX {one} 1 {other} 2");
        check_on(&mut shell, &[(&sent, "-CROSSSLOT Keys in request don't hash to the same slot|")]);
    }
}

#[test]
fn an_mset_that_finds_no_memory_says_so() {
    let mut shell = Shell::new(CORES, false, Options::default(), 4);
    shell.model.stores.iter_mut().for_each(|store| store.room = Some(1));
    check_on(
        &mut shell,
        &[
            ("SET {a}3 x", "+OK|"),
            ("MSET {a}4 x {a}5 y", "-OOM command not allowed when used memory > 'maxmemory'.|"),
        ],
    );
}

/// Two keys of two cores, the first of them owned by `core`.
fn keys_apart(shell: &Shell, core: u16) -> (String, String) {
    let owner = |key: &String| shell.node.map.owner(slot_of(key.as_bytes()).shard());
    let keys = || (0..100).map(|i| format!("k{i}"));
    let one = keys().find(|key| owner(key) == CoreId(core)).unwrap();
    let other = keys().find(|key| owner(key) != CoreId(core)).unwrap();
    (one, other)
}

#[test]
fn an_item_gets_another_key_on_its_core_or_on_another() {
    for (near, apart) in [(CORES, false), (CORES, true), (1, true), (0, true), (0, false)] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let (a, b) = match apart {
            true => keys_apart(&shell, 0),
            false => ("{x}1".to_string(), "{x}2".to_string()),
        };
        let dialogue = [
            ("RENAME A B", "-ERR no such key|"),
            ("RENAMENX A B", "-ERR no such key|"),
            ("COPY A B", ":0|"),
            ("SET A v EX 100", "+OK|"),
            ("RENAME A B", "+OK|"),
            ("EXISTS A", ":0|"),
            ("GET B", "$1|v|"),
            ("TTL B", ":100|"),
            ("SET A w", "+OK|"),
            ("RENAMENX A B", ":0|"),
            ("MGET A B", "*2|$1|w|$1|v|"),
            ("RENAME A B", "+OK|"),
            ("TTL B", ":-1|"),
            ("RENAMENX B A", ":1|"),
            ("COPY A B", ":1|"),
            ("MGET A B", "*2|$1|w|$1|w|"),
            ("COPY A B", ":0|"),
            ("SET A x", "+OK|"),
            ("COPY A B REPLACE", ":1|"),
            ("GET B", "$1|x|"),
            ("RENAME A A", "+OK|"),
            ("RENAMENX A A", ":0|"),
            ("GET A", "$1|x|"),
            ("COPY A A", "-ERR source and destination objects are the same|"),
            ("COPY A B DB 1", "-ERR DB index is out of range|"),
            ("MOVE A 0", "-ERR source and destination objects are the same|"),
        ];
        let dialogue = dialogue.map(|(sent, expected)| {
            let words = sent.split(' ').map(|word| match word {
                "A" => a.as_str(),
                "B" => b.as_str(),
                word => word,
            });
            (words.collect::<Vec<_>>().join(" "), expected)
        });
        let dialogue: Vec<_> = dialogue.iter().map(|(sent, expected)| (sent.as_str(), *expected)).collect();
        check_on(&mut shell, &dialogue);
    }
}

#[test]
fn a_move_between_cores_that_finds_no_memory_leaves_the_item_where_it_was() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let (source, target) = keys_apart(&shell, 0);
        check_on(&mut shell, &[(&format!("SET {source} v"), "+OK|")]);
        shell.model.stores[1..].iter_mut().for_each(|store| store.room = Some(0));
        let rename = format!("RENAME {source} {target}");
        check_on(
            &mut shell,
            &[
                (&rename, "-OOM command not allowed when used memory > 'maxmemory'.|"),
                (&format!("GET {source}"), "$1|v|"),
                (&format!("GET {target}"), "$-1|"),
            ],
        );
    }
}

#[test]
fn what_was_dumped_is_restored() {
    let mut shell = Shell::new(0, false, Options::default(), 4);
    let exchange = |shell: &mut Shell, sent: &[u8]| {
        shell.feed(sent);
        shell.finish();
        std::mem::take(&mut shell.output)
    };
    check_on(&mut shell, &[("SET a value", "+OK|")]);
    let dumped = exchange(&mut shell, &words("DUMP a"));
    let payload = dumped[5..dumped.len() - 2].to_vec();
    let restore = |key: &[u8], payload: &[u8], rest: &[&[u8]]| {
        command(&[&[b"RESTORE", key, b"5000", payload], rest].concat())
    };
    assert_eq!(exchange(&mut shell, &restore(b"b", &payload, &[])), b"+OK\r\n");
    check_on(&mut shell, &[("GET b", "$5|value|"), ("PTTL b", ":5000|")]);
    let busy: &[u8] = b"-BUSYKEY Target key name already exists.\r\n";
    assert_eq!(exchange(&mut shell, &restore(b"b", &payload, &[])), busy);
    assert_eq!(exchange(&mut shell, &restore(b"b", b"bad", &[])), busy);
    assert_eq!(exchange(&mut shell, &restore(b"a", &payload, &[b"replace"])), b"+OK\r\n");
    check_on(&mut shell, &[("PTTL a", ":5000|"), ("DUMP none", "$-1|")]);
    let bad: &[u8] = b"-ERR DUMP payload version or checksum are wrong\r\n";
    assert_eq!(exchange(&mut shell, &restore(b"c", b"bad", &[])), bad);
    assert_eq!(exchange(&mut shell, &restore(b"a", b"bad", &[b"REPLACE"])), bad);
}

#[test]
fn a_transaction_is_queued_and_done() {
    check(&[
        ("EXEC", "-ERR EXEC without MULTI|"),
        ("DISCARD", "-ERR DISCARD without MULTI|"),
        ("MULTI", "+OK|"),
        ("MULTI", "-ERR MULTI calls can not be nested|"),
        ("SET {a}1 5", "+QUEUED|"),
        ("GET {a}1", "+QUEUED|"),
        ("INCR {a}1", "+QUEUED|"),
        ("MSET {a}2 x {a}3 y", "+QUEUED|"),
        ("MGET {a}1 {a}2 {a}3 {a}4", "+QUEUED|"),
        ("MSETNX {a}2 x {a}5 y", "+QUEUED|"),
        ("RENAME {a}2 {a}6", "+QUEUED|"),
        ("DEL {a}3 {a}4 {a}6", "+QUEUED|"),
        ("APPEND {a}1 x", "+QUEUED|"),
        ("INCR {a}1", "+QUEUED|"),
        ("PING", "+QUEUED|"),
        ("DBSIZE", "+QUEUED|"),
        (
            "EXEC",
            "*12|+OK|$1|5|:6|+OK|*4|$1|6|$1|x|$1|y|$-1|:0|+OK|:2|:2|-ERR value is not an integer or out of range|\
             +PONG|:1|",
        ),
        ("GET {a}1", "$2|6x|"),
        ("MULTI", "+OK|"),
        ("SET {a}1 z", "+QUEUED|"),
        ("DISCARD", "+OK|"),
        ("GET {a}1", "$2|6x|"),
        ("MULTI", "+OK|"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: |"),
        ("SET {a}1 z", "+QUEUED|"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
        ("MULTI", "+OK|"),
        ("SUBSCRIBE c", "-ERR Command not allowed inside a transaction|"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
        ("MULTI", "+OK|"),
        ("EXEC", "*0|"),
        ("MULTI", "+OK|"),
        ("RESET", "+RESET|"),
        ("EXEC", "-ERR EXEC without MULTI|"),
        ("GET {a}1", "$2|6x|"),
    ]);
}

#[test]
fn keys_of_a_transaction_belong_to_one_core_and_in_a_cluster_to_one_slot() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        let (one, other) = keys_apart(&shell, 0);
        let (first, second) = (format!("SET {one} 1"), format!("SET {other} 1"));
        let cross = "-CROSSSLOT Keys in request don't hash to the same slot|";
        let dialogue = [("MULTI", "+OK|"), (&first, "+QUEUED|"), (&second, "+QUEUED|"), ("EXEC", cross)];
        check_on(&mut shell, &dialogue);
        let watch = format!("WATCH {other}");
        check_on(&mut shell, &[(&watch, "+OK|"), ("MULTI", "+OK|"), (&first, "+QUEUED|"), ("EXEC", cross)]);
        check_on(&mut shell, &[("EXISTS {one} {other}", ":0|"), ("EXEC", "-ERR EXEC without MULTI|")]);
        let mut shell = Shell::new(near, true, Options::default(), 9);
        let map = shell.node.map.clone();
        let owner = |i: i32| map.owner(slot_of(format!("k{i}").as_bytes()).shard());
        let i = (1..100).find(|i| owner(*i) == owner(0)).unwrap();
        let second = format!("SET k{i} 1");
        check_on(
            &mut shell,
            &[("MULTI", "+OK|"), ("SET k0 1", "+QUEUED|"), (&second, "+QUEUED|"), ("EXEC", cross)],
        );
    }
}

#[test]
fn a_watched_key_that_changed_keeps_the_transaction_from_happening() {
    for near in [CORES, 1, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        check_on(&mut shell, &[("SET {a}1 x EX 100", "+OK|")]);
        for (change, happens) in [
            ("SET {a}1 x EX 100", false),
            ("GET {a}1", true),
            ("EXPIRE {a}1 50", false),
            ("DEL {a}1", false),
            ("SET {a}1 y", false),
            ("SET {a}2 y", false),
            ("SET {a}9 y", true),
        ] {
            check_on(&mut shell, &[("WATCH {a}1 {a}2", "+OK|")]);
            shell.feed(&words(change));
            shell.finish();
            shell.output.clear();
            let (exec, count) = if happens { ("*2|+OK|:1|", ":1|") } else { ("*-1|", ":0|") };
            check_on(
                &mut shell,
                &[
                    ("MULTI", "+OK|"),
                    ("SET {a}3 done", "+QUEUED|"),
                    ("EXISTS {a}3", "+QUEUED|"),
                    ("EXEC", exec),
                    ("DEL {a}3", count),
                    // What is watched is watched for one transaction.
                    ("MULTI", "+OK|"),
                    ("PING", "+QUEUED|"),
                    ("EXEC", "*1|+PONG|"),
                ],
            );
        }
        check_on(
            &mut shell,
            &[
                ("WATCH {a}1", "+OK|"),
                ("UNWATCH", "+OK|"),
                ("SET {a}1 z", "+OK|"),
                ("MULTI", "+OK|"),
                ("GET {a}1", "+QUEUED|"),
                ("WATCH {a}1", "-ERR WATCH inside MULTI is not allowed|"),
                ("EXEC", "*1|$1|z|"),
                ("WATCH {a}1", "+OK|"),
                ("MULTI", "+OK|"),
                ("FLUSHALL", "-ERR Command not allowed inside a transaction|"),
                ("DISCARD", "+OK|"),
            ],
        );
    }
}

#[test]
fn a_transaction_goes_to_its_core_in_one_turn_however_long_it_is() {
    let options = Options { commands_per_turn: 8, output_soft_bytes: 1024, ..Options::default() };
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, options.clone(), 9);
        let queued: Vec<u8> = (0..500).flat_map(|i| words(&format!("SET {{a}}{i} {i}"))).collect();
        let mget = format!("MGET {}", (0..500).map(|i| format!("{{a}}{i}")).collect::<Vec<_>>().join(" "));
        shell.feed(&[words("MULTI"), queued, words(&mget)].concat());
        shell.finish();
        shell.output.clear();
        shell.model.most_sent = 0;
        shell.feed(&words("EXEC"));
        if near == 0 {
            assert_eq!(shell.model.most_sent, 1002, "all of it and its two guards, before anything else");
        }
        shell.finish();
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*501\r\n+OK\r\n+OK"), "{}", &reply[..20]);
        assert!(reply.ends_with("$3\r\n499\r\n"));
    }
}

#[test]
fn connections_are_listed_and_killed() {
    let reply = |shell: &mut Shell, sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let list = reply(&mut shell, "CLIENT LIST");
        assert!(list.contains("id=9 addr=9.9.9.9:9") && list.contains("id=3 addr=127.0.0.1:5000"), "{list}");
        assert_eq!(list.matches("id=3 ").count(), 1);
        let list = reply(&mut shell, "CLIENT LIST ID 3");
        assert!(
            !list.contains("id=9 ") && list.contains("id=3 ") && list.contains("cmd=client|list"),
            "{list}"
        );
        assert_eq!(reply(&mut shell, "CLIENT LIST TYPE pubsub"), "$0\r\n\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL 9.9.9.9:1"), "-ERR No such client\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 3"), ":0\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 77"), ":0\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL 9.9.9.9:9"), "+OK\r\n");
        assert!(shell.closed.is_none());
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 3 SKIPME no"), ":1\r\n");
        assert_eq!(shell.closed, Some(Reason::Quit));
    }
}

#[test]
fn info_tells_the_counters_of_all_cores() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let mut info = |sent: &str| {
            shell.feed(&words("MSET a 1 b 2 c 3 d 4"));
            shell.feed(&words(sent));
            shell.finish();
            String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
        };
        let text = info("INFO");
        for line in [
            "# Server\r\nredis_version:7.2.4\r\n",
            "foreshadow_version:0.1.0\r\n",
            "loading:0\r\n",
            "\r\n\r\n# Keyspace\r\ndb0:keys=4,expires=0,avg_ttl=0\r\n",
            "uptime_in_seconds:1000\r\n",
            "cluster_enabled:0\r\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("cmdstat_get"));
        let text = info("INFO all");
        assert!(text.contains("cmdstat_get:calls=15,usec=0"), "{text}");
        let text = info("INFO Replication CPU");
        assert!(
            text.contains("# Replication\r\nrole:master\r\n")
                && text.contains("# Cpu\r\nused_cpu_sys:0.000000\r\n"),
            "{text}"
        );
        assert!(info("INFO nothing").ends_with("$0\r\n\r\n"));
    }
}

#[test]
fn subscriptions_and_words_are_bounded() {
    let channel = "c".repeat(1000);
    let mut parts: Vec<&[u8]> = vec![b"SUBSCRIBE"];
    parts.extend((0..1100).map(|_| channel.as_bytes()));
    let mut shell = Shell::new(CORES, false, Options::default(), 4);
    shell.feed(&[command(&parts), words("PING")].concat());
    assert_eq!(std::mem::take(&mut shell.output), b"-ERR too many subscriptions\r\n+PONG\r\n");
    let docs = ["COMMAND DOCS", &" get".repeat(2000)].concat();
    shell.feed(&words(&docs));
    assert_eq!(shell.output, b"-ERR too many arguments\r\n");
}

#[test]
fn counters_tell_commands_and_errors() {
    let mut shell = Shell::new(1, false, Options::default(), 4);
    shell.feed(&[words("SET a x"), words("INCR a"), words("NOPE"), words("GET a")].concat());
    shell.finish();
    shell.feed(&words("PING"));
    assert_eq!((shell.model.counters.commands_total, shell.model.counters.errors_total), (4, 2));
    let called = [Id::Set, Id::Incr, Id::Get, Id::Ping].map(|id| id as u8);
    assert_eq!(shell.model.calls, called);
}

#[test]
fn settings_are_shown_by_pattern() {
    check(&[
        ("CONFIG GET max*ory", "*2|$9|maxmemory|$10|1073741824|"),
        ("CONFIG GET lis?en", "*2|$6|listen|$4|here|"),
        ("CONFIG GET SAVE appendonly", "*4|$10|appendonly|$2|no|$4|save|$0||"),
        ("CONFIG RESETSTAT", "+OK|"),
    ]);
}

#[test]
fn commands_describe_themselves() {
    let count = commands::COMMANDS.len();
    check(&[
        ("COMMAND COUNT", &format!(":{count}|")),
        (
            "COMMAND INFO get foo",
            "*2|*10|$3|get|:2|*2|+readonly|+fast|:1|:1|:1|*3|+@string|+@read|+@fast|*0|*1|*6|$5|flags|*1|+RO|$12|\
             begin_search|*4|$4|type|$5|index|$4|spec|*2|$5|index|:1|$9|find_keys|*4|$4|type|$5|range|$4|spec|*6|$7|\
             lastkey|:0|$7|keystep|:1|$5|limit|:0|*0|$-1|",
        ),
        ("COMMAND DOCS foo", "*0|"),
        (
            "COMMAND DOCS get",
            "*2|$3|get|*6|$7|summary|$25|Reads the value of a key.|$5|since|$5|1.0.0|$5|group|$6|string|",
        ),
        ("COMMAND GETKEYS mset a b c d", "*2|$1|a|$1|c|"),
        ("COMMAND GETKEYS object encoding k", "*1|$1|k|"),
        ("COMMAND LIST FILTERBY PATTERN getr*", "*1|$8|getrange|"),
        ("ACL WHOAMI", "$7|default|"),
        ("ACL LIST", "*1|$34|user default on nopass ~* &* +@all|"),
        ("TIME", "*2|$10|1700000000|$1|0|"),
        ("ROLE", "*3|$6|master|:0|*0|"),
        ("SLOWLOG GET", "*0|"),
        ("LATENCY RESET", ":0|"),
        ("FUNCTION FLUSH", "+OK|"),
        (
            "OBJECT HELP",
            "*11|+OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:|+ENCODING|+    How the value would be \
             held by Redis.|+FREQ|+    Not tracked.|+HELP|+    Prints this help.|+IDLETIME|+    Seconds since the last \
             use.|+REFCOUNT|+    Number of references: 1.|",
        ),
    ]);
}

#[test]
fn each_core_is_a_node_of_the_cluster() {
    let mut shell = Shell::new(0, true, Options::default(), 4);
    let mut reply = |sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    let ids: Vec<String> =
        (0..3).map(|core| format!("0123456789abcdef0123456789abcdef0123000{core}")).collect();
    assert_eq!(reply("CLUSTER MYID"), format!("$40\r\n{}\r\n", ids[1]), "by the port it came to");
    let ranges = node(true).map.ranges();
    let slots = reply("CLUSTER SLOTS");
    assert!(slots.starts_with(&format!("*{}\r\n*3\r\n:0\r\n:", ranges.len())), "{slots}");
    for (i, id) in ids.iter().enumerate() {
        let entry = format!("*4\r\n$9\r\n127.0.0.1\r\n:{}\r\n$40\r\n{id}\r\n*0\r\n", 7401 + i);
        let owned = ranges.iter().filter(|range| range.owner == CoreId(i as u16)).count();
        assert_eq!(slots.matches(&entry).count(), owned);
    }
    let nodes = reply("CLUSTER NODES");
    assert_eq!(nodes.matches("myself,master").count(), 1);
    assert!(nodes.contains(&format!("{} 127.0.0.1:7402@17402 myself,master - 0 0 ", ids[1])), "{nodes}");
    assert!(reply("CLUSTER SHARDS").starts_with("*3\r\n*4\r\n$5\r\nslots\r\n*"));
    assert!(reply("CLUSTER INFO").contains("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"));
    assert!(reply("HELLO 3").contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    assert_eq!(reply("READONLY"), "+OK\r\n");
    assert_eq!(reply("MSET foo 1 {foo}2 2 bar 3"), "+OK\r\n");
    assert_eq!(reply("CLUSTER COUNTKEYSINSLOT 12182"), ":2\r\n");
    assert_eq!(reply("CLUSTER COUNTKEYSINSLOT 99999"), "-ERR Invalid slot\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 12182 10"), "*2\r\n$3\r\nfoo\r\n$6\r\n{foo}2\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 12182 1"), "*1\r\n$3\r\nfoo\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 5 -1"), "-ERR Invalid slot or number of keys\r\n");
}

/// Commands whose replies do not depend on when they are done.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(vec!["a", "b", "{x}1", "{x}2", "other", "k5"]);
    let value = prop::sample::select(vec!["1", "22", "abc", "", "3.5"]);
    let one = (0..22usize, key.clone(), key, value).prop_map(|(kind, key, other, value)| match kind {
        0 => words(&format!("GET {key}")),
        1 => words(&format!("SET {key} {value}")),
        2 => words(&format!("MGET {key} {other} {key}")),
        3 => words(&format!("MSET {key} {value} {other} 7")),
        4 => words(&format!("DEL {key} {other}")),
        5 => words(&format!("EXISTS {key}")),
        6 => words(&format!("INCR {key}")),
        7 => words(&format!("APPEND {key} {value}")),
        8 => words(&format!("SET {key} {value} EX 10 GET")),
        9 => words(&format!("TTL {key}")),
        10 => words("HELLO 3"),
        11 => words("HELLO 2"),
        12 => words("DBSIZE"),
        13 => words("KEYS *"),
        14 => format!("GET \"{key}\"\r\n").into_bytes(),
        15 => b"*0\r\n\r\n".to_vec(),
        16 => words(&format!("NOPE {value}")),
        17 => words(&format!("MSETNX {{x}}1 {value} {{x}}2 {value}")),
        18 => words("CLIENT REPLY SKIP"),
        19 => command(&[b"SET", key.as_bytes(), &[b'v'; 300]]),
        20 => words("CLIENT KILL ID 77"),
        _ => words(&format!("GETRANGE {key} 0 1")),
    });
    prop::collection::vec(one, 1..40).prop_map(|commands| commands.concat())
}

/// What one core that answers at once says to the whole stream.
fn plain_replies(sent: &[u8], options: &Options) -> Vec<u8> {
    let mut shell = Shell::new(CORES, false, options.clone(), 1);
    shell.feed(sent);
    shell.finish();
    shell.output
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_and_any_order_of_outcomes_give_the_same_replies(
        sent in stream(),
        cuts in prop::collection::vec(1..60usize, 1..20),
        near in 0..=CORES,
        seed in any::<u64>(),
    ) {
        let options = Options { value_bytes_max: 200, commands_per_turn: 3, ..Options::default() };
        let expected = plain_replies(&sent, &Options { value_bytes_max: 200, ..Options::default() });
        let mut shell = Shell::new(near, false, options, seed);
        let mut rest = &sent[..];
        for cut in cuts.into_iter().cycle() {
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            shell.feed(part);
            rest = behind;
            if rest.is_empty() {
                break;
            }
            if cut % 3 == 0 {
                shell.deliver();
            }
        }
        shell.finish();
        shell.feed(b"");
        shell.finish();
        prop_assert_eq!(
            String::from_utf8_lossy(&shell.output).into_owned(),
            String::from_utf8_lossy(&expected).into_owned()
        );
    }

    #[test]
    fn bytes_of_any_kind_neither_panic_nor_flood(
        parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::sample::select(vec![
                    "*1\r\n", "*2\r\n", "*3\r\n", "*5\r\n", "$3\r\n", "$0\r\n", "$300\r\n", "$-1\r\n", "\r\n", "GET", "SET",
                    "CLIENT", "KILL", "LIST", "MSETNX", "COMMAND", "DOCS", "SCAN", "KEYS", "INFO", "CONFIG", " ", "\"",
                    "*", "9223372036854775807", "ID", "HELLO", "3", "SUBSCRIBE", "REPLY", "OFF", "RESET", "QUIT", "a",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                (0..commands::COMMANDS.len(), prop::collection::vec("[a-z0-9*-]{0,6}", 0..6)).prop_map(
                    |(i, arguments)| {
                        let mut parts: Vec<&[u8]> = vec![commands::COMMANDS[i].name.as_bytes()];
                        let subs = commands::COMMANDS[i].subcommands;
                        if let Some(sub) = subs.get(arguments.len() % (subs.len() + 1)) {
                            parts.push(sub.name.as_bytes());
                        }
                        parts.extend(arguments.iter().map(|argument| argument.as_bytes()));
                        command(&parts)
                    }
                ),
            ],
            0..30,
        ),
        cut in 1..50usize,
        near in 0..=CORES,
        cluster in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let sent = parts.concat();
        let options = Options { value_bytes_max: 200, ..Options::default() };
        let mut shell = Shell::new(near, cluster, options, seed);
        for part in sent.chunks(cut) {
            shell.feed(part);
        }
        shell.finish();
        // The longest reply of all is that of COMMAND.
        prop_assert!(shell.output.len() <= 40_000 * (parts.len() + 1), "{} bytes", shell.output.len());
    }
}
