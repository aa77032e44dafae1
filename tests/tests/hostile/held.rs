//! Memory that is held for a tunnel is its peer's, wherever in the process it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use waypoint_tests::wait::until;
use waypoint_tests::{Mesh, Waypoint};

/// Requests whose answers nobody reads.
const REQUESTS: usize = 16;
const HELD: &str = "waypoint_memory_held_bytes";

async fn held(mesh: &Mesh, waypoint: &Waypoint, to: SocketAddr) -> f64 {
    let client = mesh.client(waypoint, "default", "curl").await;
    let mut tunnels = Vec::new();
    for _ in 0..REQUESTS {
        let mut tunnel = client.tunnel(to).await;
        let request = b"GET /much HTTP/1.1\r\nhost: x\r\nx-answer-bytes: 8000000\r\n\r\n";
        tunnel.write_all(request).await.unwrap();
        tunnels.push(tunnel);
    }
    // It grows until nothing more is taken.
    let mut last = 0.0;
    let most = until("an end of it", async || {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let before = std::mem::replace(&mut last, waypoint.metric(HELD, &[]).await);
        (last > 0.0 && before == last).then_some(last)
    })
    .await;
    drop((tunnels, client));
    until("what was held to be let go", async || {
        (waypoint.metric(HELD, &[]).await < most / 4.0).then_some(())
    })
    .await;
    most
}

/// What a pod's ztunnel has sent is in this process's memory, which the kernel has of what a pod without one has sent.
#[tokio::test]
async fn answers_that_came_through_a_pods_ztunnel_are_held_for_who_asked() {
    let mesh = Mesh::alone().await;
    let (plain, _plain) = mesh.http_service(1, "plain").await;
    let (captured, _app, _ztunnel) = mesh.captured_service(2, "captured").await;
    let change = |options: &mut waypoint_proxy::run::RunOptions| {
        options.limits.memory = Some(8 << 30);
    };
    let waypoint = mesh.start_with(change).await;
    let plain = held(&mesh, &waypoint, plain).await;
    let captured = held(&mesh, &waypoint, captured).await;
    println!("held without a ztunnel: {plain}, with one: {captured}");
    let more = captured - plain;
    assert!(more > (REQUESTS * 48 * 1024) as f64, "{plain}, {captured}");
}
