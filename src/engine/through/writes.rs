//! Writes that go to the origin first: those of one key one after the other.

use super::fetches::end_of;
use super::*;

/// Writes on their way and behind them, and their bytes.
const WRITES_MAX: usize = 16 << 10;
const WRITE_BYTES_MAX: usize = 64 << 20;

/// A write on its way to the origin, or behind one of the same key.
pub(in crate::engine) struct Write {
    waiter: Waiter,
    keyspace: Arc<Keyspace>,
    index: usize,
    verb: Verb,
    value: Vec<u8>,
    what: What,
    /// Whether the cache may hold the value afterwards: nothing was invalidated since the origin was asked.
    pub(super) storable: bool,
}

impl Engine {
    pub(super) fn write_way(
        &mut self,
        now: Now,
        waiter: Waiter,
        key: &[u8],
        value: &[u8],
        verb: Verb,
    ) -> Way {
        let through = self.through_mut();
        let id = through.keyspaces.of(key);
        let Some(id) = id.filter(|id| through.keyspaces[*id].write != WritePolicy::CacheOnly) else {
            through.part(key);
            if id.is_some_and(|id| through.keyspaces[id].conflict == Conflict::Lww) {
                through.ledger.note_written(key, now.wall.0 / 1000);
            }
            return Way::Execute;
        };
        let index = usize::from(id.0);
        let Some(what) = what_of(now, &verb, value) else {
            return Way::Answer(Answer::Fault(Fault::Unsupported));
        };
        let full = through.write_count >= WRITES_MAX || through.write_bytes + value.len() > WRITE_BYTES_MAX;
        if full || !self.may_wait() {
            self.through_mut().tally(index).failed += 1;
            return Way::Full;
        }
        let through = self.through_mut();
        through.write_count += 1;
        through.write_bytes += value.len();
        let keyspace = through.keyspaces[id].clone();
        let write = Write { waiter, keyspace, index, verb, value: value.to_vec(), what, storable: true };
        let queue = through.writes.entry(key.into()).or_default();
        queue.push_back(write);
        if queue.len() == 1 {
            through.send_write(key);
        }
        Way::Wait
    }

    /// The write at the front of its key's queue came back: with an answer, or (nobody knows) without.
    pub(super) fn written(&mut self, now: Now, ticket: Ticket, reply: Option<Told>) {
        let through = self.through.as_mut().expect("writes are of it");
        let Some(key) = through.writing.remove(&ticket) else { return };
        let queue = through.writes.get_mut(&key).expect("a write on its way is at the front");
        let write = queue.pop_front().expect("a write on its way is at the front");
        let more = !queue.is_empty();
        through.write_count -= 1;
        through.write_bytes -= write.value.len();
        if !more {
            through.writes.remove(&key);
        }
        let (answer, text) = self.settle_write(now, &key, &write, reply);
        self.note_key(&key);
        if matches!(answer, Answer::Fault(_)) {
            self.counters.faults_total += 1;
        }
        let through = self.through.as_mut().expect("writes are of it");
        match answer {
            Answer::Fault(_) => through.tally(write.index).failed += 1,
            _ => through.tally(write.index).written += 1,
        }
        through.answer(write.waiter, answer, &text);
        if more {
            through.send_write(&key);
        }
    }

