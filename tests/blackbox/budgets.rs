//! Budgets of keyspaces in a running server: what each may ask its origin, what it may hold, and that a reload changes that.

use crate::origin_faults::{Act, Gate, Scripted, value};
use crate::origins::{Peer, redis_like, serve, tell};
use crate::support::{Server, ask, bulk, connect, eventually, expect, foreshadow, resp, run_to_end};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two keyspaces of one origin, of which the first has budgets.
fn config(url: &str, budgets: &str) -> String {
    format!(
        "[origin.o]\nurl = \"{url}\"\ntimeout = \"30s\"\n\
         [keyspace.a]\nprefix = \"a:\"\norigin = \"o\"\nfresh = \"1h\"\nwait = \"35s\"\n{budgets}\n\
         [keyspace.b]\nprefix = \"b:\"\norigin = \"o\"\nfresh = \"1h\"\nwait = \"35s\"\n"
    )
}

/// The URL of a Redis that does not tell of changes: so its answers show who was asked.
fn url(peer: &Peer) -> String {
    format!("redis://127.0.0.1:{}", peer.port)
}

fn untold(config: String) -> String {
    config.replace("timeout =", "track = false\ntimeout =")
}

/// Stores values at an origin, without us.
fn store(origin: &mut TcpStream, items: &[(String, String)]) {
    for some in items.chunks(500) {
        let sets: Vec<u8> = some.iter().flat_map(|(key, value)| resp(&["SET", key, value])).collect();
        origin.write_all(&sets).expect("sent");
        expect(origin, "+OK\r\n".repeat(some.len()));
    }
}

/// What a running server says of a keyspace.
fn explained(server: &Server, name: &str) -> String {
    let output = run_to_end(foreshadow(&["keyspace", "--admin", &server.admin.to_string(), name]));
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

/// A line of it.
fn line(name: &str, value: impl std::fmt::Display) -> String {
    format!("    {name:<28} {value}\n")
}

/// A metric of one keyspace.
fn metric(server: &Server, name: &str, keyspace: &str) -> f64 {
    let page = server.page("/metrics").1;
    let name = format!("foreshadow_keyspace_{name}{{keyspace=\"{keyspace}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name)).expect("a metric");
    value.parse().expect("a number")
}

/// Whether a read gets its value, which is its key; an error is that of the rate, in these words.
fn reads(client: &mut TcpStream, key: &str) -> bool {
    client.write_all(&resp(&["GET", key])).expect("sent");
    let mut mark = [0];
    client.read_exact(&mut mark).expect("answered");
    let refused = "ERR the keyspace a may ask its origin 5 times a second, and has\r\n";
    expect(client, if mark == *b"-" { refused.to_owned() } else { bulk(key)[1..].to_owned() });
    mark == *b"$"
}

#[test]
fn a_keyspace_that_asks_too_often_is_told_so_until_a_reload_lets_it() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, file) = serve(&untold(config(&url(&peer), "fetches-per-second = 5")), &[]);
    let (mut client, mut origin) = (server.connect(), connect(([127, 0, 0, 1], peer.port).into()));
    let key = |keyspace: &str, i: usize| format!("{keyspace}:{i}");
    for keyspace in ["a", "b"] {
        let items: Vec<_> = (0..5000).map(|i| (key(keyspace, i), key(keyspace, i))).collect();
        store(&mut origin, &items);
    }
    let read = (0..100).filter(|&i| reads(&mut client, &key("a", i))).count();
    // However slow this machine is: five at once, and five a second from then on.
    assert!((5..100).contains(&read), "{read}");
    // Another keyspace of the same origin has nothing to do with it, and hits ask nobody.
    for i in 0..100 {
        ask(&mut client, resp(&["GET", &key("b", i)]), bulk(&key("b", i)));
    }
    (0..100).for_each(|_| assert!(reads(&mut client, "a:0")));
    eventually("what was refused is counted", || {
        (metric(&server, "over_budget_total", "a") == (100 - read) as f64).then_some(())
    });
    assert_eq!(metric(&server, "over_budget_total", "b"), 0.0);
    assert_eq!(metric(&server, "failed_total", "a"), (100 - read) as f64);
    let page = explained(&server, "a");
    for part in [line("fetches per second", 5), line("over budget", 100 - read)] {
        assert!(page.contains(&part), "{part} is missing in {page}");
    }
    fs::write(file.path(), untold(config(&url(&peer), "fetches-per-second = 100000"))).expect("written");
    server.signal("HUP");
    eventually("the reload is told", || {
        explained(&server, "a").contains(&line("fetches per second", 100_000)).then_some(())
    });
    // Fifty at once are more than five a second let through.
    let mut next = 100;
    eventually("the cores keep to it", || {
        next += 50;
        (next - 50..next).all(|i| reads(&mut client, &key("a", i))).then_some(())
    });
    // What was held before is still held: nothing was filled by other rules.
    tell(&mut origin, &["SET", "a:0", "changed"], "+OK\r\n");
    assert!(reads(&mut client, "a:0"));
}

