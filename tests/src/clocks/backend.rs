//! The backend of the stories, which takes its time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use crate::app::App;
use crate::mesh::Mesh;

use super::{RULES, UNIT};

/// The service of [`RULES`], before a backend that takes its time; both speak HTTP/2 if told so.
pub async fn service(mesh: &Mesh, http2: bool) -> (SocketAddr, Attempts) {
    mesh.describe_pod(1, "web-1", "web", false);
    let attempts = backend(SocketAddr::new(mesh.pod_ip(1), 8080), http2).await;
    let protocol = if http2 { "http2" } else { "http" };
    let port = format!("{{name: {protocol}, port: 80, targetPort: 8080}}");
    mesh.manifest("route.yaml", RULES);
    (mesh.service_with_port(1, "web", &port), attempts)
}

async fn backend(address: SocketAddr, http2: bool) -> Attempts {
    let attempts = Attempts::default();
    let owned = attempts.clone();
    App::tcp(address, move |tcp| {
        let attempts = owned.clone();
        let _ = tcp.set_nodelay(true);
        async move {
            let service = service_fn(move |request| {
                let attempts = attempts.clone();
                async move { Ok::<_, Infallible>(answer(request, &attempts).await) }
            });
            let io = TokioIo::new(tcp);
            if http2 {
                let builder = http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await;
    attempts
}

/// The heads that a backend saw.
#[derive(Clone, Default)]
pub struct Attempts(Arc<Mutex<Vec<Request<()>>>>);

impl Attempts {
    /// The header's value in each attempt of a path.
    #[must_use]
    pub fn header(&self, path: &str, name: &str) -> Vec<String> {
        let seen = self.0.lock();
        let of_path = seen.iter().filter(|request| request.uri().path() == path);
        of_path
            .map(|request| text(request, name).unwrap_or_default().to_owned())
            .collect()
    }
}

fn text<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Bytes as they come, as a body.
struct Flow(tokio::sync::mpsc::Receiver<Bytes>);

impl futures_util::Stream for Flow {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.0.poll_recv(cx);
        polled.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn answer(request: Request<Incoming>, attempts: &Attempts) -> Response<StreamBody<Flow>> {
    let units = |name: &str| text(&request, name).and_then(|v| v.parse::<u32>().ok());
    let (wait, stream, fail) = (units("x-wait"), units("x-stream"), units("x-fail"));
    let gap = units("x-gap").unwrap_or(0);
    let early = request.headers().contains_key("x-early");
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let before = {
        let mut seen = attempts.0.lock();
        let before = seen.iter().filter(|r| r.uri().path() == path).count();
        seen.push(Request::from_parts(parts, ()));
        before
    };
    let reading = tokio::spawn(body.collect());
    if !early {
        let _ = reading.await;
    }
    tokio::time::sleep(UNIT * wait.unwrap_or(0)).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let end = Instant::now() + UNIT * stream.unwrap_or(0);
        while sender.send(Bytes::from_static(b"x")).await.is_ok() && Instant::now() < end {
            tokio::time::sleep(UNIT / 10).await;
        }
        if gap > 0 {
            tokio::time::sleep(UNIT * gap).await;
            let _ = sender.send(Bytes::from_static(b"x")).await;
        }
    });
    let mut response = Response::new(StreamBody::new(Flow(receiver)));
    if (before as u32) < fail.unwrap_or(0) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
