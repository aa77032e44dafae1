//! An inner connection of HTTP/2 with prior knowledge: each request has a task of its own.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::{Request, Response};
use pin_project_lite::pin_project;
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_filters::service::body::Body;
use waypoint_hbone::frames::allowance::Allowance;
use waypoint_hbone::frames::frame_watch::{Flood, FrameWatch};
use waypoint_hbone::io::wire::Wire;
use waypoint_hbone::messages::server::{Answering, Incoming, Said, ServerOptions, Serving};
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::exchange;
use crate::downstream::http::linger::Lingering;
use crate::downstream::http::record::RecordedBody;
use crate::downstream::http::serving::ending::{Aging, Ending, Step, last_call, poll_end};
use crate::downstream::lifetime::Lifetime;
use crate::overload::paced::Paced;
use crate::upstream::connection::informational::http2::Interim;
use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::exchange::agreed_upgrade::Promised;

/// Windows of the server side: one stalled upload must not starve the connection's other streams. A tunnel has at
/// most the connection's window in memory; where memory is short, new ones have little.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
const SHORT_STREAM_WINDOW: u32 = 32 << 10;
const SHORT_CONNECTION_WINDOW: u32 = 256 << 10;
/// Where configuration says nothing; Envoy has as many. One gRPC channel may have hundreds of streams that never end.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// Unsent bytes of one stream.
const SEND_BUFFER: usize = 64 << 10;

pub(super) async fn serve_http2(
    connection: &Arc<HttpConnection>,
    stream: TunnelStream,
    lifetime: Lifetime,
    allowance: Arc<Allowance>,
) -> Option<Flood> {
    let drain = &connection.drain;
    let owned = connection.clone();
    let (used, until_goaway) = drain.until_goaway();
    let service = move |request| {
        used.mark();
        answer(&owned, request)
    };
    let lingering = Lingering::new(stream, Some(connection.clone()));
    let (wire, gathered) = Wire::gathering(lingering);
    let (watched, flood) = FrameWatch::requests(wire, allowance);
    let watched = watched.held_by(connection.info.holder.clone());
    let options = options(&connection.first, connection.overload.is_short());
    let mut serving = Serving::new(watched, gathered, options, service);
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
            Step::Goodbye => serving.say_goodbye(),
            Step::Over => return Poll::Ready(Ok(())),
        }
        Pin::new(&mut serving).poll(cx)
    })
    .await;
    // After GOAWAY the stream ends in good order, or a reset could overtake it.
    if flood.get().is_none()
        && let Err(error) = result
    {
        connection.failed.store(true, Ordering::Relaxed);
        connection.log_end(&error);
    }
    flood.get()
}

fn options(manager: &HttpConnectionManager, short_of_memory: bool) -> ServerOptions {
    let codec = &manager.codec;
    let (stream_window, connection_window) = if short_of_memory {
        (SHORT_STREAM_WINDOW, SHORT_CONNECTION_WINDOW)
    } else {
        (STREAM_WINDOW, CONNECTION_WINDOW)
    };
    ServerOptions {
        stream_window: codec.http2_initial_stream_window.unwrap_or(stream_window),
        connection_window: codec
            .http2_initial_connection_window
            .unwrap_or(connection_window),
        max_send_buffer: SEND_BUFFER,
        max_streams: codec
            .http2_max_concurrent_streams
            .unwrap_or(MAX_CONCURRENT_STREAMS),
        max_header_list: codec.max_request_headers_bytes,
        tunnels: codec.http2_allow_connect && !manager.upgrades.is_empty(),
        keepalive: codec.http2_keepalive,
    }
}

fn answer(
    connection: &Arc<HttpConnection>,
    request: Request<Incoming>,
) -> Served<impl Future<Output = Response<RecordedBody>> + use<>> {
    let (mut head, incoming) = request.into_parts();
    let body = match incoming {
        Incoming::Body(body) => Body::received(body),
        Incoming::Tunnel(promised) => {
            head.extensions.insert(Promised::new(promised));
            Body::empty()
        }
    };
    let interim = connection.first.proxy_100_continue.then(Arc::default);
    if let Some(interim) = &interim {
        head.extensions
            .insert(Relay::to_stream(Arc::clone(interim)));
    }
    let request = Request::from_parts(head, body);
    Served {
        serving: exchange::serve(connection.clone(), request),
        connection: connection.clone(),
        interim,
        answer: None,
    }
}

pin_project! {
    /// A request that is being served.
    struct Served<F> {
        #[pin]
        serving: F,
        connection: Arc<HttpConnection>,
        // What is said before the answer.
        interim: Option<Arc<Interim>>,
        // Waits until all of that was told.
        answer: Option<Response<RecordedBody>>,
    }
}

impl<F: Future<Output = Response<RecordedBody>>> Answering for Served<F> {
    type Body = Paced<RecordedBody>;

    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Said<Self::Body>> {
        let this = self.project();
        if this.answer.is_none()
            && let Poll::Ready(answer) = this.serving.poll(cx)
        {
            *this.answer = Some(answer);
        }
        if let Some(head) = this.interim.as_ref().and_then(|interim| interim.next()) {
            return Poll::Ready(Said::Before(head));
        }
        let Some(answer) = this.answer.take() else {
            return Poll::Pending;
        };
        let holder = this.connection.info.holder.as_ref();
        Poll::Ready(Said::Answer(answer.map(|body| Paced::new(body, holder))))
    }
}
