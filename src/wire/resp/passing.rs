//! Commands that go to the origin of their keys as they are: those that we do not do, and those whose answer only the origin
//! knows.
//!
//! ```text
//!   known and kept (GET, SET, DEL, INCR ..) ---> the cache, which reads and writes through
//!   else, all keys with one origin that passes -> Verb::Pass: on a connection of its own, in order
//!   else ---------------------------------------> as without an origin
//! ```
//! 1. What passes goes out when nothing else of this connection is awaited, and nothing else goes on while it is awaited: so a
//!    client sees its own commands done in the order it sent them, whichever way each takes. What passes one after the other
//!    on one connection is not held up.
//! 2. A transaction with a key that passes goes there whole, as `MULTI`, its commands and `EXEC`.
//! 3. What waits for others there, and what is kept there for one client, takes a connection of that client's own
//!    ([`super::private`]).
//!
//! Places of keys and who writes are facts of Redis 8.0 (`COMMAND`); `tests/blackbox/passing.rs` holds them against a server.

use super::commands::{self, Command, Group, Id};
use super::parser::{Arguments, Queue, integer};
use super::private::{Errand, Lane, Patience};
use super::reply::Shape;
use super::{Backend, Ex, Talk, is};
use crate::request::Line;

/// Where keys stand among the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// Nowhere.
    None,
    /// First argument.
    One,
    /// First and second.
    Two,
    /// All.
    All,
    /// All from the second on.
    From2,
    /// Second, behind the name of a subcommand.
    Second,
    /// As many as the first (second) argument says, behind it.
    Counted1,
    Counted2,
    /// The first, and as many as the second says, behind that.
    Stored2,
    /// The first, and those behind `STORE` and `STOREDIST`.
    Store,
    /// The first half of what is behind `STREAMS`.
    Streams,
    /// All but the last.
    ButLast,
}

/// What a command does to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Reads,
    Writes,
    /// It writes, and waits for others before.
    Waits,
}

const READS: Deed = Deed::Reads;
const WRITES: Deed = Deed::Writes;
const WAITS: Deed = Deed::Waits;

