//! TLS, sans-IO: sealed bytes in, plain bytes out, and the other way round, for either end of a connection.
//!
//! ```text
//!   receive buffer --open--> plain bytes, record by record (decrypted where they lie), to the session
//!                     \--> what the handshake answers ..
//!   replies ---------seal--> .. and sealed replies behind it, into the buffer that is sent
//! ```
//! A [`Channel`] waits for nothing and keeps no more than one record that is not complete; whoever holds it has the socket,
//! the deadline and the bound of the buffers. `identity`: certificates and keys from files; `shelf`: the one in use, which
//! changes while connections come in; `records`: what comes behind a server's handshake by TLS 1.3.

mod identity;
mod records;
mod shelf;

pub use identity::{ClientCertificates, Failure, Files, Versions, client, common_name, server};
pub use shelf::{Reader, Shelf};

use records::Records;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ProtocolVersion, ServerConfig};
use std::sync::Arc;

/// Bytes of one record at most: what TLS 1.2 allows, its header included.
const RECORD_BYTES_MAX: usize = (1 << 14) + 2048 + 5;
/// Bytes that may wait to be complete: a handshake message may be as long, in many records.
const WAITING_BYTES_MAX: usize = 1 << 17;
/// Plain bytes of a record.
const FRAGMENT_BYTES: usize = 1 << 14;
/// What sealing adds to a fragment, generously: header, nonce, content type and tag.
const FRAGMENT_EXTRA_BYTES: usize = 64;

/// One end of a TLS connection.
pub struct Channel {
    side: Side,
    /// Received and not complete.
    waiting: Vec<u8>,
    /// Of the handshake, or an alert: to be sent before anything that is sealed from now on.
    outgoing: Vec<u8>,
    /// The certificate that a client showed, kept where rustls is not asked any more.
    certificate: Option<Vec<u8>>,
    ready: bool,
    peer_ended: bool,
    ended: bool,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// A server by TLS 1.3, its handshake done.
    Records(Box<Records>),
    /// It could not be taken over; the connection ends.
    Gone,
}

