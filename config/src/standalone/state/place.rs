//! Where the waypoint itself runs, which is what "near" means to it: its own pods among the manifests tell.
//!
//! Pods of one waypoint may run in several places while the manifests are the same for all of them. Then only what
//! they have in common is known.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::gateway_api::gateway::Gateway;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_endpoint::{Locality, locality, place_label};

/// Label of a Gateway's pods.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    pub locality: Locality,
    /// `None`: no pod tells.
    pub labels: Option<BTreeMap<String, String>>,
    node: String,
}

impl Place {
    pub fn of(state: &ClusterState, gateway: &Object<Gateway>) -> Place {
        let all = state.pods.values();
        let own = all.filter(|pod| {
            pod.meta.namespace == gateway.meta.namespace
                && pod.meta.label(GATEWAY_NAME) == Some(&gateway.meta.name)
                && !pod.spec.terminal
        });
        let places = own.map(|pod| Place {
            locality: locality(state, &pod.spec),
            labels: Some(pod.meta.labels.clone()),
            node: pod.spec.node.clone(),
        });
        places.reduce(Place::common).unwrap_or_default()
    }

    fn common(self, other: Place) -> Place {
        let region = self.locality.region == other.locality.region;
        let zone = region && self.locality.zone == other.locality.zone;
        let sub_zone = zone && self.locality.sub_zone == other.locality.sub_zone;
        let if_same = |same: bool, value: String| if same { value } else { String::new() };
        let of_other = other.labels.unwrap_or_default();
        let own = self.labels.unwrap_or_default().into_iter();
        let shared = own.filter(|(name, value)| of_other.get(name) == Some(value));
        Place {
            locality: Locality {
                region: if_same(region, self.locality.region),
                zone: if_same(zone, self.locality.zone),
                sub_zone: if_same(sub_zone, self.locality.sub_zone),
            },
            labels: Some(shared.collect()),
            node: if_same(self.node == other.node, self.node),
        }
    }

    /// The node, where it is known and only one.
    pub fn node(&self) -> Option<&str> {
        Some(self.node.as_str()).filter(|node| !node.is_empty())
    }

    /// Whether anything is known of where it is.
    pub fn is_known(&self) -> bool {
        !self.locality.region.is_empty()
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        let own = || self.labels.as_ref()?.get(name).map(String::as_str);
        place_label(&self.locality, &self.node, name).or_else(own)
    }
}
