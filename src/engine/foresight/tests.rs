//! Of guesses and what becomes of them, with an engine and an origin whose every value is its key's.

use super::*;
use crate::clock::Wall;
use crate::hash::slot_of;
use crate::message::ReturnAddress;
use crate::origin::keyspace::{Keys, Keyspace, Keyspaces};
use crate::origin::pool::Failure;
use crate::origin::{Found as Fetched, Reply as Told, Ticket};
use crate::request::{Named, Put};
use std::collections::HashMap;
use std::sync::Arc;

mod hardships;

const MIB: u64 = 1 << 20;

fn keyspace() -> Keyspace {
    Keyspace { name: "all".into(), ..Keyspace::plain() }
}

/// An engine and an origin whose every value is its key's; time goes by 1 ms with each request.
struct World {
    engine: Engine,
    millis: u64,
    under_way: Vec<(Ticket, Cause, Vec<u8>)>,
    asked: HashMap<Vec<u8>, usize>,
}

impl World {
    fn new(prefetch: bool) -> World {
        World::with(vec![Keyspace { prefetch, ..keyspace() }])
    }

    fn with(keyspaces: Vec<Keyspace>) -> World {
        let store =
            store::Options { memory_bytes_max: 16 * MIB, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        let mut engine = Engine::new(Options { store, seed: 1 });
        engine.set_keyspaces(Arc::new(Keyspaces::new(keyspaces)));
        World { engine, millis: 1, under_way: Vec::new(), asked: HashMap::new() }
    }

    fn now(&self) -> Now {
        Now { mono: Mono(0).plus_millis(self.millis), wall: Wall(self.millis) }
    }

    fn do_it(&mut self, client: u32, key: &str, value: &str, verb: Verb) -> bool {
        self.millis += 1;
        let (core, connection) = (CoreId(0), ConnectionId { place: client, generation: 0 });
        let waiter = Waiter { core, address: ReturnAddress { connection, ticket: 0 } };
        let request = Request { key: key.as_bytes(), value: value.as_bytes(), verb };
        let hit = self.engine.serve(self.now(), waiter, &request).is_some();
        self.poll();
        hit
    }

    /// Whether it was found at once.
    fn get(&mut self, client: u32, key: &str) -> bool {
        self.do_it(client, key, "", Verb::Get)
    }

    fn poll(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            if let Effect::Ask { ticket, cause, ask, .. } = effect {
                *self.asked.entry(ask.key.clone()).or_default() += 1;
                self.under_way.push((ticket, cause, ask.key));
            }
        }
    }

    /// Lets candidates take off; how many did.
    fn prefetch(&mut self, room: usize) -> usize {
        let before = self.under_way.len();
        self.engine.prefetch(self.now(), &mut [room]);
        self.poll();
        self.under_way.len() - before
    }

    /// All that is under way comes back.
    fn land(&mut self) {
        for (ticket, _, key) in std::mem::take(&mut self.under_way) {
            let found = Fetched { value: key, ..Fetched::default() };
            self.engine.answered(self.now(), ticket, Told::Found(found));
        }
        self.poll();
    }

    fn forget(&mut self, keys: &[String]) {
        for key in keys {
            self.do_it(9, key, "", Verb::Invalidate(Named::Key));
        }
    }

    fn tally(&self) -> PrefetchTally {
        self.engine.prefetch_tally().expect("it prefetches")
    }

    fn score(&self, source: Source) -> Score {
        self.tally().scores[source as usize]
    }

    /// Walks the keys as often, and leaves none of them in the cache.
    fn teach(&mut self, keys: &[String], times: usize) {
        for _ in 0..times {
            for key in keys {
                self.get(0, key);
                self.land();
            }
            self.forget(keys);
            // What was guessed meanwhile is too old.
            self.millis += 1000;
            assert_eq!(self.prefetch(1000), 0);
        }
    }
}

fn words() -> Vec<String> {
    ["ape", "bear", "cat", "dog", "eel", "fox"].map(str::to_owned).to_vec()
}

