//! The life of an inner HTTP connection: HTTP/1.1 or HTTP/2 with prior knowledge, told by the preface.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::AsyncWriteExt;
use tokio::time::Sleep;
use waypoint_config::model::header_case::HeaderCase;
use waypoint_config::model::http::codec::Codec;
use waypoint_hbone::frames::allowance::Allowance;
use waypoint_hbone::frames::frame_watch::{Flood, FrameWatch};
use waypoint_hbone::io::wire::Wire;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::answering::Answering;
use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::exchange;
use crate::downstream::http::head::bytes::HeadLimits;
use crate::downstream::http::linger::Lingering;
use crate::downstream::http::request_reader::RequestReader;
use crate::downstream::lifetime::{Lifetime, Reason};
use crate::downstream::sniff;
use crate::lifecycle::drain::LAST_CALL;
use crate::overload::paced::Paced;

/// HTTP/2 windows of the server side: one stalled upload must not starve the connection's other streams. A tunnel has at
/// most the connection's window in memory; where memory is short, new ones have little.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
const SHORT_STREAM_WINDOW: u32 = 32 << 10;
const SHORT_CONNECTION_WINDOW: u32 = 256 << 10;
/// Where configuration says nothing.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Unsent bytes of one stream.
const SEND_BUFFER: usize = 64 << 10;
/// Requests of an HTTP/1.1 connection that are served before others have their turn. There are more at a time only of a
/// client that doesn't wait for answers.
const TURN_REQUESTS: u32 = 1;

/// Serves the connection to its end. The peer, which has this allowance, may have flooded it.
///
/// While the waypoint drains, HTTP/1.1's answers say `connection: close`, but an idle connection stays: closing it could lose
/// the request that is on its way. HTTP/2 has GOAWAY, which loses none.
pub(crate) async fn serve(
    connection: Arc<HttpConnection>,
    mut stream: TunnelStream,
    allowance: Arc<Allowance>,
) -> Option<Flood> {
    let codec = &connection.first.codec;
    let limits = &connection.first.connections;
    let mut lifetime = Lifetime::new(connection.uses.clone(), limits, fastrand::f64());
    let http2 = match codec.codec {
        Codec::Auto => tokio::select! {
            biased;
            http2 = sniff::is_http2(&mut stream) => http2,
            () = last_call(&connection, connection.drain.ending()) => return None,
            _ = lifetime.over() => return None,
        },
        Codec::Http1 => false,
        Codec::Http2 => true,
    };
    if http2 {
        serve_http2(&connection, stream, lifetime, allowance).await
    } else {
        serve_http1(&connection, stream, lifetime, &allowance).await;
        None
    }
}

/// Returns after `told`, or somewhat later if there was no request yet: the connection may have been opened for one just now.
async fn last_call(connection: &HttpConnection, told: impl Future<Output = ()>) {
    told.await;
    if connection.requests.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(LAST_CALL).await;
    }
}

async fn serve_http1(
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

async fn serve_http2(
    connection: &Arc<HttpConnection>,
    stream: TunnelStream,
    lifetime: Lifetime,
    allowance: Arc<Allowance>,
) -> Option<Flood> {
    let (codec, drain) = (&connection.first.codec, &connection.drain);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (stream_window, connection_window) = if connection.overload.is_short() {
        (SHORT_STREAM_WINDOW, SHORT_CONNECTION_WINDOW)
    } else {
        (STREAM_WINDOW, CONNECTION_WINDOW)
    };
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(codec.http2_initial_stream_window.unwrap_or(stream_window))
        .initial_connection_window_size(
            codec
                .http2_initial_connection_window
                .unwrap_or(connection_window),
        )
        .max_concurrent_streams(
            codec
                .http2_max_concurrent_streams
                .unwrap_or(MAX_CONCURRENT_STREAMS),
        )
        .max_header_list_size(codec.max_request_headers_bytes);
    if codec.http2_allow_connect && !connection.first.upgrades.is_empty() {
        builder.enable_connect_protocol();
    }
    if let Some((interval, timeout)) = codec.http2_keepalive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
    }
    let owned = connection.clone();
    let (used, until_goaway) = drain.until_goaway();
    let service = service_fn(move |request| {
        used.mark();
        answer_http2(owned.clone(), request)
    });
    let lingering = Lingering::new(stream, Some(connection.clone()));
    let (wire, gathered) = Wire::gathering(lingering);
    let (watched, flood) = FrameWatch::requests(wire, allowance);
    let watched = watched.held_by(connection.info.holder.clone());
    let mut serving = pin!(builder.serve_connection(TokioIo::new(watched), service));
    let told = last_call(connection, until_goaway);
    let aging = Aging::side_by_side(lifetime);
    let mut ending = pin!(Ending::new(told, drain.over(), aging, connection.clone()));
    let mut evicted = pin!(connection.info.evicted());
    let mut attended = false;
    let result = std::future::poll_fn(|cx| {
        if !std::mem::replace(&mut attended, true) {
            connection.delayed_failures.attended_by(cx.waker());
        }
        match poll_end(evicted.as_mut(), ending.as_mut(), cx) {
            Step::Stay => {}
            Step::Goodbye => serving.as_mut().graceful_shutdown(),
            Step::Over => return Poll::Ready(Ok(())),
        }
        gathered.poll_turn(cx, |cx| serving.as_mut().poll(cx))
    })
    .await;
    // After GOAWAY the stream ends in good order, or a reset could overtake it.
    if flood.get().is_none()
        && let Err(error) = result
    {
        ended_with(connection, &error);
    }
    flood.get()
}

