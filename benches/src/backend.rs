//! The backend of the benchmark: a cheap HTTP/1.1 server, plain, over TLS and inside HBONE tunnels, 1 KiB an answer to a
//! request that was read to its end. It counts connections, and tunnels as such. What speaks gRPC is in `grpc.rs`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;
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
use waypoint_tests::tls_server::{Pair, Speech, TlsServer};

use crate::{Failure, grpc};

static BODY: [u8; 1024] = [b'x'; 1024];
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Where the number of connections so far is told, the asker's own included.
pub(crate) const COUNT: &str = "/connections";

/// Where it listens, and what it shows.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    #[arg(long, value_delimiter = ',')]
    http: Vec<SocketAddr>,
    #[arg(long)]
    tls: SocketAddr,
    #[arg(long)]
    hbone: SocketAddr,
    #[arg(long)]
    grpc: SocketAddr,
    /// Where it takes whatever services are told or asked over gRPC.
    #[arg(long)]
    asked: SocketAddr,
    #[arg(long)]
    certs: PathBuf,
}

/// Serves until the process ends.
pub(crate) async fn run(args: BackendArgs) -> Result<(), Failure> {
    tokio::spawn(grpc::let_pass(TcpListener::bind(args.asked).await?));
    tokio::spawn(grpc::serve(TcpListener::bind(args.grpc).await?));
    let tunnels = TcpListener::bind(args.hbone).await?;
    let certificate = WorkloadCertificate::load(&args.certs)?;
    tokio::spawn(over_hbone(
        tunnels,
        Tls::new(Some(certificate), TrustDomains::default()),
    ));
    let read = |name: &str| std::fs::read_to_string(args.certs.join(name));
    let pair = Pair {
        chain: read("cert-chain.pem")?,
        key: read("key.pem")?,
    };
    let server = TlsServer::new(&pair, &Speech::default());
    tokio::spawn(over_tls(TcpListener::bind(args.tls).await?, server));
    for address in args.http {
        tokio::spawn(plain(TcpListener::bind(address).await?));
    }
    std::future::pending().await
}

async fn plain(listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        tokio::spawn(answer(tcp));
    }
}

async fn over_tls(listener: TcpListener, server: TlsServer) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            if let Some(tls) = server.secured(tcp).await {
                answer(tls).await;
            }
        });
    }
}

async fn over_hbone(listener: TcpListener, tls: Tls) {
    while let Ok((tcp, _)) = listener.accept().await {
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
