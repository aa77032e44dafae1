//! The HTTP connection manager: what is done to every request of a filter chain around its filters.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Http2ProtocolOptions, HttpProtocolOptions, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto, HttpFilter as HttpFilterProto,
    http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
        ServerHeaderTransformation,
    },
    http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use http::{HeaderName, HeaderValue};
use waypoint_filters::access_log::AccessLog;
use waypoint_filters::host::{Host, Terminal};
use waypoint_filters::http::{FilterContext, ROUTER};
use waypoint_filters::omitted::{Omissions, OmittedKind};
use waypoint_filters::recorder::Recorder;
use waypoint_filters::rejected::Refusal;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream_info::Capture;

use crate::honoured::nothing_left;
use crate::model::cluster::ClusterSlot;
use crate::model::discovered::Lookup;
use crate::model::duration;
use crate::model::route::{RouteConfiguration, RouteContext};

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
    /// Whether spans are configured: responses then name the route's operation.
    pub tracing: bool,
    pub request_headers_timeout: Option<Duration>,
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

/// Envoy's defaults.
const MAX_REQUEST_HEADERS_KB: u32 = 60;
const MAX_HEADERS_COUNT: u32 = 100;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a chain is compiled with.
pub(crate) struct ChainContext<'a> {
    pub(crate) host: &'a Arc<dyn Host>,
    pub(crate) slot: &'a dyn Fn(&str) -> Arc<ClusterSlot>,
    /// What comes by name.
    pub(crate) lookup: &'a Lookup<'a>,
    /// Takes what is left out.
    pub(crate) omissions: &'a Omissions,
}

impl HttpConnectionManager {
    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
        context: &ChainContext<'_>,
        terminal: Terminal,
    ) -> Result<HttpConnectionManager, Refusal> {
        check_fields(proto, context.omissions)?;
        let filters = named_filters(&proto.http_filters, context.lookup)?;
        let mut chain = context.host.terminal(terminal);
        let mut recorders: Vec<Arc<dyn Recorder>> = Vec::new();
        for log in &proto.access_log {
            if let Some(log) = AccessLog::optional(log, &**context.host, context.omissions) {
                recorders.push(Arc::new(log));
            }
        }
        // Folded from the inside: the last filter stands next to the router.
        for (position, (name, config)) in filters.iter().enumerate().rev() {
            let built = waypoint_filters::http::build(
                config,
                &FilterContext {
                    name,
                    position,
                    host: context.host,
                    omissions: context.omissions,
                },
            )
            .map_err(|e| e.within(format!("http_filters[{name:?}]")))?;
            if let Some(layer) = built.layer {
                chain = tower_layer(&*layer, chain);
            }
            recorders.extend(built.recorder);
        }
        let mut capture = Capture::default();
        recorders
            .iter()
            .for_each(|recorder| capture.merge(&recorder.capture()));
        let (routes, field) = match &proto.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => (routes, "route_config"),
            Some(RouteSpecifier::Rds(rds)) => {
                let routes = context
                    .lookup
                    .routes(&rds.route_config_name, rds.config_source.as_ref());
                (routes.map_err(|e| e.within("rds"))?, "rds")
            }
            Some(_) => return Err(Refusal::unsupported("route_specifier")),
            None => return Err(Refusal::missing("route_specifier")),
        };
        let route_context = RouteContext {
            slot: context.slot,
            filters: &filters,
            max_direct_response: 0,
        };
        let routes =
            RouteConfiguration::from_proto(routes, route_context).map_err(|e| e.within(field))?;
        let common = proto.common_http_protocol_options.unwrap_or_default();
        Ok(HttpConnectionManager {
            stat_prefix: proto.stat_prefix.as_str().into(),
            filters: chain,
            recorders: recorders.into(),
            capture,
            routes: Arc::new(routes),
            codec: CodecOptions::from_proto(proto, &common)?,
            path_normalization: PathNormalization::from_proto(proto)?,
            server_name: server_name(proto)?,
            forward_client_cert: forward_client_cert(proto)?,
            generate_request_id: proto.generate_request_id.as_ref().is_none_or(|g| g.value),
            preserve_external_request_id: proto.preserve_external_request_id,
            append_x_forwarded_port: proto.append_x_forwarded_port,
            upgrades: upgrades(proto)?,
            tracing: proto.tracing.is_some(),
            request_headers_timeout: duration::limit(
                &proto.request_headers_timeout,
                "request_headers_timeout",
            )?,
            drain_timeout: duration::optional(&proto.drain_timeout, "drain_timeout")?
                .unwrap_or(DRAIN_TIMEOUT),
            headers_with_underscores: underscores(&common)?,
        })
    }
}

