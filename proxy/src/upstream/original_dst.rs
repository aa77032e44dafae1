//! Endpoints that no configuration lists: the destination of the connection itself (`ORIGINAL_DST`).
//!
//! The table keeps them, with their pools, while they are used; it is bounded, and asked once per
//! downstream connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use waypoint_config::model::cluster::{Cluster, Discovery};
use waypoint_config::model::endpoint::{Endpoint, EndpointState, Transport};
use waypoint_filters::stream::dynamic_metadata::Metadata;
use waypoint_filters::stream::peer::Peer;

use crate::upstream::dial::hop_of;

/// Endpoints kept at most; past it the table is emptied, which costs those in use their pools only.
const MAX_ENDPOINTS: usize = 16_384;

/// Endpoints by cluster and address.
#[derive(Default)]
pub(crate) struct OriginalDestinations(Mutex<Table>);

type Table = HashMap<(Arc<str>, SocketAddr), Arc<Endpoint>>;

impl OriginalDestinations {
    /// The endpoint at `destination`; `None` if the cluster lists its endpoints.
    pub(crate) fn endpoint(
        &self,
        cluster: &Cluster,
        destination: SocketAddr,
        peer: impl FnOnce(SocketAddr) -> Option<Arc<Peer>>,
    ) -> Option<Arc<Endpoint>> {
        let (address, transport) = match cluster.discovery {
            Discovery::Eds { .. }
            | Discovery::Static
            | Discovery::Dns(_)
            | Discovery::Dynamic(_) => return None,
            Discovery::OriginalDst { port_override } => {
                let port = port_override.unwrap_or(destination.port());
                (SocketAddr::new(destination.ip(), port), Transport::Plain)
            }
            Discovery::OriginalDstOverHbone => (
                destination,
                Transport::Hbone {
                    hop: hop_of(destination),
                },
            ),
        };
        let mut table = self.0.lock();
        if table.len() >= MAX_ENDPOINTS {
            table.clear();
        }
        let endpoint = table
            .entry((cluster.name.clone(), address))
            .or_insert_with(|| {
                Arc::new(Endpoint {
                    address,
                    additional: Box::default(),
                    check: None,
                    transport,
                    healthy: true,
                    weight: 1,
                    metadata: Metadata::default(),
                    peer: peer(address),
                    state: Arc::new(EndpointState::default()),
                })
            });
        Some(endpoint.clone())
    }

    /// Forgets endpoints that only the table holds.
    pub(crate) fn sweep(&self) {
        self.0
            .lock()
            .retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
    }
}
