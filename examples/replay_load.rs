//! A trace through a server's sockets: clients that each wait for their answer, every answer checked, latencies measured.
//!
//! `cargo run --release --example replay_load -- TRACE --fill ADDR [..]`    puts the values of the trace's keys into a Redis
//! `cargo run --release --example replay_load -- TRACE --server ADDR [..]`  asks a server for them, in the trace's order
//! [`--workers N`] [`--requests N`] [`--value-bytes N`] [`--keys address|opaque`]
//!
//! 1. A key's text is its number where numbers are addresses, so that walks can be seen, and a hash of it where they are not.
//! 2. Where rows tell clients each client's requests go over one connection, in their order. Else a worker takes a run of
//!    rows at a time, so that what follows what is seen on one connection.
//! 3. The value of a key is made of it, so that a wrong answer is found.
//!
//! Answers one line of JSON. Only on loopback; at most 256 workers.

use foreshadow::replay::Trace;
use hdrhistogram::Histogram;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Rows that a worker takes at a time.
const RUN_ROWS: usize = 256;
/// Commands that are on their way while values are put.
const FILL_BATCH: usize = 500;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct Options {
    trace: PathBuf,
    server: Option<SocketAddr>,
    fill: Option<SocketAddr>,
    workers: usize,
    requests: usize,
    value_bytes: usize,
    addresses: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("replay_load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        trace: PathBuf::new(),
        server: None,
        fill: None,
        workers: 8,
        requests: usize::MAX,
        value_bytes: 1000,
        addresses: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if !argument.starts_with("--") {
            options.trace = argument.into();
            continue;
        }
        let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{argument} {value}: a number is wanted"));
        let address = || match value.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
            _ => Err(format!("{argument} {value}: an address of this machine is wanted")),
        };
        match argument.as_str() {
            "--server" => options.server = address()?,
            "--fill" => options.fill = address()?,
            "--workers" => options.workers = number()?.clamp(1, 256),
            "--requests" => options.requests = number()?,
            "--value-bytes" => options.value_bytes = number()?.clamp(1, 1 << 20),
            "--keys" => options.addresses = value == "address",
            _ => return Err(format!("{argument} is not known")),
        }
    }
    if options.trace.as_os_str().is_empty() || options.server.is_some() == options.fill.is_some() {
        return Err("TRACE and one of --server and --fill are needed".to_owned());
    }
    Ok(options)
}

fn run() -> Result<String, String> {
    let options = options()?;
    let trace = Trace::read(&options.trace, None, &mut |_, _| ())
        .map_err(|error| format!("{}: {error}", options.trace.display()))?;
    let rows = trace.len().min(options.requests);
    let items = Items { trace: &trace, options: &options };
    match (options.fill, options.server) {
        (Some(redis), _) => fill(redis, &items, rows).map_err(|error| error.to_string()),
        (None, Some(server)) => drive(server, &items, rows),
        (None, None) => unreachable!("looked at above"),
    }
}

/// Keys and values by id.
struct Items<'a> {
    trace: &'a Trace,
    options: &'a Options,
}

impl Items<'_> {
    fn key(&self, id: u32) -> String {
        let name = self.trace.names[id as usize];
        match self.options.addresses {
            true => format!("b:{name}"),
            // A bijection, so that no two keys become one; letters alone, as trailing digits would be numbers.
            false => {
                let hash = name
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(29)
                    .wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let letter = |digit: u32| char::from(b'a' + (hash >> (4 * digit) & 15) as u8);
                (0..16).map(letter).collect()
            }
        }
    }

    fn value(&self, id: u32, out: &mut Vec<u8>) {
        out.clear();
        let word = format!("{:08x}.", id.wrapping_mul(0x9e37_79b9));
        out.extend(word.bytes().cycle().take(self.options.value_bytes));
    }
}

fn fill(redis: SocketAddr, items: &Items<'_>, rows: usize) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(redis)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut seen = vec![false; items.trace.footprint_items()];
    items.trace.ids[..rows].iter().for_each(|&id| seen[id as usize] = true);
    let wanted: Vec<u32> = (0..).zip(&seen).filter(|(_, seen)| **seen).map(|(id, _)| id).collect();
    let (mut command, mut value) = (Vec::new(), Vec::new());
    for batch in wanted.chunks(FILL_BATCH) {
        command.clear();
        for &id in batch {
            items.value(id, &mut value);
            let key = items.key(id);
            write!(command, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len())?;
            command.extend_from_slice(&value);
            command.extend_from_slice(b"\r\n");
        }
        stream.write_all(&command)?;
        let mut replies = vec![0; batch.len() * b"+OK\r\n".len()];
        stream.read_exact(&mut replies)?;
        if replies.chunks(5).any(|reply| reply != b"+OK\r\n") {
            return Err(std::io::Error::other("the Redis does not take the values"));
        }
    }
    Ok(format!("{{\"items\": {}}}", wanted.len()))
}

