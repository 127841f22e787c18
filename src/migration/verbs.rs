//! Requests and outcomes as they travel when a shard has just moved: those of the source's clients, done by the destination.
//!
//! Moments travel as milliseconds since 1970, since each node's own clock begins at its start. Only verbs of one key travel; the
//! others are asked for again by their clients.

use super::bytes::{Malformed, Put as _, Reader};
use crate::clock::{Mono, Now};
use crate::ids::Version;
use crate::request::{
    Answer, Condition, Count, Expire, ExpireOnly, Expiry, ExpiryChange, Fault, Fetch, Item, Lease, Outcome,
    Put, Refusal, Remove, Request, Splice, Step, Value, Verb,
};
use crate::store::{ends_at, expiry_of};

/// What the wall clock is ahead of the other one, in milliseconds.
pub fn ahead_millis(now: Now) -> u64 {
    now.wall.0.saturating_sub(now.mono.0 / Mono::NANOS_PER_MILLI)
}

/// Whether a request changes nothing but how warm an item is.
pub fn only_reads(verb: &Verb) -> bool {
    matches!(verb, Verb::Get | Verb::Peek | Verb::Look)
}

/// Whether a request can be done elsewhere for its client.
pub fn travels(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Get
            | Verb::Peek
            | Verb::Look
            | Verb::Fetch(_)
            | Verb::Put(_)
            | Verb::Splice(_)
            | Verb::Overwrite { .. }
            | Verb::Count(_)
            | Verb::CountFloat
            | Verb::Remove(_)
            | Verb::Expire(_)
    )
}

/// A writer or reader of what refers to a clock.
struct Clocked<T> {
    inner: T,
    ahead: u64,
}

/// Appends a request that [`travels`].
pub fn write_request(request: &Request<'_>, ahead: u64, out: &mut Vec<u8>) {
    out.put_counted(request.key);
    out.put_counted(request.value);
    let mut to = Clocked { inner: out, ahead };
    match request.verb {
        Verb::Get => to.inner.put_u8(0),
        Verb::Peek => to.inner.put_u8(1),
        Verb::Look => to.inner.put_u8(2),
        Verb::Fetch(Fetch { expiry, remove, warm, vivify, refill_before, lease, version }) => {
            to.inner.put_u8(3);
            to.change(expiry);
            to.bits([remove, warm, lease]);
            to.option(vivify.map(|expiry| ends_at(expiry, ahead)));
            to.option(refill_before.map(|at| ends_at(Expiry::At(at), ahead)));
            to.option(version.map(|version| version.0));
        }
        Verb::Put(Put { flags, expiry, condition, previous, version, binary_key, stale }) => {
            to.inner.put_u8(4);
            to.inner.put_u32(flags);
            to.change(expiry);
            to.condition(condition);
            to.bits([previous, binary_key, stale]);
            to.option(version.map(|version| version.0));
        }
        Verb::Splice(Splice { front, create, flags, condition, version, binary_key }) => {
            to.inner.put_u8(5);
            to.bits([front, binary_key, false]);
            to.option(create.map(|expiry| ends_at(expiry, ahead)));
            to.inner.put_u32(flags);
            to.condition(condition);
            to.option(version.map(|version| version.0));
        }
        Verb::Overwrite { offset } => {
            to.inner.put_u8(6);
            to.inner.put_u32(offset);
        }
        Verb::Count(Count { by, create, condition, expiry, version }) => {
            to.inner.put_u8(7);
            let (kind, number) = match by {
                Step::Signed(number) => (0, number as u64),
                Step::Up(number) => (1, number),
                Step::Down(number) => (2, number),
            };
            to.inner.put_u8(kind);
            to.inner.put_u64(number);
            to.option(create.map(|(number, _)| number));
            to.inner.put_u64(create.map_or(u64::MAX, |(_, expiry)| ends_at(expiry, ahead)));
            to.condition(condition);
            to.change(expiry);
            to.option(version.map(|version| version.0));
        }
        Verb::CountFloat => to.inner.put_u8(8),
        Verb::Remove(Remove { condition, stale, expiry, clear, version }) => {
            to.inner.put_u8(9);
            to.condition(condition);
            to.bits([stale, clear, false]);
            to.change(expiry);
            to.option(version.map(|version| version.0));
        }
        Verb::Expire(Expire { expiry, only }) => {
            to.inner.put_u8(10);
            to.inner.put_u64(ends_at(expiry, ahead));
            to.inner.put_u8(place(&ONLY, only));
        }
        _ => unreachable!("only verbs that travel are written"),
    }
}

