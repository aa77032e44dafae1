//! The fields of ServiceEntry's CRD (Istio 1.31) that have bounds or a form.
//!
//! What several fields must hold together is checked where they are read.

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::kinds::istio::host_name::{is_host, is_label};
use crate::standalone::kinds::known_fields::{KnownFields, Report};

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

/// Checks an entry's fields one by one.
pub(crate) fn check(manifest: &Manifest) -> Result<(), LoadError> {
    schema::check(manifest, "spec", SCHEMA)
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::Always,
        &[
            "addresses",
            "endpoints",
            "exportTo",
            "hosts",
            "location",
            "ports",
            "resolution",
            "subjectAltNames",
            "workloadSelector",
        ],
    ),
    (
        "spec.ports[]",
        Report::Always,
        &["name", "number", "protocol", "targetPort"],
    ),
    (
        "spec.endpoints[]",
        Report::Always,
        &[
            "address",
            "labels",
            "locality",
            "network",
            "ports",
            "serviceAccount",
            "weight",
        ],
    ),
];
