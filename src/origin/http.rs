//! Our side of a conversation with an HTTP/1.1 server: one question at a time, connections kept.
//!
//! `GET` with `If-None-Match` or `If-Modified-Since` where a value is held, `PUT`, `DELETE`. 200 is a value, 304 the same as
//! before, 404 and 410 none, any 2xx a write done; everything else is a refusal and says nothing about the key. The key is
//! percent-encoded into the path, so that no key can be another path, another header or another request.

use super::http_head::{self, Body, HEAD_BYTES_MAX, Head};
use super::{Ask, Broken, Found, Heard, Inbox, Kind, Limits, Reply, Target, Ticket, Validator, What, line};
use crate::request::Condition;
use std::io::Write as _;
use std::sync::Arc;

/// Interim answers (1xx) before the one that counts.
const INTERIM_MAX: usize = 8;
/// Longest line with the length of a chunk.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// One connection's conversation.
pub struct Client {
    target: Arc<Target>,
    limits: Limits,
    inbox: Inbox,
    awaited: Option<(Ticket, bool)>,
    stage: Stage,
    interim: usize,
    last: bool,
}

enum Stage {
    Head,
    /// The body's bytes so far.
    Body(Box<Head>, Vec<u8>),
    /// As `Body`, in a chunk that lacks so many bytes and its line end, or between chunks with 0.
    Chunk(Box<Head>, Vec<u8>, usize),
    /// Behind the last chunk.
    Trailer(Box<Head>, Vec<u8>),
}

impl Client {
    pub(super) fn new(target: Arc<Target>, limits: Limits) -> Client {
        Client {
            target,
            limits,
            inbox: Inbox::default(),
            awaited: None,
            stage: Stage::Head,
            interim: 0,
            last: false,
        }
    }

    pub(super) fn room(&self) -> usize {
        usize::from(self.awaited.is_none() && !self.last)
    }

    pub(super) fn last(&self) -> bool {
        self.last
    }

