//! What travels over the links between cores of two nodes (`proto-spec/native.md` 8.5): greetings, and batches as they go from core to core.
//!
//! ```text
//!   Batch --write_batch--> BATCH .. BATCH ~~~> read_batch --> Batch
//!     requests: by the ids of Asked               requests: to be answered to that id, in this session of the link
//!     returns: to the ids of the other side       returns: to whoever Asked says
//! ```
//! 1. Each request has an id of its sender's, and is answered once to that id. Nobody is parked: what waits counts as asked.
//! 2. A link that was made anew is another *session*. What belongs to an earlier one has been answered by its sender already, and is dropped.

use super::bytes::{Malformed, Put as _, Reader};
use super::verbs;
use crate::ids::ConnectionId;
use crate::message::{Batch, ReturnAddress};
use crate::request::{Answer, Fault, Named, Outcome, Request, ShardCall, Transfer, Value, Verb};
use crate::wire::native::frame::{Frame, MAGIC_REQUEST, flags};

/// Opcodes of links.
pub mod opcode {
    pub use crate::wire::native::frame::LINK;
    /// The answer to LINK.
    pub const LINKED: u8 = 0xB1;
    /// Requests and outcomes.
    pub const BATCH: u8 = 0xB2;
    /// A sign of life.
    pub const BEAT: u8 = 0xB3;
}

/// Version of this section, exchanged in LINK.
const LINK_VERSION: u8 = 1;
/// Bytes at which a frame of several requests ends.
const FRAME_BYTES: usize = 1 << 20;
/// The ticket of a request that its sender had from somebody else, at its receiver; 0 for others.
pub const RELAYED: u32 = 1;

/// The first frame of a link: who wants it, and with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// Of the list of nodes.
    pub checksum: u32,
    /// The sender's node, its core there, and which life of it.
    pub from: (u32, u16),
    /// Which life of the sender.
    pub incarnation: u64,
    /// With which core of which node.
    pub to: (u32, u16),
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall: u64,
    /// Bytes of the longest key and value that the sender takes.
    pub item_bytes_max: u64,
    /// The password of nodes; empty: there is none.
    pub password: &'a [u8],
}

impl Greeting<'_> {
    /// Appends the frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let frame = begin(opcode::LINK, out);
        out.put_u8(LINK_VERSION);
        out.put_u32(self.checksum);
        for (node, core) in [self.from, self.to] {
            out.put_u32(node);
            out.put_u32(core.into());
        }
        out.put_u64(self.incarnation);
        out.put_u64(self.wall);
        out.put_u64(self.item_bytes_max);
        out.put_counted(self.password);
        frame.end(out);
    }

    /// Reads the body of such a frame.
    ///
    /// # Errors
    /// For anything else.
    pub fn read(body: &[u8]) -> Result<Greeting<'_>, Malformed> {
        let mut from = Reader(body);
        if from.u8()? != LINK_VERSION {
            return Err(Malformed);
        }
        let checksum = from.u32()?;
        let mut place = || Ok((from.u32()?, from.u32()?.try_into().map_err(|_| Malformed)?));
        let (sender, to) = (place()?, place()?);
        let (incarnation, wall, item_bytes_max) = (from.u64()?, from.u64()?, from.u64()?);
        let password = from.counted()?;
        from.end()?;
        Ok(Greeting { checksum, from: sender, incarnation, to, wall, item_bytes_max, password })
    }
}

/// Why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lists of nodes differ.
    List,
    /// The password is wrong.
    Password,
    /// The clocks differ by too much.
    Clock,
    /// It is for another core, or from one that is not to connect.
    Place,
    /// A later life of the sender has a link already.
    Past,
}

const REFUSALS: [Refusal; 5] =
    [Refusal::List, Refusal::Password, Refusal::Clock, Refusal::Place, Refusal::Past];

impl Refusal {
    /// In words, for logs.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::List => "the nodes were started with different lists of nodes (--cluster)",
            Refusal::Password => "the nodes have different passwords",
            Refusal::Clock => "the clocks of the two differ by more than five seconds",
            Refusal::Place => "another node listens at that address than the list says",
            Refusal::Past => "a process of that node that began later has the link",
        }
    }
}

