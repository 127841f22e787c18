//! `foreshadow keyspace [NAME]`: what a running server says of its keyspaces and their origins, asked of its admin address.

use crate::admin;
use crate::cli::EXIT_CONFIG;
use anyhow::bail;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Asks and prints; answers the exit status: 0, 1 if the server does not answer, 78 if there is no such keyspace.
pub fn run(admin: SocketAddr, name: Option<&str>, json: bool) -> ExitCode {
    let keyspaces = match ask(admin) {
        Ok(keyspaces) => keyspaces,
        Err(error) => {
            eprintln!("foreshadow: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = |keyspace: &&Value| name.is_none_or(|name| keyspace["name"] == name);
    let chosen: Vec<&Value> = keyspaces.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = keyspaces.iter().filter_map(|keyspace| keyspace["name"].as_str()).collect();
        match name {
            Some(name) => {
                eprintln!("foreshadow: no keyspace is called {name}; there are: {}", names.join(", "))
            }
            None => eprintln!("foreshadow: no keyspace has an origin there"),
        }
        return ExitCode::from(EXIT_CONFIG);
    }
    for keyspace in chosen {
        match json {
            true => println!("{keyspace}"),
            false => print!("{}", text_of(keyspace)),
        }
    }
    ExitCode::SUCCESS
}

fn ask(admin: SocketAddr) -> anyhow::Result<Vec<Value>> {
    match admin::json(admin, "/v1/keyspaces")? {
        Value::Array(keyspaces) => Ok(keyspaces),
        _ => bail!("the server's answer is no list"),
    }
}

/// A keyspace for people: its rules, then what is counted, then its origin; what is 0 is left out.
fn text_of(keyspace: &Value) -> String {
    let mut text = format!("{}\n", keyspace["name"].as_str().unwrap_or_default());
    let mut section = |title: &str, of: &Value| {
        text.push_str(&format!("  {title}\n"));
        for (name, value) in of.as_object().into_iter().flatten() {
            let shown = match value {
                Value::Object(_) => continue,
                Value::String(words) => words.clone(),
                other => other.to_string(),
            };
            if !(shown == "0" || shown == "0.0" || name == "name" && title == "rules") {
                text.push_str(&format!(
                    "    {:<28} {shown}\n",
                    name.trim_end_matches("_total").replace('_', " ")
                ));
            }
        }
    };
    section("rules", keyspace);
    section("counted", &keyspace["counts"]);
    section("origin", &keyspace["origin"]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_rules_and_what_is_not_zero() {
        let keyspace = serde_json::json!({
            "name": "users", "prefix": "user:", "fresh_millis": 60000, "stale_millis": 0,
            "counts": {"demanded_total": 7, "stale_total": 0},
            "origin": {"name": "db", "address": "redis://h:6379", "answer_millis_mean": 1.5},
        });
        let text = text_of(&keyspace);
        for part in [
            "users\n",
            "prefix                       user:",
            "demanded                     7",
            "redis://h:6379",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("stale"), "{text}");
    }
}
