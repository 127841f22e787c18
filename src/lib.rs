//! Foreshadow: a network cache tier that warms itself before it is asked and moves itself before anyone notices.
//!
//! The rooms stand on floors and import only downwards; `ARCHITECTURE.md` has the drawing.

// Floor 0: ground.
pub mod clock;
pub mod digest;
pub mod glob;
pub mod hash;
pub mod ids;
pub mod metrics;
// Floor 1: vocabulary.
pub mod message;
pub mod request;
// Floor 2: matter.
pub mod forecast;
pub mod heat;
pub mod metadata;
pub mod origin;
pub mod recording;
pub mod store;
pub mod topology;
pub mod wire;
// Floor 3: behaviour.
pub mod engine;
pub mod migration;
pub mod prefetch;
// Floor 4: shell.
pub mod client;
pub mod control;
pub mod io;
// Floor 5: process.
pub mod admin;
pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod keyspaces;
pub mod log;
pub mod preflight;
pub mod record;
pub mod replay;
pub mod serve;
pub mod shards;
pub mod why;