/// Names in order, where their keys are, and what is done to them.
const TABLE: &[(&str, Keys, Deed)] = &[
    ("bitcount", Keys::One, READS),
    ("bitfield", Keys::One, WRITES),
    ("bitfield_ro", Keys::One, READS),
    ("bitop", Keys::From2, WRITES),
    ("bitpos", Keys::One, READS),
    ("blmove", Keys::Two, WAITS),
    ("blmpop", Keys::Counted2, WAITS),
    ("blpop", Keys::ButLast, WAITS),
    ("brpop", Keys::ButLast, WAITS),
    ("brpoplpush", Keys::Two, WAITS),
    ("bzmpop", Keys::Counted2, WAITS),
    ("bzpopmax", Keys::ButLast, WAITS),
    ("bzpopmin", Keys::ButLast, WAITS),
    ("eval", Keys::Counted2, WRITES),
    ("eval_ro", Keys::Counted2, READS),
    ("evalsha", Keys::Counted2, WRITES),
    ("evalsha_ro", Keys::Counted2, READS),
    ("fcall", Keys::Counted2, WRITES),
    ("fcall_ro", Keys::Counted2, READS),
    ("geoadd", Keys::One, WRITES),
    ("geodist", Keys::One, READS),
    ("geohash", Keys::One, READS),
    ("geopos", Keys::One, READS),
    ("georadius", Keys::Store, WRITES),
    ("georadius_ro", Keys::One, READS),
    ("georadiusbymember", Keys::Store, WRITES),
    ("georadiusbymember_ro", Keys::One, READS),
    ("geosearch", Keys::One, READS),
    ("geosearchstore", Keys::Two, WRITES),
    ("getbit", Keys::One, READS),
    ("hdel", Keys::One, WRITES),
    ("hexists", Keys::One, READS),
    ("hexpire", Keys::One, WRITES),
    ("hexpireat", Keys::One, WRITES),
    ("hexpiretime", Keys::One, READS),
    ("hget", Keys::One, READS),
    ("hgetall", Keys::One, READS),
    ("hgetdel", Keys::One, WRITES),
    ("hgetex", Keys::One, WRITES),
    ("hincrby", Keys::One, WRITES),
    ("hincrbyfloat", Keys::One, WRITES),
    ("hkeys", Keys::One, READS),
    ("hlen", Keys::One, READS),
    ("hmget", Keys::One, READS),
    ("hmset", Keys::One, WRITES),
    ("hpersist", Keys::One, WRITES),
    ("hpexpire", Keys::One, WRITES),
    ("hpexpireat", Keys::One, WRITES),
    ("hpexpiretime", Keys::One, READS),
    ("hpttl", Keys::One, READS),
    ("hrandfield", Keys::One, READS),
    ("hscan", Keys::One, READS),
    ("hset", Keys::One, WRITES),
    ("hsetex", Keys::One, WRITES),
    ("hsetnx", Keys::One, WRITES),
    ("hstrlen", Keys::One, READS),
    ("httl", Keys::One, READS),
    ("hvals", Keys::One, READS),
    ("lcs", Keys::Two, READS),
    ("lindex", Keys::One, READS),
    ("linsert", Keys::One, WRITES),
    ("llen", Keys::One, READS),
    ("lmove", Keys::Two, WRITES),
    ("lmpop", Keys::Counted1, WRITES),
    ("lpop", Keys::One, WRITES),
    ("lpos", Keys::One, READS),
    ("lpush", Keys::One, WRITES),
    ("lpushx", Keys::One, WRITES),
    ("lrange", Keys::One, READS),
    ("lrem", Keys::One, WRITES),
    ("lset", Keys::One, WRITES),
    ("ltrim", Keys::One, WRITES),
    ("pfadd", Keys::One, WRITES),
    ("pfcount", Keys::All, WRITES),
    ("pfmerge", Keys::All, WRITES),
    ("publish", Keys::None, READS),
    ("pubsub", Keys::None, READS),
    ("rpop", Keys::One, WRITES),
    ("rpoplpush", Keys::Two, WRITES),
    ("rpush", Keys::One, WRITES),
    ("rpushx", Keys::One, WRITES),
    ("sadd", Keys::One, WRITES),
    ("scard", Keys::One, READS),
    ("script", Keys::None, WRITES),
    ("sdiff", Keys::All, READS),
    ("sdiffstore", Keys::All, WRITES),
    ("setbit", Keys::One, WRITES),
    ("sinter", Keys::All, READS),
    ("sintercard", Keys::Counted1, READS),
    ("sinterstore", Keys::All, WRITES),
    ("sismember", Keys::One, READS),
    ("smembers", Keys::One, READS),
    ("smismember", Keys::One, READS),
    ("smove", Keys::Two, WRITES),
    ("sort", Keys::Store, WRITES),
    ("sort_ro", Keys::One, READS),
    ("spop", Keys::One, WRITES),
    ("spublish", Keys::None, READS),
    ("srandmember", Keys::One, READS),
    ("srem", Keys::One, WRITES),
    ("sscan", Keys::One, READS),
    ("sunion", Keys::All, READS),
    ("sunionstore", Keys::All, WRITES),
    ("vadd", Keys::One, WRITES),
    ("vcard", Keys::One, READS),
    ("vdim", Keys::One, READS),
    ("vemb", Keys::One, READS),
    ("vgetattr", Keys::One, READS),
    ("vinfo", Keys::One, READS),
    ("vismember", Keys::One, READS),
    ("vlinks", Keys::One, READS),
    ("vrandmember", Keys::One, READS),
    ("vrem", Keys::One, WRITES),
    ("vsetattr", Keys::One, WRITES),
    ("vsim", Keys::One, READS),
    ("waitaof", Keys::None, WAITS),
    ("xack", Keys::One, WRITES),
    ("xadd", Keys::One, WRITES),
    ("xautoclaim", Keys::One, WRITES),
    ("xclaim", Keys::One, WRITES),
    ("xdel", Keys::One, WRITES),
    ("xgroup", Keys::Second, WRITES),
    ("xinfo", Keys::Second, READS),
    ("xlen", Keys::One, READS),
    ("xpending", Keys::One, READS),
    ("xrange", Keys::One, READS),
    ("xread", Keys::Streams, READS),
    ("xreadgroup", Keys::Streams, WRITES),
    ("xrevrange", Keys::One, READS),
    ("xsetid", Keys::One, WRITES),
    ("xtrim", Keys::One, WRITES),
    ("zadd", Keys::One, WRITES),
    ("zcard", Keys::One, READS),
    ("zcount", Keys::One, READS),
    ("zdiff", Keys::Counted1, READS),
    ("zdiffstore", Keys::Stored2, WRITES),
    ("zincrby", Keys::One, WRITES),
    ("zinter", Keys::Counted1, READS),
    ("zintercard", Keys::Counted1, READS),
    ("zinterstore", Keys::Stored2, WRITES),
    ("zlexcount", Keys::One, READS),
    ("zmpop", Keys::Counted1, WRITES),
    ("zmscore", Keys::One, READS),
    ("zpopmax", Keys::One, WRITES),
    ("zpopmin", Keys::One, WRITES),
    ("zrandmember", Keys::One, READS),
    ("zrange", Keys::One, READS),
    ("zrangebylex", Keys::One, READS),
    ("zrangebyscore", Keys::One, READS),
    ("zrangestore", Keys::Two, WRITES),
    ("zrank", Keys::One, READS),
    ("zrem", Keys::One, WRITES),
    ("zremrangebylex", Keys::One, WRITES),
    ("zremrangebyrank", Keys::One, WRITES),
    ("zremrangebyscore", Keys::One, WRITES),
    ("zrevrange", Keys::One, READS),
    ("zrevrangebylex", Keys::One, READS),
    ("zrevrangebyscore", Keys::One, READS),
    ("zrevrank", Keys::One, READS),
    ("zscan", Keys::One, READS),
    ("zscore", Keys::One, READS),
    ("zunion", Keys::Counted1, READS),
    ("zunionstore", Keys::Stored2, WRITES),
];

