//! `HTTPFault`: whom faults meet, how often, and which.
//!
//! Without a percentage nobody is met (Envoy). Delays count in milliseconds. What requests may say themselves
//! (`x-envoy-fault-…`) is listened to only where the configuration says so, and never to be met more often.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use http::{HeaderMap, HeaderName, Request, StatusCode};

use crate::matcher::fraction::{FRACTION, Fraction};
use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use crate::xds::coverage::well_known::{DURATION, STRUCT, UINT32_VALUE};
use crate::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;
use crate::xds::struct_json::struct_to_json;

const NO_RUNTIME: &str = "there is no runtime that could override the value";

pub(super) static HTTP_FAULT: Table = Table {
    name: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    fields: &[
        honoured(1, "delay").of(&DELAY),
        honoured(2, "abort").of(&ABORT),
        honoured(4, "headers").list().of(&HEADER_MATCHER),
        honoured(5, "downstream_nodes").list(),
        honoured(6, "max_active_faults").of(&UINT32_VALUE),
        harmless(8, "delay_percent_runtime", NO_RUNTIME),
        harmless(9, "abort_percent_runtime", NO_RUNTIME),
        harmless(10, "delay_duration_runtime", NO_RUNTIME),
        harmless(11, "abort_http_status_runtime", NO_RUNTIME),
        harmless(12, "max_active_faults_runtime", NO_RUNTIME),
        harmless(13, "response_rate_limit_percent_runtime", NO_RUNTIME),
        harmless(14, "abort_grpc_status_runtime", NO_RUNTIME),
        harmless(15, "disable_downstream_cluster_stats", OWN_COUNTERS),
        honoured(16, "filter_metadata").of(&STRUCT),
    ],
    refused: "3 upstream_cluster, 7 response_rate_limit",
    required: &[],
};

static DELAY: Table = Table {
    name: "envoy.extensions.filters.common.fault.v3.FaultDelay",
    fields: &[
        honoured(3, "fixed_delay").of(&DURATION),
        honoured(4, "percentage").of(&FRACTION),
        honoured(5, "header_delay").of(&HEADER_DELAY),
    ],
    refused: "",
    required: &[required("fault_delay_secifier", &[3, 5])],
};

static HEADER_DELAY: Table = Table {
    name: "envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay",
    fields: &[],
    refused: "",
    required: &[],
};

static ABORT: Table = Table {
    name: "envoy.extensions.filters.http.fault.v3.FaultAbort",
    fields: &[
        honoured(2, "http_status"),
        honoured(3, "percentage").of(&FRACTION),
        honoured(4, "header_abort").of(&HEADER_ABORT),
        honoured(5, "grpc_status"),
        honoured(6, "response_body"),
    ],
    refused: "",
    required: &[required("error_type", &[2, 4, 5])],
};

static HEADER_ABORT: Table = Table {
    name: "envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort",
    fields: &[],
    refused: "",
    required: &[],
};

const DELAY_ASKED: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT_ASKED: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC_ASKED: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// A compiled `HTTPFault`, of the filter or of a route.
#[derive(Debug, Default)]
pub(super) struct Faults {
    delay: Option<Delay>,
    abort: Option<Abort>,
    headers: Box<[HeaderMatcher]>,
    nodes: Box<[Box<str>]>,
    /// Faults of this filter that may be going on; `None`: any number.
    pub(super) most: Option<u32>,
    /// What is known of a stream that a fault met, under the filter's name.
    pub(super) metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug)]
struct Delay {
    /// `None`: the request says.
    fixed: Option<Duration>,
    share: Fraction,
}

#[derive(Debug)]
struct Abort {
    /// `None`: the request says.
    with: Option<Answer>,
    share: Fraction,
    /// Empty: Envoy's.
    body: String,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Http(StatusCode),
    /// 200 over HTTP, whatever the request is.
    Grpc(u32),
}

