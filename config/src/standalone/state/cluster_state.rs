//! The objects of a set of manifests, by kind and name: what an API server would hold.
//!
//! Of two objects of one kind and name the later stands, as with `kubectl apply`, and the loss is named.
//! A broken object refuses the whole set, except a security object whose target can be told: that closes
//! its target.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Manifest, Object, ObjectMeta, ObjectName};
use crate::standalone::input::problem::{LoadError, Origin, Problem, Severity};
use crate::standalone::input::yaml::Document;
use crate::standalone::kinds::core::config_map::{MESH_CONFIG, MeshConfig};
use crate::standalone::kinds::core::config_map_fields;
use crate::standalone::kinds::core::endpoint_slice::EndpointSlice;
use crate::standalone::kinds::core::endpoints::Endpoints;
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::kinds::core::service::Service;
use crate::standalone::kinds::gateway_api::gateway::{Gateway, NAMESPACE_NAME};
use crate::standalone::kinds::gateway_api::http_route::HttpRoute;
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::kinds::target_ref::{self, Target};
use crate::standalone::kinds::{self, Treatment, known_fields};

type Objects<T> = BTreeMap<ObjectName, Object<T>>;

/// Everything that the manifests say.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pub namespaces: BTreeMap<String, ObjectMeta>,
    /// Where the namespaces stand.
    pub namespace_origins: BTreeMap<String, Origin>,
    pub nodes: BTreeMap<String, ObjectMeta>,
    pub pods: Objects<Pod>,
    pub services: Objects<Service>,
    pub endpoint_slices: Objects<EndpointSlice>,
    /// Names of the slices of each service.
    slices_of: BTreeMap<ObjectName, Vec<ObjectName>>,
    pub endpoints: Objects<Endpoints>,
    pub service_entries: Objects<ServiceEntry>,
    pub gateways: Objects<Gateway>,
    pub gateway_classes: BTreeMap<String, ObjectMeta>,
    pub http_routes: Objects<HttpRoute>,
    pub policies: Objects<AuthorizationPolicy>,
    /// Absent without the ConfigMap.
    pub mesh_config: Option<MeshConfig>,
    pub closures: Vec<Closure>,
    /// What says nothing to a waypoint.
    pub for_others: Vec<ForOthers>,
    pub problems: Vec<Problem>,
}

/// A security object that isn't honoured, and what it closes.
#[derive(Clone, Debug, PartialEq)]
pub struct Closure {
    pub targets: Vec<Target>,
    /// The object's own.
    pub namespace: String,
    /// Told once the targets are known to be the waypoint's own.
    pub problem: Problem,
}

/// An object, or a part of one, that says nothing to a waypoint.
#[derive(Clone, Debug, PartialEq)]
pub struct ForOthers {
    pub kind: &'static str,
    pub reason: &'static str,
    /// Its name, and which part of it.
    pub what: String,
}

impl ClusterState {
    pub fn read(documents: Vec<Document>) -> Result<ClusterState, LoadError> {
        let mut state = ClusterState::default();
        // Keyed without the version: versions of a kind are one kind.
        let mut latest: BTreeMap<(String, String, String, String), Manifest> = BTreeMap::new();
        for document in documents {
            let manifest = Manifest::read(document, kinds::namespaced)?;
            let treatment = treatment(&manifest)?;
            if treatment == Treatment::Unrelated {
                continue;
            }
            let key = (
                manifest.group.clone(),
                manifest.kind.clone(),
                manifest.meta.namespace.clone(),
                manifest.meta.name.clone(),
            );
            if let Some(replaced) = latest.insert(key.clone(), manifest)
                && let Some(stands) = latest.get(&key)
            {
                let reason = format!(
                    "replaced by the object of the same name in {}",
                    stands.origin
                );
                state
                    .problems
                    .push(replaced.problem(Severity::Ignored, "", reason));
            }
        }
        for manifest in latest.values() {
            if !matches!(treatment(manifest)?, Treatment::ForOthers(_)) {
                state.problems.extend(known_fields::unknown(manifest));
            }
            state.add(manifest)?;
        }
        Ok(state)
    }

