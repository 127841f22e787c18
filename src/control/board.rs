//! What the cores reported: the last of each, sums that survive a reset, and both as text for others to read.
//!
//! Counters and gauges go through the `metrics` crate. Histograms do not: its recorder keeps a sample per recorded value,
//! and a core records a hundred thousand turns a second; they are kept as hdrhistograms and written out beside its text.

use super::foresight::Foresight;
use super::moves::{self, MoveTally};
use super::truth::{Names, Truth};
use super::volume::Volume;
use crate::engine::{KeyspaceTally, PrefetchTally};
use crate::heat::Heat;
use crate::ids::{CoreId, SHARD_COUNT, ShardId};
use crate::metrics::{Counters, Kind};
use crate::origin::keyspace::Keyspaces;
use crate::origin::pool;
use crate::topology::Node;
use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What a core says about itself once a second.
#[derive(Clone, Debug)]
pub struct CoreReport {
    /// Which core.
    pub core: CoreId,
    /// All it counted since it began, or since they were reset.
    pub counters: Counters,
    /// Nanoseconds of service time of each turn since the last report, of the shape of [`turn_histogram`].
    pub turn: Histogram<u64>,
    /// CPU time of the core's thread since it began.
    pub cpu: Duration,
    /// Limit of memory for items of all cores, as the core knows it now.
    pub memory_bytes_max: u64,
    /// Most connections of all cores together.
    pub clients_max: u64,
    /// Of each origin, in the order of the configuration.
    pub origins: Vec<OriginReport>,
    /// Of each keyspace, in the order of the configuration.
    pub keyspaces: Vec<KeyspaceTally>,
    /// Of prefetching, where a keyspace wants it.
    pub prefetch: Option<PrefetchTally>,
    /// How much was asked of each shard here since it began.
    pub heat: Heat,
    /// The keyspaces, as the core knows them now.
    pub rules: Arc<Keyspaces>,
    /// Of moves of shards away from it.
    pub moves: MoveTally,
    /// Shards that it owns.
    pub shards: u16,
    /// The epoch of the shard map, as its sessions see it.
    pub map_epoch: u64,
}

/// What a core says about an origin.
#[derive(Clone, Copy, Debug, Default)]
pub struct OriginReport {
    /// What was counted.
    pub tally: pool::Tally,
    /// Connections, those being made included.
    pub connections: u64,
    /// Of these, connections that are one client's own.
    pub private_lines: u64,
    /// Of these, those on which a command waits for what others do.
    pub private_waiting: u64,
    /// Questions that wait to be sent.
    pub waiting: u64,
    /// Whether it is left in peace because it failed.
    pub circuit_open: bool,
    /// Questions a second that it may be asked at present without anybody waiting for them.
    pub spare_rate: f64,
}

/// An empty histogram of turns: 1 ns to 60 s with two digits; longer turns are counted as 60 s.
pub fn turn_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("constant bounds that hdrhistogram accepts")
}

/// Upper bounds of the histograms' buckets, in nanoseconds.
const BUCKET_NANOS: [u64; 16] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// Everything that was reported.
pub struct Board {
    node: Arc<Node>,
    reports: Receiver<CoreReport>,
    ready: Arc<AtomicBool>,
    started: Instant,
    prometheus: PrometheusHandle,
    cores: Vec<CoreRow>,
    process: ProcessGauges,
    truth: Truth,
    foresight: Foresight,
    volume: Volume,
    /// As the cores said last; it can change while they serve.
    memory_bytes_max: u64,
    map_epoch: u64,
}

/// One core's place on the board.
struct CoreRow {
    metrics: Vec<CoreMetric>,
    last: Counters,
    /// Of the last report alone; the dashboard's percentiles.
    turn_last: Histogram<u64>,
    /// Of all reports.
    turn_all: Histogram<u64>,
    cpu: Duration,
    heard: Option<Instant>,
    age: Gauge,
    shards: Gauge,
    moves: MoveTally,
}

