//! The engine's rules, one test each. Lease and counter rules were seen from memcached 1.6.45, the others from Redis 8.

use super::*;
use crate::clock::Wall;
use crate::request::{Count, Expire, ExpireOnly, Fetch, Put, Remove, Scan, Splice, Step, Transfer};

/// An engine with a clock, and answers with their bytes copied.
struct Bench {
    engine: Engine,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        let store =
            store::Options { memory_bytes_max: 64 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        let engine = Engine::new(Options { store, seed: 7 });
        Bench { engine, now: Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000) } }
    }

    fn pass_seconds(&mut self, seconds: u64) {
        self.now.mono = self.now.mono.plus_millis(seconds * 1000);
        self.now.wall.0 += seconds * 1000;
    }

    fn in_seconds(&self, seconds: u64) -> Expiry {
        Expiry::At(self.now.mono.plus_millis(seconds * 1000))
    }

    fn ask(&mut self, verb: Verb, key: &str, value: &str) -> (Answer, String) {
        let request = Request { key: key.as_bytes(), value: value.as_bytes(), verb };
        let outcome = self.engine.execute(self.now, &request);
        (outcome.answer, String::from_utf8_lossy(outcome.value.bytes()).into_owned())
    }

    fn set(&mut self, key: &str, value: &str) -> Version {
        self.put(key, value, Put::plain(Expiry::Never))
    }

    fn put(&mut self, key: &str, value: &str, put: Put) -> Version {
        match self.ask(Verb::Put(put), key, value).0 {
            Answer::Stored { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    /// What a plain reader gets.
    fn get(&mut self, key: &str) -> Option<String> {
        match self.ask(Verb::Get, key, "") {
            (Answer::Item(_), value) => Some(value),
            (Answer::Miss, value) if value.is_empty() => None,
            other => panic!("{other:?}"),
        }
    }

    fn peek(&mut self, key: &str) -> Item {
        match self.ask(Verb::Peek, key, "").0 {
            Answer::Item(item) => item,
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, key: &str, fetch: Fetch) -> (Item, String) {
        match self.ask(Verb::Fetch(fetch), key, "") {
            (Answer::Item(item), value) => (item, value),
            other => panic!("{other:?}"),
        }
    }

    /// The lease as a reader who knows leases finds it, as memcached writes it.
    fn lease(&mut self, key: &str, fetch: Fetch) -> String {
        let Lease { won, stale, taken } = self.fetch(key, fetch).0.lease;
        let marks = [(won, 'W'), (stale, 'X'), (taken, 'Z')];
        marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark).collect()
    }

    fn count(&mut self, key: &str, by: Step) -> Answer {
        let count = Count {
            by,
            create: None,
            condition: Condition::Always,
            expiry: ExpiryChange::Keep,
            version: None,
        };
        self.ask(Verb::Count(count), key, "").0
    }

    fn vivifying(&self) -> Fetch {
        Fetch { vivify: Some(self.in_seconds(30)), ..Fetch::PLAIN }
    }

    fn page(&mut self, verb: Verb, pattern: &str) -> (u64, Vec<String>) {
        let request = Request { key: b"", value: pattern.as_bytes(), verb };
        let outcome = self.engine.execute(self.now, &request);
        let Answer::Page { cursor } = outcome.answer else { panic!("{:?}", outcome.answer) };
        let mut rest = outcome.value.bytes();
        let mut keys = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (key, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            keys.push(String::from_utf8(key.to_vec()).expect("keys of these tests are text"));
            rest = tail;
        }
        (cursor, keys)
    }
}

const STALE: Remove = Remove { stale: true, ..Remove::PLAIN };
const BLIND: Fetch = Fetch { lease: false, ..Fetch::PLAIN };

fn plain_when(condition: Condition) -> Put {
    Put { condition, ..Put::plain(Expiry::Never) }
}

#[test]
fn what_was_put_is_got_until_its_expiry() {
    let mut bench = Bench::new();
    bench.put("k", "v", Put { flags: 9, ..Put::plain(bench.in_seconds(10)) });
    assert_eq!(bench.get("k").as_deref(), Some("v"));
    assert_eq!((bench.peek("k").flags, bench.peek("k").len), (9, 1));
    bench.pass_seconds(10);
    assert_eq!(bench.get("k"), None);
    let counters = &bench.engine.counters;
    assert_eq!((counters.hits_total, counters.misses_total, counters.writes_total), (1, 1, 1));
}

#[test]
fn a_put_whose_expiry_has_passed_leaves_nothing_not_even_the_old_value() {
    let mut bench = Bench::new();
    bench.set("k", "old");
    let at = Expiry::At(bench.now.mono);
    assert!(matches!(
        bench.ask(Verb::Put(Put::plain(at)), "k", "new").0,
        Answer::Stored { replaced: true, .. }
    ));
    assert_eq!(bench.get("k"), None);
}

#[test]
fn absent_and_present_refuse_what_they_say() {
    let mut bench = Bench::new();
    let refused = |bench: &mut Bench, condition, key| bench.ask(Verb::Put(plain_when(condition)), key, "x").0;
    assert_eq!(refused(&mut bench, Condition::Present, "k"), Answer::Refused(Refusal::Absent));
    bench.put("k", "v", plain_when(Condition::Absent));
    assert_eq!(refused(&mut bench, Condition::Absent, "k"), Answer::Refused(Refusal::Present));
    assert_eq!(bench.get("k").as_deref(), Some("v"));
    bench.put("k", "w", plain_when(Condition::Present));
    assert_eq!(bench.get("k").as_deref(), Some("w"));
    assert_eq!((bench.engine.counters.refusals_total, bench.engine.counters.writes_total), (2, 2));
}

#[test]
fn a_version_lets_exactly_one_of_two_writers_through() {
    let mut bench = Bench::new();
    let version = bench.set("k", "0");
    let put = Verb::Put(plain_when(Condition::VersionIs(version)));
    assert!(matches!(bench.ask(put, "k", "1").0, Answer::Stored { .. }));
    assert_eq!(bench.ask(put, "k", "2").0, Answer::Refused(Refusal::Version));
    assert_eq!(bench.ask(put, "none", "2").0, Answer::Refused(Refusal::Absent));
    assert_eq!(bench.get("k").as_deref(), Some("1"));
}

#[test]
fn versions_given_are_taken_and_ours_grow_beyond_them() {
    let mut bench = Bench::new();
    let with = |version| Put { version: Some(Version(version)), ..Put::plain(Expiry::Never) };
    assert_eq!(bench.put("k", "v", with(500)), Version(500));
    assert!(bench.set("other", "v") > Version(500));
    assert_eq!(bench.put("k", "v", with(3)), Version(3), "a lower one too");
    assert!(bench.set("k", "v") > Version(501));
    let ours = bench.set("k", "v");
    assert_eq!(bench.put("k", "v", with(u64::MAX)), Version(u64::MAX));
    let next = bench.set("k", "v");
    assert!(next > ours && next < FOREIGN_VERSION, "nobody can use the range up");
}

#[test]
fn the_value_before_is_answered_whether_or_not_the_new_one_is_stored() {
    let mut bench = Bench::new();
    let put = Put { previous: true, flags: 5, ..Put::plain(Expiry::Never) };
    let answer = |existed, stored, flags| Answer::Previous { existed, stored, flags };
    assert_eq!(bench.ask(Verb::Put(put), "k", "1"), (answer(false, true, 0), String::new()));
    assert_eq!(bench.ask(Verb::Put(put), "k", "2"), (answer(true, true, 5), "1".into()));
    let absent = Put { condition: Condition::Absent, ..put };
    assert_eq!(bench.ask(Verb::Put(absent), "k", "3"), (answer(true, false, 5), "2".into()));
    let present = Put { condition: Condition::Present, ..put };
    assert_eq!(bench.ask(Verb::Put(present), "none", "3"), (answer(false, false, 0), String::new()));
    assert_eq!((bench.get("k").as_deref(), bench.get("none")), (Some("2"), None));
}

#[test]
fn keep_keeps_the_expiry_and_set_drops_it() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(10);
    bench.put("k", "1", Put::plain(expiry));
    bench.put("k", "2", Put { expiry: ExpiryChange::Keep, ..Put::plain(Expiry::Never) });
    assert_eq!(bench.peek("k").expiry, expiry);
    bench.set("k", "3");
    assert_eq!(bench.peek("k").expiry, Expiry::Never);
}

#[test]
fn an_item_too_large_is_a_fault_and_changes_nothing() {
    let mut bench = Bench::new();
    let version = bench.set("k", "old");
    let large = "x".repeat(1 << 20);
    assert_eq!(
        bench.ask(Verb::Put(Put::plain(Expiry::Never)), "k", &large).0,
        Answer::Fault(Fault::TooLarge)
    );
    let offset = Verb::Overwrite { offset: u32::MAX };
    assert_eq!(bench.ask(offset, "k", "x").0, Answer::Fault(Fault::TooLarge));
    assert!(bench.engine.scratch.capacity() <= 2 << 20, "no room was made for what cannot be");
    assert_eq!((bench.get("k").as_deref(), bench.peek("k").version), (Some("old"), version));
    assert_eq!(bench.engine.counters.faults_total, 2);
}

#[test]
fn append_and_prepend_keep_flags_and_expiry_and_tell_the_length() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(10);
    let version = bench.put("k", "b", Put { flags: 3, ..Put::plain(expiry) });
    let back = Splice {
        front: false,
        create: None,
        flags: 8,
        condition: Condition::Always,
        version: None,
        binary_key: false,
    };
    let (answer, _) = bench.ask(Verb::Splice(back), "k", "c");
    assert!(matches!(answer, Answer::Stored { version: new, replaced: true, len: 2 } if new > version));
    bench.ask(Verb::Splice(Splice { front: true, ..back }), "k", "a");
    assert_eq!(bench.get("k").as_deref(), Some("abc"));
    assert_eq!((bench.peek("k").flags, bench.peek("k").expiry), (3, expiry));
    assert_eq!(bench.ask(Verb::Splice(back), "none", "x").0, Answer::Refused(Refusal::Absent));
    let old = Splice { condition: Condition::VersionIs(version), ..back };
    assert_eq!(bench.ask(Verb::Splice(old), "k", "x").0, Answer::Refused(Refusal::Version));
}

