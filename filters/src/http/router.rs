//! `envoy.filters.http.router`: what its configuration says. The router itself is put in by `config`, behind all filters.

use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;

use crate::http::HttpFilter;
use crate::http::filter::{Config, Registration};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture, WithoutEnvoyHeaders};
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any, harmless, honoured, left_out};

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, _| {
            let proto: Router = decode_any(config)?;
            Ok(match proto.suppress_envoy_headers {
                false => HttpFilter::inert(),
                true => HttpFilter::layer(tower::layer::layer_fn(|inner| {
                    HttpService::new(Suppressing(inner))
                })),
            })
        },
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.router.v3.Router",
    fields: &[
        harmless(1, "dynamic_stats", OWN_COUNTERS),
        left_out(2, "start_child_span", "no tracer is built"),
        honoured(4, "suppress_envoy_headers"),
        harmless(7, "suppress_grpc_request_failure_code_stats", OWN_COUNTERS),
    ],
    refused: "3 upstream_log, 5 strict_check_headers, 6 respect_expected_rq_timeout, \
              8 upstream_http_filters, 9 upstream_log_options, \
              10 reject_connect_request_early_data",
    required: &[],
};

/// Tells the router to keep its `x-envoy-*` to itself.
struct Suppressing(HttpService);

impl HttpCall for Suppressing {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        request.http.extensions_mut().insert(WithoutEnvoyHeaders);
        self.0.call(request)
    }
}