fn tower_layer(
    layer: &(dyn tower::Layer<HttpService, Service = HttpService> + Send + Sync),
    inner: HttpService,
) -> HttpService {
    layer.layer(inner)
}

/// Refuses fields that would change what is done and aren't honoured.
fn check_fields(proto: &HttpConnectionManagerProto, omissions: &Omissions) -> Result<(), Refusal> {
    if proto.use_remote_address.as_ref().is_some_and(|u| u.value) {
        return Err(Refusal::unsupported("use_remote_address"));
    }
    // istiod writes `0s`, no limit; others aren't kept yet.
    for (timeout, field) in [
        (&proto.stream_idle_timeout, "stream_idle_timeout"),
        (&proto.request_timeout, "request_timeout"),
    ] {
        if duration::limit(timeout, field)?.is_some() {
            return Err(Refusal::unsupported(field));
        }
    }
    nothing_left(&HttpConnectionManagerProto {
        codec_type: 0,
        stat_prefix: String::new(),
        http_filters: Vec::new(),
        // Parsed and inert: no tracer is built, and none is configured by default.
        tracing: None,
        common_http_protocol_options: None,
        http2_protocol_options: None,
        server_name: String::new(),
        server_header_transformation: 0,
        max_request_headers_kb: None,
        stream_idle_timeout: None,
        request_timeout: None,
        request_headers_timeout: None,
        drain_timeout: None,
        access_log: Vec::new(),
        use_remote_address: None,
        generate_request_id: None,
        preserve_external_request_id: false,
        forward_client_cert_details: 0,
        // What of the client's certificate goes into a header of the CONNECT, which nobody reads.
        set_current_client_cert_details: None,
        // hyper answers `100 Continue` when the body is first asked for: after policy has passed.
        proxy_100_continue: false,
        upgrade_configs: Vec::new(),
        normalize_path: None,
        merge_slashes: false,
        path_with_escaped_slashes_action: 0,
        // The UUID extension, the only one that istiod sends; its settings are about tracing.
        request_id_extension: None,
        route_specifier: None,
        ..proto.clone()
    })?;
    if let Some(tracing) = &proto.tracing
        && let Some(provider) = &tracing.provider
    {
        let field = format!("tracing.provider[{:?}]", provider.name);
        omissions.add(
            OmittedKind::Tracer,
            Refusal::new(field, "no spans are sent"),
        );
    }
    Ok(())
}

/// Names and configurations by position.
fn named_filters(
    protos: &[HttpFilterProto],
    lookup: &Lookup<'_>,
) -> Result<Vec<(String, Any)>, Refusal> {
    let filters: Vec<(String, Any)> = protos
        .iter()
        .map(|filter| {
            let field = |e: Refusal| e.within(format!("http_filters[{:?}]", filter.name));
            if filter.disabled {
                return Err(field(Refusal::unsupported("disabled")));
            }
            match &filter.config_type {
                Some(http_filter::ConfigType::TypedConfig(any)) => {
                    Ok((filter.name.clone(), any.clone()))
                }
                Some(http_filter::ConfigType::ConfigDiscovery(source)) => lookup
                    .extension(&filter.name, source)
                    .map(|any| (filter.name.clone(), any.clone()))
                    .map_err(field),
                None => Err(field(Refusal::missing("typed_config"))),
            }
        })
        .collect::<Result<_, _>>()?;
    match filters.last() {
        Some((_, last)) if last.type_url == ROUTER => Ok(filters),
        _ => Err(Refusal::new(
            "http_filters",
            "the last filter is not the router",
        )),
    }
}

