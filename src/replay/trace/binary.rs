//! Traces of fixed-width rows: plain words, and libCacheSim's oracleGeneral.

use super::{ROWS_MAX, Row, Rows, TraceError, size_in};

/// Rows that are nothing but a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Big-endian 32 bits.
    I32Be,
    /// Big-endian 64 bits.
    I64Be,
    /// Little-endian 32 bits.
    U32Le,
}

impl Words {
    /// Bytes of a row.
    pub fn width(self) -> usize {
        if self == Words::I64Be { 8 } else { 4 }
    }
}

/// Bytes of an oracleGeneral row.
pub(super) const ORACLE_ROW_BYTES: usize = 24;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// One of the fields of an oracleGeneral row.
#[derive(Clone, Copy)]
pub(super) struct OracleRow {
    pub time_seconds: u32,
    pub key: u64,
    pub size: u32,
    /// Number of the request that asks for the same key next; -1 (or the greatest i64) if none does.
    pub next: i64,
}

impl OracleRow {
    pub(super) fn read(row: &[u8]) -> OracleRow {
        OracleRow {
            time_seconds: u32_le(&row[..4]),
            key: u64::from_le_bytes(row[4..12].try_into().expect("eight bytes")),
            size: u32_le(&row[12..16]),
            next: i64::from_le_bytes(row[16..24].try_into().expect("eight bytes")),
        }
    }
}

pub(super) fn words(bytes: &[u8], words: Words, rows: &mut Rows) -> Result<(), TraceError> {
    check_width(bytes, words.width())?;
    for row in bytes.chunks_exact(words.width()) {
        let name = match words {
            Words::I32Be => u64::from(u32::from_be_bytes(row.try_into().expect("four bytes"))),
            Words::U32Le => u64::from(u32_le(row)),
            Words::I64Be => u64::from_be_bytes(row.try_into().expect("eight bytes")),
        };
        rows.push(&Row { name, ..Row::default() });
    }
    Ok(())
}

pub(super) fn oracle_general(bytes: &[u8], rows: &mut Rows) -> Result<(), TraceError> {
    check_width(bytes, ORACLE_ROW_BYTES)?;
    for (i, row) in bytes.chunks_exact(ORACLE_ROW_BYTES).enumerate() {
        let row = OracleRow::read(row);
        if row.next < -1 {
            return Err(TraceError::Bad {
                offset: (i * ORACLE_ROW_BYTES + 16) as u64,
                row: i as u64 + 1,
                message: format!(
                    "the next access should be -1 or a number of a request, and is {}; is this oracleGeneral?",
                    row.next
                ),
            });
        }
        let time_nanos = Some(u64::from(row.time_seconds) * NANOS_PER_SECOND);
        let size = size_in(row.size, i * ORACLE_ROW_BYTES + 12, i)?;
        rows.push(&Row { name: row.key, size, time_nanos, client: None });
    }
    Ok(())
}

/// Whether a file is whole rows, and not too many.
pub(super) fn check_width(bytes: &[u8], width: usize) -> Result<(), TraceError> {
    let count = bytes.len() / width;
    let left = bytes.len() % width;
    if left > 0 {
        return Err(TraceError::Bad {
            offset: (count * width) as u64,
            row: count as u64 + 1,
            message: format!(
                "a row needs {width} bytes and {left} are there: the file is cut short or has another format"
            ),
        });
    }
    if count > ROWS_MAX {
        return Err(TraceError::Bad {
            offset: (ROWS_MAX * width) as u64,
            row: ROWS_MAX as u64 + 1,
            message: format!("a trace may have {ROWS_MAX} rows"),
        });
    }
    Ok(())
}

fn u32_le(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use crate::replay::trace::{Format, Trace, TraceError, Words};

    #[test]
    fn words_are_read_in_their_byte_order() {
        let be32: Vec<u8> = [1i32, -1, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
        let trace = Trace::parse(&be32, Format::Words(Words::I32Be)).unwrap();
        assert_eq!((trace.names, trace.ids), (vec![1, 0xffff_ffff], vec![0, 1, 0]));
        let le32: Vec<u8> = [1u32, 256].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(Trace::parse(&le32, Format::Words(Words::U32Le)).unwrap().names, [1, 256]);
        let be64: Vec<u8> = [-2i64, 3].iter().flat_map(|n| n.to_be_bytes()).collect();
        assert_eq!(Trace::parse(&be64, Format::Words(Words::I64Be)).unwrap().names, [u64::MAX - 1, 3]);
    }

    #[test]
    fn oracle_general_tells_times_and_sizes() {
        let mut bytes = Vec::new();
        for (time, key, size, next) in [(5u32, 7u64, 100u32, 1i64), (6, 7, 100, -1), (6, 8, 50, i64::MAX)] {
            bytes.extend(time.to_le_bytes());
            bytes.extend(key.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        let trace = Trace::parse(&bytes, Format::OracleGeneral).unwrap();
        assert_eq!((trace.ids, trace.sizes), (vec![0, 0, 1], vec![100, 50]));
        assert_eq!(trace.times, [5_000_000_000, 6_000_000_000, 6_000_000_000]);
        bytes[16 + 7] = 0x80;
        let error = Trace::parse(&bytes, Format::OracleGeneral).unwrap_err().to_string();
        assert!(error.starts_with("row 1 at byte 16: the next access should be"), "{error}");
    }

    #[test]
    fn a_row_that_is_cut_short_is_told_with_its_place() {
        for (name, format) in Format::NAMES {
            if matches!(format, Format::Csv | Format::Tsv | Format::Recorded) {
                continue;
            }
            let error = Trace::parse(&[0; 51], format).unwrap_err();
            let TraceError::Bad { offset, row, message } = error else { panic!("{name}: {error}") };
            assert_eq!(
                (offset, row),
                if name == "oracleGeneral" {
                    (48, 3)
                } else if name == "i64be" {
                    (48, 7)
                } else {
                    (48, 13)
                }
            );
            assert!(message.contains("3 are there"), "{message}");
        }
    }
}
