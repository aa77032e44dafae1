//! The spans of a request that has ended: one of its own, and one of each try where that is wanted; with Envoy's names, tags
//! and values.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, header};

use crate::format::FormatContext;
use crate::service::local_reply::is_grpc_type;
use crate::stream::recorder::Recorder;
use crate::stream::request_trace::{RequestTrace, Try};
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{Capture, StreamInfo};
use crate::telemetry::trace::context::Ids;
use crate::telemetry::trace::custom_tag::CustomTags;
use crate::telemetry::trace::providers::Provider;
use crate::telemetry::trace::sampling::{X_CLIENT_TRACE_ID, X_REQUEST_ID};
use crate::telemetry::trace::span::{Kind, Span};

const DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Writes traced requests down, for a tracer.
#[derive(Debug)]
pub(crate) struct SpanRecorder {
    pub(crate) provider: Arc<Provider>,
    pub(crate) node_id: String,
    pub(crate) custom_tags: Arc<CustomTags>,
    /// Bytes of a path in `http.url`.
    pub(crate) max_path: usize,
}

type Tags = Vec<(Cow<'static, str>, String)>;

impl Recorder for SpanRecorder {
    fn capture(&self) -> Capture {
        let mut capture = Capture {
            request_line: true,
            request_headers: vec![
                X_REQUEST_ID,
                X_CLIENT_TRACE_ID,
                X_FORWARDED_PROTO,
                DOWNSTREAM_CLUSTER,
                GRPC_TIMEOUT,
                header::USER_AGENT,
                header::CONTENT_TYPE,
            ],
            response_headers: vec![GRPC_STATUS, GRPC_MESSAGE],
            response_trailers: vec![GRPC_STATUS, GRPC_MESSAGE],
            ..Capture::default()
        };
        for tag in &self.custom_tags.tags {
            capture.merge(&tag.capture());
        }
        capture
    }

    fn record(&self, stream: &StreamInfo, end: Instant) {
        let state = stream.state();
        let Some(trace) = state.trace.as_ref().filter(|trace| trace.sampled) else {
            return;
        };
        let context = FormatContext::recorded(stream, &state, end);
        let spans = self.spans(trace, &context);
        drop(state);
        for span in spans {
            self.provider.queue.put(span);
        }
    }
}

impl SpanRecorder {
    fn spans(&self, trace: &RequestTrace, context: &FormatContext<'_>) -> Vec<Span> {
        let custom: Tags = self
            .custom_tags
            .tags
            .iter()
            .filter_map(|tag| tag.of(context))
            .map(|(name, value)| (name.into(), value))
            .collect();
        let at = |moment: Instant| {
            let since = moment.saturating_duration_since(context.stream.start);
            let start = context.stream.start_time.duration_since(UNIX_EPOCH);
            let at = start.unwrap_or_default() + since;
            u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
        };
        let span = |id, parent, kind, name: String, start, end, tags| Span {
            trace_id: trace.trace_id,
            id,
            parent,
            state: (trace.state.as_ref())
                .and_then(|state| state.to_str().ok())
                .map(Into::into),
            name: name.into(),
            kind,
            start: at(start),
            end: at(end),
            tags,
            local: Some(context.stream.connection.destination),
        };
        let mut spans = Vec::with_capacity(1 + trace.tries.len());
        for one in &trace.tries {
            let outcome_end = one.outcome.as_ref().and_then(|outcome| outcome.end);
            let name = format!("router {} egress", stat_name(trace, context));
            let mut tags = try_tags(one, trace, context);
            tags.extend(custom.iter().cloned());
            let end = outcome_end.unwrap_or(context.end);
            let parent = Some(trace.span_id);
            let (id, kind) = (one.span_id, Kind::Client);
            spans.push(span(id, parent, kind, name, one.start, end, tags));
        }
        let mut tags = self.request_tags(trace, context);
        tags.extend(custom);
        let (id, kind) = (trace.span_id, Kind::Server);
        let name = self.name(trace, context);
        let (start, end) = (context.stream.start, context.end);
        spans.push(span(id, trace.parent, kind, name, start, end, tags));
        spans
    }

    fn name(&self, trace: &RequestTrace, context: &FormatContext<'_>) -> String {
        match (&trace.operation, self.provider.ids) {
            (Some(operation), _) if !operation.is_empty() => operation.to_string(),
            (_, Ids::OpenTelemetry) => "ingress".to_owned(),
            (_, Ids::Zipkin { .. }) => text(context.state.request.authority.as_ref()),
        }
    }

    /// Tags of the request's own span.
    fn request_tags(&self, trace: &RequestTrace, context: &FormatContext<'_>) -> Tags {
        let (stream, state) = (context.stream, context.state);
        let request = &state.request;
        let header = |name: &HeaderName| {
            let found = request.headers.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value)
        };
        let or_dash = |name: &HeaderName| header(name).map_or("-".to_owned(), |v| text(Some(v)));
        let mut tags: Tags = vec![
            ("node_id".into(), self.node_id.clone()),
            ("zone".into(), String::new()),
        ];
        let mut tag = |name: &'static str, value: String| tags.push((name.into(), value));
        if let Some(id) = header(&X_REQUEST_ID) {
            tag("guid:x-request-id", text(Some(id)));
        }
        tag("http.url", self.url(context, header(&X_FORWARDED_PROTO)));
        let method = request.method.as_ref();
        tag("http.method", method.map_or("", |m| m.as_str()).to_owned());
        tag("downstream_cluster", or_dash(&DOWNSTREAM_CLUSTER));
        tag("user_agent", or_dash(&header::USER_AGENT));
        tag(
            "http.protocol",
            stream.protocol.name().unwrap_or("-").to_owned(),
        );
        tag(
            "peer.address",
            stream.connection.source.ip().to_canonical().to_string(),
        );
        if let Some(id) = header(&X_CLIENT_TRACE_ID) {
            tag("guid:x-client-trace-id", text(Some(id)));
        }
        if let Some(kind) = header(&header::CONTENT_TYPE).filter(|v| is_grpc_type(v)) {
            let path = request.path.as_ref();
            tag("grpc.path", path.map_or("", |p| p.as_str()).to_owned());
            tag("grpc.authority", text(request.authority.as_ref()));
            tag("grpc.content_type", text(Some(kind)));
            if let Some(timeout) = header(&GRPC_TIMEOUT) {
                tag("grpc.timeout", text(Some(timeout)));
            }
        }
        tag("request_size", stream.bytes_received().to_string());
        tag("response_size", stream.bytes_sent().to_string());
        common(&mut tags, trace, context, state.response.code, state.flags);
        grpc(&mut tags, context);
        tags
    }

    /// As the client asked for it, up to a length.
    fn url(&self, context: &FormatContext<'_>, scheme: Option<&HeaderValue>) -> String {
        let request = &context.state.request;
        let path = match (&request.original_path, &request.path) {
            (Some(original), _) => original,
            (None, Some(path)) => path.as_str(),
            (None, None) => return String::new(),
        };
        let end = (0..=self.max_path.min(path.len()))
            .rev()
            .find(|at| path.is_char_boundary(*at));
        let path = path.get(..end.unwrap_or(0)).unwrap_or_default();
        let host = text(request.authority.as_ref());
        let scheme = scheme.map_or("http".to_owned(), |scheme| text(Some(scheme)));
        format!("{scheme}://{host}{path}")
    }
}