#[test]
fn append_makes_an_item_if_it_may_whatever_version_was_asked_for() {
    let mut bench = Bench::new();
    let condition = Condition::VersionIs(Version(5));
    let splice = Splice {
        front: false,
        create: Some(Expiry::Never),
        flags: 8,
        condition,
        version: None,
        binary_key: false,
    };
    let (answer, _) = bench.ask(Verb::Splice(splice), "k", "");
    assert!(matches!(answer, Answer::Stored { replaced: false, len: 0, .. }));
    assert_eq!((bench.get("k").as_deref(), bench.peek("k").flags), (Some(""), 8));
}

#[test]
fn overwriting_fills_the_gap_with_zeros_and_nothing_to_write_changes_nothing() {
    let mut bench = Bench::new();
    assert!(matches!(
        bench.ask(Verb::Overwrite { offset: 9 }, "k", "").0,
        Answer::Stored { replaced: false, len: 0, .. }
    ));
    assert_eq!(bench.get("k"), None);
    bench.ask(Verb::Overwrite { offset: 2 }, "k", "ab");
    assert_eq!(bench.get("k").as_deref(), Some("\0\0ab"));
    let (answer, _) = bench.ask(Verb::Overwrite { offset: 1 }, "k", "X");
    assert!(matches!(answer, Answer::Stored { replaced: true, len: 4, .. }));
    assert_eq!(bench.get("k").as_deref(), Some("\0Xab"));
    let version = bench.peek("k").version;
    assert_eq!(
        bench.ask(Verb::Overwrite { offset: 99 }, "k", "").0,
        Answer::Stored { version, replaced: true, len: 4 }
    );
}

