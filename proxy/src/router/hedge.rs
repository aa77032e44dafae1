//! Hedged requests: an attempt whose time is over goes on while another one is made, and the first good answer is given.
//!
//! As in Envoy (`hedge_on_per_try_timeout`): a time that is over always asks for another attempt, as far as there are retries
//! left, whatever the policy's conditions; a bad answer of an attempt that was followed by another is thrown away as long as
//! that one may answer. What is under way counts as retries of the cluster, and ends with the answer. Once the client has heard
//! of an attempt before its answer (103), the others end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::SystemTime;

use tokio::time::Sleep;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::response_flags::ResponseFlags;

use crate::router::attempts::{Attempting, Kept, Tried};
use crate::router::deadline::Deadline;
use crate::router::retry::Backoff;
use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::limits::Permit;

type Outcome = Result<Response, UpstreamError>;

/// An attempt that hasn't ended.
struct Underway<'a> {
    number: u32,
    answer: Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>,
    /// Its time; none once that was over.
    time: Option<Deadline>,
    /// Whether another one was made since, because its time was over.
    followed: bool,
    host: Option<SocketAddr>,
    _retry: Option<Permit>,
}

enum Event {
    Ended(usize, Outcome),
    Late(usize),
    PauseOver,
}

/// The attempts of one request.
struct Hedge<'a> {
    attempting: &'a Attempting<'a>,
    kept: Kept,
    tried: Tried,
    underway: Vec<Underway<'a>>,
    retries: u32,
    /// How many were begun.
    begun: u32,
    relay: Option<Relay>,
    backoff: Backoff<'a>,
    /// What the next attempt counts as, and when it begins.
    next: Option<(Option<Permit>, Pin<Box<Sleep>>)>,
}

impl Attempting<'_> {
    /// Attempts until there is an answer to give, some beside each other, and so many further ones at most. The request has a
    /// limit for each attempt, and is no upgrade.
    pub(crate) async fn run_hedged(
        &self,
        mut request: Box<http::Request<Body>>,
        retries: u32,
    ) -> Outcome {
        let mut hedge = Hedge {
            attempting: self,
            kept: Kept::of(&mut request, self.way.keeps_header_case()),
            tried: Tried::default(),
            underway: Vec::new(),
            retries,
            begun: 0,
            relay: request.extensions().get().cloned(),
            backoff: Backoff::new(self.retry),
            next: None,
        };
        hedge.begin(request, None);
        loop {
            let outcome = match hedge.event().await {
                Event::PauseOver => hedge.begin_next(),
                Event::Late(index) => {
                    hedge.late(index);
                    None
                }
                Event::Ended(index, outcome) => hedge.ended(index, outcome),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }
}

impl<'a> Hedge<'a> {
    fn begin(&mut self, mut request: Box<http::Request<Body>>, retry: Option<Permit>) {
        let attempting = self.attempting;
        attempting.begin(&mut request, self.begun == 0);
        self.begun += 1;
        Relay::number(&mut request, self.begun);
        if let Some(mut times) = attempting.way.stream.upstream_times() {
            times.attempt(request.body().is_empty());
        }
        attempting.way.clock.reset();
        let chosen = attempting.choose(&mut self.tried);
        let host = chosen.as_ref().map(|chosen| chosen.endpoint.address);
        let answer: Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> = match chosen {
            None => {
                Box::pin(async { Err(UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream)) })
            }
            Some(chosen) => Box::pin(attempting.way.exchange(request, chosen)),
        };
        let limit = attempting.times.before_head();
        self.underway.push(Underway {
            number: self.begun,
            answer,
            time: limit.map(|(limit, _)| Deadline::new(limit, attempting.began)),
            followed: false,
            host,
            _retry: retry,
        });
    }

    async fn event(&mut self) -> Event {
        let attempting = self.attempting;
        poll_fn(|cx| {
            for (index, attempt) in self.underway.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = attempt.answer.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(index, outcome));
                }
                // Only the last one's time isn't over yet.
                if let Some(time) = &mut attempt.time
                    && time.poll_over(|| attempting.started(), cx).is_ready()
                {
                    attempt.time = None;
                    return Poll::Ready(Event::Late(index));
                }
            }
            if let Some(speaker) = self.relay.as_ref().and_then(Relay::speaker) {
                self.underway.retain(|attempt| attempt.number == speaker);
                self.next = None;
            }
            match &mut self.next {
                Some((_, pause)) => pause.as_mut().poll(cx).map(|()| Event::PauseOver),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn begin_next(&mut self) -> Option<Outcome> {
        let (permit, _) = self.next.take()?;
        match self.kept.another(self.underway.is_empty()) {
            Some(request) => {
                self.begin(Box::new(request), permit);
                None
            }
            // There is nothing more to wait for.
            None if self.underway.is_empty() => {
                Some(Err(UpstreamError::new(UpstreamErrorKind::PerTryTimeout)))
            }
            None => None,
        }
    }

    fn late(&mut self, index: usize) {
        self.attempting.way.timed_out();
        let followed = self.follow();
        if let Some(attempt) = self.underway.get_mut(index) {
            attempt.followed = followed;
        }
    }

    /// Has another attempt made after a pause, if there may be one.
    fn follow(&mut self) -> bool {
        let attempting = self.attempting;
        if self.relay.as_ref().is_some_and(Relay::has_spoken) {
            return false;
        }
        if self.retries == 0 {
            attempting.ran_out_of_retries();
            return false;
        }
        if !self.kept.is_kept() {
            return false;
        }
        let permit = match &attempting.way.limits {
            None => None,
            Some(limits) => match limits.take(Resource::Retries) {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let mut state = attempting.way.stream.state();
                    state.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                    return false;
                }
            },
        };
        self.retries -= 1;
        let pause = self.backoff.next(fastrand::f64()).unwrap_or_default();
        self.next = Some((permit, Box::pin(tokio::time::sleep(pause))));
        true
    }

    /// An attempt has ended. The outcome is the request's, unless another attempt may have a better one.
    fn ended(&mut self, index: usize, outcome: Outcome) -> Option<Outcome> {
        let attempt = self.underway.swap_remove(index);
        let outcome = self.attempting.noted(outcome);
        self.attempting.trace_outcome(&outcome);
        let again = self
            .attempting
            .asks_for_another(&outcome, self.relay.as_ref());
        let others = !self.underway.is_empty() || self.next.is_some();
        if attempt.followed && others && (again || outcome.is_err()) {
            return None;
        }
        if again && !attempt.followed {
            if let Ok(response) = &outcome {
                self.backoff.answered(response.headers(), SystemTime::now());
            }
            if self.follow() || (outcome.is_err() && others) {
                return None;
            }
        }
        if outcome.is_err() && others {
            return None;
        }
        self.give(attempt.host);
        Some(outcome)
    }

    /// The request's upstream is the one whose answer is given.
    fn give(&self, host: Option<SocketAddr>) {
        let mut state = self.attempting.way.stream.state();
        let is_last = state.upstream.as_ref().map(|last| last.host) == host;
        let earlier = state.earlier_upstreams.iter();
        if !is_last && let Some(place) = earlier.rev().position(|u| Some(u.host) == host) {
            let place = state.earlier_upstreams.len() - 1 - place;
            let given = state.earlier_upstreams.remove(place);
            let last = state.upstream.replace(given);
            state.earlier_upstreams.extend(last);
        }
    }
}
