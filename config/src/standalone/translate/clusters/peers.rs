//! How pods with a sidecar are reached: by mutual TLS where they take it, as labels, rules and PeerAuthentications say.
//!
//! As with istiod a cluster asks what is said of all of its service's namespace, and an endpoint what is said of its own port.
//! Either may do without TLS alone.

use crate::standalone::kinds::traffic_policy::Effective;
use crate::standalone::kinds::traffic_policy::client_tls::TlsMode;
use crate::standalone::state::mesh_endpoint::MeshEndpoint;
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::state::peer_policies::Said;
use crate::standalone::translate::context::Mesh;

/// What the label of pods says that have a sidecar.
const SIDECAR: &str = "istio";

impl Mesh<'_> {
    /// The endpoints of a port, each with how it takes connections. What a rule says of TLS stands above the rest.
    pub(super) fn endpoints_of(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        policy: &Effective<'_>,
    ) -> Vec<MeshEndpoint> {
        let mut found = service.endpoints(self.state, port);
        for endpoint in &mut found {
            if policy.sidecars_first && endpoint.tls_mode.as_deref() == Some(SIDECAR) {
                endpoint.hbone = false;
            }
            let takes = match (policy.of_endpoints, endpoint.tls_mode.as_deref()) {
                (_, None) => continue,
                (Some(mode), Some(_)) => mode == TlsMode::IstioMutual,
                (None, Some(SIDECAR)) => !self.heard(&self.peers.of_endpoint(endpoint)),
                (None, Some(_)) => false,
            };
            if !takes {
                endpoint.tls_mode = None;
            }
        }
        found
    }

    /// Whether clusters of a service find out which of its endpoints take mutual TLS.
    pub(super) fn detects_sidecars(&self, service: &MeshService<'_>) -> bool {
        let auto = self.config.enable_auto_mtls.unwrap_or(true);
        auto && !service.is_outside() && !self.heard(&self.peers.of_namespace(service.namespace))
    }

    /// Whether it is off. Whoever made it so has had an effect.
    fn heard(&self, said: &Said<'_>) -> bool {
        for object in &said.by {
            self.effects.mark(*object);
        }
        said.off
    }
}
