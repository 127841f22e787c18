//! What serving costs, counted from outside.

use crate::support::{Server, ask, bulk, expect, resp, serve_command};
use std::io::Write;
use std::process::Command;

/// A batch of hits costs the system calls of its turns; a hit adds none of its own.
#[test]
fn a_hit_makes_no_system_call_of_its_own() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIP  a_hit_makes_no_system_call_of_its_own: strace is not installed");
        return;
    }
    let log = std::env::temp_dir().join(format!("foreshadow-strace-{}", std::process::id()));
    let plain = serve_command(&["--cores", "0"]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o"]).arg(&log).arg(plain.get_program()).args(plain.get_args());
    traced.env_remove("FORESHADOW_PASSWORD");
    let piped = std::process::Stdio::piped;
    traced.stdin(piped()).stdout(piped()).stderr(piped());
    let server = Server::of_command(traced);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", "value"]), "+OK\r\n");
    let calls = || std::fs::read_to_string(&log).expect("strace writes it").lines().count();
    let batches = |client: &mut std::net::TcpStream, count: usize, hits: usize| {
        let before = calls();
        for _ in 0..count {
            client.write_all(&resp(&["GET", "k"]).repeat(hits)).expect("sent");
            for _ in 0..hits {
                expect(client, bulk("value"));
            }
        }
        calls() - before
    };
    batches(&mut client, 5, 1);
    // The same number of batches, of 1 hit and of 200: the difference is what 19,900 hits cost beside their batches.
    let (few, many) = (batches(&mut client, 100, 1), batches(&mut client, 100, 200));
    drop(server);
    std::fs::remove_file(&log).expect("it was there");
    assert!(few > 100, "strace saw {few} calls of 100 batches: it does not see the core");
    assert!(
        few < 300,
        "{few} calls for 100 requests, one at a time: two each are enough, and some of the core's own"
    );
    assert!(many < few + 2000, "{few} calls for 100 hits in 100 batches, {many} for 20000 in 100");
}
