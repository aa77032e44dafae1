//! Published advisories about ways around authorization in Istio and Envoy: for each, that its way is none here. What the
//! numbers stand for, and those that can't concern a waypoint, is listed in `docs/security.md`.

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::identity::Identity;
use waypoint_tests::ext_authz::{Authorizer, check};
use waypoint_tests::ext_authz_resources::{asks_grpc, cluster_of, guarded, http_filter};
use waypoint_tests::request_authentication::{self, authentication, provider};
use waypoint_tests::server_names::says;
use waypoint_tests::tls::client_hello;
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh};

use crate::authorization::policy;

const DENY: &str = r#", action: DENY, rules: [
  {to: [{operation: {paths: [/admin, "/admin/*", "/items/{*}/secret"]}}]},
  {to: [{operation: {hosts: [evil.example, "evil.example:*"]}}]},
  {when: [{key: "request.headers[x-team]", values: ["*"], notValues: [red, green]}]},
  {when: [{key: "request.headers[x-role]", values: [root, "adm*", "*min"]}]}]"#;

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n").into_bytes()
}

fn with(headers: &[u8]) -> Vec<u8> {
    [b"GET /x HTTP/1.1\r\nhost: web\r\n", headers, b"\r\n\r\n"].concat()
}

fn host(host: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()
}

/// Advisory, and a head by which its way was gone.
fn heads() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("CVE-2019-9900", with(b"x-role: ro\0ot")),
        ("CVE-2019-9900", with(b"x-role: \0root")),
        ("CVE-2019-9900", get("/adm\0in")),
        ("CVE-2019-9901", get("/x/../admin")),
        ("CVE-2019-9901", get("/./admin/x")),
        ("CVE-2019-9901", get("/%2e/admin")),
        ("CVE-2019-9901", get("/x/%2E%2e/admin")),
        ("CVE-2019-18802", with(b"x-role: root \t ")),
        ("CVE-2019-18802", with(b"x-role:\troot")),
        ("CVE-2020-8595", get("/admin?x=/public")),
        ("CVE-2020-8595", get("/admin#/public")),
        ("CVE-2020-25017", with(b"x-role: user\r\nx-role: root")),
        ("CVE-2020-25017", with(b"x-role: root\r\nx-role: user")),
        ("CVE-2021-29492", get("/x%2f..%2fadmin")),
        ("CVE-2021-29492", get("/x%5c..%5Cadmin/y")),
        ("CVE-2021-29492", get("/%2fadmin")),
        ("CVE-2021-31920", get("//admin")),
        ("CVE-2021-31920", get("/admin//x")),
        ("CVE-2021-31920", get("///admin///x")),
        ("CVE-2021-32779", get("/admin#x")),
        ("CVE-2021-32779", get("/admin/x#?y")),
        (
            "CVE-2021-39156",
            get("/admin%23")[..].replacing(b"%23", b"#"),
        ),
        ("CVE-2021-39155", host("EVIL.Example")),
        ("CVE-2021-39155", host("Evil.example:80")),
        (
            "CVE-2021-39155",
            b"GET http://EVIL.example/x HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        ("CVE-2022-21679", host("evil.example")),
        (
            "CVE-2023-27491",
            b"GET /admin\x0b HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        (
            "CVE-2023-27491",
            b"GET /x\r\tadmin HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        (
            "CVE-2023-35944",
            b"GET HtTp://web/admin HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        (
            "CVE-2023-35944",
            b"GET HTTPS://web/admin HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        ("CVE-2025-46821", get("/items/*/secret")),
        ("CVE-2025-46821", get("/items/a*b/secret")),
        (
            "CVE-2026-26308",
            with(b"x-role: user\r\nx-role: adm\r\nx-role: user"),
        ),
        (
            "CVE-2026-33186",
            b"GET admin HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        ),
        ("CVE-2026-31838", with(b"x-role: user\r\nx-role: admin")),
        ("CVE-2026-73551", get("/x/..;a/admin")),
        ("CVE-2026-73551", get("/x/..;a=b/admin/y")),
        ("CVE-2026-73551", get("/.;/admin")),
        ("CVE-2026-73551", get("/x/%2e%2e;a/admin")),
        ("CVE-2026-73552", with(b"x-role: adm\xff")),
        ("CVE-2026-73552", with(b"x-role: \xe4min")),
        ("CVE-2026-73552", with(b"x-team: \xff")),
    ]
}

trait Replacing {
    fn replacing(&self, what: &[u8], by: &[u8]) -> Vec<u8>;
}

impl Replacing for [u8] {
    fn replacing(&self, what: &[u8], by: &[u8]) -> Vec<u8> {
        let at = self.windows(what.len()).position(|part| part == what);
        let at = at.unwrap();
        [&self[..at], by, &self[at + what.len()..]].concat()
    }
}

#[tokio::test]
async fn no_head_of_an_advisory_reaches_the_application() {
    let mesh = Mesh::new();
    mesh.normalizes_paths("DECODE_AND_MERGE_SLASHES");
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy("p", "web", DENY));
    let (_waypoint, client) = mesh.started().await;
    for (number, head) in heads() {
        let answer = client.raw(to, &head).await;
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        let shown = String::from_utf8_lossy(&head).into_owned();
        assert!(
            ["403", "400", "none"].contains(&status.as_str()),
            "{number}: {shown:?}: {answer}"
        );
        assert!(app.seen().is_empty(), "{number}: {shown:?}");
    }
    // What nobody forbids passes, in the same forms.
    for head in [
        get("/x/../public?y"),
        host("GOOD.example"),
        with(b"x-role: user\r\nx-role: \xff"),
        with(b"x-team: red"),
        get("/items/*/open"),
        b"GET HTTP://web/public HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
    ] {
        let answer = client.raw(to, &head).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// CVE-2026-73548: what follows an upgrade that nobody accepts is a request of its own, or nothing.
#[tokio::test]
async fn nothing_is_smuggled_behind_an_upgrade_that_is_not_accepted() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy("p", "web", DENY));
    let (_waypoint, client) = mesh.started().await;
    for upgrade in ["websocket", "anything", "h2c"] {
        let head = format!(
            "GET /x HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n\
             GET /admin HTTP/1.1\r\nhost: web\r\n\r\n"
        );
        let _ = client.raw(to, head.as_bytes()).await;
        // Whoever shares the connection to the application gets an answer of their own.
        let own = client.get(to, "/own").await;
        assert_eq!(own.status, StatusCode::OK, "{upgrade}");
        assert_eq!(app.last().target, "/own", "{upgrade}");
        let seen = app.seen();
        assert!(
            seen.iter().all(|request| request.target != "/admin"),
            "{upgrade}"
        );
    }
}

