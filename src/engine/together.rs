//! Several items in one step: moves and copies to another key, stores of all or none, and whether items are as they were.

use super::*;
use crate::request::Transfer;

impl Engine {
    /// [`Verb::Transfer`]. The target takes value, flags, expiry and staleness of the source, and a new version. A source
    /// that is hollow is not there; a target that is hollow is no obstacle, and its filler finds another version.
    pub(super) fn transfer(&mut self, now: Mono, source: &[u8], target: &[u8], transfer: Transfer) -> Reply {
        let from = self.store.probe(source);
        if self.is_beyond_copies(now, from, source, 0) {
            return Reply::fault(Fault::TooLarge);
        }
        let Some(held) = self.load(now, from, source).filter(|held| !held.marks.hollow) else {
            return Reply::plain(Answer::Miss);
        };
        let to = self.store.probe(target);
        let before = self.look(now, to, target, false).filter(|held| !held.marks.hollow);
        if before.is_some() && !transfer.replace {
            return Reply::refused(Refusal::Present);
        }
        let replaced = before.is_some();
        let stored = |version| Reply::plain(Answer::Stored { version, replaced, len: length(held.len) });
        if source == target {
            return stored(held.version);
        }
        let version = self.next_version(None);
        let marks = Marks { leased: false, binary_key: false, ..held.marks };
        if let Err(why) = self.write_scratch(now, to, target, &Held { version, marks, ..held }) {
            return Reply::fault(why);
        }
        if !transfer.keep && self.store.remove(from, source) {
            self.counters.removals_total += 1;
        }
        stored(version)
    }

    /// [`Verb::PutAllAbsent`]. A key named twice takes the last value, as one that is stored twice. What was stored before
    /// a fault is removed again.
    pub(super) fn put_all_absent(&mut self, now: Mono, pairs: &[u8]) -> Reply {
        for (key, _) in Pairs(pairs) {
            let probe = self.store.probe(key);
            if self.look(now, probe, key, false).is_some_and(|held| !held.marks.hollow) {
                return Reply::refused(Refusal::Present);
            }
        }
        let mut last = (Version::NONE, 0);
        for (i, (key, value)) in Pairs(pairs).enumerate() {
            let probe = self.store.probe(key);
            let version = self.next_version(None);
            let (flags, expiry, marks) = (0, Expiry::Never, Marks::default());
            let item = NewItem { value: &[value], flags, version, expiry, marks };
            if let Err(why) = self.write(now, probe, key, &item) {
                for (key, _) in Pairs(pairs).take(i) {
                    let probe = self.store.probe(key);
                    self.store.remove(probe, key);
                }
                return Reply::fault(why);
            }
            last = (version, length(value.len()));
        }
        Reply::plain(Answer::Stored { version: last.0, replaced: false, len: last.1 })
    }

    /// [`Verb::Guard`].
    pub(super) fn guard(&mut self, now: Mono, seen: &[u8]) -> Reply {
        let mut rest = Pairs(seen);
        while let Some(key) = rest.run() {
            let Some((facts, tail)) = rest.0.split_first_chunk::<16>() else { break };
            rest.0 = tail;
            let (version, ends) = facts.split_at(8);
            let probe = self.store.probe(key);
            let held = self.look(now, probe, key, false).filter(|held| !held.marks.hollow);
            let same = match held {
                Some(held) => {
                    held.version.0.to_le_bytes() == version && held.expiry.to_number().to_le_bytes() == ends
                }
                None => version == Version::NONE.0.to_le_bytes(),
            };
            if !same {
                return Reply::refused(Refusal::Version);
            }
        }
        Reply::number(0)
    }
}

/// Keys and values in turn, each behind its length.
#[derive(Clone)]
pub(super) struct Pairs<'a>(pub(super) &'a [u8]);

impl<'a> Pairs<'a> {
    fn run(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some(run)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.run()?, self.run()?))
    }
}
