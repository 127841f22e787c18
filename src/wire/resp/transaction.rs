//! `MULTI`, `EXEC`, `WATCH`: several commands in one step.
//!
//! All keys of a transaction, watched ones too, belong to one core (in a cluster: to one slot). What one session asks of a
//! core in one turn is one batch, and a core does a batch without anything in between: so the commands are asked for in one
//! go, and the step needs no lock. What is watched is remembered with its version and its end; a guard goes ahead of the
//! commands and has the owner look whether all is as it was ([`crate::request::Verb::Guard`]). If not, the owner does none
//! of what the guard guards.
//!
//! A key that was absent, stored and removed again since is as it was: nobody could tell, and Redis would refuse.

use super::commands::{self, Command, Group, Id};
use super::parser::{Arguments, Queue};
use super::reply::{CROSS_SLOT, Shape, fault_text};
use super::{Backend, Ex, Flow, Talk, Task};
use crate::hash::slot_of;
use crate::ids::CoreId;
use crate::request::{Fault, Request, Verb};
use crate::topology::Node;
use crate::wire::Target;
use crate::wire::journal::Blame;

/// Most commands of a transaction: they are done while nobody else of the core is served.
const COMMANDS_MAX: usize = 65_536;
/// Most bytes of watched keys, with this much for each beside its name.
const WATCHED_BYTES_MAX: usize = 1024 * 1024;
const WATCHED_BYTES: usize = 64;

const NOT_INSIDE: &str = "ERR Command not allowed inside a transaction";
/// What is watched is compared by its owner's clock, and what is queued is done there in one go; no node does that for clients of another.
const ELSEWHERE: &str =
    "ERR the keys of this transaction are another node's: use the port that CLUSTER SLOTS tells for them";

/// What a session keeps for a transaction.
#[derive(Default)]
pub(super) struct Transaction {
    /// Between `MULTI` and `EXEC`.
    pub open: bool,
    /// A command was refused: there will be no `EXEC`.
    broken: bool,
    /// A command has a key that passes to its origin: all do.
    passing: bool,
    queue: Queue,
    /// Number of watched keys, and what they weigh.
    pub watched: usize,
    watched_bytes: usize,
}

impl Transaction {
    /// Bytes of commands that wait.
    pub fn held_bytes(&self) -> usize {
        self.queue.held_bytes() + self.watched_bytes
    }

