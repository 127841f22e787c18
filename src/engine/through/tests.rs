//! When each window ends, who is answered in which order, and what is kept: with an engine alone, in virtual time.

use super::*;
use crate::clock::Wall;
use crate::ids::{ConnectionId, CoreId};
use crate::message::ReturnAddress;

/// An engine, time, and what came of requests.
struct World {
    engine: Engine,
    now: Now,
    asked: VecDeque<(Ticket, Cause, What)>,
    answers: Vec<(u32, Answer, Vec<u8>)>,
    next: u32,
}

impl World {
    fn new(keyspace: Keyspace) -> World {
        let store =
            store::Options { memory_bytes_max: 8 << 20, item_bytes_max: 1 << 20, hash_secret: [3, 4] };
        let mut engine = Engine::new(Options { store, seed: 5 });
        engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace])));
        let now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_000_000_000_000) };
        World { engine, now, asked: VecDeque::new(), answers: Vec::new(), next: 0 }
    }

    fn pass_millis(&mut self, millis: u64) {
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall = Wall(self.now.wall.0 + millis);
    }

    fn take_effects(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Ask { ticket, cause, ask, .. } => self.asked.push_back((ticket, cause, ask.what)),
                Effect::Answer { waiter, answer, value } => {
                    self.answers.push((waiter.address.ticket, answer, value.to_vec()));
                }
                Effect::Hurry { .. } => {}
                Effect::Pass { .. } | Effect::Forget { .. } => panic!("nothing passes here: {effect:?}"),
            }
        }
    }

    /// Requests, each from a connection of its own.
    fn request(&mut self, key: &str, value: &[u8], verb: Verb) {
        self.next += 1;
        let connection = ConnectionId { place: self.next, generation: 0 };
        let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: self.next } };
        let request = Request { key: key.as_bytes(), value, verb };
        if let Some(outcome) = self.engine.serve(self.now, waiter, &request) {
            self.answers.push((self.next, outcome.answer, outcome.value.bytes().to_vec()));
        }
        self.take_effects();
    }

    fn get(&mut self, key: &str) {
        self.request(key, b"", Verb::Get);
    }

    /// What the origin was asked for, and has not answered.
    fn question(&mut self) -> Option<(Cause, What)> {
        self.asked.back().map(|(_, cause, what)| (*cause, what.clone()))
    }

    fn answer(&mut self, told: Told) {
        let (ticket, ..) = self.asked.pop_front().expect("it was asked");
        self.engine.answered(self.now, ticket, told);
        self.take_effects();
    }

    fn fail(&mut self) {
        let (ticket, ..) = self.asked.pop_front().expect("it was asked");
        self.engine.failed(self.now, ticket, Failure::Overdue);
        self.take_effects();
    }

    /// What was answered since this was last asked, as text; `-` for nothing there, `!` before a fault.
    fn told(&mut self) -> Vec<String> {
        let text = |(_, answer, value): (u32, Answer, Vec<u8>)| match answer {
            Answer::Item(_) => String::from_utf8(value).expect("text"),
            Answer::Miss => "-".to_owned(),
            Answer::Fault(Fault::Origin) => format!("!{}", String::from_utf8(value).expect("text")),
            Answer::Stored { .. } => "stored".to_owned(),
            other => format!("{other:?}"),
        };
        std::mem::take(&mut self.answers).into_iter().map(text).collect()
    }
}

fn found(value: &str) -> Told {
    Told::Found(Fetched { value: value.into(), ..Fetched::default() })
}

fn rules() -> Keyspace {
    Keyspace {
        fresh_millis: 1000,
        stale_millis: 2000,
        stale_error_millis: 5000,
        negative_millis: 300,
        attempts_max: 1,
        ..Keyspace::plain()
    }
}

#[test]
fn each_window_ends_when_it_says() {
    let mut world = World::new(rules());
    world.get("k");
    world.answer(found("one"));
    assert_eq!(world.told(), ["one"]);
    let mut at = 0;
    let mut get_at = |world: &mut World, millis: u64| {
        world.pass_millis(millis - at);
        at = millis;
        world.get("k");
        (world.told(), world.question().map(|(cause, _)| cause))
    };
    let one = || vec!["one".to_owned()];
    assert_eq!(get_at(&mut world, 999), (one(), None), "fresh");
    assert_eq!(get_at(&mut world, 1000), (one(), Some(Cause::Refresh)), "stale, and asked for behind that");
    assert_eq!(get_at(&mut world, 1001), (one(), Some(Cause::Refresh)), "once");
    world.fail();
    assert_eq!(get_at(&mut world, 1002), (one(), None), "a refresh that failed is not repeated at once");
    assert_eq!(get_at(&mut world, 2999), (one(), Some(Cause::Refresh)), "the last of the stale window");
    world.fail();
    assert_eq!(get_at(&mut world, 3000), (vec![], Some(Cause::Demand)), "whoever asks now waits");
    world.fail();
    assert_eq!(world.told(), ["one"], "as the origin cannot answer");
    assert_eq!(get_at(&mut world, 5999), (vec![], Some(Cause::Demand)));
    world.fail();
    assert_eq!(world.told(), ["one"]);
    assert_eq!(get_at(&mut world, 6000), (vec![], Some(Cause::Demand)));
    world.fail();
    assert_eq!(world.told(), ["!ERR the origin did not answer in time"], "too old for anybody");
    let tally = world.engine.tallies()[0];
    assert_eq!((tally.stale, tally.stale_on_error, tally.failed), (4, 2, 1));
}

