//! The names of keys. All of a cluster's begin with `/c/CLUSTER/`, so that several clusters can share one etcd.
//!
//! | key | what stands there | goes with a lease |
//! |---|---|---|
//! | `meta/format`, `meta/generation` | the form of all this; a number that grows when the metadata was restored | |
//! | `nodes/00003` | zone, addresses, cores, memory, weight of node 3 | |
//! | `live/00003` | the incarnation of node 3 that is alive | yes |
//! | `ctl/leader` | who plans; the revision that created it is the leader's token | yes |
//! | `place/base` | the buckets that placement is computed from | |
//! | `part/0017` | the record of shard 17 | |
//! | `part/0017.00275` | the record of one slot of it that was split out | |
//! | `want/0017` | what the planner wants for it | |
//! | `hist/042` | how a move ended; a ring that is overwritten, never deleted | |
//! | `cfg/NAME` | settings of the whole cluster | |
//!
//! Numbers have leading zeros: the order of keys is the order of numbers, and no key is the beginning of another's number.

use super::Range;
use crate::ids::{ShardId, Slot};

/// Moves that are remembered in `hist/`.
const HISTORY_COUNT: u16 = 1000;

/// The names of one cluster's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// `/c/CLUSTER/`.
    prefix: String,
}

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `meta/format`.
    Format,
    /// `meta/generation`.
    Generation,
    /// `nodes/N`.
    Node(u16),
    /// `live/N`.
    Live(u16),
    /// `ctl/leader`.
    Leader,
    /// `place/base`.
    Base,
    /// `part/N`.
    Shard(ShardId),
    /// `part/N.S`: a slot that is a shard of its own for now.
    Slot(Slot),
    /// `want/N`.
    Want(ShardId),
    /// `hist/N`: its place in the ring.
    History(u16),
    /// `cfg/NAME`, with the name as it was before escaping.
    Setting(String),
}

impl Schema {
    /// The names of a cluster. Whatever its name contains, no key of one cluster lies among those of another.
    pub fn new(cluster: &str) -> Schema {
        Schema { prefix: format!("/c/{}/", escape(cluster)) }
    }

    /// Everything of the cluster.
    pub fn everything(&self) -> Range {
        Range::prefix(self.prefix.as_bytes())
    }

    /// All nodes that ever joined and did not leave.
    pub fn nodes(&self) -> Range {
        self.folder("nodes/")
    }

    /// All nodes that are alive.
    pub fn lives(&self) -> Range {
        self.folder("live/")
    }

    /// The records of all shards and of slots that were split out.
    pub fn shards(&self) -> Range {
        self.folder("part/")
    }

    /// Where in the ring of ended moves the one with this number is written.
    pub fn history(&self, number: u64) -> Vec<u8> {
        let place = number % u64::from(HISTORY_COUNT);
        self.key(&Name::History(u16::try_from(place).expect("it is below HISTORY_COUNT")))
    }

    /// The key of a name.
    pub fn key(&self, name: &Name) -> Vec<u8> {
        let tail = match name {
            Name::Format => "meta/format".to_owned(),
            Name::Generation => "meta/generation".to_owned(),
            Name::Node(node) => format!("nodes/{node:05}"),
            Name::Live(node) => format!("live/{node:05}"),
            Name::Leader => "ctl/leader".to_owned(),
            Name::Base => "place/base".to_owned(),
            Name::Shard(shard) => format!("part/{:04}", shard.number()),
            Name::Slot(slot) => format!("part/{:04}.{:05}", slot.shard().number(), slot.number()),
            Name::Want(shard) => format!("want/{:04}", shard.number()),
            Name::History(place) => format!("hist/{place:03}"),
            Name::Setting(name) => format!("cfg/{}", escape(name)),
        };
        [self.prefix.as_bytes(), tail.as_bytes()].concat()
    }

