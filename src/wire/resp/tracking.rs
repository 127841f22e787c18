//! `CLIENT TRACKING`: this session as an observer of keys, and what sessions are told beside their replies.
//!
//! A key is announced to its owner ahead of the read, in the same batch, so that no change falls between. What the owner
//! tells comes behind the replies that are awaited then, and never inside one: so a client that sees `invalidate` has seen
//! what it invalidates.

use super::commands::{self, Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, NOT_INTEGER, SYNTAX, Shape};
use super::{Backend, ECHO_BYTES_MAX, Ex, Flow, Talk, Task, echo, is};
use crate::request::{Follow, Notice, Observer, Request, Verb};
use crate::wire::Target;

/// Prefixes of one client, and bytes of each.
const PREFIXES_MAX: usize = 64;
const PREFIX_BYTES_MAX: usize = 1024;
/// Bytes of notices that wait for the end of a command; beyond, all keys are told as changed.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// How a session observes.
pub(super) struct Observing {
    pub observer: Observer,
    pub mode: Mode,
    pub not_own: bool,
    /// Who is told in this client's place.
    pub redirect: Option<Redirect>,
    /// `CLIENT CACHING` for the next command.
    caching: Option<bool>,
    prefixes: Vec<Vec<u8>>,
}

/// Another connection that is told of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// Its client's id.
    pub client: u64,
    pub target: Observer,
    /// It has gone.
    pub broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Every key that is read.
    Default,
    /// Keys of commands behind `CLIENT CACHING YES`.
    OptIn,
    /// Keys of commands but those behind `CLIENT CACHING NO`.
    OptOut,
    /// Every key of the prefixes, read or not.
    Broadcast,
}

