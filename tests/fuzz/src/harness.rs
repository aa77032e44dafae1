//! The loop: an input of the corpus, or one that was mutated before, is mutated and read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::mutation::mutate;

/// One input takes no longer, on a machine that does other things besides.
const TIME: Duration = Duration::from_secs(5);
/// The process doesn't grow by more, whatever is read.
const MEMORY: usize = 512 * 1024 * 1024;
/// How many inputs are kept to be mutated again, besides the corpus.
const KEPT: usize = 256;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap())
}

/// Reads all inputs of the corpus as they are, and mutations of them for as long as is asked for. Whether an input was well
/// formed is what `read` returns: such are kept.
pub(crate) fn fuzz(target: &str, corpus: &[Vec<u8>], mut read: impl FnMut(&[u8]) -> bool) {
    assert!(!corpus.is_empty(), "{target} has no corpus");
    let seed = setting("WAYPOINT_SEED").unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let seconds = setting("WAYPOINT_FUZZ_SECONDS").unwrap_or(1);
    let mut rng = Rng::with_seed(seed);
    let memory = resident();
    let mut once = |input: &[u8]| {
        let begun = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| read(input)));
        let fault = match read {
            Err(_) => "a panic",
            Ok(_) if begun.elapsed() > TIME => "too slow",
            Ok(_) if resident() > memory + MEMORY => "too large",
            Ok(good) => return good,
        };
        let file = kept(target, input);
        panic!("{target}: {fault} (WAYPOINT_SEED={seed}), see {file}");
    };
    let good = corpus.iter().filter(|input| once(input)).count();
    assert!(good > 0, "{target}: nothing of its corpus is well formed");
    let mut pool: Vec<Vec<u8>> = corpus.to_vec();
    let (begun, mut count, mut good) = (Instant::now(), 0_u64, 0_u64);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut input = pool[rng.usize(..pool.len())].clone();
        let other = pool[rng.usize(..pool.len())].clone();
        mutate(&mut rng, &mut input, &other);
        count += 1;
        if once(&input) {
            good += 1;
            match pool.len() < corpus.len() + KEPT {
                true => pool.push(input),
                false => pool[corpus.len() + rng.usize(..KEPT)] = input,
            }
        }
    }
    eprintln!("{target}: {count} inputs, {good} of them well formed, WAYPOINT_SEED={seed}");
}

/// Writes an input down.
fn kept(target: &str, input: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
    let file = folder.join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(&file, input).unwrap();
    file.display().to_string()
}

/// The process's resident memory in bytes; 0 where nobody tells.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize) * 4096
}
