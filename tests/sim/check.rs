//! What clients may see, by nothing but what clients were told before.
//!
//! Versions are what ties it together: each write is acknowledged with one, each read tells one, and for a key they only grow. So
//! 1. no read, and no removal, finds a version below the greatest one that anybody was told of before it began (*floor*),
//! 2. none finds one at or below what was removed before it began (*dead*),
//! 3. one write has one version, and one version one value: nothing is done twice, nothing half,
//! 4. a miss needs a reason: nothing was there, a removal that may have come between, an end of life, or a crash of who had it.

use super::clients::{Kind, Op, value_of};
use foreshadow::request::Answer;
use std::collections::BTreeMap;

/// What was known of a key when an operation began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    pub time: u64,
    floor: u64,
    floor_since: u64,
    dead: u64,
    counted: u64,
    counted_since: u64,
}

#[derive(Default)]
struct Key {
    floor: u64,
    /// When the operation began that told of it.
    floor_since: u64,
    dead: u64,
    /// Value by version, and version by value.
    values: BTreeMap<u64, u64>,
    versions: BTreeMap<u64, u64>,
    /// Removals that began, and have not ended or ended nobody knows how.
    open_removals: u64,
    removed: u64,
    counts_begun: u64,
    counts_told: u64,
    counted: u64,
    counted_since: u64,
    mortal: bool,
}

pub struct Checker {
    keys: BTreeMap<usize, Key>,
    /// When a node crashed that had the shard.
    crashes: BTreeMap<usize, u64>,
    /// Whether items may be evicted at any time.
    pub forgets: bool,
    /// Which key each value was written to.
    written: BTreeMap<u64, usize>,
    /// Values that may end by themselves.
    pub violation: Option<String>,
}

impl Checker {
    pub fn new(forgets: bool) -> Checker {
        Checker {
            keys: BTreeMap::new(),
            crashes: BTreeMap::new(),
            forgets,
            written: BTreeMap::new(),
            violation: None,
        }
    }

    pub fn wrong(&mut self, why: String) {
        self.violation.get_or_insert(why);
    }

    /// A node has crashed that had the shard, or may have.
    pub fn crashed(&mut self, shard: usize, now: u64) {
        self.crashes.insert(shard, now);
    }

    /// An operation is about to be sent, for the first time or once more.
    pub fn begin(&mut self, now: u64, op: &Op, again: bool) -> Start {
        let key = self.keys.entry(op.key).or_default();
        if !again {
            match op.kind {
                Kind::Remove => key.open_removals += 1,
                Kind::Count => key.counts_begun += 1,
                Kind::Put { millis } => {
                    key.mortal |= millis.is_some();
                    self.written.insert(op.id, op.key);
                }
                Kind::Touch { .. } => key.mortal = true,
                Kind::Get => {}
            }
        }
        Start {
            time: now,
            floor: key.floor,
            floor_since: key.floor_since,
            dead: key.dead,
            counted: key.counted,
            counted_since: key.counted_since,
        }
    }

    /// An operation has ended with this answer.
    pub fn end(&mut self, op: &Op, shard: usize, answer: &Answer, value: &[u8]) {
        if let Err(why) = self.judge(op, shard, answer, value) {
            self.wrong(format!(
                "key {}: {:?} began with {:?}, answered {answer:?}: {why}",
                op.key, op.kind, op.start
            ));
        }
    }

