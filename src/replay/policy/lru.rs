//! LRU: a use brings an item to the front, and the one at the back leaves.

use super::list::{Links, Queue};

/// The policy's state.
pub struct Lru<'t> {
    bytes_max: u64,
    sizes: &'t [u32],
    links: Links,
    queue: Queue,
    held: Vec<bool>,
}

impl<'t> Lru<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32]) -> Lru<'t> {
        let count = sizes.len();
        Lru { bytes_max, sizes, links: Links::new(count), queue: Queue::EMPTY, held: vec![false; count] }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.held[id as usize]
    }

    pub(super) fn touch(&mut self, id: u32) -> bool {
        let held = self.held[id as usize];
        if held {
            let size = self.sizes[id as usize];
            self.queue.remove(&mut self.links, id, size);
            self.queue.push(&mut self.links, id, size);
        }
        held
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        let size = self.sizes[id as usize];
        if u64::from(size) > self.bytes_max {
            gone.push(id);
            return;
        }
        self.queue.push(&mut self.links, id, size);
        self.held[id as usize] = true;
        while self.queue.bytes > self.bytes_max {
            let victim = self.queue.back();
            self.queue.remove(&mut self.links, victim, self.sizes[victim as usize]);
            self.held[victim as usize] = false;
            gone.push(victim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{misses, skewed, trace_of};
    use super::super::{Name, Policy};
    use crate::replay::trace::mix;

    #[test]
    fn the_least_recently_used_leaves() {
        let trace = trace_of(&[0, 1, 2, 3], |_| 1);
        let mut policy = Policy::new(Name::Lru, 3, &trace);
        let mut gone = Vec::new();
        (0..3).for_each(|id| policy.admit(id, &mut gone));
        assert!(policy.touch(0) && gone.is_empty());
        policy.admit(3, &mut gone);
        assert_eq!(gone, [1]);
    }

    /// An item is a hit exactly if the different items since its last use, itself included, fit in (sizes counted).
    #[test]
    fn misses_are_those_of_stack_distances() {
        let trace = trace_of(&skewed(3000, 60), |id| 1 + (mix(u64::from(id)) % 9) as u32);
        let mut expected = 0;
        for (row, &id) in trace.ids.iter().enumerate() {
            let before = trace.ids[..row].iter().rposition(|&other| other == id);
            let fits = before.is_some_and(|before| {
                let mut between: Vec<u32> = trace.ids[before..row].to_vec();
                between.sort_unstable();
                between.dedup();
                between.iter().map(|&id| u64::from(trace.sizes[id as usize])).sum::<u64>() <= 150
            });
            expected += u64::from(!fits);
        }
        assert_eq!(misses(Name::Lru, 150, &trace), expected);
    }
}
