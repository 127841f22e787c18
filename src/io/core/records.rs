//! The records of shards, and who cores are in them. Where there is one node they are the embedded table of [`crate::metadata`], held by
//! the first core, in memory alone: after a restart there are no items either, and shards are placed anew. In a cluster they
//! are in a file of the first node ([`crate::control::keeper`]).

use crate::clock::Mono;
use crate::ids::{CoreId, ShardId};
use crate::metadata::{Name, Outcome, Range, Revision, Schema, Stands, Table, Txn};
use crate::migration::record::{Record, Seen, Site};
use crate::topology::{Cluster, ShardMap};
use std::collections::BTreeMap;

/// A core of a node without others. Cores do not begin anew while the process lives, so they have one life.
pub(super) fn site(core: CoreId) -> Site {
    Site { node: 0, core: core.0, incarnation: 1 }
}

/// A core of a cluster, in a life of its process.
pub(super) fn site_in(cluster: &Cluster, core: CoreId, incarnation: u64) -> Site {
    let (node, core) = cluster.place_of(core);
    Site { node, core, incarnation }
}

/// The record of a shard as it is before anybody has changed it: revision 0.
pub(super) fn placed(map: &ShardMap, shard: ShardId) -> Seen {
    Seen { record: Record::stable(site(map.owner(shard)), 0), revision: 0 }
}

/// The same in a cluster: there it is owned by no life of a core, and the core claims it first of all.
pub(super) fn placed_in(cluster: &Cluster, map: &ShardMap, shard: ShardId) -> Seen {
    Seen { record: Record::stable(site_in(cluster, map.owner(shard), 0), 0), revision: 0 }
}

/// Records as they are listed, by shard; nothing if these bytes are no list.
pub(super) fn list_of(mut bytes: &[u8]) -> Option<BTreeMap<u16, Seen>> {
    let mut all = BTreeMap::new();
    while let Some((shard, rest)) = bytes.split_first_chunk::<4>() {
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (seen, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        all.insert(u16::try_from(u32::from_le_bytes(*shard)).ok()?, of_bytes(seen)?);
        bytes = rest;
    }
    bytes.is_empty().then_some(all)
}

/// The records that were changed.
pub(super) struct Records {
    table: Table,
    schema: Schema,
    /// Where shards were placed at the start.
    map: ShardMap,
}

impl Records {
    pub fn new(map: ShardMap) -> Records {
        Records { table: Table::new(), schema: Schema::new("local"), map }
    }

    /// Changes a record that stands at a revision.
    ///
    /// # Errors
    /// The record as it is, if it stands at another one.
    pub fn swap(&mut self, now: Mono, shard: ShardId, expected: u64, record: &[u8]) -> Result<u64, Seen> {
        let key = self.schema.key(&Name::Shard(shard));
        let stands = if expected == 0 { Stands::Absent } else { Stands::At(Revision(expected)) };
        let outcome = self.table.apply(now, &Txn::swap(&key, stands, record, None));
        // Nobody keeps it.
        drop(self.table.take_frame());
        match outcome {
            Outcome::Done(revision) => Ok(revision.0),
            // A record is short, and there are as many as shards: nothing but its revision can be wrong with it.
            _ => Err(self.look(shard)),
        }
    }

    /// A record as it stands.
    pub fn look(&self, shard: ShardId) -> Seen {
        let key = self.schema.key(&Name::Shard(shard));
        let listing = self.table.list(&Range::key(&key));
        let entry = listing.entries.first();
        let written = entry.and_then(|entry| Some((Record::of_bytes(&entry.value).ok()?, entry.modified)));
        match written {
            Some((record, Revision(revision))) => Seen { record, revision },
            None => placed(&self.map, shard),
        }
    }
}

/// A record with its revision before it, to carry.
pub(super) fn to_bytes(seen: &Seen) -> Vec<u8> {
    [&seen.revision.to_le_bytes()[..], &seen.record.to_bytes()].concat()
}

/// What [`to_bytes`] made.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<Seen> {
    let (revision, record) = bytes.split_first_chunk::<8>()?;
    let record = Record::of_bytes(record).ok()?;
    Some(Seen { record, revision: u64::from_le_bytes(*revision) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let members = "1=127.0.0.1:7400/2,4=127.0.0.1:7500".parse().expect("a list");
        let cluster = Cluster::new(&members, 4, 9).expect("it is there");
        let map = cluster.placed();
        let mut bytes = Vec::new();
        let seen = |shard| Seen { revision: 7, ..placed_in(&cluster, &map, ShardId::new(shard)) };
        for shard in [3, 900] {
            let one = to_bytes(&seen(shard));
            bytes.extend_from_slice(&u32::from(shard).to_le_bytes());
            bytes.extend_from_slice(&(one.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&one);
        }
        let all = list_of(&bytes).expect("a list");
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [(3, seen(3)), (900, seen(900))]);
        assert!((1..bytes.len()).filter(|len| list_of(&bytes[..*len]).is_some()).eq([bytes.len() / 2]));
        assert_eq!(list_of(b"").map(|all| all.len()), Some(0));
        let owner = map.owner(ShardId::new(3));
        assert_eq!(site_in(&cluster, owner, 5).incarnation, 5);
        assert_eq!(cluster.core_of(seen(3).record.owner.node, seen(3).record.owner.core), Some(owner));
    }

    #[test]
    fn a_record_is_changed_once_from_each_revision() {
        let map = ShardMap::on_cores(2);
        let shard = ShardId::new(7);
        let mut records = Records::new(map.clone());
        let first = records.look(shard);
        assert_eq!(first, placed(&map, shard));
        let target = site(CoreId(1 - map.owner(shard).0));
        let shadow = first.record.shadow(target).expect("stable");
        let revision = records.swap(Mono(1), shard, 0, &shadow.to_bytes()).expect("nobody was before");
        let seen = Seen { record: shadow.clone(), revision };
        assert_eq!(records.swap(Mono(2), shard, 0, &shadow.to_bytes()), Err(seen.clone()));
        assert_eq!(records.look(shard), seen);
        assert_eq!(of_bytes(&to_bytes(&seen)), Some(seen));
        let back = shadow.abandon().expect("a shadow").to_bytes();
        let next = records.swap(Mono(3), shard, revision, &back).expect("as it stands");
        assert!(next > revision);
        let other = ShardId::new(8);
        assert_eq!(records.look(other).revision, 0, "others stay as they were placed");
    }
}
