//! A certificate authority in a folder, for development, demonstrations and tests.
//!
//! It issues what istiod's CA would: ECDSA P-256, one critical URI SAN, an empty subject. The CA's subject is fixed, so that
//! an existing key and root are enough to go on issuing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::certificates::certificate::{
    CHAIN_FILE, CertificateError, KEY_FILE, ROOTS_FILE, WorkloadCertificate,
};
use crate::identity::Identity;

const CA_KEY_FILE: &str = "ca-key.pem";
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Peers' clocks may be a little behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// Why the development CA can't be used. The fault is the folder's or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: only one of {ROOTS_FILE} and {CA_KEY_FILE} is there; remove it or restore the other", .0.display())]
    Half(PathBuf),
    #[error("{}: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("{}: {ROOTS_FILE} and {CA_KEY_FILE} don't belong together, or another tool made them: {reason}", dir.display())]
    Foreign { dir: PathBuf, reason: String },
    #[error("issuing a certificate: {0}")]
    Issue(String),
    #[error("the issued certificate: {0}")]
    Certificate(#[from] CertificateError),
}

/// A root certificate and its key.
pub struct DevCa {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

/// A workload's certificate with its key and root, as PEM.
#[derive(Clone)]
pub struct MintedCertificate {
    chain_pem: String,
    key_pem: String,
    root_pem: String,
}

impl DevCa {
    /// A new CA that lives in memory only.
    pub fn ephemeral() -> Result<DevCa, DevCaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let now = SystemTime::now();
        let params = ca_params(now - CLOCK_SKEW, now + CA_LIFETIME);
        let root_pem = params.self_signed(&key).map_err(issue)?.pem();
        Ok(DevCa {
            issuer: Issuer::new(params, key),
            root_pem,
        })
    }

    /// Opens the CA in a folder; makes folder, key (mode 0600) and root if neither key nor root is there.
    pub fn open_or_create(dir: &Path) -> Result<DevCa, DevCaError> {
        let (root_path, key_path) = (dir.join(ROOTS_FILE), dir.join(CA_KEY_FILE));
        match (root_path.exists(), key_path.exists()) {
            (true, true) => DevCa::open(dir, &root_path, &key_path),
            (false, false) => {
                let ca = DevCa::ephemeral()?;
                create_dir(dir)?;
                write_file(&key_path, &ca.issuer.key().serialize_pem(), 0o600)?;
                write_file(&root_path, &ca.root_pem, 0o644)?;
                Ok(ca)
            }
            _ => Err(DevCaError::Half(dir.to_owned())),
        }
    }

