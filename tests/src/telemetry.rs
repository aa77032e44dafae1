//! Reading what the waypoint says of itself: metrics and access log.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// GET from one of the plain ports: status and body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = http_request(address, "GET", path).await;
    (status, body)
}

/// A request without a body to one of the plain ports: status, head and body. HTTP/1.0, so that a body that is
/// made while it is sent comes as it is.
pub async fn http_request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.0\r\nhost: test\r\n\r\n");
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
