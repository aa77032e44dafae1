//! Route configurations: virtual hosts with their routes, and what a route does with a request.

mod asked_values;
mod connect;
pub(crate) mod context;
pub mod direct_response;
pub mod forward;
pub mod hash_policy;
pub mod mirror;
pub mod path_rewrite;
mod per_filter;
pub mod retry_back_off;
pub mod retry_policy;
pub(crate) mod route_index;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use envoy_types::pb::envoy::config::route::v3::{
    Route as RouteProto, RouteConfiguration as RouteConfigurationProto,
    VirtualHost as VirtualHostProto, route,
};
use envoy_types::pb::google::protobuf::Any;
use http::header;
use prost::Message as _;
use waypoint_filters::http::PER_ROUTE_TABLES;
use waypoint_filters::http::rate_limit::descriptor::{
    RATE_LIMIT, RateLimit, RouteRateLimits, rate_limits,
};
use waypoint_filters::matcher::route_match::{ROUTE_MATCH, RouteMatch};
use waypoint_filters::service::RouteResolver;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::explanation::RouteStep;
use waypoint_filters::stream::route::{RouteInfo, SelectedRoute};
use waypoint_filters::stream::stream_info::StreamInfo;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{self, OWN_COUNTERS, Table, harmless, honoured, required};
use waypoint_filters::xds::omitted::Omissions;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::route::connect::refuse_connect;
use crate::model::route::context::RouteContext;
use crate::model::route::direct_response::{DIRECT_RESPONSE, DirectResponse, direct_response};
use crate::model::route::forward::{Forward, HEDGE_POLICY, ROUTE_ACTION, hedges_on_timeout};
use crate::model::route::path_rewrite::{REDIRECT, Redirect};
use crate::model::route::per_filter::{inherit, per_filter};
use crate::model::route::retry_policy::{RETRY_POLICY, RetryPolicy};
use crate::model::route::route_index::RouteIndex;

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
    /// Where there are many.
    index: Option<RouteIndex>,
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
    /// Requests that took it.
    pub taken: AtomicU64,
}

/// What a route does.
#[derive(Debug)]
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse(DirectResponse),
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

    fn forwards(&self) -> bool {
        matches!(self.action, RouteAction::Forward(_))
    }
}

impl RouteResolver for RouteConfiguration {
    fn resolve(
        &self,
        request: &http::Request<Body>,
        stream: &StreamInfo,
    ) -> Option<Arc<dyn SelectedRoute>> {
        let host = self.virtual_host(request)?;
        let matches = |route: &Arc<Route>| route.matcher.matches(request, stream);
        let route = match &host.index {
            None => host.routes.iter().find(|route| matches(route)),
            Some(index) => {
                let at = |place: usize| host.routes.get(place).is_some_and(matches);
                let place = index.first(request, at);
                place.and_then(|place| host.routes.get(place))
            }
        };
        Some(route?.clone())
    }

    fn has_per_filter(&self, position: usize) -> bool {
        self.per_filter.get(position).copied().unwrap_or(false)
    }

    fn explain(&self, request: &http::Request<Body>, stream: &StreamInfo) -> Vec<RouteStep> {
        let mut steps = Vec::new();
        for route in self
            .virtual_host(request)
            .into_iter()
            .flat_map(|h| &h.routes)
        {
            let misses = route.matcher.misses(request, stream);
            let chosen = misses.is_empty();
            steps.push(RouteStep {
                name: route.info.name.to_string(),
                matches: route.matcher.to_string(),
                misses,
            });
            if chosen {
                break;
            }
        }
        steps
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
        honoured(6, "rate_limits").list().of(&RATE_LIMIT),
        honoured(15, "typed_per_filter_config")
            .map()
            .any(&[PER_ROUTE_TABLES]),
        honoured(16, "retry_policy").of(&RETRY_POLICY),
        honoured(17, "hedge_policy").of(&HEDGE_POLICY),
    ],
    refused: "4 require_tls, 5 virtual_clusters, 7 request_headers_to_add, 8 cors, \
              10 response_headers_to_add, 11 response_headers_to_remove, \
              13 request_headers_to_remove, 14 include_request_attempt_count, \
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
        let of_host = per_filter(&proto.typed_per_filter_config, context)?;
        let limits = rate_limits(&proto.rate_limits)?;
        let retry = RetryPolicy::shared(proto.retry_policy.as_ref())?;
        let hedges = hedges_on_timeout(proto.hedge_policy.as_ref());
        let routes: Box<[Arc<Route>]> = proto
            .routes
            .iter()
            .enumerate()
            .map(|(i, proto)| {
                let field = |e: Refusal| e.within(format!("routes[{i}]"));
                let mut route = Route::from_proto(proto, context).map_err(field)?;
                inherit(&mut route.info.per_filter, &of_host);
                route.info.rate_limits = limits_of(proto, &limits).map_err(field)?;
                if let (RouteAction::Forward(forward), Some(route::Action::Route(own))) =
                    (&mut route.action, &proto.action)
                {
                    forward.inherit(own, retry.as_ref(), hedges);
                }
                Ok(Arc::new(route))
            })
            .collect::<Result<_, _>>()?;
        Ok(VirtualHost {
            name: proto.name.as_str().into(),
            domains: proto
                .domains
                .iter()
                .map(|d| d.to_ascii_lowercase().into())
                .collect(),
            index: RouteIndex::of(routes.iter().map(|route| &route.matcher)),
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
        omissions: &Omissions::default(),
        max_direct_response: u32::MAX,
        takes_connect: false,
    };
    Route::from_proto(proto, &context).map(drop)
}

impl Route {
    fn from_proto(proto: &RouteProto, context: &RouteContext<'_>) -> Result<Route, Refusal> {
        if !context.takes_connect {
            refuse_connect(proto)?;
        }
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
                let response = direct_response(action, context);
                RouteAction::DirectResponse(response.map_err(|e| e.within("direct_response"))?)
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
                rate_limits: None,
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
            taken: AtomicU64::new(0),
        })
    }
}

/// What requests of a route count for, where their rate is limited; `of_host` is what the virtual host says.
fn limits_of(
    proto: &RouteProto,
    of_host: &Arc<[RateLimit]>,
) -> Result<Option<Arc<dyn std::any::Any + Send + Sync>>, Refusal> {
    let Some(route::Action::Route(action)) = &proto.action else {
        return Ok(None);
    };
    let include = action.include_vh_rate_limits.as_ref();
    let limits = RouteRateLimits {
        of_route: rate_limits(&action.rate_limits).map_err(|e| e.within("route"))?,
        of_host: of_host.clone(),
        include_host: include.is_some_and(|include| include.value),
    };
    let any = !limits.of_route.is_empty() || !limits.of_host.is_empty();
    Ok(any.then(|| Arc::new(limits) as _))
}
