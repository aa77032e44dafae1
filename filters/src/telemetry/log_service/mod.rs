//! Services that access logs are sent to: OTLP (`open_telemetry.rs`) and Envoy's own access log service (`access_log_service.rs`).
//!
//! A stream that has ended becomes an entry, which is encoded where the stream was served and handed over; an exporter
//! sends them (`export/`). Nobody who carries traffic waits for such a service.

pub(crate) mod access_log_service;
mod common_entry;
mod http_entry;
pub(crate) mod open_telemetry;
pub mod otlp_logs;
pub mod services;
