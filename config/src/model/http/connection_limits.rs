//! How long a client's connection lives, how much it carries, and how it is ended: of an inner HTTP connection, and of an
//! HBONE connection, each by its own connection manager.
//!
//! Connections that were made together would all end together, and their clients would all come back in the same moment.
//! So the age at which one ends is drawn: up to `max_connection_duration_jitter` above `max_connection_duration`, as in Envoy,
//! and up to a tenth below where no jitter is configured, for it says how old one gets at most. istiod has no setting for it.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HttpConnectionManagerProto;
use envoy_types::pb::envoy::r#type::v3::Percent as PercentProto;
use waypoint_filters::xds::coverage::well_known::{DURATION, PERCENT, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

/// How a connection of clients comes to its end by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLimits {
    /// How long it may be without a stream; `None`: as long as it likes.
    pub idle: Option<Duration>,
    /// Since it was opened.
    age: Option<Age>,
    /// Streams; further ones belong on another connection.
    pub streams: Option<u64>,
    drain: Duration,
    /// A share of `drain`, at most added to it.
    drain_jitter: f64,
    /// An HTTP/1 connection that is too old ends with an answer that says so, and never without.
    pub only_with_an_answer: bool,
    /// How long a client may take to read what it was sent last, and to end its direction.
    pub delayed_close: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Age {
    limit: Duration,
    /// A share of `limit`, at most added to it.
    jitter: Option<f64>,
}

/// Envoy's defaults.
const IDLE: Duration = Duration::from_secs(3600);
const DRAIN: Duration = Duration::from_secs(5);
const DELAYED_CLOSE: Duration = Duration::from_secs(1);
/// The share of an age by which it is cut at most, where nothing is said.
const OWN_JITTER: f64 = 0.1;

pub(crate) static COMMON_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.HttpProtocolOptions",
    fields: &[
        honoured(1, "idle_timeout").of(&DURATION),
        honoured(2, "max_headers_count").of(&UINT32_VALUE),
        honoured(3, "max_connection_duration").of(&DURATION),
        honoured(4, "max_stream_duration").of(&DURATION),
        honoured(5, "headers_with_underscores_action"),
        honoured(6, "max_requests_per_connection").of(&UINT32_VALUE),
        honoured(8, "max_connection_duration_jitter").of(&PERCENT),
    ],
    refused: "7 max_response_headers_kb",
    required: &[],
};

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            idle: Some(IDLE),
            age: None,
            streams: None,
            drain: DRAIN,
            drain_jitter: 0.0,
            only_with_an_answer: false,
            delayed_close: DELAYED_CLOSE,
        }
    }
}

impl ConnectionLimits {
    /// # Errors
    /// A duration or a percentage that is none.
    pub fn from_proto(
        proto: &HttpConnectionManagerProto,
        common: &HttpProtocolOptions,
    ) -> Result<ConnectionLimits, Refusal> {
        let within = |e: Refusal| e.within("common_http_protocol_options");
        let or = |value: Option<Duration>, default| value.unwrap_or(default);
        let idle = duration::optional(&common.idle_timeout, "idle_timeout").map_err(within)?;
        let limit = duration::limit(&common.max_connection_duration, "max_connection_duration");
        let jitter = share(
            common.max_connection_duration_jitter.as_ref(),
            "max_connection_duration_jitter",
        )
        .map_err(within)?;
        let streams = common.max_requests_per_connection.as_ref();
        Ok(ConnectionLimits {
            idle: Some(or(idle, IDLE)).filter(|idle| !idle.is_zero()),
            age: limit.map_err(within)?.map(|limit| Age { limit, jitter }),
            streams: streams.map(|n| u64::from(n.value)).filter(|n| *n > 0),
            drain: or(
                duration::optional(&proto.drain_timeout, "drain_timeout")?,
                DRAIN,
            ),
            drain_jitter: share(proto.drain_timeout_jitter.as_ref(), "drain_timeout_jitter")?
                .unwrap_or_default(),
            only_with_an_answer: proto.http1_safe_max_connection_duration,
            delayed_close: or(
                duration::optional(&proto.delayed_close_timeout, "delayed_close_timeout")?,
                DELAYED_CLOSE,
            ),
        })
    }

    /// How old a connection gets; `random` is below 1.
    pub fn age(&self, random: f64) -> Option<Duration> {
        let Age { limit, jitter } = self.age?;
        let factor = match jitter {
            Some(jitter) => 1.0 + jitter * random,
            None => 1.0 - OWN_JITTER * random,
        };
        Some(limit.mul_f64(factor))
    }

    /// How long a connection that is to end is still good for requests; `random` is below 1.
    pub fn drain(&self, random: f64) -> Duration {
        self.drain.mul_f64(1.0 + self.drain_jitter * random)
    }
}

/// A percentage as a share.
fn share(percent: Option<&PercentProto>, field: &str) -> Result<Option<f64>, Refusal> {
    match percent.map(|percent| percent.value) {
        None => Ok(None),
        Some(value) if (0.0..=100.0).contains(&value) => Ok(Some(value / 100.0)),
        Some(_) => Err(Refusal::new(field, "must be between 0 and 100")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};

    use super::*;

    fn seconds(seconds: i64) -> Option<DurationProto> {
        Some(DurationProto { seconds, nanos: 0 })
    }

    fn of(
        manager: HttpConnectionManagerProto,
        common: HttpProtocolOptions,
    ) -> Result<ConnectionLimits, Refusal> {
        ConnectionLimits::from_proto(&manager, &common)
    }

    #[test]
    fn nothing_said_is_envoys_default() {
        let limits = of(
            HttpConnectionManagerProto::default(),
            HttpProtocolOptions::default(),
        );
        let limits = limits.unwrap();
        assert_eq!(limits.idle, Some(IDLE));
        assert_eq!((limits.age(0.5), limits.streams), (None, None));
        assert_eq!(limits.drain(0.9), DRAIN);
        let never = HttpProtocolOptions {
            idle_timeout: seconds(0),
            max_connection_duration: seconds(0),
            max_requests_per_connection: Some(UInt32Value { value: 0 }),
            ..HttpProtocolOptions::default()
        };
        let limits = of(HttpConnectionManagerProto::default(), never).unwrap();
        assert_eq!(
            (limits.idle, limits.age(0.0), limits.streams),
            (None, None, None)
        );
    }

    #[test]
    fn ages_are_drawn_below_the_limit_or_as_far_above_as_told() {
        let mut common = HttpProtocolOptions {
            max_connection_duration: seconds(100),
            ..HttpProtocolOptions::default()
        };
        let manager = HttpConnectionManagerProto {
            drain_timeout: seconds(10),
            drain_timeout_jitter: Some(PercentProto { value: 50.0 }),
            ..HttpConnectionManagerProto::default()
        };
        let limits = of(manager.clone(), common).unwrap();
        let secs = Duration::from_secs;
        assert_eq!(
            (limits.age(0.0), limits.age(0.5)),
            (Some(secs(100)), Some(secs(95)))
        );
        assert_eq!(
            (limits.drain(0.0), limits.drain(0.5)),
            (secs(10), Duration::from_millis(12_500))
        );
        common.max_connection_duration_jitter = Some(PercentProto { value: 20.0 });
        let limits = of(manager.clone(), common).unwrap();
        assert_eq!(
            (limits.age(0.0), limits.age(0.5)),
            (Some(secs(100)), Some(secs(110)))
        );
        common.max_connection_duration_jitter = Some(PercentProto { value: 101.0 });
        assert!(of(manager, common).is_err());
    }
}
