//! Prefetchers of others, to hold ours against: each in front of a simulated cache, its tables charged to the limit.
//!
//! | name | idea | from |
//! |---|---|---|
//! | `next-line` | behind a miss, or the first use of what it fetched, the next address | Smith, Computing Surveys 1982 |
//! | `last-successor` | what came behind it the last time | |
//! | `graph` | what came within the next few requests in at least so many of its visits | Griffioen and Appleton, USENIX 1994 |
//! | `mithril` | what missed as often as it and at nearly the same times | Yang et al., SoCC 2017 |
//!
//! In their favour: they see each client's own order where the trace tells clients, as ours does, they need no names of keys,
//! and fetch as much as they like.

mod graph;
mod mithril;
mod successor;
mod table;

use super::trace::Trace;
use graph::Graph;
use mithril::Mithril;
use std::collections::HashMap;
use successor::LastSuccessor;

/// Part of the limit that tables may take.
const PART: u64 = 10;
/// Bytes between two addresses where rows tell sizes: those of a disk's sector.
const SECTOR_BYTES: u32 = 512;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The next address.
    NextLine,
    /// The last follower.
    LastSuccessor,
    /// The probability graph.
    Graph,
    /// Mithril.
    Mithril,
}

impl Name {
    /// Their names.
    pub const ALL: [(&'static str, Name); 4] = [
        ("next-line", Name::NextLine),
        ("last-successor", Name::LastSuccessor),
        ("graph", Name::Graph),
        ("mithril", Name::Mithril),
    ];

    /// The one of that name.
    pub fn of(name: &str) -> Option<Name> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, rival)| *rival)
    }
}

/// One at work.
pub struct Rival {
    kind: Kind,
    /// Whether each item was fetched ahead and not asked for since.
    unused: Vec<bool>,
}

enum Kind {
    NextLine { sized: bool, ids: HashMap<u64, u32> },
    LastSuccessor(LastSuccessor),
    Graph(Graph),
    Mithril(Box<Mithril>),
}

impl Rival {
    /// One that knows nothing, for a cache of so many bytes. `addresses` says whether keys' numbers mean anything.
    pub fn new(name: Name, bytes_max: u64, trace: &Trace, addresses: bool) -> Rival {
        let bytes = (bytes_max / PART) as usize;
        let clients = trace.client_count as usize;
        let kind = match name {
            Name::NextLine => Kind::NextLine {
                sized: trace.sized,
                ids: match addresses {
                    true => trace.names.iter().zip(0..).map(|(&name, id)| (name, id)).collect(),
                    false => HashMap::new(),
                },
            },
            Name::LastSuccessor => Kind::LastSuccessor(LastSuccessor::new(bytes, clients)),
            Name::Graph => Kind::Graph(Graph::new(bytes, clients)),
            Name::Mithril => Kind::Mithril(Box::new(Mithril::new(bytes))),
        };
        Rival { kind, unused: vec![false; trace.footprint_items()] }
    }

    /// Bytes of its tables.
    pub fn heap_bytes(&self) -> usize {
        match &self.kind {
            Kind::NextLine { .. } => 0,
            Kind::LastSuccessor(it) => it.heap_bytes(),
            Kind::Graph(it) => it.heap_bytes(),
            Kind::Mithril(it) => it.heap_bytes(),
        }
    }

    /// A request came; what is to be fetched is added.
    pub fn observe(&mut self, trace: &Trace, row: usize, hit: bool, wishes: &mut Vec<u32>) {
        let id = trace.ids[row];
        let client = trace.clients.get(row).copied().unwrap_or(0);
        let first_use = std::mem::take(&mut self.unused[id as usize]);
        match &mut self.kind {
            Kind::NextLine { sized, ids } => {
                let sectors = if *sized { trace.sizes[id as usize].div_ceil(SECTOR_BYTES) } else { 1 };
                let next = trace.names[id as usize].wrapping_add(u64::from(sectors.max(1)));
                if !hit || first_use {
                    wishes.extend(ids.get(&next));
                }
            }
            Kind::LastSuccessor(it) => it.observe(client, id, wishes),
            Kind::Graph(it) => it.observe(client, id, wishes),
            Kind::Mithril(it) => it.observe(id, hit, wishes),
        }
    }

    /// A wish is being fetched.
    pub fn issued(&mut self, id: u32) {
        self.unused[id as usize] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::tests::trace_of;
    use super::*;

    /// What each wished for, of a sequence that comes again and again.
    fn wishes_of(name: Name, ids: &[u32]) -> Vec<Vec<u32>> {
        let trace = trace_of(ids, |_| 1);
        let mut rival = Rival::new(name, 1 << 20, &trace, true);
        let mut all = Vec::new();
        for row in 0..trace.len() {
            let mut wishes = Vec::new();
            rival.observe(&trace, row, false, &mut wishes);
            wishes.iter().for_each(|&id| rival.issued(id));
            all.push(wishes);
        }
        assert!(rival.heap_bytes() <= 1 << 20);
        all
    }

    #[test]
    fn each_learns_what_it_can_of_a_sequence() {
        let sequence = [5, 2, 9, 4, 7];
        let ids: Vec<u32> = sequence.iter().copied().cycle().take(40).collect();
        let last = wishes_of(Name::LastSuccessor, &ids);
        assert!(last[0].is_empty() && last[35] == [2], "{:?}", last[35]);
        let graph = wishes_of(Name::Graph, &ids);
        assert!(graph[0].is_empty() && graph[35].contains(&2) && graph[35].contains(&9), "{:?}", graph[35]);
        assert!(wishes_of(Name::NextLine, &[0, 1, 2])[0] == [1]);
    }

    #[test]
    fn without_order_a_graph_has_nothing_to_say() {
        let mut dice = 1u64;
        let ids: Vec<u32> = (0..20_000)
            .map(|_| {
                dice = super::super::trace::mix(dice);
                (dice % 500) as u32
            })
            .collect();
        let wishes: usize = wishes_of(Name::Graph, &ids).iter().map(Vec::len).sum();
        assert!(wishes < 2000, "{wishes} of 20000");
    }
}
