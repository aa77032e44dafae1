//! The streams of a connection that are open, and what each of them is good for.
//!
//! A stream is judged once: as soon as it has done work, or when it ends without. It has done work when something went
//! both ways, or, where streams are requests, when it was answered to its end. Not each one that ends without is an
//! attack: ports are probed, connections are made ahead of their use, requests take too long and are given up. So there
//! are grades, and whatever lasted for a second is let be: only so many can, at a time.

use crate::frames::frame_head::{END_STREAM, FrameHead, FrameKind, PADDED};

/// Streams beyond these aren't followed. As many are open only where configuration allows it; others are refused.
const MOST: usize = 16 * 1024;
/// A stream that was open for so many milliseconds is no churn.
const LONG: u32 = 1000;
/// DATA with padding may be nothing but padding if it isn't longer.
const PADDING: u32 = 256;

/// What a stream was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// It did work.
    Work,
    /// It ended as streams do.
    Fair,
    /// It was refused with an answer.
    Refused,
    /// It ended in good order, and nothing had gone through it.
    Empty,
    /// It was given up by the peer at once, or was none that could be answered.
    Nothing,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Peer,
    Us,
}

#[derive(Debug)]
struct OpenStream {
    id: u32,
    /// Milliseconds on the connection's clock.
    opened: u32,
    came: bool,
    went: bool,
    answered: bool,
    refused: bool,
    worked: bool,
    peer_ended: bool,
    we_ended: bool,
}

impl OpenStream {
    fn note(&mut self, by: By, head: FrameHead) {
        let ended = head.has(END_STREAM);
        let carries = head.kind == FrameKind::Data
            && head.length > 0
            && (!head.has(PADDED) || head.length > PADDING);
        match by {
            By::Peer => {
                self.came |= carries;
                self.peer_ended |= ended;
            }
            By::Us => {
                self.went |= carries;
                self.we_ended |= ended;
                self.refused |= ended && head.kind == FrameKind::Headers && !self.answered;
                self.answered |= head.kind == FrameKind::Headers;
            }
        }
    }

    /// What it was good for, now that it is over and did no work.
    fn worth(&self, reset: Option<By>, now: u32) -> Worth {
        if self.went || now.saturating_sub(self.opened) >= LONG {
            return Worth::Fair;
        }
        match reset {
            Some(By::Peer) => Worth::Nothing,
            Some(By::Us) if !self.answered => Worth::Nothing,
            _ if self.came => Worth::Fair,
            _ if self.refused => Worth::Refused,
            _ => Worth::Empty,
        }
    }
}

/// Those that are open, the oldest first.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    open: Vec<OpenStream>,
    /// Whether an answer alone is work.
    requests: bool,
}

