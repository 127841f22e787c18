//! The head of an HTTP response and what it says about keeping the body: RFC 9110, 9111 and 9112 as far as a cache in front
//! of one origin needs them.

use super::{Broken, Validator, decimal};

/// Most bytes of a head.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most fields of one.
const FIELDS_MAX: usize = 128;
/// Most tags taken of one answer.
const TAGS_MAX: usize = 64;

/// A head, read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Head {
    pub status: u16,
    pub body: Body,
    /// Closes after this answer.
    pub last: bool,
    /// Seconds it may be served without asking.
    pub fresh_seconds: Option<u64>,
    /// When the value was written, in seconds since 1970.
    pub modified_seconds: Option<u64>,
    /// Nobody may keep it.
    pub unstorable: bool,
    pub validator: Option<Validator>,
    pub tags: Vec<Vec<u8>>,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Body {
    /// By the end of the connection.
    #[default]
    ToTheEnd,
    Length(u64),
    Chunked,
}

/// Reads a head that ends with an empty line; `bytes` hold all of it and nothing else.
pub(super) fn read(bytes: &[u8]) -> Result<Head, Broken> {
    let mut lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (status, modern) = status(lines.next().unwrap_or_default())?;
    let mut head = Head { status, last: !modern, ..Head::default() };
    let (mut length, mut chunked) = (None, false);
    let (mut age, mut max_age, mut shared_age) = (0, None, None);
    let (mut date, mut expires, mut modified) = (None, None, None);
    for (count, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if count == FIELDS_MAX {
            return Err(Broken::TooLarge("header fields"));
        }
        let colon = memchr::memchr(b':', line).ok_or(Broken::Protocol("a header without a colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A name with a space, or a folded line, is read in two ways by two readers.
        if name.is_empty() || name.iter().any(|&byte| byte <= b' ' || byte >= 0x7f) {
            return Err(Broken::Protocol("a header name"));
        }
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("content-length") {
            let value = decimal(value).ok_or(Broken::Protocol("a content length"))?;
            if length.is_some_and(|before| before != value) {
                return Err(Broken::Protocol("two content lengths"));
            }
            length = Some(value);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || chunked {
                return Err(Broken::Protocol("a transfer encoding"));
            }
            chunked = true;
        } else if is("connection") {
            head.last |= has_word(value, "close");
            head.last &= !has_word(value, "keep-alive") || has_word(value, "close");
        } else if is("content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
            return Err(Broken::Protocol("a content encoding that was not asked for"));
        } else if is("etag") && !value.is_empty() {
            head.validator = Some(Validator::Etag(value.into()));
        } else if is("last-modified") && !value.is_empty() {
            modified = Some(value);
        } else if is("age") {
            age = decimal(value).unwrap_or(0);
        } else if is("date") {
            date = seconds_of(value);
        } else if is("expires") {
            // What is no date says that it is over.
            expires = Some(seconds_of(value));
        } else if is("vary") && value != b"" && !value.eq_ignore_ascii_case(b"accept-encoding") {
            // What else it varies by is nothing that our request could vary in; but a star means by anything.
            head.unstorable |= value.contains(&b'*');
        } else if is("surrogate-key") || is("cache-tag") {
            let words = value.split(|&byte| byte == b' ' || byte == b',').filter(|word| !word.is_empty());
            head.tags.extend(words.map(<[u8]>::to_vec));
            head.tags.truncate(TAGS_MAX);
        } else if is("cache-control") {
            for directive in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                let equals = memchr::memchr(b'=', directive).unwrap_or(directive.len());
                let (word, argument) = directive.split_at(equals);
                let argument = argument.strip_prefix(b"=").unwrap_or_default();
                let argument = argument.strip_prefix(b"\"").unwrap_or(argument);
                let argument = argument.strip_suffix(b"\"").unwrap_or(argument);
                // A number too large to hold is a long time; one that is none is no time at all.
                let seconds = || match decimal(argument) {
                    Some(seconds) => seconds,
                    None if !argument.is_empty() && argument.iter().all(u8::is_ascii_digit) => u64::MAX,
                    None => 0,
                };
                match word.to_ascii_lowercase().as_slice() {
                    b"no-store" | b"private" => head.unstorable = true,
                    b"no-cache" => shared_age = Some(0),
                    b"s-maxage" => shared_age = Some(shared_age.unwrap_or(u64::MAX).min(seconds())),
                    b"max-age" => max_age = Some(max_age.unwrap_or(u64::MAX).min(seconds())),
                    _ => {}
                }
            }
        }
    }
    if chunked && length.is_some() {
        return Err(Broken::Protocol("both a length and chunks"));
    }
    head.body = match (status, chunked, length) {
        (100..=199 | 204 | 304, _, _) => Body::Length(0),
        (_, true, _) => Body::Chunked,
        (_, _, Some(length)) => Body::Length(length),
        _ => Body::ToTheEnd,
    };
    head.last |= head.body == Body::ToTheEnd;
    head.modified_seconds = modified.and_then(seconds_of);
    if head.validator.is_none() {
        head.validator = modified.map(|date| Validator::Modified(date.into()));
    }
    head.fresh_seconds = match (shared_age.or(max_age), expires) {
        (Some(seconds), _) => Some(seconds.saturating_sub(age)),
        (None, Some(Some(expires))) => {
            Some(date.map_or(0, |date| expires.saturating_sub(date)).saturating_sub(age))
        }
        (None, Some(None)) => Some(0),
        (None, None) => None,
    };
    Ok(head)
}

/// Status of a status line, and whether the version keeps connections open.
fn status(line: &[u8]) -> Result<(u16, bool), Broken> {
    let bad = Broken::Protocol("a status line");
    let rest = line.strip_prefix(b"HTTP/1.").ok_or(bad)?;
    let modern = match rest.first() {
        Some(b'1') => true,
        Some(b'0') => false,
        _ => return Err(bad),
    };
    let digits = rest.get(2..5).filter(|_| rest[1] == b' ').and_then(decimal).ok_or(bad)?;
    if !(100..600).contains(&digits) || rest.get(5).is_some_and(|&byte| byte != b' ') {
        return Err(bad);
    }
    Ok((digits as u16, modern))
}

fn has_word(list: &[u8], word: &str) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`; the two older forms are not sent by anyone.
fn seconds_of(date: &[u8]) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = std::str::from_utf8(date).ok()?;
    let (_, text) = text.split_once(", ")?;
    let mut words = text.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part <= 60));
    let seconds = clock.next()?? * 3600 + clock.next()?? * 60 + clock.next()??;
    if words.next() != Some("GMT") || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil: years begin in March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Head {
        read(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).expect("a good head")
    }

    #[test]
    fn freshness_is_what_the_origin_says_it_is() {
        for (fields, fresh) in [
            ("", None),
            ("Cache-Control: max-age=60\r\n", Some(60)),
            ("Cache-Control: max-age=60\r\nAge: 20\r\n", Some(40)),
            ("Cache-Control: max-age=60, s-maxage=5\r\n", Some(5)),
            ("Cache-Control: Max-Age=\"7\"\r\n", Some(7)),
            ("Cache-Control: no-cache, max-age=60\r\n", Some(0)),
            ("Cache-Control: max-age=junk\r\n", Some(0)),
            ("Cache-Control: max-age=99999999999999999999\r\n", Some(u64::MAX)),
            ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nExpires: Sun, 06 Nov 1994 08:50:37 GMT\r\n", Some(60)),
            ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nExpires: Sun, 06 Nov 1994 08:00:00 GMT\r\n", Some(0)),
            ("Expires: 0\r\n", Some(0)),
        ] {
            assert_eq!(head(fields).fresh_seconds, fresh, "{fields}");
        }
        assert_eq!(seconds_of(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds_of(b"Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
    }

    #[test]
    fn what_may_not_be_kept_is_marked() {
        for fields in ["Cache-Control: no-store\r\n", "Cache-Control: private\r\n", "Vary: *\r\n"] {
            assert!(head(fields).unstorable, "{fields}");
        }
        assert!(!head("Vary: Accept-Encoding\r\nCache-Control: public\r\n").unstorable);
    }

    #[test]
    fn an_etag_goes_before_a_date() {
        let both = head("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nETag: W/\"a\"\r\n");
        assert_eq!(both.validator, Some(Validator::Etag(b"W/\"a\"".as_slice().into())));
        assert_eq!(both.modified_seconds, Some(784_111_777));
        assert_eq!(head("Surrogate-Key: a b\r\nCache-Tag: c,d\r\n").tags, [b"a", b"b", b"c", b"d"]);
    }

    #[test]
    fn heads_that_two_readers_would_read_in_two_ways_are_refused() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        assert!(read(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()).is_err());
    }
}
