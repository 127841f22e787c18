//! `SLOWLOG` and `LATENCY`: what the journals of all cores tell together, and how a command gets into this core's.

use super::commands::{self, Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, Shape};
use super::{Backend, ECHO_BYTES_MAX, Ex, Talk, echo};
use crate::clock::Mono;
use crate::request::{Journal as Part, Verb};
use crate::wire::journal::{BUCKETS, Slow};

/// Arguments of a slow command that are kept, and bytes of each.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;
/// Entries that `SLOWLOG GET` shows unless told otherwise.
const SHOWN: u32 = 10;
/// Commands with more arguments than this are timed whatever they do.
const PLAIN_ARGUMENTS_MAX: usize = 16;
/// Events that are sampled: commands that pass the threshold.
const EVENT: &str = "command";

impl Talk {
    /// Starts the clock for a command that may take long; for all, if somebody wants to know so exactly.
    pub(super) fn start_clock<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &Command,
        arguments: Arguments<'_>,
    ) {
        use Id::{Get, Getrange, Psetex, Set, Setex, Setrange, Substr};
        let short = command.flags & commands::FAST != 0
            || matches!(command.id, Set | Get | Setex | Psetex | Getrange | Substr | Setrange);
        if !short || self.attentive || arguments.len() > PLAIN_ARGUMENTS_MAX {
            self.began = ex.backend.clock();
        }
    }

    /// Writes down what the command took that has just ended.
    pub(super) fn stop_clock<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        began: Mono,
        arguments: Arguments<'_>,
    ) {
        let (Some(command), Some(ended)) = (self.command, ex.backend.clock()) else { return };
        let micros = ended.0.saturating_sub(began.0) / 1000;
        let unix_seconds = ex.now.wall.0 / 1000;
        let secret = command.flags & commands::NO_AUTH != 0 || command.id == Id::Acl;
        let place = commands::place(command, self.subcommand) as u8;
        let keeps = ex.backend.took(place, unix_seconds, micros) && !secret;
        if !keeps {
            return;
        }
        let cut = arguments.len() > ARGUMENTS_MAX;
        let shown = if cut { ARGUMENTS_MAX - 1 } else { arguments.len() };
        let mut kept: Vec<Vec<u8>> = arguments
            .from(0)
            .take(shown)
            .map(|argument| match argument.len().checked_sub(ARGUMENT_BYTES_MAX) {
                None | Some(0) => argument.to_vec(),
                Some(more) => {
                    let mut text = argument[..ARGUMENT_BYTES_MAX].to_vec();
                    text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                    text
                }
            })
            .collect();
        if cut {
            kept.push(format!("... ({} more arguments)", arguments.len() - shown).into_bytes());
        }
        let client = [self.client.peer.as_bytes(), self.name.as_slice()];
        ex.backend.keep(&Slow { unix_seconds, micros, arguments: &kept, client });
    }

    pub(super) fn slowlog<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        match self.subcommand {
            "get" if arguments.len() > 3 => self.fail_subcommand(ex, command, arguments),
            "get" => {
                let most = match arguments.from(2).next().map(integer) {
                    None => SHOWN,
                    Some(Some(-1)) => u32::MAX,
                    Some(Some(count @ 0..)) => u32::try_from(count).unwrap_or(u32::MAX),
                    _ => return self.fail(ex, "ERR count should be greater than or equal to -1"),
                };
                self.ask_all(ex, Verb::Journal(Part::Slow), Shape::PagePart);
                ex.say(Shape::SlowEnd { most }, &[]);
            }
            "len" => {
                self.ask_all(ex, Verb::Journal(Part::SlowCount), Shape::SumPart);
                ex.say(Shape::SumEnd, &[]);
            }
            "reset" => {
                self.ask_all(ex, Verb::Journal(Part::SlowReset), Shape::SumPart);
                ex.say(Shape::OkEnd, &[]);
            }
            _ => self.help(ex, command),
        }
    }

    pub(super) fn latency<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        let known = || arguments.from(2).any(|event| super::is(event, EVENT));
        match self.subcommand {
            "latest" => {
                self.ask_all(ex, Verb::Journal(Part::Samples), Shape::PagePart);
                ex.say(Shape::LatencyEnd { latest: true }, &[]);
            }
            "history" if known() => {
                self.ask_all(ex, Verb::Journal(Part::Samples), Shape::PagePart);
                ex.say(Shape::LatencyEnd { latest: false }, &[]);
            }
            "history" => ex.say(Shape::Raw, b"*0\r\n"),
            "reset" if arguments.len() == 2 || known() => {
                self.ask_all(ex, Verb::Journal(Part::SamplesReset), Shape::SumPart);
                ex.say(Shape::AnyEnd, &[]);
            }
            "reset" => ex.say(Shape::Raw, b":0\r\n"),
            "histogram" => {
                let mut names = Vec::new();
                for name in arguments.from(2) {
                    names.extend_from_slice(&name.to_ascii_lowercase());
                    names.push(b' ');
                }
                self.ask_all(ex, Verb::Counters, Shape::CountersPart);
                ex.say(Shape::HistogramsEnd, &names);
            }
            "doctor" => self.say(ex, |protocol, out| {
                reply::verbatim(
                    out,
                    protocol,
                    b"CONFIG SET latency-monitor-threshold <milliseconds> samples commands that take longer; LATENCY \
                      LATEST and LATENCY HISTORY command show them, SLOWLOG GET what they were.\n",
                );
            }),
            "graph" => {
                let mut text = b"ERR No samples available for event '".to_vec();
                echo(&mut text, arguments.at(2), ECHO_BYTES_MAX);
                text.push(b'\'');
                self.fail_bytes(ex, &text);
            }
            _ => self.help(ex, command),
        }
    }
}

