//! Sockets to origins, on the core's ring.

use super::{Opening, Origins};
use crate::clock::Now;
use crate::ids::ConnectionId;
use crate::io::core::Core;
use crate::io::ring::{Completion, Ring};
use crate::io::tls::Channel;
use crate::origin::SSL_REQUEST;
use crate::origin::pool::Line;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A connection to an origin that says nothing for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Generations are told apart by as many bits as a completion's tag has room for.
const GENERATION_MASK: u32 = (1 << crate::io::table::GENERATION_BITS) - 1;
/// Capacity that an empty sending buffer keeps.
const KEEP_BYTES: usize = 64 << 10;

/// A socket to an origin.
///
/// Invariant: while `in_flight`, `sending` is neither changed nor dropped, and while `connecting` neither is `address`,
/// because the kernel reads them; `busy` says whether any operation is out.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) origin: usize,
    pub(super) line: Line,
    pub(super) socket: Socket,
    /// While connecting.
    pub(super) address: Option<Box<SockAddr>>,
    pub(super) connecting: bool,
    pub(super) receiving: bool,
    pub(super) in_flight: bool,
    pub(super) sending: Vec<u8>,
    pub(super) sent: usize,
    /// What seals, where the origin is spoken to by TLS; and whether the pool knows that it does.
    pub(super) channel: Option<Box<Channel>>,
    pub(super) announced: bool,
    /// Asked whether there is TLS, and not answered.
    pub(super) asked: bool,
    /// Given up; goes when the kernel is done with it.
    pub(super) dying: bool,
}

impl Link {
    fn busy(&self) -> bool {
        self.connecting || self.receiving || self.in_flight
    }
}

impl Origins {
    pub(super) fn of(&mut self, id: ConnectionId) -> Option<&mut Link> {
        let (generation, link) = self.places.get_mut(id.place as usize)?;
        if *generation == id.generation { link.as_deref_mut() } else { None }
    }

    pub(super) fn by_line(&mut self, origin: usize, line: Line) -> Option<&mut Link> {
        if Self::is_private(origin) {
            let id = self.private_of(origin).socket(line)?;
            return self.of(id).filter(|link| !link.dying);
        }
        let links = self.places.iter_mut().filter_map(|(_, link)| link.as_deref_mut());
        links.into_iter().find(|link| link.origin == origin && link.line == line && !link.dying)
    }

    /// Makes a socket and has it connected; `None` if it cannot even be made.
    pub(super) fn connect(&mut self, ring: &mut Ring, origin: usize, line: Line) -> Option<()> {
        let addresses = &self.sources.origins[self.origin_of(origin)].addresses;
        let place = self.place(origin, line);
        let address = match place.and_then(|place| Some(SocketAddr::new(place.ip?, place.port))) {
            Some(address) => address,
            None => {
                let first = addresses.pick(line.0)?;
                SocketAddr::new(first.ip(), place.map_or(first.port(), |place| place.port))
            }
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).ok()?;
        socket.set_tcp_nodelay(true).ok()?;
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE)).ok()?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let id = ConnectionId { place, generation: self.places[place as usize].0 };
        let address = Box::new(SockAddr::from(address));
        ring.connect(socket.as_raw_fd(), id, &address);
        self.places[place as usize].1 = Some(Box::new(Link {
            id,
            origin,
            line,
            socket,
            address: Some(address),
            connecting: true,
            receiving: false,
            in_flight: false,
            sending: Vec::new(),
            sent: 0,
            channel: None,
            announced: false,
            asked: false,
            dying: false,
        }));
        if Self::is_private(origin) {
            self.private_of(origin).bind(line, id);
        }
        Some(())
    }

    /// Gives a link up; it goes when nothing of it is out any more.
    pub(super) fn drop_link(&mut self, ring: &mut Ring, id: ConnectionId) {
        let Some(link) = self.of(id) else { return };
        if !link.dying {
            link.dying = true;
            if link.connecting {
                ring.stop_connecting(id);
            } else if link.busy() {
                // Completes what is armed. A socket that is closed already has nothing to shut down.
                let _ = link.socket.shutdown(std::net::Shutdown::Both);
            }
        }
        if !link.busy() {
            let (generation, link) = &mut self.places[id.place as usize];
            *generation = (*generation + 1) & GENERATION_MASK;
            *link = None;
            self.free.push(id.place);
        }
    }

    /// Whether the kernel may still read or write memory of a link.
    pub(in crate::io::core) fn busy(&self) -> bool {
        self.places.iter().filter_map(|(_, link)| link.as_deref()).any(Link::busy)
    }
}

