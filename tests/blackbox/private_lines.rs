//! What clients have of their own at a Redis origin: commands that wait there, keys watched there, channels subscribed to there.
//! With real servers; replies are those of the origin itself.

use crate::origin_faults::tempfile;
use crate::origins::{Peer, redis_like, serve, tell};
use crate::support::{Server, ask, bulk, connect, eventually, expect, resp};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Servers that an application may have behind us.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];

/// A server in front of a Redis that does not tell of changes: what is forgotten, we forget ourselves. Its questions have
/// little time.
fn before(peer: &Peer) -> (Server, tempfile::Config) {
    before_with(peer, &[])
}

fn before_with(peer: &Peer, flags: &[&str]) -> (Server, tempfile::Config) {
    serve(
        &format!(
            "[origin.r]\nurl = \"redis://127.0.0.1:{}\"\ntrack = false\ntimeout = \"400ms\"\nprivate-connections = 40\n\
             [keyspace.all]\nprefix = \"\"\norigin = \"r\"\nfresh = \"1h\"\nnegative = \"1h\"\n",
            peer.port
        ),
        flags,
    )
}

fn direct(peer: &Peer) -> TcpStream {
    connect(([127, 0, 0, 1], peer.port).into())
}

/// An array of bulk strings.
fn array(words: &[&str]) -> String {
    let bulks: Vec<String> = words.iter().map(|word| bulk(word)).collect();
    format!("*{}\r\n{}", words.len(), bulks.concat())
}

/// A field of the origin's `INFO clients`.
fn info(origin: &mut TcpStream, field: &str) -> u64 {
    origin.write_all(&resp(&["INFO", "clients"])).expect("sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n") {
        origin.read_exact(&mut byte).expect("answered");
        head.push(byte[0]);
    }
    let len: usize = std::str::from_utf8(&head[1..head.len() - 2]).unwrap().parse().expect("a length");
    let mut text = vec![0; len + 2];
    origin.read_exact(&mut text).expect("answered");
    let text = String::from_utf8(text).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("a field").trim().parse().expect("a number")
}

fn blocked(origin: &mut TcpStream, wanted: u64) {
    eventually("blocked clients", || (info(origin, "blocked_clients") == wanted).then_some(()));
}

#[test]
fn commands_that_wait_for_others_do_so_on_a_connection_of_their_own() {
    for name in NAMES {
        let Some(peer) = redis_like(name) else { continue };
        let (server, _config) = before_with(&peer, &["--cores=0"]);
        let mut origin = direct(&peer);
        let mut other = server.connect();
        for (waits, pushes, reply) in [
            (vec!["BLPOP", "l1", "l2", "0"], vec!["RPUSH", "l2", "x"], array(&["l2", "x"])),
            (vec!["BRPOP", "l1", "30"], vec!["RPUSH", "l1", "y"], array(&["l1", "y"])),
            (vec!["BLMOVE", "l1", "to", "LEFT", "RIGHT", "0"], vec!["RPUSH", "l1", "z"], bulk("z")),
            (vec!["BRPOPLPUSH", "l1", "to", "0"], vec!["RPUSH", "l1", "z"], bulk("z")),
            (
                vec!["BLMPOP", "0", "1", "l1", "LEFT"],
                vec!["RPUSH", "l1", "w"],
                format!("*2\r\n{}{}", bulk("l1"), array(&["w"])),
            ),
            (vec!["BZPOPMIN", "z1", "0"], vec!["ZADD", "z1", "1", "m"], array(&["z1", "m", "1"])),
            (
                vec!["XREAD", "BLOCK", "0", "STREAMS", "s1", "$"],
                vec!["XADD", "s1", "1-1", "f", "v"],
                format!("*1\r\n*2\r\n{}*1\r\n*2\r\n{}{}", bulk("s1"), bulk("1-1"), array(&["f", "v"])),
            ),
        ] {
            let mut client = server.connect();
            client.write_all(&resp(&waits)).expect("sent");
            // What it sends behind that waits its turn.
            client.write_all(&resp(&["PING"])).expect("sent");
            blocked(&mut origin, 1);
            // Nobody else is held up, by whatever way.
            tell(&mut other, &["HSET", "h", "f", "v"], ":1\r\n");
            tell(&mut other, &["HDEL", "h", "f"], ":1\r\n");
            tell(&mut other, &["SET", "k", "v"], "+OK\r\n");
            other.write_all(&resp(&pushes)).expect("sent");
            let mut one = [0; 1];
            other.read_exact(&mut one).expect("answered");
            if one == *b"$" {
                expect(&mut other, "3\r\n1-1\r\n");
            } else {
                let mut rest = [0; 3];
                other.read_exact(&mut rest).expect("answered");
                assert_eq!(one, *b":");
            }
            expect(&mut client, [reply.as_str(), "+PONG\r\n"].concat());
        }
        // All of them, one after the other, took one connection.
        server.metric_becomes("foreshadow_origin_private_connections", |n| n == 1.0);
        assert_eq!(server.metric("foreshadow_origin_blocked"), 0.0);
    }
}

