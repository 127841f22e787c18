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

pub mod denials;
pub mod events;
pub mod guesses;
pub mod journal;
mod memcached;
pub mod native;
mod order;
mod output;
mod resp;
mod sniff;
pub mod users;

use crate::clock::{Mono, Now};
use crate::ids::CoreId;
use crate::metrics::Counters;
use crate::request::{Notice, Observer, Outcome, Request};
use crate::topology::Node;
use denials::Denial;
use journal::{Errors, Journal, Slow, Thresholds};
use std::sync::Arc;
use users::{Badge, Users};

pub(crate) use order::{Encode, Exchange, Order};
pub use output::Output;
pub use resp::commands;

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The core that owns the key.
    Owner,
    /// This core, whatever the key.
    Core(CoreId),
    /// The core of the session.
    Here,
}

/// Bytes of replies after which a turn of one connection is over, however few commands that were: making and sending so many
/// takes about as long as the commands that it may have done.
pub(crate) const TURN_BYTES_MAX: usize = 256 << 10;

/// What a session needs of the world behind it.
pub trait Backend {
    /// Does the request now and answers, or sends it on and answers `None`; then the outcome is handed to
    /// [`Session::complete`] with the ticket later. Never blocks.
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>>;

    /// Whether requests for a key go to the owner that the node's map shows and nowhere else: not while its shard moves.
    fn is_settled(&self, _key: &[u8]) -> bool {
        true
    }

    /// Takes in that a core of another node wants this connection as its link; `false`: it cannot have it. What it said is the body of
    /// its first frame, which the session leaves where it is.
    fn link(&mut self, _greeting: &[u8]) -> bool {
        false
    }

    /// Says which keys the next calls will be about, so that memory may be fetched meanwhile. A hint.
    #[inline]
    fn expect(&mut self, _keys: &[&[u8]]) {}

    /// Does a bounded step towards storing a large value of a key, and answers whether the request that brings it may be called
    /// now; if not, the session stops with [`Next::Yield`] before it. Only values of [`crate::request::LANDING_BYTES_MIN`] or more are asked about.
    fn land(&mut self, _key: &[u8], _value: &[u8]) -> bool {
        true
    }

    /// Whether `call` has room to send requests on; while not, the session stops with [`Next::Blocked`].
    fn ready(&self) -> bool;

    /// Whether a password of this user may be looked at for a client from there ([`guesses`]).
    fn trusts(&mut self, _now: Mono, _source: &str, _user: &[u8]) -> bool {
        true
    }

    /// Takes in that one was wrong.
    fn distrust(&mut self, _now: Mono, _source: &str, _user: &[u8]) {}

