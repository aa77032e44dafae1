//! What a peer's HTTP/2 frames may cost: a share of each turn, and a budget for frames and streams that do no work.
//!
//! h2 reads as long as there is something to read, and takes whatever is cheap for the peer and not for us: SETTINGS that
//! change the initial window walk all streams, a PING is answered, a WINDOW_UPDATE of one byte lets one byte go. So the
//! bytes below h2 are looked at, frame heads only, and three things are counted:
//!
//! - *The turn.* After [`TURN`] units, about 50 µs, the connection's task has to let others run. This bounds nothing in
//!   the long run; it makes a connection that is busy, for whatever reason, one of many.
//! - *Frames.* A frame that does no work costs at least one of the budget's units. Work gives them back (DATA in either
//!   direction, streams that are opened and those that are answered to their end), and so does time: all of them in
//!   [`FILL`].
//! - *Streams*. As many units again are for streams that do no work ([`StreamBudget`]). Where those of an identity have to
//!   wait, a stream's beginning or reset ends the turn, and the next one begins later.
//!
//! Whoever spends more ends the connection with ENHANCE_YOUR_CALM.
//!
//! The numbers leave room for what clients do: two WINDOW_UPDATEs for each small message of a gRPC stream and a PING
//! beside it to measure the bandwidth, a thousand streams that are cancelled at once, PRIORITY of browsers. Envoy counts
//! each kind apart (`max_inbound_*`), with bounds of the same order, and ends a connection when more than half of 500
//! streams were reset within a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frames::allowance::Allowance;
use crate::frames::foresight::Foresight;
use crate::frames::frame_head::{ACK, END_STREAM, FrameHead, FrameHeads, FrameKind, HEAD, PADDED};
use crate::frames::open_streams::By;
use crate::frames::stream_budget::{Event, Side, StreamBudget};

/// Units of one turn: about 50 µs, of which TLS is half.
const TURN: u32 = 128;
/// A new stream's part of a turn: besides what h2 does for it, it becomes a task that others have to wait for.
const TURN_NEW_STREAM: u32 = 32;
/// A reset's part of a turn: it wakes whoever serves the stream.
const TURN_RESET: u32 = 15;
/// Streams that are walked for one unit of a turn.
const TURN_STREAMS: u32 = 8;
/// Bytes for one unit of a turn.
const TURN_BYTES: usize = 1024;
/// A read that brings fewer bytes, though there was room for more: they may have come as many TLS records.
const TURN_SMALL_READ: u32 = 32;

/// What is spent comes back within this time.
const FILL: Duration = Duration::from_secs(10);

/// RST_STREAM of a stream that isn't open.
const LATE_RESET: i32 = 8;
const SETTINGS: i32 = 8;
const PING: i32 = 2;
/// HEADERS of a stream that was there before: trailers, or a stream that is closed.
const LATE_HEADERS: i32 = 2;
/// Bytes of a frame that is thrown away for one more unit.
const IDLE_BYTES: u32 = 1024;

const OPENED: i32 = 2;
const ANSWERED: i32 = 8;
const DATA_RECEIVED: i32 = 1;
const DATA_SENT: i32 = 8;
/// DATA that we send of fewer bytes gives nothing back: the smallest message of gRPC has five, and windows of one byte
/// make frames of one byte.
const LEAST_DATA_SENT: u32 = 5;
/// DATA with padding gives nothing back, and costs if it may be nothing but padding.
const PADDING: u32 = 256;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A peer spent its budget: for frames, of which the kind is that which spent the last of it, or for streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flood(Spent);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Spent {
    #[error("too many HTTP/2 frames that do no work, the last of them {}", frame_label(*.0))]
    Frames(FrameKind),
    #[error("too many HTTP/2 streams that do no work")]
    Streams,
}

impl Flood {
    /// A short name for metric labels; the set is fixed.
    pub fn label(self) -> &'static str {
        match self.0 {
            Spent::Frames(kind) => frame_label(kind),
            Spent::Streams => "streams",
        }
    }
}

fn frame_label(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Data => "empty_data",
        FrameKind::Headers => "headers",
        FrameKind::Priority => "priority",
        FrameKind::Reset => "rst_stream",
        FrameKind::Settings => "settings",
        FrameKind::Ping => "ping",
        FrameKind::GoAway => "goaway",
        FrameKind::WindowUpdate => "window_update",
        FrameKind::Continuation => "continuation",
        FrameKind::Unknown => "unknown",
    }
}

