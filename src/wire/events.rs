//! What happens on a core, as the lines that memcached's `watch` shows, and who watches.
//!
//! ```text
//!   a request done, an item evicted, a connection come or gone --> a line --> a batch for each who wants it
//!                                              once a turn, to the watcher's core --> its connection
//! ```
//! A batch and what a watcher's connection holds are bounded. What finds no room is counted, and the watcher is told how much
//! that was (`skipped=N`): nobody waits for a watcher. While nobody watches, a request costs one comparison.

use crate::clock::{Mono, Now};
use crate::request::{
    Answer, Condition, Expiry, ExpiryChange, Fault, Item, Observer, Refusal, Request, Verb,
};
use std::io::Write as _;

/// Watchers of a node.
pub const WATCHERS_MAX: usize = 20;
/// Bytes of lines for one watcher in a turn of a core.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Bytes of a key that a line shows, before they are escaped: all that memcached's keys have.
const KEY_BYTES_MAX: usize = 250;

/// Reads.
pub const FETCHERS: u8 = 1 << 0;
/// Writes.
pub const MUTATIONS: u8 = 1 << 1;
/// Items evicted to make room.
pub const EVICTIONS: u8 = 1 << 2;
/// Connections that come and go.
pub const CONNECTIONS: u8 = 1 << 3;
/// Removals on request.
pub const DELETIONS: u8 = 1 << 4;

/// Who asked: a number of its connection that no other has at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(pub u64);

/// An item that was evicted.
pub struct Evicted<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Bytes of its value.
    pub value_bytes: u64,
    /// When it would have ended.
    pub expiry: Expiry,
    /// Whether it was ever read.
    pub used: bool,
    /// Seconds since it was used last.
    pub idle_seconds: u32,
}

/// Who watches a core's events, and what each is to be shown.
#[derive(Debug, Default)]
pub struct Watchers {
    all: Vec<Watcher>,
    /// What anybody wants.
    kinds: u8,
    /// Lines made so far, of which each has a number that is unique on the node.
    made: u64,
    /// This core and the number of cores, as far as numbers are concerned.
    place: (u64, u64),
    line: Vec<u8>,
}

#[derive(Debug)]
struct Watcher {
    observer: Observer,
    kinds: u8,
    lines: Vec<u8>,
    dropped: u64,
}

impl Watchers {
    /// Of a core among so many.
    pub fn new(core: u16, cores: u16) -> Watchers {
        Watchers { place: (u64::from(core), u64::from(cores.max(1))), ..Watchers::default() }
    }

    /// Has an observer shown events of these kinds, or (0) none any more; `false`: there are too many watchers.
    pub fn set(&mut self, observer: Observer, kinds: u8) -> bool {
        self.all.retain(|watcher| watcher.observer != observer);
        let room = kinds == 0 || self.all.len() < WATCHERS_MAX;
        if kinds != 0 && room {
            self.all.push(Watcher { observer, kinds, lines: Vec::new(), dropped: 0 });
        }
        self.kinds = self.all.iter().fold(0, |kinds, watcher| kinds | watcher.kinds);
        room
    }

    /// Number of watchers.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether anybody watches.
    #[inline]
    pub fn any(&self) -> bool {
        self.kinds != 0
    }

    /// Whether anybody wants events of one of these kinds.
    #[inline]
    pub fn want(&self, kinds: u8) -> bool {
        self.kinds & kinds != 0
    }

    /// What is to be shown to whom: how many lines found no room before these (little-endian u64), then the lines.
    pub fn take(&mut self) -> Vec<(Observer, Vec<u8>)> {
        let told = self.all.iter_mut().filter(|watcher| !watcher.lines.is_empty());
        told.map(|watcher| {
            let dropped = std::mem::take(&mut watcher.dropped).to_le_bytes();
            (watcher.observer, [&dropped[..], &std::mem::take(&mut watcher.lines)].concat())
        })
        .collect()
    }

