//! Fetching before anybody asks, in front of a real Redis.

use crate::origins::{redis_like, serve, tell};
use crate::support::{Server, bulk, connect, eventually, foreshadow, run_to_end};
use std::io::{Read, Write};
use std::net::TcpStream;

/// What is visited one after the other, and always in this order; names without numbers, so that nothing but the order tells.
const VISITS: [&str; 8] = ["hall", "kitchen", "cellar", "yard", "well", "gate", "road", "town"];
const ROUNDS: usize = 6;

/// How many times the origin was asked for a value, by anybody.
fn gets(origin: &mut TcpStream) -> usize {
    origin.write_all(b"*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n").expect("sent");
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    // The reply is one bulk string: its length stands in front.
    loop {
        let read = origin.read(&mut chunk).expect("answered");
        text.extend_from_slice(&chunk[..read]);
        let head = String::from_utf8_lossy(&text).into_owned();
        let Some((len, body)) = head.split_once("\r\n") else { continue };
        let len: usize = len[1..].parse().expect("a length");
        if body.len() >= len + 2 {
            let calls = body.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
            return calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().expect("a number"));
        }
    }
}

fn served(prefetch: &str, port: u16, flags: &[&str]) -> (Server, crate::origin_faults::tempfile::Config) {
    // With writes of the cache alone EXISTS tells what is held, and does not go to the origin.
    let config = format!(
        "[origin.o]\nurl = \"redis://127.0.0.1:{port}\"\ntrack = false\n[keyspace.k]\nprefix = \"\"\norigin = \"o\"\n\
         write = \"cache-only\"\nprefetch = \"{prefetch}\"\n"
    );
    serve(&config, flags)
}

fn first_round(client: &mut TcpStream) {
    for place in VISITS {
        tell(client, &["GET", place], bulk(place));
    }
}

fn forget(client: &mut TcpStream) {
    let words: Vec<&str> = ["INVALIDATE", "KEY"].into_iter().chain(VISITS).collect();
    tell(client, &words, format!(":{}\r\n", VISITS.len()));
}

#[test]
fn what_is_asked_in_the_same_order_again_is_fetched_ahead_and_the_origin_is_asked_once_for_each() {
    // Alone, and with neighbours on another core.
    for cores in ["--cores=0", "--cores=0,1"] {
        foresees(cores);
    }
}

fn foresees(cores: &str) {
    let Some(peer) = redis_like("redis-server") else { return };
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    for place in VISITS {
        tell(&mut origin, &["SET", place, place], "+OK\r\n");
    }
    let (server, _config) = served("on", peer.port, &[cores]);
    let mut client = server.connect();
    for _ in 0..ROUNDS {
        first_round(&mut client);
        forget(&mut client);
    }
    let before = gets(&mut origin);
    tell(&mut client, &["GET", VISITS[0]], bulk(VISITS[0]));
    for place in &VISITS[1..] {
        eventually("it comes without being asked for", || {
            client
                .write_all(format!("*2\r\n$6\r\nEXISTS\r\n${}\r\n{place}\r\n", place.len()).as_bytes())
                .unwrap();
            let mut reply = [0; 4];
            client.read_exact(&mut reply).expect("answered");
            (&reply == b":1\r\n").then_some(())
        });
        tell(&mut client, &["GET", place], bulk(place));
    }
    // The first of them may have been fetched ahead already, behind the last of the round before.
    let asked = gets(&mut origin) - before;
    assert!(
        (VISITS.len() - 1..=VISITS.len()).contains(&asked),
        "{asked}: one question for each, whoever asked first"
    );
    eventually("the core reports", || server.page("/v1/prefetch").1.contains("\"on\":true").then_some(()));
    let used = server.metric_becomes("foreshadow_prefetch_used_total", |used| used >= 7.0);
    assert!(server.metric("foreshadow_prefetch_issued_total") >= used);
    let (_, page) = server.page("/v1/prefetch");
    assert!(page.contains("\"on\":true") && page.contains("\"source\":\"successor\""), "{page}");
    explains(&server);
}

/// Why a key was fetched, and what came of it, is told by name, whichever cores the keys are on.
fn explains(server: &Server) {
    let (status, page) = server.page(&format!("/v1/prefetch?key={}", VISITS[2]));
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!((status, &page["wanted"], &page["held"]), (200, &true.into(), &true.into()), "{page}");
    let fetch = &page["fetches"][0];
    assert_eq!((&fetch["source"], &fetch["outcome"]), (&"successor".into(), &"used".into()), "{page}");
    let cause = fetch["cause"].as_str().expect("a key that is remembered");
    assert!(VISITS[..2].contains(&cause), "{page}");
    assert_eq!(fetch["bytes"], VISITS[2].len(), "{page}");
    assert!(fetch["took_seconds"].as_f64().is_some_and(|took| took > 0.0 && took < 10.0), "{page}");
    let followers = page["followers"].as_array().expect("a list");
    assert!(followers.iter().any(|follower| follower["key"] == VISITS[3]), "{page}");
    let arguments = ["prefetch", "explain", VISITS[2], "--admin", &server.admin.to_string()];
    let output = run_to_end(foreshadow(&arguments));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains(&format!("by successor: {cause} was read")), "{said}");
    let (_, never) = server.page("/v1/prefetch?key=nowhere");
    assert!(never.contains("\"fetches\":[]") && never.contains("\"held\":false"), "{never}");
}

#[test]
fn without_the_switch_nothing_is_fetched_that_nobody_asked_for() {
    let Some(peer) = redis_like("redis-server") else { return };
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    for place in VISITS {
        tell(&mut origin, &["SET", place, place], "+OK\r\n");
    }
    let (server, _config) = served("off", peer.port, &[]);
    let mut client = server.connect();
    for _ in 0..ROUNDS {
        first_round(&mut client);
        forget(&mut client);
    }
    let before = gets(&mut origin);
    tell(&mut client, &["GET", VISITS[0]], bulk(VISITS[0]));
    tell(&mut client, &["EXISTS", VISITS[1]], ":0\r\n");
    assert_eq!(gets(&mut origin) - before, 1);
    let (_, page) = server.page("/v1/prefetch");
    assert!(page.contains("\"on\":false"), "{page}");
}
