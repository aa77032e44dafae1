//! The attempts of one request at its cluster: endpoint → connection → answer, and again.
//!
//! Retries go back to the choice of an endpoint, never to the filters. A request is kept for another
//! attempt only where the policy may ask for one after it was sent, its body up to a bound (`replay`);
//! a request that comes back unsent is sent again as it is.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Instant, SystemTime};

use http_body::Body as _;
use waypoint_config::model::balance::previous_priorities::PreviousPriorities;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::route::retry_policy::RetryPolicy;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::request_trace::TryOutcome;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::telemetry::trace::context::inject;

use crate::router::deadline::{Deadline, TimeLimits};
use crate::router::replay::Replay;
use crate::router::retry::{self, Backoff};
use crate::upstream::by_session::Led;
use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::exchange::agreed_upgrade::Upgrade;
use crate::upstream::reach::{Chosen, ToCluster};

/// A request on its way to a cluster: what every attempt needs.
pub(crate) struct Attempting<'a> {
    pub(crate) way: ToCluster<'a>,
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) times: TimeLimits,
    pub(crate) grpc: bool,
    /// Whether it is of a session.
    pub(crate) has_session: bool,
    /// When the request came here: filters may have held it back.
    pub(crate) began: Instant,
}

/// Where the attempts went so far.
#[derive(Default)]
pub(super) struct Tried {
    hosts: Vec<SocketAddr>,
    priorities: PreviousPriorities,
}

impl Tried {
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// A request that was sent, for another attempt.
pub(super) struct Kept {
    head: http::Request<()>,
    body: Option<Replay>,
}

impl Kept {
    /// `with_extensions`: all that hyper knows of the head, the case of its names.
    pub(super) fn of(request: &mut http::Request<Body>, with_extensions: bool) -> Kept {
        let head = copy_of(request, with_extensions);
        let body = if request.body().is_empty() {
            None
        } else {
            let (replay, first) = Replay::split(std::mem::take(request.body_mut()));
            *request.body_mut() = first;
            Some(replay)
        };
        Kept { head, body }
    }

    /// `None`: its body can't be sent again.
    fn request(self) -> Option<http::Request<Body>> {
        let body = match self.body {
            None => Body::empty(),
            Some(replay) => replay.again()?,
        };
        Some(self.head.map(|()| body))
    }

    /// Whether it could be sent once more, as things are.
    pub(super) fn is_kept(&self) -> bool {
        self.body.as_ref().is_none_or(Replay::is_kept)
    }

    /// The request once more: those before go on, unless there are none. `None`: its body can't be sent again.
    pub(super) fn another(&self, alone: bool) -> Option<http::Request<Body>> {
        let body = match &self.body {
            None => Body::empty(),
            Some(replay) if alone => replay.again()?,
            Some(replay) => replay.beside()?,
        };
        Some(copy_of(&self.head, true).map(|()| body))
    }
}

fn copy_of<B>(request: &http::Request<B>, with_extensions: bool) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    if with_extensions {
        *head.extensions_mut() = request.extensions().clone();
    } else if let Some(relay) = request.extensions().get::<Relay>() {
        head.extensions_mut().insert(relay.clone());
    }
    head
}

