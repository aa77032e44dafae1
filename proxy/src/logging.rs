//! The process's own log, as opposed to the access log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Begins to log. `json`: an object per line, for whoever collects logs; `stdout`: not to stderr.
pub(crate) fn start(filter: EnvFilter, json: bool, stdout: bool) {
    let (writer, terminal) = if stdout {
        let terminal = std::io::stdout().is_terminal();
        (BoxMakeWriter::new(std::io::stdout), terminal)
    } else {
        let terminal = std::io::stderr().is_terminal();
        (BoxMakeWriter::new(std::io::stderr), terminal)
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(terminal);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
}
