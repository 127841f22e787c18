//! A Redis Cluster behind us: real nodes, one slot that moves while it is read, a primary that dies.

use crate::origins::{Peer, becomes, folder, free_port, listens, program, serve, start, tell};
use crate::support::{PATIENCE, Server, bulk, connect, eventually, expect, resp};
use crate::tls::Papers;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Nodes of which the first three have a third of the slots each; a fourth, if there is one, is the second's replica.
struct Nodes {
    peers: Vec<Option<Peer>>,
    ports: Vec<u16>,
    /// Of those that speak TLS, too.
    tls_ports: Vec<u16>,
}

impl Nodes {
    fn start(server: &str, count: usize) -> Option<Nodes> {
        Nodes::start_with(server, count, None)
    }

    fn start_with(server: &str, count: usize, papers: Option<&Papers>) -> Option<Nodes> {
        let program = program(server)?;
        let mut tls_ports = Vec::new();
        let peers: Vec<Option<Peer>> = (0..count)
            .map(|_| {
                let (port, bus, folder) = (free_port(), free_port(), folder(server));
                let mut command = Command::new(&program);
                command.args(["--port", &port.to_string(), "--cluster-port", &bus.to_string()]);
                command.args(["--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes"]);
                // Long enough for a busy machine: nobody is to be taken for dead who is not.
                command.args(["--cluster-node-timeout", "3000", "--cluster-require-full-coverage", "no"]);
                command.arg("--dir").arg(&folder);
                if let Some(papers) = papers {
                    tls_ports.push(free_port());
                    let port = tls_ports.last().expect("pushed just now").to_string();
                    command.args(["--tls-port", &port, "--tls-auth-clients", "no"]);
                    for (flag, file) in [("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")]
                    {
                        command.args([&format!("--tls-{flag}-file"), &papers.path(file)]);
                    }
                }
                Some(start(server, command, port, folder))
            })
            .collect();
        let ports = peers.iter().flatten().map(|peer| peer.port).collect();
        let nodes = Nodes { peers, ports, tls_ports };
        for (i, range) in [("0", "5460"), ("5461", "10921"), ("10922", "16383")].iter().enumerate() {
            nodes.ok(i, &["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            nodes.ok(i, &["CLUSTER", "ADDSLOTSRANGE", range.0, range.1]);
        }
        for i in 1..count {
            let bus = nodes.line(i, "cluster_bus_port");
            nodes.ok(0, &["CLUSTER", "MEET", "127.0.0.1", &nodes.ports[i].to_string(), &bus]);
        }
        for i in 0..count {
            eventually("all know each other", || {
                let told: String = nodes.ask(i, &["CLUSTER", "INFO"]);
                let known = format!("cluster_known_nodes:{count}\r");
                let whole = told.contains("cluster_state:ok") && told.contains("cluster_slots_ok:16384");
                (whole && told.contains(&known)).then_some(())
            });
        }
        if count > 3 {
            nodes.ok(3, &["CLUSTER", "REPLICATE", &nodes.id(1)]);
            eventually("it follows", || (nodes.line(3, "master_link_status") == "up").then_some(()));
        }
        Some(nodes)
    }

    fn connect(&self, i: usize) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.ports[i])).unwrap();
        let connection = client.get_connection_with_timeout(PATIENCE).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Asks a node itself.
    fn ask<T: redis::FromRedisValue>(&self, i: usize, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.connect(i)).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn ok(&self, i: usize, words: &[&str]) {
        assert_eq!(self.ask::<String>(i, words), "OK", "{words:?}");
    }

    fn id(&self, i: usize) -> String {
        self.ask(i, &["CLUSTER", "MYID"])
    }

    /// What a node says of itself under this name.
    fn line(&self, i: usize, name: &str) -> String {
        if name == "cluster_bus_port" {
            let told: String = self.ask(i, &["CLUSTER", "NODES"]);
            let own = told.lines().find(|line| line.contains("myself")).expect("it knows itself");
            let place = own.split(' ').nth(1).expect("a place");
            return place.split('@').nth(1).unwrap().split(',').next().unwrap().to_owned();
        }
        let told: String = self.ask(i, &["INFO"]);
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().to_owned()
    }

