//! The engine against a model: a map with the rules written down once more, as plainly as they can be. Long random
//! sequences of all verbs run on both with the same clock; every answer, value and counter has to agree.

use super::*;
use crate::clock::Wall;
use crate::request::{Count, Expire, ExpireOnly, Fetch, Put, Remove, Scan, Splice, Step};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

const KEYS: [&str; 4] = ["a", "{a}b", "c", "{c}"];
const VALUES: [&str; 14] = [
    "",
    "x",
    "abc",
    "0",
    "7",
    "-3",
    "99",
    "5  ",
    "+4",
    "10.5",
    "1e3",
    "9223372036854775807",
    "18446744073709551615",
    "007",
];
const ITEM_BYTES_MAX: usize = 64;

/// A version to ask for or to give, relative to what is there when the step runs.
#[derive(Clone, Copy, Debug)]
enum Pick {
    Current,
    Older,
    Newer,
}

/// An expiry, relative to the clock when the step runs.
#[derive(Clone, Copy, Debug)]
enum When {
    Never,
    Past,
    InSeconds(u64),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Keep,
    Set(When),
}

#[derive(Clone, Copy, Debug)]
enum Only {
    Always,
    Absent,
    Present,
    Version(Pick),
    VersionOrStale(Pick),
}

#[derive(Clone, Debug)]
enum Deed {
    Get,
    Peek,
    Fetch {
        expiry: Change,
        remove: bool,
        lease: bool,
        vivify: Option<When>,
        refill: Option<u64>,
        given: bool,
    },
    Put {
        flags: u32,
        expiry: Change,
        only: Only,
        previous: bool,
        given: Option<Pick>,
    },
    Splice {
        front: bool,
        create: Option<When>,
        only: Only,
    },
    Overwrite {
        offset: u32,
    },
    Count {
        by: Step,
        create: Option<(u64, When)>,
        only: Only,
        expiry: Change,
    },
    CountFloat,
    Remove {
        only: Only,
        stale: bool,
        clear: bool,
        expiry: Change,
    },
    Expire {
        expiry: When,
        only: ExpireOnly,
    },
    Scan,
    Size,
    SlotSize,
    Random,
    Flush {
        in_seconds: u64,
    },
    Pass {
        millis: u64,
    },
    Tick,
}

#[derive(Clone, Debug)]
struct Doing {
    key: usize,
    value: usize,
    deed: Deed,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![3 => Just(When::Never), 1 => Just(When::Past), 4 => (1u64..20).prop_map(When::InSeconds)]
}

fn when2() -> impl Strategy<Value = Change> {
    prop_oneof![2 => Just(Change::Keep), 1 => when().prop_map(Change::Set)]
}

