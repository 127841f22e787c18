//! The index: which item lies where. One table per shard, so that a shard is found, walked and freed without touching
//! the others, and grows by itself.
//!
//! ```text
//! entry (8 bytes)  | tag 13 | spread 5 | slot in shard 4 | stamp 5 | frequency 2 | location 35 |
//! bucket           8 entries, one cache line; zero is an empty entry
//! leaf             32 buckets (2 KiB), 16 in a small table, fewer (1, 2, 3, ..) in one with a single leaf
//! table            n leaves, ordered by the hash: leaf = position * n >> 32
//! ```
//! `position` is the upper half of the key's hash, `spread` five bits of the lower half. A leaf is found by position, a
//! bucket in it by spread; full buckets spill into the next bucket of the same leaf. Because leaves are ordered by position,
//! for every n, a place in a walk is a position, and it means the same in every size the table ever has.
//!
//! Growth goes from n leaves to about 9/8 n: the leaves of the old layout are emptied into the new one from the last to
//! the first, one with each change of the table, and lookups know from the position which layout has the key. No item
//! is read for it: an entry's tag is 13 bits of its position, which the leaf's place completes. Only when a table passes 512
//! (or 65,536) leaves does the tag have to move to lower bits, and then keys are read and hashed again, once.
//!
//! Leaves live in a pool that is kept dense (the last page fills a hole), so an index gives whole chunks back when it shrinks.

use super::item::{HEAD_BYTES_MAX, Head};
use super::memory::{Region, compare_line, prefetch};
use super::pages::{
    CLASS_BUCKETS, HALF_CLASS, LEAF_BUCKETS, Owner, PAGE_CLASS, Pages, SPARE_PAGES, SPARE_PAGES_TO_MOVE,
};
use crate::hash::KeyHasher;
use crate::ids::{SHARD_COUNT, SLOTS_PER_SHARD, Slot};

/// Bits of a location.
pub(super) const LOCATION_BITS: u32 = 35;
/// Highest frequency that is counted.
pub(super) const FREQUENCY_MAX: u8 = 3;
/// Number of different stamps.
pub(super) const STAMP_COUNT: u64 = 32;

const FREQUENCY_SHIFT: u32 = LOCATION_BITS;
const STAMP_SHIFT: u32 = FREQUENCY_SHIFT + 2;
const SLOT_SHIFT: u32 = STAMP_SHIFT + 5;
const SPREAD_SHIFT: u32 = SLOT_SHIFT + 4;
const TAG_SHIFT: u32 = SPREAD_SHIFT + 5;
const TAG_BITS: u32 = 64 - TAG_SHIFT;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
/// How far the tag moves down the position from one window to the next.
const WINDOW_STEP: u32 = 7;

const BUCKET_ENTRIES: u32 = 8;
const LEAF_ENTRIES: u32 = LEAF_BUCKETS * BUCKET_ENTRIES;
/// Tables with more buckets have leaves of the largest class: fewer and evener. Smaller ones grow in finer steps.
const HALF_BUCKETS_MAX: u32 = 128;
/// Tables of up to so many leaves are counted through before they change their size.
const COUNTED_LEAVES_MAX: u32 = 64;
/// Strips that positions are counted in: some 32 for each leaf of the largest table that is counted.
const STRIPS: usize = 4096;
const STRIP_SHIFT: u32 = 32 - STRIPS.ilog2();
/// Most leaves of one table: as many as an owner note can count.
const LEAVES_MAX: u32 = 1 << 20;

/// Where a key stands in its table: the upper half of its hash.
#[inline]
pub(super) fn position_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// What of a key leads to its entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bearing {
    shard: u16,
    slot: u8,
    position: u32,
    spread: u8,
}

impl Bearing {
    #[inline]
    pub(super) fn new(hash: u64, slot: Slot) -> Bearing {
        Bearing {
            shard: slot.shard().number(),
            slot: (slot.number() % SLOTS_PER_SHARD) as u8,
            position: position_of(hash),
            spread: hash as u8 & 31,
        }
    }

    /// The bits above the stamp of this key's entry.
    #[inline]
    fn upper(self, window: u8) -> u64 {
        let tag = u64::from(self.position >> grid_bits(window)) & TAG_MASK;
        tag << TAG_SHIFT | u64::from(self.spread) << SPREAD_SHIFT | u64::from(self.slot) << SLOT_SHIFT
    }
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// An entry for an item at `location` (not 0), without the bits that the index adds.
    #[inline]
    pub(super) fn new(location: u64, frequency: u8, stamp: u64) -> Entry {
        debug_assert!(location != 0 && location >> LOCATION_BITS == 0 && frequency <= FREQUENCY_MAX);
        Entry(location | u64::from(frequency) << FREQUENCY_SHIFT | (stamp % STAMP_COUNT) << STAMP_SHIFT)
    }

