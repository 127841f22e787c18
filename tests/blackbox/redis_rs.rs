//! redis-rs with its defaults: a connection in RESP2 and RESP3, pipelines, and a cluster of cores.

use crate::support::{PATIENCE, Server};
use redis::{Commands, Connection, ErrorKind, RedisResult, SetExpiry, SetOptions, Value};

fn connect(server: &Server, parameters: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{}/{parameters}", server.listen)).unwrap();
    let connection = client.get_connection_with_timeout(PATIENCE).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// What applications do, on one node or a cluster.
fn exercise(redis: &mut impl Commands) {
    assert_eq!(redis.set("k", "grün").as_ref().map(String::as_str), Ok("OK"));
    assert_eq!(redis.get("k").as_ref().map(String::as_str), Ok("grün"));
    assert_eq!(redis.get("none"), Ok(None::<String>));
    let options = SetOptions::default().conditional_set(redis::ExistenceCheck::NX);
    assert_eq!(redis.set_options("k", "x", options), Ok(None::<String>));
    let options = SetOptions::default().with_expiration(SetExpiry::EX(100));
    assert_eq!(redis.set_options("short", "x", options), Ok(Some("OK".to_owned())));
    assert!((95..=100).contains(&redis.ttl::<_, i64>("short").unwrap()));
    assert_eq!(redis.incr("n", 41), Ok(41));
    assert_eq!(redis.incr("n", 1), Ok(42));
    assert_eq!(redis.append("k", "!"), Ok(6));
    assert_eq!(redis.exists("k"), Ok(true));
    assert_eq!(redis.del("k"), Ok(1));
    assert_eq!(redis.del("k"), Ok(0));
    assert_eq!(redis.set("text", "x"), Ok(()));
    let refused: RedisResult<i64> = redis.incr("text", 1);
    assert!(refused.unwrap_err().to_string().contains("not an integer"));
    let binary: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 + i / 256) as u8).collect();
    assert_eq!(redis.set("binary", &binary), Ok(()));
    assert!(redis.get::<_, Vec<u8>>("binary").unwrap() == binary);
    for i in 0..500 {
        assert_eq!(redis.set(format!("key:{i}"), i), Ok(()));
        assert_eq!(redis.get(format!("key:{i}")), Ok(i));
    }
}

#[test]
fn redis_rs_talks_resp2_and_resp3() {
    for (parameters, protocol) in [("", 2), ("?protocol=resp3", 3)] {
        let server = Server::start(&[]);
        let mut redis = connect(&server, parameters);
        exercise(&mut redis);
        let hello: Value = redis::cmd("HELLO").query(&mut redis).unwrap();
        let said = format!("{hello:?}");
        assert!(said.contains("proto") && said.contains(&format!("int({protocol})")), "{said}");
        let mut pipe = redis::pipe();
        for i in 0..1000 {
            pipe.set(format!("p:{i}"), i).ignore().get(format!("p:{i}"));
        }
        assert_eq!(pipe.query(&mut redis), Ok((0..1000).collect::<Vec<i32>>()));
        assert_eq!(redis.mget(&["p:1", "none", "p:2"]), Ok(vec![Some(1), None, Some(2)]));
        let mut keys: Vec<String> = redis.scan_match("p:*").unwrap().map(|key| key.expect("a key")).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 1000);
        let unknown: RedisResult<()> = redis::cmd("NOSUCH").query(&mut redis);
        assert!(unknown.unwrap_err().to_string().contains("unknown command"));
        assert_eq!(redis.ping(), Ok("PONG".to_owned()), "an error is no end");
        assert_eq!(redis.flushall(), Ok(()));
        assert_eq!(redis::cmd("DBSIZE").query(&mut redis), Ok(0));
    }
}

#[test]
fn redis_rs_finds_the_cores_of_a_cluster() {
    let server = Server::start(&["--cluster-ports"]);
    let client = redis::cluster::ClusterClient::new([format!("redis://{}", server.listen)]).unwrap();
    let mut cluster = client.get_connection().unwrap();
    cluster.set_read_timeout(Some(PATIENCE)).unwrap();
    exercise(&mut cluster);
    let mut pipe = redis::cluster::cluster_pipe();
    for i in 0..500 {
        pipe.set(format!("p:{i}"), i).ignore().get(format!("p:{i}"));
    }
    assert_eq!(pipe.query(&mut cluster), Ok((0..500).collect::<Vec<i32>>()));
    let one: RedisResult<i64> = redis::cmd("INCR").arg("text").query(&mut cluster);
    assert_ne!(one.unwrap_err().kind(), ErrorKind::Io, "the server's word, not a broken connection");
}
