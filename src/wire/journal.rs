//! What a core remembers of commands beside counting them: those that took long, how long commands take, and which errors
//! were answered.
//!
//! Sessions write it, `SLOWLOG`, `LATENCY` and `INFO` read the journals of all cores together. The clock is the shell's: a
//! plain GET or SET is never timed unless somebody asks for a threshold so low that it could matter.

use super::denials::Denials;
use crate::request::{Answer, Journal as Part};
use std::collections::{BTreeMap, VecDeque};

/// Codes that error replies begin with; the last stands for all others.
pub const ERROR_CODES: [&str; 12] = [
    "ERR",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "OOM",
    "CROSSSLOT",
    "EXECABORT",
    "NOPROTO",
    "BUSYKEY",
    "TRYAGAIN",
    "MOVED",
    "OTHER",
];
/// Powers of two of microseconds that timings are told apart by.
pub const BUCKETS: usize = 24;
/// Numbers that a page has for each command: its own, calls, microseconds, buckets.
pub const TIMING_WORDS: usize = 3 + BUCKETS;
/// Samples of latencies above the threshold.
const SAMPLES_MAX: usize = 160;
/// A threshold below this is one that plain commands could pass: then they are timed as well.
const FINE_MICROS: i64 = 1000;
/// Entries that the slow log may be told to keep, all in all; the text of each is cut.
const SLOW_MAX: i64 = 65_536;

/// Thresholds, as `CONFIG SET` changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Commands that take at least so many microseconds are kept; negative: none.
    pub slow_micros: i64,
    /// Most of them.
    pub slow_count_max: i64,
    /// Commands that take at least so many milliseconds are samples of `LATENCY`; 0: none.
    pub latency_millis: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { slow_micros: 10_000, slow_count_max: 128, latency_millis: 0 }
    }
}

/// A command that took long, as it is kept.
pub struct Slow<'a> {
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// What it took.
    pub micros: u64,
    /// Arguments, cut and counted by the caller.
    pub arguments: &'a [Vec<u8>],
    /// The client's address and name.
    pub client: [&'a [u8]; 2],
}

/// Whom an error reply is counted for: a command by its number, and whether it was refused before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame(u16);

impl Blame {
    /// No command of ours.
    pub const NOBODY: Blame = Blame(u16::MAX);

    /// A command that is being looked at and not done yet.
    #[inline]
    pub fn refused(command: u8) -> Blame {
        Blame(1 << 8 | u16::from(command))
    }

    /// A command that is being done.
    #[inline]
    pub fn failed(command: u8) -> Blame {
        Blame(u16::from(command))
    }
}

/// Error replies that a session has written, until its core's journal takes them.
#[derive(Debug, Default)]
pub struct Errors {
    kinds: [u32; ERROR_CODES.len()],
    /// Commands that had any; few, so nothing to search in.
    blamed: Vec<(Blame, u32)>,
    count: u64,
}

impl Errors {
    /// How many there are.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in one; `reply` begins behind the minus sign.
    pub fn add(&mut self, blame: Blame, reply: &[u8]) {
        self.count += 1;
        self.kinds[error_kind(reply)] += 1;
        match self.blamed.iter_mut().find(|(known, _)| *known == blame) {
            Some((_, count)) => *count += 1,
            None if blame == Blame::NOBODY => {}
            None => self.blamed.push((blame, 1)),
        }
    }
}

/// The journal of a core.
#[derive(Default)]
pub struct Journal {
    /// What is kept.
    pub thresholds: Thresholds,
    /// What was refused.
    pub denials: Denials,
    slow: VecDeque<Vec<u8>>,
    slow_count: u64,
    samples: VecDeque<[u64; 2]>,
    timings: BTreeMap<u8, [u64; 2 + BUCKETS]>,
    errors: [u64; ERROR_CODES.len()],
    /// Of each command that had any: how often it was refused, and how often it failed.
    mishaps: BTreeMap<u8, [u64; 2]>,
}

