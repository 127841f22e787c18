//! Commands about this conversation (`HELLO`, `AUTH`, `SUBSCRIBE` ..) and about connections (`CLIENT ..`).

use super::commands::{Command, Id};
use super::moves::database;
use super::parser::{Arguments, integer, unsigned};
use super::private::count_there;
use super::reply::{self, NOT_INTEGER, SYNTAX, Shape};
use super::{Backend, ECHO_BYTES_MAX, Ex, Flow, Reason, Silence, Talk, Task, echo, info, is};
use crate::clock::Now;
use crate::request::{UnblockAs, Verb};
use crate::wire::users::DEFAULT;

/// Bytes of channel names a connection may subscribe to, with this much for each beside its name.
const SUBSCRIPTION_BYTES_MAX: usize = 1024 * 1024;
const SUBSCRIPTION_BYTES: usize = 64;
/// Longest name of a connection or of its library.
const NAME_BYTES_MAX: usize = 1024;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_CLIENT_ID: &str = "ERR client-id should be greater than 0";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

impl Talk {
    pub(super) fn client_command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> Flow {
        match command.id {
            Id::Hello => self.hello(ex, arguments),
            Id::Auth => self.auth(ex, arguments),
            Id::Ping => self.ping(ex, arguments),
            Id::Echo => self.say(ex, |_, out| reply::bulk(out, arguments.at(1))),
            Id::Quit => {
                self.ok(ex);
                self.closing = Some(Reason::Quit);
            }
            Id::Reset => self.reset(ex),
            Id::Select => match database(arguments.at(1)) {
                Ok(()) => self.ok(ex),
                Err(text) => self.fail(ex, text),
            },
            Id::Subscribe => self.subscribe(ex, 0, command.name, arguments),
            Id::Psubscribe => self.subscribe(ex, 1, command.name, arguments),
            Id::Ssubscribe => self.subscribe(ex, 2, command.name, arguments),
            Id::Unsubscribe => self.unsubscribe(ex, 0, command.name, arguments),
            Id::Punsubscribe => self.unsubscribe(ex, 1, command.name, arguments),
            Id::Sunsubscribe => self.unsubscribe(ex, 2, command.name, arguments),
            Id::Client if self.subcommand == "kill" => return self.kill(ex, arguments),
            Id::Client if self.subcommand == "tracking" => return self.tracking(ex, arguments),
            Id::Client => self.client(ex, command, arguments),
            other => unreachable!("{other:?} is about something else"),
        }
        Flow::Done
    }

