//! What a service says of a stream, whichever way it was asked.

pub(crate) mod changes;
pub(crate) mod denial;

use crate::security::ext_authz::verdict::changes::{Changes, Invalid};
use crate::security::ext_authz::verdict::denial::Denial;

/// A service's answer.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// What later filters and logs may know (dynamic metadata).
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
}

/// What it comes to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Allowed(Box<Changes>),
    Denied(Box<Denial>),
    /// There is no answer, or the service itself says that it failed; then it may say what the client is to get.
    Failed(Option<Box<Failure>>),
    /// It wants something done that can't be.
    Invalid(Invalid),
}

/// What a service that failed has for the client.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whether the status is the service's.
    pub(crate) has_status: bool,
    pub(crate) denial: Denial,
}

impl Verdict {
    pub(crate) fn of(outcome: Outcome) -> Verdict {
        Verdict {
            outcome,
            metadata: serde_json::Map::new(),
        }
    }

    pub(crate) fn failed() -> Verdict {
        Verdict::of(Outcome::Failed(None))
    }
}

impl From<Result<Outcome, Invalid>> for Outcome {
    fn from(outcome: Result<Outcome, Invalid>) -> Outcome {
        outcome.unwrap_or_else(Outcome::Invalid)
    }
}
