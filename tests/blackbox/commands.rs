//! What clients rely on beyond one connection and one core: both protocols see one cache, answers stay in order.

use crate::support::{Server, ask, bulk, expect, resp};
use std::io::Write;

#[test]
fn both_protocols_see_one_cache() {
    let server = Server::start(&[]);
    let (mut redis, mut memcached) = (server.connect(), server.connect());
    for i in 0..200 {
        let (key, value) = (format!("key:{i}"), format!("value {i}"));
        ask(&mut redis, resp(&["SET", &key, &value]), "+OK\r\n");
        let got = format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
        ask(&mut memcached, format!("get {key}\r\n"), got);
        ask(&mut memcached, format!("set {key} 7 0 3\r\nnew\r\n"), "STORED\r\n");
        ask(&mut redis, resp(&["GET", &key]), "$3\r\nnew\r\n");
        ask(&mut memcached, format!("mg {key} v f\r\n"), "VA 3 f7\r\nnew\r\n");
    }
    ask(&mut memcached, "delete key:0\r\n", "DELETED\r\n");
    ask(&mut redis, resp(&["GET", "key:0"]), "$-1\r\n");
    ask(&mut redis, resp(&["DBSIZE"]), ":199\r\n");
}

#[test]
fn replies_to_keys_of_all_cores_come_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let (mut asked, mut expected) = (Vec::new(), String::new());
    for i in 0..5000 {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        asked.extend(resp(&["SET", &key, &value]));
        expected.push_str("+OK\r\n");
        asked.extend(resp(&["GET", &key]));
        expected.push_str(&bulk(&value));
        asked.extend(resp(&["ECHO", &key]));
        expected.push_str(&bulk(&key));
    }
    let mut writer = client.try_clone().unwrap();
    let write = std::thread::spawn(move || writer.write_all(&asked).unwrap());
    expect(&mut client, expected);
    write.join().unwrap();
    let keys: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    let mut mget = vec!["MGET"];
    mget.extend(keys.iter().map(String::as_str));
    let values: String = (0..100).map(|i| bulk(&format!("v{i}"))).collect();
    ask(&mut client, resp(&mget), format!("*100\r\n{values}"));
}

#[test]
fn commands_cut_at_every_byte_are_answered_the_same() {
    let server = Server::start(&[]);
    let script = [resp(&["SET", "k", "a\r\nb"]), resp(&["GET", "k"]), b"PING\r\n".to_vec()].concat();
    let expected = "+OK\r\n$4\r\na\r\nb\r\n+PONG\r\n";
    for cut in 1..script.len() {
        let mut client = server.connect();
        client.write_all(&script[..cut]).unwrap();
        ask(&mut client, &script[cut..], expected);
    }
    let mut client = server.connect();
    for byte in script.chunks(1) {
        client.write_all(byte).unwrap();
    }
    expect(&mut client, expected);
}

#[test]
fn cluster_clients_are_shown_a_node_per_core_and_any_core_serves_any_key() {
    let server = Server::start(&["--cluster-ports"]);
    let mut client = server.connect();
    client.write_all(&resp(&["CLUSTER", "INFO"])).unwrap();
    let ports =
        1 + server.ready_line.split("cores=").nth(1).unwrap().split(' ').next().unwrap().matches(',').count();
    for core in 0..ports {
        let port = server.listen.port() + 1 + core as u16;
        let mut of_core = crate::support::connect((server.listen.ip(), port).into());
        for i in 0..20 {
            ask(&mut of_core, resp(&["SET", &format!("c{i}"), &format!("{core}")]), "+OK\r\n");
            ask(&mut of_core, resp(&["GET", &format!("c{i}")]), bulk(&format!("{core}")));
        }
    }
}

#[test]
fn a_password_is_asked_for_by_every_protocol_and_taken_from_the_environment() {
    let mut command = crate::support::serve_command(&[]);
    command.env("FORESHADOW_PASSWORD", "sesame");
    let server = Server::of_command(command);
    let mut redis = server.connect();
    ask(&mut redis, resp(&["GET", "k"]), "-NOAUTH Authentication required.\r\n");
    ask(
        &mut redis,
        resp(&["AUTH", "wrong"]),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    );
    ask(&mut redis, resp(&["AUTH", "sesame"]), "+OK\r\n");
    ask(&mut redis, resp(&["SET", "k", "v"]), "+OK\r\n");
    let mut memcached = server.connect();
    ask(&mut memcached, "set auth 0 0 14\r\ndefault sesame\r\n", "STORED\r\n");
    ask(&mut memcached, "get k\r\n", "VALUE k 0 1\r\nv\r\nEND\r\n");
    assert_eq!(server.page("/metrics").0, 401);
    assert_eq!(server.page("/livez").0, 200);
}
