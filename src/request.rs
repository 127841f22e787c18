//! What a client wants and what came of it, in words of no protocol.
//!
//! A [`Request`] is a key, a value (often empty) and a [`Verb`]; an [`Outcome`] is an [`Answer`] and a value. Verbs and
//! answers are small and `Copy`, the bytes are borrowed: so a request that must hop to another core is a fixed record
//! and two runs of bytes, and one that stays allocates nothing.

use crate::clock::Mono;
use crate::ids::{ConnectionId, CoreId, Version};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// One operation on one key (or, for the verbs that say so, on a whole core).
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The key: up to 64 KiB; empty for verbs without one, too.
    pub key: &'a [u8],
    /// The value, the part to append, a glob pattern: what the verb says.
    pub value: &'a [u8],
    /// What to do.
    pub verb: Verb,
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verb {
    /// Read. Answers `Item` or `Miss`.
    Get,
    /// Read, with effects on the way. Answers `Item`, `Miss` or, with `vivify`, an empty `Item` with the right to fill.
    Fetch(Fetch),
    /// Look at an item without using it (it gets no warmer). Answers `Item` (value included) or `Miss`.
    Peek,
    /// As `Peek`, without the value: nothing large travels between cores for a question about an item.
    Look,
    /// Store the value. Answers `Stored`, `Refused`, or `Previous` where the old value was asked for.
    Put(Put),
    /// Append or prepend the value. Answers `Stored` (its `len` tells the new length) or `Refused`.
    Splice(Splice),
    /// Overwrite a range of the value with the request's, zero-filled up to `offset`. Answers `Stored`.
    Overwrite {
        /// First byte to overwrite.
        offset: u32,
    },
    /// Count up or down. Answers `Counted`, `Refused` or a fault.
    Count(Count),
    /// Add the decimal float in the request's value. Answers `Item` with the new value as text, or a fault.
    CountFloat,
    /// Remove. Answers `Removed`, `Miss` or `Refused`.
    Remove(Remove),
    /// Move or copy the item to the key that stands in the request's value, on the same core: value, flags and expiry, in
    /// one step. Answers `Stored`, `Miss`, or `Refused` where the target exists.
    Transfer(Transfer),
    /// Store several items of this core if none of them exists, all or none. The request's value holds keys and values in
    /// turn, each as a little-endian u32 length and its bytes; its key is one of them. Answers `Stored` or `Refused`.
    PutAllAbsent,
    /// Look whether items are as they were seen. The request's value holds, for each, its key behind a little-endian u32
    /// length, then its version and its end ([`Expiry::to_number`]) as little-endian u64; version 0: there was none. Answers
    /// `Number`, or `Refused` if one has changed: then what follows in the same batch up to `Unguard` is not done.
    Guard,
    /// Ends what a guard guards. Answers `Number`.
    Unguard,
    /// Begin to tell an observer of changes: of keys it tracks, or (`all`) of those that begin with the request's value. To
    /// every core. Answers `Number`.
    Observe(Observer, Follow),
    /// Tell an observer nothing any more. To every core. Answers `Number`.
    Unobserve(Observer),
    /// Tell the observer of the next change of this key, which it is about to read. Answers `Number`.
    Track(Observer),
    /// The next change on this core, of this key, is the observer's own. Answers `Number`.
    Own(Observer),
    /// Change the expiry. Answers `Touched`, `Miss` or `Refused`.
    Expire(Expire),
    /// Walk the core's items. The request's value is a glob pattern (empty: all). Answers `Page`; the value holds the
    /// keys, each as a little-endian u32 length and its bytes.
    Scan(Scan),
    /// A key of the core, picked at random. Answers `Page` with one key or none.
    Random,
    /// Number of items of the core. Answers `Number`.
    Size,
    /// Forget everything the core holds that is older than `at`. Answers `Number`, the items forgotten if at once.
    Flush {
        /// When it takes effect; past moments mean now.
        at: Mono,
    },
    /// Forget what the request's key names, wherever it comes from. Answers `Removed` or `Miss` for a key, else `Number`: of
    /// the items forgotten at once.
    Invalidate(Named),
    /// Have the origin of the key do a command as it is. Whatever core owns the keys: the asking one. The request's value holds
    /// all keys of the command, each behind a little-endian u32 length, then the command's bytes; its own key is one of them,
    /// or empty where there is none. Answers `Page`; the value is the origin's reply in its protocol.
    Pass(Pass),
    /// Number of items in one slot. Answers `Number`.
    SlotSize {
        /// The slot's number.
        slot: u16,
    },
    /// The core's counters. Answers `Page`; the value is [`crate::metrics::Counters::to_bytes`], then 256 little-endian
    /// u64: how often each RESP command was called, by its number in the table.
    Counters,
    /// The core's connections, a line each as `CLIENT LIST` prints them. Answers `Page`. For the shell, not the engine.
    Connections,
    /// Close a connection of the core. Answers `Number` 1 or 0. For the shell, not the engine.
    Disconnect {
        /// The client id that `CLIENT ID` answers.
        client: u64,
    },
    /// End what a command of a connection of the core waits for at an origin. Answers `Number` 1 or 0, or the fault `Origin` with
    /// its words. For the shell, not the engine.
    Unblock {
        /// The client id that `CLIENT ID` answers.
        client: u64,
        /// What the command answers then.
        how: UnblockAs,
    },
    /// Where a connection is. Answers `Page`; the value is empty if it is not of this core, else [`Observer::to_bytes`]. For the
    /// shell, not the engine.
    Locate {
        /// The client id that `CLIENT ID` answers.
        client: u64,
    },
    /// Show an observer what happens on this core, or (`kinds` 0) do so no longer. To every core. Answers `Number`, or the fault
    /// `Busy` if there are too many who watch. For the shell, not the engine.
    Watch {
        /// Who.
        observer: Observer,
        /// Bits of [`crate::wire::events`].
        kinds: u8,
    },
    /// Tell a connection of the core something beside its replies. The request's key is the key that changed, its value the
    /// line. Answers `Number`. For the shell, not the engine.
    Notify {
        /// Which.
        connection: ConnectionId,
        /// What.
        notice: Notice,
    },
    /// Show an observer the commands of this core's connections, or do so no longer. To every core. Answers `Number`. For the
    /// shell, not the engine.
    Monitor {
        /// Who.
        observer: Observer,
        /// Whether from now on.
        on: bool,
    },
    /// A part of what the core remembers of commands. Answers `Page` or `Number`. For the shell, not the engine.
    Journal(Journal),
    /// Make or change the user that the request's key names by the rules of its value, or remove it if that is empty. To every
    /// core. Answers `Number`. For the shell, not the engine.
    SetUser,
    /// Change a setting. To every core. Answers `Number`. For the shell, not the engine.
    Configure {
        /// Which.
        setting: Setting,
        /// Its new value.
        number: i64,
    },
    /// Reset the core's counters that users may reset. Answers `Number` 0.
    ResetCounters,
    /// Change the limit of memory for items at run time. Any one core does it for all. Answers `Number`, the bytes of this
    /// core's share, or the fault `OutOfMemory` if a core could not work with so little. For the shell, not the engine.
    Limit {
        /// Most bytes for items, index and receive buffers of all cores together.
        bytes: u64,
    },
    /// What cores say to each other of moves of shards; the request's value goes with it. For the shell, not the engine.
    Shard(ShardCall),
}

