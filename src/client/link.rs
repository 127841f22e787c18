//! One connection of a client: made, lost, rested and made again; frames out, replies in.
//!
//! A link holds the frames of the call under way until it ends, so that what may be repeated can be sent again as it is.
//! Their request ids are their places in `pending`.

use super::{Breach, Error, Options};
use crate::wire::native::frame::{
    self, Decoded, HEADER_BYTES, Header, Hello, MAGIC_REPLY, NAME_BYTES_MAX, Reply, Request, Status, VERSION,
    capabilities,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Room for what one read may bring.
const READ_BYTES: usize = 64 * 1024;
/// Up to this many bytes a blocking write is safe: both ends' socket buffers take them while nobody reads.
const BLOCKING_WRITE_BYTES: usize = 16 * 1024;
/// Memory for frames that a link keeps between calls.
const KEEP_BYTES: usize = 1 << 20;
/// A connection that was not used for so long is looked at before it is used: its server may be gone.
const TRUSTED: Duration = Duration::from_secs(1);

/// A request of the call under way.
pub(super) struct Pending {
    /// Its frame in the link's bytes.
    pub frame: Range<usize>,
    pub opcode: u8,
    /// Where its answers go: one place, or as many as the batch has items.
    pub places: Vec<usize>,
    /// Answers still to come; of STATS it is not known.
    pub left: usize,
    /// Sending it twice does no harm.
    pub repeatable: bool,
}

/// A connection, or where one should be.
pub(super) struct Link {
    addresses: Vec<SocketAddr>,
    stream: Option<TcpStream>,
    /// Frames of the call under way.
    pub out: Vec<u8>,
    pub pending: Vec<Pending>,
    input: Vec<u8>,
    input_start: usize,
    input_end: usize,
    /// The stream's read timeout; the system is only asked to change it when it has to be.
    read_timeout: Duration,
    used: Instant,
    failures: u32,
    rest_until: Option<Instant>,
}

impl Link {
    pub fn to(addresses: Vec<SocketAddr>) -> Link {
        Link {
            addresses,
            stream: None,
            out: Vec::new(),
            pending: Vec::new(),
            input: Vec::new(),
            input_start: 0,
            input_end: 0,
            read_timeout: Duration::MAX,
            used: Instant::now(),
            failures: 0,
            rest_until: None,
        }
    }

    pub fn leads_to(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address)
    }

    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether it failed a moment ago and is not to be tried yet.
    pub fn is_resting(&self) -> bool {
        self.rest_until.is_some_and(|until| Instant::now() < until)
    }

    /// The address at the other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.as_ref()?.peer_addr().ok()
    }

    /// Closes the connection; the next call makes a new one.
    pub fn close(&mut self) {
        self.stream = None;
        (self.input_start, self.input_end) = (0, 0);
    }

    /// Forgets the call that has ended.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.out.clear();
        self.out.shrink_to(KEEP_BYTES);
        if self.input_start == self.input_end {
            (self.input_start, self.input_end) = (0, 0);
            self.input.truncate(KEEP_BYTES);
            self.input.shrink_to(KEEP_BYTES);
        }
    }

    /// Makes the connection if there is none: any of the addresses, HELLO, and AUTH where there is a password.
    pub fn connect(&mut self, options: &Options, deadline: Instant) -> Result<(), Error> {
        let now = Instant::now();
        if let Some(stream) = &self.stream {
            if now.saturating_duration_since(self.used) < TRUSTED || is_silent(stream) {
                self.used = now;
                return Ok(());
            }
            self.close();
        }
        self.used = now;
        let first = self.addresses[0].to_string();
        if self.is_resting() {
            return Err(Error::Unreachable { address: first, kind: ErrorKind::ConnectionRefused });
        }
        let mut last = Error::Deadline;
        for address in self.addresses.clone() {
            let left = left_until(deadline)?.min(options.connect_timeout);
            let stream = TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1)))
                .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            match stream {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.read_timeout = Duration::MAX;
                    match self.greet(options, deadline) {
                        Ok(()) => {
                            (self.failures, self.rest_until) = (0, None);
                            return Ok(());
                        }
                        Err(error) => {
                            self.close();
                            last = error;
                        }
                    }
                }
                Err(error) => {
                    last = Error::Unreachable { address: address.to_string(), kind: error.kind() };
                }
            }
        }
        let pause = options.reconnect_pause.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.rest_until = Some(Instant::now() + pause.min(options.reconnect_pause_max));
        Err(last)
    }

    fn greet(&mut self, options: &Options, deadline: Instant) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: capabilities::CRC | capabilities::MAP | capabilities::LEASE,
            name: &options.name.as_bytes()[..options.name.len().min(NAME_BYTES_MAX)],
        };
        Request::Hello(hello).encode(0, options.crc, &mut bytes);
        let mut awaited = 1;
        if let Some(password) = &options.password {
            Request::Auth { user: b"", password: password.as_bytes() }.encode(1, options.crc, &mut bytes);
            awaited = 2;
        }
        let stream = self.stream.as_mut().expect("just connected");
        stream.write_all(&bytes).map_err(|error| lost(&error))?;
        for id in 0..awaited {
            let reply = self.receive(deadline)?;
            if reply.id != id && !reply.status.closes() {
                return Err(Error::Protocol(Breach::Greeting));
            }
            if reply.status != Status::OK {
                return Err(fault(&reply));
            }
        }
        Ok(())
    }

    /// Sends these runs of `out`. Whatever comes in meanwhile is kept, so that a server that waits for its replies to be taken
    /// cannot stop us.
    pub fn send(&mut self, runs: &[Range<usize>], deadline: Instant) -> Result<(), Error> {
        let Some(mut stream) = self.stream.as_ref() else { return Err(Error::Lost(ErrorKind::NotConnected)) };
        let bytes: usize = runs.iter().map(|run| run.len()).sum();
        if bytes <= BLOCKING_WRITE_BYTES {
            return runs
                .iter()
                .try_for_each(|run| stream.write_all(&self.out[run.clone()]))
                .map_err(|error| lost(&error));
        }
        stream.set_nonblocking(true).map_err(|error| lost(&error))?;
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                match stream.write(&self.out[at..run.end]) {
                    Ok(0) => return Err(Error::Lost(ErrorKind::WriteZero)),
                    Ok(len) => at += len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let left = left_until(deadline)?;
                        make_room(&mut self.input, &mut self.input_start, &mut self.input_end, 1);
                        match stream.read(&mut self.input[self.input_end..]) {
                            Ok(0) => return Err(Error::Lost(ErrorKind::UnexpectedEof)),
                            Ok(len) => self.input_end += len,
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                                await_either(stream, left)?;
                            }
                            Err(error) if error.kind() == ErrorKind::Interrupted => {}
                            Err(error) => return Err(lost(&error)),
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(lost(&error)),
                }
            }
        }
        stream.set_nonblocking(false).map_err(|error| lost(&error))
    }

    /// The next reply, waited for.
    pub fn receive(&mut self, deadline: Instant) -> Result<Reply<'_>, Error> {
        const BROKEN: Error = Error::Protocol(Breach::Frame);
        let len = loop {
            let held = &self.input[self.input_start..self.input_end];
            let header = Header::read(MAGIC_REPLY, held).map_err(|_| BROKEN)?;
            let len = header.map_or(HEADER_BYTES, |header| header.frame_len());
            if header.is_some() && held.len() >= len {
                break len;
            }
            let missing = len - held.len();
            self.read_some(missing, deadline)?;
        };
        let start = self.input_start;
        self.input_start += len;
        match frame::decode_reply(&self.input[start..start + len]) {
            Ok(Decoded::Reply { reply, .. }) => Ok(reply),
            Ok(Decoded::More { .. }) | Err(_) => Err(BROKEN),
        }
    }

    fn read_some(&mut self, missing: usize, deadline: Instant) -> Result<(), Error> {
        let Some(mut stream) = self.stream.as_ref() else { return Err(Error::Lost(ErrorKind::NotConnected)) };
        make_room(&mut self.input, &mut self.input_start, &mut self.input_end, missing);
        loop {
            let left = left_until(deadline)?;
            if self.read_timeout > left {
                // Half of it, so that the next calls need not change it again; waking early only means another look.
                self.read_timeout = (left / 2).max(Duration::from_millis(1));
                stream.set_read_timeout(Some(self.read_timeout)).map_err(|error| lost(&error))?;
            }
            match stream.read(&mut self.input[self.input_end..]) {
                Ok(0) => return Err(Error::Lost(ErrorKind::UnexpectedEof)),
                Ok(len) => {
                    self.input_end += len;
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

/// Whether the other end has neither closed nor said anything unasked.
fn is_silent(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let silent = stream.set_nonblocking(true).is_ok()
        && matches!(stream.peek(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_ok() && silent
}

/// Waits until the stream can be written to or read from, or for so long.
fn await_either(stream: &TcpStream, at_most: Duration) -> Result<(), Error> {
    let millis = at_most.as_millis().clamp(1, i32::MAX as u128) as i32;
    match poll(&mut [PollFd::new(stream, PollFlags::POLLIN | PollFlags::POLLOUT)], millis) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(lost(&error.into())),
    }
}

/// Makes room behind `end` for a read; grows with what has come, not with what a length promises.
fn make_room(input: &mut Vec<u8>, start: &mut usize, end: &mut usize, missing: usize) {
    if *start > 0 && (*start == *end || input.len() - *end < missing) {
        input.copy_within(*start..*end, 0);
        (*end, *start) = (*end - *start, 0);
    }
    let wanted = missing.clamp(READ_BYTES / 4, (*end).max(READ_BYTES));
    if input.len() - *end < wanted {
        input.resize(*end + wanted.max(READ_BYTES), 0);
    }
}

fn left_until(deadline: Instant) -> Result<Duration, Error> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Error::Deadline),
        left => Ok(left),
    }
}

fn lost(error: &io::Error) -> Error {
    Error::Lost(error.kind())
}

/// A fault, as the caller sees it.
pub(super) fn fault(reply: &Reply<'_>) -> Error {
    Error::Fault { status: reply.status, text: reply.text().into_owned() }
}
