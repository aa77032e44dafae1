//! A server that isn't of the mesh: TLS with a certificate of an authority of its own, and HTTP in it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::app::App;

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// A chain and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

impl Authority {
    #[must_use]
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// A certificate that nobody but itself vouches for.
    #[must_use]
    pub fn self_signed(names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        Pair {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// In PEM.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A certificate for these names.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issued(names, |_| {})
    }

    /// One whose time is over.
    #[must_use]
    pub fn expired(&self, names: &[&str]) -> Pair {
        self.issued(names, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// A certificate with this serial number.
    #[must_use]
    pub fn numbered(&self, names: &[&str], serial: u64) -> Pair {
        self.issued(names, |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    }

    /// A list, in PEM, that revokes these serial numbers.
    #[must_use]
    pub fn revoking(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn issued(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let is_uri = |name: &&&str| name.contains("://");
        let others = names.iter().filter(|name| !is_uri(name));
        let others: Vec<String> = others.map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(others).unwrap();
        let uris = names.iter().filter(is_uri);
        let uris = uris.map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// How a server speaks.
pub struct Speech {
    pub alpn: &'static [&'static str],
    /// Only clients of this authority's, in PEM.
    pub clients: Option<String>,
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// No HTTP: bytes come back.
    pub echo: bool,
}

impl Default for Speech {
    fn default() -> Speech {
        Speech {
            alpn: &[],
            clients: None,
            versions: rustls::ALL_VERSIONS,
            echo: false,
        }
    }
}

/// What a server saw of a connection, and of requests on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeted {
    pub sni: Option<String>,
    pub alpn: Option<String>,
    /// The client's certificate.
    pub client: Option<Vec<u8>>,
}

/// The server.
#[derive(Clone)]
pub struct TlsServer(Arc<State>);

struct State {
    config: Mutex<Arc<ServerConfig>>,
    echo: bool,
    greeted: Mutex<Vec<Greeted>>,
    requests: Mutex<Vec<String>>,
    /// What is answered; `None`: the request's version.
    answer: Mutex<Option<String>>,
    /// Rises when all connections are to end.
    hung_up: watch::Sender<u64>,
}

impl TlsServer {
    pub async fn start(address: SocketAddr, pair: &Pair, speech: Speech) -> TlsServer {
        let server = TlsServer::new(pair, &speech);
        let owned = server.clone();
        App::tcp(address, move |tcp| owned.clone().serve(tcp)).await;
        server
    }

    /// One that listens nowhere.
    #[must_use]
    pub fn new(pair: &Pair, speech: &Speech) -> TlsServer {
        TlsServer(Arc::new(State {
            config: Mutex::new(Arc::new(config(pair, speech))),
            echo: speech.echo,
            greeted: Mutex::default(),
            requests: Mutex::default(),
            answer: Mutex::default(),
            hung_up: watch::Sender::new(0),
        }))
    }

    /// New connections see this.
    pub fn show(&self, pair: &Pair, speech: &Speech) {
        *self.0.config.lock() = Arc::new(config(pair, speech));
    }

    /// Answers this from now on.
    pub fn answer(&self, text: &str) {
        *self.0.answer.lock() = Some(text.to_owned());
    }

    /// Ends all connections.
    pub fn hang_up(&self) {
        self.0.hung_up.send_modify(|times| *times += 1);
    }

    /// Connections whose handshake was done.
    #[must_use]
    pub fn greeted(&self) -> Vec<Greeted> {
        self.0.greeted.lock().clone()
    }

    /// Targets of requests.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.0.requests.lock().clone()
    }

    /// What is in TLS on a connection. `None`: the handshake failed.
    pub async fn secured(&self, tcp: TcpStream) -> Option<TlsStream<TcpStream>> {
        let config = self.0.config.lock().clone();
        TlsAcceptor::from(config).accept(tcp).await.ok()
    }

    /// Speaks on a connection that is there.
    pub async fn serve(self, tcp: TcpStream) {
        let Some(tls) = self.secured(tcp).await else {
            return;
        };
        let session = tls.get_ref().1;
        let alpn = session
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let http2 = alpn.as_deref() == Some("h2");
        self.0.greeted.lock().push(Greeted {
            sni: session.server_name().map(str::to_owned),
            alpn,
            client: session
                .peer_certificates()
                .and_then(|chain| chain.first().map(|leaf| leaf.to_vec())),
        });
        if self.0.echo {
            let (mut read, mut write) = tokio::io::split(tls);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
            return;
        }
        let state = self.0.clone();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let state = state.clone();
            async move {
                state.requests.lock().push(request.uri().path().to_owned());
                let version = format!("{:?}", request.version());
                let answer = state.answer.lock().clone().unwrap_or(version);
                let answer = http::Response::new(Full::new(Bytes::from(answer)));
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let io = TokioIo::new(tls);
        let mut hung_up = self.0.hung_up.subscribe();
        let serving = async {
            if http2 {
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(io, service).await;
            } else {
                let http1 = hyper::server::conn::http1::Builder::new();
                let _ = http1.serve_connection(io, service).await;
            }
        };
        tokio::select! {
            () = serving => {}
            _ = hung_up.changed() => {}
        }
    }
}

fn config(pair: &Pair, speech: &Speech) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(speech.versions)
        .unwrap();
    let builder = match &speech.clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let mut store = RootCertStore::empty();
            for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
                store.add(root.unwrap()).unwrap();
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = speech
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}
