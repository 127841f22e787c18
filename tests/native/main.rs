//! The native protocol against its specification: vectors through encoder and decoder, sessions over real engines.
//!
//! The world of a session here is three engines. What belongs to another core's engine waits until the test delivers it,
//! core by core in any order: that is all a session may rely on.

mod sessions;
mod splits;
mod vectors;
mod world;
