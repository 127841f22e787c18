//! Moves of shards: the copy that becomes the owner, and what the owner does with requests meanwhile.
//!
//! ```text
//!   Event --> Moves::step --> Source (one for each shard that leaves)      --> Action
//!                         \-> Destination (one for each that comes)       /
//!   request --> Moves::request --> Roles: execute here | wait | moved
//! ```
//! One per core, beside its engine. It has no clock, no socket and no dice: moments and frames come in, frames and compare-and-swaps go
//! out, in the same order for the same input. The protocol is `proto-spec/native.md` 8, how it works and why is
//! `docs/internals/shards.md`.
//!
//! What must hold, whatever is lost, late or dead:
//! 1. Who acknowledges writes of a shard is decided by its record alone: its owner until it has *granted*, nobody from then on,
//!    then whoever's compare-and-swap on PREPARED succeeded. Nobody guesses: an unknown outcome is asked for until it is known.
//! 2. Between the grant and the target's commit the target answers nobody but the source, and reads only.
//! 3. A request that is held is answered once, by the one side that did it.
//! 4. A shadow is never seen before it is the owner, and what is left of one is removed before the shard may come again.
//!
//! Files: `record` (the shard's record), `frame` and `verbs` (what travels), `source`, `destination`, `owner` (roles, held requests, claims),
//! `deltas` (frames of records), `link` (what goes between the cores of two nodes).

mod bytes;
mod deltas;
mod destination;
pub mod frame;
pub mod link;
mod owner;
pub mod record;
mod source;
pub mod verbs;

use crate::clock::{Mono, Now};
use crate::engine::{Engine, Waiter};
use crate::ids::{SHARD_COUNT, ShardId};
use crate::request::{Answer, Request};
use crate::wire::native::frame::ShardBlock;
pub use bytes::Malformed;
use destination::Destination;
use frame::{Payload, Reason};
pub use owner::Role;
use owner::{Claim, Roles};
use record::{Record, Seen, Site};
use source::Source;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The moment that never comes.
const NEVER: Mono = Mono(u64::MAX);
/// Most moves that a core is the source of at one time, and most that it is the target of.
const MOVES_MAX: usize = 64;
/// Items removed at a time of a shard that is not here any more.
const EMPTYING_ITEMS: usize = 64;

/// Bounds of the moves of a core.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this is.
    pub me: Site,
    /// Longest key and value together.
    pub item_bytes_max: usize,
    /// Bytes of the copy per second and move, deltas apart.
    pub bytes_per_second: u64,
    /// Bytes that may be on their way to a shadow.
    pub window_bytes: u64,
    /// Frames that one step sends of a shard: what bounds how long a step takes.
    pub step_frames: usize,
    /// Silence after which a sign of life is sent.
    pub beat_millis: u64,
    /// Silence after which the other side counts as gone.
    pub dead_millis: u64,
    /// Pause before something is tried again, the first time and at most.
    pub retry_millis: u64,
    /// The longest pause.
    pub retry_millis_max: u64,
    /// How long a copy may make no progress before the move is given up.
    pub give_up_millis: u64,
    /// How long writes may wait for the tail to be sent.
    pub frozen_millis: u64,
    /// How long a grant may go without an answer before it is revoked.
    pub grant_millis: u64,
    /// How long a shadow is kept whose stream has broken.
    pub keep_millis: u64,
    /// How long the two sides remember a move that is over, for replies that were lost.
    pub linger_millis: u64,
    /// Requests that wait for a switchover, and their bytes.
    pub held_max: usize,
    /// Their bytes.
    pub held_bytes_max: usize,
    /// How far two wall clocks may differ.
    pub skew_millis_max: u64,
    /// Mistakes to be made on purpose, so that tests can show that they would be found. None in any other use.
    #[doc(hidden)]
    pub sabotage: &'static [Sabotage],
}

impl Options {
    /// What suits links of a data centre.
    pub const fn plain(me: Site, item_bytes_max: usize) -> Options {
        Options {
            me,
            item_bytes_max,
            bytes_per_second: 512 << 20,
            window_bytes: 1 << 20,
            step_frames: 4,
            beat_millis: 1000,
            dead_millis: 3000,
            retry_millis: 100,
            retry_millis_max: 5000,
            give_up_millis: 60_000,
            frozen_millis: 50,
            grant_millis: 200,
            keep_millis: 10_000,
            linger_millis: 30_000,
            held_max: 4096,
            held_bytes_max: 16 << 20,
            skew_millis_max: 5000,
            sabotage: &[],
        }
    }

