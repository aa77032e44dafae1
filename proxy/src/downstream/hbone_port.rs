//! The HBONE port: its accept loop, and the connections that it takes.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use waypoint_config::model::http::connection_limits::ConnectionLimits;
use waypoint_filters::metrics::{Counter, CounterFamily, Gauge, MetricRegistry};
use waypoint_hbone::frames::allowance::{Allowances, DEFAULT_BUDGET};
use waypoint_hbone::server::{ConnectionEnd, ServerConnection, ServerOptions};
use waypoint_hbone::tls::Tls;

use crate::downstream::data_path::DataPath;
use crate::downstream::lifetime::{Lifetime, Uses};
use crate::downstream::newcomers::{Newcomer, Newcomers};
use crate::downstream::tunnel::{self, HboneConnection};
use crate::lifecycle::drain::{Drain, Watch};
use crate::process::listen::BACKLOG;
use crate::process::open_files::{Room, Share};
use crate::process::places::Bounds;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// After a failure to accept.
const PAUSE: Duration = Duration::from_millis(20);

/// What the port is made of.
pub(crate) struct HbonePortOptions {
    pub path: Arc<DataPath>,
    pub tls: Tls,
    pub server: ServerOptions,
    pub limits: Limits,
    pub metrics: Arc<MetricRegistry>,
}

/// How much is taken at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// HBONE connections; further ones are closed at once.
    pub connections: usize,
    /// Connections that haven't proven who they are; for a further one the oldest is closed.
    pub handshakes: usize,
    /// As many of those from one source: an IPv4 address, or an IPv6 network of 64 bits.
    pub handshakes_per_source: usize,
    /// Tunnels on one connection; `None`: what the configuration says.
    pub streams: Option<u32>,
    /// Bytes of memory. The kernel's limit counts as well.
    pub memory: Option<u64>,
    /// Units that an HTTP/2 connection may spend on frames that do no work, and on such streams.
    pub frames: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16 * 1024,
            handshakes: 4096,
            handshakes_per_source: 1024,
            streams: None,
            memory: None,
            frames: DEFAULT_BUDGET,
        }
    }
}

/// The port, and its connections.
pub(crate) struct HbonePort {
    path: Arc<DataPath>,
    tls: Tls,
    server: ServerOptions,
    /// How many there may be at a time, and a place for each.
    connections: usize,
    places: Arc<Semaphore>,
    active: Gauge,
    /// Tunnels on one connection, whatever the configuration says.
    streams: Option<u32>,
    newcomers: Newcomers,
    refused: Arc<CounterFamily>,
    untrusted: Arc<CounterFamily>,
    connection_task: Counter,
}

/// Reasons that aren't the client's: they are counted from 0, so that an alert sees the first.
const WANTS_ROOM: [&str; 5] = [
    "crowded",
    "crowded_source",
    "descriptors",
    "limit",
    "overload",
];

impl HbonePort {
    pub(crate) fn new(options: HbonePortOptions) -> Arc<HbonePort> {
        let HbonePortOptions {
            path,
            tls,
            server,
            limits,
            metrics,
        } = options;
        let connections = limits.connections.min(Semaphore::MAX_PERMITS);
        let refused = metrics.counters(
            "waypoint_connections_refused_total",
            "HBONE connections that failed before their first tunnel, by reason.",
            &["reason"],
        );
        for reason in WANTS_ROOM {
            refused.with(&[reason.into()]);
        }
        let bounds = Bounds {
            total: limits.handshakes,
            per_source: limits.handshakes_per_source,
        };
        let workers = Handle::current().metrics().num_workers();
        let newcomers = Newcomers::new(bounds, workers, &metrics, refused.clone());
        let active = metrics.gauges(
            "waypoint_connections_active",
            "HBONE connections that are open.",
            &[],
        );
        Arc::new(HbonePort {
            path,
            tls,
            server: ServerOptions {
                allowances: Allowances::new(limits.frames, workers),
                ..server
            },
            connections,
            places: Arc::new(Semaphore::new(connections)),
            active: active.with(&[]),
            streams: limits.streams,
            newcomers,
            refused,
            untrusted: metrics.counters(
                "waypoint_connections_untrusted_total",
                "HBONE connections that were ended because their peer isn't trusted any more, by reason.",
                &["reason"],
            ),
            connection_task: metrics.counter(
                "waypoint_connection_task_nanoseconds_total",
                "Time in HBONE connections' own tasks: TLS and framing.",
            ),
        })
    }

