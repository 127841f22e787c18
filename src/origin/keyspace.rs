//! Keyspaces: which keys have which origin, and under which rules they are cached.
//!
//! A key belongs to the keyspace with the longest prefix that begins it, else to the first whose pattern fits, else to none.
//!
//! ```text
//!   filled           fresh ends                          expiry
//!     |--- fresh ------|--- keep ---------------------------|
//!                      |--- stale ----|                        served at once, refreshed behind
//!                      |--- stale on error -------------|       asked again; served if the origin cannot answer
//! ```
//! An item's expiry is the end of all of it, so that when freshness ends is the expiry less `keep`: nothing more is stored
//! with an item.

use super::OriginId;
use super::budget::Budget;
use std::collections::HashMap;
use std::sync::Arc;

/// Number of a keyspace, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyspaceId(pub u16);

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Those that begin so; empty: all.
    Prefix(Vec<u8>),
    /// Those that fit a pattern in which `*` stands for any bytes.
    Pattern(Vec<u8>),
}

/// What a write by a client means for the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WritePolicy {
    /// The origin is written first, then the cache holds the new value.
    #[default]
    Through,
    /// The origin is written first, then the cache forgets the key.
    Invalidate,
    /// The origin is not told.
    CacheOnly,
}

/// A keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Its name, in metrics and in `foreshadow keyspace`.
    pub name: String,
    /// Which keys.
    pub keys: Keys,
    /// Where their truth is.
    pub origin: OriginId,
    /// Whether the origin knows the keys without the prefix.
    pub drop_prefix: bool,
    /// Whether the origin does commands as they are that we do not do.
    pub passes: bool,
    /// Milliseconds an item is served without asking, where the origin says nothing else.
    pub fresh_millis: u64,
    /// Milliseconds beyond freshness that an item is served while it is fetched anew.
    pub stale_millis: u64,
    /// Milliseconds beyond freshness that an item is served if the origin cannot answer.
    pub stale_error_millis: u64,
    /// Milliseconds that a key is known to be absent, where the origin says nothing else; 0: not at all.
    pub negative_millis: u64,
    /// What writes do.
    pub write: WritePolicy,
    /// Longest value that is kept; longer ones are handed through.
    pub value_bytes_max: usize,
    /// Milliseconds that a client waits at most, all attempts together.
    pub wait_millis_max: u64,
    /// Attempts for clients that wait.
    pub attempts_max: u8,
    /// Whether keys are fetched before they are asked for.
    pub prefetch: bool,
    /// What it may take of its origin and of the memory.
    pub budget: Arc<Budget>,
    /// Which of two values counts.
    pub conflict: Conflict,
}

/// Which of two values of a key counts, where they come in an order that may not be that of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Conflict {
    /// The one that the key's owner took in last.
    #[default]
    Epoch,
    /// The one that was written last, by the clock, as far as that is known.
    Lww,
    /// The one to which the origin has given the greater version.
    Source,
}

impl Keyspace {
    /// Milliseconds that an item is kept beyond its freshness.
    #[inline]
    pub fn keep_millis(&self) -> u64 {
        self.stale_millis.max(self.stale_error_millis)
    }

    /// Whether it has the same keys, and what it fills means the same: all but what it may take is as with another.
    pub fn fills_like(&self, other: &Keyspace) -> bool {
        Keyspace { budget: other.budget.clone(), ..self.clone() } == *other
    }

    /// The key as the origin knows it.
    pub fn origin_key<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match &self.keys {
            Keys::Prefix(prefix) if self.drop_prefix => key.strip_prefix(prefix.as_slice()).unwrap_or(key),
            _ => key,
        }
    }

    /// The key as clients know it.
    pub fn own_key(&self, key: &[u8]) -> Vec<u8> {
        match &self.keys {
            Keys::Prefix(prefix) if self.drop_prefix => [prefix, key].concat(),
            _ => key.to_vec(),
        }
    }

    /// Whether a key fits.
    pub fn fits(&self, key: &[u8]) -> bool {
        match &self.keys {
            Keys::Prefix(prefix) => key.starts_with(prefix),
            Keys::Pattern(pattern) => pattern_fits(pattern, key),
        }
    }
}

