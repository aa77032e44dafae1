//! A client of the demo together with its ztunnel: requests in tunnels, under the client's identity.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::cli::demo::DemoError;
use crate::identity::certificates::DEV_TTL;

/// Of an answer's body, at most.
const MAX_BODY: usize = 64 * 1024;
/// For one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody in the mesh.
pub(crate) struct Client {
    pub(crate) identity: Identity,
    via: SocketAddr,
    tunnels: TunnelPool,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    /// The pod that answered; `None`: the waypoint itself did.
    pub(crate) pod: Option<String>,
}

impl Client {
    /// A client with a certificate for `identity`; `via` is the waypoint.
    pub(crate) fn new(
        via: SocketAddr,
        ca: &DevCa,
        identity: Identity,
    ) -> Result<Client, DemoError> {
        let certificate = ca.mint(&identity, DEV_TTL)?.workload()?;
        let tls = Tls::new(Some(certificate), TrustDomains::default());
        Ok(Client {
            identity,
            via,
            tunnels: TunnelPool::new(tls, PoolOptions::default()),
        })
    }

    /// Sends a request to the service at `to`, in a tunnel of its own.
    pub(crate) async fn send(
        &self,
        method: Method,
        to: SocketAddr,
        host: &str,
        path: &str,
    ) -> Result<Answer, DemoError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, host)
            .body(Empty::<Bytes>::new())?;
        tokio::time::timeout(PATIENCE, self.exchange(to, request))
            .await
            .map_err(|_| format!("no answer from {to} within {PATIENCE:?}"))?
    }

    async fn exchange(
        &self,
        to: SocketAddr,
        request: Request<Empty<Bytes>>,
    ) -> Result<Answer, DemoError> {
        let tunnel = self
            .tunnels
            .connect(self.via, &to.to_string(), HeaderMap::new())
            .await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tunnel)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let pod = response
            .headers()
            .get("x-pod")
            .and_then(|pod| pod.to_str().ok());
        let pod = pod.map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await?
            .to_bytes();
        driver.abort();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).trim_end().to_owned(),
            pod,
        })
    }
}
