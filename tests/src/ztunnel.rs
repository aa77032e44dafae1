//! A scripted ztunnel on the client's side: mutual TLS as some identity, CONNECT, and HTTP in the tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpSocket, TcpStream};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;

use crate::hbone_stream::HboneStream;
use crate::tls::tls_over;
use crate::wait::{unless_silent, within};

pub use crate::tls::{Shown, tls};

/// So long an answer to bytes may take to begin.
const FIRST: Duration = Duration::from_secs(10);
/// And so long its next part.
const NEXT: Duration = Duration::from_millis(400);

/// A client's ztunnel with one HBONE connection.
pub struct Ztunnel {
    connection: SendRequest<Bytes>,
    driver: tokio::task::AbortHandle,
}

/// What came back for a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The header's value; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value.map_or_else(String::new, |v| {
            String::from_utf8_lossy(v.as_bytes()).into_owned()
        })
    }
}

/// How bytes in a tunnel came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// END_STREAM.
    Closed,
    /// RST_STREAM, or the connection failed.
    Reset,
    /// Open, and nothing more comes.
    Quiet,
}

/// An HTTP/1.1 connection inside a tunnel.
pub struct Http1(http1::SendRequest<Full<Bytes>>);

/// An HTTP/2 connection inside a tunnel.
#[derive(Clone)]
pub struct Http2(http2::SendRequest<Full<Bytes>>);

impl Ztunnel {
    /// Connects with this certificate.
    pub async fn connect(via: SocketAddr, certificate: &MintedCertificate) -> io::Result<Ztunnel> {
        Ztunnel::over(TcpStream::connect(via).await?, Shown::of(certificate)).await
    }

    /// Connects with a chain and a key of the story's own.
    pub async fn connect_showing(via: SocketAddr, shown: Shown<'_>) -> io::Result<Ztunnel> {
        Ztunnel::over(TcpStream::connect(via).await?, shown).await
    }

