//! Connections that were made under a trust that has changed since.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::certificates::revocation::Revocations;
use waypoint_hbone::client::{self, ClientConnection, ClientOptions, ConnectError};
use waypoint_hbone::http2::Http2Options;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::server::{AcceptError, ConnectionEnd, ServerOptions};
use waypoint_hbone::tls::tls_failure::TlsFailure;
use waypoint_hbone::tls::{PeerError, Tls, TrustDomains};
use waypoint_hbone::tunnel::stream::TunnelStream;

const AUTHORITY: &str = "10.0.0.1:80";

/// An idle connection is looked at when it is time for a PING.
fn http2() -> Http2Options {
    Http2Options {
        keepalive_interval: Some(Duration::from_millis(40)),
        ..Http2Options::default()
    }
}

fn server_options() -> ServerOptions {
    ServerOptions {
        http2: http2(),
        ..ServerOptions::default()
    }
}

async fn connected(tls: &Tls, server: &Server) -> (ClientConnection, TunnelStream) {
    let connection = client::connect(tls, server.address, &ClientOptions::default())
        .await
        .unwrap();
    let stream = connection.open(AUTHORITY, HeaderMap::new()).await.unwrap();
    (connection, stream)
}

async fn echoes(stream: &mut TunnelStream) -> bool {
    let mut back = [0; 2];
    let asked = async {
        stream.write_all(b"hi").await?;
        stream.read_exact(&mut back).await
    };
    within(asked).await.is_ok()
}

/// `ca`'s certificate for `name`, with `also`'s root beside its own.
fn certificate_with_both(ca: &DevCa, also: &DevCa, name: &str) -> WorkloadCertificate {
    let minted = ca.mint(&identity(name), Duration::from_secs(600)).unwrap();
    let roots = format!("{}{}", ca.root_pem(), also.root_pem());
    let (chain, key) = (minted.chain_pem(), minted.key_pem());
    WorkloadCertificate::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap()
}

fn revoke(ca: &DevCa, serial: &str) -> Revocations {
    let now = SystemTime::now();
    let next = now + Duration::from_secs(3600);
    Revocations::from_pem(ca.revoke(&[serial], now, next).unwrap().as_bytes()).unwrap()
}

