//! Origins and keyspaces in the configuration: the tables `[origin.NAME]` and `[keyspace.NAME]`, and `--origin URL`.
//!
//! ```toml
//! [origin.db]
//! url = "postgres://cache@db.local/shop"
//! query = "select value, version from items where id = $1"
//!
//! [keyspace.items]
//! prefix = "item:"
//! origin = "db"
//! fresh = "30s"
//! ```
//! `--origin URL` is a keyspace called `default` with all keys (without a prefix) and an origin of that name. As with settings,
//! a table of what there is makes everything: what is read, what is shown, what is said of an unknown key.

use crate::config::{parse_duration, parse_size};
use crate::origin::budget::Budget;
use crate::origin::keyspace::{Conflict, Keys, Keyspace, WritePolicy};
use crate::origin::{Duty, Kind, Limits, OriginId, Target, TlsMode, pool};
use std::sync::Arc;
use std::time::Duration;

/// An origin as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// Where and what it is; `None` until its URL was read.
    pub target: Option<Target>,
    query: Option<String>,
    write_query: Option<String>,
    remove_query: Option<String>,
    listen: Option<String>,
    track: Option<bool>,
    /// Files with certificates: of the authorities that are trusted, our own, and its key.
    pub papers: Papers,
    /// Most questions on the way, all cores.
    pub concurrency_max: u32,
    connections_max: usize,
    /// Most connections of one core that are clients' own.
    pub private_lines_max: usize,
    queue_max: usize,
    timeout: Duration,
    slow: Duration,
    failures_max: u32,
    open: Duration,
    value_bytes_max: usize,
    spare_by_forecast: bool,
}

/// Files for TLS to an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Papers {
    /// Certificates of the authorities that may vouch for the origin; `None`: the system's.
    pub authorities: Option<String>,
    /// Our certificate, where the origin asks for one.
    pub certificate: Option<String>,
    /// Its private key.
    pub key: Option<String>,
}

/// A keyspace as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceTable {
    name: String,
    prefix: Option<String>,
    pattern: Option<String>,
    origin: Option<String>,
    drop_prefix: Option<bool>,
    fresh: Duration,
    stale: Duration,
    stale_on_error: Duration,
    negative: Duration,
    write: Option<WritePolicy>,
    value_bytes_max: usize,
    wait: Duration,
    attempts: u8,
    prefetch: bool,
    memory_bytes_max: u64,
    fetches_per_second: u32,
    fetches_max: u32,
    conflict: Conflict,
}

/// All that was configured of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `[origin.NAME]`.
    pub origins: Vec<Origin>,
    /// `[keyspace.NAME]`.
    pub keyspaces: Vec<KeyspaceTable>,
}

/// Origins and keyspaces as the rooms below want them; keyspaces name their origins by their places.
pub type Resolved = (Vec<Origin>, Vec<Keyspace>);
/// What is wrong: for each the table it stands in, and why.
pub type Wrong = Vec<(String, String)>;

impl Origin {
    fn new(name: &str) -> Origin {
        Origin {
            name: name.into(),
            target: None,
            query: None,
            write_query: None,
            remove_query: None,
            listen: None,
            track: None,
            papers: Papers::default(),
            concurrency_max: 64,
            connections_max: 16,
            private_lines_max: 1024,
            queue_max: 4096,
            timeout: Duration::from_secs(1),
            slow: Duration::from_millis(500),
            failures_max: 5,
            open: Duration::from_secs(1),
            value_bytes_max: 64 << 20,
            spare_by_forecast: true,
        }
    }

    /// Bounds of each core's pool.
    pub fn pool(&self) -> pool::Options {
        pool::Options {
            connections_max: self.connections_max,
            queue_max: self.queue_max,
            timeout_millis: self.timeout.as_millis() as u64,
            slow_millis: self.slow.as_millis() as u64,
            failures_max: self.failures_max,
            open_millis: self.open.as_millis() as u64,
            limits: Limits { value_bytes_max: self.value_bytes_max },
            duty: Duty::Ask,
            listen: self.listens(),
            spare_by_forecast: self.spare_by_forecast,
        }
    }

