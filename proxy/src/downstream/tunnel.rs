//! The life of a tunnel: CONNECT → `connect_terminate`'s filters → the filter chain for its destination
//! → an HTTP connection or a TCP stream inside it.
//!
//! Envoy hands the tunnel to the listener `main_internal` through an internal socket; here that is a
//! function call, and the filter state that Envoy shares with it is carried as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, Request, StatusCode, Uri};
use waypoint_config::model::listener::chain::{ChainSlot, FilterChain};
use waypoint_config::model::listener::filter_chain_matcher::{
    ApplicationProtocol, ChainChoice, ChainInput,
};
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_config::model::listener::{CONNECT_TERMINATE, MAIN_INTERNAL};
use waypoint_filters::metrics::Counter;
use waypoint_filters::network::NameUse;
use waypoint_filters::service::HttpRequest;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::LocalReply;
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::filter_state::{
    DOWNSTREAM_PEER, ORIGINAL_DST_LOCAL, ORIGINAL_DST_REMOTE,
};
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};
use waypoint_hbone::frames::allowance::Allowance;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::server::TunnelRequest;
use waypoint_hbone::tls::tls_info::TlsInfo;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::data_path::DataPath;
use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::exchange::capture_request;
use crate::downstream::http::record::RecordGuard;
use crate::downstream::http::serving;
use crate::downstream::server_name;
use crate::downstream::sniff;
use crate::downstream::tcp;
use crate::lifecycle::drain::Watch;
use crate::overload;

/// The HBONE connection that a tunnel came on.
pub(crate) struct HboneConnection {
    pub(crate) source: SocketAddr,
    pub(crate) local_address: SocketAddr,
    pub(crate) peer: Identity,
    pub(crate) local: Identity,
    pub(crate) tls: Arc<TlsInfo>,
    /// What its tunnels hold.
    pub(crate) held: Arc<overload::holders::Connection>,
    /// What its peer may do for nothing.
    pub(crate) allowance: Arc<Allowance>,
}

/// Serves one tunnel to its end.
pub(crate) async fn serve(
    path: Arc<DataPath>,
    outer: Arc<HboneConnection>,
    request: TunnelRequest,
    drain: Watch,
) {
    let _panics = CountPanic(&path.panics);
    let Some(snapshot) = path.snapshot.load() else {
        return request.reject(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
    };
    let (joined, needs_protocol) = match join(&path, &snapshot, &outer, &request).await {
        Ok(joined) => joined,
        Err(status) => return request.reject(status, HeaderMap::new()),
    };
    let Ok(mut stream) = request.accept(HeaderMap::new()) else {
        return;
    };
    let Joined { slot, mut info } = joined;
    let holder = outer.held.tunnel();
    stream.hold(&holder);
    info.holder = Some(holder);
    let slot = if needs_protocol {
        let sniffed = tokio::time::timeout(sniff::FIRST_BYTES, sniff::protocol(&mut stream)).await;
        let protocol = sniffed.unwrap_or(ApplicationProtocol::Unknown);
        match choose(&snapshot, &info, Some(protocol)) {
            ChainChoice::Chain(slot) => slot,
            _ => return,
        }
    } else {
        slot
    };
    info.filter_chain = Some(slot.name.clone());
    let allowance = outer.allowance.clone();
    let inspected = snapshot
        .main
        .inspection
        .reads_server_name(info.destination.port());
    run(&path, slot, (info, inspected), stream, drain, allowance).await;
}

/// A panic ends its tunnel and nothing else; it is counted.
struct CountPanic<'a>(&'a Counter);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.add(1);
        }
    }
}

/// A tunnel that found its chain.
struct Joined {
    slot: Arc<ChainSlot>,
    info: Connection,
}

/// Why a CONNECT leads nowhere.
enum Unserved {
    Overload,
    NotConnect,
    NoChain,
    /// The filters have answered.
    Answered(StatusCode),
}

impl Unserved {
    /// The answer, and what is recorded of it.
    fn answer(self, stream: &StreamInfo) -> StatusCode {
        let (status, details, flags) = match self {
            Unserved::Overload => (
                StatusCode::SERVICE_UNAVAILABLE,
                overload::DETAILS,
                ResponseFlags::OVERLOAD_MANAGER,
            ),
            Unserved::NotConnect => (
                StatusCode::NOT_FOUND,
                "route_not_found",
                ResponseFlags::NO_ROUTE,
            ),
            Unserved::NoChain => (
                StatusCode::NOT_FOUND,
                "filter_chain_not_found",
                ResponseFlags::NO_ROUTE,
            ),
            Unserved::Answered(status) => return status,
        };
        let reply = LocalReply::new(status, "", details).with_flags(flags);
        reply.respond_as(stream, false);
        status
    }
}

