//! The HTTP connection manager: what is done to every request of a filter chain around its filters.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto, HttpFilter as HttpFilterProto,
    RequestIdExtension,
    http_connection_manager::{ForwardClientCertDetails, RouteSpecifier},
    http_filter,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderName;
use waypoint_filters::host::{Host, Terminal};
use waypoint_filters::http::{FilterContext, ROUTER, TABLES};
use waypoint_filters::record::access_log::{ACCESS_LOG, AccessLog, LogContext};
use waypoint_filters::record::local_replies::{LOCAL_REPLIES, LocalReplies};
use waypoint_filters::record::tracing::{TRACING, Tracing, TracingContext};
use waypoint_filters::security::rbac::tally::TalliedRules;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream::recorder::Recorder;
use waypoint_filters::stream::stream_info::{Capture, StreamInfo};
use waypoint_filters::xds::coverage::well_known::{BOOL_VALUE, DURATION, PERCENT, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::omitted::Omissions;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::discovered::{EXTENSION_SOURCE, Lookup, RDS};
use crate::model::duration;
use crate::model::http::codec::{
    CodecOptions, HTTP1_OPTIONS, HTTP2_OPTIONS, HeadersWithUnderscores,
};
use crate::model::http::connection_limits::{COMMON_OPTIONS, ConnectionLimits};
use crate::model::http::forwarding::Forwarding;
use crate::model::http::path_normalization::PathNormalization;
use crate::model::route::context::RouteContext;
use crate::model::route::{ROUTE_CONFIGURATION, RouteConfiguration};
use crate::model::stream_limits::StreamLimits;

/// A compiled `HttpConnectionManager` with its filters folded into one service.
#[derive(Debug)]
pub struct HttpConnectionManager {
    /// The whole filter chain; the router is its innermost service.
    pub filters: HttpService,
    /// Access logs and metrics, in the order of the configuration.
    pub recorders: Box<[Arc<dyn Recorder>]>,
    /// Rules of access, with their numbers, in the order in which they are asked.
    pub tallied: Box<[TalliedRules]>,
    /// What the recorders need of heads.
    pub capture: Arc<Capture>,
    /// The same of a request that is traced.
    capture_traced: Option<Arc<Capture>>,
    pub routes: Arc<RouteConfiguration>,
    pub codec: CodecOptions,
    pub path_normalization: PathNormalization,
    /// What is told of the client, and of this proxy.
    pub forwarding: Forwarding,
    /// Whether a client's `x-forwarded-client-cert` is kept.
    pub keep_client_cert_header: bool,
    /// Whether `expect: 100-continue` goes to the upstream, and its 100 comes back.
    pub proxy_100_continue: bool,
    /// Upgrades that are allowed, lower case (`websocket`).
    pub upgrades: Box<[Box<str>]>,
    /// Which requests are traced. Where it is configured, responses name the route's operation.
    pub tracing: Option<Tracing>,
    pub request_headers_timeout: Option<Duration>,
    /// What its own answers look like; `None`: as they are.
    pub local_replies: Option<LocalReplies>,
    /// Of connections of clients.
    pub connections: ConnectionLimits,
    /// Of each request.
    pub streams: StreamLimits,
    pub headers_with_underscores: HeadersWithUnderscores,
}

pub(crate) static HTTP_CONNECTION_MANAGER: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    fields: &[
        honoured(1, "codec_type").only("AUTO, HTTP1, HTTP2"),
        harmless(
            2,
            "stat_prefix",
            "names what RBAC filters count, and nothing else",
        ),
        honoured(3, "rds").of(&RDS),
        honoured(4, "route_config").of(&ROUTE_CONFIGURATION),
        honoured(5, "http_filters").named(1).of(&HTTP_FILTER),
        honoured(7, "tracing").of(&TRACING),
        honoured(8, "http_protocol_options").of(&HTTP1_OPTIONS),
        honoured(9, "http2_protocol_options").of(&HTTP2_OPTIONS),
        honoured(10, "server_name"),
        honoured(12, "drain_timeout").of(&DURATION),
        honoured(13, "access_log").named(1).of(&ACCESS_LOG),
        honoured(14, "use_remote_address").of(&BOOL_VALUE),
        honoured(15, "generate_request_id").of(&BOOL_VALUE),
        honoured(16, "forward_client_cert_details"),
        harmless(
            17,
            "set_current_client_cert_details",
            "goes into a header of the CONNECT, which nobody reads",
        ),
        honoured(18, "proxy_100_continue"),
        honoured(19, "xff_num_trusted_hops"),
        honoured(21, "skip_xff_append"),
        honoured(22, "via"),
        honoured(23, "upgrade_configs").named(1).of(&UPGRADE),
        honoured(24, "stream_idle_timeout").of(&DURATION),
        honoured(26, "delayed_close_timeout").of(&DURATION),
        honoured(28, "request_timeout").of(&DURATION),
        honoured(29, "max_request_headers_kb").of(&UINT32_VALUE),
        honoured(30, "normalize_path").of(&BOOL_VALUE),
        honoured(32, "preserve_external_request_id"),
        honoured(33, "merge_slashes"),
        honoured(34, "server_header_transformation"),
        honoured(35, "common_http_protocol_options").of(&COMMON_OPTIONS),
        honoured(36, "request_id_extension").of(&REQUEST_ID),
        honoured(37, "always_set_request_id_in_response"),
        honoured(38, "local_reply_config").of(&LOCAL_REPLIES),
        honoured(39, "strip_matching_host_port"),
        honoured(41, "request_headers_timeout").of(&DURATION),
        honoured(42, "strip_any_host_port"),
        honoured(45, "path_with_escaped_slashes_action"),
        honoured(47, "strip_trailing_host_dot"),
        honoured(51, "append_x_forwarded_port"),
        honoured(58, "http1_safe_max_connection_duration"),
        honoured(62, "drain_timeout_jitter").of(&PERCENT),
    ],
    refused: "6 add_user_agent, 20 represent_ipv4_remote_address_as_ipv4_mapped_ipv6, \
              25 internal_address_config, 31 scoped_routes, \
              40 stream_error_on_invalid_http_message, 43 path_normalization_options, \
              44 http3_protocol_options, 46 original_ip_detection_extensions, \
              48 scheme_header_transformation, 49 proxy_status_config, \
              50 typed_header_validation_config, 52 early_header_mutation_extensions, \
              53 add_proxy_protocol_connection_state, 54 access_log_flush_interval, \
              55 flush_access_log_on_new_request, 56 access_log_options, \
              57 append_local_overload, 59 stream_flush_timeout, 60 forward_client_cert_matcher, \
              61 forward_proto_config",
    required: &[
        required("route_specifier", &[3, 4]),
        required("http_filters", &[5]),
    ],
};

