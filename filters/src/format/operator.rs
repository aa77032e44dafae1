//! The operators of format strings, one variant each.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;

use crate::format::FormatContext;
use crate::format::time_format::TimeFormat;
use crate::rejected::Refusal;
use crate::stream_info::Capture;

#[derive(Clone, Debug)]
pub(super) enum Operator {
    Request {
        main: RequestField,
        alternative: Option<RequestField>,
        without_query: bool,
    },
    Response(HeaderName),
    StartTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    ResponseDuration,
    UpstreamHost {
        port: bool,
    },
    UpstreamCluster,
    UpstreamLocalAddress {
        port: bool,
    },
    UpstreamRequestAttemptCount,
    DownstreamLocalAddress {
        port: bool,
    },
    DownstreamRemoteAddress {
        port: bool,
    },
    DownstreamLocalPort,
    DownstreamPeerUriSan,
    DownstreamLocalUriSan,
    RequestedServerName,
    RouteName,
    FilterState {
        key: Box<str>,
        field: Option<Box<str>>,
    },
    DynamicMetadata(Box<[String]>),
    RouteMetadata(Box<[String]>),
    GrpcStatus,
    /// Known while configuration is compiled: the environment, the host's name.
    Fixed(Box<str>),
    /// Known operators that never have a value here.
    Never,
}

#[derive(Clone, Debug)]
pub(super) enum RequestField {
    Method,
    Path,
    /// `x-envoy-original-path`, set where the router rewrote the path.
    OriginalPath,
    Authority,
    Scheme,
    Header(HeaderName),
}

/// Parses what stands between two `%`: name, arguments, maximum length.
pub(super) fn parse(text: &str) -> Result<(Operator, Option<usize>), Refusal> {
    let unknown = || Refusal::new("format", format!("unknown operator %{text}%"));
    let (name, arguments, rest) = match text.find('(') {
        None => match text.split_once(':') {
            Some((name, rest)) => (name, None, rest),
            None => (text, None, ""),
        },
        Some(open) => {
            let close = text
                .rfind(')')
                .filter(|close| *close > open)
                .ok_or_else(unknown)?;
            let rest = text.get(close + 1..).unwrap_or_default();
            (
                &text[..open],
                text.get(open + 1..close),
                rest.strip_prefix(':').unwrap_or(rest),
            )
        }
    };
    let max_length = match rest {
        "" => None,
        digits => Some(digits.parse::<usize>().map_err(|_| unknown())?),
    };
    let operator = match arguments {
        Some(arguments) => with_arguments(name, arguments)?,
        None => plain(name),
    };
    Ok((operator.ok_or_else(unknown)?, max_length))
}

fn with_arguments(name: &str, arguments: &str) -> Result<Option<Operator>, Refusal> {
    Ok(Some(match name {
        "REQ" | "REQ_WITHOUT_QUERY" => {
            let (main, alternative) = match arguments.split_once('?') {
                Some((main, alternative)) => (main, Some(request_field(alternative)?)),
                None => (arguments, None),
            };
            Operator::Request {
                main: request_field(main)?,
                alternative,
                without_query: name == "REQ_WITHOUT_QUERY",
            }
        }
        "RESP" => Operator::Response(header_name(arguments)?),
        "TRAILER" | "UPSTREAM_METADATA" | "CLUSTER_METADATA" => Operator::Never,
        "START_TIME" => Operator::StartTime(TimeFormat::parse(arguments)?),
        "FILTER_STATE" => {
            let mut parts = arguments.splitn(3, ':');
            let key = parts.next().unwrap_or_default().into();
            let field = match parts.next() {
                Some("FIELD") => parts.next().map(Into::into),
                _ => None,
            };
            Operator::FilterState { key, field }
        }
        "DYNAMIC_METADATA" => Operator::DynamicMetadata(path(arguments)),
        "METADATA" => match arguments.split_once(':') {
            Some(("ROUTE", rest)) => Operator::RouteMetadata(path(rest)),
            Some(("DYNAMIC", rest)) => Operator::DynamicMetadata(path(rest)),
            _ => Operator::Never,
        },
        "ENVIRONMENT" => match std::env::var(arguments) {
            Ok(value) => Operator::Fixed(value.into()),
            Err(_) => Operator::Never,
        },
        "GRPC_STATUS" => Operator::GrpcStatus,
        _ => return Ok(None),
    }))
}

