//! The nodes of a cluster as its list names them, and the cores of the other nodes as this one numbers them.
//!
//! A node's own cores come first, numbered as without a cluster; behind them those of the other nodes, in the order of the nodes' numbers. So
//! whoever speaks of a core can speak of one of another node, and who has to know the difference asks [`Cluster::far`].

use super::ShardMap;
use crate::hash::jump;
use crate::ids::{CoreId, SHARD_COUNT};
use std::net::SocketAddr;
use std::str::FromStr;

/// Most cores of all nodes together: each has a link to each of the others.
pub const CLUSTER_CORES_MAX: usize = 256;

/// A node as the list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: u32,
    /// Its main address. Its cores listen on the ports behind that.
    pub address: SocketAddr,
    /// How many cores it has.
    pub cores: u16,
}

/// All nodes of a cluster, in the order of their numbers; the same list at each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members(Vec<Member>);

impl Members {
    /// The nodes.
    pub fn list(&self) -> &[Member] {
        &self.0
    }

    /// The node of a number.
    pub fn of(&self, node: u32) -> Option<&Member> {
        self.0.iter().find(|member| member.node == node)
    }
}

impl std::fmt::Display for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Member { node, address, cores }) in self.0.iter().enumerate() {
            write!(f, "{}{node}={address}/{cores}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Members {
    type Err = String;

    fn from_str(text: &str) -> Result<Members, String> {
        let member = |part: &str| {
            let (node, rest) = part.trim().split_once('=')?;
            let (address, cores) = rest.split_once('/').unwrap_or((rest, "1"));
            let (node, cores) = (node.parse().ok()?, cores.parse().ok().filter(|cores| *cores > 0)?);
            let address: SocketAddr =
                address.parse().ok().filter(|address: &SocketAddr| address.port() > 0)?;
            Some(Member { node, address, cores })
        };
        let mut members = Vec::new();
        for part in text.split(',') {
            let wrong =
                || format!("`{part}` is no node as 2=10.0.0.7:7400/4: number, address and port, cores");
            members.push(member(part).ok_or_else(wrong)?);
        }
        members.sort_by_key(|member| member.node);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(format!("two nodes have the number {}", pair[0].node));
        }
        let cores: usize = members.iter().map(|member| usize::from(member.cores)).sum();
        if cores > CLUSTER_CORES_MAX {
            return Err(format!("{cores} cores; {CLUSTER_CORES_MAX} are the most that a cluster may have"));
        }
        Ok(Members(members))
    }
}

/// A core of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarCore {
    /// The node.
    pub node: u32,
    /// The core's place on it.
    pub core: u16,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A cluster, seen from one of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// This node's number.
    pub node: u32,
    /// Which life of it: greater with each start.
    pub incarnation: u64,
    members: Members,
    cores: u16,
    far: Vec<FarCore>,
}

impl Cluster {
    /// Nothing where the list does not name the node.
    pub fn new(members: &Members, node: u32, incarnation: u64) -> Option<Cluster> {
        let cores = members.of(node)?.cores;
        let others = members.list().iter().filter(|member| member.node != node);
        let far = others.flat_map(|member| {
            (0..member.cores).map(|core| {
                let port = member.address.port().saturating_add(1 + core);
                FarCore { node: member.node, core, address: SocketAddr::new(member.address.ip(), port) }
            })
        });
        Some(Cluster { node, incarnation, members: members.clone(), cores, far: far.collect() })
    }

    /// The nodes.
    pub fn members(&self) -> &[Member] {
        self.members.list()
    }

    /// Cores of the other nodes, in the order of their numbers here.
    pub fn far_cores(&self) -> impl Iterator<Item = (CoreId, &FarCore)> {
        self.far.iter().enumerate().map(|(i, far)| (CoreId(self.cores + i as u16), far))
    }

    /// The core, if it is another node's.
    pub fn far(&self, core: CoreId) -> Option<&FarCore> {
        self.far.get(core.index().checked_sub(usize::from(self.cores))?)
    }

    /// The number here of a core of a node.
    pub fn core_of(&self, node: u32, core: u16) -> Option<CoreId> {
        if node == self.node {
            return (core < self.cores).then_some(CoreId(core));
        }
        self.far_cores().find(|(_, far)| (far.node, far.core) == (node, core)).map(|(id, _)| id)
    }

