//! What a recording of live traffic is made of: rows, which keys are in it, and how the rows of all cores come into one order.
//!
//! ```text
//!   core: requests --Recorder--> Chunk --\
//!   core: requests --Recorder--> Chunk ---+--> Merger --> the file, as `replay` reads it
//! ```
//! ```text
//! header   8 bytes  "FSREC\0\0\1"
//! rows    32 bytes  time u64 (nanoseconds), key u64 (keyed hash), client u64, size u32, kind u32; little-endian
//! ```
//! 1. A key is its SipHash with a secret of the recording, which is forgotten when that ends: a trace tells nobody which keys
//!    there were, nor can two of them be laid side by side.
//! 2. Sampled is by key, never by row: a key is in it with all its rows or with none, so that what follows it stays true. Keys
//!    whose hash is beyond a bound are left out. A core with more rows in a second than it may record halves the bound; a
//!    row says so, and who reads the trace leaves those keys out from its beginning.
//! 3. Memory is bounded: rows for which there is no room are lost, and the last row says how many. A trace without a last
//!    row was cut.

use crate::clock::Mono;
use crate::ids::CoreId;
use crate::request::{Answer, Outcome, Request, Verb};
use std::collections::VecDeque;

/// How a recorded trace begins; the last byte is the version.
pub const MAGIC: &[u8; 8] = b"FSREC\0\0\x01";
/// Bytes of a row.
pub const ROW_BYTES: usize = 32;
/// Rows from which on a core hands them over.
const CHUNK_ROWS: usize = 4096;
/// Most rows that a core keeps.
const KEPT_ROWS_MAX: usize = 8192;
/// Most rows that wait until all cores have said how far they are; beyond, the oldest do not wait.
const HELD_ROWS_MAX: usize = 1 << 20;
/// Rows of one core in a second, beyond which it records fewer keys.
pub const ROWS_PER_SECOND_MAX: u32 = 200_000;

/// What a row tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client read the key. The size is that of what it found, 0 if that was not known at once.
    Read,
    /// A client stored a value. No request to replay; it tells the size.
    Write,
    /// An origin told the value of a key that was read. No request to replay; it tells the size.
    Size,
    /// Keys with a greater hash than this row's key are not in the trace from here on.
    Narrowed,
    /// The last row. Its key is how many rows were lost.
    End,
}

impl Kind {
    const ALL: [(Kind, u32); 5] =
        [(Kind::Read, 0), (Kind::Write, 1), (Kind::Size, 2), (Kind::Narrowed, 4), (Kind::End, 8)];

    /// Its number in a row.
    pub fn number(self) -> u32 {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }

    /// The kind of that number.
    pub fn of(number: u32) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind)
    }
}

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Nanoseconds since the recording began.
    pub nanos: u64,
    /// Hash of the key.
    pub key: u64,
    /// Who asked; 0 where nobody did.
    pub client: u64,
    /// Bytes of key and value, 0: not known.
    pub size: u32,
    /// What it tells.
    pub kind: u32,
}

impl Row {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.nanos.to_le_bytes());
        out.extend_from_slice(&self.key.to_le_bytes());
        out.extend_from_slice(&self.client.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
    }

    /// From [`ROW_BYTES`] bytes.
    pub fn read(bytes: &[u8; ROW_BYTES]) -> Row {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Row { nanos: long(0), key: long(8), client: long(16), size: short(24), kind: short(28) }
    }
}

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What keys are hashed with.
    pub secret: [u64; 2],
    /// Keys with a greater hash are left out.
    pub key_max: u64,
    /// Rows of one core in a second beyond which fewer keys are recorded.
    pub rows_per_second_max: u32,
}

impl Options {
    /// Keys of which the part `sample`, above 0 and up to 1, is recorded.
    pub fn sampled(secret: [u64; 2], sample: f64) -> Options {
        // The conversion saturates: 1 is all.
        let key_max = (sample * 2f64.powi(64)) as u64;
        Options { secret, key_max, rows_per_second_max: ROWS_PER_SECOND_MAX }
    }
}

/// Rows of a core on their way to the others'.
#[derive(Debug)]
pub struct Chunk {
    /// Whose.
    pub core: CoreId,
    /// The rows, in the order of their times.
    pub rows: Vec<u8>,
    /// Nanoseconds since the beginning up to which there are no more.
    pub until: u64,
    /// Rows lost since the last chunk.
    pub lost: u64,
}

/// What records on a core.
pub struct Recorder {
    options: Options,
    begin: Mono,
    core: CoreId,
    rows: Vec<u8>,
    lost: u64,
    key_max: u64,
    second: u64,
    count: u32,
}

