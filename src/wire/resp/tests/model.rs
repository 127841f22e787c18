//! A map per core behind the [`Backend`] door, which answers at once or later.

use super::*;

/// What cores used together at most.
pub(super) const USED_PEAK: u64 = 9 << 20;

pub(super) struct ModelItem {
    value: Vec<u8>,
    version: Version,
    expiry: Expiry,
    stale: bool,
}

#[derive(Default)]
pub(super) struct Store {
    pub items: BTreeMap<Vec<u8>, ModelItem>,
    sequence: u64,
    pub room: Option<usize>,
}

impl Store {
    fn item(item: &ModelItem) -> Item {
        Item {
            flags: 0,
            len: item.value.len() as u32,
            version: item.version,
            expiry: item.expiry,
            lease: Lease { stale: item.stale, ..Lease::default() },
            used: false,
            idle_seconds: 7,
            binary_key: false,
        }
    }

    /// Whether a target is in the way; a source that is not there goes first.
    fn transfer_is_refused(&self, key: &[u8], value: &[u8], verb: Verb) -> bool {
        match verb {
            Verb::Transfer(transfer) => {
                !transfer.replace && self.items.contains_key(key) && self.items.contains_key(value)
            }
            _ => reply::keys(value).step_by(2).any(|key| self.items.contains_key(key)),
        }
    }