/// Who has taken a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Which life of it.
    pub incarnation: u64,
    /// Bytes of the longest key and value that it takes.
    pub item_bytes_max: u64,
}

/// Appends the answer to LINK.
pub fn write_linked(answer: Result<Linked, Refusal>, out: &mut Vec<u8>) {
    let frame = begin(opcode::LINKED, out);
    match answer {
        Ok(Linked { incarnation, item_bytes_max }) => {
            out.put_u8(0);
            out.put_u64(incarnation);
            out.put_u64(item_bytes_max);
        }
        Err(why) => {
            let place = REFUSALS.iter().position(|refusal| *refusal == why).expect("all are in the list");
            out.put_u8(place as u8 + 1);
        }
    }
    frame.end(out);
}

/// Reads the body of such an answer.
///
/// # Errors
/// For anything else.
pub fn read_linked(body: &[u8]) -> Result<Result<Linked, Refusal>, Malformed> {
    let mut from = Reader(body);
    let answer = match from.u8()? {
        0 => Ok(Linked { incarnation: from.u64()?, item_bytes_max: from.u64()? }),
        place => Err(*REFUSALS.get(usize::from(place) - 1).ok_or(Malformed)?),
    };
    from.end()?;
    Ok(answer)
}

/// Appends a sign of life.
pub fn write_beat(out: &mut Vec<u8>) {
    begin(opcode::BEAT, out).end(out);
}

fn begin(opcode: u8, out: &mut Vec<u8>) -> Frame {
    Frame::begin(MAGIC_REQUEST, opcode, flags::CRC, 0, 0, 0, out)
}

/// A request that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// To whom its outcome belongs.
    pub address: ReturnAddress,
    /// Whether it changes nothing.
    pub reads: bool,
}

/// What was asked over a link and is not answered.
#[derive(Debug, Default)]
pub struct Asked {
    places: Vec<Option<Pending>>,
    free: Vec<u32>,
}

impl Asked {
    fn add(&mut self, pending: Pending) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[place as usize] = Some(pending);
        place
    }

    fn take(&mut self, id: u32) -> Option<Pending> {
        let pending = self.places.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(pending)
    }

    /// Takes out all of them, and gives their ids to others.
    pub fn take_all(&mut self) -> impl Iterator<Item = Pending> {
        self.free.clear();
        std::mem::take(&mut self.places).into_iter().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A session of a link, as what is written and read wants it.
#[derive(Debug)]
pub struct Way<'a> {
    /// What the wall clock is ahead of the other one, in milliseconds.
    pub ahead: u64,
    /// Which session this is.
    pub session: u32,
    /// What was asked.
    pub asked: &'a mut Asked,
    /// The connection of requests that are somebody else's.
    pub relays: ConnectionId,
    /// Bytes of the longest key and value that go over it.
    pub item_bytes_max: usize,
}

/// Whether a request can be done by a core of another node.
pub fn goes_far(verb: &Verb) -> bool {
    verbs::travels(verb)
        || matches!(
            verb,
            Verb::Shard(_) | Verb::Invalidate(Named::Key) | Verb::Transfer(_) | Verb::PutAllAbsent
        )
}

const RETURN: u8 = 0x40;
const OF_OTHERS: u8 = 0x80;

