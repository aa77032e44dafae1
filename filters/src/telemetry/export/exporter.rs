//! Brings spans or lines to a collector: batches, bounded in number, bytes and time, and one under way at a time.
//!
//! Whoever carries traffic puts them into a queue without a lock, and wakes nobody; the exporter looks there some times a
//! second, as long as somebody uses it. What doesn't fit is dropped and counted.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::metrics::Counter;

/// How often the queue is looked at.
const TICK: Duration = Duration::from_millis(200);

/// What may wait, and how much goes out at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A batch with so much is sent at the next look.
    pub(crate) due_items: usize,
    pub(crate) due_bytes: usize,
    /// No batch has more, but for its last item.
    pub(crate) batch_items: usize,
    pub(crate) batch_bytes: usize,
    /// How long the first of a batch waits.
    pub(crate) batch_time: Duration,
    pub(crate) queue_items: usize,
    pub(crate) queue_bytes: usize,
}

/// What is handed over.
pub(crate) trait Exported: Send + Sync + 'static {
    /// What they are called in the log.
    const NAME: &'static str;

    /// Bytes that it holds, about.
    fn size(&self) -> usize;
}

/// Where they are sent.
pub(crate) trait Collector<T>: fmt::Debug + Send + Sync {
    /// Sends a batch; the error says why it is lost.
    fn send<'a>(&'a self, items: &'a [T]) -> Sending<'a>;
}

pub(crate) type Sending<'a> = Pin<Box<dyn Future<Output = Result<Outcome, String>> + Send + 'a>>;

/// What a collector that answered says.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) rejected: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: Counter,
    pub(crate) rejected: Counter,
    pub(crate) failed: Counter,
    pub(crate) dropped: Counter,
}

/// What is wrong at present, for whoever asks.
pub(crate) type Trouble = Arc<Mutex<Option<String>>>;

/// The way to an exporter.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: mpsc::Sender<T>,
    bytes: Arc<AtomicUsize>,
    most_bytes: usize,
    dropped: Counter,
}

/// Works as long as there is a queue to it.
pub(crate) struct Exporter<T> {
    name: Arc<str>,
    limits: Limits,
    collector: Box<dyn Collector<T>>,
    items: mpsc::Receiver<T>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    bytes: Arc<AtomicUsize>,
    counts: Counts,
    batch: Batch<T>,
    failing: Option<String>,
    /// Those that were dropped before the last look, and whether some were since the one before.
    dropped: u64,
    dropping: bool,
    trouble: Trouble,
}

struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
    since: Option<Instant>,
}

impl<T> Default for Batch<T> {
    fn default() -> Batch<T> {
        Batch {
            items: Vec::new(),
            bytes: 0,
            since: None,
        }
    }
}

/// Who may ask an exporter to send at once, and what is wrong with it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) flush: mpsc::Sender<oneshot::Sender<()>>,
    pub(crate) trouble: Trouble,
}

/// A queue, its exporter, and what is kept of that.
pub(crate) fn exporter<T: Exported>(
    name: Arc<str>,
    limits: Limits,
    collector: Box<dyn Collector<T>>,
    counts: Counts,
) -> (Queue<T>, Exporter<T>, Handle) {
    let (items, received) = mpsc::channel(limits.queue_items);
    let (flush, flushes) = mpsc::channel(1);
    let bytes = Arc::new(AtomicUsize::new(0));
    let trouble = Trouble::default();
    let queue = Queue {
        items,
        bytes: bytes.clone(),
        most_bytes: limits.queue_bytes,
        dropped: counts.dropped.clone(),
    };
    let exporter = Exporter {
        name,
        limits,
        collector,
        items: received,
        flushes,
        bytes,
        dropped: counts.dropped.get(),
        counts,
        batch: Batch::default(),
        failing: None,
        dropping: false,
        trouble: trouble.clone(),
    };
    (queue, exporter, Handle { flush, trouble })
}

