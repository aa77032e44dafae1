//! An inner connection of HTTP/1: hyper's, one answer at a time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use waypoint_config::model::header_case::HeaderCase;
use waypoint_filters::service::body::Body;
use waypoint_hbone::frames::allowance::Allowance;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::answering::Answering;
use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::exchange;
use crate::downstream::http::head::bytes::HeadLimits;
use crate::downstream::http::linger::Lingering;
use crate::downstream::http::record::RecordedBody;
use crate::downstream::http::request_reader::RequestReader;
use crate::downstream::http::serving::ending::{Aging, Ending, Step, last_call, poll_end};
use crate::downstream::lifetime::Lifetime;

/// Requests of a connection that are served before others have their turn. There are more at a time only of a
/// client that doesn't wait for answers.
const TURN_REQUESTS: u32 = 1;

pub(super) async fn serve_http1(
    connection: &Arc<HttpConnection>,
    stream: TunnelStream,
    lifetime: Lifetime,
    allowance: &Allowance,
) {
    let (codec, drain) = (&connection.first.codec, &connection.drain);
    let mut builder = http1::Builder::new();
    // A client that ends its direction is gone, as for Envoy: what it asked for is not finished.
    let limits = HeadLimits {
        bytes: codec.max_request_headers_bytes as usize,
        headers: codec.max_request_headers_count as usize,
        mark_expectations: connection.first.proxy_100_continue,
    };
    builder
        .half_close(false)
        .max_buf_size(buffer_size(limits))
        .title_case_headers(codec.header_case == HeaderCase::Title)
        .preserve_header_case(codec.header_case == HeaderCase::Preserved)
        .writev(true);
    if codec.max_request_headers_count != 100 {
        builder.max_headers(codec.max_request_headers_count as usize);
    }
    let turn = AtomicU32::new(0);
    let service = service_fn(|request| {
        let over = turn.fetch_add(1, Ordering::Relaxed) >= TURN_REQUESTS;
        let next = over.then(|| allowance.turn());
        answer_http1(connection.clone(), request, next)
    });
    let stream = Lingering::new(stream, Some(connection.clone()));
    let stream = RequestReader::new(stream, connection.clone(), limits);
    let mut serving = pin!(
        builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let told = async {
        drain.draining().await;
        connection.draining.store(true, Ordering::Relaxed);
        last_call(connection, drain.ending()).await;
    };
    let aging = Aging::one_by_one(lifetime);
    let mut ending = pin!(Ending::new(told, drain.over(), aging, connection.clone()));
    let mut evicted = pin!(connection.info.evicted());
    let result = std::future::poll_fn(|cx| {
        match poll_end(evicted.as_mut(), ending.as_mut(), cx) {
            Step::Stay => {}
            Step::Goodbye => serving.as_mut().graceful_shutdown(),
            Step::Over => return Poll::Ready(Ok(())),
        }
        turn.store(0, Ordering::Relaxed);
        serving.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = result {
        ended_with(connection, &error);
    }
}

/// Tells the client, too, when it is the connection's last. `turn`: what it has to wait for first.
async fn answer_http1(
    connection: Arc<HttpConnection>,
    request: Request<Incoming>,
    turn: Option<impl Future<Output = ()>>,
) -> Result<Response<RecordedBody>, std::convert::Infallible> {
    if let Some(turn) = turn {
        turn.await;
    }
    let tunnel = request.method() == Method::CONNECT;
    let answering = Answering::begin(&connection);
    let mut response = {
        let mut serving = pin!(exchange::serve(
            connection.clone(),
            request.map(Body::incoming)
        ));
        std::future::poll_fn(|cx| {
            let polled = serving.as_mut().poll(cx);
            // hyper doesn't flush whenever it has asked for the answer.
            if polled.is_pending() && connection.informational.take_fresh() {
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await
    };
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (tunnel && response.status().is_success());
    if upgraded {
        connection.switched.store(true, Ordering::Relaxed);
    }
    // A client that was waiting for 100 may send its body now, or not (RFC 9110 §10.1.1): nobody can
    // tell what its next byte means.
    let unsent_body = connection.informational.end();
    if connection.informational.is_unwritten() {
        Box::pin(connection.informational.written()).await;
    }
    let last =
        unsent_body || connection.draining.load(Ordering::Relaxed) || connection.uses.is_full();
    if last && !upgraded {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.body_mut().hold(answering);
    Ok(response)
}

/// hyper's buffer holds any head that the reader before it lets pass, and at least 8 KiB.
fn buffer_size(limits: HeadLimits) -> usize {
    limits.bytes.saturating_add(1).max(8192)
}

/// hyper has answered what it could not read; the record of it is written here.
fn ended_with(connection: &HttpConnection, error: &hyper::Error) {
    if !error.is_parse() {
        connection.failed.store(true, Ordering::Relaxed);
    }
    connection.log_end(error);
    if error.is_parse() {
        exchange::record_malformed(connection, error.is_parse_too_large());
    }
}
