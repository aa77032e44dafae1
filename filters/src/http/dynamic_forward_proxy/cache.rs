//! What the two filters of the dynamic forward proxy have in common: the cache that they name, and what they tell the end of
//! their chain.
//!
//! They look nothing up themselves. Whoever goes to a cluster of that kind does, with what the cluster says of the cache
//! (`config`'s `dynamic_forward_proxy.rs`): where a stream goes is the cluster's to say.

use crate::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use crate::xds::coverage::{Table, harmless};

/// In filter state: the port at the server that a TLS client asks for by name.
pub const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";

/// In a request's extensions: if its host can't be looked up, the chain answers, before the route counts an attempt.
#[derive(Clone, Copy, Debug)]
pub struct LooksUpFirst;

const CLUSTERS: &str = "hosts are looked up as the cluster says that the stream goes to";

pub(crate) static DNS_CACHE_CONFIG: Table = Table {
    name: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig",
    fields: &[
        harmless(1, "name", CLUSTERS),
        harmless(2, "dns_lookup_family", CLUSTERS),
        harmless(3, "dns_refresh_rate", CLUSTERS).of(&DURATION),
        harmless(4, "host_ttl", CLUSTERS).of(&DURATION),
        harmless(5, "max_hosts", CLUSTERS).of(&UINT32_VALUE),
        harmless(7, "dns_cache_circuit_breaker", CLUSTERS).of(&CIRCUIT_BREAKERS),
        harmless(11, "dns_query_timeout", CLUSTERS).of(&DURATION),
        harmless(14, "dns_min_refresh_rate", CLUSTERS).of(&DURATION),
    ],
    refused: "6 dns_failure_refresh_rate, 8 use_tcp_for_dns_lookups, 9 dns_resolution_config, \
              10 preresolve_hostnames, 12 typed_dns_resolver_config, 13 key_value_config, \
              15 disable_dns_refresh_on_failure, 16 resolved_address_filter",
    required: &[],
};

static CIRCUIT_BREAKERS: Table = Table {
    name: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers",
    fields: &[harmless(1, "max_pending_requests", CLUSTERS).of(&UINT32_VALUE)],
    refused: "",
    required: &[],
};