    pub(super) fn ask(&mut self, ticket: Ticket, ask: &Ask, out: &mut Vec<u8>) -> Option<Reply> {
        let (method, read) = match &ask.what {
            What::Read { .. } => ("GET", true),
            What::Put { .. } => ("PUT", false),
            What::Remove => ("DELETE", false),
            _ => return Some(Reply::Refused(b"ERR an HTTP origin knows no such operation".to_vec())),
        };
        let condition: &[u8] = match &ask.what {
            What::Put { condition: Condition::Absent, .. } => b"If-None-Match: *\r\n",
            What::Put { condition: Condition::Present | Condition::Held, .. } => b"If-Match: *\r\n",
            What::Put { condition: Condition::VersionIs(_) | Condition::VersionIsOrStale(_), .. } => {
                return Some(Reply::Refused(b"ERR this origin knows no versions".to_vec()));
            }
            _ => b"",
        };
        // Servers resolve dot segments also when they are encoded: such a key would name another path.
        if ask.key.split(|&byte| byte == b'/').any(|segment| segment == b"." || segment == b"..")
            || ask.key.is_empty()
        {
            return Some(match read {
                true => Reply::Absent { fresh_millis: None },
                false => Reply::Refused(b"ERR the key is no path segment".to_vec()),
            });
        }
        let Kind::Http { path } = &self.target.kind else { unreachable!("made for HTTP targets only") };
        let (before, after) = path.split_once("{key}").unwrap_or((path, ""));
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(before.as_bytes());
        encode(&ask.key, out);
        out.extend_from_slice(after.as_bytes());
        let host = if self.target.host.contains(':') {
            format!("[{}]", self.target.host)
        } else {
            self.target.host.clone()
        };
        let mut say = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("writing to memory does not fail");
        };
        say(format_args!(" HTTP/1.1\r\nHost: {host}:{}\r\nUser-Agent: foreshadow\r\n", self.target.port));
        if let Some(login) = &self.target.login {
            use base64::Engine as _;
            let pair = format!("{}:{}", login.user, login.password);
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            say(format_args!("Authorization: Basic {pair}\r\n"));
        }
        match &ask.what {
            What::Read { known: Some(known) } => {
                let name = match known {
                    Validator::Etag(_) => "If-None-Match",
                    Validator::Modified(_) => "If-Modified-Since",
                };
                say(format_args!("{name}: "));
                out.extend_from_slice(known.bytes());
                out.extend_from_slice(b"\r\n\r\n");
            }
            What::Put { value, .. } => {
                say(format_args!("Content-Length: {}\r\n", value.len()));
                out.extend_from_slice(condition);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
            }
            _ => out.extend_from_slice(b"\r\n"),
        }
        self.awaited = Some((ticket, read));
        None
    }

    pub(super) fn receive(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
        self.inbox.push(bytes);
        while self.inbox.worth_looking() {
            if self.awaited.is_none() {
                return Err(Broken::Unasked);
            }
            if !self.step(heard)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes one piece out of the inbox; false if more bytes are needed for that.
    fn step(&mut self, heard: &mut Vec<Heard>) -> Result<bool, Broken> {
        let rest = self.inbox.rest();
        match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Head => {
                let Some(end) = head_end(rest) else {
                    if rest.len() > HEAD_BYTES_MAX {
                        return Err(Broken::TooLarge("a head"));
                    }
                    let needed = rest.len() + 1;
                    self.inbox.need(needed);
                    return Ok(false);
                };
                if end > HEAD_BYTES_MAX {
                    return Err(Broken::TooLarge("a head"));
                }
                let head = http_head::read(&rest[..end])?;
                self.inbox.consume(end);
                if head.status < 200 {
                    self.interim += 1;
                    // Switching protocols was not asked for.
                    if head.status == 101 || self.interim > INTERIM_MAX {
                        return Err(Broken::Protocol("interim answers"));
                    }
                    return Ok(true);
                }
                self.interim = 0;
                self.last = head.last;
                match head.body {
                    Body::Length(0) => self.finish(&head, Vec::new(), heard),
                    Body::Length(length) if length > self.limits.value_bytes_max as u64 => {
                        return Err(Broken::TooLarge("a body"));
                    }
                    Body::Length(_) | Body::ToTheEnd => self.stage = Stage::Body(Box::new(head), Vec::new()),
                    Body::Chunked => self.stage = Stage::Chunk(Box::new(head), Vec::new(), 0),
                }
                Ok(true)
            }
            Stage::Body(head, mut body) => {
                let lacking = match head.body {
                    Body::Length(length) => length as usize - body.len(),
                    _ => self.limits.value_bytes_max + 1 - body.len(),
                };
                let taken = rest.len().min(lacking);
                body.extend_from_slice(&rest[..taken]);
                self.inbox.consume(taken);
                if matches!(head.body, Body::Length(_)) && taken == lacking {
                    self.finish(&head, body, heard);
                    return Ok(true);
                }
                if body.len() > self.limits.value_bytes_max {
                    return Err(Broken::TooLarge("a body"));
                }
                self.stage = Stage::Body(head, body);
                Ok(true)
            }
            Stage::Chunk(head, body, 0) => {
                let Some((text, taken)) = line(rest) else {
                    if rest.len() > CHUNK_LINE_BYTES_MAX {
                        return Err(Broken::TooLarge("the length of a chunk"));
                    }
                    let needed = rest.len() + 1;
                    self.inbox.need(needed);
                    self.stage = Stage::Chunk(head, body, 0);
                    return Ok(false);
                };
                let digits = text.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
                let length = hexadecimal(digits).ok_or(Broken::Protocol("the length of a chunk"))?;
                if length > (self.limits.value_bytes_max - body.len()) as u64 {
                    return Err(Broken::TooLarge("a body"));
                }
                self.inbox.consume(taken);
                self.stage = match length {
                    0 => Stage::Trailer(head, body),
                    length => Stage::Chunk(head, body, length as usize),
                };
                Ok(true)
            }
            Stage::Chunk(head, mut body, lacking) => {
                if rest.len() < lacking + 2 {
                    self.inbox.need(lacking + 2);
                    self.stage = Stage::Chunk(head, body, lacking);
                    return Ok(false);
                }
                if &rest[lacking..lacking + 2] != b"\r\n" {
                    return Err(Broken::Protocol("a chunk that does not end where it said"));
                }
                body.extend_from_slice(&rest[..lacking]);
                self.inbox.consume(lacking + 2);
                self.stage = Stage::Chunk(head, body, 0);
                Ok(true)
            }
            Stage::Trailer(head, body) => {
                let Some((text, taken)) = line(rest) else {
                    if rest.len() > CHUNK_LINE_BYTES_MAX {
                        return Err(Broken::TooLarge("a trailer"));
                    }
                    let needed = rest.len() + 1;
                    self.inbox.need(needed);
                    self.stage = Stage::Trailer(head, body);
                    return Ok(false);
                };
                let end = text.is_empty();
                self.inbox.consume(taken);
                match end {
                    true => self.finish(&head, body, heard),
                    false => self.stage = Stage::Trailer(head, body),
                }
                Ok(true)
            }
        }
    }

    /// The server closed: that ends a body without another end; everything else is cut off and no answer.
    pub(super) fn ended(&mut self, heard: &mut Vec<Heard>) {
        if let Stage::Body(head, body) = std::mem::replace(&mut self.stage, Stage::Head)
            && head.body == Body::ToTheEnd
        {
            self.finish(&head, body, heard);
        }
    }

    fn finish(&mut self, head: &Head, body: Vec<u8>, heard: &mut Vec<Heard>) {
        let Some((ticket, read)) = self.awaited.take() else { return };
        let fresh_millis = head.fresh_seconds.map(|seconds| seconds.saturating_mul(1000));
        let reply = match (head.status, read) {
            (200, true) => Reply::Found(Found {
                value: body,
                fresh_millis,
                validator: head.validator.clone(),
                tags: head.tags.clone(),
                unstorable: head.unstorable,
                written_seconds: head.modified_seconds,
                ..Found::default()
            }),
            (304, true) => Reply::Unchanged { fresh_millis },
            (404 | 410, true) => Reply::Absent { fresh_millis },
            (404 | 410 | 412, false) => Reply::NotWritten,
            (200..=299, false) => Reply::Written,
            (status, _) => Reply::Refused(format!("ERR the origin answered {status}").into_bytes()),
        };
        heard.push(Heard::Answer(ticket, reply));
    }
}

/// Where a head ends, its empty line included.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let (text, taken) = line(&bytes[from..])?;
        from += taken;
        if text.is_empty() {
            return Some(from);
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends a key as part of a path.
fn encode(key: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in key {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte),
            _ => out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}
