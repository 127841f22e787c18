//! The payloads of the shard stream (`proto-spec/native.md` 8.3), behind the block that the native codec reads.
//!
//! Nothing is trusted: a payload is bounded before it is held, read with every length checked, and refused whole if a byte is
//! left over. Records borrow from the frame.

use super::bytes::{Malformed, Put, Reader};
use crate::digest::{BUCKETS, Digest};
use crate::ids::Version;
use crate::wire::native::frame::{Header, ShardBlock, Status, body};

/// Version of the migration protocol, exchanged in OPEN.
pub const STREAM_VERSION: u8 = 1;
/// Bytes of records that a frame of several collects at most; one item alone may be longer.
pub const PIECE_BYTES: usize = 64 << 10;
/// Longest payload of frames that carry no items.
pub const PLAIN_BYTES_MAX: usize = 2048;
/// Bytes that a record has beside its key and value.
pub const RECORD_BYTES: usize = 1 + 1 + 4 + 8 + 8 + 4 + 4;

/// Opcodes of the stream.
mod opcode {
    pub const OPEN: u8 = 0xC0;
    pub const OPENED: u8 = 0xC1;
    pub const REJECT: u8 = 0xC2;
    pub const SNAPSHOT: u8 = 0xC3;
    pub const SEGMENT_END: u8 = 0xC4;
    pub const DELTA: u8 = 0xC5;
    pub const ACK: u8 = 0xC6;
    pub const CREDIT: u8 = 0xC7;
    pub const DRAIN: u8 = 0xC8;
    pub const GRANT: u8 = 0xC9;
    pub const OWNER_ACK: u8 = 0xCA;
    pub const NACK: u8 = 0xCB;
    pub const FORWARD: u8 = 0xCC;
    pub const FORWARDED: u8 = 0xCD;
    pub const ABORT: u8 = 0xCE;
    pub const BEAT: u8 = 0xCF;
}

/// Why something is refused or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is done.
    Finished,
    /// Somebody wanted it to end.
    Cancelled,
    /// The receiver owns the shard.
    Owner,
    /// The receiver has another move of the shard, or as many as it may have.
    Busy,
    /// The receiver knows nothing of this move.
    Unknown,
    /// The clocks of the two differ by too much.
    Clock,
    /// A frame is missing, or not what it should be.
    Stream,
    /// The copies differ.
    Digest,
    /// What had been copied was forgotten.
    Wiped,
    /// The shard is another's by now.
    Lost,
    /// It is written faster than it is copied.
    Diverging,
}

const REASONS: [Reason; 11] = [
    Reason::Finished,
    Reason::Cancelled,
    Reason::Owner,
    Reason::Busy,
    Reason::Unknown,
    Reason::Clock,
    Reason::Stream,
    Reason::Digest,
    Reason::Wiped,
    Reason::Lost,
    Reason::Diverging,
];

impl Reason {
    fn to_byte(self) -> u8 {
        REASONS.iter().position(|reason| *reason == self).expect("all are in the list") as u8
    }

    fn read(reader: &mut Reader<'_>) -> Result<Reason, Malformed> {
        REASONS.get(usize::from(reader.u8()?)).copied().ok_or(Malformed)
    }
}

/// An item, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// What it is now; nothing: it is gone.
    pub item: Option<Image<'a>>,
}

/// An item as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// Version.
    pub version: Version,
    /// When it ends, in milliseconds since 1970; `u64::MAX`: never.
    pub ends: u64,
    /// Opaque bits of clients.
    pub flags: u32,
    /// The engine's bits ([`crate::store::Marks::to_bits`]).
    pub marks: u8,
}

const GONE: u8 = 0;
const ITEM: u8 = 1;

impl Record<'_> {
    /// Appends the record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some(image) = &self.item else {
            out.put_u8(GONE);
            return out.put_counted(self.key);
        };
        out.put_u8(ITEM);
        out.put_u8(image.marks);
        out.put_u32(image.flags);
        out.put_u64(image.version.0);
        out.put_u64(image.ends);
        out.put_counted(self.key);
        out.put_counted(image.value);
    }
}

