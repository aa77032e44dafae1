//! The order in which responses take effect: make before break across types. Pure.
//!
//! istiod sends clusters, then listeners, and endpoints only when asked for by name, so a new service's
//! listener arrives before its endpoints. Listeners therefore wait for the endpoints of the clusters
//! before them, and clusters are removed only when the listeners that used them have been replaced.
//! Nothing waits longer than [`PATIENCE`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::resource::{ResourceType, Update};
use crate::sources::xds::delta::Received;

/// How long listeners and removals wait at most.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Responses that wait; the oldest is let through when more come.
const MAX_HELD: usize = 16;

/// Holds back what would break.
#[derive(Debug, Default)]
pub struct Sequence {
    /// Assignments that were asked for and have not come.
    awaited: BTreeSet<String>,
    held: Vec<Received>,
    removals: Vec<(ResourceType, String)>,
    deadline: Option<Instant>,
}

impl Sequence {
    /// Takes a response; gives those that are to be applied now, in order.
    pub fn take(&mut self, mut received: Received, now: Instant) -> Vec<Received> {
        match received.kind {
            ResourceType::Cluster => {
                let removed = std::mem::take(&mut received.update.removed);
                if !removed.is_empty() {
                    self.removals.extend(removed);
                    self.wait(now);
                }
                // One that comes back is not removed after all.
                for resource in &received.update.added {
                    self.removals.retain(|(_, name)| *name != resource.name);
                }
                vec![received]
            }
            ResourceType::Endpoints => {
                for name in &received.names {
                    self.awaited.remove(name);
                }
                let mut ready = vec![received];
                ready.extend(self.release_if_complete());
                ready
            }
            ResourceType::Listener if !self.awaited.is_empty() => {
                self.wait(now);
                self.held.push(received);
                if self.held.len() > MAX_HELD {
                    return vec![self.held.remove(0)];
                }
                Vec::new()
            }
            _ => vec![received],
        }
    }

    /// These assignments have been asked for.
    pub fn await_endpoints(&mut self, names: impl IntoIterator<Item = String>) {
        self.awaited.extend(names);
    }

    /// Nobody waits for these assignments any more.
    pub fn forget_endpoints(&mut self, still_wanted: &BTreeSet<String>) {
        self.awaited.retain(|name| still_wanted.contains(name));
    }

    /// What was applied; gives the removals that may follow it.
    pub fn applied(&mut self, kind: ResourceType) -> Option<Update> {
        if kind != ResourceType::Listener || self.removals.is_empty() || !self.held.is_empty() {
            return None;
        }
        Some(self.removals())
    }

    /// When [`Sequence::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Lets go of what waited too long: responses, then removals.
    pub fn expire(&mut self, now: Instant) -> (Vec<Received>, Update) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return (Vec::new(), Update::default());
        }
        self.awaited.clear();
        let held = self.release_if_complete();
        (held, self.removals())
    }

    /// A new stream: what waited came on the old one, can't be answered any more, and comes again. The endpoints
    /// that were awaited have been asked for again.
    pub fn restart(&mut self) {
        self.held.clear();
    }

    fn wait(&mut self, now: Instant) {
        self.deadline.get_or_insert(now + PATIENCE);
    }

    fn release_if_complete(&mut self) -> Vec<Received> {
        if !self.awaited.is_empty() {
            return Vec::new();
        }
        if self.removals.is_empty() {
            self.deadline = None;
        }
        std::mem::take(&mut self.held)
    }

    fn removals(&mut self) -> Update {
        self.deadline = None;
        Update {
            removed: std::mem::take(&mut self.removals),
            ..Update::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
    use envoy_types::pb::google::protobuf::Any;

    use super::*;
    use crate::sources::xds::delta::DeltaSession;

    fn received(kind: ResourceType, names: &[&str], removed: &[&str]) -> Received {
        let mut session = DeltaSession::new(Node::default());
        session.subscribe_all(kind);
        let resource = |name: &&str| Resource {
            name: (*name).to_owned(),
            resource: Some(Any {
                type_url: kind.type_url().into(),
                ..Any::default()
            }),
            ..Resource::default()
        };
        session
            .receive(DeltaDiscoveryResponse {
                type_url: kind.type_url().into(),
                resources: names.iter().map(resource).collect(),
                removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
                ..DeltaDiscoveryResponse::default()
            })
            .unwrap()
    }

    fn kinds(received: &[Received]) -> Vec<ResourceType> {
        received.iter().map(|r| r.kind).collect()
    }

    #[test]
    fn listeners_wait_for_the_endpoints_of_new_clusters() {
        use ResourceType::{Cluster, Endpoints, Listener};
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        assert_eq!(
            kinds(&sequence.take(received(Cluster, &["a", "b"], &[]), now)),
            [Cluster]
        );
        sequence.await_endpoints(["a".to_owned(), "b".to_owned()]);
        assert!(
            sequence
                .take(received(Listener, &["main_internal"], &[]), now)
                .is_empty()
        );
        assert_eq!(
            kinds(&sequence.take(received(Endpoints, &["a"], &[]), now)),
            [Endpoints]
        );
        let rest = sequence.take(received(Endpoints, &["b"], &[]), now);
        assert_eq!(kinds(&rest), [Endpoints, Listener]);
        assert!(sequence.deadline().is_none());
    }

    #[test]
    fn clusters_go_after_the_listeners_that_used_them() {
        use ResourceType::{Cluster, Listener};
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        let ready = sequence.take(received(Cluster, &["new"], &["old"]), now);
        assert!(ready[0].update.removed.is_empty());
        assert!(sequence.applied(Cluster).is_none());
        sequence.take(received(Listener, &["main_internal"], &[]), now);
        let update = sequence.applied(Listener).unwrap();
        assert_eq!(update.removed, [(Cluster, "old".to_owned())]);
        assert!(sequence.deadline().is_none());
    }

    #[test]
    fn a_removed_cluster_that_comes_back_stays() {
        use ResourceType::{Cluster, Listener};
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        sequence.take(received(Cluster, &[], &["a"]), now);
        sequence.take(received(Cluster, &["a"], &[]), now);
        assert!(sequence.applied(Listener).is_none());
    }

    #[test]
    fn a_new_stream_waits_for_the_endpoints_that_the_old_one_did_not_bring() {
        use ResourceType::{Endpoints, Listener};
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        sequence.await_endpoints(["a".to_owned()]);
        let listener = || received(Listener, &["main_internal"], &[]);
        assert!(sequence.take(listener(), now).is_empty());
        sequence.restart();
        assert!(sequence.take(listener(), now).is_empty());
        let ready = sequence.take(received(Endpoints, &["a"], &[]), now);
        assert_eq!(kinds(&ready), [Endpoints, Listener]);
    }

    #[test]
    fn nothing_waits_for_ever() {
        use ResourceType::{Cluster, Listener};
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        sequence.take(received(Cluster, &[], &["old"]), now);
        sequence.await_endpoints(["never".to_owned()]);
        assert!(
            sequence
                .take(received(Listener, &["main_internal"], &[]), now)
                .is_empty()
        );
        assert!(sequence.expire(now).0.is_empty());
        let (held, removals) = sequence.expire(now + PATIENCE);
        assert_eq!(kinds(&held), [Listener]);
        assert_eq!(removals.removed.len(), 1);
        assert!(sequence.deadline().is_none());
    }
}
