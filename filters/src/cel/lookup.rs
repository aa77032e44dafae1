//! What a stream says for an attribute. Envoy tells a missing value from an empty one as it is done here.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HOST};
use time::OffsetDateTime;

use super::attribute::{Attribute, ORIGINAL_PATH};
use super::grpc_status::grpc_status;
use super::value::{Map, States, Value};
use crate::decimal;
use crate::matcher::header::join;
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::format_context::FormatContext;

/// Bytes of an IPv4 address with its port.
const ADDRESS: usize = 21;

/// `None`: there is no such thing.
pub(super) fn lookup<'a>(
    attribute: &'a Attribute,
    context: &'a FormatContext<'a>,
) -> Option<Value<'a>> {
    use Attribute as A;
    let (stream, state) = (context.stream, context.state);
    let connection = &*stream.connection;
    match attribute {
        A::RequestHeader(name) => {
            if *name == ORIGINAL_PATH
                && let Some(path) = &context.captured().original_path
            {
                return Some(Value::text(path));
            }
            joined(context.request_headers(name))
        }
        A::ResponseHeader(name) => joined(context.response_headers(name)),
        A::ResponseTrailer(name) => {
            let all = state.response.trailers.iter();
            joined(all.filter(|(n, _)| n == name).map(|(_, value)| value))
        }
        A::Path | A::UrlPath | A::Query | A::Host | A::Scheme | A::Method => {
            of_request_line(attribute, context)
        }
        A::Time => Some(Value::Timestamp(OffsetDateTime::from(stream.start_time))),
        A::RequestProtocol => stream.protocol.name().map(Value::text),
        A::RequestSize | A::RequestTotalSize | A::RequestHeadersBytes | A::RequestDuration => {
            of_request_size(attribute, context)
        }
        A::SourceAddress => address(connection.source),
        A::SourcePort => port(connection.source),
        A::DestinationAddress => address(connection.destination),
        A::DestinationPort => port(connection.destination),
        A::Mtls => Some(Value::Bool(connection.peer.is_some())),
        A::ConnectionId => Some(Value::Uint(connection.id.get())),
        A::RequestedServerName => Some(Value::text(
            connection.server_name.known().unwrap_or_default(),
        )),
        A::TerminationDetails => state
            .connection_termination_details
            .as_deref()
            .map(Value::text),
        A::DownstreamTls(field) => field.of(connection.tls.as_ref()?),
        A::FilterChainName => Some(Value::text(
            connection.filter_chain.as_deref().unwrap_or_default(),
        )),
        A::Metadata => metadata(&state.metadata),
        A::FilterState => Some(Value::Map(Map::FilterState(States {
            stream: &state.filter_state,
            connection: &connection.filter_state,
            upstream: state.upstream.as_ref().and_then(|u| u.peer.as_deref()),
        }))),
        A::RouteName => {
            // Envoy: empty where the route has no name.
            state.route.as_ref().map(|r| Value::text(&r.info().name))
        }
        A::RouteMetadata => metadata(&state.route.as_ref()?.info().metadata),
        A::ResponseCode
        | A::ResponseStatus
        | A::ResponseCodeDetails
        | A::ResponseFlags
        | A::GrpcStatus
        | A::ResponseSize
        | A::ResponseTotalSize
        | A::ResponseHeadersBytes
        | A::BackendLatency => of_response(attribute, context),
        _ => of_upstream(attribute, context),
    }
}

fn of_request_line<'a>(attribute: &Attribute, context: &'a FormatContext<'a>) -> Option<Value<'a>> {
    let (live, captured) = (context.request, context.captured());
    let target = || {
        let live = live.and_then(|request| request.uri.path_and_query());
        Some(live.or(captured.path.as_ref())?.as_str())
    };
    match attribute {
        Attribute::Path => target().map(Value::text),
        Attribute::UrlPath => {
            let path = target()?;
            Some(Value::text(
                path.split_once('?').map_or(path, |(path, _)| path),
            ))
        }
        Attribute::Query => {
            let query = target()?.split_once('?').map_or("", |(_, query)| query);
            Some(Value::text(query))
        }
        Attribute::Host => {
            let live = live.and_then(|request| request.headers.get(HOST));
            live.or(captured.authority.as_ref()).map(text)
        }
        Attribute::Method => {
            let method = live.map(|request| request.method);
            let method = method.or(captured.method.as_ref());
            method.map(|method| Value::text(method.as_str()))
        }
        _ => {
            let is_request = live.is_some() || captured.method.is_some();
            is_request.then_some(Value::text("http"))
        }
    }
}

