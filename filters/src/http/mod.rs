//! The registry of HTTP filters: from type URL to layer. One line here and one file beside it per filter.
//!
//! What isn't listed is refused by name while the listener is compiled: it may decide or change traffic. That
//! holds for Wasm of any phase, too, whatever its failure policy says. Only what counts and nothing else may be
//! left out (`omitted.rs`).

mod fault;
mod filter;
mod grpc_stats;
mod istio_stats;
mod peer_metadata;
mod rbac;
mod set_filter_state;

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::record::istio_stats::STATS_CONFIG;
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::harmless;
use crate::xds::coverage::left_out;
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any as decode};
use crate::xds::proto::STATS_PLUGIN_CONFIG;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub use filter::{FilterContext, HttpFilter};

/// The type that ends a chain; `config` puts the router's service there.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";

/// The tables of all configurations that [`build`] takes.
pub static TABLES: &[&Table] = &[
    &rbac::CONFIG,
    &set_filter_state::CONFIG,
    &grpc_stats::CONFIG,
    &fault::CONFIG,
    &CORS_CONFIG,
    &STATS_CONFIG,
    &ROUTER_CONFIG,
    &typed_struct::UDPA,
    &typed_struct::XDS,
];

/// The tables of all configurations that [`build_per_route`] takes.
pub static PER_ROUTE_TABLES: &[&Table] = &[&rbac::PER_ROUTE_CONFIG, &fault::CONFIG];

static CORS_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.cors.v3.Cors",
    fields: &[],
    refused: "",
    required: &[],
};

static ROUTER_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.router.v3.Router",
    fields: &[
        harmless(1, "dynamic_stats", OWN_COUNTERS),
        left_out(2, "start_child_span", "no tracer is built"),
        harmless(7, "suppress_grpc_request_failure_code_stats", OWN_COUNTERS),
    ],
    refused: "3 upstream_log, 4 suppress_envoy_headers, 5 strict_check_headers, \
              6 respect_expected_rq_timeout, 8 upstream_http_filters, 9 upstream_log_options, \
              10 reject_connect_request_early_data",
    required: &[],
};

/// Builds the filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    if let Some((type_url, value)) = typed_struct::unwrap(config)? {
        return match type_url.as_str() {
            peer_metadata::TYPE_URL => peer_metadata::build(&value, context),
            _ => Err(unknown(&type_url)),
        };
    }
    match config.type_url.as_str() {
        rbac::TYPE_URL => rbac::build(decode(config)?, context),
        set_filter_state::TYPE_URL => set_filter_state::build(&decode(config)?),
        grpc_stats::TYPE_URL => Ok(grpc_stats::build()),
        STATS_PLUGIN_CONFIG => istio_stats::build(decode(config)?, context),
        // Faults and CORS policies come with routes; the router is put in by `config`.
        fault::TYPE_URL | CORS | ROUTER => Ok(HttpFilter::inert()),
        other => Err(unknown(other)),
    }
}

/// Builds one `typed_per_filter_config` entry; `filter` is the configuration of the filter it is for.
///
/// # Errors
/// As [`build`].
pub fn build_per_route(filter: &Any, config: &Any) -> Result<PerRouteConfig, Refusal> {
    match (filter.type_url.as_str(), config.type_url.as_str()) {
        (rbac::TYPE_URL, rbac::PER_ROUTE) => Ok(Arc::new(rbac::build_per_route(decode(config)?)?)),
        (fault::TYPE_URL, fault::TYPE_URL) => Ok(Arc::new(())),
        (_, other) => Err(unknown(other)),
    }
}

fn unknown(type_url: &str) -> Refusal {
    Refusal::new(
        "typed_config",
        format!("filter type {type_url} is not built in"),
    )
}
