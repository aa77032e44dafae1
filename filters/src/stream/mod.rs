//! What is known of a stream and of the connection that it came on.

pub mod connection;
pub mod direction;
pub mod dynamic_metadata;
pub mod explanation;
pub mod filter_state;
pub mod format_context;
pub mod peer;
pub mod recorder;
pub mod request_trace;
pub mod response_flags;
pub mod route;
pub mod serial_id;
pub mod session;
pub mod stream_info;
pub mod upstream_times;
pub mod uuid;
pub mod watched;
pub mod wire_bytes;