fn only() -> impl Strategy<Value = Only> {
    let pick = || prop_oneof![2 => Just(Pick::Current), 1 => Just(Pick::Older), 1 => Just(Pick::Newer)];
    prop_oneof![
        6 => Just(Only::Always),
        2 => Just(Only::Absent),
        2 => Just(Only::Present),
        3 => pick().prop_map(Only::Version),
        3 => pick().prop_map(Only::VersionOrStale),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let step = prop_oneof![
        (-5i64..5).prop_map(Step::Signed),
        Just(Step::Signed(i64::MIN)),
        (0u64..9).prop_map(Step::Up),
        (0u64..9).prop_map(Step::Down),
    ];
    let expire_only = prop_oneof![
        Just(ExpireOnly::Any),
        Just(ExpireOnly::IfNone),
        Just(ExpireOnly::IfSome),
        Just(ExpireOnly::IfLater),
        Just(ExpireOnly::IfEarlier),
        Just(ExpireOnly::IfSomeAndLater),
        Just(ExpireOnly::IfSomeAndEarlier),
    ];
    let option = proptest::option::of::<BoxedStrategy<When>>;
    let fetch = (
        when2(),
        proptest::bool::weighted(0.1),
        any::<bool>(),
        option(when().boxed()),
        proptest::option::of(1u64..25),
        any::<bool>(),
    );
    let put = (
        0u32..3,
        when2(),
        only(),
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.2, prop_oneof![Just(Pick::Older), Just(Pick::Newer)]),
    );
    prop_oneof![
        4 => Just(Deed::Get),
        1 => Just(Deed::Peek),
        8 => fetch.prop_map(|(expiry, remove, lease, vivify, refill, given)| {
            Deed::Fetch { expiry, remove, lease, vivify, refill, given }
        }),
        8 => put.prop_map(|(flags, expiry, only, previous, given)| {
            Deed::Put { flags, expiry, only, previous, given }
        }),
        3 => (any::<bool>(), option(when().boxed()), only())
            .prop_map(|(front, create, only)| Deed::Splice { front, create, only }),
        2 => (0u32..70).prop_map(|offset| Deed::Overwrite { offset }),
        5 => (step, proptest::option::of((0u64..200, when())), only(), when2())
            .prop_map(|(by, create, only, expiry)| Deed::Count { by, create, only, expiry }),
        1 => Just(Deed::CountFloat),
        5 => (only(), any::<bool>(), proptest::bool::weighted(0.2), when2())
            .prop_map(|(only, stale, clear, expiry)| Deed::Remove { only, stale, clear, expiry }),
        4 => (when(), expire_only).prop_map(|(expiry, only)| Deed::Expire { expiry, only }),
        1 => Just(Deed::Scan),
        1 => Just(Deed::Size),
        1 => Just(Deed::SlotSize),
        1 => Just(Deed::Random),
        1 => (0u64..9).prop_map(|in_seconds| Deed::Flush { in_seconds }),
        4 => prop_oneof![1u64..2000, 2000u64..15_000].prop_map(|millis| Deed::Pass { millis }),
        1 => Just(Deed::Tick),
    ]
}

fn doing() -> impl Strategy<Value = Doing> {
    (0..KEYS.len(), 0..VALUES.len(), deed()).prop_map(|(key, value, deed)| Doing { key, value, deed })
}

/// An item of the model.
#[derive(Clone, Debug)]
struct Thing {
    value: Vec<u8>,
    flags: u32,
    version: Version,
    expiry: Expiry,
    stale: bool,
    leased: bool,
    hollow: bool,
}

/// What the model says of a step. Versions that the engine makes up are checked to be new, then taken over.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Item { thing_value: Vec<u8>, flags: u32, version: Version, expiry: Expiry, lease: Lease },
    Miss,
    Stored { version: Option<Version>, replaced: bool, len: usize },
    Refused(Refusal),
    Previous { existed: bool, stored: bool, flags: u32, value: Vec<u8> },
    Counted { number: u64, len: usize, expiry: Expiry, flags: u32 },
    Removed { version: Option<Version> },
    Touched { expiry: Expiry },
    Number(i64),
    Fault(Fault),
}

struct Model {
    things: HashMap<&'static str, Thing>,
    now: Now,
    flush_at: Option<Mono>,
    /// Greatest version known so far; the engine's next has to be greater.
    newest: Version,
    hits: u64,
    misses: u64,
    writes: u64,
    removals: u64,
    refusals: u64,
    errors: u64,
}

/// The version that a step made and the engine chose.
const OURS: Option<Version> = None;

