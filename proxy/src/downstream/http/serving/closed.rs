//! A connection of a chain that is closed.

use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::linger::Lingering;

/// Answers an HTTP client of a chain that is closed, and ends every other stream.
pub(crate) async fn serve_closed(mut stream: TunnelStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
        content-length: 55\r\nconnection: close\r\n\r\n\
        waypoint: the configuration of this service was refused";
    let first = tokio::time::timeout(
        Duration::from_secs(5),
        std::future::poll_fn(|cx| match stream.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(bytes)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }),
    )
    .await;
    if let Ok(Some(bytes)) = first
        && bytes.first().is_some_and(u8::is_ascii_uppercase)
        && !bytes.starts_with(b"PRI ")
    {
        let mut stream = Lingering::new(stream, None);
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    }
}
