//! Which core does a request, while shards move.
//!
//! ```text
//!   a session's request --> Routes: a core --------------------------------> done here, or sent there (as ever)
//!                                 \-> DETOUR --> behind a fence: parked
//!                                            \-> the shard is about to leave: Moves::request: done, kept, or sent on
//!   another core's request --> while attentive: Moves::request --> done, kept, or relayed to the new owner
//! ```
//! 1. Each core has its own routes, one array read per request, as without moves. They change by messages alone.
//! 2. Who has left a shard relays what still comes for it. The way there is one ring after another, so it keeps the order.
//! 3. A core that learns of a new owner sends a *fence* the old way and parks its requests for the shard until it comes back.
//!    Then all that it asked the old way stands in the owner's order, and the straight way is open. What sessions see of the
//!    map changes then, too.
//! 4. Who has left a shard is attentive until every other core has sent its fence: nothing more can come.
//! 5. A request of several keys is done where all of them are, and refused as busy where they are not, for as long as a
//!    core is attentive.

use super::moving::{Moving, careless};
use super::works::Works;
use crate::clock::Now;
use crate::engine::Waiter;
use crate::hash::slot_of;
use crate::ids::{ConnectionId, CoreId, SHARD_COUNT, ShardId};
use crate::message::ReturnAddress;
use crate::migration::record::Seen;
use crate::migration::{Event, Role, Way, link, verbs};
use crate::request::{Answer, Fault, Named, Outcome, Request, ShardCall, Value, Verb};
use crate::topology::ShardMap;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The route of shards whose requests are looked at one by one.
pub(super) const DETOUR: CoreId = CoreId(u16::MAX);

/// Outcomes that are no connection's: of relayed requests, by the number of the relay; of calls about records and of fences, by shard.
pub(super) const RELAYED: ConnectionId = ConnectionId { place: u32::MAX, generation: 2 };
pub(super) const SWAPPED: ConnectionId = ConnectionId { place: u32::MAX, generation: 3 };
pub(super) const LOOKED: ConnectionId = ConnectionId { place: u32::MAX, generation: 4 };
pub(super) const FENCED: ConnectionId = ConnectionId { place: u32::MAX, generation: 5 };
/// All records were asked for.
pub(super) const LISTED: ConnectionId = ConnectionId { place: u32::MAX, generation: 6 };
/// Frames to a core of another node, by that core.
pub(super) const FRAMED: ConnectionId = ConnectionId { place: u32::MAX, generation: 7 };
pub(super) const NOBODY: ReturnAddress = ReturnAddress { connection: ConnectionId::NOBODY, ticket: 0 };

/// Parked requests and their bytes at which sessions stop parsing.
const PARKED_MAX: usize = 16 * 1024;
const PARKED_BYTES_MAX: usize = 16 << 20;

/// Where this core's sessions send requests, by shard.
pub(super) struct Routes(Box<[CoreId; SHARD_COUNT as usize]>);

impl Routes {
    pub fn new(map: &ShardMap) -> Routes {
        Routes(Box::new(std::array::from_fn(|shard| map.owner(ShardId::new(shard as u16)))))
    }

    #[inline]
    pub fn of(&self, shard: ShardId) -> CoreId {
        self.0[usize::from(shard.number())]
    }

    pub fn set(&mut self, shard: ShardId, core: CoreId) {
        self.0[usize::from(shard.number())] = core;
    }
}

/// A request of a session of this core that waits for a fence.
struct Parked {
    address: ReturnAddress,
    verb: Verb,
    key: Box<[u8]>,
    value: Box<[u8]>,
}

/// Where a shard's requests go when the fence has come back.
struct Fence {
    /// Where it was sent.
    at: CoreId,
    to: CoreId,
    /// It has moved on meanwhile.
    then: Option<CoreId>,
    parked: Vec<Parked>,
}

/// Fences on their way, and what waits for them.
#[derive(Default)]
pub(super) struct Fences {
    open: BTreeMap<u16, Fence>,
    count: usize,
    bytes: usize,
}

impl Fences {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub fn any(&self, shard: ShardId) -> bool {
        self.open.contains_key(&shard.number())
    }

    /// The core that a shard's fence was sent to.
    pub fn at(&self, shard: ShardId) -> Option<CoreId> {
        self.open.get(&shard.number()).map(|fence| fence.at)
    }

    /// Whether no more should be parked.
    pub fn is_full(&self) -> bool {
        self.count >= PARKED_MAX || self.bytes >= PARKED_BYTES_MAX
    }

