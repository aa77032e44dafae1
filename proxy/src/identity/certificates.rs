//! Where the waypoint's own certificate comes from: a folder of PEM files, reloaded when they change, a
//! local development CA, or istiod's CA (`workload_ca`).
//!
//! A folder is loaded again only when two looks in a row saw the same new bytes: the three files are
//! replaced one after another. A folder that can't be used leaves the certificate that is in use.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use waypoint_config::sources::xds::channel::ControlPlane;
use waypoint_hbone::certificates::certificate::{CertificateError, WorkloadCertificate};
use waypoint_hbone::certificates::dev_ca::{DevCa, DevCaError};
use waypoint_hbone::identity::{Identity, IdentityError};
use waypoint_hbone::tls::Tls;

/// How long a certificate of the development CA is valid; it is renewed after half of it.
pub(crate) const DEV_TTL: Duration = Duration::from_secs(24 * 3600);

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// `cert-chain.pem`, `key.pem`, `root-cert.pem`.
    Dir(PathBuf),
    /// A local CA, made on first use. The waypoint certifies itself.
    DevCa(PathBuf),
    /// istiod's CA certifies this identity, for so long.
    Ca {
        plane: ControlPlane,
        identity: Identity,
        ttl: Duration,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateSourceError {
    #[error("certificates in {}: {source}", dir.display())]
    Dir {
        dir: PathBuf,
        source: CertificateError,
    },
    #[error("development CA in {}: {source}", dir.display())]
    DevCa { dir: PathBuf, source: DevCaError },
    #[error("the certificate that the development CA made: {0}")]
    Minted(#[from] CertificateError),
    #[error("the waypoint's identity: {0}")]
    Identity(#[from] IdentityError),
}

/// Keeps the certificate in `tls` current.
pub(crate) struct CertificateKeeper {
    source: CertificateSource,
    identity: Identity,
    tls: Tls,
    /// What the folder held when it was last loaded, and when it was last looked at.
    loaded: Option<Files>,
    seen: Option<Files>,
}

#[derive(Clone, PartialEq, Eq)]
struct Files(Vec<Option<Vec<u8>>>);

impl CertificateKeeper {
    /// Loads or makes the first certificate. `identity` is what a development CA certifies.
    pub(crate) fn start(
        source: CertificateSource,
        identity: Identity,
        tls: Tls,
    ) -> Result<CertificateKeeper, CertificateSourceError> {
        let mut keeper = CertificateKeeper {
            source,
            identity,
            tls,
            loaded: None,
            seen: None,
        };
        let certificate = match &keeper.source {
            CertificateSource::Dir(dir) => {
                keeper.loaded = Some(Files::read(dir));
                keeper.seen = keeper.loaded.clone();
                load(dir)?
            }
            CertificateSource::DevCa(dir) => mint(dir, &keeper.identity)?,
            // Got by `workload_ca`, for as long as that takes.
            CertificateSource::Ca { .. } => return Ok(keeper),
        };
        tracing::info!(identity = %certificate.identity(), "certificate loaded");
        keeper.tls.set_certificate(certificate);
        Ok(keeper)
    }

    /// Looks whether there is a newer certificate; to be called every second or so, blocks on the disk.
    pub(crate) fn poll(&mut self, now: SystemTime) {
        let renewed = match &self.source {
            CertificateSource::Dir(dir) => {
                let seen = Files::read(dir);
                let settled = self.seen.as_ref() == Some(&seen);
                self.seen = Some(seen.clone());
                if !settled || self.loaded.as_ref() == Some(&seen) {
                    return;
                }
                self.loaded = Some(seen);
                load(dir)
            }
            CertificateSource::DevCa(dir) => {
                if !self.is_half_over(now) {
                    return;
                }
                mint(dir, &self.identity)
            }
            CertificateSource::Ca { .. } => return,
        };
        match renewed {
            Ok(certificate) => {
                tracing::info!(identity = %certificate.identity(), "certificate renewed");
                self.tls.set_certificate(certificate);
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate can't be used; the one in use stays");
            }
        }
    }

    fn is_half_over(&self, now: SystemTime) -> bool {
        self.tls.certificate().is_none_or(|certificate| {
            let (from, until) = (certificate.not_before(), certificate.not_after());
            let half = until.duration_since(from).unwrap_or_default() / 2;
            now >= from + half
        })
    }
}

impl Files {
    fn read(dir: &Path) -> Files {
        let files = ["cert-chain.pem", "key.pem", "root-cert.pem"];
        Files(
            files
                .iter()
                .map(|name| std::fs::read(dir.join(name)).ok())
                .collect(),
        )
    }
}

fn load(dir: &Path) -> Result<WorkloadCertificate, CertificateSourceError> {
    WorkloadCertificate::load(dir).map_err(|source| CertificateSourceError::Dir {
        dir: dir.to_path_buf(),
        source,
    })
}

fn mint(dir: &Path, identity: &Identity) -> Result<WorkloadCertificate, CertificateSourceError> {
    let minted = DevCa::open_or_create(dir)
        .and_then(|ca| ca.mint(identity, DEV_TTL))
        .map_err(|source| CertificateSourceError::DevCa {
            dir: dir.to_path_buf(),
            source,
        })?;
    Ok(minted.workload()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_hbone::tls::TrustDomains;

    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::istio("cluster.local", "default", name).unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("waypoint-certs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_changed_folder_is_loaded_when_two_looks_agree_and_a_broken_one_is_not() {
        let dir = folder("dir");
        let ca = DevCa::ephemeral().unwrap();
        let write = |name: &str| {
            ca.mint(&identity(name), DEV_TTL)
                .unwrap()
                .write(&dir)
                .unwrap()
        };
        write("one");
        let tls = Tls::new(None, TrustDomains::default());
        let source = CertificateSource::Dir(dir.clone());
        let mut keeper = CertificateKeeper::start(source, identity("unused"), tls.clone()).unwrap();
        let now = || tls.certificate().unwrap().identity().to_string();
        assert!(now().ends_with("/one"));
        write("two");
        keeper.poll(SystemTime::now());
        assert!(now().ends_with("/one"), "one look is not enough");
        keeper.poll(SystemTime::now());
        assert!(now().ends_with("/two"));
        std::fs::write(dir.join("key.pem"), "no key").unwrap();
        keeper.poll(SystemTime::now());
        keeper.poll(SystemTime::now());
        assert!(now().ends_with("/two"), "what worked stays");
    }

    #[test]
    fn the_development_ca_renews_at_half_time() {
        let tls = Tls::new(None, TrustDomains::default());
        let source = CertificateSource::DevCa(folder("ca"));
        let mut keeper =
            CertificateKeeper::start(source, identity("waypoint"), tls.clone()).unwrap();
        let generation = tls.generation();
        keeper.poll(SystemTime::now());
        assert_eq!(tls.generation(), generation);
        keeper.poll(SystemTime::now() + DEV_TTL / 2);
        assert!(tls.generation() > generation);
    }
}
