//! The configuration that new connections begin with. It is replaced while they come in; those there are keep theirs.

use rustls::ServerConfig;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where cores find it. The lock is taken when it has changed, not when it is looked at.
pub struct Shelf {
    changes: AtomicU64,
    config: Mutex<Arc<ServerConfig>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} changes)", self.changes.load(Ordering::Relaxed))
    }
}

/// A reader's view of a shelf; each core has its own.
pub struct Reader {
    shelf: Arc<Shelf>,
    changes: u64,
    config: Arc<ServerConfig>,
}

impl Shelf {
    /// With what the first connections begin with.
    pub fn new(config: Arc<ServerConfig>) -> Shelf {
        Shelf { changes: AtomicU64::new(0), config: Mutex::new(config) }
    }

    /// Has connections that come from now on begin with another one.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.config.lock().expect("nobody panics with the lock") = config;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A view for one who looks often.
    pub fn reader(self: &Arc<Shelf>) -> Reader {
        let changes = self.changes.load(Ordering::Acquire);
        let config = self.config.lock().expect("nobody panics with the lock").clone();
        Reader { shelf: self.clone(), changes, config }
    }
}

impl Reader {
    /// What is on the shelf now.
    pub fn config(&mut self) -> Arc<ServerConfig> {
        let changes = self.shelf.changes.load(Ordering::Acquire);
        if changes != self.changes {
            self.changes = changes;
            self.config = self.shelf.config.lock().expect("nobody panics with the lock").clone();
        }
        self.config.clone()
    }
}