    pub fn execute(&mut self, now: Now, key: &[u8], value: &[u8], verb: Verb) -> (Answer, Vec<u8>) {
        self.items.retain(|_, item| match item.expiry {
            Expiry::Never => true,
            Expiry::At(at) => at > now.mono,
        });
        let none = Vec::new;
        let found = self.items.get(key);
        let refused = |condition: Condition| match (condition, found) {
            (Condition::Absent, Some(_)) => Some(Refusal::Present),
            (Condition::Present | Condition::VersionIs(_), None) => Some(Refusal::Absent),
            (Condition::VersionIs(version), Some(item)) if item.version != version => Some(Refusal::Version),
            _ => None,
        };
        let changed = |change: ExpiryChange| match (change, found) {
            (ExpiryChange::Set(expiry), _) => expiry,
            (ExpiryChange::Keep, Some(item)) => item.expiry,
            (ExpiryChange::Keep, None) => Expiry::Never,
        };
        let mut write = None;
        let (answer, bytes) = match verb {
            Verb::Look => match found {
                Some(item) => (Answer::Item(Self::item(item)), none()),
                None => (Answer::Miss, none()),
            },
            Verb::Unguard
            | Verb::Observe(..)
            | Verb::Unobserve(_)
            | Verb::Track(_)
            | Verb::Own(_)
            | Verb::Notify { .. }
            | Verb::Monitor { .. }
            | Verb::Watch { .. }
            | Verb::Journal(_)
            | Verb::SetUser
            | Verb::Configure { .. }
            | Verb::Shard(_)
            | Verb::Pass(_) => (Answer::Number(0), none()),
            Verb::Guard => {
                let mut rest = value;
                let mut same = true;
                while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                    let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
                    let (seen, tail) = tail.split_at(16);
                    rest = tail;
                    let is = match self.items.get(key) {
                        Some(item) => [item.version.0, item.expiry.to_number()],
                        None => [0, u64::MAX],
                    };
                    same &= seen == is.map(u64::to_le_bytes).concat();
                }
                (if same { Answer::Number(0) } else { Answer::Refused(Refusal::Version) }, none())
            }
            Verb::Transfer(_) | Verb::PutAllAbsent if self.transfer_is_refused(key, value, verb) => {
                (Answer::Refused(Refusal::Present), none())
            }
            Verb::Transfer(transfer) => match self.items.get(key) {
                None => (Answer::Miss, none()),
                Some(item) => {
                    let (item, version) =
                        (ModelItem { value: item.value.clone(), ..*item }, Version(self.sequence + 1));
                    let len = item.value.len() as u32;
                    if key != value {
                        if !transfer.keep {
                            self.items.remove(key);
                        }
                        self.sequence += 1;
                        self.items.insert(value.to_vec(), ModelItem { version, ..item });
                    }
                    (Answer::Stored { version, replaced: false, len }, none())
                }
            },
            Verb::PutAllAbsent => {
                let parts: Vec<&[u8]> = reply::keys(value).collect();
                for pair in parts.chunks(2) {
                    self.sequence += 1;
                    let version = Version(self.sequence);
                    let (value, expiry) = (pair[1].to_vec(), Expiry::Never);
                    let item = ModelItem { value, version, expiry, stale: false };
                    self.items.insert(pair[0].to_vec(), item);
                }
                (Answer::Stored { version: Version(self.sequence), replaced: false, len: 0 }, none())
            }
            Verb::Get | Verb::Peek => match found {
                Some(item) => (Answer::Item(Self::item(item)), item.value.clone()),
                None => (Answer::Miss, none()),
            },
            Verb::Fetch(fetch) => match found {
                Some(item) => {
                    let answer = (Answer::Item(Self::item(item)), item.value.clone());
                    let expiry = changed(fetch.expiry);
                    if fetch.remove {
                        self.items.remove(key);
                    } else {
                        self.items.get_mut(key).unwrap().expiry = expiry;
                    }
                    answer
                }
                None => (Answer::Miss, none()),
            },
            Verb::Put(put) => {
                let refusal = refused(put.condition);
                let full = self.room.is_some_and(|room| self.items.len() >= room);
                if full {
                    (Answer::Fault(Fault::OutOfMemory), none())
                } else {
                    let (existed, before) =
                        (found.is_some(), found.map(|item| item.value.clone()).unwrap_or_default());
                    if refusal.is_none() {
                        write = Some((value.to_vec(), changed(put.expiry)));
                    }
                    match (put.previous, refusal) {
                        (true, _) => {
                            (Answer::Previous { existed, stored: refusal.is_none(), flags: 0 }, before)
                        }
                        (false, Some(refusal)) => (Answer::Refused(refusal), none()),
                        (false, None) => (Answer::Miss, none()),
                    }
                }
            }
            Verb::Splice(_) => {
                let before = found.map(|item| item.value.clone()).unwrap_or_default();
                write = Some(([&before, value].concat(), changed(ExpiryChange::Keep)));
                (Answer::Miss, none())
            }
            Verb::Overwrite { offset } => {
                let mut bytes = found.map(|item| item.value.clone()).unwrap_or_default();
                let end = offset as usize + value.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].copy_from_slice(value);
                write = Some((bytes, changed(ExpiryChange::Keep)));
                (Answer::Miss, none())
            }
            Verb::Count(count) => {
                let Step::Signed(by) = count.by else { panic!("memcached's") };
                let before = match found {
                    None => Some(0),
                    Some(item) => parser::integer(&item.value),
                };
                match before.map(|before| before.checked_add(by)) {
                    None => (Answer::Fault(Fault::NotInteger), none()),
                    Some(None) => (Answer::Fault(Fault::Overflow), none()),
                    Some(Some(sum)) => {
                        write = Some((sum.to_string().into_bytes(), changed(ExpiryChange::Keep)));
                        (Answer::Number(sum), none())
                    }
                }
            }
            Verb::CountFloat => {
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<f64>().ok();
                let before = found.map_or(Some(0.0), |item| text(&item.value));
                match before {
                    None => (Answer::Fault(Fault::NotFloat), none()),
                    Some(_)
                        if text(value).is_none_or(|by| {
                            by.is_nan() || (by.is_infinite() && value.iter().any(u8::is_ascii_digit))
                        }) =>
                    {
                        (Answer::Fault(Fault::NotFloat), none())
                    }
                    Some(before) if !(before + text(value).unwrap()).is_finite() => {
                        (Answer::Fault(Fault::NotFinite), none())
                    }
                    Some(before) => {
                        let sum = (before + text(value).unwrap()).to_string().into_bytes();
                        write = Some((sum.clone(), changed(ExpiryChange::Keep)));
                        (Answer::Miss, sum)
                    }
                }
            }
            Verb::Remove(remove) => match refused(remove.condition) {
                Some(refusal) => (Answer::Refused(refusal), none()),
                None if remove.stale => match self.items.get_mut(key) {
                    Some(item) => {
                        self.sequence += 1;
                        (item.version, item.stale) = (Version(self.sequence), true);
                        (Answer::Removed { version: item.version }, none())
                    }
                    None => (Answer::Miss, none()),
                },
                None => match self.items.remove(key) {
                    Some(item) => (Answer::Removed { version: item.version }, none()),
                    None => (Answer::Miss, none()),
                },
            },
            Verb::Expire(Expire { expiry, only }) => match found {
                None => (Answer::Miss, none()),
                Some(item) => {
                    let end = |expiry| match expiry {
                        Expiry::Never => u64::MAX,
                        Expiry::At(at) => at.0,
                    };
                    let (old, new, some) = (end(item.expiry), end(expiry), item.expiry != Expiry::Never);
                    let holds = match only {
                        ExpireOnly::Any => true,
                        ExpireOnly::IfNone => !some,
                        ExpireOnly::IfSome => some,
                        ExpireOnly::IfLater => new > old,
                        ExpireOnly::IfEarlier => new < old,
                        ExpireOnly::IfSomeAndLater => some && new > old,
                        ExpireOnly::IfSomeAndEarlier => some && new < old,
                    };
                    if holds {
                        let item = self.items.get_mut(key).unwrap();
                        item.expiry = expiry;
                        (Answer::Touched(Self::item(item)), none())
                    } else {
                        (Answer::Refused(Refusal::Expiry), none())
                    }
                }
            },
            Verb::Scan(scan) => {
                let mut page = none();
                let walk = || {
                    self.items
                        .keys()
                        .filter(|key| scan.slot.is_none_or(|slot| slot_of(key).number() == slot))
                        .skip(scan.cursor as usize)
                };
                let count = scan.count.min(5) as usize;
                for key in walk().take(count).filter(|key| key.starts_with(value)) {
                    page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    page.extend_from_slice(key);
                }
                let more = walk().nth(count).is_some();
                (Answer::Page { cursor: if more { scan.cursor + count as u64 } else { 0 } }, page)
            }
            Verb::Random => {
                let mut page = none();
                if let Some(key) = self.items.keys().next() {
                    page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    page.extend_from_slice(key);
                }
                (Answer::Page { cursor: 0 }, page)
            }
            Verb::Size => (Answer::Number(self.items.len() as i64), none()),
            Verb::Flush { .. } => {
                let count = std::mem::take(&mut self.items).len();
                (Answer::Number(count as i64), none())
            }
            Verb::SlotSize { slot } => {
                let count = self.items.keys().filter(|key| slot_of(key).number() == slot).count();
                (Answer::Number(count as i64), none())
            }
            Verb::Counters => {
                let counters = Counters { items: self.items.len() as u64, ..Counters::default() };
                let calls = (0..reply::CALLS as u64).map(|i| if i == Id::Get as u64 { 5 } else { 0 });
                let page = [counters.to_bytes(), calls.flat_map(u64::to_le_bytes).collect()].concat();
                (Answer::Page { cursor: 0 }, page)
            }
            Verb::Locate { .. } => (Answer::Page { cursor: 0 }, none()),
            Verb::Connections => {
                let line = b"id=9 addr=9.9.9.9:9 laddr=1.1.1.1:1 name= age=5 cmd=get\n".to_vec();
                (Answer::Page { cursor: 0 }, line)
            }
            Verb::Invalidate(Named::Key) => match self.items.remove(key) {
                Some(_) => (Answer::Removed { version: Version::NONE }, none()),
                None => (Answer::Miss, none()),
            },
            Verb::Invalidate(_) => (Answer::Number(2), none()),
            Verb::Unblock { client, .. } => (Answer::Number(i64::from(client == 9)), none()),
            Verb::Disconnect { client } => (Answer::Number(i64::from(client == 9)), none()),
            Verb::ResetCounters => (Answer::Number(0), none()),
            Verb::Limit { bytes } => (Answer::Number(bytes as i64), none()),
        };
        let Some((value, expiry)) = write else { return (answer, bytes) };
        self.sequence += 1;
        let stale = matches!(verb, Verb::Put(put) if put.stale);
        let item = ModelItem { value, version: Version(self.sequence), expiry, stale };
        let (len, version) = (item.value.len() as u32, item.version);
        let told = Self::item(&item);
        let replaced = self.items.insert(key.to_vec(), item).is_some();
        let answer = match (verb, answer) {
            (_, Answer::Previous { .. }) => answer,
            (Verb::Count(_), Answer::Number(sum)) => Answer::Counted { number: sum as u64, item: told },
            (Verb::CountFloat, _) => Answer::Item(told),
            _ => Answer::Stored { version, replaced, len },
        };
        (answer, bytes)
    }
}

