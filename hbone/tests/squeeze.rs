//! Windows that are made smaller while tunnels are open: nobody's tunnel stands still for it.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use support::*;
use tokio::io::AsyncReadExt;
use waypoint_hbone::held::account::Account;
use waypoint_hbone::held::holder::{Holder, Share};
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tunnel::stream::TunnelStream;

/// Far less than the window at first, far more than the window then: the peer's is below nothing after that.
const BEFORE: usize = 300 * 1024;

async fn pass(client: &mut TunnelStream, server: &mut TunnelStream, bytes: usize) {
    let sent = client.send_all(Bytes::from(vec![b'x'; bytes]));
    let mut received = vec![0; bytes];
    let both = async { tokio::join!(sent, server.read_exact(&mut received)) };
    let (sent, read) = within(both).await;
    sent.unwrap();
    read.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_goes_on_whose_peer_had_sent_more_than_it_may_now() {
    let options = ServerOptions::default();
    let squeeze = options.squeeze.clone();
    let (_server, mut streams, connection) = connected(options).await;
    let open = || connection.open("10.0.0.1:80", HeaderMap::new());
    let holder = Holder::new(&Share::new(&Account::top()));
    let mut client = open().await.unwrap();
    let mut server_side = streams.recv().await.unwrap();
    server_side.hold(&holder);
    pass(&mut client, &mut server_side, BEFORE).await;
    // All of it went onward, and there is nothing more.
    let more = tokio::time::timeout(Duration::from_millis(20), server_side.read_u8());
    assert!(more.await.is_err());

    squeeze.set(true);
    // As the overload manager does while memory is short.
    let looking = tokio::spawn({
        let holder: Arc<Holder> = holder.clone();
        async move {
            loop {
                holder.renew_window();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    // The connection's task has something to do, and with it the peer learns its new window.
    let mut other = open().await.unwrap();
    let mut other_side = streams.recv().await.unwrap();
    for _ in 0..3 {
        pass(&mut other, &mut other_side, 10).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pass(&mut client, &mut server_side, 10 * BEFORE).await;

    squeeze.set(false);
    pass(&mut other, &mut other_side, 10).await;
    pass(&mut client, &mut server_side, 10 * BEFORE).await;
    looking.abort();
}
