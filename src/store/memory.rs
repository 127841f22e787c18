//! Memory from the system, behind a door that is safe: one region reserved up front and made usable piece by piece, and
//! mappings of their own for large values. All `unsafe` of the store is in this file.
//!
//! ```text
//! region  |<------------- reserved: addresses only, costs nothing -------------->|
//!         |<--- usable: reads as zero until written --->|     (no access)        |
//!              released pieces stay usable and read as zero again
//! ```
//! What makes it safe:
//! 1. `base .. base + usable` is mapped readable and writable from the moment `usable` grows until the region is dropped.
//! 2. Fresh and released memory reads as zero, so every usable byte is initialised, and any bytes are a valid `u8`/`u64`.
//! 3. References are handed out only below `usable` (checked on every call), shared from `&self`, exclusive from
//!    `&mut self`, so the borrow checker sees the region as one slice.
//!
//! Under Miri the region is a heap allocation with the same rules. How segments can live in a memfd that a successor process
//! is handed is in `docs/decisions/0002-warm-restart-by-memfd.md`: nothing but this file would know.

use crate::request::Memory;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the system hands out memory in.
pub(super) const PAGE_BYTES: usize = 4096;

/// Reserved addresses, usable from the front on.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    reserved: usize,
    usable: usize,
}

// SAFETY: the region is the only owner of its memory, and nothing in it is bound to a thread.
unsafe impl Send for Region {}

/// Asks the processor to fetch the cache line of a place that is about to be read; a hint that reads nothing.
#[inline]
pub(super) fn prefetch<T>(place: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the instruction is part of every x86-64 and never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

/// Which words of a line equal `wanted` from bit `SHIFT` (32 or more) on, and which are zero; a bit each.
#[inline]
pub(super) fn compare_line<const SHIFT: i32>(words: &[u64; 8], wanted: u64) -> (u32, u32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions are part of every x86-64, and only values are given to them.
    unsafe {
        compare_in_fours::<SHIFT>(words, wanted)
    }
    #[cfg(not(target_arch = "x86_64"))]
    compare_singly::<SHIFT>(words, wanted)
}

/// Every x86-64 compares four halves of words at once, but not whole words.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn compare_in_fours<const SHIFT: i32>(words: &[u64; 8], wanted: u64) -> (u32, u32) {
    use std::arch::x86_64::{
        __m128i, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_cvtsi32_si128, _mm_movemask_ps,
        _mm_or_si128, _mm_set_epi64x, _mm_set1_epi32, _mm_setzero_si128, _mm_shuffle_ps, _mm_srl_epi32,
        _mm_xor_si128,
    };
    let shift = _mm_cvtsi32_si128(SHIFT - 32);
    let wanted = _mm_set1_epi32((wanted >> 32) as i32);
    let pair = |at: usize| _mm_castsi128_ps(_mm_set_epi64x(words[at + 1] as i64, words[at] as i64));
    let zeros =
        |of: __m128i| _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(of, _mm_setzero_si128()))) as u32;
    let four = |at: usize| {
        let (left, right) = (pair(at), pair(at + 2));
        let lower = _mm_castps_si128(_mm_shuffle_ps::<0b10_00_10_00>(left, right));
        let upper = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(left, right));
        let equal = zeros(_mm_srl_epi32(_mm_xor_si128(upper, wanted), shift));
        (equal, zeros(_mm_or_si128(lower, upper)))
    };
    let ((equal, zero), (more_equal, more_zero)) = (four(0), four(4));
    (equal | more_equal << 4, zero | more_zero << 4)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn compare_singly<const SHIFT: i32>(words: &[u64; 8], wanted: u64) -> (u32, u32) {
    let (mut equal, mut zero) = (0, 0);
    for (i, &word) in words.iter().enumerate() {
        equal |= u32::from((word ^ wanted) >> SHIFT == 0) << i;
        zero |= u32::from(word == 0) << i;
    }
    (equal, zero)
}

