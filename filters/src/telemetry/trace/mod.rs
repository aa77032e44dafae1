//! Distributed traces: whose trace a request belongs to, its spans, and how they get to a collector.
//!
//! A request that is traced is written down when it has ended, as by any other recorder, and handed over to
//! the exporter of its tracer; nobody who carries traffic waits for a collector.

mod b3;
pub mod context;
pub(crate) mod custom_tag;
mod http_collector;
pub(crate) mod opentelemetry;
pub mod otlp;
pub mod providers;
pub(crate) mod sampling;
pub(crate) mod span;
mod w3c;
pub(crate) mod zipkin;
