//! ServiceEntries on disk whose endpoints are looked up, or are where the client wants to go.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::name_server::NameServer;
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

const DAY: u32 = 24 * 3600;

fn entry(mesh: &Mesh, name: &str, n: u8, rest: &str) -> SocketAddr {
    let vip = mesh.vip(n);
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
         spec: {{hosts: [{name}.outside.test], addresses: [{}], \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}], {rest}}}\n",
        vip.ip()
    );
    mesh.manifest(&format!("{name}.yaml"), &text);
    vip
}

async fn started(mesh: &Mesh, names: &NameServer) -> (Waypoint, Ztunnel) {
    let address = names.address;
    let waypoint = mesh
        .start_with(|options| options.dns_servers = vec![address])
        .await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    (waypoint, client)
}

async fn until_answered(client: &Ztunnel, to: SocketAddr, app: &str) {
    until(&format!("an answer of {app}"), async || {
        let answer = client.get(to, "/").await;
        (answer.status == StatusCode::OK && answer.header("x-app") == app).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hosts_and_endpoints_with_names_are_looked_up() {
    let mesh = Mesh::new();
    let names = NameServer::start().await;
    let mut apps = Vec::new();
    for (n, name) in [(1, "all"), (2, "first"), (3, "named")] {
        apps.push(App::http(mesh.backend(n), name).await);
    }
    names.set("all.outside.test", &[mesh.pod_ip(1)], DAY);
    names.set("first.outside.test", &[mesh.pod_ip(2)], DAY);
    names.set("there.test", &[mesh.pod_ip(3)], DAY);
    let all = entry(&mesh, "all", 1, "resolution: DNS");
    let first = entry(&mesh, "first", 2, "resolution: DNS_ROUND_ROBIN");
    let named = entry(
        &mesh,
        "named",
        3,
        "resolution: DNS, endpoints: [{address: there.test}]",
    );
    let (waypoint, client) = started(&mesh, &names).await;
    until_answered(&client, all, "all").await;
    until_answered(&client, first, "first").await;
    until_answered(&client, named, "named").await;
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn an_entry_without_resolution_leads_where_the_client_wants() {
    let mesh = Mesh::new();
    let names = NameServer::start().await;
    let ip = mesh.pod_ip(1);
    let _app = App::http(mesh.backend(1), "there").await;
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: any, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
         spec: {{hosts: [any.outside.test], addresses: ['{ip}/32'], resolution: NONE, \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]}}\n"
    );
    mesh.manifest("any.yaml", &text);
    let (waypoint, client) = started(&mesh, &names).await;
    until_answered(&client, SocketAddr::new(ip, 80), "there").await;
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn policies_and_tokens_of_an_entry_hold_for_its_hosts_and_for_no_others() {
    let mesh = Mesh::new();
    for (n, name) in [(1, "guarded"), (2, "open")] {
        let _app = App::http(mesh.backend(n), name).await;
    }
    let endpoint = |n| {
        let ip = mesh.pod_ip(n);
        format!("resolution: STATIC, endpoints: [{{address: '{ip}'}}]")
    };
    let guarded = entry(&mesh, "guarded", 1, &endpoint(1));
    let open = entry(&mesh, "open", 2, &endpoint(2));
    let signer = Signer::new("ES256", "k1");
    let target = "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: guarded}]";
    let meta = "metadata: {name: own, namespace: default}";
    mesh.manifest(
        "own.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{meta}\nspec: {{{target}, \
             rules: [{{from: [{{source: {{requestPrincipals: ['https://i.test/boss']}}}}]}}]}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n{meta}\nspec: {{{target}, \
             jwtRules: [{{issuer: 'https://i.test', jwks: '{}'}}]}}\n",
            key_set(&[&signer])
        ),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let show = async |to, token: &str| {
        let bearer = format!("Bearer {token}");
        let asked = request(Method::GET, "/", &[("authorization", &bearer)]);
        client.request(to, asked).await.status
    };
    let boss = signer.token(&claims("https://i.test", "boss"));
    let someone = signer.token(&claims("https://i.test", "someone"));
    assert_eq!(show(guarded, &boss).await, StatusCode::OK);
    assert_eq!(show(guarded, &someone).await, StatusCode::FORBIDDEN);
    assert_eq!(show(guarded, "none").await, StatusCode::UNAUTHORIZED);
    assert_eq!(client.get(guarded, "/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(show(open, "none").await, StatusCode::OK);
}

#[tokio::test]
async fn a_route_sends_and_mirrors_to_hosts_of_entries_whoever_serves_them() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(4, "web").await;
    let own = App::http(mesh.backend(1), "own").await;
    let other = App::http(mesh.backend(2), "other").await;
    let endpoint = |n| {
        let ip = mesh.pod_ip(n);
        format!("resolution: STATIC, endpoints: [{{address: '{ip}'}}]")
    };
    entry(&mesh, "own", 1, &endpoint(1));
    entry(&mesh, "other", 2, &endpoint(2));
    let path = mesh.manifests().join("other.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("use-waypoint: waypoint", "use-waypoint: none");
    mesh.manifest("other.yaml", &text);
    let host = |name: &str| {
        format!(
            "{{group: networking.istio.io, kind: Hostname, name: {name}.outside.test, port: 80}}"
        )
    };
    let mirror = format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {}}}}}",
        host("own")
    );
    mesh.manifest(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [\
             {{matches: [{{path: {{value: /own}}}}], backendRefs: [{}]}}, {{filters: [{mirror}], backendRefs: [{}]}}]}}\n",
            host("own"),
            host("other")
        ),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/own").await.header("x-app"), "own");
    assert_eq!(client.get(web, "/").await.header("x-app"), "other");
    until("the copy", async || (own.seen().len() == 2).then_some(())).await;
    assert_eq!(other.seen().len(), 1);
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn an_entry_has_the_pods_that_it_selects() {
    let mesh = Mesh::new();
    let app = App::http(mesh.backend(1), "pod").await;
    let _other = App::http(mesh.backend(2), "other").await;
    mesh.describe_pod(1, "vm-1", "vm", false);
    mesh.describe_pod(2, "other-1", "other", false);
    let selector = "resolution: STATIC, workloadSelector: {labels: {app: vm}}";
    let to = entry(&mesh, "vms", 1, selector);
    let (waypoint, client) = mesh.started().await;
    for _ in 0..4 {
        assert_eq!(client.get(to, "/").await.header("x-app"), "pod");
    }
    assert_eq!(app.seen().len(), 4);
    assert_eq!(waypoint.problems().await, "");
    // Another pod that it selects is one of its endpoints, too.
    mesh.describe_pod(2, "other-1", "vm", false);
    until_answered(&client, to, "other").await;
}
