//! The command line of `replay`.

use super::hardship::Hardship;
use super::policy::Name;
use super::rivals;
use super::simulate::Time;
use super::trace::Format;
use crate::clock::Mono;
use crate::config::parse_size;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::path::PathBuf;

/// What the cache under test is called.
pub const OURS: &str = "ours";

/// What a fetch takes where clients wait for it, in hits.
const ORIGIN_HITS: u64 = 100;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The trace.
    pub path: PathBuf,
    /// Its format; `None` finds out.
    pub format: Option<Format>,
    /// Whether the keys' numbers are addresses, so that neighbours mean something.
    pub addresses: bool,
    /// What stands in the place of ours; `None` is the real engine and store.
    pub policy: Option<Name>,
    /// The limit.
    pub memory: Memory,
    /// What it is held against, as named on the command line.
    pub baselines: Vec<(String, Name)>,
    /// Policies with another's prefetcher in front.
    pub rivals: Vec<(String, Name, rivals::Name)>,
    /// Answer as JSON.
    pub json: bool,
    /// Where to draw miss ratios over sizes.
    pub plot: Option<PathBuf>,
    /// Prefetching, with ours.
    pub prefetch: bool,
    /// How time passes.
    pub time: Time,
    /// What makes it hard; for ours.
    pub hardship: Hardship,
}

fn spread(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(spread) if (0.0..=10.0).contains(&spread) => Ok(spread),
        _ => Err("a number from 0 to 10 is wanted".to_owned()),
    }
}

/// A limit of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    /// So many bytes.
    Bytes(u64),
    /// So much of the trace's footprint, in percent.
    Percent(f64),
}

impl Memory {
    /// In bytes, for a trace of that footprint.
    pub fn bytes(self, footprint_bytes: u64) -> u64 {
        match self {
            Memory::Bytes(bytes) => bytes,
            Memory::Percent(percent) => (footprint_bytes as f64 * percent / 100.0) as u64,
        }
    }
}

/// The subcommand.
pub fn command() -> Command {
    let policies = Name::ALL.map(|(name, _)| name)[..7].join(", ");
    Command::new("replay")
        .about("Run a trace of requests through the cache without sockets, beside other eviction policies")
        .after_help(format!(
            "Policies: {OURS} (the store as it serves), {policies}.\n\
             Traces may be compressed with xz or zstd. Where rows tell no size, an item has 1000 bytes, and a percentage\n\
             of the footprint is one of the items. Policies are charged for values only, ours for everything it keeps.\n\
             Formats: oracleGeneral (libCacheSim's), csv and tsv (a header names the columns; key is demanded, size, time and\n\
             client are known), i32be, i64be and u32le (a key per row), recorded (\"FSREC\\0\\0\\1\", then rows of 32 bytes,\n\
             little-endian: time in ns u64, hash of the key u64, client u64, size u32, flags u32; flag 1 is a write)."
        ))
        .arg(Arg::new("trace").value_name("TRACE").required(true).value_parser(clap::value_parser!(PathBuf)))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .default_value("auto")
                .help("auto, oracleGeneral, csv, tsv, i32be, i64be, u32le or recorded"),
        )
        .arg(
            Arg::new("keys")
                .long("keys")
                .value_name("opaque|address")
                .default_value("opaque")
                .value_parser(["opaque", "address"])
                .help("Whether neighbouring keys mean anything"),
        )
        .arg(
            Arg::new("policy")
                .long("policy")
                .value_name("NAME")
                .default_value(OURS)
                .help("What to run in the place of ours; it is reported under its own name"),
        )
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE|N%")
                .default_value("10%")
                .help("The limit: a size, or a part of the trace's footprint"),
        )
        .arg(
            Arg::new("baseline")
                .long("baseline")
                .value_name("NAME,...")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help(
                    "Policies to run beside it, or with a prefetcher in front, as lru+mithril (next-line, last-successor, \
                     graph, mithril) [default: lru,s3fifo]",
                ),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer as one JSON object"))
        .arg(
            Arg::new("prefetch")
                .long("prefetch")
                .action(ArgAction::SetTrue)
                .help("Have ours prefetch; its memory is taken from the limit"),
        )
        .arg(
            Arg::new("origin")
                .long("origin")
                .value_name("MILLIS")
                .value_parser(clap::value_parser!(u64))
                .conflicts_with("workers")
                .help("Requests come at the trace's times, and the origin takes so long [default: no time at all]"),
        )
        .arg(
            Arg::new("workers")
                .long("workers")
                .value_name("N")
                .value_parser(clap::value_parser!(u64).range(1..=4096))
                .help("Clients that ask in turn, each waiting for its answer; the origin takes 100 times a hit"),
        )
        .arg(
            Arg::new("spread")
                .long("spread")
                .value_name("SIGMA")
                .default_value("0")
                .value_parser(spread)
                .help("With --workers: the origin's latency is log-normal with this deviation, 0 to 10"),
        )
        .arg(
            Arg::new("life")
                .long("life")
                .value_name("SECONDS")
                .value_parser(clap::value_parser!(u64).range(1..=86_400))
                .help("What is fetched ends after so long (ours only)"),
        )
        .arg(
            Arg::new("storm")
                .long("storm")
                .value_name("ROWS")
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("Every so many rows a tenth of the keys is invalidated, another tenth each time (ours only)"),
        )
        .arg(
            Arg::new("brownout")
                .long("brownout")
                .value_name("TIMES")
                .value_parser(clap::value_parser!(u64).range(1..=1000))
                .requires("workers")
                .help(
                    "The origin has as many places as there are clients, takes so many times as long in the middle third of the \
                     trace, and is asked ahead as far as it has something to spare (ours only)",
                ),
        )
        .arg(
            Arg::new("plot")
                .long("plot")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Draw miss ratios over sizes of 1 to 50 % of the footprint into this SVG file"),
        )
}

