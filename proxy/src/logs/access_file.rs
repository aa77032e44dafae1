//! Log lines on their way to files: a buffer per worker, a writer thread per file, and no waiting.
//!
//! A line that finds its buffer full is dropped and counted: a slow disk, a full pipe or a dead reader never
//! holds up who writes, nor the lines that go elsewhere. Lines of one worker keep their order.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use waypoint_filters::host::LogSink;

/// Buffers of a sink; workers beyond this number share.
const SHARDS: usize = 8;
/// Bytes that one buffer holds.
const SHARD_LIMIT: usize = 1 << 20;
/// A buffer that is written is used again, up to this size and where much of it was needed.
const KEPT: usize = 256 * 1024;
/// What gathers before the writer is woken, and how long less than that may wait.
const GATHER: Duration = Duration::from_millis(10);
/// A file that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// Where lines go that configuration sends to `/dev/stdout`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// To the process's standard output.
    #[default]
    AsConfigured,
    /// To this file, appended.
    File(PathBuf),
}

/// Told of the number of lines that were not written.
pub(crate) type Dropped = Arc<dyn Fn(u64) + Send + Sync>;
/// Told of a file that can't be written, on its writer's thread.
pub(crate) type Failed = fn(path: &str, error: &io::Error);

/// The sinks, each with its writer.
pub(crate) struct LogWriter {
    sinks: Mutex<HashMap<String, Arc<Sink>>>,
    stdout: AccessLogTarget,
    dropped: Dropped,
    failed: Failed,
}

struct Sink {
    buffers: Arc<Buffers>,
    /// `None`: there could be no thread, and everything is dropped.
    writer: Option<Thread>,
}

/// What a sink and its writer share.
struct Buffers {
    shards: [Mutex<Vec<u8>>; SHARDS],
    awake: AtomicBool,
    /// The writer has taken what it hasn't written yet.
    writing: AtomicBool,
    closed: AtomicBool,
    dropped: Dropped,
}

struct Output {
    path: String,
    failed: Failed,
    /// `None` until the first line, and again after a failure.
    file: Option<File>,
    retry_at: Option<Instant>,
}

impl LogWriter {
    /// `dropped` is told of lines that were not written, `failed` of the reason.
    pub(crate) fn new(stdout: AccessLogTarget, dropped: Dropped, failed: Failed) -> LogWriter {
        LogWriter {
            sinks: Mutex::default(),
            stdout,
            dropped,
            failed,
        }
    }

    /// The sink that writes to `path`; the same for the same path.
    pub(crate) fn sink(&self, path: &str) -> Arc<dyn LogSink> {
        let path = match (path, &self.stdout) {
            ("/dev/stdout", AccessLogTarget::File(file)) => file.to_string_lossy().into_owned(),
            (path, _) => path.to_owned(),
        };
        let mut sinks = self.sinks.lock();
        if let Some(sink) = sinks.get(&path) {
            return sink.clone();
        }
        // One that can't get on keeps its thread, for the case that its path comes again: it is the only one.
        sinks.retain(|_, sink| Arc::strong_count(sink) > 1 || !sink.buffers.is_empty());
        let sink = Arc::new(Sink::start(&path, self.dropped.clone(), self.failed));
        sinks.insert(path, sink.clone());
        sink
    }