/// What a command answers whose wait is ended by another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnblockAs {
    /// What it answers when its time is over.
    Timeout,
    /// An error.
    Error,
}

/// What a core wants of another one for the sake of a shard that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardCall {
    /// Take in the frame of the shard stream in the value. Answers `Number`.
    Frame,
    /// Change the shard's record to the one in the value, if it stands at this revision (0: as it was at the start). Answers
    /// `Number`, the new revision, or `Refused` with what stands there, as of `Look`.
    Swap {
        /// The shard's number.
        shard: u16,
        /// The revision.
        expected: u64,
    },
    /// The shard's record as it stands. Answers `Page`: its revision as a little-endian u64, then the record; nothing, and 1 as
    /// where to go on, if it stands as shards were placed.
    Look {
        /// The shard's number.
        shard: u16,
    },
    /// The records that were ever changed. Answers `Page`: each the shard's number as a little-endian u32, a length, and what `Look`
    /// answers.
    List,
    /// Learn that the record of a shard names another owner: it is the value, at this revision. Answers `Number`.
    Owner {
        /// The shard's number.
        shard: u16,
        /// The revision.
        revision: u64,
    },
    /// Answers `Number` when whatever was asked before, on the same way, of keys of the shard stands in its owner's order: what
    /// the asker sends straight to the owner from then on comes behind it.
    Fence {
        /// The shard's number.
        shard: u16,
    },
}

