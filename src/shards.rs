//! `foreshadow shards list|move|cancel`: who owns which shard on a running server, and moving one from a core to another.

use crate::admin;
use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often progress is asked for, and shown where it is no terminal.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// The subcommand.
pub fn command() -> Command {
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("ADDR")
        .default_value("127.0.0.1:7401")
        .value_parser(clap::value_parser!(SocketAddr))
        .help("The server's admin address; a password is taken from FORESHADOW_PASSWORD");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON");
    let list = Command::new("list")
        .about("Who owns which shard, and what moves")
        .args([admin.clone(), json.clone()]);
    let shift = Command::new("move")
        .about("Move a shard to another core, under reads and writes, and show how far it is")
        .after_help("Ends with status 0 when the shard has moved, and with 1 when it has not.")
        .arg(Arg::new("shard").value_name("SHARD").required(true).help("Its number, from 0 to 1023"))
        .arg(Arg::new("to").long("to").value_name("CORE").required(true).help("The core that is to own it"))
        .arg(
            Arg::new("detach")
                .long("detach")
                .action(ArgAction::SetTrue)
                .help("Only begin, and say the move's number"),
        )
        .args([admin.clone(), json.clone()]);
    let cancel = Command::new("cancel")
        .about("End a move where it is, unless the shard is handed over already")
        .arg(Arg::new("id").value_name("ID").required(true).help("The number that `move` and `list` tell"))
        .args([admin, json]);
    Command::new("shards")
        .about("See and move the shards of a running server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, shift, cancel])
}

/// Asks and prints; the exit status is 0, or 1 if it could not be done.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let done = match matches.subcommand() {
        Some(("list", matches)) => list(matches),
        Some(("move", matches)) => shift(matches),
        Some(("cancel", matches)) => cancel(matches),
        _ => unreachable!("clap demands one of the subcommands"),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("foreshadow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn admin_of(matches: &ArgMatches) -> SocketAddr {
    *matches.get_one("admin").expect("it has a default")
}

fn list(matches: &ArgMatches) -> anyhow::Result<bool> {
    let admin = admin_of(matches);
    let shards = admin::json(admin, "/v1/shards")?;
    let moves = admin::json(admin, "/v1/moves")?;
    if matches.get_flag("json") {
        println!(
            "{}",
            serde_json::json!({ "shards": shards["shards"], "moves": moves["moves"], "ended": moves["ended"] })
        );
    } else {
        print!("{}", text_of(rows(&shards["shards"]), rows(&moves["moves"])));
    }
    Ok(true)
}

fn rows(page: &Value) -> &[Value] {
    page.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Runs of shards with one owner, then what moves.
fn text_of(shards: &[Value], moves: &[Value]) -> String {
    let mut text = format!("{:>9}  {:>11}  {:>4}  {:>10}\n", "shards", "slots", "core", "items");
    let core = |row: &Value| row["core"].as_u64();
    for run in shards.chunk_by(|a, b| core(a) == core(b)) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let items: u64 = run.iter().filter_map(|row| row["items"].as_u64()).sum();
        let span = |a: &Value, b: &Value| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let _ = writeln!(
            text,
            "{:>9}  {:>11}  {:>4}  {items:>10}",
            span(&first["shard"], &last["shard"]),
            span(&first["slots"][0], &last["slots"][1]),
            core(first).unwrap_or_default(),
        );
    }
    for row in moves {
        let _ = writeln!(text, "{}", line_of(row));
    }
    text
}

/// A move in a line.
fn line_of(row: &Value) -> String {
    let number = |name: &str| row[name].as_f64().unwrap_or(0.0);
    let mut line =
        format!("move {}: shard {} from core {} to {}: ", row["id"], row["shard"], row["from"], row["to"]);
    match (row["outcome"].as_str(), row["reason"].as_str()) {
        (Some(outcome), reason) => {
            line += outcome;
            if let Some(reason) = reason {
                line += &format!(", {reason}");
            }
            let _ = write!(
                line,
                "; {} items, {:.1} MB in {:.3} s, writes waited {:.2} ms",
                row["copied_items"],
                number("bytes") / 1e6,
                number("seconds"),
                number("stall_seconds") * 1e3,
            );
        }
        (None, _) => {
            let _ = write!(
                line,
                "{}, {:.0} %, {:.1} MB/s, {} changes behind",
                row["stage"].as_str().unwrap_or_default(),
                number("percent"),
                number("bytes_per_second") / 1e6,
                row["lag_changes"],
            );
            if let Some(left) = row["eta_seconds"].as_f64() {
                let _ = write!(line, ", {left:.1} s to go");
            }
        }
    }
    line
}

fn shift(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (admin, json) = (admin_of(matches), matches.get_flag("json"));
    let text =
        |name: &str| admin::quoted(matches.get_one::<String>(name).expect("clap demands it").as_bytes());
    let begun = admin::post(admin, &format!("/v1/shards/{}/move?to={}", text("shard"), text("to")))?;
    if matches.get_flag("detach") {
        match json {
            true => println!("{begun}"),
            false => println!("move {} has begun", begun["id"]),
        }
        return Ok(true);
    }
    let terminal = std::io::stderr().is_terminal();
    let mut shown: Option<Instant> = None;
    loop {
        let page = admin::json(admin, "/v1/moves")?;
        let ours = |row: &&Value| row["id"] == begun["id"];
        if let Some(row) = rows(&page["ended"]).iter().find(ours) {
            if terminal && shown.is_some() && !json {
                eprintln!();
            }
            match json {
                true => println!("{row}"),
                false => println!("{}", line_of(row)),
            }
            return Ok(row["outcome"] == "moved");
        }
        let row = rows(&page["moves"]).iter().find(ours).context("the server knows no more of the move")?;
        if json {
            println!("{row}");
        } else if terminal {
            eprint!("\r\x1b[K{}", line_of(row));
            // What cannot be shown is not worth more than this.
            let _ = std::io::stderr().flush();
            shown = Some(Instant::now());
        } else if shown.is_none_or(|at| at.elapsed() >= SHOW_INTERVAL) {
            eprintln!("{}", line_of(row));
            shown = Some(Instant::now());
        }
        std::thread::sleep(ASK_INTERVAL);
    }
}

fn cancel(matches: &ArgMatches) -> anyhow::Result<bool> {
    let id: &String = matches.get_one("id").expect("clap demands it");
    let page = admin::post(admin_of(matches), &format!("/v1/moves/{}/cancel", admin::quoted(id.as_bytes())))?;
    match matches.get_flag("json") {
        true => println!("{page}"),
        false => println!("move {id} ends"),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shards_are_shown_in_runs_and_moves_with_how_far_they_are() {
        let shard = |number: u64, core: u64| json!({"shard": number, "core": core, "epoch": 0, "items": 10, "slots": [number * 16, number * 16 + 15]});
        let shards = [shard(0, 0), shard(1, 0), shard(2, 1), shard(3, 0)];
        let moving = json!({
            "id": 5, "shard": 2, "from": 1, "to": 0, "stage": "copying", "outcome": null, "reason": null, "percent": 25.0,
            "bytes_per_second": 2e8, "lag_changes": 7, "eta_seconds": 1.5,
        });
        let text = text_of(&shards, &[moving]);
        for line in [
            "      0-1         0-31     0          20\n",
            "        2        32-47     1          10\n",
            "move 5: shard 2 from core 1 to 0: copying, 25 %, 200.0 MB/s, 7 changes behind, 1.5 s to go\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let ended = json!({
            "id": 5, "shard": 2, "from": 1, "to": 0, "outcome": "cancelled", "reason": "somebody wanted it to end",
            "copied_items": 9, "bytes": 1_500_000, "seconds": 0.25, "stall_seconds": 0.0005,
        });
        let line = "move 5: shard 2 from core 1 to 0: cancelled, somebody wanted it to end; 9 items, 1.5 MB in 0.250 s, \
                    writes waited 0.50 ms";
        assert_eq!(line_of(&ended), line);
    }
}