pin_project! {
    /// When a connection is to end in good order: when it is told, and when it has lived long enough. And when it
    /// is over for what runs on it nevertheless. One after the other: each turn asks for few things.
    struct Ending<D, O> {
        #[pin]
        told: D,
        #[pin]
        over: O,
        aging: Aging,
        connection: Arc<HttpConnection>,
        said: bool,
    }
}

/// What becomes of a connection that has lived long enough.
struct Aging {
    lifetime: Lifetime,
    /// HTTP/2: GOAWAY tells the client, and what it has sent by then is served. h2 sends it twice: without a last stream
    /// first, and with one when the client has seen that.
    side_by_side: bool,
    /// HTTP/1: answers tell the client, and for so long one more request is taken.
    drain: Option<Pin<Box<Sleep>>>,
}

impl Aging {
    fn side_by_side(lifetime: Lifetime) -> Aging {
        Aging {
            lifetime,
            side_by_side: true,
            drain: None,
        }
    }

    fn one_by_one(lifetime: Lifetime) -> Aging {
        Aging {
            lifetime,
            side_by_side: false,
            drain: None,
        }
    }

    /// Ready when the connection is to end as soon as nothing runs on it.
    fn poll_over(&mut self, connection: &HttpConnection, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(drain) = &mut self.drain {
            return drain.as_mut().poll(cx);
        }
        let reason = ready!(self.lifetime.poll_over(cx));
        if self.side_by_side || reason == Reason::Idle {
            return Poll::Ready(());
        }
        connection.draining.store(true, Ordering::Relaxed);
        let limits = &connection.first.connections;
        if limits.only_with_an_answer {
            self.lifetime.outlives_its_age();
            return self.lifetime.poll_over(cx).map(drop);
        }
        let drain = limits.drain(fastrand::f64());
        let drain = self.drain.insert(Box::pin(tokio::time::sleep(drain)));
        drain.as_mut().poll(cx)
    }
}

/// What a connection is to do now.
enum Step {
    Stay,
    /// Said once.
    Goodbye,
    Over,
}

impl<D: Future<Output = ()>, O: Future<Output = ()>> Ending<D, O> {
    fn new(told: D, over: O, aging: Aging, connection: Arc<HttpConnection>) -> Ending<D, O> {
        Ending {
            told,
            over,
            aging,
            connection,
            said: false,
        }
    }

    fn poll_step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step {
        let this = self.project();
        if *this.said {
            return match this.over.poll(cx) {
                Poll::Ready(()) => Step::Over,
                Poll::Pending => Step::Stay,
            };
        }
        if this.told.poll(cx).is_pending() && this.aging.poll_over(this.connection, cx).is_pending()
        {
            return Step::Stay;
        }
        *this.said = true;
        // Nobody has asked for this yet: without, nothing would wake the task for it.
        match this.over.poll(cx) {
            Poll::Ready(()) => Step::Over,
            Poll::Pending => Step::Goodbye,
        }
    }
}

/// What a connection is to do now, also where its tunnel is to give up what it holds.
fn poll_end<D: Future<Output = ()>, O: Future<Output = ()>>(
    evicted: Pin<&mut impl Future<Output = ()>>,
    mut ending: Pin<&mut Ending<D, O>>,
    cx: &mut Context<'_>,
) -> Step {
    let step = match evicted.poll(cx) {
        Poll::Ready(()) => Step::Over,
        Poll::Pending => ending.as_mut().poll_step(cx),
    };
    if matches!(step, Step::Over) {
        // What is cut off must not look finished.
        ending.connection.failed.store(true, Ordering::Relaxed);
    }
    step
}

async fn answer_http2(
    connection: Arc<HttpConnection>,
    request: Request<Incoming>,
) -> Result<
    http::Response<Paced<crate::downstream::http::record::RecordedBody>>,
    std::convert::Infallible,
> {
    let info = connection.info.clone();
    let response = exchange::serve(connection, request).await;
    Ok(response.map(|body| Paced::new(body, info.holder.as_ref())))
}

/// As [`answer_http2`], for HTTP/1.1, which has one answer at a time: it tells the client when it is the connection's last.
/// `turn`: what it has to wait for first.
async fn answer_http1(
    connection: Arc<HttpConnection>,
    request: Request<Incoming>,
    turn: Option<impl Future<Output = ()>>,
) -> Result<http::Response<crate::downstream::http::record::RecordedBody>, std::convert::Infallible>
{
    if let Some(turn) = turn {
        turn.await;
    }
    let tunnel = request.method() == Method::CONNECT;
    let answering = Answering::begin(&connection);
    let mut response = {
        let mut serving = pin!(exchange::serve(connection.clone(), request));
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
    tracing::debug!(
        chain = %connection.slot.name,
        source = %connection.info.source,
        %error,
        "HTTP connection ended"
    );
    if error.is_parse() {
        exchange::record_malformed(connection, error.is_parse_too_large());
    }
}

/// Answers an HTTP client of a chain that is closed, and ends every other stream.
pub(crate) async fn serve_closed(mut stream: TunnelStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
        content-length: 55\r\nconnection: close\r\n\r\n\
        waypoint: the configuration of this service was refused";
    let first = tokio::time::timeout(
        Duration::from_secs(5),
        std::future::poll_fn(|cx| match stream.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(bytes)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }),
    )
    .await;
    if let Ok(Some(bytes)) = first
        && bytes.first().is_some_and(u8::is_ascii_uppercase)
        && !bytes.starts_with(b"PRI ")
    {
        let mut stream = Lingering::new(stream, None);
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    }
}
