//! Sockets of this machine: served like the others, with permissions, and a path that outlives nobody.

use crate::support::{PATIENCE, Server, bulk, resp, run_to_end, serve_command};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("foreshadow-{name}-{}.sock", std::process::id()))
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut UnixStream, bytes: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("sent");
    let mut got = vec![0; expected.as_ref().len()];
    stream.read_exact(&mut got).expect("answered");
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected.as_ref()));
}

#[test]
fn a_path_serves_every_protocol_beside_the_addresses() {
    let path = path("serves");
    let text = path.to_str().unwrap();
    let mut server = Server::start(&["--unix-listen", text, "--unix-permissions", "750"]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750);
    // More connections than cores, so that each core has some.
    let mut clients: Vec<UnixStream> = (0..16).map(|_| connect(&path)).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        ask(client, resp(&["SET", &format!("k{i}"), "v"]), "+OK\r\n");
    }
    let mut memcached = connect(&path);
    ask(&mut memcached, "get k7\r\n", "VALUE k7 0 1\r\nv\r\nEND\r\n");
    crate::support::ask(&mut server.connect(), resp(&["GET", "k3"]), bulk("v"));
    let long = "x".repeat(1 << 20);
    ask(&mut clients[0], resp(&["SET", "long", &long]), "+OK\r\n");
    ask(&mut clients[1], resp(&["GET", "long"]), bulk(&long));
    // Shown as Redis shows it: the path, and port 0.
    clients[0].write_all(&resp(&["CLIENT", "INFO"])).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(clients[0].try_clone().unwrap());
    for _ in 0..2 {
        reader.read_line(&mut line).unwrap();
    }
    assert!(line.contains(&format!(" addr={text}:0 laddr={text}:0 ")), "{line}");
    server.metric_becomes("foreshadow_connections", |n| n == 17.0);
    drop((clients, memcached, reader));
    server.metric_becomes("foreshadow_connections", |n| n == 0.0);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists(), "who ends cleans up");
}

#[test]
fn a_path_of_a_dead_server_is_taken_and_one_of_a_living_is_not() {
    let path = path("stale");
    let text = path.to_str().unwrap();
    let mut first = Server::start(&["--unix-listen", text]);
    let output = run_to_end(serve_command(&["--unix-listen", text]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another server answers there"), "{said}");
    ask(&mut connect(&path), "PING\r\n", "+PONG\r\n");
    first.signal("KILL");
    first.wait();
    assert!(path.exists(), "the killed left it");
    let second = Server::start(&["--unix-listen", text]);
    ask(&mut connect(&path), "PING\r\n", "+PONG\r\n");
    drop(second);
    // A file that is no socket is nobody's to remove.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let output = run_to_end(serve_command(&["--unix-listen", text]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("there is a file that is no socket"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_path_may_be_all_there_is() {
    let path = path("alone");
    let mut command = serve_command(&["--listen=", "--unix-listen", path.to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(&format!("ready listen=unix:{} ", path.display())), "{line}");
    ask(&mut connect(&path), "PING\r\n", "+PONG\r\n");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!path.exists());
}
