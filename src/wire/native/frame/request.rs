//! Requests: what a client writes and a server reads (sections 4 and 5).

use super::{
    BODY_BYTES_MAX, Frame, Header, INVALIDATE_STALE, INVALIDATE_TAG, KEY_BYTES_MAX, LEASE_MILLIS_MAX,
    MAGIC_REQUEST, Meta, NAME_BYTES_MAX, Opcode, PUT_KEEP_TTL, Status, flags, u16_at, u32_at, u64_at,
};
use crate::ids::Version;

/// What must hold for a PUT to happen (4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// There is no item.
    Absent,
    /// There is one.
    Present,
    /// There is one of exactly the meta block's version.
    VersionIs,
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Time to live, flags, and the version of the condition.
    pub meta: Meta,
    /// Whether it happens at all.
    pub condition: Condition,
    /// Keep the time to live of the item replaced; the block's is 0.
    pub keep_ttl: bool,
}

/// A request as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Who is there, and what both can do.
    Hello(Hello<'a>),
    /// User and password.
    Auth {
        /// `default` or empty.
        user: &'a [u8],
        /// The password.
        password: &'a [u8],
    },
    /// The same bytes back, up to [`super::PING_BYTES_MAX`].
    Ping(&'a [u8]),
    /// The shard map.
    Map {
        /// Epoch that is known already; 0: none.
        known_epoch: u64,
    },
    /// Counters of all cores.
    Stats,
    /// Read.
    Get(&'a [u8]),
    /// Read if newer.
    GetNewer {
        /// The key.
        key: &'a [u8],
        /// The version that is known already.
        than: Version,
    },
    /// Read several.
    GetMany(Items<'a>),
    /// Read, or get the right to fill.
    LeaseGet {
        /// The key.
        key: &'a [u8],
        /// How long the right may be held; 0: [`super::LEASE_MILLIS_DEFAULT`].
        lease_millis: u32,
    },
    /// Store.
    Put(Put<'a>),
    /// Fill: `condition` is [`Condition::VersionIs`].
    LeasePut(Put<'a>),
    /// Store several.
    PutMany(Items<'a>),
    /// Change the time to live.
    Touch {
        /// The key.
        key: &'a [u8],
        /// The new one in milliseconds; 0: without end.
        ttl_millis: u64,
    },
    /// Remove.
    Invalidate {
        /// The key.
        key: &'a [u8],
        /// Mark stale instead.
        stale: bool,
    },
    /// Remove several.
    InvalidateMany(Items<'a>),
    /// Remove all items whose keys begin so, or that an origin put under a tag.
    InvalidateAll {
        /// The prefix, or the tag.
        name: &'a [u8],
        /// Whether it is a tag.
        tag: bool,
    },
}

/// A client's HELLO (4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest version it speaks.
    pub version_min: u8,
    /// Highest version it speaks.
    pub version_max: u8,
    /// Bits of [`super::capabilities`].
    pub capabilities: u32,
    /// Its name.
    pub name: &'a [u8],
}

/// The items of a batch (4.6), as they stand in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    /// Number of items that the header tells.
    pub count: u16,
    /// Their bytes.
    pub bytes: &'a [u8],
}

/// The lengths in front of an item of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemHead {
    /// Bytes of the head itself.
    pub head_len: usize,
    /// Bytes of the key.
    pub key_len: usize,
    /// Bytes of the value; 0 where items have none.
    pub value_len: usize,
    /// Time to live and flags; plain where items have none.
    pub meta: Meta,
}

impl ItemHead {
    /// Bytes of a head in batches of this opcode.
    #[inline]
    pub const fn len_of(opcode: Opcode) -> usize {
        if matches!(opcode, Opcode::PutMany) { 18 } else { 2 }
    }

    /// Reads the head of an item; `None` if `bytes` is shorter.
    #[inline]
    pub fn read(opcode: Opcode, bytes: &[u8]) -> Option<ItemHead> {
        let head_len = ItemHead::len_of(opcode);
        let bytes = bytes.get(..head_len)?;
        let key_len = usize::from(u16_at(bytes, 0));
        Some(if opcode == Opcode::PutMany {
            let meta =
                Meta { ttl_millis: u64_at(bytes, 6), version: Version::NONE, flags: u32_at(bytes, 14) };
            ItemHead { head_len, key_len, value_len: u32_at(bytes, 2) as usize, meta }
        } else {
            ItemHead { head_len, key_len, value_len: 0, meta: Meta::PLAIN }
        })
    }

    /// Bytes of the whole item; cannot overflow, the lengths have 16 and 32 bits.
    #[inline]
    pub const fn item_len(&self) -> u64 {
        self.head_len as u64 + self.key_len as u64 + self.value_len as u64
    }
}

/// A status of sections 6.2 that keeps a body from being a request.
type Malformed = Status;

fn split_u64(body: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (bytes, rest) = body.split_first_chunk::<8>().ok_or(Status::MALFORMED)?;
    Ok((u64::from_le_bytes(*bytes), rest))
}

impl<'a> Request<'a> {
    /// Reads the request of a header and its body (without checksum). Keys are not judged: an empty one is for the caller
    /// to refuse.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for an unknown opcode, [`Status::MALFORMED`] if the body does not fit it.
    #[inline]
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Request<'a>, Status> {
        let opcode = Opcode::of(header.opcode).ok_or(Status::UNSUPPORTED)?;
        let key_len = usize::from(header.key_len_or_status);
        let detail = header.detail;
        // The usual first; both have no detail and nothing in front of the key.
        if opcode == Opcode::Get && detail == 0 && key_len == body.len() {
            return Ok(Request::Get(body));
        }
        let whole = |body: &'a [u8]| if body.len() == key_len { Ok(body) } else { Err(Status::MALFORMED) };
        let no_detail = if detail == 0 { Ok(()) } else { Err(Status::MALFORMED) };
        let no_key = if key_len == 0 { Ok(()) } else { Err(Status::MALFORMED) };
        match opcode {
            Opcode::Put | Opcode::LeasePut => {
                let (meta, rest) = Meta::split(body).ok_or(Status::MALFORMED)?;
                let (key, value) = rest.split_at_checked(key_len).ok_or(Status::MALFORMED)?;
                let keep_ttl = detail & PUT_KEEP_TTL != 0;
                let condition = match (opcode, detail & !PUT_KEEP_TTL) {
                    (Opcode::LeasePut, 0) => Condition::VersionIs,
                    (Opcode::Put, 0) => Condition::Always,
                    (Opcode::Put, 1) => Condition::Absent,
                    (Opcode::Put, 2) => Condition::Present,
                    (Opcode::Put, 3) => Condition::VersionIs,
                    _ => return Err(Status::MALFORMED),
                };
                let versionless = condition != Condition::VersionIs;
                if (versionless && meta.version != Version::NONE) || (keep_ttl && meta.ttl_millis != 0) {
                    return Err(Status::MALFORMED);
                }
                let put = Put { key, value, meta, condition, keep_ttl };
                Ok(if opcode == Opcode::Put { Request::Put(put) } else { Request::LeasePut(put) })
            }
            Opcode::Get => {
                no_detail?;
                Ok(Request::Get(whole(body)?))
            }
            Opcode::GetNewer => {
                no_detail?;
                let (than, key) = split_u64(body)?;
                Ok(Request::GetNewer { key: whole(key)?, than: Version(than) })
            }
            Opcode::LeaseGet => {
                no_detail?;
                let (bytes, key) = body.split_first_chunk::<4>().ok_or(Status::MALFORMED)?;
                let lease_millis = u32::from_le_bytes(*bytes);
                if lease_millis > LEASE_MILLIS_MAX {
                    return Err(Status::MALFORMED);
                }
                Ok(Request::LeaseGet { key: whole(key)?, lease_millis })
            }
            Opcode::Touch => {
                no_detail?;
                let (ttl_millis, key) = split_u64(body)?;
                Ok(Request::Touch { key: whole(key)?, ttl_millis })
            }
            Opcode::Invalidate if detail <= INVALIDATE_STALE => {
                Ok(Request::Invalidate { key: whole(body)?, stale: detail == INVALIDATE_STALE })
            }
            Opcode::InvalidateAll if detail <= INVALIDATE_TAG => {
                Ok(Request::InvalidateAll { name: whole(body)?, tag: detail == INVALIDATE_TAG })
            }
            Opcode::Invalidate | Opcode::InvalidateAll => Err(Status::MALFORMED),
            Opcode::GetMany | Opcode::PutMany | Opcode::InvalidateMany => {
                no_key?;
                let items = Items { count: detail, bytes: body };
                items.check(opcode)?;
                Ok(match opcode {
                    Opcode::GetMany => Request::GetMany(items),
                    Opcode::PutMany => Request::PutMany(items),
                    _ => Request::InvalidateMany(items),
                })
            }
            Opcode::Hello => {
                no_key?;
                no_detail?;
                match body {
                    [version_min, version_max, 0, 0, a, b, c, d, name @ ..]
                        if version_min <= version_max && name.len() <= NAME_BYTES_MAX =>
                    {
                        Ok(Request::Hello(Hello {
                            version_min: *version_min,
                            version_max: *version_max,
                            capabilities: u32::from_le_bytes([*a, *b, *c, *d]),
                            name,
                        }))
                    }
                    _ => Err(Status::MALFORMED),
                }
            }
            Opcode::Auth => {
                no_detail?;
                let (user, password) = body.split_at_checked(key_len).ok_or(Status::MALFORMED)?;
                Ok(Request::Auth { user, password })
            }
            Opcode::Ping => {
                no_key?;
                no_detail?;
                Ok(Request::Ping(body))
            }
            Opcode::Map => {
                no_key?;
                no_detail?;
                match split_u64(body)? {
                    (known_epoch, []) => Ok(Request::Map { known_epoch }),
                    _ => Err(Status::MALFORMED),
                }
            }
            Opcode::Stats => {
                no_key?;
                no_detail?;
                if body.is_empty() { Ok(Request::Stats) } else { Err(Status::MALFORMED) }
            }
        }
    }

    /// Its opcode.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Request::Hello(_) => Opcode::Hello,
            Request::Auth { .. } => Opcode::Auth,
            Request::Ping(_) => Opcode::Ping,
            Request::Map { .. } => Opcode::Map,
            Request::Stats => Opcode::Stats,
            Request::Get(_) => Opcode::Get,
            Request::GetNewer { .. } => Opcode::GetNewer,
            Request::GetMany(_) => Opcode::GetMany,
            Request::LeaseGet { .. } => Opcode::LeaseGet,
            Request::Put(_) => Opcode::Put,
            Request::LeasePut(_) => Opcode::LeasePut,
            Request::PutMany(_) => Opcode::PutMany,
            Request::Touch { .. } => Opcode::Touch,
            Request::Invalidate { .. } => Opcode::Invalidate,
            Request::InvalidateMany(_) => Opcode::InvalidateMany,
            Request::InvalidateAll { .. } => Opcode::InvalidateAll,
        }
    }

    /// Appends the request as a frame, with a checksum if `crc`.
    ///
    /// # Panics
    /// If a key is longer than [`KEY_BYTES_MAX`] or the frame than [`BODY_BYTES_MAX`]: such a frame cannot be written.
    pub fn encode(&self, id: u32, crc: bool, out: &mut Vec<u8>) {
        let (key_len, detail) = match self {
            Request::Get(key) | Request::GetNewer { key, .. } | Request::LeaseGet { key, .. } => {
                (key.len(), 0)
            }
            Request::Touch { key, .. } => (key.len(), 0),
            Request::Auth { user, .. } => (user.len(), 0),
            Request::Invalidate { key, stale } => (key.len(), u16::from(*stale)),
            Request::InvalidateAll { name, tag } => (name.len(), u16::from(*tag)),
            Request::Put(put) => (put.key.len(), put.detail()),
            Request::LeasePut(put) => (put.key.len(), put.detail() & PUT_KEEP_TTL),
            Request::GetMany(items) | Request::PutMany(items) | Request::InvalidateMany(items) => {
                (0, items.count)
            }
            Request::Hello(_) | Request::Ping(_) | Request::Map { .. } | Request::Stats => (0, 0),
        };
        let key_len = u16::try_from(key_len).expect("a key has at most 65,535 bytes");
        let frame = Frame::begin(
            MAGIC_REQUEST,
            self.opcode() as u8,
            if crc { flags::CRC } else { 0 },
            id,
            key_len,
            detail,
            out,
        );
        match self {
            Request::Hello(hello) => {
                out.extend_from_slice(&[hello.version_min, hello.version_max, 0, 0]);
                out.extend_from_slice(&hello.capabilities.to_le_bytes());
                out.extend_from_slice(hello.name);
            }
            Request::Auth { user, password } => {
                out.extend_from_slice(user);
                out.extend_from_slice(password);
            }
            Request::Ping(bytes) | Request::Get(bytes) => out.extend_from_slice(bytes),
            Request::Map { known_epoch } => out.extend_from_slice(&known_epoch.to_le_bytes()),
            Request::Stats => {}
            Request::GetNewer { key, than } => {
                out.extend_from_slice(&than.0.to_le_bytes());
                out.extend_from_slice(key);
            }
            Request::LeaseGet { key, lease_millis } => {
                out.extend_from_slice(&lease_millis.to_le_bytes());
                out.extend_from_slice(key);
            }
            Request::Put(put) | Request::LeasePut(put) => {
                out.extend_from_slice(&put.meta.to_bytes());
                out.extend_from_slice(put.key);
                out.extend_from_slice(put.value);
            }
            Request::Touch { key, ttl_millis } => {
                out.extend_from_slice(&ttl_millis.to_le_bytes());
                out.extend_from_slice(key);
            }
            Request::Invalidate { key: name, .. } | Request::InvalidateAll { name, .. } => {
                out.extend_from_slice(name);
            }
            Request::GetMany(items) | Request::PutMany(items) | Request::InvalidateMany(items) => {
                out.extend_from_slice(items.bytes);
            }
        }
        frame.end(out);
    }
}

impl<'a> Put<'a> {
    /// An unconditional store without flags.
    pub const fn plain(key: &'a [u8], value: &'a [u8], ttl_millis: u64) -> Put<'a> {
        let meta = Meta { ttl_millis, ..Meta::PLAIN };
        Put { key, value, meta, condition: Condition::Always, keep_ttl: false }
    }

    const fn detail(&self) -> u16 {
        let condition = match self.condition {
            Condition::Always => 0,
            Condition::Absent => 1,
            Condition::Present => 2,
            Condition::VersionIs => 3,
        };
        condition | if self.keep_ttl { PUT_KEEP_TTL } else { 0 }
    }
}

