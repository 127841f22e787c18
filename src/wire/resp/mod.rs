//! RESP2 and RESP3.
//!
//! ```text
//! bytes -> parser -> Talk (state of the conversation) -> keys | server | client | cluster -> Exchange::ask / say
//!                                                                    outcomes -> reply (Writer) -> bytes
//! ```
//! - [`parser`]: frames; resumes at any byte.
//! - [`commands`]: the static table of commands.
//! - [`keys`]: commands on keys, each key a request of its own; [`moves`]: those that give an item another key or form,
//!   which is [`dump`]'s.
//! - [`settings`], [`timings`]: `CONFIG`; `SLOWLOG` and `LATENCY`.
//! - [`acl`]: users. [`client`]: commands about this conversation and other connections; [`server`]: about the server; [`cluster`].
//! - [`passing`]: commands that an origin does as they are; [`private`]: what a client has of its own there.
//! - [`transaction`]: queued commands, done in one step; [`tracking`]: what clients are told beside their replies.
//! - [`reply`]: the writing half; [`info`]: the text of `INFO`.
//!
//! A command is a list of requests and of ready replies, in order. One that may not be finished at once - very many keys,
//! a walk over all items, answers that decide what to ask next - leaves a [`Task`] and is called again with the same
//! arguments: its frame stays unconsumed until it is done.

mod acl;
mod client;
mod cluster;
pub mod commands;
mod dump;
mod info;
mod keys;
mod lease;
mod moves;
mod parser;
mod passing;
mod private;
mod reply;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod timings;
mod tracking;
mod transaction;

use super::journal::{Blame, Errors};
use super::{Backend, Client, Exchange, Next, Options, Order, Output, Progress, Reason, TURN_BYTES_MAX};
use crate::clock::{Mono, Now};
use crate::metrics::Counters;
use crate::request::{LANDING_BYTES_MIN, Notice, Observer, Outcome, Put, Request, Verb};
use crate::topology::Node;
use crate::wire::Target;
use crate::wire::users::{Badge, Users};
use commands::{Command, Id};
use parser::{Arguments, Broken, Limits, Parsed, Parser};
use private::{Lane, Private};
use reply::{Shape, Writer};
use std::collections::BTreeSet;
use std::sync::Arc;
use tracking::{Observing, Waiting};
use transaction::Transaction;

/// Longest echo of a client's bytes in an error.
const ECHO_BYTES_MAX: usize = 128;
/// Most arguments of a command that is not about keys or channels; its reply or its work may be long for each.
const WORDS_MAX: usize = 1024;

