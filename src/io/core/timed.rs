//! What a core does by the clock: expiry, sweeps over connections, reports.

use super::Core;
use crate::clock::{Mono, Now};
use crate::control::CoreReport;
use crate::io::{listen, time};
use crate::metrics::Counters;
use crate::request::{Request, Verb};

/// Sweeps over all connections, and reports.
pub(super) const SWEEP_MILLIS: u64 = 1000;
/// A command that comes slowly gets another second for each so many bytes.
const UNFINISHED_BYTES_PER_SECOND: u64 = 64 << 10;

/// Moments at which something has to be looked at.
pub(super) struct Due {
    pub(super) engine: Mono,
    pub(super) sweep: Mono,
    pub(super) retry: Option<Mono>,
    pub(super) accept: Option<Mono>,
    /// Questions to origins, and those who wait for them.
    pub(super) origins: Option<Mono>,
    /// Shards that move.
    pub(super) moves: Option<Mono>,
    /// Links to other nodes.
    pub(super) links: Option<Mono>,
    /// The timer in the ring, if one is out.
    pub(super) armed: Option<Mono>,
}

impl Due {
    pub(super) fn next(&self) -> Mono {
        let mut next = self.engine.min(self.sweep);
        for moment in [self.retry, self.accept, self.origins, self.moves, self.links].into_iter().flatten() {
            next = next.min(moment);
        }
        next
    }
}

impl Core {
    pub(super) fn look_at_clock(&mut self, now: Now) {
        if now.mono >= self.due.engine {
            self.tell_usage();
            self.due.engine = self.works.engine.tick(now).max(Mono(now.mono.0 + 1));
            if self.works.engine.withholds_much() {
                self.reclaim_withheld(now);
            }
        }
        if self.due.accept.is_some_and(|at| now.mono >= at) {
            self.due.accept = None;
            if self.draining_until.is_none() {
                self.arm_listeners();
            }
        }
        if self.due.retry.is_some_and(|at| now.mono >= at) {
            self.due.retry = None;
            self.retry_sends();
        }
        if now.mono >= self.due.sweep {
            self.due.sweep = now.mono.plus_millis(SWEEP_MILLIS);
            self.sweep(now);
            self.lend_less();
            self.pass_long_turn();
            self.give_rows(now);
            self.tell_usage();
            self.works.engine.counters.blocked_clients = self.origins.waiting_count() as u64;
            self.works.count_onlookers();
            let mut counters = Counters::default();
            let request = Request { key: b"", value: b"", verb: Verb::Counters };
            let page = self.works.engine.execute(now, &request);
            counters.add(&Counters::from_bytes(page.value.bytes()));
            let (moves, shards) = self.works.move_tally();
            self.take_spare_share();
            (self.report)(CoreReport {
                core: self.works.me,
                counters,
                turn: self.turns.clone(),
                cpu: time::thread_cpu(),
                origins: self.origins.reports(),
                keyspaces: self.works.engine.tallies().to_vec(),
                prefetch: self.works.engine.prefetch_tally(),
                heat: self.works.heat.clone(),
                rules: self.origins.rules(),
                moves,
                shards,
                map_epoch: self.works.node.map.epoch,
                memory_bytes_max: self.works.node.memory_bytes_max,
                clients_max: self.works.node.clients_max,
            });
            self.turns.reset();
        }
    }

    /// Looks what of the origins' spare is this core's at present.
    fn take_spare_share(&mut self) {
        let shares = self.shared.spare_shares.read().expect("nobody panics while holding it");
        if let Some(&share) = shares.get(self.works.me.index()) {
            self.origins.set_spare_share(f64::from(share));
        }
    }

    pub(super) fn tell_usage(&mut self) {
        let buffer_bytes = self.buffer_bytes + self.buffers.byte_count() as u64;
        self.works.engine.counters.buffer_bytes = buffer_bytes;
        self.works.usage.tell(self.works.engine.held_bytes() + buffer_bytes);
    }

    /// Looks for connections that have overstayed, and for those that are stuck by a bug of ours or the kernel's.
    pub(super) fn sweep(&mut self, now: Now) {
        let mut overdue = Vec::new();
        let clients =
            self.table.iter_mut().filter(|connection| !connection.dying && connection.link.is_none());
        for connection in clients {
            let unfinished = connection.unfinished_since.is_some_and(|since| {
                let allowance = connection.unfinished_bytes / UNFINISHED_BYTES_PER_SECOND * 1000;
                now.mono.millis_since(since) > self.options.unfinished_millis_max + allowance
            });
            let handshake = connection.tls.as_ref().is_some_and(|tls| !tls.ready())
                && now.mono.millis_since(connection.accepted) > self.options.unfinished_millis_max;
            let unauthenticated = !connection.session.authenticated()
                && now.mono.millis_since(connection.accepted) > self.options.unauthenticated_millis_max;
            if unfinished || handshake || unauthenticated {
                overdue.push(connection.id);
            }
        }
        for id in overdue {
            self.works.engine.counters.connections_dropped_total += 1;
            self.kill(id);
        }
        // An accept keeps the limit it was armed under: one that an operator changes takes effect by arming anew.
        let descriptors_max = listen::descriptors_max();
        if descriptors_max != self.descriptors_max {
            self.descriptors_max = descriptors_max;
            (0..self.listeners.len()).for_each(|place| self.ring.stop_accepting(place as u32));
        }
    }
}
