//! The side that a shard comes to: an empty shadow, filled by one stream, compared, and then whatever the record says.
//!
//! ```text
//!  Clearing --empty--> Receiving --DRAIN equal, GRANT--> Committing --swap done--> Owner --> Over
//!      ^                   | frame missing, digest differs        \-- refused -----------> Over (and what came goes)
//!      +---- OPEN of the next attempt <-- Broken
//! ```
//! Frames of the copy are applied in their order, whatever versions they carry: clients may give an item a smaller version than it had, and a new expiry
//! leaves the version as it was, so that only the order says which is newer. A frame that is missing ends the attempt.

use super::deltas::expiry_of;
use super::frame::{Payload, Reason, Records};
use super::owner::{Held, Role, Waiting};
use super::record::{Record, Seen, Site};
use super::{Action, NEVER, Sabotage, Swapped, Turn, verbs};
use crate::clock::Mono;
use crate::digest::Digest;
use crate::engine::Waiter;
use crate::ids::{ConnectionId, CoreId, ShardId, Version};
use crate::message::ReturnAddress;
use crate::request::{Outcome, Request, Value};
use crate::store::{Marks, NewItem};
use crate::wire::native::frame::ShardBlock;
use std::collections::BTreeMap;

/// Who waits for a forwarded request: the other side, by its id.
const ELSEWHERE: Waiter =
    Waiter { core: CoreId(u16::MAX), address: ReturnAddress { connection: ConnectionId::NOBODY, ticket: 0 } };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What is left of an earlier shadow goes first.
    Clearing,
    /// Frames are applied.
    Receiving,
    /// The attempt has failed; the next one may go on from it.
    Broken,
    /// It was granted, and the record is to say so.
    Committing,
    /// The record says so.
    Owner,
    Over,
}

pub(super) struct Destination {
    shard: ShardId,
    source: Site,
    migration: u64,
    attempt: u32,
    epoch: u32,
    stage: Stage,
    /// The last frame of the copy that was applied.
    sequence: u64,
    received_bytes: u64,
    credit: u64,
    ahead: u64,
    /// The greatest version of the source, once the digests were equal.
    drained: Option<Version>,
    floor: Version,
    /// PREPARED.
    prepared: Option<Seen>,
    asking: bool,
    looking: bool,
    ask_at: Mono,
    queue: Held,
    next_forward: u64,
    replies: BTreeMap<u64, Vec<u8>>,
    heard: Mono,
    beat_at: Mono,
}

impl Destination {
    /// The answer to OPEN comes when the shard is empty here.
    pub fn open(turn: &mut Turn<'_>, source: Site, block: &ShardBlock) -> Destination {
        let now = turn.now.mono;
        let destination = Destination {
            shard: ShardId::new(block.shard),
            source,
            migration: block.migration,
            attempt: block.attempt,
            epoch: block.epoch,
            stage: Stage::Clearing,
            sequence: 0,
            received_bytes: 0,
            credit: 0,
            ahead: 0,
            drained: None,
            floor: Version::NONE,
            prepared: None,
            asking: false,
            looking: false,
            ask_at: now,
            queue: Held::default(),
            next_forward: 1,
            replies: BTreeMap::new(),
            heard: now,
            beat_at: now,
        };
        turn.empty(destination.shard);
        destination
    }

    pub fn source(&self) -> Site {
        self.source
    }

    pub fn migration(&self) -> u64 {
        self.migration
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether the record decides, and nobody else may end it.
    pub fn decides(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Owner)
    }

    pub fn is_granted(&self) -> bool {
        self.stage == Stage::Committing
    }

    pub fn describe(&self) -> String {
        let Destination { shard, source, stage, attempt, sequence, .. } = self;
        format!(
            "shard {} from {}.{}: {stage:?}, attempt {attempt}, frame {sequence}, {} waiting",
            shard.number(),
            source.node,
            source.core,
            self.queue.len()
        )
    }

    fn send(&mut self, turn: &mut Turn<'_>, payload: &Payload<'_>) {
        self.beat_at = turn.after(turn.options.beat_millis);
        let block = ShardBlock {
            migration: self.migration,
            sequence: 0,
            epoch: self.epoch,
            attempt: self.attempt,
            shard: self.shard.number(),
        };
        turn.send(self.source, &block, payload);
    }

    // -- frames --------------------------------------------------------------------------------------------------------