    fn has(&self, how: Sabotage) -> bool {
        self.sabotage.contains(&how)
    }
}

/// Mistakes that a test makes on purpose.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Now and then a change is not told to the shadow.
    SkipDelta,
    /// Removals are not told to the shadow.
    LoseTombstone,
    /// An image from the walk is sent once more after it has changed.
    LateImage,
    /// The owner goes on serving after the grant.
    TwoOwners,
    /// The owner goes on answering reads after the grant.
    ReadAfterGrant,
    /// The target executes forwarded writes before its commit.
    AckBeforeCommit,
    /// The target answers its own clients before its commit.
    DirectBeforeCommit,
    /// A target that does not know whether it committed thinks it did.
    GuessCommit,
    /// A source that does not know whether it revoked thinks it did.
    GuessRevoke,
    /// The digest is not compared.
    IgnoreDigest,
    /// Frames that came before are applied again.
    ApplyDuplicates,
    /// Frames of earlier attempts are applied.
    AcceptStale,
    /// Requests that wait at the source are forgotten when it revokes.
    ForgetHeld,
    /// Requests that were done at the target are done at the source as well.
    RunHeldTwice,
    /// The target's versions do not begin above the source's.
    VersionsBack,
    /// The grant is sent before the last changes.
    GrantBeforeTail,
    /// A forwarded request that comes again is executed again.
    ForwardTwice,
    /// What was on its way when a stream broke is not told again.
    ForgetUnacked,
}

/// What became of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// It was done, under this revision.
    Done(u64),
    /// It was not: the record is another.
    Refused(Seen),
    /// Nobody knows; it may even be done later.
    Unknown,
}

/// What happens to the moves of a core.
#[derive(Debug)]
pub enum Event<'a> {
    /// A frame of the shard stream, whole, from another core.
    Frame {
        /// From whom.
        from: Site,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The link to a core has broken, or a frame could not be sent to it.
    LinkDown {
        /// To whom.
        to: Site,
    },
    /// The outcome of [`Action::Swap`].
    Swapped {
        /// Which shard's.
        shard: ShardId,
        /// The outcome.
        outcome: Swapped,
    },
    /// The record as it stands: after [`Action::Look`], or because it has changed.
    View {
        /// Whose.
        shard: ShardId,
        /// The record.
        seen: Seen,
    },
    /// The records of all shards of the cluster have been shown by [`Event::View`], as they are after this life of the core began. Before,
    /// it takes none of them.
    AllSeen,
    /// Somebody wants a shard of this core to move.
    Move {
        /// Which.
        shard: ShardId,
        /// Where to.
        target: Site,
    },
    /// Somebody wants a move not to go on.
    Cancel {
        /// Of which shard.
        shard: ShardId,
    },
    /// Time has passed.
    Tick,
}

/// What the moves of a core want done.
#[derive(Debug)]
pub enum Action {
    /// Send a frame. What cannot be sent is told by [`Event::LinkDown`].
    Send {
        /// To whom.
        to: Site,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// Close the link to a core: what came from it is not to be trusted.
    Close {
        /// To whom.
        to: Site,
    },
    /// Change a shard's record if its revision is still the expected one; then [`Event::Swapped`], always, and soon.
    Swap {
        /// Which.
        shard: ShardId,
        /// The revision it was seen under.
        expected: u64,
        /// What it is to be.
        record: Record,
    },
    /// Read a shard's record, as it is now and no older; then [`Event::View`].
    Look {
        /// Whose.
        shard: ShardId,
    },
    /// Hand the outcome of a request that had to wait to its client.
    Answer {
        /// Who.
        waiter: Waiter,
        /// The answer.
        answer: Answer,
        /// Its bytes.
        value: Box<[u8]>,
    },
    /// A request that had to wait was not done: its client is to ask the owner.
    Moved {
        /// Who.
        waiter: Waiter,
        /// The owner.
        owner: Site,
    },
    /// Nobody knows whether a request was done; its client is to be told so.
    Lost {
        /// Who.
        waiter: Waiter,
    },
    /// The shard is another core's from now on: the record says so. Whoever sends requests for it is to be told.
    Left {
        /// Which shard.
        shard: ShardId,
        /// Its record.
        seen: Seen,
    },
    /// A move has ended.
    Ended {
        /// Which shard's.
        shard: ShardId,
        /// How.
        how: Ending,
        /// How far it came; nothing of one that could not begin.
        progress: Option<Progress>,
    },
}

/// How a move ended at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The target owns the shard.
    Moved,
    /// The source owns it: it was not handed over.
    Cancelled(Reason),
    /// The source owns it again, after it had granted it.
    Revoked,
    /// It is somebody else's.
    Lost,
}

