//! The writing half of a session: outcomes in, frames of replies out, each when it comes.

use super::frame::{
    CHECKED_BYTES_MAX, Frame, Header, HelloReply, MAGIC_REPLY, META_BYTES, MapOwner, MapRange, Meta, Opcode,
    Status, flags, lease, write_map,
};
use super::slab::Slab;
use crate::clock::Now;
use crate::ids::{CoreId, Version};
use crate::metrics::Counters;
use crate::request::{Answer, Expiry, Fault, Item, Outcome, Refusal, Value};
use crate::topology::Node;
use crate::wire::Output;

/// What a reply needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub id: u32,
    pub opcode: Opcode,
    /// The reply has a checksum.
    pub crc: bool,
    /// Of an item of a batch: the batch's place here, and the item's in the batch.
    pub batch: Option<(u32, u16)>,
    /// GET_NEWER: the version that the client knows.
    pub than: Version,
}

/// The replies of a batch that are still to be written.
struct Open {
    /// How many; the one that breaks the batch off is among them.
    left: u32,
    /// The item that made no sense, once there was one: its reply has to be the last.
    broken: Option<Ask>,
}

/// The writing half of a session.
pub(super) struct Writer {
    asks: Slab<Ask>,
    batches: Slab<Open>,
    /// Epoch of the map that the client was told last; 0: none.
    told_epoch: u64,
    /// Those of `asks` whose replies have values.
    values_awaited: usize,
    /// What each of them may bring: the largest of late, sinking slowly.
    value_bytes_expected: usize,
    errors: u64,
}

/// What a value is taken for before the first has come: enough that a new connection begins with few under way.
const VALUE_BYTES_FIRST: usize = 64 * 1024;
/// After so many smaller ones a large value is nearly forgotten.
const VALUE_MEMORY: usize = 64;

impl Ask {
    const fn has_value(&self) -> bool {
        matches!(self.opcode, Opcode::Get | Opcode::GetNewer | Opcode::GetMany | Opcode::LeaseGet)
    }
}

impl Writer {
    pub fn new() -> Self {
        Writer {
            asks: Slab::new(),
            batches: Slab::new(),
            told_epoch: 0,
            values_awaited: 0,
            value_bytes_expected: VALUE_BYTES_FIRST,
            errors: 0,
        }
    }

    /// Number of requests under way.
    #[inline]
    pub fn awaited(&self) -> usize {
        self.asks.len()
    }

    /// Bytes that the replies under way will probably have. They cannot be stopped any more, so they count before they come.
    #[inline]
    pub fn expected_bytes(&self) -> usize {
        self.values_awaited * self.value_bytes_expected
    }

    /// The ticket of the next request that is held.
    #[inline]
    pub fn next_ticket(&self) -> u32 {
        self.asks.next()
    }

    /// Remembers a request that was sent on with [`Writer::next_ticket`].
    pub fn hold(&mut self, ask: Ask) {
        self.values_awaited += usize::from(ask.has_value());
        self.asks.insert(ask);
    }

