//! The registry of HTTP filters: from type URL to layer. A filter is a file here, its `mod` line and a row of [`FILTERS`].
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

use envoy_types::pb::google::protobuf::Any;

use crate::http::filter::{Build, Config, Place, Registration};
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::{OWN_COUNTERS, Table, harmless, left_out};
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub use filter::{FilterContext, HttpFilter};

/// The type that ends a chain; `config` puts the router's service there.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// All filters.
const FILTERS: &[Registration] = &[
    rbac::FILTER,
    set_filter_state::FILTER,
    grpc_stats::FILTER,
    fault::FILTER,
    istio_stats::FILTER,
    peer_metadata::FILTER,
    inert(&CORS_CONFIG),
    inert(&ROUTER_CONFIG),
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
    let mut tables = [&ROUTER_CONFIG; MESSAGES];
    filter::tables(FILTERS, Place::Route, &mut tables);
    tables
};

/// CORS policies come with routes, and the router is put in by `config`: here is nothing to do.
const fn inert(table: &'static Table) -> Registration {
    Registration {
        config: Config::Message {
            table,
            build: |_, _| Ok(HttpFilter::inert()),
        },
        per_route: None,
    }
}

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
    if let Some((inner, value)) = typed_struct::unwrap(config)? {
        let build = FILTERS.iter().find_map(|filter| match filter.config {
            Config::Json { type_url, build } if type_url == inner => Some(build),
            _ => None,
        });
        return build.ok_or_else(|| unknown(&inner))?(&value, context);
    }
    match configured_by(config) {
        Some((_, build)) => build(config, context),
        None => Err(unknown(&config.type_url)),
    }
}

/// Builds one `typed_per_filter_config` entry; `filter` is the configuration of the filter it is for.
///
/// # Errors
/// As [`build`].
pub fn build_per_route(filter: &Any, config: &Any) -> Result<PerRouteConfig, Refusal> {
    let per_route = configured_by(filter).and_then(|(row, _)| row.per_route.as_ref());
    match per_route.filter(|per_route| per_route.table.has_type_url(&config.type_url)) {
        Some(per_route) => (per_route.build)(config),
        None => Err(unknown(&config.type_url)),
    }
}

/// The filter whose configuration is a message of this type.
fn configured_by(config: &Any) -> Option<(&'static Registration, Build)> {
    FILTERS.iter().find_map(|row| match row.config {
        Config::Message { table, build } if table.has_type_url(&config.type_url) => {
            Some((row, build))
        }
        _ => None,
    })
}

fn unknown(type_url: &str) -> Refusal {
    Refusal::new(
        "typed_config",
        format!("filter type {type_url} is not built in"),
    )
}
