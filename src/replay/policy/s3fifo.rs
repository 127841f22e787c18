//! S3-FIFO: what is new enters a small queue; found twice by its back, it moves to the main queue, else it leaves and its id
//! is remembered. Who is remembered enters the main queue at once. At the back of the main queue an item that was found goes
//! round again with one use less. (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023.)
//!
//! The numbers, and what the paper leaves open, are as in the authors' simulator: the small queue has a tenth of the bytes,
//! the ghost remembers nine tenths' worth, items larger than the small queue are not let in, and until the cache has been
//! full once the small queue's overflow goes to the main queue.

use super::list::{Links, NONE, Queue};

/// Uses that lead from the small queue to the main one.
const PROMOTION_USES: u8 = 2;
/// Rounds in the main queue that uses are good for.
const ROUNDS_MAX: u8 = 3;

/// The policy's state.
pub struct S3Fifo<'t> {
    bytes_max: u64,
    small_bytes_max: u64,
    main_bytes_max: u64,
    sizes: &'t [u32],
    links: Links,
    small: Queue,
    main: Queue,
    place: Vec<Place>,
    uses: Vec<u8>,
    /// Remembered ids, with links of their own, as an item may be both remembered and held for a moment.
    ghost_links: Links,
    ghost: Queue,
    remembered: Vec<bool>,
    full_once: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Out,
    Small,
    Main,
}

impl<'t> S3Fifo<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32]) -> S3Fifo<'t> {
        let count = sizes.len();
        // In a cache of a handful of items the small queue has room for one.
        let smallest = sizes.iter().min().copied().unwrap_or(0);
        let small_bytes_max = (bytes_max / 10).max(u64::from(smallest)).min(bytes_max);
        S3Fifo {
            bytes_max,
            small_bytes_max,
            main_bytes_max: bytes_max - small_bytes_max,
            sizes,
            links: Links::new(count),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            place: vec![Place::Out; count],
            uses: vec![0; count],
            ghost_links: Links::new(count),
            ghost: Queue::EMPTY,
            remembered: vec![false; count],
            full_once: false,
        }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.place[id as usize] != Place::Out
    }

    pub(super) fn touch(&mut self, id: u32) -> bool {
        let held = self.holds(id);
        if held {
            let uses = &mut self.uses[id as usize];
            *uses = uses.saturating_add(1);
        }
        held
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        let size = self.sizes[id as usize];
        let credit = self.forget(id);
        if u64::from(size) > self.bytes_max {
            gone.push(id);
            return;
        }
        while self.small.bytes + self.main.bytes + u64::from(size) > self.bytes_max {
            self.full_once = true;
            self.evict(gone);
        }
        let place = match credit {
            true => Place::Main,
            false if u64::from(size) > self.small_bytes_max => Place::Out,
            false if !self.full_once && self.small.bytes >= self.small_bytes_max => Place::Main,
            false => Place::Small,
        };
        self.uses[id as usize] = 0;
        self.enter(id, place);
        if place == Place::Out {
            gone.push(id);
        }
    }

    fn evict(&mut self, gone: &mut Vec<u32>) {
        if self.main.bytes > self.main_bytes_max || self.small.bytes == 0 {
            self.evict_main(gone);
        } else {
            self.evict_small(gone);
        }
    }

    fn evict_small(&mut self, gone: &mut Vec<u32>) {
        while self.small.back() != NONE {
            let id = self.small.back();
            self.leave(id);
            if self.uses[id as usize] >= PROMOTION_USES {
                self.enter(id, Place::Main);
            } else {
                self.remember(id);
                gone.push(id);
                return;
            }
        }
    }

    fn evict_main(&mut self, gone: &mut Vec<u32>) {
        while self.main.back() != NONE {
            let id = self.main.back();
            self.leave(id);
            let uses = self.uses[id as usize];
            if uses == 0 {
                gone.push(id);
                return;
            }
            self.uses[id as usize] = uses.min(ROUNDS_MAX) - 1;
            self.enter(id, Place::Main);
        }
    }

    fn enter(&mut self, id: u32, place: Place) {
        let size = self.sizes[id as usize];
        self.place[id as usize] = place;
        match place {
            Place::Small => self.small.push(&mut self.links, id, size),
            Place::Main => self.main.push(&mut self.links, id, size),
            Place::Out => {}
        }
    }

    fn leave(&mut self, id: u32) {
        let size = self.sizes[id as usize];
        match std::mem::replace(&mut self.place[id as usize], Place::Out) {
            Place::Small => self.small.remove(&mut self.links, id, size),
            Place::Main => self.main.remove(&mut self.links, id, size),
            Place::Out => {}
        }
    }

    fn remember(&mut self, id: u32) {
        self.forget(id);
        let size = self.sizes[id as usize];
        // An id larger than all the ghost may remember pushes itself out, too.
        self.ghost.push(&mut self.ghost_links, id, size);
        self.remembered[id as usize] = true;
        while self.ghost.bytes > self.main_bytes_max {
            let last = self.ghost.back();
            self.forget(last);
        }
    }

    /// Forgets an id; whether it was remembered.
    fn forget(&mut self, id: u32) -> bool {
        let remembered = std::mem::replace(&mut self.remembered[id as usize], false);
        if remembered {
            self.ghost.remove(&mut self.ghost_links, id, self.sizes[id as usize]);
        }
        remembered
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::trace_of;
    use super::super::{Name, Policy};

    #[test]
    fn two_uses_lead_to_the_main_queue_and_the_ghost_brings_back() {
        let trace = trace_of(&(0..100).collect::<Vec<_>>(), |_| 1);
        let mut policy = Policy::new(Name::S3Fifo, 20, &trace);
        let mut gone = Vec::new();
        // Full: 2 in the small queue, 18 in the main one.
        (0..20).for_each(|id| policy.admit(id, &mut gone));
        assert!(gone.is_empty());
        assert!(policy.touch(0) && policy.touch(0), "0 is first in the small queue and used twice");
        policy.admit(20, &mut gone);
        assert_eq!(gone, [1], "0 moved on, 1 was never found");
        policy.admit(1, &mut gone);
        assert!(policy.holds(0) && policy.holds(1));
        gone.clear();
        // What comes now passes through the small queue only; 1 came back from the ghost and stays.
        (21..60).for_each(|id| policy.admit(id, &mut gone));
        assert!(policy.holds(0) && policy.holds(1) && !policy.holds(21));
        assert_eq!(
            gone.iter().filter(|&&id| id < 20 && id != 1).count(),
            1,
            "main gave one for each that moved in: {gone:?}"
        );
    }
}
