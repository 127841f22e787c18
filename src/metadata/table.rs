//! The embedded service: the table, its leases, and as much of its past as watches may still ask for.
//!
//! ```text
//!   apply, grant, keep, revoke, expire       list, after
//!              |                                 ^
//!              v                                 |
//!   entries by key ---- every change ----> past, bounded
//!              |
//!              +--> records --take_frame--> the shell makes them last, then tells the outcomes
//! ```
//! 1. Whatever changes is written down as records at the same time; [`recover`](super::recover) plays records by the same
//!    steps. What the two make of one history is the same table.
//! 2. The shell takes the records as a frame and makes it last before anybody learns an outcome or an event of it.
//! 3. A watch is a revision up to which everything was seen. The past is the one queue of all watches: who is so far
//!    behind that its beginning is gone lists again.
//! 4. A lease is over by the clock of this process. After a restart each one runs anew for its whole time: nobody is
//!    declared dead because we were.

use super::log::{self, Record};
use super::{Entry, Event, Invalid, LeaseId, Listing, Outcome, Range, Refused, Revision, Txn};
use crate::clock::Mono;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most bytes of entries; a transaction that would pass it is refused.
pub const TABLE_BYTES_MAX: usize = 16 << 20;
/// What an entry counts beside its key and value.
const ENTRY_BYTES: usize = 64;
/// Most leases at a time.
pub const LEASES_MAX: usize = 1024;
/// Events that are kept for watches; the oldest are forgotten first.
const PAST_EVENTS_MAX: usize = 8192;
/// Bytes of their keys and values.
const PAST_BYTES_MAX: usize = 4 << 20;
/// Bytes of frames after which a snapshot is due.
pub const LOG_BYTES_MAX: usize = 4 << 20;

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    revision: Revision,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Of `entries`, as counted against [`TABLE_BYTES_MAX`].
    bytes: usize,
    leases: BTreeMap<LeaseId, Lease>,
    /// Numbers of leases are never given out again: a late renewal must not keep somebody else's.
    lease_last: u64,
    /// Events in the order of their revisions: all after `forgotten`.
    past: VecDeque<Event>,
    past_bytes: usize,
    forgotten: Revision,
    /// What changed since the last frame was taken, and the revision before that.
    records: Vec<u8>,
    before: Revision,
    /// Bytes of frames taken since the last snapshot.
    logged_bytes: usize,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl_millis: u64,
    deadline: Mono,
    keys: BTreeSet<Vec<u8>>,
}

/// What happened in a range after a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// In the order in which it happened.
    pub events: Vec<Event>,
    /// Up to here everything was told; where to go on.
    pub at: Revision,
}

/// That part of the past is gone; whoever asked has to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Nothing is known of what happened up to here.
    pub to: Revision,
}

impl Table {
    /// An empty table.
    pub fn new() -> Table {
        Table::default()
    }

    /// The number of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Bytes of all entries, as they count against [`TABLE_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Does a transaction, or says why not. Never [`Outcome::Unknown`].
    pub fn apply(&mut self, now: Mono, txn: &Txn) -> Outcome {
        if let Err(invalid) = txn.check() {
            return Outcome::Invalid(invalid);
        }
        self.expire(now);
        let there = |key: &Vec<u8>| self.entries.get(key);
        if !txn.compares.iter().all(|compare| compare.stands.holds(there(&compare.key))) {
            let there = txn.compares.iter().map(|compare| there(&compare.key).cloned()).collect();
            return Outcome::Refused(Refused { at: self.revision, there });
        }
        if txn.puts.iter().filter_map(|put| put.lease).any(|lease| !self.leases.contains_key(&lease)) {
            return Outcome::Invalid(Invalid::Lease);
        }
        let added: usize = txn.puts.iter().map(|put| entry_bytes(&put.key, &put.value)).sum();
        let written = txn.puts.iter().map(|put| &put.key).chain(&txn.deletes);
        let replaced: usize =
            written.filter_map(there).map(|entry| entry_bytes(&entry.key, &entry.value)).sum();
        // What makes the table smaller is done even when it is too large.
        if added > replaced && self.bytes + added - replaced > TABLE_BYTES_MAX {
            return Outcome::Invalid(Invalid::Full);
        }
        for put in &txn.puts {
            self.record(Record::Put { lease: put.lease, key: &put.key, value: &put.value });
            self.put(put.lease, &put.key, &put.value);
        }
        let mut changed = !txn.puts.is_empty();
        for key in &txn.deletes {
            if self.entries.contains_key(key) {
                self.record(Record::Delete { key });
                self.delete(key);
                changed = true;
            }
        }
        if changed {
            self.record(Record::Change);
            self.revision = self.revision.next();
        }
        Outcome::Done(self.revision)
    }

