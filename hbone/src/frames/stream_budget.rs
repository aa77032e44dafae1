//! What a peer's streams may cost that do no work, on the server's side.
//!
//! A connection has units for them that work and time give back; each stream is judged once ([`Worth`]). Besides, its
//! identity has an [`Allowance`] for the streams on all its connections, which is charged when a stream is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frames::allowance::Allowance;
use crate::frames::frame_head::{FrameHead, FrameKind};
use crate::frames::open_streams::{By, OpenStreams, Worth};

/// A stream that does no work. One that does gives back as much: a peer half of whose streams do may go on forever.
const STREAM: i32 = 8;
/// Where the identity's account is empty, a connection must have so much left of its own: parts of four.
const KEPT: i32 = 3;

/// What the connection is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The peer opens tunnels.
    Tunnels,
    /// The peer sends requests.
    Requests,
    /// We open tunnels: how many, and what for, isn't the peer's doing.
    Client,
}

/// What a frame was for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    None,
    /// The peer opened it.
    Opened,
    /// The peer reset it.
    Reset,
}

/// The streams of one connection, and the units that are left for those that do no work.
#[derive(Debug)]
pub(crate) struct StreamBudget {
    side: Side,
    allowance: Arc<Allowance>,
    left: i32,
    /// Streams that were paid for before they began.
    foreseen: i32,
    /// The newest stream that was opened.
    newest: u32,
    open: OpenStreams,
}

impl StreamBudget {
    pub(crate) fn new(side: Side, allowance: Arc<Allowance>) -> StreamBudget {
        StreamBudget {
            side,
            left: allowance.budget(),
            allowance,
            foreseen: 0,
            newest: 0,
            open: OpenStreams::new(side == Side::Requests),
        }
    }

    pub(crate) fn gain(&mut self, units: i32) {
        let most = self.allowance.budget();
        self.left = self.left.saturating_add(units).min(most);
    }

    /// Whether the peer has spent more than it may.
    pub(crate) fn is_spent(&self) -> bool {
        let kept = match self.allowance.is_empty() {
            true => self.allowance.budget() / 4 * KEPT,
            false => 0,
        };
        self.side != Side::Client && self.left < kept
    }

    /// Whether the identity's streams have to wait; [`StreamBudget::pace`] says how long.
    pub(crate) fn must_wait(&self) -> bool {
        self.allowance.is_low()
    }

