//! Fields that the API knows: one that a kind doesn't list (`FIELDS`) is a misspelt one, or newer than the list.
//!
//! `kubectl apply` refuses it; the API server drops it. Here it is told, and the rest of the object counts: what a
//! newer cluster adds must not stop a waypoint. Routes, AuthorizationPolicy and
//! RequestAuthentication refuse such fields themselves.

use serde_json::{Map, Value};

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::metadata_fields::METADATA;
use crate::standalone::input::near::nearest;
use crate::standalone::input::problem::{Problem, Severity};

/// When an unknown field is reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report {
    Always,
    /// Only where it looks like one of these: the rest is for others.
    IfNear,
}

/// The path of a mapping, and its fields.
pub type KnownFields = (&'static str, Report, &'static [&'static str]);

/// Of a kind that has nothing but a head.
pub(crate) const SPEC_AND_STATUS: &[KnownFields] = &[("", Report::Always, &["spec", "status"])];

/// Fields near a known one that are none the less known.
const ALSO: &[&str] = &[
    "hostIP",
    "hostIPs",
    "hostIPC",
    "hostPID",
    "hostUsers",
    "hostname",
    "serviceAccount",
    "nodeSelector",
    "restartPolicyRules",
    "priority",
];

/// The unknown fields of an object whose kind has these.
pub fn unknown(manifest: &Manifest, fields: &[KnownFields]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in &manifest.unknown_metadata {
        let field = format!("metadata.{name}");
        problems.push(problem(manifest, &field, name, METADATA));
    }
    for (path, report, known) in fields {
        each(&manifest.body, path, String::new(), &mut |fields, place| {
            for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
                let near = nearest(name, known.iter().copied()).is_some();
                if *report == Report::Always || (near && !ALSO.contains(&name.as_str())) {
                    let field = format!("{place}{name}");
                    problems.push(problem(manifest, &field, name, known));
                }
            }
        });
    }
    problems
}

fn problem(manifest: &Manifest, field: &str, name: &str, known: &[&str]) -> Problem {
    let meant = crate::standalone::input::near::meant(name, known.iter().copied());
    manifest.problem(Severity::NoEffect, field, format!("unknown field{meant}"))
}

/// Visits the mappings at a path, with the place of their fields.
fn each(
    fields: &Map<String, Value>,
    path: &str,
    place: String,
    visit: &mut dyn FnMut(&Map<String, Value>, &str),
) {
    if path.is_empty() {
        return visit(fields, &place);
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    match name.strip_suffix("[]") {
        Some(name) => {
            let items = fields.get(name).and_then(Value::as_array);
            for (index, item) in items.into_iter().flatten().enumerate() {
                if let Value::Object(item) = item {
                    each(item, rest, format!("{place}{name}[{index}]."), visit);
                }
            }
        }
        None => {
            if let Some(Value::Object(inner)) = fields.get(name) {
                each(inner, rest, format!("{place}{name}."), visit);
            }
        }
    }
}
