//! The writing half: RESP2 and RESP3 types, and how outcomes become replies.
//!
//! Replies of several requests (`DEL a b`, `DBSIZE` on many cores) are made of *parts*, which gather in the writer, and an
//! *end*, which writes the sum. As encoding happens strictly in the order of the requests, one set of gathered things is
//! enough for a connection.

use super::client::Kept;
use super::{info, lease};
use crate::clock::Now;
use crate::ids::Version;
use crate::request::{Answer, Expiry, Fault, Item, Outcome, Refusal, SHARED_BYTES_MIN, Value};
use crate::topology::Node;
use crate::wire::journal::{Blame, Errors};
use crate::wire::{Encode, Output};

/// The error of a value that is no integer, which many commands share.
pub(super) const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
/// The error of options that make no sense.
pub(super) const SYNTAX: &str = "ERR syntax error";
/// The error of keys that belong to different cores, where they must not.
pub(super) const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
/// The error of a command for which there is no memory.
pub(super) const NO_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// The error of a value that is longer than the store or the command takes.
const TOO_LARGE: &str = "ERR value too large: for item-size, for a quarter of a core's memory, or (from 16 MiB or a 64th of that) for a command that copies it";
/// The error of a value that is too long.
pub(super) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
/// The error of `RESTORE` where there is something already.
const BUSY_KEY: &str = "BUSYKEY Target key name already exists.";
/// Number of calls counted per core and sent behind the bytes of its counters, a little-endian u64 each.
pub(super) const CALLS: usize = 256;

/// How a reply is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// The note is the reply.
    Raw,
    /// The value is the reply, as an origin wrote it.
    Passed,
    /// `+OK` if stored, null if refused.
    Ok,
    /// 1 if something was there or happened, else 0.
    Flag,
    /// The value, or null.
    Bulk,
    /// The value, or null, as an element: a fault is a null too, for a cache may forget.
    Element,
    /// The value before, or null.
    Previous,
    /// The counter.
    Counted,
    /// Length of the value.
    Length,
    /// A number.
    Number,
    /// What is left of the time to live, or when it ends.
    Expiry {
        /// Else seconds, rounded.
        millis: bool,
        /// Else what is left.
        absolute: bool,
    },
    /// State, token and value of `LEASEGET`.
    Lease,
    /// `string` or `none`.
    Type,
    /// A part of the value, by Redis's indices: from 0, or from the end if negative, both inclusive.
    Range {
        start: i64,
        end: i64,
    },
    /// `RENAME` (`+OK`) and `RENAMENX` (1, or 0 where the target exists); an error where there is no source.
    Renamed {
        always: bool,
    },
    /// What `RESTORE` makes of the value.
    Dumped,
    /// `+OK`, or that the key is taken.
    Restored,
    /// That the key is taken, or the error of the note.
    RestoreRefused,
    /// What `OBJECT` and `MEMORY USAGE` tell.
    Encoding,
    References,
    IdleSeconds,
    Frequency,
    /// The note is the key.
    Usage,
    /// The empty key in a list, if it is there, or in the last page of a walk.
    EmptyKey {
        page: bool,
    },
    /// A page of `SCAN` on this core.
    Page {
        core: u16,
        /// Whether the walk ends with this core.
        alone: bool,
    },

    /// Parts: 1 for something there, or the number; faults are remembered.
    SumPart,
    /// The same, of something that is to be copied: too long for that is a fault.
    CopiedPart,
    /// The sum, or the first fault.
    SumEnd,
    /// As `SumPart`; the words of a fault are remembered, too.
    UnblockPart,
    /// The sum, or those words.
    UnblockEnd,
    /// `+OK`, or the first fault.
    OkEnd,
    /// The version of what was found or stored.
    VersionPart,
    /// Gathers an item and its value.
    TakePart,
    /// Nothing, whatever came of it.
    Ignored,
    /// Gathers a page's bytes and remembers its cursor.
    PagePart,
    /// The gathered keys, at most this many.
    KeysEnd {
        most: u32,
    },
    /// One of the gathered keys; the number picks.
    AnyKeyEnd {
        pick: u32,
    },
    /// Counters of a core.
    CountersPart,
    /// `INFO`; the note names the sections.
    InfoEnd,
    /// `MEMORY STATS`.
    MemoryEnd,
    /// `SLOWLOG GET`, `LATENCY LATEST` or `HISTORY`, `LATENCY HISTOGRAM` (the note names commands).
    SlowEnd {
        most: u32,
    },
    /// `ACL LOG`.
    DenialsEnd {
        most: u32,
    },
    LatencyEnd {
        latest: bool,
    },
    HistogramsEnd,
    /// 1 if the sum is more than 0.
    AnyEnd,
    /// `CLIENT LIST`: the note is this many ids (little-endian u64; none: all), then the client's own line.
    ClientsEnd {
        ids: u32,
        kept: Kept,
    },

    /// Remembers a watched key, which is the note, as it is now.
    WatchPart,
    /// Forgets what is watched.
    Unwatch,
    /// `EXEC` of this many commands: an array of their replies, or a null if a watched key has changed.
    Exec {
        commands: u32,
    },
    /// Behind the last reply of an `EXEC`.
    ExecEnd,

    /// A push that the key of the note has changed, or all have; a line of `MONITOR`.
    Changed,
    AllChanged,
    Line,
    /// The same of another client's key, or of all: a push, or a message to one who subscribes.
    Redirected {
        subscribed: bool,
        all: bool,
    },
    /// A push that who was told in this client's place has gone; the note is his id.
    RedirectBroken,
    /// What an origin has to say; the note is all of it.
    Pushed,

    /// From here on this protocol version is spoken.
    Protocol(u8),
    /// From here on replies are written, or not.
    Mute(bool),
}

