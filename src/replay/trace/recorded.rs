//! Traces as a proxy or a server would record them, for whoever writes one: fixed rows, with times, clients and sizes.
//!
//! ```text
//! header   8 bytes  "FSREC\0\0\1"
//! rows    32 bytes  time u64 (nanoseconds), key u64 (keyed hash), client u64, size u32, flags u32; little-endian
//! ```
//! Flag 1: the request was a write. The key is a hash with a secret of the recording process, so a recorded trace tells
//! nobody which keys there were; nor does it tell which keys are neighbours.

use super::{Row, Rows, TraceError, binary, size_in};

/// How a recorded trace begins; the last byte is the version.
pub const MAGIC: &[u8; 8] = b"FSREC\0\0\x01";
/// Bytes of a row.
const ROW_BYTES: usize = 32;

pub(super) fn parse(bytes: &[u8], rows: &mut Rows) -> Result<(), TraceError> {
    let Some(body) = bytes.strip_prefix(MAGIC) else {
        let message = match bytes.get(..7) == Some(&MAGIC[..7]) {
            true => {
                format!("this is version {} of the format, {} is known", bytes.get(7).unwrap_or(&0), MAGIC[7])
            }
            false => "a recorded trace begins with FSREC".to_owned(),
        };
        return Err(TraceError::Bad { offset: 0, row: 0, message });
    };
    binary::check_width(body, ROW_BYTES).map_err(|error| match error {
        TraceError::Bad { offset, row, message } => {
            TraceError::Bad { offset: offset + MAGIC.len() as u64, row, message }
        }
        other => other,
    })?;
    for (i, row) in body.chunks_exact(ROW_BYTES).enumerate() {
        let long = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
        let size = u32::from_le_bytes(row[24..28].try_into().expect("four bytes"));
        rows.push(&Row {
            name: long(8),
            size: size_in(size, MAGIC.len() + i * ROW_BYTES + 24, i)?,
            time_nanos: Some(long(0)),
            client: Some(long(16)),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::{Format, Trace};

    fn recording(rows: &[(u64, u64, u64, u32)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (time, key, client, size) in rows {
            bytes.extend(time.to_le_bytes());
            bytes.extend(key.to_le_bytes());
            bytes.extend(client.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }

    #[test]
    fn rows_come_back_as_recorded() {
        let bytes = recording(&[(5, 77, 1, 10), (9, 78, 2, 20), (9, 77, 1, 10)]);
        let trace = Trace::parse(&bytes, Format::Recorded).unwrap();
        assert_eq!((trace.names, trace.ids), (vec![77, 78], vec![0, 1, 0]));
        assert_eq!((trace.times, trace.clients), (vec![5, 9, 9], vec![0, 1, 0]));
        assert_eq!(trace.sizes, [10, 20]);
    }

    #[test]
    fn a_cut_or_a_strange_version_is_told() {
        let mut bytes = recording(&[(5, 77, 1, 10), (9, 78, 2, 20)]);
        bytes.truncate(8 + 32 + 31);
        let error = Trace::parse(&bytes, Format::Recorded).unwrap_err().to_string();
        assert!(error.starts_with("row 2 at byte 40: a row needs 32 bytes and 31 are there"), "{error}");
        bytes[7] = 9;
        let error = Trace::parse(&bytes, Format::Recorded).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
        bytes[0] = b'x';
        assert!(
            Trace::parse(&bytes, Format::Recorded).unwrap_err().to_string().contains("begins with FSREC")
        );
    }
}
