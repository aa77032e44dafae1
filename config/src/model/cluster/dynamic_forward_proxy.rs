//! Clusters whose endpoints are the hosts that requests name: `envoy.clusters.dynamic_forward_proxy`.
//!
//! Configuration says how hosts are looked up and how many are kept; which there are is found out when requests come
//! (`proxy`'s `upstream/dynamic/`). Where the cluster is a service's whose own host begins with `*`, it leads to hosts of that
//! kind only: routes see to it for HTTP, and nothing else does for the server that a TLS client asks for.

use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::CustomClusterType;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::AddressMatcher;
use envoy_types::pb::google::protobuf::UInt32Value;
use ipnet::IpNet;
use waypoint_filters::matcher::cidr::{self, XDS_CIDR_RANGE};
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::dns::{LookupFamily, REFRESH_RATE, failure, rate};
use crate::model::cluster::upstream_protocol::ServerNameFrom;

/// How hosts are looked up, and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCache {
    pub family: LookupFamily,
    /// Pause after an answer that doesn't say how long it holds.
    refresh: Duration,
    /// The shortest pause.
    min_refresh: Duration,
    /// Pause after a failure, and what it doubles up to.
    failure: (Duration, Duration),
    /// A host that no stream went to for so long is forgotten.
    pub host_ttl: Duration,
    pub max_hosts: usize,
    /// Streams that wait for a lookup at a time.
    pub max_pending: usize,
    pub query_timeout: Duration,
    filter: AddressFilter,
}

/// Addresses that answers mustn't lead to (`resolved_address_filter`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AddressFilter {
    ranges: Box<[IpNet]>,
    /// It says which they may lead to.
    inverted: bool,
}

/// Envoy's defaults.
const REFRESH: Duration = Duration::from_secs(60);
const MIN_REFRESH: Duration = Duration::from_secs(5);
const HOST_TTL: Duration = Duration::from_secs(300);
const MAX_HOSTS: u32 = 1024;
const MAX_PENDING: u32 = 1024;
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Tables are bounded whatever is configured.
const MOST_HOSTS: u32 = 65_536;
/// No lookup takes longer.
const LONGEST_QUERY: Duration = Duration::from_secs(15);

pub(crate) static CUSTOM_CLUSTER_TYPE: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CustomClusterType",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&CLUSTER_CONFIG]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static CLUSTER_CONFIG: Table = Table {
    name: "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
    fields: &[
        honoured(1, "dns_cache_config").of(&DNS_CACHE_CONFIG),
        honoured(2, "allow_insecure_cluster_options"),
    ],
    refused: "3 allow_coalesced_connections, 4 sub_clusters_config",
    required: &[required("dns_cache_config", &[1])],
};

static DNS_CACHE_CONFIG: Table = Table {
    name: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig",
    fields: &[
        harmless(1, "name", "every cluster looks up its own hosts"),
        honoured(2, "dns_lookup_family"),
        honoured(3, "dns_refresh_rate").of(&DURATION),
        honoured(4, "host_ttl").of(&DURATION),
        honoured(5, "max_hosts").of(&UINT32_VALUE),
        honoured(6, "dns_failure_refresh_rate").of(&REFRESH_RATE),
        honoured(7, "dns_cache_circuit_breaker").of(&CIRCUIT_BREAKERS),
        honoured(11, "dns_query_timeout").of(&DURATION),
        honoured(14, "dns_min_refresh_rate").of(&DURATION),
        honoured(16, "resolved_address_filter").of(&ADDRESS_MATCHER),
    ],
    refused: "8 use_tcp_for_dns_lookups, 9 dns_resolution_config, 10 preresolve_hostnames, \
              12 typed_dns_resolver_config, 13 key_value_config, 15 disable_dns_refresh_on_failure",
    required: &[],
};

static CIRCUIT_BREAKERS: Table = Table {
    name: "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheCircuitBreakers",
    fields: &[honoured(1, "max_pending_requests").of(&UINT32_VALUE)],
    refused: "",
    required: &[],
};

