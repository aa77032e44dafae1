//! Retry policies: when a request may be sent again, and how often.

use std::time::Duration;

/// A compiled `RetryPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// Status codes that `retriable-status-codes` means; istiod's default names none.
    pub status_codes: Box<[u16]>,
    /// Avoid hosts that were tried already, choosing again up to `host_selection_attempts` times.
    pub previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// First interval of the exponential back-off (Envoy: 25 ms), and its cap (ten times that).
    pub base_interval: Duration,
    pub max_interval: Duration,
}

/// The conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub five_xx: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub retriable_4xx: bool,
    pub retriable_status_codes: bool,
    pub retriable_headers: bool,
    pub envoy_ratelimited: bool,
    pub http3_post_connect_failure: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}
