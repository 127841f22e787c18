//! The side that a shard leaves: intent, copy, prepare, freeze, grant, and what follows from the record.
//!
//! ```text
//!  Intent --swap--> Waiting --> Opening --OPENED--> Copying --caught up, swap--> Landing --> Frozen --DRAIN, GRANT--> Granted
//!                      ^----- link lost, NACK ----------/--------------------------/----------/                        |
//!                                                                   OWNER_ACK, record --> Moved  <-- lost -- Revoking <-+ timeout, NACK, link lost
//!                                                                                   Over <---------- won ----/
//! ```
//! Up to the grant this core serves everything; a failure before it costs nothing but the copy. From the grant on it answers
//! nothing itself until the record has said whose the shard is.

use super::deltas::Bundle;
use super::frame::{Payload, Reason, Records};
use super::owner::{Held, Role, Waiting};
use super::record::{Illegal, Phase, Record, Seen, Site};
use super::{Action, Ending, NEVER, Options, Progress, Sabotage, Swapped, Turn, verbs};
use crate::clock::{Mono, Now};
use crate::engine::{Engine, Waiter};
use crate::ids::ShardId;
use crate::request::{Outcome, Request};
use crate::wire::native::frame::ShardBlock;
use std::collections::VecDeque;

/// Bytes of changed keys, and of frames not acknowledged, at which a copy counts as caught up enough to freeze.
const LAG_BYTES_MAX: usize = 16 << 10;
const LANDING_BYTES_MAX: u64 = 64 << 10;
/// After so long waiting for that it freezes all the same: a writer that never rests must not keep a shard from moving.
const LANDING_MILLIS_MAX: u64 = 200;
/// Copies that may come to nothing because too much changed, and digests that may differ, before the move is given up.
const VOIDS_MAX: u32 = 3;
const MISMATCHES_MAX: u32 = 2;
/// Freezes that may end without a grant.
const THAWS_MAX: u32 = 8;
/// How often to look for changes while a copy runs, and while it is about to be frozen.
const PUMP_NANOS: u64 = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The intent is being written.
    Intent,
    /// The stream is to be opened when its time comes.
    Waiting,
    /// OPEN was sent.
    Opening,
    /// Items and changes are being sent.
    Copying,
    /// PREPARED is written; the last lag is being worked off.
    Landing,
    /// Writes wait, the tail is being sent.
    Frozen,
    /// The target may take it.
    Granted,
    /// It is being taken back.
    Revoking,
    /// The target owns it.
    Moved,
    /// The intent is being removed.
    Leaving,
    Over,
}

/// A change of the record that this side wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Shadow,
    Prepare,
    Revoke,
    Abandon,
}

/// A frame of the copy that was not acknowledged.
struct Sent {
    sequence: u64,
    bytes: u64,
    keys: Vec<Box<[u8]>>,
}

pub(super) struct Source {
    shard: ShardId,
    target: Site,
    /// The record as this side knows it.
    seen: Seen,
    migration: u64,
    attempt: u32,
    stage: Stage,
    wish: Option<Wish>,
    /// The attempt that was first good enough; what is asked for stays the same however often it is.
    prepared_attempt: u32,
    /// Whether the wish is on its way; otherwise it is to be asked for, or its outcome looked for, at `ask_at`.
    asking: bool,
    looking: bool,
    ask_at: Mono,
    /// Why it is to end, once that can be.
    cancelled: Option<Reason>,
    // The stream.
    sequence: u64,
    sent_bytes: u64,
    unacked_bytes: u64,
    credit: u64,
    unacked: VecDeque<Sent>,
    /// Of all attempts: for those who look on.
    all_bytes: u64,
    all_items: u64,
    /// Whether the target may still have what was acknowledged.
    resumable: bool,
    walk_told: bool,
    ahead: u64,
    epoch: u32,
    /// Bytes that the walk may send now, and when that was reckoned.
    allowance: u64,
    allowed_at: Mono,
    heard: Mono,
    /// When something was acknowledged last; and since when something has been waiting for that.
    progressed: Mono,
    unanswered: Mono,
    beat_at: Mono,
    retry_at: Mono,
    retry_millis: u64,
    since: Mono,
    voids: u32,
    mismatches: u32,
    thaws: u32,
    /// An image that a test wants to be late.
    late: Option<Vec<u8>>,
    dice: u64,
    pub(super) held: Held,
    /// The last id given, and the last one sent.
    next_id: u64,
    sent_id: u64,
}

