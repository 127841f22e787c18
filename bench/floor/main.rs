//! The floor: what the machine asks for carrying these messages, whoever answers them.
//!
//! A bare io_uring echo: multishot accept and receive, provided buffers, SINGLE_ISSUER and DEFER_TASKRUN, one enter per
//! turn, one send per connection and turn. It looks at one byte of a request to tell GET from SET (their lengths differ),
//! counts the rest, and appends the canned reply of that kind (with the request's id, in the native protocol). No parsing, no table, no value of anybody: the load
//! generator has to be told `--no-verify`.
//!
//! ```text
//! floor PORT resp|memcached|native KEY_BYTES VALUE_BYTES [--zero-copy]
//! ```
//! With `--zero-copy` it sends by SEND_ZC, and says at the first notification whether the kernel copied all the same (it does
//! on loopback). It prints `ready` when it listens and serves until it is killed.

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

const BUFFER_COUNT: u16 = 1024;
const BUFFER_BYTES: usize = 16 << 10;

/// Lengths and canned replies of the two kinds of request.
struct Script {
    /// Place of the byte that tells them apart.
    kind_at: usize,
    get_mark: u8,
    get_bytes: usize,
    set_bytes: usize,
    get_reply: Vec<u8>,
    set_reply: Vec<u8>,
    /// Whether bytes 4 to 8 of a request, its id, go into its reply.
    has_id: bool,
}

impl Script {
    fn new(protocol: &str, key_bytes: usize, value_bytes: usize) -> Option<Script> {
        let (key, value) = ("k".repeat(key_bytes), "v".repeat(value_bytes));
        Some(match protocol {
            "resp" => Script {
                kind_at: 1,
                get_mark: b'2',
                get_bytes: format!("*2\r\n$3\r\nGET\r\n${key_bytes}\r\n{key}\r\n").len(),
                set_bytes: format!(
                    "*3\r\n$3\r\nSET\r\n${key_bytes}\r\n{key}\r\n${value_bytes}\r\n{value}\r\n"
                )
                .len(),
                get_reply: format!("${value_bytes}\r\n{value}\r\n").into_bytes(),
                set_reply: b"+OK\r\n".to_vec(),
                has_id: false,
            },
            "memcached" => Script {
                kind_at: 0,
                get_mark: b'g',
                get_bytes: format!("get {key}\r\n").len(),
                set_bytes: format!("set {key} 0 0 {value_bytes}\r\n{value}\r\n").len(),
                get_reply: format!("VALUE {key} 0 {value_bytes}\r\n{value}\r\nEND\r\n").into_bytes(),
                set_reply: b"STORED\r\n".to_vec(),
                has_id: false,
            },
            "native" => Script {
                kind_at: 2,
                get_mark: 0x10,
                get_bytes: 16 + key_bytes,
                set_bytes: 16 + 20 + key_bytes + value_bytes,
                get_reply: native_reply(0x10, &[vec![0; 20], value.into_bytes()].concat()),
                set_reply: native_reply(0x20, &[0; 8]),
                has_id: true,
            },
            _ => return None,
        })
    }
}

fn native_reply(opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xF6, 1, opcode, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(body);
    frame
}

/// A connection: how far into a request it is, and the replies on their way.
#[derive(Default)]
struct Connection {
    seen: usize,
    is_get: bool,
    id: [u8; 4],
    staged: Vec<u8>,
    /// The kernel reads it while `in_flight`.
    sending: Vec<u8>,
    sent: usize,
    in_flight: bool,
    /// What was sent without a copy belongs to the kernel until it says that it does not.
    lent: bool,
    /// The client went away; closed when the send in flight has completed.
    gone: bool,
}

