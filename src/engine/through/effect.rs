//! What an engine with keyspaces wants of the world.

use crate::engine::flights::Waiter;
use crate::engine::passing::Passage;
use crate::ids::ConnectionId;
use crate::origin::pool::Cause;
use crate::origin::{Ask, OriginId, Ticket};
use crate::request::{Answer, Private};
use std::rc::Rc;

/// What the engine wants of the world.
#[derive(Debug)]
pub enum Effect {
    /// Ask an origin; then [`crate::engine::Engine::answered`] or [`crate::engine::Engine::failed`].
    Ask {
        /// Whom.
        origin: OriginId,
        /// Names the question.
        ticket: Ticket,
        /// Why.
        cause: Cause,
        /// What.
        ask: Ask,
    },
    /// Somebody waits for a question from now on that nobody waited for.
    Hurry {
        /// Who was asked.
        origin: OriginId,
        /// The question.
        ticket: Ticket,
    },
    /// Have an origin do a command as it is, in the order of these; then [`crate::engine::Engine::answered`] or [`crate::engine::Engine::failed`].
    Pass {
        /// Whom.
        origin: OriginId,
        /// Version of the protocol that the reply is to be in.
        protocol: u8,
        /// Names the question.
        ticket: Ticket,
        /// The command.
        ask: Ask,
        /// The client on whose own connection it is to be done, and how; `None`: on the one that all share.
        private: Option<(ConnectionId, Private)>,
    },
    /// Invalidate a key on the core that owns it; then [`crate::engine::Engine::forgotten`].
    Forget {
        /// Names the command that changed it.
        passage: Passage,
        /// The key.
        key: Box<[u8]>,
    },
    /// Hand an outcome to somebody to whom [`crate::engine::Engine::serve`] answered `None`.
    Answer {
        /// Who.
        waiter: Waiter,
        /// The answer.
        answer: Answer,
        /// Its bytes.
        value: Rc<[u8]>,
    },
}
