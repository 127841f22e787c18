//! A trace: which keys were asked for, in which order, and what else its rows tell.
//!
//! A file is read whole and becomes columns. Keys are numbered in the order of their first appearance (ids), so that
//! policies can keep what they know of a key in arrays. An id carries no meaning: what the key *was* stands in
//! [`Trace::names`], and only there is a neighbour a neighbour.
//!
//! ```text
//! file -> source (xz, zstd, plain) -> detect (which format) -> binary | text | recorded -> Rows -> Trace
//! ```
//! An item's size is that of its first appearance with any: sizes that change on the way would make a policy's misses
//! depend on what it does with a changed item. The field's simulators do the same; their numbers come out exactly.

mod binary;
mod detect;
mod recorded;
mod source;
mod text;

pub use binary::Words;
use recorded::MAGIC as RECORDED_MAGIC;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

/// Bytes that an item has in a trace without sizes.
pub const UNSIZED_ITEM_BYTES: u32 = 1000;
/// Most rows of a trace: they are numbered with 32 bits.
pub const ROWS_MAX: usize = u32::MAX as usize - 1;

/// How the rows of a trace are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// libCacheSim's binary: little-endian time u32 (seconds), key u64, size u32, next access i64.
    OracleGeneral,
    /// Text with a header line, separated by commas.
    Csv,
    /// Text with a header line, separated by tabs.
    Tsv,
    /// Nothing but keys.
    Words(Words),
    /// What `foreshadow record` writes.
    Recorded,
}

impl Format {
    /// Names and formats, as the command line has them.
    pub const NAMES: [(&'static str, Format); 7] = [
        ("oracleGeneral", Format::OracleGeneral),
        ("csv", Format::Csv),
        ("tsv", Format::Tsv),
        ("i32be", Format::Words(Words::I32Be)),
        ("i64be", Format::Words(Words::I64Be)),
        ("u32le", Format::Words(Words::U32Le)),
        ("recorded", Format::Recorded),
    ];

    /// The format's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("auto", |(name, _)| name)
    }
}

/// A trace in columns. `ids` has an entry per row; `times` and `clients` have one per row or none at all.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The key of each row.
    pub ids: Vec<u32>,
    /// When each row came, in nanoseconds; empty if the trace does not tell. Never falls.
    pub times: Vec<u64>,
    /// Who asked; empty if the trace does not tell.
    pub clients: Vec<u32>,
    /// Bytes of each item, by id.
    pub sizes: Vec<u32>,
    /// What each key was, by id: its number, or a hash of its text.
    pub names: Vec<u64>,
    /// Whether the sizes are the trace's own.
    pub sized: bool,
    /// Number of clients, 1 if the trace does not tell.
    pub client_count: u32,
}

impl Trace {
    /// Reads a trace. `format` of `None` finds out. `progress` is told bytes read and bytes in all, now and then.
    pub fn read(
        path: &Path,
        format: Option<Format>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Trace, TraceError> {
        let bytes = source::read(path, progress)?;
        let format = match format {
            Some(format) => format,
            None => detect::format(path, &bytes)?,
        };
        Trace::parse(&bytes, format)
    }

    /// A trace from its bytes as they are after decompression.
    pub fn parse(bytes: &[u8], format: Format) -> Result<Trace, TraceError> {
        let mut rows = Rows::default();
        match format {
            Format::OracleGeneral => binary::oracle_general(bytes, &mut rows)?,
            Format::Words(words) => binary::words(bytes, words, &mut rows)?,
            Format::Csv => text::parse(bytes, b',', &mut rows)?,
            Format::Tsv => text::parse(bytes, b'\t', &mut rows)?,
            Format::Recorded => recorded::parse(bytes, &mut rows)?,
        }
        rows.finish()
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none; a trace that was read has some.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of different keys.
    pub fn footprint_items(&self) -> usize {
        self.sizes.len()
    }

    /// Bytes of all items together.
    pub fn footprint_bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| u64::from(size)).sum()
    }

    /// Bytes asked for in all.
    pub fn request_bytes(&self) -> u64 {
        self.ids.iter().map(|&id| u64::from(self.sizes[id as usize])).sum()
    }

    /// For each row the next one of the same key, `u32::MAX` if there is none.
    pub fn next_rows(&self) -> Vec<u32> {
        let mut seen = vec![u32::MAX; self.footprint_items()];
        let mut next = vec![u32::MAX; self.len()];
        for (row, &id) in self.ids.iter().enumerate().rev() {
            next[row] = seen[id as usize];
            seen[id as usize] = row as u32;
        }
        next
    }
}

/// What is wrong with a trace.
#[derive(Debug)]
pub enum TraceError {
    /// The file cannot be read.
    Unreadable(std::io::Error),
    /// The compressed stream is damaged or ends early.
    Compressed {
        /// The compression.
        kind: &'static str,
        /// Bytes of the file that were taken in before.
        offset: u64,
        /// What the decompressor says.
        error: std::io::Error,
    },
    /// A row is not what it should be.
    Bad {
        /// Where, in bytes from the (decompressed) beginning.
        offset: u64,
        /// Which row, or line of text, from 1.
        row: u64,
        /// What was expected there, and what is there.
        message: String,
    },
    /// There is not one row.
    Empty,
    /// The format cannot be told.
    Unknown(String),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Unreadable(error) => write!(f, "cannot be read: {error}"),
            TraceError::Compressed { kind, offset, error } => {
                write!(
                    f,
                    "the {kind} stream is damaged or cut short within the first {offset} bytes: {error}"
                )
            }
            TraceError::Bad { offset, row, message } => write!(f, "row {row} at byte {offset}: {message}"),
            TraceError::Empty => write!(f, "there are no rows in it"),
            TraceError::Unknown(message) => write!(f, "{message}"),
        }
    }
}