/// The plan that a command line makes, or what is wrong with it.
pub fn plan(matches: &ArgMatches) -> Result<Plan, String> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let format = match text("format") {
        "auto" => None,
        name => Some(format_of(name)?),
    };
    let policy = match text("policy") {
        OURS => None,
        name => Some(policy_of(name)?),
    };
    let named = matches.get_many::<String>("baseline").map(|names| names.map(String::as_str).collect());
    let hardship = hardship_of(matches);
    let usual = if hardship.is_none() { vec!["lru", "s3fifo"] } else { Vec::new() };
    let named: Vec<&str> = named.unwrap_or(usual);
    let mut baselines = Vec::new();
    let mut rivals = Vec::new();
    for name in named.into_iter().filter(|name| !name.is_empty()) {
        match name.split_once('+') {
            Some((policy, rival)) => {
                rivals.push((name.to_owned(), policy_of(policy)?, rival_of(rival)?));
            }
            None => baselines.push((name.to_owned(), policy_of(name)?)),
        }
    }
    if !hardship.is_none() && (policy.is_some() || !baselines.is_empty() || !rivals.is_empty()) {
        return Err("--life, --storm and --brownout are for ours, without --policy and --baseline".to_owned());
    }
    let time = match (matches.get_one::<u64>("origin"), matches.get_one::<u64>("workers")) {
        (Some(millis), _) => Time::Stamps { origin_nanos: millis.saturating_mul(1_000_000) },
        (None, Some(count)) => Time::Workers {
            count: *count as usize,
            origin_hits: ORIGIN_HITS,
            spread: matches.get_one::<f64>("spread").copied().unwrap_or(0.0),
        },
        (None, None) => Time::Instant,
    };
    Ok(Plan {
        path: matches.get_one::<PathBuf>("trace").expect("clap demands it").clone(),
        format,
        addresses: text("keys") == "address",
        policy,
        memory: memory_of(text("memory"))?,
        baselines,
        rivals,
        json: matches.get_flag("json"),
        plot: matches.get_one::<PathBuf>("plot").cloned(),
        prefetch: matches.get_flag("prefetch"),
        time,
        hardship,
    })
}

fn hardship_of(matches: &ArgMatches) -> Hardship {
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    Hardship {
        life_nanos: number("life").map(|seconds| seconds * Mono::NANOS_PER_SECOND),
        storm_rows: number("storm").map(|rows| usize::try_from(rows).unwrap_or(usize::MAX)),
        brownout: number("brownout"),
    }
}

fn memory_of(text: &str) -> Result<Memory, String> {
    let Some(number) = text.strip_suffix('%') else { return parse_size(text).map(Memory::Bytes) };
    match number.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent.is_finite() => Ok(Memory::Percent(percent)),
        _ => Err(format!("`{text}` is not a part of the footprint: say 10%, 0.5% or a size like 64MiB")),
    }
}

