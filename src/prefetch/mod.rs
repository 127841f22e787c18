//! Prediction: which keys will be asked for next, how sure that is, and whether it paid to fetch them.
//!
//! ```text
//! request -> observe -> [learn what followed what] -> guesses -> score >= threshold? -> candidates
//!                ^                                                                        |
//!                |  used, late, in vain                                     ring, origin, landed
//!                +------------------------- outcomes of earlier candidates <--------------+
//! ```
//! 1. What was not found, or only because it was fetched ahead, is *news*: what a cache alone would have missed. The row of the
//!    client's last news learns that this key came behind it (`rows`), and its text is remembered (`directory`): what is found anyhow
//!    needs neither. The streams learn where the client walks (`streams`).
//! 2. Its own row and stream say what is likely to follow. A guess falls into a bin by its kind, experience and weight; the
//!    bin knows which part of such guesses was of use (`calibration`), and the row remembers its own trials. Both make the
//!    score: a measured precision.
//! 3. What reaches the threshold becomes a candidate, if its key is known (`directory`); the threshold follows the waste
//!    (`throttle`). The caller fetches candidates as far as the origin bears it (`ring`) and says when they landed.
//! 4. A candidate that is asked for was of use, or late; one that is not asked for in a while was in vain. That goes back
//!    into bin, row and threshold.
//!
//! All of it is charged to the cache: [`Options::memory_bytes_max`] bounds it, and how much of that is taken depends on what it
//! brings (`size`). Nothing here knows a clock or an origin.

mod calibration;
mod directory;
mod history;
mod outstanding;
mod ring;
mod rows;
mod size;
mod streams;
mod throttle;

pub use history::{Ending, Entry};
pub use ring::{RING_MAX, Ring};
pub use rows::Guess;

use calibration::{Bin, Calibration};
use directory::{Directory, KEY_BYTES_FIRST};
use history::History;
use outstanding::{Outstanding, Pending};
use rows::{ROW_BYTES, Rows};
use size::Size;
use streams::{AHEAD_MAX, Streams};
use throttle::Throttle;

use crate::clock::Mono;

/// A key by number: a hash of it, the same on all cores.
pub type KeyId = u32;
/// No key.
pub const NO_KEY: KeyId = KeyId::MAX;

/// Where a key stands among others: a hash of its text before the trailing number, and the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Hash of what is before.
    pub prefix: u64,
    /// The number.
    pub number: u64,
}

/// What makes guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Rows of followers.
    Successor,
    /// Streams.
    Stride,
}

impl Source {
    /// All.
    pub const ALL: [Source; 2] = [Source::Successor, Source::Stride];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Source::Successor => "successor",
            Source::Stride => "stride",
        }
    }
}

/// Bounds of a predictor.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes that it may take for everything it remembers.
    pub memory_bytes_max: usize,
    /// What may be fetched in vain, as a part of what has to be fetched.
    pub budget: f32,
    /// Which sources may speak, in the order of [`Source::ALL`].
    pub sources: [bool; Source::ALL.len()],
}

impl Options {
    /// The one configuration: all sources, a budget of twelve in a hundred.
    pub fn with_bytes(memory_bytes_max: usize) -> Options {
        Options { memory_bytes_max, budget: 0.12, sources: [true; Source::ALL.len()] }
    }
}

/// The last news of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past(KeyId);

impl Past {
    /// A client that asked for nothing yet.
    pub const EMPTY: Past = Past(NO_KEY);

    /// Another key is news; the one before, if there was another.
    pub fn follow(&mut self, key: KeyId) -> Option<KeyId> {
        let before = std::mem::replace(&mut self.0, key);
        (before != NO_KEY && before != key).then_some(before)
    }
}

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When; told again in the history only.
    pub at: Mono,
    /// The key's number.
    pub id: KeyId,
    /// The key.
    pub key: &'a [u8],
    /// Where it stands among others, if that means anything.
    pub place: Option<Place>,
    /// Whether it was found.
    pub hit: bool,
}

