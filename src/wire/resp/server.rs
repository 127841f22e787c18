//! Commands about the server: its commands, settings, counters and logs.

use super::commands::{self, COMMANDS, Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, NOT_INTEGER, SYNTAX, Shape};
use super::{Backend, Ex, Flow, Talk, is};
use crate::glob;
use crate::request::{Named, Request, Verb};
use crate::wire::Target;

/// Names in one `INVALIDATE`: each is asked of every core at once.
const NAMES_MAX: usize = 256;

impl Talk {
    pub(super) fn server_command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> Flow {
        match command.id {
            Id::Dbsize => {
                self.ask_all(ex, Verb::Size, Shape::SumPart);
                ex.say(Shape::SumEnd, &[]);
            }
            Id::Flushall | Id::Flushdb => {
                let plain = arguments.len() == 1
                    || (arguments.len() == 2
                        && (is(arguments.at(1), "async") || is(arguments.at(1), "sync")));
                if plain {
                    self.ask_all(ex, Verb::Flush { at: ex.now.mono }, Shape::SumPart);
                    ex.say(Shape::OkEnd, &[]);
                } else {
                    self.fail(ex, SYNTAX);
                }
            }
            Id::Invalidate => self.invalidate(ex, arguments),
            Id::Info => {
                let mut sections = Vec::new();
                for name in arguments.from(1) {
                    sections.extend(name.iter().map(u8::to_ascii_lowercase));
                    sections.push(b' ');
                }
                self.ask_all(ex, Verb::Counters, Shape::CountersPart);
                ex.say(Shape::InfoEnd, &sections);
            }
            Id::Time => {
                let millis = ex.now.wall.0;
                self.say(ex, |_, out| {
                    reply::header(out, b'*', 2);
                    reply::bulk(out, itoa::Buffer::new().format(millis / 1000).as_bytes());
                    reply::bulk(out, itoa::Buffer::new().format(millis % 1000 * 1000).as_bytes());
                });
            }
            Id::Role => ex.say(Shape::Raw, b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
            Id::Memory => self.memory(ex, command, arguments),
            Id::Command => self.command(ex, command, arguments),
            Id::Config => self.config(ex, command, arguments),
            Id::Monitor => self.monitor(ex),
            Id::Slowlog => self.slowlog(ex, command, arguments),
            Id::Latency => self.latency(ex, command, arguments),
            Id::Acl => self.acl(ex, command, arguments),
            Id::Function => self.function(ex, command, arguments),
            other => unreachable!("{other:?} is about something else"),
        }
        Flow::Done
    }

    /// `INVALIDATE KEY | PREFIX | TAG name [name ...]`: how many items were forgotten at once; what a prefix names is
    /// forgotten at once, too, and not counted.
    fn invalidate<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let kind = arguments.at(1);
        let named = match kind {
            _ if is(kind, "key") => Named::Key,
            _ if is(kind, "prefix") => Named::Prefix,
            _ if is(kind, "tag") => Named::Tag,
            _ => return self.fail(ex, SYNTAX),
        };
        if arguments.len() - 2 > NAMES_MAX {
            return self.fail(ex, "ERR too many names in one INVALIDATE");
        }
        for name in arguments.from(2) {
            let request = Request { key: name, value: &[], verb: Verb::Invalidate(named) };
            if named == Named::Key {
                // What no item can be called is not there.
                if name.len() > self.options.key_bytes_max {
                    continue;
                }
                ex.ask(Target::Owner, &request, Shape::SumPart, &[]);
                continue;
            }
            // Whatever core a session speaks of: what is out of date is so everywhere.
            for core in 0..ex.node.core_count() {
                ex.ask(Target::Core(crate::ids::CoreId(core)), &request, Shape::SumPart, &[]);
            }
        }
        ex.say(Shape::SumEnd, &[]);
    }

