//! Connections to a Redis origin that are one client's own: for commands that wait there for what others do, for keys that are
//! watched there, for channels that are subscribed to there.
//!
//! ```text
//!   a client's command --> its line, an idle one, or a new one --> bytes
//!                              |  answered, and nothing is kept: idle, for whoever needs one next
//!                              |  the client goes, or a deadline passes: closed, so the origin stops waiting for it
//!                              |  it ends by itself: what was asked fails
//!                              |      .. while keys are watched: so does all that relies on them
//!                              |      .. while channels are: the client is told by the end of its own connection
//! ```
//! Sans-IO as [`super::pool`], whose actions it shares. What a line takes of the origin is not counted by its permits, as a
//! command may wait for hours; lines have a bound of their own. A deadline is that of the oldest command: it has the origin's
//! time from when it is the oldest, and the time that it may wait beside.
//!
//! To end the wait of a client (`CLIENT UNBLOCK`) the origin is told so on another line: an *errand*. Only the origin knows whether
//! the wait is over already, and what a command answers that has waited in vain; so nothing that it took for the client is lost. Until
//! the errand is back the line it is about serves nobody else, who might be meant by it then.
//!
//! Of a cluster a line leads to one node: that of the key of the command it was made for, or of the first that is watched. A command
//! whose keys are at another node takes a line to that one as soon as nothing is kept and awaited on the old one; where something
//! is kept it stays on it, and that node's redirection is an error, never followed: what was watched is not there.

use super::pool::{Action, Failure, Line, Tally, Told};
use super::{Ask, Heard, Kind, Limits, Place, Reply, Target, Ticket, What, redis};
use crate::clock::Mono;
use crate::ids::ConnectionId;
use crate::request::{Keeps, Private, UnblockAs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Bounds of one core's private lines to one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most lines.
    pub lines_max: usize,
    /// Milliseconds for connecting and for the answer to a command, beside what it may wait.
    pub timeout_millis: u64,
    /// What is taken from the origin.
    pub limits: Limits,
}

/// Idle lines that are kept for the next who needs one.
const IDLE_MAX: usize = 16;
/// `WAIT` is about what one connection wrote, and writes to a cluster go to many nodes.
const NOT_OF_MANY: &[u8] = b"ERR WAIT and WAITAOF are about one node: not with a cluster origin";
/// Errands at a time; they have lines beyond the bound on those, as they are wanted when too many wait.
const ERRANDS_MAX: usize = 8;
const ERRANDS_CROWDED: &[u8] = b"ERR too many clients are being unblocked; try again";
const NUMBER_UNKNOWN: &[u8] =
    b"ERR the origin does not tell us CLIENT ID, so it cannot be told whom to unblock";
/// The deadline of nobody.
const NEVER: Mono = Mono(u64::MAX);

/// A command that waits for its line, or for its answer.
struct Asked {
    ticket: Ticket,
    waits_millis: u64,
    /// A refusal ends the line: the client believes to be subscribed from here on.
    subscribes: bool,
}

/// A command for another node of a cluster than the one to which its client has a line now.
struct Later {
    protocol: u8,
    ticket: Ticket,
    ask: Ask,
    how: Private,
    place: Option<Place>,
}

/// One line.
struct Own {
    client: redis::Client,
    protocol: u8,
    /// Where it leads; `None`: where the origin's URL does.
    place: Option<Place>,
    owner: Option<ConnectionId>,
    keeps: Keeps,
    open: bool,
    waiting: VecDeque<(Asked, Ask)>,
    asked: VecDeque<Asked>,
    /// When it is overdue, as in `due` of all lines, and with what.
    due: Mono,
    timed: Timed,
    output: Vec<u8>,
    /// What goes on when all of this one is answered, in order.
    later: VecDeque<Later>,
    /// What it does for another line, if it is on an errand.
    errand: Option<Errand>,
    /// Errands that are about it.
    meant: usize,
}

/// What a line is out for that has no client.
#[derive(Clone, Copy)]
struct Errand {
    number: u64,
    /// Whose wait is to end.
    about: Line,
}

/// What a line's deadline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    /// Connecting and the greeting.
    Greeting,
    /// The oldest command, if there is one.
    Oldest(Option<Ticket>),
}

