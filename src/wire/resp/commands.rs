//! The commands we answer: one static table for lookup, `COMMAND`, `INFO commandstats` and the compatibility page.
//!
//! Arity, flags and key positions are facts of Redis 7.2 that clients act on; what each does here is the summary. A
//! command's row in the table is its [`Id`]; commands and subcommands together are numbered by `place`.

use crate::wire::users::Access;

/// Reads only.
pub const READONLY: u16 = 1 << 0;
/// Writes.
pub const WRITE: u16 = 1 << 1;
/// May need memory that is not there.
pub const DENYOOM: u16 = 1 << 2;
/// For administrators.
pub const ADMIN: u16 = 1 << 3;
/// Part of publish and subscribe.
pub const PUBSUB: u16 = 1 << 4;
/// Not for scripts.
pub const NOSCRIPT: u16 = 1 << 5;
/// May wait.
pub const BLOCKING: u16 = 1 << 6;
/// Answered while loading.
pub const LOADING: u16 = 1 << 7;
/// Answered by a stale replica.
pub const STALE: u16 = 1 << 8;
/// Takes constant time.
pub const FAST: u16 = 1 << 9;
/// Answered before authentication.
pub const NO_AUTH: u16 = 1 << 10;
/// Answered while a script runs.
pub const ALLOW_BUSY: u16 = 1 << 11;
/// Not for transactions.
pub const NO_MULTI: u16 = 1 << 12;
/// Slow or revealing; shown as a category only.
pub const DANGEROUS: u16 = 1 << 13;

/// Flags by the names that `COMMAND INFO` shows, in bit order.
const FLAG_NAMES: [&str; 13] = [
    "readonly",
    "write",
    "denyoom",
    "admin",
    "pubsub",
    "noscript",
    "blocking",
    "loading",
    "stale",
    "fast",
    "no_auth",
    "allow_busy",
    "no_multi",
];

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Values.
    String,
    /// Keys of any type.
    Generic,
    /// This connection.
    Connection,
    /// The server.
    Server,
    /// The cluster.
    Cluster,
    /// Publish and subscribe.
    Pubsub,
    /// Scripts and functions.
    Scripting,
    /// Several commands in one step.
    Transactions,
}

impl Group {
    /// The name that `COMMAND DOCS` shows.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Pubsub => "pubsub",
            Group::Scripting => "scripting",
            Group::Transactions => "transactions",
        }
    }

    fn category(self) -> Option<&'static str> {
        match self {
            Group::String => Some("string"),
            Group::Generic => Some("keyspace"),
            Group::Connection => Some("connection"),
            Group::Pubsub => Some("pubsub"),
            Group::Scripting => Some("scripting"),
            Group::Transactions => Some("transaction"),
            Group::Server | Group::Cluster => None,
        }
    }
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Which one.
    pub id: Id,
    /// Name in lower case.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i8,
    /// Flags, bits of the constants of this file.
    pub flags: u16,
    /// Place of the first key, 0: none.
    pub first_key: u8,
    /// Place of the last key; negative: counted from the end.
    pub last_key: i8,
    /// Distance from key to key.
    pub key_step: u8,
    /// What it is about.
    pub group: Group,
    /// Version of Redis that brought it.
    pub since: &'static str,
    /// What it does here.
    pub summary: &'static str,
    /// Its subcommands, in alphabetical order.
    pub subcommands: &'static [Subcommand],
}

/// A subcommand.
#[derive(Debug)]
pub struct Subcommand {
    /// Name in lower case.
    pub name: &'static str,
    /// As [`Command::arity`], with both names.
    pub arity: i8,
    /// As [`Command::flags`].
    pub flags: u16,
    /// Place of its one key, 0: none.
    pub key: u8,
    /// What it does here.
    pub summary: &'static str,
}

/// Whether so many arguments are right.
pub(super) fn arity_fits(arity: i8, arguments: usize) -> bool {
    if arity >= 0 { arguments == arity as usize } else { arguments >= arity.unsigned_abs() as usize }
}

/// Names of the flags set.
pub(super) fn flag_names(flags: u16) -> impl Iterator<Item = &'static str> {
    FLAG_NAMES.into_iter().enumerate().filter(move |(bit, _)| flags & 1 << bit != 0).map(|(_, name)| name)
}

