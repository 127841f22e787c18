//! The receive buffers of a core: one block of memory, cut into equal pieces that the kernel picks from a shared ring.
//!
//! ```text
//!   entries (shared with the kernel): | addr len bid | addr len bid | ...     tail ->
//!   data:                             [ piece 0 ][ piece 1 ][ piece 2 ] ...
//! ```
//! A piece belongs to the kernel from `give_back` until a completion names it; then to us until it is given back.

use io_uring::{IoUring, types::BufRingEntry};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffer group of the receive buffers; a core has one.
pub const GROUP: u16 = 0;

/// The pieces and their ring.
pub struct Buffers {
    entries: Mapping,
    data: Mapping,
    count: u16,
    piece_bytes: usize,
    tail: u16,
}

impl Buffers {
    /// Makes `count` pieces (a power of two, at most 32768) and gives all of them to the kernel.
    ///
    /// # Errors
    /// Those of mmap and of registering the ring.
    pub fn new(ring: &IoUring, count: u16, piece_bytes: usize) -> io::Result<Buffers> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let data = Mapping::new(usize::from(count) * piece_bytes)?;
        // SAFETY: the mapping has room for `count` entries, is page-aligned, and lives as long as `self`, which the core
        // drops after its ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.start as u64, count, GROUP, 0)? };
        let mut buffers = Buffers { entries, data, count, piece_bytes, tail: 0 };
        for id in 0..count {
            buffers.stage(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of a piece that a completion named.
    pub fn piece(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.piece_bytes);
        // SAFETY: the bounds are asserted above; the kernel does not write a piece between naming it in a completion
        // and getting it back, and `give_back` needs `&mut self`, so no slice is alive then.
        unsafe { std::slice::from_raw_parts(self.data.start.add(usize::from(id) * self.piece_bytes), len) }
    }

    /// As [`Buffers::piece`], to be changed: what is sealed is opened where it lies.
    pub fn piece_mut(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(id < self.count && len <= self.piece_bytes);
        // SAFETY: as in `piece`; `&mut self` keeps every other slice of the data away meanwhile.
        unsafe {
            std::slice::from_raw_parts_mut(self.data.start.add(usize::from(id) * self.piece_bytes), len)
        }
    }

    /// Gives a piece back to the kernel.
    #[inline]
    pub fn give_back(&mut self, id: u16) {
        assert!(id < self.count);
        self.stage(id);
        self.publish();
    }

    #[inline]
    fn stage(&mut self, id: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` and `id` are below `count`, so entry and piece lie within their mappings; the kernel does not
        // read the entry before the tail that covers it is published.
        unsafe {
            let entry = &mut *self.entries.start.cast::<BufRingEntry>().add(place);
            entry.set_addr(self.data.start.add(usize::from(id) * self.piece_bytes) as u64);
            entry.set_len(self.piece_bytes as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline]
    fn publish(&self) {
        // SAFETY: `tail` points into the first entry of the mapping, aligned for u16; the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.start.cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Bytes of memory it may come to use.
    pub fn byte_count(&self) -> usize {
        self.entries.len + self.data.len
    }
}

/// Anonymous memory, given back on drop.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
        // SAFETY: a fresh anonymous mapping touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start: start.cast(), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, once.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
