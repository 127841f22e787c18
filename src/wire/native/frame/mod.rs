//! Frames of the native protocol, both directions: for the server's session, clients and the load generator.
//!
//! ```text
//!   client:  Request --encode--> bytes            bytes --decode_reply--> Reply --Reply::item, stored, ..--> fields
//!   server:  bytes --Header::read, Request::decode--> Request    status, fields --Frame::begin, end--> bytes
//! ```
//! Nothing here allocates but the `Vec` that is written to, and nothing is copied when reading. Section numbers are those of
//! `proto-spec/native.md`.

mod reply;
mod request;
mod shard;

use crate::ids::Version;

pub(crate) use reply::write_map;
pub use reply::{Decoded, HelloReply, MapOwner, MapRange, MapReply, Reply, decode_reply};
pub use request::{BatchWriter, Condition, Hello, ItemHead, Items, Put, Request};
pub use shard::ShardBlock;

/// First byte of a request (and of every frame between nodes).
pub const MAGIC_REQUEST: u8 = 0xF5;
/// First byte of a reply.
pub const MAGIC_REPLY: u8 = 0xF6;
/// The version of the protocol that this is.
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a meta block.
pub const META_BYTES: usize = 20;
/// Bytes of the checksum at the end of a frame that has one.
pub const CRC_BYTES: usize = 4;
/// Longest body of any frame.
pub const BODY_BYTES_MAX: u32 = 1 << 30;
/// Longest body that may have a checksum, which is made in one go.
pub const CHECKED_BYTES_MAX: u32 = 16 << 20;
/// Longest key that the header can tell.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest body of a PING.
pub const PING_BYTES_MAX: usize = 1024;
/// Longest body of an AUTH.
pub const AUTH_BYTES_MAX: usize = 16 * 1024;
/// Longest name in a HELLO.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest lease in milliseconds.
pub const LEASE_MILLIS_MAX: u32 = 600_000;
/// The lease that a LEASE_GET of 0 milliseconds asks for.
pub const LEASE_MILLIS_DEFAULT: u32 = 10_000;

/// Opcode of the frame by which a core of another node makes a connection a link (8.5).
pub const LINK: u8 = 0xB0;
/// Longest such frame.
pub const LINK_BYTES_MAX: usize = 16 * 1024;

/// What a frame asks for (section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Who is there, and what both can do.
    Hello = 0x01,
    /// User and password.
    Auth = 0x02,
    /// The same bytes back.
    Ping = 0x03,
    /// The shard map.
    Map = 0x04,
    /// Counters of all cores.
    Stats = 0x05,
    /// Read.
    Get = 0x10,
    /// Read if newer than a version.
    GetNewer = 0x11,
    /// Read several.
    GetMany = 0x12,
    /// Read, or get the right to fill.
    LeaseGet = 0x13,
    /// Store.
    Put = 0x20,
    /// Fill.
    LeasePut = 0x21,
    /// Store several.
    PutMany = 0x22,
    /// Change the time to live.
    Touch = 0x23,
    /// Remove, or mark stale.
    Invalidate = 0x30,
    /// Remove several.
    InvalidateMany = 0x31,
    /// Remove all under a prefix, or under a tag.
    InvalidateAll = 0x32,
}

impl Opcode {
    /// The opcode of a byte, if it is one of requests.
    #[inline]
    pub const fn of(byte: u8) -> Option<Opcode> {
        Some(match byte {
            0x01 => Opcode::Hello,
            0x02 => Opcode::Auth,
            0x03 => Opcode::Ping,
            0x04 => Opcode::Map,
            0x05 => Opcode::Stats,
            0x10 => Opcode::Get,
            0x11 => Opcode::GetNewer,
            0x12 => Opcode::GetMany,
            0x13 => Opcode::LeaseGet,
            0x20 => Opcode::Put,
            0x21 => Opcode::LeasePut,
            0x22 => Opcode::PutMany,
            0x23 => Opcode::Touch,
            0x30 => Opcode::Invalidate,
            0x31 => Opcode::InvalidateMany,
            0x32 => Opcode::InvalidateAll,
            _ => return None,
        })
    }

    /// Whether the body is a batch of items.
    #[inline]
    pub const fn is_batch(self) -> bool {
        matches!(self, Opcode::GetMany | Opcode::PutMany | Opcode::InvalidateMany)
    }
}

