//! What asks for keys before they are asked for: ours, others to hold it against, or nothing.

use super::rivals::Rival;
use super::trace::{Trace, mix};
use crate::clock::Mono;
use crate::prefetch::{Candidate, Options, Past, Place, Predictor, Seen, Target};
use std::collections::HashMap;

/// A prefetcher.
pub enum Prefetcher {
    /// Demand only.
    None,
    /// The predictor of `src/prefetch`.
    Ours(Box<OursState>),
    /// One of others.
    Rival(Box<Rival>, Vec<u32>),
}

/// What ours needs beside the predictor.
pub struct OursState {
    predictor: Predictor,
    pasts: Vec<Past>,
    /// Which key stands at an address, where keys are addresses.
    places: Option<HashMap<u64, u32>>,
    candidates: Vec<Candidate>,
}

/// A key that is to be fetched.
pub struct Wish {
    /// The key; none if the origin has no such key.
    pub id: Option<u32>,
    candidate: Option<Candidate>,
}

impl Prefetcher {
    /// Ours on a trace.
    pub fn ours(options: Options, trace: &Trace, addresses: bool) -> Prefetcher {
        let places = addresses.then(|| trace.names.iter().zip(0..).map(|(&name, id)| (name, id)).collect());
        Prefetcher::Ours(Box::new(OursState {
            predictor: Predictor::new(options),
            pasts: vec![Past::EMPTY; trace.client_count as usize],
            places,
            candidates: Vec::new(),
        }))
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        matches!(self, Prefetcher::None)
    }

    /// Bytes that it takes.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Prefetcher::None => 0,
            Prefetcher::Ours(ours) => ours.predictor.heap_bytes() + ours.pasts.capacity() * size_of::<Past>(),
            Prefetcher::Rival(rival, _) => rival.heap_bytes(),
        }
    }

    /// Takes as much memory as it deserves by now; whether that changed.
    pub fn fit(&mut self) -> bool {
        match self {
            Prefetcher::Ours(ours) if ours.predictor.misfits() => {
                ours.predictor.resize();
                true
            }
            _ => false,
        }
    }

    /// A request came; what is to be fetched is added to `wishes`.
    pub fn observe(&mut self, trace: &Trace, row: usize, hit: bool, wishes: &mut Vec<Wish>) {
        match self {
            Prefetcher::None => {}
            Prefetcher::Ours(ours) => ours.observe(trace, row, hit, wishes),
            Prefetcher::Rival(rival, ids) => {
                rival.observe(trace, row, hit, ids);
                wishes.extend(ids.drain(..).map(|id| Wish { id: Some(id), candidate: None }));
            }
        }
    }

    /// A wish is being fetched.
    pub fn issued(&mut self, id: u32, wish: Wish) {
        match (self, wish.candidate) {
            // Replayed time is of many kinds; what is overdue is told by what came in meanwhile.
            (Prefetcher::Ours(ours), Some(candidate)) => {
                ours.predictor.issued(Mono(0), id, candidate.score, candidate.reason);
            }
            (Prefetcher::Rival(rival, _), _) => rival.issued(id),
            _ => {}
        }
    }

    /// There is no such key.
    pub fn absent(&mut self, wish: Wish) {
        if let (Prefetcher::Ours(ours), Some(candidate)) = (self, wish.candidate) {
            ours.predictor.absent(candidate.reason);
        }
    }

    /// A wish will not land: what it is about changed meanwhile.
    pub fn voided(&mut self, id: u32) {
        if let Prefetcher::Ours(ours) = self {
            ours.predictor.withdraw(Mono(0), id);
        }
    }

    /// A wish landed.
    pub fn landed(&mut self, id: u32) {
        if let Prefetcher::Ours(ours) = self {
            ours.predictor.landed(Mono(0), id, 0);
        }
    }

    /// How many items the cache holds.
    pub fn cache_holds(&mut self, items: u64) {
        if let Prefetcher::Ours(ours) = self {
            ours.predictor.cache_holds(items);
        }
    }
}

impl OursState {
    fn observe(&mut self, trace: &Trace, row: usize, hit: bool, wishes: &mut Vec<Wish>) {
        let id = trace.ids[row];
        let name = trace.names[id as usize];
        let key = mix(name).to_le_bytes();
        let place = self.places.as_ref().map(|_| Place { prefix: 0, number: name });
        let client = trace.clients.get(row).copied().unwrap_or(0);
        let seen = Seen { at: Mono(0), id, key: &key, place, hit };
        self.predictor.observe(&seen, &mut self.pasts[client as usize], &mut self.candidates);
        for candidate in self.candidates.drain(..) {
            let id = match (candidate.target, &self.places) {
                (Target::Key(id), _) => Some(id),
                (Target::Place(place), Some(places)) => places.get(&place.number).copied(),
                (Target::Place(_), None) => None,
            };
            wishes.push(Wish { id, candidate: Some(candidate) });
        }
    }
}
