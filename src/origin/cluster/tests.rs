//! Nodes of a cluster, played: what is said to each, and what comes of what they answer.

mod play;

use super::super::Limits;
use super::map::*;
use super::questions::*;
use super::*;
use std::collections::BTreeMap;

const OPTIONS: Options = Options {
    connections_max: 1,
    queue_max: 8,
    timeout_millis: 1000,
    slow_millis: 10_000,
    failures_max: 3,
    open_millis: 500,
    limits: Limits { value_bytes_max: 1 << 20 },
    duty: Duty::Ask,
    listen: false,
    spare_by_forecast: true,
};
/// Keys and their slots; 0 to 5460, to 10922 and to 16383 are had by the nodes at 7001, 7002 and 7003.
const B: (&str, u16) = ("b", 3300);
const C: (&str, u16) = ("c", 7365);
const A: (&str, u16) = ("a", 15495);
const THIRDS: [(u16, u16, u16); 3] = [(0, 5460, 7001), (5461, 10922, 7002), (10923, 16383, 7003)];

fn slots(ranges: &[(u16, u16, u16)]) -> String {
    let range = |(first, last, port): &(u16, u16, u16)| {
        format!("*3\r\n:{first}\r\n:{last}\r\n*3\r\n$8\r\n10.0.0.1\r\n:{port}\r\n$1\r\nx\r\n")
    };
    format!("*{}\r\n{}", ranges.len(), ranges.iter().map(range).collect::<String>())
}

/// Found, and what it lives on.
fn value(text: &str) -> String {
    format!("${}\r\n{text}\r\n:-1\r\n", text.len())
}

struct World {
    cluster: Cluster,
    permits: Arc<Permits>,
    now: Mono,
    told: Vec<Told>,
    /// Connections by port that are asked, and that listen.
    asked: BTreeMap<u16, Line>,
    listening: BTreeMap<u16, Line>,
    dead: Vec<u16>,
}

impl World {
    fn new(options: Options) -> World {
        let target = Arc::new(Target::parse("redis://h:7000?cluster=on").expect("a good URL"));
        let permits = Arc::new(Permits::new(64));
        let cluster = Cluster::new(target, options, permits.clone());
        World {
            cluster,
            permits,
            now: Mono(0),
            told: Vec::new(),
            asked: BTreeMap::new(),
            listening: BTreeMap::new(),
            dead: Vec::new(),
        }
    }

    /// One that has learned of three nodes.
    fn learned(options: Options) -> World {
        let mut world = World::new(options);
        world.tick();
        assert_eq!(world.said(7000), "CLUSTER SLOTS");
        world.answer(7000, &slots(&THIRDS));
        world
    }

    fn tick(&mut self) {
        self.cluster.tick(self.now);
        self.turn();
    }

    /// So many milliseconds later.
    fn after(&mut self, millis: u64) {
        self.now = self.now.plus_millis(millis);
        self.tick();
    }

    /// Does what the cluster wants done: connections are made and greeted, or refused by who is dead.
    fn turn(&mut self) {
        while let Some(action) = self.cluster.poll() {
            match action {
                Action::Connect(line) => self.connect(line),
                Action::Close(line) => {
                    self.asked.retain(|_, it| *it != line);
                    self.listening.retain(|_, it| *it != line);
                }
                Action::Tell(told) => self.told.push(told),
                Action::Send(_) | Action::Slow(..) => {}
            }
        }
    }

    fn connect(&mut self, line: Line) {
        let port = self.cluster.place(line).expect("it was asked for").port;
        if self.dead.contains(&port) {
            return self.cluster.closed(self.now, line);
        }
        self.cluster.connected(self.now, line);
        let greeting = std::mem::take(self.cluster.output(line).expect("it stands"));
        let listens = String::from_utf8_lossy(&greeting).contains("TRACKING");
        let told = if listens { &mut self.listening } else { &mut self.asked };
        assert_eq!(told.insert(port, line), None, "one at a time");
        self.cluster.received(self.now, line, b"%1\r\n$5\r\nproto\r\n:3\r\n");
        if listens {
            self.cluster.received(self.now, line, b"+OK\r\n");
        }
    }

    fn kill(&mut self, port: u16) {
        self.dead.push(port);
        for line in [self.asked.remove(&port), self.listening.remove(&port)].into_iter().flatten() {
            self.cluster.closed(self.now, line);
        }
        self.turn();
    }

    fn ask(&mut self, ticket: u64, key: &str, what: What) {
        let ask = Ask { key: key.into(), what };
        self.cluster.ask(self.now, Ticket(ticket), Cause::Demand, ask);
        self.turn();
    }

