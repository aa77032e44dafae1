//! External authorization beside real Envoy: both ask the same services about the same requests, with the same filter. What
//! they ask, what their clients get and what their backends get is the same.
//!
//! Filters, requests and answers are drawn; `WAYPOINT_SEED` draws the same again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz,
};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use fastrand::Rng;
use http::{HeaderMap, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ext_authz::{Authorizer, HttpAuthorizer, HttpReply, Reply, check};
use waypoint_tests::ext_authz_resources::{
    asks_grpc, asks_http, asks_of_tcp, cluster_of, custom_tcp, guarded, guarded_tcp, http_filter,
    http_service, names,
};
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::seeds::seed;
use waypoint_tests::wait::{unless_silent, until, within};
use waypoint_tests::ztunnel::{Answer, Ztunnel};
use waypoint_tests::{App, ControlPlane, Mesh, Seen, Waypoint};

use crate::ext_authz_draws::{pick, some, some_filter, some_reply, some_request};

/// Filters of each kind, and requests for each.
const FILTERS: usize = 5;
const REQUESTS: usize = 60;

/// What Envoy's client for callouts adds to a request that comes from nobody.
const ENVOYS_OWN: [&str; 3] = [
    "x-envoy-internal",
    "x-forwarded-for",
    "x-envoy-expected-rq-timeout-ms",
];

/// Both proxies before one backend.
struct Scene {
    _mesh: Mesh,
    _istiod: ControlPlane,
    waypoint: Waypoint,
    envoy: Envoy,
    ours: Ztunnel,
    theirs: Ztunnel,
    to: SocketAddr,
    app: App,
}

/// Lines of either log that are compared.
const LOGGED: &str = "LOG %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
                      %DYNAMIC_METADATA(envoy.filters.http.ext_authz:who)% \
                      %DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-a)% \
                      %REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(X-NEW)% %REQ(COOKIE)%\n";

async fn scene(mesh: Mesh, asks: &ExtAuthz) -> Scene {
    mesh.access_log_format(LOGGED);
    let (to, app) = mesh.http_service(1, "web").await;
    let filters = vec![http_filter("envoy.filters.http.ext_authz", asks)];
    let resources = guarded(&mesh, "web", filters, |_| ());
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, ours) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    let (envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    Scene {
        _mesh: mesh,
        _istiod: istiod,
        waypoint,
        envoy,
        ours,
        theirs,
        to,
        app,
    }
}

/// One request through one of them.
#[derive(Debug, PartialEq)]
struct Outcome {
    asked: Vec<String>,
    answer: (u16, BTreeMap<String, Vec<String>>, String),
    backend: Vec<String>,
}

fn headers(map: &HeaderMap, without: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in map {
        if !without.contains(&name.as_str()) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            all.entry(name.to_string()).or_default().push(value);
        }
    }
    all
}

fn seen(seen: &Seen, without: &[&str]) -> String {
    let headers = headers(&seen.headers, without);
    let body = format!("{} bytes", seen.body.len());
    format!("{} {} {headers:?} {body}", seen.method, seen.target)
}

impl Scene {
    /// Sends it through one of them, and through the other.
    async fn both(
        &self,
        http2: bool,
        asked: &Request<Full<Bytes>>,
        take: impl Fn() -> Vec<String>,
    ) -> [Outcome; 2] {
        let mut outcomes = Vec::new();
        for ztunnel in [&self.ours, &self.theirs] {
            self.app.forget();
            let answer = match http2 {
                true => ztunnel.http2(self.to).await.send(asked.clone()).await,
                false => ztunnel.request(self.to, asked.clone()).await,
            };
            let backend = self.app.seen();
            outcomes.push(Outcome {
                asked: take(),
                answer: essence(&answer),
                backend: backend.iter().map(|s| seen(s, &["x-request-id"])).collect(),
            });
        }
        outcomes.try_into().unwrap()
    }
}

