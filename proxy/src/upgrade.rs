//! Upgraded exchanges (websocket): after a 101 the two connections carry bytes.
//!
//! The router leaves both ends in the response; the exchange joins them when the response has passed the
//! filters, and keeps the stream's record open until they have ended.

use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use waypoint_filters::body::Body;
use waypoint_filters::direction::Direction;
use waypoint_filters::response_flags::ResponseFlags;
use waypoint_hbone::copy::{Copied, Socket, copy};

use crate::drain::Watch;
use crate::record::RecordGuard;
use crate::upstream::body::ActiveRequest;

/// Both ends of an upgrade that the upstream agreed to. Shared because extensions have to be `Clone`.
#[derive(Clone)]
pub(crate) struct Agreed(Arc<Mutex<Option<Ends>>>);

struct Ends {
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    active: ActiveRequest,
}

/// The upstream's 101; both ends go along.
pub(crate) fn agreed(
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
    active: ActiveRequest,
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let ends = Ends {
        downstream,
        upstream,
        active,
    };
    let mut response = response.map(|_| Body::empty());
    response
        .extensions_mut()
        .insert(Agreed(Arc::new(Mutex::new(Some(ends)))));
    response
}

/// Carries bytes between the two ends until they have ended, or it is over: then `cut` is called, for the downstream stream must
/// not look finished. `guard` records it.
pub(crate) fn join(
    agreed: &Agreed,
    mut guard: RecordGuard,
    drain: Watch,
    cut: impl FnOnce() + Send + 'static,
) {
    let Some(Ends {
        downstream,
        upstream,
        active,
    }) = agreed.0.lock().take()
    else {
        return;
    };
    tokio::spawn(async move {
        let _active = active;
        let (Ok(downstream), Ok(upstream)) = (downstream.await, upstream.await) else {
            return;
        };
        let mut downstream = Socket::new(TokioIo::new(downstream));
        let mut upstream = Socket::new(TokioIo::new(upstream));
        let copied = Copied::default();
        let connection = guard.stream.connection.clone();
        let ended = tokio::select! {
            ended = copy(&mut downstream, &mut upstream, &copied, None) => ended.is_ok(),
            () = drain.over() => {
                cut();
                let mut state = guard.stream.state();
                state.flags.insert(ResponseFlags::LOCAL_RESET);
                state.response_code_details = Some("waypoint_ended".into());
                false
            }
            () = connection.evicted() => {
                cut();
                false
            }
        };
        guard
            .stream
            .count(Direction::Request, copied.forward.into_inner() as usize);
        guard
            .stream
            .count(Direction::Response, copied.backward.into_inner() as usize);
        if ended {
            guard.finish(StatusCode::SWITCHING_PROTOCOLS);
        }
    });
}