/// Reads what [`write_request`] wrote.
///
/// # Errors
/// For anything else.
pub fn read_request(bytes: &[u8], ahead: u64) -> Result<Request<'_>, Malformed> {
    let mut inner = Reader(bytes);
    let (key, value) = (inner.counted()?, inner.counted()?);
    let mut from = Clocked { inner, ahead };
    let verb = match from.inner.u8()? {
        0 => Verb::Get,
        1 => Verb::Peek,
        2 => Verb::Look,
        3 => {
            let expiry = from.read_change()?;
            let [remove, warm, lease] = from.read_bits()?;
            let vivify = from.read_option()?.map(|ends| expiry_of(ends, ahead));
            let refill_before = match from.read_option()?.map(|ends| expiry_of(ends, ahead)) {
                Some(Expiry::At(at)) => Some(at),
                Some(Expiry::Never) => return Err(Malformed),
                None => None,
            };
            let version = from.read_version()?;
            Verb::Fetch(Fetch { expiry, remove, warm, vivify, refill_before, lease, version })
        }
        4 => {
            let (flags, expiry) = (from.inner.u32()?, from.read_change()?);
            let (condition, [previous, binary_key, stale]) = (from.read_condition()?, from.read_bits()?);
            let version = from.read_version()?;
            Verb::Put(Put { flags, expiry, condition, previous, version, binary_key, stale })
        }
        5 => {
            let [front, binary_key, _] = from.read_bits()?;
            let create = from.read_option()?.map(|ends| expiry_of(ends, ahead));
            let (flags, condition) = (from.inner.u32()?, from.read_condition()?);
            let version = from.read_version()?;
            Verb::Splice(Splice { front, create, flags, condition, version, binary_key })
        }
        6 => Verb::Overwrite { offset: from.inner.u32()? },
        7 => {
            let (kind, number) = (from.inner.u8()?, from.inner.u64()?);
            let by = match kind {
                0 => Step::Signed(number as i64),
                1 => Step::Up(number),
                2 => Step::Down(number),
                _ => return Err(Malformed),
            };
            let (first, ends) = (from.read_option()?, from.inner.u64()?);
            let create = first.map(|number| (number, expiry_of(ends, ahead)));
            let (condition, expiry) = (from.read_condition()?, from.read_change()?);
            Verb::Count(Count { by, create, condition, expiry, version: from.read_version()? })
        }
        8 => Verb::CountFloat,
        9 => {
            let (condition, [stale, clear, _]) = (from.read_condition()?, from.read_bits()?);
            let expiry = from.read_change()?;
            Verb::Remove(Remove { condition, stale, expiry, clear, version: from.read_version()? })
        }
        10 => {
            let expiry = expiry_of(from.inner.u64()?, ahead);
            Verb::Expire(Expire { expiry, only: at(&ONLY, from.inner.u8()?)? })
        }
        _ => return Err(Malformed),
    };
    from.inner.end()?;
    Ok(Request { key, value, verb })
}

const ONLY: [ExpireOnly; 7] = [
    ExpireOnly::Any,
    ExpireOnly::IfNone,
    ExpireOnly::IfSome,
    ExpireOnly::IfLater,
    ExpireOnly::IfEarlier,
    ExpireOnly::IfSomeAndLater,
    ExpireOnly::IfSomeAndEarlier,
];
const REFUSALS: [Refusal; 4] = [Refusal::Present, Refusal::Absent, Refusal::Version, Refusal::Expiry];
const FAULTS: [Fault; 10] = [
    Fault::NotInteger,
    Fault::NotFloat,
    Fault::Overflow,
    Fault::NotFinite,
    Fault::TooLarge,
    Fault::OutOfMemory,
    Fault::Busy,
    Fault::Unsupported,
    Fault::Origin,
    Fault::Away,
];

