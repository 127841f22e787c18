//! Serving.

use crate::config::Config;

/// Serves until told to stop.
///
/// # Errors
/// What keeps it from serving.
pub fn serve(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("{} addresses and nobody to listen", config.listeners().len())
}