    #[inline]
    pub(super) fn location(self) -> u64 {
        self.0 & ((1 << LOCATION_BITS) - 1)
    }

    #[inline]
    pub(super) fn frequency(self) -> u8 {
        (self.0 >> FREQUENCY_SHIFT & 3) as u8
    }

    #[inline]
    pub(super) fn stamp(self) -> u64 {
        self.0 >> STAMP_SHIFT & (STAMP_COUNT - 1)
    }

    #[inline]
    pub(super) fn slot_in_shard(self) -> u16 {
        (self.0 >> SLOT_SHIFT & 15) as u16
    }

    #[inline]
    pub(super) fn with_location(self, location: u64) -> Entry {
        Entry(self.0 & !((1 << LOCATION_BITS) - 1) | location)
    }

    #[inline]
    pub(super) fn with_use(self, frequency: u8, stamp: u64) -> Entry {
        let cleared = self.0 & !(3 << FREQUENCY_SHIFT | (STAMP_COUNT - 1) << STAMP_SHIFT);
        Entry(cleared | u64::from(frequency) << FREQUENCY_SHIFT | (stamp % STAMP_COUNT) << STAMP_SHIFT)
    }

    #[inline]
    fn spread(self) -> u32 {
        (self.0 >> SPREAD_SHIFT & 31) as u32
    }
}

/// Where an entry is; good until the index changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    shard: u16,
    old: bool,
    leaf: u32,
    bucket: u32,
    line: u32,
    entry: u8,
}

impl Place {
    /// The number of the shard whose table it is in.
    #[inline]
    pub(super) fn shard(self) -> u16 {
        self.shard
    }
}

/// A leaf's first cache line plus one (0: it has no memory yet), and the number of its entries. Plain numbers, so that a table
/// of very many leaves comes from the system as zeros, and is not written before it is used.
type Leaf = [u32; 2];
const LINE: usize = 0;
const LEN: usize = 1;

#[inline]
fn line_of(leaf: Leaf) -> Option<u32> {
    leaf[LINE].checked_sub(1)
}

#[derive(Debug, Default)]
struct Layout {
    leaves: Vec<Leaf>,
    /// Number of leaves that positions are spread over; the old layout of a growing table has fewer left.
    count: u32,
    class: u8,
    window: u8,
    /// Told to the pool, so that a page that moves finds its leaf.
    parity: bool,
}

impl Layout {
    fn new(count: u32, class: u8, parity: bool) -> Layout {
        let window = match count {
            0..=512 => 0,
            513..=65_536 => 1,
            _ => 2,
        };
        Layout { leaves: vec![[0; 2]; count as usize], count, class, window, parity }
    }

    #[inline]
    fn leaf_of(&self, position: u32) -> usize {
        ((u64::from(self.known(position)) * u64::from(self.count)) >> 32) as usize
    }

    /// What of a position an entry still knows.
    #[inline]
    fn known(&self, position: u32) -> u32 {
        position >> grid_bits(self.window) << grid_bits(self.window)
    }

    #[inline]
    fn buckets(&self) -> u32 {
        CLASS_BUCKETS[self.class as usize]
    }

    /// How many entries there are in each strip of positions.
    fn strips(&self, region: &Region) -> Strips {
        let mut strips = Strips([0; STRIPS]);
        for (i, &leaf) in self.leaves.iter().enumerate() {
            let Some(first) = line_of(leaf) else { continue };
            let grid = self.grid(i);
            for line in first..first + self.buckets() {
                for &word in region.line(line).iter().filter(|&&word| word != 0) {
                    strips.0[(grid.position_of(Entry(word)) >> STRIP_SHIFT) as usize] += 1;
                }
            }
        }
        strips
    }

    /// Entries there is room for.
    fn room(&self) -> u64 {
        u64::from(self.count) * u64::from(self.buckets() * BUCKET_ENTRIES)
    }

    /// What completes the tags of a leaf's entries.
    fn grid(&self, leaf: usize) -> Grid {
        let bits = grid_bits(self.window);
        let start = ((leaf as u64) << 32).div_ceil(u64::from(self.count));
        Grid { first: start.div_ceil(1 << bits), bits }
    }

    /// The first position that belongs to the leaf behind this one; nothing at the end.
    fn position_behind(&self, leaf: usize) -> Option<u32> {
        let bits = grid_bits(self.window);
        let start = ((leaf as u64 + 1) << 32).div_ceil(u64::from(self.count));
        u32::try_from(start.div_ceil(1 << bits) << bits).ok()
    }
}

/// The positions that a leaf can have, in steps of what a tag knows.
#[derive(Clone, Copy)]
struct Grid {
    first: u64,
    bits: u32,
}

