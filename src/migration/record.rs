//! Who owns a shard: the record that the metadata service holds of it, and the changes that it may go through.
//!
//! ```text
//!   STABLE --shadow--> SHADOW --prepare--> PREPARED --commit--> STABLE (target, next epoch)
//!      ^                 |                    |
//!      +----abandon------+                    +----revoke-----> STABLE (owner, epoch + 2)
//!   any --restart--> STABLE (the owner's new incarnation, epoch + 1, of PREPARED + 2, and above all that its last life may have used)
//! ```
//! Each change is one compare-and-swap on the revision under which the record was seen; that decides, and nothing else does.
//! Of PREPARED exactly one change can follow, and the two that can give different epochs: the target's is `next_epoch`, whoever
//! revokes takes the one after.

use crate::ids::Version;

/// Bytes that begin a record, with the version of its form at their end.
const MAGIC: [u8; 4] = *b"FSR\x01";
/// Most replicas of a shard.
pub const REPLICAS_MAX: usize = 7;
/// Epochs that versions have room for, but for the one that stands for versions of clients.
pub const EPOCH_MAX: u32 = (1 << (64 - Version::SEQUENCE_BITS)) - 2;

/// A core of a node, in one life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The node's number.
    pub node: u32,
    /// The core's place on it.
    pub core: u16,
    /// Which life of the process: greater with each start.
    pub incarnation: u64,
}

impl Site {
    /// Whether it is the same core, perhaps in another life.
    pub fn is_same_core(&self, other: &Site) -> bool {
        (self.node, self.core) == (other.node, other.core)
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way.
    Stable,
    /// The target makes a shadow.
    Shadow,
    /// The owner may have handed over, and the target may take it.
    Prepared,
}

/// The record of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who owns it.
    pub owner: Site,
    /// Grows with each change of the owner, and with each life of it.
    pub epoch: u32,
    /// How far a move is.
    pub phase: Phase,
    /// The move's id: the revision that its SHADOW was written under; 0 in the other phases, and in SHADOW itself, whose
    /// own revision it is.
    pub migration: u64,
    /// Where it moves to.
    pub target: Option<Site>,
    /// Which attempt at the copy was prepared.
    pub attempt: u32,
    /// The epoch in which the target will own it; 0 unless PREPARED.
    pub next_epoch: u32,
    /// Who else holds it.
    pub replicas: Vec<Site>,
}

/// A record as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it said.
    pub record: Record,
    /// Under which revision.
    pub revision: u64,
}

/// Why a change may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The record is in another phase.
    #[error("the record is in another phase")]
    Phase,
    /// The target is the owner.
    #[error("the shard is there already")]
    Target,
    /// There is no greater epoch.
    #[error("the shard's epochs are used up")]
    Epochs,
}

/// The bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no record of a shard")]
pub struct NoRecord;

impl Record {
    /// Owned, and nothing under way.
    pub fn stable(owner: Site, epoch: u32) -> Record {
        Record {
            owner,
            epoch,
            phase: Phase::Stable,
            migration: 0,
            target: None,
            attempt: 0,
            next_epoch: 0,
            replicas: Vec::new(),
        }
    }

    /// A shadow is wanted at `target`.
    ///
    /// # Errors
    /// Unless STABLE, and the target another core.
    pub fn shadow(&self, target: Site) -> Result<Record, Illegal> {
        if self.phase != Phase::Stable {
            return Err(Illegal::Phase);
        }
        if target.is_same_core(&self.owner) {
            return Err(Illegal::Target);
        }
        self.after(2)?;
        Ok(Record { phase: Phase::Shadow, target: Some(target), ..self.clone() })
    }

    /// The shadow may become the owner. `migration` is the revision of SHADOW.
    ///
    /// # Errors
    /// Unless SHADOW.
    pub fn prepare(&self, migration: u64, attempt: u32) -> Result<Record, Illegal> {
        if self.phase != Phase::Shadow {
            return Err(Illegal::Phase);
        }
        let next_epoch = self.after(1)?;
        Ok(Record { phase: Phase::Prepared, migration, attempt, next_epoch, ..self.clone() })
    }

    /// The target owns it.
    ///
    /// # Errors
    /// Unless PREPARED.
    pub fn commit(&self) -> Result<Record, Illegal> {
        match (self.phase, self.target) {
            (Phase::Prepared, Some(target)) => {
                let replicas = self.replicas.clone();
                Ok(Record { replicas, ..Record::stable(target, self.next_epoch) })
            }
            _ => Err(Illegal::Phase),
        }
    }

