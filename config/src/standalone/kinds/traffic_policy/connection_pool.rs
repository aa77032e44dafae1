//! `connectionPool` and `retryBudget` of a traffic policy: limits of connections and of what they carry.
//!
//! As with istiod a limit of 0 is none at all.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::{check_whole_millis, optional_duration};
use crate::standalone::kinds::refusal::{Refusal, below, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionPool {
    pub tcp: Option<TcpPool>,
    pub http: Option<HttpPool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpPool {
    pub max_connections: i32,
    #[serde(deserialize_with = "optional_duration")]
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<Keepalive>,
    #[serde(deserialize_with = "optional_duration")]
    pub max_connection_duration: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    pub probes: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub time: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpPool {
    pub http1_max_pending_requests: i32,
    pub http2_max_requests: i32,
    pub max_requests_per_connection: i32,
    pub max_retries: i32,
    #[serde(deserialize_with = "optional_duration")]
    pub idle_timeout: Option<Duration>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: i32,
    #[serde(rename = "http2KeepAlive")]
    pub http2_keepalive: Option<Http2Keepalive>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Keepalive {
    #[serde(deserialize_with = "optional_duration")]
    pub interval: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RetryBudget {
    pub percent: Option<f64>,
    #[serde(deserialize_with = "optional_duration")]
    pub budget_interval: Option<Duration>,
    pub min_retry_concurrency: u32,
}

impl ConnectionPool {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.tcp.is_none() && self.http.is_none() {
            return Err(refusal("", "must have at least one field"));
        }
        if let Some(tcp) = &self.tcp {
            tcp.check().map_err(below("tcp"))?;
        }
        match &self.http {
            Some(http) => http.check().map_err(below("http")),
            None => Ok(()),
        }
    }
}

impl TcpPool {
    fn check(&self) -> Result<(), Refusal> {
        not_negative("maxConnections", self.max_connections)?;
        check_whole_millis("connectTimeout", self.connect_timeout)?;
        check_whole_millis("maxConnectionDuration", self.max_connection_duration)?;
        // None at all is a time, too: for ever.
        let idle = self.idle_timeout.filter(|idle| idle.as_millis() != 0);
        check_whole_millis("idleTimeout", idle)?;
        let Some(keepalive) = &self.tcp_keepalive else {
            return Ok(());
        };
        check_whole_millis("tcpKeepalive.time", keepalive.time)?;
        check_whole_millis("tcpKeepalive.interval", keepalive.interval)
    }
}

impl HttpPool {
    fn check(&self) -> Result<(), Refusal> {
        for (field, value) in [
            ("http1MaxPendingRequests", self.http1_max_pending_requests),
            ("http2MaxRequests", self.http2_max_requests),
            ("maxRequestsPerConnection", self.max_requests_per_connection),
            ("maxRetries", self.max_retries),
            ("maxConcurrentStreams", self.max_concurrent_streams),
        ] {
            not_negative(field, value)?;
        }
        check_whole_millis("idleTimeout", self.idle_timeout)?;
        if self.use_client_protocol && self.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
            let reason = "may not be true where h2UpgradePolicy is UPGRADE";
            return Err(refusal("useClientProtocol", reason));
        }
        let Some(keepalive) = &self.http2_keepalive else {
            return Ok(());
        };
        for (field, time) in [
            ("http2KeepAlive.interval", keepalive.interval),
            ("http2KeepAlive.timeout", keepalive.timeout),
        ] {
            if time.is_none() {
                return Err(refusal(field, "is required"));
            }
            check_whole_millis(field, time)?;
        }
        Ok(())
    }
}

impl RetryBudget {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match self.percent {
            Some(percent) if !(0.0..=100.0).contains(&percent) => {
                Err(refusal("percent", "must be between 0 and 100"))
            }
            _ => Ok(()),
        }
    }
}

fn not_negative(field: &str, value: i32) -> Result<(), Refusal> {
    match value {
        0.. => Ok(()),
        _ => Err(refusal(field, "must not be negative")),
    }
}
