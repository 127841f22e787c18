//! Connections to the server, and what is said on them before the load: greeting, and the cluster's map.

use super::load::{Failure, Targets};
use super::speech::Protocol;
use crate::ids::SLOT_COUNT;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What is said first on each connection.
#[derive(Clone, Debug)]
pub struct Greeting {
    pub protocol: Protocol,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: u32,
    /// How long connecting and each answer may take.
    pub patience: Duration,
}

/// Connects and greets.
///
/// # Errors
/// Nobody listens, or the greeting is refused.
pub fn connect(address: SocketAddr, greeting: &Greeting) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect_timeout(&address, greeting.patience)
        .map_err(|error| Failure::Connect(address, error))?;
    let prepare = || {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(greeting.patience))?;
        stream.set_write_timeout(Some(greeting.patience))
    };
    prepare().map_err(|error| Failure::Connect(address, error))?;
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
                let user = greeting.user.as_deref().unwrap_or("");
                authenticate_native(&stream, user, password)
                    .map_err(|error| Failure::Greeting(address, error.to_string()))?;
            }
        }
        Protocol::Memcached | Protocol::Meta => {}
    }
    for command in commands {
        match call(&stream, &command).map_err(|error| Failure::Greeting(address, error.to_string()))? {
            Resp::Error(words) => return Err(Failure::Greeting(address, words)),
            Resp::Text(_) | Resp::Number(_) | Resp::List(_) | Resp::Null => {}
        }
    }
    Ok(stream)
}

/// Asks a node for `CLUSTER SLOTS`.
///
/// # Errors
/// No connection, no cluster, or a map with holes.
pub fn cluster_targets(address: SocketAddr, greeting: &Greeting) -> Result<Targets, Failure> {
    let fail = |words: String| Failure::Greeting(address, words);
    let greeting = Greeting { protocol: Protocol::Resp2, ..greeting.clone() };
    let stream = connect(address, &greeting)?;
    let reply = call(&stream, &["CLUSTER", "SLOTS"]).map_err(|error| fail(error.to_string()))?;
    let ranges = match reply {
        Resp::List(ranges) => ranges,
        Resp::Error(words) => return Err(fail(words)),
        other => return Err(fail(format!("CLUSTER SLOTS answered {other:?}"))),
    };
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
        owners[usize::from(first)..=usize::from(last)].fill(Some(node as u16));
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

/// AUTH of the native protocol: a frame with the user as its key, answered by one without a body if all is well.
fn authenticate_native(mut stream: &TcpStream, user: &str, password: &str) -> std::io::Result<()> {
    let mut frame = vec![0xF5, 1, 0x02, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&((user.len() + password.len()) as u32).to_le_bytes());
    frame.extend_from_slice(&(user.len() as u16).to_le_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(user.as_bytes());
    frame.extend_from_slice(password.as_bytes());
    stream.write_all(&frame)?;
    let mut header = [0; 16];
    stream.read_exact(&mut header)?;
    match (header[0], u16::from_le_bytes([header[12], header[13]])) {
        (0xF6, 0) => Ok(()),
        (0xF6, status) => Err(std::io::Error::other(format!("AUTH: status {status}"))),
        _ => Err(std::io::Error::other("AUTH was not answered by a native frame")),
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

fn call(mut stream: &TcpStream, command: &[&str]) -> std::io::Result<Resp> {
    let mut request = format!("*{}\r\n", command.len());
    for word in command {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    // The server says nothing unasked, so the buffer holds nothing beyond this reply when it is dropped.
    read(&mut BufReader::new(stream), DEPTH_MAX)
}

fn read(from: &mut impl BufRead, depth: u32) -> std::io::Result<Resp> {
    let invalid =
        |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not RESP: {what:?}"));
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
            Resp::List((0..entries).map(|_| read(from, depth - 1)).collect::<std::io::Result<_>>()?)
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
