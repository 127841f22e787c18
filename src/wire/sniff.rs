//! Which protocol a connection speaks, by its first bytes.
//!
//! 1. `*` begins a RESP array.
//! 2. 0xF5 begins a native frame: no text, no other protocol does.
//! 3. 0x16 0x03 begins a TLS hello, 0x80 a memcached binary request: neither belongs on a plain port.
//! 4. Otherwise it is a line. Its first word decides: an HTTP method before `/` or `*` and a version is HTTP, a lower-case
//!    word of memcached is memcached, everything else is an inline command of RESP.
//!
//! A lower-case `get key` typed by hand is therefore memcached; redis-cli and the client libraries send arrays.

use super::Reason;
use super::native::frame::MAGIC_REQUEST;

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// RESP, by array or inline.
    Resp,
    /// memcached text or meta.
    Memcached,
    /// The native binary protocol.
    Native,
    /// Not enough bytes yet.
    More,
    /// Nothing we speak.
    Close(Reason),
}

/// Longest first word of a protocol we know (`cache_memlimit`), beyond which the line is an inline command.
const WORD_BYTES_MAX: usize = 14;

const MEMCACHED_WORDS: [&[u8]; 36] = [
    b"get",
    b"gets",
    b"gat",
    b"gats",
    b"set",
    b"add",
    b"replace",
    b"append",
    b"prepend",
    b"cas",
    b"delete",
    b"incr",
    b"decr",
    b"touch",
    b"flush_all",
    b"version",
    b"stats",
    b"verbosity",
    b"quit",
    b"mn",
    b"mg",
    b"ms",
    b"md",
    b"ma",
    b"me",
    b"cache_memlimit",
    b"watch",
    b"lru",
    b"lru_crawler",
    b"extstore",
    b"refresh_certs",
    b"invalidate",
    b"slabs",
    b"shutdown",
    b"debugtime",
    b"misbehave",
];

const HTTP_METHODS: [&[u8]; 9] =
    [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

/// Looks at the first bytes of a connection.
pub fn sniff(input: &[u8]) -> Guess {
    match input {
        [] => Guess::More,
        [b'*' | b'\r' | b'\n', ..] => Guess::Resp,
        [MAGIC_REQUEST, ..] => Guess::Native,
        [0x16, 0x03, ..] => Guess::Close(Reason::Tls),
        [0x16] => Guess::More,
        [0x80, ..] => Guess::Close(Reason::Unknown),
        _ => sniff_line(input),
    }
}

fn sniff_line(input: &[u8]) -> Guess {
    let window = &input[..input.len().min(WORD_BYTES_MAX + 6)];
    let Some(end) = window.iter().position(|b| matches!(b, b' ' | b'\r' | b'\n')) else {
        return if window.len() < WORD_BYTES_MAX + 6 { Guess::More } else { Guess::Resp };
    };
    let word = &input[..end];
    if HTTP_METHODS.contains(&word) && input[end] == b' ' {
        return match memchr::memchr(b'\n', input) {
            Some(line_end) if memchr::memmem::find(&input[..line_end], b" HTTP/1.").is_some() => {
                Guess::Close(Reason::Http)
            }
            Some(_) => Guess::Resp,
            // A long request line without its end yet: a slash right behind the method gives HTTP away.
            None if input.len() > 256 && input.get(end + 1) == Some(&b'/') => Guess::Close(Reason::Http),
            None if input.len() > 256 => Guess::Resp,
            None => Guess::More,
        };
    }
    if MEMCACHED_WORDS.contains(&word) { Guess::Memcached } else { Guess::Resp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let cases: [(&[u8], Guess); 20] = [
            (b"*1\r\n$4\r\nPING\r\n", Guess::Resp),
            (b"PING\r\n", Guess::Resp),
            (b"PI", Guess::More),
            (b"get foo\r\n", Guess::Memcached),
            (b"mg foo v\r\n", Guess::Memcached),
            (b"version\r\n", Guess::Memcached),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", Guess::Close(Reason::Http)),
            (b"GET foo\r\n", Guess::Resp),
            (b"GET /", Guess::More),
            (b"\x16\x03\x01", Guess::Close(Reason::Tls)),
            (b"\xF5", Guess::Native),
            (b"\x80\x00", Guess::Close(Reason::Unknown)),
            (b"verbosity 1\r\n", Guess::Memcached),
            (b"lru_crawler enable\r\n", Guess::Memcached),
            (b"cache_memlimit 64\r\n", Guess::Memcached),
            (b"refresh_certs\r\n", Guess::Memcached),
            (b"invalidate key a\r\n", Guess::Memcached),
            (b"INVALIDATE KEY a\r\n", Guess::Resp),
            (b"averyveryverylongword and more", Guess::Resp),
            (b"\r\n", Guess::Resp),
        ];
        for (input, guess) in cases {
            assert_eq!(sniff(input), guess, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn the_guess_never_changes_with_more_bytes() {
        for whole in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"gets a b c\r\n",
            b"lru_crawler x\r\n",
            b"SET a b\r\n",
            b"\x16\x03\x01\x02",
        ] {
            let last = sniff(whole);
            for len in 1..whole.len() {
                let guess = sniff(&whole[..len]);
                assert!(guess == Guess::More || guess == last, "{len} bytes of {whole:?}: {guess:?}");
            }
        }
    }
}