    /// Number of commands that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Talk {
    /// Whether commands are queued.
    pub(super) fn queues(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.open)
    }

    /// Marks a transaction that goes on as one that will not be done.
    pub(super) fn break_transaction(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.broken |= transaction.open;
        }
    }

    /// Queues the command that `begin` has found fit, unless it is one that works at once; says whether it did.
    pub(super) fn queue<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> bool {
        if matches!(command.id, Id::Multi | Id::Exec | Id::Discard | Id::Watch | Id::Quit | Id::Reset) {
            return false;
        }
        let sub_flags = command.subcommand(self.subcommand.as_bytes()).map_or(0, |sub| sub.flags);
        let Some(transaction) = &mut self.transaction else { return false };
        // What reaches beyond the guarded core is not taken back if the guard says no.
        let far = transaction.watched_bytes > 0
            && !matches!(command.group, Group::String | Group::Generic)
            && (command.flags & (commands::READONLY | commands::FAST) == 0
                || command.flags & commands::WRITE != 0)
            && !matches!(command.id, Id::Info | Id::Command | Id::Memory);
        if (command.flags | sub_flags) & commands::NO_MULTI != 0 || far {
            transaction.broken = true;
            self.fail(ex, NOT_INSIDE);
            return true;
        }
        self.push(ex, arguments);
        true
    }

    /// As `queue`, a command of a transaction that goes to an origin.
    pub(super) fn queue_passing<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let Some(transaction) = &mut self.transaction else { return };
        if transaction.watched > 0 {
            transaction.broken = true;
            return self.fail(ex, NOT_INSIDE);
        }
        transaction.passing = true;
        self.push(ex, arguments);
    }

    fn push<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let Some(transaction) = &mut self.transaction else { return };
        let bytes: usize = arguments.from(0).map(<[u8]>::len).sum();
        let room = transaction.queue.held_bytes() + bytes <= self.options.query_buffer_bytes_max;
        if !room || transaction.queue.len() >= COMMANDS_MAX {
            (transaction.broken, transaction.queue) = (true, Queue::default());
            return self.fail(ex, "ERR the transaction is too large");
        }
        if !transaction.broken {
            transaction.queue.push(arguments);
        }
        ex.say(Shape::Raw, b"+QUEUED\r\n");
    }

    pub(super) fn transaction_command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> Flow {
        match command.id {
            Id::Multi if self.queues() => self.fail(ex, "ERR MULTI calls can not be nested"),
            Id::Multi => {
                self.transaction.get_or_insert_default().open = true;
                self.ok(ex);
            }
            Id::Discard if !self.queues() => self.fail(ex, "ERR DISCARD without MULTI"),
            Id::Discard => {
                self.end_transaction(ex);
                self.ok(ex);
            }
            Id::Watch if self.queues() => self.fail(ex, "ERR WATCH inside MULTI is not allowed"),
            Id::Watch => self.watch(ex, command, arguments),
            Id::Unwatch => {
                self.end_transaction(ex);
                self.ok(ex);
            }
            Id::Exec if !self.queues() => self.fail(ex, "ERR EXEC without MULTI"),
            _ => return self.exec(ex),
        }
        Flow::Done
    }

    /// Forgets the queue and what is watched.
    pub(super) fn end_transaction<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        if self.transaction.take().is_some() {
            ex.say(Shape::Unwatch, &[]);
        }
        if self.watches_there() {
            self.unwatch_there(ex);
        }
    }

    fn watch<B: Backend>(&mut self, ex: &mut Ex<'_, B>, command: &'static Command, arguments: Arguments<'_>) {
        if !self.keys_fit(ex, command, arguments) {
            return;
        }
        let more: usize = arguments.from(1).map(|key| key.len() + WATCHED_BYTES).sum();
        let transaction = self.transaction.get_or_insert_default();
        if transaction.watched_bytes + more > WATCHED_BYTES_MAX {
            return self.fail(ex, "ERR too many watched keys");
        }
        transaction.watched_bytes += more;
        transaction.watched += arguments.len() - 1;
        for key in arguments.from(1) {
            let request = Request { key, value: &[], verb: Verb::Look };
            ex.ask(Target::Owner, &request, Shape::WatchPart, key);
        }
        self.ok(ex);
    }

    fn exec<B: Backend>(&mut self, ex: &mut Ex<'_, B>) -> Flow {
        // Watched keys are known when nothing is on its way any more.
        if !ex.order.is_empty() {
            self.task = Task::Arguments { phase: 0, next: 0 };
            return Flow::Wait;
        }
        self.task = Task::None;
        let Some(transaction) = self.transaction.take() else { return Flow::Done };
        let guards = std::mem::take(&mut ex.writer.watched);
        if transaction.broken {
            if self.watches_there() {
                self.unwatch_there(ex);
            }
            self.fail(ex, "EXECABORT Transaction discarded because of previous errors.");
            return Flow::Done;
        }
        if transaction.passing || self.watches_there() {
            self.pass_transaction(ex, &transaction.queue);
            return Flow::Done;
        }
        let owner = match owner_of(ex.node, |key| ex.backend.is_settled(key), &transaction.queue, &guards) {
            Ok(owner) => owner,
            Err(why) => {
                self.fail(ex, why);
                return Flow::Done;
            }
        };
        let shape = Shape::Exec { commands: transaction.queue.len() as u32 };
        // Without watched keys, too: what is guarded is done in one go, whatever it brings.
        match owner {
            Some(owner) => {
                let request = Request { key: &[], value: &guards, verb: Verb::Guard };
                ex.ask(Target::Core(owner), &request, shape, &[]);
            }
            None => ex.say(shape, &[]),
        }
        if !ex.writer.aborted {
            self.executing = true;
            let mut unbounded = usize::MAX;
            let exec = self.command;
            for i in 0..transaction.queue.len() {
                let arguments = transaction.queue.arguments(i);
                let Some(command) = commands::lookup(arguments.at(0)) else { continue };
                self.subcommand = match arguments.len() {
                    1 => "",
                    _ => command.subcommand(arguments.at(1)).map_or("", |sub| sub.name),
                };
                self.task = Task::None;
                ex.blame = Blame::refused(commands::place(command, self.subcommand) as u8);
                if self.denied(ex, command, arguments) {
                    continue;
                }
                self.count(ex, command);
                // Commands of more than one step were not queued, and keys stand on one core.
                let flow = self.run(ex, arguments, &mut unbounded);
                debug_assert!(flow == Flow::Done, "{} takes several steps", command.name);
            }
            (self.executing, self.task) = (false, Task::None);
            (self.command, self.subcommand) = (exec, "");
            ex.blame = Blame::failed(commands::place(Id::Exec.command(), "") as u8);
        }
        if let Some(owner) = owner.filter(|_| !ex.writer.aborted) {
            let request = Request { key: &[], value: &[], verb: Verb::Unguard };
            ex.ask(Target::Core(owner), &request, Shape::ExecEnd, &[]);
        } else {
            ex.say(Shape::ExecEnd, &[]);
        }
        Flow::Done
    }
}

/// The core that all keys belong to, if there are any. An error if there are several cores, or in a cluster several slots, or
/// if a key is not `settled` anywhere.
fn owner_of(
    node: &Node,
    settled: impl Fn(&[u8]) -> bool,
    queue: &Queue,
    guards: &[u8],
) -> Result<Option<CoreId>, &'static str> {
    let mut first = None;
    let mut moving = false;
    let mut fits = |key: &[u8]| {
        let slot = slot_of(key);
        moving |= !settled(key);
        let (seen, owner) = *first.get_or_insert((slot, node.map.owner(slot.shard())));
        if node.core_ports.is_empty() { owner == node.map.owner(slot.shard()) } else { seen == slot }
    };
    for i in 0..queue.len() {
        let arguments = queue.arguments(i);
        let Some(command) = commands::lookup(arguments.at(0)) else { continue };
        let sub = (arguments.len() > 1).then(|| command.subcommand(arguments.at(1))).flatten();
        for place in command.keys(sub, arguments.len()) {
            if !fits(arguments.at(place)) {
                return Err(CROSS_SLOT);
            }
        }
    }
    let mut rest = guards;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        if !fits(key) {
            return Err(CROSS_SLOT);
        }
        rest = &tail[16..];
    }
    if first.is_some_and(|(_, owner)| node.is_far(owner)) {
        return Err(ELSEWHERE);
    }
    if moving {
        return Err(fault_text(Fault::Busy));
    }
    Ok(first.map(|(_, owner)| owner))
}
