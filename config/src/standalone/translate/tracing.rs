//! The `tracing` block of every HTTP chain: sampling and tags, which stand there without a tracer, too.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::metadata::v3 as metadata;
use envoy_types::pb::envoy::r#type::tracing::v3 as tags;
use envoy_types::pb::envoy::r#type::v3::Percent;

use crate::standalone::state::mesh_service::CLUSTER_ID;
use crate::standalone::translate::Mesh;

/// Percent of requests that start a trace where nothing else is said.
const DEFAULT_SAMPLING: f64 = 1.0;

/// Tag suffix and field of the peer's filter state object.
const PEER_FIELDS: &[(&str, &str)] = &[
    ("app", "app"),
    ("app_version", "version"),
    ("canonical_revision", "revision"),
    ("canonical_service", "service"),
    ("cluster_id", "cluster"),
    ("instance_name", "name"),
    ("namespace", "namespace"),
    ("workload", "workload"),
    ("workload_type", "type"),
];

impl Mesh<'_> {
    pub(super) fn tracing(&self) -> Option<hcm::http_connection_manager::Tracing> {
        if !self.config.enable_tracing {
            return None;
        }
        let percent = |value| Some(Percent { value });
        let sampling = self
            .config
            .default_config
            .tracing
            .sampling
            .unwrap_or(DEFAULT_SAMPLING);
        Some(hcm::http_connection_manager::Tracing {
            client_sampling: percent(100.0),
            random_sampling: percent(sampling),
            overall_sampling: percent(100.0),
            custom_tags: self.custom_tags(),
            ..hcm::http_connection_manager::Tracing::default()
        })
    }

    fn custom_tags(&self) -> Vec<tags::CustomTag> {
        let own = &self.waypoint.gateway.meta;
        let mut found = Vec::new();
        for policy in ["allow", "deny"] {
            for (suffix, key) in [("name", "effective_policy_id"), ("result", "engine_result")] {
                let tag = format!("istio.authorization.dry_run.{policy}_policy.{suffix}");
                let key = format!("istio_dry_run_{policy}_shadow_{key}");
                found.push(custom_tag(
                    tag,
                    tags::custom_tag::Type::Metadata(rbac_metadata(key)),
                ));
            }
        }
        let mut literal = |tag: &str, value: &str| {
            let value = tags::custom_tag::Literal {
                value: value.to_owned(),
            };
            found.push(custom_tag(
                tag.to_owned(),
                tags::custom_tag::Type::Literal(value),
            ));
        };
        literal("istio.canonical_revision", "latest");
        literal("istio.canonical_service", &own.name);
        literal("istio.cluster_id", CLUSTER_ID);
        literal("istio.mesh_id", &self.config.trust_domain);
        literal("istio.namespace", &own.namespace);
        for (side, object) in [
            ("destination", "upstream_peer_obj"),
            ("source", "downstream_peer_obj"),
        ] {
            for (suffix, field) in PEER_FIELDS {
                let value = format!("%FILTER_STATE({object}:FIELD:{field})%");
                let tag = format!("istio.{side}_{suffix}");
                found.push(custom_tag(tag, tags::custom_tag::Type::Value(value)));
            }
        }
        found.sort_by(|a, b| a.tag.cmp(&b.tag));
        found
    }
}

fn custom_tag(tag: String, r#type: tags::custom_tag::Type) -> tags::CustomTag {
    tags::CustomTag {
        tag,
        r#type: Some(r#type),
    }
}

fn rbac_metadata(key: String) -> tags::custom_tag::Metadata {
    let request = metadata::metadata_kind::Kind::Request(metadata::metadata_kind::Request {});
    tags::custom_tag::Metadata {
        kind: Some(metadata::MetadataKind {
            kind: Some(request),
        }),
        metadata_key: Some(metadata::MetadataKey {
            key: "envoy.filters.http.rbac".to_owned(),
            path: vec![metadata::metadata_key::PathSegment {
                segment: Some(metadata::metadata_key::path_segment::Segment::Key(key)),
            }],
        }),
        ..tags::custom_tag::Metadata::default()
    }
}
