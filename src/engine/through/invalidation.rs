//! What is forgotten before its time: by key, by prefix in one step, by tag.

use super::*;

/// Keys looked at per step of removing what was erased.
const SWEEP_KEYS: usize = 256;

impl Through {
    /// The key was invalidated: what is in the air is of before, a value that a write brings included.
    pub(super) fn invalidate(&mut self, key: &[u8]) {
        self.part(key);
        if let Some(write) = self.writes.get_mut(key).and_then(VecDeque::front_mut) {
            write.storable = false;
        }
    }

    /// As `invalidate`, for all keys that `which` names.
    pub(super) fn invalidate_all(&mut self, which: impl Fn(&[u8]) -> bool) {
        self.flights.part_all(&which);
        self.ledger.forget_all(&which);
        let suspect = self.writes.iter_mut().filter(|(key, _)| which(key));
        suspect.filter_map(|(_, queue)| queue.front_mut()).for_each(|write| write.storable = false);
    }

    /// The key changed, by whatever hand: what was in the air is of before.
    pub(super) fn part(&mut self, key: &[u8]) {
        if !self.sabotaged(Sabotage::JoinParted) {
            self.flights.part(key);
        }
        self.ledger.forget(key);
    }
}

impl Engine {
    /// Forgets what is named; from now on nothing of before is served or stored.
    pub(in crate::engine) fn invalidate(&mut self, now: Mono, name: &[u8], named: Named) -> Answer {
        let version = self.version;
        match named {
            Named::Key => {
                self.enforce(now, name);
                if let Some(through) = &mut self.through {
                    through.invalidate(name);
                }
                self.remove(now, name, &Remove::PLAIN).answer
            }
            Named::Prefix => {
                let through = self.through_mut();
                through.invalidate_all(|key| key.starts_with(name));
                through.erasures.add(name, version);
                self.note_prefix(name);
                // What comes from now on must be newer than what was erased.
                self.next_version(None);
                Answer::Number(0)
            }
            Named::Tag => {
                let through = self.through_mut();
                // Nobody knows under which tags what is in the air will come.
                through.flights.part_all(|_| true);
                let keys = through.ledger.untag(name);
                let mut removed = 0;
                for key in keys {
                    self.through_mut().invalidate(&key);
                    let probe = self.store.probe(&key);
                    removed += i64::from(self.store.remove(probe, &key));
                    self.note_key(&key);
                }
                self.counters.removals_total += removed as u64;
                Answer::Number(removed)
            }
        }
    }

    /// Everything is forgotten, what is in the air too.
    pub(in crate::engine) fn forget_everything(&mut self) {
        if let Some(through) = &mut self.through {
            through.invalidate_all(|_| true);
            through.erasures.clear();
        }
    }

    /// Removes the item of a key if it was erased and not removed so far.
    #[inline]
    pub(in crate::engine) fn enforce(&mut self, now: Mono, key: &[u8]) {
        let Some(through) = &self.through else { return };
        if !through.erasures.any() {
            return;
        }
        let Some(floor) = through.erasures.floor(key) else { return };
        let probe = self.store.probe(key);
        let dead = self
            .look(now, probe, key, false)
            .is_some_and(|held| held.version <= floor || held.version >= FOREIGN_VERSION);
        if dead {
            self.store.remove(probe, key);
            self.counters.removals_total += 1;
        }
    }

    /// A step of the walk that removes what was erased; answers whether there is more to do.
    pub(super) fn sweep_erased(&mut self, now: Mono) -> bool {
        let through = self.through.as_mut().expect("erasures are of it");
        if !through.erasures.any() {
            return false;
        }
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let erasures = &through.erasures;
        let next = self.store.walk(now, None, erasures.cursor, SWEEP_KEYS, &mut |key| {
            if erasures.floor(key).is_some() {
                keys.push(key.into());
            }
        });
        keys.iter().for_each(|key| self.enforce(now, key));
        let through = self.through_mut();
        through.erasures.cursor = next;
        if next == 0 {
            through.erasures.walked();
        }
        through.erasures.any()
    }
}
