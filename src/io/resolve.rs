//! Addresses of origins, looked up beside the cores: asking for a name may take seconds, and a core has none.

use crate::origin::Target;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

/// How often a name is looked up again.
const AGAIN: Duration = Duration::from_secs(15);

/// Where an origin is, as far as is known; looked at when a connection is made.
#[derive(Debug, Default)]
pub struct Addresses(RwLock<Arc<[SocketAddr]>>);

impl Addresses {
    /// The address to try this time; `None` while the name is not known.
    pub fn pick(&self, turn: u64) -> Option<SocketAddr> {
        let known = self.0.read().expect("nobody panics while holding it").clone();
        if known.is_empty() { None } else { Some(known[(turn % known.len() as u64) as usize]) }
    }

    /// Looks a target's host up now, and if it is a name again and again on a thread of its own, until nobody has the
    /// addresses any more.
    ///
    /// # Errors
    /// That of starting the thread. A name that is not known is no error: it may be known later.
    pub fn of(target: &Target) -> std::io::Result<Arc<Addresses>> {
        let addresses = Arc::new(Addresses::default());
        if let Ok(ip) = target.host.parse::<IpAddr>() {
            addresses.set(&[SocketAddr::new(ip, target.port)]);
            return Ok(addresses);
        }
        let (host, port, weak) = (target.host.clone(), target.port, Arc::downgrade(&addresses));
        addresses.look_up(&host, port);
        std::thread::Builder::new().name("resolve".into()).spawn(move || {
            loop {
                std::thread::sleep(AGAIN);
                let Some(addresses) = Weak::upgrade(&weak) else { return };
                addresses.look_up(&host, port);
            }
        })?;
        Ok(addresses)
    }

    fn look_up(&self, host: &str, port: u16) {
        match (host, port).to_socket_addrs() {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                if !found.is_empty() {
                    self.set(&found);
                }
            }
            Err(error) => tracing::warn!("the origin's host {host} was not found: {error}"),
        }
    }

    fn set(&self, addresses: &[SocketAddr]) {
        *self.0.write().expect("nobody panics while holding it") = addresses.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_looking_up_and_a_name_is_looked_up() {
        let of = |url: &str| Addresses::of(&Target::parse(url).unwrap()).unwrap();
        assert_eq!(of("redis://127.0.0.1:7").pick(3), Some("127.0.0.1:7".parse().unwrap()));
        assert!(of("redis://localhost:7").pick(0).is_some_and(|address| address.ip().is_loopback()));
        assert_eq!(of("redis://no-such-name.invalid:7").pick(0), None);
    }
}
