//! Route configurations: virtual hosts with their routes, and what a route does with a request.

pub(crate) mod context;
pub mod forward;
pub mod header_changes;
pub mod mirror;
pub mod path_rewrite;
pub mod retry_policy;
pub mod route_match;

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route as RouteProto, RouteConfiguration as RouteConfigurationProto,
    VirtualHost as VirtualHostProto, route,
};
use envoy_types::pb::google::protobuf::Any;
use http::{StatusCode, header};
use prost::Message as _;
use waypoint_filters::http::PER_ROUTE_TABLES;
use waypoint_filters::service::RouteResolver;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::route::{PerRouteConfig, RouteInfo, SelectedRoute};
use waypoint_filters::stream::stream_info::StreamInfo;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{self, OWN_COUNTERS, Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::ClusterSlot;
use crate::model::route::context::RouteContext;
use crate::model::route::forward::{Forward, ROUTE_ACTION};
use crate::model::route::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use crate::model::route::path_rewrite::{REDIRECT, Redirect};
use crate::model::route::route_match::{ROUTE_MATCH, RouteMatch};

/// A compiled `RouteConfiguration`.
#[derive(Debug)]
pub struct RouteConfiguration {
    pub name: Arc<str>,
    pub virtual_hosts: Box<[VirtualHost]>,
    /// By filter position: whether any route has configuration for it.
    pub per_filter: Box<[bool]>,
}

/// Routes for some domains. istiod gives waypoints one, for `*`.
#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    /// `*`, exact names, `*.suffix` and `prefix.*`, as Envoy orders them.
    pub domains: Box<[Box<str>]>,
    pub routes: Box<[Arc<Route>]>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    pub info: RouteInfo,
    pub matcher: RouteMatch,
    pub action: RouteAction,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    /// The span's name (`decorator.operation`).
    pub operation: Option<Arc<str>>,
}

/// What a route does.
#[derive(Debug)]
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse {
        status: StatusCode,
        body: bytes::Bytes,
    },
}

impl Route {
    /// The route that was chosen, if it is one of ours.
    pub fn of(selected: &Arc<dyn SelectedRoute>) -> Option<&Route> {
        let any: &dyn std::any::Any = &**selected;
        any.downcast_ref()
    }
}

impl SelectedRoute for Route {
    fn info(&self) -> &RouteInfo {
        &self.info
    }
}

impl RouteResolver for RouteConfiguration {
    fn resolve(
        &self,
        request: &http::Request<Body>,
        stream: &StreamInfo,
    ) -> Option<Arc<dyn SelectedRoute>> {
        let host = self.virtual_host(request)?;
        let route = host
            .routes
            .iter()
            .find(|route| route.matcher.matches(request, stream))?;
        Some(route.clone())
    }

    fn has_per_filter(&self, position: usize) -> bool {
        self.per_filter.get(position).copied().unwrap_or(false)
    }
}

pub static ROUTE_CONFIGURATION: Table = Table {
    name: "envoy.config.route.v3.RouteConfiguration",
    fields: &[
        honoured(1, "name"),
        honoured(2, "virtual_hosts").list().of(&VIRTUAL_HOST),
        harmless(
            7,
            "validate_clusters",
            "missing clusters are answered for, whatever it says",
        ),
        honoured(11, "max_direct_response_body_size_bytes").of(&UINT32_VALUE),
    ],
    refused: "3 internal_only_headers, 4 response_headers_to_add, 5 response_headers_to_remove, \
              6 request_headers_to_add, 8 request_headers_to_remove, 9 vhds, \
              10 most_specific_header_mutations_wins, 12 cluster_specifier_plugins, \
              13 request_mirror_policies, 14 ignore_port_in_host_matching, \
              15 ignore_path_parameters_in_path_matching, 16 typed_per_filter_config, 17 metadata, \
              18 vhost_header, 19 route_specifiers",
    required: &[],
};

static VIRTUAL_HOST: Table = Table {
    name: "envoy.config.route.v3.VirtualHost",
    fields: &[
        honoured(1, "name"),
        honoured(2, "domains").list(),
        honoured(3, "routes").list().of(&ROUTE),
    ],
    refused: "4 require_tls, 5 virtual_clusters, 6 rate_limits, 7 request_headers_to_add, 8 cors, \
              10 response_headers_to_add, 11 response_headers_to_remove, \
              13 request_headers_to_remove, 14 include_request_attempt_count, \
              15 typed_per_filter_config, 16 retry_policy, 17 hedge_policy, \
              18 per_request_buffer_limit_bytes, 19 include_attempt_count_in_response, \
              20 retry_policy_typed_config, 21 matcher, 22 request_mirror_policies, \
              23 include_is_timeout_retry_header, 24 metadata, 25 request_body_buffer_limit, \
              26 route_specifiers",
    required: &[required("domains", &[2])],
};

