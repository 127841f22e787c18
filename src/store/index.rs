//! The index: which item lies where. One table per shard, so that a shard is found, walked and freed without touching
//! the others, and grows by itself.
//!
//! ```text
//! entry (8 bytes)  | tag 13 | spread 5 | slot in shard 4 | stamp 5 | frequency 2 | location 35 |
//! bucket           8 entries, one cache line; zero is an empty entry
//! leaf             32 buckets (2 KiB), or fewer (1, 2, 3, ..) while the table is that small
//! table            n leaves, ordered by the hash: leaf = position * n >> 32
//! ```
//! `position` is the upper half of the key's hash, `spread` five bits of the lower half. A leaf is found by position, a
//! bucket in it by spread; full buckets spill into the next bucket of the same leaf. Because leaves are ordered by position,
//! for every n, a place in a walk is a position, and it means the same in every size the table ever has.
//!
//! Growth goes from n leaves to about 7/6 n: the leaves of the old layout are emptied into the new one from the last to
//! the first, one with each change of the table, and lookups know from the position which layout has the key. No item
//! is read for it: an entry's tag is 13 bits of its position, which the leaf's place completes. Only when a table passes 512
//! (or 65,536) leaves does the tag have to move to lower bits, and then keys are read and hashed again, once.
//!
//! Leaves live in a pool that is kept dense (the last page fills a hole), so an index gives whole chunks back when it shrinks.

use super::memory::Region;
use crate::ids::{SHARD_COUNT, SLOTS_PER_SHARD, Slot};

/// Bits of a location.
pub(super) const LOCATION_BITS: u32 = 35;
/// Highest frequency that is counted.
pub(super) const FREQUENCY_MAX: u8 = 3;
/// Number of different stamps.
pub(super) const STAMP_COUNT: u64 = 32;
/// Pages that must be spare before an insertion.
pub(super) const SPARE_PAGES: usize = 4;
/// Bytes of a page of the pool.
pub(super) const PAGE_BYTES: usize = LEAF_BUCKETS as usize * 64;

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
const LEAF_BUCKETS: u32 = 32;
const LEAF_ENTRIES: u32 = LEAF_BUCKETS * BUCKET_ENTRIES;
/// A leaf this full asks for growth: beyond it, spilling gets long.
const LEAF_CROWDED: u32 = LEAF_ENTRIES * 24 / 25;
/// Buckets of the leaf of a table that has only one.
const CLASS_BUCKETS: [u32; 9] = [1, 2, 3, 4, 6, 8, 10, 16, LEAF_BUCKETS];
/// The class of full leaves, which are whole pages.
const LEAF_CLASS: u8 = CLASS_BUCKETS.len() as u8 - 1;
/// Most leaves of one table: as many as an owner note can count.
const LEAVES_MAX: u32 = 1 << 20;
const NO_LINE: u32 = u32::MAX;

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
            position: (hash >> 32) as u32,
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