    pub(crate) fn pace(&self, now: Instant) -> Option<Duration> {
        self.allowance.pace(now)
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn is_open(&self, stream: u32) -> bool {
        self.open.contains(stream)
    }

    /// The newest one that the peer opened; a server opens none.
    pub(crate) fn newest_of_peer(&self) -> u32 {
        match self.side {
            Side::Tunnels | Side::Requests => self.newest,
            Side::Client => 0,
        }
    }

    /// Whether this frame opens a stream.
    pub(crate) fn opens(&self, by: By, head: FrameHead) -> bool {
        let opener = match self.side {
            Side::Tunnels | Side::Requests => By::Peer,
            Side::Client => By::Us,
        };
        head.kind == FrameKind::Headers && head.stream > self.newest && by == opener
    }

    /// Keeps count of the streams, and of what they are good for. `age` is the connection's, in milliseconds.
    pub(crate) fn follow(&mut self, by: By, head: FrameHead, age: u32, now: Instant) -> Event {
        if self.opens(by, head) {
            self.newest = head.stream;
            let followed = self.open.open(by, head, age);
            if self.side == Side::Client {
                return Event::None;
            }
            self.allowance.refill(now);
            if followed {
                self.allowance.add(-STREAM);
            }
            return Event::Opened;
        }
        let reset =
            by == By::Peer && head.kind == FrameKind::Reset && self.open.contains(head.stream);
        if let Some(worth) = self.open.frame(by, head, age)
            && self.side != Side::Client
        {
            self.judge(worth);
        }
        match reset && self.side != Side::Client {
            true => Event::Reset,
            false => Event::None,
        }
    }

    /// So many streams are given up that wait to begin: they are paid for now.
    pub(crate) fn foresee(&mut self, given_up: i32) {
        let units = STREAM.saturating_mul(given_up);
        self.foreseen = self.foreseen.saturating_add(given_up);
        self.gain(-units);
        self.allowance.add(-units);
    }

    fn judge(&mut self, worth: Worth) {
        if worth == Worth::Nothing && self.foreseen > 0 {
            self.foreseen -= 1;
            // Its beginning was charged as well.
            return self.allowance.add(STREAM);
        }
        let units = match worth {
            Worth::Work => STREAM,
            Worth::Fair => 0,
            Worth::Refused => -STREAM / 4,
            Worth::Empty => -STREAM / 2,
            Worth::Nothing => -STREAM,
        };
        self.gain(units);
        self.allowance.add(STREAM + units);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::By::{Peer, Us};
    use super::FrameKind::{Data, Headers, Reset};
    use super::*;
    use crate::frames::frame_head::END_STREAM as END;

    type Frame = (By, FrameKind, u8, u32);

    const ANSWER: Frame = (Us, Headers, 0, 20);
    /// The whole answer, or a refusal of a tunnel.
    const ANSWER_ALONE: Frame = (Us, Headers, END, 20);
    const FINISHED: Frame = (Us, Data, END, 0);
    const CUT: Frame = (Peer, Reset, 0, 4);

    fn started(side: Side) -> StreamBudget {
        StreamBudget::new(side, Allowance::new(10_000))
    }

    /// Opens streams, and then plays the frames of each, so many milliseconds later.
    fn play(
        budget: &mut StreamBudget,
        numbers: Range<u32>,
        flags: u8,
        frames: &[Frame],
        later: u32,
    ) {
        let now = Instant::now();
        let head = |n: u32, kind, flags, length| FrameHead {
            length,
            kind,
            flags,
            stream: 2 * n + 1,
        };
        for n in numbers.clone() {
            let event = budget.follow(Peer, head(n, Headers, flags, 30), 0, now);
            assert_eq!(event, Event::Opened);
        }
        for n in numbers {
            for (by, kind, flags, length) in frames {
                budget.follow(*by, head(n, *kind, *flags, *length), later, now);
            }
        }
    }

    /// How many of these streams a connection may open, ten at a time, if it may not do so forever.
    fn most(side: Side, flags: u8, frames: &[Frame]) -> Option<u32> {
        let mut budget = started(side);
        (0..20_000).step_by(10).find(|n| {
            // Others of its identity do work.
            budget.allowance.add(10_000);
            play(&mut budget, *n..n + 10, flags, frames, 10);
            budget.is_spent()
        })
    }

    #[test]
    fn streams_that_do_work_may_come_forever() {
        let (request, answer) = ((Peer, Data, 0, 80), (Us, Data, 0, 9_000));
        let (asked, answered) = ((Peer, Data, END, 80), (Us, Data, END, 9_000));
        // A tunnel a request, ended by the client, by the server, or cut off.
        for end in [
            [(Peer, Data, END, 0), FINISHED].as_slice(),
            &[FINISHED],
            &[CUT],
        ] {
            let frames = [&[ANSWER, request, answer], end].concat();
            assert_eq!(most(Side::Tunnels, 0, &frames), None, "{end:?}");
        }
        assert_eq!(most(Side::Tunnels, 0, &[ANSWER, asked, answered]), None);
        // One way only, to its end.
        assert_eq!(most(Side::Tunnels, 0, &[ANSWER, asked, FINISHED]), None);
        assert_eq!(most(Side::Tunnels, END, &[ANSWER, answered]), None);
        // Requests without a body, and answers without; answered before the body has come.
        assert_eq!(most(Side::Requests, END, &[ANSWER, answered]), None);
        assert_eq!(most(Side::Requests, END, &[ANSWER_ALONE]), None);
        assert_eq!(most(Side::Requests, 0, &[ANSWER_ALONE, CUT]), None);
        assert_eq!(most(Side::Requests, 0, &[asked, ANSWER, answered]), None);
        // A download that is given up half-way.
        assert_eq!(most(Side::Requests, END, &[ANSWER, answer, CUT]), None);
    }

    #[test]
    fn streams_that_do_no_work_are_bounded() {
        let request = (Peer, Data, 0, 80);
        let refused_by_h2 = (Us, Reset, 0, 4);
        for (side, flags, frames, expected) in [
            (Side::Tunnels, 0, [ANSWER, CUT].as_slice(), 1_250),
            (Side::Tunnels, 0, &[CUT], 1_250),
            (Side::Tunnels, 0, &[ANSWER, request, CUT], 1_250),
            (Side::Tunnels, END, &[ANSWER, FINISHED], 2_500),
            (Side::Tunnels, END, &[ANSWER_ALONE], 5_000),
            (Side::Requests, END, &[CUT], 1_250),
            (Side::Requests, 0, &[request, CUT], 1_250),
            (Side::Requests, END, &[refused_by_h2], 1_250),
        ] {
            let most = most(side, flags, frames).unwrap_or(u32::MAX);
            let near = (expected - 10..expected + 10).contains(&most);
            assert!(near, "{side:?} {frames:?}: {most}");
        }
    }

    #[test]
    fn a_thousand_streams_may_be_cancelled_at_once_but_not_forever() {
        for side in [Side::Tunnels, Side::Requests] {
            let mut budget = started(side);
            play(&mut budget, 0..1000, 0, &[CUT], 100);
            assert!(!budget.is_spent(), "{side:?}");
            play(&mut budget, 1000..2000, 0, &[CUT], 100);
            assert!(budget.is_spent(), "{side:?}");
        }
    }

    #[test]
    fn half_of_the_streams_may_be_cancelled() {
        let mut budget = started(Side::Requests);
        for n in (0..100_000).step_by(200) {
            play(&mut budget, n..n + 100, END, &[CUT], 10);
            play(&mut budget, n + 100..n + 200, END, &[ANSWER, FINISHED], 10);
            assert!(!budget.is_spent());
        }
        assert!(!budget.must_wait());
    }

    #[test]
    fn requests_that_take_too_long_may_all_be_given_up() {
        let mut budget = started(Side::Requests);
        for n in (0..100_000).step_by(100) {
            play(&mut budget, n..n + 100, END, &[CUT], 1000);
            assert!(!budget.is_spent());
        }
        assert!(!budget.must_wait());
    }
}
