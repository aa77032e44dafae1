//! Mirrors at work: when a request is whole, a copy of it goes to each of its route's mirrors, and nobody waits for what comes of that.
//!
//! The request itself isn't held up: its body is copied as it passes. It is copied, not kept by reference, because what is
//! kept would count as the client's, whose upload waits for what it has on its way. All copies together have a bound, and so
//! has each; a request of which there is no whole copy is not mirrored, and that is counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::route::mirror::Mirror;
use waypoint_filters::callout::{Answer, CalloutLimits, Callouts, Content};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::request_trace::RequestTrace;
use waypoint_filters::telemetry::trace::context::inject_copy;

use crate::overload::Overload;
use crate::router::deadline::TimeLimits;
use crate::upstream::exchange::agreed_upgrade::Upgrade;

/// Bytes of one request's body; Envoy's bound.
const MAX_BODY: usize = 1024 * 1024;
/// Bytes of all copies that are under way.
const MAX_HELD: usize = 16 * 1024 * 1024;
/// How long a mirror may take where the route has no limit.
const TIME: Duration = Duration::from_secs(60);

/// What mirroring takes of the process; one for all.
pub(crate) struct Mirrors {
    callouts: Arc<dyn Callouts>,
    overload: Arc<Overload>,
    room: Arc<Room>,
    dropped: Arc<CounterFamily>,
}

/// Why a request wasn't mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    /// Memory is short, or all copies together are too large.
    Memory,
    TooLarge,
    /// The request never came whole, or nobody read it to its end.
    Incomplete,
}

/// A request's copies to be.
struct Copies {
    mirrors: Arc<Mirrors>,
    to: Vec<(Arc<ClusterSlot>, http::Request<()>)>,
    time: Duration,
}

impl Mirrors {
    pub(crate) fn new(
        callouts: Arc<dyn Callouts>,
        overload: Arc<Overload>,
        metrics: &MetricRegistry,
    ) -> Arc<Mirrors> {
        Arc::new(Mirrors {
            callouts,
            overload,
            room: Arc::new(Room(AtomicUsize::new(MAX_HELD))),
            dropped: metrics.counters(
                "waypoint_mirrors_dropped_total",
                "Requests that weren't mirrored, by the mirror's cluster and by reason.",
                &["cluster", "reason"],
            ),
        })
    }

    /// Has a request copied to those of `mirrors` whose turn it is, as soon as it is whole. The request is as it goes to its
    /// own cluster.
    pub(crate) fn copy(
        self: &Arc<Self>,
        mirrors: &[Mirror],
        request: &mut http::Request<Body>,
        times: &TimeLimits,
        trace: Option<&RequestTrace>,
    ) {
        // An upgrade's request doesn't end.
        if request.extensions().get::<Upgrade>().is_some() {
            return;
        }
        let due = mirrors.iter().filter(|m| m.applies(fastrand::u64(..)));
        let to: Vec<_> = due
            .map(|mirror| {
                let mut head = head(request, mirror, times);
                if let Some(trace) = trace {
                    inject_copy(trace, fastrand::u64(1..), head.headers_mut());
                }
                (mirror.cluster.clone(), head)
            })
            .collect();
        if to.is_empty() {
            return;
        }
        let copies = Copies {
            mirrors: self.clone(),
            to,
            time: times.route.unwrap_or(TIME),
        };
        if self.overload.is_short() {
            copies.drop_for(Dropped::Memory);
        } else if request.body().is_empty() {
            copies.send(Content::default(), None);
        } else {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = Body::boxed(Copied::new(body, copies));
        }
    }
}

/// A copy's head. Whoever expects 100 gets that from the request's own cluster.
fn head(request: &http::Request<Body>, mirror: &Mirror, times: &TimeLimits) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    let headers = head.headers_mut();
    *headers = request.headers().clone();
    headers.remove(header::EXPECT);
    times.tell(headers, || Duration::ZERO);
    if mirror.marks_host
        && let Some(host) = headers.get(header::HOST).and_then(marked)
    {
        headers.insert(header::HOST, host);
    }
    head
}

/// The host with `-shadow` behind its name, before its port.
fn marked(host: &HeaderValue) -> Option<HeaderValue> {
    let host = host.to_str().ok()?;
    let marked = match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => format!("{name}-shadow:{port}"),
        _ => format!("{host}-shadow"),
    };
    HeaderValue::from_str(&marked).ok()
}

