//! TLS to the control plane: a server that is known by its DNS name and a root of its own, not by SPIFFE.
//!
//! TLS 1.2 is allowed, as istiod's own clients do; the client shows no certificate, its token speaks for it.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why no connection to the control plane can be made with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneTlsError {
    #[error("the root certificates: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the root certificates hold no usable one")]
    NoRoot,
    #[error("the server name: {0}")]
    Name(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// TLS to one server, by name.
#[derive(Clone)]
pub struct ControlPlaneTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl ControlPlaneTls {
    /// `roots` is PEM; `name` is what the server's certificate must be for.
    pub fn new(roots: &[u8], name: &str) -> Result<ControlPlaneTls, ControlPlaneTlsError> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            // One root that can't be read doesn't take the others away.
            let _ = store.add(root?);
        }
        if store.is_empty() {
            return Err(ControlPlaneTlsError::NoRoot);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(ControlPlaneTls {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name.to_owned())?,
        })
    }

    /// Connects to `address` (`host:port`).
    pub async fn connect(
        &self,
        address: &str,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        self.connector.connect(self.name.clone(), tcp).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::certificates::dev_ca::DevCa;

    #[test]
    fn roots_and_name_are_checked_at_once() {
        let ca = DevCa::ephemeral().unwrap();
        let root = ca.root_pem().as_bytes();
        assert!(ControlPlaneTls::new(root, "istiod.istio-system.svc").is_ok());
        assert!(matches!(
            ControlPlaneTls::new(b"", "istiod.istio-system.svc"),
            Err(ControlPlaneTlsError::NoRoot)
        ));
        assert!(matches!(
            ControlPlaneTls::new(root, "not a name"),
            Err(ControlPlaneTlsError::Name(_))
        ));
    }
}
