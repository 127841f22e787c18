//! The protocols, sans-IO: bytes in, requests out, outcomes in, bytes out in order.
//!
//! ```text
//!   bytes of one read --> Session::serve --> codec (resp | memcached | native)
//!                                               | Exchange::ask(target, request, shape, note)
//!                                               v
//!                              Backend::call --> Some(outcome): encoded at once, if nothing older is awaited
//!                                           \--> None: the reply keeps its place in Order ..
//!   outcome from another core --> Session::complete --> .. until this arrives; then all that is ready is encoded
//! ```
//! A codec knows bytes and [`crate::request`]; it has never heard of a store, a core or a socket. Parsing may stop at any
//! byte and goes on where it stopped. A reply that needs more than the outcome (the key to echo, an opaque) has it as its
//! *note*; how to write it is its *shape*, an enum of the codec.

mod memcached;
pub mod native;
mod order;
mod resp;
mod sniff;

use crate::clock::Now;
use crate::ids::CoreId;
use crate::metrics::Counters;
use crate::request::{Outcome, Request};
use crate::topology::Node;
use std::sync::Arc;

pub(crate) use order::{Encode, Exchange, Order};
pub use resp::commands;

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The core that owns the key.
    Owner,
    /// This core, whatever the key.
    Core(CoreId),
}

/// What a session needs of the world behind it.
pub trait Backend {
    /// Does the request now and answers, or sends it on and answers `None`; then the outcome is handed to
    /// [`Session::complete`] with the ticket later. Never blocks.
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>>;

    /// Whether `call` has room to send requests on; while not, the session stops with [`Next::Blocked`].
    fn ready(&self) -> bool;

    /// The core's counters; sessions count commands and errors there.
    fn counters(&mut self) -> &mut Counters;

    /// Counts a call of a RESP command by its place in the command table, for `INFO commandstats`.
    fn called(&mut self, command: u8);
}

/// Which protocol a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Decided by the first bytes of each connection.
    #[default]
    Sniff,
    /// RESP2 and RESP3.
    Resp,
    /// memcached text and meta.
    Memcached,
    /// The native binary protocol.
    Native,
}

/// Bounds of a session and what it must know of the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Protocol of the listener.
    pub protocol: Protocol,
    /// The core whose own port this is: to cluster clients it is a node of its own, so what they ask about all items
    /// (`DBSIZE`, `SCAN`, `KEYS`, `RANDOMKEY`, `INFO`, `FLUSHALL`) is about that core's. `None`: about all cores'.
    pub only_core: Option<CoreId>,
    /// Password of the default user; `None`: no authentication.
    pub password: Option<String>,
    /// Longest key in bytes (memcached's own limit of 250 holds beside it).
    pub key_bytes_max: usize,
    /// Longest value in bytes by RESP.
    pub value_bytes_max: usize,
    /// Longest value in bytes by memcached.
    pub memcached_value_bytes_max: usize,
    /// Bytes of one command that is not complete yet, a long value of it not counted.
    pub query_buffer_bytes_max: usize,
    /// Bytes of replies at which a session stops executing until the client takes some.
    pub output_soft_bytes: usize,
    /// Arguments and bytes an argument may have before authentication.
    pub unauthenticated_arguments_max: usize,
    /// See `unauthenticated_arguments_max`.
    pub unauthenticated_argument_bytes_max: usize,
    /// Bytes of replies to a client that has not authenticated, beyond which it is closed.
    pub unauthenticated_output_bytes_max: usize,
    /// Commands of one connection per call of [`Session::serve`].
    pub commands_per_turn: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocol: Protocol::Sniff,
            only_core: None,
            password: None,
            key_bytes_max: 64 * 1024,
            value_bytes_max: 512 * 1024 * 1024,
            memcached_value_bytes_max: 1024 * 1024,
            query_buffer_bytes_max: 16 * 1024 * 1024,
            output_soft_bytes: 16 * 1024 * 1024,
            unauthenticated_arguments_max: 10,
            unauthenticated_argument_bytes_max: 16 * 1024,
            unauthenticated_output_bytes_max: 64 * 1024,
            commands_per_turn: 256,
        }
    }
}

/// Who is at the other end of a session.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Number unique in the process, what `CLIENT ID` answers.
    pub id: u64,
    /// Address as `ip:port`.
    pub peer: String,
    /// Own address as `ip:port`.
    pub local: String,
    /// When it connected.
    pub since: Now,
}

/// How far a call of [`Session::serve`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are done with; the rest has to be presented again, with more behind it.
    pub consumed: usize,
    /// What to do next.
    pub next: Next,
}

/// What a session wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More input; calling with less than this many bytes (counted from the new start) is of no use.
    More {
        /// At least 1.
        at_least: usize,
    },
    /// To be called again with what is left, when others had their turn.
    Yield,
    /// To be called again when replies were taken or outcomes came in.
    Blocked,
    /// To be closed as soon as what it wrote is sent.
    Close(Reason),
}

/// Why a session closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client said so.
    Quit,
    /// The client broke the protocol; it was told how, where the protocol has words for it.
    Protocol,
    /// An HTTP request.
    Http,
    /// A TLS hello on a plain port.
    Tls,
    /// Bytes of no protocol we speak.
    Unknown,
    /// Too much asked before authentication.
    Unauthenticated,
}

