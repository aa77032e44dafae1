//! Reading what the waypoint says of itself: metrics and access log.

use std::net::SocketAddr;

use http::Method;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ztunnel::request;

/// GET from one of the plain ports: status and body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = http_request(address, "GET", path).await;
    (status, body)
}

/// A page of an admin port, by HTTP/1.1: Envoy's takes nothing older.
///
/// # Panics
/// There is no such page.
pub async fn admin_get(address: SocketAddr, path: &str) -> String {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let host = address.to_string();
    let asked = request(Method::GET, path, &[("host", &host)]);
    let answer = send.send_request(asked).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A request without a body to one of the plain ports: status, head and body. HTTP/1.0, so that a body that is
/// made while it is sent comes as it is.
pub async fn http_request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    http_exchange(
        address,
        &format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\n\r\n"),
    )
    .await
}

/// The same for a request of HTTP/1.0 that is written out.
pub async fn http_exchange(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// A page with these headers asked for, unpacked where it comes packed: head and body.
pub async fn scrape(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n{headers}\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.unwrap() + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut text = String::new();
    if head.contains("content-encoding: gzip") {
        let mut unpacked = flate2::read::GzDecoder::new(body);
        std::io::Read::read_to_string(&mut unpacked, &mut text).unwrap();
    } else {
        text.push_str(std::str::from_utf8(body).unwrap());
    }
    (head, text)
}

/// The sum of a metric's series that have all these labels.
#[must_use]
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    text.lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
                && labels
                    .iter()
                    .all(|(k, v)| line.contains(&format!("{k}=\"{v}\"")))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
