//! Ends: of a connection, and of the core by draining.

use super::Core;
use super::receive::{give_up_long, say_last_words};
use super::works::asker;
use crate::clock::{Mono, Now};
use crate::ids::ConnectionId;
use crate::io::connection::Receiving;
use crate::io::time;
use std::sync::atomic::Ordering;

/// How often other cores are asked to close a reader.
const RECLAIM_MILLIS: u64 = 10;

impl Core {
    /// Shuts a connection down; it leaves the table when the kernel is done with it.
    pub(super) fn kill(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if !connection.dying {
            connection.dying = true;
            // Its buffers go as soon as the kernel is done with them; from now on they count against nobody.
            self.buffer_bytes = self.buffer_bytes.saturating_sub(connection.counted_bytes as u64);
            connection.counted_bytes = 0;
            if self.origins.leave(id) {
                // What that brings about is seen to in the next turn.
                self.due.origins = Some(Mono(0));
            }
            if connection.receiving != Receiving::Off || connection.in_flight {
                // Completes what is armed. A socket that is closed already has nothing to shut down.
                let _ = connection.socket.shutdown(std::net::Shutdown::Both);
            }
            if let Some(core) = connection.link {
                self.link_lost(time::now(), core, id);
            }
        }
        self.bury(id);
    }

    pub(super) fn bury(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.receiving != Receiving::Off || connection.in_flight {
            return;
        }
        if self.works.watchers.any() {
            let reason = if connection.ended || connection.closing { "normal" } else { "error" };
            let asker = asker(self.works.me, id, self.works.node.core_count());
            self.works.watchers.connection(time::now(), asker, connection.session.peer(), Some(reason));
        }
        if connection.session.observes() {
            self.forget_observer(id);
        }
        let mut is_link = false;
        if let Some(connection) = self.table.of(id) {
            give_up_long(&mut self.works, connection);
            is_link = connection.link.is_some();
        }
        self.table.remove(id);
        if is_link {
            self.links.open -= 1;
            return;
        }
        self.works.engine.counters.connections -= 1;
        if self.shared.clients.fetch_sub(1, Ordering::Relaxed) == 1 && self.draining_until.is_some() {
            // The other cores may sleep; they end when the last connection of all has.
            self.shared.ring_bells();
        }
    }

    /// Closes the connection with the largest buffers.
    pub(super) fn drop_largest(&mut self) {
        let largest =
            self.table.iter_mut().filter(|c| !c.dying).max_by_key(|c| c.counted_bytes).map(|c| c.id);
        if let Some(id) = largest {
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
        }
    }

    /// Closes the connection whose long command takes most memory, and tells it why.
    pub(super) fn drop_longest_command(&mut self) {
        let live = self.table.iter_mut().filter(|connection| !connection.dying);
        let longest = live
            .filter_map(|connection| Some((connection.long.as_ref()?.incoming.len(), connection.id)))
            .max_by_key(|&(bytes, _)| bytes);
        if let Some((_, id)) = longest
            && let Some(connection) = self.table.of(id)
        {
            connection.session.give_up_command();
            say_last_words(connection);
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
        }
    }

    /// Sees to it that memory of values that are gone comes back: closes a reader, here or, if none of them is here, elsewhere.
    pub(super) fn reclaim_withheld(&mut self, now: Now) {
        if !self.drop_slow_reader() && now.mono >= self.reclaimed.plus_millis(RECLAIM_MILLIS) {
            self.reclaimed = now.mono;
            self.shared.withheld_round.fetch_add(1, Ordering::Release);
            self.shared.ring_bells();
        }
    }

    /// Does the same for another core that has asked.
    pub(super) fn look_for_slow_readers(&mut self) {
        let round = self.shared.withheld_round.load(Ordering::Acquire);
        if std::mem::replace(&mut self.withheld_round, round) != round {
            self.drop_slow_reader();
        }
    }

    /// Closes the connection that keeps most of values that are gone; false if there is none.
    fn drop_slow_reader(&mut self) -> bool {
        let live = self.table.iter_mut().filter(|connection| !connection.dying);
        let slowest =
            live.map(|connection| (connection.gone_bytes(), connection.id)).max_by_key(|&(bytes, _)| bytes);
        let Some((1.., id)) = slowest else { return false };
        self.works.engine.counters.connections_dropped_total += 1;
        self.kill(id);
        true
    }

    pub(super) fn begin_drain(&mut self, now: Now) {
        self.draining_until = Some(now.mono.plus_millis(self.options.drain_millis_max));
        for place in 0..self.listeners.len() {
            self.ring.stop_accepting(place as u32);
            self.listeners[place].socket = None;
        }
        // Links stay to the end: clients still wait for answers that come by them.
        let clients = self.table.iter_mut().filter(|connection| connection.link.is_none());
        let ids: Vec<ConnectionId> = clients.map(|connection| connection.id).collect();
        for id in ids {
            let Some(connection) = self.table.of(id) else { continue };
            // As if the client had sent its last byte: what came is answered, what is incomplete is not waited for.
            connection.ended = true;
            if matches!(connection.receiving, Receiving::On | Receiving::Piece) {
                connection.receiving = Receiving::Stopping;
                self.ring.stop_receiving(id);
            }
            self.settle(now, id);
        }
    }

    pub(super) fn drained(&self, now: Now) -> bool {
        let Some(until) = self.draining_until else { return false };
        let done = self.table.len() == self.links.open
            && !self.works.mesh.has_mail()
            && self.waiting.is_empty()
            && !self.works.mesh.has_backlog();
        // Another core may still want outcomes from this one: a core ends only when all connections of all cores have.
        (done && self.shared.clients.load(Ordering::Relaxed) == 0)
            || now.mono >= until
            || self.shared.at_once.load(Ordering::Relaxed)
    }
}
