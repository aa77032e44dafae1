//! The fields of ServiceEntry's CRD (Istio 1.31) that have bounds or a form.
//!
//! What several fields must hold together is checked where they are read.

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::kinds::core::port::is_dns_label;

const SCHEMA: &[Row] = &[
    ("hosts", Rule::Items(1, 256)),
    ("addresses", Rule::Items(0, 256)),
    ("addresses[]", Rule::Length(0, 64)),
    ("location", Rule::OneOf(&["MESH_EXTERNAL", "MESH_INTERNAL"])),
    (
        "resolution",
        Rule::OneOf(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
    ),
    ("ports", Rule::Items(0, 256)),
    ("ports[].number", Rule::Between(1, 65535)),
    ("ports[].name", Rule::Form(is_label, "name of a port")),
    ("ports[].targetPort", Rule::Between(1, 65535)),
    ("endpoints", Rule::Items(0, 4096)),
    ("hosts[]", Rule::Form(is_host, "host")),
    ("workloadSelector.labels", Rule::Fields(256)),
    (
        "workloadSelector.labels{}",
        Rule::Form(
            |value| value.len() <= 63 && !value.contains('*'),
            "value of a label",
        ),
    ),
    ("endpoints[].address", Rule::Length(0, 256)),
    ("endpoints[].labels", Rule::Fields(256)),
    ("endpoints[].ports", Rule::Fields(128)),
    (
        "endpoints[].ports",
        Rule::Names(|name| name.len() < 63 && is_label(name), "name of a port"),
    ),
    ("endpoints[].locality", Rule::Length(0, 2048)),
    ("endpoints[].network", Rule::Length(0, 2048)),
    ("endpoints[].serviceAccount", Rule::Length(0, 253)),
    ("endpoints[].weight", Rule::Between(0, u32::MAX as i64)),
];

/// A DNS label as Istio reads it: in any case of letters.
fn is_label(text: &str) -> bool {
    is_dns_label(&text.to_ascii_lowercase())
}

/// A host, which may begin with `*` and end with a dot; `*` itself is told apart.
fn is_host(text: &str) -> bool {
    let (first, rest) = text.split_once('.').unwrap_or((text, ""));
    let bare = first.strip_prefix("*-").or_else(|| first.strip_prefix('*'));
    let rest: Vec<&str> = rest.strip_suffix('.').unwrap_or(rest).split('.').collect();
    let is_rest = match rest.as_slice() {
        [""] => true,
        labels => labels.iter().all(|label| is_label(label)),
    };
    let last = rest.last().copied().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
    let is_first = first == "*" || is_label(bare.unwrap_or(first));
    text.len() <= 255 && is_first && is_rest && !is_number
}

/// Checks an entry's fields one by one.
pub(crate) fn check(manifest: &Manifest) -> Result<(), LoadError> {
    schema::check(manifest, "spec", SCHEMA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (host, expected) in [
            ("a.test", true),
            ("A-b.test", true),
            ("*.test", true),
            ("*a.test", true),
            ("*-a.test", true),
            ("*", true),
            ("a", true),
            ("a.test.", true),
            ("", false),
            ("a.*", false),
            ("a..b", false),
            ("*-.test", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_host(host), expected, "{host}");
        }
    }
}
