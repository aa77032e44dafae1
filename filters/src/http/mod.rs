//! The registry of HTTP filters: from type URL to layer. A filter is a file here, its `mod` line and a row of [`FILTERS`].
//!
//! What isn't listed is refused by name while the listener is compiled: it may decide or change traffic. That
//! holds for Wasm of any phase, too, whatever its failure policy says. Only what counts and nothing else may be
//! left out (`omitted.rs`).

mod cors;
pub mod dynamic_forward_proxy;
mod ext_authz;
mod fault;
pub(crate) mod filter;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod istio_stats;
mod jwt_authn;
mod local_rate_limit;
mod peer_metadata;
pub mod rate_limit;
mod rbac;
mod router;
mod set_filter_state;
mod stateful_session;

use envoy_types::pb::google::protobuf::Any;

use crate::http::filter::{Place, Registration};
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::Table;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub use filter::{FilterContext, HttpFilter};

/// The type that ends a chain; `config` puts the router's service there.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// All filters.
const FILTERS: &[Registration] = &[
    rbac::FILTER,
    jwt_authn::FILTER,
    set_filter_state::FILTER,
    grpc_stats::FILTER,
    grpc_web::FILTER,
    header_mutation::FILTER,
    ext_authz::FILTER,
    fault::FILTER,
    local_rate_limit::FILTER,
    istio_stats::FILTER,
    peer_metadata::FILTER,
    cors::FILTER,
    dynamic_forward_proxy::FILTER,
    stateful_session::FILTER,
    router::FILTER,
];

/// The tables of all configurations that [`build`] takes.
pub static TABLES: &[&Table] = &{
    const MESSAGES: usize = filter::tables(FILTERS, Place::Chain, &mut []);
    let mut tables = [&typed_struct::UDPA; MESSAGES + 2];
    filter::tables(FILTERS, Place::Chain, &mut tables);
    tables[MESSAGES] = &typed_struct::XDS;
    tables
};

/// The tables of all configurations that [`build_per_route`] takes.
pub static PER_ROUTE_TABLES: &[&Table] = &{
    const MESSAGES: usize = filter::tables(FILTERS, Place::Route, &mut []);
    let mut tables = [&typed_struct::UDPA; MESSAGES];
    filter::tables(FILTERS, Place::Route, &mut tables);
    tables
};

/// Builds the filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    filter::build(FILTERS, config, context)
}

/// Builds one `typed_per_filter_config` entry; `filter` is the configuration of the filter it is for.
///
/// # Errors
/// As [`build`].
pub fn build_per_route(filter: &Any, config: &Any) -> Result<PerRouteConfig, Refusal> {
    filter::build_per_route(FILTERS, filter, config)
}

/// What a virtual host and one of its routes say of one filter, together. The route's stands alone, but for filters
/// that are configured field by field.
pub fn per_route_within(general: &PerRouteConfig, specific: PerRouteConfig) -> PerRouteConfig {
    let together = cors::within(general, &specific);
    let together = together.or_else(|| header_mutation::within(general, &specific));
    together.unwrap_or(specific)
}

/// Whether what a route says of a filter may be left out where its chain has no such filter: it decides about nothing. istiod
/// says it of sessions.
pub fn says_nothing_alone(config: &Any) -> bool {
    stateful_session::PER_ROUTE.has_type_url(&config.type_url)
}
