//! Connections to the server, and what is said on them before the load: greeting, and the cluster's map.

use super::load::{Failure, Targets};
use super::speech::Protocol;
use crate::ids::SLOT_COUNT;
use crate::wire::native::frame::{Decoded, Request, Status, decode_reply};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What is said first on each connection.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub protocol: Protocol,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: u32,
    /// How long connecting, and then all that is said and answered, may take.
    pub patience: Duration,
}

/// Bytes of all that a server may say before the load.
const GREETING_BYTES_MAX: usize = 16 << 20;
/// Memory for a native reply to AUTH: a header, and why not.
const NATIVE_BYTES_MAX: usize = 64 << 10;

/// A connection that is greeted: whatever the server says and how slowly, there is an end to it.
struct Guest {
    stream: TcpStream,
    end: Instant,
    bytes_left: usize,
    patience: Duration,
}

impl Guest {
    fn time_left(&self) -> io::Result<Duration> {
        match self.end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(self.too_slow()),
            left => Ok(left),
        }
    }

    fn too_slow(&self) -> io::Error {
        io::Error::new(ErrorKind::TimedOut, format!("no whole answer within {:?}", self.patience))
    }

    fn or_too_slow(&self, done: io::Result<usize>) -> io::Result<usize> {
        done.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.too_slow(),
            _ => error,
        })
    }
}

impl Read for Guest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes_left == 0 {
            return Err(io::Error::new(ErrorKind::InvalidData, "the answer has no end"));
        }
        self.stream.set_read_timeout(Some(self.time_left()?))?;
        let room = buf.len().min(self.bytes_left);
        let read = self.stream.read(&mut buf[..room]);
        let len = self.or_too_slow(read)?;
        self.bytes_left -= len;
        Ok(len)
    }
}

impl Write for Guest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.time_left()?))?;
        let written = self.stream.write(bytes);
        self.or_too_slow(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects and greets.
///
/// # Errors
/// Nobody listens, or the greeting is refused or takes too long.
pub fn connect(address: SocketAddr, greeting: &Greeting) -> Result<TcpStream, Failure> {
    let Guest { stream, .. } = greeted(address, greeting)?;
    stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_write_timeout(None))
        .map_err(|error| Failure::Connect(address, error))?;
    Ok(stream)
}

fn greeted(address: SocketAddr, greeting: &Greeting) -> Result<Guest, Failure> {
    let patience = greeting.patience;
    let stream = TcpStream::connect_timeout(&address, patience)
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| Failure::Connect(address, error))?;
    let end = Instant::now() + patience;
    let mut guest = Guest { stream, end, bytes_left: GREETING_BYTES_MAX, patience };
    greet(&mut guest, greeting).map_err(|error| Failure::Greeting(address, error.to_string()))?;
    Ok(guest)
}

fn greet(guest: &mut Guest, greeting: &Greeting) -> io::Result<()> {
    let mut commands: Vec<Vec<&str>> = Vec::new();
    let database = greeting.database.to_string();
    match greeting.protocol {
        Protocol::Resp2 | Protocol::Resp3 => {
            if let Some(password) = &greeting.password {
                let mut command = vec!["AUTH"];
                command.extend(greeting.user.as_deref());
                command.push(password);
                commands.push(command);
            }
            if greeting.protocol == Protocol::Resp3 {
                commands.push(vec!["HELLO", "3"]);
            }
            if greeting.database != 0 {
                commands.push(vec!["SELECT", &database]);
            }
        }
        Protocol::Native => {
            if let Some(password) = &greeting.password {
                authenticate_native(guest, greeting.user.as_deref().unwrap_or(""), password)?;
            }
        }
        Protocol::Memcached | Protocol::Meta => {
            if let Some(password) = &greeting.password {
                authenticate_memcached(guest, greeting.user.as_deref().unwrap_or("default"), password)?;
            }
        }
    }
    for command in commands {
        if let Resp::Error(words) = call(guest, &command)? {
            return Err(io::Error::other(words));
        }
    }
    Ok(())
}

