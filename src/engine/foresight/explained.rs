//! Why a key was fetched before anybody asked, and what came of it: for people.

use super::number_of;
use crate::clock::Now;
use crate::engine::Engine;
use crate::prefetch::{Ending, Guess, KeyId, Source, Target};

/// What follows a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Follower {
    /// The key, by number.
    pub key: KeyId,
    /// The smoothed part of visits that it came soon after.
    pub weight: f32,
    /// How often it was fetched for that, up to 15.
    pub tries: u8,
    /// The part of these that was of use.
    pub use_part: f32,
    /// How likely fetching it is believed to be of use.
    pub score: f32,
}

/// A key that was fetched before anybody asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FetchedAhead {
    /// Milliseconds ago.
    pub ago_millis: u64,
    /// What guessed it.
    pub source: Source,
    /// The key whose request led to it, by number.
    pub cause: KeyId,
    /// How likely it was believed to be of use.
    pub score: f32,
    /// What the fetch took, in microseconds, if it has come back in time to be known.
    pub took_micros: Option<u32>,
    /// Bytes that it brought.
    pub bytes: Option<u32>,
    /// What came of it.
    pub ending: Ending,
    /// How long after it had begun.
    pub ended_millis: Option<u32>,
}

/// What prefetching has to do with a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Whether its keyspace prefetches.
    pub wanted: bool,
    /// Whether the cache holds it.
    pub held: bool,
    /// Whether its text is remembered, so that it could be fetched.
    pub known: bool,
    /// Whether it waits for room at its origin.
    pub waiting: bool,
    /// The least score that is tried at present.
    pub threshold: f32,
    /// How often it was read, as far as is remembered, up to 255.
    pub visits: u8,
    /// What follows it.
    pub followers: Vec<Follower>,
    /// When and why it was fetched ahead, the latest first.
    pub fetches: Vec<FetchedAhead>,
}

/// Fetches of a key that are told.
const FETCHES_TOLD_MAX: usize = 16;

impl Engine {
    /// Why a key was fetched ahead, or may be; `None` where no keyspace wants it. Looks through all that is remembered of late:
    /// for people, not for requests.
    pub fn explain(&mut self, now: Now, key: &[u8]) -> Option<Box<Explained>> {
        let probe = self.store.probe(key);
        let held = self.look(now.mono, probe, key, false).is_some();
        let through = self.through.as_ref()?;
        let foresight = through.foresight.as_ref()?;
        let predictor = &foresight.predictor;
        let id = number_of(probe);
        let mut followers = Vec::new();
        let visits = predictor.followers(id, |guess, score| {
            let Guess { key, weight, use_part, tries, visits: _ } = guess;
            followers.push(Follower { key, weight, tries, use_part, score });
        });
        let told = |number: u32| Some(number).filter(|&number| number != u32::MAX);
        let fetches = predictor.fetches(id).take(FETCHES_TOLD_MAX).map(|entry| FetchedAhead {
            ago_millis: now.mono.millis_since(entry.at),
            source: entry.source,
            cause: entry.cause,
            score: entry.score,
            took_micros: told(entry.took_micros),
            bytes: told(entry.took_micros).map(|_| entry.bytes),
            ending: entry.ending,
            ended_millis: told(entry.ended_millis),
        });
        Some(Box::new(Explained {
            wanted: through.keyspaces.of(key).is_some_and(|id| through.keyspaces[id].prefetch),
            held,
            // Another key may have the same number.
            known: predictor.key(id).is_some_and(|known| known == key),
            waiting: foresight.ring.waits(Target::Key(id)),
            threshold: predictor.threshold(),
            visits,
            followers,
            fetches: fetches.collect(),
        }))
    }

    /// The keys that numbers stand for, as far as this core remembers them.
    pub fn names_of(&self, ids: &[KeyId]) -> Vec<Option<Vec<u8>>> {
        let foresight = self.through.as_ref().and_then(|through| through.foresight.as_ref());
        let name = |id: &KeyId| foresight?.predictor.key(*id).map(<[u8]>::to_vec);
        ids.iter().map(name).collect()
    }
}