/// Says that there is no memory for a command whose end has not come.
#[cold]
pub(crate) fn give_up(out: &mut Output) {
    out.push(b'-');
    out.extend_from_slice(reply::NO_MEMORY.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A RESP session's codec.
pub(crate) struct Resp {
    parser: Parser,
    talk: Talk,
    writer: Writer,
    order: Order<Shape>,
}

/// State of the conversation, as the parsing half sees it: ahead of the writing half by what is awaited.
struct Talk {
    options: Arc<Options>,
    client: Client,
    /// What this protocol version is for replies made here; the writer follows when it comes to them.
    protocol: u8,
    /// Who the client is.
    badge: Badge,
    /// Nothing unusual holds: the short way for GET and SET may be taken.
    plain: bool,
    silence: Silence,
    /// Channels, patterns and shard channels.
    subscriptions: [BTreeSet<Vec<u8>>; 3],
    name: Vec<u8>,
    library: [Vec<u8>; 2],
    /// The command being done or done last, and when.
    command: Option<&'static Command>,
    subcommand: &'static str,
    last_at: Now,
    commands: u64,
    task: Task,
    closing: Option<Reason>,
    /// Queued commands and watched keys, if there are any.
    transaction: Option<Box<Transaction>>,
    /// The commands of an `EXEC` are being done: all in this call.
    executing: bool,
    /// Client-side caching, if it is on.
    observing: Option<Box<Observing>>,
    /// By which connection replies of an origin are awaited, to commands that passed.
    passing: Lane,
    /// What this client keeps there.
    private: Option<Box<Private>>,
    /// Every command is looked at: somebody monitors, or wants to know what it takes.
    attentive: bool,
    /// This session monitors.
    monitors: bool,
    /// When the present command began, if it is timed.
    began: Option<Mono>,
    waiting: Waiting,
    /// For replies made here.
    scratch: Vec<u8>,
    /// Bytes of output at which this turn is over.
    turn_bytes: usize,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    None,
    /// Until told otherwise.
    Off,
    /// For the next command.
    Next,
    /// For this command.
    This,
}

/// How far a command came that is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// There is none.
    None,
    /// The argument to go on with, and the phase of the command.
    Arguments { phase: u8, next: u32 },
    /// A walk over items: the core that was asked for a page last.
    Walk { asked: Option<u16> },
    /// `CLIENT KILL`: how many of the connections meant were told to close.
    Kill { next: u32 },
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Done,
    /// Goes on when outcomes came in or replies were taken.
    Wait,
    /// Goes on in the next turn.
    Pause,
}

/// Exchange of this codec.
type Ex<'s, B> = Exchange<'s, B, Writer>;

impl Resp {
    pub fn new(options: Arc<Options>, client: Client, badge: Badge) -> Self {
        Resp {
            parser: Parser::default(),
            writer: Writer::new(options.copied_bytes_max),
            order: Order::new(),
            talk: Talk {
                plain: badge.is_free(),
                badge,
                last_at: client.since,
                options,
                client,
                protocol: 2,
                silence: Silence::None,
                subscriptions: Default::default(),
                name: Vec::new(),
                library: Default::default(),
                command: None,
                subcommand: "",
                commands: 0,
                task: Task::None,
                closing: None,
                transaction: None,
                executing: false,
                observing: None,
                passing: Lane::Nobody,
                private: None,
                attentive: false,
                monitors: false,
                began: None,
                waiting: Waiting::default(),
                scratch: Vec::new(),
                turn_bytes: usize::MAX,
            },
        }
    }

    /// See [`super::Session::follow`].
    pub fn follow(&mut self, options: &Arc<Options>) {
        self.writer.copied_bytes_max = options.copied_bytes_max;
        self.talk.options = options.clone();
    }

    pub fn serve<B: Backend>(
        &mut self,
        now: Now,
        node: &Node,
        input: &[u8],
        backend: &mut B,
        out: &mut Output,
    ) -> Progress {
        let Resp { parser, talk, writer, order } = self;
        let mut ex = Exchange { now, node, backend, writer, order, out, blame: Blame::NOBODY };
        let mut budget = talk.options.commands_per_turn.max(1);
        let redirects = talk.options.only_core.is_some() && node.redirects();
        talk.turn_bytes = ex.out.total() + TURN_BYTES_MAX;
        let mut consumed = 0;
        let next = loop {
            let rest = &input[consumed..];
            if let Some(reason) = talk.closing {
                consumed = input.len();
                break if ex.order.is_empty() { Next::Close(reason) } else { Next::Blocked };
            }
            if rest.is_empty() {
                break Next::More { at_least: 1 };
            }
            if budget == 0 || ex.out.total() >= talk.turn_bytes {
                break Next::Yield;
            }
            if !ex.has_room(talk.options.output_soft_bytes) {
                break Next::Blocked;
            }
            if talk.task == Task::None {
                if talk.plain && !redirects && parser.is_fresh() && !talk.settle_passing(&ex) {
                    let (taken, spent) = talk.shorts(&mut ex, rest, budget);
                    if spent > 0 {
                        consumed += taken;
                        budget -= spent;
                        continue;
                    }
                }
                match parser.parse(rest, talk.limits()) {
                    Parsed::Command(_) => {
                        let arguments = parser.arguments(rest);
                        if talk.must_wait(&ex, arguments) {
                            break Next::Blocked;
                        }
                        if talk.may_land(arguments).is_some_and(|(key, value)| !ex.backend.land(key, value)) {
                            break Next::Yield;
                        }
                        talk.begin(&mut ex, arguments);
                    }
                    Parsed::Nothing(len) => {
                        consumed += len;
                        budget -= 1;
                        continue;
                    }
                    Parsed::Refused(len, why) => {
                        consumed += len;
                        budget -= 1;
                        ex.blame = Blame::NOBODY;
                        talk.fail(&mut ex, why);
                        continue;
                    }
                    Parsed::More(at_least) => break Next::More { at_least },
                    Parsed::Broken(Broken::Http) => {
                        talk.closing = Some(Reason::Http);
                        continue;
                    }
                    Parsed::Broken(broken) => {
                        let mut text = b"ERR Protocol error: ".to_vec();
                        broken.describe(&mut text);
                        ex.blame = Blame::NOBODY;
                        talk.fail_bytes(&mut ex, &text);
                        talk.closing = Some(Reason::Protocol);
                        continue;
                    }
                }
            }
            match talk.run(&mut ex, parser.arguments(rest), &mut budget) {
                Flow::Done => {
                    if let Some(began) = talk.began.take() {
                        talk.stop_clock(&mut ex, began, parser.arguments(rest));
                    }
                    talk.end(&mut ex);
                    consumed += parser.finish();
                    budget = budget.saturating_sub(1);
                }
                Flow::Wait => break Next::Blocked,
                Flow::Pause => break Next::Yield,
            }
        };
        if let Some(errors) = self.take_errors(backend.counters()) {
            backend.erred(&errors);
        }
        Progress { consumed, next }
    }

    /// See [`super::Session::sole_key`].
    #[inline]
    pub fn sole_key<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        if !self.talk.plain || !self.parser.is_fresh() {
            return None;
        }
        let short = Short::find(input, &self.talk.options)?;
        (short.frame_len == input.len()).then_some(short.key)
    }

    pub fn complete(&mut self, now: Now, node: &Node, ticket: u32, outcome: &Outcome<'_>, out: &mut Output) {
        self.order.complete(now, node, ticket, outcome, &mut self.writer, out);
    }

    /// Error replies since the last call, if there were any; they are added to the counters already.
    #[inline]
    pub fn take_errors(&mut self, counters: &mut Counters) -> Option<Errors> {
        let count = self.writer.errors.count();
        counters.errors_total += count;
        (count > 0).then(|| std::mem::take(&mut self.writer.errors))
    }

    pub fn notify(&mut self, now: Now, node: &Node, notice: Notice, text: &[u8], out: &mut Output) {
        let gone = match notice {
            Notice::RedirectBroken => match self.talk.break_redirect() {
                Some(client) => client.to_string(),
                None => return,
            },
            _ => String::new(),
        };
        let text = if gone.is_empty() { text } else { gone.as_bytes() };
        if self.talk.task != Task::None {
            if !self.talk.waiting.push(notice, text) {
                self.talk.closing = Some(Reason::Quit);
            }
            return;
        }
        let shape = self.talk.shape_of(notice);
        self.order.say(now, node, (shape, Blame::NOBODY), text, &mut self.writer, out);
    }

    pub fn be_attentive(&mut self, on: bool) {
        self.talk.attentive = on;
        self.talk.judge_plain();
    }

    pub fn observes(&self) -> bool {
        self.talk.observing.is_some() || self.talk.monitors
    }

    /// See [`super::Session::redirect`].
    pub fn redirect(&self) -> Option<Observer> {
        self.talk.observing.as_ref()?.redirect.map(|redirect| redirect.target)
    }

    pub fn held_bytes(&self) -> usize {
        let queued = self.talk.transaction.as_ref().map_or(0, |transaction| transaction.held_bytes());
        self.order.held_bytes() + self.writer.gathered.len() + queued
    }

    pub fn awaited(&self) -> usize {
        self.order.len()
    }

    pub fn midway(&self) -> bool {
        self.parser.skips()
    }

    pub fn authenticated(&self) -> bool {
        self.talk.badge.user().is_some()
    }

    /// See [`super::Session::adopt`].
    pub fn adopt(&mut self, users: &Arc<Users>) -> bool {
        let stays = self.talk.badge.adopt(users);
        self.talk.judge_plain();
        stays
    }

    pub fn describe(&self, now: Now, out: &mut Vec<u8>) {
        self.talk.describe(now, self.held_bytes(), out);
    }
}

