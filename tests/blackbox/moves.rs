//! Shards that move from core to core while clients of all protocols read and write them.

use crate::support::{Server, ask, bulk, connect, eventually, expect, foreshadow, resp, run_to_end};
use foreshadow::client::{Client, Options};
use foreshadow::hash::slot_of;
use foreshadow::ids::ShardId;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What no request may take while its shard moves: a hundred times more than it does, for machines that are busy.
const SLOWEST: Duration = Duration::from_secs(3);
const SHARD: ShardId = ShardId::new(77);
const MOVES: usize = 100;
/// Items of the shard that nobody writes.
const BALLAST: usize = 3000;

/// Keys of the shard.
fn keys(name: &str, count: usize) -> Vec<String> {
    let all = (0..).map(|number| format!("{name}:{number}"));
    all.filter(|key| slot_of(key.as_bytes()).shard() == SHARD).take(count).collect()
}

fn server(memory: &str) -> Server {
    Server::start(&["--cores", "0,1", "--cluster-ports", "--memory", memory])
}

/// The port of each core, so that it is known who serves a connection.
fn ports(server: &Server) -> Vec<SocketAddr> {
    let node: Value = serde_json::from_str(&server.page("/v1/node").1).expect("JSON");
    let ports = node["core_ports"].as_array().expect("of a cluster").iter();
    ports.map(|port| SocketAddr::new(server.listen.ip(), port.as_u64().expect("a port") as u16)).collect()
}

fn post(server: &Server, path: &str) -> (u16, Value) {
    let mut stream = connect(server.admin);
    write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head[9..12].parse().expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn moves(server: &Server) -> Value {
    serde_json::from_str(&server.page("/v1/moves").1).expect("JSON")
}

/// The core that owns the shard.
fn owner(server: &Server) -> u64 {
    let page: Value = serde_json::from_str(&server.page("/v1/shards").1).expect("JSON");
    let rows = page["shards"].as_array().expect("a list");
    assert_eq!(rows.len(), 1024);
    rows[usize::from(SHARD.number())]["core"].as_u64().expect("a core")
}

fn begin(server: &Server, to: u64) -> Value {
    let (status, page) = post(server, &format!("/v1/shards/{}/move?to={to}", SHARD.number()));
    assert_eq!(status, 200, "{page}");
    page["id"].clone()
}

/// How a move ended.
fn ending(server: &Server, id: &Value) -> Value {
    eventually("the move ends", || {
        let page = moves(server);
        page["ended"].as_array().expect("a list").iter().find(|row| row["id"] == *id).cloned()
    })
}

/// Counters that one client each writes, and everybody reads.
struct Counters {
    keys: Vec<String>,
    acknowledged: Vec<AtomicU64>,
}

impl Counters {
    fn new(name: &str, count: usize) -> Counters {
        let acknowledged = (0..count).map(|_| AtomicU64::new(0)).collect();
        Counters { keys: keys(name, count), acknowledged }
    }

    /// Has `round` count all up to a number and read them, again and again; answers what the slowest took.
    fn write(&self, stop: &AtomicBool, mut round: impl FnMut(&[String], u64)) -> Duration {
        let mut slowest = Duration::ZERO;
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let begin = Instant::now();
            round(&self.keys, number);
            slowest = slowest.max(begin.elapsed());
            self.acknowledged.iter().for_each(|acknowledged| acknowledged.store(number, Ordering::SeqCst));
        }
        slowest
    }

    fn write_resp(&self, address: SocketAddr, stop: &AtomicBool) -> Duration {
        let mut stream = connect(address);
        self.write(stop, |keys, number| {
            // In one pipeline: each read comes behind the write that was sent before it.
            let requests: Vec<u8> =
                keys.iter().flat_map(|key| [resp(&["INCR", key]), resp(&["GET", key])].concat()).collect();
            let reply = format!(":{number}\r\n{}", bulk(&number.to_string()));
            ask(&mut stream, requests, reply.repeat(keys.len()));
        })
    }

    fn write_memcached(&self, address: SocketAddr, stop: &AtomicBool) -> Duration {
        let mut stream = connect(address);
        for key in &self.keys {
            ask(&mut stream, format!("set {key} 7 0 1\r\n0\r\n"), "STORED\r\n");
        }
        self.write(stop, |keys, number| {
            let requests: String = keys.iter().map(|key| format!("incr {key} 1\r\nget {key}\r\n")).collect();
            let len = number.to_string().len();
            let reply = |key| format!("{number}\r\nVALUE {key} 7 {len}\r\n{number}\r\nEND\r\n");
            ask(&mut stream, requests, keys.iter().map(reply).collect::<String>());
        })
    }

    fn write_native(&self, address: SocketAddr, stop: &AtomicBool) -> Duration {
        let mut client = Client::connect(&address.to_string(), Options::default()).expect("a server");
        client.set_deadline(Duration::from_secs(20));
        self.write(stop, |keys, number| {
            let value = number.to_string().into_bytes();
            for key in keys {
                client.put(key.as_bytes(), &value, None).expect("stored");
                let item = client.get(key.as_bytes()).expect("answered").expect("it was stored");
                assert_eq!(item.value, value, "{key}");
            }
        })
    }

    /// Reads them as somebody else; none may be older than what was acknowledged before.
    fn read(&self, address: SocketAddr, stop: &AtomicBool) -> Duration {
        let stream = connect(address);
        let mut writer = stream.try_clone().expect("a socket");
        let mut reader = BufReader::new(stream);
        let mut slowest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            for (key, acknowledged) in self.keys.iter().zip(&self.acknowledged) {
                let least = acknowledged.load(Ordering::SeqCst);
                let begin = Instant::now();
                writer.write_all(&resp(&["GET", key])).expect("sent");
                let mut line = String::new();
                reader.read_line(&mut line).expect("answered");
                let mut value = String::new();
                if line != "$-1\r\n" {
                    assert!(line.starts_with('$'), "{line}");
                    reader.read_line(&mut value).expect("answered");
                }
                slowest = slowest.max(begin.elapsed());
                let value: u64 = value.trim_end().parse().unwrap_or(0);
                assert!(value >= least, "{key} is {value}, and {least} was acknowledged before");
            }
        }
        slowest
    }
}