/// Names of the ACL categories of a command, or of its subcommand.
pub(crate) fn categories(
    command: &'static Command,
    sub: Option<&'static Subcommand>,
) -> impl Iterator<Item = &'static str> {
    let flags = sub.map_or(command.flags, |sub| sub.flags);
    let own = match command.id {
        // Their subcommands are of the category, they alone can do nothing.
        Id::Object | Id::Client | Id::Function if sub.is_none() => None,
        Id::Flushall | Id::Flushdb | Id::Dbsize | Id::Invalidate => Some("keyspace"),
        Id::Command | Id::Readonly | Id::Readwrite | Id::Asking | Id::Wait => Some("connection"),
        Id::Role => Some("admin"),
        _ => command.group.category(),
    };
    let by_flag = [
        (READONLY, "read"),
        (WRITE, "write"),
        (ADMIN, "admin"),
        (ADMIN | DANGEROUS, "dangerous"),
        (BLOCKING, "blocking"),
    ];
    let speed = if flags & FAST != 0 { "fast" } else { "slow" };
    let by_flag = by_flag.into_iter().filter(move |(bits, _)| flags & bits != 0).map(|(_, name)| name);
    own.into_iter().chain(by_flag).chain([speed])
}

/// All ACL categories, as `ACL CAT` shows them.
pub(crate) const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

macro_rules! commands {
    ($(
        $id:ident $name:literal $arity:literal ($($flag:tt)|*) $first:literal $last:literal $step:literal $group:ident
        $since:literal $summary:literal
        [$( $sub:literal $sub_arity:literal ($($sub_flag:tt)|*) $key:literal $sub_summary:literal; )*];
    )+) => {
        /// Which command.
        #[allow(missing_docs)] // The names say it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Id { $($id),+ }

        /// The table.
        pub static COMMANDS: &[Command] = &[ $( Command {
            id: Id::$id,
            name: $name,
            arity: $arity,
            flags: $($flag)|*,
            first_key: $first,
            last_key: $last,
            key_step: $step,
            group: Group::$group,
            since: $since,
            summary: $summary,
            subcommands: &[ $( Subcommand {
                name: $sub,
                arity: $sub_arity,
                flags: $($sub_flag)|*,
                key: $key,
                summary: $sub_summary,
            } ),* ],
        } ),+ ];
    };
}