impl OpenStreams {
    pub(crate) fn new(requests: bool) -> OpenStreams {
        OpenStreams {
            open: Vec::new(),
            requests,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.find(id).is_some()
    }

    /// One more, newer than all others. Whether it is followed.
    pub(crate) fn open(&mut self, by: By, head: FrameHead, now: u32) -> bool {
        if self.open.len() >= MOST {
            return false;
        }
        let ended = head.has(END_STREAM);
        self.open.push(OpenStream {
            id: head.stream,
            opened: now,
            came: false,
            went: false,
            answered: false,
            refused: false,
            worked: false,
            peer_ended: ended && by == By::Peer,
            we_ended: ended && by == By::Us,
        });
        true
    }

    /// A further frame of a stream, or the one that resets it. What the stream is good for, if that is known now.
    pub(crate) fn frame(&mut self, by: By, head: FrameHead, now: u32) -> Option<Worth> {
        let place = self.find(head.stream)?;
        let stream = self.open.get_mut(place)?;
        let reset = (head.kind == FrameKind::Reset).then_some(by);
        if reset.is_none() {
            stream.note(by, head);
        }
        let over = reset.is_some() || (stream.peer_ended && stream.we_ended);
        let worth = if stream.worked {
            None
        } else if (stream.came && stream.went) || (self.requests && stream.we_ended) {
            stream.worked = true;
            Some(Worth::Work)
        } else {
            over.then(|| stream.worth(reset, now))
        };
        if over {
            self.open.remove(place);
        }
        worth
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.open.binary_search_by_key(&id, |open| open.id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::By::{Peer, Us};
    use super::*;

    const END: u8 = END_STREAM;

    fn head(kind: FrameKind, flags: u8, length: u32) -> FrameHead {
        FrameHead {
            length,
            kind,
            flags,
            stream: 1,
        }
    }

    const fn headers(flags: u8) -> (FrameKind, u8, u32) {
        (FrameKind::Headers, flags, 20)
    }

    const fn data(flags: u8, length: u32) -> (FrameKind, u8, u32) {
        (FrameKind::Data, flags, length)
    }

    const RESET: (FrameKind, u8, u32) = (FrameKind::Reset, 0, 4);

    /// Opens a stream with these flags, and lets the frames go, a millisecond after the other. What is said of it.
    fn told(requests: bool, flags: u8, frames: &[(By, (FrameKind, u8, u32))]) -> Vec<Worth> {
        played(requests, flags, frames, 1)
    }

    fn played(
        requests: bool,
        flags: u8,
        frames: &[(By, (FrameKind, u8, u32))],
        step: u32,
    ) -> Vec<Worth> {
        let mut streams = OpenStreams::new(requests);
        assert!(streams.open(Peer, head(FrameKind::Headers, flags, 20), 0));
        let mut now = 0;
        let mut told = Vec::new();
        for (by, (kind, flags, length)) in frames {
            now += step;
            told.extend(streams.frame(*by, head(*kind, *flags, *length), now));
        }
        assert_eq!(streams.len(), 0, "{frames:?}");
        told
    }

    #[test]
    fn what_went_both_ways_was_work_however_it_ends() {
        let begin = [(Us, headers(0)), (Peer, data(0, 5)), (Us, data(0, 1))];
        let ends: [&[_]; 4] = [
            &[(Peer, data(END, 0)), (Us, data(END, 0))],
            &[(Us, data(END, 9)), (Peer, headers(END))],
            &[(Peer, RESET)],
            &[(Us, RESET)],
        ];
        for end in ends {
            for requests in [false, true] {
                assert_eq!(
                    told(requests, 0, &[&begin, end].concat()),
                    [Worth::Work],
                    "{end:?}"
                );
            }
        }
        // The last frame may be the one that makes it so.
        let last = [(Us, headers(0)), (Peer, data(END, 5)), (Us, data(END, 1))];
        assert_eq!(told(false, 0, &last), [Worth::Work]);
    }

    #[test]
    fn an_answer_is_work_for_a_request_and_none_for_a_tunnel() {
        let answers: [(&[_], _); 3] = [
            (&[(Us, headers(END))], Worth::Refused),
            (&[(Us, headers(0)), (Us, data(END, 0))], Worth::Empty),
            (&[(Us, headers(0)), (Us, data(END, 9))], Worth::Fair),
        ];
        for (answer, tunnel) in answers {
            assert_eq!(told(true, END, answer), [Worth::Work], "{answer:?}");
            assert_eq!(told(false, END, answer), [tunnel], "{answer:?}");
        }
        // And for one whose body isn't waited for.
        let early = [(Us, headers(END)), (Us, RESET)];
        assert_eq!(told(true, 0, &early), [Worth::Work]);
    }

    #[test]
    fn a_reset_is_fair_late_or_after_part_of_an_answer_and_else_worth_nothing() {
        for requests in [false, true] {
            let told = |frames: &[_]| told(requests, 0, frames);
            assert_eq!(told(&[(Peer, RESET)]), [Worth::Nothing]);
            let accepted = [(Us, headers(0)), (Peer, RESET)];
            assert_eq!(told(&accepted), [Worth::Nothing]);
            assert_eq!(told(&[(Peer, data(0, 9)), (Peer, RESET)]), [Worth::Nothing]);
            let part = [(Us, headers(0)), (Us, data(0, 9)), (Peer, RESET)];
            assert_eq!(told(&part), [Worth::Fair]);
            assert_eq!(
                played(requests, 0, &[(Peer, RESET)], LONG),
                [Worth::Fair],
                "a request that took too long"
            );
        }
    }

    #[test]
    fn what_we_end_is_not_held_against_the_peer_unless_it_was_none() {
        assert_eq!(told(false, 0, &[(Us, RESET)]), [Worth::Nothing]);
        let failed = [(Us, headers(0)), (Us, RESET)];
        assert_eq!(told(false, 0, &failed), [Worth::Empty]);
        let failed = [(Peer, data(0, 9)), (Us, headers(0)), (Us, RESET)];
        assert_eq!(told(false, 0, &failed), [Worth::Fair]);
    }

    #[test]
    fn empty_frames_and_padding_are_nothing_that_goes() {
        let frames = [
            (Us, headers(0)),
            (Peer, data(0, 0)),
            (Peer, data(PADDED, PADDING)),
            (Us, data(0, 9)),
            (Us, data(END, 0)),
            (Peer, data(END, 0)),
        ];
        assert_eq!(told(false, 0, &frames), [Worth::Fair]);
    }

    #[test]
    fn there_is_a_bound() {
        let mut streams = OpenStreams::new(false);
        let opened = (0..MOST as u32 + 10).filter(|n| {
            let mut head = head(FrameKind::Headers, 0, 20);
            head.stream = 2 * n + 1;
            streams.open(Peer, head, 0)
        });
        assert_eq!(opened.count(), MOST);
        assert_eq!(streams.len(), MOST);
        assert!(streams.contains(1) && !streams.contains(2 * MOST as u32 + 1));
    }
}
