//! Shards whose changes are followed: those being copied away, and the shadows that come in.
//!
//! ```text
//!   put, amend, remove, eviction, expiry --> uncount, note_put --> source: the key is among `changed`, each once
//!                                                                  shadow: what went by itself is among `lost`
//!   copy_watched, take_changed (source), land_copy (shadow) ---> the item counts in the digest
//! ```
//! 1. An item counts in the digest of its shard exactly while it carries the copied mark: set when it is handed out or lands, gone with
//!    any change. So the digest of a source tells what was sent of what it holds *by the items*, whatever became of the deltas: a delta that is
//!    forgotten leaves an item that does not count, or a sum that the other side does not have.
//! 2. A walk's first pass finds marks that an earlier copy left; a mark behind its position is of this copy, one ahead is not.
//! 3. `changed` names keys and no values: what is sent is what the item is when it is sent, and a key that changed often goes once.
//! 4. A shadow's item that is evicted or ends by itself still counts, until the source says something new about its key:
//!    the sums stay comparable while the two sides forget different items. Where too many went to be remembered their bucket is not compared.
//!
//! Nobody pays for this while no shard is watched but a look at an empty list with each change.

use super::copy::ShardWalk;
use super::index::{FREQUENCY_MAX, position_of};
use super::{Found, NewItem, Probe, Store, UNIT_NANOS, bearing, slot_of};
use crate::clock::Mono;
use crate::digest::{Counted, Digest, Share};
use crate::hash::KeyHasher;
use crate::ids::ShardId;
use crate::request::Expiry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// Bytes of keys that changed, with this much for each beside its name.
const CHANGED_BYTES_MAX: usize = 1 << 20;
const CHANGED_ENTRY_BYTES: usize = 64;
/// Items of a shadow that went by themselves and are remembered.
const LOST_MAX: usize = 32 << 10;

/// How an item went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Another one of its key follows.
    Replaced,
    /// Somebody removed it.
    Removed,
    /// It ended or was evicted.
    ByItself,
}

/// How far the copy of a shard is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Items that the shard holds.
    pub items: u64,
    /// What was handed out, or has landed.
    pub digest: Digest,
    /// Whether the walk has handed out all.
    pub walked: bool,
    /// Keys to be told of, and their bytes.
    pub changed: usize,
    /// Their bytes, as they are accounted for.
    pub changed_bytes: usize,
    /// More changed than could be remembered, or everything was forgotten: the copy has to begin anew.
    pub void: bool,
    /// Items of a shadow that went by themselves.
    pub lost: u64,
    /// Buckets of the digest that are not to be compared, as bits.
    pub inexact: u64,
}

/// A shard that is followed.
pub(super) struct Watch {
    shard: u16,
    /// What the wall clock is ahead, in milliseconds: ends are told in its time.
    ahead_millis: u64,
    digest: Digest,
    void: bool,
    side: Side,
}

enum Side {
    Source { walk: ShardWalk, changed: Changed },
    Shadow { lost: HashMap<u64, Share, KeyHasher>, overflown: u64, inexact: u64 },
}

/// Keys that changed, each once, in the order in which they did so first.
struct Changed {
    order: VecDeque<Rc<[u8]>>,
    waiting: HashSet<Rc<[u8]>, KeyHasher>,
    bytes: usize,
}

impl Changed {
    fn new(hasher: KeyHasher) -> Changed {
        Changed { order: VecDeque::new(), waiting: HashSet::with_hasher(hasher), bytes: 0 }
    }

    /// Answers whether there was room.
    fn note(&mut self, key: &[u8]) -> bool {
        if self.waiting.contains(key) {
            return true;
        }
        if self.bytes + key.len() + CHANGED_ENTRY_BYTES > CHANGED_BYTES_MAX {
            return false;
        }
        let key: Rc<[u8]> = key.into();
        self.bytes += key.len() + CHANGED_ENTRY_BYTES;
        self.waiting.insert(key.clone());
        self.order.push_back(key);
        true
    }

