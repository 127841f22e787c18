//! Moves of shards between cores, of this node and of others: the machines of [`crate::migration`], driven by the turn.
//!
//! ```text
//!   admin page --Question--> begin ---+
//!   mesh: frames, records ------------+--> Works::step --> Moves::step --> Action --> Works::act --> mesh: frames, records
//!   the clock ----> Core::drive ------+                                          \--> Core::drive: outcomes of who waited
//! ```
//! - Frames travel as requests on the mesh ([`crate::request::ShardCall`]), so that they keep their order with the requests that are
//!   sent on beside them, and count against the same bounds.
//! - The first core holds the shards' records (`records`), in a cluster that of the first node; which core a request goes to meanwhile is in `routes`.
//! - A core that never had to do with a move has none of this but its routes. In a cluster each core has, as it serves a shard only when the
//!   shard's record says that it is its own in this life.

use super::Core;
use super::records::{self, Records, site};
use super::routes::{DETOUR, Departed, Fences, Relays};
use super::works::Works;
use crate::clock::{Mono, Now};
use crate::control::keeper::Kept;
use crate::control::{MoveEnding, MoveRefusal, MoveReport, MoveTally, ShardReport};
use crate::engine::Waiter;
use crate::ids::{CoreId, SHARD_COUNT, ShardId};
use crate::io::time;
use crate::migration::frame::Reason;
use crate::migration::record::{Seen, Site};
use crate::migration::{Action, Ending, Event, Moves, Options, Progress, Role, Swapped, verbs};
use crate::request::{Answer, Fault, Outcome, ShardCall, Value};
use crate::topology::Cluster;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes on their way to a shadow: frames wait for each other at its core, a turn each.
const WINDOW_BYTES: u64 = 256 << 10;
/// Frames that a step sends: about 50 microseconds.
const STEP_FRAMES: usize = 1;
/// While sessions are served, moves have one part in so many of the core's time.
const SHARE: u64 = 4;
/// Times of the machines: nobody dies here alone, but a core may have to wait long for its CPU.
const DEAD_MILLIS: u64 = 10_000;
const FROZEN_MILLIS: u64 = 200;
const GRANT_MILLIS: u64 = 2000;
/// Requests that wait for a switchover.
const HELD_MAX: usize = 16 * 1024;
/// Moves from a core at a time, those that wait for their shard included.
const LIVE_MAX: usize = 64;
/// Moves that ended and are still told of.
const ENDED_MAX: usize = 128;
/// How often the records are asked for at the start of a node, and later: news of moves can get lost with links.
const LIST_MILLIS: u64 = 200;
const RELIST_MILLIS: u64 = 5000;
/// What a client is told of a write of which nobody knows.
pub(super) const UNKNOWN: &[u8] =
    b"UNKNOWN the owner of the key was lost and nobody knows whether this was done";

/// A core of another node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FarState {
    /// Whether there is a link to it.
    pub linked: bool,
    /// Which life of it was seen last; 0: none so far.
    pub incarnation: u64,
}

/// The outcome of a request that waited.
type Late = (Waiter, Answer, Box<[u8]>);

/// A move from this core.
struct Live {
    id: u64,
    to: CoreId,
    begun: Mono,
    /// Since when writes wait.
    held_since: Option<Mono>,
    stall_nanos: u64,
    copied: Option<Mono>,
}

/// All that a core has to do with moves.
pub(super) struct Moving {
    pub(super) moves: Moves,
    /// On the first core.
    pub(super) records: Option<Records>,
    pub(super) fences: Fences,
    pub(super) departed: Departed,
    pub(super) relays: Relays,
    /// Up to which revision of each shard's record the routes follow.
    pub(super) routed: BTreeMap<u16, u64>,
    /// Outcomes for whoever waited; their connections get them when no session is at work.
    pub(super) answers: Vec<Late>,
    /// What records brought that are held here.
    told: VecDeque<(ShardId, Result<Swapped, Seen>)>,
    /// Moves that begin when an earlier one of their shard is wound up.
    wanted: BTreeMap<u16, CoreId>,
    live: BTreeMap<u16, Live>,
    ended: VecDeque<MoveReport>,
    tally: MoveTally,
    count: u64,
    /// Nanoseconds that steps took in this turn, and whether a piece was copied.
    spent_nanos: u64,
    copied: bool,
    /// When the next piece may be.
    copy_at: Option<Mono>,
    /// What the wall clock counts as ahead, by which moments travel.
    ahead_millis: u64,
    cluster: Option<Arc<Cluster>>,
    /// In a cluster: whether the records have been seen, and when to ask for them next.
    listed: bool,
    list_at: Mono,
}

