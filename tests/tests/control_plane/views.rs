//! The page on the admin port and the JSON behind it, as a program asks for them; `tests/page` has the browser.
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use waypoint_tests::telemetry::{http_exchange, http_get, http_request};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Mesh, Waypoint};

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: own, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  rules: [{from: [{source: {namespaces: [default]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {methods: [PUT]}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /split}}]
    backendRefs: [{name: web, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
";

async fn view(waypoint: &Waypoint, name: &str) -> Value {
    let (status, body) = http_get(waypoint.running.admin_addr, &format!("/view/{name}")).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn routes_and_policies_tell_what_they_came_to() {
    let mesh = Mesh::new();
    mesh.manifest("policies.yaml", POLICIES);
    let (web, _app) = mesh.http_service(1, "web").await;
    let (_, _other) = mesh.http_service(2, "other").await;
    let (waypoint, client) = mesh.started().await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    for n in 0..40 {
        let answer = client.get(web, &format!("/split/{n}?secret=x")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    stranger.get(web, "/split/x?secret=x").await;
    client.request(web, request(Method::PUT, "/y", &[])).await;

    let routes = view(&waypoint, "routes").await;
    let chains = routes["chains"].as_array().unwrap();
    let of_web = chains
        .iter()
        .find(|chain| chain["host"] == "web.default.svc.cluster.local");
    let route = &of_web.unwrap()["routes"][0];
    let shares: Vec<(f64, u64)> = route["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["percent"].as_f64().unwrap(),
                one["taken"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(route["taken"], 40);
    assert_eq!(
        (shares[0].0, shares[1].0, shares[0].1 + shares[1].1),
        (75.0, 25.0, 40)
    );
    assert!(shares[0].1 > shares[1].1 && shares[1].1 > 0, "{shares:?}");

    let policies = view(&waypoint, "policies").await;
    let of = |name: &str| {
        let all = policies["policies"].as_array().unwrap();
        let found = all.iter().find(|policy| policy["name"] == name).unwrap();
        (
            found["action"].as_str().unwrap().to_owned(),
            found["allowed"].clone(),
            found["denied"].clone(),
        )
    };
    // What DENY lets pass comes to ALLOW.
    assert_eq!(of("no-writes"), ("DENY".into(), 41.into(), 1.into()));
    assert_eq!(of("own"), ("ALLOW".into(), 40.into(), 1.into()));
    let denials = until("both denials", async || {
        let denials = view(&waypoint, "policies").await["denials"].clone();
        (denials.as_array()?.len() == 2).then_some(denials)
    })
    .await;
    assert_eq!(denials[0]["by"], "DENY default/no-writes rule 0");
    assert_eq!(denials[0]["method"], "PUT");
    assert_eq!(denials[1]["by"], "ALLOW default/own");
    assert_eq!(
        denials[1]["source"],
        "spiffe://cluster.local/ns/other/sa/stranger"
    );
    assert_eq!(denials[1]["path"], "/split/x");

    // A question is no traffic.
    let question = "from=other/stranger&url=http%3A%2F%2Fweb.default%2Fsplit";
    let post = |kind: &str| {
        format!(
            "POST /explain HTTP/1.0\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{question}",
            question.len()
        )
    };
    let admin = waypoint.running.admin_addr;
    let (status, _, told) = http_exchange(admin, &post("application/x-www-form-urlencoded")).await;
    assert_eq!(status, 200, "{told}");
    assert!(told.contains("denied"), "{told}");
    assert_eq!(http_exchange(admin, &post("text/plain")).await.0, 400);
    assert_eq!(
        view(&waypoint, "policies").await["policies"],
        policies["policies"]
    );
    assert_eq!(
        waypoint.metric("waypoint_policy_denials_total", &[]).await,
        2.0
    );
}

#[tokio::test]
async fn the_log_is_told_while_somebody_reads_it() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    client.get(web, "/before").await;
    let mut tcp = TcpStream::connect(waypoint.running.admin_addr)
        .await
        .unwrap();
    let ask = b"GET /view/log HTTP/1.1\r\nhost: localhost\r\n\r\n";
    tcp.write_all(ask).await.unwrap();
    let mut lines = BufReader::new(tcp).lines();
    let mut next = async |part: &str| {
        within(part, async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                if line.contains(part) {
                    return line;
                }
            }
        })
        .await
    };
    // By now somebody reads.
    next(": here").await;
    client.get(web, "/seen?secret=x").await;
    let line = next("data: ").await;
    let told: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        (&told["path"], &told["status"]),
        (&"/seen".into(), &200.into()),
        "{told}"
    );
    assert_eq!(told["service"], "web.default.svc.cluster.local");
    assert_eq!(told["upstreamWorkload"], "web-1");
}

#[tokio::test]
async fn the_pages_files_say_what_a_browser_may_do() {
    let mesh = Mesh::new();
    let waypoint = mesh.start().await;
    let admin = waypoint.running.admin_addr;
    for path in [
        "/",
        "/page/main.js",
        "/page/style.css",
        "/view/status",
        "/list",
        "/certs",
    ] {
        let (status, head, _) = http_request(admin, "GET", path).await;
        assert_eq!(status, 200, "{path}");
        for says in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(says), "{path}: {head}");
        }
    }
    assert_eq!(http_request(admin, "GET", "/page/none.js").await.0, 404);
    let asked = async |headers: &str| {
        let request = format!("GET /view/status HTTP/1.0\r\n{headers}\r\n\r\n");
        http_exchange(admin, &request).await.0
    };
    assert_eq!(asked("host: 127.0.0.1:15000").await, 200);
    assert_eq!(asked("host: rebound.example:15000").await, 403);
    assert_eq!(
        asked("host: localhost\r\nsec-fetch-site: cross-site").await,
        403
    );
    assert_eq!(
        asked("host: localhost\r\norigin: http://evil.example").await,
        403
    );
    // The other ports are asked by whatever name they have.
    let probe = "GET /healthz/ready HTTP/1.0\r\nhost: waypoint.shop\r\n\r\n";
    let ready = http_exchange(waypoint.running.readiness_addr, probe).await;
    assert_eq!(ready.0, 200, "{}", ready.2);
}