#[test]
fn a_sequence_seen_before_is_fetched_ahead_and_found_and_each_key_is_asked_for_once() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    let asked = world.asked.clone();
    let mut hits = 0;
    for key in words() {
        hits += usize::from(world.get(0, &key));
        world.prefetch(1000);
        world.land();
    }
    assert_eq!(hits, 5, "all but the first; {:?}", world.tally());
    for (key, times) in &world.asked {
        assert_eq!(times - asked[key], 1, "{key:?}");
    }
    let score = world.score(Source::Successor);
    assert_eq!((score.used, score.late), (5, 0), "{:?}", world.tally());
    assert_eq!((world.tally().under_way, world.tally().landed), (0, score.issued));
}

#[test]
fn another_client_in_between_does_not_blur_a_clients_sequence() {
    let mut world = World::new(true);
    let noise = |i: usize| format!("noise-{i:x}-x");
    for round in 0..8 {
        for (i, key) in words().iter().enumerate() {
            world.get(0, key);
            world.get(1, &noise(round * 100 + i));
            world.land();
        }
        world.forget(&words());
        world.millis += 1000;
    }
    world.prefetch(1000);
    let mut hits = 0;
    for (i, key) in words().iter().enumerate() {
        hits += usize::from(world.get(0, key));
        world.get(1, &noise(5000 + i));
        world.prefetch(1000);
        world.land();
    }
    assert_eq!(hits, 5);
    assert!(world.asked.keys().filter(|key| key.starts_with(b"noise")).count() == 8 * 6 + 6);
}

#[test]
fn pages_that_are_walked_are_fetched_ahead_by_their_numbers_as_they_are_written() {
    for (name, first, step) in [("user:7:page:", 1, 1), ("img-0", 10, 3)] {
        let mut world = World::new(true);
        let key = |i: u64| format!("{name}{:03}", first + i * step);
        let hits: usize = (0..40)
            .map(|i| {
                let hit = world.get(0, &key(i));
                world.prefetch(1000);
                world.land();
                usize::from(hit)
            })
            .sum();
        assert!(hits >= 30, "{hits} of 40 found: {:?}", world.tally());
        let keys: Vec<_> = (0..60).map(|i| key(i).into_bytes()).collect();
        assert!(world.asked.keys().all(|asked| keys.contains(asked)), "{:?}", world.asked.keys());
        assert!(world.asked.values().all(|&times| times == 1));
    }
}

#[test]
fn who_wants_what_is_being_prefetched_joins_it_and_the_origin_is_told_to_hurry() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    world.get(0, "ape");
    world.land();
    assert!(world.prefetch(1000) > 0);
    let waits: Vec<_> = world.under_way.iter().map(|(_, cause, key)| (*cause, key.clone())).collect();
    assert!(waits.contains(&(Cause::Prefetch, b"bear".to_vec())), "{waits:?}");
    let asked = world.asked[b"bear".as_slice()];
    world.millis += 1;
    let connection = ConnectionId { place: 0, generation: 0 };
    let waiter = Waiter { core: CoreId(0), address: ReturnAddress { connection, ticket: 7 } };
    let request = Request { key: b"bear", value: b"", verb: Verb::Get };
    assert!(world.engine.serve(world.now(), waiter, &request).is_none());
    let ticket = world.under_way.iter().find(|(_, _, key)| key == b"bear").expect("under way").0;
    let effects: Vec<_> = std::iter::from_fn(|| world.engine.poll_effect()).collect();
    assert!(
        matches!(effects[..], [Effect::Hurry { ticket: hurried, .. }] if hurried == ticket),
        "{effects:?}"
    );
    let found = Fetched { value: b"bear".to_vec(), ..Fetched::default() };
    world.engine.answered(world.now(), ticket, Told::Found(found));
    let effects: Vec<_> = std::iter::from_fn(|| world.engine.poll_effect()).collect();
    assert!(matches!(&effects[..], [Effect::Answer { waiter: who, .. }] if *who == waiter), "{effects:?}");
    assert_eq!(world.asked[b"bear".as_slice()], asked, "nothing was asked for twice");
    let score = world.score(Source::Successor);
    assert_eq!((score.late, score.used), (1, 0), "{:?}", world.tally());
}

