//! What is written when a stream has ended: logs and metrics.

pub mod access_log;
pub(crate) mod istio_labels;
mod istio_overrides;
pub(crate) mod istio_stats;
pub mod local_replies;
mod log_filter;
mod outcomes;
mod spans;
pub mod tracing;