enum CoreMetric {
    Total(Counter),
    Gauge(Gauge),
}

struct ProcessGauges {
    uptime: Gauge,
    resident: Gauge,
    descriptors: Gauge,
    ready: Gauge,
    memory_limit: Gauge,
    clients_max: Gauge,
}

const METADATA: Metadata<'static> = Metadata::new("foreshadow", Level::INFO, None);

impl Board {
    /// A board on which nobody has reported yet.
    pub fn new(
        node: Arc<Node>,
        reports: Receiver<CoreReport>,
        ready: Arc<AtomicBool>,
        names: Names,
    ) -> Board {
        let recorder = PrometheusBuilder::new().build_recorder();
        let gauge = |name: &'static str, help: &'static str, labels: Vec<Label>| {
            recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
            recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
        };
        let process = ProcessGauges {
            uptime: gauge("foreshadow_uptime_seconds", "Seconds since the process began to serve.", vec![]),
            resident: gauge("foreshadow_resident_bytes", "Memory resident, of the whole process.", vec![]),
            descriptors: gauge("foreshadow_open_descriptors", "File descriptors open.", vec![]),
            ready: gauge("foreshadow_ready", "1 while clients are served.", vec![]),
            memory_limit: gauge("foreshadow_memory_limit_bytes", "Most memory for items.", vec![]),
            clients_max: gauge("foreshadow_clients_max", "Most connections.", vec![]),
        };
        process.memory_limit.set(node.memory_bytes_max as f64);
        let version = vec![Label::new("version", node.version)];
        gauge("foreshadow_build_info", "Always 1; the version is its label.", version).set(1.0);
        process.clients_max.set(node.clients_max as f64);
        let shards_of =
            |core| (0..SHARD_COUNT).filter(|&shard| node.map.owner(ShardId::new(shard)) == core).count();
        let cores = (0..node.core_count())
            .map(|place| {
                let label = || vec![Label::new("core", place.to_string())];
                let shards = gauge("foreshadow_shards", "Shards owned.", label());
                shards.set(shards_of(CoreId(place)) as f64);
                CoreRow {
                    metrics: Counters::NAMES
                        .iter()
                        .map(|(name, help, kind)| {
                            let name = format!("foreshadow_{name}");
                            let key = Key::from_parts(name.clone(), label());
                            match kind {
                                Kind::Total => {
                                    recorder.describe_counter(name.into(), None, help.trim().into());
                                    CoreMetric::Total(recorder.register_counter(&key, &METADATA))
                                }
                                Kind::Gauge => {
                                    recorder.describe_gauge(name.into(), None, help.trim().into());
                                    CoreMetric::Gauge(recorder.register_gauge(&key, &METADATA))
                                }
                            }
                        })
                        .collect(),
                    last: Counters::default(),
                    turn_last: turn_histogram(),
                    turn_all: turn_histogram(),
                    cpu: Duration::ZERO,
                    heard: None,
                    shards,
                    moves: MoveTally::default(),
                    age: gauge(
                        "foreshadow_core_report_age_seconds",
                        "Seconds since the core last reported.",
                        label(),
                    ),
                }
            })
            .collect();
        let prometheus = recorder.handle();
        let truth = Truth::new(names, usize::from(node.core_count()));
        let foresight = Foresight::new(usize::from(node.core_count()));
        let volume = Volume::new(usize::from(node.core_count()));
        let (memory_bytes_max, map_epoch) = (node.memory_bytes_max, node.map.epoch);
        let started = Instant::now();
        Board {
            node,
            reports,
            ready,
            started,
            prometheus,
            cores,
            process,
            truth,
            foresight,
            volume,
            memory_bytes_max,
            map_epoch,
        }
    }

