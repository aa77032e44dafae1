//! A resource as a source delivers it: type, name and undecoded bytes.
//!
//! Both sources (an istiod or recorded responses, and the standalone translator) speak this form, so
//! what follows them is one path and the same bytes can be handed to another xDS client.

use std::collections::HashMap;

use bytes::Bytes;
use waypoint_filters::xds::rejected::Refusal;

/// The xDS resource types that a waypoint is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    Secret,
    Extension,
    Workload,
}

impl ResourceType {
    /// All types, in the order in which one update applies them (make before break).
    pub const ALL: [ResourceType; 7] = [
        ResourceType::Workload,
        ResourceType::Secret,
        ResourceType::Cluster,
        ResourceType::Endpoints,
        ResourceType::Extension,
        ResourceType::Routes,
        ResourceType::Listener,
    ];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::Endpoints => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceType::Secret => {
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
            }
            ResourceType::Extension => {
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
            }
            ResourceType::Workload => "type.googleapis.com/istio.workload.Workload",
        }
    }

    /// The type with this URL, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<ResourceType> {
        ResourceType::ALL.into_iter().find(|t| t.type_url() == url)
    }
}

/// One resource, undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: ResourceType,
    pub name: String,
    /// The encoded message itself (the value of the `Any`).
    pub body: Bytes,
}

/// A resource says itself how it is called; the name that it is filed under must be that.
pub(crate) fn check_name(own: &str, filed: &str) -> Result<(), Refusal> {
    if own == filed {
        return Ok(());
    }
    let reason = format!("the resource calls itself {own:?}");
    Err(Refusal::new("name", reason))
}

/// What changed, in one step: additions replace resources of the same type and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub added: Vec<Resource>,
    pub removed: Vec<(ResourceType, String)>,
    /// The source's word for this version of its resources; empty where it has none.
    pub version: String,
}

/// What changed of one type.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) added: Vec<Resource>,
    pub(crate) removed: Vec<String>,
}

impl Update {
    /// What changed by type, in the order of [`ResourceType::ALL`].
    pub(crate) fn by_type(self) -> impl Iterator<Item = (ResourceType, Changes)> {
        let mut by_type: HashMap<ResourceType, Changes> = HashMap::new();
        for resource in self.added {
            let of_type = by_type.entry(resource.kind).or_default();
            of_type.added.push(resource);
        }
        for (kind, name) in self.removed {
            by_type.entry(kind).or_default().removed.push(name);
        }
        let in_order = ResourceType::ALL.into_iter();
        in_order.filter_map(move |kind| Some((kind, by_type.remove(&kind)?)))
    }
}