/// One core's private lines to one origin.
pub struct PrivateLines {
    target: Arc<Target>,
    options: Options,
    lines: BTreeMap<Line, Own>,
    of_client: BTreeMap<ConnectionId, Line>,
    /// Sockets of lines, until they are closed.
    sockets: BTreeMap<Line, ConnectionId>,
    idle: Vec<Line>,
    due: BTreeSet<(Mono, Line)>,
    next_line: u64,
    actions: VecDeque<Action>,
    heard: Vec<Heard>,
    /// Errands under way, and lines that they were about and that have not gone on yet.
    errands: usize,
    freed: Vec<Line>,
    /// A line led to a node that has not what was looked for, or that is gone.
    astray: bool,
    /// What it counts; latencies of commands that wait for others would tell nothing.
    pub tally: Tally,
}

impl PrivateLines {
    /// None so far.
    pub fn new(target: Arc<Target>, options: Options) -> PrivateLines {
        PrivateLines {
            target,
            options,
            lines: BTreeMap::new(),
            of_client: BTreeMap::new(),
            sockets: BTreeMap::new(),
            idle: Vec::new(),
            due: BTreeSet::new(),
            next_line: 0,
            actions: VecDeque::new(),
            heard: Vec::new(),
            errands: 0,
            freed: Vec::new(),
            astray: false,
            tally: Tally::default(),
        }
    }

    /// What to do next; changes with every other call.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Has a client's command done on its own line, which leads to `place` if it is not there yet (`None`: where the origin's URL
    /// does). What comes of it is told, exactly once. A command without bytes ends the line.
    #[expect(clippy::too_many_arguments, reason = "whose, how and where are of different owners")]
    pub fn ask(
        &mut self,
        now: Mono,
        client: ConnectionId,
        protocol: u8,
        ticket: Ticket,
        ask: Ask,
        how: Private,
        place: Option<Place>,
    ) {
        let ends = matches!(&ask.what, What::Command { bytes, .. } if bytes.is_empty());
        if ends {
            self.leave(client);
            return self.actions.push_back(Action::Tell(Told::Answer(ticket, Reply::Raw(Vec::new()))));
        }
        if how.continues && !self.of_client.contains_key(&client) {
            return self.fail(ticket, Failure::Closed);
        }
        let many = matches!(self.target.kind, Kind::Redis { cluster: true, .. });
        if many && how.waits_millis > 0 && ask.key.is_empty() {
            return self
                .actions
                .push_back(Action::Tell(Told::Answer(ticket, Reply::Refused(NOT_OF_MANY.to_vec()))));
        }
        let own = self.of_client.get(&client).and_then(|line| self.lines.get_mut(line));
        if let Some(own) = own
            && own.keeps == Keeps::Nothing
            && (own.place != place || !own.later.is_empty())
        {
            return own.later.push_back(Later { protocol, ticket, ask, how, place });
        }
        let Some(line) = self.line_for(now, client, protocol, place) else {
            if how.keeps == Keeps::Subscribed {
                self.actions.push_back(Action::Tell(Told::Lost(client)));
            }
            return self.fail(ticket, Failure::Crowded);
        };
        let own = self.lines.get_mut(&line).expect("found just now");
        own.keeps = how.keeps;
        let subscribes = matches!(ask.what, What::Subscribe { .. });
        let asked = Asked { ticket, waits_millis: how.waits_millis, subscribes };
        own.waiting.push_back((asked, ask));
        self.pump(now, line);
    }

    /// A client has gone, or wants nothing more of its line; says whether it had one.
    pub fn leave(&mut self, client: ConnectionId) -> bool {
        let Some(line) = self.of_client.get(&client).copied() else { return false };
        // Nobody is there to be told.
        let own = self.lines.get_mut(&line).expect("a client's line is there");
        own.keeps = Keeps::Nothing;
        own.later.iter_mut().for_each(|later| later.how.keeps = Keeps::Nothing);
        self.actions.push_back(Action::Close(line));
        self.end(line, Failure::Closed);
        true
    }

