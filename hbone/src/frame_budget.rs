//! What a peer's HTTP/2 frames may cost: a share of each turn, and a budget for frames that do no work.
//!
//! h2 reads as long as there is something to read, and takes whatever is cheap for the peer and not for us: SETTINGS that
//! change the initial window walk all streams, a PING is answered, a WINDOW_UPDATE of one byte lets one byte go. So the
//! bytes below h2 are looked at, frame heads only, and two things are counted:
//!
//! - *The turn.* After [`TURN`] units, about 50 µs, the connection's task has to let others run. This bounds nothing in
//!   the long run; it makes a connection that is busy, for whatever reason, one of many.
//! - *The budget.* A frame that does no work costs at least one of [`BUDGET`] units. Work gives them back (DATA in either
//!   direction, streams that are opened and those that are answered to their end), and so does time, [`REFILL`] a second.
//!   What is spent more than that ends the connection with ENHANCE_YOUR_CALM.
//!
//! The numbers leave room for what clients do: two WINDOW_UPDATEs for each small message of a gRPC stream and a PING
//! beside it to measure the bandwidth, a thousand streams that are cancelled at once, PRIORITY of browsers. Envoy counts
//! each kind apart (`max_inbound_*`), with bounds of the same order.
//!
//! The number of streams is an estimate: a stream that we ended and the peer then resets is taken off twice. Each such
//! stream costs its reset.

use std::time::Instant;

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

/// Units that a connection begins with, and the most that it may have.
const BUDGET: i32 = 10_000;
/// Units a second.
const REFILL: f64 = 1000.0;

const RESET: i32 = 8;
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
const HEAD: usize = 9;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const GOAWAY_TEXT: &[u8] = b"too many frames that do no work";

/// A peer spent its budget. The kind of frame is that which spent the last of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many HTTP/2 frames that do no work, the last of them {}", self.label())]
pub struct Flood(FrameKind);

impl Flood {
    /// A short name for metric labels; the set is fixed.
    pub fn label(self) -> &'static str {
        match self.0 {
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

/// A frame's head (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHead {
    length: u32,
    kind: FrameKind,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    fn new(bytes: [u8; HEAD]) -> FrameHead {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = bytes;
        let kind = match kind {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::Reset,
            4 => FrameKind::Settings,
            6 => FrameKind::Ping,
            7 => FrameKind::GoAway,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Unknown,
        };
        FrameHead {
            length: u32::from_be_bytes([0, l2, l1, l0]),
            kind,
            flags,
            stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]),
        }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it ends a stream in the direction that it goes.
    fn ends_stream(self) -> bool {
        match self.kind {
            FrameKind::Data | FrameKind::Headers => self.has(END_STREAM),
            kind => kind == FrameKind::Reset,
        }
    }
}

/// Finds the heads of frames in a stream of bytes that comes in any portions.
#[derive(Debug)]
struct FrameHeads {
    /// Bytes to the next head.
    skip: usize,
    /// What has come of it: `partial[..have]`.
    partial: [u8; HEAD],
    have: usize,
}

impl FrameHeads {
    /// `skip` bytes come before the first head.
    fn new(skip: usize) -> FrameHeads {
        FrameHeads {
            skip,
            partial: [0; HEAD],
            have: 0,
        }
    }

    /// Takes from `bytes` up to the end of the next head; all of them if it has not come.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let rest = bytes.get(self.skip..).unwrap_or_default();
        self.skip = self.skip.saturating_sub(bytes.len());
        let head = match rest.first_chunk::<HEAD>() {
            Some(whole) if self.have == 0 => {
                *bytes = rest.get(HEAD..).unwrap_or_default();
                FrameHead::new(*whole)
            }
            _ => {
                let wanted = self.partial.get_mut(self.have..).unwrap_or_default();
                let n = wanted.len().min(rest.len());
                for (to, from) in wanted.iter_mut().zip(rest) {
                    *to = *from;
                }
                self.have += n;
                *bytes = rest.get(n..).unwrap_or_default();
                if self.have < HEAD {
                    return None;
                }
                self.have = 0;
                FrameHead::new(self.partial)
            }
        };
        self.skip = head.length as usize;
        Some(head)
    }

    /// Whether a whole number of frames has come.
    fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }
}