/// Whether a connection may go on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayRead {
    Now,
    /// Others run first.
    AfterOthers,
    /// Its identity's streams have to wait.
    After(Duration),
}

/// The share of one HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    received: FrameHeads,
    /// Of what has come and waits, while anything does.
    waiting: Option<Foresight>,
    sent: FrameHeads,
    /// The most that there may be, and what is left.
    budget: i32,
    left: i32,
    streams: StreamBudget,
    began: Instant,
    now: Instant,
    /// Time in which nothing was read because its identity's streams had to wait. It isn't the connection's: nothing comes
    /// back in it, and no stream gets old.
    paused: Duration,
    refilled: Duration,
    /// Units of this turn.
    turn: u32,
    /// A stream of an identity whose account is low was opened or reset in this turn.
    paced: bool,
    /// Bytes of DATA since somebody asked.
    data: usize,
}

impl FrameBudget {
    pub(crate) fn new(side: Side, allowance: Arc<Allowance>, now: Instant) -> FrameBudget {
        let (received, sent) = match side {
            Side::Tunnels | Side::Requests => (PREFACE, 0),
            Side::Client => (0, PREFACE),
        };
        FrameBudget {
            received: FrameHeads::new(received),
            waiting: None,
            sent: FrameHeads::new(sent),
            budget: allowance.budget(),
            left: allowance.budget(),
            streams: StreamBudget::new(side, allowance),
            began: now,
            now,
            paused: Duration::ZERO,
            refilled: Duration::ZERO,
            turn: 0,
            paced: false,
            data: 0,
        }
    }

