//! The embedded service's file: what was appended and has been told is on the disk, whatever happens next.
//!
//! | file | what it is |
//! |---|---|
//! | `PATH` | snapshot and frames ([`crate::metadata`]) |
//! | `PATH.new` | the next snapshot while it is written; of no meaning when a process starts |
//! | `PATH.lock` | held by the process that uses `PATH`, with its number |

use super::lock::{self, Lock};
use crate::clock::Mono;
use crate::metadata::{Damage, Recovered, Table, recover};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file, open and locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next frame goes.
    end: u64,
    #[cfg(test)]
    syncs: u64,
    _lock: Lock,
}

/// Why the file cannot be used: the cause, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else uses it.
    #[error(
        "the metadata file {path} is in use by another process ({process}). \
         End that one, or give this one a file of its own"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The number of that process, 0 if it is not known.
        process: u32,
    },
    /// It does not say what it should.
    #[error("{path}: {damage}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        damage: Damage,
    },
    /// The system refuses.
    #[error(
        "the metadata file {path} cannot be used: {error}. Its folder has to exist and be ours to write to"
    )]
    System {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

impl Journal {
    /// Opens a file, or makes an empty one, and reads what it says. What a crash tore off is cut off, with a warning in the log.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged file is left as it is.
    pub fn open(path: &Path, now: Mono) -> Result<(Journal, Table), OpenError> {
        let system = |error| OpenError::System { path: path.to_owned(), error };
        let lock = match lock::take(&beside(path, ".lock")).map_err(system)? {
            Ok(lock) => lock,
            Err(process) => return Err(OpenError::InUse { path: path.to_owned(), process }),
        };
        if !path.try_exists().map_err(system)? {
            let mut table = Table::new();
            let file =
                write_new(path, &table.snapshot()).and_then(|file| adopt(path, file)).map_err(system)?;
            let end = file.metadata().map_err(system)?.len();
            return Ok((Journal::of(path, file, end, lock), table));
        }
        let bytes = fs::read(path).map_err(system)?;
        let Recovered { table, whole_bytes } =
            recover(now, &bytes).map_err(|damage| OpenError::Damaged { path: path.to_owned(), damage })?;
        let file = OpenOptions::new().write(true).open(path).map_err(system)?;
        let torn = bytes.len() - whole_bytes;
        if torn > 0 {
            tracing::warn!(
                path = %path.display(),
                at = whole_bytes,
                bytes = torn,
                "the last write to the metadata file was cut short by a crash and is left out; nobody was told that it was done"
            );
            file.set_len(whole_bytes as u64).map_err(system)?;
            file.sync_all().map_err(system)?;
        }
        let end = whole_bytes as u64;
        Ok((Journal::of(path, file, end, lock), table))
    }

    fn of(path: &Path, file: File, end: u64, lock: Lock) -> Journal {
        Journal {
            path: path.to_owned(),
            file,
            end,
            #[cfg(test)]
            syncs: 0,
            _lock: lock,
        }
    }

    /// Appends a frame and waits until it is on the disk.
    ///
    /// # Errors
    /// Those of writing. What the file says then is not known before it is read again, so it must not be written to any more.
    pub fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frame, self.end)?;
        self.file.sync_data()?;
        self.end += frame.len() as u64;
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        Ok(())
    }

    /// Puts a file with this content in the place of the present one: written beside it, made to last, renamed.
    ///
    /// # Errors
    /// Those of writing.
    pub fn replace(&mut self, content: &[u8]) -> Result<(), Replacing> {
        let file = write_new(&self.path, content).map_err(Replacing::Kept)?;
        self.file = adopt(&self.path, file).map_err(Replacing::Lost)?;
        self.end = content.len() as u64;
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Times that something was made to last.
    #[cfg(test)]
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Every write to it fails.
    #[cfg(test)]
    pub fn fail_from_now_on(&mut self) {
        self.file = File::open(&self.path).expect("it is there; open for reading only");
    }
}

/// Why a file could not be replaced.
#[derive(Debug)]
pub enum Replacing {
    /// The old one is in its place and goes on.
    Kept(io::Error),
    /// Nobody knows which of the two a restart would find; neither must be written to.
    Lost(io::Error),
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(beside(path, ".new"))?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

/// Gives the new file its name, and makes the name last.
fn adopt(path: &Path, file: File) -> io::Result<File> {
    fs::rename(beside(path, ".new"), path)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()?;
    Ok(file)
}
