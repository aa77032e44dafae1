//! Upgrades over HTTP/2 (RFC 8441): a client that asks for one in a tunnel, and an application that takes one.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2 as client;
use hyper::ext::Protocol;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;

use crate::app::App;
use crate::managers::{self, INNER};
use crate::mesh::Mesh;
use crate::wait::within;
use crate::ztunnel::Ztunnel;

/// The mesh's resources, with upgrades over HTTP/2 let in.
#[must_use]
pub fn resources(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, INNER, |manager| {
        let http2 = manager.http2_protocol_options.get_or_insert_default();
        http2.allow_connect = true;
    });
    resources
}

/// Asks for this protocol, and, where it is granted, has `abc` echoed. The status, and what came back.
pub async fn ask(ztunnel: &Ztunnel, to: SocketAddr, protocol: &str) -> (StatusCode, String) {
    let io = TokioIo::new(ztunnel.tunnel(to).await);
    let (mut sender, driver) = client::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    // The server has to say first that it takes such requests.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://web/socket")
        .body(Empty::<Bytes>::new())
        .unwrap();
    request.extensions_mut().insert(Protocol::from(protocol));
    let asked = sender.send_request(request);
    let mut response = within("the answer to an upgrade", asked).await.unwrap();
    let status = response.status();
    if status != StatusCode::OK {
        return (status, String::new());
    }
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut socket = TokioIo::new(upgraded);
    socket.write_all(b"abc").await.unwrap();
    let mut echo = [0; 3];
    within("the echo", socket.read_exact(&mut echo))
        .await
        .unwrap();
    (status, String::from_utf8_lossy(&echo).into_owned())
}

/// An application that echoes in upgrades over HTTP/2.
pub async fn application(address: SocketAddr) {
    App::tcp(address, |tcp| async move {
        let service = service_fn(|mut request: Request<hyper::body::Incoming>| async move {
            let protocol = request.extensions().get::<Protocol>();
            let taken = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
            let mut response = Response::new(Empty::<Bytes>::new());
            if !taken {
                *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
                return Ok::<_, Infallible>(response);
            }
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgraded.await {
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
            Ok(response)
        });
        let _ = server::Builder::new(TokioExecutor::new())
            .enable_connect_protocol()
            .serve_connection(TokioIo::new(tcp), service)
            .await;
    })
    .await;
}