/// How a request ended (section 6). Codes that this release does not know are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Done.
    pub const OK: Status = Status(0);
    /// No item.
    pub const NOT_FOUND: Status = Status(1);
    /// Not newer than what is known.
    pub const NOT_NEWER: Status = Status(2);
    /// There is an item, and none was wanted.
    pub const EXISTS: Status = Status(3);
    /// The item has another version.
    pub const VERSION_MISMATCH: Status = Status(4);
    /// The lease ran out, or the key was written or invalidated since.
    pub const LEASE_LOST: Status = Status(5);
    /// The body does not fit the opcode.
    pub const MALFORMED: Status = Status(64);
    /// Unknown opcode, or one not for this connection.
    pub const UNSUPPORTED: Status = Status(65);
    /// The key is empty or too long.
    pub const KEY: Status = Status(66);
    /// Over a limit.
    pub const TOO_LARGE: Status = Status(67);
    /// AUTH first.
    pub const UNAUTHENTICATED: Status = Status(68);
    /// Wrong user or password.
    pub const DENIED: Status = Status(69);
    /// No room, and nothing left to evict.
    pub const OUT_OF_MEMORY: Status = Status(70);
    /// The core has too much to do.
    pub const BUSY: Status = Status(71);
    /// A bug of the server's.
    pub const INTERNAL: Status = Status(72);
    /// HELLO: no version in common.
    pub const VERSION: Status = Status(73);
    /// The key's origin refused or did not answer.
    pub const ORIGIN: Status = Status(74);
    /// The frame does not begin with the magic.
    pub const MAGIC: Status = Status(128);
    /// The frame is of another version.
    pub const FRAME_VERSION: Status = Status(129);
    /// A flag that is not known here.
    pub const FLAGS: Status = Status(130);
    /// The checksum is wrong.
    pub const CRC: Status = Status(131);
    /// The body is longer than any may be.
    pub const FRAME_SIZE: Status = Status(132);
    /// The server has as many connections as it may have.
    pub const FULL: Status = Status(133);

    /// Whether it is an answer and not a fault (6.4).
    #[inline]
    pub const fn is_answer(self) -> bool {
        self.0 < 64
    }

    /// Whether the server closes after it (6.4).
    #[inline]
    pub const fn closes(self) -> bool {
        self.0 >= 128
    }

    /// The name in the specification; `?` for codes that this release does not know.
    pub const fn name(self) -> &'static str {
        match self {
            Status::OK => "OK",
            Status::NOT_FOUND => "NOT_FOUND",
            Status::NOT_NEWER => "NOT_NEWER",
            Status::EXISTS => "EXISTS",
            Status::VERSION_MISMATCH => "VERSION_MISMATCH",
            Status::LEASE_LOST => "LEASE_LOST",
            Status::MALFORMED => "MALFORMED",
            Status::UNSUPPORTED => "UNSUPPORTED",
            Status::KEY => "KEY",
            Status::TOO_LARGE => "TOO_LARGE",
            Status::UNAUTHENTICATED => "UNAUTHENTICATED",
            Status::DENIED => "DENIED",
            Status::OUT_OF_MEMORY => "OUT_OF_MEMORY",
            Status::BUSY => "BUSY",
            Status::INTERNAL => "INTERNAL",
            Status::VERSION => "VERSION",
            Status::ORIGIN => "ORIGIN",
            Status::MAGIC => "MAGIC",
            Status::FRAME_VERSION => "FRAME_VERSION",
            Status::FLAGS => "FLAGS",
            Status::CRC => "CRC",
            Status::FRAME_SIZE => "FRAME_SIZE",
            Status::FULL => "FULL",
            _ => "?",
        }
    }
}

/// The frame that a connection gets that is one too many.
pub const FULL: [u8; HEADER_BYTES] =
    [MAGIC_REPLY, VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, Status::FULL.0 as u8, 0, 0, 0];

/// Bits of a header's flags (2.1).
pub mod flags {
    /// The last 4 bytes of the body are a checksum.
    pub const CRC: u8 = 1;
    /// Further frames of this request follow.
    pub const MORE: u8 = 2;
    /// The shard map has another epoch than the connection was told.
    pub const NEW_MAP: u8 = 4;
}

/// Bits of HELLO's capabilities (4.1).
pub mod capabilities {
    /// Checksums.
    pub const CRC: u32 = 1;
    /// MAP, and the flag NEW_MAP.
    pub const MAP: u32 = 2;
    /// LEASE_GET and LEASE_PUT.
    pub const LEASE: u32 = 4;
    /// Frames of the shard stream, for nodes.
    pub const SHARD_STREAM: u32 = 8;
}

/// Bits of the detail of a LEASE_GET's reply (5.1).
pub mod lease {
    /// The caller has the right to fill.
    pub const WON: u16 = 1;
    /// The value is out of date.
    pub const STALE: u16 = 2;
    /// Somebody else has the right.
    pub const TAKEN: u16 = 4;
}

/// Detail of a PUT that keeps the time to live of the item it replaces (4.5).
pub const PUT_KEEP_TTL: u16 = 0x100;
/// Detail of an INVALIDATE that marks stale.
pub const INVALIDATE_STALE: u16 = 1;
/// Detail of an INVALIDATE_ALL that names a tag.
pub const INVALIDATE_TAG: u16 = 1;

/// The first 16 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC_REQUEST`] or [`MAGIC_REPLY`].
    pub magic: u8,
    /// Opcode, known or not.
    pub opcode: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Request id.
    pub id: u32,
    /// Bytes that follow.
    pub body_len: u32,
    /// Length of the key in a request, status in a reply.
    pub key_len_or_status: u16,
    /// By opcode.
    pub detail: u16,
}

