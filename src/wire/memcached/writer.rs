//! The writing half: outcomes to the bytes of replies.

use super::stats;
use super::words::{BASE64_BYTES_MAX, KEY_BYTES_MAX, Words, append_base64, base64, is_key};
use crate::clock::Now;
use crate::metrics::Counters;
use crate::request::{Answer, Expiry, Fault, Item, Outcome, Refusal};
use crate::topology::Node;
use crate::wire::{Encode, Options, Output};
use std::sync::Arc;

/// memcached's version that we behave like; three integers, which libmemcached insists on.
pub(super) const VERSION: &str = "1.6.45";

/// How a reply is written. The note is the key's word for `Value` and `MetaDebug`, the text for `Text`, everything from the
/// key's word to the line's end for the other meta commands, and nothing for the rest.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// An item of a get line, or nothing.
    Value { version: bool, touch: bool },
    /// The end of a get line.
    End,
    /// The note and a line's end.
    Text,
    /// Nothing whatever the outcome.
    Nothing,
    /// The answer to a storage command.
    Stored { noreply: bool, cas: bool },
    /// A value too large, whatever the outcome of removing the old one.
    TooLarge { noreply: bool },
    /// The answer to `delete`.
    Deleted { noreply: bool },
    /// The answer to `incr` and `decr`.
    Counted { noreply: bool, up: bool },
    /// The answer to `touch`.
    Touched { noreply: bool },
    /// One core's part of `flush_all`.
    FlushPart,
    /// The answer to `flush_all`, when all cores have done it.
    Flushed { noreply: bool },
    /// The answer to `watch`, when all cores have been told.
    Watched,
    /// The version line.
    Version,
    /// One core's counters, to be added up.
    StatsPart,
    /// A page of `stats`, when all parts are in.
    Stats(Page),
    /// One core's connections for `stats conns`.
    Connections,
    /// The answer to `mg`.
    MetaGet(Marks),
    /// The answer to `ms`.
    MetaSet { marks: Marks, mode: Mode, compared: bool },
    /// The answer to `md`.
    MetaDelete(Marks),
    /// The answer to `ma`.
    MetaCount { marks: Marks, up: bool },
    /// The answer to `me`; `b` was given.
    MetaDebug { binary: bool },
}

/// A page of `stats`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    General,
    Settings,
    Items,
    Slabs,
}

/// Meta flags that decide the form of the whole reply.
#[derive(Clone, Copy, Default)]
pub(super) struct Marks {
    /// `q`: the nominal answer is not written.
    pub quiet: bool,
    /// `v`: with the value.
    pub value: bool,
    /// `b`: the key's word is base64.
    pub binary: bool,
}

/// What `ms` does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// The writing half and what it remembers between replies.
pub(super) struct Writer {
    options: Arc<Options>,
    /// The client may not watch: there are too many who do.
    pub refused: bool,
    /// Parts of a `stats` page so far.
    sum: Counters,
    /// Fault of a part of a `flush_all` or a `watch` so far.
    flush_fault: Option<Fault>,
    /// What was counted since [`Writer::settle`]: replies may be written where the core's counters are out of reach.
    tally: Counters,
    tallied: bool,
}

impl Writer {
    pub fn new(options: Arc<Options>) -> Writer {
        Writer {
            options,
            refused: false,
            sum: Counters::default(),
            flush_fault: None,
            tally: Counters::default(),
            tallied: false,
        }
    }

    /// Hands over what was counted while writing.
    #[inline]
    pub fn settle(&mut self, counters: &mut Counters) {
        if self.tallied {
            counters.add(&self.tally);
            self.tally = Counters::default();
            self.tallied = false;
        }
    }

    /// Counts lines of what happens that were shown, and that were not.
    pub fn tally_watched(&mut self, sent: u64, skipped: u64) {
        let tally = self.tally();
        tally.watch_lines_sent_total += sent;
        tally.watch_lines_skipped_total += skipped;
    }

    fn tally(&mut self) -> &mut Counters {
        self.tallied = true;
        &mut self.tally
    }