fn drive(server: SocketAddr, items: &Items<'_>, rows: usize) -> Result<String, String> {
    let trace = items.trace;
    let workers = items.options.workers;
    let by_client = trace.client_count > 1;
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begin = Instant::now();
    let measured: Vec<Result<Histogram<u64>, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let (next, failed) = (&next, &failed);
                scope.spawn(move || {
                    let outcome = Client::connect(server, items).and_then(|mut client| {
                        if by_client {
                            let mine = |row: &usize| trace.clients[*row] as usize % workers == worker;
                            (0..rows).filter(mine).try_for_each(|row| client.ask(trace.ids[row], failed))?;
                            return Ok(client.nanos);
                        }
                        loop {
                            let first = next.fetch_add(RUN_ROWS, Ordering::Relaxed);
                            if first >= rows {
                                return Ok(client.nanos);
                            }
                            let run = &trace.ids[first..rows.min(first + RUN_ROWS)];
                            run.iter().try_for_each(|&id| client.ask(id, failed))?;
                        }
                    });
                    // The others need not go on.
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut all = histogram();
    for one in measured {
        all.add(one?).expect("they have one shape");
    }
    let micros = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(format!(
        "{{\"requests\": {}, \"workers\": {workers}, \"seconds\": {seconds:.3}, \"mean_micros\": {:.1}, \"p50_micros\": {:.1}, \
         \"p95_micros\": {:.1}, \"p99_micros\": {:.1}, \"max_micros\": {:.1}}}",
        all.len(),
        all.mean() / 1000.0,
        micros(0.5),
        micros(0.95),
        micros(0.99),
        all.max() as f64 / 1000.0,
    ))
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds that hdrhistogram accepts")
}

/// One connection that waits for each answer.
struct Client<'a> {
    stream: BufReader<TcpStream>,
    items: &'a Items<'a>,
    nanos: Histogram<u64>,
    command: Vec<u8>,
    reply: Vec<u8>,
    wanted: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> Client<'a> {
    fn connect(server: SocketAddr, items: &'a Items<'a>) -> Result<Client<'a>, String> {
        let open = || {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            std::io::Result::Ok(stream)
        };
        let stream = BufReader::new(open().map_err(|error| format!("{server}: {error}"))?);
        let (command, reply, wanted, value) = Default::default();
        Ok(Client { stream, items, nanos: histogram(), command, reply, wanted, value })
    }

    fn ask(&mut self, id: u32, failed: &AtomicBool) -> Result<(), String> {
        if failed.load(Ordering::Relaxed) {
            return Err("another worker failed".to_owned());
        }
        let key = self.items.key(id);
        self.items.value(id, &mut self.value);
        self.command.clear();
        self.wanted.clear();
        let written = write!(self.command, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())
            .and_then(|()| write!(self.wanted, "${}\r\n", self.value.len()));
        written.expect("a Vec takes all");
        self.wanted.extend_from_slice(&self.value);
        self.wanted.extend_from_slice(b"\r\n");
        self.reply.resize(self.wanted.len(), 0);
        let begin = Instant::now();
        let asked = self.stream.get_mut().write_all(&self.command);
        // An error is shorter than a value, mostly; what comes then is not waited for in full.
        let head = asked.and_then(|()| self.stream.read_exact(&mut self.reply[..1]));
        head.map_err(|error| format!("{key}: {error}"))?;
        if self.reply[0] != b'$' {
            let mut why = [0; 200];
            let len = self.stream.read(&mut why).unwrap_or(0);
            return Err(format!(
                "{key}: {}{}",
                char::from(self.reply[0]),
                String::from_utf8_lossy(&why[..len])
            ));
        }
        self.stream.read_exact(&mut self.reply[1..]).map_err(|error| format!("{key}: {error}"))?;
        self.nanos.saturating_record(begin.elapsed().as_nanos() as u64);
        match self.reply == self.wanted {
            true => Ok(()),
            false => Err(format!("{key}: a wrong answer")),
        }
    }
}
