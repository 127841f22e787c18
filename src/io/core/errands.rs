//! What the admin pages want of a core: that it records, what it knows of a key and of shards, and that one moves.

use super::Core;
use crate::clock::Now;
use crate::control::{About, Knowledge, MoveRefusal, Question, Recording};
use crate::recording::Recorder;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A recording on a core.
pub(super) struct Taping {
    pub(super) recorder: Recorder,
    recording: Arc<Recording>,
}

impl Core {
    /// Does what has come up since the last time.
    pub(super) fn take_errands(&mut self, now: Now) {
        let round = self.shared.recording_round.load(Ordering::Acquire);
        if round != self.recording_round {
            self.recording_round = round;
            self.give_rows(now);
            let recording = self.shared.recording.read().expect("nobody panics while holding it").clone();
            self.works.taping = recording.map(|(recording, begin)| {
                let recorder = Recorder::new(recording.options, begin, self.works.me);
                Box::new(Taping { recorder, recording })
            });
        }
        let mine: Vec<Question> = {
            let mut questions = self.shared.questions.lock().expect("nobody panics while holding it");
            let mine = questions.extract_if(.., |question| question.core == self.works.me);
            mine.collect()
        };
        for question in mine {
            let knowledge = match &question.about {
                About::Key(key) => Knowledge::Key(self.works.engine.explain(now, key)),
                About::Names(ids) => Knowledge::Names(self.works.engine.names_of(ids)),
                About::Shards => Knowledge::Shards(self.works.shard_reports()),
                About::Moves => Knowledge::Moves(self.works.move_reports()),
                About::Move { .. } if !self.options.sources.origins.is_empty() => {
                    Knowledge::Begun(Err(MoveRefusal::Origins))
                }
                About::Move { shard, to } => Knowledge::Begun(self.works.begin_move(now, *shard, *to)),
                About::Cancel(id) => Knowledge::Cancelled(self.works.cancel_move(now, *id)),
            };
            question.answer(knowledge);
        }
    }

    /// Hands over what was recorded so far, if anybody takes it.
    pub(super) fn give_rows(&mut self, now: Now) {
        let Some(taping) = &mut self.works.taping else { return };
        let chunk = taping.recorder.take(now.mono);
        if let Err(chunk) = taping.recording.give(chunk) {
            taping.recorder.keep(chunk);
        }
    }
}