    /// Whether clients are served.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Takes in what the cores reported.
    pub fn collect(&mut self) {
        while let Ok(mut report) = self.reports.try_recv() {
            let (origins, keyspaces) =
                (std::mem::take(&mut report.origins), std::mem::take(&mut report.keyspaces));
            self.truth.take(report.core.index(), origins, keyspaces, report.rules.clone());
            self.foresight.take(report.core.index(), report.prefetch);
            self.volume.take(Instant::now(), report.core.index(), std::mem::take(&mut report.heat));
            if let Some(row) = self.cores.get_mut(report.core.index()) {
                self.memory_bytes_max = report.memory_bytes_max;
                self.map_epoch = self.map_epoch.max(report.map_epoch);
                self.process.memory_limit.set(report.memory_bytes_max as f64);
                self.process.clients_max.set(report.clients_max as f64);
                row.take(report);
            }
        }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&mut self) -> String {
        self.collect();
        self.process.uptime.set(self.started.elapsed().as_secs_f64());
        self.process.ready.set(f64::from(u8::from(self.ready())));
        if let Some(bytes) = resident_bytes() {
            self.process.resident.set(bytes as f64);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of them is that of the directory itself.
            self.process.descriptors.set(entries.count().saturating_sub(1) as f64);
        }
        for row in &self.cores {
            let age = row.heard.unwrap_or(self.started).elapsed();
            row.age.set(age.as_secs_f64());
        }
        let mut text = self.prometheus.render();
        self.render_turns(&mut text).expect("a String takes all that is written");
        self.truth.render(&mut text).expect("a String takes all that is written");
        self.foresight.render(&mut text).expect("a String takes all that is written");
        self.volume.render(&mut text).expect("a String takes all that is written");
        let moves: Vec<MoveTally> = self.cores.iter().map(|row| row.moves).collect();
        moves::render(&moves, &mut text).expect("a String takes all that is written");
        text
    }

    fn render_turns(&self, text: &mut String) -> std::fmt::Result {
        let name = "foreshadow_cpu_seconds_total";
        writeln!(text, "# HELP {name} CPU time of the core's thread.\n# TYPE {name} counter")?;
        for (core, row) in self.cores.iter().enumerate() {
            writeln!(text, "{name}{{core=\"{core}\"}} {}", row.cpu.as_secs_f64())?;
        }
        let name = "foreshadow_turn_seconds";
        writeln!(text, "\n# HELP {name} Service time of a turn.\n# TYPE {name} histogram")?;
        for (core, row) in self.cores.iter().enumerate() {
            let turns = &row.turn_all;
            for nanos in BUCKET_NANOS {
                let count = turns.count_between(0, nanos);
                let bound = Duration::from_nanos(nanos).as_secs_f64();
                writeln!(text, "{name}_bucket{{core=\"{core}\",le=\"{bound}\"}} {count}")?;
            }
            let (count, sum) = (turns.len(), turns.mean() * turns.len() as f64 / 1e9);
            writeln!(text, "{name}_bucket{{core=\"{core}\",le=\"+Inf\"}} {count}")?;
            writeln!(text, "{name}_sum{{core=\"{core}\"}} {sum}")?;
            writeln!(text, "{name}_count{{core=\"{core}\"}} {count}")?;
        }
        Ok(())
    }

    /// Rules and numbers of all keyspaces, for `/v1/keyspaces`.
    pub fn keyspaces(&mut self) -> Value {
        self.collect();
        self.truth.keyspaces()
    }

    /// What came of prefetching, for `/v1/prefetch`.
    pub fn prefetch(&mut self) -> Value {
        self.collect();
        let mut page = self.foresight.json();
        page["volume"] = self.volume.json();
        page
    }

    /// What of the origins' spare each core may take from now on, if that is known anew.
    pub fn take_shares(&mut self) -> Option<Vec<f32>> {
        self.volume.take_shares()
    }

