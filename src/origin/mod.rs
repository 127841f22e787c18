//! Origins, where truth lives: our side of the protocols they speak, sans-IO, and what a keyspace says of them.
//!
//! ```text
//!   engine: Ask --> Pool --> Client::ask   --> bytes to the origin
//!                    ^         |  one of redis | memcached | http | postgres
//!   engine: Reply <-- Heard <-- Client::receive <-- bytes from the origin
//! ```
//! An origin is as suspect as a client: every length, count, depth and line it sends has a bound, and the first byte that
//! breaks the protocol breaks the connection, never more than it: what was asked on it fails, nothing is delivered from it.
//! Answers are matched to questions by their order alone, as these protocols have it; so a connection on which one answer
//! is overdue is given up whole ([`pool`]).
//!
//! Files: [`budget`] (what a keyspace may take), a client per protocol (`redis` with `resp_frame`, `memcached`, `http` with `http_head`, `postgres`), `target` (what
//! `--origin URL` means), [`keyspace`] (which keys have which origin, and under which rules), [`pool`] (connections,
//! deadlines, the circuit), `spare` (how much may be asked that nobody waits for), `cluster` with `slot_map` (an origin of many
//! nodes), `connector` (one pool, or a cluster of them), [`private`] (connections that are one client's own).

pub mod budget;
mod cluster;
mod connector;
mod http;
mod http_head;
pub mod keyspace;
mod memcached;
pub mod pool;
mod postgres;
pub mod private;
mod redis;
mod resp_frame;
mod slot_map;
pub mod spare;
pub mod target;

use crate::ids::Version;
use crate::request::{Condition, Expiry};
pub use connector::Connector;
pub use postgres::{SSL_REQUEST, TLS_FOLLOWS, TLS_REFUSED};
pub use slot_map::Place;
use std::sync::Arc;
pub use target::{Kind, Target, TlsMode};

/// Number of an origin in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginId(pub u16);

/// Names a question until it is answered: unique for the core that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A question to an origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The key as the origin knows it.
    pub key: Vec<u8>,
    /// What of it.
    pub what: What,
}

/// What is asked of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Its value, unless it is still the one that `known` names.
    Read {
        /// What the origin said of the value that is held.
        known: Option<Validator>,
    },
    /// Store a value.
    Put {
        /// The value.
        value: Vec<u8>,
        /// Opaque bits of memcached clients.
        flags: u32,
        /// Milliseconds until it ends; `None`: never.
        live_millis: Option<u64>,
        /// What must hold.
        condition: Condition,
    },
    /// Remove it.
    Remove,
    /// Add to its number.
    Count {
        /// What to add.
        by: i64,
    },
    /// Change when it ends.
    Expire {
        /// Milliseconds until then; `None`: never.
        live_millis: Option<u64>,
    },
    /// A whole command as a client of the same protocol sent it; the key is that of its arguments.
    Command {
        /// The command's bytes; those of several commands in a row may be.
        bytes: Vec<u8>,
        /// Replies that they bring, of which the last counts.
        replies: u32,
    },
    /// Any of these of a key that a node of a cluster is only about to have.
    Asking(Box<What>),
    /// A change of subscriptions as a client of the same protocol sent it; the key is empty.
    Subscribe {
        /// The command's bytes.
        bytes: Vec<u8>,
        /// Confirmations that it brings.
        confirms: u32,
    },
}

impl What {
    /// Whether asking twice does no more than asking once, so that a question lost with its connection may be repeated.
    pub fn repeatable(&self) -> bool {
        match self {
            What::Asking(what) => what.repeatable(),
            what => matches!(what, What::Read { .. }),
        }
    }
}

/// By what an origin recognises a value it gave before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Validator {
    /// An HTTP entity tag, quotes and weakness mark included.
    Etag(Arc<[u8]>),
    /// An HTTP date, as it was sent.
    Modified(Arc<[u8]>),
}

