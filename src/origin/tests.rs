//! Conversations with each kind of origin, recorded and hostile; the pool's rules.

use super::pool::{Action, Cause, Failure, Line, Options, Permits, Pool, Told};
use super::target::Queries;
use super::*;
use crate::clock::Mono;
use proptest::prelude::*;

const LIMITS: Limits = Limits { value_bytes_max: 1 << 20 };
const READ: What = What::Read { known: None };

fn target(url: &str) -> Arc<Target> {
    let mut target = Target::parse(url).expect("a good URL");
    if let Kind::Postgres(queries) = &mut target.kind {
        queries.read = "select value from t where id = $1".into();
    }
    Arc::new(target)
}

fn ask(key: &str, what: What) -> Ask {
    Ask { key: key.into(), what }
}

fn put(value: &str) -> What {
    What::Put { value: value.into(), flags: 7, live_millis: Some(1500), condition: Condition::Always }
}

/// A client that stands and was asked these things in this order; and what it said.
fn asked(url: &str, duty: Duty, greeting: &[u8], asks: &[Ask]) -> (Client, Vec<u8>) {
    let (mut client, mut out, mut heard) = (Client::new(target(url), LIMITS, duty), Vec::new(), Vec::new());
    client.begin(&mut out);
    client.receive(greeting, &mut heard, &mut out).expect("a good greeting");
    assert!(client.ready() && heard.is_empty());
    out.clear();
    for (i, ask) in asks.iter().enumerate() {
        assert_eq!(client.ask(Ticket(i as u64), ask, &mut out), None);
    }
    (client, out)
}

/// What is heard of `bytes` in one piece, after checking that every way to cut them in two, and one byte at a time, gives
/// the same.
fn heard(url: &str, duty: Duty, greeting: &[u8], asks: &[Ask], bytes: &[u8]) -> Vec<Heard> {
    let run = |cuts: &[usize]| {
        let (mut client, mut out) = asked(url, duty, greeting, asks);
        let (mut heard, mut from) = (Vec::new(), 0);
        for &to in cuts.iter().chain([&bytes.len()]) {
            client.receive(&bytes[from..to], &mut heard, &mut out).expect("a good answer");
            from = to;
        }
        client.ended(&mut heard);
        heard
    };
    let whole = run(&[]);
    for cut in 0..bytes.len() {
        assert_eq!(run(&[cut]), whole, "cut at {cut}");
    }
    assert_eq!(run(&(0..bytes.len()).collect::<Vec<_>>()), whole, "drip");
    whole
}

fn found(value: &str) -> Found {
    Found { value: value.into(), ..Found::default() }
}

fn answers(heard: Vec<Heard>) -> Vec<Reply> {
    let answers = heard.into_iter().enumerate().map(|(i, heard)| match heard {
        Heard::Answer(ticket, reply) => {
            assert_eq!(ticket, Ticket(i as u64), "in order");
            reply
        }
        other => panic!("{other:?}"),
    });
    answers.collect()
}

const HELLO: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n";

#[test]
fn redis_is_asked_and_its_answers_understood() {
    let asks = [
        ask("a", READ),
        ask("b", READ),
        ask("c", READ),
        ask("d", READ),
        ask("k", put("v")),
        ask("k", What::Remove),
        ask("n", What::Count { by: -3 }),
        ask("", What::Command { bytes: b"*1\r\n$4\r\nPING\r\n".to_vec(), replies: 1 }),
    ];
    let (_, said) = asked("redis://h", Duty::Ask, HELLO, &asks[4..6]);
    let expected =
        "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nPX\r\n$4\r\n1500\r\n*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n";
    assert_eq!(String::from_utf8_lossy(&said), expected);
    let bytes = b"$1\r\nx\r\n:-1\r\n_\r\n:-2\r\n$2\r\n\r\n\r\n:1500\r\n-WRONGTYPE no\r\n:-1\r\n+OK\r\n:0\r\n:-3\r\n+PONG\r\n";
    let heard = answers(heard("redis://h", Duty::Ask, HELLO, &asks, bytes));
    assert_eq!(
        heard,
        [
            Reply::Found(found("x")),
            Reply::Absent { fresh_millis: None },
            Reply::Found(Found { fresh_millis: Some(1500), ..found("\r\n") }),
            Reply::Refused(b"WRONGTYPE no".to_vec()),
            Reply::Written,
            Reply::NotWritten,
            Reply::Counted(-3),
            Reply::Raw(b"+PONG\r\n".to_vec()),
        ]
    );
}

