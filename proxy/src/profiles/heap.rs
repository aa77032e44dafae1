//! What allocated the heap, as jemalloc records it: of what was allocated since, and is in use, one sample in 512 KiB.
//!
//! It is built to record (`.cargo/config.toml`) and doesn't until it is told to. What it has recorded it writes as text into a
//! file; here that is the end of a pipe, so that no folder need be writable. Who reads the other end must not allocate: a
//! sample of that could want what the writer holds.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::SystemTime;

use parking_lot::Mutex;
use tikv_jemalloc_ctl::{Access, AsName, profiling};

use crate::profiles::error::ProfileError;
use crate::profiles::message::{Recorded, Seen};
use crate::profiles::symbols::Code;

/// Bytes that it takes to make one: the text, and symbols.
pub(super) const NEEDS: u64 = 32 << 20;
/// Of jemalloc's text, at most: some 10,000 places.
const LONGEST: usize = 16 << 20;

fn failed(error: tikv_jemalloc_ctl::Error) -> ProfileError {
    ProfileError::Failed(error.to_string())
}

/// Records from now on.
pub(super) fn begin() -> Result<SystemTime, ProfileError> {
    forget()?;
    Access::<bool>::write("prof.active\0".name(), true).map_err(failed)?;
    Ok(SystemTime::now())
}

/// Records no more, and forgets what was recorded.
pub(super) fn end() -> Result<(), ProfileError> {
    Access::<bool>::write("prof.active\0".name(), false).map_err(failed)?;
    forget()
}

fn forget() -> Result<(), ProfileError> {
    let interval = profiling::lg_prof_sample::read().map_err(failed)?;
    Access::<usize>::write("prof.reset\0".name(), interval).map_err(failed)
}

/// What was recorded.
pub(super) fn record(since: SystemTime, code: &mut Code) -> Result<Recorded, ProfileError> {
    let text = dump()?;
    let not_read = || ProfileError::Failed("jemalloc's profile can't be read".to_owned());
    let (interval, allocated) = parse(&text).ok_or_else(not_read)?;
    let seen = allocated.into_iter().map(|one| {
        let scale = one.scale(interval);
        Seen {
            values: vec![scaled(one.objects, scale), scaled(one.bytes, scale)],
            stack: allocating(one.stack, code),
            thread: None,
        }
    });
    Ok(Recorded {
        kinds: &[("inuse_objects", "count"), ("inuse_space", "bytes")],
        seen: seen.collect(),
        period: (
            "space",
            "bytes",
            i64::try_from(interval).unwrap_or(i64::MAX),
        ),
        began: since,
        lasted: since.elapsed().unwrap_or_default(),
        comment: "what was allocated while it was recorded, and was in use at the end".to_owned(),
    })
}

/// While it is there, what this thread allocates isn't sampled: it would be the largest.
struct Unseen(());

impl Unseen {
    fn new() -> Result<Unseen, ProfileError> {
        sample_this_thread(false)?;
        Ok(Unseen(()))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = sample_this_thread(true);
    }
}

fn sample_this_thread(on: bool) -> Result<(), ProfileError> {
    Access::<bool>::write("thread.prof.active\0".name(), on).map_err(failed)
}

/// jemalloc's own text.
fn dump() -> Result<String, ProfileError> {
    let _unseen = Unseen::new()?;
    let (reader, writer) = io::pipe()?;
    let path = path(writer.as_raw_fd());
    let mut room = vec![0; LONGEST];
    let (dumped, read) = thread::scope(|scope| {
        let room = &mut room;
        let reading = scope.spawn(move || fill(reader, room));
        let dumped = Access::<&'static str>::write("prof.dump\0".name(), path);
        // jemalloc has closed its own: now there is an end.
        drop(writer);
        (dumped, reading.join())
    });
    dumped.map_err(failed)?;
    let read = read.map_err(|_| ProfileError::Failed("its reader died".to_owned()))??;
    let text = room.get(..read).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Reads to the end, and closes. What there is no room for goes by, or the writer would wait for ever.
fn fill(mut reader: impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        match reader.read(room.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut rest = [0; 1024];
    let mut more = false;
    while reader.read(&mut rest)? > 0 {
        more = true;
    }
    match more {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(filled),
    }
}

/// Where an open file can be opened again. jemalloc's wrapper wants a text that stays: there are no more than descriptors.
fn path(descriptor: RawFd) -> &'static str {
    static PATHS: Mutex<BTreeMap<RawFd, &'static str>> = Mutex::new(BTreeMap::new());
    let mut paths = PATHS.lock();
    let path = paths.entry(descriptor);
    path.or_insert_with(|| format!("/proc/self/fd/{descriptor}\0").leak())
}

/// What is in use of what one place allocated, as it was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allocated {
    stack: Vec<u64>,
    objects: u64,
    bytes: u64,
}

