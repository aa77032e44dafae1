//! The HTTP connection manager: what is done to every request of a filter chain around its filters.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    HttpProtocolOptions, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto, HttpFilter as HttpFilterProto,
    http_connection_manager::{
        ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation,
    },
    http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use http::{HeaderName, HeaderValue};
use waypoint_filters::host::{Host, Terminal};
use waypoint_filters::http::{FilterContext, ROUTER, TABLES};
use waypoint_filters::record::access_log::{ACCESS_LOG, AccessLog};
use waypoint_filters::record::recorder::Recorder;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream::stream_info::Capture;
use waypoint_filters::xds::coverage::well_known::{BOOL_VALUE, DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{
    OWN_COUNTERS, Table, harmless, honoured, left_out, required,
};
use waypoint_filters::xds::omitted::{Omissions, OmittedKind};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::ClusterSlot;
use crate::model::discovered::{EXTENSION_SOURCE, Lookup, RDS};
use crate::model::duration;
use crate::model::http::codec::{CodecOptions, HTTP1_OPTIONS, HTTP2_OPTIONS};
use crate::model::http::path_normalization::PathNormalization;
use crate::model::route::context::RouteContext;
use crate::model::route::{ROUTE_CONFIGURATION, RouteConfiguration};

/// A compiled `HttpConnectionManager` with its filters folded into one service.
#[derive(Debug)]
pub struct HttpConnectionManager {
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
    /// Whether a client's `x-forwarded-client-cert` is kept.
    pub keep_client_cert_header: bool,
    pub generate_request_id: bool,
    /// Whether `expect: 100-continue` goes to the upstream, and its 100 comes back.
    pub proxy_100_continue: bool,
    /// Upgrades that are allowed, lower case (`websocket`).
    pub upgrades: Box<[Box<str>]>,
    /// Whether spans are configured: responses then name the route's operation.
    pub tracing: bool,
    pub request_headers_timeout: Option<Duration>,
    pub headers_with_underscores: HeadersWithUnderscores,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadersWithUnderscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

pub(crate) static HTTP_CONNECTION_MANAGER: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    fields: &[
        honoured(1, "codec_type").only("AUTO, HTTP1, HTTP2"),
        harmless(2, "stat_prefix", OWN_COUNTERS),
        honoured(3, "rds").of(&RDS),
        honoured(4, "route_config").of(&ROUTE_CONFIGURATION),
        honoured(5, "http_filters").named(1).of(&HTTP_FILTER),
        left_out(7, "tracing", "no tracer is built: no spans are sent"),
        honoured(8, "http_protocol_options").of(&HTTP1_OPTIONS),
        honoured(9, "http2_protocol_options").of(&HTTP2_OPTIONS),
        honoured(10, "server_name"),
        harmless(12, "drain_timeout", "the process has its own drain period"),
        honoured(13, "access_log").named(1).of(&ACCESS_LOG),
        honoured(14, "use_remote_address")
            .only("false")
            .of(&BOOL_VALUE),
        honoured(15, "generate_request_id").of(&BOOL_VALUE),
        honoured(16, "forward_client_cert_details"),
        harmless(
            17,
            "set_current_client_cert_details",
            "goes into a header of the CONNECT, which nobody reads",
        ),
        honoured(18, "proxy_100_continue"),
        honoured(23, "upgrade_configs").named(1).of(&UPGRADE),
        honoured(24, "stream_idle_timeout")
            .only("0s, no limit")
            .of(&DURATION),
        honoured(28, "request_timeout")
            .only("0s, no limit")
            .of(&DURATION),
        honoured(29, "max_request_headers_kb").of(&UINT32_VALUE),
        honoured(30, "normalize_path").of(&BOOL_VALUE),
        harmless(
            32,
            "preserve_external_request_id",
            "ids that clients send are kept, as without use_remote_address",
        ),
        honoured(33, "merge_slashes"),
        honoured(34, "server_header_transformation").only("OVERWRITE, PASS_THROUGH"),
        honoured(35, "common_http_protocol_options").of(&COMMON_OPTIONS),
        honoured(36, "request_id_extension").of(&REQUEST_ID),
        honoured(41, "request_headers_timeout").of(&DURATION),
        honoured(45, "path_with_escaped_slashes_action"),
    ],
    refused: "6 add_user_agent, 19 xff_num_trusted_hops, \
              20 represent_ipv4_remote_address_as_ipv4_mapped_ipv6, 21 skip_xff_append, 22 via, \
              25 internal_address_config, 26 delayed_close_timeout, 31 scoped_routes, \
              37 always_set_request_id_in_response, 38 local_reply_config, \
              39 strip_matching_host_port, 40 stream_error_on_invalid_http_message, \
              42 strip_any_host_port, 43 path_normalization_options, 44 http3_protocol_options, \
              46 original_ip_detection_extensions, 47 strip_trailing_host_dot, \
              48 scheme_header_transformation, 49 proxy_status_config, \
              50 typed_header_validation_config, 51 append_x_forwarded_port, \
              52 early_header_mutation_extensions, 53 add_proxy_protocol_connection_state, \
              54 access_log_flush_interval, 55 flush_access_log_on_new_request, \
              56 access_log_options, 57 append_local_overload, \
              58 http1_safe_max_connection_duration, 59 stream_flush_timeout, \
              60 forward_client_cert_matcher, 61 forward_proto_config, 62 drain_timeout_jitter",
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
        harmless(1, "pack_trace_reason", NO_TRACING),
        harmless(2, "use_request_id_for_trace_sampling", NO_TRACING),
    ],
    refused: "",
    required: &[],
};

