//! The Rust client against the binary, and against servers that lie, dawdle and die.

use foreshadow::client::{
    Client, Error, Leased, Newer, Only, Options, PIPELINE_REQUESTS_MAX, PutOptions, Reply, Unsendable,
    Written,
};
use foreshadow::ids::Version;
use foreshadow::wire::native::frame::{HEADER_BYTES, Header, MAGIC_REPLY, MAGIC_REQUEST, Opcode, Status};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../examples/cache_aside.rs"]
mod cache_aside;
#[path = "../examples/read_through.rs"]
mod read_through;

/// One server at a time: each takes cores and locked memory.
static TURN: Mutex<()> = Mutex::new(());

struct Server {
    child: Child,
    address: String,
    _turn: MutexGuard<'static, ()>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Server::on("127.0.0.1:0", arguments, turn)
    }

    fn on(listen: &str, arguments: &[&str], turn: MutexGuard<'static, ()>) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_foreshadow"))
            .args([
                "serve",
                "--admin",
                "off",
                "--memory",
                "512MiB",
                "--exit-on-stdin-close",
                "--log-level",
                "warn",
            ])
            .args(["--listen", listen])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("listen="))
            .unwrap_or_else(|| panic!("no address in {line:?}"))
            .to_owned();
        Server { child, address, _turn: turn }
    }

    fn client(&self) -> Client {
        Client::connect(&self.address, patient()).expect("a server that is ready")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("our child");
    }
}

fn patient() -> Options {
    Options {
        deadline: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(10),
        ..Options::default()
    }
}

fn numbered(count: usize) -> Vec<(String, String)> {
    (0..count).map(|i| (format!("key:{i}"), format!("value {i}"))).collect()
}

#[test]
fn everything_a_client_can_ask_is_answered() {
    for (cores, crc, cluster) in [("0", false, false), ("0,1", true, false), ("0,1", false, true)] {
        let mut arguments = vec!["--cores", cores];
        if cluster {
            arguments.push("--cluster-ports");
        }
        let server = Server::start(&arguments);
        let mut client = Client::connect(&server.address, Options { crc, ..patient() }).expect("ready");
        assert!(client.map_epoch() > 0);
        assert!(client.ping().expect("alive") < Duration::from_secs(20));

        let key = b"user:1";
        assert_eq!(client.get(key), Ok(None));
        let first = client.put(key, b"one", Some(Duration::from_secs(60))).expect("room");
        let item = client.get(key).expect("alive").expect("just stored");
        assert_eq!((item.value.as_slice(), item.version), (&b"one"[..], first));
        assert!(item.ttl.expect("one was given") <= Duration::from_secs(60));
        assert!(matches!(client.get_newer(key, first), Ok(Newer::Same(meta)) if meta.version == first));
        assert!(matches!(client.get_newer(key, Version::NONE), Ok(Newer::Item(_))));
        let only = |only| PutOptions { only, flags: 9, keep_ttl: true, ..PutOptions::PLAIN };
        assert_eq!(client.put_with(key, b"x", only(Only::IfAbsent)), Ok(Written::Exists));
        let other = Only::IfVersion(Version(first.0 + 1));
        assert_eq!(client.put_with(key, b"x", only(other)), Ok(Written::OtherVersion));
        let second = client.put_with(key, b"two", only(Only::IfVersion(first)));
        assert!(matches!(second, Ok(Written::Stored(version)) if version > first));
        let item = client.get(key).expect("alive").expect("there");
        assert_eq!((item.flags, item.ttl.is_some()), (9, true));
        assert_eq!(client.touch(key, None), Ok(true));
        assert_eq!(client.get(key).expect("alive").expect("there").ttl, None);
        assert_eq!((client.invalidate(key), client.invalidate(key)), (Ok(true), Ok(false)));
        assert_eq!(client.touch(key, None), Ok(false));
        assert_eq!(client.put_with(key, b"x", only(Only::IfPresent)), Ok(Written::Missing));

        let items = numbered(3000);
        let versions = client.put_many(&items, None).expect("room");
        assert_eq!(versions.len(), items.len());
        let mut keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        keys.push("none".to_owned());
        let found = client.get_many(&keys).expect("alive");
        for ((found, (_, value)), version) in found.iter().zip(&items).zip(versions) {
            let found = found.as_ref().expect("just stored");
            assert_eq!((found.value.as_slice(), found.version), (value.as_bytes(), version));
        }
        assert_eq!(found[3000], None);
        let removed = client.invalidate_many(&keys).expect("alive");
        assert!(removed[..3000].iter().all(|&removed| removed) && !removed[3000]);

        let stats = client.stats().expect("alive");
        assert!(stats["hits_total"] >= 3000, "{stats:?}");
        assert_eq!(stats["errors_total"], 0, "{stats:?}");
        if cluster {
            assert_eq!(client.open_connections(), 3);
            // The question for the counters itself is one.
            assert!(stats["hops_sent_total"] <= 1, "every request went to its owner: {stats:?}");
        } else {
            assert_eq!(client.open_connections(), 1);
        }

        client.put_many(&items, None).expect("room");
        client.invalidate_prefix(items[7].0.as_bytes()).expect("alive");
        let begins_so = |key: &str| key.starts_with(&items[7].0);
        let held = client.get_many(&keys[..3000]).expect("alive");
        assert!(keys.iter().zip(&held).all(|(key, item)| item.is_none() == begins_so(key)));
        assert_eq!(client.invalidate_tag(b"nobody uses it"), Ok(0));
        client.invalidate_prefix(b"").expect("alive");
        assert!(client.get_many(&keys).expect("alive").iter().all(Option::is_none));
        assert!(matches!(client.invalidate_tag(b""), Err(Error::Unsendable(_))));
    }
}

