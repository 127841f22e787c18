//! What a socket needs beside its session: input that waits, output on its way, and what is armed in the ring.

use crate::clock::Mono;
use crate::engine::Fate;
use crate::ids::{ConnectionId, CoreId};
use crate::io::tls::Channel;
use crate::request::Shared;
use crate::store::Incoming;
use crate::wire::Session;
use socket2::Socket;

/// Capacity that an empty buffer of a connection may keep.
pub(super) const KEEP_BYTES: usize = 64 << 10;

/// What of a long value is sent at once, and what of it is sealed at once: copying it takes some 50 us either way.
pub(super) const VALUE_PIECE_BYTES: usize = 256 << 10;
const SEALED_PIECE_BYTES: usize = 64 << 10;

/// Commands from here on are received into memory that the store can take over.
pub(super) const LONG_COMMAND_BYTES: usize = 1 << 20;

/// One connection.
///
/// Invariants: while `in_flight`, `sending` and `value` are neither changed nor dropped, because the kernel reads them; while
/// `receiving` a piece, `long` is neither, because the kernel writes there.
pub struct Connection {
    pub id: ConnectionId,
    pub socket: Socket,
    pub session: Session,
    /// Where what is sent and received is sealed.
    pub tls: Option<Box<Channel>>,
    /// Bytes received and not consumed: `input[input_start..]`.
    pub input: Vec<u8>,
    pub input_start: usize,
    /// A long command that is being received, in front of `input`.
    pub long: Option<LongCommand>,
    /// Input bytes below which the session need not be asked.
    pub needed: usize,
    pub stage: Stage,
    pub receiving: Receiving,
    /// The client sends no more (half-closed or gone).
    pub ended: bool,
    /// To be closed when everything is sent.
    pub closing: bool,
    /// To be closed at once: of what is left to be said, only what the socket takes without waiting is sent.
    pub cut: bool,
    /// Shut down; waits only for its operations to complete.
    pub dying: bool,
    pub sending: Vec<u8>,
    pub sent: usize,
    /// The long value that is next to be sent from where it lies, behind `sending`.
    pub value: Option<LongValue>,
    pub in_flight: bool,
    /// Stands in the core's list of those with output.
    pub dirty: bool,
    /// Stands in the core's list of those to be served again.
    pub runnable: bool,
    /// When the command that is not complete yet began to come.
    pub unfinished_since: Option<Mono>,
    /// Bytes received since then.
    pub unfinished_bytes: u64,
    pub accepted: Mono,
    /// Bytes of its buffers as last counted.
    pub counted_bytes: usize,
    /// Bytes of output among them.
    pub counted_output_bytes: usize,
    /// The turn in which it was served last, and the commands that were done for it there.
    pub served_turn: u64,
    pub served_commands: u64,
    /// The core of another node that it is a link to: no session reads it.
    pub link: Option<CoreId>,
}

/// A command that is received into memory of its own.
#[derive(Debug)]
pub struct LongCommand {
    pub incoming: Incoming,
    /// What became of that memory so far.
    pub fate: Fate,
}

/// A value that is sent piece by piece from where the store has it.
#[derive(Debug)]
pub struct LongValue {
    value: Shared,
    /// Where the present piece begins and ends.
    from: usize,
    to: usize,
}

impl LongValue {
    /// The next piece; `None` at the end.
    fn next_piece(&mut self, bytes_max: usize) -> Option<&[u8]> {
        self.from = self.to;
        self.to = self.value.len().min(self.from + bytes_max);
        (self.from < self.to).then(|| self.piece())
    }

    fn piece(&self) -> &[u8] {
        &self.value.bytes()[self.from..self.to]
    }

    fn left(&self) -> usize {
        self.value.len() - self.from
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// More input.
    Reading,
    /// Its next turn.
    Yielded,
    /// Its client to take replies, or other cores.
    Blocked,
}

/// Whether the receive operation is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    On,
    /// For one piece of a long command, into its own memory.
    Piece,
    /// Cancelled, the last completion is awaited.
    Stopping,
    Off,
}