#[test]
fn signed_counters_are_strict_and_do_not_overflow() {
    let mut bench = Bench::new();
    assert!(
        matches!(bench.count("k", Step::Signed(-3)), Answer::Counted { number, .. } if number as i64 == -3)
    );
    assert_eq!(bench.get("k").as_deref(), Some("-3"));
    bench.set("k", "9223372036854775807");
    assert_eq!(bench.count("k", Step::Signed(1)), Answer::Fault(Fault::Overflow));
    bench.set("k", "9 ");
    assert_eq!(bench.count("k", Step::Signed(1)), Answer::Fault(Fault::NotInteger));
    assert_eq!(bench.get("k").as_deref(), Some("9 "));
}

#[test]
fn unsigned_counters_wrap_up_stop_at_zero_and_keep_their_width() {
    let mut bench = Bench::new();
    assert_eq!(bench.count("k", Step::Up(1)), Answer::Refused(Refusal::Absent));
    bench.set("k", "18446744073709551615");
    assert!(matches!(bench.count("k", Step::Up(2)), Answer::Counted { number: 1, .. }));
    assert_eq!(bench.get("k").as_deref(), Some("1                   "));
    bench.set("k", "10");
    assert!(matches!(bench.count("k", Step::Down(1)), Answer::Counted { number: 9, .. }));
    assert_eq!(bench.get("k").as_deref(), Some("9 "));
    assert!(matches!(bench.count("k", Step::Down(99)), Answer::Counted { number: 0, .. }));
    bench.set("k", "99");
    assert!(matches!(bench.count("k", Step::Up(1)), Answer::Counted { number: 100, .. }));
    assert_eq!(bench.get("k").as_deref(), Some("100"));
    bench.set("k", "");
    assert_eq!(bench.count("k", Step::Up(1)), Answer::Fault(Fault::NotInteger));
}

#[test]
fn a_counter_made_starts_at_its_initial_value_and_one_found_may_get_a_new_expiry() {
    let mut bench = Bench::new();
    let (first, later) = (bench.in_seconds(5), bench.in_seconds(50));
    let count = Verb::Count(Count {
        by: Step::Up(3),
        create: Some((13, first)),
        condition: Condition::Always,
        expiry: ExpiryChange::Set(later),
        version: None,
    });
    assert!(
        matches!(bench.ask(count, "k", "").0, Answer::Counted { number: 13, item } if item.expiry == first)
    );
    assert!(
        matches!(bench.ask(count, "k", "").0, Answer::Counted { number: 16, item } if item.expiry == later)
    );
    assert_eq!((bench.get("k").as_deref(), bench.peek("k").expiry), (Some("16"), later));
}

