//! What the admin pages want of the cores: that they record, what they know of a key, of shards and their moves, and that one moves. Carried by the shell of the data plane,
//! looked at by each core when it is woken for it.

use super::moves::{MoveRefusal, MoveReport, ShardReport};
use crate::engine::Explained;
use crate::ids::{CoreId, ShardId};
use crate::prefetch::KeyId;
use crate::recording::{Chunk, Options};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How errands get to the cores.
pub type Carrier = Arc<dyn Fn(Errand) + Send + Sync>;

/// Something that cores are to do.
#[derive(Debug)]
pub enum Errand {
    /// Record from now on, or no longer. For all.
    Record(Option<Arc<Recording>>),
    /// Answer a question. For one.
    Answer(Question),
    /// Take so much of what origins have to spare, each core its own part, until told otherwise. For all.
    Shares(Vec<f32>),
}

/// A recording: what is recorded, and who takes it.
#[derive(Debug)]
pub struct Recording {
    /// What is recorded.
    pub options: Options,
    sink: mpsc::Sender<Chunk>,
}

impl Recording {
    /// A recording whose rows come out at the receiver, at most so many chunks waiting there.
    pub fn new(options: Options, chunks_max: usize) -> (Recording, mpsc::Receiver<Chunk>) {
        let (sink, source) = mpsc::channel(chunks_max);
        (Recording { options, sink }, source)
    }

    /// Hands rows over.
    ///
    /// # Errors
    /// The rows, if there is no room for them at present or nobody wants them any more.
    pub fn give(&self, chunk: Chunk) -> Result<(), Chunk> {
        self.sink.try_send(chunk).map_err(|error| error.into_inner())
    }
}

/// A question to a core.
#[derive(Debug)]
pub struct Question {
    /// Which.
    pub core: CoreId,
    /// What is asked.
    pub about: About,
    answer: oneshot::Sender<Knowledge>,
}

/// What a core may be asked.
#[derive(Debug)]
pub enum About {
    /// What prefetching has to do with a key of this core.
    Key(Vec<u8>),
    /// Which keys of this core those numbers are.
    Names(Vec<KeyId>),
    /// Which shards it owns.
    Shards,
    /// Which of its shards move, or have of late.
    Moves,
    /// It is to move a shard of its own.
    Move {
        /// Which.
        shard: ShardId,
        /// To this core.
        to: CoreId,
    },
    /// It is to end the move of this number.
    Cancel(u64),
}

/// What a core knows.
#[derive(Debug)]
pub enum Knowledge {
    /// Of a key; nothing where nobody prefetches.
    Key(Option<Box<Explained>>),
    /// Keys, as far as they are remembered.
    Names(Vec<Option<Vec<u8>>>),
    /// Shards of the core.
    Shards(Vec<ShardReport>),
    /// Moves from the core, those under way first, then the newest.
    Moves(Vec<MoveReport>),
    /// The number of a move that has begun, or why it has not.
    Begun(Result<u64, MoveRefusal>),
    /// Whether there was such a move.
    Cancelled(bool),
}

impl Question {
    /// A question and where its answer comes out.
    pub fn new(core: CoreId, about: About) -> (Question, oneshot::Receiver<Knowledge>) {
        let (answer, told) = oneshot::channel();
        (Question { core, about, answer }, told)
    }

    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Answers it.
    pub fn answer(self, knowledge: Knowledge) {
        // Who asked may be tired of waiting.
        let _ = self.answer.send(knowledge);
    }
}