    /// Brings together what the URL and the table say of PostgreSQL's TLS; answers what does not fit.
    fn settle_tls(&mut self) -> Option<&'static str> {
        let target = self.target.as_mut()?;
        let Kind::Postgres(queries) = &mut target.kind else { return None };
        if queries.authorities.is_some() && queries.authorities != self.papers.authorities {
            if self.papers.authorities.is_some() {
                return Some("its url says sslrootcert and its table ca: one of them is enough");
            }
            self.papers.authorities.clone_from(&queries.authorities);
        }
        queries.authorities.clone_from(&self.papers.authorities);
        let mode = queries.tls_mode();
        target.tls = mode != TlsMode::Disable;
        let unused = mode == TlsMode::Prefer && self.papers.authorities.is_some();
        unused.then_some(
            "sslmode=prefer looks at no certificate: say verify-full, or leave the certificates out",
        )
    }

    fn listens(&self) -> bool {
        match self.target.as_ref().map(|target| &target.kind) {
            Some(Kind::Redis { .. }) => self.track.unwrap_or(true),
            Some(Kind::Postgres(_)) => self.listen.is_some(),
            _ => false,
        }
    }
}

impl KeyspaceTable {
    fn new(name: &str) -> KeyspaceTable {
        KeyspaceTable {
            name: name.into(),
            prefix: None,
            pattern: None,
            origin: None,
            drop_prefix: None,
            fresh: Duration::from_secs(60),
            stale: Duration::ZERO,
            stale_on_error: Duration::ZERO,
            negative: Duration::from_secs(5),
            write: None,
            value_bytes_max: 64 << 20,
            wait: Duration::from_secs(3),
            attempts: 3,
            prefetch: false,
            memory_bytes_max: 0,
            fetches_per_second: 0,
            fetches_max: 0,
            conflict: Conflict::default(),
        }
    }
}

/// A key of one of the tables.
struct Entry<T> {
    name: &'static str,
    help: &'static str,
    set: fn(&mut T, &str) -> Result<(), String>,
}

