//! Counters of a core: plain numbers, added on the data path, summed and named elsewhere.

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident $kind:ident; )+) => {
        /// Everything a core counts. Gauges are written whole before they are read, totals only grow.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $( $(#[doc = $doc])+ pub $name: u64, )+
        }

        impl Counters {
            /// Name, help text and kind of each, in the order of [`Counters::values`].
            pub const NAMES: &'static [(&'static str, &'static str, Kind)] =
                &[ $( (stringify!($name), concat!($($doc),+), Kind::$kind), )+ ];

            /// All values, in the order of [`Counters::NAMES`].
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [ $( self.$name, )+ ]
            }

            fn from_values(values: &[u64; Self::NAMES.len()]) -> Counters {
                let mut rest = values.iter().copied();
                $( let $name = rest.next().unwrap_or(0); )+
                Counters { $( $name, )+ }
            }
        }
    };
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows (until a reset).
    Total,
    /// Goes up and down.
    Gauge,
}

counters! {
    /// Commands answered, by any protocol.
    commands_total Total;
    /// Reads that found an item.
    hits_total Total;
    /// Reads that found none.
    misses_total Total;
    /// Values written.
    writes_total Total;
    /// Items removed on request.
    removals_total Total;
    /// Requests refused by a condition.
    refusals_total Total;
    /// Errors answered, by any protocol.
    errors_total Total;
    /// Requests done here that ended in a fault, other cores' among them.
    faults_total Total;
    /// memcached requests with noreply that failed in silence.
    silent_errors_total Total;
    /// Items that reached their expiry.
    expired_total Total;
    /// Items that reached their expiry and had never been read.
    expired_unused_total Total;
    /// Reads that found an item whose expiry had passed and was not noticed yet.
    expired_sought_total Total;
    /// Items evicted to make room.
    evicted_total Total;
    /// Items evicted that had never been read.
    evicted_unused_total Total;
    /// Items evicted that had been read lately.
    evicted_used_total Total;
    /// Items held.
    items Gauge;
    /// Items held that have an expiry.
    items_expiring Gauge;
    /// Bytes the store holds from the system.
    store_bytes Gauge;
    /// Bytes of keys and values held.
    payload_bytes Gauge;
    /// Most bytes the store may hold.
    store_limit_bytes Gauge;
    /// Fetches from origins under way.
    fetches Gauge;
    /// Reads that wait for them.
    fetch_waiters Gauge;
    /// Reads, fetches, writes and commands begun that wait for origins.
    unfinished Gauge;
    /// Most that may.
    unfinished_max Gauge;
    /// Requests refused because as many did.
    unfinished_refused_total Total;
    /// Connections whose command waits at an origin for what others do.
    blocked_clients Gauge;
    /// Keys and prefixes that an origin said had changed.
    origin_changes_total Total;
    /// Connections open.
    connections Gauge;
    /// Connections accepted.
    connections_accepted_total Total;
    /// Connections refused because there were too many.
    connections_rejected_total Total;
    /// Connections closed for what the client did: protocol errors, limits, deadlines.
    connections_dropped_total Total;
    /// TLS handshakes done.
    tls_handshakes_total Total;
    /// TLS connections ended by what is no TLS, a certificate that is not good, or a record that was spoiled.
    tls_failures_total Total;
    /// Bytes received.
    received_bytes_total Total;
    /// Bytes sent.
    sent_bytes_total Total;
    /// Bytes in buffers of connections.
    buffer_bytes Gauge;
    /// Requests sent on to another core.
    hops_sent_total Total;
    /// Requests done for another core.
    hops_served_total Total;
    /// Batches handed to other cores.
    hop_batches_total Total;
    /// Links to cores of other nodes.
    links Gauge;
    /// Links to cores of other nodes that broke.
    links_lost_total Total;
    /// Turns of the core's loop.
    turns_total Total;
    /// Times the core went to sleep.
    parks_total Total;
    /// Times the core was out of receive buffers.
    buffers_exhausted_total Total;
    /// Times accepting was put off because file descriptors had run out.
    accept_backoffs_total Total;
    /// Reads put off because a client does not take its replies.
    backpressure_total Total;
    /// Times a connection had its share of a turn and let the others go on.
    yields_total Total;
    /// Authentications tried by memcached clients.
    auth_attempts_total Total;
    /// Authentications of memcached clients that failed.
    auth_failures_total Total;
    /// Passwords that were not looked at because too many from there had been wrong.
    logins_refused_total Total;
    /// memcached compare-and-set stores of the version expected.
    cas_hits_total Total;
    /// memcached compare-and-set stores refused for another version.
    cas_mismatches_total Total;
    /// memcached compare-and-set stores of absent items.
    cas_misses_total Total;
    /// memcached decrements done.
    decr_hits_total Total;
    /// memcached decrements of absent items.
    decr_misses_total Total;
    /// memcached removals of absent items.
    delete_misses_total Total;
    /// memcached stores refused by a condition.
    store_refusals_total Total;
    /// memcached requests to forget everything.
    flushes_total Total;
    /// memcached increments done.
    incr_hits_total Total;
    /// memcached increments of absent items.
    incr_misses_total Total;
    /// memcached meta commands.
    meta_commands_total Total;
    /// memcached values refused for their size.
    store_too_large_total Total;
    /// memcached values refused because memory had run out.
    store_no_memory_total Total;
    /// Connections that are told of changes of keys (client-side caching).
    observers Gauge;
    /// Connections that watch what happens.
    watchers Gauge;
    /// Lines that were shown to those.
    watch_lines_sent_total Total;
    /// Lines that were not, because there were too many at a time.
    watch_lines_skipped_total Total;
    /// memcached changes of expiry done, by touch and gat.
    touch_hits_total Total;
    /// memcached changes of expiry of absent items.
    touch_misses_total Total;
}

impl Counters {
    /// Adds another core's.
    pub fn add(&mut self, other: &Counters) {
        let mut sum = self.values();
        for (into, more) in sum.iter_mut().zip(other.values()) {
            *into = into.wrapping_add(more);
        }
        *self = Counters::from_values(&sum);
    }

    /// As bytes, little-endian, for [`crate::request::Verb::Counters`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values().iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// From bytes of [`Counters::to_bytes`]; what is missing is 0.
    pub fn from_bytes(bytes: &[u8]) -> Counters {
        let mut values = [0u64; Self::NAMES.len()];
        for (into, chunk) in values.iter_mut().zip(bytes.chunks_exact(8)) {
            *into = u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) gives 8 bytes"));
        }
        Counters::from_values(&values)
    }

    /// Sets the totals to 0 and leaves the gauges.
    pub fn reset_totals(&mut self) {
        let mut values = self.values();
        for (value, (_, _, kind)) in values.iter_mut().zip(Self::NAMES) {
            if *kind == Kind::Total {
                *value = 0;
            }
        }
        *self = Counters::from_values(&values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_bytes_and_add_up() {
        let mut a = Counters { hits_total: 3, items: 7, ..Counters::default() };
        let b = Counters::from_bytes(&a.to_bytes());
        assert_eq!(a, b);
        a.add(&b);
        assert_eq!((a.hits_total, a.items, a.misses_total), (6, 14, 0));
        a.reset_totals();
        assert_eq!((a.hits_total, a.items), (0, 14));
    }

    #[test]
    fn totals_are_named_as_prometheus_wants() {
        for (name, help, kind) in Counters::NAMES {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Total, "{name}");
            assert!(help.trim().ends_with('.'), "{name}: {help}");
        }
    }
}
