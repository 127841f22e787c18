//! Commands that a Redis origin does as they are: with real servers, one behind us and one asked directly.

use crate::origins::{Peer, redis_like, serve, tell};
use crate::support::{Server, bulk, connect, expect, resp};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Every kind of reply, errors included, in commands that we do not do, do otherwise, or do for values of our own only.
const SCRIPT: &[&str] = &[
    "HSET h f 1 g 2",
    "HGET h f",
    "HGETALL h",
    "HMGET h f none g",
    "HINCRBYFLOAT h f 0.5",
    "HSET h f",
    "HGET",
    "ZUNION 3 z",
    "EVAL script",
    "GET h",
    "LPUSH l a b c",
    "LRANGE l 0 -1",
    "LPOP l 2",
    "LINDEX l 7",
    "SADD s a b",
    "SMEMBERS s",
    "SISMEMBER s a",
    "SMISMEMBER s a z",
    "ZADD z 1 a 2.5 b",
    "ZRANGE z 0 -1 WITHSCORES",
    "ZSCORE z b",
    "ZSCORE z none",
    "ZUNIONSTORE u 2 z z2 WEIGHTS 2 1",
    "ZRANGE u 0 -1",
    "XADD x 1-1 f v",
    "XRANGE x - +",
    "XREAD COUNT 1 STREAMS x 0",
    "XINFO GROUPS x",
    "PFADD p a b",
    "PFCOUNT p",
    "GEOADD g 13.361389 38.115556 Palermo",
    "GEOPOS g Palermo none",
    "SETBIT b 7 1",
    "BITCOUNT b",
    "BITOP NOT c b",
    "GET c",
    "SET t value",
    "APPEND t more",
    "GET t",
    "STRLEN t",
    "SETRANGE t 0 V",
    "GETRANGE t 0 2",
    "GETSET t other",
    "SET t third GET",
    "SET t fourth KEEPTTL",
    "GET t",
    "TYPE h",
    "TYPE t",
    "TTL t",
    "EXPIRE t 1000",
    "TTL t",
    "PERSIST t",
    "EXISTS h t none",
    "TOUCH h t",
    "OBJECT ENCODING h",
    "RENAME t r",
    "GET t",
    "GET r",
    "COPY r s2",
    "GETDEL r",
    "GET r",
    "MSETNX m1 1 m2 2",
    "INCRBYFLOAT m1 0.25",
    "GET m1",
    "GETEX m1 PX 100000",
    "SORT l2 LIMIT 0 1",
    "SORT l STORE sorted",
    "LRANGE sorted 0 -1",
    "EVAL return{KEYS[1],ARGV[1],1} 1 h a",
    "EVAL return{ok='fine'} 0",
    "SCRIPT EXISTS abc",
    "LPUSH t2 x",
    "GET t2",
    "INCR t2",
    "SET t2 x",
    "GET t2",
    "UNLINK t2 h l",
    "EXISTS t2 h l",
];

/// Replies to the script, each up to the echo that follows it.
fn replies(stream: &mut TcpStream, protocol: &str) -> Vec<String> {
    stream.write_all(&resp(&["HELLO", protocol])).expect("sent");
    up_to(stream, "hello");
    let one = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        stream.write_all(&resp(&words)).expect("sent");
        up_to(stream, "mark")
    };
    SCRIPT.iter().map(one).collect()
}

/// What comes before the echo of a word that is asked for here.
fn up_to(stream: &mut TcpStream, mark: &str) -> String {
    stream.write_all(&resp(&["ECHO", mark])).expect("sent");
    let end = bulk(mark);
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).expect("answered");
        bytes.push(byte[0]);
    }
    bytes.truncate(bytes.len() - end.len());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server in front of a Redis that does not tell of changes: what is forgotten, we forget ourselves.
fn before(peer: &Peer) -> (Server, crate::origin_faults::tempfile::Config) {
    serve(
        &format!(
            "[origin.r]\nurl = \"redis://127.0.0.1:{}\"\ntrack = false\n\
             [keyspace.all]\nprefix = \"\"\norigin = \"r\"\nfresh = \"1h\"\nnegative = \"1h\"\n\
             [keyspace.alone]\nprefix = \"alone:\"\norigin = \"r\"\nwrite = \"cache-only\"\n",
            peer.port
        ),
        &[],
    )
}

