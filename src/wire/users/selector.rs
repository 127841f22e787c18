//! What one list of rules allows: commands, and the keys and channels that they may name.

use super::{Denied, RuleError, SYNTAX};
use crate::glob;
use crate::wire::resp::commands::{self, COMMANDS, Command, Id};

/// Steps that comparing a key with a pattern may take.
const GLOB_STEPS_MAX: u64 = 1 << 20;
const WORDS: usize = commands::PLACE_COUNT.div_ceil(64);
const UNKNOWN: RuleError = "Unknown command or category name in ACL";

/// Commands, and the keys and channels that they may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// A bit for each command and subcommand, by [`commands::place`].
    commands: [u64; WORDS],
    /// Commands that are allowed with one of these words behind their name only.
    first_words: Vec<(Id, Vec<u8>)>,
    /// How they came to be: the first is `+@all` or `-@all`.
    command_rules: Vec<String>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    access: Access,
    pattern: Vec<u8>,
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its value is read.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

impl Selector {
    /// One that allows nothing yet.
    pub(super) fn new() -> Selector {
        Selector {
            commands: [0; WORDS],
            first_words: Vec::new(),
            command_rules: vec!["-@all".to_owned()],
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn allows_all(&self) -> bool {
        self.all_keys && self.all_channels && self.commands == [u64::MAX; WORDS]
    }

    pub(super) fn follow(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        let lower = rule.to_ascii_lowercase();
        let word = if rule.iter().all(u8::is_ascii_alphabetic) { &lower[..] } else { rule };
        match word {
            b"allkeys" => self.follow(b"~*")?,
            b"allchannels" => self.follow(b"&*")?,
            b"allcommands" => self.follow(b"+@all")?,
            b"nocommands" => self.follow(b"-@all")?,
            b"resetkeys" => (self.all_keys, self.keys) = (false, Vec::new()),
            b"resetchannels" => (self.all_channels, self.channels) = (false, Vec::new()),
            // There is one database.
            b"alldbs" | b"resetdbs" => {}
            [b'~', pattern @ ..] => self.add_keys(Access { read: true, write: true }, pattern)?,
            [b'%', rest @ ..] => {
                let place = memchr::memchr(b'~', rest).ok_or(SYNTAX)?;
                let letters = &rest[..place];
                let has = |letter: u8| letters.iter().any(|given| given.eq_ignore_ascii_case(&letter));
                let access = Access { read: has(b'R'), write: has(b'W') };
                let known = letters.iter().all(|letter| matches!(letter.to_ascii_uppercase(), b'R' | b'W'));
                if letters.is_empty() || !known {
                    return Err(SYNTAX);
                }
                self.add_keys(access, &rest[place + 1..])?;
            }
            [b'&', b'*'] => (self.all_channels, self.channels) = (true, Vec::new()),
            [b'&', pattern @ ..] if self.all_channels && !pattern.is_empty() => {
                return Err(
                    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
                     effect. Try 'resetchannels' to start with an empty list of channels",
                );
            }
            [b'&', pattern @ ..] => {
                if !self.channels.iter().any(|known| known == pattern) {
                    self.channels.push(pattern.to_vec());
                }
            }
            [sign @ (b'+' | b'-'), target @ ..] => self.change_commands(*sign == b'+', target)?,
            _ => return Err(SYNTAX),
        }
        Ok(())
    }

    fn add_keys(&mut self, access: Access, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
                 Try 'resetkeys' to start with an empty list of patterns",
            );
        }
        if pattern.iter().any(|byte| *byte == b' ' || *byte == 0) {
            return Err(SYNTAX);
        }
        if pattern == b"*" && access.read && access.write {
            (self.all_keys, self.keys) = (true, Vec::new());
            return Ok(());
        }
        match self.keys.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                known.access.read |= access.read;
                known.access.write |= access.write;
            }
            None => self.keys.push(KeyPattern { access, pattern: pattern.to_vec() }),
        }
        Ok(())
    }

    fn change_commands(&mut self, allow: bool, target: &[u8]) -> Result<(), RuleError> {
        let target = std::str::from_utf8(target).map_err(|_| UNKNOWN)?.to_ascii_lowercase();
        if target == "@all" {
            self.commands = [if allow { u64::MAX } else { 0 }; WORDS];
            self.command_rules.clear();
            self.first_words.clear();
        } else if let Some(category) = target.strip_prefix('@') {
            if !commands::CATEGORIES.contains(&category) {
                return Err(UNKNOWN);
            }
            for command in COMMANDS {
                let within = |sub| commands::categories(command, sub).any(|name| name == category);
                if within(None) {
                    self.set_bit(commands::place(command, ""), allow);
                    self.first_words.retain(|(id, _)| *id != command.id);
                }
                for sub in command.subcommands.iter().filter(|sub| within(Some(*sub))) {
                    self.set_bit(commands::place(command, sub.name), allow);
                }
            }
        } else {
            let (name, sub) = target.split_once('|').map_or((target.as_str(), None), |(n, s)| (n, Some(s)));
            let command = commands::lookup(name.as_bytes()).ok_or(UNKNOWN)?;
            match sub {
                Some("") => return Err(SYNTAX),
                // A command without subcommands is allowed with this word behind it.
                Some(word) if allow && command.subcommands.is_empty() && !word.contains('|') => {
                    let known = (command.id, word.as_bytes().to_vec());
                    if !self.first_words.contains(&known) {
                        self.first_words.push(known);
                    }
                }
                Some(sub) => {
                    let sub = command.subcommand(sub.as_bytes()).ok_or(UNKNOWN)?;
                    self.set_bit(commands::place(command, sub.name), allow);
                }
                None => {
                    self.first_words.retain(|(id, _)| *id != command.id);
                    let first = commands::place(command, "");
                    (first..=first + command.subcommands.len()).for_each(|place| self.set_bit(place, allow));
                }
            }
            let inner = format!("{target}|");
            self.command_rules.retain(|rule| !rule[1..].starts_with(&inner));
        }
        self.command_rules.retain(|rule| rule[1..] != target || rule.ends_with("@all"));
        self.command_rules.push(format!("{}{target}", if allow { '+' } else { '-' }));
        Ok(())
    }

    fn set_bit(&mut self, place: usize, on: bool) {
        let bit = 1 << (place % 64);
        if on { self.commands[place / 64] |= bit } else { self.commands[place / 64] &= !bit }
    }

    pub(super) fn may<'a>(
        &self,
        command: &Command,
        subcommand: &str,
        count: usize,
        argument: &impl Fn(usize) -> &'a [u8],
    ) -> Result<(), Denied> {
        let place = commands::place(command, subcommand);
        let open = command.flags & commands::NO_AUTH != 0;
        if !open && self.commands[place / 64] & 1 << (place % 64) == 0 {
            let has = |word: &[u8]| count > 1 && argument(1).eq_ignore_ascii_case(word);
            if !self.first_words.iter().any(|(id, word)| *id == command.id && has(word)) {
                return Err(Denied::Command);
            }
        }
        let channels = commands::names_channels(command.id);
        // Channels of shards are no keys, though they have slots.
        let keys = channels.is_none() && command.group != commands::Group::Pubsub;
        if !self.all_keys && keys {
            let sub = command.subcommands.iter().find(|sub| sub.name == subcommand);
            for (i, at) in command.keys(sub, count).enumerate().filter(|(_, at)| *at < count) {
                let access = commands::access(command, i, || (1..count).map(argument));
                if !self.reaches(argument(at), access) {
                    return Err(Denied::Key(at));
                }
            }
        }
        if !self.all_channels
            && let Some(exact) = channels
        {
            let known = |channel: &[u8]| {
                self.channels.iter().any(|pattern| match exact {
                    true => pattern == channel,
                    false => fits(pattern, channel),
                })
            };
            if let Some(at) = (1..count).find(|at| !known(argument(*at))) {
                return Err(Denied::Channel(at));
            }
        }
        Ok(())
    }

    fn reaches(&self, key: &[u8], access: Access) -> bool {
        self.keys.iter().any(|known| {
            (known.access.read || !access.read)
                && (known.access.write || !access.write)
                && fits(&known.pattern, key)
        })
    }

    /// The rules about commands.
    pub fn command_rules(&self) -> String {
        self.command_rules.join(" ")
    }

    /// The rules about keys.
    pub fn key_rules(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        let rules: Vec<Vec<u8>> = self
            .keys
            .iter()
            .map(|KeyPattern { access, pattern }| {
                let head: &[u8] = match (access.read, access.write) {
                    (true, true) => b"~",
                    (true, false) => b"%R~",
                    _ => b"%W~",
                };
                [head, pattern].concat()
            })
            .collect();
        rules.join(&b' ')
    }

    /// The rules about channels.
    pub fn channel_rules(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        let rules: Vec<Vec<u8>> = self.channels.iter().map(|pattern| [b"&", &pattern[..]].concat()).collect();
        rules.join(&b' ')
    }

    /// All its rules.
    pub(super) fn rules(&self) -> Vec<u8> {
        let mut rules = Vec::new();
        rules.extend(Some(self.key_rules()).filter(|rules| !rules.is_empty()));
        rules.extend((!self.all_channels).then(|| b"resetchannels".to_vec()));
        rules.extend(Some(self.channel_rules()).filter(|rules| !rules.is_empty()));
        rules.push(self.command_rules().into_bytes());
        rules.join(&b' ')
    }
}

fn fits(pattern: &[u8], text: &[u8]) -> bool {
    glob::matches(pattern, text, GLOB_STEPS_MAX, &mut 0)
}
