//! A small mesh with something to see in every view: a split, a policy, a pod that fails, a kind that isn't honoured.

use http::{Method, StatusCode};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

const MANIFESTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /reviews}}]
    backendRefs: [{name: reviews-v1, port: 80, weight: 3}, {name: reviews-v2, port: 80, weight: 1}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: own, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{from: [{source: {namespaces: [default]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: failing, namespace: default}
spec:
  host: failing.default.svc.cluster.local
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2, interval: 200ms, baseEjectionTime: 1h, maxEjectionPercent: 100}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: odd, namespace: default}
spec: {configPatches: []}
";

/// Requests that `curl` sends to reviews, in all.
pub(crate) const CALLS: usize = 40;

/// The mesh and who is in it.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) waypoint: Waypoint,
    pub(crate) curl: Ztunnel,
    pub(crate) reviews: std::net::SocketAddr,
    _apps: Vec<App>,
}

impl Scene {
    /// Everybody is there, and has sent something.
    pub(crate) async fn played() -> Scene {
        let mesh = Mesh::new();
        mesh.manifest("scene.yaml", MANIFESTS);
        let (_, v1) = mesh.http_service(1, "reviews-v1").await;
        let (_, v2) = mesh.http_service(2, "reviews-v2").await;
        let reviews = mesh.service(3, "reviews");
        let (failing, broken) = mesh.http_service(4, "failing").await;
        broken.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
        let (waypoint, curl) = mesh.started().await;
        let stranger = mesh.client(&waypoint, "other", "stranger").await;
        for n in 0..CALLS {
            let answer = curl.get(reviews, &format!("/reviews/{n}?secret=x")).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
        let denied = stranger.get(reviews, "/reviews/1").await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
        let denied = curl
            .request(reviews, request(Method::DELETE, "/reviews/2", &[]))
            .await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
        for _ in 0..3 {
            curl.get(failing, "/").await;
        }
        Scene {
            mesh,
            waypoint,
            curl,
            reviews,
            _apps: vec![v1, v2, broken],
        }
    }

    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.waypoint.running.admin_addr)
    }
}
