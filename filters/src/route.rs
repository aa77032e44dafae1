//! What filters may know about the route of a request; `config` owns the routes themselves.

use std::any::Any;
use std::sync::Arc;

use crate::body::Body;
use crate::dynamic_metadata::Metadata;
use crate::stream_info::StreamInfo;

/// Typed per-route configuration of one filter.
pub type PerRouteConfig = Arc<dyn Any + Send + Sync>;

/// The part of a route that filters see.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// `%ROUTE_NAME%`; empty where the route has none.
    pub name: Arc<str>,
    /// The route's metadata (`filter_metadata`).
    pub metadata: Metadata,
    /// By the filter's position in its chain.
    pub per_filter: Box<[Option<PerRouteConfig>]>,
}

/// A route that was chosen for a request. The router downcasts it to its own type.
pub trait SelectedRoute: Any + Send + Sync {
    fn info(&self) -> &RouteInfo;
}

/// Chooses the route of a request: the route configuration of the chain.
pub trait RouteResolver: Send + Sync {
    fn resolve(
        &self,
        request: &http::Request<Body>,
        stream: &StreamInfo,
    ) -> Option<Arc<dyn SelectedRoute>>;

    /// Whether any route has configuration for the filter at `position`: lets a filter that has
    /// nothing to do here skip resolving the route.
    fn has_per_filter(&self, position: usize) -> bool;
}