#[test]
fn a_shard_moves_to_and_fro_and_no_client_notices() {
    let server = server("128MiB");
    let ports = ports(&server);
    let mut filler = server.connect();
    let tag = &keys("ballast", 1)[0];
    let ballast: Vec<String> = (0..BALLAST).map(|number| format!("{{{tag}}}{number}")).collect();
    let value = |key: &String| key.repeat(5);
    for part in ballast.chunks(100) {
        let sets: Vec<u8> = part.iter().flat_map(|key| resp(&["SET", key, &value(key)])).collect();
        ask(&mut filler, sets, "+OK\r\n".repeat(part.len()));
    }
    let groups: Vec<Counters> =
        ["r0", "r1", "m0", "m1", "n0", "n1"].iter().map(|name| Counters::new(name, 5)).collect();
    let stop = AtomicBool::new(false);
    let first = owner(&server);
    std::thread::scope(|scope| {
        let stop = &stop;
        let mut clients = Vec::new();
        for (i, group) in groups.iter().enumerate() {
            // By the ports of the cores, so that both are asked; Redis clients would be told there that keys have moved.
            let (address, listen) = (ports[i % 2], server.listen);
            clients.push(scope.spawn(move || match i / 2 {
                0 => group.write_resp(listen, stop),
                1 => group.write_memcached(address, stop),
                _ => group.write_native(address, stop),
            }));
            clients.push(scope.spawn(move || group.read(listen, stop)));
        }
        for i in 0..MOVES as u64 {
            let id = begin(&server, (first + 1 + i) % 2);
            let ended = ending(&server, &id);
            assert_eq!(ended["outcome"], "moved", "{ended}");
            if clients.iter().any(|client| client.is_finished()) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let slowest = client.join().expect("it found nothing wrong");
            assert!(slowest < SLOWEST, "a round took {slowest:?}");
        }
    });
    assert_eq!(owner(&server), first, "it went to and fro");
    // What was acknowledged is there, whoever is asked.
    for _ in 0..4 {
        let mut stream = server.connect();
        for group in &groups {
            for (key, acknowledged) in group.keys.iter().zip(&group.acknowledged) {
                let number = acknowledged.load(Ordering::SeqCst);
                assert!(number > 0, "{key} was never written");
                ask(&mut stream, resp(&["GET", key]), bulk(&number.to_string()));
            }
        }
        for part in ballast.chunks(100) {
            let gets: Vec<u8> = part.iter().flat_map(|key| resp(&["GET", key])).collect();
            ask(&mut stream, gets, part.iter().map(|key| bulk(&value(key))).collect::<String>());
        }
    }
    server.metric_becomes("foreshadow_moves", |under_way| under_way == 0.0);
    server.metric_becomes("foreshadow_moves_total", |moves| moves == MOVES as f64);
    assert!(server.metric("foreshadow_move_bytes_total") > 0.0);
    // Each core reports for itself: for a moment one may not tell yet of what another one tells no more.
    server.metric_becomes("foreshadow_shards", |shards| shards == 1024.0);
    assert_eq!(server.logged().matches("a move of a shard ended").count(), MOVES);
}

