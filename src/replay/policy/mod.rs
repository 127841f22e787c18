//! Eviction policies as small simulators, to hold the store against: what each keeps, by ids and sizes.
//!
//! | name | idea | from |
//! |---|---|---|
//! | `lru` | the least recently used leaves | |
//! | `sieve` | a hand walks a queue; who was used stays where it is | Zhang et al., NSDI 2024 |
//! | `s3fifo` | a small queue for probation, a main one, a ghost | Yang et al., SOSP 2023 |
//! | `wtinylfu` | a window, then a contest of frequencies for the main part | Einziger et al., ACM ToS 2017 |
//! | `gdsf` | frequency over size, with a clock that rises | Cherkasova, HPL-98-69 |
//! | `belady` | knows the future: who is asked for last leaves, or is not let in | Belady, IBM Systems Journal 1966 |
//! | `infinite` | nobody leaves | |
//!
//! A policy holds items whose sizes sum up to at most `bytes_max`; what it needs to remember costs it nothing here, which is
//! in its favour: the store pays for keys, heads, index and ghosts from the same limit.

mod belady;
mod gdsf;
mod list;
mod lru;
mod s3fifo;
mod sieve;
mod wtinylfu;

use super::trace::Trace;
use belady::Belady;
use gdsf::Gdsf;
use lru::Lru;
use s3fifo::S3Fifo;
use sieve::Sieve;
use wtinylfu::WTinyLfu;

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Least recently used.
    Lru,
    /// SIEVE.
    Sieve,
    /// S3-FIFO.
    S3Fifo,
    /// W-TinyLFU.
    WTinyLfu,
    /// Greedy dual, size and frequency.
    Gdsf,
    /// Belady's MIN.
    Belady,
    /// No limit.
    Infinite,
}

impl Name {
    /// Names and what they mean; the first of several is the one that is printed.
    pub const ALL: [(&'static str, Name); 10] = [
        ("lru", Name::Lru),
        ("sieve", Name::Sieve),
        ("s3fifo", Name::S3Fifo),
        ("wtinylfu", Name::WTinyLfu),
        ("gdsf", Name::Gdsf),
        ("belady", Name::Belady),
        ("infinite", Name::Infinite),
        ("s3-fifo", Name::S3Fifo),
        ("w-tinylfu", Name::WTinyLfu),
        ("min", Name::Belady),
    ];

    /// The name that it is printed under.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }

    /// The policy of a name.
    pub fn of(name: &str) -> Option<Name> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, policy)| *policy)
    }
}

