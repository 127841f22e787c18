//! What is said to the server and what its answers mean, one protocol a variant.
//!
//! Answers are read straight from the receive buffers: a line at a time, then the bytes of a value compared in place, cut
//! wherever the buffers cut them. Only a line that is cut in two is copied.

use super::items::Items;
use crate::wire::native::frame::{
    Frame, HEADER_BYTES, Header, MAGIC_REPLY, MAGIC_REQUEST, META_BYTES, Meta, Opcode, Status, flags,
};
use std::collections::VecDeque;

/// A protocol of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 arrays.
    Resp2,
    /// RESP3, asked for by `HELLO 3`.
    Resp3,
    /// memcached `get` and `set`.
    Memcached,
    /// memcached `mg` and `ms`.
    Meta,
    /// The native protocol's GET and PUT; replies may overtake each other.
    Native,
}

impl Protocol {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Resp2 => "resp",
            Protocol::Resp3 => "resp3",
            Protocol::Memcached => "memcached",
            Protocol::Meta => "meta",
            Protocol::Native => "native",
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Set,
    Ping,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The key's.
    pub rank: u64,
    /// Nanoseconds of the run at which it was to be sent.
    pub due: u64,
    pub verb: Verb,
    /// It was answered before an older one (native protocol).
    pub answered: bool,
}

impl Pending {
    pub fn new(verb: Verb, rank: u64, due: u64) -> Pending {
        Pending { rank, due, verb, answered: false }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value came, byte for byte what was put.
    Hit,
    /// A value came that was never put under this key.
    Wrong,
    Miss,
    Stored,
    Pong,
    /// The server refused; its words are in `Reader::refusal`.
    Refused,
}

/// Why a connection cannot be listened to any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    #[error("{0:?} was asked and the server answered {1:?}")]
    Nonsense(Verb, String),
    #[error("the server spoke without being asked: {0:?}")]
    Unasked(String),
    #[error("{0:?} was asked and the server's line has no end after {LINE_BYTES_MAX} bytes")]
    Endless(Verb),
    #[error("a value of {0} bytes is followed by {1:?}")]
    Tail(usize, String),
    #[error(
        "a value of {announced} bytes was announced where one of {put} was put \
         (data of another tool? --prefill)"
    )]
    Length { announced: usize, put: usize },
    #[error("the server sent what is no frame of the native protocol: {0}")]
    Frame(&'static str),
}

