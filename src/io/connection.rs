//! What a socket needs beside its session: input that waits, output on its way, and what is armed in the ring.

use crate::clock::Mono;
use crate::ids::ConnectionId;
use crate::wire::Session;
use socket2::Socket;

/// Capacity that an empty buffer of a connection may keep.
const KEEP_BYTES: usize = 64 << 10;

/// One connection.
///
/// Invariant: while `in_flight`, `sending` is neither changed nor dropped, because the kernel reads it.
pub struct Connection {
    pub id: ConnectionId,
    pub socket: Socket,
    pub session: Session,
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
    pub fn new(id: ConnectionId, socket: Socket, session: Session, accepted: Mono) -> Connection {
        Connection {
            id,
            socket,
            session,
            input: Vec::new(),
            input_start: 0,
            needed: 1,
            stage: Stage::Reading,
            receiving: Receiving::Off,
            ended: false,
            closing: false,
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
        }
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

    /// Swaps what the session wrote into the sending buffer, if that is free and there is something.
    pub fn stage_output(&mut self) -> bool {
        if self.in_flight || self.session.output().is_empty() {
            return false;
        }
        debug_assert!(self.sending.is_empty());
        std::mem::swap(&mut self.sending, self.session.output());
        self.sent = 0;
        true
    }

    /// Takes in how much was sent; answers whether all was.
    pub fn was_sent(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        if self.sent < self.sending.len() {
            return false;
        }
        self.sending.clear();
        self.sending.shrink_to(KEEP_BYTES);
        self.in_flight = false;
        true
    }

    /// Whether everything there was to say is said and the connection is to go.
    pub fn finished(&mut self) -> bool {
        let no_more = self.closing || (self.ended && self.stage == Stage::Reading);
        no_more && !self.in_flight && self.session.awaited() == 0 && self.session.output().is_empty()
    }

    /// Bytes in its buffers. Capacity beyond them was never touched, so it is no memory yet.
    pub fn buffer_bytes(&self) -> usize {
        self.input.len() + self.sending.len() + self.session.output_bytes()
    }
}
