//! Nodes of a cluster: two processes that own the shards between them, and clients of either.

use crate::support::{Server, ask, bulk, connect, expect, foreshadow, resp, run_to_end, serve_command};
use foreshadow::client::{Client, Options};
use foreshadow::hash::slot_of;
use foreshadow::ids::ShardId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What an error about a node that is gone may take, and what a request may take while its shard moves: far more than they do, for
/// machines that are busy.
const FAST: Duration = Duration::from_secs(10);
const SLOWEST: Duration = Duration::from_secs(10);
/// How long a node may take to come up, or a move to end: two nodes share a core here with whatever else is tested.
const LONG: Duration = Duration::from_secs(90);
const MOVES: usize = 20;
const SHARD: ShardId = ShardId::new(77);
/// Tries to find ports that stay free until the server has them.
const TRIES: usize = 20;

/// Looks again and again until `look` finds something.
fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A page, unless the core that it is of is too busy to answer.
fn page(server: &Server, path: &str) -> Option<Value> {
    let (status, text) = server.page(path);
    (status == 200).then(|| serde_json::from_str(&text).expect("JSON"))
}

/// Ends clients however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two nodes of one core each.
struct Pair {
    nodes: Vec<Option<Server>>,
    list: String,
    file: PathBuf,
}

/// Ports in a row that are free now, below those that the system gives to whoever connects: a node's ports have to be free again when it
/// comes back.
fn free_run(count: u16) -> u16 {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let step = std::process::id() as usize * 64 + NEXT.fetch_add(1, Ordering::Relaxed) * 4;
        let base = RANGE.start + (step % RANGE.len()) as u16;
        let run: Option<Vec<_>> =
            (0..count).map(|i| TcpListener::bind(("127.0.0.1", base + i)).ok()).collect();
        if run.is_some() {
            return base;
        }
    }
}

