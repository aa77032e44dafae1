//! Waypoints in trouble of every kind that can be had quickly.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::google::protobuf::Any;
use http::{Method, StatusCode};
use waypoint_filters::metrics::Limits;
use waypoint_proxy::run::AccessLogTarget;
use waypoint_tests::managers::{self, INNER};
use waypoint_tests::scripted_ca::Issue;
use waypoint_tests::telemetry::http_request;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

/// Nobody listens at `nowhere`.
const MANIFESTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    defaultProviders: {metrics: [prometheus]}
    extensionProviders: [{name: ask, envoyExtAuthzHttp: {service: nowhere.default.svc.cluster.local, port: 80}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asked, namespace: default}
spec: {targetRefs: [{group: '', kind: Service, name: asked}], action: CUSTOM, provider: {name: ask}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: without-keys, namespace: default}
spec: {targetRefs: [{group: '', kind: Service, name: closed}], jwtRules: [{issuer: a}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec: {targetRefs: [{group: '', kind: Service, name: web}], jwtRules: [{issuer: a, jwksUri: 'http://nowhere.default.svc.cluster.local/keys'}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: failing, namespace: default}
spec:
  host: failing.default.svc.cluster.local
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2, interval: 200ms, baseEjectionTime: 1h, maxEjectionPercent: 100}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: narrow, namespace: default}
spec: {host: narrow.default.svc.cluster.local, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secret, namespace: default}
spec: {host: closed.default.svc.cluster.local, trafficPolicy: {tls: {mode: SIMPLE, credentialName: nobodys}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: default}
spec:
  hosts: [named.example]
  addresses: [240.1.1.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: labels, namespace: default}
spec: {metrics: [{providers: [{name: prometheus}], overrides: [{tagOverrides: {'no label': {value: request.path}}}]}]}
";

/// A waypoint on manifests of which much is wrong, and its traffic.
pub(crate) struct Troubled {
    pub(crate) waypoint: Waypoint,
    /// Another one, whose metrics have no room.
    pub(crate) full: Waypoint,
    client: Ztunnel,
    of_full: Ztunnel,
    services: [SocketAddr; 3],
    narrow: SocketAddr,
    _apps: Vec<App>,
}

impl Troubled {
    pub(crate) async fn start(mesh: &Mesh) -> Troubled {
        mesh.manifest("troubles.yaml", MANIFESTS);
        let (failing, broken) = mesh.http_service(1, "failing").await;
        broken.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
        let (asked, asked_app) = mesh.http_service(2, "asked").await;
        let (narrow, narrow_app) = mesh.http_service(3, "narrow").await;
        let (web, web_app) = mesh.http_service(4, "web").await;
        mesh.bare_service(5, "nowhere");
        mesh.bare_service(6, "closed");
        let log = mesh.folder().join("no/such/folder/access.log");
        let nobody = SocketAddr::new(mesh.pod_ip(200), 53);
        let waypoint = mesh
            .start_with(|options| {
                options.access_log = AccessLogTarget::File(log);
                options.dns_servers = vec![nobody];
            })
            .await;
        let limits = Limits {
            max_series: 1,
            ..Limits::DEFAULT
        };
        let full = mesh.start_with(|options| options.metrics = limits).await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        let of_full = mesh.client(&full, "default", "curl").await;
        let admin = waypoint.running.admin_addr;
        http_request(admin, "POST", "/healthcheck/fail").await;
        // Broken: what it said before stays.
        let broken_pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n";
        mesh.manifest("pod-odd.yaml", broken_pod);
        Troubled {
            waypoint,
            full,
            client,
            of_full,
            services: [failing, asked, web],
            narrow,
            _apps: vec![broken, asked_app, narrow_app, web_app],
        }
    }

    /// Sends for ever.
    pub(crate) async fn load(&self) {
        let slow = async {
            loop {
                let slow = request(Method::GET, "/", &[("x-delay-ms", "5000")]);
                self.client.request(self.narrow, slow).await;
            }
        };
        let quick = async {
            loop {
                for to in self.services {
                    self.client.get(to, "/").await;
                    self.of_full.get(to, "/").await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::join!(slow, quick);
    }
}

/// A waypoint with next to no memory, and room for one connection.
pub(crate) async fn poor(mesh: &Mesh) -> Waypoint {
    mesh.start_with(|options| {
        options.limits.memory = Some(8 << 20);
        options.limits.connections = 1;
    })
    .await
}

/// A waypoint whose istiod sends something good, then something bad, and goes away; its certificate is about to expire.
pub(crate) struct Left {
    pub(crate) waypoint: Waypoint,
    istiod: ControlPlane,
}

impl Left {
    pub(crate) async fn start(mesh: &Mesh) -> Left {
        let istiod = ControlPlane::of(mesh).await;
        istiod.ca.issue(Issue::For(Duration::from_secs(20)));
        let waypoint = mesh.start_under(&istiod).await;
        Left { waypoint, istiod }
    }

    pub(crate) async fn spoil_and_leave(&self, mesh: &Mesh) {
        let mut resources = mesh.resources();
        managers::change(&mut resources, INNER, |manager| {
            let unknown = Any {
                type_url: "type.googleapis.com/example.Unknown".into(),
                value: Vec::new(),
            };
            let filter = HttpFilter {
                name: "unknown".into(),
                config_type: Some(ConfigType::TypedConfig(unknown)),
                ..HttpFilter::default()
            };
            manager.http_filters.insert(0, filter);
        });
        self.istiod.discovery.set(resources);
        self.istiod.discovery.until_answered().await;
        self.istiod.away(true);
    }
}
