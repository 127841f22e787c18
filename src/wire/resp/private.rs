//! What a client has of its own at an origin that does commands as they are: keys it watches there, channels it subscribes to
//! there, a command that waits there for what others do. All of it takes a connection that is this client's alone.
//!
//! 1. While keys are watched there, all commands with keys of that origin go there, on that connection: what `GET` tells must
//!    not be older than the `WATCH`, and `EXEC` must be done where the keys are watched.
//! 2. Subscriptions go there where there is one origin for commands without keys, but for the channel of client-side caching,
//!    which is ours. What is published is told as it comes, behind the replies that are awaited.
//! 3. What waits has the deadline that its own timeout sets, and none if that is 0; the client's end ends it.

use super::parser::{Arguments, integer};
use super::passing::append_command;
use super::reply::Shape;
use super::{Backend, Ex, Talk, is};
use crate::request::{Keeps, Line, Pass, Private as How, Request, Verb};
use crate::wire::Target;
use crate::wire::journal::Blame;
use std::collections::BTreeSet;

/// The channel by which RESP2 clients are told of changed keys.
const OWN_CHANNEL: &[u8] = b"__redis__:invalidate";

/// What of a connection to an origin is kept for a client, if anything is.
#[derive(Default)]
pub(super) struct Private {
    /// The origin.
    pub at: u16,
    /// How many keys are watched, and one of them, which finds the origin again.
    pub watched: usize,
    watched_key: Vec<u8>,
    /// Whether channels are subscribed to.
    subscribed: bool,
}

/// How a reply is to be written, and for what.
pub(super) struct Errand<'a> {
    /// A key of the origin; empty: that of commands without keys.
    pub key: &'a [u8],
    /// All keys, each behind its length, then the commands.
    pub value: &'a [u8],
    pub key_bytes: usize,
    pub replies: u32,
    pub writes: bool,
    pub line: Line,
    pub shape: Shape,
}

/// Replies of which origin connection are awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Of none.
    Nobody,
    /// Of the one that is shared.
    Shared,
    /// Of the client's own.
    Private,
}

impl Lane {
    pub fn of(line: Line) -> Lane {
        match line {
            Line::Shared => Lane::Shared,
            Line::Private(_) => Lane::Private,
        }
    }
}

impl Talk {
    /// Whether keys are watched at an origin.
    #[inline]
    pub(super) fn watches_there(&self) -> bool {
        self.private.as_ref().is_some_and(|private| private.watched > 0)
    }

    /// Whether what the origin sends by itself is for this client.
    pub(super) fn listens_there(&self) -> bool {
        self.private.as_ref().is_some_and(|private| private.subscribed)
    }

    /// Whether a command of this origin could not take the connection that is kept.
    pub(super) fn is_kept_elsewhere(&self, origin: u16) -> bool {
        self.private.as_ref().is_some_and(|private| private.at != origin)
    }

    /// The client's own connection, for a command that may wait there.
    pub(super) fn own_line(&self, waits_millis: u64) -> Line {
        let keeps = match &self.private {
            Some(private) if private.subscribed => Keeps::Subscribed,
            Some(private) if private.watched > 0 => Keeps::Watched,
            _ => Keeps::Nothing,
        };
        Line::Private(How { waits_millis, keeps, confirms: false, continues: self.watches_there() })
    }

    /// Sends commands to an origin; what comes back is the reply.
    pub(super) fn ask_origin<B: Backend>(&mut self, ex: &mut Ex<'_, B>, errand: &Errand<'_>) {
        self.last_at = ex.now;
        self.commands += 1;
        ex.backend.counters().commands_total += 1;
        // Not among our calls, so not among our errors of a command either.
        ex.blame = Blame::NOBODY;
        let &Errand { key, value, key_bytes, replies, writes, line, shape } = errand;
        let pass = Pass { protocol: self.protocol, key_bytes: key_bytes as u32, replies, writes, line };
        ex.ask(Target::Here, &Request { key, value, verb: Verb::Pass(pass) }, shape, &[]);
        self.passing = Lane::of(line);
    }

    /// Remembers that so many more keys are watched there, of which this is one, and answers the connection for that.
    pub(super) fn watch_there(&mut self, origin: u16, key: &[u8], count: usize) -> Line {
        let continues = self.watches_there();
        let private = self.private.get_or_insert_default();
        private.at = origin;
        private.watched += count;
        private.watched_key = key.to_vec();
        let Line::Private(how) = self.own_line(0) else { unreachable!("it is private") };
        Line::Private(How { continues, ..how })
    }

    /// The keys are not watched any more, by what goes out next; answers a key of their origin, and the connection.
    pub(super) fn end_watch(&mut self) -> (Vec<u8>, Line) {
        let continues = self.watches_there();
        let mut key = Vec::new();
        if let Some(private) = &mut self.private {
            (key, private.watched) = (std::mem::take(&mut private.watched_key), 0);
        }
        let Line::Private(how) = self.own_line(0) else { unreachable!("it is private") };
        self.forget_if_free();
        (key, Line::Private(How { continues, ..how }))
    }