impl Region {
    /// Reserves `wanted` bytes of addresses, or less if the process may not have so many, but at least `least`.
    pub(super) fn reserve(wanted: usize, least: usize) -> Option<Region> {
        let least = least.next_multiple_of(PAGE_BYTES);
        let mut bytes = if cfg!(miri) { least } else { wanted.next_multiple_of(PAGE_BYTES).max(least) };
        loop {
            if let Some(base) = system::reserve(bytes) {
                return Some(Region { base, reserved: bytes, usable: 0 });
            }
            if bytes == least {
                return None;
            }
            bytes = (bytes / 2).next_multiple_of(PAGE_BYTES).max(least);
        }
    }

    /// Bytes of addresses.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Makes everything below `end` usable; false if the system refuses or `end` lies outside.
    pub(super) fn make_usable(&mut self, end: usize) -> bool {
        let end = end.next_multiple_of(PAGE_BYTES);
        if end <= self.usable {
            return true;
        }
        if end > self.reserved {
            return false;
        }
        // SAFETY: `usable <= end <= reserved` (checked above; `usable` starts at 0 and only grows here), so the range lies
        // within the reservation that `self` owns.
        let done = unsafe { system::open(self.base.as_ptr().add(self.usable), end - self.usable) };
        if done {
            self.usable = end;
        }
        done
    }

    /// Gives the memory of a usable range of whole pages back to the system; it reads as zero from then on.
    pub(super) fn release(&mut self, at: u64, len: usize) {
        let at = self.checked(at, len);
        assert!(at.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES), "whole pages only");
        // SAFETY: `checked` made sure that the range is usable; `&mut self` that nobody holds a reference into it.
        unsafe { system::forget(self.base.as_ptr().add(at), len) };
    }

    /// Has the system put memory behind a usable range of whole pages now, rather than at its first use. A hint: it reads the
    /// same before and after.
    pub(super) fn populate(&mut self, at: u64, len: usize) {
        let at = self.checked(at, len);
        assert!(at.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES), "whole pages only");
        // SAFETY: `checked` made sure that the range is usable; `&mut self` that nobody holds a reference into it.
        unsafe { system::populate(self.base.as_ptr().add(at), len) };
    }

    /// Usable bytes.
    #[inline]
    pub(super) fn bytes(&self, at: u64, len: usize) -> &[u8] {
        let at = self.checked(at, len);
        // SAFETY: `checked` made sure that `at + len <= usable`: mapped and initialised (points 1 and 2 of the head); shared
        // with `&self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), len) }
    }

    /// Usable bytes, to be written.
    #[inline]
    pub(super) fn bytes_mut(&mut self, at: u64, len: usize) -> &mut [u8] {
        let at = self.checked(at, len);
        // SAFETY: as in `bytes`; exclusive with `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), len) }
    }

    /// The cache line of eight words at `line * 64`.
    #[inline]
    pub(super) fn line(&self, line: u32) -> &[u64; 8] {
        let at = self.checked(u64::from(line) * 64, 64);
        // SAFETY: `checked` made sure that the 64 bytes are usable; the base is aligned to a page and `at` to 64, so the
        // words are aligned; shared with `&self`.
        unsafe { &*self.base.as_ptr().add(at).cast::<[u64; 8]>() }
    }

    /// The cache line of eight words at `line * 64`, to be written.
    #[inline]
    pub(super) fn line_mut(&mut self, line: u32) -> &mut [u64; 8] {
        let at = self.checked(u64::from(line) * 64, 64);
        // SAFETY: as in `line`; exclusive with `&mut self`.
        unsafe { &mut *self.base.as_ptr().add(at).cast::<[u64; 8]>() }
    }

    /// Asks the processor to fetch the cache line at an offset that is about to be read; a hint that reads nothing.
    #[inline]
    pub(super) fn prefetch(&self, at: u64) {
        prefetch(self.base.as_ptr().wrapping_add(at as usize).cast_const());
    }

    /// Copies usable bytes to another usable place; the places may overlap.
    pub(super) fn copy(&mut self, source: u64, target: u64, len: usize) {
        let (source, target) = (self.checked(source, len), self.checked(target, len));
        // SAFETY: both ranges are usable (`checked`); `copy` allows overlap; `&mut self` excludes references.
        unsafe { std::ptr::copy(self.base.as_ptr().add(source), self.base.as_ptr().add(target), len) };
    }

    /// The range as an offset, if it is usable; everything that touches memory passes here.
    #[inline]
    fn checked(&self, at: u64, len: usize) -> usize {
        let at = at as usize;
        assert!(len <= self.usable && at <= self.usable - len, "beyond the usable part of the region");
        at
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the reservation is owned by `self` and ends with it; references into it borrow `self`.
        unsafe { system::end(self.base, self.reserved) };
    }
}

