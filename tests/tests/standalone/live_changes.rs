//! Manifests and certificates that change while traffic runs, and the waypoint's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request, tls};

fn route(to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}]{spec}}}\n"
    )
}

#[tokio::test]
async fn routes_change_under_load_without_a_lost_request() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    let (_, b, _) = mesh.captured_service(3, "b").await;
    mesh.manifest("route.yaml", &route("a"));
    let waypoint = mesh.start().await;
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut load = Vec::new();
    for _ in 0..4 {
        let client = mesh.client(&waypoint, "default", "curl").await;
        let (stop, sent) = (stop.clone(), sent.clone());
        load.push(tokio::spawn(async move {
            let mut connection = client.http1(to).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(get("/")).await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }
    for target in ["b", "a", "b"] {
        let app = if target == "a" { &a } else { &b };
        mesh.manifest("route.yaml", &route(target));
        app.forget();
        until("traffic at the new target", async || {
            (app.seen().len() > 20).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(sent.load(Ordering::Relaxed) > 60);
}

#[tokio::test]
async fn broken_yaml_is_named_and_what_was_good_stays() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    mesh.manifest(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: [this is: no mapping\n",
    );
    let problems = waypoint.until_problem("broken.yaml").await;
    assert!(problems.contains("not in use"), "{problems}");
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    waypoint
        .until_metric(
            "waypoint_config_updates_total",
            &[("result", "refused")],
            1.0,
        )
        .await;
    mesh.remove_manifest("broken.yaml");
    until("the problem to go", async || {
        (!waypoint.problems().await.contains("broken.yaml")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_policy_closes_what_it_targets_and_says_so() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "shop").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/before").await.status, StatusCode::OK);
    mesh.manifest("policy.yaml", &policy(", action: PERHAPS"));
    waypoint
        .until_problem("AuthorizationPolicy default/p")
        .await;
    let answer = until("the closed service", async || {
        let answer = client.get(to, "/closed").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert!(
        answer.text().contains("AuthorizationPolicy default/p"),
        "{}",
        answer.text()
    );
    assert_eq!(client.get(other, "/open").await.status, StatusCode::OK);
    app.forget();
    client.get(to, "/closed").await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_policy_that_asks_nobody_denies_what_its_rules_match_and_says_so() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        &policy(", action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/login]}}]}]"),
    );
    let (waypoint, client) = mesh.started().await;
    let problems = waypoint.problems().await;
    assert!(
        problems.contains("AuthorizationPolicy default/p (closed what it targets): spec.provider.name: MeshConfig has no provider"),
        "{problems}"
    );
    assert_eq!(client.get(to, "/login").await.status, StatusCode::FORBIDDEN);
    assert!(app.seen().is_empty());
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_broken_policy_at_the_start_is_no_start() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy(", action: PERHAPS"));
    let error = mesh.try_start().await.err().expect("a refusal").to_string();
    for part in ["policy.yaml", "AuthorizationPolicy default/p", "PERHAPS"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn services_come_and_go() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let (late, _) = mesh.http_service(2, "late").await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.unwrap();
        (status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    mesh.remove_manifest("service-late.yaml");
    until("its end", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.unwrap();
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn half_written_manifests_are_waited_for() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    mesh.manifest("route.yaml", &route("web"));
    let waypoint = mesh
        .start_with(|options| options.poll = Duration::from_millis(500))
        .await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut connection = client.http1(to).await;
    // Written in place, a few bytes at a time, so that it never is the same for long.
    let file = mesh.manifests().join("route.yaml");
    let text = route("a");
    for end in (0..text.len()).step_by(6) {
        std::fs::write(&file, &text[..end]).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let answer = connection.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", &text[..end]);
    }
    std::fs::write(&file, &text).unwrap();
    until("the new route", async || {
        let answer = connection.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::OK);
        (!a.seen().is_empty()).then_some(())
    })
    .await;
    let refused = [("result", "refused")];
    let refused = waypoint
        .metric("waypoint_config_updates_total", &refused)
        .await;
    assert!(refused <= 2.0, "{refused} scans of half a file were taken");
}

#[tokio::test]
async fn a_policy_in_a_file_that_cannot_be_read_loses_nothing_of_what_it_said() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let denial = policy(", action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]");
    mesh.manifest("policy.yaml", &denial);
    let (waypoint, client) = mesh.started().await;
    assert_eq!(
        client.get(to, "/secret").await.status,
        StatusCode::FORBIDDEN
    );
    for broken in [
        denial.replace("spec: {", "spec: {{"),
        denial.replace("kind: AuthorizationPolicy", "kind: [AuthorizationPolicy"),
        format!("{denial}---\n\t- nonsense"),
    ] {
        mesh.manifest("policy.yaml", &broken);
        waypoint.until_problem("policy.yaml").await;
        for _ in 0..5 {
            let status = client.get(to, "/secret").await.status;
            assert_ne!(status, StatusCode::OK, "{broken}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mesh.manifest("policy.yaml", &denial);
        until("the problem to go", async || {
            (!waypoint.problems().await.contains("policy.yaml")).then_some(())
        })
        .await;
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
    assert!(app.seen().iter().all(|seen| seen.target != "/secret"));
}

#[tokio::test]
async fn pods_come_and_go_under_load() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let address = |n| mesh.backend(n);
    let second = waypoint_tests::App::http(address(2), "second").await;
    let (_waypoint, client) = mesh.started().await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let load = tokio::spawn(async move {
        let mut connection = client.http1(to).await;
        while !stopped.load(Ordering::Relaxed) {
            let mut post = request(Method::POST, "/", &[]);
            *post.body_mut() = "body".into();
            let answer = connection.send(post).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
    });
    for _ in 0..3 {
        second.forget();
        mesh.describe_pod(2, "web-2", "web", false);
        until("traffic at the second pod", async || {
            (second.seen().len() > 10).then_some(())
        })
        .await;
        mesh.remove_manifest("pod-web-2.yaml");
        until("its end", async || {
            second.forget();
            tokio::time::sleep(Duration::from_millis(60)).await;
            second.seen().is_empty().then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
}

#[tokio::test]
async fn certificates_are_renewed_without_a_lost_connection() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let folder = mesh.folder().join("certificates");
    let mine = mesh.certificate("default", "waypoint");
    mine.write(&folder).unwrap();
    let source = waypoint_proxy::run::CertificateSource::Dir(folder.clone());
    let waypoint = mesh
        .try_start_as(source, Duration::from_secs(5))
        .await
        .unwrap();
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut connection = client.http1(to).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);

    let certificate = mesh.certificate("default", "curl");
    let shown = async || {
        let tls = tls(waypoint.address(), Some(&certificate), &[b"h2"]);
        let tls = tls.await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let old = shown().await;
    // What can't be used is left aside.
    std::fs::write(folder.join("cert-chain.pem"), "no certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(shown().await, old);

    mesh.certificate("default", "waypoint")
        .write(&folder)
        .unwrap();
    until("the new certificate", async || {
        (shown().await != old).then_some(())
    })
    .await;
    let answer = connection.send(get("/")).await;
    assert_eq!(answer.status, StatusCode::OK, "the open connection lives");
}
