//! Bytes from connections, and what their sessions make of them.

use super::works::{Desk, Works};
use super::{Core, TURN_OUTPUT_BYTES_MAX};
use crate::clock::{Mono, Now};
use crate::engine::Fate;
use crate::ids::ConnectionId;
use crate::io::connection::{
    Connection, LONG_COMMAND_BYTES, LongCommand, Receiving, Stage, VALUE_PIECE_BYTES,
};
use crate::io::ring::{Completion, Kind};
use crate::io::tls::common_name;
use crate::store::{APPROACH_MAX, Incoming};
use crate::wire::{Next, Progress, Reason};
use std::os::fd::AsRawFd;

/// A piece of a long command is this part of what buffers may have, one in so many, within these bounds: memory is held for it
/// before it comes.
const PIECES_OF_BUFFERS: u64 = 128;
const PIECE_BYTES_MIN: usize = 16 << 10;

/// Input that may pile up behind a connection that waits before its receiving is stopped.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// The store is told of buffers that grow or shrink by more than this.
const LENT_STEP_BYTES: u64 = 64 << 10;
/// Steps of housekeeping for what one connection sent at once, as long as buffers make the store hold too much: a step makes
/// room for some 10 KiB even where items are short, and a receive brings 16 KiB.
const RELIEF_STEPS_MAX: usize = 3;

impl Core {
    pub(super) fn received(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(connection) = self.table.of(id) else {
            if let Some(buffer) = completion.buffer() {
                self.buffers.give_back(buffer);
            }
            return;
        };
        if !completion.more() {
            connection.receiving = Receiving::Off;
        }
        if completion.result > 0 {
            let bytes = completion.result as usize;
            let counters = &mut self.works.engine.counters;
            counters.received_bytes_total += bytes as u64;
            let Some(buffer) = completion.buffer() else {
                self.received_in_place(now, id, bytes);
                return;
            };
            if connection.link.is_some() {
                connection.input.extend_from_slice(self.buffers.piece(buffer, bytes));
                self.buffers.give_back(buffer);
                self.link_received(now, id);
                self.settle(now, id);
                return;
            }
            if !connection.dying && !connection.closing {
                if connection.tls.is_some() {
                    open(&mut self.works, connection, now, self.buffers.piece_mut(buffer, bytes));
                } else {
                    take_in(&mut self.works, connection, now, self.buffers.piece(buffer, bytes));
                }
            }
            self.buffers.give_back(buffer);
        } else if -completion.result == libc::ENOBUFS {
            self.works.engine.counters.buffers_exhausted_total += 1;
        } else if -completion.result != libc::ECANCELED {
            // 0 is the end of what the client sends, anything else the end of the connection.
            connection.ended = true;
            if completion.result < 0 {
                connection.closing = true;
                self.kill(id);
                return;
            }
        }
        self.settle(now, id);
        if self.lent_bytes > 0 || self.works.engine.receives() {
            self.relieve(now);
        }
    }

    /// Takes in bytes of a long command that the kernel wrote where they stay.
    #[cold]
    fn received_in_place(&mut self, now: Now, id: ConnectionId, bytes: usize) {
        let Some(connection) = self.table.of(id) else { return };
        if let Some(long) = &mut connection.long {
            self.works.engine.received(&mut long.incoming, bytes);
            connection.unfinished_bytes += bytes as u64;
            let complete = long.incoming.len() >= connection.needed;
            if complete && connection.stage == Stage::Reading && !connection.dying && !connection.closing {
                serve_from(&mut self.works, connection, now, None);
            }
        }
        self.settle(now, id);
        self.relieve(now);
    }

    /// Has the memory fetched that the only commands of several connections will need, as a pipeline's are: so their waits
    /// overlap.
    pub(super) fn look_ahead(&mut self, completions: &[Completion]) {
        if completions.len() < 2 {
            return;
        }
        let mut keys = [&b""[..]; APPROACH_MAX];
        let mut count = 0;
        for completion in completions.iter().take(APPROACH_MAX) {
            if completion.kind != Kind::Receive || completion.result <= 0 {
                continue;
            }
            if let Some(buffer) = completion.buffer()
                && let Some(connection) = self.table.of(completion.id)
                && connection.tls.is_none()
                && connection.stage == Stage::Reading
                && connection.waiting_bytes() == 0
                && let Some(key) =
                    connection.session.sole_key(self.buffers.piece(buffer, completion.result as usize))
            {
                keys[count] = key;
                count += 1;
            }
        }
        if count > 1 {
            self.works.expect(&keys[..count]);
        }
    }

