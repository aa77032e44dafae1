//! Requests that are to be upgraded, and an upgrade that the upstream agreed to, on its way through the filters to whoever joins both ends.

use std::sync::Arc;

use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use waypoint_filters::service::body::Body;
use waypoint_hbone::tunnel::copy::{ByteStream, Socket};
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::upstream::body::ActiveRequest;
use crate::upstream::connection::h2::H2Stream;

/// A request that is to be upgraded (`websocket`); in the request's extensions for the router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade;

/// Both ends, once. Shared because extensions have to be `Clone`.
#[derive(Clone)]
pub(crate) struct Agreed(Arc<Mutex<Option<Ends>>>);

pub(crate) struct Ends {
    pub(crate) downstream: End,
    pub(crate) upstream: End,
    /// It counts as a request until both have ended.
    pub(crate) active: ActiveRequest,
    /// And as a stream of its connection, over HTTP/2.
    pub(crate) stream: Option<H2Stream>,
}

/// What becomes a stream of bytes when the answer has been sent or has come: a connection, or a stream of one.
pub(crate) enum End {
    Http1(OnUpgrade),
    Http2(TunnelStream),
    Promised(oneshot::Receiver<TunnelStream>),
}

/// The client's end over HTTP/2, once; in the request's extensions.
#[derive(Clone)]
pub(crate) struct Promised(Arc<Mutex<Option<oneshot::Receiver<TunnelStream>>>>);

impl Promised {
    pub(crate) fn new(promised: oneshot::Receiver<TunnelStream>) -> Promised {
        Promised(Arc::new(Mutex::new(Some(promised))))
    }
}

impl End {
    pub(crate) fn of_client(request: &mut Request<Body>) -> End {
        let promised = request.extensions_mut().remove::<Promised>();
        match promised.and_then(|promised| promised.0.lock().take()) {
            Some(promised) => End::Promised(promised),
            None => End::Http1(hyper::upgrade::on(request)),
        }
    }

    /// Its bytes; `None`: it has failed meanwhile.
    pub(crate) async fn open(self) -> Option<Box<dyn ByteStream + Send>> {
        Some(match self {
            End::Http1(upgrade) => Box::new(Socket::new(TokioIo::new(upgrade.await.ok()?))),
            End::Http2(stream) => Box::new(stream),
            End::Promised(promised) => Box::new(promised.await.ok()?),
        })
    }
}

/// The upstream's 101; both ends go along.
pub(crate) fn agreed<B>(
    response: Response<B>,
    downstream: End,
    upstream: End,
    active: ActiveRequest,
    stream: Option<H2Stream>,
) -> Response<Body> {
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
