//! What is counted of a keyspace.

/// Counts of a keyspace on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceTally {
    /// Reads that asked for a fetch.
    pub demanded: u64,
    /// Of those, reads that joined one under way.
    pub coalesced: u64,
    /// Questions to the origin: attempts of all causes, writes included.
    pub asked: u64,
    /// Reads answered by the knowledge that there is nothing.
    pub negative: u64,
    /// Reads answered with a value out of date while it was fetched anew.
    pub stale: u64,
    /// Reads answered with a value out of date because the origin could not answer.
    pub stale_on_error: u64,
    /// Items found unchanged by their origin.
    pub revalidated: u64,
    /// Values stored.
    pub filled: u64,
    /// Values that could not be stored because the key was written or invalidated meanwhile.
    pub voided: u64,
    /// Writes done by the origin.
    pub written: u64,
    /// Commands that went to the origin as they were.
    pub passed: u64,
    /// Attempts taken over by another.
    pub retried: u64,
    /// Reads and writes answered with a fault.
    pub failed: u64,
    /// Answers that were older than one before.
    pub outdated: u64,
    /// Reads for which the rate of fetches had nothing left.
    pub over_budget: u64,
    /// Items removed because the keyspace held too much.
    pub evicted: u64,
    /// Values that were not kept because it did.
    pub unkept: u64,
    /// Bytes that it holds, by the census.
    pub bytes: u64,
}
