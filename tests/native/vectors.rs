//! The vectors of the specification, through encoder and decoder.

use crate::world::*;
use foreshadow::wire::native::frame::{
    self, Condition, Decoded, HEADER_BYTES, Header, MAGIC_REQUEST, Meta, Opcode, Put, Reply, Request,
    ShardBlock, Status,
};
use std::collections::HashMap;
use std::fmt::Write as _;

pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) says: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn vectors(file: &str) -> Vec<Vector> {
    let path = format!("{}/proto-spec/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let list: Vec<HashMap<String, String>> = serde_json::from_str(&text).expect("a list of flat objects");
    assert!(!list.is_empty());
    list.into_iter()
        .map(|mut fields| {
            let hex = fields.remove("hex").expect("hex");
            let bytes = hex.as_bytes().chunks(2);
            let bytes = bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            Vector {
                bytes: bytes.collect(),
                name: fields.remove("name").expect("name"),
                says: fields.remove("means").or(fields.remove("status")).expect("means or status"),
            }
        })
        .collect()
}

fn quoted(bytes: &[u8]) -> String {
    format!("'{}'", String::from_utf8_lossy(bytes).replace('\n', "\\n"))
}

/// A request in the words of the vectors.
fn spoken(header: &Header, request: &Request<'_>) -> String {
    let ttl = |meta: &Meta| meta.ttl_millis.to_string();
    let put = |put: &Put<'_>| {
        let kept = if put.keep_ttl { "kept".to_owned() } else { ttl(&put.meta) };
        let condition = match put.condition {
            Condition::Always => "always".to_owned(),
            Condition::Absent => "if absent".to_owned(),
            Condition::Present => "if present".to_owned(),
            Condition::VersionIs => format!("if version {}", put.meta.version.0),
        };
        let (key, value) = (quoted(put.key), quoted(put.value));
        format!("{key} = {value} ttl {kept} flags {} {condition}", put.meta.flags)
    };
    let keys = |items: &frame::Items<'_>, opcode| {
        items.iter(opcode).map(|(key, _, _)| quoted(key)).collect::<Vec<_>>().join(" ")
    };
    let what = match request {
        Request::Hello(hello) => format!(
            "HELLO versions {} to {}, capabilities {}, name {}",
            hello.version_min,
            hello.version_max,
            hello.capabilities,
            quoted(hello.name)
        ),
        Request::Auth { user, password } => {
            format!("AUTH user {} password {}", quoted(user), quoted(password))
        }
        Request::Ping(bytes) => format!("PING {}", quoted(bytes)),
        Request::Map { known_epoch } => format!("MAP known epoch {known_epoch}"),
        Request::Stats => "STATS".to_owned(),
        Request::Get(key) => format!("GET {}", quoted(key)),
        Request::GetNewer { key, than } => format!("GET_NEWER {} than {}", quoted(key), than.0),
        Request::GetMany(items) => format!("GET_MANY {}", keys(items, Opcode::GetMany)),
        Request::InvalidateMany(items) => {
            format!("INVALIDATE_MANY {}", keys(items, Opcode::InvalidateMany))
        }
        Request::PutMany(items) => {
            let items = items.iter(Opcode::PutMany).map(|(key, value, meta)| {
                format!("{} = {} ttl {} flags {}", quoted(key), quoted(value), ttl(&meta), meta.flags)
            });
            format!("PUT_MANY {}", items.collect::<Vec<_>>().join(", "))
        }
        Request::LeaseGet { key, lease_millis } => format!("LEASE_GET {} for {lease_millis} ms", quoted(key)),
        Request::Put(it) => format!("PUT {}", put(it)),
        Request::LeasePut(it) => format!("LEASE_PUT {}", put(it)),
        Request::Touch { key, ttl_millis } => format!("TOUCH {} ttl {ttl_millis}", quoted(key)),
        Request::Invalidate { key, stale } => {
            format!("INVALIDATE {}{}", quoted(key), if *stale { " stale" } else { "" })
        }
        Request::InvalidateAll { name, tag } => {
            format!("INVALIDATE_ALL {} {}", if *tag { "tag" } else { "prefix" }, quoted(name))
        }
    };
    format!("id {}: {what}{}", header.id, if header.has_crc() { ", CRC" } else { "" })
}

