//! What the nodes of a Redis Cluster say of who has which slots: the answer to `CLUSTER SLOTS`, and redirections.

use super::resp_frame::{Part, part};
use crate::ids::SLOT_COUNT;
use std::net::IpAddr;
use std::sync::Arc;

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address; `None`: that of the host of the origin's URL.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// The name that its certificate must be for, if it says one; else that of the URL's host.
    pub name: Option<Arc<str>>,
}

/// Slots in a row that one node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    pub place: Place,
}

/// The answer to `CLUSTER SLOTS` of the node at `told_by`; `None` if it is none. Ranges of nodes whose address nobody knows
/// are left out.
pub(super) fn ranges(frame: &[u8], told_by: &Place) -> Option<Vec<Range>> {
    let (Part::Many(count), mut rest) = part(frame)? else { return None };
    let mut ranges = Vec::new();
    for _ in 0..count {
        let (Part::Many(3..), inner) = part(rest)? else { return None };
        let (first, inner) = slot(inner)?;
        let (last, inner) = slot(inner)?;
        // The first node is the primary; its replicas follow.
        let (Part::Many(fields @ 3..), inner) = part(inner)? else { return None };
        if first > last {
            return None;
        }
        if let Some(place) = place(fields, inner, told_by)? {
            ranges.push(Range { first, last, place });
        }
        rest = skip(rest)?;
    }
    Some(ranges)
}

fn slot(frame: &[u8]) -> Option<(u16, &[u8])> {
    let (Part::Integer(number), rest) = part(frame)? else { return None };
    let number = u16::try_from(number).ok().filter(|number| *number < SLOT_COUNT)?;
    Some((number, rest))
}

/// Endpoint, port, id, and from Redis 7 on what else is known of the node.
fn place(fields: u64, node: &[u8], told_by: &Place) -> Option<Option<Place>> {
    let (endpoint, rest) = part(node)?;
    let (Part::Integer(port), rest) = part(rest)? else { return None };
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    let endpoint = match endpoint {
        Part::Bulk(text) | Part::Text(text) => std::str::from_utf8(text).ok()?,
        Part::Null => "?",
        _ => return None,
    };
    if let Some(place) = place_of(endpoint, port, told_by) {
        return Some(Some(place));
    }
    let ip = if fields > 3 { address(skip(rest)?)? } else { None };
    let name = (endpoint != "?").then(|| Arc::from(endpoint));
    Some(ip.map(|ip| Place { ip: Some(ip), port, name }))
}

/// The pair `ip` among names and values.
fn address(frame: &[u8]) -> Option<Option<IpAddr>> {
    let (Part::Many(count), mut rest) = part(frame)? else { return None };
    let mut ip = None;
    for _ in 0..count / 2 {
        let (name, behind) = part(rest)?;
        let (value, behind) = part(behind)?;
        if let (Part::Bulk(b"ip"), Part::Bulk(text)) = (name, value) {
            ip = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        }
        rest = behind;
    }
    Some(ip)
}

/// Where an endpoint is without asking for its name: an address, or nothing, which is the host of who told.
pub(super) fn place_of(endpoint: &str, port: u16, told_by: &Place) -> Option<Place> {
    if endpoint.is_empty() {
        return Some(Place { port, ..told_by.clone() });
    }
    endpoint.parse().ok().map(|ip| Place { ip: Some(ip), port, name: None })
}

/// What follows a value, whatever is in it. Frames were scanned whole before, so their depth is bounded.
fn skip(frame: &[u8]) -> Option<&[u8]> {
    let (first, mut rest) = part(frame)?;
    if let Part::Many(count) | Part::Push(count) = first {
        for _ in 0..count {
            rest = skip(rest)?;
        }
    }
    Some(rest)
}

/// An error that names another node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redirection<'a> {
    /// Only this question goes there, behind `ASKING`; else all of the slot.
    pub once: bool,
    pub slot: u16,
    pub endpoint: &'a str,
    pub port: u16,
}