    /// Has the store make room for what came into buffers, so that both together stay within the limit.
    fn relieve(&mut self, now: Now) {
        if self.works.engine.receives_much() {
            self.drop_longest_command();
        }
        if self.works.engine.withholds_much() {
            self.reclaim_withheld(now);
        }
        for _ in 0..RELIEF_STEPS_MAX {
            if !self.works.engine.is_over() {
                return;
            }
            self.works.engine.tick(now);
        }
    }

    /// Sees to everything that may have to change after a connection was served, received or sent.
    pub(super) fn settle(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.dying {
            self.bury(id);
            return;
        }
        if connection.cut {
            say_last_words(connection);
            self.kill(id);
            return;
        }
        if connection.ended && self.origins.waits(id) {
            // Nobody is left for whom the origin would have to wait.
            self.kill(id);
            return;
        }
        let output = connection.has_output();
        if output && !connection.in_flight && !connection.dirty {
            connection.dirty = true;
            self.turn_output_bytes += connection.session.output().len();
            self.dirty.push(id);
        }
        if connection.stage == Stage::Yielded && !connection.runnable {
            connection.runnable = true;
            self.runnable.push(id);
        }
        let waiting = connection.waiting_bytes();
        let midway = waiting > 0 || connection.midway_sealed();
        if connection.stage == Stage::Reading && midway && !connection.closing {
            connection.unfinished_since.get_or_insert(now.mono);
        }
        let too_far_ahead = connection.stage != Stage::Reading && waiting > READ_AHEAD_BYTES;
        match connection.receiving {
            Receiving::On if too_far_ahead || connection.receives_in_place() => {
                connection.receiving = Receiving::Stopping;
                self.works.engine.counters.backpressure_total += u64::from(too_far_ahead);
                self.ring.stop_receiving(id);
            }
            Receiving::Off if !too_far_ahead && !connection.ended && !connection.closing => {
                // Not at once: when buffers had run out, those of this turn are not all given back yet.
                self.rearm.push(id);
            }
            _ => {}
        }
        if (midway || connection.counted_bytes > 0 || output) && !self.weigh(id) {
            return;
        }
        self.end_if_finished(id);
    }