/// How a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The engine is to do it now.
    Execute,
    /// An action brings its outcome.
    Wait,
    /// Another core owns the key.
    Moved(Site),
    /// Nobody can do it now: the client is to ask again.
    Busy,
}

/// How far a move is, seen from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is at, in a word.
    pub stage: &'static str,
    /// Where the shard goes.
    pub target: Site,
    /// Which attempt at the copy this is.
    pub attempt: u32,
    /// Items that the shard has.
    pub items: u64,
    /// Items that the walk has handed out, all attempts together.
    pub copied_items: u64,
    /// Bytes of frames of the copy, all attempts together.
    pub sent_bytes: u64,
    /// Changes that the target does not know of so far.
    pub changes: u64,
    /// Requests that wait for it.
    pub held: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Moves that ended with the target as owner.
    pub moved: u64,
    /// Grants taken back.
    pub revoked: u64,
    /// Moves given up before a grant.
    pub cancelled: u64,
    /// Attempts to copy, the first ones included.
    pub attempts: u64,
    /// Attempts that went on where the one before broke.
    pub resumed: u64,
    /// Items sent from walks.
    pub copied_items: u64,
    /// Changes sent.
    pub deltas: u64,
    /// Frames of attempts that are over.
    pub stale_frames: u64,
    /// Frames that came twice.
    pub duplicate_frames: u64,
    /// Streams broken off because a frame was missing or wrong.
    pub broken_streams: u64,
    /// Digests that differed.
    pub digest_mismatches: u64,
    /// Copies that had to begin anew because too much had changed.
    pub voided_copies: u64,
    /// Requests that waited.
    pub held: u64,
    /// Requests sent on to the new owner.
    pub forwarded: u64,
    /// Most requests that waited at one time.
    pub held_max: u64,
}

/// What a step works with.
struct Turn<'a> {
    now: Now,
    engine: &'a mut Engine,
    options: &'a Options,
    roles: &'a mut Roles,
    emptying: &'a mut BTreeSet<u16>,
    actions: &'a mut VecDeque<Action>,
    tally: &'a mut Tally,
    rest_until: Mono,
}

/// The moves of a core.
pub struct Moves {
    options: Options,
    roles: Roles,
    sources: BTreeMap<u16, Source>,
    destinations: BTreeMap<u16, Destination>,
    claims: BTreeMap<u16, Claim>,
    /// Shards of which something is left that is to go.
    emptying: BTreeSet<u16>,
    actions: VecDeque<Action>,
    tally: Tally,
    all_seen: bool,
    rest_until: Mono,
    wake_at: Mono,
}

impl Moves {
    /// A core that owns nothing so far.
    pub fn new(options: Options) -> Moves {
        Moves {
            options,
            roles: Roles::new(),
            sources: BTreeMap::new(),
            destinations: BTreeMap::new(),
            claims: BTreeMap::new(),
            emptying: BTreeSet::new(),
            actions: VecDeque::new(),
            tally: Tally::default(),
            all_seen: false,
            rest_until: Mono(0),
            wake_at: NEVER,
        }
    }

    /// Takes a shard that its record says is this core's, in this life of it.
    ///
    /// # Panics
    /// If the record says otherwise.
    pub fn own(&mut self, shard: ShardId, seen: Seen) {
        assert_eq!(seen.record.owner, self.options.me, "the record names the owner");
        self.roles.set(shard, Role::Serve);
        self.roles.see(shard, seen);
    }

    /// Takes in whose a shard is, and does nothing about it: before the first step.
    pub fn see(&mut self, shard: ShardId, seen: Seen) {
        self.roles.see(shard, seen);
    }

    /// What is to be done with a request for a key of a shard. Where the answer is `Wait` it is kept, and an action brings its outcome.
    #[inline]
    pub fn request(&mut self, now: Now, shard: ShardId, waiter: Waiter, request: &Request<'_>) -> Way {
        match self.roles.of(shard) {
            Role::Serve => Way::Execute,
            role => self.request_of_moving(now, role, shard, waiter, request),
        }
    }

