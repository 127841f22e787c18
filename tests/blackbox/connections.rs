//! Bad inputs and faults of the connection kind. None may crash a core, hurt others or cost memory without bound.

use crate::support::{PATIENCE, Server, ask, bulk, connect, eventually, expect, resp, rest, serve_command};
use foreshadow::wire::native::frame::{Decoded, Opcode, Request, Status, decode_reply};
use rlimit::Resource;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

/// What a well-behaved client sees while others misbehave: an answer, soon.
fn others_are_served(server: &Server) {
    let began = Instant::now();
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "well", "behaved"]), "+OK\r\n");
    ask(&mut client, resp(&["GET", "well"]), bulk("behaved"));
    assert!(began.elapsed() < Duration::from_secs(2), "others waited {:?}", began.elapsed());
}

/// Number 9 of the bad inputs.
#[test]
fn a_client_that_pipelines_and_never_reads_is_no_longer_read_from() {
    let server = Server::start(&["--output-soft", "256KiB", "--memory", "1GiB"]);
    let value = "x".repeat(10_000);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", &value]), "+OK\r\n");
    let before = server.resident_bytes();
    // A million commands, of which the kernel's buffers take what they can.
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let command = resp(&["GET", "k"]);
    let block = command.repeat(1000);
    let mut sent = 0;
    for _ in 0..1000 {
        // A write may end inside a command; the next one goes on there.
        match client.write(&block[sent % block.len()..]) {
            Ok(n) => sent += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("closed below the hard limit: {error}"),
        }
    }
    assert!(sent < 1000 * block.len(), "somebody took a million commands and 10 GB of replies");
    server.metric_becomes("foreshadow_backpressure_total", |times| times > 0.0);
    others_are_served(&server);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
    // When it reads after all, every reply is there and right.
    for _ in 0..sent / command.len() {
        expect(&mut client, bulk(&value));
    }
    drop(client);
    server.metric_becomes("foreshadow_connections", |connections| connections == 0.0);
}

/// The hard limit is for output that piles up; one reply may be as long as a value, whichever core owns it.
#[test]
fn one_reply_may_be_longer_than_the_hard_limit() {
    let server = Server::start(&["--output-soft", "64KiB", "--output-hard", "256KiB", "--memory", "256MiB"]);
    let mut client = server.connect();
    let value = "x".repeat(1_000_000);
    for key in ["a", "b", "c", "d", "e", "f"] {
        ask(&mut client, resp(&["SET", key, &value]), "+OK\r\n");
        ask(&mut client, resp(&["GET", key]), bulk(&value));
    }
    // Six of them at once come one after the other, as the client reads.
    client.write_all(&resp(&["MGET", "a", "b", "c", "d", "e", "f"])).unwrap();
    expect(&mut client, "*6\r\n");
    (0..6).for_each(|_| expect(&mut client, bulk(&value)));
    assert_eq!(server.metric("foreshadow_connections_dropped_total"), 0.0);
}

/// Number 10.
#[test]
fn the_longest_values_come_whole_to_one_who_reads_slowly_and_asks_on() {
    // As long as the value that a limit of 64 MiB allows: the buffer that it is sent from counts once.
    let server = Server::start(&["--memory", "64MiB", "--cores", "0"]);
    let value = "v".repeat(6_000_000);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "long", &value]), "+OK\r\n");
    let gets = [
        (resp(&["GET", "long"]), bulk(&value), resp(&["PING"]), "+PONG\r\n"),
        (
            b"get long\r\n".to_vec(),
            format!("VALUE long 0 6000000\r\n{value}\r\nEND\r\n"),
            b"mn\r\n".to_vec(),
            "MN\r\n",
        ),
    ];
    for (get, reply, more, last) in gets {
        let mut client = server.connect();
        client.write_all(&get).expect("sent");
        let (first, behind) = reply.split_at(64 << 10);
        expect(&mut client, first);
        client.write_all(&more).expect("sent");
        expect(&mut client, [behind, last].concat());
    }
}