    fn park(&mut self, shard: ShardId, address: ReturnAddress, request: &Request<'_>) -> bool {
        let Some(fence) = self.open.get_mut(&shard.number()) else { return false };
        let Request { key, value, verb } = *request;
        self.count += 1;
        self.bytes += key.len() + value.len();
        fence.parked.push(Parked { address, verb, key: key.into(), value: value.into() });
        true
    }

    fn take(&mut self, shard: ShardId) -> Option<Fence> {
        let fence = self.open.remove(&shard.number())?;
        self.count -= fence.parked.len();
        self.bytes -= fence.parked.iter().map(|it| it.key.len() + it.value.len()).sum::<usize>();
        Some(fence)
    }
}

/// Requests of other cores that were sent on, and to whom their outcomes belong.
#[derive(Default)]
pub(super) struct Relays {
    places: Vec<Option<(CoreId, ReturnAddress)>>,
    free: Vec<u32>,
}

impl Relays {
    fn add(&mut self, from: CoreId, address: ReturnAddress) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some((from, address));
                place
            }
            None => {
                self.places.push(Some((from, address)));
                self.places.len() as u32 - 1
            }
        }
    }

    /// Whether nothing is on its way.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }

    pub fn take(&mut self, place: u32) -> Option<(CoreId, ReturnAddress)> {
        let back = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(back)
    }
}

/// Cores from which requests for shards that have left may still come.
#[derive(Default)]
pub(super) struct Departed(BTreeMap<u16, BTreeSet<u16>>);

impl Departed {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, shard: ShardId, cores: impl Iterator<Item = CoreId>) {
        self.0.entry(shard.number()).or_default().extend(cores.map(|core| core.0));
    }

    /// Whether something may still come for a shard.
    pub fn has(&self, shard: ShardId) -> bool {
        self.0.contains_key(&shard.number())
    }

    /// Nothing can come from a core any more; the shards for which it was the last.
    pub fn gone(&mut self, core: CoreId) -> Vec<ShardId> {
        let of_it = self.0.iter().filter(|(_, left)| left.contains(&core.0));
        let shards: Vec<ShardId> = of_it.map(|(shard, _)| ShardId::new(*shard)).collect();
        shards.into_iter().filter(|shard| self.passed(*shard, core)).collect()
    }

    /// A core's fence has come; whether it was the last.
    pub fn passed(&mut self, shard: ShardId, core: CoreId) -> bool {
        let Some(left) = self.0.get_mut(&shard.number()) else { return false };
        left.remove(&core.0);
        let last = left.is_empty();
        if last {
            self.0.remove(&shard.number());
        }
        last
    }
}

/// What becomes of a request for a shard that is looked at.
enum Fate {
    Execute,
    /// An action of the machines brings the outcome.
    Wait,
    To(CoreId),
    Busy,
    /// There is nothing to be done.
    Nothing,
}

pub(super) const BUSY: Outcome<'static> = Outcome { answer: Answer::Fault(Fault::Busy), value: Value::EMPTY };
pub(super) const NOTHING: Outcome<'static> = Outcome { answer: Answer::Number(0), value: Value::EMPTY };

/// Whether a request is about several keys, which are to be on one core.
pub(super) fn is_of_several(verb: &Verb) -> bool {
    matches!(verb, Verb::Transfer(_) | Verb::PutAllAbsent)
}

/// The shards of a request of several keys.
fn shards_of<'a>(request: &Request<'a>) -> impl Iterator<Item = ShardId> + use<'a> {
    let (mut pairs, target) = match request.verb {
        Verb::PutAllAbsent => (request.value, None),
        _ => (&[][..], Some(request.value)),
    };
    let keys = std::iter::from_fn(move || {
        let (key, rest) = counted(pairs)?;
        let (_, rest) = counted(rest)?;
        pairs = rest;
        Some(key)
    });
    [request.key].into_iter().chain(target).chain(keys).map(|key| slot_of(key).shard())
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

impl Works {
    /// Whether all keys of a request of several are of the core that its key is sent to.
    #[cold]
    pub(super) fn is_coherent(&self, request: &Request<'_>) -> bool {
        let owner = self.routes.of(slot_of(request.key).shard());
        owner != DETOUR && shards_of(request).all(|shard| self.routes.of(shard) == owner)
    }

