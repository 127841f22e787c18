//! The frames of the shard stream, between nodes (section 8).

use super::{CRC_BYTES, Frame, HEADER_BYTES, Header, MAGIC_REQUEST, Status, flags, u16_at, u32_at, u64_at};

/// What is at the front of the body of a frame of the shard stream (8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardBlock {
    /// Which move.
    pub migration: u64,
    /// Place of the frame in the stream.
    pub sequence: u64,
    /// The shard's epoch.
    pub epoch: u32,
    /// Which attempt at the move.
    pub attempt: u32,
    /// The shard's number.
    pub shard: u16,
}

impl ShardBlock {
    /// Bytes of header and block.
    pub const HEAD_BYTES: usize = 48;
    /// Opcodes of the shard stream.
    pub const OPCODES: std::ops::RangeInclusive<u8> = 0xC0..=0xDF;

    /// Appends a whole frame: header, block, payload and both checksums.
    ///
    /// # Panics
    /// If the frame is longer than [`super::BODY_BYTES_MAX`].
    pub fn encode(&self, opcode: u8, id: u32, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let frame = Frame::begin(MAGIC_REQUEST, opcode, flags::CRC, id, 0, 0, out);
        out.extend_from_slice(&self.migration.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.attempt.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        // The block's checksum covers the header with its length, so the length has to be there before.
        let body_len = 32 + payload.len() + CRC_BYTES;
        out[start + 8..start + 12]
            .copy_from_slice(&u32::try_from(body_len).unwrap_or(u32::MAX).to_le_bytes());
        let sum = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(payload);
        frame.end(out);
    }

    /// Reads header and block of a frame, both checked by the block's checksum; `None` if `input` is shorter.
    ///
    /// # Errors
    /// As [`Header::read`]; [`Status::UNSUPPORTED`] for other opcodes, [`Status::CRC`] for a frame without or with a wrong
    /// checksum, [`Status::MALFORMED`] for a shard that there is not and bytes that must be 0.
    pub fn read(input: &[u8]) -> Result<Option<(Header, ShardBlock)>, Status> {
        let Some(header) = Header::read(MAGIC_REQUEST, input)? else { return Ok(None) };
        if !ShardBlock::OPCODES.contains(&header.opcode) {
            return Err(Status::UNSUPPORTED);
        }
        if !header.has_crc() {
            return Err(Status::CRC);
        }
        if (header.body_len as usize) < ShardBlock::HEAD_BYTES - HEADER_BYTES + CRC_BYTES {
            return Err(Status::MALFORMED);
        }
        let Some(bytes) = input.first_chunk::<{ ShardBlock::HEAD_BYTES }>() else { return Ok(None) };
        if crc32fast::hash(&bytes[..44]) != u32_at(bytes, 44) {
            return Err(Status::CRC);
        }
        let block = ShardBlock {
            migration: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            epoch: u32_at(bytes, 32),
            attempt: u32_at(bytes, 36),
            shard: u16_at(bytes, 40),
        };
        let zeros = header.key_len_or_status == 0 && header.detail == 0 && u16_at(bytes, 42) == 0;
        if block.shard >= crate::ids::SHARD_COUNT || !zeros {
            return Err(Status::MALFORMED);
        }
        Ok(Some((header, block)))
    }
}
