//! What a stream holds for the tunnel whose bytes it carries onward.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::*;
use tokio::io::AsyncReadExt;
use waypoint_hbone::held::account::Account;
use waypoint_hbone::held::holder::{Holder, Share};
use waypoint_hbone::server::ServerOptions;

const MUCH: usize = 100 * 1024;

async fn unread(holder: &Holder, expected: usize) {
    let looking = async {
        while holder.unread() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(looking).await;
}

#[tokio::test]
async fn bytes_on_their_way_and_answers_nobody_takes_are_held_for_whoever_is_carried() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    let mut stream = open(&connection).await;
    let mut far = streams.recv().await.unwrap();
    let share = Share::new(&Account::top());
    let (first, second) = (Holder::new(&share), Holder::new(&share));

    stream.carry_for(Some(&first));
    far.send_all(Bytes::from(vec![b'x'; MUCH])).await.unwrap();
    unread(&first, MUCH).await;
    // The connection's task hasn't run yet.
    stream
        .send_all(Bytes::from(vec![b'x'; 1000]))
        .await
        .unwrap();
    let before = first.account().held();
    assert!(before > 1000, "{before}");

    // The next exchange is another's: what is on its way still is the first one's.
    stream.carry_for(Some(&second));
    assert_eq!(
        (first.account().held(), second.account().held()),
        (before, 0)
    );
    unread(&first, 0).await;
    unread(&second, MUCH).await;
    stream.carry_for(Some(&second));
    unread(&second, MUCH).await;
    let mut taken = vec![0; MUCH];
    stream.read_exact(&mut taken).await.unwrap();
    far.send_all(Bytes::from(vec![b'x'; MUCH])).await.unwrap();

    // It needs nobody to be there any more.
    drop(second);
    stream.carry_for(None);
    stream.carry_for(Some(&first));
    unread(&first, MUCH).await;
    drop(stream);
    unread(&first, 0).await;
    assert_eq!(Arc::strong_count(&first), 1);
}