#[test]
fn a_lease_is_one_callers_at_a_time() {
    let server = Server::start(&["--cores", "0"]);
    let (mut one, mut two) = (server.client(), server.client());
    let hold = Duration::from_secs(5);
    let Ok(Leased::Fill(lease)) = one.lease_get(b"k", hold) else { panic!("nobody else asked") };
    assert_eq!(two.lease_get(b"k", hold), Ok(Leased::Wait));
    // Somebody changes the truth meanwhile: what was fetched before is not to be stored.
    two.invalidate(b"k").expect("alive");
    assert_eq!(one.lease_put(b"k", lease, b"old", None), Ok(Written::LeaseLost));
    let Ok(Leased::Fill(lease)) = two.lease_get(b"k", hold) else { panic!("free again") };
    assert!(matches!(two.lease_put(b"k", lease, b"new", None), Ok(Written::Stored(_))));
    assert!(matches!(one.lease_get(b"k", hold), Ok(Leased::Hit(item)) if item.value == b"new"));
    one.invalidate_stale(b"k").expect("alive");
    let Ok(Leased::Old { item, refill: Some(lease) }) = one.lease_get(b"k", hold) else { panic!("stale") };
    assert_eq!(item.value, b"new");
    assert!(matches!(two.lease_get(b"k", hold), Ok(Leased::Old { refill: None, .. })));
    assert!(matches!(one.lease_put(b"k", lease, b"newest", None), Ok(Written::Stored(_))));
    assert!(matches!(two.lease_get(b"k", hold), Ok(Leased::Hit(item)) if item.value == b"newest"));
}

