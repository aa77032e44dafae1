//! The HTTP connection manager: what is done to every request of a filter chain around its filters.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use waypoint_filters::recorder::Recorder;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream_info::Capture;

use crate::model::route::RouteConfiguration;

/// A compiled `HttpConnectionManager` with its filters folded into one service.
pub struct HttpConnectionManager {
    pub stat_prefix: Arc<str>,
    /// The whole filter chain; the router is its innermost service.
    pub filters: HttpService,
    /// Access logs and metrics, in the order of the configuration.
    pub recorders: Box<[Arc<dyn Recorder>]>,
    /// What the recorders need of heads.
    pub capture: Capture,
    pub routes: Arc<RouteConfiguration>,
    pub codec: CodecOptions,
    pub path_normalization: PathNormalization,
    /// `server:` of responses; `None` passes the upstream's through.
    pub server_name: Option<HeaderValue>,
    pub forward_client_cert: ForwardClientCert,
    pub generate_request_id: bool,
    /// Whether a request id that the client sent is replaced (Envoy's edge requests).
    pub preserve_external_request_id: bool,
    pub append_x_forwarded_port: bool,
    /// Upgrades that are allowed, lower case (`websocket`).
    pub upgrades: Box<[Box<str>]>,
    /// `None`: no limit (istiod sends `0s`).
    pub stream_idle_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub drain_timeout: Duration,
    pub headers_with_underscores: HeadersWithUnderscores,
}

/// HTTP/1 and HTTP/2 settings of the server side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecOptions {
    /// Whether only HTTP/2 or only HTTP/1 is spoken; `Auto` tells by the preface.
    pub codec: Codec,
    /// Bytes of a request's head that are accepted; more is answered 431.
    pub max_request_headers_bytes: u32,
    pub max_request_headers_count: u32,
    pub accept_http_10: bool,
    pub http2_max_concurrent_streams: Option<u32>,
    pub http2_initial_stream_window: Option<u32>,
    pub http2_initial_connection_window: Option<u32>,
    pub http2_keepalive: Option<(Duration, Duration)>,
    /// Whether `100-continue` is proxied to the upstream (istiod: yes).
    pub proxy_100_continue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Auto,
    Http1,
    Http2,
}

/// `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathNormalization {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// `forward_client_cert_details`: what becomes of `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadersWithUnderscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

/// The header that carries the client's certificate details.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
