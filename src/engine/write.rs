//! Writing: whole values, parts of values, removals, expiries; with conditions, and the writer's half of leases.

use super::*;
use crate::request::{Expire, ExpireOnly, Put, Remove, Splice, copied_bytes_max};

impl Engine {
    /// [`Verb::Put`]. A put clears the lease's marks, unless its value is said to be stale; one of an older version leaves
    /// them and the expiry: it fills a stale item with a less stale value.
    #[inline]
    pub(super) fn put(&mut self, now: Mono, key: &[u8], value: &[u8], put: &Put) -> Reply {
        let probe = self.store.probe(key);
        let held = match put.previous {
            true => self.keep(now, probe, key),
            false => self.look(now, probe, key, false),
        };
        let visible = held.filter(|held| !held.marks.hollow);
        let previous = |stored| Reply {
            answer: Answer::Previous {
                existed: visible.is_some(),
                stored,
                flags: visible.map_or(0, |held| held.flags),
            },
            // Of a hollow item nothing was copied that could be shown.
            bytes: Bytes::Kept,
        };
        let stale = match check(put.condition, held.as_ref()) {
            Ok(stale) => stale,
            Err(_) if put.previous => return previous(false),
            Err(why) => return Reply::refused(why),
        };
        let (expiry, marks) = match held {
            Some(held) if stale => {
                (held.expiry, Marks { stale: true, hollow: false, binary_key: put.binary_key, ..held.marks })
            }
            _ => {
                let old = visible.map_or(Expiry::Never, |held| held.expiry);
                (
                    changed(old, put.expiry),
                    Marks { binary_key: put.binary_key, stale: put.stale, ..Marks::default() },
                )
            }
        };
        let version = self.next_version(put.version);
        let item = NewItem { value: &[value], flags: put.flags, version, expiry, marks };
        if let Err(why) = self.write(now, probe, key, &item) {
            return Reply::fault(why);
        }
        match put.previous {
            true => previous(true),
            false => stored(version, visible.is_some(), value.len()),
        }
    }

    /// Whether an item is so long, with so many bytes more, that copying it would take its core for too long.
    #[inline]
    pub(super) fn is_beyond_copies(&mut self, now: Mono, probe: Probe, key: &[u8], more: usize) -> bool {
        let most = copied_bytes_max(self.memory_bytes_max);
        let found = self.store.find(now, probe, key, false);
        found.is_some_and(|found| found.value.len().saturating_add(more) > most)
    }

    /// [`Verb::Splice`]. Flags and expiry of an item that was there stay. One that may be made is made whatever
    /// version was asked for, as with memcached.
    pub(super) fn splice(&mut self, now: Mono, key: &[u8], value: &[u8], splice: &Splice) -> Reply {
        let probe = self.store.probe(key);
        if self.is_beyond_copies(now, probe, key, value.len()) {
            return Reply::fault(Fault::TooLarge);
        }
        let Some(held) = self.load(now, probe, key).filter(|held| !held.marks.hollow) else {
            let Some(expiry) = splice.create else { return Reply::refused(Refusal::Absent) };
            let version = self.next_version(splice.version);
            let marks = Marks { binary_key: splice.binary_key, ..Marks::default() };
            let item = NewItem { value: &[value], flags: splice.flags, version, expiry, marks };
            return match self.write(now, probe, key, &item) {
                Ok(()) => stored(version, false, value.len()),
                Err(why) => Reply::fault(why),
            };
        };
        match check(splice.condition, Some(&held)) {
            Ok(false) => {}
            // An older version cannot be appended to: the value it was is gone.
            Ok(true) => return Reply::refused(Refusal::Version),
            Err(why) => return Reply::refused(why),
        }
        let version = self.next_version(splice.version);
        let old = std::mem::take(&mut self.scratch);
        let parts: [&[u8]; 2] = if splice.front { [value, &old] } else { [&old, value] };
        let Held { flags, expiry, .. } = held;
        // As with memcached, where a longer value is another item.
        let marks = Marks { binary_key: false, ..held.marks };
        let item = NewItem { value: &parts, flags, version, expiry, marks };
        let written = self.write(now, probe, key, &item);
        self.scratch = old;
        match written {
            Ok(()) => stored(version, true, held.len + value.len()),
            Err(why) => Reply::fault(why),
        }
    }