    /// It is now so late. One turn never spends all that a connection begins with.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
        let elapsed = self.age().saturating_sub(self.refilled);
        let budget = self.budget;
        let part = elapsed.as_secs_f64() / FILL.as_secs_f64();
        let units = (part.min(1.0) * f64::from(budget)) as i32;
        if units > 0 {
            // What is left of a unit isn't lost.
            self.refilled = match elapsed < FILL {
                true => self.refilled + FILL.mul_f64(f64::from(units) / f64::from(budget)),
                false => self.age(),
            };
            self.gain(units);
            self.streams.gain(units);
        }
    }

    /// A wait is over that [`FrameBudget::turn`] asked for.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.paused += now.saturating_duration_since(self.now);
        self.now = now;
    }

    /// How long the connection has been read from.
    fn age(&self) -> Duration {
        let elapsed = self.now.saturating_duration_since(self.began);
        elapsed.saturating_sub(self.paused)
    }

    /// Whether the turn is over; the next one begins then.
    pub(crate) fn turn(&mut self) -> MayRead {
        if self.turn < TURN {
            return MayRead::Now;
        }
        self.turn = 0;
        if std::mem::take(&mut self.paced)
            && let Some(wait) = self.streams.pace(self.now)
        {
            return MayRead::After(wait);
        }
        MayRead::AfterOthers
    }

    /// Nothing more has come: the next bytes begin a turn.
    pub(crate) fn rest(&mut self) {
        self.turn = 0;
    }

    /// Counts one read of `n` bytes for which there was more room.
    pub(crate) fn read(&mut self, n: usize) {
        if n < TURN_BYTES {
            self.turn += TURN_SMALL_READ;
        }
    }

    /// Bytes of DATA in the frames that have begun since the last call.
    pub(crate) fn take_data(&mut self) -> usize {
        std::mem::take(&mut self.data)
    }

    /// Counts what came from the peer, up to the end of the turn. How many of the bytes may be handed on; the others have
    /// to wait for the next one.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<usize, Flood> {
        let mut rest = bytes;
        while !rest.is_empty() && self.turn < TURN {
            let Some(head) = self.received.next(&mut rest) else {
                break;
            };
            self.receive_frame(head)?;
        }
        let taken = bytes.len() - rest.len();
        self.turn += (taken / TURN_BYTES) as u32;
        Ok(taken)
    }

    /// Looks at what has come behind all that waits.
    pub(crate) fn foresee(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let begun = self.streams.newest_of_peer();
        let waiting = self
            .waiting
            .get_or_insert_with(|| Foresight::new(self.received.clone(), begun));
        let given_up = waiting.given_up(bytes, begun);
        if given_up > 0 {
            self.streams.foresee(given_up);
        }
        self.streams()
    }

    /// Whether anything waits that was looked at.
    pub(crate) fn foresees(&self) -> bool {
        self.waiting.is_some()
    }

    /// Nothing waits any more.
    pub(crate) fn caught_up(&mut self) {
        self.waiting = None;
    }

    fn streams(&self) -> Result<(), Flood> {
        match self.streams.is_spent() {
            true => Err(Flood(Spent::Streams)),
            false => Ok(()),
        }
    }

    fn receive_frame(&mut self, head: FrameHead) -> Result<(), Flood> {
        self.turn += 1;
        if head.kind == FrameKind::Data {
            self.data += head.length as usize;
        }
        let cost = self.cost(head);
        self.left = self.left.saturating_sub(cost);
        if self.left < 0 {
            return Err(Flood(Spent::Frames(head.kind)));
        }
        self.follow(By::Peer, head);
        self.streams()
    }

    /// What a frame of the peer costs. What it gives back is given.
    fn cost(&mut self, head: FrameHead) -> i32 {
        let idle = 1 + (head.length / IDLE_BYTES) as i32;
        match head.kind {
            FrameKind::Data if head.has(END_STREAM) => 0,
            FrameKind::Data if head.has(PADDED) => i32::from(head.length <= PADDING),
            FrameKind::Data if head.length == 0 => 1,
            FrameKind::Data => {
                self.gain(DATA_RECEIVED);
                0
            }
            FrameKind::Headers if self.streams.opens(By::Peer, head) => {
                self.gain(OPENED);
                0
            }
            FrameKind::Headers => LATE_HEADERS,
            // The stream pays.
            FrameKind::Reset if self.streams.is_open(head.stream) => 0,
            FrameKind::Reset => {
                self.turn += TURN_RESET;
                LATE_RESET
            }
            FrameKind::Settings if head.has(ACK) || head.length == 0 => SETTINGS,
            // It may change the initial window, which is then changed on each stream.
            FrameKind::Settings => SETTINGS + self.walk(),
            // h2 looks for streams that the peer hasn't seen.
            FrameKind::GoAway => idle + self.walk(),
            FrameKind::Ping => PING,
            FrameKind::WindowUpdate => 1,
            FrameKind::Priority | FrameKind::Continuation | FrameKind::Unknown => idle,
        }
    }

    /// Keeps count of the streams. Where the identity's have to wait, the turn ends.
    fn follow(&mut self, by: By, head: FrameHead) {
        let age = self.age().as_millis() as u32;
        self.turn += match self.streams.follow(by, head, age, self.now) {
            Event::Opened => TURN_NEW_STREAM,
            Event::Reset => TURN_RESET,
            Event::None => return,
        };
        if self.streams.must_wait() {
            self.turn = self.turn.max(TURN);
            self.paced = true;
        }
    }

    /// The cost of a frame for which h2 walks all streams.
    fn walk(&mut self) -> i32 {
        let open = u32::try_from(self.streams.open()).unwrap_or(u32::MAX);
        self.turn += open / TURN_STREAMS;
        i32::try_from(open).unwrap_or(i32::MAX / 2)
    }

    /// Counts what goes to the peer.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(head) = self.sent.next(&mut rest) else {
                return;
            };
            if head.kind == FrameKind::Data && head.length >= LEAST_DATA_SENT {
                self.gain(DATA_SENT);
            }
            if head.ends_stream() && head.kind != FrameKind::Reset {
                self.gain(ANSWERED);
            }
            // Its answer is no flood.
            if self.streams.opens(By::Us, head) {
                self.gain(LATE_HEADERS);
            }
            self.follow(By::Us, head);
        }
    }

    fn gain(&mut self, units: i32) {
        self.left = self.left.saturating_add(units).min(self.budget);
    }

    /// The GOAWAY for a peer that has spent its budget, if the last frame to it is whole.
    pub(crate) fn goaway(&self, flood: Flood) -> Option<Vec<u8>> {
        if !self.sent.is_between_frames() {
            return None;
        }
        let text: &[u8] = match flood.0 {
            Spent::Frames(_) => b"too many frames that do no work",
            Spent::Streams => b"too many streams that do no work",
        };
        let newest = self.streams.newest_of_peer();
        let mut frame = vec![0, 0, 8 + text.len() as u8, 7, 0, 0, 0, 0, 0];
        debug_assert_eq!(frame.len(), HEAD);
        frame.extend_from_slice(&newest.to_be_bytes());
        frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend_from_slice(text);
        Some(frame)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD + length, 0);
        bytes
    }

    fn started() -> FrameBudget {
        started_as(Side::Tunnels, &Allowance::new(10_000))
    }

    fn started_as(side: Side, allowance: &Arc<Allowance>) -> FrameBudget {
        let mut budget = FrameBudget::new(side, allowance.clone(), Instant::now());
        if side != Side::Client {
            assert_eq!(budget.receive(&[0; PREFACE]), Ok(PREFACE));
        }
        budget
    }

    /// Gives all of `bytes` in as many turns as it takes; how many.
    fn receive_all(budget: &mut FrameBudget, mut bytes: &[u8]) -> Result<usize, Flood> {
        let mut turns = 1;
        while !bytes.is_empty() {
            if budget.turn() != MayRead::Now {
                turns += 1;
            }
            let taken = budget.receive(bytes)?;
            assert!(taken > 0);
            bytes = &bytes[taken..];
        }
        Ok(turns)
    }

    /// How many of these frames a connection may send at once.
    fn allowed(budget: &mut FrameBudget, mut frame: impl FnMut(u32) -> Vec<u8>) -> (u32, Flood) {
        for n in 0.. {
            if let Err(flood) = receive_all(budget, &frame(n)) {
                return (n, flood);
            }
        }
        unreachable!()
    }

    #[test]
    fn each_kind_without_work_is_bounded_and_named() {
        for (kind, flags, length, most, label) in [
            (0, 0, 0, 10_000, "empty_data"),
            (0, PADDED, 100, 10_000, "empty_data"),
            (1, 4, 10, 5_000, "headers"),
            (2, 0, 5, 10_000, "priority"),
            (3, 0, 4, 1_251, "rst_stream"),
            (4, 0, 0, 1_250, "settings"),
            (4, ACK, 0, 1_250, "settings"),
            (6, 0, 8, 5_000, "ping"),
            (7, 0, 8, 5_000, "goaway"),
            (8, 0, 4, 10_000, "window_update"),
            (9, 0, 4, 10_000, "continuation"),
            (0xbe, 0, 4, 10_000, "unknown"),
            (0xbe, 0, 16_000, 10_000 / 16, "unknown"),
        ] {
            let mut budget = started();
            receive_all(&mut budget, &frame(1, 4, 1, 10)).unwrap();
            let (n, flood) = allowed(&mut budget, |_| frame(kind, flags, 1, length));
            assert_eq!((n, flood.label()), (most, label), "{kind}");
        }
    }

    #[test]
    fn a_walk_costs_as_many_as_the_streams_are() {
        let mut budget = started();
        for n in 0..900 {
            receive_all(&mut budget, &frame(1, 5, 2 * n + 1, 30)).unwrap();
        }
        let (n, flood) = allowed(&mut budget, |_| frame(4, 0, 0, 6));
        assert_eq!((n, flood.label()), (11, "settings"));
        // Those that were answered are no streams any more.
        let mut budget = started();
        for n in 0..900 {
            receive_all(&mut budget, &frame(1, 5, 2 * n + 1, 30)).unwrap();
            budget.send(&frame(1, 5, 2 * n + 1, 30));
        }
        let (n, _) = allowed(&mut budget, |_| frame(4, 0, 0, 6));
        assert_eq!(n, 1250);
    }

    #[test]
    fn time_gives_back_and_no_more_than_there_was() {
        let mut budget = started();
        let start = budget.began;
        receive_all(&mut budget, &frame(8, 0, 0, 4).repeat(10_000)).unwrap();
        // However often one looks.
        for us in (0..=2_000_000).step_by(700) {
            budget.tick(start + Duration::from_micros(us));
        }
        budget.tick(start + Duration::from_secs(2));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 2000);
        budget.tick(start + Duration::from_secs(3600));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 10_000 - 1, "what was overdrawn is still owed");
    }

    #[test]
    fn the_budget_is_a_setting() {
        let mut budget = started_as(Side::Tunnels, &Allowance::new(100));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 100);
        budget.tick(budget.began + Duration::from_secs(1));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 10 - 1);
    }

    #[test]
    fn small_messages_pay_for_their_window_updates_and_pings() {
        let mut budget = started();
        receive_all(&mut budget, &frame(1, 4, 1, 30)).unwrap();
        for _ in 0..100_000 {
            let updates = [frame(0, 0, 1, 12), frame(8, 0, 0, 4), frame(8, 0, 1, 4)];
            receive_all(&mut budget, &updates.concat()).unwrap();
            receive_all(&mut budget, &frame(6, 0, 0, 8)).unwrap();
            budget.send(&frame(0, 0, 1, 12));
        }
        assert!(budget.left > 9_000);
        // Windows of one byte don't.
        for n in 0.. {
            budget.send(&frame(0, 0, 1, 1));
            if let Err(flood) = receive_all(&mut budget, &frame(8, 0, 1, 4)) {
                assert_eq!((n, flood.label()), (10_000, "window_update"));
                break;
            }
        }
    }

    /// Opens streams, and then plays the frames of each: `true` is ours.
    fn streams(
        budget: &mut FrameBudget,
        numbers: std::ops::Range<u32>,
        flags: u8,
        frames: &[(bool, u8, u8, usize)],
    ) -> Result<(), Flood> {
        let ids = numbers.map(|n| 2 * n + 1);
        for id in ids.clone() {
            receive_all(budget, &frame(1, 4 | flags, id, 30))?;
        }
        for id in ids {
            for (ours, kind, flags, length) in frames {
                let frame = frame(*kind, *flags, id, *length);
                match ours {
                    true => budget.send(&frame),
                    false => drop(receive_all(budget, &frame)?),
                }
            }
        }
        Ok(())
    }

    const ANSWER: (bool, u8, u8, usize) = (true, 1, 4, 20);
    const RESET: (bool, u8, u8, usize) = (false, 3, 0, 4);

    /// Gives all of `bytes`; how often it had to wait.
    fn pauses(budget: &mut FrameBudget, mut bytes: &[u8]) -> u32 {
        let mut pauses = 0;
        while !bytes.is_empty() {
            let taken = budget.receive(bytes).unwrap();
            bytes = &bytes[taken..];
            pauses += u32::from(matches!(budget.turn(), MayRead::After(_)));
        }
        pauses
    }

    #[test]
    fn a_hundred_connections_of_one_identity_are_slowed_down_and_then_ended() {
        let allowance = Allowance::new(10_000);
        let mut all: Vec<_> = (0..100)
            .map(|_| started_as(Side::Tunnels, &allowance))
            .collect();
        // Before the first of them is reset.
        let mut waited = 0;
        for budget in &mut all {
            for n in 0..90 {
                waited += pauses(budget, &frame(1, 4, 2 * n + 1, 30));
            }
        }
        assert!((8_000..8_100).contains(&waited), "{waited}");
        for budget in &mut all {
            let rounds = (1..10).take_while(|round| {
                let numbers = 100 * round..100 * round + 90;
                streams(budget, numbers, 0, &[RESET]).is_ok()
            });
            assert_eq!(rounds.count(), 3);
        }
        // One that does work isn't.
        let mut honest = started_as(Side::Tunnels, &allowance);
        let frames = [ANSWER, (false, 0, 1, 80), (true, 0, 1, 80)];
        streams(&mut honest, 0..100, 0, &frames).unwrap();
        streams(&mut honest, 100..300, 0, &[RESET]).unwrap();
    }

    #[test]
    fn a_wait_makes_no_stream_old_and_gives_nothing_back() {
        let allowance = Allowance::new(10_000);
        let mut budget = started_as(Side::Tunnels, &allowance);
        let mut now = budget.began;
        let mut rounds = 0..10;
        let ended = rounds.find(|round| {
            allowance.add(-10_000);
            let ids = 100 * round..100 * round + 90;
            streams(&mut budget, ids.clone(), 0, &[]).unwrap();
            now += Duration::from_secs(5);
            budget.resume(now);
            budget.tick(now);
            allowance.add(-20_000);
            ids.into_iter()
                .any(|n| receive_all(&mut budget, &frame(3, 0, 2 * n + 1, 4)).is_err())
        });
        assert_eq!(ended, Some(3));
    }

    #[test]
    fn only_the_beginnings_and_resets_of_streams_are_paced() {
        let allowance = Allowance::new(10_000);
        let mut budget = started_as(Side::Tunnels, &allowance);
        streams(&mut budget, 0..4, 0, &[ANSWER]).unwrap();
        budget.rest();
        allowance.add(-20_000);
        assert_eq!(pauses(&mut budget, &frame(0, 0, 1, 80).repeat(1000)), 0);
        for event in [frame(1, 4, 9, 30), frame(3, 0, 7, 4)] {
            assert_eq!(pauses(&mut budget, &event), 1);
        }
    }

    #[test]
    fn a_server_is_bounded_too_and_not_for_what_we_do() {
        // Tunnels that it refuses, resets, or leaves unanswered: that many were opened by us.
        let mut budget = started_as(Side::Client, &Allowance::new(10_000));
        budget.send(&[0; PREFACE]);
        for n in 0..30_000 {
            let id = 2 * n + 1;
            budget.send(&frame(1, 4, id, 30));
            let ends = [frame(1, 5, id, 30), frame(3, 0, id, 4)];
            receive_all(&mut budget, &ends[n as usize % 2]).unwrap();
            if n % 2 == 0 {
                budget.send(&frame(3, 0, id, 4));
            }
            // The next of an honest tunnel: DATA both ways, and windows.
            let id = 60_001 + 2 * n;
            budget.send(&frame(1, 4, id, 30));
            receive_all(&mut budget, &frame(1, 4, id, 30)).unwrap();
            budget.send(&frame(0, 0, id, 12));
            let windows = [frame(8, 0, 0, 4), frame(8, 0, id, 4), frame(0, 1, id, 12)];
            receive_all(&mut budget, &windows.concat()).unwrap();
            budget.send(&frame(0, 1, id, 0));
        }
        for (kind, length, expected, label) in [
            (8, 4, 10_000, "window_update"),
            (6, 8, 5_000, "ping"),
            (4, 0, 1_250, "settings"),
            // Interim answers without end.
            (1, 20, 5_000, "headers"),
            (3, 4, 1_250, "rst_stream"),
        ] {
            let mut budget = started_as(Side::Client, &Allowance::new(10_000));
            let (n, flood) = allowed(&mut budget, |_| frame(kind, 4, 1, length));
            assert_eq!((n, flood.label()), (expected, label));
            let goaway = budget.goaway(flood);
            assert_eq!(goaway, None, "the preface isn't out");
            budget.send(&[0; PREFACE]);
            let goaway = budget.goaway(flood).unwrap();
            assert_eq!(goaway[9..13], [0; 4], "a server opens no streams");
        }
    }

    #[test]
    fn a_turn_ends_after_some_frames_streams_or_bytes() {
        let pings = frame(6, 0, 0, 8).repeat(1280);
        let mut budget = started();
        // The payload of the last one comes in a turn of its own.
        assert_eq!(receive_all(&mut budget, &pings), Ok(11));
        let streams: Vec<u8> = (0..64).flat_map(|n| frame(1, 5, 2 * n + 1, 30)).collect();
        budget.rest();
        assert_eq!(receive_all(&mut budget, &streams), Ok(17));
        budget.rest();
        let resets: Vec<u8> = (0..64).flat_map(|n| frame(3, 0, 2 * n + 1, 4)).collect();
        assert_eq!(receive_all(&mut budget, &resets), Ok(9));
        budget.rest();
        let data = frame(0, 0, 1, 64 * 1024);
        assert_eq!(budget.receive(&data), Ok(data.len()), "DATA is not cut");
        assert_eq!(budget.take_data(), data.len() - HEAD);
        assert_eq!(budget.take_data(), 0);
        assert_eq!(budget.turn(), MayRead::Now);
        budget.receive(&data).unwrap();
        assert_eq!(budget.turn(), MayRead::AfterOthers);
        assert_eq!(budget.turn(), MayRead::Now, "another one has begun");
        for _ in 0..4 {
            assert_eq!(budget.turn(), MayRead::Now);
            budget.receive(&[0]).unwrap();
            budget.read(1);
        }
        assert_eq!(budget.turn(), MayRead::AfterOthers, "many reads of a byte");
    }

    #[test]
    fn goaway_comes_between_frames_only() {
        let mut budget = started();
        receive_all(&mut budget, &frame(1, 5, 7, 30)).unwrap();
        let whole = frame(1, 4, 7, 30);
        budget.send(&whole[..20]);
        let flood = Flood(Spent::Streams);
        assert_eq!(budget.goaway(flood), None);
        budget.send(&whole[20..]);
        let goaway = budget.goaway(flood).unwrap();
        assert_eq!(goaway[3], 7);
        assert_eq!(goaway[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(goaway.len(), HEAD + usize::from(goaway[2]));
    }
}