impl Model {
    /// Keys under which there is more than a place held for a fill.
    fn items(&self) -> impl Iterator<Item = &'static str> {
        self.things.iter().filter(|(_, thing)| !thing.hollow).map(|(key, _)| *key)
    }

    fn over(&self, expiry: Expiry) -> bool {
        matches!(expiry, Expiry::At(at) if at <= self.now.mono)
    }

    fn forget_what_is_over(&mut self) {
        let now = self.now.mono;
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.things.clear();
        }
        self.things.retain(|_, thing| !matches!(thing.expiry, Expiry::At(at) if at <= now));
    }

    fn allows(only: Condition, thing: Option<&Thing>) -> Result<bool, Refusal> {
        let version = thing.map(|thing| thing.version);
        match only {
            Condition::Always => Ok(false),
            Condition::Absent if thing.is_none_or(|thing| thing.hollow) => Ok(false),
            Condition::Absent => Err(Refusal::Present),
            _ if thing.is_none() => Err(Refusal::Absent),
            Condition::Present if thing.is_some_and(|thing| thing.hollow) => Err(Refusal::Absent),
            Condition::Present | Condition::Held => Ok(false),
            Condition::VersionIs(wanted) | Condition::VersionIsOrStale(wanted) if version == Some(wanted) => {
                Ok(false)
            }
            Condition::VersionIsOrStale(wanted) if version > Some(wanted) => Ok(true),
            _ => Err(Refusal::Version),
        }
    }

    /// Puts a thing in place; `size` faults as the store does.
    fn place(&mut self, key: &'static str, thing: Thing) -> Result<(), Said> {
        if self.over(thing.expiry) {
            self.things.remove(key);
        } else if key.len() + thing.value.len() > ITEM_BYTES_MAX {
            return Err(Said::Fault(Fault::TooLarge));
        } else {
            self.things.insert(key, thing);
        }
        self.writes += 1;
        Ok(())
    }

    fn fresh(value: Vec<u8>, flags: u32, version: Version, expiry: Expiry) -> Thing {
        Thing { value, flags, version, expiry, stale: false, leased: false, hollow: false }
    }

    fn said_item(thing: &Thing, won: bool) -> Said {
        Said::Item {
            thing_value: thing.value.clone(),
            flags: thing.flags,
            version: thing.version,
            expiry: thing.expiry,
            lease: Lease { won, stale: thing.stale, taken: thing.leased && !won },
        }
    }

    /// Does a request; `next` is the version that the engine gave if it chose one.
    fn execute(&mut self, key: &'static str, value: &[u8], verb: Verb, next: Version) -> Said {
        let said = self.decide(key, value, verb, next).unwrap_or_else(|said| said);
        match said {
            Said::Refused(_) | Said::Previous { stored: false, .. } => self.refusals += 1,
            Said::Fault(_) => self.errors += 1,
            _ => {}
        }
        said
    }

    fn decide(&mut self, key: &'static str, value: &[u8], verb: Verb, next: Version) -> Result<Said, Said> {
        self.forget_what_is_over();
        let there = self.things.get(key).cloned();
        let visible = there.clone().filter(|thing| !thing.hollow);
        match verb {
            Verb::Get => match visible {
                Some(thing) => {
                    self.hits += 1;
                    Ok(Self::said_item(&thing, false))
                }
                None => {
                    self.misses += 1;
                    Ok(Said::Miss)
                }
            },
            Verb::Peek => Ok(visible.map_or(Said::Miss, |thing| Self::said_item(&thing, false))),
            Verb::Fetch(fetch) => Ok(self.fetch(key, there, fetch, next)),
            Verb::Put(put) => {
                let before = Said::Previous {
                    existed: visible.is_some(),
                    stored: false,
                    flags: visible.as_ref().map_or(0, |thing| thing.flags),
                    value: visible.as_ref().map_or(vec![], |thing| thing.value.clone()),
                };
                let stale = match Self::allows(put.condition, there.as_ref()) {
                    Ok(stale) => stale,
                    Err(_) if put.previous => return Err(before),
                    Err(why) => return Err(Said::Refused(why)),
                };
                let kept = visible.as_ref().map_or(Expiry::Never, |thing| thing.expiry);
                let expiry = match put.expiry {
                    ExpiryChange::Keep => kept,
                    ExpiryChange::Set(expiry) => expiry,
                };
                let mut thing = Self::fresh(value.to_vec(), put.flags, put.version.unwrap_or(next), expiry);
                if let (true, Some(there)) = (stale, &there) {
                    (thing.stale, thing.leased, thing.expiry) = (true, there.leased, there.expiry);
                }
                self.place(key, thing)?;
                Ok(match before {
                    Said::Previous { existed, flags, value, .. } if put.previous => {
                        Said::Previous { existed, stored: true, flags, value }
                    }
                    _ => Said::Stored { version: put.version, replaced: visible.is_some(), len: value.len() },
                })
            }
            Verb::Splice(splice) => {
                let Some(mut thing) = visible else {
                    let expiry = splice.create.ok_or(Said::Refused(Refusal::Absent))?;
                    self.place(key, Self::fresh(value.to_vec(), splice.flags, next, expiry))?;
                    return Ok(Said::Stored { version: OURS, replaced: false, len: value.len() });
                };
                self.exactly(splice.condition, &thing)?;
                thing.value = match splice.front {
                    true => [value, &thing.value].concat(),
                    false => [&thing.value, value].concat(),
                };
                thing.version = next;
                let len = thing.value.len();
                self.place(key, thing)?;
                Ok(Said::Stored { version: OURS, replaced: true, len })
            }
            Verb::Overwrite { offset } => {
                let replaced = visible.is_some();
                if value.is_empty() {
                    let version = Some(visible.as_ref().map_or(Version::NONE, |thing| thing.version));
                    let len = visible.map_or(0, |thing| thing.value.len());
                    return Ok(Said::Stored { version, replaced, len });
                }
                let mut thing = visible.unwrap_or(Self::fresh(vec![], 0, next, Expiry::Never));
                let offset = offset as usize;
                while thing.value.len() < offset + value.len() {
                    thing.value.push(0);
                }
                thing.value.splice(offset..offset + value.len(), value.iter().copied());
                thing.version = next;
                let len = thing.value.len();
                self.place(key, thing)?;
                Ok(Said::Stored { version: OURS, replaced, len })
            }
            Verb::Count(count) => {
                let signed = matches!(count.by, Step::Signed(_));
                let (number, mut thing) = match visible {
                    // No bytes are no number, whatever version.
                    Some(thing) if !signed && thing.value.is_empty() => {
                        return Err(Said::Fault(Fault::NotInteger));
                    }
                    Some(mut thing) => {
                        self.exactly(count.condition, &thing)?;
                        let text = String::from_utf8_lossy(&thing.value).into_owned();
                        let number = model_step(&text, count.by).map_err(Said::Fault)?;
                        if let ExpiryChange::Set(expiry) = count.expiry {
                            thing.expiry = expiry;
                        }
                        (number, thing)
                    }
                    None if signed => {
                        if count.create.is_none() {
                            Self::allows(count.condition, None).map_err(Said::Refused)?;
                        }
                        let Step::Signed(by) = count.by else { unreachable!("signed") };
                        let expiry = count.create.map_or(Expiry::Never, |(_, expiry)| expiry);
                        (by as u64, Self::fresh(vec![], 0, next, expiry))
                    }
                    None => {
                        let (initial, expiry) = count.create.ok_or(Said::Refused(Refusal::Absent))?;
                        (initial, Self::fresh(vec![], 0, next, expiry))
                    }
                };
                let width = if signed { 0 } else { thing.value.len() };
                let text = if signed { (number as i64).to_string() } else { number.to_string() };
                thing.value = format!("{text:<width$}").into_bytes();
                thing.version = next;
                let said = Said::Counted {
                    number,
                    len: thing.value.len(),
                    expiry: thing.expiry,
                    flags: thing.flags,
                };
                self.place(key, thing)?;
                Ok(said)
            }
            Verb::CountFloat => {
                let mut thing = visible.unwrap_or(Self::fresh(b"0".to_vec(), 0, next, Expiry::Never));
                let number = |text: &[u8]| -> Result<f64, Said> {
                    let text = std::str::from_utf8(text).map_err(|_| Said::Fault(Fault::NotFloat))?;
                    text.parse().map_err(|_| Said::Fault(Fault::NotFloat))
                };
                let sum = number(&thing.value)? + number(value)?;
                thing.value = format!("{sum}").into_bytes();
                thing.version = next;
                let said = Self::said_item(&thing, false);
                self.place(key, thing)?;
                Ok(said)
            }
            Verb::Remove(remove) => {
                let Some(mut thing) = there else { return Ok(Said::Miss) };
                self.exactly(remove.condition, &thing)?;
                if let (true, ExpiryChange::Set(expiry)) = (remove.stale || remove.clear, remove.expiry) {
                    thing.expiry = expiry;
                }
                self.removals += 1;
                if self.over(thing.expiry) || (!remove.stale && !remove.clear) {
                    self.things.remove(key);
                    return Ok(Said::Removed { version: Some(thing.version) });
                }
                (thing.version, thing.stale, thing.leased) = (next, remove.stale, false);
                if remove.clear {
                    (thing.value, thing.flags) = (vec![], 0);
                }
                self.things.insert(key, thing);
                Ok(Said::Removed { version: OURS })
            }
            Verb::Expire(expire) => {
                let Some(mut thing) = visible else { return Ok(Said::Miss) };
                let number = |expiry| match expiry {
                    Expiry::Never => u64::MAX,
                    Expiry::At(at) => at.0,
                };
                let some = thing.expiry != Expiry::Never;
                let (old, new) = (number(thing.expiry), number(expire.expiry));
                let holds = match expire.only {
                    ExpireOnly::Any => true,
                    ExpireOnly::IfNone => !some,
                    ExpireOnly::IfSome => some,
                    ExpireOnly::IfLater => new > old,
                    ExpireOnly::IfEarlier => new < old,
                    ExpireOnly::IfSomeAndLater => some && new > old,
                    ExpireOnly::IfSomeAndEarlier => some && new < old,
                };
                if !holds {
                    return Err(Said::Refused(Refusal::Expiry));
                }
                if self.over(expire.expiry) {
                    self.removals += 1;
                    self.things.remove(key);
                } else {
                    thing.expiry = expire.expiry;
                    self.things.insert(key, thing);
                }
                Ok(Said::Touched { expiry: expire.expiry })
            }
            Verb::Flush { at } => {
                let now = at <= self.now.mono;
                let count = self.things.len() as i64;
                if now {
                    self.things.clear();
                }
                self.flush_at = (!now).then_some(at);
                Ok(Said::Number(if now { count } else { 0 }))
            }
            Verb::Size => Ok(Said::Number(self.things.len() as i64)),
            Verb::SlotSize { slot } => {
                let inside = |key: &&&str| crate::hash::slot_of(key.as_bytes()).number() == slot;
                Ok(Said::Number(self.things.keys().filter(inside).count() as i64))
            }
            other => panic!("the model does not do {other:?}"),
        }
    }

    /// A condition of a verb that cannot store stale.
    fn exactly(&self, only: Condition, thing: &Thing) -> Result<(), Said> {
        match Self::allows(only, Some(thing)) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Said::Refused(Refusal::Version)),
            Err(why) => Err(Said::Refused(why)),
        }
    }

    fn fetch(&mut self, key: &'static str, there: Option<Thing>, fetch: Fetch, next: Version) -> Said {
        let lease = fetch.lease || fetch.vivify.is_some() || fetch.refill_before.is_some();
        let Some(mut thing) = there else {
            self.misses += 1;
            let Some(expiry) = fetch.vivify else { return Said::Miss };
            let thing = Thing {
                leased: true,
                hollow: true,
                ..Self::fresh(vec![], 0, fetch.version.unwrap_or(next), expiry)
            };
            let said = Self::said_item(&thing, true);
            if !self.over(expiry) {
                self.things.insert(key, thing);
            }
            return said;
        };
        if thing.hollow {
            self.misses += 1;
            if !lease {
                if fetch.remove {
                    self.things.remove(key);
                }
                return Said::Miss;
            }
        } else {
            self.hits += 1;
        }
        let soon =
            matches!((thing.expiry, fetch.refill_before), (Expiry::At(at), Some(before)) if at < before);
        let won = lease && !thing.leased && (thing.stale || soon);
        thing.leased |= won;
        if let ExpiryChange::Set(expiry) = fetch.expiry {
            thing.expiry = expiry;
        }
        let said = Self::said_item(&thing, won);
        if fetch.remove || self.over(thing.expiry) {
            self.removals += 1;
            self.things.remove(key);
        } else {
            self.things.insert(key, thing);
        }
        said
    }
}

