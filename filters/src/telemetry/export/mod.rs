//! What is sent to collectors in the background: spans and lines of logs. `trace/` and `log_service/` know the services.

pub(crate) mod exporter;
pub(crate) mod exporters;
