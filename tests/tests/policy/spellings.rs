//! No way to write or to cut a request changes what policy says of it: escapes, dots, cases, order, whitespace, other headers,
//! chunks, segments, frames. `WAYPOINT_SEED` repeats a run.

use bytes::Bytes;
use fastrand::Rng;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::seeds::{chance, one, seed};
use waypoint_tests::server_names::InPieces;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh};

use crate::authorization::policy;

const DENY: &str = r#", action: DENY, rules: [
  {to: [{operation: {paths: ["/admin", "/admin/*", "*.php", "/items/{*}/x"]}}]},
  {to: [{operation: {methods: [DELETE], hosts: ["web.example.com"]}}]},
  {when: [{key: "request.headers[x-team]", values: [blue, "adm*"]}]}]"#;
const ALLOW: &str = r#", rules: [
  {to: [{operation: {notPaths: ["/closed*"]}}]},
  {to: [{operation: {hosts: ["open.example.com"]}}]}]"#;

/// A request in plain words.
struct Plain {
    method: Method,
    path: &'static str,
    host: &'static str,
    team: Option<&'static str>,
    body: Vec<u8>,
}

fn some(rng: &mut Rng) -> Plain {
    let paths = [
        "/admin",
        "/admin/a",
        "/a/b.php",
        "/items/7/x",
        "/items/7/y",
        "/closed",
        "/closed/b",
        "/a/b",
        "/",
    ];
    Plain {
        method: one(rng, &["GET", "POST", "DELETE"]).parse().unwrap(),
        path: one(rng, &paths),
        host: one(rng, &["web.example.com", "open.example.com"]),
        team: [None, None, Some("blue"), Some("admins"), Some("red")][rng.usize(..5)],
        body: vec![b'x'; rng.usize(..200)],
    }
}

/// The same path in other letters.
fn path(rng: &mut Rng, plain: &str) -> String {
    let mut path = String::new();
    for c in plain.chars() {
        if c == '/' {
            path.push_str(one(rng, &["", "", "", "/.", "/%2e", "/zz/..", "/y/%2E."]));
            path.push('/');
        } else if chance(rng, 25) {
            let escape = format!("%{:02X}", u32::from(c));
            path.push_str(&if rng.bool() {
                escape.to_lowercase()
            } else {
                escape
            });
        } else {
            path.push(c);
        }
    }
    path.push_str(one(rng, &["", "", "?", "?x=/../admin", "?%2e"]));
    path
}

fn cased(rng: &mut Rng, text: &str) -> String {
    let letters = text.chars();
    letters
        .map(|c| {
            if rng.bool() {
                c.to_ascii_uppercase()
            } else {
                c
            }
        })
        .collect()
}

/// Its headers in some order, among others; the host is one of them.
fn headers(rng: &mut Rng, plain: &Plain) -> Vec<(String, String)> {
    let mut all = vec![("host".to_owned(), cased(rng, plain.host))];
    if let Some(team) = plain.team {
        all.push(("x-team".to_owned(), team.to_owned()));
        if chance(rng, 30) {
            all.push(("x-team".to_owned(), "green".to_owned()));
        }
    }
    for n in 0..rng.usize(..6) {
        let value = "v".repeat(rng.usize(..300));
        all.push((format!("x-other-{n}"), value));
    }
    rng.shuffle(&mut all);
    all
}