static HTTP_FILTER: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    fields: &[
        honoured(1, "name"),
        honoured(4, "typed_config").any(&[TABLES]),
        honoured(5, "config_discovery").of(&EXTENSION_SOURCE),
        harmless(
            6,
            "is_optional",
            "a filter that is not built is refused all the same",
        ),
    ],
    refused: "7 disabled",
    required: &[required("config_type", &[4, 5])],
};

static UPGRADE: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
    fields: &[
        honoured(1, "upgrade_type"),
        honoured(3, "enabled").of(&BOOL_VALUE),
    ],
    refused: "2 filters",
    required: &[],
};

static REQUEST_ID: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension",
    fields: &[honoured(1, "typed_config").any(&[&[&UUID]])],
    refused: "",
    required: &[required("typed_config", &[1])],
};

static UUID: Table = Table {
    name: "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
    fields: &[
        honoured(1, "pack_trace_reason").of(&BOOL_VALUE),
        honoured(2, "use_request_id_for_trace_sampling").of(&BOOL_VALUE),
    ],
    refused: "",
    required: &[],
};

/// The header that carries the client's certificate details.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

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
    /// What is to be kept of a request's heads.
    pub fn capture_of(&self, stream: &StreamInfo) -> &Arc<Capture> {
        let traced = |stream: &StreamInfo| {
            let state = stream.state();
            state.trace.as_ref().is_some_and(|trace| trace.sampled)
        };
        match &self.capture_traced {
            Some(capture) if traced(stream) => capture,
            _ => &self.capture,
        }
    }

    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
        context: &ChainContext<'_>,
        terminal: Terminal,
    ) -> Result<HttpConnectionManager, Refusal> {
        let upgrades = upgrades(proto, &terminal)?;
        let takes_connect = terminal == Terminal::Connect;
        let filters = named_filters(&proto.http_filters, context.lookup)?;
        let mut chain = context.host.terminal(terminal);
        let mut recorders: Vec<Arc<dyn Recorder>> = Vec::new();
        let logs = LogContext {
            host: &**context.host,
            clusters: &|name| (context.slot)(name),
        };
        let mut tallied: Vec<TalliedRules> = Vec::new();
        for log in &proto.access_log {
            if let Some(log) = AccessLog::optional(log, &logs, context.omissions) {
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
                    stat_prefix: &proto.stat_prefix,
                    host: context.host,
                    clusters: &|name| (context.slot)(name),
                    omissions: context.omissions,
                },
            )
            .map_err(|e| e.within(format!("http_filters[{name:?}]")))?;
            if let Some(layer) = built.layer {
                chain = tower_layer(&*layer, chain);
            }
            recorders.extend(built.recorder);
            tallied.splice(0..0, built.tallied);
        }
        if terminal == Terminal::Router {
            recorders.extend(context.host.witness());
        }
        let mut capture = Capture::default();
        recorders
            .iter()
            .for_each(|recorder| capture.merge(&recorder.capture()));
        let local_replies = proto.local_reply_config.as_ref();
        let local_replies = local_replies.map(LocalReplies::from_proto).transpose();
        let local_replies = local_replies.map_err(|e| e.within("local_reply_config"))?;
        if let Some(replies) = &local_replies {
            capture.merge(&replies.capture());
        }
        let tracing = tracing(proto, context)?;
        let tracer = tracing.as_ref().and_then(Tracing::recorder);
        let capture_traced = tracer.as_ref().map(|tracer| {
            let mut both = capture.clone();
            both.merge(&tracer.capture());
            Arc::new(both)
        });
        recorders.extend(tracer);
        let (routes, field) = match &proto.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => (routes, "route_config"),
            Some(RouteSpecifier::Rds(rds)) => {
                let routes = context.lookup.routes(&rds.route_config_name);
                (routes.map_err(|e| e.within("rds"))?, "rds")
            }
            Some(_) => return Err(Refusal::unsupported("route_specifier")),
            None => return Err(Refusal::missing("route_specifier")),
        };
        let route_context = RouteContext {
            slot: context.slot,
            filters: &filters,
            omissions: context.omissions,
            max_direct_response: 0,
            takes_connect,
        };
        let routes =
            RouteConfiguration::from_proto(routes, route_context).map_err(|e| e.within(field))?;
        let common = proto.common_http_protocol_options.unwrap_or_default();
        Ok(HttpConnectionManager {
            filters: chain,
            recorders: recorders.into(),
            tallied: tallied.into(),
            capture: Arc::new(capture),
            capture_traced,
            routes: Arc::new(routes),
            codec: CodecOptions::from_proto(proto, &common)?,
            path_normalization: PathNormalization::from_proto(proto)?,
            forwarding: Forwarding::from_proto(proto)?,
            keep_client_cert_header: keep_client_cert_header(proto.forward_client_cert_details)?,
            proxy_100_continue: proto.proxy_100_continue,
            upgrades,
            tracing,
            request_headers_timeout: duration::limit(
                &proto.request_headers_timeout,
                "request_headers_timeout",
            )?,
            local_replies,
            connections: ConnectionLimits::from_proto(proto, &common)?,
            streams: StreamLimits::from_proto(proto, &common)?,
            headers_with_underscores: HeadersWithUnderscores::from_proto(&common)?,
        })
    }
}