/// Longest name of the table.
const NAME_BYTES_MAX: usize = 20;

const FAR_APART: &str = "ERR the keys of this command do not have one origin";
const WATCHED_APART: &str = "ERR keys of an origin and others cannot be watched together";

/// Which way a command takes.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// As without an origin.
    Ours,
    /// To an origin.
    Passes(Journey),
    /// Nowhere, for this reason.
    Refused(&'static str),
}

/// The way of a command to an origin.
#[derive(Debug, PartialEq, Eq)]
struct Journey {
    origin: u16,
    /// Places of its keys.
    places: Vec<usize>,
    writes: bool,
    /// Milliseconds that it may wait there for others; 0: it does not.
    waits_millis: u64,
}

fn row(name: &[u8]) -> Option<&'static (&'static str, Keys, Deed)> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    TABLE.binary_search_by(|row| row.0.as_bytes().cmp(lower)).ok().map(|place| &TABLE[place])
}

/// Places of the keys, if there are as many arguments as that takes.
fn places(keys: Keys, arguments: Arguments<'_>) -> Option<Vec<usize>> {
    let len = arguments.len();
    let counted = |at: usize| {
        let count = integer(arguments.at(at)).and_then(|count| usize::try_from(count).ok())?;
        (count < len - at).then(|| (at + 1..=at + count).collect::<Vec<usize>>())
    };
    let places = match keys {
        Keys::None => Vec::new(),
        Keys::One if len > 1 => vec![1],
        Keys::Two if len > 2 => vec![1, 2],
        Keys::All if len > 1 => (1..len).collect(),
        Keys::From2 if len > 2 => (2..len).collect(),
        Keys::Second if len > 2 => vec![2],
        Keys::Counted1 if len > 1 => counted(1)?,
        Keys::Counted2 if len > 2 => counted(2)?,
        Keys::Stored2 if len > 2 => [vec![1], counted(2)?].concat(),
        Keys::Store if len > 1 => {
            let stores =
                (2..len - 1).filter(|&i| is(arguments.at(i), "store") || is(arguments.at(i), "storedist"));
            [1].into_iter().chain(stores.map(|i| i + 1)).collect()
        }
        Keys::Streams => {
            let first = (1..len).find(|&i| is(arguments.at(i), "streams"))? + 1;
            (first..first + (len - first) / 2).collect()
        }
        Keys::ButLast if len > 2 => (1..len - 1).collect(),
        _ => return None,
    };
    Some(places)
}

