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
    for (count, place) in keys.iter_mut().enumerate() {
        let Some((key, behind)) = command(rest) else { return count };
        *place = key;
        let Some(behind) = behind else { return count + 1 };
        rest = behind;
    }
    COMMANDS_MAX
}

/// The key of the command that is all of `input`.
#[inline]
pub(super) fn sole_key(input: &[u8]) -> Option<&[u8]> {
    let (key, behind) = command(input)?;
    behind?.is_empty().then_some(key)
}

/// The first key of the command that `input` begins with, and what is behind the command, if that is there.
#[inline]
fn command(input: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    let end = memchr::memchr(b'\n', window)?;
    let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
    let (at, value_word) = match line {
        [b'g', b'e', b't', b' ', ..] => (4, None),
        [b'm', b'g', b' ', ..] => (3, None),
        [b's', b'e', b't', b' ', ..] => (4, Some(2)),
        [b'm', b's', b' ', ..] => (3, Some(0)),
        _ => return None,
    };
    let arguments = &line[at..];
    let key_len = arguments.iter().position(|&b| b == b' ').unwrap_or(arguments.len());
    let behind = &input[end + 1..];
    let behind = match value_word {
        None => Some(behind),
        Some(place) => Words(&arguments[key_len..])
            .nth(place)
            .and_then(super::words::unsigned)
            .and_then(|len| behind.get(usize::try_from(len).ok()?.checked_add(2)?..)),
    };
    Some((&arguments[..key_len], behind))
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
    fn a_key_is_the_only_one_where_nothing_else_stands() {
        let whole: [(&[u8], &[u8]); 4] = [
            (b"get a\r\n", b"a"),
            (b"mg b v\n", b"b"),
            (b"set c 0 0 2\r\nxx\r\n", b"c"),
            (b"ms d 0\r\n\r\n", b"d"),
        ];
        for (input, key) in whole {
            assert_eq!(sole_key(input), Some(key));
            for end in 0..input.len() {
                assert_eq!(sole_key(&input[..end]), None, "cut at {end}");
            }
            assert_eq!(sole_key(&[input, b"get x\r\n"].concat()), None);
        }
        assert_eq!(sole_key(b"delete a\r\n"), None);
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