    fn monitor<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let Some(observer) = ex.backend.observer() else {
            return self.fail(ex, "ERR MONITOR is not supported here");
        };
        if self.monitors {
            return self.ok(ex);
        }
        self.monitors = true;
        for core in 0..ex.node.core_count() {
            let request = Request { key: &[], value: &[], verb: Verb::Monitor { observer, on: true } };
            ex.ask(Target::Core(crate::ids::CoreId(core)), &request, Shape::SumPart, &[]);
        }
        ex.say(Shape::OkEnd, &[]);
    }

    pub(super) fn stop_monitoring<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        if let (true, Some(observer)) = (self.monitors, ex.backend.observer()) {
            self.monitors = false;
            for core in 0..ex.node.core_count() {
                let request = Request { key: &[], value: &[], verb: Verb::Monitor { observer, on: false } };
                ex.ask(Target::Core(crate::ids::CoreId(core)), &request, Shape::Ignored, &[]);
            }
        }
    }

    fn memory<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        match self.subcommand {
            "usage" => {
                match arguments.len() {
                    3 => {}
                    5 if is(arguments.at(3), "samples") => match integer(arguments.at(4)) {
                        None => return self.fail(ex, NOT_INTEGER),
                        Some(..0) => return self.fail(ex, SYNTAX),
                        Some(_) => {}
                    },
                    _ => return self.fail(ex, SYNTAX),
                }
                if self.keys_fit(ex, command, arguments) {
                    let key = arguments.at(2);
                    let request = Request { key, value: &[], verb: Verb::Look };
                    ex.ask(Target::Owner, &request, Shape::Usage, key);
                }
            }
            "stats" => {
                self.ask_all(ex, Verb::Counters, Shape::CountersPart);
                ex.say(Shape::MemoryEnd, &[]);
            }
            "doctor" => self.say(ex, |protocol, out| {
                reply::verbatim(
                    out,
                    protocol,
                    b"Memory is bounded and full of items, as a cache's should be.\n",
                );
            }),
            "purge" => self.ok(ex),
            _ => self.help(ex, command),
        }
    }

    fn command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        match self.subcommand {
            "" => self.say(ex, |protocol, out| {
                reply::header(out, b'*', COMMANDS.len());
                COMMANDS.iter().for_each(|command| row(out, protocol, command));
            }),
            "count" => self.say(ex, |_, out| reply::number(out, COMMANDS.len() as i64)),
            "info" => self.say(ex, |protocol, out| {
                if arguments.len() == 2 {
                    reply::header(out, b'*', COMMANDS.len());
                    return COMMANDS.iter().for_each(|command| row(out, protocol, command));
                }
                reply::header(out, b'*', arguments.len() - 2);
                for name in arguments.from(2) {
                    match commands::lookup(name) {
                        Some(command) => row(out, protocol, command),
                        None => reply::null(out, protocol),
                    }
                }
            }),
            "docs" => self.say(ex, |protocol, out| {
                let named: Vec<&Command> = match arguments.len() {
                    2 => COMMANDS.iter().collect(),
                    _ => arguments.from(2).filter_map(commands::lookup).collect(),
                };
                reply::map(out, protocol, named.len());
                for command in named {
                    reply::bulk(out, command.name.as_bytes());
                    document(out, protocol, command);
                }
            }),
            "list" => self.command_list(ex, arguments),
            "getkeys" => {
                let Some(other) = commands::lookup(arguments.at(2)) else {
                    return self.fail(ex, "ERR Invalid command specified");
                };
                let count = arguments.len() - 2;
                let sub = (count > 1).then(|| other.subcommand(arguments.at(3))).flatten();
                let arity = sub.map_or(other.arity, |sub| sub.arity);
                let (first, last) = match sub {
                    Some(sub) => (usize::from(sub.key), usize::from(sub.key)),
                    None => other.key_places(count),
                };
                if first == 0 {
                    return self.fail(ex, "ERR The command has no key arguments");
                }
                if !commands::arity_fits(arity, count) {
                    return self.fail(ex, "ERR Invalid number of arguments specified for command");
                }
                let places = || (first..=last).step_by(usize::from(other.key_step.max(1)));
                self.say(ex, |_, out| {
                    reply::header(out, b'*', places().count());
                    places().for_each(|i| reply::bulk(out, arguments.at(i + 2)));
                });
            }
            _ => self.help(ex, command),
        }
    }

    fn command_list<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let filtered: Vec<&Command> = match arguments.len() {
            2 => COMMANDS.iter().collect(),
            5 if is(arguments.at(2), "filterby") => {
                let (kind, wanted) = (arguments.at(3), arguments.at(4));
                if is(kind, "pattern") {
                    COMMANDS.iter().filter(|command| matches(wanted, command.name)).collect()
                } else if is(kind, "aclcat") {
                    COMMANDS.iter().filter(|command| in_category(command, wanted)).collect()
                } else if is(kind, "module") {
                    Vec::new()
                } else {
                    return self.fail(ex, SYNTAX);
                }
            }
            _ => return self.fail(ex, SYNTAX),
        };
        self.say(ex, |_, out| {
            reply::header(out, b'*', filtered.len());
            filtered.iter().for_each(|command| reply::bulk(out, command.name.as_bytes()));
        });
    }

    fn function<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        match self.subcommand {
            "flush" if arguments.len() == 2 => self.ok(ex),
            "flush"
                if arguments.len() == 3 && (is(arguments.at(2), "sync") || is(arguments.at(2), "async")) =>
            {
                self.ok(ex);
            }
            "flush" if arguments.len() > 3 => self.fail_subcommand(ex, command, arguments),
            "flush" => self.fail(ex, "ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
            "list" => self.function_list(ex, arguments),
            _ => self.help(ex, command),
        }
    }
}