impl Pair {
    fn start() -> Pair {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("foreshadow-records-{}-{number}", std::process::id()));
        for _ in 0..TRIES {
            let bases = [free_run(2), free_run(2)];
            let [one, two] = bases;
            let list = format!("1=127.0.0.1:{one}/1,2=127.0.0.1:{two}/1");
            let mut pair = Pair { nodes: vec![None, None], list, file: file.clone() };
            // Somebody else may take a port in between; then others are tried.
            let started = (0..2).all(|node| {
                pair.nodes[node] = pair.launch(node).ok();
                pair.nodes[node].is_some()
            });
            if started {
                pair.await_shards(1024);
                return pair;
            }
            // What was written is of other ports.
            let _ = std::fs::remove_file(&file);
        }
        panic!("no two runs of free ports");
    }

    fn port(&self, node: usize) -> u16 {
        let part = self.list.split(',').nth(node).expect("there are two");
        let port = part.split(':').nth(1).expect("an address").split('/').next();
        port.expect("a port").parse().expect("a number")
    }

    fn launch(&self, node: usize) -> Result<Server, String> {
        self.launch_with(node, &self.list, &[])
    }

    fn launch_with(&self, node: usize, list: &str, more: &[&str]) -> Result<Server, String> {
        let listen = format!("127.0.0.1:{}", self.port(node));
        let (number, file) = ((node + 1).to_string(), self.file.display().to_string());
        let mut flags = vec!["--cores", "0", "--listen", &listen, "--cluster", list, "--node-id", &number];
        flags.extend(["--memory", "64MiB"]);
        if node == 0 {
            flags.extend(["--metadata-file", &file]);
        }
        flags.extend(more);
        Server::try_of_command(serve_command(&flags))
    }

    /// Begins another life of a node.
    fn revive(&mut self, node: usize) {
        // The kernel takes a killed server's ring apart, and with it the sockets, some time after its end.
        let server = patiently("its ports are free", || self.launch(node).ok());
        self.nodes[node] = Some(server);
        self.await_shards(1024);
    }

    fn node(&self, node: usize) -> &Server {
        self.nodes[node].as_ref().expect("it runs")
    }

    /// The own port of a node's core.
    fn own(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port(node) + 1))
    }

    /// Waits until the nodes that run serve so many shards together.
    fn await_shards(&self, count: u64) {
        let served = |server: &Server| {
            let page = page(server, "/v1/shards").unwrap_or_default();
            let rows = page["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
            rows.iter().filter(|row| row["items"].is_u64()).count() as u64
        };
        patiently("all shards are served", || {
            let sum: u64 = self.nodes.iter().flatten().map(served).sum();
            (sum == count).then_some(())
        });
        // And both know of each other.
        for server in self.nodes.iter().flatten() {
            let linked = self.nodes.iter().flatten().count() > 1;
            patiently("the nodes are linked", || {
                (server.metric("foreshadow_links") == f64::from(u8::from(linked))).then_some(())
            });
        }
    }

    /// The node that owns a shard, by what a node says.
    fn owner(&self, asked: usize, shard: ShardId) -> usize {
        let page = patiently("shards are shown", || page(self.node(asked), "/v1/shards"));
        let rows = page["shards"].as_array().expect("a list");
        assert_eq!(rows.len(), 1024, "all of the cluster's are shown");
        rows[usize::from(shard.number())]["node"].as_u64().expect("a node") as usize - 1
    }

    fn begin(&self, from: usize, to: usize) -> Value {
        let path = format!("/v1/shards/{}/move?to={}:0", SHARD.number(), to + 1);
        let (status, page) = post(self.node(from), &path);
        assert_eq!(status, 200, "{page}");
        page["id"].clone()
    }

    fn ending(&self, from: usize, id: &Value) -> Value {
        patiently("the move ends", || {
            let page = page(self.node(from), "/v1/moves")?;
            page["ended"].as_array().expect("a list").iter().find(|row| row["id"] == *id).cloned()
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.nodes.clear();
        for ending in ["", ".lock"] {
            // Of a pair that never came up there may be none.
            let _ = std::fs::remove_file(format!("{}{ending}", self.file.display()));
        }
    }
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

/// Keys of the shard that moves.
fn keys(name: &str, count: usize) -> Vec<String> {
    let all = (0..).map(|number| format!("{name}:{number}"));
    all.filter(|key| slot_of(key.as_bytes()).shard() == SHARD).take(count).collect()
}

fn line(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("answered");
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn whichever_node_is_asked_the_owner_answers() {
    let pair = Pair::start();
    let mut clients = [pair.node(0).connect(), pair.node(1).connect()];
    let key = |i: usize| format!("key:{i}");
    // Each by one node, in a pipeline, then each by the other one.
    for (part, client) in clients.iter_mut().enumerate() {
        let of_part: Vec<usize> = (0..400).filter(|i| i % 2 == part).collect();
        let sets: Vec<u8> = of_part
            .iter()
            .flat_map(|i| resp(&["SET", &key(*i), &format!("v{i}"), "PX", "90000000"]))
            .collect();
        ask(client, sets, "+OK\r\n".repeat(of_part.len()));
    }
    for (part, client) in clients.iter_mut().enumerate() {
        let of_part: Vec<usize> = (0..400).filter(|i| i % 2 != part).collect();
        let gets: Vec<u8> = of_part.iter().flat_map(|i| resp(&["GET", &key(*i)])).collect();
        ask(client, gets, of_part.iter().map(|i| bulk(&format!("v{i}"))).collect::<String>());
    }
    for node in 0..2 {
        pair.node(node).metric_becomes("foreshadow_items", |items| (100.0..=300.0).contains(&items));
    }
    // What changes an item, asks for its end, or is of several keys in one command.
    let tag = key(1);
    for client in &mut clients {
        ask(client, resp(&["INCRBY", &format!("n{{{tag}}}"), "5"]), ":");
        line(client);
        ask(client, resp(&["APPEND", &format!("a{{{tag}}}"), "xy"]), ":");
        line(client);
        let mut text = vec!["MGET".to_owned()];
        text.extend((0..20).map(key));
        let words: Vec<&str> = text.iter().map(String::as_str).collect();
        let values: String = (0..20).map(|i| bulk(&format!("v{i}"))).collect();
        // Keys of both nodes in one command.
        ask(client, resp(&words), format!("*20\r\n{values}"));
        ask(client, resp(&["PTTL", &key(3)]), ":");
        let left: u64 = line(client).trim_end().parse().expect("a number");
        assert!((89_000_000..=90_000_000).contains(&left), "{left}");
        ask(client, resp(&["RENAME", &format!("n{{{tag}}}"), &format!("m{{{tag}}}")]), "+OK\r\n");
        ask(client, resp(&["RENAME", &format!("m{{{tag}}}"), &format!("n{{{tag}}}")]), "+OK\r\n");
    }
    ask(&mut clients[0], resp(&["GET", &format!("n{{{tag}}}")]), bulk("10"));
    ask(&mut clients[1], resp(&["GET", &format!("a{{{tag}}}")]), bulk("xyxy"));
    // A value of megabytes, both ways.
    let long = "x".repeat(1_500_000);
    for (i, client) in clients.iter_mut().enumerate() {
        for name in 0..4 {
            ask(client, resp(&["SET", &format!("long:{i}:{name}"), &long]), "+OK\r\n");
        }
    }
    for (i, client) in clients.iter_mut().enumerate() {
        for name in 0..4 {
            ask(client, resp(&["GET", &format!("long:{}:{name}", 1 - i)]), bulk(&long));
        }
    }
    // By the other protocols.
    let mut native = Client::connect(&pair.node(0).listen.to_string(), Options::default()).expect("a server");
    native.set_deadline(Duration::from_secs(20));
    for i in 0..50 {
        let name = format!("native:{i}");
        native.put(name.as_bytes(), name.as_bytes(), None).expect("stored");
        ask(&mut clients[1], format!("*2\r\n$3\r\nGET\r\n${}\r\n{name}\r\n", name.len()), bulk(&name));
    }
    let mut memcached = connect(pair.node(1).listen);
    for i in 0..50 {
        ask(&mut memcached, format!("set m:{i} 5 0 2\r\nhi\r\n"), "STORED\r\n");
        ask(&mut memcached, format!("get m:{i}\r\n"), format!("VALUE m:{i} 5 2\r\nhi\r\nEND\r\n"));
        ask(&mut clients[0], resp(&["GET", &format!("m:{i}")]), bulk("hi"));
    }
    assert!(pair.node(0).metric("foreshadow_hops_sent_total") > 0.0);
}

#[test]
fn cluster_clients_are_told_which_node_has_a_key() {
    let pair = Pair::start();
    let mut owned: BTreeMap<usize, String> = BTreeMap::new();
    for i in 0.. {
        let key = format!("k{i}");
        owned.entry(pair.owner(0, slot_of(key.as_bytes()).shard())).or_insert(key);
        if owned.len() == 2 {
            break;
        }
    }
    for node in 0..2 {
        let mut client = connect(pair.own(node));
        ask(&mut client, resp(&["SET", &owned[&node], "here"]), "+OK\r\n");
        let key = &owned[&(1 - node)];
        let moved = format!("-MOVED {} {}\r\n", slot_of(key.as_bytes()).number(), pair.own(1 - node));
        ask(&mut client, resp(&["SET", key, "there"]), &moved);
        ask(&mut client, resp(&["GET", key]), &moved);
        // Both nodes tell the same of all slots.
        let slots: Vec<String> = (0..2)
            .map(|asked| {
                let mut client = connect(pair.own(asked));
                client.write_all(&resp(&["CLUSTER", "SLOTS"])).expect("sent");
                let count: usize = line(&mut client).trim_end()[1..].parse().expect("a number");
                let rows = (0..count).map(|_| (0..10).map(|_| line(&mut client)).collect::<String>());
                rows.collect()
            })
            .collect();
        assert_eq!(slots[0], slots[1]);
        for node in 0..2 {
            assert!(slots[0].contains(&format!(":{}\r\n", pair.own(node).port())));
        }
        // By the main port there is no need to.
        ask(&mut pair.node(node).connect(), resp(&["SET", key, "there"]), "+OK\r\n");
        let mut client = pair.node(node).connect();
        ask(&mut client, resp(&["MULTI"]), "+OK\r\n");
        ask(&mut client, resp(&["GET", key]), "+QUEUED\r\n");
        client.write_all(&resp(&["EXEC"])).expect("sent");
        assert!(line(&mut client).starts_with("-ERR the keys of this transaction are another node's"));
        ask(&mut client, resp(&["CLIENT", "TRACKING", "ON"]), "-ERR in a cluster");
        line(&mut client);
    }
}

#[test]
fn keys_of_a_node_that_is_gone_fail_fast_and_others_are_served_and_it_comes_back_empty() {
    let mut pair = Pair::start();
    let mut client = pair.node(0).connect();
    let keys: Vec<(String, usize)> = (0..60)
        .map(|i| {
            let key = format!("k{i}");
            let owner = pair.owner(0, slot_of(key.as_bytes()).shard());
            (key, owner)
        })
        .collect();
    for (key, _) in &keys {
        ask(&mut client, resp(&["SET", key, "1"]), "+OK\r\n");
    }
    drop(pair.nodes[1].take());
    let begin = Instant::now();
    for (key, owner) in &keys {
        client.write_all(&resp(&["GET", key])).expect("sent");
        match owner {
            0 => expect(&mut client, bulk("1")),
            _ => {
                let text = line(&mut client);
                assert!(text.starts_with("-CLUSTERDOWN") || text.starts_with("-UNKNOWN"), "{text}");
            }
        }
    }
    assert!(begin.elapsed() < FAST, "{:?}", begin.elapsed());
    let mut memcached = connect(pair.node(0).listen);
    let (gone, _) = keys.iter().find(|(_, owner)| *owner == 1).expect("about half are");
    // A client of get knows no errors; one that writes is told.
    ask(&mut memcached, format!("get {gone}\r\n"), "END\r\n");
    let why = "SERVER_ERROR the node that owns the key cannot be reached\r\n";
    ask(&mut memcached, format!("set {gone} 0 0 1\r\nx\r\n"), why);
    // Another life of it has none of the items, and serves its shards.
    pair.revive(1);
    for (key, owner) in &keys {
        let expected = if *owner == 0 { bulk("1") } else { "$-1\r\n".to_owned() };
        ask(&mut client, resp(&["GET", key]), expected);
        ask(&mut client, resp(&["SET", key, "2"]), "+OK\r\n");
    }
    // The node that keeps the records may go as well: what is moved stays so, and serving goes on without them.
    drop(pair.nodes[0].take());
    let mut client = pair.node(1).connect();
    let (kept, _) = keys.iter().find(|(_, owner)| *owner == 1).expect("about half are");
    ask(&mut client, resp(&["GET", kept]), bulk("2"));
    pair.revive(0);
    for (key, owner) in &keys {
        let expected = if *owner == 1 { bulk("2") } else { "$-1\r\n".to_owned() };
        ask(&mut client, resp(&["GET", key]), expected);
    }
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

    /// As a client of the cluster: asks where it was told last, and follows when it is told otherwise.
    fn write_following(&self, mut address: SocketAddr, stop: &AtomicBool) -> Duration {
        let mut stream = connect(address);
        self.write(stop, |keys, number| {
            for key in keys {
                for hop in 0.. {
                    assert!(hop < 16, "{key} is sent to and fro");
                    stream.write_all(&resp(&["INCR", key])).expect("sent");
                    let text = line(&mut stream);
                    if let Some(moved) = text.strip_prefix("-MOVED ") {
                        let there = moved.split(' ').nth(1).expect("an address").trim_end();
                        address = there.parse().expect("an address");
                        stream = connect(address);
                        continue;
                    }
                    assert_eq!(text, format!(":{number}\r\n"), "{key}");
                    break;
                }
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
fn a_shard_moves_from_node_to_node_and_no_client_notices() {
    let pair = Pair::start();
    let mut filler = pair.node(0).connect();
    let tag = &keys("ballast", 1)[0];
    let ballast: Vec<String> = (0..2000).map(|number| format!("{{{tag}}}{number}")).collect();
    let value = |key: &String| key.repeat(20);
    for part in ballast.chunks(100) {
        let sets: Vec<u8> = part.iter().flat_map(|key| resp(&["SET", key, &value(key)])).collect();
        ask(&mut filler, sets, "+OK\r\n".repeat(part.len()));
    }
    let names = ["r0", "r1", "m0", "m1", "f0", "f1"];
    let groups: Vec<Counters> = names.iter().map(|name| Counters::new(name, 4)).collect();
    let stop = AtomicBool::new(false);
    let first = pair.owner(0, SHARD);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let stop = &stop;
        let mut clients = Vec::new();
        for (i, group) in groups.iter().enumerate() {
            let (main, own) = (pair.node(i % 2).listen, pair.own(i % 2));
            let other = pair.node(1 - i % 2).listen;
            clients.push(scope.spawn(move || match i / 2 {
                0 => group.write_resp(main, stop),
                1 => group.write_memcached(main, stop),
                _ => group.write_following(own, stop),
            }));
            clients.push(scope.spawn(move || group.read(other, stop)));
        }
        for i in 0..MOVES {
            let (from, to) = ((first + i) % 2, (first + 1 + i) % 2);
            let id = patiently("the owner knows that it is", || {
                let path = format!("/v1/shards/{}/move?to={}:0", SHARD.number(), to + 1);
                let (status, page) = post(pair.node(from), &path);
                (status == 200).then(|| page["id"].clone())
            });
            let ended = pair.ending(from, &id);
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
    assert_eq!(pair.owner(first, SHARD), first, "it went to and fro");
    for node in 0..2 {
        let mut stream = pair.node(node).connect();
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
    let moved: usize =
        (0..2).map(|node| pair.node(node).logged().matches("a move of a shard ended").count()).sum();
    assert_eq!(moved, MOVES);
}

#[test]
fn a_node_that_is_paused_is_given_up_and_comes_back_with_what_it_held() {
    const GIVEN_UP: Duration = Duration::from_secs(15);
    let pair = Pair::start();
    let key = |node: usize| {
        let mut all = (0..).map(|i| format!("k{i}"));
        all.find(|key| pair.owner(0, slot_of(key.as_bytes()).shard()) == node).expect("there are many")
    };
    let [here, there] = [key(0), key(1)];
    let mut client = pair.node(0).connect();
    for key in [&here, &there] {
        ask(&mut client, resp(&["SET", key, "1"]), "+OK\r\n");
    }
    pair.node(1).signal("STOP");
    let begin = Instant::now();
    // In one pipeline: what its own node answers waits for what the other one does not.
    let both = [resp(&["INCR", &there]), resp(&["GET", &there]), resp(&["GET", &here])].concat();
    client.write_all(&both).expect("sent");
    let (write, read) = (line(&mut client), line(&mut client));
    assert!(write.starts_with("-UNKNOWN") && read.starts_with("-CLUSTERDOWN"), "{write}{read}");
    expect(&mut client, bulk("1"));
    assert!(begin.elapsed() < GIVEN_UP, "{:?}", begin.elapsed());
    // From now on nobody waits for it.
    let begin = Instant::now();
    ask(&mut client, resp(&["GET", &there]), "-CLUSTERDOWN");
    line(&mut client);
    assert!(begin.elapsed() < FAST, "{:?}", begin.elapsed());
    pair.node(1).signal("CONT");
    let count = patiently("it answers again", || {
        client.write_all(&resp(&["INCR", &there])).expect("sent");
        line(&mut client).strip_prefix(':').map(|count| count.trim_end().to_owned())
    });
    // What nobody knew of may have been done, once.
    assert!(count == "2" || count == "3", "{count}");
    ask(&mut pair.node(1).connect(), resp(&["GET", &there]), bulk(&count));
}

#[test]
fn nodes_that_do_not_belong_together_do_not_talk() {
    let mut pair = Pair::start();
    let other_list = format!("{},3=127.0.0.1:9/1", pair.list);
    for (list, more, why) in [
        (other_list.as_str(), &[][..], "different lists of nodes"),
        (&pair.list.clone(), &["--password", "sesame"], "different passwords"),
    ] {
        drop(pair.nodes[1].take());
        let stranger = patiently("its ports are free", || pair.launch_with(1, list, more).ok());
        patiently("both say why", || {
            let said = [pair.node(0), &stranger].map(|server| server.logged().contains(why));
            (said == [true, true]).then_some(())
        });
        let mut client = pair.node(0).connect();
        let lost = (0..).map(|i| format!("k{i}"));
        let lost = lost.map(|key| (pair.owner(0, slot_of(key.as_bytes()).shard()), key));
        let (_, key) = lost.into_iter().find(|(owner, _)| *owner == 1).expect("about half are");
        ask(&mut client, resp(&["GET", &key]), "-CLUSTERDOWN");
    }
    // With the right ones it is taken in.
    pair.revive(1);
}

#[test]
fn a_node_that_is_drained_can_be_stopped_and_nothing_is_lost() {
    let mut pair = Pair::start();
    let mut client = pair.node(0).connect();
    let key = |i: usize| format!("key:{i}");
    for i in 0..500 {
        ask(&mut client, resp(&["SET", &key(i), &format!("v{i}")]), "+OK\r\n");
    }
    let shards = |admin: SocketAddr, arguments: &[&str]| {
        let admin = admin.to_string();
        let output = run_to_end(foreshadow(&[&["shards"], arguments, &["--admin", &admin]].concat()));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, _, errors) = shards(pair.node(0).admin, &["drain", "2"]);
    assert!(status == Some(1) && errors.contains("is node 1's"), "{errors}");
    let (status, text, errors) = shards(pair.node(1).admin, &["drain", "2"]);
    assert_eq!(status, Some(0), "{text}{errors}");
    assert!(text.starts_with("node 2 owns 0 shards; "), "{text}");
    let (_, text, _) = shards(pair.node(1).admin, &["list"]);
    assert!(text.contains("   1:0           -"), "{text}");
    // While it goes others are asked; what it had sent on is answered.
    let server = pair.nodes[1].as_mut().expect("it runs");
    server.signal("TERM");
    assert!(server.wait().success());
    drop(pair.nodes[1].take());
    for i in 0..500 {
        ask(&mut client, resp(&["GET", &key(i)]), bulk(&format!("v{i}")));
    }
    // It comes back without a shard of its own, and forwards.
    pair.revive(1);
    let mut client = pair.node(1).connect();
    for i in 0..500 {
        ask(&mut client, resp(&["GET", &key(i)]), bulk(&format!("v{i}")));
    }
}

#[test]
fn a_shard_stays_with_the_node_that_it_was_moved_to() {
    let mut pair = Pair::start();
    let (first, key) = (pair.owner(0, SHARD), &keys("stays", 1)[0]);
    let mut client = pair.node(first).connect();
    ask(&mut client, resp(&["SET", key, "1"]), "+OK\r\n");
    let id = pair.begin(first, 1 - first);
    assert_eq!(pair.ending(first, &id)["outcome"], "moved");
    // Both begin anew, one after the other: the record outlives them, the items do not.
    for node in 0..2 {
        drop(pair.nodes[node].take());
        pair.revive(node);
        assert_eq!((pair.owner(0, SHARD), pair.owner(1, SHARD)), (1 - first, 1 - first));
    }
    let mut client = pair.node(first).connect();
    ask(&mut client, resp(&["GET", key]), "$-1\r\n");
    ask(&mut client, resp(&["SET", key, "2"]), "+OK\r\n");
    // To a node that is gone nothing moves.
    drop(pair.nodes[first].take());
    patiently("the link is lost", || (pair.node(1 - first).metric("foreshadow_links") == 0.0).then_some(()));
    let (status, _) =
        post(pair.node(1 - first), &format!("/v1/shards/{}/move?to={}:0", SHARD.number(), first + 1));
    assert_eq!(status, 409);
    let mut client = pair.node(1 - first).connect();
    ask(&mut client, resp(&["GET", key]), bulk("2"));
}
