//! Counts the bytes of an HTTP/1 connection's exchanges, where its recorders want to know.
//!
//! What is received belongs to the head before it. What is sent belongs to the answer whose turn it is; the end of an
//! answer leaves hyper after its body has ended, so its record waits until all was flushed. Answers of which two leave
//! together, as they may where the client doesn't read, have no value.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_filters::stream::stream_info::StreamInfo;
use waypoint_filters::stream::wire_bytes::HeadScan;

/// Of one connection.
#[derive(Default)]
pub(crate) struct WireCount(Mutex<State>);

#[derive(Default)]
struct State {
    /// Bytes of requests that haven't ended, the first of which has this number. As many as hyper has read ahead.
    received: VecDeque<u64>,
    first: u64,
    sent: u64,
    sent_headers: u64,
    scan: HeadScan,
    unrecorded: Vec<Unrecorded>,
    closed: bool,
}

/// A stream that has ended, but for bytes that wait to be sent.
pub(crate) struct Unrecorded {
    pub(crate) stream: Arc<StreamInfo>,
    pub(crate) manager: Arc<HttpConnectionManager>,
    pub(crate) end: Instant,
}

impl Unrecorded {
    fn record(self) {
        for recorder in &self.manager.recorders {
            recorder.record(&self.stream, self.end);
        }
    }
}

impl WireCount {
    /// The request of this number (from 1) begins: those before have ended.
    pub(crate) fn begin(&self, number: u64) {
        let mut state = self.0.lock();
        while state.first < number && !state.received.is_empty() {
            state.received.pop_front();
            state.first += 1;
        }
        state.first = state.first.max(number);
    }

    /// Bytes of a request came.
    pub(crate) fn receive(&self, number: u64, bytes: u64) {
        let mut state = self.0.lock();
        let Some(index) = number.checked_sub(state.first) else {
            return;
        };
        let index = index as usize;
        if state.received.len() <= index {
            state.received.resize(index + 1, 0);
        }
        if let Some(count) = state.received.get_mut(index) {
            *count += bytes;
        }
    }

    /// Of these, so many bytes were sent.
    pub(crate) fn send(&self, slices: &[IoSlice<'_>], written: usize) {
        let mut state = self.0.lock();
        state.sent += written as u64;
        let headers = state.scan.pass(slices, written);
        state.sent_headers += headers;
    }

    /// A head has gone before the answer's.
    pub(crate) fn another_head(&self) {
        self.0.lock().scan = HeadScan::default();
    }

    /// The exchange of this number has ended. It is recorded when its bytes are gone.
    pub(crate) fn end(&self, number: u64, unrecorded: Unrecorded) {
        {
            let mut state = self.0.lock();
            if let Some(wire) = unrecorded.stream.wire() {
                let index = number.checked_sub(state.first);
                let received = index.and_then(|index| state.received.get(index as usize));
                wire.downstream.received.set(received.copied().unwrap_or(0));
            }
            state.unrecorded.push(unrecorded);
            if !state.closed {
                return;
            }
        }
        self.flushed();
    }

    /// All that was to be sent is on its way, or lost.
    pub(crate) fn flushed(&self) {
        let unrecorded = {
            let mut state = self.0.lock();
            let unrecorded = std::mem::take(&mut state.unrecorded);
            if unrecorded.is_empty() {
                return;
            }
            let (sent, headers) = (state.sent, state.sent_headers);
            state.sent = 0;
            state.sent_headers = 0;
            state.scan = HeadScan::default();
            for one in &unrecorded {
                let Some(wire) = one.stream.wire() else {
                    continue;
                };
                wire.downstream.sent.set(sent);
                wire.downstream.sent_headers.set(headers);
                if unrecorded.len() > 1 {
                    wire.downstream.forget();
                }
            }
            unrecorded
        };
        unrecorded.into_iter().for_each(Unrecorded::record);
    }

    /// Nothing more is sent.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.flushed();
    }
}
