//! The meta protocol's commands: key and flags to requests.
//!
//! Flags are parsed twice: here for what to do, and by the writer for what to show and in which order; what stands between
//! is the request's own text, so that a reply that has to wait costs one copy of it.

use super::words::{BASE64_BYTES_MAX, Words, base64, expiry, moment, signed, unsigned};
use super::writer::{Marks, Mode, Shape};
use super::{Advance, BAD_CHUNK, BAD_FORMAT, Turn};
use crate::clock::Now;
use crate::ids::Version;
use crate::request::{
    Condition, Count, Expiry, ExpiryChange, Fetch, LANDING_BYTES_MIN, Put, Remove, Request, Splice, Step,
    Verb,
};
use crate::wire::{Backend, Next, Target};

/// Words of a command beyond which memcached does not look.
const WORDS_MAX: usize = 20;
/// Longest opaque with its letter.
const OPAQUE_BYTES_MAX: usize = 32;

const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format";
const BAD_KEY_CODE: &[u8] = b"CLIENT_ERROR error decoding key";
const BAD_FLAG: &[u8] = b"CLIENT_ERROR invalid flag";
const BAD_COUNT_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag";
const BAD_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token";
const BAD_COUNT_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token";
const TWICE: &[u8] = b"CLIENT_ERROR duplicate flag";
const TOO_MANY: &[u8] = b"CLIENT_ERROR options flags are too long";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value";
const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value";
const LONG_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long";

/// What the flags of a command ask for; letters are those of the protocol.
#[derive(Clone, Copy, Default)]
struct Flags {
    /// `q`, `v` and `b`.
    marks: Marks,
    /// `u`.
    cold: bool,
    /// `x`.
    clear: bool,
    /// `I`.
    invalidate: bool,
    /// `N`.
    vivify: Option<i64>,
    /// `T`.
    ttl: Option<i64>,
    /// `T` stands behind `N`: it holds for what `N` leaves, too.
    ttl_behind: bool,
    /// `R`.
    refill: Option<i64>,
    /// `C`.
    compare: Option<Version>,
    /// `E`.
    version: Option<Version>,
    /// `F`.
    client_flags: u32,
    /// `M`: its word without the letter, 0 for an empty one.
    mode: Option<u8>,
    /// `D`.
    delta: Option<u64>,
    /// `J`.
    initial: u64,
}