#[test]
fn a_wait_ends_by_its_own_timeout_and_not_by_the_origins_deadline() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let (mut client, mut other) = (server.connect(), server.connect());
    let begin = Instant::now();
    tell(&mut client, &["BLPOP", "l", "1.2"], "*-1\r\n");
    assert!(begin.elapsed() >= Duration::from_millis(1150), "{:?}", begin.elapsed());
    let begin = Instant::now();
    client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
    let mut origin = direct(&peer);
    blocked(&mut origin, 1);
    // Twice the origin's deadline and more: that this time passes and the wait goes on is what is tested, and so is that others
    // are served all the while, now and then.
    while begin.elapsed() < Duration::from_millis(1000) {
        tell(&mut other, &["GET", "none"], "$-1\r\n");
        std::thread::sleep(Duration::from_millis(20));
    }
    tell(&mut other, &["RPUSH", "l", "x"], ":1\r\n");
    expect(&mut client, array(&["l", "x"]));
    // What is malformed is refused in the origin's words, at once.
    tell(&mut client, &["BLPOP", "l", "soon"], "-ERR timeout is not a float or out of range\r\n");
    tell(&mut client, &["BLPOP", "l", "-1"], "-ERR timeout is negative\r\n");
    tell(&mut client, &["BLPOP", "l"], "-ERR wrong number of arguments for 'blpop' command\r\n");
    tell(&mut client, &["PING"], "+PONG\r\n");
}

#[test]
fn what_a_wait_moves_is_read_as_it_is_by_everybody_when_it_is_answered() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let (mut client, mut other) = (server.connect(), server.connect());
    let mut readers: Vec<TcpStream> = (0..6).map(|_| server.connect()).collect();
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    for round in 0..20 {
        let (from, to) = (format!("from{round}"), format!("to{round}"));
        for reader in &mut readers {
            tell(reader, &["GET", &to], "$-1\r\n");
        }
        client.write_all(&resp(&["BLMOVE", &from, &to, "LEFT", "LEFT", "0"])).expect("sent");
        tell(&mut other, &["RPUSH", &from, "x"], ":1\r\n");
        expect(&mut client, bulk("x"));
        // That it was absent is known to nobody any more.
        for reader in &mut readers {
            tell(reader, &["GET", &to], wrong);
        }
    }
}

