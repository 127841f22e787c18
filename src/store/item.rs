//! How an item lies in a segment.
//!
//! ```text
//! | shape 2 | key length 1 or 3 | value length 1..4 | version 2, 3, 4 or 8 | [expiry 3, 4 or 6 | link 2] | [flags 4] | key | value |
//!
//! shape, from the lowest bit: value length's width 2 | key length's width 1 | version's width 2 | expiry's width 2 |
//!   has flags 1 | stale 1 | leased 1 | hollow 1 | dead 1 | link's upper bits 3 | copied 1
//! ```
//! Lengths are as narrow as they can be. The version is a signed (zigzag) distance from the segment's base, except in the
//! widest form, which is the version itself. The expiry is a distance from the segment's base time in units of 1/4 ms (so
//! whole milliseconds are exact, nothing ends early, and three bytes hold an hour); all ones say "never" for an item that once had an expiry.
//! A key's length three bytes wide has a bit to spare, its highest: the key was given in base64. Such a key's length is wide however short.
//! The link threads the items of one slot of the segment's expiry wheel. A value length four bytes wide says that the value
//! has a mapping of its own and that its place in the list of mappings stands here instead of it.
//!
//! The copied bit says that a copy of the shard has the item as it is: `copy` sets it, any change of the item removes it.

use super::Marks;
use crate::clock::Mono;
use crate::ids::Version;
use crate::request::Expiry;

/// Nanoseconds in one unit of time of the store: 1/4 ms.
pub(super) const UNIT_NANOS: u64 = Mono::NANOS_PER_MILLI / 4;
/// Bytes of the handle that stands in place of a value with a mapping of its own.
pub(super) const HANDLE_BYTES: usize = 4;
/// Most bytes before the key.
pub(super) const HEAD_BYTES_MAX: usize = 2 + 3 + 4 + 8 + 8 + 4;
/// Bytes that must be readable after any item: heads are read in words.
pub(super) const READ_AHEAD_BYTES: usize = 8;

const STALE: u16 = 1 << 8;
const LEASED: u16 = 1 << 9;
const HOLLOW: u16 = 1 << 10;
const MARKS: u16 = STALE | LEASED | HOLLOW;
const FLAGS: u16 = 1 << 7;
const DEAD: u16 = 1 << 11;
const WIDE_KEY: u16 = 1 << 2;
/// In the last of the three bytes of a key's length.
const BINARY_KEY: u8 = 1 << 7;
/// Where that byte stands.
const BINARY_KEY_AT: usize = 2 + 2;
const LINK_SHIFT: u32 = 12;
const LINK: u16 = 7 << LINK_SHIFT;
const COPIED: u16 = 1 << 15;
const MAPPED: u16 = 3;

const VERSION_BYTES: [usize; 4] = [2, 3, 4, 8];
const EXPIRY_BYTES: [usize; 4] = [0, 3, 4, 6];

/// What the items of a segment count from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Base {
    /// Version of the segment's first item.
    pub version: u64,
    /// When the segment was opened, in units.
    pub units: u64,
}

/// What an item says beside its key and value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub flags: u32,
    pub version: Version,
    pub expiry: Expiry,
    pub marks: Marks,
}

/// The head of an item, read: where its parts lie, counted from its first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    shape: u16,
    version_at: u8,
    pub key_at: u8,
    pub key_len: u32,
    /// Length of the value, also where it lies elsewhere.
    pub value_len: u32,
}

/// Where the parts of a head lie, counted from its first byte, by the lower half of its shape.
#[derive(Clone, Copy)]
struct Parts {
    key_len_mask: u32,
    /// Of the value's length.
    value_at: u8,
    version_at: u8,
    key_at: u8,
}

static PARTS: [Parts; 256] = {
    let mut parts = [Parts { key_len_mask: 0, value_at: 0, version_at: 0, key_at: 0 }; 256];
    let mut low = 0;
    while low < parts.len() {
        let shape = low as u16;
        let value_at = 2 + key_width(shape);
        let version_at = value_at + value_width(shape);
        let mut key_at = version_at + VERSION_BYTES[version_class(shape)];
        if expiry_class(shape) != 0 {
            key_at += EXPIRY_BYTES[expiry_class(shape)] + 2;
        }
        if shape & FLAGS != 0 {
            key_at += 4;
        }
        parts[low] = Parts {
            key_len_mask: if key_width(shape) == 1 { 0xFF } else { 0x7F_FFFF },
            value_at: value_at as u8,
            version_at: version_at as u8,
            key_at: key_at as u8,
        };
        low += 1;
    }
    parts
};

