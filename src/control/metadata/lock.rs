//! A file that one process has to itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held as long as it lives; the kernel gives it back when the process ends, however it ends. The file itself stays: were it
/// removed, two processes could each lock a file of that name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock, or says which process has it (0: it did not say).
///
/// # Errors
/// Those of opening, locking and writing the file.
pub fn take(path: &Path) -> io::Result<Result<Lock, u32>> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    loop {
        // SAFETY: the descriptor is open as long as `file` lives, and flock takes no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Ok(Err(holder.trim().parse().unwrap_or(0)));
            }
            _ => return Err(error),
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Ok(Lock { _file: file }))
}