    pub fn frame(&mut self, turn: &mut Turn<'_>, block: &ShardBlock, payload: &Payload<'_>) {
        if let Payload::Open { resume, .. } = *payload {
            return self.open_again(turn, block, resume);
        }
        if block.attempt != self.attempt {
            turn.tally.stale_frames += 1;
            let applied = turn.options.has(Sabotage::AcceptStale) && self.stage == Stage::Receiving;
            if !applied {
                return;
            }
            if let Payload::Snapshot(records) | Payload::Delta(records) = *payload {
                self.apply(turn, records);
            }
            return;
        }
        self.heard = turn.now.mono;
        if payload.is_ordered() {
            return self.ordered(turn, block, payload);
        }
        match *payload {
            Payload::Forward { id, settled, request } => self.forward(turn, id, settled, request),
            // Its revoke, if that is why, is what the record will say.
            Payload::Abort(_) | Payload::Reject(_) if self.stage == Stage::Committing => {}
            Payload::Abort(_) | Payload::Reject(_) if self.stage == Stage::Owner => self.stage = Stage::Over,
            Payload::Abort(_) | Payload::Reject(_) => self.drop_shadow(turn),
            _ => {}
        }
    }

    fn open_again(&mut self, turn: &mut Turn<'_>, block: &ShardBlock, resume: bool) {
        if block.attempt <= self.attempt || self.decides() {
            turn.tally.stale_frames += 1;
            return;
        }
        (self.attempt, self.epoch, self.heard) = (block.attempt, block.epoch, turn.now.mono);
        (self.drained, self.prepared) = (None, None);
        let progress = turn.engine.store_mut().progress(self.shard);
        let kept = progress.is_some_and(|progress| !progress.void)
            && matches!(self.stage, Stage::Receiving | Stage::Broken);
        if resume && kept {
            let last = self.sequence;
            self.begin(turn, Some(last));
        } else {
            self.stage = Stage::Clearing;
            turn.empty(self.shard);
        }
    }

    /// Frames may come.
    fn begin(&mut self, turn: &mut Turn<'_>, resumed: Option<u64>) {
        self.stage = Stage::Receiving;
        (self.sequence, self.received_bytes) = (0, 0);
        self.credit = turn.options.window_bytes;
        self.heard = turn.now.mono;
        let incarnation = turn.options.me.incarnation;
        self.send(turn, &Payload::Opened { incarnation, credit: self.credit, resumed });
    }

    /// A frame of the copy: the next one, or none.
    fn ordered(&mut self, turn: &mut Turn<'_>, block: &ShardBlock, payload: &Payload<'_>) {
        if self.stage != Stage::Receiving {
            return;
        }
        if block.sequence <= self.sequence {
            turn.tally.duplicate_frames += 1;
            if let Payload::Snapshot(records) | Payload::Delta(records) = *payload
                && turn.options.has(Sabotage::ApplyDuplicates)
            {
                self.apply(turn, records);
            }
            return;
        }
        if block.sequence != self.sequence + 1 || block.epoch != self.epoch {
            return self.fail(turn, Reason::Stream, 0);
        }
        self.sequence = block.sequence;
        match *payload {
            Payload::Snapshot(records) | Payload::Delta(records) => self.apply(turn, records),
            Payload::Drain { ref digest, version } => self.drain(turn, digest, version),
            Payload::Grant { revision, record } => self.granted(turn, revision, record),
            _ => {}
        }
        if self.stage == Stage::Receiving {
            self.acknowledge(turn, payload);
        }
    }

    fn apply(&mut self, turn: &mut Turn<'_>, records: Records<'_>) {
        let (now, store) = (turn.now.mono, turn.engine.store_mut());
        for record in records.flatten() {
            match record.item {
                Some(image) => {
                    let item = NewItem {
                        value: &[image.value],
                        flags: image.flags,
                        version: image.version,
                        expiry: expiry_of(image.ends, self.ahead),
                        marks: Marks::of_bits(image.marks).expect("read by its codec"),
                    };
                    store.land_copy(now, self.shard, record.key, &item);
                }
                None => store.land_removal(self.shard, record.key),
            }
        }
    }

    fn acknowledge(&mut self, turn: &mut Turn<'_>, payload: &Payload<'_>) {
        if let Payload::Snapshot(records) | Payload::Delta(records) = *payload {
            self.received_bytes += (records.0.len() + ShardBlock::HEAD_BYTES + 4) as u64;
        }
        let Some(progress) = turn.engine.store_mut().progress(self.shard) else { return };
        if progress.void {
            return self.fail(turn, Reason::Wiped, 0);
        }
        let (sequence, items, lost) = (self.sequence, progress.items, progress.lost);
        self.send(turn, &Payload::Ack { sequence, items, lost });
        let total = self.received_bytes + turn.options.window_bytes;
        if total >= self.credit + turn.options.window_bytes / 4 {
            self.credit = total;
            self.send(turn, &Payload::Credit { total });
        }
    }

