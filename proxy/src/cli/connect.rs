//! `waypoint connect`: plays the ztunnel of a client, so that any TCP client becomes an HBONE client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use waypoint_hbone::authority::{Authority, AuthorityError};
use waypoint_hbone::certificates::certificate::{CertificateError, WorkloadCertificate};
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::tls::{Tls, TrustDomains};
use waypoint_hbone::tunnel::copy::{Copied, Socket, copy};

/// Connections carried at the same time.
const MAX_CONNECTIONS: usize = 16 * 1024;

/// Settings of `waypoint connect`.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    pub(crate) via: String,
    pub(crate) certs: PathBuf,
    pub(crate) to: String,
    pub(crate) listen: SocketAddr,
    pub(crate) source: Option<IpAddr>,
}

/// Why it doesn't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("--certs {}: {source}", dir.display())]
    Certificate {
        dir: PathBuf,
        source: CertificateError,
    },
    #[error("--via {via}: {source}")]
    Via { via: String, source: io::Error },
    #[error("--to {to}: {source}")]
    To { to: String, source: AuthorityError },
    #[error("--listen {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
}

/// Carries connections until the process ends.
pub(crate) async fn run(options: ConnectOptions) -> Result<(), ConnectError> {
    let certificate =
        WorkloadCertificate::load(&options.certs).map_err(|source| ConnectError::Certificate {
            dir: options.certs.clone(),
            source,
        })?;
    options
        .to
        .parse::<Authority>()
        .map_err(|source| ConnectError::To {
            to: options.to.clone(),
            source,
        })?;
    let via = resolve(&options.via)
        .await
        .map_err(|source| ConnectError::Via {
            via: options.via.clone(),
            source,
        })?;
    let listener =
        TcpListener::bind(options.listen)
            .await
            .map_err(|source| ConnectError::Listen {
                address: options.listen,
                source,
            })?;
    tracing::info!(
        identity = %certificate.identity(), %via, to = options.to,
        "carrying connections of {}", options.listen
    );
    let tls = Tls::new(Some(certificate), TrustDomains::default());
    let pool = TunnelPool::new(
        tls,
        PoolOptions {
            source: options.source,
            ..PoolOptions::default()
        },
    );
    let pool = Arc::new(pool);
    let to: Arc<str> = options.to.into();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let Ok((tcp, client)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (pool, to) = (pool.clone(), to.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = carry(&pool, via, &to, tcp).await {
                tracing::warn!(%client, to = &*to, "{error}");
            }
        });
    }
}

async fn resolve(name: &str) -> io::Result<SocketAddr> {
    let found = tokio::net::lookup_host(name).await?.next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address found"))
}

async fn carry(
    pool: &TunnelPool,
    via: SocketAddr,
    to: &str,
    tcp: TcpStream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _ = tcp.set_nodelay(true);
    let mut tunnel = pool.connect(via, to, HeaderMap::new()).await?;
    copy(&mut Socket::new(tcp), &mut tunnel, &Copied::default(), None).await?;
    Ok(())
}
