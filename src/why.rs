//! `foreshadow prefetch [explain KEY]`: what a running server says of fetching ahead, or of one key: why it was fetched, what that
//! cost, what came of it.

use crate::admin;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;
use std::fmt::Write;
use std::process::ExitCode;

/// The subcommand.
pub fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer as one JSON object");
    let explain = Command::new("explain")
        .about("Why a key was fetched before anybody asked, what that cost, and what came of it")
        .arg(Arg::new("key").value_name("KEY").required(true))
        .args([admin::flag(), json]);
    Command::new("prefetch")
        .about("Explain what a running server fetches ahead")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(explain)
}

/// Asks and prints; the exit status is 0, or 1 if the server does not answer.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let Some(("explain", matches)) = matches.subcommand() else { unreachable!("clap demands it") };
    let key: &String = matches.get_one("key").expect("clap demands it");
    match admin::json(admin::of(matches), &format!("/v1/prefetch?key={}", admin::quoted(key.as_bytes()))) {
        Ok(page) => {
            match matches.get_flag("json") {
                true => println!("{page}"),
                false => print!("{}", text_of(&page)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("foreshadow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn text_of(page: &Value) -> String {
    let key = page["key"].as_str().unwrap_or_default();
    let mut text = format!("{key} (core {})\n", page["core"]);
    let is = |name: &str| page[name] == true;
    if !is("on") {
        return text + "  no keyspace prefetches there (prefetch = \"on\" in a keyspace)\n";
    }
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let name = |value: &Value| value.as_str().unwrap_or("a key that is forgotten").to_owned();
    let facts = [
        (is("wanted"), "its keyspace prefetches", "its keyspace does not prefetch"),
        (is("held"), "it is held", "it is not held"),
        (is("remembered"), "it can be fetched: its text is remembered", "its text is not remembered"),
    ];
    for (holds, yes, no) in facts {
        let _ = writeln!(text, "  {}", if holds { yes } else { no });
    }
    if is("waiting") {
        text.push_str("  it waits for room at its origin\n");
    }
    let _ = writeln!(text, "  read {} times, as far as is remembered", page["visits"]);
    let fetches = page["fetches"].as_array().map(Vec::as_slice).unwrap_or_default();
    text.push_str(if fetches.is_empty() { "not fetched ahead of late\n" } else { "fetched ahead\n" });
    for fetch in fetches {
        let _ = write!(
            text,
            "  {:.1} s ago, by {}: {} was read; {:.0} % likely",
            number(&fetch["ago_seconds"]),
            fetch["source"].as_str().unwrap_or_default(),
            name(&fetch["cause"]),
            100.0 * number(&fetch["probability"]),
        );
        if let (Some(took), Some(bytes)) = (fetch["took_seconds"].as_f64(), fetch["bytes"].as_u64()) {
            let _ = write!(text, "; took {:.2} ms, {bytes} bytes", took * 1000.0);
        }
        let _ = write!(text, "; {}", fetch["outcome"].as_str().unwrap_or_default());
        match fetch["outcome_after_seconds"].as_f64() {
            Some(after) => {
                let _ = writeln!(text, " after {after:.2} s");
            }
            None => text.push('\n'),
        }
    }
    let followers = page["followers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !followers.is_empty() {
        let threshold = 100.0 * number(&page["threshold"]);
        let _ = writeln!(text, "fetched when it is read, from {threshold:.0} % on");
    }
    for follower in followers {
        let _ = write!(
            text,
            "  {}: {:.0} % likely; followed {:.0} % of reads",
            name(&follower["key"]),
            100.0 * number(&follower["probability"]),
            100.0 * number(&follower["weight"]),
        );
        match follower["of_use"].as_f64() {
            Some(part) => {
                let _ =
                    writeln!(text, "; {:.0} % of {} fetches were of use", 100.0 * part, follower["tries"]);
            }
            None => text.push('\n'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_are_told_why_and_what_came_of_it() {
        let page = json!({
            "key": "page:2", "core": 1, "on": true, "wanted": true, "held": true, "remembered": true, "waiting": false,
            "threshold": 0.25, "visits": 3,
            "followers": [{"key": "page:3", "weight": 0.5, "tries": 4, "of_use": 0.75, "probability": 0.7},
                          {"key": null, "weight": 0.1, "tries": 0, "of_use": null, "probability": 0.1}],
            "fetches": [{"ago_seconds": 1.5, "source": "successor", "cause": "page:1", "probability": 0.8,
                         "took_seconds": 0.0025, "bytes": 10, "outcome": "used", "outcome_after_seconds": 0.04},
                        {"ago_seconds": 0.1, "source": "stride", "cause": null, "probability": 0.6,
                         "took_seconds": null, "bytes": null, "outcome": "under way", "outcome_after_seconds": null}],
        });
        let text = text_of(&page);
        for line in [
            "page:2 (core 1)\n",
            "  it is held\n",
            "  1.5 s ago, by successor: page:1 was read; 80 % likely; took 2.50 ms, 10 bytes; used after 0.04 s\n",
            "  0.1 s ago, by stride: a key that is forgotten was read; 60 % likely; under way\n",
            "fetched when it is read, from 25 % on\n",
            "  page:3: 70 % likely; followed 50 % of reads; 75 % of 4 fetches were of use\n",
            "  a key that is forgotten: 10 % likely; followed 10 % of reads\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let off = text_of(&json!({"key": "x", "core": 0, "on": false}));
        assert!(off.contains("no keyspace prefetches"), "{off}");
    }
}
