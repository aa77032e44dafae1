//! How the process's file descriptors are shared out, so that no part takes those of another.
//!
//! The kernel gives out the lowest descriptor that is free. So a socket whose number is beyond a part's share tells that all
//! below are taken: no counting is needed, and what others have open counts as well. Before a socket is refused,
//! idle connections to upstreams are closed, and it moves down to a free number. A tunnel's connection takes a moment to close,
//! so that few sockets at a time wait for it.

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rlimit::Resource;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waypoint_filters::metrics::Counter;
use waypoint_hbone::io::socket::Admission;

use crate::process::places::Bounds;

/// What the process has open from the start: runtimes, listeners, logs.
const OWN: u64 = 40;
/// Connections at a time on one plain port.
const PLAIN: u64 = 128;
/// Idle connections are closed for want of descriptors once in this time.
const RELIEF: Duration = Duration::from_millis(100);
/// Between looks for a free number, in milliseconds: half a second in all.
const LOOKS: [u64; 8] = [0, 2, 8, 16, 32, 64, 128, 250];

/// Who asks for a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Connections that come: they leave room for those that go.
    Downstream,
    /// Connections to upstreams.
    Upstream,
}

/// The numbers at which shares end. What is beyond is for plain ports, configuration, names and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    downstream: u64,
    upstream: u64,
    plain: usize,
    /// Sockets that may wait for a number, beyond all shares.
    waiting: usize,
}

impl Shares {
    /// Of the limit as it is.
    pub(crate) fn now() -> Shares {
        // Without a limit that can be read there is none that matters.
        Shares::of(Resource::NOFILE.get_soft().unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Shares {
        let reserve = (limit / 4).clamp(48, 1024);
        let upstream = limit.saturating_sub(reserve);
        Shares {
            downstream: upstream.saturating_sub(limit / 4),
            upstream,
            plain: usize::try_from((reserve / 8).min(PLAIN)).unwrap_or(1),
            waiting: usize::try_from(reserve / 8).unwrap_or(1),
        }
    }

    /// HBONE connections that there can be at most, and those that haven't proven who they are.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let room = self.downstream.saturating_sub(OWN);
        let part = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        (part(room - room / 3), part(room / 3))
    }

    /// For each of the plain ports. A kubelet, a scraper and a person have places beside a source that wants all.
    pub(crate) fn plain(&self) -> Bounds {
        Bounds {
            total: self.plain,
            per_source: self.plain,
        }
    }

    fn end(&self, share: Share) -> u64 {
        match share {
            Share::Downstream => self.downstream,
            Share::Upstream => self.upstream,
        }
    }
}

/// The descriptors in use.
pub(crate) struct OpenFiles {
    shares: Shares,
    started: Instant,
    /// Closes idle connections.
    relief: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Milliseconds after the start.
    relieved: AtomicU64,
    waiting: Arc<Semaphore>,
    scarce: Counter,
}

/// A socket that has a number in its share, or may wait for one.
pub(crate) struct Room {
    tcp: TcpStream,
    end: u64,
    waits: Option<OwnedSemaphorePermit>,
}

impl OpenFiles {
    /// `scarce` counts the times that idle connections were closed for others.
    pub(crate) fn new(shares: Shares, scarce: Counter) -> OpenFiles {
        OpenFiles {
            shares,
            started: Instant::now(),
            relief: OnceLock::new(),
            relieved: AtomicU64::new(0),
            waiting: Arc::new(Semaphore::new(shares.waiting)),
            scarce,
        }
    }

    /// `relief` closes idle connections.
    pub(crate) fn on_scarce(&self, relief: impl Fn() + Send + Sync + 'static) {
        let _ = self.relief.set(Box::new(relief));
    }

    /// Connects with `dial`, within the upstreams' share.
    pub(crate) async fn connect<F>(&self, dial: impl Fn() -> F) -> io::Result<TcpStream>
    where
        F: Future<Output = io::Result<TcpStream>>,
    {
        let tcp = match dial().await {
            Err(error) if self.relieve_after(&error) => dial().await?,
            connected => connected?,
        };
        self.fit(tcp, Share::Upstream).await
    }

    /// [`fit`](OpenFiles::fit), for the connections under tunnels.
    pub(crate) fn admission(self: &Arc<Self>) -> Admission {
        let files = self.clone();
        Admission::new(move |tcp| {
            let files = files.clone();
            async move { files.fit(tcp, Share::Upstream).await }
        })
    }

    /// The socket, once there is room for it.
    async fn fit(&self, tcp: TcpStream, share: Share) -> io::Result<TcpStream> {
        self.room(tcp, share)?.found().await
    }

    /// Room for the socket, if there is some or may be soon.
    pub(crate) fn room(&self, tcp: TcpStream, share: Share) -> io::Result<Room> {
        let end = self.shares.end(share);
        let waits = if is_below(&tcp, end) {
            None
        } else {
            self.relieve();
            let waiting = self.waiting.clone().try_acquire_owned();
            Some(waiting.map_err(|_| io::Error::from_raw_os_error(EMFILE))?)
        };
        Ok(Room { tcp, end, waits })
    }