    /// Connects from this address, as a ztunnel does for its pod.
    pub async fn connect_from(
        source: IpAddr,
        via: SocketAddr,
        certificate: &MintedCertificate,
    ) -> io::Result<Ztunnel> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        Ztunnel::over(socket.connect(via).await?, Shown::of(certificate)).await
    }

    async fn over(tcp: TcpStream, certificate: Shown<'_>) -> io::Result<Ztunnel> {
        let tls = tls_over(tcp, Some(certificate), &[b"h2"]).await?;
        let (connection, mut driver) = h2::client::Builder::new()
            // As ztunnel: a tunnel that nobody reads leaves room for others on its connection.
            .initial_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(tls)
            .await
            .map_err(io::Error::other)?;
        let mut ping = driver.ping_pong().ok_or(io::ErrorKind::Other)?;
        let driver = tokio::spawn(driver).abort_handle();
        // In TLS 1.3 a server's refusal of our certificate comes after our side of the handshake.
        ping.ping(h2::Ping::opaque())
            .await
            .map_err(io::Error::other)?;
        Ok(Ztunnel { connection, driver })
    }

    /// The connection is gone, whatever its tunnels still had to say.
    pub fn kill(&self) {
        self.driver.abort();
    }

    /// How many tunnels at a time the waypoint allows on this connection.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        self.connection.current_max_send_streams()
    }

    /// Sends a CONNECT as it is.
    pub async fn send(&self, request: Request<()>) -> Result<(StatusCode, HboneStream), h2::Error> {
        let mut connection = self.connection.clone().ready().await?;
        let (response, send) = connection.send_request(request, false)?;
        let response = within("answer to CONNECT", response).await?;
        let (parts, recv) = response.into_parts();
        Ok((parts.status, HboneStream::new(send, recv)))
    }

    /// A CONNECT to this authority, with headers.
    pub async fn connect_to(
        &self,
        authority: &str,
        headers: &[(&str, &str)],
    ) -> Result<(StatusCode, HboneStream), h2::Error> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(()).unwrap()).await
    }

    /// A tunnel to this address.
    ///
    /// # Panics
    /// The waypoint doesn't grant it.
    pub async fn tunnel(&self, to: SocketAddr) -> HboneStream {
        let (status, stream) = self.connect_to(&to.to_string(), &[]).await.unwrap();
        assert_eq!(status, StatusCode::OK, "CONNECT {to}");
        stream
    }

    /// HTTP/1.1 in a new tunnel.
    pub async fn http1(&self, to: SocketAddr) -> Http1 {
        Http1::over(self.tunnel(to).await).await
    }

    /// HTTP/2 in a new tunnel.
    pub async fn http2(&self, to: SocketAddr) -> Http2 {
        Http2::over(self.tunnel(to).await).await
    }

    /// One HTTP/1.1 request in a tunnel of its own.
    pub async fn request(&self, to: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
        self.http1(to).await.send(request).await
    }

    /// GET in a tunnel of its own.
    pub async fn get(&self, to: SocketAddr, path: &str) -> Answer {
        self.request(to, get(path)).await
    }

    /// Bytes as they are into a tunnel; what comes back until it is closed, or nothing more comes. The first of it may
    /// take its time.
    pub async fn raw(&self, to: SocketAddr, bytes: &[u8]) -> String {
        self.exchange(to, bytes).await.0
    }

    /// As [`Ztunnel::raw`], and how it ended.
    pub async fn exchange(&self, to: SocketAddr, bytes: &[u8]) -> (String, End) {
        self.exchange_until_quiet(to, bytes, NEXT).await
    }

    /// As [`Ztunnel::exchange`], where the next part of an answer may be so late, and its end.
    pub async fn exchange_until_quiet(
        &self,
        to: SocketAddr,
        bytes: &[u8],
        pause: Duration,
    ) -> (String, End) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = self.tunnel(to).await;
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let mut silence = FIRST;
        let end = loop {
            match unless_silent(silence, stream.read(&mut buffer)).await {
                None => break End::Quiet,
                Some(Err(_)) => break End::Reset,
                Some(Ok(0)) => break End::Closed,
                Some(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
            }
            silence = pause;
        };
        (String::from_utf8_lossy(&answer).into_owned(), end)
    }
}

impl Http1 {
    /// HTTP/1.1 in this tunnel.
    pub async fn over(stream: HboneStream) -> Http1 {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver.with_upgrades());
        Http1(sender)
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let sent = async {
            self.0.ready().await.unwrap();
            collect(self.0.send_request(request).await.unwrap()).await
        };
        within("answer to a request", sent).await
    }

    /// Whether the other side has ended it.
    pub async fn is_over(&mut self) -> bool {
        self.0.ready().await.is_err()
    }

    /// The answer as it comes: its head first.
    pub async fn start(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        self.0.ready().await?;
        within("head of the answer", self.0.send_request(request)).await
    }
}

impl Http2 {
    /// HTTP/2 in this tunnel.
    pub async fn over(stream: HboneStream) -> Http2 {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(driver);
        Http2(sender)
    }

    /// The answer as it comes: its head first.
    pub async fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        let mut sender = self.0.clone();
        sender.ready().await?;
        within("head of the answer", sender.send_request(absolute(request))).await
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let request = absolute(request);
        let mut sender = self.0.clone();
        let sent = async {
            sender.ready().await.unwrap();
            collect(sender.send_request(request).await.unwrap()).await
        };
        within("answer to an HTTP/2 request", sent).await
    }
}

/// HTTP/2 has an authority in place of the host.
fn absolute(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_none() {
        let host = request.headers_mut().remove("host").unwrap();
        let path = request.uri().path_and_query().unwrap().clone();
        let uri = format!("http://{}{path}", host.to_str().unwrap());
        *request.uri_mut() = uri.parse().unwrap();
    }
    request
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
        trailers,
    }
}

/// GET with host `test`.
#[must_use]
pub fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path, &[])
}

/// A request without a body, host `test` unless the headers say otherwise.
#[must_use]
pub fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "test");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}
