//! What the nodes of a cluster agree on: a small table of keys with revisions, changed by transactions that compare before
//! they write, with leases and a past that can be watched. Values are opaque bytes.
//!
//! ```text
//!               Txn, Range                                   Outcome, Listing, Event
//!   whoever decides ----> [ the table: embedded, or etcd ] ----> View  what stands, followed
//!         ^                        ^                             Session  our own entry under a lease, kept
//!         +---- Swap: one key changed by its revision, asked until the outcome is known
//! ```
//! - [`Table`]: the embedded service as a state machine; its log is in `log`, what a file says after a crash in `recovery`.
//! - [`View`]: a copy of a range, made by listing and watching, that finds out what a watch has missed.
//! - [`Swap`]: settles what an unknown outcome was.
//! - [`Session`]: keeps an entry under a lease, and knows until when that lease is certain to hold.
//! - [`Schema`]: the names of keys.
//!
//! The shell's half is `control::metadata`: a file for one node, etcd for more. Both take and give what is defined here, and
//! refuse the same things ([`Txn::check`]).

mod keys;
mod log;
mod range;
mod recovery;
mod session;
mod swap;
mod table;
mod view;

pub use keys::{Name, Schema, escape};
pub use range::Range;
pub use recovery::{Damage, Recovered, recover};
pub use session::{Kept, Session, Step};
pub use swap::{Next, Settled, Swap};
pub use table::{Compacted, LEASES_MAX, Past, TABLE_BYTES_MAX, Table};
pub use view::{Change, Need, View};

/// Longest key in bytes; the shortest has one.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Most compares, and most writes, of one transaction. etcd's default is the same.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Most bytes of keys and values in one transaction. etcd takes 1.5 MiB with everything.
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// Number of a change of the table. Grows by one with each transaction that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// Before every change.
    pub const NONE: Revision = Revision(0);

    /// The revision of the next change.
    pub const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

/// A lease: what is written under it goes when it is over. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The change that made the key. It stays while the key does, so it tells one holder of a key from the next.
    pub created: Revision,
    /// The change that wrote this value.
    pub modified: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// What a compare expects at its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Nothing.
    Absent,
    /// What was written by this change.
    At(Revision),
}

impl Stands {
    /// Whether this is how it stands.
    pub fn holds(self, entry: Option<&Entry>) -> bool {
        match self {
            Stands::Absent => entry.is_none(),
            Stands::At(revision) => entry.is_some_and(|entry| entry.modified == revision),
        }
    }

    /// How it stands.
    pub fn of(entry: Option<&Entry>) -> Stands {
        entry.map_or(Stands::Absent, |entry| Stands::At(entry.modified))
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key that is looked at.
    pub key: Vec<u8>,
    /// What has to stand there.
    pub stands: Stands,
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub key: Vec<u8>,
    /// What.
    pub value: Vec<u8>,
    /// The lease that it goes with; a lease of before is left.
    pub lease: Option<LeaseId>,
}

/// Writes that are done all at once if every compare holds, and not at all otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// All have to hold.
    pub compares: Vec<Compare>,
    /// What is written.
    pub puts: Vec<Put>,
    /// What is removed; keys that do not stand are no error.
    pub deletes: Vec<Vec<u8>>,
}

impl Txn {
    /// Writes one key if it stands as expected.
    pub fn swap(key: &[u8], expected: Stands, value: &[u8], lease: Option<LeaseId>) -> Txn {
        Txn {
            compares: vec![Compare { key: key.to_vec(), stands: expected }],
            puts: vec![Put { key: key.to_vec(), value: value.to_vec(), lease }],
            deletes: Vec::new(),
        }
    }

    /// Whether it keeps to the limits, the same ones wherever it is sent.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn check(&self) -> Result<(), Invalid> {
        let writes = self.puts.len() + self.deletes.len();
        if self.compares.len() > TXN_OPERATIONS_MAX || writes > TXN_OPERATIONS_MAX {
            return Err(Invalid::Operations);
        }
        let compared = self.compares.iter().map(|compare| &compare.key);
        let mut written: Vec<&Vec<u8>> = self.puts.iter().map(|put| &put.key).chain(&self.deletes).collect();
        if compared
            .clone()
            .chain(written.iter().copied())
            .any(|key| !(1..=KEY_BYTES_MAX).contains(&key.len()))
        {
            return Err(Invalid::Key);
        }
        if self.puts.iter().any(|put| put.value.len() > VALUE_BYTES_MAX) {
            return Err(Invalid::Value);
        }
        let keys: usize = compared.chain(written.iter().copied()).map(Vec::len).sum();
        let values: usize = self.puts.iter().map(|put| put.value.len()).sum();
        if keys + values > TXN_BYTES_MAX {
            return Err(Invalid::Bytes);
        }
        written.sort_unstable();
        if written.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Invalid::Twice);
        }
        Ok(())
    }
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and it will last. The revision is that of its change, or the table's if it changed nothing.
    Done(Revision),
    /// A compare did not hold, and nothing was done.
    Refused(Refused),
    /// It can never be done as it is; nothing was done.
    Invalid(Invalid),
    /// It was not sent: too much waits already, or the service is closed. Nothing was done.
    NotSent,
    /// Nobody knows, and it may still be done later. [`Swap`] finds out.
    Unknown,
}

/// What stood at the compared keys when a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The table's revision.
    pub at: Revision,
    /// What stood there, in the order of the compares.
    pub there: Vec<Option<Entry>>,
}

/// Why something can never be done as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// See [`TXN_OPERATIONS_MAX`].
    #[error("more than {TXN_OPERATIONS_MAX} compares or writes in a transaction")]
    Operations,
    /// See [`KEY_BYTES_MAX`].
    #[error("a key is empty or longer than {KEY_BYTES_MAX} bytes")]
    Key,
    /// See [`VALUE_BYTES_MAX`].
    #[error("a value is longer than {VALUE_BYTES_MAX} bytes")]
    Value,
    /// See [`TXN_BYTES_MAX`].
    #[error("a transaction has more than {TXN_BYTES_MAX} bytes")]
    Bytes,
    /// Which of two writes holds would be anybody's guess.
    #[error("a transaction writes a key twice")]
    Twice,
    /// A put names a lease that is not there, or no more.
    #[error("there is no such lease")]
    Lease,
    /// The table would pass its limit of bytes, or of leases.
    #[error("the metadata is full")]
    Full,
    /// The service refused it for a reason of its own.
    #[error("the metadata service refuses it")]
    Other,
}

/// What stands in a range at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// The table's revision at that moment.
    pub at: Revision,
    /// The entries in the order of their keys.
    pub entries: Vec<Entry>,
}

/// A change of one key, as watches tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(Entry),
    /// It was removed, or its lease is over.
    Gone {
        /// The key.
        key: Vec<u8>,
        /// The change that removed it.
        at: Revision,
    },
}

impl Event {
    /// The change that it belongs to.
    pub fn at(&self) -> Revision {
        match self {
            Event::Put(entry) => entry.modified,
            Event::Gone { at, .. } => *at,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &[u8] {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Gone { key, .. } => key,
        }
    }
}

#[cfg(test)]
mod tests;