#[test]
fn a_move_of_long_values_can_be_cancelled_in_the_midst_and_done_again() {
    const VALUES: usize = 48;
    let server = server("512MiB");
    let keys = keys("long", VALUES);
    let value = |key: &str, round: usize| format!("{round}{key}").repeat((1 << 20) / (key.len() + 1));
    let mut clients = [(); 4].map(|()| server.connect());
    for key in &keys {
        ask(&mut clients[0], resp(&["SET", key, &value(key, 1)]), "+OK\r\n");
    }
    let first = owner(&server);
    let id = begin(&server, 1 - first);
    let (status, page) = post(&server, &format!("/v1/moves/{id}/cancel"));
    assert_eq!(status, 200, "{page}");
    let ended = ending(&server, &id);
    assert_eq!(
        (&ended["outcome"], &ended["reason"]),
        (&"cancelled".into(), &"somebody wanted it to end".into())
    );
    assert_eq!(owner(&server), first);
    assert_eq!(post(&server, &format!("/v1/moves/{id}/cancel")).0, 404, "it is over");
    // While it moves, every other value is written anew, and all are read by both cores.
    let id = begin(&server, 1 - first);
    for (i, key) in keys.iter().enumerate() {
        let round = 1 + i % 2;
        if round == 2 {
            ask(&mut clients[i / 2 % 4], resp(&["SET", key, &value(key, 2)]), "+OK\r\n");
        }
        for client in &mut clients {
            ask(client, resp(&["GET", key]), bulk(&value(key, round)));
        }
    }
    let ended = ending(&server, &id);
    assert_eq!(ended["outcome"], "moved", "{ended}");
    assert_eq!(owner(&server), 1 - first);
    for (i, key) in keys.iter().enumerate() {
        for client in &mut clients {
            ask(client, resp(&["GET", key]), bulk(&value(key, 1 + i % 2)));
        }
    }
}

#[test]
fn transactions_and_requests_of_several_keys_follow_a_shard() {
    let server = server("64MiB");
    // One slot, as it is a cluster.
    let one = &keys("several", 1)[0];
    let two = format!("{{{one}}}two");
    assert_eq!(slot_of(one.as_bytes()), slot_of(two.as_bytes()));
    let mut clients = [(); 4].map(|()| server.connect());
    for round in 0..8 {
        let id = begin(&server, 1 - owner(&server));
        let ended = ending(&server, &id);
        assert_eq!(ended["outcome"], "moved", "{ended}");
        let text = round.to_string();
        let client = &mut clients[round % 4];
        // A while after the move another core may still have to hear of it; then a client is told to try again.
        let lines = [&["WATCH", one][..], &["MULTI"], &["SET", one, &text], &["SET", &two, &text], &["EXEC"]];
        eventually("the transaction is done", || {
            client.write_all(&lines.iter().flat_map(|line| resp(line)).collect::<Vec<u8>>()).expect("sent");
            expect(client, "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n");
            let mut head = [0; 2];
            client.read_exact(&mut head).expect("answered");
            let rest = match &head {
                b"*2" => "\r\n+OK\r\n+OK\r\n",
                b"*-" => "1\r\n",
                _ => "RYAGAIN Multiple keys request during rehashing of slot\r\n",
            };
            expect(client, rest);
            (&head == b"*2").then_some(())
        });
        for client in &mut clients {
            ask(client, resp(&["MGET", one, &two]), format!("*2\r\n{0}{0}", bulk(&text)));
        }
    }
}

