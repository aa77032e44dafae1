//! `tracing` of a Telemetry: to whom spans are sent, of how many requests, and what they say besides.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::kinds::core::custom_tag::CustomTag;
use crate::standalone::kinds::istio::telemetry::scope::{ModeMatch, ProviderRef};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tracing {
    #[serde(rename = "match")]
    pub matches: ModeMatch,
    /// The first of them counts.
    pub providers: Vec<ProviderRef>,
    pub random_sampling_percentage: Option<f64>,
    pub disable_span_reporting: Option<bool>,
    pub custom_tags: Option<BTreeMap<String, CustomTag>>,
    pub use_request_id_for_trace_sampling: Option<bool>,
    pub enable_istio_tags: Option<bool>,
    pub disable_context_propagation: Option<bool>,
}

pub(super) fn check(value: &Value) -> Result<(), Refusal> {
    let percent = value.get("randomSamplingPercentage");
    let percent = percent.and_then(Value::as_f64).unwrap_or_default();
    if !(0.0..=100.0).contains(&percent) {
        let field = "randomSamplingPercentage";
        return Err(refusal(field, "must be between 0 and 100"));
    }
    let tags = value.get("customTags").and_then(Value::as_object);
    match tags.is_some_and(|tags| tags.contains_key("")) {
        true => Err(refusal("customTags", "a tag needs a name")),
        false => Ok(()),
    }
}

pub(super) fn check_tag(value: &Value) -> Result<(), Refusal> {
    let kinds = ["literal", "environment", "header", "formatter"];
    let given = kinds.iter().filter(|kind| value.get(**kind).is_some());
    match given.count() {
        0 | 1 => Ok(()),
        _ => Err(refusal(
            "",
            format!("may have only one of {}", kinds.join(", ")),
        )),
    }
}
