//! Who owns what: shards on cores, and what a node tells clients about itself.

mod cluster;

pub use cluster::{CLUSTER_CORES_MAX, Cluster, FarCore, Member, Members};

use crate::clock::Now;
use crate::hash::jump;
use crate::ids::{CoreId, SHARD_COUNT, ShardId, Slot};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// The owner of every shard of this node, and the map's epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Grows with each change.
    pub epoch: u64,
    owners: Box<[CoreId]>,
    /// Of shards that have moved, who owned them before; nothing as long as none has.
    before: Option<Box<[CoreId]>>,
    /// What was made of the map as it is, for RESP2 and RESP3: for whom, and what.
    made: [OnceLock<(String, Vec<u8>)>; 2],
}

/// Contiguous slots of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Who owns them.
    pub owner: CoreId,
}

impl ShardMap {
    /// All shards on `cores` cores (at least 1) of one node, placed by jump hash.
    pub fn on_cores(cores: u16) -> ShardMap {
        let owners =
            (0..SHARD_COUNT).map(|shard| CoreId(jump(spread(shard), u32::from(cores)) as u16)).collect();
        ShardMap::of_owners(owners)
    }

    fn of_owners(owners: Box<[CoreId]>) -> ShardMap {
        ShardMap { epoch: 1, owners, before: None, made: Default::default() }
    }

    /// The core that owns a shard.
    #[inline]
    pub fn owner(&self, shard: ShardId) -> CoreId {
        self.owners[shard.number() as usize]
    }

    /// Gives a shard another owner, in an epoch that is at least this one.
    pub fn give(&mut self, shard: ShardId, owner: CoreId, epoch: u64) {
        let place = usize::from(shard.number());
        let before = self.before.get_or_insert_with(|| self.owners.clone());
        if self.owners[place] != owner {
            before[place] = self.owners[place];
        }
        self.owners[place] = owner;
        self.epoch = epoch.max(self.epoch + 1);
        self.made = Default::default();
    }

    /// Appends what `make` makes of the map, or what it made before of this very map for the same address: a list of ranges is tens
    /// of KiB of text, and all clients of a cluster ask for it when a shard has moved.
    pub fn made_once(&self, resp3: bool, address: &str, out: &mut Vec<u8>, make: impl FnOnce(&mut Vec<u8>)) {
        let made = &self.made[usize::from(resp3)];
        match made.get() {
            Some((whose, bytes)) if whose == address => out.extend_from_slice(bytes),
            Some(_) => make(out),
            None => {
                let start = out.len();
                make(out);
                // Who was faster made the same, or for another address.
                let _ = made.set((address.to_owned(), out[start..].to_vec()));
            }
        }
    }

    /// Whether a shard has moved since the start.
    #[inline]
    pub fn has_moves(&self) -> bool {
        self.before.is_some()
    }

    /// Whether a core owned a shard before its owner does: who asks it there has an old map.
    pub fn was_of(&self, shard: ShardId, core: CoreId) -> bool {
        let place = usize::from(shard.number());
        self.owners[place] != core && self.before.as_ref().is_some_and(|before| before[place] == core)
    }

    /// Runs of contiguous slots with one owner, in slot order.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for number in 0..SHARD_COUNT {
            let shard = ShardId::new(number);
            let owner = self.owner(shard);
            match ranges.last_mut() {
                Some(range) if range.owner == owner => range.last = shard.last_slot(),
                _ => ranges.push(SlotRange { first: shard.first_slot(), last: shard.last_slot(), owner }),
            }
        }
        ranges
    }
}

