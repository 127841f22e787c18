//! Traces of text: a header line that names the columns, then a line per request.
//!
//! Known columns (upper case, blanks and signs do not matter); those not known are passed over:
//!
//! | column | names |
//! |---|---|
//! | key (demanded) | key, anonymized key, object, object id, obj, obj id, id, item, url, lbn, lba, block, address, addr |
//! | size | size, bytes, object size, obj size, value size, length, len |
//! | time | time, timestamp, ts, real time, clock time; a unit may follow (`time_us`) |
//! | client | client, client id, host, connection, user, session |
//!
//! Without a header two shapes are known: one column (keys), and the seven of Twitter's cache traces. A key that is a number
//! is that number; any other is a hash of its text before the trailing number, plus the number, so that neighbours stay
//! neighbours.

use super::{ROWS_MAX, Row, Rows, SIZE_EXPECTED, TraceError, mix, name_of_text, size_of};

const KEY_NAMES: &[&str] = &[
    "key",
    "anonymizedkey",
    "object",
    "objectid",
    "obj",
    "objid",
    "id",
    "item",
    "url",
    "lbn",
    "lba",
    "block",
    "address",
    "addr",
];
const SIZE_NAMES: &[&str] = &["size", "bytes", "objectsize", "objsize", "valuesize", "length", "len"];
const TIME_NAMES: &[&str] = &["time", "timestamp", "ts", "realtime", "clocktime"];
const CLIENT_NAMES: &[&str] = &["client", "clientid", "host", "connection", "user", "session"];
/// Units that may follow the name of the time, and nanoseconds in each.
const UNITS: &[(&str, f64)] = &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
/// Twitter's columns: timestamp, key, key size, value size, client, operation, TTL.
const TWITTER: Columns =
    Columns { count: 7, key: 1, size: Some(3), time: Some(0), client: Some(4), nanos_per_unit: Some(1e9) };
/// Longest piece of a line that an error repeats.
const QUOTE_BYTES: usize = 40;

/// Where in a line what stands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Columns {
    count: usize,
    key: usize,
    size: Option<usize>,
    time: Option<usize>,
    client: Option<usize>,
    nanos_per_unit: Option<f64>,
}

pub(super) fn parse(bytes: &[u8], separator: u8, rows: &mut Rows) -> Result<(), TraceError> {
    let mut columns: Option<Columns> = None;
    let mut offset = 0;
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line_offset = offset;
        offset += line.len() as u64 + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let bad = |at: u64, message| TraceError::Bad { offset: line_offset + at, row: i as u64 + 1, message };
        if let Some(at) = line.iter().position(|&byte| byte.is_ascii_control() && byte != b'\t') {
            let message = format!("expected text, found the byte 0x{:02x}: this is another format", line[at]);
            return Err(bad(at as u64, message));
        }
        let Some(columns) = &mut columns else {
            let (found, is_header) = columns_of(line, separator).map_err(|message| bad(0, message))?;
            if !is_header {
                rows.push(
                    &row_of(line, separator, columns.insert(found))
                        .map_err(|(at, message)| bad(at, message))?,
                );
            }
            columns = Some(found);
            continue;
        };
        if rows.trace.len() == ROWS_MAX {
            return Err(bad(0, format!("a trace may have {ROWS_MAX} rows")));
        }
        rows.push(&row_of(line, separator, columns).map_err(|(at, message)| bad(at, message))?);
    }
    Ok(())
}