/// Records in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut reader = Reader(self.0);
        let record = read_record(&mut reader);
        self.0 = if record.is_ok() { reader.0 } else { &[] };
        Some(record)
    }
}

fn read_record<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, Malformed> {
    match reader.u8()? {
        GONE => Ok(Record { key: reader.counted()?, item: None }),
        ITEM => {
            let marks = reader.u8().and_then(|bits| if bits < 16 { Ok(bits) } else { Err(Malformed) })?;
            let (flags, version, ends) = (reader.u32()?, Version(reader.u64()?), reader.u64()?);
            let (key, value) = (reader.counted()?, reader.counted()?);
            Ok(Record { key, item: Some(Image { value, version, ends, flags, marks }) })
        }
        _ => Err(Malformed),
    }
}

/// What a frame says behind its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Source: a shadow is wanted.
    Open {
        /// Which life of the source.
        incarnation: u64,
        /// Its wall clock, in milliseconds since 1970.
        wall: u64,
        /// Items of the shard, roughly.
        items: u64,
        /// Whether it can go on where the last attempt ended.
        resume: bool,
    },
    /// Destination: it may begin.
    Opened {
        /// Which life of the destination.
        incarnation: u64,
        /// Bytes that may be sent.
        credit: u64,
        /// The last frame of the attempt before that was applied, if the shadow of that is still there.
        resumed: Option<u64>,
    },
    /// Destination: it may not.
    Reject(Reason),
    /// Source: items of the walk.
    Snapshot(Records<'a>),
    /// Source: the walk has handed out all, so many items.
    SegmentEnd {
        /// Items that were handed out or told of.
        items: u64,
    },
    /// Source: items that have changed.
    Delta(Records<'a>),
    /// Destination: applied up to here.
    Ack {
        /// The last frame applied.
        sequence: u64,
        /// Items that the shadow holds.
        items: u64,
        /// Items that it had no room for, or that ended.
        lost: u64,
    },
    /// Destination: so many bytes may be sent in all.
    Credit {
        /// Since the attempt began.
        total: u64,
    },
    /// Source: this is what you should have.
    Drain {
        /// The sum of it.
        digest: Box<Digest>,
        /// The greatest version given at the source.
        version: Version,
    },
    /// Source: the shard is yours as soon as the record says so.
    Grant {
        /// The revision of PREPARED.
        revision: u64,
        /// PREPARED.
        record: &'a [u8],
    },
    /// Destination: the record says so.
    OwnerAck {
        /// The epoch.
        epoch: u32,
        /// The record's revision.
        revision: u64,
    },
    /// Destination: the attempt failed, and a grant of it will not be used.
    Nack {
        /// Why.
        reason: Reason,
        /// Buckets that differ.
        buckets: u64,
    },
    /// Source: a request of its clients.
    Forward {
        /// Which; the first is 1.
        id: u64,
        /// Replies to requests before this one are not asked for again.
        settled: u64,
        /// The request ([`super::verbs`]).
        request: &'a [u8],
    },
    /// Destination: the reply.
    Forwarded {
        /// To which request.
        id: u64,
        /// The outcome ([`super::verbs`]).
        outcome: &'a [u8],
    },
    /// Either: it is over.
    Abort(Reason),
    /// Either: still there.
    Beat {
        /// The wall clock, in milliseconds since 1970.
        wall: u64,
    },
}

impl Payload<'_> {
    fn opcode(&self) -> u8 {
        match self {
            Payload::Open { .. } => opcode::OPEN,
            Payload::Opened { .. } => opcode::OPENED,
            Payload::Reject(_) => opcode::REJECT,
            Payload::Snapshot(_) => opcode::SNAPSHOT,
            Payload::SegmentEnd { .. } => opcode::SEGMENT_END,
            Payload::Delta(_) => opcode::DELTA,
            Payload::Ack { .. } => opcode::ACK,
            Payload::Credit { .. } => opcode::CREDIT,
            Payload::Drain { .. } => opcode::DRAIN,
            Payload::Grant { .. } => opcode::GRANT,
            Payload::OwnerAck { .. } => opcode::OWNER_ACK,
            Payload::Nack { .. } => opcode::NACK,
            Payload::Forward { .. } => opcode::FORWARD,
            Payload::Forwarded { .. } => opcode::FORWARDED,
            Payload::Abort(_) => opcode::ABORT,
            Payload::Beat { .. } => opcode::BEAT,
        }
    }

    /// Whether it has a place in the order of the copy: these are numbered, and none may be missing.
    pub fn is_ordered(&self) -> bool {
        matches!(
            self,
            Payload::Snapshot(_)
                | Payload::SegmentEnd { .. }
                | Payload::Delta(_)
                | Payload::Drain { .. }
                | Payload::Grant { .. }
        )
    }

    /// The frame: header, block, payload and checksums.
    pub fn frame(&self, block: &ShardBlock) -> Vec<u8> {
        let mut payload = Vec::new();
        self.write(&mut payload);
        let mut frame = Vec::with_capacity(ShardBlock::HEAD_BYTES + payload.len() + 4);
        block.encode(self.opcode(), block.sequence as u32, &payload, &mut frame);
        frame
    }

    fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Payload::Open { incarnation, wall, items, resume } => {
                out.put_u8(STREAM_VERSION);
                out.put_u8(resume.into());
                [incarnation, wall, items].into_iter().for_each(|number| out.put_u64(number));
            }
            Payload::Opened { incarnation, credit, resumed } => {
                out.put_u8(resumed.is_some().into());
                [incarnation, credit, resumed.unwrap_or(0)]
                    .into_iter()
                    .for_each(|number| out.put_u64(number));
            }
            Payload::Reject(reason) | Payload::Abort(reason) => out.put_u8(reason.to_byte()),
            Payload::Snapshot(records) | Payload::Delta(records) => out.extend_from_slice(records.0),
            Payload::SegmentEnd { items } => out.put_u64(items),
            Payload::Ack { sequence, items, lost } => {
                [sequence, items, lost].into_iter().for_each(|number| out.put_u64(number));
            }
            Payload::Credit { total } => out.put_u64(total),
            Payload::Drain { ref digest, version } => {
                out.put_u64(digest.items);
                out.put_u64(version.0);
                digest.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
            }
            Payload::Grant { revision, record } => {
                out.put_u64(revision);
                out.put_counted(record);
            }
            Payload::OwnerAck { epoch, revision } => {
                out.put_u32(epoch);
                out.put_u64(revision);
            }
            Payload::Nack { reason, buckets } => {
                out.put_u8(reason.to_byte());
                out.put_u64(buckets);
            }
            Payload::Forward { id, settled, request } => {
                out.put_u64(id);
                out.put_u64(settled);
                out.put_counted(request);
            }
            Payload::Forwarded { id, outcome } => {
                out.put_u64(id);
                out.put_counted(outcome);
            }
            Payload::Beat { wall } => out.put_u64(wall),
        }
    }
}

