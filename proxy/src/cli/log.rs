//! `waypoint log`: the levels that a running waypoint logs at, shown and changed.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use crate::cli::asked::{ADMIN, text};
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The admin port of a running waypoint.
    #[arg(long, value_name = "ADDR", default_value = ADMIN)]
    admin: String,
    /// A level for all (error, warn, info, debug, trace), or for some: NAME:LEVEL,…
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
}

/// Prints the levels, as they are after the change.
pub(crate) fn run(args: &LogArgs) -> Result<ExitCode, Failure> {
    let (method, target) = match &args.level {
        None => ("GET", "/logging".to_owned()),
        Some(level) if level.contains([':', ',']) => {
            ("POST", format!("/logging?paths={}", sound(level)?))
        }
        Some(level) => ("POST", format!("/logging?level={}", sound(level)?)),
    };
    let told = text(&args.admin, method, &target)?;
    std::io::stdout().write_all(told.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Nothing that would mean something else in a URL.
fn sound(level: &str) -> Result<&str, Failure> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | ',' | '_' | '-' | '.');
    match level.chars().all(sound) {
        true => Ok(level),
        false => Err(format!("--level {level:?}: expected LEVEL or NAME:LEVEL,…").into()),
    }
}
