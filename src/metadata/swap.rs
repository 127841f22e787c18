//! One key changed by its revision, until it is known what came of it.
//!
//! A service that is asked to change something may do it and then not say so: it died, the link broke, the time was over. And
//! it may still do it a while later. So after an unknown outcome the same is asked again, with the same compare:
//!
//! | the next answer | what happened |
//! |---|---|
//! | done | this attempt did it; no earlier one ever will, since what they compare with is gone |
//! | refused, and our value stands there | an earlier attempt did it |
//! | refused, and something else stands there | not as we asked; what stands there decides |
//! | unknown | ask again, later |
//!
//! So a value has to say who wrote it and in which attempt: what stands there is told by its value alone. A record of a
//! shard does (owner, epoch, move and attempt), a node's entry does (its incarnation).

use super::{Entry, Invalid, LeaseId, Outcome, Revision, Stands, Txn};
use crate::clock::Mono;

/// Pause before the first repetition; it doubles with each further one.
const PAUSE_MILLIS_MIN: u64 = 50;
/// Longest pause between two.
const PAUSE_MILLIS_MAX: u64 = 1000;

/// A change of one key that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    txn: Txn,
    /// Whether an attempt may have been done without our knowing.
    unsure: bool,
    pause_millis: u64,
    resume: Mono,
}

/// What a swap wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this, then tell the outcome.
    Send(Txn),
    /// Nothing before this moment.
    Wait(Mono),
}

/// What came of a swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is done, by the change of this revision.
    Done(Revision),
    /// The key was not as expected and was not changed by us, or was changed again since: this stands there.
    Other(Option<Entry>),
    /// It can never be done as it was asked for, and was not.
    Invalid(Invalid),
}

impl Swap {
    /// A change of `key`, if it stands as expected, to a value that nobody else would write (see above).
    pub fn new(key: &[u8], expected: Stands, value: &[u8], lease: Option<LeaseId>) -> Swap {
        let txn = Txn::swap(key, expected, value, lease);
        Swap { txn, unsure: false, pause_millis: PAUSE_MILLIS_MIN, resume: Mono(0) }
    }

    /// What to do now. Changes with each outcome and when the moment to wait for has come.
    pub fn next(&self, now: Mono) -> Next {
        if now < self.resume { Next::Wait(self.resume) } else { Next::Send(self.txn.clone()) }
    }

    /// Whether it may have been done already. While it is not, giving up leaves nothing behind.
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Takes the outcome of what was sent. `None`: it is not known yet, go on with [`Swap::next`].
    pub fn told(&mut self, now: Mono, outcome: Outcome) -> Option<Settled> {
        match outcome {
            Outcome::Done(revision) => Some(Settled::Done(revision)),
            Outcome::Refused(refused) => {
                let there = refused.there.into_iter().next().flatten();
                let put = &self.txn.puts[0];
                match there {
                    Some(entry) if self.unsure && entry.value == put.value && entry.lease == put.lease => {
                        Some(Settled::Done(entry.modified))
                    }
                    there => Some(Settled::Other(there)),
                }
            }
            // What an earlier attempt compared with still stood, and without its lease it can do nothing later either.
            Outcome::Invalid(invalid) if !self.unsure || invalid == Invalid::Lease => {
                Some(Settled::Invalid(invalid))
            }
            Outcome::Invalid(_) | Outcome::NotSent => self.pause(now),
            Outcome::Unknown => {
                self.unsure = true;
                self.pause(now)
            }
        }
    }

    fn pause(&mut self, now: Mono) -> Option<Settled> {
        self.resume = now.plus_millis(self.pause_millis);
        self.pause_millis = (self.pause_millis * 2).min(PAUSE_MILLIS_MAX);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Refused, Table};

    fn at(millis: u64) -> Mono {
        Mono(millis * Mono::NANOS_PER_MILLI)
    }

    fn send(swap: &Swap, now: Mono) -> Txn {
        let Next::Send(txn) = swap.next(now) else { panic!("it waits: {swap:?}") };
        txn
    }

    #[test]
    fn a_lost_reply_of_what_was_done_is_settled_as_done_once() {
        let mut table = Table::new();
        let mut swap = Swap::new(b"k", Stands::Absent, b"mine", None);
        let Outcome::Done(first) = table.apply(at(0), &send(&swap, at(0))) else { panic!() };
        assert_eq!(swap.told(at(0), Outcome::Unknown), None);
        assert!(swap.is_unsure());
        assert_eq!(swap.next(at(49)), Next::Wait(at(50)));
        let outcome = table.apply(at(50), &send(&swap, at(50)));
        assert_eq!(swap.told(at(50), outcome), Some(Settled::Done(first)));
        assert_eq!(table.revision(), first, "it was done once");
    }

    #[test]
    fn an_attempt_that_arrives_late_changes_nothing_more() {
        let mut table = Table::new();
        let mut swap = Swap::new(b"k", Stands::Absent, b"mine", None);
        let late = send(&swap, at(0));
        assert_eq!(swap.told(at(0), Outcome::Unknown), None);
        let outcome = table.apply(at(50), &send(&swap, at(50)));
        assert_eq!(swap.told(at(50), outcome), Some(Settled::Done(Revision(1))));
        assert!(matches!(table.apply(at(60), &late), Outcome::Refused(_)));
        assert_eq!(table.revision(), Revision(1));
    }

    #[test]
    fn what_somebody_else_wrote_is_never_taken_for_ours() {
        let theirs = |value: &[u8]| {
            let mut table = Table::new();
            table.apply(at(0), &Txn::swap(b"k", Stands::Absent, value, None));
            table
        };
        // Without an unknown outcome even the same value is somebody else's.
        for (value, unsure) in [(&b"theirs"[..], true), (b"theirs", false), (b"mine", false)] {
            let mut table = theirs(value);
            let mut swap = Swap::new(b"k", Stands::Absent, b"mine", None);
            if unsure {
                assert_eq!(swap.told(at(0), Outcome::Unknown), None);
            }
            let outcome = table.apply(at(100), &send(&swap, at(100)));
            let Some(Settled::Other(Some(there))) = swap.told(at(100), outcome) else { panic!("{swap:?}") };
            assert_eq!(there.value, value);
        }
    }

    #[test]
    fn what_vanished_is_told_as_such() {
        let mut swap = Swap::new(b"k", Stands::At(Revision(3)), b"mine", None);
        let refused = Outcome::Refused(Refused { at: Revision(9), there: vec![None] });
        assert_eq!(swap.told(at(0), refused), Some(Settled::Other(None)));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_nothing_sent_leaves_nothing_unsure() {
        let mut swap = Swap::new(b"k", Stands::Absent, b"mine", None);
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(swap.told(now, Outcome::NotSent), None);
            let Next::Wait(until) = swap.next(now) else { panic!("it does not wait") };
            pauses.push(until.millis_since(now));
            now = until;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000, 1000]);
        assert!(!swap.is_unsure());
        let full = Outcome::Invalid(Invalid::Full);
        assert_eq!(swap.told(now, full.clone()), Some(Settled::Invalid(Invalid::Full)));
        // The table may have become full by our own earlier attempt's doing, or the attempt may come when it no longer is.
        assert_eq!(swap.told(now, Outcome::Unknown), None);
        assert_eq!(swap.told(now, full), None);
        let lease = Outcome::Invalid(Invalid::Lease);
        assert_eq!(swap.told(now, lease), Some(Settled::Invalid(Invalid::Lease)));
    }
}
