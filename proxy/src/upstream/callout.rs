//! Callouts at work: requests of filters and of the background, on the pools, limits and balancing that all requests have.
//!
//! A callout has a stream of its own, that nobody records, on a connection that there is only one of: it comes from nobody,
//! and leads to no destination of its own. Whoever calls, the connection is the data path's, and its threads drive it.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_filters::callout::{
    Answer, CalloutCluster, CalloutError, CalloutErrorKind, CalloutFuture, CalloutLimits, Callouts,
    Content,
};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::reach::{AttemptClock, Reach, ToCluster};

/// Callouts under way at most, of everybody.
const MAX_ACTIVE: usize = 4096;
/// And to one cluster: who waits for a service that is stuck leaves room for those who ask others.
const MAX_OF_CLUSTER: usize = 1024;

/// The way out; clones are one.
#[derive(Clone)]
pub(crate) struct UpstreamCallouts(Arc<Shared>);

struct Shared {
    reach: Arc<Reach>,
    /// What callouts come on.
    connection: Arc<Connection>,
    places: Semaphore,
    /// Where traffic runs.
    data: Option<Handle>,
    ended: Arc<CounterFamily>,
}

/// Why a callout failed, and whether nothing of it was sent.
struct Failure {
    kind: CalloutErrorKind,
    reason: Option<String>,
    unsent: bool,
}

impl UpstreamCallouts {
    pub(crate) fn new(reach: Arc<Reach>, metrics: &MetricRegistry) -> UpstreamCallouts {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        UpstreamCallouts(Arc::new(Shared {
            reach,
            connection: Arc::new(Connection::new(nowhere, nowhere, Instant::now())),
            places: Semaphore::new(MAX_ACTIVE),
            data: Handle::try_current().ok(),
            ended: metrics.counters(
                "waypoint_callouts_total",
                "Requests that the waypoint made by itself (checks of external authorization, mirrors, keys of tokens), by cluster and by what came of them.",
                &["cluster", "result"],
            ),
        }))
    }
}

impl Callouts for UpstreamCallouts {
    fn call(
        &self,
        cluster: Arc<dyn CalloutCluster>,
        request: http::Request<Content>,
        limits: CalloutLimits,
    ) -> CalloutFuture {
        let shared = self.0.clone();
        Box::pin(async move {
            let Some(data) = shared.elsewhere() else {
                return shared.call(cluster, request, limits).await;
            };
            let name = cluster.name().clone();
            // Dropped with the future, and then nothing goes on there.
            let mut there = JoinSet::new();
            let call = async move { shared.call(cluster, request, limits).await };
            there.spawn_on(call, &data);
            match there.join_next().await {
                Some(Ok(outcome)) => outcome,
                _ => Err(CalloutError {
                    kind: CalloutErrorKind::BrokenOff,
                    cluster: name,
                    reason: None,
                    unsent: false,
                }),
            }
        })
    }
}

impl Shared {
    /// Where traffic runs, if that isn't here.
    fn elsewhere(&self) -> Option<Handle> {
        let data = self.data.as_ref()?;
        let here = Handle::try_current().map(|here| here.id());
        (here.ok() != Some(data.id())).then(|| data.clone())
    }

    async fn call(
        &self,
        cluster: Arc<dyn CalloutCluster>,
        request: http::Request<Content>,
        limits: CalloutLimits,
    ) -> Result<http::Response<Content>, CalloutError> {
        let slot = ClusterSlot::shared(cluster.clone());
        let slot = slot.as_ref();
        let places = (self.places.try_acquire(), slot.map(|slot| Place::of(slot)));
        let outcome = match (slot, places) {
            (None, _) => Err(Failure::before(CalloutErrorKind::NoCluster)),
            (_, (Err(_), _) | (_, Some(None) | None)) => {
                Err(Failure::before(CalloutErrorKind::Overflow))
            }
            (Some(slot), (Ok(_place), Some(Some(_of_cluster)))) => {
                self.exchange(slot, request, limits).await
            }
        };
        self.count(&*cluster, slot.map(|slot| &**slot), &outcome);
        outcome.map_err(|failure| CalloutError {
            kind: failure.kind,
            cluster: cluster.name().clone(),
            reason: failure.reason,
            unsent: failure.unsent,
        })
    }

    /// The host that the request is for, where the cluster leads to such.
    async fn find(
        &self,
        slot: &Arc<ClusterSlot>,
        cluster: &Cluster,
        request: &http::Request<Content>,
    ) -> Result<Option<Arc<DynamicHost>>, Failure> {
        let hosts = &self.reach.dynamic;
        let named = request.uri().authority().map(|a| a.as_str());
        let named = named.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
        let found = hosts.find(slot, cluster, named, None).await;
        found.map_err(|error| Failure {
            reason: Some(error.reason().to_owned()),
            ..Failure::before(CalloutErrorKind::NoHealthyEndpoint)
        })
    }