    /// What stands in a range.
    pub fn list(&self, range: &Range) -> Listing {
        let entries = self.entries.range(range.from.clone()..).map(|(_, entry)| entry);
        let entries = entries.take_while(|entry| range.contains(&entry.key)).cloned().collect();
        Listing { at: self.revision, entries }
    }

    /// What happened in a range after a revision: at most `events_max` events (at least 1), but never a part of a change.
    ///
    /// # Errors
    /// [`Compacted`] if some of that is forgotten.
    pub fn after(&self, range: &Range, revision: Revision, events_max: usize) -> Result<Past, Compacted> {
        if revision < self.forgotten {
            return Err(Compacted { to: self.forgotten });
        }
        let first = self.past.partition_point(|event| event.at() <= revision);
        let mut events: Vec<Event> = Vec::new();
        for event in self.past.range(first..).filter(|event| range.contains(event.key())) {
            if let Some(last) = events.last()
                && events.len() >= events_max
                && last.at() != event.at()
            {
                let at = last.at();
                return Ok(Past { events, at });
            }
            events.push(event.clone());
        }
        Ok(Past { events, at: self.revision.max(revision) })
    }

    /// Begins a lease of so many milliseconds.
    ///
    /// # Errors
    /// [`Invalid::Full`] if there are too many.
    pub fn grant(&mut self, now: Mono, ttl_millis: u64) -> Result<LeaseId, Invalid> {
        self.expire(now);
        if self.leases.len() >= LEASES_MAX {
            return Err(Invalid::Full);
        }
        let lease = LeaseId(self.lease_last + 1);
        self.record(Record::Grant { lease, ttl_millis });
        self.begin(now, lease, ttl_millis);
        Ok(lease)
    }

    /// Lets a lease run for its whole time from now on; false if it is over.
    pub fn keep(&mut self, now: Mono, lease: LeaseId) -> bool {
        self.expire(now);
        let Some(lease) = self.leases.get_mut(&lease) else { return false };
        lease.deadline = now.plus_millis(lease.ttl_millis);
        true
    }

    /// Ends a lease and removes its keys; false if it is over already.
    pub fn revoke(&mut self, now: Mono, lease: LeaseId) -> bool {
        self.expire(now);
        self.end(lease)
    }

