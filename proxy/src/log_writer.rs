//! Access log lines on their way to files: a buffer per worker, one writer thread, and no waiting.
//!
//! A line that finds its buffer full is dropped and counted (`waypoint_access_log_dropped_total`): a
//! slow disk or a blocked stdout never holds up a request. Lines of one worker keep their order.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use waypoint_filters::host::LogSink;
use waypoint_filters::metrics::Counter;

/// Buffers of a sink; workers beyond this number share.
const SHARDS: usize = 8;
/// Bytes that one buffer holds.
const SHARD_LIMIT: usize = 1 << 20;
/// What gathers before the writer is woken, and how long less than that may wait.
const GATHER: Duration = Duration::from_millis(10);

/// Where lines go that configuration sends to `/dev/stdout`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// To the process's standard output.
    #[default]
    AsConfigured,
    /// To this file, appended.
    File(PathBuf),
}

/// The writer thread, and the sinks that it empties.
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    thread: Thread,
    stdout: AccessLogTarget,
    dropped: Counter,
}

#[derive(Default)]
struct Shared {
    sinks: Mutex<HashMap<String, Weak<Sink>>>,
    awake: AtomicBool,
    stopped: AtomicBool,
}

struct Sink {
    shards: [Mutex<Vec<u8>>; SHARDS],
    shared: Arc<Shared>,
    thread: Thread,
    dropped: Counter,
    out: Mutex<Output>,
}

struct Output {
    path: String,
    /// `None` until the first line, and again after a failure.
    file: Option<Box<dyn Write + Send>>,
    retry_at: Option<Instant>,
}

impl LogWriter {
    /// Starts the thread. `dropped` counts lines that were not written.
    pub(crate) fn start(stdout: AccessLogTarget, dropped: Counter) -> io::Result<LogWriter> {
        let shared = Arc::new(Shared::default());
        let owned = shared.clone();
        let handle = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || run(&owned))?;
        Ok(LogWriter {
            shared,
            thread: handle.thread().clone(),
            stdout,
            dropped,
        })
    }

    /// The sink that writes to `path`; the same for the same path.
    pub(crate) fn sink(&self, path: &str) -> Arc<dyn LogSink> {
        let path = match (path, &self.stdout) {
            ("/dev/stdout", AccessLogTarget::File(file)) => file.to_string_lossy().into_owned(),
            (path, _) => path.to_owned(),
        };
        let mut sinks = self.shared.sinks.lock();
        if let Some(sink) = sinks.get(&path).and_then(Weak::upgrade) {
            return sink;
        }
        sinks.retain(|_, sink| sink.strong_count() > 0);
        let sink = Arc::new(Sink {
            shards: Default::default(),
            shared: self.shared.clone(),
            thread: self.thread.clone(),
            dropped: self.dropped.clone(),
            out: Mutex::new(Output {
                path: path.clone(),
                file: None,
                retry_at: None,
            }),
        });
        sinks.insert(path, Arc::downgrade(&sink));
        sink
    }

    /// Writes what the buffers hold.
    pub(crate) fn flush(&self) {
        empty(&self.shared);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl LogSink for Sink {
    fn write(&self, line: &[u8]) {
        {
            let shard = &self.shards[shard()];
            let mut buffer = shard.lock();
            if buffer.len() + line.len() > SHARD_LIMIT {
                self.dropped.add(1);
                return;
            }
            buffer.extend_from_slice(line);
        }
        if !self.shared.awake.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Sink {
    fn empty(&self) {
        let mut out = self.out.lock();
        for shard in &self.shards {
            let bytes = std::mem::take(&mut *shard.lock());
            if !bytes.is_empty() && out.write(&bytes).is_err() {
                let lines = bytes.iter().filter(|b| **b == b'\n').count();
                self.dropped.add(lines as u64);
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.empty();
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            if self.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(io::ErrorKind::NotFound.into());
            }
            match open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => return Err(self.failed(error)),
            }
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.write_all(bytes)
            .and_then(|()| file.flush())
            .map_err(|error| self.failed(error))
    }

    fn failed(&mut self, error: io::Error) -> io::Error {
        tracing::warn!(path = self.path, %error, "access log can't be written; lines are dropped");
        self.file = None;
        self.retry_at = Some(Instant::now() + Duration::from_secs(5));
        error
    }
}

fn open(path: &str) -> io::Result<Box<dyn Write + Send>> {
    Ok(match path {
        "/dev/stdout" => Box::new(io::stdout()),
        "/dev/stderr" => Box::new(io::stderr()),
        path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

/// The buffer of the current thread.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    }
    MINE.with(Cell::get)
}

fn run(shared: &Shared) {
    while !shared.stopped.load(Ordering::Acquire) {
        thread::park();
        thread::sleep(GATHER);
        // Lines that come from here on wake the thread again.
        shared.awake.store(false, Ordering::Release);
        empty(shared);
    }
}

fn empty(shared: &Shared) {
    let sinks: Vec<Arc<Sink>> = shared
        .sinks
        .lock()
        .values()
        .filter_map(Weak::upgrade)
        .collect();
    for sink in sinks {
        sink.empty();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_filters::metrics::MetricRegistry;

    use super::*;

    fn counter() -> Counter {
        MetricRegistry::default().counter("dropped", "dropped")
    }

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("waypoint-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn lines_reach_the_file_soon_and_in_order() {
        let path = folder("order").join("access.log");
        let _ = std::fs::remove_file(&path);
        let writer = LogWriter::start(AccessLogTarget::File(path.clone()), counter()).unwrap();
        let sink = writer.sink("/dev/stdout");
        for n in 0..100 {
            sink.write(format!("{n}\n").as_bytes());
        }
        let wanted: String = (0..100).map(|n| format!("{n}\n")).collect();
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_to_string(&path).unwrap_or_default() != wanted {
            assert!(Instant::now() < deadline, "nothing was written");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let dropped = counter();
        let path = folder("absent").join("no-such-folder/access.log");
        let writer = LogWriter::start(AccessLogTarget::AsConfigured, dropped.clone()).unwrap();
        let sink = writer.sink(&path.to_string_lossy());
        // While the writer has nothing it can write to, everything is dropped in the end.
        for _ in 0..100 {
            sink.write(&vec![b'\n'; 64 * 1024]);
        }
        writer.flush();
        assert!(dropped.get() > 0);
    }
}