    /// Faults and errors since the last call.
    pub fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }

    /// Makes room for the replies of a batch; answers its place.
    pub fn open(&mut self, count: u16) -> u32 {
        self.batches.insert(Open { left: u32::from(count), broken: None })
    }

    /// Writes the reply of a request that was held.
    pub fn complete(&mut self, now: Now, node: &Node, ticket: u32, outcome: &Outcome<'_>, out: &mut Output) {
        let ask = self.asks.take(ticket).expect("outcomes come once, for tickets that were given");
        let before = out.total();
        self.write(now, node, &ask, outcome, out);
        if ask.has_value() {
            self.values_awaited -= 1;
            let sunk = self.value_bytes_expected - self.value_bytes_expected / VALUE_MEMORY;
            self.value_bytes_expected = sunk.max(out.total() - before);
        }
    }

    /// Writes the reply that an outcome means.
    #[inline]
    pub fn write(&mut self, now: Now, node: &Node, ask: &Ask, outcome: &Outcome<'_>, out: &mut Output) {
        match outcome.answer {
            Answer::Item(item) => self.item(now, node, ask, &item, &outcome.value, out),
            Answer::Stored { version, .. } => {
                self.say(node, ask, Status::OK, 0, &version.0.to_le_bytes(), out);
            }
            Answer::Miss => self.say_status(node, ask, Status::NOT_FOUND, out),
            Answer::Removed { .. } => self.say_status(node, ask, Status::OK, out),
            Answer::Touched(item) => {
                self.say(node, ask, Status::OK, 0, &meta_of(now, &item).to_bytes(), out);
            }
            Answer::Refused(_) if ask.opcode == Opcode::LeasePut => {
                self.say_status(node, ask, Status::LEASE_LOST, out);
            }
            Answer::Refused(refusal) => {
                let status = match refusal {
                    Refusal::Present => Status::EXISTS,
                    Refusal::Absent => Status::NOT_FOUND,
                    Refusal::Version | Refusal::Expiry => Status::VERSION_MISMATCH,
                };
                self.say_status(node, ask, status, out);
            }
            Answer::Page { .. } if ask.opcode == Opcode::Stats => self.stats(node, ask, &outcome.value, out),
            Answer::Number(count) if ask.opcode == Opcode::InvalidateAll => {
                self.say(node, ask, Status::OK, 0, &count.cast_unsigned().to_le_bytes(), out);
            }
            Answer::Fault(fault) => {
                let status = match fault {
                    Fault::TooLarge => Status::TOO_LARGE,
                    Fault::OutOfMemory => Status::OUT_OF_MEMORY,
                    Fault::Busy | Fault::Away => Status::BUSY,
                    Fault::Unsupported => Status::UNSUPPORTED,
                    Fault::Origin => Status::ORIGIN,
                    Fault::NotInteger | Fault::NotFloat | Fault::Overflow | Fault::NotFinite => {
                        Status::INTERNAL
                    }
                };
                self.say_status(node, ask, status, out);
            }
            Answer::Previous { .. } | Answer::Counted { .. } | Answer::Number(_) | Answer::Page { .. } => {
                self.say_status(node, ask, Status::INTERNAL, out);
            }
        }
    }

    #[inline]
    fn item(&mut self, now: Now, node: &Node, ask: &Ask, item: &Item, value: &Value<'_>, out: &mut Output) {
        let meta = meta_of(now, item).to_bytes();
        if ask.opcode == Opcode::GetNewer && item.version <= ask.than {
            return self.say(node, ask, Status::NOT_NEWER, 0, &meta, out);
        }
        let mut detail = 0;
        if ask.opcode == Opcode::LeaseGet {
            for (set, bit) in [
                (item.lease.won, lease::WON),
                (item.lease.stale, lease::STALE),
                (item.lease.taken && !item.lease.won, lease::TAKEN),
            ] {
                detail |= if set { bit } else { 0 };
            }
            // There is no value yet: a stale one could still be served, this cannot.
            if detail != 0 && detail & lease::STALE == 0 && value.is_empty() {
                return self.say(node, ask, Status::NOT_FOUND, detail, &meta, out);
            }
        }
        if matches!(value, Value::Shared(_)) {
            if !ask.crc {
                return self.long_item(node, ask, detail, &meta, value, out);
            }
            // A checksum is made over the bytes where they stand together, in one go.
            if value.len() > CHECKED_BYTES_MAX as usize {
                return self.say_status(node, ask, Status::TOO_LARGE, out);
            }
        }
        let value = value.bytes();
        out.reserve(super::HEADER_BYTES + META_BYTES + value.len() + super::CRC_BYTES);
        let frame = self.begin(node, ask, Status::OK, detail, out);
        out.extend_from_slice(&meta);
        out.extend_from_slice(value);
        self.end(node, ask, frame, out);
    }

    /// An item whose value is not copied.
    #[cold]
    fn long_item(
        &mut self,
        node: &Node,
        ask: &Ask,
        detail: u16,
        meta: &[u8],
        value: &Value<'_>,
        out: &mut Output,
    ) {
        let frame = self.begin(node, ask, Status::OK, detail, out);
        out.extend_from_slice(meta);
        frame.end_beside(value.len(), out);
        out.add(value);
        self.close(node, ask, out);
    }

    /// A core's counters, as lines.
    fn stats(&mut self, node: &Node, ask: &Ask, page: &Value<'_>, out: &mut Vec<u8>) {
        let counters = Counters::from_bytes(page.bytes());
        let frame = self.begin(node, ask, Status::OK, 0, out);
        let mut digits = itoa::Buffer::new();
        for ((name, _, _), value) in Counters::NAMES.iter().zip(counters.values()) {
            out.extend_from_slice(name.as_bytes());
            out.push(b' ');
            out.extend_from_slice(digits.format(value).as_bytes());
            out.push(b'\n');
        }
        self.end(node, ask, frame, out);
    }

    /// The reply to HELLO; the server's name is added here.
    pub fn hello(&mut self, node: &Node, ask: &Ask, reply: &HelloReply<'_>, out: &mut Vec<u8>) {
        self.told_epoch = reply.epoch;
        let frame = self.begin(node, ask, Status::OK, 0, out);
        reply.write(out);
        for part in ["foreshadow ", node.version, " ", &node.run_id] {
            out.extend_from_slice(part.as_bytes());
        }
        self.end(node, ask, frame, out);
    }

    /// The reply to MAP.
    pub fn map(&mut self, node: &Node, ask: &Ask, known_epoch: u64, out: &mut Vec<u8>) {
        let epoch = node.map.epoch;
        self.told_epoch = epoch;
        if known_epoch == epoch {
            return self.say_status(node, ask, Status::NOT_NEWER, out);
        }
        let frame = self.begin(node, ask, Status::OK, 0, out);
        let far: Vec<_> = node.cluster.iter().flat_map(|cluster| cluster.far_cores()).collect();
        let hosts: Vec<String> = far.iter().map(|(_, far)| far.address.ip().to_string()).collect();
        let own = (0..node.core_count()).map(|core| MapOwner {
            node: node.place_of(CoreId(core)).0 as u16,
            core,
            port: node.core_ports.get(usize::from(core)).copied().unwrap_or(0),
            address: b"",
        });
        let far = far.iter().zip(&hosts).map(|((_, far), host)| MapOwner {
            node: far.node as u16,
            core: far.core,
            port: far.address.port(),
            address: host.as_bytes(),
        });
        let owners: Vec<_> = own.chain(far).collect();
        let ranges = node.map.ranges();
        let ranges = ranges.iter().map(|range| MapRange {
            first: range.first.number(),
            last: range.last.number(),
            owner: range.owner.0,
        });
        write_map(epoch, owners.into_iter(), ranges, out);
        self.end(node, ask, frame, out);
    }

    /// A reply with these bytes.
    #[inline]
    pub fn say(
        &mut self,
        node: &Node,
        ask: &Ask,
        status: Status,
        detail: u16,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) {
        let frame = self.begin(node, ask, status, detail, out);
        out.extend_from_slice(bytes);
        self.end(node, ask, frame, out);
    }

    /// A reply that is only a status, and for faults a text.
    #[inline]
    pub fn say_status(&mut self, node: &Node, ask: &Ask, status: Status, out: &mut Vec<u8>) {
        self.say(node, ask, status, 0, text(status), out);
    }

    /// A fault of a frame that may not even have an opcode we know.
    #[cold]
    pub fn fault(&mut self, node: &Node, header: &Header, status: Status, out: &mut Vec<u8>) {
        self.errors += 1;
        let flags = header.flags & flags::CRC | self.new_map(node);
        let frame = Frame::begin(MAGIC_REPLY, header.opcode, flags, header.id, status.0, 0, out);
        out.extend_from_slice(text(status));
        frame.end(out);
    }

    /// The last frame of a connection that went wrong.
    #[cold]
    pub fn hang_up(&mut self, status: Status, out: &mut Vec<u8>) {
        self.errors += 1;
        let frame = Frame::begin(MAGIC_REPLY, 0, 0, 0, status.0, 0, out);
        out.extend_from_slice(text(status));
        frame.end(out);
    }

    /// The batch of `ask` ends with this item, which makes no sense: one last reply stands for it and all behind it.
    #[cold]
    pub fn break_off(&mut self, node: &Node, ask: &Ask, count: u16, out: &mut Vec<u8>) {
        let Some((place, index)) = ask.batch else { return };
        let open = self.batches.of(place).expect("a batch is open until its last reply is written");
        open.left -= u32::from(count - index) - 1;
        if open.left == 1 {
            self.say_status(node, ask, Status::MALFORMED, out);
        } else {
            open.broken = Some(*ask);
        }
    }

    fn new_map(&self, node: &Node) -> u8 {
        if self.told_epoch != 0 && self.told_epoch != node.map.epoch { flags::NEW_MAP } else { 0 }
    }

    #[inline]
    fn begin(&mut self, node: &Node, ask: &Ask, status: Status, detail: u16, out: &mut Vec<u8>) -> Frame {
        let mut flags = if ask.crc { flags::CRC } else { 0 } | self.new_map(node);
        let mut detail = detail;
        if !status.is_answer() {
            self.errors += 1;
        }
        if let Some((place, index)) = ask.batch {
            detail = index;
            let open = self.batches.of(place).expect("a batch is open until its last reply is written");
            open.left -= 1;
            if open.left > 0 {
                flags |= flags::MORE;
            }
        }
        Frame::begin(MAGIC_REPLY, ask.opcode as u8, flags, ask.id, status.0, detail, out)
    }

    #[inline]
    fn end(&mut self, node: &Node, ask: &Ask, frame: Frame, out: &mut Vec<u8>) {
        frame.end(out);
        self.close(node, ask, out);
    }

    /// Counts a reply of a batch, if it is one.
    #[inline(always)]
    fn close(&mut self, node: &Node, ask: &Ask, out: &mut Vec<u8>) {
        let Some((place, _)) = ask.batch else { return };
        let Some(open) = self.batches.of(place) else { return };
        match (open.left, open.broken.take()) {
            (0, _) => drop(self.batches.take(place)),
            (1, Some(broken)) => self.say_status(node, &broken, Status::MALFORMED, out),
            (_, broken) => open.broken = broken,
        }
    }
}

