//! `foreshadow check`: whether a configuration file is right, and what it makes.

use crate::cli::EXIT_CONFIG;
use crate::config::{Config, Password, Problem, Sources};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// What a machine reads.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    ok: bool,
    problems: Vec<Problem>,
    /// Settings by name; empty if there are problems.
    settings: BTreeMap<String, String>,
}

/// Checks a file, prints what was found, answers the exit status: 0, or 78 if something is wrong.
///
/// The file, the flags' defaults and the password's variable are looked at, as `serve` would: what the machine allows is for pre-flight at the start.
pub fn run(file: &Path, json: bool) -> ExitCode {
    let report = report(file);
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("texts and numbers always serialize"));
    } else if report.ok {
        println!("{}: ok", file.display());
        for (name, value) in report.settings.iter().filter(|(_, value)| !value.is_empty()) {
            println!("  {name} = {value}");
        }
    } else {
        for problem in &report.problems {
            eprintln!("{problem}");
        }
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) }
}

fn report(file: &Path) -> Report<'_> {
    let password_variable = Password::of_environment();
    match Config::gather(Sources { file: Some(file.to_owned()), password_variable, ..Sources::default() }) {
        Ok(config) => {
            Report { file, ok: true, problems: Vec::new(), settings: config.settings().into_iter().collect() }
        }
        Err(problems) => Report { file, ok: false, problems, settings: BTreeMap::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_place_and_message_of_each_problem() {
        let file = std::env::temp_dir().join(format!("foreshadow-check-{}.toml", std::process::id()));
        std::fs::write(&file, "[store]\nmemory = \"1G\"\n").unwrap();
        let report = serde_json::to_value(report(&file)).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(report["ok"], false);
        let problem = &report["problems"][0];
        assert_eq!((&problem["line"], &problem["column"]), (&2.into(), &10.into()));
        assert!(problem["message"].as_str().unwrap().contains("say 1GiB"), "{problem}");
        assert_eq!(report["settings"], serde_json::json!({}));
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem() {
        let report = report("/nonexistent/f.toml".as_ref());
        assert!(!report.ok && report.problems[0].message.contains("cannot be read: No such file"));
    }
}