    /// Takes in what was refused to somebody, for `ACL LOG`.
    fn denied(&mut self, _denial: &Denial<'_>) {}

    /// Fills `into` with bytes that nobody can guess; `false`: there are none to be had.
    fn dice(&mut self, _into: &mut [u8]) -> bool {
        false
    }

    /// The core's counters; sessions count commands and errors there.
    fn counters(&mut self) -> &mut Counters;

    /// Whether there are keys whose origin does commands as they are ([`crate::request::Verb::Pass`]).
    #[inline]
    fn passes(&self) -> bool {
        false
    }

    /// Which origin does commands on this key as they are, if any does; `None` instead of a key: those without keys.
    fn passes_to(&self, _key: Option<&[u8]>) -> Option<u16> {
        None
    }

    /// Which origin has all keys, and does commands about all of them as they are.
    fn passes_all_to(&self) -> Option<u16> {
        None
    }

    /// The session as somebody who is told of changes; `None`: nobody can be told here.
    fn observer(&self) -> Option<Observer> {
        None
    }

    /// Whether somebody monitors the commands of this core.
    fn monitored(&self) -> bool {
        false
    }

    /// Shows a command to those who monitor; without the time, which is the shell's to know.
    fn monitor(&mut self, _line: &[u8]) {}

    /// The clock, for what a command takes; `None`: nobody wants to know.
    fn clock(&self) -> Option<Mono> {
        None
    }

    /// Takes in what a command took; whether it is to be kept.
    fn took(&mut self, _command: u8, _unix_seconds: u64, _micros: u64) -> bool {
        false
    }

    /// Keeps a command that took long.
    fn keep(&mut self, _slow: &Slow<'_>) {}

    /// Counts error replies by their codes and commands.
    fn erred(&mut self, _errors: &Errors) {}

    /// What is kept of commands that take long.
    fn thresholds(&self) -> Thresholds {
        Thresholds::default()
    }

    /// Counts a call of a RESP command or subcommand by its place in the table, for `INFO commandstats`.
    fn called(&mut self, place: u8);
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
    /// Who may do what.
    pub users: Arc<Users>,
    /// Strangers can reach this server: at run time, too, the default user may not become one who needs no password.
    pub guarded: bool,
    /// Longest key in bytes (memcached's own limit of 250 holds beside it).
    pub key_bytes_max: usize,
    /// Longest value in bytes by RESP.
    pub value_bytes_max: usize,
    /// Longest value in bytes by memcached.
    pub memcached_value_bytes_max: usize,
    /// Longest value that is copied into a reply of another form (`DUMP`), or from core to core.
    pub copied_bytes_max: usize,
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
    /// Least bytes that the limit of memory may be set to at run time.
    pub memory_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocol: Protocol::Sniff,
            only_core: None,
            users: Arc::new(Users::with_password(None)),
            guarded: false,
            key_bytes_max: 64 * 1024,
            value_bytes_max: 512 * 1024 * 1024,
            memcached_value_bytes_max: 1024 * 1024,
            copied_bytes_max: 16 * 1024 * 1024,
            query_buffer_bytes_max: 16 * 1024 * 1024,
            output_soft_bytes: 16 * 1024 * 1024,
            unauthenticated_arguments_max: 10,
            unauthenticated_argument_bytes_max: 16 * 1024,
            unauthenticated_output_bytes_max: 64 * 1024,
            commands_per_turn: 256,
            memory_bytes_min: 8 << 20,
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
    attentive: bool,
    /// Who the client is as long as it says nothing else.
    badge: Badge,
    out: Output,
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
        let badge = Badge::new(options.users.clone(), &client.peer);
        let mut session = Session {
            options,
            client,
            codec: Codec::Sniffing,
            attentive: false,
            badge,
            out: Output::default(),
        };
        session.speak_the_only();
        session
    }

    fn speak_the_only(&mut self) {
        match self.options.protocol {
            Protocol::Sniff => {}
            Protocol::Resp => self.speak_resp(),
            Protocol::Memcached => self.speak_memcached(),
            Protocol::Native => self.speak_native(),
        }
    }

    /// Makes a client whose certificate says who it is the user of this name, if there is one. To be called before the
    /// first byte.
    pub fn identify(&mut self, name: &[u8]) {
        if self.badge.identify(name) {
            self.speak_the_only();
        }
    }

    /// What it was made with, or follows now.
    pub fn options(&self) -> &Arc<Options> {
        &self.options
    }

    /// Takes in other limits: from the next command on.
    pub fn follow(&mut self, options: &Arc<Options>) {
        self.options = options.clone();
        match &mut self.codec {
            Codec::Resp(codec) => codec.follow(options),
            Codec::Memcached(codec) => codec.follow(options),
            Codec::Native(codec) => codec.follow(options),
            Codec::Sniffing => {}
        }
    }

    /// Takes in that users have changed; `false` if the client's own is there no more, and the connection is to go.
    pub fn adopt(&mut self, users: &Arc<Users>) -> bool {
        let stays = self.badge.adopt(users);
        match &mut self.codec {
            Codec::Resp(codec) => codec.adopt(users),
            Codec::Memcached(codec) => codec.badge.adopt(users),
            Codec::Native(codec) => codec.badge.adopt(users),
            Codec::Sniffing => stays,
        }
    }

    fn speak_resp(&mut self) {
        let mut codec = resp::Resp::new(self.options.clone(), self.client.clone(), self.badge.clone());
        codec.be_attentive(self.attentive);
        self.codec = Codec::Resp(Box::new(codec));
    }

    fn speak_memcached(&mut self) {
        self.codec =
            Codec::Memcached(Box::new(memcached::Memcached::new(self.options.clone(), self.badge.clone())));
    }

    fn speak_native(&mut self) {
        self.codec = Codec::Native(Box::new(native::Native::new(self.options.clone(), self.badge.clone())));
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

    /// The key of the command that `input` holds, where that is one and easy to see. No more than a hint at what is asked next.
    #[inline]
    pub fn sole_key<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        match &self.codec {
            Codec::Resp(codec) => codec.sole_key(input),
            Codec::Memcached(_) => memcached::sole_key(input),
            Codec::Native(_) => native::sole_key(input),
            Codec::Sniffing => None,
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

    /// Hands over what was counted while outcomes were encoded; to be called after [`Session::complete`], since the client
    /// may say nothing more.
    #[inline]
    pub fn settle(&mut self, counters: &mut Counters, journal: &mut Journal) {
        match &mut self.codec {
            Codec::Resp(codec) => {
                if let Some(errors) = codec.take_errors(counters) {
                    journal.erred(&errors);
                }
            }
            Codec::Memcached(codec) => codec.settle(counters),
            Codec::Native(codec) => codec.settle(counters),
            Codec::Sniffing => {}
        }
    }

    /// Tells the client something beside its replies, behind those that are awaited.
    pub fn notify(&mut self, now: Now, node: &Node, notice: Notice, text: &[u8]) {
        match &mut self.codec {
            Codec::Resp(codec) => codec.notify(now, node, notice, text, &mut self.out),
            Codec::Memcached(codec) if notice == Notice::Events => codec.show(text, &mut self.out),
            Codec::Memcached(_) | Codec::Native(_) | Codec::Sniffing => {}
        }
    }

    /// Who is to be told of changes in the place of this session's client, if it said so.
    pub fn redirect(&self) -> Option<Observer> {
        match &self.codec {
            Codec::Resp(codec) => codec.redirect(),
            Codec::Memcached(_) | Codec::Native(_) | Codec::Sniffing => None,
        }
    }

    /// Has the session look at each command: for those who monitor, or whose thresholds are low. Or no longer.
    pub fn be_attentive(&mut self, on: bool) {
        self.attentive = on;
        if let Codec::Resp(codec) = &mut self.codec {
            codec.be_attentive(on);
        }
    }

    /// Whether the client is told of changes or of commands, so that cores know its connection.
    pub fn observes(&self) -> bool {
        match &self.codec {
            Codec::Resp(codec) => codec.observes(),
            Codec::Memcached(codec) => codec.watches(),
            Codec::Native(_) | Codec::Sniffing => false,
        }
    }

    /// The client's address as `ip:port`.
    pub fn peer(&self) -> &str {
        &self.client.peer
    }

    /// Replies that are ready to be sent, for the caller to take.
    pub fn output(&mut self) -> &mut Output {
        &mut self.out
    }

    /// Bytes of replies not yet taken, and of outcomes that wait for older ones; but for values that lie in a store.
    pub fn output_bytes(&self) -> usize {
        self.out.len()
            + match &self.codec {
                Codec::Resp(codec) => codec.held_bytes(),
                Codec::Memcached(codec) => codec.held_bytes(),
                // Native replies wait for none, so none is held.
                Codec::Native(_) | Codec::Sniffing => 0,
            }
    }

    /// Says that there is no memory for the command whose end has not come; the connection is to be closed behind that. Nothing
    /// if replies are awaited: it would be taken for one of them.
    #[cold]
    pub fn give_up_command(&mut self) {
        if self.has_gap() {
            return;
        }
        match &mut self.codec {
            Codec::Resp(_) => resp::give_up(&mut self.out),
            Codec::Memcached(_) => memcached::give_up(&mut self.out),
            Codec::Native(codec) => codec.give_up(&mut self.out),
            Codec::Sniffing => {}
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

    /// Whether replies stand behind one that is awaited, which those of the native protocol never do.
    #[inline]
    pub fn has_gap(&self) -> bool {
        match &self.codec {
            Codec::Resp(codec) => codec.awaited() > 0,
            Codec::Memcached(codec) => codec.awaited() > 0,
            Codec::Native(_) | Codec::Sniffing => false,
        }
    }

    /// Whether the client may do everything; false until it authenticated, where that is asked for.
    pub fn authenticated(&self) -> bool {
        match &self.codec {
            Codec::Resp(codec) => codec.authenticated(),
            Codec::Memcached(codec) => codec.authenticated(),
            Codec::Native(codec) => codec.authenticated(),
            Codec::Sniffing => self.badge.user().is_some(),
        }
    }

    /// Whether what was consumed last ends inside a command that is taken in pieces: a long line of keys, or what a refused
    /// command still brings.
    pub fn midway(&self) -> bool {
        match &self.codec {
            Codec::Resp(codec) => codec.midway(),
            Codec::Memcached(codec) => codec.midway(),
            Codec::Native(codec) => codec.midway(),
            Codec::Sniffing => false,
        }
    }

    /// Commands that one call of [`Session::serve`] does at most.
    #[inline]
    pub fn commands_per_turn(&self) -> usize {
        self.options.commands_per_turn
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
                let user = match &self.codec {
                    Codec::Memcached(codec) => codec.badge.user(),
                    Codec::Native(codec) => codec.badge.user(),
                    Codec::Resp(_) | Codec::Sniffing => self.badge.user(),
                };
                let user =
                    user.map_or("(unauthenticated)".into(), |user| String::from_utf8_lossy(user.name()));
                let age = now.mono.millis_since(self.client.since.mono) / 1000;
                let line = format!(
                    "id={} addr={} laddr={} name= age={age} idle=0 flags=N db=0 cmd=NULL user={user} resp=0\n",
                    self.client.id, self.client.peer, self.client.local
                );
                out.extend_from_slice(line.as_bytes());
            }
        }
    }
}
