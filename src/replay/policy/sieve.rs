//! SIEVE: one queue, a mark per item, and a hand that walks from the back to the front. Whom it finds marked keeps its
//! place without the mark; the first without one leaves. (Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024.)

use super::list::{Links, NONE, Queue};

/// The policy's state.
pub struct Sieve<'t> {
    bytes_max: u64,
    sizes: &'t [u32],
    links: Links,
    queue: Queue,
    hand: u32,
    held: Vec<Held>,
}

#[derive(Clone, Copy, PartialEq)]
enum Held {
    No,
    Yes,
    Marked,
}

impl<'t> Sieve<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32]) -> Sieve<'t> {
        let count = sizes.len();
        Sieve {
            bytes_max,
            sizes,
            links: Links::new(count),
            queue: Queue::EMPTY,
            hand: NONE,
            held: vec![Held::No; count],
        }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.held[id as usize] != Held::No
    }

    pub(super) fn touch(&mut self, id: u32) -> bool {
        let held = &mut self.held[id as usize];
        if *held == Held::Yes {
            *held = Held::Marked;
        }
        *held != Held::No
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        let size = self.sizes[id as usize];
        if u64::from(size) > self.bytes_max {
            gone.push(id);
            return;
        }
        while self.queue.bytes + u64::from(size) > self.bytes_max {
            gone.push(self.evict());
        }
        self.queue.push(&mut self.links, id, size);
        self.held[id as usize] = Held::Yes;
    }

    fn evict(&mut self) -> u32 {
        loop {
            let id = if self.hand == NONE { self.queue.back() } else { self.hand };
            self.hand = self.links.before(id);
            if self.held[id as usize] == Held::Yes {
                self.queue.remove(&mut self.links, id, self.sizes[id as usize]);
                self.held[id as usize] = Held::No;
                return id;
            }
            self.held[id as usize] = Held::Yes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::trace_of;
    use super::super::{Name, Policy};

    #[test]
    fn the_hand_passes_over_the_used_and_goes_on_from_where_it_stood() {
        let trace = trace_of(&[0, 1, 2, 3, 4, 5, 6], |_| 1);
        let mut policy = Policy::new(Name::Sieve, 4, &trace);
        let mut gone = Vec::new();
        (0..4).for_each(|id| policy.admit(id, &mut gone));
        assert!(policy.touch(0) && policy.touch(2));
        policy.admit(4, &mut gone);
        assert_eq!(gone, [1], "0 is marked, 1 is not");
        policy.admit(5, &mut gone);
        assert_eq!(gone, [1, 3], "2 is marked; 0 keeps its place behind the hand");
        policy.admit(6, &mut gone);
        assert_eq!(gone, [1, 3, 4], "the hand goes on to the newer ones");
        assert!(policy.holds(0) && policy.holds(2));
    }
}
