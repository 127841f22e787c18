//! A soak: many connections of both protocols on a server of its own, every answer checked against a model.
//!
//! `cargo run --release --example soak -- [--seconds N] [--connections N] [--workers N] [--seed N]`
//!
//! 1. Starts `foreshadow serve` on free ports, on all cores.
//! 2. Each worker owns a range of keys, their model and an equal part of the connections, half RESP and half memcached.
//!    In a round it gives some of its connections a batch each, of keys no other batch of the round has, sends all batches,
//!    then reads and checks all replies: so what one connection wrote is read by others, by either protocol, and the
//!    model is exact. Some keys expire; they must be there before their deadline and gone after it.
//! 3. Now and then a connection is closed, reset, or left in the middle of a request or of its replies, and another opened.
//! 4. At the end everything is closed, and the server must have no connections, no buffers and no more memory than it
//!    had when it was warm; then it must drain and end with 0.
//!
//! Bounded in time, memory and connections; ends with 1 at the first wrong answer.

use socket2::SockRef;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keys of a worker.
const KEYS: usize = 4000;
/// Most commands of a batch.
const BATCH_MAX: u64 = 32;
/// Most connections that get a batch in one round.
const LANES_MAX: usize = 8;
/// Longest value.
const VALUE_BYTES_MAX: u64 = 20_000;
/// How far two clocks may see the same deadline apart: what a busy machine takes to run a thread.
const DEADLINE_SLACK: Duration = Duration::from_millis(100);
/// Memory of the server: many times what the keys need, so that nothing is evicted.
const MEMORY: &str = "1GiB";
/// How much more memory it may have at the end than when it was warm.
const GROWTH_BYTES_MAX: u64 = 48 << 20;

struct Options {
    seconds: u64,
    connections: usize,
    workers: usize,
    seed: u64,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::from(2);
        }
    };
    match soak(&options) {
        Ok(summary) => {
            println!("soak: {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("soak: FAILED (--seed {}): {error}", options.seed);
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { seconds: 600, connections: 500, workers: 4, seed: u64::from(std::process::id()) };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|text| text.parse::<u64>().ok()).filter(|value| *value > 0);
        let value = value.ok_or_else(|| format!("{name} needs a number above 0"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value,
            "--connections" => options.connections = value as usize,
            "--workers" => options.workers = value as usize,
            "--seed" => options.seed = value,
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    if options.connections < options.workers * 2 {
        return Err("each worker needs two connections".to_owned());
    }
    Ok(options)
}

fn soak(options: &Options) -> Result<String, String> {
    let mut server = Server::start()?;
    // Receive buffers are in the gauge and stay.
    let idle_buffer_bytes = server.idle_buffer_bytes()?;
    let began = Instant::now();
    let end = began + Duration::from_secs(options.seconds);
    let failed = Arc::new(AtomicBool::new(false));
    let (commands, departures) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..options.workers)
        .map(|place| {
            let mut worker = Worker {
                place,
                address: server.listen,
                dice: Dice(options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(place as u64 + 1)),
                model: HashMap::new(),
                clients: Vec::new(),
                commands: commands.clone(),
                departures: departures.clone(),
            };
            let (failed, connections) = (failed.clone(), options.connections / options.workers);
            std::thread::spawn(move || {
                let result = worker.run(end, connections, &failed);
                if result.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                result
            })
        })
        .collect();
    // Warm when every key was written many times over: a tenth of the time, at most a minute.
    let warm_at = began + Duration::from_secs((options.seconds / 10).min(60));
    let mut warm_bytes = 0;
    let mut most_connections: u64 = 0;
    while Instant::now() < end && !failed.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500));
        server.alive()?;
        most_connections = most_connections.max(server.metric("foreshadow_connections")? as u64);
        if warm_bytes == 0 && Instant::now() >= warm_at {
            warm_bytes = server.resident_bytes()?;
        }
    }
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked".to_owned())??;
    }
    let (commands, departures) = (commands.load(Ordering::Relaxed), departures.load(Ordering::Relaxed));
    server.settles("foreshadow_connections", 0.0)?;
    server.settles("foreshadow_buffer_bytes", idle_buffer_bytes)?;
    for (name, why) in [
        ("foreshadow_evicted_total", "with far more memory than keys need"),
        ("foreshadow_connections_rejected_total", "with fewer clients than the most"),
    ] {
        let count = server.metric(name)?;
        if count != 0.0 {
            return Err(format!("{name} is {count} {why}"));
        }
    }
    let resident_bytes = server.resident_bytes()?;
    if resident_bytes > warm_bytes + GROWTH_BYTES_MAX {
        return Err(format!("memory grew from {} to {} MiB", warm_bytes >> 20, resident_bytes >> 20));
    }
    let hops = server.metric("foreshadow_hops_served_total")?;
    server.stop()?;
    Ok(format!(
        "{commands} commands in {} s, every answer right; up to {most_connections} connections, {departures} left \
         abruptly; {hops} hops between cores; resident {} MiB warm, {} MiB at the end",
        began.elapsed().as_secs(),
        warm_bytes >> 20,
        resident_bytes >> 20,
    ))
}