impl Source {
    /// Nothing where the record allows no move to there.
    pub fn begin(turn: &mut Turn<'_>, shard: ShardId, target: Site, seen: Seen) -> Option<Source> {
        seen.record.shadow(target).ok()?;
        let now = turn.now.mono;
        let mut source = Source {
            shard,
            target,
            epoch: seen.record.epoch,
            seen,
            migration: 0,
            attempt: 0,
            stage: Stage::Intent,
            wish: None,
            prepared_attempt: 0,
            asking: false,
            looking: false,
            ask_at: now,
            cancelled: None,
            sequence: 0,
            sent_bytes: 0,
            unacked_bytes: 0,
            credit: 0,
            unacked: VecDeque::new(),
            all_bytes: 0,
            all_items: 0,
            resumable: false,
            walk_told: false,
            ahead: verbs::ahead_millis(turn.now),
            allowance: 0,
            allowed_at: now,
            heard: now,
            progressed: now,
            unanswered: now,
            beat_at: now,
            retry_at: now,
            retry_millis: turn.options.retry_millis,
            since: now,
            voids: 0,
            mismatches: 0,
            thaws: 0,
            late: None,
            dice: 0,
            held: Held::default(),
            next_id: 0,
            sent_id: 0,
        };
        source.want(turn, Wish::Shadow);
        Some(source)
    }

    pub fn target(&self) -> Site {
        self.target
    }

    pub fn migration(&self) -> u64 {
        self.migration
    }