commands! {
    Get "get" 2 (READONLY | FAST) 1 1 1 String "1.0.0"
        "Reads the value of a key." [];
    Set "set" -3 (WRITE | DENYOOM) 1 1 1 String "1.0.0"
        "Sets a key, with conditions, an expiry or the value before." [];
    Mget "mget" -2 (READONLY | FAST) 1 -1 1 String "1.0.0"
        "Reads the values of several keys." [];
    Mset "mset" -3 (WRITE | DENYOOM) 1 -1 2 String "1.0.1"
        "Sets several keys." [];
    Msetnx "msetnx" -3 (WRITE | DENYOOM) 1 -1 2 String "1.0.1"
        "Sets several keys of one core if none of them exists, all or none." [];
    Setex "setex" 4 (WRITE | DENYOOM) 1 1 1 String "2.0.0"
        "Sets a key with an expiry in seconds." [];
    Psetex "psetex" 4 (WRITE | DENYOOM) 1 1 1 String "2.6.0"
        "Sets a key with an expiry in milliseconds." [];
    Setnx "setnx" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Sets a key if it does not exist." [];
    Getex "getex" -2 (WRITE | FAST) 1 1 1 String "6.2.0"
        "Reads a key and changes its expiry." [];
    Getdel "getdel" 2 (WRITE | FAST) 1 1 1 String "6.2.0"
        "Reads a key and removes it." [];
    Getset "getset" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Sets a key and answers the value before." [];
    Del "del" -2 (WRITE) 1 -1 1 Generic "1.0.0"
        "Removes keys." [];
    Unlink "unlink" -2 (WRITE | FAST) 1 -1 1 Generic "4.0.0"
        "Removes keys." [];
    Exists "exists" -2 (READONLY | FAST) 1 -1 1 Generic "1.0.0"
        "Counts the keys that exist." [];
    Touch "touch" -2 (READONLY | FAST) 1 -1 1 Generic "3.2.1"
        "Counts the keys that exist, as a use of each." [];
    Ttl "ttl" 2 (READONLY | FAST) 1 1 1 Generic "1.0.0"
        "Seconds until a key ends." [];
    Pttl "pttl" 2 (READONLY | FAST) 1 1 1 Generic "2.6.0"
        "Milliseconds until a key ends." [];
    Expire "expire" -3 (WRITE | FAST) 1 1 1 Generic "1.0.0"
        "Lets a key end in so many seconds." [];
    Pexpire "pexpire" -3 (WRITE | FAST) 1 1 1 Generic "2.6.0"
        "Lets a key end in so many milliseconds." [];
    Expireat "expireat" -3 (WRITE | FAST) 1 1 1 Generic "1.2.0"
        "Lets a key end at a Unix time in seconds." [];
    Pexpireat "pexpireat" -3 (WRITE | FAST) 1 1 1 Generic "2.6.0"
        "Lets a key end at a Unix time in milliseconds." [];
    Expiretime "expiretime" 2 (READONLY | FAST) 1 1 1 Generic "7.0.0"
        "Unix time in seconds at which a key ends." [];
    Pexpiretime "pexpiretime" 2 (READONLY | FAST) 1 1 1 Generic "7.0.0"
        "Unix time in milliseconds at which a key ends." [];
    Persist "persist" 2 (WRITE | FAST) 1 1 1 Generic "2.2.0"
        "Takes away the expiry of a key." [];
    Type "type" 2 (READONLY | FAST) 1 1 1 Generic "1.0.0"
        "Type of a key: string or none." [];
    Strlen "strlen" 2 (READONLY | FAST) 1 1 1 String "2.2.0"
        "Length of a value." [];
    Incr "incr" 2 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Adds one to a counter." [];
    Decr "decr" 2 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Subtracts one from a counter." [];
    Incrby "incrby" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Adds to a counter." [];
    Decrby "decrby" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "1.0.0"
        "Subtracts from a counter." [];
    Incrbyfloat "incrbyfloat" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "2.6.0"
        "Adds to a decimal fraction." [];
    Append "append" 3 (WRITE | DENYOOM | FAST) 1 1 1 String "2.0.0"
        "Appends to a value." [];
    Getrange "getrange" 4 (READONLY) 1 1 1 String "2.4.0"
        "Reads a part of a value." [];
    Substr "substr" 4 (READONLY) 1 1 1 String "1.0.0"
        "Reads a part of a value." [];
    Setrange "setrange" 4 (WRITE | DENYOOM) 1 1 1 String "2.2.0"
        "Overwrites a part of a value." [];
    Rename "rename" 3 (WRITE) 1 2 1 Generic "1.0.0"
        "Gives an item another key." [];
    Renamenx "renamenx" 3 (WRITE | FAST) 1 2 1 Generic "1.0.0"
        "Gives an item another key if that does not exist." [];
    Copy "copy" -3 (WRITE | DENYOOM) 1 2 1 Generic "6.2.0"
        "Copies an item to another key." [];
    Move "move" 3 (WRITE | FAST) 1 1 1 Generic "1.0.0"
        "Tells that there is one database only." [];
    Dump "dump" 2 (READONLY) 1 1 1 Generic "2.6.0"
        "The value in the form that RESTORE takes, here and in Redis." [];
    Restore "restore" -4 (WRITE | DENYOOM | DANGEROUS) 1 1 1 Generic "2.6.0"
        "Sets a key to what DUMP made of a string." [];
    Scan "scan" -2 (READONLY) 0 0 0 Generic "2.8.0"
        "Walks the keys page by page, one core after the other." [];
    Keys "keys" 2 (NO_MULTI | READONLY | DANGEROUS) 0 0 0 Generic "1.0.0"
        "All keys that match a pattern." [];
    Randomkey "randomkey" 1 (READONLY) 0 0 0 Generic "1.0.0"
        "A key picked at random." [];
    Flushdb "flushdb" -1 (WRITE | DANGEROUS) 0 0 0 Server "1.0.0"
        "Removes all keys." [];
    Flushall "flushall" -1 (WRITE | DANGEROUS) 0 0 0 Server "1.0.0"
        "Removes all keys." [];
    Invalidate "invalidate" -3 (WRITE | FAST) 0 0 0 Server "1.0.0"
        "Forgets keys, prefixes or tags here and asks their origin again; the origin is not changed." [
            "key" -3 (WRITE | FAST) 0 "Forgets these keys.";
            "prefix" -3 (WRITE | FAST) 0 "Forgets all keys that begin so, in one step.";
            "tag" -3 (WRITE | FAST) 0 "Forgets all keys that their origin put under these tags.";
        ];
    Dbsize "dbsize" 1 (READONLY | FAST) 0 0 0 Server "1.0.0"
        "Number of keys." [];
    Object "object" -2 (0) 0 0 0 Generic "2.2.3"
        "Looks at an item without using it." [
            "encoding" 3 (READONLY) 2 "How the value would be held by Redis.";
            "freq" 3 (READONLY) 2 "Not tracked.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "idletime" 3 (READONLY) 2 "Seconds since the last use.";
            "refcount" 3 (READONLY) 2 "Number of references: 1.";
        ];
    Memory "memory" -2 (0) 0 0 0 Server "4.0.0"
        "Tells about memory." [
            "doctor" 2 (0) 0 "Advice about memory.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "purge" 2 (LOADING) 0 "Accepted; there is nothing to purge.";
            "stats" 2 (0) 0 "Bytes by use.";
            "usage" -3 (READONLY) 2 "Bytes that a key takes.";
        ];
    Hello "hello" -1 (NO_MULTI | NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY) 0 0 0 Connection "6.0.0"
        "Begins a conversation in RESP2 or RESP3." [];
    Auth "auth" -2 (NO_MULTI | NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY) 0 0 0 Connection "1.0.0"
        "Authenticates the connection." [];
    Ping "ping" -1 (FAST) 0 0 0 Connection "1.0.0"
        "Answers PONG, or its argument." [];
    Echo "echo" 2 (LOADING | STALE | FAST) 0 0 0 Connection "1.0.0"
        "Answers its argument." [];
    Quit "quit" -1 (NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY) 0 0 0 Connection "1.0.0"
        "Closes the connection." [];
    Reset "reset" 1 (NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY) 0 0 0 Connection "6.2.0"
        "Puts the connection back to its beginning." [];
    Select "select" 2 (LOADING | STALE | FAST | ALLOW_BUSY) 0 0 0 Connection "1.0.0"
        "Selects the database; there is only 0." [];
    Client "client" -2 (0) 0 0 0 Connection "2.4.0"
        "Tells about connections, and sets up this one." [
            "caching" 3 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Whether the keys of the next command are tracked.";
            "capa" -3 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Capabilities of the client; noted by nobody.";
            "getname" 2 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Name of this connection.";
            "getredir" 2 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Target of invalidations: -1 for none, 0 for this connection.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "id" 2 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Number of this connection.";
            "info" 2 (NOSCRIPT | LOADING | STALE) 0 "A line about this connection.";
            "kill" -3 (NO_MULTI | ADMIN | NOSCRIPT | LOADING | STALE) 0 "Closes connections.";
            "list" -2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "A line about each connection.";
            "no-evict" 3 (ADMIN | NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Accepted.";
            "no-touch" 3 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Accepted.";
            "reply" 3 (NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY) 0 "Turns replies off and on.";
            "setinfo" 4 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Name and version of the library.";
            "setname" 3 (NOSCRIPT | LOADING | STALE | ALLOW_BUSY) 0 "Names this connection.";
            "tracking" -3 (NOSCRIPT | LOADING | STALE) 0 "Turns client-side caching on and off.";
            "trackinginfo" 2 (NOSCRIPT | LOADING | STALE) 0 "State of client-side caching.";
            "unblock" -3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Ends what a client waits for at an origin.";
        ];
    Command "command" -1 (LOADING | STALE) 0 0 0 Server "2.8.13"
        "Tells about the commands of this server." [
            "count" 2 (LOADING | STALE) 0 "Number of commands.";
            "docs" -2 (LOADING | STALE) 0 "What commands are for.";
            "getkeys" -3 (LOADING | STALE) 0 "The keys among the arguments of a command.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "info" -2 (LOADING | STALE) 0 "Arity, flags and keys of commands.";
            "list" -2 (LOADING | STALE) 0 "Names of the commands.";
        ];
    Info "info" -1 (LOADING | STALE | DANGEROUS) 0 0 0 Server "1.0.0"
        "Counters and facts in sections." [];
    Config "config" -2 (0) 0 0 0 Server "2.0.0"
        "Shows settings, and changes some." [
            "get" -3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Settings whose names match patterns.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "resetstat" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Resets the counters of INFO.";
            "rewrite" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Refused: the configuration file is its owner's.";
            "set" -4 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Changes settings that can change at run time.";
        ];
    Time "time" 1 (LOADING | STALE | FAST) 0 0 0 Server "2.6.0"
        "The time of the server." [];
    Role "role" 1 (NOSCRIPT | LOADING | STALE | FAST | DANGEROUS) 0 0 0 Server "2.8.12"
        "The role in replication: always that of a primary." [];
    Readonly "readonly" 1 (LOADING | STALE | FAST) 0 0 0 Cluster "3.0.0"
        "Accepted, as every node serves reads." [];
    Readwrite "readwrite" 1 (LOADING | STALE | FAST) 0 0 0 Cluster "3.0.0"
        "Accepted, as every node serves writes." [];
    Wait "wait" 3 (BLOCKING) 0 0 0 Generic "3.0.0"
        "Number of replicas that hold the writes: 0, at once." [];
    Asking "asking" 1 (FAST) 0 0 0 Cluster "3.0.0"
        "Accepted in a cluster." [];
    Cluster "cluster" -2 (0) 0 0 0 Cluster "3.0.0"
        "Presents each core as a node of a cluster." [
            "countkeysinslot" 3 (STALE) 0 "Number of keys in a slot.";
            "getkeysinslot" 4 (NO_MULTI | STALE) 0 "Keys in a slot.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "info" 2 (LOADING | STALE) 0 "State of the cluster.";
            "keyslot" 3 (STALE) 0 "Slot of a key.";
            "myid" 2 (LOADING | STALE) 0 "Id of this node.";
            "nodes" 2 (LOADING | STALE) 0 "Nodes, as text.";
            "shards" 2 (LOADING | STALE) 0 "Nodes and their slots.";
            "slots" 2 (LOADING | STALE) 0 "Slots and their nodes.";
        ];
    Multi "multi" 1 (NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY) 0 0 0 Transactions "1.2.0"
        "Begins to queue commands on keys of one core." [];
    Exec "exec" 1 (NOSCRIPT | LOADING | STALE) 0 0 0 Transactions "1.2.0"
        "Does the queued commands in one step, if no watched key has changed." [];
    Discard "discard" 1 (NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY) 0 0 0 Transactions "2.0.0"
        "Forgets the queued commands and the watched keys." [];
    Watch "watch" -2 (NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY) 1 -1 1 Transactions "2.2.0"
        "Lets the next EXEC happen only if these keys have not changed." [];
    Unwatch "unwatch" 1 (NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY) 0 0 0 Transactions "2.2.0"
        "Forgets the watched keys." [];
    Subscribe "subscribe" -2 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 0 0 0 Pubsub "2.0.0"
        "Confirms channels; nothing is ever published." [];
    Unsubscribe "unsubscribe" -1 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 0 0 0 Pubsub "2.0.0"
        "Ends subscriptions." [];
    Psubscribe "psubscribe" -2 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 0 0 0 Pubsub "2.0.0"
        "Confirms patterns; nothing is ever published." [];
    Punsubscribe "punsubscribe" -1 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 0 0 0 Pubsub "2.0.0"
        "Ends subscriptions to patterns." [];
    Ssubscribe "ssubscribe" -2 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 1 -1 1 Pubsub "7.0.0"
        "Confirms shard channels; nothing is ever published." [];
    Sunsubscribe "sunsubscribe" -1 (NO_MULTI | PUBSUB | NOSCRIPT | LOADING | STALE) 1 -1 1 Pubsub "7.0.0"
        "Ends subscriptions to shard channels." [];
    Function "function" -2 (0) 0 0 0 Scripting "7.0.0"
        "Flushes the functions, of which there are none." [
            "flush" -2 (WRITE | NOSCRIPT) 0 "Removes all functions.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "list" -2 (NOSCRIPT) 0 "All functions: none.";
        ];
    Monitor "monitor" 1 (NO_MULTI | ADMIN | NOSCRIPT | LOADING | STALE) 0 0 0 Server "1.0.0"
        "Shows a sample of the commands of all connections." [];
    Slowlog "slowlog" -2 (0) 0 0 0 Server "2.2.12"
        "Commands that took long." [
            "get" -2 (ADMIN | LOADING | STALE) 0 "Entries of the slow log.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "len" 2 (ADMIN | LOADING | STALE) 0 "Number of entries.";
            "reset" 2 (ADMIN | LOADING | STALE) 0 "Forgets the entries.";
        ];
    Latency "latency" -2 (0) 0 0 0 Server "2.8.13"
        "What commands took that took long, and how often which time." [
            "doctor" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "A report for people.";
            "graph" 3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "A graph of an event.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "histogram" -2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Histograms of commands.";
            "history" 3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Samples of an event.";
            "latest" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Latest samples of all events.";
            "reset" -2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Forgets the samples.";
        ];
    Acl "acl" -2 (0) 0 0 0 Server "6.0.0"
        "Tells who may do what, and changes it." [
            "cat" -2 (NOSCRIPT | LOADING | STALE) 0 "Categories of commands, or the commands of one.";
            "deluser" -3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Removes users, and closes their connections.";
            "dryrun" -4 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Whether a user may do a command, without doing it.";
            "genpass" -2 (NOSCRIPT | LOADING | STALE) 0 "A random password of 256 bits, or of so many.";
            "getuser" 3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "What a user may do.";
            "help" 2 (LOADING | STALE) 0 "Prints this help.";
            "list" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Users as in a file of users.";
            "load" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "An error: there is no file of users; the configuration names them.";
            "log" -2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "What was refused to whom, the last 128, or forgets that.";
            "save" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "An error, as load.";
            "setuser" -3 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Makes or changes a user, on all cores, until the end of the process.";
            "users" 2 (ADMIN | NOSCRIPT | LOADING | STALE) 0 "Names of users.";
            "whoami" 2 (NOSCRIPT | LOADING | STALE) 0 "Name of the user of this connection.";
        ];
    Leaseget "leaseget" -2 (WRITE | DENYOOM | FAST) 1 1 1 String "7.2.0"
        "Reads a key, or gives the right to fill it to one caller." [];
    Leaseset "leaseset" -4 (WRITE | DENYOOM | FAST) 1 1 1 String "7.2.0"
        "Fills a key by the right that its token stands for." [];
    Leasedel "leasedel" -2 (WRITE | FAST) 1 1 1 String "7.2.0"
        "Removes a key or marks it stale; leases on it are lost." [];
}

impl Id {
    /// The command's row.
    pub fn command(self) -> &'static Command {
        &COMMANDS[self as usize]
    }
}

