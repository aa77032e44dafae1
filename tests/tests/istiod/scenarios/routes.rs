//! Routing: HTTPRoute, VirtualService, DestinationRule.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use waypoint_tests::scenario::{Scenario, service};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Answer, Ztunnel, request};

async fn ask(client: &Ztunnel, path: &str, headers: &[(&str, &str)]) -> Answer {
    let asked = request(Method::GET, path, headers);
    client.request(service("reviews"), asked).await
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn httproute() {
    let scenario = Scenario::start("httproute").await;
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
    scenario.pod.until_ready().await;
    let client = scenario.client("curl").await;
    // A consumer's route isn't a waypoint's matter.
    let other = client.get(service("ratings"), "/").await;
    assert_eq!(other.status, StatusCode::OK);
    assert_eq!(scenario.app("ratings-v1").last().header("x-consumer"), "");

    cors(&scenario, &client).await;
    matches_and_headers(&scenario, &client).await;
    redirect_and_rewrites(&scenario, &client).await;
    mirrors(&scenario, &client).await;
    timeouts_and_retries(&scenario, &client).await;
    backends(&scenario, &client).await;
}

async fn cors(scenario: &Scenario, client: &Ztunnel) {
    let preflight = async |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "PUT")];
        let asked = request(Method::OPTIONS, "/cors", &headers);
        let answer = client.request(service("reviews"), asked).await;
        let of = |name: &str| answer.header(&format!("access-control-{name}"));
        let told = ["allow-origin", "allow-methods", "max-age"].map(of);
        (answer.status, told)
    };
    for (origin, marked) in [
        ("https://a.example.com", "https://a.example.com"),
        ("https://x.b.example.com", "https://x.b.example.com"),
        ("https://c.example.com", ""),
    ] {
        let (status, told) = preflight(origin).await;
        assert_eq!(
            (status, told),
            (
                StatusCode::OK,
                [marked, "GET,PUT", "300"].map(str::to_owned)
            )
        );
    }
    scenario
        .until_logged(&["OPTIONS /cors", " cors_response "])
        .await;
    let answer = ask(client, "/cors", &[("origin", "https://a.example.com")]).await;
    assert_eq!(answer.header("access-control-expose-headers"), "x-two");
}

async fn matches_and_headers(scenario: &Scenario, client: &Ztunnel) {
    let user = [("x-user", "jason"), ("x-re", "a1b"), ("x-remove", "1")];
    let mut by_v1 = 0;
    for _ in 0..40 {
        let answer = ask(client, "/exact", &user).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            (answer.header("x-rset"), answer.header("x-radd")),
            ("a".to_owned(), "b".to_owned())
        );
        let app = answer.header("x-app");
        let seen = scenario.app(&app).last();
        let headers = ["x-set", "x-add", "x-remove", "x-backend"].map(|name| seen.header(name));
        let backend = if app == "reviews-v1" { "v1" } else { "" };
        assert_eq!(headers, ["a", "b", "", backend], "{app}");
        by_v1 += usize::from(app == "reviews-v1");
    }
    assert!((15..40).contains(&by_v1), "three of four: {by_v1}");
    assert!(scenario.app("reviews-v3").seen().is_empty(), "weight 0");
    scenario
        .until_logged(&["GET /exact", "exact-and-header"])
        .await;
    let (only_user, other_re) = (&user[..1], [user[0], ("x-re", "b")]);
    let cases = [
        ("/exact", only_user, 404),
        ("/exact", &other_re, 404),
        ("/exact/", &user, 404),
        ("/item/12?q=1&r=abc", &[], 200),
        ("/item/12?q=1&r=ABC", &[], 404),
        ("/item/12?q=1", &[], 404),
        ("/item/x?q=1&r=abc", &[], 404),
        ("/nothing", &[], 404),
        // The younger route, on every port; the host that it names is no condition in a mesh.
        ("/nothing", &[("x-canary", "yes")], 200),
    ];
    for (path, headers, status) in cases {
        let answer = ask(client, path, headers).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
    }
    assert_eq!(scenario.app("reviews-v3").last().target, "/nothing");
    let posted = request(Method::POST, "/item/12?q=1&r=abc", &[]);
    let answer = client.request(service("reviews"), posted).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    scenario.until_logged(&["POST /item/12", " 404 NR "]).await;
}

