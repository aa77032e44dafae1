//! Where the messages of an HTTP/1 request stream begin and end (RFC 9112 §6), told from its bytes.
//!
//! hyper reads the same bytes afterwards, and its reading is the one that counts: what follows a head or a
//! chunk that hyper refuses passes as it is, as hyper ends the connection there. So the steps of a chunked
//! body are hyper's, not more and not less forgiving, but for bare LFs in trailers: those are made what hyper
//! refuses. Bodies are skipped by their count.

use crate::downstream::http::head::bytes::{self as head, HeadLimits, Judgement, Rejection};

/// How far a request stream has been read.
pub(crate) struct Framing {
    state: State,
    limits: HeadLimits,
    marked: bool,
    heads: u64,
    /// What was read since this was last asked, by the number of the head that it belongs to; where that is wanted.
    counted: Option<Vec<(u64, u64)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At or in a head, of which nothing has passed yet.
    Head,
    /// In a body with so many bytes left.
    Length(u64),
    Chunked(Step, u64),
    /// Bytes without messages: after a switch of protocols, or after what hyper will refuse.
    Raw,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Size,
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer's line, or of the empty line that ends the body.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// Why [`Framing::advance`] stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All bytes were read and may pass.
    Done,
    /// A head begins there whose end hasn't come yet.
    Partial,
    /// A head begins there that is so long, and is to be replaced by this one.
    Rewritten(usize, Vec<u8>),
    /// A head begins there that no request may have.
    Refused(Rejection),
}

impl Framing {
    pub(crate) fn new(limits: HeadLimits) -> Framing {
        Framing {
            state: State::Head,
            limits,
            marked: false,
            heads: 0,
            counted: None,
        }
    }

    /// Whether an expectation was hidden from hyper since this was last asked.
    pub(crate) fn take_marked(&mut self) -> bool {
        std::mem::take(&mut self.marked)
    }

    /// How many heads have been read.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Counts bytes from here on.
    pub(crate) fn count(&mut self) {
        self.counted = Some(Vec::new());
    }

    /// The bytes that were read since this was last asked, and the number of the head that they are of, or follow.
    pub(crate) fn take_counted(&mut self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counted
            .iter_mut()
            .flat_map(|counted| counted.drain(..))
    }

    fn note(&mut self, bytes: usize) {
        if let Some(counted) = &mut self.counted {
            match counted.last_mut() {
                Some((head, count)) if *head == self.heads => *count += bytes as u64,
                _ => counted.push((self.heads, bytes as u64)),
            }
        }
    }

    /// Bytes of another protocol follow.
    pub(crate) fn set_raw(&mut self) {
        self.state = State::Raw;
    }

    /// Whether the next byte belongs to a body.
    pub(crate) fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(..))
    }

    /// Reads on: says how many bytes may pass, and why no more. A head is read when it is whole.
    pub(crate) fn advance(&mut self, bytes: &mut [u8]) -> (usize, Stop) {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let passed = match &mut self.state {
                State::Raw => rest.len(),
                State::Length(left) => skip(left, rest.len()),
                State::Chunked(..) => self.read_chunked(rest),
                State::Head => match rest {
                    // hyper takes empty lines before a request line.
                    [b'\n', ..] => 1,
                    [b'\r', b'\n', ..] => 2,
                    _ => match self.read_head(rest) {
                        Ok(length) => length,
                        Err(stop) => {
                            if let Stop::Rewritten(length, _) = &stop {
                                self.note(*length);
                            }
                            return (at, stop);
                        }
                    },
                },
            };
            at += passed;
            self.note(passed);
            if self.state == State::Length(0) {
                self.state = State::Head;
            }
        }
        (at, Stop::Done)
    }

    /// The length of the head that was read.
    fn read_head(&mut self, bytes: &mut [u8]) -> Result<usize, Stop> {
        let Some(head) = head::Head::parse(bytes) else {
            return Err(match self.limits.exceeded_by(bytes) {
                true => Stop::Refused(Rejection::TooLarge),
                false => Stop::Partial,
            });
        };
        let length = head.length;
        if length > self.limits.bytes {
            return Err(Stop::Refused(Rejection::TooLarge));
        }
        self.state = match head.judge() {
            Judgement::Rejected(rejection) => return Err(Stop::Refused(rejection)),
            Judgement::Unreadable => State::Raw,
            Judgement::Body(length) => State::Length(length),
            Judgement::Chunked => State::Chunked(Step::Start, 0),
        };
        self.heads += 1;
        let has_body = self.in_body() && self.state != State::Length(0);
        if self.limits.mark_expectations && has_body && head.expects() {
            head.mark_expectation(bytes);
            self.marked = true;
        }
        match head.with_escaped_target(bytes) {
            Some(head) => Err(Stop::Rewritten(length, head)),
            None => Ok(length),
        }
    }

    /// How many bytes were read.
    fn read_chunked(&mut self, bytes: &mut [u8]) -> usize {
        let State::Chunked(mut step, mut left) = self.state else {
            return 0;
        };
        let mut at = 0;
        self.state = loop {
            let Some(&byte) = bytes.get(at) else {
                break State::Chunked(step, left);
            };
            if step == Step::Data {
                at += skip(&mut left, bytes.len() - at);
                if left == 0 {
                    step = Step::DataCr;
                }
                continue;
            }
            if byte == b'\n' && matches!(step, Step::Line | Step::Trailer) {
                // To hyper it ends a trailer, and two of them the body: what follows would be dropped
                // unseen, where others read a request. A NUL makes it refuse the body.
                bytes[at] = 0;
            }
            at += 1;
            match next_step(step, byte, &mut left) {
                Some(Step::End) => break State::Head,
                Some(next) => step = next,
                None => break State::Raw,
            }
        };
        at
    }
}

