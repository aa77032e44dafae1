//! The delta ADS stream: connect, subscribe, apply, answer, and again when it ends.
//!
//! istiod ends every stream after half an hour; what is configured stays meanwhile. Pauses between
//! attempts double up to [`MAX_PAUSE`], with jitter, and start again small after a stream that worked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use futures_util::stream;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use crate::resource::{ResourceType, Update};
use crate::sources::xds::channel::{ChannelError, ControlPlane};
use crate::sources::xds::delta::{DeltaSession, Received};
use crate::sources::xds::sequence::Sequence;
use crate::store::Outcome;

const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A listener for 10,000 services is tens of MB.
const MAX_MESSAGE: usize = 256 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between attempts to connect.
pub const MAX_PAUSE: Duration = Duration::from_secs(15);
/// A stream that lived this long has worked.
const WORKED: Duration = Duration::from_secs(10);

/// Who applies what comes: the store and those around it.
pub trait Sink {
    /// Applies an update in one step.
    fn apply(&mut self, update: Update) -> Outcome;
    /// The names of this type that configuration refers to now.
    fn wanted(&self, kind: ResourceType) -> BTreeSet<String>;
    /// The stream began, or ended and why.
    fn connected(&mut self, state: Result<(), &AdsError>);
}

/// Why a stream ended. Another may work.
#[derive(Debug, thiserror::Error)]
pub enum AdsError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("istiod at {address}: {status}")]
    Status {
        address: String,
        status: Box<Status>,
    },
    #[error("istiod at {0} closed the stream")]
    Closed(String),
}

/// A client for one istiod.
pub struct AdsClient {
    plane: ControlPlane,
    session: DeltaSession,
    sequence: Sequence,
}

/// One stream's sending half.
struct Sender(mpsc::UnboundedSender<DeltaDiscoveryRequest>);

impl Sender {
    /// Requests answer responses one to one and are small, so what waits here is bounded by what istiod
    /// sends. A stream that has ended takes none.
    fn send(&self, request: DeltaDiscoveryRequest) {
        let _ = self.0.send(request);
    }
}

impl AdsClient {
    pub fn new(plane: ControlPlane, node: Node) -> AdsClient {
        AdsClient {
            plane,
            session: DeltaSession::new(node),
            sequence: Sequence::default(),
        }
    }

    /// Keeps a stream open for ever. `random` gives numbers in 0..1 for the jitter.
    pub async fn run(mut self, sink: &mut impl Sink, random: impl Fn() -> f64) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let error = match self.stream(sink).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            sink.connected(Err(&error));
            if started.elapsed() >= WORKED {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn stream(&mut self, sink: &mut impl Sink) -> Result<std::convert::Infallible, AdsError> {
        let (sender, mut responses) = self.open().await?;
        sink.connected(Ok(()));
        self.sequence.restart();
        loop {
            let deadline = self.sequence.deadline();
            let response = tokio::select! {
                response = responses.message() => response.map_err(|status| self.failed(status))?,
                () = until(deadline) => {
                    let (held, removals) = self.sequence.expire(Instant::now());
                    for received in held {
                        self.apply(received, sink, &sender);
                    }
                    self.remove(removals, sink, &sender);
                    continue;
                }
            };
            let response = response.ok_or_else(|| AdsError::Closed(self.plane.address.clone()))?;
            let type_url = response.type_url.clone();
            let Some(received) = self.session.receive(response) else {
                tracing::warn!(type_url, "istiod sent what was not asked for");
                continue;
            };
            for ready in self.sequence.take(received, Instant::now()) {
                self.apply(ready, sink, &sender);
            }
        }
    }

    async fn open(&mut self) -> Result<(Sender, Streaming<DeltaDiscoveryResponse>), AdsError> {
        let channel = self.plane.connect().await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready()
            .await
            .map_err(|error| self.failed(Status::unavailable(error.to_string())))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let sender = Sender(sender);
        let mut opening = self.session.open();
        // Clusters first; listeners follow when the first clusters have come.
        opening.extend(self.session.subscribe_all(ResourceType::Cluster));
        opening.extend(self.session.subscribe_all(ResourceType::Workload));
        opening.into_iter().for_each(|request| sender.send(request));
        let requests = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        let mut call = Request::new(requests);
        *call.metadata_mut() = self.plane.metadata().await;
        let codec =
            tonic_prost::ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let answer = grpc
            .streaming(call, PathAndQuery::from_static(PATH), codec)
            .await
            .map_err(|status| self.failed(status))?;
        Ok((sender, answer.into_inner()))
    }

    fn apply(&mut self, mut received: Received, sink: &mut impl Sink, sender: &Sender) {
        let update = Update {
            added: std::mem::take(&mut received.update.added),
            removed: received.update.removed.clone(),
            version: std::mem::take(&mut received.update.version),
        };
        for rejected in &received.rejected {
            tracing::error!(%rejected, "istiod sent what can't be taken");
        }
        let mut rejected = std::mem::take(&mut received.rejected);
        rejected.extend(sink.apply(update).rejected);
        sender.send(self.session.answer(&received, &rejected));
        if received.kind == ResourceType::Cluster {
            self.subscribe_endpoints(sink, sender);
            self.subscribe_secrets(sink, sender);
            if let Some(request) = self.session.subscribe_all(ResourceType::Listener) {
                sender.send(request);
            }
        }
        if received.kind == ResourceType::Listener {
            for kind in [ResourceType::Extension, ResourceType::Routes] {
                let request = self.session.subscribe(kind, sink.wanted(kind));
                request.into_iter().for_each(|request| sender.send(request));
            }
        }
        if let Some(removals) = self.sequence.applied(received.kind) {
            self.remove(removals, sink, sender);
        }
    }

    /// What comes back later is asked for again, so what goes must be given up.
    fn remove(&mut self, removals: Update, sink: &mut impl Sink, sender: &Sender) {
        if !removals.removed.is_empty() {
            sink.apply(removals);
            self.subscribe_endpoints(sink, sender);
            self.subscribe_secrets(sink, sender);
        }
    }

    /// Those that no cluster names any more aren't kept, and come again when one does.
    fn subscribe_secrets(&mut self, sink: &mut impl Sink, sender: &Sender) {
        let kind = ResourceType::Secret;
        let Some(request) = self.session.subscribe(kind, sink.wanted(kind)) else {
            return;
        };
        let unused = request.resource_names_unsubscribe.iter();
        let removed: Vec<_> = unused.map(|name| (kind, name.clone())).collect();
        sender.send(request);
        if !removed.is_empty() {
            sink.apply(Update {
                removed,
                ..Update::default()
            });
        }
    }

    fn subscribe_endpoints(&mut self, sink: &mut impl Sink, sender: &Sender) {
        let wanted = sink.wanted(ResourceType::Endpoints);
        self.sequence.forget_endpoints(&wanted);
        if let Some(request) = self.session.subscribe(ResourceType::Endpoints, wanted) {
            self.sequence
                .await_endpoints(request.resource_names_subscribe.iter().cloned());
            sender.send(request);
        }
    }

    fn failed(&self, status: Status) -> AdsError {
        AdsError::Status {
            address: self.plane.address.clone(),
            status: Box::new(status),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
