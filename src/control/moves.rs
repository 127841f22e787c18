//! Moves of shards as operators see them: what cores say of them, as JSON and as metrics.

use crate::ids::{CoreId, ShardId};
use serde_json::{Value, json};
use std::fmt::Write;

/// What a core says of a move from it.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveReport {
    /// Its number, one for the process.
    pub id: u64,
    /// What moves.
    pub shard: ShardId,
    /// From where: a node (0 where there is only one) and a core of it.
    pub from: (u32, u16),
    /// To where.
    pub to: (u32, u16),
    /// What it is at, in a word.
    pub stage: &'static str,
    /// How it ended, if it has.
    pub ending: Option<MoveEnding>,
    /// Attempts at the copy.
    pub attempts: u32,
    /// Items that the shard has at present; 0 where it has left.
    pub items: u64,
    /// Items copied, changes of them apart.
    pub copied_items: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Changes that the target does not know of so far.
    pub changes: u64,
    /// Requests that wait.
    pub held: u64,
    /// Since it was asked for, until it ended.
    pub nanos: u64,
    /// Until the copy was caught up and writes had to wait first.
    pub copy_nanos: Option<u64>,
    /// For how long writes had to wait, in sum.
    pub stall_nanos: u64,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveEnding {
    /// The target owns the shard.
    Moved,
    /// It was given up before anything was handed over; why, in words.
    Cancelled(&'static str),
    /// The target did not take it.
    Revoked,
    /// It is neither's.
    Lost,
}

impl MoveEnding {
    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            MoveEnding::Moved => "moved",
            MoveEnding::Cancelled(_) => "cancelled",
            MoveEnding::Revoked => "revoked",
            MoveEnding::Lost => "lost",
        }
    }
}

const ENDINGS: [&str; 4] = ["moved", "cancelled", "revoked", "lost"];

/// What a core counts of moves from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveTally {
    /// Moves that ended, in the order of moved, cancelled, revoked, lost.
    pub ended: [u64; 4],
    /// Bytes sent by moves that ended.
    pub bytes: u64,
    /// Items copied by them.
    pub items: u64,
    /// For how long writes had to wait.
    pub stall_nanos: u64,
    /// Moves under way.
    pub under_way: u64,
}

impl MoveTally {
    /// Takes in that a move has ended.
    pub fn take(&mut self, report: &MoveReport) {
        let name = report.ending.map_or("", MoveEnding::name);
        if let Some(place) = ENDINGS.iter().position(|ending| *ending == name) {
            self.ended[place] += 1;
        }
        self.bytes += report.bytes;
        self.items += report.copied_items;
        self.stall_nanos += report.stall_nanos;
    }
}

/// A shard as a core knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// Which.
    pub shard: ShardId,
    /// The owner: the core that tells, or one of another node.
    pub owner: CoreId,
    /// The epoch of its ownership.
    pub epoch: u32,
    /// Its items, if it is here.
    pub items: Option<u64>,
}

/// Why a move does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRefusal {
    /// The core that was asked does not own the shard.
    NotHere,
    /// The target does already.
    There,
    /// There is no such core.
    NoSuchCore,
    /// Its node cannot be reached.
    Away,
    /// The shard is about to move, or as many as may.
    Busy,
    /// Keys have origins, and what is known of those does not move.
    Origins,
}

