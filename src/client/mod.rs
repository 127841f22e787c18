//! A client of the native protocol: synchronous, plain `std`, one owner.
//!
//! ```
//! # // A server of the example's own, so that it runs as a test.
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/small_server.rs"));
//! # fn main() -> Result<(), foreshadow::client::Error> {
//! use foreshadow::client::{Client, Options, Reply};
//! use std::time::Duration;
//!
//! let address = "127.0.0.1:7400";
//! # let address = &small_server();
//! let mut client = Client::connect(address, Options::default())?;
//! client.put(b"user:1", b"Ada", Some(Duration::from_secs(60)))?;
//! let item = client.get(b"user:1")?.expect("just stored");
//! assert_eq!(item.value, b"Ada");
//!
//! let mut pipeline = client.pipeline();
//! pipeline.get(b"user:1");
//! pipeline.invalidate(b"user:1");
//! pipeline.get(b"user:1");
//! let replies = pipeline.run();
//! assert!(matches!(&replies[0], Ok(Reply::Item(item)) if item.value == b"Ada"));
//! assert_eq!(replies[1..], [Ok(Reply::Removed), Ok(Reply::Missing)]);
//! # Ok(())
//! # }
//! ```
//!
//! 1. It asks for the shard map and keeps a connection to each core that has a port of its own, so that a request goes
//!    where its key lives; without such ports (or when a core's cannot be reached) everything goes by the first connection.
//! 2. Whatever a call has to send is sent at once, and replies are taken in the order they come: a call costs one round trip,
//!    however many requests are in it.
//! 3. Every call ends within [`Options::deadline`]. A connection that was left by a deadline is closed, so that a late reply
//!    can never be taken for another's.
//! 4. A lost connection is made again, with growing pauses after failures. What may be repeated without harm (reads,
//!    invalidations, touches) is repeated once; a put is not, since its second coming could overwrite what others wrote
//!    in between: it ends as [`Error::Lost`].

mod invalidations;
mod link;
mod pipeline;
mod shards;

use crate::ids::Version;
use crate::wire::native::frame::{self, Condition, Status};
use link::Link;
use shards::Shards;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use pipeline::{PIPELINE_REQUESTS_MAX, Pipeline, Reply};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest a call may take, connecting and repeating included.
    pub deadline: Duration,
    /// Longest that making one connection may take.
    pub connect_timeout: Duration,
    /// Pause after the first failed attempt to connect; doubles with each further one up to `reconnect_pause_max`. Calls in
    /// the meantime fail at once.
    pub reconnect_pause: Duration,
    /// See `reconnect_pause`.
    pub reconnect_pause_max: Duration,
    /// Password, where the server asks for one.
    pub password: Option<String>,
    /// Checksums on all frames, both ways.
    pub crc: bool,
    /// Go to the owning core's port where it has one.
    pub follow_map: bool,
    /// Name told to the server; at most 64 bytes are.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadline: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            reconnect_pause: Duration::from_millis(20),
            reconnect_pause_max: Duration::from_secs(2),
            password: None,
            crc: false,
            follow_map: true,
            name: String::from("foreshadow-rust"),
        }
    }
}

/// Why a request could not be answered. A miss or a refused condition is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection, so nothing was sent.
    #[error("{address} cannot be reached: {kind}")]
    Unreachable {
        /// Which address.
        address: String,
        /// What the system said.
        kind: ErrorKind,
    },
    /// The deadline passed. A write may have been done all the same.
    #[error("no answer within the deadline")]
    Deadline,
    /// The connection ended after the request was sent. A write may have been done all the same.
    #[error("the connection was lost: {0}")]
    Lost(ErrorKind),
    /// The server could not do it and says why; nothing was changed.
    #[error("refused with {name}: {text}", name = .status.name())]
    Fault {
        /// The status, 64 and above.
        status: Status,
        /// The server's words, for people.
        text: String,
    },
    /// The server sent what no server of this protocol sends. The connection is closed.
    #[error("the server broke the protocol: {0}")]
    Protocol(Breach),
    /// The request cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Unsendable(Unsendable),
}

/// What no server of this protocol sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Bytes that are no reply.
    #[error("not a reply of version 1, or a wrong checksum")]
    Frame,
    /// A reply that does not belong to the request it names.
    #[error("a reply that does not fit its request")]
    Unfit,
    /// HELLO and AUTH are answered in their order.
    #[error("a greeting answered out of turn")]
    Greeting,
}