/// One client's side of the conversation.
pub struct Session {
    options: Arc<Options>,
    client: Client,
    codec: Codec,
    out: Vec<u8>,
}

// One lives in each connection; the sizes are alike enough.
enum Codec {
    Sniffing,
    Resp(Box<resp::Resp>),
    Memcached(Box<memcached::Memcached>),
    Native(Box<native::Native>),
}

impl Session {
    /// A session that has said nothing yet.
    pub fn new(options: Arc<Options>, client: Client) -> Session {
        let mut session = Session { options, client, codec: Codec::Sniffing, out: Vec::new() };
        match session.options.protocol {
            Protocol::Sniff => {}
            Protocol::Resp => session.speak_resp(),
            Protocol::Memcached => session.speak_memcached(),
            Protocol::Native => session.speak_native(),
        }
        session
    }

    fn speak_resp(&mut self) {
        self.codec = Codec::Resp(Box::new(resp::Resp::new(self.options.clone(), self.client.clone())));
    }

    fn speak_memcached(&mut self) {
        self.codec = Codec::Memcached(Box::new(memcached::Memcached::new(self.options.clone())));
    }

    fn speak_native(&mut self) {
        self.codec = Codec::Native(Box::new(native::Native::new(self.options.clone())));
    }

    /// Executes what stands complete in `input`, up to a bound, and says how far it came.
    ///
    /// `input` starts where the last call's `consumed` ended. Replies that are ready are appended to [`Session::output`].
    pub fn serve<B: Backend>(&mut self, now: Now, node: &Node, input: &[u8], backend: &mut B) -> Progress {
        if let Codec::Sniffing = self.codec {
            match sniff::sniff(input) {
                sniff::Guess::Resp => self.speak_resp(),
                sniff::Guess::Memcached => self.speak_memcached(),
                sniff::Guess::Native => self.speak_native(),
                sniff::Guess::More => {
                    return Progress { consumed: 0, next: Next::More { at_least: input.len() + 1 } };
                }
                sniff::Guess::Close(reason) => {
                    return Progress { consumed: input.len(), next: Next::Close(reason) };
                }
            }
        }
        match &mut self.codec {
            Codec::Resp(codec) => codec.serve(now, node, input, backend, &mut self.out),
            Codec::Memcached(codec) => codec.serve(now, node, input, backend, &mut self.out),
            Codec::Native(codec) => codec.serve(now, node, input, backend, &mut self.out),
            Codec::Sniffing => unreachable!("decided above"),
        }
    }

    /// Hands in the outcome of a request that was sent on; encodes it and what waited behind it, as far as it is ready.
    pub fn complete(&mut self, now: Now, node: &Node, ticket: u32, outcome: &Outcome<'_>) {
        match &mut self.codec {
            Codec::Resp(codec) => codec.complete(now, node, ticket, outcome, &mut self.out),
            Codec::Memcached(codec) => codec.complete(now, node, ticket, outcome, &mut self.out),
            Codec::Native(codec) => codec.complete(now, node, ticket, outcome, &mut self.out),
            Codec::Sniffing => {}
        }
    }

    /// Replies that are ready to be sent; the caller takes bytes from the front or swaps the buffer.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes of replies not yet taken, and of outcomes that wait for older ones.
    pub fn output_bytes(&self) -> usize {
        self.out.len()
            + match &self.codec {
                Codec::Resp(codec) => codec.held_bytes(),
                Codec::Memcached(codec) => codec.held_bytes(),
                // Native replies wait for none, so none is held.
                Codec::Native(_) | Codec::Sniffing => 0,
            }
    }

    /// Number of replies that wait for other cores (or stand behind one that does).
    pub fn awaited(&self) -> usize {
        match &self.codec {
            Codec::Resp(codec) => codec.awaited(),
            Codec::Memcached(codec) => codec.awaited(),
            Codec::Native(codec) => codec.awaited(),
            Codec::Sniffing => 0,
        }
    }

    /// Whether the client may do everything; false until it authenticated, where that is asked for.
    pub fn authenticated(&self) -> bool {
        match &self.codec {
            Codec::Resp(codec) => codec.authenticated(),
            Codec::Memcached(codec) => codec.authenticated(),
            Codec::Native(codec) => codec.authenticated(),
            Codec::Sniffing => self.options.password.is_none(),
        }
    }

    /// The client id.
    pub fn client_id(&self) -> u64 {
        self.client.id
    }

    /// Appends the session's line of `CLIENT LIST` (with its line feed).
    pub fn describe(&self, now: Now, out: &mut Vec<u8>) {
        match &self.codec {
            Codec::Resp(codec) => codec.describe(now, out),
            Codec::Memcached(_) | Codec::Native(_) | Codec::Sniffing => {
                let age = now.mono.millis_since(self.client.since.mono) / 1000;
                let line = format!(
                    "id={} addr={} laddr={} name= age={age} idle=0 flags=N db=0 cmd=NULL resp=0\n",
                    self.client.id, self.client.peer, self.client.local
                );
                out.extend_from_slice(line.as_bytes());
            }
        }
    }
}
