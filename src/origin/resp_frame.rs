//! Where a RESP2 or RESP3 reply ends: a scan that goes on where it stopped, whatever the nesting.
//!
//! A frame is scanned once, byte by byte of its heads and in one step over each bulk; the stack holds how many values each
//! open aggregate still lacks. Bounds: depth, values, bytes of a bulk and of the whole.

use super::{Broken, Limits, decimal, line};

/// Deepest nesting taken.
const DEPTH_MAX: usize = 16;
/// Most values of one aggregate, and of one frame.
const VALUES_MAX: u64 = 1 << 20;
/// Longest line: a length, a simple string, an error, a big number.
const LINE_BYTES_MAX: usize = 16 << 10;

/// A scan of one frame from its first byte.
#[derive(Default)]
pub(super) struct Scan {
    at: usize,
    open: Vec<u64>,
    values: u64,
}

/// How far a scan came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The frame has this many bytes.
    Whole(usize),
    /// At least this many bytes are needed.
    More(usize),
}

impl Scan {
    /// Goes on in `bytes`, which begin with the frame's first byte and are not fewer than before.
    pub fn go_on(&mut self, bytes: &[u8], limits: Limits) -> Result<Scanned, Broken> {
        let frame_bytes_max = limits.value_bytes_max.saturating_mul(2).saturating_add(1 << 20);
        loop {
            let Some((head, taken)) = line(&bytes[self.at..]) else {
                if bytes.len() - self.at > LINE_BYTES_MAX {
                    return Err(Broken::TooLarge("a line"));
                }
                return Ok(Scanned::More(bytes.len() + 1));
            };
            let Some((&mark, text)) = head.split_first() else {
                return Err(Broken::Protocol("an empty line where a value should begin"));
            };
            if head.len() > LINE_BYTES_MAX {
                return Err(Broken::TooLarge("a line"));
            }
            let mut end = self.at + taken;
            let mut inner = 0;
            match mark {
                b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {}
                b'$' | b'!' | b'=' => {
                    if text != b"-1" {
                        let len = decimal(text).ok_or(Broken::Protocol("a length"))?;
                        if len > limits.value_bytes_max as u64 {
                            return Err(Broken::TooLarge("a value"));
                        }
                        end += len as usize + 2;
                        if bytes.len() < end {
                            return Ok(Scanned::More(end));
                        }
                        if &bytes[end - 2..end] != b"\r\n" {
                            return Err(Broken::Protocol("a bulk that does not end where it said"));
                        }
                    }
                }
                b'*' | b'~' | b'>' | b'%' | b'|' => {
                    if text != b"-1" {
                        let count = decimal(text).ok_or(Broken::Protocol("a count"))?;
                        if count > VALUES_MAX {
                            return Err(Broken::TooLarge("an aggregate"));
                        }
                        // An attribute is followed by the value it is about.
                        inner = match mark {
                            b'%' => count * 2,
                            b'|' => count * 2 + 1,
                            _ => count,
                        };
                    }
                }
                _ => return Err(Broken::Protocol("a value of no known kind")),
            }
            self.at = end;
            self.values += 1;
            if self.values > VALUES_MAX || self.at > frame_bytes_max {
                return Err(Broken::TooLarge("a reply"));
            }
            if inner > 0 {
                if self.open.len() == DEPTH_MAX {
                    return Err(Broken::TooLarge("nesting"));
                }
                self.open.push(inner);
                continue;
            }
            while let Some(lacking) = self.open.last_mut() {
                *lacking -= 1;
                if *lacking > 0 {
                    break;
                }
                self.open.pop();
            }
            if self.open.is_empty() {
                let whole = self.at;
                *self = Scan::default();
                return Ok(Scanned::Whole(whole));
            }
        }
    }
}

/// A value of a whole frame, its first part only where it is an aggregate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Bulk(&'a [u8]),
    Text(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Null,
    /// An aggregate of so many values, which follow.
    Many(u64),
    /// A push of so many values, which follow.
    Push(u64),
}

/// The first part of a frame that was scanned whole, and what follows it.
pub(super) fn part(frame: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let (head, taken) = line(frame)?;
    let (&mark, text) = head.split_first()?;
    let rest = &frame[taken..];
    let part = match mark {
        b'$' | b'=' | b'!' if text != b"-1" => {
            let len = decimal(text)? as usize;
            let (bytes, rest) = (rest.get(..len)?, rest.get(len + 2..)?);
            return Some((if mark == b'!' { Part::Error(bytes) } else { Part::Bulk(bytes) }, rest));
        }
        b'+' | b',' | b'#' | b'(' => Part::Text(text),
        b'-' => Part::Error(text),
        b':' => Part::Integer(std::str::from_utf8(text).ok()?.parse().ok()?),
        b'_' | b'$' | b'=' | b'!' => Part::Null,
        b'*' | b'~' | b'%' | b'|' | b'>' if text == b"-1" => Part::Null,
        b'*' | b'~' => Part::Many(decimal(text)?),
        b'%' | b'|' => Part::Many(decimal(text)? * 2),
        b'>' => Part::Push(decimal(text)?),
        _ => return None,
    };
    Some((part, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { value_bytes_max: 1 << 20 };

    #[test]
    fn a_frame_ends_at_the_same_byte_however_it_is_cut() {
        let frames: [&[u8]; 8] = [
            b"+OK\r\n",
            b"$5\r\nhello\r\n",
            b"$-1\r\n",
            b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n%1\r\n+k\r\n#t\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nfoo\r\n",
            b"*0\r\n",
            b"|1\r\n+ttl\r\n:3\r\n$2\r\nab\r\n",
            b"=7\r\ntxt:abc\r\n",
        ];
        for frame in frames {
            let mut scan = Scan::default();
            for end in 0..frame.len() {
                let more = scan.go_on(&frame[..end], LIMITS);
                assert!(
                    matches!(more, Ok(Scanned::More(n)) if n > end && n <= frame.len()),
                    "{end}: {more:?}"
                );
            }
            assert_eq!(scan.go_on(frame, LIMITS), Ok(Scanned::Whole(frame.len())));
            let with_more = [frame, b"+next\r\n"].concat();
            assert_eq!(Scan::default().go_on(&with_more, LIMITS), Ok(Scanned::Whole(frame.len())));
        }
    }

    #[test]
    fn a_hostile_frame_is_refused_at_its_first_bad_head() {
        let deep = b"*1\r\n".repeat(1000);
        let long = [b"+".as_slice(), &b"x".repeat(LINE_BYTES_MAX + 2)].concat();
        let frames: [&[u8]; 11] = [
            b"$4294967296\r\n",
            b"$18446744073709551616\r\n",
            b"$-2\r\n",
            b"$+3\r\nabc\r\n",
            b"*4294967296\r\n",
            b"$?\r\n",
            b"\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"$3\r\nabcd\r\n",
            &deep,
            &long,
        ];
        for frame in frames {
            let scanned = Scan::default().go_on(frame, LIMITS);
            assert!(
                scanned.is_err(),
                "{:?}: {scanned:?}",
                String::from_utf8_lossy(&frame[..frame.len().min(40)])
            );
        }
    }

    #[test]
    fn wide_nesting_cannot_claim_more_values_than_the_bound() {
        // Each line is small; the sum of what they promise is not.
        let mut frame = Vec::new();
        let mut scan = Scan::default();
        frame.extend_from_slice(b"*1048576\r\n");
        for _ in 0..VALUES_MAX {
            frame.extend_from_slice(b"_\r\n");
        }
        assert_eq!(scan.go_on(&frame, LIMITS), Err(Broken::TooLarge("a reply")));
    }
}
