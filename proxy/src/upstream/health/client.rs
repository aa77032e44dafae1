//! The connections of checks, which a next one may use again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::uri::Authority;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waypoint_config::model::active_health::CheckOutcome;
use waypoint_config::model::cluster::upstream_http2::UpstreamHttp2;
use waypoint_filters::service::body::Body;

use crate::upstream::connection::h2::H2Connection;
use crate::upstream::dial::leg::Speaks;
use crate::upstream::dial::upstream_io::UpstreamIo;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::health::check::Check;

/// What is read of an answer's head at most.
const MAX_HEAD: usize = 64 * 1024;

/// A connection, and what is spoken on it.
pub(super) enum Client {
    Http(HttpClient),
    Tcp(Box<UpstreamIo>),
}

/// One that speaks HTTP.
pub(super) enum HttpClient {
    Http1(http1::SendRequest<Body>),
    Http2(H2Connection),
}

/// What came of asking, and the connection, if it may be used again. The error: nothing came of it.
pub(super) type Answered = Result<(CheckOutcome, Option<Client>), UpstreamError>;

/// Sends a request, on the connection of the last check if that is still open.
pub(super) async fn exchange(
    check: &Check<'_>,
    name: &str,
    http2: bool,
    client: Option<HttpClient>,
    request: impl Fn() -> Request<Body>,
) -> Result<(HttpClient, Response<Body>), UpstreamError> {
    if let Some(mut client) = client.filter(|client| client.is_of(http2)) {
        match client.send(request()).await {
            Ok(response) => return Ok((client, response)),
            // The endpoint had closed it meanwhile.
            Err(error) if error.unsent.is_some() => {}
            Err(error) => return Err(error),
        }
    }
    let speaks = if http2 { Speaks::Http2 } else { Speaks::Http1 };
    let dialled = check.connect(Some(&host_of(name)), speaks).await?;
    let generation = check.shared.upstreams.generation();
    let mut client = if http2 {
        // One check at a time: streams and PINGs are the requests' matter.
        let (settings, nobody) = (UpstreamHttp2::default(), Arc::default());
        let now = Instant::now();
        let connection = H2Connection::handshake(dialled, settings, &nobody, generation, now);
        HttpClient::Http2(connection.await?)
    } else {
        let mut builder = http1::Builder::new();
        let handshake = builder
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(dialled.io));
        let (sender, driver) = handshake.await.map_err(|error| UpstreamError::of(&error))?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        HttpClient::Http1(sender)
    };
    let response = client.send(request()).await?;
    Ok((client, response))
}

impl HttpClient {
    fn is_of(&self, http2: bool) -> bool {
        matches!(self, HttpClient::Http2(_)) == http2
    }

    async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        match self {
            HttpClient::Http1(sender) => {
                let sent = sender.try_send_request(request).await;
                let answer = sent.map(|answer| answer.map(Body::incoming));
                answer.map_err(|mut failed| match failed.take_message() {
                    Some(unsent) => UpstreamError::new(UpstreamErrorKind::Terminated)
                        .with_unsent(Some(Box::new(unsent))),
                    None => UpstreamError::of(failed.error()),
                })
            }
            HttpClient::Http2(connection) => {
                let answer = connection.send(Box::new(request)).await?;
                Ok(answer.map(Body::received))
            }
        }
    }

    /// Whether it takes another request, after an answer with these headers.
    pub(super) async fn stays_open(&mut self, headers: &http::HeaderMap) -> bool {
        match self {
            HttpClient::Http1(sender) => {
                let closes = headers
                    .get_all(http::header::CONNECTION)
                    .iter()
                    .any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
                !closes && sender.ready().await.is_ok()
            }
            HttpClient::Http2(connection) => !connection.is_closed(),
        }
    }
}

/// The name without its port.
fn host_of(name: &str) -> Cow<'_, str> {
    match Authority::try_from(name) {
        Ok(authority) => authority.host().to_owned().into(),
        Err(_) => name.into(),
    }
}
