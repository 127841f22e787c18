//! Of keys that collide, traffic that changes, storms of invalidations and long values that are guessed.

use super::*;

/// Two keys of which everything that is learnt thinks that they are one.
fn twins(world: &World) -> (String, String) {
    // One shard, so that 22 bits are left to differ: a few thousand keys hold several pairs.
    let mut seen = HashMap::new();
    for i in 0..200_000 {
        let key = format!("{{twins}}:{i:x}x");
        if let Some(twin) = seen.insert(number_of(world.engine.store.probe(key.as_bytes())), key.clone()) {
            return (twin, key);
        }
    }
    panic!("of 200,000 keys in 4 million places two have the same");
}

impl World {
    /// As `land`, with values made of the keys.
    fn land_as(&mut self, value: impl Fn(&[u8]) -> Vec<u8>) {
        for (ticket, _, key) in std::mem::take(&mut self.under_way) {
            let found = Fetched { value: value(&key), ..Fetched::default() };
            self.engine.answered(self.now(), ticket, Told::Found(found));
        }
        self.poll();
    }

    /// What is held of a key, as somebody is told who looks.
    fn held(&mut self, key: &str) -> Vec<u8> {
        let now = self.now();
        let address = ReturnAddress { connection: ConnectionId { place: 8, generation: 0 }, ticket: 0 };
        let waiter = Waiter { core: CoreId(0), address };
        let request = Request { key: key.as_bytes(), value: b"", verb: Verb::Peek };
        let mut bytes = Vec::new();
        let outcome = self.engine.serve(now, waiter, &request).expect("a look waits for nobody");
        outcome.value.append_to(&mut bytes);
        bytes
    }

    /// One walk over the keys, all that is guessed fetched at once; how many were found.
    fn walk_over(&mut self, keys: &[String]) -> usize {
        keys.iter()
            .filter(|key| {
                let hit = self.get(0, key);
                self.prefetch(1000);
                self.land();
                hit
            })
            .count()
    }

    fn sum(&self, field: impl Fn(&Score) -> u64) -> u64 {
        self.tally().scores.iter().map(field).sum()
    }
}

#[test]
fn keys_that_collide_make_guesses_wrong_and_no_value() {
    let mut world = World::new(true);
    let (one, other) = twins(&world);
    let id = |world: &World, key: &str| number_of(world.engine.store.probe(key.as_bytes()));
    assert_eq!(id(&world, &one), id(&world, &other));
    // Each has its own predecessor, and is what follows it; only one of them can be fetched for that.
    let walks = [["apex".to_owned(), one.clone()], ["zoox".to_owned(), other.clone()]];
    for _ in 0..40 {
        for walk in &walks {
            world.walk_over(walk);
            for key in walk {
                assert_eq!(
                    world.held(key),
                    key.as_bytes(),
                    "a value is its key's, whoever was fetched for it"
                );
            }
        }
        world.forget(&walks.concat());
        world.millis += 1000;
    }
    let tally = world.tally();
    assert!(tally.landed > 0 && tally.under_way == 0, "{tally:?}");
    let (issued, used) = (world.sum(|it| it.issued), world.sum(|it| it.used));
    assert!(used > 0 && used <= issued, "{tally:?}");
}

#[test]
fn a_change_of_phase_costs_little_and_the_new_order_and_the_old_are_known_again() {
    let mut world = World::new(true);
    let order = |step: usize| -> Vec<String> {
        (0..211).map(|i| format!("k{:x}x", (1 + i * step % 211) * 7919)).collect()
    };
    // A row that was right for long gives its follower up after some twenty visits, and the threshold comes down slowly: after
    // thirty walks two thirds of a new order are found.
    const WALKS: u64 = 60;
    let mut last = [0; 3];
    for (phase, step) in [17, 101, 17].into_iter().enumerate() {
        let (keys, before) = (order(step), (world.sum(|it| it.wasted), world.sum(|it| it.used)));
        for _ in 0..WALKS {
            last[phase] = world.walk_over(&keys);
            world.forget(&keys);
            world.millis += 20_000;
            world.engine.attend(world.now());
        }
        let wasted = world.sum(|it| it.wasted) - before.0;
        // Every key of every walk needs the origin.
        assert!(wasted * 5 < WALKS * 211, "phase {phase}: {wasted} in vain: {:?}", world.tally());
    }
    assert!(last.iter().all(|found| found * 10 > 211 * 8), "found in the last walks: {last:?}");
}

