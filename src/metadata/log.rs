//! The form of the embedded service's file: a head, a frame with a snapshot of the whole table, then a frame for each step
//! that was made to last.
//!
//! ```text
//!  | head 16 | frame: snapshot | frame | frame | frame ...          all numbers little-endian
//!
//!  head    "FSMETA\r\n"  version u32  CRC32 of these twelve bytes u32
//!  frame   length u32  CRC32 u32  revision u64  records              length: of revision and records
//!                                                                    CRC32: of length, revision and records
//!  record  tag u8, then what its kind has; bytes stand behind their length, u32
//! ```
//! The revision of a frame is the one that the table had before it, so that a frame that is missing or there twice is noticed.
//! One frame holds all that one write to the file holds, however many transactions that were: the next is only written
//! when this one is known to last, so that a crash can tear the last frame of a file and no other.

use super::{LeaseId, Revision};

/// What a file begins with.
pub const HEAD_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"FSMETA\r\n";
const VERSION: u32 = 1;
/// Length and checksum of a frame.
const FRAME_HEAD_BYTES: usize = 8;
/// The revision of a frame.
const REVISION_BYTES: usize = 8;

const START: u8 = 1;
const ENTRY: u8 = 2;
const GRANT: u8 = 3;
const LEASE_OVER: u8 = 4;
const PUT: u8 = 5;
const DELETE: u8 = 6;
const CHANGE: u8 = 7;

/// A step of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// First of a snapshot: the last lease that was granted, 0 for none.
    Start { lease_last: u64 },
    /// Of a snapshot: a key as it stands.
    Entry { created: Revision, modified: Revision, lease: Option<LeaseId>, key: &'a [u8], value: &'a [u8] },
    /// A lease that was granted; of a snapshot: one that runs.
    Grant { lease: LeaseId, ttl_millis: u64 },
    /// A lease that is over. Its keys were deleted before.
    LeaseOver { lease: LeaseId },
    /// A key that is written by the change that this belongs to.
    Put { lease: Option<LeaseId>, key: &'a [u8], value: &'a [u8] },
    /// A key that is removed by it.
    Delete { key: &'a [u8] },
    /// The change is complete: the revision grows by one.
    Change,
}

impl<'a> Record<'a> {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Record::Start { lease_last } => {
                out.push(START);
                number(out, lease_last);
            }
            Record::Entry { created, modified, lease, key, value } => {
                out.push(ENTRY);
                number(out, created.0);
                number(out, modified.0);
                number(out, lease.map_or(0, |lease| lease.0));
                bytes(out, key);
                bytes(out, value);
            }
            Record::Grant { lease, ttl_millis } => {
                out.push(GRANT);
                number(out, lease.0);
                number(out, ttl_millis);
            }
            Record::LeaseOver { lease } => {
                out.push(LEASE_OVER);
                number(out, lease.0);
            }
            Record::Put { lease, key, value } => {
                out.push(PUT);
                number(out, lease.map_or(0, |lease| lease.0));
                bytes(out, key);
                bytes(out, value);
            }
            Record::Delete { key } => {
                out.push(DELETE);
                bytes(out, key);
            }
            Record::Change => out.push(CHANGE),
        }
    }

    /// The first record of these bytes, which are cut down to the rest. `None` if they do not begin with one.
    pub fn decode(rest: &mut &'a [u8]) -> Option<Record<'a>> {
        let (&tag, tail) = rest.split_first()?;
        *rest = tail;
        Some(match tag {
            START => Record::Start { lease_last: take_number(rest)? },
            ENTRY => Record::Entry {
                created: Revision(take_number(rest)?),
                modified: Revision(take_number(rest)?),
                lease: take_lease(rest)?,
                key: take_bytes(rest)?,
                value: take_bytes(rest)?,
            },
            GRANT => Record::Grant { lease: take_lease(rest)??, ttl_millis: take_number(rest)? },
            LEASE_OVER => Record::LeaseOver { lease: take_lease(rest)?? },
            PUT => Record::Put { lease: take_lease(rest)?, key: take_bytes(rest)?, value: take_bytes(rest)? },
            DELETE => Record::Delete { key: take_bytes(rest)? },
            CHANGE => Record::Change,
            _ => return None,
        })
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and values are checked to be far shorter");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*number))
}

fn take_lease(rest: &mut &[u8]) -> Option<Option<LeaseId>> {
    Some(Some(take_number(rest)?).filter(|number| *number != 0).map(LeaseId))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, tail) = rest.split_first_chunk()?;
    let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = tail;
    Some(bytes)
}

/// The head of a file.
pub fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&head[..12]);
    head[12..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// What a file's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is one of ours.
    Ours,
    /// One of ours, of another version.
    Version(u32),
    /// Something else.
    Other,
}

/// Looks at the head of a file.
pub fn read_head(file: &[u8]) -> Head {
    let Some((head, _)) = file.split_first_chunk::<HEAD_BYTES>() else { return Head::Other };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    match word(8) {
        _ if &head[..8] != MAGIC || word(12) != crc32fast::hash(&head[..12]) => Head::Other,
        VERSION => Head::Ours,
        version => Head::Version(version),
    }
}