/// What keeps a request from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// Keys have a byte at least.
    #[error("the key is empty")]
    KeyEmpty,
    /// Beyond what a frame can say.
    #[error("the key is longer than 65,535 bytes")]
    KeyLong,
    /// Beyond half of what a frame can hold.
    #[error("the value is too long")]
    ValueLong,
    /// A pipeline has as many requests as it can have, [`PIPELINE_REQUESTS_MAX`].
    #[error("the pipeline is full")]
    PipelineFull,
}

/// An item as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Vec<u8>,
    /// Its version; grows with each change.
    pub version: Version,
    /// The client's own bits.
    pub flags: u32,
    /// What is left to live; `None`: without end.
    pub ttl: Option<Duration>,
}

/// What is known of an item beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its version.
    pub version: Version,
    /// The client's own bits.
    pub flags: u32,
    /// What is left to live; `None`: without end.
    pub ttl: Option<Duration>,
}

/// What a put may say beside key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Time to live; `None`: without end. Less than a millisecond counts as one.
    pub ttl: Option<Duration>,
    /// Keep the time to live of the item replaced instead.
    pub keep_ttl: bool,
    /// The client's own bits.
    pub flags: u32,
    /// What must hold.
    pub only: Only,
}

impl PutOptions {
    /// Always, without end, without flags.
    pub const PLAIN: PutOptions = PutOptions { ttl: None, keep_ttl: false, flags: 0, only: Only::Always };
}

/// What must hold for a put to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Nothing.
    Always,
    /// There is no item.
    IfAbsent,
    /// There is one.
    IfPresent,
    /// There is one of exactly this version.
    IfVersion(Version),
}

/// What came of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done; the item's version now.
    Stored(Version),
    /// [`Only::IfAbsent`], and there is one.
    Exists,
    /// [`Only::IfPresent`] or [`Only::IfVersion`], and there is none.
    Missing,
    /// [`Only::IfVersion`], and it has another.
    OtherVersion,
    /// The lease ran out, or the key was written or invalidated since. What was fetched under it may be older than what
    /// others have seen and must not be stored by other means.
    LeaseLost,
}

/// The right to fill a key ([`Client::lease_get`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    version: Version,
}

/// What a read under lease found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// A fresh item.
    Hit(Item),
    /// Nothing, and the caller is the one to fetch it and [`Client::lease_put`] it.
    Fill(Lease),
    /// Nothing yet; somebody else is fetching it. Ask again in a while.
    Wait,
    /// An item that is out of date or about to end: it may be served. With a lease the caller is the one to refresh it.
    Old {
        /// The old item.
        item: Item,
        /// The right to refill, if it is the caller's.
        refill: Option<Lease>,
    },
}

/// What a conditional read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Newer {
    /// A newer item.
    Item(Item),
    /// The version known is the newest.
    Same(Meta),
    /// No item.
    Missing,
}

/// Connections to a server. Not shared: a thread that wants one makes its own.
pub struct Client {
    options: Options,
    seeds: Vec<SocketAddr>,
    /// The first is to a seed; the others are to cores, as `shards` says.
    links: Vec<Link>,
    shards: Option<Shards>,
    map_is_old: bool,
}

impl Client {
    /// Connects to a server. `address` is `host:port`; of several addresses behind the name the first that answers is used.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Deadline`]; [`Error::Fault`] with `DENIED` for a wrong password.
    pub fn connect(address: &str, options: Options) -> Result<Client, Error> {
        use std::net::ToSocketAddrs;
        let unreachable = |kind| Error::Unreachable { address: address.to_owned(), kind };
        let seeds: Vec<SocketAddr> =
            address.to_socket_addrs().map_err(|error| unreachable(error.kind()))?.collect();
        if seeds.is_empty() {
            return Err(unreachable(ErrorKind::NotFound));
        }
        let mut client =
            Client { links: vec![Link::to(seeds.clone())], options, seeds, shards: None, map_is_old: true };
        let deadline = Instant::now() + client.options.deadline;
        client.links[0].connect(&client.options, deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        client.learn_map(left);
        Ok(client)
    }

    /// Changes [`Options::deadline`] for the calls to come.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.options.deadline = deadline;
    }

    /// Epoch of the shard map in use; 0: none is.
    pub fn map_epoch(&self) -> u64 {
        self.shards.as_ref().map_or(0, |shards| shards.epoch)
    }

