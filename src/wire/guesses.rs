//! How many wrong passwords are looked at: a bucket of tries for each source and user.
//!
//! 1. A wrong password takes a try; so many come back in a second, up to a bound. A right one takes none.
//! 2. Where no try is left, no password is looked at: the answer is that of a wrong one, whatever was sent, so that asking on
//!    tells nothing. Connections that are in stay in.
//! 3. A source is an address, or a network of IPv6 that one customer has; users are told apart, so that whoever guesses at one
//!    keeps no other out.
//!
//! Each core has its own. Buckets that are full again are forgotten; of too many, the one longest untouched.

use crate::clock::Mono;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Wrong passwords that a source may send at once.
pub const TRIES_MAX: u32 = 100;
/// Tries that come back in a second.
pub const TRIES_PER_SECOND: u64 = 10;
/// How often it is told of one bucket that it is empty.
const QUIET_MILLIS: u64 = 60_000;
/// Buckets of a core at most.
const BUCKETS_MAX: usize = 1024;
/// Bytes of a user's name that tell it apart.
const NAME_BYTES_MAX: usize = 64;

/// The buckets of a core.
#[derive(Debug, Default)]
pub struct Guesses {
    buckets: BTreeMap<(String, Vec<u8>), Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of tries that were left at `at`.
    left: u64,
    at: Mono,
    /// Not before this moment is it told again that none is left.
    quiet_until: Mono,
}

impl Bucket {
    fn left(&self, now: Mono) -> u64 {
        let back = now.millis_since(self.at).saturating_mul(TRIES_PER_SECOND);
        self.left.saturating_add(back).min(u64::from(TRIES_MAX) * 1000)
    }
}

impl Guesses {
    /// Whether a password of this user may be looked at for a client from there.
    pub fn allows(&self, now: Mono, source: &str, user: &[u8]) -> bool {
        self.buckets.is_empty()
            || self.buckets.get(&key(source, user)).is_none_or(|bucket| bucket.left(now) >= 1000)
    }

    /// Takes in that a password that was looked at was wrong; whether somebody should be told that those that follow are not.
    pub fn wrong(&mut self, now: Mono, source: &str, user: &[u8]) -> bool {
        let key = key(source, user);
        if !self.buckets.contains_key(&key) && self.buckets.len() >= BUCKETS_MAX {
            self.buckets.retain(|_, bucket| bucket.left(now) < u64::from(TRIES_MAX) * 1000);
            if self.buckets.len() >= BUCKETS_MAX {
                let oldest = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at);
                let oldest = oldest.map(|(key, _)| key.clone());
                oldest.and_then(|key| self.buckets.remove(&key));
            }
        }
        let full = Bucket { left: u64::from(TRIES_MAX) * 1000, at: now, quiet_until: Mono(0) };
        let bucket = self.buckets.entry(key).or_insert(full);
        (bucket.left, bucket.at) = (bucket.left(now).saturating_sub(1000), now);
        let tell = bucket.left < 1000 && now >= bucket.quiet_until;
        if tell {
            bucket.quiet_until = now.plus_millis(QUIET_MILLIS);
        }
        tell
    }
}

fn key(source: &str, user: &[u8]) -> (String, Vec<u8>) {
    let source = match source.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Ok(IpAddr::V4(address)) => address.to_string(),
        // A socket of this machine.
        Err(_) => source.to_owned(),
    };
    (source, user[..user.len().min(NAME_BYTES_MAX)].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(0).plus_millis(1_000_000 + millis)
    }

    #[test]
    fn a_thousand_wrong_passwords_a_second_are_looked_at_ten_times_a_second() {
        let mut guesses = Guesses::default();
        let mut looked = 0;
        for millis in 0..10_000 {
            // Each from a connection of its own.
            let source = format!("10.0.0.1:{}", 1024 + millis);
            if guesses.allows(at(millis), &source, b"default") {
                looked += 1;
                guesses.wrong(at(millis), &source, b"default");
            }
        }
        assert!((195..=200).contains(&looked), "{looked}");
        // Nobody else has to wait, and when it is over, the source has not to either.
        assert!(!guesses.allows(at(9_999), "10.0.0.1:9", b"default"));
        assert!(guesses.allows(at(10_000), "10.0.0.2:9", b"default"));
        assert!(guesses.allows(at(10_000), "10.0.0.1:9", b"alice"));
        assert!(guesses.allows(at(10_200), "10.0.0.1:9", b"default"));
    }

    #[test]
    fn a_few_wrong_ones_cost_nothing_and_the_last_one_is_told() {
        let mut guesses = Guesses::default();
        for i in 1..=TRIES_MAX {
            assert!(guesses.allows(at(0), "1.1.1.1:1", b"a"));
            assert_eq!(guesses.wrong(at(0), "1.1.1.1:1", b"a"), i == TRIES_MAX);
        }
        assert!(!guesses.allows(at(0), "1.1.1.1:1", b"a"));
        assert!(!guesses.wrong(at(150), "1.1.1.1:1", b"a"), "told once a minute");
        assert!(guesses.allows(at(100_000), "1.1.1.1:1", b"a"));
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_what_it_maps() {
        assert_eq!(key("[2001:db8:1:2:3::4]:5", b"u"), key("[2001:db8:1:2:ffff::1]:9", b"u"));
        assert_ne!(key("[2001:db8:1:2::4]:5", b"u"), key("[2001:db8:1:3::4]:5", b"u"));
        assert_eq!(key("[::ffff:10.0.0.1]:5", b"u"), key("10.0.0.1:7", b"u"));
        assert_eq!(key("/run/s.sock:0", b"u").0, "/run/s.sock:0");
    }

    #[test]
    fn many_sources_are_bounded() {
        let mut guesses = Guesses::default();
        for i in 0..3 * BUCKETS_MAX as u64 {
            guesses.wrong(at(i), &format!("10.{}.{}.1:1", i / 250, i % 250), b"a");
        }
        assert!(guesses.buckets.len() <= BUCKETS_MAX);
        let last = 3 * BUCKETS_MAX as u64 - 1;
        assert!(guesses.buckets.contains_key(&key(&format!("10.{}.{}.1:1", last / 250, last % 250), b"a")));
    }
}
