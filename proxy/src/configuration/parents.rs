//! What isn't well of routes' parents, as lines of `/problems`: the conditions that istiod would write into their status.
//!
//! Without a cluster nobody writes a status. The log doesn't have these: it has what comes of them.

use waypoint_config::standalone::{ParentStatus, Translation, report};

/// A line for each condition that doesn't hold.
pub(super) fn unwell(translation: &Translation) -> Vec<String> {
    report::lines(translation.statuses.iter().flat_map(lines))
}

fn lines(status: &ParentStatus) -> impl Iterator<Item = String> {
    let ParentStatus { route, parent, .. } = status;
    let failed = status
        .conditions
        .iter()
        .filter(|condition| !condition.holds);
    failed.map(move |condition| {
        let (name, reason, message) = (condition.name, condition.reason, &condition.message);
        format!("{route}: parent {parent}: {name}=False ({reason}): {message}")
    })
}