    /// Takes HBONE connections until the drain comes to its end.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        let sweeper = tokio::spawn(self.clone().sweep());
        let mut ending = pin!(drain.ending());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut ending => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, source)) => self.take(tcp, source, drain.watch()),
                Err(error) => {
                    // Out of file descriptors, most likely: a pause lets some go.
                    tracing::warn!(%error, "could not accept an HBONE connection");
                    self.make_room();
                    tokio::time::sleep(PAUSE).await;
                }
            }
            self.newcomers.catch_up().await;
        }
        // What the kernel has accepted for us has been accepted; the runtime hears of it when it has looked.
        tokio::task::yield_now().await;
        for _ in 0..BACKLOG {
            let accepted = tokio::task::unconstrained(listener.accept()).now_or_never();
            let Some(Ok((tcp, source))) = accepted else {
                break;
            };
            self.take(tcp, source, drain.watch());
        }
        sweeper.abort();
    }

    /// Serves the connection, or closes it at once if there are too many.
    fn take(self: &Arc<Self>, tcp: TcpStream, source: SocketAddr, drain: Watch) {
        if !self.path.overload.admits_connection() {
            return self.refuse("overload", source);
        }
        if self.places.available_permits() == 0 {
            return self.refuse("limit", source);
        }
        let files = &self.path.reach.upstreams.connector.files;
        let room = files.room(tcp, Share::Downstream);
        if room.as_ref().map_or(true, Room::waits) {
            self.newcomers.make_room();
        }
        let Ok(room) = room else {
            return self.refuse("descriptors", source);
        };
        let newcomer = self.newcomers.enter(source);
        tokio::spawn(self.clone().connection(newcomer, room, source, drain));
    }

    fn refuse(&self, reason: &'static str, source: SocketAddr) {
        self.refused.with(&[reason.into()]).add(1);
        tracing::debug!(%source, reason, "HBONE connection refused: there are as many as may be");
    }

    fn make_room(&self) {
        self.path.reach.upstreams.connector.files.relieve();
        self.newcomers.make_room();
    }

    fn count_connections(&self) {
        let free = self.places.available_permits();
        self.active
            .set(self.connections.saturating_sub(free) as u64);
    }

    /// Serves a connection from its handshake to its end.
    async fn connection(
        self: Arc<Self>,
        newcomer: Newcomer,
        room: Room,
        source: SocketAddr,
        drain: Watch,
    ) {
        let Ok(tcp) = room.found().await else {
            return self.refuse("descriptors", source);
        };
        let options = self.server_options();
        let proving = self
            .newcomers
            .prove(newcomer, tcp, source, &self.tls, &options);
        let Some(connection) = proving.await else {
            return;
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return self.refuse("limit", source);
        };
        self.count_connections();
        // Large, and there for as long as the connection.
        Box::pin(self.clone().serve_connection(connection, source, drain)).await;
        drop(place);
        self.count_connections();
    }

    async fn serve_connection(
        self: Arc<Self>,
        connection: ServerConnection,
        source: SocketAddr,
        drain: Watch,
    ) {
        let outer = Arc::new(HboneConnection {
            source: canonical(connection.peer_addr),
            local_address: canonical(connection.local_addr),
            peer: connection.peer.clone(),
            local: connection.local.clone(),
            tls: connection.tls.clone(),
            held: self.path.overload.connection(&connection.peer),
            allowance: connection.allowance.clone(),
        });
        let (used, until_goaway) = drain.until_goaway();
        let (uses, mut lifetime) = self.lifetime();
        let until_goaway = async move {
            tokio::select! {
                () = until_goaway => {}
                _ = lifetime.over() => {}
            }
        };
        let (busy, untrusted) = (self.connection_task.clone(), self.untrusted.clone());
        let peer = connection.peer.clone();
        let path = self.path.clone();
        let serving = connection.serve(until_goaway, move |request| {
            used.mark();
            let (path, outer, drain) = (self.path.clone(), outer.clone(), drain.clone());
            let in_use = uses.begin();
            tokio::spawn(async move {
                let _in_use = in_use;
                tunnel::serve(path, outer, request, drain).await;
            });
        });
        match timed(serving, &busy).await {
            ConnectionEnd::Untrusted(reason) => {
                untrusted.with(&[reason.label().into()]).add(1);
                tracing::warn!(%source, %peer, %reason, "HBONE connection of a peer that isn't trusted any more ended");
            }
            ConnectionEnd::Flooded(flood) => path.floods.count("hbone", source, flood),
            _ => {}
        }
    }

    /// How long a connection lives, by the configuration that it begins under.
    fn lifetime(&self) -> (Arc<Uses>, Lifetime) {
        let snapshot = self.path.snapshot.load();
        let configured = snapshot.map(|snapshot| snapshot.connect_terminate.clone());
        let limits = match &configured {
            Some(listener) => &listener.manager.connections,
            None => &ConnectionLimits::default(),
        };
        let uses = Uses::new(limits);
        let lifetime = Lifetime::new(uses.clone(), limits, fastrand::f64());
        (uses, lifetime)
    }

    /// The server's settings as configuration has them now.
    fn server_options(&self) -> ServerOptions {
        let mut options = self.server.clone();
        let overload = &self.path.overload;
        options.squeeze = overload.squeeze().clone();
        options.http2.connection_window = overload.sizes.connection_window;
        options.http2.stream_window = overload.sizes.stream_window;
        if let Some(snapshot) = self.path.snapshot.load() {
            let listener = &snapshot.connect_terminate;
            options.max_concurrent_streams =
                self.streams.unwrap_or(listener.max_concurrent_streams);
            if let Some((interval, timeout)) = listener.keepalive {
                options.http2.keepalive_interval = Some(interval);
                options.http2.keepalive_timeout = timeout;
            }
        }
        options
    }

    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.path.reach.upstreams.sweep(Instant::now());
            if self.path.overload.is_short() {
                self.path.reach.upstreams.let_idle_go(Instant::now());
            }
            self.path.reach.original.sweep();
        }
    }
}

