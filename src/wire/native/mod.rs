//! The native binary protocol, as `proto-spec/native.md` has it.
//!
//! ```text
//!   input --> Native::serve --> Header --> Request --> Backend::call --> Some(outcome): Writer::write, at once
//!                  |                                               \--> None: Writer keeps id and shape by ticket
//!                  | (state: inside a batch, skipping a body)
//!                  v
//!              item by item                 Native::complete(ticket) --> Writer::write, in whatever order they come
//! ```
//! 1. A reply names its request, so none waits for another: there is no queue of replies, only a slab from ticket to request
//!    id. Nothing of a reply is held here.
//! 2. A batch without checksum is executed item by item as it arrives and never has to be in the input as a whole. With one it
//!    has, since nothing of a corrupt frame may be executed.
//! 3. What will be refused is refused by its header and skipped as it comes, without being held.
//!
//! A hit by GET costs one look at the header, one at the key and one copy of the value; nothing is allocated.

mod ahead;
pub mod frame;
mod slab;
mod writer;

use super::{Backend, Next, Options, Output, Progress, Reason, TURN_BYTES_MAX, Target};
use crate::clock::Now;
use crate::ids::{CoreId, Version};
use crate::metrics::Counters;
use crate::request::{
    Condition, Expire, ExpireOnly, Expiry, ExpiryChange, Fetch, LANDING_BYTES_MIN, Named, Outcome, Put,
    Remove, Request as Wish, Verb,
};
use crate::topology::Node;
use crate::wire::users::{Badge, DEFAULT};
use frame::{
    AUTH_BYTES_MAX, CHECKED_BYTES_MAX, CRC_BYTES, HEADER_BYTES, Header, HelloReply, ItemHead, KEY_BYTES_MAX,
    LEASE_MILLIS_DEFAULT, LINK, LINK_BYTES_MAX, MAGIC_REQUEST, META_BYTES, Meta, Opcode, PING_BYTES_MAX,
    Request, Status, VERSION, capabilities,
};
use std::sync::Arc;
use writer::{Ask, Writer};

/// Requests of one connection under way at other cores; a session that has so many stops parsing until outcomes come.
pub(crate) const AWAITED_MAX: usize = 4096;
/// Wrong passwords after which a connection that is not authenticated is closed.
const WRONG_AUTHS_MAX: u8 = 3;
/// What this release can do for clients.
const CAPABILITIES: u32 = capabilities::CRC | capabilities::MAP | capabilities::LEASE;

/// See [`super::Session::sole_key`].
#[inline]
pub(crate) fn sole_key(input: &[u8]) -> Option<&[u8]> {
    ahead::sole_key(input)
}

/// A native session.
pub(crate) struct Native {
    options: Arc<Options>,
    state: State,
    /// Who the client is.
    pub(super) badge: Badge,
    wrong_auths: u8,
    writer: Writer,
}

/// Where in the stream the next byte stands.
#[derive(Clone, Copy)]
enum State {
    /// At a header.
    Frame,
    /// Inside a batch.
    Batch(Batch),
    /// Inside a body that is not wanted.
    Skip { left: u64 },
}

/// A batch that is being read.
#[derive(Clone, Copy)]
struct Batch {
    /// Its replies' place in the writer.
    place: u32,
    id: u32,
    opcode: Opcode,
    crc: bool,
    /// The next item.
    index: u16,
    count: u16,
    /// Bytes of items not yet read; the checksum is not among them.
    left: u64,
    /// Bytes to be skipped before the next item.
    skip: u64,
}

impl Batch {
    fn checksum_len(&self) -> u64 {
        if self.crc { CRC_BYTES as u64 } else { 0 }
    }

    fn ask(&self) -> Ask {
        Ask {
            id: self.id,
            opcode: self.opcode,
            crc: self.crc,
            batch: Some((self.place, self.index)),
            than: Version::NONE,
        }
    }
}

impl Native {
    /// A session that has said nothing yet.
    /// See [`super::Session::follow`].
    pub fn follow(&mut self, options: &Arc<Options>) {
        self.options = options.clone();
    }

