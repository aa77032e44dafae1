//! Durations of configuration, where none at all means that there is no limit.

use std::time::Duration;

use envoy_types::pb::google::protobuf::Duration as DurationProto;
pub(crate) use waypoint_filters::xds::duration::optional;
use waypoint_filters::xds::rejected::Refusal;

/// As [`optional`]; `0s` means that there is no limit.
pub(crate) fn limit(
    proto: &Option<DurationProto>,
    field: &str,
) -> Result<Option<Duration>, Refusal> {
    Ok(optional(proto, field)?.filter(|d| !d.is_zero()))
}