/// The columns that a first line tells, and whether it is a header.
fn columns_of(line: &[u8], separator: u8) -> Result<(Columns, bool), String> {
    let fields: Vec<String> = line.split(|&byte| byte == separator).map(plain_name).collect();
    let find = |names: &[&str]| names.iter().find_map(|name| fields.iter().position(|field| field == name));
    if let Some(key) = find(KEY_NAMES) {
        let mut time = find(TIME_NAMES);
        let mut nanos_per_unit = None;
        for (unit, nanos) in UNITS {
            let named = |field: &String| {
                field.strip_suffix(unit).is_some_and(|name| TIME_NAMES.contains(&name) && name != "t")
            };
            if time.is_none() && fields.iter().any(named) {
                time = fields.iter().position(named);
                nanos_per_unit = Some(*nanos);
            }
        }
        let columns = Columns {
            count: fields.len(),
            key,
            size: find(SIZE_NAMES),
            time,
            client: find(CLIENT_NAMES),
            nanos_per_unit,
        };
        return Ok((columns, true));
    }
    let numeric = |field: &String| field.parse::<f64>().is_ok();
    match fields.len() {
        // Several words are no key: the columns are parted by something else, or this is no trace.
        1 if !line.trim_ascii().iter().any(|byte| b" \t,;|".contains(byte)) => Ok((
            Columns { count: 1, key: 0, size: None, time: None, client: None, nanos_per_unit: None },
            false,
        )),
        7 if [0, 2, 3, 4, 6].iter().all(|&i| numeric(&fields[i])) && !numeric(&fields[5]) => {
            Ok((TWITTER, false))
        }
        _ => Err(format!(
            "expected a header with a column for the key ({}), found `{}`",
            KEY_NAMES[..4].join(", "),
            quote(line)
        )),
    }
}

/// A column's name without what does not matter.
fn plain_name(field: &[u8]) -> String {
    let kept = field.iter().filter(|byte| byte.is_ascii_alphanumeric() || **byte == b'.');
    kept.map(|byte| byte.to_ascii_lowercase() as char).collect()
}

/// A line as a row; else where in the line what is wrong.
fn row_of(line: &[u8], separator: u8, columns: &mut Columns) -> Result<Row, (u64, String)> {
    let mut row = Row::default();
    let mut key = None;
    let mut at = 0;
    let mut count = 0;
    for (i, field) in line.split(|&byte| byte == separator).enumerate() {
        let text = field.trim_ascii();
        let is = |column: Option<usize>| column == Some(i);
        if i == columns.key {
            key = Some(name_of_key(text));
        } else if is(columns.size) {
            // Logs write `-` or nothing where nothing was sent.
            if !text.is_empty() && text != b"-" {
                let size: u64 = number(text).ok_or_else(|| (at, expected("a size in bytes", text)))?;
                row.size = size_of(size).ok_or_else(|| (at, expected(SIZE_EXPECTED, text)))?;
            }
        } else if is(columns.time) {
            let time: f64 = number(text).ok_or_else(|| (at, expected("a time in numbers", text)))?;
            if !(time >= 0.0 && time.is_finite()) {
                return Err((at, expected("a time that is not negative", text)));
            }
            let unit = *columns.nanos_per_unit.get_or_insert_with(|| unit_of(time));
            row.time_nanos = Some((time * unit) as u64);
        } else if is(columns.client) {
            row.client = Some(name_of_text(text));
        }
        at += field.len() as u64 + 1;
        count = i + 1;
    }
    let needed = [Some(columns.key), columns.size, columns.time].into_iter().flatten().max().unwrap_or(0) + 1;
    match key {
        Some(name) if count >= needed && (columns.client < Some(count) || count == columns.count) => {
            row.name = name;
            Ok(row)
        }
        _ => Err((
            at.saturating_sub(1),
            format!("the line ends after {count} of {} columns: `{}`", columns.count, quote(line)),
        )),
    }
}