    pub fn new(options: Arc<Options>, badge: Badge) -> Self {
        Native { badge, options, state: State::Frame, wrong_auths: 0, writer: Writer::new() }
    }

    /// See [`super::Session::serve`].
    pub fn serve<B: Backend>(
        &mut self,
        now: Now,
        node: &Node,
        input: &[u8],
        backend: &mut B,
        out: &mut Output,
    ) -> Progress {
        let mut turn = Turn {
            now,
            node,
            budget: self.options.commands_per_turn.max(1),
            bytes: out.total() + TURN_BYTES_MAX,
            native: self,
            backend,
            out,
            commands: 0,
            foreseen: 0,
        };
        let progress = turn.run(input);
        let commands = turn.commands;
        let counters = backend.counters();
        counters.commands_total += commands;
        self.settle(counters);
        progress
    }

    /// See [`super::Session::complete`]. A ticket that is not awaited is a bug of ours.
    pub fn complete(&mut self, now: Now, node: &Node, ticket: u32, outcome: &Outcome<'_>, out: &mut Output) {
        self.writer.complete(now, node, ticket, outcome, out);
    }

    /// Says that there is no memory for a request whose end has not come, and that the connection ends with it.
    #[cold]
    pub fn give_up(&mut self, out: &mut Output) {
        self.writer.hang_up(Status::OUT_OF_MEMORY, out);
    }

    /// See [`super::Session::settle`].
    pub fn settle(&mut self, counters: &mut Counters) {
        counters.errors_total += self.writer.take_errors();
    }

    /// Number of requests under way at other cores.
    pub fn awaited(&self) -> usize {
        self.writer.awaited()
    }

    /// Whether a body is being skipped whose end has not come.
    pub fn midway(&self) -> bool {
        matches!(self.state, State::Skip { .. })
    }

    /// Whether the client may do everything.
    pub fn authenticated(&self) -> bool {
        self.badge.is_free()
    }
}

/// One call of `serve`.
struct Turn<'t, B: Backend> {
    native: &'t mut Native,
    now: Now,
    node: &'t Node,
    backend: &'t mut B,
    out: &'t mut Output,
    /// Requests (items, in a batch) that may still be executed in this turn.
    budget: usize,
    /// Bytes of output at which the turn is over.
    bytes: usize,
    /// Requests executed in this turn.
    commands: u64,
    /// Requests to come whose keys the backend was told.
    foreseen: usize,
}

/// What one step over the input came to.
enum Step {
    /// This many bytes are done with.
    On(usize),
    /// None are, and here it stops.
    Stop(Next),
}

const fn more(at_least: usize) -> Step {
    Step::Stop(Next::More { at_least })
}

