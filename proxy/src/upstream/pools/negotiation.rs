//! Which HTTP is spoken to an endpoint where that is agreed on in TLS.
//!
//! The first connection to an endpoint offers both, and is kept for what was agreed on; the others then offer that alone. When one
//! can't be made, it is found out again.

use std::time::Instant;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::endpoint::Endpoint;

use crate::upstream::connection::h1::H1Connection;
use crate::upstream::dial::leg::Speaks;
use crate::upstream::error::UpstreamError;
use crate::upstream::limits::Limits;
use crate::upstream::limits::place::Place;
use crate::upstream::pools::{HostPools, Upstreams};

impl Upstreams {
    /// What is spoken with the endpoint.
    pub(crate) async fn negotiated(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<UpstreamProtocol, UpstreamError> {
        if let Some(known) = pools.agreed.known() {
            return Ok(known);
        }
        // Seldom, and large.
        Box::pin(self.negotiate(pools, cluster, endpoint, limits)).await
    }

    async fn negotiate(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<UpstreamProtocol, UpstreamError> {
        // One asks, and the others of the endpoint wait for what it is told.
        let _asking = pools.asking.acquire().await.ok();
        if let Some(known) = pools.agreed.known() {
            return Ok(known);
        }
        let place = limits.map(|limits| {
            let permit = limits.take(Resource::Connections);
            // An endpoint without a connection may always open one.
            let permit = permit.unwrap_or_else(|_| limits.take_always(Resource::Connections));
            Place::alone(permit, limits)
        });
        let generation = self.generation();
        let connecting = self
            .connector
            .connect(cluster, endpoint, &pools.leg, Speaks::Either);
        let mut dialled = connecting.await?;
        dialled.io.place = place;
        let protocol = match dialled.agreed_http2 {
            true => {
                let made = pools.speak_http2(dialled, cluster, generation).await?;
                pools.keep_h2(made);
                UpstreamProtocol::Http2
            }
            false => {
                let made =
                    H1Connection::handshake(dialled, cluster.header_case, generation).await?;
                pools.h1.put(made, Instant::now());
                UpstreamProtocol::Http1
            }
        };
        pools.agreed.tell(protocol);
        Ok(protocol)
    }
}
