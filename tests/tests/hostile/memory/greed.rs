//! The greedy peer: what it asks for, and keeps open.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use waypoint_tests::Ztunnel;
use waypoint_tests::hbone_stream::HboneStream;

use super::scene::Scene;
use super::{CHUNK, MUCH, Size};

/// A tunnel that nobody reads.
pub(super) struct Unread(pub(super) HboneStream);

impl AsyncRead for Unread {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// HTTP/2 in a tunnel, with windows as large as they get.
pub(super) async fn http2<T>(io: T) -> SendRequest<Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, driver) = h2::client::Builder::new()
        .initial_window_size((1 << 31) - 1)
        .initial_connection_window_size((1 << 31) - 1)
        .initial_max_send_streams(1000)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(async move {
        let _ = driver.await;
    });
    client
}

pub(super) fn asking(method: Method) -> Request<()> {
    let request = Request::builder().method(method).uri("http://much/");
    request.version(Version::HTTP_2).body(()).unwrap()
}

/// A request of which nobody reads the answer.
pub(super) type Asked = (ResponseFuture, SendStream<Bytes>);

/// What a greedy peer keeps open.
#[derive(Default)]
pub(super) struct Greed {
    pub(super) connections: Vec<Ztunnel>,
    pub(super) answers: Vec<(SendRequest<Bytes>, Vec<Asked>)>,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

impl Drop for Greed {
    /// The peer leaves in good order: its connections stay until its tunnels have said their goodbyes.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Greed {
    /// Tunnels, as far as they are granted.
    pub(super) async fn tunnels(&mut self, scene: &Scene, size: Size) -> Vec<HboneStream> {
        let certificate = scene.mesh.certificate("default", "greedy");
        let mut tunnels = Vec::new();
        for _ in 0..size.connections {
            let Ok(client) = Ztunnel::connect(scene.waypoint.hbone, &certificate).await else {
                continue;
            };
            for _ in 0..size.tunnels {
                let opened = client.connect_to(&scene.much.to_string(), &[]).await;
                if let Ok((StatusCode::OK, stream)) = opened {
                    tunnels.push(stream);
                }
            }
            self.connections.push(client);
        }
        tunnels
    }

    /// Requests over HTTP/2 whose answers are never read.
    pub(super) async fn unread_answers(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for tunnel in greed.tunnels(scene, size).await {
            let mut client = http2(Unread(tunnel)).await;
            let mut answers = Vec::new();
            for _ in 0..size.streams {
                match client.send_request(asking(Method::GET), true) {
                    Ok(answer) => answers.push(answer),
                    Err(_) => break,
                }
            }
            greed.answers.push((client, answers));
        }
        greed
    }

    /// Uploads over HTTP/1.1 to a backend that reads nothing.
    pub(super) async fn uploads(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for mut tunnel in greed.tunnels(scene, size).await {
            greed.tasks.push(tokio::spawn(async move {
                let head =
                    format!("PUT / HTTP/1.1\r\nhost: much\r\ncontent-length: {MUCH}\r\n\r\n");
                let _ = tunnel.write_all(head.as_bytes()).await;
                while tunnel.write_all(&CHUNK).await.is_ok() {}
            }));
        }
        greed
    }

    /// Uploads over HTTP/2, many in a tunnel, to a backend that reads nothing.
    pub(super) async fn uploads_over_http2(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for tunnel in greed.tunnels(scene, size).await {
            let mut client = http2(tunnel).await;
            for _ in 0..size.streams {
                let Ok((_, stream)) = client.send_request(asking(Method::PUT), false) else {
                    break;
                };
                greed.tasks.push(tokio::spawn(upload(stream)));
            }
            greed.answers.push((client, Vec::new()));
        }
        greed
    }
}

pub(super) async fn upload(mut stream: SendStream<Bytes>) {
    loop {
        stream.reserve_capacity(CHUNK.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let bytes = Bytes::from_static(&CHUNK).slice(..room.min(CHUNK.len()));
                if stream.send_data(bytes, false).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
