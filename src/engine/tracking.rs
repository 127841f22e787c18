//! Client-side caching: who read which key, and whom to tell when it changes.
//!
//! ```text
//!   Track(key, observer) --> keys: key -> observers      a change, an end, a flush --> notices --> the shell
//!   Follow(prefix, observer) --> followers
//! ```
//! 1. An observer is told once of a change of a key it read, then has to read again.
//! 2. A follower is told of every change of keys that begin with its prefix.
//! 3. The table is bounded; a key that has to leave it for want of room is told as changed: nobody keeps what we forgot.
//! 4. Eviction is no change: what the observer holds is still true, and the table still knows the key.
//!
//! While nobody observes there is no table, and no request looks for one: [`Engine::execute`] compares the moment that it
//! compares anyway, and this is what makes that moment now.

use super::*;
use crate::request::{Follow, Observer};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

/// Bytes of keys in the table, with this much for each beside its name and for each of its observers.
const TRACKED_BYTES_MAX: usize = 16 << 20;
const ENTRY_BYTES: usize = 96;
const OBSERVER_BYTES: usize = size_of::<Observer>();
/// Prefixes that all followers of a core may have together: a change is compared with each.
const PREFIXES_MAX: usize = 1024;

/// A change that an observer is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whom.
    pub observer: Observer,
    /// The key that changed; `None`: all have.
    pub key: Option<Box<[u8]>>,
}

/// Observers of a core's keys.
#[derive(Default)]
pub(super) struct Tracking {
    observers: BTreeMap<Observer, Standing>,
    keys: BTreeMap<Box<[u8]>, Vec<Observer>>,
    /// When tracked items end.
    ends: BinaryHeap<Reverse<(Mono, Box<[u8]>)>>,
    prefixes: Vec<(Box<[u8]>, Observer)>,
    bytes: usize,
    /// The last key that left for want of room: the next one behind it leaves next.
    hand: Box<[u8]>,
    /// Whose change the next one of this key is.
    own: Option<(Box<[u8]>, Observer)>,
    notices: Vec<Change>,
}

#[derive(Clone, Copy)]
struct Standing {
    /// Is not told of its own changes.
    not_own: bool,
}

impl Engine {
    /// Number of connections that are told of changes, whatever core they are of.
    pub fn observers(&self) -> usize {
        self.tracking.as_ref().map_or(0, |tracking| tracking.observers.len())
    }