    /// [`Verb::Overwrite`]. Nothing to write changes nothing, and makes no item.
    pub(super) fn overwrite(&mut self, now: Mono, key: &[u8], value: &[u8], offset: u32) -> Reply {
        let probe = self.store.probe(key);
        if value.is_empty() {
            return match self.look(now, probe, key, false).filter(|held| !held.marks.hollow) {
                Some(held) => stored(held.version, true, held.len),
                None => stored(Version::NONE, false, 0),
            };
        }
        // Checked before room for it is made.
        let start = offset as usize;
        let end = start.saturating_add(value.len());
        let beyond =
            end > copied_bytes_max(self.memory_bytes_max) || self.is_beyond_copies(now, probe, key, 0);
        if beyond || key.len().saturating_add(end) > self.item_bytes_max {
            return Reply::fault(Fault::TooLarge);
        }
        let held = self.load(now, probe, key).filter(|held| !held.marks.hollow);
        let version = self.next_version(None);
        if held.is_none() {
            self.scratch.clear();
        }
        if self.scratch.len() < end {
            self.scratch.resize(end, 0);
        }
        self.scratch[start..end].copy_from_slice(value);
        let len = self.scratch.len();
        let like = match held {
            Some(held) => Held { version, ..held },
            None => Held::fresh(0, version, Expiry::Never),
        };
        match self.write_scratch(now, probe, key, &like) {
            Ok(()) => stored(version, held.is_some(), len),
            Err(why) => Reply::fault(why),
        }
    }

    /// [`Verb::Remove`]. Removing a hollow item is what keeps its filler from bringing back what was removed.
    pub(super) fn remove(&mut self, now: Mono, key: &[u8], remove: &Remove) -> Reply {
        let probe = self.store.probe(key);
        let Some(held) = self.look(now, probe, key, false) else { return Reply::plain(Answer::Miss) };
        match check(remove.condition, Some(&held)) {
            Ok(false) => {}
            Ok(true) => return Reply::refused(Refusal::Version),
            Err(why) => return Reply::refused(why),
        }
        let kept = remove.stale || remove.clear;
        let expiry = if kept { changed(held.expiry, remove.expiry) } else { held.expiry };
        if passed(expiry, now) || !kept {
            self.store.remove(probe, key);
            self.counters.removals_total += 1;
            return Reply::plain(Answer::Removed { version: held.version });
        }
        let version = self.next_version(remove.version);
        // A stale item is free to be leased again: the next reader refills it.
        let marks = Marks {
            stale: remove.stale,
            leased: false,
            hollow: held.marks.hollow,
            binary_key: held.marks.binary_key && !remove.clear,
        };
        if remove.clear {
            let item = NewItem { value: &[], flags: 0, version, expiry, marks };
            if let Err(why) = self.store.put(now, probe, key, &item) {
                return Reply::fault(why);
            }
        } else {
            self.store.amend(now, probe, key, version, expiry, marks);
        }
        self.counters.removals_total += 1;
        Reply::plain(Answer::Removed { version })
    }

    /// [`Verb::Expire`].
    pub(super) fn expire(&mut self, now: Mono, key: &[u8], expire: &Expire) -> Reply {
        let probe = self.store.probe(key);
        let Some(held) = self.look(now, probe, key, false).filter(|held| !held.marks.hollow) else {
            return Reply::plain(Answer::Miss);
        };
        let has_one = held.expiry != Expiry::Never;
        let later = expire.expiry.to_number() > held.expiry.to_number();
        let earlier = expire.expiry.to_number() < held.expiry.to_number();
        let holds = match expire.only {
            ExpireOnly::Any => true,
            ExpireOnly::IfNone => !has_one,
            ExpireOnly::IfSome => has_one,
            ExpireOnly::IfLater => later,
            ExpireOnly::IfEarlier => earlier,
            ExpireOnly::IfSomeAndLater => has_one && later,
            ExpireOnly::IfSomeAndEarlier => has_one && earlier,
        };
        if !holds {
            return Reply::refused(Refusal::Expiry);
        }
        if passed(expire.expiry, now) {
            self.store.remove(probe, key);
            self.counters.removals_total += 1;
        } else {
            self.store.amend(now, probe, key, held.version, expire.expiry, held.marks);
        }
        Reply::plain(Answer::Touched(Item { expiry: expire.expiry, ..held.item() }))
    }
}

fn stored(version: Version, replaced: bool, len: usize) -> Reply {
    Reply::plain(Answer::Stored { version, replaced, len: length(len) })
}