/// Longest payload of a frame with this opcode, where an item's key and value have at most so many bytes. To be asked before
/// the body is held.
pub fn payload_bytes_max(opcode: u8, item_bytes_max: usize) -> usize {
    match opcode {
        opcode::SNAPSHOT | opcode::DELTA => item_bytes_max + RECORD_BYTES + PIECE_BYTES,
        opcode::FORWARD | opcode::FORWARDED => item_bytes_max + PLAIN_BYTES_MAX,
        _ => PLAIN_BYTES_MAX,
    }
}

/// Reads a whole frame.
///
/// # Errors
/// What [`ShardBlock::read`] says; [`Status::TOO_LARGE`] for a payload over its limit; [`Status::CRC`]; [`Status::MALFORMED`] for
/// a payload that does not fit its opcode, and for bytes behind the frame.
pub fn read(frame: &[u8], item_bytes_max: usize) -> Result<(ShardBlock, Payload<'_>), Status> {
    let (header, block): (Header, ShardBlock) = ShardBlock::read(frame)?.ok_or(Status::MALFORMED)?;
    let payload_bytes = header.frame_len().saturating_sub(ShardBlock::HEAD_BYTES + 4);
    if payload_bytes > payload_bytes_max(header.opcode, item_bytes_max) {
        return Err(Status::TOO_LARGE);
    }
    if header.frame_len() != frame.len() {
        return Err(Status::MALFORMED);
    }
    let payload = &body(&header, frame)?[ShardBlock::HEAD_BYTES - crate::wire::native::frame::HEADER_BYTES..];
    match parse(header.opcode, payload) {
        Ok(payload) => Ok((block, payload)),
        Err(Malformed) => Err(Status::MALFORMED),
    }
}

