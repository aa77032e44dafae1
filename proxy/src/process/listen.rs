//! Binding ports. `[::]` takes IPv4 too, whatever the system's default says, and becomes `0.0.0.0` on a
//! machine without IPv6.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait in the kernel.
pub(crate) const BACKLOG: i32 = 4096;

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} ({purpose}): {source}")]
pub struct ListenError {
    pub address: SocketAddr,
    /// Which port it was to be.
    pub purpose: &'static str,
    pub source: io::Error,
}

/// Binds `address`; `purpose` names the port in errors.
pub(crate) fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ListenError> {
    let bound = match bind(address) {
        Err(error) if is_any_v6(address) && error.raw_os_error() == Some(NO_SUCH_FAMILY) => bind(
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        ),
        bound => bound,
    };
    bound.map_err(|source| ListenError {
        address,
        purpose,
        source,
    })
}

/// EAFNOSUPPORT.
const NO_SUCH_FAMILY: i32 = 97;

fn is_any_v6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if is_any_v6(address) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
