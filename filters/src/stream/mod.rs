//! What is known of a stream and of the connection that it came on.

pub mod connection;
pub mod direction;
pub mod dynamic_metadata;
pub mod filter_state;
pub mod peer;
pub mod response_flags;
pub mod route;
pub mod serial_id;
pub mod stream_info;
pub mod upstream_times;
pub mod uuid;
pub mod wire_bytes;