/// Memory that is asked for at once for what is pushed to a mapping.
const POPULATED_BYTES: usize = 16 * PAGE_BYTES;

/// Memory of its own for one large value.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    mapped: usize,
    used: usize,
    /// Bytes that have memory behind them, as far as [`Mapping::place`] asked for it.
    populated: usize,
    /// What it held is gone; said by the store to readers on other cores.
    gone: AtomicBool,
    /// The store of another core has room for it; said to the one that received it.
    adopted: AtomicBool,
}

// SAFETY: the mapping is the only owner of its memory, and nothing in it is bound to a thread.
unsafe impl Send for Mapping {}

// SAFETY: a shared reference only reads (`bytes`); all that changes the memory takes `&mut self`.
unsafe impl Sync for Mapping {}

impl Memory for Mapping {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes(self.mapped)
    }
}

impl Mapping {
    /// A mapping of at least `len` bytes (and at least one), all zero; nothing if the system refuses.
    pub(super) fn new(len: usize) -> Option<Mapping> {
        let mapped = Mapping::rounded(len);
        let base = system::reserve(mapped)?;
        // SAFETY: the range was just reserved with this length.
        if unsafe { system::open(base.as_ptr(), mapped) } {
            let (gone, adopted) = (AtomicBool::new(false), AtomicBool::new(false));
            return Some(Mapping { base, mapped, used: 0, populated: 0, gone, adopted });
        }
        // SAFETY: reserved above, with this length, and not handed out.
        unsafe { system::end(base, mapped) };
        None
    }

    /// Bytes that a mapping for `len` bytes takes.
    pub(super) const fn rounded(len: usize) -> usize {
        let len = if len == 0 { 1 } else { len };
        len.next_multiple_of(PAGE_BYTES)
    }

    /// Says that what it held is gone.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Says that whoever sent it need not count it any more.
    pub(super) fn set_adopted(&self) {
        self.adopted.store(true, Ordering::Relaxed);
    }

