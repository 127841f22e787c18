//! A Redis that is far away: a proxy that lets each command take a while, and only so many at a time. Or an HTTP server that
//! has its values in that Redis, as slow.
//!
//! `cargo run --release --example slow_origin -- --to ADDR [--listen ADDR] [--latency-micros N] [--slots N] [--queue N] [--speak redis|http]`
//!
//! ```text
//!   client ---command--> [queue: at most N wait] --> [slots: N at a time, each for the latency] --> the Redis
//! ```
//! 1. A thread for each connection reads what comes in one piece, one command or some, waits for a slot, holds it for the latency and the real one's answer,
//!    and hands the reply on. So an origin's capacity is slots / latency, and beyond that commands queue.
//! 2. A command that finds the queue full is refused, by a Redis error.
//! 3. With `--speak http` a question is `GET /KEY`, and the answer 200 with the value that the Redis has, 404 if it has none, 503
//!    if the queue is full.
//! 4. Prints `ready ADDR`, ends with its standard input. At its end it prints what it saw: commands, refused, most that waited.
//!
//! For measuring (bench/prefetch); only on loopback, at most 1024 connections.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const CONNECTIONS_MAX: usize = 1024;
/// Longest head of a question in HTTP.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest frame.
const FRAME_BYTES_MAX: usize = 64 << 20;

struct Options {
    to: SocketAddr,
    listen: SocketAddr,
    latency: Duration,
    slots: usize,
    queue: usize,
    speak: Speak,
}

/// What clients speak.
#[derive(Clone, Copy)]
enum Speak {
    Redis,
    Http,
}

/// The slots, and who waits for one.
struct Gate {
    state: Mutex<State>,
    freed: Condvar,
    slots: usize,
    queue: usize,
}

#[derive(Default)]
struct State {
    busy: usize,
    waiting: usize,
    waiting_most: usize,
    commands: u64,
    refused: u64,
}

impl Gate {
    /// Waits for a slot; false if too many wait already.
    fn enter(&self) -> bool {
        let mut state = self.state.lock().expect("nobody panics under it");
        state.commands += 1;
        if state.busy >= self.slots {
            if state.waiting >= self.queue {
                state.refused += 1;
                return false;
            }
            state.waiting += 1;
            state.waiting_most = state.waiting_most.max(state.waiting);
            state = self
                .freed
                .wait_while(state, |state| state.busy >= self.slots)
                .expect("nobody panics under it");
            state.waiting -= 1;
        }
        state.busy += 1;
        true
    }

    fn leave(&self) {
        self.state.lock().expect("nobody panics under it").busy -= 1;
        self.freed.notify_one();
    }
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("slow_origin: {error}");
            return ExitCode::from(2);
        }
    };
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slow_origin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        to: SocketAddr::from(([127, 0, 0, 1], 0)),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        latency: Duration::from_millis(2),
        slots: 16,
        queue: 1024,
        speak: Speak::Redis,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{flag} {value}: a number is wanted"));
        let address = || value.parse().map_err(|_| format!("{flag} {value}: an address is wanted"));
        match flag.as_str() {
            "--to" => options.to = address()?,
            "--listen" => options.listen = address()?,
            "--latency-micros" => options.latency = Duration::from_micros(number()?.min(10_000_000) as u64),
            "--slots" => options.slots = number()?.clamp(1, CONNECTIONS_MAX),
            "--queue" => options.queue = number()?,
            "--speak" => {
                options.speak = match value.as_str() {
                    "redis" => Speak::Redis,
                    "http" => Speak::Http,
                    _ => return Err(format!("--speak {value}: redis or http is wanted")),
                };
            }
            _ => return Err(format!("{flag} is not known")),
        }
    }
    match options.to.port() {
        0 => Err("--to ADDR is needed".to_owned()),
        _ if !options.listen.ip().is_loopback() || !options.to.ip().is_loopback() => {
            Err("only addresses of this machine".to_owned())
        }
        _ => Ok(options),
    }
}