impl<'a> Items<'a> {
    /// Whether the items fill the bytes exactly.
    fn check(&self, opcode: Opcode) -> Result<(), Malformed> {
        let mut rest = self.bytes;
        for _ in 0..self.count {
            let head = ItemHead::read(opcode, rest).ok_or(Status::MALFORMED)?;
            rest = usize::try_from(head.item_len())
                .ok()
                .and_then(|len| rest.get(len..))
                .ok_or(Status::MALFORMED)?;
        }
        if rest.is_empty() && self.count > 0 { Ok(()) } else { Err(Status::MALFORMED) }
    }

    /// The items' keys, values and meta blocks, in order; what a decoded request holds is whole.
    pub fn iter(&self, opcode: Opcode) -> impl Iterator<Item = (&'a [u8], &'a [u8], Meta)> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| {
            let head = ItemHead::read(opcode, rest)?;
            let (key, tail) = rest.get(head.head_len..)?.split_at_checked(head.key_len)?;
            let (value, tail) = tail.split_at_checked(head.value_len)?;
            rest = tail;
            Some((key, value, head.meta))
        })
    }
}

/// A batch being written item by item, so that a client needs not gather its items first.
///
/// ```
/// use foreshadow::wire::native::frame::{BatchWriter, Opcode};
/// let mut out = Vec::new();
/// let mut batch = BatchWriter::begin(Opcode::GetMany, 7, false, &mut out);
/// for key in ["one", "two"] {
///     batch.key(key.as_bytes(), &mut out);
/// }
/// assert_eq!(batch.end(&mut out), 2);
/// assert_eq!(out.len(), 16 + 2 * (2 + 3));
/// ```
#[derive(Debug)]
pub struct BatchWriter {
    frame: Frame,
    count: u16,
}

