//! GDSF: an item is worth its uses over its size, on top of a clock that rises to the worth of whoever left last; the least
//! worth leaves. (Cherkasova: Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy, HPL-98-69, 1998.)

use std::collections::BTreeSet;

/// The policy's state. Worths are positive floats, whose bits order as they do.
pub struct Gdsf<'t> {
    bytes_max: u64,
    sizes: &'t [u32],
    by_worth: BTreeSet<(u64, u32)>,
    worth: Vec<f64>,
    /// Uses while held; 0: not held.
    uses: Vec<u32>,
    bytes: u64,
    clock: f64,
}

impl<'t> Gdsf<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32]) -> Gdsf<'t> {
        let count = sizes.len();
        Gdsf {
            bytes_max,
            sizes,
            by_worth: BTreeSet::new(),
            worth: vec![0.0; count],
            uses: vec![0; count],
            bytes: 0,
            clock: 0.0,
        }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.uses[id as usize] > 0
    }

    pub(super) fn touch(&mut self, id: u32) -> bool {
        let held = self.holds(id);
        if held {
            self.by_worth.remove(&(self.worth[id as usize].to_bits(), id));
            self.rate(id);
        }
        held
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        let size = u64::from(self.sizes[id as usize]);
        if size > self.bytes_max {
            gone.push(id);
            return;
        }
        while self.bytes + size > self.bytes_max {
            let Some((bits, victim)) = self.by_worth.pop_first() else { break };
            self.clock = f64::from_bits(bits);
            self.uses[victim as usize] = 0;
            self.bytes -= u64::from(self.sizes[victim as usize]);
            gone.push(victim);
        }
        self.bytes += size;
        self.rate(id);
    }

    /// Counts a use and files the item under its worth.
    fn rate(&mut self, id: u32) {
        let uses = &mut self.uses[id as usize];
        *uses += 1;
        // By the megabyte, so that the clock's rise is not lost in rounding.
        let worth = self.clock + f64::from(*uses) * 1e6 / f64::from(self.sizes[id as usize]);
        self.worth[id as usize] = worth;
        self.by_worth.insert((worth.to_bits(), id));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::trace_of;
    use super::super::{Name, Policy};

    #[test]
    fn large_and_unused_leaves_first_and_fame_fades() {
        let trace = trace_of(&(0..200).collect::<Vec<_>>(), |id| if id == 0 { 50 } else { 10 });
        let mut policy = Policy::new(Name::Gdsf, 100, &trace);
        let mut gone = Vec::new();
        (0..6).for_each(|id| policy.admit(id, &mut gone));
        assert!(policy.touch(1) && policy.touch(1));
        policy.admit(6, &mut gone);
        assert_eq!(gone, [0], "the large one, though not the oldest use");
        (7..200).for_each(|id| policy.admit(id, &mut gone));
        assert!(!policy.holds(1), "the clock passed it");
        assert!(gone.iter().position(|&id| id == 1) > gone.iter().position(|&id| id == 6));
    }
}
