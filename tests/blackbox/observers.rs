//! Client-side caching and MONITOR: told to whom it concerns, on whichever core, in order, and to nobody any more when it
//! has gone.

use crate::support::{Server, ask, bulk, eventually, expect, resp};
use std::io::{Read, Write};
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

fn id(client: &mut TcpStream) -> String {
    client.write_all(&resp(&["CLIENT", "ID"])).unwrap();
    let mut text = String::new();
    while !text.ends_with("\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text.trim_matches([':', '\r', '\n']).to_owned()
}

#[test]
fn another_connection_is_told_in_ones_place_whatever_core_it_is_on() {
    let server = Server::start(&[]);
    for round in 0..4 {
        let (mut reader, mut listener, mut writer) = (server.connect(), server.connect(), server.connect());
        let id = id(&mut listener);
        let subscribed = "*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n";
        ask(&mut listener, resp(&["SUBSCRIBE", "__redis__:invalidate"]), subscribed);
        ask(
            &mut reader,
            resp(&["CLIENT", "TRACKING", "ON", "REDIRECT", "99999999"]),
            "-ERR The client ID you want redirect to does not exist\r\n",
        );
        ask(&mut reader, resp(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]), "+OK\r\n");
        ask(&mut reader, resp(&["CLIENT", "GETREDIR"]), format!(":{id}\r\n"));
        let message = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
        for i in 0..20 {
            let key = format!("key:{i}");
            let before = if round == 0 { "$-1\r\n".to_owned() } else { bulk("v") };
            ask(&mut reader, resp(&["GET", &key]), before);
            ask(&mut writer, resp(&["SET", &key, "v"]), "+OK\r\n");
            expect(&mut listener, format!("{message}*1\r\n{}", bulk(&key)));
        }
        ask(&mut reader, "PING\r\n", "+PONG\r\n");
        // When that one has gone the one who redirects is told, in RESP3.
        ask(&mut reader, resp(&["CLIENT", "REPLY", "OFF"]), "");
        ask(&mut reader, resp(&["HELLO", "3"]), "");
        ask(&mut reader, resp(&["CLIENT", "REPLY", "ON"]), "+OK\r\n");
        ask(&mut writer, resp(&["CLIENT", "KILL", "ID", &id]), ":1\r\n");
        ask(&mut reader, resp(&["GET", "key:0"]), bulk("v"));
        ask(&mut writer, resp(&["SET", "key:0", "v"]), "+OK\r\n");
        expect(&mut reader, format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n"));
        ask(&mut reader, "PING\r\n", "+PONG\r\n");
    }
}

/// Reads lines until so many have come that hold a word.
fn lines_with(stream: &mut TcpStream, word: &str, count: usize) -> Vec<String> {
    let (mut text, mut found) = (String::new(), Vec::new());
    while found.len() < count {
        let mut piece = [0; 4096];
        let len = stream.read(&mut piece).expect("more lines");
        assert!(len > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&piece[..len]).expect("text"));
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        found.extend(text[..whole].lines().filter(|line| line.contains(word)).map(str::to_owned));
        text.drain(..whole);
    }
    found
}

