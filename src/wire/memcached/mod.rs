//! memcached's text and meta protocols.
//!
//! ```text
//!   input --> Memcached::serve --> a line --> classic.rs | meta.rs --> Exchange::ask, one key each
//!                  |                                                        |
//!                  | (state: inside a get line, swallowing a block)         v
//!                  |                                   writer.rs (with stats.rs): outcome --> bytes
//! ```
//! 1. A line is waited for whole, up to `LINE_BYTES_MAX`, and so is the block behind a storage command: both are used where
//!    they stand in the input, nothing is buffered here.
//! 2. Only a get line may be longer. It is taken key by key, each key a request of its own; the state remembers that we
//!    are inside it, so the line never has to be in the input as a whole.
//! 3. A block that will not be stored is swallowed as it comes.
//! 4. What a reply needs beside the outcome (key, meta flags) is the request's own text, kept as the note of its place.
//!
//! A hit by `get` costs a search for the line's end, one look at the key's bytes and one copy of the value; nothing is allocated.
//!
//! Behaviour is that of memcached 1.6.45 but where it would lie, leave the stream out of step, or depend on how the bytes were
//! cut into packets: a key with control characters is refused, flags beyond 32 bits are refused instead of cut off, the block
//! of a refused storage command is always swallowed if its length is known, and the bound on lines holds even if the line's
//! end is already there.

mod ahead;
mod classic;
mod meta;
mod stats;
#[cfg(test)]
mod tests;
mod words;
mod writer;

use super::journal::Blame;
use super::{Backend, Exchange, Next, Options, Order, Output, Progress, Reason, TURN_BYTES_MAX, Target};
use crate::clock::Now;
use crate::metrics::Counters;
use crate::request::{ExpiryChange, Fault, Outcome, Request, Verb};
use crate::topology::Node;
use crate::wire::users::Badge;
use std::sync::Arc;
use words::{KEY_BYTES_MAX, Words, is_key, unsigned};
use writer::{Shape, Writer};

/// Bytes of lines that wait for a client who watches, beside those that are on their way to it.
const WATCHED_BYTES_MAX: usize = 256 << 10;
/// Longest line in bytes, its end not counted, unless it is a get.
const LINE_BYTES_MAX: usize = 2048;

const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk";
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";

/// See [`super::Session::sole_key`].
#[inline]
pub(crate) fn sole_key(input: &[u8]) -> Option<&[u8]> {
    ahead::sole_key(input)
}

/// Says that there is no memory for a value whose end has not come.
#[cold]
pub(crate) fn give_up(out: &mut Output) {
    out.extend_from_slice(writer::fault_text(Fault::OutOfMemory));
    out.extend_from_slice(b"\r\n");
}

/// A memcached session: both halves and the order between them.
pub(crate) struct Memcached {
    options: Arc<Options>,
    state: State,
    /// Who the client is.
    pub(super) badge: Badge,
    writer: Writer,
    order: Order<Shape>,
    /// Lines of what happens that the client was not shown, and not told of yet.
    skipped: u64,
}

/// Where in the stream the next byte stands.
#[derive(Clone, Copy)]
enum State {
    /// At the start of a line.
    Line,
    /// Inside a get line.
    Keys(Retrieval),
    /// Inside a line that was refused.
    Refuse,
    /// Inside a block that is not wanted.
    Swallow { left: u64 },
    /// Shown what happens; what the client says is not listened to any more.
    Watch,
}

/// What a get line does with each of its keys.
#[derive(Clone, Copy)]
struct Retrieval {
    /// Show the version (`gets`, `gats`).
    version: bool,
    /// Change the expiry (`gat`, `gats`).
    expiry: ExpiryChange,
    /// Whether there was a key yet.
    any: bool,
}

impl Memcached {
    /// A session that has said nothing yet.
    /// See [`super::Session::follow`].
    pub fn follow(&mut self, options: &Arc<Options>) {
        self.options = options.clone();
    }

    pub fn new(options: Arc<Options>, badge: Badge) -> Self {
        Memcached {
            badge,
            writer: Writer::new(options.clone()),
            options,
            state: State::Line,
            order: Order::new(),
            skipped: 0,
        }
    }

