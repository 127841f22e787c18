//! Commands on keys. Each key is a request of its own, to the core that owns it.

use super::commands::{Command, Id};
use super::lease;
use super::parser::{Arguments, integer, is_space, unsigned};
use super::reply::{self, CROSS_SLOT, NOT_INTEGER, SYNTAX, Shape, TOO_LONG};
use super::{Backend, Ex, Flow, Talk, Task, is};
use crate::clock::{Now, Wall};
use crate::hash::slot_of;
use crate::ids::CoreId;
use crate::request::{
    Condition, Count, Expire, ExpireOnly, Expiry, ExpiryChange, Fetch, Observer, Put, Remove, Request, Scan,
    Splice, Step, Verb,
};
use crate::wire::Target;

/// Items that one step of `KEYS` looks at.
const WALK_ITEMS: u32 = 1024;
/// Bytes of keys that `KEYS` may gather.
const WALK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Items that one page of `SCAN` looks at by default, and at most.
const SCAN_ITEMS: u32 = 10;
const SCAN_ITEMS_MAX: i64 = 16 * 1024;

impl Talk {
    pub(super) fn key_command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
        budget: &mut usize,
    ) -> Flow {
        if self.task == Task::None && !self.keys_fit(ex, command, arguments) {
            return Flow::Done;
        }
        match command.id {
            Id::Mget | Id::Mset | Id::Del | Id::Unlink | Id::Exists | Id::Touch => {
                return self.each_key(ex, command, arguments, budget);
            }
            Id::Msetnx => self.msetnx(ex, arguments),
            Id::Rename | Id::Renamenx | Id::Copy => return self.transfer(ex, command, arguments),
            Id::Move => self.move_key(ex, arguments),
            Id::Restore => self.restore(ex, arguments),
            Id::Keys if arguments.at(1).is_empty() => self.empty_key(ex, false),
            Id::Keys => {
                let pattern = if arguments.at(1) == b"*" { b"" } else { arguments.at(1) };
                return self.walk(ex, pattern, None, u32::MAX);
            }
            Id::Randomkey => {
                self.ask_all(ex, Verb::Random, Shape::PagePart);
                // Whichever key the clock points at: cores answer keys picked at random.
                ex.say(Shape::AnyKeyEnd { pick: (ex.now.mono.0 / 1000) as u32 }, &[]);
            }
            Id::Wait => self.wait(ex, arguments),
            Id::Scan => self.scan(ex, arguments),
            Id::Object => self.object(ex, command, arguments),
            _ => {
                if let Err(text) = self.one_key(ex, command, arguments) {
                    match text {
                        Refusal::Text(text) => self.fail(ex, text),
                        Refusal::ExpireTime => {
                            self.fail_parts(ex, &["ERR invalid expire time in '", command.name, "' command"]);
                        }
                        Refusal::Option(word) => {
                            let mut text = b"ERR Unsupported option ".to_vec();
                            super::echo(&mut text, word, super::ECHO_BYTES_MAX);
                            self.fail_bytes(ex, &text);
                        }
                    }
                }
            }
        }
        Flow::Done
    }

    /// Whether all keys have a length that an item may have; says so if not.
    pub(super) fn keys_fit<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
    ) -> bool {
        let sub = command.subcommand(self.subcommand.as_bytes());
        let bytes_max = self.options.key_bytes_max;
        for i in command.keys(sub, arguments.len()) {
            let len = arguments.at(i).len();
            if len > bytes_max {
                let digits = bytes_max.to_string();
                self.fail_parts(ex, &["ERR keys have at most ", &digits, " bytes"]);
                return false;
            }
        }
        true
    }

    /// `MGET`, `MSET`, `DEL`, `UNLINK`, `EXISTS`, `TOUCH`: stops between keys when there is no room.
    fn each_key<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
        budget: &mut usize,
    ) -> Flow {
        let alone = arguments.len() == 2;
        let (verb, shape) = match command.id {
            Id::Mget => (Verb::Get, Shape::Element),
            Id::Mset => (Verb::Put(Put::plain(Expiry::Never)), Shape::SumPart),
            Id::Exists => (Verb::Look, if alone { Shape::Flag } else { Shape::SumPart }),
            Id::Touch => (Verb::Get, if alone { Shape::Flag } else { Shape::SumPart }),
            _ => (Verb::Remove(Remove::PLAIN), if alone { Shape::Flag } else { Shape::SumPart }),
        };
        let step = if command.id == Id::Mset { 2 } else { 1 };
        if self.task == Task::None {
            if !(arguments.len() - 1).is_multiple_of(step) {
                self.fail(ex, "ERR wrong number of arguments for 'mset' command");
                return Flow::Done;
            }
            if command.id == Id::Mget {
                self.say(ex, |_, out| reply::header(out, b'*', arguments.len() - 1));
            }
            self.task = Task::Arguments { phase: 0, next: 1 };
        }
        let own = self.own().filter(|_| command.flags & super::commands::WRITE != 0);
        let flow = self.each_argument(ex, arguments, budget, step, |ex, i| {
            let value = if step == 2 { arguments.at(i + 1) } else { &[] };
            let request = Request { key: arguments.at(i), value, verb };
            announce_own(ex, own, request.key);
            ex.ask(Target::Owner, &request, shape, &[]);
        });
        if flow == Flow::Done {
            match command.id {
                Id::Mget => {}
                Id::Mset => ex.say(Shape::OkEnd, &[]),
                _ if alone => {}
                _ => ex.say(Shape::SumEnd, &[]),
            }
        }
        flow
    }

    /// Calls `each` with the place of every `step`th argument from where the task stands, as long as there is room.
    fn each_argument<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        arguments: Arguments<'_>,
        budget: &mut usize,
        step: usize,
        mut each: impl FnMut(&mut Ex<'_, B>, usize),
    ) -> Flow {
        let Task::Arguments { phase, next } = self.task else { unreachable!("set by the caller") };
        let mut i = next as usize;
        while i < arguments.len() {
            let stop = if self.executing {
                None
            } else if !ex.has_room(self.options.output_soft_bytes) {
                Some(Flow::Wait)
            } else if *budget == 0 || ex.out.total() >= self.turn_bytes {
                Some(Flow::Pause)
            } else {
                None
            };
            if let Some(flow) = stop {
                self.task = Task::Arguments { phase, next: i as u32 };
                return flow;
            }
            each(ex, i);
            *budget = budget.saturating_sub(1);
            i += step;
        }
        self.task = Task::Arguments { phase, next: i as u32 };
        Flow::Done
    }

    /// All keys belong to one core, which stores all or none in one step.
    fn msetnx<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        if arguments.len().is_multiple_of(2) {
            return self.fail(ex, "ERR wrong number of arguments for 'msetnx' command");
        }
        // In a cluster one slot, else one core: what a client knows of.
        let cluster = !ex.node.core_ports.is_empty();
        let mut places = (1..arguments.len()).step_by(2).map(|i| {
            let slot = slot_of(arguments.at(i));
            if cluster { slot.number() } else { ex.node.map.owner(slot.shard()).0 }
        });
        let first = places.next();
        if places.any(|place| Some(place) != first) {
            return self.fail(ex, CROSS_SLOT);
        }
        let mut pairs = Vec::new();
        for part in arguments.from(1) {
            pairs.extend_from_slice(&(part.len() as u32).to_le_bytes());
            pairs.extend_from_slice(part);
        }
        announce_own(ex, self.own(), arguments.at(1));
        let request = Request { key: arguments.at(1), value: &pairs, verb: Verb::PutAllAbsent };
        ex.ask(Target::Owner, &request, Shape::Flag, &[]);
    }

    /// Gathers the keys of all cores (or, of one slot, its owner's), a page a step, and answers at most `most`.
    pub(super) fn walk<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        pattern: &[u8],
        slot: Option<u16>,
        most: u32,
    ) -> Flow {
        let (first, end) = match slot {
            Some(slot) => {
                let owner = ex.node.map.owner(crate::ids::Slot::new(slot).shard()).0;
                (owner, owner + 1)
            }
            None => self.cores(ex.node),
        };
        // Pages are told apart by the cursor that the writer saw last, so nothing else may be on its way.
        if !ex.order.is_empty() {
            if self.task == Task::None {
                self.task = Task::Walk { asked: None };
            }
            return Flow::Wait;
        }
        let (core, cursor) = match self.task {
            Task::Walk { asked: Some(core) } if ex.writer.cursor == 0 => (core + 1, 0),
            Task::Walk { asked: Some(core) } => (core, ex.writer.cursor),
            _ => (first, 0),
        };
        let enough = most < u32::MAX && reply::keys(&ex.writer.gathered).count() >= most as usize;
        if core >= end || enough || ex.writer.fault.is_some() {
            ex.say(Shape::KeysEnd { most }, &[]);
            return Flow::Done;
        }
        if ex.writer.gathered.len() > WALK_BYTES_MAX {
            ex.writer.forget();
            self.fail(ex, "ERR too many keys for one reply, use SCAN");
            return Flow::Done;
        }
        self.task = Task::Walk { asked: Some(core) };
        let verb = Verb::Scan(Scan { cursor, count: WALK_ITEMS, slot });
        let request = Request { key: &[], value: pattern, verb };
        ex.ask(Target::Core(CoreId(core)), &request, Shape::PagePart, &[]);
        if ex.order.is_empty() { Flow::Pause } else { Flow::Wait }
    }

    fn scan<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let Some(cursor) = cursor(arguments.at(1)) else { return self.fail(ex, "ERR invalid cursor") };
        let mut count = SCAN_ITEMS;
        let mut pattern: &[u8] = b"";
        // What can match nothing is answered with an empty page that ends the walk.
        let mut matchable = true;
        let mut only_empty = false;
        let mut i = 2;
        while i < arguments.len() {
            if i + 1 == arguments.len() {
                return self.fail(ex, SYNTAX);
            }
            let (option, value) = (arguments.at(i), arguments.at(i + 1));
            if is(option, "count") {
                match integer(value) {
                    None => return self.fail(ex, NOT_INTEGER),
                    Some(n) if n < 1 => return self.fail(ex, SYNTAX),
                    Some(n) => count = n.min(SCAN_ITEMS_MAX) as u32,
                }
            } else if is(option, "match") {
                only_empty = value.is_empty();
                pattern = if value == b"*" { b"" } else { value };
            } else if is(option, "type") {
                const TYPES: [&str; 5] = ["list", "set", "zset", "hash", "stream"];
                if !is(value, "string") && !TYPES.iter().any(|name| is(value, name)) {
                    let mut text = b"ERR unknown type name '".to_vec();
                    super::echo(&mut text, value, super::ECHO_BYTES_MAX);
                    text.push(b'\'');
                    return self.fail_bytes(ex, &text);
                }
                matchable &= is(value, "string");
            } else {
                return self.fail(ex, SYNTAX);
            }
            i += 2;
        }
        if !matchable {
            return ex.say(Shape::Raw, b"*2\r\n$1\r\n0\r\n*0\r\n");
        }
        if only_empty {
            return self.empty_key(ex, true);
        }
        let alone = self.options.only_core.is_some();
        let (core, cursor) = match self.options.only_core {
            Some(core) => (core.0, cursor),
            None => reply::split_cursor(ex.node, cursor),
        };
        let verb = Verb::Scan(Scan { cursor, count, slot: None });
        let request = Request { key: &[], value: pattern, verb };
        ex.ask(Target::Core(CoreId(core)), &request, Shape::Page { core, alone }, &[]);
    }

    /// The keys that an empty pattern matches: the empty one, if it is there. To the engine an empty pattern means all.
    fn empty_key<B: Backend>(&mut self, ex: &mut Ex<'_, B>, page: bool) {
        let owner = ex.node.map.owner(slot_of(b"").shard());
        let mine = self.options.only_core.is_none_or(|core| core == owner);
        let request = Request { key: &[], value: &[], verb: Verb::Look };
        match (mine, page) {
            (true, _) => ex.ask(Target::Owner, &request, Shape::EmptyKey { page }, &[]),
            (false, true) => ex.say(Shape::Raw, b"*2\r\n$1\r\n0\r\n*0\r\n"),
            (false, false) => ex.say(Shape::Raw, b"*0\r\n"),
        }
    }

    fn object<B: Backend>(&mut self, ex: &mut Ex<'_, B>, command: &Command, arguments: Arguments<'_>) {
        let (verb, shape) = match self.subcommand {
            "encoding" => (Verb::Peek, Shape::Encoding),
            "freq" => (Verb::Look, Shape::Frequency),
            "idletime" => (Verb::Look, Shape::IdleSeconds),
            "refcount" => (Verb::Look, Shape::References),
            _ => return self.help(ex, command),
        };
        if !self.keys_fit(ex, command, arguments) {
            return;
        }
        let request = Request { key: arguments.at(2), value: &[], verb };
        ex.ask(Target::Owner, &request, shape, &[]);
    }

    fn wait<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        match (integer(arguments.at(1)), integer(arguments.at(2))) {
            (None, _) => self.fail(ex, NOT_INTEGER),
            (_, None) => self.fail(ex, "ERR timeout is not an integer or out of range"),
            (_, Some(..0)) => self.fail(ex, "ERR timeout is negative"),
            (_, Some(millis)) if millis.checked_add_unsigned(ex.now.wall.0).is_none() => {
                self.fail(ex, "ERR timeout is out of range");
            }
            _ => ex.say(Shape::Raw, b":0\r\n"),
        }
    }

    fn one_key<'a, B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'a>,
    ) -> Result<(), Refusal<'a>> {
        let key = arguments.at(1);
        let now = ex.now;
        let put = |expiry, condition| {
            let expiry = ExpiryChange::Set(expiry);
            Verb::Put(Put { expiry, condition, ..Put::plain(Expiry::Never) })
        };
        let fetch = |expiry, remove| Verb::Fetch(Fetch { expiry, remove, lease: false, ..Fetch::PLAIN });
        let count = |by: i64| {
            Verb::Count(Count {
                by: Step::Signed(by),
                // What an absent counter becomes: 0 and the step.
                create: Some((by as u64, Expiry::Never)),
                condition: Condition::Always,
                expiry: ExpiryChange::Keep,
                version: None,
            })
        };
        let mut value: &[u8] = b"";
        let (verb, shape) = match command.id {
            Id::Get => (Verb::Get, Shape::Bulk),
            Id::Set => {
                value = arguments.at(2);
                let put = set_options(now, arguments)?;
                (Verb::Put(put), if put.previous { Shape::Previous } else { Shape::Ok })
            }
            Id::Setex | Id::Psetex => {
                value = arguments.at(3);
                let unit = if command.id == Id::Setex { Unit::Seconds } else { Unit::Millis };
                (put(lifetime(now, arguments.at(2), unit, false)?, Condition::Always), Shape::Ok)
            }
            Id::Setnx => {
                value = arguments.at(2);
                (put(Expiry::Never, Condition::Absent), Shape::Flag)
            }
            Id::Getset => {
                value = arguments.at(2);
                let put = Put { previous: true, ..Put::plain(Expiry::Never) };
                (Verb::Put(put), Shape::Previous)
            }
            Id::Getex => (fetch(getex_options(now, arguments)?, false), Shape::Bulk),
            Id::Getdel => (fetch(ExpiryChange::Keep, true), Shape::Bulk),
            Id::Ttl => (Verb::Look, Shape::Expiry { millis: false, absolute: false }),
            Id::Pttl => (Verb::Look, Shape::Expiry { millis: true, absolute: false }),
            Id::Expiretime => (Verb::Look, Shape::Expiry { millis: false, absolute: true }),
            Id::Pexpiretime => (Verb::Look, Shape::Expiry { millis: true, absolute: true }),
            Id::Expire | Id::Pexpire | Id::Expireat | Id::Pexpireat => {
                let only = expire_options(arguments)?;
                let unit = match command.id {
                    Id::Expire | Id::Expireat => Unit::Seconds,
                    _ => Unit::Millis,
                };
                let absolute = matches!(command.id, Id::Expireat | Id::Pexpireat);
                let time = integer(arguments.at(2)).ok_or(Refusal::Text(NOT_INTEGER))?;
                let expiry = moment(now, time, unit, absolute).ok_or(Refusal::ExpireTime)?;
                (Verb::Expire(Expire { expiry, only }), Shape::Flag)
            }
            Id::Persist => {
                let only = ExpireOnly::IfSome;
                (Verb::Expire(Expire { expiry: Expiry::Never, only }), Shape::Flag)
            }
            Id::Leaseget => (lease::get(now, arguments)?, Shape::Lease),
            Id::Leaseset => {
                value = arguments.at(3);
                (lease::put(now, arguments)?, Shape::Ok)
            }
            Id::Leasedel => (lease::remove(arguments)?, Shape::Flag),
            Id::Dump => (Verb::Peek, Shape::Dumped),
            Id::Type => (Verb::Look, Shape::Type),
            Id::Strlen => (Verb::Look, Shape::Length),
            Id::Incr => (count(1), Shape::Counted),
            Id::Decr => (count(-1), Shape::Counted),
            Id::Incrby => {
                let by = integer(arguments.at(2)).ok_or(Refusal::Text(NOT_INTEGER))?;
                (count(by), Shape::Counted)
            }
            Id::Decrby => {
                let by = integer(arguments.at(2)).ok_or(Refusal::Text(NOT_INTEGER))?;
                let by = by.checked_neg().ok_or(Refusal::Text("ERR decrement would overflow"))?;
                (count(by), Shape::Counted)
            }
            Id::Incrbyfloat => {
                value = arguments.at(2);
                (Verb::CountFloat, Shape::Bulk)
            }
            Id::Append => {
                value = arguments.at(2);
                let splice = Splice {
                    front: false,
                    create: Some(Expiry::Never),
                    flags: 0,
                    condition: Condition::Always,
                    version: None,
                    binary_key: false,
                };
                (Verb::Splice(splice), Shape::Length)
            }
            Id::Getrange | Id::Substr => {
                let start = integer(arguments.at(2)).ok_or(Refusal::Text(NOT_INTEGER))?;
                let end = integer(arguments.at(3)).ok_or(Refusal::Text(NOT_INTEGER))?;
                (Verb::Get, Shape::Range { start, end })
            }
            Id::Setrange => {
                value = arguments.at(3);
                let offset = integer(arguments.at(2)).ok_or(Refusal::Text(NOT_INTEGER))?;
                if offset < 0 {
                    return Err(Refusal::Text("ERR offset is out of range"));
                }
                let limit = self.options.value_bytes_max.min(u32::MAX as usize) as u64;
                match (offset as u64).saturating_add(value.len() as u64) {
                    // Nothing to write: Redis makes no item of it.
                    _ if value.is_empty() => (Verb::Look, Shape::Length),
                    end if end > limit => return Err(Refusal::Text(TOO_LONG)),
                    _ => (Verb::Overwrite { offset: offset as u32 }, Shape::Length),
                }
            }
            other => unreachable!("{other:?} is no command on one key"),
        };
        if command.flags & super::commands::WRITE != 0 {
            announce_own(ex, self.own(), key);
        }
        ex.ask(Target::Owner, &Request { key, value, verb }, shape, &[]);
        Ok(())
    }
}