#[test]
fn redis_tells_of_changes_between_answers() {
    let greeting = [HELLO, b"+OK\r\n"].concat();
    let bytes =
        b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n>2\r\n+invalidate\r\n_\r\n>1\r\n+other\r\n";
    let heard = heard("redis://h", Duty::Listen, &greeting, &[], bytes);
    assert_eq!(heard, [Heard::Changed(b"a".to_vec()), Heard::Changed(b"b".to_vec()), Heard::AllChanged]);
}

#[test]
fn redis_logs_in_and_selects_before_it_is_asked() {
    let mut client = Client::new(target("redis://u:p@h/3"), LIMITS, Duty::Ask);
    let mut out = Vec::new();
    client.begin(&mut out);
    let expected = "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
    client.receive(HELLO, &mut Vec::new(), &mut out).expect("good");
    assert!(!client.ready());
    client.receive(b"+OK\r\n", &mut Vec::new(), &mut out).expect("good");
    assert!(client.ready());
    let mut refused = Client::new(target("redis://u:p@h"), LIMITS, Duty::Ask);
    refused.begin(&mut out);
    let said = refused.receive(b"-WRONGPASS no\r\n", &mut Vec::new(), &mut out);
    assert_eq!(said, Err(Broken::Login));
}

#[test]
fn memcached_is_asked_and_its_answers_understood() {
    let asks = [
        ask("a", READ),
        ask("b", READ),
        ask("with space", READ),
        ask("k", put("v\r\n")),
        ask("k", What::Remove),
        ask("n", What::Count { by: 5 }),
        ask("n", What::Expire { live_millis: None }),
    ];
    let (_, said) = asked("memcached://h", Duty::Ask, b"", &asks);
    let expected = "mg a v f t c O0\r\nmg b v f t c O1\r\nmg d2l0aCBzcGFjZQ== v f t c b O2\r\nms k 3 F7 T2 O3\r\nv\r\n\r\nmd k O4\r\nma n v MI D5 O5\r\nmg n T0 O6\r\n";
    assert_eq!(String::from_utf8_lossy(&said), expected);
    let bytes = b"VA 1 f9 t-1 c55 O0\r\nx\r\nEN\r\nVA 2 f0 t30 c56 O2\r\n\r\n\r\nHD O3\r\nNF O4\r\nVA 1\r\n7\r\nHD\r\n";
    let heard = answers(heard("memcached://h", Duty::Ask, b"", &asks, bytes));
    let version = |version| Some(Version(version));
    assert_eq!(
        heard,
        [
            Reply::Found(Found { flags: 9, version: version(55), ..found("x") }),
            Reply::Absent { fresh_millis: None },
            Reply::Found(Found { version: version(56), fresh_millis: Some(30_000), ..found("\r\n") }),
            Reply::Written,
            Reply::NotWritten,
            Reply::Counted(7),
            Reply::Written,
        ]
    );
    let mut client = Client::new(target("memcached://h"), LIMITS, Duty::Ask);
    let long = client.ask(Ticket(0), &ask(&"k".repeat(251), READ), &mut Vec::new());
    assert_eq!(long, Some(Reply::Absent { fresh_millis: None }));
}

