//! A backend that keeps the bytes as they came, behind a policy that denies.

use std::net::SocketAddr;

use waypoint_tests::{ControlPlane, Mesh, Recorder, Waypoint, Ztunnel};

use super::borders::passing_trailers;

pub(super) struct Scene {
    mesh: Mesh,
    _istiod: Option<ControlPlane>,
    pub(super) to: SocketAddr,
    pub(super) recorder: Recorder,
    pub(super) waypoint: Waypoint,
    pub(super) client: Ztunnel,
}

/// Denied is what one of these rules of an AuthorizationPolicy matches.
pub(super) async fn denying(rules: &str) -> Scene {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let recorder = Recorder::start(backend).await;
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: DENY, rules: {rules}}}\n"
    );
    mesh.manifest("policy.yaml", &policy);
    let (waypoint, client) = mesh.started().await;
    Scene {
        mesh,
        _istiod: None,
        to,
        recorder,
        waypoint,
        client,
    }
}

impl Scene {
    /// The same under an istiod that lets trailers of HTTP/1 pass.
    pub(super) async fn passing_trailers(mut self) -> Scene {
        let istiod = ControlPlane::start(&self.mesh).await;
        istiod.discovery.set(passing_trailers(&self.mesh));
        (self.waypoint, self.client) = self.mesh.started_under(&istiod).await;
        self._istiod = Some(istiod);
        self
    }
}