static ADDRESS_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.AddressMatcher",
    fields: &[
        honoured(1, "ranges").list().of(&XDS_CIDR_RANGE),
        honoured(2, "invert_match"),
    ],
    refused: "",
    required: &[],
};

impl DnsCache {
    /// From the cluster's type. `names` is what its TLS says and checks; `None`: it speaks none.
    pub(crate) fn from_proto(
        proto: &CustomClusterType,
        names: Option<ServerNameFrom>,
    ) -> Result<DnsCache, Refusal> {
        let any = proto.typed_config.as_ref();
        let any = any.ok_or_else(|| Refusal::missing("typed_config"))?;
        if !CLUSTER_CONFIG.has_type_url(&any.type_url) {
            return Err(Refusal::unsupported(format!("type {}", any.type_url)));
        }
        let config: ClusterConfig = decode_any(any)?;
        // As Envoy: the certificate of one host must not do for another.
        let checked = names.is_none_or(|names| names.host && names.verified);
        if !checked && !config.allow_insecure_cluster_options {
            return Err(Refusal::new(
                "typed_config.allow_insecure_cluster_options",
                "is needed for TLS without auto_sni and auto_san_validation",
            ));
        }
        match &config.cluster_implementation_specifier {
            Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) => {
                DnsCache::from_config(cache).map_err(|e| e.within("typed_config.dns_cache_config"))
            }
            _ => Err(Refusal::missing("typed_config.dns_cache_config")),
        }
    }

    fn from_config(proto: &DnsCacheConfig) -> Result<DnsCache, Refusal> {
        let pause = |proto, field, default| {
            rate(proto, field).map(|pause: Option<Duration>| pause.unwrap_or(default))
        };
        let refresh = pause(&proto.dns_refresh_rate, "dns_refresh_rate", REFRESH)?;
        let min_refresh = pause(
            &proto.dns_min_refresh_rate,
            "dns_min_refresh_rate",
            MIN_REFRESH,
        )?;
        let query_timeout = pause(&proto.dns_query_timeout, "dns_query_timeout", QUERY_TIMEOUT)?;
        let pending = proto.dns_cache_circuit_breaker.as_ref();
        let pending = pending.and_then(|breaker| breaker.max_pending_requests);
        let max_hosts = at_least_one(&proto.max_hosts, "max_hosts")?.unwrap_or(MAX_HOSTS);
        Ok(DnsCache {
            family: LookupFamily::from_number(proto.dns_lookup_family)?,
            refresh,
            min_refresh,
            failure: match &proto.dns_failure_refresh_rate {
                Some(rate) => failure(rate).map_err(|e| e.within("dns_failure_refresh_rate"))?,
                // Envoy waits for the next refresh: a server that fails once costs a minute.
                None => (min_refresh, refresh.max(min_refresh)),
            },
            host_ttl: pause(&proto.host_ttl, "host_ttl", HOST_TTL)?,
            max_hosts: max_hosts.min(MOST_HOSTS) as usize,
            max_pending: pending.map_or(MAX_PENDING, |most| most.value) as usize,
            query_timeout: query_timeout.min(LONGEST_QUERY),
            filter: AddressFilter::from_proto(proto.resolved_address_filter.as_ref())
                .map_err(|e| e.within("resolved_address_filter"))?,
        })
    }

    /// How long an answer holds that says `ttl`; zero: it says nothing.
    pub fn pause(&self, ttl: Duration) -> Duration {
        let said = if ttl.is_zero() { self.refresh } else { ttl };
        said.max(self.min_refresh).min(LONGEST_PAUSE)
    }

    /// How long until a host is looked up again after so many failures in a row.
    pub fn pause_after(&self, failures: u32) -> Duration {
        let (base, longest) = self.failure;
        let doubled = 1 << failures.saturating_sub(1).min(16);
        base.saturating_mul(doubled).min(longest)
    }

    /// Whether answers may lead to this address.
    pub fn lets(&self, address: IpAddr) -> bool {
        let filter = &self.filter;
        if filter.ranges.is_empty() && !filter.inverted {
            return true;
        }
        let mut ranges = filter.ranges.iter();
        ranges.any(|net| cidr::contains(net, address)) == filter.inverted
    }
}