impl std::error::Error for TraceError {}

/// A row as a format reads it.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// The key's number, or a hash of its text.
    name: u64,
    /// Bytes of the item; 0 if this row does not tell.
    size: u32,
    time_nanos: Option<u64>,
    client: Option<u64>,
}

/// Largest item a row may tell of: beyond, it is a field that is no size.
const ITEM_BYTES_MAX: u64 = 1 << 30;
/// What an error calls that.
const SIZE_EXPECTED: &str = "a size of at most 1 GiB";

/// A size that a row tells, if it can be one.
fn size_of(bytes: u64) -> Option<u32> {
    u32::try_from(bytes).ok().filter(|&bytes| u64::from(bytes) <= ITEM_BYTES_MAX)
}

/// The same for a row of a binary format.
fn size_in(bytes: u32, offset: usize, row: usize) -> Result<u32, TraceError> {
    let message = || format!("expected {SIZE_EXPECTED}, found {bytes}; is this the right format?");
    let bad = || TraceError::Bad { offset: offset as u64, row: row as u64 + 1, message: message() };
    size_of(u64::from(bytes)).ok_or_else(bad)
}

/// Rows on their way to a trace.
#[derive(Default)]
struct Rows {
    trace: Trace,
    id_of_name: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
    number_of_client: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
    /// Sizes told of keys that no row has asked for so far.
    told_sizes: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
}

impl Rows {
    /// Something that is no request tells a key's size.
    fn tell_size(&mut self, name: u64, bytes: u32) {
        match self.id_of_name.get(&name) {
            Some(&id) if self.trace.sizes[id as usize] == 0 => {
                self.trace.sizes[id as usize] = bytes;
                self.trace.sized |= bytes > 0;
            }
            Some(_) => {}
            None => {
                self.told_sizes.entry(name).or_insert(bytes);
            }
        }
    }

    fn push(&mut self, row: &Row) {
        let trace = &mut self.trace;
        let id = *self.id_of_name.entry(row.name).or_insert_with(|| {
            trace.names.push(row.name);
            trace.sizes.push(0);
            (trace.names.len() - 1) as u32
        });
        trace.ids.push(id);
        let size = &mut trace.sizes[id as usize];
        if *size == 0 {
            let told = || self.told_sizes.get(&row.name).copied().unwrap_or(0);
            *size = if row.size > 0 { row.size } else { told() };
        }
        trace.sized |= *size > 0;
        if let Some(time) = row.time_nanos {
            // Logs of several writers are now and then a little out of order; the order of the rows is what counts.
            let before = trace.times.last().copied().unwrap_or(0);
            trace.times.push(time.max(before));
        }
        if let Some(client) = row.client {
            let count = self.number_of_client.len() as u32;
            trace.clients.push(*self.number_of_client.entry(client).or_insert(count));
        }
    }

    fn finish(self) -> Result<Trace, TraceError> {
        let mut trace = self.trace;
        if trace.ids.is_empty() {
            return Err(TraceError::Empty);
        }
        // An item that never told its size takes some room all the same.
        let unknown = if trace.sized { 1 } else { UNSIZED_ITEM_BYTES };
        trace.sizes.iter_mut().filter(|size| **size == 0).for_each(|size| *size = unknown);
        trace.client_count = self.number_of_client.len().max(1) as u32;
        Ok(trace)
    }
}

/// Mixes the numbers that are keys already; a keyed hash is not needed, as a trace is not an opponent.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
}

/// Scrambles a number (splitmix64's finish); a bijection.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number for a text.
fn name_of_text(text: &[u8]) -> u64 {
    text.chunks(8).fold(mix(text.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_the_first_size_it_tells_and_times_never_fall() {
        let row = |name, size, time| Row { name, size, time_nanos: Some(time), client: Some(name + 5) };
        let mut rows = Rows::default();
        [row(9, 0, 4), row(7, 20, 6), row(9, 10, 5), row(9, 30, 7), row(1, 0, 8)]
            .iter()
            .for_each(|row| rows.push(row));
        let trace = rows.finish().unwrap();
        assert_eq!(trace.ids, [0, 1, 0, 0, 2]);
        assert_eq!(trace.sizes, [10, 20, 1]);
        assert_eq!(trace.times, [4, 6, 6, 7, 8]);
        assert_eq!((trace.names.as_slice(), trace.client_count), ([9, 7, 1].as_slice(), 3));
        assert_eq!((trace.footprint_bytes(), trace.request_bytes()), (31, 10 + 20 + 10 + 10 + 1));
        assert_eq!(trace.next_rows(), [2, u32::MAX, 3, u32::MAX, u32::MAX]);
    }

    #[test]
    fn nothing_is_not_a_trace() {
        for (name, format) in Format::NAMES {
            let empty: &[u8] = match format {
                Format::Csv | Format::Tsv => b"key\n",
                Format::Recorded => RECORDED_MAGIC,
                _ => b"",
            };
            assert!(matches!(Trace::parse(empty, format), Err(TraceError::Empty)), "{name}");
        }
    }

    #[test]
    fn texts_that_differ_by_zeros_have_different_names() {
        assert_ne!(name_of_text(b"a"), name_of_text(b"a\0"));
        assert_ne!(name_of_text(b""), name_of_text(b"\0"));
    }
}