impl Flags {
    /// Reads the words behind key and length; `spare` is how many there may be.
    fn parse(words: Words<'_>, spare: usize) -> Result<Flags, &'static [u8]> {
        Flags::read(words).map_err(|text| match text {
            _ if words.count() > spare => TOO_MANY,
            _ if { words }.any(|word| !word[0].is_ascii_alphanumeric()) => BAD_FORMAT,
            text => text,
        })
    }

    /// As with memcached, what is no flag or stands there twice ends the reading; of bad tokens the last one counts that has
    /// words of its own.
    fn read(words: Words<'_>) -> Result<Flags, &'static [u8]> {
        let mut flags = Flags::default();
        let mut seen = 0u64;
        let mut bad = Ok(());
        for word in words {
            let bit = match word[0] {
                letter @ b'A'..=b'z' => 1 << (letter - b'A'),
                _ => return Err(BAD_FLAG),
            };
            if seen & bit != 0 {
                return Err(TWICE);
            }
            seen |= bit;
            match flags.take(word) {
                Err(BAD_FLAG) => return Err(BAD_FLAG),
                Err(BAD_FORMAT | LONG_OPAQUE) if bad.is_err() => {}
                Err(text) => bad = Err(text),
                Ok(()) => {}
            }
        }
        bad.map(|()| flags)
    }

    /// Takes one flag, a letter and its token.
    fn take(&mut self, word: &[u8]) -> Result<(), &'static [u8]> {
        let (letter, token) = (word[0], &word[1..]);
        let ttl = || signed(token).filter(|&ttl| i32::try_from(ttl).is_ok()).ok_or(BAD_TOKEN);
        let version = || unsigned(token).map(Version).ok_or(BAD_TOKEN);
        match letter {
            b'q' => self.marks.quiet = true,
            b'v' => self.marks.value = true,
            b'b' => self.marks.binary = true,
            b'u' => self.cold = true,
            b'x' => self.clear = true,
            b'I' => self.invalidate = true,
            b'N' => self.vivify = Some(ttl()?),
            b'T' => {
                self.ttl = Some(ttl()?);
                self.ttl_behind = self.vivify.is_some();
            }
            b'R' => self.refill = Some(ttl()?),
            b'C' => self.compare = Some(version()?),
            b'E' => self.version = Some(version()?),
            b'F' => {
                self.client_flags =
                    unsigned(token).and_then(|bits| u32::try_from(bits).ok()).ok_or(BAD_FORMAT)?;
            }
            b'M' => self.mode = Some(token.first().copied().filter(|_| token.len() == 1).unwrap_or(0)),
            b'D' => self.delta = Some(unsigned(token).ok_or(BAD_DELTA)?),
            b'J' => self.initial = unsigned(token).ok_or(BAD_INITIAL)?,
            b'O' if word.len() > OPAQUE_BYTES_MAX => return Err(LONG_OPAQUE),
            // Shown by the writer, or (`L`, `P`) meant for proxies.
            b'O' | b'k' | b'c' | b'f' | b'h' | b'l' | b's' | b't' | b'L' | b'P' => {}
            _ => return Err(BAD_FLAG),
        }
        Ok(())
    }

    fn expiry_change(&self, now: Now) -> ExpiryChange {
        self.ttl.map_or(ExpiryChange::Keep, |seconds| ExpiryChange::Set(expiry(now, seconds)))
    }

    fn condition(&self) -> Condition {
        self.compare.map_or(Condition::Always, Condition::VersionIs)
    }

    /// Expiry of an item that `mg` or `ma` makes.
    fn vivified_expiry(&self, now: Now) -> Option<Expiry> {
        let behind = self.ttl.filter(|_| self.ttl_behind);
        self.vivify.map(|seconds| expiry(now, behind.unwrap_or(seconds)))
    }
}

/// The key that a word (one that may be a key) stands for: itself, or what it encodes in base64.
fn key_of<'k>(
    word: &'k [u8],
    binary: bool,
    decoded: &'k mut [u8; BASE64_BYTES_MAX],
) -> Result<&'k [u8], &'static [u8]> {
    if !binary {
        return Ok(word);
    }
    let len = base64(word, decoded).ok_or(BAD_KEY_CODE)?;
    Ok(&decoded[..len])
}