#[test]
fn a_client_that_leaves_frees_what_waits_for_it_at_the_origin() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut origin = direct(&peer);
    let at_rest = info(&mut origin, "connected_clients");
    let mut clients: Vec<TcpStream> = (0..30).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
    }
    blocked(&mut origin, 30);
    server.metric_becomes("foreshadow_origin_blocked", |n| n == 30.0);
    server.metric_becomes("foreshadow_blocked_clients", |n| n == 30.0);
    // By closing, by saying no more, and by being closed.
    let mut admin = server.connect();
    for (i, client) in clients.iter().enumerate() {
        match i % 3 {
            0 => client.shutdown(std::net::Shutdown::Both).expect("open"),
            1 => client.shutdown(std::net::Shutdown::Write).expect("open"),
            _ => {
                let address = client.local_addr().expect("connected").to_string();
                tell(&mut admin, &["CLIENT", "KILL", &address], "+OK\r\n");
            }
        }
    }
    blocked(&mut origin, 0);
    eventually("connections end", || (info(&mut origin, "connected_clients") <= at_rest + 6).then_some(()));
    // Who is not there takes nothing.
    let mut other = server.connect();
    tell(&mut other, &["RPUSH", "l", "x"], ":1\r\n");
    tell(&mut other, &["LLEN", "l"], ":1\r\n");
    server.metric_becomes("foreshadow_origin_private_connections", |n| n == 0.0);
}

#[test]
fn a_client_who_waits_at_the_origin_is_unblocked_as_it_does_that() {
    for name in NAMES {
        let Some(peer) = redis_like(name) else { continue };
        let (server, _config) = before(&peer);
        let (mut admin, mut origin) = (server.connect(), direct(&peer));
        let unblocked = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
        for (protocol, null) in [("2", "*-1\r\n"), ("3", "_\r\n")] {
            // Connections land on either core, the one who asks on one of them.
            let mut clients: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
            for client in &mut clients {
                speak(client, protocol);
                let id = number(client, &["CLIENT", "ID"]).to_string();
                for (waits, word, reply) in [
                    (vec!["BLPOP", "l", "0"], None, null),
                    (vec!["BZPOPMIN", "z", "0"], Some("TIMEOUT"), null),
                    (vec!["XREAD", "BLOCK", "0", "STREAMS", "s", "$"], Some("timeout"), null),
                    (vec!["BLPOP", "l", "0"], Some("ERROR"), unblocked),
                    (vec!["WAIT", "1", "0"], None, ":0\r\n"),
                ] {
                    client.write_all(&resp(&waits)).expect("sent");
                    blocked(&mut origin, 1);
                    let mut command = vec!["CLIENT", "UNBLOCK", &id];
                    command.extend(word);
                    tell(&mut admin, &command, ":1\r\n");
                    expect(client, reply);
                    // Whoever waits for nothing stays as it is.
                    tell(&mut admin, &command, ":0\r\n");
                    tell(client, &["PING"], "+PONG\r\n");
                }
                tell(client, &["CLIENT", "UNBLOCK", &id], ":0\r\n");
            }
        }
        tell(&mut admin, &["CLIENT", "UNBLOCK", "999999"], ":0\r\n");
        tell(
            &mut admin,
            &["CLIENT", "UNBLOCK", "1", "SOON"],
            "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n",
        );
        tell(&mut admin, &["CLIENT", "UNBLOCK", "x"], "-ERR value is not an integer or out of range\r\n");
    }
}

