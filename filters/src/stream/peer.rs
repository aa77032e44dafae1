//! A peer: what the mesh knows about the workload at one end of a stream.
//!
//! Comes from the control plane's workload data by address, or from an endpoint's `istio.workload`
//! metadata (`workload;namespace;canonical name;canonical revision;cluster`).

use std::fmt;
use std::sync::Arc;

/// A workload as telemetry names it. Empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The pod's or workload entry's own name.
    pub name: Arc<str>,
    /// The owner's name (a Deployment's), else the pod's.
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub canonical_name: Arc<str>,
    /// `latest` where the workload has no revision label.
    pub canonical_revision: Arc<str>,
    /// The `app` label, else the canonical name.
    pub app: Arc<str>,
    /// The `version` label, else the canonical revision.
    pub version: Arc<str>,
    pub cluster: Arc<str>,
    /// `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: Arc<str>,
    /// Full SPIFFE id, where known.
    pub principal: Arc<str>,
    /// Where it runs, and `namespace/host` of the waypoint that takes what is sent to it, where it has one.
    pub node: Arc<str>,
    pub waypoint: Arc<str>,
    /// Whether it takes HBONE.
    pub hbone: bool,
}

impl Peer {
    /// From an endpoint's `istio.workload` metadata.
    pub fn from_endpoint_metadata(value: &str) -> Option<Peer> {
        let mut parts = value.split(';');
        let mut next = || parts.next().map(Arc::<str>::from);
        let (workload, namespace, canonical_name, revision, cluster) =
            (next()?, next()?, next()?, next()?, next()?);
        let revision = if revision.is_empty() {
            "latest".into()
        } else {
            revision
        };
        Some(Peer {
            name: workload.clone(),
            workload,
            namespace,
            app: canonical_name.clone(),
            canonical_name,
            version: revision.clone(),
            canonical_revision: revision,
            cluster,
            ..Peer::default()
        })
    }
}

impl Peer {
    /// A field by the name that Istio's formats use.
    pub fn field(&self, name: &str) -> Option<&str> {
        Some(match name {
            "workload" => &self.workload,
            "name" => &self.name,
            "namespace" => &self.namespace,
            "service" => &self.canonical_name,
            "revision" => &self.canonical_revision,
            "app" => &self.app,
            "version" => &self.version,
            "cluster" => &self.cluster,
            "type" => &self.workload_type,
            "identity" => &self.principal,
            _ => return None,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{};{};{};{};{}",
            self.workload,
            self.namespace,
            self.canonical_name,
            self.canonical_revision,
            self.cluster
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_metadata_has_five_parts_and_a_blank_revision_means_latest() {
        let peer = Peer::from_endpoint_metadata("reviews-v1;default;reviews;;Kubernetes");
        let peer = peer.unwrap_or_default();
        assert_eq!(&*peer.workload, "reviews-v1");
        assert_eq!(&*peer.canonical_revision, "latest");
        assert!(Peer::from_endpoint_metadata("a;b").is_none());
    }
}