/// Longest line of an answer: memcached repeats the key (250) in it, errors are sentences.
const LINE_BYTES_MAX: usize = 1024;
/// Longest text of a native refusal.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Appends a request; `number` is how many were made on this connection before it.
#[inline]
pub fn write(
    protocol: Protocol,
    verb: Verb,
    rank: u64,
    expiry: u32,
    number: u32,
    items: &Items,
    into: &mut Vec<u8>,
) {
    match (protocol, verb) {
        (Protocol::Native, verb) => write_native(verb, rank, expiry, number, items, into),
        (Protocol::Resp2 | Protocol::Resp3, Verb::Get) => {
            into.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
            bulk_key(rank, items, into);
        }
        (Protocol::Resp2 | Protocol::Resp3, Verb::Set) => {
            into.extend_from_slice(if expiry == 0 { b"*3\r\n$3\r\nSET\r\n" } else { b"*5\r\n$3\r\nSET\r\n" });
            bulk_key(rank, items, into);
            into.push(b'$');
            write_number(items.value_bytes(rank) as u64, into);
            into.extend_from_slice(b"\r\n");
            items.write_value(rank, into);
            into.extend_from_slice(b"\r\n");
            if expiry != 0 {
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(expiry).as_bytes();
                into.extend_from_slice(b"$2\r\nEX\r\n$");
                write_number(digits.len() as u64, into);
                into.extend_from_slice(b"\r\n");
                into.extend_from_slice(digits);
                into.extend_from_slice(b"\r\n");
            }
        }
        (Protocol::Resp2 | Protocol::Resp3, Verb::Ping) => into.extend_from_slice(b"*1\r\n$4\r\nPING\r\n"),
        (Protocol::Memcached, Verb::Get) => {
            into.extend_from_slice(b"get ");
            items.write_key(rank, into);
            into.extend_from_slice(b"\r\n");
        }
        (Protocol::Memcached, Verb::Set) => {
            into.extend_from_slice(b"set ");
            items.write_key(rank, into);
            into.extend_from_slice(b" 0 ");
            write_number(u64::from(expiry), into);
            into.push(b' ');
            write_number(items.value_bytes(rank) as u64, into);
            into.extend_from_slice(b"\r\n");
            items.write_value(rank, into);
            into.extend_from_slice(b"\r\n");
        }
        (Protocol::Memcached | Protocol::Meta, Verb::Ping) => into.extend_from_slice(b"mn\r\n"),
        (Protocol::Meta, Verb::Get) => {
            into.extend_from_slice(b"mg ");
            items.write_key(rank, into);
            into.extend_from_slice(b" v\r\n");
        }
        (Protocol::Meta, Verb::Set) => {
            into.extend_from_slice(b"ms ");
            items.write_key(rank, into);
            into.push(b' ');
            write_number(items.value_bytes(rank) as u64, into);
            if expiry != 0 {
                into.extend_from_slice(b" T");
                write_number(u64::from(expiry), into);
            }
            into.extend_from_slice(b"\r\n");
            items.write_value(rank, into);
            into.extend_from_slice(b"\r\n");
        }
    }
}

#[inline]
fn bulk_key(rank: u64, items: &Items, into: &mut Vec<u8>) {
    into.push(b'$');
    write_number(items.key_bytes(rank) as u64, into);
    into.extend_from_slice(b"\r\n");
    items.write_key(rank, into);
    into.extend_from_slice(b"\r\n");
}