impl Allocated {
    /// How many there are for each that was sampled: a byte in `interval` is, and with it the whole object.
    #[allow(clippy::cast_precision_loss)]
    fn scale(&self, interval: u64) -> f64 {
        if self.objects == 0 || interval == 0 {
            return 1.0;
        }
        let size = self.bytes as f64 / self.objects as f64;
        1.0 / (1.0 - (-size / interval as f64).exp())
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn scaled(number: u64, scale: f64) -> i64 {
    (number as f64 * scale).round() as i64
}

/// jemalloc's format `heap_v2`: a line of addresses, and one for all threads with what is in use.
fn parse(text: &str) -> Option<(u64, Vec<Allocated>)> {
    let mut lines = text.lines();
    let interval = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
    let mut allocated = Vec::new();
    let mut stack = None;
    for line in lines.take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
        if let Some(addresses) = line.strip_prefix('@') {
            let addresses = addresses.split_ascii_whitespace();
            let address = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
            stack = Some(addresses.map(address).collect::<Option<Vec<u64>>>()?);
        } else if let Some(counts) = line.trim_start().strip_prefix("t*:")
            && let Some(stack) = stack.take()
        {
            let (objects, rest) = counts.split_once(':')?;
            let bytes = rest.split_ascii_whitespace().next()?;
            allocated.push(Allocated {
                stack,
                objects: objects.trim().parse().ok()?,
                bytes: bytes.parse().ok()?,
            });
        }
    }
    Some((interval, allocated))
}

/// Parts of symbols of the allocator, and of the way to it.
const ALLOCATOR: [&str; 4] = ["_rjem_", "tikv_jemalloc", "__rust_alloc", "__rust_realloc"];
/// Frames of the allocator are no more than so many.
const DEEPEST: usize = 16;

/// The stack of who allocated: without the allocator.
fn allocating(stack: Vec<u64>, code: &mut Code) -> Vec<u64> {
    // Addresses are where callers go on, behind the call.
    let stack: Vec<u64> = stack
        .into_iter()
        .map(|address| address.saturating_sub(1))
        .collect();
    let mut of_allocator = |address: &u64| {
        let symbol = code.symbol(*address);
        symbol.is_some_and(|name| ALLOCATOR.iter().any(|part| name.contains(part)))
    };
    let mut innermost = stack.iter().take(DEEPEST);
    let last = innermost.rposition(&mut of_allocator);
    stack
        .into_iter()
        .skip(last.map_or(0, |last| last + 1))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "heap_v2/524288\n  t*: 3: 1048592 [0: 0]\n  t0: 3: 1048592 [0: 0]\n\
        @ 0x10 0x2f\n  t*: 1: 16 [0: 0]\n  t0: 1: 16 [0: 0]\n\
        @ 0x30\n  t*: 2: 1048576 [0: 0]\n\nMAPPED_LIBRARIES:\n@ 0x1\n  t*: 1: 1 [0: 0]\n";

    #[test]
    fn jemallocs_text_is_read() {
        let (interval, allocated) = parse(TEXT).unwrap();
        let one = |stack: &[u64], objects, bytes| Allocated {
            stack: stack.to_vec(),
            objects,
            bytes,
        };
        assert_eq!(interval, 524_288);
        assert_eq!(
            allocated,
            [one(&[0x10, 0x2f], 1, 16), one(&[0x30], 2, 1_048_576)]
        );
        // A small object stands for all that weren't met: one in 32768.
        let scale = allocated[0].scale(interval);
        assert_eq!(scaled(1, scale), 32_769);
        assert_eq!(scaled(2, allocated[1].scale(interval)), 3);
        for wrong in ["", "heap profile: 1", "heap_v2/x", "heap_v2/1\n@ 12"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_too_long_goes_by() {
        let mut room = [0; 8];
        let fits: &[u8] = b"12345678";
        assert_eq!(fill(fits, &mut room).unwrap(), 8);
        let mut long: &[u8] = &[b'x'; 5000];
        let error = fill(&mut long, &mut room).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(long.is_empty());
    }
}