const ORIGIN_ENTRIES: &[Entry<Origin>] = &[
    Entry {
        name: "url",
        help: "redis://, rediss://, memcached://, http://, https:// or postgres://, with user and password where it needs them; \
               ?cluster=on behind redis://, ?sslmode=.. and sslrootcert=FILE behind postgres://",
        set: |it, text| {
            it.target = Some(Target::parse(text).map_err(|bad| bad.to_string())?);
            Ok(())
        },
    },
    Entry {
        name: "query",
        help: "PostgreSQL: the value of key $1, in the column `value` or the first; `version` and `ttl` (seconds) if there are any",
        set: |it, text| some(&mut it.query, text),
    },
    Entry {
        name: "write-query",
        help: "PostgreSQL: stores value $2 under key $1",
        set: |it, text| some(&mut it.write_query, text),
    },
    Entry {
        name: "remove-query",
        help: "PostgreSQL: removes key $1",
        set: |it, text| some(&mut it.remove_query, text),
    },
    Entry {
        name: "listen",
        help: "PostgreSQL: the channel whose notifications name keys that changed (an empty one: any)",
        set: |it, text| some(&mut it.listen, text),
    },
    Entry {
        name: "track",
        help: "Redis: be told of keys that others change [default: true]",
        set: |it, text| {
            it.track = Some(switch(text)?);
            Ok(())
        },
    },
    Entry {
        name: "ca",
        help: "rediss, https, postgres: file with the certificates that may vouch for the origin [default: the system's]",
        set: |it, text| some(&mut it.papers.authorities, text),
    },
    Entry {
        name: "certificate",
        help: "rediss, https, postgres: file with our own certificate, where the origin asks for one",
        set: |it, text| some(&mut it.papers.certificate, text),
    },
    Entry {
        name: "key",
        help: "rediss, https, postgres: file with that certificate's private key",
        set: |it, text| some(&mut it.papers.key, text),
    },
    Entry {
        name: "concurrency",
        help: "most questions on their way at a time, all cores together [default: 64]",
        set: |it, text| number(&mut it.concurrency_max, text, 1, 65_536),
    },
    Entry {
        name: "connections",
        help: "most connections of one core [default: 16]",
        set: |it, text| number(&mut it.connections_max, text, 1, 1024),
    },
    Entry {
        name: "private-connections",
        help: "Redis: most connections of one core that are one client's own, for commands that wait there, watched keys and \
               subscriptions [default: 1024]",
        set: |it, text| number(&mut it.private_lines_max, text, 1, 65_536),
    },
    Entry {
        name: "queue",
        help: "most questions that wait to be asked, per core; more are refused [default: 4096]",
        set: |it, text| number(&mut it.queue_max, text, 1, 1 << 20),
    },
    Entry {
        name: "timeout",
        help: "from a question to the end of its answer, waiting and connecting included [default: 1s]",
        set: |it, text| duration(&mut it.timeout, text, Duration::from_millis(1), HOUR),
    },
    Entry {
        name: "slow",
        help: "log a question that takes so long, with an id, at most 20 a second and core [default: 500ms]",
        set: |it, text| duration(&mut it.slow, text, Duration::from_millis(1), HOUR),
    },
    Entry {
        name: "failures",
        help: "failures in a row after which the origin is left in peace for a while [default: 5]",
        set: |it, text| number(&mut it.failures_max, text, 1, 1_000_000),
    },
    Entry {
        name: "pause",
        help: "for how long at first; each failed try doubles it, up to 30s [default: 1s]",
        set: |it, text| duration(&mut it.open, text, Duration::from_millis(1), Duration::from_secs(30)),
    },
    Entry {
        name: "answer-size",
        help: "longest value taken from it; a longer one ends the connection [default: 64MiB]",
        set: |it, text| size(&mut it.value_bytes_max, text),
    },
    Entry {
        name: "spare-share",
        help: "what a core may ask ahead of what the origin has to spare: forecast (by what its shards are thought to get) or \
               even (all cores alike) [default: forecast]",
        set: |it, text| {
            it.spare_by_forecast = match text {
                "forecast" => true,
                "even" => false,
                _ => return Err(format!("`{text}` is neither forecast nor even")),
            };
            Ok(())
        },
    },
];

