//! Clusters whose endpoints have names: how names are looked up, when again, and what answers make of them.
//!
//! Nothing here asks anybody: the store gives out [`Question`]s and takes [`Answer`]s. An answer stands in
//! the assignment in place of the name, so that an endpoint with a name is compiled as any other is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{DnsLookupFamily, RefreshRate};
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, endpoint::AdditionalAddress, lb_endpoint,
};
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use waypoint_filters::xds::coverage::well_known::DURATION;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

/// How a cluster's names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsDiscovery {
    pub kind: DnsKind,
    pub family: LookupFamily,
    /// Pause after an answer.
    refresh: Duration,
    /// Whether the answer's time to live is the pause instead.
    respect_ttl: bool,
    /// Added to every pause, at most.
    jitter: Duration,
    /// Pause after a failure, and what it doubles up to.
    failure: (Duration, Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// Every address is an endpoint.
    Strict,
    /// There is one endpoint, at the first address of the newest answer; the others are further addresses of it.
    Logical,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFamily {
    V4,
    V6,
    /// The second only if there is nothing of the first.
    V6ThenV4,
    V4ThenV6,
    Both,
}

/// A name that a cluster wants to have looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub cluster: Arc<str>,
    pub host: Arc<str>,
    pub how: DnsDiscovery,
}

/// How a lookup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// In the order given. Empty: there is no such name, or it has no address.
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    Failed,
}

/// Envoy's default.
const REFRESH: Duration = Duration::from_secs(5);
/// Longer pauses say no more; it keeps sums of times within their range.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest name that DNS has.
const MAX_NAME: usize = 253;

pub(crate) static REFRESH_RATE: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.RefreshRate",
    fields: &[
        honoured(1, "base_interval").of(&DURATION),
        honoured(2, "max_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("base_interval", &[1])],
};

pub(crate) static DNS_RESOLVER: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&CARES]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static CARES: Table = Table {
    name: "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    fields: &[harmless(
        5,
        "udp_max_queries",
        "every query has a socket of its own",
    )],
    refused: "1 resolvers, 2 dns_resolver_options, 3 use_resolvers_as_fallback, \
              4 filter_unroutable_families, 6 query_timeout_seconds, 7 query_tries, \
              8 rotate_nameservers, 9 edns0_max_payload_size, 10 max_udp_channel_duration, \
              11 reinit_channel_on_timeout, 12 qcache_max_ttl",
    required: &[],
};

impl LookupFamily {
    pub(crate) fn from_number(number: i32) -> Result<LookupFamily, Refusal> {
        Ok(match DnsLookupFamily::try_from(number) {
            Ok(DnsLookupFamily::Auto) => LookupFamily::V6ThenV4,
            Ok(DnsLookupFamily::V4Only) => LookupFamily::V4,
            Ok(DnsLookupFamily::V6Only) => LookupFamily::V6,
            Ok(DnsLookupFamily::V4Preferred) => LookupFamily::V4ThenV6,
            Ok(DnsLookupFamily::All) => LookupFamily::Both,
            Err(_) => return Err(Refusal::new("dns_lookup_family", "unknown value")),
        })
    }
}

impl DnsDiscovery {
    /// # Errors
    /// What of the cluster's DNS settings can't be honoured.
    pub fn from_proto(
        kind: DnsKind,
        family: LookupFamily,
        proto: &ClusterProto,
    ) -> Result<Self, Refusal> {
        let refresh = rate(&proto.dns_refresh_rate, "dns_refresh_rate")?.unwrap_or(REFRESH);
        let jitter = duration::optional(&proto.dns_jitter, "dns_jitter")?.unwrap_or_default();
        let assignment = proto.load_assignment.as_ref();
        check(kind, assignment).map_err(|e| e.within("load_assignment"))?;
        Ok(DnsDiscovery {
            kind,
            family,
            refresh,
            respect_ttl: proto.respect_dns_ttl,
            jitter: jitter.min(LONGEST),
            failure: match &proto.dns_failure_refresh_rate {
                Some(rate) => failure(rate).map_err(|e| e.within("dns_failure_refresh_rate"))?,
                None => (refresh, refresh),
            },
        })
    }

