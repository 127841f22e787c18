//! Making room and keeping house, a bounded step at a time: eviction, compaction, expiry, giving memory back.

use super::log::{Log, Queue};
use super::memory::Mapping;
use super::pages::{PAGE_BYTES, SPARE_PAGES};
use super::watch::Gone;
use super::{Store, bearing, units};
use crate::clock::Mono;
use crate::request::Fault;

/// Uses that take an item from the small queue to the main one.
pub(super) const PROMOTION_USES: u8 = 2;
/// From this many times the mean size on an item is asked for one use more; from its square on for two, in the main queue.
const HEAVY_FACTOR: u64 = 4;
/// The small queue's share of all is one in so many.
const SMALL_SHARE: u64 = 10;
/// Free chunks that puts should find: one is kept for items on the move, the others so that no put has to wait for one.
const RESERVE: std::ops::RangeInclusive<u64> = 3..=4;
/// Chunks that a put may need: one to write to, and one for items that move out of its way.
pub(super) const CHUNKS_OF_PUT: u64 = 2;
/// A put looks at so many bytes of what is being emptied for each byte it takes.
const PAY_FACTOR: usize = 4;
/// Most of a segment that may move on from it, in quarters; the rest leaves even if it was used.
const MOVED_QUARTERS: u32 = 3;
/// What one tick may do, in units of roughly 100 ns.
const TICK_EFFORT: u32 = 300;
const ITEM_EFFORT: u32 = 3;
const RELEASE_EFFORT: u32 = 300;
const PREPARE_EFFORT: u32 = 150;
/// What one put may do beside writing the item, in the same units.
pub(super) const PUT_EFFORT: u32 = 1200;
/// Free chunks that are held before the limit is lowered.
pub(super) const STOCK_CHUNKS: usize = 4;

/// The segment that is being emptied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Emptying {
    chunk: u32,
    offset: u32,
    queue: Queue,
    /// Whether live items move on whatever their use: the segment was taken for its dead ones.
    compact: bool,
    moved: u32,
}

