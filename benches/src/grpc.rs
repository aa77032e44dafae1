//! gRPC at both ends of the benchmark: calls of one message each, and streams that a message goes up and another one down in
//! turn; and the service that lets everything pass and takes whatever it is told.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::Failure;

/// An empty message, as it goes up; and what comes down for it, 1 KiB with its length before it.
const UP: [u8; 5] = [0; 5];
static DOWN: [u8; 1024] = {
    let mut message = [b'g'; 1024];
    let length = (1024u32 - 5).to_be_bytes();
    (message[0], message[1], message[2]) = (0, length[0], length[1]);
    (message[3], message[4]) = (length[2], length[3]);
    message
};
/// Calls go here, and streams there.
const CALL: &str = "http://web/bench.Bench/Call";
const STREAM: &str = "http://web/bench.Bench/Stream";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How HTTP/2 requests with a body of a stream's are sent.
pub(crate) type StreamSender = SendRequest<Body>;

fn done() -> HeaderMap {
    HeaderMap::from_iter([(
        "grpc-status".parse().unwrap_or(http::header::WARNING),
        HeaderValue::from_static("0"),
    )])
}

fn answered(body: Body) -> Result<Response<Body>, Failure> {
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body)?)
}

fn whole(message: &'static [u8]) -> Body {
    let body = Full::new(Bytes::from_static(message));
    body.with_trailers(std::future::ready(Some(Ok(done()))))
        .boxed_unsync()
}

/// A service that lets everything pass: `CheckResponse { status: {} }`. To an exporter of logs or spans the same bytes say that
/// nothing was rejected.
pub(crate) async fn let_pass(asked: TcpListener) {
    const YES: &[u8] = &[0, 0, 0, 0, 2, 0x0a, 0];
    while let Ok((tcp, _)) = asked.accept().await {
        let _ = tcp.set_nodelay(true);
        let service = service_fn(|request: Request<Incoming>| async {
            let mut incoming = request.into_body();
            while let Some(Ok(_)) = incoming.frame().await {}
            answered(whole(YES))
        });
        let serving =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service);
        tokio::spawn(serving);
    }
}

/// The application.
pub(crate) async fn serve(listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let service = service_fn(|request: Request<Incoming>| async {
            let is_stream = request.uri().path().ends_with("/Stream");
            let mut incoming = request.into_body();
            if is_stream {
                return answered(in_turn(incoming));
            }
            while let Some(Ok(_)) = incoming.frame().await {}
            answered(whole(&DOWN))
        });
        let serving =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service);
        tokio::spawn(serving);
    }
}

/// A message for each that came, and the status at the end.
fn in_turn(incoming: Incoming) -> Body {
    let next = |came: Option<(Incoming, usize)>| async move {
        let (mut incoming, mut bytes) = came?;
        while bytes < UP.len() {
            match incoming.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                _ => return Some((Ok(Frame::trailers(done())), None)),
            }
        }
        let frame = Frame::data(Bytes::from_static(&DOWN));
        Some((Ok(frame), Some((incoming, bytes - UP.len()))))
    };
    StreamBody::new(stream::unfold(Some((incoming, 0)), next)).boxed_unsync()
}

fn request<B>(target: &str, body: B) -> Result<Request<B>, Failure> {
    Ok(Request::builder()
        .method(Method::POST)
        .uri(target)
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?)
}

/// A call, to its end.
pub(crate) async fn call(sender: &mut SendRequest<Full<Bytes>>) -> Result<(), Failure> {
    let body = Full::new(Bytes::from_static(&UP));
    let response = sender.send_request(request(CALL, body)?).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?;
    let code = answer.trailers().and_then(|t| t.get("grpc-status"));
    let good = status == StatusCode::OK && code.is_some_and(|code| code == "0");
    let length = answer.to_bytes().len();
    if !good || length != DOWN.len() {
        return Err(format!("{status}, {length} bytes").into());
    }
    Ok(())
}

/// A stream that is open.
pub(crate) struct Stream {
    up: mpsc::Sender<Bytes>,
    down: Incoming,
    came: BytesMut,
}

impl Stream {
    pub(crate) async fn open(sender: &mut StreamSender) -> Result<Stream, Failure> {
        let (up, messages) = mpsc::channel(1);
        let next = |mut messages: mpsc::Receiver<Bytes>| async move {
            let message = messages.recv().await?;
            Some((Ok(Frame::data(message)), messages))
        };
        let body = StreamBody::new(stream::unfold(messages, next)).boxed_unsync();
        let response = sender.send_request(request(STREAM, body)?).await?;
        if response.status() != StatusCode::OK {
            return Err(response.status().to_string().into());
        }
        Ok(Stream {
            up,
            down: response.into_body(),
            came: BytesMut::new(),
        })
    }

    /// A message up, and one down.
    pub(crate) async fn exchange(&mut self) -> Result<(), Failure> {
        self.up.send(Bytes::from_static(&UP)).await?;
        while self.came.len() < DOWN.len() {
            let frame = self.down.frame().await.ok_or("the stream ended")??;
            let data = frame.into_data().map_err(|_| "the stream ended")?;
            self.came.extend_from_slice(&data);
        }
        let _ = self.came.split_to(DOWN.len());
        Ok(())
    }
}