/// A request on its way to a core.
pub(super) struct Sent {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub verb: Verb,
    pub ticket: u32,
}

/// The cores, of which the first `near` answer at once and the others when the test delivers.
pub(super) struct Model {
    pub now: Now,
    pub map: ShardMap,
    pub near: u16,
    pub stores: Vec<Store>,
    pub sent: Vec<VecDeque<Sent>>,
    pub most_sent: usize,
    /// A guard has refused what comes before its end.
    pub refusing: Vec<bool>,
    pub answer: Vec<u8>,
    pub counters: Counters,
    pub journal: Journal,
    pub calls: Vec<u8>,
    /// Keys that were announced to be read, to their owner.
    pub tracked: Vec<Vec<u8>>,
}

impl Model {
    pub fn new(near: u16) -> Model {
        Model {
            now: now(),
            map: ShardMap::on_cores(CORES),
            near,
            stores: (0..CORES).map(|_| Store::default()).collect(),
            sent: (0..CORES).map(|_| VecDeque::new()).collect(),
            most_sent: 0,
            refusing: vec![false; usize::from(CORES)],
            answer: Vec::new(),
            counters: Counters::default(),
            journal: Journal::default(),
            calls: Vec::new(),
            tracked: Vec::new(),
        }
    }

    /// Has a core do a request; the counters of the first have what the session's own journal tells.
    pub fn execute(&mut self, core: usize, key: &[u8], value: &[u8], verb: Verb) -> (Answer, Vec<u8>) {
        let (answer, mut bytes) = self.stores[core].execute(self.now, key, value, verb);
        if let (Verb::Locate { client: 9 }, 1) = (verb, core) {
            let connection = ConnectionId { place: 7, generation: 1 };
            bytes.extend_from_slice(&Observer { core: CoreId(1), connection }.to_bytes());
        }
        if let (Verb::Journal(part), 0) = (verb, core) {
            bytes.clear();
            return (self.journal.answer(part, &mut bytes), bytes);
        }
        if verb == Verb::Counters && core == 0 {
            bytes.extend([0, 0, 0, USED_PEAK, 0].map(u64::to_le_bytes).concat());
            self.journal.append_counts(&mut bytes);
        }
        (answer, bytes)
    }

