//! W-TinyLFU: a window of a hundredth for what is new; whoever leaves it must have been asked for more often than those it
//! would push out of the main part, a segmented LRU with four fifths protected. (Einziger, Friedman, Manes: TinyLFU: a highly
//! efficient cache admission policy, ACM ToS 2017; sizes as in Einziger et al.: Lightweight robust size aware cache management, 2021.)
//!
//! Counts of requests are kept exactly, per id, where the paper has a sketch; they are halved as there. The window does not
//! adapt.

use super::list::{Links, NONE, Queue};

const COUNT_MAX: u8 = 15;
/// Requests per held item between two halvings.
const SAMPLE_FACTOR: u64 = 10;

/// The policy's state.
pub struct WTinyLfu<'t> {
    window_bytes_max: u64,
    main_bytes_max: u64,
    protected_bytes_max: u64,
    sizes: &'t [u32],
    links: Links,
    window: Queue,
    probation: Queue,
    protected: Queue,
    place: Vec<Place>,
    counts: Vec<u8>,
    held: u64,
    requests: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Out,
    Window,
    Probation,
    Protected,
}

impl<'t> WTinyLfu<'t> {
    pub(super) fn new(bytes_max: u64, sizes: &'t [u32]) -> WTinyLfu<'t> {
        let count = sizes.len();
        let window_bytes_max = bytes_max / 100;
        let main_bytes_max = bytes_max - window_bytes_max;
        WTinyLfu {
            window_bytes_max,
            main_bytes_max,
            protected_bytes_max: main_bytes_max / 5 * 4,
            sizes,
            links: Links::new(count),
            window: Queue::EMPTY,
            probation: Queue::EMPTY,
            protected: Queue::EMPTY,
            place: vec![Place::Out; count],
            counts: vec![0; count],
            held: 0,
            requests: 0,
        }
    }

    pub(super) fn holds(&self, id: u32) -> bool {
        self.place[id as usize] != Place::Out
    }

    pub(super) fn touch(&mut self, id: u32) -> bool {
        self.count(id);
        match self.place[id as usize] {
            Place::Out => return false,
            Place::Window => self.shift(id, Place::Window),
            Place::Probation | Place::Protected => self.shift(id, Place::Protected),
        }
        while self.protected.bytes > self.protected_bytes_max {
            let last = self.protected.back();
            self.shift(last, Place::Probation);
        }
        true
    }

    pub(super) fn admit(&mut self, id: u32, gone: &mut Vec<u32>) {
        if u64::from(self.sizes[id as usize]) > self.main_bytes_max {
            gone.push(id);
            return;
        }
        self.held += 1;
        self.shift(id, Place::Window);
        while self.window.bytes > self.window_bytes_max {
            let candidate = self.window.back();
            self.contest(candidate, gone);
        }
    }

    /// The candidate gets into the main part if it was asked for more often than all together that must leave for it.
    fn contest(&mut self, candidate: u32, gone: &mut Vec<u32>) {
        let room = self.main_bytes_max - u64::from(self.sizes[candidate as usize]);
        let first = gone.len();
        let (mut freed, mut asked) = (0, 0);
        let mut victim = self.probation.back();
        let mut protected = false;
        while self.main_bytes() - freed > room {
            if victim == NONE && !protected {
                protected = true;
                victim = self.protected.back();
            }
            asked += u32::from(self.counts[victim as usize]);
            freed += u64::from(self.sizes[victim as usize]);
            gone.push(victim);
            if asked >= u32::from(self.counts[candidate as usize]) {
                gone.truncate(first);
                gone.push(candidate);
                break;
            }
            victim = self.links.before(victim);
        }
        for &id in &gone[first..] {
            self.held -= 1;
            Self::leave(
                &mut self.links,
                self.sizes,
                &mut self.place,
                id,
                [&mut self.window, &mut self.probation, &mut self.protected],
            );
        }
        if self.holds(candidate) {
            self.shift(candidate, Place::Probation);
        }
    }

    fn main_bytes(&self) -> u64 {
        self.probation.bytes + self.protected.bytes
    }

    fn count(&mut self, id: u32) {
        let count = &mut self.counts[id as usize];
        *count = (*count + 1).min(COUNT_MAX);
        self.requests += 1;
        if self.requests > SAMPLE_FACTOR * self.held.max(16) {
            self.requests /= 2;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Brings an item to the front of a queue, from wherever it is.
    fn shift(&mut self, id: u32, to: Place) {
        let queues = [&mut self.window, &mut self.probation, &mut self.protected];
        Self::leave(&mut self.links, self.sizes, &mut self.place, id, queues);
        self.place[id as usize] = to;
        let size = self.sizes[id as usize];
        match to {
            Place::Out => {}
            Place::Window => self.window.push(&mut self.links, id, size),
            Place::Probation => self.probation.push(&mut self.links, id, size),
            Place::Protected => self.protected.push(&mut self.links, id, size),
        }
    }

    fn leave(links: &mut Links, sizes: &[u32], place: &mut [Place], id: u32, queues: [&mut Queue; 3]) {
        let [window, probation, protected] = queues;
        let size = sizes[id as usize];
        match std::mem::replace(&mut place[id as usize], Place::Out) {
            Place::Out => {}
            Place::Window => window.remove(links, id, size),
            Place::Probation => probation.remove(links, id, size),
            Place::Protected => protected.remove(links, id, size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::trace_of;
    use super::super::{Name, Policy};

    #[test]
    fn who_was_asked_for_less_does_not_push_out_who_was_asked_for_more() {
        let trace = trace_of(&(0..400).collect::<Vec<_>>(), |_| 1);
        let mut policy = Policy::new(Name::WTinyLfu, 100, &trace);
        let mut gone = Vec::new();
        for id in 0..100 {
            (0..3).for_each(|_| assert_eq!(policy.touch(id), policy.holds(id)));
            policy.admit(id, &mut gone);
        }
        assert!(gone.is_empty());
        for id in 100..300 {
            assert!(!policy.touch(id));
            policy.admit(id, &mut gone);
        }
        assert_eq!((0..99).filter(|&id| policy.holds(id)).count(), 99, "a sweep pushes nobody out");
        (0..6).for_each(|_| _ = policy.touch(300));
        policy.admit(300, &mut gone);
        policy.touch(301);
        policy.admit(301, &mut gone);
        assert!(policy.holds(300), "who was asked for more gets in");
    }
}
