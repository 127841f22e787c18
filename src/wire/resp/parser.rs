//! Commands out of bytes: arrays of bulk strings and inline lines.
//!
//! 1. A frame is presented from its first byte until it is complete; spans of what was read are kept relative to that
//!    byte, so that bytes read once are not read again.
//! 2. A bulk of known length is waited for whole: `at_least` names its end.
//! 3. A bulk over the value limit, or a command over the query buffer, is dropped as it comes ([`Skip`]): nothing of it is
//!    held, and the stream stays in step. The refusal is told where the command ends.
//!
//! Texts and limits are those of Redis (`networking.c`); `cargo test resp::` holds each as a vector.

/// Longest inline command and longest line with a length.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest bulk the protocol knows, whatever the value limit.
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Most arguments of one command.
const ARGUMENTS_MAX: i64 = 1024 * 1024;
/// Spans kept for the next command; room for more is given back.
const SPANS_KEPT: usize = 1024;

/// What the configuration and the client's standing allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub value_bytes_max: usize,
    /// Bytes of a command beside its longest argument.
    pub query_bytes_max: usize,
    /// Arguments and bytes of each before authentication; `None` after it.
    pub unauthenticated: Option<(usize, usize)>,
}

/// How far the bytes went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A command stands complete in this many bytes; its arguments are [`Parser::arguments`].
    Command(usize),
    /// This many bytes meant nothing: an empty line, an empty array, a part of what is dropped.
    Nothing(usize),
    /// These bytes end a command that was dropped, for this reason.
    Refused(usize, &'static str),
    /// An incomplete command; at least this many bytes are needed.
    More(usize),
    /// Not the protocol.
    Broken(Broken),
}

/// How the protocol was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    InvalidMultibulk,
    UnauthenticatedMultibulk,
    TooBigMultibulk,
    InvalidBulk,
    UnauthenticatedBulk,
    TooBigBulk,
    ExpectedDollar(u8),
    InvalidCrlf,
    TooBigInline,
    UnbalancedQuotes,
    /// A request of HTTP, sent by a browser that somebody misuses; it gets no answer.
    Http,
}

impl Broken {
    /// Appends the words for it, behind `Protocol error: `.
    pub fn describe(self, out: &mut Vec<u8>) {
        let text = match self {
            Broken::InvalidMultibulk => "invalid multibulk length",
            Broken::UnauthenticatedMultibulk => "unauthenticated multibulk length",
            Broken::TooBigMultibulk => "too big mbulk count string",
            Broken::InvalidBulk => "invalid bulk length",
            Broken::UnauthenticatedBulk => "unauthenticated bulk length",
            Broken::TooBigBulk => "too big bulk count string",
            Broken::InvalidCrlf => "invalid CRLF in request",
            Broken::TooBigInline => "too big inline request",
            Broken::UnbalancedQuotes => "unbalanced quotes in request",
            Broken::Http => "HTTP",
            Broken::ExpectedDollar(byte) => {
                out.extend_from_slice(b"expected '$', got '");
                out.push(byte);
                out.push(b'\'');
                return;
            }
        };
        out.extend_from_slice(text.as_bytes());
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// A command whose rest is dropped as it comes.
#[derive(Clone, Copy, Debug)]
struct Skip {
    /// Bytes of the present bulk and its CRLF still to come.
    bulk_left: usize,
    /// Bulks behind it.
    arguments_left: u32,
    why: &'static str,
}

/// The arguments of a complete command.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    #[inline]
    pub fn at(&self, i: usize) -> &'a [u8] {
        let Span { start, len } = self.spans[i];
        &self.bytes[start as usize..][..len as usize]
    }

    /// The arguments from `first` on.
    pub fn from(&self, first: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Arguments { bytes, spans } = *self;
        spans[first.min(spans.len())..].iter().map(move |s| &bytes[s.start as usize..][..s.len as usize])
    }
}

/// Commands kept for later.
#[derive(Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// Where the arguments of each end among the spans.
    ends: Vec<u32>,
}

impl Queue {
    pub fn push(&mut self, arguments: Arguments<'_>) {
        for argument in arguments.from(0) {
            self.spans.push(Span { start: self.bytes.len() as u32, len: argument.len() as u32 });
            self.bytes.extend_from_slice(argument);
        }
        self.ends.push(self.spans.len() as u32);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Span>() * self.spans.len() + size_of::<u32>() * self.ends.len()
    }

    pub fn arguments(&self, i: usize) -> Arguments<'_> {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        Arguments { bytes: &self.bytes, spans: &self.spans[start as usize..self.ends[i] as usize] }
    }
}

/// The parser of one connection. All offsets count from the first byte of the present frame.
#[derive(Default)]
pub(super) struct Parser {
    spans: Vec<Span>,
    /// Arguments the array announced; 0 while its first line is not read.
    expected: u32,
    /// Bytes done with.
    scanned: usize,
    /// Bytes of the present line that hold no line end.
    searched: usize,
    /// Length of the bulk that is waited for.
    bulk: Option<u32>,
    longest: usize,
    skip: Option<Skip>,
    /// Arguments of an inline command, without quotes and escapes.
    inline: Option<Vec<u8>>,
    frame_len: usize,
}

