//! From documents to the state of a cluster.
//!
//! Of two objects of one kind and name the later stands, as with `kubectl apply`, and the loss is named.
//! A broken object refuses the whole set, except a security object whose target can be told: that closes
//! its target.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Manifest, ObjectName};
use crate::standalone::input::problem::{LoadError, Severity};
use crate::standalone::input::yaml::Document;
use crate::standalone::kinds::known_fields;
use crate::standalone::state::cluster_state::{ClusterState, ForOthers};
use crate::standalone::state::policy_rules;
use crate::standalone::state::registry::{self, Treatment};

impl ClusterState {
    pub fn read(documents: Vec<Document>) -> Result<ClusterState, LoadError> {
        let (state, broken) = ClusterState::read_sound(documents);
        match broken.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }

    /// What there would be without the objects that refuse the set, and why they do.
    pub fn read_sound(documents: Vec<Document>) -> (ClusterState, Vec<LoadError>) {
        let mut state = ClusterState::default();
        let mut broken = Vec::new();
        let latest = state.latest(documents, &mut broken);
        for manifest in latest.values() {
            match treatment(manifest) {
                Ok(Treatment::ForOthers(_)) => {}
                _ => {
                    let known = registry::fields(&manifest.group, &manifest.kind);
                    let unknown = known_fields::unknown(manifest, known);
                    state.problems.extend(unknown);
                }
            }
            broken.extend(state.add(manifest).err());
        }
        state.allocate_addresses();
        state.policy_rules = policy_rules::of(&state);
        (state, broken)
    }

    /// Of each object the last, keyed without the version: versions of a kind are one kind.
    fn latest(
        &mut self,
        documents: Vec<Document>,
        broken: &mut Vec<LoadError>,
    ) -> BTreeMap<(String, String, String, String), Manifest> {
        let mut latest: BTreeMap<_, Manifest> = BTreeMap::new();
        for document in documents {
            let read = Manifest::read(document, registry::namespaced)
                .and_then(|manifest| Ok((treatment(&manifest)?, manifest)));
            let manifest = match read {
                Ok((Treatment::Unrelated, _)) => continue,
                Ok((_, manifest)) => manifest,
                Err(error) => {
                    broken.push(error);
                    continue;
                }
            };
            let key = (
                manifest.group.clone(),
                manifest.kind.clone(),
                manifest.meta.namespace.clone(),
                manifest.meta.name.clone(),
            );
            let origin = manifest.origin.clone();
            if let Some(replaced) = latest.insert(key, manifest) {
                let reason = format!("replaced by the object of the same name in {origin}");
                self.problems
                    .push(replaced.problem(Severity::Ignored, "", reason));
            }
        }
        latest
    }

    fn add(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        match treatment(manifest)? {
            Treatment::Kept(keep) => keep(self, manifest)?,
            Treatment::Closes(guards) => {
                let guards = guards(manifest.body.get("spec"));
                self.add_closure(manifest, guards, not_honoured(manifest));
            }
            Treatment::Reported => {
                let reason = not_honoured(manifest);
                self.problems
                    .push(manifest.problem(Severity::Ignored, "", reason));
            }
            Treatment::ForOthers(reason) => {
                let kind = registry::known_kind(&manifest.group, &manifest.kind);
                let name = ObjectName::new(&manifest.meta.namespace, &manifest.meta.name);
                let what = name.to_string();
                let object = kind.map(|kind| ForOthers { kind, reason, what });
                self.for_others.extend(object);
            }
            Treatment::Unrelated => {}
        }
        Ok(())
    }
}

fn not_honoured(manifest: &Manifest) -> String {
    let meant = registry::meant(&manifest.group, &manifest.kind);
    format!("this kind is not honoured{meant}")
}

