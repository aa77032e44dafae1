//! `envoy.filters.http.fault`: istiod puts it on every chain, empty; a route may fill it.
//!
//! The empty filter has nothing to do. Delays and aborts are not built: a route that asks for one is
//! refused by name.

use std::sync::Arc;

use crate::http::HttpFilter;
use crate::http::filter::{Config, PerRoute, Registration};
use crate::xds::coverage::Table;
use crate::xds::coverage::harmless;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, _| Ok(HttpFilter::inert()),
    },
    per_route: Some(PerRoute {
        table: &CONFIG,
        build: |_| Ok(Arc::new(())),
    }),
};

/// Without a fault, it matters to nobody whom it would hit.
const NO_FAULT: &str = "delay, abort and response_rate_limit are refused";

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    fields: &[
        harmless(3, "upstream_cluster", NO_FAULT),
        harmless(4, "headers", NO_FAULT).list(),
        harmless(5, "downstream_nodes", NO_FAULT).list(),
        harmless(6, "max_active_faults", NO_FAULT),
        harmless(8, "delay_percent_runtime", NO_FAULT),
        harmless(9, "abort_percent_runtime", NO_FAULT),
        harmless(10, "delay_duration_runtime", NO_FAULT),
        harmless(11, "abort_http_status_runtime", NO_FAULT),
        harmless(12, "max_active_faults_runtime", NO_FAULT),
        harmless(13, "response_rate_limit_percent_runtime", NO_FAULT),
        harmless(14, "abort_grpc_status_runtime", NO_FAULT),
        harmless(15, "disable_downstream_cluster_stats", NO_FAULT),
        harmless(16, "filter_metadata", NO_FAULT),
    ],
    refused: "1 delay, 2 abort, 7 response_rate_limit",
    required: &[],
};
