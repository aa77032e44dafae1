//! An HTTP/2 client that writes header fields as they are: libraries refuse to send what stories need.
//!
//! One request on a connection of its own, its fields as literals without Huffman's code. Of the answer's
//! header block only the status is read, which stands first.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hbone_stream::HboneStream;
use crate::wait::within;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Name and value, in bytes.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Answered {
        status: u16,
        body: Vec<u8>,
    },
    /// RST_STREAM, GOAWAY, or the connection's end.
    Ended,
}

/// A GET for `path` with these fields after the usual ones.
#[must_use]
pub fn get<'a>(path: &'a [u8], more: &[Field<'a>]) -> Vec<Field<'a>> {
    let usual: [Field<'a>; 4] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"web"),
    ];
    [&usual[..], more].concat()
}

/// A request without a body, as it goes over the wire.
#[must_use]
pub fn request(stream: u32, head: &[Field<'_>]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(head))
}

/// Sends a request in this tunnel and reads to its end. With trailers it has a body of two bytes.
pub async fn exchange(stream: HboneStream, head: &[Field<'_>], trailers: &[Field<'_>]) -> Reply {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let end = if trailers.is_empty() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block(head)));
    if !trailers.is_empty() {
        bytes.extend(frame(DATA, 0, 1, b"ab"));
        let block = block(trailers);
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    }
    within("an HTTP/2 exchange by hand", async move {
        let mut stream = stream;
        match stream.write_all(&bytes).await {
            Ok(()) => read(stream).await.unwrap_or(Reply::Ended),
            Err(_) => Reply::Ended,
        }
    })
    .await
}

async fn read(mut stream: HboneStream) -> std::io::Result<Reply> {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let ends = head[4] & END_STREAM != 0;
        let ours = head[8] == 1;
        match head[3] {
            HEADERS if ours && status == 0 => status = status_of(&payload),
            DATA if ours => body.extend(payload),
            RST_STREAM if ours && status == 0 => return Ok(Reply::Ended),
            GOAWAY if status == 0 => return Ok(Reply::Ended),
            _ => {}
        }
        if ours && ends && matches!(head[3], HEADERS | DATA) {
            return Ok(Reply::Answered { status, body });
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // Longer ones have another form of length.
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text);
        }
    }
    block
}

/// The `:status` with which a header block begins (RFC 7541: by its index, or a literal of that name).
fn status_of(block: &[u8]) -> u16 {
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    match block[0] {
        first if first & 0x80 != 0 => indexed[usize::from(first & 0x7f) - 8],
        0x48 | 0x08 | 0x18 => {
            let value = &block[2..2 + usize::from(block[1] & 0x7f)];
            let digits = if block[1] & 0x80 == 0 {
                value.to_vec()
            } else {
                huffman_digits(value)
            };
            String::from_utf8(digits).unwrap().parse().unwrap()
        }
        first => panic!("a header block that begins with {first:#x}"),
    }
}

/// Digits in Huffman's code: five bits for 0 to 2, six for the others.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut digits = Vec::new();
    let mut rest = &bits[..];
    while rest.len() >= 5 {
        let five = u8::from_str_radix(&rest[..5], 2).unwrap();
        let (digit, length) = match (five, rest.get(..6)) {
            (0..=2, _) => (five, 5),
            (_, Some(six)) => match u8::from_str_radix(six, 2).unwrap() {
                six @ 0x19..=0x1f => (six - 0x19 + 3, 6),
                _ => break,
            },
            _ => break,
        };
        digits.push(b'0' + digit);
        rest = &rest[length..];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_form() {
        assert_eq!(status_of(&[0x88]), 200);
        assert_eq!(status_of(&[0x8c]), 400);
        assert_eq!(status_of(b"\x48\x03403"), 403);
        // 2, 0, 1 and ones to the byte's end.
        assert_eq!(status_of(&[0x48, 0x82, 0x10, 0x03]), 201);
        // 4, 0, 3.
        assert_eq!(status_of(&[0x48, 0x83, 0x68, 0x0c, 0xff]), 403);
    }
}