    fn pop(&mut self) {
        if let Some(key) = self.order.pop_front() {
            self.waiting.remove(&key);
            self.bytes -= key.len() + CHANGED_ENTRY_BYTES;
        }
    }

    fn clear(&mut self) {
        self.order.clear();
        self.waiting.clear();
        self.bytes = 0;
    }
}

impl Watch {
    /// Whether the copied mark of an item of this hash is of this copy.
    fn knows(&self, hash: u64) -> bool {
        match &self.side {
            Side::Source { walk, .. } => walk.has_seen(hash),
            Side::Shadow { .. } => true,
        }
    }

    fn note(&mut self, key: &[u8]) {
        if let Side::Source { changed, .. } = &mut self.side
            && !self.void
            && !changed.note(key)
        {
            // The copy begins anew, so nothing of this is needed any more.
            changed.clear();
            self.void = true;
        }
    }
}

impl ShardWalk {
    /// Whether a mark on an item of this hash was set or removed by this walk.
    fn has_seen(&self, hash: u64) -> bool {
        self.is_done() || self.uses < FREQUENCY_MAX || position_of(hash) < self.position
    }
}

/// When an item ends, in milliseconds since 1970 where the wall clock is so many ahead.
pub fn ends_at(expiry: Expiry, ahead_millis: u64) -> u64 {
    match expiry {
        Expiry::Never => u64::MAX,
        Expiry::At(at) => {
            let millis = at.0.saturating_add(Mono::NANOS_PER_MILLI / 2) / Mono::NANOS_PER_MILLI;
            millis.saturating_add(ahead_millis).min(u64::MAX - 1)
        }
    }
}

/// The expiry that [`ends_at`] tells. What ended before the clock began is over.
pub fn expiry_of(ends: u64, ahead_millis: u64) -> Expiry {
    match ends {
        u64::MAX => Expiry::Never,
        ends => Expiry::At(Mono(0).plus_millis(ends.saturating_sub(ahead_millis))),
    }
}

// A quarter of a millisecond divides a millisecond, so that the store keeps an expiry of whole milliseconds as it is.
const _: () = assert!(Mono::NANOS_PER_MILLI.is_multiple_of(UNIT_NANOS));

impl Store {
    /// Begins to follow a shard that is to be copied, from its first item; what was followed of it before is forgotten.
    pub fn watch(&mut self, shard: ShardId, ahead_millis: u64) {
        self.unwatch(shard);
        let side = Side::Source { walk: ShardWalk::new(shard), changed: Changed::new(self.hasher.clone()) };
        self.watches.push(Watch {
            shard: shard.number(),
            ahead_millis,
            digest: Digest::default(),
            void: false,
            side,
        });
    }

    /// Begins a shadow: the shard, which must be empty, is hidden from walks and counts until [`Store::show`].
    pub fn begin_shadow(&mut self, shard: ShardId, ahead_millis: u64) {
        debug_assert_eq!(self.index.shard_len(shard.number()), 0, "a shadow begins empty");
        self.unwatch(shard);
        self.hide(shard);
        let lost = HashMap::with_hasher(self.hasher.clone());
        let side = Side::Shadow { lost, overflown: 0, inexact: 0 };
        self.watches.push(Watch {
            shard: shard.number(),
            ahead_millis,
            digest: Digest::default(),
            void: false,
            side,
        });
    }

    /// Follows a shard no longer. What it holds stays, and stays hidden if it was.
    pub fn unwatch(&mut self, shard: ShardId) {
        self.watches.retain(|watch| watch.shard != shard.number());
    }

    /// Hides a shard from walks, random picks and counts.
    pub fn hide(&mut self, shard: ShardId) {
        if !self.hidden.contains(&shard.number()) {
            self.hidden.push(shard.number());
        }
    }

    /// The opposite of [`Store::hide`].
    pub fn show(&mut self, shard: ShardId) {
        self.hidden.retain(|other| *other != shard.number());
    }

    /// How many items a shard holds, hidden or not.
    pub fn shard_len(&self, shard: ShardId) -> u64 {
        self.index.shard_len(shard.number()).into()
    }