impl Head {
    /// Reads the head of the item that begins `bytes`.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Head {
        let words: &[u8; 10] =
            bytes.first_chunk().expect("there is always so much behind an item's first byte");
        let shape = u16::from_le_bytes([words[0], words[1]]);
        let lengths = u64::from_le_bytes(*words.last_chunk().expect("ten are more than eight"));
        let part = PARTS[usize::from(shape as u8)];
        let value_bits = 8 * (u32::from(part.version_at - part.value_at));
        Head {
            shape,
            version_at: part.version_at,
            key_at: part.key_at,
            key_len: lengths as u32 & part.key_len_mask,
            value_len: (lengths >> (8 * (part.value_at - 2))) as u32 & (u32::MAX >> (32 - value_bits)),
        }
    }

    /// First byte of the value, or of the handle that stands for it.
    #[inline]
    pub(super) fn value_at(&self) -> usize {
        self.key_at as usize + self.key_len as usize
    }

    /// Bytes from the head's first to the value's (or handle's) last.
    #[inline]
    pub(super) fn item_len(&self) -> usize {
        self.value_at() + if self.mapped() { HANDLE_BYTES } else { self.value_len as usize }
    }

    /// Whether the value has a mapping of its own.
    #[inline]
    pub(super) fn mapped(&self) -> bool {
        self.shape & MAPPED == MAPPED
    }

    /// Whether the item is no longer the one of its key.
    #[inline]
    pub(super) fn dead(&self) -> bool {
        self.shape & DEAD != 0
    }

    /// The engine's bits.
    #[inline]
    pub(super) fn marks(&self, bytes: &[u8]) -> Marks {
        Marks {
            stale: self.shape & STALE != 0,
            leased: self.shape & LEASED != 0,
            hollow: self.shape & HOLLOW != 0,
            binary_key: self.shape & WIDE_KEY != 0 && bytes[BINARY_KEY_AT] & BINARY_KEY != 0,
        }
    }

    /// The handle of a value with a mapping of its own.
    pub(super) fn handle(&self, bytes: &[u8]) -> u32 {
        read_int(bytes, self.value_at(), HANDLE_BYTES) as u32
    }

    /// Opaque bits of clients.
    #[inline]
    pub(super) fn flags(&self, bytes: &[u8]) -> u32 {
        if self.shape & FLAGS == 0 { 0 } else { read_int(bytes, self.key_at as usize - 4, 4) as u32 }
    }

    /// Version.
    #[inline]
    pub(super) fn version(&self, bytes: &[u8], base: Base) -> Version {
        let class = version_class(self.shape);
        let raw = read_int(bytes, self.version_at as usize, VERSION_BYTES[class]);
        Version(if class == 3 { raw } else { base.version.wrapping_add(unzigzag(raw)) })
    }

    /// When it ends, in units; nothing if never.
    #[inline]
    pub(super) fn deadline(&self, bytes: &[u8], base: Base) -> Option<u64> {
        let class = expiry_class(self.shape);
        if class == 0 {
            return None;
        }
        let raw = read_int(bytes, self.expiry_at(), EXPIRY_BYTES[class]);
        (raw != never(class)).then(|| base.units + raw)
    }

    /// When it ends.
    #[inline]
    pub(super) fn expiry(&self, bytes: &[u8], base: Base) -> Expiry {
        match self.deadline(bytes, base) {
            Some(units) => Expiry::At(Mono(units.saturating_mul(UNIT_NANOS))),
            None => Expiry::Never,
        }
    }

    /// All that the item says beside its key and value.
    pub(super) fn facts(&self, bytes: &[u8], base: Base) -> Facts {
        Facts {
            flags: self.flags(bytes),
            version: self.version(bytes, base),
            expiry: self.expiry(bytes, base),
            marks: self.marks(bytes),
        }
    }

    /// The next item in the same slot of the expiry wheel; 0 ends the list.
    pub(super) fn link(&self, bytes: &[u8]) -> u32 {
        debug_assert!(expiry_class(self.shape) != 0, "only items with an expiry are linked");
        let low = read_int(bytes, self.link_at(), 2) as u32;
        u32::from((self.shape & LINK) >> LINK_SHIFT) << 16 | low
    }

    /// Sets the link (below 2^19).
    pub(super) fn set_link(&mut self, bytes: &mut [u8], link: u32) {
        debug_assert!(link < 1 << 19, "segments are at most 512 KiB");
        self.set_shape(bytes, self.shape & !LINK | ((link >> 16) as u16) << LINK_SHIFT);
        write_int(bytes, self.link_at(), 2, u64::from(link & 0xFFFF));
    }

    /// Whether a copy of the shard has the item as it is.
    #[inline]
    pub(super) fn copied(&self) -> bool {
        self.shape & COPIED != 0
    }

    /// Says whether a copy of the shard has the item as it is.
    pub(super) fn set_copied(&mut self, bytes: &mut [u8], copied: bool) {
        self.set_shape(bytes, self.shape & !COPIED | if copied { COPIED } else { 0 });
    }

    /// Says that the item is no longer the one of its key.
    pub(super) fn set_dead(&mut self, bytes: &mut [u8]) {
        self.set_shape(bytes, self.shape | DEAD);
    }

    /// Writes other facts over the item's, if they fit its shape and need no other place in the expiry wheel; false if not,
    /// and then nothing changed. A later deadline fits: the wheel finds the item too early and files it anew.
    pub(super) fn rewrite(&mut self, bytes: &mut [u8], base: Base, facts: &Facts) -> bool {
        let version = match version_class(self.shape) {
            3 => facts.version.0,
            class => {
                let distance = zigzag(facts.version.0.wrapping_sub(base.version));
                if distance >> (8 * VERSION_BYTES[class]) != 0 {
                    return false;
                }
                distance
            }
        };
        let class = expiry_class(self.shape);
        let expiry = match (units_of(facts.expiry), class) {
            (None, 0) => 0,
            (None, _) => never(class),
            (Some(_), 0) => return false,
            (Some(units), _) => {
                let distance = units.saturating_sub(base.units);
                let sooner = self.deadline(bytes, base).is_none_or(|before| units < before);
                if sooner || distance >= never(class) {
                    return false;
                }
                distance
            }
        };
        if self.shape & FLAGS == 0 && facts.flags != 0 {
            return false;
        }
        match (self.shape & WIDE_KEY, facts.marks.binary_key) {
            (0, false) => {}
            (0, true) => return false,
            (_, false) => bytes[BINARY_KEY_AT] &= !BINARY_KEY,
            (_, true) => bytes[BINARY_KEY_AT] |= BINARY_KEY,
        }
        self.set_shape(bytes, self.shape & !(MARKS | COPIED) | marks_bits(facts.marks));
        write_int(bytes, self.version_at as usize, VERSION_BYTES[version_class(self.shape)], version);
        if class != 0 {
            write_int(bytes, self.expiry_at(), EXPIRY_BYTES[class], expiry);
        }
        if self.shape & FLAGS != 0 {
            write_int(bytes, self.key_at as usize - 4, 4, u64::from(facts.flags));
        }
        true
    }

    #[inline]
    fn expiry_at(&self) -> usize {
        self.version_at as usize + VERSION_BYTES[version_class(self.shape)]
    }

    fn link_at(&self) -> usize {
        self.expiry_at() + EXPIRY_BYTES[expiry_class(self.shape)]
    }

    fn set_shape(&mut self, bytes: &mut [u8], shape: u16) {
        self.shape = shape;
        bytes[..2].copy_from_slice(&shape.to_le_bytes());
    }
}