    /// Whether that was said.
    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::Relaxed)
    }

    /// Bytes it takes.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// The next bytes behind those in use, this many or as many as there are, to be written before [`Mapping::advance`].
    pub(super) fn place(&mut self, len: usize) -> &mut [u8] {
        let (at, len) = (self.used, len.min(self.mapped - self.used));
        while self.populated < at + len {
            // Asked for in pieces it costs the system a fraction of what a fault for each page would.
            let piece = POPULATED_BYTES.min(self.mapped - self.populated);
            // SAFETY: `populated + piece <= mapped` (above), whole pages both; `&mut self` excludes references.
            unsafe { system::populate(self.base.as_ptr().add(self.populated), piece) };
            self.populated += piece;
        }
        &mut self.bytes_mut()[at..at + len]
    }

    /// Takes in that so many bytes were written to the place behind those in use.
    pub(super) fn advance(&mut self, len: usize) {
        assert!(len <= self.populated - self.used, "beyond the place that was given");
        self.used += len;
    }

    /// Bytes in use, as far as [`Mapping::advance`] brought them.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that have memory behind them, the same.
    pub(super) fn populated(&self) -> usize {
        self.populated
    }

    /// The first `len` bytes.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.mapped, "beyond the mapping");
        // SAFETY: `len <= mapped` (above), mapped from `new` to `drop`, zero-initialised; shared with `&self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len) }
    }

    /// All bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; exclusive with `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.mapped) }
    }

    /// Gives the pages of a range back ahead of the mapping's end of life (it reads as zero from then on), so that a huge
    /// value can go in steps.
    pub(super) fn release(&mut self, at: usize, len: usize) {
        assert!(
            at.is_multiple_of(PAGE_BYTES) && len <= self.mapped && at <= self.mapped - len,
            "beyond the mapping"
        );
        // SAFETY: the range lies within the mapping (above); `&mut self` excludes references.
        unsafe { system::forget(self.base.as_ptr().add(at), len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned by `self` and ends with it; references into it borrow `self`.
        unsafe { system::end(self.base, self.mapped) };
    }
}

#[cfg(not(miri))]
mod system {
    use std::ptr::NonNull;

    /// Addresses without memory and without access. Small pages only, whatever the system's default: a huge one is zeroed in
    /// one go at its first use, some 160 us and at times milliseconds, and brings memory back that was released in smaller
    /// pieces, beyond what the store counts.
    pub(super) fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: an anonymous mapping at an address of the kernel's choosing touches nothing that exists.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping is new and nobody else's; advice, which a kernel without huge pages refuses to no harm.
        let _ = unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
        NonNull::new(base.cast())
    }

    /// Allows access.
    ///
    /// # Safety
    /// The range is whole pages of a reservation of the caller's.
    pub(super) unsafe fn open(at: *mut u8, len: usize) -> bool {
        // SAFETY: by contract the range is the caller's; widening access breaks no reference.
        unsafe { libc::mprotect(at.cast(), len, libc::PROT_READ | libc::PROT_WRITE) == 0 }
    }

    /// Drops contents; zero from then on.
    ///
    /// # Safety
    /// The range is accessible whole pages of the caller's, and nobody holds a reference into it.
    pub(super) unsafe fn forget(at: *mut u8, len: usize) {
        // SAFETY: by contract. Private anonymous memory reads as zero after MADV_DONTNEED.
        let done = unsafe { libc::madvise(at.cast(), len, libc::MADV_DONTNEED) };
        assert!(done == 0, "MADV_DONTNEED on our own anonymous memory does not fail");
    }

    /// Puts memory behind pages; contents stay as they are.
    ///
    /// # Safety
    /// The range is accessible whole pages of the caller's, and nobody holds a reference into it.
    pub(super) unsafe fn populate(at: *mut u8, len: usize) {
        // SAFETY: by contract. It writes no byte; where there is no memory left, or no such call, the first use will tell.
        let _ = unsafe { libc::madvise(at.cast(), len, libc::MADV_POPULATE_WRITE) };
    }

    /// # Safety
    /// The range is a whole reservation of the caller's that is not used any more.
    pub(super) unsafe fn end(base: NonNull<u8>, bytes: usize) {
        // SAFETY: by contract.
        let done = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
        assert!(done == 0, "munmap of our own mapping does not fail");
    }
}