    /// The attempt has failed. A grant of it is never used: there was none, or it is refused with this.
    fn fail(&mut self, turn: &mut Turn<'_>, reason: Reason, buckets: u64) {
        turn.tally.broken_streams += 1;
        self.stage = Stage::Broken;
        self.drained = None;
        self.send(turn, &Payload::Nack { reason, buckets });
    }

    fn drain(&mut self, turn: &mut Turn<'_>, digest: &Digest, version: Version) {
        let Some(progress) = turn.engine.store_mut().progress(self.shard) else { return };
        if progress.void {
            return self.fail(turn, Reason::Wiped, 0);
        }
        let buckets = progress.digest.differing(digest) & !progress.inexact;
        let counts_differ = progress.inexact == 0 && progress.digest.items != digest.items;
        if (buckets != 0 || counts_differ) && !turn.options.has(Sabotage::IgnoreDigest) {
            return self.fail(turn, Reason::Digest, buckets);
        }
        self.drained = Some(version);
    }

    fn granted(&mut self, turn: &mut Turn<'_>, revision: u64, record: &[u8]) {
        let fits = |record: &Record| {
            let ours = record.target == Some(turn.options.me) && record.owner == self.source;
            ours && record.migration == self.migration
                && record.epoch == self.epoch
                && record.commit().is_ok()
        };
        let record = Record::of_bytes(record).ok().filter(fits);
        let (Some(version), Some(record)) = (self.drained, record) else {
            return self.fail(turn, Reason::Stream, 0);
        };
        self.floor = version;
        self.stage = Stage::Committing;
        self.prepared = Some(Seen { record, revision });
        self.commit(turn);
    }

    // -- the record ----------------------------------------------------------------------------------------------------

    fn commit(&mut self, turn: &mut Turn<'_>) {
        let Some(Seen { record, revision }) = &self.prepared else { return };
        if let Ok(record) = record.commit() {
            self.asking = true;
            turn.actions.push_back(Action::Swap { shard: self.shard, expected: *revision, record });
        }
    }

    pub fn swapped(&mut self, turn: &mut Turn<'_>, outcome: Swapped) {
        if !self.asking {
            return;
        }
        self.asking = false;
        match outcome {
            Swapped::Done(revision) => self.own(turn, revision),
            Swapped::Refused(seen) => self.judge(turn, &seen),
            Swapped::Unknown if turn.options.has(Sabotage::GuessCommit) => {
                let revision = self.prepared.as_ref().map_or(0, |seen| seen.revision) + 1;
                self.own(turn, revision);
            }
            Swapped::Unknown => (self.looking, self.ask_at) = (true, turn.now.mono),
        }
    }

    pub fn view(&mut self, turn: &mut Turn<'_>, seen: &Seen) {
        match self.stage {
            Stage::Committing if !self.asking => self.judge(turn, seen),
            // The move that this is of is over, or never was: a prepared record names it by its id, the intent by its revision.
            Stage::Clearing | Stage::Receiving | Stage::Broken => {
                let ours = seen.record.migration == self.migration || seen.revision <= self.migration;
                if !ours {
                    self.drop_shadow(turn);
                }
            }
            // Somebody else owns it by now.
            Stage::Owner if seen.record.owner != turn.options.me => {
                let known = turn.roles.seen(self.shard).is_some_and(|known| known.revision > seen.revision);
                if !known {
                    self.stage = Stage::Over;
                    turn.leave(self.shard);
                }
            }
            _ => {}
        }
    }

    /// The record was seen while it was not known whether the commit was done.
    fn judge(&mut self, turn: &mut Turn<'_>, seen: &Seen) {
        turn.roles.see(self.shard, seen.clone());
        let Some(prepared) = &self.prepared else { return };
        if seen.revision < prepared.revision {
            return;
        }
        self.looking = false;
        if seen.revision == prepared.revision {
            self.ask_at = turn.after(turn.options.retry_millis.min(10));
        } else if prepared.record.commit().as_ref() == Ok(&seen.record) {
            self.own(turn, seen.revision);
        } else {
            self.drop_shadow(turn);
        }
    }

    /// The shard is this core's.
    fn own(&mut self, turn: &mut Turn<'_>, revision: u64) {
        let Some(record) = self.prepared.as_ref().and_then(|seen| seen.record.commit().ok()) else { return };
        let epoch = record.epoch;
        self.stage = Stage::Owner;
        self.heard = turn.now.mono;
        if turn.options.has(Sabotage::VersionsBack) {
            let store = turn.engine.store_mut();
            store.unwatch(self.shard);
            store.show(self.shard);
            turn.roles.set(self.shard, Role::Serve);
            turn.roles.see(self.shard, Seen { record, revision });
        } else {
            turn.engine.raise_version(self.floor);
            turn.serve(self.shard, &Seen { record, revision });
        }
        self.send(turn, &Payload::OwnerAck { epoch, revision });
        while let Some(waiting) = self.queue.pop() {
            self.execute(turn, waiting.id, &waiting.request());
        }
    }