/// What a key must hold.
#[derive(Clone)]
struct Expected {
    value: Vec<u8>,
    /// Surely there before the first, surely gone after the second.
    expires: Option<(Instant, Instant)>,
}

/// What a reply must be.
enum Check {
    Exactly(Vec<u8>),
    /// A read of a key that expires: the value before the first moment, a miss after the second, either between.
    Value {
        hit: Vec<u8>,
        miss: Vec<u8>,
        expires: (Instant, Instant),
    },
}

struct Client {
    stream: BufReader<TcpStream>,
    resp: bool,
}

struct Worker {
    place: usize,
    address: SocketAddr,
    dice: Dice,
    model: HashMap<usize, Expected>,
    clients: Vec<Client>,
    commands: Arc<AtomicU64>,
    departures: Arc<AtomicU64>,
}

impl Worker {
    fn run(&mut self, end: Instant, connections: usize, failed: &AtomicBool) -> Result<(), String> {
        for i in 0..connections {
            let client = self.connect(i % 2 == 0)?;
            self.clients.push(client);
        }
        while Instant::now() < end && !failed.load(Ordering::Relaxed) {
            self.round()?;
            if self.dice.below(4) == 0 {
                self.depart()?;
            }
        }
        Ok(())
    }

    fn connect(&self, resp: bool) -> Result<Client, String> {
        let stream = TcpStream::connect(self.address).map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
        Ok(Client { stream: BufReader::new(stream), resp })
    }

    /// Sends a batch on each of some connections, then checks all replies.
    fn round(&mut self) -> Result<(), String> {
        let lanes = 1 + self.dice.below(LANES_MAX as u64) as usize;
        let first = self.dice.below(self.clients.len() as u64) as usize;
        let mut awaited = Vec::new();
        for lane in 0..lanes.min(self.clients.len()) {
            let place = (first + lane) % self.clients.len();
            let resp = self.clients[place].resp;
            let (mut bytes, mut checks) = (Vec::new(), Vec::new());
            for _ in 0..=self.dice.below(BATCH_MAX) {
                let key = self.dice.below((KEYS / LANES_MAX) as u64) as usize * LANES_MAX + lane;
                checks.push(if resp {
                    self.resp_command(key, &mut bytes)
                } else {
                    self.memcached_command(key, &mut bytes)
                });
            }
            let stream = self.clients[place].stream.get_mut();
            stream.write_all(&bytes).map_err(|error| format!("worker {}: send: {error}", self.place))?;
            self.commands.fetch_add(checks.len() as u64, Ordering::Relaxed);
            awaited.push((place, checks));
        }
        for (place, checks) in awaited {
            for check in checks {
                check
                    .read(&mut self.clients[place])
                    .map_err(|error| format!("worker {}: {error}", self.place))?;
            }
        }
        Ok(())
    }

    fn name(&self, key: usize) -> String {
        format!("soak:{}:{key}", self.place)
    }

    fn value(&mut self) -> Vec<u8> {
        // Mostly small, now and then larger than a receive buffer's fair share.
        let most = if self.dice.below(50) == 0 { VALUE_BYTES_MAX } else { 200 };
        let len = self.dice.below(most);
        let seed = self.dice.next();
        (0..len).map(|i| (seed.wrapping_add(i.wrapping_mul(seed | 1)) >> 32) as u8).collect()
    }

