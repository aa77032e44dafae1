//! gRPC-Web calls of browsers, told in one line each: what the application saw, and what the client got.
//!
//! The same calls are made to the waypoint and to real Envoy, which give the same lines but for what `differences.md` says.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::mesh::Mesh;
use crate::ztunnel::{Answer, Ztunnel};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
/// A message `hi`, and an empty one.
const MESSAGES: &[u8] = b"\0\0\0\0\x02hi\0\0\0\0\0";

/// An application that speaks gRPC, and keeps what it sees.
#[derive(Clone, Default)]
pub struct Application(Arc<Mutex<Vec<String>>>);

impl Application {
    /// Service 1 of this mesh, and where it is reached.
    pub async fn start(mesh: &Mesh) -> (SocketAddr, Application) {
        mesh.describe_pod(1, "web-1", "web", false);
        let port = "{name: grpc-web, port: 80, targetPort: 8080}";
        let to = mesh.service_with_port(1, "web", port);
        let listener = TcpListener::bind(mesh.backend(1)).await.unwrap();
        let application = Application::default();
        let owned = application.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let owned = owned.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(tcp).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(owned.clone().answer(request, respond));
                    }
                });
            }
        });
        (to, application)
    }

    async fn answer(self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let mut message = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
        }
        let header = |name: &str| header(&head.headers, name);
        self.0.lock().push(format!(
            "{} te {} accepts {} length {} {}",
            header("content-type"),
            header("te"),
            header("grpc-accept-encoding"),
            header("content-length"),
            shown(&message)
        ));
        let _ = reply(head.uri.path(), message.into(), respond);
    }
}

fn reply(path: &str, message: Bytes, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let grpc = || Response::builder().header("content-type", "application/grpc");
    match path {
        "/fails" => {
            let head = grpc()
                .header("grpc-status", "5")
                .header("grpc-message", "no such thing");
            respond.send_response(head.body(()).unwrap(), true)?;
        }
        "/plain" => {
            let head = Response::builder()
                .status(503)
                .header("content-type", "text/plain")
                .header("content-length", "8");
            let mut send = respond.send_response(head.body(()).unwrap(), false)?;
            send.send_data("too % ü".into(), true)?;
        }
        "/nothing" => {
            let head = Response::builder().status(404);
            respond.send_response(head.body(()).unwrap(), true)?;
        }
        _ => {
            let mut send = respond.send_response(grpc().body(()).unwrap(), false)?;
            let (first, second) = (
                message.slice(..message.len() / 2),
                message.slice(message.len() / 2..),
            );
            send.send_data(first, false)?;
            send.send_data(second, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            trailers.insert("grpc-message", http::HeaderValue::from_static("fine"));
            send.send_trailers(trailers)?;
        }
    }
    Ok(())
}

fn header(headers: &HeaderMap, name: &str) -> String {
    let value = headers
        .get(name)
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    value.unwrap_or_else(|| "-".to_owned())
}

/// Bytes that one can read.
fn shown(bytes: &[u8]) -> String {
    let escaped = bytes
        .iter()
        .flat_map(|byte| std::ascii::escape_default(*byte));
    let text: Vec<u8> = escaped.collect();
    format!("{:?}", String::from_utf8_lossy(&text).replace("\\x00", "0"))
}

/// Makes all calls; a line for each.
pub async fn lines(ztunnel: &Ztunnel, to: SocketAddr, application: &Application) -> Vec<String> {
    let binary = MESSAGES.to_vec();
    let whole = STANDARD.encode(MESSAGES).into_bytes();
    let each = [&MESSAGES[..7], &MESSAGES[7..]].map(|message| STANDARD.encode(message));
    let each = each.concat().into_bytes();
    let mut calls = Vec::new();
    for path in ["/echo", "/fails", "/plain", "/nothing"] {
        for accept in ["", TEXT, "application/grpc-web-text+proto", "*/*"] {
            calls.push((path, BINARY, accept, binary.clone()));
            calls.push((path, TEXT, accept, whole.clone()));
        }
    }
    calls.push(("/echo", "application/grpc-web", "", binary.clone()));
    calls.push((
        "/echo",
        "application/grpc-web-text+proto",
        "",
        whole.clone(),
    ));
    calls.push(("/echo", "application/grpc-web+json", "", binary.clone()));
    calls.push(("/echo", "application/grpc", "", binary.clone()));
    calls.push(("/echo", TEXT, "", each));
    calls.push(("/echo", TEXT, "", b"AAAAA".to_vec()));
    calls.push(("/echo", TEXT, "", b"AAA-AAAA".to_vec()));
    let mut lines = Vec::new();
    for (path, content_type, accept, body) in calls {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", "web")
            .header("content-type", content_type);
        if !accept.is_empty() {
            request = request.header("accept", accept);
        }
        let what = format!("{path} {content_type} accept {accept:?} {}", shown(&body));
        let request = request
            .body(http_body_util::Full::new(body.into()))
            .unwrap();
        application.0.lock().clear();
        let answer = ztunnel.request(to, request).await;
        let saw = application.0.lock().join(" and ");
        lines.push(format!("{what}\n  saw {saw}\n  got {}", told(&answer)));
    }
    lines
}

fn told(answer: &Answer) -> String {
    let header = |name: &str| header(&answer.headers, name);
    let trailers = answer.trailers.as_ref().map_or(0, HeaderMap::len);
    format!(
        "{} {} status {} message {} length {} trailers {trailers} {}",
        answer.status.as_u16(),
        header("content-type"),
        header("grpc-status"),
        header("grpc-message"),
        header("content-length"),
        shown(&answer.body)
    )
}