/// As HTTP/1.1 could write it.
fn http1(rng: &mut Rng, plain: &Plain) -> Vec<u8> {
    let target = path(rng, plain.path);
    let mut head = format!("{} {target} HTTP/1.1\r\n", plain.method);
    let mut all = headers(rng, plain);
    all.push(("connection".to_owned(), "close".to_owned()));
    let chunked = rng.bool();
    all.push(match chunked {
        true => ("transfer-encoding".to_owned(), "chunked".to_owned()),
        false => ("content-length".to_owned(), plain.body.len().to_string()),
    });
    rng.shuffle(&mut all);
    for (name, value) in all {
        let name = cased(rng, &name);
        let (before, after) = (
            one(rng, &["", " ", "\t", "  "]),
            one(rng, &["", "", " ", "\t "]),
        );
        head.push_str(&format!("{name}:{before}{value}{after}\r\n"));
    }
    let mut bytes = format!("{head}\r\n").into_bytes();
    if !chunked {
        bytes.extend_from_slice(&plain.body);
        return bytes;
    }
    let mut rest = &plain.body[..];
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(1 + rng.usize(..rest.len()));
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// How long pieces are.
fn piece(rng: &mut Rng) -> usize {
    let most = [8, 100, 2000][rng.usize(..3)];
    1 + rng.usize(..most)
}

/// Sends it so, in pieces: the status.
async fn over_http1(rng: &mut Rng, stream: HboneStream, plain: &Plain) -> u16 {
    let bytes = http1(rng, plain);
    let piece = piece(rng);
    let mut stream = InPieces::new(stream, piece);
    let mut answer = Vec::new();
    // Whoever is denied may not be read to the end.
    let _ = stream.write_all(&bytes).await;
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{}: {answer:?}", String::from_utf8_lossy(&bytes)))
}

/// The same over HTTP/2, in frames of HBONE that have nothing to do with its own.
async fn over_http2(rng: &mut Rng, stream: HboneStream, plain: &Plain) -> u16 {
    let piece = piece(rng);
    let io = TokioIo::new(InPieces::new(stream, piece));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, driver) = handshake.await.unwrap();
    tokio::spawn(driver);
    let mut request = Request::new(Full::<Bytes>::from(plain.body.clone()));
    *request.method_mut() = plain.method.clone();
    *request.version_mut() = Version::HTTP_2;
    for (name, value) in headers(rng, plain) {
        match &*name {
            "host" => {
                let uri = format!("http://{value}{}", path(rng, plain.path));
                *request.uri_mut() = uri.parse().unwrap();
            }
            _ => {
                let name: http::HeaderName = name.parse().unwrap();
                request.headers_mut().append(name, value.parse().unwrap());
            }
        }
    }
    let answer = within("an answer", sender.send_request(request))
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let _ = answer.into_body().collect().await;
    status
}

#[tokio::test]
async fn no_spelling_and_no_cut_of_a_request_changes_a_verdict() {
    let mut rng = Rng::with_seed(seed());
    let mesh = Mesh::new();
    let (to, app): (_, App) = mesh.http_service(1, "web").await;
    mesh.manifest("deny.yaml", &policy("deny", "web", DENY));
    mesh.manifest("allow.yaml", &policy("allow", "web", ALLOW));
    let (_waypoint, client) = mesh.started().await;
    let mut verdicts = [0, 0];
    for _ in 0..40 {
        let plain = some(&mut rng);
        let mut sent = vec![("host", plain.host)];
        sent.extend(plain.team.map(|team| ("x-team", team)));
        let said = client
            .request(to, request(plain.method.clone(), plain.path, &sent))
            .await;
        let said = said.status.as_u16();
        assert!([200, 403].contains(&said), "{said}");
        verdicts[usize::from(said == 200)] += 1;
        for n in 0..8 {
            app.forget();
            let stream = client.tunnel(to).await;
            let status = match n % 2 {
                0 => over_http1(&mut rng, stream, &plain).await,
                _ => over_http2(&mut rng, stream, &plain).await,
            };
            let what = (&plain.method, plain.path, plain.host, plain.team);
            assert_eq!(status, said, "{what:?}, over HTTP/{}", 1 + n % 2);
            let seen = app.seen();
            assert_eq!(seen.len(), usize::from(said == 200), "{what:?}");
            for seen in seen {
                let (path, _) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
                assert_eq!(path, plain.path);
            }
        }
    }
    assert!(verdicts.iter().all(|count| *count > 0), "{verdicts:?}");
}
