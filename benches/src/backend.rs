//! The backend of the benchmark: a cheap HTTP/1.1 server, plain and inside HBONE tunnels, 1 KiB an answer to a
//! request that was read to its end. It counts connections, and tunnels as such.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::server::{self, ServerOptions};
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::Failure;

static BODY: [u8; 1024] = [b'x'; 1024];
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Where the number of connections so far is told, the asker's own included.
pub(crate) const COUNT: &str = "/connections";

/// Serves until the process ends.
pub(crate) async fn run(http: SocketAddr, hbone: SocketAddr, certs: &Path) -> Result<(), Failure> {
    let plain = TcpListener::bind(http).await?;
    let tunnels = TcpListener::bind(hbone).await?;
    let tls = Tls::new(
        Some(WorkloadCertificate::load(certs)?),
        TrustDomains::default(),
    );
    tokio::spawn(async move {
        while let Ok((tcp, _)) = tunnels.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let options = ServerOptions {
                    max_concurrent_streams: 1000,
                    ..ServerOptions::default()
                };
                let Ok(connection) = server::accept(tcp, &tls, &options).await else {
                    return;
                };
                let serve = |request: server::TunnelRequest| {
                    tokio::spawn(async move {
                        if let Ok(tunnel) = request.accept(HeaderMap::new()) {
                            answer(tunnel).await;
                        }
                    });
                };
                connection.serve(std::future::pending(), serve).await;
            });
        }
    });
    loop {
        let (tcp, _) = plain.accept().await?;
        let _ = tcp.set_nodelay(true);
        tokio::spawn(answer(tcp));
    }
}

async fn answer(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(|request: Request<Incoming>| async {
        let body = if request.uri().path() == COUNT {
            CONNECTIONS.load(Ordering::Relaxed).to_string().into()
        } else {
            Bytes::from_static(&BODY)
        };
        let mut incoming = request.into_body();
        while let Some(Ok(_)) = incoming.frame().await {}
        Ok::<_, Infallible>(Response::new(Full::new(body)))
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .await;
}
