//! All exporters of one sort that are at work: they are started, flushed at the end, and asked what is wrong.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::telemetry::export::exporter::{Exported, Exporter, Handle};

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
pub(crate) struct Exporters {
    handles: Mutex<Vec<Handle>>,
    new: Mutex<Vec<Work>>,
    wake: Notify,
}

impl Exporters {
    /// Has an exporter run, as long as it is used.
    pub(crate) fn add<T: Exported>(&self, exporter: Exporter<T>, handle: Handle) {
        let mut handles = self.handles.lock();
        handles.retain(|handle| !handle.flush.is_closed());
        handles.push(handle);
        self.new.lock().push(Box::pin(exporter.run()));
        self.wake.notify_one();
    }

    /// Runs them all.
    pub(crate) async fn run(&self) {
        loop {
            for work in std::mem::take(&mut *self.new.lock()) {
                tokio::spawn(work);
            }
            self.wake.notified().await;
        }
    }

    /// Has all that was handed over sent, as far as `time` allows.
    pub(crate) async fn flush(&self, time: Duration) {
        let mut waiting = Vec::new();
        for handle in &*self.handles.lock() {
            let (done, flushed) = oneshot::channel();
            // One that has ended sent everything.
            if handle.flush.try_send(done).is_ok() {
                waiting.push(flushed);
            }
        }
        let flushing = async {
            for flushed in waiting {
                let _ = flushed.await;
            }
        };
        let _ = tokio::time::timeout(time, flushing).await;
    }

    /// What can't be sent at present, a line for each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let handles = self.handles.lock();
        let used = handles.iter().filter(|handle| !handle.flush.is_closed());
        used.filter_map(|handle| handle.trouble.lock().clone())
            .collect()
    }
}
