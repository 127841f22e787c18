//! Core to core: a pair of SPSC rings to every other core, written in batches, one per turn and peer.
//!
//! ```text
//!   core 0                                   core 1
//!   out (batch being filled) --push--> [ring] --pop--> requests: execute, returns into core 1's `out` for core 0
//!                                                      returns: complete the session that asked
//! ```
//! 1. During a turn requests and returns for a peer are collected in `out`.
//! 2. At its end `flush` hands the batch over; if the ring is full the batch stays and grows, bounded by rule 4.
//! 3. A receiver that sleeps said so in its `Doorway` before it looked at its rings a last time; whoever pushes looks at
//!    the doorway afterwards and sends one wake-up. The two fences make sure that one of them sees the other.
//! 4. A core has at most `OUTSTANDING_MAX` requests and `OUT_BYTES_MAX` bytes of them on the way to one peer; beyond that
//!    [`Mesh::ready`] says no and sessions stop parsing: a slow core pushes back. The same for the bytes of long requests that were
//!    handed over and are not settled, of which a mesh has a share of the memory for buffers.
//! 5. A core of another node is a peer like the others; what is at the other end of its rings is a [`Far`], carried by a link.
//! 6. Returns may be much longer than what asked for them. [`Mesh::has_return_room`] says no while a batch has `RETURN_BYTES_MAX`
//!    of them or `RETURN_BATCHES_MAX` batches lie there unread; then the owner lets requests of that peer wait, in their order.

use super::ring::Ring;
use crate::ids::CoreId;
use crate::message::{Batch, Hint, ReturnAddress};
use crate::request::{Outcome, Request, Shared};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering, fence};

/// Batches that fit a ring.
const RING_BATCHES: usize = 256;
/// Requests on the way to one peer.
const OUTSTANDING_MAX: usize = 16 * 1024;
/// Bytes of keys and values waiting in one batch.
const OUT_BYTES_MAX: usize = 8 << 20;
/// Requests from here on count by their bytes until they are settled.
const LONG_REQUEST_BYTES: usize = 2 << 10;
/// Bytes of returns in one batch, but for the last one of them, and batches that may lie unread while more are made.
const RETURN_BYTES_MAX: usize = 1 << 20;
const RETURN_BATCHES_MAX: usize = 4;
/// Batches kept for reuse, and the memory each may keep.
const SPARE_BATCHES: usize = 16;
const SPARE_BATCH_BYTES: usize = 64 << 10;

/// Where a core can be woken.
#[derive(Debug)]
pub struct Doorway {
    asleep: AtomicBool,
    ring: AtomicI32,
}

impl Doorway {
    fn new() -> Doorway {
        Doorway { asleep: AtomicBool::new(false), ring: AtomicI32::new(-1) }
    }
}

/// A core's ends of all its rings.
pub struct Mesh {
    me: CoreId,
    peers: Vec<Option<Peer>>,
    doorways: Arc<[Doorway]>,
    #[expect(clippy::vec_box, reason = "the rings carry boxes, and what is kept is such a box")]
    spare: Vec<Box<Batch>>,
    /// Bytes of long requests that are not settled, to all peers, and how many there may be.
    long_bytes: usize,
    long_bytes_max: usize,
}

struct Peer {
    to: rtrb::Producer<Box<Batch>>,
    from: rtrb::Consumer<Box<Batch>>,
    out: Box<Batch>,
    outstanding: usize,
    /// Requests sent, and settled, since the beginning.
    sent: u64,
    settled: u64,
    /// Long ones among those that are not settled: the place of each among all, and its bytes.
    long: VecDeque<(u64, usize)>,
}

/// The other end of the rings of a core of another node.
pub struct Far {
    /// Batches for it.
    pub to: rtrb::Consumer<Box<Batch>>,
    /// Batches of it. What settles requests names each of them: nobody is parked there.
    pub from: rtrb::Producer<Box<Batch>>,
}

/// The meshes of `cores` cores, in their order.
pub fn weave(cores: u16) -> Vec<Mesh> {
    let doorways: Arc<[Doorway]> = (0..cores).map(|_| Doorway::new()).collect();
    let mut meshes: Vec<Mesh> = (0..cores)
        .map(|me| Mesh {
            me: CoreId(me),
            peers: (0..cores).map(|_| None).collect(),
            doorways: doorways.clone(),
            spare: Vec::new(),
            long_bytes: 0,
            long_bytes_max: OUT_BYTES_MAX,
        })
        .collect();
    for a in 0..usize::from(cores) {
        for b in 0..a {
            let (a_to_b, b_from_a) = rtrb::RingBuffer::new(RING_BATCHES);
            let (b_to_a, a_from_b) = rtrb::RingBuffer::new(RING_BATCHES);
            meshes[a].peers[b] = Some(Peer::new(a_to_b, a_from_b));
            meshes[b].peers[a] = Some(Peer::new(b_to_a, b_from_a));
        }
    }
    meshes
}