/// Places of the lookup table; a power of two well above the number of commands, so that chains are short.
const PLACES: usize = 512;
const FREE: u8 = u8::MAX;
const NAME_BYTES_MAX: usize = 16;

/// Hash of a name in any case: its length and four of its bytes.
#[inline]
const fn place_of(name: &[u8]) -> usize {
    let len = name.len();
    let mut hash = len as u32;
    hash = hash.wrapping_mul(31).wrapping_add((name[0] | 0x20) as u32);
    hash = hash.wrapping_mul(31).wrapping_add((name[len / 2] | 0x20) as u32);
    hash = hash.wrapping_mul(31).wrapping_add((name[len - 1] | 0x20) as u32);
    hash = hash.wrapping_mul(31).wrapping_add((name[len / 4] | 0x20) as u32);
    (hash ^ hash >> 9) as usize % PLACES
}

/// Open addressing: the command of each place, the next place if it is taken.
static LOOKUP: [u8; PLACES] = {
    assert!(COMMANDS.len() < FREE as usize);
    let mut table = [FREE; PLACES];
    let mut i = 0;
    while i < COMMANDS.len() {
        assert!(COMMANDS[i].name.len() <= NAME_BYTES_MAX);
        let mut place = place_of(COMMANDS[i].name.as_bytes());
        while table[place] != FREE {
            place = (place + 1) % PLACES;
        }
        table[place] = i as u8;
        i += 1;
    }
    table
};