/// Parts of what a core remembers of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Commands that took long.
    Slow,
    /// How many these are.
    SlowCount,
    /// Forget them.
    SlowReset,
    /// Samples of latencies: seconds since 1970 and milliseconds, little-endian u64 each.
    Samples,
    /// Forget them; answers 1 if there were any.
    SamplesReset,
    /// What was refused to whom, see [`crate::wire::denials`].
    Denials,
    /// Forget that.
    DenialsReset,
}

/// Settings that change at run time by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Most connections, all cores.
    ClientsMax,
    /// Microseconds from which on a command is slow.
    SlowMicros,
    /// Slow commands that are kept.
    SlowCountMax,
    /// Milliseconds from which on a command is a sample of latency.
    LatencyMillis,
}

/// A connection that is told of changes, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observer {
    /// The core that serves it.
    pub core: CoreId,
    /// The connection.
    pub connection: ConnectionId,
}

impl Observer {
    /// As bytes, to carry.
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&self.core.0.to_le_bytes());
        bytes[2..6].copy_from_slice(&self.connection.place.to_le_bytes());
        bytes[6..].copy_from_slice(&self.connection.generation.to_le_bytes());
        bytes
    }

    /// From bytes of [`Observer::to_bytes`].
    pub fn from_bytes([c0, c1, p0, p1, p2, p3, g0, g1, g2, g3]: [u8; 10]) -> Observer {
        let place = u32::from_le_bytes([p0, p1, p2, p3]);
        let generation = u32::from_le_bytes([g0, g1, g2, g3]);
        Observer {
            core: CoreId(u16::from_le_bytes([c0, c1])),
            connection: ConnectionId { place, generation },
        }
    }
}

/// What an observer is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Of all keys that begin with a prefix; else only of keys it tracks.
    pub all: bool,
    /// Not of changes that are its own.
    pub not_own: bool,
}

/// What a connection is told beside its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A key has changed.
    Changed,
    /// All keys have changed.
    AllChanged,
    /// A key of this observer's has changed, who wants another connection to be told.
    Redirected(Observer),
    /// All keys of this observer's have.
    AllRedirected(Observer),
    /// The connection that was to be told in this one's place has gone.
    RedirectBroken,
    /// A line of `MONITOR`.
    Line,
    /// Lines of [`crate::wire::events`], behind how many were too many.
    Events,
    /// What its origin has to say, in the protocol that the client speaks.
    Pushed,
}

/// What the key of an invalidation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The item of this key. For the core that owns it.
    Key,
    /// All items whose keys begin so (empty: all). For every core.
    Prefix,
    /// All items that their origin put under this tag. For every core.
    Tag,
}

/// When an item ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Only by eviction.
    #[default]
    Never,
    /// At this moment; one that has passed means at once.
    At(Mono),
}

impl Expiry {
    /// As a number to compare and to carry; never is later than all.
    pub fn to_number(self) -> u64 {
        match self {
            Expiry::Never => u64::MAX,
            Expiry::At(at) => at.0,
        }
    }
}

/// What becomes of the expiry an item already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryChange {
    /// Stays as it is.
    Keep,
    /// Becomes this.
    Set(Expiry),
}

/// A read with effects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fetch {
    /// Change the expiry of what is found (`GETEX`, `gat`, meta `T`).
    pub expiry: ExpiryChange,
    /// Remove what is found (`GETDEL`).
    pub remove: bool,
    /// Count the read as a use (meta `q` and `k` do not matter here; `OBJECT` and `TTL` use [`Verb::Peek`]).
    pub warm: bool,
    /// On a miss leave an empty item with this expiry and give the caller the right to fill it (meta `N`).
    pub vivify: Option<Expiry>,
    /// Give the right to refill to one caller when the item ends before this moment (meta `R`).
    pub refill_before: Option<Mono>,
    /// The reader knows leases (meta): it sees hollow items and may be given the right to refill. For one that does
    /// not (`GETEX`, `GETDEL`, `gat`) a hollow item is a miss and a stale one is served without giving the right away.
    pub lease: bool,
    /// Version that a vivified item takes instead of ours (meta `E`).
    pub version: Option<Version>,
}

