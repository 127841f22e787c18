//! A metadata service that never lies and often does not answer.

use foreshadow::migration::record::{Record, Seen};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Metadata {
    records: BTreeMap<u16, Seen>,
    revision: u64,
    /// Until when nobody is answered.
    pub silent_until: u64,
    /// Epochs that each shard has had, and whose: none comes back, none is two nodes'.
    history: BTreeMap<(u16, u32), u32>,
    pub violation: Option<String>,
}

impl Metadata {
    pub fn create(&mut self, shard: u16, record: Record) -> Seen {
        self.revision += 1;
        self.history.insert((shard, record.epoch), record.owner.node);
        let seen = Seen { record, revision: self.revision };
        self.records.insert(shard, seen.clone());
        seen
    }

    pub fn look(&self, shard: u16) -> Seen {
        self.records[&shard].clone()
    }

    /// The new revision, or the record as it is.
    pub fn swap(&mut self, shard: u16, expected: u64, bytes: &[u8]) -> Result<u64, Seen> {
        let seen = &self.records[&shard];
        if seen.revision != expected {
            return Err(seen.clone());
        }
        let record = Record::of_bytes(bytes).expect("nodes write records");
        let before = &seen.record;
        if record.owner != before.owner && record.epoch <= before.epoch {
            self.violation = Some(format!("epoch {} after {}", record.epoch, before.epoch));
        }
        let owner = *self.history.entry((shard, record.epoch)).or_insert(record.owner.node);
        if owner != record.owner.node || record.epoch < before.epoch {
            self.violation = Some(format!("epoch {} of shard {shard} is two nodes'", record.epoch));
        }
        self.revision += 1;
        self.records.insert(shard, Seen { record, revision: self.revision });
        Ok(self.revision)
    }
}