/// Places of commands and their subcommands in a set of permissions, and one behind the last.
static PLACES_OF: [u16; COMMANDS.len()] = {
    let mut places = [0; COMMANDS.len()];
    let mut i = 1;
    while i < COMMANDS.len() {
        places[i] = places[i - 1] + 1 + COMMANDS[i - 1].subcommands.len() as u16;
        i += 1;
    }
    places
};
/// Commands and subcommands that can be allowed one by one.
pub(crate) const PLACE_COUNT: usize = {
    let last = COMMANDS.len() - 1;
    PLACES_OF[last] as usize + 1 + COMMANDS[last].subcommands.len()
};

const _: () = assert!(PLACE_COUNT <= 256, "calls are counted by place, in a byte");

/// The command and subcommand at a place.
pub(crate) fn at_place(place: usize) -> Option<(&'static Command, Option<&'static Subcommand>)> {
    let i = PLACES_OF.partition_point(|first| usize::from(*first) <= place).checked_sub(1)?;
    let command = &COMMANDS[i];
    match place - usize::from(PLACES_OF[i]) {
        0 => Some((command, None)),
        sub => Some((command, Some(command.subcommands.get(sub - 1)?))),
    }
}

/// The full name of what is at a place, as `client|setname`.
pub(crate) fn name_at(place: usize) -> Option<String> {
    let (command, sub) = at_place(place)?;
    Some(sub.map_or(command.name.to_owned(), |sub| format!("{}|{}", command.name, sub.name)))
}