impl Channel {
    /// The end that was connected to.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn server(config: Arc<ServerConfig>) -> Result<Channel, Error> {
        Ok(Channel::new(Side::Server(Box::new(UnbufferedServerConnection::new(config)?))))
    }

    /// The end that connects, to a server that must prove to be of this name. What it says first is outgoing at once.
    ///
    /// # Errors
    /// A configuration that cannot work.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Channel, Error> {
        let side = Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?));
        let mut channel = Channel::new(side);
        channel.open(&mut [], |_| ())?;
        Ok(channel)
    }

    fn new(side: Side) -> Channel {
        Channel {
            side,
            waiting: Vec::new(),
            outgoing: Vec::new(),
            certificate: None,
            ready: false,
            peer_ended: false,
            ended: false,
        }
    }

    /// Takes in received bytes and hands out what they hold, a record at a time. They are decrypted in place.
    ///
    /// # Errors
    /// What the peer did wrong, or what is wrong with its certificate. An alert is outgoing then, and nothing more can be
    /// opened or sealed.
    pub fn open(&mut self, bytes: &mut [u8], mut plain: impl FnMut(&[u8])) -> Result<(), Error> {
        // What follows a peer's last word is noise.
        if self.ended || self.peer_ended {
            return Ok(());
        }
        let mut outcome;
        if self.waiting.is_empty() {
            let consumed;
            (consumed, outcome) = self.drive(bytes, &mut plain);
            self.waiting.extend_from_slice(&bytes[consumed..]);
        } else {
            // Only what completes the record that waits is copied; the records behind it are opened where they lie.
            let mut waiting = std::mem::take(&mut self.waiting);
            let head = record_rest(&waiting).min(bytes.len());
            let (head, rest) = bytes.split_at_mut(head);
            waiting.extend_from_slice(head);
            let consumed;
            (consumed, outcome) = self.drive(&mut waiting, &mut plain);
            waiting.drain(..consumed);
            self.waiting = waiting;
            if outcome.is_ok() && !rest.is_empty() {
                return self.open(rest, plain);
            }
        }
        if outcome.is_ok() && self.waiting.len() > WAITING_BYTES_MAX {
            outcome = Err(Error::General("a message without end".into()));
        }
        if outcome.is_err() || self.peer_ended {
            self.ended |= outcome.is_err();
            self.waiting = Vec::new();
        }
        outcome
    }

    /// Seals plain bytes behind what is in `into`. To be called when [`Channel::ready`], with what is outgoing taken.
    ///
    /// # Errors
    /// The keys are used up and cannot be renewed (TLS 1.2, after more than ten million records): the connection has to end.
    pub fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let sealed = match &mut self.side {
            Side::Server(side) => seal(side.as_mut(), &mut waiting, plain, into),
            Side::Client(side) => seal(side.as_mut(), &mut waiting, plain, into),
            Side::Records(records) => records.seal(plain, into),
            Side::Gone => Err(Error::EncryptError),
        };
        self.waiting = waiting;
        if sealed.is_err() {
            self.ended = true;
        }
        sealed
    }

    /// As `seal`, and `plain` is empty afterwards. What fits into one record is sealed where it lies, and the two change places.
    ///
    /// # Errors
    /// As of `seal`; what could not be sealed is lost.
    pub fn seal_all(&mut self, plain: &mut Vec<u8>, into: &mut Vec<u8>) -> Result<(), Error> {
        if let Side::Records(records) = &mut self.side
            && into.is_empty()
        {
            match records.seal_where_it_lies(plain) {
                Ok(true) => {
                    std::mem::swap(plain, into);
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    self.ended = true;
                    plain.clear();
                    return Err(error);
                }
            }
        }
        let sealed = self.seal(plain, into);
        plain.clear();
        sealed
    }

    /// Says that nothing more will be sealed. A farewell is outgoing if there was anybody to say it to.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        if self.ready {
            let mut waiting = std::mem::take(&mut self.waiting);
            match &mut self.side {
                Side::Server(side) => farewell(side.as_mut(), &mut waiting, &mut self.outgoing),
                Side::Client(side) => farewell(side.as_mut(), &mut waiting, &mut self.outgoing),
                Side::Records(records) => records.farewell(&mut self.outgoing),
                Side::Gone => {}
            }
        }
        self.ended = true;
    }

    /// Bytes to be sent before what is sealed next; the caller takes all of them.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Whether there are such.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the handshake is done. Changes in [`Channel::open`].
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// Whether the peer said that it sends nothing more. Changes in [`Channel::open`].
    pub fn peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// Whether it can open and seal no more: by a failure, or by [`Channel::end`].
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes received that are no complete record.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes in its buffers; what the handshake and the keys take is not counted.
    pub fn buffer_bytes(&self) -> usize {
        self.waiting.len() + self.outgoing.len()
    }

    /// The certificate that the peer showed and that was found good, if it showed one.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = match &self.side {
            Side::Server(side) => side.peer_certificates(),
            Side::Client(side) => side.peer_certificates(),
            Side::Records(_) | Side::Gone => return self.certificate.as_deref(),
        };
        chain?.first().map(AsRef::as_ref)
    }

    fn drive(&mut self, bytes: &mut [u8], plain: &mut impl FnMut(&[u8])) -> (usize, Result<(), Error>) {
        let mut consumed = 0;
        let outcome = match &mut self.side {
            Side::Server(side) => open(side.as_mut(), bytes, &mut consumed, plain, &mut self.outgoing),
            Side::Client(side) => open(side.as_mut(), bytes, &mut consumed, plain, &mut self.outgoing),
            Side::Records(records) => records
                .open(bytes, &mut consumed, plain, &mut self.outgoing)
                .map(|peer_ended| Standing { ready: true, peer_ended }),
            Side::Gone => Err(Error::DecryptError),
        };
        let outcome = outcome.and_then(|standing| {
            self.ready |= standing.ready;
            self.peer_ended |= standing.peer_ended;
            self.take_over()
        });
        (consumed, outcome)
    }

    /// Goes on without rustls where only records are left: a server by TLS 1.3 whose handshake is done and sent.
    fn take_over(&mut self) -> Result<(), Error> {
        let done = match &self.side {
            Side::Server(side) => {
                self.ready
                    && !self.peer_ended
                    && !side.is_handshaking()
                    && !side.has_something_to_say()
                    && side.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            }
            _ => false,
        };
        if done {
            self.certificate = self.peer_certificate().map(<[u8]>::to_vec);
            if let Side::Server(side) = std::mem::replace(&mut self.side, Side::Gone) {
                self.side = Side::Records(Box::new(Records::of(*side)?));
            }
        }
        Ok(())
    }
}

