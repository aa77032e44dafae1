//! Attacks of a peer that has a certificate of the mesh, and the second client that they must not hurt.
//!
//! An attack writes frames by hand, on an HBONE connection or inside a tunnel. [`Witness`] is a well-behaved client that
//! measures its answers all the while.

pub mod frames;
pub mod shape;
pub mod witness;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;

pub use shape::{Fate, Place, Shape, shapes};
pub use witness::{Latencies, Witness};

use crate::Ztunnel;
use crate::ztunnel::tls;

/// How an attack ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Portions that were taken.
    pub portions: usize,
    /// The other side has closed.
    pub closed: bool,
    /// The code of its GOAWAY.
    pub goaway: Option<u32>,
}

/// One connection of this shape to the waypoint at `via`, for `length` or until it is closed.
pub async fn attack(
    shape: &Shape,
    via: SocketAddr,
    certificate: &MintedCertificate,
    to: SocketAddr,
    length: Duration,
) -> io::Result<Outcome> {
    match shape.place {
        Place::Hbone => {
            let connection = tls(via, Some(certificate), &[b"h2"]).await?;
            Ok(flood(shape, connection, to, length).await)
        }
        Place::Tunnel | Place::Http1 => {
            let client = Ztunnel::connect(via, certificate).await?;
            let tunnel = client.connect_to(&to.to_string(), &[]).await;
            let (_, tunnel) = tunnel.map_err(io::Error::other)?;
            Ok(flood(shape, tunnel, to, length).await)
        }
    }
}

async fn flood<S>(shape: &Shape, stream: S, to: SocketAddr, length: Duration) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Instant::now() + length;
    let (read, mut write) = tokio::io::split(stream);
    let http1 = shape.place == Place::Http1;
    let reader = tokio::spawn(async move {
        let mut read = read;
        if http1 {
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
            return None;
        }
        frames::last_goaway(read).await
    });
    let mut outcome = Outcome::default();
    let mut failed = false;
    let mut next = shape.beginning(to);
    while !reader.is_finished() && Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, write.write_all(&next)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                failed = true;
                break;
            }
            // It is not read: there is no harm in that.
            Err(_) => break,
        }
        let _ = write.flush().await;
        next = shape.portion(to, outcome.portions);
        outcome.portions += 1;
        match shape.pause {
            Duration::ZERO => tokio::task::yield_now().await,
            pause => tokio::time::sleep(pause).await,
        }
    }
    // A reader may have more to read of a connection that is closed.
    let patience = if failed { 2000 } else { 0 };
    let abort = reader.abort_handle();
    let ended = tokio::time::timeout(Duration::from_millis(patience), reader).await;
    abort.abort();
    outcome.closed = failed || ended.is_ok();
    outcome.goaway = ended.ok().and_then(Result::ok).flatten();
    outcome
}