impl Validator {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Validator::Etag(bytes) | Validator::Modified(bytes) => bytes,
        }
    }
}

/// What an origin answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The value.
    Found(Found),
    /// There is none.
    Absent {
        /// Milliseconds that the origin says this will stay so.
        fresh_millis: Option<u64>,
    },
    /// The value is the one that was known.
    Unchanged {
        /// Milliseconds that the origin says this will stay so.
        fresh_millis: Option<u64>,
    },
    /// Written, or removed.
    Written,
    /// The condition of a write did not hold, or there was nothing to remove.
    NotWritten,
    /// The number after counting.
    Counted(i64),
    /// The answer to a [`What::Command`], in the protocol's own bytes.
    Raw(Vec<u8>),
    /// An error, in the origin's words as far as they are fit to repeat.
    Refused(Vec<u8>),
}

/// A value an origin gave.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Found {
    /// The value.
    pub value: Vec<u8>,
    /// Opaque bits of memcached clients.
    pub flags: u32,
    /// The origin's own version.
    pub version: Option<Version>,
    /// Milliseconds that it may be served without asking again, if the origin says so or drops it itself by then.
    pub fresh_millis: Option<u64>,
    /// By what to ask for it again.
    pub validator: Option<Validator>,
    /// Tags to invalidate it by.
    pub tags: Vec<Vec<u8>>,
    /// When it was written, in seconds since 1970, if the origin says so.
    pub written_seconds: Option<u64>,
    /// The origin asks that nobody keeps it: it is handed to those who wait and not stored.
    pub unstorable: bool,
}

/// What a client heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An answer.
    Answer(Ticket, Reply),
    /// A key changed behind our back.
    Changed(Vec<u8>),
    /// Any key may have changed.
    AllChanged,
    /// Something for the client whose own connection it is, in the protocol's own bytes.
    Pushed(Vec<u8>),
}

/// Why a connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Bytes that are not the protocol.
    #[error("it does not speak its protocol: {0}")]
    Protocol(&'static str),
    /// More than we take.
    #[error("it sent more than is taken: {0}")]
    TooLarge(&'static str),
    /// It did not let us in.
    #[error("it refused the login")]
    Login,
    /// It answered what nobody asked.
    #[error("it answered what nobody asked")]
    Unasked,
}

/// What is taken from an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
}

/// Longest error text that is repeated to clients.
const REFUSAL_BYTES_MAX: usize = 256;

/// An error's text, cut and without control characters.
fn refusal(text: &[u8]) -> Reply {
    let text = &text[..text.len().min(REFUSAL_BYTES_MAX)];
    Reply::Refused(text.iter().map(|&byte| if byte.is_ascii_control() { b' ' } else { byte }).collect())
}

/// Milliseconds from `now` until an expiry; `None`: never.
pub fn live_millis(now: crate::clock::Now, expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(at) => Some(now.millis_until(at)),
    }
}

/// One connection's conversation, in the origin's protocol.
pub enum Client {
    /// Redis or Valkey.
    Redis(Box<redis::Client>),
    /// memcached, by its meta commands.
    Memcached(Box<memcached::Client>),
    /// HTTP/1.1.
    Http(Box<http::Client>),
    /// PostgreSQL.
    Postgres(Box<postgres::Client>),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Questions and answers.
    Ask,
    /// To be told of changes.
    Listen,
    /// Commands of clients as they are, whose replies are in this version of the protocol.
    Pass {
        /// 2 or 3.
        protocol: u8,
    },
}

impl Client {
    /// A conversation that has not begun.
    pub fn new(target: Arc<Target>, limits: Limits, duty: Duty) -> Client {
        match target.kind {
            Kind::Redis { .. } => Client::Redis(Box::new(redis::Client::new(target, limits, duty))),
            Kind::Memcached => Client::Memcached(Box::new(memcached::Client::new(limits))),
            Kind::Http { .. } => Client::Http(Box::new(http::Client::new(target, limits))),
            Kind::Postgres(_) => Client::Postgres(Box::new(postgres::Client::new(target, limits, duty))),
        }
    }

