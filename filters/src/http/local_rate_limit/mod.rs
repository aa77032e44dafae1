//! `envoy.filters.http.local_ratelimit`: so many requests in so much time, counted by this process alone.
//!
//! What is limited has a bucket of tokens: all requests, and those of descriptors ([`crate::http::rate_limit`]). A descriptor may leave
//! values open: each value that comes has a bucket of its own then, and of those only so many are kept. A route's settings stand
//! for the filter's, with buckets of their own. A new version of a chain begins with full ones.

mod limiter;
mod settings;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::local_rate_limit::limiter::{Limiter, Quota};
use crate::http::local_rate_limit::settings::{LOCAL_RATE_LIMIT, Settings};
use crate::http::rate_limit::descriptor::{Descriptor, RateLimit, RouteRateLimits};
use crate::http::{FilterContext, HttpFilter};
use crate::metrics::{Counter, CounterFamily};
use crate::service::local_reply::{LocalReply, is_grpc};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::response_flags::ResponseFlags;
use crate::xds::coverage::decode_any;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &LOCAL_RATE_LIMIT,
        build: |config, context| build(Settings::from_proto(&decode_any(config)?)?, context),
    },
    per_route: Some(PerRoute {
        table: &LOCAL_RATE_LIMIT,
        build: |config| {
            let settings = Settings::from_proto(&decode_any(config)?)?;
            Ok(Arc::new(Limited::new(settings)))
        },
    }),
};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// gRPC's.
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;

/// Settings, and the buckets of all connections together.
struct Limited {
    settings: Settings,
    limiter: Arc<Limiter>,
    began: Instant,
    outcomes: OnceLock<Outcomes>,
}

/// What became of requests.
struct Outcomes {
    ok: Counter,
    limited: Counter,
    enforced: Counter,
}

impl Outcomes {
    fn of(family: &CounterFamily, limit: &Arc<str>) -> Outcomes {
        let counter = |result: &str| family.with(&[limit.clone(), result.into()]);
        Outcomes {
            ok: counter("ok"),
            limited: counter("limited"),
            enforced: counter("enforced"),
        }
    }
}

impl Limited {
    fn new(settings: Settings) -> Limited {
        let limiter = Arc::new(Limiter::new(&settings, Duration::ZERO));
        Limited {
            settings,
            limiter,
            began: Instant::now(),
            outcomes: OnceLock::new(),
        }
    }
}

fn build(settings: Settings, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    let outcomes = context.host.metrics().counters(
        "waypoint_local_rate_limit_total",
        "Requests that local rate limits looked at, by what became of them: ok, limited (and let through), enforced.",
        &["limit", "result"],
    );
    let own = Arc::new(Limited::new(settings));
    let position = context.position;
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(LocalRateLimit {
            own: own.clone(),
            position,
            outcomes: outcomes.clone(),
            inner,
        })
    })))
}

struct LocalRateLimit {
    own: Arc<Limited>,
    position: usize,
    outcomes: Arc<CounterFamily>,
    inner: HttpService,
}

impl HttpCall for LocalRateLimit {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let of_route = request.per_route::<Limited>(self.position);
        let limited = of_route.unwrap_or_else(|| self.own.clone());
        let settings = &limited.settings;
        if !settings
            .enabled
            .is_some_and(|share| share.applies(fastrand::u64(..)))
        {
            return self.inner.call(request);
        }
        if let Some(explanation) = request.stream.explanation() {
            explanation.note("its rate may be limited".to_owned());
            return self.inner.call(request);
        }
        let descriptors = descriptors(settings, &mut request);
        let now = limited.began.elapsed();
        let limiter = match settings.per_connection {
            None => limited.limiter.clone(),
            Some(key) => {
                let limiter = || Limiter::new(settings, now);
                request.stream.connection.bound(key, limiter)
            }
        };
        let (allowed, quota) = limiter.admit(&descriptors, now);
        let outcomes = || Outcomes::of(&self.outcomes, &settings.name);
        let outcomes = limited.outcomes.get_or_init(outcomes);
        let quota = quota.filter(|_| settings.tells_quota);
        if allowed {
            outcomes.ok.add(1);
            return telling(self.inner.call(request), quota);
        }
        if !settings
            .enforced
            .is_some_and(|share| share.applies(fastrand::u64(..)))
        {
            outcomes.limited.add(1);
            let stream = request.stream.clone();
            settings
                .on_request
                .apply_to_request(&mut request.http, &stream);
            return telling(self.inner.call(request), quota);
        }
        outcomes.enforced.add(1);
        let grpc = match settings.as_resource_exhausted {
            true => RESOURCE_EXHAUSTED,
            false => UNAVAILABLE,
        };
        let reply = LocalReply::new(settings.status, "local_rate_limited", "local_rate_limited")
            .with_flags(ResponseFlags::RATE_LIMITED)
            .with_grpc_status(grpc);
        let stream = &request.stream;
        let mut response = reply.respond_as(stream, is_grpc(request.http.headers()));
        settings
            .on_response
            .apply_to_response(response.headers_mut(), stream);
        telling(ResponseFuture::ready(response), quota)
    }
}

/// What the request counts for.
fn descriptors(settings: &Settings, request: &mut HttpRequest) -> Vec<Descriptor> {
    if settings.descriptors.is_empty() {
        return Vec::new();
    }
    let stream = request.stream.clone();
    let of_route = match settings.own_limits.is_empty() {
        true => request
            .route()
            .and_then(|route| route.info().rate_limits.clone()),
        false => None,
    };
    let make = |limits: &[RateLimit]| -> Vec<Descriptor> {
        let limits = limits.iter();
        let of_stage = limits.filter(|limit| limit.is_of(settings.stage));
        of_stage
            .filter_map(|limit| limit.descriptor(&request.http, &stream))
            .collect()
    };
    let of_route = of_route.and_then(|limits| limits.downcast::<RouteRateLimits>().ok());
    let Some(of_route) = of_route else {
        let limits = settings.own_limits.iter();
        let made = limits.filter_map(|limit| limit.descriptor(&request.http, &stream));
        return made.collect();
    };
    let mut all = make(&of_route.of_route);
    if settings.counts_host(&of_route) {
        all.extend(make(&of_route.of_host));
    }
    all
}

/// The answer, which says what is left.
fn telling(response: ResponseFuture, quota: Option<Quota>) -> ResponseFuture {
    let Some(quota) = quota else {
        return response;
    };
    ResponseFuture::boxed(async move {
        let Ok(mut response) = response.await;
        let headers = response.headers_mut();
        for (name, value) in [
            (LIMIT, u64::from(quota.limit)),
            (REMAINING, u64::from(quota.remaining)),
            (RESET, quota.reset),
        ] {
            headers.insert(name, HeaderValue::from(value));
        }
        response
    })
}