    /// What the node is and what its cores reported last, for `/v1/node`.
    pub fn node(&mut self) -> Value {
        self.collect();
        let node = &self.node;
        let mut sum = Counters::default();
        let cores: Vec<Value> = self
            .cores
            .iter()
            .enumerate()
            .map(|(place, row)| {
                sum.add(&row.last);
                json!({
                    "core": place,
                    "cpu": node.cpus.get(place),
                    "counters": counters_json(&row.last),
                    "cpu_seconds": row.cpu.as_secs_f64(),
                    "report_age_seconds": row.heard.map(|heard| heard.elapsed().as_secs_f64()),
                    "turn_seconds": {
                        "count": row.turn_last.len(),
                        "p50": seconds_at(&row.turn_last, 0.5),
                        "p99": seconds_at(&row.turn_last, 0.99),
                        "max": row.turn_last.max() as f64 / 1e9,
                    },
                })
            })
            .collect();
        json!({
            "version": node.version,
            "run_id": node.run_id,
            "process_id": node.process_id,
            "address": node.address.to_string(),
            "port": node.port,
            "core_ports": node.core_ports,
            "cluster": node.cluster.as_ref().map(|cluster| json!({
                "node": cluster.node,
                "nodes": cluster.members().iter().map(|member| json!({
                    "node": member.node, "address": member.address.to_string(), "cores": member.cores,
                })).collect::<Vec<_>>(),
            })),
            "ready": self.ready(),
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "clients_max": node.clients_max,
            "memory_limit_bytes": self.memory_bytes_max,
            "resident_bytes": resident_bytes(),
            "shard_map_epoch": self.map_epoch,
            "counters": counters_json(&sum),
            "cores": cores,
        })
    }
}

impl CoreRow {
    fn take(&mut self, report: CoreReport) {
        let CoreReport { counters, turn, cpu, moves, shards, .. } = report;
        self.shards.set(shards);
        self.moves = moves;
        let values = self.last.values().into_iter().zip(counters.values());
        for (metric, (before, value)) in self.metrics.iter().zip(values) {
            match metric {
                // Prometheus' sums go on where a reset (CONFIG RESETSTAT) sent ours back to 0.
                CoreMetric::Total(total) if value >= before => total.increment(value - before),
                CoreMetric::Total(total) => total.increment(value),
                CoreMetric::Gauge(gauge) => gauge.set(value as f64),
            }
        }
        if let Err(error) = self.turn_all.add(&turn) {
            tracing::warn!(?error, "a core reported turns of another shape");
        }
        (self.last, self.turn_last, self.cpu, self.heard) = (counters, turn, cpu, Some(Instant::now()));
    }
}

fn seconds_at(turns: &Histogram<u64>, quantile: f64) -> f64 {
    turns.value_at_quantile(quantile) as f64 / 1e9
}

