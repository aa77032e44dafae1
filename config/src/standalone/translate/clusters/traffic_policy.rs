//! What a DestinationRule makes of a cluster: limits, protocol, balancing, ejection.
//!
//! On a service's own cluster istiod applies the pool before it upgrades to HTTP/2, on `outbound|…` after it. So
//! settings of HTTP/2 that a pool has reach a cluster that is upgraded only there.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
use envoy_types::pb::envoy::r#type::v3 as percent;
use upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};

use crate::standalone::kinds::traffic_policy::Effective;
use crate::standalone::kinds::traffic_policy::connection_pool::{
    ConnectionPool, H2UpgradePolicy, HttpPool, RetryBudget, TcpPool,
};
use crate::standalone::kinds::traffic_policy::outlier_detection::OutlierDetection;
use crate::standalone::translate::clusters::protocol::{Options, explicit_http2, use_downstream};
use crate::standalone::translate::proto::packed::{duration, uint32};

/// Percent of requests that may be retries, and how many may be at least, where a budget says nothing else.
const BUDGET_PERCENT: f64 = 20.0;
const BUDGET_CONCURRENCY: u32 = 3;
/// What istiod calls "always".
const ENFORCED: u32 = 100;

/// Applies everything but balancing and the transport socket. `upgrade_first`: as for `outbound|…`.
pub(super) fn apply(
    found: &mut cluster::Cluster,
    options: &mut Options,
    policy: &Effective<'_>,
    upgrade_first: bool,
) {
    let upgrade = |options: &mut Options| {
        // A port whose protocol nobody told keeps its clients'.
        if upgrades(policy) && options.protocol.is_none() {
            options.protocol = Some(explicit_http2(false));
        }
    };
    if upgrade_first {
        upgrade(options);
    }
    if let Some(pool) = policy.connection_pool {
        apply_pool(found, options, pool);
    }
    if let Some(budget) = policy.retry_budget
        && let Some(limits) = thresholds(found)
    {
        limits.retry_budget = Some(retry_budget(budget));
    }
    if !upgrade_first {
        upgrade(options);
    }
    if let Some(outlier) = policy.outlier_detection {
        found.outlier_detection = Some(outlier_detection(outlier));
        let healthy = found.common_lb_config.get_or_insert_default();
        healthy.healthy_panic_threshold = Some(percent::Percent {
            // Those that aren't ready are known, and not meant.
            value: match policy.distribution {
                Some(_) => 0.0,
                None => outlier.min_health_percent.into(),
            },
        });
    }
}

fn upgrades(policy: &Effective<'_>) -> bool {
    let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    match http.map(|http| (http.h2_upgrade_policy, http.use_client_protocol)) {
        Some((_, true) | (H2UpgradePolicy::DoNotUpgrade, _)) => false,
        Some((H2UpgradePolicy::Upgrade, _)) => true,
        Some((H2UpgradePolicy::Default, _)) | None => policy.mesh.upgrades,
    }
}

fn thresholds(found: &mut cluster::Cluster) -> Option<&mut cluster::circuit_breakers::Thresholds> {
    found.circuit_breakers.as_mut()?.thresholds.first_mut()
}

/// A limit that is given.
fn limit(value: i32) -> Option<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0)
}

