//! A waypoint under an istiod with everything that a dashboard shows: services that answer, fail and stream, policies,
//! limits, a mirror.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const MANIFESTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mirrored, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: far, port: 80}}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-posts, namespace: default, annotations: {istio.io/dry-run: 'true'}}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {methods: [POST]}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: failing, namespace: default}
spec:
  host: failing.default.svc.cluster.local
  trafficPolicy:
    connectionPool: {http: {http2MaxRequests: 100}}
    outlierDetection: {consecutive5xxErrors: 1000, interval: 1s}
";

/// Who is there.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) waypoint: Waypoint,
    client: Ztunnel,
    web: SocketAddr,
    far: SocketAddr,
    failing: SocketAddr,
    gone: SocketAddr,
    tcp: SocketAddr,
    _rest: (ControlPlane, Vec<App>, PodZtunnel),
}

impl Scene {
    pub(crate) async fn start() -> Scene {
        let mesh = Mesh::new();
        mesh.manifest("scene.yaml", MANIFESTS);
        let (web, app) = mesh.http_service(1, "web").await;
        let (far, far_app, ztunnel) = mesh.captured_service(2, "far").await;
        let (failing, broken) = mesh.http_service(3, "failing").await;
        broken.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
        let (tcp, backend) = mesh.bare_tcp_service(4, "tcp");
        App::tcp(backend, |mut tcp| async move {
            let _ = tcp.read_u8().await;
            let _ = tcp.write_all(b"answer").await;
        })
        .await;
        let (gone, _) = mesh.bare_service(5, "gone");
        mesh.describe_pod(6, "curl-1", "curl", false);
        let istiod = ControlPlane::of(&mesh).await;
        let waypoint = mesh.start_under(&istiod).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect_from(mesh.pod_ip(6), waypoint.address(), &certificate);
        let client = client.await.unwrap();
        Scene {
            mesh,
            waypoint,
            client,
            web,
            far,
            failing,
            gone,
            tcp,
            _rest: (istiod, vec![app, far_app, broken], ztunnel),
        }
    }

    /// Sends for ever.
    async fn load(&self) {
        let answers = [
            (self.web, Method::GET, StatusCode::OK),
            (self.web, Method::POST, StatusCode::OK),
            (self.web, Method::DELETE, StatusCode::FORBIDDEN),
            (self.far, Method::GET, StatusCode::OK),
            (self.failing, Method::GET, StatusCode::INTERNAL_SERVER_ERROR),
            (self.gone, Method::GET, StatusCode::SERVICE_UNAVAILABLE),
        ];
        loop {
            for (to, method, status) in &answers {
                let answer = self.client.request(*to, request(method.clone(), "/", &[]));
                assert_eq!(answer.await.status, *status);
            }
            let mut stream = self.client.tunnel(self.tcp).await;
            stream.write_all(b"?").await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, b"answer");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Does something while there is traffic.
    pub(crate) async fn under_load<T>(&self, doing: impl Future<Output = T>) -> T {
        tokio::select! {
            done = doing => done,
            () = self.load() => unreachable!("it sends for ever"),
        }
    }
}