impl Recorder {
    /// One that has recorded nothing; `begin` is the same on all cores.
    pub fn new(options: Options, begin: Mono, core: CoreId) -> Recorder {
        let rows = Vec::with_capacity(KEPT_ROWS_MAX * ROW_BYTES);
        Recorder { options, begin, core, rows, lost: 0, key_max: options.key_max, second: 0, count: 0 }
    }

    /// A request was done, or waits for an origin if there is no outcome yet. `client` is its number among those there are.
    pub fn request(&mut self, now: Mono, client: u64, request: &Request<'_>, outcome: Option<&Outcome<'_>>) {
        let (kind, value) = match request.verb {
            Verb::Get | Verb::Fetch(_) => {
                let found = outcome.and_then(|outcome| match outcome.answer {
                    Answer::Item(item) => Some(item.len),
                    _ => None,
                });
                (Kind::Read, found)
            }
            Verb::Put(_) => (Kind::Write, Some(request.value.len() as u32)),
            _ => return,
        };
        let size = value.map_or(0, |value| size_of(request.key, value));
        self.note(now, request.key, client, size, kind);
    }

    /// An origin told a key's value of so many bytes.
    pub fn told(&mut self, now: Mono, key: &[u8], value: u32) {
        self.note(now, key, 0, size_of(key, value), Kind::Size);
    }

    /// Whether there is enough to hand over.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.rows.len() >= CHUNK_ROWS * ROW_BYTES
    }

    /// Hands over what was recorded so far.
    pub fn take(&mut self, now: Mono) -> Chunk {
        let rows = std::mem::replace(&mut self.rows, Vec::with_capacity(KEPT_ROWS_MAX * ROW_BYTES));
        let lost = std::mem::take(&mut self.lost);
        Chunk { core: self.core, rows, until: now.0.saturating_sub(self.begin.0), lost }
    }

    /// Takes back what nobody could take: it waits here for the next time.
    pub fn keep(&mut self, chunk: Chunk) {
        debug_assert!(self.rows.is_empty(), "it was given just now");
        (self.rows, self.lost) = (chunk.rows, chunk.lost);
    }

    fn note(&mut self, now: Mono, key: &[u8], client: u64, size: u32, kind: Kind) {
        let key = siphash(self.options.secret, key);
        if key > self.key_max {
            return;
        }
        let nanos = now.0.saturating_sub(self.begin.0);
        let second = nanos / Mono::NANOS_PER_SECOND;
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        if self.count > self.options.rows_per_second_max {
            // Half of the keys are in half of the rows, more or less.
            self.key_max /= 2;
            self.count /= 2;
            self.push(Row { nanos, key: self.key_max, client: 0, size: 0, kind: Kind::Narrowed.number() });
        }
        if key <= self.key_max {
            self.push(Row { nanos, key, client, size, kind: kind.number() });
        }
    }

    fn push(&mut self, row: Row) {
        // What narrows is never lost, or rows would be there that should not: room for some is kept.
        let limit = if row.kind == Kind::Narrowed.number() { KEPT_ROWS_MAX } else { KEPT_ROWS_MAX - 64 };
        match self.rows.len() < limit * ROW_BYTES {
            true => row.write(&mut self.rows),
            false => self.lost += 1,
        }
    }
}

/// Bytes of an item; more than a row can tell are as many as it can.
fn size_of(key: &[u8], value: u32) -> u32 {
    (key.len() as u32).saturating_add(value)
}

/// Brings the rows of all cores into one order.
pub struct Merger {
    lanes: Vec<Lane>,
    held_rows: usize,
    rows: u64,
    rows_max: u64,
    lost: u64,
    key_max: u64,
}

/// The rows of one core that wait.
#[derive(Default)]
struct Lane {
    rows: VecDeque<[u8; ROW_BYTES]>,
    until: u64,
}

impl Lane {
    fn first(&self) -> Option<u64> {
        self.rows.front().map(|row| Row::read(row).nanos)
    }
}

impl Merger {
    /// For so many cores; at most so many rows come out.
    pub fn new(cores: usize, rows_max: u64) -> Merger {
        let lanes = (0..cores).map(|_| Lane::default()).collect();
        Merger { lanes, held_rows: 0, rows: 0, rows_max, lost: 0, key_max: u64::MAX }
    }

    /// Takes rows of a core in.
    pub fn take(&mut self, chunk: &Chunk) {
        let Some(lane) = self.lanes.get_mut(chunk.core.index()) else { return };
        lane.until = lane.until.max(chunk.until);
        self.lost += chunk.lost;
        let (rows, _) = chunk.rows.as_chunks::<ROW_BYTES>();
        for bytes in rows {
            let row = Row::read(bytes);
            if row.kind == Kind::Narrowed.number() {
                self.key_max = self.key_max.min(row.key);
            } else if row.key > self.key_max {
                // Another core has left this key out already.
                continue;
            }
            lane.rows.push_back(*bytes);
            self.held_rows += 1;
        }
    }

