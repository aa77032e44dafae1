//! The router: the innermost service of a chain. Route → cluster → endpoint → connection → answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use waypoint_config::model::route::forward::{Forward, WeightedCluster};
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::{Local, LocalReply, is_grpc};
use waypoint_filters::service::{
    HttpCall, HttpRequest, Response, ResponseFuture, WithoutEnvoyHeaders,
};
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::route::SelectedRoute;
use waypoint_filters::stream::session::Wanted;
use waypoint_filters::stream::stream_info::StreamInfo;

pub(crate) mod attempts;
pub(crate) mod deadline;
pub(crate) mod dynamic_host;
pub(crate) mod explained;
pub(crate) mod hash_key;
pub(crate) mod hedge;
pub(crate) mod idle_body;
pub(crate) mod mirror;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod terminals;

use crate::router::attempts::Attempting;
use crate::router::deadline::{Deadline, TimeLimits, limited};
use crate::router::dynamic_host::Finding;
use crate::router::hash_key::{hash_key, set_cookies};
use crate::router::idle_body::never_idle;
use crate::router::mirror::Mirrors;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::exchange::agreed_upgrade::Upgrade;
use crate::upstream::reach::{AttemptClock, Reach, ToCluster};

const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// The router; one for the process.
#[derive(Clone)]
pub(crate) struct Router(Arc<Ways>);

/// Where the router sends what.
struct Ways {
    reach: Arc<Reach>,
    mirrors: Arc<Mirrors>,
}

impl Router {
    pub(crate) fn new(reach: Arc<Reach>, mirrors: Arc<Mirrors>) -> Router {
        Router(Arc::new(Ways { reach, mirrors }))
    }
}

impl HttpCall for Router {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        request.explain_routes();
        let Some(selected) = request.route().cloned() else {
            let reply = LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found")
                .with_flags(ResponseFlags::NO_ROUTE);
            return ResponseFuture::ready(reply.respond(&request.stream, request.http.headers()));
        };
        request.stream.state().route = Some(selected.clone());
        let HttpRequest { http, stream, .. } = request;
        ResponseFuture::boxed(act(self.0.clone(), Box::new(http), stream, selected))
    }
}

/// Does what the route says. The request is in a box: on its way to the connection it passes through a dozen futures, each of
/// which would have room for it, and be moved with it.
async fn act(
    ways: Arc<Ways>,
    http: Box<http::Request<Body>>,
    stream: Arc<StreamInfo>,
    selected: Arc<dyn SelectedRoute>,
) -> Response {
    let Some(route) = Route::of(&selected) else {
        return LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "", "foreign_route")
            .respond(&stream, http.headers());
    };
    if stream.explanation().is_none() {
        route.taken.fetch_add(1, Ordering::Relaxed);
    }
    let mut response = match &route.action {
        RouteAction::Forward(to) => return forward(&ways, route, to, http, stream).await,
        RouteAction::Redirect(to) => {
            let location = to.location(&http, route.matcher.prefix());
            let mut response = answer(to.status, &Bytes::new(), &http, &stream);
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        RouteAction::DirectResponse(own) => answer(own.status, &own.body, &http, &stream),
    };
    change_response(route, None, &stream, &mut response);
    response
}

