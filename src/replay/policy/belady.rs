//! Belady's MIN: knows when each item is asked for next; who is asked for last leaves, and that may be the newcomer. With
//! items of one size nobody misses less; with several sizes it is a good guess at that. (Belady: A study of replacement
//! algorithms for a virtual-storage computer, IBM Systems Journal 5(2), 1966.)

use std::collections::BTreeSet;

/// The policy's state.
pub struct Belady<'t> {
    bytes_max: u64,
    sizes: &'t [u32],
    /// For each row the next of the same key, `u32::MAX` if none.
    next_rows: Vec<u32>,
    row: usize,
    /// Next row of each held item, and the item.
    by_next: BTreeSet<(u32, u32)>,
    next: Vec<u32>,
    held: Vec<bool>,
    bytes: u64,
}

impl<'t> Belady<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32], next_rows: Vec<u32>) -> Belady<'t> {
        let count = sizes.len();
        Belady {
            bytes_max,
            sizes,
            next_rows,
            row: 0,
            by_next: BTreeSet::new(),
            next: vec![0; count],
            held: vec![false; count],
            bytes: 0,
        }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.held[id as usize]
    }

    /// The requests are those of the trace, in its order.
    pub(super) fn touch(&mut self, id: u32) -> bool {
        let next = self.next_rows[self.row];
        self.row += 1;
        let before = std::mem::replace(&mut self.next[id as usize], next);
        let held = self.held[id as usize];
        if held {
            self.by_next.remove(&(before, id));
            self.by_next.insert((next, id));
        }
        held
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        self.by_next.insert((self.next[id as usize], id));
        self.held[id as usize] = true;
        self.bytes += u64::from(self.sizes[id as usize]);
        while self.bytes > self.bytes_max {
            let Some((_, victim)) = self.by_next.pop_last() else { break };
            self.held[victim as usize] = false;
            self.bytes -= u64::from(self.sizes[victim as usize]);
            gone.push(victim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Name;
    use super::super::tests::{misses, trace_of};

    /// Misses of the best choices there are, found by trying all.
    fn fewest(ids: &[u32], held: Vec<u32>, room: usize) -> u64 {
        let Some((&id, rest)) = ids.split_first() else { return 0 };
        if held.contains(&id) {
            return fewest(rest, held, room);
        }
        let mut best = fewest(rest, held.clone(), room);
        for victim in 0..held.len().max(1) {
            let mut held = held.clone();
            if held.len() == room {
                held.remove(victim);
            }
            held.push(id);
            best = best.min(fewest(rest, held, room));
        }
        best + 1
    }

    #[test]
    fn no_choices_miss_less() {
        let mut dice = 1u32;
        for _ in 0..40 {
            let ids: Vec<u32> = (0..11)
                .map(|_| {
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (dice >> 16) % 5
                })
                .collect();
            assert_eq!(misses(Name::Belady, 2, &trace_of(&ids, |_| 1)), fewest(&ids, vec![], 2), "{ids:?}");
        }
    }
}
