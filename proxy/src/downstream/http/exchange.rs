//! The life of a request, in phases: admit → normalize → filters (the router is the last) → respond → record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::{LocalReply, is_grpc};
use waypoint_filters::service::{ClientAddress, HttpRequest, ResponseFuture};
use waypoint_filters::stream::direction::Direction;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::route::SelectedRoute;
use waypoint_filters::stream::stream_info::{Capture, Protocol, RequestHead, StreamInfo};
use waypoint_hbone::held::holder::Exchange;

use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::head::bytes::Rejection;
use crate::downstream::http::head::prepare::EarlyAnswer;
use crate::downstream::http::head::prepare::finish;
use crate::downstream::http::head::prepare::{X_REQUEST_ID, prepare};
use crate::downstream::http::record::{RecordGuard, RecordedBody};
use crate::downstream::http::stream_clock::StreamClock;
use crate::downstream::http::upgrade;
use crate::upstream::connection::expectation;
use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::exchange::agreed_upgrade::Agreed;

const DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// Serves one request, from its head to the head of its response.
pub(crate) async fn serve(
    connection: Arc<HttpConnection>,
    request: Request<Body>,
) -> Response<RecordedBody> {
    let number = connection.requests.fetch_add(1, Ordering::Relaxed);
    let (mut opened, answer) = open(&connection, request, number);
    let response = match (answer, &mut opened.clock) {
        (Answer::Own(response), _) => response,
        (Answer::Filters(answer), None) => {
            let Ok(response) = answer.await;
            response
        }
        (Answer::Filters(answer), Some(clock)) => {
            in_time(clock, &opened.guard.stream, opened.grpc, answer).await
        }
    };
    // Respond; the record is written when the body has ended.
    respond(&connection, response, opened)
}

/// A request that waits for its answer.
struct Opened {
    manager: Arc<HttpConnectionManager>,
    guard: RecordGuard,
    head: bool,
    grpc: bool,
    clock: Option<Box<StreamClock>>,
}

/// Who answers.
enum Answer {
    /// The waypoint itself, before any filter.
    Own(waypoint_filters::service::Response),
    /// The filters, and behind them the router.
    Filters(ResponseFuture),
}

/// All that is done with a request before something is waited for. It is no part of [`serve`], whose future is moved, and is as
/// large as what it passes on.
fn open(connection: &Arc<HttpConnection>, request: Request<Body>, number: u64) -> (Opened, Answer) {
    // Admit: the current version of the chain, kept to the request's end.
    let (manager, closed) = admit(connection);
    let stream = StreamInfo::new(
        connection.info.clone(),
        protocol(request.version()),
        Instant::now(),
        SystemTime::now(),
    );
    let head = request.method() == Method::HEAD;
    let mut guard = RecordGuard::new(stream.clone(), manager.clone());
    guard.in_use = Some(connection.uses.begin());
    guard.count_wire(connection, &request, number);
    let mut opened = Opened {
        manager,
        guard,
        head,
        grpc: false,
        clock: None,
    };
    let manager = &opened.manager;
    if connection.heads.is_late(number) {
        let reply = late_head().respond(&stream, request.headers());
        return (opened, Answer::Own(reply));
    }
    let (closed, exchange) = place(connection, closed);
    opened.guard.exchange = exchange;
    let trailers = passes_trailers(connection, &stream);
    let mut request = request.map(|body| {
        let body = if trailers {
            body
        } else {
            body.without_trailers()
        };
        body.metered(&stream, Direction::Request)
    });

    if request.version() == Version::HTTP_11 && connection.first.proxy_100_continue {
        let relay = Relay::to_connection(&connection.informational, number);
        expectation::find(&mut request, &relay);
        request.extensions_mut().insert(relay);
    }
    // Normalize: one form of the head for policy, routes and upstream.
    let prepared = prepare(&mut request, manager, &stream.connection);
    if let Some(client) = request.extensions().get::<ClientAddress>() {
        stream.state().client = Some(client.0);
    }
    if let (Some(tracing), Ok(()), None) = (&manager.tracing, &prepared, &closed) {
        stream.state().trace = tracing.start(request.headers_mut());
    }
    // With what tracing marked in it; what can't be read has none, as in Envoy.
    if manager.forwarding.request_id.in_response && prepared.is_ok() {
        opened.guard.request_id = request.headers().get(X_REQUEST_ID).cloned();
    }
    capture_request(&stream, &request, manager.capture_of(&stream));
    let reply = match (closed, prepared) {
        (Some(closed), _) => Some(closed),
        (None, Err(EarlyAnswer::Reply(reply))) => Some(reply),
        (None, Err(EarlyAnswer::Redirect(to))) => {
            return (opened, Answer::Own(redirect(&to)));
        }
        (None, Ok(())) => None,
    };
    if let Some(reply) = reply {
        let response = reply.respond(&stream, request.headers());
        return (opened, Answer::Own(response));
    }

    // Filters, and behind them the router.
    // Known from the start, as in Envoy: what is denied is recorded under its route and service, too.
    let mut request = HttpRequest::new(request, stream.clone(), manager.routes.clone());
    let route = request.route().cloned();
    opened.clock = StreamClock::begin(
        &manager.streams,
        &stream,
        route.as_ref().and_then(Route::of),
        request.http.headers_mut(),
    );
    know_route(&stream, route);
    if let Some(clock) = &mut opened.clock {
        clock.listen(request.http.extensions().get::<Relay>());
        opened.grpc = is_grpc(request.http.headers());
        let body = std::mem::take(request.http.body_mut());
        *request.http.body_mut() = clock.watch(body);
    }
    let answer = manager.filters.call(request);
    (opened, Answer::Filters(answer))
}