/// Asks a node for `CLUSTER SLOTS`.
///
/// # Errors
/// No connection, no cluster, or a map with holes.
pub fn cluster_targets(address: SocketAddr, greeting: &Greeting) -> Result<Targets, Failure> {
    let fail = |words: String| Failure::Greeting(address, words);
    let greeting = Greeting { protocol: Protocol::Resp2, ..greeting.clone() };
    let mut guest = greeted(address, &greeting)?;
    let reply = call(&mut guest, &["CLUSTER", "SLOTS"]).map_err(|error| fail(error.to_string()))?;
    let ranges = match reply {
        Resp::List(ranges) => ranges,
        Resp::Error(words) => return Err(fail(words)),
        other => return Err(fail(format!("CLUSTER SLOTS answered {other:?}"))),
    };
    if ranges.len() > usize::from(SLOT_COUNT) {
        return Err(fail(format!("CLUSTER SLOTS holds {} ranges of {SLOT_COUNT} slots", ranges.len())));
    }
    let mut targets = Targets { nodes: Vec::new(), node_of_slot: None };
    let mut owners: Vec<Option<u16>> = vec![None; usize::from(SLOT_COUNT)];
    for range in &ranges {
        let (first, last, owner) =
            range_of(range, address).ok_or_else(|| fail(format!("CLUSTER SLOTS holds {range:?}")))?;
        let known = targets.nodes.iter().position(|&node| node == owner);
        let node = known.unwrap_or_else(|| {
            targets.nodes.push(owner);
            targets.nodes.len() - 1
        });
        let node = u16::try_from(node).expect("there are no more nodes than ranges");
        owners[usize::from(first)..=usize::from(last)].fill(Some(node));
    }
    let Some(node_of_slot) = owners.into_iter().collect() else {
        return Err(fail("CLUSTER SLOTS leaves slots without an owner".into()));
    };
    targets.node_of_slot = Some(node_of_slot);
    Ok(targets)
}