/// Jump hash wants keys that differ in all bits; shard numbers do not.
fn spread(shard: u16) -> u64 {
    let mut x = u64::from(shard).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a node tells clients about itself. Shared by all cores, replaced whole when something changes.
#[derive(Clone, Debug)]
pub struct Node {
    /// 40 hexadecimal digits, new with each start.
    pub run_id: String,
    /// Version of this program.
    pub version: &'static str,
    /// Process id.
    pub process_id: u32,
    /// When it started.
    pub started: Now,
    /// Address that clients reach it by.
    pub address: IpAddr,
    /// Main port (0: none, unix sockets only).
    pub port: u16,
    /// Port of each core, with `--cluster-ports`; else empty and the node is no cluster.
    pub core_ports: Vec<u16>,
    /// The kernel's numbers of the CPUs that serve.
    pub cpus: Vec<usize>,
    /// Limit of the store's memory in bytes, all cores.
    pub memory_bytes_max: u64,
    /// Limit of connections, all cores.
    pub clients_max: u64,
    /// Settings as `CONFIG GET` shows them: name and value.
    pub settings: Vec<(String, String)>,
    /// Who owns what.
    pub map: ShardMap,
    /// The other nodes, where there are any.
    pub cluster: Option<Arc<Cluster>>,
}

impl Node {
    /// Number of cores of this node.
    pub fn core_count(&self) -> u16 {
        self.cpus.len() as u16
    }

    /// Number of cores of all nodes.
    pub fn all_core_count(&self) -> u16 {
        let far = self.cluster.as_ref().map_or(0, |cluster| cluster.far_cores().count());
        self.core_count() + far as u16
    }

    /// Whether a core is another node's.
    #[inline]
    pub fn is_far(&self, core: CoreId) -> bool {
        core.0 >= self.core_count()
    }

    /// Where a core of another node listens.
    pub fn far_address(&self, core: CoreId) -> Option<SocketAddr> {
        self.cluster.as_ref()?.far(core).map(|far| far.address)
    }

    /// The node of a core, and its place there; the node is 0 where there is no cluster.
    pub fn place_of(&self, core: CoreId) -> (u32, u16) {
        self.cluster.as_ref().map_or((0, core.0), |cluster| cluster.place_of(core))
    }

    /// Whether a client by a core's own port may have to be sent elsewhere.
    #[inline]
    pub fn redirects(&self) -> bool {
        self.map.has_moves() || self.cluster.is_some()
    }

    /// Whether who asks for a shard by a core's own port is to be sent on: its owner is another node's core, or was that core.
    pub fn sends_on(&self, shard: ShardId, own: CoreId) -> bool {
        self.is_far(self.map.owner(shard)) || self.map.was_of(shard, own)
    }

    /// The id by which `CLUSTER` commands name a core: 40 hexadecimal digits. The run id with the core's place at its end; in a cluster
    /// made of what all nodes know, so that all call it the same.
    pub fn core_node_id(&self, core: CoreId) -> String {
        match &self.cluster {
            Some(cluster) => {
                let (node, place) = cluster.place_of(core);
                format!("{:08x}{node:028x}{place:04x}", cluster.checksum())
            }
            None => format!("{}{:04x}", &self.run_id[..36], core.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_gets_a_fair_share_and_a_new_core_takes_only_its_own() {
        let (two, three) = (ShardMap::on_cores(2), ShardMap::on_cores(3));
        let share = |map: &ShardMap, core| {
            (0..SHARD_COUNT).filter(|&s| map.owner(ShardId::new(s)) == CoreId(core)).count()
        };
        for core in 0..2 {
            assert!((400..=624).contains(&share(&two, core)), "core {core} has {}", share(&two, core));
        }
        for shard in (0..SHARD_COUNT).map(ShardId::new) {
            assert!(three.owner(shard) == two.owner(shard) || three.owner(shard) == CoreId(2));
        }
    }

    #[test]
    fn who_owned_a_shard_before_is_known_and_epochs_grow() {
        let mut map = ShardMap::on_cores(3);
        let shard = ShardId::new(5);
        let first = map.owner(shard);
        let [second, third] = [1, 2].map(|step| CoreId((first.0 + step) % 3));
        assert!(!map.has_moves() && !map.was_of(shard, first));
        map.give(shard, second, 40);
        assert_eq!((map.owner(shard), map.epoch), (second, 40));
        assert!(map.has_moves() && map.was_of(shard, first) && !map.was_of(shard, second));
        map.give(shard, second, 40);
        assert!(map.was_of(shard, first) && map.epoch > 40, "told twice");
        map.give(shard, third, 3);
        assert!(map.was_of(shard, second) && !map.was_of(shard, first) && map.epoch > 41);
        map.give(shard, first, 50);
        assert!(!map.was_of(shard, first) && map.was_of(shard, third));
    }

    #[test]
    fn what_is_made_of_a_map_is_made_once_until_it_changes() {
        let mut map = ShardMap::on_cores(2);
        let made = |map: &ShardMap, resp3, address: &str, text: &str| {
            let mut out = b"x".to_vec();
            map.made_once(resp3, address, &mut out, |out| out.extend_from_slice(text.as_bytes()));
            String::from_utf8(out).expect("text")
        };
        assert_eq!(made(&map, false, "a", "1"), "x1");
        assert_eq!(made(&map, false, "a", "2"), "x1", "as it was made");
        assert_eq!((made(&map, true, "a", "3"), made(&map, false, "b", "4")), ("x3".into(), "x4".into()));
        map.give(ShardId::new(0), CoreId(1), 2);
        assert_eq!(made(&map, false, "a", "5"), "x5");
    }

    #[test]
    fn ranges_cover_every_slot_once() {
        let map = ShardMap::on_cores(3);
        let mut next = 0;
        for range in map.ranges() {
            assert_eq!(range.first.number(), next);
            assert_eq!(map.owner(range.last.shard()), range.owner);
            next = range.last.number() + 1;
        }
        assert_eq!(next, crate::ids::SLOT_COUNT);
    }
}
