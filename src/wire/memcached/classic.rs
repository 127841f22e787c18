//! The text protocol's commands: a line, perhaps a block, to requests.

use super::words::{Words, expiry, is_noreply, moment, signed, unsigned};
use super::writer::{Page, Shape};
use super::{Advance, BAD_CHUNK, BAD_FORMAT, Retrieval, State, Turn};
use crate::ids::{CoreId, Version};
use crate::request::{
    Condition, Count, Expire, ExpireOnly, ExpiryChange, LANDING_BYTES_MIN, Named, Put, Remove, Request,
    Splice, Step, Verb,
};
use crate::wire::{Backend, Next, Reason, Target, events};

/// The storage commands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Storage {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

/// What `slabs`, `lru` and `lru_crawler` tune does not exist here.
const NO_SLABS: &[u8] = b"CLIENT_ERROR slab reassignment disabled";
const NO_CRAWLER: &[u8] = b"CLIENT_ERROR lru crawler disabled";
/// The greatest number of a slab class that memcached knows.
const SLAB_CLASSES_MAX: u64 = 63;
const NO_MEMLIMIT: &[u8] = b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust";
const NO_EVENTS: &[u8] = b"CLIENT_ERROR there are no events of this kind here";
const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument";
const ERROR: &[u8] = b"ERROR";