    /// See [`super::Session::serve`].
    pub fn serve<B: Backend>(
        &mut self,
        now: Now,
        node: &Node,
        input: &[u8],
        backend: &mut B,
        out: &mut Output,
    ) -> Progress {
        let bytes = out.total() + TURN_BYTES_MAX;
        let mut turn = Turn {
            bytes,
            exchange: Exchange {
                now,
                node,
                backend,
                writer: &mut self.writer,
                order: &mut self.order,
                out,
                blame: Blame::NOBODY,
            },
            options: &self.options,
            state: &mut self.state,
            authenticated: self.badge.is_free(),
            badge: &mut self.badge,
            budget: self.options.commands_per_turn.max(1),
            commands: 0,
            expected: 0,
        };
        let progress = turn.run(input);
        let commands = turn.commands;
        let counters = backend.counters();
        counters.commands_total += commands;
        self.writer.settle(counters);
        progress
    }

    /// See [`super::Session::complete`].
    pub fn complete(&mut self, now: Now, node: &Node, ticket: u32, outcome: &Outcome<'_>, out: &mut Output) {
        self.order.complete(now, node, ticket, outcome, &mut self.writer, out);
    }

    /// See [`super::Session::settle`].
    pub fn settle(&mut self, counters: &mut Counters) {
        self.writer.settle(counters);
    }

    /// Bytes held for replies that wait.
    pub fn held_bytes(&self) -> usize {
        self.order.held_bytes()
    }

    /// Number of replies that wait.
    pub fn awaited(&self) -> usize {
        self.order.len()
    }

    /// Whether it stopped inside a command that is taken in pieces.
    pub fn midway(&self) -> bool {
        !matches!(self.state, State::Line | State::Watch)
    }

    /// Whether the client is shown what happens, or has asked for it.
    pub fn watches(&self) -> bool {
        matches!(self.state, State::Watch)
    }

    /// Shows lines of what happens; `batch` is [`super::events::Watchers::take`]'s. A client that does not take them is told
    /// later how many it missed.
    pub fn show(&mut self, batch: &[u8], out: &mut Vec<u8>) {
        let Some((dropped, lines)) = batch.split_first_chunk::<8>() else { return };
        // What happens before the watch has begun everywhere is nobody's business.
        if !self.watches() || !self.order.is_empty() || self.writer.refused {
            return;
        }
        let dropped = u64::from_le_bytes(*dropped);
        self.skipped += dropped;
        let count = memchr::memchr_iter(b'\n', lines).count() as u64;
        if out.len() + lines.len() > WATCHED_BYTES_MAX {
            self.skipped += count;
            self.writer.tally_watched(0, dropped + count);
            return;
        }
        self.writer.tally_watched(count, dropped);
        if self.skipped > 0 {
            out.extend_from_slice(format!("skipped={}\n", self.skipped).as_bytes());
            self.skipped = 0;
        }
        out.extend_from_slice(lines);
    }

    /// Whether the client may do everything.
    pub fn authenticated(&self) -> bool {
        self.badge.is_free()
    }
}

/// One call of `serve`.
struct Turn<'t, B: Backend> {
    exchange: Exchange<'t, B, Writer>,
    options: &'t Options,
    state: &'t mut State,
    authenticated: bool,
    badge: &'t mut Badge,
    /// Commands (keys, in a get line) that may still be executed in this turn.
    budget: usize,
    /// Bytes of output at which the turn is over.
    bytes: usize,
    /// Commands executed in this turn.
    commands: u64,
    /// Commands from here on whose keys the backend was told.
    expected: usize,
}

/// What one step over the input came to.
enum Advance {
    /// This many bytes are done with.
    On(usize),
    /// This many bytes are done with, and here it stops.
    Stop(usize, Next),
}