impl Connection {
    pub fn new(
        id: ConnectionId,
        socket: Socket,
        session: Session,
        tls: Option<Box<Channel>>,
        accepted: Mono,
    ) -> Connection {
        Connection {
            id,
            socket,
            session,
            tls,
            input: Vec::new(),
            input_start: 0,
            long: None,
            needed: 1,
            stage: Stage::Reading,
            receiving: Receiving::Off,
            ended: false,
            closing: false,
            cut: false,
            dying: false,
            sending: Vec::new(),
            sent: 0,
            value: None,
            in_flight: false,
            dirty: false,
            runnable: false,
            unfinished_since: None,
            unfinished_bytes: 0,
            accepted,
            counted_bytes: 0,
            counted_output_bytes: 0,
            served_turn: 0,
            served_commands: 0,
            link: None,
        }
    }

    /// Takes in that commands were done in a turn; whether those that come in more pieces in the same turn are to wait for
    /// the next one.
    #[inline]
    pub fn has_had_its_share(&mut self, turn: u64, commands: u64) -> bool {
        if self.served_turn != turn {
            (self.served_turn, self.served_commands) = (turn, 0);
        }
        self.served_commands += commands;
        self.served_commands >= self.session.commands_per_turn() as u64
    }

    /// Whether what comes next belongs to a long command and can be written where it stays.
    #[inline]
    pub fn receives_in_place(&self) -> bool {
        self.tls.is_none()
            && self.stage == Stage::Reading
            && self.long.as_ref().is_some_and(|long| long.incoming.len() < self.needed)
    }

    /// Bytes received and not consumed.
    #[inline]
    pub fn waiting_bytes(&self) -> usize {
        self.input.len() - self.input_start + self.long.as_ref().map_or(0, |long| long.incoming.len())
    }

    /// Drops consumed bytes from the front of the input.
    pub fn consume(&mut self, bytes: usize) {
        self.input_start += bytes;
        if self.input_start == self.input.len() {
            self.input.clear();
            self.input_start = 0;
            self.input.shrink_to(KEEP_BYTES);
        } else if self.input_start > self.input.len() / 2 {
            self.input.drain(..self.input_start);
            self.input_start = 0;
        }
    }

    /// Whether there is anything that could be sent.
    #[inline]
    pub fn has_output(&mut self) -> bool {
        let unsaid = self.has_unsaid();
        match &self.tls {
            None => unsaid,
            Some(tls) => tls.has_outgoing() || tls.ready() && !tls.ended() && unsaid,
        }
    }

    /// Whether there are replies that were not given to the kernel.
    #[inline]
    pub fn has_unsaid(&mut self) -> bool {
        !self.session.output().is_empty() || self.value.is_some()
    }

    /// Of those, what is gone from its store: it is kept for this reader.
    pub fn gone_bytes(&mut self) -> usize {
        let sending =
            self.value.as_ref().map_or(0, |long| if long.value.is_gone() { long.value.len() } else { 0 });
        self.session.output().gone_bytes() + sending
    }

    /// Whether what it sends next is so much, or a piece of a long value.
    pub fn has_long_output(&mut self, bytes_min: usize) -> bool {
        self.value.is_some() || self.session.output().len() >= bytes_min
    }

    /// Bytes of long values that it has to send: not its own memory, but memory that cannot be used anew until they are sent.
    pub fn value_bytes(&mut self) -> usize {
        self.session.output().value_bytes() + self.value.as_ref().map_or(0, LongValue::left)
    }

    /// Whether what there is to send is little, and more will follow as soon as another core has answered.
    #[inline]
    pub fn may_be_held(&mut self, bytes_max: usize) -> bool {
        !self.in_flight
            && self.session.has_gap()
            && self.value_bytes() == 0
            && !(self.closing || self.ended || self.cut)
            && self.session.output().len() < bytes_max
    }