/// The place of a command, or of its subcommand where one is named; those of subcommands follow their command's.
pub(crate) fn place(command: &Command, subcommand: &str) -> usize {
    let own = usize::from(PLACES_OF[command.id as usize]);
    match command.subcommands.iter().position(|sub| sub.name == subcommand) {
        Some(sub) => own + 1 + sub,
        None => own,
    }
}

/// What a command does with its key number `i`. `arguments`: all behind its name.
pub(crate) fn access<'a, A: Iterator<Item = &'a [u8]>>(
    command: &Command,
    i: usize,
    arguments: impl Fn() -> A,
) -> Access {
    const NOTHING: Access = Access { read: false, write: false };
    const READ: Access = Access { read: true, write: false };
    const WRITE_ONLY: Access = Access { read: false, write: true };
    const BOTH: Access = Access { read: true, write: true };
    match command.id {
        // They tell that the item is there, and what it is, not what is in it or when it ends.
        Id::Exists | Id::Type | Id::Strlen | Id::Touch | Id::Object | Id::Watch | Id::Memory => NOTHING,
        Id::Copy if i == 0 => READ,
        Id::Rename | Id::Renamenx if i == 0 => BOTH,
        Id::Getset | Id::Getdel | Id::Getex | Id::Incr | Id::Decr | Id::Incrby | Id::Decrby => BOTH,
        Id::Incrbyfloat | Id::Leaseget | Id::Move => BOTH,
        Id::Set if arguments().skip(2).any(|word| word.eq_ignore_ascii_case(b"get")) => BOTH,
        _ if command.flags & WRITE != 0 => WRITE_ONLY,
        _ if command.flags & READONLY != 0 => READ,
        _ => NOTHING,
    }
}