#[test]
fn what_is_written_or_invalidated_meanwhile_is_not_overwritten_by_a_prefetch() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    world.get(0, "ape");
    world.land();
    assert!(world.prefetch(1000) > 0);
    // Written by a client, and acknowledged by the origin, before the prefetch comes back.
    let fetches = std::mem::take(&mut world.under_way);
    world.do_it(1, "bear", "new", Verb::Put(Put::plain(Expiry::Never)));
    for (ticket, _, _) in std::mem::take(&mut world.under_way) {
        world.engine.answered(world.now(), ticket, Told::Written);
    }
    world.forget(&["cat".to_owned()]);
    world.under_way = fetches;
    world.land();
    let peek = |world: &mut World, key: &str| {
        let request = Request { key: key.as_bytes(), value: b"", verb: Verb::Peek };
        let now = world.now();
        world.engine.execute(now, &request).value.bytes().to_vec()
    };
    assert_eq!(peek(&mut world, "bear"), b"new");
    assert_eq!(peek(&mut world, "cat"), b"");
    let tally = world.tally();
    assert!(tally.drops.voided >= 1, "{tally:?}");
    assert_eq!(
        tally.scores.iter().map(|score| score.wasted).sum::<u64>(),
        0,
        "no guess was wrong: {tally:?}"
    );
}

#[test]
fn without_room_nothing_is_asked_and_candidates_pass_with_their_moment() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    world.get(0, "ape");
    world.land();
    assert!(world.engine.has_candidates());
    assert_eq!(world.prefetch(0), 0);
    assert!(world.engine.attend(world.now()).is_some(), "it is to be looked at again");
    world.millis += WAIT_MILLIS + 1;
    assert!(
        world.engine.attend(world.now()).is_none_or(|due| due > world.now().mono.plus_millis(ROOM_MILLIS))
    );
    assert_eq!(world.prefetch(1000), 0);
    assert!(!world.engine.has_candidates() && world.tally().drops.waited > 0);
}

#[test]
fn an_origin_that_fails_is_no_fault_of_the_guess_and_the_key_rests() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    world.get(0, "ape");
    world.land();
    let before = world.tally();
    let count = world.prefetch(1000) as u64;
    assert!(count > 0);
    for (ticket, _, _) in std::mem::take(&mut world.under_way) {
        world.engine.failed(world.now(), ticket, Failure::Overdue);
    }
    world.poll();
    let tally = world.tally();
    assert_eq!(tally.drops.failed, count);
    assert_eq!((tally.under_way, tally.landed), (0, before.landed));
    assert!(tally.scores.iter().all(|score| score.wasted == 0));
    assert!(world.under_way.is_empty(), "nobody waits: nobody tries again");
    world.get(5, "ape");
    assert_eq!(world.prefetch(1000), 0, "they rest for a moment: {:?}", world.asked);
}

#[test]
fn a_walk_without_sense_stays_within_its_budget_and_comes_to_rest() {
    let mut world = World::new(true);
    let mut dice = 7u64;
    let (mut fetched_at_rest, mut demanded_at_rest, mut rested) = (0, 0, false);
    for i in 0..40_000 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let hit = world.get(0, &format!("w{:x}x", dice >> 33 & 0xFFF));
        // Nothing stays: every read needs the origin.
        let fetched = world.prefetch(1000);
        world.land();
        if world.asked.len() > 512 {
            let keys = world.asked.keys().map(|key| String::from_utf8(key.clone()).expect("text"));
            let keys: Vec<String> = keys.collect();
            world.forget(&keys);
            world.asked.clear();
        }
        world.engine.attend(world.now());
        rested |= world.tally().resting;
        if i >= 30_000 {
            (fetched_at_rest, demanded_at_rest) =
                (fetched_at_rest + fetched, demanded_at_rest + usize::from(!hit));
        }
    }
    assert!(demanded_at_rest > 5000, "{demanded_at_rest}");
    assert!(
        fetched_at_rest * 50 < demanded_at_rest,
        "{fetched_at_rest} for {demanded_at_rest}; rested {rested}"
    );
}

