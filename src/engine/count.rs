//! Counting: decimal numbers as Redis writes them, as memcached writes them, and Redis's decimal floats.

use super::extended::Extended;
use super::*;
use crate::request::{Count, Step};

impl Engine {
    /// [`Verb::Count`]. The result of memcached's steps is padded with spaces to the length the value had.
    pub(super) fn count(&mut self, now: Mono, key: &[u8], count: &Count) -> Reply {
        let probe = self.store.probe(key);
        let held = self.load(now, probe, key).filter(|held| !held.marks.hollow);
        let (number, like) = match held {
            // As with memcached: no bytes are no number whatever version was asked for.
            Some(held) if held.len == 0 && !matches!(count.by, Step::Signed(_)) => {
                return Reply::fault(Fault::NotInteger);
            }
            Some(held) => {
                match check(count.condition, Some(&held)) {
                    Ok(false) => {}
                    Ok(true) => return Reply::refused(Refusal::Version),
                    Err(why) => return Reply::refused(why),
                }
                let number = match step(&self.scratch, count.by) {
                    Ok(number) => number,
                    Err(why) => return Reply::fault(why),
                };
                let version = self.next_version(count.version);
                (number, Held { version, expiry: changed(held.expiry, count.expiry), ..held })
            }
            None => {
                let (initial, expiry) = match (count.by, count.create) {
                    (Step::Signed(by), create) => {
                        // What may be made is made whatever version was asked for, as with memcached.
                        match check(count.condition, None) {
                            Err(why) if create.is_none() => return Reply::refused(why),
                            _ => (by as u64, create.map_or(Expiry::Never, |(_, expiry)| expiry)),
                        }
                    }
                    (Step::Up(_) | Step::Down(_), Some(create)) => create,
                    (Step::Up(_) | Step::Down(_), None) => return Reply::refused(Refusal::Absent),
                };
                let version = self.next_version(count.version);
                (initial, Held::fresh(0, version, expiry))
            }
        };
        let mut digits = itoa::Buffer::new();
        let (text, len_min) = match count.by {
            Step::Signed(_) => (digits.format(number as i64), 0),
            Step::Up(_) | Step::Down(_) => (digits.format(number), held.map_or(0, |held| held.len)),
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(text.as_bytes());
        if self.scratch.len() < len_min {
            self.scratch.resize(len_min, b' ');
        }
        let longer = held.is_none_or(|held| self.scratch.len() > held.len);
        let marks = Marks { binary_key: like.marks.binary_key && !longer, ..like.marks };
        let like = Held { len: self.scratch.len(), marks, ..like };
        match self.write_scratch(now, probe, key, &like) {
            Ok(()) => Reply::plain(Answer::Counted { number, item: like.item() }),
            Err(why) => Reply::fault(why),
        }
    }

    /// [`Verb::CountFloat`]. Flags and expiry stay; an absent item counts as 0.
    pub(super) fn count_float(&mut self, now: Mono, key: &[u8], by: &[u8]) -> Reply {
        let probe = self.store.probe(key);
        let held = self.load(now, probe, key).filter(|held| !held.marks.hollow);
        let old: &[u8] = if held.is_some() { &self.scratch } else { b"0" };
        let sum = match (Extended::parse(old), Extended::parse(by)) {
            (Ok(old), Ok(by)) => old.add(by),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        let sum = match sum {
            Ok(sum) => sum,
            Err(why) => return Reply::fault(why),
        };
        self.scratch.clear();
        sum.append_to(&mut self.scratch);
        let version = self.next_version(None);
        let like = match held {
            Some(held) => Held { version, len: self.scratch.len(), ..held },
            None => Held { len: self.scratch.len(), ..Held::fresh(0, version, Expiry::Never) },
        };
        match self.write_scratch(now, probe, key, &like) {
            Ok(()) => Reply { answer: Answer::Item(like.item()), bytes: Bytes::Scratch },
            Err(why) => Reply::fault(why),
        }
    }
}

/// The number after a step from what is written in `text`.
fn step(text: &[u8], by: Step) -> Result<u64, Fault> {
    match by {
        Step::Signed(by) => {
            let old = signed(text).ok_or(Fault::NotInteger)?;
            old.checked_add(by).map(|sum| sum as u64).ok_or(Fault::Overflow)
        }
        Step::Up(by) => unsigned(text).map(|old| old.wrapping_add(by)).ok_or(Fault::NotInteger),
        Step::Down(by) => unsigned(text).map(|old| old.saturating_sub(by)).ok_or(Fault::NotInteger),
    }
}

/// Redis's strict integer: what printing an i64 gives, and nothing else.
fn signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude: u64 = 0;
    for digit in digits {
        // 19 digits are below 10^19 and fit.
        magnitude = magnitude * 10 + u64::from(decimal(*digit)?);
    }
    match negative {
        true => 0i64.checked_sub_unsigned(magnitude),
        false => i64::try_from(magnitude).ok(),
    }
}

/// memcached's lenient integer, which is C's `strtoull`: white space and a sign before the digits, white space (as
/// padding leaves it) or a NUL and anything behind them; of negative ones only those that wrap to less than 2^63.
fn unsigned(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|byte| !is_space(*byte))?;
    let (negative, digits) = match &text[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if len == 0 || digits.get(len).is_some_and(|byte| *byte != 0 && !is_space(*byte)) {
        return None;
    }
    let mut number: u64 = 0;
    for digit in &digits[..len] {
        number = number.checked_mul(10)?.checked_add(u64::from(decimal(*digit)?))?;
    }
    match negative {
        true => Some(number.wrapping_neg()).filter(|number| *number < 1 << 63),
        false => Some(number),
    }
}

fn decimal(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_number_is_exactly_what_printing_one_gives() {
        for good in [0, 1, -1, 10, i64::MAX, i64::MIN, -9, 1_000_000_007] {
            assert_eq!(signed(good.to_string().as_bytes()), Some(good));
        }
        let bad: [&[u8]; 14] = [
            b"",
            b"-",
            b"+1",
            b"-0",
            b"00",
            b"01",
            b"-01",
            b" 1",
            b"1 ",
            b"1.0",
            b"9223372036854775808",
            b"-9223372036854775809",
            b"99999999999999999999",
            b"1\0",
        ];
        for text in bad {
            assert_eq!(signed(text), None, "{}", text.escape_ascii());
        }
    }

    // Each seen from memcached 1.6.45.
    #[test]
    fn an_unsigned_number_is_what_memcached_takes_for_one() {
        let good: [(&[u8], u64); 14] = [
            (b"0", 0),
            (b"-0", 0),
            (b"+5", 5),
            (b" 5", 5),
            (b"\t5", 5),
            (b"5 ", 5),
            (b"5   ", 5),
            (b"005", 5),
            (b"12 abc", 12),
            (b"5\x005", 5),
            (b"5\x0b", 5),
            (b"18446744073709551615", u64::MAX),
            (b"00000000000000000000000005", 5),
            (b"-18446744073709551615", 1),
        ];
        for (text, number) in good {
            assert_eq!(unsigned(text), Some(number), "{}", text.escape_ascii());
        }
        let bad: [&[u8]; 9] =
            [b"", b" ", b"-5", b"5a", b"+ 5", b"+-5", b"18446744073709551616", b"99999999999999999999", b"a"];
        for text in bad {
            assert_eq!(unsigned(text), None, "{}", text.escape_ascii());
        }
    }
}