fn model_step(text: &str, by: Step) -> Result<u64, Fault> {
    match by {
        Step::Signed(by) => {
            let old: i64 = text.parse().map_err(|_| Fault::NotInteger)?;
            if old.to_string() != text {
                return Err(Fault::NotInteger);
            }
            old.checked_add(by).map(|sum| sum as u64).ok_or(Fault::Overflow)
        }
        Step::Up(_) | Step::Down(_) => {
            // White space and a NUL end the number, whatever comes behind.
            let text = text.split([' ', '\0']).next().unwrap_or_default();
            let number: i128 = text.parse().map_err(|_| Fault::NotInteger)?;
            // Negative ones wrap as in C, and only what wraps to less than 2^63 is taken.
            let old = match number < 0 {
                true => u64::try_from(number + (1 << 64)).ok().filter(|wrapped| *wrapped < 1 << 63),
                false => u64::try_from(number).ok(),
            };
            let old = old.ok_or(Fault::NotInteger)?;
            Ok(match by {
                Step::Up(by) => old.wrapping_add(by),
                Step::Down(by) => old.saturating_sub(by),
                Step::Signed(_) => unreachable!("above"),
            })
        }
    }
}

/// Makes the request that a deed means at this moment.
fn verb_of(deed: &Deed, key: &str, model: &Model) -> Verb {
    let now = model.now.mono;
    let at = |when: When| match when {
        When::Never => Expiry::Never,
        When::Past => Expiry::At(now),
        When::InSeconds(seconds) => Expiry::At(now.plus_millis(seconds * 1000)),
    };
    let change = |when: Change| match when {
        Change::Keep => ExpiryChange::Keep,
        Change::Set(when) => ExpiryChange::Set(at(when)),
    };
    let current = model.things.get(key).map_or(Version(40), |thing| thing.version);
    let version = |pick| match pick {
        Pick::Current => current,
        Pick::Older => Version(current.0.saturating_sub(1)),
        Pick::Newer => Version(current.0 + 3),
    };
    let condition = |only| match only {
        Only::Always => Condition::Always,
        Only::Absent => Condition::Absent,
        Only::Present => Condition::Present,
        Only::Version(pick) => Condition::VersionIs(version(pick)),
        Only::VersionOrStale(pick) => Condition::VersionIsOrStale(version(pick)),
    };
    match *deed {
        Deed::Get => Verb::Get,
        Deed::Peek => Verb::Peek,
        Deed::Fetch { expiry, remove, lease, vivify, refill, given } => Verb::Fetch(Fetch {
            expiry: change(expiry),
            remove,
            warm: true,
            vivify: vivify.map(at),
            refill_before: refill.map(|seconds| now.plus_millis(seconds * 1000)),
            lease,
            version: given.then(|| Version(model.newest.0 + 5)),
        }),
        Deed::Put { flags, expiry, only, previous, given } => Verb::Put(Put {
            flags,
            expiry: change(expiry),
            condition: condition(only),
            previous,
            version: given.map(version),
            binary_key: false,
            stale: false,
        }),
        Deed::Splice { front, create, only } => Verb::Splice(Splice {
            front,
            create: create.map(at),
            flags: 2,
            condition: condition(only),
            version: None,
            binary_key: false,
        }),
        Deed::Overwrite { offset } => Verb::Overwrite { offset },
        Deed::Count { by, create, only, expiry } => Verb::Count(Count {
            by,
            create: create.map(|(initial, when)| (initial, at(when))),
            condition: condition(only),
            expiry: change(expiry),
            version: None,
        }),
        Deed::CountFloat => Verb::CountFloat,
        Deed::Remove { only, stale, clear, expiry } => Verb::Remove(Remove {
            condition: condition(only),
            stale,
            expiry: change(expiry),
            clear,
            version: None,
        }),
        Deed::Expire { expiry, only } => Verb::Expire(Expire { expiry: at(expiry), only }),
        Deed::Size => Verb::Size,
        Deed::SlotSize => Verb::SlotSize { slot: crate::hash::slot_of(key.as_bytes()).number() },
        Deed::Flush { in_seconds } => Verb::Flush { at: now.plus_millis(in_seconds * 1000) },
        Deed::Random => Verb::Random,
        Deed::Scan | Deed::Pass { .. } | Deed::Tick => Verb::Scan(Scan { cursor: 0, count: 3, slot: None }),
    }
}

