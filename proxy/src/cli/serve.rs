//! The life of the process that runs a waypoint: from its start to the signal that ends it, or to what died.

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::run::{RunOptions, StartError, start};

/// Why it doesn't run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("signals: {0}")]
    Signals(#[from] io::Error),
}

/// Runs the waypoint until it is told to end.
pub(crate) async fn serve(options: RunOptions) -> Result<ExitCode, ServeError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let running = start(options).await?;
    tracing::info!(
        hbone = %running.hbone_addr, admin = %running.admin_addr,
        readiness = %running.readiness_addr, stats = %running.stats_addr, "ready"
    );
    let (soon, code) = tokio::select! {
        // Somebody is waiting at a terminal.
        _ = interrupt.recv() => (true, ExitCode::SUCCESS),
        _ = terminate.recv() => (false, ExitCode::SUCCESS),
        () = running.asked_to_quit() => {
            tracing::info!("asked to quit");
            running.stop().await;
            return Ok(ExitCode::SUCCESS);
        }
        what = running.died() => {
            tracing::error!(what, "ending");
            (false, ExitCode::FAILURE)
        }
    };
    tracing::info!("draining; a second signal ends at once");
    let shutdown = async move {
        match soon {
            true => running.shutdown_soon().await,
            false => running.shutdown().await,
        }
    };
    let finished = tokio::select! {
        finished = shutdown => finished,
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
    };
    if !finished {
        tracing::warn!("what was still running is cut off");
    }
    Ok(code)
}