    /// Has the origin end what this client's oldest command waits for; what it says to that is told under this number. False if
    /// no command of this client waits there.
    pub fn unblock(&mut self, now: Mono, client: ConnectionId, how: UnblockAs, number: u64) -> bool {
        let line = self.of_client.get(&client).copied();
        let Some((line, own)) = line.and_then(|line| Some((line, self.lines.get_mut(&line)?))) else {
            return false;
        };
        if own.asked.front().is_none_or(|oldest| oldest.waits_millis == 0) {
            return false;
        }
        let id = match own.client.number() {
            Some(id) if self.errands < ERRANDS_MAX => id,
            known => {
                let text = if known.is_some() { ERRANDS_CROWDED } else { NUMBER_UNKNOWN };
                let told = Told::Unblocked(number, Ok(Reply::Refused(text.to_vec())));
                self.actions.push_back(Action::Tell(told));
                return true;
            }
        };
        own.meant += 1;
        self.errands += 1;
        let place = own.place.clone();
        let goes_there = |line: &Line| self.lines.get(line).is_some_and(|own| own.place == place);
        let free = match self.idle.iter().rposition(goes_there) {
            Some(idle) => self.idle.swap_remove(idle),
            None => self.connect(now, 2, place),
        };
        let id = id.to_string();
        let word = match how {
            UnblockAs::Timeout => "TIMEOUT",
            UnblockAs::Error => "ERROR",
        };
        let bytes = format!(
            "*4\r\n$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n${}\r\n{id}\r\n${}\r\n{word}\r\n",
            id.len(),
            word.len()
        );
        let ask = Ask { key: Vec::new(), what: What::Command { bytes: bytes.into_bytes(), replies: 1 } };
        let asked = Asked { ticket: Ticket(number), waits_millis: 0, subscribes: false };
        let own = self.lines.get_mut(&free).expect("found or made just now");
        own.errand = Some(Errand { number, about: line });
        own.waiting.push_back((asked, ask));
        self.pump(now, free);
        true
    }

    /// Whether a command of this client waits there for what others do.
    pub fn waits(&self, client: ConnectionId) -> bool {
        let line = self.of_client.get(&client).and_then(|line| self.lines.get(line));
        line.is_some_and(Own::waits)
    }

    /// A connection stands.
    pub fn connected(&mut self, now: Mono, line: Line) {
        let Some(own) = self.lines.get_mut(&line) else { return };
        own.open = true;
        own.client.begin(&mut own.output);
        self.tally.connected += 1;
        if !own.output.is_empty() {
            self.actions.push_back(Action::Send(line));
        }
        self.pump(now, line);
    }

    /// Bytes came.
    pub fn received(&mut self, now: Mono, line: Line, bytes: &[u8]) {
        let Some(own) = self.lines.get_mut(&line) else { return };
        let mut heard = std::mem::take(&mut self.heard);
        let received = own.client.receive(bytes, &mut heard);
        let (owner, mut answered, mut refused, mut back) = (own.owner, 0, false, None);
        for heard in heard.drain(..) {
            match heard {
                Heard::Answer(ticket, reply) => {
                    let asked = own.asked.pop_front().expect("clients answer what was asked, in its order");
                    debug_assert_eq!(asked.ticket, ticket);
                    let refuses = match &reply {
                        Reply::Raw(bytes) => bytes.starts_with(b"-"),
                        Reply::Refused(text) => {
                            self.astray |= text == redis::ONE_NODE_ONLY;
                            true
                        }
                        _ => false,
                    };
                    refused |= asked.subscribes && refuses;
                    answered += 1;
                    back = back.or(own.errand.take());
                    let told = match back {
                        Some(errand) => Told::Unblocked(errand.number, Ok(reply)),
                        None => Told::Answer(ticket, reply),
                    };
                    self.actions.push_back(Action::Tell(told));
                }
                Heard::Pushed(frame) => {
                    let told = owner.map(|owner| Action::Tell(Told::Pushed(owner, frame)));
                    self.actions.extend(told);
                }
                // It asked for no such thing.
                Heard::Changed(_) | Heard::AllChanged => {}
            }
        }
        self.heard = heard;
        self.tally.answered += answered;
        if received.is_err() || refused {
            self.actions.push_back(Action::Close(line));
            self.end(line, Failure::Broken);
        } else {
            self.pump(now, line);
            self.go_on(now, line);
        }
        if let Some(errand) = back {
            self.rest(line);
            self.come_back(errand);
            self.free(now);
        }
    }

    /// A connection ended, or did not come to be.
    pub fn closed(&mut self, line: Line) {
        self.sockets.remove(&line);
        self.astray |= self.lines.contains_key(&line);
        let opened = self.lines.get(&line).is_some_and(|own| own.open);
        self.end(line, if opened { Failure::Closed } else { Failure::Unreachable });
    }