impl<B: Backend> Turn<'_, B> {
    fn run(&mut self, input: &[u8]) -> Progress {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            if rest.is_empty() {
                return Progress { consumed: at, next: Next::More { at_least: 1 } };
            }
            let step = match *self.state {
                State::Line => self.command(rest),
                State::Keys(retrieval) => self.keys(rest, retrieval),
                State::Refuse => self.refuse(rest),
                State::Swallow { left } => self.swallow(rest, left),
                State::Watch => self.watching(rest),
            };
            match step {
                Advance::On(len) => at += len,
                Advance::Stop(len, next) => return Progress { consumed: at + len, next },
            }
        }
    }

    /// What keeps the next command from being executed now.
    #[inline]
    fn obstacle(&self) -> Option<Next> {
        if self.budget == 0 || self.exchange.out.total() >= self.bytes {
            Some(Next::Yield)
        } else if !self.exchange.has_room(self.options.output_soft_bytes) {
            Some(Next::Blocked)
        } else {
            None
        }
    }

    /// Whether a word may be a key here.
    #[inline]
    fn is_key(&self, word: &[u8]) -> bool {
        is_key(word, self.options.key_bytes_max.min(KEY_BYTES_MAX))
    }

    /// Counts a command that is being executed.
    #[inline]
    fn spend(&mut self) {
        self.budget = self.budget.saturating_sub(1);
        self.commands += 1;
    }

    fn command(&mut self, rest: &[u8]) -> Advance {
        if let Some(next) = self.obstacle() {
            return Advance::Stop(0, next);
        }
        let window = &rest[..rest.len().min(LINE_BYTES_MAX + 2)];
        match memchr::memchr(b'\n', window) {
            Some(end) => {
                if self.expected == 0 && end + 1 < rest.len() {
                    self.look_ahead(rest);
                }
                self.expected = self.expected.saturating_sub(1);
                let line = match &rest[..end] {
                    [line @ .., b'\r'] => line,
                    line => line,
                };
                let block = &rest[end + 1..];
                if self.authenticated {
                    self.execute(line, block, end + 1)
                } else {
                    self.authenticate(line, block, end + 1)
                }
            }
            None if window.len() < LINE_BYTES_MAX + 2 => {
                Advance::Stop(0, Next::More { at_least: rest.len() + 1 })
            }
            None => self.long_line(window),
        }
    }

    /// Tells the backend which keys the commands in `rest` are about, if there are several.
    fn look_ahead(&mut self, rest: &[u8]) {
        let mut keys = [&b""[..]; ahead::COMMANDS_MAX];
        let count = ahead::keys(rest, &mut keys);
        // One key is fetched when it is asked for; after something unusual the look begins anew behind it.
        self.expected = count.max(1);
        if count > 1 && self.authenticated {
            self.exchange.backend.expect(&keys[..count]);
        }
    }

    /// A line longer than lines are: a get is taken key by key, anything else ends the connection.
    fn long_line(&mut self, window: &[u8]) -> Advance {
        if self.authenticated {
            let mut words = Words(window);
            let verb = match window {
                [b' ', ..] => None,
                _ => words.next(),
            };
            let (version, touches) = match verb {
                Some(b"get") => (false, false),
                Some(b"gets") => (true, false),
                Some(b"gat") => (false, true),
                Some(b"gats") => (true, true),
                _ => return self.too_long(),
            };
            let expiry = match touches {
                false => ExpiryChange::Keep,
                true => match words.next().and_then(words::signed) {
                    Some(seconds) => ExpiryChange::Set(words::expiry(self.exchange.now, seconds)),
                    None => {
                        self.fail(b"CLIENT_ERROR invalid exptime argument", false);
                        *self.state = State::Refuse;
                        return Advance::On(0);
                    }
                },
            };
            *self.state = State::Keys(Retrieval { version, expiry, any: false });
            let taken = window.len() - words.rest().len();
            if touches && taken == window.len() {
                return self.too_long();
            }
            return Advance::On(taken);
        }
        self.too_long()
    }

    fn too_long(&mut self) -> Advance {
        self.fail(b"CLIENT_ERROR line too long", false);
        Advance::Stop(0, Next::Close(Reason::Protocol))
    }

    /// Takes keys of a get line as they come.
    fn keys(&mut self, rest: &[u8], mut retrieval: Retrieval) -> Advance {
        let mut at = 0;
        loop {
            at += rest[at..].iter().position(|&b| b != b' ').unwrap_or(rest.len() - at);
            if let Some(next) = self.obstacle() {
                *self.state = State::Keys(retrieval);
                return Advance::Stop(at, next);
            }
            let window = &rest[at..rest.len().min(at + KEY_BYTES_MAX + 2)];
            let Some(len) = window.iter().position(|&b| matches!(b, b' ' | b'\n')) else {
                *self.state = State::Keys(retrieval);
                if window.len() < KEY_BYTES_MAX + 2 {
                    return Advance::Stop(at, Next::More { at_least: window.len() + 1 });
                }
                return self.refuse_keys(at);
            };
            let last = window[len] == b'\n';
            let key = match &window[..len] {
                [key @ .., b'\r'] if last => key,
                key => key,
            };
            if !key.is_empty() {
                if !self.is_key(key) {
                    return self.refuse_keys(at);
                }
                self.retrieve(key, retrieval);
                retrieval.any = true;
            }
            at += len + 1;
            if last {
                *self.state = State::Line;
                if retrieval.any {
                    self.exchange.say(Shape::End, b"");
                } else {
                    self.fail(BAD_FORMAT, false);
                }
                return Advance::On(at);
            }
        }
    }

    fn refuse_keys(&mut self, at: usize) -> Advance {
        self.fail(BAD_FORMAT, false);
        *self.state = State::Refuse;
        Advance::On(at)
    }

    /// Asks for one key of a get line.
    #[inline]
    fn retrieve(&mut self, key: &[u8], retrieval: Retrieval) {
        self.spend();
        let verb = match retrieval.expiry {
            ExpiryChange::Keep => Verb::Get,
            expiry => {
                Verb::Fetch(crate::request::Fetch { expiry, lease: false, ..crate::request::Fetch::PLAIN })
            }
        };
        let shape =
            Shape::Value { version: retrieval.version, touch: retrieval.expiry != ExpiryChange::Keep };
        self.exchange.ask(Target::Owner, &Request { key, value: b"", verb }, shape, key);
    }

    fn refuse(&mut self, rest: &[u8]) -> Advance {
        match memchr::memchr(b'\n', rest) {
            Some(end) => {
                *self.state = State::Line;
                Advance::On(end + 1)
            }
            None => Advance::On(rest.len()),
        }
    }

    fn swallow(&mut self, rest: &[u8], left: u64) -> Advance {
        let len = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        *self.state = match left - len as u64 {
            0 => State::Line,
            left => State::Swallow { left },
        };
        Advance::On(len)
    }

    /// Goes on behind a line whose block is not wanted; the block may still be on its way.
    fn go_on_behind_block(&mut self, line_len: usize, block_len: u64) -> Advance {
        *self.state = State::Swallow { left: block_len };
        Advance::On(line_len)
    }

    /// Says that a command was refused, or only counts it if the client wants no replies.
    #[cold]
    fn fail(&mut self, text: &[u8], noreply: bool) {
        let counters = self.exchange.backend.counters();
        counters.errors_total += 1;
        if noreply {
            counters.silent_errors_total += 1;
        } else {
            self.exchange.say(Shape::Text, text);
        }
    }

    /// Before authentication there is one command: `set <any key> <flags> <exptime> <bytes>` with `user password` as its block.
    #[cold]
    fn authenticate(&mut self, line: &[u8], block: &[u8], line_len: usize) -> Advance {
        let output_bytes = self.exchange.out.total() + self.exchange.order.held_bytes();
        if output_bytes > self.options.unauthenticated_output_bytes_max {
            return Advance::Stop(0, Next::Close(Reason::Unauthenticated));
        }
        let mut words = Words(line);
        if line == b"quit" {
            return Advance::Stop(line_len, Next::Close(Reason::Quit));
        }
        if words.count() > self.options.unauthenticated_arguments_max {
            self.fail(UNAUTHENTICATED, false);
            return Advance::Stop(line_len, Next::Close(Reason::Unauthenticated));
        }
        let is_set = line.starts_with(b"set ");
        let Some(len) = words.nth(4).and_then(unsigned).filter(|_| is_set) else {
            self.spend();
            self.fail(UNAUTHENTICATED, false);
            return Advance::On(line_len);
        };
        let len = match usize::try_from(len) {
            Ok(len) if len <= self.options.unauthenticated_argument_bytes_max => len,
            _ => {
                self.fail(UNAUTHENTICATED, false);
                return Advance::Stop(line_len, Next::Close(Reason::Unauthenticated));
            }
        };
        if block.len() < len + 2 {
            return Advance::Stop(0, Next::More { at_least: line_len + len + 2 });
        }
        self.spend();
        let (token, end) = block[..len + 2].split_at(len);
        if end != b"\r\n" {
            self.fail(b"CLIENT_ERROR bad command line termination", false);
            return Advance::On(line_len + len + 2);
        }
        self.exchange.backend.counters().auth_attempts_total += 1;
        match memchr::memchr(b' ', token) {
            None => self.fail(b"CLIENT_ERROR bad authentication token format", false),
            Some(space) => {
                // Nothing is looked at one by one here, so only those come in who may do everything.
                let now = self.exchange.now.mono;
                let (user, password) = (&token[..space], &token[space + 1..]);
                if self.badge.admit_free(&mut *self.exchange.backend, now, user, password) {
                    self.authenticated = true;
                    self.exchange.say(Shape::Text, b"STORED");
                } else {
                    self.exchange.backend.counters().auth_failures_total += 1;
                    self.fail(b"CLIENT_ERROR authentication failure", false);
                }
            }
        }
        Advance::On(line_len + len + 2)
    }
}
