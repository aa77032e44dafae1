//! Upstream connections under requests with bodies: one that ended in order on both sides serves the next
//! request, whatever ended first; one that didn't is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh, Script, Then, Waypoint, Ztunnel};

fn post(path: &str, length: usize) -> Request<Full<Bytes>> {
    request(Method::POST, path, &[]).map(|_| Full::new(Bytes::from(vec![b'u'; length])))
}

#[tokio::test]
async fn a_thousand_posts_share_a_few_connections() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (captured, far, ztunnel) = mesh.captured_service(2, "far").await;
    let (_waypoint, curl) = mesh.started().await;
    // Keep-alive over HTTP/1.1, up plain and through a tunnel.
    for (to, app) in [(to, &app), (captured, &far)] {
        let tunnels = (0..4).map(|_| async {
            let mut connection = curl.http1(to).await;
            for n in 0..250 {
                let length = [1, 1024, 70_000][n % 3];
                let answer = connection.send(post("/", length)).await;
                assert_eq!(answer.status, StatusCode::OK);
            }
        });
        futures_util::future::join_all(tunnels).await;
        assert_eq!(app.seen().len(), 1000);
        assert!(app.connections() <= 4, "{} connections", app.connections());
    }
    assert!(ztunnel.connects().len() <= 4);

    // HTTP/2 clients, eight requests at a time.
    let before = app.connections();
    let connection = curl.http2(to).await;
    let streams = (0..8).map(|_| async {
        for _ in 0..125 {
            let answer = connection.send(post("/", 1024)).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
    });
    futures_util::future::join_all(streams).await;
    let made = app.connections() - before;
    assert!(made <= 8, "{made} connections");
}

#[tokio::test]
async fn a_small_request_leaves_in_one_piece() {
    let mesh = Mesh::new();
    let (to, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (_waypoint, curl) = mesh.started().await;
    let (mut http1, http2) = (curl.http1(to).await, curl.http2(to).await);
    for _ in 0..20 {
        assert_eq!(http1.send(post("/", 1024)).await.status, StatusCode::OK);
        assert_eq!(http2.send(post("/", 1024)).await.status, StatusCode::OK);
    }
    // What each write of the waypoint's becomes.
    assert_eq!(ztunnel.frames(), 40);
}

#[tokio::test]
async fn methods_and_statuses_without_a_body_downstream_give_theirs_back() {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_service(1, "web");
    // It reads bodies by their length, as hyper would, and says what a path asks for.
    let app = Reader::start(address, |path| match path {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n".to_vec(),
        "/0" => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
    })
    .await;
    let waypoint = mesh.start().await;
    let mut connection = mesh
        .client(&waypoint, "default", "curl")
        .await
        .http1(to)
        .await;
    for path in ["/204", "/304", "/0", "/2"] {
        for length in [3, 0, 100_000] {
            assert!(connection.send(post(path, length)).await.status.as_u16() < 400);
        }
    }
    assert_eq!(app.bodies().len(), 12);
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn a_chunked_body_with_trailers_gives_its_connection_back() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_waypoint, curl) = mesh.started().await;
    let (mut sender, driver) = http1::handshake(TokioIo::new(curl.tunnel(to).await))
        .await
        .unwrap();
    tokio::spawn(driver);
    for _ in 0..20 {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let frames = [
            Frame::data(Bytes::from_static(b"abc")),
            Frame::data(Bytes::from_static(b"def")),
            Frame::trailers(trailers),
        ];
        let frames = frames.map(Ok::<_, std::convert::Infallible>);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post("/")
            .header("host", "web")
            .header("trailer", "x-sum")
            .body(body)
            .unwrap();
        sender.ready().await.unwrap();
        let answer = within("answer", sender.send_request(request))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
        let seen = app.last();
        assert_eq!(&seen.body[..], b"abcdef");
        // Those of HTTP/1 are dropped on the way.
        assert_eq!(seen.trailers, None);
    }
    assert_eq!(app.connections(), 1);
}