    /// What is said of a request for a core of another node that is not sent there.
    #[cold]
    pub(super) fn stays_here(&self, owner: CoreId, request: &Request<'_>) -> Option<Outcome<'static>> {
        let Request { key, value, verb } = request;
        let answer = match verb {
            // What is asked of a slot is about the items of this node.
            Verb::SlotSize { .. } => Answer::Number(0),
            Verb::Scan(_) => Answer::Page { cursor: 0 },
            verb if !link::goes_far(verb) => Answer::Fault(Fault::Unsupported),
            _ if !self.is_linked(owner) => Answer::Fault(Fault::Away),
            _ if key.len() + value.len() > self.far_bytes_max => Answer::Fault(Fault::TooLarge),
            _ => return None,
        };
        Some(Outcome { answer, value: Value::EMPTY })
    }

    /// Does a request of one of this core's sessions whose shard has no straight way at present.
    #[cold]
    pub(super) fn detour(
        &mut self,
        now: Now,
        address: ReturnAddress,
        request: &Request<'_>,
    ) -> Option<Outcome<'_>> {
        let shard = slot_of(request.key).shard();
        let moving = self.moving.as_mut().expect("a route leads astray only while shards move");
        if moving.fences.park(shard, address, request) {
            return None;
        }
        match self.fate(now, Waiter { core: self.me, address }, shard, request) {
            Fate::Execute => self.execute(now, self.me, address, request),
            Fate::Wait => None,
            Fate::To(core) => {
                self.send_on(core, address, request);
                None
            }
            Fate::Busy => Some(BUSY),
            Fate::Nothing => Some(NOTHING),
        }
    }

    fn send_on(&mut self, core: CoreId, address: ReturnAddress, request: &Request<'_>) {
        self.mesh.send(core, address, request);
        self.engine.counters.hops_sent_total += 1;
    }

    /// Looks at a request of another core while shards move; whether it is dealt with and not to be executed here now.
    #[cold]
    pub(super) fn intercept(
        &mut self,
        now: Now,
        from: CoreId,
        address: ReturnAddress,
        request: &Request<'_>,
    ) -> bool {
        let shard = slot_of(request.key).shard();
        match self.fate(now, Waiter { core: from, address }, shard, request) {
            Fate::Execute => return false,
            Fate::Wait => self.mesh.park(from),
            // Two nodes may each believe that the other is the owner, until they have heard of each other.
            Fate::To(core) if self.is_relayed(from, address) && self.node.is_far(core) => {
                self.mesh.answer(from, address, &BUSY);
            }
            Fate::To(core) => self.relay(from, address, core, request),
            Fate::Busy => self.mesh.answer(from, address, &BUSY),
            Fate::Nothing => self.mesh.answer(from, address, &NOTHING),
        }
        true
    }

