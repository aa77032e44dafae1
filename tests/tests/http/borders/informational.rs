//! What an upstream says before its answer: 100, 102, 103, 104.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Http1ProtocolOptions;
use envoy_types::pb::envoy::config::route::v3::{HedgePolicy, RetryPolicy};
use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};
use http::{Request, Response};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use waypoint_config::resource::Resource;
use waypoint_tests::app::App;
use waypoint_tests::balancing::routes;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::wait::{PATIENCE, within};
use waypoint_tests::wire::{read_body, read_head};
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

use super::{changed, envoy_beside};

/// An application that says what a request's `x-say` asks it to, word by word: a status; `hold` waits until the client has
/// heard of one; `pause` waits for a while; `end` ends the connection; `last` and a status is the answer.
#[derive(Clone, Default)]
struct Informer {
    heard: Heard,
    /// How often nobody had heard of it.
    unheard: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

/// A permit for each time that a client has heard something.
#[derive(Clone)]
struct Heard(Arc<Semaphore>);

impl Default for Heard {
    fn default() -> Heard {
        Heard(Arc::new(Semaphore::new(0)))
    }
}

const LINK: &str = "</a.css>; rel=preload";
const PAUSE: Duration = Duration::from_millis(1200);

/// Not all of it is for the client.
fn said(status: &str) -> String {
    let of_connection = "connection: x-hop\r\nkeep-alive: 5";
    format!("HTTP/1.1 {status} Said\r\nLink: {LINK}\r\n{of_connection}\r\nserver: me\r\n\r\n")
}

impl Informer {
    async fn start(mesh: &Mesh, n: u8, port: &str) -> (SocketAddr, Informer) {
        let name = format!("web-{n}");
        mesh.describe_pod(n, &format!("{name}-1"), &name, false);
        let informer = Informer::default();
        let (owned, http2) = (informer.clone(), port == "http2");
        App::tcp(mesh.backend(n), move |tcp| {
            let informer = owned.clone();
            async move {
                match http2 {
                    true => informer.serve_http2(tcp).await,
                    false => informer.serve_http1(tcp).await,
                }
            }
        })
        .await;
        let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
        (mesh.service_with_port(n, &name, &port), informer)
    }

