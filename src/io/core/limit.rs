//! The limit of memory for items, and its change at run time: by a client (`Verb::Limit`) or by the configuration.
//!
//! What is shared is the limit of all cores together; each core sees at its next turn that it is another one, and takes its
//! share. So the last one who changes it wins on every core, whoever came in which order where.

use super::{Core, Options};
use crate::clock::Now;
use crate::request::{Answer, Fault};
use crate::topology::Node;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// What a process has resident before it holds anything: its code, its threads' stacks, the runtime of the control thread.
const PROCESS_BYTES: u64 = 11 << 20;
/// The same for each core: rings, queues, tables.
const CORE_BYTES: u64 = 2 << 20;
/// A limit has to be at least so many times what is resident in any case: the rest is for items, and for buffers.
const FIXED_FACTOR: u64 = 2;
/// Least memory of a core's store.
const STORE_BYTES_MIN: u64 = 1 << 20;

impl Options {
    /// What of a limit of so many bytes for all of `cores` a core's store may hold: its part, without its receive buffers
    /// and what the process needs by itself.
    /// Nothing if that is less than a store can work with.
    pub fn store_bytes(memory: u64, cores: u16, receive_buffers: u16, buffer_bytes: usize) -> Option<u64> {
        let buffers = u64::from(receive_buffers) * buffer_bytes as u64;
        let fixed = PROCESS_BYTES + CORE_BYTES * u64::from(cores);
        let store = (memory.saturating_sub(fixed) / u64::from(cores)).saturating_sub(buffers);
        (store >= STORE_BYTES_MIN && memory >= Options::memory_bytes_min(cores)).then_some(store)
    }

    /// Least limit of which each core's store can have its part ([`Options::store_bytes`]).
    pub fn memory_bytes_least(cores: u16, receive_buffers: u16, buffer_bytes: usize) -> u64 {
        let buffers = u64::from(receive_buffers) * buffer_bytes as u64;
        let each = CORE_BYTES + buffers + STORE_BYTES_MIN;
        Options::memory_bytes_min(cores).max(PROCESS_BYTES + each * u64::from(cores))
    }

    /// Least limit for so many cores that resident memory can be kept to.
    pub fn memory_bytes_min(cores: u16) -> u64 {
        FIXED_FACTOR * (PROCESS_BYTES + CORE_BYTES * u64::from(cores))
    }
}

impl Core {
    /// Does [`crate::request::Verb::Limit`].
    pub(super) fn change_limit(&mut self, now: Now, bytes: u64) -> Answer {
        let Some(share) = self.share_of(bytes) else { return Answer::Fault(Fault::OutOfMemory) };
        self.shared.set_memory_bytes_max(bytes);
        self.follow_limit(now);
        Answer::Number(i64::try_from(share).unwrap_or(i64::MAX))
    }

    /// Takes the core's share of the limit that all share, if that has changed.
    pub(super) fn follow_limit(&mut self, now: Now) {
        let clients_max = self.shared.clients_max.load(Ordering::Relaxed);
        if clients_max != self.works.node.clients_max {
            self.works.node = Rc::new(Node { clients_max, ..Node::clone(&self.works.node) });
        }
        let bytes = self.shared.memory_bytes_max.load(Ordering::Relaxed);
        if bytes == 0 || bytes == self.works.node.memory_bytes_max {
            return;
        }
        self.works.engine.set_memory_bytes_max(self.share_of(bytes).unwrap_or(STORE_BYTES_MIN));
        self.works.node = Rc::new(Node { memory_bytes_max: bytes, ..Node::clone(&self.works.node) });
        // What is too much goes from now on, a step at a time.
        self.due.engine = now.mono;
    }

    fn share_of(&self, bytes: u64) -> Option<u64> {
        let Options { receive_buffers, receive_buffer_bytes, .. } = self.options;
        Options::store_bytes(bytes, self.works.node.core_count(), receive_buffers, receive_buffer_bytes)
    }
}