impl Fetch {
    /// A plain read that counts as a use, by a reader who knows leases.
    pub const PLAIN: Fetch = Fetch {
        expiry: ExpiryChange::Keep,
        remove: false,
        warm: true,
        lease: true,
        vivify: None,
        refill_before: None,
        version: None,
    };
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// There is no item, or a hollow one (`NX`, `add`).
    Absent,
    /// There is one (`XX`).
    Present,
    /// There is one, or a hollow one (memcached's `replace` and `MR`, to which that is an item).
    Held,
    /// There is one of exactly this version (`cas`). Without one: `Refused(Absent)`.
    VersionIs(Version),
    /// As `VersionIs`, but an older version given is stored all the same and marked stale (meta `I`).
    VersionIsOrStale(Version),
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Put {
    /// Opaque bits kept for memcached clients.
    pub flags: u32,
    /// New expiry, or that of the item replaced (`KEEPTTL`).
    pub expiry: ExpiryChange,
    /// Whether it happens at all.
    pub condition: Condition,
    /// Answer with the value before (`SET .. GET`, `GETSET`).
    pub previous: bool,
    /// Version to take instead of ours (meta `E`, a fill of a versioned origin).
    pub version: Option<Version>,
    /// The key is given in base64 (meta `b`), and is to be shown so.
    pub binary_key: bool,
    /// The value is known to be out of date: it was marked so under the key that it comes from.
    pub stale: bool,
}

impl Put {
    /// An unconditional store without flags.
    pub const fn plain(expiry: Expiry) -> Put {
        Put {
            flags: 0,
            expiry: ExpiryChange::Set(expiry),
            condition: Condition::Always,
            previous: false,
            version: None,
            binary_key: false,
            stale: false,
        }
    }
}

/// An append or prepend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Splice {
    /// Put the part before the value instead of behind it.
    pub front: bool,
    /// Make an item of the part alone if there is none, with this expiry and whatever the condition (`APPEND`, meta `N`).
    pub create: Option<Expiry>,
    /// Flags of an item made so.
    pub flags: u32,
    /// Only on this version.
    pub condition: Condition,
    /// Version to take instead of ours.
    pub version: Option<Version>,
    /// The key of an item made so is given in base64 (meta `b`).
    pub binary_key: bool,
}

/// Arithmetic on a decimal value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// What to add, and by whose rules.
    pub by: Step,
    /// Value and expiry of an item made if there is none, whatever the condition. `Step::Signed` starts at 0 instead of
    /// this value, and makes an item without expiry if this is `None`.
    pub create: Option<(u64, Expiry)>,
    /// Only on this version.
    pub condition: Condition,
    /// Change the expiry of an item that was there (meta `T`).
    pub expiry: ExpiryChange,
    /// Version to take instead of ours.
    pub version: Option<Version>,
}

/// A step of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Redis: signed 64 bits; overflow is a fault and changes nothing. An absent item counts as 0.
    Signed(i64),
    /// memcached `incr`: unsigned 64 bits, wraps.
    Up(u64),
    /// memcached `decr`: stops at 0; a shorter result is padded with spaces on the right to the old length.
    Down(u64),
}

/// A removal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remove {
    /// Only on this version.
    pub condition: Condition,
    /// Mark stale instead of removing: the next reader gets it with the right to refill (meta `I`).
    pub stale: bool,
    /// With `stale` or `clear`: new expiry of the item that stays (meta `T`).
    pub expiry: ExpiryChange,
    /// Drop value and flags but keep the item (meta `x`).
    pub clear: bool,
    /// Version that a stale item takes instead of ours (meta `E`).
    pub version: Option<Version>,
}

impl Remove {
    /// Removes whatever is there.
    pub const PLAIN: Remove = Remove {
        condition: Condition::Always,
        stale: false,
        expiry: ExpiryChange::Keep,
        clear: false,
        version: None,
    };
}

/// A move or copy to another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Leave the source where it is (`COPY`).
    pub keep: bool,
    /// Take the place of what the target key holds.
    pub replace: bool,
}

/// A change of expiry; one that has passed removes the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expire {
    /// The new expiry.
    pub expiry: Expiry,
    /// Only if the old expiry compares so.
    pub only: ExpireOnly,
}