/// Appends the requests and outcomes of a batch. What cannot go is in `refused` afterwards, with why.
pub fn write_batch(
    batch: &Batch,
    way: &mut Way<'_>,
    refused: &mut Vec<(ReturnAddress, Fault)>,
    out: &mut Vec<u8>,
) {
    let mut frame: Option<(Frame, usize)> = None;
    let room = |out: &mut Vec<u8>, frame: &mut Option<(Frame, usize)>| {
        if let Some((open, _)) = frame.take_if(|(_, start)| out.len() - *start >= FRAME_BYTES) {
            open.end(out);
        }
        frame.get_or_insert_with(|| (begin(opcode::BATCH, out), out.len()));
    };
    for (address, request) in batch.requests() {
        let Request { key, value, verb } = request;
        if !goes_far(&verb) {
            refused.push((address, Fault::Unsupported));
            continue;
        }
        if key.len() + value.len() > way.item_bytes_max {
            refused.push((address, Fault::TooLarge));
            continue;
        }
        room(out, &mut frame);
        let id = way.asked.add(Pending { address, reads: verbs::only_reads(&verb) });
        let mark = if address.connection == way.relays { OF_OTHERS } else { 0 };
        write_far(&request, mark, id, way.ahead, out);
    }
    for (address, outcome) in batch.returns() {
        if address.connection.generation != way.session {
            continue;
        }
        room(out, &mut frame);
        out.put_u8(RETURN);
        out.put_u32(address.connection.place);
        let outcome = match outcome.value.len() > way.item_bytes_max {
            true => Outcome { answer: Answer::Fault(Fault::TooLarge), value: Value::EMPTY },
            false => outcome,
        };
        counted(out, |out| verbs::write_outcome(&outcome, way.ahead, out));
    }
    if let Some((frame, _)) = frame {
        frame.end(out);
    }
}