/// Takes what there is of what is left.
fn skip(left: &mut u64, there: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(there);
    *left -= taken as u64;
    taken
}

/// `None`: hyper refuses the byte there.
fn next_step(step: Step, byte: u8, size: &mut u64) -> Option<Step> {
    Some(match (step, byte) {
        (Step::Start | Step::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = char::from(byte).to_digit(16)?;
            *size = size.checked_mul(16)?.checked_add(u64::from(digit))?;
            Step::Size
        }
        (Step::Size | Step::SizeSpace, b'\t' | b' ') => Step::SizeSpace,
        (Step::Size | Step::SizeSpace, b';') => Step::Extension,
        (Step::Size | Step::SizeSpace | Step::Extension, b'\r') => Step::SizeLf,
        (Step::Extension, b'\n') => return None,
        (Step::Extension, _) => Step::Extension,
        (Step::SizeLf, b'\n') if *size == 0 => Step::Line,
        (Step::SizeLf, b'\n') => Step::Data,
        (Step::DataCr, b'\r') => Step::DataLf,
        (Step::DataLf, b'\n') => Step::Start,
        (Step::Line, b'\r') => Step::EndLf,
        (Step::Trailer, b'\r') => Step::TrailerLf,
        (Step::Line | Step::Trailer, _) => Step::Trailer,
        (Step::TrailerLf, b'\n') => Step::Line,
        (Step::EndLf, b'\n') => Step::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HeadLimits {
        HeadLimits {
            bytes: 1024,
            headers: 10,
            mark_expectations: true,
        }
    }

    /// Reads the text in pieces of this many bytes, as the reader of a stream does.
    fn read(text: &str, piece: usize) -> (Vec<u8>, Option<Rejection>, Framing) {
        let mut framing = Framing::new(limits());
        let (mut passed, mut kept) = (Vec::new(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            kept.extend_from_slice(piece);
            loop {
                let (n, stop) = framing.advance(&mut kept);
                passed.extend(kept.drain(..n));
                match stop {
                    Stop::Done | Stop::Partial => break,
                    Stop::Refused(rejection) => return (passed, Some(rejection), framing),
                    Stop::Rewritten(length, head) => {
                        kept.drain(..length);
                        passed.extend(head);
                    }
                }
            }
        }
        passed.extend(kept);
        (passed, None, framing)
    }

    fn pieces(length: usize) -> impl Iterator<Item = usize> {
        [1, 2, 3, 7, 64].into_iter().chain([length])
    }

    #[test]
    fn only_heads_are_changed_whatever_a_body_looks_like() {
        let inner = "GET /?\" HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
        let chunk = format!("{:x}", inner.len());
        for before in [
            format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{inner}",
                inner.len()
            ),
            format!("POST / HTTP/1.1\ncontent-length:{}\n\n{inner}", inner.len()),
            format!(
                "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n{chunk}\r\n{inner}\r\n0\r\n\r\n"
            ),
            format!(
                "GET / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n{chunk} ;a=\"b\"\r\n{inner}\r\n1\r\nx\r\n0;\r\nt: 1\r\nGET /?\": HTTP/1.1\r\n\r\n"
            ),
            "GET / HTTP/1.1\r\n\r\n\r\n\n".to_owned(),
        ] {
            let text = format!("{before}{inner}a{before}");
            let after = inner.replace('"', "%22");
            for piece in pieces(text.len()) {
                let (passed, rejection, framing) = read(&text, piece);
                let passed: Vec<u8> = passed
                    .into_iter()
                    .map(|b| if b >= 0xfe { b'1' } else { b })
                    .collect();
                let passed = String::from_utf8_lossy(&passed).into_owned();
                assert_eq!(passed, format!("{before}{after}a{before}"), "{piece}");
                assert_eq!((rejection, framing.state), (None, State::Head), "{piece}");
                assert!(framing.marked);
            }
        }
    }

    #[test]
    fn a_length_beside_a_coding_is_refused() {
        for headers in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "content-length: x\r\ntransfer-encoding: gzip",
            "content-length:\r\nx: y\r\ntransfer-encoding:",
        ] {
            let first = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab";
            let text = format!("{first}POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n0\r\n\r\n");
            for piece in pieces(text.len()) {
                let (passed, rejection, _) = read(&text, piece);
                assert_eq!(rejection, Some(Rejection::TwoLengths), "{headers}");
                assert_eq!(passed, first.as_bytes());
            }
        }
    }

    #[test]
    fn what_hyper_refuses_passes_and_nothing_after_it_is_read() {
        let after = "GET /?\" HTTP/1.1\r\n\r\n";
        for before in [
            "POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n",
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\rx",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0;\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n",
        ] {
            let text = format!("{before}{after}");
            let (passed, rejection, framing) = read(&text, text.len());
            assert_eq!(String::from_utf8_lossy(&passed), text);
            assert_eq!((rejection, framing.state), (None, State::Raw), "{before}");
        }
    }

    #[test]
    fn a_large_head_is_refused_before_its_end() {
        let fits = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "b".repeat(1024 - 23));
        assert_eq!(fits.len(), 1024);
        let over = fits.replace("x: ", "x:  ");
        for piece in pieces(over.len()) {
            assert_eq!(read(&fits, piece).1, None);
            assert_eq!(read(&over, piece).1, Some(Rejection::TooLarge));
            let endless = format!("GET /{}", "a".repeat(2048));
            assert_eq!(read(&endless, piece).1, Some(Rejection::TooLarge));
            let many = format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(20));
            assert_eq!(read(&many, piece).1, Some(Rejection::TooLarge));
        }
    }

    #[test]
    fn a_coding_that_is_not_chunked_alone_is_refused() {
        for coding in [
            "gzip",
            "gzip, chunked",
            "chunked, x",
            "chunked\r\nTransfer-Encoding: chunked",
            "",
        ] {
            let text = format!("POST / HTTP/1.1\r\ntransfer-encoding: {coding}\r\n\r\n");
            assert_eq!(read(&text, 7).1, Some(Rejection::Coding), "{coding}");
        }
    }

    #[test]
    fn only_a_client_that_can_wait_is_marked() {
        for (text, marked) in [
            (
                "POST / HTTP/1.1\r\nExpect: 100-Continue\r\ncontent-length: 1\r\n\r\n",
                true,
            ),
            (
                "GET / HTTP/1.1\r\nexpect:100-continue \r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n",
                false,
            ),
            ("POST / HTTP/1.1\r\nexpect: 100-continue\r\n\r\n", false),
            (
                "POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nexpect: 100\r\ncontent-length: 1\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nunexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
                false,
            ),
        ] {
            let (passed, _, framing) = read(text, text.len());
            assert_eq!(framing.marked, marked, "{text}");
            assert_eq!(passed.contains(&0xff), marked, "{text}");
            let (passed, _, _) = read(&format!("{text}x"), text.len() + 1);
            assert_eq!(passed.contains(&0xfe), marked, "{text}");
        }
    }
}