/// Adds the time that polling takes to `busy`, in nanoseconds.
async fn timed<T>(future: impl Future<Output = T>, busy: &Counter) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let start = Instant::now();
        let polled = future.as_mut().poll(cx);
        busy.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        polled
    })
    .await
}

/// An IPv4 peer of a dual-stack socket, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use http::{HeaderMap, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use waypoint_config::resource::Update;
    use waypoint_config::standalone::StandaloneSource;
    use waypoint_config::store::workloads::WorkloadIndex;
    use waypoint_config::store::{OnRefused, Store};
    use waypoint_filters::host::Terminal;
    use waypoint_filters::host::detached::DetachedHost;
    use waypoint_filters::service::body::Body;
    use waypoint_filters::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
    use waypoint_hbone::certificates::dev_ca::DevCa;
    use waypoint_hbone::identity::Identity;
    use waypoint_hbone::pool::{PoolOptions, TunnelPool};
    use waypoint_hbone::tls::TrustDomains;

    use super::*;
    use crate::overload::Overload;
    use crate::process::allocator::Allocator;
    use crate::process::open_files::{OpenFiles, Shares};
    use crate::process::vitals::Vitals;
    use crate::router::terminals::{ConnectTerminal, Terminals};
    use crate::upstream::outside::Outside;

    /// The end of all chains: panics at one path, answers others.
    struct Trap;

    impl HttpCall for Trap {
        fn call(&self, request: HttpRequest) -> ResponseFuture {
            assert!(request.http.uri().path() != "/panic", "the trap is sprung");
            ResponseFuture::ready(Response::new(Body::full("fine")))
        }
    }

    fn open_files(metrics: &MetricRegistry) -> Arc<OpenFiles> {
        let scarce = metrics.counter("scarce", "scarce");
        Arc::new(OpenFiles::new(Shares::now(), scarce))
    }

    async fn answer(tunnels: &TunnelPool, via: SocketAddr, path: &str) -> String {
        let mut tunnel = tunnels
            .connect(via, "10.96.0.2:9080", HeaderMap::new())
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tunnel.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = tunnel.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_tunnel_and_is_counted() {
        let ca = DevCa::ephemeral().unwrap();
        let tls = |name: &str| {
            let identity = Identity::istio("cluster.local", "default", name).unwrap();
            let certificate = ca.mint(&identity, Duration::from_secs(3600)).unwrap();
            Tls::new(
                Some(certificate.workload().unwrap()),
                TrustDomains::default(),
            )
        };
        let metrics = Arc::new(MetricRegistry::default());
        let host = DetachedHost::default()
            .with_metrics(metrics.clone())
            .with_terminal(|terminal| match terminal {
                Terminal::Router => HttpService::new(Trap),
                Terminal::Connect => HttpService::new(ConnectTerminal),
            });
        let mut store = Store::new(Arc::new(host), WorkloadIndex::default(), OnRefused::Keep);
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/bookinfo");
        let added = StandaloneSource::new(vec![examples], None)
            .load()
            .unwrap()
            .resources;
        store.apply(Update {
            added,
            ..Update::default()
        });

        let own = tls("waypoint");
        let tunnels = TunnelPool::new(own.clone(), PoolOptions::default());
        let terminals = Terminals::new(
            own.clone(),
            tunnels,
            open_files(&metrics),
            Arc::new(|_| None),
            Overload::start(None, Allocator::UNKNOWN, &metrics, Vitals::new()).unwrap(),
            &metrics,
            &Outside::default(),
        );
        let path = DataPath::new(store.handle(), terminals, Vec::new(), &metrics);
        let port = HbonePort::new(HbonePortOptions {
            path: path.clone(),
            tls: own,
            server: ServerOptions::default(),
            limits: Limits::default(),
            metrics,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = listener.local_addr().unwrap();
        tokio::spawn(port.serve(listener, Drain::new()));

        let client = TunnelPool::new(tls("curl"), PoolOptions::default());
        assert!(answer(&client, via, "/before").await.ends_with("fine"));
        assert_eq!(answer(&client, via, "/panic").await, "");
        assert!(
            answer(&client, via, "/after").await.ends_with("fine"),
            "on the same connection"
        );
        assert_eq!(path.panics.get(), 1);
    }

    #[test]
    fn a_tunnels_future_stays_small() {
        // Ten thousand idle tunnels are ten thousand of these.
        fn size<T>(_: fn() -> T) -> usize {
            std::mem::size_of::<T>()
        }
        fn future() -> impl Future {
            async {
                let (path, outer, request, drain) = std::future::pending().await;
                tunnel::serve(path, outer, request, drain).await;
            }
        }
        let size = size(future);
        assert!(size <= 8 * 1024, "{size} bytes");
    }
}