/// The outcome in the model's words, and the version in it.
fn said_by(outcome: &Outcome<'_>) -> (Said, Option<Version>) {
    let value = outcome.value.bytes().to_vec();
    match outcome.answer {
        Answer::Item(item) => {
            assert_eq!(item.len as usize, value.len());
            let Item { flags, version, expiry, lease, .. } = item;
            (Said::Item { thing_value: value, flags, version, expiry, lease }, Some(version))
        }
        Answer::Miss => (Said::Miss, None),
        Answer::Stored { version, replaced, len } => {
            (Said::Stored { version: Some(version), replaced, len: len as usize }, Some(version))
        }
        Answer::Refused(why) => (Said::Refused(why), None),
        Answer::Previous { existed, stored, flags } => {
            (Said::Previous { existed, stored, flags, value }, None)
        }
        Answer::Counted { number, item } => {
            let Item { len, expiry, flags, version, .. } = item;
            (Said::Counted { number, len: len as usize, expiry, flags }, Some(version))
        }
        Answer::Removed { version } => (Said::Removed { version: Some(version) }, Some(version)),
        Answer::Touched(item) => (Said::Touched { expiry: item.expiry }, None),
        Answer::Number(number) => (Said::Number(number), None),
        Answer::Fault(why) => (Said::Fault(why), None),
        Answer::Page { .. } => panic!("pages are read elsewhere"),
    }
}

