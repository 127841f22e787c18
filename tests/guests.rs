//! Tasks of the other queues of a core's executor run beside serving, and the core still sleeps while they do.

use foreshadow::control::CoreReport;
use foreshadow::io::{Options, Queue, Shared};
use foreshadow::topology::{Node, ShardMap};
use foreshadow::{engine, io, store, wire};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn options() -> Options {
    let store = store::Options { memory_bytes_max: 16 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
    Options {
        certificates_name_users: false,
        cpu: 0,
        engine: engine::Options { store, seed: 1 },
        wire: wire::Options::default(),
        busy_poll: io::BusyPoll::Micros(0),
        receive_buffers: 16,
        receive_buffer_bytes: 4096,
        output_hard_bytes: 1 << 20,
        buffer_bytes_max: 1 << 20,
        wanted: io::Wanted { item_bytes: 1 << 20, memcached_item_bytes: 1 << 20, output_soft_bytes: 1 << 20 },
        unfinished_millis_max: 10_000,
        unauthenticated_millis_max: 60_000,
        drain_millis_max: 1_000,
        sources: Default::default(),
        link_password: "".into(),
        keeper: None,
    }
}

fn node() -> Arc<Node> {
    Arc::new(Node {
        run_id: "0".repeat(40),
        version: "0",
        process_id: 1,
        started: io::now(),
        address: "127.0.0.1".parse().expect("valid"),
        port: 0,
        core_ports: Vec::new(),
        cpus: vec![0],
        memory_bytes_max: 16 << 20,
        clients_max: 10,
        settings: Vec::new(),
        map: ShardMap::on_cores(1),
        cluster: None,
    })
}

#[test]
fn guests_run_while_the_core_sleeps() {
    let shared = Arc::new(Shared::new(10));
    let steps = Arc::new(AtomicU64::new(0));
    let (guest_steps, guest_shared) = (steps.clone(), shared.clone());
    let visit = move |_, guests: &io::Guests| {
        let (steps, shared) = (guest_steps.clone(), guest_shared.clone());
        let guest = async move {
            for _ in 0..30 {
                // A guest that waits for its timer is what is tested: the core is to sleep meanwhile, and to wake for it; and
                // a second and a half of it is more than the second after which a core reports.
                glommio::timer::sleep(Duration::from_millis(50)).await;
                steps.fetch_add(1, Ordering::Relaxed);
            }
            shared.drain();
        };
        guests.spawn(Queue::Movement, guest).expect("the queue exists");
    };
    let (reports, inbox) = std::sync::mpsc::channel();
    let report = move |report: CoreReport| reports.send(report).expect("the test listens to the end");
    let begin = Instant::now();
    let core = vec![(options(), Vec::new())];
    io::start(core, node(), shared, report, visit).expect("starts").join().expect("ends");
    assert_eq!(steps.load(Ordering::Relaxed), 30);
    assert!(begin.elapsed() < Duration::from_secs(10), "the guest was starved: {:?}", begin.elapsed());
    let report = inbox.iter().last().expect("a second has passed, so there is a report");
    let counters = report.counters;
    assert!(counters.parks_total > 0, "the core never slept");
    assert!(counters.turns_total < 10_000, "the core spun: {} turns", counters.turns_total);
}