    pub fn in_flight(&self) -> usize {
        self.sent.iter().map(VecDeque::len).sum()
    }
}

impl Backend for Model {
    fn call(&mut self, target: Target, request: &Request<'_>, ticket: u32) -> Option<Outcome<'_>> {
        let core = match target {
            Target::Owner => self.map.owner(slot_of(request.key).shard()),
            Target::Here => CoreId(0),
            Target::Core(core) => core,
        };
        if let Verb::Track(_) = request.verb {
            self.tracked.push(request.key.to_vec());
        }
        if core.0 < self.near {
            let (answer, bytes) = self.execute(core.index(), request.key, request.value, request.verb);
            self.answer = bytes;
            return Some(Outcome { answer, value: Value::One(&self.answer) });
        }
        self.sent[core.index()].push_back(Sent {
            key: request.key.to_vec(),
            value: request.value.to_vec(),
            verb: request.verb,
            ticket,
        });
        self.most_sent = self.most_sent.max(self.in_flight());
        None
    }

    fn ready(&self) -> bool {
        true
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn erred(&mut self, errors: &Errors) {
        self.journal.erred(errors);
    }

    fn observer(&self) -> Option<Observer> {
        Some(Observer { core: CoreId(0), connection: ConnectionId { place: 3, generation: 1 } })
    }

    fn denied(&mut self, denial: &Denial<'_>) {
        self.journal.denials.add((0, CORES), self.now.wall.0, denial);
    }

    fn called(&mut self, command: u8) {
        self.calls.push(command);
    }
}
