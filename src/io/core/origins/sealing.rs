//! TLS with origins: how it begins, and what is opened and believed.

use super::{Opening, OriginTls};
use crate::clock::Now;
use crate::ids::ConnectionId;
use crate::io::core::Core;
use crate::io::tls::Channel;
use crate::io::trust;
use crate::origin::{TLS_FOLLOWS, TLS_REFUSED};

impl Core {
    pub(super) fn begin_tls(&mut self, now: Now, id: ConnectionId, tls: OriginTls) {
        let link = self.origins.of(id).expect("callers look");
        let (origin, line) = (link.origin, link.line);
        let own_name = self.origins.place(origin, line).and_then(|place| place.name.clone());
        let own_name =
            own_name.and_then(|name| rustls::pki_types::ServerName::try_from(name.to_string()).ok());
        match Channel::client(tls.config, own_name.unwrap_or(tls.name)) {
            Ok(channel) => {
                let link = self.origins.of(id).expect("looked at above");
                link.channel = Some(Box::new(channel));
                // Its first words are outgoing.
                self.origins.dirty.push(id);
            }
            Err(why) => self.refuse_origin(now, id, why.to_string()),
        }
    }

    /// An origin has answered whether it has TLS.
    fn hear_opening(&mut self, now: Now, id: ConnectionId, buffer: u16, len: usize) {
        let link = self.origins.of(id).expect("callers look");
        link.asked = false;
        let (origin, line) = (link.origin, link.line);
        let tls = self.origins.sources.origins[self.origins.origin_of(origin)].tls.clone();
        let tls = tls.expect("only who has TLS asks");
        let clear = tls.opening == Opening::Asked { clear: true };
        match self.buffers.piece(buffer, len) {
            [TLS_FOLLOWS] => self.begin_tls(now, id, tls),
            [TLS_REFUSED] if clear => self.origins.tell_connected(now.mono, origin, line),
            [TLS_REFUSED] => {
                let why = "the origin has no TLS: turn `ssl` on there, or say sslmode=disable in its url";
                self.refuse_origin(now, id, why.into());
            }
            // What stands behind the answer nobody has sealed: it may be anybody's.
            [TLS_FOLLOWS | TLS_REFUSED, ..] => {
                self.refuse_origin(now, id, "more than an answer came before TLS began".into());
            }
            _ => self.refuse_origin(now, id, "what answered is no PostgreSQL: is the port right?".into()),
        }
    }

    /// Takes in bytes of an origin: sealed ones are opened, and when the handshake is done the pool hears of the connection.
    pub(super) fn hear_origin(&mut self, now: Now, id: ConnectionId, buffer: u16, len: usize) {
        let link = self.origins.of(id).expect("callers look");
        if link.asked {
            return self.hear_opening(now, id, buffer, len);
        }
        let (origin, line) = (link.origin, link.line);
        let Some(mut channel) = link.channel.take() else {
            return self.origins.tell_received(now.mono, origin, line, self.buffers.piece(buffer, len));
        };
        let mut plain = Vec::new();
        let opened =
            channel.open(self.buffers.piece_mut(buffer, len), |bytes| plain.extend_from_slice(bytes));
        let (ready, says, over) = (channel.ready(), channel.has_outgoing(), channel.peer_ended());
        let link = self.origins.of(id).expect("looked at above");
        let announces = ready && !link.announced;
        if let (true, Some(certificate)) = (announces, channel.peer_certificate()) {
            self.origins.tell_proven(origin, line, certificate);
        }
        let link = self.origins.of(id).expect("looked at above");
        link.channel = Some(channel);
        link.announced |= ready;
        if says {
            self.origins.dirty.push(id);
        }
        if announces {
            self.origins.tell_connected(now.mono, origin, line);
            let pool = self.origins.pool_of(origin);
            self.origins.last_tls[pool] = None;
        }
        if !plain.is_empty() {
            self.origins.tell_received(now.mono, origin, line, &plain);
        }
        match opened {
            Err(why) => self.refuse_origin(now, id, trust::reason(&why)),
            Ok(()) if over => {
                self.origins.tell_closed(now.mono, origin, line);
                self.origins.drop_link(&mut self.ring, id);
            }
            Ok(()) => {}
        }
    }

    /// Gives a connection up on which TLS did not come about, or broke.
    fn refuse_origin(&mut self, now: Now, id: ConnectionId, why: String) {
        let Some(link) = self.origins.of(id) else { return };
        let (origin, line) = (link.origin, link.line);
        // That of a private line is told with those of the pool that asks.
        let pool = self.origins.pool_of(origin);
        // Once for each reason: what follows from it is no news.
        if self.origins.last_tls[pool].as_ref() != Some(&why) {
            let name = &self.origins.sources.origins[self.origins.origin_of(origin)].name;
            tracing::warn!(origin = name, why, "TLS with an origin does not come about");
            self.origins.last_tls[pool] = Some(why);
        }
        self.origins.tell_refused(now.mono, origin, line);
        self.origins.drop_link(&mut self.ring, id);
    }
}
