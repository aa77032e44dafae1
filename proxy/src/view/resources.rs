//! Resources as they came: how many of each type are in force, which were refused and why, what isn't honoured.

use serde_json::{Value, json};
use waypoint_config::resource::ResourceType;
use waypoint_config::store::received::{Entry, Received, Updates};

use crate::view::bounded;
use crate::view::time::rfc3339;

/// Refusals that are told.
const MAX_REFUSALS: usize = 500;
/// Problems that are told.
const MAX_PROBLEMS: usize = 500;

/// All types; `source` says where they come from, `problems` what of them isn't honoured.
pub(crate) fn resources(received: &Received, source: &str, problems: &[String]) -> Value {
    let mut refusals = Vec::new();
    let mut types = Vec::new();
    for kind in ResourceType::ALL {
        let entries = received.entries(kind);
        types.push(summary(kind, &entries, received.updates(kind)));
        refusals.extend(entries.iter().filter_map(|(_, entry)| refusal(kind, entry)));
        for (name, entry) in &entries {
            let chains = entry.in_force.as_ref().and_then(|now| now.chains.as_ref());
            if let Some(chains) = chains.filter(|chains| !chains.reasons.is_empty()) {
                refusals.push(json!({
                    "type": short(kind),
                    "name": format!("chains of {name}"),
                    "reason": chains.reasons,
                    "lastGood": true,
                }));
            }
        }
    }
    let refused = refusals.len();
    let (refusals, refusals_left_out) = bounded(refusals.into_iter(), MAX_REFUSALS);
    let problems = problems.iter().map(|problem| Value::from(problem.as_str()));
    let (problems, problems_left_out) = bounded(problems, MAX_PROBLEMS);
    json!({
        "source": source,
        "types": types,
        "refused": refused,
        "refusals": refusals,
        "refusalsLeftOut": refusals_left_out,
        "problems": problems,
        "problemsLeftOut": problems_left_out,
    })
}

/// A type's name without its package.
fn short(kind: ResourceType) -> &'static str {
    let url = kind.type_url();
    url.rsplit('.').next().unwrap_or(url)
}

fn summary(
    kind: ResourceType,
    entries: &[(std::sync::Arc<str>, Entry)],
    updates: Updates,
) -> Value {
    let in_force = entries
        .iter()
        .filter_map(|(_, entry)| entry.in_force.as_ref());
    let last = in_force
        .clone()
        .map(|now| &now.response)
        .max_by_key(|response| response.at);
    json!({
        "type": short(kind),
        "inForce": in_force.count(),
        "refused": entries.iter().filter(|(_, entry)| entry.refused.is_some()).count(),
        "acceptedUpdates": updates.accepted,
        "refusedUpdates": updates.refused,
        "version": last.map(|response| response.version.as_str()),
        "at": last.map(|response| rfc3339(response.at)),
    })
}

fn refusal(kind: ResourceType, entry: &Entry) -> Option<Value> {
    let refused = entry.refused.as_ref()?;
    Some(json!({
        "type": short(kind),
        "name": refused.rejected.resource,
        "reason": refused.rejected.to_string(),
        "version": refused.response.version,
        "at": rfc3339(refused.response.at),
        "lastGood": entry.in_force.is_some(),
    }))
}