/// A policy at work on a trace.
pub enum Policy<'t> {
    /// [`Name::Lru`].
    Lru(Lru<'t>),
    /// [`Name::Sieve`].
    Sieve(Sieve<'t>),
    /// [`Name::S3Fifo`].
    S3Fifo(S3Fifo<'t>),
    /// [`Name::WTinyLfu`].
    WTinyLfu(WTinyLfu<'t>),
    /// [`Name::Gdsf`].
    Gdsf(Gdsf<'t>),
    /// [`Name::Belady`].
    Belady(Belady<'t>),
    /// [`Name::Infinite`].
    Infinite(Vec<bool>),
}

/// The same verb of whichever policy it is.
macro_rules! of_each {
    ($policy:expr, $it:ident => $call:expr, $held:ident => $infinite:expr) => {
        match $policy {
            Policy::Lru($it) => $call,
            Policy::Sieve($it) => $call,
            Policy::S3Fifo($it) => $call,
            Policy::WTinyLfu($it) => $call,
            Policy::Gdsf($it) => $call,
            Policy::Belady($it) => $call,
            Policy::Infinite($held) => $infinite,
        }
    };
}

impl<'t> Policy<'t> {
    /// A policy with nothing in it.
    pub fn new(name: Name, bytes_max: u64, trace: &'t Trace) -> Policy<'t> {
        let sizes = &trace.sizes;
        match name {
            Name::Lru => Policy::Lru(Lru::new(bytes_max, sizes)),
            Name::Sieve => Policy::Sieve(Sieve::new(bytes_max, sizes)),
            Name::S3Fifo => Policy::S3Fifo(S3Fifo::new(bytes_max, sizes)),
            Name::WTinyLfu => Policy::WTinyLfu(WTinyLfu::new(bytes_max, sizes)),
            Name::Gdsf => Policy::Gdsf(Gdsf::new(bytes_max, sizes)),
            Name::Belady => Policy::Belady(Belady::new(bytes_max, sizes, trace.next_rows())),
            Name::Infinite => Policy::Infinite(vec![false; sizes.len()]),
        }
    }

    /// A request: true if the item is held, which counts as a use.
    #[inline]
    pub fn touch(&mut self, id: u32) -> bool {
        of_each!(self, it => it.touch(id), held => held[id as usize])
    }

    /// Takes in an item that was missed; who has to leave for it is added to `gone` (the item itself, if it is not let in).
    #[inline]
    pub fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        of_each!(self, it => it.admit(id, gone), held => held[id as usize] = true)
    }

    /// Whether an item is held; no use.
    #[inline]
    pub fn holds(&self, id: u32) -> bool {
        of_each!(self, it => it.holds(id), held => held[id as usize])
    }
}

/// What the policies' tests share.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::replay::trace::mix;

    /// A trace from ids, all of the same size, or of those given.
    pub fn trace_of(ids: &[u32], size_of: impl Fn(u32) -> u32) -> Trace {
        let count = ids.iter().max().map_or(0, |id| id + 1);
        Trace {
            ids: ids.to_vec(),
            sizes: (0..count).map(size_of).collect(),
            names: (0..count).map(u64::from).collect(),
            client_count: 1,
            ..Trace::default()
        }
    }

    /// Requests by a skewed law, with a sweep over cold keys now and then.
    pub fn skewed(len: u32, keys: u32) -> Vec<u32> {
        let ids = (0..len).map(|i| {
            let unit = (mix(u64::from(i)) >> 11) as f64 / (1u64 << 53) as f64;
            let hot = (f64::from(keys).powf(unit) - 1.0) as u32;
            if i / 1000 % 8 == 7 { keys + (i / 8000 * 1000 + i % 1000) % keys } else { hot }
        });
        ids.collect()
    }

    /// How many different keys are really asked for.
    pub fn different(trace: &Trace) -> u64 {
        trace.ids.iter().collect::<std::collections::HashSet<_>>().len() as u64
    }

    /// Misses of a policy over a trace.
    pub fn misses(name: Name, bytes_max: u64, trace: &Trace) -> u64 {
        let mut policy = Policy::new(name, bytes_max, trace);
        let mut gone = Vec::new();
        let mut missed = 0;
        for &id in &trace.ids {
            if !policy.touch(id) {
                missed += 1;
                policy.admit(id, &mut gone);
            }
        }
        missed
    }

    const ALL: [Name; 7] =
        [Name::Lru, Name::Sieve, Name::S3Fifo, Name::WTinyLfu, Name::Gdsf, Name::Belady, Name::Infinite];

    #[test]
    fn no_policy_holds_more_than_it_may_and_each_tells_who_left() {
        let ids = skewed(30_000, 600);
        for size_of in [|_| 10, |id: u32| 1 + (mix(u64::from(id)) % 100) as u32] {
            let trace = trace_of(&ids, size_of);
            for name in ALL {
                let bytes_max = if name == Name::Infinite { u64::MAX } else { 2000 };
                let mut policy = Policy::new(name, bytes_max, &trace);
                let mut held = vec![false; trace.footprint_items()];
                for (row, &id) in trace.ids.iter().enumerate() {
                    let hit = policy.touch(id);
                    assert_eq!(hit, held[id as usize], "{name:?} at row {row}");
                    if !hit {
                        let mut gone = Vec::new();
                        policy.admit(id, &mut gone);
                        held[id as usize] = true;
                        gone.iter().for_each(|&id| held[id as usize] = false);
                    }
                    if row % 500 == 0 {
                        let bytes = held
                            .iter()
                            .zip(&trace.sizes)
                            .filter(|(held, _)| **held)
                            .map(|(_, size)| u64::from(*size));
                        assert!(bytes.sum::<u64>() <= bytes_max, "{name:?} at row {row}");
                        assert!((0..held.len()).all(|id| policy.holds(id as u32) == held[id]), "{name:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_beats_the_future_and_no_limit() {
        let trace = trace_of(&skewed(50_000, 800), |_| 1);
        let best = misses(Name::Belady, 150, &trace);
        assert_eq!(misses(Name::Infinite, 0, &trace), different(&trace));
        for name in [Name::Lru, Name::Sieve, Name::S3Fifo, Name::WTinyLfu, Name::Gdsf] {
            let missed = misses(name, 150, &trace);
            assert!(missed > best && best > different(&trace), "{name:?}: {missed} against {best}");
            if name != Name::Lru {
                assert!(missed < misses(Name::Lru, 150, &trace), "{name:?} withstands the sweeps");
            }
        }
    }

    #[test]
    fn what_is_larger_than_everything_is_not_held() {
        let trace = trace_of(&[0, 1, 0, 1, 0], |id| if id == 0 { 101 } else { 5 });
        for name in ALL.into_iter().filter(|name| *name != Name::Infinite) {
            assert_eq!(misses(name, 100, &trace), 4, "{name:?}");
        }
    }
}
