//! `foreshadow shards list|move|cancel|drain`: who owns which shard, as a running server knows it, and moving one from a core of it to another one,
//! of this node or of another.

use crate::admin;
use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often progress is asked for, and shown where it is no terminal.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a node is drained, whose shards move in milliseconds where they are small.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// The subcommand.
pub fn command() -> Command {
    let admin = admin::flag();
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON");
    let list = Command::new("list")
        .about("Who owns which shard, and what moves")
        .args([admin.clone(), json.clone()]);
    let shift = Command::new("move")
        .about("Move a shard to another core, under reads and writes, and show how far it is")
        .after_help("Ends with status 0 when the shard has moved, and with 1 when it has not.")
        .arg(Arg::new("shard").value_name("SHARD").required(true).help("Its number, from 0 to 1023"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("CORE|NODE:CORE")
                .required(true)
                .help("The core that is to own it; of another node, behind that one's number"),
        )
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
        .args([admin.clone(), json.clone()]);
    let drain = Command::new("drain")
        .about(
            "Move all shards of a node to the others, so that it can be stopped without losing what it holds",
        )
        .after_help("Ends with status 0 when the node owns no shard, and with 1 when it still does.")
        .arg(
            Arg::new("node").value_name("NODE").required(true).help("Its number; --admin is its own address"),
        )
        .args([admin, json]);
    Command::new("shards")
        .about("See and move the shards of a running server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, shift, cancel, drain])
}

/// Asks and prints; the exit status is 0, or 1 if it could not be done.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let done = match matches.subcommand() {
        Some(("list", matches)) => list(matches),
        Some(("move", matches)) => shift(matches),
        Some(("cancel", matches)) => cancel(matches),
        Some(("drain", matches)) => drain(matches),
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

fn list(matches: &ArgMatches) -> anyhow::Result<bool> {
    let admin = admin::of(matches);
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

/// A core as `--to` takes it: behind its node's number, where there are several.
fn place_of(node: &Value, core: &Value) -> String {
    match node.as_u64() {
        Some(node @ 1..) => format!("{node}:{core}"),
        _ => core.to_string(),
    }
}

/// Runs of shards with one owner, then what moves.
fn text_of(shards: &[Value], moves: &[Value]) -> String {
    let mut text = format!("{:>9}  {:>11}  {:>4}  {:>10}\n", "shards", "slots", "core", "items");
    let core = |row: &Value| place_of(&row["node"], &row["core"]);
    for run in shards.chunk_by(|a, b| core(a) == core(b)) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        // What other nodes hold they alone know.
        let items: Option<u64> = run.iter().map(|row| row["items"].as_u64()).sum();
        let items = items.map_or("-".to_owned(), |items| items.to_string());
        let span = |a: &Value, b: &Value| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let _ = writeln!(
            text,
            "{:>9}  {:>11}  {:>4}  {items:>10}",
            span(&first["shard"], &last["shard"]),
            span(&first["slots"][0], &last["slots"][1]),
            core(first),
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
    let (from, to) = (place_of(&row["from_node"], &row["from"]), place_of(&row["to_node"], &row["to"]));
    let mut line = format!("move {}: shard {} from core {from} to {to}: ", row["id"], row["shard"]);
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
    let (admin, json) = (admin::of(matches), matches.get_flag("json"));
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
    let page =
        admin::post(admin::of(matches), &format!("/v1/moves/{}/cancel", admin::quoted(id.as_bytes())))?;
    match matches.get_flag("json") {
        true => println!("{page}"),
        false => println!("move {id} ends"),
    }
    Ok(true)
}

/// Moves under way at a time while a node is drained: enough that one is copied while another one changes hands.
const DRAINED_AT_A_TIME: usize = 4;
/// Moves of one shard that may come to nothing before draining is given up.
const TRIES_MAX: u32 = 3;

/// Where shards of a node that is drained go.
struct Plan {
    /// Cores of the other nodes, and how many shards each has or is about to have.
    targets: Vec<(String, usize)>,
    left: Vec<u64>,
    /// Moves under way, with their shards and targets.
    moving: Vec<(Value, u64, usize)>,
    tries: BTreeMap<u64, u32>,
}

impl Plan {
    /// From the pages of the node.
    fn of(node: u64, page: &Value, shards: &[Value]) -> anyhow::Result<Plan> {
        let cluster = &page["cluster"];
        if cluster["node"] != node {
            let whose = match cluster["node"].as_u64() {
                Some(other) => format!("node {other}"),
                None => "a server without a cluster".to_owned(),
            };
            bail!("that admin address is {whose}'s: --admin names that of node {node}");
        }
        let others = rows(&cluster["nodes"]).iter().filter(|row| row["node"] != node);
        let cores = others.flat_map(|row| {
            (0..row["cores"].as_u64().unwrap_or(0)).map(|core| format!("{}:{core}", row["node"]))
        });
        let owner = |row: &Value| place_of(&row["node"], &row["core"]);
        let targets = cores.map(|core| {
            let count = shards.iter().filter(|row| owner(row) == core).count();
            (core, count)
        });
        let targets: Vec<_> = targets.collect();
        if targets.is_empty() {
            bail!("there is no other node");
        }
        let left =
            shards.iter().rev().filter(|row| row["node"] == node).filter_map(|row| row["shard"].as_u64());
        Ok(Plan { targets, left: left.collect(), moving: Vec::new(), tries: BTreeMap::new() })
    }

    /// The shard to be moved next, and where to: to the core that has fewest.
    fn next(&mut self) -> Option<(u64, usize)> {
        if self.moving.len() >= DRAINED_AT_A_TIME {
            return None;
        }
        let shard = self.left.pop()?;
        let fewest = (0..self.targets.len()).min_by_key(|place| self.targets[*place].1)?;
        self.targets[fewest].1 += 1;
        Some((shard, fewest))
    }

    /// A move of a shard did not begin, or came to nothing: it is tried again, later.
    fn failed(&mut self, shard: u64, target: usize, why: &str) -> anyhow::Result<()> {
        self.targets[target].1 -= 1;
        let tries = self.tries.entry(shard).or_insert(0);
        *tries += 1;
        if *tries >= TRIES_MAX {
            bail!("shard {shard} does not move: {why}");
        }
        self.left.insert(0, shard);
        Ok(())
    }
}

/// How long a server may not answer while a node is drained: its cores are busy, and moves go on meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
fn asked<T>(ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        match ask() {
            Err(_) if begin.elapsed() < SILENCE_MAX => std::thread::sleep(ASK_INTERVAL),
            done => return done,
        }
    }
}

fn drain(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (admin, json) = (admin::of(matches), matches.get_flag("json"));
    let node: &String = matches.get_one("node").expect("clap demands it");
    let node: u64 = node.parse().with_context(|| format!("`{node}` is no number of a node"))?;
    let shards = admin::json(admin, "/v1/shards")?;
    let mut plan = Plan::of(node, &admin::json(admin, "/v1/node")?, rows(&shards["shards"]))?;
    let count = plan.left.len();
    // An answer that got lost may have been of a move that was done.
    let give_up = |failed: anyhow::Result<()>, shard: u64| {
        let Err(why) = failed else { return Ok(()) };
        let page = asked(|| admin::json(admin, "/v1/shards"))?;
        let owns = |row: &Value| row["shard"] == shard && row["node"] == node;
        if rows(&page["shards"]).iter().any(owns) { Err(why) } else { Ok(()) }
    };
    let mut shown = Instant::now();
    loop {
        while let Some((shard, target)) = plan.next() {
            let path = format!("/v1/shards/{shard}/move?to={}", plan.targets[target].0);
            match admin::post(admin, &path) {
                Ok(begun) => plan.moving.push((begun["id"].clone(), shard, target)),
                Err(error) => {
                    give_up(plan.failed(shard, target, &format!("{error:#}")), shard)?;
                    break;
                }
            }
        }
        if plan.moving.is_empty() && plan.left.is_empty() {
            break;
        }
        let page = asked(|| admin::json(admin, "/v1/moves"))?;
        let (ended, live) = (rows(&page["ended"]), rows(&page["moves"]));
        for (id, shard, target) in std::mem::take(&mut plan.moving) {
            if live.iter().any(|row| row["id"] == id) {
                plan.moving.push((id, shard, target));
                continue;
            }
            match ended.iter().find(|row| row["id"] == id) {
                Some(row) if row["outcome"] == "moved" => {}
                Some(row) => give_up(plan.failed(shard, target, &line_of(row)), shard)?,
                None => {
                    let failed = plan.failed(shard, target, "the server knows no more of the move");
                    give_up(failed, shard)?;
                }
            }
        }
        if !json && shown.elapsed() >= SHOW_INTERVAL {
            shown = Instant::now();
            eprintln!("{} of {count} shards to go", plan.left.len() + plan.moving.len());
        }
        std::thread::sleep(DRAIN_INTERVAL);
    }
    let page = asked(|| admin::json(admin, "/v1/shards"))?;
    let left = rows(&page["shards"]).iter().filter(|row| row["node"] == node).count();
    match json {
        true => println!("{}", serde_json::json!({ "node": node, "moved": count, "left": left })),
        false => println!("node {node} owns {left} shards; {count} were moved"),
    }
    Ok(left == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_drained_gives_to_who_has_fewest_and_gives_up_on_what_does_not_move() {
        let page = json!({"cluster": {"node": 2, "nodes": [
            {"node": 1, "cores": 1}, {"node": 2, "cores": 1}, {"node": 3, "cores": 2},
        ]}});
        let owned = |shard: u64, node: u64, core: u64| json!({"shard": shard, "node": node, "core": core});
        let shards: Vec<Value> = (0..12)
            .map(|shard| match shard {
                0..3 => owned(shard, 1, 0),
                3 => owned(shard, 3, 0),
                4 => owned(shard, 3, 1),
                _ => owned(shard, 2, 0),
            })
            .collect();
        assert!(Plan::of(1, &page, &shards).is_err_and(|why| why.to_string().contains("is node 2's")));
        let mut plan = Plan::of(2, &page, &shards).expect("it is");
        let mut went = Vec::new();
        while let Some((shard, target)) = plan.next() {
            went.push((shard, plan.targets[target].0.clone()));
            plan.moving.push((json!(shard), shard, target));
        }
        let expected =
            [(5, "3:0"), (6, "3:1"), (7, "3:0"), (8, "3:1")].map(|(shard, to)| (shard, to.to_owned()));
        assert_eq!(went, expected);
        let (_, shard, target) = plan.moving.pop().expect("four");
        for _ in 1..TRIES_MAX {
            plan.failed(shard, target, "busy").expect("once more");
            plan.targets[target].1 += 1;
            assert_eq!(plan.left.first(), Some(&shard), "behind the others");
            plan.left.remove(0);
        }
        assert!(
            plan.failed(shard, target, "busy")
                .is_err_and(|why| why.to_string() == "shard 8 does not move: busy")
        );
    }

    #[test]
    fn shards_are_shown_in_runs_and_moves_with_how_far_they_are() {
        let shard = |number: u64, core: u64| json!({"shard": number, "core": core, "epoch": 0, "items": 10, "slots": [number * 16, number * 16 + 15]});
        let far = json!({"shard": 4, "node": 7, "core": 1, "epoch": 3, "items": null, "slots": [64, 79]});
        let shards = [shard(0, 0), shard(1, 0), shard(2, 1), shard(3, 0), far];
        let moving = json!({
            "id": 5, "shard": 2, "from": 1, "to": 0, "stage": "copying", "outcome": null, "reason": null, "percent": 25.0,
            "bytes_per_second": 2e8, "lag_changes": 7, "eta_seconds": 1.5,
        });
        let text = text_of(&shards, &[moving]);
        for line in [
            "      0-1         0-31     0          20\n",
            "        2        32-47     1          10\n",
            "        4        64-79   7:1           -\n",
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