    async fn exchange(
        &self,
        slot: &Arc<ClusterSlot>,
        request: http::Request<Content>,
        limits: CalloutLimits,
    ) -> Result<http::Response<Content>, Failure> {
        let Some(cluster) = slot.cluster() else {
            return Err(Failure::before(CalloutErrorKind::NoCluster));
        };
        let protocol = match request.version() {
            http::Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http11,
        };
        let connection = self.connection.clone();
        let stream = StreamInfo::new(connection, protocol, Instant::now(), SystemTime::now());
        let clock = AttemptClock::default();
        // One timer for the host, the head and the body.
        let mut end = pin!(tokio::time::sleep(limits.time));
        let host = match cluster.dynamic() {
            None => None,
            Some(_) => {
                let finding = pin!(self.find(slot, &cluster, &request));
                let found = before(end.as_mut(), finding).await;
                found.ok_or_else(|| Failure::before(CalloutErrorKind::Timeout))??
            }
        };
        let way = ToCluster::new(&self.reach, &stream, slot, cluster, clock).for_host(host);
        let Some(chosen) = way.choose(&[], 0) else {
            return Err(Failure::before(CalloutErrorKind::NoHealthyEndpoint));
        };
        let late = || Failure::after(CalloutErrorKind::Timeout);
        let response = {
            let exchange = pin!(way.exchange(Box::new(request.map(sent)), chosen));
            before(end.as_mut(), exchange).await
        };
        let Some(response) = response else {
            way.timed_out();
            return Err(late());
        };
        let (parts, body) = response?.into_parts();
        let received = pin!(received(body, limits.answer));
        let content = before(end, received).await;
        Ok(http::Response::from_parts(
            parts,
            content.ok_or_else(late)??,
        ))
    }

    /// Counts what came of a callout. An answer, which is what mostly comes, takes no lock.
    fn count(
        &self,
        cluster: &dyn CalloutCluster,
        slot: Option<&ClusterSlot>,
        outcome: &Result<http::Response<Content>, Failure>,
    ) {
        let counter = |result: &str| self.ended.with(&[cluster.name().clone(), result.into()]);
        match (outcome, slot) {
            (Ok(_), Some(slot)) => {
                let answered = slot.answered_callouts.get_or_init(|| counter("answered"));
                answered.add(1);
            }
            (Ok(_), None) => counter("answered").add(1),
            (Err(failure), _) => counter(failure.kind.name()).add(1),
        }
    }
}

/// What comes of `work`, which stays where it is; `None`: the end came first.
async fn before<F: Future>(mut end: Pin<&mut Sleep>, mut work: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => end.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// One of a cluster's places.
struct Place<'a>(&'a AtomicUsize);

impl Place<'_> {
    fn of(slot: &ClusterSlot) -> Option<Place<'_>> {
        let more = |count| (count < MAX_OF_CLUSTER).then(|| count + 1);
        let taken = slot
            .callouts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(&slot.callouts))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn sent(content: Content) -> Body {
    let Some(trailers) = content.trailers else {
        return Body::full(content.data);
    };
    let data = (!content.data.is_empty()).then(|| Frame::data(content.data));
    let frames = data.into_iter().chain([Frame::trailers(trailers)]);
    let frames = frames.map(Ok::<Frame<Bytes>, BodyError>);
    Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Reads an answer's body to its end.
async fn received(mut body: Body, answer: Answer) -> Result<Content, Failure> {
    let mut data = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure {
            reason: Some(error.to_string()),
            ..Failure::after(CalloutErrorKind::BrokenOff)
        })?;
        match (frame.into_data(), answer) {
            (Ok(chunk), Answer::Kept { most }) => {
                if chunk.len() > most.saturating_sub(data.len()) {
                    return Err(Failure::after(CalloutErrorKind::TooLarge));
                }
                data.extend_from_slice(&chunk);
            }
            (Ok(_), Answer::Discarded) => {}
            (Err(frame), _) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Content {
        data: data.freeze(),
        trailers,
    })
}

impl Failure {
    /// Nothing was sent.
    fn before(kind: CalloutErrorKind) -> Failure {
        Failure {
            kind,
            reason: None,
            unsent: true,
        }
    }

    /// The endpoint may have acted on the request.
    fn after(kind: CalloutErrorKind) -> Failure {
        Failure {
            unsent: false,
            ..Failure::before(kind)
        }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Failure {
        let kind = match error.kind {
            UpstreamErrorKind::Connect | UpstreamErrorKind::ConnectTimeout => {
                CalloutErrorKind::Connect
            }
            UpstreamErrorKind::Terminated | UpstreamErrorKind::Reset => CalloutErrorKind::BrokenOff,
            UpstreamErrorKind::Refused => CalloutErrorKind::Refused,
            UpstreamErrorKind::Protocol => CalloutErrorKind::Protocol,
            UpstreamErrorKind::NoHealthyUpstream => CalloutErrorKind::NoHealthyEndpoint,
            UpstreamErrorKind::RequestTimeout
            | UpstreamErrorKind::PerTryTimeout
            | UpstreamErrorKind::PerTryIdleTimeout => CalloutErrorKind::Timeout,
            UpstreamErrorKind::Overflow => CalloutErrorKind::Overflow,
        };
        Failure {
            // What overflows does so before anything is sent.
            unsent: error.unsent.is_some() || kind == CalloutErrorKind::Overflow,
            kind,
            reason: error.reason,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn content(data: &'static [u8]) -> Content {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Content {
            data: Bytes::from_static(data),
            trailers: Some(trailers),
        }
    }

    #[tokio::test]
    async fn a_message_comes_as_it_was_sent_with_its_trailers() {
        for data in [&b""[..], b"abc"] {
            let most = data.len();
            let got = received(sent(content(data)), Answer::Kept { most }).await;
            assert_eq!(got.ok().unwrap(), content(data));
        }
        let let_go = received(sent(content(b"abc")), Answer::Discarded).await;
        assert_eq!(let_go.ok().unwrap(), content(b""));
    }

    #[test]
    fn a_cluster_has_so_many_places() {
        let slot = ClusterSlot::missing("authz");
        let mut places: Vec<_> = (0..MAX_OF_CLUSTER).map(|_| Place::of(&slot)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(Place::of(&slot).is_none());
        places.pop();
        assert!(Place::of(&slot).is_some());
    }

    #[tokio::test]
    async fn an_answer_has_a_bound() {
        let got = received(sent(content(b"abc")), Answer::Kept { most: 2 }).await;
        assert_eq!(got.err().unwrap().kind, CalloutErrorKind::TooLarge);
    }
}
