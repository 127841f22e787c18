//! Metrics, health and the node page of a running server.

use crate::support::{Server, ask, resp};

#[test]
fn health_and_pages_answer() {
    let server = Server::start(&[]);
    assert_eq!(server.page("/livez"), (200, "alive\n".to_owned()));
    assert_eq!(server.page("/readyz"), (200, "ready\n".to_owned()));
    assert!(server.page("/").1.contains("<title>Foreshadow</title>"));
    assert_eq!(server.page("/nothing").0, 404);
    let (status, body) = server.page("/v1/node");
    let node: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &node["ready"]), (200, &true.into()));
    assert_eq!(node["port"], server.listen.port());
    assert_eq!(node["process_id"], server.pid());
}

#[test]
fn metrics_follow_what_clients_do() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    ask(&mut client, resp(&["SET", "k", "v"]), "+OK\r\n");
    ask(&mut client, resp(&["GET", "k"]), "$1\r\nv\r\n");
    ask(&mut client, resp(&["GET", "none"]), "$-1\r\n");
    server.metric_becomes("foreshadow_hits_total", |hits| hits == 1.0);
    server.metric_becomes("foreshadow_misses_total", |misses| misses == 1.0);
    server.metric_becomes("foreshadow_items", |items| items == 1.0);
    server.metric_becomes("foreshadow_connections", |connections| connections == 1.0);
    assert_eq!(server.metric("foreshadow_shards"), 1024.0);
    assert_eq!(server.metric("foreshadow_memory_limit_bytes"), f64::from(64 << 20));
    drop(client);
    server.metric_becomes("foreshadow_connections", |connections| connections == 0.0);
}

#[test]
fn an_idle_server_costs_nothing() {
    let server = Server::start(&["--busy-poll-us=auto"]);
    ask(&mut server.connect(), "PING\r\n", "+PONG\r\n");
    server.metric_becomes("foreshadow_connections", |connections| connections == 0.0);
    // Not a wait for something: the two seconds are what is measured.
    let before = server.scheduled_time();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let spent = server.scheduled_time() - before;
    let cores =
        server.ready_line.split("cores=").nth(1).unwrap().split(' ').next().unwrap().split(',').count();
    // Half a percent of each core.
    assert!(spent.as_millis() <= 10 * cores as u128, "{spent:?} of CPU in 2 s, with nothing to do");
}
