//! Instruction counts of codec, index and engine on fixed inputs: the floors that CI watches, since times are noise.
//!
//! Callgrind runs `bench/instructions` twice per case; the difference over the difference in requests is the cost of
//! one. It must be within the tolerance of `bench/instructions/expected.txt`, in both directions: a gain is to be written
//! down, too (`make instructions-record`). Counts hold for release builds; without valgrind it says that it skipped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Requests of the two runs.
const FEW: u64 = 4096;
const MANY: u64 = 12288;
/// Set to rewrite the file instead of checking it.
const RECORD_VARIABLE: &str = "FORESHADOW_RECORD_INSTRUCTIONS";
/// Set where a missing valgrind is a failure (CI).
const DEMAND_VARIABLE: &str = "FORESHADOW_DEMAND_VALGRIND";

#[test]
#[cfg_attr(debug_assertions, ignore = "instruction counts are those of release builds: make instructions")]
fn a_request_takes_as_many_instructions_as_is_written_down() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(
            std::env::var_os(DEMAND_VARIABLE).is_none(),
            "valgrind is not there, and {DEMAND_VARIABLE} is set"
        );
        // Not by `eprintln`, which a passing test keeps to itself.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "\nSKIPPED: instruction counts were NOT checked, valgrind is not installed\n")
            .expect("stderr can be written");
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/instructions/expected.txt");
    let text = std::fs::read_to_string(&file).expect("the data file is there");
    let record = std::env::var_os(RECORD_VARIABLE).is_some();
    let mut wrong = Vec::new();
    let mut written = String::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            written.push_str(line);
            written.push('\n');
            continue;
        }
        let expectation = Expectation::parse(line);
        let counted = per_request(expectation.case);
        let off_percent = (counted / expectation.instructions - 1.0) * 100.0;
        // Writing to a string cannot fail.
        let _ =
            writeln!(written, "{:<20}{counted:>8.0}{:>6}", expectation.case, expectation.tolerance_percent);
        if off_percent.abs() > expectation.tolerance_percent {
            let Expectation { case, instructions, tolerance_percent } = expectation;
            wrong.push(format!(
                "{case}: {counted:.0} instructions, {instructions:.0} expected ({off_percent:+.1} %, {tolerance_percent} % allowed)"
            ));
        }
    }
    if record {
        std::fs::write(&file, written).expect("the data file can be written");
        return;
    }
    assert!(wrong.is_empty(), "{}\nif that is meant: make instructions-record", wrong.join("\n"));
}

struct Expectation<'a> {
    case: &'a str,
    instructions: f64,
    tolerance_percent: f64,
}

impl Expectation<'_> {
    fn parse(line: &str) -> Expectation<'_> {
        let mut fields = line.split_whitespace();
        let number = |what: &str, text: Option<&str>| -> f64 {
            text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line:?}: no {what}"))
        };
        let case = fields.next().expect("empty lines are left out");
        let instructions = number("count", fields.next());
        Expectation { case, instructions, tolerance_percent: number("tolerance", fields.next()) }
    }
}

fn per_request(case: &str) -> f64 {
    (instructions(case, MANY) - instructions(case, FEW)) as f64 / (MANY - FEW) as f64
}

/// Instructions of one run, by callgrind's own total.
fn instructions(case: &str, requests: u64) -> u64 {
    let out = scratch().join(format!("{case}-{requests}.out"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(example())
        .args([case, &requests.to_string()])
        .output()
        .expect("valgrind starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {words}");
    let total = words.lines().find_map(|line| line.split("Collected : ").nth(1));
    total.and_then(|total| total.trim().parse().ok()).unwrap_or_else(|| panic!("no total in {words}"))
}

/// Examples are built beside tests, in the same profile.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test.parent().and_then(Path::parent).expect("target/profile/deps/test");
    profile.join("examples/instructions")
}

fn scratch() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}