fn parse(opcode: u8, bytes: &[u8]) -> Result<Payload<'_>, Malformed> {
    let mut reader = Reader(bytes);
    let payload = match opcode {
        opcode::OPEN => {
            if reader.u8()? != STREAM_VERSION {
                return Err(Malformed);
            }
            let resume = reader.bool()?;
            let (incarnation, wall, items) = (reader.u64()?, reader.u64()?, reader.u64()?);
            Payload::Open { incarnation, wall, items, resume }
        }
        opcode::OPENED => {
            let is_resumed = reader.bool()?;
            let (incarnation, credit, sequence) = (reader.u64()?, reader.u64()?, reader.u64()?);
            Payload::Opened { incarnation, credit, resumed: is_resumed.then_some(sequence) }
        }
        opcode::REJECT => Payload::Reject(Reason::read(&mut reader)?),
        opcode::SNAPSHOT | opcode::DELTA => {
            // All of them are looked at before one is applied.
            let records = Records(reader.0);
            for record in records {
                record?;
            }
            reader = Reader(&[]);
            if opcode == opcode::SNAPSHOT { Payload::Snapshot(records) } else { Payload::Delta(records) }
        }
        opcode::SEGMENT_END => Payload::SegmentEnd { items: reader.u64()? },
        opcode::ACK => Payload::Ack { sequence: reader.u64()?, items: reader.u64()?, lost: reader.u64()? },
        opcode::CREDIT => Payload::Credit { total: reader.u64()? },
        opcode::DRAIN => {
            let (items, version) = (reader.u64()?, Version(reader.u64()?));
            let mut digest = Box::new(Digest { sums: [0; BUCKETS], items });
            for sum in &mut digest.sums {
                *sum = reader.u128()?;
            }
            Payload::Drain { digest, version }
        }
        opcode::GRANT => Payload::Grant { revision: reader.u64()?, record: reader.counted()? },
        opcode::OWNER_ACK => Payload::OwnerAck { epoch: reader.u32()?, revision: reader.u64()? },
        opcode::NACK => Payload::Nack { reason: Reason::read(&mut reader)?, buckets: reader.u64()? },
        opcode::FORWARD => {
            Payload::Forward { id: reader.u64()?, settled: reader.u64()?, request: reader.counted()? }
        }
        opcode::FORWARDED => Payload::Forwarded { id: reader.u64()?, outcome: reader.counted()? },
        opcode::ABORT => Payload::Abort(Reason::read(&mut reader)?),
        opcode::BEAT => Payload::Beat { wall: reader.u64()? },
        _ => return Err(Malformed),
    };
    reader.end()?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: ShardBlock = ShardBlock { migration: 5, sequence: 6, epoch: 7, attempt: 8, shard: 9 };

    fn records() -> Vec<u8> {
        let mut out = Vec::new();
        let image = Image { value: b"value", version: Version(3), ends: u64::MAX, flags: 4, marks: 15 };
        Record { key: b"key", item: Some(image) }.write(&mut out);
        Record { key: b"", item: None }.write(&mut out);
        Record { key: b"k", item: Some(Image { value: b"", ..image }) }.write(&mut out);
        out
    }

    fn all(records: &[u8]) -> Vec<Payload<'_>> {
        let mut digest = Box::<Digest>::default();
        digest.sums[63] = u128::MAX;
        digest.items = 12;
        let mut payloads = vec![
            Payload::Open { incarnation: 1, wall: 2, items: 3, resume: true },
            Payload::Opened { incarnation: 1, credit: 2, resumed: None },
            Payload::Opened { incarnation: 1, credit: 2, resumed: Some(0) },
            Payload::Snapshot(Records(records)),
            Payload::Snapshot(Records(&[])),
            Payload::SegmentEnd { items: 1 },
            Payload::Delta(Records(records)),
            Payload::Ack { sequence: 1, items: 2, lost: 3 },
            Payload::Credit { total: u64::MAX },
            Payload::Drain { digest, version: Version(9) },
            Payload::Grant { revision: 4, record: b"record" },
            Payload::OwnerAck { epoch: 1, revision: 2 },
            Payload::Nack { reason: Reason::Digest, buckets: 1 << 63 },
            Payload::Forward { id: 1, settled: 1, request: b"request" },
            Payload::Forwarded { id: 1, outcome: b"outcome" },
            Payload::Beat { wall: 1 },
        ];
        payloads.extend(REASONS.map(Payload::Reject));
        payloads.extend(REASONS.map(Payload::Abort));
        payloads
    }

    #[test]
    fn every_payload_comes_back_as_it_was() {
        let records = records();
        for payload in all(&records) {
            let frame = payload.frame(&BLOCK);
            assert_eq!(read(&frame, 100), Ok((BLOCK, payload)));
        }
        let read: Vec<_> = Records(&records).map(|record| record.expect("well formed").key).collect();
        assert_eq!(read, [&b"key"[..], b"", b"k"]);
    }

    #[test]
    fn every_byte_cut_off_or_added_and_every_bit_turned_is_refused() {
        let bytes = records();
        for payload in all(&bytes) {
            let frame = payload.frame(&BLOCK);
            let mut plain = Vec::new();
            payload.write(&mut plain);
            for len in 0..plain.len() {
                // Where a record ends, a shorter row of records is one.
                let whole = matches!(payload, Payload::Snapshot(_) | Payload::Delta(_))
                    && Records(&plain[..len]).all(|record| record.is_ok());
                assert_eq!(parse(payload.opcode(), &plain[..len]).is_ok(), whole, "{payload:?} cut to {len}");
            }
            plain.push(0xFF);
            assert_eq!(parse(payload.opcode(), &plain), Err(Malformed), "{payload:?} with a byte more");
            for bit in 0..frame.len() * 8 {
                let mut broken = frame.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&broken, 100).is_err(), "{payload:?} with bit {bit} turned");
            }
        }
    }

    #[test]
    fn what_is_longer_than_it_may_be_is_refused_before_it_is_read() {
        let long = vec![0; PLAIN_BYTES_MAX + 200];
        let grant = Payload::Grant { revision: 1, record: &long }.frame(&BLOCK);
        assert_eq!(read(&grant, 100).unwrap_err(), Status::TOO_LARGE);
        let forward = Payload::Forward { id: 1, settled: 1, request: &long }.frame(&BLOCK);
        assert_eq!(read(&forward, 100).unwrap_err(), Status::TOO_LARGE);
        assert!(read(&forward, 1000).is_ok());
        let mut huge = Vec::new();
        Record { key: &vec![0; PIECE_BYTES + 200], item: None }.write(&mut huge);
        let delta = Payload::Delta(Records(&huge)).frame(&BLOCK);
        assert_eq!(read(&delta, 100).unwrap_err(), Status::TOO_LARGE);
        // A length inside the payload that promises more than there is.
        assert_eq!(parse(opcode::GRANT, &[0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 1]), Err(Malformed));
    }
}
