//! `foreshadow bench`: load on a cache server, closed and open loop, every answer checked.
//!
//! 1. Read the command line into a plan (`flags`): our flags, memtier_benchmark's and redis-benchmark's.
//! 2. Connect and greet; in cluster mode ask who owns which slot (`connect`).
//! 3. Write every key once, so that what a GET must find is known; warm up.
//! 4. Measure (`load`): one thread, one ring, the requests and answers of `speech`, keys and values of `items`, chosen by
//!    `dice`, counted by `tally`; the server's CPU time before and after by `server_cpu`.
//! 5. Hold the counts against what was to be expected, and print (`report`).

mod connect;
mod dice;
mod flags;
mod items;
mod load;
mod report;
mod server_cpu;
mod speech;
mod tally;

use dice::{Askers, Keys, Pattern};
use flags::{Form, Length, Plan, Test};
use items::Items;
use load::{End, Failure, Load, Mix, Pace, Phase, Targets};
use report::Measured;
use server_cpu::CpuTime;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tally::Tally;

/// An open loop that cannot tell even these has failed; of those beyond, what it cannot tell is left out.
const PERCENTILES_NEEDED: [f64; 2] = [50.0, 99.0];
/// Requests of a batch while keys are written before measuring.
const PREFILL_PIPELINE: u32 = 16;

/// Runs the subcommand with its arguments (without the program's and its own name).
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let plan = match flags::parse(args) {
        Ok(plan) => plan,
        Err(error) => {
            // Nothing can be done about a closed stdout or stderr.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if let Some(cpu) = plan.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        eprintln!("foreshadow bench: cannot run on CPU {cpu}");
        return ExitCode::from(2);
    }
    let files = [&plan.output.file, &plan.output.json_file, &plan.output.hdr_file];
    for file in files.into_iter().flatten() {
        // Rather now than after the load.
        if let Err(error) = std::fs::OpenOptions::new().append(true).create(true).open(file) {
            eprintln!("foreshadow bench: {} cannot be written: {error}", file.display());
            return ExitCode::from(2);
        }
    }
    let mut measured = Vec::new();
    let ran = measure(&plan, &mut measured);
    if let Err(failure) = &ran {
        eprintln!("foreshadow bench: {failure}");
    }
    let printed = print(&plan, &measured);
    if let Err(error) = &printed {
        eprintln!("foreshadow bench: {error}");
    }
    let complained = measured.iter().any(|one| !one.complaints.is_empty());
    if plan.output.form != Form::Table {
        for complaint in measured.iter().flat_map(|one| &one.complaints) {
            eprintln!("foreshadow bench: {complaint}");
        }
    }
    if ran.is_err() || printed.is_err() || complained { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn print(plan: &Plan, measured: &[Measured]) -> std::io::Result<()> {
    let report = report::print(plan, measured);
    match &plan.output.file {
        Some(file) => std::fs::write(file, report)?,
        None => std::io::stdout().write_all(report.as_bytes())?,
    }
    if let Some(file) = &plan.output.json_file {
        std::fs::write(file, format!("{:#}\n", report::json(plan, measured)))?;
    }
    if let Some(file) = &plan.output.hdr_file {
        for (i, one) in measured.iter().enumerate() {
            // What was measured under other conditions is another distribution.
            let mut name = file.clone().into_os_string();
            if measured.len() > 1 {
                name.push(format!(".{}", i + 1));
            }
            std::fs::write(name, report::distribution(&one.tally))?;
        }
    }
    Ok(())
}

/// Everything between plan and report; what was measured before a failure is kept.
fn measure(plan: &Plan, measured: &mut Vec<Measured>) -> Result<(), Failure> {
    let greeting = connect::Greeting {
        protocol: plan.protocol,
        user: plan.user.clone(),
        password: plan.password.clone(),
        database: plan.database,
        patience: plan.patience,
    };
    let targets = if plan.cluster {
        connect::cluster_targets(plan.address, &greeting)?
    } else {
        Targets { nodes: vec![plan.address], node_of_slot: None }
    };
    let items = Items::new(plan.key_prefix.as_bytes(), plan.key_digits, plan.key_minimum, plan.sizes.clone());
    let keys_of_node = targets.count_keys(&items, plan.key_count);
    let mut streams = Vec::new();
    for (node, &address) in targets.nodes.iter().enumerate() {
        // A node without keys is asked nothing.
        let connections = if keys_of_node[node] == 0 { 0 } else { plan.connections };
        for _ in 0..connections {
            streams.push((node, connect::connect(address, &greeting)?));
        }
    }
    let askers = Askers { lanes_of_node: plan.connections, lanes: streams.len(), nodes: targets.nodes.len() };
    let options = load::Options {
        protocol: plan.protocol,
        verify: plan.verify,
        pipeline: plan.pipeline.max(if plan.prefill { PREFILL_PIPELINE } else { 1 }),
        seed: plan.seed,
        silence_max: plan.patience,
        busy_poll: plan.busy_poll,
    };
    let mut load = Load::new(&options, streams, &targets, &items)?;
    let progress = std::io::stderr().is_terminal();
    let phase = |test: &Test, end: End, pace: Pace, name: &'static str| {
        let keys = |pattern| Keys::new(pattern, plan.key_count, askers);
        Phase {
            mix: test.mix,
            set_keys: keys(plan.set_pattern),
            get_keys: keys(plan.get_pattern),
            expiry: plan.expiry,
            pipeline: plan.pipeline,
            end,
            pace,
            progress: progress.then_some(name),
        }
    };

    if plan.prefill {
        let test = Test { name: "prefill", mix: Mix::SetGet(1, 0) };
        let mut fill = phase(&test, End::RequestsOfNode(keys_of_node), Pace::Closed, test.name);
        fill.set_keys = Keys::new(Pattern::Sequential, plan.key_count, askers);
        fill.pipeline = PREFILL_PIPELINE;
        let mut tally = Tally::default();
        load.run(&mut fill, &mut tally)?;
        if tally.stored != plan.key_count {
            let complaints = complaints(plan, &test, None, &tally);
            measured.push(Measured { name: test.name, rate: None, tally, server_cpu: None, complaints });
            return Ok(());
        }
    }
    for test in &plan.tests {
        let paces: Vec<Pace> = if plan.rates.is_empty() {
            vec![Pace::Closed]
        } else {
            plan.rates.iter().map(|&rate| Pace::Open(rate)).collect()
        };
        for pace in paces.iter().flat_map(|&pace| (0..plan.run_count).map(move |_| pace)) {
            if !plan.warm_up.is_zero() {
                let mut warm_up = phase(test, End::After(plan.warm_up), pace, "warm-up");
                load.run(&mut warm_up, &mut Tally::default())?;
            }
            let end = match plan.length {
                Length::Requests(count) => End::Requests(count),
                Length::Time(time) => End::After(time),
            };
            let mut asked = phase(test, end, pace, test.name);
            let mut tally = Tally::default();
            let before = cpu(plan)?;
            let ran = load.run(&mut asked, &mut tally);
            let server_cpu = match before {
                Some(before) if ran.is_ok() => cpu(plan)?.map(|after| after.since(&before)),
                _ => None,
            };
            let rate = match pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            };
            let complaints = complaints(plan, test, rate, &tally);
            measured.push(Measured { name: test.name, rate, tally, server_cpu, complaints });
            ran?;
        }
    }
    Ok(())
}

