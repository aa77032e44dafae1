//! Options of the TCP sockets under HBONE.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// Options of a TCP socket. `TCP_NODELAY` is always on: frames are gathered before they are written.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Unacknowledged data older than this breaks the connection (`TCP_USER_TIMEOUT`); without it, a vanished peer would hold
    /// a writer for a quarter of an hour.
    pub user_timeout: Option<Duration>,
    /// A connection on which nothing goes to and fro is probed from this time on: a second line behind HTTP/2's
    /// PINGs, which configuration can turn off.
    pub keepalive: Option<Duration>,
    /// What the kernel may hold that isn't on its way yet (`TCP_NOTSENT_LOWAT`). What is on its way is the peer's window, and
    /// grows with the link; without this, a peer that reads nothing would make the kernel keep megabytes, which
    /// count against a pod's memory as our own do.
    pub unsent: u32,
    /// Of sockets that we connect.
    pub admission: Admission,
}

/// Whether the process has room for a socket that it connected; it may give it another descriptor, after a moment.
#[derive(Clone)]
pub struct Admission(Arc<Admit>);

type Admit = dyn Fn(TcpStream) -> Admitted + Send + Sync;
type Admitted = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

impl Admission {
    pub fn new<F>(admit: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Admission
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        Admission(Arc::new(move |tcp| Box::pin(admit(tcp))))
    }
}

impl Default for Admission {
    /// There is room for all.
    fn default() -> Admission {
        Admission::new(|tcp| std::future::ready(Ok(tcp)))
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

/// A few full TLS records: enough for a link to be busy while the writer is woken.
const UNSENT: u32 = 256 * 1024;

/// Between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer that break the connection.
const PROBES: u32 = 3;

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            user_timeout: Some(Duration::from_secs(30)),
            keepalive: Some(Duration::from_secs(60)),
            unsent: UNSENT,
            admission: Admission::default(),
        }
    }
}

impl SocketOptions {
    pub(crate) fn apply(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        {
            SockRef::from(tcp).set_tcp_user_timeout(self.user_timeout)?;
            SockRef::from(tcp).set_tcp_notsent_lowat(self.unsent)?;
        }
        if let Some(time) = self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(time)
                .with_interval(PROBE_INTERVAL)
                .with_retries(PROBES);
            SockRef::from(tcp).set_tcp_keepalive(&keepalive)?;
        }
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
        let tcp = (self.admission.0)(socket.connect(to).await?).await?;
        self.apply(&tcp)?;
        Ok(tcp)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ends_are_probed_and_give_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = SocketOptions::default();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(options.connect(address, None), listener.accept());
        let (near, (far, _)) = (near.unwrap(), far.unwrap());
        options.apply(&far).unwrap();
        for tcp in [near, far] {
            assert!(tcp.nodelay().unwrap());
            let socket = SockRef::from(&tcp);
            assert!(socket.keepalive().unwrap());
            assert_eq!(
                socket.tcp_keepalive_time().unwrap(),
                Duration::from_secs(60)
            );
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
            assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), options.unsent);
        }
    }
}
