//! Identities: slots, shards, cores, connections and versions, each a type of its own.

/// Number of Redis Cluster hash slots.
pub const SLOT_COUNT: u16 = 16384;
/// Contiguous slots that make one shard.
pub const SLOTS_PER_SHARD: u16 = 16;
/// Number of shards; the unit of ownership, heat, migration and shadow.
pub const SHARD_COUNT: u16 = SLOT_COUNT / SLOTS_PER_SHARD;

/// A Redis Cluster hash slot, always below [`SLOT_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number; the number is taken modulo [`SLOT_COUNT`].
    pub const fn new(number: u16) -> Self {
        Slot(number % SLOT_COUNT)
    }

    /// The slot's number, below [`SLOT_COUNT`].
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The shard that the slot belongs to.
    pub const fn shard(self) -> ShardId {
        ShardId(self.0 / SLOTS_PER_SHARD)
    }
}

/// A shard, always below [`SHARD_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard with this number; the number is taken modulo [`SHARD_COUNT`].
    pub const fn new(number: u16) -> Self {
        ShardId(number % SHARD_COUNT)
    }

    /// The shard's number, below [`SHARD_COUNT`].
    pub const fn number(self) -> u16 {
        self.0
    }

    /// First slot of the shard.
    pub const fn first_slot(self) -> Slot {
        Slot(self.0 * SLOTS_PER_SHARD)
    }

    /// Last slot of the shard.
    pub const fn last_slot(self) -> Slot {
        Slot(self.0 * SLOTS_PER_SHARD + SLOTS_PER_SHARD - 1)
    }
}

/// A core's place in the list of cores that serve, counted from 0 (not the number the kernel gives the CPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

impl CoreId {
    /// The place as an index into per-core tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connection of one core: its place in the core's table and the generation of that place,
/// so that a late completion or reply for a closed connection can be told from its successor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Place in the core's table of connections.
    pub place: u32,
    /// How often the place was used before.
    pub generation: u32,
}

impl ConnectionId {
    /// A connection that there never is: outcomes for it are for nobody.
    pub const NOBODY: ConnectionId = ConnectionId { place: u32::MAX, generation: u32::MAX };
}

/// Version of an item: shard epoch in the upper 20 bits, sequence in the lower 44. Grows with each change of the item.
///
/// Memcached's `cas unique` and the native protocol's version are this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// Bits of the sequence.
    pub const SEQUENCE_BITS: u32 = 44;
    /// The version of nothing: below every item's.
    pub const NONE: Version = Version(0);

    /// The version made of a shard's epoch (20 bits are kept) and a sequence (44 bits are kept).
    pub const fn new(epoch: u32, sequence: u64) -> Self {
        let epoch = (epoch as u64 & 0xF_FFFF) << Self::SEQUENCE_BITS;
        Version(epoch | (sequence & ((1 << Self::SEQUENCE_BITS) - 1)))
    }

    /// The shard epoch in it.
    pub const fn epoch(self) -> u32 {
        (self.0 >> Self::SEQUENCE_BITS) as u32
    }

    /// The sequence in it.
    pub const fn sequence(self) -> u64 {
        self.0 & ((1 << Self::SEQUENCE_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_epoch_then_sequence() {
        assert!(Version::new(1, 0) > Version::new(0, u64::MAX));
        assert!(Version::new(1, 8) > Version::new(1, 7));
        assert_eq!((Version::new(3, 9).epoch(), Version::new(3, 9).sequence()), (3, 9));
    }

    #[test]
    fn shards_hold_sixteen_contiguous_slots() {
        assert_eq!(Slot::new(16383).shard(), ShardId::new(1023));
        assert_eq!(ShardId::new(2).first_slot().number(), 32);
        assert_eq!(ShardId::new(2).last_slot().number(), 47);
    }
}