    pub fn is_asking(&self) -> bool {
        self.asking
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub fn is_frozen(&self) -> bool {
        matches!(self.stage, Stage::Frozen | Stage::Granted | Stage::Revoking)
    }

    pub fn describe(&self) -> String {
        let Source { shard, target, stage, attempt, wish, .. } = self;
        format!(
            "shard {} to {}.{}: {stage:?}, attempt {attempt}, wants {wish:?}, {} held",
            shard.number(),
            target.node,
            target.core,
            self.held.len()
        )
    }

    pub fn progress(&self, engine: &mut Engine) -> Progress {
        let store = engine.store_mut();
        let stage = match self.stage {
            Stage::Intent => "intent",
            Stage::Waiting => "waiting",
            Stage::Opening => "opening",
            Stage::Copying => "copying",
            Stage::Landing => "landing",
            Stage::Frozen => "frozen",
            Stage::Granted => "granted",
            Stage::Revoking => "revoking",
            Stage::Moved => "moved",
            Stage::Leaving => "leaving",
            Stage::Over => "over",
        };
        Progress {
            stage,
            target: self.target,
            attempt: self.attempt,
            items: store.shard_len(self.shard),
            copied_items: self.all_items,
            sent_bytes: self.all_bytes,
            changes: store.progress(self.shard).map_or(0, |progress| progress.changed as u64),
            held: self.held.len() as u64,
        }
    }

    fn block(&self, sequence: u64) -> ShardBlock {
        ShardBlock {
            migration: self.migration,
            sequence,
            epoch: self.epoch,
            attempt: self.attempt,
            shard: self.shard.number(),
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>, payload: &Payload<'_>) {
        self.beat_at = turn.after(turn.options.beat_millis);
        turn.send(self.target, &self.block(0), payload);
    }

    /// Sends a frame of the copy, by whose keys it can be sent again.
    fn send_ordered(&mut self, turn: &mut Turn<'_>, payload: &Payload<'_>, keys: Vec<Box<[u8]>>) {
        self.sequence += 1;
        let frame = payload.frame(&self.block(self.sequence));
        let bytes = frame.len() as u64;
        if self.unacked.is_empty() {
            self.unanswered = turn.now.mono;
        }
        self.sent_bytes += bytes;
        self.all_bytes += bytes;
        self.unacked_bytes += bytes;
        self.unacked.push_back(Sent { sequence: self.sequence, bytes, keys });
        self.beat_at = turn.after(turn.options.beat_millis);
        turn.actions.push_back(Action::Send { to: self.target, frame });
    }

    // -- the record ----------------------------------------------------------------------------------------------------

    fn wished(&self, wish: Wish) -> Result<Record, Illegal> {
        let record = &self.seen.record;
        match wish {
            Wish::Shadow => record.shadow(self.target),
            Wish::Prepare => record.prepare(self.migration, self.prepared_attempt),
            Wish::Revoke => record.revoke(),
            Wish::Abandon => record.abandon(),
        }
    }

    fn want(&mut self, turn: &mut Turn<'_>, wish: Wish) {
        self.wish = Some(wish);
        self.looking = false;
        match self.wished(wish) {
            Ok(record) => {
                self.asking = true;
                let expected = self.seen.revision;
                turn.actions.push_back(Action::Swap { shard: self.shard, expected, record });
            }
            // Another phase than this side believed in: the record itself says how to go on.
            Err(_) => {
                (self.asking, self.looking, self.ask_at) = (false, true, turn.now.mono);
            }
        }
    }

    pub fn swapped(&mut self, turn: &mut Turn<'_>, outcome: Swapped) {
        let Some(wish) = self.wish.filter(|_| self.asking) else { return };
        self.asking = false;
        match outcome {
            Swapped::Done(revision) => {
                if let Ok(record) = self.wished(wish) {
                    self.fulfilled(turn, wish, Seen { record, revision });
                }
            }
            Swapped::Refused(seen) => self.judge(turn, wish, &seen),
            Swapped::Unknown if wish == Wish::Revoke && turn.options.has(Sabotage::GuessRevoke) => {
                if let Ok(record) = self.wished(wish) {
                    let revision = self.seen.revision + 1;
                    self.fulfilled(turn, wish, Seen { record, revision });
                }
            }
            Swapped::Unknown => (self.looking, self.ask_at) = (true, turn.now.mono),
        }
    }

    pub fn view(&mut self, turn: &mut Turn<'_>, seen: &Seen) {
        if self.stage == Stage::Over || seen.revision < self.seen.revision {
            return;
        }
        match self.wish {
            // The reply says it.
            Some(_) if self.asking => {}
            Some(wish) => self.judge(turn, wish, seen),
            None if seen.revision > self.seen.revision => self.overtaken(turn, seen.clone()),
            None => {}
        }
    }

    /// The record was seen while a wish was not known to be fulfilled.
    fn judge(&mut self, turn: &mut Turn<'_>, wish: Wish, seen: &Seen) {
        turn.roles.see(self.shard, seen.clone());
        self.looking = false;
        if seen.revision == self.seen.revision {
            // As it was: once more. That what is still on its way may be done as well does not matter, as only one can be.
            self.ask_at = turn.after(turn.options.retry_millis.min(10));
        } else if self.wished(wish).as_ref() == Ok(&seen.record) {
            self.fulfilled(turn, wish, seen.clone());
        } else if seen.revision > self.seen.revision {
            self.overtaken(turn, seen.clone());
        }
    }

    fn fulfilled(&mut self, turn: &mut Turn<'_>, wish: Wish, seen: Seen) {
        turn.roles.see(self.shard, seen.clone());
        self.seen = seen;
        self.wish = None;
        match wish {
            Wish::Shadow => {
                self.migration = self.seen.revision;
                self.stage = Stage::Waiting;
                (self.retry_at, self.progressed) = (turn.now.mono, turn.now.mono);
            }
            // The stream may have broken meanwhile; then it is opened again, and the record stays prepared.
            Wish::Prepare => {
                if self.stage == Stage::Copying {
                    self.enter(turn, Stage::Landing);
                }
            }
            Wish::Revoke if self.stage == Stage::Revoking => self.own_again(turn, Ending::Revoked),
            Wish::Revoke | Wish::Abandon => {
                let reason = self.cancelled.unwrap_or(Reason::Cancelled);
                self.own_again(turn, Ending::Cancelled(reason));
            }
        }
        if let Some(reason) = self.cancelled {
            self.cancel(turn, reason);
        }
    }

    /// Somebody else has changed the record.
    fn overtaken(&mut self, turn: &mut Turn<'_>, seen: Seen) {
        self.seen = seen;
        self.wish = None;
        let record = &self.seen.record;
        if record.owner == turn.options.me {
            if self.stage == Stage::Moved || (record.phase == Phase::Prepared && self.is_granted()) {
                // Not by us and not by the target: nobody does that. Until it changes nobody may answer.
                return;
            }
            let how = if self.is_granted() {
                Ending::Revoked
            } else {
                Ending::Cancelled(self.cancelled.unwrap_or(Reason::Lost))
            };
            self.own_again(turn, how);
        } else if self.stage != Stage::Moved {
            self.moved(turn);
        }
    }

    fn is_granted(&self) -> bool {
        matches!(self.stage, Stage::Granted | Stage::Revoking)
    }

    fn enter(&mut self, turn: &Turn<'_>, stage: Stage) {
        self.stage = stage;
        self.since = turn.now.mono;
    }

    /// This side owns the shard, and the move is over.
    fn own_again(&mut self, turn: &mut Turn<'_>, how: Ending) {
        let reason = match how {
            Ending::Cancelled(reason) => reason,
            _ => Reason::Lost,
        };
        if self.attempt > 0 {
            self.send(turn, &Payload::Abort(reason));
        }
        turn.serve(self.shard, &self.seen);
        self.thaw_held(turn);
        match how {
            Ending::Revoked => turn.tally.revoked += 1,
            _ => turn.tally.cancelled += 1,
        }
        self.end(turn, how);
    }

    fn end(&mut self, turn: &mut Turn<'_>, how: Ending) {
        self.stage = Stage::Over;
        let progress = Some(self.progress(turn.engine));
        turn.actions.push_back(Action::Ended { shard: self.shard, how, progress });
    }

    /// The record names another owner.
    fn moved(&mut self, turn: &mut Turn<'_>) {
        turn.roles.see(self.shard, self.seen.clone());
        turn.leave(self.shard);
        self.unacked.clear();
        self.enter(turn, Stage::Moved);
        turn.actions.push_back(Action::Left { shard: self.shard, seen: self.seen.clone() });
        let other = self.seen.record.owner != self.target;
        if other {
            // Whoever it is knows nothing of what was sent on.
            self.give_held_up(turn);
            return self.end(turn, Ending::Lost);
        }
        turn.tally.moved += 1;
        self.forward_all(turn, false);
        self.retry_at = turn.after(self.retry_millis);
    }

    // -- requests that wait --------------------------------------------------------------------------------------------

    /// Keeps a request; nothing if there is no room. What is to be sent on at once comes back.
    pub fn hold(
        &mut self,
        now: Now,
        options: &Options,
        waiter: Waiter,
        request: &Request<'_>,
    ) -> Option<Option<Action>> {
        let sends = matches!(self.stage, Stage::Granted | Stage::Moved);
        let id = if sends { self.next_id + 1 } else { 0 };
        if !self.held.push(options, Waiting::new(id, waiter, request)) {
            return None;
        }
        if !sends {
            return Some(None);
        }
        (self.next_id, self.sent_id) = (id, id);
        let mut bytes = Vec::new();
        verbs::write_request(request, verbs::ahead_millis(now), &mut bytes);
        let settled = self.held.first_id().unwrap_or(id);
        let frame = Payload::Forward { id, settled, request: &bytes }.frame(&self.block(0));
        Some(Some(Action::Send { to: self.target, frame }))
    }

    /// Sends on what waits; `again`: what was sent before, too.
    fn forward_all(&mut self, turn: &mut Turn<'_>, again: bool) {
        for waiting in self.held.iter_mut().filter(|waiting| waiting.id == 0) {
            self.next_id += 1;
            waiting.id = self.next_id;
            turn.tally.forwarded += 1;
        }
        let settled = self.held.first_id().unwrap_or(self.next_id + 1);
        let first_new = if again { 0 } else { self.sent_id };
        let ahead = verbs::ahead_millis(turn.now);
        let block = self.block(0);
        for waiting in self.held.iter().filter(|waiting| waiting.id > first_new) {
            let mut bytes = Vec::new();
            verbs::write_request(&waiting.request(), ahead, &mut bytes);
            turn.send(self.target, &block, &Payload::Forward { id: waiting.id, settled, request: &bytes });
        }
        self.sent_id = self.next_id;
    }

    /// Does here what waits: this side serves.
    fn thaw_held(&mut self, turn: &mut Turn<'_>) {
        while let Some(waiting) = self.held.pop() {
            if turn.options.has(Sabotage::RunHeldTwice) {
                turn.engine.execute(turn.now, &waiting.request());
            }
            if !turn.options.has(Sabotage::ForgetHeld) {
                turn.execute(&waiting);
            }
        }
    }

    /// Nobody is left who would answer: reads go to the owner, of writes that were sent on nobody knows.
    fn give_held_up(&mut self, turn: &mut Turn<'_>) {
        let owner = self.seen.record.owner;
        while let Some(waiting) = self.held.pop() {
            let done = waiting.id > 0 && !verbs::only_reads(&waiting.request().verb);
            let waiter = waiting.waiter;
            turn.actions.push_back(match done {
                true => Action::Lost { waiter },
                false => Action::Moved { waiter, owner },
            });
        }
    }

    // -- frames --------------------------------------------------------------------------------------------------------

    pub fn frame(&mut self, turn: &mut Turn<'_>, block: &ShardBlock, payload: &Payload<'_>) {
        if block.attempt != self.attempt {
            turn.tally.stale_frames += 1;
            return;
        }
        self.heard = turn.now.mono;
        let streams = matches!(self.stage, Stage::Copying | Stage::Landing | Stage::Frozen);
        match *payload {
            Payload::Opened { credit, resumed, .. } if self.stage == Stage::Opening => {
                self.opened(turn, credit, resumed);
            }
            Payload::Reject(reason) => self.rejected(turn, reason),
            Payload::Ack { sequence, .. } if sequence <= self.sequence => self.acknowledged(turn, sequence),
            Payload::Credit { total } => self.credit = self.credit.max(total),
            Payload::OwnerAck { epoch, revision }
                if self.is_granted() && epoch == self.seen.record.next_epoch =>
            {
                if let Ok(record) = self.seen.record.commit() {
                    self.seen = Seen { record, revision };
                    (self.wish, self.asking) = (None, false);
                    self.moved(turn);
                }
            }
            Payload::Nack { reason, .. } if self.stage == Stage::Granted => {
                self.note_mismatch(turn, reason);
                self.revoke(turn);
            }
            Payload::Nack { reason, .. } if streams => {
                self.note_mismatch(turn, reason);
                self.resumable &= reason == Reason::Stream;
                self.broken(turn);
            }
            Payload::Forwarded { id, outcome } if self.is_granted() || self.stage == Stage::Moved => {
                let ahead = verbs::ahead_millis(turn.now);
                if let Ok(Outcome { answer, value }) = verbs::read_outcome(outcome, ahead)
                    && let Some(waiting) = self.held.take(id)
                {
                    let value = value.bytes().to_vec().into_boxed_slice();
                    turn.actions.push_back(Action::Answer { waiter: waiting.waiter, answer, value });
                    self.progressed = turn.now.mono;
                }
            }
            Payload::Abort(_) if streams || self.stage == Stage::Opening => {
                self.resumable = false;
                self.broken(turn);
            }
            Payload::Abort(_) if self.stage == Stage::Granted => self.revoke(turn),
            _ => {}
        }
    }

    fn note_mismatch(&mut self, turn: &mut Turn<'_>, reason: Reason) {
        if reason == Reason::Digest {
            turn.tally.digest_mismatches += 1;
            self.mismatches += 1;
            self.resumable = false;
            if self.mismatches >= MISMATCHES_MAX {
                self.cancelled = Some(reason);
            }
        }
    }

    fn rejected(&mut self, turn: &mut Turn<'_>, reason: Reason) {
        match (self.stage, reason) {
            (Stage::Opening, Reason::Clock) => self.cancel(turn, reason),
            (Stage::Opening, _) => self.broken(turn),
            (Stage::Copying | Stage::Landing | Stage::Frozen, _) => {
                self.resumable = false;
                self.broken(turn);
            }
            (Stage::Granted, _) => self.revoke(turn),
            (Stage::Moved, Reason::Unknown) => self.give_held_up(turn),
            _ => {}
        }
    }

    fn opened(&mut self, turn: &mut Turn<'_>, credit: u64, resumed: Option<u64>) {
        let (store, now) = (turn.engine.store_mut(), turn.now.mono);
        match resumed.filter(|_| self.resumable) {
            Some(sequence) => {
                turn.tally.resumed += 1;
                let lost = self.unacked.drain(..).filter(|sent| sent.sequence > sequence);
                let forgets = turn.options.has(Sabotage::ForgetUnacked);
                for key in lost.flat_map(|sent| sent.keys).filter(|_| !forgets) {
                    store.note_again(self.shard, &key);
                }
            }
            None => {
                self.ahead = verbs::ahead_millis(turn.now);
                store.watch(self.shard, self.ahead);
                self.unacked.clear();
                self.walk_told = false;
            }
        }
        (self.sequence, self.sent_bytes, self.unacked_bytes, self.credit) = (0, 0, 0, credit);
        (self.resumable, self.late) = (true, None);
        (self.allowance, self.allowed_at, self.unanswered) = (0, now, now);
        self.retry_millis = turn.options.retry_millis;
        let prepared = self.seen.record.phase == Phase::Prepared;
        self.enter(turn, if prepared && self.wish.is_none() { Stage::Landing } else { Stage::Copying });
    }

    fn acknowledged(&mut self, turn: &Turn<'_>, sequence: u64) {
        while self.unacked.front().is_some_and(|sent| sent.sequence <= sequence) {
            let sent = self.unacked.pop_front().expect("looked at");
            self.unacked_bytes = self.unacked_bytes.saturating_sub(sent.bytes);
            (self.progressed, self.unanswered) = (turn.now.mono, turn.now.mono);
        }
    }

    pub fn link_down(&mut self, turn: &mut Turn<'_>) {
        match self.stage {
            Stage::Opening | Stage::Copying | Stage::Landing | Stage::Frozen => self.broken(turn),
            Stage::Granted => self.revoke(turn),
            _ => {}
        }
    }

    /// The stream has ended before a grant: it is opened again after a while.
    fn broken(&mut self, turn: &mut Turn<'_>) {
        if self.stage == Stage::Frozen {
            self.thaw(turn);
        }
        self.enter(turn, Stage::Waiting);
        self.retry_at = turn.after(self.retry_millis);
        self.retry_millis = (self.retry_millis * 2).min(turn.options.retry_millis_max);
        if let Some(reason) = self.cancelled {
            self.cancel(turn, reason);
        }
    }

    /// Writes go on here: the freeze came to nothing.
    fn thaw(&mut self, turn: &mut Turn<'_>) {
        turn.roles.set(self.shard, Role::Serve);
        self.thaw_held(turn);
        self.enter(turn, Stage::Landing);
        self.thaws += 1;
    }

    fn revoke(&mut self, turn: &mut Turn<'_>) {
        self.enter(turn, Stage::Revoking);
        self.want(turn, Wish::Revoke);
    }

    pub fn cancel(&mut self, turn: &mut Turn<'_>, reason: Reason) {
        if self.stage == Stage::Moved || self.stage == Stage::Over {
            return;
        }
        self.cancelled = Some(reason);
        if self.stage == Stage::Frozen {
            self.thaw(turn);
        }
        if self.wish.is_some() || self.stage == Stage::Leaving {
            // It goes on when that is known.
            return;
        }
        if self.stage == Stage::Granted {
            return self.revoke(turn);
        }
        // Nothing was granted of this PREPARED, so that nobody can follow it but this.
        let wish = match self.seen.record.phase {
            Phase::Shadow => Wish::Abandon,
            Phase::Prepared => Wish::Revoke,
            Phase::Stable => return self.own_again(turn, Ending::Cancelled(reason)),
        };
        self.enter(turn, Stage::Leaving);
        self.want(turn, wish);
    }

    // -- time ----------------------------------------------------------------------------------------------------------

    /// Does what is due; answers when to come again. `wait`: another shard of this core is frozen.
    pub fn tick(&mut self, turn: &mut Turn<'_>, wait: bool) -> Mono {
        let now = turn.now.mono;
        if let Some(wish) = self.wish
            && !self.asking
            && now >= self.ask_at
        {
            if self.looking {
                self.ask_at = turn.after(turn.options.retry_millis);
                turn.actions.push_back(Action::Look { shard: self.shard });
            } else {
                self.want(turn, wish);
            }
        }
        let late = |millis| now >= self.heard.plus_millis(millis);
        // The other side lives, and does not answer: a frame was lost, and it waits for that one.
        let stalled =
            !self.unacked.is_empty() && now >= self.unanswered.plus_millis(turn.options.dead_millis);
        match self.stage {
            Stage::Opening | Stage::Copying | Stage::Landing | Stage::Frozen
                if late(turn.options.dead_millis) || (self.stage != Stage::Opening && stalled) =>
            {
                self.broken(turn);
            }
            Stage::Granted if now >= self.since.plus_millis(turn.options.grant_millis) => self.revoke(turn),
            _ => {}
        }
        let stuck = now >= self.progressed.plus_millis(turn.options.give_up_millis);
        let streams = matches!(self.stage, Stage::Waiting | Stage::Opening | Stage::Copying | Stage::Landing);
        if streams && (stuck || self.thaws >= THAWS_MAX) && self.cancelled.is_none() {
            self.cancel(turn, if stuck { Reason::Lost } else { Reason::Diverging });
        }
        match self.stage {
            Stage::Waiting if now >= self.retry_at && self.wish != Some(Wish::Shadow) => self.open(turn),
            Stage::Copying | Stage::Landing | Stage::Frozen => self.pump(turn, wait),
            Stage::Moved => self.see_out(turn),
            _ => {}
        }
        let beats = matches!(
            self.stage,
            Stage::Copying | Stage::Landing | Stage::Frozen | Stage::Granted | Stage::Moved
        );
        if beats && now >= self.beat_at {
            self.send(turn, &Payload::Beat { wall: turn.now.wall.0 });
        }
        self.due(turn)
    }

    fn due(&self, turn: &Turn<'_>) -> Mono {
        let options = turn.options;
        let ask = if self.wish.is_some() && !self.asking { self.ask_at } else { NEVER };
        let stage = match self.stage {
            Stage::Intent | Stage::Leaving | Stage::Revoking | Stage::Over => NEVER,
            Stage::Waiting => self.retry_at.min(self.progressed.plus_millis(options.give_up_millis)),
            Stage::Opening => self.heard.plus_millis(options.dead_millis),
            Stage::Copying | Stage::Landing | Stage::Frozen => Mono(turn.now.mono.0 + PUMP_NANOS),
            Stage::Granted => self.since.plus_millis(options.grant_millis).min(self.beat_at),
            Stage::Moved => self.beat_at.min(self.retry_at),
        };
        ask.min(stage).max(Mono(turn.now.mono.0 + PUMP_NANOS / 4))
    }

    fn open(&mut self, turn: &mut Turn<'_>) {
        self.attempt += 1;
        turn.tally.attempts += 1;
        self.enter(turn, Stage::Opening);
        self.heard = turn.now.mono;
        let items = turn.engine.store_mut().shard_len(self.shard);
        let incarnation = turn.options.me.incarnation;
        let wall = turn.now.wall.0;
        self.send(turn, &Payload::Open { incarnation, wall, items, resume: self.resumable });
    }

    /// Sends what there is to be sent, and goes on to the next stage when that is little.
    fn pump(&mut self, turn: &mut Turn<'_>, wait: bool) {
        if self.stage == Stage::Frozen && turn.now.mono >= self.since.plus_millis(turn.options.frozen_millis)
        {
            return self.thaw(turn);
        }
        let Some(progress) = turn.engine.store_mut().progress(self.shard) else { return };
        if progress.void {
            return self.begin_anew(turn);
        }
        let mut walked = progress.walked;
        for _ in 0..turn.options.step_frames {
            if !self.has_credit() {
                break;
            }
            let sent = self.send_changes(turn)
                || (self.stage != Stage::Frozen && !walked && self.send_walk(turn, &mut walked));
            if !sent {
                break;
            }
        }
        if walked && !self.walk_told && self.has_credit() {
            self.walk_told = true;
            let items = turn.tally.copied_items;
            self.send_ordered(turn, &Payload::SegmentEnd { items }, Vec::new());
        }
        let Some(progress) = turn.engine.store_mut().progress(self.shard) else { return };
        let near = progress.changed_bytes <= LAG_BYTES_MAX && self.unacked_bytes <= LANDING_BYTES_MAX;
        let walked = progress.walked && self.walk_told && !progress.void;
        match self.stage {
            Stage::Copying if walked && near && self.wish.is_none() && turn.engine.is_settled() => {
                if self.prepared_attempt == 0 {
                    self.prepared_attempt = self.attempt;
                }
                self.want(turn, Wish::Prepare);
            }
            Stage::Landing if walked && !wait && self.may_freeze(turn) => {
                let long = turn.now.mono >= self.since.plus_millis(LANDING_MILLIS_MAX);
                if near || long {
                    self.freeze(turn);
                }
            }
            Stage::Frozen => self.grant(turn),
            _ => {}
        }
    }

    /// After a freeze that came to nothing the next one waits, longer each time.
    fn may_freeze(&self, turn: &Turn<'_>) -> bool {
        let pause = u64::from(self.thaws) * turn.options.frozen_millis;
        self.has_credit() && turn.now.mono >= self.since.plus_millis(pause) && turn.engine.is_settled()
    }

    fn has_credit(&self) -> bool {
        self.sent_bytes < self.credit
    }

    /// Too much changed, or all was forgotten: the copy begins anew.
    fn begin_anew(&mut self, turn: &mut Turn<'_>) {
        turn.tally.voided_copies += 1;
        self.voids += 1;
        self.resumable = false;
        self.send(turn, &Payload::Abort(Reason::Wiped));
        if self.voids >= VOIDS_MAX {
            return self.cancel(turn, Reason::Diverging);
        }
        self.broken(turn);
    }

    fn send_changes(&mut self, turn: &mut Turn<'_>) -> bool {
        let (now, options) = (turn.now.mono, turn.options);
        let store = turn.engine.store_mut();
        let withheld = self.stage == Stage::Landing && options.has(Sabotage::GrantBeforeTail);
        if withheld || !store.has_changed(self.shard) {
            return false;
        }
        let bundle = Bundle::of_changes(store, now, self.shard, self.ahead, options, &mut self.dice);
        turn.tally.deltas += bundle.keys.len() as u64;
        self.send_ordered(turn, &Payload::Delta(Records(&bundle.records)), bundle.keys);
        if let Some(late) = self.late.take() {
            self.send_ordered(turn, &Payload::Snapshot(Records(&late)), Vec::new());
        }
        true
    }

    fn send_walk(&mut self, turn: &mut Turn<'_>, walked: &mut bool) -> bool {
        let (now, rate) = (turn.now.mono, turn.options.bytes_per_second);
        let passed = now.0.saturating_sub(self.allowed_at.0);
        let earned = u128::from(passed) * u128::from(rate) / u128::from(Mono::NANOS_PER_SECOND);
        // A pause is not saved up.
        self.allowance = (self.allowance + earned as u64).min(turn.options.window_bytes);
        self.allowed_at = now;
        if self.allowance == 0 || now < turn.rest_until {
            return false;
        }
        let (bundle, more) = Bundle::of_walk(turn.engine.store_mut(), now, self.shard, self.ahead);
        *walked = !more;
        self.allowance = self.allowance.saturating_sub(bundle.records.len() as u64);
        if bundle.keys.is_empty() {
            return more;
        }
        turn.tally.copied_items += bundle.keys.len() as u64;
        self.all_items += bundle.keys.len() as u64;
        self.send_ordered(turn, &Payload::Snapshot(Records(&bundle.records)), bundle.keys);
        if turn.options.has(Sabotage::LateImage) {
            self.late = Some(bundle.records);
        }
        true
    }

    /// From here on writes wait. The tail follows at once, as far as there is credit.
    fn freeze(&mut self, turn: &mut Turn<'_>) {
        self.enter(turn, Stage::Frozen);
        turn.roles.set(self.shard, Role::Hold);
        if turn.options.has(Sabotage::GrantBeforeTail) {
            return self.grant(turn);
        }
        while self.has_credit() && self.send_changes(turn) {}
        self.grant(turn);
    }

    /// Grants, if the tail is sent.
    fn grant(&mut self, turn: &mut Turn<'_>) {
        let early = turn.options.has(Sabotage::GrantBeforeTail);
        let store = turn.engine.store_mut();
        if store.has_changed(self.shard) && !early {
            return;
        }
        let Some(progress) = store.progress(self.shard) else { return };
        if progress.items != progress.digest.items && !early && !turn.options.has(Sabotage::IgnoreDigest) {
            // Something is here that was never sent. That is a mistake of ours, and the copy is not to be trusted.
            self.note_mismatch(turn, Reason::Digest);
            self.send(turn, &Payload::Abort(Reason::Digest));
            return self.broken(turn);
        }
        let version = turn.engine.version();
        self.send_ordered(turn, &Payload::Drain { digest: progress.digest.into(), version }, Vec::new());
        let record = self.seen.record.to_bytes();
        let revision = self.seen.revision;
        self.send_ordered(turn, &Payload::Grant { revision, record: &record }, Vec::new());
        let role = if turn.options.has(Sabotage::TwoOwners) { Role::Serve } else { Role::Forward };
        turn.roles.set(self.shard, role);
        self.enter(turn, Stage::Granted);
        self.forward_all(turn, false);
    }

    /// Waits for the replies to what was sent on, and asks again for those that were lost.
    fn see_out(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if !self.held.is_empty() && now >= self.since.plus_millis(turn.options.linger_millis) {
            self.give_held_up(turn);
        }
        if self.held.is_empty() {
            self.send(turn, &Payload::Abort(Reason::Finished));
            return self.end(turn, Ending::Moved);
        }
        if now >= self.retry_at {
            self.forward_all(turn, true);
            self.retry_at = turn.after(self.retry_millis);
            self.retry_millis = (self.retry_millis * 2).min(turn.options.retry_millis_max);
        }
    }
}
