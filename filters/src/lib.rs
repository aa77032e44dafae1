//! What may be decided or changed on a connection or a request: matchers, filters, formats, records.
//!
//! `http/mod.rs` lists the HTTP filters, `network/mod.rs` the TCP ones; each is one file that holds the
//! filter's configuration, its conversion from proto and its behaviour. Nothing here opens a socket:
//! the outside is reached only through [`host::Host`].

pub mod access_log;
pub mod body;
pub mod connection;
pub mod coverage;
pub mod direction;
pub mod dynamic_metadata;
pub mod filter_state;
mod filter_state_value;
pub mod format;
pub mod host;
pub mod http;
mod istio_labels;
mod istio_stats;
pub mod local_reply;
pub mod matcher;
pub mod metrics;
pub mod network;
pub mod omitted;
pub mod peer;
pub mod proto;
pub mod rbac;
pub mod recorder;
pub mod rejected;
pub mod response_flags;
pub mod route;
pub mod serial_id;
pub mod service;
pub mod stream_info;
pub mod struct_json;
pub mod typed_struct;
pub mod upstream_times;
pub mod uuid;
pub mod wire_bytes;