    fn hello<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let mut protocol = self.protocol;
        if arguments.len() > 1 {
            protocol = match integer(arguments.at(1)) {
                None => return self.fail(ex, "ERR Protocol version is not an integer or out of range"),
                Some(2) => 2,
                Some(3) => 3,
                Some(_) => return self.fail(ex, "NOPROTO unsupported protocol version"),
            };
        }
        let (mut credentials, mut name) = (None, None);
        let mut i = 2;
        while i < arguments.len() {
            let (word, left) = (arguments.at(i), arguments.len() - i - 1);
            if is(word, "auth") && left >= 2 {
                credentials = Some((arguments.at(i + 1), arguments.at(i + 2)));
                i += 3;
            } else if is(word, "setname") && left >= 1 {
                name = Some(arguments.at(i + 1));
                i += 2;
            } else {
                let mut text = b"ERR Syntax error in HELLO option '".to_vec();
                echo(&mut text, word, ECHO_BYTES_MAX);
                text.push(b'\'');
                return self.fail_bytes(ex, &text);
            }
        }
        if name.is_some_and(|name| !is_name(name)) {
            return self.fail(ex, BAD_NAME);
        }
        if let Some((user, password)) = credentials
            && !self.badge.admit(&mut *ex.backend, ex.now.mono, user, password)
        {
            self.note_login(ex, arguments.at(0), user);
            return self.fail(ex, WRONG_PASSWORD);
        }
        if self.badge.user().is_none() {
            return self.fail(
                ex,
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            );
        }
        if protocol != self.protocol && self.private.is_some() {
            // What comes from there is in the version that was spoken when it began.
            return self.fail(ex, "ERR the protocol cannot be changed while keys of an origin are watched or its channels heard");
        }
        if let Some(name) = name {
            self.name = name.to_vec();
        }
        self.protocol = protocol;
        ex.say(Shape::Protocol(protocol), &[]);
        let mode: &[u8] = if ex.node.core_ports.is_empty() { b"standalone" } else { b"cluster" };
        let id = self.client.id;
        self.say(ex, |protocol, out| {
            reply::map(out, protocol, 7);
            let mut field = |name: &[u8], value: &[u8]| {
                reply::bulk(out, name);
                reply::bulk(out, value);
            };
            field(b"server", b"redis");
            field(b"version", info::REDIS_VERSION.as_bytes());
            reply::bulk(out, b"proto");
            reply::number(out, i64::from(protocol));
            reply::bulk(out, b"id");
            reply::number(out, id as i64);
            reply::bulk(out, b"mode");
            reply::bulk(out, mode);
            reply::bulk(out, b"role");
            reply::bulk(out, b"master");
            reply::bulk(out, b"modules");
            reply::header(out, b'*', 0);
        });
    }

    fn auth<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let (user, password) = match arguments.len() {
            2 if self.badge.users().find(DEFAULT).is_some_and(|user| user.needs_no_password()) => {
                return self.fail(
                    ex,
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure \
                     your configuration is correct?",
                );
            }
            2 => (DEFAULT, arguments.at(1)),
            3 => (arguments.at(1), arguments.at(2)),
            _ => return self.fail(ex, SYNTAX),
        };
        if self.badge.admit(&mut *ex.backend, ex.now.mono, user, password) {
            self.ok(ex);
        } else {
            self.note_login(ex, arguments.at(0), user);
            self.fail(ex, WRONG_PASSWORD);
        }
    }

    fn ping<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let text = if arguments.len() > 1 { arguments.at(1) } else { b"" };
        if self.protocol == 2 && self.subscriptions.iter().any(|names| !names.is_empty()) {
            return self.say(ex, |_, out| {
                reply::header(out, b'*', 2);
                reply::bulk(out, b"pong");
                reply::bulk(out, text);
            });
        }
        match arguments.len() {
            1 => ex.say(Shape::Raw, b"+PONG\r\n"),
            2 => self.say(ex, |_, out| reply::bulk(out, text)),
            _ => self.fail(ex, "ERR wrong number of arguments for 'ping' command"),
        }
    }

    fn reset<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        self.protocol = 2;
        self.badge.reset();
        self.silence = Silence::None;
        self.end_transaction(ex);
        self.leave_origin(ex);
        self.stop_observing(ex);
        self.stop_monitoring(ex);
        self.subscriptions = Default::default();
        self.name.clear();
        ex.say(Shape::Protocol(2), &[]);
        ex.say(Shape::Mute(false), &[]);
        ex.say(Shape::Raw, b"+RESET\r\n");
    }

    /// Number that confirmations show: shard channels are counted apart.
    fn subscription_count(&self, kind: usize) -> i64 {
        let [channels, patterns, shard_channels] = &self.subscriptions;
        if kind == 2 { shard_channels.len() as i64 } else { (channels.len() + patterns.len()) as i64 }
    }

    fn subscribe<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        kind: usize,
        verb: &str,
        arguments: Arguments<'_>,
    ) {
        let weight = |name: &[u8]| name.len() + SUBSCRIPTION_BYTES;
        let held: usize = self.subscriptions.iter().flatten().map(|name| weight(name)).sum();
        let more: usize = arguments.from(1).map(weight).sum();
        if held + more > SUBSCRIPTION_BYTES_MAX {
            return self.fail(ex, "ERR too many subscriptions");
        }
        if let Some(origin) = self.subscribes_at(ex, kind, arguments, true) {
            if self.is_kept_elsewhere(origin) {
                return self.fail(ex, "ERR keys of another origin are watched");
            }
            self.subscriptions[kind].extend(arguments.from(1).map(<[u8]>::to_vec));
            return self.subscribe_there(ex, origin, arguments.len() - 1, arguments);
        }
        let mut text = Vec::new();
        for name in arguments.from(1) {
            self.subscriptions[kind].insert(name.to_vec());
            confirm(&mut text, self.protocol, verb, Some(name), self.subscription_count(kind));
        }
        ex.say(Shape::Raw, &text);
    }

    fn unsubscribe<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        kind: usize,
        verb: &str,
        arguments: Arguments<'_>,
    ) {
        if let Some(origin) = self.subscribes_at(ex, kind, arguments, false) {
            let confirms = match arguments.len() {
                1 => {
                    let count = count_there(&self.subscriptions[kind]);
                    self.subscriptions[kind].clear();
                    count
                }
                len => {
                    for name in arguments.from(1) {
                        self.subscriptions[kind].remove(name);
                    }
                    len - 1
                }
            };
            return self.subscribe_there(ex, origin, confirms, arguments);
        }
        let names: Vec<Vec<u8>> = match arguments.len() {
            1 => self.subscriptions[kind].iter().cloned().collect(),
            _ => arguments.from(1).map(<[u8]>::to_vec).collect(),
        };
        let mut text = Vec::new();
        for name in &names {
            self.subscriptions[kind].remove(name);
            confirm(&mut text, self.protocol, verb, Some(name), self.subscription_count(kind));
        }
        if names.is_empty() {
            confirm(&mut text, self.protocol, verb, None, self.subscription_count(kind));
        }
        ex.say(Shape::Raw, &text);
    }

    fn client<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        let on_or_off = || is(arguments.at(2), "on") || is(arguments.at(2), "off");
        match self.subcommand {
            "id" => {
                let id = self.client.id as i64;
                self.say(ex, |_, out| reply::number(out, id));
            }
            "getname" => {
                let name = std::mem::take(&mut self.name);
                self.say(ex, |protocol, out| {
                    if name.is_empty() { reply::null(out, protocol) } else { reply::bulk(out, &name) }
                });
                self.name = name;
            }
            "setname" if is_name(arguments.at(2)) => {
                self.name = arguments.at(2).to_vec();
                self.ok(ex);
            }
            "setname" => self.fail(ex, BAD_NAME),
            "setinfo" => {
                let place = [&b"lib-name"[..], b"lib-ver"]
                    .iter()
                    .position(|name| name.eq_ignore_ascii_case(arguments.at(2)));
                match place {
                    Some(place) if is_name(arguments.at(3)) => {
                        self.library[place] = arguments.at(3).to_vec();
                        self.ok(ex);
                    }
                    Some(_) => {
                        let mut text = b"ERR ".to_vec();
                        text.extend_from_slice(arguments.at(2));
                        text.extend_from_slice(b" cannot contain spaces, newlines or special characters.");
                        self.fail_bytes(ex, &text);
                    }
                    None => {
                        let mut text = b"ERR Unrecognized option '".to_vec();
                        echo(&mut text, arguments.at(2), ECHO_BYTES_MAX);
                        text.push(b'\'');
                        self.fail_bytes(ex, &text);
                    }
                }
            }
            "info" => {
                let mut line = Vec::new();
                self.describe(ex.now, ex.order.held_bytes(), &mut line);
                self.say(ex, |protocol, out| reply::verbatim(out, protocol, &line));
            }
            "list" => self.list(ex, arguments),
            "no-evict" | "no-touch" if on_or_off() => self.ok(ex),
            "reply" if is(arguments.at(2), "on") => {
                self.silence = Silence::None;
                ex.say(Shape::Mute(false), &[]);
                self.ok(ex);
            }
            "reply" if is(arguments.at(2), "off") => {
                self.silence = Silence::Off;
                ex.say(Shape::Mute(true), &[]);
            }
            "reply" if is(arguments.at(2), "skip") => {
                // The command that was to be skipped is this one, if the one before said so.
                if matches!(self.silence, Silence::None | Silence::This) {
                    if self.silence == Silence::This {
                        ex.say(Shape::Mute(false), &[]);
                    }
                    self.silence = Silence::Next;
                }
            }
            "caching" => self.caching(ex, arguments),
            "trackinginfo" => self.tracking_info(ex),
            "getredir" => {
                let client = self.redirected_to();
                self.say(ex, |_, out| reply::number(out, client));
            }
            "unblock" => self.unblock(ex, arguments),
            "capa" => self.ok(ex),
            "help" => self.help(ex, command),
            _ => self.fail(ex, SYNTAX),
        }
    }

    /// `CLIENT LIST [TYPE type] [ID id ..]`.
    fn list<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let mut note = Vec::new();
        let mut ids = 0;
        let mut kept = Kept::All;
        match arguments.len() {
            2 => {}
            4 if is(arguments.at(2), "type") => {
                let kind = arguments.at(3);
                let pubsub = is(kind, "pubsub");
                if is(kind, "normal") || pubsub {
                    kept = if pubsub { Kept::Subscribers } else { Kept::Others };
                } else if is_client_type(kind) {
                    return self.say(ex, |protocol, out| reply::verbatim(out, protocol, b""));
                } else {
                    return self.unknown_type(ex, kind);
                }
            }
            4.. if is(arguments.at(2), "id") => {
                for id in arguments.from(3) {
                    let id = match integer(id) {
                        None => return self.fail(ex, SYNTAX),
                        Some(id) if id < 1 => return self.fail(ex, NO_CLIENT_ID),
                        Some(id) => id as u64,
                    };
                    note.extend_from_slice(&id.to_le_bytes());
                    ids += 1;
                }
            }
            _ => return self.fail(ex, SYNTAX),
        }
        self.describe(ex.now, ex.order.held_bytes(), &mut note);
        self.ask_all(ex, Verb::Connections, Shape::PagePart);
        ex.say(Shape::ClientsEnd { ids, kept }, &note);
    }

    /// `CLIENT UNBLOCK id [TIMEOUT | ERROR]`: about commands that wait at an origin; none of ours does.
    fn unblock<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let how = match arguments.len() {
            3 => UnblockAs::Timeout,
            4 if is(arguments.at(3), "timeout") => UnblockAs::Timeout,
            4 if is(arguments.at(3), "error") => UnblockAs::Error,
            4 => return self.fail(ex, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
            _ => return self.fail(ex, SYNTAX),
        };
        let Some(client) = integer(arguments.at(2)) else { return self.fail(ex, NOT_INTEGER) };
        let client = u64::try_from(client).unwrap_or_default();
        self.ask_all(ex, Verb::Unblock { client, how }, Shape::UnblockPart);
        ex.say(Shape::UnblockEnd, &[]);
    }

    fn unknown_type<B: Backend>(&mut self, ex: &mut Ex<'_, B>, kind: &[u8]) {
        let mut text = b"ERR Unknown client type '".to_vec();
        echo(&mut text, kind, ECHO_BYTES_MAX);
        text.push(b'\'');
        self.fail_bytes(ex, &text);
    }

    /// Asks for all connections, picks those meant, and has their cores close them.
    fn kill<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) -> Flow {
        let Some(wanted) = self.kill_filter(ex, arguments) else { return Flow::Done };
        let own_id = self.client.id;
        let mut next = match self.task {
            Task::Kill { next } => next as usize,
            // Its parts would mix with those of commands that are not answered yet.
            _ if !ex.order.is_empty() => {
                if self.task == Task::None {
                    self.task = Task::Arguments { phase: 0, next: 0 };
                }
                return Flow::Wait;
            }
            Task::Walk { .. } => {
                let text = &mut ex.writer.gathered;
                if !reply::client_lines(text).any(|line| reply::client_id(line) == Some(own_id)) {
                    self.describe(ex.now, 0, text);
                }
                0
            }
            _ => {
                self.task = Task::Walk { asked: None };
                self.ask_all(ex, Verb::Connections, Shape::PagePart);
                return Flow::Pause;
            }
        };
        let text = std::mem::take(&mut ex.writer.gathered);
        let meant: Vec<u64> = reply::client_lines(&text)
            .filter(|line| wanted.matches(line))
            .filter_map(reply::client_id)
            .filter(|&id| id != own_id || !wanted.skip_own)
            .collect();
        for &client in meant.iter().filter(|&&id| id != own_id).skip(next) {
            if !ex.has_room(self.options.output_soft_bytes) {
                self.task = Task::Kill { next: next as u32 };
                ex.writer.gathered = text;
                return Flow::Wait;
            }
            self.ask_all(ex, Verb::Disconnect { client }, Shape::SumPart);
            next += 1;
        }
        let own = meant.contains(&own_id);
        if own {
            // Closed as soon as the answer is sent.
            self.closing = Some(Reason::Quit);
        }
        if wanted.by_address_alone {
            if own || next > 0 {
                ex.say(Shape::OkEnd, &[]);
            } else {
                ex.writer.forget();
                self.fail(ex, "ERR No such client");
            }
        } else {
            // Only parts of this command are on their way, so the sum is its own.
            ex.writer.sum += i64::from(own);
            ex.say(Shape::SumEnd, &[]);
        }
        Flow::Done
    }

    fn kill_filter<'a, B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        arguments: Arguments<'a>,
    ) -> Option<KillFilter<'a>> {
        let mut filter = KillFilter { skip_own: true, ..KillFilter::default() };
        if arguments.len() == 3 {
            filter.address = Some(arguments.at(2));
            (filter.by_address_alone, filter.skip_own) = (true, false);
            return Some(filter);
        }
        if !arguments.len().is_multiple_of(2) {
            self.fail(ex, SYNTAX);
            return None;
        }
        for i in (2..arguments.len()).step_by(2) {
            let (option, value) = (arguments.at(i), arguments.at(i + 1));
            if is(option, "id") {
                match integer(value) {
                    Some(id @ 1..) => filter.ids.push(id as u64),
                    Some(_) => {
                        self.fail(ex, NO_CLIENT_ID);
                        return None;
                    }
                    None => {
                        self.fail(ex, SYNTAX);
                        return None;
                    }
                }
            } else if is(option, "addr") {
                filter.address = Some(value);
            } else if is(option, "laddr") {
                filter.local = Some(value);
            } else if is(option, "type") {
                if !is_client_type(value) {
                    self.unknown_type(ex, value);
                    return None;
                }
                match () {
                    () if is(value, "normal") => filter.kept = Kept::Others,
                    () if is(value, "pubsub") => filter.kept = Kept::Subscribers,
                    () => filter.nobody = true,
                }
            } else if is(option, "user") {
                if self.badge.users().find(value).is_none() {
                    let mut text = b"ERR No such user '".to_vec();
                    echo(&mut text, value, ECHO_BYTES_MAX);
                    text.push(b'\'');
                    self.fail_bytes(ex, &text);
                    return None;
                }
                filter.user = Some(value);
            } else if is(option, "maxage") {
                match integer(value) {
                    Some(age @ 1..) => filter.age_seconds_min = age as u64,
                    Some(_) => {
                        self.fail(ex, "ERR maxage should be greater than 0");
                        return None;
                    }
                    None => {
                        self.fail(ex, "ERR maxage is not an integer or out of range");
                        return None;
                    }
                }
            } else if is(option, "skipme") && (is(value, "yes") || is(value, "no")) {
                filter.skip_own = is(value, "yes");
            } else {
                self.fail(ex, SYNTAX);
                return None;
            }
        }
        Some(filter)
    }

    /// Appends this connection's line of `CLIENT LIST`.
    pub(super) fn describe(&self, now: Now, held_bytes: usize, out: &mut Vec<u8>) {
        let seconds = |since: Now| now.mono.millis_since(since.mono) / 1000;
        let [channels, patterns, shard_channels] = self.subscriptions.each_ref().map(|names| names.len());
        let transaction = self.transaction.as_ref();
        let multi = transaction.filter(|t| t.open).map_or(-1, |transaction| transaction.len() as i64);
        let watch = transaction.map_or(0, |transaction| transaction.watched)
            + self.private.as_ref().map_or(0, |private| private.watched);
        let letters = [
            if self.monitors { "O" } else { "" },
            if channels + patterns + shard_channels > 0 { "P" } else { "" },
            if multi >= 0 { "x" } else { "" },
            self.observing_flags(),
        ];
        let flags = match letters.concat() {
            none if none.is_empty() => "N".to_owned(),
            letters => letters,
        };
        let text = format!(
            "id={} addr={} laddr={} name={} age={} idle={} flags={flags} db=0 sub={channels} psub={patterns} \
             ssub={shard_channels} multi={multi} watch={watch} omem={held_bytes} cmd={}{}{} user={} redir={} resp={} lib-name={} \
             lib-ver={} tot-cmds={}\n",
            self.client.id,
            self.client.peer,
            self.client.local,
            String::from_utf8_lossy(&self.name),
            seconds(self.client.since),
            seconds(self.last_at),
            self.command.map_or("NULL", |command| command.name),
            if self.subcommand.is_empty() { "" } else { "|" },
            self.subcommand,
            self.badge.user().map_or("(unauthenticated)".into(), |user| String::from_utf8_lossy(user.name())),
            self.redirected_to(),
            self.protocol,
            String::from_utf8_lossy(&self.library[0]),
            String::from_utf8_lossy(&self.library[1]),
            self.commands,
        );
        out.extend_from_slice(text.as_bytes());
    }
}