impl Redirection<'_> {
    /// Reads an error's text.
    pub fn read(text: &[u8]) -> Option<Redirection<'_>> {
        let (rest, once) = match text.strip_prefix(b"MOVED ") {
            Some(rest) => (rest, false),
            None => (text.strip_prefix(b"ASK ")?, true),
        };
        let (slot, place) = std::str::from_utf8(rest).ok()?.trim_end().split_once(' ')?;
        let (endpoint, port) = place.rsplit_once(':')?;
        let slot = slot.parse().ok().filter(|slot| *slot < SLOT_COUNT)?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        Some(Redirection { once, slot, endpoint, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Place {
        Place { ip: None, port: 7000, name: None }
    }

    fn at(ip: &str, port: u16) -> Place {
        Place { ip: Some(ip.parse().unwrap()), port, name: None }
    }

    fn range(first: u16, last: u16, place: Place) -> Range {
        Range { first, last, place }
    }

    #[test]
    fn slots_are_read_as_all_versions_of_redis_tell_them() {
        // Redis 6; Redis 7 by RESP2 and RESP3, with a replica; a node that does not know its own address yet.
        let id = "$4\r\nabcd\r\n";
        let six = format!("*1\r\n*3\r\n:0\r\n:5\r\n*3\r\n$8\r\n10.0.0.1\r\n:7001\r\n{id}");
        assert_eq!(ranges(six.as_bytes(), &seed()), Some(vec![range(0, 5, at("10.0.0.1", 7001))]));
        let node = |more: &str| format!("*4\r\n$8\r\n10.0.0.1\r\n:7001\r\n{id}{more}");
        let name = "$8\r\nhostname\r\n$1\r\nh\r\n";
        for more in ["*0\r\n".to_owned(), format!("*2\r\n{name}"), format!("%1\r\n{name}")] {
            let one = node(&more);
            let told = format!(
                "*2\r\n*4\r\n:0\r\n:99\r\n{one}{one}*3\r\n:100\r\n:16383\r\n*4\r\n$0\r\n\r\n:7002\r\n{id}*0\r\n"
            );
            let expected =
                vec![range(0, 99, at("10.0.0.1", 7001)), range(100, 16383, Place { port: 7002, ..seed() })];
            assert_eq!(ranges(told.as_bytes(), &seed()), Some(expected), "{told}");
        }
        assert_eq!(ranges(b"*0\r\n", &seed()), Some(Vec::new()));
    }

    #[test]
    fn a_node_with_a_name_is_where_its_address_is_and_one_without_any_is_nowhere() {
        let told = |endpoint: &str, ip: &str| {
            format!(
                "*1\r\n*3\r\n:0\r\n:5\r\n*4\r\n{endpoint}:7001\r\n$1\r\nx\r\n*2\r\n$2\r\nip\r\n${}\r\n{ip}\r\n",
                ip.len()
            )
        };
        let named = ranges(told("$6\r\nnode.a\r\n", "::1").as_bytes(), &seed()).unwrap();
        assert_eq!(named, [range(0, 5, Place { name: Some("node.a".into()), ..at("::1", 7001) })]);
        for endpoint in ["$-1\r\n", "_\r\n", "$1\r\n?\r\n"] {
            let unknown = ranges(told(endpoint, "10.0.0.9").as_bytes(), &seed()).unwrap();
            assert_eq!(unknown, [range(0, 5, at("10.0.0.9", 7001))]);
            assert_eq!(ranges(told(endpoint, "").as_bytes(), &seed()), Some(Vec::new()));
        }
    }

    #[test]
    fn what_is_no_map_is_none() {
        for told in [
            "+OK\r\n",
            ":1\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n*2\r\n:0\r\n:5\r\n",
            "*1\r\n*3\r\n:5\r\n:0\r\n*3\r\n$0\r\n\r\n:1\r\n$1\r\nx\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*3\r\n$0\r\n\r\n:1\r\n$1\r\nx\r\n",
            "*1\r\n*3\r\n:-1\r\n:5\r\n*3\r\n$0\r\n\r\n:1\r\n$1\r\nx\r\n",
            "*1\r\n*3\r\n:0\r\n:5\r\n*3\r\n$0\r\n\r\n:0\r\n$1\r\nx\r\n",
            "*1\r\n*3\r\n:0\r\n:5\r\n*3\r\n:1\r\n:1\r\n$1\r\nx\r\n",
        ] {
            assert_eq!(ranges(told.as_bytes(), &seed()), None, "{told}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_node_says_is_a_map_with_its_slots_in_order_or_none(
            pieces in proptest::collection::vec(0..13usize, 0..40),
        ) {
            let known = [
                "*1\r\n", "*2\r\n", "*3\r\n", "*4\r\n", ":5\r\n", ":0\r\n", ":16384\r\n", "$1\r\nx\r\n",
                "$7\r\n1.2.3.4\r\n", "$-1\r\n", "%1\r\n", "$2\r\nip\r\n", "$0\r\n\r\n",
            ];
            let told: String = pieces.into_iter().map(|piece| known[piece]).collect();
            for range in ranges(told.as_bytes(), &seed()).unwrap_or_default() {
                proptest::prop_assert!(range.first <= range.last && range.last < SLOT_COUNT && range.place.port > 0);
            }
        }
    }

    #[test]
    fn redirections_are_read_and_other_errors_are_none() {
        let read = |text: &'static str| Redirection::read(text.as_bytes());
        let to = |once, slot, endpoint, port| Some(Redirection { once, slot, endpoint, port });
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), to(false, 3999, "127.0.0.1", 6381));
        assert_eq!(read("ASK 0 ::1:6381\r\n"), to(true, 0, "::1", 6381));
        assert_eq!(read("MOVED 1 :6381"), to(false, 1, "", 6381));
        for text in ["MOVED", "MOVED 1", "MOVED 16384 h:1", "MOVED 1 h", "MOVED 1 h:0", "ERR MOVED 1 h:1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
