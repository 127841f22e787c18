//! What a core is told of its origins.

use crate::io::resolve::Addresses;
use crate::origin::Target;
use crate::origin::keyspace::Keyspaces;
use crate::origin::pool::Permits;
use std::sync::Arc;

/// An origin that all cores ask.
#[derive(Clone, Debug)]
pub struct OriginOptions {
    /// Its name in metrics.
    pub name: String,
    /// Where and what it is.
    pub target: Arc<Target>,
    /// Bounds of each core's pool.
    pub pool: crate::origin::pool::Options,
    /// Most connections of one core that are clients' own.
    pub private_lines_max: usize,
    /// What may be on the way, all cores.
    pub permits: Arc<Permits>,
    /// Its addresses.
    pub addresses: Arc<Addresses>,
    /// Whom to trust, where it is spoken to by TLS.
    pub tls: Option<OriginTls>,
}

/// TLS to an origin.
#[derive(Clone, Debug)]
pub struct OriginTls {
    /// Whom to trust, and our own certificate.
    pub config: Arc<rustls::ClientConfig>,
    /// The name that its certificate must be for.
    pub name: rustls::pki_types::ServerName<'static>,
    /// How it begins.
    pub opening: Opening,
}

/// How TLS begins on a connection to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With the connection.
    AtOnce,
    /// When the origin has said that it has it, as PostgreSQL is asked.
    Asked {
        /// Whether the connection is used in the clear if it has not.
        clear: bool,
    },
}

/// Origins and the keyspaces that have them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// In the order of their numbers.
    pub origins: Vec<OriginOptions>,
    /// Which keys are whose.
    pub keyspaces: Arc<Keyspaces>,
}
