//! The pods of the demo: each answers with its name, on its own loopback address. Pods that are marked as
//! captured by a ztunnel get one, which takes tunnels on port 15008 and hands them to the pod.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_hbone::authority::Authority;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::server::{self, ServerOptions, TunnelRequest};
use waypoint_hbone::tls::{Tls, TrustDomains};
use waypoint_hbone::tunnel::copy::{Copied, Socket, copy};

use crate::cli::demo::DemoError;
use crate::identity::certificates::DEV_TTL;

/// What was started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pods {
    pub(crate) backends: usize,
    pub(crate) captured: usize,
}

/// Starts every pod that the manifests describe; they end with the runtime.
pub(crate) async fn start(state: &ClusterState, ca: &DevCa) -> Result<Pods, DemoError> {
    let mut pods = Pods::default();
    for pod in state.pods.values() {
        for address in &pod.spec.addresses {
            for port in &pod.spec.ports {
                let at = SocketAddr::new(*address, port.number);
                let listener = bind(at, &pod.meta.name).await?;
                tokio::spawn(answer(listener, pod.meta.name.as_str().into()));
            }
            if pod.takes_hbone() {
                let identity = Identity::istio(
                    &state.mesh().trust_domain,
                    &pod.meta.namespace,
                    &pod.spec.service_account,
                )?;
                let certificate = ca.mint(&identity, DEV_TTL)?.workload()?;
                let tls = Tls::new(Some(certificate), TrustDomains::default());
                let listener = bind(
                    SocketAddr::new(*address, waypoint_hbone::PORT),
                    &pod.meta.name,
                )
                .await?;
                tokio::spawn(ztunnel(listener, tls));
                pods.captured += 1;
            }
        }
        pods.backends += 1;
    }
    Ok(pods)
}

async fn bind(address: SocketAddr, pod: &str) -> Result<TcpListener, DemoError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("pod {pod} can't listen on {address}: {error}").into())
}

/// A backend: says who it is.
async fn answer(listener: TcpListener, pod: Arc<str>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let pod = pod.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let body = format!("{pod} answers {} {}\n", request.method(), request.uri());
                let mut response = Response::new(Full::new(Bytes::from(body)));
                if let Ok(pod) = HeaderValue::from_str(&pod) {
                    response.headers_mut().insert("x-pod", pod);
                }
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        });
    }
}

/// The ztunnel before a pod.
async fn ztunnel(listener: TcpListener, tls: Tls) {
    while let Ok((tcp, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            let options = ServerOptions {
                handshake_timeout: Duration::from_secs(5),
                ..ServerOptions::default()
            };
            if let Ok(connection) = server::accept(tcp, &tls, &options).await {
                let serve = |request| {
                    tokio::spawn(deliver(request));
                };
                connection.serve(std::future::pending(), serve).await;
            }
        });
    }
}

/// Connects a tunnel to the pod that it asks for.
async fn deliver(request: TunnelRequest) {
    let to = request
        .authority()
        .parse::<Authority>()
        .ok()
        .and_then(|a| a.address());
    let Some(to) = to else {
        return request.reject(StatusCode::BAD_REQUEST, HeaderMap::new());
    };
    match TcpStream::connect(to).await {
        Ok(tcp) => {
            if let Ok(mut tunnel) = request.accept(HeaderMap::new()) {
                let _ = copy(&mut tunnel, &mut Socket::new(tcp), &Copied::default(), None).await;
            }
        }
        Err(_) => request.reject(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new()),
    }
}