#[inline]
fn write_number(number: u64, into: &mut Vec<u8>) {
    into.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A frame of the native protocol, written in place: a key and a value need no buffer of their own.
fn write_native(verb: Verb, rank: u64, expiry: u32, number: u32, items: &Items, into: &mut Vec<u8>) {
    let key_bytes = if verb == Verb::Ping { 0 } else { items.key_bytes(rank) };
    let key_bytes = u16::try_from(key_bytes).expect("the command line keeps keys short");
    let frame = Frame::begin(MAGIC_REQUEST, opcode(verb) as u8, 0, number, key_bytes, 0, into);
    if verb == Verb::Set {
        into.extend_from_slice(&Meta { ttl_millis: u64::from(expiry) * 1000, ..Meta::PLAIN }.to_bytes());
    }
    if key_bytes > 0 {
        items.write_key(rank, into);
    }
    if verb == Verb::Set {
        items.write_value(rank, into);
    }
    frame.end(into);
}

fn opcode(verb: Verb) -> Opcode {
    match verb {
        Verb::Ping => Opcode::Ping,
        Verb::Get => Opcode::Get,
        Verb::Set => Opcode::Put,
    }
}

/// Most bytes of one answer to this verb, to size receive buffers.
pub fn answer_bytes_max(verb: Verb, items: &Items) -> usize {
    match verb {
        Verb::Get => items.value_bytes_max() + 64,
        Verb::Set | Verb::Ping => 16,
    }
}

/// Where a connection stands within the server's answers.
#[derive(Debug)]
pub struct Reader {
    protocol: Protocol,
    /// Whether values are compared, or only their framing.
    verify: bool,
    at: At,
    /// The beginning of a line (or of a native header) that the receive buffer cut.
    line: Vec<u8>,
    /// Native: the frame whose body is being read.
    frame: Option<Coming>,
    /// Native: how many requests have left the front of the pending ones.
    front: u32,
    /// The last refusal's words.
    pub refusal: String,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Line,
    Body { size: usize, seen: usize, wrong: bool },
    Tail { size: usize, seen: usize, wrong: bool },
}

/// A native reply whose body is not read to its end.
#[derive(Clone, Copy, Debug)]
struct Coming {
    number: u32,
    answer: Answer,
    body_bytes: usize,
    seen: usize,
}

/// What a line says.
enum Line {
    Done(Answer),
    /// A value of `size` bytes follows; `wrong` if it is said to be another key's.
    Value {
        size: usize,
        wrong: bool,
    },
}

impl Reader {
    pub fn new(protocol: Protocol, verify: bool) -> Reader {
        Reader {
            protocol,
            verify,
            at: At::Line,
            line: Vec::new(),
            frame: None,
            front: 0,
            refusal: String::new(),
        }
    }

    /// Reads `bytes` as answers to `pending`, front first; each answered request is taken out and told to `done`.
    ///
    /// # Errors
    /// What no honest server says; the connection is of no use afterwards.
    #[inline]
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        pending: &mut VecDeque<Pending>,
        items: &Items,
        mut done: impl FnMut(Pending, Answer),
    ) -> Result<(), Lie> {
        if self.protocol == Protocol::Native {
            return self.read_frames(bytes, pending, items, done);
        }
        while !bytes.is_empty() {
            let Some(&asked) = pending.front() else {
                return Err(Lie::Unasked(excerpt(bytes)));
            };
            match self.at {
                At::Line => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        if self.line.len() + bytes.len() > LINE_BYTES_MAX {
                            return Err(Lie::Endless(asked.verb));
                        }
                        self.line.extend_from_slice(bytes);
                        return Ok(());
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    bytes = rest;
                    let said = if self.line.is_empty() {
                        self.interpret(line, &asked, items)?
                    } else {
                        let mut whole = std::mem::take(&mut self.line);
                        whole.extend_from_slice(line);
                        let said = self.interpret(&whole, &asked, items)?;
                        whole.clear();
                        self.line = whole;
                        said
                    };
                    match said {
                        Line::Done(answer) => {
                            pending.pop_front();
                            done(asked, answer);
                        }
                        Line::Value { size, wrong } => {
                            let put = items.value_bytes(asked.rank);
                            if size != put {
                                return Err(Lie::Length { announced: size, put });
                            }
                            self.at = At::Body { size, seen: 0, wrong };
                        }
                    }
                }
                At::Body { size, seen, mut wrong } => {
                    let (piece, rest) = bytes.split_at(bytes.len().min(size - seen));
                    bytes = rest;
                    wrong |= self.verify && !wrong && !items.holds(asked.rank, seen, piece);
                    let seen = seen + piece.len();
                    self.at = if seen == size {
                        At::Tail { size, seen: 0, wrong }
                    } else {
                        At::Body { size, seen, wrong }
                    };
                }
                At::Tail { size, seen, wrong } => {
                    let tail = self.tail();
                    let len = bytes.len().min(tail.len() - seen);
                    let (piece, rest) = bytes.split_at(len);
                    if piece != &tail[seen..seen + len] {
                        return Err(Lie::Tail(size, excerpt(bytes)));
                    }
                    bytes = rest;
                    self.at = At::Tail { size, seen: seen + len, wrong };
                    if seen + len == tail.len() {
                        self.at = At::Line;
                        pending.pop_front();
                        done(asked, if wrong { Answer::Wrong } else { Answer::Hit });
                    }
                }
            }
            // An empty value has no body to wait for.
            if let At::Body { size: 0, wrong, .. } = self.at {
                self.at = At::Tail { size: 0, seen: 0, wrong };
            }
        }
        Ok(())
    }

    /// As `read`, for replies that are found by their request's number.
    fn read_frames(
        &mut self,
        mut bytes: &[u8],
        pending: &mut VecDeque<Pending>,
        items: &Items,
        mut done: impl FnMut(Pending, Answer),
    ) -> Result<(), Lie> {
        while !bytes.is_empty() {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => {
                    let (piece, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.line.len()));
                    bytes = rest;
                    self.line.extend_from_slice(piece);
                    if self.line.len() < HEADER_BYTES {
                        return Ok(());
                    }
                    let frame = native_header(&self.line, self.front, pending, items)?;
                    self.line.clear();
                    if frame.answer == Answer::Refused {
                        self.refusal.clear();
                    }
                    frame
                }
            };
            let index = frame.number.wrapping_sub(self.front) as usize;
            let asked = pending[index];
            let (piece, rest) = bytes.split_at(bytes.len().min(frame.body_bytes - frame.seen));
            bytes = rest;
            match frame.answer {
                Answer::Hit => {
                    let from_meta = META_BYTES.saturating_sub(frame.seen).min(piece.len());
                    let start = (frame.seen + from_meta).saturating_sub(META_BYTES);
                    if self.verify && !items.holds(asked.rank, start, &piece[from_meta..]) {
                        frame.answer = Answer::Wrong;
                    }
                }
                Answer::Refused if self.refusal.len() < LINE_BYTES_MAX => {
                    self.refusal.push_str(&excerpt(piece))
                }
                _ => {}
            }
            frame.seen += piece.len();
            if frame.seen < frame.body_bytes {
                self.frame = Some(frame);
                continue;
            }
            if frame.answer == Answer::Refused && self.refusal.is_empty() {
                self.refusal.push_str("without words");
            }
            pending[index].answered = true;
            done(asked, frame.answer);
            while pending.front().is_some_and(|front| front.answered) {
                pending.pop_front();
                self.front = self.front.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// What follows a value.
    fn tail(&self) -> &'static [u8] {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 | Protocol::Meta => b"\r\n",
            Protocol::Memcached => b"\r\nEND\r\n",
            Protocol::Native => b"",
        }
    }

    #[inline]
    fn interpret(&mut self, line: &[u8], asked: &Pending, items: &Items) -> Result<Line, Lie> {
        let said = match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp_line(line, asked.verb),
            Protocol::Memcached => memcached_line(line, asked, self.verify.then_some(items)),
            Protocol::Meta => meta_line(line, asked.verb),
            Protocol::Native => None,
        };
        if let Some(Line::Done(Answer::Refused)) = said {
            self.refusal = excerpt(line);
        }
        said.ok_or_else(|| Lie::Nonsense(asked.verb, excerpt(line)))
    }
}