impl Copies {
    /// Sends them, each in a task of its own.
    fn send(self, content: Content, held: Option<Arc<Held>>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let limits = CalloutLimits {
            time: self.time,
            answer: Answer::Discarded,
        };
        for (cluster, head) in self.to {
            let held = held.clone();
            let request = head.map(|()| content.clone());
            let call = self.mirrors.callouts.call(cluster, request, limits);
            runtime.spawn(async move {
                let _held = held;
                if let Err(error) = call.await {
                    tracing::debug!(%error, "a request wasn't mirrored");
                }
            });
        }
    }

    fn drop_for(self, reason: Dropped) {
        let reason = match reason {
            Dropped::Memory => "memory",
            Dropped::TooLarge => "too_large",
            Dropped::Incomplete => "incomplete",
        };
        for (cluster, _) in &self.to {
            let labels = [cluster.name.clone(), reason.into()];
            self.mirrors.dropped.with(&labels).add(1);
        }
    }
}

/// Bytes that all copies may still hold.
struct Room(AtomicUsize);

/// Bytes of the room that one request's copies hold.
struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Held {
    fn grow(&mut self, bytes: usize) -> bool {
        let room = &self.room.0;
        let less = |left: usize| left.checked_sub(bytes);
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.bytes += taken.map_or(0, |_| bytes);
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A body that is copied while it passes.
struct Copied {
    body: Body,
    /// How long it is to be, where that is known.
    size: Option<u64>,
    /// `None`: the copies are sent, or there will be none.
    copy: Option<Copying>,
}

struct Copying {
    data: BytesMut,
    held: Held,
    copies: Copies,
}

impl Copied {
    fn new(body: Body, copies: Copies) -> Copied {
        Copied {
            size: body.size_hint().exact(),
            body,
            copy: Some(Copying {
                data: BytesMut::new(),
                held: Held {
                    room: copies.mirrors.room.clone(),
                    bytes: 0,
                },
                copies,
            }),
        }
    }

    fn add(&mut self, data: &[u8]) {
        let Some(copy) = &mut self.copy else { return };
        let reason = if data.len() > MAX_BODY.saturating_sub(copy.data.len()) {
            Dropped::TooLarge
        } else if !copy.held.grow(data.len()) {
            Dropped::Memory
        } else {
            copy.data.extend_from_slice(data);
            return;
        };
        self.give_up(reason);
    }

    fn give_up(&mut self, reason: Dropped) {
        if let Some(copy) = self.copy.take() {
            copy.copies.drop_for(reason);
        }
    }

    /// The request is whole.
    fn send(&mut self, trailers: Option<HeaderMap>) {
        if let Some(copy) = self.copy.take() {
            let data = copy.data.freeze();
            let content = Content { data, trailers };
            copy.copies.send(content, Some(Arc::new(copy.held)));
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let copied = self.copy.as_ref().map(|copy| copy.data.len() as u64);
        // A body that is known to be whole is not always asked for its end.
        if copied.is_some() && copied == self.size {
            self.send(None);
        }
        self.give_up(Dropped::Incomplete);
    }
}

impl http_body::Body for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.send(None),
            Poll::Ready(Some(Err(_))) => this.give_up(Dropped::Incomplete),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.add(data);
                    if this.body.is_end_stream() {
                        this.send(None);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.send(Some(trailers.clone()));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_host_keeps_its_port() {
        let marked = |host: &'static str| marked(&HeaderValue::from_static(host)).unwrap();
        assert_eq!(marked("web"), "web-shadow");
        assert_eq!(marked("web.default:80"), "web.default-shadow:80");
        // As Envoy does it.
        assert_eq!(marked("[::1]:80"), "[::1]:80-shadow");
    }

    #[test]
    fn what_copies_hold_has_a_bound_and_comes_back() {
        let room = Arc::new(Room(AtomicUsize::new(10)));
        let held = || Held {
            room: room.clone(),
            bytes: 0,
        };
        let (mut one, mut other) = (held(), held());
        assert!(one.grow(6) && !other.grow(5) && other.grow(4) && !one.grow(1));
        drop(one);
        assert!(other.grow(6));
        drop(other);
        assert_eq!(room.0.load(Ordering::Relaxed), 10);
    }
}