    /// Lets go of keys that are watched there; what comes of it is nobody's concern.
    pub(super) fn unwatch_there<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let (key, line) = self.end_watch();
        let (value, shape) = (b"*1\r\n$7\r\nUNWATCH\r\n", Shape::Ignored);
        let errand = Errand { key: &key, value, key_bytes: 0, replies: 1, writes: false, line, shape };
        self.ask_origin(ex, &errand);
    }

    /// Gives up what is kept there, as `RESET` does.
    pub(super) fn leave_origin<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let Some(private) = self.private.take() else { return };
        let how = How { waits_millis: 0, keeps: Keeps::Nothing, confirms: false, continues: false };
        let line = Line::Private(how);
        let errand = Errand {
            key: &private.watched_key,
            value: b"",
            key_bytes: 0,
            replies: 1,
            writes: false,
            line,
            shape: Shape::Ignored,
        };
        self.ask_origin(ex, &errand);
    }

    fn forget_if_free(&mut self) {
        if self.private.as_ref().is_some_and(|private| private.watched == 0 && !private.subscribed) {
            self.private = None;
        }
    }

    /// Where a change of subscriptions is made, if not here: channels of client-side caching are ours.
    pub(super) fn subscribes_at<B: Backend>(
        &self,
        ex: &Ex<'_, B>,
        kind: usize,
        names: Arguments<'_>,
        adds: bool,
    ) -> Option<u16> {
        let ours = names.len() > 1 && names.from(1).all(|name| name == OWN_CHANNEL && kind == 0);
        if ours || !adds && !self.listens_there() {
            return None;
        }
        ex.backend.passes_to(None)
    }

    /// Has the origin change subscriptions of this kind; the sets here are changed already.
    pub(super) fn subscribe_there<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        origin: u16,
        confirms: usize,
        arguments: Arguments<'_>,
    ) {
        let there = |names: &BTreeSet<Vec<u8>>| names.iter().any(|name| name != OWN_CHANNEL);
        let subscribed = self.subscriptions.iter().any(there);
        let continues = self.watches_there();
        let private = self.private.get_or_insert_default();
        (private.at, private.subscribed) = (origin, subscribed);
        let Line::Private(how) = self.own_line(0) else { unreachable!("it is private") };
        self.forget_if_free();
        let line = Line::Private(How { confirms: true, continues, ..how });
        let mut value = Vec::new();
        append_command(arguments, &mut value);
        let errand = Errand {
            key: b"",
            value: &value,
            key_bytes: 0,
            replies: confirms.max(1) as u32,
            writes: false,
            line,
            shape: Shape::Passed,
        };
        self.ask_origin(ex, &errand);
    }
}

/// How many of these the origin knows of.
pub(super) fn count_there(names: &BTreeSet<Vec<u8>>) -> usize {
    names.iter().filter(|name| *name != OWN_CHANNEL).count()
}

/// Where a command says how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Seconds, in the argument of this place.
    SecondsAt(usize),
    /// Seconds, in the last argument.
    SecondsLast,
    /// Milliseconds, in the last argument.
    MillisLast,
    /// Milliseconds, behind `BLOCK`.
    Block,
}

impl Patience {
    /// Milliseconds that a command waits; `u64::MAX`: for ever. What makes no sense the origin refuses at once.
    pub fn millis(self, arguments: Arguments<'_>) -> u64 {
        let len = arguments.len();
        let word = match self {
            Patience::SecondsAt(place) => place,
            Patience::SecondsLast | Patience::MillisLast => len - 1,
            Patience::Block => {
                let streams = (1..len).find(|&i| is(arguments.at(i), "streams")).unwrap_or(len);
                match (1..streams).find(|&i| is(arguments.at(i), "block")) {
                    Some(place) => place + 1,
                    None => return 0,
                }
            }
        };
        if word == 0 || word >= len {
            return 0;
        }
        let millis = match self {
            Patience::SecondsAt(_) | Patience::SecondsLast => {
                let seconds = std::str::from_utf8(arguments.at(word)).ok().and_then(|text| text.parse().ok());
                match seconds.unwrap_or(-1.0) * 1000.0 {
                    // Rounded up, as the origin does; what is too much for it, it refuses.
                    millis @ 0.0..=1e15 => Some(f64::ceil(millis) as u64),
                    _ => None,
                }
            }
            Patience::MillisLast | Patience::Block => {
                integer(arguments.at(word)).and_then(|millis| u64::try_from(millis).ok())
            }
        };
        match millis {
            Some(0) => u64::MAX,
            Some(millis) => millis,
            None => 0,
        }
    }
}
