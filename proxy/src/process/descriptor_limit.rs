//! How many files the process may have open: every connection is one, and the usual limit of 1024 is for other programs.

use rlimit::Resource;

/// Raises the limit as far as it may be, and says in the log how far that is.
pub(crate) fn raise() {
    let raised = Resource::NOFILE.get().and_then(|(before, most)| {
        Resource::NOFILE.set(most, most)?;
        Ok((before, most))
    });
    match raised {
        Ok((before, now)) => tracing::info!(before, now, "limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}
