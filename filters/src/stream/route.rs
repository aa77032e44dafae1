//! What filters may know about the route of a request; `config` owns the routes themselves.

use std::any::Any;
use std::sync::Arc;

use crate::stream::dynamic_metadata::Metadata;

/// Typed per-route configuration of one filter.
pub type PerRouteConfig = Arc<dyn Any + Send + Sync>;

/// The part of a route that filters see.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// `%ROUTE_NAME%`; empty where the route has none.
    pub name: Arc<str>,
    /// The route's metadata (`filter_metadata`).
    pub metadata: Metadata,
    /// What requests count for, where their rate is limited.
    pub rate_limits: Option<Arc<dyn Any + Send + Sync>>,
    /// By the filter's position in its chain.
    pub per_filter: Box<[Option<PerRouteConfig>]>,
}

/// A route that was chosen for a request. The router downcasts it to its own type.
pub trait SelectedRoute: Any + Send + Sync {
    fn info(&self) -> &RouteInfo;

    /// Whether it leads to an upstream: it neither redirects nor answers by itself.
    fn forwards(&self) -> bool;
}
