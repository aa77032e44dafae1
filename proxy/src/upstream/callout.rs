//! Callouts at work: requests of filters and of the background, on the pools, limits and balancing that all requests have.
//!
//! A callout has a stream of its own, that nobody records, on a connection that there is only one of: it comes from nobody,
//! and leads to no destination of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::Semaphore;
use waypoint_config::model::cluster::ClusterSlot;
use waypoint_filters::callout::{
    Answer, CalloutCluster, CalloutError, CalloutErrorKind, CalloutFuture, CalloutLimits, Callouts,
    Content,
};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::reach::{AttemptClock, Reach, ToCluster};

/// Callouts under way at most, of everybody.
const MAX_ACTIVE: usize = 1024;

/// The way out; clones are one.
#[derive(Clone)]
pub(crate) struct UpstreamCallouts(Arc<Shared>);

struct Shared {
    reach: Arc<Reach>,
    /// What callouts come on.
    connection: Arc<Connection>,
    places: Semaphore,
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
            ended: metrics.counters(
                "waypoint_callouts_total",
                "Requests that the waypoint made by itself (mirrors), by cluster and by what came of them.",
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
        Box::pin(async move { shared.call(&*cluster, request, limits).await })
    }
}

impl Shared {
    async fn call(
        &self,
        cluster: &dyn CalloutCluster,
        request: http::Request<Content>,
        limits: CalloutLimits,
    ) -> Result<http::Response<Content>, CalloutError> {
        let outcome = match (ClusterSlot::of(cluster), self.places.try_acquire()) {
            (None, _) => Err(Failure::before(CalloutErrorKind::NoCluster)),
            (_, Err(_)) => Err(Failure::before(CalloutErrorKind::Overflow)),
            (Some(slot), Ok(_place)) => {
                let exchange = self.exchange(slot, request, limits.answer);
                let late = |_| Err(Failure::after(CalloutErrorKind::Timeout));
                let outcome = tokio::time::timeout(limits.time, exchange).await;
                outcome.unwrap_or_else(late)
            }
        };
        let result = match &outcome {
            Ok(_) => "answered",
            Err(failure) => failure.kind.name(),
        };
        let labels = [cluster.name().clone(), result.into()];
        self.ended.with(&labels).add(1);
        outcome.map_err(|failure| CalloutError {
            kind: failure.kind,
            cluster: cluster.name().clone(),
            reason: failure.reason,
            unsent: failure.unsent,
        })
    }

    async fn exchange(
        &self,
        slot: &ClusterSlot,
        request: http::Request<Content>,
        answer: Answer,
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
        let way = ToCluster::new(&self.reach, &stream, slot, cluster, clock);
        let Some(chosen) = way.choose(&[], 0) else {
            return Err(Failure::before(CalloutErrorKind::NoHealthyEndpoint));
        };
        let response = way.exchange(request.map(sent), chosen).await?;
        let (parts, body) = response.into_parts();
        let content = received(body, answer).await?;
        Ok(http::Response::from_parts(parts, content))
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
            UpstreamErrorKind::RequestTimeout | UpstreamErrorKind::PerTryTimeout => {
                CalloutErrorKind::Timeout
            }
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

    #[tokio::test]
    async fn an_answer_has_a_bound() {
        let got = received(sent(content(b"abc")), Answer::Kept { most: 2 }).await;
        assert_eq!(got.err().unwrap().kind, CalloutErrorKind::TooLarge);
    }
}
