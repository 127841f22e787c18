//! Making room and keeping house, a bounded step at a time: eviction, compaction, expiry, giving memory back.

use super::log::{Log, Queue};
use super::memory::Mapping;
use super::pages::{PAGE_BYTES, SPARE_PAGES};
use super::{Store, bearing, units};
use crate::clock::Mono;
use crate::request::Fault;

/// Uses that take an item from the small queue to the main one.
const PROMOTION_USES: u8 = 2;
/// The small queue's share of all is one in so many.
const SMALL_SHARE: u64 = 10;
/// Free chunks that puts should find: one is kept for items on the move, the others so that no put has to wait for one.
const RESERVE: std::ops::RangeInclusive<u64> = 2..=4;
/// A put looks at so many bytes of what is being emptied for each byte it takes.
const PAY_FACTOR: usize = 4;
/// Most of a segment that may move on from it, in quarters; the rest leaves even if it was used.
const MOVED_QUARTERS: u32 = 3;
/// What one tick may do, in units of roughly 100 ns.
const TICK_EFFORT: u32 = 300;
const ITEM_EFFORT: u32 = 3;
const RELEASE_EFFORT: u32 = 300;
/// Most segments that making room for one chunk may empty before it is given up.
const ATTEMPTS_MAX: u32 = 64;

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
        let mut more = self.expire(now, &mut effort);
        while effort > 0 && self.log.release_buried() {
            effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        if let Some(chunk) = self.index.give_chunk() {
            self.log.return_chunk(chunk);
        }
        while effort > 0 && self.log.held() > self.log_limit() {
            if self.log.release_chunk() {
                effort = effort.saturating_sub(RELEASE_EFFORT);
            } else if !self.empty_some(now, &mut effort, usize::MAX) {
                break;
            }
        }
        let wasteful = self.log.dead() > (self.log.chunks_held() * self.log.chunk_bytes() as u64) / 8;
        if effort > 0 && self.emptying.is_none() && wasteful {
            let dead_min = self.log.chunk_bytes() / 2;
            let chunk = self.log.leave_wasteful(dead_min);
            self.begin(chunk, true);
        }
        if effort > 0 && (self.emptying.is_some() || self.short()) {
            self.empty_some(now, &mut effort, usize::MAX);
        }
        let surplus = 4 + self.log.chunks_held() as usize / 32;
        while effort > 0 && self.log.free_len() > surplus && self.log.release_chunk() {
            effort = effort.saturating_sub(RELEASE_EFFORT);
        }
        more |= effort == 0 || self.emptying.is_some();
        more
    }

    /// Pays for bytes that are about to be taken; answers whether anything moved.
    pub(super) fn pay(&mut self, now: Mono, bytes: usize) -> bool {
        if !self.short() {
            return false;
        }
        if self.log.held() > self.log_limit() {
            // What is not chunks has grown.
            self.log.release_chunk();
        }
        let mut effort = u32::MAX;
        self.empty_some(now, &mut effort, PAY_FACTOR * bytes)
    }

    /// Makes sure that a queue's open segment has room, and the index pages if an entry may have to be `added`;
    /// answers whether anything moved.
    pub(super) fn make_room(
        &mut self,
        now: Mono,
        queue: Queue,
        bytes: usize,
        added: bool,
    ) -> Result<bool, Fault> {
        let mut moved = false;
        loop {
            let to_index = (added || moved) && !self.index.has_spare_pages();
            if !to_index && self.log.has_room(queue, bytes) {
                return Ok(moved);
            }
            let chunk = self.chunk_for_put(now, &mut moved).ok_or(Fault::OutOfMemory)?;
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
    ) -> Result<bool, Fault> {
        let bytes = Mapping::rounded(value_len) as u64;
        // Beside it there must be an open segment, one on the move, and pages for the index.
        let index_chunks = (SPARE_PAGES * PAGE_BYTES).div_ceil(self.log.chunk_bytes()) as u64;
        let least = (3 + index_chunks) * self.log.chunk_bytes() as u64;
        if bytes + least > self.log_limit() {
            return Err(Fault::OutOfMemory);
        }
        let fits = |log: &Log, limit: u64| log.held() + bytes <= limit;
        if fits(&self.log, self.log_limit()) {
            return Ok(false);
        }
        // The item that is replaced gives up its place first, so that nobody else has to.
        if let Some((place, entry)) = self.entry_of(probe, key)
            && self.log.item(entry.location()).head.mapped()
        {
            self.drop_entry(place, entry.location());
        }
        let mut effort = u32::MAX;
        while !fits(&self.log, self.log_limit()) {
            let released = self.log.release_buried()
                || (self.log.free_len() > 1 && self.log.release_chunk())
                || self.empty_some(now, &mut effort, self.log.chunk_bytes())
                || self.log.release_chunk();
            if !released {
                return Err(Fault::OutOfMemory);
            }
            effort = u32::MAX;
        }
        Ok(true)
    }

    /// A chunk for an open segment or the index. One more stays within reach for items on the move, if at all possible.
    fn chunk_for_put(&mut self, now: Mono, moved: &mut bool) -> Option<u32> {
        let mut attempts = ATTEMPTS_MAX;
        while self.log.chunks_available(self.log_limit()) < 2 && attempts > 0 {
            let mut effort = u32::MAX;
            let before = self.emptying.map(|emptying| emptying.chunk);
            if !self.empty_some(now, &mut effort, self.log.chunk_bytes()) {
                break;
            }
            *moved = true;
            attempts -= u32::from(before != self.emptying.map(|emptying| emptying.chunk));
        }
        self.log.take_chunk(self.log_limit())
    }

    /// Whether so little is free that a segment should be on its way out.
    fn short(&self) -> bool {
        let all = self.options.memory_bytes_max / self.log.chunk_bytes() as u64;
        let reserve = (all / 64).clamp(*RESERVE.start(), *RESERVE.end());
        self.log.chunks_available(self.log_limit()) < reserve
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
    fn empty_some(&mut self, now: Mono, effort: &mut u32, bytes: usize) -> bool {
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
            let len = behind - emptying.offset;
            emptying.offset = behind;
            if self.log.item(location).head.dead() {
                *effort = effort.saturating_sub(1);
            } else {
                *effort = effort.saturating_sub(ITEM_EFFORT);
                emptying.moved += self.empty_one(now, &emptying, location);
            }
            self.emptying = Some(emptying);
            left = left.saturating_sub(len as usize);
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
        let facts = item.head.facts(item.bytes, item.base);
        if item.over(units(now)) {
            self.departures.expired += 1;
            self.drop_entry(place, location);
            return 0;
        }
        let uses = entry.frequency();
        let (stays, queue, uses) = match (emptying.compact, emptying.queue) {
            (true, queue) => (true, queue, uses),
            (false, Queue::Small) => (uses >= PROMOTION_USES, Queue::Main, 0),
            (false, Queue::Main) => (uses > 0, Queue::Main, uses.saturating_sub(1)),
        };
        let moved_max = self.log.chunk_bytes() as u32 / 4 * MOVED_QUARTERS;
        if stays && (emptying.compact || emptying.moved < moved_max) && self.room_to_move(now, queue, bytes) {
            let target = self.log.relocate(location, queue, &facts);
            let entry = entry.with_location(target).with_use(uses, entry.stamp());
            self.index.set(self.log.region_mut(), place, entry);
            return bytes as u32;
        }
        if emptying.queue == Queue::Small {
            self.ghost.remember(probe.hash);
        }
        self.departures.evicted += 1;
        self.drop_entry(place, location);
        0
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
                    let (place, _) = found.expect("a live item has an entry");
                    self.drop_entry(place, location);
                    self.departures.expired += 1;
                }
            }
        }
        self.log.more_over(tick)
    }
}