    /// How far the copy of a shard is; nothing if it is not followed.
    pub fn progress(&self, shard: ShardId) -> Option<Progress> {
        let watch = self.watches.iter().find(|watch| watch.shard == shard.number())?;
        let mut progress = Progress {
            items: self.shard_len(shard),
            digest: watch.digest.clone(),
            void: watch.void,
            ..Progress::default()
        };
        match &watch.side {
            Side::Source { walk, changed } => {
                progress.walked = walk.is_done();
                (progress.changed, progress.changed_bytes) = (changed.order.len(), changed.bytes);
            }
            Side::Shadow { lost, overflown, inexact } => {
                progress.lost = lost.len() as u64 + overflown;
                progress.inexact = *inexact;
            }
        }
        Some(progress)
    }

    /// Whether anything is to be told of a followed shard at once: cheaper than [`Store::progress`].
    pub fn has_changed(&self, shard: ShardId) -> bool {
        let watch = self.watches.iter().find(|watch| watch.shard == shard.number());
        watch.is_some_and(|watch| match &watch.side {
            Side::Source { changed, .. } => watch.void || !changed.order.is_empty(),
            Side::Shadow { .. } => watch.void,
        })
    }

    /// As [`Store::copy_some`] for a shard that is followed: what is handed out counts in its digest. Items that are over are
    /// dropped on the way.
    pub fn copy_watched(
        &mut self,
        now: Mono,
        shard: ShardId,
        bytes_max: usize,
        each: &mut dyn FnMut(&[u8], &Found<'_>),
    ) -> bool {
        let Some(at) = self.watch_of(shard.number()) else { return false };
        let Side::Source { walk, .. } = &mut self.watches[at].side else { return false };
        let mut walk = *walk;
        let more = self.copy_some(now, &mut walk, bytes_max, each);
        if let Side::Source { walk: place, .. } = &mut self.watches[at].side {
            *place = walk;
        }
        let over = std::mem::take(&mut self.over);
        for location in over {
            let item = self.log.item(location);
            if item.head.dead() {
                continue;
            }
            let probe = self.new_probe(item.key());
            if let Some((place, entry)) =
                self.index.find(self.log.region(), bearing(probe), |at| at == location)
            {
                self.drop_expired(place, entry);
            }
        }
        more
    }

    /// Hands out the key that changed first, with its item, or nothing if there is none any more. False: no key has changed.
    pub fn take_changed(
        &mut self,
        now: Mono,
        shard: ShardId,
        each: &mut dyn FnMut(&[u8], Option<&Found<'_>>),
    ) -> bool {
        let Some(at) = self.watch_of(shard.number()) else { return false };
        let Side::Source { changed, .. } = &self.watches[at].side else { return false };
        let Some(key) = changed.order.front().cloned() else { return false };
        let probe = self.new_probe(&key);
        match self.sight(now, probe, &key, false) {
            Some(sight) => {
                let found = self.found(now, sight, false);
                each(&key, Some(&found));
                // What the walk has not seen it will hand out once more, and then it counts.
                if self.watches[at].knows(probe.hash) {
                    self.count(at, sight.entry.location());
                }
            }
            None => each(&key, None),
        }
        // Not before: an item that was found to be over was noted once more.
        if let Side::Source { changed, .. } = &mut self.watches[at].side {
            changed.pop();
        }
        true
    }

    /// A key is to be told of once more: what was said of it may not have arrived.
    pub fn note_again(&mut self, shard: ShardId, key: &[u8]) {
        if let Some(at) = self.watch_of(shard.number()) {
            self.watches[at].note(key);
        }
    }

    /// Lands an item of a copy in its shadow, whatever is there: the stream's order is the order of the source's changes. An
    /// item for which there is no room, or that is over, counts as one that was evicted at once, and what was there of its key goes. Answers whether it is there.
    pub fn land_copy(&mut self, now: Mono, shard: ShardId, key: &[u8], item: &NewItem<'_>) -> bool {
        let probe = self.new_probe(key);
        let Some(at) = self.watch_of(shard.number()).filter(|_| probe.slot.shard() == shard) else {
            return false;
        };
        // One that is over here already, as clocks differ, could not even be stored with the end that it has.
        let over = matches!(item.expiry, Expiry::At(at) if at <= now);
        let landed = !over && self.put(now, probe, key, item).is_ok();
        // Not before: a put may find that what was there is over, and that went by itself.
        self.settle(at, probe.hash);
        if landed && let Some((_, entry)) = self.entry_of(probe, key) {
            self.count(at, entry.location());
            return true;
        }
        self.remove(probe, key);
        let value = item.value.concat();
        let share = self.share(at, key, &value, item);
        self.watches[at].digest.add(share);
        self.lose(at, probe.hash, share);
        false
    }

    /// Removes an item of a copy from its shadow.
    pub fn land_removal(&mut self, shard: ShardId, key: &[u8]) {
        let probe = self.new_probe(key);
        let Some(at) = self.watch_of(shard.number()).filter(|_| probe.slot.shard() == shard) else {
            return;
        };
        self.remove(probe, key);
        self.settle(at, probe.hash);
    }

    /// Removes some `looks` items of a shard, and answers whether there are more.
    pub fn drop_some(&mut self, shard: ShardId, looks: usize) -> bool {
        let mut page = std::mem::take(&mut self.page);
        page.clear();
        let mut position = Some(0);
        while let Some(from) = position.filter(|_| page.len() < looks) {
            position = self.index.entries_from(self.log.region(), shard.number(), from, &mut page);
        }
        for &(_, entry) in page.iter().take(looks) {
            let item = self.log.item(entry.location());
            if item.head.dead() {
                continue;
            }
            let probe = self.new_probe(item.key());
            let location = entry.location();
            if let Some((place, _)) = self.index.find(self.log.region(), bearing(probe), |at| at == location)
            {
                self.drop_entry(place, location, Gone::Removed);
            }
        }
        self.page = page;
        self.shard_len(shard) > 0
    }

    /// An item is about to change or go: it counts no longer. For items of shards that are not followed nothing happens.
    #[cold]
    #[inline(never)]
    pub(super) fn uncount(&mut self, shard: u16, location: u64, how: Gone) {
        let Some(at) = self.watch_of(shard) else { return };
        let item = self.log.item(location);
        let (key, hash) = (item.key(), self.hasher.hash(item.key()));
        let watch = &self.watches[at];
        let counted = item.head.copied() && watch.knows(hash);
        if counted {
            let share = share_of(watch.ahead_millis, key, self.log.value(&item), &item);
            if how == Gone::ByItself && matches!(watch.side, Side::Shadow { .. }) {
                self.lose(at, hash, share);
            } else {
                self.watches[at].digest.subtract(share);
            }
        }
        // One that was not sent as it was, and is replaced before the walk comes, is handed out by the walk.
        if counted || how != Gone::Replaced {
            let key = self.log.item(location);
            self.watches[at].note(key.key());
        }
        if counted {
            self.log.set_copied(location, false);
        }
    }

    /// An item of this key has come or changed.
    #[cold]
    #[inline(never)]
    pub(super) fn note_put(&mut self, probe: Probe, key: &[u8]) {
        let Some(at) = self.watch_of(probe.slot.shard().number()) else { return };
        let Side::Source { walk, .. } = &self.watches[at].side else { return };
        if !walk.will_visit(probe) {
            self.watches[at].note(key);
        }
    }

    /// As [`Store::uncount`] for an item whose place in the index is gone already.
    #[cold]
    pub(super) fn uncount_lost(&mut self, location: u64) {
        let shard = slot_of(self.log.item(location).key()).shard().number();
        self.uncount(shard, location, Gone::ByItself);
    }

    /// Everything was forgotten: copies begin anew.
    pub(super) fn void_watches(&mut self) {
        for watch in &mut self.watches {
            watch.void = true;
            watch.digest = Digest::default();
            match &mut watch.side {
                Side::Source { changed, .. } => changed.clear(),
                Side::Shadow { lost, .. } => lost.clear(),
            }
        }
    }

    /// Whether a walk's items are to be counted, and by which list entry.
    pub(super) fn watch_of(&self, shard: u16) -> Option<usize> {
        self.watches.iter().position(|watch| watch.shard == shard)
    }

    /// The item at a location is at the other side as it is, or has landed here.
    pub(super) fn count(&mut self, at: usize, location: u64) {
        let item = self.log.item(location);
        let watch = &self.watches[at];
        if item.head.copied() && watch.knows(self.hasher.hash(item.key())) {
            return;
        }
        let share = share_of(watch.ahead_millis, item.key(), self.log.value(&item), &item);
        self.watches[at].digest.add(share);
        self.log.set_copied(location, true);
    }

    /// Counts an item that a walk hands out, whatever marks it had.
    pub(super) fn count_walked(&mut self, at: usize, location: u64) {
        let item = self.log.item(location);
        let share = share_of(self.watches[at].ahead_millis, item.key(), self.log.value(&item), &item);
        self.watches[at].digest.add(share);
    }

    /// The source has something new of a key whose item went by itself before.
    fn settle(&mut self, at: usize, hash: u64) {
        let watch = &mut self.watches[at];
        if let Side::Shadow { lost, .. } = &mut watch.side
            && let Some(share) = lost.remove(&hash)
        {
            watch.digest.subtract(share);
        }
    }

    /// An item of a shadow went by itself.
    fn lose(&mut self, at: usize, hash: u64, share: Share) {
        let Side::Shadow { lost, overflown, inexact } = &mut self.watches[at].side else { return };
        let before = if lost.len() < LOST_MAX { lost.insert(hash, share) } else { Some(share) };
        if let Some(before) = before {
            // No room, or two keys with one hash.
            *overflown += 1;
            *inexact |= 1 << share.bucket() | 1 << before.bucket();
        }
    }

    /// The digest of a followed shard, made anew of what carries the copied mark and what went by itself.
    #[cfg(test)]
    pub(super) fn recount(&self, shard: ShardId) -> Digest {
        let at = self.watch_of(shard.number()).expect("followed");
        let (mut page, mut position, mut digest) = (Vec::new(), Some(0), Digest::default());
        while let Some(from) = position {
            position = self.index.entries_from(self.log.region(), shard.number(), from, &mut page);
        }
        for (_, entry) in page {
            let item = self.log.item(entry.location());
            if item.head.copied() && self.watches[at].knows(self.hasher.hash(item.key())) {
                digest.add(share_of(self.watches[at].ahead_millis, item.key(), self.log.value(&item), &item));
            }
        }
        if let Side::Shadow { lost, .. } = &self.watches[at].side {
            lost.values().for_each(|share| digest.add(*share));
        }
        digest
    }

    fn share(&self, at: usize, key: &[u8], value: &[u8], item: &NewItem<'_>) -> Share {
        Share::of(&Counted {
            key,
            value,
            version: item.version.0,
            ends: ends_at(item.expiry, self.watches[at].ahead_millis),
            flags: item.flags,
            marks: item.marks.to_bits(),
        })
    }
}

fn share_of(ahead_millis: u64, key: &[u8], value: &[u8], item: &super::log::Item<'_>) -> Share {
    Share::of(&Counted {
        key,
        value,
        version: item.head.version(item.bytes, item.base).0,
        ends: ends_at(item.head.expiry(item.bytes, item.base), ahead_millis),
        flags: item.head.flags(item.bytes),
        marks: item.head.marks(item.bytes).to_bits(),
    })
}

impl super::Marks {
    /// As bits, for digests and streams.
    pub fn to_bits(self) -> u8 {
        u8::from(self.stale)
            | u8::from(self.leased) << 1
            | u8::from(self.hollow) << 2
            | u8::from(self.binary_key) << 3
    }

    /// What [`super::Marks::to_bits`] tells; nothing for bits that there are not.
    pub fn of_bits(bits: u8) -> Option<super::Marks> {
        (bits < 16).then_some(super::Marks {
            stale: bits & 1 != 0,
            leased: bits & 2 != 0,
            hollow: bits & 4 != 0,
            binary_key: bits & 8 != 0,
        })
    }
}
