//! A world for sessions: three engines, and what is on its way between them.

use foreshadow::clock::{Mono, Now, Wall};
use foreshadow::engine::{self, Engine, Waiter};
use foreshadow::hash::slot_of;
use foreshadow::ids::{ConnectionId, CoreId};
use foreshadow::message::ReturnAddress;
use foreshadow::metrics::Counters;
use foreshadow::request::{Outcome, Request as Wish, Verb};
use foreshadow::store;
use foreshadow::topology::{Node, ShardMap};
use foreshadow::wire::native::frame::{self, Decoded, Reply, Request, Status};
use foreshadow::wire::{Backend, Client, Next, Options, Reason, Session, Target};
use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) const CORES: u16 = 3;

pub(crate) struct Sent {
    pub(crate) ticket: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) verb: Verb,
}

pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) engines: Vec<Engine>,
    pub(crate) sent: Vec<VecDeque<Sent>>,
    pub(crate) counters: Counters,
    pub(crate) now: Now,
    pub(crate) ready: bool,
    pub(crate) calls: usize,
}

impl World {
    pub(crate) fn new(cores: u16) -> World {
        let options = engine::Options {
            store: store::Options {
                memory_bytes_max: 64 << 20,
                item_bytes_max: 8 << 20,
                hash_secret: [1, 2],
            },
            seed: 5,
        };
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        World {
            node: Node {
                run_id: "0123456789012345678901234567890123456789".to_owned(),
                version: "1.2.3",
                process_id: 1,
                started: now,
                address: "127.0.0.1".parse().unwrap(),
                port: 7400,
                core_ports: (0..cores).map(|core| 7402 + core).collect(),
                cpus: (0..usize::from(cores)).collect(),
                memory_bytes_max: 1 << 30,
                clients_max: 100,
                settings: Vec::new(),
                map: ShardMap::on_cores(cores),
                cluster: None,
            },
            engines: (0..cores).map(|_| Engine::new(options)).collect(),
            sent: (0..cores).map(|_| VecDeque::new()).collect(),
            counters: Counters::default(),
            now,
            ready: true,
            calls: 0,
        }
    }

    /// Does the oldest request that waits at a core, if there is one.
    pub(crate) fn deliver(&mut self, core: usize, session: &mut Session) -> bool {
        let Some(sent) = self.sent[core].pop_front() else { return false };
        let wish = Wish { key: &sent.key, value: &sent.value, verb: sent.verb };
        let outcome = served(&mut self.engines[core], self.now, &wish);
        session.complete(self.now, &self.node, sent.ticket, &outcome);
        true
    }

    pub(crate) fn deliver_all(&mut self, session: &mut Session) {
        for core in 0..self.engines.len() {
            while self.deliver(core, session) {}
        }
    }
}

/// As the shell has requests done.
fn served<'e>(engine: &'e mut Engine, now: Now, wish: &Wish<'_>) -> Outcome<'e> {
    let address = ReturnAddress { connection: ConnectionId::NOBODY, ticket: 0 };
    let outcome = engine.serve(now, Waiter { core: CoreId(0), address }, wish);
    outcome.expect("without an origin nobody waits")
}

impl Backend for World {
    fn call(&mut self, target: Target, request: &Wish<'_>, ticket: u32) -> Option<Outcome<'_>> {
        self.calls += 1;
        let owner = match target {
            Target::Owner => self.node.map.owner(slot_of(request.key).shard()),
            Target::Here => CoreId(0),
            Target::Core(core) => core,
        };
        if owner == CoreId(0) {
            return Some(served(&mut self.engines[0], self.now, request));
        }
        self.sent[owner.index()].push_back(Sent {
            ticket,
            key: request.key.to_vec(),
            value: request.value.to_vec(),
            verb: request.verb,
        });
        None
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn called(&mut self, _: u8) {}
}

pub(crate) fn session_with(change: impl FnOnce(&mut Options)) -> Session {
    let mut options = Options { value_bytes_max: 1 << 20, ..Options::default() };
    change(&mut options);
    Session::new(Arc::new(options), Client::default())
}

pub(crate) fn session() -> Session {
    session_with(|_| {})
}

/// A reply, owned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) id: u32,
    pub(crate) opcode: u8,
    pub(crate) status: Status,
    pub(crate) more: bool,
    pub(crate) new_map: bool,
    pub(crate) detail: u16,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn value(&self) -> &[u8] {
        &self.body[frame::META_BYTES..]
    }

    pub(crate) fn reply(&self) -> Reply<'_> {
        Reply {
            id: self.id,
            opcode: self.opcode,
            status: self.status,
            more: self.more,
            new_map: self.new_map,
            detail: self.detail,
            body: &self.body,
        }
    }
}

pub(crate) fn taken(session: &mut Session) -> Vec<Got> {
    let bytes = std::mem::take(session.output());
    let mut rest = bytes.as_slice();
    let mut list = Vec::new();
    while !rest.is_empty() {
        match frame::decode_reply(rest) {
            Ok(Decoded::Reply { reply, len }) => {
                list.push(Got {
                    id: reply.id,
                    opcode: reply.opcode,
                    status: reply.status,
                    more: reply.more,
                    new_map: reply.new_map,
                    detail: reply.detail,
                    body: reply.body.to_vec(),
                });
                rest = &rest[len..];
            }
            other => panic!("not a whole reply: {other:?}"),
        }
    }
    list
}

/// How a conversation ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Open,
    Closed(Reason),
}

/// Feeds a stream in pieces of these lengths (the last one again and again), delivering by `dice`; answers the replies.
pub(crate) fn converse(
    world: &mut World,
    session: &mut Session,
    stream: &[u8],
    pieces: &[usize],
    mut dice: u64,
) -> (Vec<Got>, End) {
    let mut replies = Vec::new();
    let (mut start, mut end, mut turn, mut needed) = (0, 0, 0, 1);
    loop {
        if end < stream.len() {
            let piece = pieces[turn.min(pieces.len() - 1)].max(1);
            end = stream.len().min(end + piece);
            turn += 1;
        } else if start == end || end - start < needed {
            break;
        }
        loop {
            if end - start < needed && end < stream.len() {
                break;
            }
            let node = world.node.clone();
            let progress = session.serve(world.now, &node, &stream[start..end], world);
            assert!(progress.consumed <= end - start);
            start += progress.consumed;
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let core = (dice >> 33) as usize % world.engines.len();
            if dice >> 63 == 1 {
                world.deliver(core, session);
            }
            replies.extend(taken(session));
            match progress.next {
                Next::More { at_least } => {
                    assert!(at_least > end - start, "asked for what was there");
                    needed = at_least;
                    break;
                }
                Next::Yield | Next::Blocked => {
                    world.deliver_all(session);
                    needed = 1;
                    if start == end {
                        break;
                    }
                }
                Next::Close(reason) => {
                    world.deliver_all(session);
                    replies.extend(taken(session));
                    return (replies, End::Closed(reason));
                }
            }
        }
    }
    world.deliver_all(session);
    replies.extend(taken(session));
    (replies, End::Open)
}

pub(crate) fn ask(world: &mut World, session: &mut Session, request: &Request<'_>) -> Got {
    let mut stream = Vec::new();
    request.encode(77, false, &mut stream);
    let (mut replies, end) = converse(world, session, &stream, &[usize::MAX >> 1], 0);
    assert_eq!((replies.len(), end), (1, End::Open), "{request:?}");
    let reply = replies.remove(0);
    assert_eq!((reply.id, reply.opcode, reply.more), (77, request.opcode() as u8, false));
    reply
}