fn counters_json(counters: &Counters) -> Value {
    let named = Counters::NAMES.iter().zip(counters.values());
    Value::Object(named.map(|((name, _, _), value)| ((*name).to_owned(), value.into())).collect())
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::topology::ShardMap;
    use std::sync::mpsc::{SyncSender, sync_channel};

    pub(crate) fn node() -> Arc<Node> {
        Arc::new(Node {
            run_id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            version: "0.1.0",
            process_id: 7,
            started: Now::default(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 7400,
            core_ports: vec![],
            cpus: vec![0, 1],
            memory_bytes_max: 1 << 30,
            clients_max: 10_000,
            settings: vec![],
            map: ShardMap::on_cores(2),
            cluster: None,
        })
    }

    fn board() -> (Board, SyncSender<CoreReport>) {
        let (send, reports) = sync_channel(8);
        (Board::new(node(), reports, Arc::new(AtomicBool::new(true)), Names::default()), send)
    }

    fn report(core: u16, hits: u64, connections: u64, turn_nanos: &[u64]) -> CoreReport {
        let mut turn = turn_histogram();
        turn_nanos.iter().for_each(|nanos| turn.saturating_record(*nanos));
        let counters = Counters { hits_total: hits, connections, ..Counters::default() };
        let (cpu, memory_bytes_max) = (Duration::from_millis(1500), 3 << 30);
        CoreReport {
            core: CoreId(core),
            counters,
            turn,
            cpu,
            memory_bytes_max,
            clients_max: 10_000,
            origins: Vec::new(),
            keyspaces: Vec::new(),
            prefetch: None,
            heat: Heat::default(),
            rules: Arc::default(),
            moves: MoveTally::default(),
            shards: 512,
            map_epoch: 1,
        }
    }

    fn value_of(text: &str, series: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    #[test]
    fn counters_of_each_core_become_metrics_and_survive_a_reset() {
        let (mut board, send) = board();
        send.send(report(0, 5, 2, &[])).unwrap();
        send.send(report(1, 7, 1, &[])).unwrap();
        send.send(report(0, 9, 3, &[])).unwrap();
        let text = board.render();
        assert_eq!(value_of(&text, "foreshadow_hits_total{core=\"0\"}"), 9.0);
        assert_eq!(value_of(&text, "foreshadow_hits_total{core=\"1\"}"), 7.0);
        assert_eq!(value_of(&text, "foreshadow_connections{core=\"0\"}"), 3.0);
        send.send(report(0, 4, 0, &[])).unwrap();
        let text = board.render();
        assert_eq!(value_of(&text, "foreshadow_hits_total{core=\"0\"}"), 13.0, "9 before the reset, 4 after");
        assert_eq!(value_of(&text, "foreshadow_connections{core=\"0\"}"), 0.0);
    }

    #[test]
    fn turns_become_a_histogram_of_seconds_in_sum_over_all_reports() {
        let (mut board, send) = board();
        send.send(report(1, 0, 0, &[1_500, 1_500, 40_000])).unwrap();
        send.send(report(1, 0, 0, &[3_000_000, 90_000_000_000])).unwrap();
        let text = board.render();
        let bucket =
            |le: &str| value_of(&text, &format!("foreshadow_turn_seconds_bucket{{core=\"1\",le=\"{le}\"}}"));
        assert_eq!((bucket("0.000001"), bucket("0.000002"), bucket("0.00005")), (0.0, 2.0, 3.0));
        assert_eq!((bucket("0.005"), bucket("10"), bucket("+Inf")), (4.0, 4.0, 5.0));
        assert_eq!(value_of(&text, "foreshadow_turn_seconds_count{core=\"0\"}"), 0.0);
        assert_eq!(value_of(&text, "foreshadow_cpu_seconds_total{core=\"1\"}"), 1.5);
    }

    #[test]
    fn every_metric_is_described_and_named_as_promised() {
        let (mut board, _send) = board();
        let text = board.render();
        let mut described = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                assert!(help.contains(' ') && help.ends_with('.'), "{line}");
                described += 1;
            }
            let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
            assert!(name.starts_with("foreshadow_"), "{line}");
        }
        assert_eq!(described, text.matches("# TYPE ").count());
        let shards: f64 =
            [0, 1].map(|core| value_of(&text, &format!("foreshadow_shards{{core=\"{core}\"}}"))).iter().sum();
        assert_eq!(shards, 1024.0);
        assert!(value_of(&text, "foreshadow_resident_bytes") > 1e6);
        assert_eq!(value_of(&text, "foreshadow_ready"), 1.0);
    }

    #[test]
    fn the_node_page_sums_the_cores() {
        let (mut board, send) = board();
        send.send(report(0, 5, 2, &[10_000])).unwrap();
        send.send(report(1, 7, 1, &[])).unwrap();
        let page = board.node();
        assert_eq!(page["counters"]["hits_total"], 12);
        assert_eq!(page["cores"][0]["counters"]["hits_total"], 5);
        assert_eq!(page["cores"][0]["turn_seconds"]["count"], 1);
        assert_eq!(page["ready"], true);
    }

    #[test]
    fn a_report_of_a_core_that_is_not_ours_changes_nothing() {
        let (mut board, send) = board();
        send.send(report(9, 5, 2, &[])).unwrap();
        assert_eq!(board.node()["counters"]["hits_total"], 0);
    }
}
