//! Start, signals, end.

use crate::support::{Server, ask, bulk, connect, eventually, expect, foreshadow, resp, rest};
use std::io::Write;
use std::net::TcpStream;

#[test]
fn the_ready_line_says_all_that_was_promised_and_nothing_follows_it() {
    let server = Server::start(&["--cores", "0", "--memory", "32MiB"]);
    let (listen, admin) = (server.listen, server.admin);
    let expected = format!("ready listen={listen} admin={admin} cores=0 memory=33554432 driver=io_uring\n");
    assert_eq!(server.ready_line, expected);
    assert!(listen.port() != 0 && admin.port() != 0);
}

#[test]
fn it_serves_what_it_was_told_to_on_each_listener() {
    let server = Server::start(&["--listen=127.0.0.1:0,[::1]:0"]);
    ask(&mut server.connect(), "PING\r\n", "+PONG\r\n");
    let resp_only = Server::start(&["--listen=", "--resp-listen", "127.0.0.1:0"]);
    // A lower-case word is memcached where protocols are told apart, and a RESP command here.
    ask(&mut resp_only.connect(), "version\r\n", "-ERR unknown command 'version'");
    let memcached_only = Server::start(&["--listen=", "--memcached-listen", "127.0.0.1:0"]);
    ask(&mut memcached_only.connect(), "PING\r\n", "ERROR\r\n");
}

#[test]
fn sigterm_and_sigint_drain_and_end_with_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let mut client = server.connect();
        ask(&mut client, resp(&["SET", "k", "v"]), "+OK\r\n");
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}: {}", server.logged());
        assert_eq!(rest(&mut client), b"", "an idle client is closed without a word");
        // The kernel takes a process's ring apart a moment after the process has ended.
        eventually("nobody listens any more", || TcpStream::connect(server.listen).is_err().then_some(()));
    }
}

#[test]
fn replies_that_were_earned_before_sigterm_still_arrive() {
    let mut server = Server::start(&["--memory", "1GiB"]);
    let value = "v".repeat(100_000);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", &value]), "+OK\r\n");
    // Many times what socket buffers hold, so that most of it is still to be sent when the signal comes.
    let gets = 200;
    client.write_all(&resp(&["GET", "k"]).repeat(gets)).unwrap();
    expect(&mut client, bulk(&value));
    server.signal("TERM");
    // Those that were executed arrive whole; where it stopped executing, the stream ends between two replies.
    let replies = rest(&mut client);
    assert_eq!(replies.len() % bulk(&value).len(), 0, "{} bytes", replies.len());
    assert!(replies.chunks(bulk(&value).len()).all(|reply| reply == bulk(&value).as_bytes()));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn draining_ends_in_its_time_although_a_client_takes_nothing() {
    let mut server = Server::start(&["--drain-timeout", "300ms", "--memory", "1GiB"]);
    let value = "v".repeat(1_000_000);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", &value]), "+OK\r\n");
    client.write_all(&resp(&["GET", "k"]).repeat(30)).unwrap();
    expect(&mut client, "$1000000\r\n");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn while_it_drains_it_is_not_ready() {
    let mut server = Server::start(&["--drain-timeout", "1h", "--memory", "1GiB"]);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", &"v".repeat(1_000_000)]), "+OK\r\n");
    client.write_all(&resp(&["GET", "k"]).repeat(30)).unwrap();
    expect(&mut client, "$1000000\r\n");
    assert_eq!(server.page("/readyz").0, 200);
    server.signal("TERM");
    eventually("not ready", || (server.page("/readyz").0 == 503).then_some(()));
    assert_eq!(server.page("/livez").0, 200);
    assert!(server.runs());
    server.signal("TERM");
    server.wait();
}

/// Cores share their address among themselves, and by that alone a second server could share it, too.
#[test]
fn a_second_server_on_the_same_address_is_refused() {
    let server = Server::start(&[]);
    let address = server.listen.to_string();
    let output =
        crate::support::run_to_end(foreshadow(&["serve", "--listen", &address, "--admin", "127.0.0.1:0"]));
    assert_ne!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&address) && said.to_lowercase().contains("in use"), "{said}");
    assert!(output.stdout.is_empty(), "it called itself ready");
}

#[test]
fn a_reload_keeps_to_what_the_machine_allows() {
    let mut command = crate::support::serve_command(&[]);
    crate::environment::limit(&mut command, libc::RLIMIT_NOFILE, 1024);
    let server = Server::of_command(command);
    let allowed = server.metric_becomes("foreshadow_clients_max", |most| most > 0.0);
    assert!(allowed < 1024.0, "{allowed}");
    server.signal("HUP");
    eventually("reloaded", || server.logged().contains("reloaded").then_some(()));
    assert!(server.logged().contains(&format!("clients_max={allowed}")), "{}", server.logged());
    assert_eq!(server.metric("foreshadow_clients_max"), allowed);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--drain-timeout", "1h", "--memory", "1GiB"]);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", &"v".repeat(1_000_000)]), "+OK\r\n");
    client.write_all(&resp(&["GET", "k"]).repeat(30)).unwrap();
    expect(&mut client, "$1000000\r\n");
    server.signal("TERM");
    eventually("draining is noticed", || server.logged().contains("drain").then_some(()));
    assert!(server.runs());
    server.signal("TERM");
    assert_ne!(server.wait().code(), Some(0), "what was cut off is not called clean");
}

