//! `selector` of policies. But for PeerAuthentication's nothing is selected with it here: such policies are ztunnel's and sidecars'
//! business. It is checked all the same, since the object is refused as a whole.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

impl Selector {
    pub(super) fn into_labels(self) -> BTreeMap<String, String> {
        self.match_labels
    }

    /// Whether it leaves any pod out.
    pub(super) fn selects(&self) -> bool {
        !self.match_labels.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        let odd = |key: &&String| key.is_empty() || key.contains('*');
        if let Some(key) = self.match_labels.keys().find(odd) {
            let reason = format!("{key:?} is no label");
            return Err(refusal("selector.matchLabels", reason));
        }
        for (key, value) in &self.match_labels {
            if value.contains('*') || value.len() > 63 {
                let reason = format!("{value:?} is no value of a label");
                return Err(refusal(format!("selector.matchLabels.{key}"), reason));
            }
        }
        Ok(())
    }
}
