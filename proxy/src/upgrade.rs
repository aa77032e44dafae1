//! Upgraded exchanges (websocket): after a 101 the two connections carry bytes.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use waypoint_filters::body::{Body, Direction};
use waypoint_filters::stream_info::StreamInfo;

use crate::upstream::body::ActiveRequest;

/// Hands the upstream's answer on, and joins the two connections if it agreed to the upgrade.
pub(crate) fn bridge(
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
    stream: Arc<StreamInfo>,
    active: ActiveRequest,
) -> Response<Body> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response.map(Body::incoming);
    }
    let upstream = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let _active = active;
        let (Ok(downstream), Ok(upstream)) = (downstream.await, upstream.await) else {
            return;
        };
        let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
        let copied = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        if let Ok((received, sent)) = copied {
            stream.count(Direction::Request, received as usize);
            stream.count(Direction::Response, sent as usize);
        }
    });
    response.map(|_| Body::empty())
}