#[test]
fn the_predictors_memory_is_the_stores_and_comes_back() {
    let mut world = World::new(true);
    let bytes = world.tally().bytes;
    assert!((MIB / 5..16 * MIB * MEMORY_PERCENT / 100 / 4).contains(&bytes), "{bytes}: it has to earn more");
    let limit = |world: &mut World| {
        world.engine.refresh_gauges();
        world.engine.counters.store_limit_bytes
    };
    assert_eq!(limit(&mut world), 16 * MIB - bytes);
    world.engine.set_memory_bytes_max(4 * MIB);
    let less = world.tally().bytes;
    assert!(less < bytes && limit(&mut world) == 4 * MIB - less, "{less}");
    world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace()])));
    assert_eq!(limit(&mut world), 4 * MIB);
    assert!(world.engine.prefetch_tally().is_none());
    world.engine.set_memory_bytes_max(MIB / 2);
    world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![Keyspace { prefetch: true, ..keyspace() }])));
    assert!(world.engine.prefetch_tally().is_none(), "too little to be of use");
}

#[test]
fn who_spares_misses_gets_more_memory_and_both_stay_under_the_limit() {
    let mut world = World::new(true);
    let first = world.tally().bytes;
    let keys: Vec<String> = (0..8400u64).map(|i| format!("k{:x}x", i * i * 7919)).collect();
    let within = |world: &mut World| {
        world.engine.attend(world.now());
        world.engine.tick(world.now());
        world.engine.refresh_gauges();
        let (held, bytes) = (world.engine.counters.store_bytes, world.tally().bytes);
        assert!(held + bytes <= 16 * MIB, "{held} + {bytes}");
    };
    for _ in 0..8 {
        for key in &keys {
            world.get(0, key);
            world.prefetch(1000);
            world.land();
            within(&mut world);
        }
        world.forget(&keys);
    }
    let most = world.tally().bytes;
    assert!(most > first / 2 * 3, "{first} bytes, then {most}: {:?}", world.tally());
    assert!(most <= 16 * MIB * MEMORY_PERCENT / 100);
    // From now on nothing comes twice.
    for i in 0..80_000 {
        world.get(0, &format!("n{i:x}x"));
        world.land();
        within(&mut world);
    }
    assert!(world.tally().bytes <= first, "{first} bytes, then {}", world.tally().bytes);
}

#[test]
fn keyspaces_that_do_not_want_it_are_not_watched() {
    let plain = Keyspace { name: "plain".into(), keys: Keys::Prefix(b"p:".to_vec()), ..keyspace() };
    let mut world = World::with(vec![Keyspace { prefetch: true, ..keyspace() }, plain]);
    let keys: Vec<String> = words().iter().map(|word| format!("p:{word}")).collect();
    world.teach(&keys, 6);
    world.get(0, &keys[0]);
    assert!(!world.engine.has_candidates());
}

/// Two cores with one origin: a client of the first, whose reads go to the owners of their keys.
struct Cores {
    worlds: [World; 2],
    map: ShardMap,
    hints: usize,
}

impl Cores {
    fn new() -> Cores {
        let map = ShardMap::on_cores(2);
        let mut worlds = [World::new(true), World::new(true)];
        for (me, world) in worlds.iter_mut().enumerate() {
            world.engine.set_shards(CoreId(me as u16), &map);
            // Prefetching is taken up with the shards that there are then.
            world.engine.set_keyspaces(Arc::new(Keyspaces::new(vec![keyspace()])));
            world
                .engine
                .set_keyspaces(Arc::new(Keyspaces::new(vec![Keyspace { prefetch: true, ..keyspace() }])));
        }
        Cores { worlds, map, hints: 0 }
    }