/// CVE-2026-47778: nobody's name ends before its end.
#[test]
fn an_identity_has_no_nul() {
    for text in [
        "spiffe://cluster.local/ns/default/sa/admin\0.evil",
        "spiffe://cluster.local\0/ns/default/sa/admin",
        "spiffe://cluster.local/ns/default/sa/admin\0",
    ] {
        let identity: Result<Identity, _> = text.parse();
        assert!(identity.is_err(), "{text:?}");
    }
}

/// CVE-2026-73511, CVE-2026-73553: policies see the path parameters that the upstream sees.
#[tokio::test]
async fn path_parameters_are_the_same_to_policies_and_upstreams() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let deny = ", action: DENY, rules: [{to: [{operation: {paths: ['/admin*', '/{*}/users']}}]}]";
    mesh.manifest("policy.yaml", &policy("p", "web", deny));
    let (_waypoint, client) = mesh.started().await;
    for path in [
        "/admin;x=y",
        "/admin;x/users",
        "/a;b/users",
        "/;/../admin;x",
    ] {
        let denied = client.get(to, path).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert!(app.seen().is_empty());
    client.get(to, "/x;admin/y").await;
    assert_eq!(app.last().target, "/x;admin/y");
}

/// CVE-2023-27487: what a client says of its original path is no path.
#[tokio::test]
async fn nobody_writes_an_original_path() {
    let mesh = Mesh::new();
    mesh.access_log_format("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% told\n");
    let (to, app) = mesh.http_service(1, "web").await;
    let deny = ", action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]";
    mesh.manifest("policy.yaml", &policy("p", "web", deny));
    let (waypoint, client) = mesh.started().await;
    let fake = [("x-envoy-original-path", "/public")];
    let denied = client
        .request(to, request(Method::GET, "/admin", &fake))
        .await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    waypoint.until_logged("/admin 403 told").await;
    assert!(app.seen().is_empty());
}

/// CVE-2026-39350: a dot in a service account's name is a dot. CVE-2020-16844: a wildcard means on TCP what it means on
/// HTTP.
#[tokio::test]
async fn principals_are_matched_as_they_are_written() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (tcp, backend) = mesh.bare_tcp_service(2, "db");
    App::tcp(backend, |mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let accounts = "[default/cert.manager, other/io.x]";
    let allow = format!(", rules: [{{from: [{{source: {{serviceAccounts: {accounts}}}}}]}}]");
    mesh.manifest("web.yaml", &policy("web", "web", &allow));
    let deny = ", action: DENY, rules: [{from: [{source: {principals: ['cluster.local/ns/other/*', '*/sa/evil']}}]}]";
    mesh.manifest("db.yaml", &policy("db", "db", deny));
    let waypoint = mesh.start().await;
    for (namespace, account, allowed, echoed) in [
        ("default", "cert.manager", true, true),
        ("default", "certxmanager", false, true),
        ("default", "cert-manager", false, true),
        ("other", "io.x", true, false),
        ("other", "io-x", false, false),
        ("default", "evil", false, false),
    ] {
        let client = mesh.client(&waypoint, namespace, account).await;
        let status = client.get(web, "/").await.status;
        assert_eq!(status == StatusCode::OK, allowed, "{namespace}/{account}");
        let mut stream = client.tunnel(tcp).await;
        let _ = stream.write_all(b"x").await;
        let heard = within("an echo or the end", stream.read_exact(&mut [0])).await;
        assert_eq!(heard.is_ok(), echoed, "{namespace}/{account}");
    }
}

