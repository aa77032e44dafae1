//! Options of the TCP sockets under HBONE.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Options of a TCP socket. `TCP_NODELAY` is always on: frames are gathered before they are written.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Unacknowledged data older than this breaks the connection (`TCP_USER_TIMEOUT`); without it, a vanished peer would hold
    /// a writer for a quarter of an hour.
    pub user_timeout: Option<Duration>,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            user_timeout: Some(Duration::from_secs(30)),
        }
    }
}

impl SocketOptions {
    pub(crate) fn apply(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        SockRef::from(tcp).set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }

    /// Connects, from `source` if there is one.
    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let tcp = socket.connect(to).await?;
        self.apply(&tcp)?;
        Ok(tcp)
    }
}