/// So many lines of both logs.
async fn logs(waypoint: &Waypoint, envoy: &Envoy, lines: usize) -> [Vec<String>; 2] {
    let of = |log: String| {
        let lines = log.lines().filter(|line| line.starts_with("LOG "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    until("the logs", async || {
        let both = [of(waypoint.log()), of(envoy.log())];
        both.iter().all(|log| log.len() >= lines).then_some(both)
    })
    .await
}

fn essence(answer: &Answer) -> (u16, BTreeMap<String, Vec<String>>, String) {
    // Envoy ends a connection where it answers before it has the whole request, which is so or so.
    let own = ["date", "x-envoy-upstream-service-time", "connection"];
    let headers = headers(&answer.headers, &own);
    (answer.status.as_u16(), headers, answer.text())
}

/// A check without what is random, and without what Envoy's inner listener doesn't know or knows otherwise.
fn essence_of_check(mut check: CheckRequest) -> String {
    let attributes = check.attributes.as_mut().unwrap();
    for peer in [&mut attributes.source, &mut attributes.destination] {
        let peer = peer.as_mut().unwrap();
        peer.principal.clear();
        peer.address = None;
    }
    attributes.tls_session = None;
    let metadata = attributes.metadata_context.as_mut().unwrap();
    let metadata: BTreeMap<_, BTreeMap<_, _>> = std::mem::take(&mut metadata.filter_metadata)
        .into_iter()
        .map(|(namespace, object)| (namespace, object.fields.into_iter().collect()))
        .collect();
    let mut own = BTreeMap::new();
    let mut raw = Vec::new();
    if let Some(request) = &mut attributes.request {
        request.time = None;
        let http = request.http.as_mut().unwrap();
        http.id.clear();
        own.extend(std::mem::take(&mut http.headers));
        own.remove("x-request-id");
        raw = http
            .header_map
            .take()
            .map_or_else(Vec::new, |map| map.headers);
        raw.retain(|header| header.key != "x-request-id");
        raw.sort_by(|a, b| (&a.key, &a.raw_value).cmp(&(&b.key, &b.raw_value)));
    }
    let raw: Vec<_> = raw
        .iter()
        .map(|h| (h.key.as_str(), String::from_utf8_lossy(&h.raw_value)))
        .collect();
    format!("{check:?} {metadata:?} {own:?} {raw:?}")
}

struct Differences(Vec<String>);

impl Differences {
    fn compare(&mut self, what: String, outcomes: [Outcome; 2]) {
        let [ours, theirs] = outcomes;
        if ours != theirs {
            self.0.push(format!(
                "{what}\n  waypoint {ours:?}\n  envoy    {theirs:?}\n"
            ));
        }
    }

    fn compare_logs(&mut self, logs: [Vec<String>; 2]) {
        let [ours, theirs] = logs;
        for (ours, theirs) in ours.iter().zip(&theirs).filter(|(a, b)| a != b) {
            self.0
                .push(format!("  waypoint {ours}\n  envoy    {theirs}\n"));
        }
    }

    fn assert_none(self) {
        let count = self.0.len();
        assert!(count == 0, "{count} differences:\n{}", self.0.join("\n"));
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn grpc_services_are_asked_and_obeyed_as_by_envoy() {
    let mut rng = Rng::with_seed(seed());
    let mut differences = Differences(Vec::new());
    for _ in 0..FILTERS {
        let mesh = Mesh::new();
        mesh.describe_pod(2, "authz-1", "authz", false);
        mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
        let authz = Authorizer::start(mesh.backend(2)).await;
        let mut asks = asks_grpc(&cluster_of(&mesh, "authz"));
        some_filter(&mut rng, &mut asks);
        asks.allowed_headers = (rng.u8(..3) == 0).then(|| names(&["x-*", ":path"]));
        let scene = scene(mesh, &asks).await;
        for _ in 0..REQUESTS {
            let http2 = rng.u8(..3) == 0;
            let reply = some_reply(&mut rng);
            authz.replies(reply.clone());
            let asked = some_request(&mut rng, http2);
            let take = || {
                let asked = authz.take().into_iter();
                asked.map(|(_, check)| essence_of_check(check)).collect()
            };
            let outcomes = scene.both(http2, &asked, take).await;
            let what = format!("{asks:?}\n  {asked:?}\n  {reply:?}");
            differences.compare(what, outcomes);
        }
        differences.compare_logs(logs(&scene.waypoint, &scene.envoy, REQUESTS).await);
    }
    differences.assert_none();
}

/// Names that HTTP services may answer with.
const SAID: [(&str, &str); 12] = [
    ("x-a", "9"),
    ("x-a", "8"),
    ("x-auth-user", "ana"),
    ("x-more", "m"),
    ("set-cookie", "a=1"),
    ("set-cookie", "b=2"),
    ("location", "/login"),
    ("www-authenticate", "Basic"),
    ("content-type", "text/html"),
    ("x-envoy-auth-headers-to-remove", "authorization, x-b"),
    ("authorization", "theirs"),
    ("x-reason", "r"),
];

fn some_list(rng: &mut Rng, from: &[&str]) -> Option<ListStringMatcher> {
    let list = some(rng, from);
    (!list.is_empty()).then(|| names(&list))
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn http_services_are_asked_and_obeyed_as_by_envoy() {
    let mut rng = Rng::with_seed(seed());
    let mut differences = Differences(Vec::new());
    for _ in 0..FILTERS {
        let mesh = Mesh::new();
        mesh.bare_service(2, "authz");
        let authz = HttpAuthorizer::start(mesh.backend(2)).await;
        let mut service = http_service(&cluster_of(&mesh, "authz"));
        match rng.u8(..3) {
            0 => service.path_prefix = "/check".into(),
            1 => service.path_override = "/instead?x".into(),
            _ => {}
        }
        service.authorization_request = rng.bool().then(|| AuthorizationRequest {
            headers_to_add: vec![HeaderValue {
                key: "x-a".into(),
                value: "waypoint".into(),
                ..HeaderValue::default()
            }],
            ..AuthorizationRequest::default()
        });
        let listed = [
            "x-a",
            "x-auth-*",
            "authorization",
            "set-cookie",
            "x-reason",
            "x-more",
        ];
        service.authorization_response = Some(AuthorizationResponse {
            allowed_upstream_headers: some_list(&mut rng, &listed),
            // Two of `authorization`, and of others that Envoy keeps apart, it joins.
            allowed_upstream_headers_to_append: some_list(&mut rng, &["x-a", "x-auth-*", "x-more"]),
            allowed_client_headers: some_list(&mut rng, &listed),
            allowed_client_headers_on_success: some_list(&mut rng, &listed),
            dynamic_metadata_from_headers: some_list(&mut rng, &listed),
        });
        let mut asks = asks_http(service);
        some_filter(&mut rng, &mut asks);
        asks.allowed_headers = some_list(&mut rng, &["x-a", "x-*", "cookie"]);
        let scene = scene(mesh, &asks).await;
        for _ in 0..REQUESTS {
            let http2 = rng.u8(..3) == 0;
            let status = pick(
                &mut rng,
                &[200, 200, 200, 204, 201, 302, 401, 403, 404, 500, 503],
            );
            let said = some(&mut rng, &SAID);
            let body = match status {
                204 => "",
                _ => pick(&mut rng, &["", "no", "<p>no"]),
            };
            let reply = HttpReply::new(status, &said, body);
            authz.replies(reply.clone());
            let asked = some_request(&mut rng, http2);
            let own = [&ENVOYS_OWN[..], &["x-request-id"]].concat();
            let take = || authz.take().iter().map(|s| seen(s, &own)).collect();
            let outcomes = scene.both(http2, &asked, take).await;
            let what = format!("{asks:?}\n  {asked:?}\n  {reply:?}");
            differences.compare(what, outcomes);
        }
        differences.compare_logs(logs(&scene.waypoint, &scene.envoy, REQUESTS).await);
    }
    differences.assert_none();
}

/// Says something, and hears it again or the end of the stream. It is long enough for Envoy's inspectors.
async fn echoed(ztunnel: &Ztunnel, to: SocketAddr) -> bool {
    let mut stream = ztunnel.tunnel(to).await;
    let _ = stream.write_all(&[b'\n'; 100]).await;
    let mut heard = [0; 100];
    within("an echo or the end", stream.read_exact(&mut heard))
        .await
        .is_ok()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn tcp_streams_are_asked_about_and_let_pass_as_by_envoy() {
    for allow in [false, true] {
        let mesh = Mesh::new();
        mesh.access_log_format(
            "LOG %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
             %DYNAMIC_METADATA(envoy.filters.network.ext_authz:who)%\n",
        );
        let (to, backend) = mesh.bare_tcp_service(1, "db");
        App::tcp(backend, |mut tcp| async move {
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        mesh.describe_pod(2, "authz-1", "authz", false);
        mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
        let authz = Authorizer::start(mesh.backend(2)).await;
        let mut asks = asks_of_tcp(&cluster_of(&mesh, "authz"));
        asks.failure_mode_allow = allow;
        asks.metadata_context_namespaces = vec!["envoy.filters.network.rbac".into()];
        let resources = guarded_tcp(&mesh, "db", &custom_tcp("ext-grpc", asks));
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources.clone());
        let (waypoint, ours) = mesh.started_under(&istiod).await;
        assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
        let (envoy, address) = Envoy::beside(&mesh, &resources).await;
        let certificate = mesh.certificate("default", "curl");
        let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
        let mut rng = Rng::with_seed(1);
        let mut replies = vec![
            Reply::Check(Box::new(check(0))),
            Reply::Check(Box::new(check(7))),
            Reply::Status(14),
            Reply::Http(503),
        ];
        replies.extend((0..20).map(|_| some_reply(&mut rng)));
        let count = replies.len();
        for (n, reply) in replies.into_iter().enumerate() {
            authz.replies(reply.clone());
            let mut outcomes = Vec::new();
            for ztunnel in [&ours, &theirs] {
                let heard = echoed(ztunnel, to).await;
                let asked = authz.take().into_iter();
                let asked: Vec<_> = asked.map(|(_, check)| essence_of_check(check)).collect();
                outcomes.push((heard, asked));
            }
            assert_eq!(outcomes[0], outcomes[1], "{reply:?}");
            let [ours, theirs] = logs(&waypoint, &envoy, n + 1).await;
            assert_eq!(ours[n], theirs[n], "{reply:?}");
        }
        assert_eq!(count, 24);
    }
}

/// The status of what comes within a while. 100 is no answer, and for those who don't wait any more Envoy has it, too.
async fn heard(stream: &mut HboneStream) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    let pause = Duration::from_millis(700);
    while let Some(Ok(n @ 1..)) = unless_silent(pause, stream.read(&mut buffer)).await {
        heard.extend_from_slice(&buffer[..n]);
    }
    let heard = String::from_utf8(heard).unwrap();
    let mut status = heard.lines().filter(|line| line.starts_with("HTTP/1.1 "));
    status.next_back().unwrap_or_default().to_owned()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn a_check_waits_for_its_body_as_envoys_does() {
    for partial in [false, true] {
        let mesh = Mesh::new();
        mesh.describe_pod(2, "authz-1", "authz", false);
        mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
        let authz = Authorizer::start(mesh.backend(2)).await;
        let mut asks = asks_grpc(&cluster_of(&mesh, "authz"));
        asks.with_request_body = Some(BufferSettings {
            max_request_bytes: 8,
            allow_partial_message: partial,
            pack_as_bytes: true,
        });
        let scene = scene(mesh, &asks).await;
        // A client that waits for 100, and bodies that come in parts, or never end.
        let steps: [&[&str]; 4] = [
            &["expect: 100-continue\r\ncontent-length: 5\r\n\r\n", "hello"],
            &["content-length: 6\r\n\r\nabc", "def"],
            &[
                "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
                "3\r\ndef\r\n",
                "4\r\nghij\r\n",
                "0\r\n\r\n",
            ],
            &["transfer-encoding: chunked\r\n\r\n1\r\na\r\n"],
        ];
        for steps in steps {
            let mut outcomes = Vec::new();
            for ztunnel in [&scene.ours, &scene.theirs] {
                scene.app.forget();
                let mut stream = ztunnel.tunnel(scene.to).await;
                let head = b"POST / HTTP/1.1\r\nhost: web\r\n";
                stream.write_all(head).await.unwrap();
                let mut told = Vec::new();
                for step in steps {
                    let _ = stream.write_all(step.as_bytes()).await;
                    let answer = heard(&mut stream).await;
                    let asked = authz.take().into_iter();
                    let asked: Vec<_> = asked.map(|(_, check)| essence_of_check(check)).collect();
                    told.push((answer, asked, scene.app.seen().len()));
                }
                outcomes.push(told);
            }
            assert_eq!(outcomes[0], outcomes[1], "{partial} {steps:?}");
        }
    }
}
