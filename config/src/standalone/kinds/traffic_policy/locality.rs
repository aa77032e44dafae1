//! `localityLbSetting` and `zoneAwareLbSetting` of a load balancer, and of MeshConfig: how near an endpoint must be.
//!
//! A locality is written `region/zone/subzone`; what is left out from the end, or `*`, means all.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Labels that `failover` says already.
const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalityLb {
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    /// Labels, or `label=value`, that the best endpoints share with the waypoint.
    pub failover_priority: Vec<String>,
    /// `false`: distance doesn't count.
    pub enabled: Option<bool>,
}

/// How a proxy in these places shares out what it sends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distribute {
    pub from: String,
    /// Percent by locality.
    pub to: BTreeMap<String, u32>,
}

/// Which region stands in for which.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    pub from: String,
    pub to: String,
}

/// Zone-aware balancing, which istiod gives to no waypoint: it needs a cluster of the proxy's own peers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ZoneAwareLb {
    failover: Vec<Failover>,
    failover_priority: Vec<String>,
    enabled: Option<bool>,
    min_cluster_size: Option<u32>,
}

impl ZoneAwareLb {
    /// Istio's admission check.
    pub(in crate::standalone::kinds) fn check(&self) -> Result<(), Refusal> {
        let mut labels = self.failover_priority.iter();
        if let Some(label) = labels.find(|label| TOPOLOGY.contains(&label.as_str())) {
            let reason = format!("{label} may not be given: it counts anyway");
            return Err(refusal("failoverPriority", reason));
        }
        check_regions(&self.failover)
    }
}

impl LocalityLb {
    pub(in crate::standalone::kinds) fn check(&self) -> Result<(), Refusal> {
        if !self.distribute.is_empty() && !self.failover.is_empty() {
            let reason = "only one of distribute and failover may be given";
            return Err(refusal("failover", reason));
        }
        let mut labels = self.failover_priority.iter();
        if !self.failover.is_empty()
            && let Some(label) = labels.find(|label| TOPOLOGY.contains(&label.as_str()))
        {
            let reason = format!("{label} may not be given beside failover");
            return Err(refusal("failoverPriority", reason));
        }
        for (index, distribute) in self.distribute.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("distribute[{index}].{field}"), reason);
            distribute.check().map_err(at)?;
        }
        let from = self.distribute.iter().map(|own| own.from.as_str());
        check_localities(from).map_err(|reason| refusal("distribute", reason))?;
        check_regions(&self.failover)
    }
}

fn check_regions(all: &[Failover]) -> Result<(), Refusal> {
    for (index, failover) in all.iter().enumerate() {
        let (from, to) = (&failover.from, &failover.to);
        let reason = if from == to {
            "must name two regions"
        } else if [from, to].iter().any(|name| name.contains(['/', '*'])) {
            "must name regions, without / and *"
        } else {
            continue;
        };
        return Err(refusal(format!("failover[{index}]"), reason));
    }
    Ok(())
}

impl Distribute {
    fn check(&self) -> Result<(), Refusal> {
        if let Some((name, _)) = self.to.iter().find(|(_, w)| !(1..=100).contains(*w)) {
            return Err(refusal(format!("to.{name}"), "must be between 1 and 100"));
        }
        let sum: u32 = self
            .to
            .values()
            .fold(0, |sum, weight| sum.saturating_add(*weight));
        if sum != 100 {
            return Err(refusal("to", format!("must be 100 together, not {sum}")));
        }
        let names = self.to.keys().map(String::as_str);
        check_localities(names).map_err(|reason| refusal("to", reason))
    }
}

/// Localities of which none holds another.
fn check_localities<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut before: Vec<Vec<&str>> = Vec::new();
    for name in names {
        if name.trim_end_matches('*').contains('*') || name.ends_with("**") {
            return Err(format!("{name:?}: * may only stand at the end"));
        }
        let mut parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!("{name:?} is no region/zone/subzone"));
        }
        if parts.last() == Some(&"*") {
            parts.pop();
        }
        let overlaps = |other: &Vec<&str>| other.starts_with(&parts) || parts.starts_with(other);
        if before.iter().any(overlaps) {
            return Err(format!("{name:?} overlaps with another one"));
        }
        before.push(parts);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_may_not_overlap() {
        for (names, sound) in [
            (&["a/b", "a/c", "b"][..], true),
            (&["a/b", "a"], false),
            (&["a/*", "a/b"], false),
            (&["*"], true),
            (&["*", "a"], false),
            (&["a*b"], false),
            (&["a//b"], false),
            (&["a/b/c/d"], false),
            (&[""], false),
        ] {
            let found = check_localities(names.iter().copied());
            assert_eq!(found.is_ok(), sound, "{names:?}: {found:?}");
        }
    }
}