impl CodecOptions {
    fn from_proto(
        proto: &HttpConnectionManagerProto,
        common: &HttpProtocolOptions,
    ) -> Result<CodecOptions, Refusal> {
        let codec = match CodecType::try_from(proto.codec_type) {
            Ok(CodecType::Auto) => Codec::Auto,
            Ok(CodecType::Http1) => Codec::Http1,
            Ok(CodecType::Http2) => Codec::Http2,
            _ => return Err(Refusal::unsupported("codec_type")),
        };
        nothing_left(&HttpProtocolOptions {
            max_headers_count: None,
            headers_with_underscores_action: 0,
            ..*common
        })
        .map_err(|e| e.within("common_http_protocol_options"))?;
        let http2 = proto.http2_protocol_options.clone().unwrap_or_default();
        nothing_left(&Http2ProtocolOptions {
            max_concurrent_streams: None,
            initial_stream_window_size: None,
            initial_connection_window_size: None,
            allow_connect: false,
            connection_keepalive: None,
            ..http2.clone()
        })
        .map_err(|e| e.within("http2_protocol_options"))?;
        let keepalive = match &http2.connection_keepalive {
            None => None,
            Some(settings) => {
                let interval =
                    duration::limit(&settings.interval, "connection_keepalive.interval")?;
                let timeout = duration::limit(&settings.timeout, "connection_keepalive.timeout")?;
                interval.zip(timeout)
            }
        };
        let kb = proto
            .max_request_headers_kb
            .as_ref()
            .map_or(MAX_REQUEST_HEADERS_KB, |kb| kb.value);
        Ok(CodecOptions {
            codec,
            max_request_headers_bytes: kb.saturating_mul(1024),
            max_request_headers_count: common
                .max_headers_count
                .as_ref()
                .map_or(MAX_HEADERS_COUNT, |count| count.value),
            accept_http_10: false,
            http2_max_concurrent_streams: http2.max_concurrent_streams.as_ref().map(|n| n.value),
            http2_initial_stream_window: http2.initial_stream_window_size.as_ref().map(|n| n.value),
            http2_initial_connection_window: http2
                .initial_connection_window_size
                .as_ref()
                .map(|n| n.value),
            http2_keepalive: keepalive,
            proxy_100_continue: proto.proxy_100_continue,
        })
    }
}

impl PathNormalization {
    fn from_proto(proto: &HttpConnectionManagerProto) -> Result<PathNormalization, Refusal> {
        use PathWithEscapedSlashesAction as Action;
        let escaped_slashes = match Action::try_from(proto.path_with_escaped_slashes_action) {
            Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => {
                EscapedSlashes::Keep
            }
            Ok(Action::RejectRequest) => EscapedSlashes::Reject,
            Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
            Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
            Err(_) => {
                return Err(Refusal::new(
                    "path_with_escaped_slashes_action",
                    "unknown value",
                ));
            }
        };
        Ok(PathNormalization {
            normalize: proto.normalize_path.as_ref().is_some_and(|n| n.value),
            merge_slashes: proto.merge_slashes,
            escaped_slashes,
        })
    }
}

fn server_name(proto: &HttpConnectionManagerProto) -> Result<Option<HeaderValue>, Refusal> {
    match ServerHeaderTransformation::try_from(proto.server_header_transformation) {
        Ok(ServerHeaderTransformation::PassThrough) => Ok(None),
        Ok(ServerHeaderTransformation::Overwrite) => {
            let name = match proto.server_name.as_str() {
                "" => "envoy",
                name => name,
            };
            HeaderValue::from_str(name)
                .map(Some)
                .map_err(|_| Refusal::new("server_name", "is no header value"))
        }
        _ => Err(Refusal::unsupported("server_header_transformation")),
    }
}

fn forward_client_cert(proto: &HttpConnectionManagerProto) -> Result<ForwardClientCert, Refusal> {
    Ok(
        match ForwardClientCertDetails::try_from(proto.forward_client_cert_details) {
            Ok(ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
            Ok(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
            Ok(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
            Ok(ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet,
            Ok(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
            Err(_) => return Err(Refusal::new("forward_client_cert_details", "unknown value")),
        },
    )
}

fn upgrades(proto: &HttpConnectionManagerProto) -> Result<Box<[Box<str>]>, Refusal> {
    proto
        .upgrade_configs
        .iter()
        .filter(|upgrade| upgrade.enabled.as_ref().is_none_or(|e| e.value))
        .map(|upgrade| {
            if !upgrade.filters.is_empty() {
                return Err(Refusal::unsupported("upgrade_configs.filters"));
            }
            Ok(upgrade.upgrade_type.to_ascii_lowercase().into())
        })
        .collect()
}

fn underscores(common: &HttpProtocolOptions) -> Result<HeadersWithUnderscores, Refusal> {
    Ok(
        match HeadersWithUnderscoresAction::try_from(common.headers_with_underscores_action) {
            Ok(HeadersWithUnderscoresAction::Allow) => HeadersWithUnderscores::Allow,
            Ok(HeadersWithUnderscoresAction::RejectRequest) => {
                HeadersWithUnderscores::RejectRequest
            }
            Ok(HeadersWithUnderscoresAction::DropHeader) => HeadersWithUnderscores::DropHeader,
            Err(_) => {
                return Err(Refusal::new(
                    "headers_with_underscores_action",
                    "unknown value",
                ));
            }
        },
    )
}