#[test]
fn floats_are_counted_and_answered_as_text() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(5);
    bench.put("k", "10.50", Put::plain(expiry));
    let (answer, text) = bench.ask(Verb::CountFloat, "k", "0.1");
    assert!(matches!(answer, Answer::Item(item) if item.len == 4 && item.expiry == expiry));
    assert_eq!((text.as_str(), bench.get("k").as_deref()), ("10.6", Some("10.6")));
    assert_eq!(bench.ask(Verb::CountFloat, "new", "-1e2").1, "-100");
    assert_eq!(bench.ask(Verb::CountFloat, "new", "inf").0, Answer::Fault(Fault::NotFinite));
    assert_eq!(bench.ask(Verb::CountFloat, "new", "x").0, Answer::Fault(Fault::NotFloat));
    bench.set("new", "text");
    assert_eq!(bench.ask(Verb::CountFloat, "new", "1").0, Answer::Fault(Fault::NotFloat));
}

#[test]
fn removing_answers_what_was_there_and_minds_the_version() {
    let mut bench = Bench::new();
    let version = bench.set("k", "v");
    let other = Remove { condition: Condition::VersionIs(Version(version.0 + 1)), ..Remove::PLAIN };
    assert_eq!(bench.ask(Verb::Remove(other), "k", "").0, Answer::Refused(Refusal::Version));
    assert_eq!(bench.ask(Verb::Remove(Remove::PLAIN), "k", "").0, Answer::Removed { version });
    assert_eq!(bench.ask(Verb::Remove(other), "k", "").0, Answer::Miss);
    assert_eq!(bench.engine.counters.removals_total, 1);
}

#[test]
fn clearing_drops_value_and_flags_and_keeps_the_item() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(9);
    let version = bench.put("k", "v", Put { flags: 3, ..Put::plain(expiry) });
    bench.ask(Verb::Remove(Remove { clear: true, ..Remove::PLAIN }), "k", "");
    assert_eq!(bench.get("k").as_deref(), Some(""));
    let item = bench.peek("k");
    assert!(item.version > version);
    assert_eq!((item.flags, item.expiry, item.lease), (0, expiry, Lease::default()));
    bench.ask(Verb::Remove(Remove { clear: true, ..STALE }), "k", "");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX");
}

#[test]
fn a_transfer_takes_value_flags_and_expiry_and_minds_what_is_in_the_way() {
    let mut bench = Bench::new();
    let ends = ExpiryChange::Set(bench.in_seconds(100));
    let version = bench.put("a", "v", Put { flags: 7, expiry: ends, ..Put::plain(Expiry::Never) });
    bench.set("b", "old");
    let plain = Transfer { keep: false, replace: false };
    assert_eq!(bench.ask(Verb::Transfer(plain), "a", "b").0, Answer::Refused(Refusal::Present));
    assert_eq!((bench.get("a").as_deref(), bench.get("b").as_deref()), (Some("v"), Some("old")));
    assert_eq!(bench.ask(Verb::Transfer(plain), "none", "b").0, Answer::Miss);
    let Answer::Stored { version: moved, replaced: true, len: 1 } =
        bench.ask(Verb::Transfer(Transfer { replace: true, ..plain }), "a", "b").0
    else {
        panic!("not moved")
    };
    assert!(moved > version);
    let item = bench.peek("b");
    assert_eq!((item.flags, item.version, item.expiry), (7, moved, bench.in_seconds(100)));
    assert_eq!((bench.get("a"), bench.get("b").as_deref()), (None, Some("v")));
    bench.ask(Verb::Transfer(Transfer { keep: true, replace: false }), "b", "c");
    assert_eq!((bench.get("b").as_deref(), bench.get("c").as_deref()), (Some("v"), Some("v")));
    // To itself nothing changes, whichever way.
    let before = bench.peek("c").version;
    bench.ask(Verb::Transfer(Transfer { keep: false, replace: true }), "c", "c");
    assert_eq!((bench.get("c").as_deref(), bench.peek("c").version), (Some("v"), before));
    // A hollow item is neither source nor obstacle.
    let vivify = bench.vivifying();
    bench.fetch("hollow", vivify);
    assert_eq!(bench.ask(Verb::Transfer(plain), "hollow", "d").0, Answer::Miss);
    assert!(matches!(bench.ask(Verb::Transfer(plain), "c", "hollow").0, Answer::Stored { .. }));
    assert_eq!(bench.get("hollow").as_deref(), Some("v"));
}

#[test]
fn all_or_none_are_stored_and_a_fault_takes_back_what_was() {
    let mut bench = Bench::new();
    let pairs = |pairs: &[&str]| {
        let part = |text: &&str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        pairs.iter().flat_map(part).collect::<Vec<u8>>()
    };
    let put = |bench: &mut Bench, value: &[u8]| {
        bench.engine.execute(bench.now, &Request { key: b"a", value, verb: Verb::PutAllAbsent }).answer
    };
    assert!(matches!(put(&mut bench, &pairs(&["a", "1", "b", "2", "a", "3"])), Answer::Stored { .. }));
    assert_eq!((bench.get("a").as_deref(), bench.get("b").as_deref()), (Some("3"), Some("2")));
    assert_eq!(put(&mut bench, &pairs(&["c", "1", "b", "4"])), Answer::Refused(Refusal::Present));
    assert_eq!((bench.get("c"), bench.get("b").as_deref()), (None, Some("2")));
    let huge = "x".repeat(2 << 20);
    assert_eq!(put(&mut bench, &pairs(&["d", "1", "e", &huge])), Answer::Fault(Fault::TooLarge));
    assert_eq!((bench.get("d"), bench.get("e")), (None, None));
}

