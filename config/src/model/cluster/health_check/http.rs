//! `HttpHealthCheck`: an endpoint is asked by a request, and its answer's status decides.

use std::ops::Range;

use envoy_types::pb::envoy::config::core::v3::RequestMethod;
use envoy_types::pb::envoy::config::core::v3::health_check::HttpHealthCheck;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use waypoint_filters::matcher::string::{STRING_MATCHER, StringMatcher};
use waypoint_filters::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use waypoint_filters::xds::coverage::well_known::INT64_RANGE;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::active_health::CheckOutcome;

/// What is asked, and what is expected.
#[derive(Debug)]
pub struct HttpCheck {
    /// Where the endpoint says no other.
    pub host: Option<Box<str>>,
    pub path: PathAndQuery,
    pub method: Method,
    pub headers: HeaderChanges,
    pub http2: bool,
    expected: Box<[Range<u16>]>,
    retriable: Box<[Range<u16>]>,
    /// What [`HEALTHCHECKED_CLUSTER`] has to be.
    pub whose: Option<StringMatcher>,
}

/// What is expected where nothing else is said.
const OK: Range<u16> = 200..201;
/// Who answers a check.
const HEALTHCHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";

pub(crate) static HTTP_HEALTH_CHECK: Table = Table {
    name: "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
    fields: &[
        honoured(1, "host"),
        honoured(2, "path"),
        honoured(6, "request_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
        honoured(8, "request_headers_to_remove").list(),
        honoured(9, "expected_statuses").list().of(&INT64_RANGE),
        honoured(10, "codec_client_type").only("HTTP1, HTTP2"),
        honoured(11, "service_name_matcher").of(&STRING_MATCHER),
        honoured(12, "retriable_statuses").list().of(&INT64_RANGE),
        honoured(13, "method"),
    ],
    refused: "3 send, 4 receive, 14 response_buffer_size",
    required: &[required("path", &[2])],
};

impl HttpCheck {
    pub(crate) fn from_proto(proto: &HttpHealthCheck) -> Result<HttpCheck, Refusal> {
        let path = proto.path.as_str();
        let path = path.starts_with('/').then(|| path.parse().ok()).flatten();
        let matcher = proto.service_name_matcher.as_ref();
        let mut expected = ranges(&proto.expected_statuses, "expected_statuses")?;
        if expected.is_empty() {
            expected = Box::new([OK]);
        }
        Ok(HttpCheck {
            host: Some(proto.host.as_str())
                .filter(|host| !host.is_empty())
                .map(Into::into),
            path: path.ok_or_else(|| Refusal::new("path", "is no path"))?,
            method: method(proto.method)?,
            headers: HeaderChanges::from_proto(
                &proto.request_headers_to_add,
                &proto.request_headers_to_remove,
            )?,
            http2: match CodecClientType::try_from(proto.codec_client_type) {
                Ok(CodecClientType::Http1) => false,
                Ok(CodecClientType::Http2) => true,
                _ => return Err(Refusal::unsupported("codec_client_type")),
            },
            expected,
            retriable: ranges(&proto.retriable_statuses, "retriable_statuses")?,
            whose: matcher
                .map(StringMatcher::from_proto)
                .transpose()
                .map_err(|e| e.within("service_name_matcher"))?,
        })
    }

    /// Whether an answer's status is one that passes.
    pub fn is_expected(&self, status: StatusCode) -> bool {
        is_in(&self.expected, status)
    }

    /// What an answer's head comes to.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap) -> CheckOutcome {
        if !self.is_expected(status) {
            return match is_in(&self.retriable, status) {
                true => CheckOutcome::Retriable,
                false => CheckOutcome::Refused,
            };
        }
        let named = headers.get(HEALTHCHECKED_CLUSTER);
        let named = named
            .and_then(|name| name.to_str().ok())
            .unwrap_or_default();
        match &self.whose {
            Some(whose) if !whose.matches(named) => CheckOutcome::Refused,
            _ => CheckOutcome::Passed,
        }
    }
}

fn is_in(ranges: &[Range<u16>], status: StatusCode) -> bool {
    ranges.iter().any(|range| range.contains(&status.as_u16()))
}

