//! Frames of records: what the walk hands out next, and what has changed.

use super::frame::{Image, PIECE_BYTES, RECORD_BYTES, Record};
use super::{Options, Sabotage};
use crate::clock::Mono;
use crate::ids::ShardId;
use crate::request::Expiry;
use crate::store::{Found, Store, ends_at};

/// Records for one frame, and the keys they are of, which are told of again if the frame gets lost.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub records: Vec<u8>,
    pub keys: Vec<Box<[u8]>>,
}

impl Bundle {
    fn push(&mut self, key: &[u8], found: Option<&Found<'_>>, ahead: u64) {
        self.keys.push(key.into());
        let value = found.map(|found| found.value.bytes());
        let item = found.zip(value).map(|(found, value)| Image {
            value,
            version: found.version,
            ends: ends_at(found.expiry, ahead),
            flags: found.flags,
            marks: found.marks.to_bits(),
        });
        Record { key, item }.write(&mut self.records);
    }

    /// The next piece of the walk; and whether there is more.
    pub fn of_walk(store: &mut Store, now: Mono, shard: ShardId, ahead: u64) -> (Bundle, bool) {
        let mut bundle = Bundle::default();
        let more = store.copy_watched(now, shard, PIECE_BYTES, &mut |key, found| {
            bundle.push(key, Some(found), ahead);
        });
        (bundle, more)
    }

    /// What has changed, about as much as a piece holds.
    pub fn of_changes(
        store: &mut Store,
        now: Mono,
        shard: ShardId,
        ahead: u64,
        options: &Options,
        dice: &mut u64,
    ) -> Bundle {
        let mut bundle = Bundle::default();
        while bundle.records.len() + RECORD_BYTES < PIECE_BYTES {
            let any = store.take_changed(now, shard, &mut |key, found| {
                *dice = dice.wrapping_add(1);
                let skipped = (options.has(Sabotage::SkipDelta) && dice.is_multiple_of(8))
                    || (options.has(Sabotage::LoseTombstone) && found.is_none());
                if !skipped {
                    bundle.push(key, found, ahead);
                }
            });
            if !any {
                break;
            }
        }
        bundle
    }
}

/// The expiry of a record.
pub(super) fn expiry_of(ends: u64, ahead: u64) -> Expiry {
    crate::store::expiry_of(ends, ahead)
}