/// Clients that ask without a pause until their connection ends; each answer is checked as far as it comes.
fn full_load(server: &Server) -> Vec<std::thread::JoinHandle<usize>> {
    let address = server.listen;
    let pump = move || {
        let mut client = connect(address);
        let questions = resp(&["INCR", "n"]).repeat(500);
        let mut bytes = 0;
        let mut piece = [0; 65536];
        while client.write_all(&questions).is_ok() {
            match std::io::Read::read(&mut client, &mut piece) {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    assert!(piece[..len].iter().all(|byte| b":0123456789\r\n".contains(byte)));
                    bytes += len;
                }
            }
        }
        bytes
    };
    (0..4).map(|_| std::thread::spawn(pump)).collect()
}

/// Number 40.
#[test]
fn at_full_load_sigterm_drains_within_its_bound() {
    let mut server = Server::start(&["--drain-timeout", "2s"]);
    let clients = full_load(&server);
    server.metric_becomes("foreshadow_commands_total", |count| count > 10_000.0);
    let signalled = std::time::Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.logged());
    // What the process itself takes to go comes on top, on machines that are busy.
    assert!(signalled.elapsed() < std::time::Duration::from_secs(12), "{:?}", signalled.elapsed());
    assert!(clients.into_iter().all(|client| client.join().expect("only right answers") > 0));
}

/// Number 40.
#[test]
fn killed_at_full_load_it_starts_clean_on_the_same_address() {
    let mut server = Server::start(&[]);
    let address = server.listen.to_string();
    for _ in 0..3 {
        let clients = full_load(&server);
        server.metric_becomes("foreshadow_commands_total", |count| count > 10_000.0);
        server.signal("KILL");
        server.wait();
        let bytes: usize = clients.into_iter().map(|client| client.join().expect("only right answers")).sum();
        assert!(bytes > 0);
        // The kernel takes a process's ring apart a moment after the process has ended.
        eventually("nobody listens any more", || std::net::TcpListener::bind(&address).is_ok().then_some(()));
        server = Server::start(&["--listen", &address]);
        ask(&mut server.connect(), resp(&["GET", "n"]), "$-1\r\n");
        ask(&mut server.connect(), resp(&["INCR", "n"]), ":1\r\n");
    }
}

#[test]
fn it_ends_when_standard_input_closes() {
    let mut server = Server::start(&[]);
    server.close_stdin();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sighup_reads_the_file_again_and_keeps_the_old_when_it_is_broken() {
    let file = std::env::temp_dir().join(format!("foreshadow-reload-{}.toml", std::process::id()));
    std::fs::write(&file, "[network]\nmax-clients = 2\n").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| ask(client, "PING\r\n", "+PONG\r\n"));
    let mut third = server.connect();
    expect(&mut third, "-ERR max number of clients reached\r\n");
    std::fs::write(&file, "[network]\nmax-clients = \"many\"\n").unwrap();
    server.signal("HUP");
    eventually("the problem is logged", || server.logged().contains(":2:15: `many` is not").then_some(()));
    ask(&mut clients[0], "PING\r\n", "+PONG\r\n");
    std::fs::write(&file, "[network]\nmax-clients = 3\n").unwrap();
    server.signal("HUP");
    eventually("a third client is served", || {
        let mut third = connect(server.listen);
        third.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        std::io::Read::read_exact(&mut third, &mut reply).ok()?;
        (&reply == b"+PONG\r\n").then_some(())
    });
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn sighup_lowers_the_limit_of_memory_and_what_is_too_much_goes_while_it_serves() {
    const MIB: f64 = (1 << 20) as f64;
    let file = std::env::temp_dir().join(format!("foreshadow-limit-{}.toml", std::process::id()));
    std::fs::write(&file, "[store]\nmemory = \"96MiB\"\n").unwrap();
    // A flag would stand above the file; so without those that other tests have.
    let mut command = foreshadow(&["serve", "--exit-on-stdin-close", "--listen", "127.0.0.1:0"]);
    command.args(["--admin", "127.0.0.1:0", "--busy-poll-us", "0", "--config", file.to_str().unwrap()]);
    let server = Server::of_command(command);
    let mut client = server.connect();
    let value = "v".repeat(1000);
    let fill = |client: &mut TcpStream, from: usize| {
        for batch in 0..100 {
            let keys = (0..600).map(|i| format!("key:{}", from + batch * 600 + i));
            let sets: Vec<u8> = keys.flat_map(|key| resp(&["SET", &key, &value])).collect();
            ask(client, sets, "+OK\r\n".repeat(600));
        }
    };
    fill(&mut client, 0);
    server.metric_becomes("foreshadow_store_bytes", |bytes| bytes > 60.0 * MIB);
    assert_eq!(server.metric("foreshadow_memory_limit_bytes"), 96.0 * MIB);
    std::fs::write(&file, "[store]\nmemory = \"32MiB\"\n").unwrap();
    server.signal("HUP");
    server.metric_becomes("foreshadow_memory_limit_bytes", |bytes| bytes == 32.0 * MIB);
    server.metric_becomes("foreshadow_store_bytes", |bytes| bytes <= 32.0 * MIB);
    assert!(server.metric("foreshadow_evicted_total") > 30_000.0);
    // It serves on, within the new limit.
    fill(&mut client, 100_000);
    ask(&mut client, resp(&["GET", "key:159999"]), bulk(&value));
    server.metric_becomes("foreshadow_evicted_total", |count| count > 90_000.0);
    assert!(server.metric("foreshadow_store_bytes") <= 32.0 * MIB);
    std::fs::write(&file, "[store]\nmemory = \"96MiB\"\n").unwrap();
    server.signal("HUP");
    server.metric_becomes("foreshadow_memory_limit_bytes", |bytes| bytes == 96.0 * MIB);
    fill(&mut client, 200_000);
    server.metric_becomes("foreshadow_store_bytes", |bytes| bytes > 60.0 * MIB && bytes <= 96.0 * MIB);
    std::fs::remove_file(&file).unwrap();
}