fn plain(name: &str) -> Option<Operator> {
    Some(match name {
        "START_TIME" => Operator::StartTime(TimeFormat::iso()),
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Operator::ResponseFlagsLong,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailureReason,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost { port: true },
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::UpstreamHost { port: false },
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocalAddress { port: true },
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::UpstreamLocalAddress { port: false },
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamRequestAttemptCount,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocalAddress { port: true },
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocalAddress { port: false },
        "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
            Operator::DownstreamRemoteAddress { port: true }
        }
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
        | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Operator::DownstreamRemoteAddress { port: false }
        }
        "DOWNSTREAM_PEER_URI_SAN" => Operator::DownstreamPeerUriSan,
        "DOWNSTREAM_LOCAL_URI_SAN" => Operator::DownstreamLocalUriSan,
        "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Operator::GrpcStatus,
        "HOSTNAME" => Operator::Fixed(hostname()),
        "DOWNSTREAM_TLS_VERSION"
        | "DOWNSTREAM_TLS_CIPHER"
        | "DOWNSTREAM_PEER_SUBJECT"
        | "DOWNSTREAM_PEER_ISSUER"
        | "DOWNSTREAM_TLS_SESSION_ID"
        | "UPSTREAM_TLS_VERSION"
        | "TRACE_ID"
        | "VIRTUAL_CLUSTER_NAME"
        | "REQUEST_DURATION"
        | "RESPONSE_TX_DURATION" => Operator::Never,
        _ => return None,
    })
}

fn hostname() -> Box<str> {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .map_or("-".into(), |name| name.trim().into())
}

fn request_field(name: &str) -> Result<RequestField, Refusal> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => RequestField::Method,
        ":path" => RequestField::Path,
        ":authority" | "host" => RequestField::Authority,
        ":scheme" => RequestField::Scheme,
        "x-envoy-original-path" => RequestField::OriginalPath,
        _ => RequestField::Header(header_name(name)?),
    })
}

fn header_name(name: &str) -> Result<HeaderName, Refusal> {
    HeaderName::try_from(name)
        .map_err(|_| Refusal::new("format", format!("{name:?} is not a header name")))
}

fn path(arguments: &str) -> Box<[String]> {
    arguments.split(':').map(str::to_owned).collect()
}

impl Operator {
    pub(super) fn is_number(&self) -> bool {
        matches!(
            self,
            Operator::ResponseCode
                | Operator::BytesReceived
                | Operator::BytesSent
                | Operator::Duration
                | Operator::ResponseDuration
                | Operator::UpstreamRequestAttemptCount
                | Operator::DownstreamLocalPort
        )
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        match self {
            Operator::Request {
                main, alternative, ..
            } => {
                for field in std::iter::once(main).chain(alternative) {
                    match field {
                        RequestField::Header(name) => {
                            if !capture.request_headers.contains(name) {
                                capture.request_headers.push(name.clone());
                            }
                        }
                        _ => capture.request_line = true,
                    }
                }
            }
            Operator::Response(name) if !capture.response_headers.contains(name) => {
                capture.response_headers.push(name.clone());
            }
            _ => {}
        }
    }