    /// Until the client has heard.
    async fn hold(&self) {
        match tokio::time::timeout(PATIENCE, self.heard.0.acquire()).await {
            Ok(heard) => heard.unwrap().forget(),
            Err(_) => _ = self.unheard.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn unheard(&self) -> usize {
        self.unheard.swap(0, Ordering::Relaxed)
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    async fn serve_http1(self, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        let mut tcp = BufReader::new(tcp);
        while let Some(head) = read_head(&mut tcp).await {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut last = "200";
            let mut text = String::new();
            for word in head.header("x-say").split(' ') {
                match word {
                    "" => {}
                    "hold" => self.hold().await,
                    "pause" => tokio::time::sleep(PAUSE).await,
                    "end" => return,
                    word if word.starts_with("last") => last = &word[4..],
                    status => text = said(status),
                }
                let _ = tcp.write_all(text.as_bytes()).await;
                text.clear();
            }
            let answer = format!("HTTP/1.1 {last} Fine\r\ncontent-length: 5\r\n\r\nhello");
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn serve_http2(self, tcp: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer_http2(request, respond));
        }
    }

    async fn answer_http2(
        self,
        request: Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let (parts, _) = request.into_parts();
        let say = parts
            .headers
            .get("x-say")
            .map_or("", |say| say.to_str().unwrap());
        let mut last = "200";
        for word in say.split(' ') {
            match word {
                "hold" => self.hold().await,
                "end" => return,
                "" => {}
                word if word.starts_with("last") => last = &word[4..],
                status => {
                    let said = Response::builder().status(status).header("link", LINK);
                    let said = said.header("server", "me").body(()).unwrap();
                    let _ = respond.send_informational(said);
                }
            }
        }
        let answer = Response::builder()
            .status(last)
            .header("content-length", "5");
        if let Ok(mut send) = respond.send_response(answer.body(()).unwrap(), false) {
            let _ = send.send_data("hello".into(), true);
        }
    }
}

/// Everything that a client was told, in order.
type Story = Vec<String>;

/// What a client of HTTP/1 is told for requests that it sends at once, each with one of these `x-say`.
async fn ask_http1(
    client: &Ztunnel,
    to: SocketAddr,
    informer: &Informer,
    version: &str,
    says: &[&str],
) -> Story {
    informer.heard.0.forget_permits(usize::MAX);
    let mut stream = BufReader::new(client.tunnel(to).await);
    let requests = says.iter().map(|say| {
        format!("POST /x HTTP/{version}\r\nhost: web\r\ncontent-length: 0\r\nx-say: {say}\r\n\r\n")
    });
    let requests: String = requests.collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut story = Vec::new();
    let listening = async {
        let mut answers = 0;
        while answers < says.len() {
            let Some(head) = read_head(&mut stream).await else {
                story.push("end".to_owned());
                return;
            };
            let status = head.line.split(' ').nth(1).unwrap_or_default();
            let (link, server) = (head.header("link"), head.header("server"));
            if !status.starts_with('1') {
                answers += 1;
                story.push(status.to_owned());
                read_body(&mut stream, head.answer_framing("POST")).await;
                continue;
            }
            assert_eq!((link, server, head.header("connection")), (LINK, "me", ""));
            story.push(status.to_owned());
            informer.heard.0.add_permits(1);
        }
    };
    within("an answer", listening).await;
    story
}

/// As [`ask_http1`], for one request.
async fn ask(client: &Ztunnel, (to, informer): &(SocketAddr, Informer), say: &str) -> String {
    let story = ask_http1(client, *to, informer, "1.1", &[say]).await;
    story.join(" ")
}

async fn ask_http2(client: &Ztunnel, (to, informer): &(SocketAddr, Informer), say: &str) -> String {
    let stream = client.tunnel(*to).await;
    let (client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let mut client = client.ready().await.unwrap();
    let request = Request::post("http://web/x").header("x-say", say);
    let (mut response, _) = client
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let mut story = Story::new();
    let answer = std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(said))) = response.poll_informational(cx) {
            story.push(said.status().as_str().to_owned());
            informer.heard.0.add_permits(1);
        }
        Pin::new(&mut response).poll(cx)
    });
    let answer = within("an answer", answer).await.unwrap();
    story.push(answer.status().as_str().to_owned());
    story.join(" ")
}

/// What an application says, and what comes back.
const SAYINGS: [(&str, &str); 10] = [
    ("", "200"),
    ("100 hold", "100 200"),
    ("102 hold", "102 200"),
    ("103 hold", "103 200"),
    ("104 hold", "104 200"),
    ("105", "200"),
    ("103", "103 200"),
    ("103 hold 103 hold 102 hold", "103 103 102 200"),
    ("100 103 104 last404", "100 103 104 404"),
    ("103 hold end", "103 503"),
];

async fn informers(mesh: &Mesh) -> [(SocketAddr, Informer); 2] {
    [
        Informer::start(mesh, 1, "http").await,
        Informer::start(mesh, 2, "http2").await,
    ]
}

#[tokio::test]
async fn what_an_upstream_says_before_its_answer_comes_back_at_once() {
    let mesh = Mesh::new();
    let [http1, http2] = informers(&mesh).await;
    let (waypoint, client) = mesh.started().await;
    for (say, story) in SAYINGS {
        assert_eq!(ask(&client, &http1, say).await, story, "{say:?}");
    }
    assert_eq!(http1.1.unheard(), 0);
    // Answers stay in order, and each is said what is its own.
    let says = [
        "103 hold",
        "100 hold 102 hold last404",
        "",
        "103 hold",
        "103 hold",
    ];
    let story = ask_http1(&client, http1.0, &http1.1, "1.1", &says).await;
    assert_eq!(story.join(" "), "103 200 100 102 404 200 103 200 103 200");
    assert_eq!(http1.1.unheard(), 0);
    // And whatever either side speaks.
    for (say, story) in SAYINGS {
        assert_eq!(ask_http2(&client, &http1, say).await, story, "{say:?}");
        assert_eq!(ask_http2(&client, &http2, say).await, story, "{say:?}");
        assert_eq!(ask(&client, &http2, say).await, story, "{say:?}");
    }
    assert_eq!((http1.1.unheard(), http2.1.unheard()), (0, 0));
    let log = waypoint.until_logged(" 404 - ").await;
    assert!(!log.contains("\" 10"), "only answers are recorded: {log}");
    assert!(waypoint.metrics().await.contains("waypoint_panics_total 0"));
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn what_is_said_beside_envoy() {
    let mesh = Mesh::new();
    let [http1, http2] = informers(&mesh).await;
    let beside = Beside::start(&mesh, mesh.resources()).await;
    for (say, _) in SAYINGS {
        if say.matches("10").count() < 2 {
            let (ours, theirs) = beside.ask(&http1, say).await;
            assert_eq!(ours, theirs, "{say:?}");
        }
    }
    // Envoy passes one on, and no further ones.
    let several = beside.ask(&http1, "100 103 104 last404").await;
    let told = ("100 103 104 404".to_owned(), "100 404".to_owned());
    assert_eq!(several, told);
    // And whatever either side speaks.
    for (say, _) in SAYINGS {
        if say.matches("10").count() < 2 {
            for from in [&http1, &http2] {
                let theirs = ask_http2(&beside.theirs, from, say).await;
                assert_eq!(ask_http2(&beside.ours, from, say).await, theirs, "{say:?}");
            }
            let (ours, theirs) = beside.ask(&http2, say).await;
            assert_eq!(ours, theirs, "{say:?}, from HTTP/2");
        }
    }
}

/// The waypoint, and real Envoy as one.
struct Beside {
    ours: Ztunnel,
    theirs: Ztunnel,
    _running: (ControlPlane, waypoint_tests::Waypoint, Envoy),
}

impl Beside {
    async fn start(mesh: &Mesh, resources: Vec<Resource>) -> Beside {
        let istiod = ControlPlane::start(mesh).await;
        istiod.discovery.set(resources.clone());
        let (waypoint, ours) = mesh.started_under(&istiod).await;
        let (envoy, theirs) = envoy_beside(mesh, &resources).await;
        Beside {
            ours,
            theirs,
            _running: (istiod, waypoint, envoy),
        }
    }

    async fn ask(&self, to: &(SocketAddr, Informer), say: &str) -> (String, String) {
        let ours = ask(&self.ours, to, say).await;
        (ours, ask(&self.theirs, to, say).await)
    }
}

const RETRIES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web-1, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web-1, port: 80}]
  rules:
  - retry: {codes: [503], attempts: 2, backoff: 10ms}
    backendRefs: [{name: web-1, port: 80}]