/// Whether the cache does this command itself where there is an origin: it reads and writes through.
fn kept(command: &Command, arguments: Arguments<'_>) -> bool {
    match command.id {
        Id::Get | Id::Mget | Id::Setex | Id::Psetex | Id::Setnx | Id::Mset | Id::Del | Id::Unlink => true,
        Id::Incr | Id::Decr | Id::Incrby | Id::Decrby => true,
        Id::Leaseget | Id::Leaseset | Id::Leasedel => true,
        Id::Dbsize => false,
        // What depends on the item that is there only the origin knows.
        Id::Set => !arguments.from(3).any(|word| is(word, "get") || is(word, "keepttl")),
        _ => !matches!(command.group, Group::String | Group::Generic),
    }
}

/// Where a command that may wait says how long.
fn patience(name: &[u8], id: Option<Id>) -> Option<Patience> {
    if id == Some(Id::Wait) || is(name, "waitaof") {
        return Some(Patience::MillisLast);
    }
    if is(name, "xread") || is(name, "xreadgroup") {
        return Some(Patience::Block);
    }
    match row(name) {
        Some((_, Keys::Counted2, WAITS)) => Some(Patience::SecondsAt(1)),
        Some((_, _, WAITS)) => Some(Patience::SecondsLast),
        _ => None,
    }
}

/// What a transaction at an origin may have beside commands with keys: it does the same there as here.
fn goes_along(id: Id) -> bool {
    matches!(id, Id::Ping | Id::Echo | Id::Time | Id::Unwatch)
}

impl Talk {
    /// The way of a command; of one of a transaction whose commands all pass if one does, or while keys are watched there
    /// (`together`), too, that of the others.
    fn way_of<B: Backend>(&self, ex: &Ex<'_, B>, arguments: Arguments<'_>, together: bool) -> Way {
        let name = arguments.at(0);
        let command = commands::lookup(name);
        let id = command.map(|command| command.id);
        let (places, writes) = match (command, row(name)) {
            (Some(command), _) => {
                let sub = (arguments.len() > 1).then(|| command.subcommand(arguments.at(1))).flatten();
                let arity = sub.map_or(command.arity, |sub| sub.arity);
                if command.id == Id::Function {
                    return self.way_without_keys(ex.backend.passes_to(None), 0);
                }
                let stays = !together && command.id != Id::Watch && kept(command, arguments);
                let queued = command.id == Id::Watch && self.queues();
                if stays || queued || !commands::arity_fits(arity, arguments.len()) {
                    return Way::Ours;
                }
                match command.id {
                    Id::Wait => {
                        let waits_millis = Patience::MillisLast.millis(arguments);
                        return self.way_without_keys(ex.backend.passes_to(None), waits_millis);
                    }
                    // Each core of a cluster tells of its own.
                    Id::Scan | Id::Keys | Id::Dbsize | Id::Randomkey if self.options.only_core.is_none() => {
                        return self.way_without_keys(ex.backend.passes_all_to(), 0);
                    }
                    _ => {}
                }
                if matches!(command.group, Group::Pubsub) {
                    return Way::Ours;
                }
                let flags = command.flags | sub.map_or(0, |sub| sub.flags);
                let places: Vec<usize> = command.keys(sub, arguments.len()).collect();
                if places.is_empty() {
                    return Way::Ours;
                }
                (places, flags & commands::WRITE != 0)
            }
            // Where the keys cannot be found the command is malformed: an origin finds the words for that.
            (None, Some(&(_, keys, deed))) => {
                (places(keys, arguments).unwrap_or_default(), deed != Deed::Reads)
            }
            (None, None) => return Way::Ours,
        };
        let mut origins = places.iter().map(|&place| ex.backend.passes_to(Some(arguments.at(place))));
        let first = match origins.next() {
            Some(first) => first,
            None => ex.backend.passes_to(None),
        };
        let (mut any, mut same) = (first.is_some(), true);
        for origin in origins {
            any |= origin.is_some();
            same &= origin == first;
        }
        if id == Some(Id::Watch) {
            let here = self.transaction.as_ref().is_some_and(|transaction| transaction.watched > 0);
            if (any && here) || (!any && self.watches_there()) {
                return Way::Refused(WATCHED_APART);
            }
        }
        match first {
            _ if !any => Way::Ours,
            Some(origin) if same && !(self.watches_there() && self.is_kept_elsewhere(origin)) => {
                let waits_millis = patience(name, id).map_or(0, |patience| patience.millis(arguments));
                if waits_millis > 0 && self.is_kept_elsewhere(origin) {
                    return Way::Refused(FAR_APART);
                }
                Way::Passes(Journey { origin, places, writes, waits_millis })
            }
            _ => Way::Refused(FAR_APART),
        }
    }

