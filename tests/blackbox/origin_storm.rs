//! 100,000 keys of one origin that end in one second, all wanted again at once, while others read what is held.

use crate::origin_faults::tempfile;
use crate::support::{Server, ask, expect, resp, serve_command};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const CONCURRENCY: usize = 64;
const CONNECTIONS: usize = 8;
/// What the origin takes for each question.
const ANSWER_MILLIS: u64 = 2;

/// A memcached that answers each question a while after it came, however many came before it: so what is under way is what
/// was asked and not answered, on all connections. All values end at one moment.
struct Origin {
    port: u16,
    asked: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// Milliseconds since `epoch` at which values end.
    end: Arc<AtomicU64>,
    epoch: Instant,
    ended: Arc<AtomicBool>,
}

impl Origin {
    fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let origin = Origin {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            most: Arc::default(),
            end: Arc::default(),
            epoch: Instant::now(),
            ended: Arc::default(),
        };
        let (asked, most, end, ended) =
            (origin.asked.clone(), origin.most.clone(), origin.end.clone(), origin.ended.clone());
        let (epoch, under_way) = (origin.epoch, Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).expect("a socket");
                let mut output = stream.try_clone().expect("a descriptor");
                let (questions, come) = mpsc::channel::<(Instant, String)>();
                let (under_way_there, end) = (under_way.clone(), end.clone());
                let (asked, most, under_way) = (asked.clone(), most.clone(), under_way.clone());
                std::thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        asked.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let key = line.split(' ').nth(1).unwrap_or_default().to_owned();
                        let due = Instant::now() + Duration::from_millis(ANSWER_MILLIS);
                        if questions.send((due, key)).is_err() {
                            return;
                        }
                    }
                });
                std::thread::spawn(move || {
                    // What is behind the one that was answered last and was not due then.
                    let mut next: Option<(Instant, String)> = None;
                    while let Some((due, key)) = next.take().or_else(|| come.recv().ok()) {
                        // What an answer takes of an origin is time; nobody takes its end for a sign of anything else.
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let now = Instant::now();
                        let (mut answer, mut answered) = (Vec::new(), 0);
                        let mut one = Some((due, key));
                        while let Some((due, key)) = one.take() {
                            if due > now {
                                next = Some((due, key));
                                break;
                            }
                            let end = Duration::from_millis(end.load(Ordering::SeqCst));
                            let life = (epoch + end).saturating_duration_since(now).as_secs();
                            let life = if key.starts_with('h') { 3600 } else { life };
                            answer.extend_from_slice(
                                format!("VA {} f0 t{life} c1\r\n{key}\r\n", key.len()).as_bytes(),
                            );
                            answered += 1;
                            one = come.try_recv().ok();
                        }
                        // Before the answer: what we know of it may be asked for again at once.
                        under_way_there.fetch_sub(answered, Ordering::SeqCst);
                        if output.write_all(&answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        origin
    }

    fn end_after(&self, time: Duration) {
        let end = (self.epoch.elapsed() + time).as_millis() as u64;
        self.end.store(end, Ordering::SeqCst);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Reads all keys on some connections at once, each answer checked.
fn read_all(server: &Server, keys: usize) {
    let share = keys / CONNECTIONS;
    let readers: Vec<_> = (0..CONNECTIONS)
        .map(|i| {
            let mut stream = server.connect();
            let mut sender = stream.try_clone().expect("a descriptor");
            let numbers = i * share..(i + 1) * share;
            let questions: Vec<u8> =
                numbers.clone().flat_map(|n| resp(&["GET", &format!("s:{n:06}")])).collect();
            std::thread::spawn(move || {
                let sending = std::thread::spawn(move || sender.write_all(&questions).expect("sent"));
                for n in numbers {
                    expect(&mut stream, format!("$8\r\ns:{n:06}\r\n"));
                }
                sending.join().expect("it sends");
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().expect("all answered, and right"));
}

/// How long reads of what is held take, one after the other, until told to stop.
fn read_held(server: &Server, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Duration>> {
    let mut stream = server.connect();
    std::thread::spawn(move || {
        let mut times = Vec::new();
        for i in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let begin = Instant::now();
            ask(
                &mut stream,
                resp(&["GET", &format!("h:{:04}", i % 100)]),
                format!("$6\r\nh:{:04}\r\n", i % 100),
            );
            times.push(begin.elapsed());
            // Its pace: a reader without pauses would be a load of its own, beside which nothing is quiet.
            std::thread::sleep(Duration::from_micros(200));
        }
        times.sort();
        times
    })
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

fn storm(keys: usize) {
    let origin = Origin::start();
    let config = tempfile::Config::new(&format!(
        "[origin.o]\nurl = \"memcached://127.0.0.1:{}\"\nconcurrency = {CONCURRENCY}\ntimeout = \"50s\"\nqueue = 1000000\n\
         [keyspace.k]\nprefix = \"\"\norigin = \"o\"\nfresh = \"1h\"\nwait = \"55s\"\n",
        origin.port
    ));
    let mut command = serve_command(&["--memory", "256MiB"]);
    command.args(["--config", config.path()]);
    let server = Server::of_command(command);
    let mut hot = server.connect();
    for i in 0..100 {
        ask(&mut hot, resp(&["GET", &format!("h:{i:04}")]), format!("$6\r\nh:{i:04}\r\n"));
    }
    // All of them end in one second, whenever each was fetched.
    origin.end_after(Duration::from_secs(if keys > 10_000 { 40 } else { 8 }));
    read_all(&server, keys);
    assert_eq!(origin.asked.load(Ordering::SeqCst), keys + 100);
    // As many reads at once that all find what they want: what hits take beside those is what the machine gives them.
    let stop = Arc::new(AtomicBool::new(false));
    let beside = read_held(&server, stop.clone());
    read_all(&server, keys);
    stop.store(true, Ordering::SeqCst);
    let beside = beside.join().expect("all answered, and right");
    assert_eq!(origin.asked.load(Ordering::SeqCst), keys + 100, "all are held");
    let stop = Arc::new(AtomicBool::new(false));
    let quiet = read_held(&server, stop.clone());
    // The values' time to live passes: that they end by it, all in one second, is what makes the storm.
    let end = Duration::from_millis(origin.end.load(Ordering::SeqCst));
    std::thread::sleep(end.saturating_sub(origin.epoch.elapsed()));
    stop.store(true, Ordering::SeqCst);
    let quiet = quiet.join().expect("all answered, and right");
    origin.end_after(Duration::from_secs(3600));
    let stop = Arc::new(AtomicBool::new(false));
    let stormy = read_held(&server, stop.clone());
    let begin = Instant::now();
    read_all(&server, keys);
    let took = begin.elapsed();
    stop.store(true, Ordering::SeqCst);
    let stormy = stormy.join().expect("all answered, and right");
    assert_eq!(origin.asked.load(Ordering::SeqCst), 2 * keys + 100, "each was asked once more");
    let most = origin.most.load(Ordering::SeqCst);
    assert!((2..=CONCURRENCY).contains(&most), "{most} at a time");
    let ratio = |of: &[Duration], percent| {
        percentile(of, percent).as_secs_f64() / percentile(&quiet, percent).as_secs_f64()
    };
    eprintln!("{keys} keys in {took:?}, at most {most} questions at a time; what hits take meanwhile:");
    for (name, times) in [("quiet", &quiet), ("beside as many hits", &beside), ("in the storm", &stormy)] {
        eprintln!(
            "  {name:<20} p50 {:>10.1?}  p99 {:>10.1?}  of quiet {:.2} and {:.2}  ({} reads)",
            percentile(times, 50),
            percentile(times, 99),
            ratio(times, 50),
            ratio(times, 99),
            times.len()
        );
    }
}

#[test]
fn keys_that_end_together_are_asked_once_each_within_the_origins_concurrency() {
    storm(8_000);
}

#[test]
#[ignore = "100,000 keys and half a minute: make storm"]
fn a_hundred_thousand_keys_that_end_in_one_second_are_asked_once_each_within_the_origins_concurrency() {
    storm(100_000);
}
