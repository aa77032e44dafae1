//! What a dump tells of the process itself.

use std::time::SystemTime;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Timestamp;

/// What the process adds to what was received.
#[derive(Clone, Debug)]
pub struct Process {
    pub bootstrap: Bootstrap,
    pub started: SystemTime,
    pub secrets: Vec<HeldSecret>,
}

/// Certificate and key, or roots, as a secret. Whoever makes it leaves the key out.
#[derive(Clone, Debug)]
pub struct HeldSecret {
    pub secret: Secret,
    /// `None`: it hasn't come yet.
    pub version: Option<String>,
    pub updated: SystemTime,
}

/// As protobuf has it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