    fn way_without_keys(&self, origin: Option<u16>, waits_millis: u64) -> Way {
        match origin {
            Some(origin) if !self.is_kept_elsewhere(origin) => {
                Way::Passes(Journey { origin, places: Vec::new(), writes: false, waits_millis })
            }
            Some(_) => Way::Refused(FAR_APART),
            None => Way::Ours,
        }
    }

    /// The connection that a command takes: its client's own if it waits there, or while keys are watched there.
    fn line_of(&self, command: &[u8], journey: &Journey) -> Line {
        let own = journey.waits_millis > 0 || self.watches_there() || is(command, "watch");
        if own { self.own_line(journey.waits_millis) } else { Line::Shared }
    }

    /// Whether this command has to wait for the replies of those before it.
    pub(super) fn must_wait<B: Backend>(&mut self, ex: &Ex<'_, B>, arguments: Arguments<'_>) -> bool {
        self.settle_passing(ex);
        if ex.order.is_empty() || !ex.backend.passes() {
            return false;
        }
        let lane = match self.queues() {
            true => Lane::Nobody,
            false => match self.way_of(ex, arguments, self.watches_there()) {
                Way::Passes(journey) => Lane::of(self.line_of(arguments.at(0), &journey)),
                Way::Ours | Way::Refused(_) => Lane::Nobody,
            },
        };
        lane != self.passing
    }

    /// Notes when all that passed was answered; says whether some was not.
    pub(super) fn settle_passing<B: Backend>(&mut self, ex: &Ex<'_, B>) -> bool {
        if ex.order.is_empty() {
            self.passing = Lane::Nobody;
        }
        self.passing != Lane::Nobody
    }

