//! Listeners: a socket per core on one address, among which the kernel spreads connections.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// Connections that may wait to be accepted, per core.
const BACKLOG: i32 = 4096;

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

/// Descriptors that the process may have open, now.
pub fn descriptors_max() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_an_address_and_strangers_do_not() {
        let first = bind("127.0.0.1:0".parse().expect("valid"), true).expect("a free port");
        let address = first.local_addr().expect("bound").as_socket().expect("an internet address");
        let second = bind(address, true).expect("shared");
        assert_eq!(second.local_addr().expect("bound").as_socket(), Some(address));
        assert_eq!(bind(address, false).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
