//! What clients do: operations on few keys, some sent before the one before is answered.

use super::check::Start;
use super::plan::{Dice, Plan};
use foreshadow::clock::Now;
use foreshadow::request::{
    Condition, Count, Expire, ExpireOnly, Expiry, ExpiryChange, Put, Remove, Request, Step, Verb,
};

/// Keys of a shard that clients use; a few beyond the items that are there at the beginning.
pub const HOT_KEYS: u64 = 12;
/// Of them, so many are counters.
pub const COUNTERS: u64 = 2;
/// And so many end by themselves.
pub const MORTALS: u64 = 2;
/// Operations of a client that are under way at one time.
pub const PIPELINE_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Put { millis: Option<u64> },
    Remove,
    Count,
    Touch { millis: u64 },
}

impl Kind {
    pub fn reads(self) -> bool {
        self == Kind::Get
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was sent, or is about to be.
    Open,
    Done,
    /// Nobody will ever know.
    Lost,
}

/// An operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    /// Also what its value says.
    pub id: u64,
    pub client: usize,
    pub key: usize,
    pub counter: bool,
    pub kind: Kind,
    pub start: Start,
    pub stage: Stage,
    /// The node that has it, and in which life.
    pub at: Option<(usize, u64)>,
    /// How often it was sent.
    pub sent: u64,
    /// The operation of the same client and key that was sent before it to the same node, and not answered.
    pub behind: Option<u64>,
    /// The version it told of, if it was never sent to another node.
    pub told: Option<u64>,
}

/// The value that an operation writes.
pub fn value_of(id: u64) -> Vec<u8> {
    let mut dice = Dice::new(id);
    // The longest values of the plan are in the upper bits, so that the value says itself how long it is.
    let most = (id >> 40).max(8);
    let len = dice.between(8, most) as usize;
    let mut value = id.to_le_bytes().to_vec();
    value.extend((8..len).map(|i| (id as usize).wrapping_mul(31).wrapping_add(i) as u8));
    value
}

/// A key by its number: the shard's tag and a number in it.
pub fn key_of(plan: &Plan, number: usize) -> Vec<u8> {
    let shard = number % plan.shards;
    format!("{{{}}}:{}", TAGS[shard], number / plan.shards).into_bytes()
}

/// Hash tags of different shards.
pub const TAGS: [&str; 2] = ["first", "second"];

impl Op {
    /// One that is chosen by dice.
    pub fn choose(plan: &Plan, dice: &mut Dice, id: u64, client: usize) -> Op {
        let shard = dice.below(plan.shards as u64) as usize;
        let number = if dice.permille(700) { dice.below(HOT_KEYS) } else { dice.below(plan.items + 20) };
        let key = number as usize * plan.shards + shard;
        let counter = number < COUNTERS;
        let mortal = (COUNTERS..COUNTERS + MORTALS).contains(&number);
        let kind = match dice.below(100) {
            0..45 => Kind::Get,
            45..100 if counter => Kind::Count,
            45..65 => Kind::Remove,
            65..72 if mortal => Kind::Touch { millis: dice.between(1, 60) },
            72..80 if mortal => Kind::Put { millis: Some(dice.between(1, 60)) },
            _ => Kind::Put { millis: None },
        };
        Op {
            id: id | plan.value_bytes_max << 40,
            client,
            key,
            counter,
            kind,
            start: Start::default(),
            stage: Stage::Open,
            at: None,
            sent: 0,
            behind: None,
            told: None,
        }
    }

    /// Does something with it as a request, at a node's moment.
    pub fn with_request<T>(&self, plan: &Plan, now: Now, f: impl FnOnce(&Request<'_>) -> T) -> T {
        let key = key_of(plan, self.key);
        let value = if let Kind::Put { .. } = self.kind { value_of(self.id) } else { Vec::new() };
        let until = |millis: Option<u64>| match millis {
            Some(millis) => Expiry::At(now.mono.plus_millis(millis)),
            None => Expiry::Never,
        };
        let verb = match self.kind {
            Kind::Get => Verb::Get,
            Kind::Put { millis } => Verb::Put(Put::plain(until(millis))),
            Kind::Remove => Verb::Remove(Remove::PLAIN),
            Kind::Count => Verb::Count(Count {
                by: Step::Signed(1),
                create: None,
                condition: Condition::Always,
                expiry: ExpiryChange::Keep,
                version: None,
            }),
            Kind::Touch { millis } => {
                Verb::Expire(Expire { expiry: until(Some(millis)), only: ExpireOnly::Any })
            }
        };
        f(&Request { key: &key, value: &value, verb })
    }
}