async fn ended(server: &mut Server) -> ConnectionEnd {
    match within(server.events.recv()).await.unwrap() {
        Event::Ended(end) => end,
        Event::Refused(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_client_whose_root_is_gone_is_told_to_leave_and_then_cut_off() {
    let (old, new) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
    let own = Tls::new(
        Some(certificate_with_both(&old, &new, "server")),
        TrustDomains::default(),
    );
    own.set_trust_grace(Duration::from_millis(1600));
    let mut server = Server::echo(own.clone(), server_options()).await;
    let (leaving, mut stream) = connected(&tls(&old, "old"), &server).await;
    let newer = Tls::new(
        Some(certificate_with_both(&new, &old, "new")),
        TrustDomains::default(),
    );
    let (staying, mut stays) = connected(&newer, &server).await;

    own.set_certificate(certificate_with_both(&old, &new, "server"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        leaving.is_usable(),
        "a renewal with the same roots changes nothing"
    );

    let changed = std::time::Instant::now();
    own.set_certificate(certificate(&new, &identity("server")));
    let told = async {
        while leaving.is_usable() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(told).await;
    assert!(
        changed.elapsed() < Duration::from_millis(1190),
        "in the first half of the grace"
    );
    assert!(echoes(&mut stream).await, "what is open may end by itself");
    let end = ended(&mut server).await;
    assert!(
        matches!(&end, ConnectionEnd::Untrusted(TlsFailure::UnknownIssuer)),
        "{end:?}"
    );
    assert!(
        changed.elapsed() >= Duration::from_millis(1200),
        "in the last quarter"
    );
    assert!(!echoes(&mut stream).await);
    assert!(staying.is_usable() && echoes(&mut stays).await);
}

#[tokio::test]
async fn trust_that_comes_back_in_time_keeps_the_connection() {
    let ca = DevCa::ephemeral().unwrap();
    let own = tls(&ca, "server");
    own.set_trust_grace(Duration::from_secs(3600));
    let server = Server::echo(own.clone(), server_options()).await;
    let (connection, mut stream) = connected(&tls(&ca, "client"), &server).await;
    own.set_trust_domains(TrustDomains::new(["elsewhere"]).unwrap());
    assert!(echoes(&mut stream).await);
    own.set_trust_domains(TrustDomains::new(["cluster.local"]).unwrap());
    own.set_trust_grace(Duration::ZERO);
    own.set_revocations(Revocations::default());
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(connection.is_usable() && echoes(&mut stream).await);
}

#[tokio::test]
async fn without_grace_a_foreign_trust_domain_ends_at_once() {
    let ca = DevCa::ephemeral().unwrap();
    let own = tls(&ca, "server");
    own.set_trust_grace(Duration::ZERO);
    let mut server = Server::echo(own.clone(), server_options()).await;
    let (_connection, _stream) = connected(&tls(&ca, "client"), &server).await;
    own.set_trust_domains(TrustDomains::new(["elsewhere"]).unwrap());
    let end = ended(&mut server).await;
    use PeerError::ForeignTrustDomain;
    use TlsFailure::Peer;
    assert!(
        matches!(end, ConnectionEnd::Untrusted(Peer(ForeignTrustDomain(_)))),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_revoked_client_is_cut_off_at_once_and_not_let_in_again() {
    let ca = DevCa::ephemeral().unwrap();
    let own = tls(&ca, "server");
    let mut server = Server::echo(own.clone(), server_options()).await;
    let (good, bad) = (tls(&ca, "good"), tls(&ca, "bad"));
    let (_connection, mut stays) = connected(&good, &server).await;
    let (_connection, mut stream) = connected(&bad, &server).await;
    own.set_revocations(revoke(&ca, bad.certificate().unwrap().serial()));
    let end = ended(&mut server).await;
    assert!(
        matches!(end, ConnectionEnd::Untrusted(TlsFailure::Revoked)),
        "{end:?}"
    );
    assert!(!echoes(&mut stream).await);
    assert!(echoes(&mut stays).await);

    let again = client::connect(&bad, server.address, &ClientOptions::default()).await;
    if let Ok(again) = again {
        // In TLS 1.3 the server's refusal comes after the client's side of the handshake.
        assert!(again.open(AUTHORITY, HeaderMap::new()).await.is_err());
    }
    match within(server.events.recv()).await.unwrap() {
        Event::Refused(AcceptError::Tls(TlsFailure::Revoked)) => {}
        Event::Refused(other) => panic!("{other:?}"),
        Event::Ended(end) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn a_pool_leaves_servers_that_are_revoked_or_untrusted() {
    let (ca, other) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
    let (first, second) = (tls(&ca, "server"), tls(&ca, "server"));
    let serial = first.certificate().unwrap().serial().to_owned();
    let revoked = Server::echo(first, server_options()).await;
    let mut lost = Server::echo(second, server_options()).await;
    let own = Tls::new(
        Some(certificate_with_both(&ca, &other, "client")),
        TrustDomains::default(),
    );
    own.set_trust_grace(Duration::from_millis(300));
    let options = PoolOptions {
        http2: http2(),
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(own.clone(), options);
    let connect = async |server: &Server| {
        let headers = HeaderMap::new();
        pool.connect(server.address, AUTHORITY, headers).await
    };
    let mut of_revoked = connect(&revoked).await.unwrap();
    let mut of_lost = connect(&lost).await.unwrap();

    own.set_revocations(revoke(&ca, &serial));
    assert!(!echoes(&mut of_revoked).await, "at once");
    assert!(echoes(&mut of_lost).await);
    match connect(&revoked).await {
        Err(ConnectError::Tls { error, .. }) => {
            assert!(matches!(*error, TlsFailure::Revoked), "{error}");
        }
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(pool.connections(), 1, "to the other");

    own.set_certificate(certificate(&other, &identity("client")));
    assert!(echoes(&mut of_lost).await, "within the grace");
    ended(&mut lost).await;
    assert!(!echoes(&mut of_lost).await);
}