impl Parser {
    /// Whether nothing of the present frame was read yet.
    #[inline]
    pub fn skips(&self) -> bool {
        self.skip.is_some()
    }

    /// Whether nothing of a command was looked at.
    pub fn is_fresh(&self) -> bool {
        self.scanned == 0 && self.searched == 0 && self.skip.is_none()
    }

    /// The arguments of the command that `parse` found complete at the start of `input`.
    pub fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        Arguments { bytes: self.inline.as_deref().unwrap_or(input), spans: &self.spans }
    }

    /// Forgets the present command and answers its length in bytes.
    pub fn finish(&mut self) -> usize {
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
        let len = self.frame_len;
        *self = Parser { spans: std::mem::take(&mut self.spans), skip: self.skip, ..Parser::default() };
        len
    }

    /// Reads on in `input`, which begins with the first byte of the present frame.
    pub fn parse(&mut self, input: &[u8], limits: Limits) -> Parsed {
        if let Some(skip) = self.skip {
            return self.drop_on(skip, input);
        }
        let Some(&first) = input.first() else { return Parsed::More(1) };
        let parsed = if first == b'*' { self.array(input, limits) } else { self.line(input) };
        parsed.unwrap_or_else(|broken| {
            self.finish();
            Parsed::Broken(broken)
        })
    }

    fn array(&mut self, input: &[u8], limits: Limits) -> Result<Parsed, Broken> {
        if self.expected == 0 {
            let Some(line) = self.header(input).ok_or(Broken::TooBigMultibulk)? else {
                return Ok(Parsed::More(input.len() + 1));
            };
            let count = integer(line).filter(|&n| n <= ARGUMENTS_MAX).ok_or(Broken::InvalidMultibulk)?;
            if count <= 0 {
                let len = self.scanned;
                self.finish();
                return Ok(Parsed::Nothing(len));
            }
            if limits.unauthenticated.is_some_and(|(arguments, _)| count > arguments as i64) {
                return Err(Broken::UnauthenticatedMultibulk);
            }
            self.expected = count as u32;
        }
        while self.spans.len() < self.expected as usize {
            let len = match self.bulk {
                Some(len) => len as usize,
                None => {
                    match input.get(self.scanned) {
                        None => return Ok(Parsed::More(self.scanned + 1)),
                        Some(b'$') => {}
                        Some(&other) => return Err(Broken::ExpectedDollar(other)),
                    }
                    let Some(line) = self.header(input).ok_or(Broken::TooBigBulk)? else {
                        return Ok(Parsed::More(input.len() + 1));
                    };
                    let len = bulk_length(line)?;
                    if limits.unauthenticated.is_some_and(|(_, bytes)| len > bytes) {
                        return Err(Broken::UnauthenticatedBulk);
                    }
                    if let Some(why) = self.refusal(len, limits) {
                        self.skip = Some(Skip {
                            bulk_left: len + 2,
                            arguments_left: self.expected - self.spans.len() as u32 - 1,
                            why,
                        });
                        let consumed = self.scanned;
                        self.finish();
                        return Ok(Parsed::Nothing(consumed));
                    }
                    self.longest = self.longest.max(len);
                    self.bulk = Some(len as u32);
                    len
                }
            };
            let end = self.scanned + len;
            if input.len() < end + 2 {
                return Ok(Parsed::More(end + 2));
            }
            if &input[end..end + 2] != b"\r\n" {
                return Err(Broken::InvalidCrlf);
            }
            self.spans.push(Span { start: self.scanned as u32, len: len as u32 });
            self.scanned = end + 2;
            self.bulk = None;
        }
        self.frame_len = self.scanned;
        Ok(Parsed::Command(self.scanned))
    }

    /// Why an argument of this length is not taken, if so.
    fn refusal(&self, len: usize, limits: Limits) -> Option<&'static str> {
        if len > limits.value_bytes_max {
            return Some("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
        }
        let beside_the_longest = self.scanned + len - self.longest.max(len);
        (beside_the_longest > limits.query_bytes_max).then_some("ERR command exceeds the query buffer limit")
    }

    /// The rest of a line with a length, behind its type byte; moves on behind the line. `Some(None)`: the line is not
    /// complete; `None`: it is too long.
    fn header<'a>(&mut self, input: &'a [u8]) -> Option<Option<&'a [u8]>> {
        let line = &input[self.scanned..];
        match memchr::memchr(b'\r', &line[self.searched..]) {
            Some(at) => {
                let len = self.searched + at;
                if len > LINE_BYTES_MAX {
                    return None;
                }
                if line.len() < len + 2 {
                    self.searched = len;
                    return Some(None);
                }
                self.searched = 0;
                self.scanned += len + 2;
                Some(Some(&line[1..len]))
            }
            None => {
                self.searched = line.len();
                if line.len() > LINE_BYTES_MAX { None } else { Some(None) }
            }
        }
    }

    fn drop_on(&mut self, mut skip: Skip, input: &[u8]) -> Parsed {
        if skip.bulk_left > 0 {
            let taken = skip.bulk_left.min(input.len());
            skip.bulk_left -= taken;
            let done = skip.bulk_left == 0 && skip.arguments_left == 0;
            self.skip = (!done).then_some(skip);
            return match (done, taken) {
                (true, _) => Parsed::Refused(taken, skip.why),
                (false, 0) => Parsed::More(1),
                (false, _) => Parsed::Nothing(taken),
            };
        }
        // Between bulks of what is dropped; `scanned` counts from the line with the length.
        let broken = match input.first() {
            None => return Parsed::More(1),
            Some(b'$') => match self.header(input) {
                None => Broken::TooBigBulk,
                Some(None) => return Parsed::More(input.len() + 1),
                Some(Some(line)) => match bulk_length(line) {
                    Err(broken) => broken,
                    Ok(len) => {
                        skip.bulk_left = len + 2;
                        skip.arguments_left -= 1;
                        self.skip = Some(skip);
                        let consumed = self.scanned;
                        self.finish();
                        return Parsed::Nothing(consumed);
                    }
                },
            },
            Some(&other) => Broken::ExpectedDollar(other),
        };
        self.skip = None;
        self.finish();
        Parsed::Broken(broken)
    }

    fn line(&mut self, input: &[u8]) -> Result<Parsed, Broken> {
        let Some(len) = memchr::memchr(b'\n', &input[self.searched..]).map(|at| self.searched + at) else {
            self.searched = input.len();
            return if input.len() > LINE_BYTES_MAX {
                Err(Broken::TooBigInline)
            } else {
                Ok(Parsed::More(input.len() + 1))
            };
        };
        if len > LINE_BYTES_MAX {
            return Err(Broken::TooBigInline);
        }
        let line = input[..len].strip_suffix(b"\r").unwrap_or(&input[..len]);
        let mut unquoted = Vec::new();
        split_line(line, &mut unquoted, &mut self.spans).ok_or(Broken::UnbalancedQuotes)?;
        self.inline = Some(unquoted);
        self.frame_len = len + 1;
        if self.spans.is_empty() {
            self.finish();
            return Ok(Parsed::Nothing(len + 1));
        }
        self.scanned = len + 1;
        let word = self.arguments(input).at(0);
        if word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:") {
            return Err(Broken::Http);
        }
        Ok(Parsed::Command(len + 1))
    }
}

