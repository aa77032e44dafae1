//! How long an attempt that is to follow another one waits: the back-off of a policy, and what an answer says itself.
//!
//! An answer that asks for patience (`retry-after`) is asked no earlier than it says, if that isn't too long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff,
};
use http::{HeaderMap, HeaderName};
use waypoint_filters::xds::coverage::well_known::DURATION;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

/// Envoy's, where nothing is said.
const DEFAULT_BASE: Duration = Duration::from_millis(25);
const DEFAULT_LONGEST_RESET: Duration = Duration::from_secs(300);

pub(crate) static BACK_OFF: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.RetryBackOff",
    fields: &[
        honoured(1, "base_interval").of(&DURATION),
        honoured(2, "max_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("base_interval", &[1])],
};

pub(crate) static RATE_LIMITED_BACK_OFF: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff",
    fields: &[
        honoured(1, "reset_headers").named(1).of(&RESET_HEADER),
        honoured(2, "max_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("reset_headers", &[1])],
};

static RESET_HEADER: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.ResetHeader",
    fields: &[honoured(1, "name"), honoured(2, "format")],
    refused: "",
    required: &[required("name", &[1])],
};

/// The first interval of the exponential back-off, and its cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub base: Duration,
    /// Ten times the first, if nothing else is said.
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> BackOff {
        BackOff {
            base: DEFAULT_BASE,
            max: DEFAULT_BASE * 10,
        }
    }
}

impl BackOff {
    pub(crate) fn from_proto(proto: Option<&RetryBackOff>) -> Result<BackOff, Refusal> {
        let Some(proto) = proto else {
            return Ok(BackOff::default());
        };
        let base = duration::limit(&proto.base_interval, "base_interval")?;
        let base = base.unwrap_or(DEFAULT_BASE);
        let max = duration::limit(&proto.max_interval, "max_interval")?;
        Ok(BackOff {
            base,
            max: max.unwrap_or(base.saturating_mul(10)),
        })
    }
}

/// The headers in which answers say when they may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeaders {
    headers: Box<[(HeaderName, Format)]>,
    longest: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

impl ResetHeaders {
    pub(crate) fn from_proto(proto: &RateLimitedRetryBackOff) -> Result<ResetHeaders, Refusal> {
        let headers = proto.reset_headers.iter().enumerate().map(|(i, header)| {
            let at = |e: Refusal| e.within(format!("reset_headers[{i}]"));
            let name = HeaderName::try_from(header.name.as_str()).map_err(|_| {
                at(Refusal::new(
                    "name",
                    format!("{:?} is no header name", header.name),
                ))
            })?;
            let format = match ResetHeaderFormat::try_from(header.format) {
                Ok(ResetHeaderFormat::Seconds) => Format::Seconds,
                Ok(ResetHeaderFormat::UnixTimestamp) => Format::UnixTimestamp,
                Err(_) => return Err(at(Refusal::new("format", "unknown value"))),
            };
            Ok((name, format))
        });
        let longest = duration::limit(&proto.max_interval, "max_interval")?;
        Ok(ResetHeaders {
            headers: headers.collect::<Result<_, Refusal>>()?,
            longest: longest.unwrap_or(DEFAULT_LONGEST_RESET),
        })
    }

    /// How long an answer with these headers asks to wait: by the first header that can be read, and isn't too long.
    pub fn pause(&self, answer: &HeaderMap, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.headers.iter().find_map(|(name, format)| {
            let value: u64 = answer.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let seconds = match format {
                Format::Seconds => value,
                Format::UnixTimestamp => value.checked_sub(now)?,
            };
            let pause = Duration::from_secs(seconds);
            (pause <= self.longest).then_some(pause)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::retry_policy::ResetHeader;

    use super::*;

    fn resets(headers: &[(&str, ResetHeaderFormat)]) -> Result<ResetHeaders, Refusal> {
        let header = |(name, format): &(&str, ResetHeaderFormat)| ResetHeader {
            name: (*name).to_owned(),
            format: *format as i32,
        };
        ResetHeaders::from_proto(&RateLimitedRetryBackOff {
            reset_headers: headers.iter().map(header).collect(),
            max_interval: None,
        })
    }

    #[test]
    fn the_first_header_that_can_be_read_says_how_long() {
        use ResetHeaderFormat::{Seconds, UnixTimestamp};
        let resets = resets(&[("Retry-After", Seconds), ("x-reset", UnixTimestamp)]).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        for (retry_after, reset, pause) in [
            ("3", "1007", Some(3)),
            ("soon", "1007", Some(7)),
            ("", "999", None),
            ("301", "1300", Some(300)),
            ("301", "1301", None),
            ("0", "", Some(0)),
        ] {
            let mut answer = HeaderMap::new();
            answer.insert("retry-after", retry_after.parse().unwrap());
            answer.insert("x-reset", reset.parse().unwrap());
            let pause = pause.map(Duration::from_secs);
            assert_eq!(resets.pause(&answer, now), pause, "{retry_after} {reset}");
        }
        assert_eq!(resets.pause(&HeaderMap::new(), now), None);
    }

    #[test]
    fn what_is_no_header_is_refused_by_name() {
        let refused = resets(&[("a b", ResetHeaderFormat::Seconds)]).unwrap_err();
        assert_eq!(refused.field, "reset_headers[0].name");
    }
}