    /// Redirections of a cluster's node are followed by whoever asks; otherwise they become errors.
    fn follow(&mut self) {
        if let Client::Redis(client) = self {
            client.follow();
        }
    }

    /// The origin proved who it is by this certificate; to be told before [`Client::begin`].
    pub fn proven(&mut self, certificate: &[u8]) {
        if let Client::Postgres(client) = self {
            client.proven(certificate);
        }
    }

    /// Appends what is to be said as soon as the connection stands.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        match self {
            Client::Redis(client) => client.begin(out),
            Client::Postgres(client) => client.begin(out),
            Client::Memcached(_) | Client::Http(_) => {}
        }
    }

    /// Whether it may be asked: what has to precede is done. Changes in [`Client::receive`] only.
    pub fn ready(&self) -> bool {
        match self {
            Client::Redis(client) => client.ready(),
            Client::Postgres(client) => client.ready(),
            Client::Memcached(_) | Client::Http(_) => true,
        }
    }

    /// How many more questions may be asked before answers come.
    pub fn room(&self) -> usize {
        match self {
            Client::Redis(client) => client.room(),
            Client::Memcached(client) => client.room(),
            Client::Http(client) => client.room(),
            Client::Postgres(client) => client.room(),
        }
    }

    /// Appends a question's bytes. Answers what can be said without asking: a key the origin could not have, a verb it
    /// does not know.
    pub fn ask(&mut self, ticket: Ticket, ask: &Ask, out: &mut Vec<u8>) -> Option<Reply> {
        match self {
            Client::Redis(client) => client.ask(ticket, ask, out),
            Client::Memcached(client) => client.ask(ticket, ask, out),
            Client::Http(client) => client.ask(ticket, ask, out),
            Client::Postgres(client) => client.ask(ticket, ask, out),
        }
    }

    /// Takes bytes in and appends what was heard; `out` gets what has to be said in return.
    ///
    /// # Errors
    /// The connection is of no more use and has to be closed; what was appended before counts.
    pub fn receive(&mut self, bytes: &[u8], heard: &mut Vec<Heard>, out: &mut Vec<u8>) -> Result<(), Broken> {
        match self {
            Client::Redis(client) => client.receive(bytes, heard),
            Client::Memcached(client) => client.receive(bytes, heard),
            Client::Http(client) => client.receive(bytes, heard),
            Client::Postgres(client) => client.receive(bytes, heard, out),
        }
    }

    /// The origin closed its side: an answer may have ended with that.
    pub fn ended(&mut self, heard: &mut Vec<Heard>) {
        if let Client::Http(client) = self {
            client.ended(heard);
        }
    }

    /// Whether the origin said that it closes after its last answer.
    pub fn last(&self) -> bool {
        matches!(self, Client::Http(client) if client.last())
    }
}

/// Bytes that came and are not done with: what is consumed leaves from the front, in amortised constant time per byte.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    /// With fewer bytes than this, looking is of no use.
    needed: usize,
}

impl Inbox {
    fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.bytes.len() || self.start > self.bytes.len() / 2) {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        if self.bytes.is_empty() {
            self.bytes.shrink_to(INBOX_KEEP_BYTES);
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn worth_looking(&self) -> bool {
        let rest = self.bytes.len() - self.start;
        rest > 0 && rest >= self.needed
    }

    fn need(&mut self, bytes: usize) {
        self.needed = bytes;
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.needed = 0;
    }
}

/// Memory that an empty inbox keeps.
const INBOX_KEEP_BYTES: usize = 64 << 10;

/// A line without its end, and the bytes it takes with it; `None` while incomplete.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let text = &bytes[..end];
    Some((text.strip_suffix(b"\r").unwrap_or(text), end + 1))
}

/// A decimal number without sign, spaces or leading junk.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
