//! Commands on values and keys.

use super::*;

/// Clocks that people set, and machines that sleep: a time to live is what it was, an absolute end is as the clock says now.
#[test]
fn a_clock_that_jumps_changes_no_time_to_live() {
    const HOUR: u64 = 3_600_000;
    for jump in [HOUR as i64, -(HOUR as i64)] {
        let mut shell = Shell::new(CORES, false, Options::default(), 3);
        check_on(&mut shell, &[("SET a x EX 100", "+OK|"), ("SET b x", "+OK|"), ("TTL a", ":100|")]);
        shell.model.now.wall.0 = shell.model.now.wall.0.wrapping_add_signed(jump);
        let wall_seconds = shell.model.now.wall.0 / 1000;
        check_on(
            &mut shell,
            &[
                ("TTL a", ":100|"),
                ("GET a", "$1|x|"),
                ("EXPIRETIME a", &format!(":{}|", wall_seconds + 100)),
                (&format!("EXPIREAT b {}", wall_seconds + 50), ":1|"),
                ("TTL b", ":50|"),
            ],
        );
        // The machine slept for a minute: that is time as well.
        shell.model.now.mono = shell.model.now.mono.plus_millis(60_000);
        shell.model.now.wall.0 += 60_000;
        check_on(&mut shell, &[("TTL a", ":40|"), ("GET b", "$-1|")]);
        shell.model.now.mono = shell.model.now.mono.plus_millis(40_000);
        check_on(&mut shell, &[("GET a", "$-1|")]);
    }
}

#[test]
fn strings_are_read_and_written_as_redis_does() {
    check(&[
        ("GET a", "$-1|"),
        ("SET a 5", "+OK|"),
        ("GET a", "$1|5|"),
        ("get a", "$1|5|"),
        ("SET a 6 NX", "$-1|"),
        ("SET a 6 NX GET", "$1|5|"),
        ("SET a 6 XX GET EX 100", "$1|5|"),
        ("TTL a", ":100|"),
        ("PTTL a", ":100000|"),
        ("EXPIRETIME a", ":1700000100|"),
        ("PEXPIRETIME a", ":1700000100000|"),
        ("SET a 7 KEEPTTL", "+OK|"),
        ("TTL a", ":100|"),
        ("PERSIST a", ":1|"),
        ("PERSIST a", ":0|"),
        ("TTL a", ":-1|"),
        ("TTL nokey", ":-2|"),
        ("GETEX a EXAT 1700000050", "$1|7|"),
        ("TTL a", ":50|"),
        ("GETEX a PERSIST", "$1|7|"),
        ("TTL a", ":-1|"),
        ("SETNX a b", ":0|"),
        ("SETNX n 0", ":1|"),
        ("GETSET n 1", "$1|0|"),
        ("GETDEL n", "$1|1|"),
        ("GETDEL n", "$-1|"),
        ("MSET a 1 b 2 c 3", "+OK|"),
        ("MGET a nokey c", "*3|$1|1|$-1|$1|3|"),
        ("DEL a b a", ":2|"),
        ("DEL a", ":0|"),
        ("EXISTS c nokey c", ":2|"),
        ("TOUCH c", ":1|"),
        ("UNLINK c", ":1|"),
        ("INCR n", ":1|"),
        ("INCRBY n 10", ":11|"),
        ("DECRBY n 12", ":-1|"),
        ("DECR n", ":-2|"),
        ("INCRBYFLOAT n 0.5", "$4|-1.5|"),
        ("APPEND s abc", ":3|"),
        ("APPEND s def", ":6|"),
        ("STRLEN s", ":6|"),
        ("STRLEN nokey", ":0|"),
        ("GETRANGE s 0 -1", "$6|abcdef|"),
        ("GETRANGE s -3 -1", "$3|def|"),
        ("GETRANGE s 5 1", "$0||"),
        ("GETRANGE s -1 -3", "$0||"),
        ("GETRANGE s -100 100", "$6|abcdef|"),
        ("SUBSTR s 0 1", "$2|ab|"),
        ("SETRANGE s 1 ZZ", ":6|"),
        ("GET s", "$6|aZZdef|"),
        ("SETEX e 10 v", "+OK|"),
        ("PSETEX e 1500 v", "+OK|"),
        ("PTTL e", ":1500|"),
        ("TTL e", ":2|"),
        ("TYPE e", "+string|"),
        ("TYPE nokey", "+none|"),
        ("EXPIRE s 10 XX", ":0|"),
        ("EXPIRE s 10 NX", ":1|"),
        ("EXPIRE s 5 GT", ":0|"),
        ("EXPIRE s 50 gt", ":1|"),
        ("EXPIRE s 60 LT", ":0|"),
        ("EXPIRE s 40 XX LT", ":1|"),
        ("PEXPIREAT s 1700000001000", ":1|"),
        ("PTTL s", ":1000|"),
        ("EXPIRE s -5", ":1|"),
        ("EXISTS s", ":0|"),
        ("SET a 5 EXAT 1", "+OK|"),
        ("GET a", "$-1|"),
        ("OBJECT ENCODING n", "$6|embstr|"),
        ("SET i 12", "+OK|"),
        ("OBJECT ENCODING i", "$3|int|"),
        ("OBJECT REFCOUNT i", ":1|"),
        ("OBJECT IDLETIME i", ":7|"),
        ("OBJECT ENCODING nokey", "$-1|"),
        ("MEMORY USAGE i", ":27|"),
        ("MEMORY USAGE nokey SAMPLES 5", "$-1|"),
        ("DBSIZE", ":3|"),
        ("FLUSHALL ASYNC", "+OK|"),
        ("DBSIZE", ":0|"),
        ("RANDOMKEY", "$-1|"),
    ]);
}