#[test]
fn slow_headers_are_closed_at_the_deadline_and_accepting_goes_on() {
    let (soft, hard) = rlimit::getrlimit(Resource::NOFILE).unwrap();
    let _ = rlimit::setrlimit(Resource::NOFILE, hard.min(24_000), hard);
    let count = (soft.max(hard.min(24_000)).saturating_sub(500)).min(10_000);
    let most = (count + 100).to_string();
    let server = Server::start(&["--command-timeout", "1s", "--max-clients", &most]);
    let mut slow = Vec::new();
    for i in 0..count {
        let mut client = connect(server.listen);
        client.write_all(if i % 2 == 0 { b"*3\r\n$3\r\nSE" } else { b"set k 0 0 10\r\nabc" }).unwrap();
        slow.push(client);
    }
    others_are_served(&server);
    for mut client in slow {
        let said = rest(&mut client);
        assert!(
            said.is_empty() || said.starts_with(b"-ERR") || said.starts_with(b"CLIENT_ERROR"),
            "{said:?}"
        );
    }
    server.metric_becomes("foreshadow_connections_dropped_total", |dropped| dropped >= count as f64);
    others_are_served(&server);
}

/// Number 10, where the bytes are consumed as they come: what is swallowed, and the keys of a long line.
#[test]
fn slow_senders_of_what_is_not_kept_are_closed_at_the_deadline_too() {
    let server = Server::start(&["--command-timeout", "1s", "--item-size", "1MiB"]);
    let begins: [&[u8]; 3] =
        [b"set k 0 0 5000000\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000000\r\n", b"get "];
    let clients = begins.map(|bytes| {
        let mut client = server.connect();
        client.write_all(bytes).unwrap();
        client
    });
    // The long line has to be longer than lines are before it is taken key by key.
    (&clients[2]).write_all(&b"k ".repeat(4000)).unwrap();
    let began = Instant::now();
    server.metric_becomes("foreshadow_connections_dropped_total", |dropped| {
        for mut client in &clients {
            // One that is closed already says so by an error, which is what is waited for.
            let _ = client.write_all(b"x ");
        }
        dropped >= 3.0
    });
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    others_are_served(&server);
}

/// Number 9, over the mesh: long values of another core that nobody reads cost neither memory without bound nor time.
#[test]
fn long_replies_from_another_core_are_bounded_and_stall_nobody() {
    let server = Server::start(&["--memory", "1GiB", "--cores", "0,1", "--output-soft", "16MiB"]);
    let value = "x".repeat(4_000_000);
    let mut client = server.connect();
    for key in 0..8 {
        ask(&mut client, resp(&["SET", &format!("long:{key}"), &value]), "+OK\r\n");
    }
    let before = server.resident_bytes();
    let mut greedy: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut greedy {
        for key in 0..8 {
            client.write_all(&resp(&["GET", &format!("long:{key}")]).repeat(32)).unwrap();
        }
    }
    let mut worst = Duration::ZERO;
    for _ in 0..100 {
        let began = Instant::now();
        ask(&mut client, resp(&["PING"]), "+PONG\r\n");
        worst = worst.max(began.elapsed());
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "grew by {} MiB", grown >> 20);
    assert!(worst < Duration::from_millis(1500), "another client waited {worst:?}");
}

/// Number 21, over the wire: such a client is not waited for.
#[test]
fn a_stranger_who_floods_and_never_reads_is_gone_at_once() {
    let mut command = crate::support::serve_command(&[]);
    command.env("FORESHADOW_PASSWORD", "sesame");
    let server = Server::of_command(command);
    let mut stranger = server.connect();
    let began = Instant::now();
    let block = b"GET k\r\n".repeat(10_000);
    while stranger.write_all(&block).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "it is still listened to");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// What a native stranger is told before the server closes, as status and opcode. Sent at once, read to the end.
fn told_to_a_stranger(server: &Server, bytes: &[u8]) -> Vec<(Status, u8)> {
    let mut stranger = server.connect();
    stranger.write_all(bytes).unwrap();
    let said = rest(&mut stranger);
    let (mut left, mut told) = (said.as_slice(), Vec::new());
    while !left.is_empty() {
        match decode_reply(left) {
            Ok(Decoded::Reply { reply, len }) => {
                told.push((reply.status, reply.opcode));
                left = &left[len..];
            }
            other => panic!("no whole reply: {other:?}"),
        }
    }
    told
}