    /// Appends the rows before which no other can come any more.
    pub fn poll(&mut self, out: &mut Vec<u8>) {
        loop {
            let until = self.lanes.iter().map(|lane| lane.until).min().unwrap_or(0);
            let overfull = self.held_rows > HELD_ROWS_MAX;
            if !self.emit(out, |nanos| nanos <= until || overfull) {
                return;
            }
        }
    }

    /// Whether as many rows came out as may.
    pub fn is_full(&self) -> bool {
        self.rows >= self.rows_max
    }

    /// Appends all that is left, and the last row.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        while self.emit(out, |_| true) {}
        let end = Row { nanos: u64::MAX, key: self.lost, client: 0, size: 0, kind: Kind::End.number() };
        end.write(out);
    }

    /// Appends the row that is next, if it may go; whether it went.
    fn emit(&mut self, out: &mut Vec<u8>, may_go: impl Fn(u64) -> bool) -> bool {
        let firsts = self.lanes.iter().enumerate().filter_map(|(i, lane)| Some((lane.first()?, i)));
        let Some((nanos, lane)) = firsts.min() else { return false };
        if self.is_full() || !may_go(nanos) {
            return false;
        }
        let row = self.lanes[lane].rows.pop_front().expect("it has a first");
        self.held_rows -= 1;
        self.rows += 1;
        out.extend_from_slice(&row);
        true
    }
}