fn place<T: PartialEq>(list: &[T], wanted: T) -> u8 {
    list.iter().position(|one| *one == wanted).expect("the list has all") as u8
}

fn at<T: Copy>(list: &[T], place: u8) -> Result<T, Malformed> {
    list.get(usize::from(place)).copied().ok_or(Malformed)
}

/// Appends an outcome.
pub fn write_outcome(outcome: &Outcome<'_>, ahead: u64, out: &mut Vec<u8>) {
    let mut to = Clocked { inner: out, ahead };
    match outcome.answer {
        Answer::Item(item) => to.item(0, item),
        Answer::Miss => to.inner.put_u8(1),
        Answer::Stored { version, replaced, len } => {
            to.inner.put_u8(2);
            to.inner.put_u64(version.0);
            to.bits([replaced, false, false]);
            to.inner.put_u32(len);
        }
        Answer::Refused(why) => {
            to.inner.put_u8(3);
            to.inner.put_u8(place(&REFUSALS, why));
        }
        Answer::Previous { existed, stored, flags } => {
            to.inner.put_u8(4);
            to.bits([existed, stored, false]);
            to.inner.put_u32(flags);
        }
        Answer::Counted { number, item } => {
            to.item(5, item);
            to.inner.put_u64(number);
        }
        Answer::Removed { version } => {
            to.inner.put_u8(6);
            to.inner.put_u64(version.0);
        }
        Answer::Touched(item) => to.item(7, item),
        Answer::Number(number) => {
            to.inner.put_u8(8);
            to.inner.put_u64(number as u64);
        }
        Answer::Page { cursor } => {
            to.inner.put_u8(9);
            to.inner.put_u64(cursor);
        }
        Answer::Fault(fault) => {
            to.inner.put_u8(10);
            to.inner.put_u8(place(&FAULTS, fault));
        }
    }
    let value = outcome.value.bytes();
    to.inner.put_counted(value);
}

/// Reads what [`write_outcome`] wrote.
///
/// # Errors
/// For anything else.
pub fn read_outcome(bytes: &[u8], ahead: u64) -> Result<Outcome<'_>, Malformed> {
    let mut from = Clocked { inner: Reader(bytes), ahead };
    let answer = match from.inner.u8()? {
        0 => Answer::Item(from.read_item()?),
        1 => Answer::Miss,
        2 => {
            let version = Version(from.inner.u64()?);
            let [replaced, _, _] = from.read_bits()?;
            Answer::Stored { version, replaced, len: from.inner.u32()? }
        }
        3 => Answer::Refused(at(&REFUSALS, from.inner.u8()?)?),
        4 => {
            let [existed, stored, _] = from.read_bits()?;
            Answer::Previous { existed, stored, flags: from.inner.u32()? }
        }
        5 => {
            let item = from.read_item()?;
            Answer::Counted { number: from.inner.u64()?, item }
        }
        6 => Answer::Removed { version: Version(from.inner.u64()?) },
        7 => Answer::Touched(from.read_item()?),
        8 => Answer::Number(from.inner.u64()? as i64),
        9 => Answer::Page { cursor: from.inner.u64()? },
        10 => Answer::Fault(at(&FAULTS, from.inner.u8()?)?),
        _ => return Err(Malformed),
    };
    let value = Value::One(from.inner.counted()?);
    from.inner.end()?;
    Ok(Outcome { answer, value })
}