/// What might be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A key that was seen before; [`Predictor::key`] has its text.
    Key(KeyId),
    /// The key that stands there.
    Place(Place),
}

/// A guess that is good enough to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What to fetch.
    pub target: Target,
    /// The part of such guesses that was of use.
    pub score: f32,
    /// Why.
    pub reason: Reason,
}

/// Why a key was guessed, so that its outcome goes where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// What guessed it.
    pub source: Source,
    /// The key whose request led to it.
    pub cause: KeyId,
    bin: Bin,
}

impl Reason {
    /// As a number, for other cores.
    pub fn to_bits(self) -> u64 {
        u64::from(self.cause) << 32 | (self.source as u64) << 16 | u64::from(self.bin.number())
    }

    /// From a number of [`Reason::to_bits`]; any other one means some reason, too.
    pub fn from_bits(bits: u64) -> Reason {
        let source = Source::ALL[(bits >> 16 & 0xFF) as usize % Source::ALL.len()];
        Reason { source, cause: (bits >> 32) as KeyId, bin: Bin::of_number(bits as u16) }
    }

    #[cfg(test)]
    fn test(source: Source) -> Reason {
        Reason { source, cause: 0, bin: Calibration::bin(source, 0, 0.0) }
    }
}

/// What became of the candidates of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Fetched.
    pub issued: u64,
    /// Found by a request.
    pub used: u64,
    /// Asked for while under way.
    pub late: u64,
    /// Not asked for in time, or gone by then.
    pub wasted: u64,
}

/// How a candidate ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Used,
    Late,
    Wasted,
}

/// What of the memory for items a predictor may take at most, in percent.
pub const MEMORY_PERCENT: u64 = 15;
/// Rows for each text that there is room for.
const ROWS_PER_TEXT: f32 = 1.2;
/// Part of the memory that candidates under way or not yet asked for may take.
const OUTSTANDING_PART: f64 = 0.04;
/// How far rows are followed from one to the next while more than so many candidates come too late, and what the latest counts for.
const DEPTH_LATE: usize = 4;
const LATE_PART: f32 = 0.2;
const LATE_SMOOTHING: f32 = 0.01;

/// What shares the memory: so many bytes in all, keys of about that length.
fn shared(bytes: usize, key_bytes: f32) -> (Rows, Directory, Outstanding) {
    let outstanding = Outstanding::with_bytes((bytes as f64 * OUTSTANDING_PART) as usize);
    let rest = bytes.saturating_sub(outstanding.heap_bytes());
    let row_bytes = ROWS_PER_TEXT * ROW_BYTES as f32;
    let rows =
        Rows::with_bytes((rest as f32 * row_bytes / (row_bytes + Directory::bytes_of(key_bytes))) as usize);
    let rest = rest.saturating_sub(rows.heap_bytes());
    (rows, Directory::with_bytes(rest, key_bytes), outstanding)
}

/// The predictor of a core.
pub struct Predictor {
    options: Options,
    rows: Rows,
    directory: Directory,
    streams: Streams,
    calibration: Calibration,
    throttle: Throttle,
    outstanding: Outstanding,
    history: History,
    scores: [Score; Source::ALL.len()],
    size: Size,
    /// Smoothed part of the candidates of use that came too late.
    late: f32,
    /// What became of candidates, for the rows of their causes: those may be another core's.
    ratings: Vec<Rating>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rating {
    /// The key whose row guessed it.
    pub cause: KeyId,
    /// The candidate.
    pub key: KeyId,
    /// From 0, of no use, to 1.
    pub worth: f32,
}

impl Predictor {
    /// A predictor that knows nothing.
    pub fn new(options: Options) -> Predictor {
        let streams = Streams::default();
        let calibration = Calibration::new();
        let size = Size::new();
        let history = History::for_bytes(options.memory_bytes_max);
        let fixed = streams.heap_bytes() + calibration.heap_bytes() + history.heap_bytes();
        let (rows, directory, outstanding) =
            shared(size.of(options.memory_bytes_max).saturating_sub(fixed), KEY_BYTES_FIRST);
        Predictor {
            options,
            rows,
            directory,
            streams,
            calibration,
            throttle: Throttle::new(options.budget),
            outstanding,
            history,
            scores: Default::default(),
            size,
            late: 0.0,
            ratings: Vec::new(),
        }
    }

