//! Which format a trace has, by its name and by how its bytes look.

use super::binary::{ORACLE_ROW_BYTES, OracleRow};
use super::{Format, RECORDED_MAGIC, TraceError, Words};
use std::collections::HashSet;
use std::path::Path;

/// Bytes that are looked at.
const LOOK_BYTES: usize = 4 << 20;
/// Bytes that must all be printable for a text.
const TEXT_BYTES: usize = 4096;
/// Rows that must make sense for oracleGeneral.
const ORACLE_ROWS: usize = 10_000;

pub(super) fn format(path: &Path, bytes: &[u8]) -> Result<Format, TraceError> {
    if bytes.is_empty() {
        return Err(TraceError::Empty);
    }
    if bytes.starts_with(&RECORDED_MAGIC[..7]) {
        return Ok(Format::Recorded);
    }
    by_name(path).or_else(|| by_bytes(bytes)).ok_or_else(|| {
        TraceError::Unknown(format!(
            "the format cannot be told from {} bytes that are neither text nor whole words; say --format",
            bytes.len()
        ))
    })
}

/// The format that a file's name tells: one of the parts between its dots.
fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    let part = |part: &str| Format::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(part));
    name.split('.').skip(1).find_map(part).map(|(_, format)| *format)
}

fn by_bytes(bytes: &[u8]) -> Option<Format> {
    let look = &bytes[..bytes.len().min(LOOK_BYTES)];
    if is_text(look) {
        let first = look.split(|&byte| byte == b'\n').next().unwrap_or(look);
        return Some(if first.contains(&b'\t') { Format::Tsv } else { Format::Csv });
    }
    if bytes.len().is_multiple_of(ORACLE_ROW_BYTES) && is_oracle_general(look) {
        return Some(Format::OracleGeneral);
    }
    let look = &look[..look.len() / 8 * 8];
    match bytes.len() {
        len if len % 8 == 0 && are_long_words(look) => Some(Format::Words(Words::I64Be)),
        len if len % 4 == 0 => Some(Format::Words(byte_order(look))),
        _ => None,
    }
}

fn is_text(look: &[u8]) -> bool {
    let printable = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
    let start = &look[..look.len().min(TEXT_BYTES)];
    start.iter().all(printable) && start.contains(&b'\n')
}

/// Times that never fall, and next accesses that lie ahead or nowhere.
fn is_oracle_general(look: &[u8]) -> bool {
    let mut before = 0;
    look.chunks_exact(ORACLE_ROW_BYTES).take(ORACLE_ROWS).enumerate().all(|(i, row)| {
        let row = OracleRow::read(row);
        let in_order = row.time_seconds >= before;
        before = row.time_seconds;
        in_order && (row.next == -1 || row.next >= i as i64)
    })
}

/// Whether words belong together in pairs: then the first and the second halves hardly share a value.
fn are_long_words(look: &[u8]) -> bool {
    let half = |offset: usize| -> HashSet<&[u8]> {
        look.chunks_exact(8).map(|row| &row[offset..offset + 4]).collect()
    };
    let (high, low) = (half(0), half(4));
    let shared = high.intersection(&low).count();
    // Small numbers have next to no high half.
    high.len() <= 2 + low.len() / 100 || shared * 10 < high.len().min(low.len())
}

/// In big-endian words the last bytes vary more than the first.
fn byte_order(look: &[u8]) -> Words {
    let variety = |byte: usize| look.chunks_exact(4).map(|word| word[byte]).collect::<HashSet<u8>>().len();
    if variety(0) + variety(1) <= variety(2) + variety(3) { Words::I32Be } else { Words::U32Le }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::mix;

    fn told(bytes: &[u8]) -> Format {
        format(Path::new("some.trace"), bytes).unwrap()
    }

    #[test]
    fn the_name_tells_if_it_can() {
        let by = |name: &str| format(Path::new(name), b"xxxxx").unwrap();
        assert_eq!(by("a.oracleGeneral.bin.zst"), Format::OracleGeneral);
        assert_eq!(by("b.trace.i64be.xz"), Format::Words(Words::I64Be));
        assert_eq!(by("c.CSV"), Format::Csv);
    }

    #[test]
    fn the_bytes_tell_where_the_name_does_not() {
        assert_eq!(told(b"key,size\n1,2\n"), Format::Csv);
        assert_eq!(told(b"host\turl\nx\ty\n"), Format::Tsv);
        assert_eq!(told(&RECORDED_MAGIC[..]), Format::Recorded);
        let keys: Vec<u64> = (0..50_000).map(|i| mix(i) % 20_000).collect();
        let be32: Vec<u8> = keys.iter().flat_map(|&key| (key as u32).to_be_bytes()).collect();
        assert_eq!(told(&be32), Format::Words(Words::I32Be));
        let le32: Vec<u8> = keys.iter().flat_map(|&key| (key as u32).to_le_bytes()).collect();
        assert_eq!(told(&le32), Format::Words(Words::U32Le));
        let small: Vec<u8> = keys.iter().flat_map(|key| key.to_be_bytes()).collect();
        assert_eq!(told(&small), Format::Words(Words::I64Be));
        let hashes: Vec<u8> = keys.iter().flat_map(|&key| mix(key).to_be_bytes()).collect();
        assert_eq!(told(&hashes), Format::Words(Words::I64Be));
        let mut oracle = Vec::new();
        for (i, key) in keys.iter().enumerate().take(24_000) {
            oracle.extend((i as u32 / 9).to_le_bytes());
            oracle.extend(mix(*key).to_le_bytes());
            oracle.extend(100u32.to_le_bytes());
            oracle.extend((if key % 3 == 0 { -1 } else { i as i64 + 5 }).to_le_bytes());
        }
        assert_eq!(told(&oracle), Format::OracleGeneral);
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let error = format(Path::new("x"), &[0, 1, 2, 3, 4]).unwrap_err().to_string();
        assert!(error.contains("say --format"), "{error}");
    }
}