/// Short commands that are parsed before the first of them is done.
const SHORTS_MAX: usize = 16;

/// A GET or SET without options in the form that clients send, taken out of the bytes without the parser's detour.
#[derive(Clone, Copy)]
struct Short<'a> {
    key: &'a [u8],
    value: Option<&'a [u8]>,
    frame_len: usize,
}

impl<'a> Short<'a> {
    /// `None` means only that the parser has to look.
    #[inline]
    fn find(input: &'a [u8], options: &Options) -> Option<Short<'a>> {
        let (head, rest) = input.split_first_chunk::<13>()?;
        let sets = match head {
            b"*2\r\n$3\r\nGET\r\n" | b"*2\r\n$3\r\nget\r\n" => false,
            b"*3\r\n$3\r\nSET\r\n" | b"*3\r\n$3\r\nset\r\n" => true,
            _ => return None,
        };
        let (key, mut rest) = short_bulk(rest, options.key_bytes_max)?;
        let mut value = None;
        if sets {
            // Longer ones land first.
            let (bytes, behind) = short_bulk(rest, options.value_bytes_max.min(LANDING_BYTES_MIN - 1))?;
            (value, rest) = (Some(bytes), behind);
        }
        Some(Short { key, value, frame_len: input.len() - rest.len() })
    }
}

/// A complete bulk string of at most `bytes_max`, and what is behind it.
#[inline]
fn short_bulk(input: &[u8], bytes_max: usize) -> Option<(&[u8], &[u8])> {
    let digits = input.strip_prefix(b"$")?;
    let mut len = 0usize;
    let mut at = 0;
    while let digit @ b'0'..=b'9' = *digits.get(at)? {
        len = len * 10 + usize::from(digit - b'0');
        at += 1;
        if at > 9 {
            return None;
        }
    }
    if at == 0 || (digits[0] == b'0' && at > 1) || len > bytes_max {
        return None;
    }
    let body = digits[at..].strip_prefix(b"\r\n")?;
    let (bytes, rest) = body.split_at_checked(len)?;
    Some((bytes, rest.strip_prefix(b"\r\n")?))
}

impl Talk {
    /// Does the short commands that `input` begins with, a few at most: they are parsed together, so that the memory which the
    /// later ones need is fetched while the earlier ones are done. Answers the bytes and commands that were done.
    #[inline]
    fn shorts<B: Backend>(&mut self, ex: &mut Ex<'_, B>, input: &[u8], budget: usize) -> (usize, usize) {
        let Some(first) = Short::find(input, &self.options) else { return (0, 0) };
        if first.frame_len == input.len() {
            self.short(ex, &first);
            return (first.frame_len, 1);
        }
        let mut shorts = [first; SHORTS_MAX];
        let mut keys = [first.key; SHORTS_MAX];
        let mut ahead = first.frame_len;
        let mut count = 1;
        while count < SHORTS_MAX
            && let Some(short) = Short::find(&input[ahead..], &self.options)
        {
            ahead += short.frame_len;
            (shorts[count], keys[count]) = (short, short.key);
            count += 1;
        }
        ex.backend.expect(&keys[..count]);
        let (mut taken, mut spent) = (0, 0);
        for short in &shorts[..count.min(budget)] {
            if spent > 0
                && (!ex.has_room(self.options.output_soft_bytes) || ex.out.total() >= self.turn_bytes)
            {
                break;
            }
            self.short(ex, short);
            taken += short.frame_len;
            spent += 1;
        }
        (taken, spent)
    }

