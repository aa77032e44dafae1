//! AuthorizationPolicy: every field of source and operation, ALLOW and DENY, empty rules, and ways around.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

pub(super) fn policy(name: &str, target: &str, spec: &str) -> String {
    let (group, kind) = match target {
        "waypoint" => ("gateway.networking.k8s.io", "Gateway"),
        _ => ("''", "Service"),
    };
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{targetRefs: [{{group: {group}, kind: {kind}, name: {target}}}]{spec}}}\n"
    )
}

pub(super) struct Scene {
    _mesh: Mesh,
    pub(super) to: SocketAddr,
    pub(super) app: App,
    pub(super) _waypoint: Waypoint,
    pub(super) friend: Ztunnel,
    pub(super) stranger: Ztunnel,
}

pub(super) async fn scene(policies: &[String]) -> Scene {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    for (n, text) in policies.iter().enumerate() {
        mesh.manifest(&format!("policy-{n}.yaml"), text);
    }
    let (waypoint, friend) = mesh.started().await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    Scene {
        _mesh: mesh,
        to,
        app,
        _waypoint: waypoint,
        friend,
        stranger,
    }
}

impl Scene {
    /// Sends; says whether it was let through.
    async fn lets(
        &self,
        who: &Ztunnel,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> bool {
        self.app.forget();
        let answer = who.request(self.to, request(method, path, headers)).await;
        match answer.status {
            StatusCode::OK => true,
            StatusCode::FORBIDDEN => {
                assert_eq!(answer.text(), "RBAC: access denied");
                assert!(self.app.seen().is_empty(), "denied and delivered: {path}");
                false
            }
            status => panic!("{path}: {status} {}", answer.text()),
        }
    }
}

#[tokio::test]
async fn a_denied_head_has_no_body_in_any_version() {
    let deny = policy("deny", "web", ", action: DENY, rules: [{}]");
    let scene = scene(&[deny]).await;
    let mut http1 = scene.friend.http1(scene.to).await;
    let http2 = scene.friend.http2(scene.to).await;
    for _ in 0..2 {
        let head = || request(Method::HEAD, "/", &[]);
        let (first, second) = (http1.send(head()).await, http2.send(head()).await);
        for answer in [first, second] {
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            assert_eq!(answer.header("content-length"), "19");
            assert_eq!(answer.text(), "");
        }
    }
}

#[tokio::test]
async fn empty_rules_mean_what_istio_says() {
    for (spec, allowed) in [
        // No rule never matches: ALLOW lets nobody in, DENY nobody out.
        ("", false),
        (", action: ALLOW", false),
        (", action: ALLOW, rules: []", false),
        (", action: ALLOW, rules: [{}]", true),
        (", action: DENY, rules: [{}]", false),
    ] {
        let scene = scene(&[policy("p", "waypoint", spec)]).await;
        assert_eq!(
            scene.lets(&scene.friend, Method::GET, "/", &[]).await,
            allowed,
            "{spec:?}"
        );
    }
}

#[tokio::test]
async fn a_denial_of_nothing_is_refused_by_name() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy("p", "web", ", action: DENY"));
    let error = mesh.try_start().await.err().expect("a refusal").to_string();
    assert!(
        error.contains("AuthorizationPolicy default/p: spec.rules"),
        "{error}"
    );
}