impl Clocked<&mut Vec<u8>> {
    fn bits(&mut self, bits: [bool; 3]) {
        self.inner.put_u8(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    }

    fn option(&mut self, number: Option<u64>) {
        self.inner.put_u8(number.is_some().into());
        self.inner.put_u64(number.unwrap_or(0));
    }

    fn change(&mut self, change: ExpiryChange) {
        let ends = match change {
            ExpiryChange::Keep => None,
            ExpiryChange::Set(expiry) => Some(ends_at(expiry, self.ahead)),
        };
        self.option(ends);
    }

    fn condition(&mut self, condition: Condition) {
        let (kind, version) = match condition {
            Condition::Always => (0, Version::NONE),
            Condition::Absent => (1, Version::NONE),
            Condition::Present => (2, Version::NONE),
            Condition::VersionIs(version) => (3, version),
            Condition::VersionIsOrStale(version) => (4, version),
            Condition::Held => (5, Version::NONE),
        };
        self.inner.put_u8(kind);
        self.inner.put_u64(version.0);
    }

    fn item(&mut self, kind: u8, item: Item) {
        let Item { flags, len, version, expiry, lease, used, idle_seconds, binary_key } = item;
        self.inner.put_u8(kind);
        [flags, len, idle_seconds].into_iter().for_each(|number| self.inner.put_u32(number));
        self.inner.put_u64(version.0);
        self.inner.put_u64(ends_at(expiry, self.ahead));
        self.bits([lease.won, lease.stale, lease.taken]);
        self.bits([used, binary_key, false]);
    }
}

impl Clocked<Reader<'_>> {
    fn read_bits(&mut self) -> Result<[bool; 3], Malformed> {
        match self.inner.u8()? {
            bits if bits < 8 => Ok([bits & 1 != 0, bits & 2 != 0, bits & 4 != 0]),
            _ => Err(Malformed),
        }
    }

    fn read_option(&mut self) -> Result<Option<u64>, Malformed> {
        let (is_some, number) = (self.inner.bool()?, self.inner.u64()?);
        Ok(is_some.then_some(number))
    }

    fn read_version(&mut self) -> Result<Option<Version>, Malformed> {
        Ok(self.read_option()?.map(Version))
    }

    fn read_change(&mut self) -> Result<ExpiryChange, Malformed> {
        let ends = self.read_option()?;
        Ok(ends.map_or(ExpiryChange::Keep, |ends| ExpiryChange::Set(expiry_of(ends, self.ahead))))
    }

    fn read_condition(&mut self) -> Result<Condition, Malformed> {
        let (kind, version) = (self.inner.u8()?, Version(self.inner.u64()?));
        Ok(match kind {
            0 => Condition::Always,
            1 => Condition::Absent,
            2 => Condition::Present,
            3 => Condition::VersionIs(version),
            4 => Condition::VersionIsOrStale(version),
            5 => Condition::Held,
            _ => return Err(Malformed),
        })
    }