fn bulk_length(line: &[u8]) -> Result<usize, Broken> {
    integer(line)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|&n| n <= BULK_BYTES_MAX)
        .ok_or(Broken::InvalidBulk)
}

/// Cuts a line at white space, and takes off quotes and escapes. `None`: a quote does not end.
fn split_line(line: &[u8], out: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<()> {
    // A NUL ends the line, as it does where lines are C strings.
    let line = &line[..memchr::memchr(0, line).unwrap_or(line.len())];
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(|&b| is_space(b)).is_some() {}
        if rest.peek().is_none() {
            return Some(());
        }
        let start = out.len();
        while let Some(byte) = rest.next_if(|&b| !is_space(b)) {
            match byte {
                b'"' => loop {
                    match rest.next()? {
                        b'"' => break,
                        b'\\' => {
                            let escaped = rest.next()?;
                            let mut ahead = rest.clone();
                            let digits = (ahead.next().and_then(hex), ahead.next().and_then(hex));
                            match (escaped, digits) {
                                (b'x', (Some(high), Some(low))) => {
                                    out.push(high << 4 | low);
                                    rest = ahead;
                                }
                                (b'n', _) => out.push(b'\n'),
                                (b'r', _) => out.push(b'\r'),
                                (b't', _) => out.push(b'\t'),
                                (b'b', _) => out.push(8),
                                (b'a', _) => out.push(7),
                                (other, _) => out.push(other),
                            }
                        }
                        byte => out.push(byte),
                    }
                },
                b'\'' => loop {
                    match rest.next()? {
                        b'\'' => break,
                        b'\\' if rest.peek() == Some(&b'\'') => out.extend(rest.next()),
                        byte => out.push(byte),
                    }
                },
                byte => out.push(byte),
            }
        }
        spans.push(Span { start: start as u32, len: (out.len() - start) as u32 });
    }
}

/// White space as C's `isspace` has it.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// A decimal integer in the one way it can be written: no sign but `-`, no leading zeros, no spaces.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let magnitude = unsigned(digits)?;
    match negative {
        false => i64::try_from(magnitude).ok(),
        true if magnitude == 0 => None,
        true => 0i64.checked_sub_unsigned(magnitude),
    }
}

/// An unsigned decimal integer in the one way it can be written.
pub(super) fn unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(value))
    })
}
