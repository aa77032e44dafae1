//! Bytes of an exchange as HTTP/1 connections carry them, for recorders that want to know.
//!
//! Of HTTP/2 nothing is counted here, and there are no values. A head's bytes are those of its header lines, as Envoy counts
//! them: without the first line and the empty one, and of heads that are received without the CR of each line.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderMap;

/// Both sides of one stream.
#[derive(Debug, Default)]
pub struct WireBytes {
    pub downstream: SideBytes,
    /// Of the last attempt.
    pub upstream: SideBytes,
}

/// Received and sent.
#[derive(Debug, Default)]
pub struct SideBytes {
    counted: AtomicBool,
    pub received: Count,
    pub received_headers: Count,
    pub sent: Count,
    pub sent_headers: Count,
}

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl SideBytes {
    /// From here on it is counted, from zero.
    pub fn begin(&self) {
        self.counted.store(true, Ordering::Relaxed);
        for count in [
            &self.received,
            &self.received_headers,
            &self.sent,
            &self.sent_headers,
        ] {
            count.set(0);
        }
    }

    /// What was counted is not this stream's alone.
    pub fn forget(&self) {
        self.counted.store(false, Ordering::Relaxed);
    }

    pub fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Relaxed)
    }

    /// A head of these headers came.
    pub fn receive_headers(&self, headers: &HeaderMap) {
        let lines = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + ": \n".len());
        self.received_headers.set(lines.sum::<usize>() as u64);
    }
}

/// Finds the header lines among bytes that begin with a head.
#[derive(Debug, Default)]
pub struct HeadScan {
    first_line_over: bool,
    over: bool,
    /// Of the line so far, without CR.
    line: u64,
}

impl HeadScan {
    /// How many of these bytes are header lines', at most `limit` bytes being looked at.
    pub fn pass(&mut self, slices: &[IoSlice<'_>], limit: usize) -> u64 {
        if self.over {
            return 0;
        }
        let mut counted = 0;
        for byte in slices.iter().flat_map(|slice| slice.iter()).take(limit) {
            match byte {
                b'\n' if !self.first_line_over => self.first_line_over = true,
                b'\n' if self.line == 0 => {
                    self.over = true;
                    return counted;
                }
                b'\n' => counted += self.line + 2,
                b'\r' => continue,
                _ => {
                    self.line += 1;
                    continue;
                }
            }
            self.line = 0;
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lines_are_found_however_the_head_is_cut() {
        let head = b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 9\r\n\r\nx: y\r\n\r\n";
        for cut in 0..head.len() {
            let (one, two) = head.split_at(cut);
            let mut scan = HeadScan::default();
            let whole = usize::MAX;
            let found =
                scan.pass(&[IoSlice::new(one)], whole) + scan.pass(&[IoSlice::new(two)], whole);
            assert_eq!(found, 6 + 19, "{cut}");
        }
        let mut scan = HeadScan::default();
        let slices = [IoSlice::new(&head[..20]), IoSlice::new(&head[20..])];
        assert_eq!(scan.pass(&slices, 23), 6);
        assert_eq!(scan.pass(&[IoSlice::new(&head[23..])], usize::MAX), 19);
    }
}
