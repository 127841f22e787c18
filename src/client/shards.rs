//! The shard map as a client uses it: from a key to a connection.

use crate::hash::slot_of;
use crate::ids::SLOT_COUNT;
use crate::wire::native::frame::MapReply;
use std::net::{IpAddr, SocketAddr};

/// Who owns which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    pub(super) epoch: u64,
    pub(super) owners: Vec<Owner>,
    /// Place in `owners`, by slot.
    slots: Vec<u16>,
}

/// A core of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// `None`: the host that the client has connected to.
    host: Option<IpAddr>,
    /// 0: the core has no port of its own.
    port: u16,
    /// The link by which its requests go; 0: the first.
    pub(super) link: usize,
}

impl Owner {
    /// Where it listens, seen from a client connected to `here`; `None` if it has no port of its own or its address is a name.
    pub(super) fn address(&self, here: SocketAddr) -> Option<SocketAddr> {
        (self.port != 0).then(|| SocketAddr::new(self.host.unwrap_or(here.ip()), self.port))
    }
}

impl Shards {
    /// From a reply, whose owners and slots were checked when it was read.
    pub(super) fn of(map: &MapReply<'_>) -> Shards {
        let owners = map.owners.iter().map(|owner| {
            let host = std::str::from_utf8(owner.address).ok().and_then(|text| text.parse().ok());
            // One whose address is not understood is reached through the server asked.
            let port = if host.is_none() && !owner.address.is_empty() { 0 } else { owner.port };
            Owner { host, port, link: 0 }
        });
        let mut slots = vec![0; usize::from(SLOT_COUNT)];
        for range in &map.ranges {
            slots[usize::from(range.first)..=usize::from(range.last)].fill(range.owner);
        }
        Shards { epoch: map.epoch, owners: owners.collect(), slots }
    }

    /// The link of a key's owner.
    pub(super) fn link_of(&self, key: &[u8]) -> usize {
        self.owners[usize::from(self.slots[usize::from(slot_of(key).number())])].link
    }
}