    fn slot(&self, key: &str) -> u16 {
        self.ask(0, &["CLUSTER", "KEYSLOT", key])
    }

    /// Which of the three has a key's slot at the start.
    fn home(&self, key: &str) -> usize {
        usize::from(self.slot(key) / 5461).min(2)
    }

    fn serve(&self, keyspace: &str) -> (Server, crate::origin_faults::tempfile::Config) {
        serve(
            &format!(
                "[origin.r]\nurl = \"redis://127.0.0.1:{}?cluster=on\"\n\
                 [keyspace.all]\nprefix = \"\"\norigin = \"r\"\nfresh = \"1h\"\n{keyspace}",
                self.ports[0]
            ),
            &[],
        )
    }
}

/// The first line of a reply, and what a bulk brings behind it.
fn ask_for(stream: &mut TcpStream, words: &[&str]) -> String {
    stream.write_all(&resp(words)).expect("sent");
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut reply = String::new();
    reader.read_line(&mut reply).expect("answered");
    if reply.starts_with('$') && reply != "$-1\r\n" {
        reader.read_line(&mut reply).expect("answered");
    }
    reply
}

#[test]
fn keys_of_all_slots_are_read_written_passed_and_told_of() {
    for name in ["redis-server", "valkey-server"] {
        let Some(nodes) = Nodes::start(name, 3) else { continue };
        let (server, _config) = nodes.serve("");
        listens(&server);
        let mut client = server.connect();
        let keys: Vec<String> = (0..60).map(|i| format!("k{i}")).collect();
        for key in &keys {
            tell(&mut client, &["SET", key, "v"], "+OK\r\n");
        }
        let sizes: Vec<u32> = (0..3).map(|i| nodes.ask(i, &["DBSIZE"])).collect();
        assert!(sizes.iter().sum::<u32>() == 60 && sizes.iter().all(|size| *size > 5), "{sizes:?}");
        tell(&mut client, &["INVALIDATE", "PREFIX", ""], ":0\r\n");
        for key in &keys {
            tell(&mut client, &["GET", key], bulk("v"));
        }
        tell(&mut client, &["MGET", "k1", "none", "k2"], "*3\r\n$1\r\nv\r\n$-1\r\n$1\r\nv\r\n");
        // Each node is asked for its own: nobody had to send a question on.
        assert_eq!(server.metric("foreshadow_origin_redirected_total"), 0.0);
        // Each primary tells of what others change.
        for home in 0..3 {
            let key = keys.iter().find(|key| nodes.home(key) == home).expect("each has some");
            nodes.ok(home, &["SET", key, "w"]);
            becomes(&mut client, &["GET", key], &bulk("v"), &bulk("w"));
        }
        // Commands pass to the node of their key; in order, whichever that is.
        for key in &keys[..20] {
            let list = format!("l{key}");
            tell(&mut client, &["LPUSH", &list, "a"], ":1\r\n");
            tell(&mut client, &["LPUSH", &list, "b"], ":2\r\n");
            tell(&mut client, &["LINDEX", &list, "0"], bulk("b"));
        }
        tell(&mut client, &["SUNION", "{t}1", "{t}2"], "*0\r\n");
        let apart = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
        tell(&mut client, &["SUNION", "k1", "k2"], apart);
        let held = ask_for(&mut client, &["GET", "k5"]);
        tell(&mut client, &["EVAL", "return redis.call('get', KEYS[1])", "1", "k5"], held);
        // A transaction is one step where its keys have one slot, and refused where they have not.
        for (words, reply) in [
            (vec!["MULTI"], "+OK\r\n"),
            (vec!["HSET", "{t}h", "f", "v"], "+QUEUED\r\n"),
            (vec!["INCR", "{t}n"], "+QUEUED\r\n"),
            (vec!["EXEC"], "*2\r\n:1\r\n:1\r\n"),
            (vec!["MULTI"], "+OK\r\n"),
            (vec!["HSET", "k1h", "f", "v"], "+QUEUED\r\n"),
            (vec!["HSET", "k2h", "f", "v"], "+QUEUED\r\n"),
        ] {
            tell(&mut client, &words, reply);
        }
        assert_ne!(nodes.slot("k1h"), nodes.slot("k2h"));
        tell(&mut client, &["EXEC"], apart);
        tell(&mut client, &["EXISTS", "k1h"], ":0\r\n");
    }
}

