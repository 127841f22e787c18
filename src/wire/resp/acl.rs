//! `ACL`: users as [`crate::wire::users`] has them. A change is told to every core, and each to its sessions.

use super::commands::{self, COMMANDS, Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, NOT_INTEGER, Shape};
use super::server::in_category;
use super::{Backend, ECHO_BYTES_MAX, Ex, Reason, Talk, echo, is};
use crate::clock::Now;
use crate::ids::CoreId;
use crate::request::{Journal as Part, Request, Verb};
use crate::wire::Target;
use crate::wire::denials::{self, Denial, Ground};
use crate::wire::users::{DEFAULT, Denied, RULES_BYTES_MAX, Selector, UNMATCHED, USERS_MAX};

const NO_FILE: &str = "ERR This instance is not configured to use an ACL file. You may want to specify users via the ACL \
                       SETUSER command and then issue a CONFIG REWRITE (assuming you have a configuration file set) in \
                       order to store users in the configuration.";

const PROTECTED: &str = "ERR protected mode: other machines reach this server, and anybody there could come in. Start it with \
                         --protected-mode no, where something else keeps strangers out";
/// Bits of a password that `ACL GENPASS` makes, unless told otherwise, and at most.
const PASSWORD_BITS: i64 = 256;
const PASSWORD_BITS_MAX: i64 = 4096;
/// Entries that `ACL LOG` shows unless told otherwise.
const DENIALS_SHOWN: u32 = 10;

/// Appends why a command is not for a user. `argument`: what it names, where that may be told.
pub(super) fn describe(
    denied: Denied,
    user: &[u8],
    command: &Command,
    subcommand: &str,
    argument: Option<&dyn Fn(usize) -> Vec<u8>>,
    text: &mut Vec<u8>,
) {
    match (denied, argument) {
        (Denied::Command, _) => {
            text.extend_from_slice(b"User ");
            echo(text, user, ECHO_BYTES_MAX);
            let separator = if subcommand.is_empty() { "" } else { "|" };
            let words =
                [" has no permissions to run the '", command.name, separator, subcommand, "' command"];
            text.extend_from_slice(words.concat().as_bytes());
        }
        (Denied::Key(_), None) => text.extend_from_slice(b"No permissions to access a key"),
        (Denied::Channel(_), None) => text.extend_from_slice(b"No permissions to access a channel"),
        (Denied::Key(at) | Denied::Channel(at), Some(argument)) => {
            text.extend_from_slice(b"User ");
            echo(text, user, ECHO_BYTES_MAX);
            text.extend_from_slice(b" has no permissions to access the '");
            echo(text, &argument(at), ECHO_BYTES_MAX);
            let kind: &[u8] = if matches!(denied, Denied::Key(_)) { b"' key" } else { b"' channel" };
            text.extend_from_slice(kind);
        }
    }
}

/// What `ACL GETUSER` tells of a selector.
fn selector_fields(selector: &Selector, out: &mut Vec<u8>) {
    reply::bulk(out, b"commands");
    reply::bulk(out, selector.command_rules().as_bytes());
    reply::bulk(out, b"keys");
    reply::bulk(out, &selector.key_rules());
    reply::bulk(out, b"channels");
    reply::bulk(out, &selector.channel_rules());
}

