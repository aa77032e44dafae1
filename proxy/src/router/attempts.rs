//! The attempts of one request at its cluster: endpoint → connection → answer, and again.
//!
//! Retries go back to the choice of an endpoint, never to the filters. A request is kept for another
//! attempt only where the policy may ask for one after it was sent, its body up to a bound (`replay`);
//! a request that comes back unsent is sent again as it is.

use std::net::SocketAddr;
use std::pin::pin;

use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::route::retry_policy::RetryPolicy;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::response_flags::ResponseFlags;

use crate::router::deadline::{Deadline, TimeLimits};
use crate::router::replay::Replay;
use crate::router::retry::{self, Backoff};
use crate::upstream::agreed_upgrade::Upgrade;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::expectation::Waiting;
use crate::upstream::reach::ToCluster;

/// A request on its way to a cluster: what every attempt needs.
pub(crate) struct Attempting<'a> {
    pub(crate) way: ToCluster<'a>,
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) times: TimeLimits,
    pub(crate) grpc: bool,
}

/// A request that was sent, for another attempt.
struct Kept {
    head: http::Request<()>,
    body: Option<Replay>,
}

impl Kept {
    /// `None`: its body can't be sent again.
    fn request(self) -> Option<http::Request<Body>> {
        let body = match self.body {
            None => Body::empty(),
            Some(replay) => replay.again()?,
        };
        Some(self.head.map(|()| body))
    }
}

impl Attempting<'_> {
    /// Attempts until there is an answer to give, good or bad.
    pub(crate) async fn run(
        &self,
        request: http::Request<Body>,
    ) -> Result<Response, UpstreamError> {
        let mut request = request;
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut backoff = Backoff::new(self.retry);
        let mut retries = self.retry.map_or(0, |policy| policy.num_retries);
        let mut retrying = None;
        let mut attempted = false;
        loop {
            self.way.stream.state().attempts += 1;
            let kept = self.keep(&mut request, retries);
            self.times.tell(request.headers_mut(), || {
                // The first attempt has it all.
                let end = self.way.stream.request_end().filter(|_| attempted);
                end.map(|end| end.elapsed()).unwrap_or_default()
            });
            attempted = true;
            let outcome = self.attempt_in_time(request, &mut tried).await;
            let again = match &outcome {
                Ok(response) => retry::on_response(self.retry, response, self.grpc),
                Err(error) => retry::on_error(self.retry, error.kind),
            };
            drop(retrying.take());
            if !again || retries == 0 {
                return outcome;
            }
            if let Some(limits) = &self.way.limits {
                let Ok(permit) = limits.take(Resource::Retries) else {
                    let mut state = self.way.stream.state();
                    state.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                    return outcome;
                };
                retrying = Some(permit);
            }
            request = match (outcome, kept) {
                (
                    Err(UpstreamError {
                        unsent: Some(unsent),
                        ..
                    }),
                    _,
                ) => *unsent,
                (outcome, Some(kept)) => match kept.request() {
                    Some(request) => request,
                    None => return outcome,
                },
                (outcome, None) => return outcome,
            };
            retries -= 1;
            if let Some(pause) = backoff.next(fastrand::f64()) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// What another attempt needs, where the policy may want one after the request was sent.
    fn keep(&self, request: &mut http::Request<Body>, retries: u32) -> Option<Kept> {
        let policy = self.retry?;
        if retries == 0
            || !retry::may_follow_sending(policy, self.way.protocol(), self.grpc)
            || request.extensions().get::<Upgrade>().is_some()
        {
            return None;
        }
        let mut head = http::Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        if let Some(waiting) = request.extensions().get::<Waiting>() {
            head.extensions_mut().insert(waiting.clone());
        }
        let body = if request.body().is_empty() {
            None
        } else {
            let (replay, first) = Replay::split(std::mem::take(request.body_mut()));
            *request.body_mut() = first;
            Some(replay)
        };
        Some(Kept { head, body })
    }

    async fn attempt_in_time(
        &self,
        request: http::Request<Body>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Response, UpstreamError> {
        // An upgrade's request doesn't end, and no clock starts.
        let upgrade = request.extensions().get::<Upgrade>().is_some();
        if let Some(mut times) = self.way.stream.upstream_times() {
            times.attempt(request.body().is_empty());
        }
        let attempt = pin!(self.attempt(request, tried));
        let Some(limit) = self.times.attempt.filter(|_| !upgrade) else {
            return self.noted(attempt.await);
        };
        self.way.clock.reset();
        // The later of the two: the request is there, and so is a connection.
        let started = || {
            Some(
                self.way
                    .clock
                    .connected()?
                    .max(self.way.stream.request_end()?),
            )
        };
        let outcome = Deadline::new(limit).before(started, attempt).await;
        let late = || Err(UpstreamError::new(UpstreamErrorKind::PerTryTimeout));
        self.noted(outcome.unwrap_or_else(late))
    }

    /// An attempt's outcome, of which recorders may want the time.
    fn noted(&self, outcome: Result<Response, UpstreamError>) -> Result<Response, UpstreamError> {
        if let Some(mut times) = self.way.stream.upstream_times() {
            match &outcome {
                Ok(_) => times.answered(),
                Err(_) => times.failed(),
            }
        }
        outcome
    }

    async fn attempt(
        &self,
        request: http::Request<Body>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Response, UpstreamError> {
        let avoided = self.retry.filter(|policy| policy.previous_hosts);
        let attempts = avoided.map_or(0, |policy| policy.host_selection_attempts);
        let Some(chosen) = self.way.choose(tried, attempts) else {
            return Err(
                UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream).with_unsent(Some(request))
            );
        };
        if self.retry.is_some() {
            tried.push(chosen.endpoint.address);
        }
        self.way.exchange(request, chosen).await
    }
}