fn tracing(
    proto: &HttpConnectionManagerProto,
    context: &ChainContext<'_>,
) -> Result<Option<Tracing>, Refusal> {
    let Some(tracing) = &proto.tracing else {
        return Ok(None);
    };
    let request_id = match &proto.request_id_extension {
        Some(RequestIdExtension {
            typed_config: Some(any),
        }) => decode_any(any).map_err(|e| e.within("request_id_extension"))?,
        _ => UuidRequestIdConfig::default(),
    };
    let context = TracingContext {
        host: context.host,
        clusters: &|name| (context.slot)(name),
        omissions: context.omissions,
    };
    let tracing = Tracing::from_proto(tracing, &request_id, &context);
    tracing.map(Some).map_err(|e| e.within("tracing"))
}

fn tower_layer(
    layer: &(dyn tower::Layer<HttpService, Service = HttpService> + Send + Sync),
    inner: HttpService,
) -> HttpService {
    layer.layer(inner)
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

/// Envoy removes the header of a connection without a client certificate, as all inside tunnels are,
/// unless it is told to forward it always.
fn keep_client_cert_header(details: i32) -> Result<bool, Refusal> {
    match ForwardClientCertDetails::try_from(details) {
        Ok(details) => Ok(details == ForwardClientCertDetails::AlwaysForwardOnly),
        Err(_) => Err(Refusal::new("forward_client_cert_details", "unknown value")),
    }
}

/// Upgrades by their names. A CONNECT of a client inside a tunnel leads nowhere yet.
fn upgrades(
    proto: &HttpConnectionManagerProto,
    terminal: &Terminal,
) -> Result<Box<[Box<str>]>, Refusal> {
    let upgrades: Box<[Box<str>]> = proto
        .upgrade_configs
        .iter()
        .filter(|upgrade| upgrade.enabled.as_ref().is_none_or(|e| e.value))
        .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase().into())
        .collect();
    let connect = upgrades.iter().any(|upgrade| &**upgrade == "connect");
    if connect && matches!(terminal, Terminal::Router) {
        return Err(Refusal::unsupported("upgrade_configs[\"CONNECT\"]"));
    }
    Ok(upgrades)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cert_header_is_kept_only_where_it_always_is() {
        use ForwardClientCertDetails as Details;
        let kept = |details: Details| keep_client_cert_header(details.into());
        assert_eq!(kept(Details::AlwaysForwardOnly), Ok(true));
        for details in [
            Details::Sanitize,
            Details::ForwardOnly,
            Details::AppendForward,
            Details::SanitizeSet,
        ] {
            assert_eq!(kept(details), Ok(false), "{details:?}");
        }
        assert!(keep_client_cert_header(9).is_err());
    }
}