impl Header {
    /// Reads a header; `None` if `input` is shorter than one.
    ///
    /// # Errors
    /// The status of section 6.3 that the frame deserves: wrong magic or version (told from the first bytes, however few
    /// there are), unknown flags, a body that is too long.
    #[inline]
    pub fn read(magic: u8, input: &[u8]) -> Result<Option<Header>, Status> {
        let Some(bytes) = input.first_chunk::<HEADER_BYTES>() else {
            return match input {
                [first, ..] if *first != magic => Err(Status::MAGIC),
                [_, version, ..] if *version != VERSION => Err(Status::FRAME_VERSION),
                _ => Ok(None),
            };
        };
        if bytes[0] != magic {
            return Err(Status::MAGIC);
        }
        if bytes[1] != VERSION {
            return Err(Status::FRAME_VERSION);
        }
        let known =
            if magic == MAGIC_REQUEST { flags::CRC } else { flags::CRC | flags::MORE | flags::NEW_MAP };
        let header = Header {
            magic,
            opcode: bytes[2],
            flags: bytes[3],
            id: u32_at(bytes, 4),
            body_len: u32_at(bytes, 8),
            key_len_or_status: u16_at(bytes, 12),
            detail: u16_at(bytes, 14),
        };
        if header.flags & !known != 0 {
            return Err(Status::FLAGS);
        }
        if header.body_len > BODY_BYTES_MAX {
            return Err(Status::FRAME_SIZE);
        }
        if header.has_crc() && (header.body_len as usize) < CRC_BYTES {
            return Err(Status::CRC);
        }
        Ok(Some(header))
    }

    /// The header as bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [self.magic, VERSION, self.opcode, self.flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.key_len_or_status.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.detail.to_le_bytes());
        bytes
    }

    /// Whether the body ends with a checksum.
    #[inline]
    pub const fn has_crc(&self) -> bool {
        self.flags & flags::CRC != 0
    }

    /// Bytes of header and body.
    #[inline]
    pub const fn frame_len(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }
}

/// The body of a whole frame, its checksum verified and cut off where it has one.
///
/// # Errors
/// [`Status::CRC`].
#[inline]
pub fn body<'a>(header: &Header, frame: &'a [u8]) -> Result<&'a [u8], Status> {
    let end = header.frame_len();
    if !header.has_crc() {
        return Ok(&frame[HEADER_BYTES..end]);
    }
    let (covered, sum) = frame[..end].split_at(end - CRC_BYTES);
    match crc32fast::hash(covered) == u32_at(sum, 0) {
        true => Ok(&covered[HEADER_BYTES..]),
        false => Err(Status::CRC),
    }
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What is known of an item beside key and value (3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Time to live in milliseconds; 0: without end.
    pub ttl_millis: u64,
    /// Version.
    pub version: Version,
    /// The client's own bits.
    pub flags: u32,
}

impl Meta {
    /// No end, no version, no flags.
    pub const PLAIN: Meta = Meta { ttl_millis: 0, version: Version::NONE, flags: 0 };

    /// The block as bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..8].copy_from_slice(&self.ttl_millis.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.version.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }

    #[inline]
    fn split(body: &[u8]) -> Option<(Meta, &[u8])> {
        let (bytes, rest) = body.split_first_chunk::<META_BYTES>()?;
        let meta = Meta {
            ttl_millis: u64_at(bytes, 0),
            version: Version(u64_at(bytes, 8)),
            flags: u32_at(bytes, 16),
        };
        Some((meta, rest))
    }
}

/// A frame being written: the header is there, its length and checksum come with [`Frame::end`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    start: usize,
    crc: bool,
}

impl Frame {
    #[inline]
    pub(crate) fn begin(
        magic: u8,
        opcode: u8,
        flags: u8,
        id: u32,
        key_len_or_status: u16,
        detail: u16,
        out: &mut Vec<u8>,
    ) -> Frame {
        let start = out.len();
        let header = Header { magic, opcode, flags, id, body_len: 0, key_len_or_status, detail };
        out.extend_from_slice(&header.to_bytes());
        Frame { start, crc: header.has_crc() }
    }

    #[inline]
    pub(crate) fn end(self, out: &mut Vec<u8>) {
        let crc_len = if self.crc { CRC_BYTES } else { 0 };
        self.set_body_len(out.len() - self.start - HEADER_BYTES + crc_len, out);
        if self.crc {
            let sum = crc32fast::hash(&out[self.start..]);
            out.extend_from_slice(&sum.to_le_bytes());
        }
    }

    /// Ends a frame that has so many bytes more than `out` shows; such a one has no checksum, which is of bytes that are seen.
    #[cold]
    pub(crate) fn end_beside(self, beside: usize, out: &mut [u8]) {
        assert!(!self.crc, "a checksum of what is not there");
        self.set_body_len(out.len() - self.start - HEADER_BYTES + beside, out);
    }

    #[inline(always)]
    fn set_body_len(self, body_len: usize, out: &mut [u8]) {
        let body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
        assert!(body_len <= BODY_BYTES_MAX, "a frame of {body_len} bytes");
        out[self.start + 8..self.start + 12].copy_from_slice(&body_len.to_le_bytes());
    }
}