    /// Number of connections that are open.
    pub fn open_connections(&self) -> usize {
        self.links.iter().filter(|link| link.is_open()).count()
    }

    /// Requests to be sent together: one round trip for all. Where the shard map is out of date it is asked for first, which
    /// may take half of the deadline and is taken off what [`Pipeline::run`] may take.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        let mut left = self.options.deadline;
        if self.map_is_old {
            let begun = Instant::now();
            self.learn_map(left / 2);
            left = left.saturating_sub(begun.elapsed());
        }
        Pipeline::new(self, left)
    }

    /// Asks for the map where one is followed; without an answer in time the old one stays, and the next call asks again. A
    /// server that has none to give is not asked again until it says that there is a new one.
    fn learn_map(&mut self, patience: Duration) {
        if !self.options.follow_map {
            self.map_is_old = false;
            return;
        }
        let known = self.map_epoch();
        let mut pipeline = Pipeline::new(self, patience);
        pipeline.map(known);
        match pipeline.one() {
            Ok(reply) => {
                self.map_is_old = false;
                if let Reply::Map(shards) = reply {
                    self.follow(*shards);
                }
            }
            Err(Error::Fault { status: Status::UNSUPPORTED, .. }) => self.map_is_old = false,
            Err(_) => {}
        }
    }

    /// Keeps the links that the new map still names and makes the others.
    fn follow(&mut self, mut shards: Shards) {
        let here = self.links[0].peer().unwrap_or(self.seeds[0]);
        let mut old: Vec<Link> = self.links.drain(1..).collect();
        for owner in &mut shards.owners {
            let Some(address) = owner.address(here) else { continue };
            let known = self.links[1..].iter().position(|link| link.leads_to(address));
            owner.link = match known {
                Some(place) => place + 1,
                None => {
                    let kept = old.iter().position(|link| link.leads_to(address));
                    self.links.push(kept.map_or_else(|| Link::to(vec![address]), |i| old.swap_remove(i)));
                    self.links.len() - 1
                }
            };
        }
        self.shards = Some(shards);
    }

    /// The link by which a key's requests go.
    fn link_of(&self, key: &[u8]) -> usize {
        match &self.shards {
            Some(shards) => {
                let link = shards.link_of(key);
                if self.links[link].is_resting() { 0 } else { link }
            }
            None => 0,
        }
    }

    /// Time until the server has answered a PING.
    ///
    /// # Errors
    /// As all calls: [`Error::Unreachable`], [`Error::Deadline`], [`Error::Lost`], [`Error::Fault`], [`Error::Protocol`].
    pub fn ping(&mut self) -> Result<Duration, Error> {
        let begun = Instant::now();
        let mut pipeline = self.pipeline();
        pipeline.ping();
        match pipeline.one()? {
            Reply::Pong => Ok(begun.elapsed()),
            _ => Err(UNFIT),
        }
    }

    /// The item of a key, or `None`.
    ///
    /// # Errors
    /// As all calls, and [`Error::Unsendable`] for an empty or too long key.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Item>, Error> {
        let mut pipeline = self.pipeline();
        pipeline.get(key);
        found(pipeline.one()?)
    }

    /// The item of a key if its version is greater than `than`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get_newer(&mut self, key: &[u8], than: Version) -> Result<Newer, Error> {
        let mut pipeline = self.pipeline();
        pipeline.get_newer(key, than);
        match pipeline.one()? {
            Reply::Item(item) => Ok(Newer::Item(item)),
            Reply::NotNewer(meta) => Ok(Newer::Same(meta)),
            Reply::Missing => Ok(Newer::Missing),
            _ => Err(UNFIT),
        }
    }

    /// The items of many keys, in the order of the keys, by one frame per core.
    ///
    /// # Errors
    /// As [`Client::get`]; the first one there was, even if other keys could be read.
    pub fn get_many<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<Item>>, Error> {
        let mut pipeline = self.pipeline();
        pipeline.get_many(keys.iter().map(AsRef::as_ref));
        pipeline.run().into_iter().map(|reply| found(reply?)).collect()
    }

    /// Stores a value; `ttl` of `None` is without end. Answers the item's version.
    ///
    /// # Errors
    /// As [`Client::get`], also for too long a value. After [`Error::Deadline`] and [`Error::Lost`] it may be stored or not.
    pub fn put(&mut self, key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<Version, Error> {
        match self.put_with(key, value, PutOptions { ttl, ..PutOptions::PLAIN })? {
            Written::Stored(version) => Ok(version),
            _ => Err(UNFIT),
        }
    }

    /// Stores a value under a condition, with flags, or with the old time to live.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn put_with(&mut self, key: &[u8], value: &[u8], options: PutOptions) -> Result<Written, Error> {
        let mut pipeline = self.pipeline();
        pipeline.put(key, value, options);
        written(pipeline.one()?)
    }

    /// Stores many values with one time to live, by one frame per core. Answers the versions in the order of the items.
    ///
    /// # Errors
    /// As [`Client::put`]; the first one there was. The other items may be stored or not: there is no "all or nothing".
    pub fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        items: &[(K, V)],
        ttl: Option<Duration>,
    ) -> Result<Vec<Version>, Error> {
        let mut pipeline = self.pipeline();
        pipeline.put_many(items.iter().map(|(key, value)| (key.as_ref(), value.as_ref())), ttl);
        let versions = pipeline.run().into_iter().map(|reply| match written(reply?)? {
            Written::Stored(version) => Ok(version),
            _ => Err(UNFIT),
        });
        versions.collect()
    }

    /// Changes the time to live; `None` is without end. Answers whether there is an item.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn touch(&mut self, key: &[u8], ttl: Option<Duration>) -> Result<bool, Error> {
        let mut pipeline = self.pipeline();
        pipeline.touch(key, ttl);
        match pipeline.one()? {
            Reply::Touched(_) => Ok(true),
            Reply::Missing => Ok(false),
            _ => Err(UNFIT),
        }
    }

    /// The item of a key, or the right to fill it for at most `hold` (up to 600 s; zero: the server's 10 s).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn lease_get(&mut self, key: &[u8], hold: Duration) -> Result<Leased, Error> {
        let mut pipeline = self.pipeline();
        pipeline.lease_get(key, hold);
        match pipeline.one()? {
            Reply::Leased(leased) => Ok(leased),
            // The key lost its lease's place between two looks of the server.
            Reply::Missing => Ok(Leased::Wait),
            _ => Err(UNFIT),
        }
    }

    /// Stores what was fetched under a lease, if that still stands. Answers [`Written::Stored`] or [`Written::LeaseLost`].
    ///
    /// # Errors
    /// As [`Client::put`].
    pub fn lease_put(
        &mut self,
        key: &[u8],
        lease: Lease,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        let mut pipeline = self.pipeline();
        pipeline.lease_put(key, lease, value, ttl);
        written(pipeline.one()?)
    }

    /// The node's counters, summed over its cores.
    ///
    /// # Errors
    /// As [`Client::ping`].
    pub fn stats(&mut self) -> Result<BTreeMap<String, u64>, Error> {
        let mut pipeline = self.pipeline();
        pipeline.stats();
        match pipeline.one()? {
            Reply::Stats(counters) => Ok(counters),
            _ => Err(UNFIT),
        }
    }
}

