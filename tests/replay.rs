//! `foreshadow replay` as it is called, and held against numbers that others published.
//!
//! The real traces are not part of the repository: FORESHADOW_TRACES says where they are, `../shared/traces` beside the
//! repository is looked at otherwise. Without them the tests that need them say so and check nothing.

use foreshadow::replay::{Name, Trace, replay};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

/// Where a trace is, if it is there.
fn trace_file(path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let root = std::env::var_os("FORESHADOW_TRACES").map_or(beside, PathBuf::from);
    let file = root.join(path);
    if !file.exists() {
        eprintln!("\nSKIPPED: {} is not there; set FORESHADOW_TRACES\n", file.display());
    }
    file.exists().then_some(file)
}

fn foreshadow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_foreshadow")).arg("replay").args(args).output().expect("it starts")
}

/// A file that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("foreshadow-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary folder can be written");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary folder has a plain name")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// 40000 requests for 4000 keys, the lower ones more often; as big-endian words.
fn skewed() -> Vec<u8> {
    let mut dice = 7u64;
    let keys = (0..40_000u32).map(|_| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (dice >> 11) as f64 / (1u64 << 53) as f64;
        (unit * unit * unit * 4000.0) as i32
    });
    keys.flat_map(i32::to_be_bytes).collect()
}

/// libCacheSim's own tests hold its LRU to these misses.
#[test]
fn lru_on_cloud_physics_misses_exactly_what_was_published() {
    let Some(file) = trace_file("cloudPhysicsIO/cloudPhysicsIO.csv") else { return };
    let trace = Trace::read(&file, None, &mut |_, _| ()).expect("a good trace");
    let misses = |name, step: u64| replay(&trace, Some(name), step * 128 * MIB, &mut |_, _| ()).misses;
    let published = [93374, 89783, 83572, 81722, 72494, 72104, 71972, 71704];
    assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(|step| misses(Name::Lru, step)), published);
}

/// And its S3-FIFO to these; the paper leaves open what the last few of them depend on.
#[test]
fn s3fifo_on_cloud_physics_misses_what_was_published_to_a_thousandth() {
    let Some(file) = trace_file("cloudPhysicsIO/cloudPhysicsIO.csv") else { return };
    let trace = Trace::read(&file, None, &mut |_, _| ()).expect("a good trace");
    let published = [90117u64, 80915, 75060, 72191, 69815, 65542, 60799, 56045];
    for (step, published) in (1..).zip(published) {
        let misses = replay(&trace, Some(Name::S3Fifo), step * 128 * MIB, &mut |_, _| ()).misses;
        assert!(misses.abs_diff(published) * 1000 <= published, "{misses} misses, {published} published");
    }
}

#[test]
fn json_has_the_promised_shape_and_true_numbers() {
    let file = Scratch::new("shape.trace", &skewed());
    let output = foreshadow(&[file.path(), "--baseline", "lru,belady,infinite", "--memory", "10%", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let trace = Trace::read(&file.0, None, &mut |_, _| ()).expect("a good trace");
    assert_eq!(value["requests"], 40_000);
    assert_eq!(value["footprint_items"], trace.footprint_items());
    let number =
        |name: &str, field: &str| value[name][field].as_u64().unwrap_or_else(|| panic!("{name}.{field}"));
    for name in ["ours", "lru", "belady", "infinite"] {
        assert_eq!(number(name, "byte_misses"), number(name, "misses") * 1000, "{name}");
        assert_eq!(number(name, "origin_fetches"), number(name, "misses"), "{name}");
        assert!(value[name]["ns_per_request"].as_f64().is_some_and(|ns| ns > 0.0), "{name}");
    }
    assert_eq!(number("infinite", "misses"), trace.footprint_items() as u64);
    let bytes = trace.footprint_bytes() / 10;
    assert_eq!(number("lru", "misses"), replay(&trace, Some(Name::Lru), bytes, &mut |_, _| ()).misses);
    assert!(number("belady", "misses") < number("ours", "misses"));
    assert!(number("ours", "held_bytes") <= bytes, "ours keeps the limit with all it has");
}

#[test]
fn a_policy_in_the_place_of_ours_answers_as_the_baseline_does() {
    let file = Scratch::new("policy.trace", &skewed());
    let output = foreshadow(&[file.path(), "--policy", "s3-fifo", "--baseline", "s3fifo", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert!(value["ours"].is_null(), "it goes by its own name");
    let alone = foreshadow(&[file.path(), "--baseline", "s3fifo", "--json"]);
    let alone: Value = serde_json::from_slice(&alone.stdout).expect("JSON and nothing else");
    assert_eq!(value["s3fifo"]["misses"], alone["s3fifo"]["misses"]);
    assert!(value["s3fifo"]["misses"].is_u64());
}

#[test]
fn people_get_a_table_and_a_plot() {
    let file = Scratch::new("table.trace", &skewed());
    let plot = Scratch::new("plot.svg", b"");
    let output = foreshadow(&[file.path(), "--baseline", "lru", "--plot", plot.path()]);
    assert!(output.status.success() && output.stderr.is_empty(), "no progress where there is no terminal");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("40000 requests") && text.lines().any(|line| line.starts_with("lru")), "{text}");
    let svg = std::fs::read_to_string(&plot.0).expect("written");
    assert_eq!(svg.matches("<polyline").count(), 2);
}

#[test]
fn what_is_wrong_is_said_and_the_status_is_not_0() {
    let cut = Scratch::new("cut.i64be", &skewed()[..1003]);
    let fails = |args: &[&str], status: i32, message: &str| {
        let output = foreshadow(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(message) && output.stdout.is_empty(), "{said}");
    };
    fails(&[cut.path()], 1, "row 126 at byte 1000: a row needs 8 bytes and 3 are there");
    fails(&[cut.path(), "--policy", "s3fofi"], 2, "did you mean `s3fifo`?");
    fails(&["/nonexistent/trace"], 1, "cannot be read: No such file");
    let text = Scratch::new("bad.csv", b"key,size\n1,2\n3,four\n");
    fails(&[text.path()], 1, "row 3 at byte 15: expected a size in bytes, found `four`");
    fails(&["/dev/null"], 1, "there are no rows");
    let words = Scratch::new("words.bin", &skewed());
    fails(&[words.path(), "--format", "csv"], 1, "row 1 at byte 0: expected text, found the byte 0x00");
    let tabs = Scratch::new("tabs.txt", b"host\turl\nx\ty\n");
    fails(
        &[tabs.path(), "--format", "csv"],
        1,
        "row 1 at byte 0: expected a header with a column for the key",
    );
    let absurd = Scratch::new("absurd.csv", b"key,size\n1,2\n3,4294967295\n");
    fails(&[absurd.path()], 1, "row 3 at byte 15: expected a size of at most 1 GiB, found `4294967295`");
    let small = Scratch::new("small.i32be", &skewed());
    fails(&[small.path(), "--memory", "100KiB"], 1, "comes to 102400 bytes, and the store needs 131072");
    fails(&[small.path(), "--memory", "1%"], 1, "and the store needs 131072");
}
