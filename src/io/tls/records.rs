//! Records of TLS 1.3 by a server whose handshake is done: opened and sealed where they lie.
//!
//! rustls does the handshake and keeps the secrets; what is left is one cipher over 16 KiB at a time. It copies each record twice
//! and allocates for it; here a record is decrypted in the receive buffer and encrypted in the buffer that is sent.
//!
//! ```text
//!   type 23 | version | length of the rest || what is said | its type | zeros || tag
//!   \________ authenticated _____________/ \________ encrypted ______________/
//! ```
//! The number of a record, which both ends count, is its nonce. Keys are renewed ([RFC 8446], 4.6.3) when the peer does so and
//! before they have sealed [`KEY_RECORDS_MAX`] records. Nothing else may come after a handshake but an alert.
//!
//! [RFC 8446]: https://www.rfc-editor.org/rfc/rfc8446

use super::FRAGMENT_BYTES;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{ConnectionTrafficSecrets, Error};

const HEADER_BYTES: usize = 5;
/// Bytes that a record may have behind its header: of plain text, its type and padding, and what a cipher may add.
const SEALED_BYTES_MAX: usize = (1 << 14) + 256;
/// Records that one key seals: half of what is safe with AES-GCM.
const KEY_RECORDS_MAX: u64 = 1 << 23;
/// Renewals of keys that a peer may ask for without saying anything.
const RENEWALS_MAX: u32 = 32;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
/// A message of the handshake with one byte: whether the other end is to renew its key as well.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// Both directions of a connection.
pub(super) struct Records {
    receive: Direction,
    transmit: Direction,
    secrets: KernelConnection<ServerConnectionData>,
    /// The peer wants our key renewed before we say anything more.
    owes_renewal: bool,
    /// Renewals since the peer last said something.
    renewals: u32,
    key_records_max: u64,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    /// Number of the next record.
    number: u64,
    /// Records since the key is in use.
    used: u64,
}

impl Direction {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Direction, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher of no name".into())),
        };
        let unusable = || Error::General("a secret of the wrong length".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Direction { key: LessSafeKey::new(key), iv, number, used: 0 })
    }

    /// The nonce of the next record; no two have the same.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        let number = self.number.to_be_bytes();
        nonce[aead::NONCE_LEN - number.len()..].iter_mut().zip(number).for_each(|(byte, part)| *byte ^= part);
        self.number += 1;
        self.used += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals at most [`FRAGMENT_BYTES`] as one record behind what is in `into`.
    fn seal(&mut self, kind: u8, plain: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        let header = self.header(plain.len());
        into.reserve(HEADER_BYTES + plain.len() + 1 + aead::MAX_TAG_LEN);
        into.extend_from_slice(&header);
        let start = into.len();
        into.extend_from_slice(plain);
        into.push(kind);
        self.encrypt(header, start, into)
    }

    /// The header of a record of so many plain bytes.
    fn header(&self, plain_bytes: usize) -> [u8; HEADER_BYTES] {
        let [high, low] = ((plain_bytes + 1 + self.key.algorithm().tag_len()) as u16).to_be_bytes();
        [APPLICATION_DATA, 3, 3, high, low]
    }

    /// Encrypts a record's inside, which begins at `start` and is the end of `into`, and puts its tag behind it.
    fn encrypt(&mut self, header: [u8; HEADER_BYTES], start: usize, into: &mut Vec<u8>) -> Result<(), Error> {
        let nonce = self.nonce();
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut into[start..]);
        into.extend_from_slice(tag.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(())
    }
}

impl Records {
    /// Takes a connection over whose handshake is done and which has nothing to send.
    ///
    /// # Errors
    /// It is not so far, or its configuration keeps the secrets to itself.
    pub fn of(connection: UnbufferedServerConnection) -> Result<Records, Error> {
        let (extracted, secrets) = connection.dangerous_into_kernel_connection()?;
        Ok(Records {
            receive: Direction::new(extracted.rx)?,
            transmit: Direction::new(extracted.tx)?,
            secrets,
            owes_renewal: false,
            renewals: 0,
            key_records_max: KEY_RECORDS_MAX,
        })
    }