#[test]
fn pipelines_keep_the_order_of_their_replies_and_large_values_get_through() {
    let server = Server::start(&["--cores", "0,1"]);
    let mut client = server.client();
    // More than all socket buffers hold, both ways, so that writing and reading have to go on together.
    let large: Vec<u8> = (0..1_500_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut pipeline = client.pipeline();
    for i in 0..12 {
        let key = format!("large:{i}");
        pipeline.put(key.as_bytes(), &large, PutOptions::PLAIN);
        for _ in 0..2 {
            pipeline.get(key.as_bytes());
        }
        pipeline.get(b"");
        pipeline.invalidate(key.as_bytes());
    }
    let replies = pipeline.run();
    assert_eq!(replies.len(), 60);
    for group in replies.chunks(5) {
        assert!(matches!(group[0], Ok(Reply::Written(Written::Stored(_)))), "{:?}", group[0].as_ref().err());
        for reply in &group[1..3] {
            assert!(matches!(reply, Ok(Reply::Item(item)) if item.value == large));
        }
        assert!(matches!(group[3], Err(Error::Unsendable(_))));
        assert_eq!(group[4], Ok(Reply::Removed));
    }
}

#[test]
fn a_password_is_asked_for_and_told() {
    let server = Server::start(&["--cores", "0", "--password", "secret"]);
    let with = |password: Option<&str>| {
        Client::connect(&server.address, Options { password: password.map(str::to_owned), ..patient() })
    };
    assert_eq!(with(Some("secret")).expect("right").get(b"k"), Ok(None));
    let Err(Error::Fault { status, .. }) = with(Some("wrong")) else { panic!("let in") };
    assert_eq!(status, Status::DENIED);
    let Err(Error::Fault { status, .. }) = with(None).expect("HELLO is free").get(b"k") else {
        panic!("let in")
    };
    assert_eq!(status, Status::UNAUTHENTICATED);
}

#[test]
fn a_restarted_server_is_found_again() {
    let server = Server::start(&["--cores", "0"]);
    let address = server.address.clone();
    let options = Options { reconnect_pause: Duration::from_millis(1), ..patient() };
    let mut client = Client::connect(&address, options).expect("ready");
    client.put(b"k", b"v", None).expect("room");
    drop(server);
    // A read is tried again; nobody is there.
    assert!(matches!(client.get(b"k"), Err(Error::Unreachable { .. })));
    let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _server = Server::on(&address, &["--cores", "0"], turn);
    let deadline = Instant::now() + Duration::from_secs(20);
    let found = loop {
        match client.get(b"k") {
            Err(Error::Unreachable { .. }) if Instant::now() < deadline => thread::yield_now(),
            found => break found,
        }
    };
    assert_eq!(found, Ok(None), "a new server knows nothing");
    assert_eq!(client.map_epoch(), 1);
}

#[test]
fn the_examples_do_what_they_say() {
    let server = Server::start(&["--cores", "0,1"]);
    assert_eq!(
        cache_aside::run(&server.address),
        Ok(3),
        "once before the write, once after it, once for nobody"
    );
    assert_eq!(read_through::run(&server.address), Ok(10), "once for each key");
    // The programs themselves differ only in where the address comes from.
    let _programs: [fn() -> Result<(), Error>; 2] = [cache_aside::main, read_through::main];
}

#[test]
fn a_client_written_from_the_specification_alone_is_understood() {
    let server = Server::start(&["--cores", "0,1"]);
    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/custom_client.py");
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/custom_client.py");
    let run = Command::new("python3").args([check, client, &server.address]).output();
    let output = run.expect("python3, which this test needs, starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.success(), output.stdout.as_slice()), (true, &b"ok\n"[..]), "{words}");
}

/// A server that answers each connection's requests as `answer` says; `None` closes.
fn scripted(
    mut answer: impl FnMut(usize, &Header) -> Option<Vec<u8>> + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    // The thread ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let Ok(mut stream) = stream else { return };
            while let Some(header) = next_request(&mut stream) {
                let Some(bytes) = answer(number, &header) else { break };
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
        }
    });
    (address, connections)
}

fn next_request(stream: &mut TcpStream) -> Option<Header> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = Header::read(MAGIC_REQUEST, &head).ok()??;
    let mut body = vec![0; header.body_len as usize];
    stream.read_exact(&mut body).ok()?;
    Some(header)
}