impl Peer {
    fn new(to: rtrb::Producer<Box<Batch>>, from: rtrb::Consumer<Box<Batch>>) -> Peer {
        Peer { to, from, out: Box::default(), outstanding: 0, sent: 0, settled: 0, long: VecDeque::new() }
    }
}

impl Mesh {
    /// Makes the core's ring known to those who may have to wake it. Before the first turn.
    pub fn open(&self, ring: &Ring) {
        self.doorways[self.me.index()].ring.store(ring.descriptor(), Ordering::Release);
    }

    /// Adds a core of another node behind those there are.
    pub fn add_far(&mut self) -> Far {
        let (to, out) = rtrb::RingBuffer::new(RING_BATCHES);
        let (into, from) = rtrb::RingBuffer::new(RING_BATCHES);
        self.peers.push(Some(Peer::new(to, from)));
        Far { to: out, from: into }
    }

    /// An empty batch, to be filled with what a link brings.
    pub fn blank(&mut self) -> Box<Batch> {
        self.spare.pop().unwrap_or_default()
    }

    /// Sends a request to another core with this turn's batch.
    #[inline]
    pub fn send(&mut self, to: CoreId, address: ReturnAddress, request: &Request<'_>) {
        let peer = self.peer(to);
        peer.out.push_request(address, request);
        peer.outstanding += 1;
        peer.sent += 1;
        if request.value.len() >= LONG_REQUEST_BYTES {
            self.count_long(to, request.value.len());
        }
    }

    #[cold]
    fn count_long(&mut self, to: CoreId, bytes: usize) {
        let peer = self.peer(to);
        peer.long.push_back((peer.sent, bytes));
        self.long_bytes += bytes;
    }

    /// Bytes of requests on their way to other cores: those of long ones that are not settled.
    #[inline]
    pub fn long_bytes(&self) -> usize {
        self.long_bytes
    }

    /// Sets how many of these there may be before [`Mesh::ready`] says no.
    pub fn set_long_bytes_max(&mut self, bytes: usize) {
        self.long_bytes_max = bytes.min(OUT_BYTES_MAX);
    }

    /// Sends a request whose value is this one, without copying it.
    pub fn send_arrived(
        &mut self,
        to: CoreId,
        address: ReturnAddress,
        request: &Request<'_>,
        arrived: Shared,
    ) {
        let peer = self.peer(to);
        peer.out.push_request_of_arrived(address, request, arrived);
        peer.outstanding += 1;
        peer.sent += 1;
    }

    /// Sends an outcome back with this turn's batch.
    #[inline]
    pub fn answer(&mut self, to: CoreId, address: ReturnAddress, outcome: &Outcome<'_>) {
        self.peer(to).out.push_return(address, outcome);
    }

    /// Tells another core that a request of its waits for an origin, and does not count against it meanwhile.
    pub fn park(&mut self, to: CoreId) {
        self.peer(to).out.park();
    }

    /// Sends the outcome of a request that was parked, with this turn's batch.
    pub fn answer_late(&mut self, to: CoreId, address: ReturnAddress, outcome: &Outcome<'_>) {
        self.peer(to).out.push_late_return(address, outcome);
    }

    /// Sends a hint with this turn's batch; it may get lost.
    pub fn hint(&mut self, to: CoreId, hint: Hint, text: &[u8]) {
        self.peer(to).out.push_hint(hint, text);
    }

    /// Whether more outcomes for a peer may be made now.
    #[inline]
    pub fn has_return_room(&self, core: CoreId) -> bool {
        self.peers[core.index()].as_ref().is_none_or(|peer| {
            peer.out.return_byte_count() < RETURN_BYTES_MAX
                && peer.to.slots() + RETURN_BATCHES_MAX >= RING_BATCHES
        })
    }

    fn peer(&mut self, core: CoreId) -> &mut Peer {
        self.peers[core.index()]
            .as_mut()
            .expect("a core sends nothing to itself and only to cores that exist")
    }

    /// Whether there is room for more requests to every peer.
    #[inline]
    pub fn ready(&self) -> bool {
        let has_room =
            |peer: &Peer| peer.outstanding < OUTSTANDING_MAX && peer.out.byte_count() < OUT_BYTES_MAX;
        self.long_bytes < self.long_bytes_max && self.peers.iter().flatten().all(has_room)
    }

