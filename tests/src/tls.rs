//! TLS as a client's ztunnel speaks it, with rustls directly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waypoint_hbone::certificates::dev_ca::MintedCertificate;

/// What a client shows: a chain and its key, in PEM.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    pub chain: &'a str,
    pub key: &'a str,
}

impl<'a> Shown<'a> {
    pub(crate) fn of(certificate: &'a MintedCertificate) -> Shown<'a> {
        Shown {
            chain: certificate.chain_pem(),
            key: certificate.key_pem(),
        }
    }
}

/// A TLS connection to the HBONE port; without a certificate for the anonymous.
pub async fn tls(
    via: SocketAddr,
    certificate: Option<&MintedCertificate>,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(via).await?;
    tls_over(tcp, certificate.map(Shown::of), alpn).await
}

/// As [`tls`], over a connection that is there.
pub(crate) async fn tls_over(
    tcp: TcpStream,
    certificate: Option<Shown<'_>>,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let config = config(certificate, alpn)?;
    tcp.set_nodelay(true)?;
    let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// What a TLS client says first, for those who never go on.
#[must_use]
pub fn client_hello() -> Vec<u8> {
    let config = config(None, &[b"h2"]).unwrap();
    let name = ServerName::try_from("waypoint").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A client that believes any server.
pub(crate) fn client_config() -> ClientConfig {
    config(None, &[]).unwrap()
}

fn config(certificate: Option<Shown<'_>>, alpn: &[&[u8]]) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(io::Error::other)?;
            let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())
                .map_err(io::Error::other)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(io::Error::other)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// The story knows which waypoint it connected to.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