impl Store {
    /// Bounded housekeeping: expiry, compaction, giving back. Answers whether more is waiting to be done.
    pub fn tick(&mut self, now: Mono) -> bool {
        let mut effort = TICK_EFFORT;
        self.forget_landing(now);
        let mut more = self.expire(now, &mut effort);
        self.log.mappings.collect_withheld();
        self.log.mappings.collect_sent();
        while effort > 0 && self.log.mappings.release_buried() {
            effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        if let Some(chunk) = self.index.give_chunk() {
            self.log.return_chunk(chunk);
        }
        if self.log.mappings.has_buried() {
            // That memory is still counted as held: until it is given back nobody knows whether anything else has to go.
            return true;
        }
        // Those that puts may need at once go last: no put is to empty a whole segment because the limit was lowered.
        while effort > 0 && self.log.held() > self.log_limit() && !self.log.mappings.has_buried() {
            let spared = self.log.free_len() as u64 <= *RESERVE.end();
            if spared && self.empty_some(now, &mut effort, usize::MAX) {
                continue;
            }
            if !self.log.release_chunk() {
                break;
            }
            effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        let wasteful = self.log.dead() > (self.log.chunks_held() * self.log.chunk_bytes() as u64) / 8;
        if effort > 0 && self.emptying.is_none() && wasteful {
            let dead_min = self.log.chunk_bytes() / 2;
            let chunk = self.log.leave_wasteful(dead_min);
            self.begin(chunk, true);
        }
        // Of a segment whose items have mappings only as much leaves as is wanted; any other frees its chunk by its end.
        while effort > 0 && (self.emptying.is_some_and(|emptying| emptying.compact) || self.short()) {
            if self.log.mappings.release_buried() {
                effort = effort.saturating_sub(RELEASE_EFFORT);
            } else if !self.empty_some(now, &mut effort, self.log.chunk_bytes()) {
                break;
            }
        }
        // While it grows; when little is free, what puts take has been used before.
        if effort > 0
            && !self.log.mappings.has_buried()
            && self.index.len() > 0
            && self.log.prepare(self.log_limit())
        {
            effort = effort.saturating_sub(PREPARE_EFFORT);
        }
        let surplus = 4 + self.log.chunks_held() as usize / 32;
        while effort > 0 && self.log.free_len() > surplus && self.log.release_chunk() {
            effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        more |= effort == 0 || (self.emptying.is_some() && self.wants_emptying());
        more
    }

    /// Pays for bytes that are about to be taken; answers whether anything moved.
    pub(super) fn pay(&mut self, now: Mono, bytes: usize, effort: &mut u32) -> bool {
        // A value with a mapping has room made for it in its own way; what is buried comes back without anybody leaving.
        if bytes == 0 || !self.short() || self.log.mappings.release_buried() {
            return false;
        }
        if self.log.held() > self.log_limit() && self.log.free_len() as u64 > CHUNKS_OF_PUT {
            // What is not chunks has grown, or the limit was lowered.
            self.log.release_chunk();
        }
        // What is on its way back already comes before what would have to be evicted.
        if self.log.mappings.release_buried() {
            return false;
        }
        self.empty_some(now, effort, PAY_FACTOR * bytes)
    }

    /// Makes sure that an open segment has room, and the index pages if an entry may have to be `added`; answers in which queue,
    /// the one asked for or the other one, and whether anything moved.
    pub(super) fn make_room(
        &mut self,
        now: Mono,
        queue: Queue,
        bytes: usize,
        added: bool,
        effort: &mut u32,
    ) -> Result<(Queue, bool), Fault> {
        let mut moved = false;
        loop {
            let to_index = (added || moved) && !self.index.has_spare_pages();
            if !to_index && self.log.has_room(queue, bytes) {
                return Ok((queue, moved));
            }
            let Some(chunk) = self.chunk_for_put(now, effort, &mut moved) else {
                let other = if queue == Queue::Small { Queue::Main } else { Queue::Small };
                let to_index = (added || moved) && !self.index.has_spare_pages();
                if !to_index && self.log.has_room(other, bytes) {
                    return Ok((other, moved));
                }
                return Err(if *effort == 0 { Fault::Busy } else { Fault::OutOfMemory });
            };
            if to_index {
                self.log.lend_to_index(chunk);
                self.index.add_chunk(chunk);
            } else if self.log.has_room(queue, bytes) {
                // Emptying opened a segment of the same queue.
                self.log.return_chunk(chunk);
            } else {
                self.log.open_segment(queue, chunk, units(now));
            }
        }
    }

    /// Makes sure that a mapping for a value may be made; answers whether anything moved.
    pub(super) fn make_mapping_room(
        &mut self,
        now: Mono,
        probe: super::Probe,
        key: &[u8],
        value_len: usize,
        effort: &mut u32,
    ) -> Result<bool, Fault> {
        if !self.may_ever_fit(value_len) {
            return Err(Fault::OutOfMemory);
        }
        if self.has_mapping_room(value_len) {
            return Ok(false);
        }
        self.drop_large(probe, key);
        while !self.has_mapping_room(value_len) {
            if *effort == 0 {
                return Err(Fault::Busy);
            }
            if !self.release_some(effort) && !self.empty_some(now, effort, value_len) {
                return Err(Fault::OutOfMemory);
            }
        }
        Ok(true)
    }

    /// Whether a mapping for a value of so many bytes could be made if everything else were gone.
    pub(super) fn may_ever_fit(&self, value_len: usize) -> bool {
        // Beside it there must be an open segment, one on the move, and pages for the index.
        let index_chunks = (SPARE_PAGES * PAGE_BYTES).div_ceil(self.log.chunk_bytes()) as u64;
        let least = (3 + index_chunks) * self.log.chunk_bytes() as u64;
        Mapping::rounded(value_len) as u64 + least <= self.log_limit()
    }

    /// Whether so many bytes of a mapping may be taken, with room left for what the put takes beside it, so that nobody is
    /// evicted for that while enough is on its way back.
    pub(super) fn has_mapping_room(&self, value_len: usize) -> bool {
        let (bytes, limit) = (Mapping::rounded(value_len) as u64, self.log_limit());
        self.log.held() + bytes <= limit && self.log.chunks_available(limit - bytes) >= CHUNKS_OF_PUT
    }

    /// Drops the item of a key if it is a large one: it is replaced, and gives up its place before anybody else has to.
    pub(super) fn drop_large(&mut self, probe: super::Probe, key: &[u8]) -> bool {
        match self.entry_of(probe, key) {
            Some((place, entry)) if self.log.item(entry.location()).head.mapped() => {
                self.drop_entry(place, entry.location(), Gone::Removed);
                true
            }
            _ => false,
        }
    }

    /// Gives some memory back that nobody has to leave for; false if there is none.
    pub(super) fn release_some(&mut self, effort: &mut u32) -> bool {
        let spare = self.log.free_len() as u64 > CHUNKS_OF_PUT;
        let released = self.log.mappings.release_buried()
            || (self.log.mappings.collect_withheld() && self.log.mappings.release_buried())
            || (spare && self.log.release_chunk());
        if released {
            *effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        released
    }

    /// A chunk for an open segment or the index. One more stays within reach for items on the move, if at all possible.
    fn chunk_for_put(&mut self, now: Mono, effort: &mut u32, moved: &mut bool) -> Option<u32> {
        while self.log.chunks_available(self.log_limit()) < CHUNKS_OF_PUT && *effort > 0 {
            if self.log.mappings.release_buried() {
                *effort = effort.saturating_sub(RELEASE_EFFORT);
            } else if self.empty_some(now, effort, self.log.chunk_bytes()) {
                *moved = true;
            } else {
                break;
            }
        }
        self.log.take_chunk(self.log_limit())
    }

    /// Whether so little is free, or so much held, that a segment should be on its way out.
    fn short(&self) -> bool {
        let all = self.options.memory_bytes_max / self.log.chunk_bytes() as u64;
        let reserve = (all / 64).clamp(*RESERVE.start(), *RESERVE.end());
        let limit = self.log_limit();
        self.log.held() > limit || self.log.chunks_available(limit) < reserve
    }

    /// Whether housekeeping should go on emptying.
    fn wants_emptying(&self) -> bool {
        self.short() || self.emptying.is_some_and(|emptying| emptying.compact)
    }

    fn begin(&mut self, chunk: Option<u32>, compact: bool) {
        let Some(chunk) = chunk else { return };
        let offset = Log::FIRST_OFFSET;
        let queue = self.log.queue_of_chunk(chunk);
        self.emptying = Some(Emptying { chunk, offset, queue, compact, moved: 0 });
    }

    /// Chooses the segment to be emptied next; false if there is none.
    fn choose(&mut self, now: Mono) -> bool {
        let dead_min = self.log.chunk_bytes() / 4;
        let chunk = self.log.leave_wasteful(dead_min);
        self.begin(chunk, true);
        if self.emptying.is_none() {
            let (small, all) = self.log.queue_bytes();
            let queues = if small * SMALL_SHARE > all {
                [Queue::Small, Queue::Main]
            } else {
                [Queue::Main, Queue::Small]
            };
            // If nothing is sealed, what is open has to do.
            let chunk = queues.into_iter().find_map(|queue| self.log.leave(queue)).or_else(|| {
                queues.into_iter().find_map(|queue| {
                    self.log.seal(queue, units(now));
                    self.log.leave(queue)
                })
            });
            self.begin(chunk, false);
        }
        self.emptying.is_some()
    }

    /// Goes on emptying a segment, over at most `bytes` of it; false if there is nothing to be emptied.
    pub(super) fn empty_some(&mut self, now: Mono, effort: &mut u32, bytes: usize) -> bool {
        if self.emptying.is_none() && !self.choose(now) {
            return false;
        }
        let mut left = bytes;
        while *effort > 0
            && let Some(mut emptying) = self.emptying
        {
            let Some((location, behind)) = self.log.item_at(emptying.chunk, emptying.offset) else {
                self.emptying = None;
                self.log.left(emptying.chunk);
                return true;
            };
            let mut done = (behind - emptying.offset) as usize;
            emptying.offset = behind;
            let head = self.log.item(location).head;
            if head.dead() {
                *effort = effort.saturating_sub(1);
            } else {
                *effort = effort.saturating_sub(ITEM_EFFORT);
                let moved = self.empty_one(now, &emptying, location);
                emptying.moved += moved;
                // A mapping is given up with its item, and that may be all that was wanted.
                if moved == 0 && head.mapped() {
                    done += Mapping::rounded(head.value_len as usize);
                }
            }
            self.emptying = Some(emptying);
            left = left.saturating_sub(done);
            if left == 0 {
                break;
            }
        }
        true
    }

    /// Evicts an item, or moves it on; answers the bytes that moved.
    fn empty_one(&mut self, now: Mono, emptying: &Emptying, location: u64) -> u32 {
        let item = self.log.item(location);
        let key = item.key();
        let probe = self.probe(key);
        let found = self.index.find(self.log.region(), bearing(probe), |at| at == location);
        let (place, entry) = found.expect("a live item has an entry");
        let bytes = self.log.item_bytes_max(key.len(), item.head.item_len() - item.head.value_at());
        let (facts, copied) = (item.head.facts(item.bytes, item.base), item.head.copied());
        if item.over(units(now)) {
            self.drop_expired(place, entry);
            return 0;
        }
        let (uses, size) = (entry.frequency(), item.payload());
        let (stays, queue, uses) = match (emptying.compact, emptying.queue) {
            (true, queue) => (true, queue, uses),
            (false, Queue::Small) => (uses >= PROMOTION_USES + self.weight(size).min(1), Queue::Main, 0),
            (false, Queue::Main) => {
                let cost = 1 + self.weight(size);
                (uses >= cost, Queue::Main, uses.saturating_sub(cost))
            }
        };
        let moved_max = self.log.chunk_bytes() as u32 / 4 * MOVED_QUARTERS;
        if stays && (emptying.compact || emptying.moved < moved_max) && self.room_to_move(now, queue, bytes) {
            let target = self.log.relocate(location, queue, &facts);
            if copied {
                self.log.set_copied(target, true);
            }
            let entry = entry.with_location(target).with_use(uses, entry.stamp());
            self.index.set(self.log.region_mut(), place, entry);
            return bytes as u32;
        }
        if emptying.queue == Queue::Small {
            let room = self.options.memory_bytes_max.saturating_sub(self.held_bytes());
            self.ghost.remember(probe.hash, size, room);
        }
        self.filled = true;
        self.departures.evicted += 1;
        self.departures.evicted_unused += u64::from(self.never_found(entry));
        self.departures.evicted_used += u64::from(entry.frequency() > 0);
        if self.victims.is_some() {
            let used = !self.never_found(entry);
            self.note_victim(now, entry, used);
        }
        self.drop_entry(place, location, Gone::ByItself);
        0
    }

    /// How many uses more than others an item of so many bytes of key and value is asked for.
    fn weight(&self, size: u64) -> u8 {
        let (sizes, mean) = (size.saturating_mul(self.index.len()), self.log.payload());
        u8::from(sizes >= mean.saturating_mul(HEAVY_FACTOR))
            + u8::from(sizes >= mean.saturating_mul(HEAVY_FACTOR * HEAVY_FACTOR))
    }

    /// The queue that a new item of so many bytes of key and value enters.
    pub(super) fn queue_for_new(&mut self, probe: super::Probe, size: u64) -> Queue {
        if !self.unasked && self.ghost.recall(probe.hash) && self.weight(size) == 0 {
            return Queue::Main;
        }
        if self.filled {
            return Queue::Small;
        }
        let (small, _) = self.log.queue_bytes();
        if small * SMALL_SHARE < self.options.memory_bytes_max { Queue::Small } else { Queue::Main }
    }

    /// Whether an item can move to a queue's end; takes the chunk that is kept for that if need be.
    fn room_to_move(&mut self, now: Mono, queue: Queue, bytes: usize) -> bool {
        if self.log.has_room(queue, bytes) {
            return true;
        }
        let Some(chunk) = self.log.take_chunk(self.log_limit()) else { return false };
        self.log.open_segment(queue, chunk, units(now));
        true
    }

    /// Drops items that are over; answers whether there are more.
    fn expire(&mut self, now: Mono, effort: &mut u32) -> bool {
        let (now_units, tick) = (units(now), super::wheel::tick_of(units(now)));
        let mut looks = *effort * 32;
        while *effort > 0
            && let Some(location) = self.log.next_over(tick, &mut looks)
        {
            *effort = effort.saturating_sub(ITEM_EFFORT);
            let item = self.log.item(location);
            if item.head.dead() {
                continue;
            }
            match item.head.deadline(item.bytes, item.base) {
                None => {}
                Some(deadline) if deadline > now_units => self.log.file(location, deadline),
                Some(_) => {
                    let probe = self.probe(item.key());
                    let found = self.index.find(self.log.region(), bearing(probe), |at| at == location);
                    let (place, entry) = found.expect("a live item has an entry");
                    self.drop_expired(place, entry);
                }
            }
        }
        self.log.more_over(tick)
    }
}