    /// Bytes that it should take, by what it brings; near what [`Predictor::heap_bytes`] says, or [`Predictor::resize`] is due.
    /// Changes with each request.
    pub fn wanted_bytes(&self) -> usize {
        self.size.of(self.options.memory_bytes_max)
    }

    /// Whether it takes much more or less than it should.
    pub fn misfits(&self) -> bool {
        let (wanted, taken) = (self.wanted_bytes(), self.heap_bytes());
        taken > wanted / 4 * 5 || taken < wanted / 4 * 3
    }

    /// Takes as much as it should, and keeps as much of what it knows as fits. Candidates under way or not asked for so far are
    /// not judged any more.
    pub fn resize(&mut self) {
        let fixed = self.streams.heap_bytes() + self.calibration.heap_bytes() + self.history.heap_bytes();
        let (mut rows, mut directory, mut outstanding) =
            shared(self.wanted_bytes().saturating_sub(fixed), self.directory.key_bytes());
        rows.adopt(&self.rows);
        directory.adopt(&self.directory);
        outstanding.set_patience(self.outstanding.patience());
        (self.rows, self.directory, self.outstanding) = (rows, directory, outstanding);
    }

    /// Bytes taken.
    pub fn heap_bytes(&self) -> usize {
        self.rows.heap_bytes()
            + self.directory.heap_bytes()
            + self.streams.heap_bytes()
            + self.calibration.heap_bytes()
            + self.outstanding.heap_bytes()
            + self.history.heap_bytes()
    }

    /// A request of the client with that past: learns from it, and adds what is worth fetching now to `out`. All that a core
    /// alone has to do.
    pub fn observe(&mut self, seen: &Seen<'_>, past: &mut Past, out: &mut Vec<Candidate>) {
        let news = self.arrive(seen);
        if news && let Some(before) = past.follow(seen.id) {
            self.learn(before, seen.id);
        }
        self.visit(seen.id, news, |_| false, out);
        self.step(seen.id, seen.place, out);
        self.ratings.clear();
    }

    /// A request reached the owner of its key: judges what was fetched for it. Answers whether it is news, and remembers the key
    /// if so.
    pub fn arrive(&mut self, seen: &Seen<'_>) -> bool {
        let mut news = !seen.hit;
        if let Some(pending) = self.outstanding.take(seen.id) {
            news = true;
            let outcome = match (seen.hit, pending.landed) {
                (true, _) => Outcome::Used,
                (false, false) => Outcome::Late,
                (false, true) => Outcome::Wasted,
            };
            self.resolve(seen.at, &pending, outcome);
        }
        if !seen.hit {
            self.outstanding.filled();
        }
        while let Some(pending) = self.outstanding.take_overdue() {
            self.resolve(seen.at, &pending, Outcome::Wasted);
        }
        self.throttle.requested(!seen.hit);
        if self.size.requested(!seen.hit) {
            self.size.look(self.rows.fullness().max(self.directory.fullness()));
        }
        if news {
            self.directory.know(seen.id, seen.key);
        }
        news
    }

    /// `follower` was a client's news after `key`.
    pub fn learn(&mut self, key: KeyId, follower: KeyId) {
        if key != follower {
            self.rows.learn(key, follower);
        }
    }

    /// A client read the key, which was news or not: adds what is likely to follow to `out`. `elsewhere` names keys that other cores
    /// own and know.
    pub fn visit(
        &mut self,
        id: KeyId,
        news: bool,
        elsewhere: impl Fn(KeyId) -> bool,
        out: &mut Vec<Candidate>,
    ) {
        if self.options.sources[Source::Successor as usize] {
            self.follow(id, news, elsewhere, out);
        }
    }