/// The filters' answer, unless the stream is over before.
async fn in_time(
    clock: &mut StreamClock,
    stream: &StreamInfo,
    grpc: bool,
    answer: ResponseFuture,
) -> waypoint_filters::service::Response {
    match clock.before(answer).await {
        Ok(Ok(response)) => response,
        Err((over, whole)) => over.reply(whole).respond_as(stream, grpc),
    }
}

/// The route that a request has at its beginning, which names its span.
fn know_route(stream: &StreamInfo, route: Option<Arc<dyn SelectedRoute>>) {
    let mut state = stream.state();
    if let Some(trace) = state.trace.as_mut().filter(|trace| trace.sampled) {
        let of_route = |route| Route::of(route)?.operation.clone();
        trace.operation = route.as_ref().and_then(of_route);
    }
    state.route = route;
}

/// Whether trailers pass between the client and the waypoint. Over HTTP/1 that is a setting of the connection's.
fn passes_trailers(connection: &HttpConnection, stream: &StreamInfo) -> bool {
    stream.protocol == Protocol::Http2 || connection.first.codec.http1_trailers
}

/// Records a request that could not be read: it was answered 400, or 431 for a head that is too large.
pub(crate) fn record_malformed(connection: &HttpConnection, too_large: bool) {
    let rejection = *connection.rejection.lock();
    let stream = StreamInfo::new(
        connection.info.clone(),
        Protocol::Http11,
        Instant::now(),
        SystemTime::now(),
    );
    let (status, details) = match rejection {
        _ if too_large => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http1.headers_too_large",
        ),
        Some(Rejection::TwoLengths) => (
            StatusCode::BAD_REQUEST,
            "http1.content_length_and_chunked_not_allowed",
        ),
        Some(Rejection::Coding) => (StatusCode::BAD_REQUEST, "http1.invalid_transfer_encoding"),
        _ => (StatusCode::BAD_REQUEST, "http1.codec_error"),
    };
    {
        let mut state = stream.state();
        state.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        state.response_code_details = Some(details.into());
    }
    RecordGuard::new(stream, admit(connection).0).finish(status);
}

fn admit(connection: &HttpConnection) -> (Arc<HttpConnectionManager>, Option<LocalReply>) {
    match &**connection.slot.peek() {
        FilterChain::Http(manager) => (manager.clone(), None),
        FilterChain::Tcp(_) => (
            connection.first.clone(),
            Some(closed("the service's protocol has changed")),
        ),
        FilterChain::Closed(reason) => (connection.first.clone(), Some(closed(reason))),
    }
}

/// The request's place among those at work; the answer where there is none, unless there is one already.
fn place(
    connection: &HttpConnection,
    closed: Option<LocalReply>,
) -> (Option<LocalReply>, Option<Exchange>) {
    let Some(holder) = &connection.info.holder else {
        return (closed, None);
    };
    if holder.share().is_refusing() {
        return (
            closed.or_else(|| Some(connection.overload.refuse_request())),
            None,
        );
    }
    (closed, Some(holder.exchange()))
}

/// The answer to a request whose head took too long. What there is of it was never read.
fn late_head() -> LocalReply {
    LocalReply::new(
        StatusCode::REQUEST_TIMEOUT,
        "request header timeout",
        "request_header_timeout",
    )
    .closing()
}

fn closed(reason: &str) -> LocalReply {
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "waypoint: the configuration of this service was refused",
        format!("configuration_refused{{{}}}", reason.replace(' ', "_")),
    )
    .with_flags(ResponseFlags::CONFIGURATION_REFUSED)
}

