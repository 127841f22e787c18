//! Walking over keys: pages of a scan, and random ones. Keys go out as a little-endian u32 length and the bytes.

use super::*;
use crate::glob;
use crate::request::Scan;

/// Most items one page looks at.
const PAGE_ITEMS_MAX: usize = 4096;
/// Bytes of keys at which a page ends; the items of the store's step under way still come with it.
const PAGE_BYTES: usize = 256 * 1024;
/// Items the store is asked for at a time; between the steps the page may end.
const STEP_ITEMS: usize = 8;
/// Keys picked at random before items are looked for among places held for a fill.
const RANDOM_TRIES: usize = 64;
/// Steps of pattern matching at which a page ends.
const PAGE_GLOB_STEPS: u64 = 1 << 20;
/// Steps of pattern matching that one key may take; one that takes more counts as not matching. Redis has no such
/// bound; a pattern of 1000 bytes and a key of 250 stay below it whatever they are.
const KEY_GLOB_STEPS: u64 = 1 << 18;

impl Engine {
    /// [`Verb::Scan`].
    pub(super) fn scan(&mut self, now: Mono, pattern: &[u8], scan: Scan) -> Reply {
        self.scratch.clear();
        let all = pattern.iter().all(|byte| *byte == b'*');
        let slot = scan.slot.map(Slot::new);
        let mut left = (scan.count as usize).clamp(1, PAGE_ITEMS_MAX);
        let mut cursor = scan.cursor;
        let mut glob_steps = 0;
        loop {
            let step = left.min(STEP_ITEMS);
            let begun = self.scratch.len();
            let page = &mut self.scratch;
            cursor = self.store.walk(now, slot, cursor, step, &mut |key| {
                let before = glob_steps;
                if all || glob::matches(pattern, key, before + KEY_GLOB_STEPS, &mut glob_steps) {
                    push_key(page, key);
                }
            });
            self.drop_hollow(now, begun);
            left -= step;
            if cursor == 0 || left == 0 || self.scratch.len() >= PAGE_BYTES || glob_steps >= PAGE_GLOB_STEPS {
                return Reply { answer: Answer::Page { cursor }, bytes: Bytes::Scratch };
            }
        }
    }

    /// [`Verb::Random`].
    pub(super) fn random(&mut self, now: Mono) -> Reply {
        self.scratch.clear();
        for _ in 0..RANDOM_TRIES {
            let dice = self.roll();
            let page = &mut self.scratch;
            if !self.store.random(now, dice, &mut |key| push_key(page, key)) {
                break;
            }
            self.drop_hollow(now, 0);
            if !self.scratch.is_empty() {
                break;
            }
        }
        if self.scratch.is_empty() {
            // Places far outnumber items, or all are over: the first one that a page has.
            let _ = self.scan(now, b"", Scan { cursor: 0, count: PAGE_ITEMS_MAX as u32, slot: None });
            let first =
                self.scratch.first_chunk::<4>().map_or(0, |len| 4 + u32::from_le_bytes(*len) as usize);
            self.scratch.truncate(first);
        }
        Reply { answer: Answer::Page { cursor: 0 }, bytes: Bytes::Scratch }
    }

    fn roll(&mut self) -> u64 {
        // Source: splitmix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut dice = self.dice;
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        dice ^ dice >> 31
    }

    /// Takes out of the page, from `begun` on, the keys under which there is only a place held for a fill.
    fn drop_hollow(&mut self, now: Mono, begun: usize) {
        let (mut read, mut kept) = (begun, begun);
        while let Some((len, _)) = self.scratch[read..].split_first_chunk::<4>() {
            let end = read + 4 + u32::from_le_bytes(*len) as usize;
            let key = &self.scratch[read + 4..end];
            let probe = self.store.probe(key);
            if self.store.find(now, probe, key, false).is_none_or(|found| !found.marks.hollow) {
                self.scratch.copy_within(read..end, kept);
                kept += end - read;
            }
            read = end;
        }
        self.scratch.truncate(kept);
    }
}

fn push_key(page: &mut Vec<u8>, key: &[u8]) {
    page.extend_from_slice(&length(key.len()).to_le_bytes());
    page.extend_from_slice(key);
}
