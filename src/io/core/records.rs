//! The records of shards, where there is one node: the embedded table of [`crate::metadata`], held by the first core.
//!
//! It is kept in memory alone: after a restart there are no items either, and shards are placed anew.

use crate::clock::Mono;
use crate::ids::{CoreId, ShardId};
use crate::metadata::{Name, Outcome, Range, Revision, Schema, Stands, Table, Txn};
use crate::migration::record::{Record, Seen, Site};
use crate::topology::ShardMap;

/// A core of this node. Cores do not begin anew while the process lives, so they have one life.
pub(super) fn site(core: CoreId) -> Site {
    Site { node: 0, core: core.0, incarnation: 1 }
}

/// The record of a shard as it is before anybody has changed it: revision 0.
pub(super) fn placed(map: &ShardMap, shard: ShardId) -> Seen {
    Seen { record: Record::stable(site(map.owner(shard)), 0), revision: 0 }
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