/// The writing half of a session.
pub(super) struct Writer {
    /// See [`crate::wire::Options::copied_bytes_max`].
    pub copied_bytes_max: usize,
    protocol: u8,
    muted: bool,
    /// Error replies written, until somebody takes them.
    pub errors: Errors,
    blame: Blame,
    /// What parts gathered.
    pub gathered: Vec<u8>,
    pub versions: Vec<Version>,
    pub taken: Option<Item>,
    pub cursor: u64,
    pub sum: i64,
    pub fault: Option<Fault>,
    /// Watched keys as [`crate::request::Verb::Guard`] wants them.
    pub watched: Vec<u8>,
    /// The present `EXEC` is not done: nothing that comes before its end is written.
    pub aborted: bool,
    totals: Option<Box<info::Totals>>,
    rate: info::Rate,
}

impl Writer {
    pub fn new(copied_bytes_max: usize) -> Self {
        Writer {
            copied_bytes_max,
            protocol: 2,
            muted: false,
            errors: Errors::default(),
            blame: Blame::NOBODY,
            gathered: Vec::new(),
            versions: Vec::new(),
            taken: None,
            cursor: 0,
            sum: 0,
            fault: None,
            watched: Vec::new(),
            aborted: false,
            totals: None,
            rate: info::Rate::default(),
        }
    }

    /// Forgets what parts gathered, and its memory.
    pub fn forget(&mut self) {
        self.gathered = Vec::new();
        self.versions = Vec::new();
        self.taken = None;
        (self.cursor, self.sum, self.fault) = (0, 0, None);
    }

    fn fault(&mut self, fault: Fault, out: &mut Vec<u8>) {
        error(out, fault_text(fault));
    }