    /// How long to wait before the name is looked up again. `failures` that came one after the other, this
    /// one included; `random` in 0..1.
    pub fn pause(&self, answer: &Answer, failures: u32, random: f64) -> Duration {
        let pause = match answer {
            Answer::Addresses { ttl, .. } if self.respect_ttl && !ttl.is_zero() => *ttl,
            Answer::Addresses { .. } => self.refresh,
            Answer::Failed => {
                let (base, longest) = self.failure;
                let doubled = 1 << failures.saturating_sub(1).min(16);
                base.saturating_mul(doubled).min(longest)
            }
        };
        pause.min(LONGEST) + self.jitter.mul_f64(random)
    }

    /// What of an answer becomes endpoints.
    pub(crate) fn usable(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        match self.kind {
            DnsKind::Logical => {
                let (first, rest) = addresses.split_at(addresses.len().min(1));
                let mut rest = sorted(rest);
                rest.retain(|address| !first.contains(address));
                first.iter().copied().chain(rest).collect()
            }
            DnsKind::Strict => sorted(addresses),
        }
    }
}

pub(crate) fn rate(
    proto: &Option<DurationProto>,
    field: &str,
) -> Result<Option<Duration>, Refusal> {
    match duration::optional(proto, field)? {
        Some(rate) if rate < Duration::from_millis(1) => {
            Err(Refusal::new(field, "is below a millisecond"))
        }
        rate => Ok(rate.map(|rate| rate.min(LONGEST))),
    }
}

pub(crate) fn failure(proto: &RefreshRate) -> Result<(Duration, Duration), Refusal> {
    let base = rate(&proto.base_interval, "base_interval")?
        .ok_or_else(|| Refusal::missing("base_interval"))?;
    let longest = rate(&proto.max_interval, "max_interval")?.unwrap_or(base * 10);
    if longest < base {
        return Err(Refusal::new("max_interval", "is below base_interval"));
    }
    Ok((base, longest))
}

fn check(kind: DnsKind, assignment: Option<&ClusterLoadAssignment>) -> Result<(), Refusal> {
    let localities = assignment.iter().flat_map(|a| &a.endpoints);
    let endpoints = localities.map(|l| l.lb_endpoints.len()).sum::<usize>();
    if kind == DnsKind::Logical && endpoints != 1 {
        return Err(Refusal::new(
            "endpoints",
            format!("{endpoints}, where LOGICAL_DNS has one"),
        ));
    }
    match assignment.map(names).and_then(|names| {
        let unusable = |name: &Arc<str>| name.is_empty() || name.len() > MAX_NAME;
        names.into_iter().find(unusable)
    }) {
        Some(name) => Err(Refusal::new("address", format!("{name:?} is no host name"))),
        None => Ok(()),
    }
}

/// The names in an assignment.
pub(crate) fn names(assignment: &ClusterLoadAssignment) -> BTreeSet<Arc<str>> {
    let endpoints = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    let names = endpoints.filter_map(|endpoint| name(endpoint));
    names.map(Arc::from).collect()
}

/// Servers turn the order round; that is no change.
fn sorted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let sorted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    sorted.into_iter().collect()
}

/// The assignment with the names' addresses in place of them.
pub(crate) fn resolved(
    assignment: &ClusterLoadAssignment,
    kind: DnsKind,
    addresses: impl Fn(&str) -> Vec<IpAddr>,
) -> ClusterLoadAssignment {
    let mut resolved = assignment.clone();
    for locality in &mut resolved.endpoints {
        let named = std::mem::take(&mut locality.lb_endpoints);
        for endpoint in named {
            match name(&endpoint).map(&addresses) {
                None => locality.lb_endpoints.push(endpoint),
                Some(addresses) => {
                    let each = match kind {
                        DnsKind::Strict => addresses.chunks(1),
                        DnsKind::Logical => addresses.chunks(addresses.len().max(1)),
                    };
                    let at = |addresses| at_addresses(&endpoint, addresses);
                    locality.lb_endpoints.extend(each.filter_map(at));
                }
            }
        }
    }
    resolved
}

/// The name that stands in place of an address.
fn name(endpoint: &LbEndpoint) -> Option<&str> {
    let lb_endpoint::HostIdentifier::Endpoint(endpoint) = endpoint.host_identifier.as_ref()? else {
        return None;
    };
    match endpoint.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(SocketAddress { address, .. }) => {
            let named = address.parse::<IpAddr>().is_err();
            named.then_some(address)
        }
        _ => None,
    }
}