    /// Opens the complete records that `bytes` begins with; `consumed` tells how many bytes are done with, whatever comes of it.
    /// Answers whether the peer said farewell.
    ///
    /// # Errors
    /// What the peer did wrong; an alert about it is in `outgoing`.
    pub fn open(
        &mut self,
        bytes: &mut [u8],
        consumed: &mut usize,
        plain: &mut impl FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        loop {
            let rest = &mut bytes[*consumed..];
            let Some(header) = rest.first_chunk::<HEADER_BYTES>().copied() else { return Ok(false) };
            let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if header[0] != APPLICATION_DATA {
                return self.refuse(UNEXPECTED_MESSAGE, "a record that is not sealed", outgoing);
            }
            if len > SEALED_BYTES_MAX {
                return self.refuse(RECORD_OVERFLOW, "a record that is too long", outgoing);
            }
            let Some(body) = rest.get_mut(HEADER_BYTES..HEADER_BYTES + len) else { return Ok(false) };
            *consumed += HEADER_BYTES + len;
            let nonce = self.receive.nonce();
            let Ok(opened) = self.receive.key.open_in_place(nonce, Aad::from(header), body) else {
                self.refuse(BAD_RECORD_MAC, "", outgoing).ok();
                return Err(Error::DecryptError);
            };
            // Zeros behind the type are padding.
            let Some(end) = opened.iter().rposition(|byte| *byte != 0) else {
                return self.refuse(UNEXPECTED_MESSAGE, "a record without a type", outgoing);
            };
            let (said, kind) = (&opened[..end], opened[end]);
            if said.len() > FRAGMENT_BYTES {
                return self.refuse(RECORD_OVERFLOW, "a record that holds too much", outgoing);
            }
            match (kind, said) {
                (APPLICATION_DATA, said) => {
                    self.renewals = 0;
                    plain(said);
                }
                (ALERT, [_, CLOSE_NOTIFY]) => return Ok(true),
                (ALERT, [_, code]) => return Err(Error::AlertReceived((*code).into())),
                (HANDSHAKE, [head @ .., both @ (0 | 1)]) if head == KEY_UPDATE => {
                    self.renewals += 1;
                    self.owes_renewal |= *both == 1;
                    if self.renewals > RENEWALS_MAX {
                        return self.refuse(UNEXPECTED_MESSAGE, "keys renewed again and again", outgoing);
                    }
                    self.receive = Direction::new(self.secrets.update_rx_secret()?)?;
                }
                _ => return self.refuse(UNEXPECTED_MESSAGE, "no time for such a message", outgoing),
            }
        }
    }

    /// Seals plain bytes behind what is in `into`, in as few records as there may be.
    ///
    /// # Errors
    /// Of the cipher; the connection has to end.
    pub fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        for fragment in plain.chunks(FRAGMENT_BYTES) {
            if self.owes_renewal || self.transmit.used >= self.key_records_max {
                self.owes_renewal = false;
                self.transmit.seal(HANDSHAKE, &[24, 0, 0, 1, 0], into)?;
                self.transmit = Direction::new(self.secrets.update_tx_secret()?)?;
            }
            self.transmit.seal(APPLICATION_DATA, fragment, into)?;
        }
        Ok(())
    }

    /// Makes one record of what is in `buffer`, there; `false`, and nothing has changed, if it takes more or less than that.
    ///
    /// # Errors
    /// As of `seal`.
    pub fn seal_where_it_lies(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Error> {
        let plain = buffer.len();
        if plain == 0
            || plain > FRAGMENT_BYTES
            || self.owes_renewal
            || self.transmit.used >= self.key_records_max
        {
            return Ok(false);
        }
        let header = self.transmit.header(plain);
        buffer.reserve(HEADER_BYTES + 1 + aead::MAX_TAG_LEN);
        buffer.resize(HEADER_BYTES + plain, 0);
        buffer.copy_within(..plain, HEADER_BYTES);
        buffer[..HEADER_BYTES].copy_from_slice(&header);
        buffer.push(APPLICATION_DATA);
        self.transmit.encrypt(header, HEADER_BYTES, buffer)?;
        Ok(true)
    }

    /// Says that nothing more comes.
    pub fn farewell(&mut self, outgoing: &mut Vec<u8>) {
        // Where there is no key for a farewell the peer does without one.
        let _ = self.transmit.seal(ALERT, &[WARNING, CLOSE_NOTIFY], outgoing);
    }

    #[cold]
    fn refuse(&mut self, alert: u8, why: &str, outgoing: &mut Vec<u8>) -> Result<bool, Error> {
        self.transmit.seal(ALERT, &[FATAL, alert], outgoing)?;
        Err(Error::General(why.into()))
    }

    /// The cipher that both ends agreed on.
    #[cfg(test)]
    pub fn suite(&self) -> rustls::CipherSuite {
        self.secrets.negotiated_cipher_suite().suite()
    }

    /// Has keys be renewed after so many records.
    #[cfg(test)]
    pub fn renew_after(&mut self, records: u64) {
        self.key_records_max = records;
    }
}
