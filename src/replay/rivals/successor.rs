//! What came behind a key the last time, per client.

use super::table::Table;

const NOBODY: u32 = u32::MAX;

/// Whose followers are known.
pub struct LastSuccessor {
    followers: Table<u32>,
    before: Vec<u32>,
}

impl LastSuccessor {
    pub fn new(bytes: usize, clients: usize) -> LastSuccessor {
        LastSuccessor { followers: Table::with_bytes(bytes), before: vec![NOBODY; clients] }
    }

    pub fn heap_bytes(&self) -> usize {
        self.followers.heap_bytes()
    }

    pub fn observe(&mut self, client: u32, id: u32, wishes: &mut Vec<u32>) {
        let before = std::mem::replace(&mut self.before[client as usize], id);
        if before != NOBODY && before != id {
            // One more than the id, so that 0 is nobody.
            *self.followers.get_or_make(before) = id + 1;
        }
        wishes.extend(self.followers.get(id).filter(|next| **next > 0).map(|next| *next - 1));
    }
}
