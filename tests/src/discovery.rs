//! The scripted istiod's delta ADS: good by itself, or by the story's hand.
//!
//! By itself it answers each subscription from its set of resources, forces endpoints after a request for
//! clusters, pushes what [`Discovery::set`] changes, and knows nothing of a client that connects again but
//! what that client says. By hand ([`Discovery::by_hand`]) it says only what the story has it say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as ResourceProto,
};
use envoy_types::pb::google::protobuf::Any;
use parking_lot::Mutex;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

use crate::control_plane::{Call, Messages};
use crate::wait::until;

/// The order of one push.
const ORDER: [ResourceType; 5] = [
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Secret,
    ResourceType::Listener,
    ResourceType::Workload,
];

/// All streams, and what there is to say on them. Clones share it.
#[derive(Clone, Default)]
pub struct Discovery(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    resources: BTreeMap<(ResourceType, String), Bytes>,
    streams: Vec<AdsStream>,
    by_hand: bool,
    withheld: BTreeSet<ResourceType>,
}

/// One stream of a client. Clones share it.
#[derive(Clone)]
pub struct AdsStream {
    call: Call,
    state: Arc<Mutex<StreamState>>,
}

#[derive(Default)]
struct StreamState {
    requests: Vec<DeltaDiscoveryRequest>,
    nonces: usize,
    /// By type: the names asked for; empty is all.
    wanted: BTreeMap<ResourceType, BTreeSet<String>>,
    ended: bool,
}

impl Discovery {
    /// What there is now; the difference is pushed to those who are connected.
    pub fn set(&self, resources: Vec<Resource>) {
        let now: BTreeMap<_, _> = resources
            .into_iter()
            .map(|resource| ((resource.kind, resource.name), resource.body))
            .collect();
        let mut state = self.0.lock();
        let before = std::mem::replace(&mut state.resources, now);
        if !state.by_hand {
            for stream in &state.streams {
                state.push(stream, &before);
            }
        }
    }

    /// Says nothing by itself from now on, or does again on new streams.
    pub fn by_hand(&self, by_hand: bool) {
        self.0.lock().by_hand = by_hand;
    }

    /// Leaves subscriptions of this type without an answer from now on.
    pub fn withhold(&self, kind: ResourceType) {
        self.0.lock().withheld.insert(kind);
    }

    /// The resources of this type, as they stand.
    #[must_use]
    pub fn resources(&self, kind: ResourceType) -> Vec<Resource> {
        let state = self.0.lock();
        let of_kind = state.resources.iter().filter(|((k, _), _)| *k == kind);
        of_kind
            .map(|((kind, name), body)| Resource {
                kind: *kind,
                name: name.clone(),
                body: body.clone(),
            })
            .collect()
    }

    /// Streams so far.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.lock().streams.len()
    }

    /// Stream `n`, the first is 0, once it has come.
    pub async fn stream(&self, n: usize) -> AdsStream {
        until(&format!("ADS stream {n}"), async || {
            self.0.lock().streams.get(n).cloned()
        })
        .await
    }

    /// All that the clients have refused.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let streams = self.0.lock().streams.clone();
        let refused = |request: DeltaDiscoveryRequest| Some(request.error_detail?.message);
        streams
            .iter()
            .flat_map(|stream| stream.requests().into_iter().filter_map(refused))
            .collect()
    }

    /// Waits until everything that was sent on the newest stream has been answered.
    pub async fn until_answered(&self) {
        until("answers to all responses", async || {
            let newest = self.0.lock().streams.last().cloned()?;
            let state = newest.state.lock();
            let answered = state
                .requests
                .iter()
                .filter(|r| !r.response_nonce.is_empty());
            (state.nonces > 0 && answered.count() == state.nonces).then_some(())
        })
        .await;
    }

    pub(crate) async fn serve(&self, mut messages: Messages, call: Call) {
        let stream = AdsStream {
            call,
            state: Arc::default(),
        };
        let mut known = false;
        while let Some(message) = messages.next().await {
            let Ok(request) = DeltaDiscoveryRequest::decode(message) else {
                return stream.end(3, "no DeltaDiscoveryRequest");
            };
            stream.state.lock().requests.push(request.clone());
            let mut state = self.0.lock();
            if !known {
                state.streams.push(stream.clone());
                known = true;
            }
            if !state.by_hand && request.response_nonce.is_empty() {
                state.answer(&stream, &request);
            }
        }
        stream.state.lock().ended = true;
    }
}