fn frame(request: &Header, status: Status, body: &[u8]) -> Vec<u8> {
    let header = Header {
        magic: MAGIC_REPLY,
        body_len: body.len() as u32,
        key_len_or_status: status.0,
        detail: 0,
        ..*request
    };
    [&header.to_bytes(), body].concat()
}

/// What every scripted server says to a greeting; it has no map.
fn greeting(request: &Header) -> Option<Vec<u8>> {
    match Opcode::of(request.opcode)? {
        Opcode::Hello => Some(frame(request, Status::OK, &[0; 32])),
        Opcode::Map => Some(frame(request, Status::UNSUPPORTED, b"no map")),
        _ => None,
    }
}

fn hasty() -> Options {
    Options { deadline: Duration::from_millis(150), reconnect_pause: Duration::ZERO, ..Options::default() }
}

#[test]
fn a_server_that_never_answers_costs_no_more_than_the_deadline() {
    let (address, connections) = scripted(|_, request| Some(greeting(request).unwrap_or_default()));
    let mut client = Client::connect(&address, hasty()).expect("it greets");
    let begun = Instant::now();
    assert_eq!(client.get(b"k"), Err(Error::Deadline));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.open_connections(), 0, "a late reply must not find a reader");
    assert_eq!(client.put(b"k", b"v", None), Err(Error::Deadline));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// Once, the question for the map and the call behind it had a whole deadline each.