/// A reply that does not belong to the request it names.
const UNFIT: Error = Error::Protocol(Breach::Unfit);

fn found(reply: Reply) -> Result<Option<Item>, Error> {
    match reply {
        Reply::Item(item) => Ok(Some(item)),
        Reply::Missing => Ok(None),
        _ => Err(UNFIT),
    }
}

fn written(reply: Reply) -> Result<Written, Error> {
    match reply {
        Reply::Written(written) => Ok(written),
        _ => Err(UNFIT),
    }
}

/// A time to live as the wire has it.
fn millis(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1))
}

impl From<frame::Meta> for Meta {
    fn from(meta: frame::Meta) -> Meta {
        let ttl = (meta.ttl_millis > 0).then(|| Duration::from_millis(meta.ttl_millis));
        Meta { version: meta.version, flags: meta.flags, ttl }
    }
}

impl PutOptions {
    fn framed<'a>(&self, key: &'a [u8], value: &'a [u8]) -> frame::Put<'a> {
        let (condition, version) = match self.only {
            Only::Always => (Condition::Always, Version::NONE),
            Only::IfAbsent => (Condition::Absent, Version::NONE),
            Only::IfPresent => (Condition::Present, Version::NONE),
            Only::IfVersion(version) => (Condition::VersionIs, version),
        };
        let ttl_millis = if self.keep_ttl { 0 } else { millis(self.ttl) };
        let meta = frame::Meta { ttl_millis, version, flags: self.flags };
        frame::Put { key, value, meta, condition, keep_ttl: self.keep_ttl }
    }
}
