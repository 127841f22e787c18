//! The log: segments of the region that items are appended to, and the account of all memory they take.
//!
//! ```text
//! region   | chunk 0 | chunk 1 | chunk 2 | ..          a chunk is a segment, pages of the index, or free
//! segment  |8| item | item | item (dead) | item | .. -> used       |8|
//! ```
//! Two queues of segments, as in S3-FIFO: `Small` for what is new, `Main` for what has proved itself. Each has one open
//! segment at its end. A segment's items count versions and expiries from the segment's base, and the segment's own wheel
//! knows which of them end when. An item that is overwritten, removed or over is marked dead; a sealed segment whose items
//! are all dead is free at once.
//!
//! Copying a shard (`copy`) relies on these: `append` and `relocate` are the only ways an item gets to a place, `rewrite` the
//! only way it changes there, `kill` the only way it leaves; only who moves an item as it is takes its copied mark along.

use super::item::{Base, Draft, Facts, HEAD_BYTES_MAX, Head, READ_AHEAD_BYTES, units_of};
use super::mappings::Mappings;
use super::memory::{Mapping, PAGE_BYTES, Region};
use super::wheel::{NEVER, Wheel, tick_of};
use crate::request::{Expiry, Value};
use std::collections::VecDeque;

/// First byte of a segment that an item may take: offset 0 means "none" in links, location 0 in the index.
const FIRST: u32 = 8;
/// Smallest and largest chunk: the smallest is a few pages, the largest is what a link can address.
const CHUNK_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=512 << 10;
/// Chunks of a store of less than this are half the smallest ones: some dozens are needed for queues.
const HALF_CHUNKS_BYTES_MAX: u64 = 1 << 20;
/// Chunks that the limit should make.
const CHUNKS_WANTED: u64 = 1024;
/// From this limit on chunks are at least so large that a segment takes the longest key, even if there are fewer of them.
const LONG_KEYS_BYTES_MIN: u64 = 8 << 20;
const LONG_KEY_CHUNK_BYTES: u64 = 128 << 10;
/// Values below this are never worth a mapping of their own, which takes whole pages.
const MAPPED_BYTES_MIN: usize = 16 << 10;
/// Mappings of one segment's items may have this part of the limit, one in so many.
const SEGMENT_MAPPED_SHARE: u64 = 64;
/// What a sealed segment has no items in is given back from so many bytes on.
const TAIL_BYTES_MIN: usize = 16 << 10;
/// Free chunks that have all their memory, as long as there is room for more; and how much of it they get at once.
const PREPARED_CHUNKS: usize = 2;
const PREPARED_BYTES: usize = 32 << 10;
/// Addresses reserved, at least: room for limits that grow at run time.
const RESERVED_BYTES_MIN: u64 = 32 << 30;

/// Where an item waits for its eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Small,
    Main,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Not held.
    Nothing,
    /// Held, for whoever needs a chunk next.
    Free,
    Index,
    Open(Queue),
    Sealed(Queue),
    /// Taken out of its queue to be emptied.
    Leaving(Queue),
}

#[derive(Debug)]
struct Segment {
    usage: Use,
    used: u32,
    dead: u32,
    live: u32,
    /// When it was sealed, in units.
    sealed: u64,
    /// How often the chunk was freed.
    generation: u32,
    /// Bytes of mappings that its items have.
    mapped: u64,
    /// Bytes at its end that have no memory: it was sealed before it was full.
    tail: u32,
    wheel: Option<Box<Wheel>>,
}

const NO_SEGMENT: Segment = Segment {
    usage: Use::Nothing,
    used: 0,
    dead: 0,
    live: 0,
    sealed: 0,
    generation: 0,
    mapped: 0,
    tail: 0,
    wheel: None,
};

/// The bytes of an item's value, on their way in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'a> {
    Parts(&'a [&'a [u8]], usize),
    Mapped(u32, usize),
}

/// An item in the log: its head and its bytes from the head on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub head: Head,
    pub bytes: &'a [u8],
    pub base: Base,
}