"#;

/// `(what is said, what comes back, how often the application was asked)`, where 503 is to be tried again.
const RETRIED: [(&str, &str, usize); 2] =
    [("last503", "503", 3), ("103 hold last503", "103 503", 1)];

#[tokio::test]
async fn an_upstream_that_has_spoken_has_to_answer() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    mesh.manifest("retries.yaml", RETRIES);
    let (_waypoint, client) = mesh.started().await;
    for (say, story, asked) in RETRIED {
        assert_eq!(ask(&client, &http1, say).await, story);
        assert_eq!(http1.1.asked(), asked, "{say}");
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn an_upstream_that_has_spoken_beside_envoy() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    mesh.manifest("retries.yaml", RETRIES);
    let beside = Beside::start(&mesh, mesh.resources()).await;
    for (say, story, asked) in RETRIED {
        assert_eq!(ask(&beside.theirs, &http1, say).await, story);
        assert_eq!(http1.1.asked(), asked, "{say}");
    }
}

/// Attempts go on beside others after a while (1.2 s is a `pause`).
fn hedged(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    routes(&mut resources, "web-1", |route| {
        route.retry_policy = Some(RetryPolicy {
            retry_on: "5xx".into(),
            num_retries: Some(UInt32Value { value: 2 }),
            per_try_timeout: Some(DurationProto {
                seconds: 0,
                nanos: 300_000_000,
            }),
            ..RetryPolicy::default()
        });
        route.hedge_policy = Some(HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..HedgePolicy::default()
        });
    });
    resources
}

#[tokio::test]
async fn no_other_upstream_is_asked_beside_one_that_has_spoken() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(hedged(&mesh));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(ask(&client, &http1, "pause").await, "200");
    assert!(http1.1.asked() > 1);
    assert_eq!(ask(&client, &http1, "103 pause").await, "103 200");
    assert_eq!(http1.1.asked(), 1);
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn hedged_requests_beside_envoy() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    let beside = Beside::start(&mesh, hedged(&mesh)).await;
    for (say, alone) in [("pause", false), ("103 pause", true)] {
        let mut told = Vec::new();
        for client in [&beside.ours, &beside.theirs] {
            told.push(ask(client, &http1, say).await);
            assert_eq!(http1.1.asked() == 1, alone, "{say}");
        }
        assert_eq!(told[0], told[1], "{say}");
    }
}

fn idle_for_two_seconds(mesh: &Mesh) -> Vec<Resource> {
    changed(mesh, |manager| {
        // Not of tunnels.
        let mut upgrades = manager.upgrade_configs.iter();
        if upgrades.all(|upgrade| upgrade.upgrade_type != "CONNECT") {
            manager.stream_idle_timeout = Some(DurationProto {
                seconds: 2,
                nanos: 0,
            });
        }
    })
}

/// Of a stream that may be idle for two seconds.
const PAUSES: [(&str, &str); 2] = [("pause pause pause", "504"), ("pause 102 pause", "102 200")];

#[tokio::test]
async fn who_says_that_it_is_at_work_is_not_idle() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(idle_for_two_seconds(&mesh));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    for (say, story) in PAUSES {
        assert_eq!(ask(&client, &http1, say).await, story, "{say}");
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn who_is_at_work_beside_envoy() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    let beside = Beside::start(&mesh, idle_for_two_seconds(&mesh)).await;
    for (say, _) in PAUSES {
        let (ours, theirs) = beside.ask(&http1, say).await;
        assert_eq!(ours, theirs, "{say}");
    }
}

#[tokio::test]
async fn nothing_is_said_to_http_10_and_where_it_is_not_configured() {
    let mesh = Mesh::new();
    let [http1, _] = informers(&mesh).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(changed(&mesh, |manager| {
        manager.http_protocol_options = Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        });
    }));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let story = ask_http1(&client, http1.0, &http1.1, "1.0", &["103 100"]).await;
    assert_eq!(story.join(" "), "200");
    drop(waypoint);
    istiod
        .discovery
        .set(changed(&mesh, |manager| manager.proxy_100_continue = false));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(ask(&client, &http1, "103 100").await, "200");
}
