//! Commands that give an item another key or another form: `RENAME`, `COPY`, `MOVE`, `RESTORE`.
//!
//! Between keys of one core a move is one request, done in one step. Between cores it is several:
//! 1. look at both keys, as far as the answer may depend on them, and at how long the value is;
//! 2. take the item from its owner (`RENAME`; from here on it has neither key) or read it (`COPY`);
//! 3. store it at the target's owner;
//! 4. if that could not be done, put it back where it was, unless somebody has stored something there meanwhile.
//!
//! So no value is ever there twice, and no write to either key in between is lost; a reader in between may miss.

use super::commands::{Command, Id};
use super::dump::{self, Bad};
use super::keys::announce_own;
use super::parser::{Arguments, integer};
use super::reply::{NOT_INTEGER, SYNTAX, Shape};
use super::{Backend, Ex, Flow, Talk, Task, is};
use crate::clock::Wall;
use crate::hash::slot_of;
use crate::request::{Condition, Expiry, Fetch, Item, Put, Request, Transfer, Verb};
use crate::wire::Target;

const SAME: &str = "ERR source and destination objects are the same";
const NO_KEY: &str = "ERR no such key";

/// A move as its command asks for it.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    source: &'a [u8],
    target: &'a [u8],
    transfer: Transfer,
    /// How its outcome is told.
    shape: Shape,
}

