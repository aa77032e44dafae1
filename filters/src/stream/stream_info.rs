//! What is known about one stream (a request with its response, or a TCP stream): the one source of
//! access logs, metrics and spans.
//!
//! It outlives the request's head, which leaves with the upstream request: what a log format needs of
//! the head is captured before that. The mutex is the stream's own, never held over an await, and
//! contended only by the two directions of one stream.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use parking_lot::{Mutex, MutexGuard};
use waypoint_hbone::tls::tls_info::TlsInfo;

use crate::stream::connection::Connection;
use crate::stream::direction::Direction;
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::explanation::Explanation;
use crate::stream::filter_state::FilterState;
use crate::stream::peer::Peer;
use crate::stream::request_trace::RequestTrace;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::route::SelectedRoute;
use crate::stream::serial_id::SerialId;
use crate::stream::session::Session;
use crate::stream::upstream_times::{ConnectionTimes, UpstreamTimes};
use crate::stream::watched::Watched;
use crate::stream::wire_bytes::WireBytes;

/// What is spoken inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// `%PROTOCOL%`; a TCP stream has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Protocol::Tcp => None,
            Protocol::Http10 => Some("HTTP/1.0"),
            Protocol::Http11 => Some("HTTP/1.1"),
            Protocol::Http2 => Some("HTTP/2"),
        }
    }
}

/// One stream, from its first byte to its record.
pub struct StreamInfo {
    pub connection: Arc<Connection>,
    pub protocol: Protocol,
    pub start: Instant,
    pub start_time: SystemTime,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    request_end: OnceLock<Instant>,
    /// Where recorders want to know.
    upstream_times: OnceLock<Box<Mutex<UpstreamTimes>>>,
    wire: OnceLock<Arc<WireBytes>>,
    explanation: OnceLock<Box<Explanation>>,
    state: Mutex<StreamState>,
}

/// The part of a stream's story that is written as it goes.
#[derive(Default)]
pub struct StreamState {
    pub request: RequestHead,
    pub response: ResponseHead,
    /// The text of a local reply while its body is made of it.
    pub local_reply_body: Option<Bytes>,
    pub route: Option<Arc<dyn SelectedRoute>>,
    /// Who the client is, where the connection manager decides that by what proxies say.
    pub client: Option<IpAddr>,
    /// The name of the cluster that the route chose, also where there is no such cluster.
    pub cluster: Option<Arc<str>>,
    /// The service behind that cluster.
    pub service: Option<Arc<DestinationService>>,
    /// That cluster's metadata, where the request was answered before anything was sent there.
    pub cluster_metadata: Metadata,
    /// The last attempt's upstream, reached or not.
    pub upstream: Option<Arc<UpstreamInfo>>,
    /// What that upstream speaks.
    pub upstream_protocol: Option<Protocol>,
    /// Whether the TLS of upstreams is to be looked at before they are gone.
    pub keep_tls: bool,
    /// Those of the attempts before.
    pub earlier_upstreams: Vec<Arc<UpstreamInfo>>,
    /// Attempts made, 1 for a request that went out once.
    pub attempts: u32,
    pub flags: ResponseFlags,
    pub response_code_details: Option<Cow<'static, str>>,
    /// The policy that denied it, in words.
    pub denied_by: Option<Arc<str>>,
    /// The first policy that would have denied it if it weren't in dry run, in words.
    pub dry_run_denied_by: Option<Arc<str>>,
    pub connection_termination_details: Option<Cow<'static, str>>,
    /// External checks that have let a TCP stream pass, by the configuration that they were made with: as long as that stays
    /// as it is, nobody is asked again.
    pub passed_checks: Vec<Arc<[u8]>>,
    pub upstream_transport_failure_reason: Option<Box<str>>,
    pub grpc: Option<Box<GrpcInfo>>,
    /// The session that it is of, where sessions are kept.
    pub session: Option<Box<Session>>,
    /// The trace that it belongs to, where its chain has a tracer.
    pub trace: Option<Box<RequestTrace>>,
    pub metadata: Metadata,
    pub filter_state: FilterState,
}

