//! The `tracing` block of a chain: sampling and tags, which stand there without a tracer, too; and whom spans are sent to,
//! where Telemetry or `defaultProviders` says it.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as TracingBlock;
use envoy_types::pb::envoy::r#type::metadata::v3 as metadata;
use envoy_types::pb::envoy::r#type::tracing::v3 as tags;
use envoy_types::pb::envoy::r#type::v3::Percent;

use crate::standalone::kinds::core::custom_tag::CustomTag;
use crate::standalone::kinds::core::extension_provider::ExtensionProvider;
use crate::standalone::kinds::core::telemetry_provider::TelemetryProvider;
use crate::standalone::kinds::istio::telemetry::tracing::Tracing;
use crate::standalone::state::mesh_endpoint::CLUSTER_ID;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::uint32;

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

/// What is said of a chain's traces.
struct Spec<'m> {
    provider: Option<&'m ExtensionProvider>,
    disabled: bool,
    sampling: Option<f64>,
    custom_tags: Option<&'m BTreeMap<String, CustomTag>>,
    by_request_id: bool,
    istio_tags: bool,
    untouched: bool,
}

/// How a chain is traced.
pub(crate) struct ChainTracing {
    pub(crate) block: Option<TracingBlock>,
    /// Whether a request's id decides.
    pub(crate) by_request_id: bool,
}

impl Mesh<'_> {
    pub(crate) fn tracing(&self, service: Option<&MeshService<'_>>) -> ChainTracing {
        let objects = self.telemetries(service);
        let said: Vec<&Tracing> = objects.iter().flat_map(|o| &o.spec.tracing).collect();
        let defaults = &self.config.default_providers.tracing;
        if said.is_empty() && defaults.is_empty() {
            return ChainTracing {
                block: self.config.enable_tracing.then(|| self.without_tracer()),
                by_request_id: true,
            };
        }
        let spec = self.merged(&said, defaults.first().map(String::as_str));
        match self.traced(&spec) {
            Some(block) => ChainTracing {
                block: Some(block),
                by_request_id: spec.by_request_id,
            },
            None => ChainTracing {
                block: None,
                by_request_id: true,
            },
        }
    }

    /// What is said later stands above, field by field; tags are replaced as a whole.
    fn merged<'m>(&'m self, said: &[&'m Tracing], default: Option<&str>) -> Spec<'m> {
        let mut spec = Spec {
            provider: default.and_then(|name| self.config.provider_named(name)),
            disabled: false,
            sampling: None,
            custom_tags: None,
            by_request_id: true,
            istio_tags: true,
            untouched: false,
        };
        for tracing in said.iter().filter(|t| t.matches.mode.is_of_servers()) {
            if let Some(first) = tracing.providers.first() {
                spec.provider = self.config.provider_named(&first.name);
            }
            let or = |new: Option<bool>, old: bool| new.unwrap_or(old);
            spec.disabled = or(tracing.disable_span_reporting, spec.disabled);
            spec.by_request_id = or(
                tracing.use_request_id_for_trace_sampling,
                spec.by_request_id,
            );
            spec.istio_tags = or(tracing.enable_istio_tags, spec.istio_tags);
            spec.untouched = or(tracing.disable_context_propagation, spec.untouched);
            spec.sampling = tracing.random_sampling_percentage.or(spec.sampling);
            spec.custom_tags = tracing.custom_tags.as_ref().or(spec.custom_tags);
        }
        spec
    }

    fn traced(&self, spec: &Spec<'_>) -> Option<TracingBlock> {
        let provider = spec.provider.filter(|_| !spec.disabled)?;
        let tracer = match self.tracer_of(provider) {
            Some(tracer) => Some(tracer),
            // Request ids are marked all the same.
            None if is_unread_tracer(provider) => None,
            None => return None,
        };
        let sampling = spec.sampling.unwrap_or_else(|| self.sampling());
        let max_path = tracer.as_ref().map_or(0, |tracer| tracer.max_path);
        Some(TracingBlock {
            provider: tracer.map(|tracer| tracer.provider),
            no_context_propagation: spec.untouched,
            ..self.block(sampling, spec.istio_tags, spec.custom_tags, max_path)
        })
    }

    fn without_tracer(&self) -> TracingBlock {
        let istio_tags = self.config.default_config.tracing().enable_istio_tags;
        self.block(self.sampling(), istio_tags.unwrap_or(true), None, 0)
    }

    fn sampling(&self) -> f64 {
        match self.config.default_config.tracing().sampling {
            0.0 => DEFAULT_SAMPLING,
            sampling => sampling,
        }
    }

    fn block(
        &self,
        sampling: f64,
        istio_tags: bool,
        custom_tags: Option<&BTreeMap<String, CustomTag>>,
        max_path: u32,
    ) -> TracingBlock {
        let percent = |value| Some(Percent { value });
        let of_proxy = self.config.default_config.tracing();
        let max_path = [max_path, of_proxy.max_path_tag_length];
        let mut tags = self.tags_of_peers();
        if istio_tags {
            tags.extend(self.tags_of_the_waypoint());
        }
        let own = custom_tags.filter(|tags| !tags.is_empty());
        tags.extend(own.unwrap_or(&of_proxy.custom_tags).iter().map(tag));
        tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        TracingBlock {
            client_sampling: percent(100.0),
            random_sampling: percent(sampling),
            overall_sampling: percent(100.0),
            custom_tags: tags,
            max_path_tag_length: max_path.into_iter().find(|n| *n != 0).and_then(uint32),
            ..TracingBlock::default()
        }
    }

    fn tags_of_peers(&self) -> Vec<tags::CustomTag> {
        let mut found = Vec::new();
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
        found
    }

    fn tags_of_the_waypoint(&self) -> Vec<tags::CustomTag> {
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
        found
    }
}

/// A provider of a kind that an istiod makes a tracer of, and that isn't honoured here.
fn is_unread_tracer(provider: &ExtensionProvider) -> bool {
    match provider.telemetry() {
        Some(TelemetryProvider::OpenTelemetry(to)) => to.dynatrace_sampler.is_some(),
        Some(_) => false,
        None => matches!(provider.other_kind(), Some("datadog" | "skywalking")),
    }
}

fn tag((name, tag): (&String, &CustomTag)) -> tags::CustomTag {
    use tags::custom_tag::{Environment, Header, Literal, Type};
    let literal = tag.literal.as_ref().map(|literal| {
        Type::Literal(Literal {
            value: literal.value.clone(),
        })
    });
    let environment = tag.environment.as_ref().map(|environment| {
        Type::Environment(Environment {
            name: environment.name.clone(),
            default_value: environment.default_value.clone(),
        })
    });
    let header = tag.header.as_ref().map(|header| {
        Type::RequestHeader(Header {
            name: header.name.clone(),
            default_value: header.default_value.clone(),
        })
    });
    let formatter = tag.formatter.as_ref().map(|f| Type::Value(f.value.clone()));
    tags::CustomTag {
        tag: name.clone(),
        r#type: literal.or(environment).or(header).or(formatter),
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
