//! Requests that are to be upgraded, and an upgrade that the upstream agreed to, on its way through the filters to whoever joins both ends.

use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use waypoint_filters::service::body::Body;

use crate::upstream::body::ActiveRequest;
use crate::upstream::connection::h2::H2Stream;

/// A request that is to be upgraded (`websocket`); in the request's extensions for the router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade;

/// Both ends, once. Shared because extensions have to be `Clone`.
#[derive(Clone)]
pub(crate) struct Agreed(Arc<Mutex<Option<Ends>>>);

pub(crate) struct Ends {
    pub(crate) downstream: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    /// It counts as a request until both have ended.
    pub(crate) active: ActiveRequest,
    /// And as a stream of its connection, over HTTP/2.
    pub(crate) stream: Option<H2Stream>,
}

/// The upstream's 101; both ends go along.
pub(crate) fn agreed(
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
    active: ActiveRequest,
    stream: Option<H2Stream>,
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let ends = Ends {
        downstream,
        upstream,
        active,
        stream,
    };
    let mut response = response.map(|_| Body::empty());
    response
        .extensions_mut()
        .insert(Agreed(Arc::new(Mutex::new(Some(ends)))));
    response
}

impl Agreed {
    pub(crate) fn take(&self) -> Option<Ends> {
        self.0.lock().take()
    }
}
