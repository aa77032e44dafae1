//! A scripted application in a pod: HTTP/1.1 and HTTP/2 that remembers what it saw, or raw TCP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

type AppBody = BoxBody<Bytes, Infallible>;

/// A request as the application saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// The header's values, comma-separated; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        values.join(",")
    }
}

/// An application and what it saw.
#[derive(Clone)]
pub struct App {
    name: Arc<str>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    failing: Arc<Mutex<Option<StatusCode>>>,
}

impl App {
    /// Speaks HTTP at `address`, HTTP/2 if the client begins so. Requests say how it answers:
    /// `x-status`, `x-answer-bytes`, `x-answer-header: name=value`, `x-delay-ms`, `x-trailers`; all others
    /// get 200 and its name.
    pub async fn http(address: SocketAddr, name: &str) -> App {
        let app = App {
            name: name.into(),
            seen: Arc::default(),
            connections: Arc::default(),
            failing: Arc::default(),
        };
        let listener = TcpListener::bind(address).await.unwrap();
        let owned = app.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                *owned.connections.lock() += 1;
                tokio::spawn(owned.clone().serve(tcp));
            }
        });
        app
    }

    /// Raw TCP at `address`.
    pub async fn tcp<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp));
            }
        });
    }

    /// What it saw so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Answers everything with this status from now on; `None`: as requests say, again.
    pub fn fail(&self, status: Option<StatusCode>) {
        *self.failing.lock() = status;
    }

    /// Forgets what it saw.
    pub fn forget(&self) {
        self.seen.lock().clear();
    }

    /// What it saw last.
    ///
    /// # Panics
    /// It saw nothing.
    #[must_use]
    pub fn last(&self) -> Seen {
        self.seen
            .lock()
            .last()
            .cloned()
            .expect("the application saw no request")
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }

    async fn serve(self, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        let mut preface = [0; 3];
        let http2 = loop {
            match tcp.peek(&mut preface).await {
                Ok(0) | Err(_) => return,
                Ok(n) if n < 3 => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                Ok(_) => break &preface == b"PRI",
            }
        };
        let service = service_fn(move |request| {
            let app = self.clone();
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        let io = TokioIo::new(tcp);
        if http2 {
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await;
        } else {
            let _ = http1::Builder::new()
                .half_close(true)
                .serve_connection(io, service)
                .with_upgrades()
                .await;
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<AppBody> {
        let upgrade = request.headers().contains_key("upgrade");
        let on_upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let asked = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        let (body, trailers) = match body.collect().await {
            Ok(body) => (body.trailers().cloned(), body.to_bytes()),
            Err(_) => (None, Bytes::from_static(b"<broken>")),
        };
        let (trailers, body) = (body, trailers);
        self.seen.lock().push(Seen {
            method: parts.method.clone(),
            target: parts.uri.to_string(),
            version: parts.version,
            headers: parts.headers.clone(),
            body: body.clone(),
            trailers,
        });
        if let Some(on_upgrade) = on_upgrade {
            tokio::spawn(echo_upgraded(on_upgrade));
            return Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(BoxBody::default())
                .unwrap();
        }
        if let Some(millis) = asked("x-delay-ms").and_then(|v| v.parse().ok()) {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        }
        let bytes = match asked("x-answer-bytes").and_then(|v| v.parse().ok()) {
            Some(length) => Bytes::from(vec![b'x'; length]),
            None => Bytes::from(format!("{}\n", self.name)),
        };
        let status = asked("x-status")
            .and_then(|v| v.parse().ok())
            .unwrap_or(200);
        let failing = *self.failing.lock();
        let status = failing.unwrap_or(StatusCode::from_u16(status).unwrap());
        let mut response = Response::builder().status(status);
        response = response.header("x-app", &*self.name);
        if let Some((name, value)) = asked("x-answer-header")
            .as_deref()
            .and_then(|h| h.split_once('='))
        {
            response = response.header(name, value);
        }
        let body: AppBody = if asked("x-trailers").is_some() {
            // HTTP/1.1 has only trailers that were announced.
            response = response.header("trailer", "grpc-status");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = vec![Ok(Frame::data(bytes)), Ok(Frame::trailers(trailers))];
            BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
        } else {
            Full::new(bytes).boxed()
        };
        response.body(body).unwrap()
    }
}

async fn echo_upgraded(on_upgrade: hyper::upgrade::OnUpgrade) {
    if let Ok(upgraded) = on_upgrade.await {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    }
}