    fn judge(&mut self, op: &Op, shard: usize, answer: &Answer, value: &[u8]) -> Result<(), String> {
        let crash = self.crashes.get(&shard).copied();
        let key = self.keys.get_mut(&op.key).expect("it began");
        let start = op.start;
        let found = |version: u64| match version {
            _ if version < start.floor => Err(format!("version {version} is older than one told of before")),
            _ if version <= start.dead => Err(format!("version {version} was removed before")),
            _ => Ok(()),
        };
        let reason = start.floor == 0
            || key.removed >= start.floor
            || key.open_removals > 0
            || key.mortal
            || self.forgets
            || crash.is_some_and(|crash| crash >= start.floor_since);
        let told = match (op.kind, *answer) {
            (Kind::Get, Answer::Item(item)) => {
                found(item.version.0)?;
                if item.len as usize != value.len() {
                    return Err("the length is another".into());
                }
                match op.counter {
                    true => {
                        let number: u64 = std::str::from_utf8(value)
                            .ok()
                            .and_then(|text| text.parse().ok())
                            .ok_or("a counter is no number")?;
                        key.bind(item.version.0, number, false)?;
                        if number > key.counts_begun {
                            return Err(format!("{number} of {} counts", key.counts_begun));
                        }
                    }
                    false => {
                        let (head, _) = value.split_first_chunk::<8>().ok_or("the value is short")?;
                        let id = u64::from_le_bytes(*head);
                        if self.written.get(&id) != Some(&op.key) || *value != value_of(id) {
                            return Err("the value was never written to this key".into());
                        }
                        key.bind(item.version.0, id, true)?;
                    }
                }
                item.version.0
            }
            (Kind::Get | Kind::Touch { .. }, Answer::Miss) => {
                return if reason { Ok(()) } else { Err("there is no reason for a miss".into()) };
            }
            (Kind::Put { .. }, Answer::Stored { version, .. }) => {
                if version.0 <= start.floor || version.0 <= start.dead {
                    return Err(format!("version {} is not new", version.0));
                }
                key.bind(version.0, op.id, true)?;
                version.0
            }
            (Kind::Count, Answer::Counted { number, item }) => {
                if item.version.0 <= start.floor {
                    return Err(format!("version {} is not new", item.version.0));
                }
                key.bind(item.version.0, number, false)?;
                let lost = crash.is_some_and(|crash| crash >= start.counted_since);
                if number > key.counts_begun || (number <= start.counted && !lost && !self.forgets) {
                    return Err(format!(
                        "{number} of {} counts, {} told before",
                        key.counts_begun, start.counted
                    ));
                }
                key.counts_told += 1;
                let lost_since = crash.is_some_and(|crash| crash >= key.counted_since);
                if lost_since || number > key.counted {
                    (key.counted, key.counted_since) = (number, start.time);
                }
                item.version.0
            }
            (Kind::Touch { .. }, Answer::Touched(item)) => {
                found(item.version.0)?;
                item.version.0
            }
            (Kind::Remove, Answer::Removed { version }) => {
                found(version.0)?;
                key.open_removals -= 1;
                key.removed = key.removed.max(version.0);
                key.dead = key.dead.max(version.0).max(start.floor);
                return Ok(());
            }
            (Kind::Remove, Answer::Miss) => {
                key.open_removals -= 1;
                let reason = reason || key.open_removals > 0;
                key.dead = key.dead.max(start.floor);
                return if reason { Ok(()) } else { Err("there is no reason for a miss".into()) };
            }
            (_, answer) => return Err(format!("{answer:?} is no answer to that")),
        };
        if told > key.floor {
            (key.floor, key.floor_since) = (told, start.time);
        }
        Ok(())
    }

    /// A counter at the end, when nothing is under way: what was told, and at most what was begun.
    pub fn count_at_end(&mut self, key_number: usize, shard: usize, number: u64) {
        let Some(key) = self.keys.get(&key_number) else { return };
        if self.crashes.contains_key(&shard) || self.forgets {
            return;
        }
        if number < key.counts_told || number > key.counts_begun {
            let why = format!(
                "counter {key_number} is {number}; {} counts were told of, {} begun",
                key.counts_told, key.counts_begun
            );
            self.wrong(why);
        }
    }
}

impl Key {
    fn bind(&mut self, version: u64, value: u64, once: bool) -> Result<(), String> {
        let known = *self.values.entry(version).or_insert(value);
        if known != value {
            return Err(format!("version {version} has two values, {known} and {value}"));
        }
        if once && *self.versions.entry(value).or_insert(version) != version {
            return Err(format!("{value} was written twice"));
        }
        Ok(())
    }
}