/// SipHash-2-4 of Aumasson and Bernstein: a hash that tells nothing of the key to who does not know the secret.
fn siphash(secret: [u64; 2], bytes: &[u8]) -> u64 {
    let [k0, k1] = secret;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut take = |word: u64| {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| take(u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    take(u64::from_le_bytes(last));
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Expiry, Put, Value};
    use std::collections::{HashMap, HashSet};

    const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    fn rows_of(bytes: &[u8]) -> Vec<Row> {
        let (rows, rest) = bytes.as_chunks::<ROW_BYTES>();
        assert!(rest.is_empty());
        rows.iter().map(Row::read).collect()
    }

    fn read<'a>(key: &'a [u8]) -> Request<'a> {
        Request { key, value: b"", verb: Verb::Get }
    }

    const MISS: Outcome<'static> = Outcome { answer: Answer::Miss, value: Value::EMPTY };

    #[test]
    fn the_hash_is_that_of_its_authors() {
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(SECRET, b""), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(SECRET, &bytes), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn reads_writes_and_what_origins_tell_become_rows_with_the_sizes_of_items() {
        let options = Options::sampled(SECRET, 1.0);
        let mut recorder = Recorder::new(options, Mono(1000), CoreId(3));
        recorder.request(Mono(1005), 7, &read(b"key"), Some(&MISS));
        recorder.told(Mono(1009), b"key", 40);
        let put = Verb::Put(Put::plain(Expiry::Never));
        recorder.request(Mono(1010), 8, &Request { key: b"other", value: b"12", verb: put }, None);
        recorder.request(Mono(1011), 8, &Request { key: b"", value: b"", verb: Verb::Size }, None);
        let chunk = recorder.take(Mono(1020));
        assert_eq!((chunk.core, chunk.until, chunk.lost), (CoreId(3), 20, 0));
        let rows = rows_of(&chunk.rows);
        let told: Vec<_> = rows.iter().map(|row| (row.nanos, row.client, row.size, row.kind)).collect();
        assert_eq!(told, [(5, 7, 0, 0), (9, 0, 43, 2), (10, 8, 7, 1)]);
        assert_eq!(rows[0].key, rows[1].key);
        assert_eq!(rows[0].key, siphash(SECRET, b"key"));
        assert!(recorder.take(Mono(1030)).rows.is_empty());
    }

    #[test]
    fn a_key_is_in_the_sample_with_all_its_rows_or_none() {
        let mut recorder = Recorder::new(Options::sampled(SECRET, 0.25), Mono(0), CoreId(0));
        let keys: Vec<Vec<u8>> = (0..400u32).map(|i| format!("user:{i}").into_bytes()).collect();
        for _ in 0..3 {
            keys.iter().for_each(|key| recorder.request(Mono(1), 1, &read(key), Some(&MISS)));
        }
        let mut counts = HashMap::new();
        rows_of(&recorder.take(Mono(2)).rows).iter().for_each(|row| *counts.entry(row.key).or_insert(0) += 1);
        assert!((60..140).contains(&counts.len()), "{} of 400", counts.len());
        assert!(counts.values().all(|&count| count == 3));
    }

    #[test]
    fn too_many_rows_in_a_second_make_fewer_keys_and_the_trace_says_so() {
        let options = Options { rows_per_second_max: 1000, ..Options::sampled(SECRET, 1.0) };
        let mut recorder = Recorder::new(options, Mono(0), CoreId(0));
        let mut rows = Vec::new();
        for i in 0..20_000u32 {
            recorder.request(Mono(5), 1, &read(format!("k{}", i % 500).as_bytes()), Some(&MISS));
            if recorder.is_due() {
                rows.extend(recorder.take(Mono(6)).rows);
            }
        }
        rows.extend(recorder.take(Mono(6)).rows);
        let rows = rows_of(&rows);
        let narrowed: Vec<u64> =
            rows.iter().filter(|row| row.kind == Kind::Narrowed.number()).map(|row| row.key).collect();
        assert!(!narrowed.is_empty() && narrowed.is_sorted_by(|a, b| a > b), "{narrowed:?}");
        assert!(rows.len() < 1000 + 500 * (narrowed.len() + 1), "{} rows", rows.len());
        let last = narrowed[narrowed.len() - 1];
        let left: HashSet<u64> =
            rows.iter().filter(|row| row.kind == 0 && row.key <= last).map(|row| row.key).collect();
        assert!(!left.is_empty());
        let count = |key: u64| rows.iter().filter(|row| row.kind == 0 && row.key == key).count();
        assert!(left.iter().all(|&key| count(key) == 40), "who stays is whole");
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let mut recorder = Recorder::new(Options::sampled(SECRET, 1.0), Mono(0), CoreId(0));
        let lost = 1000;
        for i in 0..(KEPT_ROWS_MAX - 64 + lost) as u32 {
            recorder.request(Mono(5), 1, &read(&i.to_le_bytes()), Some(&MISS));
        }
        let chunk = recorder.take(Mono(6));
        assert_eq!((chunk.lost, chunk.rows.len()), (lost as u64, (KEPT_ROWS_MAX - 64) * ROW_BYTES));
        recorder.keep(chunk);
        assert_eq!(recorder.take(Mono(7)).lost, lost as u64, "kept for the next time");
    }

    fn chunk(core: u16, nanos: &[u64], until: u64) -> Chunk {
        let mut rows = Vec::new();
        for &nanos in nanos {
            Row { nanos, key: nanos, client: u64::from(core), size: 0, kind: 0 }.write(&mut rows);
        }
        Chunk { core: CoreId(core), rows, until, lost: 1 }
    }

    #[test]
    fn rows_of_all_cores_come_in_the_order_of_their_times_as_soon_as_that_is_sure() {
        let mut merger = Merger::new(2, 100);
        let polled = |merger: &mut Merger| {
            let mut out = Vec::new();
            merger.poll(&mut out);
            rows_of(&out).iter().map(|row| row.nanos).collect::<Vec<_>>()
        };
        merger.take(&chunk(0, &[1, 5, 9], 10));
        assert_eq!(polled(&mut merger), [0u64; 0], "the other core may have had something before");
        merger.take(&chunk(1, &[2, 6], 7));
        assert_eq!(polled(&mut merger), [1, 2, 5, 6]);
        merger.take(&chunk(7, &[0], 7));
        merger.take(&chunk(1, &[8], 12));
        assert_eq!(polled(&mut merger), [8, 9]);
        merger.take(&chunk(1, &[13], 14));
        let mut out = Vec::new();
        merger.finish(&mut out);
        let rows = rows_of(&out);
        assert_eq!((rows[0].nanos, rows.len()), (13, 2));
        assert_eq!((rows[1].kind, rows[1].key), (Kind::End.number(), 4), "lost by those that are ours");
    }

    #[test]
    fn no_more_rows_come_out_than_were_asked_for() {
        let mut merger = Merger::new(1, 3);
        merger.take(&chunk(0, &[1, 2, 3, 4, 5], 9));
        let mut out = Vec::new();
        merger.poll(&mut out);
        assert!(merger.is_full());
        merger.finish(&mut out);
        assert_eq!(rows_of(&out).len(), 3 + 1);
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let row = Row { nanos: 1, key: 2, client: 3, size: 4, kind: 8 };
        let mut bytes = Vec::new();
        row.write(&mut bytes);
        assert_eq!(rows_of(&bytes), [row]);
        for (kind, number) in Kind::ALL {
            assert_eq!((Kind::of(number), kind.number()), (Some(kind), number));
        }
        assert_eq!(Kind::of(3), None);
    }
}