    /// Closes idle connections if that is what `error` comes from; says whether it is.
    pub(crate) fn relieve_after(&self, error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(are_scarce) {
                self.relieve();
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Closes idle connections.
    pub(crate) fn relieve(&self) {
        let now = self.started.elapsed() + RELIEF;
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let last = self.relieved.load(Ordering::Relaxed);
        let due = u128::from(now - last.min(now)) >= RELIEF.as_millis();
        let swap = |due: bool| {
            let relaxed = Ordering::Relaxed;
            due && self
                .relieved
                .compare_exchange(last, now, relaxed, relaxed)
                .is_ok()
        };
        if swap(due)
            && let Some(relief) = self.relief.get()
        {
            self.scarce.add(1);
            tracing::warn!("descriptors are scarce: idle connections to upstreams are closed");
            relief();
        }
    }
}

impl Room {
    /// Whether others have to go first.
    pub(crate) fn waits(&self) -> bool {
        self.waits.is_some()
    }

    /// The socket, with a number of its share.
    pub(crate) async fn found(self) -> io::Result<TcpStream> {
        if self.waits.is_none() {
            return Ok(self.tcp);
        }
        let tcp = self.tcp.into_std()?;
        for pause in LOOKS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // Without a number for the copy there is none that is free.
            if let Ok(moved) = tcp.try_clone()
                && is_below(&moved, self.end)
            {
                return TcpStream::from_std(moved);
            }
        }
        Err(io::Error::from_raw_os_error(EMFILE))
    }
}

fn is_below(tcp: &impl AsRawFd, end: u64) -> bool {
    u64::try_from(tcp.as_raw_fd()).is_ok_and(|number| number < end)
}

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

fn are_scarce(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::net::TcpListener;
    use waypoint_filters::metrics::MetricRegistry;

    use super::*;

    fn files(end: u64) -> OpenFiles {
        let shares = Shares {
            downstream: end,
            upstream: end,
            plain: 4,
            waiting: 2,
        };
        let scarce = MetricRegistry::default().counter("scarce", "scarce");
        OpenFiles::new(shares, scarce)
    }

    #[test]
    fn each_part_has_some_of_any_limit() {
        for limit in [0, 64, 128, 200, 256, 1024, 65536, 1 << 20, u64::MAX] {
            let shares = Shares::of(limit);
            let (proven, unproven) = shares.connections();
            assert!(proven >= 1 && unproven >= 1 && shares.plain >= 6, "{limit}");
            assert!(shares.downstream <= shares.upstream && shares.upstream <= limit);
        }
        let shares = Shares::of(200);
        assert_eq!(
            (shares.downstream, shares.upstream, shares.plain),
            (100, 150, 6)
        );
        assert_eq!(shares.connections(), (40, 20));
        let shares = Shares::of(1 << 20);
        assert_eq!(shares.plain, 128);
        assert!(shares.connections().1 > 4096);
    }

    #[tokio::test]
    async fn idle_connections_go_before_a_socket_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let idle = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..8 {
            idle.lock().push(std::net::TcpStream::connect(to).unwrap());
        }
        // Just beyond the lowest of them; other tests of this process may take it.
        let lowest = idle.lock().iter().map(AsRawFd::as_raw_fd).max().unwrap();
        let files = files(u64::try_from(lowest).unwrap());
        let closing = idle.clone();
        files.on_scarce(move || closing.lock().clear());
        let tcp = files.connect(|| TcpStream::connect(to)).await.unwrap();
        assert!(tcp.as_raw_fd() < lowest);
        assert!(idle.lock().is_empty());
        assert_eq!(files.scarce.get(), 1);
        assert!(tcp.peer_addr().is_ok());
    }

    #[tokio::test]
    async fn what_takes_a_moment_to_close_is_waited_for_by_few() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(std::net::TcpStream::connect(to).unwrap());
        }
        let highest = idle.iter().map(AsRawFd::as_raw_fd).max().unwrap();
        let files = files(u64::try_from(highest).unwrap());
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let tcp = TcpStream::connect(to).await.unwrap();
            let room = files.room(tcp, Share::Downstream).unwrap();
            assert!(room.waits());
            waiting.push(room);
        }
        let tcp = TcpStream::connect(to).await.unwrap();
        let refused = files.room(tcp, Share::Downstream).err().unwrap();
        assert!(are_scarce(&refused));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            idle.clear();
        });
        for room in waiting {
            let tcp = room.found().await.unwrap();
            assert!(tcp.as_raw_fd() < highest);
        }
        let tcp = TcpStream::connect(to).await.unwrap();
        assert!(files.room(tcp, Share::Downstream).is_ok());
    }

    #[tokio::test]
    async fn beyond_the_share_nothing_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let error = files(3).connect(|| TcpStream::connect(to)).await;
        assert!(are_scarce(&error.unwrap_err()));
        assert!(!are_scarce(&io::ErrorKind::ConnectionRefused.into()));
    }
}