impl Talk {
    /// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix ..] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`.
    pub(super) fn tracking<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) -> Flow {
        let redirect = (3..arguments.len().saturating_sub(1)).find(|&i| is(arguments.at(i), "redirect"));
        let wanted = redirect.and_then(|i| integer(arguments.at(i + 1))).map(|client| client as u64);
        let target = match wanted {
            Some(client) if client == self.client.id => ex.backend.observer(),
            Some(client) => match self.locate(ex, client) {
                Ok(found) => found,
                Err(flow) => return flow,
            },
            None => None,
        };
        self.track(ex, arguments, target);
        Flow::Done
    }

    /// Where a connection is, as soon as all cores have answered.
    fn locate<B: Backend>(&mut self, ex: &mut Ex<'_, B>, client: u64) -> Result<Option<Observer>, Flow> {
        if self.executing {
            // The commands of a transaction are done in one go, and others have to be asked for this.
            return Ok(None);
        }
        match self.task {
            // Its parts would mix with those of commands that are not answered yet.
            _ if !ex.order.is_empty() => {
                if self.task == Task::None {
                    self.task = Task::Arguments { phase: 0, next: 0 };
                }
                Err(Flow::Wait)
            }
            Task::Walk { .. } => {
                let found = std::mem::take(&mut ex.writer.gathered);
                ex.writer.forget();
                Ok(found.first_chunk::<10>().map(|bytes| Observer::from_bytes(*bytes)))
            }
            _ => {
                self.task = Task::Walk { asked: None };
                for core in 0..ex.node.core_count() {
                    let request = Request { key: &[], value: &[], verb: Verb::Locate { client } };
                    ex.ask(Target::Core(crate::ids::CoreId(core)), &request, Shape::PagePart, &[]);
                }
                Err(Flow::Pause)
            }
        }
    }

    fn track<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>, target: Option<Observer>) {
        let on = is(arguments.at(2), "on");
        let (mut broadcast, mut opt_in, mut opt_out, mut not_own) = (false, false, false, false);
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        let mut redirect = None;
        let mut i = 3;
        while i < arguments.len() {
            let (word, left) = (arguments.at(i), arguments.len() - i - 1);
            match () {
                () if is(word, "bcast") => broadcast = true,
                () if is(word, "optin") => opt_in = true,
                () if is(word, "optout") => opt_out = true,
                () if is(word, "noloop") => not_own = true,
                () if is(word, "redirect") && left > 0 => {
                    if redirect.is_some() {
                        return self.fail(ex, "ERR A client can only redirect to a single other client");
                    }
                    i += 1;
                    let Some(client) = integer(arguments.at(i)) else { return self.fail(ex, NOT_INTEGER) };
                    let Some(target) = target else {
                        return self.fail(ex, "ERR The client ID you want redirect to does not exist");
                    };
                    redirect = Some(Redirect { client: client as u64, target, broken: false });
                }
                () if is(word, "prefix") && left > 0 => {
                    i += 1;
                    prefixes.push(arguments.at(i).to_vec());
                }
                () => return self.fail(ex, SYNTAX),
            }
            i += 1;
        }
        if on && self.options.only_core.is_none() && ex.node.cluster.is_some() {
            // Owners of keys on other nodes tell nobody here of changes.
            return self.fail(
                ex,
                "ERR in a cluster of nodes keys are tracked by a core's own port (CLUSTER SLOTS tells them)",
            );
        }
        if !on {
            return match is(arguments.at(2), "off") {
                true => {
                    self.stop_observing(ex);
                    self.ok(ex);
                }
                false => self.fail(ex, SYNTAX),
            };
        }
        if !prefixes.is_empty() && !broadcast {
            return self.fail(ex, "ERR PREFIX option requires BCAST mode to be enabled");
        }
        let mode = match (broadcast, opt_in, opt_out) {
            (true, false, false) => Mode::Broadcast,
            (true, ..) => return self.fail(ex, "ERR OPTIN and OPTOUT are not compatible with BCAST"),
            (_, true, true) => {
                return self.fail(ex, "ERR You can't specify both OPTIN mode and OPTOUT mode");
            }
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::Default,
        };
        if let Some(before) = &self.observing {
            if (before.mode == Mode::Broadcast) != broadcast {
                return self.fail(
                    ex,
                    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then \
                     re-enabling it with a different mode.",
                );
            }
            if matches!((before.mode, mode), (Mode::OptIn, Mode::OptOut) | (Mode::OptOut, Mode::OptIn)) {
                return self.fail(
                    ex,
                    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then \
                     re-enabling it with a different mode.",
                );
            }
        }
        let held = self.observing.as_ref().map(|before| before.prefixes.clone()).unwrap_or_default();
        if prefixes.len() + held.len() > PREFIXES_MAX || prefixes.iter().any(|p| p.len() > PREFIX_BYTES_MAX) {
            return self.fail(ex, "ERR too many or too long prefixes");
        }
        for (i, prefix) in prefixes.iter().enumerate() {
            let overlaps = |other: &&Vec<u8>| other.starts_with(prefix) || prefix.starts_with(other);
            let existing = held.iter().find(overlaps).map(|other| (other, "an existing prefix"));
            let provided =
                || prefixes[i + 1..].iter().find(overlaps).map(|other| (other, "another provided prefix"));
            if let Some((other, which)) = existing.or_else(provided) {
                let mut text = b"ERR Prefix '".to_vec();
                echo(&mut text, prefix, ECHO_BYTES_MAX);
                text.extend_from_slice(&[b"' overlaps with ", which.as_bytes(), b" '"].concat());
                echo(&mut text, other, ECHO_BYTES_MAX);
                text.extend_from_slice(b"'. Prefixes for a single client must not overlap.");
                return self.fail_bytes(ex, &text);
            }
        }
        let Some(observer) = ex.backend.observer() else {
            return self.fail(ex, "ERR client-side caching is not supported here");
        };
        let follow = Follow { all: broadcast, not_own };
        let every = broadcast && prefixes.is_empty() && held.is_empty();
        let announced: Vec<&[u8]> = match (broadcast, every) {
            (true, false) => prefixes.iter().map(Vec::as_slice).collect(),
            _ => vec![b""],
        };
        for prefix in announced {
            self.ask_everywhere(ex, Verb::Observe(observer, follow), prefix, Shape::SumPart);
        }
        prefixes.splice(0..0, held);
        if every {
            prefixes.push(Vec::new());
        }
        let caching = None;
        self.observing = Some(Box::new(Observing { observer, mode, not_own, redirect, caching, prefixes }));
        ex.say(Shape::OkEnd, &[]);
    }

    /// Ends the observation, if there is one.
    pub(super) fn stop_observing<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        if let Some(observing) = self.observing.take() {
            self.ask_everywhere(ex, Verb::Unobserve(observing.observer), b"", Shape::Ignored);
        }
    }

    fn ask_everywhere<B: Backend>(&mut self, ex: &mut Ex<'_, B>, verb: Verb, value: &[u8], shape: Shape) {
        for core in 0..ex.node.core_count() {
            let request = Request { key: &[], value, verb };
            ex.ask(Target::Core(crate::ids::CoreId(core)), &request, shape, &[]);
        }
    }

    /// `CLIENT CACHING YES|NO`.
    pub(super) fn caching<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let yes = is(arguments.at(2), "yes");
        let mode = self.observing.as_ref().map(|observing| observing.mode);
        match mode {
            Some(_) if !yes && !is(arguments.at(2), "no") => self.fail(ex, SYNTAX),
            Some(mode) if !yes && mode != Mode::OptOut => {
                self.fail(ex, "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
            }
            Some(mode) if yes && mode != Mode::OptIn => {
                self.fail(ex, "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
            }
            Some(_) => {
                if let Some(observing) = &mut self.observing {
                    observing.caching = Some(yes);
                }
                self.ok(ex);
            }
            None => self.fail(
                ex,
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
                 enabled",
            ),
        }
    }

    /// `CLIENT TRACKINGINFO`.
    pub(super) fn tracking_info<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let mut flags = Vec::new();
        let mut prefixes = Vec::new();
        match &self.observing {
            None => flags.push("off"),
            Some(observing) => {
                flags.push("on");
                match observing.mode {
                    Mode::Default => {}
                    Mode::Broadcast => flags.push("bcast"),
                    Mode::OptIn => flags.push("optin"),
                    Mode::OptOut => flags.push("optout"),
                }
                match observing.caching {
                    Some(true) => flags.push("caching-yes"),
                    Some(false) => flags.push("caching-no"),
                    None => {}
                }
                if observing.not_own {
                    flags.push("noloop");
                }
                if observing.redirect.is_some_and(|redirect| redirect.broken) {
                    flags.push("broken_redirect");
                }
                prefixes.clone_from(&observing.prefixes);
            }
        }
        let redirect = self.redirected_to();
        self.say(ex, |protocol, out| {
            reply::map(out, protocol, 3);
            reply::bulk(out, b"flags");
            reply::set(out, protocol, flags.len());
            flags.iter().for_each(|flag| reply::bulk(out, flag.as_bytes()));
            reply::bulk(out, b"redirect");
            reply::number(out, redirect);
            reply::bulk(out, b"prefixes");
            reply::header(out, b'*', prefixes.len());
            prefixes.iter().for_each(|prefix| reply::bulk(out, prefix));
        });
    }

    /// Announces the keys that a command is about to read, if they are to be tracked.
    pub(super) fn announce_reads<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
    ) {
        let Some(observing) = &self.observing else { return };
        let wanted = match observing.mode {
            Mode::Default => true,
            Mode::OptIn => observing.caching == Some(true),
            Mode::OptOut => observing.caching != Some(false),
            Mode::Broadcast => false,
        };
        let sub = command.subcommand(self.subcommand.as_bytes());
        let flags = command.flags | sub.map_or(0, |sub| sub.flags);
        // Who takes a lease is given the value, too.
        if !wanted || (flags & commands::READONLY == 0 && command.id != Id::Leaseget) {
            return;
        }
        let verb = Verb::Track(observing.observer);
        for place in command.keys(sub, arguments.len()) {
            let request = Request { key: arguments.at(place), value: &[], verb };
            ex.ask(Target::Owner, &request, Shape::Ignored, &[]);
        }
    }

    /// Whose changes those of this session are, if it is not to be told of them.
    pub(super) fn own(&self) -> Option<Observer> {
        self.observing.as_ref().filter(|observing| observing.not_own).map(|observing| observing.observer)
    }

    /// What the command before said about caching holds for one command, and for all of a transaction.
    pub(super) fn forget_caching(&mut self) {
        let queues = self.queues();
        if let Some(observing) = &mut self.observing
            && self.command.is_none_or(|command| command.id != Id::Client)
            && !queues
        {
            observing.caching = None;
        }
    }

    /// Id of the client that is told in this one's place; 0: itself, -1: nobody is told.
    pub(super) fn redirected_to(&self) -> i64 {
        match self.observing.as_ref().map(|observing| observing.redirect) {
            None => -1,
            Some(None) => 0,
            Some(Some(redirect)) => redirect.client as i64,
        }
    }

    /// Letters of `CLIENT LIST`.
    pub(super) fn observing_flags(&self) -> &'static str {
        let Some(observing) = &self.observing else { return "" };
        let broken = observing.redirect.is_some_and(|redirect| redirect.broken);
        match (broken, observing.mode == Mode::Broadcast) {
            (false, false) => "t",
            (true, false) => "tR",
            (false, true) => "tB",
            (true, true) => "tRB",
        }
    }

    /// The shape of what this connection is told.
    pub(super) fn shape_of(&self, notice: Notice) -> Shape {
        let subscribed = self.subscriptions.iter().any(|names| !names.is_empty());
        match notice {
            Notice::Changed => Shape::Changed,
            Notice::AllChanged => Shape::AllChanged,
            Notice::Redirected(_) => Shape::Redirected { subscribed, all: false },
            Notice::AllRedirected(_) => Shape::Redirected { subscribed, all: true },
            Notice::RedirectBroken => Shape::RedirectBroken,
            Notice::Line | Notice::Events => Shape::Line,
            Notice::Pushed => Shape::Pushed,
        }
    }

    /// Takes in that who was to be told in this client's place has gone; answers his id.
    pub(super) fn break_redirect(&mut self) -> Option<u64> {
        let redirect = self.observing.as_mut()?.redirect.as_mut()?;
        redirect.broken = true;
        Some(redirect.client)
    }
}