    /// Takes in what came of a request; `len` is the length of the value that a removal took.
    pub fn request(
        &mut self,
        now: Now,
        asker: Asker,
        request: &Request<'_>,
        answer: Answer,
        len: Option<u32>,
    ) {
        let key = request.key;
        match request.verb {
            Verb::Get | Verb::Peek | Verb::Look | Verb::Expire(_) => self.read(now, asker, key, answer),
            Verb::Fetch(fetch) => {
                self.read(now, asker, key, answer);
                if let (true, Answer::Item(item)) = (fetch.remove, answer) {
                    self.removed(now, key, item.len);
                }
            }
            Verb::Put(put) => {
                let word = match put.condition {
                    Condition::Always => "set",
                    Condition::Absent => "add",
                    Condition::Present | Condition::Held => "replace",
                    Condition::VersionIs(_) | Condition::VersionIsOrStale(_) => "cas",
                };
                let ends = match put.expiry {
                    ExpiryChange::Set(expiry) => expiry,
                    ExpiryChange::Keep => Expiry::Never,
                };
                self.stored(now, asker, key, (word, answer), ends, request.value.len() as u64);
            }
            Verb::Splice(splice) => {
                let word = if splice.front { "prepend" } else { "append" };
                let ends = splice.create.unwrap_or(Expiry::Never);
                self.stored(now, asker, key, (word, answer), ends, request.value.len() as u64);
            }
            Verb::Overwrite { .. } | Verb::Count(_) | Verb::CountFloat => {
                self.stored(now, asker, key, ("set", answer), Expiry::Never, request.value.len() as u64);
            }
            Verb::PutAllAbsent => {
                for (key, value) in pairs(request.value) {
                    self.stored(now, asker, key, ("add", answer), Expiry::Never, value.len() as u64);
                }
            }
            Verb::Transfer(transfer) => {
                self.stored(now, asker, request.value, ("set", answer), Expiry::Never, 0);
                if let (false, Answer::Stored { len, .. }) = (transfer.keep, answer) {
                    self.removed(now, key, len);
                }
            }
            Verb::Remove(remove) => match answer {
                Answer::Removed { .. } if remove.clear => {
                    self.stored(now, asker, key, ("set", answer), Expiry::Never, 0);
                }
                Answer::Removed { .. } if !remove.stale => self.removed(now, key, len.unwrap_or(0)),
                _ => {}
            },
            _ => {}
        }
    }

    /// A connection came (`None`), or went for a reason.
    pub fn connection(&mut self, now: Now, asker: Asker, peer: &str, end: Option<&str>) {
        if !self.want(CONNECTIONS) {
            return;
        }
        let (address, port) = peer.rsplit_once(':').unwrap_or((peer, "0"));
        let transport = if address.contains('/') { "unix" } else { "tcp" };
        let (kind, reason) = match end {
            None => ("conn_new", String::new()),
            Some(reason) => ("conn_close", format!(" reason={reason}")),
        };
        let text =
            format!("type={kind} rip={address} rport={port} transport={transport}{reason} cfd={}", asker.0);
        self.tell(CONNECTIONS, now, |line| line.extend_from_slice(text.as_bytes()));
    }

    /// An item was evicted.
    pub fn evicted(&mut self, now: Now, item: &Evicted<'_>) {
        self.tell(EVICTIONS, now, |line| {
            line.extend_from_slice(b"type=eviction key=");
            escape(item.key, line);
            let used = if item.used { "yes" } else { "no" };
            let ttl = match item.expiry {
                Expiry::Never => -1,
                Expiry::At(at) => seconds_until(now, at) as i64,
            };
            let (idle, size) = (item.idle_seconds, item.value_bytes);
            write!(line, " fetch={used} ttl={ttl} la={idle} clsid=1 size={size}").expect("a Vec takes all");
        });
    }

    /// So many events were too many to be kept.
    pub fn lost(&mut self, kind: u8, count: u64) {
        self.all
            .iter_mut()
            .filter(|watcher| watcher.kinds & kind != 0)
            .for_each(|watcher| watcher.dropped += count);
    }

    fn read(&mut self, now: Now, asker: Asker, key: &[u8], answer: Answer) {
        let found = |item: Item| !(item.lease.won && !item.lease.stale && item.len == 0);
        let (status, class, size) = match answer {
            // One who is given the right to fill has found nothing.
            Answer::Item(item) | Answer::Touched(item) if found(item) => ("found", 1, item.len),
            _ => ("not_found", 0, 0),
        };
        self.tell(FETCHERS, now, |line| {
            line.extend_from_slice(b"type=item_get key=");
            escape(key, line);
            write!(line, " status={status} clsid={class} cfd={} size={size}", asker.0)
                .expect("a Vec takes all");
        });
    }

    fn stored(
        &mut self,
        now: Now,
        asker: Asker,
        key: &[u8],
        (word, answer): (&str, Answer),
        ends: Expiry,
        sent_bytes: u64,
    ) {
        let (status, size) = match answer {
            Answer::Stored { len, .. } => ("stored", u64::from(len)),
            Answer::Counted { item, .. } | Answer::Item(item) => ("stored", u64::from(item.len)),
            Answer::Previous { stored: true, .. } | Answer::Removed { .. } => ("stored", sent_bytes),
            Answer::Refused(Refusal::Version) => ("exists", sent_bytes),
            Answer::Refused(Refusal::Absent) if word == "cas" => ("not_found", sent_bytes),
            Answer::Fault(Fault::TooLarge) => ("too_large", 0),
            Answer::Fault(Fault::OutOfMemory) => ("no_memory", 0),
            _ => ("not_stored", sent_bytes),
        };
        let ttl = match ends {
            Expiry::Never => 0,
            Expiry::At(at) => seconds_until(now, at),
        };
        self.tell(MUTATIONS, now, |line| {
            line.extend_from_slice(b"type=item_store key=");
            escape(key, line);
            write!(line, " status={status} cmd={word} ttl={ttl} clsid=1 cfd={} size={size}", asker.0)
                .expect("a Vec takes all");
        });
    }