impl BatchWriter {
    /// Begins a GET_MANY, PUT_MANY or INVALIDATE_MANY.
    pub fn begin(opcode: Opcode, id: u32, crc: bool, out: &mut Vec<u8>) -> BatchWriter {
        debug_assert!(opcode.is_batch());
        let flags = if crc { flags::CRC } else { 0 };
        BatchWriter { frame: Frame::begin(MAGIC_REQUEST, opcode as u8, flags, id, 0, 0, out), count: 0 }
    }

    /// Whether it has as many items as a batch can have.
    pub const fn is_full(&self) -> bool {
        self.count == u16::MAX
    }

    /// Number of items in it.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Adds an item of GET_MANY or INVALIDATE_MANY.
    ///
    /// # Panics
    /// If the batch is full or the key longer than [`KEY_BYTES_MAX`].
    pub fn key(&mut self, key: &[u8], out: &mut Vec<u8>) {
        self.take(key);
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key);
    }

    /// Adds an item of PUT_MANY; the version in `meta` is not used.
    ///
    /// # Panics
    /// As [`BatchWriter::key`], or if the value is longer than [`BODY_BYTES_MAX`].
    pub fn item(&mut self, key: &[u8], value: &[u8], meta: &Meta, out: &mut Vec<u8>) {
        self.take(key);
        assert!(value.len() <= BODY_BYTES_MAX as usize, "a value of {} bytes", value.len());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&meta.ttl_millis.to_le_bytes());
        out.extend_from_slice(&meta.flags.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }

    fn take(&mut self, key: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        self.count = self.count.checked_add(1).expect("a batch has at most 65,535 items");
    }

    /// Ends the frame; answers the number of items. A batch without items is not a frame: it is taken back.
    ///
    /// # Panics
    /// If the frame is longer than [`BODY_BYTES_MAX`].
    pub fn end(self, out: &mut Vec<u8>) -> u16 {
        if self.count == 0 {
            out.truncate(self.frame.start);
        } else {
            out[self.frame.start + 14..self.frame.start + 16].copy_from_slice(&self.count.to_le_bytes());
            self.frame.end(out);
        }
        self.count
    }
}