fn cpu(plan: &Plan) -> Result<Option<CpuTime>, Failure> {
    plan.server_pid.map(|pid| CpuTime::of(pid).map_err(|error| Failure::Process(pid, error))).transpose()
}

/// What the counts say against the server (or against us).
fn complaints(plan: &Plan, test: &Test, rate: Option<f64>, tally: &Tally) -> Vec<String> {
    let mut found = Vec::new();
    if tally.wrong > 0 {
        let mut key = Vec::new();
        let items =
            Items::new(plan.key_prefix.as_bytes(), plan.key_digits, plan.key_minimum, plan.sizes.clone());
        items.write_key(tally.first_wrong.unwrap_or(0), &mut key);
        found.push(format!(
            "{} GETs brought a value that was not put under their key, first {:?} (data of another tool? --prefill)",
            tally.wrong,
            String::from_utf8_lossy(&key)
        ));
    }
    if tally.refused > 0 {
        let words = tally.first_refusal.as_deref().unwrap_or("");
        found.push(format!("{} requests were refused, for instance: {words}", tally.refused));
    }
    if tally.asked != tally.answered() {
        found.push(format!("{} requests were sent and {} answered", tally.asked, tally.answered()));
    }
    let gets = tally.hits + tally.misses + tally.wrong;
    let percent = tally.hits as f64 * 100.0 / gets.max(1) as f64;
    if gets > 0 && percent < plan.expect_hits {
        found.push(format!("{percent:.3} % of {gets} GETs hit, at least {} % must", plan.expect_hits));
    }
    if tally.answered() == 0 {
        found.push(format!("nothing was answered in {}", test.name));
    }
    if rate.is_some() {
        found.extend(tally.fell_behind(&PERCENTILES_NEEDED).map(|behind| behind.to_string()));
    }
    found
}
