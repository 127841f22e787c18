//! What connections are told beside their replies: changes of keys, and lines of `MONITOR`.
//!
//! It comes behind the replies of the turn: a notice is a chore, and chores are done when all mail is read.

use super::Core;
use super::works::Chore;
use crate::clock::Now;
use crate::engine::Change;
use crate::ids::{ConnectionId, CoreId};
use crate::message::ReturnAddress;
use crate::request::{Notice, Observer, Request, Setting, Verb};
use crate::store::Victim;
use crate::wire;
use crate::wire::events::{EVICTIONS, Evicted};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const NOBODY: ReturnAddress = ReturnAddress { connection: ConnectionId::NOBODY, ticket: 0 };

impl Core {
    /// Sends what this turn has for observers on its way to their cores.
    #[cold]
    pub(super) fn tell_observers(&mut self, now: Now) {
        for Change { observer, key } in self.works.engine.take_changes() {
            match key {
                Some(key) => self.tell(observer, Notice::Changed, &key, b""),
                None => self.tell(observer, Notice::AllChanged, b"", b""),
            }
        }
        if self.works.watchers.any() {
            self.tell_watchers(now);
        }
        for line in std::mem::take(&mut self.works.lines) {
            for observer in self.works.monitors.clone() {
                self.tell(observer, Notice::Line, b"", &line);
            }
        }
    }

    fn tell_watchers(&mut self, now: Now) {
        let (victims, lost) = self.works.engine.take_victims();
        for victim in &victims {
            let Victim { key, value_bytes, expiry, used, idle_seconds } = victim;
            let (value_bytes, expiry, used, idle_seconds) = (*value_bytes, *expiry, *used, *idle_seconds);
            self.works.watchers.evicted(now, &Evicted { key, value_bytes, expiry, used, idle_seconds });
        }
        self.works.watchers.lost(EVICTIONS, lost);
        for (observer, lines) in self.works.watchers.take() {
            self.tell(observer, Notice::Events, b"", &lines);
        }
    }

    /// Adds, changes or removes one who sees what happens; `false` if there are too many.
    pub(super) fn watch(&mut self, observer: Observer, kinds: u8) -> bool {
        let room = self.works.watchers.set(observer, kinds);
        let evictions = self.works.watchers.want(EVICTIONS);
        self.works.engine.watch_evictions(evictions);
        room
    }

    fn tell(&mut self, observer: Observer, notice: Notice, key: &[u8], value: &[u8]) {
        let verb = Verb::Notify { connection: observer.connection, notice };
        self.send_to(observer.core, &Request { key, value, verb });
    }

    /// Has a core do a request whose outcome is for nobody.
    fn send_to(&mut self, core: CoreId, request: &Request<'_>) {
        if core == self.works.me {
            let (key, value) = (request.key.to_vec(), request.value.to_vec());
            self.works.chores.push(Chore { key, value, from: core, address: NOBODY, verb: request.verb });
        } else {
            self.works.mesh.send(core, NOBODY, request);
        }
    }

    /// Tells one of this core's connections.
    pub(super) fn notify(&mut self, now: Now, id: ConnectionId, notice: Notice, text: &[u8]) {
        let Some(connection) = self.table.of(id).filter(|it| !it.dying && !it.closing) else {
            if let Notice::Redirected(source) | Notice::AllRedirected(source) = notice {
                self.tell(source, Notice::RedirectBroken, b"", b"");
            }
            return;
        };
        if let (Some(target), Notice::Changed | Notice::AllChanged) = (connection.session.redirect(), notice)
        {
            let source = Observer { core: self.works.me, connection: id };
            let notice = match notice {
                Notice::Changed => Notice::Redirected(source),
                _ => Notice::AllRedirected(source),
            };
            return self.tell(target, notice, text, b"");
        }
        connection.session.notify(now, &self.works.node, notice, text);
        connection.session.settle(&mut self.works.engine.counters, &mut self.works.journal);
        self.settle(now, id);
    }

    /// Adds or removes one who sees commands, and has sessions show them or no longer.
    pub(super) fn monitor(&mut self, observer: Observer, on: bool) {
        self.works.monitors.retain(|other| *other != observer);
        if on {
            self.works.monitors.push(observer);
        }
        self.tell_sessions();
    }

    /// Has all sessions look at each command, if somebody wants to know, or no longer.
    fn tell_sessions(&mut self) {
        let on = self.wants_attention();
        self.table.iter_mut().for_each(|connection| connection.session.be_attentive(on));
    }

    pub(super) fn wants_attention(&self) -> bool {
        !self.works.monitors.is_empty() || self.works.journal.is_fine()
    }

    /// Changes a setting of this core; what belongs to all cores is set by each to the same.
    pub(super) fn configure(&mut self, setting: Setting, number: i64) {
        let thresholds = &mut self.works.journal.thresholds;
        match setting {
            Setting::ClientsMax => {
                let clients_max = number.max(1) as u64;
                self.shared.set_clients_max(clients_max);
                Rc::make_mut(&mut self.works.node).clients_max = clients_max;
            }
            Setting::SlowMicros => thresholds.slow_micros = number,
            Setting::SlowCountMax => {
                thresholds.slow_count_max = number;
                self.works.journal.trim();
            }
            Setting::LatencyMillis => thresholds.latency_millis = number,
        }
        self.tell_sessions();
    }

    /// Makes, changes or removes a user on this core, and tells sessions and those to come. Connections of a user who is no
    /// more are closed when what they were told is sent.
    pub(super) fn set_user(&mut self, name: &[u8], rules: &[u8]) {
        let users = Arc::make_mut(&mut self.users);
        match rules {
            b"" => users.remove(name),
            // The core that sent them has followed them already.
            rules => drop(users.set(name, rules)),
        }
        for listener in &mut self.listeners {
            let users = self.users.clone();
            listener.wire = Arc::new(wire::Options { users, ..wire::Options::clone(&listener.wire) });
        }
        for connection in self.table.iter_mut() {
            if !connection.session.adopt(&self.users) {
                connection.closing = true;
                self.orphans.push(connection.id);
            }
        }
    }

    /// Takes over users that were read again, if they were.
    pub(super) fn take_users(&mut self) {
        let round = self.shared.users_round.load(Ordering::Acquire);
        if round == self.users_round {
            return;
        }
        let known = std::mem::replace(&mut self.users_round, round);
        let changes = self.shared.users.read().expect("nobody panics while holding it").clone();
        for change in changes.iter().filter(|change| change.round > known) {
            self.set_user(&change.name, &change.rules);
        }
    }

    /// A connection has gone: no core is to tell it anything any more.
    pub(super) fn forget_observer(&mut self, connection: ConnectionId) {
        let observer = Observer { core: self.works.me, connection };
        for core in 0..self.works.node.core_count() {
            let ends = [
                Verb::Unobserve(observer),
                Verb::Monitor { observer, on: false },
                Verb::Watch { observer, kinds: 0 },
            ];
            for verb in ends {
                self.send_to(CoreId(core), &Request { key: &[], value: &[], verb });
            }
        }
    }
}