const KEYSPACE_ENTRIES: &[Entry<KeyspaceTable>] = &[
    Entry {
        name: "prefix",
        help: "the keys that begin so; the longest prefix of all keyspaces counts",
        set: |it, text| some(&mut it.prefix, text),
    },
    Entry {
        name: "pattern",
        help: "instead of a prefix: the keys that fit, `*` standing for any bytes",
        set: |it, text| some(&mut it.pattern, text),
    },
    Entry { name: "origin", help: "the name of its origin", set: |it, text| some(&mut it.origin, text) },
    Entry {
        name: "drop-prefix",
        help: "ask the origin without the prefix [default: true for HTTP and PostgreSQL, else false]",
        set: |it, text| {
            it.drop_prefix = Some(switch(text)?);
            Ok(())
        },
    },
    Entry {
        name: "fresh",
        help: "how long a value is served without asking, where the origin does not say [default: 1m]",
        set: |it, text| duration(&mut it.fresh, text, Duration::from_millis(1), YEAR),
    },
    Entry {
        name: "stale",
        help: "how long beyond that it is served while it is fetched anew [default: 0ms]",
        set: |it, text| duration(&mut it.stale, text, Duration::ZERO, YEAR),
    },
    Entry {
        name: "stale-on-error",
        help: "how long beyond freshness it is served if the origin cannot answer [default: 0ms]",
        set: |it, text| duration(&mut it.stale_on_error, text, Duration::ZERO, YEAR),
    },
    Entry {
        name: "negative",
        help: "how long a key that the origin does not have is not asked for again [default: 5s]",
        set: |it, text| duration(&mut it.negative, text, Duration::ZERO, YEAR),
    },
    Entry {
        name: "write",
        help: "through: the origin first, then the cache; invalidate: the origin first, then the cache forgets; cache-only \
               [default: through for Redis, memcached and PostgreSQL with a write-query, else cache-only]",
        set: |it, text| {
            it.write = Some(match text {
                "through" => WritePolicy::Through,
                "invalidate" => WritePolicy::Invalidate,
                "cache-only" => WritePolicy::CacheOnly,
                _ => return Err(format!("`{text}` is none of through, invalidate, cache-only")),
            });
            Ok(())
        },
    },
    Entry {
        name: "value-size",
        help: "longest value that is kept; a longer one is handed through [default: 64MiB]",
        set: |it, text| size(&mut it.value_bytes_max, text),
    },
    Entry {
        name: "wait",
        help: "how long a client waits at most, all attempts together [default: 3s]",
        set: |it, text| duration(&mut it.wait, text, Duration::from_millis(1), HOUR),
    },
    Entry {
        name: "attempts",
        help: "how often the origin is asked for a client who waits [default: 3]",
        set: |it, text| number(&mut it.attempts, text, 1, 10),
    },
    Entry {
        name: "prefetch",
        help: "on: learn what follows what, and fetch it before it is asked for as far as the origin has time [default: off]",
        set: |it, text| {
            it.prefetch = match text {
                "on" => true,
                "off" => false,
                _ => return Err(format!("`{text}` is neither on nor off")),
            };
            Ok(())
        },
    },
    Entry {
        name: "memory",
        help: "about how much its items may take, all cores; what was not wanted for long goes first [default: no bound of its own]",
        set: |it, text| {
            it.memory_bytes_max = parse_size(text)?;
            match it.memory_bytes_max {
                0..MEMORY_BYTES_MIN => Err(format!("{text} is less than 64KiB")),
                _ => Ok(()),
            }
        },
    },
    Entry {
        name: "fetches-per-second",
        help: "how often it may ask its origin, all cores; a second's worth at once [default: no bound]",
        set: |it, text| number(&mut it.fetches_per_second, text, 1, 1_000_000),
    },
    Entry {
        name: "concurrency",
        help: "most fetches on their way at a time, all cores; others wait [default: that of its origin]",
        set: |it, text| number(&mut it.fetches_max, text, 1, 65_536),
    },
    Entry {
        name: "conflict",
        help: "which of two values counts: epoch (taken in last), lww (written last), source (greater version of the origin) \
               [default: epoch]",
        set: |it, text| {
            it.conflict = match text {
                "epoch" => Conflict::Epoch,
                "lww" => Conflict::Lww,
                "source" => Conflict::Source,
                _ => return Err(format!("`{text}` is none of epoch, lww, source")),
            };
            Ok(())
        },
    },
];

