//! Why there is no profile.

use std::io;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("{0}: one profile at a time")]
    Busy(&'static str),
    #[error(
        "jemalloc was not told to record when it was built, which .cargo/config.toml of the source does; \
         or set _RJEM_MALLOC_CONF=prof:true,prof_active:false in the environment and start again"
    )]
    NotRecording,
    #[error("there is no room: with {0} MiB more, requests would be refused for memory")]
    NoRoom(u64),
    #[error("there is no folder to write in, which the sampler wants: set TMPDIR")]
    NoFolder,
    #[error("the profile could not be made: {0}")]
    Failed(String),
}

impl From<io::Error> for ProfileError {
    fn from(error: io::Error) -> ProfileError {
        ProfileError::Failed(error.to_string())
    }
}
