//! The probability graph: a node per key, an edge to each key that was asked for within the next few requests, with how often.
//! A request has those keys fetched that followed in at least so many of the node's visits.

use super::table::Table;

/// Requests behind a key that count as following it.
const LOOKAHEAD: usize = 2;
/// Least part of the visits.
const CHANCE_MIN: f32 = 0.25;
/// Visits before a node is believed.
const VISITS_MIN: u32 = 2;
/// Least times that a key followed.
const COUNT_MIN: u32 = 2;
/// Edges of a node.
const EDGES: usize = 6;
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Node {
    visits: u32,
    /// Keys, one more than their ids, and how often they followed.
    edges: [(u32, u32); EDGES],
}

/// The graph.
pub struct Graph {
    nodes: Table<Node>,
    pasts: Vec<[u32; LOOKAHEAD]>,
}

impl Graph {
    pub fn new(bytes: usize, clients: usize) -> Graph {
        Graph { nodes: Table::with_bytes(bytes), pasts: vec![[NOBODY; LOOKAHEAD]; clients] }
    }

    pub fn heap_bytes(&self) -> usize {
        self.nodes.heap_bytes()
    }

    pub fn observe(&mut self, client: u32, id: u32, wishes: &mut Vec<u32>) {
        let past = self.pasts[client as usize];
        if past[0] == id {
            return;
        }
        for before in past.into_iter().filter(|&before| before != NOBODY && before != id) {
            let Some(node) = self.nodes.get(before) else { continue };
            match node.edges.iter_mut().find(|(key, _)| *key == id + 1) {
                Some((_, count)) => *count += 1,
                None => {
                    let least =
                        node.edges.iter_mut().min_by_key(|(_, count)| *count).expect("there are some");
                    *least = (id + 1, 1);
                }
            }
        }
        let node = self.nodes.get_or_make(id);
        if node.visits >= VISITS_MIN {
            let likely = |count: u32| count >= COUNT_MIN && count as f32 >= CHANCE_MIN * node.visits as f32;
            let followers = node.edges.iter().filter(|(key, count)| *key > 0 && likely(*count));
            wishes.extend(followers.map(|(key, _)| *key - 1));
        }
        node.visits += 1;
        self.pasts[client as usize] = [id, past[0]];
    }
}
