//! Upgraded exchanges (websocket): after a 101 the two connections carry bytes.
//!
//! The router leaves both ends in the response; the exchange joins them when the response has passed the
//! filters, and keeps the stream's record open until they have ended.

use http::StatusCode;
use waypoint_filters::stream::direction::Direction;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_hbone::tunnel::copy::{Copied, CopyError, copy};

use crate::downstream::http::record::RecordGuard;
use crate::downstream::http::stream_clock::{StreamClock, StreamOver};
use crate::lifecycle::drain::Watch;
use crate::upstream::exchange::agreed_upgrade::{Agreed, Ends};

/// Carries bytes between the two ends until they have ended, or it is over: then `cut` is called, for the downstream stream must
/// not look finished. `guard` records it.
pub(crate) fn join(
    agreed: &Agreed,
    mut guard: RecordGuard,
    drain: Watch,
    clock: Option<Box<StreamClock>>,
    cut: impl FnOnce() + Send + 'static,
) {
    let Some(Ends {
        downstream,
        upstream,
        active,
        stream,
    }) = agreed.take()
    else {
        return;
    };
    tokio::spawn(async move {
        let _active = (active, stream);
        let (Some(mut downstream), Some(mut upstream)) =
            (downstream.open().await, upstream.open().await)
        else {
            return;
        };
        let copied = Copied::default();
        let connection = guard.stream.connection.clone();
        let idle = clock.as_ref().and_then(|clock| clock.idle());
        let mut clock = clock.map(StreamClock::without_idle);
        let over = async {
            match &mut clock {
                Some(clock) => clock.over().await,
                None => std::future::pending().await,
            }
        };
        let is_over = |over: StreamOver| {
            let mut state = guard.stream.state();
            state.flags.insert(over.flags());
            state.response_code_details = Some(over.details().into());
        };
        let ended = tokio::select! {
            ended = copy(&mut downstream, &mut upstream, &copied, idle) => match ended {
                Ok(()) => true,
                Err(CopyError::Idle(_)) => {
                    cut();
                    is_over(StreamOver::Idle);
                    true
                }
                Err(CopyError::Stream(..)) => false,
            },
            over = over => {
                cut();
                is_over(over);
                true
            }
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
