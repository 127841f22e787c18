//! Client-side caching and MONITOR: told to whom it concerns, on whichever core, in order, and to nobody any more when it
//! has gone.

use crate::support::{Server, ask, bulk, eventually, expect, resp};
use std::net::TcpStream;

fn changed(key: &str) -> String {
    format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n{}", bulk(key))
}

/// A connection that speaks RESP3 and was told so.
fn resp3(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    ask(&mut stream, resp(&["CLIENT", "REPLY", "OFF"]), "");
    ask(&mut stream, resp(&["HELLO", "3"]), "");
    ask(&mut stream, resp(&["CLIENT", "REPLY", "ON"]), "+OK\r\n");
    stream
}

#[test]
fn readers_are_told_of_changes_by_any_protocol_and_core() {
    let server = Server::start(&[]);
    let (mut reader, mut writer, mut memcached) = (resp3(&server), server.connect(), server.connect());
    ask(&mut reader, resp(&["CLIENT", "TRACKING", "ON"]), "+OK\r\n");
    for i in 0..40 {
        let key = format!("key:{i}");
        ask(&mut reader, resp(&["GET", &key]), "_\r\n");
        match i % 4 {
            0 => ask(&mut writer, resp(&["SET", &key, "v"]), "+OK\r\n"),
            1 => ask(&mut memcached, format!("set {key} 0 0 1\r\nv\r\n"), "STORED\r\n"),
            2 => ask(&mut writer, resp(&["MSETNX", &key, "v"]), ":1\r\n"),
            _ => ask(&mut writer, resp(&["INCR", &key]), ":1\r\n"),
        }
        expect(&mut reader, changed(&key));
        // Told once: the next change is of no interest until the key is read again.
        ask(&mut writer, resp(&["APPEND", &key, "1"]), ":2\r\n");
        ask(&mut reader, resp(&["PING"]), "+PONG\r\n");
    }
    ask(&mut reader, resp(&["MGET", "key:0", "key:1", "none"]), "*3\r\n$2\r\nv1\r\n$2\r\nv1\r\n_\r\n");
    ask(&mut writer, resp(&["DEL", "key:0"]), ":1\r\n");
    expect(&mut reader, changed("key:0"));
    ask(&mut writer, resp(&["FLUSHALL"]), "+OK\r\n");
    expect(&mut reader, ">2\r\n$10\r\ninvalidate\r\n_\r\n");
}

#[test]
fn a_follower_is_told_of_its_prefixes_and_not_of_its_own_changes() {
    let server = Server::start(&[]);
    let (mut follower, mut writer) = (resp3(&server), server.connect());
    let tracking = ["CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", "user:", "PREFIX", "item:"];
    ask(&mut follower, resp(&tracking), "+OK\r\n");
    for i in 0..20 {
        let (user, other) = (format!("user:{i}"), format!("other:{i}"));
        ask(&mut follower, resp(&["SET", &user, "own"]), "+OK\r\n");
        ask(&mut writer, resp(&["SET", &other, "v"]), "+OK\r\n");
        ask(&mut writer, resp(&["SET", &user, "v"]), "+OK\r\n");
        expect(&mut follower, changed(&user));
    }
    ask(&mut follower, resp(&["CLIENT", "TRACKING", "OFF"]), "+OK\r\n");
    ask(&mut writer, resp(&["SET", "user:1", "v"]), "+OK\r\n");
    ask(&mut follower, resp(&["PING"]), "+PONG\r\n");
}

#[test]
fn an_item_that_ends_is_told_of() {
    let server = Server::start(&[]);
    let mut reader = resp3(&server);
    ask(&mut reader, resp(&["CLIENT", "TRACKING", "ON"]), "+OK\r\n");
    ask(&mut reader, resp(&["SET", "short", "v", "PX", "50"]), "+OK\r\n");
    ask(&mut reader, resp(&["GET", "short"]), "$1\r\nv\r\n");
    expect(&mut reader, changed("short"));
}

#[test]
fn observers_that_have_gone_leave_nothing_behind() {
    let server = Server::start(&[]);
    for _ in 0..20 {
        let mut reader = resp3(&server);
        ask(&mut reader, resp(&["CLIENT", "TRACKING", "ON"]), "+OK\r\n");
        ask(&mut reader, resp(&["GET", "a"]), "_\r\n");
        let mut monitor = server.connect();
        ask(&mut monitor, resp(&["MONITOR"]), "+OK\r\n");
    }
    server.metric_becomes("foreshadow_connections", |count| count == 0.0);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "a", "1"]), "+OK\r\n");
    ask(&mut client, resp(&["GET", "a"]), "$1\r\n1\r\n");
}

#[test]
fn a_monitor_sees_commands_of_other_connections_and_no_passwords() {
    let server = Server::start(&["--password", "sesame"]);
    let mut monitor = server.connect();
    ask(&mut monitor, resp(&["AUTH", "sesame"]), "+OK\r\n");
    ask(&mut monitor, resp(&["MONITOR"]), "+OK\r\n");
    let mut clients: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        ask(client, resp(&["AUTH", "sesame"]), "+OK\r\n");
        ask(client, resp(&["SET", &format!("key:{i}"), "two \"words\"\r\n"]), "+OK\r\n");
    }
    monitor.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let mut seen = String::new();
    eventually("all commands are shown", || {
        let mut piece = [0; 4096];
        if let Ok(len) = std::io::Read::read(&mut monitor, &mut piece) {
            seen.push_str(std::str::from_utf8(&piece[..len]).unwrap());
        }
        (0..8)
            .all(|i| seen.contains(&format!("\"SET\" \"key:{i}\" \"two \\\"words\\\"\\r\\n\"\r\n")))
            .then_some(())
    });
    assert!(!seen.contains("sesame"), "{seen}");
}