/// A backend that answers every head at once, and reads the request's body to its end meanwhile.
#[derive(Clone)]
struct Reader {
    bodies: Arc<Mutex<Vec<usize>>>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Reader {
    async fn start(
        address: SocketAddr,
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Reader {
        let reader = Reader {
            bodies: Arc::default(),
            connections: Arc::default(),
            ended: Arc::default(),
        };
        let (owned, answer) = (reader.clone(), Arc::new(answer));
        App::tcp(address, move |tcp| {
            let (owned, answer) = (owned.clone(), answer.clone());
            async move {
                owned.connections.fetch_add(1, Ordering::Relaxed);
                let _ = owned.play(tcp, &*answer).await;
                owned.ended.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        reader
    }

    async fn play(
        &self,
        tcp: TcpStream,
        answer: &(dyn Fn(&str) -> Vec<u8> + Send + Sync),
    ) -> std::io::Result<()> {
        let (mut read, mut write) = tcp.into_split();
        loop {
            let head = read_head(&mut read).await?;
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let length = head
                .to_ascii_lowercase()
                .split_once("content-length: ")
                .and_then(|(_, rest)| rest.split("\r\n").next()?.parse::<usize>().ok())
                .unwrap_or(0);
            let bytes = answer(&path);
            let writing = tokio::spawn(async move {
                write.write_all(&bytes).await?;
                Ok::<_, std::io::Error>(write)
            });
            let mut body = vec![0; length];
            read.read_exact(&mut body).await?;
            self.bodies.lock().push(length);
            write = writing.await.unwrap()?;
        }
    }

    fn bodies(&self) -> Vec<usize> {
        self.bodies.lock().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn read_head(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

struct Early {
    _mesh: Mesh,
    to: SocketAddr,
    app: Reader,
    waypoint: Waypoint,
    curl: Ztunnel,
}

/// A scene whose backend answers before it has read.
async fn early(body: usize) -> Early {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_service(1, "web");
    let app = Reader::start(address, move |_| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
        [head.as_bytes(), &vec![b'd'; body]].concat()
    })
    .await;
    let (waypoint, curl) = mesh.started().await;
    Early {
        _mesh: mesh,
        to,
        app,
        waypoint,
        curl,
    }
}

/// Reads an answer of this many bytes.
async fn read_answer(tunnel: &mut HboneStream, body: usize) {
    let head = within("the head", read_head(tunnel)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut bytes = vec![0; body];
    within("the body", tunnel.read_exact(&mut bytes))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_answer_that_ends_before_the_upload_keeps_the_connection() {
    for answer in [0, 2, 100_000] {
        let scene = early(answer).await;
        let mut tunnel = scene.curl.tunnel(scene.to).await;
        for n in 1..=5 {
            tunnel
                .write_all(b"POST /early HTTP/1.1\r\nhost: web\r\ncontent-length: 200000\r\n\r\n")
                .await
                .unwrap();
            tunnel.write_all(&[b'u'; 100_000]).await.unwrap();
            read_answer(&mut tunnel, answer).await;
            assert_eq!(scene.app.bodies().len(), n - 1, "the upload goes on");
            tunnel.write_all(&[b'u'; 100_000]).await.unwrap();
            until("the whole upload", async || {
                (scene.app.bodies() == vec![200_000; n]).then_some(())
            })
            .await;
        }
        assert_eq!(scene.app.connections(), 1, "answers of {answer} bytes");
        let line = scene.waypoint.until_logged("POST /early ").await;
        assert!(line.contains(" 200 - via_upstream "), "{line}");
    }
}

#[tokio::test]
async fn an_early_answer_and_its_upload_do_not_wait_for_each_other() {
    // More than sockets and windows on the way hold: the client sends all of it before it reads anything.
    const MUCH: usize = 24 << 20;
    let scene = early(MUCH).await;
    for _ in 0..2 {
        let mut tunnel = scene.curl.tunnel(scene.to).await;
        let head = format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {MUCH}\r\n\r\n");
        tunnel.write_all(head.as_bytes()).await.unwrap();
        within("the upload", tunnel.write_all(&vec![b'u'; MUCH]))
            .await
            .unwrap();
        read_answer(&mut tunnel, MUCH).await;
    }
    assert_eq!(scene.app.connections(), 1);
}

#[tokio::test]
async fn a_cancelled_upload_closes_its_connection() {
    // Before the answer, and after an early one.
    for answer in [24 << 20, 2] {
        let scene = early(answer).await;
        let mut tunnel = scene.curl.tunnel(scene.to).await;
        tunnel
            .write_all(b"POST /gone HTTP/1.1\r\nhost: web\r\ncontent-length: 200000\r\n\r\nabc")
            .await
            .unwrap();
        read_answer(&mut tunnel, 2).await;
        tunnel.reset(h2::Reason::CANCEL);
        until("the connection's end", async || {
            (scene.app.ended.load(Ordering::Relaxed) == 1).then_some(())
        })
        .await;
        assert!(
            scene.app.bodies().is_empty(),
            "nothing stands in for the rest"
        );
        let mut connection = scene.curl.http1(scene.to).await;
        let answer = connection.start(post("/next", 5)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(scene.app.connections(), 2);
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_ends_serves_nobody_else() {
    for first in [
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nok",
    ] {
        let mesh = Mesh::new();
        let (to, address) = mesh.bare_service(1, "web");
        let app = Script::start(address, move |_| (first.into(), Then::Close)).await;
        let (_waypoint, curl) = mesh.started().await;
        for _ in 0..3 {
            let answer = curl.request(to, post("/", 10)).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "ok")
            );
        }
        assert_eq!(app.connections(), 3, "{first}");
    }
}

#[tokio::test]
async fn an_answer_survives_an_upstream_that_stops_reading() {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_service(1, "web");
    // It refuses without having read, and its socket, closed with bytes unread, resets the connection.
    App::tcp(address, |mut tcp| async move {
        let _ = read_head(&mut tcp).await;
        let refusal = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
        let _ = tcp.write_all(refusal).await;
    })
    .await;
    let (_waypoint, curl) = mesh.started().await;
    for n in 0..20 {
        let mut connection = curl.http1(to).await;
        let answer = connection.send(post(&format!("/{n}"), 3 << 20)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (413, "too large"),
            "request {n}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_sent_again_gives_its_connection_back() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", RETRIES);
    let waypoint = mesh.start().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let mut connection = mesh
        .client(&waypoint, "default", "curl")
        .await
        .http1(to)
        .await;
    for _ in 0..5 {
        let failing = request(Method::POST, "/", &[("x-status", "503")]);
        let failing = failing.map(|_| Full::new(Bytes::from_static(b"again and again")));
        assert_eq!(connection.send(failing).await.status, 503);
        assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    }
    assert_eq!(app.seen().len(), 5 * 3 + 5);
    assert!(
        app.seen()
            .iter()
            .filter(|seen| seen.method == Method::POST)
            .all(|seen| &seen.body[..] == b"again and again")
    );
    // An answer that is thrown away takes its connection along.
    assert!(app.connections() <= 1 + 5 * 2, "{}", app.connections());
}

const RETRIES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - retry: {codes: [503], attempts: 2, backoff: 10ms}
    backendRefs: [{name: web, port: 80}]
"#;