#[test]
fn the_empty_key_is_a_key() {
    let dialogue: [(&[&str], &str); 19] = [
        (&["GET", ""], "$-1|"),
        (&["KEYS", ""], "*0|"),
        (&["SCAN", "0", "MATCH", ""], "*2|$1|0|*0|"),
        (&["SET", "", "v"], "+OK|"),
        (&["SET", "k", "w"], "+OK|"),
        (&["GET", ""], "$1|v|"),
        (&["MGET", "", "k", ""], "*3|$1|v|$1|w|$1|v|"),
        (&["KEYS", ""], "*1|$0||"),
        (&["SCAN", "0", "MATCH", ""], "*2|$1|0|*1|$0||"),
        (&["SCAN", "0", "MATCH", "", "TYPE", "list"], "*2|$1|0|*0|"),
        (&["EXPIRE", "", "100"], ":1|"),
        (&["TTL", ""], ":100|"),
        (&["APPEND", "", "w"], ":2|"),
        (&["RENAME", "", "a"], "+OK|"),
        (&["COPY", "a", ""], ":1|"),
        (&["INVALIDATE", "KEY", ""], ":1|"),
        (&["EXISTS", "", "a"], ":1|"),
        (&["MSET", "", "1"], "+OK|"),
        (&["DEL", "", "a"], ":2|"),
    ];
    for near in [CORES, 1, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        for (sent, expected) in dialogue {
            shell.feed(&command(&sent.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()));
            shell.finish();
            shell.feed(b"");
            shell.finish();
            let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
            assert_eq!(reply, crlf(expected), "{sent:?}, {near} near");
        }
    }
}

#[test]
fn msetnx_stores_all_or_nothing() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        check_on(
            &mut shell,
            &[
                ("MSETNX {a}1 x {a}2 y", ":1|"),
                ("MGET {a}1 {a}2", "*2|$1|x|$1|y|"),
                ("MSETNX {a}3 x {a}2 z", ":0|"),
                ("MGET {a}2 {a}3", "*2|$1|y|$-1|"),
                ("MSETNX {a}4 x {a}4 z", ":1|"),
                ("GET {a}4", "$1|z|"),
            ],
        );
        let (one, other) = (0..100)
            .map(|i| (format!("k{i}"), format!("k{}", i + 1)))
            .find(|(one, other)| {
                let owner = |key: &String| shell.node.map.owner(slot_of(key.as_bytes()).shard());
                owner(one) != owner(other)
            })
            .unwrap();
        let sent = format!("MSETNX {one} 1 {other} 2");
        check_on(&mut shell, &[(&sent, "-CROSSSLOT Keys in request don't hash to the same slot|")]);
    }
}