impl Connection {
    /// Counts received bytes and stages a reply for each request they complete.
    fn take(&mut self, script: &Script, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.seen <= script.kind_at {
                let Some(&mark) = bytes.get(script.kind_at - self.seen) else {
                    self.seen += bytes.len();
                    return;
                };
                self.is_get = mark == script.get_mark;
            }
            let whole = if self.is_get { script.get_bytes } else { script.set_bytes };
            let len = bytes.len().min(whole - self.seen);
            if script.has_id && self.seen < 8 {
                for (place, &byte) in (self.seen..8).zip(bytes) {
                    if place >= 4 {
                        self.id[place - 4] = byte;
                    }
                }
            }
            self.seen += len;
            bytes = &bytes[len..];
            if self.seen == whole {
                self.seen = 0;
                let start = self.staged.len();
                let reply = if self.is_get { &script.get_reply } else { &script.set_reply };
                self.staged.extend_from_slice(reply);
                if script.has_id {
                    self.staged[start + 4..start + 8].copy_from_slice(&self.id);
                }
            }
        }
    }
}

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
/// Has the notification of a zero-copy send say whether the kernel copied, and the bit by which it does.
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: i32 = i32::MIN;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let zero_copy = args.last().is_some_and(|arg| arg == "--zero-copy");
    args.truncate(args.len() - usize::from(zero_copy));
    let numbers = |i: usize| args.get(i).and_then(|text| text.parse::<usize>().ok());
    let script = match (&args[..], numbers(2), numbers(3)) {
        ([_, protocol, _, _], Some(key_bytes), Some(value_bytes)) => {
            Script::new(protocol, key_bytes, value_bytes)
        }
        _ => None,
    };
    let port = args.first().and_then(|text| text.parse::<u16>().ok());
    let (Some(script), Some(port)) = (script, port) else {
        eprintln!("usage: floor PORT resp|memcached|native KEY_BYTES VALUE_BYTES [--zero-copy]");
        std::process::exit(2);
    };
    if let Err(error) = serve(&script, port, zero_copy) {
        eprintln!("floor: {error}");
        std::process::exit(1);
    }
}

fn serve(script: &Script, port: u16, zero_copy: bool) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut ring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_cqsize(16384).build(4096)?;
    let mut buffers = Buffers::new(&ring)?;
    let mut connections: HashMap<RawFd, Box<Connection>> = HashMap::new();
    let mut dirty: Vec<RawFd> = Vec::new();
    let mut completions: Vec<(u64, i32, u32)> = Vec::new();
    let mut told = false;
    let accept = |ring: &mut IoUring| {
        push(ring, &opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build().user_data(ACCEPT))
    };
    accept(&mut ring)?;
    println!("ready");
    io::stdout().flush()?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        completions.clear();
        completions.extend(ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        for &(tag, result, flags) in &completions {
            let fd = tag as u32 as RawFd;
            match tag & !0xffff_ffff {
                ACCEPT => {
                    if result >= 0 {
                        let on: libc::c_int = 1;
                        // SAFETY: a valid descriptor and a pointer to an int of that size.
                        unsafe {
                            let value = std::ptr::from_ref(&on).cast();
                            libc::setsockopt(result, libc::IPPROTO_TCP, libc::TCP_NODELAY, value, 4);
                        }
                        connections.insert(result, Box::default());
                        receive(&mut ring, result)?;
                    }
                    if !cqueue::more(flags) {
                        accept(&mut ring)?;
                    }
                }
                RECEIVE => {
                    let Some(connection) = connections.get_mut(&fd) else { continue };
                    if let Some(id) = cqueue::buffer_select(flags) {
                        let was_empty = connection.staged.is_empty();
                        connection.take(script, buffers.piece(id, result.max(0) as usize));
                        buffers.give_back(id);
                        if was_empty
                            && !connection.staged.is_empty()
                            && !connection.in_flight
                            && !connection.lent
                        {
                            dirty.push(fd);
                        }
                    }
                    if result > 0 || result == -libc::ENOBUFS {
                        if !cqueue::more(flags) {
                            receive(&mut ring, fd)?;
                        }
                    } else {
                        connection.gone = true;
                        if !connection.in_flight && !connection.lent {
                            close(&mut connections, fd);
                        }
                    }
                }
                SEND => {
                    let Some(connection) = connections.get_mut(&fd) else { continue };
                    if cqueue::notif(flags) {
                        connection.lent = false;
                        if !std::mem::replace(&mut told, true) {
                            println!(
                                "{}",
                                if result == COPIED { "copied all the same" } else { "not copied" }
                            );
                        }
                    } else {
                        connection.in_flight = false;
                        connection.lent = cqueue::more(flags);
                        connection.gone |= result < 0;
                    }
                    if connection.in_flight || connection.lent {
                        connection.sent += if cqueue::notif(flags) { 0 } else { result.max(0) as usize };
                        continue;
                    }
                    let result = if cqueue::notif(flags) { 0 } else { result };
                    if result < 0 || connection.gone {
                        close(&mut connections, fd);
                        continue;
                    }
                    connection.sent += result as usize;
                    if connection.sent < connection.sending.len() || !connection.staged.is_empty() {
                        dirty.push(fd);
                    }
                }
                _ => {}
            }
        }
        for fd in dirty.drain(..) {
            let Some(connection) = connections.get_mut(&fd) else { continue };
            if connection.in_flight || connection.lent {
                continue;
            }
            if connection.sent >= connection.sending.len() {
                connection.sending.clear();
                connection.sent = 0;
                std::mem::swap(&mut connection.sending, &mut connection.staged);
            }
            let bytes = &connection.sending[connection.sent..];
            let (start, len, flags) =
                (bytes.as_ptr(), bytes.len() as u32, libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
            let send = match zero_copy {
                true => {
                    opcode::SendZc::new(types::Fd(fd), start, len).flags(flags).zc_flags(REPORT_USAGE).build()
                }
                false => opcode::Send::new(types::Fd(fd), start, len).flags(flags).build(),
            };
            connection.in_flight = true;
            push(&mut ring, &send.user_data(SEND | fd as u32 as u64))?;
        }
    }
}