impl Journal {
    /// Whether every command is to be timed, plain ones too.
    pub fn is_fine(&self) -> bool {
        (0..FINE_MICROS).contains(&self.thresholds.slow_micros)
    }

    /// Whether a command that took so long is kept.
    pub fn keeps(&self, micros: u64) -> bool {
        u64::try_from(self.thresholds.slow_micros).is_ok_and(|least| micros >= least)
            && self.thresholds.slow_count_max > 0
    }

    /// Counts what a command took.
    pub fn took(&mut self, command: u8, unix_seconds: u64, micros: u64) {
        let timing = self.timings.entry(command).or_insert([0; 2 + BUCKETS]);
        timing[0] += 1;
        timing[1] += micros;
        timing[2 + (64 - micros.max(1).leading_zeros() as usize - 1).min(BUCKETS - 1)] += 1;
        let least = self.thresholds.latency_millis;
        if least > 0 && micros / 1000 >= least as u64 {
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back([unix_seconds, micros / 1000]);
        }
    }

    /// Keeps a command that took long. `core` and `cores` make its number unique on the node.
    pub fn keep(&mut self, core: u16, cores: u16, slow: &Slow<'_>) {
        let mut entry = Vec::new();
        let number = self.slow_count * u64::from(cores) + u64::from(core);
        self.slow_count += 1;
        for word in [number, slow.unix_seconds, slow.micros] {
            entry.extend_from_slice(&word.to_le_bytes());
        }
        for text in slow.client.into_iter().chain(slow.arguments.iter().map(Vec::as_slice)) {
            entry.extend_from_slice(&(text.len() as u32).to_le_bytes());
            entry.extend_from_slice(text);
        }
        self.slow.push_back(entry);
        self.trim();
    }

    /// Drops what is too much, after a change of the thresholds too.
    pub fn trim(&mut self) {
        let most = self.thresholds.slow_count_max.clamp(0, SLOW_MAX) as usize;
        self.slow.drain(..self.slow.len().saturating_sub(most));
    }

    /// Counts error replies by their codes and by their commands.
    pub fn erred(&mut self, errors: &Errors) {
        self.errors.iter_mut().zip(errors.kinds).for_each(|(sum, count)| *sum += u64::from(count));
        for (Blame(number), count) in &errors.blamed {
            let mishaps = self.mishaps.entry(*number as u8).or_default();
            mishaps[usize::from(number >> 8 == 0)] += u64::from(*count);
        }
    }

    /// Forgets what `CONFIG RESETSTAT` resets.
    pub fn reset_counts(&mut self) {
        (self.timings, self.mishaps) = (BTreeMap::new(), BTreeMap::new());
        self.errors = [0; ERROR_CODES.len()];
    }

    /// Appends what `INFO` tells: errors by code; how many commands had any, and for each its number, how often it was refused
    /// and failed; then [`TIMING_WORDS`] numbers for each command that was timed. All little-endian u64.
    pub fn append_counts(&self, page: &mut Vec<u8>) {
        page.extend(self.errors.iter().flat_map(|count| count.to_le_bytes()));
        page.extend_from_slice(&(self.mishaps.len() as u64).to_le_bytes());
        for (command, [refused, failed]) in &self.mishaps {
            page.extend([u64::from(*command), *refused, *failed].iter().flat_map(|word| word.to_le_bytes()));
        }
        for (command, timing) in &self.timings {
            page.extend_from_slice(&u64::from(*command).to_le_bytes());
            page.extend(timing.iter().flat_map(|word| word.to_le_bytes()));
        }
    }

    /// Does [`crate::request::Verb::Journal`]; bytes go to `page`.
    pub fn answer(&mut self, part: Part, page: &mut Vec<u8>) -> Answer {
        match part {
            Part::Slow => {
                for entry in &self.slow {
                    page.extend_from_slice(&(entry.len() as u32).to_le_bytes());
                    page.extend_from_slice(entry);
                }
                Answer::Page { cursor: 0 }
            }
            Part::Denials => {
                self.denials.append_to(page);
                Answer::Page { cursor: 0 }
            }
            Part::DenialsReset => {
                self.denials.clear();
                Answer::Number(0)
            }
            Part::SlowCount => Answer::Number(self.slow.len() as i64),
            Part::SlowReset => {
                self.slow.clear();
                Answer::Number(0)
            }
            Part::Samples => {
                page.extend(self.samples.iter().flatten().flat_map(|word| word.to_le_bytes()));
                Answer::Page { cursor: 0 }
            }
            Part::SamplesReset => {
                let any = !self.samples.is_empty();
                self.samples.clear();
                Answer::Number(i64::from(any))
            }
        }
    }
}