#[cfg(test)]
impl Keyspace {
    /// Rules for tests that are about something else: all of a first origin's keys, which pass nothing and stay fresh.
    pub fn plain() -> Keyspace {
        Keyspace {
            name: "k".into(),
            keys: Keys::Prefix(Vec::new()),
            origin: OriginId(0),
            drop_prefix: false,
            passes: false,
            fresh_millis: 1_000_000,
            stale_millis: 0,
            stale_error_millis: 0,
            negative_millis: 1000,
            write: WritePolicy::Through,
            value_bytes_max: 1 << 20,
            wait_millis_max: 1000,
            attempts_max: 3,
            prefetch: false,
            budget: Arc::default(),
            conflict: Conflict::default(),
        }
    }
}

/// All keyspaces of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Keyspaces {
    list: Vec<Arc<Keyspace>>,
    keep_millis_max: u64,
    /// Whether any passes.
    passes: bool,
    /// Lengths of prefixes, longest first.
    lengths: Vec<usize>,
    prefixes: HashMap<Vec<u8>, KeyspaceId>,
    patterns: Vec<KeyspaceId>,
}

impl Keyspaces {
    /// In the order of the configuration; of two with the same prefix the first counts.
    pub fn new(list: Vec<Keyspace>) -> Keyspaces {
        let keep_millis_max = list.iter().map(Keyspace::keep_millis).max().unwrap_or(0);
        let passes = list.iter().any(|keyspace| keyspace.passes);
        let list = list.into_iter().map(Arc::new).collect();
        let mut keyspaces = Keyspaces { list, keep_millis_max, passes, ..Keyspaces::default() };
        for (i, keyspace) in keyspaces.list.iter().enumerate() {
            let id = KeyspaceId(i as u16);
            match &keyspace.keys {
                Keys::Prefix(prefix) => {
                    keyspaces.prefixes.entry(prefix.clone()).or_insert(id);
                    keyspaces.lengths.push(prefix.len());
                }
                Keys::Pattern(_) => keyspaces.patterns.push(id),
            }
        }
        keyspaces.lengths.sort_unstable_by(|a, b| b.cmp(a));
        keyspaces.lengths.dedup();
        keyspaces
    }

    /// The keyspace of a key.
    #[inline]
    pub fn of(&self, key: &[u8]) -> Option<KeyspaceId> {
        // One keyspace for all keys, as `--origin` makes it, needs no lookup.
        if self.lengths == [0] && self.patterns.is_empty() {
            return Some(KeyspaceId(0));
        }
        let by_prefix = self
            .lengths
            .iter()
            .filter(|len| **len > 0)
            .find_map(|&len| self.prefixes.get(key.get(..len)?).copied());
        by_prefix
            .or_else(|| self.patterns.iter().copied().find(|id| self[*id].fits(key)))
            .or_else(|| self.prefixes.get(b"".as_slice()).copied())
    }

    /// Whether there are keys whose origin does commands as they are.
    #[inline]
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// The keyspace of a key whose origin does commands as they are. `None` instead of a key: for commands without keys, where
    /// all keyspaces that pass have one origin.
    pub fn passing(&self, key: Option<&[u8]>) -> Option<KeyspaceId> {
        let Some(key) = key else {
            let passing = || self.list.iter().enumerate().filter(|(_, keyspace)| keyspace.passes);
            let (first, keyspace) = passing().next()?;
            let one = passing().all(|(_, other)| other.origin == keyspace.origin);
            return one.then_some(KeyspaceId(first as u16));
        };
        self.of(key).filter(|id| self[*id].passes)
    }

    /// The origin that has all keys there are and does commands as they are.
    pub fn passing_all(&self) -> Option<OriginId> {
        let id = *self.prefixes.get(b"".as_slice())?;
        let origin = self[id].origin;
        self.list.iter().all(|keyspace| keyspace.passes && keyspace.origin == origin).then_some(origin)
    }

    /// All, in the order of the configuration.
    pub fn list(&self) -> &[Arc<Keyspace>] {
        &self.list
    }

    /// The most that any keyspace keeps its items beyond their freshness: one that ends later than that is fresh.
    #[inline]
    pub fn keep_millis_max(&self) -> u64 {
        self.keep_millis_max
    }
}