    /// Whether there is somebody to be told something.
    #[inline]
    pub fn has_changes(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| !tracking.notices.is_empty())
    }

    /// What observers are to be told, in the order of the changes.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.tracking.as_mut().map(|tracking| std::mem::take(&mut tracking.notices)).unwrap_or_default()
    }

    /// [`Verb::Observe`]: a follower's value is its prefix.
    pub(super) fn observe(&mut self, observer: Observer, follow: Follow, prefix: &[u8]) -> Reply {
        let tracking = self.tracking.get_or_insert_default();
        self.attention_at = Mono(0);
        let room = tracking.prefixes.len() < PREFIXES_MAX;
        tracking.observers.insert(observer, Standing { not_own: follow.not_own });
        match follow.all {
            true if room => tracking.prefixes.push((prefix.into(), observer)),
            true => return Reply::fault(Fault::OutOfMemory),
            false => {}
        }
        Reply::number(0)
    }

    /// [`Verb::Unobserve`].
    pub(super) fn unobserve(&mut self, observer: Observer) -> Reply {
        if let Some(tracking) = &mut self.tracking {
            tracking.observers.remove(&observer);
            tracking.prefixes.retain(|(_, other)| *other != observer);
            // Its keys leave the table with the next change of each, or all when it was the last.
            if tracking.observers.is_empty() && tracking.notices.is_empty() {
                self.tracking = None;
                self.attention_at = self.flush_at;
            }
        }
        Reply::number(0)
    }

    /// [`Verb::Track`]: before the key is read.
    pub(super) fn track(&mut self, now: Mono, key: &[u8], observer: Observer) -> Reply {
        let probe = self.store.probe(key);
        let ends = self.look(now, probe, key, false).map(|held| held.expiry);
        let Some(tracking) = &mut self.tracking else { return Reply::number(0) };
        let ends = ends.filter(|_| !tracking.keys.contains_key(key));
        tracking.add(key, observer);
        if let Some(Expiry::At(at)) = ends {
            tracking.ends.push(Reverse((at, key.into())));
            tracking.trim_ends();
        }
        tracking.make_room();
        Reply::number(0)
    }

    /// [`Verb::Own`].
    pub(super) fn own(&mut self, key: &[u8], observer: Observer) -> Reply {
        if let Some(tracking) = &mut self.tracking {
            tracking.own = Some((key.into(), observer));
        }
        Reply::number(0)
    }

    /// Does a request while somebody observes, or when a flush is due.
    #[cold]
    #[inline(never)]
    pub(super) fn execute_attentively(&mut self, now: Mono, request: &Request<'_>) -> Outcome<'_> {
        if now >= self.flush_at {
            self.flush();
        }
        if std::mem::take(&mut self.landed) {
            return self.execute_landed(now, request);
        }
        let Some(_) = self.tracking else {
            self.attention_at = self.flush_at;
            return self.execute_plainly(now, request);
        };
        match request.verb {
            Verb::Get | Verb::Peek | Verb::Look => self.execute_plainly(now, request),
            _ => {
                let reply = self.reply_to(now, request);
                self.note(request, reply.answer);
                self.outcome_of(now, request.key, reply)
            }
        }
    }

    /// Does the request that a value landed for, and sees to it that nobody else finds that value.
    fn execute_landed(&mut self, now: Mono, request: &Request<'_>) -> Outcome<'_> {
        if !matches!(request.verb, Verb::Put(_)) {
            self.store.stop_landing();
            return self.execute_attentively(now, request);
        }
        let reply = self.reply_to(now, request);
        self.store.stop_landing();
        self.note(request, reply.answer);
        if self.tracking.is_none() {
            self.attention_at = self.flush_at;
        }
        self.outcome_of(now, request.key, reply)
    }

    /// Tells of what a request changed.
    fn note(&mut self, request: &Request<'_>, answer: Answer) {
        let Some(tracking) = &mut self.tracking else { return };
        let changed = match (request.verb, answer) {
            (Verb::Own(_), _) => return,
            (Verb::Fetch(fetch), Answer::Item(_)) => fetch.remove || fetch.expiry != ExpiryChange::Keep,
            (_, Answer::Stored { .. } | Answer::Previous { stored: true, .. } | Answer::Counted { .. }) => {
                true
            }
            (_, Answer::Removed { .. } | Answer::Touched(_)) => true,
            (Verb::CountFloat, Answer::Item(_)) => true,
            _ => false,
        };
        // Somebody else's change of another key may come first.
        let own = tracking.own.take_if(|(key, _)| **key == *request.key).map(|(_, observer)| observer);
        if !changed {
            return;
        }
        match request.verb {
            Verb::Transfer(transfer) => {
                if !transfer.keep {
                    tracking.changed(request.key, own);
                }
                tracking.changed(request.value, own);
            }
            Verb::PutAllAbsent => {
                together::Pairs(request.value).for_each(|(key, _)| tracking.changed(key, own));
            }
            _ => tracking.changed(request.key, own),
        }
    }

    /// Tells of a change that no request of a client made: a fill, a write that an origin has done.
    #[inline]
    pub(super) fn note_key(&mut self, key: &[u8]) {
        if let Some(tracking) = &mut self.tracking {
            tracking.changed(key, None);
        }
    }

    /// Tells of all tracked keys that begin so.
    pub(super) fn note_prefix(&mut self, prefix: &[u8]) {
        let Some(tracking) = &mut self.tracking else { return };
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let keys = tracking.keys.range::<[u8], _>(from).map(|(key, _)| key);
        let keys: Vec<_> = keys.take_while(|key| key.starts_with(prefix)).cloned().collect();
        keys.iter().for_each(|key| tracking.changed(key, None));
    }

    /// The change that was to be somebody's own is put off: it will be told to all.
    pub(super) fn disown(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.own = None;
        }
    }

    /// Tells of items that have ended.
    pub(super) fn note_ends(&mut self, now: Mono) {
        let Some(tracking) = &mut self.tracking else { return };
        while tracking.ends.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, key))) = tracking.ends.pop()
                && tracking.keys.contains_key(&key)
            {
                tracking.changed(&key, None);
            }
        }
    }

    /// When the next tracked item ends.
    pub(super) fn next_tracked_end(&self) -> Mono {
        let first = self.tracking.as_ref().and_then(|tracking| tracking.ends.peek());
        first.map_or(NEVER, |Reverse((at, _))| *at)
    }
}