#[test]
fn clients_of_a_cluster_are_told_where_a_shard_has_gone() {
    let server = server("64MiB");
    let ports = ports(&server);
    let key = &keys("moved", 1)[0];
    let slot = slot_of(key.as_bytes()).number();
    let first = owner(&server) as usize;
    let [mut old, mut new] = [connect(ports[first]), connect(ports[1 - first])];
    ask(&mut old, resp(&["SET", key, "1"]), "+OK\r\n");
    // Who asks where the key has never been is served, as ever.
    ask(&mut new, resp(&["GET", key]), bulk("1"));
    let epoch = |stream: &mut std::net::TcpStream| -> u64 {
        stream.write_all(&resp(&["CLUSTER", "INFO"])).expect("sent");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("answered");
        let mut text =
            vec![0; line.trim_end().trim_start_matches('$').parse::<usize>().expect("a length") + 2];
        reader.read_exact(&mut text).expect("answered");
        let text = String::from_utf8(text).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
        line.expect("it is there").parse().expect("a number")
    };
    let before = epoch(&mut new);
    let id = begin(&server, 1 - first as u64);
    assert_eq!(ending(&server, &id)["outcome"], "moved");
    // The old owner's sessions learn it last, when nobody would send the client back.
    let redirected = format!("-MOVED {slot} {}\r\n", ports[1 - first]);
    eventually("the client is sent on", || {
        old.write_all(&resp(&["INCR", key])).expect("sent");
        let mut head = [0; 1];
        old.read_exact(&mut head).expect("answered");
        if &head == b":" {
            let mut rest = String::new();
            BufReader::with_capacity(1, old.try_clone().expect("a socket"))
                .read_line(&mut rest)
                .expect("a line");
            return None;
        }
        expect(&mut old, &redirected[1..]);
        Some(())
    });
    ask(&mut old, resp(&["GET", key]), &redirected);
    assert!(epoch(&mut new) > before && epoch(&mut old) > before);
    new.write_all(&resp(&["GET", key])).expect("sent");
    let mut head = [0; 1];
    new.read_exact(&mut head).expect("answered");
    assert_eq!(&head, b"$", "its owner serves it");
}

#[test]
fn operators_see_shards_and_move_them() {
    let server = server("64MiB");
    let admin = server.admin.to_string();
    let shards = |arguments: &[&str]| {
        let output = run_to_end(foreshadow(&[&["shards"], arguments, &["--admin", &admin]].concat()));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let number = SHARD.number().to_string();
    let target = (1 - owner(&server)).to_string();
    let (status, text, errors) = shards(&["move", &number, "--to", &target]);
    assert_eq!(status, Some(0), "{errors}");
    assert!(text.contains(&format!("shard {number} from core")) && text.contains(": moved;"), "{text}");
    assert_eq!(owner(&server).to_string(), target);
    let (status, text, errors) = shards(&["move", &number, "--to", &target]);
    assert_eq!((status, text.as_str()), (Some(1), ""));
    assert!(errors.contains("the shard is there already"), "{errors}");
    assert!(shards(&["move", &number, "--to", "9"]).2.contains("there is no such core"));
    assert!(shards(&["move", "4000", "--to", "0"]).2.contains("4000 is no shard"));
    assert!(shards(&["cancel", "12345"]).2.contains("no move 12345 is under way"));
    let (status, text, _) = shards(&["list", "--json"]);
    let page: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, page["shards"].as_array().map(Vec::len)), (Some(0), Some(1024)));
    assert_eq!(page["ended"][0]["outcome"], "moved");
    assert!(shards(&["list"]).1.starts_with("   shards"));
    // A page of somebody else's, in a browser, may not.
    let mut stream = connect(server.admin);
    write!(
        stream,
        "POST /v1/shards/{number}/move?to=0 HTTP/1.0\r\nOrigin: http://x\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
}

#[test]
fn shards_stay_where_keys_have_origins() {
    let server = Server::start(&["--cores", "0,1", "--origin", "redis://127.0.0.1:1"]);
    let (status, _) = post(&server, &format!("/v1/shards/{}/move?to=0", SHARD.number()));
    assert_eq!(status, 409);
}
