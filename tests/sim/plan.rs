//! What a seed means: how many nodes, which moves, which faults and when, how bad links and metadata are.

/// A generator of numbers that are the same for the same seed.
///
/// Source: splitmix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True so often in a thousand.
    pub fn permille(&mut self, often: u64) -> bool {
        self.below(1000) < often
    }
}

pub const MICRO: u64 = 1000;
pub const MILLI: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A node loses all it has, and begins anew after so long.
    Crash { node: usize, for_nanos: u64 },
    /// A node does nothing for so long.
    Pause { node: usize, for_nanos: u64 },
    /// A connection breaks, and another one can be made at once.
    Reset { a: usize, b: usize },
    /// What is sent is refused at once, both ways.
    Cut { a: usize, b: usize, for_nanos: u64 },
    /// What is sent from `a` to `b` vanishes, and nobody is told.
    Swallow { a: usize, b: usize, for_nanos: u64 },
    /// The metadata service answers nobody.
    Silence { for_nanos: u64 },
    /// Somebody wants a move to end.
    Cancel { shard: usize },
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub dice: Dice,
    pub nodes: usize,
    pub shards: usize,
    /// Items of a shard at the beginning.
    pub items: u64,
    pub value_bytes_max: u64,
    /// Which shard moves to which node, and when.
    pub moves: Vec<(u64, usize, usize)>,
    pub faults: Vec<(u64, Fault)>,
    pub clients: usize,
    /// Pause of a client between two operations, at most.
    pub think_nanos: u64,
    /// How long clients go on.
    pub active_nanos: u64,
    pub link_nanos: u64,
    /// Between a client and a node.
    pub client_nanos: u64,
    pub metadata_nanos: u64,
    pub bytes_per_second: u64,
    pub window_bytes: u64,
    pub grant_millis: u64,
    pub held_max: usize,
    pub skew_millis: i64,
    pub memory_bytes: u64,
    pub duplicate_permille: u64,
    pub drop_permille: u64,
    pub corrupt_permille: u64,
    /// Frames of a broken connection that arrive all the same, later.
    pub late_permille: u64,
    /// Requests that go to any node, whoever has the shard.
    pub stray_permille: u64,
    pub lost_reply_permille: u64,
    pub lost_watch_permille: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut dice = Dice::new(seed);
        let nodes = dice.between(2, 3) as usize;
        let shards = dice.between(1, 2) as usize;
        let active_nanos = dice.between(30, 80) * MILLI;
        let moves = (0..dice.between(1, 4)).map(|_| {
            let at = dice.between(1, active_nanos * 3 / 4 / MILLI) * MILLI;
            (at, dice.below(shards as u64) as usize, dice.below(nodes as u64) as usize)
        });
        let mut moves: Vec<_> = moves.collect();
        moves.sort_unstable();
        let count = if dice.permille(250) { 0 } else { dice.between(1, 5) };
        let faults = (0..count).map(|_| {
            let at = dice.between(0, active_nanos / MICRO) * MICRO;
            let node = dice.below(nodes as u64) as usize;
            let other = (node + dice.between(1, nodes as u64 - 1) as usize) % nodes;
            let for_nanos = dice.between(1, 50) * dice.between(10, 1000) * MICRO;
            let fault = match dice.below(12) {
                0 | 1 => Fault::Crash { node, for_nanos },
                2 | 3 => Fault::Pause { node, for_nanos },
                4..=6 => Fault::Reset { a: node, b: other },
                7 => Fault::Cut { a: node, b: other, for_nanos },
                8 | 9 => Fault::Swallow { a: node, b: other, for_nanos },
                10 => Fault::Silence { for_nanos },
                _ => Fault::Cancel { shard: dice.below(shards as u64) as usize },
            };
            (at, fault)
        });
        let faults = faults.collect();
        let bad_links = dice.permille(400);
        let bad = |dice: &mut Dice, most: u64| if bad_links { dice.below(most + 1) } else { 0 };
        let slowest = [500, 500, 3000][dice.below(3) as usize];
        Plan {
            seed,
            nodes,
            shards,
            items: if dice.permille(100) { dice.below(3) } else { dice.between(10, 300) },
            value_bytes_max: [8, 100, 400, 3000][dice.below(4) as usize],
            moves,
            faults,
            clients: dice.between(2, 5) as usize,
            think_nanos: dice.between(50, 400) * MICRO,
            active_nanos,
            link_nanos: dice.between(10, slowest) * MICRO,
            client_nanos: dice.between(10, 100) * MICRO,
            metadata_nanos: dice.between(20, 3000) * MICRO,
            bytes_per_second: dice.between(1, 60) << 20,
            window_bytes: dice.between(2, 64) << 10,
            grant_millis: dice.between(2, 30),
            held_max: if dice.permille(150) { 3 } else { 1000 },
            skew_millis: dice.between(0, 20) as i64,
            // A few stores are so small that items leave while they are copied.
            memory_bytes: if dice.permille(100) { 2 << 20 } else { 8 << 20 },
            duplicate_permille: bad(&mut dice, 60),
            drop_permille: bad(&mut dice, 20),
            corrupt_permille: bad(&mut dice, 10),
            late_permille: dice.below(800),
            stray_permille: [20, 60, 400][dice.below(3) as usize],
            lost_reply_permille: if dice.permille(500) { dice.below(400) } else { 0 },
            lost_watch_permille: dice.below(700),
            dice,
        }
    }

    /// The same, on a good day.
    pub fn without_faults(mut self) -> Plan {
        self.faults.clear();
        (self.duplicate_permille, self.drop_permille, self.corrupt_permille) = (0, 0, 0);
        (self.lost_reply_permille, self.lost_watch_permille, self.held_max) = (0, 0, 1000);
        // The commit comes before a grant is given up.
        (self.grant_millis, self.memory_bytes) = (30, 8 << 20);
        self
    }
}
