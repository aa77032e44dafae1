//! Authorization: the walk-through, every field of AuthorizationPolicy, tokens.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use waypoint_tests::scenario::{Scenario, service, without_lines, without_objects};
use waypoint_tests::tokens::{Signer, claims};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};

#[tokio::test]
#[ignore = "needs istiod"]
async fn walkthrough() {
    let scenario = Scenario::start("walkthrough").await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;

    // Nine of ten to v1, over HBONE.
    let client = scenario.client("curl").await;
    let mut connection = client.http1(service("reviews")).await;
    let mut answered = BTreeMap::new();
    for _ in 0..200 {
        let answer = connection.send(get("/reviews/0")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        *answered.entry(answer.header("x-app")).or_insert(0) += 1;
    }
    let apps: Vec<_> = answered.keys().map(String::as_str).collect();
    assert_eq!(apps, ["reviews-v1", "reviews-v2"]);
    assert!((3..=50).contains(&answered["reviews-v2"]), "{answered:?}");
    let tunnels = scenario.ztunnel("reviews-v1").connects();
    let to = scenario.pod_address("reviews-v1", 9080).to_string();
    assert!(tunnels.iter().all(|tunnel| tunnel.authority == to
        && tunnel.peer == "spiffe://cluster.local/ns/default/sa/waypoint"));
    scenario
        .until_metric(
            "istio_requests_total",
            &[
                ("reporter", "waypoint"),
                ("source_workload", "curl"),
                (
                    "source_principal",
                    "spiffe://cluster.local/ns/default/sa/curl",
                ),
                ("destination_workload", "reviews-v1"),
                (
                    "destination_service",
                    "reviews-v1.default.svc.cluster.local",
                ),
                ("response_code", "200"),
            ],
            answered["reviews-v1"].into(),
        )
        .await;
    scenario
        .until_logged(&[
            "\"GET /reviews/0 HTTP/1.1\" 200 - via_upstream",
            "inbound-vip|9080|http|reviews-v2.default.svc.cluster.local",
            "default.reviews.0",
        ])
        .await;

    // Viewers only read, and come from two namespaces.
    let before = scenario.app("reviews-v1").seen().len();
    let post = request(Method::POST, "/reviews/1", &[]);
    let denied = client.request(service("reviews"), post).await;
    assert_eq!(
        (denied.status, denied.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    scenario
        .until_logged(&["POST /reviews/1", "rbac_access_denied_matched_policy[none]"])
        .await;
    let stranger = scenario.client("stranger").await;
    let denied = stranger.get(service("details"), "/details/0").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let gateway = scenario
        .client_as("curl", ("cluster.local", "istio-system", "gateway"))
        .await;
    let allowed = gateway.get(service("details"), "/details/0").await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(scenario.app("reviews-v1").seen().len(), before);

    // A service that isn't this waypoint's.
    let (status, _) = client.connect_to("10.43.9.9:80", &[]).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn authorization() {
    let mut scenario = Scenario::start("authorization").await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    // Its policy asks for a token, and for a server name, which plain HTTP doesn't have.
    let answer = client.get(service("reviews"), "/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(scenario.app("reviews-v1").seen().is_empty());

    // CUSTOM over HTTP: `details` is asked about what the rule matches.
    for (path, asked) in [("/", 0), ("/login?next=/", 1)] {
        let answer = client.get(service("productpage"), path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let seen = scenario.app("details-v1").seen();
        assert_eq!(seen.len(), asked);
        if let Some(check) = seen.last() {
            assert_eq!(check.target, "/check/login?next=/");
            assert_eq!(check.header("x-from"), "waypoint");
        }
    }
    // And over gRPC, where nobody speaks it: its provider fails open.
    let answer = client.get(service("reviews-v3"), "/").await;
    assert_eq!(answer.status, StatusCode::OK);

    // DENY on the Gateway, however the path is written.
    let details = service("details");
    for path in [
        "/debug",
        "/debug/x",
        "//debug",
        "/%64ebug",
        "/a%2F..%2Fdebug",
    ] {
        let denied = client.get(details, path).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(client.get(details, "/a/debug").await.status, StatusCode::OK);
    // DENY on the class of Gateways; AUDIT lets pass.
    let quarantined = scenario
        .client_as("curl", ("cluster.local", "quarantine", "any"))
        .await;
    let denied = quarantined.get(details, "/").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let audited = request(Method::POST, "/details/1", &[]);
    assert_eq!(
        client.request(details, audited).await.status,
        StatusCode::OK
    );
    // A dry run denies nobody; an empty policy everybody.
    let stranger = scenario.client("stranger").await;
    let passed = stranger.get(service("ratings"), "/").await;
    assert_eq!(passed.status, StatusCode::OK);
    let denied = client.get(service("reviews-v2"), "/").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);

    // Without tokens and SNI a request of plain HTTP has all that it asks for.
    scenario.change(|text| {
        let text = without_objects(text, &["action: CUSTOM"]);
        without_lines(
            &text,
            &["request.auth.", "equestPrincipals", "connection.sni"],
        )
    });
    scenario.istiod.until_synced().await;
    every_field(&scenario).await;
}

/// The policy on `reviews`: a request that it allows, and others that miss one thing each.
async fn every_field(scenario: &Scenario) {
    let reviews = service("reviews");
    let good = [
        ("host", "reviews.default.svc.cluster.local"),
        ("x-version", "v1"),
        // `remote.ip` is what a trusted hop says of the client.
        ("x-forwarded-for", "10.1.2.3"),
    ];
    let client = scenario.client("curl").await;
    until("the change is in force", async || {
        let answer = client.request(reviews, request(Method::GET, "/", &good));
        (answer.await.status == StatusCode::OK).then_some(())
    })
    .await;
    let with = |name: &'static str, value: &'static str| {
        good.map(|header| {
            if header.0 == name {
                (name, value)
            } else {
                header
            }
        })
    };
    let cases = [
        ("host", Method::PUT, "/any", good, 200),
        (
            "host by suffix",
            Method::PUT,
            "/any",
            with("host", "a.example.com"),
            200,
        ),
        (
            "no host",
            Method::PUT,
            "/any",
            with("host", "elsewhere"),
            403,
        ),
        (
            "a host excepted",
            Method::PUT,
            "/any",
            with("host", "internal.example.com"),
            403,
        ),
        (
            "path by prefix",
            Method::GET,
            "/reviews/1?a=b",
            with("host", "elsewhere"),
            200,
        ),
        (
            "path by suffix",
            Method::HEAD,
            "/x/info",
            with("host", "elsewhere"),
            200,
        ),
        (
            "path",
            Method::GET,
            "/exact",
            with("host", "elsewhere"),
            200,
        ),
        (
            "path by template",
            Method::GET,
            "/api/1/items",
            with("host", "elsewhere"),
            200,
        ),
        (
            "path below a template",
            Method::GET,
            "/api/1/2/items",
            with("host", "elsewhere"),
            403,
        ),
        (
            "path by open template",
            Method::GET,
            "/deep/1/2/3",
            with("host", "elsewhere"),
            200,
        ),
        (
            "a path excepted",
            Method::GET,
            "/reviews/secret1",
            with("host", "elsewhere"),
            403,
        ),
        (
            "no path",
            Method::GET,
            "/other",
            with("host", "elsewhere"),
            403,
        ),
        (
            "no method",
            Method::DELETE,
            "/exact",
            with("host", "elsewhere"),
            403,
        ),
        (
            "header by prefix",
            Method::GET,
            "/",
            with("x-version", "v22"),
            200,
        ),
        (
            "a header excepted",
            Method::GET,
            "/",
            with("x-version", "v29"),
            403,
        ),
        ("no header", Method::GET, "/", with("x-version", "v3"), 403),
        (
            "no remote address",
            Method::GET,
            "/",
            with("x-forwarded-for", "11.1.2.3"),
            403,
        ),
    ];
    for (case, method, path, headers, status) in cases {
        let answer = client
            .request(reviews, request(method, path, &headers))
            .await;
        assert_eq!(answer.status, status, "{case}");
    }
    // The trust domain's alias is as good; another account is not, nor another namespace.
    let as_curl = [("old.example", 200), ("cluster.local", 200)];
    for (trust_domain, status) in as_curl {
        let client = scenario
            .client_as("curl", (trust_domain, "default", "curl"))
            .await;
        let answer = client
            .request(reviews, request(Method::GET, "/", &good))
            .await;
        assert_eq!(answer.status, status, "{trust_domain}");
    }
    for pod in ["ratings-v1", "stranger"] {
        let client = scenario.client(pod).await;
        let answer = client
            .request(reviews, request(Method::GET, "/", &good))
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{pod}");
    }
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn jwt() {
    let mut scenario = Scenario::start("jwt").await;
    scenario.until_refused(&[]).await;
    scenario.pod.until_ready().await;
    let client = scenario.client("curl").await;
    let (productpage, details) = (service("productpage"), service("details"));
    let token = |key: &str, claims: &serde_json::Value| Signer::of_rfc_7517(key).token(claims);
    let mut first = claims("https://issuer.test", "somebody");
    first["aud"] = "web".into();
    first["nested"] = serde_json::json!({"role": "admin"});
    let late = serde_json::json!({"iss": "https://issuer.test", "aud": "web", "exp": 7});
    let mut elsewhere = first.clone();
    elsewhere["aud"] = "nobody".into();
    let [first, late, elsewhere] = [&first, &late, &elsewhere].map(|c| token("k1", c));
    let second = token("k2", &claims("https://second.test", "somebody"));
    let gateway = token("k3", &claims("https://gateway.test", "somebody"));
    let (bearer, x_token) = ("authorization", "x-token");
    for (to, header, value, status) in [
        // The first issuer's tokens have places of their own, others the usual ones.
        (
            productpage,
            x_token,
            format!("Token {first}"),
            StatusCode::OK,
        ),
        (
            productpage,
            "cookie",
            format!("session={first}"),
            StatusCode::OK,
        ),
        (
            productpage,
            bearer,
            format!("Bearer {first}"),
            StatusCode::UNAUTHORIZED,
        ),
        (
            productpage,
            x_token,
            format!("Token {late}"),
            StatusCode::UNAUTHORIZED,
        ),
        (
            productpage,
            x_token,
            format!("Token {elsewhere}"),
            StatusCode::FORBIDDEN,
        ),
        (
            productpage,
            bearer,
            format!("Bearer {second}"),
            StatusCode::OK,
        ),
        (
            productpage,
            bearer,
            format!("Bearer {gateway}"),
            StatusCode::OK,
        ),
        (
            productpage,
            bearer,
            "Bearer e30.e30.e30".into(),
            StatusCode::UNAUTHORIZED,
        ),
        // Who has no token is denied by a policy, and only there.
        (productpage, "x-none", "x".into(), StatusCode::FORBIDDEN),
        (details, "x-none", "x".into(), StatusCode::OK),
        (details, bearer, format!("Bearer {gateway}"), StatusCode::OK),
        (
            details,
            bearer,
            format!("Bearer {second}"),
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        let asked = request(Method::GET, "/", &[(header, &value)]);
        let answer = client.request(to, asked).await;
        assert_eq!(
            answer.status,
            status,
            "{to} {header}: {value}: {}",
            answer.text()
        );
    }
    let spoofed = [
        ("x-jwt-sub", "root"),
        ("x-token", &format!("Token {first}")),
    ];
    let answer = client
        .request(productpage, request(Method::GET, "/", &spoofed))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = scenario.app("productpage-v1").last();
    assert_eq!(
        [seen.header("x-jwt-sub"), seen.header("x-jwt-role")],
        ["somebody", "admin"]
    );
    // `forwardOriginalToken`.
    assert_eq!(seen.header("x-token"), format!("Token {first}"));

    // Without RequestAuthentication nobody has a principal.
    scenario.change(|text| without_objects(text, &["kind: RequestAuthentication"]));
    let asked = [("authorization", format!("Bearer {gateway}"))];
    let asked = asked
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    until("the change", async || {
        let answer = client
            .request(productpage, request(Method::GET, "/", &asked))
            .await;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert_eq!(client.get(details, "/").await.status, StatusCode::OK);
}
