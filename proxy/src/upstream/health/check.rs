//! One check of one endpoint, and its way there.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::Endpoint;
use waypoint_filters::stream::connection::Connection;

use crate::upstream::dial::Dialled;
use crate::upstream::dial::leg::{Leg, Speaks};
use crate::upstream::error::UpstreamError;
use crate::upstream::pools::Upstreams;

/// What all checks need.
pub(super) struct Shared {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) turns: Semaphore,
    /// Told when a check changed something.
    pub(super) suspects: Arc<Notify>,
    /// What checks come on: nobody's.
    pub(super) connection: Arc<Connection>,
}

/// One check of one endpoint.
pub(super) struct Check<'a> {
    pub(super) shared: &'a Shared,
    pub(super) slot: &'a ClusterSlot,
    pub(super) cluster: &'a Cluster,
    pub(super) endpoint: &'a Endpoint,
    /// Where it is asked.
    pub(super) target: Endpoint,
}

impl Check<'_> {
    /// A new connection.
    pub(super) async fn connect(
        &self,
        host: Option<&str>,
        speaks: Speaks,
    ) -> Result<Dialled, UpstreamError> {
        let socket = self.cluster.sockets.of(&self.endpoint.metadata);
        let nobody = (
            self.shared.connection.source,
            self.shared.connection.destination,
        );
        let leg = Leg::of(self.cluster, socket, nobody, host);
        let connector = &self.shared.upstreams.connector;
        let connecting = connector.connect_to_check(self.cluster, &self.target, &leg, speaks);
        connecting.await
    }
}

/// The endpoint, at the port where it is asked.
pub(super) fn target(endpoint: &Endpoint) -> Endpoint {
    let port = endpoint.check.as_ref().and_then(|check| check.port);
    let mut address = endpoint.address;
    address.set_port(port.unwrap_or(address.port()));
    let mut additional = endpoint.additional.clone();
    for further in &mut additional {
        further.set_port(port.unwrap_or(further.port()));
    }
    Endpoint {
        address,
        additional,
        transport: endpoint.transport,
        healthy: true,
        weight: 1,
        metadata: endpoint.metadata.clone(),
        peer: endpoint.peer.clone(),
        check: None,
        state: endpoint.state.clone(),
    }
}
