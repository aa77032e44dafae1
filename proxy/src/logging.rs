//! The process's own log, as opposed to the access log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::reload::Handle;

use crate::log_levels::LogLevels;

/// Begins to log; gives what changes the levels. `json`: an object per line, for whoever collects logs; `stdout`: not to
/// stderr.
pub(crate) fn start(filter: EnvFilter, json: bool, stdout: bool) -> LogLevels {
    let (writer, terminal) = if stdout {
        let terminal = std::io::stdout().is_terminal();
        (BoxMakeWriter::new(std::io::stdout), terminal)
    } else {
        let terminal = std::io::stderr().is_terminal();
        (BoxMakeWriter::new(std::io::stderr), terminal)
    };
    let initial = filter.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(terminal);
    if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        changeable(&initial, handle)
    } else {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        changeable(&initial, handle)
    }
}

fn changeable<S: 'static>(initial: &EnvFilter, handle: Handle<EnvFilter, S>) -> LogLevels {
    LogLevels::new(initial, move |filter| {
        handle.reload(filter).map_err(|error| error.to_string())
    })
}