impl<T: Exported> Queue<T> {
    /// Hands one over, or drops it. Never waits.
    pub(crate) fn put(&self, item: T) {
        let size = item.size();
        let held = self.bytes.fetch_add(size, Ordering::Relaxed);
        if held + size > self.most_bytes || self.items.try_send(item).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.dropped.add(1);
        }
    }
}

impl<T: Exported> Exporter<T> {
    pub(crate) async fn run(mut self) {
        loop {
            let flush = tokio::select! {
                Some(done) = self.flushes.recv() => Some(done),
                () = tokio::time::sleep(TICK) => None,
            };
            let used = self.take().await;
            if flush.is_some() || !used || self.is_due() {
                self.send().await;
            }
            self.look_at_losses();
            if let Some(done) = flush {
                let _ = done.send(());
            }
            if !used {
                return;
            }
        }
    }

    /// Takes what waits, and sends what is a whole batch. Says whether more may come.
    async fn take(&mut self) -> bool {
        // As much as there was: those who go on sending don't keep it from its other work.
        for _ in 0..=self.limits.queue_items {
            match self.items.try_recv() {
                Ok(item) => {
                    let size = item.size();
                    self.bytes.fetch_sub(size, Ordering::Relaxed);
                    self.batch.push(item, size);
                    let Limits {
                        batch_items,
                        batch_bytes,
                        ..
                    } = self.limits;
                    if self.batch.has(batch_items, batch_bytes) {
                        self.send().await;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn is_due(&self) -> bool {
        let Limits {
            due_items,
            due_bytes,
            batch_time,
            ..
        } = self.limits;
        let late = |since: Instant| since.elapsed() >= batch_time;
        self.batch.has(due_items, due_bytes) || self.batch.since.is_some_and(late)
    }

    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.items.is_empty() {
            return;
        }
        let count = batch.items.len() as u64;
        let outcome = self.collector.send(&batch.items).await;
        match outcome {
            Ok(outcome) => {
                let rejected = outcome.rejected.min(count);
                self.counts.sent.add(count - rejected);
                self.counts.rejected.add(rejected);
                if self.failing.take().is_some() {
                    tracing::info!(collector = %self.name, "{} are sent again", T::NAME);
                }
            }
            Err(error) => {
                self.counts.failed.add(count);
                if self.failing.is_none() {
                    tracing::warn!(collector = %self.name, %error, "{} can't be sent; they are lost", T::NAME);
                }
                self.failing = Some(error);
            }
        }
        self.tell();
    }

    /// What doesn't fit is told of once, until all fits again.
    fn look_at_losses(&mut self) {
        let dropped = self.counts.dropped.get();
        let lost = dropped - std::mem::replace(&mut self.dropped, dropped);
        if (lost > 0) == self.dropping {
            return;
        }
        self.dropping = lost > 0;
        if self.dropping {
            tracing::warn!(collector = %self.name, lost, "{} are dropped: too many wait for it", T::NAME);
        }
        self.tell();
    }

    fn tell(&self) {
        let name = T::NAME;
        let failing = self.failing.as_ref();
        let failing = failing.map(|e| format!("{name} can't be sent and are lost: {e}"));
        let dropping = self
            .dropping
            .then(|| format!("{name} are dropped: too many wait for it"));
        let told: Vec<String> = failing.into_iter().chain(dropping).collect();
        let told = (!told.is_empty()).then(|| format!("{}: {}", self.name, told.join("; ")));
        *self.trouble.lock() = told;
    }
}

impl<T> Batch<T> {
    fn push(&mut self, item: T, size: usize) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += size;
        self.items.push(item);
    }

    fn has(&self, items: usize, bytes: usize) -> bool {
        !self.items.is_empty() && (self.items.len() >= items || self.bytes >= bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        due_items: 4,
        due_bytes: 1000,
        batch_items: 8,
        batch_bytes: 1000,
        batch_time: Duration::from_secs(5),
        queue_items: 64,
        queue_bytes: 6400,
    };

    struct Line;

    impl Exported for Line {
        const NAME: &'static str = "lines";

        fn size(&self) -> usize {
            100
        }
    }

    /// Keeps sizes of batches; takes `delay` for each.
    #[derive(Clone, Debug, Default)]
    struct Script {
        batches: Arc<Mutex<Vec<usize>>>,
        delay: Duration,
        fails: bool,
    }

    impl Collector<Line> for Script {
        fn send<'a>(&'a self, lines: &'a [Line]) -> Sending<'a> {
            Box::pin(async {
                tokio::time::sleep(self.delay).await;
                self.batches.lock().push(lines.len());
                match self.fails {
                    true => Err("away".into()),
                    false => Ok(Outcome { rejected: 0 }),
                }
            })
        }
    }

    fn started(script: &Script) -> (Queue<Line>, Counts, Handle) {
        let counts = Counts::default();
        let collector = Box::new(script.clone());
        let (queue, exporter, handle) = exporter("otel".into(), LIMITS, collector, counts.clone());
        tokio::spawn(exporter.run());
        (queue, counts, handle)
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_sent_when_it_is_full_or_due_or_old_or_the_last() {
        let script = Script::default();
        let (queue, counts, handle) = started(&script);
        (0..9).for_each(|_| queue.put(Line));
        tokio::time::sleep(TICK * 2).await;
        assert_eq!(*script.batches.lock(), [8]);
        (0..3).for_each(|_| queue.put(Line));
        tokio::time::sleep(TICK * 2).await;
        assert_eq!(*script.batches.lock(), [8, 4]);
        queue.put(Line);
        tokio::time::sleep(LIMITS.batch_time - TICK * 2).await;
        assert_eq!(script.batches.lock().len(), 2);
        tokio::time::sleep(TICK * 4).await;
        assert_eq!(*script.batches.lock(), [8, 4, 1]);
        queue.put(Line);
        let (done, flushed) = oneshot::channel();
        handle.flush.send(done).await.unwrap();
        flushed.await.unwrap();
        assert_eq!(*script.batches.lock(), [8, 4, 1, 1]);
        queue.put(Line);
        drop(queue);
        handle.flush.closed().await;
        assert_eq!(*script.batches.lock(), [8, 4, 1, 1, 1]);
        assert_eq!(counts.sent.get(), 15);
        assert_eq!(*handle.trouble.lock(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_collector_holds_nobody_up_and_what_is_too_much_is_dropped_and_told() {
        let script = Script {
            delay: Duration::from_secs(60),
            fails: true,
            ..Script::default()
        };
        let (queue, counts, handle) = started(&script);
        (0..LIMITS.queue_items + 5).for_each(|_| queue.put(Line));
        assert_eq!(counts.dropped.get(), 5);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(script.batches.lock().len(), 1);
        assert_eq!(counts.failed.get(), LIMITS.batch_items as u64);
        // One is under way, and makes room.
        (0..LIMITS.batch_items).for_each(|_| queue.put(Line));
        assert_eq!(counts.dropped.get(), 5);
        let told = handle.trouble.lock().clone().unwrap();
        assert_eq!(told, "otel: lines can't be sent and are lost: away");
        tokio::time::sleep(Duration::from_secs(60 * 20)).await;
        // Nothing is lost any more that way.
        let told = handle.trouble.lock().clone().unwrap();
        assert_eq!(told, "otel: lines can't be sent and are lost: away");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_told_until_all_fits() {
        let (queue, _, handle) = started(&Script::default());
        (0..LIMITS.queue_items + 1).for_each(|_| queue.put(Line));
        tokio::time::sleep(TICK).await;
        tokio::task::yield_now().await;
        let told = handle.trouble.lock().clone();
        assert_eq!(
            told.unwrap(),
            "otel: lines are dropped: too many wait for it"
        );
        tokio::time::sleep(TICK * 2).await;
        assert_eq!(*handle.trouble.lock(), None);
    }
}
