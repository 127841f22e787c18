//! Our side of a conversation with memcached (1.6 or later): its meta commands, pipelined.
//!
//! A read is `mg KEY v f t c O1`: value, flags, time to live and version in one answer. Keys that the text protocol could not
//! carry go in base64. Answers come in the order of the questions; the number behind `O`, which all but misses bring back, shows
//! that they do.

use super::{Ask, Broken, Found, Heard, Inbox, Limits, Reply, Ticket, What, decimal, line, refusal};
use crate::ids::Version;
use crate::request::Condition;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::io::Write as _;

/// Questions on the way on one connection.
const PIPELINE_MAX: usize = 64;
/// Longest key in the form it is sent in.
const KEY_BYTES_MAX: usize = 250;
/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 2048;

/// One connection's conversation.
pub struct Client {
    limits: Limits,
    inbox: Inbox,
    awaited: VecDeque<(Ticket, Awaited)>,
}

#[derive(Clone, Copy)]
enum Awaited {
    Value,
    Written,
    Counted,
}

impl Client {
    pub(super) fn new(limits: Limits) -> Client {
        Client { limits, inbox: Inbox::default(), awaited: VecDeque::new() }
    }

    pub(super) fn room(&self) -> usize {
        PIPELINE_MAX - self.awaited.len().min(PIPELINE_MAX)
    }

    pub(super) fn ask(&mut self, ticket: Ticket, ask: &Ask, out: &mut Vec<u8>) -> Option<Reply> {
        let plain = ask.key.iter().all(|&byte| byte > b' ' && byte != 0x7f);
        let (key, mark) = match plain && !ask.key.is_empty() {
            true => (std::borrow::Cow::Borrowed(ask.key.as_slice()), ""),
            false => (STANDARD.encode(&ask.key).into_bytes().into(), " b"),
        };
        if key.len() > KEY_BYTES_MAX || key.is_empty() {
            return Some(match ask.what {
                What::Read { .. } => Reply::Absent { fresh_millis: None },
                _ => Reply::Refused(b"ERR the key is longer than this origin takes".to_vec()),
            });
        }
        let begin = |out: &mut Vec<u8>, verb: &[u8]| {
            out.extend_from_slice(verb);
            out.push(b' ');
            out.extend_from_slice(&key);
        };
        let awaited = match &ask.what {
            What::Read { .. } => {
                begin(out, b"mg");
                end(out, ticket, format_args!(" v f t c{mark}"));
                Awaited::Value
            }
            What::Put { value, flags, live_millis, condition } => {
                let condition = match condition {
                    Condition::Always => String::new(),
                    Condition::Absent => " ME".into(),
                    Condition::Present | Condition::Held => " MR".into(),
                    Condition::VersionIs(version) => format!(" C{}", version.0),
                    Condition::VersionIsOrStale(version) => format!(" C{} I", version.0),
                };
                begin(out, b"ms");
                let (len, live) = (value.len(), seconds(*live_millis));
                end(out, ticket, format_args!(" {len} F{flags} T{live}{condition}{mark}"));
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
                Awaited::Written
            }
            What::Remove => {
                begin(out, b"md");
                end(out, ticket, format_args!("{mark}"));
                Awaited::Written
            }
            What::Count { by } => {
                begin(out, b"ma");
                let (mode, by) = if *by < 0 { ("D", by.unsigned_abs()) } else { ("I", by.unsigned_abs()) };
                end(out, ticket, format_args!(" v M{mode} D{by}{mark}"));
                Awaited::Counted
            }
            What::Expire { live_millis } => {
                begin(out, b"mg");
                end(out, ticket, format_args!(" T{}{mark}", seconds(*live_millis)));
                Awaited::Written
            }
            What::Command { .. } | What::Subscribe { .. } | What::Asking(_) => {
                return Some(Reply::Refused(
                    b"ERR this origin takes no commands of another protocol".to_vec(),
                ));
            }
        };
        self.awaited.push_back((ticket, awaited));
        None
    }

