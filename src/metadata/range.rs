//! A range of keys.

/// Keys from one on and before another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub from: Vec<u8>,
    /// The first key that no longer belongs to it; `None`: it has no end.
    pub to: Option<Vec<u8>>,
}

impl Range {
    /// One key alone.
    pub fn key(key: &[u8]) -> Range {
        Range { from: key.to_vec(), to: Some([key, &[0]].concat()) }
    }

    /// All keys that begin so.
    pub fn prefix(prefix: &[u8]) -> Range {
        let mut to = prefix.to_vec();
        // The first key that is not one of them ends in the next byte, and 0xFF has none.
        while to.last() == Some(&u8::MAX) {
            to.pop();
        }
        let to = to.pop().map(|last| [&to[..], &[last + 1]].concat());
        Range { from: prefix.to_vec(), to }
    }

    /// Whether a key belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_it_and_nothing_else() {
        let range = Range::prefix(b"/c/a/");
        for inside in [&b"/c/a/"[..], b"/c/a/x", b"/c/a/\xFF\xFF"] {
            assert!(range.contains(inside), "{inside:?}");
        }
        for outside in [&b"/c/a"[..], b"/c/a0", b"/c/b/", b"/", b""] {
            assert!(!range.contains(outside), "{outside:?}");
        }
        assert_eq!(Range::prefix(b"a\xFF\xFF").to, Some(b"b".to_vec()));
        assert_eq!((Range::prefix(b"\xFF").to, Range::prefix(b"").to), (None, None));
        assert!(Range::prefix(b"\xFF").contains(b"\xFF\xFF"));
    }

    #[test]
    fn the_range_of_a_key_holds_it_alone() {
        let range = Range::key(b"ab");
        assert!(range.contains(b"ab"));
        for outside in [&b"a"[..], b"ab\0", b"aba", b"ac"] {
            assert!(!range.contains(outside), "{outside:?}");
        }
    }
}