fn format_of(name: &str) -> Result<Format, String> {
    let names = Format::NAMES.map(|(name, _)| name);
    let found = Format::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, format)| *format).ok_or_else(|| unknown("format", name, &names))
}

fn policy_of(name: &str) -> Result<Name, String> {
    let mut names = Name::ALL.map(|(name, _)| name).to_vec();
    names.push(OURS);
    Name::of(name).ok_or_else(|| match name {
        OURS => format!("`{OURS}` is what the baselines are held against; it cannot be one"),
        name => unknown("policy", name, &names),
    })
}

fn rival_of(name: &str) -> Result<rivals::Name, String> {
    rivals::Name::of(name)
        .ok_or_else(|| unknown("prefetcher", name, &rivals::Name::ALL.map(|(name, _)| name)))
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let lower = name.to_lowercase();
    let near =
        known.iter().map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known)).min();
    match near {
        Some((distance, near)) if distance <= 1 + name.len() / 3 => {
            format!("there is no {what} `{name}`; did you mean `{near}`?")
        }
        _ => format!("there is no {what} `{name}`; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::Words;

    fn planned(line: &str) -> Result<Plan, String> {
        plan(&command().try_get_matches_from(line.split(' ')).unwrap())
    }

    #[test]
    fn every_flag_reaches_the_plan() {
        let plan = planned(
            "replay t.xz --format I64BE --keys address --policy gdsf --memory 2.5% --baseline lru,min,LRU+Graph --baseline sieve \
             --json --plot p.svg --prefetch --workers 4 --spread 0.5",
        );
        let named = |name: &str, policy| (name.to_owned(), policy);
        let expected = Plan {
            path: "t.xz".into(),
            format: Some(Format::Words(Words::I64Be)),
            addresses: true,
            policy: Some(Name::Gdsf),
            memory: Memory::Percent(2.5),
            baselines: vec![named("lru", Name::Lru), named("min", Name::Belady), named("sieve", Name::Sieve)],
            rivals: vec![("LRU+Graph".to_owned(), Name::Lru, rivals::Name::Graph)],
            json: true,
            plot: Some("p.svg".into()),
            prefetch: true,
            time: Time::Workers { count: 4, origin_hits: 100, spread: 0.5 },
            hardship: Hardship::default(),
        };
        assert_eq!(plan, Ok(expected));
        let plan = planned("replay t").unwrap();
        assert_eq!((plan.format, plan.policy, plan.memory), (None, None, Memory::Percent(10.0)));
        assert_eq!(plan.baselines, [named("lru", Name::Lru), named("s3fifo", Name::S3Fifo)]);
        assert_eq!((plan.prefetch, plan.time), (false, Time::Instant));
        let plan = planned("replay t --origin 10").unwrap();
        assert_eq!(plan.time, Time::Stamps { origin_nanos: 10_000_000 });
        let plan = planned("replay t --workers 2 --life 60 --storm 500 --brownout 10").unwrap();
        let hardship =
            Hardship { life_nanos: Some(60_000_000_000), storm_rows: Some(500), brownout: Some(10) };
        assert_eq!((plan.hardship, plan.baselines), (hardship, Vec::new()));
        assert!(planned("replay t --storm 5 --baseline lru").unwrap_err().contains("for ours"));
        assert_eq!(planned("replay t --memory 64MiB").unwrap().memory.bytes(5), 64 << 20);
        assert_eq!(Memory::Percent(10.0).bytes(12_345), 1234);
    }

    #[test]
    fn a_name_that_is_nearly_right_is_told() {
        let error = |line: &str| planned(line).unwrap_err();
        assert_eq!(error("replay t --policy s3fif"), "there is no policy `s3fif`; did you mean `s3fifo`?");
        assert_eq!(
            error("replay t --baseline lru,seive"),
            "there is no policy `seive`; did you mean `sieve`?"
        );
        assert_eq!(
            error("replay t --baseline lru+mitril"),
            "there is no prefetcher `mitril`; did you mean `mithril`?"
        );
        assert!(error("replay t --policy clockwork").contains("there are lru, sieve"));
        assert_eq!(error("replay t --format cvs"), "there is no format `cvs`; did you mean `csv`?");
        assert!(error("replay t --baseline ours").contains("cannot be one"));
        assert!(error("replay t --memory 0%").contains("not a part"));
        assert!(error("replay t --memory 3x").contains("not a size"));
    }
}