/// Appends what `write` makes behind its length.
fn counted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    write(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

fn write_far(request: &Request<'_>, mark: u8, id: u32, ahead: u64, out: &mut Vec<u8>) {
    let mut head = |kind: u8| {
        out.put_u8(mark | kind);
        out.put_u32(id);
    };
    match request.verb {
        Verb::Shard(call) => match call {
            ShardCall::Frame => head(1),
            ShardCall::Swap { shard, expected } => {
                head(2);
                out.put_u32(shard.into());
                out.put_u64(expected);
            }
            ShardCall::Look { shard } => {
                head(3);
                out.put_u32(shard.into());
            }
            ShardCall::List => head(4),
            ShardCall::Owner { shard, revision } => {
                head(5);
                out.put_u32(shard.into());
                out.put_u64(revision);
            }
            ShardCall::Fence { shard } => {
                head(6);
                out.put_u32(shard.into());
            }
        },
        Verb::Invalidate(_) => head(7),
        Verb::Transfer(Transfer { keep, replace }) => {
            head(8);
            out.put_u8(u8::from(keep) | u8::from(replace) << 1);
        }
        Verb::PutAllAbsent => head(9),
        _ => {
            head(0);
            return counted(out, |out| verbs::write_request(request, ahead, out));
        }
    }
    out.put_counted(request.key);
    out.put_counted(request.value);
}

/// Reads the body of a BATCH into an empty batch: requests with where their outcomes go, and outcomes for those who asked.
///
/// # Errors
/// For anything that [`write_batch`] did not write, and for an outcome of what was not asked. Then the link is of no more use.
pub fn read_batch(body: &[u8], way: &mut Way<'_>, batch: &mut Batch) -> Result<(), Malformed> {
    let mut from = Reader(body);
    while !from.0.is_empty() {
        let (kind, id) = (from.u8()?, from.u32()?);
        if kind == RETURN {
            let outcome = verbs::read_outcome(from.counted()?, way.ahead)?;
            let pending = way.asked.take(id).ok_or(Malformed)?;
            batch.push_return(pending.address, &outcome);
            continue;
        }
        let connection = ConnectionId { place: id, generation: way.session };
        let ticket = if kind & OF_OTHERS != 0 { RELAYED } else { 0 };
        let request = read_far(kind & !OF_OTHERS, &mut from, way.ahead)?;
        batch.push_request(ReturnAddress { connection, ticket }, &request);
    }
    Ok(())
}

fn read_far<'a>(kind: u8, from: &mut Reader<'a>, ahead: u64) -> Result<Request<'a>, Malformed> {
    let shard = |from: &mut Reader<'a>| -> Result<u16, Malformed> {
        let number = u16::try_from(from.u32()?).map_err(|_| Malformed)?;
        if number < crate::ids::SHARD_COUNT { Ok(number) } else { Err(Malformed) }
    };
    let verb = match kind {
        0 => return verbs::read_request(from.counted()?, ahead),
        1 => Verb::Shard(ShardCall::Frame),
        2 => Verb::Shard(ShardCall::Swap { shard: shard(from)?, expected: from.u64()? }),
        3 => Verb::Shard(ShardCall::Look { shard: shard(from)? }),
        4 => Verb::Shard(ShardCall::List),
        5 => Verb::Shard(ShardCall::Owner { shard: shard(from)?, revision: from.u64()? }),
        6 => Verb::Shard(ShardCall::Fence { shard: shard(from)? }),
        7 => Verb::Invalidate(Named::Key),
        8 => match from.u8()? {
            bits @ 0..4 => Verb::Transfer(Transfer { keep: bits & 1 != 0, replace: bits & 2 != 0 }),
            _ => return Err(Malformed),
        },
        9 => Verb::PutAllAbsent,
        _ => return Err(Malformed),
    };
    let (key, value) = (from.counted()?, from.counted()?);
    Ok(Request { key, value, verb })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Expiry, Put};
    use crate::wire::native::frame::{Header, body};

    const AHEAD: u64 = 1_700_000_000_000;
    const RELAYS: ConnectionId = ConnectionId { place: u32::MAX, generation: 2 };

    fn way(asked: &mut Asked, session: u32) -> Way<'_> {
        Way { ahead: AHEAD, session, asked, relays: RELAYS, item_bytes_max: 2 << 20 }
    }

    fn address(place: u32) -> ReturnAddress {
        ReturnAddress { connection: ConnectionId { place, generation: 40 }, ticket: 9 }
    }

    /// The bodies of frames.
    fn bodies(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
        let mut all = Vec::new();
        while let Some(header) = Header::read(MAGIC_REQUEST, bytes).expect("a frame") {
            all.push((header.opcode, body(&header, bytes).expect("its checksum is right")));
            bytes = &bytes[header.frame_len()..];
        }
        all
    }

    fn requests() -> Vec<Verb> {
        let transfer = |keep, replace| Verb::Transfer(Transfer { keep, replace });
        vec![
            Verb::Get,
            Verb::Put(Put::plain(Expiry::Never)),
            Verb::Shard(ShardCall::Frame),
            Verb::Shard(ShardCall::Swap { shard: 1023, expected: u64::MAX }),
            Verb::Shard(ShardCall::Look { shard: 0 }),
            Verb::Shard(ShardCall::List),
            Verb::Shard(ShardCall::Owner { shard: 7, revision: 8 }),
            Verb::Shard(ShardCall::Fence { shard: 9 }),
            Verb::Invalidate(Named::Key),
            transfer(true, false),
            transfer(false, true),
            Verb::PutAllAbsent,
        ]
    }

    #[test]
    fn requests_and_their_outcomes_come_to_whom_they_are_for() {
        let (mut here, mut there) = (Asked::default(), Asked::default());
        let mut batch = Batch::default();
        for (place, verb) in requests().into_iter().enumerate() {
            let mut to = address(place as u32);
            if place == 3 {
                to.connection = RELAYS;
            }
            batch.push_request(to, &Request { key: b"key", value: b"value", verb });
        }
        let (mut refused, mut bytes) = (Vec::new(), Vec::new());
        write_batch(&batch, &mut way(&mut here, 1), &mut refused, &mut bytes);
        assert!(refused.is_empty());
        assert_eq!(here.len(), requests().len());
        // There they are done, and answered in another order.
        let mut come = Batch::default();
        let frames = bodies(&bytes);
        assert_eq!((frames.len(), frames[0].0), (1, opcode::BATCH));
        read_batch(frames[0].1, &mut way(&mut there, 5), &mut come).expect("as it was written");
        let mut back = Batch::default();
        let asked: Vec<_> = come.requests().map(|(to, request)| (to, request.verb)).collect();
        for (i, (to, verb)) in asked.iter().enumerate().rev() {
            assert_eq!((*verb, to.ticket == RELAYED), (requests()[i], i == 3));
            let outcome = Outcome { answer: Answer::Number(i as i64), value: Value::One(b"x") };
            back.push_return(*to, &outcome);
        }
        // What was asked in an earlier session is not answered in this one.
        let old = ReturnAddress { connection: ConnectionId { place: 0, generation: 4 }, ticket: 0 };
        back.push_return(old, &Outcome { answer: Answer::Miss, value: Value::EMPTY });
        let mut answers = Vec::new();
        write_batch(&back, &mut way(&mut there, 5), &mut refused, &mut answers);
        let mut told = Batch::default();
        for (_, body) in bodies(&answers) {
            read_batch(body, &mut way(&mut here, 1), &mut told).expect("as it was written");
        }
        assert!(here.is_empty() && told.settled_count() == requests().len());
        for (to, outcome) in told.returns() {
            let Answer::Number(i) = outcome.answer else { panic!("{outcome:?}") };
            let expected = if i == 3 { RELAYS } else { address(i as u32).connection };
            assert_eq!((to.connection, outcome.value.bytes()), (expected, &b"x"[..]));
        }
        // An outcome comes once.
        let twice = bodies(&answers)[0].1;
        assert_eq!(read_batch(twice, &mut way(&mut here, 1), &mut told), Err(Malformed));
        for len in 1..frames[0].1.len() {
            let mut cut = Batch::default();
            let whole = read_batch(&frames[0].1[..len], &mut way(&mut there, 5), &mut cut).is_ok();
            // It may end between two requests only.
            assert!(!whole || cut.request_count() < requests().len());
        }
    }

    #[test]
    fn what_is_too_long_or_not_for_others_is_refused_and_much_goes_in_several_frames() {
        let mut asked = Asked::default();
        let mut batch = Batch::default();
        let long = vec![b'v'; 700 << 10];
        let put = Verb::Put(Put::plain(Expiry::Never));
        for place in 0..4 {
            batch.push_request(address(place), &Request { key: b"k", value: &long, verb: put });
        }
        let longest = vec![b'v'; 2 << 20];
        batch.push_request(address(4), &Request { key: b"k", value: &longest, verb: put });
        batch.push_request(address(5), &Request { key: b"", value: b"", verb: Verb::Size });
        let of = ReturnAddress { connection: ConnectionId { place: 0, generation: 1 }, ticket: 0 };
        batch.push_return(
            of,
            &Outcome { answer: Answer::Page { cursor: 0 }, value: Value::One(&[0; (2 << 20) + 1]) },
        );
        let (mut refused, mut bytes) = (Vec::new(), Vec::new());
        write_batch(&batch, &mut way(&mut asked, 1), &mut refused, &mut bytes);
        assert_eq!(refused, [(address(4), Fault::TooLarge), (address(5), Fault::Unsupported)]);
        assert_eq!((bodies(&bytes).len(), asked.len()), (3, 4));
        let pending: Vec<_> = asked.take_all().map(|it| (it.address, it.reads)).collect();
        assert_eq!(pending, [0, 1, 2, 3].map(|place| (address(place), false)));
        assert!(asked.is_empty());
        let mut read = Batch::default();
        let mut one = Asked::default();
        let id = one.add(Pending { address: address(8), reads: true });
        assert_eq!(id, 0);
        let last = bodies(&bytes)[2].1;
        read_batch(last, &mut way(&mut one, 1), &mut read).expect("as it was written");
        let answers: Vec<_> = read.returns().map(|(_, outcome)| outcome.answer).collect();
        assert_eq!(answers, [Answer::Fault(Fault::TooLarge)]);
    }

    #[test]
    fn greetings_come_back_and_nothing_else_does() {
        let greeting = Greeting {
            checksum: 1,
            from: (2, 3),
            incarnation: 4,
            to: (5, 6),
            wall: 7,
            item_bytes_max: 8,
            password: b"sesame",
        };
        let mut bytes = Vec::new();
        greeting.write(&mut bytes);
        let frames = bodies(&bytes);
        assert_eq!(frames[0].0, opcode::LINK);
        assert_eq!(Greeting::read(frames[0].1), Ok(greeting));
        for len in 0..frames[0].1.len() {
            assert_eq!(Greeting::read(&frames[0].1[..len]), Err(Malformed));
        }
        let linked = Linked { incarnation: 77, item_bytes_max: 78 };
        for answer in [Ok(linked)].into_iter().chain(REFUSALS.map(Err)) {
            let mut bytes = Vec::new();
            write_linked(answer, &mut bytes);
            assert_eq!(read_linked(bodies(&bytes)[0].1), Ok(answer));
        }
        assert_eq!(read_linked(&[9]), Err(Malformed));
    }
}