    fn read(&mut self, ticket: u64, key: &str) {
        self.ask(ticket, key, What::Read { known: None });
    }

    /// Has `words` done as they are, about this key.
    fn pass(&mut self, ticket: u64, key: &str, words: &str) {
        let bytes = words.split(' ').map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let bytes = format!("*{}\r\n{}", words.split(' ').count(), bytes.collect::<String>());
        self.ask(ticket, key, What::Command { bytes: bytes.into(), replies: 1 });
    }

    /// What was said to a node since this was asked last, without lengths.
    fn said(&mut self, port: u16) -> String {
        let Some(line) = self.asked.get(&port) else { return String::new() };
        let bytes = std::mem::take(self.cluster.output(*line).expect("it stands"));
        let text = String::from_utf8(bytes).expect("text");
        let words = text.split("\r\n").filter(|word| !word.is_empty() && !word.starts_with(['*', '$']));
        words.collect::<Vec<_>>().join(" ")
    }

    fn answer(&mut self, port: u16, bytes: &str) {
        self.cluster.received(self.now, self.asked[&port], bytes.as_bytes());
        self.turn();
    }

    /// What was told since, as text: values, errors, failures.
    fn told(&mut self) -> Vec<(u64, String)> {
        let told = std::mem::take(&mut self.told).into_iter().filter_map(|told| match told {
            Told::Answer(ticket, Reply::Found(found)) => {
                Some((ticket.0, String::from_utf8(found.value).expect("text")))
            }
            Told::Answer(ticket, Reply::Refused(text) | Reply::Raw(text)) => {
                Some((ticket.0, String::from_utf8(text).expect("text").trim_end().to_owned()))
            }
            Told::Answer(ticket, reply) => Some((ticket.0, format!("{reply:?}"))),
            Told::Failed(ticket, why) => Some((ticket.0, format!("{why:?}"))),
            Told::Changed(_) | Told::AllChanged | Told::Pushed(..) | Told::Lost(_) | Told::Unblocked(..) => {
                None
            }
        });
        told.collect()
    }

    /// Nothing is left of any question.
    fn is_at_rest(&self) -> bool {
        let cluster = &self.cluster;
        cluster.questions.is_empty()
            && cluster.moving.is_empty()
            && cluster.held == 0
            && cluster.out.is_empty()
            && self.permits.taken() == 0
    }
}

fn told(ticket: u64, text: &str) -> (u64, String) {
    (ticket, text.to_owned())
}

#[test]
fn a_question_goes_to_the_node_that_has_its_slot_and_those_that_came_before_the_map_wait_for_it() {
    for (key, slot) in [A, B, C] {
        assert_eq!(slot_of(key.as_bytes()).number(), slot);
    }
    let mut world = World::new(OPTIONS);
    world.read(1, "a");
    world.read(2, "b");
    assert_eq!(world.cluster.waiting_count(), 2);
    assert_eq!(world.said(7000), "CLUSTER SLOTS");
    world.answer(7000, &slots(&THIRDS));
    assert!(!world.asked.contains_key(&7000), "the first is needed no more");
    assert_eq!((world.said(7003), world.said(7001)), ("GET a PTTL a".into(), "GET b PTTL b".into()));
    world.read(3, "{a}x");
    assert_eq!(world.said(7003), "GET {a}x PTTL {a}x");
    world.answer(7001, &value("of b"));
    world.answer(7003, &(value("of a") + &value("of x")));
    assert_eq!(world.told(), [told(2, "of b"), told(1, "of a"), told(3, "of x")]);
    assert!(world.is_at_rest());
    assert_eq!(world.cluster.tally().answered, 4, "the map's among them");
}

#[test]
fn a_slot_that_moved_is_asked_for_at_its_new_node_from_then_on_and_the_map_is_learned_again() {
    let mut world = World::learned(OPTIONS);
    world.read(1, "a");
    world.said(7003);
    world.answer(7003, "-MOVED 15495 10.0.0.1:7001\r\n-MOVED 15495 10.0.0.1:7001\r\n");
    assert_eq!(world.said(7001), "GET a PTTL a");
    world.read(2, "{a}2");
    assert_eq!((world.said(7001), world.said(7003)), ("GET {a}2 PTTL {a}2".into(), String::new()));
    world.answer(7001, &(value("1") + &value("2")));
    assert_eq!(world.told(), [told(1, "1"), told(2, "2")]);
    assert_eq!((world.is_at_rest(), world.cluster.tally().redirected), (true, 1));
    // Not at once for each that is sent on, but soon.
    world.after(LEARN_SOON_MILLIS);
    let asked: Vec<u16> =
        [7001, 7002, 7003].into_iter().filter(|port| !world.said(*port).is_empty()).collect();
    assert_eq!(asked.len(), 1);
    // All of the third's slots are the second's by now: it is parted from.
    world.answer(asked[0], &slots(&[(0, 5460, 7001), (5461, 16383, 7002)]));
    assert!(!world.asked.contains_key(&7003));
    world.read(3, "a");
    assert_eq!(world.said(7002), "GET a PTTL a");
}