#[inline]
fn meta_of(now: Now, item: &Item) -> Meta {
    let ttl_millis = match item.expiry {
        Expiry::Never => 0,
        Expiry::At(at) => now.millis_until(at).max(1),
    };
    Meta { ttl_millis, version: item.version, flags: item.flags }
}

/// What people are told of a fault.
fn text(status: Status) -> &'static [u8] {
    match status {
        Status::MALFORMED => b"the body does not fit the opcode",
        Status::UNSUPPORTED => b"no such request here",
        Status::KEY => b"the key is empty or too long",
        Status::TOO_LARGE => b"over a limit, see HELLO",
        Status::UNAUTHENTICATED => b"AUTH first",
        Status::DENIED => b"wrong user or password",
        Status::OUT_OF_MEMORY => b"no room, and nothing left to evict",
        Status::BUSY => b"too much to do",
        Status::INTERNAL => b"an answer that does not fit the request",
        Status::ORIGIN => b"the origin failed",
        Status::VERSION => b"only version 1 is spoken here",
        Status::MAGIC => b"not a native frame",
        Status::FRAME_VERSION => b"not a frame of version 1",
        Status::FLAGS => b"a flag that requests do not have",
        Status::CRC => b"wrong checksum",
        Status::FRAME_SIZE => b"the body is too long",
        _ => b"",
    }
}