#[test]
fn a_read_may_change_the_expiry_remove_or_end_the_item() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(9);
    let version = bench.set("k", "v");
    let (item, value) = bench.fetch("k", Fetch { expiry: ExpiryChange::Set(expiry), ..BLIND });
    assert_eq!((item.expiry, item.version, value.as_str()), (expiry, version, "v"));
    assert_eq!(bench.peek("k").expiry, expiry);
    assert_eq!(bench.fetch("k", Fetch { remove: true, ..BLIND }).1, "v");
    assert_eq!(bench.get("k"), None);
    bench.set("k", "w");
    let over = Expiry::At(bench.now.mono);
    assert_eq!(bench.fetch("k", Fetch { expiry: ExpiryChange::Set(over), ..BLIND }).1, "w");
    assert_eq!(bench.get("k"), None);
    assert_eq!(bench.engine.counters.removals_total, 2);
}

#[test]
fn a_look_does_not_warm_and_a_read_does() {
    let mut bench = Bench::new();
    bench.set("k", "v");
    assert!(!bench.peek("k").used);
    assert!(!bench.fetch("k", Fetch { warm: false, ..Fetch::PLAIN }).0.used);
    assert!(!bench.fetch("k", Fetch::PLAIN).0.used, "not before this read");
    assert!(bench.peek("k").used);
    assert_eq!((bench.engine.counters.hits_total, bench.engine.counters.misses_total), (2, 0));
}

#[test]
fn every_condition_of_expire_compares_as_redis_does() {
    use ExpireOnly::*;
    // Old expiry in seconds, new one, and which conditions let it pass.
    let cases: [(Option<u64>, Option<u64>, &[ExpireOnly]); 6] = [
        (None, Some(20), &[Any, IfNone, IfEarlier]),
        (Some(10), Some(20), &[Any, IfSome, IfLater, IfSomeAndLater]),
        (Some(20), Some(10), &[Any, IfSome, IfEarlier, IfSomeAndEarlier]),
        (Some(10), Some(10), &[Any, IfSome]),
        (Some(10), None, &[Any, IfSome, IfLater, IfSomeAndLater]),
        (None, None, &[Any, IfNone]),
    ];
    for (old, new, passing) in cases {
        for only in [Any, IfNone, IfSome, IfLater, IfEarlier, IfSomeAndLater, IfSomeAndEarlier] {
            let mut bench = Bench::new();
            let expiry = |seconds: Option<u64>| seconds.map_or(Expiry::Never, |s| bench.in_seconds(s));
            let (old, new) = (expiry(old), expiry(new));
            bench.put("k", "v", Put::plain(old));
            let (answer, _) = bench.ask(Verb::Expire(Expire { expiry: new, only }), "k", "");
            let passes = passing.contains(&only);
            assert_eq!(matches!(answer, Answer::Touched(_)), passes, "{old:?} {new:?} {only:?}");
            assert_eq!(matches!(answer, Answer::Refused(Refusal::Expiry)), !passes);
            assert_eq!(bench.peek("k").expiry, if passes { new } else { old });
        }
    }
}

#[test]
fn an_expiry_that_has_passed_removes() {
    let mut bench = Bench::new();
    let expire = Verb::Expire(Expire { expiry: Expiry::At(Mono(1)), only: ExpireOnly::Any });
    assert_eq!(bench.ask(expire, "k", "").0, Answer::Miss);
    bench.set("k", "v");
    assert!(matches!(bench.ask(expire, "k", "").0, Answer::Touched(_)));
    assert_eq!((bench.get("k"), bench.engine.counters.removals_total), (None, 1));
}

#[test]
fn one_of_many_who_miss_wins_the_right_to_fill_and_a_put_ends_it() {
    let mut bench = Bench::new();
    let (item, value) = bench.fetch("k", bench.vivifying());
    assert_eq!((item.len, value.as_str(), item.expiry), (0, "", bench.in_seconds(30)));
    assert_eq!(item.lease, Lease { won: true, stale: false, taken: false });
    for _ in 0..3 {
        assert_eq!(bench.lease("k", bench.vivifying()), "Z");
        assert_eq!(bench.lease("k", Fetch::PLAIN), "Z");
    }
    bench.put("k", "v", plain_when(Condition::VersionIs(item.version)));
    assert_eq!(bench.lease("k", bench.vivifying()), "");
    assert_eq!(bench.get("k").as_deref(), Some("v"));
    let counters = &bench.engine.counters;
    assert_eq!((counters.hits_total, counters.misses_total), (2, 7));
}

#[test]
fn a_right_to_fill_that_is_not_used_falls_with_its_expiry() {
    let mut bench = Bench::new();
    assert_eq!(bench.lease("k", bench.vivifying()), "W");
    bench.pass_seconds(31);
    assert_eq!(bench.lease("k", bench.vivifying()), "W");
}