impl std::ops::Index<KeyspaceId> for Keyspaces {
    type Output = Arc<Keyspace>;

    #[inline]
    fn index(&self, id: KeyspaceId) -> &Arc<Keyspace> {
        &self.list[usize::from(id.0)]
    }
}

/// Whether a key fits a pattern in which `*` stands for any bytes; time is linear in the key for each star.
fn pattern_fits(pattern: &[u8], key: &[u8]) -> bool {
    let mut parts = pattern.split(|&byte| byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = key.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = memchr::memmem::find(rest, part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(keys: Keys) -> Keyspace {
        Keyspace {
            name: "k".into(),
            keys,
            origin: OriginId(0),
            drop_prefix: false,
            passes: false,
            fresh_millis: 1000,
            stale_millis: 0,
            stale_error_millis: 0,
            negative_millis: 0,
            write: WritePolicy::Through,
            value_bytes_max: 1 << 20,
            wait_millis_max: 1000,
            attempts_max: 2,
            prefetch: false,
            budget: Arc::default(),
            conflict: Conflict::default(),
        }
    }

    #[test]
    fn the_longest_prefix_counts_then_patterns_then_the_one_for_all() {
        let prefix = |text: &str| keyspace(Keys::Prefix(text.into()));
        let pattern = |text: &str| keyspace(Keys::Pattern(text.into()));
        let all = Keyspaces::new(vec![
            prefix("user:"),
            prefix("user:admin:"),
            pattern("*:image"),
            prefix(""),
            pattern("a*b*c"),
        ]);
        for (key, id) in [
            ("user:1", 0),
            ("user:admin:1", 1),
            ("user:", 0),
            ("item:7:image", 2),
            ("user:7:image", 0),
            ("other", 3),
            ("axxbc", 4),
            ("axxcb", 3),
            ("", 3),
        ] {
            assert_eq!(all.of(key.as_bytes()), Some(KeyspaceId(id)), "{key}");
        }
        assert_eq!(Keyspaces::new(vec![prefix("a:")]).of(b"b:1"), None);
        assert_eq!(Keyspaces::new(vec![prefix("")]).of(b"b:1"), Some(KeyspaceId(0)));
    }

    #[test]
    fn commands_pass_by_their_key_and_without_one_where_there_is_one_origin_for_them() {
        let of = |prefix: &str, origin, passes| Keyspace {
            origin: OriginId(origin),
            passes,
            ..keyspace(Keys::Prefix(prefix.into()))
        };
        let two = Keyspaces::new(vec![of("a:", 0, false), of("b:", 1, true), of("c:", 1, true)]);
        assert!(two.passes());
        assert_eq!(two.passing(Some(b"a:1")), None);
        assert_eq!(two.passing(Some(b"c:1")), Some(KeyspaceId(2)));
        assert_eq!(two.passing(None), Some(KeyspaceId(1)));
        let apart = Keyspaces::new(vec![of("b:", 1, true), of("c:", 2, true)]);
        assert_eq!(apart.passing(None), None);
        let whole = Keyspaces::new(vec![of("b:", 1, true), of("", 1, true)]);
        assert_eq!(whole.passing_all(), Some(OriginId(1)));
        for some in [vec![of("", 1, true), of("b:", 2, true)], vec![of("", 1, true), of("b:", 1, false)]] {
            assert_eq!(Keyspaces::new(some).passing_all(), None);
        }
        assert_eq!(two.passing_all(), None, "there are others");
        let none = Keyspaces::new(vec![of("", 0, false)]);
        assert!(!none.passes() && none.passing(None).is_none());
    }

    #[test]
    fn keys_lose_and_regain_their_prefix() {
        let rows = Keyspace { drop_prefix: true, ..keyspace(Keys::Prefix(b"user:".to_vec())) };
        assert_eq!(rows.origin_key(b"user:7"), b"7");
        assert_eq!(rows.own_key(b"7"), b"user:7");
        let whole = keyspace(Keys::Prefix(b"user:".to_vec()));
        assert_eq!(
            (whole.origin_key(b"user:7"), whole.own_key(b"user:7")),
            (b"user:7".as_slice(), b"user:7".to_vec())
        );
    }
}