    /// Brings the cache in line with what the origin did, and finds the answer for it.
    fn settle_write(
        &mut self,
        now: Now,
        key: &[u8],
        write: &Write,
        reply: Option<Told>,
    ) -> (Answer, Rc<[u8]>) {
        let none: Rc<[u8]> = Rc::default();
        let probe = self.store.probe(key);
        let done = match reply {
            Some(Told::Written) => None,
            Some(Told::Counted(number)) => Some(number),
            Some(Told::NotWritten) => {
                let answer = match write.verb {
                    Verb::Put(Put { condition: Condition::Absent, .. }) => Answer::Refused(Refusal::Present),
                    Verb::Put(Put { condition: Condition::Present | Condition::Held, .. }) => {
                        Answer::Refused(Refusal::Absent)
                    }
                    Verb::Put(_) => Answer::Refused(Refusal::Version),
                    _ => Answer::Miss,
                };
                // The origin knows better than what we may hold.
                self.through_mut().part(key);
                self.store.remove(probe, key);
                return (answer, none);
            }
            Some(Told::Refused(text)) => return (Answer::Fault(Fault::Origin), text.into()),
            // No answer, or one that fits no write: nobody knows.
            _ => {
                self.through_mut().part(key);
                self.store.remove(probe, key);
                let text = b"ERR the origin did not answer: the write may or may not have happened";
                return (Answer::Fault(Fault::Origin), Rc::from(text.as_slice()));
            }
        };
        self.through_mut().part(key);
        let ledger = &mut self.through_mut().ledger;
        match (write.keyspace.conflict, ledger.floor(key)) {
            (Conflict::Lww, _) => ledger.note_written(key, now.wall.0 / 1000),
            // What it is now is greater than all that was seen.
            (Conflict::Source, Some(floor)) => ledger.raise_floor(key, Version(floor.0 + 1)),
            _ => {}
        }
        let held = self.look(now.mono, probe, key, false).filter(|held| !held.marks.hollow);
        let Verb::Put(put) = write.verb else {
            self.store.remove(probe, key);
            let version = self.next_version(None);
            let item = Held::fresh(0, version, Expiry::Never).item();
            let answer = match (write.verb, done) {
                (_, Some(number)) => Answer::Counted { number: number as u64, item },
                (Verb::Expire(expire), _) => Answer::Touched(Item { expiry: expire.expiry, ..item }),
                _ => {
                    self.counters.removals_total += 1;
                    Answer::Removed { version: held.map_or(version, |held| held.version) }
                }
            };
            return (answer, none);
        };
        let mut answer = Answer::Stored {
            version: self.next_version(None),
            replaced: held.is_some(),
            len: length(write.value.len()),
        };
        let fits = write.value.len() <= write.keyspace.value_bytes_max;
        let mut stored = false;
        let storable = write.storable || self.through_mut().sabotaged(Sabotage::StoreSuspectWrite);
        // Where the origin's versions count, a value of which nobody knows the version is not kept.
        let versioned = write.keyspace.conflict == Conflict::Source;
        if write.keyspace.write == WritePolicy::Through && fits && storable && !versioned {
            let end = end_of(now.mono, &write.keyspace, None);
            let expiry = match put.expiry {
                ExpiryChange::Set(Expiry::At(at)) => Expiry::At(at.min(match end {
                    Expiry::At(end) => end,
                    Expiry::Never => at,
                })),
                _ => end,
            };
            let put = Put { expiry: ExpiryChange::Set(expiry), condition: Condition::Always, ..put };
            let keeps = self.has_memory_for(now.mono, write.index, key, write.value.len());
            let put_answer = match keeps {
                true => self.put(now.mono, key, &write.value, &put).answer,
                false => Answer::Miss,
            };
            stored = matches!(put_answer, Answer::Stored { .. });
            if stored {
                answer = put_answer;
            }
        }
        if !stored {
            self.store.remove(probe, key);
        }
        (answer, none)
    }
}

impl Through {
    /// Sends the write at the front of a key's queue.
    fn send_write(&mut self, key: &[u8]) {
        let ticket = self.ticket();
        let write = self.writes.get(key).and_then(VecDeque::front).expect("callers look");
        let (keyspace, index, what) = (write.keyspace.clone(), write.index, write.what.clone());
        self.writing.insert(ticket, key.into());
        self.ask(ticket, &keyspace, index, key, what, Cause::Demand);
    }
}

/// A write as an origin may do it; `None` for what only a cache can.
fn what_of(now: Now, verb: &Verb, value: &[u8]) -> Option<What> {
    match *verb {
        Verb::Put(Put {
            flags,
            expiry: ExpiryChange::Set(expiry),
            condition,
            previous: false,
            version: None,
            binary_key: _,
            stale: _,
        }) => {
            Some(What::Put { value: value.to_vec(), flags, live_millis: live_millis(now, expiry), condition })
        }
        Verb::Remove(remove) if remove == Remove::PLAIN => Some(What::Remove),
        Verb::Count(Count {
            by,
            condition: Condition::Always,
            version: None,
            expiry: ExpiryChange::Keep,
            create,
        }) => {
            let by = match (by, create) {
                (Step::Signed(by), _) => by,
                (Step::Up(by), None) => i64::try_from(by).ok()?,
                (Step::Down(by), None) => i64::try_from(by).ok()?.checked_neg()?,
                _ => return None,
            };
            Some(What::Count { by })
        }
        Verb::Expire(crate::request::Expire { expiry, only: ExpireOnly::Any }) => {
            Some(What::Expire { live_millis: live_millis(now, expiry) })
        }
        _ => None,
    }
}
