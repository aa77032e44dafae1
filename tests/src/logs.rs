//! The process's own log, for stories that are told of in it.
//!
//! All stories of one binary share it: ask for what only yours can have said, such as an address.

use std::fmt::{Debug, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::wait::until;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static RECORDING: LazyLock<()> =
    LazyLock::new(|| tracing::subscriber::set_global_default(Recorder).unwrap());

/// Keeps what is logged from now on, `LEVEL text field=value …` by line. To be called first.
pub fn record() {
    LazyLock::force(&RECORDING);
}

/// The lines that have all of these in them.
#[must_use]
pub fn lines(parts: &[&str]) -> Vec<String> {
    let all = LINES.lock();
    let matching = all
        .iter()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    matching.cloned().collect()
}

/// Waits for a line that has all of these in it.
pub async fn until_line(parts: &[&str]) -> String {
    until(&format!("a log line with {parts:?}"), async || {
        lines(parts).into_iter().next()
    })
    .await
}

struct Recorder;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("waypoint") && *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
