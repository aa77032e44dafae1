//! A backend that keeps the bytes as they came, behind a policy that denies.

use std::net::SocketAddr;

use waypoint_tests::{Mesh, Recorder, Waypoint, Ztunnel};

pub(super) struct Scene {
    _mesh: Mesh,
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
        _mesh: mesh,
        to,
        recorder,
        waypoint,
        client,
    }
}