/// Nanoseconds in the unit of a time whose unit nobody names: seconds, unless it would be past the year 5000.
fn unit_of(time: f64) -> f64 {
    match time {
        t if t >= 1e17 => 1.0,
        t if t >= 1e14 => 1e3,
        t if t >= 1e11 => 1e6,
        _ => 1e9,
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn name_of_key(text: &[u8]) -> u64 {
    if let Some(number) = number::<u64>(text).or_else(|| number::<i64>(text).map(|n| n as u64)) {
        return number;
    }
    let digits = text.iter().rev().take(18).take_while(|byte| byte.is_ascii_digit()).count();
    let mut split = text.len() - digits;
    // What leads with a zero is a name, not a number.
    while text.get(split) == Some(&b'0') && split + 1 < text.len() {
        split += 1;
    }
    let tail = number::<u64>(&text[split..]).unwrap_or(0);
    // The prefix's hash is scrambled once more, so that no text is taken for a plain number.
    mix(name_of_text(&text[..split]) ^ u64::from(digits > 0)).wrapping_add(tail)
}

fn expected(what: &str, text: &[u8]) -> String {
    format!("expected {what}, found `{}`", quote(text))
}

fn quote(text: &[u8]) -> String {
    let cut = if text.len() > QUOTE_BYTES { ".." } else { "" };
    format!("{}{cut}", String::from_utf8_lossy(&text[..text.len().min(QUOTE_BYTES)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::{Format, Trace};

    fn csv(text: &str) -> Result<Trace, TraceError> {
        Trace::parse(text.as_bytes(), Format::Csv)
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let trace =
            csv("version,time,op,size,lbn\n1,10,2a,512,77\n1,11,28,1024,78\r\n1,11,28,9,77\n").unwrap();
        assert_eq!((trace.names, trace.sizes, trace.ids), (vec![77, 78], vec![512, 1024], vec![0, 1, 0]));
        assert_eq!(trace.times, [10_000_000_000, 11_000_000_000, 11_000_000_000]);
        assert!(trace.clients.is_empty());
        let trace = csv("# time, object, size, next_access_vtime\n1, 5, 3, 9\n").unwrap();
        assert_eq!((trace.names, trace.sizes), (vec![5], vec![3]));
        let trace = csv("time_ms,Client ID,obj_id\n1.5,x,5\n2,y,5\n3,x,5").unwrap();
        assert_eq!((trace.times, trace.clients), (vec![1_500_000, 2_000_000, 3_000_000], vec![0, 1, 0]));
        assert!(!trace.sized);
    }

    #[test]
    fn known_shapes_need_no_header() {
        assert_eq!(csv("5\n6\n5\n").unwrap().ids, [0, 1, 0]);
        let trace = csv("0,abc,3,100,17,get,0\n1,abd,3,50,18,get,0\n").unwrap();
        assert_eq!((trace.sizes, trace.clients), (vec![100, 50], vec![0, 1]));
    }

    #[test]
    fn epochs_in_milliseconds_are_seen() {
        assert_eq!(csv("ts,key\n1700000000000,1\n").unwrap().times, [1_700_000_000_000_000_000]);
        assert_eq!(csv("ts,key\n1700000000,1\n").unwrap().times, [1_700_000_000_000_000_000]);
    }

    #[test]
    fn neighbours_stay_neighbours_and_names_do_not_collide() {
        let trace =
            csv("key\nuser:7:page:3\nuser:7:page:4\nuser:7:page:10\nuser:7:page:04\nuser:7:page:\n3\n")
                .unwrap();
        let names = trace.names;
        assert_eq!((names[1].wrapping_sub(names[0]), names[2].wrapping_sub(names[0])), (1, 7));
        assert_eq!(names.len(), 6, "all differ: {names:?}");
        assert_eq!(names[5], 3);
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_byte() {
        let fail = |text: &str| csv(text).unwrap_err().to_string();
        let error = fail("key,size\n1,10\n2,ten\n");
        assert_eq!(error, "row 3 at byte 16: expected a size in bytes, found `ten`");
        let error = fail("time,size,key\n1,10,5\n2,1\n");
        assert_eq!(error, "row 3 at byte 24: the line ends after 2 of 3 columns: `2,1`");
        assert!(fail("a,b\n1,2\n").contains("expected a header with a column for the key"));
        assert!(fail("time,key\n-1,2\n").contains("not negative"));
        assert!(fail("key,size\n1,4294967296\n").contains("a size of at most 1 GiB"));
    }
}
