//! DestinationRules on disk: hashing sticks, what fails is left out, what is near comes first, limits hold.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::{Method, StatusCode, Version};
use prost::Message;
use waypoint_config::resource::ResourceType;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh, Ztunnel};

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec:\n  host: web\n  trafficPolicy: {{{policy}}}\n"
    )
}

/// Service `web` of three pods.
async fn three(mesh: &Mesh) -> (SocketAddr, [App; 3]) {
    let mut apps = Vec::new();
    for n in 1..=3 {
        mesh.describe_pod(n, &format!("web-{n}"), "web", false);
        apps.push(App::http(mesh.backend(n), &format!("web-{n}")).await);
    }
    (mesh.service(1, "web"), apps.try_into().ok().unwrap())
}

/// Two zones: the waypoint and `web-2` in one, the others in the other.
fn places(mesh: &Mesh) {
    for (node, zone) in [("n1", "a"), ("n2", "b")] {
        mesh.manifest(
            &format!("node-{node}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}}}}}\n"
            ),
        );
    }
    mesh.manifest(
        "own.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: way-1, namespace: default, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}\nspec: {nodeName: n1}\n",
    );
    for n in 1..=3 {
        let file = mesh.manifests().join(format!("pod-web-{n}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let node = if n == 2 { "n1" } else { "n2" };
        std::fs::write(
            file,
            text.replace("spec: {", &format!("spec: {{nodeName: {node}, ")),
        )
        .unwrap();
    }
}

/// Who answers twelve requests.
async fn answering(client: &Ztunnel, to: SocketAddr) -> BTreeSet<String> {
    let mut connection = client.http1(to).await;
    let mut found = BTreeSet::new();
    for _ in 0..12 {
        found.insert(connection.send(get("/")).await.header("x-app"));
    }
    found
}

#[tokio::test]
async fn hashed_requests_stay_with_a_pod() {
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    mesh.manifest(
        "rule.yaml",
        &rule(
            "loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 1021}}}",
        ),
    );
    let (waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    let mut all = BTreeSet::new();
    for user in 0..16 {
        let user = format!("user-{user}");
        let mut own = BTreeSet::new();
        for _ in 0..4 {
            let asked = request(Method::GET, "/", &[("x-user", &user)]);
            own.insert(connection.send(asked).await.header("x-app"));
        }
        assert_eq!(own.len(), 1, "{user}: {own:?}");
        all.extend(own);
    }
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn a_pod_that_fails_is_left_out() {
    let mesh = Mesh::new();
    let (to, apps) = three(&mesh).await;
    mesh.manifest(
        "rule.yaml",
        &rule("loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1h, maxEjectionPercent: 50}"),
    );
    apps[0].fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    let (waypoint, client) = mesh.started().await;
    until("the pod that fails is out", async || {
        let found = answering(&client, to).await;
        (found == BTreeSet::from(["web-2".to_owned(), "web-3".to_owned()])).then_some(())
    })
    .await;
    // Without the rule it is asked again.
    mesh.remove_manifest("rule.yaml");
    apps[0].fail(None);
    until("the pod is back", async || {
        (answering(&client, to).await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn what_is_near_comes_first() {
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    places(&mesh);
    mesh.manifest(
        "rule.yaml",
        &rule("outlierDetection: {baseEjectionTime: 1h}"),
    );
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(
        answering(&client, to).await,
        BTreeSet::from(["web-2".to_owned()])
    );
    mesh.manifest(
        "rule.yaml",
        &rule("loadBalancer: {localityLbSetting: {distribute: [{from: r/a, to: {r/b: 100}}]}}"),
    );
    until("all goes to the other zone", async || {
        let found = answering(&client, to).await;
        (found == BTreeSet::from(["web-1".to_owned(), "web-3".to_owned()])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_mesh_says_what_is_near_and_what_speaks_http2() {
    let mesh = Mesh::new();
    let (to, apps) = three(&mesh).await;
    places(&mesh);
    let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let file = "accessLogFile: /dev/stdout";
    let shares = "localityLbSetting: {distribute: [{from: r/a/*, to: {r/b/*: 100}}]}";
    let said = base.replace(
        file,
        &format!("{file}\n    h2UpgradePolicy: UPGRADE\n    {shares}"),
    );
    mesh.manifest("base.yaml", &said);
    let (waypoint, client) = mesh.started().await;
    assert_eq!(
        answering(&client, to).await,
        BTreeSet::from(["web-1".to_owned(), "web-3".to_owned()])
    );
    assert_eq!(apps[0].last().version, Version::HTTP_2);
    assert_eq!(waypoint.problems().await, "");
    // What a rule says stands above it.
    mesh.manifest(
        "rule.yaml",
        &rule("loadBalancer: {localityLbSetting: {enabled: false}}, connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}"),
    );
    until("all answer", async || {
        (answering(&client, to).await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(apps[1].last().version, Version::HTTP_11);
}

#[tokio::test]
async fn limits_hold() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "rule.yaml",
        &rule("connectionPool: {http: {maxRequestsPerConnection: 1}}"),
    );
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for _ in 0..5 {
        assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    }
    assert_eq!(app.connections(), 5);
}

#[tokio::test]
async fn what_is_beyond_a_ports_limits_is_turned_away() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "rule.yaml",
        &rule("portLevelSettings: [{port: {number: 80}, connectionPool: {http: {http2MaxRequests: 1}}}]"),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let mut connection = client.http1(to).await;
    let slow = connection.send(request(Method::GET, "/slow", &[("x-delay-ms", "3000")]));
    let beyond = async {
        until("the first request is there", async || {
            (!app.seen().is_empty()).then_some(())
        })
        .await;
        client.get(to, "/beyond").await
    };
    let (slow, beyond) = tokio::join!(slow, beyond);
    assert_eq!(slow.status, StatusCode::OK);
    assert_eq!(beyond.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(beyond.header("x-envoy-overloaded"), "true");
}

#[tokio::test]
async fn a_subset_is_a_cluster_of_its_pods() {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    let file = mesh.manifests().join("pod-web-2.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, text.replace("version: v1", "version: v2")).unwrap();
    let subsets = "  subsets:\n  - {name: v2, labels: {version: v2}}\n";
    mesh.manifest("rule.yaml", &(rule("retryBudget: {}") + subsets));
    let name = "inbound-vip|80|http/v2|web.default.svc.cluster.local";
    let resources = mesh.resources();
    let mut own = resources.iter().filter(|resource| resource.name == name);
    assert_eq!(own.clone().count(), 2, "a cluster and its endpoints");
    let endpoints = own.find(|resource| resource.kind == ResourceType::Endpoints);
    let found = ClusterLoadAssignment::decode(endpoints.unwrap().body.clone()).unwrap();
    let all: Vec<_> = found
        .endpoints
        .iter()
        .flat_map(|l| &l.lb_endpoints)
        .collect();
    assert_eq!(all.len(), 1);
    mesh.manifest(
        "route.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: default}\n\
         spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v2}}]}]}\n",
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let found = answering(&client, to).await;
    assert_eq!(found, BTreeSet::from(["web-2".to_owned()]));
}