impl MoveRefusal {
    /// In words, for who asked.
    pub fn text(self) -> &'static str {
        match self {
            MoveRefusal::NotHere => "the shard has just moved: ask again",
            MoveRefusal::There => "the shard is there already",
            MoveRefusal::NoSuchCore => "there is no such core",
            MoveRefusal::Away => "the node of that core cannot be reached",
            MoveRefusal::Busy => "the shard moves already, or as many shards move as may at a time",
            MoveRefusal::Origins => {
                "shards do not move while keys have origins: what is known of those does not go along"
            }
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

impl MoveReport {
    /// For `/v1/moves`.
    pub fn json(&self) -> Value {
        let ended = self.ending.is_some();
        let (part, rate) =
            (self.part(), self.bytes as f64 / seconds(self.copy_nanos.unwrap_or(self.nanos)).max(1e-9));
        let left = seconds(self.nanos) * (1.0 - part) / part.max(1e-9);
        json!({
            "id": self.id,
            "shard": self.shard.number(),
            "from": self.from.1,
            "to": self.to.1,
            "from_node": self.from.0,
            "to_node": self.to.0,
            "stage": self.stage,
            "outcome": self.ending.map(MoveEnding::name),
            "reason": match self.ending { Some(MoveEnding::Cancelled(why)) => Some(why), _ => None },
            "percent": (part * 1000.0).round() / 10.0,
            "eta_seconds": (!ended && part > 0.0).then_some(left),
            "attempts": self.attempts,
            "items": self.items,
            "copied_items": self.copied_items,
            "bytes": self.bytes,
            "bytes_per_second": rate.round(),
            "lag_changes": self.changes,
            "held_requests": self.held,
            "seconds": seconds(self.nanos),
            "copy_seconds": self.copy_nanos.map(seconds),
            "stall_seconds": seconds(self.stall_nanos),
        })
    }

    /// Which part of it is done, by items.
    fn part(&self) -> f64 {
        match self.stage {
            _ if self.ending == Some(MoveEnding::Moved) => 1.0,
            "landing" | "frozen" | "granted" | "moved" => 0.99,
            _ => (self.copied_items as f64 / self.items.max(1) as f64).min(0.99),
        }
    }
}

/// Writes what cores counted, for `/metrics`.
pub(super) fn render(tallies: &[MoveTally], text: &mut String) -> std::fmt::Result {
    let name = "foreshadow_moves_total";
    writeln!(
        text,
        "\n# HELP {name} Moves of shards away from the core, by how they ended.\n# TYPE {name} counter"
    )?;
    for (core, tally) in tallies.iter().enumerate() {
        for (ending, count) in ENDINGS.iter().zip(tally.ended) {
            writeln!(text, "{name}{{core=\"{core}\",outcome=\"{ending}\"}} {count}")?;
        }
    }
    let mut one = |name: &str, kind: &str, help: &str, of: &dyn Fn(&MoveTally) -> f64| {
        writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} {kind}")?;
        tallies
            .iter()
            .enumerate()
            .try_for_each(|(core, it)| writeln!(text, "{name}{{core=\"{core}\"}} {}", of(it)))
    };
    one("foreshadow_moves", "gauge", "Moves of shards away from the core that are under way.", &|it| {
        it.under_way as f64
    })?;
    one("foreshadow_move_bytes_total", "counter", "Bytes sent by moves that ended.", &|it| it.bytes as f64)?;
    one("foreshadow_move_items_total", "counter", "Items copied by moves that ended.", &|it| {
        it.items as f64
    })?;
    one(
        "foreshadow_move_stall_seconds_total",
        "counter",
        "For how long writes of a shard had to wait for its move.",
        &|it| seconds(it.stall_nanos),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_tells_how_far_it_is_and_how_it_ended() {
        let mut report = MoveReport {
            id: 7,
            shard: ShardId::new(12),
            from: (0, 0),
            to: (0, 1),
            stage: "copying",
            ending: None,
            attempts: 1,
            items: 1000,
            copied_items: 250,
            bytes: 500_000,
            changes: 3,
            held: 0,
            nanos: 500_000_000,
            copy_nanos: None,
            stall_nanos: 0,
        };
        let page = report.json();
        assert_eq!((&page["percent"], &page["eta_seconds"]), (&json!(25.0), &json!(1.5)));
        assert_eq!((&page["bytes_per_second"], &page["outcome"]), (&json!(1_000_000.0), &Value::Null));
        report.ending = Some(MoveEnding::Cancelled("somebody wanted it to end"));
        (report.stage, report.stall_nanos) = ("over", 2_000_000);
        let page = report.json();
        assert_eq!((&page["outcome"], &page["eta_seconds"]), (&json!("cancelled"), &Value::Null));
        let mut tally = MoveTally::default();
        tally.take(&report);
        let mut text = String::new();
        render(&[MoveTally::default(), tally], &mut text).expect("a String takes all");
        assert!(text.contains("foreshadow_moves_total{core=\"1\",outcome=\"cancelled\"} 1"), "{text}");
        assert!(text.contains("foreshadow_moves_total{core=\"0\",outcome=\"cancelled\"} 0"), "{text}");
        assert!(text.contains("foreshadow_move_stall_seconds_total{core=\"1\"} 0.002"), "{text}");
        assert!(text.contains("foreshadow_move_bytes_total{core=\"1\"} 500000"), "{text}");
    }
}