    /// What a key names; `None` if it is not one of this cluster's, or of a kind or form that is not known here.
    pub fn name(&self, key: &[u8]) -> Option<Name> {
        let tail = std::str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?;
        let (folder, rest) = tail.split_once('/')?;
        let name = match (folder, rest) {
            ("meta", "format") => Name::Format,
            ("meta", "generation") => Name::Generation,
            ("ctl", "leader") => Name::Leader,
            ("place", "base") => Name::Base,
            ("nodes", node) => Name::Node(node.parse().ok()?),
            ("live", node) => Name::Live(node.parse().ok()?),
            ("part", part) => match part.split_once('.') {
                Some((_, slot)) => Name::Slot(Slot::new(slot.parse().ok()?)),
                None => Name::Shard(ShardId::new(part.parse().ok()?)),
            },
            ("want", shard) => Name::Want(ShardId::new(shard.parse().ok()?)),
            ("hist", place) => Name::History(place.parse().ok().filter(|place| *place < HISTORY_COUNT)?),
            ("cfg", name) => Name::Setting(unescape(name)?),
            _ => return None,
        };
        // Whatever is written otherwise than we write it (zeros left out, a shard that is none) is not ours.
        (self.key(&name) == key).then_some(name)
    }

    fn folder(&self, folder: &str) -> Range {
        Range::prefix(format!("{}{folder}", self.prefix).as_bytes())
    }
}

/// A name as a part of a key: letters, digits, `-`, `_` and `.` as they are, every other byte as `%` and two hexadecimal digits.
pub fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SHARD_COUNT, SLOT_COUNT};
    use proptest::prelude::*;

    fn every_name() -> Vec<Name> {
        let mut names = vec![Name::Format, Name::Generation, Name::Leader, Name::Base];
        names.extend([0, 3, 10, u16::MAX].into_iter().flat_map(|node| [Name::Node(node), Name::Live(node)]));
        names.extend((0..SHARD_COUNT).map(ShardId::new).flat_map(|s| [Name::Shard(s), Name::Want(s)]));
        names.extend((0..SLOT_COUNT).map(|slot| Name::Slot(Slot::new(slot))));
        names.extend((0..1000).map(Name::History));
        names.extend(["", "a", "a/b", "ü %41", "x\0y"].map(|name| Name::Setting(name.to_owned())));
        names
    }

    #[test]
    fn keys_are_told_apart_and_say_what_they_name() {
        let schema = Schema::new("prod");
        let names = every_name();
        let keys: std::collections::HashSet<Vec<u8>> = names.iter().map(|name| schema.key(name)).collect();
        assert_eq!(keys.len(), names.len(), "no two names share a key");
        for name in names {
            let key = schema.key(&name);
            assert_eq!(schema.name(&key), Some(name));
            assert!(schema.everything().contains(&key));
        }
        assert_eq!(schema.key(&Name::Shard(ShardId::new(17))), b"/c/prod/part/0017");
        assert_eq!(schema.key(&Name::Slot(Slot::new(275))), b"/c/prod/part/0017.00275");
        assert_eq!(schema.history(1042), b"/c/prod/hist/042");
    }

    #[test]
    fn keys_are_in_the_order_of_their_numbers() {
        let schema = Schema::new("prod");
        let keys: Vec<_> = (0..SHARD_COUNT).map(|n| schema.key(&Name::Shard(ShardId::new(n)))).collect();
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| schema.shards().contains(key) && !schema.lives().contains(key)));
    }

    #[test]
    fn what_is_not_written_as_we_write_it_names_nothing() {
        let schema = Schema::new("prod");
        for other in [
            "/c/prod/part/17",
            "/c/prod/part/1024",
            "/c/prod/part/0016.00275",
            "/c/prod/part/+017",
            "/c/prod/cfg/a%4",
            "/c/prod/cfg/%61",
            "/c/prod/cfg/%C3",
            "/c/prod/cfg/%é1",
            "/c/prod/live/70000",
            "/c/prod/hist/1000",
            "/c/prod/new/1",
            "/c/prod/",
            "/c/other/part/0017",
        ] {
            assert_eq!(schema.name(other.as_bytes()), None, "{other}");
        }
        assert_eq!(schema.name(b"/c/prod/cfg/\xFF"), None);
    }

    proptest! {
        #[test]
        fn whatever_clusters_are_called_their_keys_do_not_mix(a in ".{0,12}", b in ".{0,12}", name in ".{0,12}") {
            let (ours, theirs) = (Schema::new(&a), Schema::new(&b));
            let key = theirs.key(&Name::Setting(name.clone()));
            prop_assert_eq!(ours.everything().contains(&key), a == b);
            prop_assert_eq!(theirs.name(&key), Some(Name::Setting(name)));
        }
    }
}