impl<B: Backend> Turn<'_, B> {
    /// Executes a whole line of an authenticated client; `block` is what the input holds behind it.
    #[inline]
    pub(super) fn execute(&mut self, line: &[u8], block: &[u8], line_len: usize) -> Advance {
        // The two that matter come first.
        if let [b'g', b'e', b't', b' ', key @ ..] = line {
            if self.is_key(key) {
                self.retrieve(key, Retrieval { version: false, expiry: ExpiryChange::Keep, any: true });
                self.exchange.say(Shape::End, b"");
                return Advance::On(line_len);
            }
        } else if let [b's', b'e', b't', b' ', rest @ ..] = line {
            return self.store(Storage::Set, rest, block, line_len);
        }
        let command = &line[..memchr::memchr(b' ', line).unwrap_or(line.len())];
        let rest = &line[command.len()..];
        match command {
            b"get" => return self.get(line, false, false, line_len),
            b"gets" => return self.get(line, true, false, line_len),
            b"gat" => return self.get(line, false, true, line_len),
            b"gats" => return self.get(line, true, true, line_len),
            b"set" => return self.store(Storage::Set, rest, block, line_len),
            b"add" => return self.store(Storage::Add, rest, block, line_len),
            b"replace" => return self.store(Storage::Replace, rest, block, line_len),
            b"append" => return self.store(Storage::Append, rest, block, line_len),
            b"prepend" => return self.store(Storage::Prepend, rest, block, line_len),
            b"cas" => return self.store(Storage::Cas, rest, block, line_len),
            b"ms" => return self.meta_set(rest, block, line_len),
            _ => {}
        }
        self.spend();
        match command {
            b"mg" => self.meta_get(rest),
            b"md" => self.meta_delete(rest),
            b"ma" => self.meta_count(rest),
            b"mn" => self.exchange.say(Shape::Text, b"MN"),
            b"me" => self.meta_debug(rest),
            b"delete" => self.delete(rest),
            b"incr" => self.count(rest, true),
            b"decr" => self.count(rest, false),
            b"touch" => self.touch(rest),
            b"flush_all" => self.flush(rest),
            b"invalidate" => self.invalidate(rest),
            b"stats" => self.stats(rest),
            b"watch" => self.watch(rest),
            b"version" => self.exchange.say(Shape::Version, b""),
            b"verbosity" => self.verbosity(rest),
            b"quit" => return Advance::Stop(line_len, Next::Close(Reason::Quit)),
            _ => self.unusual(command, rest),
        }
        Advance::On(line_len)
    }

    /// `get`, `gets`, `gat`, `gats` with the whole line at hand: checked whole, so that a bad key gets the error alone.
    fn get(&mut self, line: &[u8], version: bool, touches: bool, line_len: usize) -> Advance {
        let mut words = Words(line);
        words.next();
        let seconds = if touches { words.next() } else { None };
        let mut keys = words;
        let expiry = match seconds {
            // Its own error comes only when there is a key at all.
            Some(word) if keys.next().is_some() => match signed(word) {
                Some(seconds) => ExpiryChange::Set(expiry(self.exchange.now, seconds)),
                None => {
                    self.spend();
                    self.fail(BAD_EXPTIME, false);
                    return Advance::On(line_len);
                }
            },
            _ => ExpiryChange::Keep,
        };
        let keys_len = words.rest().len();
        if keys_len == 0 || !words.all(|word| self.is_key(word)) {
            self.spend();
            self.fail(BAD_FORMAT, false);
            return Advance::On(line_len);
        }
        *self.state = State::Keys(Retrieval { version, expiry, any: false });
        Advance::On(line.len() - keys_len)
    }

    fn store(&mut self, command: Storage, rest: &[u8], block: &[u8], line_len: usize) -> Advance {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        let (key, flags, seconds) = (words.next(), words.next(), words.next());
        let len = words.next().and_then(unsigned).filter(|&len| len <= i32::MAX as u64 - 2);
        let (Some(key), Some(flags), Some(seconds), Some(len)) = (key, flags, seconds, len) else {
            // Without a length nobody knows where the block ends.
            self.spend();
            self.fail(BAD_FORMAT, noreply);
            return Advance::On(line_len);
        };
        let flags = unsigned(flags).and_then(|flags| u32::try_from(flags).ok());
        let version = if command == Storage::Cas { words.next().and_then(unsigned) } else { Some(0) };
        let (true, Some(flags), Some(seconds), Some(version)) =
            (self.is_key(key), flags, signed(seconds), version)
        else {
            self.spend();
            self.fail(BAD_FORMAT, noreply);
            return self.go_on_behind_block(line_len, len + 2);
        };
        if len > self.options.memcached_value_bytes_max as u64 {
            self.spend();
            self.refuse_large(key, command == Storage::Set, noreply);
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
        let (value, end) = block[..len + 2].split_at(len);
        if end != b"\r\n" {
            self.fail(BAD_CHUNK, noreply);
            return Advance::On(line_len + len + 2);
        }
        let expiry = expiry(self.exchange.now, seconds);
        let put = |condition| Verb::Put(Put { flags, condition, ..Put::plain(expiry) });
        let splice = |front| {
            Verb::Splice(Splice {
                front,
                create: None,
                flags,
                condition: Condition::Always,
                version: None,
                binary_key: false,
            })
        };
        let verb = match command {
            Storage::Set => put(Condition::Always),
            Storage::Add => put(Condition::Absent),
            Storage::Replace => put(Condition::Held),
            Storage::Append => splice(false),
            Storage::Prepend => splice(true),
            Storage::Cas => put(Condition::VersionIs(Version(version))),
        };
        let shape = Shape::Stored { noreply, cas: command == Storage::Cas };
        self.exchange.ask(Target::Owner, &Request { key, value, verb }, shape, b"");
        Advance::On(line_len + len + 2)
    }

    /// Refuses a value that is too large. The old one goes with it, so that nobody is served what was meant to be replaced.
    #[cold]
    pub(super) fn refuse_large(&mut self, key: &[u8], removes: bool, noreply: bool) {
        let counters = self.exchange.backend.counters();
        counters.store_too_large_total += 1;
        counters.errors_total += 1;
        counters.silent_errors_total += u64::from(noreply);
        if removes {
            let request = Request { key, value: b"", verb: Verb::Remove(Remove::PLAIN) };
            self.exchange.ask(Target::Owner, &request, Shape::TooLarge { noreply }, b"");
        } else {
            self.exchange.say(Shape::TooLarge { noreply }, b"");
        }
    }

    fn delete(&mut self, rest: &[u8]) {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        match words.next() {
            // More than an old client's hold time of 0 and noreply: memcached 1.6.45 deletes all the same, the releases
            // before its new parser and `memcapable` want the error, which is also the safer reading.
            Some(key) if self.is_key(key) && words.count() > 2 => {
                self.fail(b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]", noreply);
            }
            Some(key) if self.is_key(key) => {
                let request = Request { key, value: b"", verb: Verb::Remove(Remove::PLAIN) };
                self.exchange.ask(Target::Owner, &request, Shape::Deleted { noreply }, b"");
            }
            _ => self.fail(BAD_FORMAT, noreply),
        }
    }

    fn count(&mut self, rest: &[u8], up: bool) {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        let (Some(key), Some(delta)) = (words.next().filter(|key| self.is_key(key)), words.next()) else {
            return self.fail(BAD_FORMAT, noreply);
        };
        let Some(delta) = unsigned(delta) else {
            return self.fail(b"CLIENT_ERROR invalid numeric delta argument", noreply);
        };
        let verb = Verb::Count(Count {
            by: if up { Step::Up(delta) } else { Step::Down(delta) },
            create: None,
            condition: Condition::Always,
            expiry: ExpiryChange::Keep,
            version: None,
        });
        let request = Request { key, value: b"", verb };
        self.exchange.ask(Target::Owner, &request, Shape::Counted { noreply, up }, b"");
    }

    fn touch(&mut self, rest: &[u8]) {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        let (Some(key), Some(seconds)) = (words.next().filter(|key| self.is_key(key)), words.next()) else {
            return self.fail(BAD_FORMAT, noreply);
        };
        let Some(seconds) = signed(seconds) else {
            return self.fail(BAD_EXPTIME, noreply);
        };
        let change = Expire { expiry: expiry(self.exchange.now, seconds), only: ExpireOnly::Any };
        let request = Request { key, value: b"", verb: Verb::Expire(change) };
        self.exchange.ask(Target::Owner, &request, Shape::Touched { noreply }, b"");
    }

    fn flush(&mut self, rest: &[u8]) {
        let noreply = is_noreply(rest);
        let seconds = match Words(rest).next() {
            None | Some(b"noreply") => 0,
            Some(word) => match signed(word) {
                Some(seconds) => seconds,
                None => return self.fail(BAD_EXPTIME, noreply),
            },
        };
        self.exchange.backend.counters().flushes_total += 1;
        self.ask_all(Verb::Flush { at: moment(self.exchange.now, seconds) }, Shape::FlushPart);
        self.exchange.say(Shape::Flushed { noreply }, b"");
    }

    /// `invalidate key|prefix|tag NAME [noreply]`: ours; forgets here, and changes nothing at the origin.
    fn invalidate(&mut self, rest: &[u8]) {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        let (kind, name) = (words.next(), words.next());
        let named = match kind {
            Some(b"key") => Named::Key,
            Some(b"prefix") => Named::Prefix,
            Some(b"tag") => Named::Tag,
            _ => return self.fail(BAD_FORMAT, noreply),
        };
        let Some(name) = name else { return self.fail(BAD_FORMAT, noreply) };
        let request = Request { key: name, value: b"", verb: Verb::Invalidate(named) };
        if named == Named::Key && name.len() <= super::words::KEY_BYTES_MAX {
            self.exchange.ask(Target::Owner, &request, Shape::FlushPart, b"");
        } else if named != Named::Key {
            for core in 0..self.exchange.node.core_count() {
                self.exchange.ask(Target::Core(CoreId(core)), &request, Shape::FlushPart, b"");
            }
        }
        self.exchange.say(Shape::Flushed { noreply }, b"");
    }

    fn verbosity(&mut self, rest: &[u8]) {
        let noreply = is_noreply(rest);
        match Words(rest).next() {
            Some(b"noreply") => {}
            // The log is the operator's; the level is taken and not used.
            Some(level) if unsigned(level).is_some() && !noreply => self.exchange.say(Shape::Text, b"OK"),
            Some(level) if unsigned(level).is_some() => {}
            _ => self.fail(BAD_FORMAT, noreply),
        }
    }

    fn stats(&mut self, rest: &[u8]) {
        let mut words = Words(rest);
        let page = match words.next() {
            None => Page::General,
            Some(b"settings") => Page::Settings,
            Some(b"items") => Page::Items,
            Some(b"slabs") => Page::Slabs,
            Some(b"conns") => {
                self.ask_all(Verb::Connections, Shape::Connections);
                return self.exchange.say(Shape::End, b"");
            }
            Some(b"reset") => {
                self.ask_all(Verb::ResetCounters, Shape::Nothing);
                return self.exchange.say(Shape::Text, b"RESET");
            }
            Some(b"sizes") => {
                return self.exchange.say(Shape::Text, b"STAT sizes_status disabled\r\nEND");
            }
            Some(b"detail") => {
                return match words.next() {
                    Some(b"on" | b"off") => self.exchange.say(Shape::Text, b"OK"),
                    Some(b"dump") => self.exchange.say(Shape::End, b""),
                    _ => self.fail(b"CLIENT_ERROR usage: stats detail on|off|dump", false),
                };
            }
            Some(b"cachedump") => {
                let (class, most) = (words.next(), words.next());
                let number = |word| unsigned(word).filter(|number| *number <= u64::from(u32::MAX));
                return match (class.and_then(number), most.and_then(number)) {
                    _ if most.is_none() => self.fail(b"CLIENT_ERROR bad command line", false),
                    (Some(class), Some(_)) if class <= SLAB_CLASSES_MAX => {
                        self.exchange.say(Shape::End, b"");
                    }
                    (Some(_), Some(_)) => self.fail(b"CLIENT_ERROR Illegal slab id", false),
                    _ => self.fail(BAD_FORMAT, false),
                };
            }
            Some(b"extstore" | b"proxy") => return self.exchange.say(Shape::End, b""),
            Some(_) => return self.fail(ERROR, false),
        };
        if page != Page::Settings {
            self.exchange.writer.settle(self.exchange.backend.counters());
            self.ask_all(Verb::Counters, Shape::StatsPart);
        }
        self.exchange.say(Shape::Stats(page), b"");
    }

    /// `watch [fetchers|mutations|evictions|connevents|deletions]*`: from here on the client is shown lines of what happens.
    fn watch(&mut self, rest: &[u8]) {
        let mut kinds = 0;
        for word in Words(rest) {
            kinds |= match word {
                b"fetchers" => events::FETCHERS,
                b"mutations" => events::MUTATIONS,
                b"evictions" => events::EVICTIONS,
                b"connevents" => events::CONNECTIONS,
                b"deletions" => events::DELETIONS,
                b"rawcmds" | b"sysevents" | b"proxyreqs" | b"proxyevents" | b"proxyuser" => {
                    return self.fail(NO_EVENTS, false);
                }
                _ => return self.fail(ERROR, false),
            };
        }
        let kinds = if kinds == 0 { events::FETCHERS } else { kinds };
        let Some(observer) = self.exchange.backend.observer() else {
            return self.fail(b"WATCHER_FAILED failed to add log watcher", false);
        };
        self.ask_all(Verb::Watch { observer, kinds }, Shape::FlushPart);
        self.exchange.say(Shape::Watched, b"");
        *self.state = State::Watch;
    }

    /// What a client says who watches: nothing that is listened to, unless it turns out that it may not watch.
    pub(super) fn watching(&mut self, rest: &[u8]) -> Advance {
        if !self.exchange.order.is_empty() {
            return Advance::Stop(0, Next::Blocked);
        }
        if std::mem::take(&mut self.exchange.writer.refused) {
            if let Some(observer) = self.exchange.backend.observer() {
                self.ask_all(Verb::Watch { observer, kinds: 0 }, Shape::Nothing);
            }
            *self.state = State::Line;
            return Advance::On(0);
        }
        Advance::On(rest.len())
    }

    /// Asks every core.
    fn ask_all(&mut self, verb: Verb, shape: Shape) {
        for core in 0..self.exchange.node.core_count() {
            let request = Request { key: b"", value: b"", verb };
            self.exchange.ask(Target::Core(CoreId(core)), &request, shape, b"");
        }
    }

    /// Commands that tune what does not exist here, and unknown ones: memcached's own words where it has some.
    #[cold]
    fn unusual(&mut self, command: &[u8], rest: &[u8]) {
        let noreply = is_noreply(rest);
        let mut words = Words(rest);
        let (first, second) = (words.next(), words.next());
        let text = match command {
            b"cache_memlimit" if first.and_then(unsigned).is_some() => NO_MEMLIMIT,
            b"slabs" if matches!(first, Some(b"reassign" | b"automove")) && second.is_some() => NO_SLABS,
            b"lru_crawler"
                if matches!(
                    first,
                    Some(b"enable" | b"disable" | b"crawl" | b"sleep" | b"tocrawl" | b"metadump" | b"mgdump")
                ) =>
            {
                NO_CRAWLER
            }
            b"shutdown" => b"SERVER_ERROR: shutdown not enabled",
            b"refresh_certs" => b"Error TLS not enabled",
            // A command of one byte or none.
            [] if rest.len() <= 1 => BAD_FORMAT,
            [_] if rest.is_empty() => BAD_FORMAT,
            _ => ERROR,
        };
        self.fail(text, noreply);
    }
}
