//! The clusters whose endpoints are checked, and what becomes of what checks found.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::cluster::slot::ClusterSlot;

#[derive(Default)]
pub(crate) struct CheckedTable {
    slots: BTreeMap<Arc<str>, Arc<ClusterSlot>>,
}

impl CheckedTable {
    /// Whether this cluster's endpoints are checked from now on.
    pub(crate) fn set(&mut self, slot: &Arc<ClusterSlot>, are_checked: bool) {
        match are_checked {
            true => self.slots.insert(slot.name.clone(), slot.clone()),
            false => self.slots.remove(&slot.name),
        };
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        self.slots.values()
    }

    /// Looks at clusters in which a check changed something.
    pub(crate) fn look(&self) {
        for slot in self.slots.values().filter(|slot| slot.checks.take_alarm()) {
            let cluster = slot.cluster();
            let rules = cluster.as_ref().and_then(|c| c.outlier_detection.as_ref());
            if rules.is_some_and(|rules| rules.ends_with_passed_check) {
                take_back_the_redeemed(slot);
            }
            slot.share_anew();
        }
    }
}

/// Whoever passed a check since it was found to be an outlier isn't one any more.
fn take_back_the_redeemed(slot: &ClusterSlot) {
    let endpoints = slot.endpoints_now();
    let mut still_out = 0;
    for endpoint in endpoints.iter().filter(|e| e.state.monitor.is_ejected()) {
        if endpoint.state.health.take_redeemed() {
            endpoint.state.monitor.take_back();
            tracing::info!(
                cluster = &*slot.name,
                endpoint = %endpoint.address,
                "endpoint is back: it passed a check"
            );
        } else {
            still_out += 1;
        }
    }
    slot.outliers.set_active(still_out);
}
