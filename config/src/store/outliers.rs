//! The clusters whose endpoints are judged by their answers, each with its detector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::model::cluster::outlier_detection::OutlierDetection;
use crate::model::cluster::outlier_detector::{Detector, Look};
use crate::model::cluster::slot::ClusterSlot;

#[derive(Default)]
pub(crate) struct OutlierTable {
    judged: BTreeMap<Arc<str>, (Arc<ClusterSlot>, Detector)>,
}

impl OutlierTable {
    /// A cluster is judged by these rules from now on; `None`: it isn't, and nobody in it is out.
    pub(crate) fn set(
        &mut self,
        slot: &Arc<ClusterSlot>,
        rules: Option<&Arc<OutlierDetection>>,
        now: Instant,
    ) {
        match (rules, self.judged.get_mut(&slot.name)) {
            (None, None) => {}
            (None, Some(_)) => {
                self.judged.remove(&slot.name);
                take_all_back(slot);
            }
            (Some(rules), Some((_, detector))) => detector.set_rules(rules, now),
            (Some(rules), None) => {
                let detector = Detector::new(rules.clone(), now);
                let name = slot.name.clone();
                self.judged.insert(name, (slot.clone(), detector));
            }
        }
    }

    /// Looks at all that have something to look at; when to look again by itself.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        mut random: impl FnMut() -> u64,
    ) -> Option<Instant> {
        for (slot, detector) in self.judged.values_mut() {
            let endpoints = slot.endpoints_now();
            let changed = detector.look(&mut Look {
                cluster: &slot.name,
                endpoints: &endpoints,
                outliers: &slot.outliers,
                now,
                random: &mut random,
            });
            if changed {
                slot.share_anew();
            }
        }
        let due = self.judged.values().map(|(_, detector)| detector.next());
        due.min()
    }
}

fn take_all_back(slot: &ClusterSlot) {
    let endpoints = slot.endpoints_now();
    let mut changed = false;
    for endpoint in endpoints.iter() {
        changed |= endpoint.state.monitor.is_ejected();
        endpoint.state.monitor.take_back();
    }
    slot.outliers.set_active(0);
    if changed {
        slot.share_anew();
    }
}