#[test]
fn an_mset_that_finds_no_memory_says_so() {
    let mut shell = Shell::new(CORES, false, Options::default(), 4);
    shell.model.stores.iter_mut().for_each(|store| store.room = Some(1));
    check_on(
        &mut shell,
        &[
            ("SET {a}3 x", "+OK|"),
            ("MSET {a}4 x {a}5 y", "-OOM command not allowed when used memory > 'maxmemory'.|"),
        ],
    );
}

#[test]
fn scanning_visits_every_core_and_every_key() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        for i in 0..50 {
            shell.feed(&words(&format!("SET key:{i} v")));
        }
        shell.finish();
        shell.output.clear();
        let mut cursor = "0".to_string();
        let mut seen = Vec::new();
        loop {
            shell.feed(&words(&format!("SCAN {cursor} COUNT 4 MATCH * TYPE string")));
            shell.finish();
            let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
            let lines: Vec<&str> = reply.split("\r\n").collect();
            assert_eq!((lines[0], lines[1].starts_with('$')), ("*2", true));
            cursor = lines[2].to_string();
            seen.extend(lines.iter().filter(|line| line.starts_with("key:")).map(|line| line.to_string()));
            if cursor == "0" {
                break;
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 50);
        shell.feed(&[words("KEYS *"), words("KEYS key:4"), words("KEYS nothing"), words("PING")].concat());
        shell.finish();
        shell.feed(b"");
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*50\r\n") && reply.ends_with("*0\r\n+PONG\r\n"), "{reply}");
        assert_eq!(reply.matches("key:4\r\n").count(), 2);
        shell.feed(&[words("SCAN 0 TYPE list"), words("RANDOMKEY"), words("DBSIZE")].concat());
        shell.finish();
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*2\r\n$1\r\n0\r\n*0\r\n$") && reply.ends_with(":50\r\n"), "{reply}");
    }
}

#[test]
fn an_option_may_come_twice_and_the_last_one_counts() {
    check(&[
        ("SET k v EX 10 EX 20", "+OK|"),
        ("TTL k", ":20|"),
        ("SET k v EX x EX 30", "+OK|"),
        ("SET k v EX 10 EX x", "-ERR value is not an integer or out of range|"),
        ("SET k v EX 10 PX 10", "-ERR syntax error|"),
        ("SET k v EX 10 KEEPTTL", "-ERR syntax error|"),
        ("SET k v KEEPTTL EX 10", "-ERR syntax error|"),
        ("SET k v KEEPTTL KEEPTTL", "+OK|"),
        ("TTL k", ":30|"),
        ("GETEX k EX 10 EX 40", "$1|v|"),
        ("TTL k", ":40|"),
        ("GETEX k PERSIST PERSIST", "$1|v|"),
        ("TTL k", ":-1|"),
        ("GETEX k PERSIST EX 10", "-ERR syntax error|"),
        ("GETEX k EX 10 PERSIST", "-ERR syntax error|"),
        ("GETEX k EX 10 PX 10", "-ERR syntax error|"),
        ("GETEX k EX", "-ERR syntax error|"),
    ]);
}

#[test]
fn cursors_are_numbers_as_c_reads_them() {
    let empty = "*2\r\n$1\r\n0\r\n*0\r\n";
    for (cursor, fits) in [
        ("0", true),
        (" 0", true),
        ("+0", true),
        ("-0", true),
        ("00", true),
        ("0 ", false),
        ("-1", false),
        ("", false),
        ("+", false),
        ("x", false),
        ("18446744073709551616", false),
    ] {
        let mut shell = Shell::new(1, false, Options::default(), 9);
        shell.model = Model::new(CORES);
        shell.feed(&command(&[b"SCAN", cursor.as_bytes(), b"TYPE", b"list"]));
        shell.finish();
        let expected = if fits { empty } else { "-ERR invalid cursor\r\n" };
        assert_eq!(String::from_utf8(std::mem::take(&mut shell.output)).unwrap(), expected, "{cursor:?}");
    }
}
