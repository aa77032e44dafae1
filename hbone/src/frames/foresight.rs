//! What has come of a connection whose streams have to wait: of those that wait to begin, some are given up already.
//!
//! Where many connections of an identity wait, a stream that was reset at once would begin all the same, long before its
//! reset's turn, and be answered: the wait makes work of what was none. So the heads of what waits are looked at, too.

use crate::frames::frame_head::{FrameHead, FrameHeads, FrameKind};

/// The heads of what waits.
#[derive(Debug)]
pub(crate) struct Foresight {
    heads: FrameHeads,
    /// The newest stream that waits to begin.
    newest: u32,
}

impl Foresight {
    /// `heads` is how far the connection has been read, `begun` its newest stream.
    pub(crate) fn new(heads: FrameHeads, begun: u32) -> Foresight {
        Foresight {
            heads,
            newest: begun,
        }
    }

    /// How many streams are given up in what has come behind the rest, of those that haven't begun yet.
    pub(crate) fn given_up(&mut self, mut bytes: &[u8], begun: u32) -> i32 {
        let mut given_up = 0;
        while !bytes.is_empty() {
            let Some(FrameHead { kind, stream, .. }) = self.heads.next(&mut bytes) else {
                break;
            };
            match kind {
                FrameKind::Headers => self.newest = self.newest.max(stream),
                FrameKind::Reset if stream > begun && stream <= self.newest => given_up += 1,
                _ => {}
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_streams_that_wait_are_given_up_before_they_begin() {
        let frame = |kind: u8, stream: u32| {
            let mut frame = vec![0, 0, 4, kind, 0];
            frame.extend(stream.to_be_bytes());
            frame.extend([0; 4]);
            frame
        };
        let (opens, resets) = (|stream| frame(1, stream), |stream| frame(3, stream));
        let mut foresight = Foresight::new(FrameHeads::new(0), 5);
        // Of one that has begun, one that waits, one that nobody opened.
        let bytes = [opens(7), resets(5), resets(7), resets(9), opens(9)].concat();
        let given_up: i32 = bytes.chunks(10).map(|b| foresight.given_up(b, 5)).sum();
        assert_eq!(given_up, 1);
        // The second has begun meanwhile.
        let more = [opens(11), resets(9), resets(11)].concat();
        assert_eq!(foresight.given_up(&more, 9), 1);
    }
}
