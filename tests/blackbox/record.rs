//! Recording live traffic, and replaying what was recorded.

use crate::support::{Server, bulk, connect, expect, foreshadow, resp, run_to_end};
use foreshadow::recording::{Kind, MAGIC, ROW_BYTES, Row};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

const KEYS: usize = 50;
const READS: usize = 7;

/// A path that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("foreshadow-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary folder has a plain name")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Begins to record; what is answered comes behind the head.
fn begin(server: &Server, query: &str) -> TcpStream {
    let mut stream = connect(server.admin);
    write!(stream, "GET /v1/record?{query} HTTP/1.0\r\n\r\n").expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(MAGIC) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the head comes at once");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
    stream
}

fn next(stream: &mut TcpStream) -> Option<Row> {
    let mut bytes = [0; ROW_BYTES];
    stream.read_exact(&mut bytes).ok().map(|()| Row::read(&bytes))
}

fn read(client: &mut TcpStream, key: &str, expected: &str) {
    client.write_all(&resp(&["GET", key])).expect("sent");
    expect(client, expected);
}

fn value(key: usize) -> String {
    "v".repeat(10 + key)
}

#[test]
fn what_is_read_while_it_is_recorded_is_in_the_trace_once_and_whole_and_replays() {
    let server = Server::start(&["--cores=0,1"]);
    let mut clients = [server.connect(), server.connect()];
    for key in 0..KEYS {
        clients[0].write_all(&resp(&["SET", &format!("secret-name-{key}"), &value(key)])).expect("sent");
        expect(&mut clients[0], "+OK\r\n");
    }
    let mut stream = begin(&server, "seconds=4");
    // All cores record as soon as each has shown it: these keys are of both.
    let mut rows = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 16 {
        for marker in 0..16 {
            read(&mut clients[0], &format!("marker-{marker}"), "$-1\r\n");
        }
        let row = next(&mut stream).expect("rows come while it is recorded");
        seen.insert(row.key);
        rows.push(row);
    }
    for _ in 0..READS {
        for key in 0..KEYS {
            read(&mut clients[key % 2], &format!("secret-name-{key}"), &bulk(&value(key)));
        }
    }
    rows.extend(std::iter::from_fn(|| next(&mut stream)));
    let last = rows.pop().expect("there is a last row");
    assert_eq!((last.kind, last.key), (Kind::End.number(), 0), "nothing was lost");
    assert!(rows.is_sorted_by_key(|row| row.nanos), "in the order of their times");
    let mut counts: HashMap<u64, Vec<&Row>> = HashMap::new();
    rows.iter().for_each(|row| counts.entry(row.key).or_default().push(row));
    let mine: Vec<_> = counts.values().filter(|rows| rows[0].size > 0).collect();
    assert_eq!(mine.len(), KEYS);
    for rows in mine {
        let key = rows[0].size as usize - "secret-name-".len() - 10;
        // The size is that of key and value; the longer key has one digit more.
        let key = if key >= 11 { key - 2 } else { key - 1 };
        assert_eq!(rows.len(), READS, "key {key}");
        assert!(rows.iter().all(|row| row.client == rows[0].client), "each key had one client");
    }
    let mut bytes = MAGIC.to_vec();
    rows.iter().chain([&last]).for_each(|row| row.write(&mut bytes));
    assert!(!bytes.windows(6).any(|window| window == b"secret"), "no key can be read");
    let file = Scratch::new("recorded.trace");
    std::fs::write(&file.0, &bytes).expect("the temporary folder can be written");
    let output = run_to_end(foreshadow(&["replay", file.path(), "--memory", "1MiB", "--json"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(page["requests"], rows.len());
    assert_eq!(page["footprint_items"], KEYS + 16);
    assert_eq!(page["ours"]["misses"], KEYS + 16, "with room for all each is missed once");
}

#[test]
fn a_sample_is_one_of_keys() {
    let server = Server::start(&["--cores=0"]);
    let mut client = server.connect();
    let mut stream = begin(&server, "seconds=3&sample=0.5");
    let mut rows = Vec::new();
    while rows.is_empty() {
        for marker in 0..64 {
            read(&mut client, &format!("marker-{marker}"), "$-1\r\n");
        }
        rows.extend(next(&mut stream));
    }
    // From here on it is recorded for sure.
    for _ in 0..READS {
        (0..400).for_each(|key| read(&mut client, &format!("sampled-{key}"), "$-1\r\n"));
    }
    rows.extend(std::iter::from_fn(|| next(&mut stream)));
    let mut counts: HashMap<u64, usize> = HashMap::new();
    rows.iter().filter(|row| row.kind == 0).for_each(|row| *counts.entry(row.key).or_default() += 1);
    assert!(counts.keys().all(|&key| key <= 1 << 63), "half of all hashes");
    let whole = counts.values().filter(|&&count| count == READS).count();
    assert!((120..280).contains(&whole), "{whole} of 400");
}

#[test]
fn the_subcommand_writes_a_trace_that_replays_and_says_what_is_in_it() {
    let server = Server::start(&[]);
    let file = Scratch::new("subcommand.trace");
    let admin = server.admin.to_string();
    let arguments = ["record", file.path(), "--seconds", "2", "--admin", &admin];
    let mut recorder = foreshadow(&arguments).spawn().expect("the binary starts");
    let mut client = server.connect();
    let mut i = 0;
    while recorder.try_wait().expect("it is our child").is_none() {
        read(&mut client, &format!("key-{}", i % 100), "$-1\r\n");
        i += 1;
    }
    let output = recorder.wait_with_output().expect("it ended");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains(" reads in "), "{said}{output:?}");
    assert!(output.stderr.is_empty(), "no progress where there is no terminal");
    let replayed =
        run_to_end(foreshadow(&["replay", file.path(), "--memory", "1MiB", "--baseline", "lru", "--json"]));
    let page: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert!(page["requests"].as_u64().is_some_and(|requests| requests >= 100), "{page}");
    assert_eq!(page["footprint_items"], 100);
    let again = run_to_end(foreshadow(&arguments));
    assert_eq!(again.status.code(), Some(1), "what is there is not overwritten");
}

#[test]
fn who_has_no_password_records_nothing() {
    let mut command = crate::support::serve_command(&[]);
    command.env("FORESHADOW_PASSWORD", "sesame");
    let server = Server::of_command(command);
    let file = Scratch::new("refused.trace");
    let admin = server.admin.to_string();
    let arguments = ["record", file.path(), "--seconds", "1", "--admin", &admin];
    let output = run_to_end(foreshadow(&arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("401"), "{said}");
    assert!(!file.0.exists(), "nothing is left behind");
    let mut command = foreshadow(&arguments);
    command.env("FORESHADOW_PASSWORD", "sesame");
    assert!(run_to_end(command).status.success());
}
