//! Recorders: what is written when a stream has ended (access logs, metrics; spans later).

use std::fmt;
use std::time::Instant;

use crate::stream::stream_info::{Capture, StreamInfo};

/// Writes a stream down. Called on the data path: it neither waits nor blocks.
pub trait Recorder: Send + Sync + 'static {
    /// What has to be captured of heads for this recorder.
    fn capture(&self) -> Capture {
        Capture::default()
    }

    /// A TCP stream was accepted.
    fn opened(&self, _stream: &StreamInfo) {}

    /// A TCP stream is still open; bytes are to be reported since the last call.
    fn progress(&self, _stream: &StreamInfo) {}

    /// The stream has ended: at the later of its body's end and its drop, exactly once.
    fn record(&self, stream: &StreamInfo, end: Instant);
}

impl fmt::Debug for dyn Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}