/// First slot, last slot and owner of an entry; an owner without an address is the node that was asked.
fn range_of(range: &Resp, asked: SocketAddr) -> Option<(u16, u16, SocketAddr)> {
    let Resp::List(fields) = range else { return None };
    let [Resp::Number(first), Resp::Number(last), Resp::List(owner), ..] = fields.as_slice() else {
        return None;
    };
    let [host, Resp::Number(port), ..] = owner.as_slice() else { return None };
    let ip = match host {
        Resp::Text(host) if !host.is_empty() && host != "?" => host.parse().ok()?,
        Resp::Text(_) | Resp::Null => asked.ip(),
        Resp::Number(_) | Resp::Error(_) | Resp::List(_) => return None,
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    (first <= last && last < SLOT_COUNT).then_some(())?;
    Some((first, last, SocketAddr::new(ip, u16::try_from(*port).ok()?)))
}

/// AUTH of the native protocol.
fn authenticate_native(guest: &mut Guest, user: &str, password: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    Request::Auth { user: user.as_bytes(), password: password.as_bytes() }.encode(0, false, &mut bytes);
    guest.write_all(&bytes)?;
    bytes.clear();
    loop {
        let refused = |words: &str| io::Error::other(format!("AUTH: {words}"));
        let missing = match decode_reply(&bytes) {
            Ok(Decoded::Reply { reply, .. }) if reply.status == Status::OK => return Ok(()),
            Ok(Decoded::Reply { reply, .. }) => {
                return Err(refused(&format!("{} {}", reply.status.name(), reply.text())));
            }
            Ok(Decoded::More { at_least }) if at_least <= NATIVE_BYTES_MAX => at_least - bytes.len(),
            Ok(Decoded::More { .. }) | Err(_) => return Err(refused("not answered by a native frame")),
        };
        let start = bytes.len();
        bytes.resize(start + missing, 0);
        guest.read_exact(&mut bytes[start..])?;
    }
}

/// What memcached has for it: a set of any key with user and password as its value.
fn authenticate_memcached(guest: &mut Guest, user: &str, password: &str) -> io::Result<()> {
    let token = format!("{user} {password}");
    guest.write_all(format!("set auth 0 0 {}\r\n{token}\r\n", token.len()).as_bytes())?;
    let mut line = String::new();
    BufReader::new(guest).take(1 << 10).read_line(&mut line)?;
    match line.as_str() {
        "STORED\r\n" => Ok(()),
        words => Err(io::Error::other(format!("authentication was answered {words:?}"))),
    }
}

/// A reply of the control commands above; values of the load never come here.
#[derive(Debug, PartialEq, Eq)]
enum Resp {
    Text(String),
    Number(i64),
    Error(String),
    List(Vec<Resp>),
    Null,
}

/// Depth and entries that a control reply may have.
const DEPTH_MAX: u32 = 8;
const ENTRIES_MAX: i64 = 1 << 20;

fn call(guest: &mut Guest, command: &[&str]) -> io::Result<Resp> {
    let mut request = format!("*{}\r\n", command.len());
    for word in command {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    guest.write_all(request.as_bytes())?;
    // The server says nothing unasked, so the buffer holds nothing beyond this reply when it is dropped.
    read(&mut BufReader::new(guest), DEPTH_MAX)
}

fn read(from: &mut impl BufRead, depth: u32) -> io::Result<Resp> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {what:?}"));
    let mut line = String::new();
    from.by_ref().take(1 << 16).read_line(&mut line)?;
    let text = line.strip_suffix("\r\n").ok_or_else(|| invalid(&line))?;
    let (kind, text) = text.split_at_checked(1).ok_or_else(|| invalid(&line))?;
    let number =
        || text.parse::<i64>().ok().filter(|&number| number <= ENTRIES_MAX).ok_or_else(|| invalid(&line));
    Ok(match kind {
        "+" => Resp::Text(text.to_string()),
        "-" => Resp::Error(text.to_string()),
        ":" => Resp::Number(number()?),
        "_" => Resp::Null,
        "$" => match number()? {
            len if len < 0 => Resp::Null,
            len => {
                let mut bytes = vec![0; len as usize + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(len as usize);
                Resp::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
        },
        "*" | "%" | "~" => {
            if depth == 0 {
                return Err(invalid("nested too deeply"));
            }
            let entries = number()?.max(0) * if kind == "%" { 2 } else { 1 };
            Resp::List((0..entries).map(|_| read(from, depth - 1)).collect::<io::Result<_>>()?)
        }
        _ => return Err(invalid(&line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ranges_are_read_with_and_without_address() {
        let asked: SocketAddr = "127.0.0.1:7400".parse().expect("constant");
        let bytes = b"*2\r\n*3\r\n:0\r\n:8191\r\n*3\r\n$0\r\n\r\n:7402\r\n$1\r\na\r\n*3\r\n:8192\r\n:16383\r\n*2\r\n$8\r\n10.0.0.1\r\n:7403\r\n";
        let Ok(Resp::List(ranges)) = read(&mut &bytes[..], DEPTH_MAX) else { panic!("a list") };
        let ranges: Vec<_> = ranges.iter().map(|range| range_of(range, asked)).collect();
        let address = |text: &str| text.parse::<SocketAddr>().expect("constant");
        assert_eq!(
            ranges,
            [Some((0, 8191, address("127.0.0.1:7402"))), Some((8192, 16383, address("10.0.0.1:7403")))]
        );
    }

    #[test]
    fn hostile_control_replies_are_errors() {
        let deep = b"*1\r\n".repeat(20);
        for bytes in [&b""[..], b"hello\r\n", b"$5\r\nab", b"*9999999999\r\n", b":x\r\n", &deep] {
            assert!(read(&mut &bytes[..], DEPTH_MAX).is_err(), "{bytes:?}");
        }
        assert_eq!(range_of(&Resp::Null, "127.0.0.1:1".parse().expect("constant")), None);
    }
}