    /// Swaps what the session wrote into the sending buffer (or seals it there), if that is free and there is something.
    pub fn stage_output(&mut self) -> bool {
        if self.in_flight || !self.has_output() {
            return false;
        }
        debug_assert!(self.sending.is_empty());
        self.sent = 0;
        let output = self.session.output();
        if self.value.is_some() || output.value_bytes() > 0 {
            self.stage_values();
            return !self.to_send().is_empty();
        }
        match &mut self.tls {
            None => std::mem::swap(&mut self.sending, &mut *output),
            Some(tls) => {
                if tls.has_outgoing() {
                    std::mem::swap(&mut self.sending, tls.outgoing());
                }
                if tls.ready() && !tls.ended() && !output.is_empty() {
                    // Keys that are used up end the connection; what could not be sealed is lost with it.
                    self.cut |= tls.seal_all(output, &mut self.sending).is_err();
                    output.shrink_to(KEEP_BYTES);
                }
            }
        }
        !self.sending.is_empty()
    }

    /// Stages the next bytes where a long value is among them: what comes before it, or a piece of it.
    #[cold]
    fn stage_values(&mut self) {
        let Some(tls) = &mut self.tls else {
            if self.value.is_none() {
                self.value = long(self.session.output().take_run(&mut self.sending));
            }
            if let Some(value) = &mut self.value
                && value.next_piece(VALUE_PIECE_BYTES).is_none()
            {
                self.value = None;
                self.stage_values();
            }
            return;
        };
        if tls.has_outgoing() {
            std::mem::swap(&mut self.sending, tls.outgoing());
        }
        while tls.ready() && !tls.ended() && self.sending.len() < SEALED_PIECE_BYTES {
            let sealed = match &mut self.value {
                Some(value) => match value.next_piece(SEALED_PIECE_BYTES) {
                    Some(piece) => tls.seal(piece, &mut self.sending),
                    None => {
                        self.value = None;
                        continue;
                    }
                },
                None if self.session.output().is_empty() => return,
                None => {
                    let mut run = Vec::new();
                    self.value = long(self.session.output().take_run(&mut run));
                    tls.seal(&run, &mut self.sending)
                }
            };
            self.cut |= sealed.is_err();
        }
    }

    /// What the kernel is to send, or is sending.
    pub fn to_send(&self) -> &[u8] {
        match &self.value {
            Some(value) if self.sending.is_empty() => &value.piece()[self.sent..],
            _ => &self.sending[self.sent..],
        }
    }

    /// Takes in how much was sent; answers whether all was.
    pub fn was_sent(&mut self, bytes: usize) -> bool {
        let left = self.to_send().len() - bytes;
        self.sent += bytes;
        if left > 0 {
            return false;
        }
        self.sending.clear();
        self.sent = 0;
        self.in_flight = false;
        if self.value.as_mut().is_some_and(|value| value.to == value.value.len()) {
            self.value = None;
        }
        true
    }

    /// Whether everything there was to say is said and the connection is to go. Over TLS a farewell comes last: then there
    /// is output once more.
    pub fn finished(&mut self) -> bool {
        let no_more = self.closing || (self.ended && self.stage == Stage::Reading);
        if !no_more || self.in_flight {
            return false;
        }
        let Some(tls) = &mut self.tls else {
            return self.session.awaited() == 0 && !self.has_unsaid();
        };
        let unsaid = !self.session.output().is_empty() || self.value.is_some();
        if !tls.ended() && self.session.awaited() == 0 && !unsaid {
            tls.end();
        }
        tls.ended() && !tls.has_outgoing()
    }

    /// Whether bytes have come that are no complete TLS record.
    #[inline]
    pub fn midway_sealed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.waiting_bytes() > 0)
    }

    /// Bytes in its buffers; values that lie in a store are that one's. Capacity beyond them was never touched, so it is no memory
    /// yet, or is that of a spare buffer, which is short ([`super::core::SPARE_BYTES_MAX`]) and at least a quarter full.
    pub fn buffer_bytes(&self) -> usize {
        let sealed = self.tls.as_ref().map_or(0, |tls| tls.buffer_bytes());
        self.input.len() + self.sending.len() + self.session.output_bytes() + sealed
    }
}

fn long(value: Option<Shared>) -> Option<LongValue> {
    value.map(|value| LongValue { value, from: 0, to: 0 })
}