    /// Ends the leases whose time is over, with their keys. Everything that looks at leases does this first; call it at
    /// [`Table::next_expiry`] so that those who watch learn it in time.
    pub fn expire(&mut self, now: Mono) {
        let due = self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id);
        for lease in due.collect::<Vec<_>>() {
            self.end(lease);
        }
    }

    /// When the first lease is over. Changes with each call that changes leases.
    pub fn next_expiry(&self) -> Option<Mono> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// What changed since the last call, as the frame that has to last before anybody learns of it; `None`: nothing did.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        if self.records.is_empty() {
            return None;
        }
        let frame = log::frame(self.before, &self.records);
        self.records.clear();
        self.before = self.revision;
        self.logged_bytes += frame.len();
        Some(frame)
    }

    /// Bytes of the frame that waits to be taken, so that its writer can bound it.
    pub fn pending_bytes(&self) -> usize {
        self.records.len()
    }

    /// Whether so much was logged that a file with a snapshot should take the place of the present one.
    pub fn snapshot_due(&self) -> bool {
        self.logged_bytes >= LOG_BYTES_MAX
    }

    /// The bytes of a new file with everything as it stands. If it cannot be written the old one goes on, and the next is due
    /// after as many bytes again.
    ///
    /// # Panics
    /// If a frame waits to be taken: it would be in neither file.
    pub fn snapshot(&mut self) -> Vec<u8> {
        assert!(self.records.is_empty(), "frames are taken before a snapshot");
        self.logged_bytes = 0;
        let mut records = Vec::with_capacity(self.bytes + ENTRY_BYTES * self.leases.len());
        Record::Start { lease_last: self.lease_last }.encode(&mut records);
        for (&lease, Lease { ttl_millis, .. }) in &self.leases {
            Record::Grant { lease, ttl_millis: *ttl_millis }.encode(&mut records);
        }
        for Entry { key, value, created, modified, lease } in self.entries.values() {
            let record = Record::Entry { created: *created, modified: *modified, lease: *lease, key, value };
            record.encode(&mut records);
        }
        [&log::head()[..], &log::frame(self.revision, &records)].concat()
    }

    /// Plays the first frame of a file. `None` if it is no snapshot, or one that cannot be.
    pub(super) fn of_snapshot(now: Mono, at: Revision, mut records: &[u8]) -> Option<Table> {
        let mut table = Table { revision: at, forgotten: at, before: at, ..Table::default() };
        let Record::Start { lease_last } = Record::decode(&mut records)? else { return None };
        while !records.is_empty() {
            match Record::decode(&mut records)? {
                Record::Grant { lease, ttl_millis } if lease.0 <= lease_last => {
                    table.begin(now, lease, ttl_millis);
                }
                Record::Entry { created, modified, lease, key, value } => {
                    let entry = Entry { key: key.to_vec(), value: value.to_vec(), created, modified, lease };
                    if lease.is_some_and(|lease| !table.leases.contains_key(&lease)) || modified > at {
                        return None;
                    }
                    table.insert(entry);
                }
                _ => return None,
            }
        }
        table.lease_last = lease_last;
        Some(table)
    }

    /// Plays the records of a frame, all or none of which count. `None` if one does not fit to the table.
    pub(super) fn replay(&mut self, now: Mono, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            match Record::decode(&mut records)? {
                Record::Put { lease, key, value } => {
                    if lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                        return None;
                    }
                    self.put(lease, key, value);
                }
                Record::Delete { key } => self.delete(key)?,
                Record::Change => self.revision = self.revision.next(),
                Record::Grant { lease, ttl_millis } if lease.0 == self.lease_last + 1 => {
                    self.begin(now, lease, ttl_millis);
                }
                Record::LeaseOver { lease } => {
                    self.leases.remove(&lease).filter(|lease| lease.keys.is_empty())?;
                }
                Record::Grant { .. } | Record::Start { .. } | Record::Entry { .. } => return None,
            }
        }
        self.before = self.revision;
        Some(())
    }

    /// That so many bytes of frames were found behind the snapshot.
    pub(super) fn logged(&mut self, bytes: usize) {
        self.logged_bytes = bytes;
    }

    fn record(&mut self, record: Record) {
        record.encode(&mut self.records);
    }

    fn begin(&mut self, now: Mono, lease: LeaseId, ttl_millis: u64) {
        let deadline = now.plus_millis(ttl_millis);
        self.leases.insert(lease, Lease { ttl_millis, deadline, keys: BTreeSet::new() });
        self.lease_last = lease.0;
    }

    fn end(&mut self, lease: LeaseId) -> bool {
        let Some(Lease { keys, .. }) = self.leases.get(&lease) else { return false };
        let keys = keys.clone();
        for key in &keys {
            self.record(Record::Delete { key });
            self.delete(key);
        }
        if !keys.is_empty() {
            self.record(Record::Change);
            self.revision = self.revision.next();
        }
        self.record(Record::LeaseOver { lease });
        self.leases.remove(&lease);
        true
    }

    /// A write of the change that is being made.
    fn put(&mut self, lease: Option<LeaseId>, key: &[u8], value: &[u8]) {
        let at = self.revision.next();
        let created = self.remove(key).map_or(at, |entry| entry.created);
        let entry = Entry { key: key.to_vec(), value: value.to_vec(), created, modified: at, lease };
        self.insert(entry.clone());
        self.happened(Event::Put(entry));
    }

    fn delete(&mut self, key: &[u8]) -> Option<()> {
        self.remove(key)?;
        self.happened(Event::Gone { key: key.to_vec(), at: self.revision.next() });
        Some(())
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry_bytes(&entry.key, &entry.value);
        if let Some(lease) = entry.lease {
            let lease = self.leases.get_mut(&lease).expect("whoever inserts looks whether the lease runs");
            lease.keys.insert(entry.key.clone());
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry_bytes(&entry.key, &entry.value);
        if let Some(lease) = entry.lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
        Some(entry)
    }

    fn happened(&mut self, event: Event) {
        self.past_bytes += event_bytes(&event);
        self.past.push_back(event);
        while self.past.len() > PAST_EVENTS_MAX || self.past_bytes > PAST_BYTES_MAX {
            let event = self.past.pop_front().expect("an empty past is within its bounds");
            self.past_bytes -= event_bytes(&event);
            self.forgotten = event.at();
        }
    }
}

fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

fn event_bytes(event: &Event) -> usize {
    match event {
        Event::Put(entry) => entry_bytes(&entry.key, &entry.value),
        Event::Gone { key, .. } => entry_bytes(key, &[]),
    }
}

/// What everybody can see of two tables: their entries, revisions and leases, not how they came about.
impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        let leases = |table: &Table| {
            let leases = table.leases.iter().map(|(id, lease)| (*id, lease.ttl_millis, lease.keys.clone()));
            leases.collect::<Vec<_>>()
        };
        (self.revision, &self.entries, self.bytes, self.lease_last)
            == (other.revision, &other.entries, other.bytes, other.lease_last)
            && leases(self) == leases(other)
    }
}