impl<B: Backend> Turn<'_, B> {
    fn run(&mut self, input: &[u8]) -> Progress {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let step = match self.native.state {
                State::Frame => self.frame(rest),
                State::Batch(batch) => self.item(rest, batch),
                State::Skip { left } => self.skip(rest, left),
            };
            match step {
                Step::On(len) => at += len,
                Step::Stop(Next::Close(reason)) => {
                    return Progress { consumed: input.len(), next: Next::Close(reason) };
                }
                Step::Stop(next) => return Progress { consumed: at, next },
            }
        }
    }

    /// What keeps the next request from being executed now.
    #[inline]
    fn obstacle(&self) -> Option<Next> {
        if self.budget == 0 || self.out.total() >= self.bytes {
            Some(Next::Yield)
        } else if self.native.writer.awaited() >= AWAITED_MAX
            || self.out.total() + self.native.writer.expected_bytes() >= self.native.options.output_soft_bytes
            || !self.backend.ready()
        {
            Some(Next::Blocked)
        } else {
            None
        }
    }

    fn skip(&mut self, rest: &[u8], left: u64) -> Step {
        if rest.is_empty() {
            return more(1);
        }
        let taken = (rest.len() as u64).min(left);
        self.skip_next(left - taken);
        Step::On(taken as usize)
    }

    fn skip_next(&mut self, left: u64) {
        self.native.state = if left == 0 { State::Frame } else { State::Skip { left } };
    }

    /// A frame: a whole request, or the start of a batch.
    #[inline]
    fn frame(&mut self, rest: &[u8]) -> Step {
        let header = match Header::read(MAGIC_REQUEST, rest) {
            Ok(Some(header)) => header,
            Ok(None) => return more(HEADER_BYTES),
            Err(status) => return self.hang_up(status, Reason::Protocol),
        };
        if let Some(next) = self.obstacle() {
            return Step::Stop(next);
        }
        let opcode = match self.admit(&header) {
            Ok(opcode) => opcode,
            Err(_) if header.opcode == LINK && self.native.options.only_core.is_some() => {
                return self.link(&header, rest);
            }
            Err(status) if status.closes() => return self.hang_up(status, Reason::Unauthenticated),
            Err(status) => {
                self.count_command();
                self.native.writer.fault(self.node, &header, status, self.out);
                if !self.native.authenticated()
                    && self.out.len() > self.native.options.unauthenticated_output_bytes_max
                {
                    return Step::Stop(Next::Close(Reason::Unauthenticated));
                }
                self.skip_next(u64::from(header.body_len));
                return Step::On(HEADER_BYTES);
            }
        };
        if opcode.is_batch() && !header.has_crc() {
            return self.begin_batch(&header, opcode);
        }
        let len = header.frame_len();
        if rest.len() < len {
            return more(len);
        }
        if self.foreseen == 0 && rest.len() > len && self.native.authenticated() {
            let mut keys = [&b""[..]; ahead::KEYS_MAX];
            let count = ahead::of_frames(rest, &mut keys);
            self.foresee(&keys[..count]);
        }
        self.foreseen = self.foreseen.saturating_sub(1);
        let body = match frame::body(&header, rest) {
            Ok(body) => body,
            Err(status) => return self.hang_up(status, Reason::Protocol),
        };
        if opcode.is_batch() {
            return self.begin_batch(&header, opcode);
        }
        let decoded = Request::decode(&header, body);
        if let Ok(Request::Put(put) | Request::LeasePut(put)) = &decoded
            && put.value.len() >= LANDING_BYTES_MIN
            && !self.backend.land(put.key, put.value)
        {
            return Step::Stop(Next::Yield);
        }
        self.count_command();
        match decoded {
            Ok(request) => {
                if let Some(next) = self.execute(&header, opcode, &request) {
                    return Step::Stop(next);
                }
            }
            Err(status) => self.native.writer.fault(self.node, &header, status, self.out),
        }
        Step::On(len)
    }

    /// A core of another node wants the connection for itself; whoever holds it takes it, with this frame as its first.
    #[cold]
    fn link(&mut self, header: &Header, rest: &[u8]) -> Step {
        let len = header.frame_len();
        if len > LINK_BYTES_MAX {
            return self.hang_up(Status::FRAME_SIZE, Reason::Protocol);
        }
        if rest.len() < len {
            return more(len);
        }
        match frame::body(header, rest) {
            Ok(body) if header.has_crc() && self.backend.link(body) => Step::Stop(Next::Yield),
            Ok(_) => self.hang_up(Status::UNSUPPORTED, Reason::Protocol),
            Err(status) => self.hang_up(status, Reason::Protocol),
        }
    }

    /// Whether the frame may be read at all, by its header.
    #[inline]
    fn admit(&self, header: &Header) -> Result<Opcode, Status> {
        let opcode = Opcode::of(header.opcode);
        let options = &self.native.options;
        if !self.native.authenticated() {
            if header.body_len as usize > options.unauthenticated_argument_bytes_max {
                return Err(Status::FRAME_SIZE);
            }
            if !matches!(opcode, Some(Opcode::Hello | Opcode::Auth | Opcode::Ping)) {
                return Err(Status::UNAUTHENTICATED);
            }
        }
        let opcode = opcode.ok_or(Status::UNSUPPORTED)?;
        let content_max = match opcode {
            Opcode::Hello | Opcode::Map | Opcode::Stats | Opcode::Ping => PING_BYTES_MAX,
            Opcode::Auth => AUTH_BYTES_MAX,
            Opcode::Get
            | Opcode::GetNewer
            | Opcode::LeaseGet
            | Opcode::Touch
            | Opcode::Invalidate
            | Opcode::InvalidateAll => META_BYTES + KEY_BYTES_MAX,
            Opcode::Put | Opcode::LeasePut => {
                let content = (META_BYTES + KEY_BYTES_MAX).saturating_add(options.value_bytes_max);
                if header.has_crc() { content.min(CHECKED_BYTES_MAX as usize) } else { content }
            }
            Opcode::GetMany | Opcode::PutMany | Opcode::InvalidateMany if header.has_crc() => {
                CHECKED_BYTES_MAX as usize
            }
            Opcode::GetMany | Opcode::PutMany | Opcode::InvalidateMany => return Ok(opcode),
        };
        let checksum_len = if header.has_crc() { CRC_BYTES } else { 0 };
        match header.body_len as usize - checksum_len <= content_max {
            true => Ok(opcode),
            false => Err(Status::TOO_LARGE),
        }
    }

    /// Ends the connection: says why, and that the rest of the input is of no use.
    #[cold]
    fn hang_up(&mut self, status: Status, reason: Reason) -> Step {
        self.native.writer.hang_up(status, self.out);
        Step::Stop(Next::Close(reason))
    }

    /// Tells the backend which keys the next requests are about, if there are several: one alone is fetched when it is asked
    /// for.
    #[inline]
    fn foresee(&mut self, keys: &[&[u8]]) {
        // After something unusual the look begins anew behind it.
        self.foreseen = keys.len().max(1);
        if keys.len() > 1 {
            self.backend.expect(keys);
        }
    }

    #[inline]
    fn count_command(&mut self) {
        self.budget -= 1;
        self.commands += 1;
    }

    /// Does a request that came whole; answers what to do next if that is not to go on.
    #[inline]
    fn execute(&mut self, header: &Header, opcode: Opcode, request: &Request<'_>) -> Option<Next> {
        let mut ask = Ask { id: header.id, opcode, crc: header.has_crc(), batch: None, than: Version::NONE };
        match *request {
            Request::Get(key) => self.ask(key, b"", Verb::Get, ask),
            Request::GetNewer { key, than } => {
                ask.than = than;
                self.ask(key, b"", Verb::Get, ask);
            }
            Request::LeaseGet { key, lease_millis } => {
                let millis = if lease_millis == 0 { LEASE_MILLIS_DEFAULT } else { lease_millis };
                let until = Expiry::At(self.now.mono.plus_millis(u64::from(millis)));
                self.ask(key, b"", Verb::Fetch(Fetch { vivify: Some(until), ..Fetch::PLAIN }), ask);
            }
            Request::Put(put) | Request::LeasePut(put) => {
                let condition = match put.condition {
                    frame::Condition::Always => Condition::Always,
                    frame::Condition::Absent => Condition::Absent,
                    frame::Condition::Present => Condition::Present,
                    frame::Condition::VersionIs => Condition::VersionIs(put.meta.version),
                };
                let expiry = match put.keep_ttl {
                    true => ExpiryChange::Keep,
                    false => ExpiryChange::Set(self.expiry(put.meta.ttl_millis)),
                };
                let verb = Put { flags: put.meta.flags, expiry, condition, ..Put::plain(Expiry::Never) };
                self.ask(put.key, put.value, Verb::Put(verb), ask);
            }
            Request::Touch { key, ttl_millis } => {
                let verb = Expire { expiry: self.expiry(ttl_millis), only: ExpireOnly::Any };
                self.ask(key, b"", Verb::Expire(verb), ask);
            }
            Request::Invalidate { key, stale } => {
                let verb = match stale {
                    true => Verb::Remove(Remove { stale, ..Remove::PLAIN }),
                    // What it forgets here is asked of the origin again; the origin is not changed.
                    false => Verb::Invalidate(Named::Key),
                };
                self.ask(key, b"", verb, ask);
            }
            // Every key begins with nothing; there is no tag of no name.
            Request::InvalidateAll { name: b"", tag: true } => {
                self.native.writer.say_status(self.node, &ask, Status::KEY, self.out);
            }
            Request::InvalidateAll { name, tag } => {
                self.ask_all(name, Verb::Invalidate(if tag { Named::Tag } else { Named::Prefix }), ask);
            }
            Request::Ping(bytes) => {
                self.native.writer.say(self.node, &ask, Status::OK, 0, bytes, self.out);
            }
            Request::Hello(hello) => self.hello(&ask, &hello),
            Request::Auth { user, password } => return self.auth(&ask, user, password),
            Request::Map { known_epoch } => {
                self.native.writer.map(self.node, &ask, known_epoch, self.out);
            }
            Request::Stats => self.ask_all(b"", Verb::Counters, ask),
            Request::GetMany(_) | Request::PutMany(_) | Request::InvalidateMany(_) => {
                unreachable!("batches are read item by item")
            }
        }
        None
    }

    /// Has a request on a key done, if the key and the value are such that they can be.
    #[inline]
    fn ask(&mut self, key: &[u8], value: &[u8], verb: Verb, ask: Ask) {
        let options = &self.native.options;
        if key.is_empty() || key.len() > options.key_bytes_max {
            self.native.writer.say_status(self.node, &ask, Status::KEY, self.out);
        } else if value.len() > options.value_bytes_max {
            self.native.writer.say_status(self.node, &ask, Status::TOO_LARGE, self.out);
        } else {
            self.call(Target::Owner, &Wish { key, value, verb }, ask);
        }
    }

    #[inline]
    fn call(&mut self, target: Target, wish: &Wish<'_>, ask: Ask) {
        let writer = &mut self.native.writer;
        match self.backend.call(target, wish, writer.next_ticket()) {
            Some(outcome) => writer.write(self.now, self.node, &ask, &outcome, self.out),
            None => writer.hold(ask),
        }
    }

    #[inline]
    fn expiry(&self, ttl_millis: u64) -> Expiry {
        match ttl_millis {
            0 => Expiry::Never,
            _ => Expiry::At(self.now.mono.plus_millis(ttl_millis)),
        }
    }

    fn hello(&mut self, ask: &Ask, hello: &frame::Hello<'_>) {
        let writer = &mut self.native.writer;
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            return writer.say_status(self.node, ask, Status::VERSION, self.out);
        }
        let options = &self.native.options;
        let limit = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let reply = HelloReply {
            version: VERSION,
            cores: self.node.core_count(),
            capabilities: hello.capabilities & CAPABILITIES,
            epoch: self.node.map.epoch,
            key_bytes_max: limit(options.key_bytes_max.min(KEY_BYTES_MAX)),
            value_bytes_max: limit(options.value_bytes_max),
            batch_items_max: u32::from(u16::MAX),
            awaited_max: AWAITED_MAX as u32,
            server: b"",
        };
        writer.hello(self.node, ask, &reply, self.out);
    }

    fn auth(&mut self, ask: &Ask, user: &[u8], password: &[u8]) -> Option<Next> {
        let user = if user.is_empty() { DEFAULT } else { user };
        let right = self.native.badge.admit_free(&mut *self.backend, self.now.mono, user, password);
        let status = if right { Status::OK } else { Status::DENIED };
        self.native.writer.say_status(self.node, ask, status, self.out);
        if !right && !self.native.authenticated() {
            self.native.wrong_auths += 1;
            if self.native.wrong_auths >= WRONG_AUTHS_MAX {
                return Some(Next::Close(Reason::Unauthenticated));
            }
        }
        None
    }

    /// Asks every core; each answers with a frame.
    fn ask_all(&mut self, key: &[u8], verb: Verb, ask: Ask) {
        let cores = self.node.core_count();
        let place = self.native.writer.open(cores);
        for core in 0..cores {
            let wish = Wish { key, value: b"", verb };
            self.call(Target::Core(CoreId(core)), &wish, Ask { batch: Some((place, core)), ..ask });
        }
    }

    fn begin_batch(&mut self, header: &Header, opcode: Opcode) -> Step {
        let crc = header.has_crc();
        if header.detail == 0 || header.key_len_or_status != 0 {
            self.count_command();
            self.native.writer.fault(self.node, header, Status::MALFORMED, self.out);
            self.skip_next(u64::from(header.body_len));
            return Step::On(HEADER_BYTES);
        }
        let count = header.detail;
        let checksum_len = if crc { CRC_BYTES } else { 0 };
        self.native.state = State::Batch(Batch {
            place: self.native.writer.open(count),
            id: header.id,
            opcode,
            crc,
            index: 0,
            count,
            left: u64::from(header.body_len) - checksum_len as u64,
            skip: 0,
        });
        Step::On(HEADER_BYTES)
    }

    /// An item of a batch, or the rest of one that was refused.
    #[inline]
    fn item(&mut self, rest: &[u8], mut batch: Batch) -> Step {
        if batch.skip > 0 {
            if rest.is_empty() {
                return more(1);
            }
            let taken = batch.skip.min(rest.len() as u64);
            batch.skip -= taken;
            batch.left -= taken;
            self.go_on(batch);
            return Step::On(taken as usize);
        }
        if let Some(next) = self.obstacle() {
            return Step::Stop(next);
        }
        let head_len = ItemHead::len_of(batch.opcode);
        if batch.left < head_len as u64 {
            return self.break_off(batch);
        }
        let Some(head) = ItemHead::read(batch.opcode, rest) else { return more(head_len) };
        let item_len = head.item_len();
        let last = batch.index + 1 == batch.count;
        if item_len > batch.left || (last && item_len < batch.left) {
            return self.break_off(batch);
        }
        let options = &self.native.options;
        let refusal = if head.key_len == 0 || head.key_len > options.key_bytes_max {
            Some(Status::KEY)
        } else if head.value_len > options.value_bytes_max {
            Some(Status::TOO_LARGE)
        } else {
            None
        };
        let ask = batch.ask();
        if let Some(status) = refusal {
            self.count_command();
            self.native.writer.say_status(self.node, &ask, status, self.out);
            batch.index += 1;
            batch.skip = item_len;
            self.go_on(batch);
            return Step::On(0);
        }
        // What is longer than a frame's body was refused above.
        let item_len = item_len as usize;
        if rest.len() < item_len {
            return more(item_len);
        }
        if self.foreseen == 0 && rest.len() > item_len {
            let mut keys = [&b""[..]; ahead::KEYS_MAX];
            let count = ahead::of_items(batch.opcode, batch.count - batch.index, rest, &mut keys);
            self.foresee(&keys[..count]);
        }
        self.foreseen = self.foreseen.saturating_sub(1);
        self.count_command();
        let (key, value) = rest[head_len..item_len].split_at(head.key_len);
        let verb = match batch.opcode {
            Opcode::PutMany => {
                let Meta { ttl_millis, flags, .. } = head.meta;
                Verb::Put(Put { flags, ..Put::plain(self.expiry(ttl_millis)) })
            }
            Opcode::InvalidateMany => Verb::Invalidate(Named::Key),
            _ => Verb::Get,
        };
        self.call(Target::Owner, &Wish { key, value, verb }, ask);
        batch.index += 1;
        batch.left -= item_len as u64;
        self.go_on(batch);
        Step::On(item_len)
    }

    #[inline]
    fn go_on(&mut self, batch: Batch) {
        if batch.index < batch.count || batch.skip > 0 {
            self.native.state = State::Batch(batch);
        } else {
            self.skip_next(batch.checksum_len());
        }
    }

    /// The next item of the batch makes no sense, and so does all behind it.
    #[cold]
    fn break_off(&mut self, batch: Batch) -> Step {
        self.count_command();
        self.native.writer.break_off(self.node, &batch.ask(), batch.count, self.out);
        self.skip_next(batch.left + batch.checksum_len());
        Step::On(0)
    }
}
