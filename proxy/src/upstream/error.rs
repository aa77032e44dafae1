//! Why an attempt failed: one table from the failure to Envoy's names, the answer and whether to retry.

use std::borrow::Cow;
use std::error::Error;

use http::StatusCode;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::LocalReply;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_hbone::io::reset::{Reset, reset_of};
use waypoint_hbone::tls::origination_failure::failure_reason;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct UpstreamError {
    pub(crate) kind: UpstreamErrorKind,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`: what the socket, TLS or the tunnel said.
    pub(crate) reason: Option<String>,
    /// The request, if none of it was sent.
    pub(crate) unsent: Option<Box<http::Request<Body>>>,
}

/// What failed, and by that whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamErrorKind {
    /// No connection could be made.
    Connect,
    ConnectTimeout,
    /// The connection ended before the answer.
    Terminated,
    /// The stream was reset.
    Reset,
    /// The stream was refused before it was looked at (REFUSED_STREAM): a retry is safe.
    Refused,
    /// The upstream's answer is not HTTP.
    Protocol,
    NoHealthyUpstream,
    /// The route's or the attempt's time is over.
    RequestTimeout,
    PerTryTimeout,
    /// Nothing came of the attempt for as long as that may be.
    PerTryIdleTimeout,
    /// A circuit breaker's limit.
    Overflow,
}

impl UpstreamError {
    pub(crate) fn new(kind: UpstreamErrorKind) -> UpstreamError {
        UpstreamError {
            kind,
            reason: None,
            unsent: None,
        }
    }

    pub(crate) fn because(mut self, reason: impl ToString) -> UpstreamError {
        self.reason = Some(reason.to_string());
        self
    }

    pub(crate) fn with_unsent(
        mut self,
        request: Option<Box<http::Request<Body>>>,
    ) -> UpstreamError {
        self.unsent = request;
        self
    }

    /// From what a connection's HTTP says.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> UpstreamError {
        let is_parse = |error: &hyper::Error| error.is_parse();
        let kind = match reset_of(error) {
            Some(Reset::Refused) => UpstreamErrorKind::Refused,
            Some(Reset::Protocol) => UpstreamErrorKind::Protocol,
            Some(Reset::Other) => UpstreamErrorKind::Reset,
            None if error.downcast_ref().is_some_and(is_parse) => UpstreamErrorKind::Protocol,
            None => UpstreamErrorKind::Terminated,
        };
        UpstreamError {
            // Of a server that refuses our certificate after its side of the handshake.
            reason: failure_reason(error),
            ..UpstreamError::new(kind)
        }
    }
}

/// `%RESPONSE_CODE_DETAILS%` of an attempt of which nothing came for too long.
pub(crate) const IDLE_DETAILS: &str = "upstream_per_try_idle_timeout";

/// An answer that had begun, and breaks off.
#[derive(Debug)]
pub(crate) struct BrokenOff(pub(crate) UpstreamErrorKind);

impl BrokenOff {
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) fn details(&self) -> Cow<'static, str> {
        let name = self.0.reset_reason().replace(' ', "_");
        format!("upstream_reset_after_response_started{{{name}}}").into()
    }
}

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the answer broke off: {}", self.0.reset_reason())
    }
}

impl std::error::Error for BrokenOff {}

impl UpstreamErrorKind {
    pub(crate) fn flag(self) -> ResponseFlags {
        match self {
            UpstreamErrorKind::Connect | UpstreamErrorKind::ConnectTimeout => {
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE
            }
            UpstreamErrorKind::Terminated => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            UpstreamErrorKind::Reset | UpstreamErrorKind::Refused => {
                ResponseFlags::UPSTREAM_REMOTE_RESET
            }
            UpstreamErrorKind::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            UpstreamErrorKind::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
            UpstreamErrorKind::RequestTimeout
            | UpstreamErrorKind::PerTryTimeout
            | UpstreamErrorKind::PerTryIdleTimeout => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            UpstreamErrorKind::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        }
    }

    /// Envoy's words for a reset's reason.
    pub(crate) fn reset_reason(self) -> &'static str {
        match self {
            UpstreamErrorKind::Connect => "remote connection failure",
            UpstreamErrorKind::ConnectTimeout => "connection timeout",
            UpstreamErrorKind::Terminated => "connection termination",
            UpstreamErrorKind::Reset => "remote reset",
            UpstreamErrorKind::Refused => "remote refused stream reset",
            UpstreamErrorKind::Protocol => "protocol error",
            UpstreamErrorKind::Overflow => "overflow",
            UpstreamErrorKind::NoHealthyUpstream
            | UpstreamErrorKind::RequestTimeout
            | UpstreamErrorKind::PerTryTimeout
            | UpstreamErrorKind::PerTryIdleTimeout => "local reset",
        }
    }

    /// The answer to the client.
    pub(crate) fn reply(self, reason: Option<&str>, retried: bool) -> LocalReply {
        match self {
            UpstreamErrorKind::NoHealthyUpstream => LocalReply::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no healthy upstream",
                "no_healthy_upstream",
            ),
            UpstreamErrorKind::RequestTimeout => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout",
                "response_timeout",
            ),
            UpstreamErrorKind::PerTryTimeout => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout",
                "upstream_per_try_timeout",
            ),
            UpstreamErrorKind::PerTryIdleTimeout => LocalReply::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout",
                IDLE_DETAILS,
            ),
            kind => {
                let status = if kind == UpstreamErrorKind::Protocol {
                    StatusCode::BAD_GATEWAY
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                LocalReply::new(status, kind.body(retried), kind.details(reason))
            }
        }
        .with_flags(self.flag())
    }

    /// Why a transport failed is for logs: clients aren't told, as with Envoy 1.40.
    fn body(self, retried: bool) -> Cow<'static, str> {
        let mut body = String::from("upstream connect error or disconnect/reset before headers. ");
        body.push_str(if retried {
            "retried and the latest reset reason: "
        } else {
            "reset reason: "
        });
        body.push_str(self.reset_reason());
        body.into()
    }

    fn details(self, reason: Option<&str>) -> Cow<'static, str> {
        let name = self.reset_reason().replace(' ', "_");
        match reason {
            // Spaces would break the columns of a log line.
            Some(reason) => format!(
                "upstream_reset_before_response_started{{{name}|{}}}",
                reason.replace(' ', "_")
            ),
            None => format!("upstream_reset_before_response_started{{{name}}}"),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_is_told_as_envoy_tells_it() {
        let reply = UpstreamErrorKind::Connect.reply(Some("connection refused"), true);
        assert_eq!(reply.status, 503);
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset \
             reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|connection_refused}"
        );
        assert_eq!(reply.flags.to_string(), "UF");
    }
}
