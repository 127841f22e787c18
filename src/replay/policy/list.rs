//! Queues of ids without allocation: each id is in at most one queue of those that share the links.

/// No id.
pub const NONE: u32 = u32::MAX;

/// Who stands before and behind each id.
#[derive(Clone, Debug)]
pub struct Links {
    before: Vec<u32>,
    behind: Vec<u32>,
}

/// A queue: things enter at the front and leave, if they are in nobody's favour, at the back.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    front: u32,
    back: u32,
    /// Bytes of what is in it.
    pub bytes: u64,
}

impl Links {
    /// Links for so many ids.
    pub fn new(count: usize) -> Links {
        Links { before: vec![NONE; count], behind: vec![NONE; count] }
    }

    /// Who stands before, nearer to the front; [`NONE`] at the front.
    pub fn before(&self, id: u32) -> u32 {
        self.before[id as usize]
    }
}

impl Queue {
    /// An empty queue.
    pub const EMPTY: Queue = Queue { front: NONE, back: NONE, bytes: 0 };

    /// The one at the back, [`NONE`] if the queue is empty.
    pub fn back(&self) -> u32 {
        self.back
    }

    /// Lets one in at the front.
    pub fn push(&mut self, links: &mut Links, id: u32, size: u32) {
        links.before[id as usize] = NONE;
        links.behind[id as usize] = self.front;
        match self.front {
            NONE => self.back = id,
            front => links.before[front as usize] = id,
        }
        self.front = id;
        self.bytes += u64::from(size);
    }

    /// Takes one out that is in it.
    pub fn remove(&mut self, links: &mut Links, id: u32, size: u32) {
        let (before, behind) = (links.before[id as usize], links.behind[id as usize]);
        match before {
            NONE => self.front = behind,
            before => links.behind[before as usize] = behind,
        }
        match behind {
            NONE => self.back = before,
            behind => links.before[behind as usize] = before,
        }
        self.bytes -= u64::from(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn a_queue_is_what_a_deque_is() {
        let mut links = Links::new(8);
        let mut queue = Queue::EMPTY;
        let mut model = VecDeque::new();
        let mut dice = 7u32;
        for _ in 0..2000 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = dice >> 29;
            match model.iter().position(|&held| held == id) {
                Some(at) => {
                    queue.remove(&mut links, id, id + 1);
                    model.remove(at);
                }
                None => {
                    queue.push(&mut links, id, id + 1);
                    model.push_front(id);
                }
            }
            let mut walked = Vec::new();
            let mut at = queue.back();
            while at != NONE {
                walked.push(at);
                at = links.before(at);
            }
            assert!(walked.iter().eq(model.iter().rev()), "{walked:?} {model:?}");
            assert_eq!(queue.bytes, model.iter().map(|&id| u64::from(id) + 1).sum::<u64>());
        }
    }
}
