//! What moves of shards need of the engine beside requests.

use super::*;

impl Engine {
    /// The store, for items that come and go with a shard and not by a request.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Longest key and value together.
    pub fn item_bytes_max(&self) -> usize {
        self.item_bytes_max
    }

    /// The greatest version given so far.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The versions given from now on are greater than this one, unless it is a client's invention.
    pub fn raise_version(&mut self, floor: Version) {
        if floor < FOREIGN_VERSION {
            self.version = self.version.max(floor);
        }
    }

    /// Whether what the store holds says all: no flush is due later, and nothing is erased by prefix that still lies there. Only then
    /// may a shard be handed over, as these do not travel.
    pub fn is_settled(&self) -> bool {
        self.flush_at == NEVER && self.through.as_ref().is_none_or(|through| !through.erasures.any())
    }

    /// A shard is no longer this core's: whoever was promised to be told of changes is told that everything has changed, as nobody will
    /// tell of those of that shard.
    pub fn shard_left(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.all_changed();
        }
    }
}