#[test]
fn what_a_redis_does_is_the_same_behind_us_in_both_versions_of_the_protocol() {
    for name in ["redis-server", "valkey-server"] {
        let (Some(behind), Some(alone)) = (redis_like(name), redis_like(name)) else { continue };
        let (server, _config) = before(&behind);
        for protocol in ["2", "3"] {
            let mut direct = connect(([127, 0, 0, 1], alone.port).into());
            tell(&mut direct, &["FLUSHALL"], "+OK\r\n");
            let wanted = replies(&mut direct, protocol);
            let mut origin = connect(([127, 0, 0, 1], behind.port).into());
            tell(&mut origin, &["FLUSHALL"], "+OK\r\n");
            let mut client = server.connect();
            expect_zero_after_flush(&mut client);
            let got = replies(&mut client, protocol);
            for ((line, wanted), got) in SCRIPT.iter().zip(&wanted).zip(&got) {
                assert_eq!(got, wanted, "{name}, RESP{protocol}: {line}");
            }
        }
        let passed = server.metric_becomes("foreshadow_keyspace_passed_total", |n| n > 100.0);
        assert!(passed < 2.0 * SCRIPT.len() as f64 + 1.0);
    }
}

/// What is held and known is forgotten, so that the script finds nothing.
fn expect_zero_after_flush(client: &mut TcpStream) {
    client.write_all(&resp(&["FLUSHALL"])).expect("sent");
    expect(client, "+OK\r\n");
}

#[test]
fn commands_of_one_client_are_done_in_order_whichever_way_each_takes() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut client = server.connect();
    let (mut asked, mut wanted) = (Vec::new(), String::new());
    for i in 0..300 {
        // On many keys, so on all cores.
        let key = format!("k{}", i % 7);
        let length = format!("v{i}").len();
        for (words, reply) in [
            (vec!["SET", &key, &format!("v{i}")], "+OK\r\n".to_owned()),
            (vec!["APPEND", &key, "+"], format!(":{}\r\n", length + 1)),
            (vec!["GET", &key], bulk(&format!("v{i}+"))),
            (vec!["STRLEN", &key], format!(":{}\r\n", length + 1)),
            (vec!["LPUSH", "list", "x"], format!(":{}\r\n", i + 1)),
            (vec!["LLEN", "list"], format!(":{}\r\n", i + 1)),
            (vec!["DEL", &key], ":1\r\n".to_owned()),
            (vec!["EXISTS", &key], ":0\r\n".to_owned()),
            (vec!["GET", &key], "$-1\r\n".to_owned()),
        ] {
            asked.extend_from_slice(&resp(&words));
            wanted.push_str(&reply);
        }
    }
    client.write_all(&asked).expect("sent");
    expect(&mut client, wanted);
}

#[test]
fn after_a_command_passed_nobody_reads_what_was_held_of_its_keys() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut writer = server.connect();
    let mut readers: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for round in 0..40 {
        // Two keys of two cores, as a rule; held as values by one and known as absent by the other.
        let (one, other) = (format!("one{round}"), format!("other{round}"));
        tell(&mut writer, &["SET", &one, "1"], "+OK\r\n");
        for reader in &mut readers {
            tell(reader, &["GET", &one], bulk("1"));
            tell(reader, &["GET", &other], "$-1\r\n");
        }
        tell(&mut writer, &["RENAME", &one, &other], "+OK\r\n");
        for reader in &mut readers {
            tell(reader, &["GET", &other], bulk("1"));
            tell(reader, &["GET", &one], "$-1\r\n");
        }
    }
}