    /// Key and value of a command that stores a large value.
    #[inline]
    fn may_land<'a>(&self, arguments: Arguments<'a>) -> Option<(&'a [u8], &'a [u8])> {
        let at = match arguments.len() {
            0..3 => return None,
            3 => 2,
            len => match arguments.at(0).len() {
                3 => 2,
                _ if len == 4 => 3,
                _ => return None,
            },
        };
        if arguments.at(at).len() < LANDING_BYTES_MIN || !self.badge.is_free() || self.transaction.is_some() {
            return None;
        }
        let name = arguments.at(0);
        let stores = [&b"SET"[..], b"SETEX", b"PSETEX", b"SETNX", b"GETSET"];
        let known = stores.iter().any(|known| name.eq_ignore_ascii_case(known));
        known.then(|| (arguments.at(1), arguments.at(at)))
    }

    #[inline]
    fn short<B: Backend>(&mut self, ex: &mut Ex<'_, B>, short: &Short<'_>) {
        let (id, verb, shape) = match short.value {
            None => (Id::Get, Verb::Get, Shape::Bulk),
            Some(_) => (Id::Set, Verb::Put(Put::plain(crate::request::Expiry::Never)), Shape::Ok),
        };
        self.count_short(ex, id);
        let request = Request { key: short.key, value: short.value.unwrap_or_default(), verb };
        ex.ask(Target::Owner, &request, shape, &[]);
    }