/// Types of clients, as far as there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kept {
    #[default]
    All,
    /// `TYPE pubsub`.
    Subscribers,
    /// `TYPE normal`.
    Others,
}

/// Which connections `CLIENT KILL` means.
#[derive(Default)]
struct KillFilter<'a> {
    ids: Vec<u64>,
    address: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    kept: Kept,
    age_seconds_min: u64,
    skip_own: bool,
    /// A type of client that there is not.
    nobody: bool,
    /// The old form, with other answers.
    by_address_alone: bool,
}

impl KillFilter<'_> {
    fn matches(&self, line: &[u8]) -> bool {
        let field = |name| reply::client_field(line, name);
        !self.nobody
            && (self.ids.is_empty() || reply::client_id(line).is_some_and(|id| self.ids.contains(&id)))
            && self.address.is_none_or(|address| field("addr") == Some(address))
            && self.local.is_none_or(|address| field("laddr") == Some(address))
            && self.user.is_none_or(|user| field("user") == Some(String::from_utf8_lossy(user).as_bytes()))
            && self.kept.keeps(line)
            && (self.age_seconds_min == 0
                || field("age").and_then(unsigned).is_some_and(|age| age >= self.age_seconds_min))
    }
}

impl Kept {
    /// Whether a line of `CLIENT LIST` is one of these.
    pub(super) fn keeps(self, line: &[u8]) -> bool {
        let subscribes = || reply::client_field(line, "flags").is_some_and(|flags| flags.contains(&b'P'));
        match self {
            Kept::All => true,
            Kept::Subscribers => subscribes(),
            Kept::Others => !subscribes(),
        }
    }
}

fn is_client_type(kind: &[u8]) -> bool {
    ["normal", "master", "primary", "replica", "slave", "pubsub"].iter().any(|name| is(kind, name))
}

/// Whether a name can stand in a line of `CLIENT LIST`.
fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX && name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn confirm(out: &mut Vec<u8>, protocol: u8, verb: &str, name: Option<&[u8]>, count: i64) {
    reply::push(out, protocol, 3);
    reply::bulk(out, verb.as_bytes());
    match name {
        Some(name) => reply::bulk(out, name),
        None => reply::null(out, protocol),
    }
    reply::number(out, count);
}
