//! `accessLogging` of a Telemetry: which logs are written, and of which streams.

use serde::Deserialize;
use serde_json::Value;
use waypoint_filters::cel;

use crate::standalone::kinds::istio::telemetry::scope::{ModeMatch, ProviderRef};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLogging {
    #[serde(rename = "match")]
    pub matches: ModeMatch,
    /// None: those of what stands above, or the mesh's.
    pub providers: Vec<ProviderRef>,
    pub disabled: Option<bool>,
    pub filter: Option<Filter>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    pub expression: String,
}

/// istiod parses the expression, and asks nothing else of it.
pub(super) fn check_filter(value: &Value) -> Result<(), Refusal> {
    let text = match value.get("expression") {
        None => "",
        Some(Value::String(text)) => text,
        Some(_) => return Ok(()),
    };
    cel::check_syntax(text).map_err(|reason| refusal("expression", reason))
}