#[test]
fn a_hollow_item_is_not_there_for_readers_who_know_no_leases() {
    let mut bench = Bench::new();
    bench.fetch("k", bench.vivifying());
    assert_eq!(bench.get("k"), None);
    assert_eq!(bench.ask(Verb::Peek, "k", "").0, Answer::Miss);
    assert_eq!(bench.ask(Verb::Fetch(BLIND), "k", "").0, Answer::Miss);
    let touch = Expire { expiry: Expiry::Never, only: ExpireOnly::Any };
    assert_eq!(bench.ask(Verb::Expire(touch), "k", "").0, Answer::Miss);
    assert_eq!(bench.count("k", Step::Up(1)), Answer::Refused(Refusal::Absent));
    let splice = Splice {
        front: false,
        create: None,
        flags: 0,
        condition: Condition::Always,
        version: None,
        binary_key: false,
    };
    assert_eq!(bench.ask(Verb::Splice(splice), "k", "x").0, Answer::Refused(Refusal::Absent));
    assert_eq!(bench.lease("k", Fetch::PLAIN), "Z", "none of it changed anything");
    let put = Put { expiry: ExpiryChange::Keep, ..plain_when(Condition::Absent) };
    assert!(matches!(bench.ask(Verb::Put(put), "k", "v").0, Answer::Stored { replaced: false, .. }));
    assert_eq!(bench.peek("k").expiry, Expiry::Never, "the lease's expiry was not the item's");
}

#[test]
fn a_place_is_no_item_to_who_wants_one_and_its_filler_finds_it_by_version() {
    let mut bench = Bench::new();
    bench.fetch("k", bench.vivifying());
    let place = bench.fetch("k", Fetch::PLAIN).0.version;
    let present = plain_when(Condition::Present);
    assert_eq!(bench.ask(Verb::Put(present), "k", "v").0, Answer::Refused(Refusal::Absent));
    let before = Put { previous: true, ..present };
    let nothing = Answer::Previous { existed: false, stored: false, flags: 0 };
    assert_eq!(bench.ask(Verb::Put(before), "k", "v").0, nothing);
    assert_eq!(bench.lease("k", Fetch::PLAIN), "Z", "neither took the right away");
    bench.put("k", "v", plain_when(Condition::VersionIs(place)));
    assert_eq!(bench.get("k").as_deref(), Some("v"));
    bench.put("k", "w", present);
    assert_eq!(bench.get("k").as_deref(), Some("w"));
}

#[test]
fn walks_and_random_keys_leave_places_out() {
    let mut bench = Bench::new();
    for i in 0..100 {
        bench.fetch(&format!("place:{i}"), bench.vivifying());
    }
    let walk = |bench: &mut Bench| {
        let (mut cursor, mut seen) = (0, Vec::new());
        loop {
            let (next, keys) = bench.page(Verb::Scan(Scan { cursor, count: 20, slot: None }), "");
            seen.extend(keys);
            cursor = next;
            if cursor == 0 {
                return seen;
            }
        }
    };
    assert_eq!(walk(&mut bench), Vec::<String>::new());
    assert_eq!(bench.page(Verb::Random, "").1, Vec::<String>::new());
    for i in 0..100 {
        bench.set(&format!("item:{i}"), "v");
    }
    let seen = walk(&mut bench);
    assert!(seen.len() == 100 && seen.iter().all(|key| key.starts_with("item:")), "{seen:?}");
    for _ in 0..50 {
        assert!(bench.page(Verb::Random, "").1[0].starts_with("item:"));
    }
}

#[test]
fn a_stale_value_that_is_stored_elsewhere_stays_stale() {
    let mut bench = Bench::new();
    bench.put("k", "v", Put { stale: true, ..Put::plain(Expiry::Never) });
    assert_eq!(bench.get("k").as_deref(), Some("v"));
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX");
    bench.set("k", "w");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "");
}

#[test]
fn a_removal_takes_the_right_to_fill_away() {
    let mut bench = Bench::new();
    let removals = [Verb::Remove(Remove::PLAIN), Verb::Fetch(Fetch { remove: true, ..BLIND })];
    for removal in removals {
        let version = bench.fetch("k", bench.vivifying()).0.version;
        bench.ask(removal, "k", "");
        let fill = Verb::Put(plain_when(Condition::VersionIs(version)));
        assert_eq!(bench.ask(fill, "k", "late").0, Answer::Refused(Refusal::Absent));
        assert_eq!(bench.get("k"), None);
    }
}

#[test]
fn the_first_reader_of_a_stale_item_wins_and_the_next_are_told() {
    let mut bench = Bench::new();
    let before = bench.set("k", "v");
    let expiry = bench.in_seconds(30);
    let stale = Remove { expiry: ExpiryChange::Set(expiry), ..STALE };
    let Answer::Removed { version } = bench.ask(Verb::Remove(stale), "k", "").0 else {
        panic!("not removed")
    };
    assert!(version > before);
    assert_eq!(bench.get("k").as_deref(), Some("v"), "readers without leases are served, and win nothing");
    assert_eq!(bench.lease("k", BLIND), "X");
    let (item, value) = bench.fetch("k", Fetch::PLAIN);
    assert_eq!((item.version, item.expiry, value.as_str()), (version, expiry, "v"));
    assert_eq!(item.lease, Lease { won: true, stale: true, taken: false });
    assert_eq!(bench.lease("k", Fetch::PLAIN), "XZ");
    bench.ask(Verb::Remove(STALE), "k", "");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX", "stale again, so somebody else may refill");
    bench.set("k", "w");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "");
}