    fn open(dir: &Path, root_path: &Path, key_path: &Path) -> Result<DevCa, DevCaError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| DevCaError::File {
                path: path.to_owned(),
                source,
            })
        };
        let root_pem = read(root_path)?;
        let key = KeyPair::from_pem(&read(key_path)?).map_err(|error| DevCaError::Key {
            path: key_path.to_owned(),
            reason: error.to_string(),
        })?;
        let now = SystemTime::now();
        let ca = DevCa {
            issuer: Issuer::new(ca_params(now, now), key),
            root_pem,
        };
        ca.check().map_err(|reason| DevCaError::Foreign {
            dir: dir.to_owned(),
            reason,
        })?;
        Ok(ca)
    }

    /// Issues a certificate to nobody and verifies it against the root.
    fn check(&self) -> Result<(), String> {
        let probe = "spiffe://dev.invalid/probe"
            .parse::<Identity>()
            .map_err(|error| error.to_string())?;
        let minted = self
            .mint(&probe, Duration::from_secs(60))
            .map_err(|error| error.to_string())?;
        let certificate = minted.workload().map_err(|error| error.to_string())?;
        crate::certificates::trust::verify_own_chain(&certificate)
            .map_err(|error| error.to_string())
    }

    /// Issues a certificate that is valid from now (less two minutes) for `ttl`.
    pub fn mint(
        &self,
        identity: &Identity,
        ttl: Duration,
    ) -> Result<MintedCertificate, DevCaError> {
        let now = SystemTime::now();
        self.mint_between(identity, now - CLOCK_SKEW, now + ttl)
    }

    /// Issues a certificate that is valid between these times, which may lie in the past.
    pub fn mint_between(
        &self,
        identity: &Identity,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<MintedCertificate, DevCaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(not_before);
        params.not_after = OffsetDateTime::from(not_after);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(issue)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(MintedCertificate {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            root_pem: self.root_pem.clone(),
        })
    }

    /// A list, in PEM, that revokes these serial numbers (hexadecimal); the next one is due at `next`.
    pub fn revoke(
        &self,
        serials: &[&str],
        now: SystemTime,
        next: SystemTime,
    ) -> Result<String, DevCaError> {
        let revoked_certs = serials
            .iter()
            .map(|serial| {
                Ok(RevokedCertParams {
                    serial_number: serial_number(serial)?,
                    revocation_time: now.into(),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, DevCaError>>()?;
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: next.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer)
            .and_then(|list| list.pem())
            .map_err(issue)
    }

    /// The root certificate as PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }
}

fn serial_number(hex: &str) -> Result<SerialNumber, DevCaError> {
    let invalid = || DevCaError::Issue(format!("the serial number {hex:?} is not hexadecimal"));
    let byte = |at: usize| {
        let digits = hex.get(at..at + 2).ok_or_else(invalid)?;
        u8::from_str_radix(digits, 16).map_err(|_| invalid())
    };
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(byte)
        .collect::<Result<_, _>>()?;
    Ok(SerialNumber::from_slice(&bytes))
}

impl MintedCertificate {
    /// Writes `cert-chain.pem`, `key.pem` (mode 0600) and `root-cert.pem`; makes the folder.
    ///
    /// Each file is replaced in one step, so a reader sees the old or the new one, never half of it.
    pub fn write(&self, dir: &Path) -> Result<(), DevCaError> {
        create_dir(dir)?;
        write_file(&dir.join(KEY_FILE), &self.key_pem, 0o600)?;
        write_file(&dir.join(CHAIN_FILE), &self.chain_pem, 0o644)?;
        write_file(&dir.join(ROOTS_FILE), &self.root_pem, 0o644)
    }

    /// The certificate, ready for use.
    pub fn workload(&self) -> Result<WorkloadCertificate, CertificateError> {
        WorkloadCertificate::from_pem(
            self.chain_pem.as_bytes(),
            self.key_pem.as_bytes(),
            self.root_pem.as_bytes(),
        )
    }

    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }
}

fn ca_params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "waypoint development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn issue(error: rcgen::Error) -> DevCaError {
    DevCaError::Issue(error.to_string())
}

fn create_dir(dir: &Path) -> Result<(), DevCaError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|source| DevCaError::File {
            path: dir.to_owned(),
            source,
        })
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), DevCaError> {
    let replace = || -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = PathBuf::from(name);
        // A left-over of a killed process may have other permissions: `mode` counts only for new files.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    replace().map_err(|source| DevCaError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("waypoint-dev-ca-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_reopened_ca_issues_for_the_same_root() {
        let folder = Folder::new("reopen");
        let identity = Identity::istio("cluster.local", "default", "a").unwrap();
        let first = DevCa::open_or_create(&folder.0.join("ca")).unwrap();
        let second = DevCa::open_or_create(&folder.0.join("ca")).unwrap();
        assert_eq!(first.root_pem(), second.root_pem());
        assert_eq!(mode(&folder.0.join("ca/ca-key.pem")), 0o600);

        let minted = second.mint(&identity, Duration::from_secs(3600)).unwrap();
        minted.write(&folder.0.join("out")).unwrap();
        minted.write(&folder.0.join("out")).unwrap();
        assert_eq!(mode(&folder.0.join("out/key.pem")), 0o600);
        let loaded = WorkloadCertificate::load(&folder.0.join("out")).unwrap();
        assert_eq!(loaded.identity(), &identity);
        assert_eq!(loaded.serial(), minted.workload().unwrap().serial());
        crate::certificates::trust::verify_own_chain(&loaded).unwrap();
    }

    #[test]
    fn half_a_ca_or_a_foreign_root_is_refused() {
        let folder = Folder::new("half");
        DevCa::open_or_create(&folder.0).unwrap();
        let other = DevCa::ephemeral().unwrap();
        fs::write(folder.0.join("root-cert.pem"), other.root_pem()).unwrap();
        assert!(matches!(
            DevCa::open_or_create(&folder.0),
            Err(DevCaError::Foreign { .. })
        ));
        fs::remove_file(folder.0.join("root-cert.pem")).unwrap();
        assert!(matches!(
            DevCa::open_or_create(&folder.0),
            Err(DevCaError::Half(_))
        ));
    }
}