    /// Whether a transaction of another core can be done here whole: the shards of all its keys are here, and stay.
    #[cold]
    pub(super) fn serves_all<'a>(&self, requests: impl Iterator<Item = Request<'a>>) -> bool {
        let Some(moving) = &self.moving else { return true };
        let serves = |shard| moving.moves.role(shard) == Role::Serve;
        requests.take_while(|request| request.verb != Verb::Unguard).all(|request| match request.verb {
            Verb::Guard => guarded_shards(request.value).all(serves),
            verb if is_of_several(&verb) => shards_of(&request).all(serves),
            verb if is_of_one(&verb) => serves(slot_of(request.key).shard()),
            _ => true,
        })
    }

    fn fate(&mut self, now: Now, waiter: Waiter, shard: ShardId, request: &Request<'_>) -> Fate {
        let Some(moving) = &mut self.moving else { return Fate::Execute };
        let role = moving.moves.role(shard);
        if role == Role::Serve && !is_of_several(&request.verb) {
            return Fate::Execute;
        }
        let owner = || match moving.moves.seen(shard).map(|seen| moving.core_of(seen.record.owner)) {
            Some(owner) if owner != self.me => Fate::To(owner),
            _ => Fate::Busy,
        };
        match request.verb {
            verb if is_of_several(&verb) => {
                match shards_of(request).all(|shard| moving.moves.role(shard) == Role::Serve) {
                    true => Fate::Execute,
                    false => Fate::Busy,
                }
            }
            Verb::Track(_) => match role {
                // The read behind it is done here, and when the shard leaves all are told that all has changed.
                Role::Serve | Role::Hold => Fate::Execute,
                Role::Forward => match moving.moves.target(shard) {
                    Some(target) => Fate::To(moving.core_of(target)),
                    None => Fate::Busy,
                },
                Role::Away if moving.moves.is_granted(shard) => Fate::Execute,
                Role::Away => owner(),
            },
            // Who is told of his own change reads once more, and no harm is done.
            Verb::Own(_) if role != Role::Away => Fate::Nothing,
            Verb::Invalidate(Named::Key) if role != Role::Away => Fate::Busy,
            Verb::Own(_) | Verb::Invalidate(Named::Key) => owner(),
            verb if verbs::travels(&verb) => {
                let now = moving.now(now);
                let way = moving.moves.request(now, shard, waiter, request);
                let fate = match way {
                    Way::Execute => Fate::Execute,
                    Way::Wait => Fate::Wait,
                    Way::Moved(site) => Fate::To(moving.core_of(site)),
                    Way::Busy => Fate::Busy,
                };
                if matches!(fate, Fate::Wait) {
                    // It may have been sent on at once, and nothing may overtake it.
                    self.act(now);
                }
                fate
            }
            _ => Fate::Execute,
        }
    }

    pub(super) fn relay(&mut self, from: CoreId, address: ReturnAddress, to: CoreId, request: &Request<'_>) {
        let Some(moving) = &mut self.moving else { return };
        let ticket = moving.relays.add(from, address);
        self.send_on(to, ReturnAddress { connection: RELAYED, ticket }, request);
    }

    /// Whether somebody else has asked for this, and not the core that it comes from.
    pub(super) fn is_relayed(&self, from: CoreId, address: ReturnAddress) -> bool {
        address.connection == RELAYED || (self.node.is_far(from) && address.ticket == link::RELAYED)
    }

    pub(super) fn send_fence(&mut self, to: CoreId, shard: ShardId, address: ReturnAddress) {
        let verb = Verb::Shard(ShardCall::Fence { shard: shard.number() });
        self.mesh.send(to, address, &Request { key: b"", value: b"", verb });
    }

    /// Takes in that a shard has left a core for another one.
    pub(super) fn learn(&mut self, now: Now, from: CoreId, shard: ShardId, seen: Seen) {
        let revision = seen.revision;
        let owner = seen.record.owner;
        self.step(now, Event::View { shard, seen });
        let far = self.node.is_far(from);
        let Some(moving) = &mut self.moving else { return };
        let to = moving.core_of(owner);
        let known = moving.routed.entry(shard.number()).or_insert(0);
        let before = self.routes.of(shard);
        let mut sent_there = false;
        if revision > *known {
            *known = revision;
            if let Some(fence) = moving.fences.open.get_mut(&shard.number()) {
                fence.then = Some(to);
            } else if before != to {
                let fence = Fence { at: before, to, then: None, parked: Vec::new() };
                moving.fences.open.insert(shard.number(), fence);
                self.routes.set(shard, DETOUR);
                if to == self.me && far {
                    // Clients that the other node sends here are not to be sent back; they wait for the fence like all others.
                    Rc::make_mut(&mut self.node).map.give(shard, to, revision + 1);
                }
                let address = ReturnAddress { connection: FENCED, ticket: shard.number().into() };
                if before == self.me || before == DETOUR || careless() {
                    // What this core asked itself is done, or waits here in its order.
                    self.fence_passed(now, shard);
                } else {
                    self.send_fence(before, shard, address);
                    sent_there = before == from;
                }
            }
        }
        // Who tells of a shard of its own waits for nothing.
        if !sent_there && to != from {
            self.send_fence(from, shard, NOBODY);
        }
        self.be_attentive();
    }

    /// All that this core has asked for a shard stands in the order of the core that the fence leads to.
    pub(super) fn fence_passed(&mut self, now: Now, shard: ShardId) {
        let Some(moving) = &mut self.moving else { return };
        if let Some(fence) = moving.fences.open.get_mut(&shard.number())
            && let Some(next) = fence.then.take()
        {
            let before = std::mem::replace(&mut fence.to, next);
            if before != next && before != self.me {
                fence.at = before;
                let address = ReturnAddress { connection: FENCED, ticket: shard.number().into() };
                return self.send_fence(before, shard, address);
            }
        }
        let Some(fence) = moving.fences.take(shard) else { return };
        let route = if fence.to == self.me { moving.route_of(self.me, shard) } else { fence.to };
        self.routes.set(shard, route);
        self.tell_sessions_of(shard);
        for Parked { address, verb, key, value } in fence.parked {
            let request = Request { key: &key, value: &value, verb };
            let outcome = self.dispatch(now, address, &request);
            let late = outcome.map(|outcome| (outcome.answer, outcome.value.bytes().to_vec()));
            if let (Some((answer, value)), Some(moving)) = (late, &mut self.moving) {
                moving.answers.push((Waiter { core: self.me, address }, answer, value.into_boxed_slice()));
            }
        }
        self.be_attentive();
    }

    /// Has a request done by the owner of its key, wherever that is.
    fn dispatch(&mut self, now: Now, address: ReturnAddress, request: &Request<'_>) -> Option<Outcome<'_>> {
        let route = self.routes.of(slot_of(request.key).shard());
        if is_of_several(&request.verb) && !self.is_coherent(request) {
            return Some(BUSY);
        }
        if route == self.me {
            return self.execute(now, self.me, address, request);
        }
        if route == DETOUR {
            return self.detour(now, address, request);
        }
        self.send_on(route, address, request);
        None
    }
}

