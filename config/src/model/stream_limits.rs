//! How long a request may take, whatever becomes of it: by its connection manager, and by its route.
//!
//! A route's words stand for the manager's where it has any. `grpc-timeout` counts only where the route says by how much
//! at most.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::route::v3::RouteAction as RouteActionProto;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HttpConnectionManagerProto;
use waypoint_filters::xds::coverage::well_known::DURATION;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

/// The connection manager's limits; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// In which nothing moves.
    pub idle: Option<Duration>,
    /// From the request's head to its end.
    pub request: Option<Duration>,
    /// From the request's head to the answer's end.
    pub duration: Option<Duration>,
}

/// What a route says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteStreamLimits {
    /// `None`: what the manager says; within: no limit.
    idle: Option<Option<Duration>>,
    duration: Option<RouteDuration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RouteDuration {
    /// `None`: what the manager says; zero: no limit.
    limit: Option<Duration>,
    /// `grpc-timeout` stands for the limit, up to this; zero: whatever it says.
    grpc_most: Option<Duration>,
    /// And so much less of it.
    grpc_less: Duration,
}

/// Envoy's default.
const IDLE: Duration = Duration::from_secs(300);

pub(crate) static MAX_STREAM_DURATION: Table = Table {
    name: "envoy.config.route.v3.RouteAction.MaxStreamDuration",
    fields: &[
        honoured(1, "max_stream_duration").of(&DURATION),
        honoured(2, "grpc_timeout_header_max").of(&DURATION),
        honoured(3, "grpc_timeout_header_offset").of(&DURATION),
    ],
    refused: "",
    required: &[],
};

impl StreamLimits {
    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
        common: &HttpProtocolOptions,
    ) -> Result<StreamLimits, Refusal> {
        let idle = duration::optional(&proto.stream_idle_timeout, "stream_idle_timeout")?;
        let duration = duration::limit(&common.max_stream_duration, "max_stream_duration");
        Ok(StreamLimits {
            idle: Some(idle.unwrap_or(IDLE)).filter(|idle| !idle.is_zero()),
            request: duration::limit(&proto.request_timeout, "request_timeout")?,
            duration: duration.map_err(|e| e.within("common_http_protocol_options"))?,
        })
    }

    /// With what the request's route says, and the request itself. The second is the limit that the upstream's gRPC is to be
    /// told in place of the request's own; zero: that there is no time left.
    pub fn on(
        &self,
        route: Option<&RouteStreamLimits>,
        grpc_timeout: impl FnOnce() -> Option<Duration>,
    ) -> (StreamLimits, Option<Duration>) {
        let Some(route) = route else {
            return (*self, None);
        };
        let idle = route.idle.unwrap_or(self.idle);
        let Some(own) = &route.duration else {
            return (StreamLimits { idle, ..*self }, None);
        };
        let asked = own.grpc_most.and_then(|most| Some((most, grpc_timeout()?)));
        let (duration, told) = match asked {
            Some((most, asked)) => {
                let capped = if most.is_zero() {
                    asked
                } else {
                    asked.min(most)
                };
                let limit = capped.saturating_sub(own.grpc_less);
                (Some(limit), Some(limit))
            }
            None => match own.limit {
                Some(limit) => (Some(limit).filter(|limit| !limit.is_zero()), None),
                None => (self.duration, None),
            },
        };
        let limits = StreamLimits {
            idle,
            duration,
            ..*self
        };
        (limits, told)
    }

    pub fn is_none(&self) -> bool {
        *self == StreamLimits::default()
    }
}

impl RouteStreamLimits {
    pub(crate) fn from_proto(proto: &RouteActionProto) -> Result<RouteStreamLimits, Refusal> {
        let idle = duration::optional(&proto.idle_timeout, "idle_timeout")?;
        let duration = match &proto.max_stream_duration {
            None => None,
            Some(own) => {
                let optional = |value, name| {
                    duration::optional(value, name).map_err(|e| e.within("max_stream_duration"))
                };
                Some(RouteDuration {
                    limit: optional(&own.max_stream_duration, "max_stream_duration")?,
                    grpc_most: optional(&own.grpc_timeout_header_max, "grpc_timeout_header_max")?,
                    grpc_less: optional(
                        &own.grpc_timeout_header_offset,
                        "grpc_timeout_header_offset",
                    )?
                    .unwrap_or_default(),
                })
            }
        };
        Ok(RouteStreamLimits {
            idle: idle.map(|idle| Some(idle).filter(|idle| !idle.is_zero())),
            duration,
        })
    }

    /// Whether the route's own time limit doesn't count: streams have theirs here.
    pub(crate) fn replaces_timeout(&self) -> bool {
        self.duration.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    fn seconds(seconds: i64) -> Option<DurationProto> {
        Some(DurationProto { seconds, nanos: 0 })
    }

    const fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn route(idle: Option<i64>, own: Option<[Option<i64>; 3]>) -> RouteStreamLimits {
        let action = RouteActionProto {
            idle_timeout: idle.and_then(seconds),
            max_stream_duration: own.map(|[limit, most, less]| MaxStreamDuration {
                max_stream_duration: limit.and_then(seconds),
                grpc_timeout_header_max: most.and_then(seconds),
                grpc_timeout_header_offset: less.and_then(seconds),
            }),
            ..RouteActionProto::default()
        };
        RouteStreamLimits::from_proto(&action).unwrap()
    }

    const MANAGER: StreamLimits = StreamLimits {
        idle: secs(30),
        request: secs(5),
        duration: secs(60),
    };

    #[test]
    fn nothing_said_is_five_minutes_without_a_move() {
        let limits = StreamLimits::from_proto(
            &HttpConnectionManagerProto::default(),
            &HttpProtocolOptions::default(),
        );
        let told = StreamLimits {
            idle: secs(300),
            ..StreamLimits::default()
        };
        assert_eq!(limits.unwrap(), told);
        let never = HttpConnectionManagerProto {
            stream_idle_timeout: seconds(0),
            ..HttpConnectionManagerProto::default()
        };
        let limits = StreamLimits::from_proto(&never, &HttpProtocolOptions::default());
        assert!(limits.unwrap().is_none());
    }

    #[test]
    fn a_routes_words_stand_for_the_managers() {
        let on = |idle, own| MANAGER.on(Some(&route(idle, own)), || None).0;
        assert_eq!(MANAGER.on(None, || None).0, MANAGER);
        assert_eq!(on(None, None), MANAGER);
        assert_eq!(on(Some(0), None).idle, None);
        assert_eq!(on(Some(7), None).idle, secs(7));
        assert_eq!(on(None, Some([Some(8), None, None])).duration, secs(8));
        assert_eq!(on(None, Some([Some(0), None, None])).duration, None);
        assert_eq!(on(None, Some([None, None, None])).duration, secs(60));
    }

    #[test]
    fn grpc_timeout_counts_up_to_what_the_route_says() {
        let on = |own, asked| {
            let (limits, told) = MANAGER.on(Some(&route(None, Some(own))), || secs(asked));
            (limits.duration, told)
        };
        assert_eq!(on([Some(8), None, None], 20), (secs(8), None));
        assert_eq!(on([Some(8), Some(10), None], 20), (secs(10), secs(10)));
        assert_eq!(on([Some(8), Some(0), None], 20), (secs(20), secs(20)));
        assert_eq!(on([Some(8), Some(0), Some(5)], 20), (secs(15), secs(15)));
        assert_eq!(on([None, Some(0), Some(5)], 3), (secs(0), secs(0)));
    }
}