/// Entries of the slow logs of all cores, the latest first.
pub(super) fn write_slow(gathered: &[u8], most: usize, out: &mut Vec<u8>) {
    let word = |entry: &[u8], i: usize| {
        entry.get(8 * i..8 * i + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    };
    let mut entries: Vec<&[u8]> = reply::keys(gathered).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse((word(entry, 1), word(entry, 0))));
    entries.truncate(most);
    reply::header(out, b'*', entries.len());
    for entry in entries {
        let mut texts: Vec<&[u8]> = reply::keys(&entry[24..]).collect();
        let arguments = texts.split_off(2);
        reply::header(out, b'*', 6);
        for i in 0..3 {
            reply::number(out, word(entry, i) as i64);
        }
        reply::header(out, b'*', arguments.len());
        arguments.iter().for_each(|argument| reply::bulk(out, argument));
        texts.iter().for_each(|text| reply::bulk(out, text));
    }
}

/// `LATENCY LATEST` or `LATENCY HISTORY` of the samples of all cores.
pub(super) fn write_latencies(gathered: &[u8], latest: bool, out: &mut Vec<u8>) {
    let mut words = gathered.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
    let mut samples = Vec::new();
    while let (Some(seconds), Some(millis)) = (words.next(), words.next()) {
        samples.push((seconds as i64, millis as i64));
    }
    samples.sort_by_key(|(seconds, _)| *seconds);
    match (latest, samples.last()) {
        (true, Some((seconds, millis))) => {
            let most = samples.iter().map(|(_, millis)| *millis).max().unwrap_or(*millis);
            reply::header(out, b'*', 1);
            reply::header(out, b'*', 4);
            reply::bulk(out, EVENT.as_bytes());
            [*seconds, *millis, most].into_iter().for_each(|number| reply::number(out, number));
        }
        (true, None) => reply::header(out, b'*', 0),
        (false, _) => {
            reply::header(out, b'*', samples.len());
            for (seconds, millis) in samples {
                reply::header(out, b'*', 2);
                reply::number(out, seconds);
                reply::number(out, millis);
            }
        }
    }
}

/// `LATENCY HISTOGRAM`: calls that took less than so many microseconds, for each command that was timed. `names` are those
/// wanted, with spaces behind; none: all.
pub(super) fn write_histograms(
    timings: &[(u8, [u64; 2 + BUCKETS])],
    protocol: u8,
    names: &[u8],
    out: &mut Vec<u8>,
) {
    let wanted: Vec<&[u8]> = names.split(|byte| *byte == b' ').filter(|name| !name.is_empty()).collect();
    let chosen = || {
        let wanted = &wanted;
        let named = timings
            .iter()
            .filter_map(|(place, t)| commands::name_at(usize::from(*place)).map(|name| (name, t)));
        // A command with subcommands stands for all of them.
        let is = |name: &str, wanted: &[u8]| {
            name.as_bytes() == wanted
                || name.split('|').next().is_some_and(|first| first.as_bytes() == wanted)
        };
        named.filter(move |(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| is(name, wanted)))
    };
    reply::map(out, protocol, chosen().count());
    for (name, timing) in chosen() {
        let buckets = &timing[2..];
        let first = buckets.iter().position(|count| *count > 0).unwrap_or(0);
        let last = buckets.iter().rposition(|count| *count > 0).unwrap_or(0);
        reply::bulk(out, name.as_bytes());
        reply::map(out, protocol, 2);
        reply::bulk(out, b"calls");
        reply::number(out, timing[0] as i64);
        reply::bulk(out, b"histogram_usec");
        reply::map(out, protocol, last + 1 - first);
        let mut sum: u64 = buckets[..first].iter().sum();
        for (i, count) in buckets.iter().enumerate().take(last + 1).skip(first) {
            sum += count;
            reply::number(out, 2 << i);
            reply::number(out, sum as i64);
        }
    }
}
