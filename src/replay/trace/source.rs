//! The bytes of a trace's file, decompressed by what the file begins with.

use super::TraceError;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// Bytes between two words about progress.
const STEP_BYTES: usize = 1 << 20;

pub(super) fn read(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<u8>, TraceError> {
    let mut file = File::open(path).map_err(TraceError::Unreadable)?;
    let total = file.metadata().map_err(TraceError::Unreadable)?.len();
    let mut start = [0; 6];
    let mut start_len = 0;
    while start_len < start.len() {
        match file.read(&mut start[start_len..]).map_err(TraceError::Unreadable)? {
            0 => break,
            n => start_len += n,
        }
    }
    let taken = Cell::new(0);
    let start = &start[..start_len];
    let raw = Counted { inner: start.chain(file), taken: &taken };
    let mut told = |taken: u64| progress(taken, total);
    let compressed = |kind| move |taken: u64, error| TraceError::Compressed { kind, offset: taken, error };
    if start.starts_with(XZ_MAGIC) {
        let reader = lzma_rust2::XzReader::new(io::BufReader::new(raw), true);
        drain(reader, &taken, &mut told).map_err(|error| compressed("xz")(taken.get(), error))
    } else if start.starts_with(ZSTD_MAGIC) {
        unzstd(io::BufReader::new(raw), &taken, &mut told)
            .map_err(|error| compressed("zstd")(taken.get(), error))
    } else if start.starts_with(GZIP_MAGIC) {
        Err(TraceError::Unknown(
            "it is compressed with gzip, and only xz and zstd are read: gunzip it first".into(),
        ))
    } else {
        drain(raw, &taken, &mut told).map_err(TraceError::Unreadable)
    }
}

/// Reads all frames of a zstd stream, whatever else stands between them.
fn unzstd(mut raw: impl BufRead, taken: &Cell<u64>, told: &mut dyn FnMut(u64)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !raw.fill_buf()?.is_empty() {
        match ruzstd::decoding::StreamingDecoder::new(&mut raw) {
            Ok(frame) => bytes.append(&mut drain(frame, taken, told)?),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let skipped = io::copy(&mut raw.by_ref().take(u64::from(length)), &mut io::sink())?;
                if skipped < u64::from(length) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(bytes)
}

fn drain(mut reader: impl Read, taken: &Cell<u64>, told: &mut dyn FnMut(u64)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let n = reader.by_ref().take(STEP_BYTES as u64).read_to_end(&mut bytes)?;
        told(taken.get());
        if n == 0 {
            return Ok(bytes);
        }
    }
}

/// A reader that counts what was taken from it.
struct Counted<'a, R> {
    inner: R,
    taken: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::{Format, Trace, Words};

    /// The words 0, 1, 2, .. 99, 0, 1, .. 99, big-endian, as `xz` and `zstd` pack them.
    const XZ: &[u8] = include_bytes!("../../../tests/data/words.i32be.xz");
    const ZSTD: &[u8] = include_bytes!("../../../tests/data/words.i32be.zst");

    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Trace, TraceError> {
        let path = std::env::temp_dir().join(format!("foreshadow-replay-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let mut last = (0, 0);
        let read = Trace::read(&path, Some(Format::Words(Words::I32Be)), &mut |done, all| last = (done, all));
        std::fs::remove_file(&path).unwrap();
        if read.is_ok() {
            assert_eq!(last, (bytes.len() as u64, bytes.len() as u64), "progress gets to the end");
        }
        read
    }

    #[test]
    fn compressed_traces_read_as_plain_ones() {
        let plain: Vec<u8> = (0..200u32).flat_map(|i| (i % 100).to_be_bytes()).collect();
        let expected = read_bytes("plain", &plain).unwrap().ids;
        assert_eq!(expected.len(), 200);
        assert_eq!(read_bytes("xz", XZ).unwrap().ids, expected);
        assert_eq!(read_bytes("zstd", ZSTD).unwrap().ids, expected);
    }

    /// Once, only the first frame was read, and nobody was told.
    #[test]
    fn a_zstd_stream_of_several_frames_is_read_to_its_end() {
        let expected = read_bytes("one-frame", ZSTD).unwrap().ids.repeat(2);
        let skippable: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        assert_eq!(read_bytes("two-frames", &[ZSTD, ZSTD].concat()).unwrap().ids, expected);
        assert_eq!(read_bytes("skipped", &[ZSTD, skippable, ZSTD].concat()).unwrap().ids, expected);
        for cut in [ZSTD.len() + 3, 2 * ZSTD.len() - 1] {
            let error = read_bytes("cut-frames", &[ZSTD, ZSTD].concat()[..cut]).unwrap_err();
            assert!(matches!(error, TraceError::Compressed { .. }), "{cut}: {error}");
        }
        let behind = read_bytes("behind", &[ZSTD, b"something else"].concat()).unwrap_err();
        assert!(matches!(behind, TraceError::Compressed { .. }), "{behind}");
    }

    #[test]
    fn a_compressed_trace_that_is_cut_or_damaged_is_an_error() {
        for (name, bytes) in [("cut.xz", XZ), ("cut.zst", ZSTD)] {
            for len in [7, bytes.len() / 2, bytes.len() - 1] {
                let error = read_bytes(name, &bytes[..len]).unwrap_err();
                assert!(matches!(error, TraceError::Compressed { .. }), "{name} of {len} bytes: {error}");
            }
        }
        let mut damaged = XZ.to_vec();
        damaged[XZ.len() / 2] ^= 0x10;
        assert!(read_bytes("bad.xz", &damaged).is_err());
        let error = read_bytes("f.gz", &[0x1f, 0x8b, 8, 0, 0, 0]).unwrap_err().to_string();
        assert!(error.contains("gunzip"), "{error}");
    }
}