    fn resp_command(&mut self, key: usize, bytes: &mut Vec<u8>) -> Check {
        let name = self.name(key);
        match self.dice.below(20) {
            0..=9 => {
                resp(bytes, &[b"GET", name.as_bytes()]);
                self.read_check(key, bulk, b"$-1\r\n".to_vec())
            }
            10..=14 => {
                let value = self.value();
                resp(bytes, &[b"SET", name.as_bytes(), &value]);
                self.model.insert(key, Expected { value, expires: None });
                Check::Exactly(b"+OK\r\n".to_vec())
            }
            15 => {
                let (value, millis) = (self.value(), 50 + self.dice.below(400));
                resp(bytes, &[b"SET", name.as_bytes(), &value, b"PX", millis.to_string().as_bytes()]);
                self.expire(key, value, millis);
                Check::Exactly(b"+OK\r\n".to_vec())
            }
            16..=17 if self.is_certain(key) => {
                resp(bytes, &[b"DEL", name.as_bytes()]);
                let there = u8::from(self.model.remove(&key).is_some());
                Check::Exactly(format!(":{there}\r\n").into_bytes())
            }
            18 if self.is_certain(key) => {
                resp(bytes, &[b"APPEND", name.as_bytes(), b"-tail"]);
                let item = self.model.entry(key).or_insert(Expected { value: Vec::new(), expires: None });
                item.value.extend_from_slice(b"-tail");
                Check::Exactly(format!(":{}\r\n", item.value.len()).into_bytes())
            }
            19 if self.is_certain(key) => {
                resp(bytes, &[b"STRLEN", name.as_bytes()]);
                let len = self.model.get(&key).map_or(0, |item| item.value.len());
                Check::Exactly(format!(":{len}\r\n").into_bytes())
            }
            _ => {
                resp(bytes, &[b"ECHO", name.as_bytes()]);
                Check::Exactly(bulk(name.as_bytes()))
            }
        }
    }

    fn memcached_command(&mut self, key: usize, bytes: &mut Vec<u8>) -> Check {
        let name = self.name(key);
        match self.dice.below(20) {
            0..=7 => {
                bytes.extend(format!("get {name}\r\n").bytes());
                let hit = |value: &[u8]| {
                    let head = format!("VALUE {name} 0 {}\r\n", value.len());
                    [head.as_bytes(), value, b"\r\nEND\r\n"].concat()
                };
                self.read_check(key, hit, b"END\r\n".to_vec())
            }
            8..=9 => {
                bytes.extend(format!("mg {name} v\r\n").bytes());
                let hit =
                    |value: &[u8]| [format!("VA {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
                self.read_check(key, hit, b"EN\r\n".to_vec())
            }
            10..=14 => {
                let value = self.value();
                bytes.extend(format!("set {name} 0 0 {}\r\n", value.len()).bytes());
                bytes.extend_from_slice(&value);
                bytes.extend_from_slice(b"\r\n");
                self.model.insert(key, Expected { value, expires: None });
                Check::Exactly(b"STORED\r\n".to_vec())
            }
            15 => {
                let value = self.value();
                bytes.extend(format!("ms {name} {}\r\n", value.len()).bytes());
                bytes.extend_from_slice(&value);
                bytes.extend_from_slice(b"\r\n");
                self.model.insert(key, Expected { value, expires: None });
                Check::Exactly(b"HD\r\n".to_vec())
            }
            16..=17 if self.is_certain(key) => {
                bytes.extend(format!("delete {name}\r\n").bytes());
                let there = self.model.remove(&key).is_some();
                Check::Exactly(if there { b"DELETED\r\n".to_vec() } else { b"NOT_FOUND\r\n".to_vec() })
            }
            18 if self.is_certain(key) => {
                bytes.extend(format!("add {name} 0 0 5\r\nadded\r\n").bytes());
                if self.model.contains_key(&key) {
                    return Check::Exactly(b"NOT_STORED\r\n".to_vec());
                }
                self.model.insert(key, Expected { value: b"added".to_vec(), expires: None });
                Check::Exactly(b"STORED\r\n".to_vec())
            }
            _ => {
                bytes.extend_from_slice(b"mn\r\n");
                Check::Exactly(b"MN\r\n".to_vec())
            }
        }
    }

    /// Whether the model knows for sure if the key is there.
    fn is_certain(&mut self, key: usize) -> bool {
        match self.model.get(&key).and_then(|item| item.expires) {
            None => true,
            Some((_, gone)) if Instant::now() > gone => {
                self.model.remove(&key);
                true
            }
            Some(_) => false,
        }
    }

    fn expire(&mut self, key: usize, value: Vec<u8>, millis: u64) {
        let now = Instant::now();
        // The server's clock starts when it executes, which is after this moment; the slack covers the way there.
        let time = Duration::from_millis(millis);
        let slack = DEADLINE_SLACK + Duration::from_secs(1);
        self.model.insert(key, Expected { value, expires: Some((now + time, now + time + slack)) });
    }

    fn read_check(&mut self, key: usize, hit: impl Fn(&[u8]) -> Vec<u8>, miss: Vec<u8>) -> Check {
        match self.model.get(&key) {
            None => Check::Exactly(miss),
            Some(Expected { value, expires: None }) => Check::Exactly(hit(value)),
            // It is sent in a moment and may be executed much later: only what is surely gone is a sure miss.
            Some(Expected { expires: Some((_, gone)), .. }) if Instant::now() > *gone => Check::Exactly(miss),
            Some(Expected { value, expires: Some(expires) }) => {
                Check::Value { hit: hit(value), miss, expires: *expires }
            }
        }
    }

    /// One connection leaves in one of the ways clients leave, and another comes.
    fn depart(&mut self) -> Result<(), String> {
        let place = self.dice.below(self.clients.len() as u64) as usize;
        let resp_protocol = self.clients[place].resp;
        let name = self.name(0);
        let stream = self.clients[place].stream.get_mut();
        // A client that goes does not mind how its last words fare.
        match self.dice.below(5) {
            0 => {}
            1 => drop(stream.write_all(if resp_protocol {
                b"*3\r\n$3\r\nSET\r\n$4\r\ntorn"
            } else {
                b"set torn 0 0 100\r\nabc"
            })),
            2 => {
                let get = format!("get {name}\r\n").into_bytes();
                let mut bytes = Vec::new();
                resp(&mut bytes, &[b"GET", name.as_bytes()]);
                drop(stream.write_all(&if resp_protocol { bytes } else { get }.repeat(200)));
            }
            3 => drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO))),
            _ => {
                drop(stream.write_all(b"*1\r\n$4\r\nPI"));
                drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO)));
            }
        }
        self.clients[place] = self.connect(resp_protocol)?;
        self.departures.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Check {
    fn read(&self, client: &mut Client) -> Result<(), String> {
        match self {
            Check::Exactly(expected) => compare(client, Vec::new(), expected),
            Check::Value { hit, miss, expires: (there, _) } => {
                // A miss is shorter than a hit of any value, and no hit begins with one.
                let mut head = vec![0; miss.len()];
                client.stream.read_exact(&mut head).map_err(|error| format!("read: {error}"))?;
                let surely_there = Instant::now() < *there;
                if head == *miss && !surely_there { Ok(()) } else { compare(client, head, hit) }
            }
        }
    }
}