    fn end(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Writer, &mut Vec<u8>)) {
        match self.fault {
            Some(fault) => self.fault(fault, out),
            None => write(self, out),
        }
        self.forget();
    }

    #[cold]
    fn tell(&mut self, shape: Shape, note: &[u8], out: &mut Vec<u8>) {
        if shape == Shape::Pushed {
            out.extend_from_slice(note);
            return;
        }
        if shape == Shape::Line {
            simple(out, &String::from_utf8_lossy(note));
            return;
        }
        match shape {
            Shape::RedirectBroken if self.protocol == 3 => {
                push(out, 3, 2);
                bulk(out, b"tracking-redir-broken");
                out.extend_from_slice(&[b":", note, b"\r\n"].concat());
                return;
            }
            Shape::Redirected { subscribed: true, .. } if self.protocol == 2 => {
                header(out, b'*', 3);
                bulk(out, b"message");
                bulk(out, b"__redis__:invalidate");
            }
            // RESP2 has no form for the others.
            _ if self.protocol != 3 => return,
            _ => {
                push(out, 3, 2);
                bulk(out, b"invalidate");
            }
        }
        match shape {
            Shape::Changed | Shape::Redirected { all: false, .. } => {
                header(out, b'*', 1);
                bulk(out, note);
            }
            _ => null(out, self.protocol),
        }
    }

    /// Everything that is not a plain hit, miss or store; errors are counted.
    #[inline(never)]
    fn unusual(
        &mut self,
        now: Now,
        node: &Node,
        shape: Shape,
        note: &[u8],
        outcome: &Outcome<'_>,
        out: &mut Output,
    ) {
        let before = out.len();
        self.write(now, node, shape, note, outcome, out);
        if let Some([b'-', error @ ..]) = out.get(before..) {
            self.errors.add(self.blame, error);
        }
    }

    fn write(
        &mut self,
        now: Now,
        node: &Node,
        shape: Shape,
        note: &[u8],
        outcome: &Outcome<'_>,
        out: &mut Output,
    ) {
        let Outcome { answer, value } = outcome;
        match (shape, *answer) {
            (Shape::Raw, _) => {
                out.extend_from_slice(note);
            }
            (Shape::Protocol(version), _) => self.protocol = version,
            (Shape::WatchPart, answer) => {
                let (version, expiry) = match answer {
                    Answer::Item(item) => (item.version, item.expiry),
                    _ => (Version::NONE, Expiry::Never),
                };
                self.watched.extend_from_slice(&(note.len() as u32).to_le_bytes());
                self.watched.extend_from_slice(note);
                self.watched.extend_from_slice(&version.0.to_le_bytes());
                self.watched.extend_from_slice(&expiry.to_number().to_le_bytes());
            }
            (Shape::Unwatch, _) => self.watched = Vec::new(),
            (Shape::Exec { .. }, Answer::Refused(_)) => {
                out.extend_from_slice(if self.protocol == 3 { b"_\r\n" } else { b"*-1\r\n" });
                self.aborted = true;
            }
            (Shape::Exec { .. }, Answer::Fault(fault)) => {
                self.fault(fault, out);
                self.aborted = true;
            }
            (Shape::Exec { commands }, _) => header(out, b'*', commands as usize),
            (Shape::ExecEnd, _) => {}
            (
                Shape::Mute(_)
                | Shape::Changed
                | Shape::AllChanged
                | Shape::Line
                | Shape::Redirected { .. }
                | Shape::RedirectBroken
                | Shape::Pushed,
                _,
            ) => unreachable!("handled before"),

            (Shape::CopiedPart, Answer::Item(item)) if item.len as usize > self.copied_bytes_max => {
                self.fault = self.fault.or(Some(Fault::TooLarge));
            }
            (Shape::SumPart | Shape::CopiedPart, answer) => match answer {
                Answer::Fault(fault) => self.fault = self.fault.or(Some(fault)),
                Answer::Number(number) => self.sum += number,
                answer => self.sum += i64::from(happened(answer)),
            },
            (Shape::UnblockPart, answer) => match answer {
                Answer::Number(number) => self.sum += number,
                Answer::Fault(fault) => {
                    self.fault = self.fault.or(Some(fault));
                    value.append_to(&mut self.gathered);
                }
                _ => {}
            },
            (Shape::UnblockEnd, _) => match std::mem::take(&mut self.gathered) {
                text if text.is_empty() => self.end(out, |writer, out| number(out, writer.sum)),
                text => {
                    out.extend_from_slice(&[b"-", text.as_slice(), b"\r\n"].concat());
                    self.forget();
                }
            },
            (Shape::VersionPart, answer) => match answer {
                Answer::Stored { version, .. } | Answer::Item(Item { version, .. }) => {
                    self.versions.push(version);
                }
                Answer::Fault(fault) => {
                    self.fault = self.fault.or(Some(fault));
                    self.versions.push(Version::NONE);
                }
                _ => self.versions.push(Version::NONE),
            },
            (Shape::TakePart, answer) => match answer {
                Answer::Item(item) => {
                    self.taken = Some(item);
                    value.append_to(&mut self.gathered);
                }
                Answer::Fault(fault) => self.fault = self.fault.or(Some(fault)),
                _ => {}
            },
            (Shape::Ignored, _) => {}
            (Shape::PagePart, answer) => match answer {
                Answer::Page { cursor } => {
                    self.cursor = cursor;
                    value.append_to(&mut self.gathered);
                }
                Answer::Fault(fault) => {
                    (self.fault, self.cursor) = (self.fault.or(Some(fault)), 0);
                }
                _ => self.cursor = 0,
            },
            (Shape::CountersPart, _) => {
                self.totals.get_or_insert_default().add(value.bytes());
            }
            (Shape::SlowEnd { most }, _) => self.end(out, |writer, out| {
                super::timings::write_slow(&writer.gathered, most as usize, out);
            }),
            (Shape::DenialsEnd { most }, _) => self.end(out, |writer, out| {
                super::acl::write_denials(now, &writer.gathered, most as usize, writer.protocol, out);
            }),
            (Shape::LatencyEnd { latest }, _) => self.end(out, |writer, out| {
                super::timings::write_latencies(&writer.gathered, latest, out);
            }),
            (Shape::HistogramsEnd, _) => {
                let totals = self.totals.take().unwrap_or_default();
                super::timings::write_histograms(&totals.timings, self.protocol, note, out);
            }
            (Shape::AnyEnd, _) => self.end(out, |writer, out| number(out, i64::from(writer.sum > 0))),
            (Shape::SumEnd, _) => self.end(out, |writer, out| number(out, writer.sum)),
            (Shape::OkEnd, _) => self.end(out, |_, out| out.extend_from_slice(b"+OK\r\n")),
            (Shape::KeysEnd { most }, _) => self.end(out, |writer, out| {
                let most = most as usize;
                header(out, b'*', keys(&writer.gathered).take(most).count());
                keys(&writer.gathered).take(most).for_each(|key| bulk(out, key));
            }),
            (Shape::AnyKeyEnd { pick }, _) => self.end(out, |writer, out| {
                let count = keys(&writer.gathered).count();
                let picked = pick as usize % count.max(1);
                match keys(&writer.gathered).nth(picked) {
                    Some(key) => bulk(out, key),
                    None => null(out, writer.protocol),
                }
            }),
            (Shape::InfoEnd, _) => {
                let totals = self.totals.take().unwrap_or_default();
                let text = info::text(now, node, &totals, &mut self.rate, note);
                verbatim(out, self.protocol, &text);
            }
            (Shape::MemoryEnd, _) => {
                let totals = self.totals.take().unwrap_or_default();
                memory_stats(out, self.protocol, &totals);
            }
            (Shape::ClientsEnd { ids, kept }, _) => {
                let (ids, own) = note.split_at(ids as usize * 8);
                let mut text = std::mem::take(&mut self.gathered);
                // The shell cannot describe the session that it is serving right now.
                if !client_lines(&text).any(|line| client_id(line) == client_id(own)) {
                    text.extend_from_slice(own);
                }
                if !ids.is_empty() {
                    let wanted = |line: &&[u8]| {
                        client_id(line).is_some_and(|id| ids.chunks_exact(8).any(|c| c == id.to_le_bytes()))
                    };
                    text = client_lines(&text).filter(wanted).flatten().copied().collect();
                }
                if kept != Kept::All {
                    text = client_lines(&text).filter(|line| kept.keeps(line)).flatten().copied().collect();
                }
                self.forget();
                verbatim(out, self.protocol, &text);
            }

            (Shape::RestoreRefused, answer) => {
                let taken = matches!(answer, Answer::Item(_));
                let text = if taken { BUSY_KEY.as_bytes() } else { note };
                out.extend_from_slice(&[b"-", text, b"\r\n"].concat());
            }
            (Shape::Passed, Answer::Page { .. }) => out.add(value),
            // Of what the origin did not say nobody knows that it is absent.
            (_, Answer::Fault(Fault::Origin)) if !value.is_empty() => {
                out.push(b'-');
                value.append_to(out);
                out.extend_from_slice(b"\r\n");
            }
            (Shape::Element, Answer::Fault(fault @ (Fault::Origin | Fault::Away))) => self.fault(fault, out),
            (Shape::Element, Answer::Fault(_)) => null(out, self.protocol),
            (_, Answer::Fault(fault)) => self.fault(fault, out),
            (Shape::Ok, Answer::Refused(_) | Answer::Miss) => null(out, self.protocol),
            (Shape::Ok, _) => out.extend_from_slice(b"+OK\r\n"),
            (Shape::Flag, answer) => number(out, i64::from(happened(answer))),
            (Shape::Bulk | Shape::Element, Answer::Item(_)) => bulk_value(out, value),
            (Shape::Bulk | Shape::Element | Shape::Passed, _) => null(out, self.protocol),
            (Shape::Previous, Answer::Previous { existed: true, .. }) => bulk_value(out, value),
            (Shape::Previous, _) => null(out, self.protocol),
            (Shape::Counted, Answer::Counted { number: counted, .. }) => number(out, counted as i64),
            (Shape::Length, Answer::Stored { len, .. }) => number(out, i64::from(len)),
            (Shape::Length, Answer::Item(item)) => number(out, i64::from(item.len)),
            (Shape::Number, Answer::Number(n)) => number(out, n),
            (Shape::Counted | Shape::Length | Shape::Number, _) => number(out, 0),
            (Shape::Expiry { millis, absolute }, Answer::Item(item)) => {
                let left = match item.expiry {
                    Expiry::Never => -1,
                    Expiry::At(at) => {
                        let ms = if absolute { now.wall_of(at).0 } else { now.millis_until(at) };
                        (if millis { ms } else { (ms + 500) / 1000 }) as i64
                    }
                };
                number(out, left);
            }
            (Shape::Expiry { .. }, _) => number(out, -2),
            (Shape::Lease, Answer::Item(item)) => lease::write(self.protocol, &item, value, out),
            (Shape::Lease, _) => null(out, self.protocol),
            (Shape::Type, Answer::Item(_)) => out.extend_from_slice(b"+string\r\n"),
            (Shape::Type, _) => out.extend_from_slice(b"+none\r\n"),
            (Shape::Range { start, end }, Answer::Item(_)) => {
                let range = range(value.len(), start, end);
                match value {
                    // A short part had better be copied than hold all of it.
                    Value::Shared(shared) if range.len() >= SHARED_BYTES_MIN => {
                        bulk_value(out, &Value::Shared(&shared.part(range)));
                    }
                    _ => bulk(out, &value.bytes()[range]),
                }
            }
            (Shape::Range { .. }, _) => bulk(out, b""),
            (Shape::Renamed { always: true }, Answer::Stored { .. }) => out.extend_from_slice(b"+OK\r\n"),
            (Shape::Renamed { .. }, Answer::Stored { .. }) => number(out, 1),
            (Shape::Renamed { .. }, Answer::Refused(Refusal::Present)) => number(out, 0),
            (Shape::Renamed { .. }, _) => {
                error(out, "ERR no such key");
            }
            (Shape::Dumped, Answer::Item(_)) if value.len() > self.copied_bytes_max => {
                error(out, fault_text(Fault::TooLarge));
            }
            (Shape::Dumped, Answer::Item(_)) => {
                let mut payload = Vec::new();
                super::dump::encode(value.bytes(), &mut payload);
                bulk(out, &payload);
            }
            (Shape::Dumped, _) => null(out, self.protocol),
            (Shape::Restored, Answer::Stored { .. }) => out.extend_from_slice(b"+OK\r\n"),
            (Shape::Restored, _) => {
                error(out, BUSY_KEY);
            }
            (Shape::Encoding, Answer::Item(_)) => {
                let value = value.bytes();
                bulk(
                    out,
                    if super::parser::integer(value).is_some() {
                        b"int"
                    } else if value.len() <= 44 {
                        b"embstr"
                    } else {
                        b"raw"
                    },
                );
            }
            (Shape::References, Answer::Item(_)) => number(out, 1),
            (Shape::IdleSeconds, Answer::Item(item)) => number(out, i64::from(item.idle_seconds)),
            (Shape::Frequency, Answer::Item(_)) => {
                error(
                    out,
                    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
                     when switching between policies at runtime LRU and LFU data will take some time to adjust.",
                );
            }
            (Shape::Usage, Answer::Item(item)) => {
                number(out, i64::from(item.len) + note.len() as i64 + ITEM_OVERHEAD_BYTES);
            }
            (
                Shape::Encoding | Shape::References | Shape::IdleSeconds | Shape::Frequency | Shape::Usage,
                _,
            ) => {
                null(out, self.protocol);
            }
            (Shape::EmptyKey { page }, answer) => {
                if page {
                    out.extend_from_slice(b"*2\r\n$1\r\n0\r\n");
                }
                let there = matches!(answer, Answer::Item(_));
                out.extend_from_slice(if there { b"*1\r\n$0\r\n\r\n" } else { b"*0\r\n" });
            }
            (Shape::Page { core, alone }, Answer::Page { cursor }) => {
                let value = value.bytes();
                header(out, b'*', 2usize);
                let mut digits = itoa::Buffer::new();
                bulk(
                    out,
                    digits.format(if alone { cursor } else { join_cursor(node, core, cursor) }).as_bytes(),
                );
                header(out, b'*', keys(value).count());
                keys(value).for_each(|key| bulk(out, key));
            }
            (Shape::Page { .. }, _) => out.extend_from_slice(b"*2\r\n$1\r\n0\r\n*0\r\n"),
        }
    }
}

