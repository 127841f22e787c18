//! New connections: taken, or refused with a word, or waited for when descriptors have run out.

use super::Core;
use super::works::asker;
use crate::clock::Now;
use crate::io::connection::{Connection, Receiving};
use crate::io::ring::Completion;
use crate::io::tls::Channel;
use crate::wire::{self, Client, Protocol, Session};
use socket2::Socket;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::Ordering;

/// Accepting is tried again after this when descriptors or memory had run out.
const ACCEPT_RETRY_MILLIS: u64 = 100;

impl Core {
    pub(super) fn accepted(&mut self, now: Now, completion: &Completion) {
        let place = completion.id.place as usize;
        if !completion.more() {
            self.listeners[place].accepting = false;
            if self.draining_until.is_none() {
                self.due.accept.get_or_insert(now.mono);
            }
        }
        if completion.result < 0 {
            if matches!(-completion.result, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) {
                self.works.engine.counters.accept_backoffs_total += 1;
                self.due.accept = Some(now.mono.plus_millis(ACCEPT_RETRY_MILLIS));
            }
            return;
        }
        // SAFETY: the completion of an accept hands a new descriptor to us and nobody else.
        let socket = unsafe { Socket::from_raw_fd(completion.result) };
        let counters = &mut self.works.engine.counters;
        if self.shared.clients.fetch_add(1, Ordering::Relaxed)
            >= self.shared.clients_max.load(Ordering::Relaxed)
        {
            self.shared.clients.fetch_sub(1, Ordering::Relaxed);
            counters.connections_rejected_total += 1;
            if self.listeners[place].tls.is_some() {
                // Before a handshake there are no words.
                return;
            }
            let words: &[u8] = match self.listeners[place].wire.protocol {
                Protocol::Memcached => b"ERROR Too many open connections\r\n",
                Protocol::Native => &wire::native::frame::FULL,
                Protocol::Sniff | Protocol::Resp => b"-ERR max number of clients reached\r\n",
            };
            // A socket just accepted has room; if the client is gone already there is nobody to tell.
            let _ = socket.send(words);
            return;
        }
        let tls = match &mut self.listeners[place].tls {
            None => None,
            Some(shelf) => match Channel::server(shelf.config()) {
                Ok(channel) => Some(Box::new(channel)),
                Err(error) => {
                    tracing::error!(%error, "a TLS connection could not be begun");
                    counters.tls_failures_total += 1;
                    self.shared.clients.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            },
        };
        counters.connections_accepted_total += 1;
        counters.connections += 1;
        // A socket of this machine has the path where an address would be, and its client has nothing; shown as Redis does.
        let own = socket.local_addr().ok();
        let path = own.as_ref().and_then(|address| address.as_pathname());
        let path = path.map(|path| format!("{}:0", path.display()));
        let address = |address: Option<socket2::SockAddr>| match address.and_then(|it| it.as_socket()) {
            Some(address) => address.to_string(),
            None => path.clone().unwrap_or_default(),
        };
        let client = Client {
            id: self.shared.next_client.fetch_add(1, Ordering::Relaxed) + 1,
            peer: address(socket.peer_addr().ok()),
            local: address(own.clone()),
            since: now,
        };
        let mut session = Session::new(self.listeners[place].wire.clone(), client);
        session.be_attentive(self.wants_attention());
        let id = self.table.insert(|id| Connection::new(id, socket, session, tls, now.mono));
        let connection = self.table.of(id).expect("inserted above");
        connection.receiving = Receiving::On;
        self.ring.receive(connection.socket.as_raw_fd(), id);
        if self.works.watchers.any() {
            let asker = asker(self.works.me, id, self.works.node.core_count());
            self.works.watchers.connection(now, asker, connection.session.peer(), None);
        }
    }

    pub(super) fn arm_listeners(&mut self) {
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            if let (Some(socket), false) = (&listener.socket, listener.accepting) {
                self.ring.accept(socket.as_raw_fd(), place as u32);
                listener.accepting = true;
            }
        }
    }
}
