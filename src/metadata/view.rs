//! A copy of a range, kept current by listing it and then watching from there.
//!
//! ```text
//!             +--------- every 30 s, and when the watch broke or fell behind ---------+
//!             v                                                                       |
//!   list at revision r --> watch after r --> events ------------------------------------
//!        |                                     |
//!        +--> what differs from the copy       +--> what is newer than the copy      both as changes
//! ```
//! 1. The copy covers everything up to its revision: what a watch tells of older changes is left out, so that a listing and
//!    a watch may overtake one another.
//! 2. Watches lose events now and then (etcd had such a bug for years). A listing finds that, and it is counted.
//! 3. A listing with a smaller revision than was seen means that the metadata was put back from a copy. The view stays as it is
//!    and says so: decisions that are gone there may have been acted upon.
//! 4. Without the service the copy stays, and ages; [`View::listed_at`] says since when.
//!
//! A view informs. Whether something may be done is decided by a transaction's compares.

use super::{Entry, Event, Listing, Past, Range, Revision};
use crate::clock::Mono;
use std::collections::BTreeMap;

/// Time from one listing to the next while the watch runs.
pub const LIST_INTERVAL_MILLIS: u64 = 30_000;
/// Pause after the first failure; doubles with each further one.
const RETRY_MILLIS_MIN: u64 = 100;
/// Longest pause after a failure.
const RETRY_MILLIS_MAX: u64 = 3200;

/// The copy.
#[derive(Clone, Debug)]
pub struct View {
    range: Range,
    entries: BTreeMap<Vec<u8>, Entry>,
    at: Revision,
    /// Up to where the present watch has told, if one runs.
    watched: Option<Revision>,
    /// Whether the last listing was good and nothing broke since: a watch may go on from it.
    watchable: bool,
    list_due: Mono,
    listed_at: Option<Mono>,
    /// Times in a row that a listing or a watch failed.
    failures: u32,
    missed: u64,
}

/// What a view wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A listing of its range, then [`View::listed`] or [`View::failed`].
    List,
    /// A watch of what comes after this revision, then [`View::watching`] or [`View::failed`].
    Watch(Revision),
    /// Nothing until this moment but what the watch tells.
    Wait(Mono),
}

/// What is new in the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This stands there now.
    Put(Entry),
    /// Nothing stands there any more.
    Gone {
        /// The key.
        key: Vec<u8>,
        /// It was removed by this change or one before.
        at: Revision,
    },
    /// After the changes that a listing brought: this is all of the range, as of this revision.
    Listed(Revision),
    /// The metadata was put back to an earlier state; nothing of it was taken over.
    WentBack {
        /// The revision that was seen before.
        from: Revision,
        /// The one that stands now.
        to: Revision,
    },
}

impl View {
    /// A copy of a range that has not been listed yet.
    pub fn new(range: Range) -> View {
        View {
            range,
            entries: BTreeMap::new(),
            at: Revision::NONE,
            watched: None,
            watchable: false,
            list_due: Mono(0),
            listed_at: None,
            failures: 0,
            missed: 0,
        }
    }

    /// The range.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// What it wants. Changes with each call that tells it something, and with time.
    pub fn need(&self, now: Mono) -> Need {
        if now >= self.list_due {
            Need::List
        } else if self.watched.is_none() && self.watchable {
            Need::Watch(self.at)
        } else {
            Need::Wait(self.list_due)
        }
    }

    /// What stands at a key, as far as is known.
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Everything up to this revision is in it.
    pub fn at(&self) -> Revision {
        self.at
    }

    /// When it was last listed.
    pub fn listed_at(&self) -> Option<Mono> {
        self.listed_at
    }

    /// Changes that a watch should have told and only a listing did.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether a watch runs, as far as it was told.
    pub fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Takes a listing that was asked for at `asked`.
    pub fn listed(&mut self, asked: Mono, listing: Listing) -> Vec<Change> {
        self.list_due = asked.plus_millis(LIST_INTERVAL_MILLIS);
        self.watchable = listing.at >= self.at;
        if !self.watchable {
            self.watched = None;
            return vec![Change::WentBack { from: self.at, to: listing.at }];
        }
        self.listed_at = Some(asked);
        let mut changes = Vec::new();
        let watched = self.watched.unwrap_or(Revision::NONE);
        let mut before = std::mem::take(&mut self.entries);
        for entry in listing.entries {
            let known = before.remove(&entry.key);
            if known.is_none_or(|known| known.modified != entry.modified) {
                self.missed += u64::from(entry.modified <= watched);
                changes.push(Change::Put(entry.clone()));
            }
            self.entries.insert(entry.key.clone(), entry);
        }
        for key in before.into_keys() {
            self.missed += u64::from(listing.at <= watched);
            changes.push(Change::Gone { key, at: listing.at });
        }
        self.at = listing.at;
        changes.push(Change::Listed(listing.at));
        changes
    }