    pub(super) fn receive(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
        self.inbox.push(bytes);
        while self.inbox.worth_looking() {
            let rest = self.inbox.rest();
            let Some((head, taken)) = line(rest) else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Broken::TooLarge("a line"));
                }
                let needed = rest.len() + 1;
                self.inbox.need(needed);
                break;
            };
            if head.len() > LINE_BYTES_MAX {
                return Err(Broken::TooLarge("a line"));
            }
            let &(ticket, awaited) = self.awaited.front().ok_or(Broken::Unasked)?;
            let mut words = head.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
            let code = words.next().ok_or(Broken::Protocol("an empty line"))?;
            let refuses = matches!(code, b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR");
            if !refuses && is_of_another(ticket, words.clone()) {
                return Err(Broken::Unasked);
            }
            let mut end = taken;
            let reply = match code {
                b"VA" => {
                    let len = words.next().and_then(decimal).ok_or(Broken::Protocol("a length"))?;
                    if len > self.limits.value_bytes_max as u64 {
                        return Err(Broken::TooLarge("a value"));
                    }
                    end += len as usize + 2;
                    if rest.len() < end {
                        self.inbox.need(end);
                        break;
                    }
                    if &rest[end - 2..end] != b"\r\n" {
                        return Err(Broken::Protocol("a value that does not end where it said"));
                    }
                    let value = &rest[taken..end - 2];
                    match awaited {
                        Awaited::Value => Reply::Found(found(value, words)),
                        Awaited::Counted => {
                            let number =
                                std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
                            Reply::Counted(number.ok_or(Broken::Protocol("a number"))?)
                        }
                        Awaited::Written => return Err(Broken::Protocol("an answer of the wrong kind")),
                    }
                }
                b"EN" => match awaited {
                    Awaited::Value => Reply::Absent { fresh_millis: None },
                    Awaited::Written | Awaited::Counted => Reply::NotWritten,
                },
                b"HD" if !matches!(awaited, Awaited::Value) => Reply::Written,
                b"NF" | b"NS" | b"EX" if !matches!(awaited, Awaited::Value) => Reply::NotWritten,
                b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" => refusal(&[b"ERR ".as_slice(), head].concat()),
                _ => return Err(Broken::Protocol("an answer of no known kind")),
            };
            self.awaited.pop_front();
            self.inbox.consume(end);
            heard.push(Heard::Answer(ticket, reply));
        }
        Ok(())
    }
}

fn found<'a>(value: &[u8], words: impl Iterator<Item = &'a [u8]>) -> Found {
    let mut found = Found { value: value.to_vec(), ..Found::default() };
    for word in words {
        match word.split_first() {
            Some((b'f', flags)) => found.flags = decimal(flags).map_or(0, |flags| flags as u32),
            Some((b'c', version)) => found.version = decimal(version).map(Version),
            // -1 says never; 0 is the rest of its last second.
            Some((b't', life)) => found.fresh_millis = decimal(life).map(|seconds| seconds.max(1) * 1000),
            _ => {}
        }
    }
    found
}

/// Seconds as memcached takes them: 0 is never, and nothing lives longer than it was asked to by more than a second.
fn seconds(live_millis: Option<u64>) -> i64 {
    match live_millis {
        None => 0,
        Some(millis) => i64::try_from(millis.div_ceil(1000).max(1)).unwrap_or(0).min(RELATIVE_SECONDS_MAX),
    }
}

/// Longer times would be read as moments since 1970.
const RELATIVE_SECONDS_MAX: i64 = 30 * 24 * 3600;

fn end(out: &mut Vec<u8>, ticket: Ticket, rest: std::fmt::Arguments<'_>) {
    write!(out, "{rest} O{}\r\n", ticket.0).expect("writing to memory does not fail");
}

/// Whether an answer's first line says that it is that of another question.
fn is_of_another(ticket: Ticket, words: impl Iterator<Item = impl AsRef<[u8]>>) -> bool {
    let mut numbers = words.filter_map(|word| decimal(word.as_ref().strip_prefix(b"O")?));
    numbers.any(|number| number != ticket.0)
}