    fn add(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let name = ObjectName::new(&manifest.meta.namespace, &manifest.meta.name);
        match treatment(manifest)? {
            Treatment::Namespace => self.add_namespace(manifest),
            Treatment::Node => {
                self.nodes.insert(name.name, manifest.meta.clone());
            }
            Treatment::GatewayClass => {
                self.gateway_classes
                    .insert(name.name, manifest.meta.clone());
            }
            Treatment::Pod => {
                self.pods.insert(name, Pod::read(manifest)?);
            }
            Treatment::Service => {
                self.services.insert(name, Service::read(manifest)?);
            }
            Treatment::EndpointSlice => self.add_slice(name, manifest)?,
            Treatment::Endpoints => {
                self.endpoints.insert(name, Endpoints::read(manifest)?);
            }
            Treatment::Gateway => {
                self.gateways.insert(name, Gateway::read(manifest)?);
            }
            Treatment::HttpRoute => {
                self.http_routes.insert(name, HttpRoute::read(manifest)?);
            }
            Treatment::ServiceEntry => match ServiceEntry::read(manifest)? {
                Ok(entry) => drop(self.service_entries.insert(name, entry)),
                Err(problem) => self.problems.push(problem),
            },
            Treatment::ConfigMap => self.add_config_map(manifest)?,
            Treatment::AuthorizationPolicy => self.add_policy(name, manifest),
            Treatment::Closes => self.add_closure(manifest),
            Treatment::Reported => {
                let reason = not_honoured(manifest);
                self.problems
                    .push(manifest.problem(Severity::Ignored, "", reason));
            }
            Treatment::ForOthers(reason) => {
                let kind = kinds::known_kind(&manifest.group, &manifest.kind);
                let what = name.to_string();
                let object = kind.map(|kind| ForOthers { kind, reason, what });
                self.for_others.extend(object);
            }
            Treatment::Unrelated => {}
        }
        Ok(())
    }

    fn add_namespace(&mut self, manifest: &Manifest) {
        let mut meta = manifest.meta.clone();
        let name = meta.name.clone();
        meta.labels.insert(NAMESPACE_NAME.to_owned(), name.clone());
        self.namespace_origins
            .insert(name.clone(), manifest.origin.clone());
        self.namespaces.insert(name, meta);
    }

    fn add_slice(&mut self, name: ObjectName, manifest: &Manifest) -> Result<(), LoadError> {
        let slice = EndpointSlice::read(manifest)?;
        if let Some(service) = &slice.spec.service {
            let service = ObjectName::new(&name.namespace, service);
            let slices = self.slices_of.entry(service).or_default();
            slices.push(name.clone());
        }
        self.endpoint_slices.insert(name, slice);
        Ok(())
    }

    fn add_config_map(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let meta = &manifest.meta;
        let data = manifest.body.get("data");
        if (meta.namespace.as_str(), meta.name.as_str()) == MESH_CONFIG {
            let (config, problems) = MeshConfig::read(manifest)?;
            self.mesh_config = Some(config);
            let others = config_map_fields::of_others(manifest).into_iter();
            self.for_others.extend(others.map(|setting| ForOthers {
                kind: "ConfigMap",
                reason: "settings of other parts of the mesh",
                what: format!("{}/{} {setting}", meta.namespace, meta.name),
            }));
            self.problems.extend(problems);
        } else if data.is_some_and(|data| data.get("mesh").is_some()) {
            let (namespace, name) = MESH_CONFIG;
            let reason =
                format!("settings of the mesh are only read from ConfigMap {namespace}/{name}");
            let problem = manifest.problem(Severity::NoEffect, "data.mesh", reason);
            self.problems.push(problem);
        }
        Ok(())
    }

    fn add_policy(&mut self, name: ObjectName, manifest: &Manifest) {
        match AuthorizationPolicy::read(manifest) {
            Ok(policy) if policy.spec.action == Action::Custom => {
                let reason = "the action CUSTOM is not honoured";
                let problem = manifest.problem(Severity::FailClosed, "spec.action", reason);
                self.close(manifest, policy.spec.targets, problem);
            }
            Ok(policy) => drop(self.policies.insert(name, policy)),
            Err(error) => self.add_broken(manifest, error),
        }
    }

    /// A security object that the API server would refuse: it closes what it targets, if that can be told.
    fn add_broken(&mut self, manifest: &Manifest, error: LoadError) {
        let field = error.field.unwrap_or_default();
        match target_ref::of_unknown(manifest) {
            Ok(targets) if !targets.is_empty() => {
                let problem = manifest.problem(Severity::Broken, field, error.reason);
                self.close(manifest, targets, problem);
            }
            // A misspelt `targetRefs` looks like none at all.
            _ => self
                .problems
                .push(manifest.problem(Severity::Fatal, field, error.reason)),
        }
    }