#[tokio::test]
async fn sources() {
    let net_of = "127.0.0.1/32";
    for (source, friend, stranger) in [
        (
            "principals: [cluster.local/ns/default/sa/curl]",
            true,
            false,
        ),
        ("principals: ['cluster.local/ns/default/*']", true, false),
        ("principals: ['*/sa/stranger']", false, true),
        ("principals: ['*']", true, true),
        (
            "notPrincipals: [cluster.local/ns/default/sa/curl]",
            false,
            true,
        ),
        ("namespaces: [other]", false, true),
        ("notNamespaces: [other]", true, false),
        ("serviceAccounts: [default/curl]", true, false),
        ("notServiceAccounts: [default/curl]", false, true),
        (&format!("ipBlocks: ['{net_of}']"), true, true),
        ("ipBlocks: [10.0.0.0/8]", false, false),
        (&format!("notIpBlocks: ['{net_of}']"), false, false),
        (
            "namespaces: [default], notPrincipals: [cluster.local/ns/default/sa/curl]",
            false,
            false,
        ),
    ] {
        let scene = scene(&[policy(
            "p",
            "web",
            &format!(", rules: [{{from: [{{source: {{{source}}}}}]}}]"),
        )])
        .await;
        assert_eq!(
            scene.lets(&scene.friend, Method::GET, "/", &[]).await,
            friend,
            "friend: {source}"
        );
        assert_eq!(
            scene.lets(&scene.stranger, Method::GET, "/", &[]).await,
            stranger,
            "stranger: {source}"
        );
    }
}

#[tokio::test]
async fn operations() {
    let spec = r#", action: DENY, rules: [
      {to: [{operation: {methods: [DELETE], paths: [/exact]}}]},
      {to: [{operation: {paths: ["/prefix/*"]}}]},
      {to: [{operation: {paths: ["*.php"], notMethods: [GET]}}]},
      {to: [{operation: {hosts: ["evil.example", "*.evil.example"]}}]},
      {to: [{operation: {ports: ["80"], paths: [/port]}}]},
      {to: [{operation: {ports: ["81"], paths: [/other-port]}}]},
      {to: [{operation: {paths: ["/items/{*}/secret"]}}]}]"#;
    let scene = scene(&[policy("p", "web", spec)]).await;
    for (method, path, host, allowed) in [
        (Method::DELETE, "/exact", "web", false),
        (Method::GET, "/exact", "web", true),
        (Method::DELETE, "/exact/more", "web", true),
        (Method::GET, "/prefix/", "web", false),
        (Method::GET, "/prefix/x?y", "web", false),
        (Method::GET, "/prefixx", "web", true),
        (Method::POST, "/a.php", "web", false),
        (Method::GET, "/a.php", "web", true),
        (Method::GET, "/", "evil.example", false),
        (Method::GET, "/", "EVIL.example", false),
        (Method::GET, "/", "a.evil.example", false),
        (Method::GET, "/", "good.example", true),
        (Method::GET, "/port", "web", false),
        (Method::GET, "/other-port", "web", true),
        (Method::GET, "/items/7/secret", "web", false),
        (Method::GET, "/items/7/8/secret", "web", true),
    ] {
        let lets = scene
            .lets(&scene.friend, method.clone(), path, &[("host", host)])
            .await;
        assert_eq!(lets, allowed, "{method} {host}{path}");
    }
}

#[tokio::test]
async fn conditions() {
    let spec = ", rules: [{when: [{key: 'request.headers[x-team]', values: [blue]}, {key: destination.port, notValues: ['81']}]}]";
    let scene = scene(&[policy("p", "web", spec)]).await;
    assert!(
        scene
            .lets(&scene.friend, Method::GET, "/", &[("x-team", "blue")])
            .await
    );
    assert!(
        !scene
            .lets(&scene.friend, Method::GET, "/", &[("x-team", "red")])
            .await
    );
    assert!(!scene.lets(&scene.friend, Method::GET, "/", &[]).await);
}

