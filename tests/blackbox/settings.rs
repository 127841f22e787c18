//! What an operator changes and looks at while it serves: CONFIG SET, SLOWLOG, LATENCY, INFO.

use crate::support::{Server, ask, eventually, expect, resp};
use std::io::{Read, Write};
use std::net::TcpStream;

/// What a command answers, as far as it comes before the reply to a ping.
fn answer(stream: &mut TcpStream, words: &[&str]) -> String {
    stream.write_all(&[resp(words), resp(&["ECHO", "end-of-answer"])].concat()).expect("sent");
    let end = b"$13\r\nend-of-answer\r\n";
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    while !got.ends_with(end) {
        let len = stream.read(&mut piece).expect("an answer");
        assert!(len > 0, "closed after {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&piece[..len]);
    }
    got.truncate(got.len() - end.len());
    String::from_utf8(got).expect("text")
}

#[test]
fn settings_change_while_it_serves_and_on_all_cores() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let set = ["CONFIG", "SET", "maxclients", "2", "slowlog-max-len", "5", "maxmemory", "32mb"];
    ask(&mut client, resp(&set), "+OK\r\n");
    // Whichever core the next connection comes to.
    for _ in 0..8 {
        // The places of those before are free some time after they left; the metric may be older than they.
        let mut other = eventually("a place", || {
            let mut other = server.connect();
            let mut pong = [0; 7];
            let served = other.write_all(&resp(&["PING"])).and_then(|()| other.read_exact(&mut pong));
            (served.is_ok() && &pong == b"+PONG\r\n").then_some(other)
        });
        let got = answer(&mut other, &["CONFIG", "GET", "maxclients", "slowlog-max-len", "maxmemory"]);
        for part in [
            "$10\r\nmaxclients\r\n$1\r\n2\r\n",
            "$15\r\nslowlog-max-len\r\n$1\r\n5\r\n",
            "$8\r\n33554432\r\n",
        ] {
            assert!(got.contains(part), "{part:?} in {got:?}");
        }
        let mut third = server.connect();
        expect(&mut third, "-ERR max number of clients reached\r\n");
        drop((other, third));
    }
    let failed = "-ERR CONFIG SET failed (possibly related to argument ";
    // What the flag takes, and what this many cores can do with.
    for size in ["1", "10mb", "9000000000gb"] {
        let wrong = ["CONFIG", "SET", "slowlog-max-len", "7", "maxclients", "77", "maxmemory", size];
        let got = answer(&mut client, &wrong);
        let expected = format!("{failed}'maxmemory') - argument must be between ");
        assert!(got.starts_with(&expected) && got.contains(" and 281474976710656 inclusive"), "{got}");
        let got = answer(&mut client, &["CONFIG", "GET", "slowlog-max-len", "maxclients"]);
        assert!(got.contains("$1\r\n5\r\n") && got.contains("$1\r\n2\r\n"), "all or none: {got}");
    }
    ask(
        &mut client,
        resp(&["CONFIG", "SET", "port", "1"]),
        format!("{failed}'port') - can't set immutable config\r\n"),
    );
    // A tool that sets what is so already is not disappointed.
    ask(&mut client, resp(&["CONFIG", "SET", "save", "", "appendonly", "no"]), "+OK\r\n");
}

#[test]
fn slow_commands_are_kept_with_what_they_took() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    ask(&mut client, resp(&["SLOWLOG", "GET"]), "*0\r\n");
    ask(&mut client, resp(&["SET", "before", "v"]), "+OK\r\n");
    ask(&mut client, resp(&["CLIENT", "SETNAME", "me"]), "+OK\r\n");
    // From 0 on everything is slow, plain commands too, on connections that were there before.
    let mut other = server.connect();
    ask(&mut other, "PING\r\n", "+PONG\r\n");
    ask(&mut client, resp(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), "+OK\r\n");
    ask(&mut other, resp(&["GET", "nothing"]), "$-1\r\n");
    ask(&mut client, resp(&["SET", "key", &"x".repeat(200)]), "+OK\r\n");
    ask(&mut client, resp(&["AUTH", "default", "not-a-secret"]), "+OK\r\n");
    ask(&mut client, resp(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]), "+OK\r\n");
    let got = answer(&mut client, &["SLOWLOG", "GET", "-1"]);
    let cut = format!("$3\r\nSET\r\n$3\r\nkey\r\n$147\r\n{}... (72 more bytes)\r\n", "x".repeat(128));
    assert!(got.contains("$3\r\nGET\r\n$7\r\nnothing\r\n") && got.contains(&cut), "{got}");
    assert!(got.contains("$2\r\nme\r\n"), "the client's name: {got}");
    assert!(!got.contains("before") && !got.contains("not-a-secret"), "{got}");
    ask(&mut client, resp(&["SLOWLOG", "RESET"]), "+OK\r\n");
    ask(&mut client, resp(&["SLOWLOG", "LEN"]), ":0\r\n");
}

#[test]
fn info_remembers_the_most_memory_that_was_used() {
    const MIB: u64 = 1 << 20;
    let server = Server::start(&["--memory", "64MiB"]);
    let mut client = server.connect();
    let value = "v".repeat(10_000);
    for batch in 0..50 {
        let sets: Vec<u8> =
            (0..100).flat_map(|i| resp(&["SET", &format!("key:{batch}:{i}"), &value])).collect();
        ask(&mut client, sets, "+OK\r\n".repeat(100));
    }
    let mut memory = |name: &str| -> u64 {
        let info = answer(&mut client, &["INFO", "memory"]);
        let number = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        number.unwrap_or_else(|| panic!("{name} in {info}")).parse().expect("a number")
    };
    let full = memory("used_memory");
    assert!(full > 20 * MIB, "{full}");
    assert!(memory("used_memory_peak") >= full);
    ask(&mut server.connect(), resp(&["CONFIG", "SET", "maxmemory", "40mb"]), "+OK\r\n");
    eventually("memory to be given back", || (memory("used_memory") < full - 8 * MIB).then_some(()));
    let peak = memory("used_memory_peak");
    assert!((full..=64 * MIB).contains(&peak), "{peak} of {full}");
}

#[test]
fn info_tells_cpu_memory_errors_and_what_commands_took() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for _ in 0..3 {
        ask(&mut client, resp(&["SET", "a"]), "-ERR wrong number of arguments for 'set' command\r\n");
    }
    ask(&mut client, resp(&["FLUSHALL"]), "+OK\r\n");
    let info = answer(&mut client, &["INFO", "everything"]);
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name} in {info}")).to_owned()
    };
    // So little so far that the kernel may have counted all of it as the system's.
    let cpu = |name| field(name).parse::<f64>().unwrap();
    assert!(cpu("used_cpu_user") + cpu("used_cpu_sys") > 0.0, "{info}");
    let resident: u64 = field("used_memory_rss").parse().unwrap();
    assert!(resident > 1 << 20 && resident.abs_diff(server.resident_bytes()) < 64 << 20, "{resident}");
    assert_eq!(field("errorstat_ERR"), "count=3");
    assert!(field("latency_percentiles_usec_flushall").starts_with("p50="));
    let histogram = answer(&mut client, &["LATENCY", "HISTOGRAM", "flushall"]);
    assert!(histogram.contains("$8\r\nflushall\r\n*4\r\n$5\r\ncalls\r\n:1\r\n"), "{histogram}");
    ask(&mut client, resp(&["CONFIG", "RESETSTAT"]), "+OK\r\n");
    assert!(!answer(&mut client, &["INFO", "errorstats"]).contains("errorstat_"));
}