    #[cold]
    fn request_of_moving(
        &mut self,
        now: Now,
        role: Role,
        shard: ShardId,
        waiter: Waiter,
        request: &Request<'_>,
    ) -> Way {
        if let Some(source) = self.sources.get_mut(&shard.number())
            && role != Role::Away
        {
            if !verbs::travels(&request.verb) {
                return Way::Busy;
            }
            let reads = verbs::only_reads(&request.verb);
            let early = self.options.has(Sabotage::ReadAfterGrant);
            // Behind a write of the same key a read has to wait, too: its client may have sent both.
            if reads && (role == Role::Hold || early) && !source.held.has_key(request.key) {
                return Way::Execute;
            }
            return match source.hold(now, &self.options, waiter, request) {
                Some(frame) => {
                    self.tally.held += 1;
                    self.tally.held_max = self.tally.held_max.max(source.held.len() as u64);
                    if let Some(frame) = frame {
                        self.tally.forwarded += 1;
                        self.actions.push_back(frame);
                    }
                    Way::Wait
                }
                None => Way::Busy,
            };
        }
        if self.options.has(Sabotage::DirectBeforeCommit)
            && verbs::only_reads(&request.verb)
            && self.destinations.get(&shard.number()).is_some_and(Destination::is_granted)
        {
            return Way::Execute;
        }
        match self.roles.owner(shard) {
            Some(owner) if owner != self.options.me => Way::Moved(owner),
            _ => Way::Busy,
        }
    }

    /// Goes on by what has happened. Actions are to be taken afterwards, and [`Moves::wake_at`] may have changed.
    pub fn step(&mut self, now: Now, engine: &mut Engine, event: Event<'_>) {
        let mut turn = Turn {
            now,
            engine: &mut *engine,
            options: &self.options,
            roles: &mut self.roles,
            emptying: &mut self.emptying,
            actions: &mut self.actions,
            tally: &mut self.tally,
            rest_until: self.rest_until,
        };
        match event {
            Event::Frame { from, bytes } => match frame::read(bytes, turn.options.item_bytes_max) {
                Ok((block, payload)) => {
                    deliver(
                        &mut turn,
                        &mut self.sources,
                        &mut self.destinations,
                        &self.claims,
                        from,
                        &block,
                        payload,
                    );
                }
                // What follows a frame that cannot be read cannot be trusted to be the next one.
                Err(_) => {
                    turn.tally.broken_streams += 1;
                    turn.actions.push_back(Action::Close { to: from });
                }
            },
            Event::LinkDown { to } => {
                self.sources.values_mut().filter(|s| s.target() == to).for_each(|s| s.link_down(&mut turn));
                self.destinations
                    .values_mut()
                    .filter(|d| d.source() == to)
                    .for_each(|d| d.link_down(&mut turn));
            }
            Event::Swapped { shard, outcome } => {
                if let Some(claim) = self.claims.get_mut(&shard.number()).filter(|claim| claim.is_asking()) {
                    claim.swapped(&mut turn, outcome);
                } else if let Some(source) =
                    self.sources.get_mut(&shard.number()).filter(|source| source.is_asking())
                {
                    source.swapped(&mut turn, outcome);
                } else if let Some(destination) = self.destinations.get_mut(&shard.number()) {
                    destination.swapped(&mut turn, outcome);
                }
            }
            Event::View { shard, seen } => {
                let number = shard.number();
                turn.roles.see(shard, seen.clone());
                if let Some(claim) = self.claims.get_mut(&number) {
                    claim.view(&mut turn, &seen);
                }
                if let Some(source) = self.sources.get_mut(&number) {
                    source.view(&mut turn, &seen);
                }
                if let Some(destination) = self.destinations.get_mut(&number) {
                    destination.view(&mut turn, &seen);
                }
                let busy = self.sources.get(&number).is_some_and(|source| !source.is_over())
                    || self.destinations.get(&number).is_some_and(Destination::decides)
                    || self.claims.contains_key(&number);
                if !busy {
                    notice(&mut turn, &mut self.claims, shard);
                }
            }
            Event::Move { shard, target } => {
                let number = shard.number();
                let seen = turn.roles.seen(shard).cloned();
                if let Some(seen) = seen
                    && turn.roles.of(shard) == Role::Serve
                    && !self.sources.contains_key(&number)
                    && self.sources.len() < MOVES_MAX
                    && let Some(source) = Source::begin(&mut turn, shard, target, seen)
                {
                    self.sources.insert(number, source);
                } else {
                    let how = Ending::Cancelled(Reason::Busy);
                    turn.actions.push_back(Action::Ended { shard, how, progress: None });
                }
            }
            Event::Cancel { shard } => {
                if let Some(source) = self.sources.get_mut(&shard.number()) {
                    source.cancel(&mut turn, Reason::Cancelled);
                }
            }
            Event::AllSeen => self.all_seen = true,
            Event::Tick => {}
        }
        self.settle(now, engine);
    }

