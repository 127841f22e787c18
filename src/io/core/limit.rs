//! The limit of memory for items, and its change at run time: by a client (`Verb::Limit`) or by the configuration.
//!
//! What is shared is the limit of all cores together; each core sees at its next turn that it is another one, and takes its
//! share. So the last one who changes it wins on every core, whoever came in which order where.

use super::{Core, Options};
use crate::clock::Now;
use crate::request::{Answer, Fault, copied_bytes_max};
use crate::topology::Node;
use crate::wire;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a process has resident before it holds anything: its code, its threads' stacks, the runtime of the control thread.
const PROCESS_BYTES: u64 = 11 << 20;
/// The same for each core: rings, queues, tables.
const CORE_BYTES: u64 = 2 << 20;
/// A limit has to be at least so many times what is resident in any case: the rest is for items, and for buffers.
const FIXED_FACTOR: u64 = 2;
/// Least memory of a core's store.
const STORE_BYTES_MIN: u64 = 1 << 20;
/// The part of memory that all buffers of connections may take: one in so many, and never less than this.
const BUFFER_SHARE: u64 = 10;
const BUFFER_BYTES_MIN: u64 = 8 << 20;
/// The longest value has this share of a core's store at most, one in so many.
const LONGEST_SHARE: u64 = 4;
/// Requests on their way to other cores may take this share of buffers, one in so many.
const HOPPING_SHARE: u64 = 8;

/// Limits as they were configured.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes of a value by RESP and the native protocol.
    pub item_bytes: usize,
    /// The same by memcached.
    pub memcached_item_bytes: usize,
    /// Bytes of replies at which a session stops executing.
    pub output_soft_bytes: usize,
}

/// Limits of a core as its memory lets them be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Bytes of all buffers of connections.
    pub buffer_bytes: u64,
    /// See [`Wanted`].
    pub item_bytes: usize,
    /// See [`Wanted`].
    pub memcached_item_bytes: usize,
    /// See [`Wanted`].
    pub output_soft_bytes: usize,
    /// See [`copied_bytes_max`].
    pub copied_bytes: usize,
}

/// Bytes of long requests that may be on their way to other cores, where buffers may have so many.
pub(super) fn hopping_bytes(buffer_bytes: u64) -> usize {
    (buffer_bytes / HOPPING_SHARE) as usize
}

impl Limits {
    /// Those of each of `cores` cores with so much memory together.
    pub fn new(
        memory: u64,
        cores: u16,
        receive_buffers: u16,
        buffer_bytes: usize,
        wanted: &Wanted,
    ) -> Limits {
        let store_bytes =
            Options::store_bytes(memory, cores, receive_buffers, buffer_bytes).unwrap_or(STORE_BYTES_MIN);
        let buffer_bytes = (memory / u64::from(cores) / BUFFER_SHARE).max(BUFFER_BYTES_MIN);
        // One value is not to push out most of the others, nor is one client that does not finish it.
        let passable = (store_bytes / LONGEST_SHARE) as usize;
        Limits {
            store_bytes,
            buffer_bytes,
            item_bytes: wanted.item_bytes.min(passable),
            memcached_item_bytes: wanted.memcached_item_bytes.min(passable),
            // One client that does not take its replies is to be stopped, not closed: what is being sent and what waits
            // behind it must fit, with room for others.
            output_soft_bytes: wanted.output_soft_bytes.min(buffer_bytes as usize / 3),
            copied_bytes: copied_bytes_max(store_bytes),
        }
    }

    /// Sets those of sessions.
    pub fn apply(&self, wire: &mut wire::Options) {
        wire.value_bytes_max = self.item_bytes;
        wire.memcached_value_bytes_max = self.memcached_item_bytes;
        wire.output_soft_bytes = self.output_soft_bytes;
        wire.copied_bytes_max = self.copied_bytes;
    }
}

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
        // What is held now may be the most that there ever was.
        self.tell_usage();
        let Options { receive_buffers, receive_buffer_bytes, wanted, .. } = self.options;
        let cores = self.works.node.core_count();
        let limits = Limits::new(bytes, cores, receive_buffers, receive_buffer_bytes, &wanted);
        self.works.engine.set_memory_bytes_max(limits.store_bytes);
        self.take_limits(&limits);
        let mut node = Node { memory_bytes_max: bytes, ..Node::clone(&self.works.node) };
        for (name, value) in &mut node.settings {
            match name.as_str() {
                "item-size" => *value = limits.item_bytes.to_string(),
                "memcached-item-size" => *value = limits.memcached_item_bytes.to_string(),
                _ => {}
            }
        }
        self.works.node = Rc::new(node);
        // What is too much goes from now on, a step at a time.
        self.due.engine = now.mono;
    }

    /// Has everything but the store's memory follow limits.
    fn take_limits(&mut self, limits: &Limits) {
        self.options.buffer_bytes_max = limits.buffer_bytes;
        self.works.mesh.set_long_bytes_max(hopping_bytes(limits.buffer_bytes));
        self.works.engine.set_item_bytes_max(limits.item_bytes);
        let mut renewed: Vec<[Arc<wire::Options>; 2]> = Vec::new();
        for listener in &mut self.listeners {
            let mut wire = wire::Options::clone(&listener.wire);
            limits.apply(&mut wire);
            let before = std::mem::replace(&mut listener.wire, Arc::new(wire));
            renewed.push([before, listener.wire.clone()]);
        }
        for connection in self.table.iter_mut() {
            let now = renewed.iter().find(|[before, _]| Arc::ptr_eq(before, connection.session.options()));
            if let Some([_, now]) = now {
                connection.session.follow(now);
            }
        }
    }

    fn share_of(&self, bytes: u64) -> Option<u64> {
        let Options { receive_buffers, receive_buffer_bytes, .. } = self.options;
        Options::store_bytes(bytes, self.works.node.core_count(), receive_buffers, receive_buffer_bytes)
    }
}
