//! What routes are compiled with.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::xds::omitted::Omissions;

use crate::model::cluster::slot::ClusterSlot;

/// Of the chain whose routes they are.
pub(crate) struct RouteContext<'a> {
    /// The slot of the cluster with this name, whether there is one or not.
    pub(crate) slot: &'a dyn Fn(&str) -> Arc<ClusterSlot>,
    /// The chain's HTTP filters: name and configuration, by position.
    pub(crate) filters: &'a [(String, Any)],
    /// Takes what is left out.
    pub(crate) omissions: &'a Omissions,
    /// Bytes of a direct response's body.
    pub(crate) max_direct_response: u32,
    /// Whether its clients open tunnels.
    pub(crate) takes_connect: bool,
}