/// A frame with these records for a table of this revision.
pub fn frame(before: Revision, records: &[u8]) -> Vec<u8> {
    let len =
        u32::try_from(REVISION_BYTES + records.len()).expect("the table and a batch are bounded far below");
    let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + len as usize);
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&before.0.to_le_bytes());
    frame.extend_from_slice(records);
    let crc = checksum(&frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// A frame that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The table's revision before it.
    pub before: Revision,
    /// Its records.
    pub records: &'a [u8],
    /// Its bytes in the file.
    pub len: usize,
}

impl<'a> Frame<'a> {
    /// The frame that these bytes begin with, if it is whole and nothing in it has changed.
    pub fn read(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (before, len) = Frame::outline(bytes)?;
        let frame = &bytes[..len];
        let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        (crc == checksum(frame)).then(|| Frame {
            before,
            records: &frame[FRAME_HEAD_BYTES + REVISION_BYTES..],
            len,
        })
    }

    /// Revision and length of what could be a frame, by its numbers alone.
    fn outline(bytes: &[u8]) -> Option<(Revision, usize)> {
        let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        let before = u64::from_le_bytes(*bytes.get(FRAME_HEAD_BYTES..)?.first_chunk()?);
        let fits = len > REVISION_BYTES && len <= bytes.len() - FRAME_HEAD_BYTES;
        fits.then_some((Revision(before), FRAME_HEAD_BYTES + len))
    }

    /// Where in these bytes the first whole frame begins whose revision is not below `from`. A revision that is further off
    /// than there are bytes is none of ours, so that hardly any checksum is made for nothing.
    pub fn find(bytes: &[u8], from: Revision) -> Option<usize> {
        let to = from.0.saturating_add(bytes.len() as u64);
        (0..bytes.len()).find(|&at| {
            let tail = &bytes[at..];
            Frame::outline(tail).is_some_and(|(before, _)| (from.0..=to).contains(&before.0))
                && Frame::read(tail).is_some()
        })
    }
}

/// Of everything in a frame but the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[FRAME_HEAD_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_record() -> Vec<Record<'static>> {
        let lease = LeaseId(7);
        vec![
            Record::Start { lease_last: 9 },
            Record::Entry {
                created: Revision(1),
                modified: Revision(u64::MAX),
                lease: None,
                key: b"k",
                value: b"",
            },
            Record::Entry {
                created: Revision(1),
                modified: Revision(2),
                lease: Some(lease),
                key: b"key",
                value: b"v",
            },
            Record::Grant { lease, ttl_millis: 10_000 },
            Record::LeaseOver { lease },
            Record::Put { lease: Some(lease), key: b"k", value: b"value" },
            Record::Put { lease: None, key: b"k", value: &[0xFF; 300] },
            Record::Delete { key: b"k" },
            Record::Change,
        ]
    }

    #[test]
    fn records_come_back_and_nothing_shorter_is_taken_for_one() {
        for record in every_record() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for len in 0..bytes.len() {
                assert_eq!(Record::decode(&mut &bytes[..len]), None, "{record:?} of {len} bytes");
            }
            let mut rest = &bytes[..];
            assert_eq!(Record::decode(&mut rest), Some(record));
            assert!(rest.is_empty());
        }
        assert_eq!(Record::decode(&mut &[99_u8][..]), None, "a tag of no record");
        // No lease where there must be one.
        assert_eq!(Record::decode(&mut &[&[LEASE_OVER][..], &[0; 8]].concat()[..]), None);
    }

    #[test]
    fn the_bytes_of_a_frame_are_those_of_the_description() {
        let mut records = Vec::new();
        Record::Delete { key: b"ab" }.encode(&mut records);
        Record::Change.encode(&mut records);
        let frame = frame(Revision(5), &records);
        assert_eq!(frame[..4], 16_u32.to_le_bytes());
        assert_eq!(frame[8..], [5, 0, 0, 0, 0, 0, 0, 0, DELETE, 2, 0, 0, 0, b'a', b'b', CHANGE]);
        let checked = [&frame[..4], &frame[8..]].concat();
        assert_eq!(frame[4..8], crc32fast::hash(&checked).to_le_bytes());
        assert_eq!(
            Frame::read(&frame),
            Some(Frame { before: Revision(5), records: &records, len: frame.len() })
        );
    }

    #[test]
    fn a_frame_with_any_bit_changed_is_none() {
        let mut records = Vec::new();
        every_record().iter().for_each(|record| record.encode(&mut records));
        let mut bytes = frame(Revision(3), &records[..60]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::read(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert_eq!(Frame::read(&bytes[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn frames_are_found_behind_rubbish() {
        let frame = frame(Revision(3), &[CHANGE]);
        let bytes = [&[0; 40][..], &frame, &[1; 9]].concat();
        assert_eq!(Frame::find(&bytes, Revision(3)), Some(40));
        assert_eq!(Frame::find(&bytes, Revision(4)), None, "it is older");
        assert_eq!(Frame::find(&bytes[..40 + frame.len() - 1], Revision(3)), None, "it is not whole");
    }

    #[test]
    fn heads_tell_our_files_from_others() {
        assert_eq!(read_head(&head()), Head::Ours);
        let mut later = head();
        later[8] = 2;
        let crc = crc32fast::hash(&later[..12]);
        later[12..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read_head(&later), Head::Version(2));
        for byte in 0..HEAD_BYTES {
            let mut changed = head();
            changed[byte] ^= 0x20;
            assert_eq!(read_head(&changed), Head::Other, "byte {byte}");
        }
        assert_eq!(read_head(&head()[..15]), Head::Other);
        assert_eq!(read_head(b""), Head::Other);
    }
}