#[test]
fn a_key_that_is_on_its_way_is_asked_for_once_at_the_node_that_takes_it() {
    let mut world = World::learned(OPTIONS);
    world.read(1, "a");
    world.said(7003);
    // To a node that has no slots yet, which no map names.
    world.answer(7003, "-ASK 15495 10.0.0.1:7004\r\n-ASK 15495 10.0.0.1:7004\r\n");
    assert_eq!(world.said(7004), "ASKING GET a ASKING PTTL a");
    world.answer(7004, "+OK\r\n$1\r\nx\r\n+OK\r\n:500\r\n");
    assert_eq!(world.told(), [told(1, "x")]);
    let put = What::Put {
        value: b"v".to_vec(),
        flags: 0,
        live_millis: None,
        condition: crate::request::Condition::Always,
    };
    world.ask(2, "a", put);
    assert_eq!(world.said(7003), "SET a v");
    world.answer(7003, "-ASK 15495 10.0.0.1:7004\r\n");
    assert_eq!(world.said(7004), "ASKING SET a v");
    world.answer(7004, "+OK\r\n+OK\r\n");
    assert_eq!(world.told(), [told(2, "Written")]);
    // Between the value and what it lives on the key may go: it is asked for anew, not served with no end.
    world.read(3, "a");
    assert_eq!(world.said(7003), "GET a PTTL a");
    world.answer(7003, "$1\r\nx\r\n-ASK 15495 10.0.0.1:7004\r\n");
    assert_eq!((world.told(), world.said(7004)), (vec![], "ASKING GET a ASKING PTTL a".into()));
    world.answer(7004, "+OK\r\n_\r\n+OK\r\n:-2\r\n");
    assert_eq!(world.told(), [told(3, "Absent { fresh_millis: None }")]);
    assert!(world.is_at_rest());
}

#[test]
fn nodes_that_send_a_question_round_in_circles_are_given_up_on() {
    let mut world = World::learned(OPTIONS);
    world.read(1, "a");
    for hop in 0..=REDIRECTIONS_MAX {
        let (at, next) = if hop % 2 == 0 { (7003, 7001) } else { (7001, 7003) };
        assert_eq!(world.said(at).replace("CLUSTER SLOTS", "").trim(), "GET a PTTL a", "{hop}");
        world.answer(at, &format!("-MOVED 15495 10.0.0.1:{next}\r\n").repeat(2));
    }
    assert_eq!(world.told(), [told(1, "Astray")]);
    assert!(world.is_at_rest());
}

#[test]
fn a_question_that_is_sent_on_keeps_its_deadline() {
    let mut world = World::learned(OPTIONS);
    world.read(1, "a");
    world.after(900);
    world.answer(7003, &"-MOVED 15495 10.0.0.1:7001\r\n".repeat(2));
    world.after(99);
    assert_eq!(world.told(), []);
    world.after(1);
    assert_eq!(world.told(), [told(1, "Overdue")]);
}

#[test]
fn a_node_that_is_gone_fails_for_its_keys_only_and_another_tells_who_took_over() {
    let mut world = World::learned(OPTIONS);
    for (ticket, key) in [(1, "a"), (2, "b")] {
        world.read(ticket, key);
    }
    world.kill(7003);
    assert_eq!(world.told(), [told(1, "Closed")]);
    world.said(7001);
    world.answer(7001, &value("of b"));
    assert_eq!(world.told(), [told(2, "of b")]);
    world.after(LEARN_SOON_MILLIS);
    // The dead one may have its turn, too: then the next is asked in the same moment.
    let asked: Vec<u16> =
        [7001, 7002].into_iter().filter(|port| world.said(*port) == "CLUSTER SLOTS").collect();
    assert_eq!(asked.len(), 1, "one that lives");
    let mut taken_over = THIRDS;
    taken_over[2].2 = 7004;
    world.answer(asked[0], &slots(&taken_over));
    world.read(3, "a");
    assert_eq!(world.said(7004), "GET a PTTL a");
}