    /// Lets everybody do what is due, and drops what has ended.
    fn settle(&mut self, now: Now, engine: &mut Engine) {
        let mut wake_at = NEVER;
        let mut turn = Turn {
            now,
            engine: &mut *engine,
            options: &self.options,
            roles: &mut self.roles,
            emptying: &mut self.emptying,
            actions: &mut self.actions,
            tally: &mut self.tally,
            rest_until: self.rest_until,
        };
        // One shard at a time is frozen, so that the waits of a core do not add up.
        let mut frozen = self.sources.values().any(Source::is_frozen);
        for source in self.sources.values_mut() {
            wake_at = wake_at.min(source.tick(&mut turn, frozen && !source.is_frozen()));
            frozen |= source.is_frozen();
        }
        for destination in self.destinations.values_mut() {
            wake_at = wake_at.min(destination.tick(&mut turn));
        }
        for claim in self.claims.values_mut() {
            wake_at = wake_at.min(claim.tick(&mut turn, self.all_seen));
        }
        self.sources.retain(|_, source| !source.is_over());
        self.destinations.retain(|_, destination| !destination.is_over());
        self.claims.retain(|_, claim| !claim.is_over());
        if let Some(&number) = turn.emptying.first() {
            let shard = ShardId::new(number);
            if !turn.engine.store_mut().drop_some(shard, EMPTYING_ITEMS) {
                turn.emptying.remove(&number);
                turn.engine.store_mut().show(shard);
            }
            wake_at = now.mono;
        }
        self.wake_at = wake_at;
    }

    /// What is to be done next; changes with every step and every request.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to step at the latest.
    pub fn wake_at(&self) -> Option<Mono> {
        (self.wake_at != NEVER).then_some(self.wake_at)
    }

    /// Has walks rest until a moment: others want the core. What changes is told all the same.
    pub fn rest_until(&mut self, moment: Mono) {
        self.rest_until = moment;
    }

    /// What this core is to a shard.
    #[inline]
    pub fn role(&self, shard: ShardId) -> Role {
        self.roles.of(shard)
    }

    /// A shard whose role has changed since the last call told of it. To be asked until there is none.
    pub fn next_changed(&mut self) -> Option<ShardId> {
        self.roles.next_changed()
    }

    /// The record of a shard as it was seen last.
    pub fn seen(&self, shard: ShardId) -> Option<&Seen> {
        self.roles.seen(shard)
    }

    /// Whether a move of the shard that ends here is under way, or is being wound up.
    pub fn arrives(&self, shard: ShardId) -> bool {
        self.destinations.contains_key(&shard.number())
    }

    /// Where a shard goes that moves away from here.
    pub fn target(&self, shard: ShardId) -> Option<Site> {
        self.sources.get(&shard.number()).map(Source::target)
    }

    /// Whether the shard was granted to this core, and it waits for the record to say so.
    pub fn is_granted(&self, shard: ShardId) -> bool {
        self.destinations.get(&shard.number()).is_some_and(Destination::is_granted)
    }

    /// How far the move of a shard of this core is, if there is one.
    pub fn progress(&self, engine: &mut Engine, shard: ShardId) -> Option<Progress> {
        self.sources.get(&shard.number()).map(|source| source.progress(engine))
    }

    /// What was counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether this core serves a shard.
    pub fn serves(&self, shard: ShardId) -> bool {
        self.roles.of(shard) == Role::Serve
    }