async fn redirect_and_rewrites(scenario: &Scenario, client: &Ztunnel) {
    let moved = ask(client, "/old/a?b=c", &[]).await;
    assert_eq!(
        (moved.status, moved.header("location").as_str()),
        (
            StatusCode::MOVED_PERMANENTLY,
            "https://new.example.com:8443/new/a?b=c"
        )
    );
    let cases = [
        ("/prefix/a/b?c", "/a/b?c", "rewritten.example.com"),
        ("/full/a?b=c", "/all?b=c", "test"),
        ("/mirror/a", "/mirror/a", "test"),
        ("/cors", "/cors", "test"),
    ];
    for (path, target, host) in cases {
        assert_eq!(ask(client, path, &[]).await.status, StatusCode::OK);
        let seen = scenario.app("reviews-v1").last();
        assert_eq!(
            (seen.target.as_str(), seen.header("host").as_str()),
            (target, host)
        );
    }
}

/// A rule may have several; each gets its share.
async fn mirrors(scenario: &Scenario, client: &Ztunnel) {
    until("a copy at each", async || {
        assert_eq!(
            ask(client, "/mirror/b", &[]).await.header("x-app"),
            "reviews-v1"
        );
        let copied = |app: &str| {
            scenario
                .app(app)
                .seen()
                .iter()
                .any(|seen| seen.target == "/mirror/b")
        };
        (copied("reviews-v2") && copied("reviews-v3")).then_some(())
    })
    .await;
    assert_eq!(scenario.app("reviews-v3").last().header("host"), "test");
}

async fn timeouts_and_retries(scenario: &Scenario, client: &Ztunnel) {
    let app = scenario.app("reviews-v1");
    for (status, attempts) in [("503", 4), ("500", 4), ("502", 1), ("404", 1)] {
        app.forget();
        let answer = ask(client, "/slow", &[("x-status", status)]).await;
        assert_eq!(answer.status.as_str(), status);
        assert_eq!(app.seen().len(), attempts, "{status}");
    }
    // Half a second for an attempt; one that timed out is none of those that are made again.
    app.forget();
    let began = Instant::now();
    let answer = ask(client, "/slow", &[("x-delay-ms", "5000")]).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(began.elapsed() < Duration::from_millis(1500));
    assert_eq!(app.seen().len(), 1);
    scenario.until_logged(&["GET /slow", " 504 UT "]).await;
}

