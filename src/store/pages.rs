//! Memory for the leaves of the index: pages of 2 KiB in chunks, and smaller blocks in some of the pages.
//!
//! Everything is dense: the pages in use are the first ones, and so are the blocks of each class. What is given back is
//! filled with the last one, and its owner is told where it lies now. So there are never more pages than needed, and whole
//! chunks come back when the index shrinks.

use super::memory::Region;

/// Buckets (cache lines) of a page, and of the largest leaf.
pub(super) const LEAF_BUCKETS: u32 = 32;
/// Buckets of the leaves of each class.
pub(super) const CLASS_BUCKETS: [u32; 9] = [1, 2, 3, 4, 6, 8, 10, 16, LEAF_BUCKETS];
/// The class of the largest leaves, which are whole pages.
pub(super) const PAGE_CLASS: u8 = CLASS_BUCKETS.len() as u8 - 1;
/// The class of the leaves of tables that have a few.
pub(super) const HALF_CLASS: u8 = PAGE_CLASS - 1;
/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = LEAF_BUCKETS as usize * 64;
/// Pages that must be spare before an insertion.
pub(super) const SPARE_PAGES: usize = 8;
/// Pages that must be spare before a leaf is moved: what it moves to, and a page for a leaf in between.
pub(super) const SPARE_PAGES_TO_MOVE: usize = 4;

/// The pages: those below `owners.len()` are in use, all others are free.
#[derive(Debug)]
pub(super) struct Pages {
    chunk_lines: u32,
    chunks: Vec<u32>,
    /// Place in `chunks` of each chunk of the region.
    ordinals: Vec<u32>,
    owners: Vec<u32>,
    classes: [Class; PAGE_CLASS as usize],
}

/// Blocks of one size below a page, dense as the pages are.
#[derive(Debug, Default)]
struct Class {
    pages: Vec<u32>,
    owners: Vec<u32>,
}

impl Pages {
    pub(super) fn new(chunk_bytes: usize) -> Pages {
        Pages {
            chunk_lines: (chunk_bytes / 64) as u32,
            chunks: Vec::new(),
            ordinals: Vec::new(),
            owners: Vec::new(),
            classes: Default::default(),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let words = self.chunks.capacity() + self.ordinals.capacity() + self.owners.capacity();
        let classes =
            self.classes.iter().map(|class| class.pages.capacity() * 4 + class.owners.capacity() * 4);
        words * 4 + classes.sum::<usize>()
    }

    fn pages_per_chunk(&self) -> usize {
        (self.chunk_lines / LEAF_BUCKETS) as usize
    }

    #[inline]
    pub(super) fn spare(&self) -> usize {
        self.chunks.len() * self.pages_per_chunk() - self.owners.len()
    }

    pub(super) fn add_chunk(&mut self, chunk: u32) {
        if self.ordinals.len() <= chunk as usize {
            self.ordinals.resize(chunk as usize + 1, 0);
        }
        self.ordinals[chunk as usize] = self.chunks.len() as u32;
        self.chunks.push(chunk);
        // By what is needed: doubling would hold much that is not used.
        self.owners.reserve_exact(self.chunks.len() * self.pages_per_chunk() - self.owners.len());
    }

    pub(super) fn give_chunk(&mut self) -> Option<u32> {
        if self.spare()
            < self.pages_per_chunk()
                + if self.owners.is_empty() { 0 } else { SPARE_PAGES + SPARE_PAGES_TO_MOVE }
        {
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

    /// Memory for a leaf, all zero.
    pub(super) fn take_leaf(&mut self, region: &mut Region, class: u8, owner: Owner) -> u32 {
        if class == PAGE_CLASS {
            return self.take_page(region, owner);
        }
        let buckets = CLASS_BUCKETS[class as usize];
        let per_page = (LEAF_BUCKETS / buckets) as usize;
        let block = self.classes[class as usize].owners.len();
        if block == self.classes[class as usize].pages.len() * per_page {
            let page = self.classes[class as usize].pages.len() as u32;
            let line = self.take_page(region, Owner::Class { class, page });
            self.classes[class as usize].pages.push(line);
        }
        let class = &mut self.classes[class as usize];
        class.owners.push(owner.pack());
        let line = class.pages[block / per_page] + (block % per_page) as u32 * buckets;
        region.bytes_mut(u64::from(line) * 64, buckets as usize * 64).fill(0);
        line
    }

    /// Takes the memory of a leaf back. `tell` hears of each leaf that moves into a gap: shard, parity, number and line.
    pub(super) fn give_leaf(
        &mut self,
        region: &mut Region,
        class: u8,
        line: u32,
        tell: &mut dyn FnMut(u16, bool, u32, u32),
    ) {
        let mut tell_owner = |owner: Owner, line: u32| {
            let Owner::Leaf { shard, parity, leaf } = owner else { unreachable!("leaves belong to tables") };
            tell(shard, parity, leaf, line);
        };
        let mut free_page = Some(line);
        if class < PAGE_CLASS {
            let (moved, free) = self.give_block(region, class, line);
            if let Some((owner, line)) = moved {
                tell_owner(owner, line);
            }
            free_page = free;
        }
        let Some(page) = free_page else { return };
        let Some((owner, line)) = self.give_page(region, page) else { return };
        match owner {
            Owner::Leaf { .. } => tell_owner(owner, line),
            Owner::Class { class, page } => {
                let buckets = CLASS_BUCKETS[class as usize];
                let per_page = (LEAF_BUCKETS / buckets) as usize;
                let class = &mut self.classes[class as usize];
                class.pages[page as usize] = line;
                let owners = class.owners.iter().skip(page as usize * per_page).take(per_page);
                for (i, &owner) in owners.enumerate() {
                    tell_owner(Owner::unpack(owner), line + i as u32 * buckets);
                }
            }
        }
    }

    /// Takes the memory of a leaf below a page back; answers which leaf moved where, and a page that has become free.
    fn give_block(
        &mut self,
        region: &mut Region,
        class: u8,
        line: u32,
    ) -> (Option<(Owner, u32)>, Option<u32>) {
        let Owner::Class { page, .. } = Owner::unpack(self.owners[self.page_of(line)]) else {
            unreachable!("blocks lie in pages of their class");
        };
        let buckets = CLASS_BUCKETS[class as usize];
        let per_page = (LEAF_BUCKETS / buckets) as usize;
        let class = &mut self.classes[class as usize];
        let block = page as usize * per_page + ((line - class.pages[page as usize]) / buckets) as usize;
        let last = class.owners.len() - 1;
        let owner = class.owners.pop().expect("the block given back is in use");
        let mut moved = None;
        if block != last {
            class.owners[block] = owner;
            let source = class.pages[last / per_page] + (last % per_page) as u32 * buckets;
            region.copy(u64::from(source) * 64, u64::from(line) * 64, buckets as usize * 64);
            moved = Some((Owner::unpack(owner), line));
        }
        let free = if last.is_multiple_of(per_page) { class.pages.pop() } else { None };
        (moved, free)
    }
}

/// Who has to be told when a page moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
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