fn method(number: i32) -> Result<Method, Refusal> {
    Ok(match RequestMethod::try_from(number) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => Method::GET,
        Ok(RequestMethod::Head) => Method::HEAD,
        Ok(RequestMethod::Post) => Method::POST,
        Ok(RequestMethod::Put) => Method::PUT,
        Ok(RequestMethod::Delete) => Method::DELETE,
        Ok(RequestMethod::Options) => Method::OPTIONS,
        Ok(RequestMethod::Trace) => Method::TRACE,
        Ok(RequestMethod::Patch) => Method::PATCH,
        // Envoy refuses CONNECT, too.
        Ok(RequestMethod::Connect) | Err(_) => return Err(Refusal::unsupported("method")),
    })
}

/// From the first number up to the second, without it.
fn ranges(protos: &[Int64Range], field: &str) -> Result<Box<[Range<u16>]>, Refusal> {
    let range = |(i, range): (usize, &Int64Range)| {
        let status = |number: i64| u16::try_from(number).ok();
        let both = status(range.start).zip(status(range.end));
        let valid =
            both.filter(|(start, end)| (100..=600).contains(start) && start < end && *end <= 600);
        let (start, end) = valid
            .ok_or_else(|| Refusal::new(format!("{field}[{i}]"), "is no range of statuses"))?;
        Ok(start..end)
    };
    protos.iter().enumerate().map(range).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;

    fn proto() -> HttpHealthCheck {
        HttpHealthCheck {
            path: "/healthz?full".to_owned(),
            ..HttpHealthCheck::default()
        }
    }

    fn judged(proto: &HttpHealthCheck, status: u16, cluster: &str) -> CheckOutcome {
        let check = HttpCheck::from_proto(proto).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HEALTHCHECKED_CLUSTER, cluster.parse().unwrap());
        check.judge(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn statuses_decide() {
        assert_eq!(judged(&proto(), 200, ""), CheckOutcome::Passed);
        assert_eq!(judged(&proto(), 201, ""), CheckOutcome::Refused);
        let some = HttpHealthCheck {
            expected_statuses: vec![Int64Range {
                start: 200,
                end: 300,
            }],
            retriable_statuses: vec![Int64Range {
                start: 500,
                end: 501,
            }],
            ..proto()
        };
        for (status, outcome) in [
            (299, CheckOutcome::Passed),
            (300, CheckOutcome::Refused),
            (500, CheckOutcome::Retriable),
            (501, CheckOutcome::Refused),
        ] {
            assert_eq!(judged(&some, status, ""), outcome, "{status}");
        }
    }

    #[test]
    fn an_answer_may_have_to_name_its_cluster() {
        let named = HttpHealthCheck {
            service_name_matcher: Some(StringMatcherProto {
                match_pattern: Some(MatchPattern::Prefix("web".to_owned())),
                ..StringMatcherProto::default()
            }),
            ..proto()
        };
        assert_eq!(judged(&named, 200, "web-1"), CheckOutcome::Passed);
        assert_eq!(judged(&named, 200, "db"), CheckOutcome::Refused);
        assert_eq!(judged(&named, 500, "web-1"), CheckOutcome::Refused);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |proto: &HttpHealthCheck| {
            let refusal = HttpCheck::from_proto(proto).unwrap_err();
            refusal.field.to_string()
        };
        for path in ["", "healthz", "/a b"] {
            let wrong = HttpHealthCheck {
                path: path.to_owned(),
                ..proto()
            };
            assert_eq!(refused(&wrong), "path");
        }
        for (start, end) in [(99, 200), (200, 200), (300, 200), (200, 601)] {
            let wrong = HttpHealthCheck {
                expected_statuses: vec![Int64Range { start, end }],
                ..proto()
            };
            assert_eq!(refused(&wrong), "expected_statuses[0]");
        }
        let wrong = HttpHealthCheck {
            method: RequestMethod::Connect as i32,
            ..proto()
        };
        assert_eq!(refused(&wrong), "method");
        let wrong = HttpHealthCheck {
            codec_client_type: CodecClientType::Http3 as i32,
            ..proto()
        };
        assert_eq!(refused(&wrong), "codec_client_type");
    }
}