#[test]
fn a_hollow_item_marked_stale_is_won_again_and_stays_hollow() {
    let mut bench = Bench::new();
    bench.fetch("k", bench.vivifying());
    bench.ask(Verb::Remove(STALE), "k", "");
    assert_eq!(bench.get("k"), None);
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "XZ");
}

#[test]
fn an_older_version_fills_stale_and_keeps_expiry_and_lease() {
    let mut bench = Bench::new();
    let expiry = bench.in_seconds(50);
    let old = bench.put("k", "1", Put::plain(expiry));
    bench.ask(Verb::Remove(STALE), "k", "");
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX");
    bench.put("k", "2", plain_when(Condition::VersionIsOrStale(old)));
    let (item, value) = bench.fetch("k", Fetch::PLAIN);
    assert_eq!((value.as_str(), item.expiry), ("2", expiry));
    assert_eq!(item.lease, Lease { won: false, stale: true, taken: true });
    let newer = Condition::VersionIsOrStale(Version(item.version.0 + 1));
    assert_eq!(bench.ask(Verb::Put(plain_when(newer)), "k", "3").0, Answer::Refused(Refusal::Version));
    bench.put("k", "3", plain_when(Condition::VersionIsOrStale(item.version)));
    assert_eq!(bench.lease("k", Fetch::PLAIN), "");
}

#[test]
fn an_item_about_to_end_is_won_by_one_reader() {
    let mut bench = Bench::new();
    bench.put("k", "v", Put::plain(bench.in_seconds(30)));
    bench.set("forever", "v");
    let within = |seconds| Fetch {
        refill_before: Some(Mono(1_000_000_000_000).plus_millis(seconds * 1000)),
        ..Fetch::PLAIN
    };
    assert_eq!(bench.lease("k", within(20)), "");
    assert_eq!(bench.lease("k", within(30)), "", "ends not before, but then");
    let extending = Fetch { expiry: ExpiryChange::Set(bench.in_seconds(300)), ..within(40) };
    assert_eq!(bench.lease("k", extending), "W", "judged by the expiry before");
    assert_eq!(bench.lease("k", within(40)), "Z");
    assert_eq!(bench.lease("forever", within(u64::MAX / 10_000_000)), "");
    assert_eq!(bench.get("k").as_deref(), Some("v"));
}

#[test]
fn what_is_made_from_a_stale_value_stays_stale() {
    let mut bench = Bench::new();
    let splice = Splice {
        front: false,
        create: None,
        flags: 0,
        condition: Condition::Always,
        version: None,
        binary_key: false,
    };
    bench.set("k", "8");
    bench.ask(Verb::Remove(STALE), "k", "");
    bench.count("k", Step::Up(1));
    bench.count("k", Step::Signed(1));
    bench.ask(Verb::Splice(splice), "k", "0");
    bench.ask(Verb::CountFloat, "k", "1");
    bench.ask(Verb::Overwrite { offset: 0 }, "k", "2");
    assert_eq!(bench.get("k").as_deref(), Some("201"));
    assert_eq!(bench.lease("k", Fetch::PLAIN), "WX");
}

#[test]
fn a_flush_forgets_at_once_and_a_delayed_one_when_its_moment_comes() {
    let mut bench = Bench::new();
    bench.set("a", "1");
    bench.set("b", "1");
    let at = bench.now.mono;
    assert_eq!(bench.ask(Verb::Flush { at }, "", "").0, Answer::Number(2));
    assert_eq!((bench.get("a"), bench.ask(Verb::Size, "", "").0), (None, Answer::Number(0)));

    let at = bench.now.mono.plus_millis(5000);
    assert_eq!(bench.ask(Verb::Flush { at }, "", "").0, Answer::Number(0));
    bench.set("a", "2");
    bench.pass_seconds(4);
    assert_eq!(bench.get("a").as_deref(), Some("2"));
    assert_eq!(bench.engine.tick(bench.now), at, "called when it is due");
    bench.set("b", "stored after the command, but before the moment");
    bench.pass_seconds(1);
    assert_eq!((bench.get("a"), bench.get("b")), (None, None));
    bench.set("a", "3");
    bench.pass_seconds(9);
    assert_eq!(bench.get("a").as_deref(), Some("3"), "once only");
}

#[test]
fn a_later_flush_takes_the_place_of_one_that_is_pending() {
    let mut bench = Bench::new();
    bench.set("a", "1");
    for seconds in [2, 100] {
        let at = bench.now.mono.plus_millis(seconds * 1000);
        bench.ask(Verb::Flush { at }, "", "");
    }
    bench.pass_seconds(3);
    assert_eq!(bench.get("a").as_deref(), Some("1"));
    bench.pass_seconds(98);
    bench.engine.tick(bench.now);
    assert_eq!(bench.engine.store.len(), 0);
}