    /// Has the command done by its origin, or queues it for a transaction that is; says whether it did or refused it.
    pub(super) fn pass<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) -> bool {
        let name = arguments.at(0);
        if self.protocol == 2 && self.subscriptions.iter().any(|names| !names.is_empty()) {
            // What is published would be taken for a reply. Commands of ours are refused where all are.
            let refuses = commands::lookup(name).is_none() && row(name).is_some();
            if refuses {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                self.refuse_while_subscribed(ex, &name, "");
            }
            return refuses;
        }
        let queues = self.queues();
        let journey = match self.way_of(ex, arguments, queues || self.watches_there()) {
            Way::Ours => return false,
            Way::Refused(text) => {
                self.break_transaction();
                self.fail(ex, text);
                return true;
            }
            Way::Passes(_) if queues => {
                self.queue_passing(ex, arguments);
                return true;
            }
            Way::Passes(journey) => journey,
        };
        let mut value = Vec::new();
        if !self.append_keys(&journey.places, arguments, &mut value) {
            self.fail(ex, "ERR a key is too long");
            return true;
        }
        let (watches, waits) = (is(name, "watch"), is(name, "wait") || is(name, "waitaof"));
        // No more than its names is to be remembered of what it watches.
        let key_bytes = if watches { 0 } else { value.len() };
        value.truncate(key_bytes);
        let mut replies = 1;
        if waits {
            // These are about what was written before on their own connection, and what was written through us was on others. It
            // counts once the connection itself has brought the replicas something after it; before Redis 7, done anything. To a
            // shard channel that nobody hears: patterns do not match those.
            value.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
            value.extend_from_slice(b"*3\r\n$8\r\nSPUBLISH\r\n$19\r\n__foreshadow__:wait\r\n$0\r\n\r\n");
            replies = 3;
        }
        append_command(arguments, &mut value);
        let key = journey.places.first().map_or(b"".as_slice(), |&place| arguments.at(place));
        let line = match watches {
            true => self.watch_there(journey.origin, key, journey.places.len()),
            false => self.line_of(name, &journey),
        };
        let (writes, shape) = (journey.writes, Shape::Passed);
        self.ask_origin(ex, &Errand { key, value: &value, key_bytes, replies, writes, line, shape });
        true
    }

    /// Appends the keys, each behind its length; says whether all have a length that keys have.
    fn append_keys(&self, places: &[usize], arguments: Arguments<'_>, value: &mut Vec<u8>) -> bool {
        for &place in places {
            let key = arguments.at(place);
            if key.len() > self.options.key_bytes_max {
                return false;
            }
            value.extend_from_slice(&(key.len() as u32).to_le_bytes());
            value.extend_from_slice(key);
        }
        true
    }

    /// `EXEC` of a transaction with a key that passes, or with keys watched there: all of it goes to that key's origin, in one
    /// piece.
    pub(super) fn pass_transaction<B: Backend>(&mut self, ex: &mut Ex<'_, B>, queue: &Queue) {
        let (mut keys, mut bytes) = (Vec::new(), b"*1\r\n$5\r\nMULTI\r\n".to_vec());
        let mut origin = self.private.as_ref().filter(|it| it.watched > 0).map(|private| private.at);
        let (mut writes, mut refusal) = (false, None);
        for i in 0..queue.len() {
            let arguments = queue.arguments(i);
            match self.way_of(ex, arguments, true) {
                Way::Passes(journey) if origin.is_none_or(|origin| origin == journey.origin) => {
                    origin = Some(journey.origin);
                    writes |= journey.writes;
                    if !self.append_keys(&journey.places, arguments, &mut keys) {
                        refusal = Some("EXECABORT Transaction discarded because a key is too long.");
                    }
                }
                Way::Ours if commands::lookup(arguments.at(0)).is_some_and(|it| goes_along(it.id)) => {}
                _ => {
                    refusal =
                        Some("EXECABORT Transaction discarded because its keys do not have one origin.");
                }
            }
            append_command(arguments, &mut bytes);
        }
        if let Some(refusal) = refusal {
            if self.watches_there() {
                self.unwatch_there(ex);
            }
            return self.fail(ex, refusal);
        }
        bytes.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        let (mut key, mut line) = (first_key(&keys).to_vec(), Line::Shared);
        if self.watches_there() {
            (key, line) = self.end_watch();
        }
        let key_bytes = keys.len();
        keys.extend_from_slice(&bytes);
        let (replies, shape) = (queue.len() as u32 + 2, Shape::Passed);
        self.ask_origin(ex, &Errand { key: &key, value: &keys, key_bytes, replies, writes, line, shape });
    }
}

/// The first of keys that stand each behind its length; empty if there is none.
fn first_key(keys: &[u8]) -> &[u8] {
    match keys.split_first_chunk::<4>() {
        Some((len, rest)) => &rest[..u32::from_le_bytes(*len) as usize],
        None => &[],
    }
}