#[test]
fn what_a_client_has_of_its_own_is_at_the_node_of_the_key_or_an_error() {
    for name in ["redis-server", "valkey-server"] {
        let Some(nodes) = Nodes::start(name, 3) else { continue };
        let (server, _config) = nodes.serve("");
        listens(&server);
        let mut client = server.connect();
        let keys: Vec<String> = (0..30).map(|i| format!("q{i}")).collect();
        let of = |home: usize| keys.iter().find(|key| nodes.home(key) == home).expect("each has some");
        let apart = "-ERR this goes to one node of the origin's cluster only, and the key is at another\r\n";
        // What waits does so at each node in turn, also when it is sent in one go, and in the order of the sender.
        let pops: Vec<u8> = keys.iter().flat_map(|key| resp(&["BLPOP", key, "0"])).collect();
        client.write_all(&pops).expect("sent");
        for key in keys.iter().rev() {
            assert_eq!(nodes.ask::<u32>(nodes.home(key), &["RPUSH", key, "v"]), 1);
        }
        for key in &keys {
            expect(&mut client, format!("*2\r\n{}{}", bulk(key), bulk("v")));
        }
        // Keys are watched where they are; what another node has is not reached meanwhile, and nothing is done.
        for home in 0..3 {
            let (key, other) = (of(home), of((home + 1) % 3));
            for changed in [false, true] {
                tell(&mut client, &["WATCH", key], "+OK\r\n");
                tell(&mut client, &["EXISTS", other], apart);
                if changed {
                    nodes.ok(home, &["SET", key, "theirs"]);
                }
                tell(&mut client, &["MULTI"], "+OK\r\n");
                tell(&mut client, &["SET", key, "ours"], "+QUEUED\r\n");
                tell(&mut client, &["EXEC"], if changed { "*-1\r\n" } else { "*1\r\n+OK\r\n" });
            }
            assert_eq!(nodes.ask::<String>(home, &["GET", key]), "theirs");
        }
        tell(&mut client, &["EXISTS", of(1)], ":1\r\n");
        tell(
            &mut client,
            &["WAIT", "0", "10"],
            "-ERR WAIT and WAITAOF are about one node: not with a cluster origin\r\n",
        );
        // Who waits is unblocked at the node where he does.
        client.write_all(&resp(&["CLIENT", "ID"])).expect("sent");
        let mut id = String::new();
        BufReader::new(client.try_clone().expect("a descriptor")).read_line(&mut id).expect("answered");
        let mut admin = server.connect();
        for home in 0..3 {
            client.write_all(&resp(&["BLPOP", &format!("{{{}}}none", of(home)), "0"])).expect("sent");
            eventually("it waits", || (nodes.line(home, "blocked_clients") == "1").then_some(()));
            tell(&mut admin, &["CLIENT", "UNBLOCK", id.trim().trim_start_matches(':')], ":1\r\n");
            expect(&mut client, "*-1\r\n");
        }
        // What is published at any node is heard.
        tell(&mut client, &["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        for i in 0..3 {
            nodes.ask::<u32>(i, &["PUBLISH", "news", "n"]);
            expect(&mut client, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nn\r\n");
        }
    }
}

#[test]
fn a_cluster_by_tls_proves_each_of_its_nodes() {
    let (papers, others) = (Papers::new(), Papers::new());
    let Some(nodes) = Nodes::start_with("redis-server", 3, Some(&papers)) else { return };
    let behind = |papers: &Papers| {
        let text = format!(
            "[origin.r]\nurl = \"rediss://localhost:{}?cluster=on\"\nca = \"{}\"\n\
             [keyspace.all]\nprefix = \"\"\norigin = \"r\"\n",
            nodes.tls_ports[0],
            papers.path("ca.crt")
        );
        serve(&text, &[])
    };
    let (server, _config) = behind(&papers);
    listens(&server);
    let mut client = server.connect();
    for i in 0..30 {
        let (key, list) = (format!("k{i}"), format!("l{i}"));
        tell(&mut client, &["SET", &key, "v"], "+OK\r\n");
        tell(&mut client, &["RPUSH", &list, "a"], ":1\r\n");
        assert_eq!(nodes.ask::<String>(nodes.home(&key), &["GET", &key]), "v");
    }
    let (server, _config) = behind(&others);
    let said = "-ERR TLS with the origin did not come about; the log says why\r\n";
    let mut client = server.connect();
    // A machine that is busy may not come so far within the deadline of one question.
    eventually(said, || (ask_for(&mut client, &["GET", "k1"]) == said).then_some(()));
    let why = "no authority that we trust signed it";
    eventually(why, || server.logged().contains(why).then_some(()));
}

#[test]
fn a_slot_that_moves_while_it_is_read_and_written_gives_no_error_and_no_old_value() {
    let Some(nodes) = Nodes::start("redis-server", 3) else { return };
    let (server, _config) = nodes.serve("");
    listens(&server);
    let mut client = server.connect();
    let keys: Vec<String> = (0..20).map(|i| format!("{{m}}{i}")).collect();
    for key in &keys {
        tell(&mut client, &["SET", key, "v"], "+OK\r\n");
    }
    let slot = nodes.slot("{m}").to_string();
    let (source, target) = (nodes.home("{m}"), (nodes.home("{m}") + 1) % 3);
    // Somebody reads all the time, each key from the origin.
    let (done, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let reader = {
        let (done, rounds, keys, mut stream) = (done.clone(), rounds.clone(), keys.clone(), server.connect());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                for key in &keys[2..] {
                    ask_for(&mut stream, &["INVALIDATE", "KEY", key]);
                    assert_eq!(ask_for(&mut stream, &["GET", key]), bulk("v"), "{key}");
                }
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let another_round = || {
        let before = rounds.load(Ordering::SeqCst);
        eventually("the reader goes on", || (rounds.load(Ordering::SeqCst) > before + 1).then_some(()));
    };
    another_round();
    let redirected = || server.metric("foreshadow_origin_redirected_total");
    assert_eq!(redirected(), 0.0);
    nodes.ok(target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &nodes.id(source)]);
    nodes.ok(source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &nodes.id(target)]);
    let port = nodes.ports[target].to_string();
    let migrate = |keys: &[String]| {
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        nodes.ok(source, &words);
    };
    migrate(&keys[..10]);
    another_round();
    server.metric_becomes("foreshadow_origin_redirected_total", |n| n >= 8.0);
    // Half of the keys are there already, without their slot: written, counted and changed there.
    tell(&mut client, &["SET", &keys[0], "w"], "+OK\r\n");
    tell(&mut client, &["APPEND", &keys[0], "x"], ":2\r\n");
    tell(&mut client, &["GET", &keys[0]], bulk("wx"));
    let there = |key: &str| {
        let mut direct = connect(([127, 0, 0, 1], nodes.ports[target]).into());
        tell(&mut direct, &["ASKING"], "+OK\r\n");
        ask_for(&mut direct, &["GET", key])
    };
    assert_eq!(there(&keys[0]), bulk("wx"));
    migrate(&keys[10..]);
    another_round();
    for i in [target, source] {
        nodes.ok(i, &["CLUSTER", "SETSLOT", &slot, "NODE", &nodes.id(target)]);
    }
    another_round();
    // From now on the node that has the slot is asked at once.
    tell(&mut client, &["SET", &keys[1], "z"], "+OK\r\n");
    assert_eq!(there(&keys[1]), bulk("z"));
    tell(&mut client, &["HSET", "{m}h", "f", "v"], ":1\r\n");
    eventually("nobody is sent on any more", || {
        let (before, asked) = (redirected(), server.metric("foreshadow_origin_asked_total"));
        server.metric_becomes("foreshadow_origin_asked_total", |n| n > asked + 50.0);
        (redirected() == before).then_some(())
    });
    // Whoever has a slot tells of its keys.
    tell(&mut client, &["GET", &keys[1]], bulk("z"));
    nodes.ok(target, &["SET", &keys[1], "told"]);
    becomes(&mut client, &["GET", &keys[1]], &bulk("z"), &bulk("told"));
    done.store(true, Ordering::SeqCst);
    reader.join().expect("no reply was an error or old");
}

#[test]
fn when_a_primary_dies_the_others_serve_and_its_replica_is_found() {
    let Some(mut nodes) = Nodes::start("redis-server", 4) else { return };
    let (server, _config) = nodes.serve("");
    listens(&server);
    let mut client = server.connect();
    let keys: Vec<String> = (0..40).map(|i| format!("k{i}")).collect();
    for key in &keys {
        tell(&mut client, &["SET", key, "v"], "+OK\r\n");
    }
    eventually("the replica has all", || {
        let [own, copied] = [1, 3].map(|i| nodes.ask::<u32>(i, &["DBSIZE"]));
        (own == copied).then_some(())
    });
    let (lost, kept): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| nodes.home(key) == 1);
    assert!(lost.len() > 5 && kept.len() > 5);
    nodes.peers[1] = None;
    tell(&mut client, &["INVALIDATE", "PREFIX", ""], ":0\r\n");
    for key in &kept {
        tell(&mut client, &["GET", key], bulk("v"));
        tell(&mut client, &["SET", key, "w"], "+OK\r\n");
    }
    // Nobody knows until the cluster has decided; then the new primary is asked.
    let mut errors = 0;
    eventually("the replica has taken over", || {
        let reply = ask_for(&mut client, &["GET", &lost[0]]);
        if reply == bulk("v") {
            return Some(());
        }
        assert!(reply.starts_with("-ERR the origin") || reply.starts_with("-CLUSTERDOWN"), "{reply}");
        errors += 1;
        None
    });
    assert!(errors > 0, "it was dead for a while");
    for key in &lost {
        eventually("its keys are served", || {
            (ask_for(&mut client, &["GET", key]) == bulk("v")).then_some(())
        });
        eventually("and written", || (ask_for(&mut client, &["SET", key, "w"]) == "+OK\r\n").then_some(()));
    }
    assert_eq!(nodes.ask::<String>(3, &["GET", &lost[0]]), "w");
    // What is changed there behind our back is seen. Its connection to listen may have to come about first.
    eventually("the new primary tells", || {
        let value = format!("{:?}", std::time::Instant::now());
        nodes.ok(3, &["SET", &lost[0], &value]);
        (ask_for(&mut client, &["GET", &lost[0]]) == bulk(&value)).then_some(())
    });
}

#[test]
fn what_is_no_cluster_or_one_that_nobody_spoke_of_is_an_error_with_its_remedy() {
    let Some(plain) = crate::origins::redis_like("redis-server") else { return };
    let (server, _config) = serve("", &[&format!("--origin=redis://127.0.0.1:{}?cluster=on", plain.port)]);
    let mut client = server.connect();
    client.write_all(&resp(&["GET", "k"])).expect("sent");
    expect(&mut client, "-ERR the origin is no Redis Cluster: leave cluster=on out of its URL\r\n");
    let Some(nodes) = Nodes::start("redis-server", 3) else { return };
    let (server, _config) = serve("", &[&format!("--origin=redis://127.0.0.1:{}", nodes.ports[0])]);
    let mut client = server.connect();
    let key = (0..).map(|i| format!("k{i}")).find(|key| nodes.home(key) == 2).expect("there are many");
    for words in [vec!["GET", &key], vec!["SET", &key, "v"], vec!["HGET", &key, "f"]] {
        let said = "-ERR the origin is a Redis Cluster: say ?cluster=on in its URL\r\n";
        tell(&mut client, &words, said);
    }
}
