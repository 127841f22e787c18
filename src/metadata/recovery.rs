//! What a file says when it is opened: the table as it was made to last, or that the file is damaged.
//!
//! 1. The head says that it is ours. The first frame is the snapshot. Each further frame is played.
//! 2. A frame that is not whole, with no whole frame anywhere behind it, is the write that a crash cut short: nobody was told
//!    its outcome as done. It is cut off.
//! 3. A frame that is not whole with a whole one behind it was whole once: what it said was told as done. Going on without it
//!    would take back decisions, so the file is refused. So is a frame that is whole and does not fit to those before.
//!
//! A last frame that was whole and then lost bits looks like one cut short, and is cut off with a warning: no file can tell the
//! two apart.

use super::log::{self, Frame, HEAD_BYTES, Head};
use super::{Revision, Table};
use crate::clock::Mono;

/// The table of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// As it stands after the last whole frame.
    pub table: Table,
    /// How far the file is good. What lies behind has to be cut off before anything is appended.
    pub whole_bytes: usize,
}

/// Why a file cannot be used. The text says whose fault it is likely to be and what to do, and wants the file's name before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Nothing in it is ours.
    #[error(
        "this is no metadata file: it does not begin as one. A wrong path, or something else wrote into it. \
         Name another file, or move this one away to begin with empty metadata"
    )]
    Other,
    /// A program newer than this one wrote it.
    #[error(
        "this metadata file has version {0}, which a newer version of foreshadow wrote. \
         Start that version, or move the file away to begin with empty metadata"
    )]
    Version(u32),
    /// The snapshot is not whole.
    #[error(
        "the snapshot at the beginning of this metadata file is damaged; files get their name only when theirs is whole and \
         on the disk, so the disk or another program changed it. {REMEDY}"
    )]
    Snapshot,
    /// Steps in the middle are not whole.
    #[error(
        "this metadata file is damaged at byte {at}, and whole again from byte {whole_again}; no crash of ours leaves that, \
         so the disk or another program changed it. {REMEDY}"
    )]
    Middle {
        /// Where the first frame begins that is not whole.
        at: usize,
        /// Where a whole one begins behind it.
        whole_again: usize,
    },
    /// A step does not fit to those before.
    #[error(
        "the steps in this metadata file do not follow from one another at byte {at} (it says revision {says}, the steps \
         before end at {ends}); parts of two files were put together, or it is our mistake. {REMEDY}"
    )]
    Order {
        /// Where the frame begins.
        at: usize,
        /// The revision that it says it follows.
        says: u64,
        /// That of the table there.
        ends: u64,
    },
}

/// What to do about a damaged file.
const REMEDY: &str =
    "Look after the disk, then put back a copy of the file, or move it away to begin with empty metadata";

/// Reads a file. Leases run anew from `now`.
///
/// # Errors
/// See [`Damage`].
pub fn recover(now: Mono, file: &[u8]) -> Result<Recovered, Damage> {
    match log::read_head(file) {
        Head::Ours => {}
        Head::Version(version) => return Err(Damage::Version(version)),
        Head::Other => return Err(Damage::Other),
    }
    let snapshot = Frame::read(&file[HEAD_BYTES..]).ok_or(Damage::Snapshot)?;
    let mut table = Table::of_snapshot(now, snapshot.before, snapshot.records).ok_or(Damage::Snapshot)?;
    let log_begins = HEAD_BYTES + snapshot.len;
    let mut at = log_begins;
    while at < file.len() {
        let Some(frame) = Frame::read(&file[at..]) else {
            let behind = Frame::find(&file[at + 1..], table.revision());
            match behind {
                Some(offset) => return Err(Damage::Middle { at, whole_again: at + 1 + offset }),
                None => break,
            }
        };
        let Revision(ends) = table.revision();
        let order = Damage::Order { at, says: frame.before.0, ends };
        if frame.before != table.revision() || table.replay(now, frame.records).is_none() {
            return Err(order);
        }
        at += frame.len;
    }
    table.logged(at - log_begins);
    Ok(Recovered { table, whole_bytes: at })
}