    /// Appends the value; `false`: there is none.
    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let (stream, state) = (context.stream, context.state);
        let connection = &stream.connection;
        match self {
            Operator::Request {
                main,
                alternative,
                without_query,
            } => {
                let start = out.len();
                let found = main.write(context, out)
                    || alternative
                        .as_ref()
                        .is_some_and(|field| field.write(context, out));
                if *without_query && let Some(query) = out[start..].iter().position(|b| *b == b'?')
                {
                    out.truncate(start + query);
                }
                found
            }
            Operator::Response(name) => {
                text(out, context.response_header(name).map(|v| v.as_bytes()))
            }
            Operator::StartTime(format) => {
                format.write(stream.start_time, out);
                true
            }
            Operator::Protocol => text(out, stream.protocol.name()),
            // Envoy: 0 where nothing was answered.
            Operator::ResponseCode => number(out, u64::from(state.response.code.unwrap_or(0))),
            Operator::ResponseCodeDetails => text(out, state.response_code_details.as_deref()),
            Operator::ResponseFlags => text(out, Some(&*state.flags.to_short())),
            Operator::ResponseFlagsLong => {
                let names: Vec<_> = state.flags.long_names().collect();
                !names.is_empty() && text(out, Some(names.join(",")))
            }
            Operator::ConnectionTerminationDetails => {
                text(out, state.connection_termination_details.as_deref())
            }
            Operator::UpstreamTransportFailureReason => {
                text(out, state.upstream_transport_failure_reason.as_deref())
            }
            Operator::BytesReceived => number(out, stream.bytes_received()),
            Operator::BytesSent => number(out, stream.bytes_sent()),
            Operator::Duration => millis(
                out,
                Some(context.end.saturating_duration_since(stream.start)),
            ),
            Operator::ResponseDuration => {
                let first = state.response.first_byte;
                millis(
                    out,
                    first.map(|at| at.saturating_duration_since(stream.start)),
                )
            }
            Operator::UpstreamHost { port } => {
                address(out, state.upstream.as_ref().map(|u| u.host), *port)
            }
            Operator::UpstreamCluster => text(out, state.cluster.as_deref()),
            Operator::UpstreamLocalAddress { port } => {
                address(out, state.upstream.as_ref().and_then(|u| u.local), *port)
            }
            Operator::UpstreamRequestAttemptCount => number(out, u64::from(state.attempts)),
            Operator::DownstreamLocalAddress { port } => {
                address(out, Some(connection.destination), *port)
            }
            Operator::DownstreamRemoteAddress { port } => {
                address(out, Some(connection.source), *port)
            }
            Operator::DownstreamLocalPort => number(out, u64::from(connection.destination.port())),
            Operator::DownstreamPeerUriSan => {
                text(out, connection.peer.as_ref().map(|p| p.as_str()))
            }
            Operator::DownstreamLocalUriSan => {
                text(out, connection.local.as_ref().map(|p| p.as_str()))
            }
            Operator::RequestedServerName => text(out, connection.requested_server_name.as_deref()),
            Operator::RouteName => {
                let name = state.route.as_ref().map(|route| route.info().name.clone());
                text(out, name.filter(|name| !name.is_empty()).as_deref())
            }
            Operator::FilterState { key, field } => {
                filter_state(context, key, field.as_deref(), out)
            }
            Operator::DynamicMetadata(path) => match path.split_first() {
                Some((namespace, path)) => json(out, state.metadata.get(namespace, path)),
                None => false,
            },
            Operator::RouteMetadata(path) => match (path.split_first(), &state.route) {
                (Some((namespace, path)), Some(route)) => {
                    json(out, route.info().metadata.get(namespace, path))
                }
                _ => false,
            },
            Operator::GrpcStatus => match state.grpc.as_ref().and_then(|grpc| grpc.status) {
                Some(status) => number(out, u64::from(status)),
                None => false,
            },
            Operator::Fixed(value) => text(out, Some(&**value)),
            Operator::Never => false,
        }
    }
}

impl RequestField {
    fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let captured = context.captured();
        let live = context.request;
        match self {
            RequestField::Method => text(
                out,
                live.map(|r| r.method)
                    .or(captured.method.as_ref())
                    .map(|m| m.as_str()),
            ),
            RequestField::Path => {
                let live = live.and_then(|r| r.uri.path_and_query());
                text(out, live.or(captured.path.as_ref()).map(|p| p.as_str()))
            }
            RequestField::OriginalPath => text(out, captured.original_path.as_deref()),
            RequestField::Authority => {
                let live = live.and_then(|r| r.headers.get(http::header::HOST));
                text(
                    out,
                    live.or(captured.authority.as_ref()).map(|v| v.as_bytes()),
                )
            }
            RequestField::Scheme => text(out, Some("http")),
            RequestField::Header(name) => {
                text(out, context.request_header(name).map(|v| v.as_bytes()))
            }
        }
    }
}

fn filter_state(
    context: &FormatContext<'_>,
    key: &str,
    field: Option<&str>,
    out: &mut Vec<u8>,
) -> bool {
    // Envoy's names for the peer as an object with fields.
    let key = key.strip_suffix("_obj").unwrap_or(key);
    let own = context.state.filter_state.get(key);
    let Some(value) = own.or_else(|| context.stream.connection.filter_state.get(key)) else {
        return false;
    };
    match (field, value) {
        (None, value) => text(out, Some(value.to_plain())),
        (Some(field), crate::filter_state::FilterValue::Peer(peer)) => {
            text(out, peer.field(field).filter(|v| !v.is_empty()))
        }
        (Some(_), _) => false,
    }
}

fn text(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) -> bool {
    match value {
        Some(value) => {
            out.extend_from_slice(value.as_ref());
            true
        }
        None => false,
    }
}

fn number(out: &mut Vec<u8>, value: u64) -> bool {
    write!(out, "{value}").is_ok()
}

fn millis(out: &mut Vec<u8>, value: Option<Duration>) -> bool {
    value.is_some_and(|value| write!(out, "{}", value.as_millis()).is_ok())
}

fn address(out: &mut Vec<u8>, value: Option<SocketAddr>, port: bool) -> bool {
    match value {
        Some(value) if port => write!(out, "{value}").is_ok(),
        Some(value) => write!(out, "{}", value.ip()).is_ok(),
        None => false,
    }
}

fn json(out: &mut Vec<u8>, value: Option<&serde_json::Value>) -> bool {
    match value {
        Some(serde_json::Value::String(s)) => text(out, Some(s)),
        Some(value) => text(out, Some(value.to_string())),
        None => false,
    }
}
