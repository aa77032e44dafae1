//! Peers that must not get in, and what becomes of them.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::certificates::x509::LeafError;
use waypoint_hbone::client::{self, ClientOptions, ConnectError};
use waypoint_hbone::identity::Identity;
use waypoint_hbone::server::{AcceptError, ServerOptions};
use waypoint_hbone::tls::tls_failure::TlsFailure;
use waypoint_hbone::tls::{PeerError, Tls, TrustDomains};

/// Takes any server: what these clients do is the server's matter.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

mod trusting {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    impl ServerCertVerifier for super::Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

type Pem = (String, String);

/// A TLS client that does as it's told; returns what it read after the handshake, if it got so far.
async fn raw(
    server: &Server,
    certificate: Option<&Pem>,
    alpn: &[&[u8]],
    send: &[u8],
) -> std::io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
    let mut config = match certificate {
        Some((chain, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
                .map(Result::unwrap)
                .collect();
            builder
                .with_client_auth_cert(
                    chain,
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("waypoint").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    tls.write_all(send).await?;
    let mut answer = Vec::new();
    within(tls.read_to_end(&mut answer)).await?;
    Ok(answer)
}

fn good(ca: &DevCa) -> Pem {
    let minted = ca
        .mint(&identity("client"), Duration::from_secs(60))
        .unwrap();
    (minted.chain_pem().to_owned(), minted.key_pem().to_owned())
}

/// A CA of our own that signs what the other doesn't.
struct LooseCa {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl LooseCa {
    fn new() -> LooseCa {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        LooseCa {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn sign(&self, uris: &[&str]) -> Pem {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params
            .subject_alt_names
            .push(SanType::DnsName("client.example".try_into().unwrap()));
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn tls(&self) -> Tls {
        let (chain, key) = self.sign(&[identity("server").as_str()]);
        let root = self.root.as_bytes();
        let certificate =
            WorkloadCertificate::from_pem(chain.as_bytes(), key.as_bytes(), root).unwrap();
        Tls::new(Some(certificate), TrustDomains::default())
    }
}

#[tokio::test]
async fn without_a_client_certificate() {
    let ca = DevCa::ephemeral().unwrap();
    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let error = raw(&server, None, &[b"h2"], b"x").await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let refused = server.refused().await;
    assert!(
        matches!(refused, AcceptError::Tls(TlsFailure::NoPeerCertificate)),
        "{refused}"
    );
    assert_eq!(refused.label(), "no_peer_certificate");
}

type Expected = fn(&LeafError) -> bool;

#[tokio::test]
async fn identities_that_are_none() {
    let ca = LooseCa::new();
    let mut server = Server::echo(ca.tls(), ServerOptions::default()).await;
    let cases: [(&[&str], Expected); 4] = [
        (
            &[
                "spiffe://cluster.local/ns/a/sa/b",
                "spiffe://cluster.local/ns/a/sa/c",
            ],
            |error| *error == LeafError::ManyUris(2),
        ),
        (&[], |error| *error == LeafError::NoUri),
        (&["https://cluster.local/ns/a/sa/b"], |error| {
            matches!(error, LeafError::Identity { .. })
        }),
        (&["spiffe://cluster.local/ns/a/../sa/b"], |error| {
            matches!(error, LeafError::Identity { .. })
        }),
    ];
    for (uris, expected) in cases {
        assert!(
            raw(&server, Some(&ca.sign(uris)), &[b"h2"], b"x")
                .await
                .is_err(),
            "{uris:?}"
        );
        match server.refused().await {
            AcceptError::Tls(TlsFailure::Peer(PeerError::Leaf(error))) => {
                assert!(expected(&error), "{error}")
            }
            other => panic!("{uris:?}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_foreign_trust_domain_on_either_side() {
    let ca = DevCa::ephemeral().unwrap();
    let foreign = Identity::istio("elsewhere", "default", "client").unwrap();
    let client = Tls::new(
        Some(certificate(&ca, &foreign)),
        TrustDomains::new(["cluster.local"]).unwrap(),
    );
    let server_tls = tls(&ca, "server");
    let mut server = Server::echo(server_tls.clone(), ServerOptions::default()).await;
    let options = ClientOptions::default();
    let open = async || {
        client::connect_once(
            &client,
            server.address,
            "10.0.0.1:80",
            HeaderMap::new(),
            &options,
        )
        .await
    };

    assert!(open().await.is_err());
    // An alias is let in, and from then on only.
    server_tls.set_trust_domains(TrustDomains::new(["cluster.local", "elsewhere"]).unwrap());
    open().await.unwrap();
    client.set_trust_domains(TrustDomains::new(["third"]).unwrap());
    match open().await.unwrap_err() {
        ConnectError::Tls { error, .. } => assert_eq!(error.label(), "foreign_trust_domain"),
        other => panic!("{other}"),
    }
    let refused = server.refused().await;
    assert_eq!(refused.label(), "foreign_trust_domain", "{refused}");
    assert!(
        refused
            .to_string()
            .contains("spiffe://elsewhere/ns/default/sa/client"),
        "{refused}"
    );
}

#[tokio::test]
async fn expired_on_either_side() {
    let ca = DevCa::ephemeral().unwrap();
    let past = SystemTime::now() - Duration::from_secs(7200);
    let expired = ca
        .mint_between(&identity("late"), past, past + Duration::from_secs(60))
        .unwrap();
    let expired_tls = Tls::new(Some(expired.workload().unwrap()), TrustDomains::default());
    let options = ClientOptions::default();

    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let result = client::connect_once(
        &expired_tls,
        server.address,
        "10.0.0.1:80",
        HeaderMap::new(),
        &options,
    )
    .await;
    assert!(result.is_err());
    assert_eq!(server.refused().await.label(), "peer_certificate_time");

    let server = Server::echo(expired_tls, ServerOptions::default()).await;
    match client::connect(&tls(&ca, "client"), server.address, &options).await {
        Err(ConnectError::Tls { error, .. }) => assert_eq!(error.label(), "peer_certificate_time"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn an_unknown_root() {
    let (ca, other) = (DevCa::ephemeral().unwrap(), LooseCa::new());
    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let stranger = other.sign(&["spiffe://cluster.local/ns/a/sa/b"]);
    assert!(raw(&server, Some(&stranger), &[b"h2"], b"x").await.is_err());
    let refused = server.refused().await;
    assert!(
        matches!(refused, AcceptError::Tls(TlsFailure::UnknownIssuer)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn other_protocols_are_turned_away() {
    let ca = DevCa::ephemeral().unwrap();
    let options = ServerOptions {
        handshake_timeout: Duration::from_secs(1),
        ..ServerOptions::default()
    };
    let mut server = Server::echo(tls(&ca, "server"), options).await;

    // HTTP/1.1 without TLS.
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: waypoint\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = within(tcp.read_to_end(&mut answer)).await;
    let refused = server.refused().await;
    assert!(
        matches!(refused, AcceptError::Tls(TlsFailure::NotTls)),
        "{refused:?}"
    );

    // TLS, but not HTTP/2: by ALPN, by none, and by lying.
    let certificate = good(&ca);
    assert!(
        raw(&server, Some(&certificate), &[b"http/1.1"], b"x")
            .await
            .is_err()
    );
    assert_eq!(server.refused().await.label(), "alpn");
    let _ = raw(&server, Some(&certificate), &[], b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(server.refused().await.label(), "alpn");
    let _ = raw(
        &server,
        Some(&certificate),
        &[b"h2"],
        b"GET / HTTP/1.1\r\nhost: waypoint\r\n\r\n",
    )
    .await;
    assert_eq!(server.refused().await.label(), "http2");

    // A peer that says nothing, before and after TLS.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.refused().await.label(), "timeout");
    let _ = raw(&server, Some(&certificate), &[b"h2"], b"").await;
    assert_eq!(server.refused().await.label(), "timeout");

    // And it goes on serving.
    let client = tls(&ca, "client");
    client::connect_once(
        &client,
        server.address,
        "10.0.0.1:80",
        HeaderMap::new(),
        &ClientOptions::default(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn no_certificate_of_our_own() {
    let ca = DevCa::ephemeral().unwrap();
    let empty = Tls::new(None, TrustDomains::default());
    let mut server = Server::echo(empty.clone(), ServerOptions::default()).await;
    let options = ClientOptions::default();
    assert!(
        client::connect(&tls(&ca, "client"), server.address, &options)
            .await
            .is_err()
    );
    assert_eq!(server.refused().await.label(), "not_ready");
    let error = client::connect(&empty, server.address, &options)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ConnectError::NoCertificate), "{error}");
    // It comes later.
    empty.set_certificate(certificate(&ca, &identity("server")));
    client::connect(&tls(&ca, "client"), server.address, &options)
        .await
        .unwrap();
}

/// HTTP/2 by hand, past TLS: what h2's client would never send.
async fn http2(
    server: &Server,
    ca: &DevCa,
) -> (
    h2::client::SendRequest<bytes::Bytes>,
    tokio::task::JoinHandle<()>,
) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, key) = good(ca);
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_client_auth_cert(
            chain,
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("waypoint").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (send, task)
}

#[tokio::test]
async fn requests_that_are_no_connects_and_headers_that_are_too_large() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let (mut send, _task) = http2(&server, &ca).await;

    let get = http::Request::get("http://10.0.0.1/path").body(()).unwrap();
    let (response, _) = send.send_request(get, true).unwrap();
    assert_eq!(
        within(response).await.unwrap().status(),
        StatusCode::METHOD_NOT_ALLOWED
    );

    let connect = |headers: HeaderMap| {
        let mut request = http::Request::connect("10.0.0.1:80").body(()).unwrap();
        *request.headers_mut() = headers;
        request
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-bomb", "a".repeat(70 * 1024).parse().unwrap());
    let (response, _) = send.send_request(connect(headers), true).unwrap();
    let status = within(response).await.map(|response| response.status());
    assert!(
        matches!(status, Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
        "{status:?}"
    );

    // The connection serves on.
    let (response, _) = send.send_request(connect(HeaderMap::new()), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
}
