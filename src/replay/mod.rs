//! `foreshadow replay`: a trace of real requests through the cache without sockets, beside other policies.
//!
//! 1. Read the command line into a plan (`flags`), and the trace into columns (`trace`).
//! 2. Run the cache under test and each baseline over it (`run`): ours is the real engine and store (`ours`), the others
//!    are small simulators (`policy`), some with another's prefetcher in front (`rivals`).
//!    What makes it harder than the trace is in `hardship`.
//! 3. Print a table or JSON (`report`); with `--plot` run them at several sizes and draw (`plot`).
//!
//! A request that misses is fetched at once and put in; that is one origin fetch. What was larger than it may be is not
//! kept, and fetched each time.

mod flags;
mod hardship;
mod ours;
mod plot;
mod policy;
mod prefetcher;
mod progress;
mod report;
mod rivals;
mod run;
mod simulate;
mod trace;

pub use flags::command;
pub use policy::{Name, Policy};
pub(crate) use progress::Progress;
pub use run::{Prefetched, Tally, replay};
use run::{replay_in_time, replay_with_prefetch, replay_with_rival};
pub use trace::{Format, Trace, TraceError, Words};

use clap::ArgMatches;
use flags::{OURS, Plan};
use simulate::{Conditions, Time};
use std::io::Write;
use std::process::ExitCode;

/// What ours without prefetching is called, beside ours with it.
const PLAIN: &str = "ours_without_prefetch";
/// Parts of the footprint that a plot shows, in percent.
const PLOT_PERCENTS: [f64; 7] = [1.0, 2.5, 5.0, 10.0, 17.5, 25.0, 50.0];

/// Runs the subcommand; the exit status is 0, 1 if something went wrong, or 2 for a bad command line.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let plan = match flags::plan(matches) {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("foreshadow replay: {problem}");
            return ExitCode::from(2);
        }
    };
    match replay_plan(&plan) {
        Ok(printed) => match std::io::stdout().write_all(printed.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(problem) => {
            eprintln!("foreshadow replay: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn replay_plan(plan: &Plan) -> Result<String, String> {
    let mut progress = Progress::new();
    let read = Trace::read(&plan.path, plan.format, &mut |done, all| progress.show("reading", done, all));
    let trace = read.map_err(|error| format!("{}: {error}", plan.path.display()))?;
    let bytes_max = plan.memory.bytes(trace.footprint_bytes());
    if matches!(plan.time, Time::Stamps { .. }) && trace.times.is_empty() {
        return Err(format!("{} tells no times; say --workers instead of --origin", plan.path.display()));
    }
    if plan.prefetch && plan.policy.is_some() {
        return Err("--prefetch is for ours; it cannot be had with --policy".to_owned());
    }
    if plan.hardship.life_nanos.is_some() && plan.time == Time::Instant && trace.times.is_empty() {
        return Err(format!("{} tells no times; say --workers with --life", plan.path.display()));
    }
    if bytes_max == 0 {
        let footprint = trace.footprint_bytes();
        return Err(format!("--memory comes to nothing; the trace's items have {footprint} bytes together"));
    }
    let predictor = if plan.prefetch { bytes_max / 100 * crate::prefetch::MEMORY_PERCENT } else { 0 };
    let bytes_for_ours = bytes_max - predictor;
    if plan.policy.is_none() && bytes_for_ours < ours::MEMORY_BYTES_MIN {
        return Err(format!(
            "--memory comes to {bytes_max} bytes, and the store needs {} for itself and some items{}; give it more, or run a \
             policy in its place with --policy",
            ours::MEMORY_BYTES_MIN,
            if plan.prefetch { " beside the predictor" } else { "" }
        ));
    }
    // What is under test goes by its own name.
    let name = plan.policy.map_or(OURS, Name::name);
    let under_test = [(name.to_owned(), plan.policy)];
    let others = plan.baselines.iter().filter(|(_, policy)| Some(*policy) != plan.policy);
    let baselines = others.map(|(name, policy)| (name.clone(), Some(*policy)));
    let columns: Vec<(String, Option<Name>)> = under_test.into_iter().chain(baselines).collect();
    let conditions = Conditions { time: plan.time, hardship: plan.hardship };
    let plain = plan.time == Time::Instant && plan.hardship.is_none();
    let mut tallies = Vec::new();
    for (name, policy) in &columns {
        let mut show = |done, all| progress.show(name, done, all);
        // Without prefetching and in no time there is a shorter way.
        if plain && !(plan.prefetch && policy.is_none()) {
            tallies.push((name.clone(), replay(&trace, *policy, bytes_max, &mut show)));
            continue;
        }
        let (tally, hits) = replay_in_time(&trace, *policy, bytes_max, conditions, &mut show);
        if plan.prefetch && name == OURS && policy.is_none() {
            let with = replay_with_prefetch(&trace, bytes_max, conditions, plan.addresses, &hits, &mut show);
            tallies.push((name.clone(), with));
            tallies.push((PLAIN.to_owned(), tally));
        } else {
            tallies.push((name.clone(), tally));
        }
    }
    for (name, policy, rival) in &plan.rivals {
        let mut show = |done, all| progress.show(name, done, all);
        let tally =
            replay_with_rival(&trace, *policy, *rival, bytes_max, plan.time, plan.addresses, &mut show);
        tallies.push((name.clone(), tally));
    }
    if let Some(file) = &plan.plot {
        let mut curves = Vec::new();
        for (name, policy) in &columns {
            let sizes = PLOT_PERCENTS
                .map(|percent| (percent, flags::Memory::Percent(percent).bytes(trace.footprint_bytes())));
            let enough = |bytes: u64| bytes > 0 && (policy.is_some() || bytes >= ours::MEMORY_BYTES_MIN);
            let points = sizes.into_iter().filter(|&(_, bytes)| enough(bytes)).map(|(percent, bytes_max)| {
                let shown = format!("{name} at {percent}%");
                let tally =
                    replay(&trace, *policy, bytes_max, &mut |done, all| progress.show(&shown, done, all));
                (percent, tally.misses as f64 / trace.len() as f64)
            });
            curves.push((name.clone(), points.collect::<Vec<_>>()));
        }
        let title = plan.path.file_name().unwrap_or_default().to_string_lossy();
        std::fs::write(file, plot::svg(&title, &curves))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    progress.end();
    Ok(match plan.json {
        true => format!("{}\n", report::json(&trace, bytes_max, &tallies)),
        false => report::table(&plan.path, &trace, bytes_max, &tallies),
    })
}