fn apply_pool(found: &mut cluster::Cluster, options: &mut Options, pool: &ConnectionPool) {
    let none_of_tcp = TcpPool::default();
    let none_of_http = HttpPool::default();
    let tcp = pool.tcp.as_ref().unwrap_or(&none_of_tcp);
    let http = pool.http.as_ref().unwrap_or(&none_of_http);
    if let Some(limits) = thresholds(found) {
        for (place, value) in [
            (&mut limits.max_connections, tcp.max_connections),
            (
                &mut limits.max_pending_requests,
                http.http1_max_pending_requests,
            ),
            (&mut limits.max_requests, http.http2_max_requests),
            (&mut limits.max_retries, http.max_retries),
        ] {
            if let Some(value) = limit(value) {
                *place = uint32(value);
            }
        }
    }
    if let Some(timeout) = tcp.connect_timeout {
        found.connect_timeout = Some(duration(timeout));
    }
    apply_keepalive(found, tcp);
    let idle = http.idle_timeout.or(tcp.idle_timeout);
    let requests = limit(http.max_requests_per_connection);
    let streams = limit(http.max_concurrent_streams);
    let keepalive = http.http2_keepalive.as_ref();
    let given = idle.is_some() || requests.is_some() || streams.is_some() || keepalive.is_some();
    if given || tcp.max_connection_duration.is_some() {
        options.common = Some(core::HttpProtocolOptions {
            idle_timeout: idle.map(duration),
            max_requests_per_connection: requests.and_then(uint32),
            max_connection_duration: tcp.max_connection_duration.map(duration),
            ..core::HttpProtocolOptions::default()
        });
        if let Some(http2) = http2_options(options) {
            if let Some(streams) = streams {
                http2.max_concurrent_streams = uint32(streams);
            }
            http2.connection_keepalive = keepalive.map(|keepalive| core::KeepaliveSettings {
                interval: keepalive.interval.map(duration),
                timeout: keepalive.timeout.map(duration),
                ..core::KeepaliveSettings::default()
            });
        }
    }
    if http.use_client_protocol {
        options.protocol = Some(use_downstream());
    }
}

/// The settings of a cluster that speaks HTTP/2 whatever its clients speak.
fn http2_options(options: &mut Options) -> Option<&mut core::Http2ProtocolOptions> {
    match &mut options.protocol {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
        })) => Some(http2),
        _ => None,
    }
}

/// What a rule says stands over what the mesh says, value by value.
fn apply_keepalive(found: &mut cluster::Cluster, tcp: &TcpPool) {
    let Some(keepalive) = &tcp.tcp_keepalive else {
        return;
    };
    let options = found.upstream_connection_options.get_or_insert_default();
    let set = options.tcp_keepalive.get_or_insert_default();
    if keepalive.probes > 0 {
        set.keepalive_probes = uint32(keepalive.probes);
    }
    for (place, time) in [
        (&mut set.keepalive_time, keepalive.time),
        (&mut set.keepalive_interval, keepalive.interval),
    ] {
        if let Some(seconds) = time.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)) {
            *place = uint32(seconds);
        }
    }
}

fn retry_budget(budget: &RetryBudget) -> cluster::circuit_breakers::thresholds::RetryBudget {
    let least = match budget.min_retry_concurrency {
        0 => BUDGET_CONCURRENCY,
        given => given,
    };
    cluster::circuit_breakers::thresholds::RetryBudget {
        budget_percent: Some(percent::Percent {
            value: budget.percent.unwrap_or(BUDGET_PERCENT),
        }),
        budget_interval: budget.budget_interval.map(duration),
        min_retry_concurrency: uint32(least),
    }
}

fn outlier_detection(outlier: &OutlierDetection) -> cluster::OutlierDetection {
    let enforcing = |count: u32| uint32(if count > 0 { ENFORCED } else { 0 });
    let time = |time: Option<Duration>| time.map(duration);
    let mut found = cluster::OutlierDetection {
        enforcing_success_rate: uint32(0),
        interval: time(outlier.interval),
        base_ejection_time: time(outlier.base_ejection_time),
        max_ejection_percent: match outlier.max_ejection_percent {
            0 => None,
            given => uint32(given),
        },
        split_external_local_origin_errors: outlier.split_external_local_origin_errors,
        ..cluster::OutlierDetection::default()
    };
    if let Some(count) = outlier.consecutive_5xx_errors {
        found.consecutive_5xx = uint32(count);
        found.enforcing_consecutive_5xx = enforcing(count);
    }
    if let Some(count) = outlier.consecutive_gateway_errors {
        found.consecutive_gateway_failure = uint32(count);
        found.enforcing_consecutive_gateway_failure = enforcing(count);
    }
    if outlier.split_external_local_origin_errors {
        if let Some(count) = outlier.consecutive_local_origin_failures
            && count > 0
        {
            found.consecutive_local_origin_failure = uint32(count);
            found.enforcing_consecutive_local_origin_failure = enforcing(count);
        }
        found.enforcing_local_origin_success_rate = uint32(0);
    }
    found
}
