//! Copying a shard while it is read and written: its items in pieces, the hottest first, each at least once.
//!
//! ```text
//! pass 3: used three times or more | pass 2: twice or more | pass 1: once or more | pass 0: all      (of those not copied yet)
//!         |-- leaf --|-- leaf --| .. by position, which no growth of the table and no move of an item changes
//! ```
//! An item carries a mark while the copy has it as it is: set when it is handed out, kept when it moves, gone with any change.
//! So an item that changes is handed out again by a later pass, and the mark is the validation token of that item. The first
//! pass removes marks that an earlier copy left, so a copy may be given up at any point.
//!
//! What the last pass has gone past is the caller's: [`ShardWalk::will_visit`] says whether a write needs a delta. A removal
//! always does, as nothing is left of the item that could be handed out.
//!
//! The work is that of the shard alone: four times its index, 8 bytes an item, and its items twice.

use super::index::{FREQUENCY_MAX, position_of};
use super::{Found, Probe, Store, units};
use crate::clock::Mono;
use crate::ids::ShardId;
use crate::request::Value;

/// Entries that one piece may look at (and the rest of a leaf).
const LOOKS_MAX: usize = 400;
/// What looking at a leaf costs beside its entries, in looks.
const LEAF_LOOKS: usize = 8;

/// How far the copy of a shard has come.
#[derive(Clone, Copy, Debug)]
pub struct ShardWalk {
    pub(super) shard: ShardId,
    /// Uses that an item must have to be handed out in this pass.
    pub(super) uses: u8,
    /// Where the pass goes on.
    pub(super) position: u32,
    done: bool,
}

impl ShardWalk {
    /// From the beginning.
    pub fn new(shard: ShardId) -> ShardWalk {
        ShardWalk { shard, uses: FREQUENCY_MAX, position: 0, done: false }
    }

    /// Whether all has been handed out.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether an item of this key that is stored now will be handed out. If not, the copy has to be told of the write.
    pub fn will_visit(&self, probe: Probe) -> bool {
        !self.done && (self.uses > 0 || position_of(probe.hash) >= self.position)
    }
}

impl Store {
    /// Hands out the next piece of a shard's copy: about `bytes_max` bytes of keys and values (one item may pass that by
    /// itself), and fewer or none if that many entries were looked at already. Answers whether there is more.
    pub fn copy_some(
        &mut self,
        now: Mono,
        walk: &mut ShardWalk,
        bytes_max: usize,
        each: &mut dyn FnMut(&[u8], &Found<'_>),
    ) -> bool {
        let (mut looks, mut bytes_left) = (LOOKS_MAX, bytes_max.max(1));
        let mut page = std::mem::take(&mut self.page);
        while !walk.done && looks > 0 && bytes_left > 0 {
            page.clear();
            let shard = walk.shard.number();
            let watch = self.watch_of(shard);
            let mut next = self.index.entries_from(self.log.region(), shard, walk.position, &mut page);
            page.sort_unstable_by_key(|&(position, _)| position);
            for (i, &(at, entry)) in page.iter().enumerate() {
                if (looks == 0 || bytes_left == 0) && at != page[i.saturating_sub(1)].0 {
                    next = Some(at);
                    break;
                }
                looks = looks.saturating_sub(1);
                let (hot, first) = (entry.frequency() >= walk.uses, walk.uses == FREQUENCY_MAX);
                if !hot && !first {
                    continue;
                }
                let location = entry.location();
                let item = self.log.item(location);
                let copied = item.head.copied();
                if watch.is_some() && hot && item.over(units(now)) {
                    if first && copied {
                        // An earlier copy's mark: this one has not counted the item.
                        self.log.set_copied(location, false);
                    }
                    self.over.push(location);
                    continue;
                }
                if hot && (first || !copied) && !item.over(units(now)) {
                    let found = Found {
                        value: Value::One(self.log.value(&item)),
                        flags: item.head.flags(item.bytes),
                        version: item.head.version(item.bytes, item.base),
                        expiry: item.head.expiry(item.bytes, item.base),
                        marks: item.head.marks(item.bytes),
                        used: entry.frequency() > 0,
                        idle_seconds: self.idle_seconds(now, entry),
                    };
                    each(item.key(), &found);
                    bytes_left = bytes_left.saturating_sub(item.payload() as usize);
                    self.log.set_copied(location, true);
                    if let Some(watch) = watch {
                        self.count_walked(watch, location);
                    }
                } else if first && copied {
                    self.log.set_copied(location, false);
                }
            }
            looks = looks.saturating_sub(LEAF_LOOKS);
            match next {
                Some(position) => walk.position = position,
                None => {
                    (walk.position, walk.done) = (0, walk.uses == 0);
                    walk.uses = walk.uses.saturating_sub(1);
                }
            }
        }
        self.page = page;
        !walk.done
    }
}