/// The endpoint at the first of these, and further at the others.
fn at_addresses(endpoint: &LbEndpoint, addresses: &[IpAddr]) -> Option<LbEndpoint> {
    let (first, further) = addresses.split_first()?;
    let mut endpoint = endpoint.clone();
    if let Some(lb_endpoint::HostIdentifier::Endpoint(inner)) = &mut endpoint.host_identifier
        && let Some(named) = inner.address.clone()
    {
        let further = further.iter().map(|ip| AdditionalAddress {
            address: Some(at_address(named.clone(), ip)),
        });
        inner.additional_addresses = further.collect();
        inner.address = Some(at_address(named, first));
    }
    Some(endpoint)
}

fn at_address(mut named: Address, ip: &IpAddr) -> Address {
    if let Some(address::Address::SocketAddress(socket)) = &mut named.address {
        socket.address = ip.to_string();
    }
    named
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn proto() -> ClusterProto {
        ClusterProto {
            dns_refresh_rate: Some(seconds(60)),
            dns_jitter: Some(seconds(2)),
            ..ClusterProto::default()
        }
    }

    fn strict(proto: &ClusterProto) -> Result<DnsDiscovery, Refusal> {
        DnsDiscovery::from_proto(DnsKind::Strict, LookupFamily::V4, proto)
    }

    fn seconds(seconds: i64) -> DurationProto {
        DurationProto { seconds, nanos: 0 }
    }

    fn answer(ttl: u64) -> Answer {
        Answer::Addresses {
            addresses: Vec::new(),
            ttl: Duration::from_secs(ttl),
        }
    }

    #[test]
    fn the_pause_is_the_ttl_where_it_counts_and_jitter_comes_on_top() {
        let mut proto = proto();
        let how = strict(&proto).unwrap();
        assert_eq!(how.pause(&answer(7), 0, 0.0), Duration::from_secs(60));
        assert_eq!(how.pause(&Answer::Failed, 3, 0.5), Duration::from_secs(61));
        proto.respect_dns_ttl = true;
        let how = strict(&proto).unwrap();
        assert_eq!(how.pause(&answer(7), 0, 0.0), Duration::from_secs(7));
        assert_eq!(how.pause(&answer(0), 0, 0.0), Duration::from_secs(60));
        assert_eq!(how.pause(&answer(u64::MAX), 0, 0.0), LONGEST);
    }

    #[test]
    fn failures_have_a_rate_of_their_own_that_doubles_to_a_bound() {
        let rate = |base, max| ClusterProto {
            dns_failure_refresh_rate: Some(RefreshRate {
                base_interval: Some(seconds(base)),
                max_interval: max,
            }),
            ..ClusterProto::default()
        };
        let how = strict(&rate(2, None)).unwrap();
        for (failures, pause) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 20), (u32::MAX, 20)] {
            assert_eq!(
                how.pause(&Answer::Failed, failures, 0.9),
                Duration::from_secs(pause)
            );
        }
        let refused = strict(&rate(2, Some(seconds(1))));
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("dns_failure_refresh_rate.max_interval"),
            "{text}"
        );
        let refused = strict(&rate(0, None));
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("below a millisecond")
        );
    }

    #[test]
    fn a_logical_cluster_has_one_endpoint() {
        let refused =
            DnsDiscovery::from_proto(DnsKind::Logical, LookupFamily::V4, &proto()).unwrap_err();
        assert!(refused.to_string().contains("LOGICAL_DNS has one"));
    }

    #[test]
    fn a_logical_host_is_at_the_first_address_and_strict_ones_are_in_any_order() {
        let how = |kind| DnsDiscovery {
            kind,
            family: LookupFamily::V4,
            refresh: REFRESH,
            respect_ttl: false,
            jitter: Duration::ZERO,
            failure: (REFRESH, REFRESH),
        };
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let answer = [ip(3), ip(1), ip(3)];
        assert_eq!(how(DnsKind::Logical).usable(&answer), [ip(3), ip(1)]);
        assert_eq!(how(DnsKind::Strict).usable(&answer), [ip(1), ip(3)]);
    }
}