impl Encode for Writer {
    type Shape = Shape;

    #[inline]
    fn blame(&mut self, blame: Blame) {
        self.blame = blame;
    }

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
        match shape {
            Shape::Mute(muted) => {
                self.muted = muted;
                return;
            }
            // No replies, so no muting either.
            Shape::Changed
            | Shape::AllChanged
            | Shape::Line
            | Shape::Redirected { .. }
            | Shape::RedirectBroken
            | Shape::Pushed => return self.tell(shape, note, out),
            _ => {}
        }
        let before = out.len();
        match (shape, outcome.answer) {
            _ if self.aborted => self.aborted = shape != Shape::ExecEnd,
            (Shape::Bulk, Answer::Item(_)) => bulk_value(out, &outcome.value),
            (Shape::Ok, Answer::Stored { .. }) => out.extend_from_slice(b"+OK\r\n"),
            _ => self.unusual(now, node, shape, note, outcome, out),
        }
        if self.muted {
            out.truncate(before);
        }
    }
}

/// Bytes that an item takes beside its key and value, as `MEMORY USAGE` tells; the store's aim.
const ITEM_OVERHEAD_BYTES: i64 = 24;

/// The cursor a client is told: the core is the remainder by the number of cores, the core's own cursor the quotient. So
/// 0 begins, the first page of core `n` is `n`, and cursors stay small decimals. A core's cursor has to stay below 2^48.
fn join_cursor(node: &Node, core: u16, cursor: u64) -> u64 {
    let cores = u64::from(node.core_count().max(1));
    let next_core = u64::from(core) + 1;
    match cursor {
        0 if next_core < cores => next_core,
        0 => 0,
        cursor => cursor.saturating_mul(cores).saturating_add(u64::from(core)),
    }
}