impl Moving {
    fn new(works: &Works, item_bytes_max: usize) -> Moving {
        let (me, map) = (works.me, &works.node.map);
        let cluster = works.node.cluster.clone();
        let own_site = works.site(me);
        let options = Options {
            window_bytes: WINDOW_BYTES,
            step_frames: STEP_FRAMES,
            dead_millis: DEAD_MILLIS,
            frozen_millis: FROZEN_MILLIS,
            grant_millis: GRANT_MILLIS,
            held_max: HELD_MAX,
            ..Options::plain(own_site, item_bytes_max)
        };
        let ahead_millis = verbs::ahead_millis(works.node.started);
        let mut moves = Moves::new(options);
        for shard in (0..SHARD_COUNT).map(ShardId::new) {
            match &cluster {
                // What is this core's it claims when it has seen the records.
                Some(cluster) => moves.see(shard, records::placed_in(cluster, map, shard)),
                None if map.owner(shard) == me => moves.own(shard, records::placed(map, shard)),
                None => moves.see(shard, records::placed(map, shard)),
            }
        }
        while moves.next_changed().is_some() {}
        Moving {
            moves,
            records: (me == CoreId(0) && cluster.is_none()).then(|| Records::new(map.clone())),
            fences: Fences::default(),
            departed: Departed::default(),
            relays: Relays::default(),
            routed: BTreeMap::new(),
            answers: Vec::new(),
            told: VecDeque::new(),
            wanted: BTreeMap::new(),
            live: BTreeMap::new(),
            ended: VecDeque::new(),
            tally: MoveTally::default(),
            count: 0,
            spent_nanos: 0,
            copied: false,
            copy_at: None,
            ahead_millis,
            listed: cluster.is_none(),
            list_at: Mono(0),
            cluster,
        }
    }

    /// The core of a record, as this node numbers it; one that there is not where the list of nodes names it no more.
    pub(super) fn core_of(&self, site: Site) -> CoreId {
        match &self.cluster {
            Some(cluster) => cluster.core_of(site.node, site.core).unwrap_or(DETOUR),
            None => CoreId(site.core),
        }
    }

    fn place_of(&self, core: CoreId) -> (u32, u16) {
        self.cluster.as_ref().map_or((0, core.0), |cluster| cluster.place_of(core))
    }

    /// The moment as the machines see it.
    pub(super) fn now(&self, now: Now) -> Now {
        Now::at(now.mono, self.ahead_millis)
    }

    fn is_quiet(&self) -> bool {
        self.moves.is_quiet() && self.wanted.is_empty() && self.answers.is_empty() && self.listed
    }

    fn report(
        &self,
        me: CoreId,
        shard: ShardId,
        now: Mono,
        progress: Option<Progress>,
    ) -> Option<MoveReport> {
        let live = self.live.get(&shard.number())?;
        let mut report = MoveReport {
            id: live.id,
            shard,
            from: self.place_of(me),
            to: self.place_of(live.to),
            stage: "waiting",
            ending: None,
            attempts: 0,
            items: 0,
            copied_items: 0,
            bytes: 0,
            changes: 0,
            held: 0,
            nanos: now.0.saturating_sub(live.begun.0),
            copy_nanos: live.copied.map(|copied| copied.0.saturating_sub(live.begun.0)),
            stall_nanos: live.stall_nanos + live.held_since.map_or(0, |since| now.0.saturating_sub(since.0)),
        };
        if let Some(Progress { stage, target: _, attempt, items, copied_items, sent_bytes, changes, held }) =
            progress
        {
            (report.stage, report.attempts, report.items) = (stage, attempt, items);
            (report.copied_items, report.bytes) = (copied_items, sent_bytes);
            (report.changes, report.held) = (changes, held);
        }
        Some(report)
    }
}