/// Sections 4.2 and 6.3 of the native protocol. Once, the connection was cut before anything was sent.
#[test]
fn a_native_stranger_is_told_why_before_the_connection_is_cut() {
    let mut command = crate::support::serve_command(&[]);
    command.env("FORESHADOW_PASSWORD", "sesame");
    let server = Server::of_command(command);
    for _ in 0..20 {
        let mut wrong = Vec::new();
        for id in 0..4 {
            Request::Auth { user: b"", password: b"wrong" }.encode(id, false, &mut wrong);
        }
        let denied = (Status::DENIED, Opcode::Auth as u8);
        assert_eq!(told_to_a_stranger(&server, &wrong), [denied; 3], "the third closes");
        let mut long = Vec::new();
        Request::Get(&[b'k'; 20_000]).encode(1, false, &mut long);
        assert_eq!(told_to_a_stranger(&server, &long), [(Status::FRAME_SIZE, 0)]);
        assert_eq!(
            told_to_a_stranger(&server, &long[..16]),
            [(Status::FRAME_SIZE, 0)],
            "by the header alone"
        );
    }
    // The same for those who speak text.
    let mut stranger = server.connect();
    stranger.write_all(b"set x 0 0 20000\r\n").unwrap();
    assert_eq!(String::from_utf8_lossy(&rest(&mut stranger)), "CLIENT_ERROR unauthenticated\r\n");
}

/// A client that has nothing to say may stay.
#[test]
fn an_idle_connection_is_not_a_slow_one() {
    let server = Server::start(&["--command-timeout", "200ms"]);
    let mut idle = server.connect();
    ask(&mut idle, "PING\r\n", "+PONG\r\n");
    let mut slow = server.connect();
    slow.write_all(b"*1\r\n$4\r\nPI").unwrap();
    rest(&mut slow);
    ask(&mut idle, "PING\r\n", "+PONG\r\n");
}

