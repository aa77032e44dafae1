//! Route configurations: virtual hosts with their routes, and what a route does with a request.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use waypoint_filters::body::Body;
use waypoint_filters::route::{RouteInfo, RouteResolver, SelectedRoute};
use waypoint_filters::stream_info::StreamInfo;

use crate::model::cluster::ClusterSlot;
use crate::model::retry_policy::RetryPolicy;
use crate::model::route_match::RouteMatch;

/// A compiled `RouteConfiguration`.
pub struct RouteConfiguration {
    pub name: Arc<str>,
    pub virtual_hosts: Box<[VirtualHost]>,
    /// By filter position: whether any route has configuration for it.
    pub per_filter: Box<[bool]>,
}

/// Routes for some domains. istiod gives waypoints one, for `*`.
pub struct VirtualHost {
    pub name: Arc<str>,
    /// `*`, exact names, `*.suffix` and `prefix.*`, as Envoy orders them.
    pub domains: Box<[Box<str>]>,
    pub routes: Box<[Arc<Route>]>,
}

/// One route.
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
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse { status: StatusCode, body: bytes::Bytes },
}

/// Sends the request to a cluster.
pub struct Forward {
    pub destinations: Destinations,
    /// The answer where the cluster does not exist: 503, or 500 from Gateway API routes.
    pub cluster_not_found: StatusCode,
    /// `None`: no limit (istiod writes `0s`).
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HeaderValue>,
    pub append_x_forwarded_host: bool,
}

/// One cluster, or several by weight.
pub enum Destinations {
    Single(Arc<ClusterSlot>),
    /// Weights add up to `total`, which is more than 0.
    Weighted { total: u32, clusters: Box<[WeightedCluster]> },
}

pub struct WeightedCluster {
    pub weight: u32,
    pub cluster: Arc<ClusterSlot>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub host_rewrite: Option<HeaderValue>,
}

/// How the path changes on its way up; the query stays.
pub enum PathRewrite {
    /// Replaces what the route's prefix matched.
    Prefix(Box<str>),
    /// RE2 substitution: every match of `pattern` in the path.
    Regex { pattern: regex::Regex, substitution: Box<str> },
}

/// An answer that sends the client elsewhere.
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    pub status: StatusCode,
    pub strip_query: bool,
}

pub enum RedirectPath {
    Full(Box<str>),
    Prefix(Box<str>),
}

/// Changes to a head. Additions may hold `%OPERATORS%`.
#[derive(Default)]
pub struct HeaderChanges {
    pub remove: Box<[http::HeaderName]>,
    pub add: Box<[HeaderAddition]>,
}

impl HeaderChanges {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

pub struct HeaderAddition {
    pub name: http::HeaderName,
    pub value: HeaderFormat,
    pub action: AppendAction,
    pub keep_empty: bool,
}

/// A header's value: fixed, or made for each request.
pub enum HeaderFormat {
    Literal(HeaderValue),
    Format(waypoint_filters::format::Format),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
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
