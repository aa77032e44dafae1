//! The router: the innermost service of a chain. Route → cluster → endpoint → connection → answer.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, StatusCode, header};
use waypoint_config::model::route::forward::{Forward, WeightedCluster};
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::{LocalReply, is_grpc};
use waypoint_filters::service::{HttpCall, HttpRequest, Response, ResponseFuture};
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::route::SelectedRoute;
use waypoint_filters::stream::stream_info::StreamInfo;

pub(crate) mod attempts;
pub(crate) mod deadline;
pub(crate) mod mirror;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod terminals;

use crate::router::attempts::Attempting;
use crate::router::deadline::{Deadline, TimeLimits, limited};
use crate::router::mirror::Mirrors;
use crate::upstream::agreed_upgrade::Upgrade;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
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
        let Some(selected) = request.route().cloned() else {
            let reply = LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found")
                .with_flags(ResponseFlags::NO_ROUTE);
            return ResponseFuture::ready(reply.respond(&request.stream, request.http.headers()));
        };
        request.stream.state().route = Some(selected.clone());
        ResponseFuture::boxed(act(self.0.clone(), request, selected))
    }
}

/// Does what the route says.
async fn act(ways: Arc<Ways>, request: HttpRequest, selected: Arc<dyn SelectedRoute>) -> Response {
    let HttpRequest { http, stream, .. } = request;
    let Some(route) = Route::of(&selected) else {
        return LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "", "foreign_route")
            .respond(&stream, http.headers());
    };
    let mut response = match &route.action {
        RouteAction::Forward(to) => return forward(&ways, route, to, http, stream).await,
        RouteAction::Redirect(to) => {
            let location = to.location(&http, route.matcher.prefix());
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = to.status;
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        RouteAction::DirectResponse { status, body } => {
            let mut response = http::Response::new(Body::full(body.clone()));
            *response.status_mut() = *status;
            if !body.is_empty() {
                let text = HeaderValue::from_static("text/plain");
                response.headers_mut().insert(header::CONTENT_TYPE, text);
            }
            response
        }
    };
    stream.state().response_code_details = Some("direct_response".into());
    change_response(route, None, &stream, &mut response);
    response
}

async fn forward(
    ways: &Ways,
    route: &Route,
    forward: &Forward,
    mut http: http::Request<Body>,
    stream: Arc<StreamInfo>,
) -> Response {
    let grpc = is_grpc(http.headers());
    let (slot, weighted) = forward.destinations.choose(fastrand::u64(..));
    stream.state().cluster = Some(slot.name.clone());
    let Some(cluster) = slot.cluster() else {
        return LocalReply::new(forward.cluster_not_found, "", "cluster_not_found")
            .with_flags(ResponseFlags::NO_CLUSTER)
            .respond_as(&stream, grpc);
    };
    stream.state().service = cluster.service.clone();
    let times = TimeLimits::of(forward, grpc, http.headers());
    change_request(route, forward, weighted, &stream, &mut http);
    if !forward.mirrors.is_empty() {
        ways.mirrors.copy(&forward.mirrors, &mut http, &times);
    }

    let clock = AttemptClock::new(times.attempt.is_some(), times.route.is_some());
    let attempting = Attempting {
        way: ToCluster::new(&ways.reach, &stream, slot, cluster, clock),
        retry: forward.retry.as_deref(),
        times,
        grpc,
    };
    let started = Instant::now();
    // An upgrade's request doesn't end, and no clock starts.
    let upgrade = http.extensions().get::<Upgrade>().is_some();
    let mut deadline = times.route.filter(|_| !upgrade).map(Deadline::new);
    let attempts = std::pin::pin!(attempting.run(http));
    let outcome = match &mut deadline {
        None => attempts.await,
        Some(deadline) => deadline
            .before(|| stream.request_end(), attempts)
            .await
            .unwrap_or_else(|| Err(UpstreamError::new(UpstreamErrorKind::RequestTimeout))),
    };
    match outcome {
        Ok(mut response) => {
            let millis = started.elapsed().as_millis() as u64;
            let headers = response.headers_mut();
            headers.insert(UPSTREAM_SERVICE_TIME, millis.into());
            stream
                .state()
                .response_code_details
                .get_or_insert("via_upstream".into());
            change_response(route, weighted, &stream, &mut response);
            match deadline {
                None => response,
                Some(deadline) => response.map(|body| limited(body, deadline, &stream)),
            }
        }
        Err(_) if client_left(&stream) => http::Response::new(Body::empty()),
        Err(error) => {
            let mut response = failed(&error, &stream, grpc);
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
    let reply = error.kind.reply(error.reason.as_deref(), retried);
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
