//! Connections to the HBONE port that haven't proven yet who they are.
//!
//! Anybody who reaches the port can open these, so nothing about them may be scarce for others: their time runs
//! from the accept, they are counted apart from the connections of the mesh's own, the oldest makes room, and their
//! handshakes take turns.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use waypoint_filters::metrics::{CounterFamily, Gauge, MetricRegistry};
use waypoint_hbone::server::{self, AcceptError, ServerConnection, ServerOptions};
use waypoint_hbone::tls::Tls;
use waypoint_hbone::tls::tls_failure::TlsFailure;

use crate::downstream::turns::Turns;
use crate::process::places::{Bounds, Crowd, Place, Places, ToldToGo};

/// That there are too many is said once in this time.
const TELL: Duration = Duration::from_secs(10);

/// The connections.
pub(crate) struct Newcomers {
    places: Places,
    turns: Turns,
    active: Gauge,
    refused: Arc<CounterFamily>,
    told: Mutex<Option<Instant>>,
}

/// One of them.
pub(crate) struct Newcomer {
    place: Place,
    told_to_go: ToldToGo,
}

/// Why nothing came of one.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("it had to make room for others")]
    Crowded(Crowd),
    #[error(transparent)]
    Failed(#[from] AcceptError),
}

impl TurnedAway {
    fn label(&self) -> &'static str {
        match self {
            TurnedAway::Crowded(Crowd::All) => "crowded",
            TurnedAway::Crowded(Crowd::Source) => "crowded_source",
            TurnedAway::Failed(error) => error.label(),
        }
    }

    /// Whether it is worth a line in the log: who has shown no certificate may be anybody.
    fn has_shown_a_certificate(&self) -> bool {
        let TurnedAway::Failed(AcceptError::Tls(failure)) = self else {
            return false;
        };
        !matches!(
            failure,
            TlsFailure::NoPeerCertificate
                | TlsFailure::NotTls
                | TlsFailure::Io(_)
                | TlsFailure::Incompatible(_)
                | TlsFailure::Protocol(_)
        )
    }
}

impl Newcomers {
    /// Of their handshakes `at_once` are worked on at a time. `refused` counts by reason.
    pub(crate) fn new(
        bounds: Bounds,
        at_once: usize,
        metrics: &MetricRegistry,
        refused: Arc<CounterFamily>,
    ) -> Newcomers {
        let active = metrics.gauges(
            "waypoint_handshakes_active",
            "Connections to the HBONE port that haven't proven yet who they are.",
            &[],
        );
        Newcomers {
            places: Places::new(bounds),
            turns: Turns::new(at_once),
            active: active.with(&[]),
            refused,
            told: Mutex::new(None),
        }
    }

    /// One more, from there.
    pub(crate) fn enter(&self, from: SocketAddr) -> Newcomer {
        let (place, told_to_go) = self.places.enter(from.ip());
        self.count();
        if let Some(crowd) = place.crowd {
            self.tell(crowd, from);
        }
        Newcomer { place, told_to_go }
    }

    /// Sends the older half away.
    pub(crate) fn make_room(&self) {
        self.places.halve();
    }

    /// Returns when those who were sent away have gone, nearly all.
    pub(crate) async fn catch_up(&self) {
        while self.places.is_behind() {
            tokio::task::yield_now().await;
        }
    }

    /// The connection, once it has proven who it is; `None`: it was refused.
    pub(crate) async fn prove(
        &self,
        newcomer: Newcomer,
        tcp: TcpStream,
        from: SocketAddr,
        tls: &Tls,
        options: &ServerOptions,
    ) -> Option<ServerConnection> {
        let Newcomer { place, told_to_go } = newcomer;
        let proven = or_go(
            told_to_go,
            self.turns.pace(server::accept(tcp, tls, options)),
        )
        .await;
        drop(place);
        self.count();
        let refusal = match proven {
            Ok(connection) => return Some(connection),
            Err(refusal) => refusal,
        };
        self.refused.with(&[refusal.label().into()]).add(1);
        if refusal.has_shown_a_certificate() {
            tracing::warn!(source = %from, error = %refusal, "HBONE connection refused");
        } else {
            tracing::debug!(source = %from, error = %refusal, "HBONE connection refused");
        }
        None
    }

    fn count(&self) {
        self.active.set(self.places.taken() as u64);
    }

    fn tell(&self, crowd: Crowd, from: SocketAddr) {
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.is_some_and(|at| now.saturating_duration_since(at) < TELL) {
            return;
        }
        *told = Some(now);
        match crowd {
            Crowd::All => {
                tracing::warn!("too many handshakes stand half-way; the oldest are let go")
            }
            Crowd::Source => tracing::warn!(
                source = %from.ip(),
                "too many handshakes from one source stand half-way; its oldest are let go"
            ),
        }
    }
}

async fn or_go<T>(
    told_to_go: ToldToGo,
    accepting: impl Future<Output = Result<T, AcceptError>>,
) -> Result<T, TurnedAway> {
    tokio::select! {
        biased;
        crowd = told_to_go => Err(TurnedAway::Crowded(crowd)),
        accepted = accepting => Ok(accepted?),
    }
}