const NO_TRACING: &str = "no tracer is built";

static COMMON_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.HttpProtocolOptions",
    fields: &[
        honoured(2, "max_headers_count").of(&UINT32_VALUE),
        honoured(5, "headers_with_underscores_action"),
    ],
    refused: "1 idle_timeout, 3 max_connection_duration, 4 max_stream_duration, \
              6 max_requests_per_connection, 7 max_response_headers_kb, \
              8 max_connection_duration_jitter",
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
    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
        context: &ChainContext<'_>,
        terminal: Terminal,
    ) -> Result<HttpConnectionManager, Refusal> {
        check_values(proto, context.omissions)?;
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
                    clusters: &|name| (context.slot)(name),
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
                let routes = context.lookup.routes(&rds.route_config_name);
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
            filters: chain,
            recorders: recorders.into(),
            capture,
            routes: Arc::new(routes),
            codec: CodecOptions::from_proto(proto, &common)?,
            path_normalization: PathNormalization::from_proto(proto)?,
            server_name: server_name(proto)?,
            keep_client_cert_header: keep_client_cert_header(proto.forward_client_cert_details)?,
            generate_request_id: proto.generate_request_id.as_ref().is_none_or(|g| g.value),
            proxy_100_continue: proto.proxy_100_continue,
            upgrades: upgrades(proto),
            tracing: proto.tracing.is_some(),
            request_headers_timeout: duration::limit(
                &proto.request_headers_timeout,
                "request_headers_timeout",
            )?,
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

/// Refuses values that would change what is done and aren't honoured.
fn check_values(proto: &HttpConnectionManagerProto, omissions: &Omissions) -> Result<(), Refusal> {
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

/// Envoy removes the header of a connection without a client certificate, as all inside tunnels are,
/// unless it is told to forward it always.
fn keep_client_cert_header(details: i32) -> Result<bool, Refusal> {
    match ForwardClientCertDetails::try_from(details) {
        Ok(details) => Ok(details == ForwardClientCertDetails::AlwaysForwardOnly),
        Err(_) => Err(Refusal::new("forward_client_cert_details", "unknown value")),
    }
}

fn upgrades(proto: &HttpConnectionManagerProto) -> Box<[Box<str>]> {
    proto
        .upgrade_configs
        .iter()
        .filter(|upgrade| upgrade.enabled.as_ref().is_none_or(|e| e.value))
        .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase().into())
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
