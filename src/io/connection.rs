//! What a socket needs beside its session: input that waits, output on its way, and what is armed in the ring.

use crate::clock::Mono;
use crate::ids::ConnectionId;
use crate::io::tls::Channel;
use crate::wire::Session;
use socket2::Socket;

/// Capacity that an empty buffer of a connection may keep.
pub(super) const KEEP_BYTES: usize = 64 << 10;

/// One connection.
///
/// Invariant: while `in_flight`, `sending` is neither changed nor dropped, because the kernel reads it.
pub struct Connection {
    pub id: ConnectionId,
    pub socket: Socket,
    pub session: Session,
    /// Where what is sent and received is sealed.
    pub tls: Option<Box<Channel>>,
    /// Bytes received and not consumed: `input[input_start..]`.
    pub input: Vec<u8>,
    pub input_start: usize,
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
            needed: 1,
            stage: Stage::Reading,
            receiving: Receiving::Off,
            ended: false,
            closing: false,
            cut: false,
            dying: false,
            sending: Vec::new(),
            sent: 0,
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

    /// Bytes received and not consumed.
    #[inline]
    pub fn waiting_bytes(&self) -> usize {
        self.input.len() - self.input_start
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
        match &self.tls {
            None => !self.session.output().is_empty(),
            Some(tls) => {
                tls.has_outgoing() || tls.ready() && !tls.ended() && !self.session.output().is_empty()
            }
        }
    }

    /// Whether what there is to send is little, and more will follow as soon as another core has answered.
    #[inline]
    pub fn may_be_held(&mut self, bytes_max: usize) -> bool {
        !self.in_flight
            && self.session.has_gap()
            && !(self.closing || self.ended || self.cut)
            && self.session.output().len() < bytes_max
    }

    /// Swaps what the session wrote into the sending buffer (or seals it there), if that is free and there is something.
    pub fn stage_output(&mut self) -> bool {
        if self.in_flight || !self.has_output() {
            return false;
        }
        debug_assert!(self.sending.is_empty());
        match &mut self.tls {
            None => std::mem::swap(&mut self.sending, self.session.output()),
            Some(tls) => {
                if tls.has_outgoing() {
                    std::mem::swap(&mut self.sending, tls.outgoing());
                }
                let plain = self.session.output();
                if tls.ready() && !tls.ended() && !plain.is_empty() {
                    // Keys that are used up end the connection; what could not be sealed is lost with it.
                    self.cut |= tls.seal_all(plain, &mut self.sending).is_err();
                    plain.shrink_to(KEEP_BYTES);
                }
            }
        }
        self.sent = 0;
        !self.sending.is_empty()
    }

    /// Takes in how much was sent; answers whether all was.
    pub fn was_sent(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        if self.sent < self.sending.len() {
            return false;
        }
        self.sending.clear();
        self.in_flight = false;
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
            return self.session.awaited() == 0 && self.session.output().is_empty();
        };
        if !tls.ended() && self.session.awaited() == 0 && self.session.output().is_empty() {
            tls.end();
        }
        tls.ended() && !tls.has_outgoing()
    }

    /// Whether bytes have come that are no complete TLS record.
    #[inline]
    pub fn midway_sealed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.waiting_bytes() > 0)
    }

    /// Bytes in its buffers. Capacity beyond them was never touched, so it is no memory yet, or is that of a spare buffer, which is
    /// short ([`super::core::SPARE_BYTES_MAX`]) and at least a quarter full.
    pub fn buffer_bytes(&self) -> usize {
        let sealed = self.tls.as_ref().map_or(0, |tls| tls.buffer_bytes());
        self.input.len() + self.sending.len() + self.session.output_bytes() + sealed
    }
}