#[test]
fn a_keyspace_has_as_many_fetches_under_way_as_it_may_and_others_of_the_origin_go_past() {
    const FETCHES_MAX: usize = 3;
    const READS: usize = 20;
    let gate = Gate::default();
    let (held, asked) = (gate.clone(), [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))]);
    let counts = asked.clone();
    let origin = Scripted::start(move |key, _| {
        counts[usize::from(key.starts_with("b:"))].fetch_add(1, Ordering::SeqCst);
        Act::Hold(held.clone(), value(key))
    });
    let asked = |keyspace: usize| asked[keyspace].load(Ordering::SeqCst);
    let url = format!("memcached://127.0.0.1:{}", origin.port);
    let (server, _file) = serve(&config(&url, &format!("concurrency = {FETCHES_MAX}")), &[]);
    // One read on each connection: how much of a pipeline waits at a time is another bound.
    let read = |keyspace: &str| -> Vec<TcpStream> {
        let asks = |i| {
            let mut client = server.connect();
            client.write_all(&resp(&["GET", &format!("{keyspace}:{i}")])).expect("sent");
            client
        };
        (0..READS).map(asks).collect()
    };
    let ones = read("a");
    eventually("as many are asked as may be", || (asked(0) == FETCHES_MAX).then_some(()));
    eventually("it is told", || (metric(&server, "demanded_total", "a") == READS as f64).then_some(()));
    assert_eq!(metric(&server, "fetches", "a"), FETCHES_MAX as f64);
    let others = read("b");
    eventually("the other one asks all", || (asked(1) == READS).then_some(()));
    assert_eq!(asked(0), FETCHES_MAX, "the rest waits, however much passes by");
    gate.open();
    for (clients, keyspace) in [(ones, "a"), (others, "b")] {
        for (i, mut client) in clients.into_iter().enumerate() {
            expect(&mut client, bulk(&format!("{keyspace}:{i}")));
        }
    }
    assert_eq!((asked(0), asked(1)), (READS, READS), "once each");
    eventually("all permits are back", || (metric(&server, "fetches", "a") == 0.0).then_some(()));
    assert!(explained(&server, "a").contains(&line("concurrency", FETCHES_MAX)));
}

#[test]
fn a_keyspace_keeps_to_its_memory_and_says_how_much_it_holds() {
    const BYTES_MAX: f64 = 256.0 * 1024.0;
    const ITEMS: usize = 5000;
    // Key, value, and what an item takes beside them.
    const ITEM_BYTES: f64 = 6.0 + 200.0 + 24.0;
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _file) = serve(&untold(config(&url(&peer), "memory = \"256KiB\"\nnegative = \"0ms\"")), &[]);
    let (mut client, mut origin) = (server.connect(), connect(([127, 0, 0, 1], peer.port).into()));
    let value = "v".repeat(200);
    let key = |keyspace: &str, i: usize| format!("{keyspace}:{i:04}");
    // The one without a bound first: what the other one has to let go is its own.
    for keyspace in ["b", "a"] {
        let items: Vec<_> = (0..ITEMS).map(|i| (key(keyspace, i), value.clone())).collect();
        store(&mut origin, &items);
        for some in items.chunks(500) {
            let gets: Vec<u8> = some.iter().flat_map(|(key, _)| resp(&["GET", key])).collect();
            client.write_all(&gets).expect("sent");
            expect(&mut client, bulk(&value).repeat(some.len()));
        }
    }
    eventually("both are counted", || {
        let (a, b) = (metric(&server, "memory_bytes", "a"), metric(&server, "memory_bytes", "b"));
        let all = ITEMS as f64 * ITEM_BYTES;
        let near = |bytes: f64, low: f64, high: f64| bytes > low && bytes < high;
        (near(b, all * 0.8, all * 1.2) && near(a, BYTES_MAX * 0.3, BYTES_MAX * 1.3)).then_some(())
    });
    let let_go = metric(&server, "evicted_total", "a") + metric(&server, "unkept_total", "a");
    assert!(let_go > 1000.0, "{let_go}");
    assert_eq!(metric(&server, "evicted_total", "b") + metric(&server, "unkept_total", "b"), 0.0);
    assert!(explained(&server, "a").contains(&line("memory bytes max", BYTES_MAX)));
    // What is really held shows when the origin has nothing any more.
    tell(&mut origin, &["FLUSHALL"], "+OK\r\n");
    for i in 0..ITEMS {
        ask(&mut client, resp(&["GET", &key("b", i)]), bulk(&value));
    }
    let mut held = 0;
    for i in 0..ITEMS {
        client.write_all(&resp(&["GET", &key("a", i)])).expect("sent");
        let mut head = [0; 5];
        client.read_exact(&mut head).expect("answered");
        if head != *b"$-1\r\n" {
            expect(&mut client, &bulk(&value)[5..]);
            held += 1;
        }
    }
    let bytes = f64::from(held) * ITEM_BYTES;
    assert!(bytes > BYTES_MAX * 0.3 && bytes < BYTES_MAX * 1.3, "{held} items, {bytes} bytes");
}
