//! The client's side of the delta xDS protocol: subscriptions, nonces, what is held. Pure.
//!
//! What would surprise: an ACK never carries subscription changes (istiod logs an error), so they go in
//! requests without a nonce; and istiod gives most resources no version of their own, so after a
//! reconnect it sends everything again, and only names, not versions, tell it what to remove.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;
use waypoint_filters::xds::rejected::{Refusal, Rejected};

use crate::resource::{Resource, ResourceType, Update};

/// gRPC's INVALID_ARGUMENT, as Envoy says with a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// A NACK names this many reasons, and counts the rest.
const MAX_REASONS: usize = 20;

/// What is subscribed of one type, and what has come.
#[derive(Debug, Default)]
struct TypeState {
    subscription: Subscription,
    /// Resources that istiod knows us to have: name and version (empty for most types).
    held: HashMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Subscription {
    #[default]
    None,
    Wildcard,
    Names(BTreeSet<String>),
}

/// The protocol's state over all connections to istiod.
pub struct DeltaSession {
    node: Node,
    types: HashMap<ResourceType, TypeState>,
    /// The node goes with the first request of a stream only.
    introduced: bool,
}

/// A response, taken apart. It has to be answered with [`DeltaSession::answer`].
#[derive(Debug)]
pub struct Received {
    pub kind: ResourceType,
    pub update: Update,
    /// Names that the response spoke of, removed ones included.
    pub names: BTreeSet<String>,
    /// What of the response is against the protocol, and was left out of the update.
    pub rejected: Vec<Rejected>,
    nonce: String,
    versions: Vec<(String, String)>,
    /// Names that istiod knows us to hold no longer, whenever their removal takes effect.
    dropped: Vec<String>,
}

impl DeltaSession {
    pub fn new(node: Node) -> DeltaSession {
        DeltaSession {
            node,
            types: HashMap::new(),
            introduced: false,
        }
    }

    /// The requests that open a stream: everything subscribed so far, with what is held of it.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.introduced = false;
        let order = [
            ResourceType::Cluster,
            ResourceType::Endpoints,
            ResourceType::Secret,
            ResourceType::Listener,
            ResourceType::Extension,
            ResourceType::Routes,
            ResourceType::Workload,
        ];
        let mut requests = Vec::new();
        for kind in order {
            let Some(state) = self.types.get(&kind) else {
                continue;
            };
            let names: Vec<String> = match &state.subscription {
                Subscription::None => continue,
                Subscription::Wildcard => Vec::new(),
                Subscription::Names(names) if names.is_empty() => continue,
                Subscription::Names(names) => names.iter().cloned().collect(),
            };
            let held = state.held.clone();
            let mut request = self.request(kind);
            request.resource_names_subscribe = names;
            request.initial_resource_versions = held.into_iter().collect();
            requests.push(request);
        }
        requests
    }

    /// Subscribes to all resources of a type. `None`: it was before.
    pub fn subscribe_all(&mut self, kind: ResourceType) -> Option<DeltaDiscoveryRequest> {
        let state = self.types.entry(kind).or_default();
        if state.subscription == Subscription::Wildcard {
            return None;
        }
        state.subscription = Subscription::Wildcard;
        Some(self.request(kind))
    }

    /// Subscribes to these resources of a type and to no others. `None`: nothing changed.
    pub fn subscribe(
        &mut self,
        kind: ResourceType,
        names: BTreeSet<String>,
    ) -> Option<DeltaDiscoveryRequest> {
        let state = self.types.entry(kind).or_default();
        let before = match std::mem::take(&mut state.subscription) {
            Subscription::Names(before) => before,
            _ => BTreeSet::new(),
        };
        let subscribe: Vec<_> = names.difference(&before).cloned().collect();
        let unsubscribe: Vec<_> = before.difference(&names).cloned().collect();
        for name in &unsubscribe {
            state.held.remove(name);
        }
        state.subscription = Subscription::Names(names);
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        let mut request = self.request(kind);
        request.resource_names_subscribe = subscribe;
        request.resource_names_unsubscribe = unsubscribe;
        Some(request)
    }