    /// Whether a line led to a wrong node, or to one that is gone, since this was last looked at.
    pub fn take_astray(&mut self) -> bool {
        std::mem::take(&mut self.astray)
    }

    /// Where a line leads; `None`: where the origin's URL does.
    pub fn place(&self, line: Line) -> Option<&Place> {
        self.lines.get(&line)?.place.as_ref()
    }

    /// Bytes to send on a connection; to be taken from the front.
    pub fn output(&mut self, line: Line) -> Option<&mut Vec<u8>> {
        self.lines.get_mut(&line).map(|own| &mut own.output)
    }

    /// Notes the socket of a line.
    pub fn bind(&mut self, line: Line, socket: ConnectionId) {
        self.sockets.insert(line, socket);
    }

    /// The socket of a line.
    pub fn socket(&self, line: Line) -> Option<ConnectionId> {
        self.sockets.get(&line).copied()
    }

    /// The socket of a line that is to be closed.
    pub fn unbind(&mut self, line: Line) -> Option<ConnectionId> {
        self.sockets.remove(&line)
    }

    /// Gives up what is overdue.
    pub fn tick(&mut self, now: Mono) {
        while let Some(&(due, line)) = self.due.first()
            && due <= now
        {
            let open = self.lines.get(&line).is_some_and(|own| own.open);
            self.astray = true;
            self.actions.push_back(Action::Close(line));
            self.end(line, if open { Failure::Overdue } else { Failure::Unreachable });
        }
        self.free(now);
    }

    /// When [`PrivateLines::tick`] has something to do.
    pub fn next_due(&self) -> Option<Mono> {
        match self.freed.is_empty() {
            true => self.due.first().map(|(due, _)| *due),
            false => Some(Mono(0)),
        }
    }

    /// Whether there is any line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Lines, those being made and the idle ones included.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Lines on which a command waits for what others do.
    pub fn waiting_count(&self) -> usize {
        self.lines.values().filter(|own| own.waits()).count()
    }

    /// The line of a client: its own already, an idle one, or a new one as far as there may be more.
    fn line_for(
        &mut self,
        now: Mono,
        client: ConnectionId,
        protocol: u8,
        place: Option<Place>,
    ) -> Option<Line> {
        if let Some(&line) = self.of_client.get(&client) {
            return Some(line);
        }
        let fits = |line: &Line| {
            self.lines.get(line).is_some_and(|own| own.protocol == protocol && own.place == place)
        };
        let line = match self.idle.iter().rposition(fits) {
            Some(place) => self.idle.swap_remove(place),
            None => {
                if self.lines.len() - self.errands >= self.options.lines_max {
                    // One that speaks the other version, or leads elsewhere, gives way.
                    let other = self.idle.pop()?;
                    self.actions.push_back(Action::Close(other));
                    self.end(other, Failure::Closed);
                }
                self.connect(now, protocol, place)
            }
        };
        self.lines.get_mut(&line).expect("found or made just now").owner = Some(client);
        self.of_client.insert(client, line);
        Some(line)
    }

    fn connect(&mut self, now: Mono, protocol: u8, place: Option<Place>) -> Line {
        let line = Line(self.next_line);
        self.next_line += 1;
        let client = redis::Client::new_private(self.target.clone(), self.options.limits, protocol);
        let own = Own {
            client,
            protocol,
            place,
            owner: None,
            keeps: Keeps::Nothing,
            open: false,
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            due: NEVER,
            timed: Timed::Greeting,
            output: Vec::new(),
            later: VecDeque::new(),
            errand: None,
            meant: 0,
        };
        self.lines.insert(line, own);
        self.set_due(line, now.plus_millis(self.options.timeout_millis));
        self.actions.push_back(Action::Connect(line));
        line
    }