/// The head of an item that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl Draft {
    /// The shortest head for these facts in a segment with this base.
    pub(super) fn new(base: Base, key_len: usize, value_len: usize, mapped: bool, facts: &Facts) -> Draft {
        let mut shape = marks_bits(facts.marks);
        let value_bytes = match value_len {
            _ if mapped => 4,
            0..=0xFF => 1,
            0x100..=0xFFFF => 2,
            _ => 3,
        };
        shape |= value_bytes as u16 - 1;
        if key_len > 0xFF || facts.marks.binary_key {
            shape |= WIDE_KEY;
        }
        let distance = zigzag(facts.version.0.wrapping_sub(base.version));
        let version_class = (0..3).find(|&class| distance >> (8 * VERSION_BYTES[class]) == 0).unwrap_or(3);
        let version = if version_class == 3 { facts.version.0 } else { distance };
        shape |= (version_class as u16) << 3;
        let expiry = units_of(facts.expiry).map(|units| units.saturating_sub(base.units).min(never(3) - 1));
        let expiry_class = match expiry {
            None => 0,
            Some(distance) => (1..3).find(|&class| distance < never(class)).unwrap_or(3),
        };
        shape |= (expiry_class as u16) << 5;
        if facts.flags != 0 {
            shape |= FLAGS;
        }
        let mut draft = Draft { bytes: [0; HEAD_BYTES_MAX], len: 0 };
        draft.push(2, u64::from(shape));
        let binary = u64::from(if facts.marks.binary_key { BINARY_KEY } else { 0 }) << 16;
        draft.push(key_width(shape), key_len as u64 | binary);
        draft.push(value_bytes, value_len as u64);
        draft.push(VERSION_BYTES[version_class], version);
        if let Some(distance) = expiry {
            draft.push(EXPIRY_BYTES[expiry_class], distance);
            draft.push(2, 0);
        }
        if facts.flags != 0 {
            draft.push(4, u64::from(facts.flags));
        }
        draft
    }

    /// The head's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, width: usize, number: u64) {
        write_int(&mut self.bytes, self.len, width, number);
        self.len += width;
    }
}