    /// A client read the key that stands there: adds what comes next on its walk to `out`.
    pub fn step(&mut self, id: KeyId, place: Option<Place>, out: &mut Vec<Candidate>) {
        if let Some(place) = place.filter(|_| self.options.sources[Source::Stride as usize]) {
            self.walk(id, place, out);
        }
    }

    /// What became of a candidate of this core's row, as another core saw it.
    pub fn rate(&mut self, rating: Rating) {
        self.rows.rate(rating.cause, rating.key, rating.worth);
    }

    /// What became of candidates since this was asked last: rows of other cores are to be told.
    pub fn take_ratings(&mut self) -> impl Iterator<Item = Rating> {
        self.ratings.drain(..)
    }

    /// The key of a candidate, or of any id, as long as it is remembered.
    pub fn key(&self, id: KeyId) -> Option<&[u8]> {
        self.directory.key(id)
    }

    /// A candidate is being fetched.
    pub fn issued(&mut self, now: Mono, id: KeyId, score: f32, reason: Reason) {
        self.scores[reason.source as usize].issued += 1;
        let entry = self.history.begin(now, id, score, reason);
        for lost in self.outstanding.put(now, id, reason, entry).into_iter().flatten() {
            self.resolve(now, &lost, Outcome::Wasted);
        }
    }

    /// A candidate turned out to be a key that the origin does not have.
    pub fn absent(&mut self, reason: Reason) {
        self.scores[reason.source as usize].issued += 1;
        self.resolve(Mono(0), &Pending::new(NO_KEY, reason), Outcome::Wasted);
    }

    /// A candidate that was fetched is a key that the origin does not have.
    pub fn missing(&mut self, now: Mono, id: KeyId) {
        if let Some(pending) = self.outstanding.take(id) {
            self.resolve(now, &pending, Outcome::Wasted);
        }
    }

    /// A candidate that was fetched will not land, through no fault of the guess; false if somebody had asked for it meanwhile.
    pub fn withdraw(&mut self, now: Mono, id: KeyId) -> bool {
        let Some(pending) = self.outstanding.take(id) else { return false };
        self.history.ended(pending.entry, id, now, Ending::Withdrawn);
        true
    }

    /// Makes a key known that was not asked for, so that it can be fetched.
    pub fn introduce(&mut self, id: KeyId, key: &[u8]) {
        self.directory.know(id, key);
    }

    /// Whether a candidate was fetched and not asked for so far.
    pub fn awaits(&self, id: KeyId) -> bool {
        self.outstanding.holds(id)
    }

    /// Passes judgement on what nobody asked for in a while, and on the guesses of late. Every second or so, where time counts.
    pub fn tick(&mut self, now: Mono) {
        while let Some(pending) = self.outstanding.take_forgotten(now) {
            self.resolve(now, &pending, Outcome::Wasted);
        }
        self.throttle.tick(now);
    }

    /// Whether it has found that guessing does not pay at present, and tries one guess in many only.
    pub fn resting(&self) -> bool {
        self.throttle.resting()
    }

    /// A candidate landed in the cache, with a value of so many bytes.
    pub fn landed(&mut self, now: Mono, id: KeyId, bytes: u32) {
        if let Some(entry) = self.outstanding.landed(id) {
            self.history.landed(entry, id, now, bytes);
        }
    }

    /// What is known of what follows a key: how often the key was visited, and each follower with how likely it is believed to
    /// be of use. Looks only.
    pub fn followers(&self, id: KeyId, mut each: impl FnMut(Guess, f32)) -> u8 {
        self.rows.look(id, |guess| each(guess, score_of(&self.calibration, &guess).1))
    }

    /// What was fetched of a key of late, the latest first.
    pub fn fetches(&self, id: KeyId) -> impl Iterator<Item = &Entry> {
        self.history.of(id)
    }

    /// How many items the cache holds: a candidate that is not asked for while a tenth as many others come in is in vain.
    pub fn cache_holds(&mut self, items: u64) {
        self.outstanding.set_patience(items / 10);
    }

    /// What became of the candidates of a source.
    pub fn score(&self, source: Source) -> Score {
        self.scores[source as usize]
    }