/// Whether a command names channels; `Some(true)` if they are patterns, to be compared letter by letter. Where it has keys
/// they are these channels, which have slots as keys do.
pub(crate) fn names_channels(id: Id) -> Option<bool> {
    match id {
        Id::Subscribe | Id::Ssubscribe => Some(false),
        Id::Psubscribe => Some(true),
        _ => None,
    }
}

/// The command of this name, in any case.
#[inline]
pub(crate) fn lookup(name: &[u8]) -> Option<&'static Command> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut place = place_of(name);
    loop {
        let command = COMMANDS.get(LOOKUP[place] as usize)?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        place = (place + 1) % PLACES;
    }
}

impl Command {
    /// Places of the keys among so many arguments.
    pub(crate) fn keys(
        &self,
        sub: Option<&Subcommand>,
        arguments: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let (first, last) = match sub {
            Some(sub) => (usize::from(sub.key), usize::from(sub.key)),
            None => self.key_places(arguments),
        };
        let count = if first == 0 { 0 } else { usize::MAX };
        (first..=last).step_by(usize::from(self.key_step.max(1))).take(count)
    }

    /// Places of the first and the last key among so many arguments; 0: there are none.
    pub(super) fn key_places(&self, arguments: usize) -> (usize, usize) {
        let last = match self.last_key {
            0.. => self.last_key as usize,
            _ => arguments.saturating_sub(self.last_key.unsigned_abs() as usize),
        };
        (usize::from(self.first_key), last)
    }