/// A deadline in units, rounded up so that nothing is over before its time (after it, it lives a quarter of a millisecond at
/// the most); nothing for "never".
#[inline]
pub(super) fn units_of(expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(at) => Some(at.0.div_ceil(UNIT_NANOS)),
    }
}

#[inline]
const fn key_width(shape: u16) -> usize {
    if shape & WIDE_KEY == 0 { 1 } else { 3 }
}

#[inline]
const fn value_width(shape: u16) -> usize {
    (shape & 3) as usize + 1
}

#[inline]
const fn version_class(shape: u16) -> usize {
    (shape >> 3 & 3) as usize
}

#[inline]
const fn expiry_class(shape: u16) -> usize {
    (shape >> 5 & 3) as usize
}

/// The number that says "never" in an expiry of this class.
#[inline]
fn never(class: usize) -> u64 {
    (1 << (8 * EXPIRY_BYTES[class])) - 1
}

fn marks_bits(marks: Marks) -> u16 {
    let bit = |set: bool, bit: u16| if set { bit } else { 0 };
    bit(marks.stale, STALE) | bit(marks.leased, LEASED) | bit(marks.hollow, HOLLOW)
}

fn zigzag(distance: u64) -> u64 {
    (distance << 1) ^ ((distance as i64) >> 63) as u64
}

fn unzigzag(raw: u64) -> u64 {
    (raw >> 1) ^ (raw & 1).wrapping_neg()
}

/// A little-endian number of `width` bytes; reads a whole word (see [`READ_AHEAD_BYTES`]).
#[inline]
fn read_int(bytes: &[u8], at: usize, width: usize) -> u64 {
    let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes were cut");
    u64::from_le_bytes(word) & (u64::MAX >> (64 - 8 * width))
}