    /// The least score that is tried.
    pub fn threshold(&self) -> f32 {
        self.throttle.threshold()
    }

    /// Candidates from the key's row, and from those behind it while candidates come too late.
    fn follow(&mut self, id: KeyId, news: bool, elsewhere: impl Fn(KeyId) -> bool, out: &mut Vec<Candidate>) {
        let Predictor { rows, calibration, throttle, directory, outstanding, .. } = self;
        let depth = if self.late > LATE_PART { DEPTH_LATE } else { 1 };
        let (mut cause, mut sure) = (id, 1.0);
        for step in 0..depth {
            let mut guess = None;
            match news && step == 0 {
                true => rows.visit(cause, |it| guess = Some(it)),
                false => {
                    rows.look(cause, |it| guess = Some(it));
                }
            }
            let Some(guess) = guess.filter(|guess| guess.key != id) else { return };
            let (bin, score) = score_of(calibration, &guess);
            let score = sure * score;
            // Only the first step explores.
            if !(if step == 0 { throttle.admits(score) } else { score >= throttle.threshold() }) {
                return;
            }
            let open = || !outstanding.holds(guess.key) && directory.key(guess.key).is_some();
            if elsewhere(guess.key) || open() {
                let reason = Reason { source: Source::Successor, cause, bin };
                out.push(Candidate { target: Target::Key(guess.key), score, reason });
            }
            (cause, sure) = (guess.key, score);
        }
    }

    /// Candidates from the stream that the key's place belongs to.
    fn walk(&mut self, id: KeyId, place: Place, out: &mut Vec<Candidate>) {
        let Some(walk) = self.streams.observe(place) else { return };
        let mut ahead = walk.ahead;
        while ahead < AHEAD_MAX {
            let distance = ahead + 1;
            let bin =
                Calibration::bin(Source::Stride, walk.len, f32::from(distance - 1) / f32::from(AHEAD_MAX));
            let score = self.calibration.part(bin);
            if !self.throttle.admits(score) {
                break;
            }
            let number = place.number.wrapping_add_signed(walk.step.wrapping_mul(i64::from(distance)));
            let reason = Reason { source: Source::Stride, cause: id, bin };
            out.push(Candidate {
                target: Target::Place(Place { prefix: place.prefix, number }),
                score,
                reason,
            });
            ahead = distance;
        }
        self.streams.guessed(walk.stream, ahead);
    }

    fn resolve(&mut self, now: Mono, pending: &Pending, outcome: Outcome) {
        let ending = match outcome {
            Outcome::Used => Ending::Used,
            Outcome::Late => Ending::Late,
            Outcome::Wasted => Ending::Wasted,
        };
        self.history.ended(pending.entry, pending.key, now, ending);
        let score = &mut self.scores[pending.reason.source as usize];
        let worth = match outcome {
            Outcome::Used => {
                score.used += 1;
                self.throttle.used();
                self.size.spared();
                1.0
            }
            Outcome::Late => {
                score.late += 1;
                self.throttle.used();
                0.5
            }
            Outcome::Wasted => {
                score.wasted += 1;
                self.throttle.wasted();
                0.0
            }
        };
        if outcome != Outcome::Wasted {
            let late = f32::from(u8::from(outcome == Outcome::Late));
            self.late += LATE_SMOOTHING * (late - self.late);
        }
        self.calibration.rate(pending.reason.bin, worth);
        if pending.reason.source == Source::Successor {
            let rating = Rating { cause: pending.reason.cause, key: pending.key, worth };
            self.rate(rating);
            self.ratings.push(rating);
        }
    }
}

/// The bin of a row's guess, and the part of such guesses that was of use: of all in the bin, and of this one's own trials.
fn score_of(calibration: &Calibration, guess: &Guess) -> (Bin, f32) {
    let bin = Calibration::bin(Source::Successor, guess.visits, guess.weight);
    let tries = f32::from(guess.tries);
    (bin, (calibration.part(bin) + guess.use_part * tries) / (1.0 + tries))
}
