//! `connection.sni` beside Envoy: the same names asked for in tunnels, by the same policies.

use waypoint_tests::envoy::Envoy;
use waypoint_tests::server_names::{TlsApp, asks_for};
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

const LOG: &str = "NAME %REQUESTED_SERVER_NAME% %CONNECTION_TERMINATION_DETAILS%\n";
const NAMES: &[Option<&str>] = &[
    Some("one.example.com"),
    Some("ONE.Example.com"),
    Some("two.example.com"),
    Some("example.com"),
    Some("one.example.com.evil.com"),
    Some("a_b.example.com"),
    None,
];

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_names_are_let_through() {
    for (action, condition) in [
        ("ALLOW", "values: [one.example.com]"),
        ("DENY", "values: [one.example.com]"),
        ("ALLOW", "notValues: [one.example.com]"),
        ("DENY", "notValues: ['*.example.com']"),
        ("ALLOW", "values: ['*']"),
        ("DENY", "values: ['one.*']"),
    ] {
        let mesh = Mesh::new();
        mesh.access_log_format(LOG);
        mesh.describe_pod(1, "vault-1", "vault", false);
        let to = mesh.service_with_port(1, "vault", "{name: tls, port: 80, targetPort: 8080}");
        let _app = TlsApp::start(mesh.backend(1)).await;
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: names, namespace: default}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: vault}}], action: {action}, \
             rules: [{{when: [{{key: connection.sni, {condition}}}]}}]}}\n"
        );
        mesh.manifest("policy.yaml", &policy);
        let resources = mesh.resources();
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources.clone());
        let (waypoint, ours) = mesh.started_under(&istiod).await;
        assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
        let (envoy, beside) = Envoy::beside(&mesh, &resources).await;
        let certificate = mesh.certificate("default", "curl");
        let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();
        let mut verdicts = Vec::new();
        for (n, name) in NAMES.iter().enumerate() {
            let mut outcomes = Vec::new();
            for ztunnel in [&ours, &theirs] {
                outcomes.push(asks_for(ztunnel.tunnel(to).await, *name, 700).await);
            }
            assert_eq!(outcomes[0], outcomes[1], "{action} {condition}: {name:?}");
            verdicts.push(outcomes[0].is_some());
            let line = async |text: &dyn Fn() -> String| {
                until("a line for each stream", async || {
                    let text = text();
                    let line = text.lines().filter(|line| line.starts_with("NAME ")).nth(n);
                    line.map(str::to_owned)
                })
                .await
            };
            let log = || waypoint.log();
            let ours = line(&log).await;
            let log = || envoy.log();
            let theirs = line(&log).await;
            assert_eq!(ours, theirs, "{action} {condition}: {name:?}");
        }
        assert!(
            verdicts.contains(&false) && verdicts.contains(&true),
            "{policy}"
        );
    }
}