impl Works {
    /// Begins to have to do with moves.
    pub(super) fn start_moving(&mut self) {
        if self.moving.is_none() {
            let item_bytes_max = self.engine.item_bytes_max();
            self.moving = Some(Box::new(Moving::new(self, item_bytes_max)));
        }
    }

    /// A core as records name it; of another node, in the life that was seen last.
    pub(super) fn site(&self, core: CoreId) -> Site {
        let Some(cluster) = &self.node.cluster else { return site(core) };
        let far = core.index().checked_sub(usize::from(self.node.core_count()));
        let incarnation = far.map_or(cluster.incarnation, |far| self.far[far].incarnation);
        records::site_in(cluster, core, incarnation)
    }

    /// Whether there is a link to a core of another node.
    pub(super) fn is_linked(&self, core: CoreId) -> bool {
        let far = core.index().checked_sub(usize::from(self.node.core_count()));
        far.and_then(|far| self.far.get(far)).is_some_and(|far| far.linked)
    }

    /// Begins as a core of a cluster: no shard is served before its record has been seen.
    pub(super) fn join(&mut self) {
        self.start_moving();
        for shard in (0..SHARD_COUNT).map(ShardId::new) {
            if self.node.map.owner(shard) == self.me {
                self.routes.set(shard, DETOUR);
            }
        }
        self.be_attentive();
    }

    /// There is a link to a core of another node.
    pub(super) fn link_stands(&mut self, now: Now, core: CoreId, incarnation: u64) {
        let place = core.index() - usize::from(self.node.core_count());
        let before = std::mem::replace(&mut self.far[place], FarState { linked: true, incarnation });
        if let Some(moving) = &mut self.moving {
            moving.list_at = now.mono;
            // What was to move to its last life does not move to this one.
            let lost = moving.live.iter().filter(|(_, live)| live.to == core);
            let lost: Vec<u16> = lost.map(|(shard, _)| *shard).collect();
            if before.incarnation != incarnation {
                for shard in lost.into_iter().map(ShardId::new) {
                    self.step(now, Event::Cancel { shard });
                }
            }
        }
        self.introduce(core);
    }

    /// The link to a life of a core of another node is lost.
    pub(super) fn link_lost(&mut self, now: Now, core: CoreId, incarnation: u64) {
        let place = core.index() - usize::from(self.node.core_count());
        self.far[place] = FarState { linked: false, incarnation };
        let to = self.site(core);
        self.step(now, Event::LinkDown { to });
        self.expect_no_more(core);
        if let Some(moving) = &mut self.moving {
            moving.list_at = moving.list_at.min(now.mono.plus_millis(LIST_MILLIS));
        }
    }

    /// Takes in the records of all shards, as they are at the start of this node.
    pub(super) fn take_list(&mut self, now: Now, list: BTreeMap<u16, Seen>) {
        let (Some(cluster), Some(moving)) = (self.node.cluster.clone(), &mut self.moving) else { return };
        moving.list_at = now.mono.plus_millis(RELIST_MILLIS);
        if moving.listed {
            return self.take_news(now, list);
        }
        let placed = cluster.placed();
        for shard in (0..SHARD_COUNT).map(ShardId::new) {
            let Some(moving) = &mut self.moving else { return };
            let first = records::placed_in(&cluster, &placed, shard);
            let mut seen = list.get(&shard.number()).cloned().unwrap_or_else(|| first.clone());
            if cluster.core_of(seen.record.owner.node, seen.record.owner.core).is_none() {
                // Its node is in the list no more: the shard is owned by whom it would be placed at.
                let owner = first.record.owner;
                seen.record = crate::migration::record::Record { owner, ..seen.record };
            }
            let owner = moving.core_of(seen.record.owner);
            moving.routed.insert(shard.number(), seen.revision);
            if self.node.map.owner(shard) != owner {
                Rc::make_mut(&mut self.node).map.give(shard, owner, seen.revision + 1);
            }
            self.routes.set(shard, if owner == self.me { DETOUR } else { owner });
            self.step(now, Event::View { shard, seen });
        }
        if let Some(moving) = &mut self.moving {
            moving.listed = true;
        }
        self.step(now, Event::AllSeen);
    }