    /// Waits until the buffers are written, for `limit` at most.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let sinks: Vec<Arc<Sink>> = self.sinks.lock().values().cloned().collect();
        for sink in sinks {
            sink.wake();
            while !sink.buffers.is_empty() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Sink {
    fn start(path: &str, dropped: Dropped, failed: Failed) -> Sink {
        let buffers = Arc::new(Buffers {
            shards: Default::default(),
            awake: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            dropped,
        });
        let mut output = Output {
            path: path.to_owned(),
            failed,
            file: None,
            retry_at: None,
        };
        let owned = buffers.clone();
        let started = thread::Builder::new()
            .name("log".into())
            .spawn(move || owned.write_to(&mut output));
        if let Err(error) = &started {
            failed(path, error);
        }
        Sink {
            buffers,
            writer: started.ok().map(|handle| handle.thread().clone()),
        }
    }

    fn wake(&self) {
        // Whoever comes after the writer has taken a buffer sees that it sleeps: there is the buffer's lock between them.
        if let Some(writer) = &self.writer
            && !self.buffers.awake.load(Ordering::Acquire)
            && !self.buffers.awake.swap(true, Ordering::AcqRel)
        {
            writer.unpark();
        }
    }
}

impl LogSink for Sink {
    fn write(&self, line: &[u8]) {
        {
            let shard = &self.buffers.shards[shard()];
            let mut buffer = shard.lock();
            if self.writer.is_none() || buffer.len() + line.len() > SHARD_LIMIT {
                (self.buffers.dropped)(1);
                return;
            }
            buffer.extend_from_slice(line);
        }
        self.wake();
    }
}

impl Drop for Sink {
    /// The writer ends when it has written the rest.
    fn drop(&mut self) {
        self.buffers.closed.store(true, Ordering::Release);
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
    }
}

impl Buffers {
    fn write_to(&self, output: &mut Output) {
        let mut spare = Vec::new();
        loop {
            thread::park();
            let closed = self.closed.load(Ordering::Acquire);
            thread::sleep(GATHER);
            // Lines that come from here on wake the thread again.
            self.awake.store(false, Ordering::Release);
            self.writing.store(true, Ordering::SeqCst);
            for shard in &self.shards {
                let mut bytes = {
                    let mut buffer = shard.lock();
                    if buffer.is_empty() {
                        continue;
                    }
                    std::mem::replace(&mut *buffer, std::mem::take(&mut spare))
                };
                if output.write(&bytes).is_err() {
                    let lines = bytes.iter().filter(|b| **b == b'\n').count();
                    (self.dropped)(lines as u64);
                }
                if bytes.capacity() <= KEPT.min(bytes.len().saturating_mul(4)) {
                    bytes.clear();
                    spare = bytes;
                }
            }
            self.writing.store(false, Ordering::SeqCst);
            if closed {
                return;
            }
        }
    }

    /// Whether all that came is written, or dropped. The buffers first: what the writer takes out of them it is writing.
    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().is_empty())
            && !self.writing.load(Ordering::SeqCst)
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
                Err(error) => return Err(self.fail(error)),
            }
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        write_all(file, bytes).map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        (self.failed)(&self.path, &error);
        self.file = None;
        self.retry_at = Some(Instant::now() + RETRY);
        error
    }
}

/// Somebody who shares a pipe with us may have made it non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(GATHER),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The standard streams as they are, without the locks that the library has for them: who writes there otherwise must
/// not wait for us.
fn open(path: &str) -> io::Result<File> {
    Ok(match path {
        "/dev/stdout" => io::stdout().as_fd().try_clone_to_owned()?.into(),
        "/dev/stderr" => io::stderr().as_fd().try_clone_to_owned()?.into(),
        path => OpenOptions::new().create(true).append(true).open(path)?,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::path::Path;
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn writer(stdout: AccessLogTarget) -> (LogWriter, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        let count: Dropped = Arc::new(move |lines| {
            counted.fetch_add(lines, Ordering::Relaxed);
        });
        (LogWriter::new(stdout, count, |_, _| {}), dropped)
    }

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("waypoint-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The thread that writes may have to wait for a core.
    fn until_holds(path: &Path, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::fs::read_to_string(path).unwrap_or_default() != wanted {
            assert!(Instant::now() < deadline, "nothing was written");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_reach_the_file_soon_and_in_order() {
        let path = folder("order").join("access.log");
        let _ = std::fs::remove_file(&path);
        let (writer, _) = writer(AccessLogTarget::File(path.clone()));
        let sink = writer.sink("/dev/stdout");
        for n in 0..100 {
            sink.write(format!("{n}\n").as_bytes());
        }
        let wanted: String = (0..100).map(|n| format!("{n}\n")).collect();
        until_holds(&path, &wanted);
    }

    #[test]
    fn a_file_that_cannot_be_opened_drops_and_counts() {
        let path = folder("absent").join("no-such-folder/access.log");
        let (writer, dropped) = writer(AccessLogTarget::AsConfigured);
        let sink = writer.sink(&path.to_string_lossy());
        sink.write(b"one\n");
        writer.flush(Duration::from_secs(5));
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_full_pipe_holds_up_neither_who_writes_nor_other_files_nor_the_end() {
        let folder = folder("pipe");
        let (mut reader, pipe) = io::pipe().unwrap();
        // The pipe by a name, as a container's stdout has one.
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        let other = folder.join("other.log");
        let _ = std::fs::remove_file(&other);
        let (writer, dropped) = writer(AccessLogTarget::AsConfigured);
        let (stuck, free) = (writer.sink(&name), writer.sink(&other.to_string_lossy()));
        let started = Instant::now();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..4096 {
            stuck.write(&line);
        }
        free.write(b"other\n");
        writer.flush(Duration::from_millis(300));
        assert!(started.elapsed() < Duration::from_secs(30), "held up");
        until_holds(&other, "other\n");
        let lost = dropped.load(Ordering::Relaxed);
        assert!((2048..4096).contains(&lost), "{lost} lines were lost");
        // A sink that is asked for again has the thread that it had.
        drop(stuck);
        assert!(Arc::strong_count(&writer.sink(&name)) >= 2);
        // When the reader goes on, so do the lines.
        thread::spawn(move || {
            let mut sum = Vec::new();
            let _ = reader.read_to_end(&mut sum);
        });
        writer.flush(Duration::from_secs(5));
        assert!(writer.sinks.lock()[&name].buffers.is_empty());
    }
}