/// With less a keyspace would hold next to nothing on each core.
const MEMORY_BYTES_MIN: u64 = 64 << 10;

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Tables {
    /// Whether a table of the file is one of these.
    pub fn know(table: &str) -> bool {
        matches!(table, "origin" | "keyspace")
    }

    /// Lays one entry over the defaults.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub fn set(&mut self, table: &str, name: &str, key: &str, text: &str) -> Result<(), String> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Err(format!("`{name}` is no name: letters, digits, - and _ make one"));
        }
        match table {
            "origin" => set_entry(ORIGIN_ENTRIES, self.origin(name), key, text),
            _ => set_entry(KEYSPACE_ENTRIES, self.keyspace(name), key, text),
        }
    }

    /// Makes sure that a table that was named is there, even if nothing stands in it.
    pub fn touch(&mut self, table: &str, name: &str) {
        match table {
            "origin" => drop(self.origin(name)),
            _ => drop(self.keyspace(name)),
        }
    }

    fn origin(&mut self, name: &str) -> &mut Origin {
        let place = self.origins.iter().position(|it| it.name == name).unwrap_or_else(|| {
            self.origins.push(Origin::new(name));
            self.origins.len() - 1
        });
        &mut self.origins[place]
    }

    fn keyspace(&mut self, name: &str) -> &mut KeyspaceTable {
        let place = self.keyspaces.iter().position(|it| it.name == name).unwrap_or_else(|| {
            self.keyspaces.push(KeyspaceTable::new(name));
            self.keyspaces.len() - 1
        });
        &mut self.keyspaces[place]
    }

    /// `--origin URL`: all keys have this origin, where no other keyspace has them.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn set_default(&mut self, url: &str) -> Result<(), String> {
        let target = Target::parse(url).map_err(|bad| bad.to_string())?;
        if matches!(target.kind, Kind::Postgres(_)) {
            return Err(
                "a PostgreSQL origin needs a query: say it in the table [origin.NAME] of a file".into()
            );
        }
        self.origin(DEFAULT).target = Some(target);
        let keyspace = self.keyspace(DEFAULT);
        (keyspace.prefix, keyspace.origin) = (Some(String::new()), Some(DEFAULT.into()));
        Ok(())
    }

    /// Origins and keyspaces as the rooms below want them; or everything that is wrong, each with the table it is about.
    ///
    /// # Errors
    /// All that is wrong: the table's name and what.
    pub fn resolve(&self) -> Result<Resolved, Wrong> {
        let mut wrong: Vec<(String, String)> = Vec::new();
        let mut origins = self.origins.clone();
        let mut keyspaces = Vec::new();
        for table in &self.keyspaces {
            match self.keyspace_of(table) {
                Ok(keyspace) => keyspaces.push(keyspace),
                Err(why) => wrong.push((format!("keyspace.{}", table.name), why)),
            }
        }
        for (place, origin) in origins.iter_mut().enumerate() {
            let why = origin.settle_tls();
            wrong.extend(why.map(|why| (format!("origin.{}", origin.name), why.to_owned())));
            let listens = origin.listens();
            let prefixes = || {
                let own = keyspaces.iter().filter(|keyspace| usize::from(keyspace.origin.0) == place);
                own.map(|keyspace| match &keyspace.keys {
                    Keys::Prefix(_) if keyspace.drop_prefix => Vec::new(),
                    Keys::Prefix(prefix) => prefix.clone(),
                    Keys::Pattern(pattern) => {
                        pattern.split(|&byte| byte == b'*').next().unwrap_or_default().to_vec()
                    }
                })
            };
            let why = match origin.target.as_mut().map(|target| &mut target.kind) {
                None => Some("it has no url"),
                Some(Kind::Postgres(queries)) => {
                    queries.read = origin.query.clone().unwrap_or_default();
                    queries.write = origin.write_query.clone();
                    queries.remove = origin.remove_query.clone();
                    queries.listen = origin.listen.clone();
                    origin
                        .query
                        .is_none()
                        .then_some("it has no query; give one that selects the value of key $1")
                }
                Some(kind) => {
                    if let (Kind::Redis { track, .. }, true) = (kind, listens) {
                        *track = apart(prefixes());
                    }
                    let queries = [&origin.query, &origin.write_query, &origin.remove_query, &origin.listen];
                    queries.iter().any(|query| query.is_some()).then_some("only PostgreSQL takes queries")
                }
            };
            wrong.extend(why.map(|why| (format!("origin.{}", origin.name), why.to_owned())));
            let (tls, papers) = (origin.target.as_ref().is_some_and(|target| target.tls), &origin.papers);
            let why = match (&papers.certificate, &papers.key) {
                _ if !tls && *papers != Papers::default() => Some(
                    "certificates are for TLS: rediss://, https://, and postgres:// without sslmode=disable",
                ),
                (Some(_), None) | (None, Some(_)) => Some("a certificate and its key come together"),
                _ => None,
            };
            wrong.extend(why.map(|why| (format!("origin.{}", origin.name), why.to_owned())));
        }
        if wrong.is_empty() { Ok((origins, keyspaces)) } else { Err(wrong) }
    }

    fn keyspace_of(&self, table: &KeyspaceTable) -> Result<Keyspace, String> {
        let keys = match (&table.prefix, &table.pattern) {
            (Some(prefix), None) => Keys::Prefix(prefix.clone().into()),
            (None, Some(pattern)) => Keys::Pattern(pattern.clone().into()),
            (None, None) => return Err("it has neither a prefix nor a pattern".into()),
            (Some(_), Some(_)) => return Err("it has both a prefix and a pattern".into()),
        };
        let twin = self.keyspaces.iter().find(|other| {
            other.name != table.name && (&other.prefix, &other.pattern) == (&table.prefix, &table.pattern)
        });
        if let Some(twin) = twin {
            return Err(format!("the keyspace {} has the same keys", twin.name));
        }
        let name = table.origin.as_deref().ok_or("it has no origin")?;
        let place = self.origins.iter().position(|origin| origin.name == name);
        let place = place.ok_or_else(|| format!("there is no origin `{name}`"))?;
        let origin = &self.origins[place];
        let target = origin.target.as_ref();
        let writes = match target.map(|target| &target.kind) {
            Some(Kind::Redis { .. } | Kind::Memcached) => true,
            Some(Kind::Postgres(_)) => origin.write_query.is_some(),
            _ => false,
        };
        let write = table.write.unwrap_or(if writes { WritePolicy::Through } else { WritePolicy::CacheOnly });
        if table.wait < origin.timeout {
            return Err(format!(
                "clients would give up (wait = {:?}) before the origin's timeout ({:?})",
                table.wait, origin.timeout
            ));
        }
        let versions = matches!(target.map(|target| &target.kind), Some(Kind::Memcached | Kind::Postgres(_)));
        if table.conflict == Conflict::Source && !versions {
            return Err(
                "conflict = \"source\" takes an origin that tells versions: memcached or PostgreSQL".into()
            );
        }
        let millis = |duration: Duration| duration.as_millis() as u64;
        let drop_prefix = table.drop_prefix.unwrap_or(target.is_some_and(Target::drops_prefix));
        let redis = matches!(target.map(|target| &target.kind), Some(Kind::Redis { .. }));
        Ok(Keyspace {
            name: table.name.clone(),
            keys,
            origin: OriginId(place as u16),
            drop_prefix,
            // Keys in replies would have to be put right, and what is not written through is no truth of the origin.
            passes: redis && !drop_prefix && write != WritePolicy::CacheOnly,
            fresh_millis: millis(table.fresh),
            stale_millis: millis(table.stale),
            stale_error_millis: millis(table.stale_on_error),
            negative_millis: millis(table.negative),
            write,
            value_bytes_max: table.value_bytes_max,
            wait_millis_max: millis(table.wait),
            attempts_max: table.attempts,
            prefetch: table.prefetch,
            budget: Arc::new(Budget::new(
                table.memory_bytes_max,
                table.fetches_per_second,
                table.fetches_max,
            )),
            conflict: table.conflict,
        })
    }
}