impl<'a> Item<'a> {
    pub(super) fn key(&self) -> &'a [u8] {
        &self.bytes[self.head.key_at as usize..self.head.value_at()]
    }

    /// Whether it is over at a moment (units).
    #[inline]
    pub(super) fn over(&self, now_units: u64) -> bool {
        self.head.deadline(self.bytes, self.base).is_some_and(|deadline| deadline <= now_units)
    }

    /// Bytes of key and value.
    pub(super) fn payload(&self) -> u64 {
        u64::from(self.head.key_len) + u64::from(self.head.value_len)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    region: Region,
    chunk_shift: u32,
    /// Items begin at multiples of `1 << grain`, so that locations reach over the whole region.
    grain: u32,
    segments: Vec<Segment>,
    // Beside the segments, so that what is often read is close together: what a segment's items count from, when something
    // in it is due, and the dead bytes of those that are sealed.
    bases: Vec<Base>,
    next_due: Vec<u64>,
    wasted: Vec<u32>,
    due_cursor: usize,
    due_tick: u64,
    free: Vec<u32>,
    /// A chunk whose memory is used for the first time piece by piece, and how far that has come.
    preparing: Option<(u32, usize)>,
    unheld: Vec<u32>,
    queues: [VecDeque<u32>; 2],
    /// A segment whose items' mappings have so many bytes is full: what leaves together must not be too much of all.
    segment_mapped_max: u64,
    open: [Option<u32>; 2],
    /// Values with a mapping of their own.
    pub(super) mappings: Mappings,
    chunks_held: u64,
    /// Bytes of tails of segments: of all, and of those that are sealed and in a queue.
    tails: u64,
    queue_tails: [u64; 2],
    /// Bytes of wheels.
    wheels: u64,
    /// Bytes of mappings whose items are in the small queue.
    mapped_small: u64,
    dead: u64,
    payload: u64,
    expiring: u64,
    waste_cursor: usize,
}

/// Cache lines of an item that are fetched ahead: a head, a key and a value of a hundred bytes; the processor sees by itself
/// that a longer value is read on.
const APPROACHED_LINES: u64 = 3;

impl Log {
    /// An empty log for a store of about this limit.
    pub(super) fn new(limit: u64) -> Log {
        let least = match limit {
            0..HALF_CHUNKS_BYTES_MAX => *CHUNK_BYTES.start() / 2,
            HALF_CHUNKS_BYTES_MAX..LONG_KEYS_BYTES_MIN => *CHUNK_BYTES.start(),
            _ => LONG_KEY_CHUNK_BYTES,
        };
        let bytes = (limit / CHUNKS_WANTED).clamp(least, *CHUNK_BYTES.end());
        let chunk_shift = bytes.ilog2();
        let wanted = limit.saturating_mul(2).clamp(RESERVED_BYTES_MIN, 1 << 44) as usize;
        let least = limit.next_multiple_of(1 << chunk_shift).clamp(1 << chunk_shift, 1 << 44) as usize;
        let region = Region::reserve(wanted, least)
            .expect("addresses for the store's limit (is there a ulimit on virtual memory?)");
        let grain = (region.reserved() as u64)
            .next_power_of_two()
            .ilog2()
            .saturating_sub(super::index::LOCATION_BITS);
        let mut log = Log {
            region,
            chunk_shift,
            grain,
            segments: Vec::new(),
            bases: Vec::new(),
            next_due: Vec::new(),
            wasted: Vec::new(),
            due_cursor: 0,
            due_tick: 0,
            free: Vec::new(),
            preparing: None,
            unheld: Vec::new(),
            queues: Default::default(),
            segment_mapped_max: 0,
            open: [None; 2],
            mappings: Mappings::default(),
            chunks_held: 0,
            tails: 0,
            queue_tails: [0; 2],
            wheels: 0,
            mapped_small: 0,
            dead: 0,
            payload: 0,
            expiring: 0,
            waste_cursor: 0,
        };
        log.expect_limit(limit);
        log
    }