/// Notices that came in the middle of a command, whose reply they must not break.
#[derive(Default)]
pub(super) struct Waiting {
    notices: Vec<(Notice, Vec<u8>)>,
    bytes: usize,
}

impl Waiting {
    /// Keeps a notice; `false` if it is one that must not be lost and there is no room.
    pub fn push(&mut self, notice: Notice, text: &[u8]) -> bool {
        match self.bytes + text.len() > WAITING_BYTES_MAX {
            // Lines are a sample anyway.
            true if notice == Notice::Line => {}
            true if notice == Notice::Pushed || self.notices.iter().any(|it| it.0 == Notice::Pushed) => {
                return false;
            }
            true => {
                let all = match notice {
                    Notice::Redirected(source) => Notice::AllRedirected(source),
                    _ => Notice::AllChanged,
                };
                (self.notices, self.bytes) = (vec![(all, Vec::new())], 0);
            }
            false => {
                self.bytes += text.len() + 32;
                self.notices.push((notice, text.to_vec()));
            }
        }
        true
    }

    pub fn take(&mut self) -> Vec<(Notice, Vec<u8>)> {
        self.bytes = 0;
        std::mem::take(&mut self.notices)
    }
}

/// A command as a line of `MONITOR` shows it, behind its time: the client's address and the arguments, quoted.
pub(super) fn monitor_line(peer: &str, arguments: Arguments<'_>, out: &mut Vec<u8>) {
    const ARGUMENTS_SHOWN: usize = 32;
    out.extend_from_slice(b"[0 ");
    out.extend_from_slice(peer.as_bytes());
    out.push(b']');
    for argument in arguments.from(0).take(ARGUMENTS_SHOWN) {
        out.extend_from_slice(b" \"");
        for byte in argument.iter().take(ECHO_BYTES_MAX) {
            match byte {
                b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b' '..=b'~' => out.push(*byte),
                other => out.extend_from_slice(format!("\\x{other:02x}").as_bytes()),
            }
        }
        out.push(b'"');
    }
}
