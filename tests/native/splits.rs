//! Any split of any stream gives the same replies.

use crate::world::*;
use foreshadow::ids::Version;
use foreshadow::wire::Protocol;
use foreshadow::wire::native::frame::{
    self, BatchWriter, Condition, Decoded, MAGIC_REQUEST, Meta, Opcode, Put, Request, ShardBlock, Status,
};
use proptest::prelude::*;

/// Requests that may come from a client with a handful of keys.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let key = (0u8..6).prop_map(|i| vec![b'k', b'0' + i]);
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let one =
        (0u8..14, key.clone(), value, any::<u32>(), any::<bool>(), 0u64..9, prop::collection::vec(key, 1..5));
    prop::collection::vec(one, 1..25).prop_map(|list| {
        let mut stream = Vec::new();
        for (i, (kind, key, value, word, crc, number, keys)) in list.iter().enumerate() {
            let id = i as u32;
            let (key, value, number, crc) = (key.as_slice(), value.as_slice(), *number, *crc);
            let put = Put { meta: Meta { flags: *word, ..Meta::PLAIN }, ..Put::plain(key, value, 0) };
            let request = match kind {
                0 | 1 => Request::Get(key),
                2 => Request::GetNewer { key, than: Version(number) },
                3 => Request::LeaseGet { key, lease_millis: 1000 },
                4 | 5 => Request::Put(put),
                6 => Request::Put(Put { condition: Condition::Absent, ..put }),
                7 => {
                    let meta = Meta { version: Version(number), ..Meta::PLAIN };
                    Request::LeasePut(Put { condition: Condition::VersionIs, meta, ..put })
                }
                8 => Request::Touch { key, ttl_millis: number },
                9 => Request::Invalidate { key, stale: number < 4 },
                10 => Request::Ping(value),
                11 => Request::Map { known_epoch: number },
                kind => {
                    let opcode = if *kind == 12 { Opcode::GetMany } else { Opcode::PutMany };
                    let mut batch = BatchWriter::begin(opcode, id, crc, &mut stream);
                    for key in keys {
                        match opcode {
                            Opcode::GetMany => batch.key(key, &mut stream),
                            _ => batch.item(key, value, &Meta::PLAIN, &mut stream),
                        }
                    }
                    batch.end(&mut stream);
                    continue;
                }
            };
            request.encode(id, crc, &mut stream);
        }
        stream
    })
}

/// Replies in an order that does not depend on who overtook whom.
fn sorted(mut replies: Vec<Got>) -> Vec<Got> {
    // Which frame of a batch is the last depends on the order too.
    replies.iter_mut().for_each(|got| got.more = false);
    replies.sort_by(|a, b| {
        (a.id, a.opcode, a.detail, a.status.0, &a.body).cmp(&(b.id, b.opcode, b.detail, b.status.0, &b.body))
    });
    replies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_stream_gets_the_same_answers(
        stream in requests(),
        pieces in prop::collection::vec(1usize..40, 1..30),
        dice in any::<u64>(),
    ) {
        let run = |pieces: &[usize], dice| {
            let (mut world, mut session) = (World::new(CORES), session());
            let (replies, end) = converse(&mut world, &mut session, &stream, pieces, dice);
            assert_eq!(session.awaited(), 0);
            (sorted(replies), end)
        };
        let whole = run(&[usize::MAX >> 1], 0);
        prop_assert_eq!(&whole.1, &End::Open);
        prop_assert_eq!(run(&pieces, dice), whole);
    }

    #[test]
    fn broken_streams_never_crash_and_get_whole_frames(
        mut stream in requests(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pieces in prop::collection::vec(1usize..60, 1..10),
    ) {
        for (at, byte) in wounds {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let run = |pieces: &[usize]| {
            let mut session = session_with(|options| options.protocol = Protocol::Native);
            let mut world = World::new(CORES);
            let (replies, end) = converse(&mut world, &mut session, &stream, pieces, 0);
            (sorted(replies), end)
        };
        prop_assert_eq!(run(&pieces), run(&[usize::MAX >> 1]));
    }

    #[test]
    fn random_bytes_never_crash(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        framed in any::<bool>(),
        piece in 1usize..40,
    ) {
        let mut stream = bytes.clone();
        if framed && stream.len() > 16 {
            stream[..4].copy_from_slice(&[MAGIC_REQUEST, 1, bytes[2] & 0x3F, bytes[3] & 1]);
            stream[9..12].fill(0);
        }
        let mut session = session_with(|options| options.protocol = Protocol::Native);
        converse(&mut World::new(CORES), &mut session, &stream, &[piece], 0);
        // The client's half has to stand the same.
        let _: Result<Decoded<'_>, Status> = frame::decode_reply(&bytes);
        let _: Result<Option<_>, Status> = ShardBlock::read(&bytes);
    }
}
