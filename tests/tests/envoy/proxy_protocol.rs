//! What an endpoint hears first where a DestinationRule asks for the PROXY protocol: byte by byte what Envoy says, but for the
//! port of the client, which is another one for each of its connections.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::wait::within;
use waypoint_tests::{App, Mesh, Ztunnel};

/// What each connection begins with, up to the request or the client's own bytes.
type Heads = Arc<Mutex<Vec<Vec<u8>>>>;

/// Where what the client sends begins.
const OWN: &[u8] = b"GET /own";

/// Speaks HTTP of a kind at `address`, behind a head of the PROXY protocol.
async fn listening(address: SocketAddr) -> Heads {
    let heads = Heads::default();
    let kept = heads.clone();
    App::tcp(address, move |mut tcp: TcpStream| {
        let kept = kept.clone();
        async move {
            let mut came = Vec::new();
            let own = loop {
                if let Some(own) = came.windows(OWN.len()).position(|part| part == OWN) {
                    break own;
                }
                let Ok(byte) = tcp.read_u8().await else {
                    return;
                };
                came.push(byte);
            };
            came.truncate(own);
            kept.lock().push(came);
            let _ = tcp
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
            let _ = tcp.shutdown().await;
        }
    })
    .await;
    heads
}

fn rule(host: &str, version: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}, namespace: default}}\n\
         spec: {{host: {host}, trafficPolicy: {{proxyProtocol: {{version: {version}}}}}}}\n---\n"
    )
}

/// Without the client's port.
fn masked(head: &[u8]) -> String {
    match std::str::from_utf8(head) {
        Ok(text) if text.starts_with("PROXY ") => {
            let mut words: Vec<&str> = text.trim_end().split(' ').collect();
            words[4] = "*";
            format!(
                "{} and {:?}",
                words.join(" "),
                &text[text.trim_end().len()..]
            )
        }
        _ => {
            let mut head = head.to_vec();
            head[24..26].fill(0);
            format!("{head:x?}")
        }
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn endpoints_hear_of_clients_what_envoy_tells() {
    for version in ["V1", "V2"] {
        let mesh = Mesh::new();
        let (web, of_web) = mesh.bare_service(1, "web");
        let (db, of_db) = mesh.bare_tcp_service(2, "db");
        let heads = [listening(of_web).await, listening(of_db).await];
        mesh.manifest("rules.yaml", &(rule("web", version) + &rule("db", version)));
        let waypoint = mesh.start().await;
        let (_envoy, beside) = Envoy::beside(&mesh, &mesh.resources()).await;
        let certificate = mesh.certificate("default", "curl");
        let mut found = Vec::new();
        for address in [waypoint.address(), beside] {
            let client = Ztunnel::connect(address, &certificate).await.unwrap();
            for to in [web, db] {
                let mut tunnel = client.tunnel(to).await;
                let asked = b"GET /own HTTP/1.1\r\nhost: web\r\n\r\n";
                tunnel.write_all(asked).await.unwrap();
                let mut byte = [0];
                within("an answer", tunnel.read_exact(&mut byte))
                    .await
                    .unwrap();
            }
            let told = heads
                .each_ref()
                .map(|heads| std::mem::take(&mut *heads.lock()));
            let told = told.map(|heads| heads.iter().map(|head| masked(head)).collect::<Vec<_>>());
            assert!(told.iter().all(|heads| heads.len() == 1), "{told:?}");
            found.push(told);
        }
        assert_eq!(found[0], found[1], "{version}: ours, Envoy's");
    }
}
