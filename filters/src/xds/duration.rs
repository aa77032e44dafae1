//! Durations of configuration; a negative or overlong one is refused.

use std::time::Duration;

use envoy_types::pb::google::protobuf::Duration as DurationProto;

use crate::xds::rejected::Refusal;

/// From proto, `None` where it isn't set.
pub fn optional(proto: &Option<DurationProto>, field: &str) -> Result<Option<Duration>, Refusal> {
    proto.as_ref().map(|d| from_proto(d, field)).transpose()
}

pub fn from_proto(proto: &DurationProto, field: &str) -> Result<Duration, Refusal> {
    match (u64::try_from(proto.seconds), u32::try_from(proto.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Refusal::new(field, "is not a valid duration")),
    }
}