    /// Takes in what nobody has told of: who would have had to may be gone.
    fn take_news(&mut self, now: Now, list: BTreeMap<u16, Seen>) {
        for (number, seen) in list {
            let Some(moving) = &self.moving else { return };
            let known = moving.routed.get(&number).copied().unwrap_or(0);
            let owner = moving.core_of(seen.record.owner);
            // Records change while shards move, and their owners stay.
            if seen.revision > known
                && owner != DETOUR
                && owner != self.routes.of(ShardId::new(number))
                && owner != self.me
            {
                self.learn(now, owner, ShardId::new(number), seen);
            }
        }
    }

    /// Says anew whether other cores' requests have to be looked at.
    pub(super) fn be_attentive(&mut self) {
        self.attentive = self.moving.as_ref().is_some_and(|moving| {
            !moving.is_quiet() || !moving.departed.is_empty() || !moving.fences.is_empty()
        });
    }

    /// Has the machines go on, and does what they want.
    pub(super) fn step(&mut self, now: Now, event: Event<'_>) {
        let Works { moving: Some(moving), engine, .. } = self else { return };
        let begin = time::mono();
        let at = moving.now(now);
        let before = moving.moves.tally().copied_items;
        moving.moves.step(at, engine, event);
        moving.copied |= moving.moves.tally().copied_items > before;
        // One piece of a walk per turn.
        moving.moves.rest_until(Mono(now.mono.0 + 1));
        self.act(now);
        if let Some(moving) = &mut self.moving {
            moving.spent_nanos += time::mono().0.saturating_sub(begin.0);
        }
        self.be_attentive();
    }

    /// Does what the machines want, in its order.
    pub(super) fn act(&mut self, now: Now) {
        self.follow_roles();
        loop {
            let Works { moving: Some(moving), engine, .. } = self else { return };
            let Some(action) = moving.moves.poll() else {
                let Some((shard, told)) = moving.told.pop_front() else { break };
                let event = match told {
                    Ok(outcome) => Event::Swapped { shard, outcome },
                    Err(seen) => Event::View { shard, seen },
                };
                let at = moving.now(now);
                moving.moves.step(at, engine, event);
                self.follow_roles();
                continue;
            };
            match action {
                Action::Send { to, frame } => {
                    let core = moving.core_of(to);
                    self.send_frame(core, &frame);
                }
                Action::Close { to } => {
                    tracing::error!(
                        core = to.core,
                        "a frame of another core cannot be read: its moves begin anew"
                    );
                    let at = moving.now(now);
                    moving.moves.step(at, engine, Event::LinkDown { to });
                }
                Action::Swap { shard, expected, record } => match &mut moving.records {
                    Some(records) => {
                        let swapped = records.swap(now.mono, shard, expected, &record.to_bytes());
                        let outcome = swapped.map_or_else(Swapped::Refused, Swapped::Done);
                        moving.told.push_back((shard, Ok(outcome)));
                    }
                    None => {
                        let call = ShardCall::Swap { shard: shard.number(), expected };
                        if !self.ask_for_record(shard, call, &record.to_bytes())
                            && let Some(moving) = &mut self.moving
                        {
                            moving.told.push_back((shard, Ok(Swapped::Unknown)));
                        }
                    }
                },
                Action::Look { shard } => match &moving.records {
                    Some(records) => {
                        let seen = records.look(shard);
                        moving.told.push_back((shard, Err(seen)));
                    }
                    // Who gets no answer asks again.
                    None => {
                        self.ask_for_record(shard, ShardCall::Look { shard: shard.number() }, b"");
                    }
                },
                Action::Answer { waiter, answer, value } => moving.answers.push((waiter, answer, value)),
                Action::Moved { waiter, .. } => {
                    moving.answers.push((waiter, Answer::Fault(Fault::Busy), Box::default()));
                }
                Action::Lost { waiter } => {
                    moving.answers.push((waiter, Answer::Fault(Fault::Origin), UNKNOWN.into()));
                }
                Action::Left { shard, seen } => {
                    moving.routed.insert(shard.number(), seen.revision);
                    let owner = moving.core_of(seen.record.owner);
                    let others = self.others();
                    let Works { moving: Some(moving), .. } = self else { return };
                    if !others.is_empty() {
                        moving.departed.add(shard, others.into_iter());
                    }
                    if !moving.fences.any(shard) {
                        // What this core sends there comes behind what it has sent on before.
                        self.routes.set(shard, owner);
                    }
                    self.announce(shard, &seen);
                    // Where nobody can come any more they may know at once.
                    self.tell_sessions_of(shard);
                }
                Action::Ended { shard, how, progress } => self.ended(shard, how, progress),
            }
        }
    }