fn opcode_name(byte: u8) -> String {
    let Some(opcode) = Opcode::of(byte) else { return format!("0x{byte:02x}") };
    let mut name = String::new();
    for letter in format!("{opcode:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// A reply in the words of the vectors.
fn heard(header: &Header, reply: &Reply<'_>) -> String {
    let mut line = format!("id {}: {} ", reply.id, opcode_name(reply.opcode));
    match reply.status.name() {
        "?" => write!(line, "{}", reply.status.0).unwrap(),
        name => line.push_str(name),
    }
    let numbered = [Opcode::Stats, Opcode::GetMany, Opcode::InvalidateAll];
    if reply.detail != 0 || Opcode::of(reply.opcode).is_some_and(|opcode| numbered.contains(&opcode)) {
        write!(line, " detail {}", reply.detail).unwrap();
    }
    if reply.more {
        line.push_str(" more");
    }
    let item = matches!(
        Opcode::of(reply.opcode),
        Some(Opcode::Get | Opcode::GetNewer | Opcode::GetMany | Opcode::LeaseGet | Opcode::Touch)
    );
    if let (true, true, Some((meta, value))) = (item, reply.status.is_answer(), reply.item()) {
        let Meta { ttl_millis, version, flags } = meta;
        write!(line, " ttl {ttl_millis} version {} flags {flags} {}", version.0, quoted(value)).unwrap();
    } else if let (Some(Opcode::Put | Opcode::PutMany), true, Some(version)) =
        (Opcode::of(reply.opcode), reply.status == Status::OK, reply.stored())
    {
        write!(line, " version {}", version.0).unwrap();
    } else if let (Some(Opcode::InvalidateAll), Some(count)) = (Opcode::of(reply.opcode), reply.forgotten()) {
        write!(line, " forgotten {count}").unwrap();
    } else if let (Some(Opcode::Hello), Some(hello)) = (Opcode::of(reply.opcode), reply.hello()) {
        write!(
            line,
            " version {} cores {} capabilities {} epoch {} limits {} {} {} {} name {}",
            hello.version,
            hello.cores,
            hello.capabilities,
            hello.epoch,
            hello.key_bytes_max,
            hello.value_bytes_max,
            hello.batch_items_max,
            hello.awaited_max,
            quoted(hello.server)
        )
        .unwrap();
    } else if let (Some(Opcode::Map), Some(map)) = (Opcode::of(reply.opcode), reply.map()) {
        write!(line, " epoch {} owners", map.epoch).unwrap();
        for owner in &map.owners {
            write!(line, " {}/{}:{}", owner.node, owner.core, owner.port).unwrap();
            if !owner.address.is_empty() {
                write!(line, " at {}", quoted(owner.address)).unwrap();
            }
        }
        line.push_str(" ranges");
        for range in &map.ranges {
            write!(line, " {}-{}={}", range.first, range.last, range.owner).unwrap();
        }
    } else if !reply.body.is_empty() || !reply.status.is_answer() {
        write!(line, " {}", quoted(reply.body)).unwrap();
    }
    if reply.new_map {
        line.push_str(", new map");
    }
    if header.has_crc() {
        line.push_str(", CRC");
    }
    line
}

#[test]
fn requests_of_the_vectors_mean_what_they_say_and_encode_to_the_same_bytes() {
    for vector in vectors("requests.json") {
        let Vector { name, says, bytes } = vector;
        for len in 0..bytes.len() {
            match Header::read(MAGIC_REQUEST, &bytes[..len]) {
                Ok(None) => assert!(len < HEADER_BYTES, "{name}"),
                Ok(Some(header)) => assert!(header.frame_len() > len, "{name}"),
                Err(status) => panic!("{name}, {len} bytes: {}", status.name()),
            }
        }
        let header = Header::read(MAGIC_REQUEST, &bytes).expect("valid").expect("whole");
        assert_eq!(header.frame_len(), bytes.len(), "{name}");
        let request =
            Request::decode(&header, frame::body(&header, &bytes).expect("checked")).expect("valid");
        assert_eq!(spoken(&header, &request), says, "{name}");
        let mut again = Vec::new();
        request.encode(header.id, header.has_crc(), &mut again);
        assert_eq!(again, bytes, "{name}");
    }
}

#[test]
fn replies_of_the_vectors_mean_what_they_say_however_they_are_cut() {
    for vector in vectors("replies.json") {
        let Vector { name, says, bytes } = vector;
        for len in 0..bytes.len() {
            match frame::decode_reply(&bytes[..len]) {
                Ok(Decoded::More { at_least }) => {
                    assert!(at_least > len && at_least <= bytes.len(), "{name}")
                }
                other => panic!("{name}, {len} bytes: {other:?}"),
            }
        }
        let header = Header::read(frame::MAGIC_REPLY, &bytes).expect("valid").expect("whole");
        let Ok(Decoded::Reply { reply, len }) = frame::decode_reply(&bytes) else { panic!("{name}") };
        assert_eq!((len, heard(&header, &reply)), (bytes.len(), says), "{name}");
        if reply.status == Status::FULL {
            assert_eq!(bytes, frame::FULL, "what listeners send is the vector");
        }
    }
}

/// What the server's reply writer makes of these requests is the vector, byte for byte.
#[test]
fn a_session_writes_the_replies_of_the_vectors() {
    let replies: HashMap<String, Vec<u8>> =
        vectors("replies.json").into_iter().map(|vector| (vector.name, vector.bytes)).collect();
    let users = || {
        session_with(|options| {
            options.users = std::sync::Arc::new(foreshadow::wire::users::Users::with_password(Some("secret")))
        })
    };
    let mut world = World::new(1);
    ask(&mut world, &mut session(), &Request::Put(Put::plain(b"there", b"value", 0)));
    let put = |condition, version| {
        let meta = Meta { version: foreshadow::ids::Version(version), ..Meta::PLAIN };
        Put { condition, meta, ..Put::plain(b"there", b"x", 0) }
    };
    let one = |id, request: Request<'_>| {
        let mut bytes = Vec::new();
        request.encode(id, false, &mut bytes);
        bytes
    };
    let unknown = Header {
        magic: MAGIC_REQUEST,
        opcode: 0x7F,
        flags: 0,
        id: 99,
        body_len: 0,
        key_len_or_status: 0,
        detail: 0,
    };
    let mut broken = one(7, Request::Get(b"there"));
    broken[3] = frame::flags::CRC;
    let auth = |password| Request::Auth { user: b"", password };
    for (name, asked) in [
        ("ping", one(4, Request::Ping(b"abc"))),
        ("map not newer", one(5, Request::Map { known_epoch: 1 })),
        ("get miss", one(7, Request::Get(b"nowhere"))),
        ("put if absent, there is one", one(11, Request::Put(put(Condition::Absent, 0)))),
        ("put refused", one(11, Request::Put(put(Condition::VersionIs, 1 << 60)))),
        ("lease put, lost", one(12, Request::LeasePut(put(Condition::VersionIs, 1 << 60)))),
        ("auth", one(2, auth(b"secret"))),
        ("auth, wrong", one(2, auth(b"wrong"))),
        ("fault", unknown.to_bytes().to_vec()),
        ("error of the connection", broken),
        ("invalidate", one(15, Request::Invalidate { key: b"there", stale: false })),
        ("invalidate all, the last core", one(18, Request::InvalidateAll { name: b"news", tag: true })),
    ] {
        let mut session = if name.starts_with("auth") { users() } else { session() };
        let node = world.node.clone();
        session.serve(world.now, &node, &asked, &mut world);
        assert_eq!(**session.output(), replies[name], "{name}");
    }
}

#[test]
fn the_shard_stream_of_the_vectors_reads_and_writes() {
    for Vector { name, says, bytes } in vectors("shard_stream.json") {
        for len in 0..ShardBlock::HEAD_BYTES {
            assert_eq!(ShardBlock::read(&bytes[..len]), Ok(None), "{name}");
        }
        let (header, block) = ShardBlock::read(&bytes).expect("valid").expect("whole");
        // From the head on, the same is known however little of the payload is there, and how much is missing.
        for len in ShardBlock::HEAD_BYTES..bytes.len() {
            assert_eq!(ShardBlock::read(&bytes[..len]), Ok(Some((header, block))), "{name}");
            assert!(header.frame_len() > len, "{name}");
        }
        let payload = &frame::body(&header, &bytes).expect("checked")[32..];
        let line = format!(
            "id {}: 0x{:02x} migration {} sequence {} epoch {} attempt {} shard {} {}",
            header.id,
            header.opcode,
            block.migration,
            block.sequence,
            block.epoch,
            block.attempt,
            block.shard,
            quoted(payload)
        );
        assert_eq!(line, says, "{name}");
        let mut again = Vec::new();
        block.encode(header.opcode, header.id, payload, &mut again);
        assert_eq!(again, bytes, "{name}");
        for bit in 0..ShardBlock::HEAD_BYTES * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(ShardBlock::read(&broken).is_err(), "bit {bit} of the head");
        }
    }
}

#[test]
fn a_map_that_leaves_slots_out_or_names_strangers_is_none() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&7u64.to_le_bytes());
    for number in [1u16, 1, 0, 0, 7401, 0, 0, 16383, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    fn map_in(body: &[u8]) -> Option<frame::MapReply<'_>> {
        let reply = Reply {
            id: 1,
            opcode: Opcode::Map as u8,
            status: Status::OK,
            more: false,
            new_map: false,
            detail: 0,
            body,
        };
        reply.map()
    }
    assert!(map_in(&bytes).is_some());
    for (at, byte) in [(20, 1), (22, 0), (23, 0), (24, 1), (8, 2), (10, 2)] {
        let mut wrong = bytes.clone();
        wrong[at] = byte;
        assert_eq!(map_in(&wrong), None, "byte {at}");
    }
    assert_eq!(map_in(&bytes[..bytes.len() - 1]), None);
}