fn serve(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    println!("ready {}", listener.local_addr()?);
    let gate = Arc::new(Gate {
        state: Mutex::default(),
        freed: Condvar::new(),
        slots: options.slots,
        queue: options.queue,
    });
    let open = Arc::new(AtomicUsize::new(0));
    let (to, latency, speak, accepting) = (options.to, options.latency, options.speak, gate.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            if open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (gate, open) = (accepting.clone(), open.clone());
            std::thread::spawn(move || {
                // A connection that breaks is one that ended.
                let _ = match speak {
                    Speak::Redis => carry(client, to, latency, &gate),
                    Speak::Http => carry_http(client, to, latency, &gate),
                };
                open.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
    // Whatever ends standard input ends us.
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    let state = gate.state.lock().expect("nobody panics under it");
    println!("commands={} refused={} waiting_most={}", state.commands, state.refused, state.waiting_most);
    Ok(())
}

/// One connection, command by command.
fn carry(mut client: TcpStream, to: SocketAddr, latency: Duration, gate: &Gate) -> io::Result<()> {
    let mut origin = TcpStream::connect(to)?;
    client.set_nodelay(true)?;
    origin.set_nodelay(true)?;
    let (mut commands, mut replies) = (Vec::new(), Vec::new());
    loop {
        // What came in one piece is one question: a value and its time to live, say.
        let mut command = next_frame(&mut client, &mut commands)?;
        let mut count = 1;
        while let Some(len) = frame_len(&commands) {
            command.extend(commands.drain(..len));
            count += 1;
        }
        if !gate.enter() {
            client.write_all(&b"-ERR too many commands wait\r\n".repeat(count))?;
            continue;
        }
        let answered = ask_slowly(&mut origin, &command, count, &mut replies, latency, gate);
        client.write_all(&answered?)?;
    }
}

/// One connection that speaks HTTP, question by question.
fn carry_http(mut client: TcpStream, to: SocketAddr, latency: Duration, gate: &Gate) -> io::Result<()> {
    let mut origin = TcpStream::connect(to)?;
    client.set_nodelay(true)?;
    origin.set_nodelay(true)?;
    let (mut questions, mut replies) = (Vec::new(), Vec::new());
    loop {
        let head = next_head(&mut client, &mut questions)?;
        let Some(key) = key_of(&head) else {
            client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        if !gate.enter() {
            client.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let mut command = format!("*2\r\n$3\r\nGET\r\n${}\r\n", key.len()).into_bytes();
        command.extend_from_slice(&key);
        command.extend_from_slice(b"\r\n");
        let answer = ask_slowly(&mut origin, &command, 1, &mut replies, latency, gate)?;
        let value = answer.windows(2).position(|pair| pair == b"\r\n").map(|line| &answer[line + 2..]);
        let value = value.and_then(|rest| rest.strip_suffix(b"\r\n")).filter(|_| answer[0] == b'$');
        match value {
            Some(value) => {
                let mut reply =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", value.len()).into_bytes();
                reply.extend_from_slice(value);
                client.write_all(&reply)?;
            }
            None => client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// The next question's head; a body is not expected.
fn next_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut piece = [0; 4 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok(std::mem::replace(bytes, rest));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// The key that `GET /KEY HTTP/1.1` asks for, percent-encoding undone.
fn key_of(head: &[u8]) -> Option<Vec<u8>> {
    let path = head.strip_prefix(b"GET /")?;
    let path = &path[..path.iter().position(|&byte| byte == b' ')?];
    let mut key = Vec::new();
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        let mut digit = || char::from(*bytes.next()?).to_digit(16);
        key.push(if byte == b'%' { (digit()? * 16 + digit()?) as u8 } else { byte });
    }
    Some(key)
}

/// The real one's answers, after the latency at least; gives the slot back.
fn ask_slowly(
    origin: &mut TcpStream,
    command: &[u8],
    count: usize,
    replies: &mut Vec<u8>,
    latency: Duration,
    gate: &Gate,
) -> io::Result<Vec<u8>> {
    let begin = Instant::now();
    let answered = ask(origin, command, count, replies);
    // The real one's time is part of the latency.
    std::thread::sleep(latency.saturating_sub(begin.elapsed()));
    gate.leave();
    answered
}

fn ask(origin: &mut TcpStream, command: &[u8], count: usize, replies: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    origin.write_all(command)?;
    let mut answer = Vec::new();
    for _ in 0..count {
        answer.extend(next_frame(origin, replies)?);
    }
    Ok(answer)
}

/// Takes the next whole frame, reading as far as is needed.
fn next_frame(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut piece = [0; 64 << 10];
    loop {
        if let Some(len) = frame_len(bytes) {
            let rest = bytes.split_off(len);
            return Ok(std::mem::replace(bytes, rest));
        }
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// Length of the first frame of RESP2 or RESP3, if it is whole.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut parts) = (0, 1u64);
    while parts > 0 {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let head = &bytes[at..at + line];
        at += line + 2;
        parts -= 1;
        let number = || std::str::from_utf8(head.get(1..)?).ok()?.parse::<i64>().ok();
        match head.first()? {
            b'$' | b'=' | b'!' => at += number().filter(|len| *len >= 0).map_or(0, |len| len as usize + 2),
            b'*' | b'~' | b'>' => parts += number().unwrap_or(0).max(0) as u64,
            b'%' => parts += 2 * number().unwrap_or(0).max(0) as u64,
            _ => {}
        }
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}