    /// Makes room in the lists for as many chunks as a limit allows, so that they do not grow at a bad moment.
    pub(super) fn expect_limit(&mut self, limit: u64) {
        self.segment_mapped_max = limit / SEGMENT_MAPPED_SHARE;
        let chunks = (limit.min(self.region.reserved() as u64) >> self.chunk_shift) as usize + 1;
        self.segments.reserve_exact(chunks.saturating_sub(self.segments.len()));
        self.bases.reserve_exact(chunks.saturating_sub(self.bases.len()));
        self.next_due.reserve_exact(chunks.saturating_sub(self.next_due.len()));
        for list in [&mut self.wasted, &mut self.free, &mut self.unheld] {
            list.reserve_exact(chunks.saturating_sub(list.len()));
        }
        for queue in &mut self.queues {
            queue.reserve_exact(chunks.saturating_sub(queue.len()));
        }
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    pub(super) fn region_mut(&mut self) -> &mut Region {
        &mut self.region
    }

    pub(super) fn grain(&self) -> u32 {
        self.grain
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        1 << self.chunk_shift
    }

    /// Bytes of keys and values of live items.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    /// Number of live items with an expiry.
    pub(super) fn expiring(&self) -> u64 {
        self.expiring
    }

    /// Bytes of dead items.
    pub(super) fn dead(&self) -> u64 {
        self.dead
    }

    /// Bytes held from the system.
    pub(super) fn held(&self) -> u64 {
        let per_chunk = size_of::<Segment>() + size_of::<Base>() + size_of::<u64>() + size_of::<u32>();
        let lists = self.segments.capacity() * per_chunk
            + (self.free.capacity() + self.unheld.capacity()) * 4
            + self.queues.iter().map(|queue| queue.capacity() * 4).sum::<usize>();
        (self.chunks_held << self.chunk_shift) - self.tails
            + self.mappings.held()
            + self.wheels
            + lists as u64
    }

    // Chunks.

    /// Chunks that may be taken without the log holding more than `limit`.
    #[inline]
    pub(super) fn chunks_available(&self, limit: u64) -> u64 {
        let more = limit.saturating_sub(self.held()) >> self.chunk_shift;
        let reserved = (self.region.reserved() >> self.chunk_shift) as u64 - self.segments.len() as u64;
        let free = self.free.len() as u64 + u64::from(self.preparing.is_some());
        free + more.min(reserved + self.unheld.len() as u64)
    }

    /// A chunk, if the limit allows; its contents are whatever they are.
    pub(super) fn take_chunk(&mut self, limit: u64) -> Option<u32> {
        let prepared = self.free.pop().or_else(|| self.preparing.take().map(|(chunk, _)| chunk));
        prepared.or_else(|| self.take_unfree(limit))
    }

    /// Has a piece of memory used for the first time that puts will want soon, so that they do not have to wait for it; false
    /// if there are enough free chunks, or none may be taken.
    pub(super) fn prepare(&mut self, limit: u64) -> bool {
        if self.free.len() >= PREPARED_CHUNKS {
            return false;
        }
        let Some((chunk, done)) = self.preparing.or_else(|| self.take_unfree(limit).map(|chunk| (chunk, 0)))
        else {
            return false;
        };
        let piece = PREPARED_BYTES.min(self.chunk_bytes() - done);
        self.region.populate((u64::from(chunk) << self.chunk_shift) + done as u64, piece);
        self.preparing = Some((chunk, done + piece));
        if done + piece == self.chunk_bytes() {
            self.preparing = None;
            self.free.push(chunk);
        }
        true
    }

    /// As `take_chunk`, but none of those that are free.
    fn take_unfree(&mut self, limit: u64) -> Option<u32> {
        if self.held() + self.chunk_bytes() as u64 > limit {
            return None;
        }
        let chunk = match self.unheld.pop() {
            Some(chunk) => chunk,
            None => {
                let chunk = self.segments.len();
                // In pieces of a few chunks: each piece is a system call.
                let end = (chunk + 8).next_multiple_of(8) << self.chunk_shift;
                let end = end.min(self.region.reserved());
                if (chunk + 1) << self.chunk_shift > end || !self.region.make_usable(end) {
                    return None;
                }
                self.segments.push(NO_SEGMENT);
                self.bases.push(Base::default());
                self.next_due.push(NEVER);
                self.wasted.push(0);
                chunk as u32
            }
        };
        self.chunks_held += 1;
        self.segments[chunk as usize].usage = Use::Free;
        Some(chunk)
    }

    /// Holds so many free chunks, as far as the limit allows.
    pub(super) fn stock_up(&mut self, count: usize, limit: u64) {
        let mut taken = Vec::new();
        while self.free.len() + taken.len() < count
            && self.held() + self.chunk_bytes() as u64 <= limit
            && let Some(chunk) = self.take_unfree(limit)
        {
            taken.push(chunk);
        }
        self.free.append(&mut taken);
    }

    /// Says that a chunk taken is for the index.
    pub(super) fn lend_to_index(&mut self, chunk: u32) {
        self.segments[chunk as usize].usage = Use::Index;
    }

    /// Takes a chunk back that the index had.
    pub(super) fn return_chunk(&mut self, chunk: u32) {
        self.segments[chunk as usize].usage = Use::Free;
        self.free.push(chunk);
    }

    /// Free chunks that are held all the same.
    pub(super) fn free_len(&self) -> usize {
        self.free.len()
    }

    /// Chunks held.
    pub(super) fn chunks_held(&self) -> u64 {
        self.chunks_held
    }

    /// Gives one free chunk back to the system; false if there is none.
    pub(super) fn release_chunk(&mut self) -> bool {
        // The one with the highest address among some, so that what stays in use is together.
        const LOOK: usize = 64;
        let count = self.free.len();
        let looked = count.saturating_sub(LOOK)..count;
        let Some(at) = looked.max_by_key(|&i| self.free[i]) else { return false };
        let chunk = self.free.swap_remove(at);
        self.let_go(chunk, self.chunk_bytes());
        true
    }

    // Items.

    /// Longest item that a segment takes; larger values get a mapping of their own.
    pub(super) fn inline_bytes_max(&self) -> usize {
        let chunk = self.chunk_bytes();
        (chunk / 8).max(MAPPED_BYTES_MIN.min(chunk / 2))
    }

    /// Longest item that fits into a segment at all.
    pub(super) fn segment_bytes_max(&self) -> usize {
        self.chunk_bytes() - FIRST as usize - READ_AHEAD_BYTES
    }

    /// Most bytes an item may take in a segment.
    pub(super) fn item_bytes_max(&self, key_len: usize, body_len: usize) -> usize {
        (HEAD_BYTES_MAX + key_len + body_len).next_multiple_of(1 << self.grain)
    }

    /// The item at a location.
    #[inline(always)]
    pub(super) fn item(&self, location: u64) -> Item<'_> {
        let bytes = self.bytes(location);
        Item { head: Head::read(bytes), bytes, base: self.bases[self.chunk_of(location)] }
    }