    /// Counts a call of GET or SET, whose places are their rows.
    #[inline]
    fn count_short<B: Backend>(&mut self, ex: &mut Ex<'_, B>, id: Id) {
        self.command = Some(id.command());
        self.subcommand = "";
        self.last_at = ex.now;
        self.commands += 1;
        ex.backend.counters().commands_total += 1;
        ex.backend.called(id as u8);
        ex.blame = Blame::failed(id as u8);
    }

    fn count<B: Backend>(&mut self, ex: &mut Ex<'_, B>, command: &'static Command) {
        self.command = Some(command);
        self.last_at = ex.now;
        self.commands += 1;
        ex.backend.counters().commands_total += 1;
        let place = commands::place(command, self.subcommand) as u8;
        ex.backend.called(place);
        ex.blame = Blame::failed(place);
    }

    fn limits(&self) -> Limits {
        let options = &self.options;
        let unauthenticated = (self.badge.user().is_none())
            .then_some((options.unauthenticated_arguments_max, options.unauthenticated_argument_bytes_max));
        Limits {
            value_bytes_max: options.value_bytes_max,
            query_bytes_max: options.query_buffer_bytes_max,
            unauthenticated,
        }
    }

    /// Says what precedes the first step of a command, and decides which it is; `self.command` is `None` if it was answered.
    fn begin<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        self.task = Task::None;
        self.subcommand = "";
        self.command = None;
        if self.silence == Silence::Next {
            self.silence = Silence::This;
            ex.say(Shape::Mute(true), &[]);
        }
        let name = arguments.at(0);
        let command = commands::lookup(name);
        ex.blame =
            command.map_or(Blame::NOBODY, |command| Blame::refused(commands::place(command, "") as u8));
        if self.badge.user().is_none() {
            // Whatever it says: what it may say is answered, too.
            if ex.out.len() + ex.order.held_bytes() > self.options.unauthenticated_output_bytes_max {
                self.closing = Some(Reason::Unauthenticated);
                return;
            }
            if command.is_none_or(|command| command.flags & commands::NO_AUTH == 0) {
                return self.fail(ex, "NOAUTH Authentication required.");
            }
        }
        if ex.backend.passes() && self.badge.is_free() && self.pass(ex, arguments) {
            return;
        }
        let Some(command) = command else {
            self.break_transaction();
            let mut text = b"ERR unknown command '".to_vec();
            echo(&mut text, name, ECHO_BYTES_MAX);
            text.extend_from_slice(b"', with args beginning with: ");
            let start = text.len();
            for argument in arguments.from(1) {
                let shown = text.len() - start;
                if shown >= ECHO_BYTES_MAX {
                    break;
                }
                text.push(b'\'');
                echo(&mut text, argument, ECHO_BYTES_MAX - shown);
                text.extend_from_slice(b"' ");
            }
            return self.fail_bytes(ex, &text);
        };
        let fits = match (command.subcommands, arguments.len()) {
            ([], count) | (_, count @ 1) => {
                if commands::arity_fits(command.arity, count) {
                    true
                } else if command.id == Id::Exec {
                    self.end_transaction(ex);
                    self.fail(
                        ex,
                        "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command",
                    );
                    false
                } else {
                    self.fail_parts(ex, &["ERR wrong number of arguments for '", command.name, "' command"]);
                    false
                }
            }
            (_, count) => match command.subcommand(arguments.at(1)) {
                None => {
                    ex.blame = Blame::NOBODY;
                    let mut text = b"ERR unknown subcommand '".to_vec();
                    echo(&mut text, arguments.at(1), ECHO_BYTES_MAX);
                    text.extend_from_slice(b"'. Try ");
                    text.extend(command.name.bytes().map(|b| b.to_ascii_uppercase()));
                    text.extend_from_slice(b" HELP.");
                    self.fail_bytes(ex, &text);
                    false
                }
                Some(sub) if !commands::arity_fits(sub.arity, count) => {
                    ex.blame = Blame::refused(commands::place(command, sub.name) as u8);
                    let parts =
                        ["ERR wrong number of arguments for '", command.name, "|", sub.name, "' command"];
                    self.fail_parts(ex, &parts);
                    false
                }
                Some(sub) => {
                    self.subcommand = sub.name;
                    ex.blame = Blame::refused(commands::place(command, sub.name) as u8);
                    true
                }
            },
        };
        use commands::Group;
        let many =
            matches!(command.group, Group::String | Group::Generic | Group::Pubsub | Group::Transactions);
        if fits && !many && arguments.len() > WORDS_MAX {
            self.break_transaction();
            return self.fail(ex, "ERR too many arguments");
        }
        if !fits || self.denied(ex, command, arguments) || !self.allowed_while_subscribed(ex, command) {
            return self.break_transaction();
        }
        if ex.node.redirects()
            && let Some(text) = self.gone_to(ex.node, command, arguments)
        {
            self.break_transaction();
            return self.fail(ex, &text);
        }
        if self.attentive
            && ex.backend.monitored()
            && command.flags & (commands::ADMIN | commands::NO_AUTH) == 0
        {
            let mut line = Vec::new();
            tracking::monitor_line(&self.client.peer, arguments, &mut line);
            ex.backend.monitor(&line);
        }
        if self.queues() && self.queue(ex, command, arguments) {
            return;
        }
        self.count(ex, command);
        self.start_clock(ex, command, arguments);
    }

    /// Whether the command is not for this user, who is told so then.
    fn denied<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> bool {
        // Who is nobody may only do what everybody may.
        let Some(user) = self.badge.user().filter(|user| !user.is_free()) else { return false };
        let Err(denied) = user.may(command, self.subcommand, arguments.len(), |at| arguments.at(at)) else {
            return false;
        };
        let mut text = b"NOPERM ".to_vec();
        if self.executing {
            text.extend_from_slice(
                b"ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is \
                  no longer allowed for the following reason: ",
            );
        }
        acl::describe(denied, user.name(), command, self.subcommand, None, &mut text);
        self.note_denied(ex, denied, command, arguments);
        if command.id == Id::Exec {
            self.end_transaction(ex);
            text = [&b"EXECABORT Transaction discarded because of: "[..], &text].concat();
        }
        self.fail_bytes(ex, &text);
        true
    }

    /// In RESP2 a subscribed connection listens and does little else.
    fn allowed_while_subscribed<B: Backend>(&mut self, ex: &mut Ex<'_, B>, command: &Command) -> bool {
        let allowed = self.protocol == 3
            || self.subscriptions.iter().all(BTreeSet::is_empty)
            || command.flags & commands::PUBSUB != 0
            || matches!(command.id, Id::Ping | Id::Quit | Id::Reset);
        if !allowed {
            self.refuse_while_subscribed(ex, command.name, self.subcommand);
        }
        allowed
    }

    fn refuse_while_subscribed<B: Backend>(&mut self, ex: &mut Ex<'_, B>, name: &str, subcommand: &str) {
        let separator = if subcommand.is_empty() { "" } else { "|" };
        let ends = name == Id::Exec.command().name;
        if ends {
            self.end_transaction(ex);
        }
        let parts = [
            if ends { "EXECABORT Transaction discarded because of: " } else { "ERR " },
            "Can't execute '",
            name,
            separator,
            subcommand,
            "': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        ];
        self.fail_parts(ex, &parts);
    }

    /// Takes the command that `begin` decided on as far as it goes.
    fn run<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>, budget: &mut usize) -> Flow {
        let Some(command) = self.command else { return Flow::Done };
        ex.blame = Blame::failed(commands::place(command, self.subcommand) as u8);
        if self.observing.is_some() && self.task == Task::None {
            self.announce_reads(ex, command, arguments);
        }
        match command.group {
            commands::Group::String | commands::Group::Generic => {
                self.key_command(ex, command, arguments, budget)
            }
            commands::Group::Connection | commands::Group::Pubsub => {
                self.client_command(ex, command, arguments)
            }
            commands::Group::Cluster => self.cluster_command(ex, command, arguments),
            commands::Group::Server | commands::Group::Scripting => {
                self.server_command(ex, command, arguments)
            }
            commands::Group::Transactions => self.transaction_command(ex, command, arguments),
        }
    }

    /// Says what follows the last step of a command.
    fn end<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        self.task = Task::None;
        if self.silence == Silence::This {
            self.silence = Silence::None;
            ex.say(Shape::Mute(false), &[]);
        }
        self.forget_caching();
        for (notice, text) in self.waiting.take() {
            let shape = self.shape_of(notice);
            ex.say(shape, &text);
        }
        self.judge_plain();
    }

    /// Whether nothing unusual holds.
    fn judge_plain(&mut self) {
        self.plain = self.badge.is_free()
            && !self.queues()
            && !self.attentive
            && !self.watches_there()
            && self.observing.as_ref().is_none_or(|o| o.mode == tracking::Mode::Broadcast && !o.not_own)
            && self.silence != Silence::Next
            && (self.protocol == 3 || self.subscriptions.iter().all(BTreeSet::is_empty));
    }

    /// Answers with an error; the text begins with its code.
    fn fail<B: Backend>(&mut self, ex: &mut Ex<'_, B>, text: &str) {
        self.fail_parts(ex, &[text]);
    }

    fn fail_parts<B: Backend>(&mut self, ex: &mut Ex<'_, B>, parts: &[&str]) {
        self.fail_bytes(ex, parts.concat().as_bytes());
    }

    /// Answers with an error that holds a client's bytes: line ends in it become spaces.
    fn fail_bytes<B: Backend>(&mut self, ex: &mut Ex<'_, B>, text: &[u8]) {
        self.say(ex, |_, out| {
            out.push(b'-');
            out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
            out.extend_from_slice(b"\r\n");
        });
    }

    fn ok<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        ex.say(Shape::Raw, b"+OK\r\n");
    }

    /// Answers with what `write` makes in this protocol version.
    fn say<B: Backend>(&mut self, ex: &mut Ex<'_, B>, write: impl FnOnce(u8, &mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(self.protocol, &mut scratch);
        ex.say(Shape::Raw, &scratch);
        scratch.shrink_to(4096);
        self.scratch = scratch;
    }

    /// The cores whose items this session speaks of: first, and the one behind the last.
    fn cores(&self, node: &Node) -> (u16, u16) {
        self.options.only_core.map_or((0, node.core_count()), |core| (core.0, core.0 + 1))
    }

    /// Asks every core that the session speaks of for its part of an answer; about connections, all.
    fn ask_all<B: Backend>(&mut self, ex: &mut Ex<'_, B>, verb: Verb, part: Shape) {
        let (first, end) = match verb {
            Verb::Connections | Verb::Disconnect { .. } | Verb::Unblock { .. } => (0, ex.node.core_count()),
            _ => self.cores(ex.node),
        };
        for core in first..end {
            let request = Request { key: &[], value: &[], verb };
            ex.ask(Target::Core(crate::ids::CoreId(core)), &request, part, &[]);
        }
    }

    /// Answers with the help of a command's subcommands, made of the table.
    fn help<B: Backend>(&mut self, ex: &mut Ex<'_, B>, command: &Command) {
        let name = command.name.to_ascii_uppercase();
        self.say(ex, |_, out| {
            reply::header(out, b'*', 1 + 2 * command.subcommands.len());
            reply::simple(
                out,
                &[&name, " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"].concat(),
            );
            for sub in command.subcommands {
                reply::simple(out, &sub.name.to_ascii_uppercase());
                reply::simple(out, &["    ", sub.summary].concat());
            }
        });
    }
}

/// Appends at most `bytes_max` of a client's bytes, and nothing from a NUL on.
fn echo(text: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    text.extend_from_slice(&bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]);
}

/// Whether an argument is this word, in any case.
fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}
