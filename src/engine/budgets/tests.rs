//! What keyspaces may take, and which of two values counts: with an engine alone.

use super::*;
use crate::clock::Wall;
use crate::engine::through::PARKED_PER_TURN;
use crate::ids::{ConnectionId, CoreId};
use crate::message::ReturnAddress;
use crate::origin::keyspace::{Conflict, Keys, Keyspaces, WritePolicy};
use crate::origin::pool::Failure;
use crate::origin::{Ask, Found as Fetched, Reply as Told};
use crate::request::{Named, Put};

fn keyspace(name: &str, budget: Budget) -> Keyspace {
    Keyspace {
        name: name.into(),
        keys: Keys::Prefix(format!("{name}:").into()),
        budget: Arc::new(budget),
        conflict: Conflict::Epoch,
        ..Keyspace::plain()
    }
}

/// An engine, time, and what came of requests.
struct World {
    engine: Engine,
    now: Now,
    asked: VecDeque<(Ticket, Ask)>,
    answers: Vec<(Answer, Vec<u8>)>,
    next: u32,
}

impl World {
    fn new(keyspaces: Vec<Keyspace>) -> World {
        let store =
            store::Options { memory_bytes_max: 32 << 20, item_bytes_max: 1 << 20, hash_secret: [3, 4] };
        let mut engine = Engine::new(Options { store, seed: 5 });
        engine.set_keyspaces(Arc::new(Keyspaces::new(keyspaces)));
        let now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_000_000_000_000) };
        World { engine, now, asked: VecDeque::new(), answers: Vec::new(), next: 0 }
    }

    fn pass_millis(&mut self, millis: u64) {
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall = Wall(self.now.wall.0 + millis);
    }

    fn request(&mut self, key: &str, value: &[u8], verb: Verb) {
        self.next += 1;
        let connection = ConnectionId { place: 1, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: self.next } };
        let request = Request { key: key.as_bytes(), value, verb };
        if let Some(outcome) = self.engine.serve(self.now, waiter, &request) {
            self.answers.push((outcome.answer, outcome.value.bytes().to_vec()));
        }
        self.take_effects();
    }

    fn get(&mut self, key: &str) {
        self.request(key, b"", Verb::Get);
    }

    fn take_effects(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Ask { ticket, ask, .. } => self.asked.push_back((ticket, ask)),
                Effect::Answer { answer, value, .. } => self.answers.push((answer, value.to_vec())),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The origin answers the oldest question.
    fn answer(&mut self, reply: Told) {
        let (ticket, _) = self.asked.pop_front().expect("asked");
        self.engine.answered(self.now, ticket, reply);
        self.take_effects();
    }

    fn last(&self) -> (Answer, &str) {
        let (answer, value) = self.answers.last().expect("answered");
        (*answer, std::str::from_utf8(value).expect("text"))
    }

    fn value(&self) -> &str {
        let (answer, value) = self.last();
        assert!(matches!(answer, Answer::Item(_)), "{answer:?} {value}");
        value
    }

    /// Reads a key and has the origin answer with so many bytes, if it is asked.
    fn fill(&mut self, key: &str, bytes: usize) {
        self.get(key);
        if !self.asked.is_empty() {
            self.answer(found(&"v".repeat(bytes)));
        }
        self.engine.attend(self.now);
    }

    /// What all items under a prefix take, counted one by one.
    fn bytes_under(&mut self, prefix: &str) -> u64 {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut cursor = 0;
        loop {
            let each = &mut |key: &[u8]| keys.push(key.to_vec());
            cursor = self.engine.store.walk(self.now.mono, None, cursor, 1000, each);
            if cursor == 0 {
                break;
            }
        }
        keys.sort();
        keys.dedup();
        let ours = keys.iter().filter(|key| key.starts_with(prefix.as_bytes()));
        let mut bytes = 0;
        for key in ours {
            let probe = self.engine.store.probe(key);
            let held = self.engine.look(self.now.mono, probe, key, false).expect("it was there");
            bytes += (key.len() + held.len) as u64 + ITEM_OVERHEAD_BYTES;
        }
        bytes
    }
}

fn found(value: &str) -> Told {
    Told::Found(Fetched { value: value.into(), ..Fetched::default() })
}

fn versioned(value: &str, version: u64) -> Told {
    Told::Found(Fetched { value: value.into(), version: Some(Version(version)), ..Fetched::default() })
}