impl Core {
    pub(super) fn send_to_origins(&mut self) {
        for id in std::mem::take(&mut self.origins.dirty) {
            let Some(link) = self.origins.of(id) else { continue };
            if link.dying || link.connecting || link.in_flight {
                continue;
            }
            let (origin, line) = (link.origin, link.line);
            let output = match Origins::is_private(origin) {
                true => self.origins.private_of(origin).output(line),
                false => self.origins.pools[origin].output(line),
            };
            let Some(output) = output.map(std::mem::take) else { continue };
            let link = self.origins.of(id).expect("looked at above");
            link.sent = 0;
            match &mut link.channel {
                None => link.sending = output,
                Some(channel) => {
                    link.sending = std::mem::take(channel.outgoing());
                    // A pool says nothing before it knows of the connection. Keys that are used up end it: the origin sees
                    // no more of us, and the deadline of what was asked brings that to light.
                    if !output.is_empty() && channel.seal(&output, &mut link.sending).is_err() {
                        link.sending.clear();
                    }
                }
            }
            link.in_flight = !link.sending.is_empty();
            if link.in_flight {
                self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending);
            }
        }
        for id in std::mem::take(&mut self.origins.rearm) {
            let Some(link) = self.origins.of(id) else { continue };
            if !link.dying && !link.receiving {
                link.receiving = true;
                self.ring.receive_from_origin(link.socket.as_raw_fd(), id);
            }
        }
    }

    pub(in crate::io::core) fn origin_connected(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else { return };
        (link.connecting, link.address) = (false, None);
        let (origin, line) = (link.origin, link.line);
        if link.dying {
            return self.origins.drop_link(&mut self.ring, id);
        }
        if completion.result < 0 {
            self.origins.drop_link(&mut self.ring, id);
            self.origins.tell_closed(now.mono, origin, line);
            return;
        }
        link.receiving = true;
        self.ring.receive_from_origin(link.socket.as_raw_fd(), id);
        let tls = self.origins.sources.origins[self.origins.origin_of(origin)].tls.clone();
        match tls {
            None => self.origins.tell_connected(now.mono, origin, line),
            Some(tls) if tls.opening == Opening::AtOnce => self.begin_tls(now, id, tls),
            Some(_) => {
                let link = self.origins.of(id).expect("looked at above");
                (link.asked, link.in_flight) = (true, true);
                link.sending = SSL_REQUEST.to_vec();
                self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending);
            }
        }
    }

    pub(in crate::io::core) fn origin_received(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else {
            if let Some(buffer) = completion.buffer() {
                self.buffers.give_back(buffer);
            }
            return;
        };
        link.receiving = completion.more();
        let (origin, line, dying) = (link.origin, link.line, link.dying);
        if completion.result > 0 {
            let buffer = completion.buffer().expect("a receive that brought bytes names its buffer");
            if !dying {
                self.hear_origin(now, id, buffer, completion.result as usize);
            }
            self.buffers.give_back(buffer);
            if !completion.more() {
                self.origins.rearm.push(id);
            }
        } else if -completion.result == libc::ENOBUFS && !dying {
            self.works.engine.counters.buffers_exhausted_total += 1;
            self.origins.rearm.push(id);
        } else if !dying {
            self.origins.tell_closed(now.mono, origin, line);
            self.origins.drop_link(&mut self.ring, id);
        }
        if dying {
            self.origins.drop_link(&mut self.ring, id);
        }
    }

    pub(in crate::io::core) fn origin_sent(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(link) = self.origins.of(id) else { return };
        let (origin, line) = (link.origin, link.line);
        if completion.result > 0 {
            link.sent += completion.result as usize;
            if link.sent < link.sending.len() && !link.dying {
                return self.ring.send_to_origin(link.socket.as_raw_fd(), id, &link.sending[link.sent..]);
            }
        }
        link.in_flight = false;
        link.sending.clear();
        link.sending.shrink_to(KEEP_BYTES);
        if link.dying {
            return self.origins.drop_link(&mut self.ring, id);
        }
        if completion.result <= 0 {
            self.origins.tell_closed(now.mono, origin, line);
            return self.origins.drop_link(&mut self.ring, id);
        }
        // What was said meanwhile follows.
        self.origins.dirty.push(id);
    }
}