/// `EXPIRE`'s conditions; an item without expiry counts as ending never, later than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireOnly {
    /// Always.
    Any,
    /// If it has none (`NX`).
    IfNone,
    /// If it has one (`XX`; `PERSIST`).
    IfSome,
    /// If the new one is later (`GT`).
    IfLater,
    /// If the new one is earlier (`LT`).
    IfEarlier,
    /// If it has one and the new one is later (`XX GT`).
    IfSomeAndLater,
    /// If it has one and the new one is earlier (`XX LT`).
    IfSomeAndEarlier,
}

/// A step of a walk over the core's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// 0 begins; otherwise what the page before said. Below 2^48, as clients are told it together with the core.
    pub cursor: u64,
    /// Items to look at, roughly.
    pub count: u32,
    /// Only this slot.
    pub slot: Option<u16>,
}

/// A command for an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Version of the protocol that the reply is to be in.
    pub protocol: u8,
    /// Bytes of keys before those of the command.
    pub key_bytes: u32,
    /// Replies that the command's bytes bring, of which the last counts: more than one for several commands in one step.
    pub replies: u32,
    /// Whether what is held of its keys is out of date afterwards.
    pub writes: bool,
    /// Which connection it takes.
    pub line: Line,
}

/// Which connection to the origin a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The one that commands of all clients share.
    Shared,
    /// The client's own. A command without bytes ends it.
    Private(Private),
}

impl Line {
    /// Whether a command for it may be refused where too much waits for origins: not if the session counts on its coming there,
    /// as what is kept of a connection is begun and ended by it.
    pub fn refusable(self) -> bool {
        match self {
            Line::Shared => true,
            Line::Private(how) => how.waits_millis > 0,
        }
    }
}

/// What a command on a client's own connection to the origin is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private {
    /// Milliseconds that it may wait there for what others do, beside the origin's own deadline; `u64::MAX`: as long as the
    /// client stays.
    pub waits_millis: u64,
    /// Why the connection stays the client's when this command is answered.
    pub keeps: Keeps,
    /// Its replies are confirmations of subscriptions, which come among what is published. All of them are the reply.
    pub confirms: bool,
    /// It is worth nothing on any other connection than the one that was kept for what the client watches.
    pub continues: bool,
}

/// Why a connection to the origin stays a client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It does not.
    Nothing,
    /// Keys are watched there: without it nobody knows whether they changed.
    Watched,
    /// Channels are subscribed to there: without it the client would miss what is published.
    Subscribed,
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The answer.
    pub answer: Answer,
    /// Its bytes; empty where the answer has none.
    pub value: Value<'a>,
}

/// The bytes of an answer, borrowed from the store.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// One run.
    One(&'a [u8]),
    /// One run that may be kept without copying it.
    Shared(&'a Shared),
}

/// Memory that long values lie in.
pub trait Memory: AsRef<[u8]> + Any + Send + Sync {
    /// Whether what it held is gone, so that only readers keep it.
    fn is_gone(&self) -> bool {
        false
    }
}

impl Memory for Vec<u8> {}

/// Bytes of a long value that nobody changes and several may hold: the memory stays until the last of them lets go.
#[derive(Clone)]
pub struct Shared {
    memory: Arc<dyn Memory>,
    start: usize,
    end: usize,
}

impl Shared {
    /// All of some memory.
    pub fn new(memory: Arc<dyn Memory>) -> Shared {
        let end = (*memory).as_ref().len();
        Shared { memory, start: 0, end }
    }

    /// A part of it, counted from its beginning.
    ///
    /// # Panics
    /// If the range lies outside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Shared {
        assert!(range.start <= range.end && range.end <= self.len(), "beyond the value");
        let (start, end) = (self.start + range.start, self.start + range.end);
        Shared { memory: self.memory.clone(), start, end }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &(*self.memory).as_ref()[self.start..self.end]
    }

    /// Whether only readers keep its memory.
    pub fn is_gone(&self) -> bool {
        self.memory.is_gone()
    }

    /// Whether these bytes are those of a slice: not only alike, but the same memory.
    pub fn is(&self, bytes: &[u8]) -> bool {
        std::ptr::eq(self.bytes(), bytes)
    }

    /// The memory as what it is, and where in it the bytes lie; nothing if it is something else.
    pub fn memory<M: Memory>(&self) -> Option<(Arc<M>, Range<usize>)> {
        let memory: Arc<dyn Any + Send + Sync> = self.memory.clone();
        Some((memory.downcast().ok()?, self.start..self.end))
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} bytes)", self.len())
    }
}

