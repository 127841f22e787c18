//! Items that were evicted, kept for who watches, until they are taken.

use crate::clock::Mono;
use crate::request::Expiry;

/// Victims kept; more are counted.
const VICTIMS_MAX: usize = 256;

/// An item that was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its key.
    pub key: Box<[u8]>,
    /// Bytes of its value.
    pub value_bytes: u64,
    /// When it would have ended.
    pub expiry: Expiry,
    /// Whether it was ever found.
    pub used: bool,
    /// Seconds since it was used last.
    pub idle_seconds: u32,
}

/// Those since they were taken last.
#[derive(Debug, Default)]
pub(super) struct Victims {
    kept: Vec<Victim>,
    lost: u64,
}

impl super::Store {
    /// Has items that are evicted be kept for [`Store::take_victims`](super::Store::take_victims), or no longer.
    pub fn watch_evictions(&mut self, on: bool) {
        self.victims = on.then(|| self.victims.take().unwrap_or_default());
    }

    /// Items evicted since, of which a bounded number is kept, and how many were not.
    pub fn take_victims(&mut self) -> (Vec<Victim>, u64) {
        let victims = self.victims.as_mut().map(|victims| std::mem::take(&mut **victims)).unwrap_or_default();
        (victims.kept, victims.lost)
    }

    /// Keeps the item there, which is about to be dropped.
    #[cold]
    pub(super) fn note_victim(&mut self, now: Mono, entry: super::index::Entry, used: bool) {
        let idle_seconds = self.idle_seconds(now, entry);
        let Some(victims) = &mut self.victims else { return };
        if victims.kept.len() == VICTIMS_MAX {
            victims.lost += 1;
            return;
        }
        let item = self.log.item(entry.location());
        victims.kept.push(Victim {
            key: item.key().into(),
            value_bytes: u64::from(item.head.value_len),
            expiry: item.head.facts(item.bytes, item.base).expiry,
            used,
            idle_seconds,
        });
    }
}