/// What is captured of the request's head.
#[derive(Clone, Default)]
pub struct RequestHead {
    pub method: Option<Method>,
    /// Path and query as the client sent it, where the path was rewritten since.
    pub original_path: Option<Box<str>>,
    pub path: Option<http::uri::PathAndQuery>,
    pub authority: Option<HeaderValue>,
    /// The headers that a recorder of the chain asked for.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes of all names and values, if a recorder asked for them.
    pub bytes: u64,
    /// What recorders asked for; `None`: nothing of heads.
    pub wanted: Option<Arc<Capture>>,
}

impl RequestHead {
    /// Keeps method, path and authority.
    pub fn keep_line<B>(&mut self, request: &http::Request<B>) {
        self.method = Some(request.method().clone());
        self.path = request.uri().path_and_query().cloned();
        self.authority = request.headers().get(http::header::HOST).cloned();
    }

    /// A filter has changed the head: recorders tell what goes on to the upstream, as Envoy's do.
    pub fn renew<B>(&mut self, request: &http::Request<B>) {
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        let headers = request.headers();
        self.keep_line(request);
        self.headers = Capture::headers(&wanted.request_headers, headers);
    }
}

/// What is captured of the response's head.
#[derive(Clone, Default)]
pub struct ResponseHead {
    pub code: Option<u16>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub trailers: Vec<(HeaderName, HeaderValue)>,
    /// Bytes of all names and values, if a recorder asked for them.
    pub bytes: u64,
    pub trailer_bytes: u64,
    /// When the head went to the client.
    pub first_byte: Option<Instant>,
}

/// Which headers have to be captured for recorders; empty where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Whether method, path and authority are wanted.
    pub request_line: bool,
    /// Or wanted while somebody looks at this.
    pub request_line_for: Option<Watched>,
    pub request_headers: Vec<HeaderName>,
    pub response_headers: Vec<HeaderName>,
    pub response_trailers: Vec<HeaderName>,
    /// Whether the sizes of heads and trailers are wanted.
    pub head_sizes: bool,
    /// Whether certificates, or what TLS agreed on, are wanted.
    pub tls: bool,
    /// Whether times of the exchange with the upstream are wanted.
    pub upstream_times: bool,
    /// Whether bytes are wanted as connections carry them.
    pub wire_bytes: bool,
}

impl Capture {
    pub fn merge(&mut self, other: &Capture) {
        self.request_line |= other.request_line;
        if self.request_line_for.is_none() {
            self.request_line_for.clone_from(&other.request_line_for);
        }
        self.head_sizes |= other.head_sizes;
        self.tls |= other.tls;
        self.upstream_times |= other.upstream_times;
        self.wire_bytes |= other.wire_bytes;
        for (mine, theirs) in [
            (&mut self.request_headers, &other.request_headers),
            (&mut self.response_headers, &other.response_headers),
            (&mut self.response_trailers, &other.response_trailers),
        ] {
            for name in theirs {
                if !mine.contains(name) {
                    mine.push(name.clone());
                }
            }
        }
    }

    /// Whether anything of the request's head is wanted.
    pub fn of_request(&self) -> bool {
        let watched = || {
            let watched = self.request_line_for.as_ref();
            watched.is_some_and(Watched::is_watched)
        };
        self.request_line || self.head_sizes || !self.request_headers.is_empty() || watched()
    }

    /// Bytes of names and values, as Envoy counts a head.
    pub fn size(map: &HeaderMap) -> u64 {
        let bytes = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len());
        bytes.sum::<usize>() as u64
    }

    /// The named headers of `map`, with all their values.
    pub fn headers(names: &[HeaderName], map: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let of = |name| map.get_all(name).iter();
        names
            .iter()
            .flat_map(|name| of(name).map(move |value| (name.clone(), value.clone())))
            .collect()
    }
}

impl StreamState {
    /// The last attempt's upstream, if there was a connection to it.
    pub fn connected_upstream(&self) -> Option<&Arc<UpstreamInfo>> {
        let upstream = self.upstream.as_ref();
        upstream.filter(|upstream| upstream.times.is_some())
    }
}

