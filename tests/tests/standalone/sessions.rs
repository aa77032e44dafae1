//! Sessions on disk: a client that brings back what it was given finds the pod that it had, whatever the weights say.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Answer, Ztunnel, request};
use waypoint_tests::{App, Mesh};

/// Service `n` of two pods, whose numbers begin with `first`.
async fn two(mesh: &Mesh, n: u8, name: &str, first: u8) -> SocketAddr {
    for pod in first..first + 2 {
        let pod_name = format!("{name}-{pod}");
        mesh.describe_pod(pod, &pod_name, name, false);
        App::http(mesh.backend(pod), &pod_name).await;
    }
    mesh.service(n, name)
}

/// A route of `web` whose rule says this.
fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{{rule}}}]}}\n"
    )
}

async fn ask(client: &Ztunnel, to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let answer = client
        .request(to, request(Method::GET, path, headers))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    answer
}

/// The cookie of an answer, as a client sends it back, and its attributes.
fn cookie(answer: &Answer) -> Option<(String, String)> {
    let set = answer.header("set-cookie");
    let (pair, attributes) = set.split_once("; ")?;
    Some((pair.to_owned(), attributes.to_owned()))
}

/// The pods that so many requests with this header find.
async fn pods(
    client: &Ztunnel,
    to: SocketAddr,
    path: &str,
    header: (&str, &str),
) -> BTreeSet<String> {
    let mut pods = BTreeSet::new();
    for _ in 0..12 {
        let answer = ask(client, to, path, &[header]).await;
        assert_eq!(answer.header("set-cookie"), "", "nothing is new");
        pods.insert(answer.header("x-app"));
    }
    pods
}

#[tokio::test]
async fn a_cookie_leads_back_whatever_the_weights_say() {
    let mesh = Mesh::new();
    let to = two(&mesh, 1, "web", 1).await;
    two(&mesh, 2, "canary", 5).await;
    let weighted = |web: u8, canary: u8| {
        route(&format!(
            "matches: [{{path: {{value: /shop}}}}], sessionPersistence: {{sessionName: at}}, backendRefs: \
             [{{name: web, port: 80, weight: {web}}}, {{name: canary, port: 80, weight: {canary}}}]"
        ))
    };
    mesh.manifest("route.yaml", &weighted(1, 1));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let mut begun = BTreeSet::new();
    let of_canary = loop {
        let answer = ask(&client, to, "/shop/x", &[]).await;
        let (pair, attributes) = cookie(&answer).unwrap();
        assert_eq!(attributes, "Path=/shop; SameSite=Strict; HttpOnly");
        assert!(pair.starts_with("at=\""), "{pair}");
        let pod = answer.header("x-app");
        let found = pods(&client, to, "/shop", ("cookie", &pair)).await;
        assert_eq!(found, BTreeSet::from([pod.clone()]));
        let is_canary = pod.starts_with("canary");
        begun.insert(is_canary);
        if begun.len() == 2 && is_canary {
            break (pair, pod);
        }
    };
    // Nothing new begins there, and what began there stays.
    mesh.manifest("route.yaml", &weighted(1, 0));
    until("the new weights", async || {
        let mut found = BTreeSet::new();
        for _ in 0..12 {
            found.insert(ask(&client, to, "/shop", &[]).await.header("x-app"));
        }
        found.iter().all(|pod| pod.starts_with("web")).then_some(())
    })
    .await;
    let (pair, pod) = of_canary;
    let found = pods(&client, to, "/shop", ("cookie", &pair)).await;
    assert_eq!(found, BTreeSet::from([pod.clone()]));
    // A pod that is gone is another's turn.
    mesh.remove_manifest(&format!("pod-{pod}.yaml"));
    until("another pod, and a new cookie", async || {
        let answer = ask(&client, to, "/shop", &[("cookie", &pair)]).await;
        (answer.header("x-app") != pod && cookie(&answer).is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn headers_and_cookies_that_last() {
    let mesh = Mesh::new();
    let to = two(&mesh, 1, "web", 1).await;
    let backend = "backendRefs: [{name: web, port: 80}]";
    mesh.manifest(
        "route.yaml",
        &route(&format!(
            "sessionPersistence: {{type: Header, sessionName: x-at, absoluteTimeout: 1h}}, {backend}"
        )),
    );
    let (waypoint, client) = mesh.started().await;
    let problems = waypoint.problems().await;
    let told = "spec.rules[0].sessionPersistence.absoluteTimeout: is not honoured";
    assert!(problems.contains(told), "{problems}");
    let first = ask(&client, to, "/", &[]).await;
    let at = first.header("x-at");
    let found = pods(&client, to, "/", ("x-at", &at)).await;
    assert_eq!(found, BTreeSet::from([first.header("x-app")]));
    // Whatever a client writes leads to a pod of the service, and to nothing else.
    let answer = ask(&client, to, "/", &[("x-at", "MTI3LjAuMC4xOjIy")]).await;
    assert_ne!(answer.header("x-at"), "");

    mesh.manifest(
        "route.yaml",
        &route(&format!(
            "sessionPersistence: {{absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}, {backend}"
        )),
    );
    until("a cookie that lasts", async || {
        let answer = ask(&client, to, "/", &[]).await;
        let (pair, attributes) = cookie(&answer)?;
        assert_eq!(
            attributes,
            "Max-Age=3600; Path=/; SameSite=Strict; HttpOnly"
        );
        assert!(pair.starts_with("session-"), "{pair}");
        Some(())
    })
    .await;
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn a_label_of_a_service_keeps_sessions_of_all_its_requests() {
    let mesh = Mesh::new();
    let to = two(&mesh, 1, "web", 1).await;
    let labelled = |label: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default, labels: {{istio.io/{label}}}}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n",
            to.ip()
        )
    };
    mesh.manifest("service-web.yaml", &labelled("persistent-session: at"));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let first = ask(&client, to, "/x/y", &[]).await;
    let (pair, attributes) = cookie(&first).unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly");
    let found = pods(&client, to, "/x", ("cookie", &pair)).await;
    assert_eq!(found, BTreeSet::from([first.header("x-app")]));

    mesh.manifest(
        "service-web.yaml",
        &labelled("persistent-session-header: x-at"),
    );
    let first = until("a header", async || {
        let answer = ask(&client, to, "/x/y", &[]).await;
        (!answer.header("x-at").is_empty()).then_some(answer)
    })
    .await;
    let at = first.header("x-at");
    let found = pods(&client, to, "/", ("x-at", &at)).await;
    assert_eq!(found, BTreeSet::from([first.header("x-app")]));
}