    /// The owner takes back what it may have handed over.
    ///
    /// # Errors
    /// Unless PREPARED.
    pub fn revoke(&self) -> Result<Record, Illegal> {
        if self.phase != Phase::Prepared {
            return Err(Illegal::Phase);
        }
        Ok(Record { replicas: self.replicas.clone(), ..Record::stable(self.owner, self.after(2)?) })
    }

    /// No shadow is wanted any more.
    ///
    /// # Errors
    /// Unless SHADOW.
    pub fn abandon(&self) -> Result<Record, Illegal> {
        if self.phase != Phase::Shadow {
            return Err(Illegal::Phase);
        }
        Ok(Record { replicas: self.replicas.clone(), ..Record::stable(self.owner, self.epoch) })
    }

    /// The owner has begun a new life: what it held is gone, and so is any move. `above` is the greatest epoch of any shard: a
    /// core counts the versions of all its shards together, so that its last life may have given versions of that epoch to any of them.
    ///
    /// # Errors
    /// If it is another core's.
    pub fn restart(&self, owner: Site, above: u32) -> Result<Record, Illegal> {
        if !owner.is_same_core(&self.owner) {
            return Err(Illegal::Target);
        }
        let epoch = self.after(if self.phase == Phase::Prepared { 2 } else { 1 })?;
        let epoch = epoch.max(above.saturating_add(1));
        if epoch > EPOCH_MAX {
            return Err(Illegal::Epochs);
        }
        Ok(Record { replicas: self.replicas.clone(), ..Record::stable(owner, epoch) })
    }

    fn after(&self, epochs: u32) -> Result<u32, Illegal> {
        self.epoch.checked_add(epochs).filter(|epoch| *epoch <= EPOCH_MAX).ok_or(Illegal::Epochs)
    }

