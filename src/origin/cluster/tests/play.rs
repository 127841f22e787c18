//! Nodes that do what they are sent if the slot is theirs, one step at a time, while slots go from one to the next, maps are out of
//! date and connections are lost: commands of a slot are done in their order all the same, each once, and answered once.

use super::*;

struct Play {
    world: World,
    dice: u64,
    /// Which node has each third, and to which it is on its way.
    owner: [u16; 3],
    next: [Option<u16>; 3],
    last_port: u16,
    /// Who had the thirds before.
    old: [u16; 3],
    inbox: BTreeMap<Line, VecDeque<Vec<String>>>,
    asking: BTreeMap<Line, bool>,
    done: BTreeMap<String, Vec<u64>>,
    asked: u64,
}

impl Play {
    fn new(seed: u64) -> Play {
        let options = Options { queue_max: 64, timeout_millis: 600_000, failures_max: 1000, ..PASSES };
        Play {
            world: World::new(options),
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            owner: [7001, 7002, 7003],
            next: [None; 3],
            last_port: 7003,
            old: [7001, 7002, 7003],
            inbox: BTreeMap::new(),
            asking: BTreeMap::new(),
            done: BTreeMap::new(),
            asked: 0,
        }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice % sides as u64) as usize
    }

    fn step(&mut self) {
        match self.roll(12) {
            0..=3 => {
                self.asked += 1;
                let key = [A, B, C][self.roll(3)].0;
                let words = format!("APPEND {key} {}", self.asked);
                self.world.pass(self.asked, key, &words);
            }
            4..=9 => {
                self.perform();
            }
            10 => {
                // Never back to one that had it: who is asked twice there cannot tell.
                let third = self.roll(3);
                match self.next[third].take() {
                    Some(next) => {
                        self.old = self.owner;
                        self.owner[third] = next;
                    }
                    None => {
                        self.last_port += 1;
                        self.next[third] = Some(self.last_port);
                    }
                }
            }
            _ => {
                let millis = self.roll(300) as u64;
                self.world.after(millis);
                let lines = self.lines();
                if !lines.is_empty() && self.roll(4) == 0 {
                    let (port, line) = lines[self.roll(lines.len())];
                    self.world.asked.remove(&port);
                    self.inbox.remove(&line);
                    self.world.cluster.closed(self.world.now, line);
                    self.world.turn();
                }
            }
        }
    }

    fn lines(&self) -> Vec<(u16, Line)> {
        self.world.asked.iter().map(|(port, line)| (*port, *line)).collect()
    }

    /// One node does the first thing that it was sent; false if none was sent anything.
    fn perform(&mut self) -> bool {
        let mut busy = self.lines();
        for (_, line) in &busy {
            let bytes = std::mem::take(self.world.cluster.output(*line).expect("it stands"));
            let text = String::from_utf8(bytes).expect("text");
            let mut parts = text.split("\r\n").filter(|part| !part.is_empty() && !part.starts_with('$'));
            while let Some(count) = parts.next() {
                let count = count.trim_start_matches('*').parse().expect("a count");
                let words = parts.by_ref().take(count).map(str::to_owned).collect();
                self.inbox.entry(*line).or_default().push_back(words);
            }
        }
        busy.retain(|(_, line)| self.inbox.get(line).is_some_and(|words| !words.is_empty()));
        if busy.is_empty() {
            return false;
        }
        let (port, line) = busy[self.roll(busy.len())];
        let words = self.inbox.get_mut(&line).and_then(VecDeque::pop_front).expect("it is busy");
        let asking = self.asking.insert(line, words[0] == "ASKING").unwrap_or(false);
        let answer = match words[0].as_str() {
            "ASKING" => "+OK\r\n".into(),
            "CLUSTER" => {
                let told = if self.roll(4) == 0 { self.old } else { self.owner };
                let mut thirds = THIRDS;
                thirds.iter_mut().zip(told).for_each(|(third, port)| third.2 = port);
                slots(&thirds)
            }
            _ => self.append(port, asking, &words[1], &words[2]),
        };
        self.world.answer(port, &answer);
        true
    }

    fn append(&mut self, port: u16, asking: bool, key: &str, number: &str) -> String {
        let slot = slot_of(key.as_bytes()).number();
        let third = THIRDS.iter().position(|third| slot <= third.1).expect("each slot is in one");
        let (owner, next) = (self.owner[third], self.next[third]);
        match (owner == port, next) {
            (true, Some(next)) => format!("-ASK {slot} 10.0.0.1:{next}\r\n"),
            (false, next) if next != Some(port) || !asking => format!("-MOVED {slot} 10.0.0.1:{owner}\r\n"),
            _ => {
                self.done.entry(key.to_owned()).or_default().push(number.parse().expect("a number"));
                format!(":{number}\r\n")
            }
        }
    }
}

#[test]
fn whatever_moves_meanwhile_commands_of_a_slot_are_done_once_in_order_and_answered_once() {
    let (mut done, mut asked, mut redirected) = (0, 0, 0);
    for seed in 1..=400 {
        let mut play = Play::new(seed);
        (0..300).for_each(|_| play.step());
        for _ in 0..10_000 {
            if play.world.is_at_rest() {
                break;
            }
            if !play.perform() {
                play.world.after(300);
            }
        }
        assert!(play.world.is_at_rest(), "seed {seed}: something is left");
        for (key, done) in &play.done {
            assert!(done.is_sorted_by(|a, b| a < b), "seed {seed}: {key} saw {done:?}");
        }
        let told = play.world.told();
        let answers = told.iter().filter(|(_, text)| text.starts_with(':')).count();
        let mut tickets: Vec<u64> = told.iter().map(|(ticket, _)| *ticket).collect();
        tickets.sort();
        assert_eq!(tickets, (1..=play.asked).collect::<Vec<_>>(), "seed {seed}");
        let performed: usize = play.done.values().map(Vec::len).sum();
        assert!(answers <= performed, "seed {seed}: an answer to what nobody did");
        (done, asked) = (done + performed, asked + play.asked as usize);
        redirected += play.world.cluster.tally().redirected;
    }
    assert!(done * 10 > asked * 7 && redirected > 4000, "{done} of {asked} done, {redirected} sent on");
}