/// Says ahead of a change whose it is, where that matters.
pub(super) fn announce_own<B: Backend>(ex: &mut Ex<'_, B>, own: Option<Observer>, key: &[u8]) {
    if let Some(observer) = own {
        let request = Request { key, value: &[], verb: Verb::Own(observer) };
        ex.ask(Target::Owner, &request, Shape::Ignored, &[]);
    }
}

/// Why a command is not done.
pub(super) enum Refusal<'a> {
    Text(&'static str),
    /// The error that names the command.
    ExpireTime,
    /// An option of `EXPIRE` that there is not.
    Option(&'a [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// The moment of a time that a client states; past ones are now. `None`: beyond what 64 bits of milliseconds hold.
fn moment(now: Now, time: i64, unit: Unit, absolute: bool) -> Option<Expiry> {
    let millis = if unit == Unit::Seconds { time.checked_mul(1000)? } else { time };
    let wall = if absolute { millis } else { millis.checked_add(now.wall.0 as i64)? };
    Some(Expiry::At(if absolute || millis <= 0 {
        now.deadline(Wall(wall.max(0) as u64))
    } else {
        now.mono.plus_millis(millis as u64)
    }))
}

/// As `moment`, for commands that store: only positive times.
pub(super) fn lifetime(
    now: Now,
    text: &[u8],
    unit: Unit,
    absolute: bool,
) -> Result<Expiry, Refusal<'static>> {
    let time = integer(text).ok_or(Refusal::Text(NOT_INTEGER))?;
    if time <= 0 {
        return Err(Refusal::ExpireTime);
    }
    moment(now, time, unit, absolute).ok_or(Refusal::ExpireTime)
}

/// The unit of an option that states a time, and whether it is absolute.
pub(super) fn time_option(word: &[u8]) -> Option<(Unit, bool)> {
    match () {
        () if is(word, "ex") => Some((Unit::Seconds, false)),
        () if is(word, "px") => Some((Unit::Millis, false)),
        () if is(word, "exat") => Some((Unit::Seconds, true)),
        () if is(word, "pxat") => Some((Unit::Millis, true)),
        () => None,
    }
}

fn set_options(now: Now, arguments: Arguments<'_>) -> Result<Put, Refusal<'static>> {
    let mut put = Put::plain(Expiry::Never);
    let mut time: Option<((Unit, bool), usize)> = None;
    let mut i = 3;
    while i < arguments.len() {
        let word = arguments.at(i);
        let (condition, expiry) = (put.condition == Condition::Always, put.expiry != ExpiryChange::Keep);
        // The same option may come again, and the last one counts.
        let again = |option: (Unit, bool)| time.is_none_or(|(before, _)| before == option);
        if is(word, "nx") && put.condition != Condition::Present {
            put.condition = Condition::Absent;
        } else if is(word, "xx") && (condition || put.condition == Condition::Present) {
            put.condition = Condition::Present;
        } else if is(word, "get") {
            put.previous = true;
        } else if is(word, "keepttl") && time.is_none() {
            put.expiry = ExpiryChange::Keep;
        } else if let Some(option) = time_option(word)
            && i + 1 < arguments.len()
            && expiry
            && again(option)
        {
            time = Some((option, i + 1));
            i += 1;
        } else {
            return Err(Refusal::Text(SYNTAX));
        }
        i += 1;
    }
    if let Some(((unit, absolute), i)) = time {
        put.expiry = ExpiryChange::Set(lifetime(now, arguments.at(i), unit, absolute)?);
    }
    Ok(put)
}

fn getex_options(now: Now, arguments: Arguments<'_>) -> Result<ExpiryChange, Refusal<'static>> {
    let mut persist = false;
    let mut time: Option<((Unit, bool), usize)> = None;
    let mut i = 2;
    while i < arguments.len() {
        match time_option(arguments.at(i)) {
            None if is(arguments.at(i), "persist") && time.is_none() => persist = true,
            // The same option may come again, and the last one counts.
            Some(option)
                if i + 1 < arguments.len() && !persist && time.is_none_or(|(before, _)| before == option) =>
            {
                i += 1;
                time = Some((option, i));
            }
            _ => return Err(Refusal::Text(SYNTAX)),
        }
        i += 1;
    }
    match time {
        Some(((unit, absolute), i)) => Ok(ExpiryChange::Set(lifetime(now, arguments.at(i), unit, absolute)?)),
        None if persist => Ok(ExpiryChange::Set(Expiry::Never)),
        None => Ok(ExpiryChange::Keep),
    }
}

/// A cursor as clients write it, who may take it for any number of C's: white space, a sign and zeros are allowed in front.
fn cursor(text: &[u8]) -> Option<u64> {
    if let Some(number) = integer(text) {
        return u64::try_from(number).ok();
    }
    let text = &text[text.iter().position(|byte| !is_space(*byte))?..];
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let number = match &digits[zeros..] {
        [] if zeros > 0 => 0,
        digits => unsigned(digits)?,
    };
    Some(if negative { number.wrapping_neg() } else { number })
}

fn expire_options(arguments: Arguments<'_>) -> Result<ExpireOnly, Refusal<'_>> {
    let [mut nx, mut xx, mut gt, mut lt] = [false; 4];
    for word in arguments.from(3) {
        match () {
            () if is(word, "nx") => nx = true,
            () if is(word, "xx") => xx = true,
            () if is(word, "gt") => gt = true,
            () if is(word, "lt") => lt = true,
            () => return Err(Refusal::Option(word)),
        }
    }
    match (nx, xx, gt, lt) {
        (true, true, ..) | (true, _, true, _) | (true, _, _, true) => {
            Err(Refusal::Text("ERR NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => Err(Refusal::Text("ERR GT and LT options at the same time are not compatible")),
        (true, ..) => Ok(ExpireOnly::IfNone),
        (_, true, true, _) => Ok(ExpireOnly::IfSomeAndLater),
        (_, true, _, true) => Ok(ExpireOnly::IfSomeAndEarlier),
        (_, true, ..) => Ok(ExpireOnly::IfSome),
        (_, _, true, _) => Ok(ExpireOnly::IfLater),
        (_, _, _, true) => Ok(ExpireOnly::IfEarlier),
        _ => Ok(ExpireOnly::Any),
    }
}