fn redirect(to: &str) -> waypoint_filters::service::Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

pub(crate) fn protocol(version: Version) -> Protocol {
    match version {
        Version::HTTP_10 => Protocol::Http10,
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http11,
    }
}

/// Keeps what recorders want to know of the head, which leaves with the request.
pub(crate) fn capture_request(
    stream: &StreamInfo,
    request: &Request<Body>,
    capture: &Arc<Capture>,
) {
    stream.ask(capture);
    if !capture.of_request() {
        return;
    }
    let headers = request.headers();
    let bytes = if capture.head_sizes {
        Capture::size(headers) + line_size(request)
    } else {
        0
    };
    stream.state().request = RequestHead {
        method: Some(request.method().clone()),
        original_path: None,
        path: request.uri().path_and_query().cloned(),
        authority: headers.get(header::HOST).cloned(),
        headers: Capture::headers(&capture.request_headers, headers),
        bytes,
        wanted: Some(capture.clone()),
    };
}

/// Bytes of the request line as HTTP/2 has it: `:method`, `:path` and `:scheme` with their values, and the
/// name of `:authority` in place of `host`.
fn line_size(request: &Request<Body>) -> u64 {
    let path = request.uri().path_and_query();
    let values = request.method().as_str().len() + path.map_or(0, |path| path.as_str().len());
    (values + ":method:path:schemehttp:authority".len() - "host".len()) as u64
}

/// `head`: the request was a HEAD, whose answer has no body (RFC 9110 §9.3.2), whoever gives it. hyper sees to that over
/// HTTP/1 alone.
fn respond(
    connection: &Arc<HttpConnection>,
    response: waypoint_filters::service::Response,
    opened: Opened,
) -> Response<RecordedBody> {
    let Opened {
        manager,
        mut guard,
        head,
        clock,
        ..
    } = opened;
    let response = match &manager.local_replies {
        Some(replies) => replies.apply(response, &guard.stream),
        None => response,
    };
    let (mut parts, mut body) = response.into_parts();
    if head {
        body = body.without_own();
    }
    // The upstream's version says nothing about this connection.
    parts.version = Version::HTTP_11;
    finish(&mut parts, &manager, guard.request_id.take());
    let capture = manager.capture_of(&guard.stream);
    {
        let mut state = guard.stream.state();
        let state = &mut *state;
        if let Some(route) = state.route.as_ref().and_then(Route::of) {
            if manager.tracing.is_some() {
                name_operation(&mut parts, route);
            }
            if state.cluster.is_none()
                && let RouteAction::Forward(forward) = &route.action
            {
                // Answered before the router chose.
                let (slot, _) = forward.destinations.choose(fastrand::u64(..));
                state.cluster = Some(slot.name.clone());
                if let Some(cluster) = slot.cluster() {
                    state.service.clone_from(&cluster.service);
                    state.cluster_metadata = cluster.metadata.clone();
                }
            }
        }
        let gone = state
            .flags
            .intersects(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
        state.response.code = (!gone).then_some(parts.status.as_u16());
        state.response.first_byte = Some(Instant::now());
        let wanted = &capture.response_headers;
        if !wanted.is_empty() {
            state.response.headers = Capture::headers(wanted, &parts.headers);
        }
        if capture.head_sizes {
            state.response.bytes = Capture::size(&parts.headers) + ":status200".len() as u64;
        }
    }
    if guard.stream.protocol == Protocol::Http2 && parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // There such a request is a CONNECT (RFC 8441).
        parts.status = StatusCode::OK;
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::UPGRADE);
    }
    let body = match parts.extensions.remove::<Agreed>() {
        None => {
            let body = match clock {
                Some(clock) => clock.limit(body),
                None => body,
            };
            let trailers = passes_trailers(connection, &guard.stream);
            RecordedBody::new(body, guard, connection.delayed_failures.clone(), trailers)
        }
        Some(agreed) => {
            let cut = connection.clone();
            let cut = move || cut.failed.store(true, Ordering::Relaxed);
            upgrade::join(&agreed, guard, connection.drain.clone(), clock, cut);
            RecordedBody::unrecorded()
        }
    };
    Response::from_parts(parts, body)
}

/// Tells the client's proxy the name of the span, as Envoy does with tracing and a decorated route.
fn name_operation(response: &mut http::response::Parts, route: &Route) {
    let operation = route.operation.as_deref();
    if let Some(operation) = operation.and_then(|name| HeaderValue::from_str(name).ok()) {
        response.headers.insert(DECORATOR_OPERATION, operation);
    }
}
