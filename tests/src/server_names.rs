//! TLS inside tunnels: a backend that says which name it was asked for, and clients who ask for one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::app::App;
use crate::hbone_stream::HboneStream;
use crate::tls::client_config;
use crate::wait::within;

/// A TLS server: to whoever comes it says the name it was asked for.
pub struct TlsApp {
    connections: Arc<AtomicUsize>,
}

impl TlsApp {
    pub async fn start(address: SocketAddr) -> TlsApp {
        let own = rcgen::generate_simple_self_signed(vec!["backend".into()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        App::tcp(address, move |tcp| {
            count.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let name = tls.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                let _ = tls.write_all(format!("{name}\n").as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        })
        .await;
        TlsApp { connections }
    }

    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A handshake in the tunnel for this name, in pieces of at most so many bytes: what the server says. `None`: no more
/// than the end was heard.
pub async fn asks_for(stream: HboneStream, name: Option<&str>, piece: usize) -> Option<String> {
    let mut config = client_config();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("nobody").to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let told = async {
        let mut tls = connector.connect(name, InPieces(stream, piece)).await?;
        let mut told = String::new();
        tls.read_to_string(&mut told).await?;
        io::Result::Ok(told)
    };
    let told = within("the handshake or its end", told).await.ok()?;
    Some(told.trim_end().to_owned())
}

/// Sends these bytes: what comes back, to the end.
pub async fn says(stream: &mut HboneStream, bytes: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = stream.write_all(bytes).await;
    let _ = within("the end", stream.read_to_end(&mut heard)).await;
    heard
}

/// Writes no more than so many bytes at once, each a frame of its own.
pub struct InPieces(HboneStream, usize);

impl InPieces {
    #[must_use]
    pub fn new(stream: HboneStream, piece: usize) -> InPieces {
        InPieces(stream, piece)
    }
}

impl AsyncWrite for InPieces {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let piece = &bytes[..bytes.len().min(this.1)];
        Pin::new(&mut this.0).poll_write(cx, piece)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl AsyncRead for InPieces {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}
