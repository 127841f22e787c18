//! What the store costs in memory, and how long its longest step takes. Each mode prints rows of tab-separated values.
//!
//! ```text
//! memory steps [--items N] [--value BYTES] [--limit BYTES] [--one-shard] [--expiring] [--warm] [--faults]   growth from nothing, each step timed
//! memory churn [--seconds N] [--limit BYTES]                                 log-normal lengths at the limit, RSS throughout
//! ```
//! `bench/memory/compare` runs both, and servers beside each other, and writes the record.

mod churn;
mod dice;
mod steps;

use std::process::ExitCode;

/// The value of a flag, or a default.
fn flag(arguments: &[String], name: &str, default: u64) -> u64 {
    let at = arguments.iter().position(|argument| argument == name);
    at.map_or(default, |at| {
        let text = arguments.get(at + 1).map_or("", String::as_str);
        text.parse().unwrap_or_else(|_| panic!("{name} wants a number, not {text:?}"))
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("steps") => steps::run(&arguments),
        Some("churn") => churn::run(&arguments),
        _ => {
            eprintln!("memory steps|churn [flags]; bench/memory/main.rs says which");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