impl Talk {
    /// `RENAME`, `RENAMENX`, `COPY`.
    pub(super) fn transfer<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
    ) -> Flow {
        let (source, target) = (arguments.at(1), arguments.at(2));
        let (transfer, shape) = match command.id {
            Id::Rename => (Transfer { keep: false, replace: true }, Shape::Renamed { always: true }),
            Id::Renamenx => (Transfer { keep: false, replace: false }, Shape::Renamed { always: false }),
            _ => match copy_options(arguments) {
                Err(text) => {
                    self.fail(ex, text);
                    return Flow::Done;
                }
                Ok(_) if source == target => {
                    self.fail(ex, SAME);
                    return Flow::Done;
                }
                Ok(replace) => (Transfer { keep: true, replace }, Shape::Flag),
            },
        };
        let owner = |key| ex.node.map.owner(slot_of(key).shard());
        if owner(source) == owner(target) {
            let request = Request { key: source, value: target, verb: Verb::Transfer(transfer) };
            announce_own(ex, self.own(), source);
            ex.ask(Target::Owner, &request, shape, &[]);
            return Flow::Done;
        }
        self.between_cores(ex, Wanted { source, target, transfer, shape })
    }

    fn between_cores<B: Backend>(&mut self, ex: &mut Ex<'_, B>, wanted: Wanted<'_>) -> Flow {
        let Wanted { source, target, transfer, shape } = wanted;
        loop {
            // Each step needs the outcomes of the one before, and nothing else on its way.
            if !ex.order.is_empty() {
                if self.task == Task::None {
                    self.task = Task::Arguments { phase: 0, next: 0 };
                }
                return Flow::Wait;
            }
            let phase = match self.task {
                Task::Arguments { phase, .. } => phase,
                _ => 0,
            };
            let look = |key| Request { key, value: &[], verb: Verb::Look };
            match phase {
                0 => {
                    ex.ask(Target::Owner, &look(source), Shape::CopiedPart, &[]);
                    if !transfer.replace {
                        ex.ask(Target::Owner, &look(target), Shape::VersionPart, &[]);
                    }
                }
                1 => {
                    let blocked = ex.writer.versions.iter().any(|v| *v != crate::ids::Version::NONE);
                    if ex.writer.sum == 0 || ex.writer.fault.is_some() || blocked {
                        let there = ex.writer.sum > 0;
                        return self.not_moved(ex, shape, there);
                    }
                    ex.writer.forget();
                    let fetch = Fetch { remove: true, lease: false, ..Fetch::PLAIN };
                    let verb = if transfer.keep { Verb::Peek } else { Verb::Fetch(fetch) };
                    announce_own(ex, self.own().filter(|_| !transfer.keep), source);
                    ex.ask(Target::Owner, &Request { key: source, value: &[], verb }, Shape::TakePart, &[]);
                }
                2 => {
                    let Some(item) = ex.writer.taken else { return self.not_moved(ex, shape, false) };
                    let value = std::mem::take(&mut ex.writer.gathered);
                    let condition = if transfer.replace { Condition::Always } else { Condition::Absent };
                    let put = Put { condition, ..again(&item) };
                    let request = Request { key: target, value: &value, verb: Verb::Put(put) };
                    announce_own(ex, self.own(), target);
                    ex.ask(Target::Owner, &request, Shape::SumPart, &[]);
                    ex.writer.gathered = value;
                }
                3 if ex.writer.sum > 0 || transfer.keep => {
                    let moved = ex.writer.sum > 0;
                    return if moved { self.moved(ex, shape) } else { self.not_moved(ex, shape, true) };
                }
                3 => {
                    let value = std::mem::take(&mut ex.writer.gathered);
                    let item = ex.writer.taken.expect("it was taken in step 2");
                    let put = Put { condition: Condition::Absent, ..again(&item) };
                    let request = Request { key: source, value: &value, verb: Verb::Put(put) };
                    // Whatever comes of it: who stored there meanwhile came later.
                    ex.ask(Target::Owner, &request, Shape::Ignored, &[]);
                }
                _ => return self.not_moved(ex, shape, true),
            }
            self.task = Task::Arguments { phase: phase + 1, next: 0 };
        }
    }

    fn moved<B: Backend>(&mut self, ex: &mut Ex<'_, B>, shape: Shape) -> Flow {
        ex.writer.forget();
        ex.say(Shape::Raw, if shape == (Shape::Renamed { always: true }) { b"+OK\r\n" } else { b":1\r\n" });
        Flow::Done
    }

    fn not_moved<B: Backend>(&mut self, ex: &mut Ex<'_, B>, shape: Shape, source_exists: bool) -> Flow {
        let fault = ex.writer.fault;
        ex.writer.forget();
        ex.writer.fault = fault;
        match shape {
            Shape::Renamed { .. } if fault.is_none() && !source_exists => self.fail(ex, NO_KEY),
            _ => ex.say(Shape::SumEnd, &[]),
        }
        Flow::Done
    }

    /// `MOVE`: there is no other database to move to.
    pub(super) fn move_key<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        self.fail(ex, database(arguments.at(2)).err().unwrap_or(SAME));
    }

    /// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`.
    pub(super) fn restore<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let (mut replace, mut absolute, mut idle, mut frequent) = (false, false, false, false);
        let mut i = 4;
        while i < arguments.len() {
            let (word, left) = (arguments.at(i), arguments.len() - i - 1);
            if is(word, "replace") {
                replace = true;
            } else if is(word, "absttl") {
                absolute = true;
            } else if is(word, "idletime") && left >= 1 && !frequent {
                (i, idle) = (i + 1, true);
                match integer(arguments.at(i)) {
                    None => return self.fail(ex, NOT_INTEGER),
                    Some(..0) => return self.fail(ex, "ERR Invalid IDLETIME value, must be >= 0"),
                    Some(_) => {}
                }
            } else if is(word, "freq") && left >= 1 && !idle {
                (i, frequent) = (i + 1, true);
                match integer(arguments.at(i)) {
                    None => return self.fail(ex, NOT_INTEGER),
                    Some(0..=255) => {}
                    Some(_) => return self.fail(ex, "ERR Invalid FREQ value, must be >= 0 and <= 255"),
                }
            } else {
                return self.fail(ex, SYNTAX);
            }
            i += 1;
        }
        let key = arguments.at(1);
        let expiry = match integer(arguments.at(2)) {
            None => Err(NOT_INTEGER),
            Some(..0) => Err("ERR Invalid TTL value, must be >= 0"),
            Some(0) => Ok(Expiry::Never),
            Some(millis) if absolute => Ok(Expiry::At(ex.now.deadline(Wall(millis as u64)))),
            Some(millis) => Ok(Expiry::At(ex.now.mono.plus_millis(millis as u64))),
        };
        let decoded = expiry.and_then(|expiry| {
            let value = dump::decode(arguments.at(3), self.options.value_bytes_max);
            value.map(|value| (value, expiry)).map_err(|bad| match bad {
                Bad::Trailer => "ERR DUMP payload version or checksum are wrong",
                Bad::Format => "ERR Bad data format",
            })
        });
        match decoded {
            Ok((value, expiry)) => {
                let condition = if replace { Condition::Always } else { Condition::Absent };
                let verb = Verb::Put(Put { condition, ..Put::plain(expiry) });
                announce_own(ex, self.own(), key);
                ex.ask(Target::Owner, &Request { key, value: &value, verb }, Shape::Restored, &[]);
            }
            Err(text) if replace => self.fail(ex, text),
            // That the key is taken is told before what is wrong with the rest.
            Err(text) => {
                let request = Request { key, value: &[], verb: Verb::Look };
                ex.ask(Target::Owner, &request, Shape::RestoreRefused, text.as_bytes());
            }
        }
    }
}

/// The store of an item that was taken from another key: out of date is what was so there.
fn again(item: &Item) -> Put {
    Put { flags: item.flags, stale: item.lease.stale, ..Put::plain(item.expiry) }
}

/// The options of `COPY`: whether to replace.
fn copy_options(arguments: Arguments<'_>) -> Result<bool, &'static str> {
    let mut replace = false;
    let mut i = 3;
    while i < arguments.len() {
        let word = arguments.at(i);
        if is(word, "replace") {
            replace = true;
        } else if is(word, "db") && i + 1 < arguments.len() {
            i += 1;
            database(arguments.at(i))?;
        } else {
            return Err(SYNTAX);
        }
        i += 1;
    }
    Ok(replace)
}

/// Whether a client may go to the database it names, which is the one there is.
pub(super) fn database(number: &[u8]) -> Result<(), &'static str> {
    match integer(number).map(i32::try_from) {
        None => Err(NOT_INTEGER),
        Some(Err(_)) => Err("ERR value is out of range, value must between -2147483648 and 2147483647"),
        Some(Ok(0)) => Ok(()),
        Some(Ok(_)) => Err("ERR DB index is out of range"),
    }
}
