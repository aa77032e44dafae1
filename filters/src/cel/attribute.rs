//! The attributes of Envoy that expressions may ask for, by name; names are looked up once, when an expression is compiled.
//!
//! What of a stream has to be kept for one is [captured](Attribute::capture). Names that Envoy has and that can't be said here
//! are refused as well as names that nobody has: an expression that never has a value helps nobody.

use http::HeaderName;
use http::header::{CONTENT_LENGTH, REFERER, USER_AGENT};

use super::certificate::Certificate;
use super::grpc_status;
use crate::stream::stream_info::Capture;

/// One attribute, or all of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
    ResponseTrailer(HeaderName),
    Path,
    UrlPath,
    Query,
    Host,
    Scheme,
    Method,
    Time,
    RequestProtocol,
    RequestDuration,
    RequestSize,
    RequestTotalSize,
    RequestHeadersBytes,
    ResponseCode,
    /// The same as a text, as `:status` has it.
    ResponseStatus,
    ResponseCodeDetails,
    ResponseFlags,
    GrpcStatus,
    ResponseSize,
    ResponseTotalSize,
    ResponseHeadersBytes,
    BackendLatency,
    SourceAddress,
    SourcePort,
    DestinationAddress,
    DestinationPort,
    Mtls,
    ConnectionId,
    RequestedServerName,
    TerminationDetails,
    DownstreamTls(Certificate),
    UpstreamTls(Certificate),
    UpstreamAddress,
    UpstreamPort,
    UpstreamLocalAddress,
    UpstreamTransportFailureReason,
    UpstreamAttempts,
    PoolReady,
    ClusterName,
    ClusterMetadata,
    RouteName,
    RouteMetadata,
    UpstreamHostMetadata,
    FilterChainName,
    Metadata,
    FilterState,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What the field of a root means; `None`: it isn't known here.
pub(super) fn named(root: &str, field: &str) -> Option<Attribute> {
    match root {
        "request" => of_request(field),
        "response" => of_response(field),
        "source" => Some(match field {
            "address" => Attribute::SourceAddress,
            "port" => Attribute::SourcePort,
            _ => return None,
        }),
        "destination" => Some(match field {
            "address" => Attribute::DestinationAddress,
            "port" => Attribute::DestinationPort,
            _ => return None,
        }),
        "connection" => Some(match field {
            "mtls" => Attribute::Mtls,
            "id" => Attribute::ConnectionId,
            "requested_server_name" => Attribute::RequestedServerName,
            "termination_details" => Attribute::TerminationDetails,
            field => Attribute::DownstreamTls(Certificate::named(field)?),
        }),
        "upstream" => Some(match field {
            "address" => Attribute::UpstreamAddress,
            "port" => Attribute::UpstreamPort,
            "local_address" => Attribute::UpstreamLocalAddress,
            "transport_failure_reason" => Attribute::UpstreamTransportFailureReason,
            "request_attempt_count" => Attribute::UpstreamAttempts,
            "cx_pool_ready_duration" => Attribute::PoolReady,
            field => Attribute::UpstreamTls(Certificate::named(field)?),
        }),
        "xds" => Some(match field {
            "cluster_name" => Attribute::ClusterName,
            "cluster_metadata" => Attribute::ClusterMetadata,
            "route_name" => Attribute::RouteName,
            "route_metadata" => Attribute::RouteMetadata,
            "upstream_host_metadata" => Attribute::UpstreamHostMetadata,
            "filter_chain_name" => Attribute::FilterChainName,
            _ => return None,
        }),
        _ => None,
    }
}

fn of_request(field: &str) -> Option<Attribute> {
    Some(match field {
        "path" => Attribute::Path,
        "url_path" => Attribute::UrlPath,
        "query" => Attribute::Query,
        "host" => Attribute::Host,
        "scheme" => Attribute::Scheme,
        "method" => Attribute::Method,
        "referer" => Attribute::RequestHeader(REFERER),
        "useragent" => Attribute::RequestHeader(USER_AGENT),
        "id" => Attribute::RequestHeader(REQUEST_ID),
        "time" => Attribute::Time,
        "protocol" => Attribute::RequestProtocol,
        "duration" => Attribute::RequestDuration,
        "size" => Attribute::RequestSize,
        "total_size" => Attribute::RequestTotalSize,
        "headers_bytes" => Attribute::RequestHeadersBytes,
        _ => return None,
    })
}

fn of_response(field: &str) -> Option<Attribute> {
    Some(match field {
        "code" => Attribute::ResponseCode,
        "code_details" => Attribute::ResponseCodeDetails,
        "flags" => Attribute::ResponseFlags,
        "grpc_status" => Attribute::GrpcStatus,
        "size" => Attribute::ResponseSize,
        "total_size" => Attribute::ResponseTotalSize,
        "headers_bytes" => Attribute::ResponseHeadersBytes,
        "backend_latency" => Attribute::BackendLatency,
        _ => return None,
    })
}

/// A header of `request.headers`, `response.headers` or `response.trailers`, in any case; `None`: that is no header's name,
/// or nothing has it.
pub(super) fn header(root: &str, map: &str, name: &str) -> Option<Attribute> {
    let name = name.to_ascii_lowercase();
    let field = || HeaderName::try_from(&*name).ok();
    Some(match (root, map, name.as_str()) {
        ("request", "headers", ":path") => Attribute::Path,
        ("request", "headers", ":authority" | "host") => Attribute::Host,
        ("request", "headers", ":method") => Attribute::Method,
        ("request", "headers", ":scheme") => Attribute::Scheme,
        ("response", "headers", ":status") => Attribute::ResponseStatus,
        ("request", "headers", _) => Attribute::RequestHeader(field()?),
        ("response", "headers", _) => Attribute::ResponseHeader(field()?),
        ("response", "trailers", _) => Attribute::ResponseTrailer(field()?),
        _ => return None,
    })
}

impl Attribute {
    pub(super) fn capture(&self, capture: &mut Capture) {
        let want = |list: &mut Vec<HeaderName>, name: &HeaderName| {
            if !list.contains(name) {
                list.push(name.clone());
            }
        };
        match self {
            Attribute::RequestHeader(name) => {
                capture.request_line |= *name == ORIGINAL_PATH;
                want(&mut capture.request_headers, name);
            }
            Attribute::ResponseHeader(name) => want(&mut capture.response_headers, name),
            Attribute::ResponseTrailer(name) => want(&mut capture.response_trailers, name),
            Attribute::Path
            | Attribute::UrlPath
            | Attribute::Query
            | Attribute::Host
            | Attribute::Method
            | Attribute::Scheme => capture.request_line = true,
            Attribute::RequestSize => want(&mut capture.request_headers, &CONTENT_LENGTH),
            Attribute::GrpcStatus => grpc_status::capture(capture),
            Attribute::RequestTotalSize
            | Attribute::RequestHeadersBytes
            | Attribute::ResponseTotalSize
            | Attribute::ResponseHeadersBytes => capture.head_sizes = true,
            Attribute::BackendLatency | Attribute::PoolReady => capture.upstream_times = true,
            Attribute::DownstreamTls(field) | Attribute::UpstreamTls(field) => {
                capture.tls |= field.is_of_peer();
            }
            _ => {}
        }
    }
}