    /// Shards that this core serves.
    pub fn served(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..SHARD_COUNT).map(ShardId::new).filter(|shard| self.roles.of(*shard) == Role::Serve)
    }

    /// Whether nothing is under way, and nothing left to be removed.
    pub fn is_quiet(&self) -> bool {
        self.sources.is_empty()
            && self.destinations.is_empty()
            && self.claims.is_empty()
            && self.emptying.is_empty()
    }

    /// What is under way, a line for each: for people.
    pub fn describe(&self) -> Vec<String> {
        let sources = self.sources.values().map(Source::describe);
        let destinations = self.destinations.values().map(Destination::describe);
        sources.chain(destinations).chain(self.claims.keys().map(|shard| format!("claim {shard}"))).collect()
    }
}

/// Takes a frame to whom it is for.
fn deliver(
    turn: &mut Turn<'_>,
    sources: &mut BTreeMap<u16, Source>,
    destinations: &mut BTreeMap<u16, Destination>,
    claims: &BTreeMap<u16, Claim>,
    from: Site,
    block: &ShardBlock,
    payload: Payload<'_>,
) {
    let source = sources
        .get_mut(&block.shard)
        .filter(|source| (source.migration(), source.target()) == (block.migration, from));
    if let Some(source) = source {
        return source.frame(turn, block, &payload);
    }
    let ours = destinations
        .get_mut(&block.shard)
        .filter(|destination| (destination.migration(), destination.source()) == (block.migration, from));
    let reject = |turn: &mut Turn<'_>, reason| {
        let frame = Payload::Reject(reason).frame(block);
        turn.actions.push_back(Action::Send { to: from, frame });
    };
    match (ours, &payload) {
        (Some(destination), _) => destination.frame(turn, block, &payload),
        (None, &Payload::Open { wall, .. }) => {
            let shard = ShardId::new(block.shard);
            let owned = turn.roles.of(shard) == Role::Serve
                || claims.contains_key(&block.shard)
                || sources.contains_key(&block.shard);
            let other = destinations.get(&block.shard);
            if owned {
                reject(turn, Reason::Owner);
            } else if other.is_some_and(|other| other.decides() || other.migration() > block.migration)
                || (other.is_none() && destinations.len() >= MOVES_MAX)
            {
                reject(turn, Reason::Busy);
            } else if turn.now.wall.0.abs_diff(wall) > turn.options.skew_millis_max {
                reject(turn, Reason::Clock);
            } else {
                let destination = Destination::open(turn, from, block);
                destinations.insert(block.shard, destination);
            }
        }
        (None, payload) => {
            turn.tally.stale_frames += 1;
            if payload.is_ordered() || matches!(payload, Payload::Forward { .. } | Payload::Beat { .. }) {
                reject(turn, Reason::Unknown);
            }
        }
    }
}

/// Nobody here is busy with a shard, and its record says something.
fn notice(turn: &mut Turn<'_>, claims: &mut BTreeMap<u16, Claim>, shard: ShardId) {
    let Some(seen) = turn.roles.seen(shard).cloned() else { return };
    let (me, serves) = (turn.options.me, turn.roles.of(shard) == Role::Serve);
    if seen.record.owner == me && serves {
        return;
    }
    if seen.record.owner.is_same_core(&me) {
        // It is ours, and we have nothing of it: we were started anew, or never heard that we own it.
        turn.roles.set(shard, Role::Away);
        claims.insert(shard.number(), Claim::new(shard, seen));
    } else if serves {
        // Somebody took it over.
        turn.leave(shard);
    }
}

impl Turn<'_> {
    fn after(&self, millis: u64) -> Mono {
        self.now.mono.plus_millis(millis)
    }

    fn send(&mut self, to: Site, block: &ShardBlock, payload: &Payload<'_>) {
        self.actions.push_back(Action::Send { to, frame: payload.frame(block) });
    }

    /// The shard is not this core's any more: it is forgotten in small steps.
    fn leave(&mut self, shard: ShardId) {
        self.roles.set(shard, Role::Away);
        self.engine.shard_left();
        self.empty(shard);
    }

    /// What there is of the shard goes, in small steps.
    fn empty(&mut self, shard: ShardId) {
        let store = self.engine.store_mut();
        store.unwatch(shard);
        store.hide(shard);
        self.emptying.insert(shard.number());
    }

    /// The shard is this core's from now on.
    fn serve(&mut self, shard: ShardId, seen: &Seen) {
        self.engine.raise_version(crate::ids::Version::new(seen.record.epoch, 0));
        self.engine.store_mut().unwatch(shard);
        self.engine.store_mut().show(shard);
        self.roles.set(shard, Role::Serve);
        self.roles.see(shard, seen.clone());
    }
}