    /// Takes a response apart. `None`: it is of a type that nobody asked for.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Option<Received> {
        let kind = ResourceType::from_type_url(&response.type_url)?;
        let state = self.types.get(&kind)?;
        let wanted = |name: &str| match &state.subscription {
            Subscription::None => false,
            Subscription::Wildcard => true,
            Subscription::Names(names) => names.contains(name),
        };
        let mut received = Received {
            kind,
            update: Update {
                version: response.system_version_info,
                ..Update::default()
            },
            names: BTreeSet::new(),
            rejected: Vec::new(),
            nonce: response.nonce,
            versions: Vec::new(),
            dropped: response.removed_resources.clone(),
        };
        for resource in response.resources {
            // A late answer for a name that was unsubscribed since.
            if !wanted(&resource.name) {
                continue;
            }
            let first = received.names.insert(resource.name.clone());
            let Some(any) = resource.resource else {
                continue;
            };
            let reason = if !first {
                "comes twice in one response".to_owned()
            } else if any.type_url != kind.type_url() {
                format!("is a {:?} in a response of another type", any.type_url)
            } else {
                String::new()
            };
            if !reason.is_empty() {
                let refusal = Refusal::new("resource", reason);
                received.rejected.push(refusal.of(resource.name));
                continue;
            }
            received
                .versions
                .push((resource.name.clone(), resource.version));
            received.update.added.push(Resource {
                kind,
                name: resource.name,
                body: any.value.into(),
            });
        }
        for name in response.removed_resources {
            received.names.insert(name.clone());
            received.update.removed.push((kind, name));
        }
        Some(received)
    }

    /// The answer to a response that has been applied: an ACK, or a NACK with all reasons.
    pub fn answer(&mut self, received: &Received, rejected: &[Rejected]) -> DeltaDiscoveryRequest {
        if let Some(state) = self.types.get_mut(&received.kind) {
            for name in &received.dropped {
                state.held.remove(name);
            }
            state.held.extend(received.versions.iter().cloned());
        }
        let mut request = self.request(received.kind);
        request.response_nonce.clone_from(&received.nonce);
        if !rejected.is_empty() {
            request.error_detail = Some(Status {
                code: INVALID_ARGUMENT,
                message: reasons(rejected),
                ..Status::default()
            });
        }
        request
    }

    fn request(&mut self, kind: ResourceType) -> DeltaDiscoveryRequest {
        let introduced = std::mem::replace(&mut self.introduced, true);
        DeltaDiscoveryRequest {
            node: (!introduced).then(|| self.node.clone()),
            type_url: kind.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

fn reasons(rejected: &[Rejected]) -> String {
    let named: Vec<String> = rejected
        .iter()
        .take(MAX_REASONS)
        .map(ToString::to_string)
        .collect();
    let mut text = named.join("; ");
    if let Some(more @ 1..) = rejected.len().checked_sub(MAX_REASONS) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::Resource as ResourceProto;
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    fn session() -> DeltaSession {
        DeltaSession::new(Node {
            id: "waypoint~10.0.0.1~w.ns~ns.svc.cluster.local".into(),
            ..Node::default()
        })
    }

    fn response(kind: ResourceType, names: &[&str], removed: &[&str]) -> DeltaDiscoveryResponse {
        let resource = |name: &&str| ResourceProto {
            name: (*name).to_owned(),
            version: "v1".into(),
            resource: Some(Any {
                type_url: kind.type_url().into(),
                ..Any::default()
            }),
            ..ResourceProto::default()
        };
        DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: "n".into(),
            resources: names.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[test]
    fn the_node_goes_with_the_first_request_of_each_stream() {
        let mut session = session();
        assert!(session.open().is_empty());
        let first = session.subscribe_all(ResourceType::Cluster).unwrap();
        assert!(first.node.is_some() && first.response_nonce.is_empty());
        assert!(
            session
                .subscribe_all(ResourceType::Listener)
                .unwrap()
                .node
                .is_none()
        );
        assert!(session.subscribe_all(ResourceType::Listener).is_none());
        let again = session.open();
        assert_eq!(again.len(), 2);
        assert!(again[0].node.is_some() && again[1].node.is_none());
    }

    #[test]
    fn answers_carry_the_nonce_and_reasons_and_no_subscriptions() {
        let mut session = session();
        session.subscribe_all(ResourceType::Cluster);
        let received = session
            .receive(response(ResourceType::Cluster, &["a"], &[]))
            .unwrap();
        let ack = session.answer(&received, &[]);
        assert_eq!(ack.response_nonce, "n");
        assert!(ack.error_detail.is_none());
        let rejected: Vec<_> = (0..25)
            .map(|n| Refusal::new("field", "reason").of(format!("c{n}")))
            .collect();
        let nack = session.answer(&received, &rejected);
        let message = nack.error_detail.unwrap().message;
        assert!(
            message.contains("c19") && message.ends_with("and 5 more"),
            "{message}"
        );
        assert!(nack.resource_names_subscribe.is_empty());
    }

    #[test]
    fn a_reconnect_tells_what_is_held_and_what_was_removed_is_forgotten() {
        let mut session = session();
        session.subscribe_all(ResourceType::Cluster);
        let received = session
            .receive(response(ResourceType::Cluster, &["a", "b"], &[]))
            .unwrap();
        session.answer(&received, &[]);
        let mut received = session
            .receive(response(ResourceType::Cluster, &[], &["a"]))
            .unwrap();
        assert_eq!(received.update.removed.len(), 1);
        // The removal takes effect later.
        received.update.removed.clear();
        session.answer(&received, &[]);
        let open = session.open();
        let held: Vec<_> = open[0].initial_resource_versions.iter().collect();
        assert_eq!(held, [(&"b".to_owned(), &"v1".to_owned())]);
    }

    #[test]
    fn names_are_subscribed_by_difference_and_late_answers_dropped() {
        let mut session = session();
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|n| (*n).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let request = session
            .subscribe(ResourceType::Endpoints, names(&["a", "b"]))
            .unwrap();
        assert_eq!(request.resource_names_subscribe, ["a", "b"]);
        assert!(
            session
                .subscribe(ResourceType::Endpoints, names(&["a", "b"]))
                .is_none()
        );
        let request = session
            .subscribe(ResourceType::Endpoints, names(&["b", "c"]))
            .unwrap();
        assert_eq!(request.resource_names_subscribe, ["c"]);
        assert_eq!(request.resource_names_unsubscribe, ["a"]);
        let received = session
            .receive(response(ResourceType::Endpoints, &["a", "c"], &[]))
            .unwrap();
        assert_eq!(received.update.added.len(), 1);
        assert_eq!(received.names, names(&["c"]));
    }

    #[test]
    fn what_is_against_the_protocol_is_named_and_the_rest_is_taken() {
        let mut session = session();
        session.subscribe_all(ResourceType::Cluster);
        let mut mixed = response(ResourceType::Cluster, &["a", "b", "a", "c"], &[]);
        mixed.resources[1].resource = Some(Any {
            type_url: ResourceType::Listener.type_url().into(),
            ..Any::default()
        });
        mixed.resources[3].resource = None;
        let received = session.receive(mixed).unwrap();
        let taken: Vec<_> = received.update.added.iter().map(|r| &*r.name).collect();
        assert_eq!(taken, ["a"]);
        let rejected: Vec<_> = received.rejected.iter().map(|r| &*r.resource).collect();
        assert_eq!(rejected, ["b", "a"]);
        let empty = session.receive(response(ResourceType::Cluster, &[], &[]));
        assert!(empty.unwrap().rejected.is_empty());
    }

    #[test]
    fn what_nobody_asked_for_is_ignored() {
        let mut session = session();
        assert!(
            session
                .receive(response(ResourceType::Secret, &["a"], &[]))
                .is_none()
        );
        let mut unknown = response(ResourceType::Cluster, &["a"], &[]);
        unknown.type_url = "type.googleapis.com/not.Ours".into();
        assert!(session.receive(unknown).is_none());
    }
}