/// The share of one HTTP/2 connection, on the server's side.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    received: FrameHeads,
    sent: FrameHeads,
    /// Units left.
    left: i32,
    refilled: Instant,
    /// Units of this turn.
    turn: u32,
    /// The newest stream that the peer has opened.
    newest: u32,
    /// Streams that are open, more or less.
    open: u32,
    /// Bytes of DATA since somebody asked.
    data: usize,
}

impl FrameBudget {
    pub(crate) fn new(now: Instant) -> FrameBudget {
        FrameBudget {
            received: FrameHeads::new(PREFACE),
            sent: FrameHeads::new(0),
            left: BUDGET,
            refilled: now,
            turn: 0,
            newest: 0,
            open: 0,
            data: 0,
        }
    }

    /// Whether so much is spent that the time should be looked at: [`FrameBudget::refill`]. One turn never spends the
    /// rest.
    pub(crate) fn is_low(&self) -> bool {
        self.left < BUDGET / 2
    }

    pub(crate) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        self.gain((elapsed.as_secs_f64() * REFILL).min(f64::from(BUDGET)) as i32);
    }

    /// Whether the turn is over; the next one begins then.
    pub(crate) fn turn_is_over(&mut self) -> bool {
        let over = self.turn >= TURN;
        if over {
            self.turn = 0;
        }
        over
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

    fn receive_frame(&mut self, head: FrameHead) -> Result<(), Flood> {
        self.turn += 1;
        if head.kind == FrameKind::Data {
            self.data += head.length as usize;
        }
        let idle = 1 + (head.length / IDLE_BYTES) as i32;
        let cost = match head.kind {
            FrameKind::Data if head.has(END_STREAM) => 0,
            FrameKind::Data if head.has(PADDED) => i32::from(head.length <= PADDING),
            FrameKind::Data if head.length == 0 => 1,
            FrameKind::Data => {
                self.gain(DATA_RECEIVED);
                0
            }
            FrameKind::Headers if head.stream > self.newest => {
                self.newest = head.stream;
                self.open += 1;
                self.turn += TURN_NEW_STREAM;
                self.gain(OPENED);
                0
            }
            FrameKind::Headers => LATE_HEADERS,
            FrameKind::Reset => {
                self.open = self.open.saturating_sub(1);
                self.turn += TURN_RESET;
                RESET
            }
            FrameKind::Settings if head.has(ACK) || head.length == 0 => SETTINGS,
            // It may change the initial window, which is then changed on each stream.
            FrameKind::Settings => SETTINGS + self.walk(),
            // h2 looks for streams that the peer hasn't seen.
            FrameKind::GoAway => idle + self.walk(),
            FrameKind::Ping => PING,
            FrameKind::WindowUpdate => 1,
            FrameKind::Priority | FrameKind::Continuation | FrameKind::Unknown => idle,
        };
        self.left = self.left.saturating_sub(cost);
        if self.left < 0 {
            return Err(Flood(head.kind));
        }
        Ok(())
    }

    /// The cost of a frame for which h2 walks all streams.
    fn walk(&mut self) -> i32 {
        self.turn += self.open / TURN_STREAMS;
        i32::try_from(self.open).unwrap_or(BUDGET)
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
            if head.ends_stream() {
                self.open = self.open.saturating_sub(1);
                if head.kind != FrameKind::Reset {
                    self.gain(ANSWERED);
                }
            }
        }
    }

    fn gain(&mut self, units: i32) {
        self.left = self.left.saturating_add(units).min(BUDGET);
    }

    /// The GOAWAY for a peer that has spent its budget, if the last frame to it is whole.
    pub(crate) fn goaway(&self) -> Option<Vec<u8>> {
        if !self.sent.is_between_frames() {
            return None;
        }
        let length = 8 + GOAWAY_TEXT.len() as u8;
        let mut frame = vec![0, 0, length, 7, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.newest.to_be_bytes());
        frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend_from_slice(GOAWAY_TEXT);
        Some(frame)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD + length, 0);
        bytes
    }

    fn started() -> FrameBudget {
        let mut budget = FrameBudget::new(Instant::now());
        assert_eq!(budget.receive(&[0; PREFACE]), Ok(PREFACE));
        budget
    }

    /// Gives all of `bytes` in as many turns as it takes; how many.
    fn receive_all(budget: &mut FrameBudget, mut bytes: &[u8]) -> Result<usize, Flood> {
        let mut turns = 1;
        while !bytes.is_empty() {
            if budget.turn_is_over() {
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
    fn heads_are_found_however_the_bytes_come() {
        let frames = [frame(0, 1, 1, 300), frame(8, 0, 0, 4), frame(4, 0, 0, 0)].concat();
        let heads = |portion: usize| {
            let mut heads = FrameHeads::new(PREFACE);
            let mut found = Vec::new();
            for mut bytes in [&[0; PREFACE][..], &frames].concat().chunks(portion) {
                while !bytes.is_empty() {
                    found.extend(heads.next(&mut bytes));
                }
            }
            assert!(heads.is_between_frames(), "{portion}");
            found
        };
        let whole = heads(10_000);
        let lengths: Vec<_> = whole.iter().map(|head| (head.kind, head.length)).collect();
        let expected = [
            (FrameKind::Data, 300),
            (FrameKind::WindowUpdate, 4),
            (FrameKind::Settings, 0),
        ];
        assert_eq!(lengths, expected);
        for portion in 1..400 {
            assert_eq!(heads(portion), whole, "{portion}");
        }
    }

    #[test]
    fn each_kind_without_work_is_bounded_and_named() {
        for (kind, flags, length, most, label) in [
            (0, 0, 0, 10_000, "empty_data"),
            (0, PADDED, 100, 10_000, "empty_data"),
            (1, 4, 10, 5_000, "headers"),
            (2, 0, 5, 10_000, "priority"),
            (3, 0, 4, 1_250, "rst_stream"),
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
        let start = Instant::now();
        let mut budget = FrameBudget::new(start);
        receive_all(&mut budget, &[0; PREFACE]).unwrap();
        assert!(!budget.is_low());
        receive_all(&mut budget, &frame(8, 0, 0, 4).repeat(10_000)).unwrap();
        assert!(budget.is_low());
        budget.refill(start + Duration::from_secs(2));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 2000);
        budget.refill(start + Duration::from_secs(3600));
        let (n, _) = allowed(&mut budget, |_| frame(8, 0, 0, 4));
        assert_eq!(n, 10_000 - 1, "what was overdrawn is still owed");
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
        assert!(!budget.is_low());
        // Windows of one byte don't.
        for n in 0.. {
            budget.send(&frame(0, 0, 1, 1));
            if let Err(flood) = receive_all(&mut budget, &frame(8, 0, 1, 4)) {
                assert_eq!((n, flood.label()), (10_000, "window_update"));
                break;
            }
        }
    }

    #[test]
    fn a_thousand_streams_may_be_cancelled_at_once_but_not_forever() {
        let mut budget = started();
        let mut next = 0..;
        let mut thousand = |budget: &mut FrameBudget| {
            let streams: Vec<u32> = next.by_ref().take(1000).map(|n: u32| 2 * n + 1).collect();
            for stream in &streams {
                receive_all(budget, &frame(1, 5, *stream, 30))?;
            }
            for stream in &streams {
                receive_all(budget, &frame(3, 0, *stream, 4))?;
            }
            Ok::<(), Flood>(())
        };
        thousand(&mut budget).unwrap();
        assert_eq!(thousand(&mut budget), Err(Flood(FrameKind::Reset)));
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
        assert!(!budget.turn_is_over());
        budget.receive(&data).unwrap();
        assert!(budget.turn_is_over());
        assert!(!budget.turn_is_over(), "another one has begun");
        for _ in 0..4 {
            assert!(!budget.turn_is_over());
            budget.receive(&[0]).unwrap();
            budget.read(1);
        }
        assert!(budget.turn_is_over(), "many reads of a byte");
    }

    #[test]
    fn goaway_comes_between_frames_only() {
        let mut budget = started();
        receive_all(&mut budget, &frame(1, 5, 7, 30)).unwrap();
        let whole = frame(1, 4, 7, 30);
        budget.send(&whole[..20]);
        assert_eq!(budget.goaway(), None);
        budget.send(&whole[20..]);
        let goaway = budget.goaway().unwrap();
        assert_eq!(goaway[3], 7);
        assert_eq!(goaway[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(goaway.len(), HEAD + usize::from(goaway[2]));
    }
}