#[test]
fn without_any_node_questions_fail_at_once_and_the_first_is_tried_again_later() {
    let mut world = World::new(OPTIONS);
    world.dead.push(7000);
    world.read(1, "a");
    let fails = |world: &mut World, ticket| {
        let failed = world.told();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(
            failed[0].0 == ticket && ["Unreachable", "CircuitOpen"].contains(&&*failed[0].1),
            "{failed:?}"
        );
    };
    fails(&mut world, 1);
    world.read(2, "a");
    fails(&mut world, 2);
    let due = world.cluster.next_due(world.now).expect("it will try again");
    assert!(due > world.now && due <= world.now.plus_millis(PAUSE_MILLIS_MAX));
    world.dead.clear();
    // Also the circuit of the first has to let somebody try.
    world.after(1000);
    assert_eq!(world.said(7000), "CLUSTER SLOTS");
    world.answer(7000, &slots(&THIRDS));
    world.read(3, "a");
    assert_eq!(world.said(7003), "GET a PTTL a");
}

#[test]
fn what_is_no_cluster_or_has_no_slots_is_an_error_that_says_so() {
    for (answer, said) in [
        ("-ERR This instance has cluster support disabled\r\n", NO_CLUSTER),
        ("*0\r\n", NO_SLOTS),
        ("+what\r\n", NO_MAP),
        ("-LOADING Redis is loading\r\n", b"LOADING Redis is loading"),
    ] {
        let mut world = World::new(OPTIONS);
        world.read(1, "a");
        world.said(7000);
        world.answer(7000, answer);
        let said = String::from_utf8_lossy(said);
        assert_eq!(world.told(), [told(1, &said)], "{answer}");
        world.read(2, "a");
        assert_eq!(world.told(), [told(2, &said)], "at once, until it is tried again");
        assert!(world.is_at_rest());
    }
}

#[test]
fn every_primary_is_listened_to_and_one_that_is_new_is_noticed_though_nobody_asks() {
    let mut world = World::learned(Options { listen: true, ..OPTIONS });
    let listened = |world: &World| world.listening.keys().copied().collect::<Vec<_>>();
    world.tick();
    assert_eq!(listened(&world), [7001, 7002, 7003]);
    assert_eq!(world.told.iter().filter(|told| **told == Told::AllChanged).count(), 3);
    let line = world.listening[&7002];
    world.cluster.received(world.now, line, b">2\r\n+invalidate\r\n*1\r\n$1\r\nc\r\n");
    world.turn();
    assert_eq!(world.told.pop(), Some(Told::Changed(b"c".to_vec())));
    world.after(LEARN_MILLIS);
    let asked: Vec<u16> =
        [7001, 7002, 7003].into_iter().filter(|port| !world.said(*port).is_empty()).collect();
    assert_eq!(asked.len(), 1);
    world.answer(asked[0], &slots(&[(0, 5460, 7001), (5461, 10922, 7002), (10923, 16383, 7004)]));
    world.tick();
    assert_eq!(listened(&world), [7001, 7002, 7004], "and who has no slots is left");
}

const PASSES: Options = Options { duty: Duty::Pass { protocol: 3 }, ..OPTIONS };

#[test]
fn commands_of_a_slot_stay_in_order_while_it_moves() {
    let mut world = World::new(PASSES);
    world.tick();
    assert_eq!(world.said(7000), "", "nothing is learned before there are commands");
    world.pass(1, "a", "APPEND a 1");
    world.said(7000);
    world.answer(7000, &slots(&THIRDS));
    world.pass(2, "a", "APPEND a 2");
    assert_eq!(world.said(7003), "APPEND a 1 APPEND a 2");
    world.answer(7003, "-MOVED 15495 10.0.0.1:7001\r\n");
    // The second is not back yet: what comes now goes behind it. What is of other slots goes on.
    world.pass(3, "a", "APPEND a 3");
    world.pass(4, "b", "APPEND b 4");
    assert_eq!(world.said(7001), "APPEND b 4");
    world.answer(7003, "-MOVED 15495 10.0.0.1:7001\r\n");
    assert_eq!(world.said(7001), "APPEND a 1 APPEND a 2 APPEND a 3");
    world.answer(7001, ":4\r\n:1\r\n:2\r\n:3\r\n");
    assert_eq!(world.told(), [told(4, ":4"), told(1, ":1"), told(2, ":2"), told(3, ":3")]);
    assert!(world.is_at_rest());
}