fn write_int(bytes: &mut [u8], at: usize, width: usize, number: u64) {
    bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(draft: &Draft, key: &[u8], value: &[u8]) -> Vec<u8> {
        [draft.bytes(), key, value, &[0xEE; READ_AHEAD_BYTES]].concat()
    }

    fn expiries() -> impl Strategy<Value = Expiry> {
        prop_oneof![
            Just(Expiry::Never),
            (0u64..100_000).prop_map(|millis| Expiry::At(Mono(millis * 1_000_000))),
            any::<u64>().prop_map(|nanos| Expiry::At(Mono(nanos))),
        ]
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let version = prop_oneof![0u64..100, 0u64..1 << 40, any::<u64>()];
        (prop_oneof![Just(0u32), any::<u32>()], version, expiries(), any::<[bool; 4]>()).prop_map(
            |(flags, version, expiry, [stale, leased, hollow, binary_key])| Facts {
                flags,
                version: Version(version),
                expiry,
                marks: Marks { stale, leased, hollow, binary_key },
            },
        )
    }

    fn check(bytes: &[u8], base: Base, wanted: &Facts) {
        let read = Head::read(bytes).facts(bytes, base);
        assert_eq!((read.flags, read.version, read.marks), (wanted.flags, wanted.version, wanted.marks));
        match (read.expiry, wanted.expiry) {
            (Expiry::At(read), Expiry::At(wanted)) if wanted.0.div_ceil(UNIT_NANOS) >= base.units => {
                assert_eq!(read.0, wanted.0.div_ceil(UNIT_NANOS) * UNIT_NANOS);
            }
            (Expiry::At(read), Expiry::At(_)) => assert_eq!(read.0, base.units * UNIT_NANOS),
            (read, wanted) => assert_eq!(read, wanted),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_written_is_read(
            facts in facts(),
            other in facts(),
            version in prop_oneof![0u64..100, any::<u64>()],
            key_len in prop_oneof![1usize..40, 250usize..300, 65_530usize..65_537],
            value_len in prop_oneof![0usize..300, 65_500usize..65_600],
            link in 0u32..1 << 19,
        ) {
            let base = Base { version, units: 1000 };
            let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
            let draft = Draft::new(base, key_len, value_len, false, &facts);
            let mut bytes = written(&draft, &key, &value);
            let mut head = Head::read(&bytes);
            prop_assert_eq!((head.key_len as usize, head.value_len as usize), (key_len, value_len));
            prop_assert_eq!(&bytes[head.key_at as usize..head.value_at()], &key[..]);
            prop_assert_eq!(&bytes[head.value_at()..head.item_len()], &value[..]);
            prop_assert!(!head.dead() && !head.mapped());
            check(&bytes, base, &facts);
            if facts.expiry != Expiry::Never {
                head.set_link(&mut bytes, link);
                prop_assert_eq!(Head::read(&bytes).link(&bytes), link);
                check(&bytes, base, &facts);
            }
            let before = bytes.clone();
            if head.rewrite(&mut bytes, base, &other) {
                check(&bytes, base, &other);
                prop_assert_eq!(&bytes[head.key_at as usize..], &before[head.key_at as usize..]);
                if facts.expiry != Expiry::Never {
                    prop_assert_eq!(Head::read(&bytes).link(&bytes), link);
                }
            } else {
                prop_assert_eq!(&bytes, &before, "a refused rewrite changes nothing");
            }
            head.set_dead(&mut bytes);
            prop_assert!(Head::read(&bytes).dead());
        }
    }

    #[test]
    fn a_usual_head_is_short() {
        let base = Base { version: 1 << 30, units: 4_000 };
        let mut facts = Facts {
            flags: 0,
            version: Version((1 << 30) + 5000),
            expiry: Expiry::Never,
            marks: Marks::default(),
        };
        assert_eq!(Draft::new(base, 20, 100, false, &facts).bytes().len(), 6);
        facts.expiry = Expiry::At(Mono(3_600_000_000_000));
        assert_eq!(Draft::new(base, 20, 100, false, &facts).bytes().len(), 11);
    }

    #[test]
    fn a_value_with_its_own_mapping_leaves_a_handle() {
        let facts = Facts { flags: 0, version: Version(1), expiry: Expiry::Never, marks: Marks::default() };
        let draft = Draft::new(Base::default(), 3, 512 << 20, true, &facts);
        let bytes = written(&draft, b"key", &77u32.to_le_bytes());
        let head = Head::read(&bytes);
        assert!(head.mapped());
        assert_eq!((head.value_len, head.handle(&bytes)), (512 << 20, 77));
        assert_eq!(head.item_len() + READ_AHEAD_BYTES, bytes.len());
    }
}