    fn owner(&self, key: &str) -> usize {
        self.map.owner(slot_of(key.as_bytes()).shard()).index()
    }

    /// Whether it was found at once.
    fn get(&mut self, key: &str) -> bool {
        let owner = self.owner(key);
        if owner != 0 {
            let request = Request { key: key.as_bytes(), value: b"", verb: Verb::Get };
            let now = self.worlds[0].now();
            self.worlds[0].engine.sent_on(now, &request);
        }
        let hit = self.worlds[owner].get(0, key);
        self.spread();
        hit
    }

    fn spread(&mut self) {
        for from in [0, 1, 0] {
            let mut hints = Vec::new();
            self.worlds[from].engine.take_hints(|hint, text| hints.push((hint, text.to_vec())));
            self.hints += hints.len();
            for (hint, text) in hints {
                let owner = || self.map.owner(ShardId::new(shard_of(hint.key())));
                let owner = hint.core().unwrap_or_else(owner).index();
                assert_ne!(owner, from, "nobody tells himself: {hint:?}");
                let now = self.worlds[owner].now();
                self.worlds[owner].engine.hint(now, hint, &text);
            }
        }
    }

    fn settle(&mut self) {
        for world in &mut self.worlds {
            world.prefetch(1000);
            world.land();
        }
        self.spread();
    }
}

#[test]
fn a_sequence_over_two_cores_is_learnt_and_fetched_by_the_owners() {
    let mut cores = Cores::new();
    let owners: Vec<usize> = words().iter().map(|word| cores.owner(word)).collect();
    assert!(owners.contains(&0) && owners.contains(&1), "the words tell nothing: {owners:?}");
    for _ in 0..6 {
        for word in words() {
            cores.get(&word);
            cores.worlds.iter_mut().for_each(World::land);
        }
        for world in &mut cores.worlds {
            world.forget(&words());
            world.millis += 1000;
            world.prefetch(1000);
        }
    }
    let mut hits = 0;
    for word in words() {
        hits += usize::from(cores.get(&word));
        cores.settle();
    }
    assert_eq!(hits, 5, "all but the first");
    let used: u64 = cores.worlds.iter().map(|world| world.score(Source::Successor).used).sum();
    assert_eq!(used, 5);
    assert!(cores.hints > 0);
}

#[test]
fn a_walk_by_number_over_two_cores_is_seen_by_the_clients_core() {
    let mut cores = Cores::new();
    let mut hits = 0;
    for i in 0..40 {
        hits += usize::from(cores.get(&format!("user:7:page:{i}")));
        cores.settle();
    }
    assert!(hits >= 30, "{hits} of 40 found");
    let issued = cores.worlds.each_ref().map(|world| world.score(Source::Stride).issued);
    assert!(issued.iter().all(|&issued| issued > 5), "each owner fetches its own: {issued:?}");
}

#[test]
fn a_reason_crosses_cores_as_it_is() {
    for source in Source::ALL {
        let reason = Reason::from_bits(77 << 32 | (source as u64) << 16 | 200);
        let again = Reason::from_bits(reason.to_bits());
        assert_eq!((again.source, again.cause, again.to_bits()), (source, 77, reason.to_bits()));
    }
}

