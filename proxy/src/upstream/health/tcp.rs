//! Checks by bytes: an endpoint takes a connection, and says what is expected after what is sent.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::model::active_health::CheckOutcome;
use waypoint_config::model::cluster::health_check::tcp::TcpCheck;

use crate::upstream::dial::leg::Speaks;
use crate::upstream::dial::upstream_io::UpstreamIo;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::health::check::Check;
use crate::upstream::health::client::{Answered, Client};

/// What is kept of what an endpoint says.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) async fn ask(
    check: &Check<'_>,
    what: &TcpCheck,
    client: Option<Box<UpstreamIo>>,
) -> Answered {
    let mut io = match client {
        Some(io) => io,
        None => Box::new(check.connect(None, Speaks::Bytes).await?.io),
    };
    if what.only_connects() {
        return Ok((CheckOutcome::Passed, None));
    }
    let failed = |error: std::io::Error| {
        UpstreamError::new(UpstreamErrorKind::Terminated).because(error.to_string())
    };
    io.write_all(&what.send).await.map_err(failed)?;
    io.flush().await.map_err(failed)?;
    let mut received = Vec::new();
    while !what.is_answered_by(&received) {
        let read = io.read_buf(&mut received).await.map_err(failed)?;
        if read == 0 || received.len() > MAX_ANSWER {
            return Ok((CheckOutcome::Failed, None));
        }
    }
    Ok((CheckOutcome::Passed, Some(Client::Tcp(io))))
}
