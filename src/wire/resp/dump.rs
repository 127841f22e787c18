//! The form in which `DUMP` and `RESTORE` carry a value: Redis' RDB encoding of a string, with a version and a checksum.
//!
//! ```text
//! 0x00 (string) | length and bytes, or a number in 1, 2 or 4 bytes, or LZF | version u16 LE | CRC-64 (Jones) u64 LE
//! ```
//! What we write is what Redis 7.2 writes, uncompressed; what we read is what any Redis or Valkey up to RDB version 80
//! writes for a string. Source: `rdb.c` and `cluster.c` (`createDumpPayload`) of Redis 7.2.

/// RDB version that we write: that of Redis 7.2.
const VERSION: u16 = 11;
/// Newest RDB version that is read: that of Valkey 9. Strings look the same in all of them.
const VERSION_MAX: u16 = 80;
/// Bytes behind the value: version and checksum.
const TRAILER_BYTES: usize = 10;
const TYPE_STRING: u8 = 0;
/// Longest decimal that is tried as a number.
const NUMBER_DIGITS_MAX: usize = 11;

/// Why a payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Too short, too new, or damaged.
    Trailer,
    /// Whole, but no string.
    Format,
}

/// Appends the payload of a value.
pub(super) fn encode(value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.push(TYPE_STRING);
    let number = (value.len() <= NUMBER_DIGITS_MAX)
        .then(|| super::parser::integer(value))
        .flatten()
        .and_then(|number| i32::try_from(number).ok());
    match number {
        Some(number) => {
            if let Ok(byte) = i8::try_from(number) {
                out.extend_from_slice(&[0xC0, byte as u8]);
            } else if let Ok(word) = i16::try_from(number) {
                out.push(0xC1);
                out.extend_from_slice(&word.to_le_bytes());
            } else {
                out.push(0xC2);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        None => {
            match value.len() {
                len @ 0..64 => out.push(len as u8),
                len @ 64..16384 => out.extend_from_slice(&(len as u16 | 0x4000).to_be_bytes()),
                len => match u32::try_from(len) {
                    Ok(len) => {
                        out.push(0x80);
                        out.extend_from_slice(&len.to_be_bytes());
                    }
                    Err(_) => {
                        out.push(0x81);
                        out.extend_from_slice(&(len as u64).to_be_bytes());
                    }
                },
            }
            out.extend_from_slice(value);
        }
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = crc64(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The value in a payload, of at most `bytes_max` bytes.
pub(super) fn decode(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, Bad> {
    let at = payload.len().checked_sub(TRAILER_BYTES).ok_or(Bad::Trailer)?;
    let (body, trailer) = payload.split_at(at);
    let (version, checksum) = trailer.split_at(2);
    let version = u16::from_le_bytes([version[0], version[1]]);
    // A checksum of 0 says that the writer had checksums turned off.
    let whole = checksum == [0; 8] || crc64(&payload[..at + 2]).to_le_bytes() == checksum;
    if version > VERSION_MAX || !whole {
        return Err(Bad::Trailer);
    }
    let (&kind, rest) = body.split_first().ok_or(Bad::Format)?;
    if kind != TYPE_STRING {
        return Err(Bad::Format);
    }
    let mut reader = Reader(rest);
    let value = reader.string(bytes_max).ok_or(Bad::Format)?;
    if reader.0.is_empty() { Ok(value) } else { Err(Bad::Format) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A length that is followed by as many bytes.
    fn length(&mut self) -> Option<usize> {
        let [first] = self.array()?;
        match first >> 6 {
            0 => Some(usize::from(first & 0x3F)),
            1 => self.array::<1>().map(|[low]| usize::from(first & 0x3F) << 8 | usize::from(low)),
            2 if first == 0x80 => self.array().map(u32::from_be_bytes).map(|len| len as usize),
            2 if first == 0x81 => self.array().map(u64::from_be_bytes)?.try_into().ok(),
            _ => None,
        }
    }

    fn string(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let number = |number: i32| itoa::Buffer::new().format(number).as_bytes().to_vec();
        match *self.0.first()? {
            0xC0 => self.array().map(|[_, byte]: [u8; 2]| number(i32::from(byte as i8))),
            0xC1 => self.array().map(|[_, a, b]: [u8; 3]| number(i32::from(i16::from_le_bytes([a, b])))),
            0xC2 => self.array().map(|[_, a, b, c, d]: [u8; 5]| number(i32::from_le_bytes([a, b, c, d]))),
            0xC3 => {
                self.take(1)?;
                let (packed, len) = (self.length()?, self.length()?);
                if len > bytes_max {
                    return None;
                }
                unpack(self.take(packed)?, len)
            }
            _ => {
                let len = self.length()?;
                self.take(len).map(<[u8]>::to_vec)
            }
        }
    }
}

/// Undoes LZF: runs of literal bytes, and references back by up to 8 KiB.
fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut reader = Reader(packed);
    // Not reserved: the length is a stranger's word until the bytes are there.
    let mut out = Vec::new();
    while !reader.0.is_empty() {
        let [control] = reader.array()?;
        if control < 32 {
            out.extend_from_slice(reader.take(usize::from(control) + 1)?);
        } else {
            let mut count = usize::from(control >> 5);
            if count == 7 {
                let [more] = reader.array()?;
                count += usize::from(more);
            }
            let [low] = reader.array()?;
            let back = (usize::from(control & 0x1F) << 8 | usize::from(low)) + 1;
            let from = out.len().checked_sub(back)?;
            // Byte by byte, as the run may reach into what it writes.
            for i in from..from + count + 2 {
                out.push(out[i]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// CRC-64 with Jones' polynomial, reflected, from 0.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

static TABLE: [u64; 256] = {
    // 0xad93d23594c935a9 with its bits in the other order.
    const POLYNOMIAL: u64 = 0x95AC_9329_AC4B_C9B5;
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out);
        out
    }

    #[test]
    fn the_checksum_is_that_of_redis() {
        // The check value of crc64.c.
        assert_eq!(crc64(b"123456789"), 0xE9C6_D914_C4B8_D9CA);
    }

    #[test]
    fn the_example_of_the_documentation_of_redis_comes_out_but_for_its_version() {
        // "10" as DUMP's page shows it, written by RDB version 10.
        let theirs = b"\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb";
        assert_eq!(decode(theirs, 100), Ok(b"10".to_vec()));
        assert_eq!(dump(b"10")[..3], theirs[..3]);
    }

    #[test]
    fn every_kind_of_string_comes_back() {
        let long = vec![b'x'; 20_000];
        let values: [&[u8]; 14] = [
            b"",
            b"v",
            b"10",
            b"-128",
            b"128",
            b"-32768",
            b"32768",
            b"2147483647",
            b"2147483648",
            b"007",
            b"-0",
            &long[..63],
            &long[..64],
            &long,
        ];
        for value in values {
            assert_eq!(decode(&dump(value), long.len()).as_deref(), Ok(value));
        }
    }

    #[test]
    fn compressed_strings_are_read() {
        // 200 times "a" as LZF writes it: two literals, then a run that reaches into itself.
        let packed = [0x01, b'a', b'a', 0xE0, 0xBD, 0x00];
        let mut payload = vec![TYPE_STRING, 0xC3, packed.len() as u8, 0x40, 0xC8];
        payload.extend_from_slice(&packed);
        payload.extend_from_slice(&6u16.to_le_bytes());
        payload.extend_from_slice(&crc64(&payload).to_le_bytes());
        assert_eq!(decode(&payload, 200), Ok(vec![b'a'; 200]));
        assert_eq!(decode(&payload, 199), Err(Bad::Format), "too long for us");
    }

    #[test]
    fn damage_is_noticed_and_lies_about_lengths_take_no_memory() {
        let good = dump(b"value");
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            assert!(decode(&bad, 100).is_err(), "byte {i}");
            assert!(decode(&good[..i], 100).is_err(), "{i} bytes");
        }
        let mut trailing = [0u8; 19];
        // A huge length, a huge compressed one, a type that is no string; checksums turned off.
        for body in [
            [0, 0x80, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0],
            [0, 0xC3, 1, 0x80, 0xFF, 0xFF, 0xFF, 0xFF, 1],
            [4; 9],
        ] {
            trailing[..9].copy_from_slice(&body);
            assert_eq!(decode(&trailing, 1 << 20), Err(Bad::Format));
        }
    }
}