    /// What there is of a segment from a location on.
    #[inline]
    pub(super) fn bytes(&self, location: u64) -> &[u8] {
        let at = location << self.grain;
        let chunk_bytes = 1u64 << self.chunk_shift;
        self.region.bytes(at, (chunk_bytes - (at & (chunk_bytes - 1))) as usize)
    }

    /// Begins to fetch the head, the key and the first of the value of the item at a location.
    #[inline]
    pub(super) fn approach(&self, location: u64) {
        let at = location << self.grain;
        (0..APPROACHED_LINES).for_each(|line| self.region.prefetch(at + line * 64));
    }

    /// Whether the item at a location has this key.
    #[inline]
    pub(super) fn has_key(&self, location: u64, key: &[u8]) -> bool {
        self.item(location).key() == key
    }

    /// The value of an item.
    #[inline]
    pub(super) fn value<'a>(&'a self, item: &Item<'a>) -> &'a [u8] {
        let len = item.head.value_len as usize;
        if item.head.mapped() {
            return self.mappings.bytes_of(item.head.handle(item.bytes), len);
        }
        &item.bytes[item.head.value_at()..][..len]
    }

    /// The value of an item, to be kept by its reader if it is long.
    #[inline]
    pub(super) fn lend_value<'a>(&'a self, item: &Item<'a>) -> Value<'a> {
        let len = item.head.value_len as usize;
        if item.head.mapped() {
            return self.mappings.value_of(item.head.handle(item.bytes), len);
        }
        Value::One(&item.bytes[item.head.value_at()..][..len])
    }

    /// The queue that an item is in.
    pub(super) fn queue_of(&self, location: u64) -> Queue {
        self.queue_of_chunk(self.chunk_of(location) as u32)
    }

    /// The queue that a segment is, or was, in.
    pub(super) fn queue_of_chunk(&self, chunk: u32) -> Queue {
        match self.segments[chunk as usize].usage {
            Use::Open(queue) | Use::Sealed(queue) | Use::Leaving(queue) => queue,
            Use::Nothing | Use::Free | Use::Index => unreachable!("items lie in segments"),
        }
    }

    /// The latest moment (units) at which an item there can have been written.
    pub(super) fn written_before(&self, location: u64) -> Option<u64> {
        let segment = &self.segments[self.chunk_of(location)];
        (!matches!(segment.usage, Use::Open(_))).then_some(segment.sealed)
    }