#[test]
fn numbers_at_the_end_of_keys_are_read_and_written() {
    let (place, digits) = place_of(b"user:7:page:012").expect("a number");
    assert_eq!((place.number, digits), (12, 3));
    assert_eq!(place_of(b"user:7:page:9").expect("a number").0.prefix, place.prefix);
    assert_ne!(place_of(b"user:8:page:9").expect("a number").0.prefix, place.prefix);
    assert_eq!(place_of(b"page"), None);
    assert_eq!(place_of(b""), None);
    assert_eq!(place_of(&[b'9'; 30]), None);
    let write = |digits, number| {
        let mut text = Vec::new();
        write_key(&mut text, b"p:", digits, number).then(|| String::from_utf8(text).expect("text"))
    };
    assert_eq!(write(3, 13).as_deref(), Some("p:013"));
    assert_eq!(write(1, 10).as_deref(), Some("p:10"));
    assert_eq!(write(1, 0).as_deref(), Some("p:0"));
    assert_eq!(write(1, u64::MAX), None);
}

/// A world whose items are fresh for so long.
fn fresh_for(millis: u64) -> World {
    World::with(vec![Keyspace { prefetch: true, fresh_millis: millis, ..keyspace() }])
}

#[test]
fn what_is_hot_is_fetched_anew_before_it_ends_and_is_never_missed_again() {
    let mut world = fresh_for(6000);
    let mut misses = 0;
    // A read every 100 ms for two minutes, and the origin takes one.
    for i in 0..1200 {
        misses += u32::from(!world.get(0, "hot"));
        world.millis += 99;
        world.land();
        assert!(i == 0 || misses == 1, "missed at {i}");
    }
    let asked = world.asked[b"hot".as_slice()];
    // 120 seconds are 20 lives; a tenth more is what it may cost.
    assert!((20..=22).contains(&asked), "{asked}");
    assert_eq!(world.tally().refreshed, asked as u64 - 1);
}

#[test]
fn what_is_read_seldom_or_never_again_ends() {
    let mut world = fresh_for(6000);
    world.get(0, "seldom");
    world.land();
    world.millis += 5900;
    assert!(world.get(0, "seldom"), "once more, just before it ends");
    world.land();
    assert_eq!(world.asked[b"seldom".as_slice()], 1, "nobody had read it before");
    world.millis += 200;
    assert!(!world.get(0, "seldom"));
    assert_eq!(world.tally().refreshed, 0);
}

#[test]
fn an_origin_with_short_lives_is_not_asked_at_every_read() {
    let mut world = fresh_for(3_600_000);
    let land = |world: &mut World| {
        for (ticket, _, key) in std::mem::take(&mut world.under_way) {
            let found = Fetched { value: key, fresh_millis: Some(2000), ..Fetched::default() };
            world.engine.answered(world.now(), ticket, Told::Found(found));
        }
        world.poll();
    };
    for _ in 0..6000 {
        world.get(0, "short");
        world.millis += 9;
        land(&mut world);
    }
    // A minute is 30 lives.
    let asked = world.asked[b"short".as_slice()];
    assert!((30..=34).contains(&asked), "{asked}");
}

#[test]
fn a_refresh_ahead_that_a_write_or_invalidation_overtakes_stores_nothing() {
    let mut world = fresh_for(6000);
    world.get(0, "hot");
    while world.tally().refreshed == 0 {
        world.land();
        world.millis += 99;
        assert!(world.get(0, "hot"), "it does not end");
    }
    assert_eq!(world.under_way.len(), 1, "it is being fetched anew");
    world.forget(&["hot".to_owned()]);
    world.land();
    assert!(!world.get(0, "hot"), "what was fetched is of before");
}

#[test]
fn an_origin_that_fails_is_asked_again_after_a_rest_only() {
    let mut world = fresh_for(60_000);
    let mut failed = 0;
    for _ in 0..650 {
        world.get(0, "hot");
        world.millis += 99;
        for (ticket, cause, key) in std::mem::take(&mut world.under_way) {
            match cause {
                Cause::Refresh => {
                    failed += 1;
                    world.engine.failed(world.now(), ticket, Failure::Overdue);
                }
                _ => {
                    let found = Fetched { value: key, ..Fetched::default() };
                    world.engine.answered(world.now(), ticket, Told::Found(found));
                }
            }
        }
        world.poll();
    }
    assert!((3..=8).contains(&failed), "five seconds, one each: {failed}");
}