impl Grid {
    /// The known part of the position of an entry that is in the leaf.
    #[inline]
    fn position_of(self, entry: Entry) -> u32 {
        let tag = entry.0 >> TAG_SHIFT;
        ((self.first + (tag.wrapping_sub(self.first) & TAG_MASK)) << self.bits) as u32
    }
}

/// Entries by the upper bits of their positions: read once, they say for every number of leaves how full those would be.
struct Strips([u16; STRIPS]);

impl Strips {
    /// Whether so many leaves of a class have room. Strips on a border count for both sides.
    fn fit(&self, count: u32, class: u8) -> bool {
        let border = |leaf: u32| (u64::from(leaf) << 32).div_ceil(u64::from(count));
        (0..count).all(|leaf| {
            let (first, behind) = (border(leaf) >> STRIP_SHIFT, (border(leaf + 1) - 1) >> STRIP_SHIFT);
            let strips = &self.0[first as usize..=behind as usize];
            strips.iter().map(|&len| u32::from(len)).sum::<u32>() < crowd(class)
        })
    }
}

/// From how many entries on a leaf is crowded: beyond it, spilling gets long, and a large table takes a while to grow.
fn crowd(class: u8) -> u32 {
    let room = CLASS_BUCKETS[class as usize] * BUCKET_ENTRIES;
    match class {
        0 => room,
        PAGE_CLASS => room - 8,
        _ => room - room.div_ceil(64),
    }
}

/// Bits of the position below the tag.
#[inline]
fn grid_bits(window: u8) -> u32 {
    32 - TAG_BITS - WINDOW_STEP * u32::from(window)
}

#[derive(Debug, Default)]
struct Table {
    current: Layout,
    /// While the table changes its size: what has not been moved yet.
    old: Option<Box<Layout>>,
    len: u32,
    /// Number of items in each slot, once there are enough to make counting them anew a long step.
    slots: Option<Box<SlotLens>>,
}

/// Number of items in each slot of a shard.
type SlotLens = [u32; SLOTS_PER_SHARD as usize];
/// Tables of fewer items are counted when somebody asks: 64 KiB of counts are much for a store of a few hundred items.
const COUNTED_LEN_MIN: u32 = 64;

impl Pages {
    /// The first line of a leaf, which gets its memory now if it has none.
    #[inline]
    fn line_for(&mut self, region: &mut Region, layout: &mut Layout, shard: u16, leaf: usize) -> u32 {
        line_of(layout.leaves[leaf]).unwrap_or_else(|| {
            let owner = Owner::Leaf { shard, parity: layout.parity, leaf: leaf as u32 };
            let line = self.take_leaf(region, layout.class, owner);
            layout.leaves[leaf][LINE] = line + 1;
            line
        })
    }
}

impl Table {
    /// An entry has gone.
    #[inline]
    fn count_out(&mut self, entry: Entry) {
        self.len -= 1;
        if let Some(lens) = &mut self.slots {
            lens[usize::from(entry.slot_in_shard())] -= 1;
        }
    }

    #[inline]
    fn layout(&self, old: bool) -> &Layout {
        if old {
            self.old.as_ref().expect("places in the old layout exist only while there is one")
        } else {
            &self.current
        }
    }

    fn layout_mut(&mut self, old: bool) -> &mut Layout {
        if old {
            self.old.as_mut().expect("places in the old layout exist only while there is one")
        } else {
            &mut self.current
        }
    }

    /// Whether a position is in the old layout, and its leaf there or in the current one.
    #[inline]
    fn leaf_of(&self, position: u32) -> (bool, usize) {
        if let Some(old) = &self.old {
            let leaf = old.leaf_of(position);
            if leaf < old.leaves.len() {
                return (true, leaf);
            }
        }
        (false, self.current.leaf_of(position))
    }
}

/// The index of a store.
#[derive(Debug)]
pub(super) struct Index {
    tables: Box<[Table]>,
    pool: Pages,
    len: u64,
    /// Leaves that all layouts have room for, for the account.
    leaf_room: usize,
    /// Tables that count the items of each slot.
    counted: usize,
    /// Entries that a crowded leaf had no room for.
    lost: Vec<Entry>,
}

/// How the index reads the hash of the key of an item at a location.
#[derive(Clone, Copy)]
pub(super) struct Rehash<'a> {
    pub(super) hasher: &'a KeyHasher,
    /// Of locations, see [`super::log`].
    pub(super) grain: u32,
}

impl Rehash<'_> {
    /// Begins to fetch what [`Rehash::hash`] reads.
    fn approach(self, region: &Region, location: u64) {
        region.prefetch(location << self.grain);
    }

    fn hash(self, region: &Region, location: u64) -> u64 {
        let at = location << self.grain;
        let head = Head::read(region.bytes(at, HEAD_BYTES_MAX));
        self.hasher.hash(region.bytes(at + u64::from(head.key_at), head.key_len as usize))
    }
}