    /// The node of a core, and its place there.
    pub fn place_of(&self, core: CoreId) -> (u32, u16) {
        self.far(core).map_or((self.node, core.0), |far| (far.node, far.core))
    }

    /// The core that keeps the records of shards: the first of the first node.
    pub fn keeper(&self) -> CoreId {
        self.core_of(self.members.list()[0].node, 0).expect("the list names it")
    }

    /// Of the list: nodes whose lists differ do not talk to each other.
    pub fn checksum(&self) -> u32 {
        crc32fast::hash(self.members.to_string().as_bytes())
    }

    /// Where shards are as long as none has moved.
    pub fn placed(&self) -> ShardMap {
        let all: Vec<CoreId> = self
            .members
            .list()
            .iter()
            .flat_map(|member| (0..member.cores).map(|core| (member.node, core)))
            .filter_map(|(node, core)| self.core_of(node, core))
            .collect();
        let place = |shard| jump(super::spread(shard), all.len() as u32);
        ShardMap::of_owners((0..SHARD_COUNT).map(|shard| all[place(shard) as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn seen_from(node: u32) -> Cluster {
        let members = "7=127.0.0.1:7500/2,3=127.0.0.1:7400,9=[::1]:7600/3".parse().expect("a list");
        Cluster::new(&members, node, 1).expect("it is in the list")
    }

    #[test]
    fn all_nodes_place_all_shards_alike_whatever_they_call_the_cores() {
        let views = [3, 7, 9].map(seen_from);
        let maps = views.each_ref().map(Cluster::placed);
        let mut counts = std::collections::BTreeMap::new();
        for shard in (0..SHARD_COUNT).map(ShardId::new) {
            let owners = [0, 1, 2].map(|i| views[i].place_of(maps[i].owner(shard)));
            assert!(owners[0] == owners[1] && owners[1] == owners[2], "{shard:?}");
            *counts.entry(owners[0]).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6, "each core has some");
        assert!(counts.values().all(|count| (100..=240).contains(count)), "{counts:?}");
        assert!(views.iter().all(|view| view.place_of(view.keeper()) == (3, 0)));
        assert!(views.iter().all(|view| view.checksum() == views[0].checksum()));
    }

    #[test]
    fn cores_of_other_nodes_come_behind_the_own_ones() {
        let view = seen_from(7);
        assert_eq!(view.core_of(7, 1), Some(CoreId(1)));
        assert_eq!((view.core_of(7, 2), view.core_of(8, 0)), (None, None));
        assert_eq!(view.core_of(3, 0), Some(CoreId(2)));
        assert_eq!(view.core_of(9, 2), Some(CoreId(5)));
        assert_eq!(view.far(CoreId(1)), None);
        assert_eq!(view.far(CoreId(6)), None);
        let last = view.far(CoreId(5)).expect("another node's");
        assert_eq!(last.address, "[::1]:7603".parse().expect("an address"));
        for core in (0..6).map(CoreId) {
            let (node, place) = view.place_of(core);
            assert_eq!(view.core_of(node, place), Some(core));
        }
    }

    #[test]
    fn a_list_is_shown_as_it_reads_and_a_wrong_one_is_refused() {
        let text = "1=127.0.0.1:7400/2,2=127.0.0.1:7500/1";
        let members: Members = text.parse().expect("a list");
        assert_eq!(members.to_string(), text);
        let turned: Members = "2=127.0.0.1:7500, 1=127.0.0.1:7400/2".parse().expect("a list");
        assert_eq!(turned, members);
        for wrong in
            ["", "1", "1=127.0.0.1", "1=127.0.0.1:0", "1=127.0.0.1:7400/0", "x=127.0.0.1:7400", "1=h:7400"]
        {
            assert!(wrong.parse::<Members>().unwrap_err().contains("is no node"), "{wrong}");
        }
        assert!("1=127.0.0.1:1,1=127.0.0.1:9".parse::<Members>().unwrap_err().contains("two nodes"));
        assert!("1=127.0.0.1:1/200,2=127.0.0.1:900/57".parse::<Members>().unwrap_err().contains("256"));
        assert_eq!(Cluster::new(&members, 3, 1), None);
    }
}