    /// Has routes follow what this core is to shards.
    fn follow_roles(&mut self) {
        let Some(moving) = &mut self.moving else { return };
        while let Some(shard) = moving.moves.next_changed() {
            let role = moving.moves.role(shard);
            if let Some(live) = moving.live.get_mut(&shard.number()) {
                let now = time::mono();
                match role {
                    Role::Hold | Role::Forward => {
                        live.held_since.get_or_insert(now);
                        live.copied.get_or_insert(now);
                    }
                    Role::Serve | Role::Away => {
                        let since = live.held_since.take();
                        live.stall_nanos += since.map_or(0, |since| now.0.saturating_sub(since.0));
                    }
                }
            }
            let before = self.routes.of(shard);
            // Who owns a shard since now still asks the old way, until a fence has gone that way.
            let arrived = role == Role::Serve && before != self.me && before != DETOUR;
            if !arrived && role != Role::Away && !moving.fences.any(shard) {
                let route = moving.route_of(self.me, shard);
                self.routes.set(shard, route);
            }
        }
    }

    /// Has sessions see who owns a shard, unless somebody may still come who believes otherwise.
    pub(super) fn tell_sessions_of(&mut self, shard: ShardId) {
        let Some(moving) = &self.moving else { return };
        let settled = !moving.departed.has(shard) && !moving.fences.any(shard);
        if let (true, Some(seen)) = (settled, moving.moves.seen(shard)) {
            let owner = moving.core_of(seen.record.owner);
            let revision = moving.routed.get(&shard.number()).copied().unwrap_or(0);
            Rc::make_mut(&mut self.node).map.give(shard, owner, revision + 1);
            if self.node.is_far(owner) {
                // From now on clients are sent there. What they read by way of this core meanwhile, nobody tells them of.
                self.engine.shard_left();
            }
        }
    }

    fn ended(&mut self, shard: ShardId, how: Ending, progress: Option<Progress>) {
        let Some(moving) = &mut self.moving else { return };
        let ending = match how {
            Ending::Moved => MoveEnding::Moved,
            Ending::Cancelled(reason) => MoveEnding::Cancelled(reason_text(reason)),
            Ending::Revoked => MoveEnding::Revoked,
            Ending::Lost => MoveEnding::Lost,
        };
        let Some(mut report) = moving.report(self.me, shard, time::mono(), progress) else { return };
        moving.live.remove(&shard.number());
        (report.ending, report.stage) = (Some(ending), "over");
        moving.tally.take(&report);
        let millis = |nanos: u64| nanos as f64 / 1e6;
        tracing::info!(
            id = report.id,
            shard = shard.number(),
            from_node = report.from.0,
            from = report.from.1,
            to_node = report.to.0,
            to = report.to.1,
            outcome = ending.name(),
            reason = match ending {
                MoveEnding::Cancelled(why) => why,
                _ => "",
            },
            items = report.copied_items,
            bytes = report.bytes,
            attempts = report.attempts,
            copy_millis = report.copy_nanos.map(millis),
            stall_millis = millis(report.stall_nanos),
            millis = millis(report.nanos),
            "a move of a shard ended"
        );
        moving.ended.push_back(report);
        if moving.ended.len() > ENDED_MAX {
            moving.ended.pop_front();
        }
    }