static ROUTE: Table = Table {
    name: "envoy.config.route.v3.Route",
    fields: &[
        honoured(1, "match").of(&ROUTE_MATCH),
        honoured(2, "route").of(&ROUTE_ACTION),
        honoured(3, "redirect").of(&REDIRECT),
        honoured(4, "metadata").of(&METADATA),
        honoured(5, "decorator").of(&DECORATOR),
        honoured(7, "direct_response").of(&DIRECT_RESPONSE),
        honoured(9, "request_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(10, "response_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(11, "response_headers_to_remove").list(),
        honoured(12, "request_headers_to_remove").list(),
        honoured(13, "typed_per_filter_config")
            .map()
            .any(&[PER_ROUTE_TABLES]),
        honoured(14, "name"),
        harmless(19, "stat_prefix", OWN_COUNTERS),
    ],
    refused: "15 tracing, 16 per_request_buffer_limit_bytes, 17 filter_action, \
              18 non_forwarding_action, 20 request_body_buffer_limit, 21 route_specifiers",
    required: &[required("match", &[1]), required("action", &[2, 3, 7])],
};

static DECORATOR: Table = Table {
    name: "envoy.config.route.v3.Decorator",
    fields: &[honoured(1, "operation")],
    refused: "2 propagate",
    required: &[],
};

static DIRECT_RESPONSE: Table = Table {
    name: "envoy.config.route.v3.DirectResponseAction",
    fields: &[honoured(1, "status"), honoured(2, "body").of(&BODY)],
    refused: "3 body_format",
    required: &[required("status", &[1])],
};

static BODY: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[honoured(2, "inline_bytes"), honoured(3, "inline_string")],
    refused: "1 filename, 4 environment_variable, 5 watched_directory",
    required: &[],
};

/// Envoy's default.
const MAX_DIRECT_RESPONSE: u32 = 4096;

impl RouteConfiguration {
    pub(crate) fn from_proto(
        proto: &RouteConfigurationProto,
        context: RouteContext<'_>,
    ) -> Result<RouteConfiguration, Refusal> {
        let max = proto.max_direct_response_body_size_bytes.as_ref();
        let context = RouteContext {
            max_direct_response: max.map_or(MAX_DIRECT_RESPONSE, |m| m.value),
            ..context
        };
        let virtual_hosts: Box<[VirtualHost]> = proto
            .virtual_hosts
            .iter()
            .enumerate()
            .map(|(i, host)| {
                VirtualHost::from_proto(host, &context)
                    .map_err(|e| e.within(format!("virtual_hosts[{i}]")))
            })
            .collect::<Result<_, _>>()?;
        let per_filter = (0..context.filters.len())
            .map(|position| {
                let mut routes = virtual_hosts.iter().flat_map(|host| &host.routes);
                routes.any(|r| r.info.per_filter.get(position).is_some_and(Option::is_some))
            })
            .collect();
        Ok(RouteConfiguration {
            name: proto.name.as_str().into(),
            virtual_hosts,
            per_filter,
        })
    }

    /// The virtual host for the request's authority: exact, longest suffix wildcard, longest prefix
    /// wildcard, `*`.
    pub fn virtual_host(&self, request: &http::Request<Body>) -> Option<&VirtualHost> {
        if let [only] = &*self.virtual_hosts
            && only.domains.iter().any(|domain| &**domain == "*")
        {
            return Some(only);
        }
        let host = request
            .headers()
            .get(header::HOST)?
            .to_str()
            .ok()?
            .to_ascii_lowercase();
        let ranked = self.virtual_hosts.iter().flat_map(|virtual_host| {
            let rank = |domain: &str| rank(domain, &host);
            virtual_host
                .domains
                .iter()
                .filter_map(move |d| Some((rank(d)?, virtual_host)))
        });
        ranked
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, virtual_host)| virtual_host)
    }
}

/// How well a domain matches; `None`: not at all.
fn rank(domain: &str, host: &str) -> Option<(u8, usize)> {
    if domain == "*" {
        return Some((0, 0));
    }
    if let Some(suffix) = domain.strip_prefix('*') {
        return (host.ends_with(suffix) && host.len() > suffix.len()).then_some((2, suffix.len()));
    }
    if let Some(prefix) = domain.strip_suffix('*') {
        return (host.starts_with(prefix) && host.len() > prefix.len())
            .then_some((1, prefix.len()));
    }
    (domain == host).then_some((3, 0))
}

