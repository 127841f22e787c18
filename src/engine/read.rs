//! Reading: plain, by looking only, and with effects on the way (the reader's half of leases).
//!
//! The lease, as memcached's meta commands have it:
//!
//! | the reader finds | is answered | leaves |
//! |---|---|---|
//! | nothing, and may vivify | an empty item, won | hollow, leased |
//! | hollow, leased | the empty item, taken | the same |
//! | stale | the item, stale and won | stale, leased |
//! | stale, leased | the item, stale and taken | the same |
//! | an item that ends before `refill_before` | the item, won | leased |
//! | the same, leased | the item, taken | the same |

use super::*;
use crate::request::Fetch;

impl Engine {
    /// [`Verb::Get`].
    #[inline]
    pub(super) fn get(&mut self, now: Mono, key: &[u8]) -> Outcome<'_> {
        let probe = self.store.probe(key);
        match self.store.find(now, probe, key, true) {
            Some(found) if !found.marks.hollow => {
                self.counters.hits_total += 1;
                Outcome { answer: Answer::Item(Held::of(&found).item()), value: found.value }
            }
            _ => {
                self.counters.misses_total += 1;
                Outcome { answer: Answer::Miss, value: Value::EMPTY }
            }
        }
    }

    /// [`Verb::Peek`].
    pub(super) fn peek(&mut self, now: Mono, key: &[u8]) -> Outcome<'_> {
        let probe = self.store.probe(key);
        match self.store.find(now, probe, key, false) {
            Some(found) if !found.marks.hollow => {
                Outcome { answer: Answer::Item(Held::of(&found).item()), value: found.value }
            }
            _ => Outcome { answer: Answer::Miss, value: Value::EMPTY },
        }
    }

    /// [`Verb::Fetch`]. Whether the item is about to end is judged by its expiry before the change.
    pub(super) fn fetch(&mut self, now: Mono, key: &[u8], fetch: &Fetch) -> Reply {
        let probe = self.store.probe(key);
        let lease = fetch.lease || fetch.vivify.is_some() || fetch.refill_before.is_some();
        let held = match self.look(now, probe, key, fetch.warm) {
            None => {
                self.counters.misses_total += 1;
                return match fetch.vivify {
                    Some(expiry) => self.vivify(now, probe, key, expiry, fetch.version),
                    None => Reply::plain(Answer::Miss),
                };
            }
            Some(held) if held.marks.hollow && !lease => {
                self.counters.misses_total += 1;
                if fetch.remove {
                    // The fill under way must not bring back what is removed here.
                    self.store.remove(probe, key);
                }
                return Reply::plain(Answer::Miss);
            }
            Some(held) => held,
        };
        match held.marks.hollow {
            true => self.counters.misses_total += 1,
            false => self.counters.hits_total += 1,
        }

        let ends_soon = match (held.expiry, fetch.refill_before) {
            (Expiry::At(at), Some(before)) => at < before,
            _ => false,
        };
        let won = lease && !held.marks.leased && (held.marks.stale || ends_soon);
        let expiry = changed(held.expiry, fetch.expiry);
        let mut item = Item { expiry, ..held.item() };
        item.lease.won = won;
        let answer = Answer::Item(item);

        if fetch.remove || passed(expiry, now) {
            self.keep(now, probe, key);
            self.store.remove(probe, key);
            self.counters.removals_total += 1;
            return Reply { answer, bytes: Bytes::Kept };
        }
        if won || expiry != held.expiry {
            let marks = Marks { leased: held.marks.leased || won, ..held.marks };
            self.store.amend(now, probe, key, held.version, expiry, marks);
        }
        Reply { answer, bytes: Bytes::Item(probe) }
    }

    /// Leaves a hollow item and gives the right to fill it.
    fn vivify(
        &mut self,
        now: Mono,
        probe: Probe,
        key: &[u8],
        expiry: Expiry,
        version: Option<Version>,
    ) -> Reply {
        let version = self.next_version(version);
        let marks = Marks { leased: true, hollow: true, ..Marks::default() };
        if !passed(expiry, now) {
            let item = NewItem { value: &[], flags: 0, version, expiry, marks };
            if let Err(why) = self.store.put(now, probe, key, &item) {
                return Reply::fault(why);
            }
        }
        let mut item = Held::fresh(0, version, expiry).item();
        item.lease.won = true;
        Reply::plain(Answer::Item(item))
    }
}