    // -- what operators ask --------------------------------------------------------------------------------------------

    /// Begins to move a shard away; answers the move's number.
    ///
    /// # Errors
    /// Why it does not begin.
    pub(super) fn begin_move(&mut self, now: Now, shard: ShardId, to: CoreId) -> Result<u64, MoveRefusal> {
        if to.0 >= self.node.all_core_count() {
            return Err(MoveRefusal::NoSuchCore);
        }
        if self.node.is_far(to) && !self.is_linked(to) {
            return Err(MoveRefusal::Away);
        }
        let serves = match &self.moving {
            Some(moving) => moving.moves.role(shard) != Role::Away,
            None => self.node.map.owner(shard) == self.me,
        };
        if !serves {
            return Err(MoveRefusal::NotHere);
        }
        if to == self.me {
            return Err(MoveRefusal::There);
        }
        self.start_moving();
        let (me, cores) = (self.me, self.node.core_count());
        let Some(moving) = &mut self.moving else { return Err(MoveRefusal::Busy) };
        if moving.live.contains_key(&shard.number()) || moving.live.len() >= LIVE_MAX {
            return Err(MoveRefusal::Busy);
        }
        moving.count += 1;
        let id = moving.count * u64::from(cores) + u64::from(me.0);
        let begun = time::mono();
        let live = Live { id, to, begun, held_since: None, stall_nanos: 0, copied: None };
        moving.live.insert(shard.number(), live);
        moving.wanted.insert(shard.number(), to);
        self.begin_wanted(now);
        Ok(id)
    }

    /// Has a move end where it is, if it is under way here and the shard not handed over; whether there was one.
    pub(super) fn cancel_move(&mut self, now: Now, id: u64) -> bool {
        let Some(moving) = &mut self.moving else { return false };
        let found = moving.live.iter().find(|(_, live)| live.id == id).map(|(shard, _)| *shard);
        let Some(number) = found else { return false };
        let shard = ShardId::new(number);
        if moving.wanted.remove(&number).is_some() {
            self.ended(shard, Ending::Cancelled(Reason::Cancelled), None);
        } else {
            self.step(now, Event::Cancel { shard });
        }
        true
    }

    /// Begins the moves whose shards are ready for it.
    fn begin_wanted(&mut self, now: Now) {
        let Some(moving) = &mut self.moving else { return };
        let ready = moving.wanted.iter().find(|(shard, _)| {
            let shard = ShardId::new(**shard);
            moving.moves.role(shard) == Role::Serve && !moving.moves.arrives(shard)
        });
        if let Some((number, to)) = ready.map(|(shard, to)| (*shard, *to)) {
            moving.wanted.remove(&number);
            let target = self.site(to);
            self.step(now, Event::Move { shard: ShardId::new(number), target });
        }
        self.be_attentive();
    }

    /// Moves from this core, those under way first.
    pub(super) fn move_reports(&mut self) -> Vec<MoveReport> {
        let Works { moving: Some(moving), engine, me, .. } = self else { return Vec::new() };
        let now = time::mono();
        let live = moving.live.keys().map(|number| {
            let shard = ShardId::new(*number);
            let progress = moving.moves.progress(engine, shard);
            moving.report(*me, shard, now, progress)
        });
        live.flatten().chain(moving.ended.iter().rev().cloned()).collect()
    }

    /// The shards that this core owns; the first core tells of those of other nodes, too.
    pub(super) fn shard_reports(&mut self) -> Vec<ShardReport> {
        let Works { moving, engine, node, me, .. } = self;
        let moving = moving.as_deref();
        let shards = (0..SHARD_COUNT).map(ShardId::new);
        let report = |shard| {
            let seen = moving.and_then(|it| it.moves.seen(shard));
            let owner = match moving.zip(seen) {
                Some((moving, seen)) => moving.core_of(seen.record.owner),
                None => node.map.owner(shard),
            };
            let owns = moving.map_or(owner == *me, |moving| moving.moves.role(shard) != Role::Away);
            let told = owns || (me.0 == 0 && node.is_far(owner));
            told.then(|| ShardReport {
                shard,
                owner: if owns { *me } else { owner },
                epoch: seen.map_or(0, |seen| seen.record.epoch),
                items: owns.then(|| engine.store_mut().shard_len(shard)),
            })
        };
        shards.filter_map(report).collect()
    }