#[test]
fn a_scan_of_many_pages_sees_every_key_that_matches() {
    let mut bench = Bench::new();
    for i in 0..500 {
        bench.set(&format!("user:{i}"), "v");
        bench.set(&format!("{{tag}}:{i}"), "v");
    }
    let tag = crate::hash::slot_of(b"{tag}").number();
    for (slot, pattern, expected) in [
        (None, "", 1000),
        (None, "user:*", 500),
        (None, "user:1?", 10),
        (Some(tag), "*", 500),
        (None, "x", 0),
    ] {
        let (mut cursor, mut seen, mut pages) = (0, std::collections::BTreeSet::new(), 0);
        loop {
            let (next, keys) = bench.page(Verb::Scan(Scan { cursor, count: 40, slot }), pattern);
            seen.extend(keys);
            cursor = next;
            pages += 1;
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{pattern}");
        assert!((1..=1000).contains(&pages), "{pages} pages");
    }
    assert_eq!(bench.ask(Verb::SlotSize { slot: tag }, "", "").0, Answer::Number(500));
}

#[test]
fn a_nasty_pattern_ends_its_page_early_but_goes_on() {
    let mut bench = Bench::new();
    for i in 0..200 {
        bench.set(&format!("{}{i:03}", "a".repeat(20_000)), "v");
    }
    let pattern = format!("{}b", "*a?".repeat(50));
    let scan = |cursor| Verb::Scan(Scan { cursor, count: u32::MAX, slot: None });
    let (mut cursor, mut pages) = (0, 0);
    loop {
        let (next, keys) = bench.page(scan(cursor), &pattern);
        assert!(keys.is_empty());
        pages += 1;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    assert!(pages >= 5, "{pages} pages");
}

#[test]
fn random_keys_are_keys_and_not_always_the_same() {
    let mut bench = Bench::new();
    assert_eq!(bench.page(Verb::Random, "").1, Vec::<String>::new());
    for i in 0..10 {
        bench.set(&format!("k{i}"), "v");
    }
    let picked: std::collections::BTreeSet<_> =
        (0..100).flat_map(|_| bench.page(Verb::Random, "").1).collect();
    assert!(picked.len() > 3 && picked.iter().all(|key| key.starts_with('k')), "{picked:?}");
}

#[test]
fn counters_tell_what_is_held_and_what_left() {
    let mut bench = Bench::new();
    bench.put("a", "1", Put::plain(bench.in_seconds(1)));
    bench.put("b", "1", Put::plain(bench.in_seconds(90)));
    bench.set("c", "1");
    bench.pass_seconds(2);
    bench.engine.tick(bench.now);
    let read = |bench: &mut Bench| {
        let request = Request { key: b"", value: b"", verb: Verb::Counters };
        Counters::from_bytes(bench.engine.execute(bench.now, &request).value.bytes())
    };
    let counters = read(&mut bench);
    assert_eq!((counters.items, counters.items_expiring, counters.payload_bytes), (2, 1, 4));
    assert_eq!((counters.expired_total, counters.writes_total), (1, 3));
    assert_eq!(counters.store_limit_bytes, 64 << 20);
    assert_eq!(bench.ask(Verb::ResetCounters, "", "").0, Answer::Number(0));
    let counters = read(&mut bench);
    assert_eq!((counters.items, counters.expired_total, counters.writes_total), (2, 0, 0));
}

#[test]
fn verbs_of_the_shell_are_unsupported() {
    let mut bench = Bench::new();
    for verb in [Verb::Connections, Verb::Disconnect { client: 1 }] {
        assert_eq!(bench.ask(verb, "", "").0, Answer::Fault(Fault::Unsupported));
    }
}

#[test]
fn a_tick_gives_large_scratch_back_and_says_when_to_come_again() {
    let mut bench = Bench::new();
    bench.set("k", &"x".repeat(1 << 19));
    bench.ask(Verb::Overwrite { offset: 0 }, "k", "y");
    assert!(bench.engine.scratch.capacity() >= 1 << 19);
    bench.fetch("k", Fetch { remove: true, ..BLIND });
    assert!(bench.engine.kept.is_some(), "a long value that is gone is not copied");
    // The store may have the value's memory to give back first, in steps.
    let busy = Mono(bench.now.mono.0 + TICK_BUSY_MICROS * 1000);
    let ends = (0..1000).map(|_| bench.engine.tick(bench.now)).find(|&again| again != busy);
    assert_eq!(ends, Some(bench.now.mono.plus_millis(TICK_QUIET_MILLIS)));
    assert!(bench.engine.scratch.capacity() <= SCRATCH_KEEP_BYTES && bench.engine.kept.is_none());
    bench.put("k", "v", Put::plain(bench.in_seconds(60)));
    assert_eq!(bench.engine.tick(bench.now), bench.now.mono.plus_millis(TICK_EXPIRING_MILLIS));
}