/// The upstream connection that served a stream; shared by all streams of that connection.
#[derive(Debug)]
pub struct UpstreamInfo {
    pub id: SerialId,
    pub cluster: Arc<str>,
    /// `istio.services[0]` of the cluster's metadata.
    pub service: Option<Arc<DestinationService>>,
    /// The endpoint's address (of the pod, also where HBONE carries the stream there).
    pub host: SocketAddr,
    pub local: Option<SocketAddr>,
    /// When the connection was made; `None`: there was none to be had, and this is whom it would have led to.
    pub times: Option<ConnectionTimes>,
    /// Of the HBONE connection that carries it.
    pub tls: Option<Arc<TlsInfo>>,
    /// The endpoint's workload.
    pub peer: Option<Arc<Peer>>,
    /// The endpoint's identity in mutual TLS, where HBONE carries the stream.
    pub principal: Option<Arc<str>>,
    /// As they were when the connection was made.
    pub cluster_metadata: Metadata,
    pub endpoint_metadata: Metadata,
}

/// The Kubernetes service behind a cluster, for telemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DestinationService {
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

/// Filled by `grpc_stats` for requests that are gRPC.
#[derive(Clone, Debug, Default)]
pub struct GrpcInfo {
    pub service: Box<str>,
    pub method: Box<str>,
    pub status: Option<u32>,
    pub request_messages: u64,
    pub response_messages: u64,
}

impl StreamInfo {
    pub fn new(
        connection: Arc<Connection>,
        protocol: Protocol,
        start: Instant,
        start_time: SystemTime,
    ) -> Arc<StreamInfo> {
        Arc::new(StreamInfo {
            connection,
            protocol,
            start,
            start_time,
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            request_end: OnceLock::new(),
            upstream_times: OnceLock::new(),
            wire: OnceLock::new(),
            explanation: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    /// The stream's state. Hold the guard briefly; never over an await.
    pub fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock()
    }

    pub fn count(&self, direction: Direction, bytes: usize) {
        match direction {
            Direction::Request => &self.bytes_received,
            Direction::Response => &self.bytes_sent,
        }
        .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Has noted what `capture` wants besides heads.
    pub fn ask(&self, capture: &Capture) {
        if capture.upstream_times {
            self.upstream_times.get_or_init(Box::default);
        }
        if capture.wire_bytes {
            self.count_wire();
        }
        if capture.tls {
            self.state().keep_tls = true;
            // The connection may be gone when this is written down.
            if let Some(tls) = &self.connection.tls {
                let _ = tls.session();
            }
        }
    }

    /// Somebody wants to know.
    pub fn count_wire(&self) -> &Arc<WireBytes> {
        self.wire.get_or_init(Arc::default)
    }

    /// To be counted; `None`: nobody wants to know.
    pub fn wire(&self) -> Option<&Arc<WireBytes>> {
        self.wire.get()
    }

    pub fn wants_upstream_times(&self) -> bool {
        self.upstream_times.get().is_some()
    }

    /// To be noted; `None`: nobody wants to know. Hold the guard as briefly as the state's.
    pub fn upstream_times(&self) -> Option<MutexGuard<'_, UpstreamTimes>> {
        Some(self.upstream_times.get()?.lock())
    }

    /// From now on the stream is only explained: nothing of it is sent.
    pub fn explain(&self) -> &Explanation {
        self.explanation.get_or_init(Box::default)
    }

    /// Where steps are written down; `None`, as for all traffic: nobody asks why.
    pub fn explanation(&self) -> Option<&Explanation> {
        self.explanation.get().map(|explanation| &**explanation)
    }

    /// When the last byte of the request had come, or the rest of it was given up; `None`: more is to come.
    pub fn request_end(&self) -> Option<Instant> {
        self.request_end.get().copied()
    }

    /// The request has ended; what is said later changes nothing.
    pub fn request_ended(&self, at: impl FnOnce() -> Instant) {
        self.request_end.get_or_init(at);
    }

    /// The request never came whole: the client broke its framing, or went away.
    pub fn request_failed(&self, malformed: bool) {
        let mut state = self.state();
        let (flag, details) = if malformed {
            (
                ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
                "http1.codec_error",
            )
        } else {
            (
                ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_remote_disconnect",
            )
        };
        state.flags.insert(flag);
        state.response_code_details = Some(details.into());
    }

    /// Whether the client broke the framing of its request.
    pub fn is_malformed(&self) -> bool {
        self.state()
            .flags
            .contains(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR)
    }

    /// Body bytes from the client so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    /// Body bytes to the client so far.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for StreamInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamInfo")
            .field("protocol", &self.protocol)
            .field("source", &self.connection.source)
            .field("destination", &self.connection.destination)
            .finish_non_exhaustive()
    }
}