/// The core and its cursor in what a client sent.
pub(super) fn split_cursor(node: &Node, cursor: u64) -> (u16, u64) {
    let cores = u64::from(node.core_count().max(1));
    ((cursor % cores) as u16, cursor / cores)
}

/// The keys of a page.
pub(super) fn keys(mut page: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = page.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        page = rest;
        Some(key)
    })
}

/// The lines of `CLIENT LIST`, each with its line feed.
pub(super) fn client_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&b| b == b'\n')
}

/// The value of a field of such a line.
pub(super) fn client_field<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.split(|&b| b == b' ' || b == b'\n')
        .find_map(|field| field.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The id in such a line.
pub(super) fn client_id(line: &[u8]) -> Option<u64> {
    super::parser::unsigned(client_field(line, "id")?)
}

fn happened(answer: Answer) -> bool {
    match answer {
        Answer::Item(_) | Answer::Stored { .. } | Answer::Removed { .. } | Answer::Touched(_) => true,
        Answer::Previous { stored, .. } => stored,
        Answer::Number(number) => number != 0,
        Answer::Miss
        | Answer::Refused(_)
        | Answer::Counted { .. }
        | Answer::Page { .. }
        | Answer::Fault(_) => false,
    }
}

pub(super) fn fault_text(fault: Fault) -> &'static str {
    match fault {
        Fault::NotInteger => NOT_INTEGER,
        Fault::NotFloat => "ERR value is not a valid float",
        Fault::Overflow => "ERR increment or decrement would overflow",
        Fault::NotFinite => "ERR increment would produce NaN or Infinity",
        Fault::TooLarge => TOO_LARGE,
        Fault::OutOfMemory => NO_MEMORY,
        Fault::Busy => "TRYAGAIN Multiple keys request during rehashing of slot",
        Fault::Unsupported => "ERR this operation is not supported by this server",
        Fault::Origin => "ERR the origin failed",
        Fault::Away => "CLUSTERDOWN the node that owns the key cannot be reached",
    }
}