/// Reads a native reply's header and finds what it answers.
fn native_header(
    bytes: &[u8],
    front: u32,
    pending: &VecDeque<Pending>,
    items: &Items,
) -> Result<Coming, Lie> {
    let header = match Header::read(MAGIC_REPLY, bytes) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(Lie::Frame("too short")),
        Err(status) => return Err(Lie::Frame(status.name())),
    };
    let Header { id: number, key_len_or_status: status, .. } = header;
    let body_bytes = header.body_len as usize;
    let said = || {
        format!(
            "a frame of opcode {:#x}, flags {:#x}, id {number}, status {status}, {body_bytes} bytes",
            header.opcode, header.flags
        )
    };
    let asked = pending.get(number.wrapping_sub(front) as usize).filter(|asked| !asked.answered);
    let asked = asked.ok_or_else(|| Lie::Unasked(said()))?;
    let answer = match (Status(status), asked.verb) {
        (Status::OK, Verb::Get) if body_bytes >= META_BYTES => Some(Answer::Hit),
        (Status::NOT_FOUND, Verb::Get) if body_bytes == 0 => Some(Answer::Miss),
        (Status::OK, Verb::Set) if body_bytes == 8 => Some(Answer::Stored),
        (Status::OK, Verb::Ping) if body_bytes == 0 => Some(Answer::Pong),
        (status, _) if !status.is_answer() && !status.closes() && body_bytes <= REFUSAL_BYTES_MAX => {
            Some(Answer::Refused)
        }
        _ => None,
    };
    let Some(answer) = answer else { return Err(Lie::Nonsense(asked.verb, said())) };
    // Neither a checksum nor more frames were asked for.
    if header.opcode != opcode(asked.verb) as u8 || header.flags & !flags::NEW_MAP != 0 {
        return Err(Lie::Nonsense(asked.verb, said()));
    }
    let put = items.value_bytes(asked.rank);
    if answer == Answer::Hit && body_bytes - META_BYTES != put {
        return Err(Lie::Length { announced: body_bytes - META_BYTES, put });
    }
    Ok(Coming { number, answer, body_bytes, seen: 0 })
}