impl Talk {
    /// `FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]`: there are none.
    fn function_list<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let (mut named, mut with_code) = (false, false);
        let mut i = 2;
        while i < arguments.len() {
            let word = arguments.at(i);
            if !with_code && is(word, "withcode") {
                with_code = true;
            } else if !named && is(word, "libraryname") {
                if i + 1 == arguments.len() {
                    return self.fail(ex, "ERR library name argument was not given");
                }
                (named, i) = (true, i + 1);
            } else {
                let mut text = b"ERR Unknown argument ".to_vec();
                super::echo(&mut text, word, super::ECHO_BYTES_MAX);
                return self.fail_bytes(ex, &text);
            }
            i += 1;
        }
        ex.say(Shape::Raw, b"*0\r\n");
    }

    /// Refuses a subcommand that has more arguments than it takes.
    pub(super) fn fail_subcommand<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
    ) {
        let mut text = b"ERR unknown subcommand or wrong number of arguments for '".to_vec();
        super::echo(&mut text, arguments.at(1), super::ECHO_BYTES_MAX);
        text.extend_from_slice(b"'. Try ");
        text.extend(command.name.bytes().map(|byte| byte.to_ascii_uppercase()));
        text.extend_from_slice(b" HELP.");
        self.fail_bytes(ex, &text);
    }
}

pub(super) fn in_category(command: &'static Command, wanted: &[u8]) -> bool {
    commands::categories(command, None).any(|name| is(wanted, name))
}

/// Whether a short name of ours, in lower case, matches a pattern in any case.
pub(super) fn matches(pattern: &[u8], name: &str) -> bool {
    const STEPS_MAX: u64 = 1 << 16;
    glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes(), STEPS_MAX, &mut 0)
}

/// A row of `COMMAND INFO`.
fn row(out: &mut Vec<u8>, protocol: u8, command: &'static Command) {
    let categories: Vec<&str> = commands::categories(command, None).collect();
    let keys = (command.first_key, command.last_key, command.key_step);
    fact(out, protocol, command.name, command.arity, command.flags, &categories, keys);
    reply::header(out, b'*', command.subcommands.len());
    for sub in command.subcommands {
        let name = [command.name, "|", sub.name].concat();
        let keys = (sub.key, sub.key as i8, u8::from(sub.key > 0));
        let categories: Vec<&str> = commands::categories(command, Some(sub)).collect();
        fact(out, protocol, &name, sub.arity, sub.flags, &categories, keys);
        reply::header(out, b'*', 0);
    }
}

/// The first nine of the ten elements of a row.
fn fact(
    out: &mut Vec<u8>,
    protocol: u8,
    name: &str,
    arity: i8,
    flags: u16,
    categories: &[&str],
    (first, last, step): (u8, i8, u8),
) {
    reply::header(out, b'*', 10);
    reply::bulk(out, name.as_bytes());
    reply::number(out, i64::from(arity));
    reply::set(out, protocol, commands::flag_names(flags).count());
    commands::flag_names(flags).for_each(|flag| reply::simple(out, flag));
    for number in [i64::from(first), i64::from(last), i64::from(step)] {
        reply::number(out, number);
    }
    reply::set(out, protocol, categories.len());
    categories.iter().for_each(|name| reply::simple(out, &["@", name].concat()));
    reply::header(out, b'*', 0);
    if first == 0 {
        return reply::header(out, b'*', 0);
    }
    // One specification: keys from `first` on, to the end if `last` counts from there.
    let number_field = |out: &mut Vec<u8>, name: &str, number: i64| {
        reply::bulk(out, name.as_bytes());
        reply::number(out, number);
    };
    reply::header(out, b'*', 1);
    reply::map(out, protocol, 3);
    reply::bulk(out, b"flags");
    reply::set(out, protocol, 1);
    reply::simple(out, if flags & commands::WRITE != 0 { "RW" } else { "RO" });
    reply::bulk(out, b"begin_search");
    reply::map(out, protocol, 2);
    reply::bulk(out, b"type");
    reply::bulk(out, b"index");
    reply::bulk(out, b"spec");
    reply::map(out, protocol, 1);
    number_field(out, "index", i64::from(first));
    reply::bulk(out, b"find_keys");
    reply::map(out, protocol, 2);
    reply::bulk(out, b"type");
    reply::bulk(out, b"range");
    reply::bulk(out, b"spec");
    reply::map(out, protocol, 3);
    number_field(out, "lastkey", if last < 0 { i64::from(last) } else { 0 });
    number_field(out, "keystep", i64::from(step));
    number_field(out, "limit", 0);
}

/// What `COMMAND DOCS` says of a command.
fn document(out: &mut Vec<u8>, protocol: u8, command: &Command) {
    reply::map(out, protocol, if command.subcommands.is_empty() { 3 } else { 4 });
    let facts = [("summary", command.summary), ("since", command.since), ("group", command.group.name())];
    for (name, value) in facts {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    if command.subcommands.is_empty() {
        return;
    }
    reply::bulk(out, b"subcommands");
    reply::map(out, protocol, command.subcommands.len());
    for sub in command.subcommands {
        reply::bulk(out, [command.name, "|", sub.name].concat().as_bytes());
        reply::map(out, protocol, 3);
        for (name, value) in
            [("summary", sub.summary), ("since", command.since), ("group", command.group.name())]
        {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
    }
}
