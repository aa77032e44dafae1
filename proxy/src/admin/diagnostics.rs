//! Pages of Envoy's that tell of what this program doesn't have, or has not much of: they say so in Envoy's form, for tools
//! that collect them all.

use http::StatusCode;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, ok, text};

/// No lock of ours is watched.
pub(super) fn contention() -> Answer {
    text(StatusCode::OK, "Mutex contention tracing is not there.\n")
}

/// A process is replaced by a pod.
pub(super) fn hot_restart_version() -> Answer {
    text(StatusCode::OK, "disabled\n")
}

/// Names of metrics are no symbols here.
pub(super) fn recent_lookups() -> Answer {
    text(
        StatusCode::OK,
        "Lookup tracking is not there.\n\ntotal: 0\n",
    )
}

/// For what would track lookups, or forget them.
pub(super) fn no_lookups() -> Answer {
    text(
        StatusCode::NOT_IMPLEMENTED,
        "Lookup tracking is not there.\n",
    )
}

impl Admin {
    /// As `envoy.admin.v3.UnreadyTargetsDumps`.
    pub(super) fn init_dump(&self) -> Answer {
        match self.readiness.check() {
            Ok(()) => answer::json(&json!({})),
            Err(reason) => answer::json(&json!({"unready_targets_dumps": [
                {"name": "init manager Server", "target_names": [reason]},
            ]})),
        }
    }

    /// Counters begin at 0 again, but for those of the configuration, which readiness is told by.
    pub(super) fn reset_counters(&self) -> Answer {
        self.metrics.reset_counters();
        ok()
    }
}