#[test]
fn http_is_asked_with_what_was_known() {
    let etag = || Some(Validator::Etag(b"\"v1\"".as_slice().into()));
    let (_, said) = asked(
        "http://h:8080/i/{key}.json",
        Duty::Ask,
        b"",
        &[ask("a b/\r\n?#%", What::Read { known: etag() })],
    );
    let expected = "GET /i/a%20b/%0D%0A%3F%23%25.json HTTP/1.1\r\nHost: h:8080\r\nUser-Agent: foreshadow\r\nIf-None-Match: \"v1\"\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&said), expected);
    let mut client = Client::new(target("http://h"), LIMITS, Duty::Ask);
    for key in ["../secret", "a/../b", ".", "", "a/.."] {
        let mut out = Vec::new();
        assert_eq!(
            client.ask(Ticket(0), &ask(key, READ), &mut out),
            Some(Reply::Absent { fresh_millis: None })
        );
        assert!(out.is_empty(), "{key}");
    }
}

#[test]
fn http_answers_end_where_they_say() {
    let tell = |what: What, bytes: &str| {
        let mut heard = heard("http://h", Duty::Ask, b"", &[ask("a", what)], bytes.as_bytes());
        assert_eq!(heard.len(), 1, "{bytes}");
        match heard.remove(0) {
            Heard::Answer(Ticket(0), reply) => reply,
            other => panic!("{other:?}"),
        }
    };
    let read = |bytes: &str| tell(READ, bytes);
    assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), Reply::Found(found("abc")));
    assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Reply::Found(found("")));
    assert_eq!(
        read(
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        ),
        Reply::Found(found("abcde"))
    );
    assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nabc"), Reply::Found(found("abc")));
    assert_eq!(
        read(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nETag: \"a\"\r\nCache-Control: max-age=5\r\nContent-Length: 1\r\n\r\nx"
        ),
        Reply::Found(Found {
            fresh_millis: Some(5000),
            validator: Some(Validator::Etag(b"\"a\"".as_slice().into())),
            ..found("x")
        })
    );
    assert_eq!(
        read("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        Reply::Unchanged { fresh_millis: None }
    );
    assert_eq!(
        read("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        Reply::Absent { fresh_millis: None }
    );
    assert!(matches!(read("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"), Reply::Refused(_)));
    assert!(matches!(read("HTTP/1.1 206 Part\r\nContent-Length: 2\r\n\r\nno"), Reply::Refused(_)));
    assert_eq!(tell(put("v"), "HTTP/1.1 204 No Content\r\n\r\n"), Reply::Written);
    assert_eq!(tell(What::Remove, "HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n"), Reply::NotWritten);
}

#[test]
fn an_http_body_cut_off_is_no_answer() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\n",
    ] {
        assert_eq!(heard("http://h", Duty::Ask, b"", &[ask("a", READ)], bytes.as_bytes()), [], "{bytes}");
    }
}

/// A message of PostgreSQL.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn row_description(columns: &[(&str, u32)]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for (name, oid) in columns {
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&oid.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
    }
    message(b'T', &body)
}

fn row(cells: &[Option<&str>]) -> Vec<u8> {
    let mut body = (cells.len() as u16).to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            Some(text) => {
                body.extend_from_slice(&(text.len() as u32).to_be_bytes());
                body.extend_from_slice(text.as_bytes());
            }
            None => body.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
    message(b'D', &body)
}