#[tokio::test]
async fn deny_wins_and_one_allow_suffices() {
    let scene = scene(&[
        policy(
            "deny",
            "web",
            ", action: DENY, rules: [{to: [{operation: {paths: [/both]}}]}]",
        ),
        policy(
            "allow-1",
            "web",
            ", rules: [{to: [{operation: {paths: [/both, /one]}}]}]",
        ),
        policy(
            "allow-2",
            "web",
            ", rules: [{from: [{source: {namespaces: [other]}}]}]",
        ),
    ])
    .await;
    assert!(!scene.lets(&scene.friend, Method::GET, "/both", &[]).await);
    assert!(scene.lets(&scene.friend, Method::GET, "/one", &[]).await);
    assert!(!scene.lets(&scene.friend, Method::GET, "/none", &[]).await);
    assert!(scene.lets(&scene.stranger, Method::GET, "/none", &[]).await);
    assert!(!scene.lets(&scene.stranger, Method::GET, "/both", &[]).await);
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_around_a_denial() {
    let scene = scene(&[policy(
        "p",
        "web",
        ", action: DENY, rules: [{to: [{operation: {paths: [/admin, '/admin/*']}}]}]",
    )])
    .await;
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/%2E/admin",
        "/%61dmin",
        "/x/..;/admin/x",
        "/x;a=b/../admin/x",
        "/x/..;p=1/admin",
        "//../admin",
        "/admin?/../public",
        "/admin#/../public",
    ] {
        // An answer of 400 is as good as 403; what may not be is that the application sees it.
        scene.app.forget();
        let raw = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
        let answer = scene.friend.raw(scene.to, raw.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        assert!(
            ["403", "400", "none"].contains(&status.as_str()),
            "{path}: {answer}"
        );
        assert!(
            scene.app.seen().is_empty(),
            "{path} reached the application"
        );
    }
    for (path, seen) in [
        ("/public/..;x", None),
        ("/a;b/c", Some("/a;b/c")),
        ("/a%2fb", Some("/a%2fb")),
    ] {
        let answer = scene.friend.get(scene.to, path).await;
        if let Some(seen) = seen {
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(scene.app.last().target, seen);
        }
    }
}

#[tokio::test]
async fn what_an_operation_is_not() {
    let spec = r#", action: ALLOW, rules: [
      {to: [{operation: {paths: ["/open*"], notPaths: ["/open/secret"]}}]},
      {to: [{operation: {paths: ["/methods"], notMethods: [POST, DELETE]}}]},
      {to: [{operation: {paths: ["/hosts"], notHosts: ["evil.example", "evil.example:*"]}}]},
      {to: [{operation: {paths: ["/ports"], notPorts: ["80"]}}]}]"#;
    let scene = scene(&[policy("p", "web", spec)]).await;
    for (method, path, host, allowed) in [
        (Method::GET, "/open", "web", true),
        (Method::GET, "/open/secret", "web", false),
        (Method::GET, "/open/./secret", "web", false),
        (Method::GET, "/open/secret/more", "web", true),
        (Method::GET, "/methods", "web", true),
        (Method::POST, "/methods", "web", false),
        (Method::DELETE, "/methods", "web", false),
        (Method::GET, "/hosts", "web", true),
        (Method::GET, "/hosts", "evil.example", false),
        (Method::GET, "/hosts", "Evil.Example:80", false),
        (Method::GET, "/ports", "web", false),
        (Method::GET, "/elsewhere", "web", false),
    ] {
        let headers = [("host", host)];
        let lets = scene
            .lets(&scene.friend, method.clone(), path, &headers)
            .await;
        assert_eq!(lets, allowed, "{method} {host}{path}");
    }
}

#[tokio::test]
async fn addresses_are_those_of_the_tunnels_source() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (near, far) = (mesh.pod_ip(40), mesh.pod_ip(50));
    mesh.manifest(
        "policy.yaml",
        &policy(
            "p",
            "web",
            &format!(", rules: [{{from: [{{source: {{ipBlocks: ['{near}']}}}}], to: [{{operation: {{paths: [/near]}}}}]}}, \
                      {{from: [{{source: {{notIpBlocks: ['{near}/32']}}}}], to: [{{operation: {{paths: [/far]}}}}]}}]"),
        ),
    );
    let waypoint = mesh.start().await;
    let certificate = mesh.certificate("default", "curl");
    for (source, path, status) in [
        (near, "/near", 200),
        (near, "/far", 403),
        (far, "/near", 403),
        (far, "/far", 200),
    ] {
        let client = Ztunnel::connect_from(source, waypoint.address(), &certificate)
            .await
            .unwrap();
        // What a header says of the source is nobody's word.
        let headers = [("x-forwarded-for", "127.0.0.1"), ("x-real-ip", "127.0.0.1")];
        let answer = client
            .request(to, request(Method::GET, path, &headers))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{source} {path}");
    }
}