#[test]
fn a_storm_of_invalidations_voids_what_is_under_way_and_blames_no_guess() {
    let mut world = World::new(true);
    world.teach(&words(), 6);
    let before = world.tally();
    let storm = |world: &mut World| {
        world.do_it(9, "", "", Verb::Invalidate(Named::Prefix));
        world.land_as(|key| [key, b" of before".as_slice()].concat());
        for word in words() {
            assert_eq!(world.held(&word), b"", "nothing of before the storm is held");
        }
        world.millis += 1000;
        world.engine.attend(world.now());
    };
    let mut under_way = 0;
    for _ in 0..60 {
        world.walk_over(&words());
        storm(&mut world);
        world.get(0, "ape");
        world.land();
        under_way += world.prefetch(1000) as u64;
        storm(&mut world);
    }
    let tally = world.tally();
    assert!(under_way >= 50, "{under_way}, {tally:?}");
    assert_eq!((tally.drops.voided - before.drops.voided, tally.under_way), (under_way, 0), "{tally:?}");
    assert_eq!((world.sum(|it| it.wasted), tally.resting), (0, false), "{tally:?}");
    assert!(tally.threshold <= before.threshold, "{tally:?}");
    assert_eq!(world.walk_over(&words()), 5, "it knows what it knew");
}

#[test]
fn long_values_that_are_guessed_stay_within_the_memory_and_leave_short_hot_ones_alone() {
    let long = |key: &[u8]| vec![key[0]; (1 << 20) - 100];
    let mut world = World::new(true);
    let hot: Vec<String> = (0..200).map(|i| format!("hot{:x}x", i * 7919)).collect();
    let large: Vec<String> = (0..40).map(|i| format!("large{:x}x", i * i * 7919)).collect();
    world.walk_over(&hot);
    let mut found = 0;
    for _ in 0..6 {
        for key in &large {
            // Those who read hot keys are other clients.
            for client in 0..3 {
                for key in &hot {
                    found += u32::from(world.get(1 + client, key));
                    world.land();
                }
            }
            world.get(0, key);
            world.prefetch(1000);
            world.land_as(long);
            world.engine.attend(world.now());
            world.engine.tick(world.now());
            world.engine.refresh_gauges();
            let (held, bytes) = (world.engine.counters.store_bytes, world.tally().bytes);
            assert!(held + bytes <= 16 * MIB, "{held} + {bytes}");
        }
    }
    assert!(world.sum(|it| it.used) > 40, "{:?}", world.tally());
    let read = 6 * 40 * 3 * 200;
    assert!(found * 100 >= read * 99, "{found} of {read} reads of hot keys were found");
}

#[test]
fn what_may_not_be_kept_is_soon_not_fetched_ahead_any_more() {
    let mut world = World::with(vec![Keyspace { prefetch: true, value_bytes_max: 1000, ..keyspace() }]);
    let walk = |world: &mut World| {
        let before = world.sum(|it| it.issued);
        for word in words() {
            world.get(0, &word);
            world.prefetch(1000);
            world.land_as(|_| vec![7; 1 << 20]);
        }
        world.millis += 1000;
        world.engine.attend(world.now());
        assert!(words().iter().all(|word| world.held(word).is_empty()));
        world.sum(|it| it.issued) - before
    };
    let fetched: Vec<u64> = (0..60).map(|_| walk(&mut world)).collect();
    assert!(fetched.iter().sum::<u64>() > 0, "it was tried");
    assert_eq!(fetched[40..].iter().sum::<u64>(), 0, "and is not any more: {fetched:?}");
    assert_eq!((world.tally().landed, world.sum(|it| it.used)), (0, 0));
}
