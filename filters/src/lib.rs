//! What may be decided or changed on a connection or a request: matchers, filters, formats, records.
//!
//! `http/mod.rs` lists the HTTP filters, `network/mod.rs` the TCP ones; each is one file that holds the
//! filter's configuration, its conversion from proto and its behaviour. Nothing here opens a socket:
//! the outside is reached only through [`host::Host`].

pub mod callout;
pub mod cel;
mod decimal;
pub mod format;
pub mod host;
pub mod http;
pub mod matcher;
pub mod metrics;
pub mod network;
pub mod record;
pub mod security;
pub mod service;
pub mod stream;
pub mod telemetry;
pub mod xds;