/// Number 17.
#[test]
fn an_http_request_on_a_data_port_is_closed_with_one_log_line() {
    let server = Server::start(&[]);
    let before = server.logged().lines().count();
    let mut browser = server.connect();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: localhost:7400\r\nAccept: */*\r\n\r\n").unwrap();
    let said = rest(&mut browser);
    assert!(!said.starts_with(b"-ERR") && !said.starts_with(b"$"), "{said:?}");
    eventually("the log line", || server.logged().to_lowercase().contains("http").then_some(()));
    assert_eq!(server.logged().lines().count(), before + 1, "{}", server.logged());
    others_are_served(&server);
}

/// Number 18.
#[test]
fn a_tls_hello_on_a_plain_port_is_closed() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]).unwrap();
    assert_eq!(rest(&mut client), b"");
    others_are_served(&server);
}

/// Number 27: whatever way a client goes, its place is free at once.
#[test]
fn connections_closed_or_reset_anywhere_are_freed() {
    let server = Server::start(&[]);
    // The gauge counts receive buffers, which stay.
    let idle_bytes = server.idle_buffer_bytes();
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "big", &"x".repeat(1_000_000)]), "+OK\r\n");
    drop(client);
    let ways: [&[u8]; 6] = [
        b"",
        b"*2\r\n$3\r\nGET\r\n",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1000000\r\nxxxxxxxx",
        b"set key 0 0 100000\r\nxxxx",
        b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n",
        b"get big\r\nget big\r\nget big\r\n",
    ];
    for _ in 0..20 {
        for bytes in ways {
            for reset in [false, true] {
                let mut client = server.connect();
                client.write_all(bytes).unwrap();
                if reset {
                    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
        }
    }
    server.metric_becomes("foreshadow_connections", |connections| connections == 0.0);
    server.metric_becomes("foreshadow_buffer_bytes", |bytes| bytes <= idle_bytes);
    let mut client = server.connect();
    ask(&mut client, resp(&["EXISTS", "key"]), ":0\r\n");
}

/// Number 27: a client that has said all it has to say still gets its replies.
#[test]
fn a_half_closed_connection_gets_all_its_replies() {
    let server = Server::start(&[]);
    let value = "x".repeat(50_000);
    ask(&mut server.connect(), resp(&["SET", "k", &value]), "+OK\r\n");
    let mut client = server.connect();
    client.write_all(&resp(&["GET", "k"]).repeat(100)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut client) == bulk(&value).repeat(100).as_bytes(), "100 whole replies and the end");
    let mut cut = server.connect();
    cut.write_all(b"PING\r\n*1\r\n$4\r\nPI").unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut cut), b"+PONG\r\n", "what was whole is answered, what was cut is not");
}

/// Number 28.
#[test]
fn out_of_file_descriptors_accepting_backs_off_without_spinning_and_comes_back() {
    // Descriptors that the process inherits are more than pre-flight leaves room for: it runs out before --max-clients.
    let mut command = serve_command(&["--max-clients", "200"]);
    let inherit = || {
        // SAFETY: plain system calls on numbers and a live rlimit.
        unsafe {
            let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
            let failed = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
                || (0..250).any(|_| libc::dup(2) < 0);
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        }
    };
    // SAFETY: between fork and exec only setrlimit and dup are called.
    unsafe { command.pre_exec(inherit) };
    let server = Server::of_command(command);
    let mut first = server.connect();
    ask(&mut first, "PING\r\n", "+PONG\r\n");
    // Asking for metrics takes a descriptor too: it cannot be done until some are free again.
    let mut clients: VecDeque<TcpStream> = (0..190).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"PING\r\n").unwrap();
    }
    ask(&mut first, "PING\r\n", "+PONG\r\n");
    let cpu = server.cpu_time();
    // Not a wait for something: the second is what is measured.
    std::thread::sleep(Duration::from_secs(1));
    let spent = server.cpu_time() - cpu;
    assert!(spent < Duration::from_millis(300), "{spent:?} of CPU in a second of waiting");
    ask(&mut first, "PING\r\n", "+PONG\r\n");
    // Those that were accepted leave, until all had their turn.
    let mut served = 0;
    while let Some(mut client) = clients.pop_front() {
        expect(&mut client, "+PONG\r\n");
        served += 1;
    }
    assert_eq!(served, 190);
    server.metric_becomes("foreshadow_accept_backoffs_total", |times| times > 0.0);
}

#[test]
fn clients_beyond_the_most_are_told_so_and_a_place_that_falls_free_is_taken() {
    let server = Server::start(&["--max-clients", "20"]);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| ask(client, "PING\r\n", "+PONG\r\n"));
    let mut refused = server.connect();
    assert_eq!(rest(&mut refused), b"-ERR max number of clients reached\r\n");
    server.metric_becomes("foreshadow_connections_rejected_total", |count| count == 1.0);
    clients.pop();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect();
        client.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        if client.read_exact(&mut reply).is_ok() && &reply == b"+PONG\r\n" {
            break;
        }
        assert!(Instant::now() < deadline, "the free place is never given");
    }
}

#[test]
fn a_protocol_error_closes_its_own_connection_only() {
    let server = Server::start(&[]);
    let mut bystander = server.connect();
    ask(&mut bystander, "PING\r\n", "+PONG\r\n");
    for (bytes, reply) in [
        ("*2147483648\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n$9999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*1\r\nGET\r\n", "-ERR Protocol error: expected '$', got 'G'\r\n"),
    ] {
        let mut client = server.connect();
        client.write_all(resp(&["SET", "before", "it"]).as_slice()).unwrap();
        client.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest(&mut client)), format!("+OK\r\n{reply}"));
    }
    let mut client = server.connect();
    client.write_all(&b"PING\r\n"[..].repeat(3)).unwrap();
    client.write_all(&[b'x'; 70_000]).unwrap();
    let said = rest(&mut client);
    let expected = "+PONG\r\n+PONG\r\n+PONG\r\n-ERR Protocol error: too big inline request\r\n";
    assert_eq!(String::from_utf8_lossy(&said), expected);
    ask(&mut bystander, "PING\r\n", "+PONG\r\n");
}