#[test]
fn what_is_held_back_is_bounded_and_goes_on_when_those_before_it_are_lost() {
    let mut world = World::new(Options { queue_max: 2, ..PASSES });
    world.pass(1, "a", "APPEND a 1");
    world.answer(7000, &slots(&THIRDS));
    world.pass(2, "a", "APPEND a 2");
    world.said(7003);
    world.answer(7003, "-MOVED 15495 10.0.0.1:7001\r\n");
    for ticket in 3..6 {
        world.pass(ticket, "a", &format!("APPEND a {ticket}"));
    }
    assert_eq!(world.told(), [told(4, "QueueFull"), told(5, "QueueFull")]);
    world.kill(7003);
    assert_eq!(world.told(), [told(2, "Closed")]);
    assert_eq!(world.said(7001), "APPEND a 1 APPEND a 3");
    world.answer(7001, ":1\r\n:3\r\n");
    assert!(world.is_at_rest());
}

#[test]
fn keys_of_several_slots_are_the_error_that_redis_has_for_them() {
    let mut world = World::new(PASSES);
    let commands = "*1\r\n$5\r\nMULTI\r\n*1\r\n$1\r\nX\r\n*1\r\n$1\r\nY\r\n*1\r\n$4\r\nEXEC\r\n".into();
    world.ask(1, "a", What::Command { bytes: commands, replies: 4 });
    world.answer(7000, &slots(&THIRDS));
    world.answer(7003, "+OK\r\n+QUEUED\r\n-MOVED 3300 10.0.0.1:7001\r\n-EXECABORT Transaction discarded\r\n");
    assert_eq!(world.told(), [told(1, "CROSSSLOT Keys in request don't hash to the same slot")]);
    assert!(world.is_at_rest());
}

#[test]
fn a_transaction_that_came_to_the_wrong_node_goes_to_the_right_one_whole() {
    let mut world = World::new(PASSES);
    let commands = b"*1\r\n$5\r\nMULTI\r\n*1\r\n$1\r\nX\r\n*1\r\n$4\r\nEXEC\r\n".to_vec();
    world.ask(1, "a", What::Command { bytes: commands, replies: 3 });
    world.answer(7000, &slots(&THIRDS));
    world.said(7003);
    world.answer(7003, "+OK\r\n-MOVED 15495 10.0.0.1:7001\r\n-EXECABORT Transaction discarded\r\n");
    assert_eq!(world.said(7001), "MULTI X EXEC");
    world.answer(7001, "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
    assert_eq!(world.told(), [told(1, "*1\r\n:1")]);
}

#[test]
fn an_error_that_a_script_may_have_worded_leads_to_no_place_that_the_map_does_not_name() {
    let mut world = World::new(PASSES);
    world.pass(1, "a", "EVAL script 1 a");
    world.answer(7000, &slots(&THIRDS));
    world.said(7003);
    world.answer(7003, "-MOVED 15495 10.6.6.6:666\r\n");
    assert!(!world.asked.contains_key(&666));
    // The map decides, and those of the slot that come now go behind it.
    world.pass(2, "a", "HGET a f");
    assert_eq!(world.said(7003), "");
    world.after(LEARN_SOON_MILLIS);
    let asked: Vec<u16> =
        [7001, 7002, 7003].into_iter().filter(|port| world.said(*port) == "CLUSTER SLOTS").collect();
    world.answer(asked[0], &slots(&THIRDS));
    assert_eq!(world.said(7003), "EVAL script 1 a HGET a f");
    world.answer(7003, "-ASK 15495 10.6.6.6:666\r\n$1\r\nv\r\n");
    assert!(!world.asked.contains_key(&666));
    let said = String::from_utf8_lossy(NODE_UNKNOWN).into_owned();
    assert_eq!(world.told(), [(1, said), told(2, "$1\r\nv")]);
    assert!(world.is_at_rest());
}

#[test]
fn a_pool_that_is_not_told_of_a_cluster_does_not_hand_out_where_its_nodes_are() {
    let mut client = super::super::redis::Client::new(
        Arc::new(Target::parse("redis://h").unwrap()),
        OPTIONS.limits,
        Duty::Pass { protocol: 2 },
    );
    let mut out = Vec::new();
    client.begin(&mut out);
    let what = What::Command { bytes: b"*1\r\n$1\r\nX\r\n".to_vec(), replies: 1 };
    client.ask(Ticket(1), &Ask { key: Vec::new(), what }, &mut out);
    let mut heard = Vec::new();
    client.receive(b"-MOVED 1 10.0.0.1:7001\r\n", &mut heard).expect("an answer");
    let super::super::Heard::Answer(Ticket(1), Reply::Refused(text)) = &heard[0] else { panic!("{heard:?}") };
    assert!(text.ends_with(b"say ?cluster=on in its URL"));
}