    /// Whether an item of so many bytes can be appended.
    #[inline]
    pub(super) fn has_room(&self, queue: Queue, bytes: usize) -> bool {
        self.open[queue as usize].is_some_and(|chunk| {
            let segment = &self.segments[chunk as usize];
            segment.used as usize + bytes + READ_AHEAD_BYTES <= self.chunk_bytes()
                && segment.mapped <= self.segment_mapped_max
        })
    }

    /// Opens a segment in a chunk that was taken; the one that was open is sealed.
    pub(super) fn open_segment(&mut self, queue: Queue, chunk: u32, now_units: u64) {
        self.seal(queue, now_units);
        let segment = &mut self.segments[chunk as usize];
        let generation = segment.generation;
        *segment = Segment { usage: Use::Open(queue), used: FIRST, generation, ..NO_SEGMENT };
        self.bases[chunk as usize] = Base { version: 0, units: now_units };
        self.open[queue as usize] = Some(chunk);
    }

    /// Ends the open segment of a queue, if there is one.
    pub(super) fn seal(&mut self, queue: Queue, now_units: u64) {
        let Some(chunk) = self.open[queue as usize].take() else { return };
        let segment = &mut self.segments[chunk as usize];
        segment.usage = Use::Sealed(queue);
        segment.sealed = now_units;
        self.wasted[chunk as usize] = segment.dead;
        if segment.live == 0 {
            self.free_segment(chunk);
        } else {
            self.queues[queue as usize].push_back(chunk);
            self.cut_tail(chunk, queue);
        }
    }

    /// Gives back what a segment just sealed has no items in, if that is much: it was full by its items' mappings.
    fn cut_tail(&mut self, chunk: u32, queue: Queue) {
        let (base, end) = (u64::from(chunk) << self.chunk_shift, self.end_of(chunk));
        let tail = self.chunk_bytes() - end;
        if tail >= TAIL_BYTES_MIN {
            self.region.release(base + end as u64, tail);
            self.segments[chunk as usize].tail = tail as u32;
            self.tails += tail as u64;
            self.queue_tails[queue as usize] += tail as u64;
        }
    }

    /// Bytes from a segment's beginning to the end of the pages that its items touch.
    fn end_of(&self, chunk: u32) -> usize {
        let used = self.segments[chunk as usize].used as usize + READ_AHEAD_BYTES;
        used.next_multiple_of(PAGE_BYTES).min(self.chunk_bytes())
    }

    /// Appends an item; there must be room.
    pub(super) fn append(&mut self, queue: Queue, facts: &Facts, key: &[u8], body: Body<'_>) -> u64 {
        let (value_len, mapped) = match body {
            Body::Parts(_, len) => (len, false),
            Body::Mapped(_, len) => (len, true),
        };
        let (chunk, base) = self.open_for(queue, facts);
        let draft = Draft::new(base, key.len(), value_len, mapped, facts);
        let head_len = draft.bytes().len();
        let body_len = if mapped { super::item::HANDLE_BYTES } else { value_len };
        let location = self.extend(queue, chunk, head_len + key.len() + body_len);
        let bytes = self.region.bytes_mut(location << self.grain, head_len + key.len() + body_len);
        let (head, rest) = bytes.split_at_mut(head_len);
        let (key_bytes, mut rest) = rest.split_at_mut(key.len());
        head.copy_from_slice(draft.bytes());
        key_bytes.copy_from_slice(key);
        match body {
            Body::Parts(parts, _) => {
                for part in parts {
                    let (place, behind) = rest.split_at_mut(part.len());
                    place.copy_from_slice(part);
                    rest = behind;
                }
            }
            Body::Mapped(handle, _) => rest.copy_from_slice(&handle.to_le_bytes()),
        }
        self.admit(location, facts, (key.len() + value_len) as u64);
        location
    }

    /// Moves an item to a queue's end, with other facts; there must be room. The item at the old place is dead.
    pub(super) fn relocate(&mut self, source: u64, queue: Queue, facts: &Facts) -> u64 {
        let item = self.item(source);
        let (head, item_len) = (item.head, item.head.item_len());
        let payload = item.payload();
        let (chunk, base) = self.open_for(queue, facts);
        let draft = Draft::new(base, head.key_len as usize, head.value_len as usize, head.mapped(), facts);
        let head_len = draft.bytes().len();
        let rest = item_len - head.key_at as usize;
        let target = self.extend(queue, chunk, head_len + rest);
        let at = target << self.grain;
        self.region.copy((source << self.grain) + u64::from(head.key_at), at + head_len as u64, rest);
        self.region.bytes_mut(at, head_len).copy_from_slice(draft.bytes());
        self.admit(target, facts, payload);
        self.kill_but_mapping(source);
        target
    }

