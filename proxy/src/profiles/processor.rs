//! Where threads are while they run: they are interrupted so many times a second of what they use of the processor.
//!
//! The sampler's signal handler unwinds the thread that it interrupts by libgcc's tables. Since glibc 2.35 that takes no lock;
//! nor does the handler allocate. Its tables are 70 MB large whatever is in them, and are there twice for a moment when a
//! profile ends: hence [`NEEDS`], and hence few enough samples that there is little beside those.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use pprof::ProfilerGuardBuilder;

use crate::profiles::error::ProfileError;
use crate::profiles::message::{Recorded, Seen};
use crate::profiles::symbols::Code;

/// Bytes that it takes to make one.
pub(super) const NEEDS: u64 = 256 << 20;

/// In a second of one processor's time. Not 100: what happens every 10 ms would always be met, or never.
const HERTZ: u64 = 99;
/// In a profile, however many processors there are.
const MOST_SAMPLES: u64 = 6000;

/// Where stacks can't be unwound from: the kernel's page may say wrongly how, and who unwinds already is in the midst of it.
const NOT_HERE: [&str; 2] = ["linux-vdso", "libgcc_s"];

/// The sampler's own, by its symbol.
const HANDLER: &str = "perf_signal_handler";

/// Where the sampler may put what its tables have no room for: the system's, and what is writable in a waypoint's pod.
const FOLDERS: [&str; 3] = ["/etc/istio/proxy", "/var/lib/istio/data", "/dev/shm"];

/// Samples for so long.
pub(super) fn record(lasting: Duration, code: &mut Code) -> Result<Recorded, ProfileError> {
    have_folder()?;
    let processors = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let hertz = hertz(lasting, processors);
    let failed = |error: pprof::Error| ProfileError::Failed(error.to_string());
    let began = SystemTime::now();
    let sampler = ProfilerGuardBuilder::default()
        .frequency(i32::try_from(hertz).unwrap_or(1))
        .blocklist(&NOT_HERE)
        .build()
        .map_err(failed)?;
    thread::sleep(lasting);
    let lasted = began.elapsed().unwrap_or(lasting);
    let report = sampler.report().build_unresolved().map_err(failed)?;
    let period = 1_000_000_000 / i64::try_from(hertz).unwrap_or(1);
    let seen = report.data.iter().map(|(stack, count)| {
        let addresses = stack.frames.iter().map(|frame| frame.ip().addr() as u64);
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let name = stack.thread_name.get(..stack.thread_name_length);
        Seen {
            stack: interrupted(addresses.collect(), code),
            values: vec![count, count.saturating_mul(period)],
            thread: name.map(|name| String::from_utf8_lossy(name).into_owned()),
        }
    });
    Ok(Recorded {
        kinds: &[("samples", "count"), ("cpu", "nanoseconds")],
        seen: seen.collect(),
        period: ("cpu", "nanoseconds", period),
        began,
        lasted,
        comment: format!("{hertz} samples in a second of one processor's time"),
    })
}

fn hertz(lasting: Duration, processors: u64) -> u64 {
    let seconds = lasting.as_secs().max(1).saturating_mul(processors.max(1));
    (MOST_SAMPLES / seconds).clamp(1, HERTZ)
}

/// The stack of the thread when it was interrupted: without the handler, and the kernel's way to it.
fn interrupted(mut stack: Vec<u64>, code: &mut Code) -> Vec<u64> {
    let handler = stack.iter().position(|address| {
        code.symbol(address.saturating_sub(1))
            .is_some_and(|name| name == HANDLER)
    });
    if let Some(handler) = handler {
        stack.drain(..stack.len().min(handler + 2));
    }
    // The outermost was called by nobody.
    stack.retain(|address| *address > 0);
    // The others have called, and go on behind the call.
    for caller in stack.iter_mut().skip(1) {
        *caller = caller.saturating_sub(1);
    }
    stack
}

/// The sampler opens a file, which it needs for more samples than [`MOST_SAMPLES`].
fn have_folder() -> Result<(), ProfileError> {
    let is_writable = |folder: &Path| tempfile::tempfile_in(folder).is_ok();
    if is_writable(&tempfile::env::temp_dir()) {
        return Ok(());
    }
    let folder = FOLDERS
        .map(Path::new)
        .into_iter()
        .find(|folder| is_writable(folder));
    let folder = folder.ok_or(ProfileError::NoFolder)?;
    tempfile::env::override_temp_dir(folder).map_err(|_| ProfileError::NoFolder)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn there_are_few_enough_samples() {
        assert_eq!(hertz(Duration::from_secs(1), 2), 99);
        assert_eq!(hertz(Duration::from_secs(60), 2), 50);
        assert_eq!(hertz(Duration::from_secs(60), 400), 1);
        assert_eq!(hertz(Duration::ZERO, 0), 99);
    }

    #[test]
    fn callers_are_where_they_called() {
        let mut code = Code::default();
        assert_eq!(interrupted(vec![10, 20, 30, 0], &mut code), [10, 19, 29]);
        assert!(interrupted(Vec::new(), &mut code).is_empty());
    }
}
