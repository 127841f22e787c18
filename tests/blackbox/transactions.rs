//! Transactions: one step for everybody, whichever core the keys belong to and whichever the client came by.

use crate::support::{Server, ask, expect, resp};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

fn commands(lines: &[&[&str]]) -> Vec<u8> {
    lines.iter().flat_map(|words| resp(words)).collect()
}

/// Pairs of counters are only ever changed together; a reader who saw them differ saw the middle of a transaction.
#[test]
fn nobody_sees_the_middle_of_a_transaction() {
    const ROUNDS: usize = 400;
    let server = Server::start(&[]);
    let tags: Vec<String> = (0..8).map(|i| format!("{{tag{i}}}")).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.connect();
                    for round in 0..ROUNDS {
                        let tag = &tags[round % tags.len()];
                        let (a, b) = (format!("{tag}a"), format!("{tag}b"));
                        let sent: [&[&str]; 4] = [&["MULTI"], &["INCR", &a], &["INCR", &b], &["EXEC"]];
                        client.write_all(&commands(&sent)).expect("sent");
                        expect(&mut client, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n");
                        // Both counters answer the same number.
                        let (first, second) = (number(&mut client), number(&mut client));
                        assert_eq!(first, second);
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut client = server.connect();
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                for tag in &tags {
                    let (a, b) = (format!("{tag}a"), format!("{tag}b"));
                    client.write_all(&commands(&[&["MULTI"], &["MGET", &a, &b], &["EXEC"]])).expect("sent");
                    expect(&mut client, "+OK\r\n+QUEUED\r\n*1\r\n*2\r\n");
                    let (first, second) = (bulk(&mut client), bulk(&mut client));
                    assert_eq!(first, second, "the middle of a transaction was seen");
                    looks += 1;
                }
            }
            looks
        });
        writers.into_iter().for_each(|writer| writer.join().expect("no writer failed"));
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader saw no middle") > 0);
    });
    let mut client = server.connect();
    let expected = (2 * ROUNDS / tags.len()).to_string();
    for tag in &tags {
        ask(&mut client, resp(&["GET", &format!("{tag}b")]), crate::support::bulk(&expected));
    }
}

/// Increments by WATCH, GET and SET, tried again where a transaction did not happen: none is lost.
#[test]
fn what_is_watched_is_never_overwritten() {
    const EACH: usize = 60;
    let server = Server::start(&[]);
    let keys = ["counter:a", "counter:b", "counter:c"];
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = server.connect();
                for round in 0..EACH {
                    let key = keys[round % keys.len()];
                    loop {
                        client.write_all(&commands(&[&["WATCH", key], &["GET", key]])).expect("sent");
                        expect(&mut client, "+OK\r\n");
                        let next =
                            bulk(&mut client).map_or(1, |text| text.parse::<u64>().unwrap() + 1).to_string();
                        let sent: [&[&str]; 3] = [&["MULTI"], &["SET", key, &next], &["EXEC"]];
                        client.write_all(&commands(&sent)).expect("sent");
                        expect(&mut client, "+OK\r\n+QUEUED\r\n");
                        match line(&mut client).as_str() {
                            "*1" => {
                                expect(&mut client, "+OK\r\n");
                                break;
                            }
                            "*-1" => {}
                            other => panic!("{other}"),
                        }
                    }
                }
            });
        }
    });
    let mut client = server.connect();
    for key in keys {
        ask(&mut client, resp(&["GET", key]), crate::support::bulk(&(3 * EACH / keys.len()).to_string()));
    }
}

/// A line without its end.
fn line(stream: &mut std::net::TcpStream) -> String {
    use std::io::Read;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a reply");
        line.push(byte[0]);
    }
    String::from_utf8(line[..line.len() - 2].to_vec()).expect("text")
}

fn number(stream: &mut std::net::TcpStream) -> u64 {
    line(stream).strip_prefix(':').expect("a number").parse().expect("digits")
}

fn bulk(stream: &mut std::net::TcpStream) -> Option<String> {
    match line(stream).as_str() {
        "$-1" => None,
        _ => Some(line(stream)),
    }
}