#[derive(Clone, Copy, Debug)]
struct Leaf {
    /// First cache line, or `NO_LINE`.
    line: u32,
    len: u32,
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
        Layout { leaves: vec![Leaf { line: NO_LINE, len: 0 }; count as usize], count, class, window, parity }
    }

    #[inline]
    fn leaf_of(&self, position: u32) -> usize {
        (u64::from(self.known(position)) * u64::from(self.count) >> 32) as usize
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

    /// The known part of the position of an entry that is in this leaf.
    fn position_of(&self, leaf: usize, entry: Entry) -> u32 {
        let bits = grid_bits(self.window);
        let start = ((leaf as u64) << 32).div_ceil(u64::from(self.count));
        let first = start.div_ceil(1 << bits);
        let tag = entry.0 >> TAG_SHIFT;
        ((first + (tag.wrapping_sub(first) & TAG_MASK)) << bits) as u32
    }

    /// The first position that belongs to the leaf behind this one; nothing at the end.
    fn position_behind(&self, leaf: usize) -> Option<u32> {
        let bits = grid_bits(self.window);
        let start = ((leaf as u64 + 1) << 32).div_ceil(u64::from(self.count));
        u32::try_from(start.div_ceil(1 << bits) << bits).ok()
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
    slot_lens: [u32; SLOTS_PER_SHARD as usize],
}

impl Table {
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
    pool: Pool,
    len: u64,
    /// Leaves that all layouts have room for, for the account.
    leaf_room: usize,
    /// Entries that a crowded leaf had no room for.
    lost: Vec<Entry>,
}

/// How the index reads the hash of the key of an item at a location.
pub(super) type Rehash<'a> = &'a dyn Fn(&Region, u64) -> u64;

impl Index {
    pub(super) fn new(chunk_bytes: usize) -> Index {
        Index {
            tables: (0..SHARD_COUNT).map(|_| Table::default()).collect(),
            pool: Pool::new(chunk_bytes),
            len: 0,
            leaf_room: 0,
            lost: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn slot_len(&self, slot: Slot) -> u64 {
        let table = &self.tables[slot.shard().number() as usize];
        u64::from(table.slot_lens[(slot.number() % SLOTS_PER_SHARD) as usize])
    }

    pub(super) fn shard_len(&self, shard: u16) -> u32 {
        self.tables[shard as usize].len
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> u64 {
        let tables = self.tables.len() * size_of::<Table>();
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
        let table = &self.tables[bearing.shard as usize];
        if table.len == 0 {
            return None;
        }
        let (old, leaf) = table.leaf_of(bearing.position);
        let layout = table.layout(old);
        let first = layout.leaves[leaf].line;
        if first == NO_LINE {
            return None;
        }
        let wanted = bearing.upper(layout.window);
        let buckets = layout.buckets();
        let mut bucket = home(u32::from(bearing.spread), buckets);
        for _ in 0..buckets {
            let line = first + bucket;
            let mut full = true;
            for (i, &word) in region.line(line).iter().enumerate() {
                full &= word != 0;
                if (word ^ wanted) >> SLOT_SHIFT == 0 && word != 0 && same(Entry(word).location()) {
                    let place =
                        Place { shard: bearing.shard, old, leaf: leaf as u32, bucket, line, entry: i as u8 };
                    return Some((place, Entry(word)));
                }
            }
            if !full {
                return None;
            }
            bucket = next(bucket, buckets);
        }
        None
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
        if layout.leaves[leaf].line == NO_LINE {
            let owner = Owner::Leaf { shard, parity: layout.parity, leaf: leaf as u32 };
            layout.leaves[leaf].line = self.pool.take_page(region, owner);
        }
        let buckets = layout.buckets();
        let leaf = &mut layout.leaves[leaf];
        if !place(region, leaf.line, buckets, word) {
            let victim = coldest(region, leaf.line, buckets);
            let word_lost = std::mem::replace(&mut region.line_mut(victim.0)[victim.1], 0);
            table.slot_lens[Entry(word_lost).slot_in_shard() as usize] -= 1;
            table.len -= 1;
            self.len -= 1;
            self.lost.push(Entry(word_lost));
            // The victim's bucket may lie behind a full one, so the word goes exactly there; every bucket is full, so it
            // is found from its home.
            region.line_mut(victim.0)[victim.1] = word;
        } else {
            leaf.len += 1;
        }
        table.slot_lens[bearing.slot as usize] += 1;
        table.len += 1;
        self.len += 1;
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
        take_out(region, leaf.line, buckets, place.bucket, place.entry as usize);
        leaf.len -= 1;
        table.slot_lens[entry.slot_in_shard() as usize] -= 1;
        table.len -= 1;
        self.len -= 1;
        if table.len == 0 {
            self.empty_table(region, place.shard);
        } else if self.pool.spare() >= SPARE_PAGES {
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
        let first = layout.leaves[leaf].line;
        if first != NO_LINE {
            let known = layout.known(position);
            for line in first..first + layout.buckets() {
                for entry in region.line(line).iter().filter(|&&word| word != 0).map(|&word| Entry(word)) {
                    let at = layout.position_of(leaf, entry);
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
            if table.len == 0 && table.current.count == 0 {
                table.current = Layout::new(1, 0, false);
                self.leaf_room += 1;
                table.current.leaves[0].line = self.pool.take_block(region, 0, bearing.shard);
                return;
            }
            let (old, leaf) = table.leaf_of(bearing.position);
            let layout = table.layout(old);
            let leaf_len = layout.leaves[leaf].len;
            if layout.class < LEAF_CLASS {
                let room = layout.buckets() * BUCKET_ENTRIES;
                if leaf_len < if room == BUCKET_ENTRIES { room } else { room * 15 / 16 } {
                    return;
                }
                let class = layout.class + 1;
                self.rebuild(region, bearing.shard, class);
                continue;
            }
            let (len, count) = (table.len, table.current.count);
            if table.old.is_some() {
                if leaf_len < LEAF_ENTRIES || self.pool.spare() < SPARE_PAGES {
                    return;
                }
                self.move_leaf(region, bearing.shard, rehash);
                continue;
            }
            // Crowded though the table is not: the hash does not spread, and growing would not help.
            let worth = u64::from(len) * 2 > u64::from(count * LEAF_ENTRIES);
            let crowded = leaf_len >= LEAF_CROWDED && worth;
            let loaded = count > 1 && u64::from(len) * 8 > u64::from(count * LEAF_ENTRIES) * 7;
            if (crowded || loaded) && count < LEAVES_MAX {
                self.resize(bearing.shard, count + (count / 6).max(1));
                continue;
            }
            return;
        }
    }

    /// Begins to change the number of leaves.
    fn resize(&mut self, shard: u16, count: u32) {
        let table = &mut self.tables[shard as usize];
        let parity = !table.current.parity;
        self.leaf_room += count as usize;
        let old = std::mem::replace(&mut table.current, Layout::new(count, LEAF_CLASS, parity));
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
        if leaf.line != NO_LINE {
            for line in leaf.line..leaf.line + LEAF_BUCKETS {
                for &word in region.line(line).iter().filter(|&&word| word != 0) {
                    words[word_count] = word;
                    word_count += 1;
                }
            }
        }
        let read_keys = table.current.window > old.window;
        for word in &mut words[..word_count] {
            let entry = Entry(*word);
            let position = if read_keys {
                (rehash(region, entry.location()) >> 32) as u32
            } else {
                old.position_of(number, entry)
            };
            // The tag is rewritten for the new window; the position travels in a copy beside it.
            let tag = u64::from(position >> grid_bits(table.current.window)) & TAG_MASK;
            let moved = entry.0 & !(TAG_MASK << TAG_SHIFT) | tag << TAG_SHIFT;
            let target = table.current.leaf_of(position);
            let layout = &mut table.current;
            if layout.leaves[target].line == NO_LINE {
                let owner = Owner::Leaf { shard, parity: layout.parity, leaf: target as u32 };
                layout.leaves[target].line = self.pool.take_page(region, owner);
            }
            let target = &mut layout.leaves[target];
            if place(region, target.line, LEAF_BUCKETS, moved) {
                target.len += 1;
            } else {
                table.slot_lens[entry.slot_in_shard() as usize] -= 1;
                table.len -= 1;
                self.len -= 1;
                self.lost.push(Entry(moved));
            }
        }
        if old.leaves.is_empty() {
            self.leaf_room -= old.count as usize;
            table.old = None;
        }
        if leaf.line != NO_LINE {
            self.give_page(region, leaf.line);
        }
    }

    /// Gives a table that has one leaf a leaf of another class.
    fn rebuild(&mut self, region: &mut Region, shard: u16, class: u8) {
        let layout = &self.tables[shard as usize].current;
        let (before, line, buckets, parity) =
            (layout.class, layout.leaves[0].line, layout.buckets(), layout.parity);
        let mut words = [0u64; LEAF_ENTRIES as usize];
        let mut word_count = 0;
        for line in line..line + buckets {
            for &word in region.line(line).iter().filter(|&&word| word != 0) {
                words[word_count] = word;
                word_count += 1;
            }
        }
        if before == LEAF_CLASS {
            self.give_page(region, line);
        } else {
            self.give_block(region, before, line);
        }
        let line = if class == LEAF_CLASS {
            self.pool.take_page(region, Owner::Leaf { shard, parity, leaf: 0 })
        } else {
            self.pool.take_block(region, class, shard)
        };
        for &word in &words[..word_count] {
            let placed = place(region, line, CLASS_BUCKETS[class as usize], word);
            assert!(placed, "the class was chosen to have room");
        }
        let layout = &mut self.tables[shard as usize].current;
        layout.class = class;
        layout.leaves[0].line = line;
    }

    /// Begins to shrink a table that has become much too large.
    fn shrink(&mut self, region: &mut Region, shard: u16) {
        let table = &self.tables[shard as usize];
        let (count, class, len) = (table.current.count, table.current.class, table.len);
        if table.old.is_some() {
            return;
        }
        if count > 1 {
            if u64::from(len) * 8 < u64::from(count) * u64::from(LEAF_ENTRIES) * 3 {
                self.resize(shard, (len * 5).div_ceil(LEAF_ENTRIES * 3).clamp(1, count - 1));
            }
        } else if len * 8 < CLASS_BUCKETS[class as usize] * BUCKET_ENTRIES * 3 && class > 0 {
            let smaller = CLASS_BUCKETS.iter().position(|&buckets| len * 4 < buckets * BUCKET_ENTRIES * 3);
            let smaller = smaller.unwrap_or(class as usize) as u8;
            if smaller < class {
                self.rebuild(region, shard, smaller);
            }
        }
    }

    fn empty_table(&mut self, region: &mut Region, shard: u16) {
        let table = std::mem::take(&mut self.tables[shard as usize]);
        for layout in [Some(table.current), table.old.map(|old| *old)].into_iter().flatten() {
            self.leaf_room -= layout.count as usize;
            for leaf in layout.leaves.iter().filter(|leaf| leaf.line != NO_LINE) {
                if layout.class == LEAF_CLASS {
                    self.give_page(region, leaf.line);
                } else {
                    self.give_block(region, layout.class, leaf.line);
                }
            }
        }
    }

    /// Gives a page back; the pool's last page moves into its place.
    fn give_page(&mut self, region: &mut Region, line: u32) {
        let Some((owner, line)) = self.pool.give_page(region, line) else { return };
        match owner {
            Owner::Leaf { shard, parity, leaf } => {
                let table = &mut self.tables[shard as usize];
                let old = table.current.parity != parity;
                table.layout_mut(old).leaves[leaf as usize].line = line;
            }
            Owner::Class { class, page } => {
                self.pool.classes[class as usize].pages[page as usize] = line;
                for (shard, line) in self.pool.blocks_of_page(class, page) {
                    self.tables[shard as usize].current.leaves[0].line = line;
                }
            }
        }
    }

    /// Gives a block of a small class back; the class's last block moves into its place.
    fn give_block(&mut self, region: &mut Region, class: u8, line: u32) {
        let (moved, page) = self.pool.give_block(region, class, line);
        if let Some((shard, line)) = moved {
            self.tables[shard as usize].current.leaves[0].line = line;
        }
        if let Some(page) = page {
            self.give_page(region, page);
        }
    }
}

/// The bucket in which a search for a spread begins.
#[inline]
fn home(spread: u32, buckets: u32) -> u32 {
    spread * buckets >> 5
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
    for _ in 1..buckets {
        at = next(at, buckets);
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

/// Who has to be told when a page moves.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Leaf { shard: u16, parity: bool, leaf: u32 },
    Class { class: u8, page: u32 },
}

impl Owner {
    fn pack(self) -> u32 {
        match self {
            Owner::Leaf { shard, parity, leaf } => u32::from(shard) << 21 | u32::from(parity) << 20 | leaf,
            Owner::Class { class, page } => 1 << 31 | u32::from(class) << 24 | page,
        }
    }

    fn unpack(packed: u32) -> Owner {
        if packed >> 31 == 0 {
            let (shard, parity) = ((packed >> 21) as u16, packed >> 20 & 1 == 1);
            Owner::Leaf { shard, parity, leaf: packed & 0xF_FFFF }
        } else {
            Owner::Class { class: (packed >> 24 & 0x7F) as u8, page: packed & 0xFF_FFFF }
        }
    }
}

/// Pages of 2 KiB in chunks, dense: page numbers below `owners.len()` are in use, all others are free.
#[derive(Debug)]
struct Pool {
    chunk_lines: u32,
    chunks: Vec<u32>,
    /// Place in `chunks` of each chunk of the region.
    ordinals: Vec<u32>,
    owners: Vec<u32>,
    classes: [Class; LEAF_CLASS as usize],
}

/// Blocks of one size below a page, dense as the pages are.
#[derive(Debug, Default)]
struct Class {
    pages: Vec<u32>,
    owners: Vec<u16>,
}

impl Pool {
    fn new(chunk_bytes: usize) -> Pool {
        Pool {
            chunk_lines: (chunk_bytes / 64) as u32,
            chunks: Vec::new(),
            ordinals: Vec::new(),
            owners: Vec::new(),
            classes: Default::default(),
        }
    }

    fn heap_bytes(&self) -> usize {
        let words = self.chunks.capacity() + self.ordinals.capacity() + self.owners.capacity();
        let classes =
            self.classes.iter().map(|class| class.pages.capacity() * 4 + class.owners.capacity() * 2);
        words * 4 + classes.sum::<usize>()
    }

    fn pages_per_chunk(&self) -> usize {
        (self.chunk_lines / LEAF_BUCKETS) as usize
    }

    #[inline]
    fn spare(&self) -> usize {
        self.chunks.len() * self.pages_per_chunk() - self.owners.len()
    }

    fn add_chunk(&mut self, chunk: u32) {
        if self.ordinals.len() <= chunk as usize {
            self.ordinals.resize(chunk as usize + 1, 0);
        }
        self.ordinals[chunk as usize] = self.chunks.len() as u32;
        self.chunks.push(chunk);
    }

    fn give_chunk(&mut self) -> Option<u32> {
        if self.spare() < self.pages_per_chunk() + if self.owners.is_empty() { 0 } else { 2 * SPARE_PAGES } {
            return None;
        }
        self.chunks.pop()
    }

    fn line_of(&self, page: usize) -> u32 {
        let per_chunk = self.pages_per_chunk();
        self.chunks[page / per_chunk] * self.chunk_lines + (page % per_chunk) as u32 * LEAF_BUCKETS
    }

    fn page_of(&self, line: u32) -> usize {
        let ordinal = self.ordinals[(line / self.chunk_lines) as usize] as usize;
        ordinal * self.pages_per_chunk() + (line % self.chunk_lines / LEAF_BUCKETS) as usize
    }

    /// A page of zeros.
    fn take_page(&mut self, region: &mut Region, owner: Owner) -> u32 {
        assert!(self.spare() > 0, "spare pages are seen to before the index changes");
        let line = self.line_of(self.owners.len());
        self.owners.push(owner.pack());
        region.bytes_mut(u64::from(line) * 64, PAGE_BYTES).fill(0);
        line
    }

    fn give_page(&mut self, region: &mut Region, line: u32) -> Option<(Owner, u32)> {
        let (page, last) = (self.page_of(line), self.owners.len() - 1);
        let owner = self.owners.pop().expect("the page given back is in use");
        if page == last {
            return None;
        }
        self.owners[page] = owner;
        region.copy(u64::from(self.line_of(last)) * 64, u64::from(line) * 64, PAGE_BYTES);
        Some((Owner::unpack(owner), line))
    }

    /// A block of zeros.
    fn take_block(&mut self, region: &mut Region, class: u8, shard: u16) -> u32 {
        let buckets = CLASS_BUCKETS[class as usize];
        let per_page = (LEAF_BUCKETS / buckets) as usize;
        let block = self.classes[class as usize].owners.len();
        if block == self.classes[class as usize].pages.len() * per_page {
            let page = self.classes[class as usize].pages.len() as u32;
            let line = self.take_page(region, Owner::Class { class, page });
            self.classes[class as usize].pages.push(line);
        }
        let class = &mut self.classes[class as usize];
        class.owners.push(shard);
        let line = class.pages[block / per_page] + (block % per_page) as u32 * buckets;
        region.bytes_mut(u64::from(line) * 64, buckets as usize * 64).fill(0);
        line
    }

    /// Gives a block back; answers which shard's block moved where, and a page that has become free.
    fn give_block(&mut self, region: &mut Region, class: u8, line: u32) -> (Option<(u16, u32)>, Option<u32>) {
        let Owner::Class { page, .. } = Owner::unpack(self.owners[self.page_of(line)]) else {
            unreachable!("blocks lie in pages of their class");
        };
        let buckets = CLASS_BUCKETS[class as usize];
        let per_page = (LEAF_BUCKETS / buckets) as usize;
        let class = &mut self.classes[class as usize];
        let block = page as usize * per_page + ((line - class.pages[page as usize]) / buckets) as usize;
        let last = class.owners.len() - 1;
        let shard = class.owners.pop().expect("the block given back is in use");
        let mut moved = None;
        if block != last {
            class.owners[block] = shard;
            let source = class.pages[last / per_page] + (last % per_page) as u32 * buckets;
            region.copy(u64::from(source) * 64, u64::from(line) * 64, buckets as usize * 64);
            moved = Some((shard, line));
        }
        let free = if last % per_page == 0 { class.pages.pop() } else { None };
        (moved, free)
    }

    /// Shard and line of each block of a class's page.
    fn blocks_of_page(&self, class: u8, page: u32) -> Vec<(u16, u32)> {
        let buckets = CLASS_BUCKETS[class as usize];
        let per_page = (LEAF_BUCKETS / buckets) as usize;
        let class = &self.classes[class as usize];
        let owners = class.owners.iter().skip(page as usize * per_page).take(per_page);
        owners
            .enumerate()
            .map(|(i, &shard)| (shard, class.pages[page as usize] + i as u32 * buckets))
            .collect()
    }
}