#[test]
fn a_transaction_is_one_step_at_the_origin_and_what_cannot_pass_is_refused() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut client = server.connect();
    tell(&mut client, &["SET", "a", "1"], "+OK\r\n");
    tell(&mut client, &["GET", "a"], bulk("1"));
    for (words, reply) in [
        (vec!["MULTI"], "+OK\r\n"),
        (vec!["INCR", "a"], "+QUEUED\r\n"),
        (vec!["HSET", "h", "f", "v"], "+QUEUED\r\n"),
        (vec!["LPUSH", "a", "x"], "+QUEUED\r\n"),
        (vec!["GET", "a"], "+QUEUED\r\n"),
    ] {
        tell(&mut client, &words, reply);
    }
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    tell(&mut client, &["EXEC"], ["*4\r\n:2\r\n:1\r\n", wrong, "$1\r\n2\r\n"].concat());
    tell(&mut client, &["GET", "a"], bulk("2"));
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    tell(&mut origin, &["HGET", "h", "f"], bulk("v"));
    let calls = up_to(&mut origin, "x");
    assert_eq!(calls, "");
    tell(&mut client, &["MULTI"], "+OK\r\n");
    tell(&mut client, &["SET", "a", "9"], "+QUEUED\r\n");
    tell(&mut client, &["DISCARD"], "+OK\r\n");
    tell(&mut client, &["GET", "a"], bulk("2"));
    // What is of two origins, or of none, is no one step.
    let apart = "-ERR the keys of this command do not have one origin\r\n";
    tell(&mut client, &["RENAME", "a", "alone:a"], apart);
    let unknown = "-ERR unknown command 'HSET', with args beginning with: 'alone:h' 'f' 'v' \r\n";
    tell(&mut client, &["HSET", "alone:h", "f", "v"], unknown);
    for words in [vec!["MULTI"], vec!["SET", "alone:x", "1"], vec!["SET", "b", "1"]] {
        let reply = if words == ["MULTI"] { "+OK\r\n" } else { "+QUEUED\r\n" };
        tell(&mut client, &words, reply);
    }
    let aborted = "-EXECABORT Transaction discarded because its keys do not have one origin.\r\n";
    tell(&mut client, &["EXEC"], aborted);
    tell(&mut client, &["GET", "b"], "$-1\r\n");
}

#[test]
fn an_origin_that_is_gone_is_an_error_for_what_passes_and_for_nobody_else() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = before(&peer);
    let mut client = server.connect();
    tell(&mut client, &["HSET", "h", "f", "v"], ":1\r\n");
    tell(&mut client, &["SET", "kept", "1"], "+OK\r\n");
    drop(peer);
    client.write_all(&resp(&["HSET", "h", "f", "w"])).expect("sent");
    let reply = up_to(&mut client, "x");
    assert!(reply.starts_with("-ERR the origin") && reply.ends_with("\r\n"), "{reply}");
    tell(&mut client, &["GET", "kept"], bulk("1"));
}

#[test]
fn places_of_keys_and_who_writes_are_as_a_real_server_has_them() {
    let Some(peer) = redis_like("redis-server") else { return };
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    let source = include_str!("../../src/wire/resp/passing.rs");
    let rows = source.lines().filter_map(|line| line.strip_prefix("    (\"")?.strip_suffix("),"));
    let mut looked_at = 0;
    for row in rows.filter(|row| row.contains("Keys::")) {
        let (name, rest) = row.split_once("\", Keys::").expect("a row");
        let (keys, writes) = rest.split_once(", ").expect("a row");
        origin.write_all(&resp(&["COMMAND", "INFO", name])).expect("sent");
        let info = up_to(&mut origin, "end");
        if info.starts_with("*1\r\n*-1") || info.starts_with("*1\r\n$-1") {
            eprintln!("this Redis has no {name}");
            continue;
        }
        looked_at += 1;
        // Name, arity, flags, first, last, step.
        let flags: Vec<&str> = info.lines().filter_map(|line| line.strip_prefix('+')).collect();
        let numbers: Vec<i64> =
            info.lines().filter_map(|line| line.strip_prefix(':')?.parse().ok()).take(4).collect();
        let places = (numbers[1], numbers[2], numbers[3]);
        // Scripts declare no writes, sorting and counting may write, subcommands have flags of their own.
        if !matches!(name, "eval" | "evalsha" | "fcall" | "pfcount" | "xgroup" | "script" | "waitaof") {
            assert_eq!(flags.contains(&"write"), writes != "READS", "{name}");
        }
        assert_eq!(
            flags.contains(&"blocking") && !name.starts_with("xread"),
            writes == "WAITS",
            "{name} waits for others"
        );
        let fixed = match keys {
            "ButLast" => Some((1, -2, 1)),
            "One" => Some((1, 1, 1)),
            "Two" => Some((1, 2, 1)),
            "All" => Some((1, -1, 1)),
            "From2" => Some((2, -1, 1)),
            _ => None,
        };
        if let Some(fixed) = fixed {
            assert_eq!(places, fixed, "{name}");
            // What else may be a key of SORT_RO stands in patterns.
            assert!(!flags.contains(&"movablekeys") || name == "sort_ro", "{name}");
        }
    }
    assert!(looked_at > 120, "{looked_at}");
}
