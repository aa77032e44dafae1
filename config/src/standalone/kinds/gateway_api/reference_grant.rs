//! ReferenceGrant: whose routes may have backends in its namespace. Unknown fields are refused by name.

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule, is_group, is_kind};
use crate::standalone::kinds::core::port::is_dns_label;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceGrant {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    group: String,
    kind: String,
    name: Option<String>,
}

const SPEC: &[Row] = &[
    ("from", Rule::Items(1, 16)),
    ("from[].group", Rule::Form(is_group, "group")),
    ("from[].kind", Rule::Form(is_kind, "kind")),
    ("from[].namespace", Rule::Form(is_dns_label, "namespace")),
    ("to", Rule::Items(1, 16)),
    ("to[].group", Rule::Form(is_group, "group")),
    ("to[].kind", Rule::Form(is_kind, "kind")),
    ("to[].name", Rule::Length(1, 253)),
];

impl ReferenceGrant {
    /// # Errors
    /// What the API server would refuse, and fields that nobody knows.
    pub fn read(manifest: &Manifest) -> Result<Object<ReferenceGrant>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let spec: ReferenceGrant = manifest.part("spec")?;
        schema::check(manifest, "spec", SPEC)?;
        Ok(manifest.object(spec))
    }

    /// Whether routes of this kind and namespace may have this Service as a backend.
    pub fn lets(&self, kind: &str, namespace: &str, service: &str) -> bool {
        let from = |from: &From| {
            from.group == "gateway.networking.k8s.io"
                && from.kind == kind
                && from.namespace == namespace
        };
        let to = |to: &To| {
            to.group.is_empty()
                && to.kind == "Service"
                && to.name.as_deref().is_none_or(|name| name == service)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn grant(spec: &str) -> Result<ReferenceGrant, LoadError> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: b}}\nspec: {spec}"
        );
        ReferenceGrant::read(&Manifest::of(&text)).map(|object| object.spec)
    }

    #[test]
    fn kind_namespace_and_name_count() {
        let from = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]";
        let all = grant(&format!("{{{from}, to: [{{group: '', kind: Service}}]}}")).unwrap();
        assert!(all.lets("HTTPRoute", "a", "web"));
        assert!(!all.lets("GRPCRoute", "a", "web") && !all.lets("HTTPRoute", "c", "web"));
        let one = format!("{{{from}, to: [{{group: '', kind: Service, name: web}}]}}");
        let one = grant(&one).unwrap();
        assert!(one.lets("HTTPRoute", "a", "web") && !one.lets("HTTPRoute", "a", "other"));
        let secret = format!("{{{from}, to: [{{group: '', kind: Secret}}]}}");
        assert!(!grant(&secret).unwrap().lets("HTTPRoute", "a", "web"));
    }

    #[test]
    fn what_the_api_server_refuses_is_no_grant() {
        for spec in [
            "{}",
            "{from: [], to: [{group: '', kind: Service}]}",
            "{from: [{group: '', kind: HTTPRoute, namespace: a}], to: []}",
            "{from: [{group: '', kind: HTTPRoute}], to: [{group: '', kind: Service}]}",
            "{from: [{group: '', kind: A, namespace: a, name: b}], to: [{group: '', kind: Service}]}",
        ] {
            assert!(grant(spec).is_err(), "{spec}");
        }
    }
}
