//! What is written when a stream has ended: logs and metrics.

pub mod access_log;
pub(crate) mod istio_labels;
pub(crate) mod istio_stats;
pub mod recorder;