    /// A watch from [`View::at`] on runs.
    pub fn watching(&mut self) {
        self.watched = Some(self.at);
    }

    /// Takes what the watch told.
    pub fn saw(&mut self, past: Past) -> Vec<Change> {
        self.failures = 0;
        let mut changes = Vec::new();
        for event in past.events {
            if event.at() <= self.at {
                continue;
            }
            match event {
                Event::Put(entry) => {
                    self.entries.insert(entry.key.clone(), entry.clone());
                    changes.push(Change::Put(entry));
                }
                Event::Gone { key, at } => {
                    if self.entries.remove(&key).is_some() {
                        changes.push(Change::Gone { key, at });
                    }
                }
            }
        }
        self.at = self.at.max(past.at);
        self.watched = self.watched.map(|watched| watched.max(past.at));
        changes
    }

    /// The watch ended or fell behind. A listing is due: at once the first time, after growing pauses if that goes on.
    pub fn broke(&mut self, now: Mono) {
        if self.failures == 0 {
            self.failures = 1;
            self.watched = None;
            self.watchable = false;
            self.list_due = now;
        } else {
            self.failed(now);
        }
    }

    /// A listing or a watch could not be had. A listing is due after a pause.
    pub fn failed(&mut self, now: Mono) {
        self.failures = self.failures.saturating_add(1);
        self.watched = None;
        self.watchable = false;
        let doublings = (self.failures - 1).min(RETRY_MILLIS_MAX.ilog2());
        self.list_due = now.plus_millis((RETRY_MILLIS_MIN << doublings).min(RETRY_MILLIS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Outcome, Stands, Table, Txn};
    use proptest::prelude::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * Mono::NANOS_PER_MILLI)
    }

    fn everything() -> Range {
        Range::prefix(b"")
    }

    fn put(table: &mut Table, key: &str, value: &str) {
        let there = Stands::of(table.list(&Range::key(key.as_bytes())).entries.first());
        let txn = Txn::swap(key.as_bytes(), there, value.as_bytes(), None);
        assert!(matches!(table.apply(at(0), &txn), Outcome::Done(_)));
    }

    fn delete(table: &mut Table, key: &str) {
        let txn = Txn { deletes: vec![key.as_bytes().to_vec()], ..Txn::default() };
        assert!(matches!(table.apply(at(0), &txn), Outcome::Done(_)));
    }

    fn listed(view: &mut View, now: Mono, table: &Table) -> Vec<Change> {
        assert_eq!(view.need(now), Need::List);
        view.listed(now, table.list(view.range()))
    }

    fn told(view: &mut View, table: &Table) -> Vec<Change> {
        view.saw(table.after(view.range(), view.at(), usize::MAX).expect("the past is short"))
    }

    fn same(view: &View, table: &Table) -> bool {
        view.entries().cloned().collect::<Vec<_>>() == table.list(view.range()).entries
            && view.at() == table.revision()
    }

    #[test]
    fn it_lists_then_watches_from_there_and_lists_again_every_30_seconds() {
        let mut table = Table::new();
        put(&mut table, "a", "1");
        let mut view = View::new(everything());
        let changes = listed(&mut view, at(5), &table);
        assert!(
            matches!(&changes[..], [Change::Put(entry), Change::Listed(Revision(1))] if entry.key == b"a")
        );
        assert_eq!(view.need(at(5)), Need::Watch(Revision(1)));
        view.watching();
        assert_eq!(view.need(at(6)), Need::Wait(at(30_005)));
        put(&mut table, "b", "2");
        delete(&mut table, "a");
        let changes = told(&mut view, &table);
        assert!(matches!(&changes[..], [Change::Put(entry), Change::Gone { key, at: Revision(3) }]
            if entry.key == b"b" && key == b"a"));
        assert!(same(&view, &table));
        assert_eq!(
            listed(&mut view, at(30_005), &table),
            [Change::Listed(Revision(3))],
            "nothing was missed"
        );
        assert_eq!(view.need(at(30_006)), Need::Wait(at(60_005)), "and the watch goes on");
        assert_eq!(view.missed(), 0);
    }

    #[test]
    fn what_a_watch_swallowed_is_found_by_the_listing_and_counted() {
        let mut table = Table::new();
        put(&mut table, "gone", "1");
        let mut view = View::new(everything());
        listed(&mut view, at(0), &table);
        view.watching();
        put(&mut table, "swallowed", "1");
        delete(&mut table, "gone");
        put(&mut table, "told", "1");
        let mut past = table.after(&everything(), view.at(), usize::MAX).expect("the past is short");
        past.events.retain(|event| event.key() == b"told");
        assert_eq!(view.saw(past).len(), 1);
        let changes = listed(&mut view, at(30_000), &table);
        assert!(matches!(&changes[..], [Change::Put(entry), Change::Gone { key, .. }, Change::Listed(_)]
            if entry.key == b"swallowed" && key == b"gone"));
        assert_eq!(view.missed(), 2);
        assert!(same(&view, &table));
    }