#[test]
fn a_call_ends_within_its_deadline_even_if_the_map_never_comes() {
    let deadline = Duration::from_secs(2);
    let (address, _) = scripted(|_, request| match Opcode::of(request.opcode) {
        Some(Opcode::Hello) => greeting(request),
        _ => Some(Vec::new()),
    });
    let options = Options { deadline, reconnect_pause: Duration::ZERO, ..Options::default() };
    let begun = Instant::now();
    let mut client = Client::connect(&address, options).expect("it greets");
    assert!(begun.elapsed() < deadline * 3 / 2, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(client.get(b"k"), Err(Error::Deadline));
    assert!(
        begun.elapsed() >= deadline * 9 / 10 && begun.elapsed() < deadline * 3 / 2,
        "{:?}",
        begun.elapsed()
    );
}

/// Once, it was asked before every call.
#[test]
fn a_server_without_a_map_is_asked_for_it_once() {
    let questions = Arc::new(AtomicUsize::new(0));
    let counted = questions.clone();
    let (address, _) = scripted(move |_, request| {
        counted.fetch_add(usize::from(request.opcode == Opcode::Map as u8), Ordering::SeqCst);
        Some(greeting(request).unwrap_or_else(|| frame(request, Status::NOT_FOUND, b"")))
    });
    let mut client = Client::connect(&address, patient()).expect("it greets");
    for _ in 0..10 {
        assert_eq!(client.get(b"k"), Ok(None));
    }
    assert_eq!(questions.load(Ordering::SeqCst), 1);
}

#[test]
fn a_full_pipeline_refuses_what_is_too_much_and_does_the_rest() {
    let (address, _) = scripted(|_, request| {
        Some(greeting(request).unwrap_or_else(|| frame(request, Status::NOT_FOUND, b"")))
    });
    let mut client = Client::connect(&address, patient()).expect("it greets");
    let mut pipeline = client.pipeline();
    pipeline.get(b"k");
    // Those without a key take room, too, and cost the test nothing.
    (1..PIPELINE_REQUESTS_MAX).for_each(|_| pipeline.get(b""));
    pipeline.get(b"k");
    pipeline.get_many([&b"k"[..]]);
    let replies = pipeline.run();
    assert_eq!(replies[0], Ok(Reply::Missing));
    let full = Err(Error::Unsendable(Unsendable::PipelineFull));
    assert!(replies[PIPELINE_REQUESTS_MAX..] == [full.clone(), full]);
}

#[test]
fn a_lying_server_is_found_out() {
    type Lie = fn(&Header) -> Vec<u8>;
    let lies: [(&str, Lie); 9] = [
        ("another id", |request| frame(&Header { id: request.id + 7, ..*request }, Status::NOT_FOUND, b"")),
        ("another opcode", |request| frame(&Header { opcode: 0x20, ..*request }, Status::NOT_FOUND, b"")),
        ("RESP", |_| b"+PONG\r\n+PONG\r\n+PONG\r\n".to_vec()),
        ("half a meta block", |request| frame(request, Status::OK, b"1234")),
        ("an answer that gets have not", |request| frame(request, Status::LEASE_LOST, b"")),
        ("an unknown answer", |request| frame(request, Status(60), b"")),
        ("a flag of no meaning", |request| {
            let mut bytes = frame(request, Status::NOT_FOUND, b"");
            bytes[3] = 0x40;
            bytes
        }),
        ("a checksum that is wrong", |request| {
            frame(&Header { flags: 1, ..*request }, Status::NOT_FOUND, b"1234")
        }),
        ("more that never comes", |request| frame(&Header { flags: 2, ..*request }, Status::NOT_FOUND, b"")),
    ];
    for (name, lie) in lies {
        let (address, _) =
            scripted(move |_, request| Some(greeting(request).unwrap_or_else(|| lie(request))));
        let mut client = Client::connect(&address, patient()).expect("it greets");
        let answer = client.get(b"k");
        assert!(matches!(answer, Err(Error::Protocol(_))), "{name}: {answer:?}");
        assert_eq!(client.open_connections(), 0, "{name}");
    }
    // 1 GiB promised and not sent: no memory is taken for it, the deadline ends it.
    let (address, _) = scripted(|_, request| {
        let promise = |request: &Header| {
            let mut bytes = frame(request, Status::OK, b"");
            bytes[8..12].copy_from_slice(&(1u32 << 30).to_le_bytes());
            bytes
        };
        Some(greeting(request).unwrap_or_else(|| promise(request)))
    });
    let mut client = Client::connect(&address, hasty()).expect("it greets");
    assert_eq!(client.get(b"k"), Err(Error::Deadline));
}

#[test]
fn reads_are_repeated_on_a_new_connection_and_puts_are_not() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let (address, _) = scripted(move |number, request| {
        if let Some(greeting) = greeting(request) {
            return Some(greeting);
        }
        log.lock().expect("nobody panicked").push((number, request.opcode));
        // The first connection dies of the first real request.
        (number > 0).then(|| frame(request, Status::NOT_FOUND, b""))
    });
    let mut client = Client::connect(&address, patient()).expect("it greets");
    let mut pipeline = client.pipeline();
    pipeline.put(b"k", b"v", PutOptions::PLAIN);
    pipeline.get(b"k");
    let replies = pipeline.run();
    assert!(matches!(replies[0], Err(Error::Lost(_))), "{:?}", replies[0]);
    assert_eq!(replies[1], Ok(Reply::Missing));
    let seen = seen.lock().expect("nobody panicked").clone();
    assert_eq!(seen, [(0, Opcode::Put as u8), (1, Opcode::Get as u8)]);
}

#[test]
fn an_unreachable_server_is_not_asked_all_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    assert!(matches!(Client::connect(&address, hasty()), Err(Error::Unreachable { .. })));
    assert!(matches!(Client::connect("no.such.host.invalid:1", hasty()), Err(Error::Unreachable { .. })));

    let (address, connections) =
        scripted(|number, request| if number == 0 { greeting(request) } else { None });
    let options = Options { reconnect_pause: Duration::from_secs(60), ..patient() };
    let mut client =
        Client::connect(&address, Options { reconnect_pause_max: Duration::from_secs(60), ..options })
            .expect("it greets");
    for _ in 0..10 {
        assert!(client.get(b"k").is_err());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2, "one attempt, then a rest");
}
