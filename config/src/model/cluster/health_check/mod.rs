//! `HealthCheck`: how endpoints are asked for their health, how often, and what decides.
//!
//! A cluster has at most one, as with Envoy. What comes of checks is kept with each endpoint
//! ([`active_health`](crate::model::active_health)); who makes them is the data path (`proxy/src/upstream/health/`).

pub mod grpc;
pub mod http;
pub mod intervals;
pub mod tcp;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HealthCheck as HealthCheckProto;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::google::protobuf::UInt32Value;
use waypoint_filters::xds::coverage::well_known::{BOOL_VALUE, DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::active_health::CheckThresholds;
use crate::model::cluster::health_check::grpc::{GRPC_HEALTH_CHECK, GrpcCheck};
use crate::model::cluster::health_check::http::{HTTP_HEALTH_CHECK, HttpCheck};
use crate::model::cluster::health_check::intervals::Intervals;
use crate::model::cluster::health_check::tcp::{TCP_HEALTH_CHECK, TcpCheck};
use crate::model::duration;

/// A compiled `HealthCheck`.
#[derive(Debug)]
pub struct HealthCheck {
    /// From the beginning of a check, which includes connecting, to its end.
    pub timeout: Duration,
    pub intervals: Intervals,
    pub thresholds: CheckThresholds,
    /// Whether a connection carries more than one check.
    pub reuses_connection: bool,
    pub asks: Asks,
    said: HealthCheckProto,
}

/// What an endpoint is asked.
#[derive(Debug)]
pub enum Asks {
    Http(HttpCheck),
    Tcp(TcpCheck),
    Grpc(GrpcCheck),
}

impl PartialEq for HealthCheck {
    /// Whether the control plane says the same.
    fn eq(&self, other: &HealthCheck) -> bool {
        self.said == other.said
    }
}

pub(crate) static HEALTH_CHECK: Table = Table {
    name: "envoy.config.core.v3.HealthCheck",
    fields: &[
        honoured(1, "timeout").of(&DURATION),
        honoured(2, "interval").of(&DURATION),
        honoured(3, "interval_jitter").of(&DURATION),
        honoured(4, "unhealthy_threshold").of(&UINT32_VALUE),
        honoured(5, "healthy_threshold").of(&UINT32_VALUE),
        honoured(7, "reuse_connection").of(&BOOL_VALUE),
        honoured(8, "http_health_check").of(&HTTP_HEALTH_CHECK),
        honoured(9, "tcp_health_check").of(&TCP_HEALTH_CHECK),
        honoured(11, "grpc_health_check").of(&GRPC_HEALTH_CHECK),
        honoured(12, "no_traffic_interval").of(&DURATION),
        honoured(14, "unhealthy_interval").of(&DURATION),
        honoured(15, "unhealthy_edge_interval").of(&DURATION),
        honoured(16, "healthy_edge_interval").of(&DURATION),
        honoured(18, "interval_jitter_percent"),
        harmless(19, "always_log_health_check_failures", EVENTS),
        honoured(20, "initial_jitter").of(&DURATION),
        honoured(24, "no_traffic_healthy_interval").of(&DURATION),
        harmless(26, "always_log_health_check_success", EVENTS),
    ],
    refused: "6 alt_port, 13 custom_health_check, 17 event_log_path, 21 tls_options, 22 event_service, \
              23 transport_socket_match_criteria, 25 event_logger",
    required: &[
        required("timeout", &[1]),
        required("interval", &[2]),
        required("unhealthy_threshold", &[4]),
        required("healthy_threshold", &[5]),
        required("health_checker", &[8, 9, 11]),
    ],
};

const EVENTS: &str = "what goes into logs of events, which are refused";

impl HealthCheck {
    /// `None`: endpoints aren't checked.
    pub(crate) fn from_list(
        protos: &[HealthCheckProto],
    ) -> Result<Option<Arc<HealthCheck>>, Refusal> {
        match protos {
            [] => Ok(None),
            [one] => HealthCheck::from_proto(one)
                .map(|check| Some(Arc::new(check)))
                .map_err(|e| e.within("health_checks[0]")),
            // Envoy refuses them, too.
            _ => Err(Refusal::new("health_checks", "there is more than one")),
        }
    }

    fn from_proto(proto: &HealthCheckProto) -> Result<HealthCheck, Refusal> {
        let asks = match &proto.health_checker {
            Some(HealthChecker::HttpHealthCheck(http)) => {
                Asks::Http(HttpCheck::from_proto(http).map_err(|e| e.within("http_health_check"))?)
            }
            Some(HealthChecker::TcpHealthCheck(tcp)) => {
                Asks::Tcp(TcpCheck::from_proto(tcp).map_err(|e| e.within("tcp_health_check"))?)
            }
            Some(HealthChecker::GrpcHealthCheck(grpc)) => {
                Asks::Grpc(GrpcCheck::from_proto(grpc).map_err(|e| e.within("grpc_health_check"))?)
            }
            Some(HealthChecker::CustomHealthCheck(_)) => {
                return Err(Refusal::unsupported("custom_health_check"));
            }
            None => return Err(Refusal::missing("health_checker")),
        };
        let timeout = duration::optional(&proto.timeout, "timeout")?;
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        Ok(HealthCheck {
            timeout: timeout.ok_or_else(|| Refusal::new("timeout", "is not above zero"))?,
            intervals: Intervals::from_proto(proto)?,
            thresholds: CheckThresholds {
                healthy: number(&proto.healthy_threshold),
                unhealthy: number(&proto.unhealthy_threshold),
            },
            reuses_connection: proto.reuse_connection.is_none_or(|reuses| reuses.value),
            asks,
            said: proto.clone(),
        })
    }
}

fn number(value: &Option<UInt32Value>) -> u32 {
    value.map_or(0, |value| value.value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::health_check::TcpHealthCheck;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    pub(super) fn seconds(seconds: i64) -> Option<DurationProto> {
        Some(DurationProto { seconds, nanos: 0 })
    }

    pub(super) fn tcp() -> HealthCheckProto {
        let number = |value| Some(UInt32Value { value });
        HealthCheckProto {
            timeout: seconds(1),
            interval: seconds(10),
            unhealthy_threshold: number(3),
            healthy_threshold: number(2),
            health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
            ..HealthCheckProto::default()
        }
    }

    #[test]
    fn a_cluster_has_at_most_one() {
        assert!(HealthCheck::from_list(&[]).unwrap().is_none());
        let one = HealthCheck::from_list(&[tcp()]).unwrap().unwrap();
        assert!(one.reuses_connection);
        assert_eq!((one.thresholds.healthy, one.thresholds.unhealthy), (2, 3));
        let refusal = HealthCheck::from_list(&[tcp(), tcp()]).unwrap_err();
        assert_eq!(refusal.field.to_string(), "health_checks");
        let without_time = HealthCheckProto {
            timeout: seconds(0),
            ..tcp()
        };
        let refusal = HealthCheck::from_list(&[without_time]).unwrap_err();
        assert_eq!(refusal.field.to_string(), "health_checks[0].timeout");
    }

    #[test]
    fn two_are_the_same_if_they_say_the_same() {
        let other = HealthCheckProto {
            interval: seconds(11),
            ..tcp()
        };
        let of = |proto: &HealthCheckProto| HealthCheck::from_proto(proto).unwrap();
        assert!(of(&tcp()) == of(&tcp()));
        assert!(of(&tcp()) != of(&other));
    }
}