impl<'a> Value<'a> {
    /// No bytes.
    pub const EMPTY: Value<'static> = Value::One(&[]);

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Value::One(run) => run.len(),
            Value::Shared(shared) => shared.len(),
        }
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the bytes.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes());
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Value::One(run) => run,
            Value::Shared(shared) => shared.bytes(),
        }
    }
}

/// The answer without its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Found; the outcome's value is the item's.
    Item(Item),
    /// Not there.
    Miss,
    /// Written.
    Stored {
        /// Its version.
        version: Version,
        /// Whether it replaced an item.
        replaced: bool,
        /// Length of the value now stored.
        len: u32,
    },
    /// The condition did not hold; nothing changed.
    Refused(Refusal),
    /// Asked with `previous`: the outcome's value is the one before, if `existed`.
    Previous {
        /// Whether there was one.
        existed: bool,
        /// Whether the new one was written.
        stored: bool,
        /// Flags of the one before.
        flags: u32,
    },
    /// A counter's new value: bits of an i64 for `Step::Signed`, else a u64.
    Counted {
        /// The value.
        number: u64,
        /// The counter as an item.
        item: Item,
    },
    /// Removed (or marked stale).
    Removed {
        /// Version of the stale item left, or of the item removed.
        version: Version,
    },
    /// Expiry changed, or the item removed because the new one has passed.
    Touched(Item),
    /// A number.
    Number(i64),
    /// Bytes, and where to go on (0: nowhere).
    Page {
        /// For the next call.
        cursor: u64,
    },
    /// Could not be done.
    Fault(Fault),
}

/// Why a condition did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is an item, and none was wanted.
    Present,
    /// There is none, and one was wanted.
    Absent,
    /// It has another version.
    Version,
    /// `EXPIRE`'s condition.
    Expiry,
}

/// What is known of an item beside its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// Opaque bits of memcached clients.
    pub flags: u32,
    /// Length of the value.
    pub len: u32,
    /// Version.
    pub version: Version,
    /// When it ends.
    pub expiry: Expiry,
    /// The lease's state for this caller.
    pub lease: Lease,
    /// Whether it was read before (meta `h`).
    pub used: bool,
    /// Seconds since it was used last, as exactly as the store remembers (meta `l`).
    pub idle_seconds: u32,
    /// Whether its key was given in base64 (meta `b`).
    pub binary_key: bool,
}

/// The right to fill or refill an item, as this caller finds it (meta `W`, `X`, `Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lease {
    /// This caller has just been given the right: it should fetch and put with the item's version (`W`).
    pub won: bool,
    /// The value is out of date (`X`).
    pub stale: bool,
    /// Somebody else has the right (`Z`).
    pub taken: bool,
}

/// Longest value that a request may copy whole, where it changes a part of it or gives it another key, on a core with so many
/// bytes of memory: 16 MiB, since that takes its core as long as it takes, and a 64th of the memory, which the copy needs beside it.
pub fn copied_bytes_max(memory_bytes: u64) -> usize {
    (memory_bytes / 64).clamp(1 << 20, 16 << 20) as usize
}

/// Values from here on have room made for them ahead of their request, step by step.
pub const LANDING_BYTES_MIN: usize = 8 << 10;

/// Values from here on are read without being copied, where they have memory of their own: copying one takes longer than a turn
/// of the core should.
pub const SHARED_BYTES_MIN: usize = 256 << 10;

/// Why a request could not be done; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The value is not a decimal integer in range.
    NotInteger,
    /// The value is not a decimal float.
    NotFloat,
    /// The counter would leave its range.
    Overflow,
    /// The float would be NaN or infinite.
    NotFinite,
    /// Key and value are larger than an item may be.
    TooLarge,
    /// No room, and nothing left to evict.
    OutOfMemory,
    /// The core has too much to do; ask again.
    Busy,
    /// The verb is not one that this core does.
    Unsupported,
    /// The node that owns the key cannot be reached.
    Away,
    /// The origin of the key did not do it, or did not answer. The outcome's value says why, in words for a client, where
    /// more is known: a text with an error word before it, as RESP has them.
    Origin,
}
