//! Time limits of requests that wait for a connection, as [`clocks`](crate::clocks) tells them.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use crate::clocks::{Attempts, Exchange, UNIT, Upload, exchange, play};
use crate::wait::until;
use crate::ztunnel::{Ztunnel, request};

/// The stories of requests that wait for the one connection that there may be, until somewhat after the second unit. An
/// attempt's clock starts when it has the connection; a route's doesn't care, and the body is read meanwhile.
static PENDING: &[Exchange] = &[
    exchange(
        "/request/pending",
        &[],
        Upload::None,
        "504 whole at 1, UT response_timeout",
    ),
    exchange(
        "/request/pending-body",
        &[],
        Upload::For(0),
        "504 whole at 1, UT response_timeout",
    ),
    exchange(
        "/request/pending-upload",
        &[],
        Upload::For(1),
        "504 whole at 2, UT response_timeout",
    ),
    exchange(
        "/try/pending",
        &[],
        Upload::None,
        "200 whole at 2, - via_upstream",
    ),
    exchange(
        "/try/pending-body",
        &[],
        Upload::For(0),
        "200 whole at 2, - via_upstream",
    ),
];

/// Plays them: the service may have one connection, and somebody else has it.
///
/// # Panics
/// One is not as told.
pub async fn play_all(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    attempts: &Attempts,
    log: impl Fn() -> String,
) {
    let mut holder = ztunnel.http1(to).await;
    let holding = request(Method::GET, "/long/holder", &[("x-wait", "3")]);
    let holding = tokio::spawn(async move { holder.send(holding).await });
    until("the holder at the backend", async || {
        (!attempts.header("/long/holder", "x-wait").is_empty()).then_some(())
    })
    .await;
    // So that what ends with it is due in the middle of a unit.
    tokio::time::sleep(UNIT * 7 / 10).await;
    play(PENDING, ztunnel, to, log).await;
    assert_eq!(holding.await.unwrap().status, StatusCode::OK);
}
