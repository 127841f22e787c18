//! Which connections a number means: those of a pool, or the private lines of an origin.

use super::Origins;
use crate::clock::Mono;
use crate::origin::Place;
use crate::origin::pool::Line;
use crate::origin::private::PrivateLines;

/// From here on a number of a pool is that of an origin whose private lines are meant.
pub(super) const PRIVATE: usize = 1 << 20;

impl Origins {
    pub(super) fn is_private(pool: usize) -> bool {
        pool >= PRIVATE
    }

    /// The private lines that a number of a pool means.
    pub(super) fn private_of(&mut self, pool: usize) -> &mut PrivateLines {
        self.private[pool - PRIVATE].as_mut().expect("only origins that have private lines are named so")
    }

    /// The origin of a pool.
    pub(super) fn origin_of(&self, pool: usize) -> usize {
        if Self::is_private(pool) { pool - PRIVATE } else { self.origin_of[pool] }
    }

    pub(super) fn tell_connected(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => self.private_of(pool).connected(now, line),
            false => self.pools[pool].connected(now, line),
        }
    }

    /// Private lines ask nothing of a certificate beyond its being the right one: that PostgreSQL's password is bound to it is
    /// the pool's affair.
    pub(super) fn tell_proven(&mut self, pool: usize, line: Line, certificate: &[u8]) {
        if !Self::is_private(pool) {
            self.pools[pool].proven(line, certificate);
        }
    }

    pub(super) fn tell_received(&mut self, now: Mono, pool: usize, line: Line, bytes: &[u8]) {
        match Self::is_private(pool) {
            true => {
                self.private_of(pool).received(now, line, bytes);
                self.mind_astray(now, pool);
            }
            false => self.pools[pool].received(now, line, bytes),
        }
    }

    pub(super) fn tell_closed(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => {
                self.private_of(pool).closed(line);
                self.mind_astray(now, pool);
            }
            false => self.pools[pool].closed(now, line),
        }
    }

    pub(super) fn tell_refused(&mut self, now: Mono, pool: usize, line: Line) {
        match Self::is_private(pool) {
            true => self.tell_closed(now, pool, line),
            false => self.pools[pool].refused(now, line),
        }
    }

    /// Has the nodes of a cluster learned again when private lines led to a wrong one, or to one that is gone.
    pub(super) fn mind_astray(&mut self, now: Mono, pool: usize) {
        if self.private_of(pool).take_astray() {
            let origin = self.origin_of(pool);
            self.pools[origin].learn_soon(now);
        }
    }

    /// The pool with which what is noted of a number is kept.
    pub(super) fn pool_of(&self, pool: usize) -> usize {
        if Self::is_private(pool) { self.origin_of(pool) } else { pool }
    }

    /// Where a connection is to lead; `None`: where the origin's URL does.
    pub(super) fn place(&self, pool: usize, line: Line) -> Option<&Place> {
        match Self::is_private(pool) {
            true => self.private[pool - PRIVATE].as_ref()?.place(line),
            false => self.pools[pool].place(line),
        }
    }
}
