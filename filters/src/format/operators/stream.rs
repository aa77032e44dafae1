//! What is known of a stream besides its heads, times and addresses: how it ended, what it carried, who it
//! was, and what never has a value here.

use super::print::{millis, number, one_word, text};
use super::wire::WireField;
use crate::format::FormatContext;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{Capture, Protocol};
use crate::stream::uuid;

/// Operators without parameters, one variant each.
#[derive(Clone, Debug)]
pub(in crate::format) enum StreamField {
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    Flags,
    FlagsLong,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    /// All bytes, or those of header lines.
    Wire(WireField),
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    UpstreamCluster,
    Attempts,
    ConnectionId,
    UpstreamConnectionId,
    /// Of every attempt, in order.
    UpstreamConnectionIds,
    /// Milliseconds until there was a connection.
    PoolReady,
    StreamId,
    /// Of the trace that a request is in, where its chain has a tracer.
    TraceId,
    SpanId,
    UniqueId,
    RouteName,
    RouteResolutionCount,
    RouteResolutionTime,
    FilterChainName,
    ListenerName,
    AccessLogType,
    /// How the client's connection ended.
    CloseType,
    UpstreamCloseType,
    PeerUriSan,
    LocalUriSan,
    /// While such a body is made; empty in logs.
    LocalReplyBody,
    /// Known while configuration is compiled.
    Fixed(Box<str>),
    FixedNumber(u64),
    /// Known operators that never have a value here.
    Never,
}