/// The answer that a route gives itself; gRPC's, where gRPC asks.
fn answer(
    status: StatusCode,
    body: &Bytes,
    request: &http::Request<Body>,
    stream: &StreamInfo,
) -> Response {
    const DETAILS: &str = "direct_response";
    if is_grpc(request.headers()) {
        let text = String::from_utf8_lossy(body).into_owned();
        return LocalReply::new(status, text, DETAILS).respond_as(stream, true);
    }
    stream.state().response_code_details = Some(DETAILS.into());
    let mut response = http::Response::new(Body::full(body.clone()));
    *response.status_mut() = status;
    response.extensions_mut().insert(Local {
        status,
        body: body.clone(),
    });
    if !body.is_empty() {
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    response
}

async fn forward(
    ways: &Ways,
    route: &Route,
    forward: &Forward,
    mut http: Box<http::Request<Body>>,
    stream: Arc<StreamInfo>,
) -> Response {
    let grpc = is_grpc(http.headers());
    let session = stream
        .state()
        .session
        .as_ref()
        .map(|session| session.wanted);
    let begun = match session {
        Some(Wanted::Host(host)) => forward.destinations.having(host),
        _ => None,
    };
    let (slot, weighted) = match (begun, stream.explanation()) {
        (Some(begun), explanation) => {
            if explanation.is_none() {
                forward.destinations.count(begun);
            }
            (&begun.cluster, Some(begun))
        }
        (None, None) => forward.destinations.take(fastrand::u64(..)),
        // The same answer for the same question.
        (None, Some(_)) => forward.destinations.choose(0),
    };
    stream.state().cluster = Some(slot.name.clone());
    let Some(cluster) = slot.cluster() else {
        if let Some(explanation) = stream.explanation() {
            explanation.upstream(explained::upstream(forward, &http));
        }
        return LocalReply::new(forward.cluster_not_found, "", "cluster_not_found")
            .with_flags(ResponseFlags::NO_CLUSTER)
            .respond_as(&stream, grpc);
    };
    {
        let mut state = stream.state();
        state.service = cluster.service.clone();
        if let Some(trace) = state.trace.as_mut().filter(|trace| trace.sampled) {
            trace.cluster_stat_name = cluster.stat_name.clone();
        }
    }
    let quiet = http.extensions().get::<WithoutEnvoyHeaders>().is_some();
    let times = TimeLimits::of(forward, grpc, http.headers()).told(!quiet);
    let key = hash_key(forward, &cluster, &http, &stream);
    let finding = Finding {
        hosts: &ways.reach.dynamic,
        slot,
        cluster: &cluster,
    };
    let nowhere = |reply: LocalReply| {
        let mut response = reply.respond_as(&stream, grpc);
        change_response(route, weighted, &stream, &mut response);
        response
    };
    let first = match stream.explanation() {
        None => match finding.first(&http).await {
            Ok(first) => first,
            Err(reply) => return nowhere(reply),
        },
        Some(_) => None,
    };
    change_request(route, forward, weighted, &stream, &mut http);
    if quiet {
        http.headers_mut().remove(X_ENVOY_ORIGINAL_HOST);
        http.headers_mut().remove(X_ENVOY_ORIGINAL_PATH);
    }
    if let Some(explanation) = stream.explanation() {
        explanation.upstream(explained::upstream(forward, &http));
        return http::Response::new(Body::empty());
    }
    let host = match finding.last(&http, first).await {
        Ok(host) => host,
        Err(reply) => {
            stream.state().attempts += 1;
            return nowhere(reply);
        }
    };
    if !forward.mirrors.is_empty() {
        let trace = stream.state().trace.clone();
        ways.mirrors
            .copy(&forward.mirrors, &mut http, &times, trace.as_deref());
    }

    let policy = forward.retry.as_deref();
    let policy = policy.filter(|policy| policy.has_conditions());
    let clock = AttemptClock::new(times.before_head().is_some(), times.route.is_some());
    let started = Instant::now();
    let attempting = Attempting {
        way: ToCluster::new(&ways.reach, &stream, slot, cluster, clock)
            .by_hash(key.hash)
            .for_host(host),
        retry: policy.filter(|policy| policy.is_for(&http)),
        times,
        grpc,
        has_session: session.is_some(),
        began: started,
    };
    // An upgrade's request doesn't end, and no clock starts.
    let upgrade = http.extensions().get::<Upgrade>().is_some();
    let mut deadline = times
        .route
        .filter(|_| !upgrade)
        .map(|limit| Deadline::new(limit, started));
    let hedged = forward.hedge_on_per_try_timeout && times.before_head().is_some() && !upgrade;
    let attempts = std::pin::pin!(async {
        match hedged {
            false => attempting.run(http).await,
            // Pays for itself where it is asked for. Which requests may be repeated doesn't count for what takes too long.
            true => {
                let retries = policy.map_or(0, |policy| policy.num_retries);
                Box::pin(attempting.run_hedged(http, retries)).await
            }
        }
    });
    let outcome = match &mut deadline {
        None => attempts.await,
        Some(deadline) => deadline
            .before(|| stream.request_end(), attempts)
            .await
            .unwrap_or_else(|| {
                attempting.way.timed_out();
                Err(UpstreamError::new(UpstreamErrorKind::RequestTimeout))
            }),
    };
    match outcome {
        Ok(mut response) => {
            let millis = started.elapsed().as_millis() as u64;
            let headers = response.headers_mut();
            if !quiet {
                headers.insert(UPSTREAM_SERVICE_TIME, millis.into());
            }
            stream
                .state()
                .response_code_details
                .get_or_insert("via_upstream".into());
            set_cookies(&key, &mut response);
            change_response(route, weighted, &stream, &mut response);
            // An answer to hedged attempts has no other to wait for.
            if let Some(limit) = times.idle.filter(|_| !hedged && !upgrade) {
                response = response.map(|body| never_idle(body, limit, &stream));
            }
            match deadline {
                None => response,
                Some(deadline) => response.map(|body| limited(body, deadline, &stream)),
            }
        }
        Err(_) if client_left(&stream) => http::Response::new(Body::empty()),
        Err(error) => {
            let mut response = failed(&error, &stream, grpc);
            if quiet {
                response.headers_mut().remove(OVERLOADED);
            }
            if !stream.is_malformed() {
                change_response(route, weighted, &stream, &mut response);
            }
            response
        }
    }
}

/// The answer to a request that got none.
fn failed(error: &UpstreamError, stream: &Arc<StreamInfo>, grpc: bool) -> Response {
    if stream.is_malformed() {
        return LocalReply::new(StatusCode::BAD_REQUEST, "Bad Request", "http1.codec_error")
            .closing()
            .respond_as(stream, grpc);
    }
    let retried = stream.state().attempts > 1;
    if retried && retries_ran_out(error.kind, stream) {
        stream
            .state()
            .flags
            .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    }
    stream.state().upstream_transport_failure_reason = error.reason.as_deref().map(Into::into);
    let mut reply = error.kind.reply(error.reason.as_deref(), retried);
    if error.kind == UpstreamErrorKind::NoHealthyUpstream
        && let Some(session) = &stream.state().session
        && session.strict
        && session.is_gone
    {
        reply.status = session.not_found;
    }
    let mut response = reply.respond_as(stream, grpc);
    if error.kind == UpstreamErrorKind::Overflow {
        let headers = response.headers_mut();
        headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response
}

/// Whether the number of retries is why there is no further one: not the time, and not a circuit breaker.
fn retries_ran_out(kind: UpstreamErrorKind, stream: &StreamInfo) -> bool {
    !matches!(
        kind,
        UpstreamErrorKind::RequestTimeout | UpstreamErrorKind::Overflow
    ) && !stream
        .state()
        .flags
        .intersects(ResponseFlags::UPSTREAM_OVERFLOW)
}

/// Whether the attempt failed because the request never came whole: nobody waits for an answer.
fn client_left(stream: &StreamInfo) -> bool {
    let gone = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
    stream.state().flags.intersects(gone)
}

/// The changes that a route makes to the request: headers, path, host.
fn change_request(
    route: &Route,
    forward: &Forward,
    weighted: Option<&WeightedCluster>,
    stream: &Arc<StreamInfo>,
    request: &mut http::Request<Body>,
) {
    let changes = [
        weighted.map(|w| &w.request_headers),
        Some(&route.request_headers),
    ];
    for changes in changes.into_iter().flatten().filter(|c| !c.is_empty()) {
        changes.apply_to_request(request, stream);
    }
    let host = weighted
        .and_then(|w| w.host_rewrite.as_ref())
        .or(forward.host_rewrite.as_ref());
    if let Some(host) = host {
        let headers = request.headers_mut();
        if let Some(original) = headers.insert(header::HOST, host.clone()) {
            if forward.append_x_forwarded_host {
                headers.append(X_FORWARDED_HOST, original.clone());
            }
            headers.insert(X_ENVOY_ORIGINAL_HOST, original);
        }
    }
    if let Some(rewrite) = &forward.path_rewrite
        && let Some(target) = rewrite.apply(request.uri(), route.matcher.prefix())
    {
        let original = std::mem::replace(request.uri_mut(), target);
        if let Some(value) = original
            .path_and_query()
            .and_then(|target| HeaderValue::from_str(target.as_str()).ok())
        {
            request.headers_mut().insert(X_ENVOY_ORIGINAL_PATH, value);
            let mut state = stream.state();
            state.request.original_path = Some(original.to_string().into());
            if state.request.path.is_some() {
                state.request.path = request.uri().path_and_query().cloned();
            }
        }
    }
}

/// The changes that a route makes to the response.
fn change_response(
    route: &Route,
    weighted: Option<&WeightedCluster>,
    stream: &Arc<StreamInfo>,
    response: &mut Response,
) {
    let changes = [
        weighted.map(|w| &w.response_headers),
        Some(&route.response_headers),
    ];
    for changes in changes.into_iter().flatten().filter(|c| !c.is_empty()) {
        changes.apply_to_response(response.headers_mut(), stream);
    }
}