fn close(connections: &mut HashMap<RawFd, Box<Connection>>, fd: RawFd) {
    connections.remove(&fd);
    // SAFETY: the descriptor came from accept and left the table above, so it is closed once.
    unsafe { libc::close(fd) };
}

fn receive(ring: &mut IoUring, fd: RawFd) -> io::Result<()> {
    push(ring, &opcode::RecvMulti::new(types::Fd(fd), 0).build().user_data(RECEIVE | fd as u32 as u64))
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: sends read `sending`, which is boxed with its connection and neither changed nor dropped while in flight;
    // receives write the registered buffers, which live as long as the ring.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
    }
    Ok(())
}

/// Receive buffers that the kernel picks from.
struct Buffers {
    entries: *mut BufRingEntry,
    data: *mut u8,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring) -> io::Result<Buffers> {
        let map = |len: usize| {
            let (protection, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
            // SAFETY: fresh anonymous memory, never unmapped.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, -1, 0) };
            if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start) }
        };
        let entries = map(usize::from(BUFFER_COUNT) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let data = map(usize::from(BUFFER_COUNT) * BUFFER_BYTES)?.cast();
        // SAFETY: page-aligned memory with room for so many entries, mapped for ever.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFER_COUNT, 0, 0)? };
        let mut buffers = Buffers { entries, data, tail: 0 };
        for id in 0..BUFFER_COUNT {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    fn piece(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < BUFFER_COUNT && len <= BUFFER_BYTES);
        // SAFETY: within the mapping by the assertion; the kernel does not write it before it is given back.
        unsafe { std::slice::from_raw_parts(self.data.add(usize::from(id) * BUFFER_BYTES), len) }
    }

    fn give_back(&mut self, id: u16) {
        assert!(id < BUFFER_COUNT);
        // SAFETY: entry and piece lie within their mappings; the tail is an aligned u16 in the first entry.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & (BUFFER_COUNT - 1)));
            entry.set_addr(self.data.add(usize::from(id) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}