    fn read_item(&mut self) -> Result<Item, Malformed> {
        let (flags, len, idle_seconds) = (self.inner.u32()?, self.inner.u32()?, self.inner.u32()?);
        let (version, expiry) = (Version(self.inner.u64()?), expiry_of(self.inner.u64()?, self.ahead));
        let [won, stale, taken] = self.read_bits()?;
        let [used, binary_key, _] = self.read_bits()?;
        let lease = Lease { won, stale, taken };
        Ok(Item { flags, len, version, expiry, lease, used, idle_seconds, binary_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sender's clock is so much ahead of its wall clock, and the receiver's.
    const HERE: u64 = 1_700_000_000_000;
    const THERE: u64 = 1_700_000_040_000;

    fn at_millis(millis: u64) -> Expiry {
        Expiry::At(Mono(0).plus_millis(millis))
    }

    /// All verbs that travel, with moments so many milliseconds ahead of the clock's beginning.
    fn verbs(millis: u64) -> Vec<Verb> {
        let (expiry, version) = (at_millis(millis), Some(Version(77)));
        let (set, condition) = (ExpiryChange::Set(expiry), Condition::VersionIsOrStale(Version(3)));
        let Expiry::At(moment) = expiry else { unreachable!("just made") };
        let fetch = Fetch {
            expiry: set,
            remove: true,
            warm: false,
            vivify: Some(Expiry::Never),
            refill_before: Some(moment),
            lease: true,
            version,
        };
        let put =
            Put { flags: 9, expiry: set, condition, previous: true, version, binary_key: true, stale: true };
        let splice =
            Splice { front: true, create: Some(expiry), flags: 5, condition, version, binary_key: false };
        let count = Count {
            by: Step::Signed(-4),
            create: Some((6, expiry)),
            condition: Condition::Always,
            expiry: ExpiryChange::Keep,
            version: None,
        };
        let remove = Remove { condition, stale: true, expiry: set, clear: false, version };
        let mut verbs = vec![
            Verb::Get,
            Verb::Peek,
            Verb::Look,
            Verb::Fetch(Fetch::PLAIN),
            Verb::Fetch(fetch),
            Verb::Put(Put::plain(Expiry::Never)),
            Verb::Put(put),
            Verb::Splice(splice),
            Verb::Overwrite { offset: 7 },
            Verb::Count(count),
            Verb::Count(Count { by: Step::Up(1), create: None, ..count }),
            Verb::Count(Count { by: Step::Down(u64::MAX), ..count }),
            Verb::CountFloat,
            Verb::Remove(Remove::PLAIN),
            Verb::Remove(remove),
        ];
        verbs.extend(ONLY.map(|only| Verb::Expire(Expire { expiry, only })));
        let conditions = [Condition::Absent, Condition::Present, Condition::VersionIs(Version(1))];
        verbs.extend(conditions.map(|condition| Verb::Put(Put { condition, ..put })));
        verbs
    }

    #[test]
    fn requests_come_back_in_the_receivers_time() {
        // The receiver's clock began 40 s later, so that the same moment has a smaller number.
        for (sent, expected) in verbs(100_000).into_iter().zip(verbs(60_000)) {
            assert!(travels(&sent));
            let mut bytes = Vec::new();
            write_request(&Request { key: b"key", value: b"value", verb: sent }, HERE, &mut bytes);
            let read = read_request(&bytes, THERE).expect("well formed");
            assert_eq!((read.key, read.value, read.verb), (&b"key"[..], &b"value"[..], expected));
            for len in 0..bytes.len() {
                assert!(read_request(&bytes[..len], THERE).is_err(), "{sent:?} cut to {len}");
            }
            bytes.push(0);
            assert!(read_request(&bytes, THERE).is_err(), "{sent:?} with a byte more");
        }
        assert!(!travels(&Verb::Size) && !travels(&Verb::Unguard));
    }

    #[test]
    fn outcomes_come_back_in_the_receivers_time() {
        let item = |millis| Item {
            flags: 1,
            len: 2,
            version: Version(3),
            expiry: at_millis(millis),
            lease: Lease { won: true, stale: false, taken: true },
            used: true,
            idle_seconds: 4,
            binary_key: false,
        };
        let answers = |millis| {
            let mut answers = vec![
                Answer::Item(item(millis)),
                Answer::Item(Item { expiry: Expiry::Never, ..item(millis) }),
                Answer::Miss,
                Answer::Stored { version: Version(1), replaced: true, len: 2 },
                Answer::Previous { existed: true, stored: false, flags: 3 },
                Answer::Counted { number: 5, item: item(millis) },
                Answer::Removed { version: Version(8) },
                Answer::Touched(item(millis)),
                Answer::Number(-1),
                Answer::Page { cursor: 4 },
            ];
            answers.extend(REFUSALS.map(Answer::Refused));
            answers.extend(FAULTS.map(Answer::Fault));
            answers
        };
        for (sent, expected) in answers(100_000).into_iter().zip(answers(60_000)) {
            let mut bytes = Vec::new();
            write_outcome(&Outcome { answer: sent, value: Value::One(b"value") }, HERE, &mut bytes);
            let read = read_outcome(&bytes, THERE).expect("well formed");
            assert_eq!((read.answer, read.value.bytes()), (expected, &b"value"[..]));
            for len in 0..bytes.len() {
                assert!(read_outcome(&bytes[..len], THERE).is_err(), "{sent:?} cut to {len}");
            }
        }
    }
}
