//! The shell of the data plane: what waits for sockets, other cores and time, so that everything below need not.
//!
//! ```text
//!  core (a pinned glommio executor, one task of ours in its `serve` queue)
//!  +------------------------------------------------------------------------------+
//!  | Ring: accept, recv, send, timeouts, wake-ups      Mesh: SPSC rings to others |
//!  |    |  one io_uring_enter per turn                    |  one batch per turn    |
//!  |    v                                                 v                        |
//!  | Connection: socket side of a wire::Session <----> Backend ----> Engine       |
//!  +------------------------------------------------------------------------------+
//! ```
//! - `ring`: our io_uring and its operations; `buffers`: the receive buffers that the kernel picks from.
//! - `connection`: what a socket needs beside its session; `table`: where connections live.
//! - `mesh`: batches to and from other cores; `core`: the turn; `idle`: how long to look before sleeping.
//! - `listen`: listeners; `resolve`: addresses of origins; `time`: the clocks; `tls`: sealed connections, sans-IO;
//!   `trust`: whom to believe at the other end of them.

pub(crate) mod buffers;
mod connection;
mod core;
mod idle;
mod listen;
mod mesh;
mod resolve;
pub(crate) mod ring;
mod table;
mod time;
pub mod tls;
pub mod trust;

pub use self::core::{
    Guests, Limits, Listeners, Listening, Opening, Options, OriginOptions, OriginTls, Queue, Running, Shared,
    Sources, Wanted, return_large_buffers, start,
};
pub use idle::BusyPoll;
pub use listen::{SocketFile, bind, bind_path, claim};
pub use resolve::Addresses;
pub use time::now;
