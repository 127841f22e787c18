//! Which node has which slots: asked of one node after the other, and what follows from the answer.

use super::*;

/// How often the map is learned again where we listen, and how soon at the earliest for a reason.
pub(super) const LEARN_MILLIS: u64 = 10_000;
pub(super) const LEARN_SOON_MILLIS: u64 = 250;
/// First and longest pause after no node told the map.
pub(super) const PAUSE_MILLIS: u64 = 100;
pub(super) const PAUSE_MILLIS_MAX: u64 = 5_000;
const CLUSTER_SLOTS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
pub(super) const NO_CLUSTER: &[u8] = b"ERR the origin is no Redis Cluster: leave cluster=on out of its URL";
pub(super) const NO_SLOTS: &[u8] = b"ERR no node of the origin's cluster has slots: assign them there";
pub(super) const NO_MAP: &[u8] = b"ERR the origin did not say which of its nodes has which slots";

impl Cluster {
    /// Whether the map has to be learned when its time comes: where commands pass, not before there are any.
    pub(super) fn wants_map(&self) -> bool {
        !self.learning && (self.known || self.options.duty == Duty::Ask || !self.waiting.is_empty())
    }

    /// Has the map learned again, as soon as that may be.
    pub fn learn_soon(&mut self, now: Mono) {
        if self.known && !self.learning {
            let soon = self.round_at.plus_millis(self.pause_millis.max(LEARN_SOON_MILLIS));
            self.learn_at = self.learn_at.min(soon.max(now));
        }
    }

    /// Asks the next node of this round for the map.
    pub(super) fn learn(&mut self, now: Mono) {
        if self.tried == 0 {
            self.round_at = now;
        }
        self.learning = true;
        self.learn_at = Mono(u64::MAX);
        let others = self.nodes.len() - 1;
        let place = if self.tried < others { 1 + (self.turn + self.tried) % others } else { 0 };
        let what = What::Command { bytes: CLUSTER_SLOTS.to_vec(), replies: 1 };
        self.nodes[place].pool.ask(now, MAP, Cause::Demand, Ask { key: Vec::new(), what });
    }

    /// A node could not tell the map: the next one is asked, or all who wait are told why.
    pub(super) fn try_another(&mut self, now: Mono, why: Ignorance) {
        self.learning = false;
        self.tried += 1;
        self.ignorance = why;
        if self.tried < self.nodes.len() {
            return self.learn(now);
        }
        self.end_round();
        self.pause_millis = (self.pause_millis * 2).clamp(PAUSE_MILLIS, PAUSE_MILLIS_MAX);
        self.learn_at = now.plus_millis(self.pause_millis);
        for ticket in std::mem::take(&mut self.waiting) {
            self.tell_ignorance(ticket);
        }
        let for_map = self.moving.iter().filter(|(_, moving)| moving.for_map).map(|(slot, _)| *slot);
        for slot in for_map.collect::<Vec<_>>() {
            let moving = self.moving.get_mut(&slot).expect("it was just there");
            moving.for_map = false;
            let held = std::mem::take(&mut moving.held);
            self.held -= held.len();
            held.into_keys().for_each(|ticket| self.tell_ignorance(ticket));
            self.release(now, slot);
        }
    }

    pub(super) fn end_round(&mut self) {
        (self.tried, self.turn, self.learning) = (0, self.turn.wrapping_add(1), false);
    }

    pub(super) fn take_map(&mut self, now: Mono, from: NodeId, reply: Reply) {
        let frame = match reply {
            Reply::Raw(frame) => frame,
            Reply::Refused(text) => return self.try_another(now, Ignorance::Said(text)),
            _ => return self.try_another(now, Ignorance::Said(NO_MAP.to_vec())),
        };
        if let Some((Part::Error(text), _)) = part(&frame) {
            let said = match (text.windows(15).any(|words| words == b"cluster support"), refusal(text)) {
                (false, Reply::Refused(text)) => text,
                _ => NO_CLUSTER.to_vec(),
            };
            return self.try_another(now, Ignorance::Said(said));
        }
        match ranges(&frame, &self.node(from).place) {
            None => self.try_another(now, Ignorance::Said(NO_MAP.to_vec())),
            Some(ranges) if ranges.is_empty() => {
                self.try_another(now, Ignorance::Said(NO_SLOTS.to_vec()));
            }
            Some(ranges) => self.apply(now, &ranges),
        }
    }

    pub(super) fn apply(&mut self, now: Mono, ranges: &[Range]) {
        self.end_round();
        (self.known, self.pause_millis) = (true, 0);
        self.learn_at = if self.options.listen { now.plus_millis(LEARN_MILLIS) } else { Mono(u64::MAX) };
        self.nodes[1..].iter_mut().for_each(|node| node.leaves = true);
        self.slots.fill(FIRST);
        for range in ranges {
            // Slots of nodes beyond the bound are asked of the first, which sends the question on: an error.
            let Some(id) = self.node_at(&range.place) else { continue };
            self.slots[usize::from(range.first)..=usize::from(range.last)].fill(id);
            let node = self.nodes.iter_mut().find(|node| node.id == id).expect("it is there now");
            node.leaves = false;
        }
        self.moving.values_mut().for_each(|moving| moving.for_map = false);
        if self.keeps_order() {
            for question in self.questions.values() {
                let home = self.slots[usize::from(question.slot.number())];
                if question.node.is_some_and(|node| node != home) {
                    self.moving.entry(question.slot).or_default();
                }
            }
        }
        for slot in self.moving.keys().copied().collect::<Vec<_>>() {
            self.release(now, slot);
        }
        for ticket in std::mem::take(&mut self.waiting) {
            self.send(now, ticket);
        }
    }
}