#[test]
fn no_more_fetches_are_on_their_way_than_a_keyspace_may_have_and_the_others_wait_in_order() {
    let mut world = World::new(vec![keyspace("a", Budget::new(0, 0, 2)), keyspace("b", Budget::default())]);
    for i in 0..5 {
        world.get(&format!("a:{i}"));
    }
    world.get("b:1");
    let keys = |world: &World| -> Vec<String> {
        world.asked.iter().map(|(_, ask)| String::from_utf8(ask.key.clone()).expect("text")).collect()
    };
    assert_eq!(keys(&world), ["a:0", "a:1", "b:1"], "who has no bound does not wait behind who has");
    world.answer(found("zero"));
    assert_eq!((keys(&world), world.value()), (["a:1", "b:1", "a:2"].map(String::from).to_vec(), "zero"));
    // A failure gives its permit back, and the attempt that takes over waits its turn.
    let (failed, _) = world.asked.pop_front().expect("asked");
    world.engine.failed(world.now, failed, Failure::Closed);
    world.take_effects();
    assert_eq!(keys(&world), ["b:1", "a:2", "a:3"]);
    world.answer(found("b"));
    for wanted in [vec!["a:3", "a:4"], vec!["a:4", "a:1"], vec!["a:1"], vec![]] {
        world.answer(found("x"));
        assert_eq!(keys(&world), wanted);
    }
    assert_eq!(world.answers.len(), 6);
    // Writes are not the cache's to put off.
    for i in 0..4 {
        world.request(&format!("a:w{i}"), b"v", Verb::Put(Put::plain(Expiry::Never)));
    }
    assert_eq!(world.asked.len(), 4);
}

#[test]
fn beyond_its_rate_a_keyspace_asks_nothing_and_says_so_or_serves_what_is_stale() {
    let mut stale = keyspace("s", Budget::new(0, 1, 0));
    (stale.fresh_millis, stale.stale_error_millis) = (100, 100_000);
    let mut world = World::new(vec![keyspace("a", Budget::new(0, 3, 0)), stale]);
    for i in 0..5 {
        world.get(&format!("a:{i}"));
    }
    assert_eq!(world.asked.len(), 3);
    let text = "ERR the keyspace a may ask its origin 3 times a second, and has";
    assert_eq!(world.last(), (Answer::Fault(Fault::Origin), text));
    assert_eq!((world.answers.len(), world.engine.tallies()[0].over_budget), (2, 2));
    // Who joins a fetch asks nothing.
    world.get("a:0");
    world.answer(found("zero"));
    assert_eq!((world.answers.len(), world.value()), (4, "zero"));
    world.pass_millis(334);
    world.get("a:9");
    assert_eq!(world.asked.len(), 3, "a third of a second pays for one");
    world.asked.clear();
    world.get("s:1");
    world.answer(found("old"));
    world.get("s:2");
    assert!(matches!(world.last().0, Answer::Fault(_)));
    world.pass_millis(200);
    world.get("s:1");
    assert_eq!((world.value(), world.asked.len()), ("old", 0));
    world.pass_millis(1000);
    world.get("s:1");
    assert_eq!(world.asked.len(), 1);
}

#[test]
fn a_keyspace_keeps_to_its_memory_and_what_is_wanted_stays() {
    const BYTES_MAX: u64 = 256 << 10;
    let mut world =
        World::new(vec![keyspace("a", Budget::new(BYTES_MAX, 0, 0)), keyspace("b", Budget::default())]);
    for i in 0..2000 {
        world.fill(&format!("b:{i}"), 100);
    }
    for i in 0..200 {
        world.fill(&format!("a:hot{i}"), 100);
    }
    let beside = world.bytes_under("b:");
    let mut most = 0;
    for i in 0..20_000 {
        world.fill(&format!("a:{i}"), 100);
        if i % 10 == 0 {
            world.pass_millis(20);
            world.get(&format!("a:hot{}", (i / 10) % 200));
            if !world.asked.is_empty() {
                world.answer(found(&"v".repeat(100)));
            }
        }
        if i % 500 == 499 {
            most = most.max(world.bytes_under("a:"));
        }
    }
    assert!(most <= BYTES_MAX * 5 / 4, "{most} bytes of {BYTES_MAX}");
    let held = world.bytes_under("a:");
    assert!(held >= BYTES_MAX / 2, "{held} bytes: no more than it has to is removed");
    let (hot, all) = (world.bytes_under("a:hot"), 200 * (100 + 6 + 24));
    assert!(hot >= all * 9 / 10, "{hot} of {all} bytes that are read again and again are held");
    assert_eq!(world.bytes_under("b:"), beside, "others lose nothing");
    // What is told is about what is so.
    (0..200).for_each(|_| {
        world.pass_millis(100);
        world.engine.tick(world.now);
        world.engine.attend(world.now);
    });
    let tallies = world.engine.tallies().to_vec();
    let real = [world.bytes_under("a:"), world.bytes_under("b:")];
    for (tally, real) in tallies.iter().zip(real) {
        assert!(tally.bytes.abs_diff(real) <= real / 8, "told {}, is {real}", tally.bytes);
    }
    assert!(tallies[0].evicted > 10_000 && tallies[1].evicted == 0);
}