fn of_request_size<'a>(attribute: &Attribute, context: &'a FormatContext<'a>) -> Option<Value<'a>> {
    let stream = context.stream;
    let head = context.captured().bytes;
    match attribute {
        Attribute::RequestSize => match context.request_header(&CONTENT_LENGTH) {
            Some(length) => number(length.to_str().ok()?.trim().parse::<u64>().ok()?),
            None => number(stream.bytes_received()),
        },
        Attribute::RequestTotalSize => number(stream.bytes_received().saturating_add(head)),
        Attribute::RequestHeadersBytes => number(head),
        // Known at its end.
        _ => {
            let ended = context.request.is_none();
            let took = context.end.saturating_duration_since(stream.start);
            ended.then(|| duration(took)).flatten()
        }
    }
}

fn of_response<'a>(attribute: &Attribute, context: &'a FormatContext<'a>) -> Option<Value<'a>> {
    let (stream, response) = (context.stream, &context.state.response);
    match attribute {
        Attribute::ResponseCode => response.code.map(|code| Value::Int(code.into())),
        Attribute::ResponseStatus => {
            let code = response.code?;
            Some(Value::String(Cow::Owned(code.to_string())))
        }
        Attribute::ResponseCodeDetails => context
            .state
            .response_code_details
            .as_deref()
            .map(Value::text),
        Attribute::ResponseFlags => number(context.state.flags.envoys_bits()),
        Attribute::GrpcStatus => grpc_status(context).map(Value::Int),
        Attribute::ResponseSize => number(stream.bytes_sent()),
        Attribute::ResponseTotalSize => {
            let heads = response.bytes.saturating_add(response.trailer_bytes);
            number(stream.bytes_sent().saturating_add(heads))
        }
        Attribute::ResponseHeadersBytes => number(response.bytes),
        _ => {
            let sent = stream.upstream_times()?.sent_begin()?;
            response.first_byte?;
            duration(context.end.checked_duration_since(sent)?)
        }
    }
}

fn of_upstream<'a>(attribute: &Attribute, context: &'a FormatContext<'a>) -> Option<Value<'a>> {
    let state = context.state;
    let upstream = state.upstream.as_deref();
    match attribute {
        Attribute::UpstreamTls(field) => field.of(upstream?.tls.as_ref()?),
        Attribute::UpstreamAddress => address(upstream?.host),
        Attribute::UpstreamPort => port(upstream?.host),
        Attribute::UpstreamLocalAddress => address(upstream?.local?),
        Attribute::UpstreamTransportFailureReason => {
            let reason = state.upstream_transport_failure_reason.as_deref();
            let was_tried = upstream.is_some() || state.attempts > 0;
            let empty = was_tried.then_some("");
            reason.or(empty).map(Value::text)
        }
        Attribute::UpstreamAttempts => Some(Value::Uint(state.attempts.into())),
        Attribute::PoolReady => {
            let ready = context.stream.upstream_times()?.pool_ready_after()?;
            duration(ready)
        }
        Attribute::ClusterName => state.cluster.as_deref().map(Value::text),
        Attribute::ClusterMetadata => {
            state.cluster.as_ref()?;
            metadata(upstream.map_or(&state.cluster_metadata, |u| &u.cluster_metadata))
        }
        Attribute::UpstreamHostMetadata => metadata(&upstream?.endpoint_metadata),
        _ => None,
    }
}

fn metadata(metadata: &Metadata) -> Option<Value<'_>> {
    Some(Value::Map(Map::Metadata(metadata)))
}

fn number<'a>(number: u64) -> Option<Value<'a>> {
    i64::try_from(number).ok().map(Value::Int)
}

fn duration<'a>(duration: Duration) -> Option<Value<'a>> {
    duration.try_into().ok().map(Value::Duration)
}

fn address<'a>(address: SocketAddr) -> Option<Value<'a>> {
    let mut text = Vec::with_capacity(ADDRESS);
    decimal::socket(&mut text, address);
    String::from_utf8(text)
        .ok()
        .map(|text| Value::String(Cow::Owned(text)))
}

fn port<'a>(address: SocketAddr) -> Option<Value<'a>> {
    Some(Value::Int(address.port().into()))
}

/// What isn't UTF-8 is shown as such.
fn text(value: &HeaderValue) -> Value<'_> {
    Value::String(String::from_utf8_lossy(value.as_bytes()))
}

/// All values of a header, with commas between.
fn joined<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<Value<'a>> {
    Some(Value::String(match join(values)? {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }))
}
