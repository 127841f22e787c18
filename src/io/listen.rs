//! Listeners: a socket per core on one address, among which the kernel spreads connections; or a path of this machine, whose
//! one socket all cores accept from.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that may wait to be accepted, per core.
const BACKLOG: i32 = 4096;
/// Looks at a path that answers before it is said to be taken, and the time between two.
const PROBES: u32 = 20;
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Binds and listens. With `shared`, other cores may bind the same address and the kernel spreads connections over all.
/// Accepted sockets inherit TCP_NODELAY and keep-alive.
///
/// # Errors
/// Those of socket, bind and listen: address in use, not available, not permitted.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Finds out whether an address is free of other processes. Cores share theirs with one another, and the kernel would let a
/// second server of the same user share it, too: every other client would then speak to another cache.
///
/// # Errors
/// Those of socket and bind: address in use, not available, not permitted.
pub fn claim(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// A socket's file, removed when it is dropped unless somebody has put another one in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            // What cannot be removed is found stale by the next server.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds and listens on a path, which users may open as `mode` says. A socket that a dead server left there is replaced.
///
/// # Errors
/// `AddrInUse`: another server answers there, or the path is no socket. Else those of the file system.
pub fn bind_path(path: &Path, mode: u32) -> io::Result<(Socket, SocketFile)> {
    let taken = |what: &str| io::Error::new(io::ErrorKind::AddrInUse, what.to_owned());
    let address = socket2::SockAddr::unix(path)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => return Err(taken("there is a file that is no socket")),
        Ok(_) => {
            // The kernel takes a killed server's ring apart, and with it the socket, some time after its end.
            let mut looks = PROBES;
            while answers(&address)? {
                looks -= 1;
                if looks == 0 {
                    return Err(taken("another server answers there"));
                }
                std::thread::sleep(PROBE_PAUSE);
            }
            std::fs::remove_file(path)?;
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let file = std::fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()) };
    // Before anybody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// Whether somebody listens on a path.
fn answers(address: &socket2::SockAddr) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One whose queue is full lives, too.
    probe.set_nonblocking(true)?;
    Ok(!matches!(probe.connect(address), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused))
}

/// Descriptors that the process may have open, now.
pub fn descriptors_max() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_by_the_living_and_not_by_the_dead() {
        let path = std::env::temp_dir().join(format!("foreshadow-listen-{}.sock", std::process::id()));
        let mode = || std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        let (socket, file) = bind_path(&path, 0o640).expect("free");
        assert_eq!(mode(), 0o640);
        assert_eq!(bind_path(&path, 0o600).expect_err("alive").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(mode(), 0o640, "the living one's is as it was");
        // A server that was killed leaves its file.
        drop(socket);
        std::mem::forget(file);
        let (second, file) = bind_path(&path, 0o600).expect("stale");
        assert_eq!(mode(), 0o600);
        drop((second, file));
        assert!(!path.exists(), "who ends cleans up");
        std::fs::write(&path, "precious").expect("written");
        assert_eq!(bind_path(&path, 0o600).expect_err("no socket").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
        std::fs::remove_file(&path).expect("ours");
    }

    #[test]
    fn cores_share_an_address_and_strangers_do_not() {
        let first = bind("127.0.0.1:0".parse().expect("valid"), true).expect("a free port");
        let address = first.local_addr().expect("bound").as_socket().expect("an internet address");
        let second = bind(address, true).expect("shared");
        assert_eq!(second.local_addr().expect("bound").as_socket(), Some(address));
        assert_eq!(claim(address).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(address, false).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