/// Runs the CONNECT through its filters, finds the chain of its destination, and records it. The error is the
/// CONNECT's answer. The flag says that the chain depends on the first bytes.
async fn join(
    path: &DataPath,
    snapshot: &Snapshot,
    outer: &HboneConnection,
    request: &TunnelRequest,
) -> Result<(Joined, bool), StatusCode> {
    let start = Instant::now();
    let manager = &snapshot.connect_terminate.manager;
    let mut connection = Connection::new(outer.source, outer.local_address, start);
    connection.peer = Some(outer.peer.clone());
    connection.local = Some(outer.local.clone());
    connection.tls = Some(outer.tls.clone());
    connection.listener = Some(CONNECT_TERMINATE);
    let stream = StreamInfo::new(
        Arc::new(connection),
        Protocol::Http2,
        start,
        SystemTime::now(),
    );
    let mut guard = RecordGuard::new(stream.clone(), manager.clone());
    let head = connect_head(request.method(), request.headers(), request.authority());
    capture_request(&stream, &head, &manager.capture);
    let head = HttpRequest::new(head, stream.clone(), manager.routes.clone());
    let found = if !path.overload.admits_tunnel(&outer.held) {
        Err(Unserved::Overload)
    } else if !request.is_connect() {
        Err(Unserved::NotConnect)
    } else {
        find_chain(path, snapshot, outer, head).await
    };
    let found = found.map_err(|unserved| unserved.answer(&stream));
    guard.finish(found.as_ref().err().copied().unwrap_or(StatusCode::OK));
    found
}

async fn find_chain(
    path: &DataPath,
    snapshot: &Snapshot,
    outer: &HboneConnection,
    head: HttpRequest,
) -> Result<(Joined, bool), Unserved> {
    let stream = head.stream.clone();
    let Ok(response) = snapshot.connect_terminate.manager.filters.call(head).await;
    if !response.status().is_success() {
        return Err(Unserved::Answered(response.status()));
    }
    let info = inner_connection(&stream)
        .filter(|info| !path.is_forbidden(info.destination, outer.local_address))
        .ok_or(Unserved::NoChain)?;
    match choose(snapshot, &info, None) {
        ChainChoice::Chain(slot) => Ok((Joined { slot, info }, false)),
        ChainChoice::NeedsProtocol => {
            match choose(snapshot, &info, Some(ApplicationProtocol::Unknown)) {
                ChainChoice::Chain(slot) => Ok((Joined { slot, info }, true)),
                _ => Err(Unserved::NoChain),
            }
        }
        ChainChoice::None => Err(Unserved::NoChain),
    }
}

pub(crate) fn choose(
    snapshot: &Snapshot,
    info: &Connection,
    protocol: Option<ApplicationProtocol>,
) -> ChainChoice {
    let authority = info
        .filter_state
        .string(waypoint_filters::stream::filter_state::CONNECT_AUTHORITY);
    snapshot.main.choose(ChainInput {
        destination: info.destination,
        authority: authority.map_or("", |a| a),
        protocol,
    })
}

/// The CONNECT as the filters see it. Its authority may be no valid one; it is a header then only.
pub(crate) fn connect_head(method: &Method, headers: &HeaderMap, authority: &str) -> Request<Body> {
    let mut head = Request::new(Body::empty());
    *head.method_mut() = method.clone();
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = headers.clone();
    if let Ok(value) = http::HeaderValue::from_str(authority) {
        head.headers_mut().insert(http::header::HOST, value);
    }
    if let Ok(uri) = Uri::try_from(authority) {
        *head.uri_mut() = uri;
    }
    head
}

/// What the filters of `connect_terminate` put into the shared state is the inner connection's identity.
/// `None`: the authority is no address.
pub(crate) fn inner_connection(stream: &StreamInfo) -> Option<Connection> {
    let (outer, state) = (&stream.connection, stream.state());
    let source = state
        .filter_state
        .address(ORIGINAL_DST_REMOTE)
        .unwrap_or(outer.source);
    let destination = state.filter_state.address(ORIGINAL_DST_LOCAL)?;
    let mut info = Connection::new(source, destination, stream.start);
    info.peer = outer.peer.clone();
    info.local = outer.local.clone();
    info.tls = outer.tls.clone();
    info.listener = Some(MAIN_INTERNAL);
    info.downstream_peer = state.filter_state.peer(DOWNSTREAM_PEER).cloned();
    info.filter_state = state.filter_state.shared();
    Some(info)
}

async fn run(
    path: &Arc<DataPath>,
    slot: Arc<ChainSlot>,
    (mut info, inspected): (Connection, bool),
    mut stream: TunnelStream,
    drain: Watch,
    allowance: Arc<Allowance>,
) {
    let chain = slot.load();
    match &*chain {
        FilterChain::Http(manager) => {
            let overload = path.overload.clone();
            let info = Arc::new(info);
            let connection = HttpConnection::new(info, slot, manager.clone(), drain, overload);
            let source = connection.info.source;
            let serving = serving::serve(Arc::new(connection), stream, allowance);
            if let Some(flood) = serving.await {
                path.floods.count("tunnel", source, flood);
            }
        }
        FilterChain::Tcp(chain) => {
            if inspected || chain.server_name != NameUse::Unused {
                let decides = chain.server_name == NameUse::Decides;
                info.server_name = server_name::read(&mut stream, decides).await;
            }
            tcp::serve(path, slot, Arc::new(info), stream, &drain).await;
        }
        FilterChain::Closed(reason) => {
            tracing::warn!(chain = %slot.name, %reason, source = %info.source, "closed: its configuration was refused");
            serving::closed::serve_closed(stream).await;
        }
    }
}