    /// Closes a connection that has nothing more to say; over TLS it says farewell first.
    pub(super) fn end_if_finished(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.finished() {
            self.kill(id);
        } else if connection.tls.is_some()
            && !connection.in_flight
            && !connection.dirty
            && connection.has_output()
        {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Counts what a connection's buffers hold against the limits; `false` if that was the end of it.
    ///
    /// A reply may be as long as a value, so the hard limit does not judge the newest one: a client is closed when there was
    /// too much before it came.
    pub(super) fn weigh(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.table.of(id) else { return false };
        let bytes = connection.buffer_bytes();
        self.buffer_bytes =
            (self.buffer_bytes + bytes as u64).saturating_sub(connection.counted_bytes as u64);
        connection.counted_bytes = bytes;
        self.works.tight = self.buffer_bytes > self.options.buffer_bytes_max / 3;
        self.works.engine.strained |= self.works.tight;
        let output = connection.session.output_bytes() + connection.sending.len();
        let before = std::mem::replace(&mut connection.counted_output_bytes, output);
        if output > before && before > self.options.output_hard_bytes {
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
            return false;
        }
        self.lend();
        if self.buffer_bytes > self.options.buffer_bytes_max {
            self.drop_largest();
        }
        self.table.of(id).is_some_and(|connection| !connection.dying)
    }

    /// Has the store leave room for what buffers and requests on their way to other cores hold. What they held is likely to be wanted
    /// again, faster than the store could make room for it anew, so it has that back only bit by bit ([`Core::lend_less`]).
    #[inline]
    pub(super) fn lend(&mut self) {
        let bytes = self.borrowed();
        if bytes > self.lent_bytes + LENT_STEP_BYTES {
            self.lent_bytes = bytes;
            self.works.engine.lend(bytes);
            self.due.engine = Mono(0);
        }
    }

    /// Gives the store back half of what nobody has wanted of late.
    pub(super) fn lend_less(&mut self) {
        let unused = self.lent_bytes.saturating_sub(self.borrowed());
        if unused > 0 {
            self.lent_bytes -= if unused > LENT_STEP_BYTES { unused / 2 } else { unused };
            self.works.engine.lend(self.lent_bytes);
        }
    }

    fn borrowed(&self) -> u64 {
        self.buffer_bytes + self.works.mesh.long_bytes() as u64
    }

    pub(super) fn rearm_receivers(&mut self, now: Now) {
        self.release_held_back();
        for id in std::mem::take(&mut self.rearm) {
            let Some(connection) = self.table.of(id) else { continue };
            if connection.receiving == Receiving::Off && !connection.dying && !connection.ended {
                if connection.receives_in_place() && self.is_held_back(id) {
                    continue;
                }
                let Some(connection) = self.table.of(id) else { continue };
                if connection.receives_in_place() && self.works.engine.is_over() {
                    // Room first: a piece is more than the steps behind it would make.
                    self.relieve(now);
                    self.rearm.push(id);
                    continue;
                }
                let socket = connection.socket.as_raw_fd();
                if connection.receives_in_place()
                    && let Some(long) = &mut connection.long
                {
                    let piece = (self.options.buffer_bytes_max / PIECES_OF_BUFFERS) as usize;
                    let piece = piece.clamp(PIECE_BYTES_MIN, VALUE_PIECE_BYTES);
                    let wanted = (connection.needed - long.incoming.len()).min(piece);
                    let place = self.works.engine.place(&mut long.incoming, wanted);
                    if !place.is_empty() {
                        connection.receiving = Receiving::Piece;
                        self.ring.receive_into(socket, id, place);
                        continue;
                    }
                }
                connection.receiving = Receiving::On;
                self.ring.receive(socket, id);
            }
        }
    }

    /// Whether a long command is to wait with its next piece: as long as all that are coming have much of the memory, one goes on
    /// until all of it is there, and the others follow. So those that fit one by one are not closed for coming at once.
    fn is_held_back(&mut self, id: ConnectionId) -> bool {
        if !self.works.engine.receives_plenty() {
            self.long_turn = None;
            return false;
        }
        let first = match self.long_turn.filter(|&(first, _)| self.long_len(first).is_some()) {
            Some((first, _)) => first,
            None => {
                self.long_turn = self.long_len(id).map(|len| (id, len));
                id
            }
        };
        if first == id {
            return false;
        }
        self.held_back.push(id);
        true
    }

    /// Bytes of a long command that have come, if there is one and its connection goes on.
    fn long_len(&mut self, id: ConnectionId) -> Option<usize> {
        let connection = self.table.of(id).filter(|connection| !connection.dying && !connection.closing)?;
        Some(connection.long.as_ref()?.incoming.len())
    }

    /// Has those go on that were held back, as soon as there is room again or nobody whose turn it is.
    fn release_held_back(&mut self) {
        if self.held_back.is_empty() {
            return;
        }
        let goes_on = self.long_turn.is_some_and(|(first, _)| self.long_len(first).is_some());
        if !goes_on || !self.works.engine.receives_plenty() {
            self.rearm.append(&mut self.held_back);
        }
    }

    /// Takes the turn from one of whom nothing has come since this was asked last.
    pub(super) fn pass_long_turn(&mut self) {
        let Some((first, before)) = self.long_turn else { return };
        let now = self.long_len(first);
        self.long_turn = now.filter(|&now| now > before || self.held_back.is_empty()).map(|now| (first, now));
        self.release_held_back();
    }

    pub(super) fn serve_runnable(&mut self, now: Now) -> bool {
        if self.runnable.is_empty() {
            return false;
        }
        // Those that yield again are put behind, for the next turn; and so are those for whom long replies of others leave no
        // room, but one has its turn whatever those were.
        let mut runnable = std::mem::take(&mut self.runnable).into_iter();
        for id in runnable.by_ref() {
            let Some(connection) = self.table.of(id) else { continue };
            connection.runnable = false;
            if connection.dying || connection.closing || connection.link.is_some() {
                continue;
            }
            let before = connection.session.output().len();
            serve_from(&mut self.works, connection, now, None);
            if connection.dirty {
                // What others have is counted where they become dirty.
                self.turn_output_bytes += connection.session.output().len() - before;
            }
            self.settle(now, id);
            if self.turn_output_bytes >= TURN_OUTPUT_BYTES_MAX {
                break;
            }
        }
        let yielded = std::mem::replace(&mut self.runnable, runnable.collect());
        self.runnable.extend(yielded);
        true
    }

    /// A connection that was blocked may go on: its replies were taken, or outcomes came.
    pub(super) fn unblock(&mut self, id: ConnectionId) {
        if let Some(connection) = self.table.of(id)
            && connection.stage == Stage::Blocked
            && !connection.runnable
        {
            connection.runnable = true;
            self.runnable.push(id);
        }
    }
}

/// Sends as much of what is left to be said as the socket takes at once, without waiting: one whose connection is cut is told
/// why, if there is room for it.
#[cold]
pub(super) fn say_last_words(connection: &mut Connection) {
    // Behind a send under way nothing may go out by another one.
    if !connection.in_flight && connection.stage_output() {
        // What is not taken is lost with the connection.
        let _ =
            connection.socket.send_with_flags(connection.to_send(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    }
}

/// Opens what came over TLS and takes it in.
fn open(works: &mut Works, connection: &mut Connection, now: Now, sealed: &mut [u8]) {
    let Some(mut tls) = connection.tls.take() else { return };
    let outcome = if tls.ready() {
        tls.open(sealed, |plain| {
            if !connection.closing {
                take_in(works, connection, now, plain);
            }
        })
    } else {
        // What comes with the end of the handshake waits until it is known from whom.
        let mut early = Vec::new();
        let outcome = tls.open(sealed, |plain| early.extend_from_slice(plain));
        if outcome.is_ok() && tls.ready() {
            works.engine.counters.tls_handshakes_total += 1;
            if let Some(name) = tls.peer_certificate().filter(|_| works.certificates_name_users) {
                connection.session.identify(&common_name(name).unwrap_or_default());
            }
            take_in(works, connection, now, &early);
        }
        outcome
    };
    connection.ended |= tls.peer_ended();
    if let Err(error) = outcome {
        tracing::debug!(client = connection.session.client_id(), %error, "closed a TLS connection");
        works.engine.counters.tls_failures_total += 1;
        works.engine.counters.connections_dropped_total += 1;
        connection.closing = true;
    }
    if tls.waiting_bytes() == 0 && connection.waiting_bytes() == 0 && !connection.session.midway() {
        connection.unfinished_since = None;
    }
    connection.tls = Some(tls);
}

/// Has a session execute what came, and keeps what it could not use yet.
#[inline]
fn take_in(works: &mut Works, connection: &mut Connection, now: Now, piece: &[u8]) {
    if connection.stage == Stage::Reading && connection.waiting_bytes() == 0 {
        let consumed = serve_from(works, connection, now, Some(piece));
        connection.input.extend_from_slice(&piece[consumed..]);
        if connection.needed >= LONG_COMMAND_BYTES {
            begin_long(works, connection);
        }
    } else if connection.long.is_some() {
        take_in_long(works, connection, now, piece);
    } else {
        connection.input.extend_from_slice(piece);
        if connection.unfinished_since.is_some() {
            connection.unfinished_bytes += piece.len() as u64;
        }
        if connection.stage == Stage::Reading && connection.waiting_bytes() >= connection.needed {
            serve_from(works, connection, now, None);
        }
        if connection.needed >= LONG_COMMAND_BYTES {
            begin_long(works, connection);
        }
    }
}

/// Has the rest of a long command come into memory that the store can take over.
#[cold]
fn begin_long(works: &mut Works, connection: &mut Connection) {
    let waits = connection.stage == Stage::Reading && connection.waiting_bytes() < connection.needed;
    if !waits || connection.long.is_some() || connection.closing {
        return;
    }
    // Addresses cost nothing, and what may come beside the long argument is bounded.
    let beside = works.query_bytes_max + LONG_COMMAND_BYTES;
    let Some(mut incoming) = Incoming::new(connection.needed + beside) else { return };
    works.engine.receive(&mut incoming, &connection.input[connection.input_start..]);
    connection.consume(connection.input.len() - connection.input_start);
    connection.long = Some(LongCommand { incoming, fate: Fate::Unused });
}

/// Takes in more of a long command, and executes it when all of it has come. What stands behind it waits in `input`.
#[cold]
fn take_in_long(works: &mut Works, connection: &mut Connection, now: Now, piece: &[u8]) {
    if connection.unfinished_since.is_some() {
        connection.unfinished_bytes += piece.len() as u64;
    }
    let mut rest = piece;
    while connection.stage == Stage::Reading
        && let Some(long) = &mut connection.long
    {
        let wanted = connection.needed.saturating_sub(long.incoming.len()).min(rest.len());
        let taken = works.engine.receive(&mut long.incoming, &rest[..wanted]);
        rest = &rest[taken..];
        if long.incoming.len() >= connection.needed {
            serve_from(works, connection, now, None);
        } else if taken == wanted {
            return;
        } else {
            // It became longer than it could have: it goes on as any other input, and is refused by its codec.
            let whole = long.incoming.bytes().to_vec();
            connection.input.splice(..0, whole);
            give_up_long(works, connection);
        }
    }
    if connection.long.is_some() || !connection.input.is_empty() {
        connection.input.extend_from_slice(rest);
    } else if !rest.is_empty() {
        take_in(works, connection, now, rest);
    }
}

/// Sees to the memory of a long command after a call of the session.
#[cold]
fn settle_long(works: &mut Works, connection: &mut Connection, mut long: LongCommand, progress: Progress) {
    if works.engine.revoke_offer() && long.fate == Fate::Stored {
        long.fate = Fate::Unused;
    }
    if progress.consumed == 0 && !matches!(progress.next, Next::Close(_)) {
        connection.long = Some(long);
        return;
    }
    let rest = long.incoming.bytes()[progress.consumed..].to_vec();
    connection.input.splice(..0, rest);
    works.engine.end_incoming(long.incoming, long.fate);
}

/// Gives back the memory of a long command.
pub(super) fn give_up_long(works: &mut Works, connection: &mut Connection) {
    if let Some(long) = connection.long.take() {
        works.engine.end_incoming(long.incoming, long.fate);
    }
}

/// Has a session execute what stands in `piece`, or in the connection's own input without one; answers the bytes of
/// `piece` it consumed.
pub(super) fn serve_from(
    works: &mut Works,
    connection: &mut Connection,
    now: Now,
    piece: Option<&[u8]>,
) -> usize {
    if works.tight && connection.in_flight {
        connection.stage = Stage::Blocked;
        return 0;
    }
    let node = works.node.clone();
    let before = works.engine.counters.commands_total;
    works.lend_buffer(connection.session.output());
    let parked_before = works.engine.parked();
    let mut long = if piece.is_none() { connection.long.take() } else { None };
    let was_long = long.is_some();
    let mut desk = Desk {
        works,
        now,
        connection: connection.id,
        commands_before: before,
        parked_before,
        incoming: long.as_ref().map(|long| &long.incoming),
        fate: long.as_ref().map_or(Fate::Unused, |long| long.fate),
    };
    let progress = match (piece, &long) {
        (Some(piece), _) => connection.session.serve(now, &node, piece, &mut desk),
        (None, Some(long)) => connection.session.serve(now, &node, long.incoming.bytes(), &mut desk),
        (None, None) => {
            let input = &connection.input[connection.input_start..];
            let progress = connection.session.serve(now, &node, input, &mut desk);
            connection.consume(progress.consumed);
            progress
        }
    };
    let fate = desk.fate;
    if let Some(mut long) = long.take() {
        long.fate = fate;
        settle_long(works, connection, long, progress);
    }
    works.review_buffer(connection.session.output());
    if progress.consumed > 0 && connection.session.midway() {
        connection.unfinished_since.get_or_insert(now.mono);
        connection.unfinished_bytes += progress.consumed as u64;
    } else if progress.consumed > 0 {
        connection.unfinished_since = None;
        connection.unfinished_bytes = 0;
    }
    connection.stage = Stage::Reading;
    match progress.next {
        Next::More { at_least } => {
            connection.needed = at_least;
            let counters = &mut works.engine.counters;
            let commands = counters.commands_total.saturating_sub(before);
            let more_waits = was_long && connection.long.is_none() && !connection.input.is_empty();
            if connection.has_had_its_share(counters.turns_total, commands) || more_waits {
                counters.yields_total += 1;
                connection.stage = Stage::Yielded;
            }
        }
        Next::Yield => {
            works.engine.counters.yields_total += 1;
            connection.stage = Stage::Yielded;
        }
        Next::Blocked => {
            // Blocked by others' requests alone, nothing of its own would ever unblock it: then it asks every turn.
            let own = connection.in_flight || connection.session.awaited() > 0 || connection.has_unsaid();
            // Nor does one wait for its own replies whose reads were too many for this turn.
            let waits = own && !(works.engine.has_parked_enough() && works.engine.parked() != parked_before);
            connection.stage = if waits { Stage::Blocked } else { Stage::Yielded };
        }
        Next::Close(reason) => {
            connection.closing = true;
            // A stranger who takes nothing of what he caused is not waited for; he is told why if he can be at once.
            connection.cut = reason == Reason::Unauthenticated;
            if reason != Reason::Quit {
                works.engine.counters.connections_dropped_total += 1;
            }
            match reason {
                Reason::Http => tracing::warn!("closed a connection that spoke HTTP to a data port"),
                Reason::Tls => tracing::warn!("closed a connection that spoke TLS to a plain port"),
                _ => {}
            }
        }
    }
    progress.consumed
}
