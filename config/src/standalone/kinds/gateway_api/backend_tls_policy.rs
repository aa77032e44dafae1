//! BackendTLSPolicy as the Gateway API's CRD lets it through: TLS towards a service's endpoints.
//!
//! Unknown fields are refused by name. `options` are for other implementations.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{
    self, Row, Rule, is_group, is_hostname, is_kind, is_subdomain,
};
use crate::standalone::kinds::gateway_api::policy_target::{PolicyTarget, TARGETS, is_ignored};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPolicy {
    pub targets: Vec<PolicyTarget>,
    /// What the server's certificate must lead to.
    pub roots: PolicyRoots,
    /// SNI.
    pub hostname: String,
    /// Names that the server's certificate must have one of.
    pub names: Vec<String>,
    pub has_options: bool,
    /// It asks not to be looked at.
    pub ignored: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PolicyRoots {
    /// `wellKnownCACertificates`: `System`, or a word of an implementation's own.
    WellKnown(String),
    /// One or more.
    Named(Vec<RootsRef>),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootsRef {
    pub group: String,
    pub kind: String,
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_refs: Vec<PolicyTarget>,
    validation: Validation,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Validation {
    #[serde(default)]
    ca_certificate_refs: Vec<RootsRef>,
    #[serde(default, rename = "wellKnownCACertificates")]
    well_known: String,
    hostname: String,
    #[serde(default)]
    subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectAltName {
    r#type: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    uri: String,
}

const SPEC: &[Row] = &[
    ("validation.caCertificateRefs", Rule::Items(0, 8)),
    (
        "validation.caCertificateRefs[]",
        Rule::Has(&["group", "kind", "name"]),
    ),
    (
        "validation.caCertificateRefs[].group",
        Rule::Form(is_group, "group"),
    ),
    (
        "validation.caCertificateRefs[].kind",
        Rule::Form(is_kind, "kind"),
    ),
    ("validation.caCertificateRefs[].name", Rule::Length(1, 253)),
    ("validation.hostname", Rule::Form(is_subdomain, "host name")),
    ("validation.subjectAltNames", Rule::Items(0, 5)),
    (
        "validation.subjectAltNames[].type",
        Rule::OneOf(&["Hostname", "URI"]),
    ),
    (
        "validation.subjectAltNames[].hostname",
        Rule::Form(is_hostname, "host name"),
    ),
    (
        "validation.subjectAltNames[].uri",
        Rule::Form(is_uri, "URI"),
    ),
    (
        "validation.wellKnownCACertificates",
        Rule::Form(is_well_known, "name of well-known certificates"),
    ),
    ("options", Rule::Fields(16)),
    ("options{}", Rule::Length(0, 4096)),
];

impl BackendTlsPolicy {
    /// # Errors
    /// What the API server would refuse, and fields that nobody knows.
    pub fn read(manifest: &Manifest) -> Result<Object<BackendTlsPolicy>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let spec: Spec = manifest.part("spec")?;
        schema::check(manifest, "spec", TARGETS)?;
        schema::check(manifest, "spec", SPEC)?;
        let at = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        check_sections(&spec.target_refs).map_err(at)?;
        let roots = spec.validation.roots().map_err(at)?;
        let names = spec.validation.names().map_err(at)?;
        Ok(manifest.object(BackendTlsPolicy {
            targets: spec.target_refs,
            roots,
            names,
            hostname: spec.validation.hostname,
            has_options: !spec.options.is_empty(),
            ignored: is_ignored(&manifest.meta),
        }))
    }
}

/// Of one service either the whole is a target, or each port once.
fn check_sections(targets: &[PolicyTarget]) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for (index, target) in targets.iter().enumerate() {
        let earlier = targets.iter().take(index);
        let mut same = earlier.filter(|other| other.is_of_same(target));
        if same.any(|other| other.section().is_none() != target.section().is_none()) {
            let reason = "must be given by every target that names the same object, or by none";
            return Err(refusal(format!("targetRefs[{index}].sectionName"), reason));
        }
        let key = (&target.group, &target.kind, &target.name, target.section());
        if !seen.insert(key) {
            let reason = "names what another target names";
            return Err(refusal(format!("targetRefs[{index}]"), reason));
        }
    }
    Ok(())
}

impl Validation {
    fn roots(&self) -> Result<PolicyRoots, Refusal> {
        match (
            self.ca_certificate_refs.as_slice(),
            self.well_known.as_str(),
        ) {
            ([], "") => Err(refusal(
                "validation",
                "must have caCertificateRefs or wellKnownCACertificates",
            )),
            ([], well_known) => Ok(PolicyRoots::WellKnown(well_known.to_owned())),
            (refs, "") => Ok(PolicyRoots::Named(refs.to_vec())),
            _ => Err(refusal(
                "validation.wellKnownCACertificates",
                "may not be given beside caCertificateRefs",
            )),
        }
    }

    fn names(&self) -> Result<Vec<String>, Refusal> {
        let names = self.subject_alt_names.iter().enumerate();
        let read = names.map(|(index, name)| {
            let (own, other, field, stray) = match name.r#type.as_str() {
                "URI" => (&name.uri, &name.hostname, "uri", "hostname"),
                _ => (&name.hostname, &name.uri, "hostname", "uri"),
            };
            let refused = |field: &str, reason: &str| {
                let field = format!("validation.subjectAltNames[{index}].{field}");
                Err(refusal(field, reason))
            };
            if own.is_empty() {
                return refused(field, "is required by its type");
            }
            if !other.is_empty() {
                return refused(stray, "may not be given with this type");
            }
            Ok(own.clone())
        });
        read.collect()
    }
}

/// A scheme and an authority at least.
fn is_uri(text: &str) -> bool {
    let delimiter = |c: char| matches!(c, ':' | '/' | '?' | '#');
    let scheme = text.find(delimiter).unwrap_or(0);
    text.len() <= 253
        && scheme > 0
        && text
            .get(scheme..)
            .is_some_and(|rest| rest.starts_with("://"))
}

fn is_well_known(text: &str) -> bool {
    let of_domain = |(domain, name): (&str, &str)| {
        let ends = [name.bytes().next(), name.bytes().next_back()];
        is_subdomain(domain)
            && name.len() <= 63
            && ends
                .iter()
                .all(|c| c.is_some_and(|c| c.is_ascii_alphanumeric()))
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    };
    text == "System" || text.split_once('/').is_some_and(of_domain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> Result<BackendTlsPolicy, String> {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: p}}, spec: {{{spec}}}}}"
        );
        let read = BackendTlsPolicy::read(&Manifest::of(&text));
        read.map(|object| object.spec)
            .map_err(|error| error.to_string())
    }

    const TARGET: &str = "{group: '', kind: Service, name: s}";
    const SYSTEM: &str = "hostname: a.test, wellKnownCACertificates: System";

    #[test]
    fn what_is_asked_for() {
        let found = policy(&format!(
            "targetRefs: [{TARGET}], validation: {{hostname: a.test, caCertificateRefs: [{{group: '', kind: ConfigMap, name: c}}], \
              subjectAltNames: [{{type: Hostname, hostname: '*.b.test'}}, {{type: URI, uri: 'spiffe://a/b'}}]}}"
        ))
        .unwrap();
        assert_eq!(found.names, ["*.b.test", "spiffe://a/b"]);
        assert!(matches!(found.roots, PolicyRoots::Named(refs) if refs[0].name == "c"));
        let sections = "{group: '', kind: Service, name: s, sectionName: a}, {group: '', kind: Service, name: s, sectionName: b}";
        assert!(
            policy(&format!(
                "targetRefs: [{sections}], validation: {{{SYSTEM}}}"
            ))
            .is_ok()
        );
    }

    #[test]
    fn what_the_api_server_refuses_is_no_policy() {
        let of = |validation: &str| format!("targetRefs: [{TARGET}], validation: {{{validation}}}");
        for (spec, field) in [
            (
                format!("targetRefs: [], validation: {{{SYSTEM}}}"),
                "spec.targetRefs",
            ),
            (
                format!("targetRefs: [{TARGET}, {TARGET}], validation: {{{SYSTEM}}}"),
                "spec.targetRefs[1]",
            ),
            (
                format!(
                    "targetRefs: [{TARGET}, {{group: '', kind: Service, name: s, sectionName: a}}], validation: {{{SYSTEM}}}"
                ),
                "spec.targetRefs[1].sectionName",
            ),
            (of("hostname: a.test"), "spec.validation: must have"),
            (of("wellKnownCACertificates: System"), "hostname"),
            (
                of("hostname: '*.test', wellKnownCACertificates: System"),
                "spec.validation.hostname",
            ),
            (
                of("hostname: a.test, wellKnownCACertificates: Mine"),
                "spec.validation.wellKnownCACertificates",
            ),
            (
                of(&format!(
                    "{SYSTEM}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: c}}]"
                )),
                "spec.validation.wellKnownCACertificates",
            ),
            (
                of(&format!(
                    "{SYSTEM}, subjectAltNames: [{{type: URI, hostname: a}}]"
                )),
                "spec.validation.subjectAltNames[0].uri",
            ),
            (
                of(&format!(
                    "{SYSTEM}, subjectAltNames: [{{type: Hostname, hostname: a, uri: 'a://b'}}]"
                )),
                "spec.validation.subjectAltNames[0].uri",
            ),
            (of(&format!("{SYSTEM}, crl: a")), "crl"),
        ] {
            let error = policy(&spec).unwrap_err();
            assert!(error.contains(field), "{spec}: {error}");
        }
    }
}
