//! What one core asks an origin through: one pool of connections, or one for each node of a cluster.

use super::cluster::Cluster;
use super::pool::{Action, Cause, Failure, Line, Options, Permits, Pool, Tally};
use super::{Ask, Broken, Kind, Place, Target, Ticket};
use crate::clock::Mono;
use std::sync::Arc;

/// One core's client of one origin. Its verbs are those of [`Pool`].
pub enum Connector {
    /// An origin at one place.
    Pool(Box<Pool>),
    /// One of many nodes.
    Cluster(Box<Cluster>),
}

/// Does the same with either.
macro_rules! either {
    ($connector:expr, $it:ident => $does:expr) => {
        match $connector {
            Connector::Pool($it) => $does,
            Connector::Cluster($it) => $does,
        }
    };
}

impl Connector {
    /// One without connections, of the kind that the target asks for.
    pub fn new(target: Arc<Target>, options: Options, permits: Arc<Permits>) -> Connector {
        match target.kind {
            Kind::Redis { cluster: true, .. } => {
                Connector::Cluster(Box::new(Cluster::new(target, options, permits)))
            }
            _ => Connector::Pool(Box::new(Pool::new(target, options, permits))),
        }
    }

    /// As [`Pool::poll`].
    pub fn poll(&mut self) -> Option<Action> {
        either!(self, it => it.poll())
    }

    /// As [`Pool::ask`].
    pub fn ask(&mut self, now: Mono, ticket: Ticket, cause: Cause, ask: Ask) {
        either!(self, it => it.ask(now, ticket, cause, ask));
    }

    /// As [`Pool::hurry`].
    pub fn hurry(&mut self, now: Mono, ticket: Ticket) {
        either!(self, it => it.hurry(now, ticket));
    }

    /// As [`Pool::spare_room`].
    pub fn spare_room(&mut self, now: Mono) -> usize {
        either!(self, it => it.spare_room(now))
    }

    /// As [`Pool::spare_rate`].
    pub fn spare_rate(&self) -> f64 {
        either!(self, it => it.spare_rate())
    }

    /// As [`Pool::set_spare_share`].
    pub fn set_spare_share(&mut self, share: f64) {
        either!(self, it => it.set_spare_share(share));
    }

    /// Where a connection is to lead; `None`: where the origin's URL does.
    pub fn place(&self, line: Line) -> Option<&Place> {
        match self {
            Connector::Pool(_) => None,
            Connector::Cluster(cluster) => cluster.place(line),
        }
    }

    /// The node of a key, of a cluster that is known; `None`: where the origin's URL leads.
    pub fn home(&self, key: &[u8]) -> Option<Place> {
        match self {
            Connector::Pool(_) => None,
            Connector::Cluster(cluster) => cluster.home(key),
        }
    }

    /// Somebody else came to a node that has not what was looked for: a cluster's map is learned again soon.
    pub fn learn_soon(&mut self, now: Mono) {
        if let Connector::Cluster(cluster) = self {
            cluster.learn_soon(now);
        }
    }

    /// As [`Pool::proven`]. Nodes of clusters are not asked for more than their certificates.
    pub fn proven(&mut self, line: Line, certificate: &[u8]) {
        if let Connector::Pool(pool) = self {
            pool.proven(line, certificate);
        }
    }

    /// As [`Pool::connected`].
    pub fn connected(&mut self, now: Mono, line: Line) {
        either!(self, it => it.connected(now, line));
    }

    /// As [`Pool::received`].
    pub fn received(&mut self, now: Mono, line: Line, bytes: &[u8]) {
        either!(self, it => it.received(now, line, bytes));
    }

    /// As [`Pool::closed`].
    pub fn closed(&mut self, now: Mono, line: Line) {
        either!(self, it => it.closed(now, line));
    }

    /// As [`Pool::refused`].
    pub fn refused(&mut self, now: Mono, line: Line) {
        either!(self, it => it.refused(now, line));
    }

    /// As [`Pool::output`].
    pub fn output(&mut self, line: Line) -> Option<&mut Vec<u8>> {
        either!(self, it => it.output(line))
    }

    /// As [`Pool::tick`].
    pub fn tick(&mut self, now: Mono) -> Option<Mono> {
        either!(self, it => it.tick(now))
    }

    /// As [`Pool::next_due`].
    pub fn next_due(&self, now: Mono) -> Option<Mono> {
        either!(self, it => it.next_due(now))
    }

    /// As [`Pool::circuit_open`].
    pub fn circuit_open(&self) -> bool {
        either!(self, it => it.circuit_open())
    }

    /// As [`Pool::last_broken`].
    pub fn last_broken(&self) -> Option<Broken> {
        either!(self, it => it.last_broken())
    }

    /// As [`Pool::last_failure`].
    pub fn last_failure(&self) -> Option<Failure> {
        either!(self, it => it.last_failure())
    }

    /// As [`Pool::connection_count`].
    pub fn connection_count(&self) -> usize {
        either!(self, it => it.connection_count())
    }

    /// As [`Pool::waiting_count`].
    pub fn waiting_count(&self) -> usize {
        either!(self, it => it.waiting_count())
    }

    /// What it counts.
    pub fn tally(&self) -> Tally {
        match self {
            Connector::Pool(pool) => pool.tally,
            Connector::Cluster(cluster) => cluster.tally(),
        }
    }

    /// Of that, how often circuits opened.
    pub fn opened(&self) -> u64 {
        match self {
            Connector::Pool(pool) => pool.tally.opened,
            Connector::Cluster(cluster) => cluster.opened(),
        }
    }
}