impl State {
    /// Answers a subscription.
    fn answer(&self, stream: &AdsStream, request: &DeltaDiscoveryRequest) {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return;
        };
        let asked: BTreeSet<String> = request.resource_names_subscribe.iter().cloned().collect();
        let endpoints = {
            let mut state = stream.state.lock();
            let wanted = state.wanted.entry(kind).or_default();
            wanted.extend(asked.iter().cloned());
            for name in &request.resource_names_unsubscribe {
                wanted.remove(name);
            }
            state.wanted.get(&ResourceType::Endpoints).cloned()
        };
        let unsubscribed = asked.is_empty() && !request.resource_names_unsubscribe.is_empty();
        if self.withheld.contains(&kind) || unsubscribed {
            return;
        }
        let known = request.initial_resource_versions.keys();
        let gone = known.filter(|name| !self.resources.contains_key(&(kind, (*name).clone())));
        let mut gone = gone.map(String::as_str).collect::<Vec<_>>();
        let found = self.of(kind, &asked);
        if kind == ResourceType::Secret {
            // As istiod: nothing is said where there is none at all.
            if found.is_empty() {
                return;
            }
            let missing = |name: &&String| !found.iter().any(|secret| secret.name == **name);
            gone = asked.iter().filter(missing).map(String::as_str).collect();
        }
        stream.push(kind, &found, &gone);
        if kind == ResourceType::Cluster
            && let Some(wanted) = endpoints.filter(|wanted| !wanted.is_empty())
        {
            let kind = ResourceType::Endpoints;
            stream.push(kind, &self.of(kind, &wanted), &[]);
        }
    }

    /// The resources of these names; of no names, all.
    fn of(&self, kind: ResourceType, names: &BTreeSet<String>) -> Vec<Resource> {
        let wanted = |name: &String| names.is_empty() || names.contains(name);
        let of_kind = self.resources.iter();
        of_kind
            .filter(|((k, name), _)| *k == kind && wanted(name))
            .map(|((kind, name), body)| Resource {
                kind: *kind,
                name: name.clone(),
                body: body.clone(),
            })
            .collect()
    }

    /// Pushes what changed since `before` and is wanted.
    fn push(&self, stream: &AdsStream, before: &BTreeMap<(ResourceType, String), Bytes>) {
        for kind in ORDER {
            let Some(names) = stream.state.lock().wanted.get(&kind).cloned() else {
                continue;
            };
            let by_name = matches!(kind, ResourceType::Endpoints | ResourceType::Secret);
            if by_name && names.is_empty() {
                continue;
            }
            let mut changed = self.of(kind, &names);
            changed.retain(|r| before.get(&(kind, r.name.clone())) != Some(&r.body));
            let gone = before.keys().filter(|(k, name)| {
                *k == kind && !self.resources.contains_key(&(*k, name.clone()))
            });
            let gone: Vec<&str> = gone.map(|(_, name)| name.as_str()).collect();
            // What was asked for by name is never removed.
            let gone = if by_name { Vec::new() } else { gone };
            if !(changed.is_empty() && gone.is_empty()) {
                stream.push(kind, &changed, &gone);
            }
        }
    }
}

impl AdsStream {
    /// What the client has sent so far.
    #[must_use]
    pub fn requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.state.lock().requests.clone()
    }

    /// Waits for a subscription of this type: the first request without a nonce that the test takes.
    pub async fn subscription(
        &self,
        kind: ResourceType,
        take: impl Fn(&DeltaDiscoveryRequest) -> bool,
    ) -> DeltaDiscoveryRequest {
        until(&format!("a subscription of {kind:?}"), async || {
            self.requests().into_iter().find(|request| {
                request.type_url == kind.type_url()
                    && request.response_nonce.is_empty()
                    && take(request)
            })
        })
        .await
    }

    /// Sends resources and names of removed ones; the nonce.
    pub fn push(&self, kind: ResourceType, added: &[Resource], removed: &[&str]) -> String {
        let resources = added.iter().map(|resource| ResourceProto {
            name: resource.name.clone(),
            resource: Some(Any {
                type_url: resource.kind.type_url().into(),
                value: resource.body.to_vec(),
            }),
            ..ResourceProto::default()
        });
        self.send(DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            resources: resources.collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        })
    }

    /// Sends a response as it is, but for the nonce, which it gets here.
    pub fn send(&self, mut response: DeltaDiscoveryResponse) -> String {
        let mut state = self.state.lock();
        state.nonces += 1;
        response.nonce = format!("nonce-{}", state.nonces);
        self.call.message(&response.encode_to_vec());
        response.nonce
    }

    /// Sends a gRPC message that is no response.
    pub fn garbage(&self, bytes: &[u8]) {
        self.call.message(bytes);
    }

    /// Sends bytes that are no gRPC.
    pub fn noise(&self, bytes: &'static [u8]) {
        self.call.bytes(Bytes::from_static(bytes));
    }

    /// The client's answer to a response.
    ///
    /// # Errors
    /// It refused; what it says of that.
    pub async fn verdict(&self, nonce: &str) -> Result<(), String> {
        let answer = until(&format!("an answer to {nonce}"), async || {
            let mut requests = self.requests().into_iter();
            requests.find(|request| request.response_nonce == nonce)
        })
        .await;
        assert!(
            answer.resource_names_subscribe.is_empty()
                && answer.resource_names_unsubscribe.is_empty(),
            "an answer changes no subscription: {answer:?}"
        );
        answer.error_detail.map_or(Ok(()), |e| Err(e.message))
    }

    /// Whether the client has answered this response.
    #[must_use]
    pub fn is_answered(&self, nonce: &str) -> bool {
        self.requests().iter().any(|r| r.response_nonce == nonce)
    }

    /// Ends the stream with a status; 0 is what istiod does every half hour.
    pub fn end(&self, status: u32, message: &str) {
        self.state.lock().ended = true;
        self.call.end(status, message);
    }

    /// RST_STREAM.
    pub fn reset(&self) {
        self.state.lock().ended = true;
        self.call.reset();
    }

    /// Whether one side has ended it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.state.lock().ended
    }
}
