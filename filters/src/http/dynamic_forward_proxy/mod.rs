//! `envoy.filters.http.dynamic_forward_proxy`: requests go to the host that they name, if their cluster is of that kind.
//!
//! The router looks the host up. What the filter adds is when: a host that can't be found is answered here
//! ([`LooksUpFirst`]), not by the router.

pub mod cache;

use crate::http::HttpFilter;
use crate::http::dynamic_forward_proxy::cache::{DNS_CACHE_CONFIG, LooksUpFirst};
use crate::http::filter::{Config, Registration};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::xds::coverage::{Table, harmless, required};

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, _| Ok(build()),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    fields: &[harmless(
        1,
        "dns_cache_config",
        "hosts are looked up as the cluster says that the stream goes to",
    )
    .of(&DNS_CACHE_CONFIG)],
    refused: "2 save_upstream_address, 3 sub_cluster_config, 4 allow_dynamic_host_from_filter_state",
    required: &[required("dns_cache_config", &[1])],
};

fn build() -> HttpFilter {
    HttpFilter::layer(tower::layer::layer_fn(|inner| {
        HttpService::new(DynamicForwardProxy(inner))
    }))
}

struct DynamicForwardProxy(HttpService);

impl HttpCall for DynamicForwardProxy {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        request.http.extensions_mut().insert(LooksUpFirst);
        self.0.call(request)
    }
}
