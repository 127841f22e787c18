//! Replies: what a server writes and a client reads.

use super::{HEADER_BYTES, Header, MAGIC_REPLY, Meta, Status, body, flags, u16_at, u32_at, u64_at};
use crate::ids::Version;

/// A reply as it stands in a frame; typed views of the body are its methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Id of the request.
    pub id: u32,
    /// Opcode of the request; 0 in errors of the connection.
    pub opcode: u8,
    /// How it ended.
    pub status: Status,
    /// Further frames of this request follow.
    pub more: bool,
    /// The shard map has changed.
    pub new_map: bool,
    /// By opcode: the item's place in a batch, the lease's bits, the core's number.
    pub detail: u16,
    /// The body without its checksum.
    pub body: &'a [u8],
}

/// Reads a reply from the front of `input`: the reply and the bytes it took, or `None` with the bytes needed at least.
///
/// # Errors
/// What is wrong with the frame, as a status of section 6.3; the stream is of no use any more.
#[inline]
pub fn decode_reply(input: &[u8]) -> Result<Decoded<'_>, Status> {
    let Some(header) = Header::read(MAGIC_REPLY, input)? else {
        return Ok(Decoded::More { at_least: HEADER_BYTES });
    };
    let len = header.frame_len();
    if input.len() < len {
        return Ok(Decoded::More { at_least: len });
    }
    let reply = Reply {
        id: header.id,
        opcode: header.opcode,
        status: Status(header.key_len_or_status),
        more: header.flags & flags::MORE != 0,
        new_map: header.flags & flags::NEW_MAP != 0,
        detail: header.detail,
        body: body(&header, input)?,
    };
    Ok(Decoded::Reply { reply, len })
}

/// What stood at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A part of a frame; this many bytes are needed to go on.
    More {
        /// Counted from the start of the input.
        at_least: usize,
    },
    /// A frame.
    Reply {
        /// The reply.
        reply: Reply<'a>,
        /// Bytes of the frame.
        len: usize,
    },
}

/// A server's answer to HELLO (4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply<'a> {
    /// The version to be spoken.
    pub version: u8,
    /// Cores that serve.
    pub cores: u16,
    /// What was asked for and is granted.
    pub capabilities: u32,
    /// The shard map's epoch.
    pub epoch: u64,
    /// Longest key.
    pub key_bytes_max: u32,
    /// Longest value.
    pub value_bytes_max: u32,
    /// Most items of a batch.
    pub batch_items_max: u32,
    /// Most requests of a connection under way at other cores.
    pub awaited_max: u32,
    /// The server's name.
    pub server: &'a [u8],
}

impl HelloReply<'_> {
    /// Appends the body.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.version, 0]);
        out.extend_from_slice(&self.cores.to_le_bytes());
        out.extend_from_slice(&self.capabilities.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        for limit in [self.key_bytes_max, self.value_bytes_max, self.batch_items_max, self.awaited_max] {
            out.extend_from_slice(&limit.to_le_bytes());
        }
        out.extend_from_slice(self.server);
    }
}

/// A core in the reply to MAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapOwner<'a> {
    /// The node.
    pub node: u16,
    /// The core's place in the node.
    pub core: u16,
    /// The core's own port; 0: it has none.
    pub port: u16,
    /// Address, empty: the one the client has connected to.
    pub address: &'a [u8],
}

/// A run of slots in the reply to MAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// First slot.
    pub first: u16,
    /// Last slot, included.
    pub last: u16,
    /// Place of the owner in the list of owners.
    pub owner: u16,
}

/// Appends the body of a MAP reply.
pub(crate) fn write_map<'a>(
    epoch: u64,
    owners: impl ExactSizeIterator<Item = MapOwner<'a>>,
    ranges: impl ExactSizeIterator<Item = MapRange>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&epoch.to_le_bytes());
    // Owners are cores and ranges are at most as many as shards: both fit.
    out.extend_from_slice(&(owners.len() as u16).to_le_bytes());
    out.extend_from_slice(&(ranges.len() as u16).to_le_bytes());
    for owner in owners {
        for number in [owner.node, owner.core, owner.port, owner.address.len() as u16] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(owner.address);
    }
    for range in ranges {
        for number in [range.first, range.last, range.owner] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// The body of a MAP reply, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapReply<'a> {
    /// Its epoch.
    pub epoch: u64,
    /// Who there is.
    pub owners: Vec<MapOwner<'a>>,
    /// Who owns what; each `owner` is a place in `owners`.
    pub ranges: Vec<MapRange>,
}

impl<'a> Reply<'a> {
    /// Meta block and value: of GET, GET_NEWER, GET_MANY, LEASE_GET; with an empty value of TOUCH and of NOT_NEWER.
    #[inline]
    pub fn item(&self) -> Option<(Meta, &'a [u8])> {
        Meta::split(self.body)
    }

    /// The version written: of PUT, LEASE_PUT, PUT_MANY.
    #[inline]
    pub fn stored(&self) -> Option<Version> {
        Some(Version(u64::from_le_bytes(self.body.try_into().ok()?)))
    }

    /// Items that were removed at once: of each frame of INVALIDATE_ALL.
    pub fn forgotten(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.body.try_into().ok()?))
    }

    /// The answer to HELLO; what stands behind the fields known here belongs to the name.
    pub fn hello(&self) -> Option<HelloReply<'a>> {
        let (fixed, server) = self.body.split_first_chunk::<32>()?;
        Some(HelloReply {
            version: fixed[0],
            cores: u16_at(fixed, 2),
            capabilities: u32_at(fixed, 4),
            epoch: u64_at(fixed, 8),
            key_bytes_max: u32_at(fixed, 16),
            value_bytes_max: u32_at(fixed, 20),
            batch_items_max: u32_at(fixed, 24),
            awaited_max: u32_at(fixed, 28),
            server,
        })
    }

    /// The shard map; `None` if it is not one, or names owners that are not in it, or leaves slots out.
    pub fn map(&self) -> Option<MapReply<'a>> {
        let (fixed, mut rest) = self.body.split_first_chunk::<12>()?;
        let (owner_count, range_count) = (u16_at(fixed, 8), u16_at(fixed, 10));
        let mut owners = Vec::new();
        for _ in 0..owner_count {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            let (address, tail) = tail.split_at_checked(usize::from(u16_at(head, 6)))?;
            owners.push(MapOwner {
                node: u16_at(head, 0),
                core: u16_at(head, 2),
                port: u16_at(head, 4),
                address,
            });
            rest = tail;
        }
        let mut ranges = Vec::new();
        let mut next = 0u32;
        for _ in 0..range_count {
            let (bytes, tail) = rest.split_first_chunk::<6>()?;
            let range = MapRange { first: u16_at(bytes, 0), last: u16_at(bytes, 2), owner: u16_at(bytes, 4) };
            if u32::from(range.first) != next || range.last < range.first || range.owner >= owner_count {
                return None;
            }
            next = u32::from(range.last) + 1;
            ranges.push(range);
            rest = tail;
        }
        (next == u32::from(crate::ids::SLOT_COUNT)).then_some(MapReply {
            epoch: u64_at(fixed, 0),
            owners,
            ranges,
        })
    }

    /// The text of a fault, as far as it is UTF-8.
    pub fn text(&self) -> std::borrow::Cow<'a, str> {
        String::from_utf8_lossy(self.body)
    }
}