impl Faults {
    pub(super) fn from_proto(proto: &HttpFault) -> Result<Faults, Refusal> {
        let headers = proto.headers.iter().enumerate();
        let headers = headers.map(|(i, matcher)| {
            HeaderMatcher::from_proto(matcher).map_err(|e| e.within(format!("headers[{i}]")))
        });
        let delay = proto.delay.as_ref().map(Delay::from_proto).transpose();
        let abort = proto.abort.as_ref().map(Abort::from_proto).transpose();
        Ok(Faults {
            delay: delay.map_err(|e| e.within("delay"))?,
            abort: abort.map_err(|e| e.within("abort"))?,
            headers: headers.collect::<Result<_, _>>()?,
            nodes: proto
                .downstream_nodes
                .iter()
                .map(|n| n.as_str().into())
                .collect(),
            most: proto.max_active_faults.as_ref().map(|most| most.value),
            metadata: match proto.filter_metadata.as_ref().map(struct_to_json) {
                Some(serde_json::Value::Object(metadata)) => metadata,
                _ => serde_json::Map::new(),
            },
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }

    /// Whether a request is one of those that faults are for.
    pub(super) fn are_for<B>(&self, request: &Request<B>) -> bool {
        let is_named = |node: &[u8]| self.nodes.iter().any(|name| name.as_bytes() == node);
        let node = || request.headers().get(NODE).map(|node| node.as_bytes());
        (self.nodes.is_empty() || node().is_some_and(is_named))
            && self.headers.iter().all(|matcher| matcher.matches(request))
    }

    /// How long a request is held back, by a random number.
    pub(super) fn delay(&self, headers: &HeaderMap, random: u64) -> Option<Duration> {
        let delay = self.delay.as_ref()?;
        if !share(delay.share, delay.fixed.is_none(), headers, &DELAY_SHARE).applies(random) {
            return None;
        }
        let time = match delay.fixed {
            Some(time) => time,
            None => Duration::from_millis(number(headers, &DELAY_ASKED)?),
        };
        (time.as_millis() > 0).then_some(time)
    }

    /// What a request is answered with instead of an upstream's answer, by a random number; and the body.
    pub(super) fn abort(&self, headers: &HeaderMap, random: u64) -> Option<(Answer, &str)> {
        let abort = self.abort.as_ref()?;
        if !share(abort.share, abort.with.is_none(), headers, &ABORT_SHARE).applies(random) {
            return None;
        }
        let with = abort.with.or_else(|| asked(headers))?;
        let body = match abort.body.as_str() {
            "" => "fault filter abort",
            body => body,
        };
        Some((with, body))
    }
}

impl Delay {
    fn from_proto(proto: &FaultDelay) -> Result<Delay, Refusal> {
        let fixed = match &proto.fault_delay_secifier {
            None => return Err(Refusal::missing("fault_delay_secifier")),
            Some(FaultDelaySecifier::HeaderDelay(_)) => None,
            Some(FaultDelaySecifier::FixedDelay(time)) => {
                let parts = (u64::try_from(time.seconds), u32::try_from(time.nanos));
                Some(match parts {
                    (Ok(s), Ok(nanos)) if nanos < 1_000_000_000 && (s, nanos) != (0, 0) => {
                        Duration::new(s, nanos)
                    }
                    _ => return Err(Refusal::new("fixed_delay", "is not a time above 0")),
                })
            }
        };
        let share = fraction(proto.percentage.as_ref())?;
        Ok(Delay { fixed, share })
    }
}

impl Abort {
    fn from_proto(proto: &FaultAbort) -> Result<Abort, Refusal> {
        let with = match proto.error_type {
            None => return Err(Refusal::missing("error_type")),
            Some(ErrorType::HeaderAbort(_)) => None,
            Some(ErrorType::GrpcStatus(status)) => Some(Answer::Grpc(status)),
            Some(ErrorType::HttpStatus(status)) => {
                let status = http_status(status.into());
                let reason = "is not between 200 and 599";
                Some(status.ok_or_else(|| Refusal::new("http_status", reason))?)
            }
        };
        Ok(Abort {
            with,
            share: fraction(proto.percentage.as_ref())?,
            body: proto.response_body.clone(),
        })
    }
}

fn fraction(proto: Option<&FractionalPercent>) -> Result<Fraction, Refusal> {
    let found = proto.map_or(Ok(Fraction::NONE), Fraction::from_proto);
    found.map_err(|e| e.within("percentage"))
}

/// How many requests are met. Where they may say what they are met with, they may also say how many, up to `most`.
fn share(most: Fraction, asked: bool, headers: &HeaderMap, name: &HeaderName) -> Fraction {
    if !asked {
        return most;
    }
    let said = number(headers, name).and_then(|said| u32::try_from(said).ok());
    said.map_or(most, |said| most.at_most(said))
}

fn asked(headers: &HeaderMap) -> Option<Answer> {
    let http = number(headers, &ABORT_ASKED).and_then(http_status);
    let grpc = || number(headers, &ABORT_GRPC_ASKED).and_then(|said| u32::try_from(said).ok());
    http.or_else(|| grpc().map(Answer::Grpc))
}

fn http_status(status: u64) -> Option<Answer> {
    let status = u16::try_from(status).ok()?;
    let known = (200..600).contains(&status);
    let status = StatusCode::from_u16(status).ok().filter(|_| known)?;
    Some(Answer::Http(status))
}

/// The number that is a header's first value.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::HeaderDelay;
    use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::HeaderAbort;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    fn percent(numerator: u32) -> Option<FractionalPercent> {
        Some(FractionalPercent {
            numerator,
            denominator: 0,
        })
    }

    fn delaying(delay: FaultDelay) -> Result<Faults, Refusal> {
        Faults::from_proto(&HttpFault {
            delay: Some(delay),
            ..HttpFault::default()
        })
    }

    fn aborting(error_type: Option<ErrorType>, numerator: u32) -> Result<Faults, Refusal> {
        Faults::from_proto(&HttpFault {
            abort: Some(FaultAbort {
                percentage: percent(numerator),
                error_type,
                ..FaultAbort::default()
            }),
            ..HttpFault::default()
        })
    }

    fn headers(pairs: &[(&HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).clone(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn a_share_of_requests_is_delayed() {
        let fixed = |seconds, nanos| {
            Some(FaultDelaySecifier::FixedDelay(DurationProto {
                seconds,
                nanos,
            }))
        };
        let delay = |secifier, percentage| {
            delaying(FaultDelay {
                percentage,
                fault_delay_secifier: secifier,
            })
        };
        let none = HeaderMap::new();
        let half = delay(fixed(1, 0), percent(50)).unwrap();
        assert_eq!(half.delay(&none, 49), Some(Duration::from_secs(1)));
        assert_eq!(half.delay(&none, 50), None);
        let nobody = delay(fixed(1, 0), None).unwrap();
        assert_eq!(nobody.delay(&none, 0), None);
        let short = delay(fixed(0, 999_999), percent(100)).unwrap();
        assert_eq!(short.delay(&none, 0), None);
        for (secifier, field) in [
            (None, "delay.fault_delay_secifier"),
            (fixed(0, 0), "delay.fixed_delay"),
            (fixed(-1, 0), "delay.fixed_delay"),
        ] {
            assert_eq!(delay(secifier, None).unwrap_err().field, field);
        }
    }

    #[test]
    fn requests_say_what_they_are_met_with_where_they_may() {
        let by_header = Some(FaultDelaySecifier::HeaderDelay(HeaderDelay {}));
        let faults = delaying(FaultDelay {
            percentage: percent(50),
            fault_delay_secifier: by_header,
        });
        let faults = faults.unwrap();
        for (asked, share, met_up_to) in [
            ("20", "", 50),
            ("20", "10", 10),
            ("20", "90", 50),
            ("20", "x", 50),
            ("0", "", 0),
            ("-1", "", 0),
            ("", "100", 0),
        ] {
            let headers = headers(&[(&DELAY_ASKED, asked), (&DELAY_SHARE, share)]);
            let met = (0..100).filter(|random| faults.delay(&headers, *random).is_some());
            assert_eq!(met.count(), met_up_to, "{asked:?} {share:?}");
        }
        let faults = aborting(Some(ErrorType::HeaderAbort(HeaderAbort {})), 100).unwrap();
        let unavailable = Answer::Http(StatusCode::SERVICE_UNAVAILABLE);
        for (http, grpc, expected) in [
            ("503", "", Some(unavailable)),
            ("503", "7", Some(unavailable)),
            ("99", "7", Some(Answer::Grpc(7))),
            ("600", "", None),
            ("", "", None),
        ] {
            let headers = headers(&[(&ABORT_ASKED, http), (&ABORT_GRPC_ASKED, grpc)]);
            let found = faults.abort(&headers, 0).map(|(answer, _)| answer);
            assert_eq!(found, expected, "{http:?} {grpc:?}");
        }
    }

    #[test]
    fn an_abort_has_an_answer() {
        let none = HeaderMap::new();
        let grpc = aborting(Some(ErrorType::GrpcStatus(14)), 100).unwrap();
        let expected = (Answer::Grpc(14), "fault filter abort");
        assert_eq!(grpc.abort(&none, 0), Some(expected));
        // What a request asks for is not listened to here.
        let asked = headers(&[(&ABORT_SHARE, "0"), (&ABORT_ASKED, "404")]);
        assert_eq!(grpc.abort(&asked, 0), Some(expected));
        for (error_type, field) in [
            (None, "abort.error_type"),
            (Some(ErrorType::HttpStatus(199)), "abort.http_status"),
            (Some(ErrorType::HttpStatus(600)), "abort.http_status"),
        ] {
            assert_eq!(aborting(error_type, 1).unwrap_err().field, field);
        }
    }

    #[test]
    fn faults_are_for_some_nodes() {
        let faults = Faults::from_proto(&HttpFault {
            downstream_nodes: vec!["a".into(), "b".into()],
            ..HttpFault::default()
        });
        let faults = faults.unwrap();
        let from = |node: &str| Request::builder().header(NODE, node).body(()).unwrap();
        assert!(faults.are_for(&from("b")) && !faults.are_for(&from("c")));
        assert!(!faults.are_for(&Request::new(())) && Faults::default().are_for(&from("c")));
    }
}