/// The place of an error reply's code among [`ERROR_CODES`]; `reply` begins behind the minus sign.
fn error_kind(reply: &[u8]) -> usize {
    let code = reply.split(|byte| *byte == b' ' || *byte == b'\r').next().unwrap_or_default();
    let place = ERROR_CODES.iter().position(|known| known.as_bytes() == code);
    place.unwrap_or(ERROR_CODES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_log_keeps_the_last_ones_and_numbers_go_on() {
        let mut journal = Journal::default();
        assert!(!journal.keeps(9_999) && journal.keeps(10_000) && !journal.is_fine());
        journal.thresholds.slow_count_max = 2;
        for micros in 1..=3 {
            let arguments = [b"KEYS".to_vec(), b"*".to_vec()];
            let slow = Slow { unix_seconds: 9, micros, arguments: &arguments, client: [b"a:1", b"me"] };
            journal.keep(1, 2, &slow);
        }
        let mut page = Vec::new();
        journal.answer(Part::Slow, &mut page);
        let numbers = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        // The first one of three has left: number, seconds, microseconds of the second.
        assert_eq!([numbers(4), numbers(12), numbers(20)], [3, 9, 2]);
        assert_eq!(journal.answer(Part::SlowCount, &mut Vec::new()), Answer::Number(2));
        journal.thresholds.slow_count_max = 0;
        journal.trim();
        assert_eq!(journal.answer(Part::SlowCount, &mut Vec::new()), Answer::Number(0));
        assert!(!journal.keeps(u64::MAX));
    }

    #[test]
    fn latencies_are_sampled_above_the_threshold_only() {
        let mut journal = Journal::default();
        journal.took(3, 9, 50_000);
        journal.thresholds.latency_millis = 20;
        journal.took(3, 10, 19_000);
        journal.took(3, 11, 21_000);
        let mut page = Vec::new();
        journal.answer(Part::Samples, &mut page);
        assert_eq!(page, [11u64, 21].map(u64::to_le_bytes).concat());
        assert_eq!(journal.answer(Part::SamplesReset, &mut page), Answer::Number(1));
        assert_eq!(journal.answer(Part::SamplesReset, &mut page), Answer::Number(0));
    }

    #[test]
    fn errors_are_told_apart_by_their_codes() {
        assert_eq!(ERROR_CODES[error_kind(b"ERR syntax error\r\n")], "ERR");
        assert_eq!(ERROR_CODES[error_kind(b"OOM command\r\n")], "OOM");
        assert_eq!(ERROR_CODES[error_kind(b"STRANGE\r\n")], "OTHER");
    }

    #[test]
    fn errors_are_counted_for_their_commands_and_for_nobody() {
        let mut errors = Errors::default();
        for blame in [Blame::refused(7), Blame::failed(7), Blame::failed(7), Blame::NOBODY, Blame::failed(2)]
        {
            errors.add(blame, b"ERR x\r\n");
        }
        assert_eq!(errors.count(), 5);
        let mut journal = Journal::default();
        journal.erred(&errors);
        let mut page = Vec::new();
        journal.append_counts(&mut page);
        let words: Vec<u64> =
            page.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!((words[0], &words[ERROR_CODES.len()..]), (5, &[2, 2, 0, 1, 7, 1, 2][..]));
        journal.reset_counts();
        page.clear();
        journal.append_counts(&mut page);
        assert!(page.iter().all(|byte| *byte == 0) && page.len() == 8 * (ERROR_CODES.len() + 1));
    }
}
