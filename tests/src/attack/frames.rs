//! HTTP/2 frames made by hand, and those that come back.

use tokio::io::{AsyncRead, AsyncReadExt};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// A type that nobody knows.
pub const UNKNOWN: u8 = 0xbe;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame with this payload.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// RST_STREAM with CANCEL.
#[must_use]
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// WINDOW_UPDATE by one byte.
#[must_use]
pub fn window_update(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes())
}

/// SETTINGS with INITIAL_WINDOW_SIZE.
#[must_use]
pub fn initial_window(size: u32) -> Vec<u8> {
    let mut payload = 4u16.to_be_bytes().to_vec();
    payload.extend_from_slice(&size.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// A literal header without indexing, without Huffman.
#[must_use]
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

/// A header block.
#[must_use]
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let literals = headers.iter().map(|(name, value)| literal(name, value));
    literals.flatten().collect()
}

/// Reads until the other side ends, or nothing more can be read; the code of its last GOAWAY.
pub async fn last_goaway(mut from: impl AsyncRead + Unpin) -> Option<u32> {
    let mut code = None;
    let mut head = [0; 9];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if from.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == GOAWAY
            && let Some(bytes) = payload.get(4..8)
        {
            code = Some(u32::from_be_bytes(bytes.try_into().unwrap()));
        }
    }
    code
}