/// Bytes that the first record of `waiting` still lacks; more than it lacks while its length is not known.
fn record_rest(waiting: &[u8]) -> usize {
    match waiting {
        [_, _, _, high, low, ..] => {
            let whole = 5 + usize::from(u16::from_be_bytes([*high, *low]));
            // A handshake message in several records leaves whole ones here, waiting for the last.
            whole.checked_sub(waiting.len()).filter(|rest| *rest > 0).unwrap_or(RECORD_BYTES_MAX)
        }
        _ => RECORD_BYTES_MAX,
    }
}

/// What both kinds of connection can do, which rustls gives no common name.
trait Steps {
    type Data;
    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn has_something_to_say(&self) -> bool;
}

impl Steps for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
    fn has_something_to_say(&self) -> bool {
        self.wants_write()
    }
}

impl Steps for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
    fn has_something_to_say(&self) -> bool {
        self.wants_write()
    }
}

/// How a connection stands after a step.
#[derive(Default)]
struct Standing {
    ready: bool,
    peer_ended: bool,
}

/// Does all that the bytes allow; `consumed` tells how many are done with, whatever comes of it.
fn open<S: Steps>(
    side: &mut S,
    bytes: &mut [u8],
    consumed: &mut usize,
    plain: &mut impl FnMut(&[u8]),
    outgoing: &mut Vec<u8>,
) -> Result<Standing, Error> {
    let mut standing = Standing::default();
    loop {
        let UnbufferedStatus { discard, state } = side.step(&mut bytes[*consumed..]);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|into| data.encode(into), outgoing),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    *consumed += record.discard;
                    plain(record.payload);
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => standing.peer_ended = true,
            Ok(state) => {
                *consumed += discard;
                standing.ready = matches!(state, ConnectionState::WriteTraffic(_));
                return match state {
                    ConnectionState::WriteTraffic(_)
                    | ConnectionState::BlockedHandshake
                    | ConnectionState::Closed => Ok(standing),
                    state => Err(Error::General(format!("not asked for: {state:?}"))),
                };
            }
            Err(error) => {
                // Its alert waits to be sent. What is wrong must not be looked at again, so no more steps than that.
                while side.has_something_to_say() {
                    let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut data)), .. } =
                        side.step(&mut bytes[*consumed..])
                    else {
                        break;
                    };
                    encode(|into| data.encode(into), outgoing);
                }
                return Err(error);
            }
        }
        *consumed += discard;
    }
}

fn seal<S: Steps>(
    side: &mut S,
    waiting: &mut Vec<u8>,
    plain: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { discard, state } = side.step(waiting);
        match state? {
            ConnectionState::EncodeTlsData(mut data) => encode(|buf| data.encode(buf), into),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                let at = into.len();
                let fragments = plain.len().div_ceil(FRAGMENT_BYTES) + 1;
                into.resize(at + plain.len() + fragments * FRAGMENT_EXTRA_BYTES, 0);
                let sealed = match traffic.encrypt(plain, &mut into[at..]) {
                    Err(EncryptError::InsufficientSize(lack)) => {
                        into.resize(at + lack.required_size, 0);
                        traffic.encrypt(plain, &mut into[at..])
                    }
                    sealed => sealed,
                };
                into.truncate(at + *sealed.as_ref().unwrap_or(&0));
                return sealed.map(|_| ()).map_err(|_| Error::EncryptError);
            }
            ConnectionState::PeerClosed => {}
            state => return Err(Error::General(format!("no time to seal: {state:?}"))),
        }
        waiting.drain(..discard);
    }
}

fn farewell<S: Steps>(side: &mut S, waiting: &mut Vec<u8>, outgoing: &mut Vec<u8>) {
    loop {
        let UnbufferedStatus { discard, state } = side.step(waiting);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|buf| data.encode(buf), outgoing),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let at = outgoing.len();
                outgoing.resize(at + FRAGMENT_EXTRA_BYTES, 0);
                // Where there is no room or no key for a farewell the peer does without one.
                let bytes = traffic.queue_close_notify(&mut outgoing[at..]).unwrap_or(0);
                return outgoing.truncate(at + bytes);
            }
            _ => return,
        }
        waiting.drain(..discard);
    }
}

/// Appends what `encode` writes once the buffer is as long as it asks for.
fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, into: &mut Vec<u8>) {
    let at = into.len();
    let mut written = encode(&mut []);
    if let Err(EncodeError::InsufficientSize(lack)) = &written {
        into.resize(at + lack.required_size, 0);
        written = encode(&mut into[at..]);
    }
    into.truncate(at + written.unwrap_or(0));
}

#[cfg(test)]
mod tests;