/// Appends a command as an array of its arguments.
pub(super) fn append_command(arguments: Arguments<'_>, out: &mut Vec<u8>) {
    super::reply::header(out, b'*', arguments.len());
    arguments.from(0).for_each(|argument| super::reply::bulk(out, argument));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::parser::{Limits, Parsed, Parser};

    fn places_in(line: &str) -> Option<Vec<usize>> {
        let mut parser = Parser::default();
        let limits = Limits { value_bytes_max: 1000, query_bytes_max: 1000, unauthenticated: None };
        let input = format!("{line}\r\n");
        assert!(matches!(parser.parse(input.as_bytes(), limits), Parsed::Command(_)));
        let arguments = parser.arguments(input.as_bytes());
        places(row(arguments.at(0)).expect("it is in the table").1, arguments)
    }

    #[test]
    fn names_stand_in_order_and_are_none_of_ours() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (name, _, _) in TABLE {
            assert!(name.len() <= NAME_BYTES_MAX, "{name}");
            assert!(commands::lookup(name.as_bytes()).is_none(), "{name} is a command of ours");
        }
        assert!(row(b"HgEtAlL").is_some() && row(b"nothing").is_none() && row(&[b'x'; 300]).is_none());
    }

    #[test]
    fn keys_stand_where_each_command_has_them() {
        for (line, places) in [
            ("hset k f v", Some(vec![1])),
            ("lmove a b left right", Some(vec![1, 2])),
            ("sunion a b c", Some(vec![1, 2, 3])),
            ("bitop and dest a b", Some(vec![2, 3, 4])),
            ("xgroup create s g $", Some(vec![2])),
            ("zunion 2 a b withscores", Some(vec![2, 3])),
            ("zunion 3 a b", None),
            ("zunion -1 a b", None),
            ("zunion x a b", None),
            ("eval script 1 k argument", Some(vec![3])),
            ("eval script 0 argument", Some(vec![])),
            ("eval script", None),
            ("zinterstore dest 2 a b", Some(vec![1, 3, 4])),
            ("sort k by x store d", Some(vec![1, 5])),
            ("georadius k 0 0 1 m storedist d", Some(vec![1, 7])),
            ("xread count 1 streams a b 0 0", Some(vec![4, 5])),
            ("xread count 1", None),
            ("script load x", Some(vec![])),
            ("blpop a b 0", Some(vec![1, 2])),
            ("blpop a", None),
            ("blmpop 0.5 2 a b left", Some(vec![3, 4])),
            ("brpoplpush a b 1", Some(vec![1, 2])),
            ("publish channel message", Some(vec![])),
            ("hget", None),
        ] {
            assert_eq!(places_in(line), places, "{line}");
        }
    }

    #[test]
    fn how_long_a_command_waits_is_in_its_words() {
        let millis = |line: &str| {
            let mut parser = Parser::default();
            let limits = Limits { value_bytes_max: 1000, query_bytes_max: 1000, unauthenticated: None };
            let input = format!("{line}\r\n");
            assert!(matches!(parser.parse(input.as_bytes(), limits), Parsed::Command(_)));
            let arguments = parser.arguments(input.as_bytes());
            let id = commands::lookup(arguments.at(0)).map(|command| command.id);
            patience(arguments.at(0), id).map(|patience| patience.millis(arguments))
        };
        for (line, wanted) in [
            ("blpop a b 1.5", Some(1500)),
            ("blpop a 0", Some(u64::MAX)),
            ("brpop a 0.0001", Some(1)),
            ("blmove a b left right 3", Some(3000)),
            ("blmpop 2 1 a left", Some(2000)),
            ("bzmpop 0 1 a min", Some(u64::MAX)),
            ("bzpopmin a nonsense", Some(0)),
            ("bzpopmin a -1", Some(0)),
            ("bzpopmin a inf", Some(0)),
            ("blpop", Some(0)),
            ("xread block 70 streams a 0", Some(70)),
            ("xread count 1 block 0 streams a 0", Some(u64::MAX)),
            ("xread count 1 streams block 0", Some(0)),
            ("xreadgroup group g c block 5 streams a >", Some(5)),
            ("xread streams a 0 block", Some(0)),
            ("wait 1 250", Some(250)),
            ("waitaof 1 1 0", Some(u64::MAX)),
            ("hget a f", None),
            ("get a", None),
        ] {
            assert_eq!(millis(line), wanted, "{line}");
        }
    }
}