#[cfg(miri)]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, super::PAGE_BYTES).expect("sizes are far below the address space")
    }

    pub(super) fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: callers reserve at least one page, so the layout is not empty.
        NonNull::new(unsafe { alloc_zeroed(layout(bytes)) })
    }

    /// # Safety
    /// None needed: the heap is accessible.
    pub(super) unsafe fn open(_at: *mut u8, _len: usize) -> bool {
        true
    }

    /// # Safety
    /// The range is the caller's, and nobody holds a reference into it.
    pub(super) unsafe fn forget(at: *mut u8, len: usize) {
        // SAFETY: by contract.
        unsafe { std::ptr::write_bytes(at, 0, len) };
    }

    /// # Safety
    /// None needed: the heap has its memory.
    pub(super) unsafe fn populate(_at: *mut u8, _len: usize) {}

    /// # Safety
    /// The allocation is the caller's, made by `reserve` with this length.
    pub(super) unsafe fn end(base: NonNull<u8>, bytes: usize) {
        // SAFETY: by contract.
        unsafe { dealloc(base.as_ptr(), layout(bytes)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_four_halves_at_once_equals_comparing_singly() {
        const SHIFT: i32 = 42;
        // A walk over words that are empty, equal, one bit off, small, or anything.
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let (mut equals, mut zeros) = (0, 0);
        for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
            let wanted = next();
            let words: [u64; 8] = std::array::from_fn(|_| match next() % 5 {
                0 => 0,
                1 => wanted >> SHIFT << SHIFT | next() >> (64 - SHIFT),
                2 => wanted ^ 1 << (next() % 64),
                3 => next() & u64::from(u32::MAX),
                _ => next(),
            });
            for wanted in [wanted, 0, words[0]] {
                let found = compare_line::<SHIFT>(&words, wanted);
                assert_eq!(found, compare_singly::<SHIFT>(&words, wanted), "{wanted:x} in {words:x?}");
                equals += found.0.count_ones();
                zeros += found.1.count_ones();
            }
        }
        assert!(equals > 100 && zeros > 100, "{equals} and {zeros}: the walk shows nothing");
    }

    #[test]
    fn a_region_is_zero_until_written_and_after_it_was_released() {
        let mut region = Region::reserve(1 << 20, 1 << 16).expect("a small reservation");
        assert!(region.make_usable(2 * PAGE_BYTES));
        assert!(region.bytes(0, 2 * PAGE_BYTES).iter().all(|&b| b == 0));
        region.bytes_mut(10, 3).copy_from_slice(b"abc");
        region.line_mut(2)[7] = u64::MAX;
        region.copy(10, 5000, 3);
        assert_eq!(region.bytes(5000, 3), b"abc");
        assert_eq!(region.bytes(184, 8), &[0xFF; 8]);
        assert_eq!(region.line(2)[6], 0);
        region.populate(0, 2 * PAGE_BYTES);
        assert_eq!(region.bytes(5000, 3), b"abc");
        region.release(0, PAGE_BYTES);
        assert!(region.bytes(0, PAGE_BYTES).iter().all(|&b| b == 0));
        assert_eq!(region.bytes(5000, 3), b"abc");
        assert!(!region.make_usable(region.reserved() + 1));
    }

    #[test]
    #[should_panic(expected = "beyond the usable part")]
    fn nothing_beyond_the_usable_part_is_handed_out() {
        let mut region = Region::reserve(1 << 16, 1 << 16).expect("a small reservation");
        assert!(region.make_usable(PAGE_BYTES));
        region.bytes((PAGE_BYTES - 1) as u64, 2);
    }

    #[test]
    fn a_mapping_is_read_by_another_thread_while_it_is_shared() {
        let mut mapping = Mapping::new(PAGE_BYTES).expect("a small mapping");
        mapping.bytes_mut()[..3].copy_from_slice(b"abc");
        let mut mapping = std::sync::Arc::new(mapping);
        let reader = mapping.clone();
        assert!(std::sync::Arc::get_mut(&mut mapping).is_none(), "somebody reads it");
        let read =
            std::thread::spawn(move || (*reader).as_ref()[..3].to_vec()).join().expect("it only reads");
        assert_eq!(read, b"abc");
        let alone = std::sync::Arc::get_mut(&mut mapping).expect("the reader has let go");
        alone.release(0, PAGE_BYTES);
        assert_eq!(alone.bytes(3), [0; 3]);
    }

    #[test]
    fn what_is_written_to_the_place_behind_stands_there() {
        let mut mapping = Mapping::new(POPULATED_BYTES + PAGE_BYTES).expect("a small mapping");
        let mut push = |byte: u8, len: usize| {
            let place = mapping.place(len);
            place.fill(byte);
            let taken = place.len();
            mapping.advance(taken);
            taken
        };
        assert_eq!(push(1, PAGE_BYTES - 1), PAGE_BYTES - 1);
        assert_eq!(push(2, POPULATED_BYTES), POPULATED_BYTES);
        assert_eq!(push(3, 3), 1, "there is room for one more");
        assert_eq!(mapping.used(), mapping.mapped());
        let bytes = mapping.bytes(mapping.mapped());
        assert_eq!(bytes[PAGE_BYTES - 2..=PAGE_BYTES], [1, 2, 2]);
        assert_eq!(bytes[mapping.mapped() - 2..], [2, 3]);
    }

    #[test]
    fn a_mapping_goes_in_steps() {
        let mut mapping = Mapping::new(3 * PAGE_BYTES - 5).expect("a small mapping");
        assert_eq!(mapping.mapped(), 3 * PAGE_BYTES);
        mapping.bytes_mut().fill(7);
        assert_eq!(mapping.bytes(10), &[7; 10]);
        mapping.release(PAGE_BYTES, 2 * PAGE_BYTES);
        assert_eq!(mapping.bytes(3 * PAGE_BYTES)[PAGE_BYTES - 1..=PAGE_BYTES], [7, 0]);
    }
}
