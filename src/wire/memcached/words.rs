//! Words of a line and the numbers in them.

use crate::clock::{Mono, Now, Wall};
use crate::request::Expiry;

/// Longest key in bytes, as the protocol says.
pub(super) const KEY_BYTES_MAX: usize = 250;

/// Room for what `KEY_BYTES_MAX` bytes of base64 decode to.
pub(super) const BASE64_BYTES_MAX: usize = 192;

/// Longest time that counts from now; larger numbers are seconds since 1970.
const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// The words of a line, parted by one or more spaces.
#[derive(Clone, Copy)]
pub(super) struct Words<'a>(pub &'a [u8]);

impl<'a> Words<'a> {
    /// What follows the words taken so far, from the next word on.
    pub fn rest(&self) -> &'a [u8] {
        let start = self.0.iter().position(|&b| b != b' ').unwrap_or(self.0.len());
        &self.0[start..]
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest();
        if rest.is_empty() {
            self.0 = rest;
            return None;
        }
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

/// Whether a word may be a key: not too long, no control characters.
#[inline]
pub(super) fn is_key(word: &[u8], bytes_max: usize) -> bool {
    !word.is_empty() && word.len() <= bytes_max && word.iter().all(|&b| b > b' ' && b != 0x7F)
}

/// Whether the line asks for silence.
#[inline]
pub(super) fn is_noreply(line: &[u8]) -> bool {
    let mut end = line.len();
    while end > 0 && line[end - 1] == b' ' {
        end -= 1;
    }
    line[..end].ends_with(b" noreply")
}

/// Decimal digits only.
#[inline]
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0u64, |number, &b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Decimal digits behind an optional sign.
#[inline]
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    match word {
        [b'-', digits @ ..] => unsigned(digits).and_then(|number| 0i64.checked_sub_unsigned(number)),
        [b'+', digits @ ..] => unsigned(digits).and_then(|number| i64::try_from(number).ok()),
        digits => unsigned(digits).and_then(|number| i64::try_from(number).ok()),
    }
}

/// When an item with this `exptime` ends: 0 is never, what is negative is over, up to 30 days count from now, more is a date.
#[inline]
pub(super) fn expiry(now: Now, seconds: i64) -> Expiry {
    match seconds {
        0 => Expiry::Never,
        _ => Expiry::At(moment(now, seconds)),
    }
}

/// The moment that an `exptime` means, 0 being now.
pub(super) fn moment(now: Now, seconds: i64) -> Mono {
    match u64::try_from(seconds) {
        Err(_) => now.mono,
        Ok(past_now) if seconds <= RELATIVE_SECONDS_MAX => now.mono.plus_millis(past_now * 1000),
        Ok(date) => now.deadline(Wall(date.saturating_mul(1000))),
    }
}

/// Decodes strict base64 (padded, no other bytes) and answers the length; `None` if it is none, empty or too long for `into`.
pub(super) fn base64(word: &[u8], into: &mut [u8]) -> Option<usize> {
    if word.is_empty() || !word.len().is_multiple_of(4) || word.len() / 4 * 3 > into.len() {
        return None;
    }
    let padding = word.iter().rev().take_while(|&&b| b == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bits = 0u32;
    let mut len = 0;
    for (i, &b) in word.iter().enumerate() {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if i >= word.len() - padding => 0,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        if i % 4 == 3 {
            into[len..len + 3].copy_from_slice(&bits.to_be_bytes()[1..]);
            len += 3;
            bits = 0;
        }
    }
    Some(len - padding)
}

/// Appends bytes as padded base64.
pub(super) fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let six = bits >> (18 - 6 * i) & 63;
            out.push(if i <= part.len() { LETTERS[six as usize] } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_any_number_of_spaces() {
        let words: Vec<&[u8]> = Words(b"  a bc   d ").collect();
        assert_eq!(words, [&b"a"[..], b"bc", b"d"]);
        let mut words = Words(b"a  b c");
        words.next();
        assert_eq!(words.rest(), b"b c");
    }

    #[test]
    fn numbers_are_whole_or_nothing() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1a", b"0x1", b"18446744073709551616", b" 1"] {
            assert_eq!(unsigned(bad), None, "{bad:?}");
        }
        assert_eq!((signed(b"-9223372036854775808"), signed(b"+7")), (Some(i64::MIN), Some(7)));
        assert_eq!((signed(b"9223372036854775808"), signed(b"--1"), signed(b"-")), (None, None, None));
    }

    #[test]
    fn exptimes_are_relative_up_to_thirty_days_and_dates_beyond() {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        assert_eq!(expiry(now, 0), Expiry::Never);
        assert_eq!(expiry(now, -1), Expiry::At(now.mono));
        assert_eq!(expiry(now, 2_592_000), Expiry::At(Mono(2_592_001_000_000_000)));
        assert_eq!(expiry(now, 2_592_001), Expiry::At(now.mono), "a date long gone");
        assert_eq!(expiry(now, 1_700_000_010), Expiry::At(Mono(11_000_000_000)));
        assert_eq!(expiry(now, i64::MAX), Expiry::At(Mono(u64::MAX)));
    }

    #[test]
    fn base64_goes_back_and_forth() {
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(67) ^ len).collect();
            let (mut word, mut back) = (Vec::new(), [0; 60]);
            append_base64(&bytes, &mut word);
            assert_eq!(base64(&word, &mut back).map_or(&[][..], |len| &back[..len]), bytes);
        }
        let mut word = Vec::new();
        append_base64(b"foo2", &mut word);
        assert_eq!(word, b"Zm9vMg==");
    }

    #[test]
    fn base64_is_strict() {
        let decode = |word: &[u8]| {
            let mut into = [0; 8];
            base64(word, &mut into).map(|len| into[..len].to_vec())
        };
        assert_eq!(decode(b"YQ==").as_deref(), Some(&b"a"[..]));
        assert_eq!(decode(b"AP8g").as_deref(), Some(&b"\x00\xff "[..]));
        assert_eq!(decode(b"YWJjZGU=").as_deref(), Some(&b"abcde"[..]));
        for bad in [&b""[..], b"YQ", b"YQ=", b"Y===", b"====", b"YQ==x", b"Y=Q=", b"!!!!", b"YWJjZGVmZ2hp"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
