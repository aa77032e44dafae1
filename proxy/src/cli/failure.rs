//! Why a command failed, as it is said on stderr.

/// Whatever it was.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