    fn removed(&mut self, now: Now, key: &[u8], len: u32) {
        self.tell(DELETIONS, now, |line| {
            line.extend_from_slice(b"type=deleted key=");
            escape(key, line);
            write!(line, " cmd=delete clsid=1 size={len}").expect("a Vec takes all");
        });
    }

    /// Makes a line if anybody wants it.
    fn tell(&mut self, kind: u8, now: Now, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.want(kind) {
            return;
        }
        let (core, cores) = self.place;
        let (millis, number) = (now.wall.0, self.made * cores + core + 1);
        self.made += 1;
        let line = &mut self.line;
        line.clear();
        // As there, millionths of a second without zeros in front.
        write!(line, "ts={}.{} gid={number} ", millis / 1000, millis % 1000 * 1000).expect("a Vec takes all");
        write(line);
        line.push(b'\n');
        for watcher in self.all.iter_mut().filter(|watcher| watcher.kinds & kind != 0) {
            if watcher.lines.len() + line.len() > BATCH_BYTES_MAX {
                watcher.dropped += 1;
            } else {
                watcher.lines.extend_from_slice(line);
            }
        }
    }
}

fn seconds_until(now: Now, at: Mono) -> u64 {
    now.millis_until(at).div_ceil(1000)
}

/// Keys and values in turn, each behind its length.
fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    let mut run = move || {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (run, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        rest = tail;
        Some(run)
    };
    std::iter::from_fn(move || Some((run()?, run()?)))
}

