//! The command line: subcommands and flags, made from the table of settings.

use crate::config::{Config, Password, SETTINGS, Sources};
use crate::{bench, check, doctor, explain, log, preflight, record, replay, serve, shards, why};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit status for a bad environment or configuration (`EX_CONFIG` of sysexits.h): trying again is of no use.
pub const EXIT_CONFIG: u8 = 78;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("serve", matches)) => run_serve(sources(matches)),
        Some(("check", matches)) => {
            let file: &PathBuf = matches.get_one("file").expect("clap demands it");
            check::run(file, matches.get_flag("json"))
        }
        Some(("keyspace", matches)) => {
            let admin = *matches.get_one("admin").expect("it has a default");
            let name: Option<&String> = matches.get_one("name");
            explain::run(admin, name.map(String::as_str), matches.get_flag("json"))
        }
        Some(("doctor", matches)) => doctor::run(matches.get_flag("json")),
        Some(("prefetch", matches)) => why::run(matches),
        Some(("record", matches)) => record::run(matches),
        Some(("replay", matches)) => replay::run(matches),
        Some(("shards", matches)) => shards::run(matches),
        Some(("bench", matches)) => {
            bench::run(matches.get_many::<OsString>("arguments").unwrap_or_default().cloned())
        }
        _ => unreachable!("clap demands one of the subcommands"),
    }
}

fn run_serve(sources: Sources) -> ExitCode {
    let mut config = match Config::gather(sources) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("foreshadow: {problem}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let logging = log::start(config.log_level, config.log_format);
    match preflight::run(&mut config) {
        Ok(notices) => notices.iter().for_each(|notice| tracing::warn!("{notice}")),
        Err(failures) => {
            for failure in failures {
                eprintln!("foreshadow: {failure}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    }
    let served = serve::serve(config);
    // What was logged on the way out is written before the verdict.
    drop(logging);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("foreshadow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole command line.
fn command() -> Command {
    let serve = Command::new("serve")
        .about("Serve Redis and memcached clients until told to stop")
        .after_help(
            "Without any flag it serves on 127.0.0.1:7400 with 1 GiB of memory on all cores it may use.\n\
             Settings can stand in a TOML file as well, in the tables `foreshadow check` knows; flags win over the file.",
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Read settings from this TOML file"),
        )
        .args(SETTINGS.iter().map(|setting| {
            let arg = Arg::new(setting.name).long(setting.name).help(help_of(setting.name, setting.help));
            match (setting.value, setting.many) {
                // A switch may say `=false` to overrule a file.
                ("", _) => arg
                    .value_name("true|false")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
                (value, true) => arg.value_name(value).action(ArgAction::Append),
                (value, false) => arg.value_name(value),
            }
        }));
    let check = Command::new("check")
        .about("Check a configuration file and show the settings it makes")
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(PathBuf)))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer as one JSON object"));
    let keyspace = Command::new("keyspace")
        .about(
            "Explain a keyspace of a running server: its rules, what is counted of it, how its origin does",
        )
        .arg(Arg::new("name").value_name("NAME").help("Only this one"))
        .arg(
            Arg::new("admin")
                .long("admin")
                .value_name("ADDR")
                .default_value("127.0.0.1:7401")
                .value_parser(clap::value_parser!(std::net::SocketAddr))
                .help("The server's admin address; a password is taken from FORESHADOW_PASSWORD"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("An object per line"));
    let doctor = Command::new("doctor")
        .about(
            "Look at this machine's kernel, limits and settings, and say what costs speed; changes nothing",
        )
        .after_help("Ends with status 0, or 1 if a check could not run. Warnings do not count.")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer as one JSON object"));
    // It has flags of its own, among them those of other tools (-h is a host there), so it reads them itself.
    let bench = Command::new("bench")
        .about("Put load on a cache server and check every answer (bench --help)")
        .disable_help_flag(true)
        .arg(
            Arg::new("arguments")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(OsString)),
        );
    Command::new("foreshadow")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            serve,
            check,
            keyspace,
            why::command(),
            doctor,
            bench,
            record::command(),
            replay::command(),
            shards::command(),
        ])
}

/// The help of a flag with its default behind it.
fn help_of(name: &str, help: &str) -> String {
    let defaults = Config::default().settings();
    match defaults.iter().find(|(setting, _)| setting == name) {
        Some((_, value)) if !value.is_empty() => format!("{help} [default: {value}]"),
        _ => help.to_owned(),
    }
}

fn sources(matches: &ArgMatches) -> Sources {
    let flags = SETTINGS.iter().filter_map(|setting| {
        let values = matches.get_many::<String>(setting.name)?;
        Some((setting.name, values.cloned().collect()))
    });
    Sources {
        file: matches.get_one("config").cloned(),
        password_variable: Password::of_environment(),
        flags: flags.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_settings_in_their_order() {
        let line = "foreshadow serve --listen 127.0.0.1:1 --cluster-ports --listen [::1]:2 --memory 1GiB \
                    --exit-on-stdin-close=false --config f.toml";
        let matches = command().try_get_matches_from(line.split_whitespace()).unwrap();
        let sources = sources(matches.subcommand_matches("serve").unwrap());
        let flags: Vec<_> = sources.flags.iter().map(|(name, values)| (*name, values.join(" "))).collect();
        let expected = [
            ("listen", "127.0.0.1:1 [::1]:2"),
            ("cluster-ports", "true"),
            ("memory", "1GiB"),
            ("exit-on-stdin-close", "false"),
        ];
        assert_eq!(flags, expected.map(|(name, values)| (name, values.to_owned())));
        assert_eq!(sources.file, Some("f.toml".into()));
    }

    #[test]
    fn help_tells_the_true_default() {
        assert!(help_of("memory", "x").ends_with("[default: 1GiB]"));
        assert_eq!(help_of("password", "x"), "x");
    }
}