    /// The record as bytes, with a checksum at their end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 14 * self.replicas.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(match self.phase {
            Phase::Stable => 0,
            Phase::Shadow => 1,
            Phase::Prepared => 2,
        });
        bytes.push(u8::from(self.target.is_some()));
        bytes.push(self.replicas.len() as u8);
        let sites = [self.owner].into_iter().chain(self.target).chain(self.replicas.iter().copied());
        for site in sites {
            bytes.extend_from_slice(&site.node.to_le_bytes());
            bytes.extend_from_slice(&site.core.to_le_bytes());
            bytes.extend_from_slice(&site.incarnation.to_le_bytes());
        }
        bytes.extend_from_slice(&self.migration.to_le_bytes());
        for number in [self.epoch, self.attempt, self.next_epoch] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads what [`Record::to_bytes`] wrote.
    ///
    /// # Errors
    /// For anything else.
    pub fn of_bytes(bytes: &[u8]) -> Result<Record, NoRecord> {
        let (covered, sum) = bytes.split_last_chunk::<4>().ok_or(NoRecord)?;
        if crc32fast::hash(covered) != u32::from_le_bytes(*sum) {
            return Err(NoRecord);
        }
        let mut rest = covered;
        let [.., version] = take::<4>(&mut rest).filter(|magic| *magic == MAGIC).ok_or(NoRecord)?;
        debug_assert_eq!(version, MAGIC[3]);
        let [phase, has_target, replicas] = take::<3>(&mut rest).ok_or(NoRecord)?;
        let phase = match phase {
            0 => Phase::Stable,
            1 => Phase::Shadow,
            2 => Phase::Prepared,
            _ => return Err(NoRecord),
        };
        if has_target > 1 || usize::from(replicas) > REPLICAS_MAX {
            return Err(NoRecord);
        }
        let owner = take_site(&mut rest).ok_or(NoRecord)?;
        let target = if has_target == 1 { Some(take_site(&mut rest).ok_or(NoRecord)?) } else { None };
        let replicas: Option<Vec<Site>> = (0..replicas).map(|_| take_site(&mut rest)).collect();
        let replicas = replicas.ok_or(NoRecord)?;
        let migration = u64::from_le_bytes(take(&mut rest).ok_or(NoRecord)?);
        let mut number = || take(&mut rest).map(u32::from_le_bytes).ok_or(NoRecord);
        let (epoch, attempt, next_epoch) = (number()?, number()?, number()?);
        let of_phase = match phase {
            Phase::Stable => target.is_none(),
            Phase::Shadow => target.is_some(),
            Phase::Prepared => target.is_some() && next_epoch > epoch,
        };
        if !rest.is_empty() || !of_phase || epoch > EPOCH_MAX || next_epoch > EPOCH_MAX {
            return Err(NoRecord);
        }
        Ok(Record { owner, epoch, phase, migration, target, attempt, next_epoch, replicas })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

fn take_site(rest: &mut &[u8]) -> Option<Site> {
    let node = u32::from_le_bytes(take(rest)?);
    let core = u16::from_le_bytes(take(rest)?);
    let incarnation = u64::from_le_bytes(take(rest)?);
    Some(Site { node, core, incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Site = Site { node: 1, core: 0, incarnation: 7 };
    const B: Site = Site { node: 2, core: 3, incarnation: 9 };

    #[test]
    fn of_prepared_the_two_ways_on_give_different_epochs() {
        let stable = Record::stable(A, 5);
        let prepared = stable.shadow(B).expect("stable").prepare(40, 2).expect("a shadow");
        let (committed, revoked) =
            (prepared.commit().expect("prepared"), prepared.revoke().expect("prepared"));
        assert_eq!((committed.owner, committed.epoch), (B, 6));
        assert_eq!((revoked.owner, revoked.epoch), (A, 7));
        let again = Site { incarnation: 8, ..A };
        assert_eq!(prepared.restart(again, 5).expect("same core").epoch, 7);
        assert_eq!(stable.restart(again, 5).expect("same core").epoch, 6);
        assert_eq!(stable.restart(again, 9).expect("same core").epoch, 10, "another shard's is greater");
        assert_eq!(stable.shadow(B).expect("stable").abandon().expect("a shadow"), stable);
    }

    #[test]
    fn what_may_not_be_is_refused() {
        let stable = Record::stable(A, 5);
        let shadow = stable.shadow(B).expect("stable");
        let prepared = shadow.prepare(40, 2).expect("a shadow");
        assert_eq!(stable.shadow(Site { incarnation: 9, ..A }), Err(Illegal::Target));
        assert_eq!(shadow.shadow(B), Err(Illegal::Phase));
        assert_eq!(stable.prepare(1, 1), Err(Illegal::Phase));
        assert_eq!(prepared.prepare(1, 1), Err(Illegal::Phase));
        assert_eq!((stable.commit(), shadow.commit()), (Err(Illegal::Phase), Err(Illegal::Phase)));
        assert_eq!((stable.revoke(), shadow.revoke()), (Err(Illegal::Phase), Err(Illegal::Phase)));
        assert_eq!((stable.abandon(), prepared.abandon()), (Err(Illegal::Phase), Err(Illegal::Phase)));
        assert_eq!(stable.restart(B, 0), Err(Illegal::Target));
        assert_eq!(Record::stable(A, EPOCH_MAX - 1).shadow(B), Err(Illegal::Epochs));
        assert_eq!(Record::stable(A, EPOCH_MAX).restart(A, 0), Err(Illegal::Epochs));
    }

    #[test]
    fn bytes_come_back_and_no_other_bytes_do() {
        let stable = Record::stable(A, 5);
        let shadow = stable.shadow(B).expect("stable");
        let prepared = shadow.prepare(40, 2).expect("a shadow");
        let replicated = Record { replicas: vec![B; REPLICAS_MAX], ..stable.clone() };
        for record in [stable, shadow, prepared, replicated] {
            let bytes = record.to_bytes();
            assert_eq!(Record::of_bytes(&bytes), Ok(record));
            for len in 0..bytes.len() {
                assert_eq!(Record::of_bytes(&bytes[..len]), Err(NoRecord));
            }
            for bit in 0..bytes.len() * 8 {
                let mut broken = bytes.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::of_bytes(&broken), Err(NoRecord), "bit {bit}");
            }
        }
        // A checksum alone makes no record.
        for body in [&b"FSR\x01\x02\0\0"[..], b"FSR\x02", b"", &[0xFF; 80]] {
            let sum = crc32fast::hash(body).to_le_bytes();
            assert_eq!(Record::of_bytes(&[body, &sum].concat()), Err(NoRecord));
        }
    }
}