/// Appends a key as a URL would show it.
fn escape(key: &[u8], line: &mut Vec<u8>) {
    for &byte in &key[..key.len().min(KEY_BYTES_MAX)] {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            line.push(byte);
        } else {
            write!(line, "%{byte:02X}").expect("a Vec takes all");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;
    use crate::ids::{ConnectionId, CoreId, Version};
    use crate::request::{Fetch, Put, Remove};

    const NOW: Now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_042) };
    const ALL: u8 = FETCHERS | MUTATIONS | EVICTIONS | CONNECTIONS | DELETIONS;

    fn observer(place: u32) -> Observer {
        Observer { core: CoreId(0), connection: ConnectionId { place, generation: 1 } }
    }

    fn item(len: u32) -> Item {
        Item {
            flags: 0,
            len,
            version: Version(1),
            expiry: Expiry::Never,
            lease: Default::default(),
            used: false,
            idle_seconds: 0,
            binary_key: false,
        }
    }

    fn told(watchers: &mut Watchers) -> Vec<(u32, u64, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let batches = watchers.take();
        let split = |(observer, batch): (Observer, Vec<u8>)| {
            let (dropped, lines) = batch.split_first_chunk::<8>().unwrap();
            (observer.connection.place, u64::from_le_bytes(*dropped), text(lines))
        };
        batches.into_iter().map(split).collect()
    }

    #[test]
    fn lines_are_those_of_memcached() {
        let mut watchers = Watchers::new(1, 2);
        assert!(watchers.set(observer(1), ALL));
        let stored = Answer::Stored { version: Version(1), replaced: false, len: 3 };
        let put = Put::plain(Expiry::At(NOW.mono.plus_millis(99_500)));
        let absent = Put { condition: Condition::Absent, ..Put::plain(Expiry::Never) };
        let compared = Put { condition: Condition::VersionIs(Version(9)), ..absent };
        let won = Item { lease: crate::request::Lease { won: true, ..Default::default() }, ..item(0) };
        for (verb, key, answer, line) in [
            (Verb::Get, "a", Answer::Miss, "item_get key=a status=not_found clsid=0 cfd=13 size=0"),
            (
                Verb::Get,
                "b%/é",
                Answer::Item(item(3)),
                "item_get key=b%25%2F%C3%A9 status=found clsid=1 cfd=13 size=3",
            ),
            (
                Verb::Fetch(Fetch::PLAIN),
                "v",
                Answer::Item(won),
                "item_get key=v status=not_found clsid=0 cfd=13 size=0",
            ),
            (
                Verb::Put(put),
                "a",
                stored,
                "item_store key=a status=stored cmd=set ttl=100 clsid=1 cfd=13 size=3",
            ),
            (
                Verb::Put(absent),
                "a",
                Answer::Refused(Refusal::Present),
                "item_store key=a status=not_stored cmd=add ttl=0 clsid=1 cfd=13 size=5",
            ),
            (
                Verb::Put(compared),
                "a",
                Answer::Refused(Refusal::Version),
                "item_store key=a status=exists cmd=cas ttl=0 clsid=1 cfd=13 size=5",
            ),
            (
                Verb::Put(compared),
                "a",
                Answer::Refused(Refusal::Absent),
                "item_store key=a status=not_found cmd=cas ttl=0 clsid=1 cfd=13 size=5",
            ),
            (
                Verb::Put(put),
                "a",
                Answer::Fault(Fault::TooLarge),
                "item_store key=a status=too_large cmd=set ttl=100 clsid=1 cfd=13 size=0",
            ),
            (
                Verb::Remove(Remove::PLAIN),
                "a",
                Answer::Removed { version: Version(1) },
                "deleted key=a cmd=delete clsid=1 size=7",
            ),
        ] {
            let request = Request { key: key.as_bytes(), value: b"value", verb };
            watchers.request(NOW, Asker(13), &request, answer, Some(7));
            let lines = told(&mut watchers);
            let number = watchers.made * 2;
            assert_eq!(
                lines,
                [(1, 0, format!("ts=1700000000.42000 gid={number} type={line}\n"))],
                "{verb:?}"
            );
        }
        watchers.connection(NOW, Asker(5), "127.0.0.1:4711", None);
        watchers.connection(NOW, Asker(5), "::1:4711", Some("normal"));
        watchers.evicted(
            NOW,
            &Evicted { key: b"k", value_bytes: 9, expiry: Expiry::Never, used: true, idle_seconds: 4 },
        );
        let lines = &told(&mut watchers)[0].2;
        for line in [
            "type=conn_new rip=127.0.0.1 rport=4711 transport=tcp cfd=5\n",
            "type=conn_close rip=::1 rport=4711 transport=tcp reason=normal cfd=5\n",
            "type=eviction key=k fetch=yes ttl=-1 la=4 clsid=1 size=9\n",
        ] {
            assert!(lines.contains(line), "{line} in {lines}");
        }
    }

    #[test]
    fn each_is_shown_what_it_wants_and_nobody_who_has_gone_anything() {
        let mut watchers = Watchers::new(0, 1);
        assert!(!watchers.any());
        watchers.set(observer(1), FETCHERS);
        watchers.set(observer(2), MUTATIONS | FETCHERS);
        let get = Request { key: b"a", value: b"", verb: Verb::Get };
        let set = Request { key: b"a", value: b"v", verb: Verb::Put(Put::plain(Expiry::Never)) };
        let stored = Answer::Stored { version: Version(1), replaced: false, len: 1 };
        watchers.request(NOW, Asker(1), &get, Answer::Miss, None);
        watchers.request(NOW, Asker(1), &set, stored, None);
        let lines: Vec<(u32, usize)> =
            told(&mut watchers).iter().map(|(who, _, text)| (*who, text.lines().count())).collect();
        assert_eq!(lines, [(1, 1), (2, 2)]);
        watchers.set(observer(2), 0);
        assert!(watchers.any() && !watchers.want(MUTATIONS));
        watchers.set(observer(1), 0);
        watchers.request(NOW, Asker(1), &get, Answer::Miss, None);
        assert!(!watchers.any() && watchers.take().is_empty());
    }

    #[test]
    fn there_are_so_many_watchers_and_so_many_bytes_for_each_and_what_is_lost_is_counted() {
        let mut watchers = Watchers::new(0, 1);
        for place in 0..WATCHERS_MAX as u32 {
            assert!(watchers.set(observer(place), FETCHERS));
        }
        assert!(!watchers.set(observer(99), FETCHERS) && watchers.set(observer(7), FETCHERS));
        assert_eq!(watchers.count(), WATCHERS_MAX);
        assert!((1..WATCHERS_MAX as u32).all(|place| watchers.set(observer(place), 0)));
        let get = Request { key: &[b'%'; 1000], value: b"", verb: Verb::Get };
        for _ in 0..1000 {
            watchers.request(NOW, Asker(1), &get, Answer::Miss, None);
        }
        let (_, dropped, lines) = told(&mut watchers).remove(0);
        assert_eq!(dropped as usize + lines.lines().count(), 1000);
        assert!(lines.len() <= BATCH_BYTES_MAX && lines.len() + 1000 > BATCH_BYTES_MAX);
        watchers.lost(FETCHERS, 5);
        watchers.lost(EVICTIONS, 5);
        watchers.request(NOW, Asker(1), &get, Answer::Miss, None);
        assert_eq!(told(&mut watchers)[0].1, 5, "told with what comes next");
    }
}
