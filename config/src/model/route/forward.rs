//! Forwarding: the clusters of a route by weight, its time limits, retries and rewrites.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{
    HedgePolicy, RouteAction as RouteActionProto, route_action, weighted_cluster,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use waypoint_filters::http::rate_limit::descriptor::RATE_LIMIT;
use waypoint_filters::matcher::regex::SUBSTITUTION;
use waypoint_filters::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use waypoint_filters::stream::session::SessionHost;
use waypoint_filters::xds::coverage::well_known::{BOOL_VALUE, DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::duration;
use crate::model::route::context::RouteContext;
use crate::model::route::hash_policy::{HASH_POLICY, HashPolicy};
use crate::model::route::mirror::{Mirror, REQUEST_MIRROR_POLICY};
use crate::model::route::path_rewrite::PathRewrite;
use crate::model::route::retry_policy::{RETRY_POLICY, RetryPolicy};
use crate::model::stream_limits::{MAX_STREAM_DURATION, RouteStreamLimits};
use crate::model::weighted::Weighted;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Envoy's default, where a route says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends the request to a cluster.
#[derive(Debug)]
pub struct Forward {
    pub destinations: Destinations,
    /// The answer where the cluster does not exist: 503, or 500 from Gateway API routes.
    pub cluster_not_found: StatusCode,
    /// `None`: no limit (istiod writes `0s`).
    pub timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    /// An attempt whose time is over goes on while another one is made.
    pub hedge_on_per_try_timeout: bool,
    /// gRPC requests bring their own limit (`grpc-timeout`), of at most this; zero: whatever they say. istiod always
    /// allows it.
    pub max_grpc_timeout: Option<Duration>,
    /// How long streams may take, whatever the limits above say.
    pub streams: RouteStreamLimits,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HeaderValue>,
    pub append_x_forwarded_host: bool,
    pub mirrors: Box<[Mirror]>,
    /// Where clusters balance by hashes.
    pub hash_policy: Option<HashPolicy>,
}

/// One cluster, or several by weight.
#[derive(Debug)]
pub enum Destinations {
    Single(Arc<ClusterSlot>),
    Weighted {
        shares: Weighted<WeightedCluster>,
        /// Those without a weight: only sessions that began there get there.
        resting: Box<[WeightedCluster]>,
    },
}

#[derive(Debug)]
pub struct WeightedCluster {
    pub cluster: Arc<ClusterSlot>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub host_rewrite: Option<HeaderValue>,
}

pub(crate) static ROUTE_ACTION: Table = Table {
    name: "envoy.config.route.v3.RouteAction",
    fields: &[
        honoured(1, "cluster"),
        honoured(3, "weighted_clusters").of(&WEIGHTED_CLUSTERS),
        honoured(5, "prefix_rewrite"),
        honoured(6, "host_rewrite_literal"),
        honoured(8, "timeout").of(&DURATION),
        honoured(9, "retry_policy").of(&RETRY_POLICY),
        honoured(13, "rate_limits").list().of(&RATE_LIMIT),
        honoured(14, "include_vh_rate_limits").of(&BOOL_VALUE),
        honoured(15, "hash_policy").list().of(&HASH_POLICY),
        honoured(20, "cluster_not_found_response_code"),
        honoured(23, "max_grpc_timeout").of(&DURATION),
        honoured(24, "idle_timeout").of(&DURATION),
        honoured(25, "upgrade_configs")
            .named(1)
            .only("where tunnels begin")
            .of(&UPGRADE),
        honoured(27, "hedge_policy").of(&HEDGE_POLICY),
        honoured(30, "request_mirror_policies")
            .list()
            .of(&REQUEST_MIRROR_POLICY),
        honoured(32, "regex_rewrite").of(&SUBSTITUTION),
        honoured(36, "max_stream_duration").of(&MAX_STREAM_DURATION),
        honoured(38, "append_x_forwarded_host"),
    ],
    refused: "2 cluster_header, 4 metadata_match, 7 auto_host_rewrite, 11 priority, 17 cors, 26 internal_redirect_action, \
              28 grpc_timeout_offset, 29 host_rewrite_header, \
              31 max_internal_redirects, 33 retry_policy_typed_config, \
              34 internal_redirect_policy, 35 host_rewrite_path_regex, \
              37 cluster_specifier_plugin, 39 inline_cluster_specifier_plugin, \
              40 early_data_policy, 41 path_rewrite_policy, 42 flush_timeout, 44 host_rewrite, \
              45 path_rewrite",
    required: &[required("cluster_specifier", &[1, 3])],
};

pub(crate) static HEDGE_POLICY: Table = Table {
    name: "envoy.config.route.v3.HedgePolicy",
    fields: &[honoured(3, "hedge_on_per_try_timeout")],
    refused: "1 initial_requests, 2 additional_request_chance",
    required: &[],
};

/// Whether a request is hedged where it says so.
pub(crate) fn hedges_on_timeout(policy: Option<&HedgePolicy>) -> bool {
    policy.is_some_and(|policy| policy.hedge_on_per_try_timeout)
}

static UPGRADE: Table = Table {
    name: "envoy.config.route.v3.RouteAction.UpgradeConfig",
    fields: &[
        honoured(1, "upgrade_type").only("CONNECT"),
        honoured(3, "connect_config").of(&CONNECT),
    ],
    refused: "2 enabled",
    required: &[],
};

static CONNECT: Table = Table {
    name: "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
    fields: &[],
    refused: "1 proxy_protocol_config, 2 allow_post",
    required: &[],
};

static WEIGHTED_CLUSTERS: Table = Table {
    name: "envoy.config.route.v3.WeightedCluster",
    fields: &[
        honoured(1, "clusters").list().of(&CLUSTER_WEIGHT),
        harmless(
            2,
            "runtime_key_prefix",
            "there is no runtime that could override the weights",
        ),
    ],
    refused: "3 total_weight, 4 header_name, 5 use_hash_policy",
    required: &[required("clusters", &[1])],
};

static CLUSTER_WEIGHT: Table = Table {
    name: "envoy.config.route.v3.WeightedCluster.ClusterWeight",
    fields: &[
        honoured(1, "name"),
        honoured(2, "weight").of(&UINT32_VALUE),
        honoured(4, "request_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(5, "response_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(6, "response_headers_to_remove").list(),
        honoured(9, "request_headers_to_remove").list(),
        honoured(11, "host_rewrite_literal"),
    ],
    refused: "3 metadata_match, 10 typed_per_filter_config, 12 cluster_header",
    required: &[required("name", &[1])],
};

fn of(chosen: &WeightedCluster) -> (&Arc<ClusterSlot>, Option<&WeightedCluster>) {
    (&chosen.cluster, Some(chosen))
}

impl Destinations {
    /// The cluster for a random number, with what its weight brings along.
    pub fn choose(&self, random: u64) -> (&Arc<ClusterSlot>, Option<&WeightedCluster>) {
        match self {
            Destinations::Single(slot) => (slot, None),
            Destinations::Weighted { shares, .. } => of(shares.choose(random)),
        }
    }

    /// The same for traffic: it is counted.
    pub fn take(&self, random: u64) -> (&Arc<ClusterSlot>, Option<&WeightedCluster>) {
        match self {
            Destinations::Single(slot) => (slot, None),
            Destinations::Weighted { shares, .. } => of(shares.take(random)),
        }
    }

    /// The cluster that has the endpoint which a session names, where there are several.
    pub fn having(&self, host: SessionHost) -> Option<&WeightedCluster> {
        let Destinations::Weighted { shares, resting } = self else {
            return None;
        };
        let mut all = shares.iter().chain(resting);
        all.find(|to| to.cluster.endpoints().at(host).is_some())
    }

    /// Counts one that a session took instead of its weight. Those without a weight have no share to be counted in.
    pub fn count(&self, taken: &WeightedCluster) {
        if let Destinations::Weighted { shares, .. } = self {
            shares.count(|cluster| std::ptr::eq(cluster, taken));
        }
    }
}

impl Forward {
    pub(crate) fn from_proto(
        proto: &RouteActionProto,
        context: &RouteContext<'_>,
    ) -> Result<Forward, Refusal> {
        let host_rewrite = match &proto.host_rewrite_specifier {
            None => None,
            Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                Some(host_value(host)?)
            }
            Some(_) => return Err(Refusal::unsupported("host_rewrite_specifier")),
        };
        let streams = RouteStreamLimits::from_proto(proto)?;
        // CONNECT is routed by the waypoint itself; other upgrades are the chain's to allow.
        for upgrade in &proto.upgrade_configs {
            if !upgrade.upgrade_type.eq_ignore_ascii_case("connect") {
                let field = format!("upgrade_configs[{:?}]", upgrade.upgrade_type);
                return Err(Refusal::unsupported(field));
            }
        }
        let path_rewrite = match (&proto.regex_rewrite, proto.prefix_rewrite.as_str()) {
            (Some(rewrite), _) => {
                Some(PathRewrite::regex(rewrite).map_err(|e| e.within("regex_rewrite"))?)
            }
            (None, "") => None,
            (None, prefix) => Some(PathRewrite::Prefix(prefix.into())),
        };
        let cluster_not_found = match proto.cluster_not_found_response_code {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            1 => StatusCode::NOT_FOUND,
            2 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => {
                return Err(Refusal::new(
                    "cluster_not_found_response_code",
                    "unknown value",
                ));
            }
        };
        Ok(Forward {
            destinations: destinations(proto, context)?,
            cluster_not_found,
            timeout: match duration::optional(&proto.timeout, "timeout")? {
                _ if streams.replaces_timeout() => None,
                None => Some(DEFAULT_TIMEOUT),
                limit => limit.filter(|limit| !limit.is_zero()),
            },
            retry: RetryPolicy::shared(proto.retry_policy.as_ref())?,
            max_grpc_timeout: duration::optional(&proto.max_grpc_timeout, "max_grpc_timeout")?
                .filter(|_| !streams.replaces_timeout()),
            streams,
            hedge_on_per_try_timeout: hedges_on_timeout(proto.hedge_policy.as_ref()),
            path_rewrite,
            host_rewrite,
            append_x_forwarded_host: proto.append_x_forwarded_host,
            mirrors: mirrors(proto, context)?,
            hash_policy: HashPolicy::from_proto(&proto.hash_policy)?,
        })
    }

    /// Takes what the virtual host says where `own` says nothing.
    pub(crate) fn inherit(
        &mut self,
        own: &RouteActionProto,
        retry: Option<&Arc<RetryPolicy>>,
        hedges: bool,
    ) {
        if own.retry_policy.is_none() {
            self.retry = retry.cloned();
        }
        if own.hedge_policy.is_none() {
            self.hedge_on_per_try_timeout = hedges;
        }
    }

    /// How long the answer may take, from the request's end to its own; `None`: as long as it likes. A gRPC request's
    /// own limit stands for the route's, also where it has none.
    pub fn timeout_of(&self, grpc: bool, headers: &HeaderMap) -> Option<Duration> {
        let Some(max) = self.max_grpc_timeout.filter(|_| grpc) else {
            return self.timeout;
        };
        let limit = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let own = asked_by_grpc(headers).and_then(limit);
        match (own, limit(max)) {
            (Some(own), Some(max)) => Some(own.min(max)),
            (own, max) => own.or(max),
        }
    }
}

/// The time that a request says it has (`grpc-timeout`).
pub fn asked_by_grpc(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let digits = text.get(..text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match text.as_bytes().last()? {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

fn host_value(host: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(host).map_err(|_| {
        Refusal::new(
            "host_rewrite_literal",
            format!("{host:?} is no header value"),
        )
    })
}

fn destinations(
    proto: &RouteActionProto,
    context: &RouteContext<'_>,
) -> Result<Destinations, Refusal> {
    match &proto.cluster_specifier {
        None => Err(Refusal::missing("cluster_specifier")),
        Some(route_action::ClusterSpecifier::Cluster(name)) => {
            Ok(Destinations::Single((context.slot)(name)))
        }
        Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) => {
            let clusters = weighted
                .clusters
                .iter()
                .enumerate()
                .map(|(i, cluster)| {
                    let weight = cluster.weight.as_ref().map_or(0, |w| w.value);
                    let compiled = WeightedCluster::from_proto(cluster, context)
                        .map_err(|e| e.within(format!("weighted_clusters.clusters[{i}]")))?;
                    Ok((weight, compiled))
                })
                .collect::<Result<Vec<_>, _>>()?;
            let (clusters, resting): (Vec<_>, Vec<_>) =
                clusters.into_iter().partition(|(weight, _)| *weight > 0);
            let shares = Weighted::new(clusters)
                .ok_or_else(|| Refusal::new("weighted_clusters", "no cluster has a weight"))?;
            if u32::try_from(shares.total()).is_err() {
                return Err(Refusal::new("weighted_clusters", "weights are too large"));
            }
            Ok(Destinations::Weighted {
                shares,
                resting: resting.into_iter().map(|(_, to)| to).collect(),
            })
        }
        Some(_) => Err(Refusal::unsupported("cluster_specifier")),
    }
}

fn mirrors(proto: &RouteActionProto, context: &RouteContext<'_>) -> Result<Box<[Mirror]>, Refusal> {
    let policies = proto.request_mirror_policies.iter().enumerate();
    policies
        .map(|(i, policy)| {
            Mirror::from_proto(policy, context)
                .map_err(|e| e.within(format!("request_mirror_policies[{i}]")))
        })
        .collect()
}

impl WeightedCluster {
    fn from_proto(
        proto: &weighted_cluster::ClusterWeight,
        context: &RouteContext<'_>,
    ) -> Result<WeightedCluster, Refusal> {
        let host_rewrite = match &proto.host_rewrite_specifier {
            None => None,
            Some(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
                host,
            )) => Some(host_value(host)?),
        };
        Ok(WeightedCluster {
            cluster: (context.slot)(&proto.name),
            request_headers: HeaderChanges::from_proto(
                &proto.request_headers_to_add,
                &proto.request_headers_to_remove,
            )?,
            response_headers: HeaderChanges::from_proto(
                &proto.response_headers_to_add,
                &proto.response_headers_to_remove,
            )?,
            host_rewrite,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(grpc_timeout("123456789S"), None);
        assert_eq!(grpc_timeout("S"), None);
        assert_eq!(grpc_timeout(""), None);
    }
}