    /// The subcommand of this name, in any case.
    pub(crate) fn subcommand(&self, name: &[u8]) -> Option<&'static Subcommand> {
        self.subcommands.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case_and_nothing_else_is() {
        for (i, command) in COMMANDS.iter().enumerate() {
            assert_eq!(command.id as usize, i);
            assert_eq!(lookup(command.name.as_bytes()).unwrap().id, command.id);
            assert_eq!(lookup(command.name.to_uppercase().as_bytes()).unwrap().id, command.id);
            let mut other = command.name.to_string();
            other.push('x');
            assert!(lookup(other.as_bytes()).is_none(), "{other}");
        }
        for name in ["", "lpush", "g\0t", "a-very-long-name-of-no-command"] {
            assert!(lookup(name.as_bytes()).is_none());
        }
    }

    #[test]
    fn commands_are_in_the_categories_of_redis() {
        for (words, expected) in [
            ("get", "string read fast"),
            ("set", "string write slow"),
            ("flushall", "keyspace write dangerous slow"),
            ("flushdb", "keyspace write dangerous slow"),
            ("dbsize", "keyspace read fast"),
            ("keys", "keyspace read dangerous slow"),
            ("role", "admin dangerous fast"),
            ("command", "connection slow"),
            ("command docs", "connection slow"),
            ("readonly", "connection fast"),
            ("readwrite", "connection fast"),
            ("asking", "connection fast"),
            ("wait", "connection blocking slow"),
            ("client", "slow"),
            ("client id", "connection slow"),
            ("client kill", "connection admin dangerous slow"),
            ("object", "slow"),
            ("object encoding", "keyspace read slow"),
            ("function flush", "scripting write slow"),
            ("ssubscribe", "pubsub slow"),
        ] {
            let (name, sub) = words.split_once(' ').unwrap_or((words, ""));
            let command = lookup(name.as_bytes()).unwrap();
            let told: Vec<_> = categories(command, command.subcommand(sub.as_bytes())).collect();
            assert_eq!(told.join(" "), expected, "{words}");
        }
    }

    #[test]
    fn every_place_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for command in COMMANDS {
            assert_eq!(name_at(place(command, "")).as_deref(), Some(command.name));
            for sub in command.subcommands {
                let (found, found_sub) = at_place(place(command, sub.name)).unwrap();
                assert_eq!((found.name, found_sub.unwrap().name), (command.name, sub.name));
            }
        }
        for place in 0..PLACE_COUNT {
            assert!(names.insert(name_at(place).unwrap()));
        }
        assert_eq!(name_at(PLACE_COUNT), None);
    }

    #[test]
    fn lookups_are_short() {
        let chain = |name: &[u8]| {
            (0..PLACES)
                .map(|step| (place_of(name) + step) % PLACES)
                .take_while(|&place| COMMANDS[LOOKUP[place] as usize].name.as_bytes() != name)
                .count()
        };
        assert_eq!((chain(b"get"), chain(b"set")), (0, 0));
        let longest = COMMANDS.iter().map(|command| chain(command.name.as_bytes())).max();
        assert!(longest <= Some(3), "{longest:?}");
    }
}
