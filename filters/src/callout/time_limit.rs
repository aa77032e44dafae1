//! How long a check may take.

use std::time::Duration;

use envoy_types::pb::google::protobuf::Duration as DurationProto;

use crate::xds::rejected::Refusal;

/// Where nothing is said.
const DEFAULT: Duration = Duration::from_millis(200);

/// The limit that `field` sets. One of no time at all would be none to Envoy: whoever waits needs one here.
pub(crate) fn time_limit(proto: Option<&DurationProto>, field: &str) -> Result<Duration, Refusal> {
    let Some(proto) = proto else {
        return Ok(DEFAULT);
    };
    match (u64::try_from(proto.seconds), u32::try_from(proto.nanos)) {
        (Ok(0), Ok(0)) => Err(Refusal::new(field, "a check needs a limit of its time")),
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Refusal::new(field, "is not a valid duration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_limit_always() {
        let of = |seconds, nanos| time_limit(Some(&DurationProto { seconds, nanos }), "timeout");
        assert_eq!(of(1, 500_000_000), Ok(Duration::from_millis(1500)));
        assert!(of(0, 0).is_err() && of(-1, 0).is_err() && of(1, -1).is_err());
        assert_eq!(time_limit(None, "timeout"), Ok(DEFAULT));
    }
}