    #[test]
    fn what_the_watch_has_not_told_yet_is_not_missed_and_not_told_twice() {
        let mut table = Table::new();
        let mut view = View::new(everything());
        listed(&mut view, at(0), &table);
        view.watching();
        put(&mut table, "a", "1");
        put(&mut table, "b", "1");
        delete(&mut table, "b");
        put(&mut table, "c", "1");
        let late = table.after(&everything(), Revision::NONE, usize::MAX).expect("the past is short");
        assert_eq!(listed(&mut view, at(30_000), &table).len(), 3);
        assert_eq!(view.missed(), 0);
        assert!(view.saw(late).is_empty(), "the listing was ahead of it");
        assert!(same(&view, &table));
    }

    #[test]
    fn a_broken_watch_lists_at_once_and_one_that_keeps_breaking_waits() {
        let table = Table::new();
        let mut view = View::new(everything());
        listed(&mut view, at(0), &table);
        view.watching();
        let mut now = at(1000);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            view.broke(now);
            let due = match view.need(now) {
                Need::Wait(due) => due,
                Need::List => now,
                Need::Watch(_) => panic!("from where nobody knows whether something is missing"),
            };
            pauses.push(due.millis_since(now));
            now = due;
            listed(&mut view, now, &table);
            view.watching();
        }
        assert_eq!(pauses, [0, 200, 400, 800, 1600, 3200, 3200, 3200]);
        view.saw(Past { events: Vec::new(), at: Revision::NONE });
        view.broke(now);
        assert_eq!(view.need(now), Need::List, "it had told something, so that this is a first time");
    }

    #[test]
    fn without_the_service_the_copy_stays_and_says_how_old_it_is() {
        let mut table = Table::new();
        put(&mut table, "a", "1");
        let mut view = View::new(everything());
        listed(&mut view, at(7), &table);
        view.watching();
        view.broke(at(100));
        for n in 1..100 {
            assert_eq!(view.need(at(1_000_000 * n)), Need::List, "it never gives up");
            view.failed(at(1_000_000 * n));
        }
        assert_eq!(view.listed_at(), Some(at(7)));
        assert_eq!(view.entry(b"a").map(|entry| &entry.value[..]), Some(&b"1"[..]));
    }

    #[test]
    fn metadata_that_went_back_is_told_and_not_taken_over() {
        let mut table = Table::new();
        put(&mut table, "a", "1");
        let older = table.clone();
        put(&mut table, "a", "2");
        let mut view = View::new(everything());
        listed(&mut view, at(0), &table);
        view.watching();
        let told = view.listed(at(30_000), older.list(&everything()));
        assert_eq!(told, [Change::WentBack { from: Revision(2), to: Revision(1) }]);
        assert_eq!(view.entry(b"a").map(|entry| &entry.value[..]), Some(&b"2"[..]));
        assert_eq!(
            view.need(at(30_001)),
            Need::Wait(at(60_000)),
            "no watch from a revision that is ahead of the service"
        );
    }

    proptest! {
        /// Whatever a watch loses and whenever the view lists: after a listing it is the table, and whoever plays its changes
        /// has the same.
        #[test]
        fn a_view_and_its_changes_end_as_the_table(steps in proptest::collection::vec((0..8u8, 0..4u8), 0..80)) {
            let mut table = Table::new();
            let mut view = View::new(everything());
            let mut copy = BTreeMap::new();
            let mut play = |changes: Vec<Change>| {
                for change in changes {
                    match change {
                        Change::Put(entry) => { copy.insert(entry.key.clone(), entry); }
                        Change::Gone { key, .. } => { copy.remove(&key); }
                        Change::Listed(_) | Change::WentBack { .. } => {}
                    }
                }
            };
            let mut now = 0;
            play(listed(&mut view, at(now), &table));
            view.watching();
            for (step, key) in steps {
                let key = format!("k{key}");
                match step {
                    0..3 => put(&mut table, &key, "v"),
                    3 => delete(&mut table, &key),
                    4..6 => play(told(&mut view, &table)),
                    6 => {
                        let mut past = table.after(view.range(), view.at(), 3).expect("the past is short");
                        past.events.retain(|event| event.key() != key.as_bytes());
                        play(view.saw(past));
                    }
                    _ => {
                        now += LIST_INTERVAL_MILLIS;
                        play(listed(&mut view, at(now), &table));
                    }
                }
            }
            play(listed(&mut view, at(now + LIST_INTERVAL_MILLIS), &table));
            prop_assert!(same(&view, &table));
            prop_assert_eq!(copy.into_values().collect::<Vec<_>>(), table.list(view.range()).entries);
        }
    }
}