impl Attempting<'_> {
    /// Attempts until there is an answer to give, good or bad.
    pub(crate) async fn run(
        &self,
        mut request: Box<http::Request<Body>>,
    ) -> Result<Response, UpstreamError> {
        let relay = self.relay_of(&request);
        let mut tried = Tried::default();
        let mut backoff = Backoff::new(self.retry);
        let mut retries = self.retry.map_or(0, |policy| policy.num_retries);
        let mut retrying = None;
        let mut attempted = false;
        loop {
            let kept = self.keep(&mut request, retries);
            self.begin(&mut request, !attempted);
            attempted = true;
            let outcome = self.attempt_in_time(request, &mut tried).await;
            let again = self.asks_for_another(&outcome, relay.as_ref());
            drop(retrying.take());
            self.trace_outcome(&outcome);
            if again && retries == 0 && outcome.is_ok() {
                self.ran_out_of_retries();
            }
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
            if let Ok(response) = &outcome {
                backoff.answered(response.headers(), SystemTime::now());
            }
            request = match (outcome, kept) {
                (
                    Err(UpstreamError {
                        unsent: Some(unsent),
                        ..
                    }),
                    _,
                ) => unsent,
                (outcome, Some(kept)) => match kept.request() {
                    Some(request) => Box::new(request),
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

    /// An attempt begins: the upstream is told its time, and whose trace it is in.
    pub(super) fn begin(&self, request: &mut http::Request<Body>, is_first: bool) {
        self.way.stream.state().attempts += 1;
        self.times.tell(request.headers_mut(), || {
            // The first attempt has it all.
            let end = self.way.stream.request_end().filter(|_| !is_first);
            end.map(|end| end.max(self.began).elapsed())
                .unwrap_or_default()
        });
        self.trace_try(request);
    }

    /// Where what is said before an answer leads, if it matters to retries.
    pub(super) fn relay_of(&self, request: &http::Request<Body>) -> Option<Relay> {
        self.retry?;
        request.extensions().get::<Relay>().cloned()
    }

    /// Whether the policy wants another attempt after this one. Not once the client has heard of an upstream: as in Envoy, that
    /// one has to answer.
    pub(super) fn asks_for_another(
        &self,
        outcome: &Result<Response, UpstreamError>,
        relay: Option<&Relay>,
    ) -> bool {
        if relay.is_some_and(Relay::has_spoken) {
            return false;
        }
        match outcome {
            Ok(response) => retry::on_response(self.retry, response, self.grpc),
            Err(error) => retry::on_error(self.retry, error.kind),
        }
    }

    /// The answer asks for another attempt, and there were as many as may be.
    pub(super) fn ran_out_of_retries(&self) {
        let mut state = self.way.stream.state();
        if state.attempts > 1 {
            state
                .flags
                .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
    }

    /// Tells the upstream whose trace it is in, and begins the attempt's span.
    fn trace_try(&self, request: &mut http::Request<Body>) {
        let mut state = self.way.stream.state();
        let number = state.attempts;
        if let Some(trace) = &mut state.trace {
            trace.end_replaced_try(Instant::now());
            trace.begin_try(number, || fastrand::u64(1..), Instant::now());
            inject(trace, request.headers_mut());
        }
    }

    /// What came of an attempt, for its span. An answer lasts as long as the request, unless another attempt follows.
    pub(super) fn trace_outcome(&self, outcome: &Result<Response, UpstreamError>) {
        let mut state = self.way.stream.state();
        let host = state.upstream.as_ref().map(|upstream| upstream.host);
        let Some(trace) = state.trace.as_mut().filter(|t| !t.tries.is_empty()) else {
            return;
        };
        trace.end_try(match outcome {
            Ok(response) => TryOutcome {
                end: response.body().is_end_stream().then(Instant::now),
                code: Some(response.status().as_u16()),
                flags: ResponseFlags::default(),
                host,
                error: None,
                canceled: false,
            },
            Err(error) => TryOutcome {
                end: Some(Instant::now()),
                code: None,
                flags: error.kind.flag(),
                host,
                error: Some(error.kind.reset_reason()),
                canceled: false,
            },
        });
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
        Some(Kept::of(request, self.way.keeps_header_case()))
    }

    async fn attempt_in_time(
        &self,
        request: Box<http::Request<Body>>,
        tried: &mut Tried,
    ) -> Result<Response, UpstreamError> {
        // An upgrade's request doesn't end, and no clock starts.
        let upgrade = request.extensions().get::<Upgrade>().is_some();
        if let Some(mut times) = self.way.stream.upstream_times() {
            times.attempt(request.body().is_empty());
        }
        let attempt = pin!(self.attempt(request, tried));
        let Some((limit, over)) = self.times.before_head().filter(|_| !upgrade) else {
            return self.noted(attempt.await);
        };
        self.way.clock.reset();
        let outcome = Deadline::new(limit, self.began)
            .before(|| self.started(), attempt)
            .await;
        let late = || {
            self.way.timed_out();
            Err(UpstreamError::new(over))
        };
        self.noted(outcome.unwrap_or_else(late))
    }

    /// An attempt's outcome, of which recorders may want the time.
    pub(super) fn noted(
        &self,
        outcome: Result<Response, UpstreamError>,
    ) -> Result<Response, UpstreamError> {
        if let Some(mut times) = self.way.stream.upstream_times() {
            match &outcome {
                Ok(_) => times.answered(),
                Err(_) => times.failed(),
            }
        }
        outcome
    }

    /// Since when the last attempt's clock runs: the request is there, and so is a connection.
    pub(super) fn started(&self) -> Option<Instant> {
        let connected = self.way.clock.connected()?;
        Some(connected.max(self.way.stream.request_end()?))
    }

    async fn attempt(
        &self,
        request: Box<http::Request<Body>>,
        tried: &mut Tried,
    ) -> Result<Response, UpstreamError> {
        let Some(chosen) = self.choose(tried) else {
            return Err(
                UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream).with_unsent(Some(request))
            );
        };
        self.way.exchange(request, chosen).await
    }

    /// An endpoint for the next attempt; `None`: there is no healthy one.
    pub(super) fn choose(&self, tried: &mut Tried) -> Option<Chosen> {
        let led = match self.has_session && tried.is_empty() {
            true => self.way.led_by_session(),
            false => Led::Anywhere,
        };
        let chosen = match led {
            Led::To(chosen) => chosen,
            Led::Anywhere => self.choose_by_policy(tried)?,
            Led::Nowhere => return None,
        };
        if self.has_session {
            self.way.tell_session(&chosen);
        }
        if self.retry.is_some() {
            tried.hosts.push(chosen.endpoint.address);
        }
        Some(chosen)
    }

    fn choose_by_policy(&self, tried: &mut Tried) -> Option<Chosen> {
        let avoided = self.retry.filter(|policy| policy.previous_hosts);
        let attempts = avoided.map_or(0, |policy| policy.host_selection_attempts);
        let frequency = self.retry.and_then(|policy| policy.previous_priorities);
        let previous = frequency.map(|frequency| (&mut tried.priorities, frequency));
        self.way.choose_elsewhere(&tried.hosts, attempts, previous)
    }
}
