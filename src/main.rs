//! The process: hands its arguments to a subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|name| name.to_str()) {
        Some("bench") => foreshadow::bench::run(args),
        _ => {
            eprintln!("usage: foreshadow bench ...");
            ExitCode::from(2)
        }
    }
}