impl Moving {
    /// Where requests of this core's sessions go, no fence being there.
    pub(super) fn route_of(&self, me: CoreId, shard: ShardId) -> CoreId {
        match self.moves.role(shard) {
            Role::Serve => me,
            Role::Hold | Role::Forward => DETOUR,
            Role::Away => match self.moves.seen(shard).map_or(me, |seen| self.core_of(seen.record.owner)) {
                // It is to be this core's, and is not served yet.
                owner if owner == me => DETOUR,
                owner => owner,
            },
        }
    }
}

/// Whether a request is about the one key that it names.
fn is_of_one(verb: &Verb) -> bool {
    verbs::travels(verb) || matches!(verb, Verb::Track(_) | Verb::Own(_) | Verb::Invalidate(Named::Key))
}

/// The shards of what a guard looks at.
fn guarded_shards(mut rest: &[u8]) -> impl Iterator<Item = ShardId> + '_ {
    std::iter::from_fn(move || {
        let (key, tail) = counted(rest)?;
        rest = tail.get(16..)?;
        Some(slot_of(key).shard())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Transfer;

    #[test]
    fn all_keys_of_a_request_are_seen() {
        let pair = |key: &[u8], value: &[u8]| {
            [&(key.len() as u32).to_le_bytes()[..], key, &(value.len() as u32).to_le_bytes(), value].concat()
        };
        let shard = |key: &[u8]| slot_of(key).shard();
        let pairs = [pair(b"a", b"1"), pair(b"bee", b"")].concat();
        let request = Request { key: b"a", value: &pairs, verb: Verb::PutAllAbsent };
        assert_eq!(shards_of(&request).collect::<Vec<_>>(), [shard(b"a"), shard(b"a"), shard(b"bee")]);
        let transfer = Verb::Transfer(Transfer { keep: false, replace: true });
        let request = Request { key: b"a", value: b"see", verb: transfer };
        assert_eq!(shards_of(&request).collect::<Vec<_>>(), [shard(b"a"), shard(b"see")]);
        let mut guards = [&3u32.to_le_bytes()[..], b"bee", &[0; 16]].concat();
        guards.extend_from_slice(&[&1u32.to_le_bytes()[..], b"a", &[1; 16]].concat());
        assert_eq!(guarded_shards(&guards).collect::<Vec<_>>(), [shard(b"bee"), shard(b"a")]);
    }

    #[test]
    fn relays_and_fences_leave_nothing_behind() {
        let address = |ticket| ReturnAddress { connection: ConnectionId { place: 1, generation: 0 }, ticket };
        let mut relays = Relays::default();
        let (one, two) = (relays.add(CoreId(1), address(7)), relays.add(CoreId(2), address(8)));
        assert_eq!(relays.take(one), Some((CoreId(1), address(7))));
        assert_eq!(
            (relays.take(one), relays.add(CoreId(3), address(9))),
            (None, one),
            "its place is used again"
        );
        assert_eq!(relays.take(two), Some((CoreId(2), address(8))));
        let (mut fences, shard) = (Fences::default(), ShardId::new(3));
        let request = Request { key: b"key", value: b"value", verb: Verb::Get };
        assert!(!fences.park(shard, address(1), &request), "nothing is parked without a fence");
        fences.open.insert(3, Fence { at: CoreId(2), to: CoreId(1), then: None, parked: Vec::new() });
        assert!(fences.park(shard, address(1), &request) && !fences.is_full());
        assert_eq!((fences.count, fences.bytes), (1, 8));
        assert_eq!(fences.take(shard).map(|fence| fence.parked.len()), Some(1));
        assert_eq!((fences.count, fences.bytes, fences.is_empty()), (0, 0, true));
        let mut departed = Departed::default();
        departed.add(shard, [CoreId(1), CoreId(2)].into_iter());
        assert!(!departed.passed(shard, CoreId(1)) && !departed.passed(shard, CoreId(1)));
        assert!(departed.passed(shard, CoreId(2)) && departed.is_empty());
    }
}
