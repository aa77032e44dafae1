//! HTTP/2 peers that say nothing: those that answer a PING stay, and the others don't. On HBONE connections, and on those in
//! tunnels; the same stories are played with the waypoint and with real Envoy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, KeepaliveSettings};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use http::Request;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;

use crate::mesh::Mesh;
use crate::wait::within;
use crate::ztunnel::{Ztunnel, tls};

/// Until a PING, and from there to the end.
pub const LIMIT: Duration = Duration::from_millis(1000);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// The mesh's resources, where the listeners ask HTTP/2 peers for signs of life.
#[must_use]
pub fn resources(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    for resource in &mut resources {
        if resource.kind == ResourceType::Listener {
            let mut listener = Listener::decode(resource.body.clone()).unwrap();
            let chains = listener.filter_chains.iter_mut();
            for filter in chains.flat_map(|chain| &mut chain.filters) {
                if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                    && any.type_url.ends_with(".HttpConnectionManager")
                {
                    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
                    ask_for_life(&mut manager);
                    any.value = manager.encode_to_vec();
                }
            }
            resource.body = listener.encode_to_vec().into();
        }
    }
    resources
}

fn ask_for_life(manager: &mut HttpConnectionManager) {
    let limit = Some(DurationProto {
        seconds: LIMIT.as_secs() as i64,
        nanos: 0,
    });
    let options = &mut manager.http2_protocol_options;
    options
        .get_or_insert_with(Http2ProtocolOptions::default)
        .connection_keepalive = Some(KeepaliveSettings {
        interval: limit,
        timeout: limit,
        ..KeepaliveSettings::default()
    });
}

/// Plays all of them at once.
///
/// # Panics
/// A silent peer stays, or is ended before its time; or an honest one doesn't stay.
pub async fn play_all(via: SocketAddr, to: SocketAddr, certificate: &MintedCertificate) {
    let hbone = async {
        let stream = tls(via, Some(certificate), &[b"h2"]).await.unwrap();
        assert_ended("an HBONE connection", stream).await;
    };
    let in_a_tunnel = async {
        let ztunnel = Ztunnel::connect(via, certificate).await.unwrap();
        assert_ended("a connection in a tunnel", ztunnel.tunnel(to).await).await;
        // Its own connection answers, and stays.
        ztunnel.tunnel(to).await;
    };
    let honest = async {
        let ztunnel = Ztunnel::connect(via, certificate).await.unwrap();
        let tunnel = ztunnel.tunnel(to).await;
        let (client, driver) = h2::client::handshake(tunnel).await.unwrap();
        let driver = tokio::spawn(driver);
        // A few times what a silent one has.
        tokio::time::sleep(LIMIT * 6).await;
        assert!(!driver.is_finished(), "ended though it answered");
        let mut client: h2::client::SendRequest<Bytes> = client.ready().await.unwrap();
        let request = Request::get("http://web/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    };
    tokio::join!(hbone, in_a_tunnel, honest);
}

/// Begins HTTP/2, acknowledges settings, and answers nothing more.
async fn assert_ended(what: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let begun = Instant::now();
    let mut asked = None;
    within(what, async {
        stream.write_all(PREFACE).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            match (head[3], head[4] & ACK) {
                (SETTINGS, 0) => drop(stream.write_all(SETTINGS_ACK).await),
                (PING, 0) => asked = asked.or(Some(begun.elapsed())),
                _ => {}
            }
        }
    })
    .await;
    let ended = begun.elapsed();
    let asked = asked.unwrap_or_else(|| panic!("{what}: nobody asked"));
    // Timers have milliseconds.
    let slack = LIMIT / 20;
    assert!(asked + slack >= LIMIT, "{what}: asked after {asked:?}");
    assert!(
        ended + slack >= asked + LIMIT,
        "{what}: asked after {asked:?}, ended after {ended:?}"
    );
}
