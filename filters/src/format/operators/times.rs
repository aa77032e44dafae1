//! When a stream began and how long its parts took.
//!
//! Some time points are noted only where a format asks for them. Local time is UTC: nothing here knows the zone.

use std::time::{Instant, SystemTime};

use super::print::{millis, number, whole};
use crate::format::FormatContext;
use crate::format::time_format::TimeFormat;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// `%START_TIME(format)%` and `%EMIT_TIME(format)%`.
#[derive(Clone, Debug)]
pub(in crate::format) struct Clock {
    format: TimeFormat,
    /// The moment of writing, not the stream's start.
    now: bool,
}

impl Clock {
    pub(super) fn parse(name: &str, parameters: &str) -> Result<Clock, Refusal> {
        let default = if name.ends_with("_LOCAL") {
            "%Y-%m-%dT%H:%M:%S.%3f%z"
        } else {
            "%Y-%m-%dT%H:%M:%S.%3fZ"
        };
        let format = if parameters.is_empty() {
            default
        } else {
            parameters
        };
        Ok(Clock {
            format: TimeFormat::parse(format)?,
            now: name.starts_with("EMIT"),
        })
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let time = if self.now {
            SystemTime::now()
        } else {
            context.stream.start_time
        };
        self.format.write(time, out);
        true
    }
}

/// The time between two points.
#[derive(Clone, Copy, Debug)]
pub(in crate::format) struct Span {
    from: Point,
    to: Point,
    precision: Precision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    RequestBegins,
    RequestEnds,
    /// From the upstream, which is also when its head goes down.
    ResponseBegins,
    /// The answer's head goes down, whoever it is from.
    AnswerBegins,
    ResponseEnds,
    AnswerEnds,
    ConnectBegins,
    ConnectEnds,
    SendingBegins,
    SendingEnds,
    BodyBegins,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Precision {
    Millis,
    Micros,
    Nanos,
}

impl Span {
    /// `None`: the name is no duration's.
    pub(super) fn parse(name: &str, parameters: &str) -> Result<Option<Span>, Refusal> {
        let millis = |from, to| Span {
            from,
            to,
            precision: Precision::Millis,
        };
        Ok(Some(match name {
            "DURATION" => millis(Point::RequestBegins, Point::AnswerEnds),
            "REQUEST_DURATION" => millis(Point::RequestBegins, Point::RequestEnds),
            "RESPONSE_DURATION" => millis(Point::RequestBegins, Point::ResponseBegins),
            "RESPONSE_TX_DURATION" => millis(Point::ResponseBegins, Point::AnswerEnds),
            "REQUEST_TX_DURATION" => millis(Point::RequestBegins, Point::SendingEnds),
            "ROUNDTRIP_DURATION" | "DOWNSTREAM_HANDSHAKE_DURATION" => {
                millis(Point::RequestBegins, Point::Unknown)
            }
            "COMMON_DURATION" => {
                let refuse = || {
                    let reason =
                        format!("%COMMON_DURATION({parameters})% is not FROM:TO:ms, us or ns");
                    Refusal::new("format", reason)
                };
                let parts: Vec<&str> = parameters.split(':').collect();
                let (from, to, precision) = match parts.as_slice() {
                    [from, to] => (from, to, Precision::Millis),
                    [from, to, "ms"] => (from, to, Precision::Millis),
                    [from, to, "us"] => (from, to, Precision::Micros),
                    [from, to, "ns"] => (from, to, Precision::Nanos),
                    _ => return Err(refuse()),
                };
                Span {
                    from: Point::named(from),
                    to: Point::named(to),
                    precision,
                }
            }
            _ => return Ok(None),
        }))
    }

    pub(super) fn capture(self, capture: &mut Capture) {
        capture.upstream_times |= self.from.is_measured() || self.to.is_measured();
    }

    pub(super) fn write(self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let (Some(from), Some(to)) = (self.from.of(context), self.to.of(context)) else {
            return false;
        };
        let Some(time) = to.checked_duration_since(from) else {
            return false;
        };
        match self.precision {
            Precision::Millis => millis(out, Some(time)),
            Precision::Micros => number(out, whole(time.as_micros())),
            Precision::Nanos => number(out, whole(time.as_nanos())),
        }
    }
}

impl Point {
    /// Names that nobody has set have no time, as in Envoy, where a filter may set its own.
    fn named(name: &str) -> Point {
        match name {
            "DS_RX_BEG" => Point::RequestBegins,
            "DS_RX_END" => Point::RequestEnds,
            "US_CX_BEG" => Point::ConnectBegins,
            "US_CX_END" => Point::ConnectEnds,
            "US_TX_BEG" => Point::SendingBegins,
            "US_TX_END" => Point::SendingEnds,
            "US_RX_BODY_BEG" => Point::BodyBegins,
            "US_RX_BEG" => Point::ResponseBegins,
            "US_RX_END" => Point::ResponseEnds,
            "DS_TX_BEG" => Point::AnswerBegins,
            "DS_TX_END" => Point::AnswerEnds,
            _ => Point::Unknown,
        }
    }

    /// Whether it is noted only where somebody asks for it.
    fn is_measured(self) -> bool {
        matches!(
            self,
            Point::SendingBegins | Point::SendingEnds | Point::BodyBegins
        )
    }

    fn of(self, context: &FormatContext<'_>) -> Option<Instant> {
        let state = context.state;
        let upstream = state.connected_upstream();
        let measured = || upstream.and_then(|_| context.stream.upstream_times());
        match self {
            Point::RequestBegins => Some(context.stream.start),
            Point::RequestEnds => context.stream.request_end(),
            Point::ResponseBegins => {
                let measured = measured().and_then(|times| times.received_begin());
                measured.or_else(|| upstream.and(state.response.first_byte))
            }
            Point::AnswerBegins => state.response.first_byte,
            Point::ResponseEnds => upstream
                .and(state.response.first_byte)
                .and(Some(context.end)),
            Point::AnswerEnds => Some(context.end),
            Point::ConnectBegins => upstream?.times.map(|times| times.begin),
            Point::ConnectEnds => upstream?.times.map(|times| times.end),
            Point::SendingBegins => measured()?.sent_begin(),
            Point::SendingEnds => measured()?.sent_end(),
            Point::BodyBegins => measured()?.received_body_begin(),
            Point::Unknown => None,
        }
    }
}