#[test]
fn an_absence_is_believed_for_its_time_and_a_write_ends_it() {
    let mut world = World::new(rules());
    world.get("k");
    world.answer(Told::Absent { fresh_millis: None });
    world.pass_millis(299);
    world.get("k");
    assert_eq!((world.told(), world.question()), (vec!["-".to_owned(), "-".to_owned()], None));
    world.pass_millis(2);
    world.get("k");
    assert!(world.question().is_some(), "it may be there by now");
    // The origin says that it will be for a shorter time.
    world.answer(Told::Absent { fresh_millis: Some(100) });
    world.pass_millis(101);
    world.get("k");
    world.answer(Told::Absent { fresh_millis: None });
    assert_eq!(world.told(), ["-", "-"]);
    world.request("k", b"v", Verb::Put(Put::plain(Expiry::Never)));
    world.answer(Told::Written);
    world.get("k");
    assert_eq!(world.told(), ["stored", "v"]);
    assert_eq!(world.engine.tallies()[0].negative, 1);
}

#[test]
fn all_who_wait_are_answered_in_the_order_in_which_they_came() {
    let mut world = World::new(rules());
    (0..100).for_each(|_| world.get("k"));
    assert_eq!((world.asked.len(), world.answers.len()), (1, 0));
    world.answer(found("one"));
    let numbers: Vec<u32> = world.answers.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert_eq!(world.engine.tallies()[0].coalesced, 99);
    assert!(world.told().iter().all(|told| told == "one"));
}

#[test]
fn a_value_beyond_value_size_is_handed_out_and_not_kept() {
    let mut world = World::new(Keyspace { value_bytes_max: 3, ..rules() });
    for (value, kept) in [("four", false), ("six", true)] {
        world.get("k");
        world.answer(found(value));
        world.get("k");
        assert_eq!(world.question().is_none(), kept, "{value}");
        if !kept {
            world.answer(Told::Absent { fresh_millis: Some(0) });
        }
    }
    assert_eq!(world.told(), ["four", "-", "six", "six"]);
    // What is written through goes to the origin whatever its length.
    world.request("k", b"four", Verb::Put(Put::plain(Expiry::Never)));
    assert!(matches!(world.question(), Some((_, What::Put { .. }))));
    world.answer(Told::Written);
    world.get("k");
    assert_eq!(world.told(), ["stored"]);
    assert!(world.question().is_some(), "neither the new value nor the old one is held");
}

#[test]
fn a_write_leaves_the_cache_as_its_policy_says_whatever_the_origin_does() {
    let refused = || Told::Refused(b"ERR no".to_vec());
    let unknown = "!ERR the origin did not answer: the write may or may not have happened";
    // What the origin does, what the writer is told, and what a reader finds then; nothing: the origin is asked again.
    type Deed = Option<fn() -> Told>;
    let table: [(WritePolicy, Deed, &str, Option<&str>); 6] = [
        (WritePolicy::Through, Some(|| Told::Written), "stored", Some("new")),
        (WritePolicy::Through, Some(refused), "!ERR no", Some("old")),
        (WritePolicy::Through, None, unknown, None),
        (WritePolicy::Invalidate, Some(|| Told::Written), "stored", None),
        (WritePolicy::Invalidate, Some(refused), "!ERR no", Some("old")),
        (WritePolicy::Invalidate, None, unknown, None),
    ];
    for (write, deed, told, then) in table {
        let mut world = World::new(Keyspace { write, ..rules() });
        world.get("k");
        world.answer(found("old"));
        world.told();
        world.request("k", b"new", Verb::Put(Put::plain(Expiry::Never)));
        assert_eq!(world.told().len(), 0, "the origin comes first");
        match deed {
            Some(told) => world.answer(told()),
            None => world.fail(),
        }
        assert_eq!(world.told(), [told], "{write:?}");
        world.get("k");
        assert_eq!(world.told(), Vec::from_iter(then), "{write:?}, {told}");
        assert_eq!(world.question().is_some(), then.is_none(), "{write:?}, {told}");
    }
    let mut world = World::new(Keyspace { write: WritePolicy::CacheOnly, ..rules() });
    world.request("k", b"new", Verb::Put(Put::plain(Expiry::Never)));
    world.get("k");
    assert_eq!((world.told(), world.question()), (vec!["stored".to_owned(), "new".to_owned()], None));
}

#[test]
fn what_is_written_or_invalidated_while_it_is_fetched_is_told_to_who_asked_before_and_not_kept() {
    for invalidates in [false, true] {
        let mut world = World::new(rules());
        world.get("k");
        let before = world.asked.pop_front().expect("asked");
        if invalidates {
            world.request("k", b"", Verb::Invalidate(Named::Key));
        } else {
            world.request("k", b"new", Verb::Put(Put::plain(Expiry::Never)));
            world.answer(Told::Written);
        }
        world.told();
        // Whoever asks now does not join what began before.
        world.get("k");
        assert_eq!(world.question().is_some(), invalidates);
        assert_eq!(world.told(), if invalidates { vec![] } else { vec!["new".to_owned()] });
        world.engine.answered(world.now, before.0, found("old"));
        world.take_effects();
        assert_eq!(world.told(), ["old"], "either was right when he asked");
        if invalidates {
            world.answer(found("new"));
            assert_eq!(world.told(), ["new"]);
        }
        world.get("k");
        assert_eq!((world.told(), world.question()), (vec!["new".to_owned()], None));
        assert_eq!(world.engine.tallies()[0].voided, 1);
    }
}
