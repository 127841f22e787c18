//! `foreshadow record FILE`: a sampled trace of a running server's traffic, as `replay` reads it.
//!
//! The server streams it from its admin address ([`crate::control`]); here it is written, whole rows only, and looked at for
//! what people want to know: how much it is, whether keys were left out on the way, whether anything was lost.

use crate::admin;
use crate::control::{ROWS_MAX, SECONDS_MAX};
use crate::recording::{Kind, MAGIC, ROW_BYTES, Row};
use crate::replay::Progress;
use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes read at once.
const PIECE_BYTES: usize = 64 << 10;
/// How long the server may say nothing: its cores report once a second.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The subcommand.
pub fn command() -> Command {
    Command::new("record")
        .about("Record a trace of a running server's traffic, which `foreshadow replay` reads")
        .after_help(
            "Keys are hashed with a secret that nobody keeps. A sample is one of keys: each is in the trace with all its reads or \
             with none. Who has the server's password may record.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(PathBuf)).help(
            "Where to write it; must not be there yet",
        ))
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_name("N")
                .default_value("60")
                .value_parser(clap::value_parser!(u64).range(1..=SECONDS_MAX))
                .help("How long"),
        )
        .arg(
            Arg::new("sample")
                .long("sample")
                .value_name("PART")
                .default_value("1")
                .value_parser(clap::value_parser!(f64))
                .help("Which part of the keys, above 0 and up to 1; busy servers record fewer by themselves"),
        )
        .arg(
            Arg::new("rows")
                .long("rows")
                .value_name("N")
                .default_value("10000000")
                .value_parser(clap::value_parser!(u64).range(1..=ROWS_MAX))
                .help("Stop after so many rows of 32 bytes"),
        )
        .arg(
            Arg::new("admin")
                .long("admin")
                .value_name("ADDR")
                .default_value("127.0.0.1:7401")
                .value_parser(clap::value_parser!(SocketAddr))
                .help("The server's admin address; a password is taken from FORESHADOW_PASSWORD"),
        )
}

/// What was written.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    rows: u64,
    /// Reads among them.
    reads: u64,
    /// Keys with a greater hash were left out in the end, if any were on the way.
    narrowed: Option<u64>,
    /// Rows lost, once the last row has come.
    lost: Option<u64>,
}

impl Summary {
    fn take(&mut self, row: &Row) {
        self.rows += 1;
        match Kind::of(row.kind) {
            Some(Kind::Read) => self.reads += 1,
            Some(Kind::Narrowed) => {
                self.narrowed = Some(self.narrowed.map_or(row.key, |before| before.min(row.key)));
            }
            Some(Kind::End) => self.lost = Some(row.key),
            Some(Kind::Write | Kind::Size) | None => {}
        }
    }
}

/// Records; the exit status is 0, or 1 if it did not come to its end.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let file: &PathBuf = matches.get_one("file").expect("clap demands it");
    match record(matches, file) {
        Ok(summary) => {
            let mut said = format!("{}: {} reads in {} rows", file.display(), summary.reads, summary.rows);
            if let Some(key_max) = summary.narrowed {
                let part = key_max as f64 / 2f64.powi(64) * 100.0;
                said += &format!("; the traffic was too much for all, {part:.2} % of the keys are whole");
            }
            match summary.lost {
                Some(0) => println!("{said}"),
                Some(lost) => println!("{said}; {lost} rows were lost, as they were not taken in time"),
                None => {
                    println!("{said}");
                    eprintln!("foreshadow record: the server ended before the recording did");
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("foreshadow record: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn record(matches: &ArgMatches, path: &PathBuf) -> anyhow::Result<Summary> {
    let admin: SocketAddr = *matches.get_one("admin").expect("it has a default");
    let seconds: u64 = *matches.get_one("seconds").expect("it has a default");
    let sample: f64 = *matches.get_one("sample").expect("it has a default");
    let rows: u64 = *matches.get_one("rows").expect("it has a default");
    if !(sample > 0.0 && sample <= 1.0) {
        bail!("--sample {sample}: a part above 0 and up to 1 is wanted");
    }
    let query = format!("/v1/record?seconds={seconds}&sample={sample}&rows={rows}");
    let file = File::create_new(path).with_context(|| format!("{} cannot be made", path.display()))?;
    let body = match admin::open(admin, &query) {
        Ok(body) => body,
        Err(error) => {
            // Nothing is in it, and it would stand in the way of the next try.
            std::fs::remove_file(path).with_context(|| format!("{} cannot be removed", path.display()))?;
            return Err(error);
        }
    };
    body.get_ref().set_read_timeout(Some(SILENCE_MAX))?;
    let mut progress = Progress::new();
    let begin = Instant::now();
    let shown = |reads: u64| {
        let done = begin.elapsed().as_secs().min(seconds);
        progress.show(&format!("{reads} reads"), done, seconds);
    };
    let summary = copy(body, file, shown).with_context(|| format!("{}", path.display()))?;
    progress.end();
    Ok(summary)
}

/// Copies whole rows until the end of what comes; what came until then stays, if it comes to none.
fn copy(mut from: impl Read, to: impl Write, mut shown: impl FnMut(u64)) -> anyhow::Result<Summary> {
    let mut to = BufWriter::new(to);
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).context("the server sends no recording")?;
    if magic != *MAGIC {
        bail!("the server sends something else than a recording of this version");
    }
    to.write_all(MAGIC)?;
    let mut summary = Summary::default();
    let mut piece = vec![0; PIECE_BYTES];
    let mut len = 0;
    while summary.lost.is_none() {
        match from.read(&mut piece[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // What came is worth keeping; that there is no last row tells the rest.
            Err(_) => break,
        }
        let (rows, rest) = piece[..len].as_chunks::<ROW_BYTES>();
        rows.iter().for_each(|row| summary.take(&Row::read(row)));
        to.write_all(rows.as_flattened())?;
        let start = len - rest.len();
        piece.copy_within(start..len, 0);
        len -= start;
        shown(summary.reads);
    }
    to.flush()?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(rows: &[Row]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        rows.iter().for_each(|row| row.write(&mut bytes));
        bytes
    }

    fn row(kind: Kind, key: u64) -> Row {
        Row { nanos: 1, key, client: 1, size: 5, kind: kind.number() }
    }

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let len = self.0.len().min(into.len()).min(13);
            into[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn rows_are_written_as_they_came_and_counted() {
        let rows = [row(Kind::Read, 9), row(Kind::Size, 9), row(Kind::Narrowed, 8), row(Kind::End, 3)];
        let bytes = recording(&rows);
        let mut written = Vec::new();
        let summary = copy(Slow(&bytes), &mut written, |_| ()).unwrap();
        assert_eq!(summary, Summary { rows: 4, reads: 1, narrowed: Some(8), lost: Some(3) });
        assert_eq!(written, bytes);
    }

    #[test]
    fn what_ends_early_leaves_whole_rows_and_is_known_as_cut() {
        let bytes = recording(&[row(Kind::Read, 9), row(Kind::Read, 9)]);
        let mut written = Vec::new();
        let summary = copy(&bytes[..bytes.len() - 5], &mut written, |_| ()).unwrap();
        assert_eq!((summary.reads, summary.lost), (1, None));
        assert_eq!(written, bytes[..8 + ROW_BYTES]);
        assert!(copy(&b"HTTP/1.1 200"[..], Vec::new(), |_| ()).is_err());
        assert!(copy(&b"FSR"[..], Vec::new(), |_| ()).is_err());
    }
}
