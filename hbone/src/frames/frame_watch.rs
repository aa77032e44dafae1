//! A transport below HTTP/2 that keeps its peer to a [`FrameBudget`].
//!
//! When a turn is over, reading is `Pending`, and the task is woken when it is its turn again among those of its identity
//! (`rounds.rs`), after all others that are ready and after the runtime has looked at its sockets, or later, where streams have
//! to wait. What was read beyond the turn waits here: not more than one read of the transport, and only while many small
//! frames come; where streams have to wait, more is read to see which of them are given up (`foresight.rs`), up to [`AHEAD`].
//! When the budget is spent, the peer gets GOAWAY and reading fails; h2 makes that the end of the connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::frames::allowance::Allowance;
pub use crate::frames::frame_budget::Flood;
use crate::frames::frame_budget::{FrameBudget, MayRead};
use crate::frames::stream_budget::Side;
use crate::held::holder::Holder;

/// Bytes that wait at most, of a connection whose streams have to.
const AHEAD: usize = 64 * 1024;
/// Bytes of one look ahead.
const LOOK: usize = 8 * 1024;

/// Says whether a connection ended because its peer had spent its budget: h2 passes on no more than the text of an error.
#[derive(Clone, Debug, Default)]
pub struct FloodMark(Arc<OnceLock<Flood>>);

impl FloodMark {
    pub fn get(&self) -> Option<Flood> {
        self.0.get().copied()
    }
}

/// One side of an HTTP/2 connection, from its preface on.
pub struct FrameWatch<T> {
    io: T,
    budget: FrameBudget,
    /// Read, and not counted: the turn was over.
    held: BytesMut,
    /// How reading has ended, behind what is held.
    ended: Option<io::Result<()>>,
    /// Until when nothing more is handed on.
    pause: Option<Pin<Box<Sleep>>>,
    allowance: Arc<Allowance>,
    /// The beginning of the next turn, which is waited for.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    flood: FloodMark,
    /// Told of the bytes of bodies that come.
    holder: Option<Arc<Holder>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> FrameWatch<T> {
    /// A server whose streams are tunnels: those of an identity share its allowance.
    pub(crate) fn tunnels(io: T, allowance: Arc<Allowance>) -> (FrameWatch<T>, FloodMark) {
        FrameWatch::new(io, Side::Tunnels, allowance)
    }

    /// A server whose streams are requests, in a tunnel of the identity that has this allowance.
    pub fn requests(io: T, allowance: Arc<Allowance>) -> (FrameWatch<T>, FloodMark) {
        FrameWatch::new(io, Side::Requests, allowance)
    }

    /// A client, with a budget for its server.
    pub(crate) fn client(io: T, budget: u32) -> (FrameWatch<T>, FloodMark) {
        FrameWatch::new(io, Side::Client, Allowance::new(budget))
    }

    fn new(io: T, side: Side, allowance: Arc<Allowance>) -> (FrameWatch<T>, FloodMark) {
        let flood = FloodMark::default();
        let watch = FrameWatch {
            io,
            budget: FrameBudget::new(side, allowance.clone(), Instant::now()),
            held: BytesMut::new(),
            ended: None,
            pause: None,
            allowance,
            turn: None,
            flood: flood.clone(),
            holder: None,
        };
        (watch, flood)
    }

    /// Tells `holder` of what comes: what of it nobody takes is held.
    #[must_use]
    pub fn held_by(mut self, holder: Option<Arc<Holder>>) -> FrameWatch<T> {
        self.holder = holder;
        self
    }

    /// How many of the bytes may be handed on.
    fn count(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        self.budget.tick(Instant::now());
        let received = self.budget.receive(bytes);
        if let Some(holder) = &self.holder {
            holder.arrived(self.budget.take_data());
        }
        received.map_err(|flood| self.end(cx, flood))
    }

    fn end(&mut self, cx: &mut Context<'_>, flood: Flood) -> io::Error {
        // There is only one first time.
        let _ = self.flood.0.set(flood);
        self.send_goaway(cx, flood);
        ended(flood)
    }

    /// Ready when it is this connection's turn to read.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pause.is_none() && self.turn.is_none() {
            match self.budget.turn() {
                MayRead::Now => return Poll::Ready(Ok(())),
                MayRead::AfterOthers => self.turn = Some(Box::pin(self.allowance.turn())),
                MayRead::After(time) => self.pause = Some(Box::pin(tokio::time::sleep(time))),
            }
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(cx));
            self.turn = None;
        }
        if let Some(pause) = &mut self.pause {
            let over = pause.as_mut().poll(cx);
            self.look_ahead(cx)?;
            ready!(over);
            self.pause = None;
            self.budget.resume(Instant::now());
            if self.held.is_empty() {
                self.budget.caught_up();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what waits behind the turn, a portion at a time: the pause wakes this task for the next one.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut looked = Ok(());
        if !self.budget.foresees() {
            looked = self.budget.foresee(&self.held);
        }
        let mut room = [0; LOOK];
        if looked.is_ok() && self.held.len() < AHEAD && self.ended.is_none() {
            let mut came = ReadBuf::new(&mut room);
            match Pin::new(&mut self.io).poll_read(cx, &mut came) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) if !came.filled().is_empty() => {
                    looked = self.budget.foresee(came.filled());
                    self.held.extend_from_slice(came.filled());
                }
                Poll::Ready(end) => self.ended = Some(end),
            }
        }
        looked.map_err(|flood| self.end(cx, flood))
    }

    /// A peer that doesn't read what it is sent isn't waited for.
    fn send_goaway(&mut self, cx: &mut Context<'_>, flood: Flood) {
        if let Some(goaway) = self.budget.goaway(flood) {
            let _ = Pin::new(&mut self.io).poll_write(cx, &goaway);
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }
}

