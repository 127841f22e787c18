//! Looking ahead in a pipeline: which keys the next commands are about.
//!
//! Only hints come of it, so anything unusual simply ends the look.

use super::words::Words;

/// Commands looked at together.
pub(super) const COMMANDS_MAX: usize = 16;
/// Longer lines are left to be.
const LINE_BYTES_MAX: usize = 512;

/// Puts the keys of the commands that `input` begins with into `keys` (one of each command), and answers how many.
#[inline]
pub(super) fn keys<'a>(input: &'a [u8], keys: &mut [&'a [u8]; COMMANDS_MAX]) -> usize {
    let mut rest = input;
    let mut count = 0;
    while count < COMMANDS_MAX {
        let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
        let Some(end) = memchr::memchr(b'\n', window) else { break };
        let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
        let (at, value_word) = match line {
            [b'g', b'e', b't', b' ', ..] => (4, None),
            [b'm', b'g', b' ', ..] => (3, None),
            [b's', b'e', b't', b' ', ..] => (4, Some(2)),
            [b'm', b's', b' ', ..] => (3, Some(0)),
            _ => break,
        };
        let arguments = &line[at..];
        let key_len = arguments.iter().position(|&b| b == b' ').unwrap_or(arguments.len());
        keys[count] = &arguments[..key_len];
        count += 1;
        rest = &rest[end + 1..];
        if let Some(place) = value_word {
            let len = Words(&arguments[key_len..]).nth(place).and_then(super::words::unsigned);
            let Some(behind) = len.and_then(|len| rest.get(usize::try_from(len).ok()?.checked_add(2)?..))
            else {
                break;
            };
            rest = behind;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(input: &[u8]) -> Vec<String> {
        let mut found = [&b""[..]; COMMANDS_MAX];
        let count = keys(input, &mut found);
        found[..count].iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn keys_of_the_next_commands_are_seen_over_their_values() {
        let stream = b"get a\r\nset b 0 0 5 noreply\r\nget x\r\nmg c v\r\nms d 2\r\nxx\r\nget e f\r\nget g";
        assert_eq!(look(stream), ["a", "b", "c", "d", "e"]);
        assert_eq!(look(&b"get k\n".repeat(40)).len(), COMMANDS_MAX);
    }

    #[test]
    fn what_is_unusual_ends_the_look() {
        for stream in [&b""[..], b"\r\n", b"delete a\r\nget b\r\n", b"GET a\r\n", b"get", b" get a\r\n"] {
            assert!(look(stream).is_empty(), "{stream:?}");
        }
        for stream in [
            &b"set a 0 0 99999999999999999999\r\nget b\r\n"[..],
            b"set a 0 0 -1\r\nget b\r\n",
            b"set a 0 0 10\r\nab\r\nget b\r\n",
            b"set a\r\nget b\r\n",
            b"ms a S10\r\nget b\r\n",
        ] {
            assert_eq!(look(stream), ["a"], "{stream:?}");
        }
    }
}
