//! The heads of HTTP/2 frames in a stream of bytes (RFC 9113 §4.1): no payload is looked at, and none is kept.

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const PADDED: u8 = 0x8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
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
pub(crate) struct FrameHead {
    pub(crate) length: u32,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
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

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it ends a stream in the direction that it goes.
    pub(crate) fn ends_stream(self) -> bool {
        match self.kind {
            FrameKind::Data | FrameKind::Headers => self.has(END_STREAM),
            kind => kind == FrameKind::Reset,
        }
    }
}

/// Finds the heads of frames in a stream of bytes that comes in any portions.
#[derive(Clone, Debug)]
pub(crate) struct FrameHeads {
    /// Bytes to the next head.
    skip: usize,
    /// What has come of it: `partial[..have]`.
    partial: [u8; HEAD],
    have: usize,
}

impl FrameHeads {
    /// `skip` bytes come before the first head.
    pub(crate) fn new(skip: usize) -> FrameHeads {
        FrameHeads {
            skip,
            partial: [0; HEAD],
            have: 0,
        }
    }

    /// Takes from `bytes` up to the end of the next head; all of them if it has not come.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
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
    pub(crate) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: usize = 24;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD + length, 0);
        bytes
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
}