/// The name of what `--origin` makes.
const DEFAULT: &str = "default";

/// Prefixes none of which begins another, as tracking demands.
fn apart(prefixes: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = prefixes.collect();
    all.sort();
    all.dedup_by(|longer, shorter| longer.starts_with(shorter));
    if all.iter().any(Vec::is_empty) { Vec::new() } else { all }
}

fn set_entry<T>(entries: &[Entry<T>], it: &mut T, key: &str, text: &str) -> Result<(), String> {
    match entries.iter().find(|entry| entry.name == key) {
        Some(entry) => (entry.set)(it, text),
        None => {
            let plain = key.to_lowercase().replace('_', "-");
            let near = entries.iter().min_by_key(|entry| strsim::damerau_levenshtein(&plain, entry.name));
            let near = near.filter(|entry| strsim::damerau_levenshtein(&plain, entry.name) <= 3);
            let near = near.map(|entry| format!("; did you mean `{}`?", entry.name)).unwrap_or_default();
            Err(format!("unknown key `{key}`{near}"))
        }
    }
}

/// Name and help of every key of `[origin.NAME]`, then of `[keyspace.NAME]`.
pub fn help() -> [Vec<(&'static str, &'static str)>; 2] {
    [
        ORIGIN_ENTRIES.iter().map(|entry| (entry.name, entry.help)).collect(),
        KEYSPACE_ENTRIES.iter().map(|entry| (entry.name, entry.help)).collect(),
    ]
}

