//! TLS to servers that aren't of the mesh: known by the names in their certificates, by roots of one's own choice.
//!
//! As Envoy's upstream TLS: TLS 1.2 and 1.3; whose name is checked is said apart from SNI; without roots nothing is checked of the
//! server. Sessions are never resumed: a resumed one would not be checked against the roots of today.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::certificate_fields::CertificateFields;
use crate::tls::credentials::{ClientKey, OriginationError, ServerRoots};
use crate::tls::server_verifier::{NameCheck, ServerVerifier};
use crate::tls::tls_choice::TlsChoice;
use crate::tls::tls_info::{Agreed, TlsInfo};

/// Versions that may be spoken; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersions {
    Tls12,
    Tls13,
    Both,
}

/// What connections are made with.
pub struct OriginationSettings {
    pub versions: TlsVersions,
    pub choice: TlsChoice,
    pub alpn: Vec<Vec<u8>>,
    pub key: Option<ClientKey>,
    /// `None`: nothing is checked of the server.
    pub roots: Option<ServerRoots>,
    /// One of the server's names must pass; `None`: whatever they are.
    pub names: Option<NameCheck>,
}

/// Makes connections, each with its own name.
#[derive(Clone)]
pub struct Origination {
    config: Arc<ClientConfig>,
    provider: Arc<CryptoProvider>,
    roots: Option<ServerRoots>,
    names: Option<NameCheck>,
    key: Option<ClientKey>,
}

/// What one connection is to say and to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerToReach<'a> {
    /// SNI.
    pub sni: Option<&'a str>,
    /// A name that its certificate must have, instead of those of the settings.
    pub name: Option<&'a str>,
    /// ALPN, instead of the settings'.
    pub alpn: Option<&'a [&'a [u8]]>,
}

/// Whether SNI can have this name.
pub fn is_server_name(name: &str) -> bool {
    matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)))
}

impl Origination {
    pub fn new(settings: OriginationSettings) -> Result<Origination, OriginationError> {
        let provider = settings.choice.provider();
        let versions: &[&rustls::SupportedProtocolVersion] = match settings.versions {
            TlsVersions::Tls12 => &[&rustls::version::TLS12],
            TlsVersions::Tls13 => &[&rustls::version::TLS13],
            TlsVersions::Both => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let verifier = ServerVerifier::new(
            settings.roots.clone(),
            settings.names.clone(),
            None,
            provider.clone(),
        );
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.key {
            Some(ClientKey(key)) => {
                let key = SingleCertAndKey::from(key.as_ref().clone());
                config.with_client_cert_resolver(Arc::new(key))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = settings.alpn;
        config.resumption = Resumption::disabled();
        Ok(Origination {
            config: Arc::new(config),
            provider,
            roots: settings.roots,
            names: settings.names,
            key: settings.key,
        })
    }

    /// The handshake, on a connection that is there. `address` is whose it is.
    ///
    /// # Errors
    /// Why it failed, in Envoy's words where it has some.
    pub async fn connect<T>(
        &self,
        io: T,
        address: IpAddr,
        server: ServerToReach<'_>,
    ) -> Result<OriginatedStream<T>, io::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = self.config.clone();
        if server.name.is_some() || server.sni.is_none() || server.alpn.is_some() {
            let own = Arc::make_mut(&mut config);
            if let Some(name) = server.name {
                let verifier = ServerVerifier::new(
                    self.roots.clone(),
                    self.names.clone(),
                    Some(name.into()),
                    self.provider.clone(),
                );
                own.dangerous().set_certificate_verifier(Arc::new(verifier));
            }
            own.enable_sni = server.sni.is_some();
            if let Some(names) = server.alpn {
                own.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            }
        }
        let name = match server.sni {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
            None => ServerName::IpAddress(address.into()),
        };
        let stream = TlsConnector::from(config).connect(name, io).await?;
        Ok(OriginatedStream(Box::new(stream)))
    }

    /// What logs may want to know of a connection.
    pub fn info<T>(&self, stream: &OriginatedStream<T>) -> TlsInfo {
        let session = stream.0.get_ref().1;
        let roots = self.roots.as_ref().map(|roots| roots.certificates.clone());
        let agreed = Agreed::of(session);
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        let local = self.key.as_ref().and_then(|ClientKey(key)| {
            let leaf = key.cert.first()?;
            CertificateFields::read(leaf)
        });
        TlsInfo::originated(local, move || {
            agreed.with_chain(&chain, roots.as_deref().unwrap_or_default())
        })
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").finish_non_exhaustive()
    }
}

/// A connection, after its handshake.
pub struct OriginatedStream<T>(Box<TlsStream<T>>);

impl<T> OriginatedStream<T> {
    /// What was agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// What is below.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().0
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for OriginatedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(self.get_mut().0.as_mut()).poll_read(cx, buffer);
        match read {
            // Closed without a word of TLS: plain upstreams' end, to whoever knows by the protocol what is missing.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OriginatedStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().0.as_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().0.as_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.as_mut()).poll_shutdown(cx)
    }
}
