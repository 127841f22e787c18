//! Who walks: streams of keys whose numbers grow (or fall) by the same step.
//!
//! A key's place is the hash of its text before the trailing number, and the number. A request that stands where a stream
//! expected it makes the stream longer; one that is near the end of another begins a walk from there with that step. The
//! stream that was silent longest gives way to a new one.

use super::Place;

/// Streams that are watched at once.
const STREAMS: usize = 32;
/// Farthest that a step may lead.
const STEP_MAX: u64 = 4096;
/// Farthest ahead of a stream that its next keys are guessed.
pub const AHEAD_MAX: u8 = 8;
/// Steps from which on a stream is one.
const LEN_MIN: u8 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    prefix: u64,
    last: u64,
    step: i64,
    /// Steps of that width so far.
    len: u8,
    /// How far ahead of `last` has been guessed already, in steps.
    ahead: u8,
    heard: u64,
}

/// The streams of a core.
#[derive(Default)]
pub struct Streams {
    streams: [Stream; STREAMS],
    clock: u64,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Which stream, for [`Streams::guessed`].
    pub stream: usize,
    /// Where it is.
    pub place: Place,
    /// Its step.
    pub step: i64,
    /// Steps so far, up to 255.
    pub len: u8,
    /// Steps ahead that have been guessed already.
    pub ahead: u8,
}

impl Streams {
    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Streams>()
    }

    /// A request; the walk that it goes on with, if it is on one.
    pub fn observe(&mut self, place: Place) -> Option<Walk> {
        self.clock += 1;
        let clock = self.clock;
        let here = |stream: &Stream| stream.heard > 0 && stream.prefix == place.prefix;
        if let Some((i, stream)) = self.streams.iter_mut().enumerate().find(|(_, stream)| {
            here(stream) && stream.step != 0 && stream.last.wrapping_add_signed(stream.step) == place.number
        }) {
            stream.last = place.number;
            stream.len = stream.len.saturating_add(1);
            stream.ahead = stream.ahead.saturating_sub(1);
            stream.heard = clock;
            let (step, len, ahead) = (stream.step, stream.len, stream.ahead);
            return (len >= LEN_MIN).then_some(Walk { stream: i, place, step, len, ahead });
        }
        let distance = |stream: &Stream| place.number.abs_diff(stream.last);
        // Not the same place again, and near.
        if self.streams.iter().any(|stream| here(stream) && distance(stream) == 0) {
            return None;
        }
        let near = self.streams.iter_mut().filter(|stream| here(stream) && distance(stream) <= STEP_MAX);
        if let Some(stream) = near.min_by_key(|stream| distance(stream)) {
            // A long stream that was left for a moment keeps its step once.
            stream.step = place.number.wrapping_sub(stream.last) as i64;
            *stream = Stream {
                prefix: place.prefix,
                last: place.number,
                step: stream.step,
                len: 1,
                ahead: 0,
                heard: clock,
            };
            return None;
        }
        let silent = self.streams.iter_mut().min_by_key(|stream| stream.heard).expect("there are some");
        *silent =
            Stream { prefix: place.prefix, last: place.number, step: 0, len: 0, ahead: 0, heard: clock };
        None
    }

    /// So many steps ahead of a stream have been guessed.
    pub fn guessed(&mut self, stream: usize, ahead: u8) {
        self.streams[stream].ahead = ahead;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Place {
        Place { prefix: 1, number }
    }

    #[test]
    fn a_walk_is_seen_from_its_third_place_on_whatever_comes_between() {
        let mut streams = Streams::default();
        assert_eq!((streams.observe(at(100)), streams.observe(at(108))), (None, None));
        assert_eq!(streams.observe(at(1 << 40)), None);
        assert_eq!(streams.observe(Place { prefix: 2, number: 116 }), None, "another prefix");
        let walk = streams.observe(at(116)).expect("a walk");
        assert_eq!((walk.step, walk.len, walk.ahead), (8, 2, 0));
        streams.guessed(walk.stream, 3);
        let walk = streams.observe(at(124)).expect("a walk");
        assert_eq!((walk.len, walk.ahead), (3, 2), "two of the three guessed are still ahead");
    }

    #[test]
    fn walks_go_down_too_and_many_at_once() {
        let mut streams = Streams::default();
        for step in 0..5u64 {
            for stream in 1..=STREAMS as u64 {
                let walk = streams.observe(at((stream << 32) - step));
                assert_eq!(walk.is_some_and(|walk| walk.step == -1), step >= 2);
            }
        }
    }

    #[test]
    fn standing_still_is_not_walking() {
        let mut streams = Streams::default();
        assert!((0..10).all(|_| streams.observe(at(5)).is_none()));
    }
}