impl<B: Backend> Turn<'_, B> {
    /// `mg <key> <flags>*`
    pub(super) fn meta_get(&mut self, rest: &[u8]) {
        let mut words = Words(rest);
        let note = words.rest();
        let Some(word) = words.next().filter(|word| self.is_key(word)) else {
            return self.fail(BAD_FORMAT, false);
        };
        let mut decoded = [0; BASE64_BYTES_MAX];
        let parsed = Flags::parse(words, WORDS_MAX - 2)
            .and_then(|flags| Ok((flags, key_of(word, flags.marks.binary, &mut decoded)?)));
        let (flags, key) = match parsed {
            Ok(parsed) => parsed,
            Err(text) => return self.fail(text, false),
        };
        self.exchange.backend.counters().meta_commands_total += 1;
        let now = self.exchange.now;
        // Always a Fetch, never a Get: only this one takes part in leases.
        let verb = Verb::Fetch(Fetch {
            expiry: flags.expiry_change(now),
            remove: false,
            warm: !flags.cold,
            lease: true,
            vivify: flags.vivified_expiry(now),
            refill_before: flags.refill.map(|seconds| moment(now, seconds)),
            version: flags.version,
        });
        let request = Request { key, value: b"", verb };
        self.exchange.ask(Target::Owner, &request, Shape::MetaGet(flags.marks), note);
    }

    /// `ms <key> <length> <flags>*` and its block.
    pub(super) fn meta_set(&mut self, rest: &[u8], block: &[u8], line_len: usize) -> Advance {
        let mut words = Words(rest);
        let note = words.rest();
        let word = words.next();
        let len = words.next().and_then(unsigned).filter(|&len| len <= i32::MAX as u64 - 2);
        let (Some(word), Some(len)) = (word, len) else {
            self.spend();
            self.fail(BAD_FORMAT, false);
            return Advance::On(line_len);
        };
        let mut decoded = [0; BASE64_BYTES_MAX];
        let parsed = Flags::parse(words, WORDS_MAX - 3).and_then(|flags| {
            if !self.is_key(word) {
                return Err(BAD_FORMAT);
            }
            let key = key_of(word, flags.marks.binary, &mut decoded)?;
            let mode = match flags.mode {
                None | Some(b'S') => Mode::Set,
                Some(b'E') => Mode::Add,
                Some(b'A') => Mode::Append,
                Some(b'P') => Mode::Prepend,
                Some(b'R') => Mode::Replace,
                Some(_) => return Err(BAD_MODE),
            };
            Ok((flags, key, mode))
        });
        let (flags, key, mode) = match parsed {
            Ok(parsed) => parsed,
            Err(text) => {
                self.spend();
                self.fail(text, false);
                return self.go_on_behind_block(line_len, len + 2);
            }
        };
        if len > self.options.memcached_value_bytes_max as u64 {
            self.spend();
            self.refuse_large(key, true, false);
            return self.go_on_behind_block(line_len, len + 2);
        }
        let len = len as usize;
        if block.len() < len + 2 {
            return Advance::Stop(0, Next::More { at_least: line_len + len + 2 });
        }
        if len >= LANDING_BYTES_MIN && !self.exchange.backend.land(key, &block[..len]) {
            return Advance::Stop(0, Next::Yield);
        }
        self.spend();
        self.exchange.backend.counters().meta_commands_total += 1;
        let (value, end) = block[..len + 2].split_at(len);
        if end != b"\r\n" {
            self.fail(BAD_CHUNK, false);
            return Advance::On(line_len + len + 2);
        }
        let now = self.exchange.now;
        let put = |condition| {
            Verb::Put(Put {
                flags: flags.client_flags,
                condition,
                version: flags.version,
                binary_key: flags.marks.binary,
                ..Put::plain(flags.ttl.map_or(Expiry::Never, |seconds| expiry(now, seconds)))
            })
        };
        let splice = |front| {
            Verb::Splice(Splice {
                front,
                create: flags.vivify.map(|seconds| expiry(now, seconds)),
                flags: flags.client_flags,
                condition: flags.condition(),
                version: flags.version,
                binary_key: flags.marks.binary,
            })
        };
        let verb = match (mode, flags.compare) {
            (Mode::Add, _) => put(Condition::Absent),
            (Mode::Append, _) => splice(false),
            (Mode::Prepend, _) => splice(true),
            (_, Some(version)) if flags.invalidate => put(Condition::VersionIsOrStale(version)),
            (_, Some(version)) => put(Condition::VersionIs(version)),
            (Mode::Replace, None) => put(Condition::Held),
            (Mode::Set, None) => put(Condition::Always),
        };
        let request = Request { key, value, verb };
        let shape = Shape::MetaSet { marks: flags.marks, mode, compared: flags.compare.is_some() };
        self.exchange.ask(Target::Owner, &request, shape, note);
        Advance::On(line_len + len + 2)
    }

    /// `md <key> <flags>*`
    pub(super) fn meta_delete(&mut self, rest: &[u8]) {
        let mut words = Words(rest);
        let note = words.rest();
        let Some(word) = words.next().filter(|word| self.is_key(word)) else {
            return self.fail(BAD_FORMAT, false);
        };
        let mut decoded = [0; BASE64_BYTES_MAX];
        let parsed = Flags::parse(words, WORDS_MAX - 2)
            .and_then(|flags| Ok((flags, key_of(word, flags.marks.binary, &mut decoded)?)));
        let (flags, key) = match parsed {
            Ok(parsed) => parsed,
            Err(text) => return self.fail(text, false),
        };
        self.exchange.backend.counters().meta_commands_total += 1;
        let verb = Verb::Remove(Remove {
            condition: flags.condition(),
            stale: flags.invalidate,
            expiry: flags.expiry_change(self.exchange.now),
            clear: flags.clear,
            version: flags.version,
        });
        let request = Request { key, value: b"", verb };
        self.exchange.ask(Target::Owner, &request, Shape::MetaDelete(flags.marks), note);
    }

    /// `ma <key> <flags>*`
    pub(super) fn meta_count(&mut self, rest: &[u8]) {
        let mut words = Words(rest);
        let note = words.rest();
        let Some(word) = words.next() else {
            return self.fail(BAD_FORMAT, false);
        };
        let mut decoded = [0; BASE64_BYTES_MAX];
        let parsed = Flags::parse(words, WORDS_MAX - 2).and_then(|flags| {
            if !self.is_key(word) {
                return Err(BAD_FORMAT);
            }
            let key = key_of(word, flags.marks.binary, &mut decoded)?;
            let up = match flags.mode {
                None | Some(b'I' | b'+') => true,
                Some(b'D' | b'-') => false,
                Some(_) => return Err(BAD_COUNT_MODE),
            };
            Ok((flags, key, up))
        });
        let (flags, key, up) = match parsed {
            Ok(parsed) => parsed,
            // memcached has fewer words for this command.
            Err(text) => {
                let odd_letter = self.is_key(word) && words.any(|flag| !flag[0].is_ascii_alphanumeric());
                let kept = match text {
                    LONG_OPAQUE | TOO_MANY | BAD_COUNT_MODE => true,
                    _ => odd_letter && text == BAD_FORMAT,
                };
                return self.fail(if kept { text } else { BAD_COUNT_FLAG }, false);
            }
        };
        self.exchange.backend.counters().meta_commands_total += 1;
        let now = self.exchange.now;
        let delta = flags.delta.unwrap_or(1);
        let verb = Verb::Count(Count {
            by: if up { Step::Up(delta) } else { Step::Down(delta) },
            create: flags.vivified_expiry(now).map(|expiry| (flags.initial, expiry)),
            condition: flags.condition(),
            expiry: flags.expiry_change(now),
            version: flags.version,
        });
        let request = Request { key, value: b"", verb };
        self.exchange.ask(Target::Owner, &request, Shape::MetaCount { marks: flags.marks, up }, note);
    }

    /// `me <key> [b]`; other flags mean nothing to it.
    pub(super) fn meta_debug(&mut self, rest: &[u8]) {
        let mut words = Words(rest);
        let Some(word) = words.next().filter(|word| self.is_key(word)) else {
            return self.fail(BAD_FORMAT, false);
        };
        if !words.clone().all(|flag| flag[0].is_ascii_alphanumeric()) {
            return self.fail(BAD_FORMAT, false);
        }
        let binary = words.any(|flag| flag[0] == b'b');
        let mut decoded = [0; BASE64_BYTES_MAX];
        match key_of(word, binary, &mut decoded) {
            Ok(key) => {
                let request = Request { key, value: b"", verb: Verb::Peek };
                self.exchange.ask(Target::Owner, &request, Shape::MetaDebug { binary }, word);
            }
            Err(text) => self.fail(text, false),
        }
    }
}
