//! What is done with requests on their way: rewrites, retries, faults, mirrors, CORS.

use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::optional_duration;
use crate::standalone::kinds::core::config_map::RetryPolicy;
use crate::standalone::kinds::gateway_api::http_route_match::is_header_name;
use crate::standalone::kinds::istio::virtual_service::destination::Destination;
use crate::standalone::kinds::istio::virtual_service::string_match::{StringMatch, expression};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Conditions of retries that Istio knows, beside status codes.
const RETRY_ON: &[&str] = &[
    "5xx",
    "cancelled",
    "connect-failure",
    "deadline-exceeded",
    "envoy-ratelimited",
    "gateway-error",
    "http3-post-connect-failure",
    "internal",
    "refused-stream",
    "reset",
    "reset-before-request",
    "resource-exhausted",
    "retriable-4xx",
    "retriable-headers",
    "retriable-status-codes",
    "unavailable",
];
const CORS_METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];
/// Names of gRPC's statuses, by number.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rewrite {
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegexRewrite {
    pub r#match: String,
    pub rewrite: String,
}

impl Rewrite {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let Some(regex) = &self.uri_regex_rewrite else {
            return match self.uri.is_empty() && self.authority.is_empty() {
                true => Err(refusal("", "must have uri, uriRegexRewrite or authority")),
                false => Ok(()),
            };
        };
        if !self.uri.is_empty() {
            return Err(refusal(
                "",
                "only one of uri and uriRegexRewrite may be given",
            ));
        }
        if regex.rewrite.is_empty() {
            return Err(refusal("uriRegexRewrite.rewrite", "is required"));
        }
        expression("uriRegexRewrite.match", &regex.r#match)
    }
}

pub(super) fn check_retries(retries: &RetryPolicy) -> Result<(), Refusal> {
    if retries.attempts < 0 {
        return Err(refusal("attempts", "is below 0"));
    }
    let asks = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && asks {
        return Err(refusal(
            "attempts",
            "are 0, which leaves nothing to say of them",
        ));
    }
    check_duration("perTryTimeout", retries.per_try_timeout)?;
    check_duration("backoff", retries.backoff)?;
    let is_status = |text: &str| {
        let code = text.parse::<u16>().ok();
        let status = code.and_then(|code| http::StatusCode::from_u16(code).ok());
        status.is_some_and(|status| status.canonical_reason().is_some())
    };
    let mut conditions = retries.retry_on.split(',');
    match conditions.find(|text| !RETRY_ON.contains(text) && !is_status(text)) {
        Some(odd) if !retries.retry_on.is_empty() => {
            let reason = format!("{odd:?} is no condition for a retry");
            Err(refusal("retryOn", reason))
        }
        _ => Ok(()),
    }
}

/// Whole milliseconds, at least one.
pub(super) fn check_duration(field: &str, duration: Option<Duration>) -> Result<(), Refusal> {
    let odd =
        |found: &Duration| found.as_millis() == 0 || !found.as_nanos().is_multiple_of(1_000_000);
    match duration.filter(odd) {
        Some(_) => Err(refusal(field, "must be whole milliseconds, 1 at least")),
        None => Ok(()),
    }
}

/// A share of a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Percent {
    pub value: f64,
}

