//! Forwarding: the clusters of a route by weight, its time limits, retries and rewrites.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{
    RouteAction as RouteActionProto, route_action, weighted_cluster,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use waypoint_filters::rejected::Refusal;

use crate::honoured::nothing_left;
use crate::model::cluster::ClusterSlot;
use crate::model::duration;
use crate::model::header_changes::HeaderChanges;
use crate::model::path_rewrite::PathRewrite;
use crate::model::retry_policy::RetryPolicy;
use crate::model::route::RouteContext;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Envoy's default, where a route says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends the request to a cluster.
pub struct Forward {
    pub destinations: Destinations,
    /// The answer where the cluster does not exist: 503, or 500 from Gateway API routes.
    pub cluster_not_found: StatusCode,
    /// `None`: no limit (istiod writes `0s`).
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    /// gRPC requests may bring their own limit (`grpc-timeout`); istiod always allows it.
    pub grpc_timeout_header: bool,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HeaderValue>,
    pub append_x_forwarded_host: bool,
}

/// One cluster, or several by weight.
pub enum Destinations {
    Single(Arc<ClusterSlot>),
    /// Weights add up to `total`, which is more than 0.
    Weighted {
        total: u32,
        clusters: Box<[WeightedCluster]>,
        /// The first that has a weight.
        first: Arc<ClusterSlot>,
    },
}

pub struct WeightedCluster {
    pub weight: u32,
    pub cluster: Arc<ClusterSlot>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub host_rewrite: Option<HeaderValue>,
}

impl Destinations {
    /// The cluster for a random number, with what its weight brings along.
    pub fn choose(&self, random: u64) -> (&Arc<ClusterSlot>, Option<&WeightedCluster>) {
        match self {
            Destinations::Single(slot) => (slot, None),
            Destinations::Weighted {
                total,
                clusters,
                first,
            } => {
                let mut point = random % u64::from(*total).max(1);
                for cluster in clusters {
                    if point < u64::from(cluster.weight) {
                        return (&cluster.cluster, Some(cluster));
                    }
                    point -= u64::from(cluster.weight);
                }
                (first, None)
            }
        }
    }
}

impl Forward {
    pub(crate) fn from_proto(
        proto: &RouteActionProto,
        context: &RouteContext<'_>,
    ) -> Result<Forward, Refusal> {
        nothing_left(&RouteActionProto {
            cluster_not_found_response_code: 0,
            prefix_rewrite: String::new(),
            regex_rewrite: None,
            append_x_forwarded_host: false,
            timeout: None,
            idle_timeout: None,
            retry_policy: None,
            max_grpc_timeout: None,
            // CONNECT is routed by the waypoint itself.
            upgrade_configs: Vec::new(),
            cluster_specifier: None,
            host_rewrite_specifier: None,
            ..proto.clone()
        })?;
        let host_rewrite = match &proto.host_rewrite_specifier {
            None => None,
            Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                Some(host_value(host)?)
            }
            Some(_) => return Err(Refusal::unsupported("host_rewrite_specifier")),
        };
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
                None => Some(DEFAULT_TIMEOUT),
                limit => limit.filter(|limit| !limit.is_zero()),
            },
            idle_timeout: duration::limit(&proto.idle_timeout, "idle_timeout")?,
            retry: proto
                .retry_policy
                .as_ref()
                .map(|policy| RetryPolicy::from_proto(policy).map(Arc::new))
                .transpose()
                .map_err(|e| e.within("retry_policy"))?,
            grpc_timeout_header: proto.max_grpc_timeout.is_some(),
            path_rewrite,
            host_rewrite,
            append_x_forwarded_host: proto.append_x_forwarded_host,
        })
    }

    /// How long the whole exchange may take; a gRPC request's own limit replaces the route's.
    pub fn timeout_of(&self, grpc: bool, headers: &HeaderMap) -> Option<Duration> {
        if !grpc || !self.grpc_timeout_header {
            return self.timeout;
        }
        let own = headers
            .get(GRPC_TIMEOUT)
            .and_then(|v| grpc_timeout(v.to_str().ok()?));
        own.or(self.timeout)
    }
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
                    WeightedCluster::from_proto(cluster, context)
                        .map_err(|e| e.within(format!("weighted_clusters.clusters[{i}]")))
                })
                .collect::<Result<Box<[_]>, _>>()?;
            let total = clusters
                .iter()
                .try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight))
                .ok_or_else(|| Refusal::new("weighted_clusters", "weights are too large"))?;
            let first = clusters
                .iter()
                .find(|cluster| cluster.weight > 0)
                .map(|cluster| cluster.cluster.clone())
                .ok_or_else(|| Refusal::new("weighted_clusters", "no cluster has a weight"))?;
            Ok(Destinations::Weighted {
                total,
                clusters,
                first,
            })
        }
        Some(_) => Err(Refusal::unsupported("cluster_specifier")),
    }
}

impl WeightedCluster {
    fn from_proto(
        proto: &weighted_cluster::ClusterWeight,
        context: &RouteContext<'_>,
    ) -> Result<WeightedCluster, Refusal> {
        nothing_left(&weighted_cluster::ClusterWeight {
            name: String::new(),
            weight: None,
            request_headers_to_add: Vec::new(),
            request_headers_to_remove: Vec::new(),
            response_headers_to_add: Vec::new(),
            response_headers_to_remove: Vec::new(),
            host_rewrite_specifier: None,
            ..proto.clone()
        })?;
        let host_rewrite = match &proto.host_rewrite_specifier {
            None => None,
            Some(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
                host,
            )) => Some(host_value(host)?),
        };
        Ok(WeightedCluster {
            weight: proto.weight.as_ref().map_or(0, |w| w.value),
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