    /// What was counted of moves from this core, and how many shards it owns.
    pub(super) fn move_tally(&self) -> (MoveTally, u16) {
        match &self.moving {
            Some(moving) => {
                let under_way = moving.live.len() as u64;
                let owned =
                    (0..SHARD_COUNT).filter(|number| moving.moves.role(ShardId::new(*number)) != Role::Away);
                (MoveTally { under_way, ..moving.tally }, owned.count() as u16)
            }
            None => {
                let map = &self.node.map;
                let owned = (0..SHARD_COUNT).filter(|number| map.owner(ShardId::new(*number)) == self.me);
                (MoveTally::default(), owned.count() as u16)
            }
        }
    }
}

impl Core {
    /// Hands on what the keeper of records has answered.
    pub(super) fn take_kept(&mut self, now: Now) {
        if self.works.keeper.is_none() {
            return;
        }
        let kept = std::mem::take(&mut *self.shared.kept.lock().expect("nobody panics while holding it"));
        for Kept { from, address, answer, value } in kept {
            let outcome = Outcome { answer, value: Value::One(&value) };
            match from == self.works.me {
                true => self.works.shard_returned(now, address, &outcome),
                false => self.works.mesh.answer(from, address, &outcome),
            }
        }
    }

    /// Goes on with moves by the clock, and hands outcomes to whoever waited. `served`: sessions had something done in this turn.
    pub(super) fn drive_moves(&mut self, now: Now, served: bool) {
        let Some(moving) = &mut self.works.moving else { return };
        if moving.cluster.is_some() && now.mono >= moving.list_at {
            moving.list_at = now.mono.plus_millis(LIST_MILLIS);
            self.works.ask_for_list();
        }
        let Some(moving) = &mut self.works.moving else { return };
        let due = [moving.moves.wake_at(), moving.copy_at];
        if due.into_iter().flatten().any(|at| now.mono >= at) {
            moving.copy_at = None;
            self.works.step(now, Event::Tick);
        }
        self.works.begin_wanted(now);
        let Some(moving) = &mut self.works.moving else { return };
        for (waiter, answer, value) in std::mem::take(&mut moving.answers) {
            let outcome = Outcome { answer, value: Value::One(&value) };
            if waiter.core == self.works.me {
                self.complete(now, waiter.address, &outcome);
            } else {
                self.works.mesh.answer_late(waiter.core, waiter.address, &outcome);
            }
        }
        self.works.be_attentive();
        let Some(moving) = &mut self.works.moving else { return };
        let spent = std::mem::take(&mut moving.spent_nanos);
        if std::mem::take(&mut moving.copied) {
            let pause = if served { spent * (SHARE - 1) } else { 0 };
            let next = Mono(now.mono.0 + spent + pause);
            moving.moves.rest_until(next);
            moving.copy_at = Some(next);
        }
        let list_at = moving.cluster.as_ref().map(|_| moving.list_at);
        let due = [moving.moves.wake_at(), moving.copy_at].into_iter().flatten().min();
        self.due.moves = due.filter(|_| !moving.is_quiet()).into_iter().chain(list_at).min();
    }
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Finished => "it was done",
        Reason::Cancelled => "somebody wanted it to end",
        Reason::Owner => "the target owned the shard",
        Reason::Busy => "the shard was busy",
        Reason::Unknown => "the target did not know of it",
        Reason::Clock => "the clocks differ",
        Reason::Stream => "a frame was missing",
        Reason::Digest => "the copies differed",
        Reason::Wiped => "what had been copied was forgotten",
        Reason::Lost => "it came to nothing for too long",
        Reason::Diverging => "it was written faster than it was copied",
    }
}

/// Whether fences are left out on purpose, by a test.
#[cfg(not(test))]
pub(super) fn careless() -> bool {
    false
}

#[cfg(test)]
pub(super) use tests::careless;

#[cfg(test)]
mod tests;