/// `ACL LOG` of what all cores remember.
pub(super) fn write_denials(now: Now, gathered: &[u8], most: usize, protocol: u8, out: &mut Vec<u8>) {
    let mut entries = denials::merged(gathered);
    entries.truncate(most);
    reply::header(out, b'*', entries.len());
    for entry in entries {
        reply::map(out, protocol, 10);
        reply::bulk(out, b"count");
        reply::number(out, entry.count as i64);
        let age_seconds = now.wall.0.saturating_sub(entry.updated) as f64 / 1000.0;
        for (name, text) in [
            ("reason", entry.reason.as_bytes()),
            ("context", entry.context.as_bytes()),
            ("object", &entry.object),
            ("username", &entry.user),
        ] {
            reply::bulk(out, name.as_bytes());
            reply::bulk(out, text);
        }
        reply::bulk(out, b"age-seconds");
        reply::double(out, protocol, age_seconds);
        reply::bulk(out, b"client-info");
        reply::bulk(out, &entry.client);
        for (name, number) in [
            ("entry-id", entry.number),
            ("timestamp-created", entry.created),
            ("timestamp-last-updated", entry.updated),
        ] {
            reply::bulk(out, name.as_bytes());
            reply::number(out, number as i64);
        }
    }
}

impl Talk {
    pub(super) fn acl<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        match self.subcommand {
            "whoami" => {
                let name = self.badge.user().map_or(&b""[..], |user| user.name()).to_vec();
                self.say(ex, |_, out| reply::bulk(out, &name));
            }
            "users" => {
                let names: Vec<Vec<u8>> =
                    self.badge.users().iter().map(|user| user.name().to_vec()).collect();
                self.say_all(ex, &names);
            }
            "list" => {
                let line = |name: &[u8], rules: &[u8]| [b"user ", name, b" ", rules].concat();
                let lines: Vec<Vec<u8>> =
                    self.badge.users().iter().map(|user| line(user.name(), &user.rules())).collect();
                self.say_all(ex, &lines);
            }
            "getuser" => self.acl_getuser(ex, arguments.at(2)),
            "setuser" => self.acl_setuser(ex, arguments),
            "deluser" => self.acl_deluser(ex, arguments),
            "dryrun" => self.acl_dryrun(ex, arguments),
            "genpass" => self.acl_genpass(ex, arguments),
            "load" | "save" => self.fail(ex, NO_FILE),
            "log" => self.acl_log(ex, arguments),
            "cat" => self.acl_cat(ex, arguments),
            _ => self.help(ex, command),
        }
    }

    fn say_all<B: Backend>(&mut self, ex: &mut Ex<'_, B>, texts: &[Vec<u8>]) {
        self.say(ex, |_, out| {
            reply::header(out, b'*', texts.len());
            texts.iter().for_each(|text| reply::bulk(out, text));
        });
    }

    fn acl_getuser<B: Backend>(&mut self, ex: &mut Ex<'_, B>, name: &[u8]) {
        let Some(user) = self.badge.users().find(name).cloned() else {
            return self.say(ex, |protocol, out| reply::null(out, protocol));
        };
        self.say(ex, |protocol, out| {
            reply::map(out, protocol, 6);
            reply::bulk(out, b"flags");
            reply::set(out, protocol, user.flags().count());
            user.flags().for_each(|flag| reply::bulk(out, flag.as_bytes()));
            reply::bulk(out, b"passwords");
            let hashes = user.password_hashes();
            reply::header(out, b'*', hashes.len());
            hashes.iter().for_each(|hash| reply::bulk(out, hash.as_bytes()));
            selector_fields(user.root(), out);
            reply::bulk(out, b"selectors");
            reply::header(out, b'*', user.selectors().len());
            for selector in user.selectors() {
                reply::map(out, protocol, 3);
                selector_fields(selector, out);
            }
        });
    }

    fn acl_setuser<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let name = arguments.at(2);
        if name.iter().any(|byte| *byte == b' ' || *byte == 0) {
            return self.fail(ex, "ERR Usernames can't contain spaces or null characters");
        }
        let users = self.badge.users();
        if users.find(name).is_none() && users.count() >= USERS_MAX {
            return self.fail(ex, "ERR there are too many users");
        }
        match users.changed(name, arguments.from(3)) {
            Ok(user) if self.options.guarded && name == DEFAULT && user.is_open() => {
                return self.fail(ex, PROTECTED);
            }
            Ok(user) => {
                let rules = user.rules();
                if rules.len() + name.len() > RULES_BYTES_MAX {
                    return self.fail(ex, "ERR the rules of this user are too long");
                }
                self.tell_cores(ex, name, &[b"reset ", &rules[..]].concat());
                self.badge.change(|users| users.put(user));
            }
            Err((start, UNMATCHED)) => {
                let mut text = format!("ERR {UNMATCHED} starting at '").into_bytes();
                echo(&mut text, &start, ECHO_BYTES_MAX);
                text.extend_from_slice(b"'.");
                return self.fail_bytes(ex, &text);
            }
            Err((rule, why)) => {
                let mut text = b"ERR Error in ACL SETUSER modifier '".to_vec();
                echo(&mut text, &rule, ECHO_BYTES_MAX);
                text.extend_from_slice(b"': ");
                text.extend_from_slice(why.as_bytes());
                return self.fail_bytes(ex, &text);
            }
        }
        ex.say(Shape::OkEnd, &[]);
    }

    fn acl_deluser<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        if arguments.from(2).any(|name| name == DEFAULT) {
            return self.fail(ex, "ERR The 'default' user cannot be removed");
        }
        let mut names: Vec<&[u8]> =
            arguments.from(2).filter(|name| self.badge.users().find(name).is_some()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| self.tell_cores(ex, name, b""));
        let count = names.len() as i64;
        self.badge.change(|users| names.iter().for_each(|name| users.remove(name)));
        if self.badge.user().is_none() {
            // Who removes himself is told, and goes.
            self.closing = Some(Reason::Quit);
        }
        self.say(ex, |_, out| reply::number(out, count));
    }

    /// Has every core follow the rules of a user, or forget it.
    fn tell_cores<B: Backend>(&mut self, ex: &mut Ex<'_, B>, name: &[u8], rules: &[u8]) {
        for core in 0..ex.node.core_count() {
            let request = Request { key: name, value: rules, verb: Verb::SetUser };
            ex.ask(Target::Core(CoreId(core)), &request, Shape::SumPart, &[]);
        }
    }

    fn acl_dryrun<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let mut text = Vec::new();
        let Some(user) = self.badge.users().find(arguments.at(2)).cloned() else {
            text.extend_from_slice(b"ERR User '");
            echo(&mut text, arguments.at(2), ECHO_BYTES_MAX);
            text.extend_from_slice(b"' not found");
            return self.fail_bytes(ex, &text);
        };
        let Some(command) = commands::lookup(arguments.at(3)) else {
            text.extend_from_slice(b"ERR Command '");
            echo(&mut text, arguments.at(3), ECHO_BYTES_MAX);
            text.extend_from_slice(b"' not found");
            return self.fail_bytes(ex, &text);
        };
        let count = arguments.len() - 3;
        let sub = (count > 1).then(|| command.subcommand(arguments.at(4))).flatten();
        let arity = sub.map_or(command.arity, |sub| sub.arity);
        if !commands::arity_fits(arity, count) {
            return self.fail_parts(ex, &["ERR wrong number of arguments for '", command.name, "' command"]);
        }
        let sub = sub.map_or("", |sub| sub.name);
        match user.may(command, sub, count, |at| arguments.at(3 + at)) {
            Ok(()) => self.ok(ex),
            Err(denied) => {
                let argument = |at: usize| arguments.at(3 + at).to_vec();
                describe(denied, user.name(), command, sub, Some(&argument), &mut text);
                self.say(ex, |_, out| reply::bulk(out, &text));
            }
        }
    }

    /// `ACL LOG [count | RESET]`.
    fn acl_log<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        let most = match arguments.len() {
            2 => DENIALS_SHOWN,
            3 if is(arguments.at(2), "reset") => {
                self.ask_all(ex, Verb::Journal(Part::DenialsReset), Shape::SumPart);
                return ex.say(Shape::OkEnd, &[]);
            }
            3 => match integer(arguments.at(2)) {
                Some(count) => u32::try_from(count.max(0)).unwrap_or(u32::MAX),
                None => return self.fail(ex, NOT_INTEGER),
            },
            _ => return self.fail_subcommand(ex, Id::Acl.command(), arguments),
        };
        self.ask_all(ex, Verb::Journal(Part::Denials), Shape::PagePart);
        ex.say(Shape::DenialsEnd { most }, &[]);
    }

    /// Writes down that a command is not for a user.
    pub(super) fn note_denied<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        denied: Denied,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        let separator = if self.subcommand.is_empty() { "" } else { "|" };
        let full_name = [command.name, separator, self.subcommand].concat();
        let (ground, object) = match denied {
            Denied::Command => (Ground::Command, full_name.as_bytes()),
            Denied::Key(at) => (Ground::Key, arguments.at(at)),
            Denied::Channel(at) => (Ground::Channel, arguments.at(at)),
        };
        let user = self.badge.user().map_or(Vec::new(), |user| user.name().to_vec());
        // It is the last command of its connection, if only for this line.
        let before = self.command.replace(command);
        self.note(ex, ground, object, &user);
        self.command = before;
    }

    /// Writes down that somebody did not come in; `word` is the command that tried.
    pub(super) fn note_login<B: Backend>(&mut self, ex: &mut Ex<'_, B>, word: &[u8], user: &[u8]) {
        self.note(ex, Ground::Login, word, user);
    }

    fn note<B: Backend>(&mut self, ex: &mut Ex<'_, B>, ground: Ground, object: &[u8], user: &[u8]) {
        let mut line = Vec::new();
        self.describe(ex.now, ex.order.held_bytes(), &mut line);
        line.pop();
        let queued = self.executing || self.queues();
        ex.backend.denied(&Denial { ground, queued, object, user, client: &line });
    }

    fn acl_genpass<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        if arguments.len() > 3 {
            return self.fail_subcommand(ex, Id::Acl.command(), arguments);
        }
        let bits = match arguments.from(2).next().map(integer) {
            None => PASSWORD_BITS,
            Some(None) => return self.fail(ex, NOT_INTEGER),
            Some(Some(bits @ 1..=PASSWORD_BITS_MAX)) => bits,
            Some(Some(_)) => {
                return self.fail(
                    ex,
                    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
                     4096",
                );
            }
        };
        let mut bytes = [0; PASSWORD_BITS_MAX as usize / 8];
        let digits = (bits as usize).div_ceil(4);
        if !ex.backend.dice(&mut bytes[..digits.div_ceil(2)]) {
            return self.fail(ex, "ERR there are no random bytes to be had");
        }
        let text: String = bytes[..digits.div_ceil(2)].iter().map(|byte| format!("{byte:02x}")).collect();
        self.say(ex, |_, out| reply::bulk(out, &text.as_bytes()[..digits]));
    }

    fn acl_cat<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        if arguments.len() > 3 {
            return self.fail_subcommand(ex, Id::Acl.command(), arguments);
        }
        if arguments.len() == 2 {
            return self.say(ex, |_, out| {
                reply::header(out, b'*', commands::CATEGORIES.len());
                commands::CATEGORIES.iter().for_each(|name| reply::bulk(out, name.as_bytes()));
            });
        }
        let wanted = arguments.at(2);
        if !commands::CATEGORIES.iter().any(|name| is(wanted, name)) {
            let mut text = b"ERR Unknown category '".to_vec();
            echo(&mut text, wanted, ECHO_BYTES_MAX);
            text.push(b'\'');
            return self.fail_bytes(ex, &text);
        }
        let chosen = || COMMANDS.iter().filter(|command| in_category(command, wanted));
        self.say(ex, |_, out| {
            reply::header(out, b'*', chosen().count());
            chosen().for_each(|command| reply::bulk(out, command.name.as_bytes()));
        });
    }
}