#[inline]
fn resp_line(line: &[u8], verb: Verb) -> Option<Line> {
    match (verb, line) {
        (Verb::Get, b"$-1\r\n" | b"_\r\n") => Some(Line::Done(Answer::Miss)),
        (Verb::Get, [b'$', size @ .., b'\r', b'\n']) => value(size, false),
        (Verb::Set, b"+OK\r\n") => Some(Line::Done(Answer::Stored)),
        (Verb::Ping, b"+PONG\r\n") => Some(Line::Done(Answer::Pong)),
        (_, [b'-', .., b'\r', b'\n']) => Some(Line::Done(Answer::Refused)),
        _ => None,
    }
}

#[inline]
fn memcached_line(line: &[u8], asked: &Pending, verified: Option<&Items>) -> Option<Line> {
    match (asked.verb, line) {
        (Verb::Get, b"END\r\n") => Some(Line::Done(Answer::Miss)),
        // VALUE <key> <flags> <bytes>
        (Verb::Get, [b'V', b'A', b'L', b'U', b'E', b' ', rest @ .., b'\r', b'\n']) => {
            let space = memchr::memrchr(b' ', rest)?;
            // All items are put with flags of 0.
            let wrong = verified.is_some_and(|items| {
                !rest[..space].strip_suffix(b" 0").is_some_and(|key| items.is_key(asked.rank, key))
            });
            value(&rest[space + 1..], wrong)
        }
        (Verb::Set, b"STORED\r\n") => Some(Line::Done(Answer::Stored)),
        (Verb::Ping, b"MN\r\n") => Some(Line::Done(Answer::Pong)),
        _ if refuses(line) => Some(Line::Done(Answer::Refused)),
        _ => None,
    }
}

#[inline]
fn meta_line(line: &[u8], verb: Verb) -> Option<Line> {
    match (verb, line) {
        (Verb::Get, b"EN\r\n") => Some(Line::Done(Answer::Miss)),
        (Verb::Get, [b'V', b'A', b' ', rest @ .., b'\r', b'\n']) => {
            let size = rest.split(|&byte| byte == b' ').next().unwrap_or(rest);
            value(size, false)
        }
        (Verb::Set, b"HD\r\n") => Some(Line::Done(Answer::Stored)),
        (Verb::Ping, b"MN\r\n") => Some(Line::Done(Answer::Pong)),
        (Verb::Set, b"NS\r\n") => Some(Line::Done(Answer::Refused)),
        _ if refuses(line) => Some(Line::Done(Answer::Refused)),
        _ => None,
    }
}

/// Whether it is one of memcached's three kinds of error.
fn refuses(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR", b"NOT_STORED"].iter().any(|word| line.starts_with(word))
}

#[inline]
fn value(size: &[u8], wrong: bool) -> Option<Line> {
    decimal(size).map(|size| Line::Value { size, wrong })
}

#[inline]
fn decimal(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 12 {
        return None;
    }
    digits.iter().try_fold(0usize, |number, &digit| {
        digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
    })
}

