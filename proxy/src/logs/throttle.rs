//! How many lines of one kind the process's own log takes: peers can bring some of them about, and must not decide how much is
//! written.
//!
//! A kind is a place in the code. It may say [`BURST`] lines at once and then one each [`REFILL`]; what is
//! held back is counted, and told with the next line that gets through. DEBUG and TRACE are exempt: who turns them on wants all.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::logs::losses::{Loss, Losses};

/// Lines of one kind at once: as many as a configuration has that is refused throughout.
const BURST: u32 = 200;
/// Then one in this time.
const REFILL: Duration = Duration::from_secs(1);

/// Holds back what is too much.
pub(crate) struct Throttle {
    kinds: Mutex<HashMap<Identifier, Kind>>,
    losses: Losses,
}

/// What one kind may still say.
#[derive(Debug)]
struct Kind {
    left: u32,
    since: Instant,
    held: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is written, after so many that weren't.
    Passes(u64),
    Held,
}

impl Kind {
    fn new(now: Instant) -> Kind {
        Kind {
            left: BURST,
            since: now,
            held: 0,
        }
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.since).as_nanos() / REFILL.as_nanos();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(BURST);
            self.since += REFILL.saturating_mul(more);
        }
        if self.left == 0 {
            self.held += 1;
            return Verdict::Held;
        }
        self.left -= 1;
        Verdict::Passes(std::mem::take(&mut self.held))
    }
}

impl Throttle {
    pub(crate) fn new(losses: Losses) -> Throttle {
        Throttle {
            kinds: Mutex::default(),
            losses,
        }
    }

    fn judge(&self, kind: &'static Metadata<'static>, now: Instant) -> Verdict {
        let mut kinds = self.kinds.lock();
        let kind = kinds.entry(kind.callsite());
        kind.or_insert_with(|| Kind::new(now)).judge(now)
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let kind = event.metadata();
        if *kind.level() > Level::INFO || kind.target() == module_path!() {
            return true;
        }
        match self.judge(kind, Instant::now()) {
            Verdict::Held => {
                self.losses.add(Loss::Rate, 1);
                false
            }
            Verdict::Passes(held) => {
                if held > 0 {
                    tracing::warn!(
                        lines = held,
                        part = kind.target(),
                        line = kind.line().unwrap_or_default(),
                        "held back: too many lines like the next"
                    );
                }
                true
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_kind_says_much_at_once_and_little_for_long() {
        let start = Instant::now();
        let mut kind = Kind::new(start);
        for _ in 0..BURST {
            assert_eq!(kind.judge(start), Verdict::Passes(0));
        }
        for _ in 0..7 {
            assert_eq!(kind.judge(start), Verdict::Held);
        }
        assert_eq!(kind.judge(start + REFILL), Verdict::Passes(7));
        assert_eq!(kind.judge(start + REFILL), Verdict::Held);
        // After a long silence it is as at first, and not more.
        let later = start + REFILL * 10 * BURST;
        for n in 0..BURST {
            assert_eq!(kind.judge(later), Verdict::Passes(u64::from(n == 0)));
        }
        assert_eq!(kind.judge(later), Verdict::Held);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Lines;

        fn make_writer(&'a self) -> Lines {
            self.clone()
        }
    }

    #[test]
    fn one_kind_is_held_back_and_others_are_not() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_max_level(Level::DEBUG)
            .finish()
            .with(Throttle::new(Losses::default()));
        tracing::subscriber::with_default(log, || {
            for n in 0..BURST + 50 {
                tracing::warn!(n, "flooding");
                tracing::debug!(n, "wanted");
            }
            tracing::warn!("another");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        // A second may have passed meanwhile.
        let flooding = count("flooding");
        assert!(
            (BURST as usize..BURST as usize + 20).contains(&flooding),
            "{flooding}"
        );
        assert_eq!(count("wanted"), BURST as usize + 50);
        assert_eq!(count("another"), 1);
    }
}
