//! `foreshadow bench` against servers that are honest, dead, slow, forgetful or lying: what it says and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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

/// A server that hears something, says `first` at once, then `drip` for ever, a byte at a time with pauses.
fn dripping(first: &'static [u8], drip: &'static [u8], pause: Duration) -> u16 {
    server(move |mut stream| {
        if !stream.read(&mut [0; 4096]).is_ok_and(|len| len > 0) || stream.write_all(first).is_err() {
            return;
        }
        for byte in drip.iter().cycle() {
            thread::sleep(pause);
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    })
}

/// Runs it and answers its output with the time it took.
fn timed(port: u16, flags: &str) -> (Output, Duration) {
    let began = Instant::now();
    let output = bench(port, flags);
    (output, began.elapsed())
}

/// What the run may take beyond what it was asked for: starting, and a busy machine.
const SLACK: Duration = Duration::from_secs(8);

/// Once, each byte was taken for a sign of life, and the run went on for ever.
#[test]
fn a_server_that_trickles_its_answer_ends_the_run() {
    let port = dripping(b"", b"+PONG\r\n", Duration::from_millis(500));
    let (output, took) = timed(port, "-t ping -n 3 --pipeline 3 --timeout 1 -c 1");
    assert_fails(&output, "no answer for 1 s");
    assert!(took < SLACK, "{took:?}");
    let port = dripping(b"$100\r\n", b"x", Duration::from_millis(200));
    let (output, took) = timed(port, "-c 1 --no-prefill --timeout 1 --test-time 1 --ratio 0:1");
    assert_fails(&output, "no answer for 1 s");
    assert!(took < SLACK, "{took:?}");
}

/// Once, the length was only looked at when the value had come.
#[test]
fn an_absurd_length_is_a_lie_at_once() {
    const GET: &[u8] = b"\xf6\x01\x10\0\0\0\0\0\0\0\0\x40\0\0\0\0";
    for (protocol, first) in [
        ("resp", &b"$500000000\r\n"[..]),
        ("memcached", b"VALUE key:000000000000 0 500000000\r\n"),
        ("native", GET),
    ] {
        let port = dripping(first, b"x", Duration::from_millis(200));
        let flags = "-c 1 --no-prefill --timeout 60 --test-time 1 --ratio 0:1 --key-maximum 0 --protocol";
        let (output, took) = timed(port, &format!("{flags} {protocol}"));
        assert_fails(&output, "was announced where one of 100 was put");
        assert!(took < SLACK, "{took:?}");
    }
}

/// Once, each read had the whole timeout.
#[test]
fn a_greeting_has_an_end() {
    let port = dripping(b"", b"+", Duration::from_millis(100));
    let (output, took) = timed(port, "--protocol resp3 --timeout 1 -n 1");
    assert_fails(&output, "no whole answer within 1s");
    assert!(took < SLACK, "{took:?}");
    let port = dripping(b"*1048576\r\n", b"*0\r\n", Duration::from_millis(20));
    let (output, took) = timed(port, "--cluster --timeout 1 -n 1");
    assert_fails(&output, "no whole answer within 1s");
    assert!(took < SLACK, "{took:?}");
    let port = dripping(b"", b"\xf6", Duration::from_millis(100));
    let (output, took) = timed(port, "--protocol native -a secret --timeout 1 -n 1");
    assert_fails(&output, "no whole answer within 1s");
    assert!(took < SLACK, "{took:?}");
}

/// Once, in open loop each send was taken for a sign of life.
#[test]
fn a_dead_server_ends_an_open_loop_before_its_time() {
    let port = server(|mut stream| {
        let mut buf = [0; 4096];
        while stream.read(&mut buf).is_ok_and(|len| len > 0) {}
    });
    let (output, took) = timed(port, "--no-prefill --timeout 1 --rate 500 --test-time 60");
    assert_fails(&output, "no answer for 1 s");
    assert!(took < SLACK, "{took:?}");
}

/// Answers that come, but so slowly that the time is long over.
#[test]
fn what_is_unanswered_when_the_time_is_over_is_waited_for_as_long_as_for_an_answer() {
    let port = server(|stream| {
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut stream = stream;
        while command(&mut reader).is_some() {
            thread::sleep(Duration::from_millis(500));
            if stream.write_all(b"+PONG\r\n").is_err() {
                return;
            }
        }
    });
    let (output, took) = timed(port, "-t ping --pipeline 100 --test-time 1 --timeout 2");
    assert_fails(&output, "requests are still unanswered 2 s after the time was over");
    assert!(took < SLACK, "{took:?}");
}

/// Once, a connection whose part of the keys had none of its node's drew for ever, and so did PING.
#[test]
fn few_keys_of_many_connections_are_asked_for_in_cluster_mode() {
    let answers = |arguments: &[Vec<u8>]| match arguments[0].as_slice() {
        b"SET" => b"+OK\r\n".to_vec(),
        b"PING" => b"+PONG\r\n".to_vec(),
        _ => b"$-1\r\n".to_vec(),
    };
    let other = resp_server(answers);
    let first = server(move |stream| {
        let own = stream.local_addr().expect("connected").port();
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut stream = stream;
        while let Some(arguments) = command(&mut reader) {
            let range = |first, last, port| {
                format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
            };
            let reply = match arguments[0].as_slice() {
                b"CLUSTER" => {
                    format!("*2\r\n{}{}", range(0, 8191, own), range(8192, 16383, other)).into_bytes()
                }
                _ => answers(&arguments),
            };
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    });
    for flags in [
        "-c 50 --key-maximum 9 --key-pattern P -n 100",
        "-c 50 --key-maximum 9 --key-pattern Z --key-zipf-exp 10 -n 100",
        "-t ping -n 100",
    ] {
        let output = bench(first, &format!("--cluster --no-prefill {flags}"));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("100 answered"), "{flags}: {said}");
    }
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