fn some(into: &mut Option<String>, text: &str) -> Result<(), String> {
    *into = Some(text.to_owned());
    Ok(())
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
}

fn number<T: TryFrom<u64>>(into: &mut T, text: &str, least: u64, most: u64) -> Result<(), String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    *into = number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("`{text}` is not a number from {least} to {most}"))?;
    Ok(())
}

fn duration(into: &mut Duration, text: &str, least: Duration, most: Duration) -> Result<(), String> {
    let duration = parse_duration(text)?;
    if duration < least || duration > most {
        return Err(format!("{text} is not from {least:?} to {most:?}"));
    }
    *into = duration;
    Ok(())
}

fn size(into: &mut usize, text: &str) -> Result<(), String> {
    let bytes = parse_size(text)?;
    if !(1..=512 << 20).contains(&bytes) {
        return Err(format!("{text} is not from 1 to 512MiB"));
    }
    *into = bytes as usize;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(entries: &[(&str, &str, &str, &str)]) -> Tables {
        let mut tables = Tables::default();
        for (table, name, key, text) in entries {
            tables.set(table, name, key, text).expect("a good entry");
        }
        tables
    }

    const PLAIN: [(&str, &str, &str, &str); 3] = [
        ("origin", "o", "url", "redis://127.0.0.1"),
        ("keyspace", "k", "prefix", "a:"),
        ("keyspace", "k", "origin", "o"),
    ];

    #[test]
    fn every_key_of_both_tables_changes_what_comes_out() {
        let values = |name: &str| match name {
            "url" => "memcached://127.0.0.1",
            "track" | "drop-prefix" => {
                if name == "track" {
                    "false"
                } else {
                    "true"
                }
            }
            "concurrency" | "connections" | "private-connections" | "queue" | "failures" | "attempts" => "7",
            "timeout" | "slow" | "pause" | "fresh" | "stale" | "stale-on-error" | "negative" => "700ms",
            "wait" => "7s",
            "answer-size" | "value-size" | "memory" => "7MiB",
            "fetches-per-second" => "7",
            "conflict" => "lww",
            "write" => "invalidate",
            "origin" => "other",
            "prefix" => "b:",
            "prefetch" => "on",
            "spare-share" => "even",
            _ => "text",
        };
        let shown = |tables: &Tables| {
            let resolved = tables.resolve();
            let pools = resolved.as_ref().ok().map(|(origins, _)| origins[0].pool());
            format!("{resolved:?} {pools:?}")
        };
        let before = tables(&PLAIN);
        for (table, entries) in ["origin", "keyspace"].iter().zip(help()) {
            for (key, help) in entries {
                let mut changed = before.clone();
                changed.set(table, if *table == "origin" { "o" } else { "k" }, key, values(key)).expect(key);
                assert_ne!(shown(&changed), shown(&before), "{key}");
                assert!(help.len() > 10);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_table() {
        let wrong = |entries: &[(&str, &str, &str, &str)]| tables(entries).resolve().unwrap_err();
        let [url, prefix, origin] = PLAIN;
        assert_eq!(wrong(&[prefix]), [("keyspace.k".into(), "it has no origin".into())]);
        assert_eq!(wrong(&[url, origin])[0].1, "it has neither a prefix nor a pattern");
        assert_eq!(wrong(&[prefix, origin])[0].1, "there is no origin `o`");
        let twin = [("keyspace", "l", "prefix", "a:"), ("keyspace", "l", "origin", "o")];
        assert!(wrong(&[url, prefix, origin, twin[0], twin[1]])[0].1.contains("same keys"));
        assert!(wrong(&[url, prefix, origin, ("origin", "o", "timeout", "5s")])[0].1.contains("give up"));
        assert!(
            wrong(&[url, prefix, origin, ("origin", "o", "query", "select 1")])[0].1.contains("PostgreSQL")
        );
        let by_source = wrong(&[url, prefix, origin, ("keyspace", "k", "conflict", "source")]);
        assert!(by_source[0].1.contains("versions"), "{by_source:?}");
        let mut tables = Tables::default();
        assert!(tables.set("keyspace", "k", "memory", "1KiB").unwrap_err().contains("64KiB"));
        assert!(tables.set("keyspace", "k", "conflict", "first").unwrap_err().contains("none of"));
        assert!(tables.set("keyspace", "k", "stael", "1s").unwrap_err().contains("did you mean `stale`"));
        assert!(tables.set("keyspace", "k", "fresh", "1").unwrap_err().contains("no unit"));
        assert!(tables.set("origin", "a b", "url", "redis://h").unwrap_err().contains("no name"));
        assert!(tables.set_default("postgres://h/d").unwrap_err().contains("query"));
    }

    #[test]
    fn what_postgres_is_asked_of_tls_is_what_url_and_table_say_together() {
        let resolved = |url: &str, more: &[(&'static str, &'static str)]| {
            let mut all = tables(&[("origin", "o", "query", "select 1")]);
            all.set("origin", "o", "url", url).expect("a good URL");
            more.iter().for_each(|(key, text)| all.set("origin", "o", key, text).expect("a good entry"));
            all.resolve().map(|(mut origins, _)| {
                let origin = origins.remove(0);
                let target = origin.target.expect("it has a URL");
                let Kind::Postgres(queries) = target.kind else { panic!() };
                (target.tls, queries.tls_mode(), origin.papers.authorities)
            })
        };
        let root = Some("/ca".to_owned());
        assert_eq!(resolved("postgres://h/d", &[]), Ok((true, TlsMode::Prefer, None)));
        let given = Ok((true, TlsMode::VerifyFull, root.clone()));
        assert_eq!(resolved("postgres://h/d", &[("ca", "/ca")]), given);
        assert_eq!(resolved("postgres://h/d?sslrootcert=/ca", &[]), given);
        let asked = resolved("postgres://h/d?sslmode=require", &[("ca", "/ca")]);
        assert_eq!(asked, Ok((true, TlsMode::VerifyCa, root)));
        let why = |url, more| resolved(url, more).unwrap_err().remove(0).1;
        assert!(why("postgres://h/d?sslmode=prefer", &[("ca", "/ca")]).contains("verify-full"));
        assert!(why("postgres://h/d?sslrootcert=/a", &[("ca", "/ca")]).contains("one of them"));
        assert!(why("postgres://h/d?sslmode=disable", &[("ca", "/ca")]).contains("sslmode=disable"));
    }

    #[test]
    fn a_redis_origin_is_asked_to_tell_of_its_keyspaces_only() {
        let [url, prefix, origin] = PLAIN;
        let more = [("keyspace", "l", "prefix", "a:b:"), ("keyspace", "l", "origin", "o")];
        let last = [("keyspace", "m", "prefix", "c:"), ("keyspace", "m", "origin", "o")];
        let resolved = tables(&[url, prefix, origin, more[0], more[1], last[0], last[1]]).resolve().unwrap();
        let Kind::Redis { track, .. } = &resolved.0[0].target.as_ref().unwrap().kind else { panic!() };
        assert_eq!(track, &[b"a:".to_vec(), b"c:".to_vec()]);
        let mut all = Tables::default();
        all.set_default("redis://h").unwrap();
        let (origins, keyspaces) = all.resolve().unwrap();
        assert_eq!(keyspaces[0].write, WritePolicy::Through);
        assert!(origins[0].pool().listen);
        assert!(
            matches!(&origins[0].target.as_ref().unwrap().kind, Kind::Redis { track, .. } if track.is_empty())
        );
    }
}