/// CVE-2021-21378: who may come without a token may not come with one that nobody vouches for. CVE-2020-8595: nor does the
/// way the path ends matter.
#[tokio::test]
async fn a_token_of_an_unknown_issuer_is_none() {
    let (signer, stranger) = (Signer::new("ES256", "k1"), Signer::new("ES256", "k1"));
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let providers = ["https://one.test", "https://two.test"];
    let providers = providers.map(|issuer| provider(issuer, &key_set(&[&signer])));
    let resources =
        request_authentication::with(mesh.resources(), "web", &authentication(providers.into()));
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources);
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    for path in ["/admin", "/admin?x", "/admin?#", "/x/../admin"] {
        for token in [
            signer.token(&claims("https://three.test", "me")),
            stranger.token(&claims("https://one.test", "me")),
            signer.token(&claims("https://one.test/", "me")),
            signer.token(&claims("HTTPS://ONE.TEST", "me")),
        ] {
            let bearer = format!("Bearer {token}");
            let head =
                format!("GET {path} HTTP/1.1\r\nhost: web\r\nauthorization: {bearer}\r\n\r\n");
            let answer = client.raw(to, head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        }
    }
    assert!(app.seen().is_empty());
}

/// CVE-2021-32777: all values of a header are told. CVE-2023-27488, CVE-2024-23324: a header that isn't UTF-8 is told, too,
/// so that nobody fails who then lets pass. CVE-2021-32779: the path is told without its fragment.
#[tokio::test]
async fn an_authorizer_is_told_all_that_is_there() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "authz-1", "authz", false);
    mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
    let authz = Authorizer::start(mesh.backend(2)).await;
    let asks = ExtAuthz {
        failure_mode_allow: true,
        ..asks_grpc(&cluster_of(&mesh, "authz"))
    };
    let filters = vec![http_filter("envoy.filters.http.ext_authz", &asks)];
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(guarded(&mesh, "web", filters, |_| ()));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    authz.says(check(7));
    let told = |name: &str| {
        let check = authz.asked_once().attributes.unwrap();
        let http = check.request.unwrap().http.unwrap();
        (http.path, http.headers.get(name).cloned())
    };
    let mut several = request(Method::GET, "/x", &[("x-role", "user"), ("x-role", "root")]);
    let denied = client.request(to, several.clone()).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert_eq!(told("x-role"), ("/x".into(), Some("user,root".into())));
    let opaque = HeaderValue::from_bytes(b"ro\xffot").unwrap();
    several.headers_mut().insert("x-role", opaque);
    let denied = client.request(to, several).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let (_, role) = told("x-role");
    assert!(role.is_some_and(|role| role.starts_with("ro") && role.ends_with("ot")));
    let answer = client.raw(to, &get("/x#/public")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(told("x-role").0, "/x");
    assert!(app.seen().is_empty());
}

/// CVE-2024-45808: a server name writes no lines of its own into logs. CVE-2020-8660: TLS 1.3 is TLS, however it is cut;
/// `server_names.rs` has more.
#[tokio::test]
async fn a_server_name_writes_nothing_but_itself() {
    let mesh = Mesh::new();
    mesh.access_log_format("%REQUESTED_SERVER_NAME% %CONNECTION_TERMINATION_DETAILS% told\n");
    mesh.describe_pod(1, "vault-1", "vault", false);
    let to = mesh.service_with_port(1, "vault", "{name: tls, port: 80, targetPort: 8080}");
    let deny = ", action: DENY, rules: [{when: [{key: connection.sni, values: [secret]}]}]";
    mesh.manifest("policy.yaml", &policy("names", "vault", deny));
    let (waypoint, client) = mesh.started().await;
    for bad in [b"way\npint", b"way pint", b"way\x1bpint", b"way\"pint"] {
        let hello = client_hello().replacing(b"waypoint", bad);
        let heard = says(&mut client.tunnel(to).await, &hello).await;
        assert_eq!(heard, b"");
    }
    waypoint
        .until_logged("- rbac_server_name_unknown told")
        .await;
    let log = waypoint.log();
    assert!(log.lines().all(|line| line.ends_with(" told")), "{log}");
    assert!(!log.contains("pint"), "{log}");
}
