//! Answers to HTTP/2 in a tunnel, taken from upstream only as fast as the tunnel takes them.
//!
//! hyper polls each stream's body by itself and h2 buffers what comes, as far as the *inner* windows go. A peer that
//! grants large ones and doesn't read the tunnel would have every stream's buffer filled. So a stream that has something on
//! its way waits while its tunnel, its connection or its identity holds enough; one that has nothing on its way goes
//! on, so that no stream stands still because of others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use waypoint_hbone::held::account::Account;
use waypoint_hbone::held::holder::Holder;

/// What a tunnel may hold of answers before its streams wait for each other.
const TUNNEL: usize = 1024 * 1024;
/// The same of all tunnels of a connection.
const CONNECTION: usize = 16 * 1024 * 1024;
/// The same of all connections of an identity.
const IDENTITY: usize = 64 * 1024 * 1024;

/// An answer's body that is charged to its tunnel.
pub(crate) struct Paced<B> {
    body: B,
    way: Option<Way>,
}

struct Way {
    holder: Arc<Holder>,
    /// It has waited for the tunnel.
    waited: bool,
    /// What of this answer is on its way.
    own: Arc<Account>,
}

impl<B> Paced<B> {
    /// Without a holder nothing is counted.
    pub(crate) fn new(body: B, holder: Option<&Arc<Holder>>) -> Paced<B> {
        Paced {
            body,
            way: holder.map(|holder| Way {
                holder: holder.clone(),
                waited: false,
                own: holder.account().exactly_below(0),
            }),
        }
    }
}

impl Way {
    /// A number that no other answer of the tunnel has at the time.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.own).addr()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.own.held() == 0 {
            return Poll::Ready(());
        }
        let share = self.holder.share();
        if share.account().held() < CONNECTION && share.identity().held() < IDENTITY {
            let tunnel = self.holder.account();
            if tunnel.poll_below_as(self.number(), cx, TUNNEL).is_ready() {
                return Poll::Ready(());
            }
            self.waited = true;
        }
        self.own.poll_below(cx, 1)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.waited {
            self.holder.account().forget(self.number());
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(way) = &mut this.way else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        ready!(way.poll_room(cx));
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| frame.map_data(|data| way.own.charge(data)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use waypoint_hbone::held::holder::Share;

    use super::*;

    /// A body without end, in chunks of 64 KiB.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(vec![0; 64 * 1024].into()))))
        }
    }

    fn next(body: &mut Paced<Endless>) -> Option<Bytes> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn streams_wait_for_their_tunnel_and_none_stands_still() {
        let holder = Holder::new(&Share::new(&Account::top()));
        let mut first = Paced::new(Endless, Some(&holder));
        let mut held: Vec<Bytes> = std::iter::from_fn(|| next(&mut first)).take(1000).collect();
        assert_eq!(held.len(), 16, "a tunnel's bound");
        let mut second = Paced::new(Endless, Some(&holder));
        let of_second = next(&mut second);
        assert!(of_second.is_some(), "it has nothing on its way");
        assert!(next(&mut second).is_none());
        drop(of_second);
        assert!(next(&mut second).is_some());
        held.truncate(4);
        assert!(next(&mut first).is_some());
    }

    #[test]
    fn tunnels_wait_for_their_connection() {
        let share = Share::new(&Account::top());
        let holder = Holder::new(&share);
        let _other = share.account().charge(vec![0; CONNECTION].into());
        let mut body = Paced::new(Endless, Some(&holder));
        let one = next(&mut body);
        assert!(one.is_some());
        assert!(next(&mut body).is_none());
        drop(one);
        assert!(next(&mut body).is_some());
    }

    #[tokio::test]
    async fn what_passes_is_the_same() {
        let holder = Holder::new(&Share::new(&Account::top()));
        let body = Paced::new(Full::new(Bytes::from_static(b"all of it")), Some(&holder));
        assert_eq!(body.size_hint().exact(), Some(9));
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "all of it");
        drop(bytes);
        assert_eq!(holder.account().held(), 0);
    }
}