fn postgres_greeting() -> Vec<u8> {
    let columns = [("id", 23), ("value", 25), ("version", 20), ("ttl", 23)];
    [
        message(b'R', &[0, 0, 0, 0]),
        message(b'S', b"server_version\x0017\0"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
        message(b'1', b""),
        message(b't', &[0, 1, 0, 0, 0, 25]),
        row_description(&columns),
        message(b'Z', b"I"),
    ]
    .concat()
}

#[test]
fn postgres_is_asked_and_its_answers_understood() {
    let asks = [ask("1", READ), ask("2", READ), ask("3", READ), ask("4", READ)];
    let ready = message(b'Z', b"I");
    let bytes = [
        message(b'2', b""),
        row(&[Some("1"), Some("text"), Some("42"), Some("9")]),
        message(b's', b""),
        ready.clone(),
        message(b'2', b""),
        message(b'C', b"SELECT 0\0"),
        ready.clone(),
        message(b'A', b"\0\0\0\x01changes\x00user:9\x00"),
        message(b'E', b"SERROR\0C22P02\0Mno such number\0\0"),
        ready.clone(),
        message(b'2', b""),
        row(&[Some("1"), None, None, None]),
        message(b's', b""),
        ready,
    ]
    .concat();
    let heard = heard("postgres://u@h/d", Duty::Ask, &postgres_greeting(), &asks, &bytes);
    let value = Found { version: Some(Version(42)), fresh_millis: Some(9000), ..found("text") };
    let absent = Reply::Absent { fresh_millis: None };
    assert_eq!(
        heard,
        [
            Heard::Answer(Ticket(0), Reply::Found(value)),
            Heard::Answer(Ticket(1), absent.clone()),
            Heard::Changed(b"user:9".to_vec()),
            Heard::Answer(Ticket(2), Reply::Refused(b"ERR the origin said: no such number".to_vec())),
            Heard::Answer(Ticket(3), absent),
        ]
    );
}

#[test]
fn a_login_to_postgres_is_bound_to_the_certificate_where_the_server_can_and_never_where_it_did_not_say_so() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap().self_signed(&key).unwrap();
    let first_words = |proven: bool, mechanisms: &[u8]| {
        let mut client = Client::new(target("postgres://u:p@h/d"), LIMITS, Duty::Ask);
        let mut out = Vec::new();
        if proven {
            client.proven(certificate.der());
        }
        client.begin(&mut out);
        out.clear();
        let offer = [&[0, 0, 0, 10], mechanisms, b"\0"].concat();
        client
            .receive(&message(b'R', &offer), &mut Vec::new(), &mut out)
            .map(|()| String::from_utf8_lossy(&out).into_owned())
    };
    let (both, plain) = (b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0".as_slice(), b"SCRAM-SHA-256\0".as_slice());
    let bound = first_words(true, both).unwrap();
    assert!(bound.contains("SCRAM-SHA-256-PLUS\0") && bound.contains("p=tls-server-end-point,,"), "{bound}");
    // What a server that can would refuse, as somebody took its offer out.
    let refused = first_words(true, plain).unwrap();
    assert!(refused.contains("SCRAM-SHA-256\0") && refused.contains("y,,"), "{refused}");
    let clear = first_words(false, both).unwrap();
    assert!(clear.contains("SCRAM-SHA-256\0") && clear.contains("n,,"), "{clear}");
    assert_eq!(first_words(true, b"OTHER\0"), Err(Broken::Login));
}

#[test]
fn postgres_listens_after_its_statement_is_prepared() {
    let mut target = Target::parse("postgres://u:p@h/d").unwrap();
    target.kind = Kind::Postgres(Queries {
        database: "d".into(),
        read: "select 1".into(),
        listen: Some("cha\"nges".into()),
        ..Queries::default()
    });
    let (mut client, mut out) = (Client::new(Arc::new(target), LIMITS, Duty::Listen), Vec::new());
    client.begin(&mut out);
    out.clear();
    client.receive(&postgres_greeting(), &mut Vec::new(), &mut out).expect("good");
    let said = String::from_utf8_lossy(&out).into_owned();
    assert!(said.contains("LISTEN \"cha\"\"nges\""), "{said}");
    assert!(!client.ready());
    let done = [message(b'C', b"LISTEN\0"), message(b'Z', b"I")].concat();
    client.receive(&done, &mut Vec::new(), &mut out).expect("good");
    assert!(client.ready());
}

const URLS: [&str; 4] = ["redis://h", "memcached://h", "http://h", "postgres://u@h/d"];

fn greeting_of(url: &str) -> Vec<u8> {
    match &url[..4] {
        "redi" => HELLO.to_vec(),
        "post" => postgres_greeting(),
        _ => Vec::new(),
    }
}

#[test]
fn what_no_origin_may_send_breaks_the_connection_and_answers_nothing() {
    let hostile: &[(&str, &[u8])] = &[
        ("redis://h", b"$4294967296\r\n"),
        ("redis://h", b"$1048577\r\n"),
        ("redis://h", b":7\r\n"),
        ("redis://h", b"\x00\x01\x02\r\n"),
        ("redis://h", b">2\r\n+invalidate\r\n:1\r\n"),
        ("memcached://h", b"VA 4294967296\r\n"),
        ("memcached://h", b"VA -1\r\n"),
        ("memcached://h", b"VA 1\r\nabc\r\n"),
        ("memcached://h", b"HD\r\n"),
        ("memcached://h", b"\r\n"),
        ("http://h", b"HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n"),
        ("http://h", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\n"),
        ("http://h", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"),
        ("http://h", b"HTTP/1.1 101 Switching\r\n\r\n"),
        ("http://h", b"garbage\r\n\r\n"),
        ("postgres://u@h/d", b"D\xff\xff\xff\xff"),
        ("postgres://u@h/d", b"D\x7f\xff\xff\xff"),
        ("postgres://u@h/d", b"D\0\0\0\x06\xff\xff"),
        ("postgres://u@h/d", b"?\0\0\0\x04"),
    ];
    for (url, bytes) in hostile {
        let (mut client, mut out) = asked(url, Duty::Ask, &greeting_of(url), &[ask("a", READ)]);
        let mut heard = Vec::new();
        let ended = client.receive(bytes, &mut heard, &mut out);
        assert!(ended.is_err(), "{url} {:?}", String::from_utf8_lossy(bytes));
        assert_eq!(heard, [], "{url}");
    }
}

#[test]
fn what_nobody_asked_breaks_the_connection() {
    for (url, bytes) in [
        ("redis://h", b"+OK\r\n".as_slice()),
        ("memcached://h", b"HD\r\n"),
        ("http://h", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("postgres://u@h/d", b"Z\0\0\0\x05I"),
    ] {
        let (mut client, mut out) = asked(url, Duty::Ask, &greeting_of(url), &[]);
        assert_eq!(client.receive(bytes, &mut Vec::new(), &mut out), Err(Broken::Unasked), "{url}");
    }
}

#[test]
fn endless_lines_end_the_connection() {
    let endless = vec![b'x'; 128 << 10];
    for url in &URLS[..3] {
        let (mut client, mut out) = asked(url, Duty::Ask, &greeting_of(url), &[ask("a", READ)]);
        assert!(client.receive(&endless, &mut Vec::new(), &mut out).is_err(), "{url}");
    }
}

proptest! {
    #[test]
    fn garbage_neither_panics_nor_answers_twice(
        origin in 0..4usize,
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        known in 0..6usize,
    ) {
        let url = URLS[origin];
        let (mut client, mut out) = asked(url, Duty::Ask, &greeting_of(url), &[ask("a", READ)]);
        // Half of the cases begin as a good answer would.
        let begin: &[u8] = match (origin, known) {
            (0, 0) => b"$5\r\n", (0, 1) => b"*3\r\n", (1, 0) => b"VA 5 ", (2, 0) => b"HTTP/1.1 200 OK\r\n",
            (2, 1) => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (3, 0) => b"D\0\0\0\x20\0\x04",
            (3, 1) => b"E\0\0\0\x20", (3, 2) => b"C\0\0\0\x08", _ => b"",
        };
        let mut heard = Vec::new();
        let mut fine = client.receive(begin, &mut heard, &mut out).is_ok();
        for piece in &pieces {
            fine = fine && client.receive(piece, &mut heard, &mut out).is_ok();
        }
        client.ended(&mut heard);
        prop_assert!(heard.iter().filter(|heard| matches!(heard, Heard::Answer(..))).count() <= 1);
    }
}

// -- the pool ----------------------------------------------------------------------------------------------------------

const OPTIONS: Options = Options {
    connections_max: 2,
    queue_max: 4,
    timeout_millis: 100,
    slow_millis: u64::MAX,
    failures_max: 3,
    open_millis: 1000,
    limits: LIMITS,
    duty: Duty::Ask,
    listen: false,
    spare_by_forecast: true,
};

fn at(millis: u64) -> Mono {
    Mono(0).plus_millis(millis)
}

fn pool(options: Options, permits: u32) -> (Pool, Arc<Permits>) {
    let permits = Arc::new(Permits::new(permits));
    (Pool::new(target("memcached://h"), options, permits.clone()), permits)
}

fn actions(pool: &mut Pool) -> Vec<Action> {
    std::iter::from_fn(|| pool.poll()).collect()
}

fn read(pool: &mut Pool, now: u64, ticket: u64) {
    pool.ask(at(now), Ticket(ticket), Cause::Demand, ask(&format!("k{ticket}"), READ));
}

fn said(pool: &mut Pool, line: u64) -> String {
    let output = pool.output(Line(line)).expect("it is there");
    String::from_utf8(std::mem::take(output)).expect("text")
}

fn failed(ticket: u64, why: Failure) -> Action {
    Action::Tell(Told::Failed(Ticket(ticket), why))
}

#[test]
fn a_question_waits_for_its_connection_and_is_answered_once() {
    let (mut pool, permits) = pool(OPTIONS, 8);
    read(&mut pool, 0, 1);
    assert_eq!(actions(&mut pool), [Action::Connect(Line(0))]);
    assert_eq!(permits.taken(), 0, "waiting takes no permit");
    pool.connected(at(1), Line(0));
    assert_eq!(actions(&mut pool), [Action::Send(Line(0))]);
    assert_eq!((said(&mut pool, 0).as_str(), permits.taken()), ("mg k1 v f t c O1\r\n", 1));
    pool.received(at(2), Line(0), b"EN\r\n");
    let absent = Reply::Absent { fresh_millis: None };
    assert_eq!(actions(&mut pool), [Action::Tell(Told::Answer(Ticket(1), absent))]);
    assert_eq!((permits.taken(), permits.most()), (0, 1));
    assert_eq!(pool.tick(at(10_000)), None, "nothing is due");
    assert_eq!(actions(&mut pool), []);
}

#[test]
fn an_overdue_answer_ends_its_connection_and_what_stood_behind_it_may_be_repeated() {
    let (mut pool, permits) = pool(Options { connections_max: 1, ..OPTIONS }, 8);
    read(&mut pool, 0, 1);
    pool.connected(at(0), Line(0));
    read(&mut pool, 50, 2);
    actions(&mut pool);
    assert_eq!(pool.tick(at(99)), Some(at(100)));
    assert_eq!(actions(&mut pool), []);
    // A drip is no answer: the deadline is for the last byte.
    pool.received(at(99), Line(0), b"VA 10 f0");
    pool.tick(at(100));
    let slow = Action::Slow(Ticket(1), 100);
    let expected = [Action::Close(Line(0)), slow, failed(1, Failure::Overdue), failed(2, Failure::Closed)];
    assert_eq!(actions(&mut pool), expected);
    assert_eq!(permits.taken(), 0);
    // What comes late belongs to nobody.
    pool.received(at(101), Line(0), b" t1 c1\r\n0123456789\r\n");
    assert_eq!(actions(&mut pool), []);
}

#[test]
fn permits_hold_over_cores_and_demand_goes_first() {
    let (mut one, permits) = pool(OPTIONS, 1);
    let mut other = Pool::new(target("memcached://h"), OPTIONS, permits.clone());
    read(&mut one, 0, 1);
    one.connected(at(0), Line(0));
    other.ask(at(0), Ticket(2), Cause::Prefetch, ask("p", READ));
    other.ask(at(0), Ticket(3), Cause::Refresh, ask("r", READ));
    other.ask(at(0), Ticket(4), Cause::Demand, ask("d", READ));
    other.connected(at(0), Line(0));
    assert_eq!((permits.taken(), other.tally.asked), (1, 0));
    assert_eq!(other.tick(at(5)), Some(at(6)), "looks again soon");
    assert_eq!(other.next_due(at(6)), Some(at(6)), "and that moment comes, however often one asks for it");
    one.received(at(7), Line(0), b"EN\r\n");
    other.tick(at(7));
    assert_eq!(said(&mut other, 0), "mg d v f t c O4\r\n");
    other.received(at(8), Line(0), b"EN\r\n");
    assert_eq!(said(&mut other, 0), "mg r v f t c O3\r\n");
    assert_eq!(permits.most(), 1);
    drop(other);
    assert_eq!(permits.taken(), 0, "what was out comes back with its pool");
}

#[test]
fn a_full_queue_gives_up_what_nobody_waits_for_and_then_refuses() {
    let (mut pool, _) = pool(OPTIONS, 8);
    pool.ask(at(0), Ticket(0), Cause::Prefetch, ask("p", READ));
    (1..4).for_each(|ticket| read(&mut pool, 0, ticket));
    actions(&mut pool);
    read(&mut pool, 0, 4);
    assert_eq!(actions(&mut pool), [failed(0, Failure::QueueFull)]);
    read(&mut pool, 0, 5);
    assert_eq!(actions(&mut pool), [failed(5, Failure::QueueFull)]);
}

#[test]
fn the_circuit_opens_after_failures_lets_one_through_and_closes_with_an_answer() {
    let (mut pool, _) = pool(Options { connections_max: 1, ..OPTIONS }, 8);
    read(&mut pool, 0, 1);
    for line in 0..3 {
        assert_eq!(actions(&mut pool), [Action::Connect(Line(line))]);
        pool.closed(at(1), Line(line));
    }
    assert_eq!(actions(&mut pool), [failed(1, Failure::CircuitOpen)]);
    read(&mut pool, 500, 2);
    assert_eq!(actions(&mut pool), [failed(2, Failure::CircuitOpen)], "at once, without a connection");
    read(&mut pool, 1001, 3);
    read(&mut pool, 1001, 4);
    assert_eq!(actions(&mut pool), [Action::Connect(Line(3)), failed(4, Failure::CircuitOpen)]);
    pool.closed(at(1002), Line(3));
    assert_eq!(actions(&mut pool), [failed(3, Failure::CircuitOpen)]);
    read(&mut pool, 2500, 5);
    assert_eq!(actions(&mut pool), [failed(5, Failure::CircuitOpen)], "the pause doubled");
    read(&mut pool, 3002, 6);
    assert_eq!(actions(&mut pool), [Action::Connect(Line(4))]);
    pool.connected(at(3003), Line(4));
    pool.received(at(3004), Line(4), b"EN\r\n");
    assert!(!pool.circuit_open());
    assert_eq!(pool.tally.opened, 2);
}

#[test]
fn a_cancelled_trial_leaves_the_circuit_to_the_next_question() {
    let (mut pool, _) = pool(Options { connections_max: 1, failures_max: 1, ..OPTIONS }, 8);
    read(&mut pool, 0, 1);
    pool.closed(at(0), Line(0));
    read(&mut pool, 1001, 2);
    pool.cancel(Ticket(2));
    actions(&mut pool);
    read(&mut pool, 1002, 3);
    assert!(!actions(&mut pool).contains(&failed(3, Failure::CircuitOpen)));
}

#[test]
fn garbage_fails_what_was_asked_on_that_connection_only() {
    let (mut pool, _) = pool(Options { queue_max: 100, ..OPTIONS }, 100);
    read(&mut pool, 0, 1);
    read(&mut pool, 0, 2);
    pool.connected(at(0), Line(0));
    pool.connected(at(0), Line(1));
    read(&mut pool, 1, 3);
    actions(&mut pool);
    pool.received(at(1), Line(0), b"EN\r\nVA 4294967296\r\n");
    let told = actions(&mut pool);
    assert_eq!(told.iter().filter(|told| matches!(told, Action::Tell(Told::Answer(..)))).count(), 1);
    let broken = told.iter().filter(|told| matches!(told, Action::Tell(Told::Failed(_, Failure::Broken))));
    assert!(broken.count() >= 1 && told.contains(&Action::Close(Line(0))));
    assert_eq!(pool.connection_count(), 1);
}

#[test]
fn a_connection_to_listen_is_kept_and_its_return_means_that_anything_may_have_changed() {
    let permits = Arc::new(Permits::new(1));
    let mut pool = Pool::new(target("redis://h"), Options { listen: true, ..OPTIONS }, permits);
    pool.tick(at(0));
    assert_eq!(actions(&mut pool), [Action::Connect(Line(0))]);
    pool.connected(at(0), Line(0));
    let greeting = [HELLO, b"+OK\r\n"].concat();
    pool.received(at(1), Line(0), &greeting);
    assert!(actions(&mut pool).contains(&Action::Tell(Told::AllChanged)));
    pool.received(at(2), Line(0), b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n");
    assert_eq!(actions(&mut pool), [Action::Tell(Told::Changed(b"k".to_vec()))]);
    pool.closed(at(3), Line(0));
    assert!(!actions(&mut pool).contains(&Action::Connect(Line(1))), "not at once");
    let again = pool.tick(at(3)).expect("it tries again");
    pool.tick(again);
    assert_eq!(actions(&mut pool), [Action::Connect(Line(1))]);
    assert!(!pool.circuit_open());
}

#[test]
fn what_nobody_waits_for_takes_a_quarter_of_the_permits_and_leaves_the_rest_to_demand() {
    let (mut pool, permits) = pool(Options { connections_max: 1, ..OPTIONS }, 8);
    assert_eq!(pool.spare_room(at(0)), 2);
    for ticket in 1..=3 {
        pool.ask(at(0), Ticket(ticket), Cause::Prefetch, ask(&format!("k{ticket}"), READ));
    }
    assert_eq!(pool.spare_room(at(0)), 0, "some wait");
    pool.connected(at(0), Line(0));
    assert_eq!(permits.taken(), 2);
    (4..8).for_each(|ticket| read(&mut pool, 0, ticket));
    assert_eq!(permits.taken(), 6, "demand does not stand behind them");
    assert_eq!(pool.spare_room(at(0)), 0);
    assert!(said(&mut pool, 0).ends_with("mg k7 v f t c O7\r\n"));
    pool.received(at(1), Line(0), &b"EN\r\n".repeat(6));
    assert_eq!(permits.taken(), 1, "then the third has its turn");
    assert_eq!(said(&mut pool, 0), "mg k3 v f t c O3\r\n");
}

#[test]
fn what_is_spare_is_shared_by_forecast_unless_the_options_say_that_it_is_not() {
    for (spare_by_forecast, part) in [(true, 0.5), (false, 1.0)] {
        let (mut pool, _) = pool(Options { spare_by_forecast, ..OPTIONS }, 8);
        let before = pool.spare_rate();
        pool.set_spare_share(0.5);
        assert_eq!(pool.spare_rate(), before * part);
    }
}

#[test]
fn a_question_that_somebody_comes_to_wait_for_goes_with_demand() {
    let (mut pool, _) = pool(Options { connections_max: 1, ..OPTIONS }, 64);
    for (ticket, cause) in [(1, Cause::Prefetch), (2, Cause::Refresh), (3, Cause::Prefetch)] {
        pool.ask(at(ticket), Ticket(ticket), cause, ask(&format!("k{ticket}"), READ));
    }
    read(&mut pool, 4, 4);
    pool.hurry(at(5), Ticket(3));
    pool.hurry(at(5), Ticket(99));
    pool.connected(at(6), Line(0));
    let order = said(&mut pool, 0);
    let order: Vec<_> = order.lines().map(|line| &line[3..5]).collect();
    assert_eq!(order, ["k3", "k4", "k2", "k1"], "by precedence, then by when they were asked");
}

#[test]
fn an_origin_that_fails_or_has_people_waiting_has_nothing_to_spare() {
    let (mut pool, _) = pool(Options { connections_max: 1, ..OPTIONS }, 8);
    read(&mut pool, 0, 1);
    assert_eq!(pool.spare_room(at(0)), 0);
    for now in 0..10 {
        read(&mut pool, now, 10 + now);
        let lines: Vec<Line> = actions(&mut pool)
            .iter()
            .filter_map(|it| if let Action::Connect(line) = it { Some(*line) } else { None })
            .collect();
        lines.into_iter().for_each(|line| pool.closed(at(now), line));
    }
    assert!(pool.circuit_open());
    assert_eq!(pool.spare_room(at(11)), 0);
}