/// The model's word with the engine's version where the engine chose it.
fn with_version(said: Said, version: Option<Version>) -> Said {
    match said {
        Said::Stored { version: None, replaced, len } => Said::Stored { version, replaced, len },
        Said::Removed { version: None } => Said::Removed { version },
        said => said,
    }
}

fn page_keys(page: &[u8]) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = page;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        keys.push(String::from_utf8(key.to_vec()).expect("keys of this test are text"));
        rest = tail;
    }
    keys
}

fn run(steps: &[Doing]) {
    let store =
        store::Options { memory_bytes_max: 64 << 20, item_bytes_max: ITEM_BYTES_MAX, hash_secret: [3, 4] };
    let mut engine = Engine::new(Options { store, seed: 1 });
    let mut model = Model {
        things: HashMap::new(),
        now: Now { mono: Mono(5_000_000_000_000), wall: Wall(1_700_000_000_000) },
        flush_at: None,
        newest: Version::NONE,
        hits: 0,
        misses: 0,
        writes: 0,
        removals: 0,
        refusals: 0,
        errors: 0,
    };
    for Doing { key, value, deed } in steps {
        let (key, value) = (KEYS[*key], VALUES[*value].as_bytes());
        match deed {
            Deed::Pass { millis } => {
                model.now.mono = model.now.mono.plus_millis(*millis);
                model.now.wall.0 += millis;
                continue;
            }
            Deed::Tick => {
                let next = engine.tick(model.now);
                assert!(next > model.now.mono);
                continue;
            }
            Deed::Scan => {
                model.forget_what_is_over();
                let mut seen = BTreeSet::new();
                let mut cursor = 0;
                loop {
                    let verb = Verb::Scan(Scan { cursor, count: 2, slot: None });
                    let outcome = engine.execute(model.now, &Request { key: b"", value: b"", verb });
                    seen.extend(page_keys(outcome.value.bytes()));
                    let Answer::Page { cursor: next } = outcome.answer else {
                        panic!("{:?}", outcome.answer)
                    };
                    cursor = next;
                    if cursor == 0 {
                        break;
                    }
                }
                let expected: BTreeSet<String> = model.items().map(str::to_owned).collect();
                assert_eq!(seen, expected);
                continue;
            }
            Deed::Random => {
                model.forget_what_is_over();
                let outcome =
                    engine.execute(model.now, &Request { key: b"", value: b"", verb: Verb::Random });
                let keys = page_keys(outcome.value.bytes());
                assert_eq!(keys.len(), usize::from(model.items().count() > 0));
                assert!(keys.iter().all(|key| model.items().any(|item| item == key)));
                continue;
            }
            // The model adds in 53 bits, which is exact for small halves.
            Deed::CountFloat => {
                let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
                let inexact = |number: f64| number.abs() > 1e9 || (number * 2.0).fract() != 0.0;
                let old = model.things.get(key).and_then(|thing| number(&thing.value));
                if [old, number(value)].into_iter().flatten().any(inexact) {
                    continue;
                }
            }
            // Counts and flushes include what is over until it is noticed; so it is noticed first.
            Deed::Size | Deed::SlotSize | Deed::Flush { .. } => {
                for key in KEYS {
                    engine.look(model.now.mono, engine.store.probe(key.as_bytes()), key.as_bytes(), false);
                }
            }
            _ => {}
        }
        model.forget_what_is_over();
        let verb = verb_of(deed, key, &model);
        let before = model.things.get(key).map(|thing| thing.version);
        let given = match verb {
            Verb::Put(put) => put.version,
            Verb::Fetch(fetch) => fetch.version,
            _ => None,
        };
        let newest = model.newest;
        let (actual, answered) =
            said_by(&engine.execute(model.now, &Request { key: key.as_bytes(), value, verb }));
        // An answer that shows no version hides the engine's choice; it is then read from the item.
        let shown = match answered {
            Some(version) => Some(version),
            None => {
                let looked =
                    engine.look(model.now.mono, engine.store.probe(key.as_bytes()), key.as_bytes(), false);
                looked.map(|held| held.version)
            }
        };
        let expected = model.execute(key, value, verb, shown.unwrap_or(newest));
        assert_eq!(actual, with_version(expected, answered), "{verb:?} on {key} with {value:?}");
        let after = engine.look(model.now.mono, engine.store.probe(key.as_bytes()), key.as_bytes(), false);
        assert_eq!(after.map(|held| held.version), model.things.get(key).map(|thing| thing.version));
        if let (Some(shown), None) = (shown, given)
            && before != Some(shown)
            && shown != Version::NONE
        {
            assert!(shown > newest, "{shown:?} is not newer than {newest:?}");
        }
        model.newest = newest.max(shown.unwrap_or(newest));
        let counters = &engine.counters;
        assert_eq!(
            (counters.hits_total, counters.misses_total, counters.writes_total),
            (model.hits, model.misses, model.writes)
        );
        assert_eq!(
            (counters.removals_total, counters.refusals_total, counters.faults_total),
            (model.removals, model.refusals, model.errors)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_the_model_says(steps in proptest::collection::vec(doing(), 1..200)) {
        run(&steps);
    }
}