    /// Counts a fault and answers whether it may be told.
    #[cold]
    fn fault(&mut self, fault: Fault, noreply: bool, out: &mut Vec<u8>) {
        let tally = self.tally();
        tally.errors_total += 1;
        match fault {
            Fault::TooLarge => tally.store_too_large_total += 1,
            Fault::OutOfMemory => tally.store_no_memory_total += 1,
            _ => {}
        }
        if noreply {
            tally.silent_errors_total += 1;
        } else {
            out.extend_from_slice(fault_text(fault));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The answer to a command that has no business answering so: a bug behind the session, said rather than crashed on.
    #[cold]
    fn unexpected(&mut self, noreply: bool, out: &mut Vec<u8>) {
        self.fault(Fault::Unsupported, noreply, out);
    }
}

impl Encode for Writer {
    type Shape = Shape;

    #[inline]
    fn encode(
        &mut self,
        now: Now,
        node: &Node,
        shape: Shape,
        note: &[u8],
        outcome: &Outcome<'_>,
        out: &mut Output,
    ) {
        let answer = outcome.answer;
        match shape {
            Shape::Value { version, touch } => {
                if touch {
                    let tally = self.tally();
                    match answer {
                        Answer::Item(_) => tally.touch_hits_total += 1,
                        _ => tally.touch_misses_total += 1,
                    }
                }
                match answer {
                    Answer::Item(item) => value(note, &item, version, outcome, out),
                    Answer::Miss => {}
                    // A client of get knows no errors between values; a cache may forget.
                    _ => self.tally().errors_total += 1,
                }
            }
            Shape::End => out.extend_from_slice(b"END\r\n"),
            Shape::Stored { noreply, cas } => self.stored(answer, noreply, cas, out),
            Shape::Text => {
                out.extend_from_slice(note);
                out.extend_from_slice(b"\r\n");
            }
            Shape::MetaGet(marks) => self.meta_get(now, marks, note, outcome, out),
            Shape::MetaSet { marks, mode, compared } => {
                self.meta_set(marks, mode, compared, note, answer, out);
            }
            Shape::MetaDelete(marks) => self.meta_delete(marks, note, answer, out),
            Shape::MetaCount { marks, up } => self.meta_count(now, marks, up, note, answer, out),
            Shape::MetaDebug { binary } => self.meta_debug(now, binary, note, outcome, out),
            Shape::Nothing => {}
            Shape::TooLarge { noreply: true } => {}
            Shape::TooLarge { noreply: false } => {
                out.extend_from_slice(fault_text(Fault::TooLarge));
                out.extend_from_slice(b"\r\n");
            }
            Shape::Deleted { noreply } => {
                let text: &[u8] = match answer {
                    Answer::Removed { .. } => b"DELETED\r\n",
                    Answer::Miss | Answer::Refused(_) => {
                        self.tally().delete_misses_total += 1;
                        b"NOT_FOUND\r\n"
                    }
                    Answer::Fault(fault) => return self.fault(fault, noreply, out),
                    _ => return self.unexpected(noreply, out),
                };
                if !noreply {
                    out.extend_from_slice(text);
                }
            }
            Shape::Counted { noreply, up } => match answer {
                Answer::Counted { number: n, .. } => {
                    self.tally_count(up, true);
                    if !noreply {
                        number(n, out);
                        out.extend_from_slice(b"\r\n");
                    }
                }
                Answer::Refused(_) | Answer::Miss => {
                    self.tally_count(up, false);
                    if !noreply {
                        out.extend_from_slice(b"NOT_FOUND\r\n");
                    }
                }
                Answer::Fault(fault) => self.fault(fault, noreply, out),
                _ => self.unexpected(noreply, out),
            },
            Shape::Touched { noreply } => {
                let text: &[u8] = match answer {
                    Answer::Touched(_) => {
                        self.tally().touch_hits_total += 1;
                        b"TOUCHED\r\n"
                    }
                    Answer::Miss | Answer::Refused(_) => {
                        self.tally().touch_misses_total += 1;
                        b"NOT_FOUND\r\n"
                    }
                    Answer::Fault(fault) => return self.fault(fault, noreply, out),
                    _ => return self.unexpected(noreply, out),
                };
                if !noreply {
                    out.extend_from_slice(text);
                }
            }
            Shape::FlushPart => {
                if let Answer::Fault(fault) = answer {
                    self.flush_fault = Some(fault);
                }
            }
            Shape::Flushed { noreply } => match self.flush_fault.take() {
                Some(fault) => self.fault(fault, noreply, out),
                None if noreply => {}
                None => out.extend_from_slice(b"OK\r\n"),
            },
            Shape::Watched => match self.flush_fault.take() {
                Some(_) => {
                    self.refused = true;
                    out.extend_from_slice(b"WATCHER_TOO_MANY log watcher limit reached\r\n");
                }
                None => out.extend_from_slice(b"OK\r\n"),
            },
            Shape::Version => stats::version(node, out),
            Shape::StatsPart => {
                if let Answer::Page { .. } = answer {
                    self.sum.add(&Counters::from_bytes(outcome.value.bytes()));
                }
            }
            Shape::Stats(page) => {
                let sum = std::mem::take(&mut self.sum);
                stats::page(page, now, node, &self.options, &sum, out);
            }
            Shape::Connections => {
                if let Answer::Page { .. } = answer {
                    stats::connections(outcome.value.bytes(), out);
                }
            }
        }
    }
}

impl Writer {
    #[inline]
    fn stored(&mut self, answer: Answer, noreply: bool, cas: bool, out: &mut Vec<u8>) {
        if cas {
            self.tally_cas(answer);
        }
        if matches!(answer, Answer::Refused(_)) {
            self.tally().store_refusals_total += 1;
        }
        let text: &[u8] = match answer {
            Answer::Stored { .. } => b"STORED\r\n",
            Answer::Refused(Refusal::Version) => b"EXISTS\r\n",
            Answer::Refused(Refusal::Absent) if cas => b"NOT_FOUND\r\n",
            Answer::Refused(_) | Answer::Miss => b"NOT_STORED\r\n",
            Answer::Fault(fault) => return self.fault(fault, noreply, out),
            _ => return self.unexpected(noreply, out),
        };
        if !noreply {
            out.extend_from_slice(text);
        }
    }

    fn tally_cas(&mut self, answer: Answer) {
        let tally = self.tally();
        match answer {
            Answer::Stored { .. } => tally.cas_hits_total += 1,
            Answer::Refused(Refusal::Version) => tally.cas_mismatches_total += 1,
            Answer::Refused(_) | Answer::Miss => tally.cas_misses_total += 1,
            _ => {}
        }
    }

    fn tally_count(&mut self, up: bool, hit: bool) {
        let tally = self.tally();
        *match (up, hit) {
            (true, true) => &mut tally.incr_hits_total,
            (true, false) => &mut tally.incr_misses_total,
            (false, true) => &mut tally.decr_hits_total,
            (false, false) => &mut tally.decr_misses_total,
        } += 1;
    }

    fn meta_get(&mut self, now: Now, marks: Marks, note: &[u8], outcome: &Outcome<'_>, out: &mut Output) {
        let item = match outcome.answer {
            Answer::Item(item) => item,
            Answer::Miss if marks.quiet => return,
            Answer::Miss => {
                out.extend_from_slice(b"EN");
                return key_and_opaque(marks, note, out);
            }
            Answer::Fault(fault) => return self.fault(fault, false, out),
            _ => return self.unexpected(false, out),
        };
        let len = outcome.value.len();
        if marks.value {
            out.make_room(&outcome.value, note.len() + 160);
            out.extend_from_slice(b"VA ");
            number(len as u64, out);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut words = Words(note);
        let key = words.next().unwrap_or_default();
        for word in words {
            match word[0] {
                b'O' => opaque(word, out),
                b'k' => {
                    out.extend_from_slice(b" k");
                    if found_key(key, marks.binary, item.binary_key, out) {
                        out.extend_from_slice(b" b");
                    }
                }
                b'c' => flag(b'c', item.version.0, out),
                b'f' => flag(b'f', u64::from(item.flags), out),
                b's' => flag(b's', u64::from(item.len), out),
                b'h' => flag(b'h', u64::from(item.used), out),
                b'l' => flag(b'l', u64::from(item.idle_seconds), out),
                b't' => ttl(now, item.expiry, out),
                _ => {}
            }
        }
        let lease = item.lease;
        if lease.won {
            out.extend_from_slice(if lease.stale { b" X W" } else { b" W" });
        } else {
            if lease.taken {
                out.extend_from_slice(b" Z");
            }
            if lease.stale {
                out.extend_from_slice(b" X");
            }
        }
        out.extend_from_slice(b"\r\n");
        if marks.value {
            out.add(&outcome.value);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn meta_set(
        &mut self,
        marks: Marks,
        mode: Mode,
        compared: bool,
        note: &[u8],
        answer: Answer,
        out: &mut Vec<u8>,
    ) {
        if compared {
            self.tally_cas(answer);
        }
        if matches!(answer, Answer::Refused(_)) {
            self.tally().store_refusals_total += 1;
        }
        let (code, version, stored_len): (&[u8], _, _) = match answer {
            Answer::Stored { .. } if marks.quiet => return,
            Answer::Stored { version, len, .. } => (b"HD", version.0, Some(u64::from(len))),
            Answer::Refused(Refusal::Version) => (b"EX", 0, None),
            Answer::Refused(Refusal::Absent) if compared && matches!(mode, Mode::Set | Mode::Replace) => {
                (b"NF", 0, None)
            }
            Answer::Refused(_) | Answer::Miss => (b"NS", 0, None),
            Answer::Fault(fault) => return self.fault(fault, false, out),
            _ => return self.unexpected(false, out),
        };
        out.extend_from_slice(code);
        let mut words = Words(note);
        let key = words.next().unwrap_or_default();
        let sent_len = words.next().unwrap_or_default();
        for word in words {
            match word[0] {
                b'O' => opaque(word, out),
                b'k' => key_word(key, marks, out),
                b'c' => flag(b'c', version, out),
                b's' => match stored_len {
                    Some(len) => flag(b's', len, out),
                    None => {
                        out.extend_from_slice(b" s");
                        out.extend_from_slice(sent_len);
                    }
                },
                _ => {}
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn meta_delete(&mut self, marks: Marks, note: &[u8], answer: Answer, out: &mut Vec<u8>) {
        let code: &[u8] = match answer {
            Answer::Removed { .. } if marks.quiet => return,
            Answer::Removed { .. } => b"HD",
            Answer::Miss | Answer::Refused(Refusal::Absent) => {
                self.tally().delete_misses_total += 1;
                b"NF"
            }
            Answer::Refused(_) => b"EX",
            Answer::Fault(fault) => return self.fault(fault, false, out),
            _ => return self.unexpected(false, out),
        };
        out.extend_from_slice(code);
        key_and_opaque(marks, note, out);
    }

    fn meta_count(
        &mut self,
        now: Now,
        marks: Marks,
        up: bool,
        note: &[u8],
        answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let (n, item) = match answer {
            Answer::Counted { number, item } => (number, item),
            Answer::Miss | Answer::Refused(Refusal::Absent) => {
                self.tally_count(up, false);
                out.extend_from_slice(b"NF");
                return key_and_opaque(marks, note, out);
            }
            Answer::Refused(Refusal::Version) => {
                out.extend_from_slice(b"EX");
                return key_and_opaque(marks, note, out);
            }
            Answer::Refused(_) => {
                out.extend_from_slice(b"NS");
                return key_and_opaque(marks, note, out);
            }
            Answer::Fault(fault) => return self.fault(fault, false, out),
            _ => return self.unexpected(false, out),
        };
        self.tally_count(up, true);
        if marks.quiet {
            return;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(n).as_bytes();
        if marks.value {
            out.extend_from_slice(b"VA ");
            number(digits.len() as u64, out);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut words = Words(note);
        let key = words.next().unwrap_or_default();
        for word in words {
            match word[0] {
                b'O' => opaque(word, out),
                b'k' => key_word(key, marks, out),
                b'c' => flag(b'c', item.version.0, out),
                b't' => ttl(now, item.expiry, out),
                _ => {}
            }
        }
        out.extend_from_slice(b"\r\n");
        if marks.value {
            out.extend_from_slice(digits);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn meta_debug(&mut self, now: Now, binary: bool, note: &[u8], outcome: &Outcome<'_>, out: &mut Output) {
        let item = match outcome.answer {
            Answer::Item(item) => item,
            Answer::Miss => return out.extend_from_slice(b"EN\r\n"),
            Answer::Fault(fault) => return self.fault(fault, false, out),
            _ => return self.unexpected(false, out),
        };
        out.extend_from_slice(b"ME ");
        found_key(note, binary, item.binary_key, out);
        out.extend_from_slice(b" exp=");
        seconds_left(now, item.expiry, out);
        out.extend_from_slice(b" la=");
        number(u64::from(item.idle_seconds), out);
        out.extend_from_slice(b" cas=");
        number(item.version.0, out);
        out.extend_from_slice(if item.used { b" fetch=yes" } else { b" fetch=no" });
        out.extend_from_slice(b" cls=1 size=");
        number(note.len() as u64 + u64::from(item.len), out);
        out.extend_from_slice(b"\r\n");
    }
}

/// `VALUE <key> <flags> <bytes> [<version>]`, the value and the line's end, with one look at the buffer's capacity.
#[inline]
fn value(key: &[u8], item: &Item, version: bool, outcome: &Outcome<'_>, out: &mut Output) {
    let len = outcome.value.len();
    out.make_room(&outcome.value, key.len() + 64);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    number(u64::from(item.flags), out);
    out.push(b' ');
    number(len as u64, out);
    if version {
        out.push(b' ');
        number(item.version.0, out);
    }
    out.extend_from_slice(b"\r\n");
    out.add(&outcome.value);
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn flag(letter: u8, n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b' ', letter]);
    number(n, out);
}

fn opaque(word: &[u8], out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(word);
}

fn key_word(word: &[u8], marks: Marks, out: &mut Vec<u8>) {
    out.extend_from_slice(b" k");
    out.extend_from_slice(word);
    if marks.binary {
        out.extend_from_slice(b" b");
    }
}

/// The key of an item as it was given when that was stored; whether it is base64. `binary`: the word is.
fn found_key(word: &[u8], binary: bool, binary_key: bool, out: &mut Vec<u8>) -> bool {
    match (binary, binary_key) {
        (false, true) => append_base64(word, out),
        (true, false) => {
            let mut decoded = [0; BASE64_BYTES_MAX];
            let len = base64(word, &mut decoded).unwrap_or(0);
            // Other protocols store keys that no line of this one could show.
            let plain = is_key(&decoded[..len], KEY_BYTES_MAX);
            out.extend_from_slice(if plain { &decoded[..len] } else { word });
            return !plain;
        }
        _ => out.extend_from_slice(word),
    }
    binary_key
}

fn ttl(now: Now, expiry: Expiry, out: &mut Vec<u8>) {
    out.extend_from_slice(b" t");
    seconds_left(now, expiry, out);
}

fn seconds_left(now: Now, expiry: Expiry, out: &mut Vec<u8>) {
    match expiry {
        Expiry::Never => out.extend_from_slice(b"-1"),
        Expiry::At(at) => number(now.millis_until(at).div_ceil(1000), out),
    }
}

/// The flags that every answer shows, and the line's end.
fn key_and_opaque(marks: Marks, note: &[u8], out: &mut Vec<u8>) {
    let mut words = Words(note);
    let key = words.next().unwrap_or_default();
    for word in words {
        match word[0] {
            b'O' => opaque(word, out),
            b'k' => key_word(key, marks, out),
            _ => {}
        }
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn fault_text(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::NotInteger | Fault::NotFloat | Fault::Overflow | Fault::NotFinite => {
            b"CLIENT_ERROR cannot increment or decrement non-numeric value"
        }
        Fault::TooLarge => b"SERVER_ERROR object too large for cache",
        Fault::OutOfMemory => b"SERVER_ERROR out of memory storing object",
        Fault::Busy => b"SERVER_ERROR busy",
        Fault::Unsupported => b"SERVER_ERROR unsupported",
        Fault::Origin => b"SERVER_ERROR the origin failed",
        Fault::Away => b"SERVER_ERROR the node that owns the key cannot be reached",
    }
}
