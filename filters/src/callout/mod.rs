//! A filter's way out: a request to a cluster of the configuration, within limits, and the answer as a whole.
//!
//! Filters and background work ask other services by it, and what they send has no downstream stream of its own. Messages
//! are whole, with a bound: enough for HTTP and for unary gRPC, which is a POST over HTTP/2 whose answer ends in trailers.
//! There is no retry in it: an error says whether one is safe.

pub(crate) mod added_headers;
pub(crate) mod asking;
pub(crate) mod grpc_service;
pub(crate) mod time_limit;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

/// The process's way out. It opens no more than it may: what is too much fails with [`CalloutErrorKind::Overflow`].
pub trait Callouts: Send + Sync + 'static {
    /// Sends a request to a cluster and waits for its answer. Dropping the future ends the exchange.
    ///
    /// The authority is in the `host` header, and the version says which is spoken with a cluster that leaves it open.
    fn call(
        &self,
        cluster: Arc<dyn CalloutCluster>,
        request: http::Request<Content>,
        limits: CalloutLimits,
    ) -> CalloutFuture;
}

/// A place for a cluster, whether there is one yet or not. Whoever serves callouts knows what it really is.
pub trait CalloutCluster: Any + Send + Sync {
    fn name(&self) -> &Arc<str>;
}

/// The way to one cluster: what a filter keeps that asks a service.
#[derive(Clone)]
pub struct Callout {
    cluster: Arc<dyn CalloutCluster>,
    callouts: Arc<dyn Callouts>,
}

impl Callout {
    pub fn new(cluster: Arc<dyn CalloutCluster>, callouts: Arc<dyn Callouts>) -> Callout {
        Callout { cluster, callouts }
    }

    /// Sends a request there, as [`Callouts::call`] does.
    pub fn call(&self, request: http::Request<Content>, limits: CalloutLimits) -> CalloutFuture {
        self.callouts.call(self.cluster.clone(), request, limits)
    }
}

impl fmt::Debug for Callout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Callout").field(self.cluster.name()).finish()
    }
}

/// A body as a whole, with its trailers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// What a callout may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalloutLimits {
    /// From the call to the end of the answer.
    pub time: Duration,
    pub answer: Answer,
}

/// What becomes of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is kept, if it has at most so many bytes.
    Kept { most: usize },
    /// It is read and let go.
    Discarded,
}

pub type CalloutFuture =
    Pin<Box<dyn Future<Output = Result<http::Response<Content>, CalloutError>> + Send>>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalloutError {
    pub kind: CalloutErrorKind,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// What the socket, TLS or the tunnel said.
    pub reason: Option<String>,
    /// Whether nothing of the request was sent.
    pub unsent: bool,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CalloutErrorKind {
    /// There is no cluster of this name.
    NoCluster,
    /// The cluster has no endpoint that is healthy.
    NoHealthyEndpoint,
    /// A limit was reached, the cluster's or that of all callouts.
    Overflow,
    /// No connection could be made.
    Connect,
    /// The time is over.
    Timeout,
    /// The endpoint refused the request before it looked at it.
    Refused,
    /// The connection or the stream ended before the answer did.
    BrokenOff,
    /// The answer isn't HTTP.
    Protocol,
    /// The answer has more bytes than are kept.
    TooLarge,
}

/// Who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever wrote the configuration.
    Configuration,
    /// Nobody: there is too much to do here.
    Load,
    /// The service that was called, or the way to it.
    Service,
}

impl CalloutErrorKind {
    /// For labels of metrics.
    pub fn name(self) -> &'static str {
        match self {
            CalloutErrorKind::NoCluster => "no_cluster",
            CalloutErrorKind::NoHealthyEndpoint => "no_healthy_endpoint",
            CalloutErrorKind::Overflow => "overflow",
            CalloutErrorKind::Connect => "connect",
            CalloutErrorKind::Timeout => "timeout",
            CalloutErrorKind::Refused => "refused",
            CalloutErrorKind::BrokenOff => "broken_off",
            CalloutErrorKind::Protocol => "protocol",
            CalloutErrorKind::TooLarge => "too_large",
        }
    }
}

impl CalloutError {
    pub fn fault(&self) -> Fault {
        match self.kind {
            CalloutErrorKind::NoCluster => Fault::Configuration,
            CalloutErrorKind::Overflow => Fault::Load,
            CalloutErrorKind::NoHealthyEndpoint
            | CalloutErrorKind::Connect
            | CalloutErrorKind::Timeout
            | CalloutErrorKind::Refused
            | CalloutErrorKind::BrokenOff
            | CalloutErrorKind::Protocol
            | CalloutErrorKind::TooLarge => Fault::Service,
        }
    }

    /// Whether the service can't have acted on the request, so that it may be sent again whatever it asks for.
    pub fn is_safe_to_retry(&self) -> bool {
        self.unsent || self.kind == CalloutErrorKind::Refused
    }
}

impl fmt::Display for CalloutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            CalloutErrorKind::NoCluster => "there is no such cluster",
            CalloutErrorKind::NoHealthyEndpoint => "no endpoint is healthy",
            CalloutErrorKind::Overflow => "too much is under way",
            CalloutErrorKind::Connect => "no connection",
            CalloutErrorKind::Timeout => "its time is over",
            CalloutErrorKind::Refused => "the endpoint refused it",
            CalloutErrorKind::BrokenOff => "the exchange broke off",
            CalloutErrorKind::Protocol => "the answer is not HTTP",
            CalloutErrorKind::TooLarge => "the answer is too large",
        };
        write!(f, "callout to {:?}: {what}", self.cluster)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CalloutError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_cluster_and_says_whose_fault_it_is() {
        let error = |kind, unsent| CalloutError {
            kind,
            cluster: "authz".into(),
            reason: None,
            unsent,
        };
        let missing = error(CalloutErrorKind::NoCluster, true);
        assert_eq!(
            missing.to_string(),
            "callout to \"authz\": there is no such cluster"
        );
        assert_eq!(missing.fault(), Fault::Configuration);
        assert!(!error(CalloutErrorKind::Timeout, false).is_safe_to_retry());
        assert!(error(CalloutErrorKind::Refused, false).is_safe_to_retry());
        assert!(error(CalloutErrorKind::Connect, true).is_safe_to_retry());
    }
}