/// Tags of a try's span.
fn try_tags(one: &Try, trace: &RequestTrace, context: &FormatContext<'_>) -> Tags {
    let state = context.state;
    let mut tags = Tags::new();
    let outcome = one.outcome.as_ref();
    let host = outcome.and_then(|outcome| outcome.host);
    let protocol = state.upstream_protocol.and_then(|protocol| protocol.name());
    if one.number > 1 {
        tags.push(("retry.count".into(), (one.number - 1).to_string()));
    }
    tags.push(("http.protocol".into(), protocol.unwrap_or("-").to_owned()));
    if let Some(host) = host {
        let address = host.to_string();
        tags.push(("upstream_address".into(), address.clone()));
        tags.push(("peer.address".into(), address));
    }
    let (code, flags) = match outcome {
        Some(outcome) => (outcome.code, outcome.flags),
        None => (None, ResponseFlags::default()),
    };
    common(&mut tags, trace, context, code, flags);
    if let Some(reason) = outcome.and_then(|outcome| outcome.error) {
        tags.push(("error.reason".into(), reason.to_owned()));
    }
    if outcome.is_none_or(|outcome| outcome.canceled) {
        tags.push(("canceled".into(), "true".to_owned()));
    }
    if outcome.is_some_and(|outcome| outcome.end.is_none()) {
        grpc(&mut tags, context);
    }
    tags
}

/// Tags that both kinds of spans have.
fn common(
    tags: &mut Tags,
    trace: &RequestTrace,
    context: &FormatContext<'_>,
    code: Option<u16>,
    flags: ResponseFlags,
) {
    tags.push(("component".into(), "proxy".to_owned()));
    if let Some(cluster) = &context.state.cluster {
        tags.push(("upstream_cluster".into(), cluster.to_string()));
        let name = stat_name(trace, context).to_owned();
        tags.push(("upstream_cluster.name".into(), name));
    }
    tags.push(("http.status_code".into(), code.unwrap_or(0).to_string()));
    let flags = flags.to_short();
    tags.push(("response_flags".into(), flags.into_owned()));
    if code.is_none_or(|code| code >= 500) {
        fails(tags);
    }
}

fn fails(tags: &mut Tags) {
    if !tags.iter().any(|(name, _)| name == "error") {
        tags.push(("error".into(), "true".to_owned()));
    }
}

/// What a gRPC service answered, in its head or at its end.
fn grpc(tags: &mut Tags, context: &FormatContext<'_>) {
    let response = &context.state.response;
    let of = |name: &HeaderName| {
        let mut all = response.trailers.iter().chain(&response.headers);
        all.find(|(n, _)| n == name)
            .map(|(_, value)| text(Some(value)))
    };
    let Some(status) = of(&GRPC_STATUS) else {
        return;
    };
    // Unknown, deadline exceeded, resource exhausted, unimplemented, internal, unavailable, data loss.
    if matches!(status.as_str(), "2" | "4" | "8" | "12" | "13" | "14" | "15") {
        fails(tags);
    }
    tags.push(("grpc.status_code".into(), status));
    if let Some(message) = of(&GRPC_MESSAGE) {
        tags.push(("grpc.message".into(), message));
    }
}

/// What the cluster is called where its statistics are.
fn stat_name<'a>(trace: &'a RequestTrace, context: &'a FormatContext<'_>) -> &'a str {
    let own = trace.cluster_stat_name.as_deref();
    own.or(context.state.cluster.as_deref()).unwrap_or_default()
}

fn text(value: Option<&HeaderValue>) -> String {
    value.map_or_else(String::new, |value| {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    })
}
