//! The process's own log, as opposed to the access log.
//!
//! Nobody who says something waits for who reads it: lines go through a [`LogWriter`], so that a full pipe
//! costs lines, and a reader that has gone costs all of them, but neither costs more. A panic is a line, too: the
//! library's own hook would write it itself, and wait.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use waypoint_filters::host::LogSink;

use crate::logs::access_file::{AccessLogTarget, LogWriter};
use crate::logs::levels::LogLevels;
use crate::logs::losses::{Loss, Losses};
use crate::logs::throttle::Throttle;

/// What may pass until the last lines are written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log at work; clones are the same one.
#[derive(Clone)]
pub(crate) struct ProcessLog {
    pub(crate) levels: LogLevels,
    pub(crate) losses: Losses,
    writer: Arc<LogWriter>,
}

impl ProcessLog {
    /// Waits a little while until all is written, before the process ends.
    pub(crate) fn flush(&self) {
        self.writer.flush(LAST_LINES);
    }
}

/// Begins to log. `json`: an object per line, for whoever collects logs; `stdout`: not to stderr.
pub(crate) fn start(filter: EnvFilter, json: bool, stdout: bool) -> ProcessLog {
    let (path, terminal) = if stdout {
        ("/dev/stdout", io::stdout().is_terminal())
    } else {
        ("/dev/stderr", io::stderr().is_terminal())
    };
    let losses = Losses::default();
    let lost = losses.clone();
    let dropped = Arc::new(move |lines| lost.add(Loss::Unwritten, lines));
    // A log that can't be written has nobody to tell.
    let writer = LogWriter::new(AccessLogTarget::AsConfigured, dropped, |_, _| {});
    let lines = Lines(writer.sink(path));
    let initial = filter.clone();
    let throttle = Throttle::new(losses.clone());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(terminal);
    let levels = if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.finish().with(throttle).init();
        changeable(&initial, handle)
    } else {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.finish().with(throttle).init();
        changeable(&initial, handle)
    };
    std::panic::set_hook(Box::new(tell_panic));
    ProcessLog {
        levels,
        losses,
        writer: Arc::new(writer),
    }
}

fn changeable<S: 'static>(initial: &EnvFilter, handle: Handle<EnvFilter, S>) -> LogLevels {
    LogLevels::new(initial, move |filter| {
        handle.reload(filter).map_err(|error| error.to_string())
    })
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, reason) = (thread.name().unwrap_or("?"), panicked_with(panic.payload()));
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        thread,
        reason,
        place,
        backtrace = backtrace.map(tracing::field::display),
        "panic"
    );
}

/// What was said of a panic, if it was text.
pub(crate) fn panicked_with(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("?")
}

/// Takes a line at a time.
struct Lines(Arc<dyn LogSink>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&*self.0)
    }
}

struct Line<'a>(&'a dyn LogSink);

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
