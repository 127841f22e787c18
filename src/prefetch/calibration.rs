//! How far a guess can be trusted: for each kind of guess the part of those tried that were of use.
//!
//! A bin per (source, how often the row was visited, weight). A new bin believes what a guess promises, as much
//! as one trial of its own; experience takes over with each trial. So scores are measured precisions, and nothing is tuned.

use super::Source;

/// Classes of experience behind a guess, by powers of two, and of its weight, by sixteenths.
const VISIT_CLASSES: usize = 8;
const WEIGHT_CLASSES: usize = 16;
const SOURCES: usize = Source::ALL.len();
/// What the next step of a stride is believed before anything is known.
const STRIDE_FIRST: f32 = 0.6;
/// Trials that a bin remembers.
const MEMORY: u16 = 300;
/// What a guess promises counts as much as so many trials.
const PROMISE_TRIALS: f32 = 1.0;

/// Which bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin(u16);

impl Bin {
    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    fn source(self) -> usize {
        usize::from(self.0) / (VISIT_CLASSES * WEIGHT_CLASSES)
    }

    /// The bin of that number; of one too large, some bin.
    pub fn of_number(number: u16) -> Bin {
        Bin(number % (SOURCES * VISIT_CLASSES * WEIGHT_CLASSES) as u16)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Part of the trials that were of use.
    part: f32,
    count: u16,
}

/// The bins of a core.
pub struct Calibration {
    bins: Vec<Known>,
}

impl Calibration {
    /// Bins that know nothing yet: a guess is believed as much as it believes itself.
    pub fn new() -> Calibration {
        Calibration { bins: vec![Known::default(); SOURCES * VISIT_CLASSES * WEIGHT_CLASSES] }
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.bins.capacity() * size_of::<Known>()
    }

    /// The bin of a guess: `visits` from 0, `weight` from 0 to 1.
    pub fn bin(source: Source, visits: u8, weight: f32) -> Bin {
        let visit_class = (8 - visits.leading_zeros() as usize).min(VISIT_CLASSES - 1);
        let weight_class = ((weight * WEIGHT_CLASSES as f32) as usize).min(WEIGHT_CLASSES - 1);
        Bin(((source as usize * VISIT_CLASSES + visit_class) * WEIGHT_CLASSES + weight_class) as u16)
    }

    /// The part of the guesses of that bin that are of use.
    pub fn part(&self, bin: Bin) -> f32 {
        let known = &self.bins[bin.0 as usize];
        let promise = promise_of(bin);
        let count = f32::from(known.count);
        (PROMISE_TRIALS * promise + count * known.part) / (PROMISE_TRIALS + count)
    }

    /// A guess of that bin came to its end: 1 of use, 0 of none.
    pub fn rate(&mut self, bin: Bin, outcome: f32) {
        let known = &mut self.bins[bin.0 as usize];
        known.count = (known.count + 1).min(MEMORY);
        known.part += (outcome - known.part) / f32::from(known.count);
    }
}

/// What a guess of a bin promises by itself. The weight of a stride is how far ahead it is guessed: the nearer the likelier.
fn promise_of(bin: Bin) -> f32 {
    let weight = f32::from(bin.0 % WEIGHT_CLASSES as u16) / WEIGHT_CLASSES as f32;
    if bin.source() == Source::Stride as usize { STRIDE_FIRST * (1.0 - weight) } else { weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_learns_the_part_that_is_of_use() {
        let mut calibration = Calibration::new();
        let bin = Calibration::bin(Source::Successor, 9, 0.5);
        assert_eq!(calibration.part(bin), 0.5);
        (0..3000).for_each(|i| calibration.rate(bin, if i % 10 < 3 { 1.0 } else { 0.0 }));
        assert!((calibration.part(bin) - 0.3).abs() < 0.05, "{}", calibration.part(bin));
        let other = Calibration::bin(Source::Stride, 9, 0.5);
        assert!(other != bin && calibration.part(other) == STRIDE_FIRST / 2.0, "others learn for themselves");
    }

    #[test]
    fn all_guesses_have_a_bin() {
        let calibration = Calibration::new();
        for source in Source::ALL {
            for visits in [0, 1, 2, 127, 255] {
                for weight in [0.0, 0.3, 1.0] {
                    let part = calibration.part(Calibration::bin(source, visits, weight));
                    assert!((0.0..=1.0).contains(&part));
                }
            }
        }
        assert!(calibration.heap_bytes() <= 4096);
    }
}