fn treatment(manifest: &Manifest) -> Result<Treatment, LoadError> {
    registry::treatment(&manifest.group, &manifest.version, &manifest.kind)
        .map_err(|reason| manifest.refused("apiVersion", reason))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn state(text: &str) -> Result<ClusterState, LoadError> {
        ClusterState::read(documents(Path::new("a.yaml"), text).unwrap())
    }

    #[test]
    fn the_later_object_stands() {
        let found = state(
            "{apiVersion: v1, kind: Namespace, metadata: {name: it, labels: {a: '1'}}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: it, labels: {a: '2'}}}",
        )
        .unwrap();
        assert_eq!(found.namespaces["it"].label("a"), Some("2"));
        assert!(
            found.problems[0].reason.contains("document 2"),
            "{}",
            found.problems[0]
        );
    }

    fn guard(kind: &str, group: &str, spec: &str) -> ClusterState {
        state(&format!(
            "{{apiVersion: {group}/v1, kind: {kind}, metadata: {{name: g}}, spec: {spec}}}"
        ))
        .unwrap()
    }

    const TARGET: &str = "targetRefs: [{kind: Service, group: '', name: s}]";

    #[test]
    fn guards_close_what_they_target() {
        for (kind, group, rest, severity) in [
            ("Novelty", "security.istio.io", "", Severity::FailClosed),
            (
                "AuthorizationPolicy",
                "security.istio.io",
                ", rulez: []",
                Severity::Broken,
            ),
            (
                "RequestAuthentication",
                "security.istio.io",
                ", selector: {}",
                Severity::Broken,
            ),
            (
                "EnvoyFilter",
                "networking.istio.io",
                ", workloadSelector: {}",
                Severity::Broken,
            ),
            (
                "WasmPlugin",
                "extensions.istio.io",
                ", phase: AUTHN",
                Severity::FailClosed,
            ),
            (
                "EnvoyFilter",
                "networking.istio.io",
                ", configPatches: [{name: envoy.filters.http.ext_authz}]",
                Severity::FailClosed,
            ),
        ] {
            let found = guard(kind, group, &format!("{{{TARGET}{rest}}}"));
            assert_eq!(found.closures.len(), 1, "{kind}{rest}");
            assert_eq!(found.closures[0].problem.severity, severity, "{kind}{rest}");
            assert!(found.problems.is_empty() && found.policies.is_empty());
        }
    }

    #[test]
    fn a_guard_whose_target_cannot_be_told_is_fatal() {
        for spec in [
            "{targetRefz: []}",
            "{targetRefs: [{kind: Pod, name: x}]}",
            "[]",
            "{selector: {}, rulez: 1}",
            "{selector: {}, targetRefs: []}",
        ] {
            let found = guard("AuthorizationPolicy", "security.istio.io", spec);
            assert_eq!(found.problems[0].severity, Severity::Fatal, "{spec}");
            assert!(found.closures.is_empty() && found.policies.is_empty());
        }
        let found = guard(
            "RequestAuthentication",
            "security.istio.io",
            "{targetRefs: [{kind: Pod, name: x}]}",
        );
        assert_eq!(found.problems[0].severity, Severity::Fatal);
    }

    #[test]
    fn harmless_extensions_are_named_and_selectors_are_not_ours() {
        let found = guard(
            "WasmPlugin",
            "extensions.istio.io",
            &format!("{{{TARGET}, failStrategy: FAIL_OPEN}}"),
        );
        assert_eq!((found.closures.len(), found.problems.len()), (0, 1));
        let found = guard("WasmPlugin", "extensions.istio.io", "{selector: {}}");
        assert_eq!((found.closures.len(), found.problems.len()), (0, 1));
        let found = guard("ProxyConfig", "networking.istio.io", "{}");
        assert_eq!(found.problems[0].severity, Severity::Ignored);
    }

    #[test]
    fn what_is_misspelt_is_told() {
        for (text, field, reason) in [
            (
                "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selctor: {}, ports: [{port: 1}]}}",
                "spec.selctor",
                "unknown field; is \"selector\" meant?",
            ),
            (
                "{apiVersion: v1, kind: Service, metadata: {name: s, lables: {}}, spec: {ports: [{port: 1, targetport: 2}]}}",
                "spec.ports[0].targetport",
                "is \"targetPort\" meant?",
            ),
            (
                "{apiVersion: v1, kind: Namespace, metadata: {name: s, lables: {}}}",
                "metadata.lables",
                "is \"labels\" meant?",
            ),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {initContainer: []}}",
                "spec.initContainer",
                "is \"initContainers\" meant?",
            ),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio-canary, namespace: istio-system}, data: {mesh: ''}}",
                "data.mesh",
                "only read from ConfigMap istio-system/istio",
            ),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{accesLogFile: x}'}}",
                "data.mesh.accesLogFile",
                "is \"accessLogFile\" meant?",
            ),
            (
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{pathNormalization: {normalisation: NONE}}'}}",
                "data.mesh.pathNormalization.normalisation",
                "is \"normalization\" meant?",
            ),
            (
                "{apiVersion: gateway.networking.k8s.io/v1, kind: HttpRoute, metadata: {name: r}}",
                "",
                "not honoured; is \"HTTPRoute\" meant?",
            ),
        ] {
            let found = state(text).unwrap();
            let told = found.problems.iter().find(|problem| problem.field == field);
            let told = told.unwrap_or_else(|| panic!("{text}: {:?}", found.problems));
            assert!(told.reason.contains(reason), "{told}");
        }
        // What a kubelet or a newer API server adds is none of our business.
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, managedFields: []}, spec: {tolerations: [], brandNew: 1}}";
        assert!(state(pod).unwrap().problems.is_empty());
    }

    #[test]
    fn other_broken_objects_refuse_the_set() {
        let error = state(
            "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: y}]}}",
        )
        .unwrap_err();
        assert_eq!(error.resource.as_deref(), Some("Service default/s"));
        assert_eq!(error.field.as_deref(), Some("spec.ports[0].port"));
        let error = state("{apiVersion: v2, kind: Service, metadata: {name: s}}").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("apiVersion"));
    }
}
