//! Processes under measurement: their own accounting of CPU time and memory, from `/proc`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::Failure;

/// Clock ticks a second in `/proc` (`getconf CLK_TCK`; 100 on Linux everywhere).
const TICKS: f64 = 100.0;

/// A child process that ends with this value.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `words` pinned to a core, its output to `log`.
    pub(crate) fn start(core: usize, words: &[&str], log: &Path) -> Result<Process, Failure> {
        let out = std::fs::File::create(log)?;
        let child = pinned(core, words)
            .stdout(Stdio::from(out.try_clone()?))
            .stderr(Stdio::from(out))
            .spawn()?;
        Ok(Process { child })
    }

    /// Starts `words` pinned to a core and waits for its first line.
    pub(crate) fn start_with_line(
        core: usize,
        words: &[&str],
    ) -> Result<(Process, String), Failure> {
        let (process, mut out) = Process::start_piped(core, words)?;
        let mut line = String::new();
        out.read_line(&mut line)?;
        Ok((process, line))
    }

    /// Starts `words` pinned to a core; what it writes can be read.
    pub(crate) fn start_piped(
        core: usize,
        words: &[&str],
    ) -> Result<(Process, BufReader<ChildStdout>), Failure> {
        let mut child = pinned(core, words).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no stdout")?;
        Ok((Process { child }, BufReader::new(out)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pinned(core: usize, words: &[&str]) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).args(words);
    command
}

/// CPU time that a process has used, user and system.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; fields are counted after it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or("stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Ok(Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS))
}

/// Resident memory in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64, Failure> {
    status(pid, "VmRSS:")
}

/// The most that was ever resident, in KiB.
pub(crate) fn peak(pid: u32) -> Result<u64, Failure> {
    status(pid, "VmHWM:")
}

/// From now on [`peak`] counts anew.
pub(crate) fn forget_peak(pid: u32) -> Result<(), Failure> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn status(pid: u32, name: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .ok_or("no such line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