impl<T> FrameWatch<T> {
    /// Nothing is read while nothing can be written: a place in line is for somebody else then.
    fn stand_back<R>(&mut self, written: Poll<R>) -> Poll<R> {
        if written.is_pending() && self.turn.is_some() {
            self.turn = Some(Box::pin(self.allowance.turn()));
        }
        written
    }
}

fn ended(flood: Flood) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, flood)
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for FrameWatch<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(flood) = this.flood.get() {
            return Poll::Ready(Err(ended(flood)));
        }
        ready!(this.poll_turn(cx))?;
        if !this.held.is_empty() {
            let held = std::mem::take(&mut this.held);
            let portion = held.get(..buf.remaining()).unwrap_or(&held);
            let taken = this.count(cx, portion)?;
            buf.put_slice(portion.get(..taken).unwrap_or_default());
            this.held = held;
            this.held.advance(taken);
            if this.held.is_empty() {
                this.held = BytesMut::new();
                this.budget.caught_up();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = this.ended.take() {
            return Poll::Ready(ended);
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                this.budget.rest();
                return Poll::Pending;
            }
        }
        let has_room = buf.remaining() > 0;
        let came = buf.filled().get(before..).unwrap_or_default();
        let taken = this.count(cx, came)?;
        if has_room {
            this.budget.read(came.len());
        }
        if taken < came.len() {
            this.held
                .extend_from_slice(came.get(taken..).unwrap_or_default());
            buf.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FrameWatch<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        let n = ready!(this.stand_back(written))?;
        this.budget.send(bytes.get(..n).unwrap_or_default());
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        let n = ready!(this.stand_back(written))?;
        let mut left = n;
        for slice in slices {
            let sent = slice.get(..left).unwrap_or(slice);
            this.budget.send(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.stand_back(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        this.stand_back(shut)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// WINDOW_UPDATE of one byte.
    const UPDATE: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn watched(io: tokio::io::DuplexStream) -> (FrameWatch<tokio::io::DuplexStream>, FloodMark) {
        FrameWatch::tunnels(io, Allowance::new(10_000))
    }

    #[tokio::test]
    async fn bytes_come_whole_and_in_order_over_many_turns() {
        let (near, mut far) = duplex(1 << 20);
        let (mut watch, flood) = watched(near);
        let mut sent = PREFACE.to_vec();
        for n in 0..9_000_u32 {
            sent.extend(UPDATE);
            let end = sent.len();
            sent[end - 4..].copy_from_slice(&n.to_be_bytes());
        }
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut all = Vec::new();
        let mut portion = vec![0; 5000];
        loop {
            let n = watch.read(&mut portion).await.unwrap();
            // 128 updates are a turn.
            assert!(n <= PREFACE.len() + 128 * UPDATE.len(), "{n}");
            all.extend_from_slice(&portion[..n]);
            if n == 0 {
                break;
            }
        }
        assert!(all == sent);
        assert_eq!(flood.get(), None);
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_no_end() {
        let (near, mut far) = duplex(1);
        let (mut watch, _) = watched(near);
        let sent = [PREFACE, &UPDATE.repeat(50)].concat();
        let expected = sent.clone();
        tokio::spawn(async move { far.write_all(&sent).await });
        let mut all = Vec::new();
        watch.read_to_end(&mut all).await.unwrap();
        assert!(all == expected);
    }

    #[tokio::test]
    async fn others_run_between_turns() {
        let (near, mut far) = duplex(1 << 20);
        let (mut watch, _) = watched(near);
        far.write_all(&[PREFACE, &UPDATE.repeat(9_000)].concat())
            .await
            .unwrap();
        let other = tokio::spawn(async {
            let mut turns = 0;
            loop {
                tokio::task::yield_now().await;
                turns += 1;
                if turns == 40 {
                    return;
                }
            }
        });
        let mut left = PREFACE.len() + 9_000 * UPDATE.len();
        while !other.is_finished() {
            let n = watch.read(&mut [0; 64 * 1024]).await.unwrap();
            left -= n;
            assert!(left > 0, "all was read, and the other had no turn");
        }
    }

    #[tokio::test]
    async fn who_cannot_write_keeps_no_other_from_its_turn() {
        let allowance = Allowance::new(10_000);
        let busy = [PREFACE, &UPDATE.repeat(400)].concat();
        let mut stuck = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..10 {
            let (near, mut far) = duplex(16 * 1024);
            let (mut watch, _) = FrameWatch::tunnels(near, allowance.clone());
            far.write_all(&busy).await.unwrap();
            let mut room = vec![0; 16 * 1024];
            while (Pin::new(&mut watch).poll_read(&mut cx, &mut ReadBuf::new(&mut room))).is_ready()
            {
            }
            while Pin::new(&mut watch)
                .poll_write(&mut cx, &[0; 1024])
                .is_ready()
            {}
            stuck.push((watch, far));
        }
        let (near, mut far) = duplex(16 * 1024);
        let (mut watch, _) = FrameWatch::tunnels(near, allowance);
        far.write_all(&busy).await.unwrap();
        let mut all = vec![0; busy.len()];
        let read = tokio::time::timeout(Duration::from_secs(10), watch.read_exact(&mut all)).await;
        assert!(read.is_ok(), "the others have all places");
    }

    #[tokio::test]
    async fn a_flood_gets_goaway_and_an_end() {
        let (near, mut far) = duplex(1 << 20);
        let (mut watch, flood) = watched(near);
        far.write_all(&[PREFACE, &UPDATE.repeat(30_000)].concat())
            .await
            .unwrap();
        let mut sink = Vec::new();
        let error = watch.read_to_end(&mut sink).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(flood.get().unwrap().label(), "window_update");
        assert!(watch.read(&mut [0; 10]).await.is_err(), "for good");
        let mut goaway = [0; 17];
        far.read_exact(&mut goaway).await.unwrap();
        assert_eq!((goaway[3], goaway[16]), (7, 11));
    }

    /// So many streams are opened, and so many of them reset at once.
    fn opened(streams: u32, reset: u32) -> Vec<u8> {
        let frame = |length: u8, kind: u8, n: u32| {
            let mut frame = vec![0, 0, length, kind, 4];
            frame.extend((2 * n + 1).to_be_bytes());
            frame.resize(9 + usize::from(length), 0);
            frame
        };
        let opens = (0..streams).flat_map(|n| frame(1, 1, n));
        opens
            .chain((0..reset).flat_map(|n| frame(4, 3, n)))
            .collect()
    }

    #[tokio::test]
    async fn streams_that_are_given_up_while_they_wait_end_the_connection_now() {
        for (reset, ends) in [(400, true), (200, false), (0, false)] {
            let (near, mut far) = duplex(1 << 20);
            let allowance = Allowance::new(10_000);
            let (mut watch, flood) = FrameWatch::tunnels(near, allowance.clone());
            // Others of the identity wait as well: its streams have places for the next ten seconds.
            allowance.add(-20_000);
            for _ in 0..20_000 {
                let _ = allowance.pace(Instant::now());
            }
            far.write_all(&[PREFACE, &opened(400, reset)].concat())
                .await
                .unwrap();
            // What a wait wakes for sooner or later.
            let reading = async {
                loop {
                    let mut portion = [0; 1024];
                    tokio::select! {
                        read = watch.read(&mut portion) => if read.is_err() { return },
                        () = tokio::time::sleep(Duration::from_millis(2)) => {}
                    }
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(3), reading).await;
            assert_eq!(ended.is_ok(), ends, "{reset}");
            let told = flood.get().map(Flood::label);
            assert_eq!(told, ends.then_some("streams"), "{reset}");
        }
    }

    #[tokio::test]
    async fn streams_of_an_identity_that_wasted_many_come_one_by_one() {
        let (near, mut far) = duplex(1 << 20);
        let allowance = Allowance::new(10_000);
        let (mut watch, _) = FrameWatch::tunnels(near, allowance.clone());
        let heads = (0..100_u32).flat_map(|n| {
            let mut head = vec![0, 0, 1, 1, 4];
            head.extend((2 * n + 1).to_be_bytes());
            head.push(0);
            head
        });
        let sent: Vec<u8> = PREFACE.iter().copied().chain(heads).collect();
        far.write_all(&sent).await.unwrap();
        let mut all = vec![0; sent.len()];
        watch
            .read_exact(&mut all[..PREFACE.len() + 200])
            .await
            .unwrap();
        let start = Instant::now();
        allowance.add(-20_000);
        watch
            .read_exact(&mut all[PREFACE.len() + 200..])
            .await
            .unwrap();
        assert!(
            start.elapsed() >= Duration::from_millis(35),
            "{:?}",
            start.elapsed()
        );
        assert!(all == sent, "whole and in order");
    }
}
