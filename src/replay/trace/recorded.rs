//! Traces as `foreshadow record` writes them ([`crate::recording`]), or whoever else: fixed rows, with times, clients and sizes.
//!
//! Reads are what is replayed. Writes and what origins told tell sizes. A recording that had to leave keys out on its way has
//! rows of them before that; here they are left out from the beginning, so that each key is in the trace as a whole.

use super::{Row, Rows, TraceError, binary, size_in};
use crate::recording::{self, Kind, ROW_BYTES};

pub use crate::recording::MAGIC;

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
    let (all, _) = body.as_chunks::<ROW_BYTES>();
    let narrowed = all.iter().map(recording::Row::read).filter(|row| row.kind == Kind::Narrowed.number());
    let key_max = narrowed.map(|row| row.key).min().unwrap_or(u64::MAX);
    for (i, row) in all.iter().map(recording::Row::read).enumerate() {
        let offset = MAGIC.len() + i * ROW_BYTES;
        let Some(kind) = Kind::of(row.kind) else {
            let message = format!("expected a kind of row, found {}; is this the right format?", row.kind);
            return Err(TraceError::Bad { offset: offset as u64 + 28, row: i as u64 + 1, message });
        };
        let size = size_in(row.size, offset + 24, i)?;
        match kind {
            Kind::Read if row.key <= key_max => {
                rows.push(&Row { name: row.key, size, time_nanos: Some(row.nanos), client: Some(row.client) })
            }
            Kind::Write | Kind::Size => rows.tell_size(row.key, size),
            Kind::Read | Kind::Narrowed | Kind::End => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::{Format, Trace};

    fn of_kinds(rows: &[(u64, u64, u64, u32, Kind)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for &(nanos, key, client, size, kind) in rows {
            recording::Row { nanos, key, client, size, kind: kind.number() }.write(&mut bytes);
        }
        bytes
    }

    fn recording(rows: &[(u64, u64, u64, u32)]) -> Vec<u8> {
        let reads = rows.iter().map(|&(nanos, key, client, size)| (nanos, key, client, size, Kind::Read));
        of_kinds(&reads.collect::<Vec<_>>())
    }

    #[test]
    fn writes_and_origins_tell_sizes_and_keys_left_out_on_the_way_are_left_out_from_the_beginning() {
        let bytes = of_kinds(&[
            (1, 5, 1, 0, Kind::Read),
            (1, 900, 1, 0, Kind::Read),
            (2, 7, 1, 300, Kind::Write),
            (3, 5, 0, 40, Kind::Size),
            (4, 500, 0, 0, Kind::Narrowed),
            (5, 7, 2, 0, Kind::Read),
            (6, 600, 0, 9, Kind::Size),
            (u64::MAX, 0, 0, 0, Kind::End),
        ]);
        let trace = Trace::parse(&bytes, Format::Recorded).unwrap();
        assert_eq!((trace.names, trace.sizes), (vec![5, 7], vec![40, 300]));
        assert_eq!((trace.times, trace.clients), (vec![1, 5], vec![0, 1]));
        let mut bytes = recording(&[(5, 77, 1, 10)]);
        bytes[8 + 28] = 3;
        let error = Trace::parse(&bytes, Format::Recorded).unwrap_err().to_string();
        assert!(error.starts_with("row 1 at byte 36: expected a kind of row, found 3"), "{error}");
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