#[test]
fn nothing_that_was_popped_is_lost_when_its_client_is_unblocked() {
    const ROUNDS: usize = 200;
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let (mut admin, mut pusher, mut client) = (server.connect(), server.connect(), server.connect());
    let id = number(&mut client, &["CLIENT", "ID"]).to_string();
    let mut popped = 0;
    for _ in 0..ROUNDS {
        // All three at once: whichever the origin does first, each element is with the client or still there.
        client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
        pusher.write_all(&resp(&["RPUSH", "l", "x"])).expect("sent");
        admin.write_all(&resp(&["CLIENT", "UNBLOCK", &id])).expect("sent");
        let unblocked = line(&mut admin) == ":1";
        assert!(line(&mut pusher).starts_with(':'));
        match line(&mut client).as_str() {
            "*2" => {
                expect(&mut client, [bulk("l"), bulk("x")].concat());
                popped += 1;
                assert!(!unblocked, "it was not blocked any more");
            }
            "*-1" => assert!(unblocked, "nobody else ends it"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(popped + number(&mut pusher, &["LLEN", "l"]) as usize, ROUNDS);
}

/// The next line, without its end.
fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).expect("answered");
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("text").trim().to_owned()
}

/// A reply that is a number.
fn number(stream: &mut TcpStream, words: &[&str]) -> u64 {
    stream.write_all(&resp(words)).expect("sent");
    line(stream).trim_start_matches(':').parse().expect("a number")
}

#[test]
fn too_many_who_wait_are_told_so() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = serve(
        &format!(
            "[origin.r]\nurl = \"redis://127.0.0.1:{}\"\nprivate-connections = 3\n\
             [keyspace.all]\nprefix = \"\"\norigin = \"r\"\n",
            peer.port
        ),
        &["--cores=0"],
    );
    let mut origin = direct(&peer);
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
    }
    blocked(&mut origin, 3);
    // Even then one of them can be unblocked; and waits again.
    let id = {
        let mut list = server.connect();
        list.write_all(&resp(&["CLIENT", "LIST"])).expect("sent");
        let address = format!(" addr={} ", waiting[0].local_addr().expect("connected"));
        let head = line(&mut list);
        let mut text = vec![0; head[1..].parse::<usize>().expect("a length") + 2];
        list.read_exact(&mut text).expect("answered");
        let text = String::from_utf8(text).expect("text");
        let own = text.lines().find(|line| line.contains(&address)).expect("it is listed");
        own.split(' ').find_map(|field| field.strip_prefix("id=")).expect("an id").to_owned()
    };
    let mut admin = server.connect();
    tell(&mut admin, &["CLIENT", "UNBLOCK", &id], ":1\r\n");
    expect(&mut waiting[0], "*-1\r\n");
    waiting[0].write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
    blocked(&mut origin, 3);
    let crowded = "too many clients have a connection of their own to the origin";
    let mut client = server.connect();
    client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
    let unsure = "; nobody knows whether it did this\r\n";
    expect(&mut client, format!("-ERR {crowded}{unsure}"));
    // A watch that did not come about is not relied on.
    ask(&mut client, resp(&["WATCH", "k"]), format!("-ERR {crowded}\r\n"));
    tell(&mut client, &["MULTI"], "+OK\r\n");
    tell(&mut client, &["SET", "k", "v"], "+QUEUED\r\n");
    ask(&mut client, resp(&["EXEC"]), format!("-ERR the origin closed the connection{unsure}"));
    tell(&mut client, &["GET", "k"], "$-1\r\n");
}

/// Switches a connection to a version of the protocol and takes what it says about that.
fn speak(stream: &mut TcpStream, protocol: &str) {
    stream.write_all(&resp(&["HELLO", protocol])).expect("sent");
    stream.write_all(&resp(&["ECHO", "mark"])).expect("sent");
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(bulk("mark").as_bytes()) {
        stream.read_exact(&mut byte).expect("answered");
        bytes.push(byte[0]);
    }
}

