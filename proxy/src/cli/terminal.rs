//! What a terminal makes possible: colour, a screen that is made anew, a word while something takes its time. Where there
//! is none, or `NO_COLOR` is set, everything is plain.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::cli::failure::Failure;

/// What is done at once needs no word.
const SILENT: Duration = Duration::from_millis(400);

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

/// Whether what is printed may have colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours(bool);

impl Colours {
    /// For what compares texts.
    #[cfg(test)]
    pub(crate) const NONE: Colours = Colours(false);

    /// As standard output and `NO_COLOR` (no-color.org) allow.
    pub(crate) fn of_stdout() -> Colours {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Colours(io::stdout().is_terminal() && !unwanted)
    }

    /// A text in the colour of what it means; it takes as much room as without.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.0 => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Prints what `show` gives; `every` so often, if it is to be watched, until that fails or nobody reads.
pub(crate) fn watched(
    every: Option<Duration>,
    mut show: impl FnMut() -> Result<String, Failure>,
) -> Result<(), Failure> {
    let mut out = io::stdout();
    let screen = out.is_terminal();
    let mut first = true;
    loop {
        let text = show()?;
        if every.is_some() && screen {
            // Clears, and begins at the top.
            write!(out, "\u{1b}[2J\u{1b}[H")?;
        } else if !first {
            writeln!(out)?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        let Some(every) = every else { return Ok(()) };
        first = false;
        thread::sleep(every);
    }
}

/// Says on standard error what is being done, if it is a terminal and it takes long, until this is dropped.
pub(crate) struct Progress(Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Progress {
    pub(crate) fn of(what: &'static str) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let (done, ended) = mpsc::channel();
        let speaking = thread::spawn(move || {
            if !goes_on(&ended, SILENT) {
                return;
            }
            for sign in ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇"].iter().cycle() {
                let _ = write!(io::stderr(), "\r{sign} {what}");
                if !goes_on(&ended, Duration::from_millis(100)) {
                    break;
                }
            }
            let _ = write!(io::stderr(), "\r\u{1b}[2K");
        });
        Progress(Some((done, speaking)))
    }
}

fn goes_on(ended: &mpsc::Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout)
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((done, speaking)) = self.0.take() {
            drop(done);
            let _ = speaking.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_nothing_is_painted() {
        assert_eq!(Colours(false).paint(Tone::Bad, "x"), "x");
        assert_eq!(Colours(true).paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Colours(true).paint(Tone::Plain, "x"), "x");
    }
}