    /// Changes what an item says beside its value, and its value if one of the same length is given, where it lies; false if
    /// that cannot be, and then nothing changed.
    pub(super) fn rewrite(&mut self, location: u64, facts: &Facts, value: Option<&[&[u8]]>) -> bool {
        let item = self.item(location);
        let (mut head, base, len) = (item.head, item.base, item.bytes.len());
        let before = head.deadline(item.bytes, base).is_some();
        let bytes = self.region.bytes_mut(location << self.grain, len);
        if !head.rewrite(bytes, base, facts) {
            return false;
        }
        let mut rest = &mut bytes[head.value_at()..];
        for part in value.unwrap_or_default() {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        self.expiring += u64::from(facts.expiry != Expiry::Never);
        self.expiring -= u64::from(before);
        true
    }

    /// Says whether a copy of the shard has an item as it is.
    pub(super) fn set_copied(&mut self, location: u64, copied: bool) {
        let mut head = self.item(location).head;
        head.set_copied(self.region.bytes_mut(location << self.grain, 2), copied);
    }

    /// Marks an item dead, and buries its mapping if it has one.
    pub(super) fn kill(&mut self, location: u64) {
        let item = self.item(location);
        if item.head.mapped() {
            let handle = item.head.handle(item.bytes);
            self.mappings.bury(handle);
        }
        self.kill_but_mapping(location);
    }

    fn kill_but_mapping(&mut self, location: u64) {
        let item = self.item(location);
        let (mut head, payload) = (item.head, item.payload());
        debug_assert!(!head.dead(), "an item dies once");
        let expiring = head.deadline(item.bytes, item.base).is_some();
        let mapped = if head.mapped() { Mapping::rounded(head.value_len as usize) as u64 } else { 0 };
        let item_len = head.item_len().next_multiple_of(1 << self.grain);
        head.set_dead(self.region.bytes_mut(location << self.grain, 2));
        let chunk = self.chunk_of(location);
        let segment = &mut self.segments[chunk];
        segment.live -= 1;
        segment.dead += item_len as u32;
        segment.mapped -= mapped;
        if matches!(
            segment.usage,
            Use::Open(Queue::Small) | Use::Sealed(Queue::Small) | Use::Leaving(Queue::Small)
        ) {
            self.mapped_small -= mapped;
        }
        self.dead += item_len as u64;
        self.payload -= payload;
        self.expiring -= u64::from(expiring);
        let Use::Sealed(queue) = segment.usage else { return };
        self.wasted[chunk] = segment.dead;
        if segment.live == 0 {
            let waiting = &mut self.queues[queue as usize];
            let at = waiting
                .iter()
                .position(|&c| c as usize == chunk)
                .expect("sealed segments wait in their queue");
            waiting.remove(at);
            self.queue_tails[queue as usize] -= u64::from(self.segments[chunk].tail);
            self.free_segment(chunk as u32);
        }
    }

    /// The open segment of a queue and what its items count from; the first item makes the base.
    fn open_for(&mut self, queue: Queue, facts: &Facts) -> (u32, Base) {
        let chunk = self.open[queue as usize].expect("the caller sees to room");
        let base = &mut self.bases[chunk as usize];
        if self.segments[chunk as usize].used == FIRST {
            base.version = facts.version.0;
        }
        (chunk, *base)
    }

    /// Takes room at the end of an open segment.
    fn extend(&mut self, queue: Queue, chunk: u32, bytes: usize) -> u64 {
        assert!(self.has_room(queue, bytes.next_multiple_of(1 << self.grain)), "the caller sees to room");
        let segment = &mut self.segments[chunk as usize];
        let at = (u64::from(chunk) << self.chunk_shift) + u64::from(segment.used);
        segment.used += bytes.next_multiple_of(1 << self.grain) as u32;
        at >> self.grain
    }

    /// Counts a new item and files its expiry.
    fn admit(&mut self, location: u64, facts: &Facts, payload: u64) {
        let at = location << self.grain;
        let chunk = self.chunk_of(location);
        let mapped = {
            let item = self.item(location);
            if item.head.mapped() { Mapping::rounded(item.head.value_len as usize) as u64 } else { 0 }
        };
        let segment = &mut self.segments[chunk];
        segment.live += 1;
        segment.mapped += mapped;
        if segment.usage == Use::Open(Queue::Small) {
            self.mapped_small += mapped;
        }
        self.payload += payload;
        if let Some(deadline) = units_of(facts.expiry) {
            self.expiring += 1;
            let offset = (at & ((1 << self.chunk_shift) - 1)) as u32;
            let tick = tick_of(self.bases[chunk].units);
            let before = segment.wheel.as_ref().map_or(0, |wheel| wheel.heap_bytes());
            let wheel = segment.wheel.get_or_insert_with(|| Box::new(Wheel::new(tick)));
            let link = wheel.file(deadline, offset);
            self.wheels += wheel.heap_bytes() - before;
            self.next_due[chunk] = wheel.next_due();
            self.link(location, link);
        }
    }

    fn link(&mut self, location: u64, link: u32) {
        let item = self.item(location);
        let (mut head, len) = (item.head, item.head.key_at as usize);
        head.set_link(self.region.bytes_mut(location << self.grain, len), link);
    }

    #[inline]
    fn chunk_of(&self, location: u64) -> usize {
        (location << self.grain >> self.chunk_shift) as usize
    }

    fn free_segment(&mut self, chunk: u32) {
        let segment = &mut self.segments[chunk as usize];
        debug_assert!(segment.live == 0 && segment.mapped == 0, "only what is empty is freed");
        self.dead -= u64::from(segment.dead);
        self.wheels -= segment.wheel.as_ref().map_or(0, |wheel| wheel.heap_bytes());
        let (tail, generation) = (segment.tail, segment.generation.wrapping_add(1));
        let end = if tail > 0 { self.end_of(chunk) } else { 0 };
        self.segments[chunk as usize] = Segment { usage: Use::Free, generation, ..NO_SEGMENT };
        self.next_due[chunk as usize] = NEVER;
        self.wasted[chunk as usize] = 0;
        if tail == 0 {
            self.free.push(chunk);
        } else {
            // To be free it would have to have all its memory, which nobody has made room for.
            self.tails -= u64::from(tail);
            self.let_go(chunk, end);
        }
    }

    /// Gives the memory of a chunk back, which has it from its beginning to `end`.
    fn let_go(&mut self, chunk: u32, end: usize) {
        self.region.release(u64::from(chunk) << self.chunk_shift, end);
        self.segments[chunk as usize].usage = Use::Nothing;
        self.unheld.push(chunk);
        self.chunks_held -= 1;
    }

    /// Forgets all items and the index's chunks. What was held stays held until it is released.
    pub(super) fn clear(&mut self) {
        self.free.clear();
        for chunk in 0..self.segments.len() as u32 {
            let Segment { usage, tail, generation, .. } = self.segments[chunk as usize];
            if usage == Use::Nothing {
                continue;
            }
            let end = self.end_of(chunk);
            let generation = generation.wrapping_add(1);
            self.segments[chunk as usize] = Segment { usage: Use::Free, generation, ..NO_SEGMENT };
            if tail == 0 {
                self.free.push(chunk);
            } else {
                self.let_go(chunk, end);
            }
        }
        (self.tails, self.queue_tails, self.preparing) = (0, [0; 2], None);
        self.next_due.fill(NEVER);
        self.wasted.fill(0);
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.open = [None; 2];
        self.mappings.clear();
        (self.wheels, self.mapped_small, self.dead, self.payload, self.expiring) = (0, 0, 0, 0, 0);
    }

    // What leaves.

    /// Bytes that the small queue takes, and those of both.
    pub(super) fn queue_bytes(&self) -> (u64, u64) {
        let bytes = |queue: Queue| {
            let waiting =
                self.queues[queue as usize].len() + usize::from(self.open[queue as usize].is_some());
            ((waiting as u64) << self.chunk_shift) - self.queue_tails[queue as usize]
        };
        let small = bytes(Queue::Small);
        (small + self.mapped_small, small + bytes(Queue::Main) + self.mappings.bytes())
    }

    /// Takes the oldest sealed segment out of a queue.
    pub(super) fn leave(&mut self, queue: Queue) -> Option<u32> {
        let chunk = self.queues[queue as usize].pop_front()?;
        self.queue_tails[queue as usize] -= u64::from(self.segments[chunk as usize].tail);
        self.segments[chunk as usize].usage = Use::Leaving(queue);
        self.wasted[chunk as usize] = 0;
        Some(chunk)
    }

    /// Takes a sealed segment with at least so many dead bytes out of its queue: the one with the most among some.
    pub(super) fn leave_wasteful(&mut self, dead_min: usize) -> Option<u32> {
        const LOOK: usize = 4096;
        let count = self.wasted.len();
        let first = if self.waste_cursor < count { self.waste_cursor } else { 0 };
        let last = (first + LOOK).min(count);
        self.waste_cursor = last;
        let (chunk, &most) = self.wasted[first..last].iter().enumerate().max_by_key(|&(_, &dead)| dead)?;
        if (most as usize) < dead_min {
            return None;
        }
        let chunk = first + chunk;
        let Use::Sealed(queue) = self.segments[chunk].usage else { unreachable!("filtered above") };
        let at = self.queues[queue as usize].iter().position(|&c| c as usize == chunk);
        self.queues[queue as usize].remove(at.expect("sealed segments wait in their queue"));
        self.queue_tails[queue as usize] -= u64::from(self.segments[chunk].tail);
        self.segments[chunk].usage = Use::Leaving(queue);
        self.wasted[chunk] = 0;
        Some(chunk as u32)
    }

    /// First offset of an item in any segment.
    pub(super) const FIRST_OFFSET: u32 = FIRST;

    /// The item at an offset of a leaving segment and the offset behind it; nothing at the end or when nothing lives.
    pub(super) fn item_at(&self, chunk: u32, offset: u32) -> Option<(u64, u32)> {
        let segment = &self.segments[chunk as usize];
        if segment.live == 0 || offset >= segment.used {
            return None;
        }
        let location = ((u64::from(chunk) << self.chunk_shift) + u64::from(offset)) >> self.grain;
        let len = self.item(location).head.item_len().next_multiple_of(1 << self.grain);
        Some((location, offset + len as u32))
    }

    /// Frees a leaving segment, all of whose items have left.
    pub(super) fn left(&mut self, chunk: u32) {
        self.free_segment(chunk);
    }

    // Expiry.

    /// An item that may be over, the tick being this; nothing if there is none (any more) before the next tick. Whoever asks
    /// must `kill` it or `file` it before asking again. Counts down `looks`, the number of segments it may look at.
    pub(super) fn next_over(&mut self, tick: u64, looks: &mut u32) -> Option<u64> {
        if self.due_cursor == 0 && self.due_tick >= tick {
            return None;
        }
        while self.due_cursor < self.segments.len() {
            let chunk = self.due_cursor;
            if self.next_due[chunk] <= tick {
                let segment = &mut self.segments[chunk];
                let wheel = segment.wheel.as_mut().expect("only segments with a wheel are due");
                if let Some(offset) = wheel.advance(tick) {
                    let at = ((chunk as u64) << self.chunk_shift) + u64::from(offset);
                    let location = at >> self.grain;
                    let item = self.item(location);
                    let link = item.head.link(item.bytes);
                    let wheel = self.segments[chunk].wheel.as_mut().expect("looked at above");
                    wheel.set_pending(link);
                    self.next_due[chunk] = wheel.next_due();
                    return Some(location);
                }
                self.next_due[chunk] = wheel.next_due();
            }
            if *looks == 0 {
                return None;
            }
            *looks -= 1;
            self.due_cursor += 1;
        }
        self.due_cursor = 0;
        self.due_tick = tick;
        None
    }

    /// Whether `next_over` has not seen all segments at this tick.
    pub(super) fn more_over(&self, tick: u64) -> bool {
        self.due_cursor != 0 || self.due_tick < tick
    }

    /// Files an item that `next_over` gave and that is not over yet.
    pub(super) fn file(&mut self, location: u64, deadline: u64) {
        let at = location << self.grain;
        let chunk = self.chunk_of(location);
        let offset = (at & ((1 << self.chunk_shift) - 1)) as u32;
        let wheel = self.segments[chunk].wheel.as_mut().expect("the item was filed in it before");
        self.wheels -= wheel.heap_bytes();
        let link = wheel.file(deadline, offset);
        self.wheels += wheel.heap_bytes();
        self.next_due[chunk] = wheel.next_due();
        self.link(location, link);
    }
}