/// The bytes that Redis's inclusive indices mean.
fn range(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let size = len as i64;
    let from_front = |index: i64| if index < 0 { (size.saturating_add(index)).max(0) } else { index };
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let (start, end) = (from_front(start), from_front(end).min(size - 1));
    if start > end || size == 0 { 0..0 } else { start as usize..end as usize + 1 }
}

fn memory_stats(out: &mut Vec<u8>, protocol: u8, totals: &info::Totals) {
    let counters = &totals.counters;
    let per_key = counters.payload_bytes.checked_div(counters.items).unwrap_or(0);
    let fields: [(&str, u64); 7] = [
        ("peak.allocated", totals.used_peak()),
        ("total.allocated", totals.used()),
        ("clients.normal", counters.buffer_bytes),
        ("overhead.total", counters.store_bytes.saturating_sub(counters.payload_bytes)),
        ("keys.count", counters.items),
        ("keys.bytes-per-key", per_key),
        ("dataset.bytes", counters.payload_bytes),
    ];
    map(out, protocol, fields.len());
    for (name, value) in fields {
        bulk(out, name.as_bytes());
        number(out, value as i64);
    }
}

/// Appends a type byte, a length and CRLF.
#[inline]
pub(super) fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an integer.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a bulk string.
#[inline]
pub(super) fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn bulk_value(out: &mut Output, value: &Value<'_>) {
    header(out, b'$', value.len());
    // The line end behind a long value is not to double its buffer.
    out.make_room(value, 2);
    out.add(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a simple string.
pub(super) fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an error; the text begins with its code.
pub(super) fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a null.
pub(super) fn null(out: &mut Vec<u8>, protocol: u8) {
    out.extend_from_slice(if protocol == 3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// Begins a map of `len` pairs: in RESP2 an array of twice as many.
pub(super) fn map(out: &mut Vec<u8>, protocol: u8, len: usize) {
    if protocol == 3 { header(out, b'%', len) } else { header(out, b'*', len * 2) }
}

/// Begins a set: in RESP2 an array.
pub(super) fn set(out: &mut Vec<u8>, protocol: u8, len: usize) {
    header(out, if protocol == 3 { b'~' } else { b'*' }, len);
}

/// Begins a push: in RESP2 an array.
pub(super) fn push(out: &mut Vec<u8>, protocol: u8, len: usize) {
    header(out, if protocol == 3 { b'>' } else { b'*' }, len);
}

/// Appends a decimal fraction: in RESP2 a bulk string.
pub(super) fn double(out: &mut Vec<u8>, protocol: u8, value: f64) {
    let text = value.to_string();
    if protocol == 3 {
        out.push(b',');
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    } else {
        bulk(out, text.as_bytes());
    }
}

/// Appends text for people: in RESP2 a bulk string.
pub(super) fn verbatim(out: &mut Vec<u8>, protocol: u8, text: &[u8]) {
    if protocol == 3 {
        header(out, b'=', text.len() + 4);
        out.extend_from_slice(b"txt:");
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    } else {
        bulk(out, text);
    }
}