impl StreamField {
    /// `None`: the name isn't known.
    pub(super) fn parse(name: &str) -> Option<StreamField> {
        Some(match name {
            "PROTOCOL" => StreamField::Protocol,
            "UPSTREAM_PROTOCOL" => StreamField::UpstreamProtocol,
            "RESPONSE_CODE" => StreamField::ResponseCode,
            "RESPONSE_FLAGS" => StreamField::Flags,
            "RESPONSE_FLAGS_LONG" => StreamField::FlagsLong,
            "CONNECTION_TERMINATION_DETAILS" => StreamField::ConnectionTerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => StreamField::UpstreamTransportFailureReason,
            "BYTES_RECEIVED" => StreamField::BytesReceived,
            "BYTES_SENT" => StreamField::BytesSent,
            "REQUEST_HEADERS_BYTES" => StreamField::RequestHeadersBytes,
            "RESPONSE_HEADERS_BYTES" => StreamField::ResponseHeadersBytes,
            "RESPONSE_TRAILERS_BYTES" => StreamField::ResponseTrailersBytes,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => StreamField::UpstreamCluster,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => StreamField::Attempts,
            "CONNECTION_ID" => StreamField::ConnectionId,
            "UPSTREAM_CONNECTION_ID" => StreamField::UpstreamConnectionId,
            "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => StreamField::UpstreamConnectionIds,
            "UPSTREAM_CONNECTION_POOL_READY_DURATION" => StreamField::PoolReady,
            "STREAM_ID" => StreamField::StreamId,
            "TRACE_ID" => StreamField::TraceId,
            "SPAN_ID" => StreamField::SpanId,
            "UNIQUE_ID" => StreamField::UniqueId,
            "ROUTE_NAME" => StreamField::RouteName,
            "ROUTE_RESOLUTION_COUNT" => StreamField::RouteResolutionCount,
            "ROUTE_RESOLUTION_TIME_US" => StreamField::RouteResolutionTime,
            "FILTER_CHAIN_NAME" => StreamField::FilterChainName,
            "LISTENER_NAME" => StreamField::ListenerName,
            "ACCESS_LOG_TYPE" => StreamField::AccessLogType,
            "DOWNSTREAM_DETECTED_CLOSE_TYPE" => StreamField::CloseType,
            "UPSTREAM_DETECTED_CLOSE_TYPE" => StreamField::UpstreamCloseType,
            "DOWNSTREAM_PEER_URI_SAN" => StreamField::PeerUriSan,
            "DOWNSTREAM_LOCAL_URI_SAN" => StreamField::LocalUriSan,
            "HOSTNAME" => StreamField::Fixed(hostname()),
            // Set by no filter.
            "CUSTOM_FLAGS" => StreamField::Fixed("".into()),
            "LOCAL_REPLY_BODY" => StreamField::LocalReplyBody,
            // Of addresses that are no internal listener's.
            "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
            | "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => StreamField::Fixed("".into()),
            // QUIC's.
            "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => StreamField::FixedNumber(0),
            name if NEVER.contains(&name) => StreamField::Never,
            name => StreamField::Wire(WireField::parse(name)?),
        })
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(
            self,
            StreamField::ResponseCode
                | StreamField::BytesReceived
                | StreamField::BytesSent
                | StreamField::Wire(_)
                | StreamField::RequestHeadersBytes
                | StreamField::ResponseHeadersBytes
                | StreamField::ResponseTrailersBytes
                | StreamField::Attempts
                | StreamField::ConnectionId
                | StreamField::UpstreamConnectionId
                | StreamField::PoolReady
                | StreamField::RouteResolutionCount
                | StreamField::RouteResolutionTime
                | StreamField::FixedNumber(_)
        )
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        match self {
            StreamField::StreamId if !capture.request_headers.contains(&REQUEST_ID) => {
                capture.request_headers.push(REQUEST_ID);
            }
            StreamField::RequestHeadersBytes
            | StreamField::ResponseHeadersBytes
            | StreamField::ResponseTrailersBytes => capture.head_sizes = true,
            StreamField::Wire(_) => capture.wire_bytes = true,
            StreamField::RouteResolutionTime | StreamField::PoolReady => {
                capture.upstream_times = true;
            }
            _ => {}
        }
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let (stream, state) = (context.stream, context.state);
        let connection = &stream.connection;
        match self {
            StreamField::Protocol => text(out, stream.protocol.name()),
            StreamField::UpstreamProtocol => {
                text(out, state.upstream_protocol.and_then(Protocol::name))
            }
            // Envoy: 0 where nothing was answered.
            StreamField::ResponseCode => number(out, u64::from(state.response.code.unwrap_or(0))),
            StreamField::Flags => text(out, Some(&*state.flags.to_short())),
            StreamField::FlagsLong => {
                let names: Vec<_> = state.flags.long_names().collect();
                !names.is_empty() && text(out, Some(names.join(",")))
            }
            StreamField::ConnectionTerminationDetails => {
                text(out, state.connection_termination_details.as_deref())
            }
            StreamField::UpstreamTransportFailureReason => {
                one_word(out, state.upstream_transport_failure_reason.as_deref())
            }
            StreamField::BytesReceived => number(out, stream.bytes_received()),
            StreamField::BytesSent => number(out, stream.bytes_sent()),
            StreamField::Wire(field) => field.write(context, out),
            StreamField::RequestHeadersBytes => number(out, state.request.bytes),
            StreamField::ResponseHeadersBytes => number(out, state.response.bytes),
            StreamField::ResponseTrailersBytes => number(out, state.response.trailer_bytes),
            StreamField::UpstreamCluster => text(out, state.cluster.as_deref()),
            StreamField::Attempts => number(out, u64::from(state.attempts)),
            StreamField::ConnectionId => number(out, connection.id.get()),
            StreamField::UpstreamConnectionId => {
                number(out, state.connected_upstream().map_or(0, |u| u.id.get()))
            }
            StreamField::UpstreamConnectionIds => {
                let all = state.earlier_upstreams.iter().chain(&state.upstream);
                let all = all.filter(|upstream| upstream.times.is_some());
                let ids: Vec<_> = all.map(|upstream| upstream.id.get().to_string()).collect();
                !ids.is_empty() && text(out, Some(ids.join(",")))
            }
            StreamField::PoolReady => {
                let times = stream.upstream_times();
                millis(out, times.and_then(|times| times.pool_ready_after()))
            }
            StreamField::StreamId => text(
                out,
                context.request_header(&REQUEST_ID).map(|v| v.as_bytes()),
            ),
            StreamField::TraceId => {
                let id = state.trace.as_ref().map(|trace| trace.trace_id);
                let id = id.map(|id| match u64::try_from(id) {
                    Ok(short) => format!("{short:016x}"),
                    Err(_) => format!("{id:032x}"),
                });
                text(out, id)
            }
            StreamField::SpanId => {
                let id = state.trace.as_ref().map(|trace| trace.span_id);
                text(out, id.map(|id| format!("{id:016x}")))
            }
            StreamField::UniqueId => text(out, Some(uuid::v4(fastrand::u128(..)))),
            StreamField::RouteName => {
                let name = state.route.as_ref().map(|route| &*route.info().name);
                text(out, name.filter(|name| !name.is_empty()))
            }
            StreamField::RouteResolutionCount => number(out, state.route.is_some().into()),
            StreamField::RouteResolutionTime => {
                let time = stream.upstream_times().map(|times| times.route_resolution);
                time.is_some_and(|time| number(out, time.as_micros() as u64))
            }
            StreamField::FilterChainName => text(out, connection.filter_chain.as_deref()),
            StreamField::ListenerName => text(out, connection.listener),
            StreamField::AccessLogType => text(
                out,
                Some(match stream.protocol {
                    Protocol::Tcp => "TcpConnectionEnd",
                    _ => "DownstreamEnd",
                }),
            ),
            StreamField::CloseType => {
                let gone = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
                !state.flags.intersects(gone) && text(out, Some("Normal"))
            }
            StreamField::UpstreamCloseType => text(out, state.upstream.as_ref().map(|_| "Normal")),
            StreamField::PeerUriSan => text(out, connection.peer.as_ref().map(|p| p.as_str())),
            StreamField::LocalUriSan => text(out, connection.local.as_ref().map(|p| p.as_str())),
            StreamField::LocalReplyBody => {
                out.extend_from_slice(
                    context
                        .state
                        .local_reply_body
                        .as_deref()
                        .unwrap_or_default(),
                );
                true
            }
            StreamField::Fixed(value) => text(out, Some(&**value)),
            StreamField::FixedNumber(value) => number(out, *value),
            StreamField::Never => false,
        }
    }
}

const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// What Envoy knows of bytes on the wire, and what HBONE has none of.
const NEVER: &[&str] = &[
    "DOWNSTREAM_CX_RTT",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_SERVER_NAME",
    "UPSTREAM_TLS_SESSION_ID",
    "VIRTUAL_CLUSTER_NAME",
];

fn hostname() -> Box<str> {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .map_or("-".into(), |name| name.trim().into())
}