impl Index {
    pub(super) fn new(chunk_bytes: usize) -> Index {
        Index {
            tables: (0..SHARD_COUNT).map(|_| Table::default()).collect(),
            pool: Pages::new(chunk_bytes),
            len: 0,
            leaf_room: 0,
            counted: 0,
            lost: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn slot_len(&self, region: &Region, slot: Slot) -> u64 {
        let (shard, at) = (slot.shard().number(), usize::from(slot.number() % SLOTS_PER_SHARD));
        let table = &self.tables[shard as usize];
        let lens = table.slots.as_deref().copied().unwrap_or_else(|| self.count_slots(region, shard));
        u64::from(lens[at])
    }

    /// Counts the items of each slot of a shard.
    fn count_slots(&self, region: &Region, shard: u16) -> SlotLens {
        let (mut lens, mut page, mut position) = ([0; SLOTS_PER_SHARD as usize], Vec::new(), Some(0));
        while let Some(from) = position {
            page.clear();
            position = self.entries_from(region, shard, from, &mut page);
            page.iter().for_each(|(_, entry)| lens[usize::from(entry.slot_in_shard())] += 1);
        }
        lens
    }

    pub(super) fn shard_len(&self, shard: u16) -> u32 {
        self.tables[shard as usize].len
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> u64 {
        let tables = self.tables.len() * size_of::<Table>() + self.counted * size_of::<SlotLens>();
        (tables + self.leaf_room * size_of::<Leaf>() + self.pool.heap_bytes()) as u64
    }

    /// Whether an insertion is sure to find the pages it needs; if not, it needs a chunk first.
    #[inline]
    pub(super) fn has_spare_pages(&self) -> bool {
        self.pool.spare() >= SPARE_PAGES
    }

    /// Takes a chunk for pages.
    pub(super) fn add_chunk(&mut self, chunk: u32) {
        self.pool.add_chunk(chunk);
    }

    /// A chunk that is not needed any more.
    pub(super) fn give_chunk(&mut self) -> Option<u32> {
        self.pool.give_chunk()
    }

    /// The entry of a key; `same` compares the key of the item at a location.
    #[inline]
    pub(super) fn find(
        &self,
        region: &Region,
        bearing: Bearing,
        mut same: impl FnMut(u64) -> bool,
    ) -> Option<(Place, Entry)> {
        self.find_with(region, bearing, |location| same(location).then_some(()))
            .map(|(place, entry, ())| (place, entry))
    }

    /// As `find`, and what `same` made of the item while it compared the keys.
    #[inline(always)]
    pub(super) fn find_with<T>(
        &self,
        region: &Region,
        bearing: Bearing,
        mut same: impl FnMut(u64) -> Option<T>,
    ) -> Option<(Place, Entry, T)> {
        let table = &self.tables[bearing.shard as usize];
        if table.len == 0 {
            return None;
        }
        let (old, leaf) = table.leaf_of(bearing.position);
        let layout = table.layout(old);
        let first = line_of(layout.leaves[leaf])?;
        let wanted = bearing.upper(layout.window);
        let buckets = layout.buckets();
        let mut bucket = home(u32::from(bearing.spread), buckets);
        for _ in 0..buckets {
            let line = first + bucket;
            let words = region.line(line);
            let (mut fitting, free) = compare(words, wanted);
            while fitting != 0 {
                let i = fitting.trailing_zeros() as usize;
                let entry = Entry(words[i]);
                if let Some(seen) = same(entry.location()) {
                    let shard = bearing.shard;
                    let place = Place { shard, old, leaf: leaf as u32, bucket, line, entry: i as u8 };
                    return Some((place, entry, seen));
                }
                fitting &= fitting - 1;
            }
            if free != 0 {
                return None;
            }
            bucket = next(bucket, buckets);
        }
        None
    }

    /// Begins to fetch the table of a key's shard: the first of three steps towards its bucket.
    #[inline]
    pub(super) fn approach_table(&self, bearing: Bearing) {
        prefetch(&self.tables[bearing.shard as usize]);
    }

    /// Begins to fetch what a key's table knows of its leaf.
    #[inline]
    pub(super) fn approach_leaf(&self, bearing: Bearing) {
        let table = &self.tables[bearing.shard as usize];
        if table.len > 0 {
            let (old, leaf) = table.leaf_of(bearing.position);
            prefetch(&table.layout(old).leaves[leaf]);
        }
    }

    /// Begins to fetch the bucket that a key's entry is most likely in, and answers its line.
    #[inline]
    pub(super) fn approach_bucket(&self, region: &Region, bearing: Bearing) -> Option<u32> {
        let table = &self.tables[bearing.shard as usize];
        if table.len == 0 {
            return None;
        }
        let (old, leaf) = table.leaf_of(bearing.position);
        let layout = table.layout(old);
        let first = line_of(layout.leaves[leaf])?;
        let line = first + home(u32::from(bearing.spread), layout.buckets());
        region.prefetch(u64::from(line) * 64);
        Some(line)
    }

    /// Where the item of a key probably lies, by the bucket that `approach` named.
    #[inline]
    pub(super) fn glance(&self, region: &Region, bearing: Bearing, line: u32) -> Option<u64> {
        let table = &self.tables[bearing.shard as usize];
        let (old, _) = table.leaf_of(bearing.position);
        let wanted = bearing.upper(table.layout(old).window);
        let words = region.line(line);
        let (fitting, _) = compare(words, wanted);
        (fitting != 0).then(|| Entry(words[fitting.trailing_zeros() as usize]).location())
    }

    /// How many lines a search for a key looks at to the end, and how many items it would compare keys with.
    #[cfg(test)]
    pub(super) fn cost_of(&self, region: &Region, bearing: Bearing) -> (u32, u32) {
        let table = &self.tables[bearing.shard as usize];
        let layout = table.layout(table.leaf_of(bearing.position).0);
        let Some(first) = line_of(layout.leaves[table.leaf_of(bearing.position).1]) else { return (0, 0) };
        let (mut lines, mut bucket) = (1, home(u32::from(bearing.spread), layout.buckets()));
        while lines < layout.buckets() && region.line(first + bucket).iter().all(|&word| word != 0) {
            (lines, bucket) = (lines + 1, next(bucket, layout.buckets()));
        }
        let mut same = 0;
        self.find(region, bearing, |_| {
            same += 1;
            false
        });
        (lines, same)
    }

    /// Writes an entry over the one that is there; only what the entry's maker chose may differ.
    #[inline]
    pub(super) fn set(&mut self, region: &mut Region, place: Place, entry: Entry) {
        let word = &mut region.line_mut(place.line)[place.entry as usize];
        debug_assert!((*word ^ entry.0) >> SLOT_SHIFT == 0, "another key's entry");
        *word = entry.0;
    }

    /// Adds an entry for a key that has none. There must be spare pages. Entries that had to go because their leaf was full
    /// are in [`Index::take_lost`] afterwards; with a keyed hash that does not happen.
    pub(super) fn insert(&mut self, region: &mut Region, bearing: Bearing, entry: Entry, rehash: Rehash<'_>) {
        debug_assert!(self.has_spare_pages(), "the caller sees to spare pages");
        let shard = bearing.shard;
        self.move_leaf(region, shard, rehash);
        self.make_place(region, bearing, rehash);
        let table = &mut self.tables[shard as usize];
        let (old, leaf) = table.leaf_of(bearing.position);
        let layout = table.layout_mut(old);
        let word = entry.0 | bearing.upper(layout.window);
        let first = self.pool.line_for(region, layout, shard, leaf);
        let buckets = layout.buckets();
        if !place(region, first, buckets, word) {
            let victim = coldest(region, first, buckets);
            let word_lost = std::mem::replace(&mut region.line_mut(victim.0)[victim.1], 0);
            table.count_out(Entry(word_lost));
            self.len -= 1;
            self.lost.push(Entry(word_lost));
            // The victim's bucket may lie behind a full one, so the word goes exactly there; every bucket is full, so it
            // is found from its home.
            region.line_mut(victim.0)[victim.1] = word;
        } else {
            layout.leaves[leaf][LEN] += 1;
        }
        table.len += 1;
        self.len += 1;
        if let Some(lens) = &mut table.slots {
            lens[usize::from(Entry(word).slot_in_shard())] += 1;
        } else if table.len >= COUNTED_LEN_MIN {
            self.tables[shard as usize].slots = Some(Box::new(self.count_slots(region, shard)));
            self.counted += 1;
        }
    }

    /// Entries that had to go, one by one.
    #[inline]
    pub(super) fn take_lost(&mut self) -> Option<Entry> {
        self.lost.pop()
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, region: &mut Region, place: Place, rehash: Rehash<'_>) {
        let table = &mut self.tables[place.shard as usize];
        let layout = table.layout_mut(place.old);
        let buckets = layout.buckets();
        let leaf = &mut layout.leaves[place.leaf as usize];
        let entry = Entry(region.line(place.line)[place.entry as usize]);
        take_out(region, place.line - place.bucket, buckets, place.bucket, place.entry as usize);
        leaf[LEN] -= 1;
        table.count_out(entry);
        self.len -= 1;
        if table.len == 0 {
            self.empty_table(region, place.shard);
        } else if self.pool.spare() >= SPARE_PAGES_TO_MOVE {
            self.move_leaf(region, place.shard, rehash);
            self.shrink(region, place.shard);
        }
    }

    /// Adds to `found` the entries from a position of a shard on, with their positions, as far as one leaf goes; answers
    /// where the next leaf begins. What is in the shard throughout a walk over all positions is seen at least once,
    /// whatever size the table takes meanwhile.
    pub(super) fn entries_from(
        &self,
        region: &Region,
        shard: u16,
        position: u32,
        found: &mut Vec<(u32, Entry)>,
    ) -> Option<u32> {
        let table = &self.tables[shard as usize];
        if table.len == 0 {
            return None;
        }
        let (old, leaf) = table.leaf_of(position);
        let layout = table.layout(old);
        if let Some(first) = line_of(layout.leaves[leaf]) {
            let (known, grid) = (layout.known(position), layout.grid(leaf));
            for line in first..first + layout.buckets() {
                for entry in region.line(line).iter().filter(|&&word| word != 0).map(|&word| Entry(word)) {
                    let at = grid.position_of(entry);
                    if at >= known {
                        found.push((at, entry));
                    }
                }
            }
        }
        layout.position_behind(leaf)
    }

    /// Makes sure that the key's leaf has a free entry if that is possible, and begins to grow what gets crowded.
    fn make_place(&mut self, region: &mut Region, bearing: Bearing, rehash: Rehash<'_>) {
        loop {
            let table = &mut self.tables[bearing.shard as usize];
            if table.current.count == 0 {
                table.current = Layout::new(1, 0, false);
                self.leaf_room += 1;
                self.pool.line_for(region, &mut table.current, bearing.shard, 0);
                return;
            }
            let (old, leaf) = table.leaf_of(bearing.position);
            let layout = table.layout(old);
            let leaf_len = layout.leaves[leaf][LEN];
            let leaf_room = layout.buckets() * BUCKET_ENTRIES;
            if table.old.is_some() {
                if leaf_len < leaf_room || self.pool.spare() < SPARE_PAGES_TO_MOVE {
                    return;
                }
                self.move_leaf(region, bearing.shard, rehash);
                continue;
            }
            // If a leaf is crowded and the table is not, the hash does not spread, and growing would not help.
            let limit = crowd(layout.class);
            let (count, class, room) = (layout.count, layout.class, layout.room());
            let crowded = leaf_len >= limit && u64::from(table.len) * 2 > room;
            let loaded = count > 1 && u64::from(table.len) * 16 > room * 15;
            if !(crowded || loaded) || count >= LEAVES_MAX {
                return;
            }
            if count == 1 && class < HALF_CLASS {
                self.rebuild(region, bearing.shard, class + 1);
            } else {
                let buckets = (room / u64::from(BUCKET_ENTRIES)) as u32;
                self.resize(region, bearing.shard, buckets + (buckets / 8).max(1));
            }
        }
    }

    /// Begins to change the number of leaves, to one for at least so many buckets.
    fn resize(&mut self, region: &Region, shard: u16, buckets: u32) {
        let table = &mut self.tables[shard as usize];
        let buckets_max = buckets * 2;
        let mut buckets = buckets;
        let counted = table.current.count <= COUNTED_LEAVES_MAX;
        let strips = counted.then(|| table.current.strips(region));
        let (class, count) = loop {
            let class = if buckets <= HALF_BUCKETS_MAX { HALF_CLASS } else { PAGE_CLASS };
            let count = buckets.div_ceil(CLASS_BUCKETS[class as usize]);
            // A leaf of a small table can get more than its share. The leaves of a large table that is to grow are so much
            // fuller in the mean that the largest new one has room.
            let fit = strips.as_ref().is_none_or(|strips| strips.fit(count, class));
            if fit || buckets >= buckets_max || count > 2 * COUNTED_LEAVES_MAX {
                break (class, count);
            }
            buckets += (buckets / 8).max(1);
        };
        let parity = !table.current.parity;
        self.leaf_room += count as usize;
        let old = std::mem::replace(&mut table.current, Layout::new(count, class, parity));
        table.old = Some(Box::new(old));
    }

    /// Goes on with a change of size by one leaf, if there is one under way.
    fn move_leaf(&mut self, region: &mut Region, shard: u16, rehash: Rehash<'_>) {
        let table = &mut self.tables[shard as usize];
        let Some(old) = &mut table.old else { return };
        let number = old.leaves.len() - 1;
        let leaf = old.leaves.pop().expect("a finished old layout is dropped");
        let mut words = [0u64; LEAF_ENTRIES as usize];
        let mut word_count = 0;
        let grid = old.grid(number);
        let read_keys = table.current.window > old.window;
        if let Some(first) = line_of(leaf) {
            for line in first..first + old.buckets() {
                for &word in region.line(line).iter().filter(|&&word| word != 0) {
                    words[word_count] = word;
                    word_count += 1;
                    if read_keys {
                        // Items lie anywhere: one after the other they would take as long as a step may.
                        rehash.approach(region, Entry(word).location());
                    }
                }
            }
        }
        for word in &mut words[..word_count] {
            let entry = Entry(*word);
            let position = if read_keys {
                (rehash.hash(region, entry.location()) >> 32) as u32
            } else {
                grid.position_of(entry)
            };
            // The tag is rewritten for the new window; the position travels in a copy beside it.
            let tag = u64::from(position >> grid_bits(table.current.window)) & TAG_MASK;
            let moved = entry.0 & !(TAG_MASK << TAG_SHIFT) | tag << TAG_SHIFT;
            let target = table.current.leaf_of(position);
            let layout = &mut table.current;
            let first = self.pool.line_for(region, layout, shard, target);
            let buckets = layout.buckets();
            if place(region, first, buckets, moved) {
                layout.leaves[target][LEN] += 1;
            } else {
                table.len -= 1;
                if let Some(lens) = &mut table.slots {
                    lens[usize::from(entry.slot_in_shard())] -= 1;
                }
                self.len -= 1;
                self.lost.push(Entry(moved));
            }
        }
        let class = old.class;
        if old.leaves.is_empty() {
            self.leaf_room -= old.count as usize;
            table.old = None;
        }
        if let Some(line) = line_of(leaf) {
            self.give_leaf(region, class, line);
        }
    }

    /// Gives a table that has one leaf a leaf of another class.
    fn rebuild(&mut self, region: &mut Region, shard: u16, class: u8) {
        let layout = &self.tables[shard as usize].current;
        let line = line_of(layout.leaves[0]).expect("a table with one leaf has its memory");
        let (before, buckets, parity) = (layout.class, layout.buckets(), layout.parity);
        let mut words = [0u64; LEAF_ENTRIES as usize];
        let mut word_count = 0;
        for line in line..line + buckets {
            for &word in region.line(line).iter().filter(|&&word| word != 0) {
                words[word_count] = word;
                word_count += 1;
            }
        }
        self.give_leaf(region, before, line);
        let line = self.pool.take_leaf(region, class, Owner::Leaf { shard, parity, leaf: 0 });
        for &word in &words[..word_count] {
            let placed = place(region, line, CLASS_BUCKETS[class as usize], word);
            assert!(placed, "the class was chosen to have room");
        }
        let layout = &mut self.tables[shard as usize].current;
        layout.class = class;
        layout.leaves[0][LINE] = line + 1;
    }

    /// Begins to shrink a table that has become much too large.
    fn shrink(&mut self, region: &mut Region, shard: u16) {
        let table = &self.tables[shard as usize];
        let (count, class, len) = (table.current.count, table.current.class, table.len);
        if table.old.is_some() || u64::from(len) * 8 >= table.current.room() * 3 {
            return;
        }
        let buckets = (len * 5).div_ceil(BUCKET_ENTRIES * 3);
        if count > 1 {
            self.resize(region, shard, buckets);
        } else if let Some(smaller) = CLASS_BUCKETS[..class as usize].iter().position(|&room| room >= buckets)
        {
            self.rebuild(region, shard, smaller as u8);
        }
    }

    fn empty_table(&mut self, region: &mut Region, shard: u16) {
        for old in [true, false] {
            let table = &self.tables[shard as usize];
            if old && table.old.is_none() {
                continue;
            }
            let layout = table.layout(old);
            let (class, count) = (layout.class, layout.leaves.len());
            self.leaf_room -= layout.count as usize;
            // One by one in the table: what moves into the gap may be another leaf of it.
            for leaf in 0..count {
                let layout = self.tables[shard as usize].layout_mut(old);
                if let Some(line) = line_of(std::mem::take(&mut layout.leaves[leaf])) {
                    self.give_leaf(region, class, line);
                }
            }
        }
        self.counted -= usize::from(self.tables[shard as usize].slots.is_some());
        self.tables[shard as usize] = Table::default();
    }

    /// Gives the memory of a leaf back; whoever's leaf moves into a gap is told.
    fn give_leaf(&mut self, region: &mut Region, class: u8, line: u32) {
        let tables = &mut self.tables;
        self.pool.give_leaf(region, class, line, &mut |shard, parity, leaf, line| {
            let table = &mut tables[shard as usize];
            let old = table.current.parity != parity;
            table.layout_mut(old).leaves[leaf as usize][LINE] = line + 1;
        });
    }
}

/// Which entries of a bucket have what `wanted` has above the location, frequency and stamp, and which are empty; a bit each.
#[inline]
fn compare(words: &[u64; 8], wanted: u64) -> (u32, u32) {
    let (fitting, free) = compare_line::<{ SLOT_SHIFT as i32 }>(words, wanted);
    (fitting & !free, free)
}

/// The bucket in which a search for a spread begins.
#[inline]
fn home(spread: u32, buckets: u32) -> u32 {
    (spread * buckets) >> 5
}

#[inline]
fn next(bucket: u32, buckets: u32) -> u32 {
    if bucket + 1 == buckets { 0 } else { bucket + 1 }
}

/// Writes a word into the first free entry from its home on; false if the leaf is full.
fn place(region: &mut Region, first: u32, buckets: u32, word: u64) -> bool {
    let mut bucket = home(Entry(word).spread(), buckets);
    for _ in 0..buckets {
        if let Some(free) = region.line_mut(first + bucket).iter_mut().find(|word| **word == 0) {
            *free = word;
            return true;
        }
        bucket = next(bucket, buckets);
    }
    false
}

/// Empties an entry and closes the gap: whoever spilled over a full bucket must stay reachable from its home without
/// passing one that is not full.
fn take_out(region: &mut Region, first: u32, buckets: u32, bucket: u32, entry: usize) {
    let (mut gap, mut gap_entry) = (bucket, entry);
    let was_full = region.line(first + gap).iter().all(|&word| word != 0);
    region.line_mut(first + gap)[gap_entry] = 0;
    if !was_full {
        return;
    }
    let mut at = gap;
    loop {
        at = next(at, buckets);
        // Of a leaf that was full the gap may have gone more than once round: who stood behind where it was may now stand before it.
        if at == gap {
            return;
        }
        let line = *region.line(first + at);
        let distance = |from: u32| (at + buckets - from) % buckets;
        let movable = line
            .iter()
            .position(|&word| word != 0 && distance(home(Entry(word).spread(), buckets)) >= distance(gap));
        let full = line.iter().all(|&word| word != 0);
        if let Some(movable) = movable {
            region.line_mut(first + gap)[gap_entry] = line[movable];
            region.line_mut(first + at)[movable] = 0;
            (gap, gap_entry) = (at, movable);
        }
        if !full {
            return;
        }
    }
}

/// The line and entry of the least used item of a full leaf.
fn coldest(region: &Region, first: u32, buckets: u32) -> (u32, usize) {
    let entries =
        (first..first + buckets).flat_map(|line| (0..BUCKET_ENTRIES as usize).map(move |i| (line, i)));
    entries
        .min_by_key(|&(line, i)| Entry(region.line(line)[i]).frequency())
        .expect("a leaf has at least one bucket")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a search from its home comes to the word before it comes to a bucket with room.
    fn reachable(region: &Region, buckets: u32, word: u64) -> bool {
        let mut bucket = home(Entry(word).spread(), buckets);
        (0..buckets).any(|_| {
            let line = region.line(bucket);
            let found = line.contains(&word);
            bucket = if line.contains(&0) { bucket } else { next(bucket, buckets) };
            found
        })
    }

    /// A gap may go round a full leaf more than once; it stopped after one round, and who stood behind it was not found any more.
    #[test]
    fn who_is_left_of_a_full_leaf_is_found() {
        let mut dice = 7u64;
        let mut roll = |bound: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % bound
        };
        let mut region = Region::reserve(1 << 20, 1 << 20).expect("a mebibyte of addresses");
        assert!(region.make_usable(1 << 16));
        for buckets in CLASS_BUCKETS {
            let room = u64::from(buckets * BUCKET_ENTRIES);
            for _ in 0..if cfg!(miri) { 2 } else { 60 } {
                let mut words = Vec::new();
                let mut count = 0;
                let mut fresh = |roll: &mut dyn FnMut(u64) -> u64| {
                    count += 1;
                    count | roll(32) << SPREAD_SHIFT
                };
                (0..buckets).for_each(|line| region.line_mut(line).fill(0));
                while (words.len() as u64) < room {
                    let word = fresh(&mut roll);
                    assert!(place(&mut region, 0, buckets, word));
                    words.push(word);
                }
                // As an insertion does into a full leaf: in the place of whoever has to go.
                for _ in 0..2 * room {
                    let (line, entry) = (roll(u64::from(buckets)) as u32, roll(8) as usize);
                    let word = fresh(&mut roll);
                    let gone = std::mem::replace(&mut region.line_mut(line)[entry], word);
                    words.retain(|&other| other != gone);
                    words.push(word);
                }
                while let Some(at) = (!words.is_empty()).then(|| roll(words.len() as u64) as usize) {
                    let gone = words.swap_remove(at);
                    let place = (0..buckets)
                        .find_map(|line| Some((line, region.line(line).iter().position(|&w| w == gone)?)));
                    let (line, entry) = place.expect("it is there");
                    take_out(&mut region, 0, buckets, line, entry);
                    for &word in &words {
                        assert!(reachable(&region, buckets, word), "{buckets} buckets, {} left", words.len());
                    }
                }
            }
        }
    }
}