    /// Sends what waits, as far as the connection goes; the deadline is that of the oldest command from then on.
    fn pump(&mut self, now: Mono, line: Line) {
        let Some(own) = self.lines.get_mut(&line) else { return };
        if !own.open || !own.client.ready() {
            return;
        }
        let before = own.asked.len();
        while own.client.room() > 0
            && let Some((asked, ask)) = own.waiting.pop_front()
        {
            let answer = own.client.ask(asked.ticket, &ask, &mut own.output);
            debug_assert!(answer.is_none(), "commands as they are go out whatever they are");
            own.asked.push_back(asked);
        }
        let sent = own.asked.len() - before;
        if sent > 0 {
            self.tally.asked += sent as u64;
            self.actions.push_back(Action::Send(line));
        }
        let timed = Timed::Oldest(own.asked.front().map(|oldest| oldest.ticket));
        if own.timed != timed {
            own.timed = timed;
            let due = match own.asked.front().map(|oldest| oldest.waits_millis) {
                None | Some(u64::MAX) => NEVER,
                Some(waits) => now.plus_millis(self.options.timeout_millis.saturating_add(waits)),
            };
            self.set_due(line, due);
        }
    }

    fn set_due(&mut self, line: Line, due: Mono) {
        let Some(own) = self.lines.get_mut(&line) else { return };
        self.due.remove(&(own.due, line));
        own.due = due;
        if due != NEVER {
            self.due.insert((due, line));
        }
    }

    /// Takes a line back of which its client keeps nothing, and goes on with what that client wants of other nodes.
    fn go_on(&mut self, now: Mono, line: Line) {
        let Some(own) = self.lines.get_mut(&line) else { return };
        let done = own.keeps == Keeps::Nothing && own.asked.is_empty() && own.waiting.is_empty();
        // An errand that is about it might find another client there.
        if !done || own.meant > 0 {
            return;
        }
        let Some(owner) = own.owner.take() else { return };
        let later = std::mem::take(&mut own.later);
        self.of_client.remove(&owner);
        self.rest(line);
        later
            .into_iter()
            .for_each(|it| self.ask(now, owner, it.protocol, it.ticket, it.ask, it.how, it.place));
    }

    /// Keeps a line for the next who needs one, or closes it if there are enough.
    fn rest(&mut self, line: Line) {
        if !self.lines.contains_key(&line) {
            return;
        }
        if self.idle.len() < IDLE_MAX && self.lines.len() <= self.options.lines_max {
            self.idle.push(line);
        } else {
            self.actions.push_back(Action::Close(line));
            self.end(line, Failure::Closed);
        }
    }

    /// An errand is over.
    fn come_back(&mut self, errand: Errand) {
        self.errands -= 1;
        if let Some(own) = self.lines.get_mut(&errand.about) {
            own.meant -= 1;
            self.freed.push(errand.about);
        }
    }

    /// Goes on with lines that errands were about.
    fn free(&mut self, now: Mono) {
        while let Some(line) = self.freed.pop() {
            self.go_on(now, line);
        }
    }

    /// Forgets a line; what was asked on it fails.
    fn end(&mut self, line: Line, why: Failure) {
        self.set_due(line, NEVER);
        self.idle.retain(|idle| *idle != line);
        let Some(own) = self.lines.remove(&line) else { return };
        if let Some(owner) = own.owner {
            self.of_client.remove(&owner);
        }
        if let Some(errand) = own.errand {
            self.tally.failed += 1;
            self.actions.push_back(Action::Tell(Told::Unblocked(errand.number, Err(why))));
            return self.come_back(errand);
        }
        let mut why = why;
        let keeps = own.later.back().map_or(own.keeps, |later| later.how.keeps);
        let asked = own.asked.into_iter().chain(own.waiting.into_iter().map(|(asked, _)| asked));
        let later = own.later.into_iter().map(|later| later.ticket);
        for ticket in asked.map(|asked| asked.ticket).chain(later) {
            self.fail(ticket, why);
            // Behind an overdue answer others may not be overdue themselves.
            why = if why == Failure::Overdue { Failure::Closed } else { why };
        }
        if let (Keeps::Subscribed, Some(owner)) = (keeps, own.owner) {
            self.actions.push_back(Action::Tell(Told::Lost(owner)));
        }
    }

    fn fail(&mut self, ticket: Ticket, why: Failure) {
        self.tally.failed += 1;
        self.actions.push_back(Action::Tell(Told::Failed(ticket, why)));
    }
}

impl Own {
    fn waits(&self) -> bool {
        let asked = self.asked.iter().chain(self.waiting.iter().map(|(asked, _)| asked));
        asked
            .map(|it| it.waits_millis)
            .chain(self.later.iter().map(|it| it.how.waits_millis))
            .any(|it| it > 0)
    }
}

#[cfg(test)]
mod tests;