impl Percent {
    fn check(self, field: &str, least: f64) -> Result<(), Refusal> {
        let value = self.value;
        if (0.0..=100.0).contains(&value) && (value == 0.0 || value >= least) {
            return Ok(());
        }
        Err(refusal(
            format!("{field}.value"),
            format!("{value} is neither 0 nor between {least} and 100"),
        ))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Delay {
    /// Of a hundred; where there is no `percentage`.
    pub percent: i32,
    pub percentage: Option<Percent>,
    #[serde(deserialize_with = "optional_duration")]
    pub fixed_delay: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    exponential_delay: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Abort {
    pub http_status: Option<u32>,
    grpc_status: Option<String>,
    http2_error: Option<String>,
    pub percentage: Option<Percent>,
}

impl Fault {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.delay.is_none() && self.abort.is_none() {
            return Err(refusal("", "must have delay or abort"));
        }
        if let Some(delay) = &self.delay {
            let share = delay.percentage.unwrap_or_default();
            share.check("delay.percentage", 0.0001)?;
            if !(0..=100).contains(&delay.percent) {
                return Err(refusal("delay.percent", "is not between 0 and 100"));
            }
            if delay.exponential_delay.is_some() {
                return Err(refusal(
                    "delay.exponentialDelay",
                    "Istio doesn't know it yet",
                ));
            }
            check_duration("delay.fixedDelay", delay.fixed_delay)?;
        }
        self.abort.as_ref().map_or(Ok(()), Abort::check)
    }
}

impl Abort {
    /// The number of gRPC's status that requests are aborted with.
    pub(crate) fn grpc_status(&self) -> Option<u32> {
        let name = self.grpc_status.as_deref()?;
        let found = GRPC_STATUSES.iter().position(|known| *known == name)?;
        u32::try_from(found).ok()
    }

    fn check(&self) -> Result<(), Refusal> {
        let share = self.percentage.unwrap_or_default();
        share.check("abort.percentage", 0.0001)?;
        if self.http2_error.is_some() {
            return Err(refusal("abort.http2Error", "Istio doesn't know it yet"));
        }
        if let Some(name) = &self.grpc_status {
            if self.http_status.is_some() {
                let reason = "only one of httpStatus and grpcStatus may be given";
                return Err(refusal("abort", reason));
            }
            if self.grpc_status().is_none() {
                let reason = format!("{name:?} is no status of gRPC");
                return Err(refusal("abort.grpcStatus", reason));
            }
        }
        match self.http_status {
            Some(status) if !(200..=600).contains(&status) => Err(refusal(
                "abort.httpStatus",
                format!("{status} is not between 200 and 599"),
            )),
            _ => Ok(()),
        }
    }
}

/// One of `mirrors`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub destination: Destination,
    pub percentage: Option<Percent>,
}

impl Mirror {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check_share("percentage", self.percentage)?;
        let at = |(field, reason): Refusal| (format!("destination.{field}"), reason);
        self.destination.check().map_err(at)
    }
}

/// A share that is mirrored.
pub(super) fn check_share(field: &str, share: Option<Percent>) -> Result<(), Refusal> {
    share.unwrap_or_default().check(field, 0.0)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CorsPolicy {
    pub allow_origins: Vec<StringMatch>,
    /// As they are; where there are no `allowOrigins`.
    pub allow_origin: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    #[serde(deserialize_with = "optional_duration")]
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of preflight requests from other origins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

impl CorsPolicy {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        for (index, origin) in self.allow_origins.iter().enumerate() {
            let field = format!("allowOrigins[{index}]");
            match origin {
                StringMatch::Present => return Err(refusal(field, "says nothing")),
                StringMatch::Exact(text) if text.is_empty() => {
                    return Err(refusal(field, "says nothing"));
                }
                origin => origin.check(&field)?,
            }
        }
        let odd = |method: &&String| !CORS_METHODS.contains(&method.as_str());
        if let Some(method) = self.allow_methods.iter().find(odd) {
            return Err(refusal("allowMethods", format!("{method:?} is no method")));
        }
        for (list, names) in [
            ("allowHeaders", &self.allow_headers),
            ("exposeHeaders", &self.expose_headers),
        ] {
            let odd = |name: &&String| name.as_str() != "*" && !is_header_name(name);
            if let Some(name) = names.iter().find(odd) {
                return Err(refusal(list, format!("{name:?} is no name of a header")));
            }
        }
        match self.max_age {
            Some(age) if age.is_zero() || age.subsec_nanos() > 0 => {
                Err(refusal("maxAge", "must be whole seconds, 1 at least"))
            }
            _ => Ok(()),
        }
    }
}