    fn add_closure(&mut self, manifest: &Manifest) {
        let Some(severity) = severity_of_closing_kind(manifest) else {
            return;
        };
        if let Err(error) = target_ref::check(manifest) {
            return self.add_broken(manifest, error);
        }
        match target_ref::of_unknown(manifest) {
            // With a selector, or with nothing: ztunnel's and sidecars' business.
            Ok(targets) if targets.is_empty() => {
                let reason = "without targetRefs a waypoint doesn't enforce it";
                self.problems
                    .push(manifest.problem(Severity::Ignored, "spec", reason));
            }
            Ok(_) if severity == Severity::Ignored => {
                let reason = not_honoured(manifest);
                self.problems.push(manifest.problem(severity, "", reason));
            }
            Ok(targets) => {
                let problem = manifest.problem(severity, "", not_honoured(manifest));
                self.close(manifest, targets, problem);
            }
            Err((field, reason)) => {
                self.problems
                    .push(manifest.problem(Severity::Fatal, field, reason));
            }
        }
    }

    fn close(&mut self, manifest: &Manifest, targets: Vec<Target>, problem: Problem) {
        let namespace = manifest.meta.namespace.clone();
        self.closures.push(Closure {
            targets,
            namespace,
            problem,
        });
    }

    /// The slices of a service.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Object<EndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.endpoint_slices.get(name))
    }

    /// Every namespace, and where it stands.
    pub fn namespaces_and_origins(&self) -> impl Iterator<Item = (&ObjectMeta, &Origin)> {
        self.namespaces
            .values()
            .zip(self.namespace_origins.values())
    }

    /// The mesh's settings; those of Istio's chart where the manifests give none.
    pub fn mesh(&self) -> MeshConfig {
        self.mesh_config
            .clone()
            .unwrap_or_else(MeshConfig::of_chart)
    }
}

fn not_honoured(manifest: &Manifest) -> String {
    let meant = kinds::meant(&manifest.group, &manifest.kind);
    format!("this kind is not honoured{meant}")
}

fn treatment(manifest: &Manifest) -> Result<Treatment, LoadError> {
    kinds::treatment(&manifest.group, &manifest.version, &manifest.kind)
        .map_err(|reason| manifest.refused("apiVersion", reason))
}

/// What happens to an object of a kind that may guard something. An extension that the user lets fail
/// open guards nothing, nor does an EnvoyFilter in which no guarding filter is named.
fn severity_of_closing_kind(manifest: &Manifest) -> Option<Severity> {
    const GUARDS: &[&str] = &[
        "rbac",
        "ext_authz",
        "jwt_authn",
        "oauth2",
        "basic_auth",
        "api_key_auth",
        "csrf",
        "ratelimit",
        "lua",
        "wasm",
        "ext_proc",
        "golang",
        "dynamic_modules",
        "credential",
    ];
    let spec = manifest.body.get("spec");
    match manifest.kind.as_str() {
        "EnvoyFilter" => {
            let text = spec
                .map(ToString::to_string)
                .unwrap_or_default()
                .to_ascii_lowercase();
            let guards = GUARDS.iter().any(|name| text.contains(name));
            Some(if guards {
                Severity::FailClosed
            } else {
                Severity::Ignored
            })
        }
        "WasmPlugin" | "TrafficExtension" => {
            let strategy = spec
                .and_then(|spec| spec.get("failStrategy"))
                .and_then(|value| value.as_str());
            Some(if strategy == Some("FAIL_OPEN") {
                Severity::Ignored
            } else {
                Severity::FailClosed
            })
        }
        _ => Some(Severity::FailClosed),
    }
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
            (
                "RequestAuthentication",
                "security.istio.io",
                "",
                Severity::FailClosed,
            ),
            ("Novelty", "security.istio.io", "", Severity::FailClosed),
            (
                "AuthorizationPolicy",
                "security.istio.io",
                ", action: CUSTOM, provider: {name: x}, rules: [{}]",
                Severity::FailClosed,
            ),
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
        let found = guard(
            "RequestAuthentication",
            "security.istio.io",
            "{selector: {}}",
        );
        assert_eq!((found.closures.len(), found.problems.len()), (0, 1));
        let found = guard("VirtualService", "networking.istio.io", "{}");
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