    /// Whether a peer has sent something.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.from.is_empty())
    }

    /// The next batch, and from whom; to be handed to [`Mesh::recycle`] afterwards.
    pub fn receive(&mut self) -> Option<(CoreId, Box<Batch>)> {
        for (core, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            if let Ok(batch) = peer.from.pop() {
                peer.outstanding -= batch.settled_count();
                peer.settled += batch.settled_count() as u64;
                while let Some(&(place, bytes)) = peer.long.front()
                    && place <= peer.settled
                {
                    peer.long.pop_front();
                    self.long_bytes -= bytes;
                }
                return Some((CoreId(core as u16), batch));
            }
        }
        None
    }

    /// Keeps a batch for reuse.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        if self.spare.len() < SPARE_BATCHES {
            batch.clear(SPARE_BATCH_BYTES);
            self.spare.push(batch);
        }
    }

    /// Hands this turn's batches over and queues wake-ups for those who sleep; answers how many were handed over.
    pub fn flush(&mut self, ring: &mut Ring) -> u64 {
        let mut handed = 0;
        for (core, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            if peer.out.is_empty() || peer.to.is_full() {
                continue;
            }
            let next = self.spare.pop().unwrap_or_default();
            let batch = std::mem::replace(&mut peer.out, next);
            peer.to.push(batch).expect("not full a moment ago, and nobody else pushes");
            handed += 1;
            // Links look for themselves.
            let Some(doorway) = self.doorways.get(core) else { continue };
            fence(Ordering::SeqCst);
            if doorway.asleep.load(Ordering::Relaxed) && doorway.asleep.swap(false, Ordering::Relaxed) {
                ring.wake(doorway.ring.load(Ordering::Acquire));
            }
        }
        handed
    }

    /// Whether a batch waits because a peer's ring is full.
    pub fn has_backlog(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.out.is_empty())
    }

    /// Whether an answer is due that does not wait for an origin.
    #[inline]
    pub fn awaits_answers(&self) -> bool {
        self.peers.iter().flatten().any(|peer| peer.outstanding > 0)
    }

    /// Whether there are other cores.
    pub fn has_peers(&self) -> bool {
        self.peers.len() > 1
    }

    /// Says that this core is about to sleep; answers false if it must not because there is mail.
    pub fn fall_asleep(&self) -> bool {
        self.doorways[self.me.index()].asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.wake_up();
            return false;
        }
        true
    }

    /// Says that this core is awake.
    pub fn wake_up(&self) {
        self.doorways[self.me.index()].asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;
    use crate::request::{Answer, Value, Verb};

    fn address(ticket: u32) -> ReturnAddress {
        ReturnAddress { connection: ConnectionId { place: 1, generation: 2 }, ticket }
    }

    #[test]
    fn a_batch_goes_over_and_comes_back_and_room_is_counted() {
        let mut ring = Ring::new().expect("io_uring");
        let mut meshes = weave(2);
        let mut one = meshes.pop().expect("two");
        let mut zero = meshes.pop().expect("two");
        for ticket in 0..OUTSTANDING_MAX as u32 {
            assert!(zero.ready());
            zero.send(CoreId(1), address(ticket), &Request { key: b"k", value: b"v", verb: Verb::Get });
        }
        assert!(!zero.ready(), "a slow core pushes back");
        assert_eq!(zero.flush(&mut ring), 1, "all in one batch");
        let (from, batch) = one.receive().expect("mail");
        assert_eq!((from, batch.request_count()), (CoreId(0), OUTSTANDING_MAX));
        for (back, request) in batch.requests() {
            assert_eq!(request.key, b"k");
            one.answer(
                from,
                back,
                &Outcome { answer: Answer::Number(i64::from(back.ticket)), value: Value::EMPTY },
            );
        }
        one.recycle(batch);
        assert_eq!(one.flush(&mut ring), 1);
        let (_, batch) = zero.receive().expect("mail");
        for (ticket, (back, outcome)) in batch.returns().enumerate() {
            assert_eq!(back, address(ticket as u32));
            assert_eq!(outcome.answer, Answer::Number(ticket as i64));
        }
        assert!(zero.ready());
    }

    #[test]
    fn long_requests_count_until_they_are_settled() {
        let mut ring = Ring::new().expect("io_uring");
        let mut meshes = weave(2);
        let mut one = meshes.pop().expect("two");
        let mut zero = meshes.pop().expect("two");
        zero.set_long_bytes_max(100_000);
        let value = vec![b'v'; 30_000];
        for (ticket, value) in [&value[..], b"short", &value, &value, &value].into_iter().enumerate() {
            assert!(zero.ready());
            zero.send(CoreId(1), address(ticket as u32), &Request { key: b"k", value, verb: Verb::Get });
        }
        assert!(!zero.ready() && zero.long_bytes() == 120_000);
        zero.flush(&mut ring);
        let (from, batch) = one.receive().expect("mail");
        // Two are answered, one waits for an origin, the others are still to be done.
        for (back, _) in batch.requests().take(2) {
            one.answer(from, back, &Outcome { answer: Answer::Number(0), value: Value::EMPTY });
        }
        one.park(from);
        one.flush(&mut ring);
        zero.receive().expect("mail");
        assert!(zero.ready() && zero.long_bytes() == 60_000);
    }

    #[test]
    fn one_who_has_mail_does_not_fall_asleep() {
        let mut ring = Ring::new().expect("io_uring");
        let mut meshes = weave(2);
        assert!(meshes[1].fall_asleep());
        meshes[1].wake_up();
        meshes[0].send(CoreId(1), address(0), &Request { key: b"k", value: b"", verb: Verb::Get });
        meshes[0].flush(&mut ring);
        assert!(!ring.has_queued(), "nobody slept, nobody is woken");
        assert!(!meshes[1].fall_asleep());
    }
}