async fn backends(scenario: &Scenario, client: &Ztunnel) {
    // One of two backends doesn't exist.
    let mut answers = [0, 0];
    for _ in 0..40 {
        match ask(client, "/broken", &[]).await.status {
            StatusCode::OK => answers[0] += 1,
            StatusCode::INTERNAL_SERVER_ERROR => answers[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert!(answers.iter().all(|n| *n > 5), "{answers:?}");
    // Another namespace's service, which has no ztunnel.
    let answer = ask(client, "/denied-reference", &[]).await;
    assert_eq!(
        (answer.status, answer.header("x-app").as_str()),
        (StatusCode::OK, "legacy")
    );
    scenario
        .until_metric(
            "istio_requests_total",
            &[
                ("destination_service", "legacy.other.svc.cluster.local"),
                ("destination_workload", "legacy"),
                ("connection_security_policy", "mutual_tls"),
            ],
            1.0,
        )
        .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn traffic_policy() {
    let scenario = Scenario::start("traffic-policy").await;
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
    let client = scenario.client("curl").await;
    // A delegate's route; a TCP route says nothing of an HTTP port.
    let details = service("details");
    assert_eq!(client.get(details, "/d/one/a").await.status, StatusCode::OK);
    assert_eq!(
        client.get(details, "/d/two").await.status,
        StatusCode::NOT_FOUND
    );
    let page = client.get(service("productpage"), "/").await;
    assert_eq!(page.status, StatusCode::OK);
    let ratings = client.get(service("ratings"), "/").await;
    assert_eq!(ratings.status, StatusCode::OK);

    virtual_service(&scenario, &client).await;
    faults(&scenario, &client).await;
}

/// Half of the requests wait, one of ten is aborted.
async fn faults(scenario: &Scenario, client: &Ztunnel) {
    until("an aborted request", async || {
        let answer = ask(client, "/fault/x", &[]).await;
        (answer.status == StatusCode::IM_A_TEAPOT).then_some(())
    })
    .await;
    let aborted = ["GET /fault/x", " 418 ", "FI fault_filter_abort "];
    scenario.until_logged(&aborted).await;
    until("a delayed request", async || {
        let began = Instant::now();
        ask(client, "/fault/x", &[]).await;
        (began.elapsed() >= Duration::from_millis(200)).then_some(())
    })
    .await;
    scenario.until_logged(&["GET /fault/x", " 200 DI "]).await;
}

async fn virtual_service(scenario: &Scenario, client: &Ztunnel) {
    let all = [
        ("host", "reviews:9080"),
        ("x-a", "1"),
        ("x-b", "px"),
        ("x-c", "rest"),
        ("x-d", ""),
        ("x-gone", "1"),
    ];
    let mut by_v1 = 0;
    for _ in 0..40 {
        let answer = ask(client, "/v12/x?q=1", &all).await;
        assert_eq!(answer.status, StatusCode::OK);
        let app = answer.header("x-app");
        let seen = scenario.app(&app).last();
        let v1 = app == "reviews-v1";
        assert_eq!(seen.header("x-all"), "/v12/x?q=1");
        assert_eq!(seen.header("x-gone"), "");
        assert_eq!(seen.header("x-dst"), if v1 { "v1" } else { "" });
        assert_eq!(answer.header("x-served-by"), if v1 { "v1" } else { "" });
        by_v1 += usize::from(v1);
    }
    assert!((20..40).contains(&by_v1), "four of five: {by_v1}");
    let shadow = scenario.app("reviews-v3");
    until("a copy, one in eight", async || {
        ask(client, "/v12/x?q=1", &all).await;
        shadow.seen().pop()
    })
    .await;
    assert_eq!(shadow.last().header("host"), "reviews:9080");
    assert_eq!(shadow.last().header("x-all"), "/v12/x?q=1");
    let no = [&all[..], &[("x-no", "1")]].concat();
    let other = ask(client, "/v12/x?q=1", &no).await;
    assert_eq!(other.header("x-app"), "reviews-v2", "the last rule");
    let folded = ask(client, "/CI/x", &[]).await;
    assert_eq!(folded.status, StatusCode::OK);

    // 5xx and 409 are tried again, four times.
    for status in ["503", "409"] {
        for version in ["reviews-v1", "reviews-v2"] {
            scenario.app(version).forget();
        }
        let answer = ask(client, "/ci", &[("x-status", status)]).await;
        assert_eq!(answer.status.as_str(), status);
        let seen = ["reviews-v1", "reviews-v2"].map(|app| scenario.app(app).seen().len());
        assert_eq!(seen.iter().sum::<usize>(), 5, "{status}");
    }

    let cases = [
        ("/rw/a?b", "/a?b", "other.example.com"),
        ("/rx/a/b", "/a/b/x", "test"),
    ];
    for (path, target, host) in cases {
        let answer = ask(client, path, &[]).await;
        let seen = scenario.app(&answer.header("x-app")).last();
        assert_eq!(
            (seen.target.as_str(), seen.header("host").as_str()),
            (target, host)
        );
    }
    let moved = ask(client, "/redirect", &[]).await;
    assert_eq!(
        (moved.status, moved.header("location").as_str()),
        (
            StatusCode::PERMANENT_REDIRECT,
            "https://new.example.com:444/to"
        )
    );
    let teapot = ask(client, "/teapot", &[]).await;
    assert_eq!(
        (
            teapot.status,
            teapot.header("content-type").as_str(),
            teapot.text().as_str()
        ),
        (StatusCode::IM_A_TEAPOT, "text/plain", "short and stout")
    );
    // A subset; rules for some sources aren't a waypoint's matter.
    for _ in 0..10 {
        assert_eq!(ask(client, "/", &[]).await.header("x-app"), "reviews-v2");
    }
    scenario
        .until_logged(&[
            "GET / ",
            "inbound-vip|9080|http/v2|reviews.default.svc.cluster.local",
        ])
        .await;
}
