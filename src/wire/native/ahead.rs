//! Looking ahead in a pipeline: which keys the next frames, or the next items of a batch, are about.
//!
//! Only hints come of it, so anything unusual simply ends the look.

use super::frame::{HEADER_BYTES, Header, ItemHead, MAGIC_REQUEST, META_BYTES, Opcode};

/// Requests looked at together.
pub(super) const KEYS_MAX: usize = 16;

/// Puts the keys of the frames that `input` begins with into `keys`, and answers how many. A batch ends the look, its items
/// are looked at when it begins.
#[inline]
pub(super) fn of_frames<'a>(input: &'a [u8], keys: &mut [&'a [u8]; KEYS_MAX]) -> usize {
    let mut rest = input;
    for (count, place) in keys.iter_mut().enumerate() {
        let Some((key, behind)) = frame(rest) else { return count };
        *place = key;
        // A frame that is not all there is the last one that can be looked at.
        let Some(behind) = behind else { return count + 1 };
        rest = behind;
    }
    KEYS_MAX
}

/// The key of the frame that is all of `input`.
#[inline]
pub(super) fn sole_key(input: &[u8]) -> Option<&[u8]> {
    let (key, behind) = frame(input)?;
    behind?.is_empty().then_some(key)
}

/// The key of the frame that `input` begins with, and what is behind the frame, if all of it is there.
#[inline]
fn frame(input: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let header = Header::read(MAGIC_REQUEST, input).ok()??;
    let before = match Opcode::of(header.opcode)? {
        Opcode::Get | Opcode::Invalidate => 0,
        Opcode::GetNewer | Opcode::Touch => 8,
        Opcode::LeaseGet => 4,
        Opcode::Put | Opcode::LeasePut => META_BYTES,
        _ => return None,
    };
    let start = HEADER_BYTES + before;
    let key = input.get(start..start + usize::from(header.key_len_or_status))?;
    Some((key, input.get(header.frame_len()..)))
}

/// Puts the keys of the items that `input` begins with into `keys`, of `left` at most, and answers how many.
#[inline]
pub(super) fn of_items<'a>(
    opcode: Opcode,
    left: u16,
    input: &'a [u8],
    keys: &mut [&'a [u8]; KEYS_MAX],
) -> usize {
    let mut rest = input;
    let most = KEYS_MAX.min(usize::from(left));
    for (count, place) in keys.iter_mut().take(most).enumerate() {
        let Some(head) = ItemHead::read(opcode, rest) else { return count };
        let Some(key) = rest.get(head.head_len..head.head_len + head.key_len) else { return count };
        *place = key;
        let behind = usize::try_from(head.item_len()).ok().and_then(|len| rest.get(len..));
        let Some(behind) = behind else { return count + 1 };
        rest = behind;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::super::frame::{BatchWriter, Meta, Put, Request};
    use super::*;

    fn words(keys: &[&[u8]]) -> Vec<String> {
        keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    fn frames(input: &[u8]) -> Vec<String> {
        let mut keys = [&b""[..]; KEYS_MAX];
        let count = of_frames(input, &mut keys);
        words(&keys[..count])
    }

    fn stream(requests: &[Request<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.encode(1, false, &mut bytes));
        bytes
    }

    #[test]
    fn keys_of_the_next_frames_are_seen_over_their_values() {
        let put = Put::plain(b"b", b"a value", 0);
        let mut bytes = stream(&[
            Request::Get(b"a"),
            Request::Put(put),
            Request::GetNewer { key: b"c", than: crate::ids::Version(3) },
            Request::LeaseGet { key: b"d", lease_millis: 5 },
            Request::Touch { key: b"e", ttl_millis: 5 },
            Request::Invalidate { key: b"f", stale: false },
            Request::Ping(b"end of the look"),
            Request::Get(b"g"),
        ]);
        assert_eq!(frames(&bytes), ["a", "b", "c", "d", "e", "f"]);
        // Wherever the bytes end, what is seen are the first of these.
        for end in 0..bytes.len() {
            let seen = frames(&bytes[..end]);
            assert_eq!(seen[..], ["a", "b", "c", "d", "e", "f"][..seen.len()]);
        }
        let one = stream(&[Request::Put(put)]);
        assert_eq!(sole_key(&one), Some(b"b".as_slice()));
        assert_eq!((sole_key(&one[..one.len() - 1]), sole_key(&one.repeat(2))), (None, None));
        bytes = stream(&[Request::Get(b"k")]).repeat(40);
        assert_eq!(frames(&bytes).len(), KEYS_MAX);
        bytes[0] ^= 1;
        assert!(frames(&bytes).is_empty());
    }

    #[test]
    fn keys_of_the_next_items_are_seen_but_none_beyond_the_batch() {
        let mut bytes = Vec::new();
        let mut batch = BatchWriter::begin(Opcode::PutMany, 7, false, &mut bytes);
        for key in ["one", "two", "three"] {
            batch.item(key.as_bytes(), b"a value", &Meta::PLAIN, &mut bytes);
        }
        assert_eq!(batch.end(&mut bytes), 3);
        bytes.extend_from_slice(&[0xFF; 64]);
        for left in 0..=3 {
            let mut keys = [&b""[..]; KEYS_MAX];
            let count = of_items(Opcode::PutMany, left, &bytes[HEADER_BYTES..], &mut keys);
            assert_eq!(words(&keys[..count]), ["one", "two", "three"][..usize::from(left)]);
        }
    }
}
