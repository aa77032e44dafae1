//! The scripted istiod's CA: signs what it is asked to, or spoils it; and the means to sign at all.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prost::Message;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use waypoint_hbone::identity::Identity;

use crate::control_plane::{Call, Messages};

/// A CA's key and root, from the folder of a `DevCa`.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl Signer {
    /// Reads the CA in this folder.
    #[must_use]
    pub fn open(folder: &Path) -> Signer {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The name that every DevCa has.
        params
            .distinguished_name
            .push(DnType::OrganizationName, "waypoint development CA");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::from_pem(&read("ca-key.pem")).unwrap();
        Signer {
            issuer: Issuer::new(params, key),
            root_pem: read("root-cert.pem"),
        }
    }

    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A client's certificate that says all that one can, signed by an intermediate that is sent with it: chain and
    /// key in PEM.
    #[must_use]
    pub fn talkative(&self, identity: &Identity) -> (String, String) {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let now = SystemTime::now();
        let valid = |params: &mut CertificateParams| {
            params.not_before = (now - Duration::from_secs(60)).into();
            params.not_after = (now + Duration::from_secs(24 * 3600)).into();
            params.distinguished_name = DistinguishedName::new();
        };
        let mut middle = CertificateParams::default();
        valid(&mut middle);
        middle.serial_number = Some(SerialNumber::from_slice(&[0xa0, 0x0b]));
        let name = &mut middle.distinguished_name;
        name.push(DnType::CommonName, "Zwischenstück, \"eins\"");
        middle.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let middle_key = key();
        let middle_pem = middle.signed_by(&middle_key, &self.issuer).unwrap().pem();
        let issuer = Issuer::new(middle, middle_key);

        let mut leaf = CertificateParams::default();
        valid(&mut leaf);
        leaf.serial_number = Some(SerialNumber::from_slice(&[0x0f, 0xff, 0x01]));
        let name = &mut leaf.distinguished_name;
        name.push(DnType::CountryName, "DE");
        name.push(DnType::OrganizationName, " Käse + Söhne; <GmbH> ");
        name.push(DnType::OrganizationalUnitName, "#1");
        name.push(DnType::CommonName, "curl=a\\b");
        name.push(
            DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]),
            "a@b.example",
        );
        name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "unknown");
        let ip = |text: &str| SanType::IpAddress(text.parse().unwrap());
        leaf.subject_alt_names = vec![
            SanType::DnsName("one.example".try_into().unwrap()),
            SanType::URI(identity.as_str().try_into().unwrap()),
            SanType::DnsName("two.example".try_into().unwrap()),
            ip("192.0.2.7"),
            ip("2001:db8::7"),
            SanType::Rfc822Name("a@b.example".try_into().unwrap()),
            SanType::OtherName((
                vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
                "a@upn.example".into(),
            )),
        ];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf_key = key();
        let leaf_pem = leaf.signed_by(&leaf_key, &issuer).unwrap().pem();
        (leaf_pem + &middle_pem, leaf_key.serialize_pem())
    }

    /// TLS with a certificate for this DNS name.
    pub(crate) fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn sign(&self, key: &impl PublicKeyData, identity: &Identity, issue: &Issue) -> String {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.not_before = (now - Duration::from_secs(1)).into();
        params.not_after = match issue {
            Issue::Expired => (now - Duration::from_millis(500)).into(),
            Issue::For(validity) => (now + *validity).into(),
            _ => (now + Duration::from_secs(24 * 3600)).into(),
        };
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// What the CA answers.
#[derive(Clone, Debug, Default)]
pub enum Issue {
    /// What was asked for, for a day.
    #[default]
    Good,
    /// What was asked for, for so long.
    For(Duration),
    /// A certificate for somebody else.
    Identity(Identity),
    /// A certificate for another key.
    ForeignKey,
    /// One that has expired already.
    Expired,
    /// A leaf and no root.
    LeafOnly,
    /// PEM elements that hold nothing.
    Garbage,
    /// Bytes that are no answer.
    Noise,
    /// A gRPC status.
    Status(u32, &'static str),
    /// The head of an answer, and nothing more.
    Stall,
    /// Nothing, for ever.
    Silence,
}

/// The certificate service. Clones share it.
#[derive(Clone)]
pub struct ScriptedCa(Arc<Mutex<State>>);

struct State {
    signer: Signer,
    roots: String,
    identity: Identity,
    issue: Issue,
    requests: usize,
}

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CertificateRequest {
    #[prost(string, tag = "1")]
    csr: String,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct CertificateResponse {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// The public key of a P-256 request.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Point {
    /// An uncompressed point is the one BIT STRING of 66 bytes in a request.
    fn of(csr: &str) -> Point {
        let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
        let start = der.windows(4).position(|w| w == [3, 66, 0, 4]).unwrap();
        Point(der[start + 3..start + 68].to_vec())
    }
}

impl ScriptedCa {
    pub(crate) fn new(signer: Signer, identity: Identity) -> ScriptedCa {
        ScriptedCa(Arc::new(Mutex::new(State {
            roots: signer.root_pem.clone(),
            signer,
            identity,
            issue: Issue::default(),
            requests: 0,
        })))
    }

    /// What it answers from now on.
    pub fn issue(&self, issue: Issue) {
        self.0.lock().issue = issue;
    }

    /// Another key signs from now on; `roots` (PEM) is what it says the mesh trusts.
    pub fn sign_with(&self, signer: Signer, roots: &str) {
        let mut state = self.0.lock();
        state.signer = signer;
        state.roots = roots.into();
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.0.lock().requests
    }

    pub(crate) async fn serve(&self, mut messages: Messages, call: Call) {
        let Some(request) = messages.next().await else {
            return;
        };
        let request = CertificateRequest::decode(request).unwrap();
        let silent = {
            let mut state = self.0.lock();
            state.requests += 1;
            state.answer(&request.csr, &call);
            matches!(state.issue, Issue::Silence | Issue::Stall)
        };
        if silent {
            std::future::pending::<()>().await;
        }
    }
}

impl State {
    fn answer(&self, csr: &str, call: &Call) {
        let key = match self.issue {
            Issue::ForeignKey => Point(KeyPair::generate().unwrap().der_bytes().to_vec()),
            _ => Point::of(csr),
        };
        let identity = match &self.issue {
            Issue::Identity(other) => other,
            _ => &self.identity,
        };
        let leaf = self.signer.sign(&key, identity, &self.issue);
        let cert_chain = match self.issue {
            Issue::LeafOnly => vec![leaf],
            Issue::Garbage => vec!["no".into(), "certificate".into()],
            Issue::Noise => {
                call.message(&[0xff; 40]);
                return call.end(0, "");
            }
            Issue::Status(status, message) => return call.end(status, message),
            Issue::Stall => return call.bytes(bytes::Bytes::new()),
            Issue::Silence => return,
            _ => vec![leaf, self.roots.clone()],
        };
        call.message(&CertificateResponse { cert_chain }.encode_to_vec());
        call.end(0, "");
    }
}