impl VirtualHost {
    fn from_proto(
        proto: &VirtualHostProto,
        context: &RouteContext<'_>,
    ) -> Result<VirtualHost, Refusal> {
        let routes = proto
            .routes
            .iter()
            .enumerate()
            .map(|(i, route)| {
                let route = Route::from_proto(route, context);
                route
                    .map(Arc::new)
                    .map_err(|e| e.within(format!("routes[{i}]")))
            })
            .collect::<Result<_, _>>()?;
        Ok(VirtualHost {
            name: proto.name.as_str().into(),
            domains: proto
                .domains
                .iter()
                .map(|d| d.to_ascii_lowercase().into())
                .collect(),
            routes,
        })
    }
}

/// Whether one route is honoured by itself, in a chain with these HTTP filters.
///
/// # Errors
/// What in it isn't.
pub(crate) fn check(proto: &RouteProto, filters: &[(String, Any)]) -> Result<(), Refusal> {
    coverage::check(&proto.encode_to_vec(), &ROUTE)?;
    let context = RouteContext {
        slot: &|name| Arc::new(ClusterSlot::missing(name)),
        filters,
        max_direct_response: u32::MAX,
    };
    Route::from_proto(proto, &context).map(drop)
}

impl Route {
    fn from_proto(proto: &RouteProto, context: &RouteContext<'_>) -> Result<Route, Refusal> {
        let matcher = proto
            .r#match
            .as_ref()
            .ok_or_else(|| Refusal::missing("match"))?;
        let action = match &proto.action {
            None => return Err(Refusal::missing("action")),
            Some(route::Action::Route(action)) => RouteAction::Forward(Box::new(
                Forward::from_proto(action, context).map_err(|e| e.within("route"))?,
            )),
            Some(route::Action::Redirect(action)) => RouteAction::Redirect(Box::new(
                Redirect::from_proto(action).map_err(|e| e.within("redirect"))?,
            )),
            Some(route::Action::DirectResponse(action)) => {
                direct_response(action, context).map_err(|e| e.within("direct_response"))?
            }
            Some(route::Action::FilterAction(_) | route::Action::NonForwardingAction(_)) => {
                return Err(Refusal::unsupported("action"));
            }
        };
        Ok(Route {
            info: RouteInfo {
                name: proto.name.as_str().into(),
                metadata: Metadata::from_proto(proto.metadata.as_ref()),
                per_filter: per_filter(&proto.typed_per_filter_config, context)?,
            },
            matcher: RouteMatch::from_proto(matcher).map_err(|e| e.within("match"))?,
            action,
            request_headers: HeaderChanges::from_proto(
                &proto.request_headers_to_add,
                &proto.request_headers_to_remove,
            )
            .map_err(|e| e.within("request_headers_to_add"))?,
            response_headers: HeaderChanges::from_proto(
                &proto.response_headers_to_add,
                &proto.response_headers_to_remove,
            )
            .map_err(|e| e.within("response_headers_to_add"))?,
            operation: proto
                .decorator
                .as_ref()
                .map(|d| d.operation.as_str().into()),
        })
    }
}

fn per_filter(
    configs: &HashMap<String, Any>,
    context: &RouteContext<'_>,
) -> Result<Box<[Option<PerRouteConfig>]>, Refusal> {
    let mut built: Vec<Option<PerRouteConfig>> = Vec::new();
    for (name, config) in configs {
        let field = |e: Refusal| e.within(format!("typed_per_filter_config[{name:?}]"));
        let found = context
            .filters
            .iter()
            .enumerate()
            .find(|(_, (filter, _))| filter == name);
        let Some((position, (_, filter))) = found else {
            return Err(field(Refusal::new("", "no such filter in the chain")));
        };
        built.resize_with(context.filters.len(), || None);
        let config = waypoint_filters::http::build_per_route(filter, config).map_err(field)?;
        if let Some(place) = built.get_mut(position) {
            *place = Some(config);
        }
    }
    Ok(built.into())
}

fn direct_response(
    proto: &DirectResponseAction,
    context: &RouteContext<'_>,
) -> Result<RouteAction, Refusal> {
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
    let status = u16::try_from(proto.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| Refusal::new("status", format!("{} is no status", proto.status)))?;
    let body = match proto.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => bytes::Bytes::new(),
        Some(Specifier::InlineString(text)) => text.clone().into(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone().into(),
        Some(_) => return Err(Refusal::unsupported("body")),
    };
    if body.len() > context.max_direct_response as usize {
        return Err(Refusal::new(
            "body",
            format!("is larger than {} bytes", context.max_direct_response),
        ));
    }
    Ok(RouteAction::DirectResponse { status, body })
}