#[test]
fn a_value_larger_than_its_keyspaces_memory_is_handed_out_and_not_kept() {
    let mut world = World::new(vec![keyspace("a", Budget::new(64 << 10, 0, 0))]);
    world.fill("a:large", 100 << 10);
    assert_eq!(world.value().len(), 100 << 10);
    assert_eq!((world.engine.tallies()[0].unkept, world.bytes_under("a:")), (1, 0));
    world.request("a:large", &[b'w'; 100 << 10], Verb::Put(Put::plain(Expiry::Never)));
    world.answer(Told::Written);
    assert!(matches!(world.last().0, Answer::Stored { .. }));
    assert_eq!((world.engine.tallies()[0].unkept, world.bytes_under("a:")), (2, 0));
    world.fill("a:small", 100);
    world.get("a:small");
    assert_eq!((world.value().len(), world.asked.len()), (100, 0));
}

#[test]
fn where_the_origins_versions_count_nothing_older_is_served_or_kept() {
    let mut by_source = keyspace("a", Budget::default());
    by_source.conflict = Conflict::Source;
    let mut world = World::new(vec![by_source, keyspace("e", Budget::default())]);
    let forget = |world: &mut World, key: &str| world.request(key, b"", Verb::Invalidate(Named::Key));
    world.get("a:1");
    world.answer(versioned("new", 7));
    // The item is gone, by an invalidation; a replica that lags answers twice, then one that does not.
    forget(&mut world, "a:1");
    world.get("a:1");
    world.answer(versioned("old", 6));
    world.answer(versioned("older", 5));
    assert_eq!(world.asked.len(), 1, "it is asked again for who waits");
    world.answer(versioned("new", 7));
    assert_eq!(world.value(), "new");
    forget(&mut world, "a:1");
    world.get("a:1");
    (0..3).for_each(|_| world.answer(versioned("old", 6)));
    let text = "ERR the origin answered with an older version than before";
    assert_eq!((world.last(), world.asked.len()), ((Answer::Fault(Fault::Origin), text), 0));
    assert_eq!(world.engine.tallies()[0].outdated, 5);
    // A write has a version that nobody knows, greater than those seen: it is not kept, and what was seen before it is old.
    world.request("a:1", b"written", Verb::Put(Put::plain(Expiry::Never)));
    world.answer(Told::Written);
    world.get("a:1");
    world.answer(versioned("new", 7));
    world.answer(versioned("written", 8));
    assert_eq!(world.value(), "written");
    world.get("a:1");
    assert_eq!((world.value(), world.asked.len()), ("written", 0));
    // By the owner's order what came last is what is held, and so is a write.
    world.get("e:1");
    world.answer(versioned("new", 7));
    forget(&mut world, "e:1");
    world.get("e:1");
    world.answer(versioned("old", 6));
    assert_eq!(world.value(), "old");
    world.request("e:1", b"written", Verb::Put(Put::plain(Expiry::Never)));
    world.answer(Told::Written);
    world.get("e:1");
    assert_eq!((world.value(), world.asked.len()), ("written", 0));
}

#[test]
fn where_the_time_of_writing_counts_an_older_value_does_not_replace_a_later_write() {
    for (conflict, after_older) in [(Conflict::Lww, "ours"), (Conflict::Epoch, "theirs")] {
        let mut keyspace = keyspace("a", Budget::default());
        (keyspace.conflict, keyspace.write) = (conflict, WritePolicy::CacheOnly);
        (keyspace.fresh_millis, keyspace.stale_error_millis) = (1000, 100_000);
        let mut world = World::new(vec![keyspace]);
        let at = world.now.mono.plus_millis(101_500);
        world.request("a:1", b"ours", Verb::Put(Put::plain(Expiry::At(at))));
        let seconds = world.now.wall.0 / 1000;
        let theirs = |value: &str, written| {
            let (value, written_seconds) = (value.into(), Some(written));
            Told::Found(Fetched { value, written_seconds, ..Fetched::default() })
        };
        world.pass_millis(3000);
        world.get("a:1");
        world.answer(theirs("theirs", seconds - 60));
        assert_eq!(world.value(), after_older, "{conflict:?}");
        world.pass_millis(3000);
        world.get("a:1");
        world.answer(theirs("newer", seconds + 2));
        assert_eq!(world.value(), "newer");
        world.get("a:1");
        assert_eq!((world.value(), world.asked.len()), ("newer", 0));
    }
}

#[test]
fn a_turn_with_many_reads_that_wait_is_strained_until_the_next_one() {
    let mut world = World::new(vec![keyspace("a", Budget::default())]);
    world.engine.begin_turn(false);
    world.fill("a:hit", 10);
    for i in 1..PARKED_PER_TURN {
        assert!(!world.engine.strained && !world.engine.has_parked_enough());
        world.get(&format!("a:{i}"));
    }
    assert!(world.engine.strained && world.engine.has_parked_enough());
    let parked = world.engine.parked();
    world.get("a:hit");
    assert_eq!(world.engine.parked(), parked, "a hit waits for nobody");
    world.engine.begin_turn(false);
    assert!(!world.engine.strained && !world.engine.has_parked_enough());
    world.engine.begin_turn(true);
    assert!(world.engine.strained, "for another reason");
}