/// Longer says no more; it keeps sums of times within their range.
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);

fn at_least_one(proto: &Option<UInt32Value>, field: &str) -> Result<Option<u32>, Refusal> {
    match proto.as_ref().map(|value| value.value) {
        Some(0) => Err(Refusal::new(field, "is 0")),
        value => Ok(value),
    }
}

impl AddressFilter {
    fn from_proto(proto: Option<&AddressMatcher>) -> Result<AddressFilter, Refusal> {
        let Some(proto) = proto else {
            return Ok(AddressFilter::default());
        };
        let range = |(i, range): (usize, &_)| {
            cidr::from_xds(range).map_err(|e| e.within(format!("ranges[{i}]")))
        };
        let ranges = proto.ranges.iter().enumerate().map(range);
        Ok(AddressFilter {
            ranges: ranges.collect::<Result<_, _>>()?,
            inverted: proto.invert_match,
        })
    }
}

/// Whether a service with the host `*.REST` is this host's. Hosts come in lower case.
pub fn is_of_wildcard(wildcard: &str, host: &str) -> bool {
    let Some(suffix) = wildcard.strip_prefix('*') else {
        return host.eq_ignore_ascii_case(wildcard);
    };
    let ends = host.len().checked_sub(suffix.len());
    ends.is_some_and(|at| {
        at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(suffix)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::xds::core::v3::CidrRange;

    use super::*;

    fn cache(change: impl FnOnce(&mut DnsCacheConfig)) -> Result<DnsCache, Refusal> {
        let mut proto = DnsCacheConfig::default();
        change(&mut proto);
        DnsCache::from_config(&proto)
    }

    #[test]
    fn answers_hold_for_their_time_but_not_for_less_than_the_shortest() {
        let cache = cache(|_| {}).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(cache.pause(seconds(30)), seconds(30));
        assert_eq!(cache.pause(seconds(1)), seconds(5));
        assert_eq!(cache.pause(Duration::ZERO), seconds(60));
        let after: Vec<_> = (1..7).map(|n| cache.pause_after(n).as_secs()).collect();
        assert_eq!(after, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn filtered_addresses_are_none() {
        let ranges = |inverted| {
            let range = CidrRange {
                address_prefix: "10.0.0.0".into(),
                prefix_len: Some(UInt32Value { value: 8 }),
            };
            cache(|proto| {
                proto.resolved_address_filter = Some(AddressMatcher {
                    ranges: vec![range],
                    invert_match: inverted,
                });
            })
        };
        let (ten, eleven) = ([10, 1, 2, 3].into(), [11, 1, 2, 3].into());
        let cache = ranges(false).unwrap();
        assert!(!cache.lets(ten) && cache.lets(eleven));
        let cache = ranges(true).unwrap();
        assert!(cache.lets(ten) && !cache.lets(eleven));
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_name() {
        let refused = cache(|proto| proto.max_hosts = Some(UInt32Value { value: 0 }));
        assert!(refused.unwrap_err().to_string().contains("max_hosts"));
        let refused = cache(|proto| proto.dns_lookup_family = 99);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("dns_lookup_family")
        );
    }

    #[test]
    fn a_wildcard_is_for_hosts_below_it() {
        let is = |host| is_of_wildcard("*.wild.test", host);
        assert!(is("a.wild.test") && is("a.b.WILD.test"));
        assert!(!is("wild.test") && !is(".wild.test") && !is("awild.test") && !is("a.wild.test."));
        assert!(is_of_wildcard("*", "anything") && !is_of_wildcard("*", ""));
        assert!(!is("ü.wild.tes"));
    }
}
