//! `foreshadow bench` against servers that are honest, dead, slow, forgetful or lying: what it says and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// A server of the test's making: `answer` gets each connection and its first bytes, and says what it likes.
fn server(answer: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("accepted"), answer.clone());
            thread::spawn(move || answer(stream));
        }
    });
    port
}

/// Reads RESP commands and answers each with what `reply` makes of its arguments.
fn resp_server(reply: impl Fn(&[Vec<u8>]) -> Vec<u8> + Send + Sync + Clone + 'static) -> u16 {
    server(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut stream = stream;
        while let Some(arguments) = command(&mut reader) {
            if stream.write_all(&reply(&arguments)).is_err() {
                return;
            }
        }
    })
}

fn command(reader: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let number = |mark: char, reader: &mut dyn BufRead| -> Option<usize> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.trim_end().strip_prefix(mark)?.parse().ok()
    };
    let count = number('*', reader)?;
    (0..count)
        .map(|_| {
            let mut bytes = vec![0; number('$', reader)? + 2];
            reader.read_exact(&mut bytes).ok()?;
            bytes.truncate(bytes.len() - 2);
            Some(bytes)
        })
        .collect()
}

fn bench(port: u16, flags: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_foreshadow"))
        .args(["bench", "-p", &port.to_string(), "-c", "3"])
        .args(flags.split_whitespace())
        .output()
        .expect("the program runs")
}

#[track_caller]
fn assert_fails(output: &Output, words: &str) {
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

/// `foreshadow serve` on a free port, ended with the test.
struct Served {
    process: Child,
    port: u16,
}

impl Served {
    fn start() -> Served {
        let mut process = Command::new(env!("CARGO_BIN_EXE_foreshadow"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--memory",
                "64MiB",
                "--cores",
                "0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.split("listen=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
        Served { process, port: port.unwrap_or_else(|| panic!("no port in {line:?}")) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself; the test has failed already then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_honest_server_is_counted_in_every_protocol() {
    let served = Served::start();
    for flags in [
        "--protocol resp",
        "--protocol resp3 --pipeline 7",
        "--protocol memcached --data-size-range 0-300",
        "--protocol meta --pipeline 16 --key-pattern Z:G",
        "--protocol native --pipeline 16",
        "--protocol native --expiry 60",
        "--expiry 100 -d 40000 --key-maximum 99",
        "--rate 4000",
    ] {
        let fixed = "-n 5000 --key-maximum 999 --json --server-pid";
        let output = bench(served.port, &format!("{fixed} {} {flags}", served.process.id()));
        let said = String::from_utf8_lossy(&output.stdout);
        let json: serde_json::Value =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let test = &json["tests"][0];
        // Falling behind its clock is the machine's fault, not the server's; nothing else may be complained of.
        let complaints = test["complaints"].as_array().expect("a list");
        assert!(complaints.iter().all(|words| words.to_string().contains("fell behind")), "{flags}: {test}");
        let count = |name: &str| test[name].as_u64().expect("a count");
        assert_eq!(count("requests"), 5000, "{flags}: {test}");
        assert_eq!(count("hits") + count("stored"), 5000, "{flags}: {test}");
        assert!(count("stored") > 300 && count("stored") < 650, "1:10 of 5000 are SETs: {test}");
        assert!(test["server_cpu_micros_per_request"].as_f64().expect("measured") > 0.0);
    }
}

#[test]
fn a_saved_command_line_of_another_tool_works() {
    let served = Served::start();
    let port = served.port.to_string();
    for (line, answered) in [
        ("redis-benchmark -h 127.0.0.1 -c 5 -n 500 -d 64 -P 4 -r 100 -t set,get -q", "GET: "),
        (
            "memtier_benchmark -s 127.0.0.1 -P memcache_text -t 2 -c 3 -n 50 --ratio 1:1 -d 32 --key-maximum 50 \
          --key-prefix other- --hide-histogram",
            "300 answered",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_foreshadow"))
            .arg("bench")
            .args(line.split_whitespace())
            .args(["-p", &port])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(answered), "{line}: {said}");
    }
}

#[test]
fn a_dead_server_is_named() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    assert_fails(&bench(port, "-n 10"), "cannot connect to 127.0.0.1");
}

#[test]
fn a_server_that_closes_is_named() {
    let port = server(|mut stream| {
        // Whatever came, it is answered by closing.
        let _ = stream.read(&mut [0; 16]);
    });
    assert_fails(&bench(port, "-n 10"), "closed connection");
}

#[test]
fn a_silent_server_ends_the_run() {
    let port = server(|mut stream| {
        let mut buf = [0; 4096];
        while stream.read(&mut buf).is_ok_and(|len| len > 0) {}
    });
    assert_fails(&bench(port, "-n 10 --timeout 0.3"), "no answer for");
    assert_fails(&bench(port, "-n 10 --timeout 0.3 --no-prefill --rate 1000"), "no answer for");
}

#[test]
fn a_wrong_value_is_a_lie_even_with_the_right_length() {
    let port = resp_server(|arguments| match arguments[0].as_slice() {
        b"SET" => b"+OK\r\n".to_vec(),
        _ => [b"$100\r\n", [b'x'; 100].as_slice(), b"\r\n"].concat(),
    });
    let output = bench(port, "-n 50 --key-maximum 9");
    assert_fails(&output, "a value that was not put under their key");
    // Told not to look, it does not.
    assert!(bench(port, "-n 50 --key-maximum 9 --no-verify").status.success());
}

#[test]
fn a_forgetful_server_is_held_to_what_was_written() {
    let port = resp_server(|arguments| match arguments[0].as_slice() {
        b"SET" => b"+OK\r\n".to_vec(),
        _ => b"$-1\r\n".to_vec(),
    });
    assert_fails(&bench(port, "-n 50 --key-maximum 9"), "GETs hit");
    assert!(bench(port, "-n 50 --key-maximum 9 --expect-hits 0").status.success());
}

#[test]
fn a_server_that_babbles_or_refuses_is_named() {
    let port = resp_server(|_| b"!what\r\n".to_vec());
    assert_fails(&bench(port, "-n 10"), "the server answered \"!what\"");
    let port = resp_server(|_| b"-OOM no memory\r\n".to_vec());
    assert_fails(&bench(port, "-n 10 --key-maximum 3"), "refused, for instance: -OOM no memory");
    let port = resp_server(|_| b"+OK\r\n+OK\r\n".to_vec());
    assert_fails(&bench(port, "-n 10 --ratio 1:0 --no-prefill"), "without being asked");
}

#[test]
fn a_bad_command_line_ends_with_two() {
    let output = bench(1, "--ratio none");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--ratio none"));
}