    fn drop_shadow(&mut self, turn: &mut Turn<'_>) {
        self.stage = Stage::Over;
        turn.empty(self.shard);
    }

    // -- requests of the source's clients ------------------------------------------------------------------------------

    fn forward(&mut self, turn: &mut Turn<'_>, id: u64, settled: u64, request: &[u8]) {
        if !self.decides() {
            return;
        }
        self.replies = self.replies.split_off(&settled);
        let role = turn.roles.of(self.shard);
        if self.stage == Stage::Owner && role != Role::Serve && !self.replies.contains_key(&id) {
            // The shard is about to move on, and the other side asks again; or it has, and nobody here may do it.
            if role == Role::Away {
                self.send(turn, &Payload::Reject(Reason::Unknown));
            }
            return;
        }
        if let Some(reply) = self.replies.get(&id).cloned() {
            if !turn.options.has(Sabotage::ForwardTwice) {
                return self.send(turn, &Payload::Forwarded { id, outcome: &reply });
            }
        } else if id != self.next_forward {
            // One that waits, one that was answered and is settled, or one behind another that was lost: that comes again.
            return;
        }
        let Ok(request) = verbs::read_request(request, verbs::ahead_millis(turn.now)) else {
            turn.tally.broken_streams += 1;
            return;
        };
        let reads = verbs::only_reads(&request.verb);
        let early = turn.options.has(Sabotage::AckBeforeCommit);
        // A write that waits is not done for a reader either, and one that comes behind it must find it done.
        if self.stage == Stage::Owner || early || (reads && !self.queue.has_write(request.key)) {
            self.next_forward = self.next_forward.max(id + 1);
            return self.execute(turn, id, &request);
        }
        if self.queue.push(turn.options, Waiting::new(id, ELSEWHERE, &request)) {
            self.next_forward = id + 1;
        }
    }

    fn execute(&mut self, turn: &mut Turn<'_>, id: u64, request: &Request<'_>) {
        let ahead = verbs::ahead_millis(turn.now);
        let Outcome { answer, value } = turn.engine.execute(turn.now, request);
        let value = value.bytes();
        let mut reply = Vec::with_capacity(64 + value.len());
        verbs::write_outcome(&Outcome { answer, value: Value::One(value) }, ahead, &mut reply);
        self.send(turn, &Payload::Forwarded { id, outcome: &reply });
        self.replies.insert(id, reply);
    }

    // -- time ----------------------------------------------------------------------------------------------------------

    pub fn link_down(&mut self, turn: &mut Turn<'_>) {
        match self.stage {
            Stage::Receiving => self.stage = Stage::Broken,
            Stage::Clearing => self.drop_shadow(turn),
            _ => {}
        }
    }

    /// Does what is due; answers when to come again.
    pub fn tick(&mut self, turn: &mut Turn<'_>) -> Mono {
        let now = turn.now.mono;
        let options = turn.options;
        match self.stage {
            Stage::Clearing if !turn.emptying.contains(&self.shard.number()) => {
                self.ahead = verbs::ahead_millis(turn.now);
                turn.engine.store_mut().begin_shadow(self.shard, self.ahead);
                self.begin(turn, None);
            }
            Stage::Receiving if now >= self.heard.plus_millis(options.dead_millis) => {
                self.stage = Stage::Broken;
            }
            Stage::Broken if now >= self.heard.plus_millis(options.keep_millis) => self.drop_shadow(turn),
            Stage::Owner if now >= self.heard.plus_millis(options.linger_millis) => self.stage = Stage::Over,
            Stage::Committing if !self.asking && now >= self.ask_at => {
                if self.looking {
                    self.ask_at = turn.after(options.retry_millis);
                    turn.actions.push_back(Action::Look { shard: self.shard });
                } else {
                    self.commit(turn);
                }
            }
            _ => {}
        }
        let beats = matches!(self.stage, Stage::Receiving | Stage::Committing);
        if beats && now >= self.beat_at {
            self.send(turn, &Payload::Beat { wall: turn.now.wall.0 });
        }
        let due = match self.stage {
            Stage::Clearing => now,
            Stage::Receiving => self.beat_at.min(self.heard.plus_millis(options.dead_millis)),
            Stage::Broken => self.heard.plus_millis(options.keep_millis),
            Stage::Committing if self.asking => self.beat_at,
            Stage::Committing => self.beat_at.min(self.ask_at),
            Stage::Owner => self.heard.plus_millis(options.linger_millis),
            Stage::Over => NEVER,
        };
        due.max(Mono(now.0 + 100_000))
    }
}