/// Reads what is missing of an answer and compares it.
fn compare(client: &mut Client, mut got: Vec<u8>, expected: &[u8]) -> Result<(), String> {
    let head = got.len();
    got.resize(expected.len(), 0);
    client.stream.read_exact(&mut got[head..]).map_err(|error| format!("read: {error}"))?;
    if got == expected {
        return Ok(());
    }
    let text = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    Err(format!("wrong answer: got {} for {}", text(&got), text(expected)))
}

fn resp(bytes: &mut Vec<u8>, arguments: &[&[u8]]) {
    bytes.extend(format!("*{}\r\n", arguments.len()).bytes());
    for argument in arguments {
        bytes.extend(bulk(argument));
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// A xorshift generator: what happens follows from the seed, but for the scheduler's part.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// The server under test.
struct Server {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start() -> Result<Server, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = own.parent().and_then(|examples| examples.parent()).ok_or("no folder above examples")?;
        let binary = folder.join("foreshadow");
        let mut child = Command::new(&binary)
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--admin=127.0.0.1:0",
                "--exit-on-stdin-close",
                "--memory",
                MEMORY,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error} (build the binary first)", binary.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|field| field.strip_prefix(name))?;
            value.parse::<SocketAddr>().ok()
        };
        match (field("listen="), field("admin=")) {
            (Some(listen), Some(admin)) => Ok(Server { child, listen, admin }),
            _ => Err(format!("no ready line but {line:?}")),
        }
    }

    fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(status) => Err(format!("the server ended: {status}")),
        }
    }

    fn metric(&self, name: &str) -> Result<f64, String> {
        Ok(self.metric_values(name)?.iter().sum())
    }

    fn metric_values(&self, name: &str) -> Result<Vec<f64>, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.admin)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut request = String::new();
            write!(request, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .expect("a String takes all");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let text = ask().map_err(|error| format!("/metrics: {error}"))?;
        let own = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let values: Vec<f64> = own.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() { Err(format!("/metrics has no {name}")) } else { Ok(values) }
    }

    /// Bytes of buffers without any client: those for receiving, as soon as all cores have reported.
    fn idle_buffer_bytes(&self) -> Result<f64, String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let values = self.metric_values("foreshadow_buffer_bytes")?;
            if values.iter().all(|bytes| *bytes > 0.0) {
                return Ok(values.iter().sum());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("a core does not report".to_owned())
    }

    /// Waits until a gauge is no more than this.
    fn settles(&self, name: &str, most: f64) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let value = self.metric(name)?;
            if value <= most {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{name} is still {value} after everybody left"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn resident_bytes(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is no number")?;
        Ok(kib << 10)
    }

    /// Asks it to stop by closing its standard input.
    fn stop(&mut self) -> Result<(), String> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server ended with {status}")),
                None if Instant::now() > deadline => return Err("the server does not end".to_owned()),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