#[test]
fn a_memcached_watcher_sees_what_happens_on_all_cores_by_any_protocol() {
    let server = Server::start(&["--memory", "48MiB"]);
    let mut watcher = server.connect();
    ask(&mut watcher, "watch fetchers mutations deletions connevents evictions\r\n", "OK\r\n");
    let (mut memcached, mut redis) = (server.connect(), server.connect());
    assert_eq!(lines_with(&mut watcher, "type=conn_new", 2).len(), 2);
    for i in 0..20 {
        let key = format!("key:{i}");
        ask(&mut redis, resp(&["SET", &key, "value", "EX", "100"]), "+OK\r\n");
        let stored = lines_with(&mut watcher, &format!("key=key%3A{i} "), 1).remove(0);
        let (head, facts) = stored.split_once(" type=").expect("a type");
        assert!(head.starts_with("ts=") && head.contains(" gid="), "{stored}");
        let facts = facts.split(" cfd=").next().unwrap();
        assert_eq!(facts, format!("item_store key=key%3A{i} status=stored cmd=set ttl=100 clsid=1"));
        ask(&mut memcached, format!("get {key}\r\n"), format!("VALUE {key} 0 5\r\nvalue\r\nEND\r\n"));
        let read = lines_with(&mut watcher, "type=item_get", 1).remove(0);
        assert!(read.contains(" status=found clsid=1 cfd=") && read.ends_with(" size=5"), "{read}");
        ask(&mut memcached, format!("delete {key}\r\n"), "DELETED\r\n");
        let gone = lines_with(&mut watcher, "type=deleted", 1).remove(0);
        assert!(gone.ends_with(&format!("type=deleted key=key%3A{i} cmd=delete clsid=1 size=5")), "{gone}");
    }
    drop(redis);
    lines_with(&mut watcher, "type=conn_close rip=127.0.0.1 ", 1);
    // More than fits: some are evicted.
    let value = "x".repeat(4000);
    for i in 0..150 {
        let sets = (0..100).map(|j| format!("set big:{i}:{j} 0 0 4000\r\n{value}\r\n"));
        ask(&mut memcached, sets.collect::<String>(), "STORED\r\n".repeat(100));
    }
    let gone = lines_with(&mut watcher, "type=eviction", 1).remove(0);
    // How long ago it was written depends on the machine.
    assert!(
        gone.contains(" key=big%3A")
            && gone.contains(" fetch=no ttl=-1 la=")
            && gone.ends_with(" clsid=1 size=4000"),
        "{gone}"
    );
    server.metric_becomes("foreshadow_watchers", |count| count == 1.0);
    drop(watcher);
    server.metric_becomes("foreshadow_watchers", |count| count == 0.0);
}

#[test]
fn a_watcher_who_does_not_read_holds_nobody_and_is_told_how_much_it_missed() {
    let server = Server::start(&[]);
    let mut watcher = server.connect();
    ask(&mut watcher, "watch fetchers\r\n", "OK\r\n");
    let mut client = server.connect();
    let key = "k".repeat(200);
    let mut sent = 0;
    // Until lines are skipped for want of room; the client is answered all the while.
    eventually("lines are skipped", || {
        let batch = format!("get {key}\r\n").repeat(2000);
        ask(&mut client, batch, "END\r\n".repeat(2000));
        sent += 2000;
        (server.metric("foreshadow_watch_lines_skipped_total") > 0.0).then_some(())
    });
    assert!(server.metric("foreshadow_buffer_bytes") < 16e6);
    let mut seen = 0u64;
    let mut text = String::new();
    // It reads again: what it sees and what it is told to have missed are all there was.
    watcher.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    eventually("everything is accounted for", || {
        ask(&mut client, "get last\r\n", "END\r\n");
        sent += 1;
        let mut piece = [0; 65536];
        while let Ok(len) = watcher.read(&mut piece) {
            assert!(len > 0, "closed");
            text.push_str(std::str::from_utf8(&piece[..len]).unwrap());
        }
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        for line in text[..whole].lines() {
            seen += match line.strip_prefix("skipped=") {
                Some(count) => count.parse::<u64>().expect("a number"),
                None => {
                    assert!(line.starts_with("ts="), "{line}");
                    1
                }
            };
        }
        text.drain(..whole);
        assert!(seen <= sent);
        (seen == sent).then_some(())
    });
}

#[test]
fn there_are_so_many_watchers() {
    let server = Server::start(&[]);
    let mut watchers: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    watchers.iter_mut().for_each(|watcher| ask(watcher, "watch\r\n", "OK\r\n"));
    let mut one_more = server.connect();
    ask(&mut one_more, "watch\r\nmn\r\n", "WATCHER_TOO_MANY log watcher limit reached\r\nMN\r\n");
    ask(&mut one_more, "watch proxyreqs\r\n", "CLIENT_ERROR there are no events of this kind here\r\n");
    drop(watchers);
    server.metric_becomes("foreshadow_watchers", |count| count == 0.0);
    ask(&mut one_more, "watch\r\n", "OK\r\n");
}