impl Tracking {
    fn add(&mut self, key: &[u8], observer: Observer) {
        match self.keys.get_mut(key) {
            Some(observers) if observers.contains(&observer) => {}
            Some(observers) => {
                observers.push(observer);
                self.bytes += OBSERVER_BYTES;
            }
            None => {
                self.keys.insert(key.into(), vec![observer]);
                self.bytes += key.len() + ENTRY_BYTES + OBSERVER_BYTES;
            }
        }
    }

    /// Takes a key out, and tells its observers; `own` is whose change it was.
    fn changed(&mut self, key: &[u8], own: Option<Observer>) {
        let observers = self.keys.remove(key).unwrap_or_default();
        if !observers.is_empty() {
            self.bytes -= key.len() + ENTRY_BYTES + observers.len() * OBSERVER_BYTES;
        }
        let standings = &self.observers;
        let wants = |observer: &Observer| match standings.get(observer) {
            Some(standing) => !(standing.not_own && own == Some(*observer)),
            None => false,
        };
        let followers =
            self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix)).map(|(_, who)| *who);
        let told = observers.into_iter().chain(followers).filter(wants);
        self.notices.extend(told.map(|observer| Change { observer, key: Some(key.into()) }));
    }

    /// Tells everybody that everything has changed.
    pub(super) fn all_changed(&mut self) {
        (self.bytes, self.keys, self.ends) = (0, BTreeMap::new(), BinaryHeap::new());
        self.notices.extend(self.observers.keys().map(|observer| Change { observer: *observer, key: None }));
    }

    fn make_room(&mut self) {
        while self.bytes > TRACKED_BYTES_MAX {
            let behind = (Bound::Excluded(std::mem::take(&mut self.hand)), Bound::Unbounded);
            let next = self.keys.range(behind).next().or_else(|| self.keys.iter().next());
            let Some((key, _)) = next else { return };
            let key = key.clone();
            self.changed(&key, None);
            self.hand = key;
        }
    }

    /// Forgets ends of keys that are not tracked any more, when these are most.
    fn trim_ends(&mut self) {
        if self.ends.len() > 2 * self.keys.len() + 1024 {
            let keys = &self.keys;
            self.ends.retain(|Reverse((_, key))| keys.contains_key(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;
    use crate::ids::{ConnectionId, CoreId};
    use crate::request::{Expire, ExpireOnly, Fetch, Put, Remove, Transfer};

    const NOW: Now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000) };
    const OBSERVED: Follow = Follow { all: false, not_own: false };

    fn engine() -> Engine {
        let store =
            store::Options { memory_bytes_max: 64 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        Engine::new(Options { store, seed: 7 })
    }

    fn observer(place: u32) -> Observer {
        Observer { core: CoreId(1), connection: ConnectionId { place, generation: 1 } }
    }

    fn ask(engine: &mut Engine, verb: Verb, key: &str, value: &str) -> Answer {
        engine.execute(NOW, &Request { key: key.as_bytes(), value: value.as_bytes(), verb }).answer
    }

    fn set(engine: &mut Engine, key: &str) {
        ask(engine, Verb::Put(Put::plain(Expiry::Never)), key, "v");
    }

    /// Whom to tell what, as `place:key`.
    fn told(engine: &mut Engine) -> Vec<String> {
        let text = |notice: Change| {
            let key = notice.key.map_or("*".into(), |key| String::from_utf8_lossy(&key).into_owned());
            format!("{}:{key}", notice.observer.connection.place)
        };
        engine.take_changes().into_iter().map(text).collect()
    }

    #[test]
    fn who_read_a_key_is_told_once_of_its_change() {
        let mut engine = engine();
        set(&mut engine, "a");
        for place in [1, 2] {
            ask(&mut engine, Verb::Observe(observer(place), OBSERVED), "", "");
        }
        ask(&mut engine, Verb::Track(observer(1)), "a", "");
        ask(&mut engine, Verb::Track(observer(1)), "a", "");
        ask(&mut engine, Verb::Track(observer(2)), "b", "");
        assert_eq!(ask(&mut engine, Verb::Get, "b", ""), Answer::Miss);
        assert!(!engine.has_changes());
        set(&mut engine, "a");
        set(&mut engine, "a");
        set(&mut engine, "b");
        set(&mut engine, "c");
        assert_eq!(told(&mut engine), ["1:a", "2:b"]);
    }

    #[test]
    fn every_kind_of_change_is_told_and_what_changes_nothing_is_not() {
        let mut engine = engine();
        ask(&mut engine, Verb::Observe(observer(1), OBSERVED), "", "");
        let absent = Put { condition: Condition::Absent, ..Put::plain(Expiry::Never) };
        let soon = Expiry::At(NOW.mono.plus_millis(5000));
        let expire = Expire { expiry: soon, only: ExpireOnly::Any };
        let changes = [
            (Verb::Put(absent), "b", "v", vec!["1:b"]),
            (Verb::Put(absent), "b", "v", vec![]),
            (Verb::Expire(expire), "b", "", vec!["1:b"]),
            (Verb::Expire(expire), "none", "", vec![]),
            (Verb::Fetch(Fetch::PLAIN), "b", "", vec![]),
            (Verb::Fetch(Fetch { expiry: ExpiryChange::Set(soon), ..Fetch::PLAIN }), "b", "", vec!["1:b"]),
            (Verb::Transfer(Transfer { keep: true, replace: false }), "b", "c", vec!["1:c"]),
            (Verb::Transfer(Transfer { keep: false, replace: true }), "b", "c", vec!["1:b", "1:c"]),
            (Verb::PutAllAbsent, "d", "\x01\0\0\0d\x01\0\0\0v\x01\0\0\0e\x01\0\0\0v", vec!["1:d", "1:e"]),
            (Verb::CountFloat, "f", "1.5", vec!["1:f"]),
            (Verb::Remove(Remove::PLAIN), "c", "", vec!["1:c"]),
            (Verb::Remove(Remove::PLAIN), "c", "", vec![]),
            (Verb::Flush { at: NOW.mono }, "", "", vec!["1:*"]),
        ];
        for (verb, key, value, expected) in changes {
            for key in ["b", "c", "d", "e", "f", "none"] {
                ask(&mut engine, Verb::Track(observer(1)), key, "");
            }
            ask(&mut engine, verb, key, value);
            assert_eq!(told(&mut engine), expected, "{verb:?}");
        }
    }

    #[test]
    fn followers_are_told_of_every_change_behind_their_prefixes() {
        let mut engine = engine();
        let all = Follow { all: true, not_own: true };
        ask(&mut engine, Verb::Observe(observer(1), all), "", "user:");
        ask(&mut engine, Verb::Observe(observer(2), all), "", "");
        set(&mut engine, "user:1");
        set(&mut engine, "user:1");
        set(&mut engine, "other");
        assert_eq!(told(&mut engine), ["1:user:1", "2:user:1", "1:user:1", "2:user:1", "2:other"]);
        // Its own change is told to the others only, and only the one that it announced is its own.
        ask(&mut engine, Verb::Own(observer(2)), "user:2", "");
        set(&mut engine, "user:2");
        set(&mut engine, "user:3");
        assert_eq!(told(&mut engine), ["1:user:2", "1:user:3", "2:user:3"]);
        ask(&mut engine, Verb::Unobserve(observer(2)), "", "");
        set(&mut engine, "user:1");
        assert_eq!(told(&mut engine), ["1:user:1"]);
        ask(&mut engine, Verb::Unobserve(observer(1)), "", "");
        assert!(engine.tracking.is_none() && engine.attention_at == NEVER, "nothing is left to look for");
    }

    #[test]
    fn the_end_of_an_item_is_a_change() {
        let mut engine = engine();
        let soon = Expiry::At(NOW.mono.plus_millis(5000));
        ask(&mut engine, Verb::Put(Put::plain(soon)), "a", "v");
        ask(&mut engine, Verb::Observe(observer(1), OBSERVED), "", "");
        ask(&mut engine, Verb::Track(observer(1)), "a", "");
        let later = |millis| Now { mono: NOW.mono.plus_millis(millis), ..NOW };
        assert!(engine.tick(later(10)) <= NOW.mono.plus_millis(5000), "it comes back in time");
        engine.tick(later(4999));
        assert!(!engine.has_changes());
        engine.tick(later(5000));
        assert_eq!(told(&mut engine), ["1:a"]);
    }

    #[test]
    fn a_full_table_tells_of_what_it_forgets() {
        let mut engine = engine();
        ask(&mut engine, Verb::Observe(observer(1), OBSERVED), "", "");
        let key = |i: usize| format!("{i:01000}");
        let count = TRACKED_BYTES_MAX / 1000 + 500;
        for i in 0..count {
            ask(&mut engine, Verb::Track(observer(1)), &key(i), "");
        }
        let tracking = engine.tracking.as_ref().expect("somebody observes");
        let kept = tracking.keys.len();
        assert!(tracking.bytes <= TRACKED_BYTES_MAX && kept < count);
        assert_eq!(told(&mut engine).len(), count - kept, "each key is kept or told");
    }
}