#[test]
fn watched_keys_are_watched_at_the_origin_and_what_is_read_meanwhile_is_its_own() {
    for name in NAMES {
        let Some(peer) = redis_like(name) else { continue };
        let (server, _config) = before(&peer);
        let (mut other, mut origin) = (server.connect(), direct(&peer));
        for (protocol, null) in [("2", "*-1\r\n"), ("3", "_\r\n")] {
            let mut client = server.connect();
            speak(&mut client, protocol);
            tell(
                &mut client,
                &["DEL", "k", "h"],
                ":0\r\n".replace('0', if protocol == "2" { "0" } else { "2" }),
            );
            tell(&mut client, &["SET", "k", "1"], "+OK\r\n");
            tell(&mut client, &["GET", "k"], bulk("1"));
            // Changed behind our back: what we hold is old, and what a watcher reads must not be.
            tell(&mut origin, &["SET", "k", "2"], "+OK\r\n");
            tell(&mut client, &["GET", "k"], bulk("1"));
            tell(&mut client, &["WATCH", "k"], "+OK\r\n");
            tell(&mut client, &["GET", "k"], bulk("2"));
            tell(
                &mut client,
                &["MGET", "k", "none"],
                format!("*2\r\n{}{}", bulk("2"), if protocol == "2" { "$-1\r\n" } else { "_\r\n" }),
            );
            tell(&mut client, &["MULTI"], "+OK\r\n");
            tell(&mut client, &["SET", "k", "3"], "+QUEUED\r\n");
            tell(&mut client, &["HSET", "h", "f", "v"], "+QUEUED\r\n");
            tell(&mut client, &["PING"], "+QUEUED\r\n");
            tell(&mut client, &["EXEC"], "*3\r\n+OK\r\n:1\r\n+PONG\r\n");
            tell(&mut other, &["GET", "k"], bulk("3"));
            // A change in between, by whatever way, voids it.
            for by_us in [true, false] {
                tell(&mut client, &["WATCH", "k", "other"], "+OK\r\n");
                let writer = if by_us { &mut other } else { &mut origin };
                tell(writer, &["SET", "other", "x"], "+OK\r\n");
                tell(&mut client, &["MULTI"], "+OK\r\n");
                tell(&mut client, &["SET", "k", "lost"], "+QUEUED\r\n");
                tell(&mut client, &["EXEC"], null);
                tell(&mut origin, &["GET", "k"], bulk("3"));
            }
            // UNWATCH, DISCARD and a transaction that is given up let go of what is watched.
            for ends in [vec!["UNWATCH"], vec!["MULTI", "DISCARD"], vec!["MULTI", "EXEC"]] {
                tell(&mut client, &["WATCH", "k"], "+OK\r\n");
                tell(&mut origin, &["SET", "k", "4"], "+OK\r\n");
                for word in &ends {
                    tell(&mut client, &[word], if *word == "EXEC" { null } else { "+OK\r\n" });
                }
                tell(&mut client, &["MULTI"], "+OK\r\n");
                tell(&mut client, &["SET", "k", "3"], "+QUEUED\r\n");
                tell(&mut client, &["EXEC"], "*1\r\n+OK\r\n");
            }
            tell(&mut client, &["WATCH", "k"], "+OK\r\n");
            tell(&mut client, &["MULTI"], "+OK\r\n");
            tell(&mut client, &["WATCH", "k"], "-ERR WATCH inside MULTI is not allowed\r\n");
            tell(&mut client, &["GET"], "-ERR wrong number of arguments for 'get' command\r\n");
            tell(&mut client, &["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n");
            tell(&mut origin, &["SET", "k", "5"], "+OK\r\n");
            tell(&mut client, &["MULTI"], "+OK\r\n");
            tell(&mut client, &["INCR", "k"], "+QUEUED\r\n");
            tell(&mut client, &["EXEC"], "*1\r\n:6\r\n");
            // While nothing is watched, the cache serves again.
            tell(&mut client, &["GET", "k"], bulk("6"));
            tell(&mut origin, &["SET", "k", "7"], "+OK\r\n");
            tell(&mut client, &["GET", "k"], bulk("6"));
            tell(&mut client, &["INVALIDATE", "KEY", "k"], ":1\r\n");
        }
    }
}

#[test]
fn counters_that_are_watched_and_set_by_many_lose_nothing() {
    const CLIENTS: usize = 6;
    const EACH: usize = 25;
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut first = server.connect();
    tell(&mut first, &["SET", "n", "0"], "+OK\r\n");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = server.connect();
            std::thread::spawn(move || {
                for _ in 0..EACH {
                    loop {
                        tell(&mut stream, &["WATCH", "n"], "+OK\r\n");
                        stream.write_all(&resp(&["GET", "n"])).expect("sent");
                        line(&mut stream);
                        let number: u64 = line(&mut stream).parse().expect("a number");
                        tell(&mut stream, &["MULTI"], "+OK\r\n");
                        tell(&mut stream, &["SET", "n", &(number + 1).to_string()], "+QUEUED\r\n");
                        stream.write_all(&resp(&["EXEC"])).expect("sent");
                        if line(&mut stream) == "*1" {
                            assert_eq!(line(&mut stream), "+OK");
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("all done"));
    tell(&mut first, &["GET", "n"], bulk(&(CLIENTS * EACH).to_string()));
}

#[test]
fn keys_that_were_watched_by_a_connection_that_broke_are_not_relied_on() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let (mut client, mut origin) = (server.connect(), direct(&peer));
    tell(&mut client, &["SET", "k", "1"], "+OK\r\n");
    tell(&mut client, &["WATCH", "k"], "+OK\r\n");
    // All of ours, and not this one.
    origin.write_all(&resp(&["CLIENT", "KILL", "TYPE", "normal"])).expect("sent");
    let mut head = [0; 1];
    origin.read_exact(&mut head).expect("answered");
    assert_eq!(&head, b":");
    server.metric_becomes("foreshadow_origin_private_connections", |n| n == 0.0);
    tell(&mut client, &["MULTI"], "+OK\r\n");
    tell(&mut client, &["SET", "k", "2"], "+QUEUED\r\n");
    client.write_all(&resp(&["EXEC"])).expect("sent");
    expect(&mut client, "-ERR the origin closed the connection; nobody knows whether it did this\r\n");
    tell(&mut client, &["GET", "k"], bulk("1"));
    // From then on all is as ever.
    tell(&mut client, &["WATCH", "k"], "+OK\r\n");
    tell(&mut client, &["MULTI"], "+OK\r\n");
    tell(&mut client, &["SET", "k", "2"], "+QUEUED\r\n");
    tell(&mut client, &["EXEC"], "*1\r\n+OK\r\n");
}

/// What a subscriber is told, in its version of the protocol.
fn told(protocol: &str, parts: &[&str], count: Option<u32>) -> String {
    let mark = if protocol == "3" { '>' } else { '*' };
    let bulks: Vec<String> = parts.iter().map(|part| bulk(part)).collect();
    let count = count.map(|count| format!(":{count}\r\n"));
    let len = bulks.len() + usize::from(count.is_some());
    format!("{mark}{len}\r\n{}{}", bulks.concat(), count.unwrap_or_default())
}

#[test]
fn what_is_published_at_the_origin_reaches_who_subscribes_here_and_the_reverse() {
    for name in NAMES {
        let Some(peer) = redis_like(name) else { continue };
        let (server, _config) = before(&peer);
        let (mut publisher, mut origin) = (server.connect(), direct(&peer));
        for protocol in ["2", "3"] {
            let mut client = server.connect();
            speak(&mut client, protocol);
            client.write_all(&resp(&["SUBSCRIBE", "news", "more"])).expect("sent");
            expect(&mut client, told(protocol, &["subscribe", "news"], Some(1)));
            expect(&mut client, told(protocol, &["subscribe", "more"], Some(2)));
            client.write_all(&resp(&["PSUBSCRIBE", "n*"])).expect("sent");
            expect(&mut client, told(protocol, &["psubscribe", "n*"], Some(3)));
            tell(&mut publisher, &["PUBLISH", "news", "one"], ":2\r\n");
            tell(&mut origin, &["PUBLISH", "more", "two"], ":1\r\n");
            expect(&mut client, told(protocol, &["message", "news", "one"], None));
            expect(&mut client, told(protocol, &["pmessage", "n*", "news", "one"], None));
            expect(&mut client, told(protocol, &["message", "more", "two"], None));
            tell(&mut publisher, &["PUBSUB", "NUMSUB", "news"], format!("*2\r\n{}:1\r\n", bulk("news")));
            if protocol == "3" {
                // Commands go on, theirs and ours, whatever is published meanwhile.
                tell(&mut client, &["SET", "k", "v"], "+OK\r\n");
                tell(&mut client, &["HSET", "h", "f", "v"], ":1\r\n");
                client.write_all(&resp(&["BLPOP", "l", "0"])).expect("sent");
                let mut look = direct(&peer);
                blocked(&mut look, 1);
                tell(&mut publisher, &["RPUSH", "l", "x"], ":1\r\n");
                expect(&mut client, array(&["l", "x"]));
                tell(&mut client, &["DEL", "h"], ":1\r\n");
                tell(
                    &mut client,
                    &["HELLO", "2"],
                    "-ERR the protocol cannot be changed while keys of an origin are watched or its channels heard\r\n",
                );
            } else {
                let only = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
                for name in ["get", "hget", "blpop"] {
                    let refused = format!("-ERR Can't execute '{name}': {only}\r\n");
                    ask(&mut client, resp(&[name, "k", "0"][..if name == "get" { 2 } else { 3 }]), refused);
                }
                tell(&mut client, &["PING"], format!("*2\r\n{}{}", bulk("pong"), bulk("")));
            }
            client.write_all(&resp(&["UNSUBSCRIBE", "news"])).expect("sent");
            expect(&mut client, told(protocol, &["unsubscribe", "news"], Some(2)));
            client.write_all(&resp(&["PUNSUBSCRIBE"])).expect("sent");
            expect(&mut client, told(protocol, &["punsubscribe", "n*"], Some(1)));
            tell(&mut publisher, &["PUBLISH", "news", "three"], ":0\r\n");
            client.write_all(&resp(&["UNSUBSCRIBE"])).expect("sent");
            expect(&mut client, told(protocol, &["unsubscribe", "more"], Some(0)));
            tell(&mut client, &["HGET", "none", "f"], if protocol == "3" { "_\r\n" } else { "$-1\r\n" });
            tell(&mut client, &["PING"], "+PONG\r\n");
            // The channel of client-side caching is ours, whatever the origin has.
            client.write_all(&resp(&["SUBSCRIBE", "__redis__:invalidate"])).expect("sent");
            expect(&mut client, told(protocol, &["subscribe", "__redis__:invalidate"], Some(1)));
            tell(&mut client, &["RESET"], "+RESET\r\n");
        }
        // A pipeline of messages comes whole and in order.
        let mut client = server.connect();
        client.write_all(&resp(&["SUBSCRIBE", "c"])).expect("sent");
        expect(&mut client, told("2", &["subscribe", "c"], Some(1)));
        let messages: Vec<String> = (0..2000).map(|i| format!("message {i}")).collect();
        let published: Vec<u8> =
            messages.iter().flat_map(|message| resp(&["PUBLISH", "c", message])).collect();
        publisher.write_all(&published).expect("sent");
        expect(&mut publisher, ":1\r\n".repeat(messages.len()));
        for message in &messages {
            expect(&mut client, told("2", &["message", "c", message], None));
        }
    }
}

#[test]
fn a_subscriber_whose_origin_goes_is_told_so_by_the_end_of_the_connection() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut client = server.connect();
    client.write_all(&resp(&["SUBSCRIBE", "c"])).expect("sent");
    expect(&mut client, told("2", &["subscribe", "c"], Some(1)));
    let mut reset = server.connect();
    reset.write_all(&resp(&["SUBSCRIBE", "c"])).expect("sent");
    expect(&mut reset, told("2", &["subscribe", "c"], Some(1)));
    tell(&mut reset, &["RESET"], "+RESET\r\n");
    drop(peer);
    assert_eq!(client.read(&mut [0; 16]).expect("the end"), 0);
    // Who keeps nothing there stays.
    tell(&mut reset, &["PING"], "+PONG\r\n");
}

#[test]
fn wait_tells_of_the_origins_replicas_and_what_was_written_through_us() {
    let Some(peer) = redis_like("redis-server") else { return };
    let Some(replica) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut client = server.connect();
    tell(&mut client, &["SET", "k", "v"], "+OK\r\n");
    tell(&mut client, &["WAIT", "1", "50"], ":0\r\n");
    let mut second = connect(([127, 0, 0, 1], replica.port).into());
    tell(&mut second, &["REPLICAOF", "127.0.0.1", &peer.port.to_string()], "+OK\r\n");
    for round in 0..20 {
        tell(&mut client, &["SET", "k", &format!("v{round}")], "+OK\r\n");
        // Longer than a deadline of the origin, as long as the replica is not there.
        tell(&mut client, &["WAIT", "1", "10000"], ":1\r\n");
        tell(&mut second, &["GET", "k"], bulk(&format!("v{round}")));
    }
}

#[test]
fn wait_counts_no_replica_that_has_not_what_was_written_through_us() {
    for name in NAMES {
        let (Some(peer), Some(replica)) = (redis_like(name), redis_like(name)) else { continue };
        let (server, _config) = before(&peer);
        let (mut client, mut other) = (server.connect(), server.connect());
        let mut second = connect(([127, 0, 0, 1], replica.port).into());
        tell(&mut second, &["REPLICAOF", "127.0.0.1", &peer.port.to_string()], "+OK\r\n");
        for round in 0..3 {
            let value = format!("v{round}");
            tell(&mut client, &["SET", "k", "before"], "+OK\r\n");
            tell(&mut client, &["WAIT", "1", "10000"], ":1\r\n");
            // It is attached, and takes nothing in.
            replica.signal("STOP");
            tell(&mut client, &["SET", "k", &value], "+OK\r\n");
            for client in [&mut client, &mut other] {
                tell(client, &["WAIT", "1", "100"], ":0\r\n");
            }
            replica.signal("CONT");
            tell(&mut other, &["WAIT", "1", "10000"], ":1\r\n");
            tell(&mut second, &["GET", "k"], bulk(&value));
        }
        // A login that may not have the replicas told is told so, rather than a number that means nothing.
        let mut origin = direct(&peer);
        tell(
            &mut origin,
            &["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "resetchannels"],
            "+OK\r\n",
        );
        let (server, _config) = serve("", &[&format!("--origin=redis://app:secret@127.0.0.1:{}", peer.port)]);
        let mut client = server.connect();
        tell(&mut client, &["SET", "k", "v"], "+OK\r\n");
        client.write_all(&resp(&["WAIT", "0", "10"])).expect("sent");
        let refused = line(&mut client);
        assert!(refused.starts_with("-NOPERM"), "{refused}");
    }
}

#[test]
fn what_is_asked_of_all_keys_is_asked_of_the_origin_that_has_them_all() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let (mut client, mut origin) = (server.connect(), direct(&peer));
    for i in 0..50 {
        tell(&mut origin, &["SET", &format!("k{i:02}"), "v"], "+OK\r\n");
    }
    tell(&mut client, &["DBSIZE"], ":50\r\n");
    tell(&mut client, &["KEYS", "k07"], array(&["k07"]));
    client.write_all(&resp(&["SCAN", "0", "COUNT", "1000", "MATCH", "k4?"])).expect("sent");
    client.write_all(&resp(&["ECHO", "mark"])).expect("sent");
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(bulk("mark").as_bytes()) {
        client.read_exact(&mut byte).expect("answered");
        bytes.push(byte[0]);
    }
    assert_eq!(String::from_utf8_lossy(&bytes).matches("\r\nk4").count(), 10);
    // What is held here is forgotten, and the origin keeps what it has.
    tell(&mut client, &["FLUSHALL"], "+OK\r\n");
    tell(&mut client, &["DBSIZE"], ":50\r\n");
}