/// The beginning of what was said, to be shown.
fn excerpt(bytes: &[u8]) -> String {
    let end = bytes.len().min(120);
    String::from_utf8_lossy(bytes[..end].trim_ascii_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::items::Sizes;
    use super::*;

    fn items() -> Items {
        Items::new(b"key:", 12, 0, Sizes::Range(0, 30))
    }

    /// What an honest server answers.
    fn answer(protocol: Protocol, verb: Verb, rank: u64, items: &Items) -> Vec<u8> {
        let mut value = Vec::new();
        items.write_value(rank, &mut value);
        let head = match (protocol, verb) {
            (Protocol::Resp2 | Protocol::Resp3, Verb::Get) => format!("${}\r\n", value.len()),
            (Protocol::Memcached, Verb::Get) => format!("VALUE key:{rank:012} 0 {}\r\n", value.len()),
            (Protocol::Meta, Verb::Get) => format!("VA {} f0\r\n", value.len()),
            (Protocol::Resp2 | Protocol::Resp3, Verb::Set) => return b"+OK\r\n".to_vec(),
            (Protocol::Resp2 | Protocol::Resp3, Verb::Ping) => return b"+PONG\r\n".to_vec(),
            (Protocol::Memcached, Verb::Set) => return b"STORED\r\n".to_vec(),
            (Protocol::Meta, Verb::Set) => return b"HD\r\n".to_vec(),
            (Protocol::Memcached | Protocol::Meta, Verb::Ping) => return b"MN\r\n".to_vec(),
            (Protocol::Native, Verb::Get) => {
                return frame(0x10, rank as u32, 0, &[&[7; 20], value.as_slice()].concat());
            }
            (Protocol::Native, Verb::Set) => return frame(0x20, rank as u32, 0, &[1; 8]),
            (Protocol::Native, Verb::Ping) => return frame(0x03, rank as u32, 0, b""),
        };
        let mut all = head.into_bytes();
        all.extend_from_slice(&value);
        all.extend_from_slice(if protocol == Protocol::Memcached { b"\r\nEND\r\n" } else { b"\r\n" });
        all
    }

    fn frame(opcode: u8, id: u32, status: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xF6, 1, opcode, 0];
        frame.extend_from_slice(&id.to_le_bytes());
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&status.to_le_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(body);
        frame
    }

    fn pending(verb: Verb, rank: u64) -> Pending {
        Pending::new(verb, rank, 0)
    }

    fn read_all(reader: &mut Reader, cuts: &[&[u8]], asked: &[Pending]) -> Result<Vec<Answer>, Lie> {
        let mut pending: VecDeque<Pending> = asked.iter().copied().collect();
        let mut answers = Vec::new();
        for cut in cuts {
            reader.read(cut, &mut pending, &items(), |_, answer| answers.push(answer))?;
        }
        Ok(answers)
    }

    #[test]
    fn honest_answers_are_understood_cut_at_every_byte() {
        let items = items();
        for protocol in
            [Protocol::Resp2, Protocol::Resp3, Protocol::Memcached, Protocol::Meta, Protocol::Native]
        {
            let asked: Vec<Pending> = (0..40)
                .map(|rank| pending([Verb::Get, Verb::Set, Verb::Ping][rank as usize % 3], rank))
                .collect();
            let bytes: Vec<u8> =
                asked.iter().flat_map(|asked| answer(protocol, asked.verb, asked.rank, &items)).collect();
            for cut in 0..=bytes.len() {
                let mut reader = Reader::new(protocol, true);
                let answers = read_all(&mut reader, &[&bytes[..cut], &bytes[cut..]], &asked).expect("honest");
                assert_eq!(answers.len(), asked.len(), "{protocol:?} cut at {cut}");
                for (asked, answer) in asked.iter().zip(&answers) {
                    let expected = match asked.verb {
                        Verb::Get => Answer::Hit,
                        Verb::Set => Answer::Stored,
                        Verb::Ping => Answer::Pong,
                    };
                    assert_eq!(*answer, expected, "{protocol:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn the_value_of_another_key_is_wrong_and_the_stream_goes_on() {
        let items = Items::new(b"key:", 12, 0, Sizes::Fixed(30));
        for protocol in [Protocol::Resp2, Protocol::Memcached, Protocol::Meta] {
            let mut bytes = answer(protocol, Verb::Get, 1, &items);
            bytes.extend_from_slice(&answer(protocol, Verb::Get, 3, &items));
            let mut asked = [pending(Verb::Get, 2), pending(Verb::Get, 3)].into();
            let mut answers = Vec::new();
            let done = |_, answer| answers.push(answer);
            assert_eq!(Reader::new(protocol, true).read(&bytes, &mut asked, &items, done), Ok(()));
            assert_eq!(answers, [Answer::Wrong, Answer::Hit]);
        }
    }

    /// Once, only the last word of the line was looked at.
    #[test]
    fn a_memcached_value_under_another_key_or_other_flags_is_wrong() {
        let items = items();
        let mut value = Vec::new();
        items.write_value(1, &mut value);
        for (key, flags, expected) in [
            ("key:000000000001", 0, Answer::Hit),
            ("key:000000000001", 77, Answer::Wrong),
            ("key:000000000002", 0, Answer::Wrong),
            ("key:1", 0, Answer::Wrong),
            ("some-other-key", 77, Answer::Wrong),
        ] {
            let head = format!("VALUE {key} {flags} {}\r\n", value.len());
            let said = [head.as_bytes(), &value, b"\r\nEND\r\n"].concat();
            let read = |verify| {
                read_all(&mut Reader::new(Protocol::Memcached, verify), &[&said], &[pending(Verb::Get, 1)])
            };
            assert_eq!(read(true), Ok(vec![expected]), "{key} {flags}");
            assert_eq!(read(false), Ok(vec![Answer::Hit]), "told not to look, it does not");
        }
    }

    #[test]
    fn another_length_than_was_put_is_a_lie_before_the_value_comes() {
        let items = items();
        let put = items.value_bytes(1);
        for (protocol, head) in [
            (Protocol::Resp2, b"$500000000\r\n".to_vec()),
            (Protocol::Memcached, b"VALUE key:000000000001 0 500000000\r\n".to_vec()),
            (Protocol::Meta, b"VA 500000000\r\n".to_vec()),
            (Protocol::Native, {
                let mut head = frame(0x10, 0, 0, b"");
                head[8..12].copy_from_slice(&500_000_020u32.to_le_bytes());
                head
            }),
        ] {
            let read = read_all(&mut Reader::new(protocol, false), &[&head], &[pending(Verb::Get, 1)]);
            assert_eq!(read, Err(Lie::Length { announced: 500_000_000, put }), "{protocol:?}");
        }
    }

    #[test]
    fn misses_and_refusals_are_not_lies() {
        let cases: [(Protocol, Verb, &[u8], Answer); 9] = [
            (Protocol::Resp2, Verb::Get, b"$-1\r\n", Answer::Miss),
            (Protocol::Resp3, Verb::Get, b"_\r\n", Answer::Miss),
            (Protocol::Resp2, Verb::Get, b"-ERR no\r\n", Answer::Refused),
            (Protocol::Resp2, Verb::Set, b"-MOVED 1 a:1\r\n", Answer::Refused),
            (Protocol::Memcached, Verb::Get, b"END\r\n", Answer::Miss),
            (Protocol::Memcached, Verb::Set, b"SERVER_ERROR out of memory\r\n", Answer::Refused),
            (Protocol::Memcached, Verb::Get, b"ERROR\r\n", Answer::Refused),
            (Protocol::Meta, Verb::Get, b"EN\r\n", Answer::Miss),
            (Protocol::Meta, Verb::Set, b"NS\r\n", Answer::Refused),
        ];
        for (protocol, verb, said, expected) in cases {
            let mut reader = Reader::new(protocol, true);
            assert_eq!(read_all(&mut reader, &[said], &[pending(verb, 1)]), Ok(vec![expected]));
        }
    }

    #[test]
    fn nonsense_is_a_lie() {
        let endless = vec![b'$'; LINE_BYTES_MAX + 1];
        let cases: [(Protocol, Verb, &[u8]); 9] = [
            (Protocol::Resp2, Verb::Get, b"+OK\r\n"),
            (Protocol::Resp2, Verb::Get, b"$x\r\n"),
            (Protocol::Resp2, Verb::Get, b"$99999999999999999999\r\n"),
            (Protocol::Resp2, Verb::Get, b"$3\r\nabcdef"),
            (Protocol::Resp2, Verb::Set, b"$2\r\nOK\r\n"),
            (Protocol::Memcached, Verb::Get, b"VALUE x\r\n"),
            (Protocol::Memcached, Verb::Get, b"VALUE k 0 1\r\na\r\nENX\r\n"),
            (Protocol::Meta, Verb::Get, b"VA \r\n"),
            (Protocol::Resp2, Verb::Get, &endless),
        ];
        for (protocol, verb, said) in cases {
            let answers = read_all(&mut Reader::new(protocol, true), &[said], &[pending(verb, 1)]);
            assert!(answers.is_err(), "{:?}", excerpt(said));
        }
        let unasked = read_all(&mut Reader::new(Protocol::Resp2, true), &[b"+OK\r\n"], &[]);
        assert_eq!(unasked, Err(Lie::Unasked("+OK".into())));
    }

    #[test]
    fn native_replies_may_overtake_each_other() {
        let items = items();
        let asked: Vec<Pending> = (0..6).map(|rank| pending(Verb::Get, rank)).collect();
        let mut waiting: VecDeque<Pending> = asked.iter().copied().collect();
        let mut reader = Reader::new(Protocol::Native, true);
        let mut seen = Vec::new();
        for rank in [2u64, 0, 5, 1, 4, 3] {
            let bytes = answer(Protocol::Native, Verb::Get, rank, &items);
            let done = |asked: Pending, answer| seen.push((asked.rank, answer));
            reader.read(&bytes, &mut waiting, &items, done).expect("honest");
        }
        assert_eq!(seen.iter().map(|seen| seen.0).collect::<Vec<_>>(), [2, 0, 5, 1, 4, 3]);
        assert!(seen.iter().all(|seen| seen.1 == Answer::Hit) && waiting.is_empty());
    }

    #[test]
    fn native_refusals_and_lies_are_told_apart() {
        let one = [pending(Verb::Get, 1)];
        let read = |bytes: &[u8]| read_all(&mut Reader::new(Protocol::Native, true), &[bytes], &one);
        assert_eq!(read(&frame(0x10, 0, 1, b"")), Ok(vec![Answer::Miss]));
        assert_eq!(read(&frame(0x10, 0, 71, b"busy")), Ok(vec![Answer::Refused]));
        let other = [0; 20].into_iter().chain(std::iter::repeat_n(b'x', items().value_bytes(1)));
        assert_eq!(read(&frame(0x10, 0, 0, &other.collect::<Vec<u8>>())), Ok(vec![Answer::Wrong]));
        let endless = {
            let mut head = frame(0x10, 0, 71, b"");
            head[8..12].copy_from_slice(&(1u32 << 30).to_le_bytes());
            head
        };
        for lie in [
            endless,
            vec![0xF6; 16],
            frame(0x20, 0, 0, &[0; 8]),
            frame(0x10, 1, 0, &[0; 20]),
            frame(0x10, 0, 0, &[0; 19]),
            frame(0x00, 0, 128, b"magic"),
            frame(0x10, 0, 5, b""),
        ] {
            assert!(read(&lie).is_err(), "{lie:?}");
        }
    }
}
